//! Names that go, and what becomes of the inode when the last one is gone.
//!
//! An inode without a name gets a `Free` intent in the same plan, always: whether somebody holds it open only the shell knows, and after
//! a crash nobody does. The shell takes the steps when the last user is gone.

use super::dirent::{Change, Entry, changed, child, directory, find};
use super::fail;
use super::flags::check_loose;
use super::name::check_plain;
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::{Txn, damaged};
use crate::error::FsError;
use crate::format::item::{Inode, Intent};
use crate::ids::Ino;

/// A name that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// What it led to.
    pub ino: Ino,
    /// It was the last one: the inode waits to be freed.
    pub orphaned: bool,
}

/// Removes a name that does not lead to a directory.
///
/// # Errors
/// `NotFound`, `IsADirectory`, `NotADirectory` (the parent).
pub fn unlink(txn: &mut Txn, parent: Ino, name: &[u8]) -> Planned<Unlinked> {
    let (entry, mut inode) = victim(txn, parent, name, FsError::IsADirectory)?;
    if inode.is_dir() {
        return fail(FsError::IsADirectory);
    }
    txn.remove(entry.key);
    changed(txn, parent, Change { entries: -1, subdirs: 0 })?;
    drop_link(txn, &mut inode)
}

/// Removes an empty directory.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `NotEmpty`; `Invalid` for `.` and `..`.
pub fn rmdir(txn: &mut Txn, parent: Ino, name: &[u8]) -> Planned<Unlinked> {
    let dots = if name == b".." { FsError::NotEmpty } else { FsError::Invalid("the directory itself") };
    let (entry, mut inode) = victim(txn, parent, name, dots)?;
    if !inode.is_dir() {
        return fail(FsError::NotADirectory);
    }
    if inode.entries > 0 {
        return fail(FsError::NotEmpty);
    }
    txn.remove(entry.key);
    changed(txn, parent, Change { entries: -1, subdirs: -1 })?;
    drop_link(txn, &mut inode)
}

fn victim(txn: &mut Txn, parent: Ino, name: &[u8], dots: FsError) -> Planned<(Entry, Inode)> {
    let dir = directory(txn, parent)?;
    check_plain(name, dots)?;
    let entry = find(txn, parent, name)?;
    let inode = child(txn, &entry)?;
    check_loose(&dir)?;
    check_loose(&inode)?;
    Ok((entry, inode))
}

/// Counts a link less; a directory loses all it has. Stores the inode, and the intent to free it when no link is left.
pub(super) fn drop_link(txn: &mut Txn, inode: &mut Inode) -> Planned<Unlinked> {
    let left = inode.nlink.checked_sub(1).ok_or_else(|| damaged("link count"))?;
    inode.nlink = if inode.is_dir() { 0 } else { left };
    inode.ctime = txn.now();
    let orphaned = inode.nlink == 0;
    if orphaned {
        txn.put(Key::intent(inode.ino), Intent::Free.encode());
    }
    txn.put_inode(inode);
    Ok(Unlinked { ino: inode.ino, orphaned })
}
