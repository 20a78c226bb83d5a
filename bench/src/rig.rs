//! What the benchmarks stand on: a directory in memory, a FerryFS volume in it, and ext4 on a loop device beside it.

use anyhow::{Context, Result, ensure};
use harness::{Programs, Volume, VolumeSpec, mounts, run};
use rustix::fs::Advice;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);

/// A directory in memory; what is mounted in it goes with it.
pub struct Rig {
    directory: TempDir,
}

impl Rig {
    /// Needs so many bytes of memory.
    pub fn new(room: u64) -> Result<Rig> {
        let memory = Path::new("/dev/shm");
        let stat = rustix::fs::statvfs(memory).context("/dev/shm")?;
        let free = stat.f_bavail * stat.f_frsize;
        ensure!(free >= room, "/dev/shm has {free} bytes free, and {room} are needed: make it larger (mount -o remount,size=...)");
        Ok(Rig { directory: TempDir::with_prefix_in("ferryfs-bench-", memory)? })
    }

    /// Somewhere else than in memory.
    pub fn within(directory: &Path) -> Result<Rig> {
        Ok(Rig { directory: TempDir::with_prefix_in("ferryfs-bench-", directory).with_context(|| directory.display().to_string())? })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A volume, formatted and mounted.
    pub fn ferryfs(&self, format: &str, options: &[&str]) -> Result<Volume> {
        let spec = VolumeSpec {
            format: format.split_whitespace().map(String::from).collect(),
            options: options.iter().map(|option| option.to_string()).collect(),
            deadline: Duration::from_secs(3600),
            ..VolumeSpec::default()
        };
        let mut volume = Volume::create(&Programs::find()?, self.directory.path(), spec)?;
        volume.mount()?;
        Ok(volume)
    }

    /// ext4 on a loop device over a file in the same memory, mounted.
    pub fn ext4(&self, bytes: u64) -> Result<PathBuf> {
        let image = self.directory.path().join("ext4.img");
        let point = self.directory.path().join("ext4");
        File::create(&image)?.set_len(bytes)?;
        std::fs::create_dir(&point)?;
        let mut mkfs = Command::new("mkfs.ext4");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        run(mkfs.env("PATH", path).args(["-q", "-F"]).arg(&image), LIMIT)?.ok().context("mkfs.ext4 (package e2fsprogs)")?;
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(&image).arg(&point), LIMIT)?.ok().context("mounting ext4 on a loop device")?;
        Ok(point)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        mounts::detach_below(self.directory.path());
    }
}

/// Has the kernel forget what it caches of a file, so that the next read is cold.
pub fn forget(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Makes everything in a mount durable.
pub fn sync(root: &Path) -> Result<()> {
    let root = File::open(root)?;
    rustix::fs::syncfs(&root)?;
    Ok(root.sync_all()?)
}
