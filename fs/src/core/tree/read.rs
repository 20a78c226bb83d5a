//! Looking things up.

use super::Tree;
use crate::core::halt::{BlockId, Halt};
use crate::core::key::Key;
use crate::core::page::{Page, SortKey};
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

impl Tree {
    /// The leaf where `key` belongs, and the upper bound of the leaf.
    fn leaf_of(&self, key: SortKey) -> Result<(&Page, Option<SortKey>), BlockId> {
        let mut id = self.store.tree_root();
        let mut page = self.store.get(id)?;
        let mut high = None;
        while page.level() > 0 {
            let level = page.level() - 1;
            let i = page.route(key);
            if i + 1 < page.count() {
                high = Some(page.key(i + 1));
            }
            id = page.child(i);
            page = self.store.get(id)?;
            if page.level() != level {
                return Err(self.store.suspect(id, "its level does not fit its parent"));
            }
        }
        Ok((page, high))
    }
    /// The rightmost leaf with keys below `bound`, and its lower bound; `None` if there is none.
    fn leaf_before(&self, bound: SortKey) -> Result<Option<(&Page, SortKey)>, BlockId> {
        let mut id = self.store.tree_root();
        let mut page = self.store.get(id)?;
        let mut low = SortKey::ZERO;
        while page.level() > 0 {
            let level = page.level() - 1;
            let (Ok(below) | Err(below)) = page.search(bound);
            let Some(i) = below.checked_sub(1) else { return Ok(None) };
            low = page.key(i);
            id = page.child(i);
            page = self.store.get(id)?;
            if page.level() != level {
                return Err(self.store.suspect(id, "its level does not fit its parent"));
            }
        }
        Ok(Some((page, low)))
    }

    /// The value of `key`.
    pub fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId> {
        let key = key.into();
        let (page, _) = self.leaf_of(key)?;
        Ok(page.search(key).ok().map(|i| page.value(i)))
    }
    /// The first item at or after `key`.
    pub fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        let mut cursor = key.into();
        loop {
            let (page, high) = self.leaf_of(cursor)?;
            let (Ok(i) | Err(i)) = page.search(cursor);
            if i < page.count() {
                return Ok(Some((key_of(page, i), page.value(i))));
            }
            match high {
                Some(high) => cursor = high,
                None => return Ok(None),
            }
        }
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
            let (Ok(i) | Err(i)) = page.search(bound);
            if let Some(i) = i.checked_sub(1) {
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
            let (page, high) = self.leaf_of(cursor).map_err(halt)?;
            let (Ok(first) | Err(first)) = page.search(cursor);
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
