//! The node store: metadata blocks by identity, of which some are resident.
//!
//! A [`NodeId`] names a 4096-byte block wherever it lies; the node map ([`map`]) knows where. The store does no I/O: access to a
//! block that is not resident returns its id, [`NodeStore::fetch_for`] says what to read for it, [`NodeStore::install`] takes what
//! was read ([`paging`]). Changes are made in place on resident blocks, which are dirty from then on and stay until a
//! checkpoint has written them elsewhere ([`cut`]).
//!
//! Ids `1..=raw_pages` are raw pages (segment table): their content belongs to the caller and is never held here, but they are found
//! through the map like nodes.
//!
//! Addresses are accounted exactly: each address that [`CutSpace::place`] gave is handed back once, by [`CutSpace::release`] when
//! the block moves in a later cut, or by [`NodeStore::take_released`] when its id is freed between cuts. (A relocation swaps
//! one address for another on both sides.)

pub mod cache;
pub mod cut;
#[cfg(test)]
mod damage_tests;
pub mod map;
mod mend;
pub mod paging;
#[cfg(test)]
mod tests;

pub use cut::{Cut, CutSpace, Write};
pub use paging::Fetch;

use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::page::Page;
use crate::error::{FsError, Result};
use crate::ids::NodeId;
use cache::{Cache, IdMap, IdSet, SLOT_BYTES};
use map::{Entry, FANOUT, MAX_LEVELS};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where the root of the node map lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRoot {
    /// Its address; none if nothing was written yet.
    pub addr: Addr,
    /// Its CRC-32C.
    pub crc: u32,
    /// Levels of the map; the root is the only page of the highest.
    pub levels: u8,
}

/// All that a superblock says about the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Root of the item tree.
    pub tree_root: NodeId,
    /// Root of the node map.
    pub map_root: MapRoot,
    /// Ids from here on were never used.
    pub next_id: u64,
    /// First of the free ids below `next_id`; 0 if there is none.
    pub free_head: NodeId,
}

/// See the module.
#[derive(Debug)]
pub struct NodeStore {
    cache: Cache,
    roots: Roots,
    raw_pages: u64,
    /// Became dirty since the last cut, with the ticket of the residency; what was freed since is skipped when read.
    dirty: Vec<(u64, u32)>,
    dirty_nodes: u64,
    /// Nodes that were never placed.
    unplaced: u64,
    /// Map pages that the next cut may write, closed upwards. They are pinned: the cut must find them.
    cut_maps: IdSet,
    /// Freed since the last cut; their map entries are stale until then.
    freed: BTreeSet<u64>,
    released: Vec<Addr>,
    in_flight: Option<cut::InFlight>,
    /// Raw pages of a cut that failed: the next one writes them in any case.
    raw_again: BTreeSet<u64>,
    /// See [`NodeStore::shape`].
    shape: u64,
    /// Resident nodes that contradict the node above them, found by readers.
    suspects: Mutex<IdMap<&'static str>>,
}

impl NodeStore {
    /// The store of a new volume: ids `1..=raw_pages` are raw pages, the next one is an empty leaf, the root of the tree.
    pub fn create(raw_pages: u64) -> Self {
        let map_root = MapRoot { addr: Addr::NONE, crc: 0, levels: 1 };
        let roots = Roots { tree_root: NodeId(0), map_root, next_id: 1, free_head: NodeId(0) };
        let mut store = Self::with(roots, raw_pages);
        store.roots.next_id = raw_pages + 1;
        while map::reach(store.roots.map_root.levels) < store.roots.next_id {
            store.roots.map_root.levels += 1;
        }
        store.pin_raw_maps();
        store.roots.tree_root = store.alloc(0);
        store
    }
    /// The store of an existing volume, nothing of it resident.
    pub fn open(roots: Roots, raw_pages: u64) -> Result<Self> {
        let map = roots.map_root;
        let wrong = |detail: &str| {
            let detail = format!("{detail}: {roots:?}");
            Err(FsError::Corrupt { what: "roots", addr: map.addr, detail })
        };
        if raw_pages >= 1 << 40 || roots.tree_root.0 <= raw_pages || roots.tree_root.0 >= roots.next_id {
            return wrong("no such tree root");
        }
        if map.addr.is_none() || !(1..=MAX_LEVELS).contains(&map.levels) || map::reach(map.levels) < roots.next_id {
            return wrong("impossible node map");
        }
        if roots.free_head.0 >= roots.next_id {
            return wrong("free id that was never used");
        }
        let mut store = Self::with(roots, raw_pages);
        store.pin_raw_maps();
        Ok(store)
    }
    fn with(roots: Roots, raw_pages: u64) -> Self {
        Self {
            cache: Cache::default(),
            roots,
            raw_pages,
            dirty: Vec::new(),
            dirty_nodes: 0,
            unplaced: 0,
            cut_maps: IdSet::default(),
            freed: BTreeSet::new(),
            released: Vec::new(),
            in_flight: None,
            raw_again: BTreeSet::new(),
            shape: 0,
            suspects: Mutex::default(),
        }
    }
    /// The map pages over raw pages may be needed by every cut, so they stay resident once read.
    fn pin_raw_maps(&mut self) {
        if self.raw_pages > 0 {
            (0..=self.raw_pages / FANOUT).for_each(|index| self.note_map(BlockId::Map { level: 0, index }));
        }
    }

    /// Root of the item tree.
    pub fn tree_root(&self) -> NodeId {
        self.roots.tree_root
    }
    /// Make another node the root of the item tree.
    pub fn set_tree_root(&mut self, id: NodeId) {
        self.roots.tree_root = id;
        self.shape += 1;
    }
    /// As long as this stays the same, the nodes that are resident lie below one another as they did, with the same bounds: no inner node was changed, and
    /// nothing was freed or has come in. What is resident may have become less.
    pub fn shape(&self) -> u64 {
        self.shape
    }
    /// The roots of the running state. Only those that a cut returned describe something that is on the devices.
    pub fn roots(&self) -> Roots {
        self.roots
    }
    /// How many ids, from 1 on, are raw pages.
    pub fn raw_pages(&self) -> u64 {
        self.raw_pages
    }

    /// A node.
    pub fn get(&self, id: NodeId) -> std::result::Result<&Page, BlockId> {
        match self.cache.get(id.0) {
            Some(slot) => Ok(&slot.page),
            None => Err(BlockId::Node(id)),
        }
    }
    /// A node if it is resident, not counted as an access.
    pub fn peek(&self, id: NodeId) -> Option<&Page> {
        self.cache.peek(id.0).map(|slot| &*slot.page)
    }
    /// A node, to be changed: it is dirty from now on. A checkpoint in progress keeps the page as it was.
    pub fn get_mut(&mut self, id: NodeId) -> std::result::Result<&mut Page, BlockId> {
        let Some(slot) = self.cache.get_mut(id.0) else { return Err(BlockId::Node(id)) };
        if !slot.dirty {
            self.mark_dirty(BlockId::Node(id));
        }
        let slot = self.cache.get_mut(id.0).expect("found above");
        self.shape += u64::from(slot.page.level() > 0);
        Ok(Arc::make_mut(&mut slot.page))
    }
    /// Is this block resident?
    pub fn is_resident(&self, id: BlockId) -> bool {
        self.cache.peek(id.pack()).is_some()
    }

    /// A new empty node. Never fails and needs nothing resident.
    pub fn alloc(&mut self, level: u8) -> NodeId {
        let id = self.take_id();
        let page = Arc::new(Page::node(id, level));
        let ticket = self.cache.insert(id.0, page, Addr::NONE, true, level > 0);
        self.dirty.push((id.0, ticket));
        self.dirty_nodes += 1;
        self.unplaced += 1;
        self.note_map(parent_page(BlockId::Node(id)));
        id
    }
    /// A free id: one freed since the last cut, else one of the chain if the map page that holds it is resident, else a new one.
    fn take_id(&mut self) -> NodeId {
        if let Some(id) = self.freed.pop_first() {
            return NodeId(id);
        }
        if let Some(id) = self.pop_chain() {
            return id;
        }
        let id = self.roots.next_id;
        self.roots.next_id += 1;
        while map::reach(self.roots.map_root.levels) < self.roots.next_id {
            self.grow_map();
        }
        NodeId(id)
    }
    fn pop_chain(&mut self) -> Option<NodeId> {
        let id = self.roots.free_head;
        if id.0 == 0 {
            return None;
        }
        let (level, index, i) = map::parent(BlockId::Node(id));
        let page = &self.cache.get(BlockId::Map { level, index }.pack())?.page;
        let in_use = id.0 <= self.raw_pages || self.cache.peek(id.0).is_some() || self.freed.contains(&id.0);
        match map::entry(page, i) {
            Entry::Free(next) if !in_use && next.0 < self.roots.next_id => {
                self.roots.free_head = next;
                Some(id)
            }
            // The chain is damaged. Whatever it held is lost for reuse, which costs 16 bytes an id; using it could cost a node.
            _ => {
                self.roots.free_head = NodeId(0);
                None
            }
        }
    }
    /// Put a new root above the root of the map.
    fn grow_map(&mut self) {
        let old = self.roots.map_root;
        let id = BlockId::Map { level: old.levels, index: 0 };
        let mut page = map::blank(old.levels, 0);
        if !old.addr.is_none() {
            map::set_entry(&mut page, 0, Entry::At(old.addr, old.crc));
        }
        self.roots.map_root = MapRoot { addr: Addr::NONE, crc: 0, levels: old.levels + 1 };
        self.insert_dirty_map(id, page);
        self.cut_maps.insert(id.pack());
    }
    fn insert_dirty_map(&mut self, id: BlockId, page: Page) {
        let ticket = self.cache.insert(id.pack(), Arc::new(page), Addr::NONE, true, true);
        self.dirty.push((id.pack(), ticket));
    }

    /// Free a resident node. Its address is released at once; the id may be given out again at once.
    pub fn free(&mut self, id: NodeId) {
        let slot = self.cache.remove(id.0).expect("only resident nodes are freed");
        self.dirty_nodes -= u64::from(slot.dirty);
        if slot.addr.is_none() {
            self.unplaced = self.unplaced.saturating_sub(1);
        } else {
            self.released.push(slot.addr);
        }
        self.freed.insert(id.0);
        self.shape += 1;
        self.suspects.get_mut().remove(&id.0);
        self.note_map(parent_page(BlockId::Node(id)));
    }
    /// The addresses of nodes that were freed since the last call (or cut, which releases them too).
    pub fn take_released(&mut self) -> Vec<Addr> {
        std::mem::take(&mut self.released)
    }

    /// Nodes that have no address yet: blocks that the next checkpoint will take in addition to those in use.
    pub fn unplaced_blocks(&self) -> u64 {
        self.unplaced
    }

    /// Enter a resident block into the next cut, unchanged.
    fn mark_dirty(&mut self, id: BlockId) {
        let packed = id.pack();
        let slot = self.cache.get_mut(packed).expect("only resident blocks become dirty");
        if slot.dirty {
            return;
        }
        slot.dirty = true;
        let ticket = slot.ticket;
        self.dirty.push((packed, ticket));
        match id {
            BlockId::Node(_) => {
                self.dirty_nodes += 1;
                self.note_map(parent_page(id));
            }
            BlockId::Map { .. } => self.note_map(id),
        }
    }
    /// The next cut will write this map page, so it will write all above it.
    fn note_map(&mut self, mut page: BlockId) {
        while let BlockId::Map { level, .. } = page {
            if level >= self.roots.map_root.levels || !self.cut_maps.insert(page.pack()) {
                break;
            }
            page = parent_page(page);
        }
    }

    /// Note that a resident node contradicts the one above it: [`NodeStore::fetch_for`] reports it from now on.
    pub fn suspect(&self, id: NodeId, why: &'static str) -> BlockId {
        self.suspects.lock().insert(id.0, why);
        BlockId::Node(id)
    }

    /// Let go of clean blocks that were not used lately until the resident ones take at most `budget_bytes`, or none can go.
    /// What arrived last (up to twice [`cache::GRACE`] blocks) stays in any case.
    /// A call does a bounded amount of work; call it whenever something was installed.
    pub fn shrink(&mut self, budget_bytes: usize) {
        let (root, maps) = (self.roots.tree_root.0, &self.cut_maps);
        self.cache.shrink(budget_bytes / SLOT_BYTES, |id| id == root || maps.contains(&id));
    }
    /// Memory that resident blocks take.
    pub fn resident_bytes(&self) -> usize {
        self.cache.len() * SLOT_BYTES
    }
    /// Nodes and map pages that the next cut must write, raw pages aside.
    pub fn dirty_blocks(&self) -> u64 {
        self.dirty_nodes + self.cut_maps.len() as u64
    }
    /// Upper bound of the blocks that a checkpoint now would write: dirty nodes, the map pages over them, and all raw pages.
    pub fn checkpoint_bound(&self) -> u64 {
        self.dirty_blocks() + self.raw_pages
    }
    /// How much [`NodeStore::checkpoint_bound`] can grow by dirtying or freeing one more node: itself and the map pages above.
    pub fn bound_per_node(&self) -> u64 {
        2 + u64::from(self.roots.map_root.levels)
    }

    /// Check the bookkeeping of everything resident.
    pub fn self_check(&self) -> std::result::Result<(), String> {
        self.cache.self_check()?;
        let dirty = self.cache.iter().filter(|(id, slot)| slot.dirty && *id >> 56 == 0).count() as u64;
        if dirty != self.dirty_nodes {
            return Err(format!("{dirty} dirty nodes, counted {}", self.dirty_nodes));
        }
        let unplaced = self.cache.iter().filter(|(id, slot)| slot.addr.is_none() && *id >> 56 == 0).count() as u64;
        if unplaced != self.unplaced {
            return Err(format!("{unplaced} nodes without an address, counted {}", self.unplaced));
        }
        let listed: std::collections::HashSet<_> = self.dirty.iter().collect();
        for (packed, slot) in self.cache.iter() {
            let id = BlockId::unpack(packed);
            if slot.dirty && !listed.contains(&(packed, slot.ticket)) {
                return Err(format!("{id:?} is dirty but not listed"));
            }
            let map = if matches!(id, BlockId::Map { .. }) { id } else { parent_page(id) };
            if slot.dirty && !self.cut_maps.contains(&map.pack()) {
                return Err(format!("{map:?} is needed by the next cut but not noted"));
            }
            if packed >> 56 == 0 && (packed <= self.raw_pages || packed >= self.roots.next_id || self.freed.contains(&packed)) {
                return Err(format!("{id:?} is resident but not in use"));
            }
            if !slot.dirty && slot.addr.is_none() {
                return Err(format!("{id:?} is clean but lies nowhere"));
            }
            if let Some(Entry::At(addr, crc)) = self.mapped(id)
                && !slot.dirty
                && (addr != slot.addr || crc != slot.page.crc())
            {
                return Err(format!("{id:?} lies at {}, its map entry says {addr}", slot.addr));
            }
        }
        Ok(())
    }
}

/// The map page that says where `id` lies.
fn parent_page(id: BlockId) -> BlockId {
    let (level, index, _) = map::parent(id);
    BlockId::Map { level, index }
}
