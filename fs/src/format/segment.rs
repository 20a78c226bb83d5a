//! Segment table pages: one 32-byte entry per zone, 127 entries a page, stored under the node ids 1..=S.

use crate::BLOCK;
use gc::placement::Temperature;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Entries in a page.
pub const ENTRIES: usize = 127;
const MAGIC: u32 = u32::from_le_bytes(*b"FySg");
const VERSION: u16 = 1;

/// What a zone is used for. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Role {
    /// Nothing: empty.
    None = 0,
    /// Superblock ring.
    Ring = 1,
    /// Log records.
    Log = 2,
    /// Metadata.
    Metadata = 3,
    /// Data that users wrote (and host copies where heads are few).
    User = 4,
    /// Blocks relocated by the device.
    RelocatedByDevice = 5,
    /// Blocks relocated by the host.
    RelocatedByHost = 6,
    /// Blocks that copy_file_range had the device copy.
    CopiedByDevice = 7,
}

impl Role {
    /// The role with this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::None,
            1 => Self::Ring,
            2 => Self::Log,
            3 => Self::Metadata,
            4 => Self::User,
            5 => Self::RelocatedByDevice,
            6 => Self::RelocatedByHost,
            7 => Self::CopiedByDevice,
            _ => return None,
        })
    }
    /// Does it hold file data?
    pub fn is_data(self) -> bool {
        matches!(self, Self::User | Self::RelocatedByDevice | Self::RelocatedByHost | Self::CopiedByDevice)
    }
}

/// Where a zone is in its life. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Phase {
    /// Free to be opened.
    Empty = 0,
    /// A head writes into it.
    Open = 1,
    /// No more writes.
    Closed = 2,
    /// Failed (read-only, offline, or write errors): never written again; what is live stays readable where the device allows.
    Retired = 3,
}

impl Phase {
    /// The phase with this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::Empty,
            1 => Self::Open,
            2 => Self::Closed,
            3 => Self::Retired,
            _ => return None,
        })
    }
}

/// One zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Use.
    pub role: Role,
    /// Phase.
    pub phase: Phase,
    /// Live blocks.
    pub live: u32,
    /// Blocks written (or given up) from the start.
    pub written: u32,
    /// Logical time of the last write.
    pub written_at: u64,
    /// How often it was reset.
    pub resets: u32,
    /// What its blocks were expected to do when they were put there. A hint, as all that follows: nothing but the cost of cleaning depends on it.
    pub temperature: Temperature,
    /// The class of the head that opened it: 0 is the hottest, or the only one.
    pub class: u8,
    /// Logical time of its opening; zero where nobody estimated.
    pub opened_at: u64,
}

impl SegmentEntry {
    /// An empty zone.
    pub const EMPTY: Self = Self {
        role: Role::None,
        phase: Phase::Empty,
        live: 0,
        written: 0,
        written_at: 0,
        resets: 0,
        temperature: Temperature::UNKNOWN,
        class: 0,
        opened_at: 0,
    };
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskHeader {
    magic: U32,
    version: U16,
    reserved: U16,
    index: U32,
    count: U32,
    reserved2: [u8; 16],
}
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskEntry {
    role: u8,
    phase: u8,
    temperature: u8,
    class: u8,
    live: U32,
    written: U32,
    resets: U32,
    written_at: U64,
    opened_at: U64,
}
const _: () = assert!(size_of::<DiskHeader>() + ENTRIES * size_of::<DiskEntry>() == BLOCK);

/// Serialises page `index` with its entries (at most [`ENTRIES`]).
pub fn encode_page(index: u32, entries: &[SegmentEntry]) -> Box<[u8; BLOCK]> {
    let mut page = Box::new([0; BLOCK]);
    let header = DiskHeader {
        magic: MAGIC.into(),
        version: VERSION.into(),
        reserved: 0.into(),
        index: index.into(),
        count: (entries.len() as u32).into(),
        reserved2: [0; 16],
    };
    page[..32].copy_from_slice(header.as_bytes());
    for (slot, e) in page[32..].chunks_exact_mut(32).zip(entries) {
        let disk = DiskEntry {
            role: e.role as u8,
            phase: e.phase as u8,
            temperature: e.temperature.0,
            class: e.class,
            live: e.live.into(),
            written: e.written.into(),
            resets: e.resets.into(),
            written_at: e.written_at.into(),
            opened_at: e.opened_at.into(),
        };
        slot.copy_from_slice(disk.as_bytes());
    }
    page
}

/// Reads a page back.
///
/// # Errors
/// What is wrong with it.
pub fn decode_page(page: &[u8], index: u32, count: usize) -> Result<Vec<SegmentEntry>, String> {
    let (header, rest) = DiskHeader::read_from_prefix(page).map_err(|_| "short page".to_string())?;
    if header.magic.get() != MAGIC || header.version.get() != VERSION {
        return Err("not a segment table page of this version".into());
    }
    if header.index.get() != index || header.count.get() as usize != count || count > ENTRIES {
        return Err(format!("segment table page {} with {} entries, expected page {index} with {count}", header.index, header.count));
    }
    let mut entries = Vec::with_capacity(count);
    for slot in rest.chunks_exact(32).take(count) {
        let disk = DiskEntry::read_from_bytes(slot).map_err(|_| "short entry".to_string())?;
        entries.push(SegmentEntry {
            role: Role::from_u8(disk.role).ok_or("unknown zone role")?,
            phase: Phase::from_u8(disk.phase).ok_or("unknown zone phase")?,
            live: disk.live.get(),
            written: disk.written.get(),
            written_at: disk.written_at.get(),
            resets: disk.resets.get(),
            temperature: Temperature(disk.temperature),
            class: disk.class,
            opened_at: disk.opened_at.get(),
        });
    }
    if entries.len() == count { Ok(entries) } else { Err("short segment table page".into()) }
}
