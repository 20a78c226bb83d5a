//! The cleaner: policy, pacer and relocator as one step machine.
//!
//! It owns no thread and no clock. The background thread, a writer that has to help, and `ferryfs gc` all call [`Cleaner::poll`], which
//! does at most one chunk of work and tells what a checkpoint would bring; by hand it does as many as [`Cleaner::set_chunks_by_hand`]
//! says, one behind the other. Whoever wants the cleaner's lock waits for that much.
//!
//! Zones that were emptied are given back by the next checkpoint only, those of data perhaps by something cheaper. So the cleaner counts them as coming, does not
//! choose them again, and asks for that when enough have gathered (of metadata more: only a checkpoint gives those back, and several share what it writes), when
//! users have little left to write and a zone of data is empty ([`crate::PacerConfig`]), or when someone cannot go on without. Cleaning goes on meanwhile.
//!
//! It cannot spin: a victim that ended early is left alone until much of it has died, or, after failures that may pass, until some
//! checkpoints later.

use crate::checkpoints::Checkpoints;
use crate::error::{CleanError, Result};
use crate::mover::Mover;
use crate::pacer::{Pacer, PacerConfig, PacerInput, Pressure, Room, VictimShare};
use crate::policy::{Policy, VictimPolicy};
use crate::relocator::{Progress, Relocator, RelocatorConfig, Step, Stride, VictimEnd, VictimReport};
use crate::segment::{SegmentId, SegmentInfo, Seq, Stream};
use crate::space::LogSpace;
use crate::stats::{GcStats, Pauses};
use crate::toll::Toll;
use crate::trace::{Event, Tracer};
use std::collections::BTreeMap;
use std::time::Duration;

/// Nobody waits for zones that a person has cleaned: so many blocks of them together share a checkpoint (128 MiB), unless users run short.
const BY_HAND_BLOCKS: u64 = 32_768;

/// Zones of metadata are given back by checkpoints alone, which cost what is dirty: so many times as many of them as of data share one, unless somebody waits.
const METADATA_BATCHES: usize = 4;

/// How a cleaner behaves.
#[derive(Clone, Copy, Debug)]
pub struct CleanerConfig {
    /// Who chooses.
    pub policy: Policy,
    /// The marks.
    pub pacer: PacerConfig,
    /// The chunks.
    pub relocator: RelocatorConfig,
    /// The background leaves a segment alone that would give back less than this many thousandths of its capacity.
    pub background_gain_permille: u32,
    /// `ferryfs gc --until-clean` ends when no segment would give back this many thousandths of its capacity.
    pub manual_gain_permille: u32,
    /// A victim on which copies failed is left alone for this many checkpoints.
    pub retry_after_checkpoints: u64,
    /// Chunks in one step when a person asked ([`Relocator::steps`]), unless somebody waits for the cleaner.
    pub chunks_by_hand: u32,
    /// Of these, in flight at once ([`Stride::flights`]).
    pub flights_by_hand: u32,
}

impl CleanerConfig {
    /// The defaults for a volume of `zones` zones of `capacity` blocks, of which `reserve` zones are lent to nobody.
    pub fn new(policy: Policy, reserve: u32, zones: u32, capacity: u32) -> Self {
        Self::with_marks(policy, PacerConfig::above_reserve(reserve, zones, capacity))
    }

    /// The defaults with these marks.
    pub fn with_marks(policy: Policy, pacer: PacerConfig) -> Self {
        Self {
            policy,
            pacer,
            relocator: RelocatorConfig::default(),
            background_gain_permille: 10,
            manual_gain_permille: 50,
            retry_after_checkpoints: 16,
            chunks_by_hand: 8,
            flights_by_hand: 4,
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The background thread: works at the pacer's pace.
    Background,
    /// A writer that pays: one chunk per call at the low-water mark, nothing otherwise.
    Foreground,
    /// A writer that cannot go on: works regardless of the marks, and asks for a checkpoint as soon as that frees a zone.
    Blocked,
    /// A person: works regardless of the marks.
    Manual,
}

/// What the caller knows.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Who calls.
    pub caller: Caller,
    /// The room ahead of users now, counted from the same zero as the marks of the pacer: either with the reserve included on both sides, or,
    /// when the reserve changes, without it on both.
    pub room: Room,
    /// How long no user has written.
    pub idle: Duration,
}

/// What a poll did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing had to be done now.
    Nothing,
    /// Something should be done and nothing can: no segment is worth cleaning. A checkpoint, deletions, or nothing helps.
    NoVictim,
    /// No zone is left to relocate into. A checkpoint helps when [`Outcome::emptied`] is not zero; otherwise the victim was given back.
    Starved,
    /// One chunk; the victim goes on.
    Chunk(Progress),
    /// The last chunk of a victim.
    Victim(Box<VictimReport>),
}

/// What a poll came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was done.
    pub work: Work,
    /// Zones that a checkpoint would free.
    pub emptied: u32,
    /// A checkpoint should be made now; the one that is being made, if any, is not enough.
    pub checkpoint: bool,
    /// Whatever gives zones of data back will do instead.
    pub by_log: bool,
    /// Whoever cannot go on may wait for the checkpoint that is being made.
    pub under_way: bool,
    /// How urgent cleaning is now.
    pub pressure: Pressure,
    /// The pacer allows the background another chunk at once; otherwise it may wait for users' writes or idle time.
    pub more: bool,
}

/// Why a segment is not chosen.
struct Exclusion {
    /// Live blocks at that time: when half of them are gone, it is worth another try.
    live: u32,
    /// The number of checkpoints after which it is tried again; none: only when it has changed.
    until: Option<u64>,
}

/// A zone that was emptied and is not given back yet.
struct Emptied {
    capacity: u32,
    /// Only a checkpoint gives it back.
    metadata: bool,
    /// How many checkpoints had begun, or of a zone of data how many times that such were given back.
    begun: u64,
}

/// Policy, pacer and relocator.
pub struct Cleaner<S: LogSpace, M: Mover> {
    relocator: Relocator<S, M>,
    policy: Box<dyn VictimPolicy>,
    pacer: Pacer,
    config: CleanerConfig,
    excluded: BTreeMap<SegmentId, Exclusion>,
    emptied: BTreeMap<SegmentId, Emptied>,
    /// The victims as they were when they were chosen, in that order. Several only by hand.
    victims: Vec<SegmentInfo>,
    checkpoints: u64,
    /// For whom the last victim was chosen.
    chosen_for: Caller,
    /// Logical time at the last poll.
    seen: Option<Seq>,
    stats: GcStats,
    pauses: Pauses,
    toll: Toll,
    /// Those of the filesystem, counted by it.
    made: Checkpoints,
    /// The same for whatever gives zones of data back.
    released: Checkpoints,
    tracer: Tracer,
}

impl<S: LogSpace, M: Mover> Cleaner<S, M> {
    /// A cleaner that has nothing to do yet.
    pub fn new(space: S, mover: M, config: CleanerConfig, tracer: Tracer) -> Self {
        Self {
            relocator: Relocator::new(space, mover, config.relocator, tracer.clone()),
            policy: config.policy.build(),
            pacer: Pacer::new(config.pacer),
            config,
            excluded: BTreeMap::new(),
            emptied: BTreeMap::new(),
            victims: Vec::new(),
            checkpoints: 0,
            chosen_for: Caller::Background,
            seen: None,
            stats: GcStats::default(),
            pauses: Pauses::default(),
            toll: Toll::new(config.pacer, config.relocator.chunk_blocks),
            made: Checkpoints::default(),
            released: Checkpoints::default(),
            tracer,
        }
    }

    /// With a toll that writers have already, made for the same marks and chunks.
    pub fn with_toll(self, toll: Toll) -> Self {
        Self { toll, ..self }
    }

    /// With the counts that the filesystem keeps of its checkpoints, and of whatever gives zones of data back, which checkpoints do as well. Without them, only
    /// what is given back already is known to be.
    pub fn with_checkpoints(self, made: Checkpoints, released: Checkpoints) -> Self {
        Self { made, released, ..self }
    }

    /// The filesystem.
    pub fn space(&self) -> &S {
        self.relocator.space()
    }

    /// The engine.
    pub fn mover(&self) -> &M {
        self.relocator.mover()
    }

    /// Sets [`CleanerConfig::chunks_by_hand`].
    pub fn set_chunks_by_hand(&mut self, chunks: u32) {
        self.config.chunks_by_hand = chunks;
    }

    /// How it behaves.
    pub fn config(&self) -> &CleanerConfig {
        &self.config
    }

    /// The name of the policy.
    pub fn policy_name(&self) -> &'static str {
        self.policy.name()
    }

    /// Counters so far.
    pub fn stats(&self) -> GcStats {
        GcStats { pause_us: self.pauses.percentiles(), trace_dropped: self.tracer.dropped(), ..self.stats.clone() }
    }

    /// Where writers record how long they waited; to be kept outside of the cleaner's lock.
    pub fn pauses(&self) -> Pauses {
        self.pauses.clone()
    }

    /// What writers pay; to be kept outside of the cleaner's lock.
    pub fn toll(&self) -> Toll {
        self.toll.clone()
    }

    /// Zones that a checkpoint would free.
    pub fn emptied(&self) -> u32 {
        u32::try_from(self.emptied.len()).unwrap_or(u32::MAX)
    }

    /// What counts how often zones of a kind were given back.
    fn counts(&self, metadata: bool) -> &Checkpoints {
        if metadata { &self.made } else { &self.released }
    }

    /// Zones that a checkpoint would free and that nothing which has begun will.
    fn fresh(&self) -> impl Iterator<Item = &Emptied> {
        self.emptied.values().filter(|zone| !self.counts(zone.metadata).will_give_back(zone.begun))
    }

    /// Blocks that checkpoints will give back: emptied zones, and of victims in proportion to what was moved out of them.
    fn coming(&self) -> i64 {
        let emptied: i64 = self.emptied.values().map(|zone| i64::from(zone.capacity)).sum();
        let left = |id| self.relocator.victims().find(|victim| victim.id == id).map_or(0, |victim| victim.live);
        let begun = |victim: &SegmentInfo| {
            let gone = victim.live - left(victim.id).min(victim.live);
            i64::from(victim.capacity) * i64::from(gone) / i64::from(victim.live.max(1))
        };
        emptied + self.victims.iter().map(begun).sum::<i64>()
    }

    /// The victim being cleaned, the first of them if there are several.
    pub fn victim(&self) -> Option<SegmentInfo> {
        self.relocator.victim()
    }

    /// How urgent cleaning is with so much room: cheap, to decide whether to poll at all.
    pub fn pressure(&self, room: Room) -> Pressure {
        self.pacer.pressure_of(room, self.coming(), !self.emptied.is_empty())
    }

    /// A checkpoint is durable, or what else gives zones back, and those are free: `freed` of them. If nobody tells, nothing is lost: zones that were given back
    /// are found at the next poll.
    pub fn checkpointed(&mut self, freed: u32) {
        self.checkpoints += 1;
        self.forget_given_back();
        self.stats.zones_reclaimed += u64::from(freed);
        self.publish();
    }

    /// Zones that were given back are counted by the filesystem from now on. So are those that were not though they should have been, because somebody reads
    /// them: they are given back the next time.
    fn forget_given_back(&mut self) {
        let (space, made, released) = (self.relocator.space(), &self.made, &self.released);
        let is_past = |zone: &Emptied| if zone.metadata { made.is_past(zone.begun) } else { released.is_past(zone.begun) };
        self.emptied.retain(|id, zone| !is_past(zone) && !space.is_given_back(*id));
    }

    fn share(&self) -> Option<VictimShare> {
        self.victims.first().map(|v| VictimShare { live: v.live, capacity: v.capacity })
    }

    /// Tells writers what their price depends on.
    fn publish(&self) {
        let share = self.share();
        self.toll.publish(self.coming(), !self.emptied.is_empty(), share);
    }

    /// Gives victims back, if there are any; cleaning can go on with others at the next poll.
    pub fn abandon(&mut self) {
        let reports = self.relocator.abandon();
        self.note_abandoned(&reports);
    }

    fn note_abandoned(&mut self, reports: &[VictimReport]) {
        for report in reports {
            self.victims.retain(|victim| victim.id != report.id);
            self.stats.add_end(report);
        }
    }

    /// Does at most one chunk of work.
    ///
    /// # Errors
    /// The filesystem or a device failed on a victim, which is left alone from then on; the next poll goes on with another.
    pub fn poll(&mut self, situation: &Situation) -> Result<Outcome> {
        self.forget_given_back();
        let work = self.poll_work(situation);
        self.publish();
        Ok(self.outcome(work?, situation))
    }

    fn poll_work(&mut self, situation: &Situation) -> Result<Work> {
        let room = situation.room.ahead.saturating_add(self.coming());
        if situation.caller == Caller::Blocked && !self.emptied.is_empty() {
            return Ok(Work::Nothing);
        }
        if !self.wants_work(situation.caller, situation.room) {
            self.let_go(situation.caller);
            self.pace(situation, room, None);
            return Ok(Work::Nothing);
        }
        self.make_way(situation.caller);
        if self.victims.is_empty() && !self.choose(situation) {
            self.pace(situation, room, None);
            return Ok(Work::NoVictim);
        }
        let share = self.share();
        let pace = self.pace(situation, room, share);
        if situation.caller == Caller::Background && pace.background == 0 && self.pressure(situation.room) != Pressure::Forced {
            return Ok(Work::Nothing);
        }
        self.work(situation)
    }

    /// A quiet system holds no victim: it would stay pinned, and could not be freed even if all of it died. Nothing is lost, what was
    /// moved stays moved. A victim that a person asked for is theirs to end.
    fn let_go(&mut self, caller: Caller) {
        if caller == Caller::Background && self.chosen_for != Caller::Manual {
            self.abandon();
        }
    }

    /// Who has no room to write is not bound by what was begun for others and of which nothing was moved: by hand that may be 128 MiB, of zones that are
    /// hardly dead. What was moved of a victim in part would have been moved in vain for as long as the rest of it stays.
    fn make_way(&mut self, caller: Caller) {
        if caller == Caller::Blocked && self.chosen_for != Caller::Blocked {
            let reports = self.relocator.abandon_untouched();
            self.note_abandoned(&reports);
        }
    }

    fn wants_work(&self, caller: Caller, room: Room) -> bool {
        match (caller, self.pressure(room)) {
            (Caller::Manual | Caller::Blocked, _) => true,
            (Caller::Background, pressure) => pressure != Pressure::Quiet,
            (Caller::Foreground, pressure) => pressure == Pressure::Forced,
        }
    }

    fn pace(&mut self, situation: &Situation, room: i64, victim: Option<VictimShare>) -> crate::Pace {
        let now = self.space().now();
        let user_blocks = now.saturating_sub(self.seen.replace(now).unwrap_or(now));
        self.pacer.pace(&PacerInput { room, victim, user_blocks, idle: situation.idle })
    }

    fn outcome(&mut self, work: Work, situation: &Situation) -> Outcome {
        let pressure = self.pressure(situation.room);
        let blocked = situation.caller == Caller::Blocked || matches!(work, Work::Starved | Work::NoVictim);
        let config = self.pacer.config();
        let (metadata, data): (Vec<&Emptied>, Vec<&Emptied>) = self.fresh().partition(|zone| zone.metadata);
        let fresh = metadata.len() + data.len();
        let batch = config.batch.max(1) as usize;
        let enough = match situation.caller {
            Caller::Manual => metadata.iter().chain(&data).map(|zone| u64::from(zone.capacity)).sum::<u64>() >= BY_HAND_BLOCKS,
            // What is dear waits for more.
            _ => data.len() >= batch || metadata.len() >= METADATA_BATCHES * batch,
        };
        // With little left to write a single zone is worth a record in the log, but not a checkpoint, which would be followed by the next one: zones of
        // metadata get empty as checkpoints are made.
        let due = enough || (situation.room.writable <= config.runway && !data.is_empty());
        let by_log = situation.caller != Caller::Manual && !data.is_empty();
        let more = matches!(work, Work::Chunk(_) | Work::Victim(_)) && pressure != Pressure::Quiet;
        let waits = blocked && !self.emptied.is_empty();
        let under_way = waits && fresh == 0 && (self.made.is_under_way() || self.released.is_under_way());
        let checkpoint = (fresh > 0 && due) || (waits && !under_way);
        Outcome { work, emptied: self.emptied(), checkpoint, by_log, under_way, pressure, more }
    }

    /// The least gain that is worth cleaning for this caller.
    fn least_gain_permille(&self, caller: Caller, room: Room) -> u32 {
        match caller {
            Caller::Foreground | Caller::Blocked => 0,
            Caller::Background if self.pressure(room) == Pressure::Forced => 0,
            Caller::Background => self.config.background_gain_permille,
            Caller::Manual => self.config.manual_gain_permille,
        }
    }

    /// The segments that would give back `permille` thousandths of their capacity or more.
    pub(crate) fn candidates(&mut self, permille: u32) -> Vec<SegmentInfo> {
        let worth = |s: &SegmentInfo| u64::from(s.capacity - s.live.min(s.capacity)) * 1000 >= u64::from(s.capacity) * u64::from(permille);
        let segments = self.space().segments();
        self.forgive(&segments);
        // One that has ended badly is still among the victims until that is told: begun again before, it would end twice.
        let is_known = |id: &SegmentId| {
            self.emptied.contains_key(id) || self.excluded.contains_key(id) || self.victims.iter().any(|victim| victim.id == *id)
        };
        let chosen = |s: &SegmentInfo| s.live > 0 && s.live < s.capacity && !is_known(&s.id);
        segments.into_iter().filter(|s| chosen(s) && worth(s)).collect()
    }

    /// Ends exclusions whose reason may have gone.
    fn forgive(&mut self, segments: &[SegmentInfo]) {
        if self.excluded.is_empty() {
            return;
        }
        let live: BTreeMap<SegmentId, u32> = segments.iter().map(|s| (s.id, s.live)).collect();
        let checkpoints = self.checkpoints;
        self.excluded.retain(|id, exclusion| {
            let changed = live.get(id).is_none_or(|live| *live <= exclusion.live / 2);
            !changed && exclusion.until.is_none_or(|until| checkpoints < until)
        });
    }

    fn choose(&mut self, situation: &Situation) -> bool {
        let least = self.least_gain_permille(situation.caller, situation.room);
        self.start_best(least, situation.room, situation.caller)
    }

    /// Starts the best victim of those that gain enough, unless one is being cleaned.
    pub(crate) fn start_best(&mut self, least_gain_permille: u32, room: Room, caller: Caller) -> bool {
        self.start_some(least_gain_permille, room, caller, 1)
    }

    /// The same for up to `most` victims, as many as a step by hand gets through. Not more than there is room for: victims of which all are begun and none is
    /// emptied give nothing back.
    pub(crate) fn start_some(&mut self, least_gain_permille: u32, room: Room, caller: Caller, most: u64) -> bool {
        let enough = u64::from(self.config.chunks_by_hand) * u64::from(self.config.relocator.large_chunk_blocks);
        let room_for = enough.min(room.writable.max(0).unsigned_abs());
        let begun = |this: &Self| this.relocator.victims().map(|victim| u64::from(victim.live)).sum::<u64>();
        let is_enough = |this: &Self| !this.victims.is_empty() && (this.victims.len() as u64 >= most || begun(this) >= room_for);
        if is_enough(self) {
            return true;
        }
        let mut candidates = self.candidates(least_gain_permille);
        while !is_enough(self) {
            let Some(info) = self.best_of(&candidates, caller) else { break };
            if !self.victims.is_empty() && begun(self) + u64::from(info.live) > room.writable.max(0).unsigned_abs() {
                break;
            }
            // It may have changed between the list and the pin.
            let started = self.relocator.start(info).is_ok();
            if started {
                self.note_start(info, caller, room, candidates.len());
            }
            candidates.retain(|candidate| candidate.id != info.id);
        }
        !self.victims.is_empty()
    }

    /// For who has no room to write the best is the one that gives the most for the least, whatever the policy plans for later: on a volume that is nearly
    /// full, a zone that is old and hardly dead gives nearly nothing.
    fn best_of(&self, candidates: &[SegmentInfo], caller: Caller) -> Option<SegmentInfo> {
        let now = self.space().now();
        let policy: &dyn VictimPolicy = if caller == Caller::Blocked { &crate::policy::Greedy } else { &*self.policy };
        let preferred = match caller {
            Caller::Background | Caller::Foreground => self.space().preferred(candidates),
            Caller::Blocked | Caller::Manual => None,
        };
        let id = preferred.and_then(|some| policy.choose(&some, now)).or_else(|| policy.choose(candidates, now))?;
        candidates.iter().find(|candidate| candidate.id == id).copied()
    }

    fn note_start(&mut self, info: SegmentInfo, caller: Caller, room: Room, candidates: usize) {
        let policy = if caller == Caller::Blocked { crate::policy::Greedy.name() } else { self.policy.name() };
        let (seq, candidates) = (self.space().now(), u32::try_from(candidates).unwrap_or(u32::MAX));
        let SegmentInfo { id: victim, stream, live, capacity, .. } = info;
        self.tracer.emit(|| Event::Decision { seq, victim, stream, live, capacity, policy, candidates, writable: room.writable });
        self.stats.add_victim(policy, live, capacity);
        self.victims.push(info);
        self.chosen_for = caller;
    }

    /// How much to do at once: who pays or waits does one chunk.
    fn stride(&self, situation: &Situation) -> Stride {
        match situation.caller {
            Caller::Manual => Stride { chunks: self.config.chunks_by_hand, large: true, flights: self.config.flights_by_hand },
            Caller::Background => Stride { large: situation.idle >= self.pacer.config().idle_after, ..Stride::CHUNK },
            Caller::Foreground | Caller::Blocked => Stride::CHUNK,
        }
    }

    /// One chunk, or some.
    fn work(&mut self, situation: &Situation) -> Result<Work> {
        let caller = situation.caller;
        let step = match self.relocator.steps(self.stride(situation)) {
            Ok(step) => step,
            Err(CleanError::NoSpace) => {
                if self.emptied.is_empty() {
                    self.abandon();
                }
                return Ok(Work::Starved);
            }
            Err(error) => {
                self.stats.add_error(&error);
                let failed = self.relocator.take_failed();
                self.exclude(failed, Some(self.checkpoints + self.config.retry_after_checkpoints));
                return Err(error);
            }
        };
        match step {
            Step::Idle => {
                self.victims.clear();
                Ok(Work::Nothing)
            }
            Step::VictimDone(report) => Ok(self.ended(report, caller)),
            Step::Progress(progress) => {
                // What was done is told with the first victim that ended with it, and of others at the next polls: the caller need not come back for one.
                if let Some(report) = self.relocator.take_report() {
                    return Ok(self.ended(VictimReport { last: progress, ..report }, caller));
                }
                self.count(&progress, caller);
                Ok(Work::Chunk(progress))
            }
        }
    }

    fn count(&mut self, progress: &Progress, caller: Caller) {
        self.stats.add_chunk(progress, matches!(caller, Caller::Foreground | Caller::Blocked));
        self.pacer.copied(progress.offloaded + progress.by_host + progress.evacuated);
    }

    fn ended(&mut self, report: VictimReport, caller: Caller) -> Work {
        if report.last != Progress::default() {
            self.count(&report.last, caller);
        }
        self.stats.add_end(&report);
        match report.end {
            VictimEnd::Emptied => {
                let metadata = report.stream == Stream::Metadata;
                let emptied = Emptied { capacity: report.capacity, metadata, begun: self.counts(metadata).begun() };
                self.emptied.insert(report.id, emptied);
                self.victims.retain(|victim| victim.id != report.id);
            }
            VictimEnd::Unmovable => self.exclude(Some(report.id), None),
            VictimEnd::GaveUp => self.exclude(Some(report.id), Some(self.checkpoints + self.config.retry_after_checkpoints)),
            VictimEnd::Abandoned => self.victims.retain(|victim| victim.id != report.id),
        }
        Work::Victim(Box::new(report))
    }

    /// Leaves a victim alone.
    fn exclude(&mut self, victim: Option<SegmentId>, until: Option<u64>) {
        let Some(at) = self.victims.iter().position(|one| Some(one.id) == victim) else { return };
        let victim = self.victims.remove(at);
        let live = self.space().segments().iter().find(|s| s.id == victim.id).map_or(victim.live, |s| s.live);
        self.excluded.insert(victim.id, Exclusion { live, until });
    }
}

#[cfg(test)]
mod tests;
