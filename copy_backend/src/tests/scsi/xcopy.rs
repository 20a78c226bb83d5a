//! EXTENDED COPY: limits, sense data, what counts after a failure, what stands between a device and its disk.

use super::*;
use crate::topology::resolve::MadeOf;
use crate::{FailureKind, VerifyMode};
use scsi_target::{Code, Fault, Key, Refusal, XcopyConfig};

fn disks(xcopy: XcopyConfig) -> Vec<DiskConfig> {
    (1..3).map(|number| DiskConfig { xcopy: Some(xcopy.clone()), tokens: None, ..DiskConfig::new(number, 40 * ZONE, 4096) }).collect()
}

fn lab(xcopy: XcopyConfig) -> Lab {
    Lab::new(Road::ScsiXcopy, disks(xcopy), EngineConfig::default())
}

/// Nine sources of 37 blocks in all.
fn scattered(lab: &Lab, device: u8) -> Vec<SourceRange> {
    (0..9).map(|i| lab.source(device, i * 97 + i, 1 + i % 8)).collect()
}

/// Lets the road prove itself, so that what follows is only the test's.
fn prove(lab: &Lab, from: u8, to: u8) {
    let result = lab.copy(vec![lab.source(from, 1, 1)], lab.target(to, 39));
    assert_eq!((result.failure, result.road), (None, Road::ScsiXcopy));
}

#[test]
fn many_ranges_within_a_unit_and_between_two() {
    let lab = lab(XcopyConfig { max_segments: 4, ..XcopyConfig::default() });
    for (from, to, zone) in [(0, 0, 20), (0, 1, 21), (1, 0, 22)] {
        prove(&lab, from, to);
        let sources = scattered(&lab, from);
        let (expected, target, before) = (lab.contents(&sources), lab.target(to, zone), lab.count(0x83, 0));
        let neighbours = (lab.bytes(to, 0, target.lba.0), lab.bytes(to, target.lba.0 + 37, 40));
        let result = lab.copy(sources.clone(), target);
        assert_eq!((result.sources_done, result.failure, result.end_zone), (9, None, false));
        assert_eq!((result.bytes_done, result.offloaded), (37 * 4096, 37 * 4096));
        assert!(lab.bytes(to, target.lba.0, 37) == expected);
        assert!((lab.bytes(to, 0, target.lba.0), lab.bytes(to, target.lba.0 + 37, 40)) == neighbours);
        // Nine ranges, four in a command.
        assert_eq!(lab.count(0x83, 0) - before, 3);
    }
    let counters = lab.engine.counters(IoClass::Cleaning);
    assert_eq!((counters.host_read, counters.host_written), (0, 0));
    let status = lab.engine.route(DeviceId(0), DeviceId(1));
    assert_eq!((status.road, status.limits.max_ranges, status.limits.max_command_bytes), (Road::ScsiXcopy, 4, 64 << 20));
}

#[test]
fn the_first_copy_of_a_pair_is_one_block_and_read_back() {
    let lab = lab(XcopyConfig::default());
    let result = lab.copy(scattered(&lab, 0), lab.target(0, 20));
    assert_eq!(result.failure, None);
    assert_eq!(lab.engine.counters(IoClass::Cleaning).copies_verified, 1);
    // One block, then the eight other ranges.
    assert_eq!(lab.count(0x83, 0), 2);
}

#[test]
fn list_identifiers_where_a_target_needs_them() {
    let lab = lab(XcopyConfig { no_list_id: false, ..XcopyConfig::default() });
    prove(&lab, 0, 1);
    let taken = Fault::Refuse { disk: 1, command: (0x83, 0), skip: 0, with: Refusal::check(Key::IllegalRequest, Code(0x00, 0x16)) };
    lab.wire.target().inject(taken);
    let sources = scattered(&lab, 0);
    let target = lab.target(1, 20);
    assert_eq!(lab.copy(sources.clone(), target).failure, None);
    assert!(lab.bytes(1, target.lba.0, 37) == lab.contents(&sources));
}

#[test]
fn limits_that_are_kept_silent_are_learnt() {
    let lab = lab(XcopyConfig { max_segments: 3, advertised: false, ..XcopyConfig::default() });
    prove(&lab, 0, 0);
    assert_eq!(lab.engine.route(DeviceId(0), DeviceId(0)).limits.max_ranges, 64);
    let mut commands = Vec::new();
    for zone in 20..23 {
        let (sources, target) = (scattered(&lab, 0), lab.target(0, zone));
        let before = lab.count(0x83, 0);
        assert_eq!(lab.copy(sources.clone(), target).failure, None);
        assert!(lab.bytes(0, target.lba.0, 37) == lab.contents(&sources));
        commands.push(lab.count(0x83, 0) - before);
    }
    // Nine ranges, two in a command.
    assert_eq!(commands[2], 5, "{commands:?}");
    let limits = lab.engine.route(DeviceId(0), DeviceId(0)).limits;
    assert!(limits.max_ranges <= 3, "{limits:?}");
}

#[test]
fn long_ranges_become_segments_within_the_limits() {
    let lab = lab(XcopyConfig { max_segment_bytes: 5 * 4096 + 100, max_list_bytes: 64 + 28 * 2, ..XcopyConfig::default() });
    prove(&lab, 0, 1);
    let before = lab.count(0x83, 0);
    let (sources, target) = (vec![lab.source(0, 3, 23)], lab.target(1, 20));
    let result = lab.copy(sources.clone(), target);
    assert_eq!((result.sources_done, result.failure), (1, None));
    assert!(lab.bytes(1, target.lba.0, 23) == lab.contents(&sources));
    // 23 blocks, five in a segment, two segments in a command.
    assert_eq!(lab.count(0x83, 0) - before, 3);
}

#[test]
fn an_abort_on_the_way_counts_what_came_before() {
    for descriptor_sense in [false, true] {
        let configs = disks(XcopyConfig::default()).into_iter().map(|config| DiskConfig { descriptor_sense, ..config }).collect();
        let lab = Lab::new(Road::ScsiXcopy, configs, EngineConfig::default());
        prove(&lab, 0, 1);
        let (sources, target) = (scattered(&lab, 0), lab.target(1, 20));
        let bad = sources[4].lba.0;
        lab.wire.target().inject(Fault::Unreadable { disk: 0, lbas: bad..bad + 1 });
        let result = lab.copy(sources.clone(), target);
        assert_eq!((result.sources_done, result.failure, result.unreadable), (4, Some(FailureKind::SourceMedia), Some(4)));
        assert!(lab.bytes(1, target.lba.0, 10) == lab.contents(&sources[..4]));
        // A destination that fails.
        lab.wire.target().mend();
        let target = lab.target(1, 21);
        lab.wire.target().inject(Fault::Unwritable { disk: 1, lbas: target.lba.0 + 4..target.lba.0 + 5 });
        let result = lab.copy(sources.clone(), target);
        assert_eq!((result.sources_done, result.failure, result.end_zone), (2, Some(FailureKind::DestinationMedia), true));
        assert_eq!(result.write_pointer, Some(Lba(target.lba.0 + 3)));
    }
}

#[test]
fn without_a_word_about_segments_nothing_counts() {
    let lab = lab(XcopyConfig::default());
    prove(&lab, 0, 1);
    for with in
        [Refusal::check(Key::HardwareError, Code(0x44, 0)), Refusal::Status(0x18), Refusal::check(Key::CopyAborted, Code(0x0d, 0x01))]
    {
        lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x83, 0), skip: 0, with });
        // A single command: of two that fly it might be either.
        let result = lab.copy(scattered(&lab, 0)[..4].to_vec(), lab.target(1, 20));
        assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::Transient), true));
    }
    let counters = lab.engine.counters(IoClass::Cleaning);
    assert_eq!((counters.host_written, counters.fallbacks["transient"]), (0, 3));
}

#[test]
fn unit_attentions_and_busy_units_are_waited_out() {
    let lab = lab(XcopyConfig::default());
    prove(&lab, 0, 1);
    lab.wire.target().attention(1, Code::POWER_ON);
    lab.wire.target().attention(1, Code::PARAMETERS_CHANGED);
    lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x83, 0), skip: 0, with: Refusal::Status(0x08) });
    let (sources, target) = (scattered(&lab, 0), lab.target(1, 20));
    assert_eq!(lab.copy(sources.clone(), target).failure, None);
    assert!(lab.bytes(1, target.lba.0, 37) == lab.contents(&sources));
}

#[test]
fn a_road_that_is_refused_is_closed_with_the_devices_words() {
    let lab = lab(XcopyConfig::default());
    let with = Refusal::check(Key::CopyAborted, Code::COPY_TARGET_NOT_REACHABLE);
    lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x83, 0), skip: 0, with });
    let result = lab.copy(scattered(&lab, 0), lab.target(1, 20));
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::Unsupported), false));
    let status = lab.engine.route(DeviceId(0), DeviceId(1));
    assert_eq!(status.road, Road::Host);
    assert!(status.reason.contains("COPY TARGET DEVICE NOT REACHABLE") && status.reason.contains("sdb"), "{}", status.reason);
    assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(1)).unwrap(), RoadPreference::Host);
    // The other pairs keep theirs.
    assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(0)).unwrap(), RoadPreference::Offload);
}

#[test]
fn no_road_and_the_reason_why() {
    let why = |configs: Vec<DiskConfig>| {
        let lab = Lab::new(Road::ScsiXcopy, configs, EngineConfig { verify: VerifyMode::Off, ..EngineConfig::default() });
        let last = lab.devices.len() as u8 - 1;
        assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(last)).unwrap(), RoadPreference::Host);
        lab.engine.route(DeviceId(0), DeviceId(last)).reason
    };
    let good = || DiskConfig { tokens: None, ..DiskConfig::new(1, 40 * ZONE, 4096) };
    assert!(why(vec![DiskConfig { xcopy: None, ..good() }]).contains("3PC"));
    assert!(
        why(vec![DiskConfig { xcopy: None, tokens: Some(scsi_target::TokenConfig::default()), ..good() }]).contains("INVALID FIELD IN CDB")
    );
    assert!(why(vec![DiskConfig { designators: Vec::new(), ..good() }]).contains("no name"));
    assert!(why(vec![good(), DiskConfig::new(2, 400 * ZONE, 512)]).contains("blocks of 4096"));
    let one = XcopyConfig { max_cscds: 1, ..XcopyConfig::default() };
    assert!(why(vec![good(), DiskConfig { xcopy: Some(one.clone()), ..DiskConfig::new(2, 40 * ZONE, 4096) }]).contains("within one unit"));
    let lab = Lab::new(Road::ScsiXcopy, vec![DiskConfig { xcopy: Some(one), ..good() }], EngineConfig::default());
    prove(&lab, 0, 0);
    // Something between the device and its disk.
    lab.stand_on(0, "nvme0n1", MadeOf::Itself);
    let lab = Lab::new(Road::ScsiXcopy, vec![good()], EngineConfig::default());
    lab.stand_on(0, "nvme0n1", MadeOf::Itself);
    assert!(lab.engine.route(DeviceId(0), DeviceId(0)).reason.contains("nvme0n1 is not a SCSI disk"));
}

#[test]
fn addresses_of_a_partition_are_those_of_its_disk() {
    let lab = lab(XcopyConfig::default());
    let disk = DevNumber { major: MAJOR, minor: 0 };
    lab.stand_on(0, "sda1", MadeOf::Partition { disk, start: 5 * 4096 });
    // The device reads and writes its disk without the offset: what it would find at block n lies at n + 5 for the road.
    let expected = lab.bytes(0, 10 + 5, 20);
    let target = lab.target(0, 20);
    let class = IoClass::Cleaning;
    let request = CopyRequest { sources: vec![lab.source(0, 10, 20)], target, class, checksums: Vec::new(), road: RoadPreference::Offload };
    // The proof finds other bytes than it expects: this device is not where its table says.
    let result = lab.engine.copy(request).unwrap();
    assert_eq!(result.failure, Some(FailureKind::WrongData));
    assert!(lab.bytes(0, target.lba.0 + 5, 1) == expected[..4096]);
    assert_eq!(lab.engine.route(DeviceId(0), DeviceId(0)).reason, "copied wrongly");
}
