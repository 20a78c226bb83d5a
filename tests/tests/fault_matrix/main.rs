//! Every kind of fault on every kind of volume, while it runs: no wrong data ever, nothing acknowledged is lost but what lay in the bad place, what cannot be
//! written any more is read-only with one reason, and stays readable.
//!
//! Where an operation of a device fails, it is the first one of its kind from a place in the run on: every 7th of the first 400 operations of a drive, every 2nd of the first 60 of
//! that kind on a file, until nothing is struck any more; each in a run of its own. Then power is lost: what that leaves ([`CrashStates`]) must be no older than the last success of
//! fsync. Damage at rest is done to every 3rd block in use in turn.

mod copies;
mod pointers;

use copy_backend::VerifyMode;
use fs::FsError;
use fs::check::{CheckOptions, check};
use fs::volume::{MountOptions, Volume};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tests::sim::crash::parts_of_a_copy;
use tests::sim::explore::VolumeKind;
use tests::sim::explore::kind::{Base, Hands, ids, mount_options, open};
use tests::sim::faults::inconsistency;
use tests::sim::model::{Kind, Model, ROOT};
use tests::sim::operation::Operation;
use tests::sim::subject::{Observed, Subject, observe};
use zns::sim::{Bounds, CrashStates, Deed, Fault, FaultPlan, FileOp, Lie, SimDrive, SimMedium, Still, Tape};
use zns::{Blocks, Lba, ZoneId, ZoneState, ZonedDevice};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failing {
    Read,
    Write,
    /// The device is full before it should be.
    NoSpace,
    Flush,
    /// And what was written since is lost, although later flushes succeed.
    FlushForGood,
    Reset,
    CopyRefused,
    CopyPartial,
    /// With everything read back.
    CopyWrong,
    /// And then the drive does not say how far it came.
    CopyPartialUnreported,
}

const FAILING: [Failing; 10] = [
    Failing::Read,
    Failing::Write,
    Failing::NoSpace,
    Failing::Flush,
    Failing::FlushForGood,
    Failing::Reset,
    Failing::CopyRefused,
    Failing::CopyPartial,
    Failing::CopyWrong,
    Failing::CopyPartialUnreported,
];

impl Failing {
    /// Why it cannot happen on this medium.
    fn is_impossible(self, medium: &SimMedium) -> Option<&'static str> {
        match (self, medium) {
            (_, SimMedium::File(_)) if self.is_of_copies() => Some("an image's Copy is our own code"),
            (_, SimMedium::Drive(drive)) if self.is_of_copies() && drive.open().native_copy().is_none() => Some("it has no Copy"),
            (_, SimMedium::Drive(drive)) if self == Self::Reset && drive.geometry().software_zones => Some("a disk knows no reset"),
            _ => None,
        }
    }

    fn is_of_copies(self) -> bool {
        matches!(self, Self::CopyRefused | Self::CopyPartial | Self::CopyWrong | Self::CopyPartialUnreported)
    }

    /// Faults that are injected: all of them must have struck.
    fn faults(self) -> u64 {
        if self == Self::CopyPartialUnreported { 2 } else { 1 }
    }

    /// Is this what would fail?
    fn fits(self, deed: &Deed) -> bool {
        match self {
            Self::Flush | Self::FlushForGood => matches!(deed, Deed::Flush),
            Self::Reset => matches!(deed, Deed::Hole { .. } | Deed::Reset { .. }),
            _ => matches!(deed, Deed::Write { .. }),
        }
    }

    /// Strikes once, after `after` operations that it fits.
    fn arm(self, medium: &SimMedium, after: u64) {
        match medium {
            SimMedium::File(file) => {
                let (what, errno) = match self {
                    Self::Read => (FileOp::Read, libc::EIO),
                    Self::Write => (FileOp::Write, libc::EIO),
                    Self::NoSpace => (FileOp::Write, libc::ENOSPC),
                    Self::Flush | Self::FlushForGood => (FileOp::Sync, libc::EIO),
                    _ => (FileOp::Punch, libc::EIO),
                };
                file.fail(what, errno, 0..u64::MAX, after, 1);
            }
            SimMedium::Drive(drive) => {
                let fault = match self {
                    Self::Read => Fault::ReadError,
                    Self::Write => Fault::WriteError,
                    Self::NoSpace => Fault::NoSpace,
                    Self::Flush | Self::FlushForGood => Fault::FlushFailure,
                    Self::Reset => Fault::ResetFailure,
                    Self::CopyRefused => Fault::CopyRefused(zns::NvmeStatus::WRITE_FAULT),
                    Self::CopyPartial | Self::CopyPartialUnreported => Fault::CopyPartial,
                    Self::CopyWrong => Fault::CopyWrong,
                };
                drive.set_faults(FaultPlan { flush_failure_lasts: self == Self::FlushForGood, ..FaultPlan::default() });
                // Operations of a drive are numbered together: the stride makes the next run strike a later one.
                drive.fail_at(drive.ops() + after, fault);
                if self == Self::CopyPartialUnreported {
                    drive.fail_at(drive.ops() + after, Fault::ReportError);
                }
            }
        }
    }
}

/// What came of runs of one cell of the matrix.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    runs: u32,
    /// An operation told of the fault.
    told: u32,
    read_only: u32,
}

fn options(hands: &Hands, number: u8, verify: VerifyMode) -> MountOptions {
    MountOptions { verify, ..mount_options(hands, number) }
}

/// Some of everything, with reads between.
fn workload() -> Vec<Operation> {
    let write = |id, offset, len, stamp| Operation::Write { id, offset, len, stamp, append: false, sync: false };
    let read = |id| Operation::Read { id, offset: 0, len: 200_000 };
    vec![
        read(ids::BIG),
        write(ids::FOO, 2_000, 9_000, 50),
        Operation::Fsync { id: ids::FOO },
        Operation::CopyRange { from: (ids::BIG, 0), to: (ids::BAR, 4096), len: 12 * 4096 },
        Operation::Create { parent: ids::A, name: b"new".to_vec(), id: 70 },
        write(70, 0, 30_000, 51),
        Operation::Sync,
        Operation::Gc { until_clean: false },
        Operation::Checkpoint,
        read(ids::BAR),
        write(ids::BIG, 8192, 20_000, 52),
        Operation::Unlink { parent: ROOT, name: b"foo".to_vec(), hold: false },
        Operation::Fsync { id: ids::BIG },
        Operation::Gc { until_clean: true },
        Operation::Checkpoint,
        write(70, 4096, 5_000, 53),
        Operation::Sync,
        read(70),
        read(ids::BIG),
    ]
}

/// A mounted volume, and every state that its model went through.
struct Run {
    subject: Subject,
    hands: Hands,
    history: Vec<Model>,
    /// Parts of copies, and blocks of writes, that failed half-way are states, too.
    floor: usize,
    told: bool,
    destroys: bool,
}

impl Run {
    fn new(base: &Base, volume: Arc<Volume>, hands: Hands, destroys: bool) -> Result<Self, String> {
        let found = observe(&volume)?;
        Ok(Self { subject: Subject::new(volume, found.inos), hands, history: vec![base.model.clone()], floor: 0, told: false, destroys })
    }

    fn present(&self) -> &Model {
        self.history.last().expect("there is a state")
    }

    fn excuse(&mut self, op: &Operation, error: &FsError) -> Result<(), String> {
        self.told = true;
        match error {
            FsError::Device(_) | FsError::Copy(_) | FsError::ReadOnly(_) | FsError::NoSpace => Ok(()),
            FsError::Corrupt { .. } | FsError::DataChecksum { .. } if self.destroys => Ok(()),
            error => Err(format!("{} failed with {error:?}", op.name())),
        }
    }

    /// Carries an operation out; one that fails has happened, or has not, or a copy in part.
    fn step(&mut self, op: &Operation) -> Result<(), String> {
        if matches!(op, Operation::Read { id, .. } if self.present().node(*id).is_none()) {
            return Ok(());
        }
        let now = self.hands.tick();
        let before = self.present().clone();
        let mut after = before.clone();
        let expected = op.apply(&mut after, now);
        match (self.subject.apply(op), expected) {
            (Ok(answer), Ok(())) => {
                if let (Operation::Read { id, offset, .. }, tests::sim::subject::Answer::Bytes(bytes)) = (op, &answer)
                    && before.node(*id).is_none_or(|node| node.get(*offset, bytes.len()) != *bytes)
                {
                    return Err("a read gave wrong bytes".into());
                }
                if let (Operation::CopyRange { .. }, tests::sim::subject::Answer::Copied(_)) | (_, tests::sim::subject::Answer::Done) =
                    (op, &answer)
                    && op.changes()
                {
                    self.settle(op, &before, after, now)?;
                }
                if op.is_barrier() {
                    self.floor = self.history.len() - 1;
                }
                Ok(())
            }
            // What came before has failed: what it would have made is not there.
            (Err(error), Err(refusal)) if tests::sim::world::refusal_of(&error) == Some(refusal) => Ok(()),
            (Err(error), _) => {
                self.excuse(op, &error)?;
                if op.changes() { self.settle(op, &before, after, now) } else { Ok(()) }
            }
            (Ok(_), Err(refusal)) => Err(format!("{} is accepted, though it must be refused: {refusal:?}", op.name())),
        }
    }

    /// The volume is in one of the states that the operation may leave.
    fn settle(&mut self, op: &Operation, before: &Model, after: Model, now: i64) -> Result<(), String> {
        // A fault that is still to come may strike what only looks: then it is looked at again.
        let found = (0..3).find_map(|_| observe(self.subject.volume()).ok().filter(|found| found.errors.is_empty() || self.destroys));
        let found = found.ok_or("the volume cannot be read three times over")?;
        let parts: Vec<Model> = parts_of_a_copy(before, op, now).collect();
        let mixed = tests::sim::faults::mixture(op, &found, before, &after);
        let candidates = [after, before.clone()].into_iter().chain(parts).chain(mixed);
        let Some(state) = candidates.into_iter().find(|state| inconsistency(&found, state).is_none()) else {
            return Err(format!("{} has left what is neither before nor after it: {:?}", op.name(), before.differences(&found.model)));
        };
        if state.digest() != before.digest() {
            self.history.push(state);
        }
        Ok(())
    }

    /// What cannot be written is read-only with a reason that stays, and everything can be read.
    fn end(&mut self) -> Result<bool, String> {
        let volume = self.subject.volume().clone();
        let found =
            (0..3).find_map(|_| observe(&volume).ok().filter(|found| found.errors.is_empty())).ok_or("it cannot be read to the end")?;
        if let Some(difference) = inconsistency(&found, self.present()) {
            return Err(format!("before the end: {difference}"));
        }
        let reason = volume.read_only_reason();
        if volume.is_writable() != reason.is_none() {
            return Err(format!("writable {} with the reason {reason:?}", volume.is_writable()));
        }
        if let Some(reason) = reason {
            let again = self.subject.apply(&Operation::Create { parent: ROOT, name: b"late".to_vec(), id: 99 });
            if !matches!(again, Err(FsError::ReadOnly(_))) || volume.read_only_reason().as_ref() != Some(&reason) || reason.len() < 20 {
                return Err(format!("read-only ({reason}), but not for good"));
            }
            return Ok(true);
        }
        Ok(false)
    }
}

/// A run with one failing operation; `None`: the fault did not strike any more.
fn run_failing(base: &Base, failing: Failing, device: usize, after: u64) -> Result<Option<(bool, bool)>, String> {
    let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
    let tape = Tape::new(Lie::None);
    (0..).zip(&media).for_each(|(n, medium)| medium.record(&tape, n));
    let hands = Hands::at(base.now);
    let devices = open(&media, false).map_err(|error| error.to_string())?;
    // What was wrong is never published where everything is read back; elsewhere nothing is wrong.
    let verify = if failing == Failing::CopyWrong { VerifyMode::Full } else { VerifyMode::Off };
    let volume = Volume::open(devices, options(&hands, 20, verify)).map_err(|error| format!("the mount failed: {error}"))?;
    let mut run = Run::new(base, volume, hands, false)?;
    let (struck_before, armed_at) = (struck(&media[device]), tape.len());
    failing.arm(&media[device], after);
    for op in workload() {
        run.step(&op)?;
    }
    let read_only = run.end()?;
    tape.stop();
    let steps = tape.steps();
    let has_struck = match &media[device] {
        SimMedium::Drive(drive) => drive.stats().faults >= struck_before + failing.faults(),
        // A file does not count: what it did since then says how far it came. Of reads nothing is recorded.
        SimMedium::File(_) => match failing {
            Failing::Read | Failing::Flush | Failing::FlushForGood => run.told,
            _ => steps[armed_at..].iter().filter(|step| failing.fits(&step.deed)).count() as u64 >= after,
        },
    };
    if failing == Failing::Flush && has_struck && !read_only {
        return Err("a flush failed, and the volume can be written".into());
    }
    let Run { subject, history, floor, told, .. } = run;
    drop(subject);
    let mut states = CrashStates::new(base.media.clone());
    steps.iter().for_each(|step| states.step(step));
    let mut outcome = Ok(());
    let bounds = Bounds { all: 4, drawn: 0, torn: 0 };
    states.visit(&bounds, true, &mut ChaCha8Rng::seed_from_u64(after), |state| {
        if outcome.is_ok() {
            let media: Vec<SimMedium> = state.media.iter().map(Still::medium).collect();
            outcome = found_after(&media, &history[floor..]).map_err(|what| format!("after a power cut, {}: {what}", state.tear.name()));
        }
    });
    outcome?;
    Ok(has_struck.then_some((told, read_only)))
}

fn struck(medium: &SimMedium) -> u64 {
    match medium {
        SimMedium::Drive(drive) => drive.stats().faults,
        SimMedium::File(_) => 0,
    }
}

/// What is mounted is one of these states.
fn found_after(media: &[SimMedium], states: &[Model]) -> Result<(), String> {
    let devices = open(media, false).map_err(|error| error.to_string())?;
    let volume =
        Volume::open(devices, mount_options(&Hands::at(1_800_000_000), 21)).map_err(|error| format!("the mount failed: {error}"))?;
    let found = observe(&volume)?;
    if let Some((lost, error)) = found.errors.first() {
        return Err(format!("{lost:?} cannot be read: {error}"));
    }
    match states.iter().any(|state| state.digest() == found.model.digest()) {
        true => Ok(()),
        false => Err(format!("acknowledged changes are lost: {:?}", states[0].differences(&found.model))),
    }
}

#[test]
fn operations_that_fail_cost_nothing_that_was_acknowledged() {
    let mut matrix: BTreeMap<(Failing, &str), String> = BTreeMap::new();
    let mut bad = Vec::new();
    for kind in VolumeKind::ALL {
        let base = kind.base();
        for failing in FAILING {
            let mut tally = Tally::default();
            let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
            let mut impossible = Vec::new();
            for (device, medium) in media.iter().enumerate() {
                if let Some(reason) = failing.is_impossible(medium) {
                    impossible.push(reason);
                    continue;
                }
                let is_file = matches!(medium, SimMedium::File(_));
                let (most, stride) = if is_file { (60, 2) } else { (400, 7) };
                for after in (0..most).step_by(stride) {
                    match run_failing(&base, failing, device, after) {
                        Ok(Some((told, read_only))) => {
                            tally.runs += 1;
                            tally.told += u32::from(told);
                            tally.read_only += u32::from(read_only);
                        }
                        // A read that failed may have been read again unseen.
                        Ok(None) if is_file && failing == Failing::Read => {}
                        Ok(None) => break,
                        Err(what) => {
                            bad.push(format!("{failing:?} on {}, device {device}, after {after}: {what}", kind.name()));
                            break;
                        }
                    }
                }
            }
            let cell = if tally.runs == 0 { impossible.join(", ") } else { format!("{tally:?}") };
            assert!(tally.runs > 0 || !impossible.is_empty() || !bad.is_empty(), "{failing:?} on {}: it never struck", kind.name());
            matrix.insert((failing, kind.name()), cell);
        }
    }
    for ((failing, kind), cell) in &matrix {
        println!("{:<14} {kind:<38} {cell}", format!("{failing:?}"));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// A report of zones that fails is a mount that fails with a sentence; the next one finds everything.
#[test]
fn a_report_that_fails_is_a_mount_refused_and_nothing_lost() {
    for kind in VolumeKind::ALL {
        let base = kind.base();
        for device in 0..base.media.len() {
            let (mut failed, mut refused) = (0, 0);
            for after in 0..12 {
                let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
                let SimMedium::Drive(drive) = &media[device] else { continue };
                drive.fail_at(drive.ops() + after, Fault::ReportError);
                let before = struck(&media[device]);
                let devices = open(&media, false).expect("opened");
                let opened = Volume::open(devices, mount_options(&Hands::at(base.now), 20));
                let has_struck = struck(&media[device]) > before;
                failed += u32::from(has_struck);
                match opened {
                    Ok(volume) => {
                        let found = observe(&volume).expect("observed");
                        assert!(found.errors.is_empty() && found.model.digest() == base.model.digest(), "{}: after {after}", kind.name());
                    }
                    Err(error) => {
                        assert!(has_struck && matches!(error, FsError::Device(_)), "{}, after {after}: {error:?}", kind.name());
                        refused += 1;
                    }
                }
                drive.set_faults(FaultPlan::default());
                found_after(&media, std::slice::from_ref(&base.model)).unwrap_or_else(|what| panic!("{}: {what}", kind.name()));
            }
            let is_drive = matches!(base.media[device].medium(), SimMedium::Drive(_));
            assert!(!is_drive || (failed > 0 && refused > 0), "{}: {failed} reports failed, {refused} mounts were refused", kind.name());
        }
    }
}

/// How a block at rest is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flipped,
    Unreadable,
    /// What belongs elsewhere was written here.
    Misdirected,
}

/// A block of a device in use: of a drive by its number, of an image by its place in the file.
fn blocks_in_use(medium: &SimMedium) -> Vec<u64> {
    match medium {
        SimMedium::Drive(drive) => {
            let g = drive.geometry();
            let per = 4096 / u64::from(g.block_size);
            let written = |zone: u32| {
                let info = drive.zone(ZoneId(zone));
                let blocks = if g.software_zones { g.zone_capacity } else { info.written };
                (0..blocks.0 / per).map(move |block| info.start.0 + block * per)
            };
            (0..g.zones).flat_map(written).filter(|lba| drive.peek(Lba(*lba), Blocks(per)).iter().any(|byte| *byte != 0)).collect()
        }
        SimMedium::File(file) => {
            (256..17_000u64).map(|page| page * 4096).filter(|at| file.peek(*at, 4096).iter().any(|byte| *byte != 0)).collect()
        }
    }
}

fn damage(medium: &SimMedium, at: u64, other: u64, how: Damage) {
    match (medium, how) {
        (SimMedium::Drive(drive), Damage::Flipped) => drive.flip_bit(Lba(at), 333, 4),
        (SimMedium::Drive(drive), Damage::Unreadable) => drive.add_bad_block(Lba(at)),
        (SimMedium::Drive(drive), Damage::Misdirected) => {
            let per = Blocks(4096 / u64::from(drive.geometry().block_size));
            drive.poke(Lba(at), &drive.peek(Lba(other), per));
        }
        (SimMedium::File(file), Damage::Flipped) => {
            let byte = file.peek(at + 333, 1)[0];
            file.poke(at + 333, &[byte ^ 16]);
        }
        (SimMedium::File(file), Damage::Unreadable) => file.fail(FileOp::Read, libc::EIO, at..at + 4096, 0, u64::MAX),
        (SimMedium::File(file), Damage::Misdirected) => file.poke(at, &file.peek(other, 4096)),
    }
}

/// Only these errors tell of damage; which files lost something.
fn judged(found: &Observed, model: &Model) -> Result<usize, String> {
    for (lost, error) in &found.errors {
        if !matches!(error, FsError::Corrupt { .. } | FsError::DataChecksum { .. } | FsError::Device(_)) {
            return Err(format!("{lost:?}: {error:?}"));
        }
    }
    inconsistency(found, model).map_or(Ok(found.errors.len()), Err)
}

/// `fsck -n` names the files whose data are bad.
fn named_by_fsck(media: &[SimMedium], found: &Observed) -> Result<(), String> {
    let lost = found.errors.iter().filter_map(|(lost, error)| match (lost, error) {
        (tests::sim::subject::Lost::Block(id, _), FsError::DataChecksum { .. } | FsError::Device(_)) => Some(*id),
        _ => None,
    });
    let lost: Vec<u32> = lost.collect();
    if lost.is_empty() {
        return Ok(());
    }
    let devices = open(media, true).map_err(|error| error.to_string())?;
    let report = check(devices, CheckOptions { cache_size: 4 << 20, ..CheckOptions::default() }).map_err(|error| error.to_string())?;
    for id in lost {
        let name = match id {
            ids::FOO => "/foo",
            ids::BAR => "/A/bar",
            _ => "/big",
        };
        if !report.findings.iter().any(|found| found.path.as_deref() == Some(name)) {
            return Err(format!("fsck does not name {name}: {:?}", report.findings.first()));
        }
    }
    Ok(())
}

#[test]
fn damage_at_rest_is_an_error_and_never_data() {
    for kind in VolumeKind::ALL {
        let base = kind.base();
        for how in [Damage::Flipped, Damage::Unreadable, Damage::Misdirected] {
            let (mut blocks, mut lost, mut refused, mut read_only) = (0, 0, 0, 0);
            for device in 0..base.media.len() {
                let in_use = blocks_in_use(&base.media[device].medium());
                for (n, at) in in_use.iter().enumerate().step_by(3) {
                    let what = format!("{how:?} at {at} of device {device} of {}", kind.name());
                    let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
                    damage(&media[device], *at, in_use[(n + 7) % in_use.len()], how);
                    blocks += 1;
                    let opened = open(&media, false).map_err(FsError::from);
                    let volume = match opened.and_then(|devices| Volume::open(devices, mount_options(&Hands::at(base.now), 20))) {
                        Ok(volume) => volume,
                        Err(FsError::Volume(_) | FsError::Corrupt { .. } | FsError::Device(_)) => {
                            refused += 1;
                            continue;
                        }
                        Err(error) => panic!("{what}: {error:?}"),
                    };
                    let found = observe(&volume).unwrap_or_else(|error| panic!("{what}: {error}"));
                    lost += judged(&found, &base.model).unwrap_or_else(|error| panic!("{what}: {error}"));
                    if let Some(reason) = volume.read_only_reason() {
                        assert!(reason.len() > 20, "{what}: {reason}");
                        read_only += 1;
                    }
                    drop(volume);
                    named_by_fsck(&media, &found).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
            }
            println!("{how:?} {}: {blocks} blocks, {lost} things lost, {refused} mounts refused, {read_only} read-only", kind.name());
            assert!(blocks > 20 && lost > 0 && refused < blocks / 2, "{how:?} on {}", kind.name());
        }
    }
}

fn drives(media: &[SimMedium]) -> Vec<SimDrive> {
    media.iter().filter_map(|medium| if let SimMedium::Drive(drive) = medium { Some(drive.clone()) } else { None }).collect()
}

/// A zone with live data takes no more writes, or gives nothing back, while the volume runs.
#[test]
fn a_zone_that_wears_out_costs_no_more_than_what_lay_in_it() {
    for kind in VolumeKind::ALL {
        let base = kind.base();
        let zones = drives(&base.media.iter().map(Still::medium).collect::<Vec<_>>()).first().map_or(64, |drive| drive.geometry().zones);
        for state in [ZoneState::ReadOnly, ZoneState::Offline] {
            let (mut runs, mut told, mut read_only, mut live, mut lost) = (0, 0, 0, 0, 0);
            for zone in (2..zones.min(20)).map(ZoneId) {
                for device in 0..base.media.len() {
                    let what = format!("zone {zone} of device {device} of {} is {state:?}", kind.name());
                    let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
                    let hands = Hands::at(base.now);
                    let mut devices = Vec::new();
                    let mut image = None;
                    for medium in &media {
                        devices.push(match medium {
                            SimMedium::Drive(drive) => drive.open() as Arc<dyn ZonedDevice>,
                            SimMedium::File(file) => {
                                let opened = Arc::new(zns::image::ImageDevice::open_simulated(file, false).expect("opened"));
                                image = Some(opened.clone());
                                opened
                            }
                        });
                    }
                    let volume = Volume::open(devices, options(&hands, 20, VerifyMode::Off)).expect("mounted");
                    let mut run = Run::new(&base, volume, hands, state == ZoneState::Offline).expect("whole");
                    let has_data = |view: &fs::volume::ZoneView| {
                        usize::from(view.device) == device && view.zone == zone.0 && view.live > 0 && view.role == "user"
                    };
                    live += u32::from(run.subject.volume().zones().iter().any(has_data));
                    match (&media[device], &image) {
                        (SimMedium::Drive(drive), _) => drive.wear_out(zone, state),
                        (SimMedium::File(_), Some(image)) => image.retire(zone, state).expect("retired"),
                        (SimMedium::File(_), None) => unreachable!("a file was opened as an image"),
                    }
                    for op in workload() {
                        run.step(&op).unwrap_or_else(|error| panic!("{what}: {error}"));
                    }
                    if state == ZoneState::ReadOnly {
                        read_only += u32::from(run.end().unwrap_or_else(|error| panic!("{what}: {error}")));
                    } else {
                        read_only += u32::from(!run.subject.volume().is_writable());
                        let found = observe(run.subject.volume()).unwrap_or_else(|error| panic!("{what}: {error}"));
                        lost += judged(&found, run.present()).unwrap_or_else(|error| panic!("{what}: {error}"));
                    }
                    runs += 1;
                    told += u32::from(run.told);
                }
            }
            println!(
                "{state:?} {}: {runs} zones, {live} with live data, {told} told, {lost} things lost, {read_only} read-only",
                kind.name()
            );
            assert!(live > 0, "{state:?} on {}: no zone had live data in it", kind.name());
            assert!(state == ZoneState::ReadOnly || (lost > 0 && told > 0), "{state:?} on {}: {lost} lost, {told} told", kind.name());
            assert!(runs > 10 && (state == ZoneState::Offline || read_only < runs / 2), "{state:?} on {}", kind.name());
        }
    }
}
