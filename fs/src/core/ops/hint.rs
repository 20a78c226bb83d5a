//! Write-lifetime hints: who writes a file says for how long its blocks will stay, as `fcntl(F_SET_RW_HINT)` does where the kernel passes it on.
//!
//! FUSE has no request for it, so the hint is the extended attribute [`NAME`], `short`, `medium`, `long` or `extreme`, of a file or of a directory, whose new files and directories
//! inherit it. It is kept in three bits of the inode's flags and not as an attribute: whoever places blocks has the inode at hand, and a hint costs no item.
//! A hint is no promise: all it does is to choose where blocks go of which nothing else is known.

use super::fail;
use super::flags::check_loose;
use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::format::item::Inode;

/// The attribute.
pub const NAME: &[u8] = b"user.ferryfs.write_hint";

/// Bits of an inode's flags that keep the hint: 0 for none, else as `RWH_WRITE_LIFE_*` less one.
pub const HINT_BITS: u32 = 7 << HINT_SHIFT;
const HINT_SHIFT: u32 = 24;

/// For how long blocks are expected to stay, in the order and with the names of `RWH_WRITE_LIFE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteHint {
    /// Shorter than most.
    Short = 1,
    /// Somewhat shorter than most.
    Medium = 2,
    /// Longer than most.
    Long = 3,
    /// Much longer than most.
    Extreme = 4,
}

impl WriteHint {
    /// Every hint.
    pub const ALL: [Self; 4] = [Self::Short, Self::Medium, Self::Long, Self::Extreme];

    /// The hint that an inode has. Bits that mean nothing are none.
    pub fn of(inode: &Inode) -> Option<Self> {
        let bits = (inode.flags & HINT_BITS) >> HINT_SHIFT;
        Self::ALL.into_iter().find(|hint| *hint as u32 == bits)
    }

    /// The value of the attribute.
    pub fn word(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Medium => "medium",
            Self::Long => "long",
            Self::Extreme => "extreme",
        }
    }

    /// How much longer, or shorter, than the average block is expected to stay.
    pub fn factor(self) -> f64 {
        match self {
            Self::Short => 1.0 / 16.0,
            Self::Medium => 1.0 / 4.0,
            Self::Long => 4.0,
            Self::Extreme => 16.0,
        }
    }
}

/// The value of the attribute.
///
/// # Errors
/// `NoAttribute`.
pub(super) fn get(inode: &Inode) -> Planned<Vec<u8>> {
    match WriteHint::of(inode) {
        Some(hint) => Ok(hint.word().as_bytes().to_vec()),
        None => fail(FsError::NoAttribute),
    }
}

/// Sets the attribute. A zero byte or a line's end behind the word is no part of it: many programs write one.
///
/// # Errors
/// `Invalid` for another word, and where there is nothing to be written: neither file nor directory; `Exists` and `NoAttribute` as the flags have it; `NotPermitted`.
pub(super) fn set(txn: &mut Txn, mut inode: Inode, value: &[u8], flags: i32) -> Planned<()> {
    let word = value.strip_suffix(b"\0").or_else(|| value.strip_suffix(b"\n")).unwrap_or(value);
    let Some(hint) = WriteHint::ALL.into_iter().find(|hint| hint.word().as_bytes() == word) else {
        return fail(FsError::Invalid("a write hint is short, medium, long or extreme"));
    };
    if !(inode.is_file() || inode.is_dir()) {
        return fail(FsError::Invalid("only files and directories have a write hint"));
    }
    check_loose(&inode)?;
    match WriteHint::of(&inode) {
        Some(_) if flags & libc::XATTR_CREATE != 0 => return fail(FsError::Exists),
        None if flags & libc::XATTR_REPLACE != 0 => return fail(FsError::NoAttribute),
        _ => {}
    }
    inode.flags = inode.flags & !HINT_BITS | (hint as u32) << HINT_SHIFT;
    inode.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// Removes the attribute.
///
/// # Errors
/// `NoAttribute`, `NotPermitted`.
pub(super) fn remove(txn: &mut Txn, mut inode: Inode) -> Planned<()> {
    check_loose(&inode)?;
    get(&inode)?;
    inode.flags &= !HINT_BITS;
    inode.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// The flags that something new in a directory begins with: the hint of the directory.
pub(super) fn inherited(dir: &Inode, mode: u32) -> u32 {
    match mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR => dir.flags & HINT_BITS,
        _ => 0,
    }
}
