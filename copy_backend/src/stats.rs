//! Counters per road and per reason.

use crate::backend::{CopyOutcome, Road};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use zns::IoClass;

/// What one road has carried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoadCounters {
    /// Commands issued.
    pub commands: u64,
    /// Source ranges in them.
    pub ranges: u64,
    /// Payload bytes copied.
    pub bytes: u64,
}

/// All counters of one class of work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyCounters {
    /// By road.
    pub roads: BTreeMap<Road, RoadCounters>,
    /// Payload bytes that went by offload.
    pub offloaded: u64,
    /// Payload bytes read into host memory to copy them.
    pub host_read: u64,
    /// Payload bytes written from host memory to copy them.
    pub host_written: u64,
    /// Commands on all roads.
    pub commands: u64,
    /// The longest time from the start of a command until it was known to have ended, in microseconds.
    pub slowest_us: u64,
    /// How often the engine left a road, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Source ranges that verification compared.
    pub copies_verified: u64,
    /// Source ranges that verification rejected.
    pub copies_rejected: u64,
    /// Bytes that verification read, and those that were read to find out whether a source is readable at all.
    pub verify_read: u64,
}

/// The counters of an engine, by class of work.
#[derive(Default)]
pub(crate) struct Stats {
    classes: Mutex<HashMap<IoClass, CopyCounters>>,
}

impl Stats {
    pub fn of(&self, class: IoClass) -> CopyCounters {
        self.classes.lock().get(&class).cloned().unwrap_or_default()
    }

    /// Counts something for a class of work.
    pub fn count(&self, class: IoClass, what: impl FnOnce(&mut CopyCounters)) {
        what(self.classes.lock().entry(class).or_default());
    }
}

impl CopyCounters {
    /// A command that was carried out, whole or in part, in `time`: `ranges` and `bytes` are those that count.
    pub(crate) fn command(&mut self, road: Road, ranges: u64, bytes: u64, outcome: &CopyOutcome, time: Duration) {
        let by_road = self.roads.entry(road).or_default();
        by_road.commands += 1;
        by_road.ranges += ranges;
        by_road.bytes += bytes;
        self.commands += 1;
        self.slowest_us = self.slowest_us.max(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self.host_read += outcome.host_read;
        self.host_written += outcome.host_written;
        if road.is_offload() {
            // Some roads take the host's help at the ends of a range.
            self.offloaded += bytes.saturating_sub(outcome.host_written);
        }
    }

    /// A range was compared; `read` bytes for it.
    pub(crate) fn verified(&mut self, rejected: bool, read: u64) {
        self.copies_verified += 1;
        self.copies_rejected += u64::from(rejected);
        self.verify_read += read;
    }

    /// Bytes read to find out whether a source can be read at all.
    pub(crate) fn probed(&mut self, read: u64) {
        self.verify_read += read;
    }

    /// The engine left a road.
    pub(crate) fn fell_back(&mut self, reason: &str) {
        *self.fallbacks.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds what others counted.
    pub fn add(&mut self, other: &Self) {
        for (road, counters) in &other.roads {
            let own = self.roads.entry(*road).or_default();
            own.commands += counters.commands;
            own.ranges += counters.ranges;
            own.bytes += counters.bytes;
        }
        self.offloaded += other.offloaded;
        self.host_read += other.host_read;
        self.host_written += other.host_written;
        self.commands += other.commands;
        self.slowest_us = self.slowest_us.max(other.slowest_us);
        for (reason, count) in &other.fallbacks {
            *self.fallbacks.entry(reason.clone()).or_default() += count;
        }
        self.copies_verified += other.copies_verified;
        self.copies_rejected += other.copies_rejected;
        self.verify_read += other.verify_read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_all_commands_is_known() {
        let outcome = CopyOutcome::offloaded(1);
        let of = |times: &[u64]| {
            let mut counters = CopyCounters::default();
            times.iter().for_each(|us| counters.command(Road::Host, 1, 4096, &outcome, Duration::from_micros(*us)));
            counters
        };
        let mut counters = of(&[3, 90, 7]);
        assert_eq!((counters.commands, counters.slowest_us), (3, 90));
        counters.add(&of(&[80]));
        assert_eq!(counters.slowest_us, 90);
        counters.add(&of(&[100]));
        assert_eq!((counters.commands, counters.slowest_us), (5, 100));
    }
}
