//! Other filesystems under the same load, from outside: through their mount, and by what the kernel's block layer counts of the loop device they are on
//! (`/sys/block/*/stat`). One that this machine cannot make or mount is named with the reason.

use super::figures::{self, Run};
use super::stage::{Filling, copy_file};
use super::workload::{Limit, Workload};
use anyhow::{Context, Result, ensure};
use harness::bytes::MIB;
use harness::{mounts, run as run_program};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

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

/// A file on a loop device, mounted.
struct Mounted {
    device: String,
    root: PathBuf,
}

fn call(program: &str, arguments: &[&str]) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    Ok(run_program(Command::new(program).env("PATH", path).args(arguments), LIMIT)?.ok()?.stdout)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|directory| directory.join(program).is_file())
}

fn word(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

impl Mounted {
    fn new(other: Other, image: &Path, root: &Path) -> Result<Mounted> {
        std::fs::create_dir_all(root)?;
        let device = call("losetup", &["--find", "--show", word(image)?])?.trim().to_owned();
        // Its drop takes the loop device down when the mount fails.
        let mounted = Mounted { device, root: root.to_owned() };
        call("mount", &["-t", other.name(), &mounted.device, word(root)?]).context("it cannot be mounted here")?;
        Ok(mounted)
    }

    /// Bytes read and written so far (Documentation/block/stat.rst: sectors of 512 bytes, third and seventh field).
    fn link(&self) -> Result<(u64, u64)> {
        let name = self.device.rsplit('/').next().context("a loop device has a name")?;
        let path = format!("/sys/block/{name}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field = |n: usize| fields.get(n).copied().with_context(|| format!("{path} has too few fields"));
        Ok((field(2)? * 512, field(6)? * 512))
    }

    fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let ended = self.root.to_str().is_some_and(|root| call("umount", &[root]).is_ok());
        if !ended {
            mounts::detach_below(&self.root);
        }
        // What still holds it keeps it until it is gone.
        let _ = call("losetup", &["--detach", &self.device]);
    }
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
            let mounted = Mounted::new(other, &image, &directory.join("mnt"))?;
            let workload = workload.clone().sized((workload.bytes() as f64 * share) as u64)?;
            let bytes = (total as f64 * filling.age * share) as u64;
            match workload.fill(&mounted.root).and_then(|()| workload.age(&mounted.root, bytes)) {
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
        let mounted = Mounted::new(self.other, &image, &self.directory.join("mnt"))?;
        let before = mounted.link()?;
        let measured = self.workload.run(&mounted.root, limit)?;
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
