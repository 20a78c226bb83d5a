//! Decide what to clean and drive the move; knows no inode.
//!
//! The filesystem gives a [`space::LogSpace`]; policies choose victims; the relocator moves a victim chunk by chunk through
//! the copy engine and commits by compare-and-swap; the pacer says when and how much.

pub mod error;
pub mod pacer;
pub mod policy;
pub mod relocator;
pub mod segment;
pub mod space;
pub mod stats;
pub mod trace;

pub use error::{CleanError, Result};
pub use pacer::{Pace, Pacer, PacerConfig};
pub use policy::{Policy, VictimPolicy};
pub use relocator::{Relocator, Step};
pub use segment::{SegmentId, SegmentInfo, Seq, Stream};
pub use space::{Committed, LiveExtent, LiveRun, LogSpace, Move, Owner, Reservation};
