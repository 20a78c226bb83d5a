//! File data that is acknowledged but not yet on a device: dirty pages, and pages in flight that a commit is writing.
//!
//! A pure structure; it lives under the volume's state lock. Pages are shared slices, so that one large write is one buffer, never copied
//! again until it is on the device. A commit maps its pages when it cuts them and writes them afterwards; until they have landed reads take
//! them from here. A write to a page in flight makes a new dirty page over it. What a truncation, a hole or a copy supersedes is dropped,
//! in flight or not.

use crate::BLOCK;
use crate::ids::{FileBlock, Ino};
use std::collections::BTreeMap;
use zns::BufSlice;

/// Content of a block.
#[derive(Clone, Debug)]
pub struct Page {
    /// [`BLOCK`] bytes.
    pub data: BufSlice,
    /// Their CRC32C.
    pub crc: u32,
}

impl Page {
    /// A page with its checksum. Computing it takes time: not under the lock.
    pub fn new(data: BufSlice) -> Self {
        debug_assert_eq!(data.len(), BLOCK);
        let crc = zns::checksum::crc32c(&data);
        Self { data, crc }
    }
}

#[derive(Default, Debug)]
struct Slot {
    dirty: Option<Page>,
    /// The newest generation that took it along.
    flight: Option<(u64, Page)>,
}

impl Slot {
    fn content(&self) -> Option<&Page> {
        self.dirty.as_ref().or(self.flight.as_ref().map(|(_, page)| page))
    }
}

/// All dirty pages and pages in flight of a volume.
#[derive(Default, Debug)]
pub struct DirtyPages {
    files: BTreeMap<Ino, BTreeMap<u64, Slot>>,
    dirty: u64,
    in_flight: u64,
    since_cut: u64,
    generation: u64,
}

impl DirtyPages {
    /// Block `block` has this content now.
    pub fn put(&mut self, ino: Ino, block: FileBlock, page: Page) {
        let slot = self.files.entry(ino).or_default().entry(block.0).or_default();
        self.dirty += u64::from(slot.dirty.replace(page).is_none());
        self.since_cut += BLOCK as u64;
    }

    /// The content of a block that is dirty or in flight.
    pub fn get(&self, ino: Ino, block: FileBlock) -> Option<&Page> {
        self.files.get(&ino)?.get(&block.0)?.content()
    }

    /// The blocks of a range that are dirty or in flight, in order.
    pub fn range(&self, ino: Ino, from: FileBlock, to: FileBlock) -> impl Iterator<Item = (FileBlock, &Page)> {
        let slots = self.files.get(&ino).filter(|_| from < to).map(|file| file.range(from.0..to.0));
        slots.into_iter().flatten().filter_map(|(block, slot)| slot.content().map(|page| (FileBlock(*block), page)))
    }

    /// The first block at or after `block` that is dirty or in flight.
    pub fn next_dirty_at_or_after(&self, ino: Ino, block: FileBlock) -> Option<FileBlock> {
        self.range(ino, block, FileBlock(u64::MAX)).next().map(|(block, _)| block)
    }

    /// Is a page of the range dirty (not merely in flight, and so mapped)?
    pub fn has_dirty(&self, ino: Ino, from: FileBlock, to: FileBlock) -> bool {
        let file = self.files.get(&ino).filter(|_| from < to);
        file.is_some_and(|file| file.range(from.0..to.0).any(|(_, slot)| slot.dirty.is_some()))
    }

    /// Forgets the pages of a range, in flight or not.
    pub fn drop_range(&mut self, ino: Ino, from: FileBlock, to: FileBlock) {
        let Some(file) = self.files.get_mut(&ino).filter(|_| from < to) else { return };
        let mut dropped = file.split_off(&from.0);
        let mut behind = dropped.split_off(&to.0);
        file.append(&mut behind);
        for slot in dropped.values() {
            self.dirty -= u64::from(slot.dirty.is_some());
            self.in_flight -= u64::from(slot.flight.is_some());
        }
        if file.is_empty() {
            self.files.remove(&ino);
        }
    }

    /// Forgets all pages of a file.
    pub fn drop_inode(&mut self, ino: Ino) {
        self.drop_range(ino, FileBlock(0), FileBlock(u64::MAX));
    }

    /// Blocks that the next cut will take.
    pub fn dirty_blocks(&self) -> u64 {
        self.dirty
    }

    /// Bytes that the next cut will take.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty * BLOCK as u64
    }

    /// Bytes that commits are writing.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight * BLOCK as u64
    }

    /// Bytes put since the last cut, replaced ones included. This bounds memory: a page may keep the buffer of the whole write it came with.
    pub fn bytes_since_cut(&self) -> u64 {
        self.since_cut
    }

    /// What the next cut will take, as runs of (file, first block, length) by file and block.
    pub fn dirty_runs(&self) -> Vec<(Ino, FileBlock, u32)> {
        let mut runs: Vec<(Ino, FileBlock, u32)> = Vec::new();
        for (&ino, file) in &self.files {
            for (&block, _) in file.iter().filter(|(_, slot)| slot.dirty.is_some()) {
                match runs.last_mut().filter(|(of, first, n)| *of == ino && first.0 + u64::from(*n) == block) {
                    Some((_, _, n)) => *n += 1,
                    None => runs.push((ino, FileBlock(block), 1)),
                }
            }
        }
        runs
    }

    /// Moves everything that is dirty to a new generation in flight: its name, and the pages in the order of [`DirtyPages::dirty_runs`].
    pub fn cut(&mut self) -> (u64, Vec<Page>) {
        self.generation += 1;
        let generation = self.generation;
        let mut pages = Vec::with_capacity(self.dirty as usize);
        for slot in self.files.values_mut().flat_map(BTreeMap::values_mut) {
            if let Some(page) = slot.dirty.take() {
                pages.push(page.clone());
                self.in_flight += u64::from(slot.flight.replace((generation, page)).is_none());
            }
        }
        self.dirty = 0;
        self.since_cut = 0;
        (generation, pages)
    }

    /// A cut is on the devices: its pages leave, unless a later cut has taken them along as well.
    pub fn landed(&mut self, generation: u64) {
        let in_flight = &mut self.in_flight;
        self.files.retain(|_, file| {
            file.retain(|_, slot| {
                if slot.flight.take_if(|(of, _)| *of == generation).is_some() {
                    *in_flight -= 1;
                }
                slot.content().is_some()
            });
            !file.is_empty()
        });
    }

    /// Holds the counters against the pages.
    ///
    /// # Errors
    /// What does not agree.
    pub fn self_check(&self) -> Result<(), &'static str> {
        let slots = || self.files.values().flat_map(BTreeMap::values);
        let agree = [
            (slots().filter(|slot| slot.dirty.is_some()).count() as u64 == self.dirty, "count of dirty pages"),
            (slots().filter(|slot| slot.flight.is_some()).count() as u64 == self.in_flight, "count of pages in flight"),
            (self.files.values().all(|file| !file.is_empty()), "a file without pages"),
            (slots().all(|slot| slot.content().is_some()), "a page without content"),
        ];
        agree.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use zns::AlignedBuf;

    #[derive(Clone, Debug)]
    enum Op {
        Put { ino: u64, block: u64, blocks: u64 },
        Drop { ino: u64, from: u64, to: u64 },
        Cut,
        LandOldest,
        LandNewest,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            5 => (1..4u64, 0..30u64, 1..8u64).prop_map(|(ino, block, blocks)| Op::Put { ino, block, blocks }),
            2 => (1..4u64, 0..30u64, 0..40u64).prop_map(|(ino, from, to)| Op::Drop { ino, from, to }),
            2 => Just(Op::Cut),
            1 => Just(Op::LandOldest),
            1 => Just(Op::LandNewest),
        ]
    }

    /// The dirty and the flying version of a block: stamps, and the generation of the latter.
    type Model = BTreeMap<(u64, u64), (Option<u32>, Option<(u64, u32)>)>;

    fn pages(stamp: u32, blocks: u64) -> Vec<Page> {
        let mut buf = AlignedBuf::zeroed(blocks as usize * BLOCK);
        for at in 0..blocks as usize {
            buf[at * BLOCK..][..4].copy_from_slice(&(stamp + at as u32).to_le_bytes());
        }
        let buf = Arc::new(buf);
        (0..blocks as usize).map(|at| Page::new(BufSlice::new(buf.clone(), at * BLOCK..(at + 1) * BLOCK))).collect()
    }
    fn stamp(page: &Page) -> u32 {
        assert_eq!(page.crc, zns::checksum::crc32c(&page.data));
        u32::from_le_bytes([page.data[0], page.data[1], page.data[2], page.data[3]])
    }

    fn check(dirty: &DirtyPages, model: &Model) {
        dirty.self_check().expect("counters agree");
        for ino in 1..4 {
            for block in 0..40 {
                let expected = model.get(&(ino, block)).and_then(|(dirty, flight)| dirty.or(flight.map(|f| f.1)));
                assert_eq!(dirty.get(Ino(ino), FileBlock(block)).map(stamp), expected);
                let next = model.range((ino, block)..(ino + 1, 0)).next().map(|((_, block), _)| FileBlock(*block));
                assert_eq!(dirty.next_dirty_at_or_after(Ino(ino), FileBlock(block)), next);
            }
        }
        assert_eq!(dirty.dirty_blocks(), model.values().filter(|v| v.0.is_some()).count() as u64);
        assert_eq!(dirty.in_flight_bytes(), model.values().filter(|v| v.1.is_some()).count() as u64 * BLOCK as u64);
    }

    proptest! {
        #[test]
        fn agrees_with_a_table_of_versions(ops in prop::collection::vec(op(), 1..60)) {
            let (mut dirty, mut model) = (DirtyPages::default(), Model::new());
            let mut cuts: Vec<u64> = Vec::new();
            let mut next = 0u32;
            for op in ops {
                let ended = match op {
                    Op::Put { ino, block, blocks } => {
                        for (n, page) in pages(next, blocks).into_iter().enumerate() {
                            dirty.put(Ino(ino), FileBlock(block + n as u64), page);
                            model.entry((ino, block + n as u64)).or_default().0 = Some(next + n as u32);
                        }
                        next += blocks as u32;
                        None
                    }
                    Op::Drop { ino, from, to } => {
                        dirty.drop_range(Ino(ino), FileBlock(from), FileBlock(to));
                        model.retain(|(i, b), _| *i != ino || *b < from || *b >= to);
                        None
                    }
                    Op::Cut => {
                        let runs = dirty.dirty_runs();
                        let (generation, pages) = dirty.cut();
                        let places = runs.iter().flat_map(|(ino, block, n)| (0..u64::from(*n)).map(|n| (ino.0, block.0 + n)));
                        let got: Vec<_> = places.zip(pages.iter().map(stamp)).collect();
                        let mut expected = Vec::new();
                        for (place, version) in &mut model {
                            if let Some(stamp) = version.0.take() {
                                version.1 = Some((generation, stamp));
                                expected.push((*place, stamp));
                            }
                        }
                        prop_assert_eq!(got.len(), pages.len());
                        prop_assert_eq!(got, expected);
                        cuts.push(generation);
                        None
                    }
                    Op::LandOldest if !cuts.is_empty() => Some(cuts.remove(0)),
                    Op::LandOldest | Op::LandNewest => cuts.pop(),
                };
                if let Some(generation) = ended {
                    dirty.landed(generation);
                    model.values_mut().for_each(|version| version.1 = version.1.filter(|(of, _)| *of != generation));
                    model.retain(|_, version| version.0.is_some() || version.1.is_some());
                }
                check(&dirty, &model);
            }
        }
    }
}
