//! Checking the tree as a whole.

use super::{Tree, lies_between};
use crate::core::page::{self, SortKey};
use crate::ids::NodeId;
use std::collections::HashSet;

/// What a walk over the resident part of the tree found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeStats {
    /// Resident nodes that the root leads to through resident ones.
    pub nodes: u64,
    /// Leaves among them.
    pub leaves: u64,
    /// Items in those leaves.
    pub items: u64,
    /// Bytes that items and slots take in those leaves.
    pub leaf_bytes: u64,
    /// Nodes that are named but not resident.
    pub missing: u64,
    /// Levels of the tree.
    pub height: u64,
}

impl Tree {
    /// Between which keys a node lies, as far as the nodes above it are resident: its lower bound, and its upper one if there is any.
    pub fn bounds_of(&self, node: NodeId) -> Option<(SortKey, Option<SortKey>)> {
        let mut todo = vec![(self.store.tree_root(), SortKey::ZERO, None)];
        let mut seen = HashSet::new();
        while let Some((id, low, high)) = todo.pop() {
            if id == node {
                return Some((low, high));
            }
            let inner = self.store.peek(id).filter(|page| page.level() > 0 && seen.insert(id));
            let Some(page) = inner else { continue };
            for i in 0..page.count() {
                let next = if i + 1 < page.count() { Some(page.key(i + 1)) } else { high };
                if page.level() > 1 || page.child(i) == node {
                    todo.push((page.child(i), page.key(i), next));
                }
            }
        }
        None
    }

    /// Walk everything resident and check each page, its place in the tree and the bookkeeping of the store.
    pub fn self_check(&self) -> Result<TreeStats, String> {
        self.store.self_check()?;
        let mut stats = TreeStats::default();
        let mut seen = HashSet::new();
        let mut todo = vec![(self.store.tree_root(), None, SortKey::ZERO, None)];
        while let Some((id, level, low, high)) = todo.pop() {
            if !seen.insert(id) {
                return Err(format!("node {id} is named twice"));
            }
            if id.0 <= self.store.raw_pages() || id.0 >= self.store.roots().next_id {
                return Err(format!("node {id} is no tree node"));
            }
            let Some(page) = self.store.peek(id) else {
                stats.missing += 1;
                continue;
            };
            let wrong = |what: &str| Err(format!("node {id}: {what}"));
            page::validate(page.bytes(), id).map_err(|what| format!("node {id}: {what}"))?;
            if level.is_some_and(|l| l != page.level()) {
                return wrong("its level does not fit its parent");
            }
            if !lies_between(page, low, high) {
                return wrong("its keys do not fit its parent");
            }
            stats.nodes += 1;
            stats.height = stats.height.max(u64::from(page.level()) + 1);
            if page.level() == 0 {
                stats.leaves += 1;
                stats.items += page.count() as u64;
                stats.leaf_bytes += page.used() as u64;
                continue;
            }
            for i in 0..page.count() {
                let next = if i + 1 < page.count() { Some(page.key(i + 1)) } else { high };
                todo.push((page.child(i), Some(page.level() - 1), page.key(i), next));
            }
        }
        Ok(stats)
    }

    /// The nodes that the resident inner nodes lead to, for tests of the store.
    #[cfg(test)]
    pub(crate) fn reachable(&self) -> HashSet<crate::ids::NodeId> {
        let mut seen = HashSet::new();
        let mut todo = vec![self.store.tree_root()];
        while let Some(id) = todo.pop() {
            seen.insert(id);
            if let Some(page) = self.store.peek(id).filter(|page| page.level() > 0) {
                todo.extend((0..page.count()).map(|i| page.child(i)));
            }
        }
        seen
    }
}
