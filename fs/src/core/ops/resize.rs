//! The length of a file, both ways.
//!
//! Growing leaves a hole. Shrinking unmaps what lies beyond, as much as a plan may; for the rest it leaves a cut intent. Blocks that were
//! preallocated beyond the end go with the first truncation, even one to the same length.

use super::intent::{pending_cut, unmap_from};
use super::{MAX_FILE_SIZE, fail};
use crate::BLOCK;
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::{Inode, Intent, LOST_CONTENT};
use crate::ids::FileBlock;

/// Extents that go at once; if there are more, in steps.
pub const DIRECT_EXTENTS: u32 = 64;

/// How a file's length changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Length before.
    pub old: u64,
    /// Length now.
    pub new: u64,
    /// A cut intent was left behind: take [`super::cut_step`] until it is done.
    pub cut: bool,
}

impl Resize {
    /// Offset and length of what must be zeroed in the last block of a file that shrank, if that block is written: what lies behind the
    /// end within its block always reads as zeros, so that growing again shows none of the old content.
    pub fn tail(&self) -> Option<(u64, u64)> {
        let end = self.new.next_multiple_of(BLOCK as u64).min(self.old);
        (self.new < end).then(|| (self.new, end - self.new))
    }
}

/// Result of planning a new length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetSize {
    /// Planned.
    Done(Resize),
    /// Nothing planned: an earlier cut must be finished first, since the file would reach into it.
    CutFirst,
}

/// Gives a regular file a new length. Changes the inode in hand, which the caller stores; times and permissions are the caller's too.
///
/// # Errors
/// `IsADirectory`, `Invalid` (not a regular file), `FileTooLarge`.
pub fn set_size(txn: &mut Txn, inode: &mut Inode, new: u64) -> Planned<SetSize> {
    check_file(inode)?;
    if new > MAX_FILE_SIZE {
        return fail(FsError::FileTooLarge);
    }
    let old = inode.size;
    let from = FileBlock(new.div_ceil(BLOCK as u64));
    let pending = pending_cut(txn, inode.ino)?;
    if new > old {
        if pending.is_some_and(|cut| from > cut) {
            return Ok(SetSize::CutFirst);
        }
        inode.size = new;
        return Ok(SetSize::Done(Resize { old, new, cut: false }));
    }
    inode.size = new;
    if new == 0 {
        inode.flags &= !LOST_CONTENT;
    }
    // What goes now does not come back; what is left, if anything, the intent remembers.
    let complete = unmap_from(txn, inode.ino, from, DIRECT_EXTENTS, [&mut *inode])?;
    if !complete {
        txn.put(Key::cut(inode.ino), Intent::Cut { from }.encode());
    } else if pending.is_some() {
        txn.remove(Key::cut(inode.ino));
    }
    Ok(SetSize::Done(Resize { old, new, cut: !complete }))
}

/// Refuses all but regular files.
pub(super) fn check_file(inode: &Inode) -> Planned<()> {
    match inode.kind() {
        libc::S_IFREG => Ok(()),
        libc::S_IFDIR => fail(FsError::IsADirectory),
        _ => fail(FsError::Invalid("not a regular file")),
    }
}
