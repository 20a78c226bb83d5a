//! Media that fail or lie while files are read, written and copied.

use super::{B, fresh, make, mount};
use fs::volume::{Volume, WriteOptions};
use fs::{Addr, BLOCK, FsError, Ino};
use zns::Lba;
use zns::sim::FaultPlan;

/// Where a block of a file lies.
fn place_of(volume: &Volume, file: Ino, block: u32) -> Lba {
    let extent = volume.map(file).expect("mapped").remove(0);
    let zone = zns::ZoneId(extent.zone.expect("written"));
    let first = (extent.zone_offset.expect("written") / B) as u32;
    volume.members().lba(Addr::new(zns::DeviceId(0), zone, first + block))
}

fn bytes(n: usize, stamp: u8) -> Vec<u8> {
    (0..n).map(|i| (i / 9) as u8 ^ stamp).collect()
}

#[test]
fn flipped_bits_are_found_and_counted() {
    let drive = fresh();
    let volume = mount(&drive, 2);
    let file = make(&volume, "a");
    volume.write(file, 0, &bytes(8 * BLOCK, 1), &WriteOptions::default()).expect("written");
    volume.sync().expect("synced");
    drive.flip_bit(place_of(&volume, file, 3), 100, 3);
    match volume.read(file, 0, 8 * BLOCK as u32) {
        Err(FsError::DataChecksum { ino, block, .. }) => assert_eq!((ino, block), (file, 3)),
        other => panic!("{other:?}"),
    }
    assert_eq!(volume.status().checks.checksum_errors, 1);
    volume.read(file, 4 * B, 4 * BLOCK as u32).expect("the rest is as it was");
    // Writing all of the block heals it; a part of it cannot be written, for the rest is not known.
    assert!(matches!(volume.write(file, 3 * B + 5, b"x", &WriteOptions::default()), Err(FsError::DataChecksum { .. })));
    volume.write(file, 3 * B, &bytes(BLOCK, 7), &WriteOptions::default()).expect("written");
    volume.read(file, 0, 8 * BLOCK as u32).expect("healed");
}

#[test]
fn a_block_that_cannot_be_read_is_an_error_of_the_device() {
    let drive = fresh();
    let volume = mount(&drive, 2);
    let file = make(&volume, "a");
    volume.write(file, 0, &bytes(8 * BLOCK, 1), &WriteOptions::default()).expect("written");
    volume.sync().expect("synced");
    drive.add_bad_block(place_of(&volume, file, 2));
    assert!(matches!(volume.read(file, 0, 4 * BLOCK as u32), Err(FsError::Device(_))));
    volume.read(file, 3 * B, BLOCK as u32).expect("its neighbour can be read");
    let copy = make(&volume, "b");
    assert_eq!(volume.copy_file_range(file, 0, copy, 0, 8 * B).expect("a short copy"), 2 * B);
    assert!(matches!(volume.copy_file_range(file, 2 * B, copy, 2 * B, 8 * B), Err(FsError::Device(_))));
}

#[test]
fn copies_that_the_device_refuses_or_breaks_off_arrive_all_the_same() {
    for plan in [
        FaultPlan { copy_refused: 0.3, ..FaultPlan::default() },
        FaultPlan { copy_partial: 0.5, ..FaultPlan::default() },
        FaultPlan { copy_refused: 1.0, ..FaultPlan::default() },
    ] {
        let drive = fresh();
        let volume = mount(&drive, 2);
        let (from, to) = (make(&volume, "a"), make(&volume, "b"));
        let content = bytes(600 * BLOCK, 3);
        volume.write(from, 0, &content, &WriteOptions::default()).expect("written");
        volume.sync().expect("synced");
        drive.set_faults(plan);
        let mut done = 0;
        while done < content.len() as u64 {
            let copied = volume.copy_file_range(from, done, to, done, 100 * B).expect("copied");
            assert!(copied > 0);
            done += copied;
        }
        drive.set_faults(FaultPlan::default());
        volume.sync().expect("synced");
        assert!(volume.read(to, 0, content.len() as u32).expect("read")[..] == content);
        drop(volume);
        drive.cut_power();
        drive.power_cycle();
        let volume = mount(&drive, 3);
        assert!(volume.read(to, 0, content.len() as u32).expect("read")[..] == content);
        assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
    }
}

#[test]
fn a_write_that_fails_goes_elsewhere() {
    let drive = fresh();
    let volume = mount(&drive, 2);
    let file = make(&volume, "a");
    volume.sync().expect("synced");
    drive.set_faults(FaultPlan { write_error: 0.1, ..FaultPlan::default() });
    let mut content = Vec::new();
    for i in 0..60u8 {
        let piece = bytes(5 * BLOCK, i);
        volume.write(file, content.len() as u64, &piece, &WriteOptions::default()).expect("written");
        content.extend_from_slice(&piece);
        if volume.sync().is_err() {
            break;
        }
        assert!(volume.read(file, 0, content.len() as u32).expect("read")[..] == content);
    }
}
