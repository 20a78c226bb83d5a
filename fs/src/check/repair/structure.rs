//! Node map and tree: what cannot be had gives way to nothing, what nothing leads to is dropped.

use super::super::scan::{Scanner, reason};
use super::super::{CheckOptions, CheckReport, Checker, show};
use super::{Mender, Repair};
use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::nodes::map::{Entry, FANOUT};
use crate::core::page::SortKey;
use crate::error::{FsError, Result};
use crate::ids::NodeId;
use crate::volume::mend::Mending;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What the map holds, after what is of no use in it has given way.
#[derive(Default)]
pub(super) struct Pages {
    /// Where nodes lie.
    placed: BTreeMap<u64, Addr>,
    /// Free ids, and the next one of each.
    free: BTreeMap<u64, u64>,
    /// Ids of which a lost page knew.
    unknown: Vec<std::ops::Range<u64>>,
    done: Vec<Repair>,
}

/// Walks the node map.
///
/// # Errors
/// Its root, or that of the tree, cannot be had.
pub(super) fn mend_map(mending: &Mending) -> Result<Pages> {
    let volume = &mending.volume;
    let mut pages = Pages::default();
    let (levels, root) = {
        let state = volume.state.lock();
        (state.tree.store().roots().map_root.levels, state.tree.store().tree_root())
    };
    let top = BlockId::Map { level: levels.saturating_sub(1), index: 0 };
    entries(mending, top)?;
    volume.read_again(|| volume.ask(|state| Ok(state.tree.store().get(root).map(drop)?)))?;
    let mut todo = vec![top];
    while let Some(page) = todo.pop() {
        let BlockId::Map { level, index } = page else { continue };
        match entries(mending, page) {
            Ok(found) => found.into_iter().try_for_each(|(id, entry)| pages.take(mending, &mut todo, id, entry))?,
            // What a device does not give now it may give the next time.
            Err(error @ FsError::Device(_)) => return Err(error),
            Err(error) => {
                let below = FANOUT.saturating_pow(u32::from(level) + 1);
                pages.unknown.push(index * below..(index + 1).saturating_mul(below));
                pages.done.push(Repair::MapPage { level, index, reason: reason(&error) });
                volume.state.lock().tree.store_mut().blank_map(page);
            }
        }
    }
    Ok(pages)
}

fn entries(mending: &Mending, page: BlockId) -> Result<Vec<(BlockId, Entry)>> {
    let volume = &mending.volume;
    volume.read_again(|| volume.ask(|state| Ok(state.tree.store().entries_of(page)?.collect())))
}

impl Pages {
    fn take(&mut self, mending: &Mending, todo: &mut Vec<BlockId>, id: BlockId, entry: Entry) -> Result<()> {
        let volume = &mending.volume;
        let (inside, next_id) = {
            let state = volume.state.lock();
            (matches!(entry, Entry::At(addr, _) if state.zones.contains(addr, 1)), state.tree.store().roots().next_id)
        };
        match (id, entry) {
            (_, Entry::Empty) => {}
            (BlockId::Map { .. }, _) => todo.push(id),
            (BlockId::Node(NodeId(node)), Entry::At(..) | Entry::Free(_)) if node == 0 || node >= next_id => {
                self.clear(mending, id, node)?
            }
            (BlockId::Node(NodeId(node)), Entry::At(..)) if !inside => self.clear(mending, id, node)?,
            (BlockId::Node(NodeId(node)), Entry::At(addr, _)) => {
                self.placed.insert(node, addr);
            }
            (BlockId::Node(NodeId(node)), Entry::Free(next)) => {
                self.free.insert(node, next.0);
            }
        }
        Ok(())
    }

    fn clear(&mut self, mending: &Mending, id: BlockId, node: u64) -> Result<()> {
        mending.volume.change(|state| Ok(state.tree.store_mut().clear_entry(id)?))?;
        self.done.push(Repair::MapEntry { id: node });
        Ok(())
    }

    /// Zones to which the checkpoint's map leads.
    pub(super) fn zones(&self) -> BTreeSet<Addr> {
        self.placed.values().map(|addr| addr.zone_base()).collect()
    }

    /// Is every free id in the chain, and nothing else?
    fn is_chained(&self, head: u64) -> bool {
        let (mut id, mut met) = (head, 0);
        while id != 0 {
            match self.free.get(&id) {
                Some(next) if met <= self.free.len() => (id, met) = (*next, met + 1),
                _ => return false,
            }
        }
        met == self.free.len()
    }
}

/// Leaves given up because a device does not read them.
const MOST_UNREADABLE: u32 = 16;

/// Ids of lost pages of the map that are given out again, at most: a superblock may claim any number of them, and each page of the map that knows some goes into
/// the checkpoint. Further ones stay unused, which costs nothing but their numbers.
const MOST_SPARE: usize = 1 << 15;

/// The device does not give what has to be known.
pub(super) fn too_often(error: &FsError) -> FsError {
    FsError::Volume(format!(
        "nothing was repaired, for metadata cannot be read ({error}): copy what can be read to a good device, and repair it there"
    ))
}

/// A node that is to be looked at, and what its parent says of it.
struct Branch {
    id: NodeId,
    level: Option<u8>,
    low: SortKey,
    high: Option<SortKey>,
    /// The parent, and which child it is.
    above: Option<(NodeId, usize)>,
}

impl Mender<'_> {
    /// Makes the tree whole, drops what nothing leads to, and sees to it that cleaning will find what is there.
    pub(super) fn structure(&mut self, pages: Pages) -> Result<()> {
        let Pages { placed, free, unknown, done } = pages;
        let pages = Pages { free, ..Pages::default() };
        done.into_iter().for_each(|repair| self.note(repair));
        let head = self.volume().state.lock().tree.store().roots().free_head.0;
        let chained = unknown.is_empty() && pages.is_chained(head);
        if !chained {
            self.volume().state.lock().tree.store_mut().forget_chain();
        }
        // Whatever has an id now keeps it, whatever becomes of it.
        let next_id = self.volume().state.lock().tree.store().roots().next_id;
        self.prune()?;
        let reached = self.reached()?;
        self.drop_unreachable(&placed, &reached, next_id);
        if !chained {
            let unknown = unknown.into_iter().flat_map(|ids| ids.start.max(1)..ids.end.min(next_id)).take(MOST_SPARE);
            let spare: BTreeSet<u64> = pages.free.into_keys().chain(unknown).collect();
            self.chain(&spare, &reached, next_id);
        }
        self.move_what_is_hidden(&reached)
    }

    /// An empty branch in place of every one that cannot be had.
    fn prune(&mut self) -> Result<()> {
        let (root, raw_pages, next_id) = {
            let state = self.volume().state.lock();
            let store = state.tree.store();
            (store.tree_root(), store.raw_pages(), store.roots().next_id)
        };
        let mut unreadable = 0;
        let mut seen = HashSet::new();
        let mut todo = vec![Branch { id: root, level: None, low: SortKey::ZERO, high: None, above: None }];
        while let Some(Branch { id, level, low, high, above }) = todo.pop() {
            let fits = match id.0 {
                n if n <= raw_pages || n >= next_id => Err("there is no such tree node".to_string()),
                n if !seen.insert(n) => Err("the tree leads to it twice".to_string()),
                _ => {
                    let scanner = Scanner::new(self.volume());
                    let fits = scanner.fitting(id, level, low, high);
                    if let Some(error @ FsError::Device(_)) = scanner.missed() {
                        unreadable += 1;
                        // A leaf is given up where one block is bad; not what is below a node, nor much where the device has a bad day.
                        if level != Some(0) || unreadable > MOST_UNREADABLE || self.volume().lost_power(&error) {
                            return Err(too_often(&error));
                        }
                    }
                    fits
                }
            };
            let page = match (fits, above) {
                (Ok(page), _) => page,
                (Err(reason), None) => return Err(FsError::Corrupt { what: "root of the metadata", addr: Addr::NONE, detail: reason }),
                (Err(reason), Some((parent, i))) => {
                    self.volume().change(|state| Ok(state.tree.graft(parent, i)?))?;
                    self.lost.push((low, high));
                    let first = low.key().map_or("the first item".into(), |key| show(&key));
                    let last = high.and_then(SortKey::key).map_or("the last item".into(), |key| format!("before {}", show(&key)));
                    self.note(Repair::Node { id: id.0, first, last, reason });
                    continue;
                }
            };
            if page.level() > 0 {
                for i in (0..page.count()).rev() {
                    let next = if i + 1 < page.count() { Some(page.key(i + 1)) } else { high };
                    let level = Some(page.level() - 1);
                    todo.push(Branch { id: page.child(i), level, low: page.key(i), high: next, above: Some((id, i)) });
                }
            }
        }
        Ok(())
    }

    fn reached(&self) -> Result<HashSet<u64>> {
        let options = CheckOptions { read_data: false, ..CheckOptions::default() };
        let mut checker = Checker::new(self.volume(), CheckReport::default(), options);
        let reached = checker.check_tree();
        checker.scan.missed().map_or(Ok(reached), |error| Err(too_often(&error)))
    }

    fn drop_unreachable(&mut self, placed: &BTreeMap<u64, Addr>, reached: &HashSet<u64>, next_id: u64) {
        let raw_pages = self.volume().state.lock().tree.store().raw_pages();
        for &id in placed.keys().filter(|id| **id > raw_pages && **id < next_id && !reached.contains(id)) {
            self.volume().state.lock().tree.store_mut().take_back(NodeId(id));
            self.note(Repair::UnreachableNode { id });
        }
    }

    fn chain(&mut self, spare: &BTreeSet<u64>, reached: &HashSet<u64>, next_id: u64) {
        let raw_pages = self.volume().state.lock().tree.store().raw_pages();
        let mut count = 0;
        for &id in spare.iter().filter(|id| **id > raw_pages && **id < next_id && !reached.contains(id)) {
            self.volume().state.lock().tree.store_mut().take_back(NodeId(id));
            count += 1;
        }
        if count > 0 {
            self.note(Repair::FreeIds { count });
        }
    }

    /// Metadata where the header of its zone does not name it, or in a zone that holds something else, goes elsewhere with the next checkpoint.
    fn move_what_is_hidden(&mut self, reached: &HashSet<u64>) -> Result<()> {
        let options = CheckOptions { read_data: false, ..CheckOptions::default() };
        let checker = Checker::new(self.volume(), CheckReport::default(), options);
        let raw_pages = self.volume().state.lock().tree.store().raw_pages();
        let places = checker.places_of(reached);
        if let Some(error) = checker.scan.missed() {
            return Err(too_often(&error));
        }
        for id in checker.hidden(&places) {
            match id {
                BlockId::Node(NodeId(id)) if id <= raw_pages => self.volume().state.lock().zones.dirty_page((id - 1) as u32),
                _ => self.volume().rewrite(id)?,
            }
            self.note(Repair::Moved { id: format!("{id:?}") });
        }
        Ok(())
    }
}
