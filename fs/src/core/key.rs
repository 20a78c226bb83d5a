//! Keys of the one metadata tree. Everything a volume knows is an item under such a key.
//!
//! Classes sort apart, so that leaves of one class stay together: relocating data touches extent and summary leaves, never those of
//! checksums (decision 2), and inodes lie densely by number.

use crate::addr::Addr;
use crate::ids::{FileBlock, Ino};

/// What kind of item a key names. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// `(ino, 0)`: the inode.
    Inode = 1,
    /// `(ino, hash and slot)`: name of an extended attribute, its size, and its value when that is short; `(ino, 0)`: their totals.
    Xattr = 2,
    /// `(ino, slot key and piece)`: pieces of long attribute values.
    XattrValue = 3,
    /// `(directory, cookie)`: an entry.
    Dirent = 4,
    /// `(ino, piece)`: target of a symbolic link.
    Symlink = 5,
    /// `(ino, file block)`: an extent.
    Extent = 6,
    /// `(ino, group of file blocks)`: checksums of data.
    Checksum = 7,
    /// `(address, 0)`: owner of a run of data blocks: the summaries of all data zones.
    Summary = 8,
    /// Work to be finished on an inode: `(ino, 0)`: free it; `(ino, 1)`: cut what lies beyond its size.
    Intent = 9,
}

impl Class {
    /// The class with this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Inode,
            2 => Self::Xattr,
            3 => Self::XattrValue,
            4 => Self::Dirent,
            5 => Self::Symlink,
            6 => Self::Extent,
            7 => Self::Checksum,
            8 => Self::Summary,
            9 => Self::Intent,
            _ => return None,
        })
    }
}

/// A key, ordered by class, then `a`, then `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Class.
    pub class: Class,
    /// First part.
    pub a: u64,
    /// Second part.
    pub b: u64,
}

/// In words, for people.
impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.class {
            Class::Inode => "inode",
            Class::Xattr => "attribute",
            Class::XattrValue => "attribute value",
            Class::Dirent => "entry",
            Class::Symlink => "link target",
            Class::Extent => "extent",
            Class::Checksum => "checksums",
            Class::Summary => return write!(f, "summary {}", Addr(self.a)),
            Class::Intent => "intent",
        };
        write!(f, "{what} {}/{}", self.a, self.b)
    }
}

impl Key {
    /// Bytes of an encoded key.
    pub const LEN: usize = 17;
    /// The smallest key.
    pub const MIN: Key = Key { class: Class::Inode, a: 0, b: 0 };

    /// A key.
    pub const fn new(class: Class, a: u64, b: u64) -> Self {
        Self { class, a, b }
    }
    /// Big-endian, so that bytes compare as keys do.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.class as u8;
        out[1..9].copy_from_slice(&self.a.to_be_bytes());
        out[9..].copy_from_slice(&self.b.to_be_bytes());
        out
    }
    /// The inverse of [`Key::encode`]; `None` for an unknown class or a wrong length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Some(Self { class: Class::from_u8(bytes[0])?, a: word(1), b: word(9) })
    }
    /// The inode of `ino`.
    pub const fn inode(ino: Ino) -> Self {
        Self::new(Class::Inode, ino.0, 0)
    }
    /// An extent that starts at `block`.
    pub const fn extent(ino: Ino, block: FileBlock) -> Self {
        Self::new(Class::Extent, ino.0, block.0)
    }
    /// The checksums of the group that holds `block`.
    pub const fn checksum(ino: Ino, block: FileBlock) -> Self {
        Self::new(Class::Checksum, ino.0, block.0 / crate::format::item::CHECKSUM_GROUP)
    }
    /// The summary of a run that starts at `addr`.
    pub const fn summary(addr: Addr) -> Self {
        Self::new(Class::Summary, addr.0, 0)
    }
    /// The intent to free `ino`.
    pub const fn intent(ino: Ino) -> Self {
        Self::new(Class::Intent, ino.0, 0)
    }
    /// The intent to cut what lies beyond the size of `ino`.
    pub const fn cut(ino: Ino) -> Self {
        Self::new(Class::Intent, ino.0, 1)
    }
}
