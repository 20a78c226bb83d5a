//! One copy from submission to its end: progress on a terminal, interruption.

use super::interrupt;
use crate::copier::Copier;
use crate::job::{CopyReport, RangeCopy};
use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often progress is shown and signals are looked for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A bar of `bytes` bytes; hidden where standard error is no terminal.
pub(super) fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Copies; the bar moves on from where it stands.
pub(super) fn run(copier: &Copier, copy: RangeCopy, bar: &ProgressBar) -> Result<CopyReport> {
    let begin = bar.position();
    let id = copier.submit(copy)?;
    loop {
        let fd = copier.event_fd();
        // An error (EINTR) only brings the next look earlier.
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&TICK));
        if interrupt::asked() {
            copier.cancel(id);
        }
        match copier.progress(id) {
            Some(copied) => bar.set_position(begin + copied),
            None => break,
        }
    }
    let report = copier.wait(id).ok_or_else(|| anyhow!("the end of the copy was lost"))??;
    bar.set_position(begin + report.bytes);
    Ok(report)
}
