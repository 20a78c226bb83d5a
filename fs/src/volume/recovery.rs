//! Roll-forward: the log behind the checkpoint is followed and applied (decision 3).
//!
//! First the chain is read to its end, to learn what was known to be flushed; then batch after batch is applied. A batch
//! beyond that, whose file data is not what its checksums say, was never acknowledged and ends the log; a batch that was flushed is applied in any case,
//! and data of it that fails is found when it is read.

use crate::BLOCK;
use crate::addr::Addr;
use crate::core::extents;
use crate::core::halt::{BlockId, Planned};
use crate::error::{FsError, Result};
use crate::format::log::{self, Fragment};
use crate::format::record::Delta;
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::volume::Volume;
use crate::volume::damage::{Unmet, content_of};
use crate::volume::state::State;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;
use zns::{AlignedBuf, DeviceId, IoClass, ZoneInfo, ZoneState};

/// What roll-forward found.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// The volume was unmounted cleanly and nothing was replayed.
    pub clean: bool,
    /// Something acknowledged is lost: the volume must not be written to.
    pub damage: Option<String>,
    /// The damage is that one of several devices lacks what was flushed to it: it may be an old copy, and the right one somewhere else.
    pub wrong_device: bool,
    /// Zones that hold the log that was followed, or what it maps.
    pub touched: BTreeSet<Addr>,
}

/// Of each device, the last blocks of file data that were flushed, with their checksums.
#[derive(Default)]
struct Promised {
    last: BTreeMap<DeviceId, VecDeque<(Addr, u32)>>,
}

impl Promised {
    fn note(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            if let Delta::Release { zone } = delta {
                self.last.values_mut().for_each(|last| last.retain(|(addr, _)| addr.zone_base() != *zone));
            }
            let Delta::Map { addr, checksums, .. } = delta else { continue };
            let last = self.last.entry(addr.device()).or_default();
            let ends = [0, checksums.len().saturating_sub(1)];
            for at in &ends[..checksums.len().min(2)] {
                last.push_back((addr.plus(*at as u32), checksums[*at]));
            }
            while last.len() > SAMPLES {
                last.pop_front();
            }
        }
    }
}

/// What becomes of changes in the log to metadata that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unappliable {
    /// They are skipped, what they are about is lost, and the volume is read-only (a mount).
    Skip,
    /// They are skipped, and what they are about is noted as lost (a check, which tells of it, and a repair, which goes on without it).
    Note,
}

/// A fragment of the chain.
struct Found {
    addr: Addr,
    fragment: Fragment,
}

impl Volume {
    /// Follows the log and applies what it holds, in memory.
    /// `reports`: what the devices say of their zones, where these are not software.
    ///
    /// # Errors
    /// Devices that fail.
    pub(super) fn replay(&self, reports: &[Vec<ZoneInfo>], unappliable: Unappliable) -> Result<Replay> {
        let start = self.identity.log;
        if start.addr.is_none() {
            return Ok(Replay { clean: self.identity.clean, ..Replay::default() });
        }
        let (chain, flushed, mut damage) = self.read_chain()?;
        self.keep_chain(&chain);
        let mut touched: BTreeSet<Addr> = chain.iter().map(|found| found.addr.zone_base()).collect();
        let mut body = Vec::new();
        let mut applied = 0;
        let mut wrong_device = false;
        let mut promised = Promised::default();
        let mut missing = Missing::default();
        for found in &chain {
            if found.fragment.first {
                body.clear();
            }
            let bytes = match self.read_again(|| self.read_fragment(found.addr, found.fragment.blocks)) {
                Ok(bytes) => bytes,
                Err(error) if self.lost_power(&error) => return Err(error),
                Err(error) => {
                    damage = damage.or_else(|| Some(unreadable(found.addr, &error)));
                    break;
                }
            };
            let Some((_, _, piece)) = log::decode(&bytes, &self.identity.secret) else {
                // It was whole when the chain was followed: the log goes on behind it.
                damage = damage.or_else(|| Some(format!("the log at {} reads differently each time", found.addr)));
                break;
            };
            body.extend_from_slice(piece);
            if !found.fragment.last {
                continue;
            }
            let batch = found.fragment.batch;
            let deltas = match self.decode_batch(&body, found.addr) {
                Ok(deltas) => deltas,
                // Whole by its checksum, and no program of this version can have meant it.
                Err(error) => {
                    damage = damage.or_else(|| Some(senseless(found.addr, &error)));
                    break;
                }
            };
            if batch > flushed {
                match self.payload_is_there(&deltas, reports) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) if self.lost_power(&error) => return Err(error),
                    Err(error) => {
                        damage = damage.or_else(|| Some(unreadable(found.addr, &error)));
                        break;
                    }
                }
            }
            promised.note(&deltas);
            touched.extend(deltas.iter().filter_map(|delta| place_of(delta).map(|(addr, _)| addr.zone_base())));
            let releases = deltas.iter().filter(|delta| matches!(delta, Delta::Release { .. })).count();
            self.counters.replayed_releases.fetch_add(releases as u64, Ordering::Relaxed);
            self.apply_batch(batch, &deltas, reports, &mut missing, unappliable)?;
            applied += 1;
        }
        // What was given back may be a zone of the log since.
        self.keep_chain(&chain);
        self.counters.replayed.store(applied, Ordering::Relaxed);
        if damage.is_none() {
            damage = match missing.pop_first() {
                Some((_, at)) => Some(not_there(&self.members.device(at.device()).label(), at)),
                None => self.old_copy(&promised)?,
            };
            wrong_device = damage.is_some() && self.members.count() > 1;
        }
        Ok(Replay { clean: self.identity.clean && applied == 0, damage, wrong_device, touched })
    }

    /// The zones of the chain are taken, also those that were opened after the checkpoint: nothing may be written over them before the
    /// checkpoint that ends recovery is durable, or a second crash would find half a log.
    fn keep_chain(&self, chain: &[Found]) {
        let mut state = self.state.lock();
        for found in chain {
            let zone = found.addr.zone_base();
            let written = state.zones.capacity(zone.device());
            if let Some(&entry) = state.zones.entry(zone).filter(|e| e.phase == Phase::Empty) {
                state.zones.set_entry(zone, SegmentEntry { role: Role::Log, phase: Phase::Closed, written, ..entry });
            }
        }
    }

    /// All fragments of the chain, the highest batch known to be flushed, and whether the chain breaks before that.
    fn read_chain(&self) -> Result<(Vec<Found>, u64, Option<String>)> {
        let start = self.identity.log;
        let mut chain: Vec<Found> = Vec::new();
        let (mut addr, mut next_zone) = (start.addr, start.next_zone);
        let (mut sequence, mut previous) = (start.sequence, start.previous);
        let mut flushed = start.batch;
        loop {
            let inside = |addr: Addr| !addr.is_none() && self.state.lock().zones.contains(addr, 1);
            if inside(addr.zone_base()) && addr.block() >= self.state.lock().zones.capacity(addr.device()) {
                addr = std::mem::take(&mut next_zone);
            }
            if !inside(addr) {
                return Ok((chain, flushed, None));
            }
            let (fragment, checksum) = match self.fragment_at(addr, sequence, previous) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) if self.lost_power(&error) => return Err(error),
                Err(error) => return Ok((chain, flushed, Some(unreadable(addr, &error)))),
            };
            flushed = flushed.max(fragment.flushed);
            previous = checksum;
            sequence += 1;
            next_zone = fragment.next_zone;
            addr = addr.plus(fragment.blocks);
            chain.push(Found { addr: Addr(addr.0 - u64::from(fragment.blocks)), fragment });
        }
        // A batch of which the end is missing is not there: what is known of its flush is known of a loss.
        let whole = chain.iter().rev().find(|found| found.fragment.last).map_or(start.batch, |found| found.fragment.batch);
        let damage = self.acknowledged_behind(addr, next_zone, sequence, whole);
        Ok((chain, flushed, damage))
    }

    /// The fragment at `addr`, if it continues the chain.
    ///
    /// # Errors
    /// What cannot be read is not the end of the log: nobody knows what is there.
    fn fragment_at(&self, addr: Addr, sequence: u64, previous: u32) -> Result<Option<(Fragment, u32)>> {
        let mut bytes = self.read_again(|| self.members.read_block(addr, IoClass::Foreground))?;
        let Some(blocks) = log::peek_blocks(&bytes) else { return Ok(None) };
        if !self.state.lock().zones.contains(addr, blocks) {
            return Ok(None);
        }
        if blocks > 1 {
            bytes = self.read_again(|| self.read_fragment(addr, blocks))?;
        }
        let Some((fragment, checksum, _)) = log::decode(&bytes, &self.identity.secret) else { return Ok(None) };
        let continues = fragment.sequence == sequence && fragment.previous == previous && fragment.epoch == self.identity.epoch;
        Ok(continues.then_some((fragment, checksum)))
    }

    /// Reads, and reads again what failed: a passing error must not cost what was acknowledged.
    pub(crate) fn read_again<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        let mut outcome = read();
        for _ in 0..READ_AGAIN {
            match &outcome {
                Err(error) if !self.lost_power(error) => outcome = read(),
                _ => break,
            }
        }
        outcome
    }

    fn read_fragment(&self, addr: Addr, blocks: u32) -> Result<AlignedBuf> {
        self.members.read_runs(&[(addr, blocks)], IoClass::Foreground).pop().unwrap_or(Err(FsError::Internal("no answer to a read")))
    }

    /// The chain broke at `addr`. If a fragment behind it knows of a flush that covers the break, an acknowledged record was damaged. The
    /// next one may be in the zone after this one, whatever room is left here: how long the broken one was is not known.
    fn acknowledged_behind(&self, addr: Addr, next_zone: Addr, sequence: u64, last_batch: u64) -> Option<String> {
        let behind = |addr: Addr| addr.block() + 1..addr.block() + LOOK_AHEAD;
        let mut places = vec![(addr.zone_base(), behind(addr))];
        if !next_zone.is_none() && self.state.lock().zones.contains(next_zone, 1) {
            places.push((next_zone.zone_base(), 0..LOOK_AHEAD));
        }
        let known = places.into_iter().any(|(zone, blocks)| {
            let end = self.state.lock().zones.capacity(zone.device()).min(blocks.end);
            self.heads(zone, blocks.start..end).into_iter().any(|at| self.knows_of_flush(at, sequence, last_batch))
        });
        known.then(|| {
            format!(
                "the log is damaged at {addr}: acknowledged changes behind it cannot be recovered; \
                 what is readable can be copied away, fsck.ferryfs tells more"
            )
        })
    }

    /// The blocks of a zone that look like the head of a fragment, and how long it would be.
    fn heads(&self, zone: Addr, blocks: Range<u32>) -> Vec<(Addr, u32)> {
        let mut heads = Vec::new();
        for start in blocks.clone().step_by(AT_ONCE as usize) {
            let count = AT_ONCE.min(blocks.end - start);
            let places: Vec<(Addr, u32)> = match self.read_fragment(zone.plus(start), count) {
                Ok(bytes) => heads_in(zone.plus(start), &bytes).collect(),
                // A bad block must not hide those around it.
                Err(_) => (start..start + count)
                    .filter_map(|block| Some((zone.plus(block), self.members.read_block(zone.plus(block), IoClass::Foreground).ok()?)))
                    .flat_map(|(at, bytes)| heads_in(at, &bytes).collect::<Vec<_>>())
                    .collect(),
            };
            heads.extend(places);
        }
        heads
    }

    /// Is there a fragment that was written after number `sequence`, and after a flush of a batch behind `last_batch`?
    fn knows_of_flush(&self, (at, blocks): (Addr, u32), sequence: u64, last_batch: u64) -> bool {
        if !self.state.lock().zones.contains(at, blocks) {
            return false;
        }
        let Ok(bytes) = self.read_fragment(at, blocks) else { return false };
        let Some((fragment, _, _)) = log::decode(&bytes, &self.identity.secret) else { return false };
        fragment.epoch == self.identity.epoch && fragment.sequence > sequence && fragment.flushed > last_batch
    }

    fn decode_batch(&self, body: &[u8], addr: Addr) -> Result<Vec<Delta>> {
        let corrupt = |detail: &str| FsError::Corrupt { what: "log record", addr, detail: detail.into() };
        let mut rest = body;
        let mut deltas = Vec::new();
        while !rest.is_empty() {
            let delta = Delta::decode(&mut rest).ok_or_else(|| corrupt("cannot be decoded"))?;
            let inside = |addr: Addr, blocks: u32| self.state.lock().zones.contains(addr, blocks);
            let sound = match &delta {
                Delta::Map { addr, checksums, .. } => inside(*addr, checksums.len() as u32),
                Delta::Move(moved) => moved.blocks > 0 && inside(moved.from, moved.blocks) && inside(moved.to, moved.blocks),
                Delta::Release { zone } => zone.block() == 0 && inside(*zone, 1),
                _ => true,
            };
            if !sound {
                return Err(corrupt("names an address outside the volume"));
            }
            deltas.push(delta);
        }
        Ok(deltas)
    }

    /// Is the file data of a batch what its checksums say? Behind a write pointer is nothing, not even the zeros that may be read there (I9).
    ///
    /// # Errors
    /// What cannot be read may be there or not.
    fn payload_is_there(&self, deltas: &[Delta], reports: &[Vec<ZoneInfo>]) -> Result<bool> {
        let is_written = |addr: Addr, blocks: u32| {
            let report = reports.get(usize::from(addr.device().0)).and_then(|zones| zones.get(addr.zone().0 as usize));
            report.is_none_or(|info| addr.block() + blocks <= self.members.fs_blocks(addr.device(), info.written))
        };
        let runs: Vec<(Addr, &[u32])> = deltas
            .iter()
            .filter_map(|delta| match delta {
                Delta::Map { addr, checksums, .. } => Some((*addr, checksums.as_slice())),
                _ => None,
            })
            .collect();
        if !runs.iter().all(|(addr, sums)| is_written(*addr, sums.len() as u32)) {
            return Ok(false);
        }
        for some in runs.chunks(16) {
            let reads: Vec<_> = some.iter().map(|(addr, sums)| (*addr, sums.len() as u32)).collect();
            let content =
                self.read_again(|| self.members.read_runs(&reads, IoClass::Foreground).into_iter().collect::<Result<Vec<_>>>())?;
            let as_logged = |(buf, (_, sums)): (&AlignedBuf, &(Addr, &[u32]))| {
                buf.chunks_exact(BLOCK).map(zns::checksum::crc32c).eq(sums.iter().copied())
            };
            if !content.iter().zip(some).all(as_logged) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes file data that a change puts where its device says that nothing was written. That is no loss if the log says later that the zone was given back.
    fn look_behind_write_pointers(&self, delta: &Delta, reports: &[Vec<ZoneInfo>], missing: &mut Missing) {
        if let Delta::Release { zone } = delta {
            missing.remove(zone);
        }
        let Some((addr, blocks)) = place_of(delta) else { return };
        let Some(info) = reports.get(usize::from(addr.device().0)).and_then(|zones| zones.get(addr.zone().0 as usize)) else { return };
        // Where a zone failed, the write pointer says nothing: its data is found to be lost when it is read.
        let failed = matches!(info.state, ZoneState::ReadOnly | ZoneState::Offline);
        let is_written = addr.block() + blocks <= self.members.fs_blocks(addr.device(), info.written);
        if !failed && !is_written && self.is_followed(delta) {
            missing.entry(addr.zone_base()).or_insert(addr);
        }
    }

    /// Does a change that names a place for file data put any there? A relocation that users' changes have overtaken moves nothing: the place that it
    /// names may have been given back by a checkpoint before, or by a mount that ended before its own.
    fn is_followed(&self, delta: &Delta) -> bool {
        let Delta::Move(moved) = delta else { return true };
        // What cannot be told is noted where the change is applied.
        self.try_again(|state| extents::left_to_move(&state.tree, moved)).is_ok_and(|blocks| blocks > 0)
    }

    /// Of several devices, one that has none of the data that was written to it last, though it was flushed, is an old copy.
    fn old_copy(&self, promised: &Promised) -> Result<Option<String>> {
        if self.members.count() < 2 {
            return Ok(None);
        }
        for blocks in promised.last.values() {
            let mut any = false;
            for &(addr, sum) in blocks {
                any |= match self.read_again(|| self.members.read_block(addr, IoClass::Foreground)) {
                    Ok(bytes) => zns::checksum::crc32c(&bytes) == sum,
                    Err(error) if self.lost_power(&error) => return Err(error),
                    // A bad block is no sign of age.
                    Err(_) => true,
                };
            }
            // One alone could be damaged by chance.
            if let (false, true, Some((addr, _))) = (any, blocks.len() > 1, blocks.back()) {
                return Ok(Some(not_there(&self.members.device(addr.device()).label(), *addr)));
            }
        }
        Ok(None)
    }

    fn apply_batch(
        &self,
        batch: u64,
        deltas: &[Delta],
        reports: &[Vec<ZoneInfo>],
        missing: &mut Missing,
        unappliable: Unappliable,
    ) -> Result<()> {
        for delta in deltas {
            self.look_behind_write_pointers(delta, reports, missing);
            match self.roll_forward(delta) {
                Err(unmet) if unmet.is_damage() => match unappliable {
                    Unappliable::Skip => self.skip(delta, &unmet)?,
                    Unappliable::Note => self.note_unapplied(delta, &unmet),
                },
                outcome => outcome.map_err(|unmet| unmet.error)?,
            }
        }
        let mut state = self.state.lock();
        state.batch = batch + 1;
        state.appended = batch;
        state.flushed = batch;
        Ok(())
    }

    fn roll_forward(&self, delta: &Delta) -> std::result::Result<(), Unmet> {
        if let Delta::Release { zone } = delta {
            let forgotten = self.forget_released(*zone);
            self.state.lock().zones.note_released(*zone);
            return forgotten;
        }
        self.try_again(|state| {
            state.prepare(delta)?;
            note_written(state, delta)?;
            let left = match delta {
                Delta::Move(moved) => extents::left_to_move(&state.tree, moved)?,
                _ => 0,
            };
            apply_as_then(state, delta)?;
            match delta {
                Delta::Map { addr, checksums, estimate, .. } => state.note_placed(*addr, checksums.len() as u32, *estimate),
                Delta::Move(moved) => state.note_placed(moved.to, left, moved.estimate),
                _ => {}
            }
            if let Some((ino, blocks, true)) = content_of(delta) {
                state.lost.find(ino, &blocks);
            }
            Ok(())
        })
    }

    /// What a zone held is forgotten, for it may hold something else from here on.
    fn forget_released(&self, zone: Addr) -> std::result::Result<(), Unmet> {
        while self.try_again(|state| {
            extents::prepare_forget_zone(&state.tree, zone, FORGET_STEP)?;
            let more = extents::forget_zone(&mut state.tree, zone, FORGET_STEP)?;
            state.settle_released();
            Ok(more)
        })? {}
        Ok(())
    }

    /// The same where nothing is to be shown or written as it is now.
    fn note_unapplied(&self, delta: &Delta, unmet: &Unmet) {
        let mut state = self.state.lock();
        state.zones.set_incomplete();
        state.lost.note_unapplied(&unmet.error);
        if let Some(BlockId::Node(id)) = unmet.block {
            state.tree.store().suspect(id, "a change in the log could not be applied to it");
        }
        if let Some((ino, blocks, _)) = content_of(delta) {
            state.lost.lose(ino, blocks);
        }
    }

    /// A change that cannot be made: what it is about is lost. Of items this goes without saying, because they are where they cannot be had.
    /// File data may still be found if only the summaries are missing, which nobody needs in a volume that is not written to.
    fn skip(&self, delta: &Delta, unmet: &Unmet) -> Result<()> {
        self.lose(unmet);
        if let Some(BlockId::Node(id)) = unmet.block {
            // If it can be read later on, it still is not what the log would have made of it.
            self.state.lock().tree.store().suspect(id, "a change in the log could not be applied to it");
        }
        let Some((ino, blocks, _)) = content_of(delta) else { return Ok(()) };
        if let Delta::Move(_) = delta {
            // It says nothing of the content: what was lost before stays so, and nothing else is if it can be had at its new place.
            match self.try_again(|state| state.apply_content(delta)) {
                Err(unmet) if unmet.is_damage() => self.lose(&unmet),
                outcome => return outcome.map_err(|unmet| unmet.error),
            }
        }
        self.state.lock().lost.lose(ino, blocks.clone());
        if !matches!(delta, Delta::Map { .. }) {
            return Ok(());
        }
        let found = self.try_again(|state| {
            state.apply_content(delta)?;
            note_written(state, delta)?;
            state.lost.find(ino, &blocks);
            Ok(())
        });
        match found {
            Err(unmet) if unmet.is_damage() => self.lose(&unmet),
            outcome => outcome.map_err(|unmet| unmet.error)?,
        }
        Ok(())
    }
}

/// What the cleaner took out of a zone did not die there: it was a victim then.
fn apply_as_then(state: &mut State, delta: &Delta) -> Planned<()> {
    let Delta::Move(moved) = delta else { return state.apply(delta).map(drop) };
    state.zones.set_victim(moved.from, true);
    let applied = state.apply(delta);
    state.zones.set_victim(moved.from, false);
    applied.map(drop)
}

/// The zone that a delta maps was opened after the checkpoint; what filled it is told by what it holds. The checkpoint may still know it by
/// the part it played before it was freed, of a log zone say: what it holds now is file data.
fn note_written(state: &mut State, delta: &Delta) -> Planned<()> {
    let (addr, blocks, filled_by, users) = match delta {
        Delta::Map { addr, checksums, .. } => (*addr, checksums.len() as u32, Role::User, checksums.len() as u64),
        // What has changed since it was moved may have left that place as well, and the zone may be another's.
        Delta::Move(moved) if extents::left_to_move(&state.tree, moved)? > 0 => (moved.to, moved.blocks, Role::RelocatedByDevice, 0),
        _ => return Ok(()),
    };
    let end = addr.block() + blocks;
    let entry = *state.zones.entry(addr).ok_or(FsError::Internal("a zone outside the volume"))?;
    let role = if entry.role.is_data() { entry.role } else { filled_by };
    let phase = if entry.phase == Phase::Empty { Phase::Open } else { entry.phase };
    let entry = SegmentEntry { role, phase, written: entry.written.max(end), written_at: state.zones.clock(), ..entry };
    state.zones.set_entry(addr, entry);
    state.zones.advance_clock(users);
    Ok(())
}

/// Where a delta says that file data lies.
fn place_of(delta: &Delta) -> Option<(Addr, u32)> {
    match delta {
        Delta::Map { addr, checksums, .. } => Some((*addr, checksums.len() as u32)),
        Delta::Move(moved) => Some((moved.to, moved.blocks)),
        _ => None,
    }
}

/// Of zones that were not given back later, a place of which the device says that nothing was written there.
type Missing = BTreeMap<Addr, Addr>;

/// Summaries removed under one hold of the lock.
const FORGET_STEP: usize = 256;

/// Blocks of a device that tell whether it is an old copy.
const SAMPLES: usize = 4;

fn not_there(label: &str, addr: Addr) -> String {
    format!(
        "{label} lacks data that was acknowledged, at {addr} for one: is it an old copy of the device? Nothing is written; \
         give the right device, or copy away what is readable"
    )
}

/// Further attempts to read what a mount cannot do without.
pub(super) const READ_AGAIN: u32 = 2;

/// The log, or the data of a batch in it, cannot be read: the volume must not be written to, or what may be there would be lost.
fn unreadable(addr: Addr, error: &FsError) -> String {
    format!(
        "the log at {addr}, or the data it names, cannot be read ({error}): changes behind it are not shown; nothing is written, so that they are still there when the device can be read again"
    )
}

/// A record is whole and cannot be meant: it and what follows it are not applied.
fn senseless(addr: Addr, error: &FsError) -> String {
    format!("the log at {addr} makes no sense ({error}): that change and those behind it are not shown")
}

fn heads_in(at: Addr, bytes: &[u8]) -> impl Iterator<Item = (Addr, u32)> {
    (0..).zip(bytes.chunks_exact(BLOCK)).filter_map(move |(n, head)| Some((at.plus(n), log::peek_blocks(head)?)))
}

/// Blocks read at once where the log is searched.
const AT_ONCE: u32 = 64;
/// Blocks looked at behind a break of the chain, to tell a torn end from damage.
const LOOK_AHEAD: u32 = 2 * log::MAX_BLOCKS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::extents::{Relocation, extent_parts};
    use crate::ids::FileBlock;
    use crate::volume::{WriteOptions, rig};
    use zns::sim::{SimConfig, SimDrive};

    #[test]
    fn what_was_moved_out_of_a_zone_did_not_die_there() {
        let volume = rig::formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let file = rig::make(&volume, "file");
        volume.write(file, 0, &[1; 100 * BLOCK], &WriteOptions::default()).expect("written");
        volume.sync().expect("synced");
        let part = volume.ask(|state| extent_parts(&state.tree, file, FileBlock(0), FileBlock(100), 1)).expect("read").0[0];
        let empty = |state: &State| state.zones.iter().filter(|(_, entry)| entry.phase == Phase::Empty).last().map(|(addr, _)| addr);
        let to = empty(&volume.state.lock()).expect("an empty zone");
        let expected = || volume.state.lock().zones.expected(part.addr);
        let before = expected();
        let moved = Relocation { ino: file, block: part.block, blocks: 90, from: part.addr, to, estimate: part.estimate };
        assert!(volume.roll_forward(&Delta::Move(moved)).is_ok());
        assert!(before.is_some() && expected() == before, "{before:?} before, {:?} now", expected());
    }
}
