//! One device as typed zones, real or simulated.
//!
//! Everything above this crate sees a [`ZonedDevice`]: a number of equal zones, each with a write
//! pointer, read anywhere and written only at that pointer. Kernel zoned block devices, plain disks,
//! image files that pose as a ZNS drive and the in-memory simulator all stand behind the one trait,
//! so nothing above ever branches on the kind of device.

pub mod backing;
pub mod buffer;
pub mod checksum;
pub mod claim;
pub mod conventional;
pub mod device;
mod disk;
pub mod error;
mod file_lock;
pub mod geometry;
pub mod image;
pub mod kernel;
mod machine;
mod media;
pub mod native_copy;
pub mod open;
pub mod permission;
mod positioned;
pub mod processors;
pub mod raw;
pub mod sim;
mod sticky_sync;
mod tickets;
mod transport;
pub mod units;
pub mod uring;
pub mod zone;

pub use backing::Backing;
pub use buffer::{AlignedBuf, BufSlice};
pub use device::{Completions, Io, IoClass, Ticket, ZonedDevice};
pub use error::{DeviceError, Result};
pub use geometry::{DeviceKind, Geometry};
pub use native_copy::{CopyFailure, CopyLimits, CopySource, NativeCopy, NvmeStatus};
pub use processors::Processors;
pub use units::{Blocks, DeviceId, Lba, ZoneId};
pub use zone::{ZoneAction, ZoneInfo, ZoneState};
