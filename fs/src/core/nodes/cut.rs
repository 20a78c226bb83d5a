//! The checkpoint cut: what a checkpoint writes, where, and the roots that describe it. In memory, under one lock, no I/O.
//!
//! Everything is placed before anything is serialised (decision 7), because placing and releasing change the segment table, whose
//! pages are part of the cut, which need map pages, and so on: the closure is small and is run until nothing new appears. Then
//! raw pages are serialised, nodes are checksummed, and the map is filled from level 0 upwards.
//!
//! Life of an address: a block that is written gets a new address by `place` and its previous one is given to `release`, both
//! during the cut, whether or not the cut succeeds later. A cut that fails leaves its blocks dirty, mapped to the addresses that were
//! placed for it; the next cut places them anew and releases those. So nothing is ever read from where a failed cut should have
//! written, and each address is released once. What a durable checkpoint still needs is the caller's business (I2): released blocks are
//! reused only after a later one is durable.

use super::cache::IdSet;
use super::map::{self, Entry};
use super::{NodeStore, Roots, parent_page};
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::page::Page;
use crate::ids::NodeId;
use std::sync::Arc;

/// What the cut asks of the allocator and of the owner of raw pages.
pub trait CutSpace {
    /// An address for one block. It cannot fail: [`NodeStore::checkpoint_bound`] blocks were reserved before.
    fn place(&mut self, id: BlockId) -> Addr;
    /// The running state no longer needs what lies there.
    fn release(&mut self, old: Addr);
    /// Raw pages that have become dirty since the last call, for whatever reason. Naming one twice does no harm.
    fn dirty_raw(&mut self) -> Vec<NodeId>;
    /// Serialise a raw page. Called when all placing is over.
    fn raw(&mut self, id: NodeId) -> Box<[u8; BLOCK]>;
}

/// One block to be written by a checkpoint.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where to.
    pub addr: Addr,
    /// What it is.
    pub id: BlockId,
    /// Its content.
    pub page: Arc<Page>,
    /// CRC-32C of the content.
    pub crc: u32,
}

/// What a checkpoint writes, and the roots that describe it once all is durable.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Nodes, then raw pages, then map pages from the bottom up. Within each of these in the order of placing.
    pub writes: Vec<Write>,
    /// For the superblock.
    pub roots: Roots,
}

/// The blocks of a cut that is being written.
#[derive(Debug)]
pub struct InFlight {
    blocks: Vec<(u64, u32)>,
    pub(super) raw: Vec<u64>,
}

/// The write set while it grows.
#[derive(Default)]
struct Plan {
    raw: Vec<(NodeId, Addr)>,
    raw_seen: IdSet,
    maps: Vec<BlockId>,
    maps_seen: IdSet,
    maps_placed: usize,
}

impl Plan {
    /// The map page, and all above it, must be written.
    fn add_map(&mut self, mut page: BlockId, levels: u8) {
        while let BlockId::Map { level, .. } = page {
            if level >= levels || !self.maps_seen.insert(page.pack()) {
                break;
            }
            self.maps.push(page);
            page = parent_page(page);
        }
    }
}

impl NodeStore {
    /// Can a cut be made now? The error names a map page that must be resident first.
    pub fn cut_ready(&self) -> Result<(), BlockId> {
        for packed in &self.cut_maps {
            let id = BlockId::unpack(*packed);
            if self.cache.get(*packed).is_none() && self.mapped(id) != Some(Entry::Empty) {
                return Err(id);
            }
        }
        Ok(())
    }

    /// Make the cut. Nothing has changed if the error names a missing map page ([`NodeStore::cut_ready`]). Exactly one
    /// [`NodeStore::cut_done`] must follow before the next cut.
    pub fn cut(&mut self, space: &mut dyn CutSpace) -> Result<Cut, BlockId> {
        assert!(self.in_flight.is_none(), "the previous cut is still being written");
        self.cut_ready()?;
        for addr in std::mem::take(&mut self.released) {
            space.release(addr);
        }
        self.make_absent_maps();

        let levels = self.roots.map_root.levels;
        let mut plan = Plan::default();
        let nodes = self.collect_dirty(&mut plan, levels);
        self.chain_freed(&mut plan, levels);
        for &id in &nodes {
            plan.add_map(parent_page(BlockId::Node(id)), levels);
            self.place(BlockId::Node(id), space);
        }
        self.place_closure(&mut plan, levels, space);

        let mut writes = Vec::with_capacity(nodes.len() + plan.raw.len() + plan.maps.len());
        for &id in &nodes {
            let id = BlockId::Node(id);
            let slot = self.cache.peek(id.pack()).expect("dirty nodes are resident");
            writes.push(Write { addr: slot.addr, id, page: slot.page.clone(), crc: slot.page.crc() });
        }
        for &(id, addr) in &plan.raw {
            let page = Page::from_bytes(*space.raw(id));
            writes.push(Write { addr, id: BlockId::Node(id), crc: page.crc(), page: Arc::new(page) });
        }
        for write in &writes {
            self.set_map_entry(write.id, Entry::At(write.addr, write.crc));
        }
        self.seal_maps(&plan, levels, &mut writes);
        self.start_writing(&nodes, &plan);
        Ok(Cut { writes, roots: self.roots })
    }

    /// Map pages that the cut needs and that were never written come into being now, empty.
    fn make_absent_maps(&mut self) {
        let absent: Vec<u64> = self.cut_maps.iter().copied().filter(|id| self.cache.peek(*id).is_none()).collect();
        for packed in absent {
            let id = BlockId::unpack(packed);
            let BlockId::Map { level, index } = id else { continue };
            self.insert_dirty_map(id, map::blank(level, index));
        }
    }
    /// The dirty nodes in order of id; dirty map pages go into the plan.
    fn collect_dirty(&mut self, plan: &mut Plan, levels: u8) -> Vec<NodeId> {
        let mut nodes = Vec::with_capacity(self.dirty_nodes as usize);
        for (packed, ticket) in std::mem::take(&mut self.dirty) {
            if !self.cache.peek(packed).is_some_and(|slot| slot.dirty && slot.ticket == ticket) {
                continue;
            }
            match BlockId::unpack(packed) {
                BlockId::Node(id) => nodes.push(id),
                map => plan.add_map(map, levels),
            }
        }
        nodes.sort_unstable();
        nodes
    }
    /// Enter freed ids into the chain, so that it gives them out in ascending order.
    fn chain_freed(&mut self, plan: &mut Plan, levels: u8) {
        for id in std::mem::take(&mut self.freed).into_iter().rev() {
            let id = NodeId(id);
            self.set_map_entry(BlockId::Node(id), Entry::Free(self.roots.free_head));
            self.roots.free_head = id;
            plan.add_map(parent_page(BlockId::Node(id)), levels);
        }
    }
    /// Give a resident block its new address and release the old one.
    fn place(&mut self, id: BlockId, space: &mut dyn CutSpace) {
        let slot = self.cache.get_mut(id.pack()).expect("blocks of a cut are resident");
        let old = std::mem::replace(&mut slot.addr, space.place(id));
        if !old.is_none() {
            space.release(old);
        }
    }
    /// Place raw and map pages until that dirties no further raw page.
    fn place_closure(&mut self, plan: &mut Plan, levels: u8, space: &mut dyn CutSpace) {
        let mut dirty: Vec<NodeId> = std::mem::take(&mut self.raw_again).into_iter().map(NodeId).collect();
        loop {
            dirty.extend(space.dirty_raw());
            dirty.retain(|id| plan.raw_seen.insert(id.0));
            dirty.sort_unstable();
            if dirty.is_empty() && plan.maps_placed == plan.maps.len() {
                return;
            }
            for id in dirty.drain(..) {
                debug_assert!(id.0 >= 1 && id.0 <= self.raw_pages);
                let block = BlockId::Node(id);
                plan.add_map(parent_page(block), levels);
                let old = self.mapped(block);
                plan.raw.push((id, space.place(block)));
                if let Some(Entry::At(old, _)) = old {
                    space.release(old);
                }
            }
            // Placing the map pages last keeps their addresses together; raw pages that this dirties are stragglers.
            dirty = space.dirty_raw();
            dirty.retain(|id| !plan.raw_seen.contains(&id.0));
            if dirty.is_empty() {
                plan.maps[plan.maps_placed..].sort_unstable();
                for i in plan.maps_placed..plan.maps.len() {
                    self.place(plan.maps[i], space);
                }
                plan.maps_placed = plan.maps.len();
            }
        }
    }
    /// Checksum the map pages from the bottom up, each into the page above it.
    fn seal_maps(&mut self, plan: &Plan, levels: u8, writes: &mut Vec<Write>) {
        for wanted in 0..levels {
            for &id in plan.maps.iter().filter(|id| matches!(id, BlockId::Map { level, .. } if *level == wanted)) {
                let slot = self.cache.peek(id.pack()).expect("blocks of a cut are resident");
                let write = Write { addr: slot.addr, id, page: slot.page.clone(), crc: slot.page.crc() };
                if wanted + 1 == levels {
                    self.roots.map_root.addr = write.addr;
                    self.roots.map_root.crc = write.crc;
                } else {
                    self.set_map_entry(id, Entry::At(write.addr, write.crc));
                }
                writes.push(write);
            }
        }
    }
    fn start_writing(&mut self, nodes: &[NodeId], plan: &Plan) {
        let mut blocks = Vec::with_capacity(nodes.len() + plan.maps.len());
        for packed in nodes.iter().map(|id| id.0).chain(plan.maps.iter().map(|id| id.pack())) {
            let slot = self.cache.get_mut(packed).expect("blocks of a cut are resident");
            (slot.dirty, slot.writing) = (false, true);
            blocks.push((packed, slot.ticket));
        }
        self.in_flight = Some(InFlight { blocks, raw: plan.raw.iter().map(|(id, _)| id.0).collect() });
        self.dirty_nodes = 0;
        self.unplaced = 0;
        self.cut_maps.clear();
        self.pin_raw_maps();
    }

    /// The cut has been written and a checkpoint with its roots is durable, or it failed and everything in it is dirty again (see
    /// the module for what that means for addresses).
    pub fn cut_done(&mut self, success: bool) {
        let Some(InFlight { blocks, raw }) = self.in_flight.take() else { return };
        self.cache.cleaned();
        for (packed, ticket) in blocks {
            // Freed meanwhile, and perhaps given out again: then it is none of this cut's business.
            let Some(slot) = self.cache.get_mut(packed).filter(|slot| slot.ticket == ticket) else { continue };
            slot.writing = false;
            if !success {
                self.mark_dirty(BlockId::unpack(packed));
            }
        }
        if !success {
            self.raw_again.extend(raw);
        }
    }
    /// Is a cut being written?
    pub fn is_cutting(&self) -> bool {
        self.in_flight.is_some()
    }
}
