//! How many commands are in flight at once, into which kind of zone, what becomes of them when one fails, and how they keep back while users read.

use super::*;
use crate::host::HostRoad;
use crate::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use parking_lot::Mutex;
use std::collections::HashMap;
use zns::conventional::{ConventionalDevice, ConventionalOptions};
use zns::raw::{RawOptions, open_raw};
use zns::{Ticket, ZoneInfo, ZoneState};

/// A road that carries commands out at once, and tells of them only when it is asked.
struct Watched {
    host: HostRoad,
    limits: (u64, u32),
    block: u64,
    state: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    outcomes: HashMap<u64, CopyOutcome>,
    commands: u64,
    /// Most commands between submission and completion.
    most: usize,
    /// Bytes of the longest command.
    longest: u64,
    /// This command (counted from 0) fails with nothing done.
    fails: Option<u64>,
}

impl CopyBackend for Watched {
    fn road(&self) -> Road {
        Road::Nvme
    }
    fn caps(&self, _: DeviceId, _: DeviceId) -> Result<CopyCaps, NoRoad> {
        let (bytes, ranges) = self.limits;
        Ok(CopyCaps { road: Road::Nvme, max_range_bytes: bytes, max_command_bytes: bytes, max_ranges: ranges, simulated: true })
    }
    fn admits_in_order(&self) -> bool {
        true
    }
    fn submit(&self, command: CopyCommand) -> crate::Result<Ticket> {
        let mut seen = self.state.lock();
        let number = seen.commands;
        seen.commands += 1;
        seen.longest = seen.longest.max(command.sources.iter().map(|source| source.blocks.0 * self.block).sum());
        let outcome = if seen.fails == Some(number) {
            CopyOutcome::failed(0, FailureKind::Transient, "on purpose")
        } else {
            let ranges = command.sources.len();
            match self.host.complete(self.host.submit(command)?) {
                CopyOutcome { failure: None, .. } => CopyOutcome::offloaded(ranges),
                failed => failed,
            }
        };
        seen.outcomes.insert(number, outcome);
        seen.most = seen.most.max(seen.outcomes.len());
        Ok(Ticket(number))
    }
    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        self.state.lock().outcomes.remove(&ticket.0).expect("each is asked for once")
    }
}

struct Bench {
    device: Arc<dyn ZonedDevice>,
    road: Arc<Watched>,
    engine: CopyEngine,
    _directory: tempfile::TempDir,
}

const MIB: u64 = 1 << 20;

impl Bench {
    fn over(device: Arc<dyn ZonedDevice>, limits: (u64, u32), directory: tempfile::TempDir) -> Self {
        let host = HostRoad::new(vec![device.clone()].into());
        let block = u64::from(device.geometry().block_size);
        let road = Arc::new(Watched { host, limits, block, state: Mutex::default() });
        let engine = CopyEngine::new(vec![device.clone()], vec![road.clone()], EngineConfig::default());
        Self { device, road, engine, _directory: directory }
    }

    /// A file of 64 MiB, its first MiB filled, of which every block is another.
    fn file() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..MIB).map(|i| ((i / 4096 * 7 + i % 251) % 256) as u8).collect();
        let mut whole = content.clone();
        whole.resize(64 << 20, 0);
        std::fs::write(&path, whole).unwrap();
        (directory, path, content)
    }

    /// Without write pointers.
    fn raw(limits: (u64, u32)) -> (Self, Vec<u8>) {
        let (directory, path, content) = Self::file();
        (Self::over(open_raw(&path, &RawOptions::default()).unwrap(), limits, directory), content)
    }

    /// Write pointers in software.
    fn software(limits: (u64, u32)) -> (Self, Vec<u8>) {
        let (directory, path, content) = Self::file();
        let options = ConventionalOptions { zone_size: Some(2 * MIB), ..ConventionalOptions::default() };
        let device = ConventionalDevice::open(&path, &options).unwrap();
        assert!(device.geometry().software_zones);
        let block = u64::from(device.geometry().block_size);
        let empty: Vec<ZoneInfo> = (1..device.geometry().zones)
            .map(|id| ZoneInfo {
                id: ZoneId(id),
                state: ZoneState::Empty,
                start: Lba(u64::from(id) * 2 * MIB / block),
                capacity: Blocks(2 * MIB / block),
                written: Blocks(0),
            })
            .collect();
        device.adopt(&empty).unwrap();
        (Self::over(Arc::new(device), limits, directory), content)
    }

    fn request(&self, target: u64) -> CopyRequest {
        let block = u64::from(self.device.geometry().block_size);
        CopyRequest {
            sources: vec![SourceRange { device: DeviceId(0), lba: Lba(0), blocks: Blocks(MIB / block) }],
            target: Target { device: DeviceId(0), lba: Lba(target / block) },
            class: IoClass::Cleaning,
            checksums: Vec::new(),
            road: RoadPreference::Offload,
        }
    }

    fn at(&self, target: u64, bytes: u64) -> Vec<u8> {
        let block = u64::from(self.device.geometry().block_size);
        self.device.read(Lba(target / block), AlignedBuf::zeroed(bytes as usize), IoClass::Foreground).unwrap().to_vec()
    }
}

#[test]
fn one_request_keeps_several_commands_in_flight_where_no_drive_keeps_the_write_pointer() {
    for (bench, content) in [Bench::raw((64 << 10, 4)), Bench::software((64 << 10, 4))] {
        let result = bench.engine.copy(bench.request(2 * MIB)).unwrap();
        assert_eq!((result.sources_done, result.failure, result.end_zone), (1, None, false));
        assert!(bench.at(2 * MIB, MIB) == content);
        let seen = bench.road.state.lock();
        assert_eq!((seen.commands, seen.most), (16, 8));
    }
}

#[test]
fn into_a_sequential_zone_one_command_goes_after_the_other() {
    let drive = SimDrive::new(config(4096, 9));
    let device: Arc<dyn ZonedDevice> = drive.open();
    fill(&*device, 1);
    let bench = Bench::over(device, (16 << 10, 4), tempfile::tempdir().unwrap());
    let lab = Lab { drives: vec![drive], engine: bench.engine };
    let sources = vec![lab.source(0, 0, 0, 32), lab.source(0, 2, 8, 16)];
    let target = lab.target(0, 10);
    let result = lab.engine.copy(lab.request(sources.clone(), target, RoadPreference::Offload)).unwrap();
    assert_eq!((result.sources_done, result.failure), (2, None));
    assert!(lab.at(target, result.bytes_done) == lab.contents(&sources));
    let of_state = |what: fn(&Seen) -> u64| what(&bench.road.state.lock());
    assert_eq!((of_state(|seen| seen.commands), of_state(|seen| seen.most as u64)), (12, 1));
    // Many zones are filled side by side, but no more commands are in flight than may be.
    let requests = (12..22).map(|zone| lab.request(sources.clone(), lab.target(0, zone), RoadPreference::Offload)).collect();
    for result in lab.copy_many(requests) {
        assert_eq!(result.unwrap().failure, None);
    }
    assert_eq!(of_state(|seen| seen.most as u64), 8);
    assert!(lab.drives[0].violations().is_empty(), "{:?}", lab.drives[0].violations());
}

#[test]
fn what_flies_behind_a_failure_counts_for_nothing() {
    for (bench, content) in [Bench::raw((64 << 10, 4)), Bench::software((64 << 10, 4))] {
        bench.road.state.lock().fails = Some(5);
        let checksums: Vec<u32> = content.chunks(4096).map(crc32c::crc32c).collect();
        let mut request = bench.request(2 * MIB);
        let block = u64::from(bench.device.geometry().block_size);
        // Sources of 64 KiB, so that the result can say how many were done.
        request.sources = (0..16)
            .map(|i| SourceRange { device: DeviceId(0), lba: Lba(i * (64 << 10) / block), blocks: Blocks((64 << 10) / block) })
            .collect();
        request.checksums = checksums;
        let result = bench.engine.copy(request).unwrap();
        assert_eq!((result.sources_done, result.bytes_done, result.failure), (5, 5 * (64 << 10), Some(FailureKind::Transient)));
        let software = bench.device.geometry().software_zones;
        assert_eq!(result.end_zone, software);
        assert!(bench.at(2 * MIB, 5 * (64 << 10)) == content[..5 * (64 << 10)]);
        let seen = bench.road.state.lock();
        assert!(seen.outcomes.is_empty(), "all were waited for");
        assert_eq!(bench.engine.counters(IoClass::Cleaning).commands, seen.commands);
    }
}

#[test]
fn while_users_read_commands_are_short_and_go_one_by_one() {
    let (bench, content) = Bench::raw((MIB, 4));
    let result = bench.engine.copy(bench.request(2 * MIB)).unwrap();
    assert_eq!(result.failure, None);
    assert_eq!(bench.road.state.lock().longest, MIB, "nobody reads");
    *bench.road.state.lock() = Seen::default();
    let reading = bench.engine.foreground().read();
    let result = bench.engine.copy(bench.request(4 * MIB)).unwrap();
    drop(reading);
    assert_eq!(result.failure, None);
    assert!(bench.at(4 * MIB, MIB) == content);
    let seen = bench.road.state.lock();
    assert_eq!((seen.longest, seen.most, seen.commands), (256 << 10, 1, 4));
}

#[test]
fn copies_that_one_thread_has_begun_do_not_wait_for_one_another_while_users_read() {
    let (bench, content) = Bench::software((64 << 10, 4));
    let (over, is_over) = std::sync::mpsc::channel();
    let slept = std::thread::scope(|scope| {
        let reading = bench.engine.foreground().read();
        // Whatever they wait for ends some time, so that the test does.
        let sleeper = scope.spawn(move || {
            let slept = is_over.recv_timeout(std::time::Duration::from_secs(60)).is_err();
            drop(reading);
            slept
        });
        let (first, second) = (bench.engine.begin(bench.request(2 * MIB)).unwrap(), bench.engine.begin(bench.request(4 * MIB)).unwrap());
        // The first has the only turn, and nobody waits for it before the second is over.
        for begun in [second, first] {
            let result = begun.finish().unwrap();
            assert_eq!((result.sources_done, result.failure), (1, None));
        }
        over.send(()).unwrap();
        sleeper.join().unwrap()
    });
    assert!(!slept);
    assert!(bench.at(2 * MIB, MIB) == content && bench.at(4 * MIB, MIB) == content);
    assert_eq!(bench.road.state.lock().most, 1);
    assert!(bench.engine.begun.lock().is_empty());
}
