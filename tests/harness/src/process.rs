//! Runs a program to its end with a time limit, and keeps all it said.

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It ran into the limit and was killed.
    pub timed_out: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub seconds: f64,
}

impl Outcome {
    /// Exit status 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Itself, or an error that shows what was run and what it said.
    pub fn ok(self) -> Result<Outcome> {
        anyhow::ensure!(self.success(), "{self}");
        Ok(self)
    }

    /// Standard output and error in one text.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.timed_out, self.code, self.signal) {
            (true, ..) => "did not end in time and was killed".to_owned(),
            (_, Some(code), _) => format!("ended with status {code}"),
            (_, None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
        };
        write!(f, "`{}` {end} after {:.1} s", self.command, self.seconds)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n  {name}: {}", text.trim_end().replace('\n', "\n  "))?;
            }
        }
        Ok(())
    }
}

/// Runs `command` to its end, at most for `limit`; standard input is empty. An error means that it could not be started.
///
/// What it said is kept to the last byte, however late this side comes to read it: what a program wrote before its end lies in the pipe then. What others
/// who have inherited the pipe say afterwards, such as a daemon in the background, is not waited for.
pub fn run(command: &mut Command, limit: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    let mut out = Said::new(child.stdout.take().map(OwnedFd::from))?;
    let mut err = Said::new(child.stderr.take().map(OwnedFd::from))?;
    let ended = follow(&mut child, started + limit, [&mut out, &mut err])?;
    let timed_out = ended.is_none();
    let status = match ended {
        Some(status) => status,
        None => {
            child.kill().ok();
            child.wait()?
        }
    };
    let [stdout, stderr] = [out.finish()?, err.finish()?];
    Ok(Outcome {
        command: shown,
        code: status.code(),
        signal: status.signal(),
        timed_out,
        stdout,
        stderr,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// More than a pipe holds that nobody has enlarged beyond what ordinary users may, in bytes.
const PIPE: usize = 1 << 20;

/// What comes out of a pipe.
struct Said {
    /// `None` after its end.
    pipe: Option<OwnedFd>,
    text: Vec<u8>,
}

impl Said {
    fn new(pipe: Option<OwnedFd>) -> Result<Said> {
        if let Some(pipe) = &pipe {
            // Of this end only: the other one is a description of its own.
            rustix::fs::fcntl_setfl(pipe, rustix::fs::OFlags::NONBLOCK).context("a pipe that does not block")?;
        }
        Ok(Said { pipe, text: Vec::new() })
    }

    /// Takes what is there, at most as much as a pipe may hold: who writes on and on must not keep anybody here.
    fn take(&mut self) -> Result<()> {
        let mut buffer = [0; 8192];
        let end = self.text.len() + PIPE;
        while let Some(pipe) = self.pipe.as_ref().filter(|_| self.text.len() < end) {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.text.extend_from_slice(&buffer[..n]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("reading what a child says"),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<String> {
        self.take()?;
        Ok(String::from_utf8_lossy(&self.text).into_owned())
    }
}

/// Takes what a child says until it ends, at most until `deadline`; `None` when it still runs.
fn follow(child: &mut Child, deadline: Instant, mut said: [&mut Said; 2]) -> Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("pidfd_open")?;
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        fds.extend(said.iter().filter_map(|said| Some(PollFd::new(said.pipe.as_ref()?, PollFlags::IN))));
        match poll(&mut fds, Some(&until(deadline))) {
            Ok(_) if Instant::now() >= deadline => return Ok(child.try_wait()?),
            Ok(0) => {}
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Some(child.wait()?)),
            Ok(_) => said.iter_mut().try_for_each(|said| said.take())?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for a child"),
        }
    }
}

fn until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
}

/// Waits for a child, at most for `limit`; `None` when it still runs.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let mut nothing = [Said { pipe: None, text: Vec::new() }, Said { pipe: None, text: Vec::new() }];
    let [first, second] = &mut nothing;
    follow(child, Instant::now() + limit, [first, second])
}

/// A command line as one would type it.
pub fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    std::iter::once(name).chain(command.get_args().map(|a| a.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_status_and_limit_are_kept() {
        let limit = Duration::from_secs(20);
        let outcome = run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]), limit).unwrap();
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(3), "a\n", "b\n"));
        assert!(outcome.ok().unwrap_err().to_string().contains("status 3"));
        let late = run(Command::new("sleep").arg("1000"), Duration::from_millis(20)).unwrap();
        assert!(late.timed_out && late.signal == Some(9));
        assert!(run(&mut Command::new("no-such-program-anywhere"), limit).is_err());
    }

    #[test]
    fn who_never_stops_talking_is_stopped() {
        let outcome = run(&mut Command::new("yes"), Duration::from_millis(50)).unwrap();
        assert!(outcome.timed_out && outcome.stdout.starts_with("y\ny\n"));
    }

    /// More than a pipe holds, and the last of it just before the end; and whoever keeps the pipe open is not waited for.
    #[test]
    fn output_is_whole_and_a_pipe_that_others_keep_costs_nothing() {
        let script = "seq 100000; sleep 1000 & echo $! >&2; echo last";
        let outcome = run(Command::new("sh").args(["-c", script]), Duration::from_secs(600)).unwrap();
        let sleeper: i32 = outcome.stderr.trim().parse().unwrap();
        let still_there = rustix::process::kill_process(Pid::from_raw(sleeper).unwrap(), rustix::process::Signal::KILL);
        assert!(outcome.success() && outcome.stdout.len() == 588_895 + 5 && outcome.stdout.ends_with("100000\nlast\n"));
        assert!(still_there.is_ok(), "it was waited for");
    }
}
