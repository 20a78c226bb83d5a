//! Reading the maps: what of a zone is live, extents and checksums of a range; and forgetting a zone.

use super::runs::{Extents, RunMap, Summaries, parts_of_run, run_at_or_after, run_before};
use crate::addr::Addr;
use crate::core::halt::{Halt, Planned};
use crate::core::key::{Class, Key};
use crate::core::txn::{ItemTree, ItemView, damaged};
use crate::format::item::{CHECKSUM_GROUP, Extent};
use crate::ids::{FileBlock, Ino};
use gc::placement::Estimate;

/// Live blocks that lie one behind the other and belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivePart {
    /// First address.
    pub addr: Addr,
    /// Length.
    pub blocks: u32,
    /// Whose.
    pub ino: Ino,
    /// First file block.
    pub block: FileBlock,
    /// What is expected of them.
    pub estimate: Estimate,
}

/// One answer of [`live_runs`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveData {
    /// Live parts in the order of their addresses.
    pub parts: Vec<LivePart>,
    /// The block of the zone to go on at; `None`: the end of the zone was reached.
    pub next: Option<u32>,
}

/// Summaries looked at in one call of [`live_runs`].
const SCAN_LIMIT: usize = 4096;

/// What is live in the zone that starts at `zone`, from its block `from` on, about `max` blocks of it: the summaries, checked against the
/// extents. A call that lacks a block after some progress gives what it has so far: call again with `next`.
///
/// # Errors
/// [`Halt::Need`] for a block that is not resident; `Corrupt`.
pub fn live_runs(view: &dyn ItemView, zone: Addr, from: u32, max: u32) -> Planned<LiveData> {
    let base = zone.zone_base();
    let end = base.0.saturating_add(1 << 28);
    let mut data = LiveData::default();
    let mut at = base.0 + u64::from(from);
    let mut blocks = 0u32;
    // What ends where the last one ended has been looked at: only the first may have begun before.
    let mut inside = from > 0;
    for _ in 0..SCAN_LIMIT {
        match live_step(view, at, end, inside) {
            Ok(Some((parts, next))) => {
                blocks = parts.iter().fold(blocks, |sum, part| sum.saturating_add(part.blocks));
                data.parts.extend(parts);
                at = next;
                inside = false;
            }
            Ok(None) => return Ok(data),
            Err(Halt::Need(_)) if at > base.0 + u64::from(from) => break,
            Err(halt) => return Err(halt),
        }
        if blocks >= max || at >= end {
            break;
        }
    }
    data.next = (at < end).then(|| (at - base.0) as u32);
    Ok(data)
}

/// The live parts of the first summary that reaches beyond `at`, and where it ends. `inside`: one that begins before may do so.
fn live_step(view: &dyn ItemView, at: u64, end: u64, inside: bool) -> Planned<Option<(Vec<LivePart>, u64)>> {
    let before = if inside { run_before(&Summaries, view, at)? } else { None };
    let found = match before.filter(|run| Summaries::bounds(run).1 > at) {
        Some(run) => Some(Summaries::part(&run, at, Summaries::bounds(&run).1)),
        None => run_at_or_after(&Summaries, view, at)?,
    };
    let Some(run) = found.filter(|run| run.addr.0 < end) else { return Ok(None) };
    let first = run.block.0;
    let live = parts_of_run(&Extents(run.ino), view, first, first + u64::from(run.blocks))?.into_iter().filter_map(|part| {
        let addr = run.addr.plus((part.block.0 - first) as u32);
        (part.addr == addr).then_some(LivePart { addr, blocks: part.blocks, ino: run.ino, block: part.block, estimate: part.estimate })
    });
    Ok(Some((live.collect(), Summaries::bounds(&run).1)))
}

/// The extents of a file within a range, clipped to it, at most about `max` of them; and where to go on if there may be more.
///
/// # Errors
/// [`Halt::Need`] for a block that is not resident; `Corrupt`.
pub fn extent_parts(
    view: &dyn ItemView,
    ino: Ino,
    from: FileBlock,
    to: FileBlock,
    max: usize,
) -> Planned<(Vec<Extent>, Option<FileBlock>)> {
    let map = Extents(ino);
    let mut found = Vec::new();
    let mut at = from.0;
    if at >= to.0 {
        return Ok((found, None));
    }
    // One that begins here is looked for first: in a file that is written at random that is mostly all there is to it.
    let first = match view.get(&map.key(at))? {
        Some(value) => Some(map.decode(at, value)?),
        None => run_before(&map, view, at)?.filter(|run| run.end().0 > at),
    };
    if let Some(run) = first {
        found.push(Extents::part(&run, at, run.end().0.min(to.0)));
        at = run.end().0;
    }
    while at < to.0 {
        if found.len() >= max {
            return Ok((found, Some(FileBlock(at))));
        }
        let Some(run) = run_at_or_after(&map, view, at)?.filter(|run| run.block < to) else { break };
        found.push(Extents::part(&run, run.block.0, run.end().0.min(to.0)));
        at = run.end().0;
    }
    Ok((found, None))
}

/// Checksums that memory is taken for before any was found.
const AT_ONCE: usize = 4096;

/// The checksums of `blocks` mapped blocks from `block` on.
///
/// # Errors
/// [`Halt::Need`] for a block that is not resident; `Corrupt` if one is missing.
pub fn checksums(view: &dyn ItemView, ino: Ino, block: FileBlock, blocks: u32) -> Planned<Vec<u32>> {
    // How many blocks there are, an item says that may be damaged: memory is taken for checksums that were found.
    let mut sums = Vec::with_capacity((blocks as usize).min(AT_ONCE));
    let end = block.0.saturating_add(blocks.into());
    let mut at = block.0;
    while at < end {
        let slot = (at % CHECKSUM_GROUP) as usize;
        let here = (end - at).min(CHECKSUM_GROUP - slot as u64);
        let value = view.get(&Key::checksum(ino, FileBlock(at)))?.unwrap_or_default();
        let wanted = value.get(slot * 4..(slot + here as usize) * 4).ok_or_else(|| damaged("checksums"))?;
        sums.extend(wanted.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        at += here;
    }
    Ok(sums)
}

fn summaries_of(view: &dyn ItemView, zone: Addr, max: usize) -> Planned<Vec<Key>> {
    let end = zone.zone_base().0.saturating_add(1 << 28);
    let mut keys = Vec::new();
    let mut next = Key::summary(zone.zone_base());
    while keys.len() < max {
        match view.first_at_or_after(&next)? {
            Some((key, _)) if key.class == Class::Summary && key.a < end => {
                keys.push(key);
                next = Key { a: key.a + 1, b: 0, ..key };
            }
            _ => break,
        }
    }
    Ok(keys)
}

/// Makes sure that [`forget_zone`] finds everything it needs.
///
/// # Errors
/// [`Halt::Need`] for a block that is not resident.
pub fn prepare_forget_zone(tree: &dyn ItemTree, zone: Addr, max: usize) -> Planned<()> {
    for key in summaries_of(tree, zone, max)? {
        tree.touch(&key)?;
    }
    Ok(())
}

/// Removes up to `max` summaries of a zone that is reclaimed, and says whether there may be more.
///
/// # Errors
/// [`Halt::Need`] for a block that is not resident.
pub fn forget_zone(tree: &mut dyn ItemTree, zone: Addr, max: usize) -> Planned<bool> {
    let keys = summaries_of(tree, zone, max)?;
    for key in &keys {
        tree.remove(key)?;
    }
    Ok(keys.len() == max)
}
