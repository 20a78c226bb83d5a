//! Signals as something to wait for: SIGTERM and SIGINT ask the daemon to unmount.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// SIGTERM, SIGINT and SIGQUIT of this process, taken away from every thread that is made after this.
pub struct Signals(OwnedFd);

/// What happened first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A signal came.
    Signal,
    /// The descriptor became readable.
    Other,
}

impl Signals {
    /// Takes the signals. To be called before the first thread is made: threads inherit what their maker does not receive.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn take() -> std::io::Result<Self> {
        // SAFETY: `set` is initialised by sigemptyset before use; all pointers are to live values.
        let fd = unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            // A terminal that goes away is no reason to unmount.
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for a signal, or for `other` to become readable (which wins if both happened).
    ///
    /// # Errors
    /// The system call that failed.
    pub fn wait_beside(&self, other: BorrowedFd<'_>) -> std::io::Result<Event> {
        loop {
            let mut waiting = [PollFd::from_borrowed_fd(other, PollFlags::IN), PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut waiting, None) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) => {}
            }
            if !waiting[0].revents().is_empty() {
                return Ok(Event::Other);
            }
            if !waiting[1].revents().is_empty() {
                let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
                rustix::io::read(self.0.as_fd(), &mut info)?;
                return Ok(Event::Signal);
            }
        }
    }
}
