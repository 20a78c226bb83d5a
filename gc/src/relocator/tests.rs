//! The relocator against the naive filesystem: contents never change, races and faults corrupt nothing, everything ends.

use super::*;
use crate::model::{FILE, Fault, Happened, METADATA, Model};
use proptest::prelude::*;
use zns::{DeviceError, ZoneId};

const CAPACITY: u32 = 32;
const THREE: Stride = Stride { chunks: 3, large: true, flights: 1 };

fn config(chunk_blocks: u32) -> RelocatorConfig {
    RelocatorConfig { chunk_blocks, large_chunk_blocks: 4 * chunk_blocks, max_extents: 8, max_failures: 4 }
}

fn relocator(model: &Model, chunk: u32) -> Relocator<Model, Model> {
    Relocator::new(model.clone(), model.clone(), config(chunk), Tracer::off())
}

/// A closed segment full of live blocks of two files.
fn one_full_segment(per_block: u32) -> (Model, SegmentInfo) {
    let model = Model::new(12, CAPACITY, per_block, 2);
    (0..u64::from(CAPACITY)).for_each(|b| assert!(model.write(b + FILE / 2)));
    let info = model.segments()[0];
    assert_eq!(info.live, CAPACITY);
    (model, info)
}

/// Steps until the victim has ended; panics when that takes longer than it ever may.
fn run(relocator: &mut Relocator<Model, Model>) -> Result<VictimReport> {
    run_by(relocator, 1)
}

/// The same with several chunks in a step.
fn run_by(relocator: &mut Relocator<Model, Model>, chunks: u32) -> Result<VictimReport> {
    for _ in 0..CAPACITY * 8 {
        match relocator.steps(Stride { chunks, large: true, flights: 1 })? {
            Step::Progress(_) => {}
            Step::VictimDone(report) => return Ok(report),
            Step::Idle => panic!("no victim"),
        }
    }
    panic!("the relocator does not end");
}

#[test]
fn a_victim_is_moved_chunk_by_chunk_and_ends_empty() {
    for per_block in [1, 8] {
        let (model, info) = one_full_segment(per_block);
        let mut relocator = relocator(&model, 10);
        assert_eq!(relocator.step().expect("idle"), Step::Idle);
        relocator.start(info).expect("a victim");
        assert!(matches!(relocator.start(info), Err(CleanError::Busy)));
        let Step::Progress(first) = relocator.step().expect("a chunk") else { panic!("one chunk is not all") };
        assert_eq!((first.moved, first.lost, first.offloaded, first.live_left), (10, 0, 10, 22));
        let report = run(&mut relocator).expect("moved");
        assert_eq!((report.end, report.moved, report.offloaded, report.by_host), (VictimEnd::Emptied, 32, 32, 0));
        assert_eq!((model.live(info.id), model.pinned()), (0, 0));
        model.self_check();
        assert_eq!(model.checkpoint(), 1);
    }
}

#[test]
fn a_step_of_several_chunks_ends_with_nothing_in_flight() {
    let (model, info) = one_full_segment(1);
    let mut relocator = relocator(&model, 8);
    relocator.start(info).expect("a victim");
    let Step::Progress(first) = relocator.steps(THREE).expect("three chunks") else { panic!("there are four") };
    assert_eq!((first.moved, first.offloaded, first.live_left), (24, 24, 8));
    // Nothing is reserved, nothing unpublished.
    model.self_check();
    // A failure ends the step: what was copied before it is published.
    model.with(|m| m.faults.push_back(Fault::Fail(FailureKind::Transient, 0, false)));
    let Step::Progress(failed) = relocator.steps(THREE).expect("a failure is no error") else { panic!("it goes on") };
    assert_eq!((failed.moved, failed.failure), (0, Some(FailureKind::Transient)));
    model.self_check();
    assert_eq!(run_by(&mut relocator, 3).expect("moved").moved, 32);
    model.self_check();
}

#[test]
fn chunks_are_large_only_while_users_leave_the_devices_alone_and_it_was_asked_for() {
    let (model, info) = one_full_segment(1);
    let mut relocator = relocator(&model, 4);
    relocator.start(info).expect("a victim");
    let mut moved = |calm, stride| {
        model.with(|m| m.calm = calm);
        let Step::Progress(progress) = relocator.steps(stride).expect("it works") else { panic!("it is not at its end") };
        progress.moved
    };
    let one = Stride { large: true, ..Stride::CHUNK };
    assert_eq!([moved(false, one), moved(true, Stride::CHUNK), moved(true, one), moved(false, one)], [4, 4, 16, 4]);
    assert_eq!(run(&mut relocator).expect("moved").moved, 32);
    model.self_check();
}

#[test]
fn a_step_ends_when_somebody_waits() {
    let (model, info) = one_full_segment(1);
    let mut relocator = relocator(&model, 8);
    relocator.start(info).expect("a victim");
    model.with(|m| m.awaited = true);
    let Step::Progress(first) = relocator.steps(THREE).expect("a chunk") else { panic!("there are four") };
    assert_eq!(first.moved, 8);
    model.self_check();
    model.with(|m| m.awaited = false);
    let Step::Progress(rest) = relocator.steps(THREE).expect("three chunks") else { panic!("it is not ended") };
    assert_eq!((rest.moved, rest.live_left), (24, 0));
    model.self_check();
}

/// Several closed segments full of live blocks, all of them begun.
fn begun(segments: u32, heads: usize, chunk: u32) -> (Model, Relocator<Model, Model>) {
    let model = Model::new(24, CAPACITY, 1, 2);
    (0..u64::from(segments * CAPACITY)).for_each(|b| assert!(model.write(b)));
    model.with(|m| (m.relocation_heads, m.calm) = (heads, true));
    let mut relocator = relocator(&model, chunk);
    model.segments().into_iter().for_each(|info| relocator.start(info).expect("a victim"));
    assert_eq!(relocator.victims().count(), segments as usize);
    (model, relocator)
}

/// The victims that end with the next steps.
fn run_all(relocator: &mut Relocator<Model, Model>, stride: Stride) -> Vec<Result<VictimReport>> {
    let mut ends = Vec::new();
    for _ in 0..CAPACITY * 100 {
        match relocator.steps(stride) {
            Ok(Step::Progress(_)) => {}
            Ok(Step::VictimDone(report)) => ends.push(Ok(report)),
            Ok(Step::Idle) => return ends,
            Err(CleanError::NoSpace) => {
                ends.extend(relocator.abandon().into_iter().map(Ok));
            }
            Err(error) => ends.push(Err(error)),
        }
    }
    panic!("the relocator does not end");
}

#[test]
fn the_next_victim_takes_off_before_the_last_chunk_of_the_one_before_is_published() {
    let (model, mut relocator) = begun(3, 1, 16);
    let stride = Stride { chunks: 6, large: false, flights: 1 };
    let Step::Progress(all) = relocator.steps(stride).expect("six chunks") else { panic!("something was done") };
    assert_eq!((all.moved, all.live_left), (3 * CAPACITY, 0));
    use Happened::{Begun, Published};
    let zones = model.with(|m| std::mem::take(&mut m.events));
    let expected = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)].map(|(published, begun)| [Begun(begun), Published(published)]);
    assert_eq!(zones, [&[Begun(0)], &expected.concat()[..], &[Published(2)]].concat());
    assert_eq!(model.with(|m| m.most_flying), 1);
    // Of those that ended it tells one by one, and does nothing else.
    assert!(relocator.has_ended() && relocator.victim().is_none());
    let ends = run_all(&mut relocator, stride);
    assert!(ends.iter().all(|end| end.as_ref().is_ok_and(|report| report.end == VictimEnd::Emptied && report.moved == 32)), "{ends:?}");
    assert_eq!((ends.len(), model.pinned()), (3, 0));
    model.self_check();
}

#[test]
fn victims_fly_side_by_side_as_far_as_there_are_heads() {
    for (heads, flights, most) in [(3, 3, 3), (2, 4, 2), (4, 2, 2), (1, 3, 1)] {
        let (model, mut relocator) = begun(5, heads, 8);
        let ends = run_all(&mut relocator, Stride { chunks: 100, large: false, flights });
        assert_eq!(ends.iter().filter(|end| end.as_ref().is_ok_and(|report| report.end == VictimEnd::Emptied)).count(), 5);
        assert_eq!((model.with(|m| m.most_flying), model.pinned()), (most, 0));
        model.self_check();
    }
    // Not while users are there.
    let (model, mut relocator) = begun(5, 3, 8);
    model.with(|m| m.calm = false);
    assert_eq!(run_all(&mut relocator, Stride { chunks: 100, large: false, flights: 3 }).len(), 5);
    assert_eq!(model.with(|m| m.most_flying), 1);
    // One victim alone has one chunk in flight: what a copy leaves over comes before what lies behind it.
    let (model, mut relocator) = begun(1, 3, 8);
    assert_eq!(run_all(&mut relocator, Stride { chunks: 100, large: false, flights: 3 }).len(), 1);
    assert_eq!(model.with(|m| m.most_flying), 1);
}

#[test]
fn what_goes_wrong_with_one_victim_is_none_of_the_others() {
    let (model, mut relocator) = begun(4, 3, 8);
    let refused = Fault::Refuse(CopyError::NoOffload { reason: "none".to_owned() });
    model.with(|m| m.faults.extend([Fault::Fine, refused, Fault::Fine]));
    let stride = Stride { chunks: 100, large: false, flights: 3 };
    let Step::Progress(first) = relocator.steps(stride).expect("three of four") else { panic!("something was done") };
    assert_eq!((first.moved, model.pinned()), (24, 3));
    model.self_check();
    assert!(matches!(relocator.steps(stride), Err(CleanError::Copy(_))));
    assert_eq!(relocator.take_failed().map(|id| id.zone.0), Some(1));
    let ends = run_all(&mut relocator, stride);
    assert_eq!(ends.iter().filter(|end| end.as_ref().is_ok_and(|report| report.moved == 32)).count(), 3);
    assert_eq!(model.live(SegmentId { device: crate::model::DEVICE, zone: ZoneId(1) }), CAPACITY);
    model.self_check();
}

#[test]
fn a_step_that_runs_out_of_space_keeps_what_it_moved() {
    let model = Model::new(5, 4, 1, 1);
    (0..12).for_each(|b| assert!(model.write(b)));
    let victims = model.segments();
    let mut relocator = relocator(&model, 1);
    let mut moved = 0;
    let starved = victims.iter().find_map(|info| {
        relocator.start(*info).expect("a victim");
        let outcome = run_by(&mut relocator, 3);
        model.self_check();
        match outcome {
            Ok(report) => {
                moved += report.moved;
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(starved, Some(CleanError::NoSpace)), "{starved:?}");
    assert!(moved > 0 && relocator.victim().is_some());
}

#[test]
fn short_extents_are_gathered_into_one_request() {
    let (model, info) = one_full_segment(1);
    (0..u64::from(CAPACITY)).step_by(2).for_each(|b| model.delete(b + FILE / 2));
    let mut relocator = relocator(&model, CAPACITY);
    relocator.start(info).expect("a victim");
    run(&mut relocator).expect("moved");
    assert_eq!(model.with(|m| m.requests.clone()), [(Carrier::Device, 8), (Carrier::Device, 8)]);
    model.self_check();
}

#[test]
fn long_extents_are_split_to_the_grant() {
    let (model, info) = one_full_segment(8);
    model.with(|m| m.grant = 3);
    let mut relocator = relocator(&model, CAPACITY);
    relocator.start(info).expect("a victim");
    let report = run(&mut relocator).expect("moved");
    assert_eq!(report.moved, 32);
    model.self_check();
}

#[test]
fn a_race_with_an_overwrite_is_lost_and_corrupts_nothing() {
    let (model, info) = one_full_segment(1);
    model.with(|m| m.faults.push_back(Fault::Race(vec![FILE / 2 + 1, FILE / 2 + 2, FILE / 2 + 20])));
    let mut relocator = relocator(&model, 10);
    relocator.start(info).expect("a victim");
    let report = run(&mut relocator).expect("moved");
    assert_eq!((report.moved, report.lost, report.end), (29, 2, VictimEnd::Emptied));
    model.self_check();
}

#[test]
fn a_device_that_cannot_copy_is_left_for_the_host() {
    let (model, info) = one_full_segment(1);
    model.with(|m| m.faults.push_back(Fault::Fail(FailureKind::Unsupported, 0, false)));
    let mut relocator = relocator(&model, 10);
    relocator.start(info).expect("a victim");
    let report = run(&mut relocator).expect("moved");
    assert_eq!((report.moved, report.offloaded, report.by_host), (32, 0, 32));
    model.self_check();
}

#[test]
fn a_failed_zone_is_ended_and_the_rest_goes_elsewhere() {
    let (model, info) = one_full_segment(1);
    model.with(|m| m.faults.push_back(Fault::Fail(FailureKind::DestinationZone, 1, true)));
    (0..u64::from(CAPACITY)).step_by(2).for_each(|b| model.delete(b + FILE / 2));
    let mut relocator = relocator(&model, CAPACITY);
    relocator.start(info).expect("a victim");
    let Step::Progress(first) = relocator.step().expect("a chunk") else { panic!("not all") };
    assert_eq!((first.moved, first.zone_ended, first.failure), (1, true, Some(FailureKind::DestinationZone)));
    let report = run(&mut relocator).expect("moved");
    assert_eq!((report.moved, report.offloaded), (16, 16));
    model.self_check();
}

#[test]
fn what_the_media_cannot_read_stays_and_is_reported() {
    let (model, info) = one_full_segment(8);
    model.with(|m| m.bad.insert(22));
    let mut relocator = relocator(&model, 8);
    relocator.start(info).expect("a victim");
    let report = run(&mut relocator).expect("an end");
    assert_eq!((report.end, report.moved), (VictimEnd::Unmovable, 20));
    let unmovable = Unmovable { victim: info.id, lba: Lba(20 * 8), blocks: 4, reason: "source-media" };
    assert_eq!(report.unmovable, [unmovable]);
    assert_eq!((model.live(info.id), model.pinned()), (12, 0));
    model.self_check();
}

#[test]
fn endless_failures_end() {
    for kind in [FailureKind::Transient, FailureKind::DestinationMedia, FailureKind::WrongData, FailureKind::SourceMedia] {
        let (model, info) = one_full_segment(1);
        model.with(|m| m.faults.extend(std::iter::repeat_n(Fault::Fail(kind, 0, false), 1000)));
        let mut relocator = relocator(&model, 8);
        relocator.start(info).expect("a victim");
        let report = run(&mut relocator).expect("an end");
        let expected = if kind == FailureKind::SourceMedia { VictimEnd::Unmovable } else { VictimEnd::GaveUp };
        assert_eq!((report.end, report.moved, model.pinned()), (expected, 0, 0));
        model.self_check();
    }
}

#[test]
fn an_engine_error_releases_victim_and_reservation() {
    let refused = CopyError::NoOffload { reason: "none".to_owned() };
    for error in [refused, CopyError::Device(DeviceError::PowerLost)] {
        let (model, info) = one_full_segment(1);
        model.with(|m| m.faults.push_back(Fault::Refuse(error)));
        let mut relocator = relocator(&model, 8);
        relocator.start(info).expect("a victim");
        assert!(matches!(relocator.step(), Err(CleanError::Copy(_))));
        assert_eq!((model.pinned(), relocator.victim()), (0, None));
        model.self_check();
    }
}

#[test]
fn without_space_the_victim_waits() {
    let model = Model::new(4, 4, 1, 0);
    (0..12).for_each(|b| assert!(model.write(b)));
    let info = model.segments()[0];
    let mut relocator = relocator(&model, 8);
    relocator.start(info).expect("a victim");
    assert!(matches!(relocator.step(), Err(CleanError::NoSpace)));
    assert_eq!(relocator.victim(), Some(info));
    (8..12).for_each(|b| model.delete(b));
    assert_eq!(model.checkpoint(), 1);
    assert_eq!(run(&mut relocator).expect("moved").moved, 4);
    model.self_check();
}

#[test]
fn metadata_is_left_to_the_next_checkpoint() {
    let model = Model::new(12, CAPACITY, 1, 2);
    (0..u64::from(CAPACITY)).for_each(|b| assert!(model.write(METADATA + b)));
    (0..8).for_each(|b| model.delete(METADATA + b));
    let info = model.segments()[0];
    let mut relocator = relocator(&model, 10);
    relocator.start(info).expect("a victim");
    let report = run(&mut relocator).expect("passed over");
    assert_eq!((report.end, report.evacuated, report.moved), (VictimEnd::Emptied, 24, 0));
    assert_eq!(model.live(info.id), 24);
    assert_eq!(model.checkpoint(), 1);
    model.self_check();
}

#[test]
fn a_dropped_or_abandoned_relocator_releases_its_victim() {
    let (model, info) = one_full_segment(1);
    let mut first = relocator(&model, 8);
    first.start(info).expect("a victim");
    first.step().expect("a chunk");
    let report = first.abandon().pop().expect("a report");
    assert_eq!((report.end, report.moved, model.pinned()), (VictimEnd::Abandoned, 8, 0));
    first.start(info).expect("again");
    drop(first);
    assert_eq!(model.pinned(), 0);
    model.self_check();
    let nowhere = SegmentInfo { id: SegmentId { device: crate::model::DEVICE, zone: ZoneId(11) }, ..info };
    assert!(matches!(relocator(&model, 8).start(nowhere), Err(CleanError::NotAVictim)));
}

fn fault() -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        Just(FailureKind::Unsupported),
        Just(FailureKind::TooLarge),
        Just(FailureKind::WrongData),
        Just(FailureKind::DestinationZone),
        Just(FailureKind::SourceMedia),
        Just(FailureKind::DestinationMedia),
        Just(FailureKind::Transient),
    ];
    prop_oneof![
        3 => Just(Fault::Fine),
        3 => proptest::collection::vec(0u64..60, 0..6).prop_map(Fault::Race),
        2 => (kind, 0usize..8, any::<bool>()).prop_map(|(kind, after, end)| Fault::Fail(kind, after, end)),
        1 => Just(Fault::Refuse(CopyError::Invalid("no".to_owned()))),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_contents_stay_and_it_ends(
        writes in proptest::collection::vec(0u64..60, 40..150),
        deletes in proptest::collection::vec(0u64..60, 0..20),
        faults in proptest::collection::vec(fault(), 0..30),
        bad in proptest::collection::btree_set(0u32..320, 0..3),
        (chunk, grant, per_block) in (1u32..40, 1u32..40, prop_oneof![Just(1u32), Just(8)]),
        (offloads, sums, chunks) in (any::<bool>(), any::<bool>(), 1u32..6),
        (heads, flights, together, calm) in (1usize..4, 1u32..5, 1usize..6, any::<bool>()),
    ) {
        let model = Model::new(40, CAPACITY, per_block, 3);
        writes.iter().for_each(|b| assert!(model.write(*b)));
        deletes.iter().for_each(|b| model.delete(*b));
        let broken = bad.len();
        model.with(|m| (m.faults, m.bad, m.grant, m.device_offloads, m.with_checksums) = (faults.into(), bad, grant, offloads, sums));
        model.with(|m| (m.relocation_heads, m.calm) = (heads, calm));
        let mut relocator = relocator(&model, chunk);
        for victims in model.segments().chunks(together) {
            for info in victims {
                relocator.start(*info).expect("a closed segment");
            }
            let ends = run_all(&mut relocator, Stride { chunks, large: true, flights });
            prop_assert_eq!(ends.len(), victims.len());
            for end in ends {
                match end {
                    Ok(report) => {
                        prop_assert_eq!(report.offloaded + report.by_host, report.moved + report.lost);
                        match report.end {
                            VictimEnd::Emptied => prop_assert_eq!(model.live(report.id), 0),
                            VictimEnd::Unmovable => prop_assert!(!report.unmovable.is_empty()),
                            // There was no space.
                            VictimEnd::GaveUp | VictimEnd::Abandoned => {}
                        }
                    }
                    Err(CleanError::Copy(_)) => {}
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
            prop_assert_eq!(model.pinned(), 0);
            model.self_check();
            model.checkpoint();
            model.self_check();
        }
        prop_assert!(broken <= 3);
        prop_assert_eq!(model.pinned(), 0);
    }
}

#[test]
fn a_panic_keeps_no_victim_and_no_space() {
    let (mut panics, mut told) = (0, 0);
    for after in 0.. {
        let model = Model::new(24, CAPACITY, 1, 2);
        (0..3 * u64::from(CAPACITY)).for_each(|b| assert!(model.write(b)));
        model.with(|m| (m.calm, m.relocation_heads) = (true, 3));
        let mut relocator = relocator(&model, 3);
        let victims = model.segments();
        victims.iter().for_each(|victim| relocator.start(*victim).expect("a victim"));
        model.with(|m| m.panics_after = Some(after));
        let stride = Stride { chunks: 8, large: true, flights: 3 };
        let step = catch_unwind(AssertUnwindSafe(|| while !matches!(relocator.steps(stride), Ok(Step::Idle)) {}));
        model.with(|m| m.panics_after = None);
        model.self_check();
        assert_eq!(model.pinned(), 0, "after {after} calls");
        if step.is_ok() {
            break;
        }
        panics += 1;
        // Whose end it was is told, and then everything goes on.
        loop {
            match relocator.steps(stride) {
                Ok(Step::Idle) => break,
                Err(error) => {
                    assert!(matches!(error, CleanError::Internal(_)), "{error}");
                    assert!(relocator.take_failed().is_some());
                    told += 1;
                }
                Ok(step) => assert!(matches!(step, Step::VictimDone(_)), "{step:?}"),
            }
        }
        for victim in model.segments().into_iter().filter(|victim| victims.iter().any(|one| one.id == victim.id)) {
            relocator.start(victim).expect("a victim");
        }
        while !matches!(relocator.steps(stride).expect("no panic"), Step::Idle) {}
        model.self_check();
        assert!(victims.iter().all(|victim| model.live(victim.id) == 0));
    }
    assert!(panics > 20 && told > panics, "{panics} panics, {told} victims");
}
