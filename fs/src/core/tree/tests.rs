//! The tree against a `BTreeMap`.

use super::*;
use crate::core::key::Class;
use crate::core::page::{CAPACITY, MAX_ITEM};
use crate::core::txn::{Behind, Beside};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::ControlFlow;

type Model = BTreeMap<Key, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Put(Key, usize),
    Run(Key, u64, usize),
    Remove(Key),
    RemoveNth(usize),
    RemoveRange(Key, Key, usize),
}

fn keys() -> impl Strategy<Value = Key> {
    let class = prop_oneof![Just(Class::Inode), Just(Class::Extent), Just(Class::Intent)];
    (class, 0..6u64, prop_oneof![0..400u64, Just(u64::MAX)]).prop_map(|(class, a, b)| Key::new(class, a, b))
}
fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..40usize, 2 => 40..300usize, 1 => 300..=MAX_ITEM, 1 => Just(MAX_ITEM)]
}
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (keys(), sizes()).prop_map(|(k, n)| Op::Put(k, n)),
        2 => (keys(), 1..60u64, 0..300usize).prop_map(|(k, n, size)| Op::Run(k, n, size)),
        3 => keys().prop_map(Op::Remove),
        3 => any::<usize>().prop_map(Op::RemoveNth),
        1 => (keys(), keys(), 1..200usize).prop_map(|(a, b, n)| Op::RemoveRange(a, b, n)),
    ];
    proptest::collection::vec(op, 1..250)
}

fn put(tree: &mut Tree, model: &mut Model, key: Key, size: usize, salt: usize) {
    let value: Vec<u8> = (0..size).map(|i| (i * 31 + salt) as u8).collect();
    tree.put(&key, &value).expect("all is resident");
    model.insert(key, value);
}

fn run(tree: &mut Tree, model: &mut Model, op: &Op, salt: usize) {
    match *op {
        Op::Put(key, size) => put(tree, model, key, size, salt),
        Op::Run(start, n, size) => {
            for i in 0..n {
                put(tree, model, Key { b: start.b.saturating_add(i), ..start }, size, salt);
            }
        }
        Op::Remove(key) => assert_eq!(tree.remove(&key).unwrap(), model.remove(&key).is_some()),
        Op::RemoveNth(n) => {
            if let Some(key) = model.keys().nth(n % model.len().max(1)).copied() {
                model.remove(&key);
                assert!(tree.remove(&key).unwrap());
            }
        }
        Op::RemoveRange(a, b, n) => {
            let (a, b) = (a.min(b), a.max(b));
            let doomed: Vec<Key> = model.range(a..b).map(|(k, _)| *k).take(n).collect();
            doomed.iter().for_each(|k| drop(model.remove(k)));
            assert_eq!(tree.remove_range(&a, &b, n).unwrap(), doomed.len());
        }
    }
}

fn compare(tree: &Tree, model: &Model) {
    let stats = tree.self_check().unwrap();
    assert_eq!(stats.items, model.len() as u64);
    let mut all = Vec::new();
    let end = Key::new(Class::Intent, u64::MAX, u64::MAX);
    let done = tree.scan(&Key::MIN, &end, |key, value| {
        all.push((key, value.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!(done, Ok(ControlFlow::Continue(())));
    assert!(all.iter().map(|(k, v)| (k, v)).eq(model.iter()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn tree_equals_map(ops in ops(), probes in proptest::collection::vec(keys(), 20)) {
        let mut tree = Tree::create(3);
        let mut model = Model::new();
        for (i, op) in ops.iter().enumerate() {
            run(&mut tree, &mut model, op, i);
            // Searches between changes: what they remember must not outlive what it is about.
            for key in probes.iter().cycle().skip(i).take(3) {
                prop_assert_eq!(tree.get(key).unwrap(), model.get(key).map(|v| &v[..]));
                prop_assert_eq!(tree.last_before(key).unwrap().map(|(k, _)| k), model.range(..key).next_back().map(|(k, _)| *k));
                tree.touch(key).unwrap();
            }
            if i % 16 == 0 {
                tree.self_check().unwrap();
            }
        }
        compare(&tree, &model);
        for key in probes.clone() {
            prop_assert_eq!(tree.get(&key).unwrap(), model.get(&key).map(|v| &v[..]));
            let next = model.range(key..).next().map(|(k, v)| (*k, &v[..]));
            prop_assert_eq!(tree.first_at_or_after(&key).unwrap(), next);
            let before = model.range(..key).next_back().map(|(k, v)| (*k, &v[..]));
            prop_assert_eq!(tree.last_before(&key).unwrap(), before);
        }
        for key in probes {
            if let Some(Beside { before, at, behind }) = tree.beside(&key).unwrap() {
                prop_assert_eq!(at, model.get(&key).map(|v| &v[..]));
                prop_assert_eq!(Some(before), model.range(..key).next_back().map(|(k, v)| (*k, &v[..])));
                let next = model.range((Excluded(key), Unbounded)).next().map(|(k, v)| (*k, &v[..]));
                match behind {
                    Behind::Item(next_key, value) => prop_assert_eq!(next, Some((next_key, value))),
                    Behind::NothingBefore(bound) => prop_assert!(bound > key && next.is_none_or(|(next, _)| next >= bound)),
                    Behind::Nothing => prop_assert_eq!(next, None),
                }
            }
        }
        for key in model.keys() {
            prop_assert!(tree.remove(key).unwrap());
        }
        let stats = tree.self_check().unwrap();
        prop_assert_eq!((stats.nodes, stats.items, stats.height), (1, 0, 1));
    }
}

fn fill(tree: &Tree) -> f64 {
    let stats = tree.self_check().unwrap();
    stats.leaf_bytes as f64 / (stats.leaves as f64 * CAPACITY as f64)
}

#[test]
fn rising_keys_fill_leaves() {
    let mut tree = Tree::create(0);
    for i in 0..50_000 {
        tree.put(&Key::new(Class::Inode, i, 0), &[7; 96]).unwrap();
    }
    assert!(fill(&tree) > 0.95, "{}", fill(&tree));
    assert!(tree.self_check().unwrap().height <= 3);
}

#[test]
fn runs_in_the_middle_fill_leaves_too() {
    // Two files grow in turn, inodes and summaries beside them: four runs at once, each followed by other classes.
    let mut tree = Tree::create(0);
    for i in 0..20_000 {
        tree.put(&Key::new(Class::Inode, i, 0), &[1; 96]).unwrap();
        tree.put(&Key::new(Class::Extent, 7, i), &[2; 24]).unwrap();
        tree.put(&Key::new(Class::Extent, 9, i), &[3; 24]).unwrap();
        tree.put(&Key::new(Class::Summary, 1 << 30 | i, 0), &[4; 24]).unwrap();
    }
    assert!(fill(&tree) > 0.95, "{}", fill(&tree));
}

#[test]
fn scattered_keys_stay_balanced() {
    // Truly scattered: evenly spread keys would make all leaves split at the same time.
    let scatter = |i: u64| {
        let n = (i ^ i >> 7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (n ^ n >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    let mut tree = Tree::create(0);
    for i in 0..50_000u64 {
        tree.put(&Key::new(Class::Dirent, 1, scatter(i)), &[5; 30]).unwrap();
    }
    assert!(fill(&tree) > 0.6, "{}", fill(&tree));
    assert!(tree.self_check().unwrap().height <= 4);
}

#[test]
fn a_value_that_grows_in_place_splits_when_it_must() {
    let mut tree = Tree::create(0);
    for round in [0, 10, 400, 1200, 3, 1200] {
        for i in 0..40 {
            tree.put(&Key::new(Class::Checksum, 1, i), &vec![round as u8; round]).unwrap();
        }
        tree.self_check().unwrap();
        for i in 0..40 {
            assert_eq!(tree.get(&Key::new(Class::Checksum, 1, i)).unwrap(), Some(&vec![round as u8; round][..]));
        }
    }
}

#[test]
fn removing_a_range_frees_its_nodes() {
    let mut tree = Tree::create(0);
    for i in 0..30_000 {
        tree.put(&Key::new(Class::Extent, i / 10_000, i % 10_000), &[2; 24]).unwrap();
    }
    let (from, to) = (Key::new(Class::Extent, 1, 0), Key::new(Class::Extent, 2, 0));
    let before = tree.self_check().unwrap();
    let mut removed = 0;
    loop {
        match tree.remove_range(&from, &to, 777).unwrap() {
            0 => break,
            n => removed += n,
        }
    }
    assert_eq!(removed, 10_000);
    let after = tree.self_check().unwrap();
    assert!(after.nodes <= before.nodes * 2 / 3 + 5, "{before:?} {after:?}");
}

#[test]
fn a_leaf_that_two_entries_name_takes_the_keys_of_one_only() {
    let mut tree = Tree::create(0);
    for i in 0..20 {
        tree.put(&Key::new(Class::Extent, 1, i), &[1; 1000]).unwrap();
        tree.put(&Key::new(Class::Summary, 1, i), &[2; 1000]).unwrap();
    }
    let root_id = tree.store.tree_root();
    let root = tree.store.get(root_id).unwrap();
    assert_eq!(root.level(), 1);
    let slot = (1..root.count()).find(|i| root.key(*i) >= SortKey::from(&Key::new(Class::Summary, 0, 0))).unwrap();
    // In the range of the entry before it, and in its own.
    let before = Key::new(Class::Extent, 1, u64::MAX);
    assert_eq!(root.route(SortKey::from(&before)), slot - 1);
    let own = (0..20).map(|i| Key::new(Class::Summary, 1, i)).find(|key| root.route(SortKey::from(key)) == slot).unwrap();
    let double = root.child(slot);
    let leaf = tree.store.get_mut(double).unwrap();
    leaf.remove_run(0, leaf.count());
    tree.store.get_mut(root_id).unwrap().set_child(slot - 1, double);
    // An empty leaf suits both entries: the ways to it are remembered.
    assert!(!tree.remove(&before).unwrap() && !tree.remove(&own).unwrap());
    tree.put(&before, &[3; 10]).unwrap();
    assert!(tree.put(&own, &[4; 10]).is_err(), "the leaf has keys of two ranges");
}
