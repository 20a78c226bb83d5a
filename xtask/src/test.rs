//! `cargo xtask test`: every test there is, with counts.

use crate::packages::{self, Need, need};
use crate::suite::{self, Tally};
use crate::{build, foreign, interrupt, memory};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The suite whose tests run in guests: real kernels in translated code, whose drivers race with each other when the machine is busy. What fails there runs
/// a second time, and is named in the end even if it passes then; everything else has one chance.
const IN_GUESTS: &str = "tests/devices";
/// With more failures than this it is not chance.
const MOST_AGAIN: usize = 2;

/// What the tests call besides what every Debian has.
const NEEDS: &[Need] = &[
    need("gcc", "gcc", "compiling in the mount"),
    need("git", "git", "a repository in the mount"),
    need("sqlite3", "sqlite3", "a database in the mount"),
    need("mkfs.ext4", "e2fsprogs", "a foreign filesystem that must not be overwritten"),
    need("busybox", "busybox-static", "starting guests with real devices"),
    need("modprobe", "kmod", "drivers in guests"),
    need("xz", "xz-utils", "unpacking the kernels of guests"),
    need("zstd", "zstd", "unpacking the kernels of guests"),
    need("fusermount3", "fuse3", "mounts of ordinary users"),
    need("dmsetup", "dmsetup", "device-mapper in guests"),
    need("mdadm", "mdadm", "arrays in guests"),
    need("mkfs.xfs", "xfsprogs", "a filesystem whose files share blocks"),
    need("mkfs.btrfs", "btrfs-progs", "another one"),
    need("stress-ng", "stress-ng", "stressors of filesystems in the mount"),
    need("dbench", "dbench", "the load of a file server in the mount"),
];

/// A suite none of whose tests ends for so long hangs. Longer than the limit of a guest, so that a guest that hangs is told of by its own test.
const SILENCE: Duration = Duration::from_secs(40 * 60);

/// What each guest takes of the host's memory: its own, its translated code, its images.
const MEMORY_OF_GUEST: u64 = 5 << 29;
/// What is left for everything else.
const MEMORY_OF_OTHERS: u64 = 4 << 30;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct TestArguments {
    /// Fewer seeds and rounds, for the time between two edits
    #[arg(long)]
    quick: bool,
    /// Runs only tests whose name contains this
    filter: Option<String>,
}

/// Runs it all; false when something failed, or was skipped where nothing may be.
pub fn run(arguments: &TestArguments) -> Result<bool> {
    let started = Instant::now();
    // Whatever the user's own is: modes of files are compared, and other users have to reach what is built and made here.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    packages::provide(NEEDS)?;
    // Tests on real devices run in guests. Where none can be started they are skipped, with the reason.
    if let Err(error) = guest::prepare(&guest::Kernel::ALL, &|doing| println!("{doing}")) {
        println!("note: the tests on real devices will be skipped: {error:#}");
    }
    if let Some(reason) = packages::no_fuse() {
        println!("note: the tests that mount will be skipped: {reason}");
    }
    let mut total = Tally::default();
    if arguments.filter.is_none() {
        formatting(&mut total)?;
    }
    let programs = build::programs(false, &["fs", "mkfs", "copy_backend", "bench"])?;
    let tests = build::test_programs()?;
    if arguments.filter.is_none() {
        lints(&mut total)?;
    }
    let scratch = Scratch::new(foreign::provide(programs.directory().parent().unwrap_or(programs.directory()))?)?;
    for test in &tests {
        interrupt::check()?;
        let in_guests = test.name == IN_GUESTS;
        let command = || {
            let mut command = Command::new(&test.executable);
            command.current_dir(&test.directory);
            environment(&mut command, arguments, &scratch);
            if in_guests {
                command.env("RUST_TEST_THREADS", guests_at_once(processors(), memory::available()).to_string());
            }
            command.env("FERRYFS_BIN_DIR", programs.directory()).env("CARGO_MANIFEST_DIR", &test.directory);
            command
        };
        let mut tally = follow(&test.name, command().args(&arguments.filter), &scratch)?;
        if let Some(failed) = tally.again(MOST_AGAIN).filter(|_| in_guests) {
            let name = format!("{}, once more what failed", test.name);
            let again = follow(&name, command().arg("--exact").args(failed), &scratch)?;
            tally.steady(&again);
        }
        total.add(tally);
        let slow = std::mem::take(&mut total.slow);
        if arguments.quick {
            total.skipped.extend(slow);
        } else if !slow.is_empty() {
            let names = slow.iter().map(|(name, _)| name);
            total.add(follow(&format!("{}, the long ones", test.name), command().args(["--ignored", "--exact"]).args(names), &scratch)?);
        }
    }
    if arguments.filter.is_none() {
        let mut command = build::cargo();
        command.args(["test", "--workspace", "--doc", "--locked"]);
        environment(&mut command, arguments, &scratch);
        total.add(follow("documentation", &mut command, &scratch)?);
    }
    drop(scratch);
    Ok(conclude(&total, started.elapsed()))
}

fn conclude(total: &Tally, elapsed: Duration) -> bool {
    println!();
    for (test, reason) in &total.skipped {
        println!("skipped: {test}: {reason}");
    }
    for test in &total.unsteady {
        println!("passed on the second run only (the first is shown above): {test}");
    }
    for test in total.failed.iter().chain(&total.broken) {
        println!("FAILED: {test}");
    }
    let on_ci = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    if on_ci && !total.skipped.is_empty() {
        println!("On CI nothing may be skipped: this run fails.");
    }
    println!("{} min {} s in all", elapsed.as_secs() / 60, elapsed.as_secs() % 60);
    println!("{}", total.line());
    total.succeeded() && (!on_ci || total.skipped.is_empty())
}

fn environment(command: &mut Command, arguments: &TestArguments, scratch: &Scratch) {
    command.env("FERRYFS_SKIPS", scratch.skips()).env("TMPDIR", &scratch.directory).env("PATH", foreign::path_with(&scratch.suites));
    command.env("RUST_TEST_THREADS", processors().max(2).to_string());
    // Tests read what other programs say.
    command.env("LC_ALL", "C").env_remove("LANGUAGE");
    // The same cases each time: whoever changes a line must not meet the bug of another one. Other cases are a matter of other seeds.
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        command.env("PROPTEST_RNG_SEED", "20250101");
    }
    if arguments.quick {
        command.env("FERRYFS_QUICK", "1");
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// So many guests as there are processors, each of which keeps one busy, if `memory` allows. Bytes.
fn guests_at_once(processors: usize, memory: u64) -> usize {
    let fit = memory.saturating_sub(MEMORY_OF_OTHERS) / MEMORY_OF_GUEST;
    processors.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

fn follow(name: &str, command: &mut Command, scratch: &Scratch) -> Result<Tally> {
    let started = Instant::now();
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {prefix}: {wide_msg} {elapsed}")?);
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut done = 0;
    let tally = suite::run(name, command, SILENCE, |line| {
        if let Some(test) = line.strip_prefix("test ") {
            done += 1;
            bar.set_message(format!("{done}: {test}"));
        }
    });
    bar.finish_and_clear();
    let mut tally = tally?;
    suite::apply_skips(&mut tally, &scratch.take_skips());
    println!("{name}: {} ({:.1} s)", tally.line(), started.elapsed().as_secs_f64());
    scratch.clear();
    Ok(tally)
}

/// rustfmt and clippy come with most toolchains but not with all; where they are not there is nothing to check with.
fn component(name: &str) -> bool {
    let there = |name: &str| {
        let mut command = build::cargo();
        command.args([name, "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if there(name) {
        return true;
    }
    let package = if name == "fmt" { "rustfmt" } else { name };
    let added = Command::new("rustup")
        .args(["component", "add", package])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let there = added.is_ok_and(|status| status.success()) && there(name);
    if !there {
        println!("note: this toolchain has no {package}; its checks are left out (rustup component add {package})");
    }
    there
}

fn formatting(total: &mut Tally) -> Result<()> {
    if component("fmt") {
        check("formatting", build::cargo().args(["fmt", "--all", "--check"]), total)?;
    }
    Ok(())
}

fn lints(total: &mut Tally) -> Result<()> {
    if component("clippy") {
        let mut command = build::cargo();
        command.args(["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]);
        check("clippy", &mut command, total)?;
    }
    Ok(())
}

fn check(name: &str, command: &mut Command, total: &mut Tally) -> Result<()> {
    let started = Instant::now();
    let passed = command.stdin(Stdio::null()).status().with_context(|| format!("starting {name}"))?.success();
    interrupt::check()?;
    let tally = Tally::single(name, passed);
    println!("{name}: {} ({:.1} s)", tally.line(), started.elapsed().as_secs_f64());
    total.add(tally);
    Ok(())
}

/// A directory for everything that the tests write, gone at the end with all that is mounted in it.
struct Scratch {
    directory: PathBuf,
    /// Where suites of others are.
    suites: PathBuf,
}

impl Scratch {
    fn new(suites: PathBuf) -> Result<Scratch> {
        let parent = memory::roomy().map_or_else(std::env::temp_dir, Path::to_path_buf);
        let directory = parent.join(format!("ferryfs-tests-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        // Tests run programs as other users.
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
        let scratch = Scratch { directory, suites };
        // Somebody of the same process id may have been killed here.
        scratch.clear();
        Ok(scratch)
    }

    fn skips(&self) -> PathBuf {
        self.directory.join("skips")
    }

    fn take_skips(&self) -> String {
        let text = std::fs::read_to_string(self.skips()).unwrap_or_default();
        let _ = std::fs::remove_file(self.skips());
        text
    }

    fn clear(&self) {
        harness::mounts::detach_below(&self.directory);
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_run_as_processors_and_memory_allow() {
        let gib = |gib: u64| gib << 30;
        assert_eq!([2, 4, 7, 64].map(|memory| guests_at_once(8, gib(memory))), [1, 1, 1, 8]);
        assert_eq!((guests_at_once(8, gib(12)), guests_at_once(2, gib(12)), guests_at_once(1, gib(64))), (3, 2, 1));
    }
}
