//! The block limits page B0h (SBC-3 6.5.3).

use crate::scsi::error::ScsiError;
use crate::scsi::fields::Fields;

/// Limits of ordinary reads and writes. They bound a copy segment where a target has no parameters of its own for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// Most blocks of one transfer; `None`: not said.
    pub max_transfer: Option<u32>,
    /// What the device likes best; `None`: not said.
    pub optimal_transfer: Option<u32>,
}

impl BlockLimits {
    /// Reads the body of the page (behind its four bytes of header).
    ///
    /// # Errors
    /// Too short.
    pub fn parse(body: &[u8]) -> Result<Self, ScsiError> {
        let fields = Fields::new("block limits page", body);
        let said = |blocks: u32| (blocks != 0).then_some(blocks);
        Ok(Self { max_transfer: said(fields.u32(4)?), optimal_transfer: said(fields.u32(8)?) })
    }
}
