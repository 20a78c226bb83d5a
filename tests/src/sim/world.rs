//! Drives, a clock and a volume on them: what all simulations share.

use super::coverage::Coverage;
use super::model::{Id, Model, ROOT, Refusal};
use super::operation::Operation;
use super::scenario::Scenario;
use super::subject::{Answer, Observed, Subject, observe};
use fs::check::{CheckOptions, Finding, Found, Severity};
use fs::format::item::Timestamp;
use fs::volume::{AtimeMode, Clock, FormatOptions, GcMode, MountOptions, Volume};
use fs::{FsError, Ino};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use zns::sim::{SimDrive, SimOp};
use zns::{ZoneId, ZonedDevice};

/// The time at which everything begins.
const EPOCH: i64 = 1_700_000_000;

/// See the module.
pub struct World {
    /// What was drawn.
    pub scenario: Scenario,
    /// The hardware.
    pub drives: Vec<SimDrive>,
    /// The mounted volume.
    pub subject: Option<Subject>,
    /// What was met.
    pub coverage: Coverage,
    clock: Arc<AtomicI64>,
    mounts: u8,
    seed: u64,
}

impl World {
    /// Drives without a volume.
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let drives = scenario.drives.iter().map(|config| SimDrive::new(config.clone())).collect();
        let mut coverage = Coverage::default();
        coverage.runs = 1;
        coverage.note("drives", scenario.name);
        Self { scenario, drives, subject: None, coverage, clock: Arc::new(AtomicI64::new(EPOCH)), mounts: 0, seed }
    }

    /// Now, in seconds.
    pub fn now(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// A second passes.
    pub fn tick(&self) -> i64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn secret(&self, of: u8) -> [u8; 32] {
        let mut secret = [of; 32];
        secret[..8].copy_from_slice(&self.seed.to_le_bytes());
        secret
    }

    fn devices(&self) -> Vec<Arc<dyn ZonedDevice>> {
        self.drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
    }

    /// Lays out a volume.
    pub fn format(&self) -> Result<(), FsError> {
        let created = Timestamp { sec: self.now(), nsec: 0 };
        let options = FormatOptions { label: "sim".into(), uuid: [7; 16], created, secret: self.secret(255), uid: ROOT, gid: 0 };
        Volume::format(self.devices(), &options)
    }

    /// Opens the volume.
    pub fn open(&mut self, read_only: bool) -> Result<Arc<Volume>, FsError> {
        self.mounts = self.mounts.wrapping_add(1);
        let clock = self.clock.clone();
        // Each mount places and chooses otherwise than the one before, so that what one leaves is met by the other.
        let turn = self.seed + u64::from(self.mounts);
        let (placement, policy) = match (turn % 3, turn / 3 % 4) {
            (0, _) => ("default", gc::Policy::default()),
            (1, _) => ("separate", gc::Policy::Greedy),
            (_, 0) => ("hot-warm-cold", gc::Policy::CostBenefit),
            (_, 1) => ("dac", gc::Policy::DecliningCost),
            (_, 2) => ("midas", gc::Policy::Greedy),
            _ => ("sepbit", gc::Policy::Fifo),
        };
        let options = MountOptions {
            read_only,
            placement: placement.into(),
            policy,
            verify: self.scenario.verify,
            gc: GcMode::Manual,
            cache_size: self.scenario.cache_size,
            atime: AtimeMode::None.into(),
            clock: Clock(Arc::new(move || Timestamp { sec: clock.load(Ordering::Relaxed), nsec: 0 })),
            secret: Some(self.secret(self.mounts)),
            ..MountOptions::default()
        };
        Volume::open(self.devices(), options)
    }

    /// Is there power everywhere?
    pub fn powered(&self) -> bool {
        self.drives.iter().all(SimDrive::powered)
    }

    /// The volume, which is mounted.
    pub fn volume(&self) -> &Arc<Volume> {
        self.subject.as_ref().expect("a volume is mounted").volume()
    }

    /// Checks the volume, which is not mounted.
    ///
    /// # Errors
    /// What the check has found.
    pub fn check(&mut self) -> Result<(), String> {
        let options = CheckOptions { cache_size: 8 << 20, ..CheckOptions::default() };
        let report = fs::check::check(self.devices(), options).map_err(|error| format!("there is nothing to check: {error:?}"))?;
        self.coverage.note("checks", if report.replayed > 0 { "with a log to replay" } else { "without" });
        self.coverage.add("checks", "with zones that the log gave back", u64::from(report.released > 0));
        // Garbage that a power cut left in the ring cannot be told from a damaged record.
        let surprises = self.scenario.drives.iter().any(|drive| drive.faults.write_pointer_surprise > 0.0);
        let excused = |found: &Found| match found.finding {
            Finding::NewestSuperblock { .. } => surprises,
            _ => found.severity == Severity::Info,
        };
        match report.findings.iter().find(|found| !excused(found)) {
            Some(first) => Err(format!("fsck finds {} things, first: {first:?}", report.findings.len())),
            None => Ok(()),
        }
    }

    /// The volume as it is found, which must be a filesystem.
    ///
    /// # Errors
    /// What it has that no filesystem has.
    pub fn observe(&mut self, volume: &Arc<Volume>) -> Result<Observed, String> {
        observe(volume)
    }

    /// Counts where a power cut struck; `during` names what was going on.
    pub fn note_cut(&mut self, during: &str) {
        let Some((device, point)) = self.drives.iter().enumerate().find_map(|(n, d)| Some((n, d.cut_point().filter(|_| !d.powered())?)))
        else {
            self.coverage.note("cuts at", "rest");
            return;
        };
        let role = point.zone.and_then(|zone| {
            let subject = self.subject.as_ref()?;
            let zones = subject.volume().zones();
            zones.into_iter().find(|view| usize::from(view.device) == device && view.zone == zone.0).map(|view| view.role)
        });
        let role = role.unwrap_or_default();
        let what = match point.what {
            SimOp::Read => "read".to_owned(),
            SimOp::Copy => format!("copy({role})"),
            SimOp::Flush => "flush".into(),
            SimOp::Reset => "reset".into(),
            SimOp::Finish => "finish".into(),
            SimOp::Other => "zone command".into(),
            SimOp::Write if role.is_empty() => "write".into(),
            SimOp::Write => format!("write({role})"),
        };
        self.coverage.note("cuts at", what);
        self.coverage.note("cuts during", during);
    }

    /// Counts what the drives did.
    pub fn note_drives(&mut self) {
        for drive in &self.drives {
            let stats = drive.stats();
            self.coverage.add("drives did", "writes", stats.writes);
            self.coverage.add("drives did", "copies", stats.copies);
            self.coverage.add("drives did", "resets", stats.resets);
            self.coverage.add("drives did", "flushes", stats.flushes);
            self.coverage.add("drives did", "faults", stats.faults);
            self.coverage.add("drives did", "power cycles", stats.power_cycles);
        }
    }

    /// The rules that were broken.
    pub fn violations(&self) -> Result<(), String> {
        for drive in &self.drives {
            if let Some(violation) = drive.violations().first() {
                let count = drive.geometry().zones;
                let active = (0..count).map(|zone| drive.zone(ZoneId(zone))).filter(|zone| zone.state.is_active());
                let active: Vec<_> = active.map(|zone| (zone.id.0, zone.written.0)).collect();
                let zones = self.subject.as_ref().map(|_| self.zones());
                return Err(format!("a rule of the drive was broken: {violation:?}; active: {active:?}, zones: {zones:?}"));
            }
        }
        Ok(())
    }

    /// The zones in one line, for people: role, state, live and written blocks.
    pub fn zones(&self) -> String {
        let one = |z: fs::volume::ZoneView| format!("{}:{}:{} {}/{}", z.zone, z.role, z.state, z.live / 4096, z.write_pointer / 4096);
        self.volume().zones().into_iter().filter(|z| z.state != "empty").map(one).collect::<Vec<_>>().join(", ")
    }

    /// Carries out an operation on the volume and on a copy of the model: what the model comes to, and what the volume said.
    pub fn both(&mut self, op: &Operation, model: &Model) -> (Model, Result<(), Refusal>, Result<Answer, FsError>) {
        let now = self.tick();
        let mut after = model.clone();
        let expected = op.apply(&mut after, now);
        let answer = self.subject.as_mut().expect("a volume is mounted").apply(op);
        if let (Operation::CopyRange { from, to, .. }, Ok(Answer::Copied(done))) = (op, &answer) {
            // A call may do less than asked for, when space runs out; what it did must be right.
            let mut partly = model.clone();
            if partly.copy_range(*from, *to, *done, now) == Ok(*done) {
                after = partly;
            }
        }
        (after, expected, answer)
    }
}

/// The refusal that an error means.
pub fn refusal_of(error: &FsError) -> Option<Refusal> {
    Some(match error {
        FsError::NotFound => Refusal::NotFound,
        FsError::Exists => Refusal::Exists,
        FsError::NotEmpty => Refusal::NotEmpty,
        FsError::IsADirectory => Refusal::IsADirectory,
        FsError::NotADirectory => Refusal::NotADirectory,
        FsError::Invalid(_) => Refusal::Invalid,
        FsError::NotPermitted => Refusal::NotPermitted,
        FsError::NoAttribute => Refusal::NoAttribute,
        _ => return None,
    })
}

/// Blocks that an operation may need at worst, for judging a refusal for want of space.
pub fn blocks_of(op: &Operation) -> u64 {
    let span = |offset: u64, len: u64| (offset + len).div_ceil(4096) - offset / 4096;
    match op {
        Operation::Write { offset, len, .. } => span(*offset, *len as u64),
        Operation::Fallocate { mode, offset, len, .. } if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 => span(*offset, *len),
        Operation::CopyRange { to, len, .. } => span(to.1, *len),
        Operation::SetXattr { len, .. } => 4 + *len as u64 / 2048,
        _ => 4,
    }
}

/// Where the nodes of a new volume are.
pub fn root_only() -> std::collections::BTreeMap<Id, Ino> {
    [(ROOT, Ino::ROOT)].into()
}
