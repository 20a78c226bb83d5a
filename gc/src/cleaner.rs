//! The cleaner: policy, pacer and relocator as one step machine.
//!
//! It owns no thread and no clock. The background thread, a writer that has to help, and `ferryfs gc` all call [`Cleaner::poll`], which
//! does at most one chunk of work and tells what a checkpoint would bring. Whoever holds the cleaner's lock waits for one
//! chunk at most.
//!
//! Zones that were emptied are given back by the next checkpoint only. So the cleaner counts them as coming, does not choose them
//! again, and asks for a checkpoint when enough have gathered ([`CleanerConfig::checkpoint_batch`]) or when someone cannot go on without:
//! several victims per checkpoint share the metadata that it writes.
//!
//! It cannot spin: a victim that ended early is left alone until much of it has died, or, after failures that may pass, until some
//! checkpoints later.

use crate::error::{CleanError, Result};
use crate::mover::Mover;
use crate::pacer::{Pacer, PacerConfig, PacerInput, Pressure, VictimShare};
use crate::policy::{Policy, VictimPolicy};
use crate::relocator::{Progress, Relocator, RelocatorConfig, Step, VictimEnd, VictimReport};
use crate::segment::{SegmentId, SegmentInfo, Seq};
use crate::space::LogSpace;
use crate::stats::{GcStats, Pauses};
use crate::trace::{Event, Tracer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a cleaner behaves.
#[derive(Clone, Copy, Debug)]
pub struct CleanerConfig {
    /// Who chooses.
    pub policy: Policy,
    /// The marks.
    pub pacer: PacerConfig,
    /// The chunks.
    pub relocator: RelocatorConfig,
    /// Emptied zones that are worth a checkpoint: cleaning several victims per checkpoint shares the metadata it writes.
    pub checkpoint_batch: u32,
    /// The background leaves a segment alone that would give back less than this many thousandths of its capacity.
    pub background_gain_permille: u32,
    /// `ferryfs gc --until-clean` ends when no segment would give back this many thousandths of its capacity.
    pub manual_gain_permille: u32,
    /// A victim on which copies failed is left alone for this many checkpoints.
    pub retry_after_checkpoints: u64,
}

impl CleanerConfig {
    /// The defaults for a volume of `zones` zones of which `reserve` are lent to nobody.
    pub fn new(policy: Policy, reserve: u32, zones: u32) -> Self {
        let pacer = PacerConfig::above_reserve(reserve, zones);
        Self {
            policy,
            pacer,
            relocator: RelocatorConfig::default(),
            checkpoint_batch: (pacer.high - pacer.low).min(8),
            background_gain_permille: 10,
            manual_gain_permille: 50,
            retry_after_checkpoints: 16,
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The background thread: works at the pacer's pace.
    Background,
    /// A writer that can still go on: one chunk per call at the low-water mark, nothing otherwise.
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
    /// Free zones now, counted from the same zero as the marks of the pacer: either with the reserve included on both sides, or, when the
    /// reserve changes, without it on both.
    pub free_zones: u32,
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
    /// A checkpoint should be made now.
    pub checkpoint: bool,
    /// How urgent cleaning is now.
    pub pressure: Pressure,
    /// The pacer allows the background another chunk at once; otherwise it may wait for users' writes or idle time.
    pub more: bool,
    /// Blocks that users owe in copies for what they wrote since the last poll; zero unless forced. A writer may be slowed in
    /// proportion.
    pub owed: u32,
}

/// Why a segment is not chosen.
struct Exclusion {
    /// Live blocks at that time: when half of them are gone, it is worth another try.
    live: u32,
    /// The number of checkpoints after which it is tried again; none: only when it has changed.
    until: Option<u64>,
}

/// Policy, pacer and relocator.
pub struct Cleaner<S: LogSpace, M: Mover> {
    relocator: Relocator<S, M>,
    policy: Box<dyn VictimPolicy>,
    pacer: Pacer,
    config: CleanerConfig,
    excluded: BTreeMap<SegmentId, Exclusion>,
    emptied: BTreeSet<SegmentId>,
    /// The victim when it was chosen.
    victim: Option<SegmentInfo>,
    checkpoints: u64,
    /// A campaign chose the victim.
    by_hand: bool,
    /// Logical time at the last poll.
    seen: Option<Seq>,
    stats: GcStats,
    pauses: Pauses,
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
            emptied: BTreeSet::new(),
            victim: None,
            checkpoints: 0,
            by_hand: false,
            seen: None,
            stats: GcStats::default(),
            pauses: Pauses::default(),
            tracer,
        }
    }

    /// The filesystem.
    pub fn space(&self) -> &S {
        self.relocator.space()
    }

    /// The engine.
    pub fn mover(&self) -> &M {
        self.relocator.mover()
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

    /// Zones that a checkpoint would free.
    pub fn emptied(&self) -> u32 {
        u32::try_from(self.emptied.len()).unwrap_or(u32::MAX)
    }

    /// The victim being cleaned.
    pub fn victim(&self) -> Option<SegmentInfo> {
        self.relocator.victim()
    }

    /// How urgent cleaning is with so many free zones: cheap, to decide whether to poll at all.
    pub fn pressure(&self, free_zones: u32) -> Pressure {
        self.pacer.pressure(free_zones.saturating_add(self.emptied()))
    }

    /// A checkpoint that was cut after the last poll is durable, and its dead zones are free: `freed` of them.
    pub fn checkpointed(&mut self, freed: u32) {
        self.checkpoints += 1;
        self.emptied.clear();
        self.stats.zones_reclaimed += u64::from(freed);
    }

    /// Gives the victim back, if there is one; cleaning can go on with another at the next poll.
    pub fn abandon(&mut self) -> Option<VictimReport> {
        let report = self.relocator.abandon()?;
        self.victim = None;
        self.stats.add_end(&report);
        Some(report)
    }

    /// Does at most one chunk of work.
    ///
    /// # Errors
    /// The filesystem or a device failed on a victim, which is left alone from then on; the next poll goes on with another.
    pub fn poll(&mut self, situation: &Situation) -> Result<Outcome> {
        let coming = situation.free_zones.saturating_add(self.emptied());
        if situation.caller == Caller::Blocked && !self.emptied.is_empty() {
            return Ok(self.outcome(Work::Nothing, situation, 0));
        }
        if !self.wants_work(situation.caller, coming) {
            self.let_go(situation.caller);
            self.pace(situation, coming, None);
            return Ok(self.outcome(Work::Nothing, situation, 0));
        }
        if self.victim.is_none() && !self.choose(situation) {
            self.pace(situation, coming, None);
            return Ok(self.outcome(Work::NoVictim, situation, 0));
        }
        let share = self.victim.map(|v| VictimShare { live: v.live, capacity: v.capacity });
        let pace = self.pace(situation, coming, share);
        if situation.caller == Caller::Background && pace.background == 0 {
            return Ok(self.outcome(Work::Nothing, situation, pace.foreground));
        }
        let work = self.work(situation.caller)?;
        Ok(self.outcome(work, situation, pace.foreground))
    }

    /// A quiet system holds no victim: it would stay pinned, and could not be freed even if all of it died. Nothing is lost, what was
    /// moved stays moved. A victim that a person asked for is theirs to end.
    fn let_go(&mut self, caller: Caller) {
        if caller == Caller::Background && !self.by_hand {
            self.abandon();
        }
    }

    fn wants_work(&self, caller: Caller, coming: u32) -> bool {
        match (caller, self.pacer.pressure(coming)) {
            (Caller::Manual | Caller::Blocked, _) => true,
            (Caller::Background, pressure) => pressure != Pressure::Quiet,
            (Caller::Foreground, pressure) => pressure == Pressure::Forced,
        }
    }

    fn pace(&mut self, situation: &Situation, coming: u32, victim: Option<VictimShare>) -> crate::Pace {
        let now = self.space().now();
        let user_blocks = now.saturating_sub(self.seen.replace(now).unwrap_or(now));
        self.pacer.pace(&PacerInput { free_zones: coming, victim, user_blocks, idle: situation.idle })
    }

    fn outcome(&mut self, work: Work, situation: &Situation, owed: u32) -> Outcome {
        let emptied = self.emptied();
        let pressure = self.pressure(situation.free_zones);
        let blocked = situation.caller == Caller::Blocked || matches!(work, Work::Starved | Work::NoVictim);
        let batch = emptied >= self.config.checkpoint_batch.max(1);
        // Nothing more will be cleaned, and users are about to open their last zone.
        let last = pressure == Pressure::Quiet && situation.free_zones <= self.pacer.config().low;
        let more = matches!(work, Work::Chunk(_) | Work::Victim(_)) && pressure != Pressure::Quiet;
        Outcome { work, emptied, checkpoint: emptied > 0 && (blocked || batch || last), pressure, more, owed }
    }

    /// The least gain that is worth cleaning for this caller.
    fn least_gain_permille(&self, caller: Caller, free_zones: u32) -> u32 {
        match caller {
            Caller::Foreground | Caller::Blocked => 0,
            Caller::Background if self.pressure(free_zones) == Pressure::Forced => 0,
            Caller::Background => self.config.background_gain_permille,
            Caller::Manual => self.config.manual_gain_permille,
        }
    }

    /// The segments that would give back `permille` thousandths of their capacity or more.
    pub(crate) fn candidates(&mut self, permille: u32) -> Vec<SegmentInfo> {
        let worth = |s: &SegmentInfo| u64::from(s.capacity - s.live.min(s.capacity)) * 1000 >= u64::from(s.capacity) * u64::from(permille);
        let segments = self.space().segments();
        self.forgive(&segments);
        let chosen =
            |s: &SegmentInfo| s.live > 0 && s.live < s.capacity && !self.emptied.contains(&s.id) && !self.excluded.contains_key(&s.id);
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
        let least = self.least_gain_permille(situation.caller, situation.free_zones);
        self.start_best(least, situation.free_zones, situation.caller == Caller::Manual)
    }

    /// Starts the best victim of those that gain enough, unless one is being cleaned.
    pub(crate) fn start_best(&mut self, least_gain_permille: u32, free_zones: u32, by_hand: bool) -> bool {
        if self.victim.is_some() {
            return true;
        }
        let mut candidates = self.candidates(least_gain_permille);
        let now = self.space().now();
        while let Some(id) = self.policy.choose(&candidates, now) {
            let Some(at) = candidates.iter().position(|s| s.id == id) else { return false };
            let info = candidates[at];
            if self.relocator.start(info).is_ok() {
                let (policy, count) = (self.policy.name(), u32::try_from(candidates.len()).unwrap_or(u32::MAX));
                let SegmentInfo { id: victim, stream, live, capacity, .. } = info;
                self.tracer.emit(|| Event::Decision { seq: now, victim, stream, live, capacity, policy, candidates: count, free_zones });
                self.stats.add_victim(policy, live, capacity);
                self.victim = Some(info);
                self.by_hand = by_hand;
                return true;
            }
            // It changed between the list and the pin.
            candidates.swap_remove(at);
        }
        false
    }

    /// One chunk.
    fn work(&mut self, caller: Caller) -> Result<Work> {
        let step = match self.relocator.step() {
            Ok(step) => step,
            Err(CleanError::NoSpace) => {
                if self.emptied.is_empty() {
                    self.abandon();
                }
                return Ok(Work::Starved);
            }
            Err(error) => {
                self.stats.add_error(&error);
                self.exclude(Some(self.checkpoints + self.config.retry_after_checkpoints));
                return Err(error);
            }
        };
        match step {
            Step::Idle => {
                self.victim = None;
                Ok(Work::Nothing)
            }
            Step::VictimDone(report) => Ok(self.ended(report, caller)),
            Step::Progress(progress) => {
                // Ending an exhausted victim takes no I/O: the caller need not come back for it.
                if self.relocator.is_exhausted()
                    && let Step::VictimDone(report) = self.relocator.step()?
                {
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
                self.emptied.insert(report.id);
                self.victim = None;
            }
            VictimEnd::Unmovable => self.exclude(None),
            VictimEnd::GaveUp => self.exclude(Some(self.checkpoints + self.config.retry_after_checkpoints)),
            VictimEnd::Abandoned => self.victim = None,
        }
        Work::Victim(Box::new(report))
    }

    /// Leaves the present victim alone.
    fn exclude(&mut self, until: Option<u64>) {
        let Some(victim) = self.victim.take() else { return };
        let live = self.space().segments().iter().find(|s| s.id == victim.id).map_or(victim.live, |s| s.live);
        self.excluded.insert(victim.id, Exclusion { live, until });
    }
}

#[cfg(test)]
mod tests;
