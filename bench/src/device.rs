//! What a drive's own Copy is worth beside reading and writing, on a real device: gathering scattered extents by `ferrycopy`, relocation by the cleaner,
//! copy_file_range(2) beside `cp`. Both sides of each ratio are measured in turns in one run. All that the device holds is lost.

use crate::copying::copy_durably;
use crate::report::{Report, Row, median};
use crate::rig::forget;
use anyhow::{Context, Result, ensure};
use harness::bytes::{GIB, KIB, MIB};
use harness::{Pattern, Programs, Volume, VolumeSpec, run as run_program};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use zns::raw::{RawOptions, open_raw};
use zns::{AlignedBuf, BufSlice, IoClass, Lba, ZoneAction, ZoneId, ZoneState};

/// Bytes of a scattered extent.
const EXTENT: u64 = 64 * KIB;
const LIMIT: Duration = Duration::from_secs(1800);

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// `ferrycopy` of scattered extents.
    Gathering,
    /// The cleaner's relocation.
    Cleaning,
    /// copy_file_range(2).
    Copying,
}

/// Measures. `overwrite` says that the device may be written; without parts, all are meant.
pub fn run(device: &Path, overwrite: bool, only: &[Part], quick: bool, report: &mut Report) -> Result<()> {
    ensure!(overwrite, "everything on {} would be lost: add --overwrite if that is meant", device.display());
    let (rounds, size, file) = if quick { (1, 64 * MIB, 256 * MIB) } else { (3, 256 * MIB, GIB) };
    let wanted = |part| only.is_empty() || only.contains(&part);
    if wanted(Part::Gathering) {
        gathering(device, size, rounds, report)?;
    }
    if wanted(Part::Cleaning) {
        cleaning(device, size, rounds, report)?;
    }
    if wanted(Part::Copying) {
        copying(device, file, rounds, report)?;
    }
    Ok(())
}

fn cleaning(device: &Path, size: u64, rounds: usize, report: &mut Report) -> Result<()> {
    let (mut by_device, mut by_host) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        by_device.push(relocation(device, size, "auto")?);
        by_host.push(relocation(device, size, "host")?);
    }
    let speeds = |rounds: &[Relocated]| rounds.iter().map(Relocated::speed).collect::<Vec<_>>();
    let row = Row::rounds(format!("cleaning: relocating {} MiB of 64 KiB extents", size / MIB), &speeds(&by_device), "MiB/s");
    let row = row.beside("by the host", median(&speeds(&by_host)));
    let reached = row.ratio.is_some_and(|ratio| ratio >= 5.0);
    report.add(row.goal("5 times the host's", reached));
    // What a drive cannot make faster: the host looks up and publishes, whoever copies.
    let times = |rounds: &[Relocated], of: fn(&Relocated) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let row = Row::rounds("  time", &times(&by_device, |round| round.seconds), "s");
    report.add(row.beside("by the host", median(&times(&by_host, |round| round.seconds))));
    let row = Row::rounds("  of it, the volume's processor time", &times(&by_device, |round| round.processor), "s");
    report.add(row.beside("by the host", median(&times(&by_host, |round| round.processor))));
    by_device.last().context("there was a round")?.account(report);
    Ok(())
}

/// Empties what has zones.
pub(crate) fn emptied(device: &Path) -> Result<()> {
    let device = open_raw(device, &RawOptions::default())?;
    for zone in device.report(0..device.geometry().zones)? {
        if device.has_write_pointer(zone.id) && zone.state != ZoneState::Empty {
            device.manage(ZoneId(zone.id.0), ZoneAction::Reset)?;
        }
    }
    Ok(())
}

/// Fills the beginning of the device; gives where the extents lie that are gathered: every second one, never one behind the other.
fn scattered(path: &Path, size: u64) -> Result<Vec<u64>> {
    emptied(path)?;
    let device = open_raw(path, &RawOptions::default())?;
    let geometry = device.geometry();
    let (block, zone, capacity) = (u64::from(geometry.block_size), geometry.zone_size_bytes(), geometry.zone_capacity_bytes());
    let mut places = Vec::new();
    let (mut at, mut left) = (0, 2 * size);
    while left > 0 {
        for offset in (at..at + capacity.min(left)).step_by(MIB as usize) {
            let mut buf = AlignedBuf::zeroed(MIB as usize);
            Pattern(1).fill(offset, &mut buf);
            device.write(Lba(offset / block), vec![BufSlice::whole(buf)], IoClass::Copy)?;
            places.extend((offset..offset + MIB).step_by(2 * EXTENT as usize));
        }
        left -= capacity.min(left);
        at += zone;
    }
    device.flush()?;
    let count = places.len();
    let step = (count / 3..).find(|step| gcd(*step, count) == 1).unwrap_or(1);
    Ok((0..count).map(|n| places[n * step % count]).collect())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The tool's account of gathering by one route, and how many seconds its process took.
fn gather(device: &Path, places: &[u64], target: u64, route: &str) -> Result<(serde_json::Value, f64)> {
    let words: Vec<String> = places.iter().map(|at| format!("{at}:{EXTENT}")).collect();
    let (from, to) = (format!("{}:{}", device.display(), words.join(",")), format!("{}:{target}", device.display()));
    let mut command = Programs::find()?.command("ferrycopy")?;
    let started = Instant::now();
    let outcome = run_program(command.args(["copy", "--json", "--route", route, &from, &to]), LIMIT)?.ok()?;
    let seconds = started.elapsed().as_secs_f64();
    let said = serde_json::from_str(&outcome.stdout).with_context(|| format!("reading what ferrycopy said: {}", outcome.stdout))?;
    Ok((said, seconds))
}

/// Speeds in MiB/s, round by round: of the copy as the tool tells, and of its whole process.
#[derive(Default)]
struct Gathered {
    copy: Vec<f64>,
    process: Vec<f64>,
}

fn gathering(device: &Path, size: u64, rounds: usize, report: &mut Report) -> Result<()> {
    let (mut by_device, mut by_host) = (Gathered::default(), Gathered::default());
    let mut account = serde_json::Value::Null;
    // The first round warms what lies below the device, and does not count.
    for round in 0..=rounds {
        let places = scattered(device, size)?;
        let zone = open_raw(device, &RawOptions { read_only: true, shared: true })?.geometry().zone_size_bytes();
        let first = (2 * size + size / 2).next_multiple_of(zone);
        let second = (first + size + size / 2).next_multiple_of(zone);
        for (route, target, speeds) in [("offload", first, &mut by_device), ("host", second, &mut by_host)] {
            let (said, process) = gather(device, &places, target, route)?;
            if round > 0 {
                let mib = (size / MIB) as f64;
                speeds.copy.push(mib / said["seconds"].as_f64().context("no time")?);
                speeds.process.push(mib / process);
            }
            if route == "offload" {
                account = said;
            }
        }
    }
    let number = |name: &str| account[name].as_f64().with_context(|| format!("ferrycopy says no {name}"));
    let copy = format!("ferrycopy: gathering {} MiB of 64 KiB extents", size / MIB);
    let process = "  from the start of the program to its end".to_owned();
    for (what, device, host) in [(copy, &by_device.copy, &by_host.copy), (process, &by_device.process, &by_host.process)] {
        let row = Row::rounds(what, device, "MiB/s").beside("by the host", median(host));
        let reached = row.ratio.is_some_and(|ratio| ratio >= 5.0);
        report.add(row.goal("5 times the host's", reached));
    }
    let each = size as f64 / number("commands")? / KIB as f64;
    report.add(Row::new("  bytes per command", each, "KiB").goal("128", each >= 128.0));
    let host = number("host_read")? + number("host_written")?;
    report.add(Row::new("  payload bytes through the host", host, "bytes").goal("0", host == 0.0));
    Ok(())
}

/// What cleaning came to.
struct Relocated {
    bytes: u64,
    seconds: f64,
    /// Seconds for which the daemon had a processor.
    processor: f64,
    commands: u64,
    host: u64,
}

impl Relocated {
    fn speed(&self) -> f64 {
        self.bytes as f64 / MIB as f64 / self.seconds
    }

    fn account(&self, report: &mut Report) {
        let each = self.bytes as f64 / self.commands.max(1) as f64 / KIB as f64;
        report.add(Row::new("  bytes per command", each, "KiB").goal("128", each >= 128.0));
        report.add(Row::new("  payload bytes through the host", self.host as f64, "bytes").goal("0", self.host == 0));
    }
}

fn mounted(directory: &Path, device: &Path, options: &[&str]) -> Result<Volume> {
    emptied(device)?;
    let spec = VolumeSpec {
        format: vec!["--force".into()],
        devices: vec![device.to_path_buf()],
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        deadline: Duration::from_secs(3600),
    };
    let mut volume = Volume::create(&Programs::find()?, directory, spec)?;
    volume.mount()?;
    Ok(volume)
}

/// For how long the threads of a process have had a processor, in seconds. Threads that have ended do not count.
fn processor_seconds(process: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let path = thread?.path().join("schedstat");
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().with_context(|| format!("{} is empty", path.display()))?;
        nanoseconds += first.parse::<u64>().with_context(|| format!("{} says {text}", path.display()))?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Cleans a volume in which every second 64 KiB are dead.
fn relocation(device: &Path, size: u64, route: &str) -> Result<Relocated> {
    let directory = tempfile::tempdir()?;
    let mut volume = mounted(directory.path(), device, &["gc=manual", &format!("copy_route={route}")])?;
    let path = volume.path("f");
    crate::sequential::write(&path, 2 * size, &Pattern(1).bytes(0, MIB as usize))?;
    let file = File::options().write(true).open(&path)?;
    for at in (0..2 * size).step_by(2 * EXTENT as usize) {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE, at, EXTENT)?;
    }
    file.sync_all()?;
    drop(file);
    let before = volume.status()?;
    let daemon = volume.pid().context("it is mounted")?;
    let processor = processor_seconds(daemon)?;
    let started = Instant::now();
    volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()])?.ok()?;
    let seconds = started.elapsed().as_secs_f64();
    let processor = processor_seconds(daemon)? - processor;
    let after = volume.status()?;
    let since = |name: &str| after.since(&before, name);
    let relocated = Relocated {
        bytes: since("gc/relocated")?,
        seconds,
        processor,
        commands: since("gc/commands")?,
        host: since("gc/host_read")? + since("gc/host_written")?,
    };
    ensure!(relocated.bytes > 0, "the cleaner found nothing to move");
    volume.umount()?;
    Ok(relocated)
}

/// The call several times; `cp` once, for in an emulated machine that takes a hundred times as long.
fn copying(device: &Path, size: u64, rounds: usize, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut volume = mounted(directory.path(), device, &[])?;
    let (source, target) = (volume.path("source"), volume.path("target"));
    crate::sequential::write(&source, size, &Pattern(1).bytes(0, MIB as usize))?;
    let before = volume.status()?;
    let mut by_call = Vec::new();
    for _ in 0..rounds {
        forget(&source)?;
        let started = Instant::now();
        let (from, to) = (File::open(&source)?, File::create_new(&target)?);
        copy_durably(&from, &to, size)?;
        by_call.push((size / MIB) as f64 / started.elapsed().as_secs_f64());
        compared(&from, &to, size)?;
        drop((from, to));
        std::fs::remove_file(&target)?;
    }
    let after = volume.status()?;
    forget(&source)?;
    let started = Instant::now();
    run_program(Command::new("cp").arg("--reflink=never").args([&source, &target]), LIMIT)?.ok()?;
    File::open(&target)?.sync_all()?;
    let by_cp = (size / MIB) as f64 / started.elapsed().as_secs_f64();
    let calls = volume.status()?.since(&after, "copy_file_range/calls")?;
    ensure!(calls == 0, "cp copied by copy_file_range, too");
    let row = Row::rounds(format!("copy_file_range of {} MiB + fsync", size / MIB), &by_call, "MiB/s");
    let row = row.beside("cp --reflink=never", by_cp).simulated(after.simulated());
    let reached = row.ratio.is_some_and(|ratio| ratio >= 10.0);
    report.add(row.goal("10 times cp's", reached));
    let since = |name: &str| after.since(&before, &format!("copy_file_range/{name}"));
    let host = since("host_read")? + since("host_written")?;
    report.add(Row::new("  payload bytes through the host", host as f64, "bytes").goal("0", host == 0));
    volume.umount()
}

/// Every hundredth place, and the last, after the kernel has forgotten both.
fn compared(from: &File, to: &File, size: u64) -> Result<()> {
    let (mut a, mut b) = (vec![0; KIB as usize], vec![0; KIB as usize]);
    rustix::fs::fadvise(to, 0, None, rustix::fs::Advice::DontNeed)?;
    for at in (0..size).step_by((100 * KIB + 512) as usize).chain([size - KIB]) {
        let at = at.min(size - KIB);
        from.read_exact_at(&mut a, at)?;
        to.read_exact_at(&mut b, at)?;
        ensure!(a == b, "the copy differs at {at}");
    }
    Ok(())
}
