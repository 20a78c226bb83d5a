//! What a device stands on in the system, for those who talk to the real device themselves.

use std::path::PathBuf;

/// The block device or file that holds the blocks of a [`crate::ZonedDevice`].
///
/// Block `n` of the zoned device lies `n` times its block size behind `offset`. Whoever sends commands to the device by
/// itself, past the zoned device, announces each write by [`crate::ZonedDevice::admit_copy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// As it was named when it was opened; symbolic links are not resolved.
    pub path: PathBuf,
    /// A block device; else a regular file.
    pub block_device: bool,
    /// First byte that is used.
    pub offset: u64,
    /// Bytes that are used: all zones of the zoned device.
    pub len: u64,
    /// Opened for reading only: nothing may be written to it.
    pub read_only: bool,
}
