//! Values of the metadata tree's items.

use crate::addr::Addr;
use crate::ids::{FileBlock, Ino};
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
    /// Distinguishes inodes that had the same number (numbers are never used twice, so this is the volume's birth salt).
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
    /// FS_IOC_GETFLAGS bits.
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

impl Inode {
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

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskExtent {
    addr: U64,
    blocks: U32,
    reserved: U32,
}

/// An extent of a file: the key holds its first file block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First file block (the key, not part of the value).
    pub block: FileBlock,
    /// Length in blocks.
    pub blocks: u32,
    /// Where it lies; `Addr::NONE`: preallocated, reads as zeros.
    pub addr: Addr,
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
    pub fn encode(&self) -> [u8; 16] {
        let disk = DiskExtent { addr: self.addr.0.into(), blocks: self.blocks.into(), reserved: 0.into() };
        disk.as_bytes().try_into().expect("sixteen bytes")
    }
    /// The inverse of [`Extent::encode`].
    pub fn decode(block: FileBlock, value: &[u8]) -> Option<Self> {
        let disk = DiskExtent::read_from_bytes(value).ok()?;
        let blocks = disk.blocks.get();
        (blocks > 0).then(|| Self { block, blocks, addr: Addr(disk.addr.get()) })
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskSummary {
    ino: U64,
    block: U64,
    blocks: U32,
    reserved: U32,
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
    pub fn encode(&self) -> [u8; 24] {
        let disk = DiskSummary { ino: self.ino.0.into(), block: self.block.0.into(), blocks: self.blocks.into(), reserved: 0.into() };
        disk.as_bytes().try_into().expect("twenty-four bytes")
    }
    /// The inverse of [`Summary::encode`].
    pub fn decode(addr: Addr, value: &[u8]) -> Option<Self> {
        let disk = DiskSummary::read_from_bytes(value).ok()?;
        let blocks = disk.blocks.get();
        (blocks > 0).then(|| Self { addr, blocks, ino: Ino(disk.ino.get()), block: FileBlock(disk.block.get()) })
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
