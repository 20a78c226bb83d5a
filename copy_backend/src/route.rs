//! Which road leads from one device to another, and what has been learnt about it.
//!
//! Per pair of devices the first offload road with capabilities is taken. A road that refuses, copies wrongly or fails
//! again and again is closed for the pair, with the reason kept for reports; the next road in order takes over, in the
//! end the host. What a road taught about its true limits stays with the pair.

use crate::backend::{CopyBackend, CopyCaps, NoRoad, Road};
use crate::learning::{Learning, Shape};
use crate::plan::UNIT;
use crate::profile::ProfileUse;
use serde::Serialize;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use zns::DeviceId;

/// Failures in a row after which a road is closed for a pair.
const PATIENCE: u32 = 4;

/// Limits of a road, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RouteLimits {
    /// Most bytes in one source range.
    pub max_range_bytes: u64,
    /// Most bytes in one command.
    pub max_command_bytes: u64,
    /// Most source ranges in one command.
    pub max_ranges: u32,
}

/// The road between two devices, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// From this device.
    pub from: DeviceId,
    /// To this one.
    pub to: DeviceId,
    /// The road taken now.
    pub road: Road,
    /// Why this one: for the host road, why no device does it.
    pub reason: String,
    /// Carried out by our own process.
    pub simulated: bool,
    /// Limits as they are known now.
    pub limits: RouteLimits,
    /// Whether sizes are chosen from measurements.
    pub profile: ProfileUse,
}

/// The offload road of a pair.
#[derive(Clone, Debug)]
pub(crate) struct OpenRoad {
    /// Index among the offload backends.
    pub backend: usize,
    /// What it promises.
    promised: CopyCaps,
    learning: Learning,
}

impl OpenRoad {
    /// Capabilities, as far as learnt.
    pub fn caps(&self) -> CopyCaps {
        self.learning.limit(&self.promised)
    }

    /// Capabilities for the next commands, which may be shorter to learn from them; then one goes after the other.
    pub fn next_caps(&self) -> (CopyCaps, bool) {
        (self.learning.next(&self.promised), self.learning.is_trying())
    }
}

/// What is known about a pair.
#[derive(Clone, Debug, Default)]
struct Pair {
    open: Option<OpenRoad>,
    probed: bool,
    /// Why each offload road before the open one is not taken.
    closed: BTreeMap<Road, NoRoad>,
    /// The open road has carried a command, and what it did was looked at where it asks for that.
    proven: bool,
    failures_in_a_row: u32,
    /// A road panicked when it was asked what it can do.
    panicked: bool,
}

/// What is known about all pairs.
pub(crate) struct Routes {
    offload: Vec<Arc<dyn CopyBackend>>,
    pairs: BTreeMap<(DeviceId, DeviceId), Pair>,
}

impl Routes {
    pub fn new(offload: Vec<Arc<dyn CopyBackend>>) -> Self {
        Self { offload, pairs: BTreeMap::new() }
    }

    /// The offload road of a pair, probed when it is first asked for.
    pub fn open(&mut self, from: DeviceId, to: DeviceId) -> Option<OpenRoad> {
        let pair = self.pairs.entry((from, to)).or_default();
        if !pair.probed {
            for (index, backend) in self.offload.iter().enumerate() {
                if pair.closed.contains_key(&backend.road()) {
                    continue;
                }
                // Once may have been a matter of chance; nobody shall meet it for ever.
                let asked = catch_unwind(AssertUnwindSafe(|| backend.caps(from, to))).unwrap_or_else(|panic| {
                    if !std::mem::replace(&mut pair.panicked, true) {
                        resume_unwind(panic);
                    }
                    Err("it panicked again when it was asked what it can do".into())
                });
                match asked {
                    Ok(caps) if usable(&caps) => {
                        pair.open = Some(OpenRoad { backend: index, learning: Learning::new(&caps), promised: caps });
                        break;
                    }
                    Ok(_) => {
                        let reason = format!("the limits of {} are smaller than 4096 bytes", backend.road());
                        pair.closed.insert(backend.road(), reason.into());
                    }
                    Err(reason) => drop(pair.closed.insert(backend.road(), reason)),
                }
            }
            // Only now: a road that panicked while it was asked is asked again.
            pair.probed = true;
        }
        pair.open.clone()
    }

    /// Every offload road of a pair: what it can do, or why it is closed.
    pub fn survey(&self, from: DeviceId, to: DeviceId) -> Vec<(Road, Result<CopyCaps, NoRoad>)> {
        let closed = self.pairs.get(&(from, to)).map(|pair| &pair.closed);
        let about = |backend: &Arc<dyn CopyBackend>| {
            let road = backend.road();
            match closed.and_then(|closed| closed.get(&road)) {
                Some(reason) => (road, Err(reason.clone())),
                None => (road, backend.caps(from, to)),
            }
        };
        self.offload.iter().map(about).collect()
    }

    /// Why no offload road is open: what the roads for this kind of device say, and only if there is none, what the others say.
    pub fn reason(&mut self, from: DeviceId, to: DeviceId) -> String {
        let pair = self.pairs.entry((from, to)).or_default();
        let own = pair.closed.values().any(|why| !why.foreign);
        let reasons: Vec<(&Road, &NoRoad)> = pair.closed.iter().filter(|(_, why)| !(own && why.foreign)).collect();
        match reasons[..] {
            [] => "no road but the host's is installed".into(),
            [(_, why)] => why.reason.clone(),
            _ => reasons.iter().map(|(road, why)| format!("{road}: {}", why.reason)).collect::<Vec<_>>().join("; "),
        }
    }

    /// Has the open road of a pair shown that it works?
    pub fn is_proven(&self, from: DeviceId, to: DeviceId) -> bool {
        self.pairs.get(&(from, to)).is_some_and(|pair| pair.proven)
    }

    /// Closes the road `road` of a pair; the next one is probed when it is asked for.
    pub fn close(&mut self, from: DeviceId, to: DeviceId, road: Road, reason: &str) {
        let pair = self.pairs.entry((from, to)).or_default();
        if pair.closed.contains_key(&road) {
            return;
        }
        tracing::warn!(%from, %to, ?road, reason, "copy road closed");
        pair.closed.insert(road, reason.into());
        pair.proven = false;
        pair.open = None;
        pair.probed = false;
        pair.failures_in_a_row = 0;
    }

    /// A command of this shape succeeded on `road`. Says whether the next ones may have other sizes.
    pub fn succeeded(&mut self, from: DeviceId, to: DeviceId, road: Road, shape: Shape) -> bool {
        let pair = self.pairs.entry((from, to)).or_default();
        // The host's success says nothing about the offload road, whose failures it may have made good.
        let Some(open) = pair.open.as_mut().filter(|open| open.promised.road == road) else { return false };
        pair.failures_in_a_row = 0;
        pair.proven = true;
        open.learning.passed(shape)
    }

    /// A command failed; too often in a row, and the road is closed. Says whether it was.
    /// `done`: ranges that were copied before, which show that the road leads somewhere.
    pub fn failed(&mut self, from: DeviceId, to: DeviceId, road: Road, done: usize, reason: &str) -> bool {
        let pair = self.pairs.entry((from, to)).or_default();
        pair.failures_in_a_row = if done > 0 { 1 } else { pair.failures_in_a_row + 1 };
        let enough = pair.failures_in_a_row >= PATIENCE;
        if enough {
            self.close(from, to, road, &format!("failed {PATIENCE} times in a row, last: {reason}"));
        }
        enough
    }

    /// A command of this shape was too large. `false`: there is nothing smaller to try.
    pub fn shrink(&mut self, from: DeviceId, to: DeviceId, shape: Shape) -> bool {
        let Some(open) = self.pairs.entry((from, to)).or_default().open.as_mut() else { return false };
        let goes_on = open.learning.refused(shape);
        let (next, _) = open.next_caps();
        tracing::info!(%from, %to, ?shape, goes_on, bytes = next.max_command_bytes, range = next.max_range_bytes, ranges = next.max_ranges,
            "a copy command was too large");
        goes_on
    }

    /// All pairs that were ever asked for.
    pub fn known(&self) -> Vec<(DeviceId, DeviceId)> {
        self.pairs.keys().copied().collect()
    }
}

/// Can a road carry one filesystem block?
fn usable(caps: &CopyCaps) -> bool {
    caps.max_range_bytes >= UNIT && caps.max_command_bytes >= UNIT && caps.max_ranges > 0
}

impl From<&CopyCaps> for RouteLimits {
    fn from(caps: &CopyCaps) -> Self {
        Self { max_range_bytes: caps.max_range_bytes, max_command_bytes: caps.max_command_bytes, max_ranges: caps.max_ranges }
    }
}
