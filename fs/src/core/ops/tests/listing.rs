//! Listings while the directory changes.

use super::memory::Shell;
use crate::core::ops::*;
use crate::ids::Ino;
use crate::volume::{Caller, RenameFlags};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    Add(u32),
    Remove(u32),
    Rename(u32, u32),
    Exchange(u32, u32),
    List(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..40u32).prop_map(Op::Add),
        (0..40u32).prop_map(Op::Remove),
        (0..40u32, 0..40u32).prop_map(|(a, b)| Op::Rename(a, b)),
        (0..40u32, 0..40u32).prop_map(|(a, b)| Op::Exchange(a, b)),
        (1..6usize).prop_map(Op::List),
        (1..6usize).prop_map(Op::List),
    ]
}

fn name(n: u32) -> Vec<u8> {
    format!("file {n}").into_bytes()
}

proptest! {
    #[test]
    fn what_stays_is_listed_exactly_once(start in prop::collection::btree_set(0..40u32, 0..40), ops in prop::collection::vec(op(), 0..60)) {
        let mut shell = Shell::default();
        let who = Caller::default();
        let dir = shell.run(|txn| mkdir(txn, Ino::ROOT, b"d", 0o755, &who)).expect("a directory").ino;
        for n in &start {
            shell.run(|txn| mknod(txn, dir, &name(*n), 0o644, 0, &who)).expect("a file");
        }
        let mut stays: BTreeSet<Vec<u8>> = start.iter().map(|n| name(*n)).collect();
        let mut listed: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut cookie = 0;
        let mut list = |shell: &mut Shell, max| {
            let entries = shell.run(|txn| readdir(txn, dir, cookie, max)).expect("a listing");
            assert!(entries.len() <= max);
            for entry in &entries {
                assert!(entry.cookie > cookie && i64::try_from(entry.cookie).is_ok());
                cookie = entry.cookie;
                *listed.entry(entry.name.clone()).or_default() += 1;
            }
            !entries.is_empty()
        };
        for op in ops {
            match op {
                Op::Add(n) => drop(shell.run(|txn| mknod(txn, dir, &name(n), 0o644, 0, &who))),
                Op::Remove(n) => {
                    if shell.run(|txn| unlink(txn, dir, &name(n))).is_ok() {
                        stays.remove(&name(n));
                    }
                }
                Op::Rename(a, b) if a != b => {
                    if shell.run(|txn| rename(txn, dir, &name(a), dir, &name(b), RenameFlags::default())).is_ok() {
                        stays.remove(&name(a));
                    }
                }
                Op::Rename(..) => {}
                // Both names stay.
                Op::Exchange(a, b) => drop(shell.run(|txn| rename(txn, dir, &name(a), dir, &name(b), RenameFlags { exchange: true, ..RenameFlags::default() }))),
                Op::List(max) => drop(list(&mut shell, max)),
            }
        }
        while list(&mut shell, 7) {}
        for name in stays {
            prop_assert_eq!(listed.get(&name), Some(&1), "{:?}", String::from_utf8_lossy(&name));
        }
        prop_assert!(listed.values().all(|&n| n == 1), "without collisions nothing is listed twice, whatever happens to it");
        prop_assert_eq!(listed.get(&b".."[..]), Some(&1));
    }
}

#[test]
fn a_cookie_goes_on_behind_an_entry_that_is_gone() {
    let mut shell = Shell::default();
    for n in 0..10 {
        shell.run(|txn| mknod(txn, Ino::ROOT, &name(n), 0o644, 0, &Caller::default())).expect("a file");
    }
    let all = shell.run(|txn| readdir(txn, Ino::ROOT, 0, 100)).expect("a listing");
    assert_eq!(all.len(), 12);
    assert!(all.iter().skip(2).all(|entry| entry.cookie >= 64));
    shell.run(|txn| unlink(txn, Ino::ROOT, &all[5].name)).expect("there");
    let rest = shell.run(|txn| readdir(txn, Ino::ROOT, all[5].cookie, 100)).expect("a listing");
    assert_eq!(rest, all[6..]);
    for cookie in [u64::MAX, u64::MAX - 1, 1 << 63] {
        assert!(shell.run(|txn| readdir(txn, Ino::ROOT, cookie, 100)).expect("a listing").is_empty());
    }
    assert!(shell.run(|txn| readdir(txn, Ino::ROOT, 0, 0)).expect("a listing").is_empty());
}
