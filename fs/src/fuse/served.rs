//! What the adaptor needs of a filesystem: the seam between FUSE and the volume.
//!
//! The adaptor is generic over this trait, so that a naive filesystem in memory can stand behind it in tests and as the
//! benchmark's ceiling, with the same translation, options and threads as the real one.

use super::control::Request;
use crate::error::{FsError, Result};
use crate::ids::Ino;
pub use crate::volume::WriteOptions;
use crate::volume::{Attr, Caller, DirEntry, RenameFlags, SetAttr, StatFs};
use std::ops::Deref;

/// A filesystem that can stand behind the adaptor. Every method may be called from many threads at once.
///
/// Errors are those of the operation that the method is named after; the errno of each is in [`super::errno`].
#[allow(missing_docs)]
#[allow(clippy::missing_errors_doc)]
pub trait Served: Send + Sync + 'static {
    /// What a read gives: bytes, wherever they lie.
    type Data: Deref<Target = [u8]>;
    /// Does it keep access control lists, in step with modes and inherited? Then umasks are its business, too.
    const HAS_ACLS: bool = false;

    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr>;
    fn getattr(&self, ino: Ino) -> Result<Attr>;
    fn setattr(&self, ino: Ino, change: &SetAttr) -> Result<Attr>;
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>>;
    /// A regular file without a name, open, as O_TMPFILE makes it in `parent`.
    fn tmpfile(&self, _parent: Ino, _mode: u32, _caller: &Caller) -> Result<Attr> {
        Err(FsError::Unsupported("files without a name"))
    }
    /// Every kind of file but directories and symbolic links.
    fn mknod(&self, parent: Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> Result<Attr>;
    fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: &Caller) -> Result<Attr>;
    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr>;
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr>;
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()>;
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()>;
    fn rename(&self, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], flags: RenameFlags) -> Result<()>;
    /// At most `max` entries behind `cookie` (0: from the start), `.` and `..` included.
    fn readdir(&self, dir: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>>;
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>>;
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()>;
    /// Sets an access control list. `drop_setgid`: who asks may not keep the setgid bit.
    fn set_acl(&self, _ino: Ino, _name: &[u8], _value: &[u8], _drop_setgid: bool) -> Result<()> {
        Err(FsError::Unsupported("access control lists"))
    }
    /// Sets the flags of chattr(1).
    fn set_flags(&self, _ino: Ino, _flags: u32) -> Result<()> {
        Err(FsError::Unsupported("flags of inodes"))
    }
    /// Names, each ended by a zero byte.
    fn listxattr(&self, ino: Ino) -> Result<Vec<u8>>;
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()>;
    /// Counts an open file.
    fn open(&self, ino: Ino) -> Result<()>;
    /// Uncounts an open file.
    fn release(&self, ino: Ino);
    /// The kernel no longer knows this inode: one without links and without an open file may go.
    fn forget(&self, ino: Ino);
    fn statfs(&self) -> Result<StatFs>;
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Self::Data>;
    /// A read that is no access (O_NOATIME).
    fn read_unnoticed(&self, ino: Ino, offset: u64, len: u32) -> Result<Self::Data> {
        self.read(ino, offset, len)
    }
    /// A directory was listed from its start, or the target of a symbolic link read.
    fn accessed(&self, _ino: Ino) {}
    /// May the kernel answer reads of a file that is opened from what it has of it? Nobody counts these.
    fn may_keep_pages(&self) -> bool {
        true
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8], options: &WriteOptions) -> Result<usize>;
    /// A descriptor of the file is being closed: the last moment to report what went wrong with its writes.
    fn flush(&self, ino: Ino) -> Result<()>;
    /// Everything that was acknowledged before is durable afterwards. That is also what an fsync of one file asks for: one call answers many.
    fn sync(&self) -> Result<()>;
    /// The end is near: nothing that takes long is to go on.
    fn ending(&self) {}
    /// The kernel lets go, and waits: the last moment to write anything.
    fn end(&self) {}
    fn fallocate(&self, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<()>;
    /// SEEK_DATA and SEEK_HOLE.
    fn seek(&self, ino: Ino, offset: u64, whence: i32) -> Result<u64>;
    fn copy_file_range(&self, from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64) -> Result<u64>;
    /// Answers a question or an order of the `ferryfs` command about `ino` or the whole volume.
    fn control(&self, ino: Ino, request: &Request) -> Result<serde_json::Value>;
}
