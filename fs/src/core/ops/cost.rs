//! What a plan costs at worst, for the shell's reservations (I8): taken before anything is planned, so that applying never waits for space.
//!
//! Every item that a plan puts or removes may lie in a leaf of its own. Where items are neighbours by key (pieces, extents, checksums) a
//! leaf holds at least half of what fits.

use super::{PIECE, STEP_BLOCKS, STEP_EXTENTS, STEP_ITEMS};
use crate::BLOCK;
use crate::core::key::Key;
use crate::core::page::most_bytes;
use crate::format::item::{CHECKSUM_GROUP, MAX_EXTENT};

/// The cost of a plan at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Leaves that become dirty.
    pub leaves: u32,
    /// Bytes of deltas in the log.
    pub log_bytes: u32,
}

/// A dirent or attribute name with its delta, at most.
const NAMED: u32 = 2 + Key::LEN as u32 + 1 + 9 + 255;
/// An inode with its delta.
const INODE: u32 = 2 + Key::LEN as u32 + 1 + 112;
/// An intent with its delta.
const INTENT: u32 = 2 + Key::LEN as u32 + 1 + 10;
/// A removal.
const REMOVAL: u32 = Key::LEN as u32 + 1;
/// Changes to extents: unmap and preallocate.
const RANGES: u32 = 4 * 25;
/// Pieces of the largest attribute value.
const VALUE_PIECES: u32 = (super::xattr::MAX_VALUE.div_ceil(PIECE)) as u32;
/// Pieces of the largest access control list.
const ACL_PIECES: u32 = crate::format::acl::MAX_BYTES.div_ceil(PIECE) as u32;
/// A piece with its delta.
const PIECE_DELTA: u32 = PIECE as u32 + 2 + Key::LEN as u32 + 1;

/// Leaves that any one plan may make dirty: operations wait for a checkpoint once three quarters of the dirty metadata that the checkpoint
/// reserve allows are there, and the smallest volume allows 256 blocks.
const MOST_LEAVES: u32 = 256 / 4;

const _: () = {
    let all = [
        Cost::CREATE,
        Cost::SYMLINK,
        Cost::LINK,
        Cost::UNLINK,
        Cost::RENAME,
        Cost::SETATTR,
        Cost::SET_SIZE,
        Cost::XATTR,
        Cost::STEP,
        Cost::FALLOCATE,
    ];
    let mut n = 0;
    while n < all.len() {
        assert!(all[n].leaves <= MOST_LEAVES, "a plan must fit between the limit and the reserve");
        n += 1;
    }
};

impl Cost {
    /// mknod, mkdir: inode, entry, parent, two inherited lists.
    pub const CREATE: Cost = Self::LINK.and(2 * Self::ACL.leaves, 2 * Self::ACL.log_bytes);
    /// symlink: a new file and five pieces.
    pub const SYMLINK: Cost = Self::LINK.and(5, 5 * PIECE_DELTA);
    /// link: inode, entry, parent.
    pub const LINK: Cost = Cost { leaves: 3, log_bytes: 2 * INODE + NAMED };
    /// An access control list: totals, attribute, pieces.
    const ACL: Cost = Cost { leaves: 2 + pieces(ACL_PIECES), log_bytes: 2 * PIECE_DELTA + ACL_PIECES * PIECE_DELTA };
    /// unlink, rmdir: entry, parent, inode, intent.
    pub const UNLINK: Cost = Cost { leaves: 4, log_bytes: REMOVAL + 2 * INODE + INTENT };
    /// rename: two entries, two parents, what moved, what was replaced with its intent, a whiteout.
    pub const RENAME: Cost = Cost { leaves: 8, log_bytes: 2 * NAMED + 5 * INODE + INTENT };
    /// Attributes without a new length; the access control list follows the mode.
    pub const SETATTR: Cost = Self::ACL.and(1, INODE);
    /// Attributes with a new length: inode, intent, and what goes at once.
    pub const SET_SIZE: Cost = Self::unmap(super::resize::DIRECT_EXTENTS).and(2 + Self::ACL.leaves, INODE + INTENT + Self::ACL.log_bytes);
    /// setxattr, removexattr: inode, totals, attribute, the pieces of the old value and the new.
    pub const XATTR: Cost =
        Cost { leaves: 3 + pieces(VALUE_PIECES), log_bytes: INODE + 2 * PIECE_DELTA + VALUE_PIECES * (PIECE_DELTA + REMOVAL) };
    /// One step of freeing or cutting, with `STEP_EXTENTS`.
    pub const STEP: Cost = Self::unmap(STEP_EXTENTS).and(3 + pieces(STEP_ITEMS) + 6, INODE + 2 * REMOVAL + STEP_ITEMS * REMOVAL);
    /// One plan of fallocate: unmapped and preallocated extents, the inode.
    pub const FALLOCATE: Cost = Self::unmap(2 * STEP_EXTENTS + 4).and(1, INODE);

    /// Unmapping so many extents and as many written blocks as a plan may, or preallocating between them.
    pub const fn unmap(extents: u32) -> Cost {
        let sums = (STEP_BLOCKS / CHECKSUM_GROUP) as u32 + 2;
        let sums_in_leaf = BLOCK as u32 / 2 / most_bytes(4 * CHECKSUM_GROUP as usize) as u32;
        let extents_in_leaf = BLOCK as u32 / 2 / most_bytes(MAX_EXTENT) as u32;
        Cost { leaves: extents / extents_in_leaf + sums / sums_in_leaf + 4, log_bytes: RANGES }
    }

    /// With so many leaves and bytes more.
    pub const fn and(self, leaves: u32, log_bytes: u32) -> Cost {
        Cost { leaves: self.leaves + leaves, log_bytes: self.log_bytes + log_bytes }
    }

    /// Nodes that become dirty in a tree of this height (1: a single leaf) if every leaf splits, and its parents with it.
    pub const fn nodes(&self, height: u32) -> u32 {
        self.leaves * 2 * height
    }
}

/// Leaves that hold so many neighbouring pieces, at worst: two in each.
const fn pieces(n: u32) -> u32 {
    n / 2 + 2
}
