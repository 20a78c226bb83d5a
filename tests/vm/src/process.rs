//! QEMU as a child that never outlives us.

use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running QEMU; killed when dropped, and by the kernel when the thread that started it ends.
#[derive(Debug)]
pub struct Emulator(Child);

impl Emulator {
    /// Starts `command`, with what it says in `log`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(mut command: Command, log: std::fs::File) -> Result<Emulator> {
        let shown = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                let signal = rustix::process::Signal::KILL;
                rustix::process::set_parent_process_death_signal(Some(signal)).map_err(std::io::Error::from)
            });
        }
        Ok(Emulator(command.spawn().with_context(|| format!("starting {shown}"))?))
    }

    /// Waits for its end, at most for `limit`; `None` when it had to be killed.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let ended = harness::process::wait(&mut self.0, limit)?;
        if ended.is_none() {
            self.kill();
        }
        Ok(ended)
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}
