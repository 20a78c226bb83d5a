//! Counters per road and per reason.

use crate::backend::{CopyOutcome, Road};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
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

    /// A command that was carried out, whole or in part: `ranges` and `bytes` are those that count.
    pub fn command(&self, class: IoClass, road: Road, ranges: u64, bytes: u64, outcome: &CopyOutcome) {
        let mut classes = self.classes.lock();
        let counters = classes.entry(class).or_default();
        let by_road = counters.roads.entry(road).or_default();
        by_road.commands += 1;
        by_road.ranges += ranges;
        by_road.bytes += bytes;
        counters.commands += 1;
        counters.host_read += outcome.host_read;
        counters.host_written += outcome.host_written;
        if road.is_offload() {
            counters.offloaded += bytes;
        }
    }

    /// A range was compared; `read` bytes for it.
    pub fn verified(&self, class: IoClass, rejected: bool, read: u64) {
        let mut classes = self.classes.lock();
        let counters = classes.entry(class).or_default();
        counters.copies_verified += 1;
        counters.copies_rejected += u64::from(rejected);
        counters.verify_read += read;
    }

    /// Bytes read to find out whether a source can be read at all.
    pub fn probed(&self, class: IoClass, read: u64) {
        self.classes.lock().entry(class).or_default().verify_read += read;
    }

    /// The engine left a road.
    pub fn fell_back(&self, class: IoClass, reason: &str) {
        *self.classes.lock().entry(class).or_default().fallbacks.entry(reason.to_owned()).or_default() += 1;
    }
}
