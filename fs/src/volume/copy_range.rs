//! copy_file_range(2): whole blocks by the copy engine straight into the log, the rest through host memory (decision 10).
//!
//! The source is seen as it was at one moment: pages in memory are shared, blocks on devices are never overwritten in place and their zones
//! are pinned. What has been copied is published piece by piece, in the order of the file, by mappings that carry the source's checksums; a
//! call that fails half-way reports what was published. Holes stay holes. A copy is durable with the next fsync, like a write.

use super::read::{B, Snapshot, regular_file};
use super::write::Attempt;
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::ops::{self, MAX_FILE_SIZE};
use crate::error::{FsError, Result};
use crate::format::segment::Role;
use crate::ids::{FileBlock, Ino};
use crate::volume::content::{Content, Part, taken};
use crate::volume::room::Grant;
use crate::volume::{Cost, Volume, WriteOptions};
use copy_backend::{CopyError, CopyRequest, FailureKind, RoadPreference, SourceRange, Target};
use gc::Pressure;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use zns::{AlignedBuf, DeviceId, IoClass};

/// Most bytes that one call moves, so that it can be killed and paced.
const CALL_BYTES: u64 = 64 << 20;
/// Most blocks that are copied between two publications.
const CHUNK_BLOCKS: u64 = 4096;
/// Blocks of which the engine tells, each by itself, whether they were copied.
const PIECE_BLOCKS: u64 = 64;
/// Most blocks that are copied at once while writers have to pay for cleaning.
const CROWDED_BLOCKS: u64 = 256;
/// Most bytes that pass through host memory at once.
const HOST_BYTES: u64 = 1 << 20;

/// A copy that found no space waits for it so often, without its source in hand.
const ATTEMPTS: u32 = 3;

/// A call under way.
struct Job<'a> {
    source: Snapshot<'a>,
    from: u64,
    dst: Ino,
    to: u64,
    len: u64,
    /// The device still carries what it can.
    by_device: bool,
    /// Up to here (in bytes of the copy) it does not: it failed on these blocks, and the host gets them.
    by_host_until: u64,
    /// The block that holds the end of the source may land as a whole: behind that end it holds zeros, and so must the destination.
    whole_tail: bool,
    /// What ended the copy is that its source could not be read.
    unread: Cell<bool>,
}

impl Job<'_> {
    /// Parts from `done` on that may land as whole blocks; empty if the positions are not at the start of blocks.
    fn whole_parts(&self, done: u64) -> Vec<Part> {
        let (from, to, left) = (self.from + done, self.to + done, self.len - done);
        if !from.is_multiple_of(B) || !to.is_multiple_of(B) {
            return Vec::new();
        }
        let ends_file = self.whole_tail && from + left == self.source.inode.size;
        let whole = if ends_file { left.div_ceil(B) } else { left / B };
        self.source.parts_of(from / B, from / B + whole.min(CHUNK_BLOCKS))
    }

    /// Bytes from `done` on that go through the host next, up to a point where whole blocks may follow.
    fn host_bytes(&self, done: u64, whole: &[Part]) -> u64 {
        let (to, left) = (self.to + done, self.len - done);
        let by_host = |part: &&Part| match part.content {
            Content::Page(_) => true,
            Content::Device { .. } => !self.by_device || done < self.by_host_until,
            Content::Hole | Content::Unwritten => false,
        };
        let left = if done < self.by_host_until { left.min(self.by_host_until - done) } else { left };
        let blocks: u64 = whole.iter().take_while(by_host).map(|part| part.blocks).sum();
        let aligned_together = self.from % B == self.to % B;
        let to_block_end = B - to % B;
        let bytes = match (blocks, aligned_together) {
            (1.., _) => (blocks * B).min(HOST_BYTES),
            (0, true) => to_block_end,
            (0, false) => to_block_end + HOST_BYTES - B,
        };
        bytes.min(left)
    }
}

/// What came of a copy by a device, in blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Arrived {
    /// Now in the file.
    published: u64,
    /// Copied; more than were published if the file was changed meanwhile.
    copied: u64,
    /// Behind those copied: the device failed on them, and they are the host's.
    for_host: u64,
}

/// Blocks that were copied, or a hole, on their way into a file.
struct Publication<'a> {
    dst: Ino,
    first: FileBlock,
    blocks: u64,
    /// Where the blocks are now and their checksums; `None`: a hole.
    copied: Option<(Addr, &'a [u32])>,
    /// The end in bytes: the file is at least so long then.
    end: u64,
}

impl Volume {
    /// Copies up to `len` bytes between files or within one; returns how many (fewer than asked for large copies, at the end of the
    /// source, and when something fails half-way).
    ///
    /// # Errors
    /// [`FsError::Invalid`] for ranges that overlap; `IsADirectory`, `NotFound`, `FileTooLarge`, [`FsError::NoSpace`],
    /// [`FsError::ReadOnly`]; a device that fails.
    pub fn copy_file_range(&self, src: Ino, src_offset: u64, dst: Ino, dst_offset: u64, len: u64) -> Result<u64> {
        self.check_writable()?;
        self.counters.copy_calls.fetch_add(1, Ordering::Relaxed);
        let _copying = self.calm.begin_copy();
        for _ in 0..ATTEMPTS {
            match self.copy_once(src, src_offset, dst, dst_offset, len) {
                // The call itself pins its source: emptied zones of it come back only when it lets go.
                Err(FsError::NoSpace) => drop(self.wait_for_space(len.div_ceil(B).clamp(1, CROWDED_BLOCKS))?),
                outcome => return outcome,
            }
        }
        self.copy_once(src, src_offset, dst, dst_offset, len)
    }

    fn copy_once(&self, src: Ino, src_offset: u64, dst: Ino, dst_offset: u64, len: u64) -> Result<u64> {
        let len = len.min(CALL_BYTES).min(MAX_FILE_SIZE.saturating_sub(src_offset));
        self.ask_for(IoClass::Copy, |state| regular_file(&state.tree, dst))?;
        let last = src_offset.saturating_add(len);
        // What is on a device needs no host: dirty blocks go there first.
        let (first, end) = (FileBlock(src_offset / B), FileBlock(last.div_ceil(B)));
        let has_pages = self.state.lock().pages.range(src, first, end).next().is_some();
        if has_pages {
            self.commit_now(false)?;
        }
        let source = self.snapshot(src, IoClass::Copy, |inode| first.0..last.min(inode.size).div_ceil(B))?;
        let len = last.min(source.inode.size).saturating_sub(src_offset);
        if src == dst && src_offset < dst_offset.saturating_add(len) && dst_offset < src_offset + len {
            return Err(FsError::Invalid("the ranges of a copy within one file overlap"));
        }
        if len > 0 && dst_offset >= MAX_FILE_SIZE {
            return Err(FsError::FileTooLarge);
        }
        let len = len.min(MAX_FILE_SIZE.saturating_sub(dst_offset));
        let mut job = Job {
            source,
            from: src_offset,
            dst,
            to: dst_offset,
            len,
            by_device: true,
            by_host_until: 0,
            whole_tail: true,
            unread: Cell::new(false),
        };
        let mut done = 0;
        let mut changes_of_road = 0;
        let mut failure = None;
        while done < len {
            match self.copy_step(&mut job, done) {
                // Only a step that changes the road may bring nothing: from device to host, from a whole last block to a part of it.
                Ok(0) if changes_of_road == 2 => return Err(FsError::Internal("a copy makes no progress")),
                Ok(0) => changes_of_road += 1,
                Ok(bytes) => {
                    done += bytes;
                    changes_of_road = 0;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let unread = job.unread.get();
        drop(job);
        if let Some(error) = failure {
            if unread {
                self.blame(src, "reading it for a copy", &error);
            }
            if done == 0 {
                return Err(error);
            }
            tracing::warn!("a copy from inode {src} to inode {dst} ends early: {error}");
        }
        self.counters.copy_bytes.fetch_add(done, Ordering::Relaxed);
        Ok(done)
    }

    /// Copies what comes next by one road; returns how many bytes, perhaps none when the road changed.
    fn copy_step(&self, job: &mut Job<'_>, done: u64) -> Result<u64> {
        let whole = job.whole_parts(done);
        let bytes = |blocks: u64| (blocks * B).min(job.len - done);
        let first = FileBlock((job.to + done) / B);
        match whole.first().map(|part| &part.content) {
            Some(Content::Hole | Content::Unwritten) => {
                let blocks = whole.iter().take_while(|part| part.content.is_zeros()).map(|part| part.blocks).sum();
                let end = job.to + done + bytes(blocks);
                let hole = Publication { dst: job.dst, first, blocks, copied: None, end };
                let published = self.with_space_of_orphans(|| self.publish_copy(&hole))?;
                let reached = bytes(published);
                job.whole_tail &= published == blocks;
                Ok(reached)
            }
            Some(Content::Device { addr, .. }) if job.by_device && done >= job.by_host_until => {
                let device = addr.device();
                let near = |part: &&Part| matches!(&part.content, Content::Device { addr, .. } if addr.device() == device);
                let parts: Vec<Part> = whole.iter().take_while(near).cloned().collect();
                if !self.engine.offload_pays(device, device, bytes(parts.iter().map(|part| part.blocks).sum())) {
                    return self.copy_by_host(job, done, &whole);
                }
                let end = |blocks: u64| job.to + done + bytes(blocks);
                // What the host does is tried again where it writes.
                let attempt = || self.copy_by_device(device, parts.clone(), job.dst, first, end);
                let Arrived { published, copied, for_host } = self.with_space_of_orphans(attempt)?;
                let reached = bytes(published);
                job.whole_tail &= published == copied;
                job.by_device = copied > 0 || for_host > 0;
                if published == copied && for_host > 0 {
                    job.by_host_until = done + bytes(copied + for_host);
                }
                Ok(reached)
            }
            _ => self.copy_by_host(job, done, &whole),
        }
    }

    /// Reads from the snapshot and writes. What cannot be read is approached block by block, so that all before it is copied.
    fn copy_by_host(&self, job: &Job<'_>, done: u64, whole: &[Part]) -> Result<u64> {
        let from = job.from + done;
        let n = job.host_bytes(done, whole);
        let to_block_end = n.min(B - from % B);
        let (buf, n) = match self.read_for_copy(job, from, n) {
            Err(_) if n > to_block_end => (self.read_for_copy(job, from, to_block_end), to_block_end),
            read => (read, n),
        };
        let buf = buf.inspect_err(|_| job.unread.set(true))?;
        // Set-id bits have gone before, if they had to: the kernel orders that by itself.
        let options = WriteOptions::default();
        let written = self.write(job.dst, job.to + done, &buf[(from % B) as usize..][..n as usize], &options)? as u64;
        self.counters.copy_host_written.fetch_add(written, Ordering::Relaxed);
        Ok(written)
    }

    /// The blocks that hold `n` bytes of the source.
    fn read_for_copy(&self, job: &Job<'_>, from: u64, n: u64) -> Result<AlignedBuf> {
        let parts = job.source.parts_of(from / B, (from + n).div_ceil(B));
        let read: u64 = parts.iter().filter(|part| matches!(part.content, Content::Device { .. })).map(|part| part.blocks * B).sum();
        self.counters.copy_host_read.fetch_add(read, Ordering::Relaxed);
        self.fetch(job.source.ino, &parts, IoClass::Copy)
    }

    /// Copies parts that lie on one device into a zone for copies, and publishes what arrived. Nothing was copied and nothing left to the host: the
    /// host must do it all.
    fn copy_by_device(
        &self,
        device: DeviceId,
        mut parts: Vec<Part>,
        dst: Ino,
        first: FileBlock,
        end: impl Fn(u64) -> u64,
    ) -> Result<Arrived> {
        let Some(near) = self.copies_to(device)? else { return Ok(Arrived::default()) };
        let wanted: u64 = parts.iter().map(|part| part.blocks).sum();
        let room = self.admit_copy(dst, first, wanted)?;
        let held = self.hold_space(Role::CopiedByDevice, near, room.blocks() as u32);
        // What is held is not counted twice.
        drop(room);
        // From here on whatever ends the copy, an error or a panic, gives it back.
        let Some(mut space) = held else { return Ok(Arrived::default()) };
        let addr = space.addr;
        if self.engine.road_for(device, addr.device())? != RoadPreference::Offload {
            return Ok(Arrived::default());
        }
        cut_to(&mut parts, space.blocks.into());
        let mut parts = in_pieces(&parts);
        let request = self.copy_request(&parts, addr);
        // Nobody knows what lies in the zone (I9) until the engine says so.
        space.set_used(0, true);
        let result = self.engine.copy(request);
        self.members.mark_dirty(addr.device());
        let result = result.inspect_err(|error| {
            // A request that was refused has not touched the zone.
            let untouched = matches!(error, CopyError::NoOffload { .. } | CopyError::Invalid(_));
            space.set_used(0, !untouched);
        })?;
        let for_host = parts.iter().skip(result.sources_done).take(result.for_host).map(|part| part.blocks).sum();
        parts.truncate(result.sources_done);
        let copied: u64 = parts.iter().map(|part| part.blocks).sum();
        // What is not published from here on is dead space in a zone of which all is known.
        space.set_used(copied as u32, result.end_zone);
        let checksums: Vec<u32> = parts.iter().flat_map(|part| checksums_of(part).iter().copied()).collect();
        let published = match copied {
            0 => Ok(0),
            blocks => {
                let publication = Publication { dst, first, blocks, copied: Some((addr, &checksums)), end: end(blocks) };
                self.publish_copy(&publication)
            }
        };
        drop(space);
        if copied == 0 && result.failure == Some(FailureKind::SourceMedia) {
            tracing::warn!("the device cannot read the source of a copy at {}", parts.first().map_or(Addr::NONE, address_of));
        }
        published.map(|published| Arrived { published, copied, for_host })
    }

    /// Where the devices can copy to what lies on `device`: to itself, else to another one. `None`: nowhere.
    fn copies_to(&self, device: DeviceId) -> Result<Option<DeviceId>> {
        let others = (0..self.identity.members.len() as u8).map(DeviceId).filter(|other| *other != device);
        for to in std::iter::once(device).chain(others) {
            if self.engine.road_for(device, to)? == RoadPreference::Offload {
                return Ok(Some(to));
            }
        }
        Ok(None)
    }

    fn copy_request(&self, parts: &[Part], to: Addr) -> CopyRequest {
        let source = |part: &Part| {
            let addr = address_of(part);
            let blocks = self.members.device_blocks(addr.device(), part.blocks as u32);
            SourceRange { device: addr.device(), lba: self.members.lba(addr), blocks }
        };
        CopyRequest {
            sources: parts.iter().map(source).collect(),
            target: Target { device: to.device(), lba: self.members.lba(to) },
            class: IoClass::Copy,
            checksums: parts.iter().flat_map(|part| checksums_of(part).iter().copied()).collect(),
            road: RoadPreference::Offload,
        }
    }

    /// Space for a copy, before anything is copied (I8): for all of it, or, where there is little, for as much as a writer would wait for.
    fn admit_copy(&self, dst: Ino, first: FileBlock, blocks: u64) -> Result<Grant<'_>> {
        let crowded = self.pressure() == Pressure::Forced;
        let blocks = if crowded { blocks.min(CROWDED_BLOCKS) } else { blocks };
        self.pay(blocks);
        self.admit(Cost::METADATA)?;
        let to = FileBlock(first.0 + blocks);
        let fits = self.ask_for(IoClass::Copy, |state| {
            let new = blocks - taken(&state.tree, &state.pages, dst, first, to, usize::MAX)?.0;
            Ok(new == 0 || new <= state.admissible())
        })?;
        if !fits {
            return Err(FsError::NoSpace);
        }
        self.wait_for_some(blocks.min(CROWDED_BLOCKS), blocks)
    }

    /// Maps what was copied, or makes a hole; returns how many blocks were published. That is one fewer if the last block would cover bytes
    /// of the file behind the end of the copy.
    fn publish_copy(&self, publication: &Publication<'_>) -> Result<u64> {
        let Publication { dst, first, copied, .. } = *publication;
        loop {
            match copied {
                Some(_) => self.bound_metadata()?,
                None => self.admit(Cost::METADATA)?,
            }
            let attempt = self.change_for(IoClass::Copy, |state| {
                let mut inode = regular_file(&state.tree, dst)?;
                ops::check_loose(&inode)?;
                let (mut blocks, mut end) = (publication.blocks, publication.end);
                if !end.is_multiple_of(B) && end < inode.size {
                    blocks -= 1;
                    end = (first.0 + blocks) * B;
                }
                if blocks == 0 {
                    return Ok(Attempt::Done(0));
                }
                let to = FileBlock(first.0 + blocks);
                let (before, _) = taken(&state.tree, &state.pages, dst, first, to, usize::MAX)?;
                if copied.is_some() && blocks > before && state.admissible() < blocks - before {
                    return Err(FsError::NoSpace.into());
                }
                inode.blocks = (inode.blocks + if copied.is_some() { blocks } else { 0 }).saturating_sub(before);
                inode.size = inode.size.max(end);
                inode.mtime = self.options.clock.now();
                inode.ctime = inode.mtime;
                let cut_first = self.try_run(state, Cost::NOTHING, |txn| {
                    if ops::pending_cut(txn, dst)?.is_some_and(|cut| to > cut) {
                        return Ok(true);
                    }
                    match copied {
                        Some((addr, checksums)) => txn.map(dst, first, addr, checksums[..blocks as usize].to_vec()),
                        None if before > 0 => txn.unmap(dst, first, blocks),
                        None => {}
                    }
                    txn.put_inode(&inode);
                    Ok(false)
                })?;
                if cut_first {
                    return Ok(Attempt::CutFirst);
                }
                state.pages.drop_range(dst, first, to);
                state.sync_promised();
                if copied.is_some() {
                    state.zones.advance_clock(blocks);
                }
                Ok(Attempt::Done(blocks))
            })?;
            match attempt {
                Attempt::Done(blocks) => return Ok(blocks),
                Attempt::CutFirst => self.finish_cut_holding(dst)?,
                Attempt::Again | Attempt::NoRoom => {}
            }
        }
    }
}

/// Keeps the first `blocks` blocks of parts.
fn cut_to(parts: &mut Vec<Part>, blocks: u64) {
    let Some(from) = parts.first().map(|part| part.block.0) else { return };
    parts.retain(|part| part.block.0 < from + blocks);
    if let Some(last) = parts.last_mut() {
        *last = last.clipped(from, from + blocks);
    }
}

/// The same in pieces, which the engine joins to commands as long as may be: when one fails, no more than a piece of what it had done is lost, and
/// no more than the command, in whole pieces, becomes the host's.
fn in_pieces(parts: &[Part]) -> Vec<Part> {
    let pieces = |part: &Part| {
        let (from, to) = (part.block.0, part.block.0 + part.blocks);
        let part = part.clone();
        (from..to).step_by(PIECE_BLOCKS as usize).map(move |at| part.clipped(at, at + PIECE_BLOCKS))
    };
    parts.iter().flat_map(pieces).collect()
}

fn address_of(part: &Part) -> Addr {
    match &part.content {
        Content::Device { addr, .. } => *addr,
        _ => Addr::NONE,
    }
}

fn checksums_of(part: &Part) -> &[u32] {
    match &part.content {
        Content::Device { checksums, .. } => checksums,
        _ => &[],
    }
}

const _: () = assert!(CHUNK_BLOCKS * (BLOCK as u64) <= CALL_BYTES && HOST_BYTES > B);

#[cfg(test)]
mod panics;
#[cfg(test)]
mod tests;
