//! What does not change about a device while it is open.

use crate::units::{Blocks, Lba, ZoneId};
use serde::{Deserialize, Serialize};

/// What stands behind a [`crate::ZonedDevice`]. Named in reports; no code above this crate branches on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A zoned NVMe namespace driven by the kernel.
    Zns,
    /// Another zoned block device driven by the kernel (SMR, null_blk).
    Zoned,
    /// A block device or file without zones, presented as zones in software.
    Conventional,
    /// A regular file that poses as a ZNS drive: its Copy is carried out by our own process.
    Image,
}

/// Size, shape and limits of a device. All zones have the same size; all sequential zones the same capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// What the device is.
    pub kind: DeviceKind,
    /// Bytes in a device block: 512 or 4096.
    pub block_size: u32,
    /// Number of zones.
    pub zones: u32,
    /// Distance between the starts of two zones.
    pub zone_size: Blocks,
    /// Writable blocks of a zone, at most `zone_size`.
    pub zone_capacity: Blocks,
    /// How many zones may be open at once; 0 means no limit.
    pub max_open: u32,
    /// How many zones may be open or closed (active) at once; 0 means no limit.
    pub max_active: u32,
    /// Largest single read or write the device takes, in bytes (a multiple of 4096).
    pub max_io_bytes: u32,
    /// Write pointers are kept by software above the media and are unknown when the device is opened:
    /// the owner of the volume tells them with [`crate::ZonedDevice::adopt`].
    pub software_zones: bool,
}

impl Geometry {
    /// First block of `zone`.
    pub fn zone_start(&self, zone: ZoneId) -> Lba {
        Lba(u64::from(zone.0) * self.zone_size.0)
    }
    /// The zone that holds `lba`.
    pub fn zone_of(&self, lba: Lba) -> ZoneId {
        ZoneId((lba.0 / self.zone_size.0) as u32)
    }
    /// Zone size in bytes.
    pub fn zone_size_bytes(&self) -> u64 {
        self.zone_size.0 * u64::from(self.block_size)
    }
    /// Zone capacity in bytes.
    pub fn zone_capacity_bytes(&self) -> u64 {
        self.zone_capacity.0 * u64::from(self.block_size)
    }
    /// Device size in bytes.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.zones) * self.zone_size_bytes()
    }
    /// The number of zones that may be active at once, `u32::MAX` where there is no limit.
    pub fn active_limit(&self) -> u32 {
        let bound = |n: u32| if n == 0 { u32::MAX } else { n };
        bound(self.max_open).min(bound(self.max_active))
    }
}
