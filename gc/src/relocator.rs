//! Moves one victim, chunk by chunk.
//!
//! A chunk is: live extents -> a reservation -> a copy -> a commit by compare-and-swap (invariant I5). It is bounded, so whoever
//! waits for the cleaner waits for one chunk, never for a zone. Who has nobody waiting may ask for several in one step: then what comes next is
//! looked up, and what has been copied is published, while a device copies. Within a step only: nothing flies, and no head is held, when it
//! returns. Many short extents are gathered into one copy request, long ones are
//! split to what the reservation grants.
//!
//! Nothing here can go on for ever: each step either moves blocks, advances through the victim, or counts as a failure, and the
//! failures in a row are bounded. The three ways in which a victim ends early are told apart in [`VictimEnd`].

use crate::error::{CleanError, Result};
use crate::mover::{self, Carrier, Carrying, Load, Mover};
use crate::segment::{SegmentId, SegmentInfo, Stream};
use crate::space::{Committed, LiveExtent, LogSpace, Move, Reservation};
use crate::trace::{Event, Tracer};
use copy_backend::{CopyError, CopyResult, FailureKind, SourceRange, Target};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Instant;
use zns::{Blocks, DeviceId, Lba};

/// How a relocator behaves.
#[derive(Clone, Copy, Debug)]
pub struct RelocatorConfig {
    /// Blocks in one chunk: what a writer may have to wait for.
    pub chunk_blocks: u32,
    /// Most live extents in one copy request.
    pub max_extents: usize,
    /// Failures in a row without a block moved after which a victim is given up.
    pub max_failures: u32,
}

impl Default for RelocatorConfig {
    fn default() -> Self {
        // 1 MiB; a limit on extents that keeps the metadata touched by one commit small.
        Self { chunk_blocks: 256, max_extents: 256, max_failures: 4 }
    }
}

/// What one step did. Counts in filesystem blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Blocks whose mapping points to the new place.
    pub moved: u32,
    /// Blocks copied in vain: they were overwritten meanwhile.
    pub lost: u32,
    /// Of the copied blocks, by the device itself.
    pub offloaded: u32,
    /// Of the copied blocks, through the host.
    pub by_host: u32,
    /// Metadata blocks of the victim that were passed over for the next checkpoint to write elsewhere (estimated from the live share).
    pub evacuated: u32,
    /// Blocks that still live in the victim (an upper bound: users go on overwriting).
    pub live_left: u32,
    /// A destination zone was ended early.
    pub zone_ended: bool,
    /// The copy was not carried out whole; the rest will be tried again.
    #[serde(skip)]
    pub failure: Option<FailureKind>,
}

impl Progress {
    /// This one, and a later one.
    fn and(self, later: Self) -> Self {
        Self {
            moved: self.moved + later.moved,
            lost: self.lost + later.lost,
            offloaded: self.offloaded + later.offloaded,
            by_host: self.by_host + later.by_host,
            evacuated: self.evacuated + later.evacuated,
            live_left: later.live_left,
            zone_ended: self.zone_ended || later.zone_ended,
            failure: later.failure,
        }
    }
}

/// How the cleaning of a victim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VictimEnd {
    /// Nothing lives in it: the next checkpoint frees it.
    Emptied,
    /// The media cannot read a live extent, by no road. The rest is left where it is: moving it would cost space and free nothing.
    Unmovable,
    /// Copies failed again and again.
    GaveUp,
    /// The caller stopped.
    Abandoned,
}

impl VictimEnd {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emptied => "emptied",
            Self::Unmovable => "unmovable",
            Self::GaveUp => "gave-up",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A live extent that the media cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unmovable {
    /// Where.
    pub victim: SegmentId,
    /// First device block of the extent.
    pub lba: Lba,
    /// Its length in filesystem blocks.
    pub blocks: u32,
    /// Why, in the words of the reports.
    pub reason: &'static str,
}

/// What the cleaning of a victim came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VictimReport {
    /// Which.
    pub id: SegmentId,
    /// What filled it.
    pub stream: Stream,
    /// How it ended.
    pub end: VictimEnd,
    /// Its live blocks at the start.
    pub live: u32,
    /// Its capacity.
    pub capacity: u32,
    /// Blocks moved.
    pub moved: u64,
    /// Blocks copied in vain.
    pub lost: u64,
    /// Of the copied blocks, by the device itself.
    pub offloaded: u64,
    /// Of the copied blocks, through the host.
    pub by_host: u64,
    /// Metadata blocks left to the next checkpoint (estimated from the live share).
    pub evacuated: u64,
    /// What cannot be read.
    pub unmovable: Vec<Unmovable>,
    /// What the very last chunk did, when nobody was told of it by a [`Step::Progress`]; part of the sums above.
    #[serde(skip)]
    pub last: Progress,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One chunk was worked on.
    Progress(Progress),
    /// The cleaning of the victim has ended, and it was released.
    VictimDone(VictimReport),
    /// There is no victim.
    Idle,
}

/// A victim being cleaned.
struct Job {
    info: SegmentInfo,
    /// Where to go on looking for live blocks; none: the end was reached.
    cursor: Option<u32>,
    /// Extents that wait for their turn.
    pending: VecDeque<LiveExtent>,
    report: VictimReport,
    failures_in_a_row: u32,
    /// The first so many of those that wait go by the host: a device failed on them. Not those behind them.
    for_host: usize,
}

impl Job {
    fn new(info: SegmentInfo) -> Self {
        let report = VictimReport {
            id: info.id,
            stream: info.stream,
            end: VictimEnd::Emptied,
            live: info.live,
            capacity: info.capacity,
            moved: 0,
            lost: 0,
            offloaded: 0,
            by_host: 0,
            evacuated: 0,
            unmovable: Vec::new(),
            last: Progress::default(),
        };
        Self { info, cursor: Some(0), pending: VecDeque::new(), report, failures_in_a_row: 0, for_host: 0 }
    }

    fn exhausted(&self) -> bool {
        self.cursor.is_none() && self.pending.is_empty()
    }

    fn live_left(&self) -> u32 {
        let gone = self.report.moved + self.report.lost + self.report.evacuated;
        self.info.live.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX))
    }

    /// Moves the cursor; an answer that does not advance would be an endless loop.
    fn advance_to(&mut self, from: u32, next: Option<u32>) -> Result<()> {
        if next.is_some_and(|next| next <= from) {
            return Err(CleanError::Internal(format!("the list of live blocks does not advance beyond block {from}")));
        }
        self.cursor = next.filter(|next| *next < self.info.capacity);
        Ok(())
    }

    /// Counts a finished chunk.
    fn count(&mut self, progress: &Progress) {
        self.report.moved += u64::from(progress.moved);
        self.report.lost += u64::from(progress.lost);
        self.report.offloaded += u64::from(progress.offloaded);
        self.report.by_host += u64::from(progress.by_host);
        self.report.evacuated += u64::from(progress.evacuated);
    }
}

/// Whether a victim goes on.
enum Verdict {
    GoOn(Progress),
    End(VictimEnd, Progress),
}

/// What a chunk is made of.
struct Chunk {
    extents: Vec<LiveExtent>,
    blocks: u32,
}

/// A chunk on its way.
struct Flight<'a> {
    chunk: Chunk,
    carrier: Carrier,
    reservation: Reservation,
    begun: Instant,
    copy: Carrying<'a>,
}

/// A chunk that was copied, whole or in part, and is not published.
struct Landed {
    moves: Vec<Move>,
    reservation: Reservation,
    progress: Progress,
    /// With a media error, the extent that nobody can read.
    unread: Option<LiveExtent>,
}

/// Moves one victim at a time.
pub struct Relocator<S: LogSpace, M: Mover> {
    space: S,
    mover: M,
    config: RelocatorConfig,
    tracer: Tracer,
    job: Option<Job>,
}

impl<S: LogSpace, M: Mover> Relocator<S, M> {
    /// A relocator without a victim.
    pub fn new(space: S, mover: M, config: RelocatorConfig, tracer: Tracer) -> Self {
        let sane = RelocatorConfig {
            chunk_blocks: config.chunk_blocks.max(1),
            max_extents: config.max_extents.max(1),
            max_failures: config.max_failures.max(1),
        };
        Self { space, mover, config: sane, tracer, job: None }
    }

    /// The filesystem.
    pub fn space(&self) -> &S {
        &self.space
    }

    /// The engine.
    pub fn mover(&self) -> &M {
        &self.mover
    }

    /// The victim being cleaned, with an upper bound of what still lives in it.
    pub fn victim(&self) -> Option<SegmentInfo> {
        self.job.as_ref().map(|job| SegmentInfo { live: job.live_left(), ..job.info })
    }

    /// Is there a victim of which nothing is left to move? The next step ends it without I/O.
    pub fn is_exhausted(&self) -> bool {
        self.job.as_ref().is_some_and(Job::exhausted)
    }

    /// Pins a victim and begins with it.
    ///
    /// # Errors
    /// Another victim is being cleaned, or this one is no longer a closed segment.
    pub fn start(&mut self, victim: SegmentInfo) -> Result<()> {
        if self.job.is_some() {
            return Err(CleanError::Busy);
        }
        self.space.pin(victim.id)?;
        self.job = Some(Job::new(victim));
        Ok(())
    }

    /// Works on one chunk.
    ///
    /// # Errors
    /// [`CleanError::NoSpace`]: the victim stays, a checkpoint may help. Anything else: the victim was released, what was published
    /// stays published.
    pub fn step(&mut self) -> Result<Step> {
        self.steps(1)
    }

    /// Works on up to `chunks` chunks of the victim, one behind the other.
    ///
    /// # Errors
    /// As [`Relocator::step`].
    pub fn steps(&mut self, chunks: u32) -> Result<Step> {
        let Some(mut job) = self.job.take() else { return Ok(Step::Idle) };
        if job.exhausted() {
            return Ok(self.end(job, VictimEnd::Emptied));
        }
        let verdict = match job.info.stream {
            Stream::Metadata => self.evacuate(&mut job),
            Stream::User | Stream::RelocatedByDevice | Stream::RelocatedByHost => self.relocate(&mut job, chunks),
        };
        match verdict {
            Ok(Verdict::GoOn(progress)) => {
                job.count(&progress);
                let progress = Progress { live_left: job.live_left(), ..progress };
                self.job = Some(job);
                Ok(Step::Progress(progress))
            }
            Ok(Verdict::End(end, last)) => {
                job.count(&last);
                job.report.last = last;
                Ok(self.end(job, end))
            }
            Err(CleanError::NoSpace) => {
                self.job = Some(job);
                Err(CleanError::NoSpace)
            }
            Err(error) => {
                self.end(job, VictimEnd::GaveUp);
                Err(error)
            }
        }
    }

    /// Stops cleaning the victim, if there is one, and releases it. What was moved stays moved.
    pub fn abandon(&mut self) -> Option<VictimReport> {
        let job = self.job.take()?;
        match self.end(job, VictimEnd::Abandoned) {
            Step::VictimDone(report) => Some(report),
            Step::Progress(_) | Step::Idle => None,
        }
    }

    fn end(&self, mut job: Job, end: VictimEnd) -> Step {
        job.report.end = end;
        self.space.release(job.info.id);
        let (victim, moved, lost) = (job.info.id, job.report.moved, job.report.lost);
        self.tracer.emit(|| Event::Victim { victim, end: end.name(), moved, lost });
        Step::VictimDone(job.report)
    }

    fn evacuate(&self, job: &mut Job) -> Result<Verdict> {
        let from = job.cursor.unwrap_or(job.info.capacity);
        let begun = Instant::now();
        let next = self.space.evacuate_metadata(job.info.id, from, self.config.chunk_blocks)?;
        let victim = job.info.id;
        self.tracer.emit(|| Event::Evacuate { victim, from, next, us: micros(begun) });
        job.advance_to(from, next)?;
        let passed = job.cursor.unwrap_or(job.info.capacity) - from.min(job.info.capacity);
        let share = u64::from(job.info.live) * u64::from(passed) / u64::from(job.info.capacity.max(1));
        let evacuated = if job.cursor.is_none() { job.live_left() } else { u32::try_from(share).unwrap_or(u32::MAX).min(job.live_left()) };
        Ok(Verdict::GoOn(Progress { evacuated, ..Progress::default() }))
    }

    fn relocate(&self, job: &mut Job, chunks: u32) -> Result<Verdict> {
        let mut total = Progress::default();
        let mut flight = self.take_off(job)?;
        let mut more = chunks.saturating_sub(1);
        while let Some(flying) = flight.take() {
            if more > 0 && self.look_up(job).is_err() {
                // Whoever needs it next is told.
                more = 0;
            }
            let landed = self.land(job, flying)?;
            let mut failed = None;
            if more > 0 && landed.progress.failure.is_none() && !landed.progress.zone_ended && !job.pending.is_empty() {
                more -= 1;
                match self.take_off(job) {
                    Ok(next) => flight = next,
                    Err(error) => failed = Some(error),
                }
            }
            match self.publish(job, landed) {
                Ok(Verdict::GoOn(progress)) => total = total.and(progress),
                Ok(Verdict::End(end, progress)) => return Ok(Verdict::End(end, total.and(progress))),
                Err(error) => {
                    // Nobody will publish what flies: it is dead space, and the victim keeps what it has.
                    if let Some(flying) = flight {
                        let _ = (flying.copy)();
                        self.space.commit(&[], flying.reservation, 0, true)?;
                    }
                    return Err(error);
                }
            }
            match failed {
                // After a chunk that was moved the next step finds out by itself.
                Some(CleanError::NoSpace) | None => {}
                Some(error) => return Err(error),
            }
        }
        Ok(Verdict::GoOn(total))
    }

    /// Sees to it that extents wait for their turn, unless the next stretch of the victim has none that live.
    fn look_up(&self, job: &mut Job) -> Result<()> {
        if job.pending.is_empty() && job.cursor.is_some() {
            let from = job.cursor.unwrap_or(job.info.capacity);
            let run = self.space.live(job.info.id, from, self.config.chunk_blocks)?;
            job.advance_to(from, run.next)?;
            let extents = run.extents.into_iter().filter(|e| e.blocks > 0);
            job.pending.extend(extents.map(trusted));
        }
        Ok(())
    }

    /// Begins to copy what comes next; `None`: there was nothing in this stretch.
    fn take_off(&self, job: &mut Job) -> Result<Option<Flight<'_>>> {
        self.look_up(job)?;
        if job.pending.is_empty() {
            return Ok(None);
        }
        let device = job.info.id.device;
        let per_block = self.blocks_per_block(device)?;
        let most = if job.for_host > 0 { job.for_host.min(self.config.max_extents) } else { self.config.max_extents };
        let waiting: u64 = job.pending.iter().take(most).map(|extent| u64::from(extent.blocks)).sum();
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).min(self.config.chunk_blocks);
        let (carrier, reservation) = self.reserve(job.info.id, wanted, job.for_host > 0)?;
        let chunk = take_chunk(job, wanted.min(reservation.blocks), most, per_block);
        let source = |e: &LiveExtent| SourceRange { device: e.device, lba: e.lba, blocks: Blocks(u64::from(e.blocks) * per_block) };
        let load = Load {
            sources: chunk.extents.iter().map(source).collect(),
            target: Target { device: reservation.device, lba: reservation.lba },
            checksums: chunk.extents.iter().flat_map(|e| e.checksums.iter().copied()).collect(),
            carrier,
        };
        let begun = Instant::now();
        Ok(Some(Flight { copy: self.mover.start(load), chunk, carrier, reservation, begun }))
    }

    fn blocks_per_block(&self, device: DeviceId) -> Result<u64> {
        match self.space.device_blocks_per_block(device) {
            0 => Err(CleanError::Internal(format!("device {device} has blocks larger than those of the filesystem"))),
            n => Ok(u64::from(n)),
        }
    }

    /// Space in a zone of the right kind: one that receives device copies receives nothing else (I9).
    fn reserve(&self, victim: SegmentId, blocks: u32, for_host: bool) -> Result<(Carrier, Reservation)> {
        let near = victim.device;
        let mut carrier = if for_host { Carrier::Host } else { self.mover.carrier(near, near)? };
        loop {
            let stream = match carrier {
                Carrier::Device => Stream::RelocatedByDevice,
                Carrier::Host => Stream::RelocatedByHost,
            };
            let reservation = self.reserve_some(stream, victim, blocks)?;
            if carrier == Carrier::Host || reservation.device == near {
                return Ok((carrier, reservation));
            }
            // The zone lies on another device: does the device's road lead there, too?
            match self.mover.carrier(near, reservation.device) {
                Ok(Carrier::Device) => return Ok((carrier, reservation)),
                Ok(Carrier::Host) => carrier = Carrier::Host,
                Err(error) => {
                    self.space.commit(&[], reservation, 0, false)?;
                    return Err(error.into());
                }
            }
            self.space.commit(&[], reservation, 0, false)?;
        }
    }

    fn reserve_some(&self, stream: Stream, victim: SegmentId, blocks: u32) -> Result<Reservation> {
        let reservation = self.space.reserve(stream, victim, blocks)?;
        if reservation.blocks == 0 {
            self.space.commit(&[], reservation, 0, false)?;
            return Err(CleanError::NoSpace);
        }
        Ok(reservation)
    }

    /// Waits for the copy of a chunk. What was not copied waits for another turn.
    fn land(&self, job: &mut Job, flight: Flight<'_>) -> Result<Landed> {
        let Flight { chunk, carrier, reservation, begun, copy } = flight;
        let target_lba = reservation.lba;
        let count = chunk.extents.len();
        let landed = copy().map_err(CleanError::from).and_then(|r| mover::sane(r, count));
        let (result, target_per_block) = match landed.and_then(|result| Ok((result, self.blocks_per_block(reservation.device)?))) {
            Ok(landed) => landed,
            Err(error) => {
                // A request that was refused has not touched the zone; after anything else nobody knows what lies in it (I9).
                let untouched = matches!(error, CleanError::Copy(CopyError::NoOffload { .. } | CopyError::Invalid(_)));
                self.space.commit(&[], reservation, 0, !untouched)?;
                return Err(error);
            }
        };
        let victim = job.info.id;
        self.tracer.emit(|| Event::Copy {
            victim,
            target_lba: target_lba.0,
            target_device: reservation.device.0,
            extents: u32::try_from(count).unwrap_or(u32::MAX),
            blocks: chunk.blocks,
            road: result.road,
            bytes: result.bytes_done,
            us: micros(begun),
            failure: result.failure.map(FailureKind::reason),
        });
        let (moves, rest) = split_done(chunk.extents, result.sources_done, target_lba, target_per_block);
        // What a device failed on is the host's, and nothing else is.
        job.for_host = match carrier {
            Carrier::Device => result.for_host.min(rest.len()),
            Carrier::Host => job.for_host.saturating_sub(moves.len()),
        };
        let copied: u32 = moves.iter().map(|m| m.from.blocks).sum();
        self.space.copied(&reservation, copied, result.end_zone);
        let failure = (!rest.is_empty()).then(|| result.failure.unwrap_or(FailureKind::Transient));
        let unread = result.unreadable.unwrap_or(result.sources_done).checked_sub(result.sources_done).and_then(|i| rest.get(i)).cloned();
        for extent in rest.into_iter().rev() {
            job.pending.push_front(extent);
        }
        let offloaded = offloaded_blocks(&result, copied);
        let progress = Progress { offloaded, by_host: copied - offloaded, zone_ended: result.end_zone, failure, ..Progress::default() };
        Ok(Landed { moves, reservation, progress, unread })
    }

    /// Publishes what was copied.
    fn publish(&self, job: &mut Job, landed: Landed) -> Result<Verdict> {
        let Committed { moved, lost } = self.space.publish(&landed.moves, landed.reservation)?;
        let (victim, zone_ended) = (job.info.id, landed.progress.zone_ended);
        self.tracer.emit(|| Event::Commit { victim, moved, lost, zone_ended });
        Ok(self.judge(job, Progress { moved, lost, ..landed.progress }, landed.unread))
    }

    /// Decides how a victim goes on after a copy. Which road comes next is the engine's business; what counts here is that failures
    /// end. `unread`: with a media error, the extent that nobody can read.
    fn judge(&self, job: &mut Job, progress: Progress, unread: Option<LiveExtent>) -> Verdict {
        let Some(kind) = progress.failure else {
            job.failures_in_a_row = 0;
            return Verdict::GoOn(progress);
        };
        if kind == FailureKind::SourceMedia {
            let report = |e: LiveExtent| Unmovable { victim: job.info.id, lba: e.lba, blocks: e.blocks, reason: kind.reason() };
            job.report.unmovable.extend(unread.map(report));
            return Verdict::End(VictimEnd::Unmovable, progress);
        }
        job.failures_in_a_row = if progress.moved + progress.lost > 0 { 1 } else { job.failures_in_a_row + 1 };
        if job.failures_in_a_row >= self.config.max_failures {
            return Verdict::End(VictimEnd::GaveUp, progress);
        }
        Verdict::GoOn(progress)
    }
}

impl<S: LogSpace, M: Mover> Drop for Relocator<S, M> {
    /// A victim left behind would stay pinned for ever.
    fn drop(&mut self) {
        self.abandon();
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Checksums that are not one per block cannot verify anything.
fn trusted(mut extent: LiveExtent) -> LiveExtent {
    if extent.checksums.len() != extent.blocks as usize {
        extent.checksums.clear();
    }
    extent
}

/// Takes at most `room` blocks from the front of what is pending. Extents with checksums and extents without do not share a request,
/// because it could not be verified by them.
fn take_chunk(job: &mut Job, room: u32, max_extents: usize, per_block: u64) -> Chunk {
    let mut chunk = Chunk { extents: Vec::new(), blocks: 0 };
    while chunk.blocks < room && chunk.extents.len() < max_extents {
        let Some(mut next) = job.pending.pop_front() else { break };
        if chunk.extents.first().is_some_and(|first: &LiveExtent| first.checksums.is_empty() != next.checksums.is_empty()) {
            job.pending.push_front(next);
            break;
        }
        let left = room - chunk.blocks;
        if next.blocks > left {
            let rest = next.split_off(left, per_block);
            job.pending.push_front(rest);
        }
        chunk.blocks += next.blocks;
        chunk.extents.push(next);
    }
    chunk
}

/// The moves of the extents that were copied, and the extents that were not.
fn split_done(mut extents: Vec<LiveExtent>, done: usize, target: Lba, per_block: u64) -> (Vec<Move>, Vec<LiveExtent>) {
    let rest = extents.split_off(done.min(extents.len()));
    let mut to = target;
    let moves = extents
        .into_iter()
        .map(|from| {
            let at = to;
            to = to + Blocks(u64::from(from.blocks) * per_block);
            Move { from, to: at }
        })
        .collect();
    (moves, rest)
}

fn offloaded_blocks(result: &CopyResult, copied: u32) -> u32 {
    u32::try_from(result.offloaded / crate::BLOCK_BYTES).unwrap_or(u32::MAX).min(copied)
}

#[cfg(test)]
mod tests;
