//! Going into the background: fork before any thread exists, and let the parent wait for what the child has to say.

use super::failure::{CommandResult, Failure, MOUNT_FAILED, MOUNT_SYSTEM};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// The child's line to its parent.
pub struct Report(Option<File>);

/// Which side of the fork this is.
pub enum Side {
    /// The parent: the child has said how it went.
    Parent(ExitCode),
    /// The child.
    Child(Report),
}

/// Forks. The parent returns when the child has reported; the child goes on as a session of its own.
///
/// Must be called while the process has one thread only.
///
/// # Errors
/// The fork itself.
pub fn fork(program: &str) -> CommandResult<Side> {
    let system = |what: &'static str| move |errno: Errno| Failure::new(MOUNT_SYSTEM, format!("{what}: {}", std::io::Error::from(errno)));
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    // SAFETY: the process has a single thread (the caller's duty), so the child may do whatever the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(Failure::new(MOUNT_SYSTEM, format!("fork: {}", std::io::Error::last_os_error()))),
        0 => {
            drop(ours);
            rustix::process::setsid().map_err(system("start a session"))?;
            Ok(Side::Child(Report(Some(File::from(theirs)))))
        }
        child => {
            drop(theirs);
            Ok(Side::Parent(wait_for(child, ours, program)))
        }
    }
}

/// Reads the child's report: its exit status in one byte, then the text of a failure.
fn wait_for(child: i32, pipe: OwnedFd, program: &str) -> ExitCode {
    let mut report = Vec::new();
    let read = File::from(pipe).read_to_end(&mut report);
    match (read, report.split_first()) {
        (Ok(_), Some((0, _))) => ExitCode::SUCCESS,
        (Ok(_), Some((status, text))) => Failure::new(*status, String::from_utf8_lossy(text)).report(program),
        _ => {
            let mut status = 0;
            // SAFETY: waits for our own child; `status` is a live integer.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            let how = if libc::WIFSIGNALED(status) {
                format!("by signal {}", libc::WTERMSIG(status))
            } else {
                format!("with status {}", libc::WEXITSTATUS(status))
            };
            Failure::new(MOUNT_FAILED, format!("the daemon ended before the mount was ready, {how}")).report(program)
        }
    }
}

impl Report {
    /// For a process that stays in the foreground: nobody waits.
    pub fn none() -> Self {
        Self(None)
    }

    /// Is somebody waiting?
    pub fn is_background(&self) -> bool {
        self.0.is_some()
    }

    /// All is well: lets the parent go, and lets go of its terminal. What is written to standard error from now on
    /// goes to `log`, or nowhere.
    ///
    /// # Errors
    /// /dev/null that cannot be opened.
    pub fn ready(mut self, log: Option<&File>) -> CommandResult {
        let Some(mut pipe) = self.0.take() else { return Ok(()) };
        let nowhere = File::options().read(true).write(true).open("/dev/null");
        let nowhere = nowhere.map_err(|error| Failure::new(MOUNT_SYSTEM, format!("open /dev/null: {error}")))?;
        let errors = log.map_or(nowhere.as_fd(), AsFd::as_fd);
        let moved = rustix::stdio::dup2_stdin(&nowhere)
            .and_then(|()| rustix::stdio::dup2_stdout(&nowhere))
            .and_then(|()| rustix::stdio::dup2_stderr(errors));
        moved.map_err(|errno| Failure::new(MOUNT_SYSTEM, format!("let go of the terminal: {}", std::io::Error::from(errno))))?;
        // A parent that was killed in the meantime does not matter.
        let _ = pipe.write_all(&[0]);
        Ok(())
    }

    /// It did not work: tells the parent, or prints it.
    pub fn failed(mut self, failure: &Failure, program: &str) -> ExitCode {
        let Some(mut pipe) = self.0.take() else { return failure.report(program) };
        let mut message = vec![failure.status.max(1)];
        message.extend_from_slice(failure.text.as_bytes());
        let _ = pipe.write_all(&message);
        ExitCode::from(failure.status)
    }
}
