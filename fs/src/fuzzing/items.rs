//! Items that no FerryFS would write, in a tree that is otherwise sound, and the operations that meet them.

use super::Script;
use crate::addr::Addr;
use crate::core::extents::{self, Relocation, Uncounted};
use crate::core::halt::{Halt, Planned};
use crate::core::ops::{self, Step, dirent};
use crate::core::txn::{Txn, extent_at_or_after};
use crate::core::{Class, Key, Tree};
use crate::error::FsError;
use crate::format::acl::Acl;
use crate::format::item::{Dirent, Extent, Inode, Intent, Summary, Timestamp};
use crate::format::record::Delta;
use crate::format::xattr::{Attribute, Totals};
use crate::ids::{FileBlock, Ino};
use crate::volume::{AtimeMode, Caller, RenameFlags, SetAttr};
use gc::placement::Estimate;

pub(super) const CLASSES: [Class; 9] = [
    Class::Inode,
    Class::Dirent,
    Class::Xattr,
    Class::XattrValue,
    Class::Symlink,
    Class::Intent,
    Class::Extent,
    Class::Checksum,
    Class::Summary,
];
const NAMES: [&[u8]; 6] = [b"a", b"bb", b"user.c", b"system.posix_acl_access", b"system.posix_acl_default", b"trusted.overlay"];
const HASH_KEY: [u8; 16] = *b"key of a fuzzer!";
/// Items put into a tree, and operations on it, for one input.
const MOST: usize = 64;
/// More steps than any work on so few items takes.
const ENDLESS: usize = 100_000;

/// Decodes a value as what its key says, and holds on to what every value is promised to be.
pub(super) fn decode(key: Key, value: &[u8]) {
    match key.class {
        Class::Inode => {
            if let Some(inode) = Inode::decode(Ino(key.a), value) {
                assert!(Inode::decode(Ino(key.a), &inode.encode()) == Some(inode));
            }
        }
        Class::Dirent => {
            if let Some(entry) = Dirent::decode(value) {
                assert!(entry.encode() == value);
            }
        }
        Class::Xattr if key.b == 0 => drop(Totals::decode(value)),
        Class::Xattr => {
            if let Some(attribute) = Attribute::decode(value) {
                assert!(attribute.encode() == value);
            }
        }
        Class::Extent => {
            if let Some(extent) = Extent::decode(FileBlock(key.b), value) {
                assert!(extent.encode() == value);
            }
        }
        Class::Summary => {
            if let Some(summary) = Summary::decode(Addr(key.a), value) {
                assert!(summary.encode() == value);
            }
        }
        Class::Intent => drop(Intent::decode(value)),
        Class::XattrValue | Class::Symlink | Class::Checksum => {}
    }
    if let Some(acl) = Acl::decode(value) {
        assert!(acl.encode() == value);
    }
}

struct Bench {
    tree: Tree,
    next_ino: u64,
}

fn ino(script: &mut Script) -> Ino {
    if script.byte() < 250 { Ino(1 + u64::from(script.byte()) % 6) } else { Ino(script.number()) }
}

fn addr(script: &mut Script) -> Addr {
    match script.byte() % 4 {
        0 => Addr(script.number()),
        1 => Addr::NONE,
        _ => Addr(u64::from(script.byte() % 4) << 28 | u64::from(script.u16())),
    }
}

/// A key of `class` at which the volume would look, mostly.
fn key(script: &mut Script, class: Class) -> Key {
    let a = if class == Class::Summary { addr(script).0 } else { ino(script).0 };
    let b = match (class, script.byte() % 4) {
        (_, 0) => script.number(),
        (Class::Dirent, _) => dirent::first_cookie(&HASH_KEY, script.of(&NAMES)) + u64::from(script.byte() % 4),
        (Class::Xattr, 1) => 0,
        (Class::Xattr, _) => ops::xattr::first_slot(&HASH_KEY, script.of(&NAMES)) + u64::from(script.byte() % 4),
        (Class::XattrValue, _) => ops::xattr::first_slot(&HASH_KEY, script.of(&NAMES)) << 8 | u64::from(script.byte() % 4),
        (Class::Inode | Class::Summary, _) => 0,
        (Class::Intent, _) => u64::from(script.byte() % 2),
        _ => u64::from(script.byte()),
    };
    Key { class, a, b }
}

fn value(script: &mut Script, key: &Key) -> Vec<u8> {
    if script.byte().is_multiple_of(8) {
        let len = usize::from(script.u16()) % 1200;
        return script.bytes(len).to_vec();
    }
    let of_class = script.byte();
    match key.class {
        Class::Inode => inode(script, Ino(key.a)).encode(),
        Class::Dirent => Dirent { ino: ino(script), kind: script.byte(), name: script.of(&NAMES).to_vec() }.encode(),
        Class::Xattr if key.b == 0 => Totals { count: script.number() as u32, names: script.number() as u32 }.encode(),
        Class::Xattr => {
            let (name, inline) = (script.of(&NAMES).to_vec(), of_class.is_multiple_of(2));
            let len = usize::from(script.byte());
            let held = script.bytes(len).to_vec();
            let size = if inline { held.len() as u32 } else { script.number() as u32 };
            Attribute { name, size, inline: inline.then_some(held) }.encode()
        }
        Class::Extent => {
            Extent { block: FileBlock(key.b), blocks: script.number() as u32, addr: addr(script), estimate: Estimate(of_class) }.encode()
        }
        Class::Summary => {
            let (blocks, ino) = (script.number() as u32, ino(script));
            Summary { addr: Addr(key.a), blocks, ino, block: FileBlock(script.number()) }.encode()
        }
        Class::Intent if of_class.is_multiple_of(2) => Intent::Free.encode(),
        Class::Intent => Intent::Cut { from: FileBlock(script.number()) }.encode(),
        Class::Checksum => vec![script.byte(); usize::from(of_class) * 4 % 257],
        Class::Symlink | Class::XattrValue => vec![b'v'; usize::from(script.u16()) % 1200],
    }
}

fn inode(script: &mut Script, ino: Ino) -> Inode {
    const KINDS: [u32; 6] = [libc::S_IFDIR, libc::S_IFREG, libc::S_IFLNK, libc::S_IFDIR, libc::S_IFREG, 0];
    let time = Timestamp { sec: script.byte().into(), nsec: 0 };
    Inode {
        size: script.number(),
        blocks: script.number(),
        parent: self::ino(script),
        entries: script.number(),
        mode: script.of(&KINDS) | u32::from(script.u16()) & 0o7777,
        nlink: if script.byte().is_multiple_of(4) { script.number() as u32 } else { 2 },
        flags: if script.byte().is_multiple_of(4) { script.u32() } else { 0 },
        ..Inode::empty(ino, 0, time)
    }
}

impl Bench {
    fn new(script: &mut Script, classes: &[Class]) -> Self {
        let mut bench = Self { tree: Tree::create(1), next_ino: 100 };
        for _ in 0..usize::from(script.byte()) % MOST {
            let class = script.of(classes);
            let key = key(script, class);
            let value = value(script, &key);
            if value.len() <= crate::core::page::MAX_ITEM {
                decode(key, &value);
                bench.tree.put(&key, &value).expect("all of it is resident");
            }
        }
        bench
    }

    /// Plans, and carries the plan out.
    fn plan<T>(&mut self, plan: impl FnOnce(&mut Txn) -> Planned<T>) -> Option<T> {
        let now = Timestamp { sec: 1000, nsec: 0 };
        let mut txn = Txn::new(&self.tree, now, self.next_ino, HASH_KEY);
        let planned = plan(&mut txn).ok()?;
        let deltas = txn.into_deltas();
        self.next_ino += 1;
        deltas.iter().all(|delta| self.change(delta).is_ok()).then_some(planned)
    }

    fn change(&mut self, delta: &Delta) -> Result<(), Halt> {
        if let Delta::Put { value, .. } = delta {
            assert!(value.len() <= crate::core::page::MAX_ITEM, "an operation writes an item that fits into no page");
        }
        extents::prepare(&self.tree, delta)?;
        extents::apply(&mut self.tree, &mut Uncounted, delta).map(drop)
    }

    fn steps(&mut self, step: impl Fn(&mut Txn) -> Planned<Step>) {
        for _ in 0..ENDLESS {
            if self.plan(&step) != Some(Step::More) {
                return;
            }
        }
        panic!("work in steps has no end");
    }
}

/// Directories, inodes, attributes and links as somebody else may have left them.
pub fn directory(data: &[u8]) {
    let mut script = Script::new(data);
    let mut bench = Bench::new(&mut script, &CLASSES[..7]);
    let caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0o22 };
    for _ in 0..MOST {
        if script.is_empty() {
            break;
        }
        let (one, other) = (ino(&mut script), ino(&mut script));
        let (name, new) = (script.of(&NAMES), script.of(&NAMES));
        match script.byte() % 20 {
            0 => {
                let _ = bench.plan(|txn| ops::lookup(txn, one, name));
            }
            1 => list(&mut bench, one),
            2 => {
                let _ = bench.plan(|txn| ops::mknod(txn, one, name, libc::S_IFREG | 0o644, 0, &caller));
            }
            3 => {
                let _ = bench.plan(|txn| ops::mkdir(txn, one, name, 0o755, &caller));
            }
            4 => {
                let _ = bench.plan(|txn| ops::symlink(txn, one, name, b"target", &caller));
            }
            5 => {
                let _ = bench.plan(|txn| ops::link(txn, other, one, name));
            }
            6 => {
                let _ = bench.plan(|txn| ops::unlink(txn, one, name));
            }
            7 => {
                let _ = bench.plan(|txn| ops::rmdir(txn, one, name));
            }
            8 => {
                let bits = script.byte();
                let flags = RenameFlags { no_replace: bits & 1 != 0, exchange: bits & 2 != 0, whiteout: bits & 4 != 0 };
                let _ = bench.plan(|txn| ops::rename(txn, one, name, other, new, flags));
            }
            9 => {
                let value = bench.plan(|txn| ops::getxattr(txn, one, name));
                assert!(value.is_none_or(|value| value.len() <= ops::xattr::MAX_VALUE));
            }
            10 => {
                let value = vec![b'x'; usize::from(script.u16())];
                let _ = bench.plan(|txn| ops::setxattr(txn, one, name, &value, 0));
            }
            11 => {
                let _ = bench.plan(|txn| ops::listxattr(txn, one));
            }
            12 => {
                let _ = bench.plan(|txn| ops::removexattr(txn, one, name));
            }
            13 => {
                let _ = bench.plan(|txn| ops::readlink(txn, one));
            }
            14 => {
                let set = SetAttr { mode: Some(script.u32()), size: Some(script.number()), ..SetAttr::default() };
                let _ = bench.plan(|txn| ops::setattr(txn, one, &set));
            }
            15 => {
                let acl = script.bytes(44);
                let _ = bench.plan(|txn| ops::set_acl(txn, one, name, acl, false));
            }
            16 => bench.steps(|txn| ops::free_step(txn, one, ops::STEP_EXTENTS)),
            17 => bench.steps(|txn| ops::cut_step(txn, one, ops::STEP_EXTENTS)),
            18 => intents(&mut bench),
            _ => {
                let _ = bench.plan(|txn| ops::touch_atime(txn, one, AtimeMode::Strict));
            }
        }
    }
    bench.tree.self_check().expect("a sound tree stays one");
}

fn list(bench: &mut Bench, dir: Ino) {
    let mut cookie = 0;
    for _ in 0..ENDLESS {
        let listed = bench.plan(|txn| ops::readdir(txn, dir, cookie, 7));
        let Some(last) = listed.as_ref().and_then(|entries| entries.last()) else { return };
        assert!(last.cookie > cookie, "a listing goes backwards");
        cookie = last.cookie;
    }
    panic!("a listing has no end");
}

fn intents(bench: &mut Bench) {
    let mut from = Key::new(Class::Intent, 0, 0);
    for _ in 0..ENDLESS {
        let Some(Some((key, _))) = bench.plan(|txn| ops::next_intent(txn, from)) else { return };
        let Some(next) = crate::core::txn::successor(key) else { return };
        assert!(next > from);
        from = next;
    }
    panic!("the intents have no end");
}

/// Extents, checksums and summaries as somebody else may have left them.
pub fn extent_map(data: &[u8]) {
    const MAPS: [Class; 5] = [Class::Extent, Class::Summary, Class::Checksum, Class::Extent, Class::Inode];
    let mut script = Script::new(data);
    let mut bench = Bench::new(&mut script, &MAPS);
    for _ in 0..MOST {
        if script.is_empty() {
            break;
        }
        let file = ino(&mut script);
        let block = FileBlock(if script.byte().is_multiple_of(4) { script.number() } else { script.byte().into() });
        match script.byte() % 12 {
            0 => {
                let checksums = vec![1; usize::from(script.byte())];
                let estimate = Estimate(checksums.len() as u8);
                let delta = Delta::Map { ino: file, block, addr: addr(&mut script), checksums, estimate };
                let _ = bench.change(&delta);
            }
            1 => {
                let _ = bench.change(&Delta::Unmap { ino: file, block, blocks: script.number() });
            }
            2 => {
                let _ = bench.change(&Delta::Preallocate { ino: file, block, blocks: script.number() });
            }
            3 => {
                let (blocks, from, to) = (script.number() as u32, addr(&mut script), addr(&mut script));
                let moved = Relocation { ino: file, block, blocks, from, to, estimate: Estimate(blocks as u8) };
                drop(extents::relocate(&mut bench.tree, &mut Uncounted, &moved));
            }
            4 => live(&bench, addr(&mut script)),
            5 => parts(&bench, file, block),
            6 => drop(extents::checksums(&bench.tree, file, block, script.number() as u32)),
            7 => {
                let zone = addr(&mut script);
                for _ in 0..ENDLESS {
                    if !matches!(extents::forget_zone(&mut bench.tree, zone, 3), Ok(true)) {
                        break;
                    }
                }
            }
            8 => drop(extent_at_or_after(&bench.tree, file, block)),
            9 => {
                let (mode, offset, len) = (script.of(&[0, 1, 3, 16, 17]), script.number(), script.number());
                allocate(&mut bench, file, mode, offset, len);
            }
            10 => {
                let set = SetAttr { size: Some(script.number()), ..SetAttr::default() };
                let _ = bench.plan(|txn| ops::setattr(txn, file, &set));
                bench.steps(|txn| ops::cut_step(txn, file, ops::STEP_EXTENTS));
            }
            _ => bench.steps(|txn| ops::free_step(txn, file, ops::STEP_EXTENTS)),
        }
    }
    bench.tree.self_check().expect("a sound tree stays one");
}

fn live(bench: &Bench, zone: Addr) {
    let mut from = 0;
    for _ in 0..ENDLESS {
        let Ok(data) = extents::live_runs(&bench.tree, zone, from, 1000) else { return };
        let Some(next) = data.next else { return };
        assert!(next > from, "what is live goes backwards");
        from = next;
    }
    panic!("what is live has no end");
}

fn parts(bench: &Bench, file: Ino, from: FileBlock) {
    let mut from = from;
    for _ in 0..ENDLESS {
        match extents::extent_parts(&bench.tree, file, from, FileBlock(u64::MAX), 5) {
            Ok((_, Some(next))) => {
                assert!(next > from, "extents go backwards");
                from = next;
            }
            Ok((_, None)) => return,
            Err(Halt::Fail(FsError::Corrupt { .. })) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the extents have no end");
}

fn allocate(bench: &mut Bench, file: Ino, mode: i32, offset: u64, len: u64) {
    let Some(end) = offset.checked_add(len) else {
        let _ = bench.plan(|txn| ops::fallocate(txn, file, mode, offset, len));
        return;
    };
    let mut at = offset;
    for _ in 0..ENDLESS {
        match bench.plan(|txn| ops::fallocate(txn, file, mode, at, end - at)) {
            Some(ops::Fallocate::Done(done)) => match done.next {
                Some(next) => {
                    assert!(next > at, "an allocation goes backwards");
                    at = next;
                }
                None => return,
            },
            _ => return,
        }
    }
    panic!("an allocation has no end");
}
