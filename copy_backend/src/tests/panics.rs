//! Roads that panic: whatever a copy had taken is given back, and nothing is written any more when its zone is.

use super::*;
use crate::host::HostRoad;
use crate::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, NoRoad, Road};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use zns::Ticket;
use zns::raw::{RawOptions, open_raw};
use zns::sim::{Fault, FaultPlan};

/// A road of which one call panics, in the order in which they are made.
struct Brittle {
    host: HostRoad,
    calls: AtomicU64,
    at: AtomicU64,
    flying: AtomicU64,
    /// It panics whenever it is asked what it can do.
    is_hopeless: AtomicBool,
}

impl Brittle {
    fn call(&self) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(call != self.at.load(Ordering::SeqCst), "a panic that the test wants");
    }
}

impl CopyBackend for Brittle {
    fn road(&self) -> Road {
        Road::Nvme
    }
    fn caps(&self, _: DeviceId, _: DeviceId) -> Result<CopyCaps, NoRoad> {
        self.call();
        assert!(!self.is_hopeless.load(Ordering::SeqCst), "a panic that the test wants");
        Ok(CopyCaps { road: Road::Nvme, max_range_bytes: 32 << 10, max_command_bytes: 32 << 10, max_ranges: 4, simulated: true })
    }
    fn needs_proof(&self) -> bool {
        self.call();
        true
    }
    fn submit(&self, command: CopyCommand) -> crate::Result<Ticket> {
        self.call();
        self.flying.fetch_add(1, Ordering::SeqCst);
        self.host.submit(command)
    }
    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        let outcome = self.host.complete(ticket);
        self.flying.fetch_sub(1, Ordering::SeqCst);
        self.call();
        outcome
    }
}

/// An engine whose only road of devices is brittle.
fn brittle(device: Arc<dyn ZonedDevice>) -> (CopyEngine, Arc<Brittle>) {
    let never = AtomicU64::new(u64::MAX);
    let host = HostRoad::new(vec![device.clone()].into());
    let road =
        Arc::new(Brittle { host, calls: AtomicU64::new(0), at: never, flying: AtomicU64::new(0), is_hopeless: AtomicBool::new(false) });
    (CopyEngine::new(vec![device], vec![road.clone()], EngineConfig::default()), road)
}

/// Nothing flies, no zone is taken, and no command counts as being in flight.
fn assert_idle(engine: &CopyEngine, road: &Brittle, what: &str) {
    assert_eq!(road.flying.load(Ordering::SeqCst), 0, "{what}: something flies");
    assert!(engine.busy.lock().is_empty() && engine.begun.lock().is_empty(), "{what}: a zone is taken");
    assert!(engine.gate.enter(1).is_some(), "{what}: a command counts as being in flight");
}

type Way = fn(&CopyEngine, CopyRequest) -> crate::Result<crate::CopyResult>;

/// Whoever waits, and whoever begins and waits later.
const WAYS: [Way; 2] = [CopyEngine::copy, |engine, request| engine.begin(request)?.finish()];

#[test]
fn a_panic_of_a_road_into_a_zone_that_several_commands_fly_into_leaves_nothing_taken() {
    const MIB: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let content: Vec<u8> = (0..MIB).map(|i| ((i / 4096 * 7 + i % 251) % 256) as u8).collect();
    for way in WAYS {
        for n in 0.. {
            std::fs::write(&path, &content).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(64 * MIB).unwrap();
            let device = open_raw(&path, &RawOptions::default()).unwrap();
            let block = u64::from(device.geometry().block_size);
            let (engine, road) = brittle(device.clone());
            let request = CopyRequest {
                sources: vec![SourceRange { device: DeviceId(0), lba: Lba(0), blocks: Blocks(MIB / block) }],
                target: Target { device: DeviceId(0), lba: Lba((32 << 20) / block) },
                class: IoClass::Copy,
                checksums: Vec::new(),
                road: RoadPreference::Offload,
            };
            road.at.store(n, Ordering::SeqCst);
            let copied = catch_unwind(AssertUnwindSafe(|| way(&engine, request.clone())));
            road.at.store(u64::MAX, Ordering::SeqCst);
            assert_idle(&engine, &road, &format!("call {n}"));
            let again = way(&engine, request.clone()).unwrap();
            assert_eq!((again.sources_done, again.failure, again.offloaded), (1, None, MIB), "call {n}");
            let found = device.read(request.target.lba, AlignedBuf::zeroed(MIB as usize), IoClass::Foreground).unwrap();
            assert!(found[..] == content[..], "call {n}");
            if copied.is_ok() {
                assert!(n > 60, "it consists of more than {n} calls");
                break;
            }
        }
    }
}

#[test]
fn a_panic_of_a_road_into_a_sequential_zone_leaves_nothing_taken() {
    for way in WAYS {
        for n in 0.. {
            let lab = Lab::one(4096, EngineConfig::default());
            let (engine, road) = brittle(lab.engine.devices[0].clone());
            let sources = vec![lab.source(0, 1, 3, 20), lab.source(0, 2, 0, 12)];
            let request = |zone| CopyRequest {
                sources: sources.clone(),
                target: lab.target(0, zone),
                class: IoClass::Copy,
                checksums: Vec::new(),
                road: RoadPreference::Offload,
            };
            road.at.store(n, Ordering::SeqCst);
            let first = request(10);
            let copied = catch_unwind(AssertUnwindSafe(|| way(&engine, first.clone())));
            road.at.store(u64::MAX, Ordering::SeqCst);
            assert_idle(&engine, &road, &format!("call {n}"));
            // What lies in the zone nobody knows: it goes on behind its write pointer.
            let second = request(10);
            let again = way(&engine, second.clone()).unwrap();
            assert_eq!((again.sources_done, again.failure), (2, None), "call {n}");
            let landed = SourceRange { device: DeviceId(0), lba: second.target.lba, blocks: Blocks(32) };
            assert!(lab.content(&landed) == lab.contents(&sources), "call {n}");
            assert!(lab.drives[0].violations().is_empty(), "call {n}: {:?}", lab.drives[0].violations());
            if copied.is_ok() {
                assert!(n > 10, "it consists of more than {n} calls");
                break;
            }
        }
    }
}

/// Reads, and a write, fly while a device panics.
#[test]
fn a_panic_of_a_device_while_the_host_copies_leaves_nothing_in_flight() {
    for op in 0.. {
        let lab = Lab::one(4096, EngineConfig::default());
        let drive = &lab.drives[0];
        let sources: Vec<SourceRange> = (0..30).map(|i| lab.source(0, 1 + i % 4, u64::from(i), 2)).collect();
        let request =
            CopyRequest { sources, target: lab.target(0, 10), class: IoClass::Copy, checksums: Vec::new(), road: RoadPreference::Host };
        let faults = drive.stats().faults;
        drive.fail_at(drive.ops() + op, Fault::Panic);
        let result = lab.engine.copy(request.clone()).unwrap();
        drive.set_faults(FaultPlan::default());
        let is_over = drive.stats().faults == faults;
        assert_eq!(result.failure.is_none(), is_over, "operation {op}: {:?}", result.failure);
        lab.engine.devices[0].manage(ZoneId(10), zns::ZoneAction::Reset).unwrap();
        assert_eq!(lab.engine.copy(request).unwrap().sources_done, 30, "operation {op}");
        assert!(drive.violations().is_empty(), "operation {op}: {:?}", drive.violations());
        if is_over {
            assert!(op > 30, "it consists of more than {op} operations");
            return;
        }
    }
}

/// Users' copies, cleaning and reports ask for the road: none of them shall meet the panic for ever.
#[test]
fn a_road_that_always_panics_when_it_is_asked_what_it_can_do_is_closed() {
    let lab = Lab::one(4096, EngineConfig::default());
    let (engine, road) = brittle(lab.engine.devices[0].clone());
    road.is_hopeless.store(true, Ordering::SeqCst);
    let ask = || catch_unwind(AssertUnwindSafe(|| engine.route(DeviceId(0), DeviceId(0))));
    assert!(ask().is_err());
    for _ in 0..3 {
        let route = ask().expect("no panic");
        assert_eq!(route.road, Road::Host);
        assert!(route.reason.contains("panicked again"), "{route:?}");
    }
    assert_idle(&engine, &road, "asked");
}
