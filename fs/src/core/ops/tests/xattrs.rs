//! Extended attributes against a map.

use super::memory::Shell;
use super::name_of;
use crate::core::key::Class;
use crate::core::ops::xattr::{MAX_LIST, MAX_VALUE};
use crate::core::ops::*;
use crate::error::FsError;
use crate::ids::Ino;
use crate::volume::Caller;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    Set(Vec<u8>, usize, i32),
    Get(Vec<u8>),
    Remove(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let names = ["user.a", "user.b", "trusted.c", "security.capability"].map(|name| name.as_bytes().to_vec());
    let long = [b"user.".to_vec(), vec![b'x'; 250]].concat();
    prop::sample::select([names.to_vec(), vec![long]].concat())
}

fn op() -> impl Strategy<Value = Op> {
    let sizes = prop::sample::select(vec![0usize, 1, 700, 980, 990, 1000, 1001, 2500, 65_535, 65_536, 65_537]);
    prop_oneof![
        3 => (name(), sizes, 0..4i32).prop_map(|(name, size, flags)| Op::Set(name, size, flags)),
        2 => name().prop_map(Op::Get),
        1 => name().prop_map(Op::Remove),
    ]
}

proptest! {
    #[test]
    fn attributes_are_as_in_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let mut shell = Shell::default();
        let ino = shell.run(|txn| mknod(txn, Ino::ROOT, b"f", 0o644, 0, &Caller::default())).expect("a file").ino;
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (n, op) in ops.into_iter().enumerate() {
            let before = shell.memory.inode(ino).expect("there").ctime;
            let (changed, expected, found) = match op {
                Op::Set(name, size, flags) => {
                    let value = vec![n as u8; size];
                    let expected = match model.contains_key(&name) {
                        _ if size > MAX_VALUE => Err("TooBig"),
                        true if flags & libc::XATTR_CREATE != 0 => Err("Exists"),
                        false if flags & libc::XATTR_REPLACE != 0 => Err("NoAttribute"),
                        _ => Ok(Vec::new()),
                    };
                    if expected.is_ok() {
                        model.insert(name.clone(), value.clone());
                    }
                    (true, expected, shell.run(|txn| setxattr(txn, ino, &name, &value, flags)).map(|()| Vec::new()))
                }
                Op::Get(name) => (false, model.get(&name).cloned().ok_or("NoAttribute"), shell.run(|txn| getxattr(txn, ino, &name))),
                Op::Remove(name) => {
                    let expected = model.remove(&name).map(|_| Vec::new()).ok_or("NoAttribute");
                    (true, expected, shell.run(|txn| removexattr(txn, ino, &name)).map(|()| Vec::new()))
                }
            };
            prop_assert!(shell.spent.log_bytes <= Cost::XATTR.log_bytes, "{:?}", shell.spent);
            let now = if changed && expected.is_ok() { shell.now() } else { before };
            prop_assert_eq!(shell.memory.inode(ino).expect("there").ctime, now);
            prop_assert_eq!(found.map_err(|error| name_of(&error)), expected.map_err(str::to_owned));
            let list = shell.run(|txn| listxattr(txn, ino)).expect("a list");
            let mut names: Vec<_> = list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
            names.sort();
            prop_assert_eq!(names, model.keys().map(Vec::as_slice).collect::<Vec<_>>());
            let pieces: usize = model.iter().filter(|(name, value)| 6 + name.len() + value.len() > 1000).map(|(_, value)| value.len().div_ceil(1000)).sum();
            prop_assert_eq!(shell.memory.keys(Class::XattrValue).len(), pieces);
        }
        let unlinked = shell.run(|txn| unlink(txn, Ino::ROOT, b"f")).expect("there");
        prop_assert!(unlinked.orphaned);
        while shell.run(|txn| free_step(txn, ino, 8)).expect("a step") == Step::More {}
        let left = [Class::Xattr, Class::XattrValue, Class::Intent].map(|class| shell.memory.keys(class).len());
        prop_assert_eq!(left, [0; 3]);
    }
}

#[test]
fn names_of_attributes() {
    let mut shell = Shell::default();
    let too_long = [b"user.".to_vec(), vec![b'x'; 251]].concat();
    let table: [(&[u8], &str); 7] = [
        (b"", "Range"),
        (&too_long, "Range"),
        (b"user.", "Invalid"),
        (b"user.a\0b", "Invalid"),
        (b"system.other", "Unsupported"),
        (b"os2.x", "Unsupported"),
        (b"userx", "Unsupported"),
    ];
    for (name, expected) in table {
        assert_eq!(name_of(&shell.run(|txn| setxattr(txn, Ino::ROOT, name, b"", 0)).expect_err("refused")), expected);
        assert_eq!(name_of(&shell.run(|txn| getxattr(txn, Ino::ROOT, name)).expect_err("refused")), expected);
        assert_eq!(name_of(&shell.run(|txn| removexattr(txn, Ino::ROOT, name)).expect_err("refused")), expected);
    }
    assert_eq!(name_of(&shell.run(|txn| setxattr(txn, Ino::ROOT, b"user.a", b"", 4)).expect_err("refused")), "Invalid");
    assert_eq!(name_of(&shell.run(|txn| getxattr(txn, Ino(99), b"user.a")).expect_err("refused")), "NotFound");
}

#[test]
fn all_names_together_have_a_limit() {
    let mut shell = Shell::default();
    let name = |n: usize| format!("user.{n:0250}").into_bytes();
    for n in 0..MAX_LIST / 256 {
        shell.run(|txn| setxattr(txn, Ino::ROOT, &name(n), b"v", 0)).expect("fits");
    }
    assert_eq!(name_of(&shell.run(|txn| setxattr(txn, Ino::ROOT, b"user.more", b"", 0)).expect_err("full")), "NoSpace");
    shell.run(|txn| setxattr(txn, Ino::ROOT, &name(3), b"new", 0)).expect("an old name");
    let list = shell.run(|txn| listxattr(txn, Ino::ROOT)).expect("a list");
    assert_eq!(list.len(), MAX_LIST);
    assert_eq!(list, shell.run(|txn| listxattr(txn, Ino::ROOT)).expect("the same list"));
    shell.run(|txn| removexattr(txn, Ino::ROOT, &name(3))).expect("there");
    shell.run(|txn| setxattr(txn, Ino::ROOT, b"user.more", b"", 0)).expect("fits now");
}

fn told<T>(result: Result<T, FsError>) -> Result<T, String> {
    result.map_err(|error| name_of(&error))
}

#[test]
fn a_write_hint_is_an_attribute_that_new_files_inherit() {
    let mut shell = Shell::default();
    let hint = b"user.ferryfs.write_hint";
    let dir = shell.run(|txn| mkdir(txn, Ino::ROOT, b"d", 0o755, &Caller::default())).expect("a directory").ino;
    assert_eq!(told(shell.run(|txn| getxattr(txn, dir, hint))), Err("NoAttribute".into()));
    assert_eq!(told(shell.run(|txn| setxattr(txn, dir, hint, b"short", libc::XATTR_REPLACE))), Err("NoAttribute".into()));
    assert_eq!(told(shell.run(|txn| setxattr(txn, dir, hint, b"brief", 0))), Err("Invalid".into()));
    assert_eq!(told(shell.run(|txn| setxattr(txn, dir, hint, b"short\n", libc::XATTR_CREATE))), Ok(()));
    assert_eq!(told(shell.run(|txn| setxattr(txn, dir, hint, b"long", libc::XATTR_CREATE))), Err("Exists".into()));
    let file = shell.run(|txn| mknod(txn, dir, b"f", libc::S_IFREG | 0o644, 0, &Caller::default())).expect("a file").ino;
    let deep = shell.run(|txn| mkdir(txn, dir, b"e", 0o755, &Caller::default())).expect("a directory").ino;
    let fifo = shell.run(|txn| mknod(txn, dir, b"p", libc::S_IFIFO | 0o644, 0, &Caller::default())).expect("a fifo").ino;
    assert_eq!(told(shell.run(|txn| setxattr(txn, fifo, hint, b"short", 0))), Err("Invalid".into()));
    for (ino, expected) in [(dir, Some("short")), (file, Some("short")), (deep, Some("short")), (fifo, None), (Ino::ROOT, None)] {
        let found = shell.run(|txn| getxattr(txn, ino, hint)).ok();
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{ino:?}");
        let listed = shell.run(|txn| listxattr(txn, ino)).expect("a list");
        assert_eq!(listed.split(|byte| *byte == 0).any(|name| name == hint), expected.is_some(), "{ino:?}");
    }
    // Flags that chattr(1) sets, and other attributes, leave it alone.
    shell.run(|txn| set_flags(txn, file, flags::NODUMP)).expect("set");
    shell.run(|txn| setxattr(txn, file, b"user.other", b"1", 0)).expect("set");
    assert_eq!(shell.run(|txn| listxattr(txn, file)).expect("a list"), b"user.other\0user.ferryfs.write_hint\0");
    for word in ["medium", "long", "extreme"] {
        shell.run(|txn| setxattr(txn, file, hint, word.as_bytes(), libc::XATTR_REPLACE)).expect("set");
        assert_eq!(shell.run(|txn| getxattr(txn, file, hint)).expect("there"), word.as_bytes());
    }
    shell.run(|txn| removexattr(txn, file, hint)).expect("removed");
    assert_eq!(told(shell.run(|txn| removexattr(txn, file, hint))), Err("NoAttribute".into()));
    assert_eq!(shell.run(|txn| listxattr(txn, file)).expect("a list"), b"user.other\0");
    shell.run(|txn| set_flags(txn, dir, flags::IMMUTABLE)).expect("set");
    assert_eq!(told(shell.run(|txn| setxattr(txn, dir, hint, b"long", 0))), Err("NotPermitted".into()));
}
