//! Drives the built programs from outside, as a user would: format, mount, kill, unmount, check, read the status.
//!
//! Knows the filesystem only by its commands and their JSON, so that tests, the demonstration and the benchmarks see what a
//! user sees, and share one careful way of starting a daemon and of getting rid of it.

pub mod bytes;
pub mod content;
pub mod cpu;
pub mod interrupt;
pub mod mounts;
pub mod process;
pub mod programs;
pub mod status;
pub mod volume;

pub use content::Pattern;
pub use process::{Outcome, run};
pub use programs::Programs;
pub use status::Status;
pub use volume::{Volume, VolumeSpec};
