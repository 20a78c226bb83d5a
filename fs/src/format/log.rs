//! Fragments of the log. A batch (what one commit makes durable, all or nothing) is one or more fragments in a row; all fragments of
//! a mount epoch form one chain over the log zones.
//!
//! Each fragment is checksummed over its predecessor's checksum and the secret of the epoch, so that neither an old fragment nor file
//! data that looks like one can ever replay (decision 3).

use crate::BLOCK;
use crate::addr::Addr;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: u32 = u32::from_le_bytes(*b"FyLg");
const VERSION: u16 = 1;
const FIRST: u16 = 1;
const LAST: u16 = 2;

/// Bytes before the body.
pub const HEADER: usize = 80;
/// Most blocks in a fragment.
pub const MAX_BLOCKS: u32 = 128;

/// The header of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Number in the chain of the epoch, without gaps.
    pub sequence: u64,
    /// Mount epoch.
    pub epoch: u64,
    /// Batch that it is part of.
    pub batch: u64,
    /// First of its batch.
    pub first: bool,
    /// Last of its batch.
    pub last: bool,
    /// Blocks, header included.
    pub blocks: u32,
    /// Bytes of body.
    pub body: u32,
    /// Batches up to this one were known to be flushed when it was written.
    pub flushed: u64,
    /// Where the chain goes on when this zone is full (`Addr` of its first block).
    pub next_zone: Addr,
    /// Checksum of the fragment before it.
    pub previous: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Disk {
    magic: U32,
    version: U16,
    flags: U16,
    checksum: U32,
    previous: U32,
    sequence: U64,
    epoch: U64,
    batch: U64,
    flushed: U64,
    next_zone: U64,
    blocks: U32,
    body: U32,
    reserved: [u8; 16],
}
const _: () = assert!(size_of::<Disk>() == HEADER);

/// Blocks that a body of `len` bytes takes.
pub fn blocks_for(len: usize) -> u32 {
    (HEADER + len).div_ceil(BLOCK) as u32
}

/// Bytes of body that fit into `blocks` blocks.
pub fn body_capacity(blocks: u32) -> usize {
    blocks as usize * BLOCK - HEADER
}

/// Writes a fragment into `out` (whole blocks, zero-filled behind the body) and returns its checksum.
///
/// # Panics
/// If `out` is not `fragment.blocks` long or the body does not fit: bugs of the caller.
pub fn encode(fragment: &Fragment, secret: &[u8; 32], body: &[u8], out: &mut [u8]) -> u32 {
    assert_eq!(out.len(), fragment.blocks as usize * BLOCK);
    assert!(body.len() <= body_capacity(fragment.blocks) && body.len() == fragment.body as usize);
    let flags = if fragment.first { FIRST } else { 0 } | if fragment.last { LAST } else { 0 };
    let disk = Disk {
        magic: MAGIC.into(),
        version: VERSION.into(),
        flags: flags.into(),
        checksum: 0.into(),
        previous: fragment.previous.into(),
        sequence: fragment.sequence.into(),
        epoch: fragment.epoch.into(),
        batch: fragment.batch.into(),
        flushed: fragment.flushed.into(),
        next_zone: fragment.next_zone.0.into(),
        blocks: fragment.blocks.into(),
        body: fragment.body.into(),
        reserved: [0; 16],
    };
    out[..HEADER].copy_from_slice(disk.as_bytes());
    out[HEADER..HEADER + body.len()].copy_from_slice(body);
    out[HEADER + body.len()..].fill(0);
    let checksum = seal(secret, out);
    out[8..12].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

fn seal(secret: &[u8; 32], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(secret), bytes)
}

/// Gives a fragment another predecessor and the checksum that it has then, which is returned: for those who change one on purpose.
pub(crate) fn reseal(bytes: &mut [u8], secret: &[u8; 32], previous: u32) -> u32 {
    bytes[12..16].copy_from_slice(&previous.to_le_bytes());
    bytes[8..12].fill(0);
    let checksum = seal(secret, bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// Reads only the number of blocks from the first block of a supposed fragment, to know how much to read.
pub fn peek_blocks(block: &[u8]) -> Option<u32> {
    let (disk, _) = Disk::read_from_prefix(block).ok()?;
    let blocks = disk.blocks.get();
    (disk.magic.get() == MAGIC && disk.version.get() == VERSION && (1..=MAX_BLOCKS).contains(&blocks)).then_some(blocks)
}

/// Checks a fragment against the secret; returns it with its checksum. Whether it continues the chain is for the caller to say.
pub fn decode<'a>(bytes: &'a [u8], secret: &[u8; 32]) -> Option<(Fragment, u32, &'a [u8])> {
    let (disk, _) = Disk::read_from_prefix(bytes).ok()?;
    let blocks = peek_blocks(bytes)?;
    let body = disk.body.get() as usize;
    if bytes.len() != blocks as usize * BLOCK || body > body_capacity(blocks) {
        return None;
    }
    let mut zeroed = disk;
    zeroed.checksum = 0.into();
    let head = crc32c::crc32c_append(crc32c::crc32c(secret), zeroed.as_bytes());
    let checksum = crc32c::crc32c_append(head, &bytes[HEADER..]);
    if checksum != disk.checksum.get() {
        return None;
    }
    let fragment = Fragment {
        sequence: disk.sequence.get(),
        epoch: disk.epoch.get(),
        batch: disk.batch.get(),
        first: disk.flags.get() & FIRST != 0,
        last: disk.flags.get() & LAST != 0,
        blocks,
        body: disk.body.get(),
        flushed: disk.flushed.get(),
        next_zone: Addr(disk.next_zone.get()),
        previous: disk.previous.get(),
    };
    Some((fragment, checksum, &bytes[HEADER..HEADER + body]))
}
