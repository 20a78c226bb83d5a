//! A mounted filesystem: the adaptor's threads, from the mount to the moment when the kernel lets go of it.

use super::adaptor::{Adaptor, AdaptorOptions};
use super::mountpoint::{self, Identity, MountRequest, MountpointError};
use super::served::Served;
use fuser::{Config, Session, SessionACL};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;

/// Readahead that a root mount gives itself, in KiB: the kernel's own 128 KiB would cut sequential reads into small requests.
const READAHEAD_KIB: u32 = 1024;

/// Why a filesystem could not be served.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The mount itself failed.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// The kernel and the library did not agree.
    #[error("start the FUSE session: {0}")]
    Start(std::io::Error),
    /// The mount was made but gives no answer.
    #[error("{path} is mounted but does not answer: {}", std::io::Error::from(*errno))]
    Silent {
        /// Where.
        path: PathBuf,
        /// The errno of statfs(2).
        errno: Errno,
    },
}

/// A filesystem that is being served.
pub struct Mounted {
    thread: Option<JoinHandle<std::io::Result<()>>>,
    over: OwnedFd,
    mountpoint: PathBuf,
    identity: Identity,
}

impl Mounted {
    /// Mounts `served` and serves it on threads of its own; returns when the mount answers.
    ///
    /// # Errors
    /// Whatever is in the way; nothing stays mounted then.
    pub fn start<S: Served>(served: Arc<S>, request: &MountRequest, options: AdaptorOptions) -> Result<Self, SessionError> {
        let connection = mountpoint::mount(request)?;
        // From here on a failure must not leave a dead mount behind.
        let mut abandoned = AbandonedMount(Some(&request.mountpoint));
        let mut config = Config::default();
        config.n_threads = Some(options.threads);
        config.clone_fd = mountpoint::can_clone();
        // Who may enter is the kernel's business (allow_other); fuser's own check by user would only repeat it.
        let session = Session::from_fd(Adaptor::new(served, options), connection, SessionACL::All, config).map_err(SessionError::Start)?;
        let over = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| SessionError::Start(errno.into()))?;
        let signal = over.try_clone().map_err(SessionError::Start)?;
        let run = move || {
            let ended = session.run();
            // Whoever waits for the end learns of it even when it was an error.
            let _ = rustix::io::write(&signal, &1u64.to_ne_bytes());
            ended
        };
        let thread = std::thread::Builder::new().name("fuse-session".into()).spawn(run).map_err(SessionError::Start)?;
        let silent = |errno| SessionError::Silent { path: request.mountpoint.clone(), errno };
        rustix::fs::statvfs(&request.mountpoint).map_err(silent)?;
        let identity = mountpoint::identity(&request.mountpoint).map_err(silent)?;
        raise_readahead(&identity);
        abandoned.0 = None;
        Ok(Self { thread: Some(thread), over, mountpoint: request.mountpoint.clone(), identity })
    }

    /// Becomes readable when the session is over.
    pub fn over(&self) -> BorrowedFd<'_> {
        self.over.as_fd()
    }

    /// Takes the mount out of the tree, if it is still there: somebody may have unmounted it, and something else may be
    /// mounted in its place.
    ///
    /// # Errors
    /// A mount in use (unless `lazy`), or a refusal.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountpointError> {
        if mountpoint::identity(&self.mountpoint) != Ok(self.identity) {
            return Ok(());
        }
        mountpoint::unmount(&self.mountpoint, lazy)
    }

    /// Waits until the kernel has let go: nobody has a file open any more, and every request has been answered.
    ///
    /// # Errors
    /// The error with which the session ended.
    pub fn wait(mut self) -> std::io::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            // The kernel may say that it has let go in these words, too, when a thread comes for a request while the last user leaves.
            Some(Ok(Err(error))) if error.raw_os_error() == Some(libc::ECONNABORTED) => {
                tracing::debug!("the FUSE connection ended as aborted");
                Ok(())
            }
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(std::io::Error::other("a thread of the FUSE session panicked")),
            None => Ok(()),
        }
    }
}

/// Unmounts when dropped with a path.
struct AbandonedMount<'a>(Option<&'a Path>);

impl Drop for AbandonedMount<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = mountpoint::unmount(path, true);
        }
    }
}

/// Best effort: only root may, and only where sysfs is mounted.
fn raise_readahead(identity: &Identity) {
    let knob = format!("/sys/class/bdi/{}/read_ahead_kb", identity.device());
    let _ = std::fs::write(knob, READAHEAD_KIB.to_string());
}
