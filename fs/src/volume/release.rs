//! Zones that are given back without a checkpoint: a record in the log says that they hold nothing any more.
//!
//! A checkpoint writes every leaf that is dirty, and relocating scattered blocks makes one dirty for nearly each of them. So cleaning at random would write more
//! metadata than users write data if it took a checkpoint to give a victim back.
//!
//! 1. What was moved is durable, and so is all that is in the log: every device is flushed.
//! 2. A batch is cut that has what was moved out of the zones and then says that they are empty; it is written, and flushed. What else emptied them is in it
//!    or in one before it.
//! 3. One record more, which knows of that flush. If the one before it is damaged later, the log shows that something is missing, and is not taken to end there.
//! 4. The zones are reset (I2).
//!
//! Power may fail anywhere: until the batch is durable nothing has happened, and from then on a mount finds the zones empty, whatever is in them.
//!
//! A checkpoint that is being written is no obstacle, and neither is a zone that it will give back itself: see [`super::checkpoint`]. Whoever comes first resets it.

use crate::core::zones::Dead;
use crate::error::Result;
use crate::format::superblock::Superblock;
use crate::volume::Volume;
use crate::volume::commit::NoCut;
use crate::volume::seam::Seam;
use crate::volume::state::State;
use crate::volume::unbroken::Unbroken;
use parking_lot::MutexGuard;
use std::sync::atomic::Ordering;

/// Log after which zones are given back by a checkpoint, which lets it go: the zones that are kept for the log, but for the one that is being filled.
pub(super) fn log_limit(superblock: &Superblock) -> u64 {
    let capacity = superblock.members.iter().map(|member| member.zone_capacity).min().unwrap_or(0);
    u64::from(superblock.reserves.log_zones.saturating_sub(1).max(1)) * u64::from(capacity) * crate::BLOCK as u64
}

impl Volume {
    /// Gives dead zones of data back by a record in the log if that will do, and everything else as well by a checkpoint if not; how many zones.
    pub(super) fn release_for_cleaning(&self) -> Result<u32> {
        match self.release_and_tell()? {
            Some(freed) => Ok(freed),
            None => self.checkpoint_for_cleaning(),
        }
    }

    /// The same, but a checkpoint is left to its own thread. While that makes one, nothing is asked of it: whoever waits looks again when it is over. Whether the
    /// log gave zones back.
    pub(super) fn release_in_background(&self) -> Result<bool> {
        let released = self.release_and_tell()?.is_some();
        if !released && !self.made.is_under_way() {
            self.ask_for_checkpoint();
        }
        Ok(released)
    }

    /// How many zones the log gave back; none: it takes a checkpoint.
    fn release_and_tell(&self) -> Result<Option<u32>> {
        let before = self.counters.zones_reclaimed.load(Ordering::Relaxed);
        if !self.release_by_log()? {
            return Ok(None);
        }
        let freed = (self.counters.zones_reclaimed.load(Ordering::Relaxed) - before) as u32;
        self.with_cleaner(|cleaner| cleaner.checkpointed(freed));
        Ok(Some(freed))
    }

    /// `false`: it takes a checkpoint.
    pub(super) fn release_by_log(&self) -> Result<bool> {
        let _one = self.release_lock.lock();
        self.check_writable()?;
        self.check_counts()?;
        let logged = self.state.lock().logged;
        if logged >= self.log_limit || self.is_dirty_metadata_high() {
            return Ok(false);
        }
        let _unbroken = self.unbroken("giving zones back");
        let number = self.released.begin();
        let outcome = self.forget_dead_zones().and_then(|()| self.try_release());
        match outcome {
            Ok(true) => self.released.end(number),
            _ => self.released.give_up(),
        }
        // Under the lock, lest somebody who has just looked goes to sleep without having heard.
        let state = self.state.lock();
        self.counters.releases.fetch_add(u64::from(matches!(outcome, Ok(true))), Ordering::SeqCst);
        // Whoever waits makes a checkpoint instead, or meets the same error.
        self.counters.checkpoints_failed.fetch_add(u64::from(outcome.is_err()), Ordering::SeqCst);
        drop(state);
        self.progress.notify_all();
        outcome
    }

    fn try_release(&self) -> Result<bool> {
        // Commits go on meanwhile. The second time there is seldom anything to do.
        if !self.flush_log()? {
            return Ok(false);
        }
        let (commit, unbroken) = self.lock_commits()?;
        // The record says itself that what is before it is flushed: file data that its batches name may lie in a zone that is reset then.
        let is_flushed = {
            let state = self.state.lock();
            state.flushed >= state.appended
        };
        if !is_flushed && !self.flush_log()? {
            return Ok(false);
        }
        let mut zones = Vec::new();
        let told = self.append_marked(|state| {
            zones = to_release(state);
            state.moved.release(zones.iter().map(|zone| zone.addr).collect());
            !zones.is_empty()
        })?;
        if zones.is_empty() {
            return Ok(true);
        }
        drop((unbroken, commit));
        if !told || !self.flush_log()? {
            return Ok(false);
        }
        let (commit, unbroken) = self.lock_commits()?;
        let sealed = self.append_marked(|state| {
            state.moved.seal();
            true
        })?;
        drop((unbroken, commit));
        if sealed {
            self.meet(Seam::Told);
            self.reset_dead_zones(&zones);
        }
        Ok(sealed)
    }

    /// Nobody else commits. After a failure elsewhere nothing is logged any more; after a panic here the volume is read-only before anybody else can commit.
    fn lock_commits(&self) -> Result<(MutexGuard<'_, ()>, Unbroken<'_>)> {
        let commit = self.commit_lock.lock();
        self.check_writable()?;
        Ok((commit, self.unbroken("giving zones back")))
    }

    /// Cuts and writes a batch that has what `mark` asks for, which may be nothing: `false`. `false`, too, if it is not in the log. The caller holds the commit lock.
    fn append_marked(&self, mut mark: impl FnMut(&mut State) -> bool) -> Result<bool> {
        loop {
            let cut = {
                let mut state = self.state.lock();
                if !mark(&mut state) {
                    return Ok(false);
                }
                let cut = self.cut_batch(&mut state, true);
                state.moved.unmark();
                cut.map_err(|why| why.known_to(&state))
            };
            match cut {
                Ok(batch) => {
                    self.write_batch(batch)?;
                    return Ok(!self.state.lock().force_checkpoint);
                }
                Err(NoCut::Need(ids)) => self.load_or_fail(&ids)?,
                Err(NoCut::Damaged(unmet)) => return Err(self.lost(unmet)),
                Err(NoCut::LogFull | NoCut::NoZone) => return Ok(false),
                Err(NoCut::Fail(error)) => return Err(self.cannot_cut(error)),
            }
        }
    }
}

/// Zones of data that are dead and that nobody needs, if the log may say so.
fn to_release(state: &State) -> Vec<Dead> {
    let kept = state.moved.not_to_release();
    let is_data = |zone: &Dead| state.zones.entry(zone.addr).is_some_and(|entry| entry.role.is_data());
    let candidates = state.zones.reset_candidates(&state.log.zones_in_use());
    candidates.into_iter().filter(|zone| is_data(zone) && state.zones.is_still_dead(*zone) && !kept.contains(&zone.addr)).collect()
}

#[cfg(test)]
mod tests {
    use crate::addr::Addr;
    use crate::check::{CheckOptions, check};
    use crate::core::extents::{Relocation, extent_parts};
    use crate::error::Result;
    use crate::format::item::Timestamp;
    use crate::format::segment::Phase;
    use crate::ids::{FileBlock, Ino};
    use crate::volume::rig::{formatted, make, open};
    use crate::volume::{Clock, FormatOptions, MountOptions, Volume, WriteOptions};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use zns::ZonedDevice;
    use zns::sim::{Fault, FaultPlan, SimConfig, SimDrive, Survival};

    const B: usize = 4096;
    const BLOCKS: usize = 1024;

    fn drives_of(configs: &[SimConfig]) -> Vec<SimDrive> {
        configs.iter().cloned().map(SimDrive::new).collect()
    }

    fn devices(drives: &[SimDrive]) -> Vec<Arc<dyn ZonedDevice>> {
        drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
    }

    fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }

    fn block(stamp: usize) -> Vec<u8> {
        (0..B).map(|i| ((i * 7 + stamp * 131) >> 2) as u8).collect()
    }

    /// A file over some zones, and what is in it.
    fn filled(volume: &Volume, blocks: usize) -> (Ino, Vec<u8>) {
        let ino = make(volume, "file");
        let content: Vec<u8> = (0..blocks).flat_map(block).collect();
        volume.write(ino, 0, &content, &WriteOptions::default()).expect("written");
        volume.checkpoint().expect("a checkpoint");
        (ino, content)
    }

    /// Writes blocks anew, here and there, so that their zones become victims.
    fn scatter(volume: &Volume, ino: Ino, content: &mut [u8], round: usize) {
        for n in (round % 3..content.len() / B).step_by(3) {
            let new = block(n + (round + 1) * BLOCKS);
            volume.write(ino, (n * B) as u64, &new, &WriteOptions::default()).expect("written");
            content[n * B..][..B].copy_from_slice(&new);
        }
        volume.sync().expect("synced");
    }

    fn read(volume: &Volume, ino: Ino) -> Vec<u8> {
        volume.read(ino, 0, (BLOCKS * B) as u32).expect("read").to_vec()
    }

    #[test]
    fn zones_are_used_again_before_there_is_a_checkpoint_and_power_may_fail_then() {
        for drive in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)].map(SimDrive::new) {
            let mut volume = formatted(&drive);
            let (ino, mut content) = filled(&volume, BLOCKS);
            for life in 0..3 {
                let checkpoints = count(&volume.counters.checkpoints);
                for round in 0..40 {
                    scatter(&volume, ino, &mut content, life * 40 + round);
                    volume.gc(false).expect("cleaned");
                    volume.gc(false).expect("cleaned");
                }
                assert_eq!(count(&volume.counters.checkpoints), checkpoints, "the log suffices");
                assert!(count(&volume.counters.releases) > 40, "{:?}", volume.counters);
                assert!(count(&volume.counters.zones_reclaimed) > 64, "{:?}", volume.counters);
                assert!(read(&volume, ino) == content);
                drive.cut_power();
                drop(volume);
                drive.power_cycle();
                let report = check(vec![drive.fork().open() as Arc<dyn ZonedDevice>], CheckOptions::default()).expect("a volume");
                assert!(report.clean, "{report}");
                volume = open(&drive);
                assert!(volume.is_writable(), "{:?}", volume.read_only_reason());
                assert!(count(&volume.counters.replayed) > 40);
                assert!(read(&volume, ino) == content, "what was synced is there");
            }
            assert!(drive.violations().is_empty(), "{:?}", drive.violations());
        }
    }

    /// Power goes at every step of cleaning that gives zones back and fills them again, and half of the time in the mount that follows, too. All that was written
    /// is synced before, and cleaning must not cost a block of it.
    #[test]
    fn power_may_fail_at_every_step_of_giving_zones_back() {
        let (zoned, conventional) = (SimConfig::zoned(64, 1), SimConfig::conventional(64, 2));
        for (kind, configs) in [vec![zoned.clone()], vec![conventional.clone()], vec![zoned, conventional]].iter().enumerate() {
            let base = drives_of(configs);
            formatted_on(&base).shutdown().expect("unmounted");
            let (mut replayed, mut over) = (0, false);
            for cut in 0u64..2000 {
                let drives: Vec<SimDrive> = base.iter().map(SimDrive::fork).collect();
                let volume = opened(&drives).expect("mounts");
                let (ino, mut content) = filled(&volume, 600);
                scatter(&volume, ino, &mut content, 0);
                let struck = &drives[cut as usize % drives.len()];
                struck.reseed(cut);
                struck.cut_power_at(struck.ops() + cut / drives.len() as u64);
                for _ in 0..4 {
                    if volume.gc(false).is_err() {
                        break;
                    }
                }
                let uncut = struck.powered();
                assert!(!uncut || count(&volume.counters.releases) > 0, "kind {kind}: no zone was given back");
                over |= uncut;
                lose_power(&drives, volume, cut);
                if cut % 2 == 1 {
                    let second = &drives[cut as usize / 2 % drives.len()];
                    second.cut_power_at(second.ops() + cut % 23);
                    match opened(&drives) {
                        Ok(volume) => lose_power(&drives, volume, cut / 2),
                        Err(_) => restore_power(&drives, cut / 2),
                    }
                }
                let forks: Vec<SimDrive> = drives.iter().map(SimDrive::fork).collect();
                let report = check(devices(&forks), CheckOptions::default()).expect("a volume");
                assert!(report.clean, "kind {kind}, cut {cut}: {report}");
                replayed += report.released;
                let volume = opened(&drives).expect("mounts");
                assert!(volume.is_writable(), "kind {kind}, cut {cut}: {:?}", volume.read_only_reason());
                assert!(read(&volume, ino) == content, "kind {kind}, cut {cut}");
                assert!(drives.iter().all(|drive| drive.violations().is_empty()), "kind {kind}, cut {cut}");
                if over {
                    break;
                }
            }
            assert!(over && replayed > 5, "kind {kind}: {replayed} zones were given back by a log that was replayed");
        }
    }

    /// A panic at each operation on the device of which it consists, one after the other.
    #[test]
    fn a_panic_while_zones_are_given_back_costs_nothing_that_was_synced() {
        for op in 0.. {
            let drive = SimDrive::new(SimConfig::zoned(64, 1));
            let volume = formatted(&drive);
            let (ino, mut content) = filled(&volume, 600);
            scatter(&volume, ino, &mut content, 0);
            // Nothing is left of its first zones where they lay.
            volume.write(ino, 0, &content[..512 * B], &WriteOptions::default()).expect("written");
            volume.sync().expect("synced");
            drive.fail_at(drive.ops() + op, Fault::Panic);
            let released = catch_unwind(AssertUnwindSafe(|| volume.release_by_log()));
            drive.set_faults(FaultPlan::default());
            let is_over = released.is_ok();
            assert_eq!(volume.is_writable(), is_over, "operation {op}");
            if is_over {
                assert!(op > 4 && count(&volume.counters.releases) == 1, "it consists of more than {op} operations");
            }
            drive.cut_power();
            drop(volume);
            drive.power_cycle();
            let report = check(devices(&[drive.fork()]), CheckOptions::default()).expect("a volume");
            assert!(report.clean, "operation {op}: {report}");
            let volume = open(&drive);
            assert!(volume.is_writable() && read(&volume, ino)[..600 * B] == content, "operation {op}");
            if is_over {
                return;
            }
        }
    }

    fn formatted_on(drives: &[SimDrive]) -> Arc<Volume> {
        let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
        let format = FormatOptions { label: "log".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
        Volume::format(devices(drives), &format).expect("formatted");
        opened(drives).expect("mounts")
    }

    fn opened(drives: &[SimDrive]) -> Result<Arc<Volume>> {
        let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
        Volume::open(devices(drives), MountOptions { clock, secret: Some([2; 32]), ..MountOptions::default() })
    }

    fn lose_power(drives: &[SimDrive], volume: Arc<Volume>, seed: u64) {
        drives.iter().for_each(SimDrive::cut_power);
        drop(volume);
        restore_power(drives, seed);
    }

    fn restore_power(drives: &[SimDrive], seed: u64) {
        let survival = [Survival::Random, Survival::LoseAll, Survival::KeepAll, Survival::Random][seed as usize % 4];
        drives.iter().for_each(|drive| drive.power_cycle_with(survival));
    }

    /// The log goes on while a checkpoint is made, and may then name places that this checkpoint gives back, of blocks that users have written anew meanwhile.
    /// Nothing is missing there. Where it is those blocks that are, the device is not the one that was flushed.
    #[test]
    fn a_relocation_that_users_overtook_names_a_place_that_may_be_empty() {
        for overtaken in [true, false] {
            let drive = SimDrive::new(SimConfig::zoned(64, 1));
            let volume = formatted(&drive);
            let (ino, mut content) = filled(&volume, BLOCKS);
            let place = || {
                let (parts, _) = volume.ask(|state| extent_parts(&state.tree, ino, FileBlock(0), FileBlock(1), 1)).expect("mapped");
                parts[0].addr
            };
            let from = place();
            if overtaken {
                scatter(&volume, ino, &mut content, 0);
                assert!(place() != from);
            }
            let to = {
                let state = volume.state.lock();
                state.zones.iter().filter(|(_, entry)| entry.phase == Phase::Empty).last().expect("an empty zone").0
            };
            volume.state.lock().moved.add(Relocation {
                ino,
                block: FileBlock(0),
                blocks: 1,
                from,
                to,
                estimate: gc::placement::Estimate::UNKNOWN,
            });
            volume.flush_devices().expect("flushed");
            scatter(&volume, ino, &mut content, 1);
            assert!(volume.state.lock().moved.bytes() == 0, "it is in the log");
            drive.cut_power();
            drop(volume);
            drive.power_cycle();
            let volume = open(&drive);
            assert_eq!(volume.is_writable(), overtaken, "{:?}", volume.read_only_reason());
            assert!(!overtaken || read(&volume, ino) == content);
        }
    }

    /// Without the record that follows it, a damaged one would look like one that was never acknowledged, and the blocks that it says were moved would be
    /// looked for where they were.
    #[test]
    fn a_damaged_record_of_zones_that_were_given_back_is_noticed() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        let (ino, mut content) = filled(&volume, BLOCKS);
        scatter(&volume, ino, &mut content, 0);
        volume.gc(false).expect("cleaned");
        assert!(count(&volume.counters.releases) > 0);
        // The last block of the log is the record that knows of the flush, of which power that fails could leave nothing.
        volume.flush_devices().expect("flushed");
        let next = volume.state.lock().log.addr;
        let record = Addr(next.0 - 2);
        let place = volume.members.lba(record);
        drive.cut_power();
        drop(volume);
        drive.power_cycle();
        drive.flip_bit(place, 100, 3);
        let volume = open(&drive);
        let reason = volume.read_only_reason().expect("nothing is written");
        assert!(reason.contains("the log is damaged"), "{reason}");
        let mut lost = 0;
        for (n, expected) in content.chunks(B).enumerate() {
            match volume.read(ino, (n * B) as u64, B as u32) {
                Ok(found) => assert!(found[..] == *expected, "block {n}"),
                Err(_) => lost += 1,
            }
        }
        assert!(lost > 0, "this test finds nothing out");
    }
}
