//! Scrubbing: everything on the media is read and compared with its checksums while the volume is in use.
//!
//! One call is one step of bounded size; whoever asks for the next one sets the pace, shows how far it is and may stop at any time, so nothing of a
//! scrub is kept here. Metadata is read from the media past the cache. No lock is held while devices work (I6): what was found under the lock is read outside
//! it, and a difference counts only if the block still lies there afterwards. Data is read like any other, with its zones pinned (I2), as cleaning is:
//! reads of users go first.

use crate::core::extents::extent_parts;
use crate::core::halt::BlockId;
use crate::core::key::{Class, Key};
use crate::core::nodes::map::FANOUT;
use crate::core::txn::successor;
use crate::error::{FsError, Result};
use crate::format::item::{Dirent, Inode};
use crate::ids::{FileBlock, Ino, NodeId};
use crate::volume::Volume;
use crate::volume::content::{Content, Part};
use crate::volume::damage::{Unmet, describe};
use crate::volume::members::read_by_this_thread;
use crate::volume::read::B;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use zns::IoClass;

/// Where a scrub goes on. Start with the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "kebab-case")]
pub enum ScrubAt {
    /// Pages of the node map of this level, from this one on.
    Map {
        /// Level.
        level: u8,
        /// Page within it.
        index: u64,
    },
    /// Nodes of the tree and pages of the segment table, from this id on.
    Nodes {
        /// Id.
        id: u64,
    },
    /// Data of files, from this inode and block on.
    Data {
        /// Inode.
        ino: u64,
        /// Block of the file.
        block: u64,
    },
}

impl Default for ScrubAt {
    fn default() -> Self {
        Self::Map { level: 0, index: 0 }
    }
}

/// Something that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubDamage {
    /// The file, if it is data.
    pub ino: Option<u64>,
    /// A name that leads to it, if there is one.
    pub path: Option<String>,
    /// Byte of the file where it begins.
    pub offset: Option<u64>,
    /// In words.
    pub message: String,
}

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStep {
    /// Where to go on; nothing: that was all.
    pub next: Option<ScrubAt>,
    /// Bytes of data that were verified.
    pub data: u64,
    /// Bytes of metadata that were verified.
    pub metadata: u64,
    /// Bytes that were read for it, sound or not, and those of metadata that had to be read to find the rest: what it cost.
    #[serde(default)]
    pub read: u64,
    /// Bytes of both that there are, now.
    pub total: u64,
    /// What is damaged, the first of it.
    pub damage: Vec<ScrubDamage>,
    /// Damaged blocks that are not listed.
    pub more_damage: u64,
}

/// Most bytes that one step reads.
pub const MOST_BYTES: u64 = 4 << 20;
/// Damaged blocks listed by one step, so that its answer stays short.
const MOST_LISTED: usize = 100;
/// Inodes looked at by one step, whether they have data or not.
const MOST_INODES: u32 = 512;
/// Entries looked at under one hold of the lock, for a name.
const ENTRIES_AT_ONCE: usize = 256;
/// How often a block that moves while it is read is looked for.
const TRIES: u32 = 3;
/// Deepest path that is told.
const DEPTH: usize = 4096;

impl Volume {
    /// Verifies about `bytes` bytes from `at` on.
    ///
    /// # Errors
    /// Metadata that is needed to find the rest and cannot be had, after it was told as damage; a device that lost its power.
    pub fn scrub(&self, at: ScrubAt, bytes: u64) -> Result<ScrubStep> {
        let blocks = (bytes.clamp(B, MOST_BYTES) / B) as u32;
        let mut step = ScrubStep::default();
        let read_before = read_by_this_thread();
        match at {
            ScrubAt::Map { level, index } => self.scrub_map(level, index, blocks, &mut step)?,
            ScrubAt::Nodes { id } => self.scrub_nodes(id, blocks, &mut step)?,
            ScrubAt::Data { ino, block } => self.scrub_data(Ino(ino), block, blocks, &mut step)?,
        }
        self.name_damage(&mut step)?;
        step.read = read_by_this_thread() - read_before;
        let state = self.state.lock();
        step.total = (state.zones.live_data() + state.zones.live_metadata()) * B;
        Ok(step)
    }

    fn scrub_map(&self, level: u8, index: u64, blocks: u32, step: &mut ScrubStep) -> Result<()> {
        let levels = self.state.lock().tree.store().roots().map_root.levels;
        let (mut at, mut left) = (index, blocks);
        while let Some(index) = self.first_map_page(level, at)? {
            if left == 0 {
                step.next = Some(ScrubAt::Map { level, index });
                return Ok(());
            }
            self.scrub_block(BlockId::Map { level, index }, step)?;
            (at, left) = (index + 1, left - 1);
        }
        step.next = Some(match level.saturating_add(1) < levels {
            true => ScrubAt::Map { level: level + 1, index: 0 },
            false => ScrubAt::Nodes { id: 1 },
        });
        Ok(())
    }

    /// The first page of the node map from this one on that there is. What lies below a page that cannot be had is passed over: that page is told by itself.
    fn first_map_page(&self, level: u8, mut index: u64) -> Result<Option<u64>> {
        loop {
            let found = self.try_change(IoClass::Cleaning, |state| match level < state.tree.store().roots().map_root.levels {
                true => Ok(state.tree.store().first_map_page(level, index)?),
                false => Ok(None),
            });
            index = match found {
                Ok(found) => return Ok(found),
                Err(unmet) if self.lost_power(&unmet.error) => return Err(unmet.error),
                Err(Unmet { block: Some(BlockId::Map { level: lost, index: page }), .. }) if lost >= level => {
                    page.saturating_add(1).saturating_mul(FANOUT.saturating_pow(u32::from(lost - level)))
                }
                Err(unmet) => return Err(unmet.error),
            };
        }
    }

    fn scrub_nodes(&self, id: u64, blocks: u32, step: &mut ScrubStep) -> Result<()> {
        let (mut at, mut left) = (id, blocks);
        while left > 0 {
            let Some(page) = self.first_map_page(0, at / FANOUT)? else {
                step.next = Some(ScrubAt::Data { ino: 0, block: 0 });
                return Ok(());
            };
            let first = at.max(page.saturating_mul(FANOUT));
            let end = page.saturating_add(1).saturating_mul(FANOUT).min(first.saturating_add(left.into()));
            for id in first..end {
                self.scrub_block(BlockId::Node(NodeId(id)), step)?;
            }
            (at, left) = (end, left - (end - first) as u32);
        }
        step.next = Some(ScrubAt::Nodes { id: at });
        Ok(())
    }

    /// Reads a block of metadata where it lies and compares. One that is about to be written elsewhere is not looked at.
    fn scrub_block(&self, id: BlockId, step: &mut ScrubStep) -> Result<()> {
        let mut wrong = None;
        for _ in 0..TRIES {
            let place = match self.ask_for(IoClass::Cleaning, |state| Ok(state.tree.store().stored(id)?)) {
                Ok(place) => place,
                Err(error) if self.lost_power(&error) => return Err(error),
                // The page of the map that leads there is told by itself.
                Err(_) => return Ok(()),
            };
            let Some((addr, crc)) = place else { return Ok(()) };
            if wrong.as_ref().is_some_and(|(before, _)| *before == addr) {
                break;
            }
            let read = if self.state.lock().zones.contains(addr, 1) {
                self.members.read_block(addr, IoClass::Cleaning)
            } else {
                Err(FsError::Corrupt { what: "metadata block", addr, detail: "lies outside the volume".into() })
            };
            match read {
                Ok(bytes) if zns::checksum::crc32c(&bytes) == crc => {
                    step.metadata += B;
                    return Ok(());
                }
                Ok(_) => wrong = Some((addr, "fails its checksum".to_owned())),
                Err(error) if self.lost_power(&error) => return Err(error),
                Err(error) => wrong = Some((addr, format!("cannot be read: {error}"))),
            }
        }
        if let Some((addr, why)) = wrong {
            self.counters.checksum_errors.fetch_add(1, Ordering::Relaxed);
            let what = describe(&self.state.lock(), id);
            step.tell(ScrubDamage { ino: None, path: None, offset: None, message: format!("{what}, at {addr}: {why}") });
        }
        Ok(())
    }

    fn scrub_data(&self, ino: Ino, block: u64, blocks: u32, step: &mut ScrubStep) -> Result<()> {
        let (mut at, mut left) = ((ino, block), blocks);
        let mut told = false;
        let next_ino = self.state.lock().next_ino;
        for _ in 0..MOST_INODES {
            if at.0.0 >= next_ino {
                return Ok(());
            }
            let found = self.ask_for(IoClass::Cleaning, |state| {
                let Some((key, value)) = state.tree.first_at_or_after(&Key::inode(at.0))? else { return Ok(None) };
                if key.class != Class::Inode {
                    return Ok(None);
                }
                let ino = Ino(key.a);
                let is_file = Inode::decode(ino, value).is_some_and(|inode| inode.is_file());
                let from = if ino == at.0 { at.1 } else { 0 };
                let mut parts = Vec::new();
                if is_file {
                    (parts, _) = extent_parts(&state.tree, ino, FileBlock(from), FileBlock(u64::MAX), MOST_LISTED)?;
                }
                let next = parts.last().map_or(u64::MAX, |part| part.end().0);
                Ok(Some((ino, parts.into_iter().find(|part| !part.is_unwritten()), next)))
            });
            let found = match found {
                Ok(found) => found,
                Err(error) if self.lost_power(&error) => return Err(error),
                // What it leads to cannot be found.
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        let message = format!("inode {}, or where its data lies, cannot be looked at: {error}", at.0);
                        step.tell(ScrubDamage { ino: Some(at.0.0), path: None, offset: None, message });
                    }
                    at = (Ino(at.0.0.saturating_add(1)), 0);
                    continue;
                }
            };
            let Some((ino, part, next)) = found else { return Ok(()) };
            at = match part {
                Some(part) => {
                    let count = part.blocks.min(left);
                    self.scrub_part(ino, part.block.0, count, step)?;
                    left -= count;
                    (ino, part.block.0 + u64::from(count))
                }
                None if next == u64::MAX => (Ino(ino.0.saturating_add(1)), 0),
                None => (ino, next),
            };
            if left == 0 {
                break;
            }
        }
        step.next = Some(ScrubAt::Data { ino: at.0.0, block: at.1 });
        Ok(())
    }

    /// Verifies blocks of one file. At once if they are sound, else one by one.
    fn scrub_part(&self, ino: Ino, block: u64, blocks: u32, step: &mut ScrubStep) -> Result<()> {
        let end = block + u64::from(blocks);
        if let Ok(bytes) = self.verify(ino, block, end) {
            step.data += bytes;
            return Ok(());
        }
        for block in block..end {
            match self.verify(ino, block, block + 1) {
                Ok(bytes) => step.data += bytes,
                Err(error) if self.lost_power(&error) => return Err(error),
                // It was removed meanwhile.
                Err(FsError::NotFound) => return Ok(()),
                Err(error) => {
                    self.counters.checksum_errors.fetch_add(1, Ordering::Relaxed);
                    step.tell(ScrubDamage { ino: Some(ino.0), path: None, offset: Some(block * B), message: error.to_string() });
                }
            }
        }
        Ok(())
    }

    /// Bytes that lie on devices, all of them what their checksums say.
    fn verify(&self, ino: Ino, from: u64, to: u64) -> Result<u64> {
        let snapshot = self.snapshot(ino, IoClass::Cleaning, |_| from..to)?;
        let on_device: Vec<Part> = snapshot.parts.iter().filter(|part| matches!(part.content, Content::Device { .. })).cloned().collect();
        let mut bytes = 0;
        for part in &on_device {
            bytes += self.fetch(ino, std::slice::from_ref(part), IoClass::Cleaning)?.len() as u64;
        }
        Ok(bytes)
    }

    /// Finds names for what is damaged.
    fn name_damage(&self, step: &mut ScrubStep) -> Result<()> {
        let mut paths: BTreeMap<u64, Option<String>> = step.damage.iter().filter_map(|damage| Some((damage.ino?, None))).collect();
        for (ino, path) in &mut paths {
            *path = self.path_of(Ino(*ino))?;
        }
        for damage in &mut step.damage {
            damage.path = damage.ino.and_then(|ino| paths.get(&ino).cloned().flatten());
        }
        Ok(())
    }

    /// A path to an inode, if one leads there.
    ///
    /// # Errors
    /// A device that lost its power.
    pub fn path_of(&self, ino: Ino) -> Result<Option<String>> {
        self.path_within(ino, usize::MAX)
    }

    /// The same where no more than about so many entries are looked at.
    ///
    /// # Errors
    /// A device that lost its power.
    pub(super) fn path_within(&self, ino: Ino, mut entries: usize) -> Result<Option<String>> {
        let mut names: Vec<String> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let found = match self.name_of(at, &mut entries) {
                Ok(found) => found,
                Err(error) if self.lost_power(&error) => return Err(error),
                Err(_) => None,
            };
            let Some((parent, name)) = found.filter(|_| names.len() < DEPTH) else { return Ok(None) };
            names.push(name);
            at = parent;
        }
        names.reverse();
        Ok(Some(format!("/{}", names.join("/"))))
    }

    /// A directory with an entry for this inode, and the name there: first where it says that it is, then everywhere.
    fn name_of(&self, ino: Ino, entries: &mut usize) -> Result<Option<(Ino, String)>> {
        let parent = self.getattr(ino)?.parent;
        match self.entry_within(ino, Key::new(Class::Dirent, parent.0, 0), Key::new(Class::Dirent, parent.0, u64::MAX), entries)? {
            None => self.entry_within(ino, Key::new(Class::Dirent, 0, 0), Key::new(Class::Dirent, u64::MAX, u64::MAX), entries),
            found => Ok(found),
        }
    }

    fn entry_within(&self, ino: Ino, mut from: Key, to: Key, entries: &mut usize) -> Result<Option<(Ino, String)>> {
        loop {
            if self.is_ending() || *entries == 0 {
                return Ok(None);
            }
            let (found, last, seen) = self.ask_for(IoClass::Cleaning, |state| {
                let (mut found, mut last, mut seen) = (None, None, 0);
                let visited = state.tree.scan(&from, &to, |key, value| {
                    (last, seen) = (Some(key), seen + 1);
                    found = Dirent::decode(value).filter(|entry| entry.ino == ino).map(|entry| (Ino(key.a), entry.name));
                    if found.is_some() || seen == ENTRIES_AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                match visited {
                    Ok(ControlFlow::Continue(())) => Ok((found, None, seen)),
                    Ok(ControlFlow::Break(())) => Ok((found, last, seen)),
                    // What was seen need not be seen again.
                    Err(_) if last.is_some() => Ok((found, last, seen)),
                    Err(halt) => Err(halt.into()),
                }
            })?;
            *entries = entries.saturating_sub(seen);
            if let Some((dir, name)) = found {
                return Ok(Some((dir, String::from_utf8_lossy(&name).into_owned())));
            }
            match last.and_then(successor) {
                Some(next) => from = next,
                None => return Ok(None),
            }
        }
    }
}

impl ScrubStep {
    fn tell(&mut self, damage: ScrubDamage) {
        if self.damage.len() < MOST_LISTED {
            self.damage.push(damage);
        } else {
            self.more_damage += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK;
    use crate::addr::Addr;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make, open};
    use zns::sim::{SimConfig, SimDrive};
    use zns::{Lba, ZoneId, ZonedDevice};

    fn all(volume: &Volume, bytes: u64) -> (ScrubStep, u64) {
        let (mut at, mut sum, mut steps) = (ScrubAt::default(), ScrubStep::default(), 0);
        loop {
            let step = volume.scrub(at, bytes).expect("scrubbed");
            assert!(step.data + step.metadata <= bytes.max(B), "a step verifies no more than it may");
            (sum.data, sum.metadata, sum.total, steps) = (sum.data + step.data, sum.metadata + step.metadata, step.total, steps + 1);
            sum.read += step.read;
            sum.damage.extend(step.damage);
            match step.next {
                Some(next) => at = next,
                None => return (sum, steps),
            }
        }
    }

    fn filled(drive: &SimDrive) {
        let volume = formatted(drive);
        let dir = volume.mkdir(Ino::ROOT, b"dir", 0o755, &crate::volume::Caller::default()).expect("made").ino;
        for n in 0..50u64 {
            let ino = volume.mknod(dir, format!("f{n}").as_bytes(), libc::S_IFREG | 0o644, 0, &Default::default()).expect("made").ino;
            volume.write(ino, n * 40_000, &vec![n as u8 + 1; 30_000], &WriteOptions::default()).expect("written");
            volume.fallocate(ino, libc::FALLOC_FL_KEEP_SIZE, 10 << 20, 64 << 10).expect("room");
        }
        volume.shutdown().expect("unmounted");
    }

    #[test]
    fn a_scrub_reads_all_there_is_whatever_its_steps() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        filled(&drive);
        let volume = open(&drive);
        for bytes in [B, 100_000, MOST_BYTES] {
            let (sum, steps) = all(&volume, bytes);
            assert!(sum.damage.is_empty(), "{:?}", sum.damage);
            // Pages of the map and segment table that the mount's checkpoint has just written are clean, so all is looked at.
            assert_eq!(sum.data + sum.metadata, sum.total, "steps of {bytes}");
            assert!(steps >= sum.total / bytes, "{steps} steps");
        }
    }

    #[test]
    fn what_is_not_in_memory_alone_is_read_from_the_media() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        filled(&drive);
        let volume = open(&drive);
        let place = |ino: Ino| {
            let found = volume.ask(|state| extent_parts(&state.tree, ino, FileBlock(0), FileBlock(u64::MAX), 1)).expect("asked");
            found.0[0]
        };
        let dir = volume.lookup(Ino::ROOT, b"dir").expect("there").ino;
        let ino = volume.lookup(dir, b"f7").expect("there").ino;
        let extent = place(ino);
        let g = drive.open().geometry().clone();
        let flip = |addr: Addr| {
            let lba = g.zone_start(addr.zone()).0 + u64::from(addr.block()) * BLOCK as u64 / u64::from(g.block_size);
            drive.flip_bit(Lba(lba), 11, 3);
        };
        flip(extent.addr.plus(1));
        let (sum, _) = all(&volume, 50_000);
        let [damage] = &sum.damage[..] else { panic!("{:?}", sum.damage) };
        assert_eq!((damage.ino, damage.path.as_deref(), damage.offset), (Some(ino.0), Some("/dir/f7"), Some((extent.block.0 + 1) * B)));
        flip(extent.addr.plus(1));

        // A node that is resident, and would be read from memory by anybody else.
        let root = volume.state.lock().tree.store().tree_root();
        let addr = volume.state.lock().tree.store().locate(BlockId::Node(root)).expect("known").expect("placed");
        assert_ne!(addr.zone(), ZoneId(0));
        flip(addr);
        let (sum, _) = all(&volume, 50_000);
        let [damage] = &sum.damage[..] else { panic!("{:?}", sum.damage) };
        assert!(damage.ino.is_none() && damage.message.contains("fails its checksum"), "{damage:?}");
        // What is written anew is no longer damaged.
        volume.change(|state| Ok(state.tree.store_mut().rewrite(BlockId::Node(root))?)).expect("resident");
        make(&volume, "more");
        volume.checkpoint().expect("a checkpoint");
        assert!(all(&volume, 50_000).0.damage.is_empty());
    }

    /// A superblock may claim any number of nodes: what is scrubbed is what there is.
    #[test]
    fn ids_that_nothing_has_cost_nothing() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        for n in 0..500 {
            make(&volume, &format!("file {n}"));
        }
        volume.checkpoint().expect("a checkpoint");
        let (honest, _) = all(&volume, 1 << 20);
        volume.state.lock().tree.store_mut().claim_ids(1 << 54);
        let (sum, steps) = all(&volume, 1 << 20);
        assert!(steps < 20 && sum.damage.is_empty(), "{steps} steps: {sum:?}");
        // But the page above all others, which is not on the media now.
        assert!(sum.metadata + 2 * B >= honest.metadata && honest.metadata > 10 * B, "{} and {}", sum.metadata, honest.metadata);
    }

    /// What a scrub is charged for is what its device read, whatever it was.
    #[test]
    fn every_block_that_is_read_is_counted() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        for n in 0..3000 {
            make(&volume, &format!("empty {n}"));
        }
        let ino = make(&volume, "full");
        volume.write(ino, 0, &[5; 40 * BLOCK], &WriteOptions::default()).expect("written");
        volume.shutdown().expect("unmounted");
        let volume = open(&drive);
        // What is read to find names and what fails is read, too.
        let (parts, _) = volume.ask(|state| extent_parts(&state.tree, ino, FileBlock(0), FileBlock(40), 1)).expect("asked");
        for n in [3, 4, 5] {
            let addr = parts[0].addr.plus(n);
            drive.flip_bit(Lba(u64::from(addr.zone().0) * 256 + u64::from(addr.block())), 11, 3);
        }
        // With a cache of hardly anything the leaves of inodes are read for the scrub's sake.
        volume.state.lock().tree.store_mut().shrink(0);
        let before = drive.stats().bytes_read;
        let (sum, _) = all(&volume, 100_000);
        assert_eq!(sum.damage.len(), 3);
        assert_eq!(sum.read, drive.stats().bytes_read - before, "charged, and read by the device");
        assert!(sum.read > sum.data + sum.metadata + 3 * B, "{sum:?}");
    }
}
