//! Writing file data: one copy of the payload into aligned memory, then pages under the lock; devices are the commit's business.
//!
//! Space and the bounds on unlogged data are seen to before anything else (I8). What is slow (copying, checksums, reading the blocks that
//! are written in part) happens outside the lock; whether it still holds is checked under it.

use super::read::{B, regular_file};
use crate::BLOCK;
use crate::core::halt::Planned;
use crate::core::ops::{self, MAX_FILE_SIZE, clear_privileges};
use crate::error::{FsError, Result};
use crate::format::item::Inode;
use crate::ids::{FileBlock, Ino};
use crate::volume::attr::WriteOptions;
use crate::volume::content::{Content, content, taken};
use crate::volume::pages::Page;
use crate::volume::room::Grant;
use crate::volume::state::State;
use crate::volume::{Cost, Volume};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zns::{AlignedBuf, BufSlice, IoClass};

/// Most bytes that one step of a write puts under the lock.
const STEP_BYTES: usize = 1 << 20;

/// A block of which only a part changes: what it was when that was looked up.
pub(super) struct Edge {
    pub(super) block: FileBlock,
    was: Content,
}

impl Edge {
    /// Is the block still what it was?
    pub(super) fn holds(&self, state: &State, ino: Ino) -> Planned<bool> {
        let now = content(&state.tree, &state.pages, ino, self.block, FileBlock(self.block.0 + 1))?;
        Ok(now.first().is_some_and(|part| part.content.is_same(&self.was)))
    }

    /// Does the block read as zeros, with nothing behind it?
    pub(super) fn is_zeros(&self) -> bool {
        self.was.is_zeros()
    }
}

/// What became of an attempt under the lock.
pub(super) enum Attempt<T> {
    /// Done.
    Done(T),
    /// Something was overtaken: from the start.
    Again,
    /// Space ran out meanwhile: wait for it again.
    NoRoom,
    /// An earlier cut must be finished first.
    CutFirst,
}

impl<T> Attempt<T> {
    /// With another result.
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Attempt<U> {
        match self {
            Self::Done(value) => Attempt::Done(map(value)),
            Self::Again => Attempt::Again,
            Self::NoRoom => Attempt::NoRoom,
            Self::CutFirst => Attempt::CutFirst,
        }
    }
}

/// Whole blocks, ready to become pages.
struct Payload {
    first: FileBlock,
    pages: Vec<Page>,
    edges: Vec<Edge>,
}

impl Volume {
    /// Writes to a file; returns how many bytes (fewer only at the limit of 16 TiB).
    ///
    /// # Errors
    /// [`FsError::NoSpace`], [`FsError::FileTooLarge`], `IsADirectory`, `Invalid`, `NotFound`, [`FsError::ReadOnly`]; a device that fails.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], options: &WriteOptions) -> Result<usize> {
        self.check_writable()?;
        let mut written = 0;
        while written < data.len() {
            let at = if options.append { self.ask(|state| regular_file(&state.tree, ino))?.size } else { offset + written as u64 };
            let room = MAX_FILE_SIZE.saturating_sub(at);
            // A step ends at a block, so that only the ends of the whole write are ragged.
            let whole = STEP_BYTES - (at % B) as usize;
            let step = &data[written..][..(data.len() - written).min(whole).min(usize::try_from(room).unwrap_or(usize::MAX))];
            let done = match step.is_empty() {
                true => Err(FsError::FileTooLarge),
                false => self.with_space_of_orphans(|| self.write_step(ino, at, step, options)),
            };
            match done {
                Ok(true) => written += step.len(),
                Ok(false) => {}
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if data.is_empty() {
            self.ask(|state| regular_file(&state.tree, ino))?;
        }
        self.counters.user_written.fetch_add(written as u64, Ordering::Relaxed);
        if options.sync {
            self.sync()?;
        }
        Ok(written)
    }

    /// [`Volume::write`], but where there is no room for all of it, as much of its beginning as there is room for: write(2) of POSIX demands that.
    ///
    /// # Errors
    /// As there; [`FsError::NoSpace`] when not a single block fits.
    pub fn write_what_fits(&self, ino: Ino, offset: u64, data: &[u8], options: &WriteOptions) -> Result<usize> {
        let mut result = self.write(ino, offset, data, options);
        let mut blocks = (offset % B + data.len() as u64).div_ceil(B);
        while matches!(result, Err(FsError::NoSpace)) && blocks > 1 && !options.append {
            // What there is, if the rest of what a write needs is there, too: else half, and half of that.
            let room = self.state.lock().admissible();
            blocks = if room < blocks { room } else { blocks / 2 };
            if blocks == 0 {
                break;
            }
            let part = (blocks * B - offset % B) as usize;
            result = self.write(ino, offset, &data[..part], options);
        }
        result
    }

    /// Writes one step. `false`: an append was overtaken by another.
    fn write_step(&self, ino: Ino, at: u64, data: &[u8], options: &WriteOptions) -> Result<bool> {
        let end = at + data.len() as u64;
        let blocks = end.div_ceil(B) - at / B;
        loop {
            let mut room = self.admit_data(blocks)?;
            let payload = self.payload(ino, at, data)?;
            let mut dirty_bytes = 0;
            let attempt = self.change(|state| {
                let mut inode = regular_file(&state.tree, ino)?;
                if options.append && inode.size != at {
                    return Ok(Attempt::Done(false));
                }
                ops::check_write(&inode, at)?;
                if options.kill_suid {
                    clear_privileges(&mut inode);
                }
                inode.mtime = self.options.clock.now();
                let placed = self.place(state, inode, end, &payload, Some(&room))?;
                if let Attempt::Done(()) = placed {
                    room.end(state);
                }
                dirty_bytes = state.pages.dirty_bytes();
                Ok(placed.map(|()| true))
            })?;
            match attempt {
                Attempt::Done(done) => {
                    self.note_dirty(dirty_bytes);
                    return Ok(done);
                }
                Attempt::CutFirst => self.finish_cut(ino)?,
                Attempt::Again | Attempt::NoRoom => {}
            }
        }
    }

    /// Puts the pages and the inode, under the lock, into the room that was granted for them. The file is at least `end` bytes long then.
    fn place(&self, state: &mut State, mut inode: Inode, end: u64, payload: &Payload, room: Option<&Grant<'_>>) -> Planned<Attempt<()>> {
        let ino = inode.ino;
        for edge in &payload.edges {
            if !edge.holds(state, ino)? {
                return Ok(Attempt::Again);
            }
        }
        let (from, blocks) = (payload.first, payload.pages.len() as u64);
        let to = FileBlock(from.0 + blocks);
        if room.is_none_or(|room| room.blocks() < blocks) || !state.zones.has_place_for(blocks) {
            return Ok(Attempt::NoRoom);
        }
        let new = blocks - taken(&state.tree, &state.pages, ino, from, to, usize::MAX)?.0;
        if new > 0 && state.admissible() < new {
            return Err(FsError::NoSpace.into());
        }
        inode.size = inode.size.max(end);
        inode.blocks = inode.blocks.saturating_add(new);
        inode.ctime = self.options.clock.now();
        let cut_first = self.try_run(state, Cost::NOTHING, |txn| {
            if ops::pending_cut(txn, ino)?.is_some_and(|cut| to > cut) {
                return Ok(true);
            }
            txn.put_inode(&inode);
            Ok(false)
        })?;
        if cut_first {
            return Ok(Attempt::CutFirst);
        }
        for (n, page) in payload.pages.iter().enumerate() {
            state.pages.put(ino, FileBlock(from.0 + n as u64), page.clone());
        }
        state.sync_promised();
        Ok(Attempt::Done(()))
    }

    /// Copies bytes into pages of whole blocks, with what the blocks at the ends hold around them.
    fn payload(&self, ino: Ino, at: u64, data: &[u8]) -> Result<Payload> {
        let end = at + data.len() as u64;
        let (first, last) = (at / B, end.div_ceil(B) - 1);
        let mut buf = AlignedBuf::recycled(((last - first + 1) * B) as usize);
        buf[(at % B) as usize..][..data.len()].copy_from_slice(data);
        let mut edges = Vec::new();
        let ragged_start = !at.is_multiple_of(B);
        let ragged_end = !end.is_multiple_of(B);
        if ragged_start || (ragged_end && first == last) {
            let (edge, old) = self.edge(ino, first)?;
            let (head, tail) = ((at % B) as usize, (end - first * B).min(B) as usize);
            buf[..head].copy_from_slice(&old[..head]);
            buf[tail..BLOCK].copy_from_slice(&old[tail..]);
            edges.push(edge);
        }
        if ragged_end && last > first {
            let (edge, old) = self.edge(ino, last)?;
            let kept = (end - last * B) as usize;
            let start = ((last - first) * B) as usize;
            buf[start + kept..].copy_from_slice(&old[kept..]);
            edges.push(edge);
        }
        Ok(Payload { first: FileBlock(first), pages: pages_of(buf), edges })
    }

    /// What a block holds now, and the means to tell whether it still does later.
    pub(super) fn edge(&self, ino: Ino, block: u64) -> Result<(Edge, AlignedBuf)> {
        let snapshot = self.snapshot(ino, IoClass::Foreground, |_| block..block + 1)?;
        match self.fetch(ino, &snapshot.parts, IoClass::Foreground) {
            Ok(bytes) => {
                let was = snapshot.parts.first().map_or(Content::Hole, |part| part.content.clone());
                Ok((Edge { block: FileBlock(block), was }, bytes))
            }
            Err(error) => {
                drop(snapshot);
                self.blame(ino, "reading a block that is written in part", &error);
                Err(error)
            }
        }
    }

    /// Before data is taken in: cleaning is paid for, the volume is writable, unlogged data stays within its bound, and there is room for it,
    /// which is kept until the grant is dropped.
    pub(super) fn admit_data(&self, blocks: u64) -> Result<Grant<'_>> {
        self.check_writable()?;
        if let Some(grant) = self.admit_at_once(blocks) {
            return Ok(grant);
        }
        self.pay(blocks);
        self.admit(Cost::METADATA)?;
        let too_much = self.is_unlogged_at_bound(&self.state.lock(), blocks);
        if too_much {
            self.commit_now(false)?;
        }
        self.wait_for_space(blocks)
    }

    /// Would so many dirty blocks more be too many?
    pub(super) fn is_unlogged_at_bound(&self, state: &State, blocks: u64) -> bool {
        let unlogged = state.pages.bytes_since_cut().max(state.pages.dirty_bytes());
        unlogged > 0 && unlogged + blocks * B > self.unlogged_limit
    }
}

/// A buffer of whole blocks as pages that share it.
pub(super) fn pages_of(buf: AlignedBuf) -> Vec<Page> {
    let buf = Arc::new(buf);
    (0..buf.len() / BLOCK).map(|n| Page::new(BufSlice::new(buf.clone(), n * BLOCK..(n + 1) * BLOCK))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::rig::{formatted, make};
    use zns::sim::{SimConfig, SimDrive};

    /// Fills all of the volume but 64 blocks and some.
    fn nearly_full() -> Arc<Volume> {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let (filler, last) = (make(&volume, "filler"), make(&volume, "last"));
        volume.write(last, 0, &[1; 64 * BLOCK], &WriteOptions::default()).expect("written");
        let mut at = 0;
        while volume.write(filler, at, &[2; BLOCK], &WriteOptions::default()).is_ok() {
            at += B;
        }
        volume.unlink(Ino::ROOT, b"last").expect("unlinked");
        volume.forget(last);
        volume
    }

    #[test]
    fn of_a_write_that_does_not_fit_as_much_is_written_as_fits() {
        for (offset, ragged) in [(0, 0), (B / 2, 100)] {
            let volume = nearly_full();
            let ino = make(&volume, "large");
            let data: Vec<u8> = (0..200 * BLOCK + ragged).map(|n| (n / 7) as u8).collect();
            assert!(matches!(volume.write(ino, offset, &data, &WriteOptions::default()), Err(FsError::NoSpace)), "all or nothing");
            let written = volume.write_what_fits(ino, offset, &data, &WriteOptions::default()).expect("a part of it");
            assert!((32 * BLOCK..200 * BLOCK).contains(&written), "{written}");
            let end = offset + written as u64;
            assert!(end.is_multiple_of(B), "{written}");
            assert_eq!(volume.getattr(ino).expect("there").size, end);
            assert!(volume.read(ino, offset, written as u32).expect("read")[..] == data[..written]);
            let mut more = 0;
            while volume.write_what_fits(ino, end + more, &data, &WriteOptions::default()).is_ok_and(|n| n > 0) {
                more += B;
            }
            assert!(more <= 32 * B, "{more} bytes more went one by one");
            // What is there already takes no room.
            let again = volume.write_what_fits(ino, offset, &data[..written], &WriteOptions::default()).expect("room");
            assert_eq!(again, written);
        }
    }
}
