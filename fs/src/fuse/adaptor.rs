//! Requests of the kernel, one method each: translate, ask the filesystem, translate back.
//!
//! What is decided here is only what belongs to FUSE: which capabilities are negotiated, how long the kernel may
//! remember an answer, what may wait on which thread. Where fuser 0.18.0 is known to be wrong, the place says so.

use super::answers::Answers;
use super::control::{self, Header, Request as ControlRequest};
use super::errno;
use super::fileattr;
use super::groups::may_keep_setgid;
use super::lanes::Lanes;
use super::served::{Served, WriteOptions};
use super::translate::{entry_type, file_attr, from_system_time, no_attr, rename_flags, set_time};
use crate::core::ops::flags::{check_grows, check_loose};
use crate::error::{FsError, Result};
use crate::ids::Ino;
use crate::volume::{Attr, Caller, SetAttr};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How long the kernel may remember names (also that there is none) and attributes.
///
/// For as long as it likes: this mount is the only writer, every change comes through this kernel, and the kernel adjusts
/// or drops what it remembers as part of each call (write, truncate, fallocate, copy_file_range, rename, ...). The same
/// holds for names that do not exist: nothing can create one behind the kernel's back. So a compiler that looks for a
/// header in twenty directories asks us once.
const REMEMBER: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest name of a directory entry.
const NAME_MAX: usize = 255;

/// Entries asked for at a time while a listing is filled: what fits into one page of it.
const READDIR_BATCH: usize = 128;
const READDIRPLUS_BATCH: usize = 24;

/// What the adaptor must know of the session that it serves.
#[derive(Clone, Copy, Debug)]
pub struct AdaptorOptions {
    /// Threads of the session.
    pub threads: usize,
    /// Largest write in one request.
    pub max_write: u32,
}

impl Default for AdaptorOptions {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        // The kernel cuts requests at 1 MiB (fs.fuse.max_pages_limit) unless told otherwise.
        Self { threads: cpus.clamp(2, 8), max_write: 1 << 20 }
    }
}

/// A [`Served`] filesystem as fuser wants one.
pub struct Adaptor<S> {
    state: Arc<State<S>>,
}

/// What requests share.
struct State<S> {
    served: Arc<S>,
    options: AdaptorOptions,
    lanes: Lanes,
    next_handle: AtomicU64,
    answers: Answers,
    panicked: AtomicBool,
    alarms: AtomicU64,
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask: 0 }
}

fn creator(request: &Request, umask: u32) -> Caller {
    Caller { umask, ..caller(request) }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn name_bytes(name: &OsStr) -> Result<&[u8]> {
    let name = name.as_bytes();
    if name.len() > NAME_MAX { Err(FsError::NameTooLong) } else { Ok(name) }
}

fn attr_of(attr: &Attr) -> Result<FileAttr> {
    file_attr(attr).ok_or(FsError::Internal("an inode of no known type"))
}

fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation)
}

impl<S: Served> Adaptor<S> {
    /// An adaptor before `served`.
    pub fn new(served: Arc<S>, options: AdaptorOptions) -> Self {
        let state = State {
            served,
            options,
            lanes: Lanes::new(options.threads),
            next_handle: AtomicU64::new(1),
            answers: Answers::default(),
            panicked: AtomicBool::new(false),
            alarms: AtomicU64::new(0),
        };
        Self { state: Arc::new(state) }
    }

    /// Runs one operation; see [`State::call`].
    fn call<T>(&self, what: &'static str, node: INodeNo, operation: impl FnOnce(&S) -> Result<T>) -> std::result::Result<T, Errno> {
        self.state.call(what, ino(node), operation)
    }

    /// A handle for an open file. It names nothing of ours but an answer that may wait to be fetched: reads and writes
    /// go by inode.
    fn handle(&self) -> FileHandle {
        FileHandle(self.state.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    fn reply_entry(&self, what: &'static str, node: INodeNo, reply: ReplyEntry, operation: impl FnOnce(&S) -> Result<Attr>) {
        match self.call(what, node, |s| operation(s).and_then(|attr| Ok((attr_of(&attr)?, generation(&attr))))) {
            Ok((attr, generation)) => reply.entry(&REMEMBER, &attr, generation),
            Err(error) => reply.error(error),
        }
    }

    fn reply_empty(&self, what: &'static str, node: INodeNo, reply: ReplyEmpty, operation: impl FnOnce(&S) -> Result<()>) {
        match self.call(what, node, operation) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn reply_xattr(&self, what: &'static str, node: INodeNo, size: u32, reply: ReplyXattr, operation: impl FnOnce(&S) -> Result<Vec<u8>>) {
        match self.call(what, node, operation) {
            Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(error) => reply.error(error),
        }
    }

    /// Keep what the kernel has of the file: nobody changes it but through this kernel. And closing a file is nothing to
    /// tell us of: what was written was accepted for good, and what goes wrong with it later only fsync can report.
    const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
}

impl<S: Served> State<S> {
    /// Runs one operation of the filesystem. An error becomes its errno; a panic becomes EIO and the mount lives on.
    fn call<T>(&self, what: &'static str, node: Ino, operation: impl FnOnce(&S) -> Result<T>) -> std::result::Result<T, Errno> {
        match catch_unwind(AssertUnwindSafe(|| operation(&self.served))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if errno::is_alarming(&error) {
                    self.alarm(what, node, &error);
                }
                Err(Errno::from_i32(errno::errno(&error)))
            }
            Err(_) => {
                if !self.panicked.swap(true, Ordering::Relaxed) {
                    tracing::error!("{what} on inode {node} panicked: this is a bug; the operation fails with EIO and the mount goes on");
                }
                Err(Errno::EIO)
            }
        }
    }

    /// Says what failed, but not a million times.
    fn alarm(&self, what: &'static str, node: Ino, error: &FsError) {
        let count = self.alarms.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= 100 || count.is_power_of_two() {
            tracing::error!("{what} on inode {node}: {error} (failure number {count} of this mount)");
        }
    }
}

impl<S: Served> Filesystem for Adaptor<S> {
    /// Negotiates. Not asked for, with the reason:
    ///
    /// * POSIX_LOCKS, FLOCK_LOCKS: all lockers of a file share this kernel, which then keeps the locks itself, rightly
    ///   and without asking us.
    /// * SETXATTR_EXT: makes fuser 0.18.0 misread the request and panic.
    /// * ATOMIC_O_TRUNC: the reply to an open carries no attributes, so the kernel would go on believing in the set-id bits
    ///   that a truncation takes away. Without it the kernel truncates by a setattr of its own.
    /// * HANDLE_KILLPRIV: the kernel asks for `security.capability` before every single write, with or without it.
    /// * AUTO_INVAL_DATA: it throws cached pages away when the mtime is not what the kernel expects, which is after each
    ///   of our own writes; EXPLICIT_INVAL_DATA is its opposite.
    /// * WRITEBACK_CACHE: makes stat after create five times slower.
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_EXPORT_SUPPORT,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            // An old kernel lacks some; none is needed for correctness.
            let _ = config.add_capabilities(wanted);
        }
        // With it the kernel remembers that a file has nothing to lose, and a write is one request instead of two.
        // Without it the kernel clears set-id bits itself. See `lost_privileges`.
        let _ = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
        // The kernel enforces access control lists and we keep and inherit them: so the umask is ours to apply, too.
        if S::HAS_ACLS && config.add_capabilities(InitFlags::FUSE_DONT_MASK).is_ok() {
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        }
        let _ = config.set_max_write(self.state.options.max_write);
        // As much as the kernel offers (128 KiB); whoever mounts as root raises it afterwards through sysfs.
        if let Err(most) = config.set_max_readahead(self.state.options.max_write) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(64);
        let _ = config.set_congestion_threshold(48);
        Ok(())
    }

    fn destroy(&mut self) {
        self.state.lanes.drain();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.call("lookup", parent, |s| {
            let name = name_bytes(name)?;
            // A file server asks for "." and ".." of an inode that the kernel has forgotten.
            let attr = match name {
                b"." => s.getattr(ino(parent)),
                b".." => s.getattr(ino(parent)).and_then(|attr| s.getattr(attr.parent)),
                name => s.lookup(ino(parent), name),
            };
            match attr {
                Ok(attr) => Ok(Some((attr_of(&attr)?, generation(&attr)))),
                Err(FsError::NotFound) => Ok(None),
                Err(error) => Err(error),
            }
        });
        match found {
            Ok(Some((attr, generation))) => reply.entry(&REMEMBER, &attr, generation),
            Ok(None) => reply.entry(&REMEMBER, &no_attr(), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    /// Lookups are not counted: a count per inode would be memory that grows with the number of files. The kernel sends
    /// one forget when it drops an inode; only an inode without links and without an open file is freed by it. Should a
    /// forget overtake a lookup of the same inode that was answered before the last link went, the loser is a file that
    /// has no name and is not open: its next use finds nothing, as if it had come a moment later.
    fn forget(&self, _request: &Request, node: INodeNo, _lookups: u64) {
        let _ = self.call("forget", node, |s| {
            s.forget(ino(node));
            Ok(())
        });
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.call("getattr", node, |s| attr_of(&s.getattr(ino(node))?)) {
            Ok(attr) => reply.attr(&REMEMBER, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut change =
            SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time), ctime: ctime.map(from_system_time) };
        let changed = self.call("setattr", node, |s| {
            if change == SetAttr::default() {
                let attr = s.getattr(ino(node))?;
                change.mode = lost_privileges(&attr);
                if change.mode.is_none() {
                    return attr_of(&attr);
                }
            }
            attr_of(&s.setattr(ino(node), &change, &caller(request))?)
        });
        match changed {
            Ok(attr) => reply.attr(&REMEMBER, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.call("readlink", node, |s| s.readlink(ino(node))) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        self.reply_entry("mknod", parent, reply, |s| s.mknod(ino(parent), name_bytes(name)?, mode, rdev, &creator(request, umask)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.reply_entry("mkdir", parent, reply, |s| s.mkdir(ino(parent), name_bytes(name)?, mode, &creator(request, umask)));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.reply_empty("unlink", parent, reply, |s| s.unlink(ino(parent), name_bytes(name)?));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.reply_empty("rmdir", parent, reply, |s| s.rmdir(ino(parent), name_bytes(name)?));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        self.reply_entry("symlink", parent, reply, |s| s.symlink(ino(parent), name_bytes(name)?, target, &caller(request)));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.reply_empty("rename", parent, reply, |s| {
            let flags = rename_flags(flags).ok_or(FsError::Invalid("unknown rename flags"))?;
            s.rename(ino(parent), name_bytes(name)?, ino(new_parent), name_bytes(new_name)?, flags)
        });
    }

    fn link(&self, _request: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.reply_entry("link", node, reply, |s| s.link(ino(node), ino(parent), name_bytes(name)?));
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let opened = self.call("open", node, |s| {
            if truncate || flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
                check_open(&s.getattr(ino(node))?, flags.0)?;
            }
            s.open(ino(node), truncate)
        });
        match opened {
            Ok(()) => reply.opened(self.handle(), Self::OPENED),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let created = self.call("create", parent, |s| {
            let name = name_bytes(name)?;
            let attr = match s.mknod(ino(parent), name, libc::S_IFREG | mode & 0o7777, 0, &creator(request, umask)) {
                // Somebody was faster, and the caller does not insist on being first.
                Err(FsError::Exists) if flags & libc::O_EXCL == 0 => {
                    let attr = s.lookup(ino(parent), name)?;
                    if !attr.is_file() {
                        return Err(FsError::Exists);
                    }
                    s.open(attr.ino, flags & libc::O_TRUNC != 0)?;
                    s.getattr(attr.ino)?
                }
                Err(error) => return Err(error),
                Ok(attr) => {
                    s.open(attr.ino, false)?;
                    attr
                }
            };
            Ok((attr_of(&attr)?, generation(&attr)))
        });
        match created {
            Ok((attr, generation)) => reply.created(&REMEMBER, &attr, generation, self.handle(), Self::OPENED),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.call("read", node, |s| s.read(ino(node), offset, size)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let options = WriteOptions {
            // O_SYNC contains the bit of O_DSYNC. Recent kernels send an fsync behind such a write, older ones do not;
            // the second request finds nothing left to do.
            sync: flags.0 & libc::O_DSYNC != 0,
            kill_suid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            // The kernel holds the inode's lock and knows the size: it has already chosen the offset.
            append: false,
        };
        match self.call("write", node, |s| s.write(ino(node), offset, data, &options)) {
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _request: &Request, node: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.reply_empty("flush", node, reply, |s| s.flush(ino(node)));
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.state.answers.closed(handle);
        self.reply_empty("release", node, reply, |s| {
            s.release(ino(node));
            Ok(())
        });
    }

    fn fsync(&self, _request: &Request, node: INodeNo, _handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let state = self.state.clone();
        self.state.lanes.run(move || match state.call("fsync", ino(node), |s| s.fsync(ino(node), data_only)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        });
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel's own cache of listings is not used: when a directory changes under a reader it starts over by
        // position, and an entry may be missed.
        reply.opened(self.handle(), FopenFlags::empty());
    }

    fn readdir(&self, _request: &Request, node: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let filled = self.call("readdir", node, |s| {
            let mut cookie = offset;
            loop {
                let entries = s.readdir(ino(node), cookie, READDIR_BATCH)?;
                for entry in &entries {
                    let kind = entry_type(entry.kind).ok_or(FsError::Internal("a directory entry of no known type"))?;
                    if reply.add(INodeNo(entry.ino.0), entry.cookie, kind, OsStr::from_bytes(&entry.name)) {
                        return Ok(());
                    }
                    cookie = entry.cookie;
                }
                if entries.len() < READDIR_BATCH {
                    return Ok(());
                }
            }
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(&self, _request: &Request, node: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let filled = self.call("readdirplus", node, |s| {
            let mut cookie = offset;
            loop {
                let entries = s.readdir(ino(node), cookie, READDIRPLUS_BATCH)?;
                for entry in &entries {
                    cookie = entry.cookie;
                    let found = s.getattr(entry.ino).and_then(|attr| Ok((attr_of(&attr)?, generation(&attr))));
                    let (file, generation, remember) = match found {
                        Ok((file, generation)) => (file, generation, REMEMBER),
                        // Removed since the listing was read.
                        Err(FsError::NotFound) => continue,
                        // A damaged inode must not hide its neighbours: it is listed by name, and whoever looks closer
                        // asks again and gets the error.
                        Err(_) => {
                            let Some(kind) = entry_type(entry.kind) else { continue };
                            let unknown = FileAttr { ino: INodeNo(entry.ino.0), kind, nlink: 1, blksize: crate::BLOCK as u32, ..no_attr() };
                            (unknown, Generation(0), Duration::ZERO)
                        }
                    };
                    if reply.add(file.ino, entry.cookie, OsStr::from_bytes(&entry.name), &remember, &file, generation) {
                        return Ok(());
                    }
                }
                if entries.len() < READDIRPLUS_BATCH {
                    return Ok(());
                }
            }
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.state.answers.closed(handle);
        reply.ok();
    }

    fn fsyncdir(&self, request: &Request, node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.fsync(request, node, handle, data_only, reply);
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let block = crate::BLOCK as u32;
        match self.call("statfs", node, |s| s.statfs()) {
            Ok(s) => reply.statfs(s.blocks, s.free, s.available, s.files, s.files_free, block, NAME_MAX as u32, block),
            Err(error) => reply.error(error),
        }
    }

    fn setxattr(&self, request: &Request, node: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        self.reply_empty("setxattr", node, reply, |s| {
            let name = attribute_name::<S>(name)?;
            if !name.starts_with(SYSTEM) {
                return s.setxattr(ino(node), name, value, flags);
            }
            let attr = s.getattr(ino(node))?;
            let drop_setgid = attr.mode & libc::S_ISGID != 0 && !may_keep_setgid(request.pid(), request.gid(), attr.gid);
            s.set_acl(ino(node), name, value, drop_setgid)
        });
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.reply_xattr("getxattr", node, size, reply, |s| s.getxattr(ino(node), attribute_name::<S>(name)?));
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.reply_xattr("listxattr", node, size, reply, |s| s.listxattr(ino(node)));
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.reply_empty("removexattr", node, reply, |s| s.removexattr(ino(node), attribute_name::<S>(name)?));
    }

    fn ioctl(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        match command {
            control::CALL if out_size as usize >= Header::BYTES => {
                let Some(asked) = ControlRequest::decode(in_data) else { return reply.error(Errno::EINVAL) };
                let (state, who) = (self.state.clone(), caller(request));
                self.state.lanes.run(move || {
                    let served = state.served.clone();
                    let header = state.answers.call(handle, who.uid, asked, &state.lanes, move || served.control(ino(node), &asked));
                    reply.ioctl(0, &header.encode());
                });
            }
            control::FETCH if out_size as usize >= control::FETCH_BYTES => match self.state.answers.piece(handle, in_data) {
                Ok(piece) => reply.ioctl(i32::try_from(piece.len()).unwrap_or(0), &piece),
                Err(error) => reply.error(error),
            },
            _ => match self.call("ioctl", node, |s| fileattr::ioctl(s, ino(node), command, in_data).transpose()) {
                Ok(Some(out)) => reply.ioctl(0, &out[..out.len().min(out_size as usize)]),
                Ok(None) => reply.error(Errno::ENOTTY),
                Err(error) => reply.error(error),
            },
        }
    }

    fn fallocate(&self, _request: &Request, node: INodeNo, _handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        self.reply_empty("fallocate", node, reply, |s| s.fallocate(ino(node), mode, offset, length));
    }

    fn lseek(&self, _request: &Request, node: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = self.call("lseek", node, |s| {
            let offset = u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
            let found = s.seek(ino(node), offset, whence)?;
            i64::try_from(found).map_err(|_| FsError::Internal("an offset beyond the largest file"))
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(error),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply counts in 32 bits; the kernel calls again for the rest.
        let len = len.min(u64::from(u32::MAX) & !0xfff);
        let state = self.state.clone();
        self.state.lanes.run(move || {
            match state.call("copy_file_range", ino(from), |s| s.copy_file_range(ino(from), from_offset, ino(to), to_offset, len)) {
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(error) => reply.error(error),
            }
        });
    }
}

/// The mode of a file without its set-id bits, if it has any to lose.
///
/// When somebody without the right to keep them changes a file with set-id bits (by write, fallocate or
/// copy_file_range), a kernel with HANDLE_KILLPRIV_V2 first sends a setattr without a single attribute, and then sets a
/// flag in the write. fuser 0.18.0 hides the corresponding flag of setattr; but nothing else comes without attributes
/// (utimensat with two UTIME_OMIT ends in the kernel, and a chown to nobody means the same), so the empty setattr is
/// the order. It is also the one that matters: its reply tells the kernel the new mode, which it would otherwise
/// remember, and run the changed program with the old rights. Truncating and changing the owner are orders in
/// themselves, which the filesystem follows.
fn lost_privileges(attr: &Attr) -> Option<u32> {
    if attr.is_dir() {
        return None;
    }
    let executable_by_group = attr.mode & libc::S_IXGRP != 0;
    let lost = libc::S_ISUID | if executable_by_group { libc::S_ISGID } else { 0 };
    (attr.mode & lost != 0).then_some(attr.mode & 0o7777 & !lost)
}

/// May a file with these flags be opened for writing? What is append-only, by those who append.
fn check_open(attr: &Attr, flags: i32) -> Result<()> {
    if flags & libc::O_APPEND != 0 && flags & libc::O_TRUNC == 0 { check_grows(attr) } else { check_loose(attr) }
}

/// The namespace of access control lists.
const SYSTEM: &[u8] = b"system.";

/// The name of an extended attribute. Access control lists are for filesystems that keep them.
fn attribute_name<S: Served>(name: &OsStr) -> Result<&[u8]> {
    let name = name_bytes(name)?;
    if name.starts_with(SYSTEM) && !S::HAS_ACLS { Err(FsError::Unsupported("attributes of the system namespace")) } else { Ok(name) }
}
