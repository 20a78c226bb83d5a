//! Other filesystems under the same load, from outside: through their mount, and by what the kernel's block layer counts of the loop device they are on
//! (`/sys/block/*/stat`). One that this machine cannot make or mount is named with the reason.

use super::figures::{self, Run};
use super::stage::{Filling, copy_file};
use super::workload::{Limit, Workload};
use crate::loops::{LoopMount, call, is_installed, word};
use anyhow::{Result, ensure};
use harness::bytes::MIB;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One that can be named after `--vs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Other {
    F2fs,
    Btrfs,
    Xfs,
    Nilfs2,
    Ext4,
}

impl Other {
    /// As mount(8) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Other::F2fs => "f2fs",
            Other::Btrfs => "btrfs",
            Other::Xfs => "xfs",
            Other::Nilfs2 => "nilfs2",
            Other::Ext4 => "ext4",
        }
    }

    /// Arguments of its mkfs before the file: one copy of everything, nothing held back for root.
    fn format(self) -> &'static [&'static str] {
        match self {
            Other::F2fs => &["-q", "-f"],
            Other::Btrfs => &["-q", "-f", "-m", "single", "-d", "single"],
            Other::Xfs => &["-q", "-f"],
            Other::Nilfs2 => &["-q", "-f"],
            Other::Ext4 => &["-q", "-F", "-m", "0"],
        }
    }
}

/// One of them, filled and aged in an image of its own, and not mounted.
pub struct Prepared {
    pub other: Other,
    /// The load, with files as large as they are there.
    pub workload: Workload,
    /// What its files take of the bytes that FerryFS's files take, in the same share of the same device.
    pub share: f64,
    image: PathBuf,
    directory: PathBuf,
}

impl Prepared {
    /// Formats a file of `size` bytes, fills it as full as FerryFS (`workload` has its files) and ages it. One that cannot hold as much gets
    /// smaller files: first two thirds, then half.
    pub fn new(other: Other, directory: &Path, size: u64, workload: &Workload, filling: Filling, total: u64) -> Result<Prepared> {
        let directory = directory.join(other.name());
        std::fs::create_dir_all(&directory)?;
        let mut refusal = None;
        for share in [1.0, 2.0 / 3.0, 0.5] {
            let image = directory.join("aged.img");
            File::create(&image)?.set_len(size)?;
            let mkfs = format!("mkfs.{}", other.name());
            ensure!(is_installed(&mkfs), "{mkfs} is not installed");
            let arguments: Vec<&str> = other.format().iter().copied().chain([word(&image)?]).collect();
            call(&mkfs, &arguments)?;
            let mounted = LoopMount::new(other.name(), &image, &directory.join("mnt"))?;
            let workload = workload.clone().sized((workload.bytes() as f64 * share) as u64)?;
            let bytes = (total as f64 * filling.age * share) as u64;
            match workload.fill(mounted.root()).and_then(|()| workload.age(mounted.root(), bytes)) {
                Ok(()) => {
                    mounted.sync()?;
                    return Ok(Prepared { other, workload, share, image, directory });
                }
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or_else(|| anyhow::anyhow!("nothing was tried")))
    }

    /// Runs the load on a copy.
    pub fn play(&self, limit: Limit) -> Result<Run> {
        let image = self.directory.join("run.img");
        copy_file(&self.image, &image)?;
        let mounted = LoopMount::new(self.other.name(), &image, &self.directory.join("mnt"))?;
        let before = mounted.link()?;
        let measured = self.workload.run(mounted.root(), limit)?;
        mounted.sync()?;
        let after = mounted.link()?;
        ensure!(measured.bytes > 0, "nothing was written");
        let (read, written) = (after.0 - before.0, after.1 - before.1);
        let mut run = figures::of_load(&measured);
        run.extend([
            ("user_written", measured.bytes as f64 / MIB as f64),
            ("link_read", read as f64 / MIB as f64),
            ("link_written", written as f64 / MIB as f64),
            ("link_per_user_byte", (read + written) as f64 / measured.bytes as f64),
        ]);
        drop(mounted);
        std::fs::remove_file(&image)?;
        Ok(run)
    }
}

/// What went wrong in a few words, without the pages that some programs print then.
pub fn reason(error: &anyhow::Error) -> String {
    const LINES: usize = 3;
    format!("{error:#}").lines().take(LINES).map(str::trim).collect::<Vec<_>>().join("; ")
}
