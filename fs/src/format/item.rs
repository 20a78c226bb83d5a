//! Values of the metadata tree's items.

use crate::addr::Addr;
use crate::ids::{FileBlock, Ino};
use gc::placement::Estimate;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most bytes in the value of one item.
pub const MAX_ITEM: usize = 1200;

/// A point in time: seconds since 1970 (negative before) and nanoseconds (0..1e9) that always count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskTime {
    sec: I64,
    nsec: U32,
}

impl From<Timestamp> for DiskTime {
    fn from(t: Timestamp) -> Self {
        Self { sec: t.sec.into(), nsec: t.nsec.into() }
    }
}
impl From<DiskTime> for Timestamp {
    fn from(t: DiskTime) -> Self {
        Self { sec: t.sec.get(), nsec: t.nsec.get().min(999_999_999) }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskInode {
    size: U64,
    blocks: U64,
    generation: U64,
    parent: U64,
    entries: U64,
    mode: U32,
    uid: U32,
    gid: U32,
    nlink: U32,
    rdev: U32,
    flags: U32,
    atime: DiskTime,
    mtime: DiskTime,
    ctime: DiskTime,
    btime: DiskTime,
}
const _: () = assert!(size_of::<DiskInode>() == 112);

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number (the key, not part of the value).
    pub ino: Ino,
    /// Bytes: length of a file or of a link's target; for a directory the number of entries times 32.
    pub size: u64,
    /// Filesystem blocks that its extents take, preallocated ones included.
    pub blocks: u64,
    /// Distinguishes inodes that had the same number (in a volume numbers are never used twice, so this is of the whole volume: 32 bits, drawn when it is made).
    pub generation: u64,
    /// For a directory: its parent. For others: the directory it was created in (a hint for reports).
    pub parent: Ino,
    /// For a directory: number of entries, `.` and `..` not counted.
    pub entries: u64,
    /// File type and permission bits, as st_mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links. A directory counts 2 plus its subdirectories.
    pub nlink: u32,
    /// Device number of a device node, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// FS_IOC_GETFLAGS bits, the write hint ([`crate::core::ops::hint`]), [`LOST_CONTENT`], [`LINKABLE`], [`HAS_ACCESS_ACL`] and [`HAS_DEFAULT_ACL`].
    pub flags: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
}

/// Bit of an inode's flags: a file that has lost some of its content, where it has holes.
pub const LOST_CONTENT: u32 = 1 << 28;
/// Bit of an inode's flags: it was made without a name and never had one; only such an inode can get its first name.
pub const LINKABLE: u32 = 1 << 29;
/// Bit of an inode's flags: it has an access control list beyond its mode.
pub const HAS_ACCESS_ACL: u32 = 1 << 30;
/// Bit of an inode's flags: a directory with a list for new files in it.
pub const HAS_DEFAULT_ACL: u32 = 1 << 31;

impl Inode {
    /// A node with nothing in it below the root directory: of this type and these permissions, root's, made at `time`.
    pub fn empty(ino: Ino, mode: u32, time: Timestamp) -> Self {
        Self {
            ino,
            size: 0,
            blocks: 0,
            generation: 1,
            parent: Ino::ROOT,
            entries: 0,
            mode,
            uid: 0,
            gid: 0,
            nlink: if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 },
            rdev: 0,
            flags: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }
    /// The file type bits of `mode`.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
    /// Is it a regular file?
    pub fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        DiskInode {
            size: self.size.into(),
            blocks: self.blocks.into(),
            generation: self.generation.into(),
            parent: self.parent.0.into(),
            entries: self.entries.into(),
            mode: self.mode.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            nlink: self.nlink.into(),
            rdev: self.rdev.into(),
            flags: self.flags.into(),
            atime: self.atime.into(),
            mtime: self.mtime.into(),
            ctime: self.ctime.into(),
            btime: self.btime.into(),
        }
        .as_bytes()
        .to_vec()
    }
    /// The inverse of [`Inode::encode`]; `None` if the value is not an inode.
    pub fn decode(ino: Ino, value: &[u8]) -> Option<Self> {
        let disk = DiskInode::read_from_bytes(value).ok()?;
        Some(Self {
            ino,
            size: disk.size.get(),
            blocks: disk.blocks.get(),
            generation: disk.generation.get(),
            parent: Ino(disk.parent.get()),
            entries: disk.entries.get(),
            mode: disk.mode.get(),
            uid: disk.uid.get(),
            gid: disk.gid.get(),
            nlink: disk.nlink.get(),
            rdev: disk.rdev.get(),
            flags: disk.flags.get(),
            atime: disk.atime.into(),
            mtime: disk.mtime.into(),
            ctime: disk.ctime.into(),
            btime: disk.btime.into(),
        })
    }
}

/// A directory entry: value of a [`crate::core::Class::Dirent`] item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// What the name leads to.
    pub ino: Ino,
    /// File type bits shifted down (DT_* value).
    pub kind: u8,
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
}

impl Dirent {
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.name.len());
        out.extend_from_slice(&self.ino.0.to_le_bytes());
        out.push(self.kind);
        out.extend_from_slice(&self.name);
        out
    }
    /// The inverse of [`Dirent::encode`].
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (ino, rest) = value.split_first_chunk::<8>()?;
        let (&kind, name) = rest.split_first()?;
        (!name.is_empty() && name.len() <= 255).then(|| Self { ino: Ino(u64::from_le_bytes(*ino)), kind, name: name.to_vec() })
    }
}

/// Appends a number in groups of seven bits, the lowest first; all but the last have the top bit set (LEB128).
pub(super) fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The inverse of [`push_varint`], and what follows it; `None` for a number that is cut short, too large or longer than it need be.
pub(super) fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut n = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        if part << (7 * i) >> (7 * i) != part {
            return None;
        }
        n |= part << (7 * i);
        if byte < 0x80 {
            return (byte != 0 || i == 0).then_some((n, &bytes[i + 1..]));
        }
    }
    None
}

/// Appends a number that ends a value: little-endian, without the zero bytes at its end.
fn push_last(out: &mut Vec<u8>, n: u64) {
    let len = (u64::BITS - n.leading_zeros()).div_ceil(8) as usize;
    out.extend_from_slice(&n.to_le_bytes()[..len]);
}

/// The inverse of [`push_last`].
fn take_last(bytes: &[u8]) -> Option<u64> {
    if bytes.len() > 8 || bytes.last() == Some(&0) {
        return None;
    }
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

/// Most bytes in the value of an extent.
pub const MAX_EXTENT: usize = 1 + 5 + 1 + 8;

/// First byte of an extent that says its length; any other is the estimate of a single block. What is written at random is single blocks, of which a leaf holds as
/// many as if there were no estimates.
const LENGTH_FOLLOWS: u8 = 0xff;

/// An extent of a file: the key holds its first file block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First file block (the key, not part of the value).
    pub block: FileBlock,
    /// Length in blocks.
    pub blocks: u32,
    /// Where it lies; `Addr::NONE`: preallocated, reads as zeros.
    pub addr: Addr,
    /// How often its blocks are expected to be written: a hint for the placement, which may be anything.
    pub estimate: Estimate,
}

impl Extent {
    /// First file block behind it.
    pub fn end(&self) -> FileBlock {
        FileBlock(self.block.0 + u64::from(self.blocks))
    }
    /// Preallocated and never written?
    pub fn is_unwritten(&self) -> bool {
        self.addr.is_none()
    }
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_EXTENT);
        if self.is_short() {
            out.push(self.estimate.0);
        } else {
            out.push(LENGTH_FOLLOWS);
            push_varint(&mut out, self.blocks.into());
            out.push(self.estimate.0);
        }
        push_last(&mut out, self.addr.0);
        out
    }
    /// The inverse of [`Extent::encode`].
    pub fn decode(block: FileBlock, value: &[u8]) -> Option<Self> {
        let (&first, rest) = value.split_first()?;
        if first != LENGTH_FOLLOWS {
            return Some(Self { block, blocks: 1, addr: Addr(take_last(rest)?), estimate: Estimate(first) });
        }
        let (blocks, rest) = take_varint(rest)?;
        let (&estimate, rest) = rest.split_first()?;
        let blocks = u32::try_from(blocks).ok().filter(|&blocks| blocks > 0)?;
        let extent = Self { block, blocks, addr: Addr(take_last(rest)?), estimate: Estimate(estimate) };
        // A value has one form.
        (!extent.is_short()).then_some(extent)
    }
    /// A single block, which its estimate alone tells.
    fn is_short(&self) -> bool {
        self.blocks == 1 && self.estimate.0 != LENGTH_FOLLOWS
    }
}

/// Owner of a run of data blocks as it was when the run was written; whether it still owns them, the extents say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// First block of the run (the key, not part of the value).
    pub addr: Addr,
    /// Length in blocks.
    pub blocks: u32,
    /// Whose data.
    pub ino: Ino,
    /// The first block of the run is this block of the file.
    pub block: FileBlock,
}

impl Summary {
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        push_varint(&mut out, self.blocks.into());
        push_varint(&mut out, self.ino.0);
        push_last(&mut out, self.block.0);
        out
    }
    /// The inverse of [`Summary::encode`].
    pub fn decode(addr: Addr, value: &[u8]) -> Option<Self> {
        let (blocks, rest) = take_varint(value)?;
        let (ino, rest) = take_varint(rest)?;
        let blocks = u32::try_from(blocks).ok().filter(|&blocks| blocks > 0)?;
        Some(Self { addr, blocks, ino: Ino(ino), block: FileBlock(take_last(rest)?) })
    }
}

/// Work to be finished on an inode, in idempotent steps; value of a [`crate::core::Class::Intent`] item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// No link is left: free it when nobody holds it open (at the next mount at the latest).
    Free,
    /// Remove what lies at or beyond this block.
    Cut {
        /// First block to go.
        from: FileBlock,
    },
}

impl Intent {
    /// The value of its item.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, from) = match self {
            Self::Free => (1u16, 0),
            Self::Cut { from } => (2, from.0),
        };
        let mut out = U16::new(kind).as_bytes().to_vec();
        out.extend_from_slice(&from.to_le_bytes());
        out
    }
    /// The inverse of [`Intent::encode`].
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (kind, rest) = value.split_first_chunk::<2>()?;
        let from = FileBlock(u64::from_le_bytes(rest.try_into().ok()?));
        match u16::from_le_bytes(*kind) {
            1 => Some(Self::Free),
            2 => Some(Self::Cut { from }),
            _ => None,
        }
    }
}

/// Checksums of data: an item holds those of up to this many consecutive file blocks, CRC32C, 4 bytes each, from the first of the group on.
pub const CHECKSUM_GROUP: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of every length.
    fn number(bits: u32) -> impl Strategy<Value = u64> {
        (any::<u64>(), 64 - bits..64).prop_map(|(n, shift)| n >> shift)
    }

    proptest! {
        #[test]
        fn extents_and_summaries_return(blocks in number(32), addr in number(64), ino in number(64), block in number(64), estimate: u8) {
            let blocks = u32::try_from(blocks).unwrap().max(1);
            let extent = Extent { block: FileBlock(block), blocks, addr: Addr(addr), estimate: Estimate(estimate) };
            prop_assert!(extent.encode().len() <= MAX_EXTENT);
            prop_assert_eq!(Extent::decode(FileBlock(block), &extent.encode()), Some(extent));
            let summary = Summary { addr: Addr(addr), blocks, ino: Ino(ino), block: FileBlock(block) };
            prop_assert_eq!(Summary::decode(Addr(addr), &summary.encode()), Some(summary));
        }

        #[test]
        fn a_value_has_one_form(bytes in proptest::collection::vec(prop_oneof![Just(0), Just(0x80), any::<u8>()], 0..24)) {
            if let Some(extent) = Extent::decode(FileBlock(1), &bytes) {
                prop_assert_eq!(extent.encode(), &bytes[..]);
            }
            if let Some(summary) = Summary::decode(Addr(1), &bytes) {
                prop_assert_eq!(summary.encode(), &bytes[..]);
            }
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for value in [
            &[][..],
            &[1, 0],
            &[1; 10],
            &[0xff],
            &[0xff, 0, 0],
            &[0xff, 0x80],
            &[0xff, 1, 7, 1],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0, 1],
        ] {
            assert_eq!(Extent::decode(FileBlock(0), value), None, "{value:?}");
        }
        assert_eq!(Extent::decode(FileBlock(0), &[7]).map(|extent| (extent.blocks, extent.is_unwritten())), Some((1, true)));
    }
}
