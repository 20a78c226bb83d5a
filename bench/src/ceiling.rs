//! The ceiling: a naive filesystem in memory behind the same FUSE adaptor, options and threads as FerryFS.
//!
//! What it reaches is what FUSE itself costs; nothing behind this adaptor can be faster. It is also the partner of the
//! adaptor's own tests: everything in it is simple enough to be right at a glance. It keeps no journal, no checksum and
//! no promise.

use fs::fuse::control::Request;
use fs::fuse::{Served, WriteOptions};
use fs::volume::{Attr, Caller, DirEntry, RenameFlags, SetAttr, SetTime, StatFs};
use fs::{FsError, Ino, Result};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

type Timestamp = fs::format::item::Timestamp;

const CHUNK: usize = 256 << 10;
const MAX_SIZE: u64 = 16 << 40;

/// Contents of a file: chunks, absent ones are holes.
#[derive(Default)]
struct Bytes {
    chunks: BTreeMap<u64, Box<[u8]>>,
}

impl Bytes {
    fn read(&self, offset: u64, out: &mut [u8]) {
        self.pieces(offset, out.len(), |chunk, within, range| {
            if let Some(bytes) = self.chunks.get(&chunk) {
                let len = range.len();
                out[range].copy_from_slice(&bytes[within..within + len]);
            }
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let (chunk, within) = split(offset + at as u64);
            let len = (CHUNK - within).min(data.len() - at);
            let bytes = self.chunks.entry(chunk).or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
            bytes[within..within + len].copy_from_slice(&data[at..at + len]);
            at += len;
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let touched: Vec<u64> = self.chunks.range(split(offset).0..=split(end).0).map(|(chunk, _)| *chunk).collect();
        for chunk in touched {
            let start = chunk * CHUNK as u64;
            let from = offset.max(start);
            let to = end.min(start + CHUNK as u64);
            if from == start && to == start + CHUNK as u64 {
                self.chunks.remove(&chunk);
            } else if let Some(bytes) = self.chunks.get_mut(&chunk)
                && from < to
            {
                bytes[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    fn pieces(&self, offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
        let mut at = 0;
        while at < len {
            let (chunk, within) = split(offset + at as u64);
            let step = (CHUNK - within).min(len - at);
            each(chunk, within, at..at + step);
            at += step;
        }
    }
}

fn split(offset: u64) -> (u64, usize) {
    (offset / CHUNK as u64, (offset % CHUNK as u64) as usize)
}

/// Entries of a directory, in the order of their making: the cookie of an entry never changes.
#[derive(Default)]
struct Listing {
    by_name: HashMap<Vec<u8>, u64>,
    by_cookie: BTreeMap<u64, (Vec<u8>, Ino, u8)>,
    next: u64,
}

/// Cookies of `.` and `..` are 1 and 2.
const FIRST_COOKIE: u64 = 3;

impl Listing {
    fn get(&self, name: &[u8]) -> Option<Ino> {
        let cookie = self.by_name.get(name)?;
        self.by_cookie.get(cookie).map(|(_, ino, _)| *ino)
    }
    fn insert(&mut self, name: &[u8], ino: Ino, mode: u32) {
        let cookie = FIRST_COOKIE + self.next;
        self.next += 1;
        self.by_name.insert(name.to_vec(), cookie);
        self.by_cookie.insert(cookie, (name.to_vec(), ino, kind(mode)));
    }
    fn remove(&mut self, name: &[u8]) {
        if let Some(cookie) = self.by_name.remove(name) {
            self.by_cookie.remove(&cookie);
        }
    }
}

fn kind(mode: u32) -> u8 {
    ((mode & libc::S_IFMT) >> 12) as u8
}

enum Body {
    File(Bytes),
    Directory(Listing),
    Link(Vec<u8>),
    Special,
}

struct Node {
    attr: Attr,
    body: Body,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    opens: u64,
}

/// The filesystem.
pub struct Ceiling {
    nodes: RwLock<HashMap<Ino, Arc<RwLock<Node>>>>,
    next: AtomicU64,
    /// Changes of names are made one at a time.
    names: Mutex<()>,
    /// Requests to make something durable (tests want to see them).
    pub syncs: AtomicU64,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { sec: since.as_secs() as i64, nsec: since.subsec_nanos() }
}

impl Default for Ceiling {
    fn default() -> Self {
        let ceiling = Self { nodes: RwLock::default(), next: AtomicU64::new(2), names: Mutex::new(()), syncs: AtomicU64::new(0) };
        let root = ceiling.node(Ino::ROOT, Ino::ROOT, libc::S_IFDIR | 0o755, 0, &Caller::default(), Body::Directory(Listing::default()));
        ceiling.nodes.write().insert(Ino::ROOT, Arc::new(RwLock::new(root)));
        ceiling
    }
}

impl Ceiling {
    fn node(&self, ino: Ino, parent: Ino, mode: u32, rdev: u32, caller: &Caller, body: Body) -> Node {
        let time = now();
        let size = if let Body::Link(target) = &body { target.len() as u64 } else { 0 };
        let nlink = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        let (uid, gid) = (caller.uid, caller.gid);
        let attr = Attr {
            ino,
            size,
            blocks: 0,
            generation: 0,
            parent,
            entries: 0,
            mode,
            uid,
            gid,
            nlink,
            rdev,
            flags: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        };
        Node { attr, body, xattrs: BTreeMap::new(), opens: 0 }
    }

    fn get(&self, ino: Ino) -> Result<Arc<RwLock<Node>>> {
        self.nodes.read().get(&ino).cloned().ok_or(FsError::NotFound)
    }

    fn listing<T>(&self, dir: Ino, with: impl FnOnce(&Listing) -> Result<T>) -> Result<T> {
        let node = self.get(dir)?;
        let node = node.read();
        match &node.body {
            Body::Directory(listing) => with(listing),
            _ => Err(FsError::NotADirectory),
        }
    }

    fn change<T>(&self, dir: Ino, with: impl FnOnce(&mut Listing, &mut Attr) -> Result<T>) -> Result<T> {
        let node = self.get(dir)?;
        let mut node = node.write();
        let Node { attr, body, .. } = &mut *node;
        let Body::Directory(listing) = body else { return Err(FsError::NotADirectory) };
        let out = with(listing, attr)?;
        attr.entries = listing.by_name.len() as u64;
        attr.size = attr.entries * 32;
        attr.mtime = now();
        attr.ctime = attr.mtime;
        Ok(out)
    }

    fn make(&self, parent: Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller, body: Body) -> Result<Attr> {
        let _names = self.names.lock();
        let ino = Ino(self.next.fetch_add(1, Ordering::Relaxed));
        let mut node = self.node(ino, parent, mode, rdev, caller, body);
        self.change(parent, |listing, dir| {
            if listing.get(name).is_some() {
                return Err(FsError::Exists);
            }
            if dir.mode & libc::S_ISGID != 0 {
                node.attr.gid = dir.gid;
                node.attr.mode |= if node.attr.is_dir() { libc::S_ISGID } else { 0 };
            }
            dir.nlink += u32::from(node.attr.is_dir());
            listing.insert(name, ino, mode);
            Ok(())
        })?;
        let attr = node.attr.clone();
        self.nodes.write().insert(ino, Arc::new(RwLock::new(node)));
        Ok(attr)
    }

    /// One link less; a node without links that nobody has open goes.
    fn unlinked(&self, ino: Ino) -> Result<()> {
        let node = self.get(ino)?;
        let mut node = node.write();
        node.attr.nlink = if node.attr.is_dir() { 0 } else { node.attr.nlink.saturating_sub(1) };
        node.attr.ctime = now();
        Ok(())
    }

    fn drop_if_dead(&self, ino: Ino) {
        let dead = self.get(ino).is_ok_and(|node| {
            let node = node.read();
            node.attr.nlink == 0 && node.opens == 0
        });
        if dead {
            self.nodes.write().remove(&ino);
        }
    }

    fn file<T>(&self, ino: Ino, with: impl FnOnce(&mut Bytes, &mut Attr) -> Result<T>) -> Result<T> {
        let node = self.get(ino)?;
        let mut node = node.write();
        let Node { attr, body, .. } = &mut *node;
        match body {
            Body::File(bytes) => {
                let out = with(bytes, attr);
                attr.blocks = bytes.chunks.len() as u64 * (CHUNK / fs::BLOCK) as u64;
                out
            }
            Body::Directory(_) => Err(FsError::IsADirectory),
            _ => Err(FsError::Invalid("not a regular file")),
        }
    }

    fn resize(bytes: &mut Bytes, attr: &mut Attr, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(FsError::FileTooLarge);
        }
        if size < attr.size {
            bytes.zero(size, attr.size - size);
            bytes.chunks.split_off(&size.div_ceil(CHUNK as u64));
        }
        attr.size = size;
        attr.mtime = now();
        attr.ctime = attr.mtime;
        Ok(())
    }

    fn entry(&self, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        let ino = self.listing(parent, |listing| listing.get(name).ok_or(FsError::NotFound))?;
        Ok((ino, self.getattr(ino)?))
    }

    fn is_below(&self, mut dir: Ino, ancestor: Ino) -> Result<bool> {
        while dir != Ino::ROOT {
            if dir == ancestor {
                return Ok(true);
            }
            dir = self.getattr(dir)?.parent;
        }
        Ok(ancestor == Ino::ROOT)
    }

    fn exchange(&self, from: (Ino, &[u8], &Attr), to: (Ino, &[u8], &Attr)) -> Result<()> {
        for (dir, name, old, new) in [(from.0, from.1, from.2, to.2), (to.0, to.1, to.2, from.2)] {
            self.change(dir, |listing, attr| {
                listing.remove(name);
                listing.insert(name, new.ino, new.mode);
                attr.nlink = attr.nlink + u32::from(new.is_dir()) - u32::from(old.is_dir());
                Ok(())
            })?;
            let node = self.get(new.ino)?;
            let mut node = node.write();
            node.attr.parent = dir;
            node.attr.ctime = now();
        }
        Ok(())
    }
}

impl Served for Ceiling {
    type Data = Vec<u8>;

    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.entry(parent, name).map(|(_, attr)| attr)
    }
    fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.get(ino)?.read().attr.clone())
    }
    fn setattr(&self, ino: Ino, change: &SetAttr) -> Result<Attr> {
        if let Some(size) = change.size {
            self.file(ino, |bytes, attr| Self::resize(bytes, attr, size))?;
        }
        let node = self.get(ino)?;
        let mut node = node.write();
        let attr = &mut node.attr;
        let time = now();
        if change.uid.is_some() || change.gid.is_some() || change.kill_suid {
            fs::core::ops::clear_privileges(attr);
            attr.mode &= if change.kill_sgid && !attr.is_dir() { !libc::S_ISGID } else { !0 };
        }
        let at = |t: SetTime| match t {
            SetTime::Now => time,
            SetTime::At(t) => t,
        };
        attr.mode = change.mode.map_or(attr.mode, |mode| attr.kind() | mode & 0o7777);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.atime = change.atime.map_or(attr.atime, at);
        attr.mtime = change.mtime.map_or(attr.mtime, at);
        attr.ctime = change.ctime.unwrap_or(time);
        Ok(attr.clone())
    }
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.get(ino)?.read().body {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(FsError::Invalid("not a symbolic link")),
        }
    }
    fn mknod(&self, parent: Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> Result<Attr> {
        let body = if mode & libc::S_IFMT == libc::S_IFREG { Body::File(Bytes::default()) } else { Body::Special };
        self.make(parent, name, mode, rdev, caller, body)
    }
    fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: &Caller) -> Result<Attr> {
        self.make(parent, name, libc::S_IFDIR | mode & 0o7777, 0, caller, Body::Directory(Listing::default()))
    }
    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr> {
        self.make(parent, name, libc::S_IFLNK | 0o777, 0, caller, Body::Link(target.to_vec()))
    }
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let _names = self.names.lock();
        let attr = self.getattr(ino)?;
        self.change(parent, |listing, _| {
            if listing.get(name).is_some() {
                return Err(FsError::Exists);
            }
            listing.insert(name, ino, attr.mode);
            Ok(())
        })?;
        let node = self.get(ino)?;
        let mut node = node.write();
        node.attr.nlink += 1;
        node.attr.ctime = now();
        Ok(node.attr.clone())
    }
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let _names = self.names.lock();
        let (ino, attr) = self.entry(parent, name)?;
        if attr.is_dir() {
            return Err(FsError::IsADirectory);
        }
        self.change(parent, |listing, _| {
            listing.remove(name);
            Ok(())
        })?;
        self.unlinked(ino)
    }
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let _names = self.names.lock();
        let (ino, attr) = self.entry(parent, name)?;
        if !attr.is_dir() {
            return Err(FsError::NotADirectory);
        }
        if attr.entries > 0 {
            return Err(FsError::NotEmpty);
        }
        self.change(parent, |listing, dir| {
            listing.remove(name);
            dir.nlink -= 1;
            Ok(())
        })?;
        self.unlinked(ino)
    }
    fn rename(&self, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        let _names = self.names.lock();
        if flags.whiteout {
            return Err(FsError::Invalid("whiteouts are not supported"));
        }
        let (ino, attr) = self.entry(parent, name)?;
        let target = match self.entry(new_parent, new_name) {
            Ok((_, target)) => Some(target),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if attr.is_dir() && self.is_below(new_parent, ino)? {
            return Err(FsError::Invalid("a directory cannot move into itself"));
        }
        if flags.exchange {
            let target = target.ok_or(FsError::NotFound)?;
            return self.exchange((parent, name, &attr), (new_parent, new_name, &target));
        }
        if let Some(target) = &target {
            if flags.no_replace {
                return Err(FsError::Exists);
            }
            match (attr.is_dir(), target.is_dir()) {
                _ if target.ino == ino => return Ok(()),
                (true, false) => return Err(FsError::NotADirectory),
                (false, true) => return Err(FsError::IsADirectory),
                (true, true) if target.entries > 0 => return Err(FsError::NotEmpty),
                _ => {}
            }
        }
        self.change(parent, |listing, dir| {
            listing.remove(name);
            dir.nlink -= u32::from(attr.is_dir());
            Ok(())
        })?;
        self.change(new_parent, |listing, dir| {
            listing.remove(new_name);
            listing.insert(new_name, ino, attr.mode);
            dir.nlink += u32::from(attr.is_dir() && target.is_none());
            Ok(())
        })?;
        {
            let node = self.get(ino)?;
            let mut node = node.write();
            node.attr.parent = new_parent;
            node.attr.ctime = now();
        }
        target.map_or(Ok(()), |target| self.unlinked(target.ino))
    }
    fn readdir(&self, dir: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        let parent = self.getattr(dir)?.parent;
        self.listing(dir, |listing| {
            let dots = [(dir, 1, &b"."[..]), (parent, 2, &b".."[..])]
                .into_iter()
                .filter(|(_, at, _)| *at > cookie)
                .map(|(ino, cookie, name)| DirEntry { ino, kind: libc::DT_DIR, cookie, name: name.to_vec() });
            let rest = listing.by_cookie.range(cookie + 1..).map(|(cookie, (name, ino, kind))| DirEntry {
                ino: *ino,
                kind: *kind,
                cookie: *cookie,
                name: name.clone(),
            });
            Ok(dots.chain(rest).take(max).collect())
        })
    }
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.get(ino)?.read().xattrs.get(name).cloned().ok_or(FsError::NoAttribute)
    }
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let node = self.get(ino)?;
        let mut node = node.write();
        let there = node.xattrs.contains_key(name);
        if flags & libc::XATTR_CREATE != 0 && there {
            return Err(FsError::Exists);
        }
        if flags & libc::XATTR_REPLACE != 0 && !there {
            return Err(FsError::NoAttribute);
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.attr.ctime = now();
        Ok(())
    }
    fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.get(ino)?;
        let node = node.read();
        Ok(node.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect())
    }
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let node = self.get(ino)?;
        let mut node = node.write();
        node.attr.ctime = now();
        node.xattrs.remove(name).map(|_| ()).ok_or(FsError::NoAttribute)
    }
    fn open(&self, ino: Ino) -> Result<()> {
        self.get(ino)?.write().opens += 1;
        Ok(())
    }
    fn release(&self, ino: Ino) {
        if let Ok(node) = self.get(ino) {
            let mut node = node.write();
            node.opens = node.opens.saturating_sub(1);
        }
        self.drop_if_dead(ino);
    }
    fn forget(&self, ino: Ino) {
        self.drop_if_dead(ino);
    }
    fn statfs(&self) -> Result<StatFs> {
        let files = self.nodes.read().len() as u64;
        let blocks = (16 << 30) / fs::BLOCK as u64;
        Ok(StatFs { blocks, free: blocks, available: blocks, files: files + (1 << 32), files_free: 1 << 32 })
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Vec<u8>> {
        let node = self.get(ino)?;
        let node = node.read();
        let Body::File(bytes) = &node.body else { return Err(FsError::Invalid("not a regular file")) };
        let len = u64::from(len).min(node.attr.size.saturating_sub(offset)) as usize;
        let mut out = vec![0; len];
        bytes.read(offset, &mut out);
        Ok(out)
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8], options: &WriteOptions) -> Result<usize> {
        if options.sync {
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.file(ino, |bytes, attr| {
            let offset = if options.append { attr.size } else { offset };
            let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_SIZE).ok_or(FsError::FileTooLarge)?;
            bytes.write(offset, data);
            attr.size = attr.size.max(end);
            attr.mtime = now();
            attr.ctime = attr.mtime;
            if options.kill_suid {
                fs::core::ops::clear_privileges(attr);
            }
            Ok(data.len())
        })
    }
    fn flush(&self, _ino: Ino) -> Result<()> {
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn fallocate(&self, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.file(ino, |bytes, attr| {
            if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
                bytes.zero(offset, len);
            }
            if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
                attr.size = attr.size.max(offset + len);
            }
            Ok(())
        })
    }
    fn seek(&self, ino: Ino, offset: u64, whence: i32) -> Result<u64> {
        self.file(ino, |bytes, attr| {
            if offset >= attr.size {
                return Err(FsError::NoSuchOffset);
            }
            let (first, _) = split(offset);
            if whence == libc::SEEK_DATA {
                let chunk = bytes.chunks.range(first..).next().map(|(chunk, _)| chunk * CHUNK as u64).ok_or(FsError::NoSuchOffset)?;
                Some(chunk.max(offset)).filter(|at| *at < attr.size).ok_or(FsError::NoSuchOffset)
            } else {
                let hole = (first..).find(|chunk| !bytes.chunks.contains_key(chunk)).unwrap_or(first);
                Ok((hole * CHUNK as u64).max(offset).min(attr.size))
            }
        })
    }
    fn copy_file_range(&self, from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64) -> Result<u64> {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(64 << 20);
        let data = self.read(from, from_offset, len)?;
        Ok(self.write(to, to_offset, &data, &WriteOptions::default())? as u64)
    }
    fn control(&self, ino: Ino, request: &Request) -> Result<serde_json::Value> {
        match request {
            // Long enough that it takes several pieces to fetch.
            Request::Zones => Ok(serde_json::Value::from((0..5000).collect::<Vec<u32>>())),
            Request::Map => Ok(serde_json::json!({ "ino": ino.0 })),
            Request::Status
            | Request::Gc { .. }
            | Request::Scrub { .. }
            | Request::Sync
            | Request::Atimes(_)
            | Request::Hello
            | Request::Wait => Ok(serde_json::json!({})),
        }
    }
}
