//! What crosses the link between host and drive to absorb the same overwrites on the same zoned drives: FerryFS beside F2FS, btrfs and XFS.
//!
//! Each filesystem has a drive of the same model, and F2FS and XFS a plain one beside it for what they write in place. Each holds a file of 80 % of what it
//! offers by itself, and as many bytes of every file are overwritten, units in random order. Who cannot take the load so full has another attempt less
//! full, and both are reported. Counted is what the kernel's block layer read and wrote (`/sys/block/*/stat`), of the plain drives too, from the first overwrite
//! until all is durable; a copy that a drive carries out by itself does not come by there. All that the devices hold is lost.

use crate::report::{Report, Row};
use anyhow::{Context, Result, ensure};
use harness::bytes::{KIB, MIB};
use harness::content::Dice;
use harness::{Pattern, Programs, Volume, VolumeSpec, mounts, run as run_program};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Bytes of an overwrite.
const UNIT: u64 = 64 * KIB;
/// Overwrites between two that wait for the drive: little of what is written may be overwritten in memory.
const SYNC_EACH: u64 = 32;
const LIMIT: Duration = Duration::from_secs(900);

/// The drives of each.
#[derive(Clone, Debug, clap::Args)]
pub struct Drives {
    /// A zoned drive for FerryFS
    #[arg(long, value_name = "ZONED")]
    ferryfs: PathBuf,
    /// A zoned drive for btrfs
    #[arg(long, value_name = "ZONED")]
    btrfs: Option<PathBuf>,
    /// A zoned drive and a plain one for F2FS
    #[arg(long, value_names = ["ZONED", "PLAIN"], num_args = 2)]
    f2fs: Vec<PathBuf>,
    /// A zoned drive and a plain one for XFS
    #[arg(long, value_names = ["ZONED", "PLAIN"], num_args = 2)]
    xfs: Vec<PathBuf>,
}

/// A filesystem that is mounted.
struct Peer {
    drives: Vec<PathBuf>,
    root: PathBuf,
    volume: Option<Volume>,
}

/// Shares of its space that are tried one after the other, in percent: a filesystem that cannot take the load at the first says so in a row, and has another
/// attempt with more room.
const FILLS: [u64; 4] = [FULL, 70, 60, 40];
/// The share that is asked for.
const FULL: u64 = 80;

/// Measures. `overwrite` says that the devices may be written.
pub fn run(drives: &Drives, overwrite: bool, quick: bool, report: &mut Report) -> Result<()> {
    ensure!(overwrite, "everything on these devices would be lost: add --overwrite if that is meant");
    let directory = tempfile::tempdir()?;
    let first = std::slice::from_ref(&drives.ferryfs);
    let all = [("FerryFS", first), ("btrfs", drives.btrfs.as_slice()), ("F2FS", &drives.f2fs), ("XFS", &drives.xfs)];
    let mut present = Vec::new();
    let mut least = u64::MAX;
    for (name, devices) in all.into_iter().filter(|(_, devices)| !devices.is_empty()) {
        match Peer::mounted(name, devices, directory.path()).and_then(|peer| space(&peer.root)) {
            Ok(room) => {
                report.add(Row::new(format!("{name}: space for files"), room as f64 / MIB as f64, "MiB"));
                least = least.min(room);
                present.push((name, devices, room));
            }
            Err(error) => report.add(Row::missing(name, format!("is left out: {}", reason(&error)))),
        }
    }
    // The same for all, however long their files are: as much as the shortest of them is long, or three times that.
    let overwrites = if quick { 1 } else { 3 } * (least * FULL / 100 / UNIT);
    for (name, devices, room) in present {
        for fill in FILLS {
            let size = room * fill / 100 / UNIT * UNIT;
            let load = format!("{name}, {fill} % full: {} MiB of {} MiB overwritten", overwrites * UNIT / MIB, size / MIB);
            let peer = Peer::mounted(name, devices, directory.path())?;
            match self::overwrite(&peer, size, overwrites) {
                Ok((read, written)) => {
                    let share = |bytes: u64| bytes as f64 / (overwrites * UNIT) as f64;
                    report.add(Row::new(load, share(read + written), "bytes over the link for each"));
                    report.add(Row::new("  of these written", share(written), ""));
                    report.add(Row::new("  of these read", share(read), ""));
                    break;
                }
                Err(error) => report.add(Row::missing(load, reason(&error))),
            }
        }
    }
    Ok(())
}

/// What went wrong, without the pages that some programs print then.
fn reason(error: &anyhow::Error) -> String {
    const LINES: usize = 3;
    format!("{error:#}").lines().take(LINES).map(str::trim).collect::<Vec<_>>().join("; ")
}

impl Peer {
    /// Formats and mounts one of them.
    fn mounted(name: &'static str, drives: &[PathBuf], directory: &Path) -> Result<Peer> {
        if name == "FerryFS" { ferryfs(&drives[0], directory) } else { peer(name, drives, directory) }
    }
}

impl Drop for Peer {
    /// What a program of ours mounted, its volume unmounts.
    fn drop(&mut self) {
        if self.volume.is_none() {
            // The drives are formatted again: so wait for the end of the mount, which detaching does not.
            let ended = self.root.to_str().is_some_and(|root| call("umount", &[root]).is_ok());
            if !ended {
                mounts::detach_below(&self.root);
            }
        }
    }
}

fn ferryfs(drive: &Path, directory: &Path) -> Result<Peer> {
    let spec = VolumeSpec {
        format: vec!["--force".into()],
        devices: vec![drive.to_path_buf()],
        options: Vec::new(),
        deadline: Duration::from_secs(3600),
    };
    let mut volume = Volume::create(&Programs::find()?, directory, spec)?;
    volume.mount()?;
    let status = volume.status()?;
    ensure!(!status.simulated(), "{} is no drive", drive.display());
    Ok(Peer { drives: vec![drive.to_path_buf()], root: volume.root().to_path_buf(), volume: Some(volume) })
}

fn call(program: &str, arguments: &[&str]) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    run_program(Command::new(program).env("PATH", path).args(arguments), LIMIT)?.ok()?;
    Ok(())
}

/// Formats and mounts one of the others.
fn peer(name: &'static str, drives: &[PathBuf], directory: &Path) -> Result<Peer> {
    let word = |index: usize| drives.get(index).and_then(|path| path.to_str()).context("a drive is missing");
    let kind = name.to_lowercase();
    let root = directory.join(&kind);
    std::fs::create_dir_all(&root)?;
    let point = root.to_str().context("a path in UTF-8")?;
    call("modprobe", &[&kind])?;
    let zoned = word(0)?;
    match name {
        "btrfs" => {
            call("mkfs.btrfs", &["-q", "-f", "-O", "zoned", "-m", "single", "-d", "single", zoned])?;
            call("mount", &["-t", "btrfs", zoned, point])?;
        }
        "F2FS" => {
            call("mkfs.f2fs", &["-q", "-f", "-m", "-c", zoned, word(1)?])?;
            call("mount", &["-t", "f2fs", word(1)?, point])?;
        }
        _ => {
            let options = format!("zoned=1,rtdev={zoned}");
            call("mkfs.xfs", &["-q", "-f", "-r", &options, word(1)?]).context("zoned XFS takes mkfs.xfs 6.15 or later")?;
            call("mount", &["-t", "xfs", "-o", &format!("rtdev={zoned}"), word(1)?, point])?;
        }
    }
    Ok(Peer { drives: drives.to_vec(), root, volume: None })
}

/// Bytes that a filesystem says it has for files.
fn space(root: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(root)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Bytes read and written so far (Documentation/block/stat.rst: sectors of 512 bytes, third and seventh field).
fn link(drives: &[PathBuf]) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for drive in drives {
        let device = drive.canonicalize().with_context(|| drive.display().to_string())?;
        let name = device.file_name().context("a device has a name")?.to_string_lossy().into_owned();
        let path = format!("/sys/block/{name}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field = |n: usize| fields.get(n).copied().with_context(|| format!("{path} has too few fields"));
        sum = (sum.0 + field(2)? * 512, sum.1 + field(6)? * 512);
    }
    Ok(sum)
}

/// The load on one of them; gives the bytes read and written by the drives' own account of the link.
fn overwrite(peer: &Peer, size: u64, overwrites: u64) -> Result<(u64, u64)> {
    let file = File::options().read(true).write(true).create_new(true).open(peer.root.join("load"))?;
    for at in (0..size).step_by(UNIT as usize) {
        file.write_all_at(&Pattern(1).bytes(at, UNIT as usize), at).with_context(|| format!("filling, at {} MiB", at / MIB))?;
    }
    file.sync_all().context("syncing what was filled")?;
    let before = link(&peer.drives)?;
    let mut dice = Dice::new(80);
    let mut unit = Pattern(2).bytes(0, UNIT as usize);
    let mut last = vec![0u64; (size / UNIT) as usize];
    for n in 1..=overwrites {
        let place = dice.below(size / UNIT);
        unit[..8].copy_from_slice(&n.to_le_bytes());
        file.write_all_at(&unit, place * UNIT).with_context(|| format!("after {} MiB of overwrites", n * UNIT / MIB))?;
        last[place as usize] = n;
        if n % SYNC_EACH == 0 {
            file.sync_data().with_context(|| format!("syncing after {} MiB of overwrites", n * UNIT / MIB))?;
        }
    }
    file.sync_all()?;
    rustix::fs::syncfs(&file)?;
    let after = link(&peer.drives)?;
    for (place, n) in last.iter().enumerate().filter(|(_, n)| **n > 0) {
        let mut found = [0; 8];
        file.read_exact_at(&mut found, place as u64 * UNIT)?;
        ensure!(found == n.to_le_bytes(), "unit {place} is not what was written last");
    }
    Ok((after.0 - before.0, after.1 - before.1))
}
