//! Move blocks without the host touching them, else with it.
//!
//! A [`backend::CopyBackend`] is one road (the image's Copy, the host's read and write; others join them). The pure
//! [`plan`] cuts a request into commands that respect a road's limits; the [`engine`] chooses the road per pair of
//! devices, keeps commands in flight (one per sequential zone), falls back, verifies and counts.
//!
//! Who wants to copy byte ranges of devices uses a [`Copier`]: submit and poll, or a blocking call. The `ferrycopy` [`tool`] is built on it.
//!
//! A new road is one file that implements the trait, and one line in [`CopyEngine::for_devices`]; nothing else knows the
//! roads by name.

mod admission;
pub mod backend;
mod begun;
pub mod calibrate;
pub mod copier;
pub mod device_name;
pub mod engine;
pub mod error;
pub mod foreground;
#[doc(hidden)]
pub mod fuzzing;
pub mod governor;
pub mod host;
pub mod image;
pub mod job;
mod learning;
pub mod nvme;
pub mod plan;
pub mod profile;
pub mod ranges;
pub mod rate;
pub mod reflink;
mod request;
pub mod route;
pub mod scsi;
pub mod scsi_token;
pub mod scsi_xcopy;
pub mod size;
pub mod sizes;
pub mod stats;
pub mod tool;
pub mod topology;
mod verify;
mod workers;

#[cfg(test)]
mod tests;

pub use backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road, SourceRange, Target};
pub use begun::BegunCopy;
pub use copier::{Copier, CopyId, Finished, Pace};
pub use device_name::DeviceName;
pub use engine::{CopyEngine, CopyRequest, CopyResult, EngineConfig, RoadPreference, RouteChoice, VerifyMode};
pub use error::{CopyError, Result};
pub use foreground::Foreground;
pub use governor::Governor;
pub use job::{CopyReport, Ending, RangeCopy, RangeReport};
pub use profile::{GivenProfile, Profile, ProfileUse};
pub use ranges::{BytePosition, ByteRange, RangeError};
pub use route::{RouteLimits, RouteStatus};
pub use sizes::Sizes;
pub use stats::{CopyCounters, RoadCounters};
pub use topology::{OffloadBelow, Topology};
