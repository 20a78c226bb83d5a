//! The volume under test: carries operations out, and is observed whole, as a model.

use super::model::{Id, Kind, Model, Node, ROOT};
use super::operation::{Operation, content};
use fs::volume::{Attr, Caller, RenameFlags, SetAttr, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes asked for by one read of an observation.
const READ: u64 = 48 << 10;

/// A mounted volume and where its nodes are.
pub struct Subject {
    volume: Arc<Volume>,
    inos: BTreeMap<Id, Ino>,
}

/// What an operation said.
pub enum Answer {
    /// Done.
    Done,
    /// This much of a copy was done.
    Copied(u64),
    /// These bytes were read.
    Bytes(Vec<u8>),
}

/// A volume as it is found.
pub struct Observed {
    /// Everything that could be read.
    pub model: Model,
    /// Where the nodes are.
    pub inos: BTreeMap<Id, Ino>,
    /// What could not be read, and why.
    pub errors: Vec<(Lost, FsError)>,
}

/// A part of a volume that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// A directory, with what is below it.
    Directory(Id),
    /// A node behind a name of this directory.
    Child(Id),
    /// The extended attributes or the link target of a node.
    Attributes(Id),
    /// A block of a file.
    Block(Id, u64),
}

impl Subject {
    /// A volume that was just mounted; `inos` as observed.
    pub fn new(volume: Arc<Volume>, inos: BTreeMap<Id, Ino>) -> Self {
        Self { volume, inos }
    }

    /// The volume.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Can this node be asked for: was it there at the mount, or made since?
    pub fn knows(&self, id: Id) -> bool {
        self.inos.contains_key(&id)
    }

    fn ino(&self, id: Id) -> Result<Ino, FsError> {
        self.inos.get(&id).copied().ok_or(FsError::NotFound)
    }

    fn made(&mut self, id: Id, attr: Attr) -> Answer {
        self.inos.insert(id, attr.ino);
        Answer::Done
    }

    /// Carries an operation out. Mounting again is not for here.
    pub fn apply(&mut self, op: &Operation) -> Result<Answer, FsError> {
        let volume = self.volume.clone();
        let caller = |id: &Id| Caller { uid: *id, gid: 7, pid: 0, umask: 0 };
        match op {
            Operation::Create { parent, name, id } => {
                let attr = volume.mknod(self.ino(*parent)?, name, libc::S_IFREG | 0o644, 0, &caller(id))?;
                return Ok(self.made(*id, attr));
            }
            Operation::Mkdir { parent, name, id } => {
                let attr = volume.mkdir(self.ino(*parent)?, name, 0o755, &caller(id))?;
                return Ok(self.made(*id, attr));
            }
            Operation::Symlink { parent, name, id, target } => {
                let attr = volume.symlink(self.ino(*parent)?, name, target, &caller(id))?;
                return Ok(self.made(*id, attr));
            }
            Operation::Link { id, parent, name } => {
                volume.link(self.ino(*id)?, self.ino(*parent)?, name)?;
            }
            Operation::Unlink { parent, name, hold } => self.unlink(self.ino(*parent)?, name, *hold)?,
            Operation::Rmdir { parent, name } => self.rmdir(self.ino(*parent)?, name)?,
            Operation::Rename { from, to, exchange, no_replace } => {
                let flags = RenameFlags { no_replace: *no_replace, exchange: *exchange, whiteout: false };
                let (parent, newparent) = (self.ino(from.0)?, self.ino(to.0)?);
                let replaced = volume.lookup(newparent, &to.1).ok().map(|attr| attr.ino);
                volume.rename(parent, &from.1, newparent, &to.1, flags)?;
                replaced.into_iter().for_each(|ino| volume.forget(ino));
            }
            Operation::Write { id, offset, len, stamp, append, sync } => {
                let data = content(*stamp, *len);
                let options = WriteOptions { sync: *sync, kill_suid: false, append: *append };
                let written = volume.write(self.ino(*id)?, if *append { 0 } else { *offset }, &data, &options)?;
                if written != data.len() {
                    return Err(FsError::Internal("a write was cut short"));
                }
            }
            Operation::Truncate { id, size } => {
                let set = SetAttr { size: Some(*size), ..SetAttr::default() };
                volume.setattr(self.ino(*id)?, &set)?;
            }
            Operation::Fallocate { id, mode, offset, len } => volume.fallocate(self.ino(*id)?, *mode, *offset, *len)?,
            Operation::CopyRange { from, to, len } => return self.copy(*from, *to, *len),
            Operation::Chmod { id, mode } => {
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                volume.setattr(self.ino(*id)?, &set)?;
            }
            Operation::SetXattr { id, name, len, stamp } => volume.setxattr(self.ino(*id)?, name, &content(*stamp, *len), 0)?,
            Operation::RemoveXattr { id, name } => volume.removexattr(self.ino(*id)?, name)?,
            Operation::Read { id, offset, len } => {
                return Ok(Answer::Bytes(volume.read(self.ino(*id)?, *offset, *len)?.to_vec()));
            }
            Operation::Fsync { id } => {
                self.ino(*id)?;
                volume.sync()?;
            }
            Operation::Sync => volume.sync()?,
            Operation::Checkpoint => volume.checkpoint()?,
            Operation::Gc { until_clean } => {
                volume.gc(*until_clean)?;
            }
            Operation::Remount => return Err(FsError::Internal("mounting again is for the driver")),
        }
        Ok(Answer::Done)
    }

    fn unlink(&self, parent: Ino, name: &[u8], hold: bool) -> Result<(), FsError> {
        let ino = self.volume.lookup(parent, name)?.ino;
        if hold {
            self.volume.unlink(parent, name)?;
            return Ok(());
        }
        self.volume.unlink(parent, name)?;
        self.volume.forget(ino);
        Ok(())
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let ino = self.volume.lookup(parent, name)?.ino;
        self.volume.rmdir(parent, name)?;
        self.volume.forget(ino);
        Ok(())
    }

    /// A call may do less than asked for: it is repeated as programs do.
    fn copy(&self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<Answer, FsError> {
        let (source, target) = (self.ino(from.0)?, self.ino(to.0)?);
        // Within one file the end of the source moves: it is what it was before.
        let len = len.min(self.volume.getattr(source)?.size.saturating_sub(from.1));
        let mut done = 0;
        while done < len {
            match self.volume.copy_file_range(source, from.1 + done, target, to.1 + done, len - done) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Answer::Copied(done))
    }
}

/// Reads all of a volume.
///
/// # Errors
/// A sentence about something that cannot be in any filesystem: an inode under two identities, a listing that contradicts a lookup.
pub fn observe(volume: &Volume) -> Result<Observed, String> {
    let mut found = Observed { model: Model::nothing(), inos: BTreeMap::new(), errors: Vec::new() };
    let mut stack = vec![(ROOT, Ino::ROOT)];
    let mut seen = BTreeSet::new();
    while let Some((parent, dir)) = stack.pop() {
        if !seen.insert(dir) {
            return Err(format!("directory {dir} has two names"));
        }
        let attr = match volume.getattr(dir) {
            Ok(attr) => attr,
            Err(error) => {
                found.errors.push((Lost::Directory(parent), error));
                continue;
            }
        };
        let id = attr.uid;
        found.inos.insert(id, dir);
        let mut entries = BTreeMap::new();
        let complete = list(volume, dir, id, &mut entries, &mut stack, &mut found)?;
        if complete {
            observe_node(volume, &attr, Kind::Directory(entries), &mut found);
        }
    }
    Ok(found)
}

/// Entries of a directory; directories among them go to the stack. Is the listing complete?
fn list(
    volume: &Volume,
    dir: Ino,
    id: Id,
    entries: &mut BTreeMap<Vec<u8>, Id>,
    stack: &mut Vec<(Id, Ino)>,
    found: &mut Observed,
) -> Result<bool, String> {
    let mut cookie = 0;
    let mut complete = true;
    loop {
        let some = match volume.readdir(dir, cookie, 7) {
            Ok(some) => some,
            Err(error) => {
                found.errors.push((Lost::Directory(id), error));
                return Ok(false);
            }
        };
        let Some(last) = some.last() else { return Ok(complete) };
        cookie = last.cookie;
        for entry in some {
            if matches!(&entry.name[..], b"." | b"..") {
                continue;
            }
            let attr = match volume.lookup(dir, &entry.name) {
                Ok(attr) => attr,
                Err(error) => {
                    found.errors.push((Lost::Child(id), error));
                    complete = false;
                    continue;
                }
            };
            if attr.ino != entry.ino || u32::from(entry.kind) != attr.mode >> 12 {
                return Err(format!("a listing and a lookup of {:?} differ", String::from_utf8_lossy(&entry.name)));
            }
            if entries.insert(entry.name, attr.uid).is_some() {
                return Err("a listing names an entry twice".into());
            }
            match found.inos.insert(attr.uid, attr.ino) {
                Some(other) if other != attr.ino => return Err(format!("node {} is inodes {other} and {}", attr.uid, attr.ino)),
                Some(_) => continue,
                None => {}
            }
            match attr.mode & libc::S_IFMT {
                libc::S_IFDIR => stack.push((attr.uid, attr.ino)),
                libc::S_IFLNK => match volume.readlink(attr.ino) {
                    Ok(target) => observe_node(volume, &attr, Kind::Symlink(target), found),
                    Err(error) => found.errors.push((Lost::Attributes(attr.uid), error)),
                },
                _ => observe_node(volume, &attr, Kind::File { size: attr.size, blocks: BTreeMap::new() }, found),
            }
        }
    }
}

fn observe_node(volume: &Volume, attr: &Attr, kind: Kind, found: &mut Observed) {
    let (id, ino) = (attr.uid, attr.ino);
    let mut node =
        Node { mode: attr.mode & 0o7777, nlink: attr.nlink, mtime: attr.mtime.sec, ctime: attr.ctime.sec, xattrs: BTreeMap::new(), kind };
    match xattrs(volume, ino) {
        Ok(xattrs) => node.xattrs = xattrs,
        Err(error) => found.errors.push((Lost::Attributes(id), error)),
    }
    if let Kind::File { size, .. } = node.kind {
        let mut at = 0;
        while at < size {
            let len = (size - at).min(READ);
            match volume.read(ino, at, len as u32) {
                Ok(data) => node.put(at, &data),
                Err(_) => singly(volume, (id, ino), &mut node, at..at + len, &mut found.errors),
            }
            at += len;
        }
    }
    found.model.insert(id, node);
}

/// Reads block by block what cannot be read at once.
fn singly(volume: &Volume, of: (Id, Ino), node: &mut Node, range: std::ops::Range<u64>, errors: &mut Vec<(Lost, FsError)>) {
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(super::model::BLOCK);
        match volume.read(of.1, at, len as u32) {
            Ok(data) => node.put(at, &data),
            Err(error) => errors.push((Lost::Block(of.0, at / super::model::BLOCK), error)),
        }
        at += len;
    }
}

fn xattrs(volume: &Volume, ino: Ino) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, FsError> {
    let names = volume.listxattr(ino)?;
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| Ok((name.to_vec(), volume.getxattr(ino, name)?))).collect()
}
