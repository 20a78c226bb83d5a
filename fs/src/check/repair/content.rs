//! Content: extents, who owns what, summaries, checksums.

use super::super::Finding;
use super::{Mender, Repair};
use crate::addr::Addr;
use crate::core::extents::{checksums, extent_parts, own_again};
use crate::core::key::{Class, Key};
use crate::core::page::SortKey;
use crate::error::Result;
use crate::format::item::{Extent, Intent, Summary};
use crate::format::record::Delta;
use crate::format::segment::Phase;
use crate::ids::{FileBlock, Ino};
use zns::IoClass;

impl Mender<'_> {
    /// Extents.
    pub(super) fn mend_extent(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        match *finding {
            Finding::ExtentOverlap { ino, block } => self.separate(ino, block),
            Finding::Extent { ino, block, blocks, addr, reason } => {
                let Some(key) = key else { return Ok(false) };
                let of_zone = reason == "lies in a zone that holds no data";
                if of_zone && self.volume().zone_entry(addr).is_some_and(|entry| entry.role.is_data()) {
                    // On account of an extent before this one.
                    return Ok(false);
                }
                if of_zone && self.may_hold_data(addr) {
                    // The table knows nothing of a zone that has something in it: it is counted anew.
                    self.volume().recount_zone(addr.zone_base(), blocks, addr.block() + blocks, false);
                    self.note(Repair::Zone { zone: addr.zone_base() });
                    return Ok(true);
                }
                self.set_raw(key, None)?;
                self.note(Repair::ExtentCut { ino, block, blocks: blocks.into(), reason });
                self.lose_content(ino)?;
                Ok(true)
            }
            Finding::OwnedTwice { addr, ino, block, other, other_block } => {
                let blocks = self.mapped_together((ino, block), (other, other_block), addr)?;
                if blocks == 0 {
                    return Ok(false);
                }
                self.part((ino, block), (other, other_block), addr, blocks)
            }
            Finding::DataOverMetadata { ino, block, addr } => {
                if self.mapped_together((ino, block), (ino, block), addr)? == 0 {
                    return Ok(false);
                }
                self.cut(ino, block, 1, "metadata lies there")
            }
            Finding::BlockCount { ino, recorded, counted } => {
                let Some(inode) = self.inode(ino)? else { return Ok(false) };
                if counted < recorded && self.has_lost(ino) {
                    self.lose_content(ino)?;
                }
                let inode = self.inode(ino)?.unwrap_or(inode);
                self.change(&inode, "number of blocks", recorded, counted, |i, to| i.blocks = to)
            }
            Finding::BeyondEnd { ino, size, .. } => {
                let from = size.div_ceil(crate::BLOCK as u64);
                self.apply(&Delta::Put { key: Key::cut(ino), value: Intent::Cut { from: FileBlock(from) }.encode() })?;
                self.note(Repair::CutOff { ino, from });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Was there an extent of this file among what is lost?
    pub(super) fn has_lost(&self, ino: Ino) -> bool {
        let (from, to) = (SortKey::from(&Key::extent(ino, FileBlock(0))), SortKey::from(&Key::new(Class::Extent, ino.0, u64::MAX)));
        self.lost.iter().any(|(low, high)| *low <= to && high.is_none_or(|high| high > from))
    }

    /// Does the segment table know nothing of this zone, and the device of something in it?
    fn may_hold_data(&self, addr: Addr) -> bool {
        let unknown =
            self.volume().zone_entry(addr).is_some_and(|e| e.role == crate::format::segment::Role::None && e.phase != Phase::Retired);
        unknown && self.volume().state.lock().zones.contains(addr, 1) && self.mending.is_empty_on_device(addr) != Some(true)
    }

    /// Of two extents that overlap, the first one ends where the second begins, and goes on behind it.
    fn separate(&mut self, ino: Ino, block: u64) -> Result<bool> {
        let at = Key::extent(ino, FileBlock(block));
        let found = self.volume().ask(|state| {
            let decode =
                |key: Key, value: &[u8]| Extent::decode(FileBlock(key.b), value).filter(|_| key.class == Class::Extent && key.a == ino.0);
            let first = state.tree.last_before(&at)?.and_then(|(key, value)| decode(key, value));
            let second = state.tree.get(&at)?.and_then(|value| decode(at, value));
            let Some((first, second)) = first.zip(second) else { return Ok(None) };
            let behind = Key::extent(ino, FileBlock(block + 1));
            let next = state.tree.first_at_or_after(&behind)?.and_then(|(key, value)| decode(key, value)).map(|next| next.block.0);
            Ok(Some((first, second, next)))
        })?;
        let Some((first, second, next)) = found.filter(|(first, ..)| first.end().0 > block) else { return Ok(false) };
        let part = |from: u64, to: u64| {
            let skipped = (from - first.block.0) as u32;
            let addr = if first.is_unwritten() { Addr::NONE } else { first.addr.plus(skipped) };
            Extent { block: FileBlock(from), blocks: (to - from) as u32, addr, ..first }
        };
        let (from, to) = (second.end().0, first.end().0.min(next.unwrap_or(u64::MAX)));
        if from < to {
            self.set_raw(Key::extent(ino, FileBlock(from)), Some(&part(from, to).encode()))?;
        }
        self.set_raw(Key::extent(ino, first.block), Some(&part(first.block.0, block).encode()))?;
        let blocks = first.end().0.min(second.end().0) - block;
        self.note(Repair::ExtentCut { ino, block, blocks, reason: "another extent is there" });
        Ok(true)
    }

    /// How many blocks from these on are both mapped from `addr` on.
    fn mapped_together(&self, one: (Ino, u64), other: (Ino, u64), addr: Addr) -> Result<u32> {
        let run = |(ino, block): (Ino, u64)| {
            let end = block.saturating_add(1 << 28);
            self.volume().ask(|state| {
                let (parts, _) = extent_parts(&state.tree, ino, FileBlock(block), FileBlock(end), 1)?;
                Ok(parts.first().filter(|part| part.block.0 == block && part.addr == addr).map_or(0, |part| part.blocks))
            })
        };
        Ok(run(one)?.min(run(other)?))
    }

    /// Of blocks that are mapped twice each goes to whom it belongs: a range may have been overwritten in part.
    fn part(&mut self, one: (Ino, u64), other: (Ino, u64), addr: Addr, blocks: u32) -> Result<bool> {
        let belongs_to_one = |mender: &Self, n: u32| -> Result<bool> {
            let (at, n) = (addr.plus(n), u64::from(n));
            Ok(mender.is_owner(one.0, one.1 + n, at)? && !mender.is_owner(other.0, other.1 + n, at)?)
        };
        let (mut from, mut to_one) = (0, belongs_to_one(self, 0)?);
        for n in 1..=blocks {
            let next = if n < blocks { Some(belongs_to_one(self, n)?) } else { None };
            if next == Some(to_one) {
                continue;
            }
            let (loser, block) = if to_one { other } else { one };
            self.cut(loser, block + u64::from(from), (n - from).into(), "they belong to another file")?;
            (from, to_one) = (n, next.unwrap_or(to_one));
        }
        Ok(true)
    }

    /// Does what lies there have the checksum that this file has for it? If nobody's agrees, or both do, the summary tells.
    fn is_owner(&self, ino: Ino, block: u64, addr: Addr) -> Result<bool> {
        let volume = self.volume();
        let known = volume.ask(|state| checksums(&state.tree, ino, FileBlock(block), 1));
        let read = volume.members().read_block(addr, IoClass::Foreground);
        let (Ok(sums), Ok(content)) = (known, read) else { return Ok(false) };
        if sums != [zns::checksum::crc32c(&content)] {
            return Ok(false);
        }
        let before = Key::summary(addr.plus(1));
        volume.ask(|state| {
            let found = state.tree.last_before(&before)?.filter(|(key, _)| key.class == Class::Summary);
            let owner = found.and_then(|(key, value)| Summary::decode(Addr(key.a), value));
            // Equal content may lie there for both; without a word of a summary, the first one keeps it.
            Ok(owner.is_none_or(|s| s.ino == ino && s.addr.0 + u64::from(s.blocks) > addr.0))
        })
    }

    fn cut(&mut self, ino: Ino, block: u64, blocks: u64, reason: &'static str) -> Result<bool> {
        self.apply(&Delta::Unmap { ino, block: FileBlock(block), blocks })?;
        self.note(Repair::ExtentCut { ino, block, blocks, reason });
        self.lose_content(ino)?;
        Ok(true)
    }

    /// Summaries and checksums.
    pub(super) fn mend_rest(&mut self, finding: &Finding, key: Option<Key>) -> Result<bool> {
        match (finding, key) {
            (Finding::Summary { addr, reason }, Some(key)) => {
                self.set_raw(key, None)?;
                self.note(Repair::SummaryRemoved { addr: *addr, reason });
                Ok(true)
            }
            (Finding::NoSummary { addr, ino, block, .. } | Finding::WrongSummary { addr, ino, block, .. }, _) => {
                self.own(*addr, *ino, *block)
            }
            (Finding::StrayChecksums { ino, block }, Some(key)) => {
                self.set_raw(key, None)?;
                self.note(Repair::Checksums { ino: *ino, block: *block });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The extent tells who owns what lies there.
    fn own(&mut self, addr: Addr, ino: Ino, block: u64) -> Result<bool> {
        let blocks = self.mapped_together((ino, block), (ino, block), addr)?;
        if blocks == 0 {
            return Ok(false);
        }
        let summary = Summary { addr, blocks, ino, block: FileBlock(block) };
        self.volume().change(|state| own_again(&mut state.tree, &summary))?;
        self.note(Repair::Summary { addr, blocks, ino });
        Ok(true)
    }
}
