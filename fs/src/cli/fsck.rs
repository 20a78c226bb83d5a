//! `fsck.ferryfs`: the checker of [`crate::check`] with the exit status of fsck(8).

use super::devices::{Access, SHORT_PATIENCE, mount_of, open_devices};
use crate::check::repair::{RepairReport, repair};
use crate::check::{CheckOptions, CheckReport, Progress, check};
use crate::volume::assemble::{Assembled, assemble};
use clap::Parser;
use clap::error::ErrorKind;
use serde::Serialize;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use zns::ZonedDevice;

/// Nothing is wrong.
const CLEAN: u8 = 0;
/// Something was left to be done and is done.
const REPAIRED: u8 = 1;
/// Something is wrong and stays so.
const ERRORS_LEFT: u8 = 4;
/// The check could not be made.
const COULD_NOT_RUN: u8 = 8;
/// Called wrongly.
const USAGE: u8 = 16;

/// Checks a FerryFS volume that is not mounted: every structure, every invariant, every checksum. It writes nothing but what -y asks for.
/// Of a mounted one, `ferryfs scrub` verifies all that is there.
///
/// Exit status: 0 clean, 1 repaired, 4 errors left, 8 could not run, 16 called wrongly.
#[derive(Debug, Parser)]
#[command(name = "fsck.ferryfs", version, max_term_width = 100)]
struct Line {
    /// Do not change anything (the default).
    #[arg(short = 'n', conflicts_with = "yes")]
    no: bool,

    /// Repair what can be repaired without inventing data, and finish what a crash left. All of it becomes durable with one checkpoint. Inodes without a
    /// name go to /lost+found; what is lost is told. Data that is not what it was stays as it is.
    #[arg(short = 'y')]
    yes: bool,

    /// As the boot process calls it: a volume whose superblock is sound is left to the mount, which rolls its log forward.
    #[arg(short = 'a', short_alias = 'p')]
    automatic: bool,

    /// Check even with -a.
    #[arg(short = 'f', long)]
    force: bool,

    /// Look at structures only; do not read the data of files.
    #[arg(long)]
    no_data: bool,

    /// For programs.
    #[arg(long)]
    json: bool,

    /// Show how far the check has come; without it this is done on a terminal.
    #[arg(short = 'C', value_name = "FD", num_args = 0..=1)]
    progress: Option<Option<i32>>,

    /// All devices of the volume.
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
}

/// The program.
pub fn main() -> ExitCode {
    match Line::try_parse() {
        Ok(line) => ExitCode::from(run(line)),
        Err(error) => {
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            ExitCode::from(if asked_for { 0 } else { USAGE })
        }
    }
}

fn could_not_run(error: impl std::fmt::Display) -> u8 {
    eprintln!("fsck.ferryfs: {error}");
    COULD_NOT_RUN
}

fn run(line: Line) -> u8 {
    for device in &line.devices {
        if let Some(mounted) = mount_of(device) {
            let at = mounted.at.display();
            return could_not_run(format!(
                "{} is in use: it is {mounted}: unmount it first; ferryfs scrub {at} verifies what is there meanwhile",
                device.display()
            ));
        }
    }
    let access = if line.yes { Access { patience: SHORT_PATIENCE, ..Access::default() } } else { Access::read_only() };
    let devices = match open_devices(&line.devices, access) {
        Ok(devices) => devices,
        Err(error) => return could_not_run(error),
    };
    if line.automatic && !line.force {
        return match assemble(devices) {
            Ok(Assembled { newer_lost: None, .. }) => CLEAN,
            Ok(Assembled { newer_lost: Some(reason), .. }) => {
                eprintln!("fsck.ferryfs: {reason}");
                ERRORS_LEFT
            }
            Err(error) => could_not_run(error),
        };
    }
    if line.yes { mend(&line, &devices) } else { look(&line, devices) }
}

fn options(line: &Line) -> CheckOptions {
    let progress: Option<Box<dyn FnMut(Progress)>> = if shows(line) { Some(Box::new(show_progress)) } else { None };
    CheckOptions { read_data: !line.no_data, progress, ..CheckOptions::default() }
}

/// Is progress shown?
fn shows(line: &Line) -> bool {
    line.progress.is_some() || std::io::stderr().is_terminal()
}

/// Whoever reads may have gone away; the exit status says it as well.
fn print(line: &Line, report: &(impl Serialize + Display)) {
    if shows(line) {
        eprint!("\r\x1b[K");
    }
    let text = if line.json { serde_json::to_string_pretty(report).map(|text| text + "\n") } else { Ok(report.to_string()) };
    let _ = text.map_err(std::io::Error::other).and_then(|text| std::io::stdout().write_all(text.as_bytes()));
}

/// The exit status of a check.
pub(crate) fn status_of_check(report: &CheckReport) -> u8 {
    if report.clean { CLEAN } else { ERRORS_LEFT }
}

/// The exit status of a repair.
pub(crate) fn status_of_repair(report: &RepairReport) -> u8 {
    match () {
        () if !report.after.clean => ERRORS_LEFT,
        () if report.finished => REPAIRED,
        () => CLEAN,
    }
}

/// Checks and prints.
fn look(line: &Line, devices: Vec<Arc<dyn ZonedDevice>>) -> u8 {
    match check(devices, options(line)) {
        Err(error) => could_not_run(error),
        Ok(report) => {
            print(line, &report);
            status_of_check(&report)
        }
    }
}

/// Checks, mends, checks again and prints.
fn mend(line: &Line, devices: &[Arc<dyn ZonedDevice>]) -> u8 {
    let report = match repair(devices, || options(line)) {
        Err(error) => return could_not_run(error),
        Ok(report) => report,
    };
    print(line, &report);
    if report.finished && report.before.clean {
        eprintln!("fsck.ferryfs: the log is rolled forward, a checkpoint is made");
    }
    if !report.after.clean {
        eprintln!("fsck.ferryfs: what is left cannot be repaired: copy away what is readable; files with damaged data can be removed");
    }
    status_of_repair(&report)
}

fn show_progress(progress: Progress) {
    match progress.total {
        Some(total) if total > 0 => eprint!("\r\x1b[K{}: {} %", progress.what, progress.done * 100 / total),
        _ => eprint!("\r\x1b[K{}: {}", progress.what, progress.done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Line, ErrorKind> {
        Line::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
    }

    #[test]
    fn the_contract_s_command_lines() {
        assert!(parse("fsck.ferryfs -n a b").is_ok_and(|line| line.no && line.devices.len() == 2));
        assert!(parse("fsck.ferryfs -y --json a").is_ok_and(|line| line.yes && line.json));
        assert!(parse("fsck.ferryfs -a a").is_ok_and(|line| line.automatic));
        assert!(parse("fsck.ferryfs -p a").is_ok_and(|line| line.automatic));
        assert_eq!(parse("fsck.ferryfs -n -y a").err(), Some(ErrorKind::ArgumentConflict));
        assert!(parse("fsck.ferryfs").is_err());
    }

    #[test]
    fn what_cannot_be_checked_says_so() {
        let line = |device: &str| Line::try_parse_from(["fsck.ferryfs", "-n", device]).unwrap();
        assert_eq!(run(line("/no/such/device")), COULD_NOT_RUN);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(run(line(&directory.path().display().to_string())), COULD_NOT_RUN);
    }

    #[test]
    fn a_volume_left_by_a_crash_is_clean_and_finished_on_request() {
        use crate::ids::Ino;
        use crate::volume::{Caller, Clock, FormatOptions, MountOptions, Volume, WriteOptions};
        use std::os::unix::fs::FileExt;
        use zns::image::{ImageDevice, ImageOptions};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        drop(ImageDevice::create(&path, &ImageOptions { size: 64 << 20, zone_size: 1 << 20, ..ImageOptions::default() }).unwrap());
        let devices = || open_devices(std::slice::from_ref(&path), Access::default()).unwrap();
        let format = FormatOptions { label: String::new(), uuid: [1; 16], created: Clock::system().now(), secret: [2; 32], uid: 0, gid: 0 };
        Volume::format(devices(), &format).unwrap();
        let volume = Volume::open(devices(), MountOptions::default()).unwrap();
        let ino = volume.mknod(Ino::ROOT, b"file", libc::S_IFREG, 0, &Caller::default()).unwrap().ino;
        let marker = [0x5a; 4096];
        volume.write(ino, 0, &marker, &WriteOptions { sync: true, kill_suid: false, append: false }).unwrap();
        drop(volume);

        let fsck = |option: &str| run(Line::try_parse_from(["fsck.ferryfs", option, path.to_str().unwrap()]).unwrap());
        assert_eq!(fsck("-n"), CLEAN);
        assert_eq!(fsck("-y"), REPAIRED);
        assert_eq!(fsck("-y"), CLEAN);
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.chunks_exact(4096).position(|block| block == marker).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"?", at as u64 * 4096 + 7).unwrap();
        assert_eq!((fsck("-n"), fsck("-y")), (ERRORS_LEFT, ERRORS_LEFT));
    }
}
