//! `ferryfs umount`: returns only when everything is on the device and the daemon is gone, unless it still serves the same mount elsewhere.
//!
//! umount(2) alone returns while the daemon still writes its last checkpoint. So the daemon is asked who it is first, and
//! waited for through a pidfd, which cannot confuse it with another process of the same number.

use super::client::{Client, ClientError};
use super::failure::{CommandResult, Failure, MOUNT_FAILED, MOUNT_USAGE};
use crate::fuse::control::{Hello, Request};
use crate::fuse::mountpoint::{self, MountLine, MountpointError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a daemon may take for its last checkpoint before it is looked at what keeps it.
const A_WHILE: Duration = Duration::from_secs(2);

/// Unmounts what is mounted at `path`.
///
/// # Errors
/// Nothing of ours there, a mount in use, or data that could not be made durable.
pub fn umount(path: &Path, lazy: bool) -> CommandResult {
    let (path, line) = find(path)?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(MOUNT_FAILED, error);
    let daemon = match reach(&path) {
        Ok(daemon) => daemon,
        // Its daemon is gone: nothing to wait for, and nothing to lose by detaching it.
        Err(ClientError::Dead(_)) => return mountpoint::unmount(&path, true).map_err(|error| failed(&error)),
        // Not allowed to look inside: unmounting may be allowed all the same, and the lock of the device tells the end.
        Err(ClientError::Open { .. }) => None,
        Err(error) => return Err(failed(&error)),
    };
    // Asked for before the end, because nobody can hear the daemon's last words.
    let synced = match &daemon {
        Some((client, ..)) => client.ask(Request::Sync).map(|_| ()),
        None => Ok(()),
    };
    // An open file of the mount would keep it busy.
    let daemon = daemon.map(|(client, hello, pidfd)| {
        drop(client);
        (hello, pidfd)
    });
    match mountpoint::unmount(&path, lazy) {
        Ok(()) => {}
        // Somebody was faster.
        Err(MountpointError::System(_, error)) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(failed(&error)),
    }
    let ended = match daemon {
        Some((_, Some(pidfd))) => await_end(&line, |at_most| has_ended(&pidfd, at_most)),
        Some((_, None)) | None => await_end(&line, |at_most| Ok(is_unlocked(Path::new(&line.source), at_most))),
    };
    ended.map_err(|errno| failed(&format!("wait for the daemon: {}", std::io::Error::from(errno))))?;
    synced.map_err(|error| failed(&format!("unmounted, but the last changes may not be on the device: {error}")))
}

/// As umount(8) calls its helpers: `umount.TYPE MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE]`.
///
/// # Errors
/// As [`umount`].
pub fn as_helper(arguments: &[OsString]) -> CommandResult {
    let mut mountpoint = None;
    let mut lazy = false;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-t" | "-N") => {
                words.next();
            }
            Some(flags) if flags.starts_with('-') => lazy |= flags.contains('l'),
            _ => mountpoint = Some(PathBuf::from(word)),
        }
    }
    let mountpoint = mountpoint.ok_or_else(|| Failure::new(MOUNT_USAGE, "a mount point is needed"))?;
    umount(&mountpoint, lazy)
}

/// The FerryFS mount at `path`. A path whose daemon is dead cannot be looked at, so only what is above it is resolved.
pub(super) fn find(path: &Path) -> CommandResult<(PathBuf, MountLine)> {
    let not_there = |path: &Path| Failure::new(MOUNT_FAILED, format!("{} is not a mounted FerryFS", path.display()));
    let mounts = mountpoint::mounts().map_err(|error| Failure::new(MOUNT_FAILED, format!("read /proc/self/mountinfo: {error}")))?;
    let lookup = |path: &Path| mounts.iter().rfind(|line| line.path == path).cloned();
    let absolute = absolute(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(MOUNT_FAILED, format!("{} does not exist", path.display())),
        _ => Failure::new(MOUNT_FAILED, format!("{}: {error}", path.display())),
    })?;
    // A device is as good a name as the mount point, if it is mounted once.
    let by_device = || mounts.iter().rfind(|line| line.is_ours() && Path::new(&line.source) == absolute).cloned();
    let line = lookup(&absolute).or_else(by_device).ok_or_else(|| not_there(path))?;
    if line.is_ours() {
        Ok((line.path.clone(), line))
    } else {
        Err(Failure::new(MOUNT_FAILED, format!("{} is a mounted {}, not a FerryFS", path.display(), line.kind)))
    }
}

/// `path` without symbolic links, without touching what is mounted on it.
fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    let Some(name) = path.file_name() else { return path.canonicalize() };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let whole = parent.canonicalize()?.join(name);
    match std::fs::symlink_metadata(&whole) {
        Ok(metadata) if metadata.is_symlink() => whole.canonicalize(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(whole),
    }
}

type Daemon = Option<(Client, Hello, Option<OwnedFd>)>;

/// A line to the daemon, and its process if it lives where we can see it.
fn reach(path: &Path) -> Result<Daemon, ClientError> {
    let client = Client::open(path)?;
    let hello = client.hello()?;
    let same_namespace = hello.pid_namespace.is_some() && hello.pid_namespace == crate::fuse::control::pid_namespace();
    let pid = i32::try_from(hello.pid).ok().and_then(Pid::from_raw).filter(|_| same_namespace);
    // The daemon answers after this as well, so the process is still the one that said hello.
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let still = client.hello()?.pid == hello.pid;
    Ok(Some((client, hello, pidfd.filter(|_| still))))
}

/// Waits for the end of the daemon, but not while the same mount is somewhere else: a bind mount, or a copy that another mount namespace has.
fn await_end(line: &MountLine, mut has_ended: impl FnMut(Duration) -> Result<bool, Errno>) -> Result<(), Errno> {
    let mut silent = true;
    while !has_ended(A_WHILE)? {
        if let Some(place) = mountpoint::is_elsewhere(line) {
            eprintln!("ferryfs umount: {} is still mounted {place}, and its daemon goes on", line.source);
            return Ok(());
        }
        if std::mem::take(&mut silent) {
            eprintln!("ferryfs umount: {} is unmounted; waiting for its daemon, which still has data to write or open files", line.source);
        }
    }
    Ok(())
}

/// Does a process end within this time?
fn has_ended(pidfd: &OwnedFd, at_most: Duration) -> Result<bool, Errno> {
    let limit = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)) {
        Err(Errno::INTR) => Ok(false),
        polled => polled.map(|ended| ended > 0),
    }
}

/// Without a process to wait for: the daemon holds the lock of its device until it ends. Is it free within this time?
fn is_unlocked(device: &Path, at_most: Duration) -> bool {
    let reader = zns::open::OpenOptions { read_only: true, ..Default::default() };
    let end = Instant::now() + at_most;
    while matches!(zns::open::open_device(device, &reader), Err(zns::DeviceError::Busy { .. })) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_is_not_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let text = |path: &Path| {
            let failure = umount(path, false).unwrap_err();
            assert_eq!(failure.status, MOUNT_FAILED, "{failure:?}");
            failure.text
        };
        assert!(text(directory.path()).contains("is not a mounted FerryFS"));
        assert!(text(&directory.path().join("absent")).contains("does not exist"));
        assert!(text(Path::new("/proc")).contains("is a mounted proc"));
    }

    #[test]
    fn paths_are_resolved_without_their_last_step() {
        let directory = tempfile::tempdir().unwrap().keep();
        let real = directory.canonicalize().unwrap();
        std::fs::create_dir(directory.join("d")).unwrap();
        std::os::unix::fs::symlink("d", directory.join("l")).unwrap();
        assert_eq!(absolute(&directory.join("d")).unwrap(), real.join("d"));
        assert_eq!(absolute(&directory.join("d/")).unwrap(), real.join("d"));
        assert_eq!(absolute(&directory.join("l")).unwrap(), real.join("d"));
        assert_eq!(absolute(&directory.join("d/..")).unwrap(), real);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
