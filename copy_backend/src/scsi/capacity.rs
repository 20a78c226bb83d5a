//! READ CAPACITY (SBC-3 5.15, 5.16).

use crate::scsi::error::ScsiError;
use crate::scsi::fields::Fields;

/// READ CAPACITY (16), a service action of SERVICE ACTION IN.
pub const COMMAND_16: [u8; 16] = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
/// READ CAPACITY (10), for units that know no other.
pub const COMMAND_10: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The size of a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks.
    pub blocks: u64,
    /// Bytes in a block.
    pub block_size: u32,
}

impl Capacity {
    /// Reads the answer to READ CAPACITY (16).
    ///
    /// # Errors
    /// Too short, or no size at all.
    pub fn parse_16(bytes: &[u8]) -> Result<Self, ScsiError> {
        let fields = Fields::new("READ CAPACITY (16) data", bytes);
        Self::of(&fields, fields.u64(0)?, fields.u32(8)?)
    }

    /// Reads the answer to READ CAPACITY (10).
    ///
    /// # Errors
    /// Too short, no size at all, or one that does not fit into the answer.
    pub fn parse_10(bytes: &[u8]) -> Result<Self, ScsiError> {
        let fields = Fields::new("READ CAPACITY (10) data", bytes);
        let last = fields.u32(0)?;
        if last == u32::MAX {
            return Err(fields.malformed("the unit is larger than the command can say"));
        }
        Self::of(&fields, u64::from(last), fields.u32(4)?)
    }

    fn of(fields: &Fields, last: u64, block_size: u32) -> Result<Self, ScsiError> {
        let blocks = last.checked_add(1).ok_or_else(|| fields.malformed("the number of blocks overflows"))?;
        if block_size == 0 || !block_size.is_power_of_two() {
            return Err(fields.malformed("the block size is not a power of two"));
        }
        Ok(Self { blocks, block_size })
    }
}
