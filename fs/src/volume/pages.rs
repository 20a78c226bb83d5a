//! File data that is acknowledged but not yet on a device: dirty pages, and pages in flight that a commit is writing.
//!
//! A pure structure; it lives under the volume's state lock. Pages are shared slices, so that one large write is one buffer, never copied
//! again until it is on the device. A write to a page in flight makes a new dirty page over it. What a truncation, a hole or a copy
//! supersedes is dropped, in flight or not: the commit asks with [`DirtyPages::standing`] what of its cut still counts before it maps it.

use crate::ids::{FileBlock, Ino};
use crate::BLOCK;
use std::collections::BTreeMap;
use zns::BufSlice;

/// Consecutive dirty blocks of a file.
#[derive(Clone, Debug)]
pub struct DirtyRun {
    /// Whose.
    pub ino: Ino,
    /// First file block.
    pub block: FileBlock,
    /// Their content, adjacent memory joined; a multiple of [`BLOCK`] each.
    pub pages: Vec<BufSlice>,
}

impl DirtyRun {
    /// Length in blocks.
    pub fn blocks(&self) -> u32 {
        (self.pages.iter().map(|page| page.len()).sum::<usize>() / BLOCK) as u32
    }

    /// Keeps the first `blocks` blocks and returns the rest, if there is one.
    pub fn split_off(&mut self, blocks: u32) -> Option<DirtyRun> {
        let mut room = blocks as usize * BLOCK;
        let mut rest = Vec::new();
        let mut kept = Vec::new();
        for page in self.pages.drain(..) {
            let here = page.len().min(room);
            room -= here;
            if here > 0 {
                kept.push(page.sub(0..here));
            }
            if here < page.len() {
                rest.push(page.sub(here..page.len()));
            }
        }
        self.pages = kept;
        let block = FileBlock(self.block.0 + u64::from(blocks));
        (!rest.is_empty()).then_some(DirtyRun { ino: self.ino, block, pages: rest })
    }

    fn push(&mut self, page: &BufSlice) {
        match self.pages.last_mut().and_then(|last| last.joined(page).map(|joined| (last, joined))) {
            Some((last, joined)) => *last = joined,
            None => self.pages.push(page.clone()),
        }
    }
}

/// What a commit takes with it.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Names the cut.
    pub generation: u64,
    /// By inode and block.
    pub runs: Vec<DirtyRun>,
}

#[derive(Default, Debug)]
struct Page {
    dirty: Option<BufSlice>,
    /// By generation, oldest first: usually one, more when commits overlap.
    flights: Vec<(u64, BufSlice)>,
}

impl Page {
    fn content(&self) -> Option<&BufSlice> {
        self.dirty.as_ref().or(self.flights.last().map(|(_, page)| page))
    }
    fn is_empty(&self) -> bool {
        self.content().is_none()
    }
}

/// All dirty pages and pages in flight of a volume.
#[derive(Default, Debug)]
pub struct DirtyPages {
    files: BTreeMap<Ino, BTreeMap<u64, Page>>,
    dirty: usize,
    in_flight: usize,
    since_cut: u64,
    generation: u64,
}

impl DirtyPages {
    /// Block `block` has this content now.
    pub fn put(&mut self, ino: Ino, block: FileBlock, page: BufSlice) {
        debug_assert_eq!(page.len(), BLOCK);
        let slot = self.files.entry(ino).or_default().entry(block.0).or_default();
        self.dirty += usize::from(slot.dirty.replace(page).is_none());
        self.since_cut += BLOCK as u64;
    }

    /// The content of a block that is dirty or in flight.
    pub fn get(&self, ino: Ino, block: FileBlock) -> Option<&BufSlice> {
        self.files.get(&ino)?.get(&block.0)?.content()
    }

    /// The blocks of a range that are dirty or in flight, in order.
    pub fn range(&self, ino: Ino, from: FileBlock, to: FileBlock) -> impl Iterator<Item = (FileBlock, &BufSlice)> {
        let pages = self.files.get(&ino).filter(|_| from < to).map(|file| file.range(from.0..to.0));
        pages.into_iter().flatten().filter_map(|(block, page)| page.content().map(|content| (FileBlock(*block), content)))
    }

    /// The first block at or after `block` that is dirty or in flight.
    pub fn next_dirty_at_or_after(&self, ino: Ino, block: FileBlock) -> Option<FileBlock> {
        self.range(ino, block, FileBlock(u64::MAX)).next().map(|(block, _)| block)
    }

    /// Has the file a page that is dirty or in flight?
    pub fn has(&self, ino: Ino) -> bool {
        self.files.contains_key(&ino)
    }

    /// Forgets the pages of a range, in flight or not.
    pub fn drop_range(&mut self, ino: Ino, from: FileBlock, to: FileBlock) {
        let Some(file) = self.files.get_mut(&ino).filter(|_| from < to) else { return };
        let mut dropped = file.split_off(&from.0);
        let mut behind = dropped.split_off(&to.0);
        file.append(&mut behind);
        for page in dropped.values() {
            self.dirty -= usize::from(page.dirty.is_some());
            self.in_flight -= page.flights.len();
        }
        if file.is_empty() {
            self.files.remove(&ino);
        }
    }

    /// Forgets all pages of a file.
    pub fn drop_inode(&mut self, ino: Ino) {
        self.drop_range(ino, FileBlock(0), FileBlock(u64::MAX));
    }

    /// Bytes that the next cut will take.
    pub fn dirty_bytes(&self) -> u64 {
        (self.dirty * BLOCK) as u64
    }

    /// Bytes that commits are writing.
    pub fn in_flight_bytes(&self) -> u64 {
        (self.in_flight * BLOCK) as u64
    }

    /// Bytes put since the last cut, replaced ones included. This bounds memory: a page may keep the buffer of the whole write it came with.
    pub fn bytes_since_cut(&self) -> u64 {
        self.since_cut
    }

    /// Moves everything that is dirty to a new generation in flight.
    pub fn cut(&mut self) -> Cut {
        self.generation += 1;
        let generation = self.generation;
        let mut runs: Vec<DirtyRun> = Vec::new();
        for (&ino, file) in &mut self.files {
            let mut expected = None;
            for (&block, page) in file {
                let Some(content) = page.dirty.take() else { continue };
                match runs.last_mut().filter(|_| expected == Some(block)) {
                    Some(run) => run.push(&content),
                    None => runs.push(DirtyRun { ino, block: FileBlock(block), pages: vec![content.clone()] }),
                }
                expected = Some(block + 1);
                page.flights.push((generation, content));
            }
        }
        self.in_flight += self.dirty;
        self.dirty = 0;
        self.since_cut = 0;
        Cut { generation, runs }
    }

    /// What of a range is still in flight with this generation, as runs of (first block, length): everything but what was dropped since.
    pub fn standing(&self, generation: u64, ino: Ino, block: FileBlock, blocks: u32) -> Vec<(FileBlock, u32)> {
        let mut runs: Vec<(FileBlock, u32)> = Vec::new();
        let Some(file) = self.files.get(&ino) else { return runs };
        for (&at, page) in file.range(block.0..block.0.saturating_add(blocks.into())) {
            if page.flights.iter().any(|(of, _)| *of == generation) {
                match runs.last_mut().filter(|(first, n)| first.0 + u64::from(*n) == at) {
                    Some((_, n)) => *n += 1,
                    None => runs.push((FileBlock(at), 1)),
                }
            }
        }
        runs
    }

    /// A cut is on the device and mapped: its pages leave.
    pub fn landed(&mut self, generation: u64) {
        self.end_flight(generation, false);
    }

    /// A cut could not be written: its pages are dirty again unless something newer is there.
    pub fn failed(&mut self, generation: u64) {
        self.end_flight(generation, true);
    }

    fn end_flight(&mut self, generation: u64, keep: bool) {
        let (dirty, in_flight) = (&mut self.dirty, &mut self.in_flight);
        self.files.retain(|_, file| {
            file.retain(|_, page| {
                if let Some(at) = page.flights.iter().position(|(of, _)| *of == generation) {
                    let newest = at + 1 == page.flights.len();
                    let (_, content) = page.flights.remove(at);
                    *in_flight -= 1;
                    if keep && newest && page.dirty.is_none() {
                        page.dirty = Some(content);
                        *dirty += 1;
                    }
                }
                !page.is_empty()
            });
            !file.is_empty()
        });
    }

    /// Holds the counters against the pages.
    ///
    /// # Errors
    /// What does not agree.
    pub fn self_check(&self) -> Result<(), &'static str> {
        let pages = || self.files.values().flat_map(BTreeMap::values);
        let agree = [
            (pages().filter(|page| page.dirty.is_some()).count() == self.dirty, "count of dirty pages"),
            (pages().map(|page| page.flights.len()).sum::<usize>() == self.in_flight, "count of pages in flight"),
            (self.files.values().all(|file| !file.is_empty()), "a file without pages"),
            (pages().all(|page| !page.is_empty()), "a page without content"),
            (pages().all(|page| page.flights.is_sorted_by(|a, b| a.0 < b.0)), "order of generations"),
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
        /// The oldest cut ends, well or not.
        End { well: bool },
        EndNewest { well: bool },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            5 => (1..4u64, 0..30u64, 1..8u64).prop_map(|(ino, block, blocks)| Op::Put { ino, block, blocks }),
            2 => (1..4u64, 0..30u64, 0..40u64).prop_map(|(ino, from, to)| Op::Drop { ino, from, to }),
            2 => Just(Op::Cut),
            1 => any::<bool>().prop_map(|well| Op::End { well }),
            1 => any::<bool>().prop_map(|well| Op::EndNewest { well }),
        ]
    }

    /// Versions of a block, oldest first: stamp, and the generation it flies with (`None`: dirty).
    type Model = BTreeMap<(u64, u64), Vec<(u32, Option<u64>)>>;

    fn page(n: u32, blocks: u64) -> Vec<BufSlice> {
        let mut buf = AlignedBuf::zeroed(blocks as usize * BLOCK);
        for at in 0..blocks as usize {
            buf[at * BLOCK..][..4].copy_from_slice(&(n + at as u32).to_le_bytes());
        }
        let buf = Arc::new(buf);
        (0..blocks as usize).map(|at| BufSlice::new(buf.clone(), at * BLOCK..(at + 1) * BLOCK)).collect()
    }
    fn stamp(page: &[u8]) -> u32 {
        u32::from_le_bytes([page[0], page[1], page[2], page[3]])
    }

    fn end(pages: &mut DirtyPages, model: &mut Model, generation: u64, well: bool) {
        if well { pages.landed(generation) } else { pages.failed(generation) }
        for versions in model.values_mut() {
            let newest = versions.last().copied();
            let ended = |version: &(u32, Option<u64>)| version.1 == Some(generation);
            versions.retain(|version| !ended(version));
            if let Some((stamp, _)) = newest.filter(|version| ended(version) && !well) {
                versions.push((stamp, None));
            }
        }
        model.retain(|_, versions| !versions.is_empty());
    }

    fn check(pages: &DirtyPages, model: &Model) {
        pages.self_check().expect("counters agree");
        for ino in 1..4 {
            for block in 0..40 {
                let expected = model.get(&(ino, block)).and_then(|versions| versions.last()).map(|(stamp, _)| *stamp);
                assert_eq!(pages.get(Ino(ino), FileBlock(block)).map(|page| stamp(page)), expected);
                let next = model.range((ino, block)..(ino + 1, 0)).next().map(|((_, block), _)| FileBlock(*block));
                assert_eq!(pages.next_dirty_at_or_after(Ino(ino), FileBlock(block)), next);
            }
        }
        let versions = || model.values().flatten();
        assert_eq!(pages.dirty_bytes(), versions().filter(|(_, of)| of.is_none()).count() as u64 * BLOCK as u64);
        assert_eq!(pages.in_flight_bytes(), versions().filter(|(_, of)| of.is_some()).count() as u64 * BLOCK as u64);
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_versions(ops in prop::collection::vec(op(), 1..60)) {
            let (mut pages, mut model) = (DirtyPages::default(), Model::new());
            let mut cuts: Vec<u64> = Vec::new();
            let mut next = 0u32;
            for op in ops {
                match op {
                    Op::Put { ino, block, blocks } => {
                        for (n, slice) in page(next, blocks).into_iter().enumerate() {
                            pages.put(Ino(ino), FileBlock(block + n as u64), slice);
                            let versions = model.entry((ino, block + n as u64)).or_default();
                            versions.retain(|(_, of)| of.is_some());
                            versions.push((next + n as u32, None));
                        }
                        next += blocks as u32;
                    }
                    Op::Drop { ino, from, to } => {
                        pages.drop_range(Ino(ino), FileBlock(from), FileBlock(to));
                        model.retain(|(i, b), _| *i != ino || *b < from || *b >= to);
                    }
                    Op::Cut => {
                        let cut = pages.cut();
                        let mut expected = Vec::new();
                        for ((ino, block), versions) in &mut model {
                            if let Some(version) = versions.last_mut().filter(|(_, of)| of.is_none()) {
                                version.1 = Some(cut.generation);
                                expected.push((*ino, *block, version.0));
                            }
                        }
                        let mut got = Vec::new();
                        for mut run in cut.runs {
                            prop_assert!(run.blocks() > 0);
                            let mut parts = Vec::new();
                            while let Some(rest) = run.split_off(3) {
                                parts.push(std::mem::replace(&mut run, rest));
                            }
                            parts.push(run);
                            for part in parts {
                                let content = part.pages.iter().flat_map(|page| page.chunks(BLOCK));
                                got.extend(content.enumerate().map(|(n, page)| (part.ino.0, part.block.0 + n as u64, stamp(page))));
                            }
                        }
                        prop_assert_eq!(got, expected);
                        cuts.push(cut.generation);
                    }
                    Op::End { well } if !cuts.is_empty() => end(&mut pages, &mut model, cuts.remove(0), well),
                    Op::EndNewest { well } => {
                        if let Some(generation) = cuts.pop() {
                            end(&mut pages, &mut model, generation, well);
                        }
                    }
                    Op::End { .. } => {}
                }
                check(&pages, &model);
                for &generation in &cuts {
                    for ino in 1..4 {
                        let standing = pages.standing(generation, Ino(ino), FileBlock(0), 40);
                        let got: Vec<u64> = standing.iter().flat_map(|(block, n)| block.0..block.0 + u64::from(*n)).collect();
                        let flies = |versions: &Vec<(u32, Option<u64>)>| versions.iter().any(|(_, of)| *of == Some(generation));
                        let expected: Vec<u64> =
                            model.iter().filter(|((i, _), versions)| *i == ino && flies(versions)).map(|((_, b), _)| *b).collect();
                        prop_assert_eq!(got, expected);
                    }
                }
            }
        }
    }

    #[test]
    fn one_large_write_is_one_slice() {
        let mut pages = DirtyPages::default();
        for (n, slice) in page(0, 256).into_iter().enumerate() {
            pages.put(Ino(5), FileBlock(n as u64), slice);
        }
        let cut = pages.cut();
        assert_eq!((cut.runs.len(), cut.runs[0].pages.len(), cut.runs[0].blocks()), (1, 1, 256));
    }
}
