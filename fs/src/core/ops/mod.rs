//! Operations on the tree of files, each a pure plan.
//!
//! An operation reads through the [`Txn`], collects puts, removes and changes to extents, and returns what the caller wants to know;
//! nothing has happened until the shell applies the plan. If a block is missing the plan ends with [`Halt::Need`] and is made again from
//! scratch. Rights are the kernel's business (`default_permissions`); what only the filesystem can know is checked here.
//!
//! Every plan touches a bounded number of items ([`cost`]). Work without such a bound (freeing a file of a million extents) is left
//! behind as an intent and done in steps ([`intent`]), or handed back with the place to go on from (fallocate, readdir).
//!
//! A plan that maps, unmaps or preallocates stores the inode with `blocks` counted anew: applying deltas to extents does not do that.

pub mod acl;
pub mod attr;
pub mod cost;
pub mod create;
pub mod dirent;
pub mod fallocate;
pub mod flags;
pub mod hint;
pub mod intent;
pub mod link;
pub mod lookup;
pub mod mapped;
pub mod name;
pub mod readdir;
pub mod reattach;
pub mod rename;
pub mod resize;
pub mod symlink;
pub mod unlink;
pub mod xattr;

pub use acl::set_acl;
pub use attr::{Setattr, clear_privileges, is_atime_stale, setattr, touch_atime};
pub use cost::Cost;
pub use create::{mkdir, mknod, tmpfile};
pub use fallocate::{Allocation, Fallocate, fallocate, ragged_parts};
pub use flags::{check_loose, check_write, set_flags};
pub use hint::WriteHint;
pub use intent::{Step, cut_step, free_step, next_intent, pending_cut};
pub use link::link;
pub use lookup::{getattr, lookup};
pub use mapped::{Mapped, count_mapped};
pub use readdir::readdir;
pub use reattach::{reattach, settle_acl};
pub use rename::{Renamed, rename};
pub use resize::{Resize, SetSize, set_size};
pub use symlink::{readlink, symlink};
pub use unlink::{Unlinked, rmdir, unlink};
pub use xattr::{getxattr, listxattr, removexattr, setxattr};

#[cfg(test)]
mod tests;

use crate::core::halt::Planned;
use crate::error::FsError;

/// A file is at most this long: 16 TiB.
pub const MAX_FILE_SIZE: u64 = 1 << 44;
/// A file has at most this many names.
pub const MAX_LINKS: u32 = 65_000;
/// Bytes in one piece of a long value (link target, extended attribute).
pub const PIECE: usize = 1000;
/// Extents that one plan changes at most: what the shell gives to [`free_step`] and [`cut_step`].
pub const STEP_EXTENTS: u32 = 256;
/// Written blocks that one plan unmaps at most (their checksums go with them).
pub const STEP_BLOCKS: u64 = 1 << 13;
/// Other items that one step removes at most.
pub const STEP_ITEMS: u32 = 40;

/// A refused operation.
fn fail<T>(error: FsError) -> Planned<T> {
    Err(error.into())
}
