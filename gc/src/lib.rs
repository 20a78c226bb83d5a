//! Decide what to clean and drive the move; knows no inode.
//!
//! The filesystem gives a [`space::LogSpace`]; a [`policy::VictimPolicy`] chooses victims; the [`relocator::Relocator`] moves a victim
//! chunk by chunk through the copy engine and commits by compare-and-swap; the [`pacer::Pacer`] says when and how much, the [`toll::Toll`] what writers pay. The
//! [`cleaner::Cleaner`] puts them together as a step machine without a thread or a clock, and a [`campaign::Campaign`] drives
//! it to an end (`ferryfs gc`). The [`sim`] module runs policies and placements over addresses alone, [`theory`] says what is possible.

pub mod campaign;
pub mod checkpoints;
pub mod cleaner;
pub mod deaths;
pub mod error;
pub mod histogram;
pub mod mover;
pub mod pacer;
pub mod placement;
pub mod policy;
pub mod relocator;
pub mod segment;
pub mod sim;
pub mod space;
pub mod stats;
pub mod theory;
pub mod toll;
pub mod trace;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod model;

pub use campaign::{Campaign, CampaignReport, CampaignStep};
pub use checkpoints::Checkpoints;
pub use cleaner::{Caller, Cleaner, CleanerConfig, Outcome, Situation, Work};
pub use error::{CleanError, Result};
pub use histogram::{Histogram, Percentiles};
pub use mover::{Carrier, Carrying, Load, Mover};
pub use pacer::{Pace, Pacer, PacerConfig, Pressure, Room};
pub use placement::{Placement, PlacementKind};
pub use policy::{Policy, VictimPolicy};
pub use relocator::{Progress, Relocator, RelocatorConfig, Step, Stride, Unmovable, VictimEnd, VictimReport};
pub use segment::{SegmentId, SegmentInfo, Seq, Stream};
pub use space::{Committed, LiveExtent, LiveRun, LogSpace, Move, Owner, Reservation};
pub use stats::{GcStats, Pauses};
pub use toll::Toll;
pub use trace::{Event, Tracer};

/// Bytes in a filesystem block.
pub const BLOCK_BYTES: u64 = 4096;
