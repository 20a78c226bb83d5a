//! The store on a fake disk: evictions, cuts that succeed and fail, relocation, reopening, against a model of the items.

use super::*;
use crate::BLOCK;
use crate::core::key::{Class, Key};
use crate::core::tree::Tree;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

type Model = BTreeMap<Key, Vec<u8>>;

/// Allocator and owner of raw pages: exact about every address.
#[derive(Clone, Default)]
struct Space {
    next: u64,
    live: HashSet<Addr>,
    raw: BTreeMap<u64, u64>,
    dirty: BTreeSet<u64>,
    placed: Vec<BlockId>,
    sealed: bool,
}

impl Space {
    fn touch_raw(&mut self, addr: Addr) {
        if !self.raw.is_empty() {
            let id = 1 + addr.0 / 16 % self.raw.len() as u64;
            *self.raw.get_mut(&id).unwrap() += 1;
            self.dirty.insert(id);
        }
    }
    fn take(&mut self) -> Addr {
        assert!(!self.sealed, "placing after serialising");
        self.next += 1;
        let addr = Addr(self.next);
        self.live.insert(addr);
        self.touch_raw(addr);
        addr
    }
}

fn raw_bytes(id: u64, count: u64) -> [u8; BLOCK] {
    let mut bytes = [id as u8; BLOCK];
    bytes[..8].copy_from_slice(&count.to_le_bytes());
    bytes
}

impl CutSpace for Space {
    fn place(&mut self, id: BlockId) -> Addr {
        self.placed.push(id);
        self.take()
    }
    fn release(&mut self, old: Addr) {
        assert!(!self.sealed && self.live.remove(&old), "{old:?} released twice or never placed");
        self.touch_raw(old);
    }
    fn dirty_raw(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.dirty).into_iter().map(NodeId).collect()
    }
    fn raw(&mut self, id: NodeId) -> Box<[u8; BLOCK]> {
        self.sealed = true;
        Box::new(raw_bytes(id.0, self.raw[&id.0]))
    }
}

/// What a durable checkpoint holds.
#[derive(Clone)]
struct Durable {
    roots: Roots,
    model: Model,
    space: Space,
}

struct Volume {
    tree: Tree,
    space: Space,
    disk: HashMap<Addr, [u8; BLOCK]>,
    model: Model,
    durable: Option<Durable>,
    pending: Option<(Cut, Durable)>,
    budget: usize,
    last_writes: Vec<(BlockId, Addr)>,
}

impl Volume {
    fn new(raw: u64, budget: usize) -> Self {
        let space = Space { raw: (1..=raw).map(|id| (id, 0)).collect(), ..Space::default() };
        let mut volume = Self {
            tree: Tree::create(raw),
            space,
            disk: HashMap::new(),
            model: Model::new(),
            durable: None,
            pending: None,
            budget,
            last_writes: Vec::new(),
        };
        volume.cut();
        volume.finish(true);
        volume
    }
    fn load(&mut self, want: BlockId) {
        let store = self.tree.store_mut();
        while let Some(fetch) = store.fetch_for(want).unwrap() {
            let bytes = self.disk.get(&fetch.addr).unwrap_or_else(|| panic!("{fetch:?}: nothing there"));
            assert!(self.space.live.contains(&fetch.addr), "{fetch:?} was released");
            assert_eq!(crc32c::crc32c(bytes), fetch.crc, "{fetch:?}");
            store.install(&fetch, bytes).unwrap();
        }
    }
    /// Repeat a read until all it needs is there.
    fn read<T>(&mut self, f: impl Fn(&Tree) -> std::result::Result<T, BlockId>) -> T {
        loop {
            match f(&self.tree) {
                Ok(value) => return value,
                Err(id) => self.load(id),
            }
        }
    }
    fn settle(&mut self) {
        for addr in self.tree.store_mut().take_released() {
            self.space.release(addr);
        }
        let writing = self.pending.as_ref().map_or(0, |(cut, _)| cut.writes.len());
        let store = self.tree.store_mut();
        store.shrink(self.budget);
        let needed = (store.dirty_blocks() as usize + writing + 1 + 2 * cache::GRACE as usize) * NodeStore::bytes_per_block();
        assert!(store.resident_bytes() <= self.budget.max(needed), "{} > {} and {needed}", store.resident_bytes(), self.budget);
        store.self_check().unwrap();
    }
    /// Prepare all keys, then change them: nothing may be missing then.
    fn change(&mut self, changes: &[(Key, Option<Vec<u8>>)]) {
        for (key, _) in changes {
            self.read(|tree| tree.touch(key));
        }
        let before = self.tree.store().checkpoint_bound();
        for (key, value) in changes {
            let allowed = self.tree.store().checkpoint_bound() + self.tree.bound_per_change();
            match value {
                Some(value) => {
                    self.tree.put(key, value).expect("prepared");
                    self.model.insert(*key, value.clone());
                }
                None => assert_eq!(self.tree.remove(key).expect("prepared"), self.model.remove(key).is_some()),
            }
            assert!(self.tree.store().checkpoint_bound() <= allowed);
        }
        assert!(self.tree.store().checkpoint_bound() >= before.min(1));
        self.settle();
    }
    fn cut(&mut self) {
        if self.pending.is_some() {
            return;
        }
        self.read(|tree| tree.store().cut_ready());
        let bound = self.tree.store().checkpoint_bound();
        self.space.placed.clear();
        let cut = self.tree.store_mut().cut(&mut self.space).unwrap();
        self.space.sealed = false;
        assert!(cut.writes.len() as u64 <= bound, "{} > {bound}", cut.writes.len());
        let placed: HashSet<_> = self.space.placed.iter().collect();
        assert!(placed.len() == self.space.placed.len() && placed.len() == cut.writes.len());
        let rank = |w: &Write| match w.id {
            BlockId::Node(_) => 0,
            BlockId::Map { level, .. } => 1 + level,
        };
        assert!(cut.writes.is_sorted_by_key(rank));
        let durable = Durable { roots: cut.roots, model: self.model.clone(), space: self.space.clone() };
        self.pending = Some((cut, durable));
    }
    fn finish(&mut self, success: bool) {
        let Some((cut, durable)) = self.pending.take() else { return };
        for (n, write) in cut.writes.iter().enumerate() {
            assert_eq!(write.page.crc(), write.crc, "the page of a cut changed");
            if success {
                self.disk.insert(write.addr, *write.page.bytes());
            } else if n % 2 == 0 {
                self.disk.insert(write.addr, [0xee; BLOCK]);
            }
        }
        self.tree.store_mut().cut_done(success);
        if success {
            self.last_writes = cut.writes.iter().map(|w| (w.id, w.addr)).collect();
            let (now, then) = (&self.space.live, &durable.space.live);
            self.disk.retain(|addr, _| now.contains(addr) || then.contains(addr));
            self.durable = Some(durable);
        }
        self.settle();
    }
    fn relocate(&mut self, pick: usize) {
        let Some(&(id, from)) = self.last_writes.get(pick % self.last_writes.len().max(1)) else { return };
        if self.read(|tree| tree.store().locate(id)) != Some(from) {
            return;
        }
        let Some(bytes) = self.disk.get(&from).copied() else { return };
        let to = self.space.take();
        self.disk.insert(to, bytes);
        let moved = loop {
            match self.tree.store_mut().relocate(id, from, to) {
                Ok(moved) => break moved,
                Err(id) => self.load(id),
            }
        };
        let dead = if moved { from } else { to };
        self.space.release(dead);
        if pick.is_multiple_of(3) && !matches!(id, BlockId::Node(n) if n.0 <= self.tree.store().raw_pages()) {
            self.load(id);
            self.tree.store_mut().rewrite(id).unwrap();
        }
        self.settle();
    }
    /// Lose everything that is not durable.
    fn crash(&mut self) {
        let durable = self.durable.clone().expect("the first cut succeeded");
        self.tree = Tree::open(durable.roots, self.tree.store().raw_pages()).unwrap();
        self.model = durable.model;
        // Addresses are never reused here, so that stale ones are noticed.
        let next = self.space.next;
        self.space = Space { next, ..durable.space };
        self.pending = None;
        self.last_writes.clear();
    }
    fn compare_items(&mut self) {
        let end = Key::new(Class::Intent, u64::MAX, u64::MAX);
        let (mut from, mut items) = (Key::MIN, Vec::new());
        loop {
            let result = self.tree.scan(&from, &end, |key, value| {
                items.push((key, value.to_vec()));
                ControlFlow::Continue(())
            });
            match result {
                Ok(_) => break,
                Err(halt) => {
                    from = halt.resume;
                    items.retain(|(key, _)| *key < from);
                    self.load(halt.need);
                    self.settle();
                }
            }
        }
        assert!(items.iter().map(|(k, v)| (k, v)).eq(self.model.iter()));
    }
    /// Right after a durable cut and a crash: the map, the free chain and the tree account for every id and every address.
    fn check_durable(&mut self) {
        let roots = self.tree.store().roots();
        let (mut addrs, mut free, mut used) = (HashSet::new(), HashMap::new(), BTreeSet::new());
        let mut todo = vec![(roots.map_root.levels - 1, 0, roots.map_root.addr)];
        while let Some((level, index, addr)) = todo.pop() {
            assert!(addrs.insert(addr));
            let page = Page::from_bytes(self.disk[&addr]);
            map::validate(&page, level, index).unwrap();
            for i in 0..FANOUT as usize {
                let child = index * FANOUT + i as u64;
                match map::entry(&page, i) {
                    Entry::At(addr, _) if level > 0 => todo.push((level - 1, child, addr)),
                    Entry::At(addr, crc) => {
                        assert!(addrs.insert(addr));
                        assert_eq!(crc32c::crc32c(&self.disk[&addr]), crc);
                        if child <= self.tree.store().raw_pages() {
                            assert_eq!(self.disk[&addr], raw_bytes(child, self.space.raw[&child]));
                        } else {
                            used.insert(child);
                        }
                    }
                    Entry::Free(next) => drop(free.insert(child, next.0)),
                    Entry::Empty => {}
                }
            }
        }
        assert_eq!(addrs, self.space.live, "addresses in the map and addresses held");
        let mut head = roots.free_head.0;
        while head != 0 {
            head = free.remove(&head).expect("the chain leads through free ids once each");
        }
        assert!(free.is_empty(), "free ids outside the chain: {free:?}");
        let budget = std::mem::replace(&mut self.budget, usize::MAX);
        self.compare_items();
        self.budget = budget;
        assert_eq!(self.tree.self_check().unwrap().missing, 0);
        let reachable: BTreeSet<u64> = self.tree.reachable().into_iter().map(|id| id.0).collect();
        assert_eq!(used, reachable, "ids in the map and ids in the tree");
        self.settle();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<(u64, usize)>),
    Run(u64, u64, usize),
    Mixed(Vec<(u64, usize)>),
    Clear(u64, u64),
    Get(u64),
    Cut,
    Finish(bool),
    Relocate(usize),
    Crash,
}

fn key(n: u64) -> Key {
    Key::new(if n.is_multiple_of(3) { Class::Inode } else { Class::Extent }, n / 50, n % 50)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let sizes = || prop_oneof![0..200usize, 200..1200usize];
    let op = prop_oneof![
        4 => proptest::collection::vec((0..2000u64, sizes()), 1..8).prop_map(Op::Put),
        2 => (0..2000u64, 1..150u64, sizes()).prop_map(|(n, count, size)| Op::Run(n, count, size)),
        4 => proptest::collection::vec((0..2000u64, sizes()), 1..12).prop_map(Op::Mixed),
        2 => (0..2000u64, 1..400u64).prop_map(|(n, count)| Op::Clear(n, count)),
        3 => (0..2000u64).prop_map(Op::Get),
        2 => Just(Op::Cut),
        2 => any::<bool>().prop_map(Op::Finish),
        1 => Just(Op::Finish(true)),
        2 => any::<usize>().prop_map(Op::Relocate),
        1 => Just(Op::Crash),
    ];
    proptest::collection::vec(op, 1..120)
}

fn run(volume: &mut Volume, op: Op) {
    let value = |n: u64, size: usize| vec![n as u8 ^ size as u8; size];
    match op {
        Op::Put(items) => {
            volume.change(&items.iter().map(|(n, size)| (key(*n), Some(value(*n, *size)))).collect::<Vec<_>>());
        }
        Op::Run(n, count, size) => {
            for n in n..n + count {
                volume.change(&[(key(n), Some(value(n, size)))]);
            }
        }
        Op::Mixed(items) => {
            let change = |(n, size): &(u64, usize)| (key(*n), (size % 3 == 0).then(|| value(*n, *size)));
            volume.change(&items.iter().map(change).collect::<Vec<_>>());
        }
        Op::Clear(n, count) => {
            let (from, to) = (key(n).min(key(n + count)), key(n).max(key(n + count)));
            let mut doomed: Vec<Key> = volume.model.range(from..to).map(|(k, _)| *k).collect();
            while !doomed.is_empty() {
                match volume.tree.remove_range(&from, &to, 37) {
                    Ok(removed) => {
                        assert!(removed > 0);
                        doomed.drain(..removed).for_each(|k| drop(volume.model.remove(&k)));
                    }
                    Err(id) => volume.load(id),
                }
                volume.settle();
            }
        }
        Op::Get(n) => {
            let found = volume.read(|tree| tree.get(&key(n)).map(|v| v.map(<[u8]>::to_vec)));
            assert_eq!(found.as_ref(), volume.model.get(&key(n)));
            let next = volume.read(|tree| tree.first_at_or_after(&key(n)).map(|f| f.map(|(k, _)| k)));
            assert_eq!(next, volume.model.range(key(n)..).next().map(|(k, _)| *k));
            let last = volume.read(|tree| tree.last_before(&key(n)).map(|f| f.map(|(k, _)| k)));
            assert_eq!(last, volume.model.range(..key(n)).next_back().map(|(k, _)| *k));
            volume.settle();
        }
        Op::Cut => volume.cut(),
        Op::Finish(success) => volume.finish(success),
        Op::Relocate(pick) => volume.relocate(pick),
        Op::Crash => {
            volume.crash();
            volume.check_durable();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn store_equals_model(ops in ops(), raw in prop_oneof![Just(0u64), Just(3), Just(255), Just(300)], blocks in prop_oneof![Just(8usize), Just(40), Just(400)]) {
        let mut volume = Volume::new(raw, blocks * NodeStore::bytes_per_block());
        for op in ops {
            run(&mut volume, op);
        }
        volume.compare_items();
        volume.finish(true);
        volume.cut();
        volume.finish(true);
        volume.crash();
        volume.check_durable();
    }
}

#[test]
fn the_map_grows_by_a_level() {
    let mut volume = Volume::new(65_020, 1 << 30);
    assert_eq!(volume.tree.store().roots().map_root.levels, 2);
    for n in 0..200 {
        volume.change(&[(key(n), Some(vec![1; 1000]))]);
        if n % 20 == 0 {
            volume.cut();
            volume.finish(n % 40 == 0);
        }
    }
    assert_eq!(volume.tree.store().roots().map_root.levels, 3);
    volume.cut();
    volume.finish(true);
    volume.crash();
    volume.check_durable();
}

#[test]
fn free_ids_are_used_again_after_a_mount() {
    let mut volume = Volume::new(3, 1 << 30);
    for n in 0..1500 {
        volume.change(&[(key(n), Some(vec![1; 1000]))]);
    }
    let doomed: Vec<_> = (0..1500).map(|n| (key(n), None)).collect();
    volume.change(&doomed);
    volume.cut();
    volume.finish(true);
    volume.crash();
    volume.check_durable();
    let next_id = volume.tree.store().roots().next_id;
    // With the map pages resident, everything that was freed is taken before a new id is.
    (0..=next_id / FANOUT).for_each(|index| volume.load(BlockId::Map { level: 0, index }));
    for n in 0..1500 {
        volume.change(&[(key(n), Some(vec![2; 1000]))]);
        if n % 300 == 0 {
            volume.cut();
            volume.finish(true);
        }
    }
    assert_eq!(volume.tree.store().roots().next_id, next_id);
    volume.cut();
    volume.finish(true);
    volume.crash();
    volume.check_durable();
}

#[test]
fn a_scan_does_not_displace_what_is_used() {
    let mut volume = Volume::new(0, 64 * NodeStore::bytes_per_block());
    for n in 0..4000 {
        volume.change(&[(key(n), Some(vec![1; 500]))]);
        if n % 100 == 0 {
            volume.cut();
            volume.finish(true);
        }
    }
    volume.cut();
    volume.finish(true);
    let hot = [key(1), key(700), key(1401), key(2202)];
    // Wanted again and again beside other things: after the second fetch they are in the clock.
    for round in 0..200 {
        hot.iter().for_each(|k| volume.read(|tree| tree.touch(k)));
        volume.read(|tree| tree.touch(&key(round * 17 % 4000)));
        volume.settle();
    }
    let mut fetched = 0;
    for n in 0..4000 {
        volume.read(|tree| tree.touch(&key(n)));
        volume.settle();
        for k in &hot {
            fetched += usize::from(volume.tree.touch(k).is_err());
            volume.read(|tree| tree.touch(k));
        }
    }
    assert!(fetched <= 8, "{fetched} fetches of hot leaves during a scan");
}
