//! Foreground I/O keeps its share of a device: who reads for a user says so here, and while somebody does, copies are short and go one
//! after the other, so that a read waits for little more than one of them.
//!
//! Reads come in bursts: activity lasts a little longer than the last read, so that the first of the next burst
//! does not meet a long command.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long after a read the next one is expected.
const LINGER: Duration = Duration::from_millis(20);

/// Whether users are reading.
#[derive(Debug)]
pub struct Foreground {
    reading: AtomicU32,
    /// Reads that ever began.
    begun: AtomicU64,
    begin: Instant,
    /// Microseconds after `begin` until which it is active without a read; 0: there was none yet.
    until: AtomicU64,
}

impl Default for Foreground {
    fn default() -> Self {
        Self { reading: AtomicU32::new(0), begun: AtomicU64::new(0), begin: Instant::now(), until: AtomicU64::new(0) }
    }
}

/// A read that somebody waits for, until it is dropped.
#[must_use = "the read ends when this is dropped"]
pub struct Reading<'a>(&'a Foreground);

impl Foreground {
    /// A read begins.
    pub fn read(&self) -> Reading<'_> {
        self.reading.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Reading(self)
    }

    /// How many reads ever began.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Does a user read, or did one a moment ago?
    pub fn is_active(&self) -> bool {
        self.reading.load(Ordering::Relaxed) > 0 || self.now() < self.until.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let foreground = self.0;
        foreground.until.fetch_max(foreground.now().saturating_add(LINGER.as_micros() as u64), Ordering::Relaxed);
        foreground.reading.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts the commands in flight of an engine.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    flying: Mutex<u32>,
    left: Condvar,
}

/// A command in flight.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Gate {
    /// Lets a command pass if fewer than `most` are in flight.
    pub fn enter(self: &Arc<Self>, most: u32) -> Option<Pass> {
        let mut flying = self.flying.lock();
        if *flying >= most.max(1) {
            return None;
        }
        *flying += 1;
        Some(Pass(self.clone()))
    }

    /// Waits until a command has ended, or a moment: the limit may have changed meanwhile. Only for one who has none in flight.
    pub fn wait(&self) {
        const MOMENT: Duration = Duration::from_millis(5);
        let mut flying = self.flying.lock();
        if *flying > 0 {
            let _ = self.left.wait_for(&mut flying, MOMENT);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        *self.0.flying.lock() -= 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_lasts_as_long_as_the_longest_read() {
        let foreground = Foreground::default();
        assert!(!foreground.is_active());
        let (first, second) = (foreground.read(), foreground.read());
        drop(first);
        // However long the other one takes.
        foreground.until.store(0, Ordering::Relaxed);
        assert!(foreground.is_active());
        drop(second);
        assert!(foreground.until.load(Ordering::Relaxed) >= LINGER.as_micros() as u64);
        foreground.until.store(0, Ordering::Relaxed);
        assert!(!foreground.is_active());
    }

    #[test]
    fn the_gate_counts() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(2).unwrap();
        let second = gate.enter(2).unwrap();
        assert!(gate.enter(2).is_none() && gate.enter(1).is_none());
        drop(first);
        assert!(gate.enter(1).is_none());
        assert!(gate.enter(2).is_some());
        drop(second);
        gate.wait();
        // No limit is a standstill.
        assert!(gate.enter(0).is_some());
    }
}
