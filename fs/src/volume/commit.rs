//! Commits: what was acknowledged goes to the devices as one batch; fsync waits for a flush that covers it.
//!
//! A batch is cut under the lock (addresses, checksums, mappings, log positions), written outside it, data and log side by side.
//! Commits follow one another; whoever waits finds its work done by the one before (group commit). If a write fails, the log no longer tells
//! the truth: the data goes elsewhere and only a checkpoint makes anything durable from then on.

use crate::addr::Addr;
use crate::core::extents::{self, Relocation};
use crate::core::halt::Halt;
use crate::core::zones::{MAX_CLASSES, Place};
use crate::error::{FsError, Result};
use crate::format::record::Delta;
use crate::format::segment::Role;
use crate::ids::{FileBlock, Ino};
use crate::volume::Volume;
use crate::volume::damage::Unmet;
use crate::volume::log::LogWriter;
use crate::volume::members::RunWrite;
use crate::volume::placing::Heat;
use crate::volume::state::State;
use gc::placement::{Estimate, Population};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use zns::{BufSlice, IoClass};

/// File data of a batch: one run within one zone.
struct DataRun {
    ino: Ino,
    block: FileBlock,
    addr: Addr,
    data: Vec<BufSlice>,
    blocks: u32,
    estimate: Estimate,
    /// The class of the head that it goes to.
    head: u8,
}

/// Dirty blocks with the place they go to.
struct Piece {
    ino: Ino,
    block: FileBlock,
    addr: Addr,
    blocks: u32,
    /// Which of the places.
    place: usize,
    /// See [`super::placing::Heat`].
    estimate: Estimate,
    noted: Option<f64>,
}

/// A batch on its way.
pub(super) struct Batch {
    number: u64,
    generation: u64,
    data: Vec<DataRun>,
    /// A block of each zone that the data goes to.
    places: Vec<Addr>,
    log: Vec<RunWrite>,
    log_bytes: u64,
}

/// Where the data of a batch is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landed {
    /// Where it was mapped when the batch was cut.
    AsCut,
    /// Some of it, or the log, elsewhere, after a failed write: a snapshot that was taken with the cut names wrong places.
    Elsewhere,
}

/// Why no batch could be cut.
pub(super) enum NoCut {
    /// These must be resident first.
    Need(Vec<crate::core::BlockId>),
    /// One that must be resident does not exist.
    Damaged(Unmet),
    /// The log zones are full: a checkpoint must come first.
    LogFull,
    /// No zone for the data: cleaning must come first.
    NoZone,
    /// An error.
    Fail(FsError),
}

impl NoCut {
    /// Tells a block that is to be loaded from one that cannot be had. To be asked under the lock under which it was found to be needed: as soon as
    /// that is let go, the block may be freed.
    pub(super) fn known_to(self, state: &State) -> Self {
        let Self::Need(ids) = self else { return self };
        let unknown = ids.iter().find_map(|id| Some((*id, state.tree.store().fetch_for(*id).err()?)));
        match unknown {
            Some((id, error)) => Self::Damaged(Unmet { block: Some(id), error }),
            None => Self::Need(ids),
        }
    }
}

impl From<Halt> for NoCut {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Need(id) => Self::Need(vec![id]),
            Halt::Fail(error) => Self::Fail(error),
        }
    }
}

impl Volume {
    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// A device that fails, after which the volume is read-only.
    pub fn sync(&self) -> Result<()> {
        self.commit_now(true)
    }

    /// Writes everything acknowledged so far, and flushes it if asked.
    pub(super) fn commit_now(&self, flush: bool) -> Result<()> {
        let target = self.state.lock().newest_batch();
        self.commit(target, flush)
    }

    /// Batches up to `target` are written, and durable if `flush`, when this returns.
    pub(super) fn commit(&self, target: u64, flush: bool) -> Result<()> {
        let guard = self.commit_lock.lock();
        let (appended, flushed) = {
            let state = self.state.lock();
            (state.appended, state.flushed)
        };
        if flushed >= target || (!flush && appended >= target) {
            return Ok(());
        }
        self.check_writable()?;
        let _under_way = self.calm.begin_commit();
        let _unbroken = self.unbroken("a commit");
        if appended < target && !self.append_batch()? {
            drop(guard);
            return self.checkpoint();
        }
        if !flush {
            return Ok(());
        }
        if !self.flush_log()? {
            drop(guard);
            return self.checkpoint();
        }
        Ok(())
    }

    /// Makes all batches that are written durable. `false`: only a checkpoint can.
    pub(super) fn flush_log(&self) -> Result<bool> {
        let (upto, force) = {
            let state = self.state.lock();
            (state.appended, state.force_checkpoint)
        };
        if force {
            return Ok(false);
        }
        self.flush_devices()?;
        let mut state = self.state.lock();
        state.flushed = state.flushed.max(upto);
        Ok(true)
    }

    /// Flushes; a failure makes the volume read-only (I11): nothing is known to be durable any more.
    pub(super) fn flush_devices(&self) -> Result<()> {
        let number = self.state.lock().moved.begin_flush();
        self.members.flush().inspect_err(|error| self.fail(format!("a flush of {} failed: {error}", self.members.unflushed())))?;
        self.state.lock().moved.end_flush(number);
        Ok(())
    }

    /// Cuts and writes one batch. `false`: the log is full. The caller holds the commit lock.
    fn append_batch(&self) -> Result<bool> {
        loop {
            let cut = {
                let mut state = self.state.lock();
                let cut = self.cut_batch(&mut state, true);
                cut.map_err(|why| why.known_to(&state))
            };
            match cut {
                Ok(batch) => {
                    self.write_batch(batch)?;
                    return Ok(true);
                }
                Err(NoCut::Need(ids)) => self.load_or_fail(&ids)?,
                Err(NoCut::Damaged(unmet)) => return Err(self.lost(unmet)),
                Err(NoCut::LogFull) => return Ok(false),
                Err(NoCut::NoZone) => return Err(self.no_zone()),
                Err(NoCut::Fail(error)) => return Err(self.cannot_cut(error)),
            }
        }
    }

    /// What was acknowledged cannot be written because of what the metadata holds: it stays readable, and that is all that can be promised.
    pub(super) fn cannot_cut(&self, error: FsError) -> FsError {
        if let FsError::Corrupt { .. } = error {
            self.lose(&Unmet { block: None, error: error.clone() });
        }
        error
    }

    /// There is no zone for data that was acknowledged: an invariant is broken, or zones failed. Nothing more can be promised.
    pub(super) fn no_zone(&self) -> FsError {
        let reason = match self.failed_write.lock().as_ref() {
            Some(failed) => format!("no zone is left to write to; the write that failed last: {failed}"),
            None => "no zone is left to write to".into(),
        };
        self.fail(reason.clone());
        FsError::ReadOnly(reason)
    }

    /// Cuts the batch under the lock: nothing has changed when this says what is missing.
    pub(super) fn cut_batch(&self, state: &mut State, log: bool) -> std::result::Result<Batch, NoCut> {
        // Behind a batch that is not in the log none goes into it before the checkpoint that is due: a crash would replay the one without the other (I7).
        let log = log && !state.force_checkpoint;
        // Before the places of the data are looked up: both take from the empty zones.
        if log {
            state.log.ensure_zones(&mut state.zones);
        }
        let runs = state.pages.dirty_runs();
        let blocks: u64 = runs.iter().map(|r| u64::from(r.2)).sum();
        let mut missing = Vec::new();
        state.plan_classes();
        let (mut heats, mut over) = (Vec::with_capacity(runs.len()), Population::default());
        let mut wanted = [0u64; MAX_CLASSES];
        for (ino, block, blocks) in &runs {
            match state.heat(*ino, *block, *blocks, &mut over) {
                Ok(heat) => {
                    wanted[usize::from(heat.class)] += u64::from(*blocks);
                    heats.push(heat);
                }
                Err(Halt::Need(id)) => missing.push(id),
                Err(Halt::Fail(error)) => return Err(NoCut::Fail(error)),
            }
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(NoCut::Need(missing));
        }
        let wanted: Vec<(u8, u64)> = (0..).zip(wanted).filter(|(_, blocks)| *blocks > 0).collect();
        let places = state.zones.preview(&wanted);
        if places.iter().map(|place| u64::from(place.blocks)).sum::<u64>() < blocks {
            return Err(NoCut::NoZone);
        }
        let split = split_runs(&runs, &heats, &places);
        let mut bytes = state.pending.bytes + state.moved.bytes();
        for Piece { ino, block, addr, blocks, estimate, .. } in &split {
            let delta = Delta::Map { ino: *ino, block: *block, addr: *addr, checksums: vec![0; *blocks as usize], estimate: *estimate };
            bytes += delta.encoded_len();
            match state.prepare(&delta) {
                Err(Halt::Need(id)) => missing.push(id),
                Err(Halt::Fail(error)) => return Err(NoCut::Fail(error)),
                Ok(()) => {}
            }
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(NoCut::Need(missing));
        }
        if log && state.log.room(&state.zones) < LogWriter::blocks_for(bytes) {
            return Err(NoCut::LogFull);
        }
        state.note_over(&over);
        self.carry_out_cut(state, &places, split, log)
    }

    fn carry_out_cut(&self, state: &mut State, places: &[Place], split: Vec<Piece>, log: bool) -> std::result::Result<Batch, NoCut> {
        for Place { addr, blocks, class, .. } in places {
            state.zones.begin_write(*addr);
            // The mappings say what the preview said: anything else would be data in the wrong place.
            if state.zones.allocate_for_users(*class, *blocks) != Some((*addr, *blocks)) {
                self.fail("space was allocated elsewhere than foreseen".into());
                return Err(NoCut::Fail(FsError::Internal("an allocation that does not follow its preview")));
            }
        }
        let (generation, pages) = state.pages.cut();
        let mut pages = pages.into_iter();
        let number = state.batch;
        state.batch += 1;
        let mut deltas: Vec<Delta> = state.pending.take().collect();
        if log {
            deltas.extend(state.moved.take());
        }
        let mut data = Vec::with_capacity(split.len());
        let mut blocks_cut = 0;
        for Piece { ino, block, addr, blocks, place, estimate, noted } in split {
            let mut slices: Vec<BufSlice> = Vec::new();
            let mut checksums = Vec::with_capacity(blocks as usize);
            for page in pages.by_ref().take(blocks as usize) {
                checksums.push(page.crc);
                match slices.last().and_then(|end| end.joined(&page.data)) {
                    Some(joined) => *slices.last_mut().expect("there is one") = joined,
                    None => slices.push(page.data),
                }
            }
            blocks_cut += u64::from(blocks);
            let delta = Delta::Map { ino, block, addr, checksums, estimate };
            // What was taken out cannot be put back: nothing may be logged behind a batch that is not there (I7).
            if let Err(halt) = state.apply(&delta) {
                self.fail(format!("a change that was prepared could not be applied: {halt:?}"));
                return Err(NoCut::Fail(FsError::Internal("a change that was prepared could not be applied")));
            }
            state.note_run(ino, block, blocks);
            match noted {
                Some(interval) => state.zones.note_put(addr, blocks, interval),
                None => state.note_placed(addr, blocks, estimate),
            }
            deltas.push(delta);
            data.push((place, DataRun { ino, block, addr, data: slices, blocks, estimate, head: places[place].head }));
        }
        // Each head is written in the order of its allocations (I1).
        data.sort_by_key(|(place, run)| (run.head, *place, run.addr));
        let data = data.into_iter().map(|(_, run)| run).collect();
        state.zones.advance_clock(blocks_cut);
        state.sync_promised();
        let mut writes = Vec::new();
        let mut log_bytes = 0;
        if log && (state.moved.is_sealing() || !deltas.is_empty()) {
            let mut body = Vec::new();
            deltas.iter().for_each(|delta| delta.encode(&mut body));
            let flushed = state.flushed;
            let State { log, zones, .. } = state;
            match log.append(zones, number, flushed, &body) {
                Some(fragments) => writes = fragments,
                None => state.force_checkpoint = true,
            }
            log_bytes = writes.iter().map(|w| u64::from(w.blocks()) * crate::BLOCK as u64).sum();
            state.logged += log_bytes;
        }
        let places = places.iter().map(|place| place.addr).collect();
        Ok(Batch { number, generation, data, places, log: writes, log_bytes })
    }

    /// Writes a batch that was cut. The caller holds the commit lock.
    pub(super) fn write_batch(&self, batch: Batch) -> Result<Landed> {
        let Batch { number, generation, data, places, log, log_bytes } = batch;
        let log_at: Vec<Addr> = log.iter().map(|w| w.addr).collect();
        let blocks = data.iter().map(|run| u64::from(run.blocks)).sum::<u64>() + log_bytes / crate::BLOCK as u64;
        let run = |d: &DataRun| RunWrite { addr: d.addr, data: d.data.clone() };
        let mut heads: Vec<Vec<RunWrite>> = data.chunk_by(|a, b| a.head == b.head).map(|runs| runs.iter().map(run).collect()).collect();
        heads.push(log);
        let mut results = self.members.write_heads(heads, IoClass::Foreground);
        let no_room = |(addr, result): (Addr, &Result<()>)| self.write_failed(addr, result.as_ref().err()?);
        let addrs = data.iter().map(|d| d.addr).chain(log_at.iter().copied());
        // The pages stay in flight: what was acknowledged can still be read.
        if let Some(error) = addrs.zip(&results).find_map(no_room) {
            return Err(error);
        }
        let log_results = results.split_off(data.len());
        self.counters.log_appends.fetch_add(u64::from(!log_at.is_empty()), Ordering::Relaxed);
        self.counters.log_bytes.fetch_add(log_bytes, Ordering::Relaxed);
        let log_failed = log_results.iter().any(Result::is_err);
        let failed: Vec<DataRun> = data.into_iter().zip(&results).filter(|(_, r)| r.is_err()).map(|(d, _)| d).collect();
        if log_failed {
            let mut state = self.state.lock();
            tracing::warn!("a write to the log failed: its zone is retired, the next checkpoint starts a new one");
            state.force_checkpoint = true;
            let State { log, zones, .. } = &mut *state;
            for (addr, result) in log_at.iter().zip(&log_results) {
                if result.is_err() {
                    zones.retire(*addr);
                    if log.addr.zone_base() == addr.zone_base() {
                        log.addr = Addr::NONE;
                    }
                }
            }
            log.ensure_zones(zones);
        }
        let moved = log_failed || !failed.is_empty();
        if !failed.is_empty() {
            // All of them before the first run goes elsewhere, lest it goes into one of them.
            let mut state = self.state.lock();
            failed.iter().for_each(|run| state.zones.retire(run.addr));
            state.force_checkpoint = true;
            drop(state);
            self.finish_ended_zones();
        }
        for run in failed {
            // What was acknowledged is nowhere then, and mapped to where it is not: nothing may be made durable any more.
            self.write_elsewhere(run).inspect_err(|error| self.fail(format!("data could not be written: {error}")))?;
        }
        self.finish_ended_zones();
        let mut state = self.state.lock();
        state.pages.landed(generation);
        places.iter().for_each(|addr| state.zones.end_write(*addr));
        state.appended = state.appended.max(number);
        let dirty = state.tree.store().dirty_blocks();
        let room = state.zones.room(dirty);
        drop(state);
        if dirty >= self.cleaning_dirty_limit && self.has_threads() && !self.made.is_under_way() {
            self.ask_for_checkpoint();
        }
        self.tell_cleaner(room, blocks);
        self.progress.notify_all();
        Ok(if moved { Landed::Elsewhere } else { Landed::AsCut })
    }

    /// A data run could not be written where it was mapped, in a zone that is retired now: the run goes to another, and only a checkpoint
    /// makes it durable, because the log names the old place.
    fn write_elsewhere(&self, run: DataRun) -> Result<()> {
        let mut rest = run;
        tracing::warn!("writing {} blocks at {} failed: the zone is retired, the data goes elsewhere", rest.blocks, rest.addr);
        for _ in 0..1000 {
            let allocated = {
                let mut state = self.state.lock();
                let allocated = state.zones.allocate(Role::User, rest.blocks);
                // A zone that is full and of which nothing is mapped yet is not dead.
                allocated.inspect(|(to, _)| state.zones.begin_write(*to))
            };
            let Some((to, blocks)) = allocated else { return Err(self.no_zone()) };
            let _writing = Writing { volume: self, to };
            let (mine, others) = split_slices(&rest.data, blocks);
            let written = self.members.write_runs(vec![RunWrite { addr: to, data: mine }], IoClass::Foreground);
            if let Some(error) = written.iter().find_map(|r| self.write_failed(to, r.as_ref().err()?)) {
                return Err(error);
            }
            if written.iter().any(Result::is_err) {
                self.state.lock().zones.retire(to);
                self.finish_ended_zones();
                continue;
            }
            let moved = Relocation { ino: rest.ino, block: rest.block, blocks, from: rest.addr, to, estimate: rest.estimate };
            self.change(|state| {
                let State { tree, zones, .. } = state;
                extents::relocate(tree, zones, &moved)?;
                state.settle_released();
                Ok(())
            })?;
            rest.blocks -= blocks;
            if rest.blocks == 0 {
                return Ok(());
            }
            rest.block = FileBlock(rest.block.0 + u64::from(blocks));
            rest.addr = rest.addr.plus(blocks);
            rest.data = others;
        }
        Err(self.no_zone())
    }

    /// Tells devices to finish the zones that were ended early, so that they no longer count as active.
    pub(super) fn finish_ended_zones(&self) {
        let mut ended = {
            let mut state = self.state.lock();
            let ended = state.zones.take_to_finish();
            // Until then nobody resets them: a zone that is finished after its reset is full.
            ended.iter().for_each(|addr| state.zones.begin_write(*addr));
            Finishing { volume: self, zones: ended.into() }
        };
        while let Some(addr) = ended.zones.front().copied() {
            if let Err(error) = self.members.manage(addr, zns::ZoneAction::Finish) {
                tracing::warn!("finishing zone {addr} failed: {error}");
            }
            ended.zones.pop_front();
            self.state.lock().zones.end_write(addr);
        }
    }
}

/// Zones that are being finished. Those that a panic leaves are finished the next time.
struct Finishing<'a> {
    volume: &'a Volume,
    zones: VecDeque<Addr>,
}

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        if self.zones.is_empty() {
            return;
        }
        let mut state = self.volume.state.lock();
        for addr in self.zones.drain(..) {
            state.zones.end_write(addr);
            state.zones.finish_again(addr);
        }
    }
}

/// A zone into which something is written that is not mapped yet.
struct Writing<'a> {
    volume: &'a Volume,
    to: Addr,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.volume.state.lock().zones.end_write(self.to);
    }
}

/// The dirty runs cut at the borders of the places of their class, in which there is room for all of them.
fn split_runs(runs: &[(Ino, FileBlock, u32)], heats: &[Heat], places: &[Place]) -> Vec<Piece> {
    let mut left: Vec<Place> = places.to_vec();
    let mut next = [0; MAX_CLASSES];
    let mut split = Vec::with_capacity(runs.len());
    for ((ino, block, blocks), heat) in runs.iter().zip(heats) {
        let (mut block, mut rest) = (*block, *blocks);
        let at = &mut next[usize::from(heat.class)];
        while rest > 0 {
            let Some(place) = left.get_mut(*at) else { return split };
            if place.class != heat.class || place.blocks == 0 {
                *at += 1;
                continue;
            }
            let n = rest.min(place.blocks);
            split.push(Piece { ino: *ino, block, addr: place.addr, blocks: n, place: *at, estimate: heat.estimate, noted: heat.noted });
            block = FileBlock(block.0 + u64::from(n));
            rest -= n;
            (place.addr, place.blocks) = (place.addr.plus(n), place.blocks - n);
        }
    }
    split
}

/// The first `blocks` blocks of `data`, and the rest.
fn split_slices(data: &[BufSlice], blocks: u32) -> (Vec<BufSlice>, Vec<BufSlice>) {
    let mut left = blocks as usize * crate::BLOCK;
    let (mut mine, mut others) = (Vec::new(), Vec::new());
    for slice in data {
        let n = left.min(slice.len());
        if n > 0 {
            mine.push(slice.sub(0..n));
        }
        if n < slice.len() {
            others.push(slice.sub(n..slice.len()));
        }
        left -= n;
    }
    (mine, others)
}

#[cfg(test)]
mod tests {
    use crate::error::FsError;
    use crate::volume::rig;
    use zns::sim::{FaultPlan, SimConfig, SimDrive};

    /// Whoever looks at the status, or at the log, is told which device is to be looked at.
    #[test]
    fn a_volume_that_can_be_written_nowhere_names_the_device_that_failed() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = rig::formatted(&drive);
        let ino = rig::make(&volume, "file");
        volume.sync().expect("synced");
        volume.write(ino, 0, &[1; 50_000], &crate::volume::WriteOptions::default()).expect("acknowledged");
        drive.set_faults(FaultPlan { write_error: 1.0, ..FaultPlan::default() });
        assert!(matches!(volume.sync(), Err(FsError::ReadOnly(_))), "there is nowhere to go");
        let reason = volume.read_only_reason().expect("a reason");
        let label = volume.members().device(zns::DeviceId(0)).label();
        assert!(reason.contains("no zone is left") && reason.contains(&label) && reason.contains("device error"), "{reason}");
    }
}
