//! Entries of directories: found by name, listed by cookie (their key), counted in the directory's inode.

use super::fail;
use super::name::{Index, Probe};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{Txn, damaged};
use crate::error::FsError;
use crate::format::item::{Dirent, Inode};
use crate::ids::Ino;

/// Bits of the name's hash in a cookie.
pub const HASH_BITS: u32 = 56;
/// What one entry adds to a directory's size.
pub const ENTRY_SIZE: u64 = 32;

const INDEX: Index = Index { class: Class::Dirent, hash_bits: HASH_BITS, name_of: |value| value.get(9..), what: "directory entry" };

/// The smallest cookie that an entry with this name can have; the largest is 63 more.
pub fn first_cookie(hash_key: &[u8; 16], name: &[u8]) -> u64 {
    INDEX.first(hash_key, name)
}

/// An entry and its key.
pub(super) struct Entry {
    pub key: Key,
    pub ino: Ino,
}

/// Looks for a name; the directory is not checked.
pub(super) fn probe(txn: &Txn, dir: Ino, name: &[u8]) -> Planned<(Option<Entry>, Probe)> {
    let probe = INDEX.probe(txn, dir, name)?;
    let entry = match &probe.found {
        None => None,
        Some((key, value)) => {
            let entry = Dirent::decode(value).ok_or_else(|| damaged("directory entry"))?;
            Some(Entry { key: *key, ino: entry.ino })
        }
    };
    Ok((entry, probe))
}

/// The entry with this name.
pub(super) fn find(txn: &Txn, dir: Ino, name: &[u8]) -> Planned<Entry> {
    probe(txn, dir, name)?.0.ok_or_else(|| FsError::NotFound.into())
}

/// A directory to look in.
pub(super) fn directory(txn: &Txn, ino: Ino) -> Planned<Inode> {
    let inode = txn.inode(ino)?;
    if inode.is_dir() { Ok(inode) } else { fail(FsError::NotADirectory) }
}

/// A directory to make an entry in: one that has been removed takes none.
pub(super) fn living_directory(txn: &Txn, ino: Ino) -> Planned<Inode> {
    let inode = directory(txn, ino)?;
    if inode.nlink > 0 { Ok(inode) } else { fail(FsError::NotFound) }
}

/// The inode that an entry leads to: it must be there.
pub(super) fn child(txn: &Txn, entry: &Entry) -> Planned<Inode> {
    let value = txn.get(&Key::inode(entry.ino))?.ok_or_else(|| damaged("directory entry without inode"))?;
    Inode::decode(entry.ino, &value).ok_or_else(|| damaged("inode"))
}

/// The DT_* type of an inode.
pub(super) fn kind_of(inode: &Inode) -> u8 {
    (inode.kind() >> 12) as u8
}

/// Puts an entry under a key, be it new or taken.
pub(super) fn put(txn: &mut Txn, key: Key, ino: Ino, kind: u8, name: &[u8]) {
    txn.put(key, Dirent { ino, kind, name: name.to_vec() }.encode());
}

/// How the contents of a directory changed.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    /// Entries more or less.
    pub entries: i64,
    /// Subdirectories more or less.
    pub subdirs: i64,
}

/// Counts a change in the directory's inode and sets its times. Reads the inode through the plan, so several changes add up.
pub(super) fn changed(txn: &mut Txn, dir: Ino, change: Change) -> Planned<()> {
    let mut inode = txn.inode(dir)?;
    count(txn, &mut inode, change)?;
    txn.put_inode(&inode);
    Ok(())
}

/// The same on an inode in hand, which the caller stores.
pub(super) fn count(txn: &Txn, dir: &mut Inode, change: Change) -> Planned<()> {
    dir.entries = dir.entries.checked_add_signed(change.entries).ok_or_else(|| damaged("entry count of a directory"))?;
    let nlink = i64::from(dir.nlink) + change.subdirs;
    dir.nlink = match u32::try_from(nlink) {
        Ok(nlink) if nlink >= 2 => nlink,
        Ok(_) | Err(_) if nlink < 2 => return Err(damaged("link count of a directory")),
        _ => return fail(FsError::TooManyLinks),
    };
    dir.size = dir.entries.saturating_mul(ENTRY_SIZE);
    dir.mtime = txn.now();
    dir.ctime = txn.now();
    Ok(())
}
