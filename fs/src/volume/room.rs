//! Room for what users write: what they pay for it, how they wait when there is none, and who makes the checkpoint that gives zones back.
//!
//! Three lines of defence, so that no write waits for a whole zone to be cleaned:
//! 1. Above the low mark the background alone cleans ([`super::background`]), at the pacer's pace.
//! 2. At or below it a writer pays before it takes any lock: copies in proportion to what it writes, a chunk at a time ([`gc::Toll`]). The
//!    checkpoint that gives emptied zones back is made by a thread of its own while writers still have room to go on.
//! 3. Where nothing is left, writers stand in line, first come, first served. The first one helps, a chunk at a time, or waits for the
//!    checkpoint; whoever is served holds a [`Grant`], so that nobody who comes later takes what it waited for.
//!
//! Simulations run without threads: then whoever finds that a checkpoint is due makes it.

use crate::BLOCK;
use crate::error::{FsError, Result};
use crate::volume::Volume;
use crate::volume::clean::Cleaner;
use crate::volume::state::State;
use gc::cleaner::{Caller, Situation, Work};
use gc::{Pressure, Room};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest sleep of somebody who waits for an event, in case that what it waits for makes no event.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Waits for what was granted to others before their grants count as taken.
const PATIENCE: u32 = 50;
/// Chunks of cleaning, or checkpoints that make it count, for a change of metadata that finds the reserve of cleaning gone.
const CHUNKS_FOR_METADATA: u32 = 4;
/// Checkpoints in a row that gain nothing, with nothing left to clean, after which there is no space.
const FRUITLESS: u32 = 3;

/// Those who wait for room, in the order in which they came.
#[derive(Debug, Default)]
pub struct Line {
    waiting: VecDeque<u64>,
    next: u64,
}

impl Line {
    fn join(&mut self) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.waiting.push_back(ticket);
        ticket
    }

    fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|one| *one != ticket);
    }

    /// Does nobody wait?
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_first(&self, ticket: u64) -> bool {
        self.waiting.front() == Some(&ticket)
    }
}

/// Room that nobody else is given while this lives. The payload is put while it is held, so that it is counted at least once.
#[must_use]
pub(crate) struct Grant<'a> {
    volume: &'a Volume,
    blocks: u64,
}

impl Grant<'_> {
    /// How much.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Ends it under the lock that the caller holds in any case.
    pub fn end(&mut self, state: &mut State) {
        state.zones.end_grant(std::mem::take(&mut self.blocks));
        if !state.line.waiting.is_empty() {
            self.volume.progress.notify_all();
        }
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        if self.blocks > 0 {
            self.end(&mut self.volume.state.lock());
        }
    }
}

/// A place in the line, left when this is dropped.
struct Place<'a> {
    volume: &'a Volume,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.volume.state.lock();
        state.line.leave(self.ticket);
        // It was lent to whoever is first.
        state.zones.set_last_resort(false);
        drop(state);
        self.volume.progress.notify_all();
    }
}

/// What came of an attempt to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Help {
    /// Something was done: look again.
    Worked,
    /// A checkpoint that will give something back is being made.
    UnderWay,
    /// There is nothing to clean.
    Nothing,
}

/// What one chunk of cleaning came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cleaned {
    /// Something was moved, or was found to be unmovable.
    pub worked: bool,
    /// Somebody else did so while the caller waited for its turn, and the caller did nothing.
    pub by_others: bool,
    /// The pacer wants more at once.
    pub more: bool,
    /// A checkpoint is due: it was made, was asked for, or is being made.
    pub checkpoint: bool,
}

impl Volume {
    /// The room ahead of the users.
    pub(super) fn room(&self) -> Room {
        let state = self.state.lock();
        state.zones.room(state.tree.store().dirty_blocks())
    }

    /// How urgent cleaning is.
    pub(super) fn pressure(&self) -> Pressure {
        self.toll.pressure(self.room())
    }

    /// A writer pays for `blocks` blocks, before it takes any lock. Nothing to pay while there is room enough.
    pub(super) fn pay(&self, blocks: u64) {
        let chunks = self.toll.owe(self.room(), blocks);
        if chunks == 0 {
            return;
        }
        let started = Instant::now();
        let mut done = 0;
        while done < chunks {
            match self.clean_chunk(Caller::Foreground, Duration::ZERO) {
                Ok(cleaned) if cleaned.by_others => {
                    self.toll.put_off(1);
                    done += 1;
                }
                Ok(cleaned) if cleaned.worked => done += 1,
                // A checkpoint had to come first, and was made here.
                Ok(cleaned) if cleaned.checkpoint && !self.has_threads() => {
                    if !self.clean_chunk(Caller::Foreground, Duration::ZERO).is_ok_and(|cleaned| cleaned.worked) {
                        break;
                    }
                    done += 1;
                }
                Ok(cleaned) if cleaned.checkpoint => {
                    self.toll.put_off(chunks - done);
                    break;
                }
                // Nothing to clean; or what goes wrong here stops whoever cannot go on without.
                Ok(_) | Err(_) => break,
            }
        }
        self.counters.most_chunks.fetch_max(done.into(), Ordering::Relaxed);
        self.pauses.record(started.elapsed());
    }

    /// Room for `blocks` blocks, kept for the caller until the grant is dropped. The caller holds no lock.
    ///
    /// # Errors
    /// [`FsError::NoSpace`] when the request was not within what is available; [`FsError::ReadOnly`].
    pub(crate) fn wait_for_space(&self, blocks: u64) -> Result<Grant<'_>> {
        self.wait_for_some(blocks, blocks)
    }

    /// Room for `most` blocks if there is so much, else for what there is, `least` blocks or more.
    ///
    /// # Errors
    /// As [`Volume::wait_for_space`].
    pub(crate) fn wait_for_some(&self, least: u64, most: u64) -> Result<Grant<'_>> {
        let ticket = {
            let mut state = self.state.lock();
            if let Some(grant) = self.grant_at_once(&mut state, least, most) {
                return Ok(grant);
            }
            state.line.join()
        };
        let place = Place { volume: self, ticket };
        self.counters.room_waits.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let outcome = self.stand_in_line(&place, least, most);
        drop(place);
        self.pauses.record(started.elapsed());
        outcome
    }

    /// Room for somebody who has not waited: none while others wait.
    fn grant_at_once(&self, state: &mut State, least: u64, most: u64) -> Option<Grant<'_>> {
        let blocks = state.line.waiting.is_empty().then(|| grant(state, least, most))??;
        Some(Grant { volume: self, blocks })
    }

    /// Room for so many dirty blocks where nothing is in the way, all by one look at the state: nothing is owed for cleaning, what is dirty and not logged is
    /// within its bounds, the next checkpoint has its reserve, and nobody waits for room.
    pub(super) fn admit_at_once(&self, blocks: u64) -> Option<Grant<'_>> {
        let mut state = self.state.lock();
        let is_clear = self.metadata_bound(&mut state).is_none()
            && !self.is_unlogged_at_bound(&state, blocks)
            && !state.zones.cleaning_reserve_is_gone()
            && self.toll.is_free(state.zones.room(state.tree.store().dirty_blocks()));
        is_clear.then(|| self.grant_at_once(&mut state, blocks, blocks))?
    }

    fn stand_in_line(&self, place: &Place<'_>, least: u64, most: u64) -> Result<Grant<'_>> {
        let (mut fruitless, mut chunks, mut patience) = (0, 0, PATIENCE);
        let mut effort: Option<Effort> = None;
        loop {
            self.check_writable()?;
            let seen = self.given_back();
            {
                let mut state = self.state.lock();
                if !state.line.is_first(place.ticket) {
                    self.progress.wait_for(&mut state, LOOK_AGAIN);
                    continue;
                }
                if let Some(blocks) = grant(&mut state, least, most) {
                    return Ok(Grant { volume: self, blocks });
                }
            }
            // From when it is first: what others did before is not its effort.
            if effort.get_or_insert_with(|| Effort::new(self)).is_spent(self) {
                return Err(FsError::NoSpace);
            }
            match self.make_room()? {
                Help::Worked => {
                    (fruitless, chunks) = (0, chunks + 1);
                    self.counters.most_chunks.fetch_max(chunks, Ordering::Relaxed);
                }
                Help::UnderWay => self.await_checkpoint(seen, least)?,
                // What others were granted and do not use comes back.
                Help::Nothing if patience > 0 && self.wait_for_grants() => patience -= 1,
                // What a checkpoint frees, and what others hold, may come back.
                Help::Nothing => {
                    if fruitless > FRUITLESS {
                        return Err(FsError::NoSpace);
                    }
                    fruitless += 1;
                    self.checkpoint_for_cleaning()?;
                    // Then the last zone that cleaning can have.
                    self.state.lock().zones.set_last_resort(fruitless > 1);
                }
            }
        }
    }

    /// Metadata may take zones that data may not. When it has taken all that are there for cleaning, whoever changes more of it cleans some
    /// chunks first, so that the next checkpoint finds its reserve (I8); background cleaning alone may be outrun. Never an error for want of
    /// space: deletions come this way, too.
    ///
    /// # Errors
    /// A device that fails; [`FsError::ReadOnly`].
    pub(super) fn keep_checkpoints_possible(&self) -> Result<()> {
        for _ in 0..CHUNKS_FOR_METADATA {
            let seen = self.given_back();
            if !self.state.lock().zones.cleaning_reserve_is_gone() {
                break;
            }
            // Nothing is freed here: freeing comes this way itself.
            match self.clean_for_room()? {
                Help::Worked => {}
                Help::UnderWay => self.await_checkpoint(seen, u64::MAX)?,
                Help::Nothing => break,
            }
        }
        Ok(())
    }

    /// The first in line helps: a chunk of cleaning at most.
    fn make_room(&self) -> Result<Help> {
        if self.free_some()? {
            return Ok(Help::Worked);
        }
        self.clean_for_room()
    }

    fn clean_for_room(&self) -> Result<Help> {
        Ok(match self.clean_chunk(Caller::Blocked, Duration::ZERO)? {
            Cleaned { checkpoint: true, .. } if self.has_threads() => Help::UnderWay,
            Cleaned { worked: true, .. } | Cleaned { checkpoint: true, .. } => Help::Worked,
            _ => Help::Nothing,
        })
    }

    /// Waits until a checkpoint is over that was not when `seen` were, or there is room meanwhile.
    ///
    /// # Errors
    /// The checkpoint failed, and the one that is made instead of it here.
    fn await_checkpoint(&self, seen: u64, least: u64) -> Result<()> {
        let failed = || self.counters.checkpoints_failed.load(Ordering::SeqCst);
        let failed_before = failed();
        let mut state = self.state.lock();
        while self.is_writable() && self.given_back() == seen && state.zones.writable() < least {
            if failed() != failed_before {
                drop(state);
                return self.checkpoint_for_cleaning().map(drop);
            }
            if self.progress.wait_for(&mut state, LOOK_AGAIN).timed_out() {
                break;
            }
        }
        Ok(())
    }

    /// If something is granted to others, waits until something happens.
    fn wait_for_grants(&self) -> bool {
        let mut state = self.state.lock();
        let granted = state.zones.granted() > 0;
        if granted {
            self.progress.wait_for(&mut state, LOOK_AGAIN);
        }
        granted
    }

    /// One chunk of cleaning at most. A checkpoint that is due is asked for, or made where there are no threads.
    pub(super) fn clean_chunk(&self, caller: Caller, idle: Duration) -> Result<Cleaned> {
        let nothing = Cleaned { worked: false, by_others: false, more: false, checkpoint: false };
        if self.is_dirty_metadata_high() {
            // Moving scattered blocks makes many leaves dirty: a checkpoint comes before they are more than its reserve holds (I8).
            if !self.has_threads() || !self.made.is_under_way() {
                self.want_checkpoint()?;
            }
            return Ok(Cleaned { checkpoint: true, ..nothing });
        }
        let before = self.counters.chunks.load(Ordering::SeqCst);
        let work = |cleaner: &mut Cleaner| {
            // A writer that has waited for somebody else's chunk has waited enough: what it owes stays owed.
            if caller == Caller::Foreground && self.counters.chunks.load(Ordering::SeqCst) != before {
                return None;
            }
            let outcome = cleaner.poll(&Situation { caller, room: self.room(), idle });
            let idle = matches!(&outcome, Ok(outcome) if matches!(outcome.work, Work::Nothing | Work::NoVictim));
            self.counters.chunks.fetch_add(u64::from(!idle), Ordering::SeqCst);
            Some(outcome)
        };
        let by_others = Cleaned { worked: true, by_others: true, ..nothing };
        let polled = match caller {
            // Standing in line it would be handed the cleaner when a writer's chunk ends, and the next writer would wait until it has got a processor, too.
            Caller::Background => match self.with_free_cleaner(work) {
                None => return Ok(by_others),
                Some(polled) => polled,
            },
            _ => self.with_cleaner(work),
        };
        let outcome = match polled {
            None => return Ok(nothing),
            Some(None) => return Ok(by_others),
            Some(Some(outcome)) => outcome,
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // That victim is left alone from now on.
            Err(error) => {
                tracing::warn!("cleaning failed on a segment: {error}");
                return Ok(Cleaned { worked: true, ..nothing });
            }
        };
        if outcome.checkpoint {
            self.want_zones(outcome.by_log)?;
        }
        let checkpoint = outcome.checkpoint || outcome.under_way;
        let worked = matches!(outcome.work, Work::Chunk(_) | Work::Victim(_));
        Ok(Cleaned { worked, by_others: false, more: outcome.more, checkpoint })
    }

    /// Cleaning stops short of the bound on dirty metadata, so that users do not run into it.
    pub(super) fn is_dirty_metadata_high(&self) -> bool {
        self.state.lock().tree.store().dirty_blocks() >= self.cleaning_dirty_limit
    }

    /// A checkpoint is due: asks the thread for it, or makes it where there is none.
    pub(super) fn want_checkpoint(&self) -> Result<()> {
        if self.has_threads() {
            self.ask_for_checkpoint();
            return Ok(());
        }
        self.checkpoint_for_cleaning().map(drop)
    }

    /// Emptied zones are to be given back, which the log can do or takes a checkpoint: asks the thread, or does it where there is none.
    fn want_zones(&self, by_log: bool) -> Result<()> {
        match by_log {
            false => self.want_checkpoint(),
            true if self.has_threads() => {
                self.ask_for_zones();
                Ok(())
            }
            true => self.release_for_cleaning().map(drop),
        }
    }

    /// How often zones were given back, or could have been.
    fn given_back(&self) -> u64 {
        self.counters.checkpoints.load(Ordering::SeqCst) + self.counters.releases.load(Ordering::SeqCst)
    }

    /// A checkpoint that gives emptied zones back; how many.
    pub(super) fn checkpoint_for_cleaning(&self) -> Result<u32> {
        let before = self.counters.zones_reclaimed.load(Ordering::Relaxed);
        self.checkpoint()?;
        let freed = (self.counters.zones_reclaimed.load(Ordering::Relaxed) - before) as u32;
        self.with_cleaner(|cleaner| cleaner.checkpointed(freed));
        Ok(freed)
    }
}

/// What standing in line has cost so far. Cleaning comes to an end where it moves the same few free blocks around without gathering them.
struct Effort {
    relocated: u64,
    given_back: u64,
}

impl Effort {
    fn new(volume: &Volume) -> Self {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self { relocated: get(&volume.counters.relocated), given_back: volume.given_back() }
    }

    /// Has everything been moved twice, or been written down more often than there are zones?
    fn is_spent(&self, volume: &Volume) -> bool {
        let now = Self::new(volume);
        let members = &volume.identity.members;
        let blocks: u64 = members.iter().map(|m| u64::from(m.zones) * u64::from(m.zone_capacity)).sum();
        let zones: u64 = members.iter().map(|m| u64::from(m.zones)).sum();
        now.relocated - self.relocated > 2 * blocks * BLOCK as u64 || now.given_back - self.given_back > 2 * zones + 64
    }
}

/// Takes `most` blocks of room, or what there is if that is `least` or more.
fn grant(state: &mut State, least: u64, most: u64) -> Option<u64> {
    let blocks = state.zones.writable().min(most);
    (blocks >= least).then(|| {
        state.zones.grant(blocks);
        blocks
    })
}
