//! One copy from submission to its end: progress on a terminal, interruption.

use super::interrupt;
use crate::copier::{Copier, CopyId};
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
    run_all(copier, vec![copy], bar)?.pop().ok_or_else(|| anyhow!("the end of the copy was lost"))
}

/// Copies side by side; reports in the order of the copies. After an interrupt all end.
pub(super) fn run_all(copier: &Copier, copies: Vec<RangeCopy>, bar: &ProgressBar) -> Result<Vec<CopyReport>> {
    let begin = bar.position();
    let mut ids = Vec::with_capacity(copies.len());
    let mut refused = None;
    for copy in copies {
        match copier.submit(copy) {
            Ok(id) => ids.push(id),
            Err(error) => {
                cancel_all(copier, &ids);
                refused = Some(error);
                break;
            }
        }
    }
    let mut reports = Vec::with_capacity(ids.len());
    let mut ended = 0;
    for (index, &id) in ids.iter().enumerate() {
        while let Some(copied) = copier.progress(id) {
            let others: u64 = ids[index + 1..].iter().filter_map(|id| copier.progress(*id)).sum();
            bar.set_position(begin + ended + copied + others);
            if interrupt::asked() {
                cancel_all(copier, &ids);
            }
            let fd = copier.event_fd();
            // An error (EINTR) only brings the next look earlier.
            let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&TICK));
            if index + 1 < ids.len() && copier.progress(id).is_some() {
                // The descriptor may tell of another one, and stays readable until that one's report is taken.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let report = copier.wait(id).ok_or_else(|| anyhow!("the end of the copy was lost"))??;
        ended += report.bytes;
        reports.push(report);
    }
    if let Some(error) = refused {
        return Err(error.into());
    }
    bar.set_position(begin + ended);
    Ok(reports)
}

/// Those that have ended already need no word.
fn cancel_all(copier: &Copier, ids: &[CopyId]) {
    for id in ids {
        copier.cancel(*id);
    }
}
