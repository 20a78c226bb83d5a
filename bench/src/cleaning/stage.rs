//! The volumes of `ferryfs-bench gc`: one that is filled and aged once, and copies of it in exactly that state, for each run a fresh one.
//!
//! An image is copied as a file: by reflink where the filesystem has it, else sparse. A device cannot be copied: it is formatted, filled and aged again, by the
//! same seed.

use super::figures::{self, Cpu, Run};
use super::workload::{Limit, Measured, Workload};
use crate::device::emptied;
use crate::rig::sync;
use anyhow::{Context, Result, ensure};
use fs::cli::client::Client;
use fs::fuse::control::Request;
use harness::bytes::MIB;
use harness::{Programs, Status, Volume, VolumeSpec, cpu};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at the counters while a load runs.
const LOOK: Duration = Duration::from_millis(100);
/// Of the room that a volume has without cleaning, the share that a control may write: metadata takes some, too.
const CONTROL_SHARE: f64 = 0.6;
/// Less is no control.
const CONTROL_LEAST: u64 = 4 * MIB;

/// Where volumes are made, and of what kind.
pub struct Stage {
    pub programs: Programs,
    /// A directory of our own.
    pub directory: PathBuf,
    pub place: Place,
    /// Arguments of `mkfs.ferryfs`.
    pub format: Vec<String>,
    /// Options of every mount.
    pub options: Vec<String>,
    /// Options of the mounts that are measured: filling and ageing are not to take the time that a drive would.
    pub measured: Vec<String>,
}

/// What carries the volume.
#[derive(Clone, Debug)]
pub enum Place {
    Image,
    /// Everything on it goes.
    Device(PathBuf),
}

/// How it is filled.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// Live share of the space.
    pub share: f64,
    /// How often its whole space is overwritten afterwards.
    pub age: f64,
}

/// A volume that is filled and aged, and not mounted.
pub struct Aged {
    /// The load, with files as large as they are there.
    pub workload: Workload,
    /// Live share of the space that was reached.
    pub used: f64,
    /// Bytes of the space in all.
    pub total: u64,
    /// The status at its end: devices and their kinds.
    pub status: Status,
}

/// The counters at one moment of a load.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Seconds since the load began.
    pub at: f64,
    pub relocated: u64,
    pub empty_zones: u64,
}

/// What one load on one volume came to.
pub struct Played {
    pub run: Run,
    pub measured: Measured,
    pub looks: Vec<Look>,
    /// `ferryfs zones --json` before and after.
    pub zones: [serde_json::Value; 2],
    pub status: Status,
}

impl Stage {
    fn image(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn volume(&self, name: &str, options: &[String], make: bool) -> Result<Volume> {
        let device = match &self.place {
            Place::Image => self.image(name),
            Place::Device(path) => path.clone(),
        };
        let spec = VolumeSpec {
            format: self.format.clone(),
            options: self.options.iter().chain(options).cloned().collect(),
            devices: vec![device],
            deadline: Duration::from_secs(6 * 3600),
        };
        if !make {
            return Volume::existing(&self.programs, &self.directory, spec);
        }
        if let Place::Device(path) = &self.place {
            emptied(path)?;
        }
        Volume::create(&self.programs, &self.directory, spec)
    }

    /// Makes, fills and ages a volume, named so where it is an image.
    pub fn aged(&self, name: &str, workload: &Workload, filling: Filling) -> Result<Aged> {
        let mut volume = self.volume(name, &[], true)?;
        volume.mount()?;
        let total = volume.status()?.number("space/total")?;
        let wanted = (total as f64 * filling.share) as u64;
        let mut workload = workload.clone().sized(wanted)?;
        workload.fill(volume.root())?;
        workload.age(volume.root(), (total as f64 * filling.age) as u64)?;
        // The map of a file in fragments takes space, too: files are cut so that all that is used is the share asked for.
        let used = volume.status()?.number("space/used")?;
        if used > wanted {
            workload = workload.shrunk(volume.root(), used - wanted)?;
        }
        sync(volume.root())?;
        let status = volume.status()?;
        volume.umount()?;
        Ok(Aged { workload, used: status.number("space/used")? as f64 / total as f64, total, status })
    }

    /// Cleans an aged image until nothing worth it is left: the state that the control begins in.
    pub fn cleaned(&self, from: &str, name: &str) -> Result<()> {
        copy_file(&self.image(from), &self.image(name))?;
        let mut volume = self.volume(name, &["gc=manual".into()], false)?;
        volume.mount()?;
        clean(&volume)?;
        volume.umount()
    }

    /// Runs the load on a copy of an aged image.
    pub fn play(&self, from: &str, aged: &Aged, options: &[String], limit: Limit) -> Result<Played> {
        let name = "run.img";
        if matches!(self.place, Place::Image) {
            copy_file(&self.image(from), &self.image(name))?;
        }
        let options: Vec<String> = self.measured.iter().chain(options).cloned().collect();
        let mut volume = self.volume(name, &options, false)?;
        volume.mount()?;
        let mut played = observed(&volume, &aged.workload, limit)?;
        let cleaning = alone(&volume).context("cleaning with nobody writing")?;
        played.run.extend(cleaning);
        volume.umount()?;
        Ok(played)
    }

    /// Runs the load without cleaning, on a copy of what [`Stage::cleaned`] made; `Err` in words when there is no room for that.
    pub fn control(&self, from: &str, aged: &Aged, limit: Limit) -> Result<std::result::Result<Played, String>> {
        let name = "run.img";
        if matches!(self.place, Place::Image) {
            copy_file(&self.image(from), &self.image(name))?;
        }
        let options: Vec<String> = self.measured.iter().cloned().chain(["gc=manual".into()]).collect();
        let mut volume = self.volume(name, &options, false)?;
        volume.mount()?;
        if matches!(self.place, Place::Device(_)) {
            clean(&volume)?;
        }
        let status = volume.status()?;
        let zone = status.devices().next().and_then(|device| device["zone_capacity"].as_u64()).context("a device without zones")?;
        let room = (status.number("zones/empty")? * zone).saturating_sub(status.number("space/reserved")?);
        let most = (room as f64 * CONTROL_SHARE) as u64;
        if most < CONTROL_LEAST {
            volume.umount()?;
            return Ok(Err(format!("no room to write without cleaning: {} MiB are empty", room / MIB)));
        }
        let limit = Limit { bytes: Some(limit.bytes.map_or(most, |bytes| bytes.min(most))), ..limit };
        let played = observed(&volume, &aged.workload, limit)?;
        volume.umount()?;
        let moved = played.run.get("relocated").copied().unwrap_or(0.0);
        Ok(if moved > 0.0 { Err(format!("{moved:.0} MiB had to be cleaned during the control")) } else { Ok(played) })
    }
}

fn clean(volume: &Volume) -> Result<()> {
    volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()])?.ok()?;
    Ok(())
}

/// What cleaning costs while nobody writes.
fn alone(volume: &Volume) -> Result<Run> {
    let (before, spent) = (volume.status()?, daemon(volume)?);
    clean(volume)?;
    let (after, now) = (volume.status()?, daemon(volume)?);
    figures::of_cleaning(&before, &after, (now.0 - spent.0, now.1 - spent.1))
}

fn daemon(volume: &Volume) -> Result<Cpu> {
    cpu::seconds(volume.pid().context("it is mounted")?)
}

fn zones(volume: &Volume) -> Result<serde_json::Value> {
    let said = volume.ferryfs(["zones".as_ref(), "--json".as_ref(), volume.root().as_os_str()])?.ok()?;
    serde_json::from_str(&said.stdout).context("reading what `ferryfs zones` said")
}

/// Runs the load on a mounted volume and looks at the counters meanwhile.
fn observed(volume: &Volume, workload: &Workload, limit: Limit) -> Result<Played> {
    let zones_before = zones(volume)?;
    let (before, spent) = (volume.status()?, daemon(volume)?);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (measured, looks) = std::thread::scope(|scope| -> Result<(Measured, Vec<Look>)> {
        let looker = scope.spawn(|| look(volume.root(), &before, began, &over));
        let measured = workload.run(volume.root(), limit);
        over.store(true, Ordering::Relaxed);
        let looks = looker.join().ok().context("who looked at the counters panicked")?;
        Ok((measured?, looks?))
    })?;
    let (after, now) = (volume.status()?, daemon(volume)?);
    let mut run = figures::of_load(&measured);
    run.extend(figures::of_volume(&before, &after, (now.0 - spent.0, now.1 - spent.1))?);
    Ok(Played { run, measured, looks, zones: [zones_before, zones(volume)?], status: after })
}

fn look(root: &Path, before: &Status, began: Instant, over: &AtomicBool) -> Result<Vec<Look>> {
    let client = Client::open(root)?;
    let mut looks = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let now = Status(client.ask(Request::Status)?);
        let relocated = now.since(before, "gc/relocated")?;
        looks.push(Look { at: began.elapsed().as_secs_f64(), relocated, empty_zones: now.number("zones/empty")? });
        std::thread::sleep(LOOK);
    }
    Ok(looks)
}

/// Copies a file that is mostly holes: by reflink, else what is data.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let (source, target) = (File::open(from).with_context(|| from.display().to_string())?, File::create(to)?);
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error).with_context(|| format!("looking for data in {}", from.display())),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(data))?;
        let (mut read, mut written) = (data, data);
        while read < end {
            let left = (end - read) as usize;
            let n = rustix::fs::copy_file_range(&source, Some(&mut read), &target, Some(&mut written), left)?;
            ensure!(n > 0, "{} became shorter while it was copied", from.display());
        }
        at = end;
    }
    // What is still on its way to a disk would be charged to whoever is measured next.
    target.sync_data().with_context(|| to.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_sparse_file_is_copied_whole_and_stays_sparse() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0u64, 5 << 20, (40 << 20) + 17] {
            file.write_all_at(&[7; 10_000], at).unwrap();
        }
        file.sync_all().unwrap();
        copy_file(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(std::fs::metadata(&to).unwrap().blocks() * 512 < 8 << 20);
    }
}
