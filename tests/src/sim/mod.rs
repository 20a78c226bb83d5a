//! A seeded simulator: volumes on simulated drives beside a naive model, with power cuts and faults.
//!
//! A run is decided by its seed alone: one thread, a clock of its own, no background work. What it did is in its log, so that a
//! failing seed tells its story; [`crash::Failure`] prints how to repeat it.

pub mod coverage;
pub mod crash;
pub mod explore;
pub mod faults;
pub mod model;
pub mod operation;
pub mod scenario;
pub mod subject;
pub mod world;

pub use coverage::Coverage;
pub use crash::{Failure, crash_run, guarded, long_run};
pub use faults::fault_run;
