//! Copies of byte ranges: between plain files, into zones, refused, stopped, failing.

use super::{Lab, ZONE_BYTES, config};
use crate::{BytePosition, ByteRange, Copier, CopyError, Ending, EngineConfig, Pace, RangeCopy, RangeError, Road, RouteChoice, VerifyMode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zns::raw::{RawOptions, open_raw};
use zns::sim::{Fault, SimConfig};
use zns::{Blocks, CopyLimits, DeviceId, Lba, NvmeStatus, ZonedDevice};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len / 8)
        .flat_map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xff51_afd7_ed55_8ccd)).to_le_bytes())
        .collect()
}

/// Two files, each of two zones and a bit.
struct Files {
    _directory: tempfile::TempDir,
    paths: [PathBuf; 2],
    before: [Vec<u8>; 2],
}

fn files() -> Files {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["from", "to"].map(|name| directory.path().join(name));
    let before = [pattern(1, 33 * MIB), pattern(2, 33 * MIB)];
    for (path, bytes) in paths.iter().zip(&before) {
        std::fs::write(path, bytes).unwrap();
    }
    Files { _directory: directory, paths, before }
}

fn open(path: &Path) -> Arc<dyn ZonedDevice> {
    open_raw(path, &RawOptions::default()).unwrap()
}

fn copier(files: &Files, config: EngineConfig) -> Copier {
    Copier::new(files.paths.iter().map(|path| open(path)).collect(), config).unwrap()
}

fn range(device: u8, offset: u64, length: u64) -> ByteRange {
    ByteRange { device: DeviceId(device), offset, length }
}

fn copy(sources: &[ByteRange], device: u8, offset: u64) -> RangeCopy {
    RangeCopy { sources: sources.to_vec(), target: BytePosition { device: DeviceId(device), offset }, pace: None }
}

#[test]
fn ranges_land_one_behind_the_other_and_nothing_else_changes() {
    let files = files();
    let copier = copier(&files, EngineConfig { verify: VerifyMode::Full, ..EngineConfig::default() });
    let sources = [range(0, 20 * MIB, 3 * MIB), range(0, 4 * KIB, 12 * KIB), range(0, 15 * MIB, 2 * MIB)];
    // Across the end of the first zone of the destination.
    let target = 14 * MIB + 8 * KIB;
    let report = copier.copy(copy(&sources, 1, target)).unwrap();
    assert_eq!(report.ending, Ending::Done);
    let total: u64 = sources.iter().map(|range| range.length).sum();
    assert_eq!((report.bytes, report.bytes_in_order), (total, total));
    for (range, told) in sources.iter().zip(&report.ranges) {
        assert_eq!((told.range, told.bytes, &told.done), (*range, range.length, &vec![(0, range.length)]));
    }
    assert!(report.counters.copies_verified > 0);
    drop(copier);
    let mut expected = files.before[1].clone();
    let mut at = target as usize;
    for range in &sources {
        let from = &files.before[0][range.offset as usize..][..range.length as usize];
        expected[at..at + from.len()].copy_from_slice(from);
        at += from.len();
    }
    assert!(std::fs::read(&files.paths[1]).unwrap() == expected, "the destination is not what it should be");
    assert!(std::fs::read(&files.paths[0]).unwrap() == files.before[0], "the source changed");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let files = files();
    let copier = copier(&files, EngineConfig::default());
    let refused = |sources: &[ByteRange], device, offset| {
        let error = copier.submit(copy(sources, device, offset)).unwrap_err();
        assert!(matches!(error, CopyError::Range(_)), "{error:?}");
        error.to_string()
    };
    assert!(refused(&[], 1, 0).contains("nothing to copy"));
    assert!(refused(&[range(0, 0, 0)], 1, 0).contains("length of 0"));
    assert!(refused(&[range(0, 100, 4096)], 1, 0).contains("the offset 100 is not a multiple of"));
    assert!(refused(&[range(0, 4096, 5000)], 1, 0).contains("the length 5000 is not a multiple of"));
    assert!(refused(&[range(0, 0, 4096)], 1, 7).contains("the offset 7 is not a multiple of"));
    assert!(refused(&[range(0, 32 * MIB, 2 * MIB)], 1, 0).contains("past the end of the device, which has 34603008 bytes"));
    assert!(refused(&[range(0, 0, 4096)], 1, 33 * MIB).contains("past the end"));
    assert!(refused(&[range(0, u64::MAX / 4096 * 4096, 8192)], 1, 0).contains("past the end"));
    assert!(refused(&[range(0, 0, 8192), range(0, 4096, 8192)], 1, 0).contains("the source ranges 0+8192 and 4096+8192 overlap"));
    assert!(refused(&[range(1, 0, 8192)], 1, 4096).contains("the source range 0+8192 overlaps the destination 4096+8192"));
    assert!(refused(&[range(0, 0, 4096), range(1, 4096, 4096)], 1, 0).contains("overlaps the destination"));
    assert!(refused(&[range(7, 0, 4096)], 1, 0).contains("no device 7"));
    assert!(refused(&[range(0, 0, 4096)], 7, 0).contains("no device 7"));
    drop(copier);
    assert!(std::fs::read(&files.paths[1]).unwrap() == files.before[1], "a refused copy touched the destination");
}

#[test]
fn offload_that_is_demanded_and_impossible_touches_nothing() {
    let files = files();
    let copier = copier(&files, EngineConfig { route: RouteChoice::Offload, ..EngineConfig::default() });
    // Files that a file system could share are no subject here: different block positions within a block cannot be shared.
    let report = copier.copy(copy(&[range(0, 512, 512)], 1, 1024));
    match report {
        Ok(report) => {
            assert!(matches!(&report.ending, Ending::Failed(reason) if reason.contains("no device can carry")), "{report:?}");
            assert_eq!((report.bytes, report.route().as_str()), (0, "none"));
        }
        // Where direct I/O is in units of 4096 bytes.
        Err(error) => assert!(error.to_string().contains("multiple of 4096"), "{error}"),
    }
    drop(copier);
    assert!(std::fs::read(&files.paths[1]).unwrap() == files.before[1]);
}

#[test]
fn a_sequential_zone_is_written_at_its_write_pointer_only() {
    let lab = Lab::new(vec![config(4096, 7), config(4096, 9)], EngineConfig::default());
    let copier = Copier::over(lab.engine).unwrap();
    let empty = u64::from(super::SOURCE_ZONES) * ZONE_BYTES;
    let source = range(0, 4096, 3 * ZONE_BYTES / 2);
    let refused = |offset| copier.submit(copy(&[source], 0, offset)).unwrap_err();
    assert!(matches!(refused(empty + 4096), CopyError::Range(RangeError::NotAtWritePointer { .. })));
    assert!(matches!(refused(4 * ZONE_BYTES), CopyError::Range(RangeError::ZoneTakesNothing { state: "full; reset it first", .. })));
    let report = copier.copy(copy(&[source], 0, empty)).unwrap();
    assert_eq!((report.ending, report.bytes, report.simulated), (Ending::Done, source.length, true));
    assert_eq!((report.counters.host_read, report.counters.offloaded), (0, source.length));
    // The second zone stands in its middle now: there it goes on.
    let next = empty + source.length;
    assert!(refused(empty + ZONE_BYTES).to_string().contains("reset it, or copy to there"));
    let report = copier.copy(copy(&[range(1, 0, 8192)], 0, next)).unwrap();
    assert_eq!((report.ending.clone(), report.route().as_str()), (Ending::Done, "host"));
    let expected = lab.drives[0].peek(zns::Lba(1), zns::Blocks(source.length / 4096));
    assert!(lab.drives[0].peek(zns::Lba(empty / 4096), zns::Blocks(source.length / 4096)) == expected);
}

#[test]
fn a_copy_that_is_cancelled_tells_what_it_did() {
    let files = files();
    let copier = copier(&files, EngineConfig { route: RouteChoice::Host, ..EngineConfig::default() });
    // A command of 64 KiB every sixteen seconds, after the first.
    let slow = RangeCopy { pace: Some(Arc::new(Pace::new(4096))), ..copy(&[range(0, 0, MIB), range(0, 2 * MIB, MIB)], 1, 0) };
    let id = copier.submit(slow).unwrap();
    while copier.progress(id) == Some(0) {
        std::thread::yield_now();
    }
    assert!(copier.poll().is_none());
    // What needs its destination waits for it, what does not does not.
    let behind = copier.submit(copy(&[range(0, 8 * MIB, MIB)], 1, 8 * MIB)).unwrap();
    let beside = copier.submit(copy(&[range(0, 8 * MIB, MIB)], 1, 20 * MIB)).unwrap();
    assert_eq!(copier.wait(beside).unwrap().unwrap().ending, Ending::Done);
    assert_eq!(copier.progress(behind), Some(0));
    assert!(copier.cancel(id));
    let mut ended = Vec::new();
    while ended.len() < 2 {
        wait_readable(&copier);
        ended.extend(copier.poll());
    }
    assert_eq!(ended[0].id, id);
    let report = ended[0].report.as_ref().unwrap();
    assert_eq!(report.ending, Ending::Stopped);
    assert_eq!((report.bytes, report.bytes_in_order), (64 * KIB, 64 * KIB));
    assert_eq!(report.ranges[0].done, [(0, 64 * KIB)]);
    assert_eq!((report.ranges[1].bytes, report.ranges[1].done.len()), (0, 0));
    assert_eq!(ended[1].report.as_ref().unwrap().ending, Ending::Done);
    assert!(!copier.cancel(id) && copier.wait(id).is_none());
    drop(copier);
    let after = std::fs::read(&files.paths[1]).unwrap();
    assert!(after[..64 << 10] == files.before[0][..64 << 10]);
    assert!(after[64 << 10..8 << 20] == files.before[1][64 << 10..8 << 20]);
}

fn wait_readable(copier: &Copier) {
    let fd = copier.event_fd();
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
}

#[test]
fn dropping_a_copier_ends_what_is_under_way() {
    let files = files();
    let copier = copier(&files, EngineConfig::default());
    copier.submit(RangeCopy { pace: Some(Arc::new(Pace::new(1))), ..copy(&[range(0, 0, 16 * MIB)], 1, 0) }).unwrap();
    drop(copier);
}

#[test]
fn a_road_that_refuses_is_left_and_the_copy_goes_on_in_the_same_place() {
    let lab = Lab::one(4096, EngineConfig::default());
    lab.drives[0].fail_at(0, Fault::CopyRefused(NvmeStatus::INVALID_OPCODE));
    let copier = Copier::over(lab.engine).unwrap();
    let empty = u64::from(super::SOURCE_ZONES) * ZONE_BYTES;
    let report = copier.copy(copy(&[range(0, 0, 64 * KIB)], 0, empty)).unwrap();
    assert_eq!((report.ending.clone(), report.route().as_str()), (Ending::Done, "host"), "{report:?}");
    assert_eq!(report.counters.fallbacks["unsupported"], 1);
    assert_eq!(report.counters.roads[&Road::Image].commands, 1);
}

/// A command fails on the way: its bytes go by the host, in the same place, and not one more.
#[test]
fn only_the_command_that_failed_goes_by_the_host() {
    let limits = CopyLimits { mssrl: 16, mcl: 16, ranges: 1 };
    let lab = Lab::new(vec![SimConfig { copy: Some(limits), ..config(4096, 3) }], EngineConfig::default());
    let from = lab.contents(&[lab.source(0, 0, 0, 64)]);
    // Before it wrote anything, so that the zone goes on.
    lab.drives[0].fail_at(lab.drives[0].ops() + 2, Fault::ReadError);
    let Lab { drives, engine } = lab;
    let copier = Copier::over(engine).unwrap();
    let report = copier.copy(copy(&[range(0, 0, 64 * 4096)], 0, 10 * ZONE_BYTES)).unwrap();
    assert!(report.is_done(), "{report:?}");
    assert_eq!((report.counters.offloaded, report.counters.host_written), (48 * 4096, 16 * 4096), "{:?}", report.counters);
    assert_eq!(report.counters.fallbacks["source-media"], 1);
    assert!(drives[0].peek(Lba(10 * 64), Blocks(64)) == from);
}

#[test]
fn without_a_fallback_a_refusal_ends_the_copy() {
    let lab = Lab::one(4096, EngineConfig { route: RouteChoice::Offload, ..EngineConfig::default() });
    // The road takes 64 blocks in a range and 128 in a command: the third command is refused.
    lab.drives[0].fail_at(lab.drives[0].ops() + 6, Fault::CopyRefused(NvmeStatus::INVALID_OPCODE));
    let copier = Copier::over(lab.engine).unwrap();
    let empty = u64::from(super::SOURCE_ZONES) * ZONE_BYTES;
    let report = copier.copy(copy(&[range(0, 0, ZONE_BYTES), range(0, ZONE_BYTES, 5 * ZONE_BYTES)], 0, empty)).unwrap();
    let Ending::Failed(reason) = &report.ending else { panic!("{report:?}") };
    assert!(reason.contains("no device can carry this copy"), "{reason}");
    assert!(report.bytes > 0 && report.bytes < 6 * ZONE_BYTES);
    assert_eq!(report.bytes, report.ranges.iter().map(|range| range.bytes).sum::<u64>());
    assert_eq!(report.counters.host_written, 0);
    // What it says it did lies where it says.
    for told in &report.ranges {
        for &(into, bytes) in &told.done {
            let (from, to) = ((told.range.offset + into) / 4096, (empty + told.range.offset + into) / 4096);
            let blocks = zns::Blocks(bytes / 4096);
            assert!(lab.drives[0].peek(zns::Lba(from), blocks) == lab.drives[0].peek(zns::Lba(to), blocks));
        }
    }
}

#[test]
fn a_copy_that_stops_within_a_range_ends_a_sequential_zone() {
    let lab = Lab::one(4096, EngineConfig { verify: VerifyMode::Full, ..EngineConfig::default() });
    lab.drives[0].fail_at(0, Fault::CopyWrong);
    let copier = Copier::over(lab.engine).unwrap();
    let empty = u64::from(super::SOURCE_ZONES) * ZONE_BYTES;
    let report = copier.copy(copy(&[range(0, 0, 64 * KIB)], 0, empty)).unwrap();
    let Ending::Failed(reason) = &report.ending else { panic!("{report:?}") };
    assert!(reason.contains("something else than what was copied") && reason.contains("reset it and copy again"), "{reason}");
    assert_eq!((report.bytes, report.bytes_in_order), (0, 0));
}

#[test]
fn what_cannot_be_read_fails_with_its_place_and_everything_before_it_counts() {
    let lab = Lab::one(4096, EngineConfig { route: RouteChoice::Host, ..EngineConfig::default() });
    lab.drives[0].fail_at(lab.drives[0].ops(), Fault::ReadError);
    lab.drives[0].fail_at(lab.drives[0].ops(), Fault::ReadError);
    let copier = Copier::over(lab.engine).unwrap();
    let empty = u64::from(super::SOURCE_ZONES) * ZONE_BYTES;
    let report = copier.copy(copy(&[range(0, 8192, 64 * KIB)], 0, empty)).unwrap();
    let Ending::Failed(reason) = &report.ending else { panic!("{report:?}") };
    assert!(reason.starts_with("the source cannot be read (at byte 8192 of "), "{reason}");
    assert_eq!(report.bytes, 0);
}
