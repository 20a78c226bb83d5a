//! Blocks by address: none has two owners, summaries name the right one, data is what its checksums say.
//!
//! Extents are sorted by address, as many at once as the window allows (else zone ranges one after the other), so that data is
//! read sequentially and summaries, which lie in that order in the tree, are read once.

use super::contents::{Contents, Mapped};
use super::nodemap::Metadata;
use super::scan::Scanner;
use super::{Checker, Finding};
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::extents::checksums;
use crate::core::key::{Class, Key};
use crate::format::item::{CHECKSUM_GROUP, Extent, Summary};
use crate::ids::{FileBlock, Ino};
use std::collections::BTreeMap;
use zns::IoClass;

/// Live blocks of a zone: how many, and where they end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub blocks: u32,
    pub end: u32,
}

/// Blocks read at once.
const READ_BLOCKS: u32 = (4 << 20) / BLOCK as u32;

impl Checker<'_> {
    /// Checks all blocks with owners. Returns what is live in each zone.
    pub(super) fn check_blocks(&mut self, contents: &Contents, metadata: &Metadata) -> BTreeMap<Addr, Live> {
        let mut live: BTreeMap<Addr, Live> = BTreeMap::new();
        for addr in &metadata.live {
            note(&mut live, *addr, 1);
        }
        for (from, to) in self.windows(contents) {
            let mut extents = match &contents.extents {
                Some(all) => all.clone(),
                None => self.collect(from, to),
            };
            extents.sort_unstable();
            self.check_owners(&extents, metadata, &mut live);
            self.check_summaries(&extents, from, to);
            self.check_data(&extents);
        }
        live
    }

    /// Ranges of zones (from the first address, up to but not including the second) whose extents are looked at together.
    fn windows(&self, contents: &Contents) -> Vec<(Addr, Addr)> {
        let end = Addr(u64::MAX);
        if contents.extents.is_some() || contents.per_zone.is_empty() {
            return vec![(Addr(0), end)];
        }
        let mut windows = Vec::new();
        let (mut start, mut sum) = (Addr(0), 0);
        for (zone, count) in &contents.per_zone {
            if sum > 0 && sum + *count as usize > self.options.window {
                windows.push((start, *zone));
                (start, sum) = (*zone, 0);
            }
            sum += *count as usize;
        }
        windows.push((start, end));
        windows
    }

    fn collect(&self, from: Addr, to: Addr) -> Vec<Mapped> {
        let mut found = Vec::new();
        self.scan.class(Class::Extent, 0..=u64::MAX, |key, value| {
            if let Some(extent) = Extent::decode(FileBlock(key.b), value)
                && !extent.is_unwritten()
                && (from..to).contains(&extent.addr)
                && self.volume.state.lock().zones.contains(extent.addr, extent.blocks)
            {
                found.push(Mapped { addr: extent.addr, blocks: extent.blocks, ino: key.a, block: key.b });
            }
            true
        });
        found
    }

    fn check_owners(&mut self, extents: &[Mapped], metadata: &Metadata, live: &mut BTreeMap<Addr, Live>) {
        let mut furthest: Option<Mapped> = None;
        for extent in extents {
            note(live, extent.addr, extent.blocks);
            let end = extent.addr.plus(extent.blocks);
            if let Some(before) = furthest
                && before.addr.plus(before.blocks) > extent.addr
            {
                self.add(Finding::OwnedTwice {
                    addr: extent.addr,
                    ino: Ino(extent.ino),
                    block: extent.block,
                    other: Ino(before.ino),
                    other_block: before.block + (extent.addr.0 - before.addr.0),
                });
            }
            let at = metadata.live.partition_point(|addr| *addr < extent.addr);
            if let Some(&addr) = metadata.live.get(at).filter(|addr| **addr < end) {
                let block = extent.block + (addr.0 - extent.addr.0);
                self.add(Finding::DataOverMetadata { addr, ino: Ino(extent.ino), block });
            }
            if furthest.is_none_or(|before| before.addr.plus(before.blocks) < end) {
                furthest = Some(*extent);
            }
        }
    }

    /// Walks extents and summaries side by side.
    fn check_summaries(&mut self, extents: &[Mapped], from: Addr, to: Addr) {
        let scan = self.scan.clone();
        let mut cursor = Cursor { extents, at: 0, done: 0 };
        let mut behind = Addr::NONE;
        let range = from.0..=to.0.saturating_sub(u64::from(to.0 != u64::MAX));
        scan.class(Class::Summary, range, |key, value| {
            let addr = Addr(key.a);
            let Some(summary) = Summary::decode(addr, value).filter(|_| key.b == 0) else {
                self.undecodable(key);
                return true;
            };
            let inside = self.volume.state.lock().zones.contains(addr, summary.blocks);
            let reason = match () {
                _ if !inside => Some("lies outside the volume"),
                _ if addr < behind => Some("overlaps the one before it"),
                _ => None,
            };
            if let Some(reason) = reason {
                self.add_at(key, Finding::Summary { addr, reason });
            }
            if inside {
                behind = addr.plus(summary.blocks);
                cursor.until(addr, |part| self.no_summary(&scan, part));
                cursor.until(behind, |part| self.compare(&summary, part));
            }
            true
        });
        cursor.until(Addr(u64::MAX), |part| self.no_summary(&scan, part));
    }

    fn no_summary(&mut self, scan: &Scanner<'_>, part: Mapped) {
        let (from, to) = (Key::summary(part.addr.zone_base()), Key::summary(part.addr.plus(part.blocks)));
        if !scan.is_lost(&from, &to) {
            let Mapped { addr, blocks, ino, block } = part;
            self.add(Finding::NoSummary { addr, blocks, ino: Ino(ino), block });
        }
    }

    fn compare(&mut self, summary: &Summary, part: Mapped) {
        // Of extents that overlap the second one may begin before this summary.
        let summary_block = summary.block.0.wrapping_add(part.addr.0.wrapping_sub(summary.addr.0));
        if summary.ino.0 != part.ino || summary_block != part.block {
            self.add(Finding::WrongSummary {
                addr: part.addr,
                ino: Ino(part.ino),
                block: part.block,
                summary_ino: summary.ino,
                summary_block: FileBlock(summary_block).0,
            });
        }
    }

    /// Reads data in the order of addresses and compares it with its checksums; at the least, the checksums must be there.
    fn check_data(&mut self, extents: &[Mapped]) {
        let total = self.report.counts.blocks;
        let mut batch: Vec<(Mapped, Vec<u32>)> = Vec::new();
        let mut blocks = 0;
        for extent in extents {
            let mut done = 0;
            while done < extent.blocks {
                let step = (extent.blocks - done).min(READ_BLOCKS - blocks);
                let part = Mapped { addr: extent.addr.plus(done), blocks: step, block: extent.block + u64::from(done), ..*extent };
                done += step;
                for known in self.known_sums(part) {
                    batch.push(known);
                }
                blocks += step;
                if blocks >= READ_BLOCKS {
                    self.read_batch(std::mem::take(&mut batch));
                    blocks = 0;
                    self.progress("data", self.report.counts.verified, Some(total));
                }
            }
        }
        self.read_batch(batch);
    }

    /// The checksums of a run of blocks, in pieces where some are missing.
    fn known_sums(&mut self, part: Mapped) -> Vec<(Mapped, Vec<u32>)> {
        let sums_of =
            |this: &Self, part: Mapped| this.volume.ask(|state| checksums(&state.tree, Ino(part.ino), FileBlock(part.block), part.blocks));
        if let Ok(sums) = sums_of(self, part) {
            return vec![(part, sums)];
        }
        let mut known = Vec::new();
        let mut missing: Option<(u64, u32)> = None;
        for n in 0..part.blocks {
            let one = Mapped { addr: part.addr.plus(n), blocks: 1, block: part.block + u64::from(n), ..part };
            let key = Key::checksum(Ino(one.ino), FileBlock(one.block));
            match sums_of(self, one) {
                Ok(sums) => known.push((one, sums)),
                Err(_) if self.scan.is_lost(&key, &key) => {}
                Err(_) => match &mut missing {
                    Some((first, count)) if *first + u64::from(*count) == one.block && !one.block.is_multiple_of(CHECKSUM_GROUP) => {
                        *count += 1
                    }
                    _ => {
                        if let Some((block, blocks)) = missing.replace((one.block, 1)) {
                            self.add(Finding::NoChecksum { ino: Ino(part.ino), block, blocks });
                        }
                    }
                },
            }
        }
        if let Some((block, blocks)) = missing {
            self.add(Finding::NoChecksum { ino: Ino(part.ino), block, blocks });
        }
        known
    }

    fn read_batch(&mut self, batch: Vec<(Mapped, Vec<u32>)>) {
        if !self.options.read_data || batch.is_empty() {
            return;
        }
        // Extents that lie one behind the other are read as one.
        let mut runs: Vec<(Addr, u32)> = Vec::new();
        let mut places = Vec::with_capacity(batch.len());
        for (part, _) in &batch {
            let number = runs.len();
            match runs.last_mut() {
                Some((addr, blocks)) if addr.plus(*blocks) == part.addr && addr.zone_base() == part.addr.zone_base() => {
                    places.push((number - 1, *blocks));
                    *blocks += part.blocks;
                }
                _ => {
                    places.push((number, 0));
                    runs.push((part.addr, part.blocks));
                }
            }
        }
        let content = self.volume.members().read_runs(&runs, IoClass::Foreground);
        for ((part, sums), (run, offset)) in batch.iter().zip(places) {
            match &content[run] {
                Ok(bytes) => {
                    let bytes = &bytes[offset as usize * BLOCK..][..part.blocks as usize * BLOCK];
                    bytes.chunks_exact(BLOCK).zip(sums).zip(0..).for_each(|((block, sum), n)| self.verify(*part, n, block, *sum));
                }
                Err(_) => self.read_one_by_one(*part, sums),
            }
        }
    }

    fn read_one_by_one(&mut self, part: Mapped, sums: &[u32]) {
        for (n, sum) in (0..).zip(sums) {
            let addr = part.addr.plus(n);
            match self.volume.members().read_block(addr, IoClass::Foreground) {
                Ok(block) => self.verify(part, n, &block, *sum),
                Err(error) => {
                    let (ino, block) = (Ino(part.ino), part.block + u64::from(n));
                    self.add(Finding::Unreadable { ino, block, addr, reason: error.to_string() });
                }
            }
        }
    }

    fn verify(&mut self, part: Mapped, n: u32, content: &[u8], sum: u32) {
        self.report.counts.verified += 1;
        if zns::checksum::crc32c(content) != sum {
            let (ino, block) = (Ino(part.ino), part.block + u64::from(n));
            self.add(Finding::Data { ino, block, addr: part.addr.plus(n) });
        }
    }
}

fn note(live: &mut BTreeMap<Addr, Live>, addr: Addr, blocks: u32) {
    let zone = live.entry(addr.zone_base()).or_default();
    zone.blocks = zone.blocks.saturating_add(blocks);
    zone.end = zone.end.max(addr.block() + blocks);
}

/// A place among the extents.
struct Cursor<'a> {
    extents: &'a [Mapped],
    at: usize,
    /// Blocks of the current extent that are done.
    done: u32,
}

impl Cursor<'_> {
    /// Hands out everything before `end`.
    fn until(&mut self, end: Addr, mut visit: impl FnMut(Mapped)) {
        while let Some(extent) = self.extents.get(self.at) {
            let start = extent.addr.plus(self.done);
            if start >= end {
                return;
            }
            let left = u64::from(extent.blocks - self.done);
            let n = left.min(end.0 - start.0) as u32;
            visit(Mapped { addr: start, blocks: n, block: extent.block + u64::from(self.done), ..*extent });
            self.done += n;
            if self.done == extent.blocks {
                (self.at, self.done) = (self.at + 1, 0);
            }
        }
    }
}
