//! Inodes: what is missing and what contradicts itself; attributes and access control lists.

use super::super::Finding;
use super::super::names::{LISTS, lists, reason};
use super::super::scan::Scanner;
use super::{Mender, Repair};
use crate::BLOCK;
use crate::core::key::{Class, Key};
use crate::core::ops::{self, MAX_FILE_SIZE, dirent::ENTRY_SIZE, xattr::PIECE_BITS};
use crate::error::Result;
use crate::format::item::{Dirent, Extent, Inode, LOST_CONTENT};
use crate::format::record::Delta;
use crate::format::xattr::Totals;
use crate::ids::{FileBlock, Ino};

/// Everything that an inode may have, but the inode.
const BELONGINGS: [Class; 7] =
    [Class::Xattr, Class::XattrValue, Class::Dirent, Class::Symlink, Class::Extent, Class::Checksum, Class::Intent];

impl Mender<'_> {
    /// Items that mean nothing go.
    pub(super) fn mend_item(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        let (Finding::Item { key: shown }, Some(key)) = (finding, key) else { return Ok(false) };
        if self.get(&key)?.is_none() {
            return Ok(false);
        }
        self.set_raw(key, None)?;
        if matches!(key.class, Class::Extent | Class::Inode) {
            self.lost.push(((&key).into(), crate::core::txn::successor(key).map(|next| (&next).into())));
        }
        self.note(Repair::Item { key: shown.clone() });
        Ok(true)
    }

    /// What an inode had is there and it is not: it is made anew. A root directory there must be.
    pub(super) fn make_what_is_missing(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        let (ino, kind, left) = match finding {
            Finding::NoRoot => (Ino::ROOT, libc::S_IFDIR, ""),
            Finding::EntryOfNothing { dir, .. } => (*dir, libc::S_IFDIR, "entries"),
            Finding::Belongings { ino, what: "extents", reason: "does not exist" } => (*ino, libc::S_IFREG, "data"),
            _ => return Ok(false),
        };
        if self.inode(ino)?.is_some() {
            // A file with entries: these lead nowhere.
            return match (finding, key) {
                (Finding::EntryOfNothing { dir, name }, Some(key))
                    if ino != Ino::ROOT && self.inode(ino)?.is_some_and(|inode| is_known_and_no_directory(inode.mode)) =>
                {
                    self.set_raw(key, None)?;
                    self.note(Repair::EntryRemoved { dir: *dir, name: name.clone(), reason: "that is no directory" });
                    Ok(true)
                }
                _ => Ok(false),
            };
        }
        self.make(ino, kind)?;
        self.note(match finding {
            Finding::NoRoot => Repair::Root,
            _ if ino == Ino::ROOT => Repair::Root,
            _ => Repair::MadeAnew { ino, kind: if kind == libc::S_IFDIR { "directory" } else { "file" }, left },
        });
        Ok(true)
    }

    fn make(&self, ino: Ino, kind: u32) -> Result<()> {
        let is_dir = kind == libc::S_IFDIR;
        let now = self.volume().options.clock.now();
        let root = self.inode(Ino::ROOT)?;
        let generation = root.as_ref().map_or(0, |root| root.generation);
        let (uid, gid) = root.map_or((0, 0), |root| (root.uid, root.gid));
        let rights = match (ino, is_dir) {
            (Ino::ROOT, _) => 0o755,
            (_, true) => 0o700,
            (_, false) => 0o600,
        };
        let size = if is_dir { 0 } else { self.end_of_data(ino).min(MAX_FILE_SIZE) };
        self.put_inode(&Inode {
            ino,
            size,
            blocks: 0,
            generation,
            parent: Ino::ROOT,
            entries: 0,
            mode: kind | rights,
            uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev: 0,
            // Its holes may have been something.
            flags: if is_dir { 0 } else { LOST_CONTENT },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        })
    }

    /// Bytes up to the end of the last block with data.
    fn end_of_data(&self, ino: Ino) -> u64 {
        let mut end = 0;
        Scanner::new(self.volume()).class(Class::Extent, ino.0..=ino.0, |key, value| {
            if let Some(extent) = Extent::decode(FileBlock(key.b), value).filter(|extent| !extent.is_unwritten()) {
                end = key.b.saturating_add(u64::from(extent.blocks)).saturating_mul(BLOCK as u64);
            }
            true
        });
        end
    }

    /// An inode that contradicts itself.
    pub(super) fn mend_inode(&mut self, finding: &Finding, _: Option<Key>) -> Result<bool> {
        match *finding {
            Finding::InoNeverGiven { ino, next_ino } => {
                let mut state = self.volume().state.lock();
                state.next_ino = state.next_ino.max(ino.0.saturating_add(1));
                let to = state.next_ino;
                drop(state);
                self.note(Repair::Total { what: "as first unused inode number", from: next_ino, to });
                Ok(true)
            }
            Finding::Inode { ino, reason } => self.mend_one_inode(ino, reason),
            // Where a link leads is not known, and half of a target leads elsewhere.
            Finding::Target { ino, .. } => self.remove_inode(ino, "is a symbolic link of which the target is not whole"),
            _ => Ok(false),
        }
    }

    fn mend_one_inode(&mut self, ino: Ino, wrong: &'static str) -> Result<bool> {
        let Some(inode) = self.inode(ino)? else { return Ok(false) };
        match wrong {
            reason::TOO_LARGE => self.change(&inode, "size", inode.size, MAX_FILE_SIZE, |i, to| i.size = to),
            reason::LINK_LENGTH => self.remove_inode(ino, "is a symbolic link of which the target is not whole"),
            reason::DIR_SIZE => self.change(&inode, "size", inode.size, inode.entries.saturating_mul(ENTRY_SIZE), |i, to| i.size = to),
            reason::NO_DIR => self.change(&inode, "number of entries", inode.entries, 0, |i, to| i.entries = to),
            reason::BAD_ROOT if inode.is_dir() => self.change(&inode, "parent", inode.parent.0, ino.0, |i, to| i.parent = Ino(to)),
            reason::BAD_ROOT => {
                self.remove_inode(ino, "is the root and no directory")?;
                self.make(ino, libc::S_IFDIR)?;
                self.note(Repair::Root);
                Ok(true)
            }
            reason::NO_TYPE => match self.kind_by_content(ino)? {
                None => self.remove_inode(ino, "is of no known type and has nothing that tells"),
                Some(kind) => {
                    let to = inode.mode & !libc::S_IFMT | kind;
                    self.change(&inode, "mode", inode.mode.into(), to.into(), |i, to| i.mode = to as u32)
                }
            },
            _ => Ok(false),
        }
    }

    fn kind_by_content(&self, ino: Ino) -> Result<Option<u32>> {
        for (class, kind) in [(Class::Extent, libc::S_IFREG), (Class::Dirent, libc::S_IFDIR), (Class::Symlink, libc::S_IFLNK)] {
            if !self.keys_of_class(class, ino)?.is_empty() {
                return Ok(Some(kind));
            }
        }
        Ok(None)
    }

    /// Changes an inode, and says so.
    pub(super) fn change(&mut self, inode: &Inode, what: &'static str, from: u64, to: u64, set: impl Fn(&mut Inode, u64)) -> Result<bool> {
        let mut changed = inode.clone();
        set(&mut changed, to);
        if changed == *inode {
            return Ok(false);
        }
        self.put_inode(&changed)?;
        self.note(Repair::Inode { ino: inode.ino, what, from, to });
        Ok(true)
    }

    /// Removes an inode with all it has; names that lead to it go in a later pass.
    fn remove_inode(&mut self, ino: Ino, reason: &'static str) -> Result<bool> {
        if self.get(&Key::inode(ino))?.is_none() {
            return Ok(false);
        }
        for class in BELONGINGS {
            for key in self.keys_of_class(class, ino)? {
                self.set_raw(key, None)?;
            }
        }
        self.apply(&Delta::Remove { key: Key::inode(ino) })?;
        self.note(Repair::InodeRemoved { ino, reason });
        Ok(true)
    }

    /// Attributes, lists, and whatever belongs to nobody.
    pub(super) fn mend_attribute(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        match (finding, key) {
            (Finding::Attribute { ino, name, reason }, Some(key)) => {
                if self.get(&key)?.is_none() {
                    return Ok(false);
                }
                self.remove_pieces(key)?;
                self.set_raw(key, None)?;
                self.note(Repair::AttributeRemoved { ino: *ino, name: name.clone(), reason });
                Ok(true)
            }
            (Finding::AttributeTotals { ino, count, names, recorded_count, .. }, _) => {
                let totals = Totals { count: *count, names: *names }.encode();
                self.set_raw(Key::new(Class::Xattr, ino.0, 0), (*count > 0).then_some(&totals[..]))?;
                let (from, to) = (u64::from(*recorded_count), u64::from(*count));
                self.note(Repair::Inode { ino: *ino, what: "number of attributes", from, to });
                Ok(true)
            }
            (Finding::AccessList { ino, list, reason }, _) => {
                let own = *list == LISTS[0].0;
                let done = match *reason {
                    lists::MISSING | lists::NOT_IN_FORCE | lists::NO_LIST | lists::NO_DIRECTORY | lists::MODE => {
                        self.plan(|txn| ops::settle_acl(txn, *ino, own))?
                    }
                    _ => return Ok(false),
                };
                self.note(Repair::AccessList { ino: *ino, list, done });
                Ok(true)
            }
            (Finding::Belongings { ino, what, reason }, key) => self.mend_belongings(*ino, what, reason, key),
            _ => Ok(false),
        }
    }

    fn remove_pieces(&self, attribute: Key) -> Result<()> {
        let from = Key::new(Class::XattrValue, attribute.a, attribute.b << PIECE_BITS);
        for piece in self.keys_of(from, Key { b: from.b | ((1 << PIECE_BITS) - 1), ..from })? {
            self.set_raw(piece, None)?;
        }
        Ok(())
    }

    fn mend_belongings(&mut self, ino: Ino, what: &'static str, reason: &'static str, key: Option<Key>) -> Result<bool> {
        let classes: &[Class] = match (what, key) {
            ("a long attribute value", Some(of)) => {
                self.remove_pieces(of)?;
                &[]
            }
            ("link target", _) => &[Class::Symlink],
            ("attributes", _) => &[Class::Xattr, Class::XattrValue],
            ("extents", _) => &[Class::Extent, Class::Checksum],
            _ => return Ok(false),
        };
        for class in classes {
            for key in self.keys_of_class(*class, ino)? {
                self.set_raw(key, None)?;
            }
        }
        self.note(Repair::Belongings { ino, what, reason });
        Ok(true)
    }

    /// The entries that satisfy, of one directory or of all.
    pub(super) fn entries(&self, dirs: std::ops::RangeInclusive<u64>, is: impl Fn(&Dirent) -> bool) -> Vec<(Key, Dirent)> {
        let mut found = Vec::new();
        Scanner::new(self.volume()).class(Class::Dirent, dirs, |key, value| {
            found.extend(Dirent::decode(value).filter(&is).map(|entry| (key, entry)));
            true
        });
        found
    }
}

/// An inode of no kind is given one before its entries are judged.
fn is_known_and_no_directory(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFLNK | libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR | libc::S_IFBLK)
}
