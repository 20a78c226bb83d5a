//! The other end of [`crate::fuse::control`]: asks the daemon of a mount.

use crate::fuse::control::{CALL, FETCH, FETCH_BYTES, Header, Hello, Request};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the daemon could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The path cannot be opened.
    #[error("{path}: {error}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The daemon is gone and its mount is still there.
    #[error("{0}: the daemon of this mount is gone; ferryfs umount {0} removes what is left, then mount again")]
    Dead(PathBuf),
    /// Something else is mounted there.
    #[error("{0}: no FerryFS is mounted here")]
    NotFerryFs(PathBuf),
    /// The daemon says no, and why.
    #[error("{text}")]
    Refused {
        /// Why.
        text: String,
        /// The errno that goes with it.
        errno: i32,
    },
    /// The answer makes no sense.
    #[error("{path}: the daemon gave an answer that this version of ferryfs does not understand: {detail}")]
    Garbled {
        /// Whose.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// A line to the daemon behind a file or directory.
pub struct Client {
    file: File,
    path: PathBuf,
}

impl Client {
    /// Opens `path`, any file or directory of the mount.
    ///
    /// # Errors
    /// A path that cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        // A pipe must not make us wait for a writer.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        match file {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Err(ClientError::Dead(path.to_owned())),
            Err(error) => Err(ClientError::Open { path: path.to_owned(), error }),
        }
    }

    /// What was opened.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Who serves this mount?
    ///
    /// # Errors
    /// See [`Client::ask`].
    pub fn hello(&self) -> Result<Hello, ClientError> {
        let answer = self.ask(Request::Hello)?;
        serde_json::from_value(answer).map_err(|error| self.garbled(&error))
    }

    /// Asks, waits, and returns the answer.
    ///
    /// # Errors
    /// No FerryFS, a dead one, or its refusal.
    pub fn ask(&self, request: Request) -> Result<serde_json::Value, ClientError> {
        let mut header = self.call(request)?;
        while header.errno == libc::EINPROGRESS.unsigned_abs() {
            header = self.call(Request::Wait)?;
        }
        let mut answer = Vec::new();
        while (answer.len() as u64) < header.len {
            let mut piece = [0; FETCH_BYTES];
            piece[..8].copy_from_slice(&(answer.len() as u64).to_le_bytes());
            let n = self.ioctl(FETCH, &mut piece)?;
            let n = usize::try_from(n).ok().filter(|n| (1..=FETCH_BYTES).contains(n)).ok_or_else(|| self.garbled(&"it ended early"))?;
            answer.extend_from_slice(&piece[..n]);
        }
        if header.errno != 0 {
            let text = String::from_utf8_lossy(&answer).into_owned();
            return Err(ClientError::Refused { text, errno: header.errno.cast_signed() });
        }
        serde_json::from_slice(&answer).map_err(|error| self.garbled(&error))
    }

    fn call(&self, request: Request) -> Result<Header, ClientError> {
        let mut call = request.encode();
        self.ioctl(CALL, &mut call)?;
        Header::decode(&call).ok_or_else(|| ClientError::NotFerryFs(self.path.clone()))
    }

    fn garbled(&self, detail: &dyn std::fmt::Display) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), detail: detail.to_string() }
    }

    fn ioctl(&self, command: u32, buffer: &mut [u8]) -> Result<i32, ClientError> {
        debug_assert_eq!(buffer.len(), (command >> 16) as usize & 0x3fff);
        // SAFETY: the command number carries the size of the buffer, and the kernel reads and writes no more than that.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::Ioctl::from(command), buffer.as_mut_ptr()) };
        if done >= 0 {
            return Ok(done);
        }
        let error = std::io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::ENOTCONN | libc::ECONNABORTED) => ClientError::Dead(self.path.clone()),
            Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => ClientError::NotFerryFs(self.path.clone()),
            _ => ClientError::Open { path: self.path.clone(), error },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ferryfs_says_so() {
        let client = Client::open(Path::new("/")).unwrap();
        assert!(matches!(client.ask(Request::Status), Err(ClientError::NotFerryFs(_))));
        assert!(matches!(Client::open(Path::new("/no/such/path")), Err(ClientError::Open { .. })));
    }
}
