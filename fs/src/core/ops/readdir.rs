//! Listings. The cookie of an entry is its key: it is the entry's for life, so whatever comes and goes meanwhile, every other entry is
//! shown exactly once.

use super::dirent::{ENTRY_SIZE, directory};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{Txn, damaged};
use crate::format::item::Dirent;
use crate::ids::Ino;
use crate::volume::DirEntry;

/// Most entries in one answer, however many are asked for.
pub const MAX_LISTING: usize = 1024;
/// Cookie of `.`.
pub const DOT: u64 = 1;
/// Cookie of `..`.
pub const DOT_DOT: u64 = 2;

const _: () = assert!(ENTRY_SIZE > 0 && DOT_DOT < 1 << super::name::SLOT_BITS);

/// Entries behind `cookie` (0: from the start), `.` and `..` first, in the order of cookies. Only an empty answer means the end.
///
/// # Errors
/// `NotFound`, `NotADirectory`.
pub fn readdir(txn: &mut Txn, dir: Ino, cookie: u64, max_entries: usize) -> Planned<Vec<DirEntry>> {
    let inode = directory(txn, dir)?;
    let max = max_entries.min(MAX_LISTING);
    let mut entries = Vec::new();
    for (number, ino, name) in [(DOT, dir, &b"."[..]), (DOT_DOT, inode.parent, b"..")] {
        if cookie < number && entries.len() < max {
            entries.push(DirEntry { ino, kind: libc::DT_DIR, cookie: number, name: name.to_vec() });
        }
    }
    let mut last = cookie.max(DOT_DOT);
    while entries.len() < max && last < u64::MAX {
        let next = txn.first_at_or_after(&Key::new(Class::Dirent, dir.0, last + 1))?;
        let Some((key, value)) = next.filter(|(key, _)| key.class == Class::Dirent && key.a == dir.0) else { break };
        let entry = Dirent::decode(&value).ok_or_else(|| damaged("directory entry"))?;
        entries.push(DirEntry { ino: entry.ino, kind: entry.kind, cookie: key.b, name: entry.name });
        last = key.b;
    }
    Ok(entries)
}
