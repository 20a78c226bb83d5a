//! Bringing blocks in: what to read for a block that is missing, and taking what was read.
//!
//! The way to a block leads through the node map from its root. [`NodeStore::fetch_for`] names the highest block on that way
//! that is missing, with its address: the shell reads it, verifies the checksum, installs it, and asks again until the block
//! itself is there.

use super::cache::SLOT_BYTES;
use super::map::{self, Entry};
use super::{NodeStore, parent_page};
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::page::{self, Page};
use crate::error::{FsError, Result};
use crate::ids::NodeId;
use std::sync::Arc;

/// A block to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What it is.
    pub id: BlockId,
    /// Where it lies.
    pub addr: Addr,
    /// CRC-32C that its 4096 bytes must have.
    pub crc: u32,
}

fn corrupt(id: BlockId, addr: Addr, detail: impl Into<String>) -> FsError {
    let what = if matches!(id, BlockId::Map { .. }) { "node map" } else { "metadata node" };
    FsError::Corrupt { what, addr, detail: format!("{id:?}: {}", detail.into()) }
}

impl NodeStore {
    /// What the map says about a block; `None` if the map page that knows is missing.
    pub(super) fn mapped(&self, id: BlockId) -> Option<Entry> {
        let root = self.roots.map_root;
        if matches!(id, BlockId::Map { level, .. } if level + 1 == root.levels) {
            return Some(if root.addr.is_none() { Entry::Empty } else { Entry::At(root.addr, root.crc) });
        }
        let above = parent_page(id);
        let (_, _, i) = map::parent(id);
        match self.cache.get(above.pack()) {
            Some(slot) => Some(map::entry(&slot.page, i)),
            // A map page that was never written has only empty entries.
            None => match self.mapped(above)? {
                Entry::Empty => Some(Entry::Empty),
                _ => None,
            },
        }
    }
    fn is_possible(&self, id: BlockId) -> bool {
        match id {
            BlockId::Node(id) => id.0 > 0 && id.0 < self.roots.next_id,
            BlockId::Map { level, index } => {
                let levels = self.roots.map_root.levels;
                level < levels && index < map::reach(levels - 1 - level)
            }
        }
    }

    /// What to read now on the way to `want`: the map page that is missing first, or the block itself. `None` if it is resident
    /// already (someone else brought it). An error if the map knows no such block, or if it is known to be damaged.
    ///
    /// What is returned is valid until the store is changed. If what was read does not have the checksum, ask again before
    /// calling it corrupt: the block may have moved meanwhile.
    pub fn fetch_for(&self, want: BlockId) -> Result<Option<Fetch>> {
        if let BlockId::Node(id) = want
            && let Some(why) = self.suspects.lock().get(&id.0)
        {
            let addr = self.cache.peek(id.0).map_or(Addr::NONE, |slot| slot.addr);
            return Err(corrupt(want, addr, *why));
        }
        // A freed id has a stale map entry until the next cut.
        if !self.is_possible(want) || matches!(want, BlockId::Node(NodeId(n)) if self.freed.contains(&n)) {
            return Err(corrupt(want, Addr::NONE, "no such block"));
        }
        if self.is_resident(want) {
            return Ok(None);
        }
        let mut id = want;
        loop {
            match self.mapped(id) {
                Some(Entry::At(addr, crc)) => return Ok(Some(Fetch { id, addr, crc })),
                Some(_) => return Err(corrupt(want, Addr::NONE, "the node map knows no such block")),
                None => id = parent_page(id),
            }
        }
    }

    /// Is there no such node (any more)? Whoever found out under the lock that it is needed, and let go of the lock to load it, must expect that: it
    /// may have been freed since. `false` also where only a map page that is missing could tell.
    pub fn is_gone(&self, id: BlockId) -> bool {
        let BlockId::Node(node) = id else { return false };
        if !self.is_possible(id) || self.suspects.lock().contains_key(&node.0) {
            return false;
        }
        self.freed.contains(&node.0) || (!self.is_resident(id) && self.mapped(id).is_some_and(|entry| !matches!(entry, Entry::At(..))))
    }

    /// Take a block that was read as `fetch` said; the caller has verified its checksum. Bytes that are no longer wanted (the
    /// block is resident, has moved or is gone) are ignored.
    pub fn install(&mut self, fetch: &Fetch, bytes: &[u8; BLOCK]) -> Result<()> {
        let Fetch { id, addr, crc } = *fetch;
        if !self.is_possible(id) || self.is_resident(id) {
            return Ok(());
        }
        if self.mapped(id) != Some(Entry::At(addr, crc)) {
            return Ok(());
        }
        let index = match id {
            BlockId::Node(node) if node.0 <= self.raw_pages => return Err(corrupt(id, addr, "a raw page is no node")),
            // Freed since, and not given out again: its map entry is stale.
            BlockId::Node(node) if self.freed.contains(&node.0) => return Ok(()),
            BlockId::Node(node) => {
                page::validate(bytes, node).map_err(|detail| corrupt(id, addr, detail))?;
                Page::from_bytes(*bytes).level() > 0
            }
            BlockId::Map { level, index } => {
                map::validate(&Page::from_bytes(*bytes), level, index).map_err(|detail| corrupt(id, addr, detail))?;
                true
            }
        };
        self.cache.insert(id.pack(), Arc::new(Page::from_bytes(*bytes)), addr, false, index);
        self.shape += 1;
        Ok(())
    }

    /// Where the running state has a block; `None` if nowhere (never written, free, or no such id). Cleaning asks this about each
    /// block of a victim. The error names the map page that must be resident.
    pub fn locate(&self, id: BlockId) -> std::result::Result<Option<Addr>, BlockId> {
        if !self.is_possible(id) || matches!(id, BlockId::Node(NodeId(n)) if self.freed.contains(&n)) {
            return Ok(None);
        }
        if let Some(slot) = self.cache.peek(id.pack()) {
            return Ok((!slot.addr.is_none()).then_some(slot.addr));
        }
        match self.mapped(id) {
            Some(Entry::At(addr, _)) => Ok(Some(addr)),
            Some(_) => Ok(None),
            None => Err(parent_page(id)),
        }
    }

    /// Where a block lies on the media, and the checksum that it has there; `None` if it lies nowhere, or is about to be written elsewhere. The error names
    /// the map page that must be resident.
    pub fn stored(&self, id: BlockId) -> std::result::Result<Option<(Addr, u32)>, BlockId> {
        if !self.is_possible(id) || matches!(id, BlockId::Node(NodeId(n)) if self.freed.contains(&n)) {
            return Ok(None);
        }
        if self.cache.peek(id.pack()).is_some_and(|slot| slot.dirty || slot.writing) {
            return Ok(None);
        }
        // Pages of the segment table pass by the cache: while they are being written, the map is ahead of the media.
        let being_written = |n: u64| self.raw_again.contains(&n) || self.in_flight.as_ref().is_some_and(|cut| cut.raw.contains(&n));
        if matches!(id, BlockId::Node(NodeId(n)) if being_written(n)) {
            return Ok(None);
        }
        match self.mapped(id) {
            Some(Entry::At(addr, crc)) => Ok(Some((addr, crc))),
            Some(_) => Ok(None),
            None => Err(parent_page(id)),
        }
    }

    /// The first page of the node map from this one on, in its level, that was ever written: ids may be claimed by any number, what is there is bounded by the
    /// media. `None`: no further one. The error names the page that must be resident, the highest first.
    pub fn first_map_page(&self, level: u8, mut index: u64) -> std::result::Result<Option<u64>, BlockId> {
        let levels = self.roots.map_root.levels;
        let span = map::FANOUT.saturating_pow(u32::from(level) + 1);
        let end = self.roots.next_id.div_ceil(span);
        while index < end {
            // Down from the root: the highest page that is not there says how far there is nothing.
            let mut absent = None;
            for above in (level..levels).rev() {
                let width = map::FANOUT.saturating_pow(u32::from(above - level));
                let page = BlockId::Map { level: above, index: index / width };
                if self.is_resident(page) {
                    continue;
                }
                match self.mapped(page) {
                    Some(Entry::At(..)) if above == level => {}
                    // What lies below it, only it knows.
                    Some(Entry::At(..)) | None => return Err(page),
                    Some(_) => {
                        absent = Some(width);
                        break;
                    }
                }
            }
            match absent {
                None => return Ok(Some(index)),
                Some(width) => index = (index / width + 1).saturating_mul(width),
            }
        }
        Ok(None)
    }

    /// Claims ids that were never given out, as a superblock can.
    #[cfg(test)]
    pub fn claim_ids(&mut self, next_id: u64) {
        self.roots.next_id = next_id;
        while map::reach(self.roots.map_root.levels) < self.roots.next_id {
            self.grow_map();
        }
    }

    /// What a map page says about the blocks below it, for checking and printing a volume.
    pub fn entries_of(&self, page: BlockId) -> std::result::Result<impl Iterator<Item = (BlockId, Entry)> + '_, BlockId> {
        let (BlockId::Map { level, index }, Some(slot)) = (page, self.cache.get(page.pack())) else { return Err(page) };
        Ok((0..map::FANOUT).map(move |i| {
            let below = index * map::FANOUT + i;
            let id = if level == 0 { BlockId::Node(NodeId(below)) } else { BlockId::Map { level: level - 1, index: below } };
            (id, map::entry(&slot.page, i as usize))
        }))
    }

    /// Have the next cut write a node or map page elsewhere, although it did not change (its owner does that for a raw page). The
    /// error names what must be resident.
    pub fn rewrite(&mut self, id: BlockId) -> std::result::Result<(), BlockId> {
        if !self.is_resident(id) {
            return Err(id);
        }
        self.mark_dirty(id);
        Ok(())
    }

    /// Compare and swap the address of a block that a device has copied (I5): true if it lay at `from` and nothing is about to write
    /// it elsewhere. Then `from` is the caller's to release and `to` the store's; else `to` holds nothing. The error names the map page
    /// that must be resident. The root of the map has no page above it: it never moves so, [`NodeStore::rewrite`] it.
    pub fn relocate(&mut self, id: BlockId, from: Addr, to: Addr) -> std::result::Result<bool, BlockId> {
        if self.locate(id)? != Some(from) || matches!(id, BlockId::Map { level, .. } if level + 1 == self.roots.map_root.levels) {
            return Ok(false);
        }
        if self.cache.peek(id.pack()).is_some_and(|slot| slot.dirty || slot.writing) {
            return Ok(false);
        }
        // A resident block may lie below a map page that is not.
        let above = parent_page(id);
        let crc = match self.mapped(id) {
            None => return Err(above),
            Some(Entry::At(addr, crc)) if addr == from => crc,
            Some(_) => return Ok(false),
        };
        self.mark_dirty(above);
        self.set_map_entry(id, Entry::At(to, crc));
        if let Some(slot) = self.cache.get_mut(id.pack()) {
            slot.addr = to;
        }
        Ok(true)
    }
    /// Write the entry of a block; the map page above it is resident and dirty or being cut.
    pub(super) fn set_map_entry(&mut self, id: BlockId, entry: Entry) {
        let (_, _, i) = map::parent(id);
        let slot = self.cache.get_mut(parent_page(id).pack()).expect("the caller made sure of the map page");
        map::set_entry(Arc::make_mut(&mut slot.page), i, entry);
    }

    /// Memory that one resident block is counted with.
    pub const fn bytes_per_block() -> usize {
        SLOT_BYTES
    }
}
