//! EXTENDED COPY with the short list identifier, LID1 (83h, service action 00h; SPC-4 6.4): the command and its parameters.

use crate::scsi::designator::{Designator, MAX_LEN};

/// Identification CSCD descriptor (SPC-4 6.4.5.6).
pub const CSCD_IDENTIFICATION: u8 = 0xe4;
/// Block device to block device segment (SPC-4 6.4.6.3).
pub const SEGMENT_BLOCK_TO_BLOCK: u8 = 0x02;
/// Bytes of a CSCD descriptor.
pub const CSCD_BYTES: usize = 32;
/// Bytes of such a segment descriptor.
pub const SEGMENT_BYTES: usize = 28;
/// Bytes of the parameter list's header.
const HEADER_BYTES: usize = 16;
/// Most blocks of one segment: the field has 16 bits.
pub const MAX_SEGMENT_BLOCKS: u64 = 0xffff;

/// A source or destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cscd {
    /// Its peripheral device type.
    pub device_type: u8,
    /// Its name.
    pub designator: Designator,
    /// Bytes in a block.
    pub block_size: u32,
}

/// One run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the source among the CSCDs.
    pub source: u16,
    /// Index of the destination.
    pub destination: u16,
    /// Blocks, 1 to 65535.
    pub blocks: u16,
    /// First block of the source.
    pub from: u64,
    /// First block of the destination.
    pub to: u64,
}

/// How the command is named while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListId {
    /// Not at all: the target supports that (SNLID).
    None,
    /// By this number, forgotten when the command ends.
    Discard(u8),
}

/// The command for a parameter list of `len` bytes.
pub fn command(len: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&len.to_be_bytes());
    cdb
}

/// The parameter list.
pub fn parameters(list_id: ListId, cscds: &[Cscd], segments: &[Segment]) -> Vec<u8> {
    let mut list = vec![0; HEADER_BYTES];
    // LIST ID USAGE: 10b discards what is known about the copy at its end, 11b uses no identifier.
    (list[0], list[1]) = match list_id {
        ListId::None => (0, 0b11 << 3),
        ListId::Discard(id) => (id, 0b10 << 3),
    };
    // A road cuts its commands by the target's limits, which have 16 bits themselves: both lengths fit.
    list[2..4].copy_from_slice(&((cscds.len() * CSCD_BYTES) as u16).to_be_bytes());
    list[8..12].copy_from_slice(&((segments.len() * SEGMENT_BYTES) as u32).to_be_bytes());
    cscds.iter().for_each(|cscd| list.extend(cscd.encode()));
    segments.iter().for_each(|segment| list.extend(segment.encode()));
    list
}

impl Cscd {
    fn encode(&self) -> [u8; CSCD_BYTES] {
        let name = &self.designator.bytes[..self.designator.bytes.len().min(MAX_LEN)];
        let mut bytes = [0; CSCD_BYTES];
        bytes[0] = CSCD_IDENTIFICATION;
        bytes[1] = self.device_type & 0x1f;
        bytes[4] = self.designator.code_set & 0xf;
        // Association 0: the logical unit.
        bytes[5] = self.designator.kind & 0xf;
        bytes[7] = name.len() as u8;
        bytes[8..8 + name.len()].copy_from_slice(name);
        bytes[29..32].copy_from_slice(&self.block_size.to_be_bytes()[1..]);
        bytes
    }
}

impl Segment {
    fn encode(&self) -> [u8; SEGMENT_BYTES] {
        let mut bytes = [0; SEGMENT_BYTES];
        bytes[0] = SEGMENT_BLOCK_TO_BLOCK;
        bytes[2..4].copy_from_slice(&(SEGMENT_BYTES as u16 - 4).to_be_bytes());
        bytes[4..6].copy_from_slice(&self.source.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.destination.to_be_bytes());
        bytes[10..12].copy_from_slice(&self.blocks.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.from.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.to.to_be_bytes());
        bytes
    }
}
