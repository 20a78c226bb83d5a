//! `ferryfs scrub`: has the daemon verify everything, step by step, at a bounded rate.
//!
//! The pace is kept here: a step is asked for when the bucket of tokens allows it, so at most one is under way, and who interrupts this program ends the
//! scrub.

use super::client::Client;
use super::failure::{CommandResult, FAILED, Failure, OrFail};
use super::size::{parse_size, show_size};
use crate::fuse::control::Request;
use crate::volume::scrub::{MOST_BYTES, ScrubAt, ScrubDamage, ScrubStep};
use copy_backend::rate::{TokenBucket, command_bytes};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Damage was found.
const DAMAGED: u8 = 4;
/// Interrupted by a signal: as a shell tells it of SIGINT.
const INTERRUPTED: u8 = 130;
/// Bytes per second unless told otherwise.
const DEFAULT_RATE: &str = "64M";
/// Damage that is listed; more is counted.
const MOST_LISTED: usize = 10_000;

/// What is scrubbed, and how.
#[derive(Debug, clap::Args)]
pub struct ScrubArguments {
    /// Bytes read per second at most.
    #[arg(long, value_name = "BYTES/s", default_value = DEFAULT_RATE, value_parser = rate)]
    rate: u64,

    /// For programs.
    #[arg(long)]
    json: bool,

    /// Where it is mounted.
    mountpoint: PathBuf,
}

fn rate(word: &str) -> Result<u64, String> {
    match parse_size(word.strip_suffix("/s").unwrap_or(word)) {
        Ok(0) => Err("a scrub that reads nothing never ends".into()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Report {
    /// Bytes of data that were verified.
    data: u64,
    /// Bytes of metadata that were verified.
    metadata: u64,
    /// Everything was looked at.
    complete: bool,
    /// What is damaged, the first of it.
    damage: Vec<ScrubDamage>,
    /// Damaged blocks that are not listed.
    more_damage: u64,
}

impl Report {
    fn add(&mut self, step: &mut ScrubStep) {
        self.data += step.data;
        self.metadata += step.metadata;
        self.more_damage += step.more_damage;
        for damage in step.damage.drain(..) {
            if self.damage.len() < MOST_LISTED {
                self.damage.push(damage);
            } else {
                self.more_damage += 1;
            }
        }
    }

    fn is_damaged(&self) -> bool {
        !self.damage.is_empty() || self.more_damage > 0
    }
}

/// The time, and a way to let it pass.
trait Pace {
    fn now(&self) -> Duration;
    fn sleep(&mut self, time: Duration);
}

struct Real(Instant);

impl Pace for Real {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
    fn sleep(&mut self, time: Duration) {
        // Short sleeps, so that an interruption need not wait for a long debt.
        std::thread::sleep(time.min(Duration::from_millis(100)));
    }
}

/// Bytes of one step at this rate.
fn step_bytes(rate: u64) -> u64 {
    command_bytes(rate).min(MOST_BYTES)
}

/// Asks for step after step, at most `rate` bytes per second, until the end or until `stop`.
fn drive(
    rate: u64,
    pace: &mut impl Pace,
    stop: impl Fn() -> bool,
    mut ask: impl FnMut(ScrubAt, u64) -> CommandResult<ScrubStep>,
    mut seen: impl FnMut(&Report, u64),
) -> CommandResult<Report> {
    let bytes = step_bytes(rate);
    let mut bucket = TokenBucket::new(rate, bytes);
    let mut report = Report::default();
    let mut at = ScrubAt::default();
    while !stop() {
        let wait = bucket.ready_in(pace.now());
        if !wait.is_zero() {
            pace.sleep(wait);
            continue;
        }
        let mut step = ask(at, bytes)?;
        // An older daemon does not say what it cost.
        bucket.spend(step.read.max(step.data + step.metadata));
        let total = step.total;
        report.add(&mut step);
        seen(&report, total);
        match step.next {
            Some(next) => at = next,
            None => {
                report.complete = true;
                break;
            }
        }
    }
    Ok(report)
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// SIGINT and SIGTERM end the scrub after the step that is under way, with a word on what was verified.
fn stop_on_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler stores to an atomic, which is safe in a signal handler.
        unsafe { libc::signal(signal, stop as *const () as libc::sighandler_t) };
    }
}

/// `ferryfs scrub`.
///
/// # Errors
/// Nobody to ask, damage, or an interruption.
pub fn scrub(arguments: &ScrubArguments) -> CommandResult {
    stop_on_signals();
    let client = Client::open(&arguments.mountpoint).or_fail(FAILED)?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let ask = |at, bytes| {
        let answer = client.ask(Request::Scrub { at, bytes }).or_fail(FAILED)?;
        serde_json::from_value(answer).map_err(|error| Failure::new(FAILED, format!("the daemon is of another version: {error}")))
    };
    let seen = |report: &Report, total: u64| {
        bar.set_length(total.max(report.data + report.metadata));
        bar.set_position(report.data + report.metadata);
    };
    let report = drive(arguments.rate, &mut Real(Instant::now()), || STOP.load(Ordering::Relaxed), ask, seen);
    bar.finish_and_clear();
    let report = report?;
    print(&report, arguments.json)?;
    outcome(&report, &arguments.mountpoint)
}

fn outcome(report: &Report, mountpoint: &Path) -> CommandResult {
    let shown = mountpoint.display();
    match report {
        report if report.is_damaged() => {
            let count = report.damage.len() as u64 + report.more_damage;
            Err(Failure::new(
                DAMAGED,
                format!("{shown}: {count} damaged blocks; what they held is lost unless the device can be made to read it"),
            ))
        }
        report if !report.complete => Err(Failure::new(INTERRUPTED, format!("{shown}: interrupted; what was verified so far is sound"))),
        _ => Ok(()),
    }
}

fn print(report: &Report, json: bool) -> CommandResult {
    let text = if json { serde_json::to_string_pretty(report).or_fail(FAILED)? + "\n" } else { show(report) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(FAILED, error)),
        _ => Ok(()),
    }
}

fn show(report: &Report) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        let name = match (&damage.path, damage.ino) {
            (Some(path), _) => format!("{path}: "),
            (None, Some(ino)) => format!("inode {ino}, which has no name: "),
            (None, None) => String::new(),
        };
        let place = damage.offset.map_or_else(String::new, |offset| format!("byte {offset}: "));
        text += &format!("{name}{place}{}\n", damage.message);
    }
    if report.more_damage > 0 {
        text += &format!("and {} damaged blocks more\n", report.more_damage);
    }
    text + &format!("{} of data and {} of metadata verified\n", show_size(report.data), show_size(report.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Time that passes only when somebody sleeps, or a step takes it.
    struct Fake<'a>(&'a Cell<Duration>);

    impl Pace for Fake<'_> {
        fn now(&self) -> Duration {
            self.0.get()
        }
        fn sleep(&mut self, time: Duration) {
            self.0.set(self.0.get() + time);
        }
    }

    #[test]
    fn no_more_is_read_than_the_rate_allows() {
        for (rate, took) in [(1_000_000, Duration::ZERO), (64 << 20, Duration::from_millis(3)), (5_000, Duration::ZERO)] {
            let time = Cell::new(Duration::ZERO);
            let mut read: Vec<(Duration, u64)> = Vec::new();
            let ask = |_, bytes| {
                read.push((time.get(), bytes));
                time.set(time.get() + took);
                let next = (read.len() < 400).then_some(ScrubAt::default());
                // Half of what is read is verified: the rest leads there.
                Ok(ScrubStep { next, data: bytes / 2, read: bytes, ..ScrubStep::default() })
            };
            let report = drive(rate, &mut Fake(&time), || false, ask, |_, _| {}).expect("scrubbed");
            assert!(report.complete);
            let step = step_bytes(rate);
            assert!(read.iter().all(|(_, bytes)| *bytes == step && step <= MOST_BYTES));
            // In any span: the rate times its length, a full bucket, and the step that begins.
            for (i, (from, _)) in read.iter().enumerate() {
                for (n, (to, _)) in read[i..].iter().enumerate() {
                    let most = (to.abs_diff(*from).as_secs_f64() * rate as f64) as u64 + 2 * step + 1;
                    assert!((n as u64 + 1) * step <= most + step, "{n} steps from {from:?} to {to:?} at {rate}");
                }
            }
            // And hardly less, where the device is fast enough.
            let least = (time.get().as_secs_f64() * rate as f64) as u64;
            assert!(400 * step >= least / 2, "{least} bytes were due");
        }
    }

    #[test]
    fn an_interruption_ends_it_after_a_step_and_is_told() {
        let (time, steps) = (Cell::new(Duration::ZERO), Cell::new(0));
        let ask = |at, bytes| {
            steps.set(steps.get() + 1);
            Ok(ScrubStep { next: Some(at), data: bytes, read: bytes, ..ScrubStep::default() })
        };
        let report = drive(1 << 20, &mut Fake(&time), || steps.get() == 3, ask, |_, _| {}).expect("stopped");
        assert!(!report.complete && steps.get() == 3);
        assert_eq!(outcome(&report, Path::new("/mnt")).expect_err("told").status, INTERRUPTED);
        let damaged = Report { more_damage: 1, ..report };
        assert_eq!(outcome(&damaged, Path::new("/mnt")).expect_err("told").status, DAMAGED);
        assert_eq!(outcome(&Report { complete: true, ..Report::default() }, Path::new("/mnt")), Ok(()));
    }

    #[test]
    fn rates_are_sizes_and_never_nothing() {
        assert_eq!((rate("64M"), rate("1G/s"), rate("5000")), (Ok(64 << 20), Ok(1 << 30), Ok(5000)));
        assert!(rate("0").is_err() && rate("fast").is_err());
    }
}
