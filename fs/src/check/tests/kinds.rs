//! Every kind of damage that the format allows, in one table: injected past all rules but with valid checksums, found as exactly what it is, mended, and clean
//! after that, or what is left named.

use super::super::repair::{RepairReport, repair};
use super::*;
use crate::addr::Addr;
use crate::cli::fsck::{status_of_check, status_of_repair};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::ops::dirent::first_cookie;
use crate::core::ops::xattr::first_slot;
use crate::format::acl;
use crate::format::item::{Dirent, Extent, HAS_ACCESS_ACL, HAS_DEFAULT_ACL, Inode, Intent, LOST_CONTENT, Summary};
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::xattr::{Attribute, Totals};
use crate::ids::FileBlock;
use crate::volume::state::State;
use gc::placement::Estimate;
use std::fmt::Write as _;

/// A volume with one of everything, and what is needed to name it.
pub(super) struct Base {
    pub rig: Rig,
    pub big: Ino,
}

pub(super) fn base() -> Base {
    base_on(SimConfig::zoned(64, 1))
}

pub(super) fn base_on(config: SimConfig) -> Base {
    let mut rig = Rig::new(vec![config]);
    let volume = rig.mount();
    let big = populate(&volume);
    volume.setxattr(big, acl::ACCESS, &list(0o644, 6), 0).expect("a list");
    let dir = volume.lookup(Ino::ROOT, b"dir").expect("there").ino;
    volume.setxattr(dir, acl::DEFAULT, &list(0o755, 7), 0).expect("a list");
    volume.shutdown().expect("unmounted");
    drop(volume);
    rig.assert_clean();
    Base { rig, big }
}

/// An access control list with a named user, of which the mode is this one.
fn list(mode: u32, user: u8) -> Vec<u8> {
    let entry = |tag: u16, perm: u32, id: u32| [&tag.to_le_bytes()[..], &(perm as u16).to_le_bytes(), &id.to_le_bytes()].concat();
    let mut out = 2u32.to_le_bytes().to_vec();
    for entry in [
        entry(1, mode >> 6 & 7, u32::MAX),
        entry(2, user.into(), 1000),
        entry(4, mode >> 3 & 7, u32::MAX),
        entry(0x10, mode >> 3 & 7, u32::MAX),
        entry(0x20, mode & 7, u32::MAX),
    ] {
        out.extend(entry);
    }
    out
}

/// The editor: a mounted copy of the base, of which items and tables are changed past all rules.
pub(super) struct Editor {
    pub volume: Arc<Volume>,
    pub big: Ino,
}

impl Editor {
    pub fn with(&self, mut change: impl FnMut(&mut State) -> Planned<()>) {
        self.volume.change(|state| change(state)).expect("changed");
    }
    pub fn put(&self, key: Key, value: &[u8]) {
        self.with(|state| Ok(state.tree.put(&key, value)?));
    }
    pub fn remove(&self, key: Key) {
        self.with(|state| {
            assert!(state.tree.remove(&key)?, "{key} was there");
            Ok(())
        });
    }
    pub fn inode(&self, ino: Ino) -> Inode {
        self.volume.getattr(ino).expect("there")
    }
    pub fn change(&self, ino: Ino, change: impl Fn(&mut Inode)) {
        let mut inode = self.inode(ino);
        change(&mut inode);
        self.put(Key::inode(ino), &inode.encode());
    }
    pub fn ino(&self, path: &str) -> Ino {
        path.split('/').fold(Ino::ROOT, |dir, name| self.volume.lookup(dir, name.as_bytes()).expect("there").ino)
    }
    pub fn first<T>(&self, key: Key, decode: impl Fn(Key, &[u8]) -> Option<T>) -> (Key, T) {
        let found = self.volume.ask(|state| {
            let found = state.tree.first_at_or_after(&key)?;
            Ok(found.and_then(|(key, value)| decode(key, value).map(|value| (key, value))))
        });
        found.expect("asked").expect("there")
    }
    pub fn entry(&self, dir: Ino, name: &str) -> (Key, Dirent) {
        let first = first_cookie(&self.volume.identity().hash_key, name.as_bytes());
        self.first(Key::new(Class::Dirent, dir.0, first), |_, value| Dirent::decode(value))
    }
    pub fn extent(&self, ino: Ino) -> (Key, Extent) {
        self.first(Key::extent(ino, FileBlock(0)), |key, value| Extent::decode(FileBlock(key.b), value))
    }
    pub fn attribute(&self, ino: Ino, name: &[u8]) -> (Key, Attribute) {
        let first = first_slot(&self.volume.identity().hash_key, name);
        self.first(Key::new(Class::Xattr, ino.0, first), |_, value| Attribute::decode(value))
    }
    pub fn zone(&self, zone: Addr, change: impl Fn(&mut SegmentEntry)) {
        self.with(|state| {
            let mut entry = *state.zones.entry(zone).expect("there");
            change(&mut entry);
            state.zones.set_entry(zone, entry);
            Ok(())
        });
    }
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All is mended, and nothing is wrong any more (exit status 1).
    Mended = 1,
    /// Something cannot be mended (4).
    Left = 4,
}

struct Kind {
    name: &'static str,
    inject: fn(&Editor),
    /// The findings, each as it is told, without numbers that depend on the volume.
    found: &'static [&'static str],
    end: End,
}

const fn mended(name: &'static str, found: &'static [&'static str], inject: fn(&Editor)) -> Kind {
    Kind { name, inject, found, end: End::Mended }
}

const fn left(name: &'static str, found: &'static [&'static str], inject: fn(&Editor)) -> Kind {
    Kind { name, inject, found, end: End::Left }
}

/// The words of a finding that are told with its kind.
/// Extents are not those that were counted.
const ESTIMATES: &str = "total, blocks of one of the estimates";

const WORDS: [&str; 3] = ["what", "list", "reason"];

/// What all damage of this table is found as.
pub(super) fn found() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.found.iter().copied())
}

/// A finding by its kind and its fixed words.
fn label(finding: &Finding, words: &[&str]) -> String {
    let value = serde_json::to_value(finding).expect("plain data");
    let mut label = value["finding"].as_str().expect("a tag").to_owned();
    for field in words {
        if let Some(text) = value[field].as_str() {
            let _ = write!(label, ", {text}");
        }
    }
    label
}

/// Kinds and how often each: `what` or `3 what`.
pub(super) fn labels(findings: &[Finding], words: &[&str]) -> Vec<String> {
    let mut counts: std::collections::BTreeMap<String, usize> = Default::default();
    findings.iter().for_each(|finding| *counts.entry(label(finding, words)).or_default() += 1);
    counts.into_iter().map(|(label, n)| if n == 1 { label } else { format!("{n} {label}") }).collect()
}

const KINDS: &[Kind] = &[
    // --- inodes ---
    mended("an inode that cannot be decoded", &["dangling-entry", "item"], |e| e.put(Key::inode(e.ino("fifo")), &[1, 2, 3])),
    mended(
        "an inode of a file that is gone",
        &["belongings, attributes, does not exist", "belongings, extents, does not exist", "2 dangling-entry", "total, inodes"],
        |e| e.remove(Key::inode(e.big)),
    ),
    mended("an inode of a directory that is gone", &["dangling-entry", "225 entry-of-nothing", "total, inodes"], |e| {
        e.remove(Key::inode(e.ino("dir/deep")))
    }),
    mended("an inode of no known type", &["entry-kind", "inode, is of no known type"], |e| e.change(e.ino("fifo"), |i| i.mode = 0o600)),
    mended(
        "a file of no known type, with data",
        &["belongings, extents, is of another type", "2 entry-kind", "inode, is of no known type"],
        |e| e.change(e.big, |i| i.mode = 0o644),
    ),
    mended("a file that is too large", &["inode, is larger than a file can be"], |e| e.change(e.big, |i| i.size = u64::MAX)),
    mended("entries of no directory", &["inode, has entries and is no directory"], |e| e.change(e.ino("fifo"), |i| i.entries = 3)),
    mended("a number that was never given", &["228 ino-never-given"], |e| {
        e.with(|state| {
            state.next_ino = 5;
            Ok(())
        })
    }),
    mended("a wrong link count", &["link-count"], |e| e.change(e.big, |i| i.nlink = 7)),
    mended("no link, and a name", &["link-count", "lost-orphan"], |e| e.change(e.ino("fifo"), |i| i.nlink = 0)),
    mended("a directory without a link", &["lost-orphan", "many-names"], |e| e.change(e.ino("dir/deep"), |i| i.nlink = 0)),
    mended("a wrong link count of a directory", &["link-count"], |e| e.change(e.ino("dir"), |i| i.nlink = 9)),
    mended("a wrong count of entries", &["entry-count"], |e| e.change(e.ino("dir"), |i| (i.entries, i.size) = (17, 17 * 32))),
    mended("a wrong size of a directory", &["inode, is a directory whose size does not fit its number of entries"], |e| {
        e.change(e.ino("dir"), |i| i.size = 1)
    }),
    mended("a wrong parent", &["parent"], |e| e.change(e.ino("dir"), |i| i.parent = Ino(77))),
    mended("a wrong count of blocks", &["block-count"], |e| e.change(e.big, |i| i.blocks += 1)),
    mended("no root", &["4 entry-of-nothing", "no-root", "total, inodes"], |e| e.remove(Key::inode(Ino::ROOT))),
    mended(
        "a root that is a file",
        &["4 entry-of-nothing", "inode, has entries and is no directory", "inode, is the root and no directory that is its own parent"],
        |e| e.change(Ino::ROOT, |i| i.mode = libc::S_IFREG | 0o644),
    ),
    mended("a root below something", &["inode, is the root and no directory that is its own parent"], |e| {
        e.change(Ino::ROOT, |i| i.parent = Ino(2))
    }),
    mended("an inode without a name", &["entry-count", "unnamed"], |e| e.remove(e.entry(Ino::ROOT, "fifo").0)),
    mended("a directory without a name", &["entry-count", "link-count", "unnamed"], |e| e.remove(e.entry(e.ino("dir"), "deep").0)),
    mended("an orphan without an intent", &["entry-count", "lost-orphan"], |e| {
        e.change(e.ino("fifo"), |i| i.nlink = 0);
        e.remove(e.entry(Ino::ROOT, "fifo").0);
    }),
    // --- entries ---
    mended("an entry that leads nowhere", &["dangling-entry", "unnamed"], |e| {
        let (key, entry) = e.entry(Ino::ROOT, "fifo");
        e.put(key, &Dirent { ino: Ino(999_999), ..entry }.encode());
    }),
    mended("an entry of the wrong type", &["entry-kind"], |e| {
        let (key, entry) = e.entry(Ino::ROOT, "fifo");
        e.put(key, &Dirent { kind: 8, ..entry }.encode());
    }),
    mended("an entry where nobody looks", &["entry-place"], |e| {
        let (key, entry) = e.entry(Ino::ROOT, "fifo");
        e.remove(key);
        e.put(Key { b: key.b ^ 1 << 40, ..key }, &entry.encode());
    }),
    mended("an entry that is there twice", &["entry-count", "entry-twice", "link-count"], |e| {
        let (key, entry) = e.entry(Ino::ROOT, "fifo");
        e.put(Key { b: key.b + 1, ..key }, &entry.encode());
    }),
    mended("an entry with a slash in its name", &["entry-name, no such name can be made"], |e| {
        let (key, entry) = e.entry(Ino::ROOT, "fifo");
        let name = b"a/b".to_vec();
        let first = first_cookie(&e.volume.identity().hash_key, &name);
        e.remove(key);
        e.put(Key { b: first, ..key }, &Dirent { name, ..entry }.encode());
    }),
    mended("an entry that cannot be decoded", &["item", "unnamed"], |e| e.put(e.entry(Ino::ROOT, "fifo").0, &[1, 2, 3])),
    mended("an entry of a file", &["entry-count", "entry-of-nothing"], |e| {
        let (key, entry) = e.entry(Ino::ROOT, "fifo");
        e.remove(key);
        e.put(Key { a: e.big.0, ..key }, &entry.encode());
    }),
    mended("a directory with two names", &["entry-count", "link-count", "many-names", "parent"], |e| {
        let (key, entry) = e.entry(e.ino("dir"), "deep");
        e.put(Key { a: Ino::ROOT.0, ..key }, &entry.encode());
    }),
    mended("a directory within itself", &["2 entry-count", "2 link-count", "loop"], |e| {
        let (dir, deep) = (e.ino("dir"), e.ino("dir/deep"));
        let (key, entry) = e.entry(Ino::ROOT, "dir");
        e.remove(key);
        e.put(Key { a: deep.0, ..key }, &entry.encode());
        e.change(dir, |i| i.parent = deep);
    }),
    // --- intents ---
    mended("an intent to free what has a name", &["intent, would free an inode that has a name"], |e| {
        e.put(Key::intent(e.big), &Intent::Free.encode())
    }),
    mended("an intent about nobody", &["intent, is about an inode that does not exist"], |e| {
        e.put(Key::intent(Ino(999_999)), &Intent::Free.encode())
    }),
    mended("an intent under the wrong key", &["intent, is not the one that its key says"], |e| {
        e.put(Key::cut(e.big), &Intent::Free.encode())
    }),
    mended("an intent that cannot be decoded", &["item"], |e| e.put(Key::intent(e.big), &[7])),
    // --- links, attributes, lists ---
    mended("half a link target", &["target"], |e| e.remove(Key::new(Class::Symlink, e.ino("symlink").0, 2))),
    mended("a link target of a file", &["belongings, link target, is of another type"], |e| {
        e.put(Key::new(Class::Symlink, e.big.0, 0), b"there")
    }),
    mended("wrong totals of attributes", &["attribute-totals"], |e| {
        e.put(Key::new(Class::Xattr, e.big.0, 0), &Totals { count: 1, names: 5 }.encode());
    }),
    mended("half an attribute's value", &["attribute, has another value than its size says"], |e| {
        e.remove(e.first(Key::new(Class::XattrValue, e.big.0, 0), |_, _| Some(())).0);
    }),
    mended("an attribute where nobody looks", &["attribute, lies where a search for it does not look"], |e| {
        let (key, attribute) = e.attribute(e.big, b"user.short");
        e.remove(key);
        e.put(Key { b: key.b ^ 1 << 40, ..key }, &attribute.encode());
    }),
    mended("an attribute that cannot be decoded", &["attribute-totals", "item"], |e| e.put(e.attribute(e.big, b"user.short").0, &[0])),
    mended("a value without an attribute", &["belongings, a long attribute value, has no such attribute"], |e| {
        e.put(Key::new(Class::XattrValue, e.big.0, 12345 << 14), b"?")
    }),
    mended("attributes of nobody", &["belongings, attributes, does not exist"], |e| {
        let attribute = Attribute { name: b"user.a".to_vec(), size: 1, inline: Some(b"b".to_vec()) };
        e.put(Key::new(Class::Xattr, 999_999, first_slot(&e.volume.identity().hash_key, b"user.a")), &attribute.encode());
    }),
    mended("a list that nobody claims", &["access-list, own, is not in force: the inode does not say that there is one"], |e| {
        e.change(e.big, |i| i.flags &= !HAS_ACCESS_ACL)
    }),
    mended("a list that is claimed and not there", &["access-list, own, is not there, though the inode says that there is one"], |e| {
        e.change(e.ino("fifo"), |i| i.flags |= HAS_ACCESS_ACL)
    }),
    mended("a default list of a file", &["access-list, default, is for new files in what is no directory"], |e| {
        let (_, attribute) = e.attribute(e.ino("dir"), acl::DEFAULT);
        let fifo = e.ino("fifo");
        e.put(Key::new(Class::Xattr, fifo.0, 0), &Totals { count: 1, names: acl::DEFAULT.len() as u32 + 1 }.encode());
        e.put(Key::new(Class::Xattr, fifo.0, first_slot(&e.volume.identity().hash_key, acl::DEFAULT)), &attribute.encode());
        e.change(fifo, |i| i.flags |= HAS_DEFAULT_ACL);
    }),
    mended("a list that is none", &["access-list, own, cannot be decoded"], |e| {
        let (key, attribute) = e.attribute(e.big, acl::ACCESS);
        e.put(key, &Attribute { size: 3, inline: Some(b"abc".to_vec()), ..attribute }.encode());
    }),
    mended("a list that is not what the mode says", &["access-list, own, does not say what the mode says"], |e| {
        e.change(e.big, |i| i.mode = libc::S_IFREG | 0o600)
    }),
    mended("a file that has lost content before", &["content-lost"], |e| e.change(e.big, |i| i.flags |= LOST_CONTENT)),
    // --- extents ---
    mended("data beyond the end", &["beyond-end"], |e| e.change(e.big, |i| i.size = 4096)),
    mended("an extent that cannot be decoded", &["block-count", "item", "live-count", ESTIMATES], |e| {
        e.put(e.extent(e.big).0, &[0xff, 0x80])
    }),
    mended("an extent outside the volume", &["extent, lies outside the volume", "live-count"], |e| {
        let (key, extent) = e.extent(e.big);
        e.put(key, &Extent { addr: Addr::new(zns::DeviceId(0), zns::ZoneId(9999), 0), ..extent }.encode());
    }),
    mended(
        "an extent across the end of its zone",
        &["block-count", "extent, lies outside the volume", "extent-overlap", "live-count", ESTIMATES],
        |e| {
            let (key, extent) = e.extent(e.big);
            e.put(key, &Extent { addr: extent.addr.zone_base().plus(254), blocks: extent.blocks.max(3), ..extent }.encode());
        },
    ),
    mended(
        "an extent beyond the largest file",
        &["block-count", "extent, lies beyond the largest file", "total, preallocated blocks"],
        |e| {
            e.put(
                Key::extent(e.big, FileBlock(1 << 32)),
                &Extent { block: FileBlock(0), blocks: 1, addr: Addr::NONE, estimate: Estimate::UNKNOWN }.encode(),
            );
        },
    ),
    mended("an extent in an empty zone", &["extent, lies in a zone that holds no data", "live-count"], |e| {
        let (key, extent) = e.extent(e.big);
        let empty = e.volume.state.lock().zones.iter().find(|(_, z)| z.phase == Phase::Empty).expect("one").0;
        e.put(key, &Extent { addr: empty, ..extent }.encode());
    }),
    mended("an extent in the log", &["extent, lies in a zone that holds no data", "live-count"], |e| {
        let (key, extent) = e.extent(e.big);
        let log = e.volume.state.lock().zones.iter().find(|(_, z)| z.role == Role::Log).expect("one").0;
        e.put(key, &Extent { addr: log, ..extent }.encode());
    }),
    mended("an extent in a zone of metadata", &["extent, lies in a zone that holds no data", "live-count"], |e| {
        let (key, extent) = e.extent(e.big);
        let raw = crate::core::halt::BlockId::Node(crate::ids::NodeId(1));
        let addr = e.volume.state.lock().tree.store().locate(raw).expect("known").expect("placed");
        e.put(key, &Extent { addr, ..extent }.encode());
    }),
    mended(
        "extents that overlap",
        &["block-count", "data", "extent-overlap", "live-count", "owned-twice", ESTIMATES, "wrong-summary"],
        |e| {
            let (key, extent) = e.extent(e.big);
            e.put(key, &Extent { blocks: extent.blocks + 1, ..extent }.encode());
        },
    ),
    mended("a block of two files", &["2 data", "2 live-count", "2 owned-twice", "2 wrong-summary"], |e| {
        let (_, extent) = e.extent(e.big);
        let (key, other) = e.extent(e.ino("dir/deep/file 1"));
        e.put(key, &Extent { addr: extent.addr, ..other }.encode());
    }),
    mended("extents of nobody", &["belongings, extents, does not exist", "total, preallocated blocks"], |e| {
        e.put(
            Key::extent(Ino(999_999), FileBlock(0)),
            &Extent { block: FileBlock(0), blocks: 1, addr: Addr::NONE, estimate: Estimate::UNKNOWN }.encode(),
        );
    }),
    mended("extents of a pipe", &["belongings, extents, is of another type", "block-count", "total, preallocated blocks"], |e| {
        e.put(
            Key::extent(e.ino("fifo"), FileBlock(0)),
            &Extent { block: FileBlock(0), blocks: 1, addr: Addr::NONE, estimate: Estimate::UNKNOWN }.encode(),
        );
    }),
    // --- summaries, checksums ---
    mended("a summary that is gone", &["no-summary"], |e| e.remove(Key::summary(e.extent(e.big).1.addr))),
    mended("a summary with the wrong owner", &["wrong-summary"], |e| {
        let summary = Key::summary(e.extent(e.big).1.addr);
        let (_, old) = e.first(summary, |key, value| Summary::decode(Addr(key.a), value));
        e.put(summary, &Summary { ino: Ino(3), ..old }.encode());
    }),
    mended("a summary outside the volume", &["summary, lies outside the volume"], |e| {
        let addr = Addr::new(zns::DeviceId(0), zns::ZoneId(9999), 0);
        e.put(Key::summary(addr), &Summary { addr, blocks: 1, ino: Ino(3), block: FileBlock(0) }.encode());
    }),
    mended("a summary that cannot be decoded", &["item", "no-summary"], |e| e.put(Key::summary(e.extent(e.big).1.addr), &[0])),
    left("checksums that are gone", &["26 no-checksum"], |e| e.remove(Key::checksum(e.big, FileBlock(0)))),
    left("a checksum that is another one", &["data"], |e| {
        let key = Key::checksum(e.big, FileBlock(0));
        let (_, mut value) = e.first(key, |_, value| Some(value.to_vec()));
        value[0] ^= 1;
        e.put(key, &value);
    }),
    mended("checksums of what is no data", &["stray-checksums"], |e| e.put(Key::checksum(e.big, FileBlock(1 << 25)), &[0; 8])),
    left("checksums that cannot be decoded", &["data", "item", "25 no-checksum"], |e| e.put(Key::checksum(e.big, FileBlock(0)), &[0; 7])),
    // --- zones, totals, nodes ---
    mended("a wrong live count", &["live-count"], |e| e.zone(e.extent(e.big).1.addr.zone_base(), |z| z.live -= 1)),
    mended("a zone called empty", &["55 extent, lies in a zone that holds no data"], |e| {
        let zone = e.extent(e.big).1.addr.zone_base();
        e.zone(zone, |z| *z = SegmentEntry { resets: z.resets, ..SegmentEntry::EMPTY });
    }),
    mended("a zone of which less was written", &["beyond-written", "zone, has more live blocks than were written"], |e| {
        e.zone(e.extent(e.big).1.addr.zone_base(), |z| z.written = 1)
    }),
    mended("a zone written in the future", &["zone, was last written in the future"], |e| {
        // Not one that is still written to.
        let is = |z: &SegmentEntry| z.phase == Phase::Closed && z.role.is_data() && z.live > 0;
        let zone = e.volume.state.lock().zones.iter().find(|(_, z)| is(z)).expect("one").0;
        e.zone(zone, |z| z.written_at = 1 << 50);
    }),
    mended("wrong totals", &[ESTIMATES, "total, inodes", "total, preallocated blocks"], |e| {
        e.with(|state| {
            state.inodes += 1;
            state.zones.change_unwritten(3);
            state.zones.expect(Estimate(9), 5);
            Ok(())
        })
    }),
    mended("a node that nothing leads to", &["unreachable-node"], |e| {
        e.with(|state| {
            state.tree.store_mut().alloc(0);
            Ok(())
        })
    }),
];

/// A copy of the base, with damage in it, and unmounted by the last checkpoint.
pub(super) fn damaged(base: &Base, inject: fn(&Editor)) -> Rig {
    let mut rig = Rig { drives: base.rig.drives.iter().map(zns::sim::SimDrive::fork).collect(), mounts: base.rig.mounts };
    let editor = Editor { volume: rig.mount(), big: base.big };
    inject(&editor);
    editor.volume.checkpoint().expect("a checkpoint");
    drop(editor);
    rig
}

pub(super) fn mend(rig: &Rig) -> RepairReport {
    repair(&rig.devices(), CheckOptions::default).expect("repaired")
}

/// With so many findings of a kind in a pass.
fn mend_so_many(rig: &Rig, at_once: u64) -> RepairReport {
    repair(&rig.devices(), || CheckOptions { at_once, ..CheckOptions::default() }).expect("repaired")
}

/// However much there is of one kind, no pass overlooks another: with one finding of each kind in a pass the end is the same.
#[test]
fn a_repair_ends_where_it_would_if_it_could_look_at_little_at_once() {
    let base = base();
    for Kind { name, inject, end, .. } in KINDS {
        let (rig, all) = (damaged(&base, *inject), damaged(&base, *inject));
        let (report, all) = (mend_so_many(&rig, 1), mend(&all));
        assert_eq!(status_of_repair(&report), *end as u8, "{name}: {report}");
        let left = |report: &RepairReport| report.after.findings.iter().map(|found| found.message.clone()).collect::<Vec<_>>();
        assert_eq!(left(&report), left(&all), "{name}");
    }
}

#[test]
fn every_kind_of_damage_is_found_as_what_it_is_and_mended() {
    assert_all_are_mended(&base(), &[]);
}

#[test]
fn every_kind_of_damage_is_found_as_what_it_is_and_mended_on_a_disk() {
    // A disk has no write pointer that would tell that nothing was ever written there: what lies there fails its checksum.
    assert_all_are_mended(&base_on(SimConfig::conventional(64, 1)), &["an extent in an empty zone"]);
}

/// `left_here`: on these drives something is left of this damage.
fn assert_all_are_mended(base: &Base, left_here: &[&str]) {
    let mut wrong = String::new();
    for Kind { name, inject, found, end } in KINDS {
        let end = if left_here.contains(name) { End::Left } else { *end };
        let rig = damaged(base, *inject);
        let report = rig.check();
        let told = labels(&report.findings.iter().map(|found| found.finding.clone()).collect::<Vec<_>>(), &WORDS);
        let notes_only = report.problems().is_empty();
        assert_eq!(status_of_check(&report), if notes_only { 0 } else { 4 }, "{name}");
        if told != *found {
            let _ = writeln!(wrong, "{name}: found {told:?}");
        }
        let report = mend(&rig);
        if status_of_repair(&report) != end as u8 {
            let _ = writeln!(wrong, "{name}: {report}");
        }
        if report.repairs.is_empty() && *name != "a file that has lost content before" && end == End::Mended {
            let _ = writeln!(wrong, "{name}: nothing was done");
        }
        // What is mended stays mended, and mounts.
        let again = mend(&rig);
        if !again.repairs.is_empty() || (end == End::Mended && status_of_repair(&again) != 0) {
            let _ = writeln!(wrong, "{name}: a second repair did {:?}", again.repairs);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
