//! What a repair does to the tree: an empty branch in place of one that cannot be had.

use super::Tree;
use crate::core::halt::BlockId;

impl Tree {
    /// Child `i` of an inner node, and all below it, gives way to an empty leaf with as many nodes above it as the tree needs. The old nodes
    /// are the caller's to take back. The error names what is missing, and nothing has changed.
    pub fn graft(&mut self, parent: crate::ids::NodeId, i: usize) -> Result<(), BlockId> {
        let page = self.store.get(parent)?;
        let (level, low) = (page.level(), page.key(i));
        let mut id = self.store.alloc(0);
        for level in 1..level {
            let above = self.store.alloc(level);
            let fits = self.store.get_mut(above)?.insert(0, low, &id.0.to_le_bytes());
            debug_assert!(fits, "it is empty");
            id = above;
        }
        self.store.get_mut(parent)?.set_child(i, id);
        Ok(())
    }
}
