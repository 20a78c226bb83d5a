//! What lies in a range of a file, counted extent by extent within a limit.

use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::format::item::Extent;
use crate::ids::{FileBlock, Ino};

/// The mapped blocks at the front of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First mapped block (the start of the range if nothing is mapped).
    pub start: FileBlock,
    /// The block behind the last one counted.
    pub end: FileBlock,
    /// Extents seen, parts included.
    pub extents: u32,
    /// Blocks mapped, preallocated ones included.
    pub blocks: u64,
    /// Blocks mapped and written.
    pub written: u64,
    /// Nothing mapped is left between `end` and the end of the range.
    pub complete: bool,
}

/// How far counting may go.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub extents: u32,
    /// Of written blocks; an extent is counted in part.
    pub written: u64,
}

/// Counts the mapped blocks of `[from, to)`, looking at `limit` extents at most. Sees the tree, not what this plan does to extents.
///
/// # Errors
/// `Need`; `Corrupt`.
pub fn count_mapped(txn: &Txn, ino: Ino, from: FileBlock, to: FileBlock, limit: u32) -> Planned<Mapped> {
    measure(txn, ino, from, to, Limit { extents: limit, written: u64::MAX })
}

/// [`count_mapped`] with a limit on written blocks as well.
pub(super) fn measure(txn: &Txn, ino: Ino, from: FileBlock, to: FileBlock, limit: Limit) -> Planned<Mapped> {
    let mut seen = Mapped { start: from, end: from, extents: 0, blocks: 0, written: 0, complete: true };
    while let Some(part) = part_at_or_after(txn, ino, seen.end, to)? {
        let room = limit.written.saturating_sub(seen.written);
        if seen.extents >= limit.extents || (!part.unwritten && room == 0) {
            seen.complete = false;
            break;
        }
        let blocks = if part.unwritten { part.blocks } else { part.blocks.min(room) };
        if seen.extents == 0 {
            seen.start = part.start;
        }
        seen.extents += 1;
        seen.blocks += blocks;
        seen.written += if part.unwritten { 0 } else { blocks };
        seen.end = FileBlock(part.start.0 + blocks);
    }
    Ok(seen)
}

/// The part of an extent that lies in a range.
pub(super) struct Part {
    pub start: FileBlock,
    pub blocks: u64,
    pub unwritten: bool,
}

/// The first mapped part of `[from, to)`.
pub(super) fn part_at_or_after(txn: &Txn, ino: Ino, from: FileBlock, to: FileBlock) -> Planned<Option<Part>> {
    if from >= to {
        return Ok(None);
    }
    let clip = |extent: Extent| {
        let (start, end) = (extent.block.max(from), extent.end().min(to));
        (start < end).then(|| Part { start, blocks: end.0 - start.0, unwritten: extent.is_unwritten() })
    };
    Ok(txn.extent_at_or_after(ino, from)?.and_then(clip))
}
