//! Filesystems of the kernel on loop devices, and the programs of the system that make and mount them.

use anyhow::{Context, Result};
use harness::{mounts, run as run_program};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

/// PATH with the directories of the administrator's programs.
pub fn search_path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}

/// What a program prints.
///
/// # Errors
/// It cannot be run, or fails.
pub fn call(program: &str, arguments: &[&str]) -> Result<String> {
    Ok(run_program(Command::new(program).env("PATH", search_path()).args(arguments), LIMIT)?.ok()?.stdout)
}

/// Is there such a program?
pub fn is_installed(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|directory| directory.join(program).is_file())
}

/// A path as an argument of [`call`].
///
/// # Errors
/// It is not UTF-8.
pub fn word(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A file behind a loop device; the device goes with it.
#[derive(Debug)]
pub struct Loop(String);

impl Loop {
    /// # Errors
    /// No right, no free device.
    pub fn new(image: &Path) -> Result<Loop> {
        Ok(Loop(call("losetup", &["--find", "--show", word(image)?])?.trim().to_owned()))
    }

    /// Path of the device.
    pub fn path(&self) -> &str {
        &self.0
    }

    /// Bytes read and written so far (Documentation/block/stat.rst: sectors of 512 bytes, third and seventh field).
    ///
    /// # Errors
    /// sysfs does not say.
    pub fn link(&self) -> Result<(u64, u64)> {
        let name = self.0.rsplit('/').next().context("a loop device has a name")?;
        let path = format!("/sys/block/{name}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field = |n: usize| fields.get(n).copied().with_context(|| format!("{path} has too few fields"));
        Ok((field(2)? * 512, field(6)? * 512))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What still holds it keeps it until it is gone.
        let _ = call("losetup", &["--detach", &self.0]);
    }
}

/// A filesystem on a loop device, mounted until it is dropped.
#[derive(Debug)]
pub struct LoopMount {
    device: Loop,
    root: PathBuf,
}

impl LoopMount {
    /// Mounts what lies in `image` at `root`, which is made if it is missing. `kind` is what mount(8) calls it.
    ///
    /// # Errors
    /// No right, no such filesystem in this kernel.
    pub fn new(kind: &str, image: &Path, root: &Path) -> Result<LoopMount> {
        std::fs::create_dir_all(root)?;
        let mounted = LoopMount { device: Loop::new(image)?, root: root.to_owned() };
        call("mount", &["-t", kind, mounted.device.path(), word(root)?]).context("it cannot be mounted here")?;
        Ok(mounted)
    }

    /// Where.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// See [`Loop::link`].
    ///
    /// # Errors
    /// As there.
    pub fn link(&self) -> Result<(u64, u64)> {
        self.device.link()
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let ended = self.root.to_str().is_some_and(|root| call("umount", &[root]).is_ok());
        if !ended {
            mounts::detach_below(&self.root);
        }
    }
}
