//! The cleaner against the naive filesystem: it keeps a nearly full volume writable, leaves broken victims alone, and is quiet otherwise.

use super::*;
use crate::campaign::{Campaign, CampaignStep};
use crate::model::{Fault, METADATA, Model};
use copy_backend::FailureKind;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RESERVE: u32 = 5;

fn cleaner(model: &Model, policy: Policy, zones: u32, capacity: u32) -> Cleaner<Model, Model> {
    let config = CleanerConfig {
        relocator: RelocatorConfig { chunk_blocks: 16, ..RelocatorConfig::default() },
        ..CleanerConfig::new(policy, RESERVE, zones, capacity)
    };
    Cleaner::new(model.clone(), model.clone(), config, Tracer::off())
}

fn situation(model: &Model, caller: Caller) -> Situation {
    Situation { caller, room: model.room(), idle: Duration::ZERO }
}

fn checkpoint(model: &Model, cleaner: &mut Cleaner<Model, Model>) {
    let freed = model.checkpoint();
    cleaner.checkpointed(freed);
}

/// A writer as the filesystem has it: it waits for one chunk at a time until there is room. Returns false when nothing can help.
fn write(model: &Model, cleaner: &mut Cleaner<Model, Model>, block: u64) -> bool {
    write_as(model, cleaner, block, Caller::Blocked)
}

fn write_as(model: &Model, cleaner: &mut Cleaner<Model, Model>, block: u64, caller: Caller) -> bool {
    for _ in 0..10_000 {
        if model.write(block) {
            return true;
        }
        match cleaner.poll(&situation(model, caller)) {
            Ok(outcome) if outcome.checkpoint => checkpoint(model, cleaner),
            Ok(Outcome { work: Work::Chunk(_) | Work::Victim(_), .. }) | Err(_) => {}
            Ok(_) => return false,
        }
    }
    panic!("a writer waits for ever");
}

fn background(model: &Model, cleaner: &mut Cleaner<Model, Model>) {
    if let Ok(outcome) = cleaner.poll(&situation(model, Caller::Background))
        && outcome.checkpoint
    {
        checkpoint(model, cleaner);
    }
}

/// Fills a volume to `percent` of what users may have, then overwrites at random.
fn churn(policy: Policy, percent: u64, with_background: bool) -> (f64, GcStats) {
    let (zones, capacity) = (64u32, 64u32);
    let model = Model::new(zones as usize, capacity, 1, RESERVE as usize);
    let mut cleaner = cleaner(&model, policy, zones, capacity);
    // What users may fill: not the reserve.
    let total = u64::from(zones - RESERVE) * u64::from(capacity);
    let used = total * percent / 100;
    // Who waits for room is given victims greedily, whatever the policy.
    let caller = if policy == Policy::Greedy { Caller::Blocked } else { Caller::Foreground };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for block in 0..used {
        assert!(write_as(&model, &mut cleaner, block, caller), "no space while filling");
    }
    for _ in 0..used * 4 {
        assert!(write_as(&model, &mut cleaner, rng.random_range(0..used), caller), "no space while overwriting at {percent} %");
        if with_background {
            background(&model, &mut cleaner);
        }
    }
    let before = cleaner.stats().relocated;
    let writes = used * 3;
    for _ in 0..writes {
        assert!(write_as(&model, &mut cleaner, rng.random_range(0..used), caller));
    }
    model.self_check();
    let copied = (cleaner.stats().relocated - before) / crate::BLOCK_BYTES;
    ((copied + writes) as f64 / writes as f64, cleaner.stats())
}

#[test]
fn it_converges_at_95_percent_full() {
    for policy in Policy::ALL {
        let (wa, stats) = churn(policy, 95, policy == Policy::Greedy);
        assert!(wa < 20.0, "write amplification {wa}");
        assert!(stats.zones_reclaimed > 100 && stats.by_host == 0 && stats.relocated == stats.offloaded);
        assert_eq!(stats.victims.keys().copied().collect::<Vec<_>>(), [policy.name()]);
    }
}

#[test]
fn write_amplification_at_85_percent_is_near_the_analytic_value() {
    let (wa, _) = churn(Policy::Greedy, 85, false);
    let analytic = crate::sim::analytic_greedy(0.85);
    assert!((wa - analytic).abs() / analytic < 0.15, "{wa} against {analytic}");
}

#[test]
fn the_background_costs_little_more_than_the_lazy_foreground() {
    let (lazy, _) = churn(Policy::Greedy, 85, false);
    let (background, stats) = churn(Policy::Greedy, 85, true);
    assert!(stats.foreground_chunks < stats.chunks / 2, "{} of {} chunks in the foreground", stats.foreground_chunks, stats.chunks);
    // Two zones more that are kept free or await a checkpoint, of 59.
    let analytic = crate::sim::analytic_greedy(0.85 * 59.0 / 57.0);
    assert!(background < analytic * 1.1, "{background} against {lazy} by the foreground alone and {analytic} by analysis");
}

#[test]
fn above_the_high_mark_it_is_quiet() {
    let model = Model::new(32, 16, 1, RESERVE as usize);
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    (0..100).for_each(|b| assert!(model.write(b % 20)));
    for caller in [Caller::Background, Caller::Foreground] {
        let outcome = cleaner.poll(&Situation { idle: Duration::MAX, ..situation(&model, caller) }).expect("quiet");
        assert_eq!(
            outcome,
            Outcome {
                work: Work::Nothing,
                emptied: 0,
                checkpoint: false,
                by_log: false,
                under_way: false,
                pressure: Pressure::Quiet,
                more: false
            }
        );
    }
    assert_eq!(cleaner.stats().chunks, 0);
}

#[test]
fn a_victim_is_let_go_when_cleaning_is_no_longer_needed() {
    let model = Model::new(32, 16, 1, RESERVE as usize);
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    cleaner.relocator =
        Relocator::new(model.clone(), model.clone(), RelocatorConfig { chunk_blocks: 2, ..RelocatorConfig::default() }, Tracer::off());
    (0..26 * 16).for_each(|b| assert!(model.write(b)));
    (0..26 * 16).step_by(4).for_each(|b| model.delete(b));
    let short = Situation { idle: Duration::MAX, ..situation(&model, Caller::Background) };
    assert!(matches!(cleaner.poll(&short).expect("work").work, Work::Chunk(_)));
    assert_eq!(model.pinned(), 1);
    (0..26 * 16).for_each(|b| model.delete(b));
    checkpoint(&model, &mut cleaner);
    let outcome = cleaner.poll(&situation(&model, Caller::Background)).expect("quiet");
    assert_eq!((outcome.work, outcome.pressure, model.pinned()), (Work::Nothing, Pressure::Quiet, 0));
    checkpoint(&model, &mut cleaner);
    assert_eq!(model.free_zones(), 31);
}

/// Segments of 16 blocks, all half dead.
fn half_dead(segments: u64) -> Model {
    let model = Model::new(32, 16, 1, RESERVE as usize);
    (0..segments * 16).for_each(|b| assert!(model.write(b)));
    (0..segments * 16).step_by(2).for_each(|b| model.delete(b));
    model
}

#[test]
fn until_clean_compacts_everything_and_reports() {
    let model = half_dead(10);
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    let free = model.free_zones();
    let report = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((report.victims, report.emptied, report.moved, report.offloaded), (10, 10, 80 * 4096, 80 * 4096));
    assert!(report.commands >= 5 && report.zones_freed == 10 && report.checkpoints == 1);
    assert_eq!(model.free_zones(), free + 5);
    model.self_check();
    let again = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((again.victims, again.commands, again.checkpoints), (0, 0, 0));
}

#[test]
fn one_victim_means_one() {
    let model = half_dead(10);
    let mut cleaner = cleaner(&model, Policy::CostBenefit, 32, 16);
    let report = cleaner.clean_one_victim(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((report.victims, report.moved, report.zones_freed, report.checkpoints), (1, 8 * 4096, 1, 1));
}

#[test]
fn metadata_segments_are_cleaned_too_and_not_twice_before_the_checkpoint() {
    let model = Model::new(32, 16, 1, RESERVE as usize);
    (0..64).for_each(|b| assert!(model.write(METADATA + b)));
    (0..64).step_by(2).for_each(|b| model.delete(METADATA + b));
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    let report = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((report.victims, report.moved, report.zones_freed), (4, 0, 4));
    model.self_check();
}

#[test]
fn zones_of_metadata_take_a_checkpoint_and_those_of_data_something_cheaper() {
    for (first, by_log) in [(0, true), (METADATA, false)] {
        let model = Model::new(32, 16, 1, RESERVE as usize);
        (0..64).for_each(|b| assert!(model.write(first + b)));
        (0..64).step_by(2).for_each(|b| model.delete(first + b));
        let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
        let mut polls = (0..100).map(|_| cleaner.poll(&situation(&model, Caller::Blocked)).expect("work"));
        let outcome = polls.find(|outcome| outcome.checkpoint).expect("a zone is emptied");
        assert_eq!((outcome.emptied, outcome.by_log), (1, by_log));
    }
}

/// A checkpoint makes zones of metadata empty: if each of them were worth the next one, checkpoints would follow each other.
#[test]
fn few_empty_zones_of_metadata_are_not_worth_a_checkpoint_before_somebody_waits() {
    for (first, worth) in [(0, true), (METADATA, false)] {
        let model = Model::new(32, 16, 1, RESERVE as usize);
        (0..32).for_each(|b| assert!(model.write(first + b)));
        (0..32).step_by(2).for_each(|b| model.delete(first + b));
        let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
        let short = Situation { room: Room { writable: 0, ahead: -1 }, ..situation(&model, Caller::Foreground) };
        let asked: Vec<Outcome> =
            (0..100).map(|_| cleaner.poll(&short).expect("work")).take_while(|outcome| outcome.work != Work::NoVictim).collect();
        assert_eq!(asked.iter().any(|outcome| outcome.checkpoint), worth, "{asked:?}");
        assert!(asked.iter().any(|outcome| outcome.emptied > 0), "{asked:?}");
        assert!(cleaner.poll(&situation(&model, Caller::Blocked)).expect("work").checkpoint);
    }
}

/// The placement has a say where there is no hurry, among those that can be cleaned.
#[test]
fn the_placement_chooses_in_the_background_and_nobody_waits_for_its_choice() {
    let first_victim = |caller: Caller, bad: bool| {
        let model = half_dead(3);
        // The last zone has the fewest alive, and another is wanted.
        (33..40).for_each(|block| model.delete(block));
        model.with(|m| m.preferred = Some(1));
        if bad {
            model.with(|m| m.bad.insert(16 + 15));
        }
        let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
        let short = Situation { room: Room { writable: 0, ahead: -1 }, ..situation(&model, caller) };
        let emptied = |model: &Model| (0..3).find(|zone| model.with(|m| m.live(*zone)) == 0);
        for _ in 0..100 {
            let _ = cleaner.poll(&short);
            if let Some(zone) = emptied(&model) {
                return zone;
            }
        }
        panic!("nothing is cleaned for {caller:?}");
    };
    assert_eq!(first_victim(Caller::Background, false), 1);
    assert_eq!(first_victim(Caller::Foreground, false), 1);
    assert_eq!(first_victim(Caller::Blocked, false), 2);
    assert_eq!(first_victim(Caller::Background, true), 2, "what cannot be moved keeps nothing else from being cleaned");
}

#[test]
fn an_unreadable_victim_is_left_alone_until_much_of_it_has_died() {
    let model = half_dead(3);
    model.with(|m| m.bad.insert(1));
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    let report = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((report.victims, report.emptied, report.unmovable), (3, 2, 1));
    assert_eq!(cleaner.stats().unmovable_count, 1);
    model.self_check();
    let again = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!(again.victims, 0);
    // The file with the bad block goes away, and most of the rest.
    (0..10).for_each(|b| model.delete(b));
    let last = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((last.victims, last.emptied), (1, 1));
}

#[test]
fn a_victim_that_ends_badly_beside_others_is_not_begun_again_before_that_is_told() {
    for calm in [false, true] {
        for broken in 0..3 {
            let model = half_dead(3);
            let bad = model.with(|m| {
                (m.calm, m.relocation_heads) = (calm, 3);
                let bad = m.live_in(broken);
                m.bad.insert(bad);
                bad
            });
            let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
            let report = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
            // What a copy that failed left in a zone may be worth cleaning, too.
            assert_eq!((report.victims - report.emptied, report.unmovable), (1, 1), "block {bad}");
            assert_eq!(cleaner.stats().unmovable_count, 1);
            assert_eq!(model.pinned(), 0);
            model.self_check();
        }
    }
}

#[test]
fn failing_copies_do_not_spin_and_are_tried_again_later() {
    let model = half_dead(3);
    model.with(|m| m.faults.extend(std::iter::repeat_n(Fault::Fail(FailureKind::Transient, 0, false), 12)));
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    let report = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("an end");
    assert_eq!((report.victims, report.failed), (3, 3));
    (0..16).for_each(|_| checkpoint(&model, &mut cleaner));
    let report = cleaner.until_clean(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    assert_eq!((report.victims, report.emptied), (3, 3));
    assert_eq!(cleaner.stats().failures.get("transient"), Some(&12));
}

#[test]
fn a_campaign_may_be_interleaved_with_users() {
    let model = half_dead(6);
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    let mut campaign = Campaign::until_clean();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for steps in 0.. {
        assert!(steps < 1000, "it does not end");
        assert!(model.write(rng.random_range(0..96)));
        match campaign.step(&mut cleaner, model.room()).expect("no faults") {
            CampaignStep::More => {}
            CampaignStep::Checkpoint => {
                let freed = model.checkpoint();
                cleaner.checkpointed(freed);
                campaign.checkpointed(freed);
            }
            CampaignStep::Done => break,
        }
    }
    model.self_check();
}

#[test]
fn decisions_copies_and_commits_are_traced() {
    let path = tempfile::NamedTempFile::new().expect("a file");
    let model = half_dead(1);
    let config = CleanerConfig::new(Policy::Greedy, RESERVE, 32, 16);
    let mut cleaner = Cleaner::new(model.clone(), model.clone(), config, Tracer::to_file(path.path()).expect("a trace"));
    cleaner.clean_one_victim(|| model.room(), || Ok(model.checkpoint())).expect("clean");
    let text = std::fs::read_to_string(path.path()).expect("text");
    let events: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let names: Vec<&str> = events.iter().map(|e| e["event"].as_str().expect("a name")).collect();
    assert_eq!(names, ["decision", "copy", "commit", "victim"]);
    assert_eq!((events[0]["live"].as_u64(), events[0]["policy"].as_str()), (Some(8), Some("greedy")));
    assert_eq!((events[1]["blocks"].as_u64(), events[1]["road"].as_str()), (Some(8), Some("image")));
    assert_eq!((events[2]["moved"].as_u64(), events[3]["end"].as_str()), (Some(8), Some("emptied")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn users_and_cleaner_in_any_order_keep_every_block(
        ops in proptest::collection::vec((0u8..10, 0u64..200), 100..1500),
        faults in proptest::collection::vec(prop_oneof![
            8 => Just(Fault::Fine),
            4 => proptest::collection::vec(0u64..200, 0..5).prop_map(Fault::Race),
            1 => (0usize..4, any::<bool>()).prop_map(|(after, end)| Fault::Fail(FailureKind::Transient, after, end)),
        ], 0..60),
    ) {
        let model = Model::new(24, 16, 1, RESERVE as usize);
        model.with(|m| m.faults = faults.into());
        let mut cleaner = cleaner(&model, Policy::Greedy, 24, 16);
        for (kind, block) in ops {
            match kind {
                0..=5 => prop_assert!(write(&model, &mut cleaner, block), "no space although little is used"),
                6 => model.delete(block),
                7 => checkpoint(&model, &mut cleaner),
                _ => background(&model, &mut cleaner),
            }
        }
        model.self_check();
        let total = cleaner.stats();
        prop_assert_eq!(total.offloaded + total.by_host, total.relocated);
    }
}

#[test]
fn who_has_no_room_gets_the_victim_that_gives_most() {
    let victim = |caller| {
        let model = Model::new(12, 16, 1, 2);
        // Of the first zone one block dies, of the second one most do.
        for block in (0..32).chain([0]).chain(16..28).chain(40..48) {
            assert!(model.write(block));
        }
        let mut cleaner = cleaner(&model, Policy::Fifo, 12, 16);
        match cleaner.poll(&situation(&model, caller)).expect("it works").work {
            Work::Victim(report) => report.id.zone.0,
            Work::Chunk(_) => cleaner.victim().expect("one is being cleaned").id.zone.0,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((victim(Caller::Manual), victim(Caller::Blocked)), (0, 1));
}

#[test]
fn what_was_begun_for_others_does_not_bind_who_has_no_room() {
    for begun_for in [Caller::Manual, Caller::Background] {
        let model = Model::new(12, 16, 1, 2);
        // Of the first zones a block dies, of the last one most do.
        for block in (0..64).chain([0, 16, 32]).chain(48..60).chain(70..83) {
            assert!(model.write(block));
        }
        let mut cleaner = cleaner(&model, Policy::Fifo, 12, 16);
        assert!(cleaner.start_some(0, Room::of(1000), begun_for, 3) && cleaner.victims.len() == 3, "{:?}", cleaner.victims.len());
        let first = cleaner.victim().expect("one is being cleaned").id;
        assert_eq!(first.zone.0, 0);
        let Work::Victim(report) = cleaner.poll(&situation(&model, Caller::Blocked)).expect("it works").work else {
            panic!("the few blocks that live there are one chunk")
        };
        assert_eq!((report.id.zone.0, report.end, model.pinned()), (3, VictimEnd::Emptied, 0));
        model.self_check();
    }
}

#[test]
fn what_was_moved_in_part_is_gone_on_with() {
    let model = half_dead(4);
    let mut cleaner = cleaner(&model, Policy::Greedy, 32, 16);
    let config = RelocatorConfig { chunk_blocks: 2, ..RelocatorConfig::default() };
    cleaner.relocator = Relocator::new(model.clone(), model.clone(), config, Tracer::off());
    assert!(cleaner.start_some(0, Room::of(1000), Caller::Manual, 3));
    let first = cleaner.victim().expect("one is being cleaned").id;
    assert!(matches!(cleaner.relocator.step(), Ok(Step::Progress(Progress { moved: 2, .. }))));
    assert!(matches!(cleaner.poll(&situation(&model, Caller::Blocked)).expect("it works").work, Work::Chunk(_)));
    assert_eq!((cleaner.victims.len(), cleaner.victims[0].id, model.pinned()), (1, first, 1));
}
