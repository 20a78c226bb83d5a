//! fallocate(2): preallocate, punch holes, zero ranges.
//!
//! Plans deal with whole blocks. Ragged edges, where a block keeps some of its content, are handed back as byte ranges for the shell to
//! zero by writing, in the same change; [`ragged_parts`] tells beforehand which these may be. A plan goes as far as its bounds allow and says where to go on; the new length comes with the last one.

use super::flags::{check_grows, check_loose};
use super::intent::pending_cut;
use super::mapped::{Limit, Mapped, measure, part_at_or_after};
use super::resize::check_file;
use super::{MAX_FILE_SIZE, STEP_BLOCKS, STEP_EXTENTS, fail};
use crate::BLOCK;
use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::Inode;
use crate::ids::{FileBlock, Ino};
use std::ops::Range;

/// Blocks that one plan preallocates at most: an extent counts its blocks in 32 bits.
const STEP_PREALLOCATE: u64 = 1 << 30;
const B: u64 = BLOCK as u64;

/// Part of a range, dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The inode as it will be.
    pub inode: Box<Inode>,
    /// Byte ranges to be zeroed by writing: offset and length, each within one written block.
    pub edges: Vec<(u64, u64)>,
    /// Blocks that are preallocated now and were not before: space to be reserved.
    pub preallocated: u64,
    /// Written blocks that were given up.
    pub freed: u64,
    /// Go on here, up to the same end and with the same mode.
    pub next: Option<u64>,
}

/// Result of planning a fallocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Planned, at least in part.
    Done(Allocation),
    /// Nothing planned: an earlier cut must be finished first, since the range reaches into it.
    CutFirst,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Allocate,
    Punch,
    Zero,
}

fn mode_of(mode: i32) -> Result<(Mode, bool), FsError> {
    let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok((Mode::Allocate, keep)),
        libc::FALLOC_FL_PUNCH_HOLE if keep => Ok((Mode::Punch, keep)),
        libc::FALLOC_FL_ZERO_RANGE => Ok((Mode::Zero, keep)),
        _ => Err(FsError::Unsupported("this mode of fallocate")),
    }
}

/// Plans `fallocate(mode, offset, len)`. What the shell still buffers of the range must be in the tree.
///
/// # Errors
/// `Unsupported` mode, `Invalid`, `FileTooLarge`, `IsADirectory`.
pub fn fallocate(txn: &mut Txn, ino: Ino, mode: i32, offset: u64, len: u64) -> Planned<Fallocate> {
    let mut inode = txn.inode(ino)?;
    let (mode, keep_size) = mode_of(mode)?;
    check_file(&inode)?;
    match mode {
        Mode::Allocate => check_grows(&inode)?,
        Mode::Punch | Mode::Zero => check_loose(&inode)?,
    }
    if len == 0 {
        return fail(FsError::Invalid("an empty range"));
    }
    let Some(end) = offset.checked_add(len).filter(|&end| end <= MAX_FILE_SIZE) else { return fail(FsError::FileTooLarge) };
    let outer = offset / B..end.div_ceil(B);
    if mode != Mode::Punch && pending_cut(txn, ino)?.is_some_and(|cut| outer.end > cut.0) {
        return Ok(Fallocate::CutFirst);
    }
    let mut done = match mode {
        Mode::Allocate => allocate(txn, &mut inode, outer)?,
        Mode::Punch | Mode::Zero => clear(txn, &mut inode, mode, offset..end)?,
    };
    let now = txn.now();
    let grows = !keep_size && end > inode.size && done.next.is_none();
    if grows {
        inode.size = end;
    }
    if grows || mode != Mode::Allocate {
        inode.mtime = now;
    }
    inode.ctime = now;
    txn.put_inode(&inode);
    *done.inode = inode;
    Ok(Fallocate::Done(done))
}

/// Preallocates the holes of `blocks`.
fn allocate(txn: &mut Txn, inode: &mut Inode, blocks: Range<u64>) -> Planned<Allocation> {
    let to = blocks.end.min(blocks.start + STEP_PREALLOCATE);
    let limit = Limit { extents: STEP_EXTENTS, written: u64::MAX };
    let seen = measure(txn, inode.ino, FileBlock(blocks.start), FileBlock(to), limit)?;
    let reached = if seen.complete { to } else { seen.end.0 };
    let holes = reached - blocks.start - seen.blocks;
    if holes > 0 {
        txn.preallocate(inode.ino, FileBlock(blocks.start), reached - blocks.start);
        inode.blocks = inode.blocks.saturating_add(holes);
    }
    Ok(allocation(inode, Vec::new(), holes, 0, (reached < blocks.end).then_some(reached)))
}

/// Makes holes of the whole blocks in a range of bytes, and preallocates them where they are to be zeroed.
fn clear(txn: &mut Txn, inode: &mut Inode, mode: Mode, bytes: Range<u64>) -> Planned<Allocation> {
    // Behind the end of the file there is nothing to keep in the last block.
    let inner_end = if bytes.end >= inode.size { bytes.end.div_ceil(B) } else { bytes.end / B };
    let inner = bytes.start.div_ceil(B)..inner_end;
    let limit = Limit { extents: STEP_EXTENTS, written: STEP_BLOCKS };
    let to = inner.end.min(inner.start.saturating_add(STEP_PREALLOCATE)).max(inner.start);
    let seen = measure(txn, inode.ino, FileBlock(inner.start), FileBlock(to), limit)?;
    let reached = if seen.complete { to } else { seen.end.0 };
    let last = reached >= inner.end;
    let mut holes = 0;
    if reached > inner.start {
        holes = empty(txn, inode, mode, inner.start..reached, seen);
    }
    let mut edges = Vec::new();
    for edge in ragged(&bytes).into_iter().flatten() {
        let block = edge.start / B;
        let is_left = block < inner.start;
        if is_left || block >= inner.end && last {
            holes += trim(txn, inode, mode, edge, &mut edges)?;
        }
    }
    let preallocated = if mode == Mode::Zero { holes + seen.written } else { 0 };
    Ok(allocation(inode, edges, preallocated, seen.written, (!last).then_some(reached)))
}

/// Unmaps whole blocks and preallocates them again if they are to be zeroed; returns the holes that were preallocated.
fn empty(txn: &mut Txn, inode: &mut Inode, mode: Mode, blocks: Range<u64>, seen: Mapped) -> u64 {
    let len = blocks.end - blocks.start;
    let unmap = if mode == Mode::Zero { seen.written > 0 } else { seen.blocks > 0 };
    if unmap {
        txn.unmap(inode.ino, seen.start, seen.end.0 - seen.start.0);
    }
    if mode == Mode::Punch {
        inode.blocks = inode.blocks.saturating_sub(seen.blocks);
        return 0;
    }
    let holes = len - seen.blocks;
    if unmap || holes > 0 {
        txn.preallocate(inode.ino, FileBlock(blocks.start), len);
        inode.blocks = inode.blocks.saturating_add(holes);
    }
    holes
}

/// Deals with a part of one block: written, it is to be zeroed by writing; a hole is preallocated if the range is to be zeroed. Returns the
/// number of blocks preallocated.
fn trim(txn: &mut Txn, inode: &mut Inode, mode: Mode, edge: Range<u64>, edges: &mut Vec<(u64, u64)>) -> Planned<u64> {
    let block = FileBlock(edge.start / B);
    match part_at_or_after(txn, inode.ino, block, FileBlock(block.0 + 1))? {
        Some(part) if part.unwritten => Ok(0),
        Some(_) => {
            let end = edge.end.min(inode.size);
            if edge.start < end {
                edges.push((edge.start, end - edge.start));
            }
            Ok(0)
        }
        None if mode == Mode::Zero => {
            txn.preallocate(inode.ino, block, 1);
            inode.blocks = inode.blocks.saturating_add(1);
            Ok(1)
        }
        None => Ok(0),
    }
}

/// Parts of blocks, at the ends of a range of bytes, that a hole or zeros there have to zero by writing if anything is written in them, in a file
/// of `size` bytes.
pub fn ragged_parts(bytes: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    // Behind the end of the file there is nothing to keep in the last block.
    let whole_end = if bytes.end >= size { bytes.end.checked_next_multiple_of(B).unwrap_or(bytes.end) } else { bytes.end };
    let ends = ragged(&(bytes.start..whole_end));
    ends.into_iter().flatten().map(move |part| part.start..part.end.min(size)).filter(|part| !part.is_empty())
}

/// The parts of blocks at both ends of a range of bytes (one, if they are in the same block).
fn ragged(bytes: &Range<u64>) -> [Option<Range<u64>>; 2] {
    let left_end = bytes.start.next_multiple_of(B).min(bytes.end);
    let right_start = (bytes.end / B * B).max(left_end);
    [(bytes.start..left_end), (right_start..bytes.end)].map(|edge| (!edge.is_empty()).then_some(edge))
}

fn allocation(inode: &Inode, edges: Vec<(u64, u64)>, preallocated: u64, freed: u64, next: Option<u64>) -> Allocation {
    Allocation { inode: Box::new(inode.clone()), edges, preallocated, freed, next: next.map(|block| block * B) }
}
