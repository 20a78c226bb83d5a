//! Images with valid checksums and nonsense in them (I10): every operation ends, with a result or an error, and nothing panics.

use super::*;
use crate::BLOCK;
use crate::core::key::{Class, Key};
use crate::core::tree::Tree;
use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Places anywhere new and does not mind what is released.
struct Careless(u64);

impl CutSpace for Careless {
    fn place(&mut self, _: BlockId) -> Addr {
        self.0 += 1;
        Addr(self.0)
    }
    fn release(&mut self, _: Addr) {}
    fn dirty_raw(&mut self) -> Vec<NodeId> {
        vec![NodeId(1 + self.0 % 3)]
    }
    fn raw(&mut self, _: NodeId) -> Box<[u8; BLOCK]> {
        Box::new([0; BLOCK])
    }
}

fn key(n: u64) -> Key {
    Key::new(if n.is_multiple_of(3) { Class::Inode } else { Class::Extent }, n / 50, n % 50)
}

/// A small volume of three levels with some free ids: its roots, and its blocks by address.
fn volume() -> (Roots, HashMap<Addr, (BlockId, [u8; BLOCK])>) {
    let mut tree = Tree::create(3);
    for n in 0..1500 {
        tree.put(&key(n), &[n as u8; 1000]).unwrap();
    }
    for n in 200..300 {
        tree.remove(&key(n)).unwrap();
    }
    let cut = tree.store_mut().cut(&mut Careless(0)).unwrap();
    let blocks = cut.writes.iter().map(|w| (w.addr, (w.id, *w.page.bytes()))).collect();
    (cut.roots, blocks)
}

#[derive(Clone, Debug)]
enum Damage {
    /// Another child, possibly a raw page, the node itself, or an id that does not exist.
    Child(usize, usize, u64),
    /// Entry of a node moved elsewhere in the key space.
    Key(usize, usize, u64),
    /// Another level.
    Level(usize, u8),
    /// A map entry that says something else.
    Entry(usize, usize, u64, u8),
    /// Any byte.
    Byte(usize, usize, u8),
    /// Another beginning.
    Roots(u64, u64, u64),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let n = any::<usize>;
    let one = prop_oneof![
        (n(), n(), 0..520u64).prop_map(|(a, b, c)| Damage::Child(a, b, c)),
        (n(), n(), 0..1600u64).prop_map(|(a, b, c)| Damage::Key(a, b, c)),
        (n(), 0..4u8).prop_map(|(a, b)| Damage::Level(a, b)),
        (n(), n(), 0..600u64, 0..3u8).prop_map(|(a, b, c, d)| Damage::Entry(a, b, c, d)),
        (n(), n(), any::<u8>()).prop_map(|(a, b, c)| Damage::Byte(a, b, c)),
        (0..600u64, 0..600u64, 0..600u64).prop_map(|(a, b, c)| Damage::Roots(a, b, c)),
    ];
    proptest::collection::vec(one, 1..5)
}

fn inflict(damage: &Damage, roots: &mut Roots, blocks: &mut HashMap<Addr, (BlockId, [u8; BLOCK])>) {
    let mut find = |pick: usize, wanted: &dyn Fn(BlockId, &Page) -> bool, change: &mut dyn FnMut(&mut Page)| {
        let mut fitting: Vec<Addr> =
            blocks.iter().filter(|(_, (id, bytes))| wanted(*id, &Page::from_bytes(*bytes))).map(|(a, _)| *a).collect();
        fitting.sort_unstable();
        if let Some(addr) = fitting.get(pick % fitting.len().max(1)) {
            let mut page = Page::from_bytes(blocks[addr].1);
            change(&mut page);
            blocks.get_mut(addr).unwrap().1 = *page.bytes();
        }
    };
    let is_node = |id: BlockId, _: &Page| matches!(id, BlockId::Node(id) if id.0 > 3);
    let is_inner = |id: BlockId, page: &Page| is_node(id, page) && page.level() > 0;
    let is_map = |id: BlockId, _: &Page| matches!(id, BlockId::Map { .. });
    match *damage {
        Damage::Child(pick, i, child) => find(pick, &is_inner, &mut |page| page.set_child(i % page.count(), NodeId(child))),
        Damage::Key(pick, i, n) => find(pick, &is_node, &mut |page| {
            let value = page.value(i % page.count()).to_vec();
            page.remove(i % page.count());
            let key = (&key(n)).into();
            let (Ok(at) | Err(at)) = page.search(key);
            let _ = page.insert(at, key, &value);
        }),
        Damage::Level(pick, level) => find(pick, &is_node, &mut |page| page.bytes_mut()[5] = level),
        Damage::Entry(pick, i, n, kind) => find(pick, &is_map, &mut |page| {
            let entry = [Entry::Empty, Entry::At(Addr(n), 0), Entry::Free(NodeId(n))][usize::from(kind)];
            map::set_entry(page, i % 255, entry);
        }),
        Damage::Byte(pick, at, byte) => find(pick, &|_, _| true, &mut |page| page.bytes_mut()[at % BLOCK] = byte),
        Damage::Roots(tree, next, free) => {
            *roots = Roots { tree_root: NodeId(tree), next_id: next, free_head: NodeId(free), ..*roots };
        }
    }
}

struct Reader {
    tree: Tree,
    blocks: HashMap<Addr, (BlockId, [u8; BLOCK])>,
}

impl Reader {
    /// Repeat until it succeeds or a block that it needs is damaged. More rounds than there are blocks would be a loop.
    fn attempt<T>(&mut self, mut f: impl FnMut(&mut Tree) -> std::result::Result<T, BlockId>) -> Option<T> {
        for _ in 0..2000 {
            let want = match f(&mut self.tree) {
                Ok(value) => return Some(value),
                Err(want) => want,
            };
            match self.tree.store().fetch_for(want) {
                Err(_) => return None,
                Ok(None) => continue,
                Ok(Some(fetch)) => {
                    let (_, bytes) = self.blocks.get(&fetch.addr)?;
                    self.tree.store_mut().install(&fetch, bytes).ok()?;
                }
            }
        }
        panic!("an operation goes in circles");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nonsense_is_an_error_and_never_a_panic(
        damages in damages(),
        work in proptest::collection::vec((0..1600u64, 0..7u8, 0..1200usize), 1..150),
    ) {
        let (mut roots, mut blocks) = volume();
        damages.iter().for_each(|damage| inflict(damage, &mut roots, &mut blocks));
        let Ok(tree) = Tree::open(roots, 3) else { return Ok(()) };
        let mut reader = Reader { tree, blocks };
        let end = Key::new(Class::Intent, u64::MAX, u64::MAX);
        for (n, kind, size) in work {
            match kind {
                0 | 1 => drop(reader.attempt(|tree| tree.put(&key(n), &vec![1; size]))),
                2 => drop(reader.attempt(|tree| tree.remove(&key(n)))),
                3 => drop(reader.attempt(|tree| tree.remove_range(&key(n), &end, size))),
                4 => drop(reader.attempt(|tree| tree.last_before(&key(n)).map(|found| found.map(|f| f.0)))),
                5 => drop(reader.attempt(|tree| tree.touch_range(&key(n), &end).map_err(|halt| halt.need))),
                _ if size % 7 == 0 => {
                    if reader.attempt(|tree| tree.store().cut_ready()).is_some() {
                        let cut = reader.tree.store_mut().cut(&mut Careless(100_000 + n * 1000)).unwrap();
                        reader.blocks.extend(cut.writes.iter().map(|w| (w.addr, (w.id, *w.page.bytes()))));
                        reader.tree.store_mut().cut_done(size % 2 == 0);
                        reader.tree.store_mut().shrink(0);
                    }
                }
                _ => drop(reader.attempt(|tree| {
                    tree.scan(&key(n), &end, |_, _| ControlFlow::Continue(())).map_err(|halt| halt.need).map(drop)
                })),
            }
        }
    }
}
