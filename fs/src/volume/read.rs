//! Reading file data: plan under the lock, pin, read outside it, verify every block.
//!
//! No lock is held while devices work (I6): reads run beside each other and beside writes. What was planned stays where it is until it is
//! read, because its zones are pinned against being reset (I2); pages in memory are shared.

use crate::BLOCK;
use crate::addr::Addr;
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::{ItemView, damaged};
use crate::error::{FsError, Result};
use crate::format::item::{Inode, LOST_CONTENT};
use crate::ids::{FileBlock, Ino};
use crate::volume::Volume;
use crate::volume::content::{Content, Part, content, find};
use crate::volume::state::State;
use std::ops::{Deref, Range};
use std::sync::atomic::Ordering;
use zns::{AlignedBuf, IoClass};

pub(super) const B: u64 = BLOCK as u64;

/// What a read gives: the bytes, in the buffer that the device filled where that is possible.
#[derive(Debug)]
pub struct ReadData {
    buf: AlignedBuf,
    range: Range<usize>,
}

impl Deref for ReadData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf[self.range.clone()]
    }
}

/// Zones that are pinned until this is dropped.
pub(super) struct Pinned<'a> {
    volume: &'a Volume,
    zones: Vec<Addr>,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        if !self.zones.is_empty() {
            let mut state = self.volume.state.lock();
            self.zones.iter().for_each(|zone| state.zones.unpin(*zone));
        }
    }
}

/// What a range of a file was at one moment; it can be read as long as this lives.
pub(super) struct Snapshot<'a> {
    pub(super) ino: Ino,
    /// The inode at that moment.
    pub(super) inode: Inode,
    /// Without gaps.
    pub(super) parts: Vec<Part>,
    _pinned: Pinned<'a>,
}

impl Snapshot<'_> {
    /// The parts of `from..to`, which lies within the snapshot.
    pub(super) fn parts_of(&self, from: u64, to: u64) -> Vec<Part> {
        let first = self.parts.partition_point(|part| part.block.0 + part.blocks <= from);
        let overlapping = self.parts[first..].iter().take_while(|part| part.block.0 < to && from < to);
        overlapping.map(|part| part.clipped(from, to)).collect()
    }
}

/// The inode of a regular file.
pub(super) fn regular_file(view: &dyn ItemView, ino: Ino) -> Planned<Inode> {
    let value = view.get(&Key::inode(ino))?.ok_or(FsError::NotFound)?;
    let inode = Inode::decode(ino, value).ok_or_else(|| damaged("inode"))?;
    match inode.kind() {
        libc::S_IFREG => Ok(inode),
        libc::S_IFDIR => Err(FsError::IsADirectory.into()),
        _ => Err(FsError::Invalid("not a regular file").into()),
    }
}

impl Volume {
    /// Up to `len` bytes of a file from `offset` on; fewer at its end.
    ///
    /// # Errors
    /// [`FsError::DataChecksum`] for data that is not what was written; a device that fails; `IsADirectory`, `Invalid`, `NotFound`.
    pub fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<ReadData> {
        self.read_as(ino, offset, len, true)
    }

    /// [`Volume::read`]; is it an access that counts?
    pub(super) fn read_as(&self, ino: Ino, offset: u64, len: u32, is_access: bool) -> Result<ReadData> {
        let mut planned_again = false;
        loop {
            let end = offset.saturating_add(len.into());
            let snapshot = self.snapshot(ino, IoClass::Foreground, |inode| offset / B..end.min(inode.size).div_ceil(B))?;
            let end = end.min(snapshot.inode.size);
            if offset >= end {
                return Ok(ReadData { buf: AlignedBuf::zeroed(0), range: 0..0 });
            }
            match self.fetch(ino, &snapshot.parts, IoClass::Foreground) {
                Ok(buf) => {
                    let start = (offset % B) as usize;
                    let range = start..start + (end - offset) as usize;
                    self.counters.user_read.fetch_add(range.len() as u64, Ordering::Relaxed);
                    if is_access {
                        self.note_access_of(&snapshot.inode);
                    }
                    return Ok(ReadData { buf, range });
                }
                // Once more on a fresh plan, in case the first one was overtaken.
                Err(FsError::DataChecksum { .. }) if !planned_again => planned_again = true,
                Err(error) => {
                    drop(snapshot);
                    self.blame(ino, &format!("reading at byte {offset}"), &error);
                    return Err(error);
                }
            }
        }
    }

    /// The state of a range of blocks (which may depend on the inode), pinned.
    pub(super) fn snapshot(&self, ino: Ino, class: IoClass, range: impl Fn(&Inode) -> Range<u64>) -> Result<Snapshot<'_>> {
        let (inode, parts, zones) = self.change_for(class, |state| {
            let inode = regular_file(&state.tree, ino)?;
            let range = range(&inode);
            state.lost.check(ino, &range)?;
            let parts = content(&state.tree, &state.pages, ino, FileBlock(range.start), FileBlock(range.end))?;
            refuse_lost(&inode, &parts)?;
            let zones = pin(state, &parts)?;
            Ok((inode, parts, zones))
        })?;
        Ok(Snapshot { ino, inode, parts, _pinned: Pinned { volume: self, zones } })
    }

    /// The bytes of parts that follow one another, verified. They must be pinned.
    pub(super) fn fetch(&self, ino: Ino, parts: &[Part], class: IoClass) -> Result<AlignedBuf> {
        let first = parts.first().map_or(0, |part| part.block.0);
        let total: u64 = parts.iter().map(|part| part.blocks).sum();
        let runs = self.device_runs(parts);
        let places: Vec<(Addr, u32)> = runs.iter().map(|run| (run.addr, run.checksums.len() as u32)).collect();
        // Copies keep short while users read.
        let _reading = (class == IoClass::Foreground && !places.is_empty()).then(|| self.engine.foreground().read());
        let mut read = self.members.read_runs(&places, class);
        if let ([run], [done]) = (&runs[..], &mut read[..])
            && run.checksums.len() as u64 == total
        {
            let buf = std::mem::replace(done, Err(FsError::Internal("taken")))?;
            run.verify(ino, &buf)?;
            return Ok(buf);
        }
        let mut out = AlignedBuf::zeroed(total as usize * BLOCK);
        for (run, done) in runs.iter().zip(read) {
            let buf = done?;
            run.verify(ino, &buf)?;
            out[(run.block - first) as usize * BLOCK..][..buf.len()].copy_from_slice(&buf);
        }
        for part in parts {
            if let Content::Page(page) = &part.content {
                out[(part.block.0 - first) as usize * BLOCK..][..BLOCK].copy_from_slice(&page.data);
            }
        }
        Ok(out)
    }

    /// The parts on devices as reads: joined where they lie one behind the other, none larger than its device takes.
    fn device_runs(&self, parts: &[Part]) -> Vec<DeviceRun> {
        let mut runs: Vec<DeviceRun> = Vec::new();
        for part in parts {
            let Content::Device { addr, checksums } = &part.content else { continue };
            let limit = self.members.device(addr.device()).geometry().max_io_bytes as usize / BLOCK;
            let mut done = 0;
            while done < checksums.len() {
                let (at, block) = (addr.plus(done as u32), part.block.0 + done as u64);
                let rest = &checksums[done..];
                let joins = |run: &&mut DeviceRun| run.checksums.len() < limit && run.goes_on_at(at, block);
                let taken = match runs.last_mut().filter(joins) {
                    Some(run) => {
                        let n = rest.len().min(limit - run.checksums.len());
                        run.checksums.extend_from_slice(&rest[..n]);
                        n
                    }
                    None => {
                        let n = rest.len().min(limit.max(1));
                        runs.push(DeviceRun { addr: at, block, checksums: rest[..n].to_vec() });
                        n
                    }
                };
                done += taken;
            }
        }
        runs
    }

    /// SEEK_DATA and SEEK_HOLE. Preallocated blocks are holes, and so is everything from the end on.
    ///
    /// # Errors
    /// [`FsError::NoSuchOffset`] at or beyond the end, or where no data follows; `Invalid`, `IsADirectory`.
    pub fn seek(&self, ino: Ino, offset: u64, whence: i32) -> Result<u64> {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(FsError::Invalid("not a kind of seek that is answered here")),
        };
        let mut at = FileBlock(offset / B);
        loop {
            let (size, found) = self.ask(|state| {
                let inode = regular_file(&state.tree, ino)?;
                let size = inode.size;
                if offset >= size {
                    return Err(FsError::NoSuchOffset.into());
                }
                state.lost.check(ino, &(at.0..size.div_ceil(B)))?;
                // What may be lost is no hole to be passed over: reading it is an error.
                if inode.flags & LOST_CONTENT != 0 {
                    return Ok((size, if data { Ok(at) } else { Err(FileBlock(size.div_ceil(B))) }));
                }
                Ok((size, find(&state.tree, &state.pages, ino, at, FileBlock(size.div_ceil(B)), data)?))
            })?;
            match found {
                Ok(block) => return Ok((block.0 * B).max(offset).min(size)),
                Err(next) if next.0 * B >= size && data => return Err(FsError::NoSuchOffset),
                Err(next) if next.0 * B >= size => return Ok(size),
                Err(next) => at = next,
            }
        }
    }
}

/// Blocks of a file that lie one behind the other.
struct DeviceRun {
    addr: Addr,
    block: u64,
    checksums: Vec<u32>,
}

impl DeviceRun {
    fn goes_on_at(&self, addr: Addr, block: u64) -> bool {
        let n = self.checksums.len() as u64;
        self.addr.zone_base() == addr.zone_base() && self.addr.0 + n == addr.0 && self.block + n == block
    }

    fn verify(&self, ino: Ino, bytes: &[u8]) -> Result<()> {
        for (n, (sum, block)) in self.checksums.iter().zip(bytes.chunks(BLOCK)).enumerate() {
            if zns::checksum::crc32c(block) != *sum {
                return Err(FsError::DataChecksum { ino, block: self.block + n as u64, addr: self.addr.plus(n as u32) });
            }
        }
        Ok(())
    }
}

/// A hole in a file that has lost content may be where that was.
fn refuse_lost(inode: &Inode, parts: &[Part]) -> Planned<()> {
    let lost = |part: &&Part| matches!(part.content, Content::Hole | Content::Unwritten) && part.block.0 * B < inode.size;
    parts.iter().find(lost).map_or(Ok(()), |part| refuse_if_lost(inode, part.block))
}

/// Nobody knows what is at `block`, a hole of a file that has lost content.
pub(super) fn refuse_if_lost(inode: &Inode, block: FileBlock) -> Planned<()> {
    if inode.flags & LOST_CONTENT == 0 {
        return Ok(());
    }
    let detail = format!("block {block} of inode {} may have been lost before the volume was repaired", inode.ino);
    Err(FsError::Corrupt { what: "content of a file", addr: Addr::NONE, detail }.into())
}

/// Pins the zones of what lies on devices.
fn pin(state: &mut State, parts: &[Part]) -> Planned<Vec<Addr>> {
    let mut zones = Vec::new();
    for part in parts {
        if let Content::Device { addr, checksums } = &part.content {
            if !state.zones.contains(*addr, checksums.len() as u32) {
                let detail = "an extent that lies outside the volume".into();
                return Err(FsError::Corrupt { what: "extent", addr: *addr, detail }.into());
            }
            if zones.last() != Some(&addr.zone_base()) {
                zones.push(addr.zone_base());
            }
        }
    }
    zones.sort_unstable();
    zones.dedup();
    zones.iter().for_each(|zone| state.zones.pin(*zone));
    Ok(zones)
}
