//! One node of the metadata tree: a slotted 4096-byte page that is worked on in place.
//!
//! Layout: a 32-byte header; an array of 4-byte slots `{offset u16, value length u16}` in key order, growing upwards; a heap of
//! cells `{packed key, value}`, growing downwards from the end. Leaves (level 0) hold items, the nodes above hold
//! `(lower bound of the child, NodeId of the child)`. Nothing in a page says where it lies, so a device may move it unseen (I3).
//!
//! A packed key is class and length of `a` in one byte, the length of `b` in another, and the bytes of both without leading zeros. Most
//! items are extents and summaries of small numbers: their pages hold more than twice as many as with keys of 17 bytes, and a page
//! that holds more is written less often for the same changes. Keys stand by themselves (no prefix is shared), so that an
//! insertion never has to rewrite its neighbours.
//!
//! [`validate`] checks everything the accessors rely on, so that a page that passed it can never lead them out of bounds,
//! whoever wrote it (I10).

mod search;

use crate::BLOCK;
use crate::core::key::{Class, Key};
use crate::ids::NodeId;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute, transmute_mut, transmute_ref};

/// Largest value of an item, in bytes. Three of them fit into a page, so a split always makes room.
pub const MAX_ITEM: usize = 1200;
/// Highest level a node may have. Even with a fan-out of 16 this is beyond 2^60 items.
pub const MAX_LEVEL: u8 = 15;
/// Bytes of a page for slots and cells.
pub const CAPACITY: usize = BLOCK - HEADER;
/// First bytes of every metadata page.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FeND");
/// Version of the page formats.
pub const VERSION: u8 = 2;
/// [`NodeHeader::kind`] of a tree node.
pub const KIND_NODE: u8 = 1;
/// Kind of a node map page.
pub const KIND_MAP: u8 = 2;

const HEADER: usize = size_of::<NodeHeader>();
const SLOT: usize = 4;

/// Header of a tree node.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeHeader {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`VERSION`].
    pub version: u8,
    /// 0 for leaves.
    pub level: u8,
    /// [`KIND_NODE`].
    pub kind: u8,
    /// Zero.
    pub pad: u8,
    /// Which node this is.
    pub id: U64,
    /// Items.
    pub count: U16,
    /// Offset of the lowest byte of the heap.
    pub heap: U16,
    /// Dead bytes within the heap.
    pub garbage: U16,
    /// Slot of the latest insertion plus one, 0 if unknown: a hint with which growing runs leave full pages behind. Any value is valid.
    pub latest: U16,
    /// Zero.
    pub reserved: U64,
}

const _: () = assert!(size_of::<NodeHeader>() == 32);
const _: () = assert!(size_of::<Page>() == BLOCK);
// A split of a full page plus one item leaves at most (CAPACITY + 2 * largest cell) / 2 in either half.
const _: () = assert!((CAPACITY + 2 * MAX_CELL) / 2 <= CAPACITY);

/// Bytes before the numbers of a packed key: class and length of `a`, length of `b`.
const KEY_HEAD: usize = 2;
/// Most bytes that an item takes, slot included.
const MAX_CELL: usize = most_bytes(MAX_ITEM);

/// Most bytes that an item with a value of this length takes in a page, slot included.
pub const fn most_bytes(value: usize) -> usize {
    KEY_HEAD + 16 + value + SLOT
}

/// Bytes that an item takes, slot included.
fn cell(key: SortKey, value: usize) -> usize {
    key.packed_len() + value + SLOT
}

/// A 4096-byte metadata page. The methods here are those of a tree node.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Page {
    header: NodeHeader,
    body: [u8; BLOCK - 32],
}

/// A key in the form in which pages compare it: the encoded bytes as numbers. Zero sorts before every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey {
    head: u128,
    tail: u8,
}

impl SortKey {
    /// Before every key: the lower bound of what has none.
    pub const ZERO: SortKey = SortKey { head: 0, tail: 0 };

    /// The key, or `None` for [`SortKey::ZERO`] and unknown classes.
    pub fn key(self) -> Option<Key> {
        let class = Class::from_u8((self.head >> 120) as u8)?;
        let b = ((self.head as u64) << 8) | u64::from(self.tail);
        Some(Key { class, a: (self.head >> 56) as u64, b })
    }
    /// The number of its class; 0 for [`SortKey::ZERO`].
    pub fn class(self) -> usize {
        (self.head >> 120) as usize
    }
    fn a(self) -> u64 {
        (self.head >> 56) as u64
    }
    fn b(self) -> u64 {
        ((self.head as u64) << 8) | u64::from(self.tail)
    }
    fn packed_len(self) -> usize {
        KEY_HEAD + significant(self.a()) + significant(self.b())
    }
    /// Packs the key into `bytes`, which are as long as [`SortKey::packed_len`] says.
    fn pack(self, bytes: &mut [u8]) {
        let (a, b) = (self.a(), self.b());
        let (len_a, len_b) = (significant(a), significant(b));
        bytes[0] = ((self.head >> 120) as u8) << 4 | len_a as u8;
        bytes[1] = len_b as u8;
        bytes[KEY_HEAD..KEY_HEAD + len_a].copy_from_slice(&a.to_be_bytes()[8 - len_a..]);
        bytes[KEY_HEAD + len_a..].copy_from_slice(&b.to_be_bytes()[8 - len_b..]);
    }
}

/// Bytes of a number without its leading zeros.
fn significant(n: u64) -> usize {
    (u64::BITS - n.leading_zeros()).div_ceil(8) as usize
}

impl From<&Key> for SortKey {
    fn from(key: &Key) -> Self {
        let head = u128::from(key.class as u8) << 120 | u128::from(key.a) << 56 | u128::from(key.b >> 8);
        Self { head, tail: key.b as u8 }
    }
}

/// Where a full page is to be cut so that one more item finds room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitPlan {
    /// Items from here on move to the right page.
    pub at: usize,
    /// The new item goes to the left page (else to the right one).
    pub left: bool,
}

impl Page {
    /// An empty node.
    pub fn node(id: NodeId, level: u8) -> Self {
        let mut page = Self::from_bytes([0; BLOCK]);
        page.header.magic = MAGIC.into();
        page.header.version = VERSION;
        page.header.level = level;
        page.header.kind = KIND_NODE;
        page.header.id = id.0.into();
        page.header.heap = (BLOCK as u16).into();
        page
    }
    /// A page with these bytes, whatever they are.
    pub fn from_bytes(bytes: [u8; BLOCK]) -> Self {
        transmute!(bytes)
    }
    /// The bytes of the page.
    #[inline]
    pub fn bytes(&self) -> &[u8; BLOCK] {
        transmute_ref!(self)
    }
    /// The bytes of the page, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK] {
        transmute_mut!(self)
    }
    /// CRC-32C of the page.
    pub fn crc(&self) -> u32 {
        zns::checksum::crc32c(self.bytes())
    }

    /// Which node this is.
    pub fn id(&self) -> NodeId {
        NodeId(self.header.id.get())
    }
    /// 0 for leaves.
    #[inline]
    pub fn level(&self) -> u8 {
        self.header.level
    }
    /// Items.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.header.count.get())
    }
    /// Has it no items?
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
    /// Bytes in use by slots and live cells.
    pub fn used(&self) -> usize {
        CAPACITY - self.free()
    }
    fn heap(&self) -> usize {
        usize::from(self.header.heap.get())
    }
    fn contiguous(&self) -> usize {
        self.heap() - (HEADER + SLOT * self.count())
    }
    fn free(&self) -> usize {
        self.contiguous() + usize::from(self.header.garbage.get())
    }
    #[inline]
    fn slot(&self, i: usize) -> (usize, usize) {
        debug_assert!(i < self.count());
        let at = HEADER + SLOT * i;
        let b = &self.bytes()[at..at + SLOT];
        (usize::from(u16::from_le_bytes([b[0], b[1]])), usize::from(u16::from_le_bytes([b[2], b[3]])))
    }
    fn set_slot(&mut self, i: usize, offset: usize, length: usize) {
        let at = HEADER + SLOT * i;
        let b = &mut self.bytes_mut()[at..at + SLOT];
        b[..2].copy_from_slice(&(offset as u16).to_le_bytes());
        b[2..].copy_from_slice(&(length as u16).to_le_bytes());
    }

    /// Bytes of the packed key at `offset`.
    fn key_len(&self, offset: usize) -> usize {
        let head = &self.bytes()[offset..offset + KEY_HEAD];
        KEY_HEAD + usize::from(head[0] & 15) + usize::from(head[1])
    }
    /// Where the cell of item `i` begins, and its length.
    fn cell(&self, i: usize) -> (usize, usize) {
        let (offset, length) = self.slot(i);
        (offset, self.key_len(offset) + length)
    }

    /// The key of item `i`.
    #[inline]
    pub fn key(&self, i: usize) -> SortKey {
        let (offset, _) = self.slot(i);
        SortKey::unpack(self.bytes(), offset)
    }
    /// The value of item `i`.
    pub fn value(&self, i: usize) -> &[u8] {
        let (offset, length) = self.slot(i);
        let start = offset + self.key_len(offset);
        &self.bytes()[start..start + length]
    }
    /// The child that entry `i` of an inner node names.
    pub fn child(&self, i: usize) -> NodeId {
        debug_assert!(self.level() > 0);
        NodeId(u64::from_le_bytes(self.value(i).try_into().expect("children are eight bytes")))
    }
    /// Insert an item before item `i`; false, and nothing changed, if it does not fit.
    #[must_use]
    pub fn insert(&mut self, i: usize, key: SortKey, value: &[u8]) -> bool {
        let need = cell(key, value.len());
        if self.free() < need {
            return false;
        }
        if self.contiguous() < need {
            self.compact();
        }
        let count = self.count();
        let size = need - SLOT;
        let offset = self.heap() - size;
        let bytes = self.bytes_mut();
        let (packed, rest) = bytes[offset..offset + size].split_at_mut(size - value.len());
        key.pack(packed);
        rest.copy_from_slice(value);
        bytes.copy_within(HEADER + SLOT * i..HEADER + SLOT * count, HEADER + SLOT * (i + 1));
        self.header.heap = (offset as u16).into();
        self.header.count = (count as u16 + 1).into();
        self.header.latest = (i as u16 + 1).into();
        self.set_slot(i, offset, value.len());
        true
    }
    /// Replace the value of item `i`; false, and nothing changed, if the new one does not fit.
    #[must_use]
    pub fn replace(&mut self, i: usize, value: &[u8]) -> bool {
        let (offset, length) = self.slot(i);
        if value.len() <= length {
            let start = offset + self.key_len(offset);
            self.bytes_mut()[start..start + value.len()].copy_from_slice(value);
            self.set_slot(i, offset, value.len());
            self.add_garbage(length - value.len());
            return true;
        }
        if self.free() < value.len() - length {
            return false;
        }
        let key = self.key(i);
        self.remove(i);
        self.insert(i, key, value)
    }
    /// Point entry `i` of an inner node to another child.
    pub fn set_child(&mut self, i: usize, child: NodeId) {
        let replaced = self.replace(i, &child.0.to_le_bytes());
        debug_assert!(replaced, "same length");
    }
    /// Remove item `i`.
    pub fn remove(&mut self, i: usize) {
        self.remove_run(i, i + 1);
        let latest = usize::from(self.header.latest.get());
        self.header.latest = match latest {
            l if l > i + 1 => (l as u16 - 1).into(),
            l if l == i + 1 => 0.into(),
            l => (l as u16).into(),
        };
    }
    /// Remove items `from..to`.
    pub fn remove_run(&mut self, from: usize, to: usize) {
        let count = self.count();
        debug_assert!(from <= to && to <= count);
        for i in from..to {
            let (offset, size) = self.cell(i);
            if offset == self.heap() {
                self.header.heap = ((offset + size) as u16).into();
            } else {
                self.add_garbage(size);
            }
        }
        self.bytes_mut().copy_within(HEADER + SLOT * to..HEADER + SLOT * count, HEADER + SLOT * from);
        self.header.count = ((count - (to - from)) as u16).into();
        if self.is_empty() {
            self.header.heap = (BLOCK as u16).into();
            self.header.garbage = 0.into();
        }
        if to - from != 1 {
            self.header.latest = 0.into();
        }
    }
    fn add_garbage(&mut self, bytes: usize) {
        self.header.garbage = (self.header.garbage.get() + bytes as u16).into();
    }

    /// Bring the heap together and clear what is free.
    fn compact(&mut self) {
        let old = self.clone();
        let end = HEADER + SLOT * self.count();
        self.bytes_mut()[end..].fill(0);
        let mut heap = BLOCK;
        for i in 0..old.count() {
            let (_, length) = old.slot(i);
            let (offset, size) = old.cell(i);
            heap -= size;
            self.bytes_mut()[heap..heap + size].copy_from_slice(&old.bytes()[offset..offset + size]);
            self.set_slot(i, heap, length);
        }
        self.header.heap = (heap as u16).into();
        self.header.garbage = 0.into();
    }
    /// Move items from `at` on to `right`, which is empty.
    pub fn split_off(&mut self, at: usize, right: &mut Page) {
        let latest = usize::from(self.header.latest.get());
        for i in at..self.count() {
            let fits = right.insert(i - at, self.key(i), self.value(i));
            debug_assert!(fits, "what one page held fits into an empty one");
        }
        let count = self.count();
        self.remove_run(at, count);
        self.compact();
        self.header.latest = (if latest <= at { latest as u16 } else { 0 }).into();
        right.header.latest = (latest.saturating_sub(at) as u16).into();
    }
    /// Append all items of `right`, whose keys are larger; false, and nothing changed, if they do not fit.
    #[must_use]
    pub fn absorb(&mut self, right: &Page) -> bool {
        if self.free() < right.used() {
            return false;
        }
        for i in 0..right.count() {
            let fits = self.insert(self.count(), right.key(i), right.value(i));
            debug_assert!(fits, "checked above");
        }
        self.header.latest = 0.into();
        true
    }

    /// Where to split this page so that an item `key` of `value` bytes fits before item `i`. `append` says that nothing will come after
    /// this page; a run that grows item by item is recognised by [`NodeHeader::latest`] and leaves full pages behind.
    pub fn plan_split(&self, i: usize, key: SortKey, value: usize, append: bool) -> SplitPlan {
        let count = self.count();
        let growing = i > 0 && usize::from(self.header.latest.get()) == i;
        if i == count && (growing || append) {
            return SplitPlan { at: count, left: false };
        }
        let need = cell(key, value);
        let size = |i: usize| self.cell(i).1 + SLOT;
        if growing && (0..i).map(size).sum::<usize>() + need <= CAPACITY {
            return SplitPlan { at: i, left: true };
        }
        // The boundary, in the sequence with the new item in its place, that balances best.
        let total = need + self.used();
        let (mut left, mut best, mut chosen) = (0, usize::MAX, 1);
        for boundary in 1..=count {
            let k = boundary - 1;
            left += match k.cmp(&i) {
                std::cmp::Ordering::Less => size(k),
                std::cmp::Ordering::Equal => need,
                std::cmp::Ordering::Greater => size(k - 1),
            };
            let larger = left.max(total - left);
            if larger < best {
                (best, chosen) = (larger, boundary);
            }
        }
        debug_assert!(best <= CAPACITY);
        if i < chosen { SplitPlan { at: chosen - 1, left: true } } else { SplitPlan { at: chosen, left: false } }
    }
}

/// Check that `bytes` are node `id` and that every access to it stays in bounds. The error says what is wrong.
pub fn validate(bytes: &[u8; BLOCK], id: NodeId) -> Result<(), String> {
    let page: &Page = transmute_ref!(bytes);
    let h = &page.header;
    let demand = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_string()) };
    demand(h.magic.get() == MAGIC, "wrong magic")?;
    demand(h.version == VERSION, "unknown version")?;
    demand(h.kind == KIND_NODE, "not a tree node")?;
    demand(h.pad == 0 && h.reserved.get() == 0, "reserved bytes are not zero")?;
    if h.id.get() != id.0 {
        return Err(format!("is node {}, not {id}", h.id));
    }
    demand(h.level <= MAX_LEVEL, "level too high")?;
    let (count, heap, garbage) = (page.count(), page.heap(), usize::from(h.garbage.get()));
    demand(heap <= BLOCK && HEADER + SLOT * count <= heap, "slots and heap overlap")?;
    demand(h.level == 0 || count > 0, "inner node without children")?;
    let mut cells = Vec::with_capacity(count);
    let mut before: Option<SortKey> = None;
    for i in 0..count {
        let (offset, length) = page.slot(i);
        demand(offset >= heap && offset + KEY_HEAD <= BLOCK, "cell outside the heap")?;
        let (len_a, len_b) = (usize::from(bytes[offset] & 15), usize::from(bytes[offset + 1]));
        demand(len_a <= 8 && len_b <= 8, "impossible key")?;
        let end = offset + KEY_HEAD + len_a + len_b + length;
        demand(end <= BLOCK, "cell outside the heap")?;
        demand(length <= MAX_ITEM, "value too long")?;
        demand(h.level == 0 || length == 8, "child of wrong length")?;
        demand(h.level == 0 || (1..1 << 56).contains(&page.child(i).0), "impossible child")?;
        let key = page.key(i);
        demand(key.packed_len() == KEY_HEAD + len_a + len_b, "key is longer than it need be")?;
        demand(before.is_none_or(|b| b < key), "keys out of order")?;
        demand(key.key().is_some() || (h.level > 0 && i == 0 && key == SortKey::ZERO), "unknown class")?;
        before = Some(key);
        cells.push((offset, end));
    }
    cells.sort_unstable();
    demand(cells.windows(2).all(|w| w[0].1 <= w[1].0), "cells overlap")?;
    let live: usize = cells.iter().map(|c| c.1 - c.0).sum();
    demand(live + garbage == BLOCK - heap, "heap does not add up")
}

#[cfg(test)]
mod tests;
