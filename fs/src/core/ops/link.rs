//! Another name for a file.

use super::dirent::{Change, changed, kind_of, living_directory, probe, put};
use super::flags::{check_grows, check_loose};
use super::name::check_plain;
use super::{MAX_LINKS, fail};
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::{Inode, LINKABLE};
use crate::ids::Ino;

/// Enters `ino` as `name` in `parent`.
///
/// # Errors
/// `NotPermitted` for a directory, `NotFound` for a file that has lost its last name (one that never had any may get one), `TooManyLinks`, `Exists` and what entering a name can meet.
pub fn link(txn: &mut Txn, ino: Ino, parent: Ino, name: &[u8]) -> Planned<Inode> {
    let mut inode = txn.inode(ino)?;
    let dir = living_directory(txn, parent)?;
    check_plain(name, FsError::Exists)?;
    let (entry, probe) = probe(txn, parent, name)?;
    match () {
        _ if entry.is_some() => return fail(FsError::Exists),
        _ if inode.is_dir() => return fail(FsError::NotPermitted),
        _ if inode.nlink == 0 && inode.flags & LINKABLE == 0 => return fail(FsError::NotFound),
        _ if inode.nlink >= MAX_LINKS => return fail(FsError::TooManyLinks),
        _ => {}
    }
    check_grows(&dir)?;
    check_loose(&inode)?;
    if inode.flags & LINKABLE != 0 {
        // Made without a name, and no longer to be freed.
        inode.flags &= !LINKABLE;
        txn.remove(Key::intent(ino));
    }
    inode.nlink += 1;
    inode.ctime = txn.now();
    put(txn, probe.free()?, ino, kind_of(&inode), name);
    txn.put_inode(&inode);
    changed(txn, parent, Change { entries: 1, subdirs: 0 })?;
    Ok(inode)
}
