//! Runs a program to its end with a time limit, and keeps all it said.

use anyhow::{Context, Result};
use std::io::Read;
use std::os::fd::AsFd;
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
pub fn run(command: &mut Command, limit: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    let out = child.stdout.take().map(reader);
    let err = child.stderr.take().map(reader);
    let ended = wait(&mut child, limit)?;
    let timed_out = ended.is_none();
    let status = match ended {
        Some(status) => status,
        None => {
            child.kill().ok();
            child.wait()?
        }
    };
    // A background daemon may have inherited the pipes and hold them open: what was said until the end is enough.
    let collect = |r: Option<Reader>| r.map(|r| r.finish()).unwrap_or_default();
    Ok(Outcome {
        command: shown,
        code: status.code(),
        signal: status.signal(),
        timed_out,
        stdout: collect(out),
        stderr: collect(err),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Waits for a child, at most for `limit`; `None` when it still runs.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let deadline = Instant::now() + limit;
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let spec = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&spec)) {
            Ok(0) => return Ok(child.try_wait()?),
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("waiting for a child"),
        }
    }
}

/// A command line as one would type it.
pub fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    std::iter::once(name).chain(command.get_args().map(|a| a.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

struct Reader {
    text: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    done: std::sync::mpsc::Receiver<()>,
}

impl Reader {
    fn finish(self) -> String {
        let _ = self.done.recv_timeout(Duration::from_millis(500));
        let bytes = self.text.lock().unwrap_or_else(|e| e.into_inner());
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn reader(mut from: impl Read + Send + 'static) -> Reader {
    let text = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (ended, done) = std::sync::mpsc::channel();
    let sink = text.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            sink.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(&buffer[..n]);
        }
        let _ = ended.send(());
    });
    Reader { text, done }
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
}
