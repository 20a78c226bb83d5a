//! Routing, limits, both roads, many zones at once.

use super::*;
use crate::{CopyError, FailureKind, Road, RouteChoice, VerifyMode};
use zns::NvmeStatus;
use zns::sim::Fault;

fn scattered(lab: &Lab, device: u8) -> Vec<SourceRange> {
    let mut sources: Vec<SourceRange> = (0..12).map(|i| lab.source(device, i % 4, u64::from(i * 5), 1 + u64::from(i % 3))).collect();
    sources.push(lab.source(device, 4, 60, 8));
    sources
}

#[test]
fn both_roads_carry_the_same_bytes() {
    for block in [512, 4096] {
        let lab = Lab::one(block, EngineConfig { verify: VerifyMode::Full, ..EngineConfig::default() });
        let sources = scattered(&lab, 0);
        let expected = lab.contents(&sources);
        assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(0)).unwrap(), RoadPreference::Offload);
        for (zone, road) in [(10, RoadPreference::Offload), (11, RoadPreference::Host)] {
            let target = lab.target(0, zone);
            let result = lab.engine.copy(lab.request(sources.clone(), target, road)).unwrap();
            assert_eq!((result.sources_done, result.failure, result.end_zone), (sources.len(), None, false));
            assert_eq!(result.bytes_done, expected.len() as u64);
            assert!(lab.at(target, result.bytes_done) == expected);
            let offload = road == RoadPreference::Offload;
            assert_eq!(result.offloaded, if offload { result.bytes_done } else { 0 });
            assert_eq!(result.road, if offload { Road::Image } else { Road::Host });
            assert_eq!(lab.target(0, zone).lba.0 - target.lba.0, result.bytes_done / u64::from(block));
        }
        let counters = lab.engine.counters(IoClass::Cleaning);
        let bytes = expected.len() as u64;
        assert_eq!((counters.offloaded, counters.host_read, counters.host_written), (bytes, bytes, bytes));
        assert_eq!(counters.roads[&Road::Image].bytes, bytes);
        assert_eq!(counters.commands, counters.roads[&Road::Image].commands + counters.roads[&Road::Host].commands);
        assert_eq!((counters.verify_read, counters.copies_rejected), (2 * bytes, 0));
        assert_eq!(counters.copies_verified, counters.roads.values().map(|road| road.ranges).sum::<u64>());
        assert_eq!(lab.engine.counters(IoClass::Copy), crate::CopyCounters::default());
        assert!(lab.drives[0].violations().is_empty(), "{:?}", lab.drives[0].violations());
    }
}

#[test]
fn between_two_devices_only_the_host_carries() {
    let lab = Lab::new(vec![config(512, 1), config(4096, 2)], EngineConfig::default());
    for (from, to) in [(0, 1), (1, 0)] {
        assert_eq!(lab.engine.road_for(DeviceId(from), DeviceId(to)).unwrap(), RoadPreference::Host);
        let sources = scattered(&lab, from);
        let target = lab.target(to, 20);
        let offload = lab.engine.copy(lab.request(sources.clone(), target, RoadPreference::Offload)).unwrap();
        assert_eq!((offload.sources_done, offload.failure, offload.end_zone), (0, Some(FailureKind::Unsupported), false));
        assert_eq!(offload.write_pointer, Some(target.lba));
        let result = lab.engine.copy(lab.request(sources.clone(), target, RoadPreference::Host)).unwrap();
        assert_eq!((result.sources_done, result.failure), (sources.len(), None));
        assert!(lab.at(target, result.bytes_done) == lab.contents(&sources));
    }
    // Sources of both devices in one request.
    let mixed = vec![lab.source(0, 1, 3, 5), lab.source(1, 2, 9, 2), lab.source(0, 1, 8, 1)];
    let target = lab.target(1, 21);
    let result = lab.engine.copy(lab.request(mixed.clone(), target, RoadPreference::Host)).unwrap();
    assert_eq!(result.sources_done, 3);
    assert!(lab.at(target, result.bytes_done) == lab.contents(&mixed));
    let status = lab.engine.routes();
    assert_eq!(status.len(), 4);
    let road = |from, to| status.iter().find(|s| (s.from, s.to) == (DeviceId(from), DeviceId(to))).unwrap();
    assert_eq!((road(0, 0).road, road(0, 0).simulated, road(0, 0).limits.max_ranges), (Road::Image, true, 3));
    assert_eq!((road(0, 1).road, road(0, 1).simulated), (Road::Host, false));
    assert!(road(0, 1).reason.contains("within one device"), "{}", road(0, 1).reason);
}

#[test]
fn route_choices_are_obeyed() {
    let lab = Lab::one(4096, EngineConfig { route: RouteChoice::Host, ..EngineConfig::default() });
    assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(0)).unwrap(), RoadPreference::Host);
    assert_eq!(lab.engine.routes()[0].reason, "copy_route=host");
    let result = lab.engine.copy(lab.request(scattered(&lab, 0), lab.target(0, 10), RoadPreference::Offload)).unwrap();
    assert_eq!((result.failure, result.end_zone), (Some(FailureKind::Unsupported), false));

    let no_copy = SimConfig { copy: None, ..config(4096, 3) };
    let offload = EngineConfig { route: RouteChoice::Offload, ..EngineConfig::default() };
    let lab = Lab::new(vec![no_copy, config(4096, 4)], offload);
    let request = |device: u8, road| lab.request(scattered(&lab, device), lab.target(device, 10), road);
    assert!(matches!(lab.engine.road_for(DeviceId(0), DeviceId(0)), Err(CopyError::NoOffload { .. })));
    assert!(matches!(lab.engine.copy(request(0, RoadPreference::Offload)), Err(CopyError::NoOffload { .. })));
    assert!(matches!(lab.engine.copy(request(1, RoadPreference::Host)), Err(CopyError::NoOffload { .. })));
    assert_eq!(lab.engine.copy(request(1, RoadPreference::Offload)).unwrap().failure, None);
    assert_eq!(lab.drives[0].stats().reads + lab.drives[1].stats().reads, 0);
}

#[test]
fn senseless_requests_are_refused_without_io() {
    let lab = Lab::one(4096, EngineConfig::default());
    let ops = lab.drives[0].ops();
    let good = lab.request(vec![lab.source(0, 0, 0, 4)], lab.target(0, 10), RoadPreference::Offload);
    let bad = [
        CopyRequest { sources: vec![], checksums: vec![], ..good.clone() },
        CopyRequest { checksums: vec![1, 2, 3], ..good.clone() },
        CopyRequest { target: Target { device: DeviceId(9), lba: Lba(0) }, ..good.clone() },
        CopyRequest { sources: vec![lab.source(0, 10, 0, 4)], ..good.clone() },
    ];
    for request in bad {
        assert!(matches!(lab.engine.copy(request), Err(CopyError::Invalid(_))));
    }
    assert_eq!(lab.drives[0].ops(), ops);
}

#[test]
fn many_zones_are_filled_side_by_side_and_one_zone_in_order() {
    for road in [RoadPreference::Offload, RoadPreference::Host] {
        let lab = Lab::one(4096, EngineConfig::default());
        let mut requests = Vec::new();
        let mut expected = Vec::new();
        for zone in 10..20 {
            let start = lab.target(0, zone);
            for part in 0..3u64 {
                let sources = vec![lab.source(0, zone % 5, part * 7, 9), lab.source(0, 5, part, 3)];
                let target = Target { lba: start.lba + Blocks(part * 12), ..start };
                expected.push((target, lab.contents(&sources)));
                requests.push(lab.request(sources, target, road));
            }
        }
        let results = lab.copy_many(requests);
        for (result, (target, bytes)) in results.into_iter().zip(expected) {
            let result = result.unwrap();
            assert_eq!((result.sources_done, result.failure), (2, None));
            assert!(lab.at(target, bytes.len() as u64) == bytes);
        }
        assert!(lab.drives[0].violations().is_empty(), "{:?}", lab.drives[0].violations());
    }
}

#[test]
fn callers_in_many_threads_do_not_disturb_each_other() {
    let lab = Lab::one(4096, EngineConfig { verify: VerifyMode::Sampled, ..EngineConfig::default() });
    std::thread::scope(|scope| {
        for zone in 8..20 {
            let lab = &lab;
            scope.spawn(move || {
                let road = if zone % 2 == 0 { RoadPreference::Offload } else { RoadPreference::Host };
                for part in 0..4u64 {
                    let sources = vec![lab.source(0, zone % 6, part * 9, 7), lab.source(0, (zone + 1) % 6, part, 2)];
                    let target = lab.target(0, zone);
                    let result = lab.engine.copy(lab.request(sources.clone(), target, road)).unwrap();
                    assert_eq!((result.sources_done, result.failure), (2, None));
                    assert!(lab.at(target, result.bytes_done) == lab.contents(&sources));
                }
            });
        }
    });
    let counters = lab.engine.counters(IoClass::Cleaning);
    let ranges: u64 = counters.roads.values().map(|road| road.ranges).sum();
    assert_eq!(counters.copies_verified, ranges.div_ceil(16));
    assert!(lab.drives[0].violations().is_empty(), "{:?}", lab.drives[0].violations());
}

#[test]
fn a_device_that_lies_about_its_limits_is_asked_for_less() {
    let lab = Lab::one(4096, EngineConfig::default());
    let size_limit = Fault::CopyRefused(NvmeStatus::SIZE_LIMIT);
    lab.drives[0].fail_at(0, size_limit);
    lab.drives[0].fail_at(0, size_limit);
    let sources = vec![lab.source(0, 0, 0, 64)];
    let target = lab.target(0, 10);
    let result = lab.engine.copy(lab.request(sources.clone(), target, RoadPreference::Offload)).unwrap();
    assert_eq!((result.sources_done, result.failure), (1, None));
    assert!(lab.at(target, result.bytes_done) == lab.contents(&sources));
    // One range was refused: it is its length that is learnt.
    let limits = lab.engine.routes()[0].limits;
    assert_eq!((limits.max_range_bytes, limits.max_ranges, limits.max_command_bytes), (16 * 4096, 3, 128 * 4096));
    // One that takes nothing at all loses the road in the end.
    for _ in 0..20 {
        lab.drives[0].fail_at(0, size_limit);
    }
    let target = lab.target(0, 11);
    let result = lab.engine.copy(lab.request(sources, target, RoadPreference::Offload)).unwrap();
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::TooLarge), false));
    assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(0)).unwrap(), RoadPreference::Host);
    assert!(lab.engine.routes()[0].reason.contains("Command Size Limit Exceeded"), "{}", lab.engine.routes()[0].reason);
    assert_eq!(lab.engine.counters(IoClass::Cleaning).fallbacks["command-too-large"], 1);
}

#[test]
fn a_copy_that_was_begun_holds_its_zone_until_it_is_over() {
    for road in [RoadPreference::Offload, RoadPreference::Host] {
        let lab = Lab::one(4096, EngineConfig::default());
        let sources = scattered(&lab, 0);
        let expected = lab.contents(&sources);
        let target = lab.target(0, 10);
        let begun = lab.engine.begin(lab.request(sources.clone(), target, road)).unwrap();
        let taken = lab.engine.begin(lab.request(sources.clone(), target, road)).err().expect("taken").to_string();
        assert!(taken.contains("another copy into zone 10"), "{taken}");
        assert!(lab.engine.copy(lab.request(sources.clone(), target, road)).is_err());
        // Other zones are free.
        let other = lab.target(0, 11);
        assert_eq!(lab.engine.copy(lab.request(sources.clone(), other, road)).unwrap().failure, None);
        let result = begun.finish().unwrap();
        assert_eq!((result.sources_done, result.failure, result.bytes_done), (sources.len(), None, expected.len() as u64));
        assert!(lab.at(target, result.bytes_done) == expected);
        // It was given back; and so it is by one that nobody waits for.
        drop(lab.engine.begin(lab.request(vec![sources[0]], lab.target(0, 10), road)).unwrap());
        let next = lab.engine.copy(lab.request(vec![sources[0]], lab.target(0, 10), road)).unwrap();
        assert_eq!((next.failure, next.sources_done), (None, 1));
        assert!(lab.drives[0].violations().is_empty(), "{:?}", lab.drives[0].violations());
    }
}

#[test]
fn a_copy_that_was_begun_says_what_failed() {
    let lab = Lab::one(4096, EngineConfig::default());
    let sources = scattered(&lab, 0);
    assert!(lab.engine.begin(lab.request(Vec::new(), lab.target(0, 10), RoadPreference::Offload)).is_err());
    lab.drives[0].fail_at(lab.drives[0].ops(), Fault::CopyPartial);
    let begun = lab.engine.begin(lab.request(sources, lab.target(0, 10), RoadPreference::Offload)).unwrap();
    let result = begun.finish().unwrap();
    assert!(result.failure.is_some() && result.end_zone, "{result:?}");
    assert!(lab.engine.begin(lab.request(vec![lab.source(0, 0, 0, 1)], lab.target(0, 11), RoadPreference::Host)).is_ok());
}
