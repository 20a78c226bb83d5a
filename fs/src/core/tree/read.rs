//! Looking things up.

use super::trail::covers;
use super::{Path, Tree};
use crate::core::halt::{BlockId, Halt};
use crate::core::key::Key;
use crate::core::page::{Page, SortKey};
use crate::core::txn::{Behind, Beside};
use crate::ids::NodeId;
use std::ops::ControlFlow;

/// A scan stopped because a block is not resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanHalt {
    /// What is missing.
    pub need: BlockId,
    /// Everything before this key was visited: go on from here.
    pub resume: Key,
}

impl From<ScanHalt> for Halt {
    fn from(halt: ScanHalt) -> Self {
        Self::Need(halt.need)
    }
}

fn key_of(page: &Page, i: usize) -> Key {
    page.key(i).key().expect("leaves hold only keys of known classes: validated")
}

/// A leaf and a place in it.
struct Found<'a> {
    page: &'a Page,
    /// The item that was looked for, or where it belongs.
    at: Result<usize, usize>,
    /// The upper bound of the leaf.
    high: Option<SortKey>,
}

impl Tree {
    /// Where `key` is or belongs.
    fn find(&self, key: SortKey) -> Result<Found<'_>, BlockId> {
        let (page, high) = match self.kept(key, |low, high| covers(key, low, high)) {
            Some((page, path)) => (page, path.high),
            None => self.leaf_of(key)?,
        };
        let at = page.search_near(self.trails.near(key), key);
        let (Ok(i) | Err(i)) = at;
        self.trails.ended(key, i);
        Ok(Found { page, at, high })
    }
    /// The leaf where `key` belongs, and the upper bound of the leaf.
    fn leaf_of(&self, key: SortKey) -> Result<(&Page, Option<SortKey>), BlockId> {
        let mut path = Path::default();
        let mut id = self.store.tree_root();
        let mut page = self.store.get(id)?;
        while page.level() > 0 {
            let i = page.route(key);
            if i + 1 < page.count() {
                path.high = Some(page.key(i + 1));
            }
            page = self.below(page, i, id, &mut path)?;
            id = page.id();
        }
        path.add(id, 0);
        self.keep(key, &path, false);
        Ok((page, path.high))
    }
    /// The rightmost leaf with keys below `bound`, and its lower bound; `None` if there is none.
    fn leaf_before(&self, bound: SortKey) -> Result<Option<(&Page, SortKey)>, BlockId> {
        if let Some((page, path)) = self.kept(bound, |low, high| low < bound && high.is_none_or(|high| bound <= high)) {
            return Ok(Some((page, path.low)));
        }
        let mut path = Path::default();
        let mut id = self.store.tree_root();
        let mut page = self.store.get(id)?;
        while page.level() > 0 {
            let (Ok(below) | Err(below)) = page.search(bound);
            let Some(i) = below.checked_sub(1) else { return Ok(None) };
            if below < page.count() {
                path.high = Some(page.key(below));
            }
            page = self.below(page, i, id, &mut path)?;
            id = page.id();
        }
        path.add(id, 0);
        self.keep(bound, &path, false);
        Ok(Some((page, path.low)))
    }
    /// Child `i` of a node on the way down.
    fn below(&self, page: &Page, i: usize, id: NodeId, path: &mut Path) -> Result<&Page, BlockId> {
        path.add(id, i);
        path.low = page.key(i);
        let child = page.child(i);
        let below = self.store.get(child)?;
        if below.level() + 1 != page.level() {
            return Err(self.store.suspect(child, "its level does not fit its parent"));
        }
        Ok(below)
    }

    /// The value of `key`.
    pub fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId> {
        let Found { page, at, .. } = self.find(key.into())?;
        Ok(at.ok().map(|i| page.value(i)))
    }
    /// The first item at or after `key`.
    pub fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        let mut cursor = key.into();
        loop {
            let Found { page, at: Ok(i) | Err(i), high } = self.find(cursor)?;
            if i < page.count() {
                return Ok(Some((key_of(page, i), page.value(i))));
            }
            match high {
                Some(high) => cursor = high,
                None => return Ok(None),
            }
        }
    }
    /// What its leaf has at `key` and on either side of it; `None`: nothing in it comes before. As after [`Tree::touch`], `put` of `key` cannot fail.
    pub fn beside(&self, key: &Key) -> Result<Option<Beside<'_>>, BlockId> {
        let key = SortKey::from(key);
        let (leaf, high) = match self.kept_checked(key) {
            Some((_, path)) => (path.leaf(), path.high),
            None => {
                let path = self.descend(key)?;
                (path.leaf(), path.high)
            }
        };
        let page = self.store.get(leaf)?;
        let at = page.search_near(self.trails.near(key), key);
        let (Ok(i) | Err(i)) = at;
        self.trails.ended(key, i);
        let Some(before) = i.checked_sub(1) else { return Ok(None) };
        let next = i + usize::from(at.is_ok());
        let behind = match high {
            _ if next < page.count() => Behind::Item(key_of(page, next), page.value(next)),
            // Bounds between leaves of a damaged tree may be no keys.
            Some(high) => match high.key() {
                Some(high) => Behind::NothingBefore(high),
                None => return Ok(None),
            },
            None => Behind::Nothing,
        };
        Ok(Some(Beside { before: (key_of(page, before), page.value(before)), at: at.ok().map(|i| page.value(i)), behind }))
    }
    /// Where the range of the first block that is missing at or after `key` ends; `None` if none is among so many leaves, or it has no end.
    pub fn behind_missing(&self, key: &Key, leaves: usize) -> Option<SortKey> {
        let mut cursor = SortKey::from(key);
        for _ in 0..leaves {
            let mut page = self.store.peek(self.store.tree_root())?;
            let mut high = None;
            while page.level() > 0 {
                let level = page.level() - 1;
                let i = page.route(cursor);
                if i + 1 < page.count() {
                    high = Some(page.key(i + 1));
                }
                // One that does not fit its parent counts as missing.
                match self.store.peek(page.child(i)).filter(|child| child.level() == level) {
                    Some(child) => page = child,
                    None => return high,
                }
            }
            // Bounds only grow, so that this ends, whatever is on the media.
            cursor = high.filter(|high| *high > cursor)?;
        }
        None
    }
    /// The last item before `key`.
    pub fn last_before(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        let mut bound = key.into();
        while let Some((page, low)) = self.leaf_before(bound)? {
            let (Ok(i) | Err(i)) = page.search_near(self.trails.near(bound), bound);
            if let Some(i) = i.checked_sub(1) {
                self.trails.ended(bound, i);
                return Ok(Some((key_of(page, i), page.value(i))));
            }
            if low == SortKey::ZERO {
                break;
            }
            bound = low;
        }
        Ok(None)
    }

    /// Visit the items from `from` up to, not including, `to`, in order, until `visit` breaks. Allocates nothing.
    pub fn scan(&self, from: &Key, to: &Key, mut visit: impl FnMut(Key, &[u8]) -> ControlFlow<()>) -> Result<ControlFlow<()>, ScanHalt> {
        let (mut cursor, end) = (SortKey::from(from), SortKey::from(to));
        while cursor < end {
            // Bounds between leaves of a damaged tree may be no keys; `from` is always a safe place to resume from.
            let halt = |need| ScanHalt { need, resume: cursor.key().unwrap_or(*from) };
            let Found { page, at: Ok(first) | Err(first), high } = self.find(cursor).map_err(halt)?;
            for i in first..page.count() {
                if page.key(i) >= end {
                    return Ok(ControlFlow::Continue(()));
                }
                if visit(key_of(page, i), page.value(i)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            match high {
                Some(high) => cursor = high,
                None => break,
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
