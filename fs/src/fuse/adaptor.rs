//! Requests of the kernel, one method each: take them apart, ask the filesystem, answer.
//!
//! What is decided here is only what belongs to FUSE: how long the kernel may remember an answer, what may wait on which thread. Requests about names and
//! inodes are here, those about open files in [`super::files`].

use super::answers::Answers;
use super::channel::Reply;
use super::errno;
use super::groups::{is_marked, is_outside};
use super::handshake::Agreed;
use super::lanes::Lanes;
use super::rhythm::Rhythm;
use super::ring::Transport;
use super::served::Served;
use super::syncs::Syncs;
use super::translate::{attr_out, changes, entry, no_entry, rename_flags, statx_out};
use super::wire::{
    self, BatchForgetIn, ForgetOne, GetxattrIn, GetxattrOut, LinkIn, Malformed, MkdirIn, MknodIn, Rename2In, RenameIn, Request, SetattrIn,
    SetxattrIn, SetxattrMore, StatfsOut, capability, op,
};
use crate::error::{FsError, Result};
use crate::ids::Ino;
use crate::volume::{Attr, Caller, SetAttr};
use rustix::io::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Longest name of a directory entry.
const NAME_MAX: usize = 255;

/// What the adaptor must know of the session that it serves.
#[derive(Clone, Copy, Debug)]
pub struct AdaptorOptions {
    /// Threads of the session.
    pub threads: usize,
    /// Largest write in one request.
    pub max_write: u32,
    /// How requests come.
    pub transport: Transport,
}

impl Default for AdaptorOptions {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        // The kernel cuts requests at 1 MiB (fs.fuse.max_pages_limit) unless told otherwise.
        Self { threads: cpus.clamp(2, 8), max_write: 1 << 20, transport: Transport::default() }
    }
}

/// Answers requests by a [`Served`] filesystem. Its parts are shared by all threads of a session.
pub struct Adaptor<S> {
    pub(super) served: Arc<S>,
    pub(super) agreed: Agreed,
    pub(super) lanes: Lanes,
    pub(super) syncs: Syncs,
    pub(super) rhythm: Rhythm,
    pub(super) answers: Answers,
    next_handle: AtomicU64,
    panicked: AtomicBool,
    alarms: AtomicU64,
}

/// Answers a request by `answer`, which has its reply. A panic drops that, so that whoever asked gets EIO, and the thread goes on: others wait for it, too.
pub(super) fn survive(opcode: u32, answer: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(answer)).is_err() {
        tracing::error!("answering request {opcode} of the kernel panicked: this is a bug; it fails with EIO and the mount goes on");
    }
}

/// A request that was answered, or can be answered with EIO only.
pub(super) type Taken = std::result::Result<(), Malformed>;
/// What an operation gives, or the errno that its caller sees.
pub(super) type Outcome<T> = std::result::Result<T, Errno>;

/// Who asks, when nothing is made.
pub(super) fn caller(request: &Request<'_>) -> Caller {
    Caller { uid: request.header.uid, gid: request.header.gid, pid: request.header.pid, umask: 0 }
}

pub(super) fn creator(request: &Request<'_>, umask: u32) -> Caller {
    Caller { umask, ..caller(request) }
}

/// The inode that a request is about.
pub(super) fn node(request: &Request<'_>) -> Ino {
    Ino(request.header.nodeid)
}

/// A name that a directory can hold.
pub(super) fn plain(name: &[u8]) -> Result<&[u8]> {
    if name.len() > NAME_MAX { Err(FsError::NameTooLong) } else { Ok(name) }
}

impl<S: Served> Adaptor<S> {
    /// An adaptor before `served`, for a session whose kernel agreed on so much.
    pub fn new(served: Arc<S>, agreed: Agreed) -> Self {
        Self {
            served,
            agreed,
            lanes: Lanes::default(),
            syncs: Syncs::default(),
            rhythm: Rhythm::default(),
            answers: Answers::default(),
            next_handle: AtomicU64::new(1),
            panicked: AtomicBool::new(false),
            alarms: AtomicU64::new(0),
        }
    }

    /// Answers a request; one that waits for the device may be answered later by another thread.
    pub fn answer(self: &Arc<Self>, mut request: Request<'_>, reply: Reply) {
        let opcode = request.header.opcode;
        if self.take(&mut request, reply).is_err() {
            tracing::error!("request {opcode} of the kernel: {Malformed}");
        }
    }

    fn take(self: &Arc<Self>, request: &mut Request<'_>, reply: Reply) -> Taken {
        match request.header.opcode {
            op::LOOKUP => self.lookup(request, reply),
            op::FORGET => self.forget(request, reply),
            op::BATCH_FORGET => self.batch_forget(request, reply),
            op::GETATTR => self.getattr(request, reply),
            op::STATX => self.statx(request, reply),
            op::SETATTR => self.setattr(request, reply),
            op::READLINK => self.readlink(request, reply),
            op::MKNOD => self.mknod(request, reply),
            op::MKDIR => self.mkdir(request, reply),
            op::SYMLINK => self.symlink(request, reply),
            op::LINK => self.link(request, reply),
            op::UNLINK => self.unlink(request, reply),
            op::RMDIR => self.rmdir(request, reply),
            op::RENAME | op::RENAME2 => self.rename(request, reply),
            op::STATFS => self.statfs(request, reply),
            op::SETXATTR => self.setxattr(request, reply),
            op::GETXATTR => self.getxattr(request, reply),
            op::LISTXATTR => self.listxattr(request, reply),
            op::REMOVEXATTR => self.removexattr(request, reply),
            op::OPEN => self.open(request, reply),
            op::CREATE => self.create(request, reply),
            op::TMPFILE => self.tmpfile(request, reply),
            op::OPENDIR => self.opendir(reply),
            op::READ => self.read(request, reply),
            op::WRITE => self.write(request, reply),
            op::READDIR => self.readdir(request, reply),
            op::READDIRPLUS => self.readdirplus(request, reply),
            op::RELEASE => self.release(request, reply),
            op::RELEASEDIR => self.releasedir(request, reply),
            op::FLUSH => self.flush(request, reply),
            op::FSYNC | op::FSYNCDIR => self.fsync(request, reply),
            op::SYNCFS => self.syncfs(request, reply),
            op::IOCTL => self.ioctl(request, reply),
            op::FALLOCATE => self.fallocate(request, reply),
            op::LSEEK => self.lseek(request, reply),
            op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => self.copy_file_range(request, reply),
            // Among them INTERRUPT: what waits here waits for the device, and no program could go on without it. The kernel remembers the answer (not for a request that came over a ring).
            _ => {
                reply.error(Errno::NOSYS);
                Ok(())
            }
        }
    }

    /// Runs one operation of the filesystem. An error becomes its errno; a panic becomes EIO and the mount lives on.
    pub(super) fn call<T>(&self, what: &'static str, node: Ino, operation: impl FnOnce(&S) -> Result<T>) -> Outcome<T> {
        match catch_unwind(AssertUnwindSafe(|| operation(&self.served))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if errno::is_alarming(&error) {
                    self.alarm(what, node, &error);
                }
                Err(Errno::from_raw_os_error(errno::errno(&error)))
            }
            Err(_) => {
                if !self.panicked.swap(true, Ordering::Relaxed) {
                    tracing::error!("{what} on inode {node} panicked: this is a bug; the operation fails with EIO and the mount goes on");
                }
                Err(Errno::IO)
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

    /// A handle for an open file. It names nothing of ours but an answer that may wait to be fetched: reads and writes
    /// go by inode.
    pub(super) fn handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    fn lookup(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (parent, name) = (node(request), request.name()?);
        let found = self.call("lookup", parent, |s| {
            // A file server asks for "." and ".." of an inode that the kernel has forgotten.
            let attr = match plain(name)? {
                // What has no name any more is gone for him, though it is freed only when the kernel has said that it forgot it.
                b"." => s.getattr(parent).and_then(|attr| if attr.nlink == 0 { Err(FsError::NotFound) } else { Ok(attr) }),
                b".." => s.getattr(parent).and_then(|attr| s.getattr(attr.parent)),
                name => s.lookup(parent, name),
            };
            match attr {
                Ok(attr) => entry(&attr),
                Err(FsError::NotFound) => Ok(no_entry()),
                Err(error) => Err(error),
            }
        });
        answer_value(reply, found)
    }

    /// Lookups are not counted: a count per inode would be memory that grows with the number of files. The kernel sends
    /// one forget when it drops an inode; only an inode without links and without an open file is freed by it. Should a
    /// forget overtake a lookup of the same inode that was answered before the last link went, the loser is a file that
    /// has no name and is not open: its next use finds nothing, as if it had come a moment later.
    fn forget(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        reply.none();
        self.forgotten(node(request));
        Ok(())
    }

    fn batch_forget(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        reply.none();
        for _ in 0..request.take::<BatchForgetIn>()?.count {
            self.forgotten(Ino(request.take::<ForgetOne>()?.nodeid));
        }
        Ok(())
    }

    fn forgotten(&self, node: Ino) {
        let _ = self.call("forget", node, |s| {
            s.forget(node);
            Ok(())
        });
    }

    fn getattr(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        answer_value(reply, self.call("getattr", node, |s| attr_out(&s.getattr(node)?)))
    }

    fn statx(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        answer_value(reply, self.call("statx", node, |s| statx_out(&s.getattr(node)?)))
    }

    fn setattr(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (node, who) = (node(request), caller(request));
        let mut change = changes(&request.take::<SetattrIn>()?);
        let changed = self.call("setattr", node, |s| {
            if change == SetAttr::default() {
                let attr = s.getattr(node)?;
                change.mode = lost_privileges(&attr, &who);
                if change.mode.is_none() {
                    return attr_out(&attr);
                }
                change.kill_suid = true;
            }
            // Who may give a file to another group and keep its bits only the kernel knows: root stands for CAP_FSETID here.
            let is_given = (change.uid.is_some() || change.gid.is_some()) && who.uid != 0;
            if change.kill_suid || is_given {
                let attr = s.getattr(node)?;
                change.kill_sgid = is_marked(&attr) && is_outside(&who, attr.gid);
            }
            attr_out(&s.setattr(node, &change)?)
        });
        answer_value(reply, changed)
    }

    fn readlink(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        match self.call("readlink", node, |s| s.readlink(node).inspect(|_| s.accessed(node))) {
            Ok(target) => reply.send(&[&target]),
            Err(errno) => reply.error(errno),
        }
        Ok(())
    }

    fn answer_entry(&self, what: &'static str, node: Ino, reply: Reply, operation: impl FnOnce(&S) -> Result<Attr>) -> Taken {
        answer_value(reply, self.call(what, node, |s| entry(&operation(s)?)))
    }

    fn mknod(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let parent = node(request);
        let asked: MknodIn = request.take()?;
        let (name, who) = (request.name()?, creator(request, asked.umask));
        self.answer_entry("mknod", parent, reply, |s| s.mknod(parent, plain(name)?, asked.mode, asked.rdev, &who))
    }

    fn mkdir(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let parent = node(request);
        let asked: MkdirIn = request.take()?;
        let (name, who) = (request.name()?, creator(request, asked.umask));
        self.answer_entry("mkdir", parent, reply, |s| s.mkdir(parent, plain(name)?, asked.mode, &who))
    }

    fn symlink(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (parent, who) = (node(request), caller(request));
        let (name, target) = (request.name()?, request.name()?);
        self.answer_entry("symlink", parent, reply, |s| s.symlink(parent, plain(name)?, target, &who))
    }

    fn link(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let parent = node(request);
        let file = Ino(request.take::<LinkIn>()?.oldnodeid);
        let name = request.name()?;
        self.answer_entry("link", file, reply, |s| s.link(file, parent, plain(name)?))
    }

    pub(super) fn answer_done(&self, what: &'static str, node: Ino, reply: Reply, operation: impl FnOnce(&S) -> Result<()>) -> Taken {
        match self.call(what, node, operation) {
            Ok(()) => reply.done(),
            Err(errno) => reply.error(errno),
        }
        Ok(())
    }

    fn unlink(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (parent, name) = (node(request), request.name()?);
        self.answer_done("unlink", parent, reply, |s| s.unlink(parent, plain(name)?))
    }

    fn rmdir(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (parent, name) = (node(request), request.name()?);
        self.answer_done("rmdir", parent, reply, |s| s.rmdir(parent, plain(name)?))
    }

    fn rename(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let parent = node(request);
        let (target, flags) = if request.header.opcode == op::RENAME2 {
            let asked: Rename2In = request.take()?;
            (Ino(asked.newdir), asked.flags)
        } else {
            (Ino(request.take::<RenameIn>()?.newdir), 0)
        };
        let (name, new_name) = (request.name()?, request.name()?);
        self.answer_done("rename", parent, reply, |s| s.rename(parent, plain(name)?, target, plain(new_name)?, rename_flags(flags)?))
    }

    fn statfs(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let block = crate::BLOCK as u32;
        let found = self.call("statfs", node(request), |s| s.statfs()).map(|found| StatfsOut {
            blocks: found.blocks,
            bfree: found.free,
            bavail: found.available,
            files: found.files,
            ffree: found.files_free,
            bsize: block,
            namelen: NAME_MAX as u32,
            frsize: block,
            ..StatfsOut::default()
        });
        answer_value(reply, found)
    }

    fn setxattr(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: SetxattrIn = request.take()?;
        let told = if self.agreed.has(capability::SETXATTR_EXT) { Some(request.take::<SetxattrMore>()?) } else { None };
        let (name, value) = (request.name()?, request.bytes(asked.size)?);
        self.answer_done("setxattr", node, reply, |s| {
            let name = attribute_name::<S>(name)?;
            if !name.starts_with(SYSTEM) {
                return s.setxattr(node, name, value, asked.flags);
            }
            // A kernel that does not say who may keep the setgid bit is not believed.
            let drop_setgid = told.is_none_or(|more| more.setxattr_flags & wire::SETXATTR_ACL_KILL_SGID != 0);
            s.set_acl(node, name, value, drop_setgid)
        })
    }

    fn getxattr(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: GetxattrIn = request.take()?;
        let name = request.name()?;
        answer_sized(reply, asked.size, self.call("getxattr", node, |s| s.getxattr(node, attribute_name::<S>(name)?)))
    }

    fn listxattr(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: GetxattrIn = request.take()?;
        let privileged = caller(request).uid == 0;
        let listed = self.call("listxattr", node, |s| s.listxattr(node));
        answer_sized(reply, asked.size, listed.map(|names| if privileged { names } else { untrusted(&names) }))
    }

    fn removexattr(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (node, name) = (node(request), request.name()?);
        self.answer_done("removexattr", node, reply, |s| s.removexattr(node, attribute_name::<S>(name)?))
    }
}

/// Answers with a structure or an error.
pub(super) fn answer_value(reply: Reply, outcome: Outcome<impl zerocopy::IntoBytes + zerocopy::Immutable>) -> Taken {
    match outcome {
        Ok(value) => reply.value(&value),
        Err(errno) => reply.error(errno),
    }
    Ok(())
}

/// Answers with bytes, if the caller has room for them, or with their number, if that was the question.
fn answer_sized(reply: Reply, room: u32, outcome: Outcome<Vec<u8>>) -> Taken {
    match outcome {
        Ok(value) if room == 0 => reply.value(&GetxattrOut { size: u32::try_from(value.len()).unwrap_or(u32::MAX), padding: 0 }),
        Ok(value) if value.len() > room as usize => reply.error(Errno::RANGE),
        Ok(value) => reply.send(&[&value]),
        Err(errno) => reply.error(errno),
    }
    Ok(())
}

/// The mode of a file without its set-id bits, if it has any to lose.
///
/// When somebody without the right to keep them changes a file with set-id bits (by write, fallocate or
/// copy_file_range), a kernel with HANDLE_KILLPRIV_V2 first sends a setattr without a single attribute, and then sets a
/// flag in the write. Nothing else comes without attributes
/// (utimensat with two UTIME_OMIT ends in the kernel, and a chown to nobody means the same), so the empty setattr is
/// the order. It is also the one that matters: its reply tells the kernel the new mode, which it would otherwise
/// remember, and run the changed program with the old rights. Truncating and changing the owner are orders in
/// themselves, which the filesystem follows.
///
/// The kernel orders this also of a file with set-group-id alone that its group cannot execute, if the caller is not in that group; where the file has
/// more to lose the order does not say whether he is, so we look.
fn lost_privileges(attr: &Attr, who: &Caller) -> Option<u32> {
    if attr.is_dir() {
        return None;
    }
    let loses_sgid = if is_marked(attr) { is_outside(who, attr.gid) } else { true };
    let lost = libc::S_ISUID | if loses_sgid { libc::S_ISGID } else { 0 };
    (attr.mode & lost != 0).then_some(attr.mode & 0o7777 & !lost)
}

/// Those of the names, each with a zero byte behind it, that everybody may know. The kernel tells no capabilities, so root stands for CAP_SYS_ADMIN.
fn untrusted(names: &[u8]) -> Vec<u8> {
    names.split_inclusive(|byte| *byte == 0).filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect()
}

/// The namespace of access control lists.
const SYSTEM: &[u8] = b"system.";

/// The name of an extended attribute. Access control lists are for filesystems that keep them.
fn attribute_name<S: Served>(name: &[u8]) -> Result<&[u8]> {
    let name = plain(name)?;
    if name.starts_with(SYSTEM) && !S::HAS_ACLS { Err(FsError::Unsupported("attributes of the system namespace")) } else { Ok(name) }
}
