//! A file that remembers every write and every flush it was given, through a mount of its own: what a live daemon does to its backing, seen from outside.
//!
//! A write counts as completed when its caller was told so, which takes a moment here; a flush covers what was completed when it began. So a daemon that
//! flushes beside writes which are still under way, or acknowledges before its flush is over, promises what [`Log::after_power_cut`] does not have.

use fs::format::item::{Inode, Timestamp};
use fs::fuse::control::Request;
use fs::fuse::{AdaptorOptions, MountRequest, Mounted, Served, WriteOptions};
use fs::volume::{Attr, Caller, DirEntry, RenameFlags, SetAttr, StatFs};
use fs::{FsError, Ino, Result};
use harness::content::Dice;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const FILE: Ino = Ino(2);
const NAME: &[u8] = b"image";
/// What the caller of a write waits for after the bytes are there.
const MOMENT: Duration = Duration::from_micros(150);
const PAGE: u64 = 4096;

#[derive(Clone, Debug)]
enum Deed {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    Hole {
        offset: u64,
        len: u64,
    },
    /// All deeds before that one are durable.
    Flush {
        covers: usize,
    },
}

/// How the recorder lies, to prove that whoever looks for lost writes finds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It does not.
    #[default]
    None,
    /// Flushes report success and make nothing durable.
    FlushesDropped,
}

/// What was done to the file, in the order in which it was acknowledged.
#[derive(Clone, Debug)]
pub struct Log {
    base: Arc<Vec<u8>>,
    deeds: Vec<Deed>,
}

impl Log {
    /// Deeds so far.
    pub fn len(&self) -> usize {
        self.deeds.len()
    }

    /// Was nothing done?
    pub fn is_empty(&self) -> bool {
        self.deeds.is_empty()
    }

    /// Flushes so far.
    pub fn flushes(&self) -> usize {
        self.deeds.iter().filter(|deed| matches!(deed, Deed::Flush { .. })).count()
    }

    /// The file as it may be if power goes after the first `len` deeds: all that was flushed, and what chance (none: nothing) keeps of the rest, in pages.
    pub fn after_power_cut(&self, len: usize, mut chance: Option<Dice>) -> Vec<u8> {
        let covers = |deed: &Deed| if let Deed::Flush { covers } = deed { *covers } else { 0 };
        let durable = self.deeds[..len].iter().map(covers).max().unwrap_or(0);
        let mut file = self.base.to_vec();
        for (at, deed) in self.deeds[..len].iter().enumerate() {
            let mut keeps = || at < durable || chance.as_mut().is_some_and(|dice| dice.below(2) == 0);
            match deed {
                Deed::Write { offset, data } => {
                    let mut done = 0;
                    while done < data.len() {
                        let at = *offset + done as u64;
                        let step = ((PAGE - at % PAGE) as usize).min(data.len() - done);
                        if keeps() {
                            file[at as usize..at as usize + step].copy_from_slice(&data[done..done + step]);
                        }
                        done += step;
                    }
                }
                Deed::Hole { offset, len } if keeps() => file[*offset as usize..(offset + len) as usize].fill(0),
                Deed::Hole { .. } | Deed::Flush { .. } => {}
            }
        }
        file
    }
}

struct State {
    now: Vec<u8>,
    base: Arc<Vec<u8>>,
    deeds: Vec<Deed>,
}

struct OneFile {
    state: Mutex<State>,
    lie: Lie,
}

impl OneFile {
    fn attr(&self, ino: Ino) -> Result<Attr> {
        let size = self.state.lock().now.len() as u64;
        let time = Timestamp { sec: 1_700_000_000, nsec: 0 };
        match ino {
            Ino::ROOT => Ok(Inode::empty(ino, libc::S_IFDIR | 0o755, time)),
            FILE => Ok(Inode { size, blocks: size / PAGE, ..Inode::empty(ino, libc::S_IFREG | 0o600, time) }),
            _ => Err(FsError::NotFound),
        }
    }

    fn range(&self, offset: u64, len: u64) -> Result<std::ops::Range<usize>> {
        let size = self.state.lock().now.len() as u64;
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(offset as usize..end as usize),
            _ => Err(FsError::NoSpace),
        }
    }

    fn flushed(&self) {
        let covers = match self.lie {
            Lie::None => self.state.lock().deeds.len(),
            Lie::FlushesDropped => 0,
        };
        std::thread::sleep(MOMENT);
        self.state.lock().deeds.push(Deed::Flush { covers });
    }
}

const NOTHING_ELSE: FsError = FsError::Unsupported("anything but one file");

impl Served for OneFile {
    type Data = Vec<u8>;

    fn lookup(&self, _parent: Ino, name: &[u8]) -> Result<Attr> {
        if name == NAME { self.attr(FILE) } else { Err(FsError::NotFound) }
    }
    fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.attr(ino)
    }
    fn setattr(&self, ino: Ino, change: &SetAttr) -> Result<Attr> {
        let attr = self.attr(ino)?;
        if change.size.is_some_and(|size| size != attr.size) { Err(NOTHING_ELSE) } else { Ok(attr) }
    }
    fn readlink(&self, _ino: Ino) -> Result<Vec<u8>> {
        Err(NOTHING_ELSE)
    }
    fn mknod(&self, _parent: Ino, _name: &[u8], _mode: u32, _rdev: u32, _caller: &Caller) -> Result<Attr> {
        Err(NOTHING_ELSE)
    }
    fn mkdir(&self, _parent: Ino, _name: &[u8], _mode: u32, _caller: &Caller) -> Result<Attr> {
        Err(NOTHING_ELSE)
    }
    fn symlink(&self, _parent: Ino, _name: &[u8], _target: &[u8], _caller: &Caller) -> Result<Attr> {
        Err(NOTHING_ELSE)
    }
    fn link(&self, _ino: Ino, _parent: Ino, _name: &[u8]) -> Result<Attr> {
        Err(NOTHING_ELSE)
    }
    fn unlink(&self, _parent: Ino, _name: &[u8]) -> Result<()> {
        Err(NOTHING_ELSE)
    }
    fn rmdir(&self, _parent: Ino, _name: &[u8]) -> Result<()> {
        Err(NOTHING_ELSE)
    }
    fn rename(&self, _parent: Ino, _name: &[u8], _new_parent: Ino, _new_name: &[u8], _flags: RenameFlags) -> Result<()> {
        Err(NOTHING_ELSE)
    }
    fn readdir(&self, _dir: Ino, cookie: u64, _max: usize) -> Result<Vec<DirEntry>> {
        let all = [(Ino::ROOT, libc::DT_DIR, &b"."[..]), (Ino::ROOT, libc::DT_DIR, b".."), (FILE, libc::DT_REG, NAME)];
        let entry = |(n, (ino, kind, name)): (u64, (Ino, u8, &[u8]))| DirEntry { ino, kind, cookie: n, name: name.to_vec() };
        Ok((1..).zip(all).map(entry).filter(|entry| entry.cookie > cookie).collect())
    }
    fn getxattr(&self, _ino: Ino, _name: &[u8]) -> Result<Vec<u8>> {
        Err(NOTHING_ELSE)
    }
    fn setxattr(&self, _ino: Ino, _name: &[u8], _value: &[u8], _flags: i32) -> Result<()> {
        Err(NOTHING_ELSE)
    }
    fn listxattr(&self, _ino: Ino) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn removexattr(&self, _ino: Ino, _name: &[u8]) -> Result<()> {
        Err(NOTHING_ELSE)
    }
    fn open(&self, _ino: Ino) -> Result<()> {
        Ok(())
    }
    fn release(&self, _ino: Ino) {}
    fn forget(&self, _ino: Ino) {}
    fn statfs(&self) -> Result<StatFs> {
        let blocks = self.state.lock().now.len() as u64 / PAGE;
        Ok(StatFs { blocks, free: blocks, available: blocks, files: 2, files_free: 0 })
    }
    fn read(&self, _ino: Ino, offset: u64, len: u32) -> Result<Vec<u8>> {
        let state = self.state.lock();
        let end = (offset + u64::from(len)).min(state.now.len() as u64);
        Ok(state.now.get(offset as usize..end as usize).unwrap_or_default().to_vec())
    }
    fn write(&self, _ino: Ino, offset: u64, data: &[u8], options: &WriteOptions) -> Result<usize> {
        let range = self.range(offset, data.len() as u64)?;
        self.state.lock().now[range].copy_from_slice(data);
        std::thread::sleep(MOMENT);
        self.state.lock().deeds.push(Deed::Write { offset, data: data.into() });
        if options.sync {
            self.flushed();
        }
        Ok(data.len())
    }
    fn flush(&self, _ino: Ino) -> Result<()> {
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        self.flushed();
        Ok(())
    }
    fn fallocate(&self, _ino: Ino, mode: i32, offset: u64, len: u64) -> Result<()> {
        if mode != libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE {
            return Err(NOTHING_ELSE);
        }
        let size = self.state.lock().now.len() as u64;
        let len = len.min(size.saturating_sub(offset));
        let range = self.range(offset, len)?;
        self.state.lock().now[range].fill(0);
        std::thread::sleep(MOMENT);
        self.state.lock().deeds.push(Deed::Hole { offset, len });
        Ok(())
    }
    fn seek(&self, _ino: Ino, _offset: u64, _whence: i32) -> Result<u64> {
        Err(NOTHING_ELSE)
    }
    fn copy_file_range(&self, _from: Ino, _from_offset: u64, _to: Ino, _to_offset: u64, _len: u64) -> Result<u64> {
        Err(NOTHING_ELSE)
    }
    fn control(&self, _ino: Ino, _request: &Request) -> Result<serde_json::Value> {
        Err(NOTHING_ELSE)
    }
}

/// The mount of a recorded file; gone with this.
pub struct Recorder {
    file: Arc<OneFile>,
    mounted: Option<Mounted>,
    directory: TempDir,
}

impl Recorder {
    /// A file that holds `base`.
    ///
    /// # Panics
    /// Where nothing can be mounted: ask [`crate::skip::no_mounts`] first.
    pub fn new(base: Vec<u8>, lie: Lie) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let state = State { now: base.clone(), base: Arc::new(base), deeds: Vec::new() };
        let file = Arc::new(OneFile { state: Mutex::new(state), lie });
        let request = MountRequest {
            mountpoint: directory.path().canonicalize().expect("it exists"),
            source: "recorder".into(),
            allow_other: rustix::process::geteuid().is_root(),
            ..MountRequest::default()
        };
        let mounted = Mounted::start(file.clone(), &request, AdaptorOptions::default()).expect("the recorder is mounted");
        Self { file, mounted: Some(mounted), directory }
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(Path::new("image"))
    }

    /// What it holds now is what was always there.
    pub fn begin(&self) {
        let mut state = self.file.state.lock();
        state.base = Arc::new(state.now.clone());
        state.deeds.clear();
    }

    /// Deeds so far.
    pub fn len(&self) -> usize {
        self.file.state.lock().deeds.len()
    }

    /// Was nothing done?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that was done.
    pub fn log(&self) -> Log {
        let state = self.file.state.lock();
        Log { base: state.base.clone(), deeds: state.deeds.clone() }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let _ = mounted.unmount(true);
            let _ = mounted.wait();
        }
    }
}
