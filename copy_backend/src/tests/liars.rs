//! Devices that promise more than they take: which limit lies is found out by the commands that they refuse, and the others are kept.

use super::*;
use crate::image::ImageRoad;
use crate::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use zns::Ticket;

/// The road of a simulated drive, whose own limits it does not tell.
struct Promise {
    road: ImageRoad,
    ranges: u32,
    range_blocks: u64,
    command_blocks: u64,
    /// It says no more than that it does not like a command.
    silent: bool,
}

impl CopyBackend for Promise {
    fn road(&self) -> Road {
        self.road.road()
    }
    fn caps(&self, from: DeviceId, to: DeviceId) -> Result<CopyCaps, NoRoad> {
        let caps = self.road.caps(from, to)?;
        let (max_range_bytes, max_command_bytes) = (self.range_blocks * 4096, self.command_blocks * 4096);
        Ok(CopyCaps { max_ranges: self.ranges, max_range_bytes, max_command_bytes, ..caps })
    }
    fn submit(&self, command: CopyCommand) -> crate::Result<Ticket> {
        self.road.submit(command)
    }
    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        let mut outcome = self.road.complete(ticket);
        if self.silent && outcome.failure == Some(FailureKind::TooLarge) {
            outcome.failure = Some(FailureKind::of_nvme(zns::NvmeStatus::INVALID_FIELD));
        }
        outcome
    }
}

/// Copies all that fits into a zone from a drive that promises 16 ranges of 16 blocks, and 64 blocks, and takes what `truth` says: gives the limits in
/// the end, and the commands of the second copy. It is all the same whether the drive says what it does not like about a command.
fn copies(truth: CopyLimits) -> (crate::RouteLimits, u64) {
    let found = learnt(truth, false);
    assert_eq!(learnt(truth, true), found);
    found
}

fn learnt(truth: CopyLimits, silent: bool) -> (crate::RouteLimits, u64) {
    let drive = SimDrive::new(SimConfig { copy: Some(truth), ..config(4096, 5) });
    let device: Arc<dyn ZonedDevice> = drive.open();
    fill(&*device, 3);
    let shared: Arc<[Arc<dyn ZonedDevice>]> = vec![device.clone()].into();
    let promise = Promise { road: ImageRoad::new(shared), ranges: 16, range_blocks: 16, command_blocks: 64, silent };
    let engine = CopyEngine::new(vec![device], vec![Arc::new(promise)], EngineConfig::default());
    let lab = Lab { drives: vec![drive], engine };
    let mut before = 0;
    for zone in [10, 11] {
        before = lab.engine.counters(IoClass::Cleaning).commands;
        // Every other run of 16 blocks, of three zones.
        let sources: Vec<SourceRange> = (0..4).map(|i| lab.source(0, i % 3, u64::from(i / 3) * 32, 16)).collect();
        let target = lab.target(0, zone);
        let request = lab.request(sources.clone(), target, RoadPreference::Offload);
        let result = lab.engine.copy(request).unwrap();
        assert_eq!((result.sources_done, result.failure, result.end_zone), (4, None, false), "{truth:?}");
        assert!(lab.at(target, result.bytes_done) == lab.contents(&sources), "{truth:?}");
    }
    let counters = lab.engine.counters(IoClass::Cleaning);
    assert_eq!((counters.host_read, counters.fallbacks.len()), (0, 0));
    (lab.engine.routes()[0].limits, counters.commands - before)
}

#[test]
fn one_range_only_ends_with_long_commands_of_one_range() {
    let (limits, commands) = copies(CopyLimits { mssrl: 16, mcl: 64, ranges: 1 });
    assert_eq!((limits.max_ranges, limits.max_range_bytes), (1, 16 * 4096));
    assert_eq!(commands, 4);
}

#[test]
fn short_ranges_only_ends_with_commands_of_many() {
    let (limits, commands) = copies(CopyLimits { mssrl: 4, mcl: 64, ranges: 16 });
    assert_eq!((limits.max_ranges, limits.max_range_bytes, limits.max_command_bytes), (16, 4 * 4096, 64 * 4096));
    assert_eq!(commands, 1);
}

#[test]
fn few_blocks_only_ends_with_commands_as_long_as_may_be() {
    let (limits, commands) = copies(CopyLimits { mssrl: 16, mcl: 32, ranges: 16 });
    assert_eq!((limits.max_ranges, limits.max_range_bytes, limits.max_command_bytes), (16, 16 * 4096, 32 * 4096));
    assert_eq!(commands, 2);
}

#[test]
fn a_device_that_takes_nothing_leaves_the_zone_to_others() {
    struct Refusing(FailureKind);
    impl CopyBackend for Refusing {
        fn road(&self) -> Road {
            Road::Nvme
        }
        fn caps(&self, _: DeviceId, _: DeviceId) -> Result<CopyCaps, NoRoad> {
            let (max_range_bytes, max_command_bytes) = (1 << 20, 4 << 20);
            Ok(CopyCaps { road: Road::Nvme, max_range_bytes, max_command_bytes, max_ranges: 128, simulated: true })
        }
        fn submit(&self, _: CopyCommand) -> crate::Result<Ticket> {
            Ok(Ticket(0))
        }
        fn complete(&self, _: Ticket) -> CopyOutcome {
            CopyOutcome::failed(0, self.0, "no")
        }
    }
    for (says, result) in [(FailureKind::TooLarge, FailureKind::TooLarge), (FailureKind::Refused, FailureKind::Unsupported)] {
        refuses_everything(Arc::new(Refusing(says)), result);
    }
}

fn refuses_everything(road: Arc<dyn CopyBackend>, kind: FailureKind) {
    let drive = SimDrive::new(config(4096, 5));
    let device: Arc<dyn ZonedDevice> = drive.open();
    fill(&*device, 3);
    let engine = CopyEngine::new(vec![device], vec![road], EngineConfig::default());
    let lab = Lab { drives: vec![drive], engine };
    let sources = vec![lab.source(0, 0, 0, 64)];
    let request = lab.request(sources, lab.target(0, 10), RoadPreference::Offload);
    let result = lab.engine.copy(request).unwrap();
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(kind), false));
    assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(0)).unwrap(), RoadPreference::Host);
    assert!(lab.engine.counters(IoClass::Cleaning).commands < 30);
}

/// A road that is believed when its first command was looked at; it may copy something else than it was asked for.
struct Unproven {
    road: ImageRoad,
    wrongly: bool,
}

impl CopyBackend for Unproven {
    fn road(&self) -> Road {
        self.road.road()
    }
    fn caps(&self, from: DeviceId, to: DeviceId) -> Result<CopyCaps, NoRoad> {
        self.road.caps(from, to)
    }
    fn needs_proof(&self) -> bool {
        true
    }
    fn submit(&self, mut command: CopyCommand) -> crate::Result<Ticket> {
        if self.wrongly {
            command.sources.iter_mut().for_each(|source| source.lba = source.lba + source.blocks);
        }
        self.road.submit(command)
    }
    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        self.road.complete(ticket)
    }
}

/// Copies four blocks into each of three zones side by side: gives the failures, the commands, and how many blocks were written to the zones.
fn into_three_zones(wrongly: bool) -> (Vec<Option<FailureKind>>, u64, Vec<u64>) {
    let drive = SimDrive::new(config(4096, 5));
    let device: Arc<dyn ZonedDevice> = drive.open();
    fill(&*device, 3);
    let road = Unproven { road: ImageRoad::new(vec![device.clone()].into()), wrongly };
    let engine = CopyEngine::new(vec![device.clone()], vec![Arc::new(road)], EngineConfig::default());
    let lab = Lab { drives: vec![drive], engine };
    let sources: Vec<SourceRange> = (0..3).map(|zone| lab.source(0, zone, 8, 4)).collect();
    let targets: Vec<Target> = (10..13).map(|zone| lab.target(0, zone)).collect();
    let requests = sources.iter().zip(&targets).map(|(source, target)| lab.request(vec![*source], *target, RoadPreference::Offload));
    let results: Vec<crate::CopyResult> = lab.copy_many(requests.collect()).into_iter().map(Result::unwrap).collect();
    for ((result, source), target) in results.iter().zip(&sources).zip(&targets) {
        assert!(result.bytes_done == 0 || lab.at(*target, result.bytes_done) == lab.contents(&[*source]));
    }
    let written = device.report(10..13).unwrap().iter().map(|zone| zone.written.0).collect();
    (results.iter().map(|result| result.failure).collect(), lab.engine.counters(IoClass::Cleaning).commands, written)
}

#[test]
fn a_road_is_proved_once_for_all_that_begin_together() {
    // A block that is looked at, and the rest.
    assert_eq!(into_three_zones(false), (vec![None; 3], 2 + 1 + 1, vec![4; 3]));
    // Nobody else has been sent on a road that copies wrongly.
    let (failures, commands, written) = into_three_zones(true);
    assert_eq!(failures, [Some(FailureKind::WrongData), Some(FailureKind::Unsupported), Some(FailureKind::Unsupported)]);
    assert_eq!((commands, written), (1, vec![1, 0, 0]));
}
