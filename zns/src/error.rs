//! What can go wrong with a device, in typed form.

use crate::native_copy::NvmeStatus;
use crate::units::{Lba, ZoneId};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Result of a device operation.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// Errors of this crate. Every variant says what happened, to what, and where possible what to do.
#[derive(Clone, Debug, Error)]
pub enum DeviceError {
    /// A system call failed.
    #[error("{action} {path}: {}", std::io::Error::from_raw_os_error(*errno))]
    System {
        /// What was being done ("open", "read zone report of", ...).
        action: &'static str,
        /// The device.
        path: PathBuf,
        /// The errno it failed with.
        errno: i32,
    },
    /// It may not be opened by us.
    #[error("no permission to {} {path}: {why}", if *write { "write to" } else { "read" })]
    Denied {
        /// The device.
        path: PathBuf,
        /// It was to be written.
        write: bool,
        /// Which permission is missing.
        why: String,
    },
    /// Somebody uses the device.
    #[error("{path} is in use {}: unmount it there first", user(through.as_deref()))]
    Busy {
        /// The device, as it was named.
        path: PathBuf,
        /// The name under which it is used, where it is another one that stands on the same storage.
        through: Option<PathBuf>,
    },
    /// The device cannot carry a volume or its header is damaged.
    #[error("{path}: {reason}")]
    Unusable {
        /// The device.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The device answered with an error while moving data.
    #[error("device error at block {lba}: {}", std::io::Error::from_raw_os_error(*errno))]
    Io {
        /// First block of the failed operation.
        lba: Lba,
        /// The errno it failed with.
        errno: i32,
    },
    /// A write that is not at the write pointer.
    #[error("write at block {lba} of zone {zone}, whose write pointer is {write_pointer}")]
    NotAtWritePointer {
        /// The zone.
        zone: ZoneId,
        /// Where the write was aimed.
        lba: Lba,
        /// Where it had to be.
        write_pointer: Lba,
    },
    /// A write or copy into a zone that takes none (full, read-only, offline) or past its capacity.
    #[error("zone {zone} cannot take this operation: {status}")]
    Zone {
        /// The zone.
        zone: ZoneId,
        /// The NVMe status of the refusal.
        status: NvmeStatus,
    },
    /// An operation outside the device, not a multiple of its block, or crossing a zone.
    #[error("block range {lba}+{blocks} is not valid on this device: {reason}")]
    BadRange {
        /// First block.
        lba: Lba,
        /// Number of blocks.
        blocks: u64,
        /// Why not.
        reason: &'static str,
    },
    /// The simulated device has lost power: nothing works until it is power-cycled.
    #[error("the simulated device has lost power")]
    PowerLost,
}

fn user(through: Option<&Path>) -> String {
    through.map_or("by another process".to_owned(), |name| format!("as {}, which is the same storage", name.display()))
}

impl DeviceError {
    /// The errno that describes this error to a program.
    pub fn errno(&self) -> i32 {
        match self {
            Self::System { errno, .. } | Self::Io { errno, .. } => *errno,
            Self::Denied { .. } => libc::EACCES,
            Self::Busy { .. } => libc::EBUSY,
            Self::BadRange { .. } => libc::EINVAL,
            Self::Unusable { .. } | Self::NotAtWritePointer { .. } | Self::Zone { .. } | Self::PowerLost => libc::EIO,
        }
    }
}
