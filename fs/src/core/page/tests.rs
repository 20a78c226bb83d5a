//! Pages against a sorted map, and hostile pages.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Keys in the order of `n`, of every length there is.
fn small_key(n: u64) -> SortKey {
    let a = match n >> 4 {
        0 => 0,
        n => n << (n * 9).min(50),
    };
    (&Key::new(Class::Extent, a, (n & 15) << ((n & 15) * 4))).into()
}

/// Everything that a caller may do with a validated page.
fn exercise(page: &Page) {
    let mut page = page.clone();
    for i in 0..page.count() {
        let _ = (page.key(i).key(), page.value(i).len());
        if page.level() > 0 {
            let _ = page.child(i);
        }
        let _ = page.search(page.key(i));
    }
    let _ = (page.route(small_key(3)), page.used(), page.crc());
    if page.level() == 0 {
        for n in [0, 5, 1000, 7] {
            if let Err(i) = page.search(small_key(n))
                && !page.insert(i, small_key(n), &vec![1; n as usize])
                && !page.is_empty()
            {
                let plan = page.plan_split(i, small_key(n), n as usize, false);
                let mut right = Page::node(NodeId(99), page.level());
                page.split_off(plan.at, &mut right);
                let fits = if plan.left {
                    page.insert(i, small_key(n), &vec![1; n as usize])
                } else {
                    right.insert(i - plan.at, small_key(n), &vec![1; n as usize])
                };
                assert!(fits);
                validate(right.bytes(), NodeId(99)).unwrap();
            }
            validate(page.bytes(), page.id()).unwrap();
        }
        while !page.is_empty() {
            page.remove(page.count() / 2);
            validate(page.bytes(), page.id()).unwrap();
        }
    }
}

#[test]
fn keys_sort_and_return() {
    let keys = [
        Key::MIN,
        Key::new(Class::Inode, 0, 1),
        Key::new(Class::Inode, 1, 0),
        Key::new(Class::Extent, 0x0102_0304, 0x01_0203_0405),
        Key::new(Class::Intent, u64::MAX, u64::MAX),
    ];
    for pair in keys.windows(2) {
        assert!(SortKey::from(&pair[0]) < SortKey::from(&pair[1]));
    }
    for key in keys {
        assert_eq!(SortKey::from(&key).key(), Some(key));
        // Whatever lies around it, at either end of where cells may be.
        let len = SortKey::from(&key).packed_len();
        for (at, around) in [(HEADER, 0xff), (HEADER, 0), (BLOCK - len, 0xff), (BLOCK - len, 0)] {
            let mut page = [around; BLOCK];
            SortKey::from(&key).pack(&mut page[at..at + len]);
            assert_eq!(SortKey::unpack(&page, at), SortKey::from(&key));
        }
        assert!(SortKey::ZERO < SortKey::from(&key));
    }
    assert_eq!(SortKey::ZERO.key(), None);
}

#[test]
fn a_full_leaf_of_the_largest_items_splits() {
    for at in 0..=3 {
        let mut page = Page::node(NodeId(7), 0);
        for n in 0..3u64 {
            let i = page.count();
            assert!(page.insert(i, small_key(2 * n + 1), &[n as u8; MAX_ITEM]));
        }
        let key = small_key(2 * at);
        assert!(!page.insert(at as usize, key, &[9; MAX_ITEM]));
        let plan = page.plan_split(at as usize, key, MAX_ITEM, false);
        let mut right = Page::node(NodeId(8), 0);
        page.split_off(plan.at, &mut right);
        let (target, i) = if plan.left { (&mut page, at as usize) } else { (&mut right, at as usize - plan.at) };
        assert!(target.insert(i, key, &[9; MAX_ITEM]));
        assert!(!page.is_empty() && !right.is_empty());
        validate(page.bytes(), NodeId(7)).unwrap();
        validate(right.bytes(), NodeId(8)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn page_equals_map(ops in proptest::collection::vec((0..60u64, 0..3u8, prop_oneof![3 => 0..60usize, 1 => 0..=MAX_ITEM]), 1..200)) {
        let mut page = Page::node(NodeId(5), 0);
        let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (n, kind, size) in ops {
            let value = vec![n as u8 ^ size as u8; size];
            match (page.search(small_key(n)), kind) {
                (Ok(i), 0) => {
                    page.remove(i);
                    model.remove(&n);
                }
                (Ok(i), _) => {
                    if page.replace(i, &value) {
                        model.insert(n, value);
                    }
                }
                (Err(_), 0) => {}
                (Err(i), _) => {
                    if page.insert(i, small_key(n), &value) {
                        model.insert(n, value);
                    } else {
                        prop_assert!(page.used() + cell(small_key(n), size) > CAPACITY);
                    }
                }
            }
            prop_assert_eq!(validate(page.bytes(), NodeId(5)), Ok(()));
            prop_assert_eq!(page.used(), model.iter().map(|(n, v)| cell(small_key(*n), v.len())).sum::<usize>());
        }
        prop_assert_eq!(page.count(), model.len());
        for (i, (n, value)) in model.iter().enumerate() {
            prop_assert_eq!(page.key(i), small_key(*n));
            prop_assert_eq!(page.value(i), &value[..]);
        }
        for n in 0..60 {
            let place = model.range(..n).count();
            let found = if model.contains_key(&n) { Ok(place) } else { Err(place) };
            prop_assert_eq!(page.search(small_key(n)), found);
            // Wherever it was thought to be.
            for near in (0..=page.count() + 1).chain([usize::MAX]) {
                prop_assert_eq!(page.search_near(near, small_key(n)), found, "{} from {}", n, near);
            }
        }
    }

    #[test]
    fn hostile_pages_are_refused_or_harmless(
        items in proptest::collection::btree_map(0..500u64, 0..120usize, 0..40),
        level in 0..2u8,
        flips in proptest::collection::vec((prop_oneof![0..32usize, 32..120usize, 0..BLOCK], any::<u8>()), 0..6),
    ) {
        let mut page = Page::node(NodeId(5), level);
        for (n, size) in items {
            let i = page.count();
            let size = if level > 0 { 8 } else { size };
            let _ = page.insert(i, small_key(n), &vec![1; size]);
        }
        for (at, byte) in flips {
            page.bytes_mut()[at] = byte;
        }
        if validate(page.bytes(), NodeId(5)).is_ok() {
            exercise(&page);
        }
    }

    #[test]
    fn random_bytes_are_refused(seed in any::<[u8; 32]>(), bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
        let mut page = Page::from_bytes(bytes.try_into().unwrap());
        let fresh = Page::node(NodeId(5), 0);
        page.bytes_mut()[..16].copy_from_slice(&fresh.bytes()[..16]);
        page.bytes_mut()[16] = seed[0];
        page.bytes_mut()[17] = 0;
        page.bytes_mut()[24..32].fill(0);
        if validate(page.bytes(), NodeId(5)).is_ok() {
            exercise(&page);
        }
    }
}
