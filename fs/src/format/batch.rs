//! Header blocks of metadata zones: each names the metadata blocks that follow it, so that cleaning such a zone reads a few
//! headers instead of every block. A header is never live.

use crate::BLOCK;
use crate::core::BlockId;

/// Most blocks that one header names.
pub const MAX_BLOCKS: usize = (BLOCK - HEADER) / 8;
const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"FyBatch1";

/// Serialises a header for the blocks behind it, in order. `generation` is that of the checkpoint.
pub fn encode(generation: u64, ids: &[BlockId]) -> [u8; BLOCK] {
    let mut page = [0; BLOCK];
    page[..8].copy_from_slice(MAGIC);
    page[8..16].copy_from_slice(&generation.to_le_bytes());
    page[16..20].copy_from_slice(&(ids.len() as u32).to_le_bytes());
    for (slot, id) in page[HEADER..].chunks_exact_mut(8).zip(ids) {
        slot.copy_from_slice(&id.pack().to_le_bytes());
    }
    reseal(&mut page);
    page
}

/// Gives a header the checksum of what it says.
pub(crate) fn reseal(page: &mut [u8; BLOCK]) {
    page[20..24].fill(0);
    let crc = crc32c::crc32c(page);
    page[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a header: the blocks it names. `None` if this is not a header or it is damaged.
pub fn decode(page: &[u8]) -> Option<Vec<BlockId>> {
    if page.len() != BLOCK || &page[..8] != MAGIC {
        return None;
    }
    let crc = u32::from_le_bytes(page[20..24].try_into().ok()?);
    let mut zeroed: [u8; BLOCK] = page.try_into().ok()?;
    zeroed[20..24].fill(0);
    let count = u32::from_le_bytes(page[16..20].try_into().ok()?) as usize;
    if crc32c::crc32c(&zeroed) != crc || count > MAX_BLOCKS {
        return None;
    }
    let words = page[HEADER..].chunks_exact(8).take(count);
    Some(words.map(|w| BlockId::unpack(u64::from_le_bytes(w.try_into().expect("eight bytes")))).collect())
}
