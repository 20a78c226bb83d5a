//! Reading the tree in a check: like the tree's own scan, but a node that cannot be had costs only what it holds.
//!
//! [`Checker::check_tree`] visits every node once and remembers which ranges of keys are lost; later scans pass over them in silence, and
//! whoever misses something asks [`Scanner::is_lost`] first.

use super::{Checker, Finding};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::page::{Page, SortKey};
use crate::core::tree::lies_between;
use crate::error::{FsError, Result};
use crate::ids::NodeId;
use crate::volume::Volume;
use crate::volume::state::State;
use std::cell::RefCell;
use std::collections::HashSet;

/// See the module.
pub(super) struct Scanner<'a> {
    volume: &'a Volume,
    /// Ranges of keys whose nodes cannot be had, in order; `None`: no upper bound.
    lost: RefCell<Vec<(SortKey, Option<SortKey>)>>,
    /// Nodes that cannot be had, each with the lower bound under which its parent has it.
    bad: RefCell<HashSet<(NodeId, SortKey)>>,
    /// Of the first node or page of the node map that could not be had.
    missed: RefCell<Option<FsError>>,
}

/// Visits items; `false` ends the scan.
type Visit<'v> = &'v mut dyn FnMut(Key, &[u8]) -> bool;

impl<'a> Scanner<'a> {
    pub fn new(volume: &'a Volume) -> Self {
        Self { volume, lost: RefCell::default(), bad: RefCell::default(), missed: RefCell::default() }
    }

    fn node(&self, id: NodeId) -> Result<Page> {
        self.ask(|state| Ok(state.tree.store().get(id).cloned()?))
    }

    /// Asks the running state, once more where a read fails. What cannot be had is [noted](Scanner::missed).
    ///
    /// # Errors
    /// Those of loading.
    pub fn ask<T>(&self, question: impl Fn(&State) -> Planned<T>) -> Result<T> {
        let answer = self.volume.read_again(|| self.volume.ask(&question));
        if let Err(error) = &answer {
            self.missed.borrow_mut().get_or_insert_with(|| error.clone());
        }
        answer
    }

    /// Why the first node or page of the node map could not be had that could not so far. A repair, which has made both whole, must not take what
    /// they hold for missing.
    pub fn missed(&self) -> Option<FsError> {
        self.missed.borrow().clone()
    }

    /// A node that is what its parent says: `level`, `None` for the root, and keys from `low` up to `high`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn fitting(&self, id: NodeId, level: Option<u8>, low: SortKey, high: Option<SortKey>) -> std::result::Result<Page, String> {
        let page = self.node(id).map_err(|error| reason(&error))?;
        match level {
            Some(level) if level != page.level() => Err("its level does not fit its parent".into()),
            None if page.level() >= crate::core::page::MAX_LEVEL => Err("the tree is too high".into()),
            _ if !lies_between(&page, low, high) => Err("its keys do not fit its parent".into()),
            _ => Ok(page),
        }
    }

    /// May there have been an item within `from..=to` that is lost?
    pub fn is_lost(&self, from: &Key, to: &Key) -> bool {
        let (from, to) = (SortKey::from(from), SortKey::from(to));
        self.lost.borrow().iter().any(|(low, high)| *low <= to && high.is_none_or(|high| high > from))
    }

    /// May an item of this class be lost?
    pub fn is_class_lost(&self, class: Class) -> bool {
        self.is_lost(&Key::new(class, 0, 0), &Key::new(class, u64::MAX, u64::MAX))
    }

    /// Is anything lost?
    pub fn any_lost(&self) -> bool {
        !self.lost.borrow().is_empty()
    }

    /// Visits the items of a class within `a`'s range (inclusive) in order.
    pub fn class(&self, class: Class, a: std::ops::RangeInclusive<u64>, mut visit: impl FnMut(Key, &[u8]) -> bool) {
        let (from, to) = (Key::new(class, *a.start(), 0), Key::new(class, *a.end(), u64::MAX));
        self.range(&from, &to, &mut visit);
    }

    /// Visits the items within `from..=to` in order.
    pub fn range(&self, from: &Key, to: &Key, visit: Visit<'_>) {
        let root = self.volume.state.lock().tree.store().tree_root();
        self.descend((root, SortKey::ZERO), &mut 16, (from.into(), to.into()), visit);
    }

    fn descend(&self, id: (NodeId, SortKey), depth: &mut u32, span: (SortKey, SortKey), visit: Visit<'_>) -> bool {
        if *depth == 0 || self.bad.borrow().contains(&id) {
            return true;
        }
        let Ok(page) = self.node(id.0) else { return true };
        if page.level() == 0 {
            let (Ok(first) | Err(first)) = page.search(span.0);
            return (first..page.count()).take_while(|&i| page.key(i) <= span.1).all(|i| match page.key(i).key() {
                Some(key) => visit(key, page.value(i)),
                None => true,
            });
        }
        *depth -= 1;
        let mut go_on = true;
        for i in page.route(span.0)..page.count() {
            if page.key(i) > span.1 || !go_on {
                break;
            }
            go_on = self.descend((page.child(i), page.key(i)), depth, span, visit);
        }
        *depth += 1;
        go_on
    }

    /// One item. `Err`: it may be there and cannot be had.
    pub fn get(&self, key: &Key) -> std::result::Result<Option<Vec<u8>>, ()> {
        if self.is_lost(key, key) {
            return Err(());
        }
        let mut found = None;
        self.range(key, key, &mut |_, value| {
            found = Some(value.to_vec());
            false
        });
        Ok(found)
    }
}

impl Checker<'_> {
    /// Visits every node of the tree: can it be had, is it what it must be, does it fit below its parent. Returns the nodes reached.
    pub(super) fn check_tree(&mut self) -> HashSet<u64> {
        let (root, raw_pages, next_id) = {
            let state = self.volume.state.lock();
            let store = state.tree.store();
            (store.tree_root(), store.raw_pages(), store.roots().next_id)
        };
        let mut seen = HashSet::new();
        let mut todo = vec![(root, None, SortKey::ZERO, None)];
        while let Some((id, level, low, high)) = todo.pop() {
            let outcome = match id.0 {
                n if n <= raw_pages || n >= next_id => Err("there is no such tree node".to_string()),
                n if !seen.insert(n) => Err("the tree leads to it twice".to_string()),
                _ => self.scan.fitting(id, level, low, high),
            };
            let page = match outcome {
                Ok(page) => page,
                Err(reason) => {
                    self.lose(id, low, high, reason);
                    continue;
                }
            };
            self.report.counts.nodes += 1;
            if page.level() == 0 {
                self.report.counts.items += page.count() as u64;
                continue;
            }
            for i in (0..page.count()).rev() {
                let next = if i + 1 < page.count() { Some(page.key(i + 1)) } else { high };
                todo.push((page.child(i), Some(page.level() - 1), page.key(i), next));
            }
        }
        seen
    }

    fn lose(&mut self, id: NodeId, low: SortKey, high: Option<SortKey>, reason: String) {
        self.scan.lost.borrow_mut().push((low, high));
        self.scan.bad.borrow_mut().insert((id, low));
        let first = low.key().map_or("the first item".into(), |key| super::show(&key));
        let last = high.and_then(SortKey::key).map_or("the last item".into(), |key| format!("before {}", super::show(&key)));
        self.add(Finding::Node { id: id.0, first, last, reason });
    }
}

/// The detail of an error without its frame, which the finding has.
pub(super) fn reason(error: &FsError) -> String {
    match error {
        FsError::Corrupt { addr, detail, .. } if !addr.is_none() => format!("{detail} (at {addr})"),
        FsError::Corrupt { detail, .. } => detail.clone(),
        other => other.to_string(),
    }
}
