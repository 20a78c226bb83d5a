//! What operations take and give: attributes, callers, entries.

use crate::format::item::{Inode, Timestamp};
use crate::ids::Ino;

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, for reports; 0 for the kernel itself.
    pub pid: u32,
    /// Permissions that new files are not to have, unless their directory says what they get.
    pub umask: u32,
}

/// Attributes of an inode.
pub type Attr = Inode;

/// A new time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This time.
    At(Timestamp),
}

/// What setattr changes; `None` leaves a field alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (the file type cannot change).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of anything (set by the kernel in writeback mode only).
    pub ctime: Option<Timestamp>,
    /// The new length takes the set-id bits away: whoever sets it has no right to keep them (CAP_FSETID). Without one: a write takes them away, and `mode` is what it leaves.
    pub kill_suid: bool,
    /// Where set-id bits go, the set-group-id bit goes even if the group cannot execute the file: whoever asks is not in it.
    pub kill_sgid: bool,
}

/// Flags of renameat2(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// RENAME_NOREPLACE.
    pub no_replace: bool,
    /// RENAME_EXCHANGE.
    pub exchange: bool,
    /// RENAME_WHITEOUT.
    pub whiteout: bool,
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode.
    pub ino: Ino,
    /// DT_* type.
    pub kind: u8,
    /// Where a listing goes on after this entry.
    pub cookie: u64,
    /// Name.
    pub name: Vec<u8>,
}

/// What statfs(2) says, in filesystem blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Size of the volume, reserves excluded.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks that a write may take.
    pub available: u64,
    /// Inodes in use and still possible.
    pub files: u64,
    /// Inodes still possible.
    pub files_free: u64,
}

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Durable before the write returns (O_SYNC, O_DSYNC).
    pub sync: bool,
    /// Clear the set-user-id bit, and the set-group-id bit of a group-executable file.
    pub kill_suid: bool,
    /// Write at the end of the file, whatever the offset says.
    pub append: bool,
}
