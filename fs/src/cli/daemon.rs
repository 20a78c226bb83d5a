//! `ferryfs mount`: from the command line to a mount that answers, and on to the day when it is unmounted.
//!
//! The order matters. Everything that can be checked without touching a device is checked in the process that the user
//! sees. Then the daemon is forked (before any thread exists), opens the volume, mounts, and reports; only then does the
//! command return. At the end the volume is shut down after the last request was answered, whoever unmounted it.

use super::background::{self, Report, Side};
use super::failure::{CommandResult, Failure, MOUNT_FAILED, MOUNT_SYSTEM, MOUNT_USAGE, OrFail};
use super::logging::Log;
use super::options::MountSettings;
use super::privileges;
use super::signals::{Event, Signals};
use crate::fuse::mountpoint::{self, MountLine, Preparation};
use crate::fuse::{AdaptorOptions, MountRequest, Mounted, Served};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What is to be mounted, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Devices, absolute.
    pub devices: Vec<PathBuf>,
    /// Where, absolute and without symbolic links.
    pub mountpoint: PathBuf,
    /// The options.
    pub settings: MountSettings,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Where the cleaner's trace goes, absolute.
    pub trace: Option<PathBuf>,
    /// Where the daemon's words go.
    pub log: Option<PathBuf>,
}

impl Plan {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// A device or mount point that is not there or not fit.
    pub fn new(devices: &[PathBuf], mountpoint: &Path, settings: MountSettings) -> CommandResult<Self> {
        mountpoint::check_fuse().or_fail(MOUNT_SYSTEM)?;
        let all = devices.iter().chain(&settings.devices);
        let devices = all.map(|path| check_device(path)).collect::<CommandResult<Vec<_>>>()?;
        for (i, path) in devices.iter().enumerate() {
            if devices[..i].contains(path) {
                return Err(Failure::new(MOUNT_USAGE, format!("{} is named twice", path.display())));
            }
        }
        let mountpoint = check_mountpoint(mountpoint, settings.nonempty)?;
        Ok(Self { devices, mountpoint, settings, foreground: false, trace: None, log: None })
    }

    fn request(&self) -> MountRequest {
        let settings = &self.settings;
        // Whoever is not root may have the right to mount all the same, by a capability of the program: what they made must not take effect either.
        let trusted = rustix::process::geteuid().is_root();
        MountRequest {
            mountpoint: self.mountpoint.clone(),
            source: self.devices.first().map_or_else(|| "ferryfs".into(), |path| path.to_string_lossy().into_owned()),
            read_only: settings.read_only,
            no_suid: settings.no_suid || !trusted,
            no_dev: settings.no_dev || !trusted,
            no_exec: settings.no_exec,
            no_sym_follow: settings.no_sym_follow,
            atimes: settings.atimes,
            allow_other: settings.allow_other,
            kind: settings.fuse_type,
        }
    }
}

fn check_device(path: &Path) -> CommandResult<PathBuf> {
    let found = path.canonicalize();
    found.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(MOUNT_FAILED, format!("device {} does not exist", path.display())),
        std::io::ErrorKind::PermissionDenied => Failure::new(MOUNT_USAGE, zns::permission::not_opened_io(path, true, &error)),
        _ => Failure::new(MOUNT_FAILED, format!("device {}: {error}", path.display())),
    })
}

/// The mount point, absolute, if something can be mounted there.
fn check_mountpoint(path: &Path, nonempty: bool) -> CommandResult<PathBuf> {
    let failed = |text: String| Failure::new(MOUNT_FAILED, format!("mount point {} {text}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => failed("does not exist".into()),
        Some(libc::ENOTCONN) => failed("still carries a mount whose daemon is gone: remove it with ferryfs umount".into()),
        _ => failed(format!("cannot be used: {error}")),
    })?;
    if !metadata.is_dir() {
        return Err(failed("is not a directory".into()));
    }
    let path = path.canonicalize().map_err(|error| failed(format!("cannot be used: {error}")))?;
    let above = mountpoint::mounts().unwrap_or_default().into_iter().rfind(|line| line.path == path);
    if let Some(line) = above.filter(MountLine::is_ours) {
        return Err(failed(format!("carries a FerryFS already: {}", line.source)));
    }
    let mut entries = std::fs::read_dir(&path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    if !nonempty && entries.next().is_some() {
        return Err(failed("is not empty (-o nonempty covers what is in it)".into()));
    }
    Ok(path)
}

/// Carries out a plan: opens the filesystem, mounts it, serves it, closes it. Returns when the mount answers, or, in the
/// foreground, when it is over.
pub fn run<S: Served>(
    plan: &Plan,
    program: &str,
    open: impl FnOnce(&Plan) -> CommandResult<Arc<S>>,
    close: impl Fn(&S) -> CommandResult,
) -> ExitCode {
    let side = if plan.foreground { Ok(Side::Child(Report::none())) } else { background::fork(program) };
    match side {
        Err(failure) => failure.report(program),
        Ok(Side::Parent(status)) => status,
        Ok(Side::Child(report)) => serve(plan, program, report, open, close),
    }
}

fn serve<S: Served>(
    plan: &Plan,
    program: &str,
    report: Report,
    open: impl FnOnce(&Plan) -> CommandResult<Arc<S>>,
    close: impl Fn(&S) -> CommandResult,
) -> ExitCode {
    let prepared = prepare(plan).and_then(|(signals, log, log_file, preparation)| {
        let served = open(plan)?;
        let options = AdaptorOptions { transport: plan.settings.transport, ..AdaptorOptions::default() };
        match Mounted::start_prepared(served.clone(), &plan.request(), preparation, options) {
            Ok(mounted) => Ok((signals, log, log_file, served, mounted)),
            Err(error) => {
                // What was opened is closed as if it had been unmounted; the first error is the one to report.
                let _ = close(&*served);
                drop(served);
                Err(Failure::new(MOUNT_FAILED, error))
            }
        }
    });
    let (signals, log, log_file, served, mounted) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return report.failed(&failure, program),
    };
    let background = report.is_background();
    if let Err(failure) = report.ready(log_file.as_ref()) {
        tracing::error!("{}", failure.text);
    }
    if background {
        log.detach();
    }
    let ended = wait_until_over(&mounted, &signals, &served).and_then(|()| match mounted.wait() {
        Ok(()) => Ok(()),
        Err(error) => Err(Failure::new(MOUNT_FAILED, format!("the FUSE session ended with an error: {error}"))),
    });
    let closed = close(&*served);
    let failures: Vec<Failure> = [ended, closed].into_iter().filter_map(Result::err).collect();
    for failure in &failures {
        tracing::error!("{}", failure.text);
    }
    match failures.first() {
        Some(first) => ExitCode::from(first.status),
        None => ExitCode::SUCCESS,
    }
}

/// What the process needs to be before the first thread is made that has to do with the volume.
fn prepare(plan: &Plan) -> CommandResult<(Signals, Log, Option<File>, Option<Preparation>)> {
    let log_file = match &plan.log {
        None => None,
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            Some(file.map_err(|error| Failure::new(MOUNT_SYSTEM, format!("log file {}: {error}", path.display())))?)
        }
    };
    let copy = log_file.as_ref().map(File::try_clone).transpose().or_fail(MOUNT_SYSTEM)?;
    let log = Log::start(copy);
    let signals = Signals::take().or_fail(MOUNT_SYSTEM)?;
    if !plan.foreground {
        // Keep no directory busy.
        std::env::set_current_dir("/").or_fail(MOUNT_SYSTEM)?;
    }
    mark_as_io_flusher();
    let block_devices = plan.devices.iter().any(|device| is_block_device(device));
    let preparation = plan.request().prepare(move || privileges::give_up(block_devices));
    privileges::give_up(block_devices).or_fail(MOUNT_SYSTEM)?;
    Ok((signals, log, log_file, preparation))
}

fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Memory reclaim may write pages back through this daemon; so the daemon's own allocations must not wait for reclaim.
/// Threads inherit the mark. Needs CAP_SYS_RESOURCE; without it things are as for any program.
fn mark_as_io_flusher() {
    const PR_SET_IO_FLUSHER: i32 = 57;
    // SAFETY: a plain flag of this process, no memory involved.
    let done = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if done != 0 {
        tracing::info!("PR_SET_IO_FLUSHER: {}", std::io::Error::last_os_error());
    }
}

/// Waits for the end. The first signal makes everything durable and takes the mount out of the tree; programs that still
/// have files open may go on until they close them. The second signal ends that patience.
fn wait_until_over<S: Served>(mounted: &Mounted, signals: &Signals, served: &Arc<S>) -> CommandResult {
    let mut asked = false;
    loop {
        match signals.wait_beside(mounted.over()).or_fail(MOUNT_SYSTEM)? {
            Event::Other => return Ok(()),
            Event::Signal if asked => {
                return Err(Failure::new(MOUNT_FAILED, "asked twice to end: programs that still have files open lose them"));
            }
            Event::Signal => asked = true,
        }
        // On a thread of its own, for it may take as long as the last checkpoint, and a second signal is to be heard.
        let (way_out, served) = (mounted.way_out(), served.clone());
        let leave = move || {
            if let Err(error) = served.sync() {
                tracing::error!("sync before unmounting: {error}");
            }
            // Whoever closes the volume is the last to hold it.
            drop(served);
            if way_out.unmount(false).is_err()
                && let Err(error) = way_out.unmount(true)
            {
                tracing::error!("{error}");
            }
        };
        std::thread::Builder::new().name("leave".into()).spawn(leave).or_fail(MOUNT_SYSTEM)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_that_are_not_fit_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let says = |path: &Path, nonempty| check_mountpoint(path, nonempty).map_err(|failure| failure.text);
        assert!(says(&directory.path().join("absent"), false).unwrap_err().contains("does not exist"));
        let file = directory.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(says(&file, false).unwrap_err().contains("not a directory"));
        assert!(says(directory.path(), false).unwrap_err().contains("not empty"));
        assert!(says(directory.path(), true).is_ok());
        let empty = directory.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert_eq!(says(&empty, false), Ok(empty.canonicalize().unwrap()));
    }

    #[test]
    fn devices_are_checked_before_anything_happens() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("device");
        let mount = directory.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let plan = |devices: &[PathBuf]| Plan::new(devices, &mount, MountSettings::default()).map_err(|failure| failure.text);
        if mountpoint::check_fuse().is_err() {
            return;
        }
        assert!(plan(std::slice::from_ref(&device)).unwrap_err().contains("does not exist"));
        std::fs::write(&device, b"").unwrap();
        assert!(plan(std::slice::from_ref(&device)).is_ok());
        assert!(plan(&[device.clone(), device]).unwrap_err().contains("named twice"));
    }
}
