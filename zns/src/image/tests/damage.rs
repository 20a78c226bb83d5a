//! Images that were cut, flipped, torn or made by somebody else.

use super::super::format::{self, Header, ZONES_PER_BLOCK, seal_header};
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use zerocopy::FromBytes;

fn reason(path: &Path, read_only: bool) -> String {
    match ImageDevice::open(path, read_only) {
        Err(DeviceError::Unusable { reason, .. }) => reason,
        other => panic!("not unusable: {other:?}"),
    }
}

/// Changes bytes of the file under the device's feet.
fn scribble(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn change_header(path: &Path, copies: &[u64], change: impl Fn(&mut Header)) {
    for &offset in copies {
        let mut block = [0; META_BLOCK];
        File::open(path).unwrap().read_exact_at(&mut block, offset).unwrap();
        let mut header = *Header::ref_from_prefix(&block).unwrap().0;
        change(&mut header);
        scribble(path, offset, &seal_header(&header));
    }
}

#[test]
fn either_copy_of_the_header_is_enough_and_repairs_the_other() {
    let (_directory, path, image) = image(4096);
    drop(image);
    for copy in HEADER_OFFSETS {
        for damage in [&b"X"[..], &[0; META_BLOCK]] {
            scribble(&path, copy + 20 * u64::from(damage.len() == 1), damage);
            assert_eq!(ImageDevice::open(&path, true).unwrap().repairs().len(), 1);
            assert_eq!(crate::open::detect(&path).unwrap(), crate::open::Detected::Image);
            assert_eq!(ImageDevice::open(&path, false).unwrap().repairs().len(), 1);
            assert!(ImageDevice::open(&path, false).unwrap().repairs().is_empty());
        }
    }
}

#[test]
fn foreign_damaged_and_future_headers_are_told_apart() {
    let (_directory, path, image) = image(4096);
    drop(image);
    let both = HEADER_OFFSETS;
    change_header(&path, &both, |header| header.incompatible = (1 << 37).into());
    assert!(reason(&path, true).contains("bit 37"));
    change_header(&path, &both, |header| (header.incompatible, header.read_only_compatible) = (0.into(), 4.into()));
    assert!(reason(&path, false).contains("bit 2"));
    ImageDevice::open(&path, true).unwrap();
    change_header(&path, &both, |header| (header.read_only_compatible, header.compatible) = (0.into(), 1.into()));
    ImageDevice::open(&path, false).unwrap();
    change_header(&path, &both, |header| header.version = 2.into());
    assert!(reason(&path, true).contains("version 2"));
    change_header(&path, &both, |header| (header.version, header.zones) = (1.into(), 23.into()));
    assert!(reason(&path, true).contains("makes no sense"));
    change_header(&path, &both, |header| (header.zones, header.data_offset) = (64.into(), 0.into()));
    assert!(reason(&path, true).contains("zone table"));
    change_header(&path, &both, |header| header.data_offset = MIB.into());
    change_header(&path, &both[..1], |header| header.max_open = 1.into());
    assert!(reason(&path, true).contains("contradict"));
    both.iter().for_each(|&offset| scribble(&path, offset + 100, b"junk"));
    assert!(reason(&path, true).contains("damaged"));
    both.iter().for_each(|&offset| scribble(&path, offset, &[7; META_BLOCK]));
    assert!(reason(&path, true).contains("not a drive image"));
    std::fs::write(&path, b"short").unwrap();
    assert!(reason(&path, true).contains("not a drive image"));
    std::fs::write(&path, b"").unwrap();
    assert!(reason(&path, false).contains("not a drive image"));
}

#[test]
fn an_image_cut_short_is_refused_and_left_alone() {
    let (_directory, path, image) = image(4096);
    let whole = image.layout.file_bytes();
    drop(image);
    for length in [whole - 1, MIB, 70 << 10, 5000, META_BLOCK as u64] {
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let before = std::fs::read(&path).unwrap();
        for read_only in [true, false] {
            assert!(reason(&path, read_only).contains("cut short"));
        }
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

/// An image of two table blocks with data, flushed three times. Gives its layout.
fn used(path: &Path) -> Layout {
    let options = ImageOptions { size: 300 * MIB, zone_size: MIB, zone_capacity: None, ..small(4096) };
    let image = ImageDevice::create(path, &options).unwrap();
    for round in 0..3_u64 {
        for zone in [0, 3, ZONES_PER_BLOCK as u64] {
            write(&image, zone * 256 + round * 4, &bytes(16384, round as u8)).unwrap();
        }
        image.flush().unwrap();
    }
    image.layout.clone()
}

#[test]
fn a_torn_table_block_falls_back_to_its_older_copy_and_the_data_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let layout = used(&path);
    // The newest write of block 0 (sequence 3, slot 1) is torn in the middle.
    scribble(&path, layout.table_offset(0, 1) + 2048, &[0xEE; 2048]);
    for read_only in [true, false] {
        let image = ImageDevice::open(&path, read_only).unwrap();
        assert!(image.repairs()[0].contains("zones 0 to 253"), "{:?}", image.repairs());
        for zone_with_data in [0, 3] {
            let (state, written) = zone(&image, zone_with_data);
            assert_eq!((state, written), (ZoneState::Full, 256));
            let back = read(&image, u64::from(zone_with_data) * 256, 49152).unwrap();
            assert_eq!(&back[32768..], &bytes(16384, 2)[..], "data beyond the older write pointer is readable");
        }
        assert_eq!(zone(&image, 1), (ZoneState::Empty, 0));
        assert_eq!(zone(&image, ZONES_PER_BLOCK as u32), (ZoneState::Closed, 12));
    }
    // The last one repaired it.
    let image = ImageDevice::open(&path, false).unwrap();
    assert!(image.repairs().is_empty());
    image.manage(ZoneId(0), ZoneAction::Reset).unwrap();
    write(&image, 0, &bytes(4096, 1)).unwrap();
}

#[test]
fn a_table_block_lost_in_both_slots_is_rebuilt_from_the_data_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let layout = used(&path);
    for junk in [[0; META_BLOCK], [0x5A; META_BLOCK]] {
        scribble(&path, layout.table_offset(1, 0), &junk);
        scribble(&path, layout.table_offset(1, 1), &junk);
        let image = ImageDevice::open(&path, false).unwrap();
        assert!(image.repairs()[0].contains("zones 254 to 299"));
        assert_eq!(zone(&image, ZONES_PER_BLOCK as u32), (ZoneState::Full, 256));
        assert_eq!(zone(&image, ZONES_PER_BLOCK as u32 + 1), (ZoneState::Empty, 0));
        assert_eq!(zone(&image, 3), (ZoneState::Closed, 12));
        let back = read(&image, ZONES_PER_BLOCK as u64 * 256, 65536).unwrap();
        assert_eq!(&back[..16384], &bytes(16384, 0)[..]);
        assert!(back[49152..].iter().all(|&byte| byte == 0));
    }
}

/// Without it a table block that is torn later would have such data bound its zone.
#[test]
fn what_lies_behind_write_pointers_is_discarded_by_an_opening_for_writing_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let layout = used(&path);
    let place = |zone: u64, block: u64| layout.offset_of(zone * 256) + block * 4096;
    // Right behind a pointer, at the end of a zone, in neighbours, in the last zone.
    let behind = [(0, 12), (3, 255), (100, 0), (101, 7), (102, 255), (ZONES_PER_BLOCK as u64, 20), (299, 254)];
    for (zone, block) in behind {
        scribble(&path, place(zone, block), &[0xAB; 4096]);
    }
    let held = |zone: u64, block: u64| {
        let mut bytes = [0; 4096];
        File::open(&path).unwrap().read_exact_at(&mut bytes, place(zone, block)).unwrap();
        bytes
    };
    drop(ImageDevice::open(&path, true).unwrap());
    assert!(behind.iter().all(|&(zone, block)| held(zone, block) == [0xAB; 4096]), "who reads changes nothing");
    let image = ImageDevice::open(&path, false).unwrap();
    for (zone, block) in behind {
        assert!(held(zone, block) == [0; 4096], "zone {zone}, block {block}");
    }
    for used in [0, 3, ZONES_PER_BLOCK as u32] {
        assert_eq!(zone(&image, used), (ZoneState::Closed, 12));
        for round in 0..3u8 {
            let back = read(&image, u64::from(used) * 256 + u64::from(round) * 4, 16384).unwrap();
            assert_eq!(&back[..], &bytes(16384, round)[..]);
        }
    }
}

#[test]
fn what_was_flushed_survives_a_process_that_is_killed() {
    let (_directory, path, image) = image(4096);
    write(&image, 0, &bytes(16384, 1)).unwrap();
    image.flush().unwrap();
    write(&image, 4, &bytes(16384, 2)).unwrap();
    write(&image, 256, &bytes(16384, 3)).unwrap();
    // As after a kill: the descriptor goes, the table is not written.
    let copy = path.with_extension("killed");
    std::fs::copy(&path, &copy).unwrap();
    let after = ImageDevice::open(&copy, false).unwrap();
    assert_eq!(zone(&after, 0), (ZoneState::Closed, 4));
    assert_eq!(&read(&after, 0, 16384).unwrap()[..], &bytes(16384, 1)[..]);
    assert_eq!(zone(&after, 1), (ZoneState::Empty, 0));
    // What lies above the write pointers is not seen, also not by a finish, and is overwritten.
    after.manage(ZoneId(0), ZoneAction::Finish).unwrap();
    assert!(read(&after, 4, 16384).unwrap().iter().all(|&byte| byte == 0));
    write(&after, 256, &bytes(4096, 9)).unwrap();
    assert!(read(&after, 257, 4096).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn table_blocks_are_written_by_turns_and_only_when_dirty() {
    let (_directory, path, image) = image(4096);
    let slots = || {
        [0, 1].map(|slot| {
            let mut block = [0; META_BLOCK];
            File::open(&path).unwrap().read_exact_at(&mut block, image.layout.table_offset(0, slot)).unwrap();
            match format::decode_table(&block, 0, slot, 64, 192) {
                format::TableRead::Sound(sequence, _) => Some(sequence),
                _ => None,
            }
        })
    };
    assert_eq!(slots(), [Some(0), None]);
    image.flush().unwrap();
    assert_eq!(slots(), [Some(0), None]);
    for (round, expected) in [[Some(0), Some(1)], [Some(2), Some(1)], [Some(2), Some(3)]].into_iter().enumerate() {
        write(&image, round as u64, &bytes(4096, 1)).unwrap();
        image.flush().unwrap();
        assert_eq!(slots(), expected);
        image.flush().unwrap();
        assert_eq!(slots(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever bytes of header and table change, opening gives a device or a typed error, and a device works.
    #[test]
    fn no_damage_to_header_or_table_makes_it_panic(
        damage in prop::collection::vec((0..4_u32, any::<u64>(), any::<u8>(), 1..600_usize), 1..6),
        length in prop::option::weighted(0.1, 0..400_000_u64),
    ) {
        thread_local! {
            static TEMPLATE: (tempfile::TempDir, PathBuf, Layout) = {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image");
                let layout = used(&path);
                (directory, path, layout)
            };
        }
        TEMPLATE.with(|(directory, template, layout)| -> std::result::Result<(), TestCaseError> {
            let path = directory.path().join("damaged");
            // Header and table are all there is to damage: the data area stays a hole.
            let head = layout.table_offset(0, 2) as usize;
            let mut bytes = vec![0; head];
            File::open(template).unwrap().read_exact_at(&mut bytes, 0).unwrap();
            for &(place, at, xor, len) in &damage {
                let base = match place {
                    0 => 0,
                    1 => HEADER_OFFSETS[1] as usize,
                    _ => layout.table_offset(0, 0) as usize,
                };
                let span = if place < 2 { 120 } else { head - base };
                let start = base + at as usize % span;
                let end = (start + if xor & 1 == 0 { 1 } else { len }).min(head);
                bytes[start..end].iter_mut().for_each(|byte| *byte ^= xor);
            }
            std::fs::write(&path, &bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(length.unwrap_or(layout.file_bytes())).unwrap();
            for read_only in [true, false, false] {
                match ImageDevice::open(&path, read_only) {
                    Ok(image) => {
                        image.machine.self_check();
                        let zones = image.geometry().zones;
                        image.report(0..zones).unwrap();
                        for zone in [0, 3, zones - 1] {
                            let _ = read(&image, u64::from(zone) * 256, 4096);
                            let _ = image.manage(ZoneId(zone), ZoneAction::Reset);
                            let _ = write(&image, u64::from(zone) * 256, &super::bytes(4096, 1));
                        }
                        image.machine.self_check();
                    }
                    Err(DeviceError::Unusable { .. }) => {}
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
            Ok(())
        })?;
    }

    /// Any bytes at all, as header and as table block.
    #[test]
    fn decoders_take_any_bytes(block in prop::collection::vec(any::<u8>(), 0..5000), magic in any::<bool>()) {
        let mut block = block;
        if magic && block.len() > 8 {
            block[..8].copy_from_slice(&format::MAGIC);
        }
        format::decode_header(&block, false);
        format::decode_table(&block, 0, 0, 254, 100);
        format::decode_table(&block, 7, 1, 3, u64::MAX);
    }
}
