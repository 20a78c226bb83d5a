//! The lock of one file or device node: flock, and a clear word about who is refused. What makes one user of a piece of storage is [`crate::claim`].

use crate::error::{DeviceError, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;

/// Locks an open file for this process until its last descriptor is closed: alone for writing, shared for reading.
pub(crate) fn lock(file: impl AsFd, path: &Path, read_only: bool) -> Result<()> {
    let operation = if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    loop {
        match flock(file.as_fd(), operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Err(DeviceError::Busy { path: path.to_owned(), through: None }),
            Err(errno) => return Err(system("lock", path, errno)),
        }
    }
}

/// A failed system call as an error of this crate.
pub(crate) fn system(action: &'static str, path: &Path, errno: Errno) -> DeviceError {
    DeviceError::System { action, path: path.to_owned(), errno: errno.raw_os_error() }
}

/// A failed operation of the standard library as an error of this crate.
pub(crate) fn system_io(action: &'static str, path: &Path, error: &std::io::Error) -> DeviceError {
    DeviceError::System { action, path: path.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}
