//! How a command fails: one sentence for people, one exit status for scripts.

use std::fmt::Display;
use std::process::ExitCode;

/// Something was asked for wrongly, or by somebody who may not (mount(8) and umount(8)).
pub const MOUNT_USAGE: u8 = 1;
/// The system stood in the way (mount(8)).
pub const MOUNT_SYSTEM: u8 = 2;
/// The mount failed (mount(8) and umount(8)).
pub const MOUNT_FAILED: u8 = 32;
/// Any other command failed.
pub const FAILED: u8 = 1;
/// Any other command was called wrongly.
pub const USAGE: u8 = 2;

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// What to print, without the name of the program.
    pub text: String,
}

/// What commands return.
pub type CommandResult<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this exit status.
    pub fn new(status: u8, text: impl Display) -> Self {
        Self { status, text: text.to_string() }
    }

    /// Prints it, and gives the exit status.
    pub fn report(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {}", self.text);
        ExitCode::from(self.status)
    }
}

/// Gives any error its exit status.
pub trait OrFail<T> {
    /// The value, or a failure with this status.
    ///
    /// # Errors
    /// The error as a [`Failure`].
    fn or_fail(self, status: u8) -> CommandResult<T>;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    fn or_fail(self, status: u8) -> CommandResult<T> {
        self.map_err(|error| Failure::new(status, error))
    }
}
