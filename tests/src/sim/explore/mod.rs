//! Crash states enumerated, not drawn: after Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing" (OSDI 2018).
//!
//! [`ace`] makes all short sequences of operations, [`recording`] carries one out on a volume of some [`VolumeKind`] and records what its devices did,
//! and [`Explorer`] visits what a loss of power at any step could have left ([`zns::sim::CrashStates`]). Each distinct state is checked and mounted once
//! ([`verdict`]): what it holds depends on its bytes alone. Whether it may hold that depends on the step, and is asked every time: no state of the model
//! older than the last success of fsync, sync, a checkpoint or an unmount, and none in part (invariant I7).

pub mod ace;
pub mod kind;
pub mod recording;
pub mod report;
pub mod verdict;

pub use kind::VolumeKind;
pub use report::{Report, Table};

use ace::Sequence;
use kind::Base;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use recording::Recording;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use verdict::Verdicts;
use zns::sim::{Bounds, CrashState, CrashStates, Lie};

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// States visited after each step of a device.
    pub bounds: Bounds,
    /// Of so many states one is recovered with the power going again, at every step of that mount; 0: of none.
    pub recoveries: u64,
    /// Of so many states one is used, and cut off again, after it was recovered; 0: none.
    pub uses: u64,
}

/// See the module.
pub struct Explorer {
    depth: Depth,
    lie: Lie,
    bases: BTreeMap<VolumeKind, Base>,
    verdicts: Verdicts,
    /// States that were looked at, the same ones counted again.
    visited: AtomicU64,
}

/// What went wrong, with what was done before.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The kind of volume.
    pub kind: VolumeKind,
    /// Operations.
    pub sequence: Sequence,
    /// What was found, where, and what was missing.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.kind.name(), self.what)?;
        self.sequence.iter().try_for_each(|op| writeln!(f, "    {op:?}"))
    }
}

/// Where in a run a state was met.
struct Place<'a> {
    recording: &'a Recording,
    /// Which operation was under way, or had just ended.
    operation: usize,
    step: String,
    /// States of the model that may be found.
    allowed: &'a [u64],
}

impl Explorer {
    /// Volumes of all kinds, on devices that lie like this.
    pub fn new(depth: Depth, lie: Lie) -> Self {
        let bases = VolumeKind::ALL.into_iter().map(|kind| (kind, kind.base())).collect();
        Self { depth, lie, bases, verdicts: Verdicts::default(), visited: AtomicU64::new(0) }
    }

    /// Distinct crash states so far.
    pub fn distinct(&self) -> u64 {
        self.verdicts.count()
    }

    /// Explores the sequences on volumes of each of the kinds, on all processors. Stops early when there are `enough` distinct states.
    pub fn explore(&self, kinds: &[VolumeKind], sequences: &[Sequence], enough: u64) -> Report {
        let runs: Vec<(VolumeKind, &Sequence)> = sequences.iter().flat_map(|s| kinds.iter().map(move |kind| (*kind, s))).collect();
        let one = |(kind, sequence): (VolumeKind, &Sequence)| {
            if self.distinct() >= enough {
                return Report::default();
            }
            self.run(kind, sequence).unwrap_or_else(|violation| Report { violations: vec![*violation], ..Report::default() })
        };
        let mut report = runs.into_par_iter().with_max_len(1).map(one).reduce(Report::default, Report::merged);
        report.visited = self.visited.load(Ordering::Relaxed);
        report.distinct = self.distinct();
        report
    }

    /// All crash states of one sequence; the first violation ends it. A panic is one.
    fn run(&self, kind: VolumeKind, sequence: &Sequence) -> Result<Report, Box<Violation>> {
        let violation = |what: String| Box::new(Violation { kind, sequence: sequence.clone(), what });
        let guarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.explore_one(kind, sequence)));
        match guarded {
            Ok(outcome) => outcome.map_err(violation),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                Err(violation(format!("panic: {}", text.unwrap_or_default())))
            }
        }
    }

    fn explore_one(&self, kind: VolumeKind, sequence: &Sequence) -> Result<Report, String> {
        let base = &self.bases[&kind];
        let recording = Recording::of(base, sequence, self.lie)?;
        let mut report = Report { runs: 1, ..Report::default() };
        let mut states = CrashStates::new(base.media.clone());
        let mut rng = ChaCha8Rng::seed_from_u64(recording.steps.len() as u64 ^ (kind as u64) << 32);
        let mut done = 0;
        for operation in 0..recording.marks.len() {
            let mark = &recording.marks[operation];
            for step in &recording.steps[done..mark.end] {
                states.step(step);
                let place = Place { recording: &recording, operation, step: recording.name(step), allowed: &mark.allowed };
                self.visit(&states, false, &place, &mut rng, &mut report)?;
            }
            done = mark.end;
            if mark.is_barrier {
                // What was promised just now holds from here on, although no device has done anything since.
                let step = "acknowledged".to_owned();
                let place = Place { recording: &recording, operation, step, allowed: &mark.allowed_after };
                self.visit(&states, true, &place, &mut rng, &mut report)?;
            }
        }
        Ok(report)
    }

    fn visit(
        &self,
        states: &CrashStates,
        everything: bool,
        place: &Place<'_>,
        rng: &mut ChaCha8Rng,
        report: &mut Report,
    ) -> Result<(), String> {
        let mut outcome = Ok(());
        states.visit(&self.depth.bounds, everything, rng, |state| {
            if outcome.is_ok() {
                outcome = self.look(&state, place, report);
            }
        });
        outcome
    }

    /// One state: what it is, and whether it may be.
    fn look(&self, state: &CrashState, place: &Place<'_>, report: &mut Report) -> Result<(), String> {
        self.visited.fetch_add(1, Ordering::Relaxed);
        let recording = place.recording;
        let mark = &recording.marks[place.operation];
        let at = |what: String| format!("power lost in {}, behind {}, {}: {what}", mark.name, place.step, state.tear.name());
        let key = state.digest ^ (recording.kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let found = match self.verdicts.get(key) {
            Some(found) => found,
            None => {
                let found = verdict::of(&state.media).map_err(at)?;
                if self.verdicts.put(key, found) {
                    report.note(recording.kind, mark.name, &place.step, state.tear);
                    let every = |n: u64| n > 0 && key.is_multiple_of(n);
                    if every(self.depth.uses) {
                        verdict::goes_on(&state.media).map_err(|what| at(format!("and used again: {what}")))?;
                        report.uses += 1;
                    }
                    if every(self.depth.recoveries) {
                        self.recover(state, place, report).map_err(at)?;
                    }
                }
                found
            }
        };
        if place.allowed.contains(&found) {
            return Ok(());
        }
        let differences = verdict::explain(&state.media, recording.model_of(place.allowed));
        let old = recording.is_older(found).map_or(String::new(), |n| format!("it is state {n}, older than what was promised; "));
        Err(at(format!("what is found may not be: {old}against the newest that may be: {differences}")))
    }

    /// Power goes again while the state is recovered, at each step.
    fn recover(&self, state: &CrashState, place: &Place<'_>, report: &mut Report) -> Result<(), String> {
        let steps = verdict::steps_of_recovery(&state.media, self.lie)?;
        let bounds = Bounds { all: 24, drawn: 4, torn: 4 };
        let mut states = CrashStates::new(state.media.clone());
        let mut rng = ChaCha8Rng::seed_from_u64(state.digest);
        let mark = &place.recording.marks[place.operation];
        for step in &steps {
            states.step(step);
            let mut outcome = Ok(());
            states.visit(&bounds, false, &mut rng, |again| {
                if outcome.is_err() {
                    return;
                }
                self.visited.fetch_add(1, Ordering::Relaxed);
                let key = again.digest ^ (place.recording.kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let found = match self.verdicts.get(key) {
                    Some(found) => Ok(found),
                    None => verdict::of(&again.media).inspect(|found| {
                        if self.verdicts.put(key, *found) {
                            let step = place.recording.name(step);
                            report.note(place.recording.kind, "recovery", &step, again.tear);
                        }
                    }),
                };
                outcome = match found {
                    Ok(found) if place.allowed.contains(&found) => Ok(()),
                    Ok(_) => {
                        Err(format!("the recovery was cut off ({}): what is found may not be, after {}", again.tear.name(), mark.name))
                    }
                    Err(what) => Err(format!("the recovery was cut off ({}): {what}", again.tear.name())),
                };
            });
            outcome?;
        }
        report.recoveries += 1;
        Ok(())
    }
}
