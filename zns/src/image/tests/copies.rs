//! The Copy command: each status code, the partial-failure rule, contents.

use super::*;
use crate::native_copy::{CopyFailure, CopyLimits, CopySource};
use crate::{Blocks, NvmeStatus as Status};

const LIMITS: CopyLimits = CopyLimits { mssrl: 16, mcl: 40, ranges: 4 };

fn drive(copy: CopyLimits) -> (tempfile::TempDir, ImageDevice) {
    let directory = tempfile::tempdir().unwrap();
    let options = ImageOptions { copy: Some(copy), ..small(4096) };
    let image = ImageDevice::create(directory.path().join("image"), &options).unwrap();
    write(&image, 0, &bytes(64 * 4096, 1)).unwrap();
    write(&image, 256, &bytes(64 * 4096, 2)).unwrap();
    (directory, image)
}

fn source(lba: u64, blocks: u64) -> CopySource {
    CopySource { lba: Lba(lba), blocks: Blocks(blocks) }
}

fn copy(image: &ImageDevice, sources: &[(u64, u64)], target: u64) -> std::result::Result<(), CopyFailure> {
    let sources: Vec<CopySource> = sources.iter().map(|&(lba, blocks)| source(lba, blocks)).collect();
    image.native_copy().unwrap().copy(&sources, Lba(target))
}

fn failure(status: Status, first_failed: u32, do_not_retry: bool) -> std::result::Result<(), CopyFailure> {
    Err(CopyFailure { status, first_failed, do_not_retry })
}

#[test]
fn ranges_are_gathered_in_order() {
    for (kernel, block_size) in [(true, 4096), (false, 4096), (true, 512), (false, 512)] {
        let directory = tempfile::tempdir().unwrap();
        let image = ImageDevice::create(directory.path().join("image"), &small(block_size)).unwrap();
        if !kernel {
            image.backing.pretend_no_copies();
        }
        let (block, zone_blocks) = (block_size as usize, image.geometry().zone_size.0);
        write(&image, 0, &bytes(64 * block, 1)).unwrap();
        write(&image, zone_blocks, &bytes(64 * block, 2)).unwrap();
        let target = 2 * zone_blocks;
        copy(&image, &[(5, 3), (zone_blocks + 60, 4), (0, 1)], target).unwrap();
        let back = read(&image, target, 9 * block).unwrap();
        assert_eq!(&back[..3 * block], &bytes(64 * block, 1)[5 * block..8 * block]);
        assert_eq!(&back[3 * block..7 * block], &bytes(64 * block, 2)[60 * block..64 * block]);
        assert_eq!(&back[7 * block..8 * block], &bytes(64 * block, 1)[..block]);
        assert_eq!(back[8 * block..], vec![0; block]);
        assert_eq!(zone(&image, 2), (ZoneState::ImplicitOpen, 8));
        assert_eq!(image.copied_bytes(), 8 * u64::from(block_size));
        // Onward from the write pointer, until the zone is full.
        let capacity = image.geometry().zone_capacity.0;
        let mut at = 8;
        while at < capacity {
            let blocks = (capacity - at).min(64);
            copy(&image, &[(0, blocks)], target + at).unwrap();
            at += blocks;
        }
        assert_eq!(zone(&image, 2), (ZoneState::Full, capacity));
    }
}

#[test]
fn limits_are_those_of_the_command() {
    let (_directory, image) = drive(LIMITS);
    assert_eq!(image.native_copy().unwrap().limits(), LIMITS);
    assert!(image.native_copy().unwrap().simulated());
    let too_much = failure(Status::SIZE_LIMIT, 0, true);
    assert_eq!(copy(&image, &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)], 512), too_much);
    assert_eq!(copy(&image, &[(0, 16), (16, 16), (32, 9)], 512), too_much);
    assert_eq!(copy(&image, &[(0, u64::MAX), (1, 2)], 512), too_much);
    assert_eq!(copy(&image, &[(0, 17)], 512), too_much);
    assert_eq!(copy(&image, &[], 512), failure(Status::INVALID_FIELD, 0, true));
    assert_eq!(copy(&image, &[(0, 0)], 512), failure(Status::INVALID_FIELD, 0, true));
    assert_eq!(zone(&image, 2).1, 0);
    copy(&image, &[(0, 16), (16, 16), (32, 7), (1, 1)], 512).unwrap();
    assert_eq!(zone(&image, 2).1, 40);
}

#[test]
fn a_drive_with_a_limit_of_zero_takes_no_copy() {
    for limits in [CopyLimits { mssrl: 0, ..LIMITS }, CopyLimits { mcl: 0, ..LIMITS }, CopyLimits { ranges: 0, ..LIMITS }] {
        let (_directory, image) = drive(limits);
        assert_eq!(copy(&image, &[(0, 1)], 512), failure(Status::SIZE_LIMIT, 0, true));
        assert_eq!(zone(&image, 2), (ZoneState::Empty, 0));
    }
}

#[test]
fn a_failure_leaves_earlier_ranges_copied_and_names_the_failed_one() {
    let end = 64 * 256;
    let cases = [
        ((0, 17), Status::SIZE_LIMIT, true),
        ((end - 1, 2), Status::LBA_OUT_OF_RANGE, true),
        ((u64::MAX, 1), Status::LBA_OUT_OF_RANGE, true),
        ((255, 2), Status::ZONE_BOUNDARY, false),
        ((63 * 256, 1), Status::ZONE_OFFLINE, false),
    ];
    for (bad, status, do_not_retry) in cases {
        let (_directory, image) = drive(LIMITS);
        image.retire(ZoneId(63), ZoneState::Offline).unwrap();
        assert_eq!(copy(&image, &[(0, 4), (256, 4), bad, (8, 4)], 512), failure(status, 2, do_not_retry));
        assert_eq!(zone(&image, 2), (ZoneState::ImplicitOpen, 8), "{status}");
        let back = read(&image, 512, 9 * 4096).unwrap();
        assert_eq!(&back[..4 * 4096], &bytes(64 * 4096, 1)[..4 * 4096]);
        assert_eq!(&back[4 * 4096..8 * 4096], &bytes(64 * 4096, 2)[..4 * 4096]);
        assert_eq!(back[8 * 4096..], [0; 4096]);
        image.machine.self_check();
    }
}

#[test]
fn targets_are_refused_as_a_drive_refuses_them() {
    let (_directory, image) = drive(LIMITS);
    // Not at the write pointer: the zone is left open.
    assert_eq!(copy(&image, &[(0, 1)], 513), failure(Status::ZONE_INVALID_WRITE, 0, false));
    assert_eq!(zone(&image, 2), (ZoneState::ImplicitOpen, 0));
    assert_eq!(copy(&image, &[(0, 1)], 64 * 256), failure(Status::LBA_OUT_OF_RANGE, 0, true));
    assert_eq!(copy(&image, &[(0, 1)], u64::MAX), failure(Status::LBA_OUT_OF_RANGE, 0, true));
    // Past the capacity of 192 blocks: the first range fits, the second does not.
    write(&image, 512, &bytes(180 * 4096, 3)).unwrap();
    assert_eq!(copy(&image, &[(0, 10), (10, 3)], 692), failure(Status::ZONE_BOUNDARY, 1, false));
    assert_eq!(zone(&image, 2).1, 190);
    copy(&image, &[(0, 2)], 702).unwrap();
    assert_eq!(zone(&image, 2), (ZoneState::Full, 192));
    assert_eq!(copy(&image, &[(0, 1)], 512), failure(Status::ZONE_FULL, 0, false));
    assert_eq!(copy(&image, &[(0, 1)], 704), failure(Status::ZONE_FULL, 0, false));
    image.retire(ZoneId(3), ZoneState::ReadOnly).unwrap();
    assert_eq!(copy(&image, &[(0, 1)], 768), failure(Status::ZONE_READ_ONLY, 0, false));
    image.retire(ZoneId(3), ZoneState::Offline).unwrap();
    assert_eq!(copy(&image, &[(0, 1)], 768), failure(Status::ZONE_OFFLINE, 0, false));
    for zone in 4..8 {
        image.manage(ZoneId(zone), ZoneAction::Open).unwrap();
    }
    assert_eq!(copy(&image, &[(0, 1)], 8 * 256), failure(Status::TOO_MANY_ACTIVE, 0, true));
    image.machine.self_check();
}

#[test]
fn explicitly_open_zones_are_never_closed_for_a_copy() {
    let (_directory, image) = drive(LIMITS);
    for zone in 4..8 {
        image.manage(ZoneId(zone), ZoneAction::Open).unwrap();
    }
    image.manage(ZoneId(0), ZoneAction::Finish).unwrap();
    image.manage(ZoneId(1), ZoneAction::Finish).unwrap();
    assert_eq!(copy(&image, &[(0, 1)], 512), failure(Status::TOO_MANY_OPEN, 0, false));
}

#[test]
fn unwritten_blocks_are_copied_as_zeros_whatever_the_file_holds() {
    for holes in [true, false] {
        let (_directory, image) = drive(LIMITS);
        if !holes {
            image.backing.pretend_no_holes();
        }
        // Left over from before an unclean end, above the write pointers of source and target.
        for lba in [64, 65, 512, 513, 514, 515] {
            image.backing.write(image.layout.offset_of(lba), &[0xAA; 4096]).unwrap();
        }
        copy(&image, &[(62, 4)], 512).unwrap();
        let back = read(&image, 512, 4 * 4096).unwrap();
        assert_eq!(&back[..8192], &bytes(64 * 4096, 1)[62 * 4096..]);
        assert_eq!(back[8192..], [0; 8192]);
    }
}

#[test]
fn a_copy_that_the_file_cannot_hold_is_a_write_fault() {
    let (_directory, mut image) = drive(LIMITS);
    // Every write and copy fails: the descriptor cannot write.
    image.backing = Backing::new(File::open(&image.path).unwrap());
    assert_eq!(copy(&image, &[(0, 4)], 512), failure(Status::WRITE_FAULT, 0, false));
    assert_eq!(zone(&image, 2).1, 0);
    std::mem::forget(image);
}

#[test]
fn an_image_opened_for_reading_copies_nothing() {
    let (directory, image) = drive(LIMITS);
    drop(image);
    let image = ImageDevice::open(directory.path().join("image"), true).unwrap();
    assert_eq!(copy(&image, &[(0, 1)], 512), failure(Status::WRITE_FAULT, 0, false));
}

#[test]
fn copies_into_different_zones_run_side_by_side() {
    let (_directory, _path, image) = image(4096);
    write(&image, 0, &bytes(192 * 4096, 1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let image = &image;
            scope.spawn(move || {
                for target in (4 + thread..48).step_by(4) {
                    for piece in 0..12 {
                        copy(image, &[(piece * 16, 8), (piece * 16 + 8, 8)], target * 256 + piece * 16).unwrap();
                    }
                    assert!(read(image, target * 256, 192 * 4096).unwrap()[..] == bytes(192 * 4096, 1)[..]);
                }
            });
        }
    });
    image.machine.self_check();
}
