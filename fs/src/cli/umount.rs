//! `ferryfs umount`: returns only when everything is on the device and the daemon is gone.
//!
//! umount(2) alone returns while the daemon still writes its last checkpoint. So the daemon is asked who it is first, and
//! waited for through a pidfd, which cannot confuse it with another process of the same number.

use super::client::{Client, ClientError};
use super::failure::{CommandResult, Failure, MOUNT_FAILED, MOUNT_USAGE};
use crate::fuse::control::{Hello, Request};
use crate::fuse::mountpoint::{self, MountLine, MountpointError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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
    match daemon {
        Some((_, Some(pidfd))) => {
            wait_for(&pidfd).map_err(|errno| failed(&format!("wait for the daemon: {}", std::io::Error::from(errno))))?
        }
        Some((_, None)) | None => wait_for_lock(Path::new(&line.source)),
    }
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

fn wait_for(pidfd: &OwnedFd) -> Result<(), Errno> {
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(()),
        }
    }
}

/// Without a process to wait for: the daemon holds the lock of its device until it ends.
fn wait_for_lock(device: &Path) {
    let reader = zns::open::OpenOptions { read_only: true, ..Default::default() };
    while matches!(zns::open::open_device(device, &reader), Err(zns::DeviceError::Busy { .. })) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
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
