//! The cleaner with the real copy engine over a simulated drive: payload is where the mappings say, whatever the drive does.

use crate::model::{DEVICE, Model};
use crate::*;
use copy_backend::{CopyEngine, CopyResult, EngineConfig, RouteChoice, VerifyMode};
use proptest::prelude::*;
use std::sync::Arc;
use zns::sim::{Fault, FaultPlan, SimConfig, SimDrive};
use zns::{AlignedBuf, Blocks, BufSlice, DeviceId, IoClass, Lba, ZoneAction, ZonedDevice};

const ZONES: u32 = 24;
const CAPACITY: u32 = 32;

/// The naive filesystem for the mappings, a drive for the payload.
struct Volume {
    model: Model,
    drive: SimDrive,
    device: Arc<dyn ZonedDevice>,
    engine: CopyEngine,
}

/// What a block that holds `value` looks like.
fn pattern(value: u64) -> Vec<u8> {
    (0..512).flat_map(|i: u64| (value * 512 + i).to_le_bytes()).collect()
}

impl Volume {
    /// A volume whose files were written and half deleted.
    fn new(per_block: u32, config: EngineConfig, seed: u64) -> Self {
        Self::on(SimConfig { block_size: 4096 / per_block, ..SimConfig::zoned(ZONES, seed) }, config, seed)
    }

    fn on(sim: SimConfig, config: EngineConfig, seed: u64) -> Self {
        let per_block = 4096 / sim.block_size;
        let blocks = Blocks(u64::from(CAPACITY * per_block));
        let sim = SimConfig { zone_size: blocks, zone_capacity: blocks, ..sim };
        let drive = SimDrive::new(sim);
        let device: Arc<dyn ZonedDevice> = drive.open();
        let engine = CopyEngine::for_devices(vec![device.clone()], config);
        let model = Model::new(ZONES as usize, CAPACITY, per_block, 4);
        model.with(|m| m.with_checksums = false);
        let blocks = u64::from(CAPACITY) * 14;
        (0..blocks).for_each(|b| assert!(model.write(b)));
        (0..blocks).filter(|b| (b / 3 + seed).is_multiple_of(2)).for_each(|b| model.delete(b));
        for (lba, value) in model.written() {
            let data = vec![BufSlice::whole(AlignedBuf::from_slice(&pattern(value)))];
            device.write(lba, data, IoClass::Foreground).expect("no faults yet");
        }
        Self { model, drive, device, engine }
    }

    fn cleaner(&self) -> Cleaner<&Self, &Self> {
        self.cleaner_by(256, 1)
    }

    /// With chunks of so many blocks, and so many of them in a step.
    fn cleaner_by(&self, chunk_blocks: u32, chunks_by_hand: u32) -> Cleaner<&Self, &Self> {
        let config = CleanerConfig::new(Policy::Greedy, 4, ZONES, CAPACITY);
        let relocator = RelocatorConfig { chunk_blocks, ..config.relocator };
        Cleaner::new(self, self, CleanerConfig { relocator, chunks_by_hand, ..config }, Tracer::off())
    }

    fn checkpoint(&self) -> u32 {
        let before = self.model.empty_zones();
        let freed = self.model.checkpoint();
        for zone in self.model.empty_zones().difference(&before) {
            self.device.manage(zns::ZoneId(*zone), ZoneAction::Reset).expect("a reset");
        }
        freed
    }

    fn check(&self) {
        self.model.self_check();
        let per_block = self.model.device_blocks_per_block(DEVICE);
        for (lba, value) in self.model.expected() {
            assert!(self.drive.peek(lba, Blocks(u64::from(per_block))) == pattern(value), "wrong payload at {lba}");
        }
        let violations = self.drive.violations();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

impl LogSpace for Volume {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.model.segments()
    }
    fn now(&self) -> Seq {
        self.model.now()
    }
    fn device_blocks_per_block(&self, device: DeviceId) -> u32 {
        self.model.device_blocks_per_block(device)
    }
    fn pin(&self, victim: SegmentId) -> Result<()> {
        self.model.pin(victim)
    }
    fn release(&self, victim: SegmentId) {
        self.model.release(victim);
    }
    fn is_given_back(&self, emptied: SegmentId) -> bool {
        self.model.is_given_back(emptied)
    }
    fn is_calm(&self) -> bool {
        self.model.is_calm()
    }
    fn live(&self, victim: SegmentId, from: u32, max: u32) -> Result<LiveRun> {
        LogSpace::live(&self.model, victim, from, max)
    }
    fn evacuate_metadata(&self, victim: SegmentId, from: u32, max: u32) -> Result<Option<u32>> {
        self.model.evacuate_metadata(victim, from, max)
    }
    fn reserve(&self, stream: Stream, victim: SegmentId, blocks: u32) -> Result<Option<Reservation>> {
        self.model.reserve(stream, victim, blocks)
    }
    fn copied(&self, reservation: &Reservation, used: u32, end_zone: bool) {
        if end_zone {
            let zone = self.device.geometry().zone_of(reservation.lba);
            self.device.manage(zone, ZoneAction::Finish).expect("a zone can be finished");
        }
        self.model.copied(reservation, used, end_zone);
    }
    fn publish(&self, moves: &[Move], reservation: Reservation) -> Result<Committed> {
        self.model.publish(moves, reservation)
    }
}

impl Mover for Volume {
    fn carrier(&self, from: DeviceId, to: DeviceId) -> copy_backend::Result<Carrier> {
        self.engine.carrier(from, to)
    }
    fn carry(&self, load: Load) -> copy_backend::Result<CopyResult> {
        self.start(load)()
    }
    fn start(&self, load: Load) -> Carrying<'_> {
        let (sources, mut to) = (load.sources.clone(), load.target.lba);
        let started = self.engine.start(load);
        Box::new(move || {
            let result = started()?;
            for source in &sources[..result.sources_done] {
                self.model.note_copy(source.lba, source.blocks.0, to);
                to = to + source.blocks;
            }
            Ok(result)
        })
    }
    fn commands(&self) -> u64 {
        self.engine.commands()
    }
}

#[test]
fn relocation_by_the_device_moves_no_payload_through_the_host() {
    for per_block in [1, 8] {
        let volume = Volume::new(per_block, EngineConfig::default(), 1);
        let mut cleaner = if per_block == 1 { volume.cleaner() } else { volume.cleaner_by(5, 3) };
        let report = cleaner.until_clean(|| volume.model.room(), || Ok(volume.checkpoint())).expect("clean");
        assert!(report.emptied >= 13 && report.moved > 200 * 4096, "{report:?}");
        assert_eq!((report.offloaded, report.by_host), (report.moved, 0));
        let counters = volume.engine.counters(IoClass::Cleaning);
        assert_eq!((counters.host_read, counters.host_written, counters.offloaded), (0, 0, report.moved));
        assert_eq!((counters.commands, counters.commands > 0), (report.commands, true));
        volume.check();
    }
}

/// The command that failed is made good by the host, and nothing else is.
#[test]
fn what_a_device_fails_on_once_goes_by_the_host_and_no_more() {
    let limits = zns::CopyLimits { mssrl: 4, mcl: 4, ranges: 1 };
    let volume = Volume::on(SimConfig { copy: Some(limits), ..SimConfig::zoned(ZONES, 1) }, EngineConfig::default(), 1);
    volume.drive.fail_at(volume.drive.ops() + 20, Fault::ReadError);
    let report = volume.cleaner().until_clean(|| volume.model.room(), || Ok(volume.checkpoint())).expect("clean");
    assert!(report.moved > 200 * 4096 && (4096..=4 * 4096).contains(&report.by_host), "{report:?}");
    let counters = volume.engine.counters(IoClass::Cleaning);
    assert_eq!((counters.host_written, counters.fallbacks["source-media"]), (report.by_host, 1));
    volume.check();
}

#[test]
fn the_host_road_gives_the_same() {
    let config = EngineConfig { route: RouteChoice::Host, ..EngineConfig::default() };
    let volume = Volume::new(1, config, 2);
    let report = volume.cleaner().until_clean(|| volume.model.room(), || Ok(volume.checkpoint())).expect("clean");
    assert_eq!((report.offloaded, report.by_host), (0, report.moved));
    volume.check();
}

#[test]
fn a_bad_block_stays_where_it_is() {
    let volume = Volume::new(1, EngineConfig::default(), 3);
    let (bad, _) = volume.model.expected()[20];
    volume.drive.add_bad_block(bad);
    let mut cleaner = volume.cleaner();
    let report = cleaner.until_clean(|| volume.model.room(), || Ok(volume.checkpoint())).expect("clean");
    assert_eq!((report.unmovable, report.failed), (1, 0));
    let unmovable = cleaner.stats().unmovable[0];
    assert!((unmovable.lba.0..unmovable.lba.0 + u64::from(unmovable.blocks)).contains(&bad.0));
    assert!(volume.model.expected().iter().any(|(lba, _)| *lba == bad));
    volume.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_drive_that_fails_at_random_loses_nothing(
        seed in any::<u64>(),
        (refused, partial, wrong, read, write) in (0.0..0.2, 0.0..0.2, 0.0..0.2, 0.0..0.05, 0.0..0.05),
        per_block in prop_oneof![Just(1u32), Just(8)],
        (chunk, chunks) in (1u32..20, 1u32..6),
    ) {
        let config = EngineConfig { verify: VerifyMode::Full, ..EngineConfig::default() };
        let volume = Volume::new(per_block, config, seed >> 1);
        volume.drive.set_faults(FaultPlan {
            copy_refused: refused,
            copy_partial: partial,
            copy_wrong: wrong,
            read_error: read,
            write_error: write,
            ..FaultPlan::default()
        });
        let mut cleaner = volume.cleaner_by(chunk, chunks);
        // Running out of zones to fail in is allowed; wrong payload is not.
        let _ = cleaner.until_clean(|| volume.model.room(), || Ok(volume.checkpoint()));
        drop(cleaner);
        prop_assert_eq!(volume.model.pinned(), 0);
        volume.check();
    }
}

/// Blocks are addressed as the drive does.
#[test]
fn the_model_and_the_drive_agree_on_addresses() {
    let volume = Volume::new(8, EngineConfig::default(), 4);
    assert_eq!(volume.device.geometry().zone_start(zns::ZoneId(2)), Lba(u64::from(2 * CAPACITY * 8)));
    volume.check();
}
