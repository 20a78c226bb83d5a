//! Where data and holes are. Preallocated blocks are holes, and so is everything from the end of the file on.

use super::mapped::part_at_or_after;
use super::resize::check_file;
use super::{STEP_EXTENTS, fail};
use crate::BLOCK;
use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::ids::{FileBlock, Ino};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// Result of looking at a bounded number of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Here it is.
    Found(u64),
    /// Not up to here: seek again from this offset.
    More(u64),
}

/// The first byte of data, or of a hole, at or behind `offset`. What the shell still buffers must be in the tree.
///
/// # Errors
/// `NoSuchOffset` at or beyond the end, or where no data follows; `IsADirectory`, `Invalid`.
pub fn seek(txn: &mut Txn, ino: Ino, offset: u64, whence: Whence) -> Planned<Seek> {
    let inode = txn.inode(ino)?;
    check_file(&inode)?;
    if offset >= inode.size {
        return fail(FsError::NoSuchOffset);
    }
    let end = FileBlock(inode.size.div_ceil(BLOCK as u64));
    let mut here = FileBlock(offset / BLOCK as u64);
    let at = |block: FileBlock| (block.0 * BLOCK as u64).max(offset);
    for _ in 0..STEP_EXTENTS {
        let part = part_at_or_after(txn, ino, here, end)?;
        match (whence, part) {
            (Whence::Data, None) => return fail(FsError::NoSuchOffset),
            (Whence::Data, Some(part)) if !part.unwritten => return Ok(Seek::Found(at(part.start))),
            (Whence::Hole, None) => return Ok(Seek::Found(at(here).min(inode.size))),
            (Whence::Hole, Some(part)) if part.unwritten || part.start > here => return Ok(Seek::Found(at(here))),
            (_, Some(part)) => here = FileBlock(part.start.0 + part.blocks),
        }
    }
    // Behind the last block there is no data, and the end is a hole.
    match whence {
        _ if here < end => Ok(Seek::More(at(here))),
        Whence::Data => fail(FsError::NoSuchOffset),
        Whence::Hole => Ok(Seek::Found(inode.size)),
    }
}
