//! A name for an inode that a repair found without one.

use super::acl::{Rewritten, rewrite};
use super::dirent::{Change, changed, kind_of, living_directory, probe, put};
use super::fail;
use super::name::check_plain;
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::Dirent;
use crate::ids::Ino;

/// Enters `ino`, which has no name, as `name` in `parent`. Its times stay as they are.
///
/// # Errors
/// `Exists` and what entering a name can meet.
pub fn reattach(txn: &mut Txn, ino: Ino, parent: Ino, name: &[u8]) -> Planned<()> {
    let mut inode = txn.inode(ino)?;
    living_directory(txn, parent)?;
    check_plain(name, FsError::Exists)?;
    let (entry, probe) = probe(txn, parent, name)?;
    if entry.is_some() {
        return fail(FsError::Exists);
    }
    if inode.is_dir() {
        (inode.parent, inode.nlink) = (parent, inode.nlink.max(2));
    } else {
        inode.nlink = 1;
    }
    put(txn, probe.free()?, ino, kind_of(&inode), name);
    txn.put_inode(&inode);
    changed(txn, parent, Change { entries: 1, subdirs: i64::from(inode.is_dir()) })
}

/// Makes an access control list of an inode, its flag and its mode agree, so that nobody may do more than before. `own`: the list for the inode itself, not the
/// one for new files. Says what was done.
///
/// # Errors
/// `NotFound`; `Need`.
pub fn settle_acl(txn: &mut Txn, ino: Ino, own: bool) -> Planned<&'static str> {
    Ok(match rewrite(txn, ino, own)? {
        Rewritten::Restricted => "and its mode grant what both did",
        Rewritten::Dropped => "is removed",
        Rewritten::Forgotten => "is not claimed any more; its group may do nothing that the lost list could have forbidden",
    })
}

/// An entry that lies where a search for it does not look goes where it does.
///
/// # Errors
/// `Exists`: there is one already. `NoSpace`: too many names collide there.
pub fn move_entry(txn: &mut Txn, from: Key, entry: &Dirent) -> Planned<()> {
    let (other, probe) = probe(txn, Ino(from.a), &entry.name)?;
    if other.is_some() {
        return fail(FsError::Exists);
    }
    let to = probe.free()?;
    txn.remove(from);
    txn.put(to, entry.encode());
    Ok(())
}
