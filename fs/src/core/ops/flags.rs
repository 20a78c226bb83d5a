//! Flags of an inode as chattr(1) sets them. Who may set them is the kernel's business; on FUSE, heeding them is ours.
//!
//! An immutable file or directory changes in no way. What is append-only grows: a file at its end, a directory by names. `nodump` is only kept, and `noatime`
//! stops access times.

use super::fail;
use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::Inode;
use crate::ids::Ino;

/// FS_IMMUTABLE_FL
pub const IMMUTABLE: u32 = 0x10;
/// FS_APPEND_FL
pub const APPEND: u32 = 0x20;
/// FS_NODUMP_FL
pub const NODUMP: u32 = 0x40;
/// FS_NOATIME_FL
pub const NOATIME: u32 = 0x80;
/// All that can be set; the other bits of an inode's flags are ours.
pub const SETTABLE: u32 = IMMUTABLE | APPEND | NODUMP | NOATIME;

/// Sets the flags of a file or directory.
///
/// # Errors
/// `Unsupported` for other flags and other kinds of inodes, `NotFound`.
pub fn set_flags(txn: &mut Txn, ino: Ino, flags: u32) -> Planned<()> {
    let mut inode = txn.inode(ino)?;
    if flags & !SETTABLE != 0 || !(inode.is_file() || inode.is_dir()) {
        return fail(FsError::Unsupported("this flag of an inode"));
    }
    inode.flags = inode.flags & !SETTABLE | flags;
    inode.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// May its name go, its attributes change, another name come? Not if it is immutable or append-only.
///
/// # Errors
/// `NotPermitted`.
pub fn check_loose(inode: &Inode) -> Result<(), FsError> {
    refuse(inode, IMMUTABLE | APPEND)
}

/// May names come to this directory, or bytes to the end of this file?
///
/// # Errors
/// `NotPermitted`.
pub fn check_grows(inode: &Inode) -> Result<(), FsError> {
    refuse(inode, IMMUTABLE)
}

/// May `offset` and what lies behind it be written?
///
/// # Errors
/// `NotPermitted`.
pub fn check_write(inode: &Inode, offset: u64) -> Result<(), FsError> {
    if offset < inode.size { check_loose(inode) } else { check_grows(inode) }
}

fn refuse(inode: &Inode, flags: u32) -> Result<(), FsError> {
    if inode.flags & flags != 0 { Err(FsError::NotPermitted) } else { Ok(()) }
}
