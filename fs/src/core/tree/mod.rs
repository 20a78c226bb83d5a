//! The one copy-on-write B+tree of a volume: items (key to bytes) over a [`NodeStore`].
//!
//! Every inner node holds, for each child, the exact lower bound of the child's keys; the leftmost one of all is
//! [`SortKey::ZERO`]. A key range never moves to a node that is not resident, so whatever [`Tree::touch`] found stays reachable
//! without I/O however many changes follow: that is what lets an operation prepare first and then apply without failing.
//!
//! Pages are validated one by one when they are installed. That a page also fits below its parent (level, key range) is checked on the
//! way down: by level for readers, which keeps them from going in circles, and completely for `touch` and all changes.

mod change;
mod check;
mod graft;
mod read;
#[cfg(test)]
mod tests;
mod trail;

pub use check::TreeStats;
pub use read::ScanHalt;

use crate::core::halt::BlockId;
use crate::core::key::Key;
use crate::core::nodes::{NodeStore, Roots};
use crate::core::page::{MAX_LEVEL, Page, SortKey};
use crate::error::Result;
use crate::ids::NodeId;
use trail::Trails;

/// The item tree. See the module.
#[derive(Debug)]
pub struct Tree {
    store: NodeStore,
    trails: Trails,
}

/// Nodes from the root (first) to a leaf (last), and which child was taken in each.
#[derive(Clone, Debug)]
struct Path {
    steps: [(NodeId, u16); MAX_LEVEL as usize + 1],
    len: usize,
    /// Lower bound of the leaf.
    low: SortKey,
    /// Upper bound of the leaf.
    high: Option<SortKey>,
}

impl Default for Path {
    fn default() -> Self {
        Self { steps: [(NodeId(0), 0); MAX_LEVEL as usize + 1], len: 0, low: SortKey::ZERO, high: None }
    }
}

impl Path {
    fn add(&mut self, id: NodeId, slot: usize) {
        self.steps[self.len] = (id, slot as u16);
        self.len += 1;
    }
    fn leaf(&self) -> NodeId {
        self.steps[self.len - 1].0
    }
    fn id(&self, depth: usize) -> NodeId {
        self.steps[depth].0
    }
    fn slot(&self, depth: usize) -> usize {
        usize::from(self.steps[depth].1)
    }
}

impl Tree {
    /// The tree of a new volume; see [`NodeStore::create`].
    pub fn create(raw_pages: u64) -> Self {
        Self { store: NodeStore::create(raw_pages), trails: Trails::default() }
    }
    /// The tree of an existing volume; see [`NodeStore::open`].
    pub fn open(roots: Roots, raw_pages: u64) -> Result<Self> {
        Ok(Self { store: NodeStore::open(roots, raw_pages)?, trails: Trails::default() })
    }
    /// The nodes.
    pub fn store(&self) -> &NodeStore {
        &self.store
    }
    /// The nodes, for installing, evicting and checkpoints.
    pub fn store_mut(&mut self) -> &mut NodeStore {
        &mut self.store
    }
    /// How much one `put` or `remove` can add to [`NodeStore::checkpoint_bound`]: the path, as many new or merged neighbours, a root.
    pub fn bound_per_change(&self) -> u64 {
        // Until the root is resident its height is unknown; no volume is higher than this.
        let height = self.store.peek(self.store.tree_root()).map_or(6, |root| u64::from(root.level()) + 1);
        (2 * height + 1) * self.store.bound_per_node()
    }

    /// The path to the leaf where `key` belongs, each page checked against the one above it.
    fn descend(&self, key: SortKey) -> std::result::Result<Path, BlockId> {
        if let Some((_, path)) = self.kept_checked(key) {
            return Ok(path.clone());
        }
        let mut path = Path::default();
        let mut id = self.store.tree_root();
        let mut level = None;
        loop {
            let page = self.store.get(id)?;
            if level.is_some_and(|l| l != page.level()) {
                return Err(self.store.suspect(id, "its level does not fit its parent"));
            }
            if !lies_between(page, path.low, path.high) {
                return Err(self.store.suspect(id, "its keys do not fit its parent"));
            }
            if level.is_none() && page.level() >= MAX_LEVEL {
                return Err(self.store.suspect(id, "the tree is too high"));
            }
            if page.level() == 0 {
                path.add(id, 0);
                self.keep(key, &path, true);
                return Ok(path);
            }
            let i = page.route(key);
            path.add(id, i);
            path.low = page.key(i);
            if i + 1 < page.count() {
                path.high = Some(page.key(i + 1));
            }
            level = Some(page.level() - 1);
            id = page.child(i);
        }
    }

    /// Make sure of the path to the leaf of `key`: after this, `put` and `remove` of `key` cannot fail.
    pub fn touch(&self, key: &Key) -> std::result::Result<(), BlockId> {
        let key = SortKey::from(key);
        if self.kept_checked(key).is_none() {
            self.descend(key)?;
        }
        Ok(())
    }
    /// [`Tree::touch`] for every key from `low` up to, not including, `high` (and `low` itself in any case). The halt says from where to go
    /// on, so that a whole volume can be checked in one pass through a small cache.
    pub fn touch_range(&self, low: &Key, high: &Key) -> std::result::Result<(), ScanHalt> {
        let (mut cursor, end) = (SortKey::from(low), SortKey::from(high));
        loop {
            let halt = |need| ScanHalt { need, resume: cursor.key().unwrap_or(*low) };
            match self.descend(cursor).map_err(halt)?.high {
                Some(next) if next < end => cursor = next,
                _ => return Ok(()),
            }
        }
    }
}

/// Do the keys of a page lie within the bounds that its parent gives it? Inner nodes begin exactly at the lower one.
pub(crate) fn lies_between(page: &Page, low: SortKey, high: Option<SortKey>) -> bool {
    if page.is_empty() {
        return page.level() == 0;
    }
    let first = page.key(0);
    let begins = if page.level() > 0 { first == low } else { first >= low };
    begins && high.is_none_or(|high| page.key(page.count() - 1) < high)
}
