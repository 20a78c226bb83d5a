//! Random operations on names and attributes, against the model: results, errors, and after each operation the whole tree.

use super::memory::Shell;
use super::model::{Model, Node, Seen};
use super::name_of;
use crate::core::key::Class;
use crate::core::ops::*;
use crate::core::{Planned, Txn};
use crate::error::FsError;
use crate::format::item::Inode;
use crate::ids::Ino;
use crate::volume::{Caller, RenameFlags, SetAttr};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    Mknod(String, String, u32),
    Mkdir(String, String, u32),
    Symlink(String, String, usize),
    Link(String, String, String),
    Unlink(String, String),
    Rmdir(String, String),
    Rename(String, String, String, String, RenameFlags),
    Chmod(String, u32),
    Chown(String, Option<u32>, Option<u32>),
    Truncate(String, u64),
    Free,
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn dir() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["/a", "/b"]), 0..3).prop_map(|parts| parts.concat())
}

fn path() -> impl Strategy<Value = String> {
    (dir(), name()).prop_map(|(dir, name)| format!("{dir}/{name}"))
}

fn flags() -> impl Strategy<Value = RenameFlags> {
    (prop::bool::weighted(0.2), prop::bool::weighted(0.3), prop::bool::weighted(0.2))
        .prop_map(|(no_replace, exchange, whiteout)| RenameFlags { no_replace, exchange, whiteout })
}

fn op() -> impl Strategy<Value = Op> {
    let kinds = prop::sample::select(vec![
        0,
        libc::S_IFREG,
        libc::S_IFIFO,
        libc::S_IFSOCK,
        libc::S_IFCHR,
        libc::S_IFBLK,
        libc::S_IFDIR,
        libc::S_IFLNK,
    ]);
    let modes = prop::sample::select(vec![0o644, 0o4755, 0o2755, 0o6711, 0o2644]);
    let id = || prop::option::of(0..3u32);
    prop_oneof![
        4 => (dir(), name(), kinds, modes.clone()).prop_map(|(d, n, k, m)| Op::Mknod(d, n, k | m)),
        6 => (dir(), name(), modes.clone()).prop_map(|(d, n, m)| Op::Mkdir(d, n, m)),
        2 => (dir(), name(), prop::sample::select(vec![0usize, 1, 1000, 1001, 4095, 4096])).prop_map(|(d, n, t)| Op::Symlink(d, n, t)),
        3 => (path(), dir(), name()).prop_map(|(p, d, n)| Op::Link(p, d, n)),
        2 => (dir(), name()).prop_map(|(d, n)| Op::Unlink(d, n)),
        2 => (dir(), name()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        8 => (dir(), name(), dir(), name(), flags()).prop_map(|(d, n, e, m, f)| Op::Rename(d, n, e, m, f)),
        1 => (path(), modes).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(), id(), id()).prop_map(|(p, u, g)| Op::Chown(p, u, g)),
        2 => (path(), prop::sample::select(vec![0u64, 5, 4096, 10_000, 16 << 40, (16 << 40) + 1])).prop_map(|(p, s)| Op::Truncate(p, s)),
        1 => Just(Op::Free),
    ]
}

fn resolve(shell: &mut Shell, path: &str) -> Result<Ino, FsError> {
    let mut here = Ino::ROOT;
    for part in path.split('/').skip(1) {
        here = shell.run(|txn| lookup(txn, here, part.as_bytes()))?.ino;
        shell.clock -= 1;
    }
    Ok(here)
}

fn node_of(inode: &Inode, target: Vec<u8>) -> Node {
    Node {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        size: inode.size,
        target,
        mtime: inode.mtime,
        ctime: inode.ctime,
    }
}

fn walk(shell: &mut Shell, path: String, inode: Inode, out: &mut BTreeMap<String, Seen>) {
    if inode.is_dir() {
        let entries = shell.run(|txn| readdir(txn, inode.ino, 0, 1000)).expect("a listing");
        assert_eq!(
            (&entries[0].name[..], entries[0].ino, &entries[1].name[..], entries[1].ino),
            (&b"."[..], inode.ino, &b".."[..], inode.parent)
        );
        for entry in &entries[2..] {
            let child = shell.run(|txn| lookup(txn, inode.ino, &entry.name)).expect("an entry");
            assert_eq!((child.ino, child.mode >> 12), (entry.ino, u32::from(entry.kind)));
            walk(shell, format!("{path}/{}", String::from_utf8_lossy(&entry.name)), child, out);
        }
    }
    let target = if inode.kind() == libc::S_IFLNK { shell.run(|txn| readlink(txn, inode.ino)).expect("a target") } else { Vec::new() };
    out.insert(path, Seen { node: node_of(&inode, target), nlink: inode.nlink });
}

struct Pair {
    shell: Shell,
    model: Model,
    caller: Caller,
}

impl Pair {
    fn new(uid: u32) -> Self {
        let shell = Shell::default();
        let root = shell.memory.inode(Ino::ROOT).expect("root");
        Self { shell, model: Model::new(node_of(&root, Vec::new())), caller: Caller { uid, gid: 7, pid: 1, umask: 0 } }
    }

    fn on<R: std::fmt::Debug>(&mut self, path: &str, op: impl Fn(&mut Txn, Ino) -> Planned<R>) -> Result<R, FsError> {
        let ino = resolve(&mut self.shell, path)?;
        self.shell.run(|txn| op(txn, ino))
    }

    fn step(&mut self, op: &Op) {
        let caller = self.caller;
        let free_before = self.shell.memory.keys(Class::Intent);
        let clock = self.shell.clock + 1;
        let now = crate::format::item::Timestamp { sec: clock, nsec: 7 };
        let model = &mut self.model;
        let (expected, found) = match op {
            Op::Mknod(d, n, mode) => {
                let kind = mode & libc::S_IFMT;
                let expected = match kind {
                    libc::S_IFDIR => model.paths.contains_key(d).then_some("NotPermitted").map_or(Err("NotFound"), Err),
                    libc::S_IFLNK => model.paths.contains_key(d).then_some("Invalid").map_or(Err("NotFound"), Err),
                    _ => {
                        let rdev = if matches!(kind, libc::S_IFCHR | libc::S_IFBLK) { 0x103 } else { 0 };
                        let mode = if kind == 0 { mode | libc::S_IFREG } else { *mode };
                        model.create(d, n, Node::new(mode, rdev, b"", &caller, now))
                    }
                };
                (expected, self.on(d, |txn, dir| mknod(txn, dir, n.as_bytes(), *mode, 0x103, &caller)).map(drop))
            }
            Op::Mkdir(d, n, mode) => {
                let expected = model.create(d, n, Node::new(libc::S_IFDIR | mode, 0, b"", &caller, now));
                (expected, self.on(d, |txn, dir| mkdir(txn, dir, n.as_bytes(), *mode, &caller)).map(drop))
            }
            Op::Symlink(d, n, len) => {
                let target: Vec<u8> = (0..*len).map(|n| b'a' + (n % 26) as u8).collect();
                let expected = match len {
                    _ if !model.paths.contains_key(d) => Err("NotFound"),
                    0 => Err("NotFound"),
                    4096.. => Err("NameTooLong"),
                    _ => model.create(d, n, Node::new(libc::S_IFLNK | 0o777, 0, &target, &caller, now)),
                };
                (expected, self.on(d, |txn, dir| symlink(txn, dir, n.as_bytes(), &target, &caller)).map(drop))
            }
            Op::Link(p, d, n) => {
                let expected = model.link(p, d, n, now);
                let found = resolve(&mut self.shell, p).and_then(|ino| self.on(d, |txn, dir| link(txn, ino, dir, n.as_bytes())));
                (expected, found.map(drop))
            }
            Op::Unlink(d, n) => {
                let expected = model.remove(d, n, false, now);
                (expected, self.on(d, |txn, dir| unlink(txn, dir, n.as_bytes())).map(drop))
            }
            Op::Rmdir(d, n) => {
                let expected = model.remove(d, n, true, now);
                (expected, self.on(d, |txn, dir| rmdir(txn, dir, n.as_bytes())).map(drop))
            }
            Op::Rename(d, n, e, m, flags) => {
                let expected = model.rename(d, n, e, m, *flags, now);
                let to = resolve(&mut self.shell, e);
                let found = to.and_then(|to| self.on(d, |txn, from| rename(txn, from, n.as_bytes(), to, m.as_bytes(), *flags)));
                (expected, found.map(drop))
            }
            Op::Chmod(p, mode) => {
                let expected = model.change(p, now, |node| node.mode = node.mode & libc::S_IFMT | mode);
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                (expected, self.on(p, |txn, ino| setattr(txn, ino, &set)).map(drop))
            }
            Op::Chown(p, uid, gid) => {
                let set = SetAttr { uid: *uid, gid: *gid, ..SetAttr::default() };
                let expected = if set == SetAttr::default() {
                    if model.paths.contains_key(p) { Ok(()) } else { Err("NotFound") }
                } else {
                    model.change(p, now, |node| {
                        (node.uid, node.gid) = (uid.unwrap_or(node.uid), gid.unwrap_or(node.gid));
                        if node.mode & libc::S_IFMT != libc::S_IFDIR {
                            node.mode &= if node.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
                        }
                    })
                };
                (expected, self.on(p, |txn, ino| setattr(txn, ino, &set)).map(drop))
            }
            Op::Truncate(p, size) => {
                let expected = model.truncate(p, *size, caller.uid == 0, now);
                let set = SetAttr { size: Some(*size), kill_suid: caller.uid != 0, ..SetAttr::default() };
                (expected, self.on(p, |txn, ino| setattr(txn, ino, &set)).map(drop))
            }
            Op::Free => {
                for key in free_before {
                    while self.shell.run(|txn| free_step(txn, Ino(key.a), 4)).expect("a step") == Step::More {}
                }
                assert!(self.shell.memory.keys(Class::Intent).is_empty());
                (Ok(()), Ok(()))
            }
        };
        self.shell.check_cost(match op {
            Op::Mknod(..) | Op::Mkdir(..) => Cost::CREATE,
            Op::Symlink(..) => Cost::SYMLINK,
            Op::Link(..) => Cost::LINK,
            Op::Unlink(..) | Op::Rmdir(..) => Cost::UNLINK,
            Op::Rename(..) => Cost::RENAME,
            Op::Chmod(..) | Op::Chown(..) => Cost::SETATTR,
            Op::Truncate(..) => Cost::SET_SIZE,
            Op::Free => Cost::STEP,
        });
        let found = found.map_err(|error| name_of(&error));
        // A path through something that is not a directory: the model knows only that nothing is there.
        let same = match (&expected, &found) {
            (Err("NotFound"), Err(error)) => error == "NotFound" || error == "NotADirectory",
            (expected, found) => expected.as_ref().err().map(|e| (*e).to_owned()) == found.as_ref().err().cloned(),
        };
        assert!(same, "{op:?}: expected {expected:?}, found {found:?}");
        self.shell.clock = clock;
        let root = self.shell.memory.inode(Ino::ROOT).expect("root");
        let mut seen = BTreeMap::new();
        walk(&mut self.shell, String::new(), root, &mut seen);
        assert_eq!(seen, self.model.seen(), "after {op:?}");
        self.shell.self_check();
        self.shell.clock = clock;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn names_and_attributes_are_as_in_the_model(uid in 0..2u32, ops in prop::collection::vec(op(), 1..80)) {
        let mut pair = Pair::new(uid);
        for op in &ops {
            pair.step(op);
        }
        pair.step(&Op::Free);
        let used = pair.model.paths.values().collect::<std::collections::BTreeSet<_>>().len();
        prop_assert_eq!(pair.shell.memory.keys(Class::Inode).len(), used, "everything without a name has been freed");
    }
}
