//! A live daemon from outside: every write and flush that reaches its backing is recorded, and whatever a power cut could have left of them is checked,
//! mounted and compared with what had been acknowledged.

use crate::devices::Loop;
use fs::Ino;
use fs::cli::devices::{Access, open_devices};
use fs::volume::{GcMode, MountOptions, Volume};
use harness::content::Dice;
use harness::{Pattern, VolumeSpec, run};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tests::mounted::programs;
use tests::recorder::{Lie, Log, Recorder};
use tests::skip::{no_mounts, skip};

const LIMIT: Duration = Duration::from_secs(120);
const FILES: u64 = 6;
const LEN: usize = 700_000;
const ROUNDS: u64 = 160;
const THREADS: u64 = 3;
const SIZE: u64 = 96 << 20;

/// What the daemon's backing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// A file that poses as a ZNS drive: the states of its zones are in it.
    ImageZns,
    /// A file taken as a plain disk.
    ImageConventional,
    /// A loop device over the recorded file: a block device.
    Loop,
}

/// Something was acknowledged.
struct Promise {
    /// Deeds of the backing when it was.
    at: usize,
    /// Version of each file that is the least to be found from then on.
    versions: [u64; FILES as usize],
}

fn content(file: u64, version: u64) -> Vec<u8> {
    Pattern(file << 32 | version).bytes(0, LEN)
}

/// Writes file after file beside the old one, makes it durable in one way or another, and renames it over, as programs do; several threads at once, each with
/// files of its own.
fn work(root: &Path, recorder: &Recorder) -> std::io::Result<Vec<Promise>> {
    let known = Mutex::new(([0; FILES as usize], vec![Promise { at: 0, versions: [0; FILES as usize] }]));
    std::thread::scope(|scope| {
        let start = |thread| {
            let known = &known;
            scope.spawn(move || work_beside_others(root, recorder, thread, known))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    let (_, mut promises) = known.into_inner().unwrap();
    // What was promised once holds from then on.
    promises.sort_by_key(|promise| promise.at);
    for n in 1..promises.len() {
        let before = promises[n - 1].versions;
        promises[n].versions.iter_mut().zip(before).for_each(|(version, before)| *version = before.max(*version));
    }
    Ok(promises)
}

/// What has been renamed over, and what was acknowledged.
type Known = Mutex<([u64; FILES as usize], Vec<Promise>)>;

fn work_beside_others(root: &Path, recorder: &Recorder, thread: u64, known: &Known) -> std::io::Result<()> {
    let mut dice = Dice::new(7 + thread);
    let directory = File::open(root)?;
    let temporary = root.join(format!("temporary{thread}"));
    for round in (1..=ROUNDS).filter(|round| round % THREADS == thread) {
        let n = dice.below(FILES / THREADS) * THREADS + thread;
        let mut file = File::create(&temporary)?;
        file.write_all(&content(n, round))?;
        file.sync_data()?;
        std::fs::rename(&temporary, root.join(format!("f{n}")))?;
        // Of what others do only that counts which was done before this thread asks.
        let versions = {
            let mut known = known.lock().unwrap();
            known.0[n as usize] = round;
            known.0
        };
        match dice.below(3) {
            0 => directory.sync_all()?,
            1 => file.sync_all()?,
            _ => continue,
        }
        known.lock().unwrap().1.push(Promise { at: recorder.len(), versions });
    }
    Ok(())
}

/// Formats and works on a volume whose backing is recorded, until the daemon is killed.
fn recorded(backing: Backing, lie: Lie) -> Option<(Log, Vec<Promise>)> {
    if let Some(reason) = no_mounts() {
        skip(reason);
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let format: &[&str] = match backing {
        Backing::ImageZns => &["--size", "96M", "--zone-size", "4M", "--profile", "zns"],
        Backing::ImageConventional => &["--size", "96M", "--zone-size", "4M", "--profile", "conventional"],
        Backing::Loop => &["--zone-size", "4M"],
    };
    let spec = |device: PathBuf| VolumeSpec {
        format: format.iter().map(|s| (*s).into()).collect(),
        devices: vec![device],
        ..VolumeSpec::default()
    };
    let (recorder, device) = if backing == Backing::Loop {
        let recorder = Recorder::new(vec![0; SIZE as usize], lie);
        let device = Loop::over(&recorder.path(), &[])?;
        harness::Volume::create(programs(), directory.path(), spec(device.path().into())).unwrap();
        rustix::fs::fsync(File::open(device.path()).unwrap()).unwrap();
        recorder.begin();
        (recorder, Some(device))
    } else {
        let plain = directory.path().join("plain");
        harness::Volume::create(programs(), directory.path(), spec(plain.clone())).unwrap();
        (Recorder::new(std::fs::read(plain).unwrap(), lie), None)
    };
    let path = device.as_ref().map_or(recorder.path(), |device| device.path().to_path_buf());
    let mut volume = harness::Volume::existing(programs(), directory.path(), spec(path)).unwrap();
    volume.mount().unwrap();
    let promises = work(volume.root(), &recorder).unwrap();
    volume.kill();
    let log = recorder.log();
    Some((log, promises))
}

/// Holes stand for zeros: most of a volume is empty.
fn write_sparse(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    const PIECE: usize = 1 << 16;
    let file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    let mut written = bytes.chunks(PIECE).enumerate().filter(|(_, piece)| piece.iter().any(|byte| *byte != 0));
    written.try_for_each(|(n, piece)| file.write_all_at(piece, (n * PIECE) as u64))
}

/// A state is written to a file of its own, checked, mounted and read.
fn judge(state: &[u8], backing: Backing, least: &[u64; FILES as usize], newest: u64) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = directory.path().join("state");
    write_sparse(&file, state).map_err(|error| error.to_string())?;
    let device = (backing == Backing::Loop).then(|| Loop::over(&file, &[])).flatten();
    let path = device.as_ref().map_or(file.clone(), |device| device.path().to_path_buf());
    let fsck = run(programs().command("fsck.ferryfs").unwrap().arg("-n").arg(&path), LIMIT).map_err(|error| format!("{error:#}"))?;
    if !fsck.success() {
        return Err(format!("fsck finds errors: {fsck}"));
    }
    let access = Access { patience: Duration::from_secs(3), ..Access::default() };
    let devices = open_devices(&[path], access).map_err(|error| format!("it cannot be opened: {error}"))?;
    let options = MountOptions { gc: GcMode::Manual, ..MountOptions::default() };
    let volume = Volume::open(devices, options).map_err(|error| format!("it cannot be mounted: {error}"))?;
    if let Some(reason) = volume.read_only_reason() {
        return Err(format!("it is read-only: {reason}"));
    }
    (0..FILES).try_for_each(|n| {
        let least = least[n as usize];
        let found = volume.lookup(Ino::ROOT, format!("f{n}").as_bytes()).and_then(|attr| volume.read(attr.ino, 0, LEN as u32 + 1));
        match found {
            Ok(data) => match (least..=newest).find(|version| data[..] == content(n, *version)) {
                Some(_) => Ok(()),
                None => Err(format!("f{n} has {} bytes that are none of its versions {least} to {newest}", data.len())),
            },
            Err(_) if least == 0 => Ok(()),
            Err(error) => Err(format!("f{n}, of which version {least} was acknowledged: {error}")),
        }
    })
}

/// Power goes at each acknowledgement, and at points between: with all lost that was not flushed, and with some of it.
fn violations(log: &Log, promises: &[Promise], backing: Backing) -> (usize, Vec<String>) {
    let mut dice = Dice::new(3);
    let mut points: Vec<usize> = promises.iter().step_by(6).map(|promise| promise.at).collect();
    points.extend((0..12).map(|_| dice.below(log.len() as u64 + 1) as usize));
    points.push(log.len());
    let mut states = 0;
    let mut found = Vec::new();
    for at in points {
        let least = promises.iter().rev().find(|promise| promise.at <= at).map_or([0; FILES as usize], |promise| promise.versions);
        for chance in [None, Some(Dice::new(at as u64 + 1))] {
            states += 1;
            let kept = if chance.is_some() { "some of what was not flushed" } else { "nothing but what was flushed" };
            if let Err(what) = judge(&log.after_power_cut(at, chance), backing, &least, ROUNDS) {
                found.push(format!("{backing:?}, power lost behind {at} of {} deeds, {kept} kept: {what}", log.len()));
            }
        }
    }
    (states, found)
}

fn keeps_what_it_acknowledged(backing: Backing) {
    let Some((log, promises)) = recorded(backing, Lie::None) else { return };
    let (states, found) = violations(&log, &promises, backing);
    println!("{backing:?}: {} deeds, {} flushes, {} promises, {states} states", log.len(), log.flushes(), promises.len());
    assert!(found.is_empty(), "{} of {states} states: {}", found.len(), found[0]);
    assert!(log.flushes() as u64 > ROUNDS / 2, "{} flushes", log.flushes());
}

#[test]
fn an_image_keeps_what_a_live_daemon_acknowledged() {
    keeps_what_it_acknowledged(Backing::ImageZns);
}

#[test]
fn a_plain_file_keeps_what_a_live_daemon_acknowledged() {
    keeps_what_it_acknowledged(Backing::ImageConventional);
}

#[test]
fn a_block_device_keeps_what_a_live_daemon_acknowledged() {
    keeps_what_it_acknowledged(Backing::Loop);
}

/// What does not look would find nothing.
#[test]
fn a_backing_that_drops_flushes_is_found_out() {
    let Some((log, promises)) = recorded(Backing::ImageZns, Lie::FlushesDropped) else { return };
    let (states, found) = violations(&log, &promises, Backing::ImageZns);
    assert!(found.len() > 3, "{} of {states} states", found.len());
}
