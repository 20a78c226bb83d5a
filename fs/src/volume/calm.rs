//! Whether users leave the devices alone, and whether somebody waits for what the cleaner holds: how large its chunks may be, and when a step of
//! several ends.

use crate::volume::Volume;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So long nobody must have written, committed or copied. Reads last a moment longer than they do by themselves ([`copy_backend::Foreground`]).
const CALM_AFTER: Duration = Duration::from_millis(20);

/// What is known of users.
#[derive(Debug)]
pub(super) struct Calm {
    /// Those who wait for the cleaner, or for a head that it may hold.
    awaiting: AtomicU32,
    /// Commits and copies under way, which users or the devices of users are waiting for.
    working: AtomicU32,
    /// What users had written, committed and copied when it was last looked at, and since when that has not changed.
    seen: Mutex<(u64, Instant)>,
}

impl Default for Calm {
    fn default() -> Self {
        Self { awaiting: AtomicU32::new(0), working: AtomicU32::new(0), seen: Mutex::new((0, Instant::now())) }
    }
}

/// Somebody who waits, until this is dropped.
#[must_use]
pub(super) struct Awaiting<'a>(&'a AtomicU32);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calm {
    /// Somebody waits for the cleaner, or for a head of relocation.
    pub fn await_cleaner(&self) -> Awaiting<'_> {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
        Awaiting(&self.awaiting)
    }

    /// A commit begins, and lasts until this is dropped.
    pub fn begin_commit(&self) -> Awaiting<'_> {
        self.working.fetch_add(1, Ordering::Relaxed);
        Awaiting(&self.working)
    }

    /// A copy that users asked for begins, and lasts until this is dropped: also while it waits for a head that the cleaner has.
    pub fn begin_copy(&self) -> Awaiting<'_> {
        self.begin_commit()
    }

    /// Does anybody wait, or is a commit or copy under way?
    #[cfg(test)]
    pub fn is_used(&self) -> bool {
        self.is_awaited() || self.working.load(Ordering::Relaxed) > 0
    }

    fn is_awaited(&self) -> bool {
        self.awaiting.load(Ordering::Relaxed) > 0
    }

    /// Has nothing happened for a while? `done` grows with everything that users do.
    fn is_calm(&self, done: u64) -> bool {
        let mut seen = self.seen.lock();
        if seen.0 != done || self.working.load(Ordering::Relaxed) > 0 {
            *seen = (done, Instant::now());
        }
        seen.1.elapsed() >= CALM_AFTER
    }
}

impl Volume {
    /// Does no user wait for the devices? Never without threads: what a simulation does depends on no clock.
    pub(super) fn is_calm(&self) -> bool {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let done = [&counters.user_written, &counters.log_appends, &counters.copy_calls, &counters.copy_bytes]
            .into_iter()
            .map(count)
            .fold(0, u64::wrapping_add);
        self.has_threads() && self.calm.is_calm(done) && !self.engine.foreground().is_active()
    }

    /// Should a step of cleaning begin nothing more? Somebody waits for the cleaner or a head, the volume is ending, or a checkpoint comes soon.
    pub(super) fn is_cleaner_awaited(&self) -> bool {
        self.calm.is_awaited() || self.is_ending() || self.state.lock().tree.store().dirty_blocks() >= self.cleaning_dirty_limit / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_calm_when_nothing_has_happened_for_a_while() {
        let calm = Calm::default();
        assert!(!calm.is_calm(1));
        let long_ago = Instant::now().checked_sub(CALM_AFTER).expect("a clock that has run for a moment");
        *calm.seen.lock() = (1, long_ago);
        assert!(calm.is_calm(1));
        assert!(!calm.is_calm(2) && !calm.is_calm(2));
    }

    #[test]
    fn it_is_not_calm_while_a_commit_or_a_copy_lasts() {
        for begin in [Calm::begin_commit, Calm::begin_copy] {
            let calm = Calm::default();
            let long_ago = Instant::now().checked_sub(CALM_AFTER).expect("a clock that has run for a moment");
            *calm.seen.lock() = (1, long_ago);
            let works = begin(&calm);
            assert!(!calm.is_calm(1));
            *calm.seen.lock() = (1, long_ago);
            assert!(!calm.is_calm(1));
            drop(works);
            *calm.seen.lock() = (1, long_ago);
            assert!(calm.is_calm(1));
        }
    }

    #[test]
    fn it_is_awaited_while_somebody_waits() {
        let calm = Calm::default();
        let (first, second) = (calm.await_cleaner(), calm.await_cleaner());
        drop(first);
        assert!(calm.is_awaited());
        drop(second);
        assert!(!calm.is_awaited());
    }
}
