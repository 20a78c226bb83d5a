//! What is in a crash state: checked, mounted, read whole.

use super::kind::{Hands, mount_options, open};
use crate::sim::model::{Model, ROOT};
use crate::sim::operation::Operation;
use crate::sim::subject::{Observed, Subject, observe};
use fs::check::{CheckOptions, Severity, check};
use fs::volume::Volume;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zns::sim::{Lie, SimMedium, Step, Still, Tape};

const SHARDS: usize = 64;

/// What was found in each distinct state: the digest of the model by that of the media.
pub struct Verdicts {
    shards: Vec<Mutex<HashMap<u64, u64>>>,
    count: AtomicU64,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), count: AtomicU64::new(0) }
    }
}

impl Verdicts {
    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, u64>> {
        &self.shards[(key >> 58) as usize % SHARDS]
    }

    /// What was found there, if anybody was there.
    pub fn get(&self, key: u64) -> Option<u64> {
        self.shard(key).lock().get(&key).copied()
    }

    /// Was nobody there before?
    pub fn put(&self, key: u64, found: u64) -> bool {
        let fresh = self.shard(key).lock().insert(key, found).is_none();
        self.count.fetch_add(u64::from(fresh), Ordering::Relaxed);
        fresh
    }

    /// States that somebody was at.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// When crash states are looked at; nothing of what is there changes with it.
const LATER: i64 = 1_800_000_000;

fn powered(media: &[Still]) -> Vec<SimMedium> {
    media.iter().map(Still::medium).collect()
}

fn mounted(media: &[SimMedium], number: u8) -> Result<Arc<Volume>, String> {
    let devices = open(media, false).map_err(|error| format!("a device cannot be opened: {error}"))?;
    let volume = Volume::open(devices, mount_options(&Hands::at(LATER), number)).map_err(|error| format!("the mount failed: {error:?}"))?;
    match volume.read_only_reason() {
        Some(reason) => Err(format!("the volume is read-only after the mount: {reason}")),
        None => Ok(volume),
    }
}

fn read_whole(volume: &Volume) -> Result<Observed, String> {
    let found = observe(volume)?;
    if let Some((lost, error)) = found.errors.first() {
        return Err(format!("{lost:?} cannot be read: {error:?}"));
    }
    Ok(found)
}

/// Checks, mounts and reads a state: the digest of what it holds.
///
/// # Errors
/// A check that finds anything, a mount that fails or is read-only, anything that cannot be read or counted.
pub fn of(media: &[Still]) -> Result<u64, String> {
    checked(&powered(media))?;
    let volume = mounted(&powered(media), 200)?;
    let found = read_whole(&volume)?;
    let inodes = volume.statfs().map(|stat| stat.files - stat.files_free).unwrap_or_default();
    if inodes != found.model.nodes().count() as u64 {
        return Err(format!("{inodes} inodes are counted, {} are there", found.model.nodes().count()));
    }
    Ok(found.model.digest())
}

/// `fsck -n` finds nothing.
fn checked(media: &[SimMedium]) -> Result<(), String> {
    let devices = open(media, true).map_err(|error| format!("a device cannot be opened read-only: {error}"))?;
    let options = CheckOptions { cache_size: 4 << 20, ..CheckOptions::default() };
    let report = check(devices, options).map_err(|error| format!("there is nothing to check: {error:?}"))?;
    match report.findings.iter().find(|found| found.severity != Severity::Info) {
        Some(first) => Err(format!("fsck finds {} things, first: {first:?}", report.findings.len())),
        None => Ok(()),
    }
}

/// How what is found differs from a state of the model.
pub fn explain(media: &[Still], model: Option<&Model>) -> String {
    let found = mounted(&powered(media), 200).and_then(|volume| read_whole(&volume));
    match (found, model) {
        (Ok(found), Some(model)) => model.differences(&found.model).join("; "),
        (Err(what), _) => what,
        (Ok(_), None) => "there is none".into(),
    }
}

/// A recovered volume is used, loses power with all that was not flushed, and has what it promised.
///
/// # Errors
/// What it has not.
pub fn goes_on(media: &[Still]) -> Result<(), String> {
    let media = powered(media);
    let volume = mounted(&media, 201)?;
    let found = read_whole(&volume)?;
    let mut model = found.model;
    let mut subject = Subject::new(volume.clone(), found.inos);
    let ops = [
        Operation::Create { parent: ROOT, name: b"after the crash".to_vec(), id: 900 },
        Operation::Write { id: 900, offset: 0, len: 9_000, stamp: 900, append: false, sync: false },
        Operation::Sync,
        Operation::Gc { until_clean: false },
        Operation::Checkpoint,
        Operation::Write { id: 900, offset: 4096, len: 100, stamp: 901, append: false, sync: true },
    ];
    for op in ops {
        op.apply(&mut model, LATER).map_err(|refusal| format!("{op:?}: {refusal:?}"))?;
        subject.apply(&op).map_err(|error| format!("{}: {error:?}", op.name()))?;
    }
    drop((subject, volume));
    for medium in &media {
        if let SimMedium::Drive(drive) = medium {
            if let Some(violation) = drive.violations().first() {
                return Err(format!("a rule of the drive was broken: {violation:?}"));
            }
            drive.cut_power();
            drive.power_cycle_with(zns::sim::Survival::LoseAll);
        }
    }
    checked(&media)?;
    let found = read_whole(&*mounted(&media, 202)?)?;
    let differences = model.differences(&found.model);
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

/// What the devices do while the state is recovered by a mount.
///
/// # Errors
/// A mount that fails.
pub fn steps_of_recovery(media: &[Still], lie: Lie) -> Result<Vec<Step>, String> {
    let media = powered(media);
    let tape = Tape::new(lie);
    for (device, medium) in (0..).zip(&media) {
        medium.record(&tape, device);
    }
    let volume = mounted(&media, 203)?;
    tape.stop();
    drop(volume);
    Ok(tape.steps())
}
