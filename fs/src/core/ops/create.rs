//! New inodes under new names.

use super::acl::{Inherited, inherit};
use super::dirent::{Change, changed, kind_of, living_directory, probe, put};
use super::fail;
use super::flags::check_grows;
use super::hint;
use super::name::check_plain;
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::{Inode, Intent, LINKABLE};
use crate::ids::Ino;
use crate::volume::Caller;

/// Makes a file of any kind but a directory or a symbolic link. `mode`: file type (none means a regular file) and permissions, from which
/// the caller's umask, or the default list of the directory, takes. `rdev`: of a device node, ignored for others.
///
/// # Errors
/// `Exists`, `NotFound` (the directory has been removed), `NotADirectory`, `NameTooLong`, `NotPermitted` (a directory), `Invalid`.
pub fn mknod(txn: &mut Txn, parent: Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> Planned<Inode> {
    let (kind, rdev) = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => (libc::S_IFREG, 0),
        kind @ (libc::S_IFIFO | libc::S_IFSOCK) => (kind, 0),
        kind @ (libc::S_IFCHR | libc::S_IFBLK) => (kind, rdev),
        libc::S_IFDIR => return fail(FsError::NotPermitted),
        _ => return fail(FsError::Invalid("a file of this type cannot be made")),
    };
    enter(txn, parent, name, New { mode: kind | mode & 0o7777, rdev, size: 0 }, caller)
}

/// Makes a directory. In a setgid directory it becomes setgid too.
///
/// # Errors
/// As [`mknod`], and `TooManyLinks`.
pub fn mkdir(txn: &mut Txn, parent: Ino, name: &[u8], mode: u32, caller: &Caller) -> Planned<Inode> {
    enter(txn, parent, name, New { mode: libc::S_IFDIR | mode & 0o7777, rdev: 0, size: 0 }, caller)
}

/// Makes a regular file without a name in `parent` (O_TMPFILE): from the first moment on it waits to be freed, unless it gets one.
///
/// # Errors
/// `NotFound` (the directory has been removed), `NotADirectory`, `NotPermitted` (an immutable directory).
pub fn tmpfile(txn: &mut Txn, parent: Ino, mode: u32, caller: &Caller) -> Planned<Inode> {
    let dir = living_directory(txn, parent)?;
    check_grows(&dir)?;
    let mut new = New { mode: libc::S_IFREG | mode & 0o7777, rdev: 0, size: 0 };
    let inherited = inherit(txn, &dir, &mut new.mode, caller.umask)?;
    let mut inode = make(txn, &dir, &new, caller);
    inherited.store(txn, &mut inode)?;
    inode.nlink = 0;
    inode.flags |= LINKABLE;
    txn.put_inode(&inode);
    txn.put(Key::intent(inode.ino), Intent::Free.encode());
    Ok(inode)
}

/// What a new inode is to be.
pub(super) struct New {
    pub mode: u32,
    pub rdev: u32,
    pub size: u64,
}

/// Makes an inode and an entry for it.
pub(super) fn enter(txn: &mut Txn, parent: Ino, name: &[u8], mut new: New, caller: &Caller) -> Planned<Inode> {
    let dir = living_directory(txn, parent)?;
    check_plain(name, FsError::Exists)?;
    let (entry, probe) = probe(txn, parent, name)?;
    if entry.is_some() {
        return fail(FsError::Exists);
    }
    check_grows(&dir)?;
    let key = probe.free()?;
    let inherited = match new.mode & libc::S_IFMT {
        // Nobody asks for the mode of a symbolic link.
        libc::S_IFLNK => Inherited::default(),
        _ => inherit(txn, &dir, &mut new.mode, caller.umask)?,
    };
    let mut inode = make(txn, &dir, &new, caller);
    inherited.store(txn, &mut inode)?;
    put(txn, key, inode.ino, kind_of(&inode), name);
    changed(txn, parent, Change { entries: 1, subdirs: i64::from(inode.is_dir()) })?;
    Ok(inode)
}

/// Makes an inode without an entry. It has the generation of its directory: the volume's.
pub(super) fn make(txn: &mut Txn, dir: &Inode, new: &New, caller: &Caller) -> Inode {
    let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
    let setgid = dir.mode & libc::S_ISGID != 0;
    let now = txn.now();
    let inode = Inode {
        ino: txn.allocate_ino(),
        size: new.size,
        blocks: 0,
        generation: dir.generation,
        parent: dir.ino,
        entries: 0,
        mode: if setgid && is_dir { new.mode | libc::S_ISGID } else { new.mode },
        uid: caller.uid,
        gid: if setgid { dir.gid } else { caller.gid },
        nlink: if is_dir { 2 } else { 1 },
        rdev: new.rdev,
        flags: hint::inherited(dir, new.mode),
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    txn.put_inode(&inode);
    inode
}
