//! Names: entries that lead nowhere or lie where nobody looks, inodes without a name, counts of both.

use super::super::Finding;
use super::super::names::printable;
use super::{Mender, Repair};
use crate::core::key::Key;
use crate::core::ops::{self, dirent::ENTRY_SIZE};
use crate::error::{FsError, Result};
use crate::format::item::{Dirent, Intent};
use crate::format::record::Delta;
use crate::ids::Ino;
use crate::volume::Caller;

/// Where inodes without a name get one.
pub(super) const LOST_FOUND: &str = "lost+found";
/// Names that are tried when one is taken.
const TRIES: u32 = 1000;

impl Mender<'_> {
    /// Entries.
    pub(super) fn mend_entry(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        match (finding, key) {
            (Finding::DanglingEntry { dir, name, .. }, Some(key)) => {
                self.remove_entry(*dir, name, key, "it led to an inode that does not exist")
            }
            (Finding::EntryTwice { dir, name }, Some(key)) => self.remove_entry(*dir, name, key, "there is another one with this name"),
            (Finding::EntryName { dir, name, .. }, Some(key)) => self.remove_entry(*dir, name, key, "no such name can be used"),
            (Finding::EntryKind { dir, name, recorded, found, .. }, Some(key)) => {
                let Some(entry) = self.get(&key)?.as_deref().and_then(Dirent::decode) else { return Ok(false) };
                self.set_raw(key, Some(&Dirent { kind: *found, ..entry }.encode()))?;
                self.note(Repair::EntryKind { dir: *dir, name: name.clone(), from: *recorded, to: *found });
                Ok(true)
            }
            (Finding::EntryPlace { dir, name, .. }, Some(key)) => self.move_entry(*dir, name, key),
            (Finding::ManyNames { ino, .. }, _) => self.keep_one_name(*ino),
            (Finding::Parent { ino, found, .. }, _) => {
                let Some(inode) = self.inode(*ino)? else { return Ok(false) };
                // With several names, each pass would find another one.
                let names = self.entries(0..=u64::MAX, |entry| entry.ino == *ino).len();
                if names != 1 {
                    return Ok(false);
                }
                self.change(&inode, "parent", inode.parent.0, found.0, |i, to| i.parent = Ino(to))
            }
            (Finding::Loop { ino }, _) => {
                let mut any = false;
                for (key, entry) in self.entries(0..=u64::MAX, |entry| entry.ino == *ino) {
                    any |=
                        self.remove_entry(Ino(key.a), &printable(&entry.name), key, "it led from below a directory to that directory")?;
                }
                // A directory that has no name, and says that it lies below itself, is reattached with the next pass.
                Ok(any || self.reattach_loop(*ino)?)
            }
            _ => Ok(false),
        }
    }

    fn remove_entry(&mut self, dir: Ino, name: &str, key: Key, reason: &'static str) -> Result<bool> {
        if self.get(&key)?.is_none() {
            return Ok(false);
        }
        self.set_raw(key, None)?;
        self.note(Repair::EntryRemoved { dir, name: name.to_owned(), reason });
        Ok(true)
    }

    fn move_entry(&mut self, dir: Ino, name: &str, key: Key) -> Result<bool> {
        let Some(entry) = self.get(&key)?.as_deref().and_then(Dirent::decode) else { return Ok(false) };
        match self.plan(|txn| ops::reattach::move_entry(txn, key, &entry)) {
            Ok(()) => self.note(Repair::EntryPlace { dir, name: name.to_owned() }),
            Err(FsError::Exists | FsError::NoSpace) => return self.remove_entry(dir, name, key, "there is another one with this name"),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// A directory has one name: the one in the directory that it calls its parent, if that is among them.
    fn keep_one_name(&mut self, ino: Ino) -> Result<bool> {
        let Some(inode) = self.inode(ino)? else { return Ok(false) };
        let names = self.entries(0..=u64::MAX, |entry| entry.ino == ino);
        if ino != Ino::ROOT && names.len() == 1 {
            let to = u64::from(inode.nlink.max(2));
            return self.change(&inode, "link count", inode.nlink.into(), to, |i, to| i.nlink = to as u32);
        }
        let kept = match ino {
            Ino::ROOT => None,
            _ => names.iter().position(|(key, _)| key.a == inode.parent.0).or(Some(0)),
        };
        let mut any = false;
        for (n, (key, entry)) in names.iter().enumerate() {
            if Some(n) != kept {
                any |= self.remove_entry(Ino(key.a), &printable(&entry.name), *key, "a directory has one name")?;
            }
        }
        Ok(any)
    }

    /// Counts, and inodes without a name.
    pub(super) fn mend_count(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        match *finding {
            Finding::EntryCount { ino, recorded, counted } => {
                let Some(inode) = self.inode(ino)? else { return Ok(false) };
                self.change(&inode, "number of entries", recorded, counted, |i, to| {
                    (i.entries, i.size) = (to, to.saturating_mul(ENTRY_SIZE));
                })
            }
            Finding::LinkCount { ino, counted, .. } => {
                let Some(inode) = self.inode(ino)? else { return Ok(false) };
                let to = counted.min(u32::MAX.into());
                self.change(&inode, "link count", inode.nlink.into(), to, |i, to| i.nlink = to as u32)
            }
            Finding::Unnamed { ino, .. } => self.reattach(ino),
            Finding::LostOrphan { ino } => {
                // One that has a name gets its count back instead.
                let named = !self.entries(0..=u64::MAX, |entry| entry.ino == ino).is_empty();
                if named || self.inode(ino)?.is_none_or(|inode| inode.nlink > 0) {
                    return Ok(false);
                }
                self.apply(&Delta::Put { key: Key::intent(ino), value: Intent::Free.encode() })?;
                self.note(Repair::Orphan { ino });
                Ok(true)
            }
            Finding::Intent { ino, reason } => {
                let Some(key) = key else { return Ok(false) };
                self.set_raw(key, None)?;
                self.note(Repair::Intent { ino, reason });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn reattach_loop(&mut self, ino: Ino) -> Result<bool> {
        let Some(inode) = self.inode(ino)? else { return Ok(false) };
        self.change(&inode, "parent", inode.parent.0, Ino::ROOT.0, |i, to| i.parent = Ino(to))
    }

    /// An inode gets a name in `/lost+found`.
    fn reattach(&mut self, ino: Ino) -> Result<bool> {
        let (directory, shown) = self.lost_found()?;
        if ino == directory {
            // It has lost its own name.
            self.plan(|txn| ops::reattach(txn, ino, Ino::ROOT, shown.as_bytes()))?;
            self.note(Repair::Reattached { ino, directory: String::new(), name: shown });
            return Ok(true);
        }
        for n in 0..TRIES {
            let name = if n == 0 { format!("#{ino}") } else { format!("#{ino}.{n}") };
            match self.plan(|txn| ops::reattach(txn, ino, directory, name.as_bytes())) {
                Ok(()) => {
                    self.note(Repair::Reattached { ino, directory: shown, name });
                    return Ok(true);
                }
                Err(FsError::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FsError::Exists)
    }

    /// The directory for what has no name, and its name; made if there is none.
    fn lost_found(&mut self) -> Result<(Ino, String)> {
        for n in 0..TRIES {
            let name = if n == 0 { LOST_FOUND.to_owned() } else { format!("{LOST_FOUND}.{n}") };
            match self.plan(|txn| ops::lookup(txn, Ino::ROOT, name.as_bytes())) {
                // What everybody may enter would give everybody what is put there.
                Ok(found) if found.is_dir() && found.nlink > 0 && found.mode & 0o077 == 0 => return Ok((found.ino, name)),
                Ok(_) => {}
                Err(FsError::NotFound) => {
                    let (uid, gid) = self.inode(Ino::ROOT)?.map_or((0, 0), |root| (root.uid, root.gid));
                    let caller = Caller { uid, gid, umask: 0, ..Caller::default() };
                    let made = self.plan(|txn| ops::mkdir(txn, Ino::ROOT, name.as_bytes(), 0o700, &caller))?;
                    self.volume().state.lock().next_ino = made.ino.0 + 1;
                    return Ok((made.ino, name));
                }
                Err(error) => return Err(error),
            }
        }
        Err(FsError::Exists)
    }
}
