//! Everything that can fail, one by one and at random.

use super::*;
use crate::{FailureKind, Road, VerifyMode};
use proptest::prelude::*;
use zns::sim::{Fault, FaultPlan};
use zns::{DeviceError, NvmeStatus, ZoneAction, ZoneState};

const D: DeviceId = DeviceId(0);

fn full() -> EngineConfig {
    EngineConfig { verify: VerifyMode::Full, ..EngineConfig::default() }
}

fn list(lab: &Lab) -> Vec<SourceRange> {
    // Three ranges to a command: two commands.
    (0..6).map(|i| lab.source(0, i, u64::from(i) * 3, 4)).collect()
}

#[test]
fn a_refusal_closes_the_road_and_spares_the_zone() {
    let lab = Lab::one(4096, full());
    lab.drives[0].fail_at(0, Fault::CopyRefused(NvmeStatus::INVALID_OPCODE));
    let target = lab.target(0, 10);
    let result = lab.engine.copy(lab.request(list(&lab), target, RoadPreference::Offload)).unwrap();
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::Unsupported), false));
    assert_eq!(result.write_pointer, Some(target.lba));
    assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Host);
    let status = &lab.engine.routes()[0];
    assert_eq!(status.road, Road::Host);
    assert!(status.reason.contains("Invalid Command Opcode"), "{}", status.reason);
    assert_eq!(lab.engine.counters(IoClass::Cleaning).fallbacks["unsupported"], 1);
}

#[test]
fn a_partial_copy_ends_the_zone_and_keeps_what_was_done() {
    let lab = Lab::one(4096, full());
    lab.drives[0].fail_at(lab.drives[0].ops() + 4, Fault::CopyPartial);
    let (target, sources) = (lab.target(0, 10), list(&lab));
    let request = lab.request(sources.clone(), target, RoadPreference::Offload);
    let result = lab.engine.copy(request).unwrap();
    assert!(result.failure == Some(FailureKind::Transient) && result.end_zone && result.sources_done >= 3, "{result:?}");
    assert_eq!(result.write_pointer, Some(lab.target(0, 10).lba));
    assert!(lab.at(target, result.bytes_done) == lab.contents(&sources[..result.sources_done]));
    // The host is given the rest of the command that failed, which was the second of two; the device is trusted with everything else.
    assert_eq!(result.for_host, sources.len() - result.sources_done);
    assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Offload);
    let rest = lab.request(sources[result.sources_done..].to_vec(), lab.target(0, 11), RoadPreference::Host);
    assert_eq!(lab.engine.copy(rest).unwrap().failure, None);
    assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Offload);
    assert_eq!(lab.engine.counters(IoClass::Cleaning).fallbacks["transient"], 1);
}

/// The command that failed is the host's, and nothing behind it.
#[test]
fn only_what_a_device_failed_on_is_left_to_the_host() {
    let lab = Lab::one(4096, full());
    lab.drives[0].fail_at(lab.drives[0].ops(), Fault::CopyRefused(NvmeStatus(0x006)));
    // Three ranges to a command: four commands, of which the first fails.
    let sources: Vec<SourceRange> = (0..12).map(|i| lab.source(0, i % 6, u64::from(i) * 3, 4)).collect();
    let result = lab.engine.copy(lab.request(sources, lab.target(0, 10), RoadPreference::Offload)).unwrap();
    assert_eq!((result.failure, result.sources_done, result.for_host), (Some(FailureKind::Transient), 0, 3));
}

/// What the host makes good is not to the device's credit.
#[test]
fn failures_that_the_host_makes_good_are_in_a_row_all_the_same() {
    let lab = Lab::one(4096, EngineConfig::default());
    for zone in 10..14 {
        assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Offload);
        // A copy that cannot read what the host can, from its first range on.
        lab.drives[0].fail_at(lab.drives[0].ops(), Fault::ReadError);
        let result = lab.engine.copy(lab.request(list(&lab), lab.target(0, zone), RoadPreference::Offload)).unwrap();
        assert_eq!((result.failure, result.sources_done, result.for_host), (Some(FailureKind::Transient), 0, 3), "{result:?}");
        let rest = lab.request(list(&lab)[..3].to_vec(), lab.target(0, 20), RoadPreference::Host);
        assert_eq!(lab.engine.copy(rest).unwrap().failure, None);
    }
    assert!(lab.engine.routes()[0].reason.contains("4 times in a row"));
}

#[test]
fn failures_in_a_row_close_the_road() {
    let lab = Lab::one(4096, EngineConfig::default());
    for zone in 10..14 {
        lab.drives[0].fail_at(0, Fault::CopyRefused(NvmeStatus(0x006)));
        let result = lab.engine.copy(lab.request(list(&lab), lab.target(0, zone), RoadPreference::Offload)).unwrap();
        assert!(result.failure == Some(FailureKind::Transient) && result.end_zone);
    }
    let status = &lab.engine.routes()[0];
    assert!(status.road == Road::Host && status.reason.contains("4 times in a row"), "{}", status.reason);
}

#[test]
fn a_wrong_copy_is_found_and_ends_the_road() {
    for with_checksums in [true, false] {
        let lab = Lab::one(4096, full());
        lab.drives[0].fail_at(lab.drives[0].ops() + 3, Fault::CopyWrong);
        let (target, sources) = (lab.target(0, 10), list(&lab));
        let mut request = lab.request(sources.clone(), target, RoadPreference::Offload);
        if !with_checksums {
            request.checksums.clear();
        }
        let result = lab.engine.copy(request).unwrap();
        assert_eq!((result.sources_done, result.failure, result.end_zone), (3, Some(FailureKind::WrongData), true));
        assert!(lab.at(target, result.bytes_done) == lab.contents(&sources[..3]));
        let counters = lab.engine.counters(IoClass::Cleaning);
        assert_eq!((counters.copies_rejected, counters.fallbacks["copied-wrongly"]), (1, 1));
        assert_eq!(counters.roads[&Road::Image].bytes, 3 * 4 * 4096);
        assert_eq!((counters.host_read, counters.host_written), (0, 0), "what verification reads is counted by itself");
        assert_eq!(lab.engine.routes()[0].reason, "copied wrongly");
        assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Host);
    }
}

#[test]
fn a_faithful_copy_of_damage_is_not_held_against_the_road() {
    let lab = Lab::one(4096, full());
    let sources = list(&lab);
    let request = lab.request(sources.clone(), lab.target(0, 10), RoadPreference::Offload);
    lab.drives[0].flip_bit(sources[1].lba, 100, 3);
    let result = lab.engine.copy(request).unwrap();
    assert_eq!((result.sources_done, result.failure), (6, None));
    assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Offload);
}

#[test]
fn an_unreadable_source_is_named_and_one_that_the_host_can_read_is_not() {
    for road in [RoadPreference::Offload, RoadPreference::Host] {
        let lab = Lab::one(4096, EngineConfig::default());
        // Neighbours that travel as one range: the second is the bad one.
        let mut sources = list(&lab);
        sources.insert(3, SourceRange { lba: sources[2].lba + sources[2].blocks, blocks: Blocks(2), ..sources[2] });
        lab.drives[0].add_bad_block(sources[3].lba + Blocks(1));
        let target = lab.target(0, 10);
        let result = lab.engine.copy(lab.request(sources.clone(), target, road)).unwrap();
        assert_eq!((result.failure, result.unreadable), (Some(FailureKind::SourceMedia), Some(3)), "{road:?}");
        assert!(result.sources_done <= 3);
        assert!(lab.at(target, result.bytes_done) == lab.contents(&sources[..result.sources_done]));
        assert!(result.end_zone || result.write_pointer == Some(target.lba + Blocks(result.bytes_done / 4096)));
    }
    let lab = Lab::one(4096, EngineConfig::default());
    lab.drives[0].fail_at(lab.drives[0].ops() + 1, Fault::ReadError);
    let result = lab.engine.copy(lab.request(list(&lab), lab.target(0, 10), RoadPreference::Offload)).unwrap();
    assert_eq!((result.failure, result.unreadable, result.for_host), (Some(FailureKind::Transient), None, 2));
}

#[test]
fn worn_zones_end_the_request_with_the_right_cause() {
    for (state, zone, expected) in [
        (ZoneState::ReadOnly, 10, FailureKind::DestinationZone),
        (ZoneState::Offline, 10, FailureKind::DestinationZone),
        (ZoneState::Offline, 1, FailureKind::SourceMedia),
    ] {
        for road in [RoadPreference::Offload, RoadPreference::Host] {
            let lab = Lab::one(4096, EngineConfig::default());
            lab.drives[0].wear_out(ZoneId(zone), state);
            let result = lab.engine.copy(lab.request(list(&lab), lab.target(0, 10), road)).unwrap();
            assert_eq!(result.failure, Some(expected), "{state:?} {zone} {road:?}");
            assert_eq!(result.unreadable, (zone == 1).then_some(1));
            assert_eq!(
                result.end_zone,
                zone == 10
                    || result.write_pointer
                        != Some(
                            lab.request(list(&lab), Target { device: D, lba: Lba(640 + 4 * result.sources_done as u64) }, road).target.lba
                        )
            );
            assert_eq!(lab.engine.route(D, D).road, Road::Image, "the road is not to blame");
        }
    }
}

#[test]
fn a_destination_that_cannot_be_written_ends_the_zone_on_both_roads() {
    for road in [RoadPreference::Offload, RoadPreference::Host] {
        let lab = Lab::one(4096, EngineConfig::default());
        lab.drives[0].fail_at(0, Fault::WriteError);
        let (target, sources) = (lab.target(0, 10), list(&lab));
        let result = lab.engine.copy(lab.request(sources.clone(), target, road)).unwrap();
        assert!(result.failure == Some(FailureKind::DestinationMedia) && result.end_zone, "{result:?}");
        assert_eq!(result.write_pointer, Some(lab.target(0, 10).lba));
        assert!(lab.at(target, result.bytes_done) == lab.contents(&sources[..result.sources_done]));
    }
}

#[test]
fn a_write_that_went_astray_is_found_on_the_host_road_too() {
    let lab = Lab::one(4096, full());
    let request = lab.request(list(&lab), lab.target(0, 10), RoadPreference::Host);
    lab.drives[0].fail_at(0, Fault::MisdirectedWrite);
    let result = lab.engine.copy(request).unwrap();
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::WrongData), true));
    assert_eq!(lab.engine.route(D, D).road, Road::Image, "the host's failure says nothing about the device's road");
    assert_eq!(lab.engine.counters(IoClass::Cleaning).copies_rejected, 1);
}

#[test]
fn a_destination_that_cannot_be_read_back_does_not_count() {
    let lab = Lab::one(4096, full());
    let target = lab.target(0, 10);
    lab.drives[0].add_bad_block(target.lba + Blocks(5));
    let result = lab.engine.copy(lab.request(list(&lab), target, RoadPreference::Offload)).unwrap();
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::DestinationMedia), true));
    assert_eq!(lab.engine.route(D, D).road, Road::Image);
}

#[test]
fn requests_behind_a_failure_in_their_zone_are_not_begun() {
    // Two zones are copied into at once, and whose command reaches the drive first is for threads to decide.
    let fails_in_the_first_zone = || {
        let lab = Lab::one(4096, EngineConfig::default());
        lab.drives[0].fail_at(0, Fault::WriteError);
        let first = lab.target(0, 10);
        let second = Target { lba: first.lba + Blocks(24), ..first };
        let other = lab.target(0, 11);
        let requests = [first, second, other].map(|target| lab.request(list(&lab), target, RoadPreference::Offload)).to_vec();
        let results: Vec<_> = lab.copy_many(requests).into_iter().map(Result::unwrap).collect();
        assert!(lab.drives[0].violations().is_empty());
        if results[2].failure.is_some() {
            assert!(results[..2].iter().all(|result| (result.failure, result.sources_done) == (None, 6)), "{results:?}");
            return false;
        }
        assert!(results[0].failure.is_some() && results[0].end_zone);
        assert!(results[1].failure.is_some() && results[1].end_zone && results[1].sources_done == 0);
        assert_eq!(results[2].sources_done, 6);
        true
    };
    assert!((0..200).any(|_| fails_in_the_first_zone()));
}

#[test]
fn without_power_the_result_says_so_and_nothing_hangs() {
    let lab = Lab::one(4096, full());
    for road in [RoadPreference::Offload, RoadPreference::Host] {
        lab.drives[0].cut_power();
        let target = Target { device: D, lba: Lba(640) };
        let result = lab.engine.copy(lab.request(list(&lab), target, road)).unwrap();
        assert!(result.failure.is_some() && result.end_zone && result.write_pointer.is_none() && result.sources_done == 0);
        lab.drives[0].power_cycle();
    }
}

/// A caller as the contract wants it: asks for the road, gives each kind of road its own zones, ends them when told to.
struct Caller {
    zones: std::collections::HashMap<RoadPreference, u32>,
    next: u32,
}

impl Caller {
    fn zone(&mut self, lab: &Lab, road: RoadPreference, bytes: u64) -> Option<Target> {
        if let Some(zone) = self.zones.get(&road) {
            let info = lab.drives[0].zone(ZoneId(*zone));
            if (info.capacity.0 - info.written.0) * lab.block(0) >= bytes {
                return Some(lab.target(0, *zone));
            }
            self.end(lab, road);
        }
        (self.next < ZONES).then(|| {
            self.zones.insert(road, self.next);
            self.next += 1;
            lab.target(0, self.next - 1)
        })
    }
    fn end(&mut self, lab: &Lab, road: RoadPreference) {
        if let Some(zone) = self.zones.remove(&road) {
            // A zone that is worn out cannot be finished; it is out of use anyway.
            match lab.engine.devices[0].manage(ZoneId(zone), ZoneAction::Finish) {
                Ok(()) | Err(DeviceError::Zone { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn what_is_reported_done_is_at_the_destination_and_nothing_else_changes(
        seed in any::<u64>(),
        small in any::<bool>(),
        requests in proptest::collection::vec(
            (proptest::collection::vec((0..SOURCE_ZONES, 0..60u64, 1..12u64), 1..6), any::<bool>()), 1..6),
        chances in (0..3u32, 0..3u32, 0..3u32, 0..3u32, 0..3u32),
        worn in proptest::option::of((0..ZONES, any::<bool>(), 0..60u64)),
    ) {
        let chance = |level: u32| f64::from(level) * 0.04;
        let lab = Lab::new(vec![config(if small { 512 } else { 4096 }, seed)], full());
        lab.drives[0].set_faults(FaultPlan {
            read_error: chance(chances.0),
            write_error: chance(chances.1),
            copy_refused: chance(chances.2),
            copy_partial: chance(chances.3),
            copy_wrong: chance(chances.4),
            ..FaultPlan::default()
        });
        if let Some((zone, offline, after)) = worn {
            let zone = ZoneId(zone);
            lab.drives[0].fail_at(lab.drives[0].ops() + after, if offline { Fault::ZoneOffline(zone) } else { Fault::ZoneReadOnly(zone) });
        }
        let untouched = lab.drives[0].fork();
        let mut caller = Caller { zones: Default::default(), next: SOURCE_ZONES };
        // What was reported done, and where it must be.
        let mut done: Vec<(Target, Vec<u8>)> = Vec::new();
        for (ranges, with_checksums) in requests {
            let mut left: Vec<SourceRange> =
                ranges.into_iter().map(|(zone, from, len)| lab.source(0, zone, from.min(64 - len), len)).collect();
            let mut for_host = 0;
            for _attempt in 0..40 {
                if left.is_empty() {
                    break;
                }
                let road = if for_host > 0 { RoadPreference::Host } else { lab.engine.road_for(D, D).unwrap() };
                let asked = if for_host > 0 { for_host } else { left.len() };
                let bytes = left[..asked].iter().map(|source| source.blocks.0 * lab.block(0)).sum();
                let Some(target) = caller.zone(&lab, road, bytes) else { break };
                let mut request = lab.request(left[..asked].to_vec(), target, road);
                if !with_checksums {
                    request.checksums.clear();
                }
                let result = lab.engine.copy(request).unwrap();
                prop_assert_eq!(result.failure.is_none(), result.sources_done == asked);
                prop_assert!(result.for_host <= asked - result.sources_done);
                prop_assert!(result.for_host == 0 || (result.failure.is_some() && road == RoadPreference::Offload));
                for_host = if road == RoadPreference::Host { for_host.saturating_sub(result.sources_done) } else { result.for_host };
                prop_assert_eq!(result.road.is_offload(), result.offloaded > 0 || (road == RoadPreference::Offload && result.road != Road::Host));
                let moved: Vec<SourceRange> = left.drain(..result.sources_done).collect();
                done.push((target, lab.contents(&moved)));
                prop_assert_eq!(result.bytes_done as usize, done.last().unwrap().1.len());
                if result.failure.is_some() {
                    prop_assert_eq!(result.write_pointer, Some(lab.target(0, lab.engine.devices[0].geometry().zone_of(target.lba).0).lba));
                }
                if let Some(index) = result.unreadable {
                    prop_assert!(index >= result.sources_done);
                    left.remove(index - result.sources_done);
                    for_host = for_host.saturating_sub(1);
                }
                if result.end_zone {
                    caller.end(&lab, road);
                } else {
                    let end = target.lba + Blocks(result.bytes_done / lab.block(0));
                    prop_assert_eq!(lab.target(0, lab.engine.devices[0].geometry().zone_of(target.lba).0).lba, end);
                }
            }
        }
        for (target, bytes) in &done {
            prop_assert!(lab.at(*target, bytes.len() as u64) == *bytes);
        }
        let used = caller.next;
        for zone in (0..SOURCE_ZONES).chain(used..ZONES) {
            let whole = lab.source(0, zone, 0, 64);
            let before = untouched.peek(whole.lba, whole.blocks);
            prop_assert!(lab.drives[0].peek(whole.lba, whole.blocks) == before);
        }
        prop_assert!(lab.drives[0].violations().is_empty(), "{:?}", lab.drives[0].violations());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn many_zones_with_faults_keep_apart(
        seed in any::<u64>(),
        two_devices in any::<bool>(),
        loads in proptest::collection::vec(
            (6..20u32, any::<bool>(), proptest::collection::vec((0..SOURCE_ZONES, 0..60u64, 1..5u64), 1..5)), 1..14),
    ) {
        let lab = Lab::new(vec![config(4096, seed), config(512, seed ^ 1)], full());
        for drive in &lab.drives {
            drive.set_faults(FaultPlan { read_error: 0.03, write_error: 0.03, copy_refused: 0.03, copy_partial: 0.03, copy_wrong: 0.03, ..FaultPlan::default() });
        }
        let to = u8::from(two_devices);
        let mut kinds = std::collections::HashMap::new();
        let mut ends = std::collections::HashMap::new();
        let mut requests = Vec::new();
        for (zone, offload, ranges) in loads {
            // The kind of a zone stays what its first request made it.
            let road = *kinds.entry(zone).or_insert(if offload && !two_devices { RoadPreference::Offload } else { RoadPreference::Host });
            let sources: Vec<SourceRange> = ranges.into_iter().map(|(z, from, len)| lab.source(0, z, from.min(64 - len), len)).collect();
            let blocks: u64 = sources.iter().map(|source| source.blocks.0).sum();
            let end = ends.entry(zone).or_insert(0);
            if *end + blocks <= 64 {
                let start = lab.target(to, zone);
                let target = Target { lba: start.lba + Blocks(*end * 4096 / lab.block(to)), ..start };
                requests.push(lab.request(sources, target, road));
                *end += blocks;
            }
        }
        let results = lab.copy_many(requests.clone());
        prop_assert_eq!(results.len(), requests.len());
        let mut ended = std::collections::HashSet::new();
        for (request, result) in requests.into_iter().zip(results) {
            let result = result.unwrap();
            let zone = request.target.lba.0 * lab.block(to) / ZONE_BYTES;
            prop_assert!(!ended.contains(&zone) || result.sources_done == 0, "nothing follows a failure in its zone");
            if result.failure.is_some() {
                ended.insert(zone);
            }
            prop_assert!(lab.at(request.target, result.bytes_done) == lab.contents(&request.sources[..result.sources_done]));
        }
        for drive in &lab.drives {
            prop_assert!(drive.violations().is_empty(), "{:?}", drive.violations());
        }
    }
}
