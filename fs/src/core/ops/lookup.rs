//! From a name to an inode.

use super::dirent::{child, directory, find};
use super::name::check;
use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::format::item::Inode;
use crate::ids::Ino;

/// The inode that `name` leads to in `parent`; `.` and `..` included.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `NameTooLong`.
pub fn lookup(txn: &mut Txn, parent: Ino, name: &[u8]) -> Planned<Inode> {
    let dir = directory(txn, parent)?;
    check(name)?;
    match name {
        b"." => Ok(dir),
        b".." => txn.inode(dir.parent),
        _ => child(txn, &find(txn, parent, name)?),
    }
}

/// An inode.
///
/// # Errors
/// `NotFound`.
pub fn getattr(txn: &mut Txn, ino: Ino) -> Planned<Inode> {
    txn.inode(ino)
}
