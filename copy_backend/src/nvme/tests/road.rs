//! The engine on this road.

use super::super::NvmeRoad;
use super::super::wire::Answer;
use super::fake::{FakeNamespace, FakePort, FakeSystem, Standing, Trick, controller};
use crate::topology::{MadeOf, TableLine, Topology};
use crate::{CopyEngine, CopyRequest, CopyResult, EngineConfig, FailureKind, OffloadBelow, Road, RoadPreference, SourceRange, Target};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use zns::sim::{SimConfig, SimDrive};
use zns::{AlignedBuf, Blocks, BufSlice, CopyLimits, DeviceId, IoClass, Lba, ZoneId, ZonedDevice};

const ZONES: u32 = 30;
const ZONE: u64 = 64;
const SOURCES: u32 = 8;
const D: DeviceId = DeviceId(0);

struct Lab {
    namespaces: Vec<Arc<FakeNamespace>>,
    system: Arc<FakeSystem>,
    devices: Vec<Arc<Standing>>,
    engine: CopyEngine,
}

fn namespace(nsid: u32, limits: (u16, u32, u8), behavior: &Arc<Mutex<Option<Vec<u8>>>>) -> Arc<FakeNamespace> {
    let copy = Some(CopyLimits { mssrl: 1 << 16, mcl: 1 << 20, ranges: 256 });
    let config = SimConfig { block_size: 4096, zone_size: Blocks(ZONE), zone_capacity: Blocks(ZONE), copy, ..SimConfig::zoned(ZONES, 5) };
    let namespace = FakeNamespace::new(nsid, SimDrive::new(config), limits, behavior.clone());
    for zone in 0..SOURCES {
        let mut bytes = vec![0; (ZONE * 4096) as usize];
        for (index, word) in bytes.chunks_mut(8).enumerate() {
            let value = u64::from(nsid) << 56 | u64::from(zone) << 40 | index as u64;
            word.copy_from_slice(&value.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        let data = vec![BufSlice::whole(AlignedBuf::from_slice(&bytes))];
        namespace.device.write(Lba(u64::from(zone) * ZONE), data, IoClass::Foreground).unwrap();
    }
    namespace
}

impl Lab {
    fn new(limits: &[(u16, u32, u8)], behavior: Option<Vec<u8>>) -> Self {
        let behavior = Arc::new(Mutex::new(behavior));
        let namespaces: Vec<_> = (1..).zip(limits).map(|(nsid, &limits)| namespace(nsid, limits, &behavior)).collect();
        for namespace in &namespaces {
            for other in namespaces.iter().filter(|other| other.nsid != namespace.nsid) {
                namespace.others.lock().insert(other.nsid, other.clone());
            }
        }
        let devices = (1..).zip(&namespaces).map(|(minor, namespace)| Standing::whole(namespace, minor)).collect();
        Self::over(namespaces, devices, |_| {})
    }

    /// With devices and layers of the test's own; the whole namespaces have the minor numbers from 1 on.
    fn over(namespaces: Vec<Arc<FakeNamespace>>, devices: Vec<Arc<Standing>>, layers: impl FnOnce(&FakeSystem)) -> Self {
        let system = Arc::new(FakeSystem::default());
        let mut port = FakePort::default();
        for (minor, namespace) in (1..).zip(&namespaces) {
            system.put(minor, namespace.device.geometry().size_bytes(), MadeOf::Itself);
            port.0.insert(minor, namespace.clone());
        }
        layers(&system);
        let shared: Arc<[Arc<dyn ZonedDevice>]> = devices.iter().map(|device| device.clone() as Arc<dyn ZonedDevice>).collect();
        let below = OffloadBelow { dm: true, md: false };
        let topology = Arc::new(Topology::with_system(shared.clone(), below, system.clone()));
        let road = NvmeRoad::with_port(shared.clone(), topology, Arc::new(port));
        let engine = CopyEngine::new(shared.to_vec(), vec![Arc::new(road)], EngineConfig::default());
        Self { namespaces, system, devices, engine }
    }

    fn source(&self, device: u8, zone: u32, from: u64, len: u64) -> SourceRange {
        SourceRange { device: DeviceId(device), lba: Lba(u64::from(zone) * ZONE + from), blocks: Blocks(len) }
    }

    fn read(&self, device: DeviceId, lba: Lba, blocks: Blocks) -> Vec<u8> {
        let standing = &self.devices[usize::from(device.0)];
        (0..blocks.0).flat_map(|i| standing.read(Lba(lba.0 + i), AlignedBuf::zeroed(4096), IoClass::Foreground).unwrap().to_vec()).collect()
    }

    /// Copies into an empty zone and checks that what is reported done is there.
    fn copy(&self, sources: &[SourceRange], to: DeviceId, zone: u32) -> CopyResult {
        let target = Target { device: to, lba: Lba(u64::from(zone) * ZONE) };
        let road = self.engine.road_for(sources[0].device, to).unwrap();
        let request = CopyRequest { sources: sources.to_vec(), target, class: IoClass::Cleaning, checksums: Vec::new(), road };
        let result = self.engine.copy(request).unwrap();
        let expected: Vec<u8> = sources[..result.sources_done].iter().flat_map(|s| self.read(s.device, s.lba, s.blocks)).collect();
        assert!(self.read(to, target.lba, Blocks(result.bytes_done / 4096)) == expected, "what is reported done is there");
        assert!(self.devices.iter().all(|device| device.admitted.lock().is_empty()), "what was admitted has ended");
        result
    }

    fn trick(&self, tricks: &[Trick]) {
        self.namespaces[0].tricks.lock().extend(tricks.iter().copied());
    }
}

fn scattered(lab: &Lab, device: u8) -> Vec<SourceRange> {
    (0..6).map(|zone| lab.source(device, zone, 3 + u64::from(zone), 5)).collect()
}

const WIDE: (u16, u32, u8) = (1024, 1024, 127);
const REFUSED: Answer = Answer::Device { status: 0x4183, dw0: 0 };

#[test]
fn a_panic_on_the_way_waits_for_what_flies_and_ends_what_was_admitted() {
    let lab = Lab::new(&[(2, 3, 1)], None);
    lab.copy(&scattered(&lab, 0), D, 10);
    let left = Arc::new(AtomicU32::new(3));
    let counted = left.clone();
    *lab.namespaces[0].before.lock() =
        Some(Box::new(move || assert!(counted.fetch_sub(1, Ordering::Relaxed) != 1, "a panic that the test wants")));
    let _ = catch_unwind(AssertUnwindSafe(|| lab.copy(&scattered(&lab, 0), D, 11)));
    assert!(left.load(Ordering::Relaxed).wrapping_neg() < 1000, "it has panicked");
    assert!(lab.devices[0].admitted.lock().is_empty(), "what was admitted has ended");
    assert!(lab.namespaces[0].answers.lock().is_empty(), "nothing flies any more");
}

#[test]
fn everything_is_offloaded_also_within_tiny_limits() {
    for (limits, commands) in [(WIDE, 2), ((2, 3, 1), 11), ((64, 128, 3), 3), ((1, 1, 0), 30)] {
        let lab = Lab::new(&[limits], None);
        assert_eq!(lab.engine.route(D, D).road, Road::Nvme);
        let result = lab.copy(&scattered(&lab, 0), D, 10);
        assert_eq!((result.sources_done, result.offloaded, result.failure), (6, 30 * 4096, None));
        let counters = lab.engine.counters(IoClass::Cleaning);
        assert_eq!((counters.offloaded, counters.host_read, counters.host_written), (30 * 4096, 0, 0));
        assert_eq!(counters.copies_verified, 1, "the first block is looked at, the rest is trusted");
        assert!(lab.namespaces[0].seen.lock().len() >= commands, "{limits:?}");
        assert_eq!(lab.namespaces[0].seen.lock()[0].cdw10[2] & 0xff, 0, "the first command is one range");
        let status = lab.engine.route(D, D);
        assert!(!status.simulated && status.limits.max_ranges == u32::from(limits.2) + 1, "{status:?}");
        assert_eq!(status.limits.max_range_bytes, u64::from(limits.0).min(limits.1.into()) * 4096);
    }
}

#[test]
fn a_road_that_always_refuses_or_lies_is_closed_with_the_reason() {
    let unsupported = Answer::Device { status: 0x4001, dw0: 0 };
    let cases: &[(Trick, &str, FailureKind)] = &[
        (Trick::Answer(unsupported), "Invalid Command Opcode", FailureKind::Unsupported),
        (Trick::Answer(REFUSED), "Command Size Limit", FailureKind::TooLarge),
        (Trick::Answer(Answer::Device { status: 0x4002, dw0: 0 }), "refuses the smallest command", FailureKind::Unsupported),
        (Trick::Answer(Answer::Kernel { errno: libc::EINVAL }), "refuses the smallest command", FailureKind::Unsupported),
        (Trick::Answer(Answer::Device { status: 0x4186, dw0: 0 }), "Fast Copy Not Possible", FailureKind::Unsupported),
        (Trick::Answer(Answer::Device { status: 0x188, dw0: 0 }), "Namespace Not Reachable", FailureKind::Unsupported),
        (Trick::Answer(Answer::Kernel { errno: libc::EACCES }), "denied", FailureKind::Unsupported),
        (Trick::DoNothing, "copied wrongly", FailureKind::WrongData),
        (Trick::CopyFromElsewhere, "copied wrongly", FailureKind::WrongData),
    ];
    for &(trick, word, kind) in cases {
        let lab = Lab::new(&[WIDE], None);
        lab.trick(&[trick; 20]);
        let sources = scattered(&lab, 0);
        let result = lab.copy(&sources, D, 10);
        assert_eq!((result.failure, result.sources_done), (Some(kind), 0), "{trick:?}");
        assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Host, "{trick:?}");
        let status = lab.engine.route(D, D);
        assert!(status.road == Road::Host && status.reason.contains(word), "{status:?}");
        assert_eq!(lab.copy(&sources, D, 11).sources_done, 6, "the host carries on");
    }
}

#[test]
fn what_fails_half_way_ends_the_zone_and_keeps_what_was_done() {
    // The first command is the proof: one block. The second has the rest of the six ranges.
    let prove = |lab: &Lab| assert_eq!(lab.copy(&[lab.source(0, 0, 0, 1)], D, 9).failure, None);
    for (trick, done) in [
        (Trick::FailAt(3, 0x281), 3),
        (Trick::FailAt(0, 0x281), 0),
        // Less than was done, more than was done, and beyond the list: the write pointer is the bound, nonsense says nothing.
        (Trick::FailAtButSay(3, 0x006, 1), 1),
        (Trick::FailAtButSay(2, 0x006, 5), 2),
        (Trick::FailAtButSay(3, 0x006, 77), 0),
    ] {
        let lab = Lab::new(&[WIDE], None);
        prove(&lab);
        lab.trick(&[trick]);
        let result = lab.copy(&scattered(&lab, 0), D, 10);
        assert_eq!(result.sources_done, done, "{trick:?}");
        assert_eq!(result.failure, Some(FailureKind::Transient), "the host can read the source");
        let moved = result.write_pointer != Some(Lba(10 * ZONE + 5 * done as u64));
        assert!(result.end_zone || !moved, "{trick:?}");
        assert_eq!(result.for_host, 6 - done, "the command that failed is the host's");
        assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Offload, "then it is the device again");
        assert_eq!(lab.copy(&scattered(&lab, 0)[done..], D, 11).failure, None);
    }
}

#[test]
fn limits_that_are_less_than_promised_are_found() {
    let lab = Lab::new(&[WIDE], None);
    assert_eq!(lab.copy(&[lab.source(0, 0, 0, 1)], D, 9).failure, None);
    // From now on the drive takes less than it has told.
    lab.namespaces[0].identify.lock()[74..81].copy_from_slice(&[8, 0, 8, 0, 0, 0, 0]);
    let result = lab.copy(&scattered(&lab, 0), D, 10);
    assert_eq!((result.sources_done, result.failure, result.offloaded), (6, None, 30 * 4096));
    assert!(lab.engine.route(D, D).limits.max_ranges == 1);
}

#[test]
fn namespaces_of_one_controller_reach_each_other_where_that_can_be_enabled() {
    let lab = Lab::new(&[WIDE, WIDE], Some(vec![0; 512]));
    let to = DeviceId(1);
    let result = lab.copy(&scattered(&lab, 0), to, 12);
    assert_eq!((result.sources_done, result.failure, result.offloaded), (6, None, 30 * 4096));
    assert!(lab.namespaces[0].seen.lock().is_empty());
    assert!(lab.namespaces[1].seen.lock().iter().all(|command| command.cdw10[2] >> 8 & 0xf == 2 && command.nsid == 2));
    assert_eq!(lab.namespaces[0].behavior.lock().as_ref().unwrap()[4] & 0xc, 0xc);
    // Within one namespace nothing needs it.
    assert_eq!(lab.copy(&scattered(&lab, 0), D, 13).failure, None);
    assert!(lab.namespaces[0].seen.lock().iter().all(|command| command.cdw10[2] >> 8 & 0xf == 0));

    let lab = Lab::new(&[WIDE, WIDE], None);
    assert_eq!(lab.engine.road_for(D, to).unwrap(), RoadPreference::Host);
    assert!(lab.engine.route(D, to).reason.contains("7.2"), "{}", lab.engine.route(D, to).reason);
    assert_eq!(lab.engine.road_for(D, D).unwrap(), RoadPreference::Offload);

    let lab = Lab::new(&[WIDE, WIDE], Some(vec![0; 512]));
    *lab.namespaces[1].controller.lock() = controller(1 << 8, 0x1);
    assert!(lab.engine.route(D, to).reason.contains("descriptor format 2"), "{}", lab.engine.route(D, to).reason);
    let lab = Lab::new(&[WIDE, WIDE], Some(vec![0; 512]));
    lab.namespaces[1].controller.lock()[768] = b'x';
    assert!(lab.engine.route(D, to).reason.contains("different NVMe subsystems"));
}

#[test]
fn drives_that_cannot_say_so_and_why() {
    let reason = |change: &dyn Fn(&FakeNamespace)| {
        let lab = Lab::new(&[WIDE], None);
        change(&lab.namespaces[0]);
        let status = lab.engine.route(D, D);
        assert_eq!(status.road, Road::Host);
        assert!(lab.namespaces[0].seen.lock().is_empty());
        status.reason
    };
    assert!(reason(&|ns| *ns.controller.lock() = controller(0, 1)).contains("does not have the Copy command"));
    assert!(reason(&|ns| ns.identify.lock()[74..81].fill(0)).contains("limits of zero"));
    assert!(reason(&|ns| ns.identify.lock()[128] = 8).contains("8 bytes of metadata"));
    assert!(reason(&|ns| (ns.identify.lock()[128], ns.identify.lock()[29]) = (64, 1)).contains("hold more than"));
    assert!(reason(&|ns| ns.identify.lock().truncate(50)).contains("n1"));
}

#[test]
fn protection_information_is_made_anew_by_the_drive() {
    let lab = Lab::new(&[WIDE], None);
    {
        let mut data = lab.namespaces[0].identify.lock();
        (data[128], data[29]) = (8, 1);
    }
    assert_eq!(lab.copy(&scattered(&lab, 0), D, 10).failure, None);
    let seen = lab.namespaces[0].seen.lock();
    assert!(seen.iter().all(|command| command.cdw10[2] & (1 << 15 | 1 << 29) == 1 << 15 | 1 << 29));
    assert!(seen.iter().all(|command| command.cdw10[4] == command.cdw10[0]));
}

/// A dm device of two segments: zones 2..12 and 16..26 of the namespace, in this order turned around.
fn two_segments() -> (Lab, SimDrive) {
    let behavior = Arc::default();
    let ns = namespace(1, WIDE, &behavior);
    // A device object that is a part of the drive: zones 2..26; the table below maps it to the same place, as dm-linear would.
    let standing = Standing::whole(&ns, 7);
    let mut geometry = standing.geometry.clone();
    geometry.zones = 24;
    let standing = Standing { inner: standing.inner.clone(), geometry, first: 2 * ZONE, minor: 7, admitted: Mutex::default() };
    let drive = ns.drive.clone();
    let lab = Lab::over(vec![ns], vec![Arc::new(standing)], |system| system.put(7, 24 * ZONE * 4096, table(0)));
    (lab, drive)
}

/// The part of the drive in two lines.
fn table(event: u32) -> MadeOf {
    let sectors = ZONE * 8;
    let line = |start: u64, len: u64| TableLine {
        start: start * sectors,
        len: len * sectors,
        target: "linear".into(),
        params: format!("259:1 {}", (start + 2) * sectors),
    };
    MadeOf::Mapper(Ok((event, vec![line(0, 10), line(10, 14)])))
}

#[test]
fn below_device_mapper_addresses_are_translated_and_neighbours_untouched() {
    let (lab, drive) = two_segments();
    let before: Vec<Vec<u8>> = (0..ZONES).map(|zone| drive.peek(Lba(u64::from(zone) * ZONE), Blocks(ZONE))).collect();
    // Zone 1 of the device is zone 3 of the drive; zone 20 is zone 22.
    let sources: Vec<SourceRange> = (0..5).map(|zone| lab.source(0, zone, 7, 9)).collect();
    let result = lab.copy(&sources, D, 20);
    assert_eq!((result.sources_done, result.failure, result.road, result.offloaded), (5, None, Road::Nvme, 45 * 4096));
    for zone in (0..ZONES).filter(|&zone| zone != 22) {
        assert!(drive.peek(Lba(u64::from(zone) * ZONE), Blocks(ZONE)) == before[zone as usize], "zone {zone}");
    }
    assert_eq!(drive.zone(ZoneId(22)).written, Blocks(45));
}

#[test]
fn a_table_that_changes_under_a_copy_makes_it_worth_nothing() {
    let (lab, _) = two_segments();
    assert_eq!(lab.copy(&[lab.source(0, 0, 0, 4)], D, 20).failure, None);
    let system = lab.system.clone();
    *lab.namespaces[0].before.lock() = Some(Box::new(move || system.put(7, 24 * ZONE * 4096, table(1))));
    let sources = [lab.source(0, 0, 0, 4)];
    let result = lab.copy(&sources, D, 21);
    assert_eq!((result.failure, result.sources_done, result.end_zone), (Some(FailureKind::Transient), 0, true));
    assert_eq!(result.for_host, 1);
    *lab.namespaces[0].before.lock() = None;
    // It is looked at again before the next one.
    assert_eq!(lab.copy(&sources, D, 23).road, Road::Nvme);
    // A table that hides what is below.
    let crypt = TableLine { start: 0, len: 24 * ZONE * 8, target: "crypt".into(), params: String::new() };
    lab.system.put(7, 24 * ZONE * 4096, MadeOf::Mapper(Ok((2, vec![crypt]))));
    assert_eq!(lab.copy(&sources, D, 19).failure, Some(FailureKind::Unsupported));
    assert!(lab.engine.route(D, D).reason.contains("encrypts"), "{}", lab.engine.route(D, D).reason);
}
