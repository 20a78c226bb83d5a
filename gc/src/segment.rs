//! What a policy may know of a segment. A segment is a zone.

use serde::{Deserialize, Serialize};
use zns::{DeviceId, ZoneId};

/// Logical time: blocks that users have written so far.
pub type Seq = u64;

/// A segment of the log: one zone of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId {
    /// The device.
    pub device: DeviceId,
    /// The zone.
    pub zone: ZoneId,
}

/// Which head of the log filled a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Data that users wrote.
    User,
    /// Nodes, maps and segment tables.
    Metadata,
    /// Blocks that the device copied.
    RelocatedByDevice,
    /// Blocks that the host copied.
    RelocatedByHost,
}

/// A closed segment as the policies see it. Blocks are 4096-byte filesystem blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentInfo {
    /// Which.
    pub id: SegmentId,
    /// What filled it.
    pub stream: Stream,
    /// Live blocks.
    pub live: u32,
    /// Blocks that a reset would give back: the zone's capacity.
    pub capacity: u32,
    /// When its last block was written.
    pub written_at: Seq,
    /// After how long its blocks were expected to be written again when they were put into it (harmonic mean), or are now where what dies in it is watched
    /// ([`crate::Placement::watches_deaths`]); zero: nobody estimated.
    pub expected: Seq,
}
