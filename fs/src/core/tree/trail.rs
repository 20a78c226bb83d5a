//! Where the last searches have ended, one for each class of items. What is asked for lies mostly in the same leaf as what was asked for before it:
//! a file is read and relocated from its beginning to its end, and a zone is filled so. Such a search begins in the leaf, where that other one ended.
//!
//! A trail holds as long as the nodes lie below one another as they did ([`crate::core::nodes::NodeStore::shape`]). It gives the answer that a search from
//! the root would give: every node on it must still be resident, and counts as accessed.

use super::{Path, Tree, lies_between};
use crate::core::page::{Page, SortKey};
use std::cell::{Cell, RefCell};

/// Classes of keys have numbers below this.
const CLASSES: usize = 16;

/// The way to the leaf where a search ended.
#[derive(Debug, Default)]
struct Trail {
    path: Path,
    shape: u64,
    /// Each page was checked completely against the one above it. Inner ones stay as they were while the shape does; a leaf is checked again.
    checked: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trails([(RefCell<Trail>, Cell<usize>); CLASSES]);

impl Trails {
    fn of(&self, key: SortKey) -> &(RefCell<Trail>, Cell<usize>) {
        &self.0[key.class() % CLASSES]
    }
    /// The item in its leaf at which the last search for such a key ended: a guess.
    pub(super) fn near(&self, key: SortKey) -> usize {
        self.of(key).1.get()
    }
    /// A search for this key has ended at item `at` of its leaf.
    pub(super) fn ended(&self, key: SortKey, at: usize) {
        self.of(key).1.set(at);
    }
}

impl Tree {
    /// Keeps the way to the leaf of `key`.
    pub(super) fn keep(&self, key: SortKey, path: &Path, checked: bool) {
        let mut trail = self.trails.of(key).0.borrow_mut();
        trail.path.clone_from(path);
        (trail.shape, trail.checked) = (self.store.shape(), checked);
    }

    /// The leaf of the last search for a key of this class, if it has what `fits` asks of its lower and upper bound.
    pub(super) fn kept(&self, key: SortKey, fits: impl Fn(SortKey, Option<SortKey>) -> bool) -> Option<(&Page, std::cell::Ref<'_, Path>)> {
        self.kept_if(key, false, fits)
    }

    /// [`Tree::kept`] of a search that checked all pages on its way.
    pub(super) fn kept_checked(&self, key: SortKey) -> Option<(&Page, std::cell::Ref<'_, Path>)> {
        self.kept_if(key, true, |low, high| covers(key, low, high))
    }

    fn kept_if(
        &self,
        key: SortKey,
        checked: bool,
        fits: impl Fn(SortKey, Option<SortKey>) -> bool,
    ) -> Option<(&Page, std::cell::Ref<'_, Path>)> {
        let trail = self.trails.of(key).0.borrow();
        let holds = trail.path.len > 0 && trail.shape == self.store.shape() && (trail.checked || !checked);
        if !holds || !fits(trail.path.low, trail.path.high) {
            return None;
        }
        let mut leaf = None;
        for (id, _) in &trail.path.steps[..trail.path.len] {
            leaf = Some(self.store.get(*id).ok()?);
        }
        let leaf = leaf?;
        // The leaf alone may have changed since: a damaged tree may lead to it from elsewhere, too.
        let suits = !checked || lies_between(leaf, trail.path.low, trail.path.high);
        suits.then(|| (leaf, std::cell::Ref::map(trail, |trail| &trail.path)))
    }
}

/// Does a leaf with these bounds hold the place of `key`?
pub(super) fn covers(key: SortKey, low: SortKey, high: Option<SortKey>) -> bool {
    low <= key && high.is_none_or(|high| key < high)
}
