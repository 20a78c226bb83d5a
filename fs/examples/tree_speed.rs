//! How fast the metadata tree is in memory: a million changes and lookups of each kind, and a checkpoint cut of all of it.
//!
//! `cargo run --release -p fs --example tree_speed [items]`

use fs::core::nodes::CutSpace;
use fs::core::{BlockId, Class, Key, Tree};
use fs::{Addr, NodeId};
use std::ops::ControlFlow;
use std::time::Instant;

/// Hands out addresses and forgets them.
struct Endless(u64);

impl CutSpace for Endless {
    fn place(&mut self, _: BlockId) -> Addr {
        self.0 += 1;
        Addr(self.0)
    }
    fn release(&mut self, _: Addr) {}
    fn dirty_raw(&mut self) -> Vec<NodeId> {
        Vec::new()
    }
    fn raw(&mut self, _: NodeId) -> Box<[u8; 4096]> {
        Box::new([0; 4096])
    }
}

fn timed<T>(what: &str, items: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let time = start.elapsed();
    println!("{what:32} {:8.1} ns each, {:7.1} ms in all", time.as_nanos() as f64 / items as f64, time.as_secs_f64() * 1e3);
    result
}

fn scattered(i: u64) -> Key {
    Key::new(Class::Dirent, 1, i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn main() {
    const RESIDENT: &str = "nothing was evicted";
    let items: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let mut tree = Tree::create(16);
    timed("put, rising keys, 96 bytes", items, || {
        (0..items).for_each(|i| tree.put(&Key::new(Class::Inode, i, 0), &[7; 96]).expect(RESIDENT));
    });
    timed("put, scattered keys, 30 bytes", items, || {
        (0..items).for_each(|i| tree.put(&scattered(i), &[7; 30]).expect(RESIDENT));
    });
    timed("put, four growing files", items, || {
        (0..items).for_each(|i| tree.put(&Key::new(Class::Extent, i % 4, i / 4), &[7; 24]).expect(RESIDENT));
    });
    timed("put, replacing", items, || {
        (0..items).for_each(|i| tree.put(&scattered(i), &[8; 30]).expect(RESIDENT));
    });
    let found = timed("get, scattered keys", items, || (0..items).filter(|i| tree.get(&scattered(*i)).expect(RESIDENT).is_some()).count());
    let mut seen = 0u64;
    let end = Key::new(Class::Intent, 0, 0);
    let all = timed("scan", 3 * items, || {
        tree.scan(&Key::MIN, &end, |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
        .expect(RESIDENT)
    });
    assert!(all.is_continue());
    assert_eq!((found as u64, seen), (items, 3 * items));
    println!("{:?}", tree.self_check().expect("sound"));
    println!("checkpoint bound {}", tree.store().checkpoint_bound());
    let blocks = tree.store().dirty_blocks();
    let cut = timed("cut, per block", blocks, || tree.store_mut().cut(&mut Endless(0)).expect(RESIDENT));
    println!("{} writes", cut.writes.len());
    drop(cut);
    tree.store_mut().cut_done(true);
    timed("remove, scattered keys", items, || {
        (0..items).for_each(|i| assert!(tree.remove(&scattered(i)).expect(RESIDENT)));
    });
    println!("{:?}", tree.self_check().expect("sound"));
}
