//! The `ferryfs` command.
//!
//! One file per command; here is only the command line. The same program is the helper of mount(8) and umount(8): called
//! by one of their names for it (`mount.ferryfs`, `mount.fuse.ferryfs`, `mount.fuseblk.ferryfs`, `umount.fuse.ferryfs`), it takes their arguments.

pub mod background;
pub mod client;
pub mod daemon;
pub mod devices;
pub mod dump;
pub mod failure;
pub mod fsck;
pub mod install;
pub mod logging;
pub mod mount;
pub mod options;
pub mod privileges;
pub mod remount;
pub mod report;
pub mod scrub;
pub mod signals;
pub use copy_backend::size;
pub mod umount;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use failure::{CommandResult, MOUNT_USAGE, USAGE};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// FerryFS: a filesystem that never overwrites in place and lets the device move its blocks.
#[derive(Debug, Parser)]
#[command(name = "ferryfs", version, arg_required_else_help = true, max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount a volume; returns when the mount answers.
    Mount(mount::MountArguments),
    /// Unmount; returns when everything is on the device and the daemon is gone.
    #[command(visible_alias = "unmount")]
    Umount {
        /// Take the mount out of sight now; programs with open files keep it alive.
        #[arg(short, long)]
        lazy: bool,
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// State and counters of a volume.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
        /// A mounted volume, or a device of one that is not mounted.
        #[arg(value_name = "MOUNTPOINT|DEVICE", required = true)]
        targets: Vec<PathBuf>,
    },
    /// Clean one victim now; prints what moved by which road.
    Gc {
        /// Until nothing worth cleaning is left.
        #[arg(long)]
        until_clean: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
        /// Where it is mounted.
        mountpoint: PathBuf,
    },
    /// Read everything on the devices and compare it with its checksums, while the volume is in use. Exit status 4: something is damaged.
    Scrub(scrub::ScrubArguments),
    /// Where the extents of a file lie.
    Map {
        /// For programs.
        #[arg(long)]
        json: bool,
        /// A file of a mounted volume.
        file: PathBuf,
    },
    /// Every zone with its state, write pointer, live share, role and age.
    Zones {
        /// For programs.
        #[arg(long)]
        json: bool,
        /// A mounted volume, or a device of one that is not mounted.
        #[arg(value_name = "MOUNTPOINT|DEVICE", required = true)]
        targets: Vec<PathBuf>,
    },
    /// Superblocks, checkpoints, zones, nodes and log records, from the raw devices.
    Dump(dump::DumpArguments),
    /// Put the names by which mount(8), umount(8), mkfs(8) and fsck(8) find FerryFS into a directory such as /sbin.
    InstallHelpers {
        /// Where.
        directory: PathBuf,
    },
}

/// The program.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    if called.starts_with("mount.") {
        return mount::as_helper(&called, &arguments[1..]);
    }
    if called.starts_with("umount.") {
        return finish(umount::as_helper(&arguments[1..]), &called);
    }
    match Line::try_parse_from(&arguments) {
        Ok(line) => run(line.command),
        Err(error) => {
            // A message that was asked for is no failure; one that cannot be printed cannot be reported either.
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let is_mount = arguments.get(1).is_some_and(|word| word == "mount" || word == "umount");
            ExitCode::from(if asked_for {
                0
            } else if is_mount {
                MOUNT_USAGE
            } else {
                USAGE
            })
        }
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Mount(arguments) => mount::run(&arguments, "ferryfs mount"),
        Command::Umount { lazy, mountpoint } => finish(umount::umount(&mountpoint, lazy), "ferryfs umount"),
        Command::Status { json, targets } => finish(report::status(&targets, json), "ferryfs status"),
        Command::Gc { until_clean, json, mountpoint } => finish(report::gc(&mountpoint, until_clean, json), "ferryfs gc"),
        Command::Scrub(arguments) => finish(scrub::scrub(&arguments), "ferryfs scrub"),
        Command::Map { json, file } => finish(report::map(&file, json), "ferryfs map"),
        Command::Zones { json, targets } => finish(report::zones(&targets, json), "ferryfs zones"),
        Command::Dump(arguments) => finish(dump::run(&arguments), "ferryfs dump"),
        Command::InstallHelpers { directory } => finish(install::install(&directory), "ferryfs install-helpers"),
    }
}

fn finish(result: CommandResult, program: &str) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(program),
    }
}
