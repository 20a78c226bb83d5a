//! The maps against a naive model: a table of file blocks.

use super::*;
use crate::core::halt::{BlockId, Halt};
use crate::core::txn::{Behind, Beside};
use crate::ids::NodeId;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use zns::{DeviceId, ZoneId};

/// Items in leaves of a few; only leaves named resident can be seen.
#[derive(Default)]
struct Leaves {
    items: BTreeMap<Key, Vec<u8>>,
    /// First keys of all leaves but the first.
    separators: Vec<Key>,
    /// `None`: all of them.
    resident: RefCell<Option<BTreeSet<usize>>>,
}

impl Leaves {
    fn evict(&mut self, per_leaf: usize) {
        self.separators = self.items.keys().copied().step_by(per_leaf).skip(1).collect();
        *self.resident.borrow_mut() = Some(BTreeSet::new());
    }
    fn leaf(&self, key: &Key) -> usize {
        self.separators.partition_point(|first| first <= key)
    }
    fn need(&self, leaves: std::ops::RangeInclusive<usize>) -> Result<(), BlockId> {
        let resident = self.resident.borrow();
        let missing = leaves.into_iter().find(|leaf| resident.as_ref().is_some_and(|set| !set.contains(leaf)));
        missing.map_or(Ok(()), |leaf| Err(BlockId::Node(NodeId(leaf as u64))))
    }
    fn load(&self, halt: Halt) {
        match halt {
            Halt::Need(BlockId::Node(id)) => assert!(self.resident.borrow_mut().as_mut().expect("evicting").insert(id.0 as usize)),
            other => panic!("{other:?}"),
        }
    }
}

impl ItemView for Leaves {
    fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId> {
        self.need(self.leaf(key)..=self.leaf(key))?;
        Ok(self.items.get(key).map(Vec::as_slice))
    }
    fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        let found = self.items.range(key..).next();
        let last = found.map_or(self.separators.len(), |(found, _)| self.leaf(found));
        self.need(self.leaf(key)..=last)?;
        Ok(found.map(|(key, value)| (*key, value.as_slice())))
    }
    fn last_before(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        let found = self.items.range(..key).next_back();
        self.need(found.map_or(0, |(found, _)| self.leaf(found))..=self.leaf(key))?;
        Ok(found.map(|(key, value)| (*key, value.as_slice())))
    }
}
impl ItemTree for Leaves {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), BlockId> {
        self.touch(key)?;
        self.items.insert(*key, value.to_vec());
        Ok(())
    }
    fn remove(&mut self, key: &Key) -> Result<bool, BlockId> {
        self.touch(key)?;
        Ok(self.items.remove(key).is_some())
    }
    fn beside(&self, key: &Key) -> Result<Option<Beside<'_>>, BlockId> {
        let leaf = self.leaf(key);
        self.need(leaf..=leaf)?;
        let here = |found: &(&Key, &Vec<u8>)| self.leaf(found.0) == leaf;
        let before = self.items.range(..key).next_back().filter(here);
        let Some((before, value)) = before.map(|(key, value)| (*key, value.as_slice())) else { return Ok(None) };
        let next = self.items.range((std::ops::Bound::Excluded(*key), std::ops::Bound::Unbounded)).next();
        let behind = match (next.filter(here), self.separators.get(leaf)) {
            (Some((key, value)), _) => Behind::Item(*key, value),
            (None, Some(bound)) => Behind::NothingBefore(*bound),
            (None, None) => Behind::Nothing,
        };
        Ok(Some(Beside { before: (before, value), at: self.items.get(key).map(Vec::as_slice), behind }))
    }
    fn touch(&self, key: &Key) -> Result<(), BlockId> {
        self.need(self.leaf(key)..=self.leaf(key))
    }
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Counts {
    zones: BTreeMap<Addr, u32>,
    estimates: BTreeMap<Estimate, i64>,
    unwritten: u64,
}
impl LiveCounts for Counts {
    fn add(&mut self, addr: Addr, blocks: u32) {
        assert!(in_one_zone(addr, blocks.into()));
        *self.zones.entry(addr.zone_base()).or_default() += blocks;
    }
    fn sub(&mut self, addr: Addr, blocks: u32) {
        let count = self.zones.get_mut(&addr.zone_base()).expect("counted before");
        *count = count.checked_sub(blocks).expect("never below nothing");
        if *count == 0 {
            self.zones.remove(&addr.zone_base());
        }
    }
    fn expect(&mut self, estimate: Estimate, blocks: i64) {
        let count = self.estimates.entry(estimate).or_default();
        *count += blocks;
        if *count == 0 {
            self.estimates.remove(&estimate);
        }
    }
    fn add_unwritten(&mut self, blocks: u64) {
        self.unwritten += blocks;
    }
    fn sub_unwritten(&mut self, blocks: u64) {
        self.unwritten -= blocks;
    }
}

const ZONE: u32 = 96;
const FILES: u64 = 3;
const SPAN: u64 = 200;

/// What a block of a file is: data at an address, or preallocated.
type Cell = Option<(Addr, u32)>;

#[derive(Default)]
struct World {
    tree: Leaves,
    counts: Counts,
    model: BTreeMap<(u64, u64), Cell>,
    zone: u32,
    filled: u32,
    stamp: u32,
    planned: Vec<Relocation>,
}

#[derive(Clone, Debug)]
enum Op {
    Map {
        ino: u64,
        block: u64,
        blocks: u32,
    },
    /// One of the extents that there are is mapped elsewhere as a whole.
    Rewrite {
        nth: usize,
    },
    Unmap {
        ino: u64,
        block: u64,
        blocks: u64,
    },
    Preallocate {
        ino: u64,
        block: u64,
        blocks: u64,
    },
    /// Relocation of what is live in one of the zones is planned now and committed later.
    Plan {
        zone: u32,
        from: u32,
        max: u32,
    },
    Commit,
    Forget {
        zone: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let place = || (1..=FILES, 0..SPAN, 1..40u32);
    prop_oneof![
        6 => place().prop_map(|(ino, block, blocks)| Op::Map { ino, block, blocks }),
        2 => place().prop_map(|(ino, block, blocks)| Op::Map { ino, block, blocks: blocks % 3 + 1 }),
        3 => (0..100usize).prop_map(|nth| Op::Rewrite { nth }),
        2 => place().prop_map(|(ino, block, blocks)| Op::Unmap { ino, block, blocks: blocks.into() }),
        1 => (1..=FILES, 0..SPAN).prop_map(|(ino, block)| Op::Unmap { ino, block, blocks: u64::MAX }),
        2 => place().prop_map(|(ino, block, blocks)| Op::Preallocate { ino, block, blocks: blocks.into() }),
        2 => (0..20u32, 0..ZONE, 1..60u32).prop_map(|(zone, from, max)| Op::Plan { zone, from, max }),
        2 => Just(Op::Commit),
        1 => (0..20u32).prop_map(|zone| Op::Forget { zone }),
    ]
}

fn zone(n: u32) -> Addr {
    Addr::new(DeviceId(0), ZoneId(n + 1), 0)
}

impl World {
    fn allocate(&mut self, blocks: u32) -> (Addr, u32) {
        if self.filled == ZONE {
            self.zone += 1;
            self.filled = 0;
        }
        let granted = blocks.min(ZONE - self.filled);
        let addr = zone(self.zone).plus(self.filled);
        self.filled += granted;
        (addr, granted)
    }

    /// The deltas of an operation on data, and the model brought up to date.
    fn deltas(&mut self, op: &Op) -> Vec<Delta> {
        match *op {
            Op::Map { ino, mut block, mut blocks } => {
                let mut deltas = Vec::new();
                while blocks > 0 {
                    let (addr, granted) = self.allocate(blocks);
                    let checksums: Vec<u32> = (0..granted).map(|n| self.stamp + n).collect();
                    self.stamp += granted;
                    for n in 0..granted {
                        self.model.insert((ino, block + u64::from(n)), Some((addr.plus(n), checksums[n as usize])));
                    }
                    let estimate = Estimate((self.stamp % 5) as u8);
                    deltas.push(Delta::Map { ino: Ino(ino), block: FileBlock(block), addr, checksums, estimate });
                    block += u64::from(granted);
                    blocks -= granted;
                }
                deltas
            }
            Op::Rewrite { nth } => {
                let extents: Vec<(&Key, &Vec<u8>)> = self.tree.items.iter().filter(|(key, _)| key.class == Class::Extent).collect();
                let Some((key, value)) = extents.get(nth % extents.len().max(1)) else { return Vec::new() };
                let extent = Extent::decode(FileBlock(key.b), value).expect("sound");
                self.deltas(&Op::Map { ino: key.a, block: key.b, blocks: extent.blocks })
            }
            Op::Unmap { ino, block, blocks } => {
                self.model.retain(|(i, b), _| *i != ino || *b < block || *b >= block.saturating_add(blocks));
                vec![Delta::Unmap { ino: Ino(ino), block: FileBlock(block), blocks }]
            }
            Op::Preallocate { ino, block, blocks } => {
                (block..block + blocks).for_each(|b| {
                    self.model.entry((ino, b)).or_insert(None);
                });
                vec![Delta::Preallocate { ino: Ino(ino), block: FileBlock(block), blocks }]
            }
            _ => Vec::new(),
        }
    }

    /// Loads what is missing until `plan` has everything; nothing is evicted meanwhile.
    fn until_resident(&mut self, plan: impl Fn(&Leaves) -> Planned<()>) {
        while let Err(halt) = plan(&self.tree) {
            self.tree.load(halt);
        }
    }

    fn run(&mut self, ops: &[Op]) {
        let before = self.totals();
        self.tree.evict(3);
        let deltas: Vec<Delta> = ops.iter().flat_map(|op| self.deltas(op)).collect();
        self.until_resident(|tree| deltas.iter().try_for_each(|delta| prepare(tree, delta)));
        let mut change = Change::default();
        for delta in &deltas {
            let one = apply(&mut self.tree, &mut self.counts, delta).expect("prepared");
            change.mapped += one.mapped;
            change.unwritten += one.unwritten;
        }
        let after = self.totals();
        assert_eq!((change.mapped, change.unwritten), (after.0 - before.0, after.1 - before.1));
        *self.tree.resident.borrow_mut() = None;
        if let Some(last) = deltas.last() {
            let items = self.tree.items.clone();
            assert_eq!(apply(&mut self.tree, &mut self.counts, last).expect("resident"), Change::default(), "applied twice");
            assert!(items == self.tree.items, "a delta applied twice changes nothing");
        }
        for op in ops {
            self.clean(op);
        }
        *self.tree.resident.borrow_mut() = None;
    }

    fn clean(&mut self, op: &Op) {
        self.tree.evict(3);
        match *op {
            Op::Plan { zone: n, from, max } => {
                let mut next = Some(from);
                while let Some(at) = next {
                    match live_runs(&self.tree, zone(n), at, max) {
                        Ok(found) => {
                            next = found.next.filter(|_| self.planned.len() < 64);
                            for part in found.parts {
                                let (to, granted) = self.allocate(part.blocks);
                                let (ino, block) = (part.ino, part.block);
                                let estimate = Estimate(part.estimate.0 + n as u8 % 2);
                                self.planned.push(Relocation { ino, block, blocks: granted, from: part.addr, to, estimate });
                            }
                        }
                        Err(halt) => self.tree.load(halt),
                    }
                }
            }
            Op::Commit => {
                let moves = std::mem::take(&mut self.planned);
                // Those that are known together are brought in together; whether they were or not, a relocation that lacks a leaf changes nothing.
                if moves.len().is_multiple_of(2) {
                    self.until_resident(|tree| moves.iter().try_for_each(|moved| prepare_relocate(tree, moved)));
                }
                for moved in moves {
                    let before = self.tree.items.clone();
                    let logged = moved.block.0.is_multiple_of(2);
                    let count = loop {
                        let outcome = match logged {
                            true => left_to_move(&self.tree, &moved).and_then(|count| {
                                prepare(&self.tree, &Delta::Move(moved))?;
                                apply(&mut self.tree, &mut self.counts, &Delta::Move(moved)).expect("prepared");
                                Ok(count)
                            }),
                            false => relocate(&mut self.tree, &mut self.counts, &moved),
                        };
                        match outcome {
                            Ok(count) => break count,
                            Err(halt) => {
                                assert!(before == self.tree.items, "all or nothing");
                                self.tree.load(halt);
                            }
                        }
                    };
                    let mut expected = 0;
                    for n in 0..moved.blocks {
                        if let Some(Some((addr, _))) = self.model.get_mut(&(moved.ino.0, moved.block.0 + u64::from(n)))
                            && *addr == moved.from.plus(n)
                        {
                            *addr = moved.to.plus(n);
                            expected += 1;
                        }
                    }
                    assert_eq!(count, expected);
                    // As roll-forward does it, behind what has the same outcome already.
                    let items = self.tree.items.clone();
                    let resident = self.tree.resident.replace(None);
                    let again = apply(&mut self.tree, &mut self.counts, &Delta::Move(moved)).expect("resident");
                    assert!(again == Change::default() && items == self.tree.items, "what has moved does not move again");
                    self.tree.resident.replace(resident);
                }
            }
            Op::Forget { zone: n } if n < self.zone && !self.counts.zones.contains_key(&zone(n)) => {
                let pinned = self.planned.iter().any(|moved| moved.from.zone_base() == zone(n) || moved.to.zone_base() == zone(n));
                let mut more = !pinned;
                while more {
                    self.until_resident(|tree| prepare_forget_zone(tree, zone(n), 2));
                    more = forget_zone(&mut self.tree, zone(n), 2).expect("prepared");
                }
            }
            _ => {}
        }
    }

    fn totals(&self) -> (i64, i64) {
        let mapped = self.model.values().filter(|cell| cell.is_some()).count() as i64;
        (mapped, self.model.len() as i64 - mapped)
    }

    fn check(&self) {
        let mut seen: BTreeMap<(u64, u64), Cell> = BTreeMap::new();
        let mut counts = Counts::default();
        for ino in 1..=FILES {
            let (extents, next) =
                extent_parts(&self.tree, Ino(ino), FileBlock(0), FileBlock(MAX_FILE_BLOCKS), usize::MAX).expect("resident");
            assert_eq!(next, None);
            for pair in extents.windows(2) {
                assert!(pair[0].end() <= pair[1].block && Extents::join(&pair[0], &pair[1]).is_none(), "apart and not joinable: {pair:?}");
            }
            for extent in extents {
                count(&extent, 1, &mut counts, &mut Change::default());
                expect(&extent, 1, &mut counts);
                let sums = match extent.is_unwritten() {
                    true => Vec::new(),
                    false => checksums(&self.tree, Ino(ino), extent.block, extent.blocks).expect("present"),
                };
                for n in 0..extent.blocks {
                    let cell = (!extent.is_unwritten()).then(|| (extent.addr.plus(n), sums[n as usize]));
                    seen.insert((ino, extent.block.0 + u64::from(n)), cell);
                }
            }
        }
        assert!(seen == self.model, "extents and checksums are those of the model");
        assert_eq!(counts, self.counts, "I4");
        for key in self.tree.items.keys().filter(|key| key.class == Class::Checksum) {
            let first = key.b * CHECKSUM_GROUP;
            let used = has_extent(&self.tree, Ino(key.a), first, first + CHECKSUM_GROUP).expect("resident");
            assert!(used, "no group of checksums without an extent");
        }
        let mut live: Vec<(Addr, u64, u64)> = Vec::new();
        for n in 0..=self.zone {
            let mut next = Some(0);
            while let Some(at) = next {
                let found = live_runs(&self.tree, zone(n), at, 7).expect("resident");
                next = found.next;
                for part in found.parts {
                    (0..part.blocks).for_each(|n| live.push((part.addr.plus(n), part.ino.0, part.block.0 + u64::from(n))));
                }
            }
        }
        assert!(live.is_sorted_by(|a, b| a.0 < b.0), "each live block once");
        let mut expected: Vec<_> =
            self.model.iter().filter_map(|((ino, block), cell)| cell.map(|(addr, _)| (addr, *ino, *block))).collect();
        expected.sort();
        assert!(live == expected, "summaries cover exactly what is live");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_table_of_blocks(groups in prop::collection::vec(prop::collection::vec(op(), 1..4), 1..40)) {
        let mut world = World::default();
        for ops in groups {
            world.run(&ops);
            world.check();
        }
    }
}

#[test]
fn hostile_deltas_are_refused() {
    let mut world = World::default();
    for (block, addr, n) in
        [(0, Addr(u64::MAX), 1), (u64::MAX, zone(0), 1), (MAX_FILE_BLOCKS, zone(0), 1), (0, Addr::NONE, 1), (0, zone(0), 0)]
    {
        let delta = Delta::Map { ino: Ino(1), block: FileBlock(block), addr, checksums: vec![0; n], estimate: Estimate::UNKNOWN };
        assert!(matches!(apply(&mut world.tree, &mut world.counts, &delta), Err(Halt::Fail(_))), "{delta:?}");
    }
    let delta = Delta::Remove { key: Key::summary(zone(0)) };
    assert!(matches!(prepare(&world.tree, &delta), Err(Halt::Fail(_))));
    assert!(world.tree.items.is_empty());
}

#[test]
fn a_part_keeps_its_estimate_and_joined_extents_take_that_of_the_longer_one() {
    let mut world = World::default();
    let mut map = |block: u64, at: u32, n: usize, estimate: u8| {
        let delta = Delta::Map {
            ino: Ino(1),
            block: FileBlock(block),
            addr: zone(0).plus(at),
            checksums: vec![0; n],
            estimate: Estimate(estimate),
        };
        apply(&mut world.tree, &mut world.counts, &delta).expect("resident");
        let (extents, _) = extent_parts(&world.tree, Ino(1), FileBlock(0), FileBlock(100), 100).expect("resident");
        extents.iter().map(|extent| (extent.block.0, extent.blocks, extent.estimate.0)).collect::<Vec<_>>()
    };
    assert_eq!(map(0, 0, 4, 7), [(0, 4, 7)]);
    assert_eq!(map(4, 4, 2, 9), [(0, 6, 7)]);
    assert_eq!(map(2, 20, 1, 5), [(0, 2, 7), (2, 1, 5), (3, 3, 7)]);
    assert_eq!(map(6, 6, 8, 3), [(0, 2, 7), (2, 1, 5), (3, 11, 3)]);
    let counted: Vec<(u8, i64)> = world.counts.estimates.iter().map(|(estimate, blocks)| (estimate.0, *blocks)).collect();
    assert_eq!(counted, [(3, 11), (5, 1), (7, 2)]);
}

#[test]
fn a_large_preallocation_is_a_few_extents() {
    let mut world = World::default();
    let delta = Delta::Preallocate { ino: Ino(1), block: FileBlock(5), blocks: u64::MAX };
    let change = apply(&mut world.tree, &mut world.counts, &delta).expect("resident");
    assert_eq!(change.unwritten as u64, MAX_FILE_BLOCKS - 5);
    assert_eq!(world.tree.items.len(), 4);
}
