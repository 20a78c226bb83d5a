//! Moves victims, chunk by chunk.
//!
//! A chunk is: live extents -> a reservation -> a copy -> a commit by compare-and-swap (invariant I5). It is bounded, so whoever
//! waits for the cleaner waits for one chunk, never for a zone. Who has nobody waiting may ask for several in one step: then what comes next is
//! looked up, and what has been copied is published, while a device copies, and that does not end with a victim: the first chunk of the next one takes off
//! before the last of this one is published. Within a step only: nothing flies, and no head is held, when it
//! returns. Many short extents are gathered into one copy request, long ones are
//! split to what the reservation grants.
//!
//! Nothing here can go on for ever: each step either moves blocks, advances through a victim, or counts as a failure, and the
//! failures in a row are bounded. The three ways in which a victim ends early are told apart in [`VictimEnd`].

mod flight;
mod job;

use crate::error::{CleanError, Result};
use crate::mover::{self, Carrier, Load, Mover};
use crate::segment::{SegmentId, SegmentInfo, Stream};
use crate::space::{Committed, LiveExtent, LogSpace};
use crate::trace::{Event, Tracer};
use copy_backend::{CopyError, FailureKind, SourceRange};
use flight::{Flight, Held, Landed, TakeOff, offloaded_blocks, split_done};
use job::{Job, trusted};
use serde::Serialize;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;
use zns::{Blocks, DeviceId, Lba};

/// How a relocator behaves.
#[derive(Clone, Copy, Debug)]
pub struct RelocatorConfig {
    /// Blocks in one chunk: what a writer may have to wait for.
    pub chunk_blocks: u32,
    /// Blocks in a chunk for which nobody waits: while users leave the devices alone ([`LogSpace::is_calm`]), by hand or in an idle volume. A device that takes
    /// a command more for each chunk, and moves the ranges of one one after the other, is quicker with few long ones.
    pub large_chunk_blocks: u32,
    /// Most live extents in one copy request.
    pub max_extents: usize,
    /// Failures in a row without a block moved after which a victim is given up.
    pub max_failures: u32,
}

impl Default for RelocatorConfig {
    fn default() -> Self {
        // 512 KiB, 4 MiB; a limit on extents that keeps the metadata touched by one commit small.
        Self { chunk_blocks: 128, large_chunk_blocks: 1024, max_extents: 128, max_failures: 4 }
    }
}

/// How much a step may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    /// Chunks. Fewer when [somebody waits](LogSpace::is_awaited).
    pub chunks: u32,
    /// They may be [large](RelocatorConfig::large_chunk_blocks) while users leave the devices alone.
    pub large: bool,
    /// Chunks in flight at once, of a victim each, where there are heads for them and users leave the devices alone.
    pub flights: u32,
}

impl Stride {
    /// One chunk, as somebody may wait for it.
    pub const CHUNK: Self = Self { chunks: 1, large: false, flights: 1 };
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
    /// Blocks that still live in the victims (an upper bound: users go on overwriting).
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
            failure: later.failure.or(self.failure),
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
    /// What the last step did, when nobody was told of it by a [`Work::Chunk`](crate::cleaner::Work::Chunk); not only for this victim.
    #[serde(skip)]
    pub last: Progress,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Chunks were worked on. What has ended with them is told by the next steps, which do nothing else.
    Progress(Progress),
    /// The cleaning of the victim has ended, and it was released.
    VictimDone(VictimReport),
    /// There is no victim.
    Idle,
}

/// A victim that was released.
struct Ended {
    victim: SegmentId,
    outcome: Result<VictimReport>,
}

/// Moves victims, in the order in which they were begun.
pub struct Relocator<S: LogSpace, M: Mover> {
    space: S,
    mover: M,
    config: RelocatorConfig,
    tracer: Tracer,
    jobs: Vec<Job>,
    /// Those whose end nobody was told yet.
    ended: VecDeque<Ended>,
    /// Whose end by an error was told last.
    failed: Option<SegmentId>,
}

impl<S: LogSpace, M: Mover> Relocator<S, M> {
    /// A relocator without a victim.
    pub fn new(space: S, mover: M, config: RelocatorConfig, tracer: Tracer) -> Self {
        let sane = RelocatorConfig {
            chunk_blocks: config.chunk_blocks.max(1),
            large_chunk_blocks: config.large_chunk_blocks.max(config.chunk_blocks).max(1),
            max_extents: config.max_extents.max(1),
            max_failures: config.max_failures.max(1),
        };
        Self { space, mover, config: sane, tracer, jobs: Vec::new(), ended: VecDeque::new(), failed: None }
    }

    /// The filesystem.
    pub fn space(&self) -> &S {
        &self.space
    }

    /// The engine.
    pub fn mover(&self) -> &M {
        &self.mover
    }

    /// The victims being cleaned, with an upper bound of what still lives in them.
    pub fn victims(&self) -> impl Iterator<Item = SegmentInfo> {
        self.jobs.iter().map(|job| SegmentInfo { live: job.live_left(), ..job.info })
    }

    /// The first of them.
    pub fn victim(&self) -> Option<SegmentInfo> {
        self.victims().next()
    }

    /// Has a victim ended, of which the next step tells without doing anything?
    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Tells of a victim that has ended, if that was not by an error.
    pub fn take_report(&mut self) -> Option<VictimReport> {
        let front = self.ended.pop_front()?;
        match front.outcome {
            Ok(report) => Some(report),
            Err(_) => {
                self.ended.push_front(front);
                None
            }
        }
    }

    /// Whose end the last error was.
    pub fn take_failed(&mut self) -> Option<SegmentId> {
        self.failed.take()
    }

    /// Pins a victim and begins with it, behind those that were begun.
    ///
    /// # Errors
    /// It is being cleaned, or it is no longer a closed segment.
    pub fn start(&mut self, victim: SegmentInfo) -> Result<()> {
        if self.jobs.iter().any(|job| job.info.id == victim.id) {
            return Err(CleanError::Busy);
        }
        self.space.pin(victim.id)?;
        self.jobs.push(Job::new(victim));
        Ok(())
    }

    /// Works on one chunk.
    ///
    /// # Errors
    /// [`CleanError::NoSpace`]: the victims stay, a checkpoint may help. Anything else: one victim was [released](Self::take_failed), what was published
    /// stays published.
    pub fn step(&mut self) -> Result<Step> {
        self.steps(Stride::CHUNK)
    }

    /// Works on some chunks of the victims.
    ///
    /// # Errors
    /// As [`Relocator::step`].
    pub fn steps(&mut self, stride: Stride) -> Result<Step> {
        if let Some(ended) = self.ended.pop_front() {
            return self.tell(ended);
        }
        let Some(first) = self.jobs.first() else { return Ok(Step::Idle) };
        let (progress, starved) = match first.info.stream {
            Stream::Metadata => (self.evacuate(), false),
            Stream::User | Stream::RelocatedByDevice | Stream::RelocatedByHost => self.relocate(stride),
        };
        self.let_ended_go();
        if progress == Progress::default() {
            if let Some(ended) = self.ended.pop_front() {
                return self.tell(ended);
            }
            if starved {
                return Err(CleanError::NoSpace);
            }
        }
        let live_left = self.jobs.iter().map(Job::live_left).fold(0, u32::saturating_add);
        Ok(Step::Progress(Progress { live_left, ..progress }))
    }

    fn tell(&mut self, ended: Ended) -> Result<Step> {
        if ended.outcome.is_err() {
            self.failed = Some(ended.victim);
        }
        ended.outcome.map(Step::VictimDone)
    }

    /// Stops cleaning the victims, if there are any, and releases them. What was moved stays moved.
    pub fn abandon(&mut self) -> Vec<VictimReport> {
        self.abandon_some(|_| true)
    }

    /// The same for those of which nothing was moved.
    pub fn abandon_untouched(&mut self) -> Vec<VictimReport> {
        self.abandon_some(Job::is_untouched)
    }

    fn abandon_some(&mut self, which: impl Fn(&Job) -> bool) -> Vec<VictimReport> {
        let (gone, kept) = std::mem::take(&mut self.jobs).into_iter().partition::<Vec<_>, _>(which);
        self.jobs = kept;
        let abandoned = gone.into_iter().filter_map(|mut job| {
            job.end_as(Ok(VictimEnd::Abandoned));
            self.end(job).outcome.ok()
        });
        abandoned.collect()
    }

    /// Releases victims that have come to their end.
    fn let_ended_go(&mut self) {
        let (ended, jobs) = std::mem::take(&mut self.jobs).into_iter().partition::<Vec<_>, _>(Job::has_ended);
        self.jobs = jobs;
        for job in ended {
            let ended = self.end(job);
            self.ended.push_back(ended);
        }
    }

    fn end(&self, job: Job) -> Ended {
        let outcome = job.end.unwrap_or(Ok(VictimEnd::Emptied));
        let end = *outcome.as_ref().unwrap_or(&VictimEnd::GaveUp);
        let victim = job.info.id;
        self.space.release(victim);
        let (moved, lost) = (job.report.moved, job.report.lost);
        self.tracer.emit(|| Event::Victim { victim, end: end.name(), moved, lost });
        Ended { victim, outcome: outcome.map(|end| VictimReport { end, ..job.report }) }
    }

    /// Passes over a stretch of the first victim, which is of metadata.
    fn evacuate(&mut self) -> Progress {
        let Some(job) = self.jobs.first_mut() else { return Progress::default() };
        let from = job.cursor.unwrap_or(job.info.capacity);
        let begun = Instant::now();
        let victim = job.info.id;
        let passed = self.space.evacuate_metadata(victim, from, self.config.chunk_blocks);
        if let Ok(next) = passed {
            self.tracer.emit(|| Event::Evacuate { victim, from, next, us: micros(begun) });
        }
        if let Err(error) = passed.and_then(|next| job.advance_to(from, next)) {
            job.end_as(Err(error));
            return Progress::default();
        }
        let passed = job.cursor.unwrap_or(job.info.capacity) - from.min(job.info.capacity);
        let share = u64::from(job.info.live) * u64::from(passed) / u64::from(job.info.capacity.max(1));
        let evacuated = if job.cursor.is_none() { job.live_left() } else { u32::try_from(share).unwrap_or(u32::MAX).min(job.live_left()) };
        let progress = Progress { evacuated, ..Progress::default() };
        job.count(&progress);
        progress
    }

    /// Blocks of the next chunk, and how many may fly.
    fn measure(&self, stride: Stride) -> (u32, usize) {
        let Stride { large, flights, .. } = stride;
        let calm = (large || flights > 1) && self.space.is_calm();
        let blocks = if large && calm { self.config.large_chunk_blocks } else { self.config.chunk_blocks };
        (blocks, if calm { flights.max(1) as usize } else { 1 })
    }

    /// What was done, and whether that ended because no zone is left. After a panic nobody knows what was taken of the victims and not put back: they are
    /// released, and whoever comes next is told that they ended badly.
    fn relocate(&mut self, stride: Stride) -> (Progress, bool) {
        let mut jobs = std::mem::take(&mut self.jobs);
        let done = catch_unwind(AssertUnwindSafe(|| self.fly(&mut jobs, stride)));
        self.jobs = jobs;
        done.unwrap_or_else(|panic| {
            self.jobs.iter_mut().for_each(|job| job.end_as(Err(CleanError::Internal("a step panicked".into()))));
            self.let_ended_go();
            resume_unwind(panic)
        })
    }

    fn fly(&self, jobs: &mut [Job], stride: Stride) -> (Progress, bool) {
        let (mut total, mut starved) = (Progress::default(), false);
        let (mut flights, mut landed) = (VecDeque::new(), None);
        let mut left = stride.chunks;
        loop {
            let (blocks, most) = self.measure(stride);
            // First of all the device gets something to do.
            while left > 0 && flights.len() < most {
                if left < stride.chunks && self.space.is_awaited() {
                    left = 0;
                    break;
                }
                match self.take_off(jobs, blocks, flights.is_empty()) {
                    TakeOff::Flying(flight) => flights.push_back(flight),
                    TakeOff::Nothing => {}
                    TakeOff::NobodyReady | TakeOff::Later => break,
                    TakeOff::NoSpace => {
                        starved = true;
                        left = 0;
                        break;
                    }
                }
                left -= 1;
            }
            if let Some(landed) = landed.take() {
                total = total.and(self.publish(jobs, landed));
            }
            if left > 0 {
                self.look_ahead(jobs, most, blocks);
            }
            let Some(flight) = flights.pop_front() else { break };
            landed = self.land(jobs, flight);
            // After a failure the caller decides how it goes on.
            if landed.as_ref().is_none_or(|landed| landed.progress.failure.is_some() || landed.progress.zone_ended) {
                left = 0;
            }
        }
        (total, starved)
    }

    /// Looks up what one of those that will take off next begins with.
    fn look_ahead(&self, jobs: &mut [Job], flights: usize, blocks: u32) {
        let mut next = jobs.iter_mut().filter(|job| job.may_go_on()).take(flights + 1);
        if let Some(job) = next.find(|job| job.pending.is_empty()) {
            // Whoever needs it is told what is wrong.
            let _ = self.look_up(job, blocks);
        }
    }

    /// Sees to it that extents wait for their turn, unless the next stretch of the victim has none that live.
    fn look_up(&self, job: &mut Job, blocks: u32) -> Result<()> {
        if job.pending.is_empty() && job.cursor.is_some() {
            let from = job.cursor.unwrap_or(job.info.capacity);
            let run = self.space.live(job.info.id, from, blocks)?;
            job.advance_to(from, run.next)?;
            let extents = run.extents.into_iter().filter(|e| e.blocks > 0);
            job.pending.extend(extents.map(trusted));
        }
        Ok(())
    }

    /// Begins to copy what comes next, of the first victim of which nothing flies. `alone`: nothing flies at all.
    fn take_off(&self, jobs: &mut [Job], blocks: u32, alone: bool) -> TakeOff<'_, S> {
        loop {
            let Some(index) = jobs.iter().position(Job::is_ready) else { return TakeOff::NobodyReady };
            let job = &mut jobs[index];
            match self.begin(job, index, blocks) {
                Ok(TakeOff::Nothing) if job.is_exhausted() => {}
                Ok(TakeOff::Later) if alone => {
                    job.end_as(Err(CleanError::Internal("heads are held by chunks that do not fly".into())));
                    return TakeOff::Nothing;
                }
                Ok(take_off) => return take_off,
                Err(CleanError::NoSpace) => return TakeOff::NoSpace,
                Err(error) => {
                    job.end_as(Err(error));
                    return TakeOff::Nothing;
                }
            }
        }
    }

    fn begin(&self, job: &mut Job, index: usize, blocks: u32) -> Result<TakeOff<'_, S>> {
        self.look_up(job, blocks)?;
        if job.pending.is_empty() {
            return Ok(TakeOff::Nothing);
        }
        let device = job.info.id.device;
        let per_block = self.blocks_per_block(device)?;
        let most = if job.for_host > 0 { job.for_host.min(self.config.max_extents) } else { self.config.max_extents };
        let waiting: u64 = job.pending.iter().take(most).map(|extent| u64::from(extent.blocks)).sum();
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).min(blocks);
        let Some((carrier, mut held)) = self.reserve(job.info.id, wanted, job.for_host > 0)? else { return Ok(TakeOff::Later) };
        let chunk = job.take_chunk(wanted.min(held.blocks), most, per_block);
        let source = |e: &LiveExtent| SourceRange { device: e.device, lba: e.lba, blocks: Blocks(u64::from(e.blocks) * per_block) };
        let load = Load {
            sources: chunk.extents.iter().map(source).collect(),
            target: held.target,
            checksums: chunk.extents.iter().flat_map(|e| e.checksums.iter().copied()).collect(),
            carrier,
        };
        job.flies = true;
        held.set_written(true);
        let begun = Instant::now();
        Ok(TakeOff::Flying(Flight { copy: self.mover.start(load), held, job: index, chunk, carrier, begun }))
    }

    fn blocks_per_block(&self, device: DeviceId) -> Result<u64> {
        match self.space.device_blocks_per_block(device) {
            0 => Err(CleanError::Internal(format!("device {device} has blocks larger than those of the filesystem"))),
            n => Ok(u64::from(n)),
        }
    }

    /// Space in a zone of the right kind: one that receives device copies receives nothing else (I9). `None`: what flies holds the heads.
    fn reserve(&self, victim: SegmentId, blocks: u32, for_host: bool) -> Result<Option<(Carrier, Held<'_, S>)>> {
        let near = victim.device;
        let mut carrier = if for_host { Carrier::Host } else { self.mover.carrier(near, near)? };
        loop {
            let stream = match carrier {
                Carrier::Device => Stream::RelocatedByDevice,
                Carrier::Host => Stream::RelocatedByHost,
            };
            let Some(held) = self.reserve_some(stream, victim, blocks)? else { return Ok(None) };
            let device = held.target.device;
            // If the zone lies on another device: does the device's road lead there, too?
            if carrier == Carrier::Host || device == near || self.mover.carrier(near, device)? == Carrier::Device {
                return Ok(Some((carrier, held)));
            }
            carrier = Carrier::Host;
        }
    }

    fn reserve_some(&self, stream: Stream, victim: SegmentId, blocks: u32) -> Result<Option<Held<'_, S>>> {
        let Some(reservation) = self.space.reserve(stream, victim, blocks)? else { return Ok(None) };
        let held = Held::new(&self.space, reservation);
        if held.blocks == 0 { Err(CleanError::NoSpace) } else { Ok(Some(held)) }
    }

    /// Waits for the copy of a chunk. What was not copied waits for another turn. `None`: its victim has ended with an error.
    fn land<'a>(&'a self, jobs: &mut [Job], flight: Flight<'a, S>) -> Option<Landed<'a, S>> {
        let job = &mut jobs[flight.job];
        job.flies = false;
        self.try_land(job, flight).map_err(|error| job.end_as(Err(error))).ok()
    }

    fn try_land<'a>(&'a self, job: &mut Job, flight: Flight<'a, S>) -> Result<Landed<'a, S>> {
        let Flight { copy, mut held, job: index, chunk, carrier, begun } = flight;
        let target = held.target;
        let count = chunk.extents.len();
        let landed = copy().map_err(CleanError::from).and_then(|r| mover::sane(r, count));
        let (result, target_per_block) = match landed.and_then(|result| Ok((result, self.blocks_per_block(target.device)?))) {
            Ok(landed) => landed,
            Err(error) => {
                // A request that was refused has not touched the zone; after anything else nobody knows what lies in it (I9).
                held.set_written(!matches!(error, CleanError::Copy(CopyError::NoOffload { .. } | CopyError::Invalid(_))));
                return Err(error);
            }
        };
        let victim = job.info.id;
        self.tracer.emit(|| Event::Copy {
            victim,
            target_lba: target.lba.0,
            target_device: target.device.0,
            extents: u32::try_from(count).unwrap_or(u32::MAX),
            blocks: chunk.blocks,
            road: result.road,
            bytes: result.bytes_done,
            us: micros(begun),
            failure: result.failure.map(FailureKind::reason),
        });
        let (moves, rest) = split_done(chunk.extents, result.sources_done, target.lba, target_per_block);
        // What a device failed on is the host's, and nothing else is.
        job.for_host = match carrier {
            Carrier::Device => result.for_host.min(rest.len()),
            Carrier::Host => job.for_host.saturating_sub(moves.len()),
        };
        let copied: u32 = moves.iter().map(|m| m.from.blocks).sum();
        held.copied(copied, result.end_zone);
        let failure = (!rest.is_empty()).then(|| result.failure.unwrap_or(FailureKind::Transient));
        let unread = result.unreadable.unwrap_or(result.sources_done).checked_sub(result.sources_done).and_then(|i| rest.get(i)).cloned();
        for extent in rest.into_iter().rev() {
            job.pending.push_front(extent);
        }
        let offloaded = offloaded_blocks(&result, copied);
        let progress = Progress { offloaded, by_host: copied - offloaded, zone_ended: result.end_zone, failure, ..Progress::default() };
        Ok(Landed { job: index, moves, held, progress, unread })
    }

    /// Publishes what was copied.
    fn publish(&self, jobs: &mut [Job], landed: Landed<'_, S>) -> Progress {
        let job = &mut jobs[landed.job];
        let Committed { moved, lost } = match landed.held.publish(&landed.moves) {
            Ok(committed) => committed,
            Err(error) => {
                job.end_as(Err(error));
                return Progress::default();
            }
        };
        let (victim, zone_ended) = (job.info.id, landed.progress.zone_ended);
        self.tracer.emit(|| Event::Commit { victim, moved, lost, zone_ended });
        let progress = Progress { moved, lost, ..landed.progress };
        job.count(&progress);
        self.judge(job, &progress, landed.unread);
        progress
    }

    /// Decides how a victim goes on after a copy. Which road comes next is the engine's business; what counts here is that failures
    /// end. `unread`: with a media error, the extent that nobody can read.
    fn judge(&self, job: &mut Job, progress: &Progress, unread: Option<LiveExtent>) {
        let Some(kind) = progress.failure else {
            job.failures_in_a_row = 0;
            return;
        };
        if kind == FailureKind::SourceMedia {
            let report = |e: LiveExtent| Unmovable { victim: job.info.id, lba: e.lba, blocks: e.blocks, reason: kind.reason() };
            job.report.unmovable.extend(unread.map(report));
            job.end_as(Ok(VictimEnd::Unmovable));
            return;
        }
        job.failures_in_a_row = if progress.moved + progress.lost > 0 { 1 } else { job.failures_in_a_row + 1 };
        if job.failures_in_a_row >= self.config.max_failures {
            job.end_as(Ok(VictimEnd::GaveUp));
        }
    }
}

impl<S: LogSpace, M: Mover> Drop for Relocator<S, M> {
    /// Victims left behind would stay pinned for ever.
    fn drop(&mut self) {
        self.abandon();
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
