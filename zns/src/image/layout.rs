//! Shape of an image: what its maker may choose, what is possible, and where things lie in the file.

use super::format::{META_BLOCK, TABLE_OFFSET, ZONES_PER_BLOCK};
use crate::geometry::{DeviceKind, Geometry};
use crate::native_copy::CopyLimits;
use crate::units::Blocks;

/// Fewest zones of a device.
pub const MIN_ZONES: u32 = 24;
/// Most zones of an image.
pub const MAX_ZONES: u32 = 100_000;
/// Smallest zone in bytes.
pub const MIN_ZONE_BYTES: u64 = 1 << 20;
/// Largest zone in bytes.
pub const MAX_ZONE_BYTES: u64 = 2 << 30;
/// Smallest image in bytes.
pub const MIN_IMAGE_BYTES: u64 = 64 << 20;

const DATA_ALIGN: u64 = 1 << 20;
const MAX_IO_BYTES: u32 = 16 << 20;

/// What the maker of an image chooses. The default is a 4 GiB drive with the zones and limits of a common ZNS SSD in small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Bytes of the drive; rounded down to whole zones. The file is a little larger.
    pub size: u64,
    /// Bytes from zone to zone.
    pub zone_size: u64,
    /// Writable bytes of a zone; the whole zone if `None`.
    pub zone_capacity: Option<u64>,
    /// Bytes in a device block: 512 or 4096.
    pub block_size: u32,
    /// Limit of open zones, 0 for none.
    pub max_open: u32,
    /// Limit of active zones, 0 for none.
    pub max_active: u32,
    /// Limits of the Copy command; `None` for 1 MiB a range, 4 MiB and 128 ranges a command.
    pub copy: Option<CopyLimits>,
    /// Replace a file that exists and is not empty.
    pub overwrite: bool,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            size: 4 << 30,
            zone_size: 16 << 20,
            zone_capacity: None,
            block_size: 4096,
            max_open: 14,
            max_active: 14,
            copy: None,
            overwrite: false,
        }
    }
}

/// The shape of an image, in device blocks, as its header records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes in a device block.
    pub block_size: u32,
    /// Number of zones.
    pub zones: u32,
    /// Blocks from zone to zone.
    pub zone_size: u64,
    /// Writable blocks of a zone.
    pub zone_capacity: u64,
    /// Limit of open zones, 0 for none.
    pub max_open: u32,
    /// Limit of active zones, 0 for none.
    pub max_active: u32,
    /// Limits of the Copy command.
    pub copy: CopyLimits,
}

impl Layout {
    /// The layout that `options` ask for, or why it is not possible.
    pub fn from_options(options: &ImageOptions) -> Result<Self, String> {
        let block = u64::from(options.block_size);
        if !matches!(options.block_size, 512 | 4096) {
            return Err(format!("a block of {} bytes is not possible: choose 512 or 4096", options.block_size));
        }
        let capacity = options.zone_capacity.unwrap_or(options.zone_size);
        if !options.zone_size.is_multiple_of(block) || !capacity.is_multiple_of(block) {
            return Err(format!("zone size and capacity must be multiples of the block of {block} bytes"));
        }
        if !(MIN_ZONE_BYTES..=MAX_ZONE_BYTES).contains(&options.zone_size) {
            return Err(format!("a zone of {} bytes is not possible: choose 1 MiB to 2 GiB", options.zone_size));
        }
        let blocks = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX);
        let default_copy = CopyLimits { mssrl: blocks(1 << 20), mcl: blocks(4 << 20), ranges: 128 };
        let layout = Self {
            block_size: options.block_size,
            zones: u32::try_from(options.size / options.zone_size).unwrap_or(u32::MAX),
            zone_size: options.zone_size / block,
            zone_capacity: capacity / block,
            max_open: options.max_open,
            max_active: options.max_active,
            copy: options.copy.unwrap_or(default_copy),
        };
        layout.check().map(|()| layout)
    }

    /// Is this a shape an image can have? Holds for what is asked and for what a header says.
    pub fn check(&self) -> Result<(), String> {
        let block = u64::from(self.block_size);
        if !matches!(self.block_size, 512 | 4096) {
            return Err(format!("a block of {} bytes is not possible", self.block_size));
        }
        let zone_blocks = MIN_ZONE_BYTES / block..=MAX_ZONE_BYTES / block;
        if !zone_blocks.contains(&self.zone_size) {
            return Err(format!("a zone of {} blocks of {block} bytes is not between 1 MiB and 2 GiB", self.zone_size));
        }
        if self.zone_capacity == 0 || self.zone_capacity > self.zone_size {
            return Err(format!("a zone capacity of {} blocks does not fit a zone of {}", self.zone_capacity, self.zone_size));
        }
        if !(MIN_ZONES..=MAX_ZONES).contains(&self.zones) {
            let zone = self.zone_size * block;
            return Err(format!("{} zones of {zone} bytes are not possible: a drive has {MIN_ZONES} to {MAX_ZONES}", self.zones));
        }
        if self.data_bytes() < MIN_IMAGE_BYTES {
            return Err(format!("{} bytes are too small: a drive has at least {MIN_IMAGE_BYTES}", self.data_bytes()));
        }
        if self.max_active != 0 && self.max_open > self.max_active {
            return Err(format!("{} open zones cannot all be among {} active ones", self.max_open, self.max_active));
        }
        Ok(())
    }

    /// Blocks of the zone table in one slot.
    pub fn table_blocks(&self) -> u32 {
        self.zones.div_ceil(ZONES_PER_BLOCK as u32)
    }
    /// Where table block `index` of `slot` lies in the file.
    pub fn table_offset(&self, index: u32, slot: usize) -> u64 {
        TABLE_OFFSET + (slot as u64 * u64::from(self.table_blocks()) + u64::from(index)) * META_BLOCK as u64
    }
    /// The zones that table block `index` describes.
    pub fn table_zones(&self, index: u32) -> std::ops::Range<u32> {
        let per_block = ZONES_PER_BLOCK as u32;
        index * per_block..((index + 1) * per_block).min(self.zones)
    }
    /// Where zone 0 begins in the file.
    pub fn data_offset(&self) -> u64 {
        self.table_offset(0, 2).next_multiple_of(DATA_ALIGN)
    }
    /// Bytes of all zones.
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.zones) * self.zone_size * u64::from(self.block_size)
    }
    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.data_offset() + self.data_bytes()
    }
    /// Where block `lba` lies in the file.
    pub fn offset_of(&self, lba: u64) -> u64 {
        self.data_offset() + lba * u64::from(self.block_size)
    }
    /// What users of the device see.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            kind: DeviceKind::Image,
            block_size: self.block_size,
            zones: self.zones,
            zone_size: Blocks(self.zone_size),
            zone_capacity: Blocks(self.zone_capacity),
            max_open: self.max_open,
            max_active: self.max_active,
            max_io_bytes: MAX_IO_BYTES,
            software_zones: false,
        }
    }
}
