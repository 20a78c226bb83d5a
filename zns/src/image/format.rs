//! The image's own bytes: header and zone table.
//!
//! ```text
//! 0           header, first copy (4 KiB)
//! 64 KiB      header, second copy
//! 128 KiB     zone table, slot 0: `table_blocks` blocks of 4 KiB
//!             zone table, slot 1: as many
//! data_offset zone 0, zone 1, ... (a multiple of 1 MiB)
//! ```
//!
//! The header is written once, when the image is made. A table block is written by turns to slot 0 and slot 1
//! under a growing sequence number (even sequences in slot 0), so that a torn write leaves the older one. All
//! numbers are little-endian; each block carries a crc32c over itself with the checksum field zero.

use super::layout::Layout;
use crate::machine::{Snapshot, state_from_number, state_number};
use crate::native_copy::CopyLimits;
use crate::zone::ZoneState;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a header copy and in a table block.
pub(super) const META_BLOCK: usize = 4096;
/// Where the two copies of the header lie.
pub(super) const HEADER_OFFSETS: [u64; 2] = [0, 64 << 10];
/// Where the zone table begins.
pub(super) const TABLE_OFFSET: u64 = 128 << 10;
/// Version of the format that this code reads and writes.
pub(super) const VERSION: u32 = 1;
/// First bytes of a header.
pub(super) const MAGIC: [u8; 8] = *b"FERRYZNS";
const TABLE_MAGIC: [u8; 4] = *b"FZTB";

/// Incompatible features that this code knows: none yet.
pub(super) const KNOWN_INCOMPATIBLE: u64 = 0;
/// Features that this code must know to write to the image: none yet.
pub(super) const KNOWN_READ_ONLY_COMPATIBLE: u64 = 0;

/// The header of an image; the rest of its 4 KiB is zero.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// crc32c of the whole 4 KiB with this field zero.
    pub checksum: U32,
    /// Features that older code may ignore.
    pub compatible: U64,
    /// Features that older code may ignore as long as it only reads.
    pub read_only_compatible: U64,
    /// Features that older code must not touch.
    pub incompatible: U64,
    /// Bytes in a device block.
    pub block_size: U32,
    /// Number of zones.
    pub zones: U32,
    /// Blocks from zone to zone.
    pub zone_size: U64,
    /// Writable blocks of a zone.
    pub zone_capacity: U64,
    /// Limit of open zones, 0 for none.
    pub max_open: U32,
    /// Limit of active zones, 0 for none.
    pub max_active: U32,
    /// Copy: blocks of a source range.
    pub mssrl: U32,
    /// Copy: blocks of a command.
    pub mcl: U32,
    /// Copy: source ranges of a command.
    pub copy_ranges: U32,
    /// Blocks of the zone table in one slot.
    pub table_blocks: U32,
    /// Where zone 0 begins in the file.
    pub data_offset: U64,
}
const _: () = assert!(size_of::<Header>() == 96);

/// Head of a table block.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TableHead {
    magic: [u8; 4],
    checksum: U32,
    sequence: U64,
    index: U32,
    entries: U32,
    reserved: U64,
}
const _: () = assert!(size_of::<TableHead>() == 32);

/// One zone in a table block.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TableEntry {
    written: U64,
    state: u8,
    reserved: [u8; 7],
}
const _: () = assert!(size_of::<TableEntry>() == 16);

/// Zones in one table block.
pub(super) const ZONES_PER_BLOCK: usize = (META_BLOCK - size_of::<TableHead>()) / size_of::<TableEntry>();
const _: () = assert!(ZONES_PER_BLOCK == 254);

/// Checksum of a block whose checksum field lies at `field`.
fn checksum(block: &[u8], field: usize) -> u32 {
    let before = crc32c::crc32c(&block[..field]);
    let zeroed = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(zeroed, &block[field + 4..])
}

const HEADER_CHECKSUM: usize = 12;
const TABLE_CHECKSUM: usize = 4;

/// What a copy of the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    /// A layout that this code can use.
    Sound(Layout),
    /// Not a header of an image at all.
    Foreign,
    /// A header whose checksum fails.
    Damaged,
    /// A sound header that this code must refuse, with the reason.
    Refused(String),
}

/// The 4 KiB of a header.
pub(super) fn encode_header(layout: &Layout) -> [u8; META_BLOCK] {
    let header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        checksum: 0.into(),
        compatible: 0.into(),
        read_only_compatible: 0.into(),
        incompatible: 0.into(),
        block_size: layout.block_size.into(),
        zones: layout.zones.into(),
        zone_size: layout.zone_size.into(),
        zone_capacity: layout.zone_capacity.into(),
        max_open: layout.max_open.into(),
        max_active: layout.max_active.into(),
        mssrl: layout.copy.mssrl.into(),
        mcl: layout.copy.mcl.into(),
        copy_ranges: layout.copy.ranges.into(),
        table_blocks: layout.table_blocks().into(),
        data_offset: layout.data_offset().into(),
    };
    seal_header(&header)
}

/// A header with its checksum, in its 4 KiB.
pub(super) fn seal_header(header: &Header) -> [u8; META_BLOCK] {
    let mut block = [0; META_BLOCK];
    block[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    seal(&mut block, HEADER_CHECKSUM);
    block
}

/// Gives a block the checksum of what it says, in the field at `field`.
fn seal(block: &mut [u8; META_BLOCK], field: usize) {
    let sum = checksum(block, field);
    block[field..field + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Gives what begins like a header its checksum; `false` if it does not.
pub(super) fn reseal_header(block: &mut [u8; META_BLOCK]) -> bool {
    let is_header = block.starts_with(&MAGIC);
    if is_header {
        seal(block, HEADER_CHECKSUM);
    }
    is_header
}

/// The same for a block of the zone table.
pub(super) fn reseal_table(block: &mut [u8; META_BLOCK]) -> bool {
    let is_table = block.starts_with(&TABLE_MAGIC);
    if is_table {
        seal(block, TABLE_CHECKSUM);
    }
    is_table
}

/// Reads one copy of the header.
pub(super) fn decode_header(block: &[u8], read_only: bool) -> HeaderRead {
    let Ok((header, _)) = Header::ref_from_prefix(block) else { return HeaderRead::Foreign };
    if header.magic != MAGIC {
        return HeaderRead::Foreign;
    }
    if block.len() != META_BLOCK || header.checksum.get() != checksum(block, HEADER_CHECKSUM) {
        return HeaderRead::Damaged;
    }
    if let Some(reason) = refusal(header, read_only) {
        return HeaderRead::Refused(reason);
    }
    let layout = Layout {
        block_size: header.block_size.get(),
        zones: header.zones.get(),
        zone_size: header.zone_size.get(),
        zone_capacity: header.zone_capacity.get(),
        max_open: header.max_open.get(),
        max_active: header.max_active.get(),
        copy: CopyLimits { mssrl: header.mssrl.get(), mcl: header.mcl.get(), ranges: header.copy_ranges.get() },
    };
    if let Err(reason) = layout.check() {
        return HeaderRead::Refused(format!("the header of the drive image makes no sense: {reason}"));
    }
    if header.table_blocks.get() != layout.table_blocks() || header.data_offset.get() != layout.data_offset() {
        return HeaderRead::Refused("the header of the drive image places its zone table where it cannot be".to_owned());
    }
    HeaderRead::Sound(layout)
}

fn refusal(header: &Header, read_only: bool) -> Option<String> {
    let version = header.version.get();
    if version != VERSION {
        return Some(format!("the drive image has format version {version}; this program knows version {VERSION}"));
    }
    let unknown = |bits: u64, known: u64| (bits & !known != 0).then(|| (bits & !known).trailing_zeros());
    if let Some(bit) = unknown(header.incompatible.get(), KNOWN_INCOMPATIBLE) {
        return Some(format!("the drive image uses incompatible feature bit {bit}, which this program does not know: use a newer one"));
    }
    match unknown(header.read_only_compatible.get(), KNOWN_READ_ONLY_COMPATIBLE) {
        Some(bit) if !read_only => {
            Some(format!("the drive image uses feature bit {bit}, which this program does not know: it can only be opened read-only"))
        }
        _ => None,
    }
}

/// A table block as read from one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TableRead {
    /// Its sequence number and zones.
    Sound(u64, Vec<Snapshot>),
    /// All zero: never written.
    Blank,
    /// Torn or damaged.
    Damaged,
}

/// No table block is written so often: one that says so is damaged, and its successor would have no number.
const LAST_SEQUENCE: u64 = 1 << 62;

/// Which slot a sequence number belongs to.
pub(super) fn slot_of(sequence: u64) -> usize {
    (sequence & 1) as usize
}

/// The 4 KiB of table block `index`.
pub(super) fn encode_table(index: u32, sequence: u64, zones: &[Snapshot]) -> [u8; META_BLOCK] {
    let mut block = [0; META_BLOCK];
    let head = TableHead {
        magic: TABLE_MAGIC,
        checksum: 0.into(),
        sequence: sequence.into(),
        index: index.into(),
        entries: (zones.len() as u32).into(),
        reserved: 0.into(),
    };
    let (start, rest) = block.split_at_mut(size_of::<TableHead>());
    start.copy_from_slice(head.as_bytes());
    for (zone, place) in zones.iter().zip(rest.chunks_exact_mut(size_of::<TableEntry>())) {
        let entry = TableEntry { written: zone.written.into(), state: state_number(zone.state), reserved: [0; 7] };
        place.copy_from_slice(entry.as_bytes());
    }
    seal(&mut block, TABLE_CHECKSUM);
    block
}

/// Is this, whole and unharmed, a table block with this index?
pub(super) fn is_table(block: &[u8; META_BLOCK], index: u32) -> bool {
    TableHead::ref_from_prefix(block).is_ok_and(|(head, _)| {
        head.magic == TABLE_MAGIC && head.index.get() == index && head.checksum.get() == checksum(block, TABLE_CHECKSUM)
    })
}

/// Reads table block `index` from `slot`; it must describe `zones` zones of `capacity` blocks.
pub(super) fn decode_table(block: &[u8], index: u32, slot: usize, zones: usize, capacity: u64) -> TableRead {
    if block.iter().all(|&byte| byte == 0) {
        return TableRead::Blank;
    }
    let Ok((head, rest)) = TableHead::ref_from_prefix(block) else { return TableRead::Damaged };
    let sequence = head.sequence.get();
    let sound = block.len() == META_BLOCK
        && head.magic == TABLE_MAGIC
        && head.checksum.get() == checksum(block, TABLE_CHECKSUM)
        && head.index.get() == index
        && head.entries.get() as usize == zones
        && zones <= ZONES_PER_BLOCK
        && slot_of(sequence) == slot
        && sequence < LAST_SEQUENCE;
    if !sound {
        return TableRead::Damaged;
    }
    let entries = rest.chunks_exact(size_of::<TableEntry>()).take(zones).map(|bytes| decode_entry(bytes, capacity));
    match entries.collect() {
        Some(zones) => TableRead::Sound(sequence, zones),
        None => TableRead::Damaged,
    }
}

fn decode_entry(bytes: &[u8], capacity: u64) -> Option<Snapshot> {
    let entry = TableEntry::ref_from_bytes(bytes).ok()?;
    let (state, written) = (state_from_number(entry.state)?, entry.written.get());
    let possible = match state {
        ZoneState::Empty => written == 0,
        state if state.is_active() => written < capacity,
        _ => written <= capacity,
    };
    possible.then_some(Snapshot { state, written })
}
