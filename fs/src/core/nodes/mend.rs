//! What a repair does to the node map: a page or an entry that is of no use gives way, and ids that nothing leads to are free again.
//!
//! Nothing here accounts for addresses: a repair counts all zones anew when it is done.

use super::cache::Cache;
use super::map::{self, Entry};
use super::{NodeStore, parent_page};
use crate::core::halt::BlockId;
use crate::ids::NodeId;

impl NodeStore {
    /// A page of the map that cannot be had, so that it is not resident, is empty from now on.
    pub fn blank_map(&mut self, id: BlockId) {
        let BlockId::Map { level, index } = id else { return };
        if self.cache.peek(id.pack()).is_none() {
            self.insert_dirty_map(id, map::blank(level, index));
            self.note_map(id);
        }
    }

    /// The map no longer has anything for this id. The error names the map page that must be resident.
    pub fn clear_entry(&mut self, id: BlockId) -> Result<(), BlockId> {
        let above = parent_page(id);
        if !self.is_resident(above) {
            return Err(above);
        }
        self.mark_dirty(above);
        self.set_map_entry(id, Entry::Empty);
        Ok(())
    }

    /// A node that nothing leads to: its id is free, and what lies where it was is dead.
    pub fn take_back(&mut self, id: NodeId) {
        if let Some(slot) = Cache::remove(&mut self.cache, id.0) {
            self.dirty_nodes -= u64::from(slot.dirty);
            self.unplaced -= u64::from(slot.addr.is_none());
        }
        self.shape += 1;
        self.suspects.get_mut().remove(&id.0);
        self.freed.insert(id.0);
        self.note_map(parent_page(BlockId::Node(id)));
    }

    /// The chain of free ids is of no use: those that it held are to be [taken back](NodeStore::take_back).
    pub fn forget_chain(&mut self) {
        self.roots.free_head = NodeId(0);
    }
}
