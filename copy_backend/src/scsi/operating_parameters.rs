//! RECEIVE COPY OPERATING PARAMETERS (84h, service action 03h; SPC-4 6.19): the limits of EXTENDED COPY.

use crate::scsi::error::ScsiError;
use crate::scsi::extended_copy::{CSCD_IDENTIFICATION, SEGMENT_BLOCK_TO_BLOCK};
use crate::scsi::fields::Fields;

/// Bytes of the answer that are asked for: some targets refuse less than 54.
pub const ALLOCATION: u32 = 520;

/// The command.
pub fn command() -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x84;
    cdb[1] = 0x03;
    cdb[10..14].copy_from_slice(&ALLOCATION.to_be_bytes());
    cdb
}

/// What a copy manager can do in one EXTENDED COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatingParameters {
    /// List identifiers may be left out (usage 3).
    pub no_list_id: bool,
    /// Most descriptors of sources and destinations.
    pub max_cscds: u16,
    /// Most segments.
    pub max_segments: u16,
    /// Most bytes of both lists together; `None`: not said.
    pub max_list_bytes: Option<u32>,
    /// Most bytes of one segment; `None`: no limit.
    pub max_segment_bytes: Option<u32>,
    /// Commands that may run at the same time; `None`: not said.
    pub concurrent: Option<u8>,
    /// It takes block to block segments between units that are named by designators.
    pub block_to_block: bool,
}

impl OperatingParameters {
    /// Reads the answer.
    ///
    /// # Errors
    /// Too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ScsiError> {
        let fields = Fields::new("copy operating parameters", bytes);
        let available = usize::try_from(fields.u32(0)?).unwrap_or(usize::MAX).saturating_add(4);
        let fields = fields.at_most(0, available);
        let codes = fields.at_most(44, usize::from(fields.u8(43)?));
        let codes = codes.slice(0, codes.len())?;
        let said = |value: u32| (value != 0).then_some(value);
        Ok(Self {
            no_list_id: fields.u8(4)? & 1 != 0,
            max_cscds: fields.u16(8)?,
            max_segments: fields.u16(10)?,
            max_list_bytes: said(fields.u32(12)?),
            max_segment_bytes: said(fields.u32(16)?),
            concurrent: Some(fields.u8(36)?).filter(|count| *count != 0),
            block_to_block: [SEGMENT_BLOCK_TO_BLOCK, CSCD_IDENTIFICATION].iter().all(|code| codes.contains(code)),
        })
    }
}
