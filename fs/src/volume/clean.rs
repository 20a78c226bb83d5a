//! The volume as the cleaner sees it, and cleaning that a person asks for. Who else drives the cleaner: [`super::room`].

use crate::BLOCK;
use crate::addr::Addr;
use crate::core::extents::{self, Relocation};
use crate::core::halt::{BlockId, Halt};
use crate::error::{FsError, Result};
use crate::format::batch;
use crate::format::segment::Role;
use crate::ids::{FileBlock, Ino};
use crate::volume::Volume;
use crate::volume::held::Hold;
use crate::volume::state::State;
use copy_backend::{CopyEngine, VerifyMode};
use gc::cleaner::CleanerConfig;
use gc::trace::Tracer;
use gc::{CleanError, Committed, LiveExtent, LiveRun, LogSpace, Move, Owner, Reservation, SegmentId, SegmentInfo, Seq, Stream};
use parking_lot::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use zns::{DeviceId, IoClass};

/// A live block of metadata counts as so many of data when victims are compared.
const METADATA_WEIGHT: u32 = 2;

/// Relocations that are published before others may have the lock: a fraction of a millisecond.
const PUBLISHED_AT_ONCE: usize = 32;

/// Chunks in one step of cleaning that a person asked for: the device copies while the one before is published. Whoever waits for the cleaner has a step
/// end before.
const CHUNKS_BY_HAND: u32 = 32;

/// The cleaner of a volume.
pub(super) type Cleaner = gc::cleaner::Cleaner<Space, Arc<CopyEngine>>;

/// A volume as the cleaner sees it.
pub(super) struct Space(pub Weak<Volume>);

impl Space {
    fn volume(&self) -> gc::Result<Arc<Volume>> {
        self.0.upgrade().ok_or_else(|| CleanError::Filesystem("the volume is gone".into()))
    }
}

fn failed(error: FsError) -> CleanError {
    match error {
        FsError::Copy(error) => CleanError::Copy(error),
        other => CleanError::Filesystem(other.to_string()),
    }
}

fn base(id: SegmentId) -> Addr {
    Addr::new(id.device, id.zone, 0)
}

fn stream_of(role: Role) -> Stream {
    match role {
        Role::Metadata => Stream::Metadata,
        Role::RelocatedByDevice | Role::CopiedByDevice => Stream::RelocatedByDevice,
        Role::RelocatedByHost => Stream::RelocatedByHost,
        _ => Stream::User,
    }
}

impl LogSpace for Space {
    fn segments(&self) -> Vec<SegmentInfo> {
        let Ok(volume) = self.volume() else { return Vec::new() };
        let state = volume.state.lock();
        // Where no data can be moved to, metadata still can: checkpoints write it anew. Only what pays for such a checkpoint is offered.
        let movable = state.zones.can_relocate();
        let (now, typical, estimating) = (state.zones.clock(), state.zones.total(), state.estimates.is_some());
        let worth = |(addr, e): &(Addr, &crate::format::segment::SegmentEntry)| {
            movable || (e.role == Role::Metadata && e.live < state.zones.capacity(addr.device()) / 4 * 3)
        };
        let info = |(addr, e): (Addr, &crate::format::segment::SegmentEntry)| {
            let capacity = state.zones.capacity(addr.device());
            // Data is moved by the device, metadata by the host, which writes what is live anew: it has to be worth that.
            let live = match e.role {
                Role::Metadata => (e.live.saturating_mul(METADATA_WEIGHT)).min(capacity.saturating_sub(1)).max(e.live),
                _ => e.live,
            };
            let id = SegmentId { device: addr.device(), zone: addr.zone() };
            // What of metadata is not written anew by the next checkpoint or two stays for long: its age, counted in what users write, says nothing, and by
            // it policies that wait for the young to die would leave its dead space alone. So it is as old as all that users have.
            let (written_at, expected) = match e.role {
                Role::Metadata => (e.written_at.min(now.saturating_sub(typical)), if estimating { typical } else { 0 }),
                _ => (e.written_at, state.zones.expected(addr).filter(|_| estimating).map_or(0, |interval| interval as Seq)),
            };
            SegmentInfo { id, stream: stream_of(e.role), live, capacity, written_at, expected }
        };
        state.zones.victims().filter(worth).map(info).collect()
    }

    fn preferred(&self, candidates: &[SegmentInfo]) -> Option<Vec<SegmentInfo>> {
        self.volume().ok()?.state.lock().preferred(candidates)
    }

    fn now(&self) -> Seq {
        self.volume().map_or(0, |volume| volume.state.lock().zones.clock())
    }

    fn device_blocks_per_block(&self, device: DeviceId) -> u32 {
        self.volume().map_or(1, |volume| volume.members.device_blocks(device, 1).0 as u32)
    }

    fn pin(&self, victim: SegmentId) -> gc::Result<()> {
        let volume = self.volume()?;
        let mut state = volume.state.lock();
        if !state.zones.is_victim(base(victim)) {
            return Err(CleanError::NotAVictim);
        }
        state.zones.set_victim(base(victim), true);
        Ok(())
    }

    fn release(&self, victim: SegmentId) {
        if let Ok(volume) = self.volume() {
            volume.state.lock().zones.set_victim(base(victim), false);
        }
    }

    fn is_given_back(&self, emptied: SegmentId) -> bool {
        self.volume().is_ok_and(|volume| volume.state.lock().zones.is_given_back(base(emptied)))
    }

    fn live(&self, victim: SegmentId, from: u32, max: u32) -> gc::Result<LiveRun> {
        let volume = self.volume()?;
        let with_checksums = volume.options.verify != VerifyMode::Off;
        let found = volume.ask_for(IoClass::Cleaning, |state| {
            let data = extents::live_runs(&state.tree, base(victim), from, max)?;
            let mut sums = Vec::with_capacity(data.parts.len());
            for part in &data.parts {
                let of_part = |p: &extents::LivePart| extents::checksums(&state.tree, p.ino, p.block, p.blocks);
                sums.push(if with_checksums { of_part(part)? } else { Vec::new() });
            }
            Ok((data, sums))
        });
        let (data, sums) = found.map_err(failed)?;
        let extents = data.parts.into_iter().zip(sums).map(|(part, checksums)| LiveExtent {
            device: victim.device,
            lba: volume.members.lba(part.addr),
            blocks: part.blocks,
            owner: Owner(part.ino.0, part.block.0),
            estimate: part.estimate,
            checksums,
        });
        Ok(LiveRun { extents: extents.collect(), next: data.next })
    }

    fn is_calm(&self) -> bool {
        self.volume().is_ok_and(|volume| volume.is_calm())
    }

    fn is_awaited(&self) -> bool {
        self.volume().is_ok_and(|volume| volume.is_cleaner_awaited())
    }

    fn evacuate_metadata(&self, victim: SegmentId, from: u32, max: u32) -> gc::Result<Option<u32>> {
        let volume = self.volume()?;
        volume.evacuate(base(victim), from, max).map_err(failed)
    }

    fn reserve(&self, stream: Stream, victim: SegmentId, blocks: u32) -> gc::Result<Option<Reservation>> {
        let volume = self.volume()?;
        let class = volume.state.lock().class_of_victim(base(victim));
        let role = match stream {
            Stream::RelocatedByHost => Role::RelocatedByHost,
            _ => Role::RelocatedByDevice,
        };
        match volume.hold_for_relocation(role, class, victim.device, blocks) {
            Hold::Space(id, addr, blocks) => Ok(Some(Reservation { id, device: addr.device(), lba: volume.members.lba(addr), blocks })),
            Hold::Own => Ok(None),
            Hold::NoZone => Err(CleanError::NoSpace),
        }
    }

    fn copied(&self, reservation: &Reservation, used: u32, end_zone: bool) {
        if let Ok(volume) = self.volume() {
            volume.members.mark_dirty(reservation.device);
            let addr = volume.members.addr(reservation.device, reservation.lba);
            // Nothing of it is mapped yet: until it is published, the zone counts as one that is being written.
            volume.state.lock().zones.begin_write(addr);
            volume.let_go_space(reservation.id, used, end_zone);
        }
    }

    fn publish(&self, moves: &[Move], reservation: Reservation) -> gc::Result<Committed> {
        let volume = self.volume()?;
        let addr = volume.members.addr(reservation.device, reservation.lba);
        let _written = BeingWritten { volume: &volume, addr };
        volume.publish(moves, reservation.device).map_err(failed)
    }
}

/// A zone into which something was copied counts as one that is being written until this is dropped: after a panic, too.
struct BeingWritten<'a> {
    volume: &'a Volume,
    addr: Addr,
}

impl Drop for BeingWritten<'_> {
    fn drop(&mut self) {
        self.volume.state.lock().zones.end_write(self.addr);
    }
}

impl Volume {
    /// Compare-and-swap of moves, run by run (I5).
    fn publish(&self, moves: &[Move], device: DeviceId) -> Result<Committed> {
        let relocation = |m: &Move| {
            let (from, to) = (self.members.addr(m.from.device, m.from.lba), self.members.addr(device, m.to));
            let estimate = m.from.estimate;
            Relocation { ino: Ino(m.from.owner.0), block: FileBlock(m.from.owner.1), blocks: m.from.blocks, from, to, estimate }
        };
        let mut relocations: Vec<Relocation> = moves.iter().map(relocation).collect();
        {
            let state = self.state.lock();
            relocations.iter_mut().for_each(|moved| moved.estimate = state.moved_on(moved.estimate, moved.from));
        }
        let mut done = Committed::default();
        let mut rest = &relocations[..];
        while !rest.is_empty() {
            let (published, missing) = self.publish_some(&rest[..rest.len().min(PUBLISHED_AT_ONCE)], &mut done)?;
            rest = &rest[published..];
            if let Some(missing) = missing {
                // Where nothing is written any more no checkpoint makes room for what is loaded.
                self.check_writable()?;
                self.load_for(&[missing], IoClass::Cleaning)?;
                // One by one until the first is published: in a cache that is full of what is dirty, many that are loaded drive one another out.
                if published > 0 {
                    self.load_for_relocations(rest)?;
                }
            }
        }
        // What lost its race was copied as well.
        self.counters.relocated.fetch_add(u64::from(done.moved + done.lost) * BLOCK as u64, Ordering::Relaxed);
        Ok(done)
    }

    /// Publishes relocations until one needs a block that is not resident. Gives how many, and which block.
    fn publish_some(&self, relocations: &[Relocation], done: &mut Committed) -> Result<(usize, Option<BlockId>)> {
        let mut state = self.state.lock();
        let before = state.tree.store().dirty_blocks();
        let mut published = 0;
        let mut ended = Ok(None);
        for relocation in relocations {
            let State { tree, zones, moved: log, .. } = &mut *state;
            match extents::relocate(tree, zones, relocation) {
                Ok(moved) => {
                    if moved > 0 {
                        log.add(*relocation);
                        state.note_moved(relocation, moved);
                    }
                    done.moved += moved;
                    done.lost += relocation.blocks.saturating_sub(moved);
                    published += 1;
                }
                Err(Halt::Need(id)) => {
                    ended = state.tree.store().fetch_for(id).map(|_| Some(id));
                    break;
                }
                Err(Halt::Fail(error)) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        state.settle_released();
        let dirtied = state.tree.store().dirty_blocks().saturating_sub(before);
        self.counters.gc_meta_written.fetch_add(dirtied * BLOCK as u64, Ordering::Relaxed);
        Ok((published, ended?))
    }

    /// Brings in together what the relocations need one by one.
    fn load_for_relocations(&self, relocations: &[Relocation]) -> Result<()> {
        for _ in 0..8 {
            let mut missing = Vec::new();
            {
                let state = self.state.lock();
                for relocation in relocations {
                    match extents::prepare_relocate(&state.tree, relocation) {
                        Ok(()) => {}
                        Err(Halt::Need(id)) => missing.push(id),
                        Err(Halt::Fail(error)) => return Err(error),
                    }
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            missing.sort_unstable();
            missing.dedup();
            self.load_for(&missing, IoClass::Cleaning)?;
        }
        Ok(())
    }

    /// Makes live metadata of a zone dirty, header by header.
    fn evacuate(&self, zone: Addr, from: u32, max: u32) -> Result<Option<u32>> {
        let end = self.state.lock().zones.entry(zone).map_or(0, |e| e.written);
        let mut at = from;
        let mut moved = 0;
        while at < end && moved < max {
            let header = self.members.read_block(zone.plus(at), IoClass::Cleaning)?;
            self.counters.gc_meta_read.fetch_add(BLOCK as u64, Ordering::Relaxed);
            let Some(ids) = batch::decode(&header) else {
                at += 1;
                continue;
            };
            for (i, id) in ids.iter().enumerate() {
                let here = zone.plus(at + 1 + i as u32);
                moved += u32::from(self.rewrite_if_at(*id, here)?);
            }
            at += 1 + ids.len() as u32;
        }
        Ok((at < end).then_some(at))
    }

    /// If the block lies at `here`, it becomes dirty, so that the next checkpoint writes it elsewhere.
    fn rewrite_if_at(&self, id: BlockId, here: Addr) -> Result<bool> {
        if self.rewrite_segment_page(id, here)? {
            return Ok(true);
        }
        self.change_for(IoClass::Cleaning, |state| {
            if state.tree.store().locate(id)? != Some(here) {
                return Ok(false);
            }
            let before = state.tree.store().dirty_blocks();
            state.tree.store_mut().rewrite(id)?;
            let dirtied = state.tree.store().dirty_blocks().saturating_sub(before);
            self.counters.gc_meta_written.fetch_add(dirtied * BLOCK as u64, Ordering::Relaxed);
            Ok(true)
        })
    }

    /// Segment table pages are not nodes in memory: the table itself writes them again.
    fn rewrite_segment_page(&self, id: BlockId, here: Addr) -> Result<bool> {
        let BlockId::Node(node) = id else { return Ok(false) };
        self.change_for(IoClass::Cleaning, |state| {
            if node.0 == 0 || node.0 > state.tree.store().raw_pages() {
                return Ok(false);
            }
            if state.tree.store().locate(id)? == Some(here) {
                state.zones.dirty_page((node.0 - 1) as u32);
                self.counters.gc_meta_written.fetch_add(BLOCK as u64, Ordering::Relaxed);
            }
            Ok(true)
        })
    }

    /// The cleaner for this volume.
    pub(super) fn new_cleaner(self: &Arc<Self>, tracer: Tracer) -> Cleaner {
        let marks = self.state.lock().zones.pace();
        let config = CleanerConfig::with_marks(self.options.policy, marks);
        Cleaner::new(Space(Arc::downgrade(self)), self.engine.clone(), config, tracer)
            .with_toll(self.toll.clone())
            .with_checkpoints(self.made.clone(), self.released.clone())
    }

    /// Works with the cleaner; whoever waits for it goes first then.
    pub(super) fn with_cleaner<T>(&self, work: impl FnOnce(&mut Cleaner) -> T) -> Option<T> {
        let waits = self.calm.await_cleaner();
        let mut cleaner = self.cleaner.lock();
        drop(waits);
        let done = cleaner.as_mut().map(work);
        MutexGuard::unlock_fair(cleaner);
        done
    }

    /// The same, unless somebody else works with it: `None`, and nobody who comes later finds this caller before him.
    pub(super) fn with_free_cleaner<T>(&self, work: impl FnOnce(&mut Cleaner) -> T) -> Option<Option<T>> {
        let mut cleaner = self.cleaner.try_lock()?;
        let done = cleaner.as_mut().map(work);
        MutexGuard::unlock_fair(cleaner);
        Some(done)
    }

    /// How many chunks follow one another before dirty metadata is looked at again. Without threads everything happens in one order, which a
    /// simulation can repeat.
    fn chunks_by_hand(&self) -> u32 {
        let dirty = self.state.lock().tree.store().dirty_blocks();
        if self.has_threads() && dirty < self.cleaning_dirty_limit / 2 { CHUNKS_BY_HAND } else { 1 }
    }

    /// Cleans one victim, or until nothing worth cleaning is left.
    ///
    /// # Errors
    /// A device that fails; [`FsError::ReadOnly`].
    pub fn gc(&self, until_clean: bool) -> Result<gc::campaign::CampaignReport> {
        self.check_writable()?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (checkpoints, freed) = (count(&self.counters.checkpoints), count(&self.counters.zones_reclaimed));
        let mut campaign = if until_clean { gc::campaign::Campaign::until_clean() } else { gc::campaign::Campaign::one_victim() };
        while !self.is_ending() {
            if self.is_dirty_metadata_high() {
                self.checkpoint_for_cleaning()?;
            }
            let chunks = self.chunks_by_hand();
            // Others who clean by hand wait for their turn here, and not for the cleaner: that would end this step after a chunk.
            let turn = self.turns.lock();
            let step = self.with_cleaner(|cleaner| {
                cleaner.set_chunks_by_hand(chunks);
                campaign.step(cleaner, self.room())
            });
            MutexGuard::unlock_fair(turn);
            let Some(step) = step else { break };
            match step {
                Ok(gc::campaign::CampaignStep::More) => {}
                // It takes the thread that makes checkpoints as long as cleaning a few victims.
                Ok(gc::campaign::CampaignStep::Checkpoint) if self.has_threads() && !campaign.waits() => self.ask_for_checkpoint(),
                Ok(gc::campaign::CampaignStep::Checkpoint) => {
                    // Many zones share a checkpoint; for one it would be dear.
                    let mut freed = if until_clean { 0 } else { self.release_for_cleaning()? };
                    if freed == 0 {
                        freed = self.checkpoint_for_cleaning()?;
                    }
                    campaign.checkpointed(freed);
                }
                Ok(gc::campaign::CampaignStep::Done) => break,
                Err(error) => tracing::warn!("cleaning failed on a segment: {error}"),
            }
            self.check_writable()?;
        }
        Ok(gc::campaign::CampaignReport {
            checkpoints: count(&self.counters.checkpoints) - checkpoints,
            zones_freed: count(&self.counters.zones_reclaimed) - freed,
            ..campaign.report().clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make};
    use std::time::Duration;
    use zns::sim::{SimConfig, SimDrive};

    /// Two who clean by hand take turns, and neither ends the other's step by waiting.
    #[test]
    fn who_cleans_by_hand_beside_another_waits_for_a_turn_and_not_for_the_cleaner() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let file = make(&volume, "a");
        for step in [1, 2] {
            for at in (0..2048).step_by(step) {
                volume.write(file, at * BLOCK as u64, &[step as u8; BLOCK], &WriteOptions::default()).expect("written");
            }
            volume.sync().expect("synced");
        }
        let turn = volume.turns.lock();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| volume.gc(true));
            let awaited = volume.with_cleaner(|_| {
                (0..20).any(|_| {
                    std::thread::sleep(Duration::from_millis(5));
                    volume.is_cleaner_awaited()
                })
            });
            assert_eq!(awaited, Some(false));
            drop(turn);
            assert!(other.join().expect("no panic").expect("cleaned").emptied > 0);
        });
    }

    /// The thread in the background lives on, and what the panic interrupted is done by later steps.
    #[test]
    fn a_panic_in_a_step_of_cleaning_ends_neither_the_thread_nor_the_volume() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        let file = make(&volume, "a");
        // So full that there is something to do.
        let blocks = volume.statfs().expect("counted").available * 4 / 5;
        for step in [1, 2] {
            for at in (0..blocks).step_by(step) {
                volume.write(file, at * BLOCK as u64, &[step as u8; BLOCK], &WriteOptions::default()).expect("written");
            }
            volume.sync().expect("synced");
        }
        let long_ago = std::time::Instant::now().checked_sub(Duration::from_secs(3600)).expect("the machine has run for an hour");
        let mut seen = (volume.counters.user_written.load(Ordering::Relaxed), long_ago);
        let (mut steps, mut struck) = (0, 0);
        drive.fail_at(drive.ops(), zns::sim::Fault::Panic);
        while steps < 1000 && (volume.clean_whatever_happens(&mut seen) || struck < 3) {
            steps += 1;
            if drive.stats().faults > struck {
                struck = drive.stats().faults;
                drive.fail_at(drive.ops() + 2 * struck, zns::sim::Fault::Panic);
            }
        }
        drive.set_faults(zns::sim::FaultPlan::default());
        assert!(struck >= 3, "{struck} panics in {steps} steps");
        assert!(volume.is_writable(), "{:?}", volume.read_only_reason());
        assert!(volume.gc(true).is_ok());
        for at in 0..blocks {
            assert_eq!(volume.read(file, at * BLOCK as u64, BLOCK as u32).expect("read")[0], 1 + u8::from(at % 2 == 0), "block {at}");
        }
    }
}
