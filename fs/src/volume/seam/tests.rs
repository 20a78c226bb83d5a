//! The log gives zones back while a checkpoint is being written.

use super::Seam;
use crate::addr::Addr;
use crate::check::{CheckOptions, check};
use crate::core::extents::{extent_parts, forget_zone, prepare_forget_zone};
use crate::error::{FsError, Result};
use crate::format::item::Timestamp;
use crate::format::segment::{Phase, SegmentEntry};
use crate::ids::{FileBlock, Ino};
use crate::volume::rig::make;
use crate::volume::state::State;
use crate::volume::{Clock, FormatOptions, MountOptions, Volume, WriteOptions};
use gc::campaign::{Campaign, CampaignStep};
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use zns::ZonedDevice;
use zns::sim::{Fault, FaultPlan, SimConfig, SimDrive, Survival};

const B: usize = 4096;
/// Blocks of the file.
const BLOCKS: u64 = 1800;
/// Blocks of a zone.
const ZONE: u64 = 256;

fn devices(drives: &[SimDrive]) -> Vec<Arc<dyn ZonedDevice>> {
    drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
}

fn opened(drives: &[SimDrive]) -> Result<Arc<Volume>> {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    Volume::open(devices(drives), MountOptions { clock, secret: Some([2; 32]), ..MountOptions::default() })
}

fn formatted(configs: &[SimConfig]) -> Vec<SimDrive> {
    let drives: Vec<SimDrive> = configs.iter().cloned().map(SimDrive::new).collect();
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let format = FormatOptions { label: "beside".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(devices(&drives), &format).expect("formatted");
    let volume = opened(&drives).expect("mounts");
    // So full that few writes use all zones that are left by turns.
    let ballast = make(&volume, "ballast");
    let blocks = volume.statfs().expect("counted").available - BLOCKS - 10 * ZONE;
    for at in (0..blocks).step_by(ZONE as usize) {
        volume.write(ballast, at * B as u64, &vec![1; ZONE as usize * B], &WriteOptions::default()).expect("written");
    }
    volume.shutdown().expect("unmounted");
    drives
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

/// A block that says which write it is of.
fn block(stamp: u64) -> Vec<u8> {
    let words = (0..B as u64 / 8).map(|i| if i == 0 { stamp } else { (stamp + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) });
    words.flat_map(u64::to_le_bytes).collect()
}

/// A file, all writes to it in their order, and how many of them are known to be durable.
struct Model {
    ino: Ino,
    writes: Vec<u64>,
    durable: usize,
}

impl Model {
    fn new(volume: &Volume) -> Self {
        Self { ino: make(volume, "file"), writes: Vec::new(), durable: 0 }
    }

    /// Writes these blocks anew. Neither this nor what follows makes a checkpoint.
    fn write(&mut self, volume: &Volume, blocks: impl IntoIterator<Item = u64>) -> Result<()> {
        for at in blocks {
            if volume.state.lock().force_checkpoint {
                return Err(FsError::Internal("a checkpoint must come first"));
            }
            volume.write(self.ino, at * B as u64, &block(self.writes.len() as u64), &WriteOptions::default())?;
            self.writes.push(at);
        }
        volume.commit_now(false)
    }

    fn flush(&mut self, volume: &Volume) -> Result<()> {
        volume.commit_now(false)?;
        if volume.flush_log()? {
            self.durable = self.writes.len();
        }
        Ok(())
    }

    /// What is in the volume is what some of the writes have left, in their order, and none that is durable is missing.
    fn verify(&self, volume: &Volume, when: &str) {
        let found = volume.read(self.ino, 0, BLOCKS as u32 * B as u32).unwrap_or_else(|error| panic!("{when}: {error}"));
        let stamps: Vec<Option<u64>> = found
            .chunks(B)
            .map(|chunk| {
                let stamp = u64::from_le_bytes(chunk[..8].try_into().expect("eight bytes"));
                let is_whole = chunk == block(stamp) || chunk.iter().all(|byte| *byte == 0);
                assert!(is_whole, "{when}: a block that was never written");
                (stamp > 0 || chunk[8..].iter().any(|byte| *byte != 0)).then_some(stamp)
            })
            .collect();
        let mut expected = vec![None; BLOCKS as usize];
        let mut is_prefix = false;
        for (stamp, at) in self.writes.iter().enumerate() {
            is_prefix |= stamp >= self.durable && expected[..stamps.len()] == stamps[..];
            expected[*at as usize] = Some(stamp as u64);
        }
        is_prefix |= expected[..stamps.len()] == stamps[..];
        assert!(
            is_prefix,
            "{when}: {} of {} writes are durable, and what was found is no state since then",
            self.durable,
            self.writes.len()
        );
    }

    /// The blocks of the file that lie in a zone.
    fn blocks_in(&self, volume: &Volume, zone: Addr) -> Vec<u64> {
        let parts = volume.ask(|state| extent_parts(&state.tree, self.ino, FileBlock(0), FileBlock(BLOCKS), 10_000)).expect("mapped").0;
        let inside = parts.iter().filter(|part| part.addr.zone_base() == zone);
        inside.flat_map(|part| part.block.0..part.block.0 + u64::from(part.blocks)).collect()
    }
}

/// A file with zones of which half is dead, and such of which all is.
fn aged(volume: &Volume) -> Model {
    let mut model = Model::new(volume);
    model.write(volume, 0..BLOCKS).expect("written");
    volume.checkpoint().expect("a checkpoint");
    model.write(volume, (2 * ZONE..BLOCKS).step_by(3)).expect("written");
    model.write(volume, 0..2 * ZONE).expect("written");
    model.flush(volume).expect("flushed");
    model
}

/// Zones of data that hold nothing and were not given back.
fn dead_zones(volume: &Volume) -> Vec<Addr> {
    let state = volume.state.lock();
    let is_dead = |entry: &SegmentEntry| entry.phase == Phase::Closed && entry.live == 0 && entry.role.is_data();
    state.zones.iter().filter(|(_, entry)| is_dead(entry)).map(|(addr, _)| addr).collect()
}

/// Cleans one victim, without giving it back.
fn clean(volume: &Volume) {
    let mut campaign = Campaign::one_victim();
    for _ in 0..100 {
        let step = volume.with_cleaner(|cleaner| campaign.step(cleaner, volume.room()));
        if !matches!(step, Some(Ok(CampaignStep::More))) {
            return;
        }
    }
}

/// What goes on while a checkpoint is being written: the log gives back what was dead before it and what is emptied meanwhile, and both are filled anew.
fn go_on(volume: &Volume, model: &mut Model, round: u64, zones: u64) -> Result<()> {
    let dead = dead_zones(volume);
    volume.release_by_log()?;
    dead.first().inspect(|zone| volume.state.lock().zones.open_next(**zone));
    model.write(volume, (round..BLOCKS).step_by(7))?;
    model.flush(volume)?;
    clean(volume);
    volume.release_by_log()?;
    for part in 0..zones {
        let from = part * ZONE % (BLOCKS - ZONE);
        model.write(volume, from..from + ZONE)?;
        volume.release_by_log()?;
    }
    model.flush(volume)?;
    model.write(volume, (round..BLOCKS).step_by(11))
}

/// Of so many operations one is struck, another one for each kind of volume and moment: all of them take a minute for each.
const STRIDE: usize = 5;

/// What happens at one operation of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    Power,
    Fault(Fault),
}

/// Strikes at operation `at` from the seam on; `false`: there are fewer.
fn strike_beside_a_checkpoint(base: &[SimDrive], seam: Seam, strike: Strike, at: u64) -> bool {
    let drives: Vec<SimDrive> = base.iter().map(SimDrive::fork).collect();
    let volume = opened(&drives).expect("mounts");
    let model = Arc::new(Mutex::new(aged(&volume)));
    let met = Arc::new(AtomicU64::new(0));
    let struck = drives[at as usize % drives.len()].clone();
    let stats = |drive: &SimDrive| drive.stats().faults;
    let faults = stats(&struck);
    {
        let (model, met, struck, devices) = (model.clone(), met.clone(), struck.clone(), drives.len() as u64);
        volume.at_seams(move |volume, here| {
            if here != seam || met.fetch_add(1, Ordering::SeqCst) > 0 {
                return;
            }
            struck.reseed(at);
            match strike {
                Strike::Power => struck.cut_power_at(struck.ops() + at / devices),
                Strike::Fault(fault) => struck.fail_at(struck.ops() + at / devices, fault),
            }
            let releases = count(&volume.counters.releases);
            // On a thread of its own it would end nothing but itself.
            let ended = catch_unwind(AssertUnwindSafe(|| go_on(volume, &mut model.lock(), at, 5)));
            assert!(!matches!(ended, Ok(Ok(()))) || strike != Strike::Power || count(&volume.counters.releases) > releases + 1);
        });
    }
    let checkpoint = catch_unwind(AssertUnwindSafe(|| volume.checkpoint()));
    if matches!(checkpoint, Ok(Ok(()))) {
        let mut model = model.lock();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = go_on(&volume, &mut model, at + 1, 2);
            if volume.sync().is_ok() {
                model.durable = model.writes.len();
            }
        }));
    }
    assert!(count(&met) > 0, "the checkpoint came there");
    let is_over = struck.powered() && stats(&struck) == faults;
    drives.iter().for_each(|drive| drive.set_faults(FaultPlan::default()));
    drives.iter().for_each(SimDrive::cut_power);
    drop(volume);
    let survival = [Survival::Random, Survival::LoseAll, Survival::KeepAll, Survival::Random][at as usize % 4];
    drives.iter().for_each(|drive| drive.power_cycle_with(survival));
    let when = format!("{strike:?} at operation {at} from {seam:?} on, {} devices", drives.len());
    let forks: Vec<SimDrive> = drives.iter().map(SimDrive::fork).collect();
    let report = check(devices(&forks), CheckOptions::default()).expect("a volume");
    assert!(report.clean, "{when}: {report}");
    let volume = opened(&drives).expect("mounts");
    assert!(volume.is_writable(), "{when}: {:?}", volume.read_only_reason());
    model.lock().verify(&volume, &when);
    let empty: Vec<Addr> =
        volume.state.lock().zones.iter().filter(|(_, entry)| entry.phase == Phase::Empty).map(|(addr, _)| addr).collect();
    for zone in empty {
        let forget = |state: &mut State| {
            prepare_forget_zone(&state.tree, zone, 1)?;
            forget_zone(&mut state.tree, zone, 1)
        };
        assert!(!volume.change(forget).expect("read"), "{when}: zone {zone} is empty and its summaries are in the tree");
    }
    assert!(drives.iter().all(|drive| drive.violations().is_empty()), "{when}");
    !is_over
}

/// Power goes at steps of a checkpoint, of the log that gives zones back beside it, and of what follows.
#[test]
fn power_may_fail_at_any_step_of_a_checkpoint_beside_which_the_log_gives_zones_back() {
    let mut first = 0;
    for configs in
        [vec![SimConfig::zoned(64, 1)], vec![SimConfig::conventional(64, 2)], vec![SimConfig::zoned(64, 1), SimConfig::conventional(64, 2)]]
    {
        let base = formatted(&configs);
        for seam in [Seam::Cut, Seam::Flushed, Seam::Durable] {
            let struck = (first..).step_by(STRIDE).take_while(|at| strike_beside_a_checkpoint(&base, seam, Strike::Power, *at)).count();
            assert!(struck > 5, "{seam:?}: {struck} times");
            first += 1;
        }
    }
}

#[test]
fn a_failure_or_a_panic_beside_a_checkpoint_costs_nothing_that_was_flushed() {
    let base = formatted(&[SimConfig::zoned(64, 1)]);
    for strike in [Fault::WriteError, Fault::Panic, Fault::NoSpace].map(Strike::Fault) {
        let struck = (0..).step_by(STRIDE).take_while(|at| strike_beside_a_checkpoint(&base, Seam::Cut, strike, *at)).count();
        assert!(struck > 5, "{strike:?}: {struck} times");
    }
}

/// Somebody waits until somebody else has come so far.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    fn is_opened_within(&self, time: Duration) -> bool {
        let mut is_open = self.0.0.lock();
        self.0.1.wait_while_for(&mut is_open, |is_open| !*is_open, time);
        *is_open
    }

    fn wait(&self) {
        assert!(self.is_opened_within(Duration::from_secs(60)), "nobody comes");
    }
}

fn entry(volume: &Volume, zone: Addr) -> SegmentEntry {
    *volume.state.lock().zones.entry(zone).expect("a zone")
}

/// Fills a zone that was given back with what is durable, and lets all of that die by a batch that is not.
fn fill_and_kill(volume: &Volume, model: &mut Model, zone: Addr) {
    assert_eq!(entry(volume, zone).phase, Phase::Empty);
    volume.state.lock().zones.open_next(zone);
    for part in 0.. {
        let from = part * 32 % (BLOCKS - 32);
        model.write(volume, from..from + 32).expect("written");
        model.flush(volume).expect("flushed");
        if entry(volume, zone).phase == Phase::Closed {
            break;
        }
        assert!(part < 100, "the zone is not filled");
    }
    let blocks = model.blocks_in(volume, zone);
    assert!(!blocks.is_empty());
    model.write(volume, blocks).expect("written");
    assert_eq!(entry(volume, zone).live, 0);
}

/// What was durable last is found after power has failed and all that was not is lost.
fn lose_power_and_verify(drive: &SimDrive, volume: Arc<Volume>, model: &Model, when: &str) {
    volume.at_seams(|_, _| {});
    drive.cut_power();
    drop(volume);
    drive.power_cycle_with(Survival::LoseAll);
    let report = check(devices(&[drive.fork()]), CheckOptions::default()).expect("a volume");
    assert!(report.clean, "{when}: {report}");
    let volume = opened(std::slice::from_ref(drive)).expect("mounts");
    assert!(volume.is_writable(), "{when}: {:?}", volume.read_only_reason());
    model.verify(&volume, when);
}

/// What the zone holds by then is not what the checkpoint knows to be dead.
#[test]
fn a_checkpoint_does_not_reset_what_the_log_gave_back_and_was_filled_again() {
    for seam in [Seam::Cut, Seam::Flushed, Seam::Durable] {
        let drives = formatted(&[SimConfig::zoned(64, 1)]);
        let volume = opened(&drives).expect("mounts");
        let model = Arc::new(Mutex::new(aged(&volume)));
        let zone = dead_zones(&volume)[0];
        let filled = Arc::new(Mutex::new(None));
        let (shared, noted) = (model.clone(), filled.clone());
        volume.at_seams(move |volume, here| {
            if here == seam && noted.lock().is_none() {
                assert!(volume.release_by_log().expect("no failure"));
                fill_and_kill(volume, &mut shared.lock(), zone);
                *noted.lock() = Some(entry(volume, zone));
            }
        });
        volume.checkpoint().expect("a checkpoint");
        assert!(filled.lock().is_some());
        assert_eq!(*filled.lock(), Some(entry(&volume, zone)), "{seam:?}");
        lose_power_and_verify(&drives[0], volume, &model.lock(), "the zone was given back by the log");
    }
}

/// The same the other way round: the log has said that the zone is empty, and before it comes to reset it the checkpoint does.
#[test]
fn the_log_does_not_reset_what_a_checkpoint_gave_back_and_was_filled_again() {
    let drives = formatted(&[SimConfig::zoned(64, 1)]);
    let volume = opened(&drives).expect("mounts");
    let mut model = aged(&volume);
    let zone = dead_zones(&volume)[0];
    let [cut, told, reset] = [(); 3].map(|()| Gate::default());
    let gates = (cut.clone(), told.clone(), reset.clone());
    volume.at_seams(move |_, here| match here {
        Seam::Cut => {
            gates.0.open();
            gates.1.wait();
        }
        Seam::Told => {
            gates.1.open();
            gates.2.wait();
        }
        _ => {}
    });
    std::thread::scope(|scope| {
        let release = scope.spawn(|| {
            cut.wait();
            volume.release_by_log()
        });
        volume.checkpoint().expect("a checkpoint");
        fill_and_kill(&volume, &mut model, zone);
        let filled = entry(&volume, zone);
        reset.open();
        assert!(release.join().expect("no panic").expect("no failure"));
        assert_eq!(entry(&volume, zone), filled);
    });
    lose_power_and_verify(&drives[0], volume, &model, "the zone was given back by a checkpoint");
}

/// What is not in the log must not be followed by anything that is, or be called flushed, before the checkpoint that has it is durable (I7).
#[test]
fn nobody_gives_zones_back_beside_a_checkpoint_that_alone_has_the_last_batch() {
    for has_gap in [false, true] {
        let drives = formatted(&[SimConfig::zoned(64, 1)]);
        let volume = opened(&drives).expect("mounts");
        let mut model = aged(&volume);
        model.write(&volume, 0..10).expect("written");
        volume.state.lock().force_checkpoint = has_gap;
        let met = Arc::new(AtomicU64::new(0));
        let seen = met.clone();
        volume.at_seams(move |volume, here| {
            if matches!(here, Seam::Cut | Seam::Flushed) {
                seen.fetch_add(1, Ordering::SeqCst);
                let is_free = (volume.release_lock.try_lock().is_some(), volume.commit_lock.try_lock().is_some());
                assert_eq!(is_free, (!has_gap, !has_gap), "{here:?}");
            }
        });
        volume.checkpoint().expect("a checkpoint");
        assert_eq!(count(&met), 2);
    }
}

/// Cleaning goes on while a checkpoint is being written, and so does a writer who has no room before what was cleaned is given back.
#[test]
fn a_writer_without_room_does_not_wait_for_the_checkpoint_that_is_being_written() {
    const RUN: u64 = 32;
    let drive = SimDrive::new(SimConfig::zoned(128, 1));
    let volume = crate::volume::rig::formatted(&drive);
    let file = make(&volume, "file");
    let blocks = volume.statfs().expect("counted").available * 4 / 5 / RUN * RUN;
    let write = |at: u64, stamp: u64| {
        let content: Vec<u8> = (0..RUN).flat_map(|n| block(stamp + n)).collect();
        volume.write(file, at * B as u64, &content, &WriteOptions::default())
    };
    let runs = (0..blocks / RUN).chain((0..blocks / RUN).step_by(2));
    for run in runs {
        write(run * RUN, run).expect("written");
    }
    volume.checkpoint().expect("a checkpoint");
    let [cut, written] = [(); 2].map(|()| Gate::default());
    let gates = (cut.clone(), written.clone(), AtomicU64::new(0));
    volume.at_seams(move |_, here| {
        if here == Seam::Cut && gates.2.fetch_add(1, Ordering::SeqCst) == 0 {
            gates.0.open();
            gates.1.is_opened_within(Duration::from_secs(30));
        }
    });
    volume.start_background().expect("threads");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| volume.checkpoint());
        cut.wait();
        let before = (count(&volume.counters.checkpoints), count(&volume.counters.releases));
        // Somebody else has been promised all that there is.
        let room = volume.state.lock().zones.writable();
        let grant = volume.wait_for_space(room).expect("there is so much");
        for run in (1..blocks / RUN).step_by(2).take(40) {
            write(run * RUN, run).expect("written");
        }
        drop(grant);
        let checkpoints = count(&volume.counters.checkpoints) - before.0;
        written.open();
        let releases = count(&volume.counters.releases) - before.1;
        assert_eq!(checkpoints, 0, "a checkpoint had to end first");
        assert!(releases > 0);
        held.join().expect("no panic").expect("a checkpoint");
    });
    volume.shutdown().expect("unmounted");
}
