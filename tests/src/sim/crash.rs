//! Power cuts: operations on a volume and on the model side by side, the power goes at some operation of a drive, and what is found after
//! the next mount must be a state of the model no older than the last success of fsync, sync or a checkpoint (invariant I7).

use super::coverage::Coverage;
use super::model::Model;
use super::operation::{Chooser, Operation};
use super::scenario::Scenario;
use super::subject::{Answer, Subject};
use super::world::{World, blocks_of, refusal_of, root_only};
use fs::FsError;
use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zns::sim::{SimDrive, Survival};

/// A run that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub seed: u64,
    /// What went wrong.
    pub what: String,
    /// What had been done until then.
    pub log: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        self.log.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "again: FERRYFS_SEED={} cargo test -p tests --test crash_sim replay -- --nocapture", self.seed)
    }
}

/// What was done so far; it outlives a panic.
pub type Log = Arc<Mutex<Vec<String>>>;

/// Runs a simulation of a seed; a panic is a failure like any other.
///
/// # Errors
/// What went wrong.
pub fn guarded(seed: u64, run: impl FnOnce(u64, Log) -> Result<Coverage, String>) -> Result<Coverage, Failure> {
    let log = Log::default();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, log.clone())));
    let what = match outcome {
        Ok(Ok(coverage)) => return Ok(coverage),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    let log = log.lock().clone();
    Err(Failure { seed, what, log })
}

/// The crash simulation of a seed.
///
/// # Errors
/// What went wrong.
pub fn crash_run(seed: u64, log: Log) -> Result<Coverage, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scenario = Scenario::draw(&mut rng, seed);
    run_with(scenario, rng, seed, log)
}

/// The same without power cuts, and long: clean unmounts only.
///
/// # Errors
/// What went wrong.
pub fn long_run(seed: u64, log: Log) -> Result<Coverage, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x10c6);
    let mut scenario = Scenario::draw(&mut rng, seed);
    scenario.operations = 400;
    scenario.cuts = 0;
    run_with(scenario, rng, seed, log)
}

/// A crash simulation on the drives of `seed` in which `rng` decides what happens, until `over` is set.
///
/// # Errors
/// What went wrong.
pub fn scripted_run(seed: u64, rng: Box<dyn RngCore>, over: Arc<AtomicBool>, log: Log) -> Result<Coverage, String> {
    let scenario = Scenario::draw(&mut ChaCha8Rng::seed_from_u64(seed), seed);
    run_until(scenario, rng, over, seed, log)
}

fn run_with(scenario: Scenario, rng: ChaCha8Rng, seed: u64, log: Log) -> Result<Coverage, String> {
    run_until(scenario, Box::new(rng), Arc::default(), seed, log)
}

fn run_until(scenario: Scenario, rng: Box<dyn RngCore>, over: Arc<AtomicBool>, seed: u64, log: Log) -> Result<Coverage, String> {
    log.lock().push(format!("{}: {scenario:?}", scenario.name));
    let mut run = CrashRun {
        chooser: Chooser::new(scenario.habits.clone()),
        world: World::new(scenario, seed),
        rng,
        over,
        history: Vec::new(),
        copies: BTreeMap::new(),
        floor: 0,
        log,
    };
    run.run()?;
    run.world.note_drives();
    Ok(run.world.coverage)
}

/// The states within a copy, which is carried out piece by piece: pieces end with a block of the target, and after a read error with one of
/// the source.
pub fn parts_of_a_copy<'a>(before: &'a Model, op: &'a Operation, now: i64) -> impl Iterator<Item = Model> + 'a {
    let copy = match op {
        Operation::CopyRange { from, to, len } => Some((*from, *to, *len)),
        _ => None,
    };
    copy.into_iter().flat_map(move |(from, to, len)| {
        let ends = [4096 - to.1 % 4096, 4096 - from.1 % 4096];
        ends.into_iter().flat_map(move |first| {
            (0..=len / 4096).filter_map(move |blocks| {
                let mut partly = before.clone();
                partly.copy_range(from, to, (first + blocks * 4096).min(len), now).ok().map(|_| partly)
            })
        })
    })
}

struct CrashRun {
    world: World,
    rng: Box<dyn RngCore>,
    /// Nothing more is to be done.
    over: Arc<AtomicBool>,
    chooser: Chooser,
    /// States of the model, the last one the present.
    history: Vec<Model>,
    /// Copies of ranges that led to a state, and when: they are carried out piece by piece, so that a part may be found.
    copies: BTreeMap<usize, (Operation, i64)>,
    /// The oldest state that may be found after a crash.
    floor: usize,
    log: Log,
}

impl CrashRun {
    fn say(&self, line: impl Into<String>) {
        let line = line.into();
        // A run that does not end never prints its log.
        if std::env::var_os("FERRYFS_TELL").is_some() {
            println!("  {line}");
        }
        self.log.lock().push(line);
    }

    fn present(&self) -> &Model {
        self.history.last().expect("there is a state")
    }

    fn run(&mut self) -> Result<(), String> {
        self.format()?;
        self.mount()?;
        if self.world.scenario.nearly_full {
            self.fill()?;
        }
        for _ in 0..self.world.scenario.cuts {
            self.operate(true)?;
            self.mount()?;
        }
        self.operate(false)?;
        if self.world.powered() {
            self.step(&Operation::Remount)?;
        }
        Ok(())
    }

    /// Lays the volume out, now and then with a power cut in between: then there is either no volume or an empty one.
    fn format(&mut self) -> Result<(), String> {
        if self.rng.random_range(0..8) == 0 {
            let at = self.rng.random_range(0..120);
            self.say(format!("power goes at operation {at} of mkfs"));
            self.world.drives[0].cut_power_at(at);
            let made = self.world.format();
            if self.world.powered() && made.is_err() {
                return Err(format!("mkfs failed: {:?}", made.err()));
            }
            self.world.note_cut("mkfs");
            self.world.drives.iter().for_each(SimDrive::cut_power);
            self.world.drives.iter().for_each(SimDrive::power_cycle);
            match self.world.open(false) {
                Ok(volume) => {
                    let found = self.world.observe(&volume)?;
                    if found.model.digest() != Model::new(self.world.now()).digest() || !found.errors.is_empty() {
                        return Err("a volume whose making was interrupted opens, but is not empty".into());
                    }
                }
                Err(FsError::Volume(_)) => {}
                Err(error) => return Err(format!("a volume whose making was interrupted: {error:?}")),
            }
        }
        self.world.format().map_err(|error| format!("mkfs failed: {error:?}"))?;
        self.history = vec![Model::new(self.world.now())];
        self.floor = 0;
        Ok(())
    }

    /// Power comes back, perhaps goes again during the mount; what is found must be one of the states that may be found.
    fn mount(&mut self) -> Result<(), String> {
        let mut cuts_left = if self.rng.random_range(0..3) == 0 { self.rng.random_range(1..=2) } else { 0 };
        let volume = loop {
            if !self.world.powered() {
                let survival = [Survival::Random, Survival::Random, Survival::Random, Survival::KeepAll, Survival::LoseAll]
                    [self.rng.random_range(0..5)];
                self.say(format!("power comes back: {survival:?}"));
                self.world.drives.iter().for_each(|drive| {
                    drive.cut_power();
                    drive.power_cycle_with(survival);
                });
            }
            if self.rng.random_range(0..3) == 0 {
                self.world.check()?;
            }
            if cuts_left > 0 {
                cuts_left -= 1;
                let drive = self.rng.random_range(0..self.world.drives.len());
                let ahead = self.rng.random_range(0..90);
                self.say(format!("power of drive {drive} goes {ahead} operations into the mount"));
                let drive = &self.world.drives[drive];
                drive.cut_power_at(drive.ops() + ahead);
            }
            let opened = self.world.open(false);
            self.world.violations()?;
            match opened {
                _ if !self.world.powered() => self.world.note_cut("mount"),
                Ok(volume) => break volume,
                Err(error) => return Err(format!("the mount failed: {error:?}")),
            }
        };
        self.world.drives.iter().for_each(|drive| drive.cut_power_at(u64::MAX));
        self.compare(volume)
    }

    fn compare(&mut self, volume: Arc<fs::volume::Volume>) -> Result<(), String> {
        if let Some(reason) = volume.read_only_reason() {
            return Err(format!("the volume is read-only after the mount: {reason}"));
        }
        let found = self.world.observe(&volume)?;
        if let Some((lost, error)) = found.errors.first() {
            return Err(format!("{lost:?} cannot be read: {error:?}"));
        }
        match (self.floor..self.history.len()).rev().find(|n| self.history[*n].digest() == found.model.digest()) {
            Some(at) => self.say(format!("found state {at} of {}..={}", self.floor, self.history.len() - 1)),
            None if self.is_part_of_a_copy(&found.model) => self.say("found a part of a copy"),
            None => return Err(self.explain(&found.model)),
        }
        let inodes = volume.statfs().map(|stat| stat.files - stat.files_free).unwrap_or_default();
        if inodes != found.model.nodes().count() as u64 {
            return Err(format!("{inodes} inodes are counted, {} are there", found.model.nodes().count()));
        }
        self.world.subject = Some(Subject::new(volume, found.inos));
        self.history = vec![found.model];
        self.copies.clear();
        self.floor = 0;
        Ok(())
    }

    /// Is this the state within a copy?
    fn is_part_of_a_copy(&self, found: &Model) -> bool {
        let copies = self.copies.iter().filter(|(at, _)| **at > self.floor && **at < self.history.len());
        copies
            .into_iter()
            .any(|(at, (op, now))| parts_of_a_copy(&self.history[at - 1], op, *now).any(|partly| partly.digest() == found.digest()))
    }

    /// What is found is none of the states: how it differs from the nearest.
    fn explain(&self, found: &Model) -> String {
        if let Some(old) = (0..self.floor).rev().find(|n| self.history[*n].digest() == found.digest()) {
            return format!("state {old} is found, but state {} was durable: acknowledged changes are lost", self.floor);
        }
        let states = self.floor..self.history.len();
        let nearest = states.min_by_key(|n| self.history[*n].differences(found).len()).expect("there is a state");
        let differences = self.history[nearest].differences(found);
        format!(
            "no state of {}..={} is found; against state {nearest}: {}",
            self.floor,
            self.history.len() - 1,
            differences[..differences.len().min(6)].join("; ")
        )
    }

    /// Operations until the power goes, if it does.
    fn operate(&mut self, cut: bool) -> Result<(), String> {
        let mut armed = !cut;
        for n in 0..self.world.scenario.operations {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let op = self.chooser.draw(self.history.last().expect("there is a state"), &mut *self.rng);
            if !armed {
                armed = self.arm(&op);
            }
            self.step(&op).map_err(|error| format!("operation {n}, {}: {error}", op.name()))?;
            if !self.world.powered() {
                self.power_is_gone(op.name());
                return Ok(());
            }
        }
        if cut {
            self.world.drives.iter().for_each(SimDrive::cut_power);
            self.power_is_gone("rest");
        }
        Ok(())
    }

    /// Sets the power cut, more likely where much goes on.
    fn arm(&mut self, op: &Operation) -> bool {
        let (chance, span) = match op {
            Operation::Gc { .. } => (40, 80),
            Operation::Checkpoint => (40, 30),
            Operation::Remount => (30, 80),
            Operation::Fsync { .. } | Operation::Sync => (15, 8),
            Operation::CopyRange { .. } => (15, 6),
            _ => (4, 3),
        };
        if self.rng.random_range(0..100) >= chance {
            return false;
        }
        let drive = self.rng.random_range(0..self.world.drives.len());
        let ahead = self.rng.random_range(0..span);
        self.say(format!("power of drive {drive} will go in {ahead} operations"));
        let drive = &self.world.drives[drive];
        drive.cut_power_at(drive.ops() + ahead);
        true
    }

    fn power_is_gone(&mut self, during: &str) {
        self.say(format!("power is gone during {during}: {:?}", self.world.drives.iter().map(SimDrive::cut_point).collect::<Vec<_>>()));
        self.world.note_cut(during);
        self.world.subject = None;
        self.world.drives.iter().for_each(SimDrive::cut_power);
    }

    /// One operation on both.
    fn step(&mut self, op: &Operation) -> Result<(), String> {
        self.say(format!("{}: {op:?}", self.history.len()));
        self.world.coverage.note("operations", op.name());
        if *op == Operation::Remount {
            return self.remount();
        }
        let available = self.world.volume().statfs().map_or(0, |stat| stat.available);
        let present = self.present().clone();
        let (after, expected, answer) = self.world.both(op, &present);
        self.world.violations()?;
        match (answer, expected) {
            (Ok(_), Err(refusal)) => return Err(format!("accepted, though it must be refused: {refusal:?}")),
            (Ok(answer), Ok(())) => {
                self.check_answer(op, &answer, &present)?;
                if op.changes() {
                    self.push(op, after);
                }
                if op.is_barrier() {
                    self.floor = self.history.len() - 1;
                }
            }
            (Err(_), expected) if !self.world.powered() => {
                if expected.is_ok() && op.changes() {
                    self.push(op, after);
                }
            }
            (Err(FsError::NoSpace), Ok(())) if op.changes() && available < blocks_of(op) + 4 => {
                self.world.coverage.note("refused", "for want of space");
            }
            (Err(error), Ok(())) => {
                return Err(format!("failed with {available} blocks available: {error:?}; {}", self.world.zones()));
            }
            (Err(error), Err(refusal)) if refusal_of(&error) == Some(refusal) => self.world.coverage.note("refused", "rightly"),
            (Err(FsError::NoSpace), Err(_)) => {}
            (Err(error), Err(refusal)) => return Err(format!("refused with {error:?}, expected {refusal:?}")),
        }
        Ok(())
    }

    fn push(&mut self, op: &Operation, after: Model) {
        if let Operation::CopyRange { .. } = op {
            self.copies.insert(self.history.len(), (op.clone(), self.world.now()));
        }
        self.history.push(after);
    }

    fn check_answer(&self, op: &Operation, answer: &Answer, before: &Model) -> Result<(), String> {
        match (op, answer) {
            (Operation::Read { id, offset, len }, Answer::Bytes(bytes)) => {
                let node = before.node(*id).ok_or("there is no such node")?;
                let super::model::Kind::File { size, .. } = &node.kind else { return Err("not a file was read".into()) };
                let len = size.saturating_sub(*offset).min(u64::from(*len)) as usize;
                if node.get(*offset, len) == *bytes { Ok(()) } else { Err("a read gave wrong bytes".into()) }
            }
            _ => Ok(()),
        }
    }

    fn remount(&mut self) -> Result<(), String> {
        let volume = self.world.volume().clone();
        self.world.subject = None;
        let ended = volume.shutdown();
        drop(volume);
        if !self.world.powered() {
            return Ok(());
        }
        ended.map_err(|error| format!("unmounting failed: {error:?}"))?;
        self.floor = self.history.len() - 1;
        if self.rng.random_range(0..3) == 0 {
            let checked = self.world.check();
            if !self.world.powered() {
                return Ok(());
            }
            checked?;
        }
        let opened = self.world.open(false);
        self.world.violations()?;
        match opened {
            _ if !self.world.powered() => Ok(()),
            Ok(volume) => {
                // What is found must be the present state; a cut that is still to come waits for that.
                let found = self.world.observe(&volume)?;
                if !self.world.powered() {
                    return Ok(());
                }
                if found.model.digest() != self.present().digest() || !found.errors.is_empty() {
                    let (errors, text) = (found.errors, self.explain(&found.model));
                    return Err(format!("after a clean unmount: {text}; {errors:?}"));
                }
                self.world.subject = Some(Subject::new(volume, found.inos));
                Ok(())
            }
            Err(error) => Err(format!("mounting after a clean unmount failed: {error:?}")),
        }
    }

    /// Takes most of the space.
    fn fill(&mut self) -> Result<(), String> {
        let parent = super::model::ROOT;
        let (one, two) = (
            Operation::Create { parent, name: b"filling".to_vec(), id: 900_000 },
            Operation::Create { parent, name: b"more".to_vec(), id: 900_001 },
        );
        self.step(&one)?;
        self.step(&two)?;
        let mut at = 0;
        loop {
            let available = self.world.volume().statfs().map_or(0, |stat| stat.available);
            if available < 100 {
                break;
            }
            let left = (available - self.rng.random_range(20..90)).max(8);
            if at < 6 << 20 {
                let len = (left * 4096).min(200 << 10) as usize;
                let id = 900_000 + u32::from(self.rng.random_range(0..3) == 0);
                self.step(&Operation::Write { id, offset: at, len, stamp: at + 7, append: false, sync: false })?;
                at += len as u64;
            } else {
                self.step(&Operation::Fallocate { id: 900_001, mode: 1, offset: 64 << 20, len: left * 4096 })?;
                break;
            }
        }
        Ok(())
    }
}

/// Where the nodes of a new volume are, for runs that make their own.
pub fn fresh_nodes() -> std::collections::BTreeMap<super::model::Id, fs::Ino> {
    root_only()
}
