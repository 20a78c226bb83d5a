//! Maps of runs: items that each describe consecutive positions. The extents of a file are one (file block to address), the summaries
//! of the data zones are another (address to owner). Both are edited by the same algorithm: overwrite a range, trim what sticks out of it,
//! join neighbours. An edit is first worked out on a view that does not change and then carried out as puts and removals of items, so that
//! "prepare" and "apply" read exactly the same.

use crate::addr::Addr;
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{Behind, Beside, ItemTree, ItemView, damaged, successor};
use crate::format::item::{Extent, Summary};
use crate::ids::{FileBlock, Ino};

/// Most blocks in one unwritten extent (written ones are bounded by their zone).
pub(super) const MAX_UNWRITTEN: u32 = 1 << 30;

/// File blocks there are: 16 TiB.
pub const MAX_FILE_BLOCKS: u64 = 1 << 32;

const ZONE_BLOCKS: u64 = 1 << 28;

/// One map of runs within the tree.
pub(super) trait RunMap {
    /// A run.
    type Run: Copy + PartialEq;
    /// The item of a run that starts at `at`.
    fn key(&self, at: u64) -> Key;
    /// Where the run of this item starts, if the item belongs to the map.
    fn position(&self, key: &Key) -> Option<u64>;
    /// The run of an item.
    fn decode(&self, at: u64, value: &[u8]) -> Planned<Self::Run>;
    /// The value of its item.
    fn encode(run: &Self::Run) -> Vec<u8>;
    /// First position and the one behind the last.
    fn bounds(run: &Self::Run) -> (u64, u64);
    /// The part of a run between two positions within it.
    fn part(run: &Self::Run, from: u64, to: u64) -> Self::Run;
    /// Both as one, if `b` goes on where `a` ends.
    fn join(a: &Self::Run, b: &Self::Run) -> Option<Self::Run>;
}

/// The extents of a file.
pub(super) struct Extents(pub(super) Ino);

impl RunMap for Extents {
    type Run = Extent;
    fn key(&self, at: u64) -> Key {
        Key::extent(self.0, FileBlock(at))
    }
    fn position(&self, key: &Key) -> Option<u64> {
        (key.class == Class::Extent && key.a == self.0.0).then_some(key.b)
    }
    fn decode(&self, at: u64, value: &[u8]) -> Planned<Extent> {
        sound_extent(FileBlock(at), value)
    }
    fn encode(run: &Extent) -> Vec<u8> {
        run.encode()
    }
    fn bounds(run: &Extent) -> (u64, u64) {
        (run.block.0, run.end().0)
    }
    fn part(run: &Extent, from: u64, to: u64) -> Extent {
        let addr = if run.is_unwritten() { Addr::NONE } else { run.addr.plus((from - run.block.0) as u32) };
        Extent { block: FileBlock(from), blocks: (to - from) as u32, addr, ..*run }
    }
    fn join(a: &Extent, b: &Extent) -> Option<Extent> {
        let blocks = u64::from(a.blocks) + u64::from(b.blocks);
        let fits = match (a.is_unwritten(), b.is_unwritten()) {
            (true, true) => blocks <= u64::from(MAX_UNWRITTEN),
            (false, false) => follows(a.addr, a.blocks, b.addr),
            _ => false,
        };
        // Of the joined one is expected what was of the longer part: to keep them apart would cut files into pieces for the sake of a hint.
        let estimate = if b.blocks > a.blocks { b.estimate } else { a.estimate };
        (fits && a.end() == b.block).then_some(Extent { blocks: blocks as u32, estimate, ..*a })
    }
}

/// The extent at `block` of a file; one that reaches beyond what a file or a zone can have is damaged like one that cannot be decoded: what
/// cannot be unmapped must not be found either, or work in steps had no end.
pub(crate) fn sound_extent(block: FileBlock, value: &[u8]) -> Planned<Extent> {
    let sound = |e: &Extent| {
        let in_file = block.0.checked_add(u64::from(e.blocks)).is_some_and(|end| end <= MAX_FILE_BLOCKS);
        in_file && (e.is_unwritten() || in_one_zone(e.addr, u64::from(e.blocks)))
    };
    Extent::decode(block, value).filter(sound).ok_or_else(|| damaged("extent"))
}

/// The summaries of all zones.
pub(super) struct Summaries;

impl RunMap for Summaries {
    type Run = Summary;
    fn key(&self, at: u64) -> Key {
        Key::summary(Addr(at))
    }
    fn position(&self, key: &Key) -> Option<u64> {
        (key.class == Class::Summary).then_some(key.a)
    }
    fn decode(&self, at: u64, value: &[u8]) -> Planned<Summary> {
        let sound = |s: &Summary| {
            let in_file = s.block.0.checked_add(u64::from(s.blocks)).is_some_and(|end| end <= MAX_FILE_BLOCKS);
            in_file && !s.addr.is_none() && in_one_zone(s.addr, u64::from(s.blocks))
        };
        Summary::decode(Addr(at), value).filter(sound).ok_or_else(|| damaged("summary"))
    }
    fn encode(run: &Summary) -> Vec<u8> {
        run.encode()
    }
    fn bounds(run: &Summary) -> (u64, u64) {
        (run.addr.0, run.addr.0 + u64::from(run.blocks))
    }
    fn part(run: &Summary, from: u64, to: u64) -> Summary {
        let skipped = from - run.addr.0;
        Summary { addr: Addr(from), blocks: (to - from) as u32, ino: run.ino, block: FileBlock(run.block.0 + skipped) }
    }
    fn join(a: &Summary, b: &Summary) -> Option<Summary> {
        let one_file = a.ino == b.ino && a.block.0 + u64::from(a.blocks) == b.block.0;
        (one_file && follows(a.addr, a.blocks, b.addr)).then(|| Summary { blocks: a.blocks + b.blocks, ..*a })
    }
}

/// Does a run of blocks stay within the zone of its first?
pub(super) fn in_one_zone(addr: Addr, blocks: u64) -> bool {
    u64::from(addr.block()) + blocks <= ZONE_BLOCKS && addr.0.checked_add(blocks).is_some()
}

/// Does `next` lie right behind `blocks` blocks from `addr` on, in the same zone?
fn follows(addr: Addr, blocks: u32, next: Addr) -> bool {
    addr.zone_base() == next.zone_base() && addr.0 + u64::from(blocks) == next.0
}

/// What overwriting a range does to a map of runs.
pub(super) struct Edit<R> {
    /// The parts of runs that lay in the range.
    pub(super) replaced: Vec<R>,
    /// Runs that are there before, and what is there instead of them.
    pub(super) before: Vec<R>,
    pub(super) after: Vec<R>,
    removals: Vec<Key>,
    puts: Vec<(Key, Vec<u8>)>,
    /// For a hole: where the map goes on behind it.
    beyond: Option<Key>,
}

impl<R> Edit<R> {
    /// Makes sure that [`Edit::carry_out`] finds what it needs, and a later edit as well: a search that would have ended at what
    /// this edit takes away goes on to what lies behind it.
    pub(super) fn touch(&self, tree: &dyn ItemTree) -> Planned<()> {
        for (key, _) in &self.puts {
            tree.touch(key)?;
        }
        if let Some(key) = &self.beyond {
            tree.first_at_or_after(key)?;
        }
        self.removals.iter().try_for_each(|key| touch_removal(tree, key))
    }
    /// Changes the items.
    pub(super) fn carry_out(&self, tree: &mut dyn ItemTree) -> Planned<()> {
        for key in &self.removals {
            tree.remove(key)?;
        }
        for (key, value) in &self.puts {
            tree.put(key, value)?;
        }
        Ok(())
    }
}

/// Makes sure that an item can be removed, and that the one behind it can be seen then.
pub(super) fn touch_removal(tree: &dyn ItemTree, key: &Key) -> Planned<()> {
    tree.touch(key)?;
    if let Some(next) = successor(*key) {
        tree.first_at_or_after(&next)?;
    }
    Ok(())
}

/// The last run that starts before `at`.
pub(super) fn run_before<M: RunMap>(map: &M, view: &dyn ItemView, at: u64) -> Planned<Option<M::Run>> {
    let Some((key, value)) = view.last_before(&map.key(at))? else { return Ok(None) };
    map.position(&key).map(|start| map.decode(start, value)).transpose()
}

/// The first run that starts at or after `at`.
pub(super) fn run_at_or_after<M: RunMap>(map: &M, view: &dyn ItemView, at: u64) -> Planned<Option<M::Run>> {
    let Some((key, value)) = view.first_at_or_after(&map.key(at))? else { return Ok(None) };
    map.position(&key).map(|start| map.decode(start, value)).transpose()
}

/// What surrounds and what overlaps a range.
struct Overlap<R> {
    /// The run before the range, if it ends at or before its start.
    before: Option<R>,
    /// The runs that overlap the range, in order and whole.
    runs: Vec<R>,
}

fn overlapping<M: RunMap>(map: &M, view: &dyn ItemView, from: u64, to: u64) -> Planned<Overlap<M::Run>> {
    let mut found = Vec::new();
    let before = run_before(map, view, from)?;
    let mut reached = from;
    if let Some(run) = before.filter(|run| M::bounds(run).1 > from) {
        reached = M::bounds(&run).1;
        found.push(run);
    }
    // Nothing is read beyond a run that reaches the end of the range: that keeps "what prepare has touched" closed under several edits.
    while reached < to {
        let Some(run) = run_at_or_after(map, view, reached)? else { break };
        let (start, end) = M::bounds(&run);
        if start >= to {
            break;
        }
        found.push(run);
        reached = end;
    }
    Ok(Overlap { before: before.filter(|run| M::bounds(run).1 <= from), runs: found })
}

/// The parts within `from..to` of the runs that overlap it, in order.
pub(super) fn parts<M: RunMap>(map: &M, view: &dyn ItemView, from: u64, to: u64) -> Planned<Vec<M::Run>> {
    Ok(overlapping(map, view, from, to)?.runs.iter().map(|run| clip::<M>(run, from, to)).collect())
}

/// [`parts`], where mostly one run begins where the range does and reaches its end: then nothing else is looked at. For those who read only, or find out
/// by [`replace`] what a change needs.
pub(super) fn parts_of_run<M: RunMap>(map: &M, view: &dyn ItemView, from: u64, to: u64) -> Planned<Vec<M::Run>> {
    if let Some(value) = view.get(&map.key(from))? {
        let run = map.decode(from, value)?;
        if M::bounds(&run).1 >= to {
            return Ok(vec![clip::<M>(&run, from, to)]);
        }
    }
    parts(map, view, from, to)
}

fn clip<M: RunMap>(run: &M::Run, from: u64, to: u64) -> M::Run {
    let (start, end) = M::bounds(run);
    M::part(run, start.max(from), end.min(to))
}

/// What it takes to put `new` (which covers exactly that range) or nothing in place of `from..to`.
pub(super) fn replace<M: RunMap>(map: &M, view: &dyn ItemView, from: u64, to: u64, new: Option<M::Run>) -> Planned<Edit<M::Run>> {
    let Overlap { before, runs: old } = overlapping(map, view, from, to)?;
    let replaced = old.iter().map(|run| clip::<M>(run, from, to)).collect();
    let mut present: Vec<M::Run> = Vec::with_capacity(old.len() + 2);
    let mut wanted: Vec<M::Run> = Vec::with_capacity(3);
    if let (Some(before), Some(new)) = (&before, &new)
        && M::join(before, new).is_some()
    {
        present.push(*before);
        wanted.push(*before);
    }
    present.extend_from_slice(&old);
    if let Some(first) = old.first().filter(|run| M::bounds(run).0 < from) {
        append::<M>(&mut wanted, M::part(first, M::bounds(first).0, from));
    }
    if let Some(new) = new {
        append::<M>(&mut wanted, new);
    }
    match old.last().filter(|run| M::bounds(run).1 > to) {
        Some(last) => append::<M>(&mut wanted, M::part(last, to, M::bounds(last).1)),
        None if new.is_some() => {
            if let Some(value) = view.get(&map.key(to))? {
                let after = map.decode(to, value)?;
                if wanted.last().is_some_and(|last| M::join(last, &after).is_some()) {
                    present.push(after);
                    append::<M>(&mut wanted, after);
                }
            }
        }
        None => {}
    }
    let key = |run: &M::Run| map.key(M::bounds(run).0);
    let gone = |run: &&M::Run| !wanted.iter().any(|other| M::bounds(other).0 == M::bounds(run).0);
    let removals = present.iter().filter(gone).map(key).collect();
    let puts = wanted.iter().filter(|run| !present.contains(run)).map(|run| (key(run), M::encode(run))).collect();
    let beyond = new.is_none().then(|| map.key(to));
    Ok(Edit { replaced, before: present, after: wanted, removals, puts, beyond })
}

/// A run that is set by one [`ItemTree::put`], which cannot fail any more.
pub(super) struct OnePut<R> {
    /// What it replaces: a run with the same bounds.
    pub(super) old: Option<R>,
    /// It is the last one in its leaf. What [`replace`] reads has been read but for the leaf behind.
    pub(super) ends_leaf: bool,
}

/// Is `new` put in place of a run with the same bounds or of nothing, without a neighbour that it would be joined with, in a leaf that is all it takes?
/// `None`: it takes more.
pub(super) fn one_put<M: RunMap>(map: &M, tree: &dyn ItemTree, new: &M::Run) -> Planned<Option<OnePut<M::Run>>> {
    let (from, to) = M::bounds(new);
    let Some(Beside { before: (key, value), at, behind }) = tree.beside(&map.key(from))? else { return Ok(None) };
    let old = at.map(|value| map.decode(from, value)).transpose()?;
    if old.is_some_and(|old| M::bounds(&old) != (from, to)) {
        return Ok(None);
    }
    if let Some(start) = map.position(&key) {
        let before = map.decode(start, value)?;
        if M::bounds(&before).1 > from || M::join(&before, new).is_some() {
            return Ok(None);
        }
    }
    let alone = match behind {
        Behind::Item(key, value) => match map.position(&key) {
            Some(start) if start < to => false,
            // What lies further behind is not looked at: damage there is its own.
            Some(start) if start > to => true,
            Some(start) => M::join(new, &map.decode(start, value)?).is_none(),
            None => true,
        },
        Behind::NothingBefore(key) => key > map.key(to),
        Behind::Nothing => true,
    };
    Ok(alone.then_some(OnePut { old, ends_leaf: !matches!(behind, Behind::Item(..)) }))
}

fn append<M: RunMap>(runs: &mut Vec<M::Run>, run: M::Run) {
    match runs.last_mut().and_then(|last| M::join(last, &run).map(|joined| (last, joined))) {
        Some((last, joined)) => *last = joined,
        None => runs.push(run),
    }
}
