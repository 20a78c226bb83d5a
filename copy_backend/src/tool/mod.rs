//! The `ferrycopy` tool: copies byte ranges between block devices and files by the best road there is, clones whole devices,
//! and says which roads there are.
//!
//! Everything is checked before anything is touched. Results go to standard output (as JSON with `--json`), progress and
//! errors to standard error. Exit statuses: [`status`].

pub mod arguments;
mod calibrate;
mod caps;
mod clone;
mod clone_plan;
mod copy;
mod devices;
mod identity;
mod interrupt;
mod place;
mod report;
mod run;
mod state;

use arguments::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

/// Exit statuses, as `--help` documents them.
pub mod status {
    /// Everything was copied and is durable.
    pub const DONE: u8 = 0;
    /// Something failed on the way: what was done is said to the byte.
    pub const FAILED: u8 = 1;
    /// A request that makes no sense, a device that cannot be used: nothing was touched.
    pub const USAGE: u8 = 2;
    /// Interrupted between two commands: what was done is said to the byte.
    pub const INTERRUPTED: u8 = 130;
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A message that was asked for (--help) is no failure; its own failure to print is nothing to report.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { status::USAGE } else { status::DONE });
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("FERRYCOPY_LOG").unwrap_or_else(|_| "error".into());
    // Set once in this process.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let outcome = match arguments.command {
        Command::Copy(arguments) => copy::copy(&arguments),
        Command::Clone(arguments) => clone::clone(&arguments),
        Command::Caps(arguments) if arguments.calibrate => calibrate::run(&arguments),
        Command::Caps(arguments) => caps::caps(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("ferrycopy: {error:#}");
        ExitCode::from(status::USAGE)
    })
}
