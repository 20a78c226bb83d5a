//! The volume shell: devices, log, checkpoints, recovery and cleaning around the pure core.

pub mod attr;
pub mod content;
pub mod pages;
pub mod status;

pub use attr::{Attr, Caller, DirEntry, RenameFlags, SetAttr, SetTime, StatFs};
pub use status::Status;
