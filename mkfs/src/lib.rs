//! Lays out a new volume: `mkfs.ferryfs`.
//!
//! Nothing is written before everything has been checked: the arguments, what is on each device already, and whether
//! somebody uses it. What exists is overwritten only with `--force`; a file that this run made is removed again when it
//! fails.

pub mod arguments;
pub mod making;
pub mod signature;
pub mod target;

use std::process::ExitCode;

/// The program.
pub fn main() -> ExitCode {
    use clap::Parser;
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A message that was asked for (--help) is no failure; its own failure to print is nothing to report.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match making::make(&arguments) {
        Ok(summary) => {
            if !arguments.quiet {
                print!("{summary}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mkfs.ferryfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}
