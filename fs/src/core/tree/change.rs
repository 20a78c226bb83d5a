//! Changing the tree. Each change looks at the resident path first and then cannot fail.

use super::{Path, Tree, lies_between};
use crate::core::halt::BlockId;
use crate::core::key::Key;
use crate::core::page::{CAPACITY, MAX_ITEM, Page, SortKey};
use crate::ids::NodeId;

/// Pages filled less than this look for a neighbour to merge with.
const UNDERFULL: usize = CAPACITY / 3;
/// Merged pages are filled at most this much, so that they do not split again at once.
const MERGED: usize = CAPACITY / 5 * 4;

impl Tree {
    /// Set the value of `key`, at most [`MAX_ITEM`] bytes. The error names what is missing, and nothing has changed.
    pub fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), BlockId> {
        assert!(value.len() <= MAX_ITEM, "items have at most {MAX_ITEM} bytes");
        let key = SortKey::from(key);
        let path = self.descend(key)?;
        let near = self.trails.near(key);
        let leaf = self.store.get_mut(path.leaf())?;
        let at = match leaf.search_near(near, key) {
            Ok(i) if leaf.replace(i, value) => return Ok(()),
            Ok(i) => {
                leaf.remove(i);
                i
            }
            Err(i) => i,
        };
        if !leaf.insert(at, key, value) {
            self.split(&path, at, key, value);
        }
        Ok(())
    }

    /// Remove `key`; was it there? The error names what is missing, and nothing has changed.
    pub fn remove(&mut self, key: &Key) -> Result<bool, BlockId> {
        let key = SortKey::from(key);
        let path = self.descend(key)?;
        let Ok(i) = self.store.get(path.leaf())?.search_near(self.trails.near(key), key) else { return Ok(false) };
        self.store.get_mut(path.leaf())?.remove(i);
        self.rebalance(&path);
        Ok(true)
    }

    /// Remove up to `max_items` items from `from` up to, not including, `to`; how many it were. 0 means that none are left. The error
    /// names what is missing, and nothing has changed: if some were removed before a block is missing, it returns their number.
    pub fn remove_range(&mut self, from: &Key, to: &Key, max_items: usize) -> Result<usize, BlockId> {
        let (mut cursor, end) = (SortKey::from(from), SortKey::from(to));
        let mut removed = 0;
        while cursor < end && removed < max_items {
            let path = match self.descend(cursor) {
                Err(_) if removed > 0 => break,
                path => path?,
            };
            let leaf = self.store.get(path.leaf())?;
            let (Ok(first) | Err(first)) = leaf.search(cursor);
            let (Ok(last) | Err(last)) = leaf.search(end);
            let last = last.min(first + (max_items - removed));
            if first < last {
                self.store.get_mut(path.leaf())?.remove_run(first, last);
                removed += last - first;
                self.rebalance(&path);
            }
            match path.high {
                Some(high) => cursor = high,
                None => break,
            }
        }
        Ok(removed)
    }

    /// Insert an item into the leaf of `path` before its item `at`, where it does not fit.
    fn split(&mut self, path: &Path, at: usize, key: SortKey, value: &[u8]) {
        const RESIDENT: &str = "the path was resident";
        let (mut at, mut key) = (at, key);
        let mut pointer = [0; 8];
        for depth in (0..path.len).rev() {
            let value = if depth + 1 == path.len { value } else { &pointer[..] };
            let id = path.id(depth);
            let append = self.upper_bound(path, depth).is_none();
            let left = self.store.get_mut(id).expect(RESIDENT);
            if left.insert(at, key, value) {
                return;
            }
            let plan = left.plan_split(at, key, value.len(), append);
            let level = left.level();
            let right_id = self.store.alloc(level);
            let mut right = Page::node(right_id, level);
            let left = self.store.get_mut(id).expect(RESIDENT);
            left.split_off(plan.at, &mut right);
            let fits = if plan.left { left.insert(at, key, value) } else { right.insert(at - plan.at, key, value) };
            assert!(fits, "a split makes room");
            key = right.key(0);
            *self.store.get_mut(right_id).expect("just allocated") = right;
            pointer = right_id.0.to_le_bytes();
            if depth == 0 {
                self.grow(id, level + 1, key, &pointer);
                return;
            }
            at = path.slot(depth - 1) + 1;
        }
    }
    /// Put a new root above the old one and its new right half.
    fn grow(&mut self, left: NodeId, level: u8, key: SortKey, right: &[u8]) {
        let id = self.store.alloc(level);
        let root = self.store.get_mut(id).expect("just allocated");
        let fits = root.insert(0, SortKey::ZERO, &left.0.to_le_bytes()) && root.insert(1, key, right);
        debug_assert!(fits);
        self.store.set_tree_root(id);
    }

    /// Upper bound of the node at `depth` of a path.
    fn upper_bound(&self, path: &Path, depth: usize) -> Option<SortKey> {
        (0..depth).rev().find_map(|d| {
            let (page, next) = (self.store.peek(path.id(d))?, path.slot(d) + 1);
            (next < page.count()).then(|| page.key(next))
        })
    }

    /// After removals from the leaf of `path`: merge what has become too empty, as far as neighbours are resident.
    fn rebalance(&mut self, path: &Path) {
        let mut depth = path.len - 1;
        while depth > 0 {
            let Some(page) = self.store.peek(path.id(depth)) else { break };
            if page.used() >= UNDERFULL {
                break;
            }
            let empty = page.is_empty();
            if self.merge(path, depth) {
                depth -= 1;
            } else if empty {
                // If it must stay, its parent may still be worth merging.
                depth = self.unlink(path).unwrap_or(depth - 1);
            } else {
                break;
            }
        }
        self.collapse_root();
    }

    /// Merge the node at `depth` with a neighbour below the same parent; false if there is none that is resident and small enough.
    fn merge(&mut self, path: &Path, depth: usize) -> bool {
        let slot = path.slot(depth - 1);
        (slot > 0 && self.merge_at(path, depth - 1, slot - 1)) || self.merge_at(path, depth - 1, slot)
    }
    /// Merge children `slot` and `slot + 1` of the node at `depth`.
    fn merge_at(&mut self, path: &Path, depth: usize, slot: usize) -> bool {
        let Some(parent) = self.store.peek(path.id(depth)) else { return false };
        if slot + 1 >= parent.count() {
            return false;
        }
        let (left_id, right_id) = (parent.child(slot), parent.child(slot + 1));
        let (low, middle) = (parent.key(slot), parent.key(slot + 1));
        let high = if slot + 2 < parent.count() { Some(parent.key(slot + 2)) } else { self.upper_bound(path, depth) };
        let (Some(left), Some(right)) = (self.store.peek(left_id), self.store.peek(right_id)) else { return false };
        let small = left.used() + right.used() <= MERGED || left.is_empty() || right.is_empty();
        // A neighbour was not checked on the way down.
        let level = parent.level() - 1;
        let sound =
            left.level() == level && right.level() == level && lies_between(left, low, Some(middle)) && lies_between(right, middle, high);
        if !small || !sound || left_id == right_id {
            return false;
        }
        if !right.is_empty() {
            let right = right.clone();
            let fits = self.store.get_mut(left_id).expect("looked at above").absorb(&right);
            debug_assert!(fits, "checked above");
        }
        self.store.free(right_id);
        self.store.get_mut(path.id(depth)).expect("looked at above").remove(slot + 1);
        true
    }

    /// Unlink the empty leaf of `path`, with the nodes above it that have no other child, if the leaf to the left, which inherits its key
    /// range, is resident. Returns the depth of the node that lost a child.
    fn unlink(&mut self, path: &Path) -> Option<usize> {
        let ancestor = (0..path.len - 1).rev().find(|d| self.store.peek(path.id(*d)).is_some_and(|page| page.count() > 1))?;
        let slot = path.slot(ancestor);
        let top = self.store.peek(path.id(ancestor))?;
        let mut heir = self.store.peek(top.child(slot.checked_sub(1)?))?;
        let mut level = top.level() - 1;
        while level > 0 {
            if heir.level() != level {
                return None;
            }
            heir = self.store.peek(heir.child(heir.count() - 1))?;
            level -= 1;
        }
        if heir.level() != 0 || heir.id() == path.leaf() {
            return None;
        }
        for depth in ancestor + 1..path.len {
            self.store.free(path.id(depth));
        }
        self.store.get_mut(path.id(ancestor)).expect("looked at above").remove(slot);
        Some(ancestor)
    }

    /// A root with a single child gives way to it.
    fn collapse_root(&mut self) {
        let mut id = self.store.tree_root();
        while let Some(root) = self.store.peek(id)
            && root.level() > 0
            && root.count() == 1
        {
            let child = root.child(0);
            self.store.free(id);
            self.store.set_tree_root(child);
            id = child;
        }
    }
}
