//! Inodes and names: every entry leads to an inode, every inode has as many names as it says, directories form one tree.
//!
//! Inodes are taken in windows, so that memory is bounded; each window passes over all entries once.

use super::contents::Contents;
use super::{Checker, Finding};
use crate::core::key::{Class, Key};
use crate::core::ops::dirent::{ENTRY_SIZE, first_cookie};
use crate::core::ops::name::{self, SLOT_BITS};
use crate::core::ops::{MAX_FILE_SIZE, symlink::MAX_TARGET};
use crate::format::acl::Acl;
use crate::format::item::{Dirent, HAS_ACCESS_ACL, HAS_DEFAULT_ACL, Inode, Intent, LOST_CONTENT};
use crate::ids::Ino;
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// What can be wrong with an inode by itself.
pub(super) mod reason {
    pub const TOO_LARGE: &str = "is larger than a file can be";
    pub const LINK_LENGTH: &str = "is a symbolic link of impossible length";
    pub const DIR_SIZE: &str = "is a directory whose size does not fit its number of entries";
    pub const NO_TYPE: &str = "is of no known type";
    pub const NO_DIR: &str = "has entries and is no directory";
    pub const BAD_ROOT: &str = "is the root and no directory that is its own parent";
}

/// What can be wrong with an access control list.
pub(super) mod lists {
    pub const MISSING: &str = "is not there, though the inode says that there is one";
    pub const NOT_IN_FORCE: &str = "is not in force: the inode does not say that there is one";
    pub const NO_LIST: &str = "cannot be decoded";
    pub const NO_DIRECTORY: &str = "is for new files in what is no directory";
    pub const MODE: &str = "does not say what the mode says";
}

/// The two lists, each with the flag of an inode that has it.
pub(super) const LISTS: [(&str, u32); 2] = [("own", HAS_ACCESS_ACL), ("default", HAS_DEFAULT_ACL)];

/// What is known of an inode while its window is looked at.
#[derive(Default)]
pub(super) struct Record {
    pub ino: u64,
    pub kind: u32,
    pub size: u64,
    pub blocks: u64,
    pub nlink: u32,
    pub parent: u64,
    pub entries: u64,
    pub names: u64,
    pub entries_found: u64,
    pub subdirs: u64,
    pub target: u64,
    pub attributes: (u32, u32),
    pub totals: Option<(u32, u32)>,
    pub blocks_found: u64,
    pub mapped_end: u64,
    pub mode: u32,
    pub flags: u32,
    /// The access control list and the default one: their values, as far as they are lists.
    pub lists: [Option<Option<Acl>>; 2],
    pub to_be_freed: bool,
    pub to_be_cut: bool,
}

impl Record {
    fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }
}

/// Inodes in order of number.
pub(super) struct Window {
    pub records: Vec<Record>,
    /// The numbers it covers.
    pub inos: RangeInclusive<u64>,
    first: bool,
}

impl Window {
    pub fn covers(&self, ino: u64) -> bool {
        self.inos.contains(&ino)
    }
    pub fn get(&mut self, ino: u64) -> Option<&mut Record> {
        let at = self.records.binary_search_by_key(&ino, |record| record.ino).ok()?;
        Some(&mut self.records[at])
    }
}

/// A name for a report.
pub(super) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Checker<'_> {
    /// Checks all inodes, their names and what belongs to them.
    pub(super) fn check_inodes(&mut self) -> Contents {
        let mut contents = Contents::default();
        let mut parents = HashMap::new();
        let mut from = 0;
        loop {
            self.progress("inodes", self.report.counts.inodes, None);
            let (mut window, more) = self.read_inodes(from);
            self.read_entries(&mut window);
            self.read_intents(&mut window);
            self.check_targets(&mut window);
            self.check_attributes(&mut window);
            self.check_extents(&mut window, &mut contents);
            self.check_checksum_groups(&window);
            for record in &window.records {
                self.judge(record);
                if record.is_dir() {
                    parents.insert(record.ino, record.parent);
                }
            }
            if !more {
                break;
            }
            from = window.inos.end() + 1;
        }
        if !parents.contains_key(&Ino::ROOT.0) && self.scan.get(&Key::inode(Ino::ROOT)) == Ok(None) {
            self.add(Finding::NoRoot);
        }
        self.report.counts.directories = parents.len() as u64;
        self.check_loops(&parents);
        contents
    }

    fn read_inodes(&mut self, from: u64) -> (Window, bool) {
        let scan = self.scan.clone();
        let mut records: Vec<Record> = Vec::new();
        let mut more = false;
        let next_ino = self.volume.state.lock().next_ino;
        scan.class(Class::Inode, from..=u64::MAX, |key, value| {
            if records.len() >= self.options.window {
                more = true;
                return false;
            }
            self.report.counts.inodes += 1;
            let Some(inode) = Inode::decode(Ino(key.a), value).filter(|_| key.b == 0) else {
                self.undecodable(key);
                return true;
            };
            self.check_inode(&inode, next_ino);
            records.push(Record {
                ino: inode.ino.0,
                kind: inode.kind(),
                mode: inode.mode,
                flags: inode.flags,
                size: inode.size,
                blocks: inode.blocks,
                nlink: inode.nlink,
                parent: inode.parent.0,
                entries: inode.entries,
                ..Record::default()
            });
            true
        });
        let last = records.last().map_or(u64::MAX, |record| record.ino);
        (Window { records, inos: from..=if more { last } else { u64::MAX }, first: from == 0 }, more)
    }

    fn check_inode(&mut self, inode: &Inode, next_ino: u64) {
        let ino = inode.ino;
        if ino.0 >= next_ino {
            self.add(Finding::InoNeverGiven { ino, next_ino });
        }
        let wrong = match inode.kind() {
            libc::S_IFREG if inode.size > MAX_FILE_SIZE => Some(reason::TOO_LARGE),
            libc::S_IFLNK if inode.size == 0 || inode.size > MAX_TARGET as u64 => Some(reason::LINK_LENGTH),
            libc::S_IFDIR if inode.size != inode.entries.saturating_mul(ENTRY_SIZE) => Some(reason::DIR_SIZE),
            libc::S_IFREG | libc::S_IFLNK | libc::S_IFDIR => None,
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => None,
            _ => Some(reason::NO_TYPE),
        };
        if let Some(reason) = wrong {
            self.add(Finding::Inode { ino, reason });
        }
        if !inode.is_dir() && inode.entries != 0 {
            self.add(Finding::Inode { ino, reason: reason::NO_DIR });
        }
    }

    fn read_entries(&mut self, window: &mut Window) {
        let scan = self.scan.clone();
        // Entries whose names have the same hash lie side by side.
        let mut group: (u64, u64, Vec<Vec<u8>>) = (0, 0, Vec::new());
        scan.class(Class::Dirent, 0..=u64::MAX, |key, value| {
            let dir = Ino(key.a);
            let Some(entry) = Dirent::decode(value) else {
                if window.first {
                    self.undecodable(key);
                }
                if let Some(record) = window.get(dir.0) {
                    record.entries_found += 1;
                }
                return true;
            };
            if window.first {
                self.report.counts.entries += 1;
                self.check_name(key, &entry.name, &mut group);
            }
            if window.covers(dir.0) {
                self.enter(window, key, &entry);
            }
            if window.covers(entry.ino.0) {
                self.lead(window, key, &entry);
            }
            true
        });
    }

    fn check_name(&mut self, key: Key, name: &[u8], group: &mut (u64, u64, Vec<Vec<u8>>)) {
        let (dir, cookie) = (Ino(key.a), key.b);
        let shown = || printable(name);
        if name::check(name).is_err() || name::is_dots(name) {
            self.add_at(key, Finding::EntryName { dir, name: shown(), reason: "no such name can be made" });
        }
        let first = first_cookie(&self.volume.identity().hash_key, name);
        if cookie >> SLOT_BITS != first >> SLOT_BITS {
            self.add_at(key, Finding::EntryPlace { dir, name: shown(), cookie });
        }
        if (group.0, group.1) != (dir.0, cookie >> SLOT_BITS) {
            *group = (dir.0, cookie >> SLOT_BITS, Vec::new());
        }
        if group.2.iter().any(|other| other == name) {
            self.add_at(key, Finding::EntryTwice { dir, name: shown() });
        }
        group.2.push(name.to_vec());
    }

    /// The side of the directory.
    fn enter(&mut self, window: &mut Window, key: Key, entry: &Dirent) {
        let dir = Ino(key.a);
        match window.get(dir.0) {
            Some(record) if record.is_dir() => {
                record.entries_found += 1;
                record.subdirs += u64::from(u32::from(entry.kind) == libc::S_IFDIR >> 12);
            }
            None if self.scan.is_lost(&Key::inode(dir), &Key::inode(dir)) => {}
            _ => self.add_at(key, Finding::EntryOfNothing { dir, name: printable(&entry.name) }),
        }
    }

    /// The side of the inode that it leads to.
    fn lead(&mut self, window: &mut Window, key: Key, entry: &Dirent) {
        let (dir, ino) = (Ino(key.a), entry.ino);
        let Some(record) = window.get(ino.0) else {
            if !self.scan.is_lost(&Key::inode(ino), &Key::inode(ino)) {
                self.add_at(key, Finding::DanglingEntry { dir, name: printable(&entry.name), ino });
            }
            return;
        };
        record.names += 1;
        let found = (record.kind >> 12) as u8;
        let (is_dir, parent) = (record.is_dir(), Ino(record.parent));
        if found != entry.kind {
            self.add_at(key, Finding::EntryKind { dir, name: printable(&entry.name), ino, recorded: entry.kind, found });
        }
        if is_dir && parent != dir {
            self.add(Finding::Parent { ino, recorded: parent, found: dir });
        }
    }

    fn read_intents(&mut self, window: &mut Window) {
        let scan = self.scan.clone();
        scan.class(Class::Intent, window.inos.clone(), |key, value| {
            let ino = Ino(key.a);
            let Some(intent) = Intent::decode(value) else {
                self.undecodable(key);
                return true;
            };
            let fits = match intent {
                Intent::Free => key.b == 0,
                Intent::Cut { .. } => key.b == 1,
            };
            match window.get(key.a) {
                _ if !fits => self.add_at(key, Finding::Intent { ino, reason: "is not the one that its key says" }),
                None if scan.is_lost(&Key::inode(ino), &Key::inode(ino)) => {}
                None => self.add_at(key, Finding::Intent { ino, reason: "is about an inode that does not exist" }),
                Some(record) => match intent {
                    Intent::Free if record.nlink > 0 => {
                        self.add_at(key, Finding::Intent { ino, reason: "would free an inode that has a name" })
                    }
                    Intent::Free => record.to_be_freed = true,
                    Intent::Cut { .. } => record.to_be_cut = true,
                },
            }
            true
        });
    }

    fn judge(&mut self, r: &Record) {
        let ino = Ino(r.ino);
        self.judge_names(r, ino);
        let own = |class| (Key::new(class, r.ino, 0), Key::new(class, r.ino, u64::MAX));
        let may_lack = |this: &Self, class| {
            let (from, to) = own(class);
            this.scan.is_lost(&from, &to)
        };
        if r.kind == libc::S_IFLNK && r.target != r.size && !may_lack(self, Class::Symlink) {
            self.add(Finding::Target { ino, recorded: r.size, found: r.target });
        }
        let recorded = r.totals.unwrap_or_default();
        if recorded != r.attributes && !may_lack(self, Class::Xattr) {
            let (count, names) = r.attributes;
            self.add(Finding::AttributeTotals { ino, count, names, recorded_count: recorded.0, recorded_names: recorded.1 });
        }
        if !may_lack(self, Class::Xattr) && !may_lack(self, Class::XattrValue) {
            self.judge_lists(r, ino);
        }
        if r.flags & LOST_CONTENT != 0 {
            self.add(Finding::ContentLost { ino });
        }
        if may_lack(self, Class::Extent) {
            return;
        }
        if r.blocks != r.blocks_found {
            self.add(Finding::BlockCount { ino, recorded: r.blocks, counted: r.blocks_found });
        }
        let size_blocks = r.size.div_ceil(crate::BLOCK as u64);
        if r.mapped_end > size_blocks && !r.to_be_cut && !r.to_be_freed {
            self.add(Finding::BeyondEnd { ino, size: r.size, end: r.mapped_end });
        }
    }

    /// Flags and lists must agree, and the access list must say what the mode says.
    fn judge_lists(&mut self, r: &Record, ino: Ino) {
        for (n, (list, flag)) in LISTS.into_iter().enumerate() {
            let reason = match &r.lists[n] {
                None if r.flags & flag != 0 => lists::MISSING,
                None => continue,
                Some(_) if r.flags & flag == 0 => lists::NOT_IN_FORCE,
                Some(None) => lists::NO_LIST,
                Some(Some(_)) if n == 1 && !r.is_dir() => lists::NO_DIRECTORY,
                Some(Some(acl)) if n == 0 && acl.mode() != r.mode & 0o777 => lists::MODE,
                Some(Some(_)) => continue,
            };
            self.add(Finding::AccessList { ino, list, reason });
        }
    }

    fn judge_names(&mut self, r: &Record, ino: Ino) {
        let entries_lost = self.scan.is_class_lost(Class::Dirent);
        if r.nlink == 0 {
            if r.to_be_freed {
                self.add(Finding::Orphan { ino });
            } else if !self.scan.is_lost(&Key::intent(ino), &Key::intent(ino)) {
                self.add(Finding::LostOrphan { ino });
            }
        }
        let is_root = ino == Ino::ROOT;
        if is_root && (!r.is_dir() || r.parent != ino.0) {
            self.add(Finding::Inode { ino, reason: reason::BAD_ROOT });
        }
        let own_lost = || {
            let at = |b| Key::new(Class::Dirent, r.ino, b);
            self.scan.is_lost(&at(0), &at(u64::MAX))
        };
        if r.is_dir() && !own_lost() {
            if r.entries != r.entries_found {
                self.add(Finding::EntryCount { ino, recorded: r.entries, counted: r.entries_found });
            }
            let counted = if r.nlink == 0 { r.subdirs } else { 2 + r.subdirs };
            if u64::from(r.nlink) != counted {
                self.add(Finding::LinkCount { ino, recorded: r.nlink, counted });
            }
        }
        let expected = match (r.is_dir(), is_root) {
            (_, true) => 0,
            (true, _) => u64::from(r.nlink > 0),
            _ => u64::from(r.nlink),
        };
        match r.names {
            n if n == expected => {}
            n if n < expected && entries_lost => {}
            0 => self.add(Finding::Unnamed { ino, links: r.nlink }),
            names if r.is_dir() => self.add(Finding::ManyNames { ino, names }),
            counted => self.add(Finding::LinkCount { ino, recorded: r.nlink, counted }),
        }
    }

    /// Every directory must be below the root; one that is its own ancestor is not.
    fn check_loops(&mut self, parents: &HashMap<u64, u64>) {
        let mut state: HashMap<u64, bool> = HashMap::from([(Ino::ROOT.0, true)]);
        let mut starts: Vec<u64> = parents.keys().copied().collect();
        starts.sort_unstable();
        for start in starts {
            let mut path = Vec::new();
            let mut at = start;
            loop {
                match state.get(&at) {
                    Some(true) => break,
                    Some(false) => {
                        self.add(Finding::Loop { ino: Ino(at) });
                        break;
                    }
                    None => {}
                }
                state.insert(at, false);
                path.push(at);
                // A parent that does not exist is found by the entries.
                let Some(&parent) = parents.get(&at) else { break };
                at = parent;
            }
            for ino in path {
                state.insert(ino, true);
            }
        }
    }
}
