//! What is measured beside each other: FerryFS on an image and on a loop device, the ceiling of FUSE, filesystems of the kernel on loop devices, fuse2fs.

use crate::loops::{Loop, LoopMount, call, is_installed, search_path, word};
use anyhow::{Context, Result, bail, ensure};
use harness::{Programs, Volume, VolumeSpec, mounts};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// No part of a run takes longer; a daemon that does is killed.
const DEADLINE: Duration = Duration::from_secs(3600);

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum System {
    /// FerryFS on an image file.
    FerryfsImage,
    /// The same, with requests over io_uring. Only where it is named: most kernels have that off.
    FerryfsImageRing,
    /// FerryFS on a loop device over such a file.
    FerryfsLoop,
    /// A naive filesystem in memory behind the same FUSE adaptor.
    Ceiling,
    /// ext4 on a loop device.
    Ext4,
    /// XFS on a loop device.
    Xfs,
    /// btrfs on a loop device.
    Btrfs,
    /// ext4 by a FUSE daemon of e2fsprogs, on a file.
    Fuse2fs,
}

impl System {
    /// All that are measured unless some are named, FerryFS first.
    pub const ALL: [System; 7] =
        [System::FerryfsImage, System::FerryfsLoop, System::Ceiling, System::Ext4, System::Xfs, System::Btrfs, System::Fuse2fs];

    /// As tables and results call it.
    pub fn name(self) -> &'static str {
        match self {
            System::FerryfsImage => "ferryfs-image",
            System::FerryfsImageRing => "ferryfs-image-ring",
            System::FerryfsLoop => "ferryfs-loop",
            System::Ceiling => "ceiling",
            System::Ext4 => "ext4",
            System::Xfs => "xfs",
            System::Btrfs => "btrfs",
            System::Fuse2fs => "fuse2fs",
        }
    }

    /// Does it lie in memory, whatever the others lie on?
    pub fn is_in_memory(self) -> bool {
        self == System::Ceiling
    }
}

/// A system that is fresh and mounted; gone when dropped.
pub struct Stand {
    root: PathBuf,
    // Dropped in this order: first what is mounted, then the device below it, then its file.
    volume: Option<Volume>,
    _kernel: Option<LoopMount>,
    daemon: Option<Daemon>,
    _device: Option<Loop>,
    _image: Image,
}

/// A file that goes when it is dropped.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A FUSE daemon in the foreground.
struct Daemon {
    child: Child,
    root: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.root.to_str().is_none_or(|root| call("umount", &[root]).is_err()) {
            mounts::detach_below(&self.root);
        }
        if !matches!(harness::process::wait(&mut self.child, PATIENCE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Stand {
    /// Makes `system` in a file of `size` bytes in `directory`, and mounts it there.
    ///
    /// # Errors
    /// This machine lacks a program, a right or the filesystem.
    pub fn new(system: System, directory: &Path, size: u64) -> Result<Stand> {
        let image = Image(directory.join(format!("{}.img", system.name())));
        let root = directory.join("mnt");
        std::fs::create_dir_all(&root)?;
        let mut stand = Stand { root, volume: None, _kernel: None, daemon: None, _device: None, _image: image };
        match system {
            System::FerryfsImage | System::FerryfsImageRing => {
                let format = vec!["--size".into(), size.to_string()];
                let over_ring = if system == System::FerryfsImageRing { &["transport=io_uring"][..] } else { &[] };
                stand.volume = Some(volume(directory, stand._image.0.clone(), format, over_ring)?);
            }
            System::FerryfsLoop => {
                stand.sparse(size)?;
                let device = Loop::new(&stand._image.0)?;
                let path = PathBuf::from(device.path());
                stand._device = Some(device);
                stand.volume = Some(volume(directory, path, Vec::new(), &[])?);
            }
            System::Ceiling => {
                let mut command = Command::new(std::env::current_exe()?);
                stand.daemon = Some(daemon(command.arg("ceiling").arg(&stand.root), &stand.root)?);
            }
            System::Ext4 => stand._kernel = Some(stand.formatted("ext4", &["-q", "-F"], size)?),
            System::Xfs => stand._kernel = Some(stand.formatted("xfs", &["-q", "-f"], size)?),
            System::Btrfs => stand._kernel = Some(stand.formatted("btrfs", &["-q", "-f"], size)?),
            System::Fuse2fs => {
                ensure!(is_installed("fuse2fs"), "fuse2fs is not installed");
                stand.format("ext4", &["-q", "-F"], size)?;
                let mut command = Command::new("fuse2fs");
                command.env("PATH", search_path()).args(["-f", "-o", "fakeroot"]).arg(&stand._image.0).arg(&stand.root);
                stand.daemon = Some(daemon(&mut command, &stand.root)?);
            }
        }
        if let Some(volume) = &stand.volume {
            stand.root = volume.root().to_owned();
        }
        Ok(stand)
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn sparse(&self, size: u64) -> Result<()> {
        Ok(File::create(&self._image.0)?.set_len(size)?)
    }

    fn format(&self, kind: &str, options: &[&str], size: u64) -> Result<()> {
        self.sparse(size)?;
        let program = format!("mkfs.{kind}");
        ensure!(is_installed(&program), "{program} is not installed");
        let arguments: Vec<&str> = options.iter().copied().chain([word(&self._image.0)?]).collect();
        call(&program, &arguments).map(drop)
    }

    fn formatted(&self, kind: &str, options: &[&str], size: u64) -> Result<LoopMount> {
        self.format(kind, options, size)?;
        LoopMount::new(kind, &self._image.0, &self.root)
    }
}

fn volume(directory: &Path, device: PathBuf, format: Vec<String>, options: &[&str]) -> Result<Volume> {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    let spec = VolumeSpec { format, options, devices: vec![device], deadline: DEADLINE };
    let mut volume = Volume::create(&Programs::find()?, directory, spec)?;
    volume.mount()?;
    Ok(volume)
}

/// Starts a daemon that stays in the foreground; returns when `root` is mounted.
fn daemon(command: &mut Command, root: &Path) -> Result<Daemon> {
    let shown = harness::process::shown(command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| shown.clone())?;
    let mut daemon = Daemon { child, root: root.to_owned() };
    let watch = mounts::Watch::new()?;
    let started = Instant::now();
    while mounts::at(root).is_none() {
        if let Some(status) = daemon.child.try_wait()? {
            bail!("{shown} ended with {status}");
        }
        ensure!(started.elapsed() < PATIENCE, "{shown} has mounted nothing in {} s", PATIENCE.as_secs());
        watch.wait(Duration::from_millis(20));
    }
    Ok(daemon)
}
