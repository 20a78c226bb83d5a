//! Crash states enumerated (`tests::sim::explore`): at least 50,000 distinct ones in every run of the suite, and the proof that a violation would be found.
//! `cargo xtask bench crash` does the same until there are a million.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use tests::sim::explore::ace;
use tests::sim::explore::{Depth, Explorer, Report, VolumeKind};
use tests::sim::operation::Operation;
use zns::sim::{Bounds, Lie};

/// Distinct states that the suite checks.
const STATES: u64 = 50_000;
/// Of so many states one is recovered with cuts, where recoveries are what is looked at.
const RECOVERED: u64 = 8;

fn sound(report: &Report) {
    if let Some(shortest) = report.violations.iter().min_by_key(|violation| violation.sequence.len()) {
        panic!("{} violations, the shortest: {shortest}", report.violations.len());
    }
}

/// All of them in another order, so that those which are reached before there are enough states are of all sorts.
fn shuffled(mut sequences: Vec<ace::Sequence>) -> Vec<ace::Sequence> {
    sequences.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    sequences
}

#[test]
fn no_crash_state_of_a_short_sequence_loses_or_tears_anything() {
    let begun = Instant::now();
    let depth = Depth { bounds: Bounds { all: 6, drawn: 2, torn: 2 }, recoveries: 2048, uses: 128 };
    let explorer = Explorer::new(depth, Lie::None);
    // One operation with everything that may stand behind it; then two, with what was drawn between and behind them, until there are enough.
    let report = explorer.explore(&VolumeKind::ALL, &ace::singles(), u64::MAX);
    let report = report.merged(explorer.explore(&VolumeKind::ALL, &shuffled(ace::pairs(&[], &[], 1)), STATES));
    println!("{report}\n{} s", begun.elapsed().as_secs());
    sound(&report);
    assert!(report.distinct >= STATES, "{} states", report.distinct);
    for kind in VolumeKind::ALL {
        assert!(report.by_volume.get(kind.name()).is_some_and(|states| *states > 1000), "{}: {:?}", kind.name(), report.by_volume);
    }
    let met = [
        "write torn at 4 KiB",
        "torn at 512 bytes",
        "copy stopped behind a range",
        "copy stopped within a range",
        "reset lost",
        "zone table torn",
    ];
    for tear in met.into_iter().chain(["nothing lost", "all unflushed lost"]) {
        assert!(report.by_tear.get(tear).is_some_and(|states| *states > 20), "{tear}: {:?}", report.by_tear);
    }
    for operation in ["mount", "write", "fsync", "sync", "checkpoint", "gc", "copy_file_range", "remount", "recovery"] {
        assert!(report.by_operation.contains_key(operation), "{operation}: {:?}", report.by_operation);
    }
    assert!(report.recoveries > 0 && report.uses > 0);
}

/// A mount that passes over a record behind the write pointer of an image, and empties zones, and is cut off with the table torn: the next mount must not
/// find that record.
#[test]
fn what_a_mount_passed_over_stays_away_when_that_mount_is_cut_off() {
    let depth = Depth { bounds: Bounds { all: 6, drawn: 2, torn: 2 }, recoveries: 1, uses: 0 };
    let sequence = vec![
        Operation::Unlink { parent: 0, name: b"foo".to_vec(), hold: false },
        Operation::Gc { until_clean: false },
        Operation::Checkpoint,
    ];
    let report = Explorer::new(depth, Lie::None).explore(&[VolumeKind::ImageZns], &[sequence], u64::MAX);
    sound(&report);
    assert!(report.recoveries > 50 && report.by_tear.contains_key("zone table torn"), "{report}");
}

/// One state in eight of a few sequences, on volumes of every kind, is recovered with the power going again at each step of that mount: what a recovery that was
/// cut off leaves must be what the next one finds.
#[test]
fn a_recovery_that_is_cut_off_loses_nothing_on_any_kind_of_volume() {
    let begun = Instant::now();
    let depth = Depth { bounds: Bounds { all: 2, drawn: 1, torn: 1 }, recoveries: RECOVERED, uses: 0 };
    // Ten operations, with each seam behind some of them.
    let sequences: Vec<_> = ace::singles().into_iter().skip(3).step_by(19).collect();
    let report = Explorer::new(depth, Lie::None).explore(&VolumeKind::ALL, &sequences, u64::MAX);
    println!("{report}\n{} s", begun.elapsed().as_secs());
    sound(&report);
    assert!(report.recoveries > 200 && report.by_operation.contains_key("recovery"), "{report}");
}

/// A device that lies loses what was promised: an exploration that does not find that would find nothing.
#[test]
fn a_device_that_lies_is_found_out_on_every_kind_of_volume() {
    let depth = Depth { bounds: Bounds { all: 12, drawn: 3, torn: 0 }, recoveries: 0, uses: 0 };
    let sequences: Vec<_> = ace::singles().into_iter().filter(|sequence| sequence.len() > 1).step_by(7).collect();
    let honest = Explorer::new(depth, Lie::None).explore(&VolumeKind::ALL, &sequences[..4], u64::MAX);
    sound(&honest);
    for lie in [Lie::FlushesDropped, Lie::WritesAcknowledgedEarly] {
        for kind in VolumeKind::ALL {
            let report = Explorer::new(depth, lie).explore(&[kind], &sequences[..4], u64::MAX);
            let what: Vec<&String> = report.violations.iter().map(|violation| &violation.what).collect();
            assert!(!what.is_empty(), "{lie:?} on {}: nothing was found in {} states", kind.name(), report.distinct);
            let told = |what: &&&String| {
                what.contains("older than what was promised") || what.contains("read-only") || what.contains("fsck finds")
            };
            assert!(what.iter().filter(told).count() > 0, "{lie:?} on {}: {what:?}", kind.name());
        }
    }
}
