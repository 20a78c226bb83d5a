//! Where the blocks of files lie: extents, checksums of data and summaries of data zones, and the deltas that change them.
//!
//! Running and roll-forward use the same functions (decision 6). A change is worked out on the view ([`prepare`] stops there, having made
//! sure that everything is resident) and then carried out ([`apply`] works it out again and does it), so what has been prepared cannot
//! fail. Several deltas may be prepared first and then applied one after the other: every neighbour that a later one can meet because of an
//! earlier one was read or written by the earlier one. Applying a delta twice gives the state of applying it once.
//!
//! Summaries say who owned a run of blocks when it was written. Invalidation leaves them alone; the extents say whether they still hold.

mod live;
mod runs;
#[cfg(test)]
mod tests;

pub use live::{LiveData, LivePart, checksums, extent_parts, forget_zone, live_runs, prepare_forget_zone};
pub use runs::MAX_FILE_BLOCKS;
pub(crate) use runs::sound_extent;

use crate::addr::Addr;
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{ItemTree, ItemView, damaged};
use crate::format::item::{CHECKSUM_GROUP, Extent, Summary};
use crate::format::record::Delta;
use crate::ids::{FileBlock, Ino};
use gc::placement::Estimate;
use runs::{
    Edit, Extents, MAX_UNWRITTEN, OnePut, RunMap, Summaries, in_one_zone, one_put, parts, parts_of_run, replace, run_before, touch_removal,
};

/// The zone table as extents see it: how many blocks of each zone are live (I4). Runs stay within one zone.
pub trait LiveCounts {
    /// These blocks are live now.
    fn add(&mut self, addr: Addr, blocks: u32);
    /// These blocks are dead now.
    fn sub(&mut self, addr: Addr, blocks: u32);
    /// Of so many more live blocks (fewer, if negative) this is expected.
    fn expect(&mut self, estimate: Estimate, blocks: i64);
    /// So many more blocks are preallocated.
    fn add_unwritten(&mut self, blocks: u64);
    /// So many fewer blocks are preallocated.
    fn sub_unwritten(&mut self, blocks: u64);
}

/// Counts nothing, where zones are nobody's business.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncounted;

impl LiveCounts for Uncounted {
    fn add(&mut self, _: Addr, _: u32) {}
    fn sub(&mut self, _: Addr, _: u32) {}
    fn expect(&mut self, _: Estimate, _: i64) {}
    fn add_unwritten(&mut self, _: u64) {}
    fn sub_unwritten(&mut self, _: u64) {}
}

/// What a delta did to the number of blocks that a file takes; both together are the change of [`crate::format::item::Inode::blocks`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Blocks with data.
    pub mapped: i64,
    /// Preallocated blocks.
    pub unwritten: i64,
}

impl Change {
    /// Blocks more (or fewer) than before.
    pub fn blocks(&self) -> i64 {
        self.mapped + self.unwritten
    }
}

/// An elementary change; a delta is a few of them, on disjoint ranges.
enum Step {
    /// The range of the file gets this extent, or becomes a hole.
    Place { from: u64, to: u64, extent: Option<Extent> },
    /// An item of checksums gets this value, or goes.
    Sums { key: Key, value: Option<Vec<u8>> },
    /// Blocks have this owner.
    Own(Summary),
}

impl Step {
    fn place(extent: Extent) -> Self {
        Self::Place { from: extent.block.0, to: extent.end().0, extent: Some(extent) }
    }

    fn touch(&self, tree: &dyn ItemTree, ino: Ino) -> Planned<()> {
        match self {
            Self::Place { from, to, extent } => replace(&Extents(ino), tree, *from, *to, *extent)?.touch(tree),
            Self::Sums { key, value: Some(_) } => Ok(tree.touch(key)?),
            Self::Sums { key, value: None } => touch_removal(tree, key),
            Self::Own(summary) => own(tree, summary)?.touch(tree),
        }
    }

    fn carry_out(self, tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts, ino: Ino) -> Planned<Change> {
        let mut change = Change::default();
        match self {
            Self::Place { from, to, extent } => {
                let edit = replace(&Extents(ino), tree, from, to, extent)?;
                change = place(&edit, extent, tree, counts)?;
            }
            Self::Sums { key, value: Some(value) } => tree.put(&key, &value)?,
            Self::Sums { key, value: None } => {
                tree.remove(&key)?;
            }
            Self::Own(summary) => own(tree, &summary)?.carry_out(tree)?,
        }
        Ok(change)
    }
}

/// Carries out what puts `extent` in place of others, and counts.
fn place(edit: &Edit<Extent>, extent: Option<Extent>, tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts) -> Planned<Change> {
    let mut change = Change::default();
    edit.carry_out(tree)?;
    // The new place is counted first: a zone is never seen as dead in between when a delta is applied once more.
    if let Some(extent) = extent {
        count(&extent, 1, counts, &mut change);
    }
    for old in &edit.replaced {
        count(old, -1, counts, &mut change);
    }
    // Not only what is replaced: neighbours that are joined with what is put get one estimate.
    edit.before.iter().for_each(|run| expect(run, -1, counts));
    edit.after.iter().for_each(|run| expect(run, 1, counts));
    Ok(change)
}

fn expect(extent: &Extent, sign: i64, counts: &mut dyn LiveCounts) {
    if !extent.is_unwritten() {
        counts.expect(extent.estimate, sign * i64::from(extent.blocks));
    }
}

fn count(extent: &Extent, sign: i64, counts: &mut dyn LiveCounts, change: &mut Change) {
    let blocks = u64::from(extent.blocks);
    let field = if extent.is_unwritten() { &mut change.unwritten } else { &mut change.mapped };
    *field += sign * i64::from(extent.blocks);
    match (extent.is_unwritten(), sign > 0) {
        (true, true) => counts.add_unwritten(blocks),
        (true, false) => counts.sub_unwritten(blocks),
        (false, true) => counts.add(extent.addr, extent.blocks),
        (false, false) => counts.sub(extent.addr, extent.blocks),
    }
}

/// A summary in place of what was said about its blocks when their zone was last in use.
fn own(view: &dyn ItemView, summary: &Summary) -> Planned<Edit<Summary>> {
    let (from, to) = Summaries::bounds(summary);
    replace(&Summaries, view, from, to, Some(*summary))
}

/// For a repair: these blocks have this owner, whatever was said of them. Prepares and applies in one: an error has changed nothing.
///
/// # Errors
/// As [`prepare`].
pub fn own_again(tree: &mut dyn ItemTree, summary: &Summary) -> Planned<()> {
    let edit = own(tree, summary)?;
    edit.touch(tree)?;
    edit.carry_out(tree)
}

/// The file whose extents a delta changes; `None` for deltas about other items.
pub fn file_of(delta: &Delta) -> Option<Ino> {
    match delta {
        Delta::Map { ino, .. } | Delta::Preallocate { ino, .. } | Delta::Unmap { ino, .. } | Delta::Move(Relocation { ino, .. }) => {
            Some(*ino)
        }
        Delta::Put { .. } | Delta::Remove { .. } | Delta::Release { .. } => None,
    }
}

fn steps(view: &dyn ItemView, delta: &Delta) -> Planned<Vec<Step>> {
    match delta {
        Delta::Map { ino, block, addr, checksums, estimate } => map_steps(view, *ino, *block, (*addr, *estimate), checksums),
        Delta::Unmap { ino, block, blocks } => {
            let Some((from, to)) = range(*block, *blocks) else { return Ok(Vec::new()) };
            let mut steps = vec![Step::Place { from, to, extent: None }];
            forget_sums(view, *ino, from, to, &mut steps)?;
            Ok(steps)
        }
        Delta::Preallocate { ino, block, blocks } => match range(*block, *blocks) {
            Some((from, to)) => fill_holes(view, *ino, from, to),
            None => Ok(Vec::new()),
        },
        Delta::Move(moved) => Ok(relocation_steps(view, moved)?.0),
        Delta::Put { .. } | Delta::Remove { .. } | Delta::Release { .. } => Ok(Vec::new()),
    }
}

/// The file blocks of a range, cut to what a file can have; `None` if nothing is left.
fn range(block: FileBlock, blocks: u64) -> Option<(u64, u64)> {
    let to = block.0.saturating_add(blocks).min(MAX_FILE_BLOCKS);
    (block.0 < to).then_some((block.0, to))
}

/// A mapping that makes sense.
fn check_mapping(block: FileBlock, addr: Addr, checksums: &[u32]) -> Planned<()> {
    let blocks = checksums.len() as u64;
    let in_file = block.0.checked_add(blocks).is_some_and(|end| end <= MAX_FILE_BLOCKS);
    if blocks == 0 || addr.is_none() || !in_file || !in_one_zone(addr, blocks) {
        return Err(damaged("mapping"));
    }
    Ok(())
}

/// The value of a group of checksums in which these, from `block` on and all in it, are set.
fn with_sums(view: &dyn ItemView, group: &Key, block: FileBlock, sums: &[u32]) -> Planned<Vec<u8>> {
    let slot = (block.0 % CHECKSUM_GROUP) as usize;
    let mut value = view.get(group)?.unwrap_or_default().to_vec();
    value.resize(value.len().max((slot + sums.len()) * 4).min(CHECKSUM_GROUP as usize * 4), 0);
    for (n, sum) in sums.iter().enumerate() {
        value[(slot + n) * 4..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    Ok(value)
}

fn map_steps(view: &dyn ItemView, ino: Ino, block: FileBlock, (addr, estimate): (Addr, Estimate), checksums: &[u32]) -> Planned<Vec<Step>> {
    check_mapping(block, addr, checksums)?;
    let blocks = checksums.len() as u32;
    let mut steps = vec![Step::place(Extent { block, blocks, addr, estimate })];
    let mut at = block.0;
    let mut rest = checksums;
    while !rest.is_empty() {
        let slot = (at % CHECKSUM_GROUP) as usize;
        let (here, later) = rest.split_at(rest.len().min(CHECKSUM_GROUP as usize - slot));
        let key = Key::checksum(ino, FileBlock(at));
        steps.push(Step::Sums { key, value: Some(with_sums(view, &key, FileBlock(at), here)?) });
        at += here.len() as u64;
        rest = later;
    }
    steps.push(Step::Own(Summary { addr, blocks, ino, block }));
    Ok(steps)
}

/// Checksums of a range that becomes a hole. Groups within it go; so do groups that it shares when no other extent is in them: a group is
/// there only as long as an extent is, so that freeing the extents of a file frees all. A shared group is shortened where it can be.
fn forget_sums(view: &dyn ItemView, ino: Ino, from: u64, to: u64, steps: &mut Vec<Step>) -> Planned<()> {
    let mut next = Key::checksum(ino, FileBlock(from));
    let end = Key::checksum(ino, FileBlock(to.next_multiple_of(CHECKSUM_GROUP)));
    while next < end {
        let Some((key, value)) = view.first_at_or_after(&next)?.filter(|(key, _)| *key < end) else { break };
        let (first, behind) = (key.b * CHECKSUM_GROUP, (key.b + 1) * CHECKSUM_GROUP);
        let kept = from.saturating_sub(first) as usize * 4;
        if !has_extent(view, ino, first, from)? && !has_extent(view, ino, to, behind)? {
            steps.push(Step::Sums { key, value: None });
        } else if to >= behind && value.len() > kept {
            steps.push(Step::Sums { key, value: Some(value[..kept].to_vec()) });
        }
        next = Key { b: key.b + 1, ..key };
    }
    Ok(())
}

/// Is there an extent in `from..to`?
fn has_extent(view: &dyn ItemView, ino: Ino, from: u64, to: u64) -> Planned<bool> {
    Ok(from < to && run_before(&Extents(ino), view, to)?.is_some_and(|run| run.end().0 > from))
}

fn fill_holes(view: &dyn ItemView, ino: Ino, from: u64, to: u64) -> Planned<Vec<Step>> {
    let present = parts(&Extents(ino), view, from, to)?;
    let mut steps = Vec::new();
    let mut at = from;
    for (start, end) in present.iter().map(Extents::bounds).chain([(to, to)]) {
        while at < start {
            let blocks = (start - at).min(u64::from(MAX_UNWRITTEN)) as u32;
            steps.push(Step::place(Extent { block: FileBlock(at), blocks, addr: Addr::NONE, estimate: Estimate::UNKNOWN }));
            at += u64::from(blocks);
        }
        at = end;
    }
    Ok(steps)
}

/// Makes sure that [`apply`] finds everything it needs. Deltas about other items than extents touch their one item.
///
/// # Errors
/// [`crate::core::Halt::Need`] for a block that is not resident; `Corrupt` for a delta or an item that makes no sense.
pub fn prepare(tree: &dyn ItemTree, delta: &Delta) -> Planned<()> {
    refuse_derived(delta)?;
    match (delta, file_of(delta)) {
        (Delta::Put { key, .. } | Delta::Remove { key }, _) => Ok(tree.touch(key)?),
        (_, Some(ino)) => match Rewrite::of(tree, delta)? {
            Some(rewrite) => rewrite.touch(tree),
            None => touch_all(tree, ino, &steps(tree, delta)?),
        },
        _ => Ok(()),
    }
}

/// Applies a delta, running and in roll-forward. After [`prepare`] it does not fail.
///
/// # Errors
/// As [`prepare`].
pub fn apply(tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts, delta: &Delta) -> Planned<Change> {
    refuse_derived(delta)?;
    match (delta, file_of(delta)) {
        (Delta::Put { key, value }, _) => tree.put(key, value)?,
        (Delta::Remove { key }, _) => {
            tree.remove(key)?;
        }
        (_, Some(ino)) => {
            if let Some(rewrite) = Rewrite::of(tree, delta)? {
                return rewrite.carry_out(tree, counts);
            }
            let steps = steps(tree, delta)?;
            return carry_out_all(tree, counts, ino, steps);
        }
        _ => {}
    }
    Ok(Change::default())
}

/// The mapping of a piece of a file that was mapped as the same piece before, or not at all, and stands alone there: three items, each set by one put. Writing
/// at random is little else than this, and half the time of a commit was spent on finding out what the general way needs for it.
struct Rewrite<'a> {
    extent: OnePut<Extent>,
    new: Extent,
    owner: OnePut<Summary>,
    summary: Summary,
    /// The group that has all of the checksums.
    sums: Key,
    checksums: &'a [u32],
}

impl<'a> Rewrite<'a> {
    /// `None`: it takes more.
    fn of(tree: &dyn ItemTree, delta: &'a Delta) -> Planned<Option<Self>> {
        let Delta::Map { ino, block, addr, checksums, estimate } = delta else { return Ok(None) };
        let (ino, block, addr, estimate) = (*ino, *block, *addr, *estimate);
        if block.0 % CHECKSUM_GROUP + checksums.len() as u64 > CHECKSUM_GROUP {
            return Ok(None);
        }
        check_mapping(block, addr, checksums)?;
        let blocks = checksums.len() as u32;
        let (new, summary) = (Extent { block, blocks, addr, estimate }, Summary { addr, blocks, ino, block });
        let Some(extent) = one_put(&Extents(ino), tree, &new)? else { return Ok(None) };
        let Some(owner) = one_put(&Summaries, tree, &summary)? else { return Ok(None) };
        Ok(Some(Self { extent, new, owner, summary, sums: Key::checksum(ino, block), checksums }))
    }

    /// Sees to what the general way would look at as well: a delta that is applied before this one may be joined with it then.
    fn touch(&self, tree: &dyn ItemTree) -> Planned<()> {
        if self.extent.ends_leaf {
            tree.first_at_or_after(&Extents(self.summary.ino).key(self.new.block.0))?;
        }
        if self.owner.ends_leaf {
            tree.first_at_or_after(&Summaries.key(self.summary.addr.0))?;
        }
        Ok(tree.touch(&self.sums)?)
    }

    fn carry_out(self, tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts) -> Planned<Change> {
        let sums = with_sums(tree, &self.sums, self.new.block, self.checksums)?;
        let mut change = Change::default();
        tree.put(&Extents(self.summary.ino).key(self.new.block.0), &self.new.encode())?;
        count(&self.new, 1, counts, &mut change);
        expect(&self.new, 1, counts);
        if let Some(old) = &self.extent.old {
            count(old, -1, counts, &mut change);
            expect(old, -1, counts);
        }
        tree.put(&self.sums, &sums)?;
        tree.put(&Summaries.key(self.summary.addr.0), &self.summary.encode())?;
        Ok(change)
    }
}

/// [`prepare`] for [`apply_content`].
///
/// # Errors
/// As [`prepare`].
pub fn prepare_content(tree: &dyn ItemTree, delta: &Delta) -> Planned<()> {
    let Some(ino) = file_of(delta) else { return prepare(tree, delta) };
    touch_all(tree, ino, &content_steps(tree, delta)?)
}

/// [`apply`] without the summaries, which only cleaning needs: for a volume that is not written to any more because they are damaged.
///
/// # Errors
/// As [`prepare`].
pub fn apply_content(tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts, delta: &Delta) -> Planned<Change> {
    let Some(ino) = file_of(delta) else { return apply(tree, counts, delta) };
    let steps = content_steps(tree, delta)?;
    carry_out_all(tree, counts, ino, steps)
}

fn content_steps(view: &dyn ItemView, delta: &Delta) -> Planned<Vec<Step>> {
    Ok(steps(view, delta)?.into_iter().filter(|step| !matches!(step, Step::Own(_))).collect())
}

/// A log that sets extents, checksums or summaries directly is not one of ours.
fn refuse_derived(delta: &Delta) -> Planned<()> {
    match delta {
        Delta::Put { key, .. } | Delta::Remove { key } if is_derived(key.class) => Err(damaged("log record")),
        _ => Ok(()),
    }
}

fn touch_all(tree: &dyn ItemTree, ino: Ino, steps: &[Step]) -> Planned<()> {
    steps.iter().try_for_each(|step| step.touch(tree, ino))
}

fn carry_out_all(tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts, ino: Ino, steps: Vec<Step>) -> Planned<Change> {
    let mut total = Change::default();
    for step in steps {
        let change = step.carry_out(tree, counts, ino)?;
        total.mapped += change.mapped;
        total.unwritten += change.unwritten;
    }
    Ok(total)
}

/// A run of blocks that was copied from one place to another on behalf of the cleaner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Whose.
    pub ino: Ino,
    /// First file block.
    pub block: FileBlock,
    /// Length.
    pub blocks: u32,
    /// Where it was.
    pub from: Addr,
    /// Where it is now.
    pub to: Addr,
    /// What is expected of the blocks now.
    pub estimate: Estimate,
}

/// The runs that still lie where they were when the copy was planned.
fn relocation_steps(view: &dyn ItemView, moved: &Relocation) -> Planned<(Vec<Step>, u32)> {
    let Some((from, to)) = range(moved.block, moved.blocks.into()) else { return Ok((Vec::new(), 0)) };
    let sound = |addr: Addr| !addr.is_none() && in_one_zone(addr, moved.blocks.into());
    if !sound(moved.from) || !sound(moved.to) {
        return Err(damaged("relocation"));
    }
    let mut steps = Vec::new();
    let mut blocks = 0;
    for part in parts_of_run(&Extents(moved.ino), view, from, to)? {
        let offset = (part.block.0 - from) as u32;
        if part.addr == moved.from.plus(offset) {
            let addr = moved.to.plus(offset);
            steps.push(Step::place(Extent { addr, estimate: moved.estimate, ..part }));
            steps.push(Step::Own(Summary { addr, blocks: part.blocks, ino: moved.ino, block: part.block }));
            blocks += part.blocks;
        }
    }
    Ok((steps, blocks))
}

/// How many blocks of a relocation still lie where they were.
///
/// # Errors
/// As [`prepare`].
pub fn left_to_move(view: &dyn ItemView, moved: &Relocation) -> Planned<u32> {
    Ok(relocation_steps(view, moved)?.1)
}

/// Makes sure that [`relocate`] finds everything it needs.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_relocate(tree: &dyn ItemTree, moved: &Relocation) -> Planned<()> {
    touch_all(tree, moved.ino, &relocation_steps(tree, moved)?.0)
}

/// Publishes a relocation by compare-and-swap, run by run (I5): only what still lies at the old place moves, the rest of the copy is dead
/// space. Returns how many blocks moved. The caller sees to the log ([`Delta::Move`]). Prepares and applies in one: an error has changed nothing.
///
/// # Errors
/// As [`prepare`].
pub fn relocate(tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts, moved: &Relocation) -> Planned<u32> {
    if relocate_whole(tree, counts, moved)? {
        return Ok(moved.blocks);
    }
    let (steps, blocks) = relocation_steps(tree, moved)?;
    touch_all(tree, moved.ino, &steps)?;
    carry_out_all(tree, counts, moved.ino, steps)?;
    Ok(blocks)
}

/// Most relocations are an extent as a whole: one item gets another value, and the new place an item. Cleaning many short extents is little else than this.
/// Gives whether it was done.
fn relocate_whole(tree: &mut dyn ItemTree, counts: &mut dyn LiveCounts, moved: &Relocation) -> Planned<bool> {
    let Relocation { ino, block, blocks, from, to, estimate } = *moved;
    let in_file = range(block, blocks.into()).is_some_and(|(start, end)| end - start == u64::from(blocks));
    if !in_file || from.is_none() || to.is_none() || !in_one_zone(from, blocks.into()) || !in_one_zone(to, blocks.into()) {
        return Ok(false);
    }
    let new = Extent { block, blocks, addr: to, estimate };
    let summary = Summary { addr: to, blocks, ino, block };
    let extents = Extents(ino);
    let Some(old) = one_put(&extents, tree, &new)?.and_then(|put| put.old).filter(|old| old.addr == from) else { return Ok(false) };
    if one_put(&Summaries, tree, &summary)?.is_none_or(|put| put.old.is_some()) {
        return Ok(false);
    }
    tree.put(&extents.key(block.0), &new.encode())?;
    tree.put(&Summaries.key(to.0), &summary.encode())?;
    counts.add(to, blocks);
    counts.sub(from, blocks);
    expect(&old, -1, counts);
    expect(&new, 1, counts);
    Ok(true)
}

/// Are these keys the business of this module alone?
pub fn is_derived(class: Class) -> bool {
    matches!(class, Class::Extent | Class::Checksum | Class::Summary)
}
