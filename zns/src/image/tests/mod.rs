//! The image as a drive.

mod copies;
mod damage;
mod model;

use super::*;
use crate::units::Blocks;
use std::os::unix::fs::MetadataExt;

const MIB: u64 = 1 << 20;

/// 64 zones of 1 MiB with a capacity of 3/4, four open and six active.
fn small(block_size: u32) -> ImageOptions {
    ImageOptions {
        size: 64 * MIB,
        zone_size: MIB,
        zone_capacity: Some(MIB / 4 * 3),
        block_size,
        max_open: 4,
        max_active: 6,
        ..ImageOptions::default()
    }
}

fn image(block_size: u32) -> (tempfile::TempDir, PathBuf, ImageDevice) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let image = ImageDevice::create(&path, &small(block_size)).unwrap();
    (directory, path, image)
}

/// No byte is zero, and neighbouring pieces differ.
fn bytes(len: usize, seed: u8) -> BufSlice {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = 1 | seed.wrapping_add((at / 512) as u8));
    BufSlice::whole(buf)
}

fn write(image: &ImageDevice, lba: u64, data: &BufSlice) -> Result<()> {
    image.write(Lba(lba), vec![data.clone()], IoClass::Foreground)
}

fn read(image: &ImageDevice, lba: u64, len: usize) -> Result<AlignedBuf> {
    image.read(Lba(lba), AlignedBuf::zeroed(len), IoClass::Foreground)
}

fn zone(image: &ImageDevice, zone: u32) -> (ZoneState, u64) {
    let info = image.report(zone..zone + 1).unwrap()[0];
    (info.state, info.written.0)
}

fn status<T: std::fmt::Debug>(result: Result<T>) -> crate::NvmeStatus {
    match result {
        Err(DeviceError::Zone { status, .. }) => status,
        other => panic!("not refused by the zone: {other:?}"),
    }
}

#[test]
fn what_is_written_is_read_back_also_after_reopening() {
    for block_size in [512, 4096] {
        let (_directory, path, image) = image(block_size);
        let zone_size = image.geometry().zone_size.0;
        let blocks = 16384 / u64::from(block_size);
        let data = bytes(16384, 7);
        write(&image, zone_size, &data).unwrap();
        assert_eq!(&read(&image, zone_size, 16384).unwrap()[..], &data[..]);
        assert!(read(&image, zone_size + blocks, 4096).unwrap().iter().all(|&byte| byte == 0));
        drop(image);
        let image = ImageDevice::open(&path, true).unwrap();
        assert_eq!(zone(&image, 1), (ZoneState::Closed, blocks));
        assert_eq!(&read(&image, zone_size, 16384).unwrap()[..], &data[..]);
        assert!(image.repairs().is_empty());
    }
}

#[test]
fn writes_are_refused_with_the_status_of_a_drive() {
    use crate::NvmeStatus as Status;
    let (_directory, _path, image) = image(4096);
    let (size, capacity) = (256, 192);
    let block = bytes(4096, 1);
    let ahead = write(&image, 1, &block);
    assert!(matches!(ahead, Err(DeviceError::NotAtWritePointer { write_pointer: Lba(0), .. })));
    write(&image, 0, &block).unwrap();
    assert!(matches!(write(&image, 0, &block), Err(DeviceError::NotAtWritePointer { write_pointer: Lba(1), .. })));
    assert_eq!(status(write(&image, 1, &bytes(4096 * 192, 0))), Status::ZONE_BOUNDARY);
    write(&image, 1, &bytes(4096 * 191, 0)).unwrap();
    assert_eq!(zone(&image, 0), (ZoneState::Full, capacity));
    assert_eq!(status(write(&image, capacity, &block)), Status::ZONE_FULL);
    image.retire(ZoneId(1), ZoneState::ReadOnly).unwrap();
    assert_eq!(status(write(&image, size, &block)), Status::ZONE_READ_ONLY);
    assert!(read(&image, size, 4096).is_ok());
    image.retire(ZoneId(1), ZoneState::Offline).unwrap();
    assert_eq!(status(write(&image, size, &block)), Status::ZONE_OFFLINE);
    assert_eq!(status(read(&image, size, 4096)), Status::ZONE_OFFLINE);
    for action in [ZoneAction::Open, ZoneAction::Close, ZoneAction::Finish, ZoneAction::Reset] {
        assert_eq!(status(image.manage(ZoneId(1), action)), Status::INVALID_TRANSITION);
    }
    let bad = |result: Result<()>| matches!(result, Err(DeviceError::BadRange { .. }));
    assert!(bad(write(&image, 64 * size, &block)) && bad(write(&image, u64::MAX, &block)));
    assert!(bad(write(&image, 2 * size, &bytes(100, 0))) && bad(image.write(Lba(2 * size), Vec::new(), IoClass::Log)));
    assert!(bad(read(&image, size - 1, 8192).map(drop)) && bad(read(&image, 64 * size, 4096).map(drop)));
    assert!(bad(image.manage(ZoneId(64), ZoneAction::Reset)) && bad(image.manage(ZoneId(u32::MAX), ZoneAction::Reset)));
    assert!(image.report(60..65).is_err() && image.report(64..64).unwrap().is_empty());
    image.machine.self_check();
}

#[test]
fn the_open_limit_closes_another_zone_and_the_active_limit_refuses() {
    let (_directory, _path, image) = image(4096);
    let block = bytes(4096, 1);
    for zone in 0..6 {
        write(&image, zone * 256, &block).unwrap();
        image.machine.self_check();
    }
    let states = image.report(0..6).unwrap().iter().map(|zone| zone.state).collect::<Vec<_>>();
    assert_eq!(states[..2], [ZoneState::Closed; 2]);
    assert_eq!(states[2..], [ZoneState::ImplicitOpen; 4]);
    assert_eq!(status(write(&image, 6 * 256, &block)), crate::NvmeStatus::TOO_MANY_ACTIVE);
    assert_eq!(status(image.manage(ZoneId(6), ZoneAction::Open)), crate::NvmeStatus::TOO_MANY_ACTIVE);
    assert_eq!(zone(&image, 6), (ZoneState::Empty, 0));
    // A closed zone opens again at the expense of the oldest.
    write(&image, 1, &block).unwrap();
    assert_eq!((zone(&image, 0).0, zone(&image, 2).0), (ZoneState::ImplicitOpen, ZoneState::Closed));
    for zone in 0..4 {
        image.manage(ZoneId(zone), ZoneAction::Open).unwrap();
    }
    assert_eq!(status(write(&image, 4 * 256 + 1, &block)), crate::NvmeStatus::TOO_MANY_OPEN);
    image.manage(ZoneId(0), ZoneAction::Finish).unwrap();
    write(&image, 4 * 256 + 1, &block).unwrap();
    // The finished zone gave up its place among the active ones, and zone 4 (implicitly open) can be closed for another.
    write(&image, 6 * 256, &block).unwrap();
    assert_eq!(zone(&image, 4).0, ZoneState::Closed);
    assert_eq!(status(write(&image, 7 * 256, &block)), crate::NvmeStatus::TOO_MANY_ACTIVE);
    image.manage(ZoneId(5), ZoneAction::Reset).unwrap();
    write(&image, 7 * 256, &block).unwrap();
    image.machine.self_check();
}

#[test]
fn a_finished_zone_keeps_its_data_and_reads_zeros_behind_it() {
    let (_directory, path, image) = image(4096);
    write(&image, 0, &bytes(8192, 3)).unwrap();
    image.manage(ZoneId(0), ZoneAction::Finish).unwrap();
    assert_eq!(zone(&image, 0), (ZoneState::Full, 192));
    drop(image);
    let image = ImageDevice::open(&path, false).unwrap();
    assert_eq!(zone(&image, 0), (ZoneState::Full, 192));
    let back = read(&image, 0, 16384).unwrap();
    assert_eq!(&back[..8192], &bytes(8192, 3)[..]);
    assert!(back[8192..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_reset_keeps_the_file_sparse() {
    let (_directory, path, image) = image(4096);
    let used = || std::fs::metadata(&path).unwrap().blocks() * 512;
    let young = used();
    assert!(young < MIB / 2, "a new image is sparse: {young}");
    for zone in 0..16 {
        write(&image, zone * 256, &bytes(768 << 10, zone as u8)).unwrap();
    }
    image.flush().unwrap();
    assert!(used() >= 12 * MIB);
    for zone in 0..16 {
        image.manage(ZoneId(zone), ZoneAction::Reset).unwrap();
    }
    image.flush().unwrap();
    assert!(used() < young + MIB / 4);
    assert!(read(&image, 0, 768 << 10).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn a_reset_zone_reads_zeros_where_the_file_system_knows_no_holes() {
    let (_directory, _path, image) = image(4096);
    image.backing.pretend_no_holes();
    write(&image, 0, &bytes(65536, 3)).unwrap();
    image.manage(ZoneId(0), ZoneAction::Reset).unwrap();
    assert!(read(&image, 0, 65536).unwrap().iter().all(|&byte| byte == 0));
    write(&image, 0, &bytes(4096, 9)).unwrap();
    assert!(read(&image, 1, 61440).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn a_hundred_thousand_zones_take_little_space_and_all_work() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let options = ImageOptions { size: 100_000 * MIB, zone_size: MIB, ..ImageOptions::default() };
    let image = ImageDevice::create(&path, &options).unwrap();
    write(&image, 99_999 * 256, &bytes(4096, 5)).unwrap();
    drop(image);
    let image = ImageDevice::open(&path, false).unwrap();
    assert_eq!(image.geometry().zones, 100_000);
    assert_eq!(zone(&image, 99_999), (ZoneState::Closed, 1));
    assert_eq!(image.report(0..100_000).unwrap().iter().filter(|zone| zone.state == ZoneState::Empty).count(), 99_999);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 8 * MIB);
}

#[test]
fn shapes_at_the_limits_are_made_and_beyond_them_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let make = |change: &dyn Fn(&mut ImageOptions)| {
        let mut options = ImageOptions { overwrite: true, ..small(4096) };
        change(&mut options);
        ImageDevice::create(&path, &options).map(drop).map_err(|error| error.to_string())
    };
    make(&|options| (options.size, options.zone_size, options.zone_capacity) = (48 << 30, 2 << 30, None)).unwrap();
    make(&|options| (options.max_open, options.max_active) = (0, 0)).unwrap();
    make(&|options| (options.max_open, options.max_active) = (0, 6)).unwrap();
    type Change<'a> = &'a dyn Fn(&mut ImageOptions);
    let refused: [(Change<'_>, &str); 8] = [
        (&|options| options.size = 63 * MIB, "too small"),
        (&|options| options.zone_size = 4 * MIB, "24 to 100000"),
        (&|options| options.size = 100_001 * MIB, "24 to 100000"),
        (&|options| options.zone_size = 4 << 30, "1 MiB to 2 GiB"),
        (&|options| options.zone_size = 0, "1 MiB to 2 GiB"),
        (&|options| options.zone_capacity = Some(2 * MIB), "does not fit"),
        (&|options| options.block_size = 1024, "512 or 4096"),
        (&|options| options.max_open = 7, "active"),
    ];
    for (change, word) in refused {
        let reason = make(change).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn creation_replaces_nothing_unasked_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, b"precious").unwrap();
    assert_eq!(ImageDevice::create(&path, &small(4096)).unwrap_err().errno(), libc::EEXIST);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let image = ImageDevice::create(&path, &ImageOptions { overwrite: true, ..small(4096) }).unwrap();
    let again = ImageOptions { overwrite: true, ..small(4096) };
    assert!(matches!(ImageDevice::create(&path, &again), Err(DeviceError::Busy { .. })));
    drop(image);
    let missing = directory.path().join("nowhere").join("image");
    assert_eq!(ImageDevice::create(&missing, &small(4096)).unwrap_err().errno(), libc::ENOENT);
    // A file larger than any file system takes: what was made is taken away again.
    let huge = directory.path().join("huge");
    let options = ImageOptions { size: 100_000 << 31, zone_size: 2 << 30, zone_capacity: None, ..small(4096) };
    if ImageDevice::create(&huge, &options).is_err() {
        assert!(!huge.exists());
    }
}

#[test]
fn an_image_opened_for_reading_takes_no_writes() {
    let (_directory, path, image) = image(4096);
    drop(image);
    let image = ImageDevice::open(&path, true).unwrap();
    assert_eq!(write(&image, 0, &bytes(4096, 0)).unwrap_err().errno(), libc::EROFS);
    assert_eq!(image.manage(ZoneId(0), ZoneAction::Open).unwrap_err().errno(), libc::EROFS);
    assert_eq!(image.retire(ZoneId(0), ZoneState::Offline).unwrap_err().errno(), libc::EROFS);
    image.flush().unwrap();
}

#[test]
fn a_file_that_cannot_grow_fails_the_write_and_holds_the_write_pointer() {
    let (_directory, _path, mut image) = image(4096);
    write(&image, 0, &bytes(8192, 1)).unwrap();
    let limit = image.layout.offset_of(6);
    image.backing.pretend_full_beyond(limit);
    let failed = write(&image, 2, &bytes(65536, 2));
    assert!(matches!(failed, Err(DeviceError::Io { lba: Lba(2), errno: libc::ENOSPC })), "{failed:?}");
    assert_eq!(zone(&image, 0), (ZoneState::ImplicitOpen, 6));
    assert_eq!(&read(&image, 2, 16384).unwrap()[..], &bytes(65536, 2)[..16384]);
    assert_eq!(write(&image, 6, &bytes(4096, 2)).unwrap_err().errno(), libc::ENOSPC);
    assert_eq!(zone(&image, 0), (ZoneState::ImplicitOpen, 6));
}

#[test]
fn batches_complete_in_order_and_each_ticket_once() {
    let (_directory, _path, image) = image(4096);
    let data = bytes(4096, 8);
    let batch = vec![
        Io::Write { lba: Lba(0), data: vec![data.clone()] },
        Io::Write { lba: Lba(5), data: vec![data.clone()] },
        Io::Write { lba: Lba(1), data: vec![data.clone(), data.clone()] },
        Io::Read { lba: Lba(2), buf: AlignedBuf::zeroed(4096) },
    ];
    let ticket = image.submit(batch, IoClass::Log).unwrap();
    let number = ticket.0;
    let results = image.complete(ticket);
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok());
    assert_eq!(&results[3].as_ref().unwrap().as_ref().unwrap()[..], &data[..]);
    assert!(image.complete(Ticket(number)).is_empty());
}

#[test]
fn threads_on_zones_of_their_own_agree_with_one_another() {
    let (_directory, path, image) = image(4096);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let image = &image;
            scope.spawn(move || {
                for round in 0..3_u8 {
                    for zone in (thread..24).step_by(4) {
                        let start = zone * 256;
                        for piece in 0..6_u8 {
                            let data = bytes(32 * 4096, zone as u8 ^ piece.wrapping_mul(31) ^ round);
                            write(image, start + u64::from(piece) * 32, &data).unwrap();
                        }
                        for piece in 0..6_u8 {
                            let data = bytes(32 * 4096, zone as u8 ^ piece.wrapping_mul(31) ^ round);
                            assert!(read(image, start + u64::from(piece) * 32, 32 * 4096).unwrap()[..] == data[..]);
                        }
                        image.flush().unwrap();
                        if round < 2 {
                            image.manage(ZoneId(zone as u32), ZoneAction::Reset).unwrap();
                        }
                    }
                }
            });
        }
    });
    image.machine.self_check();
    drop(image);
    let image = ImageDevice::open(&path, false).unwrap();
    for zone_number in 0..24 {
        assert_eq!(zone(&image, zone_number), (ZoneState::Full, 192));
    }
}
