//! FerryFS: format, pure core, volume shell, FUSE adaptor and the `ferryfs` command.
//!
//! `core` owns no device, clock, thread or random source: an operation plans on resident metadata, names what is missing,
//! and once everything is there applies without failing. `volume` is the shell around it: devices, log, checkpoints,
//! recovery, cleaning. `fuse` translates and nothing else.

pub mod addr;
pub mod check;
pub mod cli;
pub mod core;
pub mod dump;
pub mod error;
pub mod format;
pub mod fuse;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod volume;

pub use addr::Addr;
pub use error::{FsError, Result};
pub use ids::{FileBlock, Ino, NodeId};

/// Bytes in a filesystem block, on every device.
pub const BLOCK: usize = 4096;
