//! Symbolic links: their targets lie in pieces, since one item holds less than a path may.

use super::create::{New, enter};
use super::{PIECE, fail};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{Txn, damaged};
use crate::error::FsError;
use crate::format::item::Inode;
use crate::ids::Ino;
use crate::volume::Caller;

/// Longest target.
pub const MAX_TARGET: usize = 4095;

/// Makes a symbolic link.
///
/// # Errors
/// As for any new file; `NameTooLong` for a target beyond 4095 bytes, `NotFound` for an empty one.
pub fn symlink(txn: &mut Txn, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Planned<Inode> {
    match target.len() {
        0 => return fail(FsError::NotFound),
        1..=MAX_TARGET => {}
        _ => return fail(FsError::NameTooLong),
    }
    if target.contains(&0) {
        return fail(FsError::Invalid("a target holds no zero byte"));
    }
    let inode = enter(txn, parent, name, New { mode: libc::S_IFLNK | 0o777, rdev: 0, size: target.len() as u64 }, caller)?;
    for (n, piece) in target.chunks(PIECE).enumerate() {
        txn.put(Key::new(Class::Symlink, inode.ino.0, n as u64), piece.to_vec());
    }
    Ok(inode)
}

/// The target of a symbolic link.
///
/// # Errors
/// `Invalid` if it is not one.
pub fn readlink(txn: &mut Txn, ino: Ino) -> Planned<Vec<u8>> {
    let inode = txn.inode(ino)?;
    if inode.kind() != libc::S_IFLNK {
        return fail(FsError::Invalid("not a symbolic link"));
    }
    if inode.size > MAX_TARGET as u64 {
        return Err(damaged("symbolic link"));
    }
    let len = inode.size as usize;
    let mut target = Vec::with_capacity(len);
    for n in 0..len.div_ceil(PIECE) {
        let piece = txn.get(&Key::new(Class::Symlink, ino.0, n as u64))?.ok_or_else(|| damaged("symbolic link"))?;
        target.extend_from_slice(&piece);
    }
    if target.len() == len { Ok(target) } else { Err(damaged("symbolic link")) }
}
