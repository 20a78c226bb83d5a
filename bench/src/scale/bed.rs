//! What the parts stand on: volumes in a backing, and what is asked of every one of them.

use super::Plot;
use crate::report::{Report, Row};
use crate::rig::Rig;
use anyhow::{Context, Result};
use harness::bytes::MIB;
use harness::{Programs, Volume, VolumeSpec, cpu};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A daemon that takes longer is killed.
const DEADLINE: Duration = Duration::from_secs(4 * 3600);

/// How all parts are run, and what came of them.
pub struct Bed {
    /// `memory`, or a directory.
    pub backing: String,
    /// Bytes of cache of each mount.
    pub cache: u64,
    /// Smaller.
    pub quick: bool,
    /// Figures.
    pub report: Report,
    /// Costs against size.
    pub plots: Vec<Plot>,
}

/// A volume that is formatted, and goes with its image.
pub struct Site {
    /// Not mounted yet.
    pub volume: Volume,
    /// How long mkfs took, in seconds.
    pub formatted: f64,
    cache: u64,
    // Goes after the volume.
    _rig: Rig,
}

impl Bed {
    /// Formats a volume with these arguments of mkfs, in a backing that must have so many bytes.
    pub fn site(&self, format: &str, room: u64) -> Result<Site> {
        let rig = if self.backing == "memory" { Rig::new(room)? } else { Rig::within(Path::new(&self.backing))? };
        let spec = VolumeSpec {
            format: format.split_whitespace().map(String::from).collect(),
            options: vec![format!("cache_size={}", self.cache)],
            deadline: DEADLINE,
            ..VolumeSpec::default()
        };
        let mut volume = Volume::existing(&Programs::find()?, rig.path(), spec)?;
        let formatted = volume.format()?.ok()?.seconds;
        Ok(Site { volume, formatted, cache: self.cache, _rig: rig })
    }
}

impl Site {
    /// What the daemon of a volume may keep in memory, in bytes.
    pub fn allowed(&self) -> Result<u64> {
        let zones: u64 = self.volume.status()?.devices().filter_map(|device| device["zones"].as_u64()).sum();
        Ok(self.cache + 64 * MIB + 64 * zones)
    }

    /// What it keeps, in bytes.
    pub fn resident(&self) -> Result<u64> {
        cpu::resident(self.volume.pid().context("it is mounted")?)
    }

    /// Bytes that the image takes of its backing.
    pub fn taken(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.volume.device())?.blocks() * 512)
    }

    /// Seconds that `ferryfs status` takes.
    pub fn status_time(&self) -> Result<f64> {
        let started = Instant::now();
        self.volume.status()?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Seconds until it is unmounted and everything is on the device.
    pub fn umount(&mut self) -> Result<f64> {
        let started = Instant::now();
        self.volume.umount()?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Seconds from the start of `ferryfs mount` until the mount answers.
    pub fn mount(&mut self) -> Result<f64> {
        Ok(self.volume.mount()?.as_secs_f64())
    }
}

/// The row of resident memory: in MiB, beside what is allowed.
pub fn memory_row(what: String, resident: u64, allowed: u64) -> Row {
    Row::new(what, resident as f64 / MIB as f64, "MiB").goal(format!("below {}", allowed / MIB), resident < allowed)
}
