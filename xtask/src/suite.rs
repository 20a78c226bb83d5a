//! Runs one suite of tests, follows what it says, and counts.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a suite came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, by name.
    pub failed: Vec<String>,
    /// What is wrong with a suite as a whole, such as an early end; each counts as a failure.
    pub broken: Vec<String>,
    /// Tests that did not run, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Tests that failed and passed when they were run again, by name; they count as passed.
    pub unsteady: Vec<String>,
    /// Tests that take minutes and are left for a second run of the same program.
    pub slow: Vec<(String, String)>,
}

impl Tally {
    /// Adds another suite's.
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.broken.extend(other.broken);
        self.skipped.extend(other.skipped);
        self.unsteady.extend(other.unsteady);
        self.slow.extend(other.slow);
    }

    /// Whether nothing failed.
    pub fn succeeded(&self) -> bool {
        self.failed.is_empty() && self.broken.is_empty()
    }

    /// The tests to run again: those that failed, if they are `most` at most and the suite itself is whole.
    pub fn again(&self, most: usize) -> Option<&[String]> {
        ((1..=most).contains(&self.failed.len()) && self.broken.is_empty()).then_some(&self.failed)
    }

    /// What `again`, a second run of exactly the tests that failed, says of them.
    pub fn steady(&mut self, again: &Tally) {
        if again.passed == self.failed.len() && again.succeeded() && again.skipped.is_empty() {
            self.passed += again.passed;
            self.unsteady.append(&mut self.failed);
        }
    }

    /// The line of counts that people and scripts look for.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len() + self.broken.len(), self.skipped.len())
    }

    /// A check that is one test by itself.
    pub fn single(name: &str, passed: bool) -> Tally {
        let failed = if passed { Vec::new() } else { vec![name.to_owned()] };
        Tally { passed: usize::from(passed), failed, ..Tally::default() }
    }
}

/// Reads what the Rust test runner prints, line by line.
#[derive(Debug, Default)]
struct Parser {
    tally: Tally,
    /// Summaries seen and summaries announced; they differ when a program died in between.
    begun: usize,
    ended: usize,
    counted: usize,
    last_started: Option<String>,
}

impl Parser {
    fn line(&mut self, line: &str) {
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.begun += 1;
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.ended += 1;
            // Failures are known by name; this is a check that none was missed.
            let failed = rest.split("; ").find_map(|part| part.strip_suffix(" failed")?.trim().parse::<usize>().ok());
            self.counted += failed.unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("test ") {
            let Some((name, verdict)) = rest.rsplit_once(" ... ") else {
                self.last_started = Some(rest.to_owned());
                return;
            };
            let name = name.trim_end_matches(" - should panic").to_owned();
            match verdict.split_once(", ").map_or((verdict, ""), |(v, reason)| (v, reason)) {
                ("ok", _) => self.tally.passed += 1,
                ("FAILED", _) => self.tally.failed.push(name),
                ("ignored", reason) if reason.contains("run by the full suite") => self.tally.slow.push((name, reason.to_owned())),
                ("ignored", reason) => {
                    let reason = if reason.is_empty() { "ignored without a reason" } else { reason };
                    self.tally.skipped.push((name, reason.to_owned()));
                }
                _ => self.last_started = Some(name),
            }
        }
    }

    fn finish(mut self, suite: &str, success: bool) -> Tally {
        for _ in self.tally.failed.len()..self.counted {
            self.tally.broken.push(format!("{suite}: a test failed whose name was not seen"));
        }
        if self.begun != self.ended || (!success && self.tally.succeeded()) {
            let after = self.last_started.map(|name| format!(", last seen: {name}")).unwrap_or_default();
            self.tally.broken.push(format!("{suite}: ended early{after}"));
        }
        self.tally
    }
}

/// Runs a test program or `cargo test --doc` to its end and counts; its output is shown when something failed. `skips` are read from the file that
/// tests write to when they find at run time that they cannot run. A suite that says nothing of its tests for longer than `silence` is killed: how long all of
/// it takes is a matter of the machine.
pub fn run(name: &str, command: &mut Command, silence: Duration, mut progress: impl FnMut(&str)) -> Result<Tally> {
    // Standard output and error go through one pipe, so that they stay in order.
    let (read, write) = std::io::pipe()?;
    // A process group of its own: on a timeout nothing that it started is left behind.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    // The command keeps its ends of the pipe open: they are replaced so that the reader sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (lines, received) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(read).split(b'\n').map_while(|line| line.ok()) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut heard = Heard { last: Instant::now(), silence };
    let mut parser = Parser::default();
    let mut output = Vec::new();
    let mut stopped = None;
    let group = rustix::process::Pid::from_child(&child);
    loop {
        match received.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                parser.line(&line);
                heard.line(&line, Instant::now());
                progress(&line);
                output.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if stopped.is_none() && (heard.is_too_long_ago(Instant::now()) || crate::interrupt::requested()) {
            stopped = Some(match crate::interrupt::requested() {
                true => format!("{name}: interrupted"),
                false => format!("{name}: hangs: no test has ended for {} s", silence.as_secs()),
            });
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
    let status = child.wait()?;
    let mut tally = parser.finish(name, status.success());
    tally.broken.extend(stopped);
    if !tally.succeeded() {
        println!("--- output of {name} ({status})");
        for line in output.iter().filter(|line| !line.ends_with(" ... ok")) {
            println!("{line}");
        }
        println!("---");
    }
    Ok(tally)
}

/// When something was heard of the tests for the last time.
struct Heard {
    last: Instant,
    silence: Duration,
}

impl Heard {
    /// A word of the test runner, or of the cargo that builds for it, counts: what tests and their children say is no sign that anything goes on.
    fn line(&mut self, line: &str, now: Instant) {
        let word = line.trim_start().split(' ').next().unwrap_or_default();
        if matches!(word, "test" | "running" | "Compiling" | "Finished" | "Running" | "Doc-tests") {
            self.last = now;
        }
    }

    fn is_too_long_ago(&self, now: Instant) -> bool {
        now.duration_since(self.last) > self.silence
    }
}

/// Takes the tests that said at run time that they could not run out of the passed ones.
pub fn apply_skips(tally: &mut Tally, text: &str) {
    for (test, reason) in text.lines().filter_map(|line| line.split_once('\t')) {
        tally.passed = tally.passed.saturating_sub(1);
        tally.skipped.push((test.to_owned(), reason.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, success: bool) -> Tally {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        parser.finish("suite", success)
    }

    #[test]
    fn verdicts_are_counted() {
        let text = "running 5 tests\ntest a ... ok\ntest b ... ignored, needs a drive\ntest f ... ignored, takes minutes: run by the full suite\ntest c ... FAILED\ntest d - should panic ... ok\n\
                    test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out";
        let tally = parse(text, false);
        assert_eq!(tally.line(), "2 passed, 1 failed, 1 skipped");
        assert_eq!((tally.failed.as_slice(), tally.slow[0].0.as_str()), (&["c".to_owned()][..], "f"));
        assert_eq!(tally.skipped, [("b".to_owned(), "needs a drive".to_owned())]);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        for (text, success) in [("running 2 tests\ntest a ... ok", false), ("running 2 tests\ntest a ... ok", true), ("", false)] {
            let tally = parse(text, success);
            assert_eq!((tally.broken.len(), tally.succeeded(), tally.again(2)), (1, false, None));
        }
        assert_eq!(parse("running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored", true).line(), "0 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn what_passes_on_the_second_run_is_named() {
        let failed = Tally { passed: 3, failed: vec!["a".into(), "b".into()], ..Tally::default() };
        assert_eq!((failed.again(2), failed.again(1)), (Some(&["a".to_owned(), "b".to_owned()][..]), None));
        assert_eq!(Tally { broken: vec!["suite: ended early".into()], ..failed.clone() }.again(2), None);
        assert_eq!(Tally::default().again(2), None);
        let mut tally = failed.clone();
        tally.steady(&Tally { passed: 2, broken: vec!["suite: ended early".into()], ..Tally::default() });
        assert_eq!(tally, failed);
        tally.steady(&Tally { passed: 1, failed: vec!["a".into()], ..Tally::default() });
        assert_eq!(tally, failed);
        tally.steady(&Tally { passed: 2, ..Tally::default() });
        assert_eq!((tally.line().as_str(), tally.unsteady.len()), ("5 passed, 0 failed, 0 skipped", 2));
    }

    #[test]
    fn skips_at_run_time_do_not_count_as_passed() {
        let mut tally = Tally { passed: 3, ..Tally::default() };
        apply_skips(&mut tally, "mount::a\tno /dev/fuse\n");
        assert_eq!(tally.line(), "2 passed, 0 failed, 1 skipped");
    }
    /// A suite that goes on takes as long as it takes; one that says nothing of its tests hangs, whatever else it says.
    #[test]
    fn a_long_time_is_no_hang_and_silence_is_one() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut heard = Heard { last: start, silence: minute };
        for n in 1..100 {
            heard.line("test a ... ok", start + minute * n);
            assert!(!heard.is_too_long_ago(start + minute * (n + 1)));
        }
        heard.line("something else", start + minute * 101);
        assert!(heard.is_too_long_ago(start + minute * 101));
        let mut hangs = Command::new("sh");
        hangs.args(["-c", "echo running 2 tests; while sleep 0.1; do echo something; done"]);
        let tally = run("suite", &mut hangs, Duration::from_millis(500), |_| ()).unwrap();
        assert!(tally.broken.iter().any(|reason| reason.starts_with("suite: hangs")), "{tally:?}");
    }
}
