//! Lengths and space of files: setattr with a length, fallocate.
//!
//! The plans are those of `core::ops`, which know the tree; what is dirty lies above the tree and is dealt with here: pages beyond a new end
//! are dropped and no longer counted, ranges that fallocate works on are written to devices first.

use super::read::{B, regular_file};
use super::write::{Attempt, Edge, pages_of};
use crate::core::extents::extent_parts;
use crate::core::halt::Planned;
use crate::core::ops::{self, Fallocate, Setattr};
use crate::error::{FsError, Result};
use crate::ids::{FileBlock, Ino};
use crate::volume::pages::Page;
use crate::volume::room::Grant;
use crate::volume::state::State;
use crate::volume::{Attr, Cost, SetAttr, Volume};
use std::ops::Range;

const END: FileBlock = FileBlock(u64::MAX);

impl Volume {
    /// Changes attributes, the length among them.
    ///
    /// # Errors
    /// `NotFound`; for a length: `FileTooLarge`, `IsADirectory`, `Invalid`; [`FsError::NoSpace`], [`FsError::ReadOnly`]; a device that fails.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if let Some(size) = set.size {
            return self.set_size(ino, size, set);
        }
        match self.run(Cost::NOTHING, |txn| ops::setattr(txn, ino, set))? {
            Setattr::Done { inode, .. } => Ok(*inode),
            Setattr::CutFirst => Err(FsError::Internal("a cut stands in the way of attributes without a length")),
        }
    }

    fn set_size(&self, ino: Ino, size: u64, set: &SetAttr) -> Result<Attr> {
        let mut room: Option<Grant<'_>> = None;
        loop {
            self.admit(Cost::DELETION)?;
            // What stays of the last block reads as zeros behind the end when the file grows again.
            let edge = match size % B {
                0 => None,
                kept => {
                    let (edge, mut bytes) = self.edge(ino, size / B)?;
                    bytes[kept as usize..].fill(0);
                    let page = pages_of(bytes).swap_remove(0);
                    Some((edge, page))
                }
            };
            let attempt = self.change(|state| {
                let old = regular_file(&state.tree, ino)?.size;
                if let Some((edge, _)) = &edge
                    && !edge.holds(state, ino)?
                {
                    return Ok(Attempt::Again);
                }
                let zeroed = edge.as_ref().filter(|(edge, _)| size < old && !edge.is_zeros());
                if zeroed.is_some() && (room.is_none() || !state.zones.has_place_for(1)) {
                    return Ok(Attempt::NoRoom);
                }
                let from = FileBlock(size.div_ceil(B));
                let above = if size < old { pages_above(state, ino, from)? } else { 0 };
                let planned = self.try_run(state, Cost::DELETION, |txn| {
                    let mut planned = ops::setattr(txn, ino, set)?;
                    if let Setattr::Done { inode, .. } = &mut planned {
                        inode.blocks = inode.blocks.saturating_sub(above);
                        txn.put_inode(inode);
                    }
                    Ok(planned)
                })?;
                let Setattr::Done { inode, resize } = planned else { return Ok(Attempt::CutFirst) };
                if size <= old {
                    state.pages.drop_range(ino, from, END);
                }
                if let Some((edge, page)) = zeroed {
                    state.pages.put(ino, edge.block, page.clone());
                }
                state.sync_promised();
                Ok(Attempt::Done((*inode, resize.is_some_and(|resize| resize.cut))))
            })?;
            match attempt {
                Attempt::Done((inode, cut)) => {
                    if cut {
                        self.finish_cut(ino)?;
                        return self.ask(|state| regular_file(&state.tree, ino));
                    }
                    return Ok(inode);
                }
                Attempt::CutFirst => self.finish_cut(ino)?,
                Attempt::NoRoom => {
                    drop(room.take());
                    room = Some(self.wait_for_space(1)?);
                }
                Attempt::Again => {}
            }
        }
    }

    /// fallocate(2): default, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE.
    ///
    /// # Errors
    /// `Unsupported` mode, `Invalid`, `FileTooLarge`, `IsADirectory`, `NotFound`, [`FsError::NoSpace`], [`FsError::ReadOnly`]; a device that
    /// fails.
    pub fn fallocate(&self, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.with_space_of_orphans(|| self.allocate(ino, mode, offset, len))
    }

    fn allocate(&self, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<()> {
        let Some(end) = offset.checked_add(len).filter(|end| *end <= ops::MAX_FILE_SIZE) else { return Err(FsError::FileTooLarge) };
        let allocates = mode & !libc::FALLOC_FL_KEEP_SIZE == 0;
        let mut at = offset;
        loop {
            self.admit(if allocates { Cost::METADATA } else { Cost::DELETION })?;
            // Blocks that are zeroed in part change together with the whole ones, so that a power cut finds all of a small call or nothing.
            let ragged = !allocates && (!at.is_multiple_of(B) || !end.is_multiple_of(B));
            let room = if ragged { Some(self.admit_data(2)?) } else { None };
            let parts = if ragged { self.zeroed_parts(ino, at..end)? } else { Vec::new() };
            let attempt = self.change(|state| self.try_fallocate(state, ino, mode, at..end, &parts, room.as_ref()))?;
            drop(room);
            match attempt {
                Attempt::Done(Some(next)) => at = next,
                Attempt::Done(None) => return Ok(()),
                Attempt::CutFirst => self.finish_cut(ino)?,
                // What is dirty in the range goes to the tree.
                Attempt::Again => self.commit_now(false)?,
                Attempt::NoRoom => {}
            }
        }
    }

    /// What the blocks at the ends of a range will be once the range reads as zeros.
    fn zeroed_parts(&self, ino: Ino, range: Range<u64>) -> Result<Vec<ZeroedPart>> {
        let size = self.ask(|state| regular_file(&state.tree, ino))?.size;
        let zeroed = |part: Range<u64>| {
            let (edge, mut bytes) = self.edge(ino, part.start / B)?;
            let within = (part.start % B) as usize;
            bytes[within..within + (part.end - part.start) as usize].fill(0);
            Ok(ZeroedPart { part, edge, page: pages_of(bytes).swap_remove(0) })
        };
        ops::ragged_parts(range, size).map(zeroed).collect()
    }

    /// One step of it, in one change; where to go on.
    fn try_fallocate(
        &self,
        state: &mut State,
        ino: Ino,
        mode: i32,
        range: Range<u64>,
        parts: &[ZeroedPart],
        room: Option<&Grant<'_>>,
    ) -> Planned<Attempt<Option<u64>>> {
        let (at, end) = (range.start, range.end);
        let inode = regular_file(&state.tree, ino)?;
        // What it would make of holes, nobody knows.
        crate::volume::read::refuse_if_lost(&inode, FileBlock(at / B))?;
        let old = inode.size;
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            let is_known = |part: Range<u64>| parts.iter().any(|known| known.part == part);
            if !ops::ragged_parts(range.clone(), old).all(is_known) {
                return Ok(Attempt::Again);
            }
            for part in parts {
                if !part.edge.holds(state, ino)? {
                    return Ok(Attempt::Again);
                }
            }
            let rewritten = parts.iter().filter(|part| !part.edge.is_zeros()).count() as u64;
            if rewritten > 0 && (room.is_none_or(|room| room.blocks() < rewritten) || !state.zones.has_place_for(rewritten)) {
                return Ok(Attempt::NoRoom);
            }
        }
        let (from, to) = (FileBlock(at / B), FileBlock(end.div_ceil(B)));
        if state.pages.has_dirty(ino, from, to) {
            return Ok(Attempt::Again);
        }
        let available = state.admissible();
        let planned = self.try_run(state, Cost::DELETION, |txn| {
            let planned = ops::fallocate(txn, ino, mode, at, end - at)?;
            match &planned {
                Fallocate::Done(done) if done.preallocated > available => Err(FsError::NoSpace.into()),
                _ => Ok(planned),
            }
        })?;
        let Fallocate::Done(done) = planned else { return Ok(Attempt::CutFirst) };
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            // The whole blocks that became zeros; what is in flight there is mapped already, and unmapped again now.
            let inner_end = match done.next {
                Some(next) => next / B,
                None if end >= old => end.div_ceil(B),
                None => end / B,
            };
            state.pages.drop_range(ino, FileBlock(at.div_ceil(B)), FileBlock(inner_end));
            for (at, len) in &done.edges {
                let known = parts.iter().find(|known| known.part == (*at..at + len) && !known.edge.is_zeros());
                if let Some(ZeroedPart { edge, page, .. }) = known {
                    state.pages.put(ino, edge.block, page.clone());
                }
            }
            state.sync_promised();
        }
        Ok(Attempt::Done(done.next))
    }
}

/// A part of a block that becomes zeros, with the whole block as it will be.
struct ZeroedPart {
    /// Which bytes of the file.
    part: Range<u64>,
    /// The block as it is.
    edge: Edge,
    /// As it will be.
    page: Page,
}

/// Blocks at or beyond `from` that only dirty pages take: nothing in the tree stands for them yet.
fn pages_above(state: &State, ino: Ino, from: FileBlock) -> Planned<u64> {
    let mut count = 0;
    let blocks: Vec<u64> = state.pages.range(ino, from, END).map(|(block, _)| block.0).collect();
    for run in blocks.chunk_by(|a, b| a + 1 == *b) {
        let end = FileBlock(run[0] + run.len() as u64);
        let (mapped, _) = extent_parts(&state.tree, ino, FileBlock(run[0]), end, usize::MAX)?;
        count += run.len() as u64 - mapped.iter().map(|extent| u64::from(extent.blocks)).sum::<u64>();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make, open};
    use std::time::{Duration, Instant};
    use zns::sim::{SimConfig, SimDrive};

    /// Somebody's sync comes at any moment of it, and nothing after that reaches the drive.
    #[test]
    fn a_ragged_hole_is_found_whole_or_not_at_all() {
        const LEN: usize = 5 * B as usize;
        let (from, len) = (2000_u64, 9000_u64);
        let mut met = [0_u32; 2];
        let mut took = Duration::from_micros(100);
        for round in 0..400_u32 {
            let drive = SimDrive::new(SimConfig::zoned(64, round.into()));
            let volume = formatted(&drive);
            let ino = make(&volume, "file");
            volume.write(ino, 0, &[7; LEN], &WriteOptions::default()).expect("written");
            volume.sync().expect("synced");
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                let (volume, both) = (&volume, &both);
                // The delays sweep over what a call has just taken, whatever the machine.
                let wait = took * (round % 50) / 40;
                scope.spawn(move || {
                    both.wait();
                    let begun = Instant::now();
                    while begun.elapsed() < wait {
                        std::hint::spin_loop();
                    }
                    volume.sync().expect("synced");
                });
                let mode = if round % 2 == 0 { libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE } else { libc::FALLOC_FL_ZERO_RANGE };
                both.wait();
                let begun = Instant::now();
                volume.fallocate(ino, mode, from, len).expect("zeroed");
                took = begun.elapsed().min(Duration::from_millis(2));
            });
            drive.cut_power();
            drop(volume);
            drive.power_cycle();
            let volume = open(&drive);
            let found = volume.read(ino, 0, LEN as u32).expect("read").to_vec();
            let mut whole = vec![7; LEN];
            assert!(found.len() == LEN);
            let is_old = found == whole;
            whole[from as usize..(from + len) as usize].fill(0);
            assert!(is_old || found == whole, "round {round}: the hole is there in part");
            met[usize::from(is_old)] += 1;
        }
        println!("{} found whole, {} not there", met[0], met[1]);
    }
}
