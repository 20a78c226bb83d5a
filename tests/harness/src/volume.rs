//! One volume on an image file or device, its mount point and its daemon; gone without a trace when dropped.

use crate::process::{Outcome, run, wait};
use crate::{Programs, Status, mounts};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// No command of ours may take longer; one that does hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// What volume to make and how to mount it.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Arguments of `mkfs.ferryfs` before the devices.
    pub format: Vec<String>,
    /// Mount options, joined by commas after `-o`.
    pub options: Vec<String>,
    /// Devices or image files; relative paths lie in the directory given to [`Volume::create`].
    pub devices: Vec<PathBuf>,
    /// The daemon is killed after this time, so that a hung filesystem fails a run instead of hanging it.
    pub deadline: Duration,
}

impl Default for VolumeSpec {
    fn default() -> Self {
        VolumeSpec {
            format: ["--size", "512M", "--zone-size", "4M"].map(String::from).to_vec(),
            options: Vec::new(),
            devices: vec!["volume.img".into()],
            deadline: Duration::from_secs(900),
        }
    }
}

/// A formatted volume, mounted or not.
#[derive(Debug)]
pub struct Volume {
    programs: Programs,
    spec: VolumeSpec,
    mountpoint: PathBuf,
    log: PathBuf,
    daemon: Option<Daemon>,
}

#[derive(Debug)]
struct Daemon {
    child: Child,
    // Dropping it ends the watchdog.
    _watchdog: Sender<()>,
}

impl Volume {
    /// Formats the devices of `spec` and makes a mount point, all below `directory`, which must exist.
    pub fn create(programs: &Programs, directory: &Path, spec: VolumeSpec) -> Result<Volume> {
        let mut volume = Volume::existing(programs, directory, spec)?;
        volume.format()?.ok()?;
        Ok(volume)
    }

    /// As [`Volume::create`], for devices that are formatted already.
    pub fn existing(programs: &Programs, directory: &Path, mut spec: VolumeSpec) -> Result<Volume> {
        let directory = std::path::absolute(directory)?;
        for device in &mut spec.devices {
            *device = directory.join(&*device);
        }
        let mountpoint = directory.join("mnt");
        std::fs::create_dir_all(&mountpoint)?;
        let log = directory.join("daemon.log");
        Ok(Volume { programs: programs.clone(), spec, mountpoint, log, daemon: None })
    }

    /// Runs `mkfs.ferryfs`.
    pub fn format(&mut self) -> Result<Outcome> {
        let mut command = self.programs.command("mkfs.ferryfs")?;
        run(command.args(&self.spec.format).args(&self.spec.devices), LIMIT)
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// A path in the mount.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(relative)
    }

    /// The first device.
    pub fn device(&self) -> &Path {
        &self.spec.devices[0]
    }

    /// All devices.
    pub fn devices(&self) -> &[PathBuf] {
        &self.spec.devices
    }

    /// The programs that drive it.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Changes the options of the next mount.
    pub fn set_options<S: Into<String>>(&mut self, options: impl IntoIterator<Item = S>) {
        self.spec.options = options.into_iter().map(Into::into).collect();
    }

    /// The daemon's process id while it is mounted.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|d| d.child.id())
    }

    /// What the daemon said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Mounts it and returns, when the mount answers, how long that took. The daemon stays our child (`--foreground`), so that it can be killed and
    /// waited for.
    pub fn mount(&mut self) -> Result<Duration> {
        anyhow::ensure!(self.daemon.is_none(), "already mounted");
        let log = File::options().create(true).append(true).open(&self.log)?;
        let watch = mounts::Watch::new()?;
        let started = Instant::now();
        let mut command = self.programs.command("ferryfs")?;
        command.args(["mount", "--foreground"]);
        if !self.spec.options.is_empty() {
            command.args(["-o", &self.spec.options.join(",")]);
        }
        command.args(&self.spec.devices).arg(&self.mountpoint);
        let shown = crate::process::shown(&command);
        let said_before = self.log().len();
        let mut child =
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().with_context(|| format!("starting `{shown}`"))?;
        while mounts::at(&self.mountpoint).is_none() {
            if let Some(status) = child.try_wait()? {
                bail!("`{shown}` ended with {status}: {}", self.log()[said_before..].trim());
            }
            if started.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                bail!("`{shown}` did not mount within {} s: {}", LIMIT.as_secs(), self.log()[said_before..].trim());
            }
            watch.wait(Duration::from_millis(20));
        }
        let watchdog = watchdog(child.id(), self.spec.deadline);
        self.daemon = Some(Daemon { child, _watchdog: watchdog });
        rustix::fs::statvfs(&self.mountpoint).context("the mount does not answer")?;
        Ok(started.elapsed())
    }

    /// `ferryfs umount`, which returns when everything is on the device; then waits for the daemon's end.
    pub fn umount(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        let said_before = self.log().len();
        // A process that is being started elsewhere holds copies of our files between fork and exec, for a moment: a mount that is in
        // use only so long is none to complain of.
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            let outcome = run(self.programs.command("ferryfs")?.arg("umount").arg(&self.mountpoint), LIMIT)?;
            if outcome.success() {
                break;
            }
            if !outcome.stderr.contains("in use") || Instant::now() > patience {
                self.daemon = Some(daemon);
                bail!("{outcome}\n{}", self.log()[said_before..].trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = wait(&mut daemon.child, Duration::from_secs(10))?;
        let Some(status) = ended else {
            self.daemon = Some(daemon);
            bail!("`ferryfs umount` returned while the daemon still runs");
        };
        anyhow::ensure!(status.success(), "the daemon ended with {status}: {}", self.log()[said_before..].trim());
        Ok(())
    }

    /// Unmounts and mounts again.
    pub fn remount(&mut self) -> Result<Duration> {
        self.umount()?;
        self.mount()
    }

    /// Kills the daemon with SIGKILL and clears the dead mount away.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
        mounts::detach_below(&self.mountpoint);
    }

    /// `ferryfs status --json` of the mount, or of the device when it is not mounted.
    pub fn status(&self) -> Result<Status> {
        let target = if self.daemon.is_some() { self.root() } else { self.device() };
        let outcome = run(self.programs.command("ferryfs")?.args(["status", "--json"]).arg(target), LIMIT)?.ok()?;
        Status::parse(&outcome.stdout)
    }

    /// Any `ferryfs` command.
    pub fn ferryfs<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Outcome> {
        run(self.programs.command("ferryfs")?.args(arguments), LIMIT)
    }

    /// `fsck.ferryfs -n` on the devices.
    pub fn fsck(&self) -> Result<Outcome> {
        let limit = LIMIT.max(self.spec.deadline);
        run(self.programs.command("fsck.ferryfs")?.arg("-n").args(&self.spec.devices), limit)
    }

    /// A command that would mount it, for tests of what mounting says; nothing is waited for or cleaned up here.
    pub fn mount_command(&self) -> Result<Command> {
        let mut command = self.programs.command("ferryfs")?;
        command.arg("mount").args(&self.spec.devices).arg(&self.mountpoint);
        Ok(command)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            if !log.trim().is_empty() {
                let from = log.char_indices().rev().nth(8000).map_or(0, |(at, _)| at);
                eprintln!("--- the daemon said:\n{}", log[from..].trim_end());
            }
        }
        self.kill();
    }
}

/// Kills `pid` after `deadline` unless the returned end is dropped before.
fn watchdog(pid: u32, deadline: Duration) -> Sender<()> {
    let (keep, dropped) = channel::<()>();
    std::thread::spawn(move || {
        if dropped.recv_timeout(deadline) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the daemon {pid} is killed: it ran for {} s", deadline.as_secs());
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    });
    keep
}
