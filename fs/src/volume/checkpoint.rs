//! Checkpoints: the state at one instant becomes durable and the log before it is no longer needed (decision 7).
//!
//! 1. Summaries of dead data zones leave the tree, so that the zones can be reset afterwards.
//! 2. Under the lock, after everything it needs is resident: a last batch is cut, all dirty blocks are placed and serialised, the dead
//!    zones are noted. From here on the volume goes on changing.
//! 3. The batch is written (others may commit again, and the log gives zones back), then the metadata; every device is flushed.
//! 4. The superblock is written into the ring of every device, and flushed.
//! 5. Zones that were dead at the cut and still are, that nobody has reset since, and that nobody pins, are reset (I2).
//!
//! What the log gives back in steps 3 to 5 may be zones of which the checkpoint before this one, or this one, knows that they hold something, and zones that this
//! one is about to give back. A mount that finds the one before follows the log from there, across the cut, for all that was changed before it is in the log: where
//! it is not, nobody commits or gives zones back before this one is durable. A mount that finds this one follows the log from the cut. Either meets the release
//! behind all that emptied the zone.

use crate::BLOCK;
use crate::addr::Addr;
use crate::core::extents;
use crate::core::halt::BlockId;
use crate::core::nodes::{CutSpace, Write};
use crate::core::zones::{Dead, ZoneTable};
use crate::error::{FsError, Result};
use crate::format::batch;
use crate::format::segment::Role;
use crate::format::superblock::{LAST_NUMBER, MOST_BLOCKS, RootPointers, Superblock, recordable};
use crate::ids::NodeId;
use crate::volume::Volume;
use crate::volume::commit::{Batch, Landed, NoCut};
use crate::volume::damage::Unmet;
use crate::volume::members::RunWrite;
use crate::volume::seam::Seam;
use crate::volume::state::State;
use gc::trace::Event;
use parking_lot::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;
use zns::{AlignedBuf, BufSlice, IoClass};

/// Blocks named by one header, and where the header goes.
#[derive(Debug)]
struct Group {
    header: Addr,
    ids: Vec<BlockId>,
}

/// Places the blocks of a cut behind headers that name them.
struct Placer<'a> {
    zones: &'a mut ZoneTable,
    groups: Vec<Group>,
    next: Addr,
    exhausted: bool,
}

impl Placer<'_> {
    fn allocate(&mut self) -> Addr {
        match self.zones.allocate(Role::Metadata, 1) {
            Some((addr, _)) => addr,
            None => {
                self.exhausted = true;
                Addr::NONE
            }
        }
    }
}

impl CutSpace for Placer<'_> {
    fn place(&mut self, id: BlockId) -> Addr {
        loop {
            if self.exhausted {
                return Addr::NONE;
            }
            let addr = self.allocate();
            if self.exhausted {
                return addr;
            }
            let follows = addr == self.next && self.groups.last().is_some_and(|g| g.ids.len() < batch::MAX_BLOCKS);
            self.next = addr.plus(1);
            if follows {
                self.groups.last_mut().expect("there is one").ids.push(id);
                self.zones.add_live(addr, 1);
                return addr;
            }
            self.groups.push(Group { header: addr, ids: Vec::new() });
        }
    }
    fn release(&mut self, old: Addr) {
        if !old.is_none() {
            self.zones.sub_live(old, 1);
        }
    }
    fn dirty_raw(&mut self) -> Vec<NodeId> {
        self.zones.take_dirty_pages().into_iter().map(|page| NodeId(u64::from(page) + 1)).collect()
    }
    fn raw(&mut self, id: NodeId) -> Box<[u8; BLOCK]> {
        self.zones.store_page((id.0 - 1) as u32)
    }
}

/// What a checkpoint writes after its cut.
struct CheckpointCut {
    writes: Vec<Write>,
    groups: Vec<Group>,
    /// The zones it goes to.
    places: Vec<Addr>,
    superblock: Superblock,
    dead: Vec<Dead>,
    batch: u64,
    /// The log does not hold everything up to the cut.
    log_has_gap: bool,
}

/// Why there is no snapshot yet; a batch that was cut already and must be written.
struct NoSnapshot {
    batch: Option<Box<Batch>>,
    why: NoCut,
}

/// What a checkpoint is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CheckpointKind {
    /// The last one of a mount.
    pub clean: bool,
}

impl Volume {
    /// Makes the present state durable and lets the log and dead zones go.
    ///
    /// # Errors
    /// A device that fails, after which the volume is read-only.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_as(CheckpointKind::default())
    }

    /// A checkpoint if dirty metadata has reached its bound. Many may come at once: one makes it, and the others find it made.
    pub(super) fn settle_dirty_metadata(&self) -> Result<()> {
        let _one = self.checkpoint_lock.lock();
        if self.state.lock().tree.store().dirty_blocks() < self.dirty_limit {
            return Ok(());
        }
        self.checkpoint_locked(CheckpointKind::default())
    }

    pub(super) fn checkpoint_as(&self, kind: CheckpointKind) -> Result<()> {
        let _one = self.checkpoint_lock.lock();
        self.checkpoint_locked(kind)
    }

    /// The caller holds the checkpoint lock.
    fn checkpoint_locked(&self, kind: CheckpointKind) -> Result<()> {
        self.check_writable()?;
        self.check_counts()?;
        let _unbroken = self.unbroken("a checkpoint");
        // A zone must not be given back, and be another one, while its summaries are being forgotten.
        let release = self.release_lock.lock();
        let (made, released) = (self.made.begin(), self.released.begin());
        let outcome = self.forget_dead_zones().and_then(|()| self.checkpoint_attempts(kind, release));
        // Before it is counted: whoever has seen the count and finds one under way waits for another, which nobody may be making.
        self.made.end(made);
        self.released.end(released);
        let counter = if outcome.is_ok() { &self.counters.checkpoints } else { &self.counters.checkpoints_failed };
        // Under the lock, lest somebody who has just looked goes to sleep without having heard.
        let state = self.state.lock();
        counter.fetch_add(1, Ordering::SeqCst);
        drop(state);
        self.progress.notify_all();
        outcome
    }

    /// A checkpoint resets zones because of their counts (I2): those that were found to be wrong end all writing.
    pub(super) fn check_counts(&self) -> Result<()> {
        let Some(zone) = self.state.lock().zones.miscounted() else { return Ok(()) };
        let reason = format!(
            "the segment table counts fewer live blocks in zone {zone} than there are, or two files own the same block: the volume is damaged \
             (fsck.ferryfs -n says where); what is in it can be copied away"
        );
        self.fail(reason.clone());
        Err(FsError::ReadOnly(reason))
    }

    fn checkpoint_attempts(&self, kind: CheckpointKind, release: MutexGuard<'_, ()>) -> Result<()> {
        let mut release = Some(release);
        for attempt in 0.. {
            let release = release.take().unwrap_or_else(|| self.release_lock.lock());
            match self.try_checkpoint(kind, release) {
                Ok(()) => return Ok(()),
                Err(error) if attempt < 3 && self.is_writable() && !self.lost_power(&error) => {
                    tracing::warn!("a checkpoint failed and is made again elsewhere: {error}");
                }
                Err(error) => {
                    self.fail(format!("a checkpoint failed: {error}"));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Step 1. A zone whose summaries cannot be read stays as it is, and the checkpoint goes on without it. But if what is damaged holds more
    /// than summaries, which could be made again, the volume is read-only.
    pub(super) fn forget_dead_zones(&self) -> Result<()> {
        let dead = self.state.lock().zones.to_forget();
        for zone in dead {
            let Err(unmet) = self.forget_dead_zone(zone) else { continue };
            if self.lost_power(&unmet.error) || !self.is_writable() {
                return Err(unmet.error);
            }
            let only_summaries = unmet.block.is_some_and(|id| self.holds_only_summaries(id));
            if matches!(unmet.error, FsError::Corrupt { .. }) && !only_summaries {
                self.lose(&unmet);
                return Err(unmet.error);
            }
            let error = unmet.error;
            tracing::error!("what zone {zone} held cannot be forgotten, so that it is not used again before the next mount: {error}");
            self.state.lock().zones.set_unmovable(zone);
        }
        Ok(())
    }

    fn forget_dead_zone(&self, zone: Addr) -> std::result::Result<(), Unmet> {
        while self.try_change(IoClass::Log, |state| {
            extents::prepare_forget_zone(&state.tree, zone, FORGET_STEP)?;
            let more = extents::forget_zone(&mut state.tree, zone, FORGET_STEP)?;
            state.settle_released();
            if !more {
                state.zones.set_forgotten(zone);
            }
            Ok(more)
        })? {}
        Ok(())
    }

    fn try_checkpoint(&self, kind: CheckpointKind, release: MutexGuard<'_, ()>) -> Result<()> {
        let started = Instant::now();
        let mut locks = Some((release, self.commit_lock.lock()));
        // Below the locks: after a panic the volume is read-only before anybody else has them.
        let _unbroken = self.unbroken("a checkpoint");
        let (batch, cut) = self.cut_checkpoint(kind)?;
        let target = cut.batch;
        let written = self.write_batch(batch);
        // A batch that is not in the log may not be followed by one that is before this checkpoint is durable: a crash would replay the
        // one without the other (I7).
        if !cut.log_has_gap {
            locks = None;
        }
        let outcome = match written {
            Ok(Landed::AsCut) => self.write_checkpoint(&cut),
            // Not an end: the next attempt finds the data where it is now.
            Ok(Landed::Elsewhere) => Err(FsError::Internal("data of the checkpoint had to go elsewhere")),
            Err(error) => Err(error),
        };
        let mut state = self.state.lock();
        state.tree.store_mut().cut_done(outcome.is_ok());
        state.tree.store_mut().shrink(self.cache_budget);
        cut.places.iter().for_each(|addr| state.zones.end_write(*addr));
        if let Err(error) = outcome {
            // What was allocated there is not written, or not all of it.
            for place in &cut.places {
                state.zones.end_zone(*place);
                state.zones.finish_again(*place);
            }
            state.zones.dirty_all_pages();
            state.force_checkpoint = true;
            // No superblock has this generation: devices may be one apart, never two.
            state.generation -= 1;
            return Err(error);
        }
        state.flushed = state.flushed.max(target);
        drop(state);
        drop(locks);
        self.meet(Seam::Durable);
        let freed = self.reset_dead_zones(&cut.dead);
        self.tracer.emit(|| Event::Checkpoint {
            seq: cut.superblock.generation,
            freed,
            blocks: cut.writes.len() as u64,
            us: micros(started),
        });
        Ok(())
    }

    /// Step 2. The caller holds the commit lock.
    fn cut_checkpoint(&self, kind: CheckpointKind) -> Result<(Batch, CheckpointCut)> {
        loop {
            // A statement of its own: in the head of the match the lock would be held while the arms write.
            let cut = {
                let mut state = self.state.lock();
                let cut = self.try_cut(&mut state, kind);
                cut.map_err(|NoSnapshot { batch, why }| NoSnapshot { batch, why: why.known_to(&state) })
            };
            let (batch, missing) = match cut {
                Ok(cut) => return Ok(cut),
                Err(NoSnapshot { batch, why: NoCut::Need(ids) }) => (batch, ids),
                Err(NoSnapshot { batch, why: NoCut::Fail(error) }) => {
                    // What was cut is mapped where it is to be: it must get there although there is no checkpoint.
                    if let Some(batch) = batch {
                        self.write_batch(*batch)?;
                    }
                    return Err(self.cannot_cut(error));
                }
                Err(NoSnapshot { batch, why: NoCut::Damaged(unmet) }) => {
                    if let Some(batch) = batch {
                        self.write_batch(*batch)?;
                    }
                    return Err(self.lost(unmet));
                }
                Err(NoSnapshot { why: NoCut::NoZone | NoCut::LogFull, .. }) => return Err(self.no_zone()),
            };
            if let Some(batch) = batch {
                self.write_batch(*batch)?;
            }
            self.load_or_fail(&missing)?;
        }
    }

    fn try_cut(&self, state: &mut State, kind: CheckpointKind) -> std::result::Result<(Batch, CheckpointCut), NoSnapshot> {
        let before = |why| NoSnapshot { batch: None, why };
        state.tree.store().cut_ready().map_err(|id| before(NoCut::Need(vec![id])))?;
        let batch = match self.cut_batch(state, true) {
            // The checkpoint itself makes the batch durable.
            Err(NoCut::LogFull) => {
                state.force_checkpoint = true;
                self.cut_batch(state, false).map_err(before)?
            }
            other => other.map_err(before)?,
        };
        let number = state.batch - 1;
        // The batch may have touched nodes whose map pages are not here. Then it is written as it is, and the cut comes with the next one.
        if let Err(id) = state.tree.store().cut_ready() {
            return Err(NoSnapshot { batch: Some(Box::new(batch)), why: NoCut::Need(vec![id]) });
        }
        state.log.ensure_zones(&mut state.zones);
        let keep = state.log.zones_in_use();
        for addr in state.zones.open_log_zones() {
            if !keep.contains(&addr) {
                state.zones.end_zone(addr);
            }
        }
        let failed = |batch, why| NoSnapshot { batch: Some(Box::new(batch)), why: NoCut::Fail(FsError::Internal(why)) };
        let State { tree, zones, .. } = state;
        let mut placer = Placer { zones, groups: Vec::new(), next: Addr::NONE, exhausted: false };
        let Ok(cut) = tree.store_mut().cut(&mut placer) else { return Err(failed(batch, "a cut that was ready")) };
        let Placer { groups, exhausted, .. } = placer;
        let mut places: Vec<Addr> = groups.iter().map(|g| g.header.zone_base()).collect();
        places.dedup();
        places.iter().for_each(|addr| zones.begin_write(*addr));
        if exhausted {
            for addr in &places {
                zones.end_write(*addr);
                // What was allocated there will not be written: what follows it would lie behind a gap.
                zones.end_zone(*addr);
                zones.finish_again(*addr);
            }
            zones.dirty_all_pages();
            tree.store_mut().cut_done(false);
            return Err(failed(batch, "the checkpoint reserve was too small"));
        }
        state.settle_released();
        let log_has_gap = state.force_checkpoint;
        // Without a zone for the log the superblock cannot name where it goes on: then every sync is a checkpoint.
        state.force_checkpoint = state.log.addr.is_none();
        state.logged = 0;
        state.generation += 1;
        let dead = state.zones.reset_candidates(&keep);
        let superblock = self.superblock(state, &cut.roots, number, kind);
        Ok((batch, CheckpointCut { writes: cut.writes, groups, places, superblock, dead, batch: number, log_has_gap }))
    }

    fn superblock(&self, state: &State, roots: &crate::core::nodes::Roots, batch: u64, kind: CheckpointKind) -> Superblock {
        Superblock {
            generation: state.generation,
            clean: kind.clean,
            epoch: state.log.epoch,
            secret: state.log.secret,
            next_ino: state.next_ino,
            // Only a forged record began where these end; then they stay there.
            clock: state.zones.clock().min(MOST_BLOCKS - 1),
            unwritten: state.zones.unwritten().min(MOST_BLOCKS - 1),
            population: recordable(state.zones.population()),
            inodes: state.inodes.min(LAST_NUMBER - 1),
            roots: RootPointers {
                tree_root: roots.tree_root,
                map_addr: roots.map_root.addr,
                map_crc: roots.map_root.crc,
                map_levels: roots.map_root.levels,
                next_id: roots.next_id,
                free_head: roots.free_head.0,
            },
            log: state.log.start(batch),
            ..self.identity.clone()
        }
    }

    /// Steps 3 (the metadata) and 4.
    fn write_checkpoint(&self, cut: &CheckpointCut) -> Result<()> {
        self.meet(Seam::Cut);
        let generation = cut.superblock.generation;
        let mut runs: Vec<RunWrite> = cut
            .groups
            .iter()
            .map(|g| RunWrite { addr: g.header, data: vec![whole(&batch::encode(generation, &g.ids))] })
            .chain(cut.writes.iter().map(|w| RunWrite { addr: w.addr, data: vec![whole(w.page.bytes())] }))
            .collect();
        // In the order of allocation: a zone is filled before the next one is opened.
        let order = |addr: Addr| cut.places.iter().position(|place| *place == addr.zone_base());
        runs.sort_by_key(|run| (order(run.addr), run.addr));
        let bytes = (runs.len() * BLOCK) as u64;
        let places: Vec<Addr> = runs.iter().map(|r| r.addr).collect();
        let results = self.members.write_runs(runs, IoClass::Log);
        self.counters.checkpoint_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut failure = None;
        for (addr, result) in places.iter().zip(results) {
            if let Err(error) = result {
                if let Some(error) = self.write_failed(*addr, &error) {
                    return Err(error);
                }
                self.state.lock().zones.retire(*addr);
                failure = Some(error);
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        self.finish_ended_zones();
        self.flush_devices()?;
        self.meet(Seam::Flushed);
        // Whether the superblock is durable is not known any more then: nothing may be built on either answer.
        self.write_superblock(&cut.superblock)
    }

    /// Step 5.
    pub(super) fn reset_dead_zones(&self, dead: &[Dead]) -> u32 {
        let resettable: Vec<Addr> = {
            let mut state = self.state.lock();
            let resettable: Vec<Addr> = dead.iter().filter(|dead| state.zones.is_still_dead(**dead)).map(|dead| dead.addr).collect();
            // Until they are reset they are nobody's victims.
            resettable.iter().for_each(|addr| state.zones.begin_write(*addr));
            state.moved.forget(&resettable);
            resettable
        };
        let freed = self.reset_zones(&resettable);
        let mut state = self.state.lock();
        resettable.iter().for_each(|addr| state.zones.end_write(*addr));
        freed
    }

    /// Resets zones that hold nothing, and gives how many were; what cannot be reset is retired.
    pub(super) fn reset_zones(&self, zones: &[Addr]) -> u32 {
        let started = Instant::now();
        let mut count = 0;
        for (addr, outcome) in self.members.reset(zones) {
            let mut state = self.state.lock();
            match outcome {
                Ok(()) => {
                    let was_data = state.zones.entry(addr).is_some_and(|e| e.role.is_data() || e.role == Role::Metadata);
                    state.zones.note_reset(addr);
                    let zone = gc::SegmentId { device: addr.device(), zone: addr.zone() };
                    self.tracer.emit(|| Event::Reset { zone, us: micros(started) });
                    self.counters.zones_reclaimed.fetch_add(u64::from(was_data), Ordering::Relaxed);
                    count += 1;
                }
                Err(error) => {
                    tracing::warn!("resetting zone {addr} failed: {error}; the zone is retired");
                    state.zones.retire(addr);
                }
            }
        }
        count
    }
}

/// Summaries removed under one hold of the lock.
const FORGET_STEP: usize = 256;

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn whole(bytes: &[u8; BLOCK]) -> BufSlice {
    BufSlice::whole(AlignedBuf::from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::segment::Phase;
    use crate::volume::rig::{formatted, make};
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;
    use zns::sim::{SimConfig, SimDrive};
    use zns::{DeviceId, ZoneId};

    /// Somebody who knows of it and finds one under way would wait for the next one, and nobody makes that.
    #[test]
    fn a_checkpoint_that_is_counted_is_over() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let first = volume.counters.checkpoints.load(Ordering::SeqCst);
        let seen = AtomicU64::new(first);
        std::thread::scope(|scope| {
            let observer = scope.spawn(|| {
                let mut under_way = 0;
                for next in first + 1..=first + 200 {
                    while volume.counters.checkpoints.load(Ordering::SeqCst) < next {
                        std::hint::spin_loop();
                    }
                    under_way += u32::from(volume.made.is_under_way() || volume.released.is_under_way());
                    seen.store(next, Ordering::SeqCst);
                }
                under_way
            });
            // To wake somebody takes its time.
            let sleeper = scope.spawn(|| {
                while seen.load(Ordering::SeqCst) < first + 200 {
                    volume.progress.wait_for(&mut volume.state.lock(), Duration::from_millis(1));
                }
            });
            for next in first + 1..=first + 200 {
                volume.checkpoint().expect("a checkpoint");
                while seen.load(Ordering::SeqCst) < next {
                    std::thread::yield_now();
                }
            }
            sleeper.join().expect("no panic");
            assert_eq!(observer.join().expect("no panic"), 0);
        });
    }

    /// What cannot be placed has the address of the ring's zone, which must be left alone.
    #[test]
    fn a_checkpoint_without_room_does_not_touch_the_superblocks() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        make(&volume, "a");
        let ring = Addr::new(DeviceId(0), ZoneId(0), 0);
        {
            let mut state = volume.state.lock();
            while state.zones.allocate(Role::Metadata, u32::MAX).is_some() {}
        }
        let ended = volume.checkpoint();
        assert!(ended.is_err() && !volume.is_writable(), "there was room: {ended:?}");
        let mut state = volume.state.lock();
        let entry = state.zones.entry(ring).expect("it is there");
        assert_eq!((entry.role, entry.phase), (Role::Ring, Phase::Open));
        assert!(!state.zones.take_to_finish().contains(&ring));
        drop(state);
        let zones = volume.read_reports().expect("a report");
        assert!(zones[0][0].state.is_active(), "{:?}", zones[0][0]);
    }
}
