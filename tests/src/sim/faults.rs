//! Faults without a power cut: drives that fail reads, writes, flushes, resets and copies, zones that wear out, damage at rest.
//!
//! Whatever happens, a read gives the right bytes or an error, nothing panics, and after the next mount nothing is lost but what the fault
//! itself destroyed. Where a fault destroys nothing (a refused copy, a write that fails), nothing at all is lost, and the volume is in one
//! of the states that may be found after a crash.

use super::coverage::Coverage;
use super::crash::{Log, parts_of_a_copy};
use super::model::{Kind, Model, Node};
use super::operation::{Chooser, Operation};
use super::scenario::Scenario;
use super::subject::{Answer, Lost, Observed, Subject};
use super::world::{World, refusal_of, root_only};
use copy_backend::VerifyMode;
use fs::FsError;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use zns::sim::{Fault, FaultPlan, SimDrive};
use zns::{Lba, ZoneId};

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theme {
    WriteErrors,
    ReadErrors,
    CopiesFail,
    CopiesLie,
    CopiesLieUnverified,
    FlushFails,
    ResetsFail,
    ZoneReadOnly,
    ZoneOffline,
    BadBlocks,
    BitFlips,
    Misdirected,
}

const THEMES: [Theme; 12] = [
    Theme::WriteErrors,
    Theme::ReadErrors,
    Theme::CopiesFail,
    Theme::CopiesLie,
    Theme::CopiesLieUnverified,
    Theme::FlushFails,
    Theme::ResetsFail,
    Theme::ZoneReadOnly,
    Theme::ZoneOffline,
    Theme::BadBlocks,
    Theme::BitFlips,
    Theme::Misdirected,
];

/// The table of faults that really struck, by theme.
pub const STRUCK: &str = "struck";

/// What runs of faults are about, by the names under which they are counted.
pub fn themes() -> impl Iterator<Item = String> {
    THEMES.iter().map(|theme| format!("{theme:?}"))
}

impl Theme {
    /// Something that was stored may be gone.
    fn destroys(self) -> bool {
        matches!(self, Self::CopiesLieUnverified | Self::ZoneOffline | Self::BadBlocks | Self::BitFlips | Self::Misdirected)
    }

    /// Only file data can be hurt: names and attributes stay whole.
    fn spares_metadata(self) -> bool {
        !self.destroys() || self == Self::CopiesLieUnverified
    }
}

/// The fault simulation of a seed.
///
/// # Errors
/// What went wrong.
pub fn fault_run(seed: u64, log: Log) -> Result<Coverage, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xfa17);
    let mut scenario = Scenario::draw(&mut rng, seed);
    let theme = THEMES[rng.random_range(0..THEMES.len())];
    scenario.operations = scenario.operations.min(30);
    match theme {
        Theme::CopiesLie => scenario.verify = VerifyMode::Full,
        Theme::CopiesLieUnverified => scenario.verify = VerifyMode::Off,
        _ => {}
    }
    if matches!(theme, Theme::CopiesFail | Theme::CopiesLie | Theme::CopiesLieUnverified) {
        scenario.habits.copies = true;
    }
    if matches!(theme, Theme::CopiesFail | Theme::CopiesLie | Theme::CopiesLieUnverified | Theme::ResetsFail) {
        scenario.habits.cleaning = 150;
    }
    log.lock().push(format!("{theme:?} on {}: {scenario:?}", scenario.name));
    let chooser = Chooser::new(scenario.habits.clone());
    let mut run = FaultRun {
        world: World::new(scenario, seed),
        rng,
        chooser,
        theme,
        history: Vec::new(),
        floor: 0,
        copies: BTreeMap::new(),
        read_error: 0.0,
        log,
    };
    run.world.coverage.note("faults", format!("{theme:?}"));
    run.run()?;
    run.world.note_drives();
    Ok(run.world.coverage)
}

struct FaultRun {
    world: World,
    rng: ChaCha8Rng,
    chooser: Chooser,
    theme: Theme,
    history: Vec<Model>,
    floor: usize,
    /// Copies that led to a state, and when.
    copies: BTreeMap<usize, (Operation, i64)>,
    /// The chance of a read to fail, in runs about that.
    read_error: f64,
    log: Log,
}

impl FaultRun {
    fn say(&self, line: impl Into<String>) {
        let line = line.into();
        if std::env::var_os("FERRYFS_TELL").is_some() {
            println!("  {line}");
        }
        self.log.lock().push(line);
    }

    fn run(&mut self) -> Result<(), String> {
        self.world.format().map_err(|error| format!("mkfs failed: {error:?}"))?;
        self.history = vec![Model::new(self.world.now())];
        let volume = self.world.open(false).map_err(|error| format!("the mount failed: {error:?}"))?;
        self.world.subject = Some(Subject::new(volume, root_only()));
        self.operate(self.world.scenario.operations / 2)?;
        self.begin_faults();
        self.operate(self.world.scenario.operations * 2)?;
        self.end_faults();
        self.again()?;
        // A volume that can still be written to goes on as if nothing had been.
        let goes_on = self.world.subject.as_ref().is_some_and(|subject| subject.volume().is_writable());
        if goes_on && !self.theme.destroys() {
            self.operate(self.world.scenario.operations / 2)?;
            self.again()?;
        }
        Ok(())
    }

    fn some_drive(&mut self) -> SimDrive {
        let n = self.rng.random_range(0..self.world.drives.len());
        self.world.drives[n].clone()
    }

    fn begin_faults(&mut self) {
        let often = [0.01, 0.05, 0.3][self.rng.random_range(0..3)];
        let mut plan = FaultPlan::default();
        match self.theme {
            Theme::WriteErrors => plan.write_error = often / 3.0,
            Theme::ReadErrors => {
                plan.read_error = often;
                self.read_error = often;
            }
            Theme::CopiesFail if self.rng.random() => plan.copy_refused = often,
            Theme::CopiesFail => plan.copy_partial = often,
            Theme::CopiesLie | Theme::CopiesLieUnverified => plan.copy_wrong = 0.5,
            Theme::FlushFails => plan.flush_failure_lasts = self.rng.random(),
            Theme::ResetsFail => plan.reset_failure = often,
            Theme::Misdirected => plan.misdirected_write = often / 10.0,
            _ => {}
        }
        self.say(format!("faults begin: {plan:?}"));
        self.world.drives.iter().for_each(|drive| drive.set_faults(plan.clone()));
        let drive = self.some_drive();
        let at = drive.ops() + self.rng.random_range(0..60);
        let zone = ZoneId(self.rng.random_range(0..drive.geometry().zones));
        let fault = match self.theme {
            Theme::FlushFails => Fault::FlushFailure,
            Theme::ZoneReadOnly => Fault::ZoneReadOnly(zone),
            Theme::ZoneOffline => Fault::ZoneOffline(zone),
            // The first one of all: there are few of them in a run.
            Theme::ResetsFail => Fault::ResetFailure,
            Theme::CopiesFail => Fault::CopyPartial,
            _ => return,
        };
        self.say(format!("{fault:?} from operation {at} on"));
        drive.fail_at(at, fault);
    }

    fn end_faults(&mut self) {
        self.say("faults end");
        let struck: u64 = self.world.drives.iter().map(|drive| drive.stats().faults).sum();
        self.world.coverage.add(STRUCK, format!("{:?}", self.theme), struck);
        self.read_error = 0.0;
        self.world.drives.iter().for_each(|drive| drive.set_faults(FaultPlan::default()));
    }

    /// Damage at rest: a block that is in use on the drive, anywhere.
    fn damage(&mut self) {
        let drive = self.some_drive();
        let geometry = drive.geometry();
        let zone = drive.zone(ZoneId(self.rng.random_range(0..geometry.zones)));
        if zone.written.0 == 0 {
            return;
        }
        let lba = Lba(zone.start.0 + self.rng.random_range(0..zone.written.0));
        if self.theme == Theme::BadBlocks {
            drive.add_bad_block(lba);
        } else {
            drive.flip_bit(lba, self.rng.random_range(0..geometry.block_size as usize), self.rng.random_range(0..8));
        }
        self.say(format!("block {lba} of zone {} is damaged", zone.id));
        self.world.coverage.note("faults", "blocks damaged");
        self.world.coverage.note(STRUCK, format!("{:?}", self.theme));
    }

    fn operate(&mut self, count: usize) -> Result<(), String> {
        for n in 0..count {
            let damaging = matches!(self.theme, Theme::BadBlocks | Theme::BitFlips) && n > 0 && self.log_has_faults();
            if damaging {
                for _ in 0..self.rng.random_range(0..4) {
                    self.damage();
                }
            }
            let op = self.chooser.draw(self.history.last().expect("there is a state"), &mut self.rng);
            if op == Operation::Remount {
                continue;
            }
            self.step(&op).map_err(|error| format!("operation {n}, {}: {error}", op.name()))?;
        }
        Ok(())
    }

    fn log_has_faults(&self) -> bool {
        self.log.lock().iter().any(|line| line.starts_with("faults begin"))
    }

    fn step(&mut self, op: &Operation) -> Result<(), String> {
        self.say(format!("{}: {op:?}", self.history.len()));
        self.world.coverage.note("operations", op.name());
        let present = self.history.last().expect("there is a state").clone();
        let (after, expected, answer) = self.world.both(op, &present);
        self.world.violations()?;
        match (answer, expected) {
            (Ok(_), Err(refusal)) => return Err(format!("accepted, though it must be refused: {refusal:?}")),
            (Ok(answer), Ok(())) => {
                if let (Operation::Read { id, offset, .. }, Answer::Bytes(bytes)) = (op, &answer)
                    && present.node(*id).is_none_or(|node| node.get(*offset, bytes.len()) != *bytes)
                {
                    return Err("a read gave wrong bytes".into());
                }
                if op.changes() {
                    if let Operation::CopyRange { .. } = op {
                        self.copies.insert(self.history.len(), (op.clone(), self.world.now()));
                    }
                    self.history.push(after);
                }
                if op.is_barrier() {
                    self.floor = self.history.len() - 1;
                }
            }
            (Err(error), Err(refusal)) if refusal_of(&error) == Some(refusal) => {}
            (Err(error), expected) => {
                self.is_excuse(&error)?;
                self.say(format!("failed: {error}"));
                self.world.coverage.note("operations that failed", op.name());
                if expected.is_ok() && op.changes() {
                    self.settle(op, present, after)?;
                }
            }
        }
        Ok(())
    }

    /// May an operation fail like this?
    fn is_excuse(&self, error: &FsError) -> Result<(), String> {
        match error {
            FsError::ReadOnly(_) | FsError::Device(_) | FsError::Copy(_) | FsError::NoSpace => Ok(()),
            FsError::Corrupt { .. } if !self.theme.spares_metadata() => Ok(()),
            FsError::DataChecksum { .. } if self.theme.destroys() => Ok(()),
            error => Err(format!("failed with {error:?}")),
        }
    }

    /// An operation failed: it has happened or it has not, and a copy has happened in part.
    fn settle(&mut self, op: &Operation, before: Model, after: Model) -> Result<(), String> {
        let volume = self.world.volume().clone();
        // A block that fails now and then is looked at while it does not.
        let transient = FaultPlan { read_error: self.read_error, ..FaultPlan::default() };
        if self.theme == Theme::ReadErrors {
            self.world.drives.iter().for_each(|drive| drive.set_faults(FaultPlan::default()));
        }
        let found = self.world.observe(&volume)?;
        if self.theme == Theme::ReadErrors {
            self.world.drives.iter().for_each(|drive| drive.set_faults(transient.clone()));
        }
        let now = self.world.now();
        let mut candidates = vec![before.clone(), after];
        candidates.extend(parts_of_a_copy(&before, op, now));
        if let Some(mixed) = mixture(op, &found, &before, &candidates[1]) {
            candidates.push(mixed);
        }
        let agrees = |state: &Model| inconsistency(&found, state).is_none();
        let Some(state) = candidates.iter().find(|state| agrees(state)) else {
            let why: Vec<_> = candidates.iter().take(2).filter_map(|state| inconsistency(&found, state)).collect();
            return Err(format!("after its failure the volume is neither as before nor as after it: {why:?}"));
        };
        if state.digest() != before.digest() {
            self.history.push(state.clone());
        }
        Ok(())
    }

    /// Mounts again, after an unmount or a power cut, and compares.
    fn again(&mut self) -> Result<(), String> {
        let volume = self.world.volume().clone();
        let present = self.history.len() - 1;
        let found = self.world.observe(&volume)?;
        self.agree(&found, present..present + 1).map_err(|why| format!("before the unmount: {why}"))?;
        self.world.subject = None;
        if self.rng.random() {
            self.say("unmount");
            let writable = volume.is_writable();
            match volume.shutdown() {
                Ok(()) if writable => self.floor = present,
                Ok(()) => {}
                Err(error) => self.is_excuse(&error)?,
            }
        }
        drop(volume);
        self.say("power goes and comes back");
        self.world.drives.iter().for_each(|drive| {
            drive.cut_power();
            drive.power_cycle();
        });
        if !self.theme.destroys() {
            self.world.check().map_err(|why| format!("before the mount: {why}"))?;
        }
        let volume = match self.world.open(false) {
            Ok(volume) => volume,
            Err(error) if !self.theme.spares_metadata() => {
                self.say(format!("the mount fails: {error}"));
                self.world.coverage.note("faults", "mounts that failed");
                return match error {
                    FsError::Volume(_) | FsError::Device(_) | FsError::Corrupt { .. } => Ok(()),
                    error => Err(format!("the mount failed: {error:?}")),
                };
            }
            Err(error) => return Err(format!("the mount failed: {error:?}")),
        };
        self.world.violations()?;
        let found = self.world.observe(&volume)?;
        // The payload of the last batch of the log is all that tells whether it was acknowledged: with it, the batch may be gone.
        let floor = if self.theme.destroys() { 0 } else { self.floor };
        let state = self.agree(&found, floor..self.history.len())?;
        self.history = vec![self.history[state].clone()];
        self.copies.clear();
        self.floor = 0;
        self.world.subject = Some(Subject::new(volume, found.inos));
        Ok(())
    }

    fn agree(&mut self, found: &Observed, states: std::ops::Range<usize>) -> Result<usize, String> {
        for (_, error) in &found.errors {
            self.is_excuse(error)?;
            if !self.theme.destroys() {
                return Err(format!("something cannot be read: {error:?}"));
            }
        }
        if !found.errors.is_empty() {
            self.world.coverage.add("faults", "parts that could not be read", found.errors.len() as u64);
        }
        if let Some(state) = states.clone().rev().find(|n| inconsistency(found, &self.history[*n]).is_none()) {
            return Ok(state);
        }
        for (at, (op, now)) in self.copies.range(states.start + 1..) {
            let partly = parts_of_a_copy(&self.history[at - 1], op, *now).find(|state| inconsistency(found, state).is_none());
            if let Some(partly) = partly {
                let at = *at;
                self.history[at] = partly;
                return Ok(at);
            }
        }
        let newest = inconsistency(found, &self.history[states.end - 1]);
        Err(format!("none of the states {states:?} is found; against the newest: {}", newest.unwrap_or_default()))
    }
}

/// The state before a failed operation on the content of a file, with the blocks that it has changed already.
pub fn mixture(op: &Operation, found: &Observed, before: &Model, after: &Model) -> Option<Model> {
    let (Operation::Fallocate { id, .. } | Operation::Truncate { id, .. } | Operation::Write { id, .. }) = op else { return None };
    let (old, new, here) = (before.node(*id)?, after.node(*id)?, found.model.node(*id)?);
    let mut mixed = here.clone();
    let (Kind::File { blocks, .. }, Kind::File { blocks: old, .. }, Kind::File { blocks: new, .. }) =
        (&mut mixed.kind, &old.kind, &new.kind)
    else {
        return None;
    };
    for block in old.keys().chain(new.keys()) {
        let is = blocks.get(block);
        let lost = found.errors.iter().any(|(lost, _)| *lost == Lost::Block(*id, *block));
        if lost {
            // What cannot be read now is taken for what it was.
            match old.get(block) {
                Some(content) => drop(blocks.insert(*block, content.clone())),
                None => drop(blocks.remove(block)),
            }
        } else if is != old.get(block) && is != new.get(block) {
            return None;
        }
    }
    let mut state = before.clone();
    state.insert(*id, mixed);
    Some(state)
}

/// What of a volume, as far as it could be read, contradicts a state.
pub fn inconsistency(found: &Observed, state: &Model) -> Option<String> {
    let lost: BTreeSet<Lost> = found.errors.iter().map(|(lost, _)| *lost).collect();
    if lost.is_empty() {
        return (found.model.digest() != state.digest())
            .then(|| state.differences(&found.model).into_iter().take(4).collect::<Vec<_>>().join("; "));
    }
    for (id, node) in found.model.nodes() {
        let Some(expected) = state.node(id) else { return Some(format!("node {id} is only found")) };
        let mask = |node: &Node| {
            let mut node = node.clone();
            if lost.contains(&Lost::Attributes(id)) {
                node.xattrs.clear();
            }
            if let Kind::File { blocks, .. } = &mut node.kind {
                blocks.retain(|block, _| !lost.contains(&Lost::Block(id, *block)));
            }
            node.digest(id)
        };
        if mask(node) != mask(expected) {
            return Some(format!(
                "node {id} differs: {:?}",
                state.differences(&found.model).iter().find(|text| text.starts_with(&format!("node {id}:")))
            ));
        }
    }
    let hidden = lost.iter().any(|lost| matches!(lost, Lost::Directory(_) | Lost::Child(_)));
    let missing = state.nodes().map(|(id, _)| id).find(|id| found.model.node(*id).is_none() && !lost.contains(&Lost::Attributes(*id)));
    missing.filter(|_| !hidden).map(|id| format!("node {id} is missing, and nothing says why"))
}
