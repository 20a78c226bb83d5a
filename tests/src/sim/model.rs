//! The naive filesystem that volumes are held against: maps of nodes, whole blocks in memory, no cleverness.
//!
//! A node is known by the identity that the simulator gives it, which is stored as its owner (uid), so that it can be told from any other
//! after a crash, whatever inode number it has. A state of the whole filesystem has a digest: the sum of the digests of its nodes.
//! Cloning a model shares the nodes, so that every state of a run can be kept.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Identity of a node.
pub type Id = u32;

/// The root directory.
pub const ROOT: Id = 0;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    NotFound,
    Exists,
    NotEmpty,
    IsADirectory,
    NotADirectory,
    Invalid,
    NotPermitted,
    NoAttribute,
}

/// A block of a file that is not all zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    bytes: Arc<[u8]>,
    hash: u32,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A regular file. Blocks that are not there are zeros.
    File {
        /// Length in bytes.
        size: u64,
        /// Blocks with content.
        blocks: BTreeMap<u64, Block>,
    },
    /// A directory.
    Directory(BTreeMap<Vec<u8>, Id>),
    /// A symbolic link.
    Symlink(Vec<u8>),
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Permissions.
    pub mode: u32,
    /// Names of a file; for a directory two and one per subdirectory.
    pub nlink: u32,
    /// Last change of content, in seconds.
    pub mtime: i64,
    /// Last change of anything, in seconds.
    pub ctime: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What it is.
    pub kind: Kind,
}

impl Node {
    /// A digest of everything.
    pub fn digest(&self, id: Id) -> u64 {
        let mut hasher = DefaultHasher::new();
        (id, self.mode, self.nlink, self.mtime, self.ctime, &self.xattrs).hash(&mut hasher);
        match &self.kind {
            Kind::File { size, blocks } => {
                (0u8, size).hash(&mut hasher);
                blocks.iter().for_each(|(block, content)| (block, content.hash).hash(&mut hasher));
            }
            Kind::Directory(entries) => (1u8, entries).hash(&mut hasher),
            Kind::Symlink(target) => (2u8, target).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Replaces bytes of a file; its length is the caller's business.
    pub fn put(&mut self, offset: u64, data: &[u8]) {
        let Kind::File { blocks, .. } = &mut self.kind else { return };
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (block, within) = (at / BLOCK, (at % BLOCK) as usize);
            let n = rest.len().min(BLOCK as usize - within);
            let (part, more) = rest.split_at(n);
            let mut bytes = match blocks.get(&block) {
                Some(old) => old.bytes.to_vec(),
                None => vec![0; BLOCK as usize],
            };
            bytes[within..within + n].copy_from_slice(part);
            put_block(blocks, block, bytes);
            rest = more;
            at += n as u64;
        }
    }

    /// Bytes of a file.
    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        if let Kind::File { blocks, .. } = &self.kind {
            for (block, content) in blocks.range(offset / BLOCK..=(offset + len as u64) / BLOCK) {
                let start = block * BLOCK;
                let (from, to) = (start.max(offset), (start + BLOCK).min(offset + len as u64));
                if from < to {
                    let source = &content.bytes[(from - start) as usize..(to - start) as usize];
                    out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
                }
            }
        }
        out
    }

    fn zero(&mut self, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let next = (at / BLOCK + 1) * BLOCK;
            let Kind::File { blocks, .. } = &mut self.kind else { return };
            if at.is_multiple_of(BLOCK) && next <= to {
                let mut behind = blocks.split_off(&(at / BLOCK));
                let mut kept = behind.split_off(&(to / BLOCK));
                blocks.append(&mut kept);
                at = to / BLOCK * BLOCK;
            } else {
                let end = next.min(to);
                if blocks.contains_key(&(at / BLOCK)) {
                    self.put(at, &vec![0; (end - at) as usize]);
                }
                at = end;
            }
        }
    }
}

fn put_block(blocks: &mut BTreeMap<u64, Block>, block: u64, bytes: Vec<u8>) {
    if bytes.iter().all(|byte| *byte == 0) {
        blocks.remove(&block);
    } else {
        let hash = crc32c::crc32c(&bytes);
        blocks.insert(block, Block { bytes: bytes.into(), hash });
    }
}

/// A whole filesystem.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: BTreeMap<Id, Arc<Node>>,
    digest: u64,
}

type Outcome = Result<(), Refusal>;

impl Model {
    /// Nothing, not even a root: for filling by observation.
    pub fn nothing() -> Self {
        Self { nodes: BTreeMap::new(), digest: 0 }
    }

    /// A new filesystem, made at `now`.
    pub fn new(now: i64) -> Self {
        let mut model = Self::nothing();
        model.insert(
            ROOT,
            Node { mode: 0o755, nlink: 2, mtime: now, ctime: now, xattrs: BTreeMap::new(), kind: Kind::Directory(BTreeMap::new()) },
        );
        model
    }

    /// Stands for everything that programs can see.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, &**node))
    }

    /// One node.
    pub fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id).map(|node| &**node)
    }

    /// The entries of a directory.
    pub fn entries(&self, id: Id) -> Option<&BTreeMap<Vec<u8>, Id>> {
        match &self.node(id)?.kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// Adds a node as it is.
    pub fn insert(&mut self, id: Id, node: Node) {
        self.remove(id);
        self.digest = self.digest.wrapping_add(node.digest(id));
        self.nodes.insert(id, Arc::new(node));
    }

    fn remove(&mut self, id: Id) {
        if let Some(old) = self.nodes.remove(&id) {
            self.digest = self.digest.wrapping_sub(old.digest(id));
        }
    }

    fn change(&mut self, id: Id, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.digest = self.digest.wrapping_sub(node.digest(id));
        change(Arc::make_mut(node));
        self.digest = self.digest.wrapping_add(node.digest(id));
    }

    fn directory(&self, id: Id) -> Result<&BTreeMap<Vec<u8>, Id>, Refusal> {
        let node = self.node(id).ok_or(Refusal::NotFound)?;
        match &node.kind {
            Kind::Directory(entries) => Ok(entries),
            _ => Err(Refusal::NotADirectory),
        }
    }

    fn child(&self, parent: Id, name: &[u8]) -> Result<Id, Refusal> {
        self.directory(parent)?.get(name).copied().ok_or(Refusal::NotFound)
    }

    fn is_dir(&self, id: Id) -> bool {
        self.entries(id).is_some()
    }

    fn file(&self, id: Id) -> Result<u64, Refusal> {
        match self.node(id).ok_or(Refusal::NotFound)?.kind {
            Kind::File { size, .. } => Ok(size),
            Kind::Directory(_) => Err(Refusal::IsADirectory),
            Kind::Symlink(_) => Err(Refusal::Invalid),
        }
    }

    /// Puts or takes an entry, with the times of the directory.
    fn entry(&mut self, parent: Id, name: &[u8], to: Option<Id>, now: i64) {
        let subdirs = |model: &Self, id: Option<Id>| u32::from(id.is_some_and(|id| model.is_dir(id)));
        let old = self.entries(parent).and_then(|entries| entries.get(name).copied());
        let (lost, gained) = (subdirs(self, old), subdirs(self, to));
        self.change(parent, |dir| {
            if let Kind::Directory(entries) = &mut dir.kind {
                match to {
                    Some(id) => drop(entries.insert(name.to_vec(), id)),
                    None => drop(entries.remove(name)),
                }
            }
            dir.nlink = dir.nlink + gained - lost;
            (dir.mtime, dir.ctime) = (now, now);
        });
    }

    /// Makes a node under a name.
    pub fn make(&mut self, parent: Id, name: &[u8], id: Id, mode: u32, kind: Kind, now: i64) -> Outcome {
        if self.directory(parent)?.contains_key(name) {
            return Err(Refusal::Exists);
        }
        let nlink = if matches!(kind, Kind::Directory(_)) { 2 } else { 1 };
        self.insert(id, Node { mode, nlink, mtime: now, ctime: now, xattrs: BTreeMap::new(), kind });
        self.entry(parent, name, Some(id), now);
        Ok(())
    }

    /// Another name for a file.
    pub fn link(&mut self, id: Id, parent: Id, name: &[u8], now: i64) -> Outcome {
        if self.node(id).is_none() {
            return Err(Refusal::NotFound);
        }
        if self.directory(parent)?.contains_key(name) {
            return Err(Refusal::Exists);
        }
        if self.is_dir(id) {
            return Err(Refusal::NotPermitted);
        }
        self.change(id, |node| (node.nlink, node.ctime) = (node.nlink + 1, now));
        self.entry(parent, name, Some(id), now);
        Ok(())
    }

    /// One name less; the node goes with its last one.
    fn drop_name(&mut self, id: Id, now: i64) {
        let last = self.node(id).is_some_and(|node| node.nlink == 1 || matches!(node.kind, Kind::Directory(_)));
        if last {
            self.remove(id);
        } else {
            self.change(id, |node| (node.nlink, node.ctime) = (node.nlink - 1, now));
        }
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&mut self, parent: Id, name: &[u8], now: i64) -> Outcome {
        let id = self.child(parent, name)?;
        if self.is_dir(id) {
            return Err(Refusal::IsADirectory);
        }
        self.entry(parent, name, None, now);
        self.drop_name(id, now);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, parent: Id, name: &[u8], now: i64) -> Outcome {
        let id = self.child(parent, name)?;
        if !self.directory(id)?.is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.entry(parent, name, None, now);
        self.drop_name(id, now);
        Ok(())
    }

    /// Is `inner` the directory `outer`, or somewhere below it?
    pub fn is_within(&self, inner: Id, outer: Id) -> bool {
        let below = |entries: &BTreeMap<Vec<u8>, Id>| entries.values().any(|id| self.is_within(inner, *id));
        inner == outer || self.entries(outer).is_some_and(below)
    }

    /// Moves a name.
    pub fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), exchange: bool, no_replace: bool, now: i64) -> Outcome {
        self.directory(from.0)?;
        self.directory(to.0)?;
        let moved = self.child(from.0, from.1)?;
        let other = self.child(to.0, to.1).ok();
        if no_replace && other.is_some() {
            return Err(Refusal::Exists);
        }
        if exchange && other.is_none() {
            return Err(Refusal::NotFound);
        }
        if self.is_dir(moved) && from.0 != to.0 && self.is_within(to.0, moved) {
            return Err(Refusal::Invalid);
        }
        if let Some(other) = other {
            if exchange && self.is_dir(other) && from.0 != to.0 && self.is_within(from.0, other) {
                return Err(Refusal::Invalid);
            }
            if moved == other {
                return Ok(());
            }
            if exchange {
                self.entry(from.0, from.1, Some(other), now);
                self.entry(to.0, to.1, Some(moved), now);
                self.change(other, |node| node.ctime = now);
                self.change(moved, |node| node.ctime = now);
                return Ok(());
            }
            match (self.is_dir(moved), self.entries(other)) {
                (true, None) => return Err(Refusal::NotADirectory),
                (false, Some(_)) => return Err(Refusal::IsADirectory),
                (true, Some(entries)) if !entries.is_empty() => return Err(Refusal::NotEmpty),
                _ => {}
            }
            self.entry(to.0, to.1, None, now);
            self.drop_name(other, now);
        }
        self.entry(from.0, from.1, None, now);
        self.entry(to.0, to.1, Some(moved), now);
        self.change(moved, |node| node.ctime = now);
        Ok(())
    }

    /// Writes bytes into a file.
    pub fn write(&mut self, id: Id, offset: u64, data: &[u8], now: i64) -> Outcome {
        self.file(id)?;
        self.change(id, |node| {
            node.put(offset, data);
            if let Kind::File { size, .. } = &mut node.kind {
                *size = (*size).max(offset + data.len() as u64);
            }
            (node.mtime, node.ctime) = (now, now);
        });
        Ok(())
    }

    /// Gives a file another length.
    pub fn truncate(&mut self, id: Id, to: u64, now: i64) -> Outcome {
        let old = self.file(id)?;
        self.change(id, |node| {
            node.zero(to, old.next_multiple_of(BLOCK).max(to));
            if let Kind::File { size, .. } = &mut node.kind {
                *size = to;
            }
            (node.mtime, node.ctime) = (now, now);
        });
        Ok(())
    }

    /// fallocate(2): `zeroes` for holes and zeroed ranges, `keep_size` for modes that leave the length alone.
    pub fn fallocate(&mut self, id: Id, zeroes: bool, keep_size: bool, range: (u64, u64), now: i64) -> Outcome {
        let old = self.file(id)?;
        let end = range.0 + range.1;
        let grows = !keep_size && end > old;
        self.change(id, |node| {
            if zeroes {
                node.zero(range.0, end.min(old.next_multiple_of(BLOCK)));
            }
            if let Kind::File { size, .. } = &mut node.kind
                && grows
            {
                *size = end;
            }
            if grows || zeroes {
                node.mtime = now;
            }
            node.ctime = now;
        });
        Ok(())
    }

    /// Copies a range, which must lie within the source and is clipped to it; how much.
    pub fn copy_range(&mut self, from: (Id, u64), to: (Id, u64), len: u64, now: i64) -> Result<u64, Refusal> {
        let size = self.file(from.0)?;
        self.file(to.0)?;
        let len = len.min(size.saturating_sub(from.1));
        if len > 0 {
            let data = self.node(from.0).map(|node| node.get(from.1, len as usize)).unwrap_or_default();
            self.write(to.0, to.1, &data, now)?;
        }
        Ok(len)
    }

    /// Changes permissions.
    pub fn chmod(&mut self, id: Id, mode: u32, now: i64) -> Outcome {
        self.node(id).ok_or(Refusal::NotFound)?;
        self.change(id, |node| (node.mode, node.ctime) = (mode, now));
        Ok(())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], now: i64) -> Outcome {
        self.node(id).ok_or(Refusal::NotFound)?;
        self.change(id, |node| {
            node.xattrs.insert(name.to_vec(), value.to_vec());
            node.ctime = now;
        });
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&mut self, id: Id, name: &[u8], now: i64) -> Outcome {
        let node = self.node(id).ok_or(Refusal::NotFound)?;
        if !node.xattrs.contains_key(name) {
            return Err(Refusal::NoAttribute);
        }
        self.change(id, |node| {
            node.xattrs.remove(name);
            node.ctime = now;
        });
        Ok(())
    }

    /// The first differences to another state, for people.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let ids: std::collections::BTreeSet<Id> = self.nodes.keys().chain(other.nodes.keys()).copied().collect();
        for id in ids {
            match (self.node(id), other.node(id)) {
                (Some(a), Some(b)) if a.digest(id) == b.digest(id) => {}
                (Some(a), Some(b)) => found.push(format!("node {id}: {}", node_difference(a, b))),
                (Some(_), None) => found.push(format!("node {id} is only expected")),
                (None, _) => found.push(format!("node {id} is only found")),
            }
        }
        found
    }
}

fn node_difference(a: &Node, b: &Node) -> String {
    let mut parts = Vec::new();
    let fields = [("mode", a.mode, b.mode), ("nlink", a.nlink, b.nlink)];
    parts.extend(fields.iter().filter(|f| f.1 != f.2).map(|f| format!("{} {} found {}", f.0, f.1, f.2)));
    let times = [("mtime", a.mtime, b.mtime), ("ctime", a.ctime, b.ctime)];
    parts.extend(times.iter().filter(|f| f.1 != f.2).map(|f| format!("{} {} found {}", f.0, f.1, f.2)));
    if a.xattrs != b.xattrs {
        let names = |n: &Node| n.xattrs.iter().map(|(k, v)| format!("{}={}b", String::from_utf8_lossy(k), v.len())).collect::<Vec<_>>();
        parts.push(format!("xattrs {:?} found {:?}", names(a), names(b)));
    }
    match (&a.kind, &b.kind) {
        (Kind::File { size: s, blocks: x }, Kind::File { size: t, blocks: y }) => {
            if s != t {
                parts.push(format!("size {s} found {t}"));
            }
            let all: std::collections::BTreeSet<u64> = x.keys().chain(y.keys()).copied().collect();
            let wrong: Vec<u64> = all.into_iter().filter(|n| x.get(n).map(|b| b.hash) != y.get(n).map(|b| b.hash)).collect();
            if !wrong.is_empty() {
                parts.push(format!("{} blocks differ, first {:?}", wrong.len(), &wrong[..wrong.len().min(8)]));
                let zeros = wrong.iter().filter(|n| !y.contains_key(n)).count();
                parts.push(format!("{zeros} of them are found as zeros"));
            }
        }
        (Kind::Directory(x), Kind::Directory(y)) if x != y => {
            let names = |d: &BTreeMap<Vec<u8>, Id>| {
                d.iter().map(|(k, v)| format!("{}:{v}", String::from_utf8_lossy(k))).collect::<Vec<_>>().join(" ")
            };
            parts.push(format!("entries [{}] found [{}]", names(x), names(y)));
        }
        (Kind::Symlink(x), Kind::Symlink(y)) if x != y => parts.push("target".into()),
        (x, y) if std::mem::discriminant(x) != std::mem::discriminant(y) => parts.push("another kind".into()),
        _ => {}
    }
    parts.join(", ")
}
