//! Pages of the node map: a radix tree from node ids to where nodes lie, 255 entries to a page.
//!
//! A page holds a 16-byte header and entries `{address u64, CRC-32C u32, flags u32}`. Level 0 maps nodes, level n maps the pages of
//! level n - 1. A free id keeps the next free id in place of an address. An address of zero means that nothing was ever written
//! there: for a map page, that all its entries are empty.

use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::page::{KIND_MAP, MAGIC, Page, VERSION};
use crate::ids::NodeId;
use crate::{BLOCK, core::page::KIND_NODE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_mut, transmute_ref};

/// Entries in a map page.
pub const FANOUT: u64 = 255;
/// Most levels a map can have: seven reach beyond 2^55 nodes.
pub const MAX_LEVELS: u8 = 7;
const FLAG_FREE: u32 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MapHeader {
    magic: U32,
    version: u8,
    level: u8,
    kind: u8,
    pad: u8,
    index: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    word: U64,
    crc: U32,
    flags: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MapPage {
    header: MapHeader,
    entries: [RawEntry; FANOUT as usize],
}

const _: () = assert!(size_of::<MapHeader>() == 16);
const _: () = assert!(size_of::<RawEntry>() == 16);
const _: () = assert!(size_of::<MapPage>() == BLOCK);
const _: () = assert!(KIND_MAP != KIND_NODE);

/// What an entry of the map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing was ever written.
    Empty,
    /// The block lies there and has this CRC-32C.
    At(Addr, u32),
    /// A free id, followed by this one in the chain (0: the last).
    Free(NodeId),
}

fn view(page: &Page) -> &MapPage {
    transmute_ref!(page)
}

/// An empty page of the map.
pub fn blank(level: u8, index: u64) -> Page {
    let mut page = Page::new_zeroed();
    let map: &mut MapPage = transmute_mut!(&mut page);
    map.header = MapHeader { magic: MAGIC.into(), version: VERSION, level, kind: KIND_MAP, pad: 0, index: index.into() };
    page
}

/// Entry `i` of a map page.
pub fn entry(page: &Page, i: usize) -> Entry {
    let raw = &view(page).entries[i];
    match (raw.flags.get(), raw.word.get()) {
        (FLAG_FREE, next) => Entry::Free(NodeId(next)),
        (_, 0) => Entry::Empty,
        (_, addr) => Entry::At(Addr(addr), raw.crc.get()),
    }
}

/// Write entry `i` of a map page.
pub fn set_entry(page: &mut Page, i: usize, entry: Entry) {
    let (word, crc, flags) = match entry {
        Entry::Empty => (0, 0, 0),
        Entry::At(addr, crc) => (addr.0, crc, 0),
        Entry::Free(next) => (next.0, 0, FLAG_FREE),
    };
    let map: &mut MapPage = transmute_mut!(page);
    map.entries[i] = RawEntry { word: word.into(), crc: crc.into(), flags: flags.into() };
}

/// Check that `page` is the page `index` of `level`.
pub fn validate(page: &Page, level: u8, index: u64) -> Result<(), String> {
    let map = view(page);
    let h = &map.header;
    if h.magic.get() != MAGIC || h.version != VERSION || h.kind != KIND_MAP || h.pad != 0 {
        return Err("not a page of the node map".into());
    }
    if h.level != level || h.index.get() != index {
        return Err(format!("is map page {}/{}, not {level}/{index}", h.level, h.index));
    }
    let known = |e: &RawEntry| e.flags.get() == 0 || (e.flags.get() == FLAG_FREE && level == 0);
    if map.entries.iter().all(known) { Ok(()) } else { Err("entry with unknown flags".into()) }
}

/// The map page and the entry in it that say where `id` lies, were the map high enough.
pub fn parent(id: BlockId) -> (u8, u64, usize) {
    let (level, index) = match id {
        BlockId::Node(id) => (0, id.0),
        BlockId::Map { level, index } => (level + 1, index),
    };
    (level, index / FANOUT, (index % FANOUT) as usize)
}

/// Ids that a map of this many levels can hold (saturating).
pub fn reach(levels: u8) -> u64 {
    FANOUT.saturating_pow(u32::from(levels))
}
