//! Damage that carries valid checksums (what a bug would leave behind), one kind after another.

use super::*;
use crate::addr::Addr;
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::ops::dirent::first_cookie;
use crate::format::item::{Dirent, Extent, Inode, Intent, Summary};
use crate::ids::FileBlock;
use crate::volume::state::State;

struct Scene {
    rig: Rig,
    volume: Arc<Volume>,
    big: Ino,
}

impl Scene {
    fn new() -> Self {
        let mut rig = Rig::zoned();
        let volume = rig.mount();
        let big = populate(&volume);
        volume.checkpoint().expect("checkpoint");
        rig.assert_clean();
        Self { rig, volume, big }
    }

    /// Changes items past all rules; the next checkpoint makes it durable.
    fn with(&self, mut damage: impl FnMut(&mut State) -> Planned<()>) -> Vec<Finding> {
        self.volume.change(|state| damage(state)).expect("changed");
        self.volume.checkpoint().expect("checkpoint");
        self.rig.problems()
    }

    fn put(&self, key: Key, value: &[u8]) -> Vec<Finding> {
        self.with(|state| Ok(state.tree.put(&key, value)?))
    }

    fn remove(&self, key: Key) -> Vec<Finding> {
        self.with(|state| {
            assert!(state.tree.remove(&key)?, "it was there");
            Ok(())
        })
    }

    fn inode(&self, ino: Ino) -> Inode {
        self.volume.getattr(ino).expect("there")
    }

    fn change_inode(&self, ino: Ino, change: impl Fn(&mut Inode)) -> Vec<Finding> {
        let mut inode = self.inode(ino);
        change(&mut inode);
        self.put(Key::inode(ino), &inode.encode())
    }

    fn ino(&self, dir: Ino, name: &str) -> Ino {
        self.volume.lookup(dir, name.as_bytes()).expect("there").ino
    }

    fn entry(&self, dir: Ino, name: &str) -> (Key, Dirent) {
        let first = first_cookie(&self.volume.identity().hash_key, name.as_bytes());
        self.first(Key::new(Class::Dirent, dir.0, first), |_, value| Dirent::decode(value)).expect("there")
    }

    /// The first item from `key` on.
    fn first<T>(&self, key: Key, decode: impl Fn(Key, &[u8]) -> Option<T>) -> Option<(Key, T)> {
        self.volume
            .ask(|state| {
                let found = state.tree.first_at_or_after(&key)?;
                Ok(found.and_then(|(key, value)| decode(key, value).map(|value| (key, value))))
            })
            .expect("asked")
    }

    fn extent(&self, ino: Ino) -> (Key, Extent) {
        self.first(Key::extent(ino, FileBlock(0)), |key, value| Extent::decode(FileBlock(key.b), value)).expect("there")
    }
}

#[test]
fn inodes() {
    let s = Scene::new();
    let fifo = s.ino(Ino::ROOT, "fifo");
    assert_eq!(s.change_inode(fifo, |inode| inode.nlink = 3), [Finding::LinkCount { ino: fifo, recorded: 3, counted: 1 }]);
    assert_eq!(s.change_inode(fifo, |inode| inode.nlink = 0).first(), Some(&Finding::LostOrphan { ino: fifo }));
    assert_eq!(
        s.change_inode(fifo, |inode| (inode.nlink, inode.mode) = (1, 0o600)).first(),
        Some(&Finding::Inode { ino: fifo, reason: "is of no known type" })
    );
    assert!(s.change_inode(fifo, |inode| inode.mode = libc::S_IFIFO | 0o600).is_empty());
    let dir = s.ino(Ino::ROOT, "dir");
    let (was, wrong) = (s.inode(dir), 17);
    let found = s.change_inode(dir, |inode| (inode.entries, inode.size) = (wrong, wrong * 32));
    assert_eq!(found, [Finding::EntryCount { ino: dir, recorded: wrong, counted: was.entries }]);
    let found = s.change_inode(dir, |inode| (inode.entries, inode.size, inode.parent) = (was.entries, was.size, Ino(77)));
    assert_eq!(found, [Finding::Parent { ino: dir, recorded: Ino(77), found: Ino::ROOT }]);
    assert!(s.put(Key::inode(dir), &was.encode()).is_empty());
    assert_eq!(s.put(Key::inode(dir), &[1, 2, 3]).first(), Some(&Finding::Item { key: format!("inode {dir}/0") }));
}

#[test]
fn entries() {
    let s = Scene::new();
    let (key, entry) = s.entry(Ino::ROOT, "fifo");
    let fifo = entry.ino;
    let entries = s.inode(Ino::ROOT).entries;
    let lead = |ino, kind| Dirent { ino, kind, name: b"fifo".to_vec() }.encode();
    assert_eq!(
        s.put(key, &lead(Ino(999), entry.kind)),
        [Finding::DanglingEntry { dir: Ino::ROOT, name: "fifo".into(), ino: Ino(999) }, Finding::Unnamed { ino: fifo, links: 1 }]
    );
    let wrong = Finding::EntryKind { dir: Ino::ROOT, name: "fifo".into(), ino: fifo, recorded: 8, found: entry.kind };
    assert_eq!(s.put(key, &lead(fifo, 8)), [wrong]);
    assert_eq!(
        s.remove(key),
        [Finding::EntryCount { ino: Ino::ROOT, recorded: entries, counted: entries - 1 }, Finding::Unnamed { ino: fifo, links: 1 }]
    );
    let elsewhere = Key { b: key.b ^ 1 << 40, ..key };
    let found = s.put(elsewhere, &entry.encode());
    assert_eq!(found, [Finding::EntryPlace { dir: Ino::ROOT, name: "fifo".into(), cookie: elsewhere.b }]);
    s.remove(elsewhere);
    assert!(s.put(key, &entry.encode()).is_empty());
    let found = s.put(Key { b: key.b + 1, ..key }, &entry.encode());
    assert!(found.contains(&Finding::EntryTwice { dir: Ino::ROOT, name: "fifo".into() }), "{found:?}");
    s.remove(Key { b: key.b + 1, ..key });
    let found = s.put(Key { a: fifo.0, ..key }, &entry.encode());
    assert!(found.contains(&Finding::EntryOfNothing { dir: fifo, name: "fifo".into() }), "{found:?}");
}

#[test]
fn directories_in_circles() {
    let s = Scene::new();
    let dir = s.ino(Ino::ROOT, "dir");
    let deep = s.ino(dir, "deep");
    let (key, entry) = s.entry(Ino::ROOT, "dir");
    let found = s.with(|state| {
        state.tree.touch(&key)?;
        state.tree.put(&Key { a: deep.0, ..key }, &entry.encode())?;
        state.tree.remove(&key)?;
        Ok(())
    });
    assert!(found.iter().any(|f| matches!(f, Finding::Parent { ino, .. } if *ino == dir)), "{found:?}");
    let found = s.change_inode(dir, |inode| inode.parent = deep);
    assert!(found.iter().any(|f| matches!(f, Finding::Loop { ino } if [dir, deep].contains(ino))), "{found:?}");
}

#[test]
fn intents_and_orphans() {
    let s = Scene::new();
    let found = s.put(Key::intent(s.big), &Intent::Free.encode());
    assert_eq!(found, [Finding::Intent { ino: s.big, reason: "would free an inode that has a name" }]);
    s.remove(Key::intent(s.big));
    let found = s.put(Key::intent(Ino(999)), &Intent::Free.encode());
    assert_eq!(found, [Finding::Intent { ino: Ino(999), reason: "is about an inode that does not exist" }]);
}

#[test]
fn targets_and_attributes() {
    let s = Scene::new();
    let link = s.ino(Ino::ROOT, "symlink");
    let piece = Key::new(Class::Symlink, link.0, 2);
    assert_eq!(s.remove(piece), [Finding::Target { ino: link, recorded: 3000, found: 2000 }]);
    assert!(s.put(piece, &[b'x'; 1000]).is_empty());
    let totals = Key::new(Class::Xattr, s.big.0, 0);
    let found = s.put(totals, &crate::format::xattr::Totals { count: 1, names: 5 }.encode());
    assert_eq!(found, [Finding::AttributeTotals { ino: s.big, count: 2, names: 21, recorded_count: 1, recorded_names: 5 }]);
    s.put(totals, &crate::format::xattr::Totals { count: 2, names: 21 }.encode());
    let (piece, _) = s.first(Key::new(Class::XattrValue, s.big.0, 0), |_, _| Some(())).expect("there");
    let reason = "has another value than its size says";
    assert_eq!(s.remove(piece), [Finding::Attribute { ino: s.big, name: "user.long".into(), reason }]);
    let stray = Key::new(Class::XattrValue, s.big.0, 12345 << 14);
    let found = s.put(stray, b"?");
    let reason = "has no such attribute";
    assert!(found.contains(&Finding::Belongings { ino: s.big, what: "a long attribute value", reason }), "{found:?}");
}

#[test]
fn extents_sums_and_summaries() {
    let s = Scene::new();
    let (key, extent) = s.extent(s.big);
    let blocks = s.inode(s.big).blocks;
    let found = s.change_inode(s.big, |inode| inode.blocks += 1);
    assert_eq!(found, [Finding::BlockCount { ino: s.big, recorded: blocks + 1, counted: blocks }]);
    s.change_inode(s.big, |inode| inode.blocks -= 1);

    let size = s.inode(s.big).size;
    let found = s.change_inode(s.big, |inode| inode.size = 4096);
    assert!(matches!(found[..], [Finding::BeyondEnd { ino, size: 4096, .. }] if ino == s.big), "{found:?}");
    assert!(s.change_inode(s.big, |inode| inode.size = size).is_empty());

    let outside = Extent { addr: Addr::new(zns::DeviceId(0), zns::ZoneId(9999), 0), ..extent };
    let found = s.put(key, &outside.encode());
    let wrong = Finding::Extent { ino: s.big, block: 0, blocks: extent.blocks, addr: outside.addr, reason: "lies outside the volume" };
    assert_eq!(found[0], wrong);

    let longer = Extent { blocks: extent.blocks + 1, ..extent };
    let found = s.put(key, &longer.encode());
    assert!(found.contains(&Finding::ExtentOverlap { ino: s.big, block: u64::from(extent.blocks) }), "{found:?}");
    assert!(s.put(key, &extent.encode()).is_empty());

    let dir = s.ino(Ino::ROOT, "dir");
    let other = s.ino(s.ino(dir, "deep"), "file 1");
    let (other_key, other_extent) = s.extent(other);
    let found = s.put(other_key, &Extent { addr: extent.addr, ..other_extent }.encode());
    let twice = |f: &Finding| matches!(f, Finding::OwnedTwice { addr, .. } if *addr == extent.addr);
    assert!(found.iter().any(twice) && found.iter().any(|f| matches!(f, Finding::WrongSummary { ino, .. } if *ino == other)), "{found:?}");
    assert!(found.iter().any(|f| matches!(f, Finding::LiveCount { .. })), "{found:?}");
    assert!(s.put(other_key, &other_extent.encode()).is_empty());

    let summary = Key::summary(extent.addr);
    let (_, old) = s.first(summary, |key, value| Summary::decode(Addr(key.a), value)).expect("there");
    let found = s.put(summary, &Summary { ino: Ino(3), ..old }.encode());
    assert!(found.iter().all(|f| matches!(f, Finding::WrongSummary { summary_ino: Ino(3), .. })) && !found.is_empty(), "{found:?}");
    let found = s.remove(summary);
    assert_eq!(found[0], Finding::NoSummary { addr: extent.addr, blocks: extent.blocks, ino: s.big, block: 0 });
    assert!(s.put(summary, &old.encode()).is_empty());

    let sums = Key::checksum(s.big, FileBlock(0));
    let (_, value) = s.first(sums, |_, value| Some(value.to_vec())).expect("there");
    let mut wrong = value.clone();
    wrong[0] ^= 1;
    assert_eq!(s.put(sums, &wrong), [Finding::Data { ino: s.big, block: 0, addr: extent.addr }]);
    let found = s.remove(sums);
    assert!(!found.is_empty() && found.iter().all(|f| matches!(f, Finding::NoChecksum { ino, .. } if *ino == s.big)), "{found:?}");
    assert!(s.put(sums, &value).is_empty());
    let stray = Key::checksum(s.big, FileBlock(1 << 25));
    assert_eq!(s.put(stray, &value), [Finding::StrayChecksums { ino: s.big, block: 1 << 25 }]);
}

#[test]
fn zones_and_totals() {
    let s = Scene::new();
    let (_, extent) = s.extent(s.big);
    let zone = extent.addr.zone_base();
    let change_zone = |by: i64| {
        s.with(|state| {
            let entry = *state.zones.entry(zone).expect("there");
            let live = entry.live.saturating_add_signed(by as i32);
            state.zones.set_entry(zone, crate::format::segment::SegmentEntry { live, ..entry });
            Ok(())
        })
    };
    let found = change_zone(-1);
    assert!(matches!(found[..], [Finding::LiveCount { zone: z, counted, recorded }] if z == zone && counted == recorded + 1), "{found:?}");
    assert!(change_zone(1).is_empty());
    let found = s.with(|state| {
        state.inodes += 1;
        state.zones.change_unwritten(3);
        Ok(())
    });
    let totals: Vec<_> = found.iter().filter(|f| matches!(f, Finding::Total { recorded, counted, .. } if recorded > counted)).collect();
    assert_eq!((totals.len(), found.len()), (2, 2), "{found:?}");
}

#[test]
fn nodes_that_nothing_leads_to() {
    let s = Scene::new();
    let mut lost = 0;
    let found = s.with(|state| {
        lost = state.tree.store_mut().alloc(0).0;
        Ok(())
    });
    assert!(matches!(found[..], [Finding::UnreachableNode { id, .. }] if id == lost), "{found:?}");
}

#[test]
fn no_root() {
    let s = Scene::new();
    let found = s.remove(Key::inode(Ino::ROOT));
    assert!(found.contains(&Finding::NoRoot), "{found:?}");
    assert!(found.contains(&Finding::EntryOfNothing { dir: Ino::ROOT, name: "fifo".into() }), "{found:?}");
}
