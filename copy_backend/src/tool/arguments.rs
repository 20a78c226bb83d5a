//! The command line.

use super::place::{Destination, Source};
use crate::engine::{RouteChoice, VerifyMode};
use crate::size::parse_size;
use crate::topology::OffloadBelow;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const STATUSES: &str = "Exit status: 0 everything was copied and is durable; 1 it failed on the way, and what was done is said to the byte; \
2 a request that makes no sense or a device that cannot be used, nothing was touched; 130 interrupted between two commands, \
what was done is said to the byte.\n\nSizes are bytes, or numbers with K, M, G or T behind them (powers of 1024).";

/// `ferrycopy`.
#[derive(Debug, Parser)]
#[command(name = "ferrycopy", version, about = "Copies between block devices and files by the device itself where it can, else through the host", after_help = STATUSES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy byte ranges, gathering many sources into one place
    Copy(CopyArguments),
    /// Copy a whole device to the same addresses of another; a zoned one up to its write pointers
    Clone(CloneArguments),
    /// Say which copy roads lead from the first device to the second, with their limits, and why others are closed
    Caps(CapsArguments),
}

/// `--route`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// By the device where it can, else through the host
    #[default]
    Auto,
    /// By the device, or fail
    Offload,
    /// Through the host only
    Host,
}

impl From<Route> for RouteChoice {
    fn from(route: Route) -> Self {
        match route {
            Route::Auto => Self::Auto,
            Route::Offload => Self::Offload,
            Route::Host => Self::Host,
        }
    }
}

/// `--verify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// Trust the device
    #[default]
    Off,
    /// Read back and compare one range in sixteen
    Sampled,
    /// Read back and compare everything
    Full,
}

impl From<Verify> for VerifyMode {
    fn from(verify: Verify) -> Self {
        match verify {
            Verify::Off => Self::Off,
            Verify::Sampled => Self::Sampled,
            Verify::Full => Self::Full,
        }
    }
}

/// How to copy, whatever is copied.
#[derive(Clone, Debug, Default, Args)]
pub struct How {
    /// Which roads may be taken
    #[arg(long, value_enum, default_value_t)]
    pub route: Route,
    /// Whether copies are read back and compared
    #[arg(long, value_enum, default_value_t)]
    pub verify: Verify,
    /// At most this many bytes per second
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// Send copies below these layers of the kernel, whose tables must not change meanwhile: dm, md
    #[arg(long, value_name = "dm,md", default_value = "none")]
    pub offload_below: OffloadBelow,
    /// Choose sizes of commands by what ferrycopy caps --calibrate measured and wrote to this file
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Use devices that are mounted or otherwise in use; for a clone also reset zones of the destination that are not empty
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `ferrycopy copy`.
#[derive(Debug, Args)]
pub struct CopyArguments {
    /// How.
    #[command(flatten)]
    pub how: How,
    /// What to copy: SRC:OFFSET:LENGTH[,OFFSET:LENGTH...], in bytes
    #[arg(value_name = "SRC:OFFSET:LENGTH[,OFFSET:LENGTH...]")]
    pub source: Source,
    /// Where to: the ranges land there one behind the other
    #[arg(value_name = "DST:OFFSET")]
    pub destination: Destination,
}

/// `ferrycopy clone`.
#[derive(Debug, Args)]
pub struct CloneArguments {
    /// How.
    #[command(flatten)]
    pub how: How,
    /// Remember in this file how far the clone is: the same command goes on from there. Removed at the end
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// The device to copy
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Where to; a file that does not exist is made. Zones of a zoned device must be empty, or are reset with --force
    #[arg(value_name = "DST")]
    pub destination: PathBuf,
}

/// `ferrycopy caps`.
#[derive(Debug, Args)]
pub struct CapsArguments {
    /// Look at roads below these layers of the kernel, too: dm, md
    #[arg(long, value_name = "dm,md", default_value = "none")]
    pub offload_below: OffloadBelow,
    /// Measure the roads: latency and throughput by length, ranges and commands in flight. Writes to the scratch ranges and nowhere else
    #[arg(long)]
    pub calibrate: bool,
    /// Where --calibrate may write, one range for each device: empty zones of a zoned device, which are reset afterwards, elsewhere zeros, which
    /// are zeros again afterwards
    #[arg(long, value_name = "DEVICE:OFFSET:LENGTH", requires = "calibrate")]
    pub scratch: Vec<Source>,
    /// Add what --calibrate measured to this profile, for --profile of copy and clone and copy_profile= of a mount
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    pub profile: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// One device, or two: within each, and in both directions
    #[arg(value_name = "DEVICE", required = true, num_args = 1..=2)]
    pub devices: Vec<PathBuf>,
}

fn parse_rate(word: &str) -> Result<u64, String> {
    match parse_size(word.strip_suffix("/s").unwrap_or(word)) {
        Ok(0) => Err("a rate of 0 would never copy anything".to_owned()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_documents_its_exit_statuses() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let help = Arguments::command().render_help().to_string();
        for status in
            [super::super::status::DONE, super::super::status::FAILED, super::super::status::USAGE, super::super::status::INTERRUPTED]
        {
            assert!(help.contains(&format!("{status} ")), "{help}");
        }
    }

    #[test]
    fn rates_are_sizes() {
        assert_eq!(parse_rate("10M"), Ok(10 << 20));
        assert_eq!(parse_rate("1k/s"), Ok(1024));
        assert!(parse_rate("0").is_err() && parse_rate("fast").is_err());
    }
}
