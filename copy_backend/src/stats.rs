//! Counters per road and per reason.

use crate::backend::Road;
use serde::Serialize;
use std::collections::BTreeMap;

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
    /// Bytes that verification read.
    pub verify_read: u64,
}
