//! Every kind of damage that only the media can have, in one table: found as exactly what it is, and what a repair makes of it. Pages of the node map and superblocks are
//! forged with valid checksums; the rest is bits, blocks, zones, power cuts and devices that fail once.
//!
//! With the table of [`super::kinds`] it is complete: a kind of finding that is in neither fails the last test here, one that is new does not compile.

use super::super::repair::{RepairReport, repair};
use super::forged::{at, cut_off, data_of_big, failing, forged, fork, last_node, newest, ops_of_a_check, peek, place, poke, records};
use super::kinds::{self, Base, base_on, labels};
use super::media::flipped;
use super::several::cut_between;
use super::*;
use crate::addr::Addr;
use crate::core::key::Key;
use crate::core::nodes::map::{Entry, entry, set_entry};
use crate::core::page::Page;
use crate::format::segment::Role;
use crate::format::superblock::is_second_copy;
use crate::ids::{FileBlock, NodeId};
use crate::volume::assemble::assemble;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use zns::sim::Fault;
use zns::{ZoneAction, ZoneState};

const IO_ERROR: &str = "device error at block 0: Input/output error (os error 5)";

/// On which drives it can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    All,
    /// Where the drive keeps the write pointers.
    Zoned,
}

struct Kind {
    name: &'static str,
    on: On,
    /// The damage, and one finding in full.
    inject: fn(&Base) -> (Rig, Finding),
    /// All findings, by their kinds.
    found: &'static [&'static str],
    /// What is repaired, by its kinds.
    repaired: &'static [&'static str],
    /// Exit status of the repair: 0 nothing to do, 1 mended, 4 something is left.
    status: u8,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "an old superblock is damaged",
        on: On::All,
        inject: |base| {
            let (addr, _) = records(&base.rig.drives[0])[0];
            let reason = "FerryFS superblock with a bad checksum".into();
            (flipped(&base.rig, addr, 100, 0), Finding::OldSuperblock { device: 0, zone: addr.zone().0, slot: addr.block(), reason })
        },
        found: &["old-superblock"],
        repaired: &[],
        status: 0,
    },
    Kind {
        name: "the last superblock is torn",
        on: On::All,
        inject: |base| {
            let rig = fork(&base.rig);
            let drive = &rig.drives[0];
            let mut torn = at(0, 0);
            for (addr, _) in newest(drive) {
                let mut block = peek(drive, addr);
                let second = is_second_copy(&block);
                block[if second { 0 } else { 512 }..].fill(0);
                poke(drive, addr, &block);
                torn = if second { torn } else { addr };
            }
            (rig, Finding::TornSuperblock { device: 0, zone: torn.zone().0, slot: torn.block() })
        },
        found: &["torn-superblock"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "both copies of the newest superblock are damaged",
        on: On::All,
        inject: |base| {
            let copies = newest(&base.rig.drives[0]);
            let rig = copies.iter().fold(fork(&base.rig), |rig, (addr, _)| flipped(&rig, *addr, 100, 0));
            let (addr, _) = &copies[0];
            let reason = "FerryFS superblock with a bad checksum".into();
            (rig, Finding::NewestSuperblock { device: 0, zone: addr.zone().0, slot: addr.block(), reason })
        },
        found: &["checkpoint-lost", "2 newest-superblock"],
        repaired: &["older-checkpoint"],
        status: 1,
    },
    Kind {
        name: "the newest checkpoint is lost",
        on: On::All,
        inject: |base| {
            let copies = newest(&base.rig.drives[0]);
            let rig = copies.iter().fold(fork(&base.rig), |rig, (addr, _)| flipped(&rig, *addr, 100, 0));
            let reason = format!(
                "sim-1: the last superblock is damaged in both copies, and the checkpoint {} before it is in use: what came after that is not \
                 shown; what is readable can be copied away",
                copies[0].1.generation - 1
            );
            (rig, Finding::CheckpointLost { reason })
        },
        found: &["checkpoint-lost", "2 newest-superblock"],
        repaired: &["older-checkpoint"],
        status: 1,
    },
    Kind {
        name: "a zone of the ring cannot be read",
        on: On::All,
        inject: |base| {
            let reason = IO_ERROR.into();
            (failing(&base.rig, 0, Fault::ReportError), Finding::RingUnreadable { device: 0, zone: 0, reason })
        },
        found: &["ring-unreadable"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "power was cut between the superblocks of two devices",
        on: On::All,
        inject: |base| {
            let software = base.rig.drives[0].geometry().software_zones;
            let (cut, last) = cut_between(if software { SimConfig::conventional } else { SimConfig::zoned });
            (cut, Finding::BehindByOne { device: 1, generation: last, newest: last + 1 })
        },
        found: &["behind-by-one"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "a device does not list its zones",
        on: On::Zoned,
        inject: |base| {
            let last = ops_of_a_check(&base.rig);
            let strikes = |from: &u64| check(failing(&base.rig, *from, Fault::ReportError).devices(), CheckOptions::default());
            // The last report of a check.
            let from = (0..last).rev().find(|from| !strikes(from).expect("there is a volume").clean).expect("a report");
            (failing(&base.rig, from, Fault::ReportError), Finding::NoZoneReport { device: 0, reason: IO_ERROR.into() })
        },
        found: &["no-zone-report"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "a device that does not say where anything is",
        on: On::All,
        inject: |base| {
            // The reports of the ring are for its judgement; the one behind them is the mount's.
            let strikes = |from: &u64| check(failing(&base.rig, *from, Fault::ReportError).devices(), CheckOptions::default()).is_err();
            let from = (0..100).find(strikes).expect("a report that a mount needs");
            (failing(&base.rig, from, Fault::ReportError), Finding::NothingFound { reason: IO_ERROR.into() })
        },
        found: &["nothing-found"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "the log begins in a zone of data",
        on: On::All,
        inject: |base| {
            let addr = data_of_big(base).zone_base();
            (forged(base, |record, _| record.log.addr = addr), Finding::LogStart { addr, reason: "is no zone of the log" })
        },
        found: &["log-start"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "the log begins outside the volume",
        on: On::All,
        inject: |base| {
            (
                forged(base, |record, _| record.log.addr = at(9999, 0)),
                Finding::LogStart { addr: at(9999, 0), reason: "lies outside the volume" },
            )
        },
        found: &["log-start"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "the log is broken before what was flushed",
        on: On::All,
        inject: |base| {
            let rig = cut_off(base, |volume| {
                for n in 0..10 {
                    make(volume, Ino::ROOT, &format!("late {n}"));
                    volume.sync().expect("synced");
                }
            });
            let log = assemble(rig.copies()).expect("there is a volume").superblock.log.addr;
            let rig = flipped(&rig, log.plus(3), 90, 1);
            let report = rig.check();
            let reason = match &report.problems()[..] {
                [Finding::LogDamaged { reason }] => reason.clone(),
                other => format!("not {other:?}"),
            };
            assert!(reason.contains(&log.plus(3).to_string()), "{reason}");
            (rig, Finding::LogDamaged { reason })
        },
        found: &["log-damaged"],
        repaired: &["log-ended"],
        status: 1,
    },
    Kind {
        name: "a change in the log of which nothing can be made",
        on: On::All,
        inject: |base| {
            let big = base.big;
            let rig = cut_off(base, |volume| {
                volume.state.lock().pending.items.insert(Key::extent(big, FileBlock(0)), Some(vec![1]));
                make(volume, Ino::ROOT, "with it");
                volume.sync().expect("synced");
                make(volume, Ino::ROOT, "after");
                volume.sync().expect("synced");
            });
            let report = rig.check();
            let found = report.problems().first().map_or(Finding::NoRoot, |found| (*found).clone());
            (rig, found)
        },
        found: &["not-replayed"],
        repaired: &["left-out"],
        status: 1,
    },
    Kind {
        name: "the root of the node map is damaged",
        on: On::All,
        inject: |base| {
            let addr = newest(&base.rig.drives[0])[0].1.roots.map_addr;
            (flipped(&base.rig, addr, 700, 3), Finding::MapPage { level: 0, index: 0, addr, reason: "fails its checksum".into() })
        },
        found: &["map-page", "node", "not-replayed", "segment-page"],
        repaired: &["older-checkpoint"],
        status: 1,
    },
    Kind {
        name: "a node of the tree is damaged",
        on: On::All,
        inject: |base| {
            let drive = &base.rig.drives[0];
            let (id, addr, _) = last_node(&Page::from_bytes(peek(drive, newest(drive)[0].1.roots.map_addr)));
            let rig = flipped(&base.rig, addr, 700, 3);
            let report = rig.check();
            let found = match &report.problems()[..] {
                [found @ Finding::Node { id: told, reason, .. }] if *told == id && reason.contains(&addr.to_string()) => (*found).clone(),
                other => panic!("not {other:?}"),
            };
            (rig, found)
        },
        found: &["node"],
        repaired: &["attribute-removed", "inode", "live-count", "node", "unreachable-node"],
        status: 1,
    },
    Kind {
        name: "a page of the segment table is damaged",
        on: On::All,
        inject: |base| {
            let drive = &base.rig.drives[0];
            let page = Page::from_bytes(peek(drive, newest(drive)[0].1.roots.map_addr));
            let Entry::At(addr, _) = entry(&page, 1) else { panic!("there is a first page") };
            let reason = format!("corrupt segment table at {addr}: page 0 fails its checksum");
            (flipped(&base.rig, addr, 700, 3), Finding::SegmentPage { page: 0, reason })
        },
        found: &["not-replayed", "segment-page"],
        repaired: &["live-count", "segment-page", "zone"],
        status: 1,
    },
    Kind {
        name: "the map says that a node lies outside the volume",
        on: On::All,
        inject: |base| {
            let mut id = 0;
            let rig = forged(base, |record, page| {
                (id, record.roots.next_id) = (record.roots.next_id, record.roots.next_id + 1);
                set_entry(page, id as usize, Entry::At(at(9999, 7), 1));
            });
            (rig, Finding::MapEntry { id: format!("node {}", NodeId(id)), addr: at(9999, 7), reason: "lies outside the volume".into() })
        },
        found: &["map-entry"],
        repaired: &["map-entry"],
        status: 1,
    },
    Kind {
        name: "the map has two nodes at one place",
        on: On::All,
        inject: |base| {
            let (mut id, mut other) = (0, (0, at(0, 0), 0));
            let rig = forged(base, |record, page| {
                other = last_node(page);
                (id, record.roots.next_id) = (record.roots.next_id, record.roots.next_id + 1);
                set_entry(page, id as usize, Entry::At(other.1, other.2));
            });
            let name = |id| format!("node {}", NodeId(id));
            (rig, Finding::MapTwice { first: name(other.0), second: name(id), addr: other.1 })
        },
        found: &["live-count", "map-twice", "2 not-in-header", "unreachable-node"],
        repaired: &["unreachable-node"],
        status: 1,
    },
    Kind {
        name: "the map has a node that was never given out",
        on: On::All,
        inject: |base| {
            let mut id = 0;
            let rig = forged(base, |record, page| {
                id = record.roots.next_id + 1;
                set_entry(page, id as usize, Entry::At(last_node(page).1, 1));
            });
            (rig, Finding::MapBeyondEnd { id })
        },
        found: &["map-beyond-end"],
        repaired: &["map-entry"],
        status: 1,
    },
    Kind {
        name: "the map has a node where data lies",
        on: On::All,
        inject: |base| {
            let addr = data_of_big(base);
            let rig = forged(base, |record, page| {
                let id = record.roots.next_id;
                record.roots.next_id += 1;
                set_entry(page, id as usize, Entry::At(addr, 1));
            });
            (rig, Finding::DataOverMetadata { addr, ino: base.big, block: 0 })
        },
        found: &["data-over-metadata", "live-count", "map-entry", "not-in-header", "unreachable-node"],
        repaired: &["unreachable-node"],
        status: 1,
    },
    Kind {
        name: "the chain of free ids leads to a node",
        on: On::All,
        inject: |base| {
            let mut id = 0;
            let rig = forged(base, |record, page| {
                id = last_node(page).0;
                record.roots.free_head = id;
            });
            (rig, Finding::FreeChain { id, reason: "it is not free" })
        },
        found: &["free-chain"],
        repaired: &["free-ids"],
        status: 1,
    },
    Kind {
        name: "the chain of free ids goes in circles",
        on: On::All,
        inject: |base| {
            let mut id = 0;
            let rig = forged(base, |record, page| {
                (id, record.roots.next_id) = (record.roots.next_id, record.roots.next_id + 1);
                set_entry(page, id as usize, Entry::Free(NodeId(id)));
                record.roots.free_head = id;
            });
            (rig, Finding::FreeChain { id, reason: "it goes in circles" })
        },
        found: &["free-chain"],
        repaired: &["free-ids"],
        status: 1,
    },
    Kind {
        name: "free ids that are not in the chain",
        on: On::All,
        inject: |base| {
            let rig = forged(base, |record, page| {
                for _ in 0..3 {
                    set_entry(page, record.roots.next_id as usize, Entry::Free(NodeId(0)));
                    record.roots.next_id += 1;
                }
            });
            (rig, Finding::FreeIdsLost { count: 3 })
        },
        found: &["free-ids-lost"],
        repaired: &[],
        status: 0,
    },
    Kind {
        name: "a file without a name that was open",
        on: On::All,
        inject: |base| {
            let mut ino = Ino(0);
            let rig = cut_off(base, |volume| {
                ino = make(volume, Ino::ROOT, "open");
                volume.unlink(Ino::ROOT, b"open").expect("gone");
                volume.sync().expect("synced");
            });
            (rig, Finding::Orphan { ino })
        },
        found: &["orphan"],
        repaired: &[],
        status: 1,
    },
    Kind {
        name: "a block of data that cannot be read",
        on: On::All,
        inject: |base| {
            let rig = fork(&base.rig);
            let addr = data_of_big(base);
            let (lba, _) = place(&rig.drives[0], addr);
            rig.drives[0].add_bad_block(lba);
            let report = check(fork(&rig).devices(), CheckOptions::default()).expect("there is a volume");
            let reason = match report.problems().first() {
                Some(Finding::Unreadable { reason, .. }) => reason.clone(),
                other => format!("not {other:?}"),
            };
            (rig, Finding::Unreadable { ino: base.big, block: 0, addr, reason })
        },
        found: &["unreadable"],
        repaired: &[],
        status: 4,
    },
    Kind {
        name: "a zone that is offline",
        on: On::Zoned,
        inject: |base| {
            let rig = fork(&base.rig);
            let zone = zone_of_small_files(base);
            rig.drives[0].wear_out(zone.0.zone(), ZoneState::Offline);
            (rig, Finding::ZoneFailed { zone: zone.0, state: "offline", live: zone.1 })
        },
        found: &["? unreadable", "zone-failed"],
        repaired: &[],
        status: 4,
    },
    Kind {
        name: "a zone that was emptied",
        on: On::Zoned,
        inject: |base| {
            let rig = fork(&base.rig);
            let (zone, _, end) = zone_of_small_files(base);
            rig.drives[0].open().manage(zone.zone(), ZoneAction::Reset).expect("reset");
            (rig, Finding::WritePointer { zone, block: end - 1, pointer: 0 })
        },
        found: &["? data", "write-pointer"],
        repaired: &[],
        status: 4,
    },
];

/// A zone with data: how many blocks of it are live, and where they end.
fn zone_of_small_files(base: &Base) -> (Addr, u32, u32) {
    let zone = data_of_big(base).zone_base();
    let mut rig = fork(&base.rig);
    let volume = rig.mount();
    let live = volume.state.lock().zones.entry(zone).expect("there").live;
    let runs = volume.ask(|state| {
        let mut end = 0;
        let done = state.tree.scan(&Key::summary(zone), &Key::summary(zone.plus(255)), |key, value| {
            let summary = crate::format::item::Summary::decode(Addr(key.a), value).expect("sound");
            end = end.max(summary.addr.block() + summary.blocks);
            std::ops::ControlFlow::Continue(())
        });
        done.map(|_| end).map_err(Into::into)
    });
    assert_eq!(volume.state.lock().zones.entry(zone).expect("there").role, Role::User);
    (zone, live, runs.expect("asked"))
}

/// By kinds; where the table says `?`, how many there are is not told.
fn told(findings: &[Finding], expected: &[&str]) -> Vec<String> {
    let kinds = labels(findings, &[]);
    let any: BTreeSet<&str> = expected.iter().filter_map(|kind| kind.strip_prefix("? ")).collect();
    let shown = |kind: String| match kind.split_once(' ') {
        Some((_, bare)) if any.contains(bare) => format!("? {bare}"),
        _ => kind,
    };
    kinds.into_iter().map(shown).collect()
}

fn repairs(report: &RepairReport) -> BTreeSet<String> {
    let kind = |done: &super::super::repair::Done| serde_json::to_value(&done.repair).expect("plain data")["repair"].to_string();
    report.repairs.iter().map(|done| kind(done).trim_matches('"').to_owned()).collect()
}

#[test]
fn every_kind_of_damage_to_the_media_is_found_as_what_it_is() {
    let mut wrong = String::new();
    for (drive, config) in [("zoned", SimConfig::zoned(64, 1)), ("conventional", SimConfig::conventional(64, 1))] {
        let base = base_on(config);
        for Kind { name, on, inject, found, repaired, status } in KINDS {
            if *on == On::Zoned && drive == "conventional" {
                continue;
            }
            let name = format!("{drive}: {name}");
            let (rig, exact) = inject(&base);
            let report = repair(&rig.devices(), CheckOptions::default).unwrap_or_else(|error| panic!("{name}: {error}"));
            let before: Vec<Finding> = report.before.findings.iter().map(|found| found.finding.clone()).collect();
            if told(&before, found) != *found {
                let _ = writeln!(wrong, "{name}: found {:?}", told(&before, found));
            }
            if !before.contains(&exact) {
                let _ = writeln!(wrong, "{name}: no {exact:?} among {:?}", before.iter().take(8).collect::<Vec<_>>());
            }
            let done = repairs(&report);
            if !done.iter().eq(*repaired) {
                let _ = writeln!(wrong, "{name}: repaired {done:?}\n{report}");
            }
            if crate::cli::fsck::status_of_repair(&report) != *status {
                let _ = writeln!(wrong, "{name}: {report}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// All kinds, by name. A new one does not compile before it is written here.
macro_rules! all_kinds {
    ($($kind:ident)*) => {
        const ALL: &[&str] = &[$(stringify!($kind)),*];
        fn name_of(finding: &Finding) -> &'static str {
            match finding {
                $(Finding::$kind { .. } => stringify!($kind),)*
            }
        }
    };
}

all_kinds! {
    OldSuperblock TornSuperblock NewestSuperblock RingUnreadable BehindByOne NoZoneReport LogStart CheckpointLost NothingFound LogDamaged NotReplayed
    MapPage MapEntry MapTwice MapBeyondEnd UnreachableNode FreeChain FreeIdsLost SegmentPage NotInHeader Node Item
    NoRoot InoNeverGiven Inode LinkCount Unnamed EntryCount ManyNames Parent Loop Orphan LostOrphan Intent DanglingEntry EntryOfNothing EntryKind
    EntryPlace EntryTwice EntryName Target AttributeTotals Attribute AccessList ContentLost Belongings
    BlockCount BeyondEnd ExtentOverlap Extent OwnedTwice DataOverMetadata NoSummary WrongSummary Summary NoChecksum StrayChecksums Data Unreadable
    LiveCount BeyondWritten Zone WritePointer ZoneFailed Total
}

#[test]
fn no_kind_of_finding_is_without_its_damage() {
    let tables = kinds::found().chain(KINDS.iter().flat_map(|kind| kind.found.iter().copied()));
    let kebab = |kind: &str| {
        let bare = kind.split(',').next().expect("a kind");
        bare.rsplit(' ').next().expect("a kind").to_owned()
    };
    let in_tables: BTreeSet<String> = tables.map(kebab).collect();
    let as_told = |camel: &str| {
        let mut told = String::new();
        for (n, letter) in camel.char_indices() {
            if letter.is_uppercase() && n > 0 {
                told.push('-');
            }
            told.push(letter.to_ascii_lowercase());
        }
        told
    };
    let missing: Vec<_> = ALL.iter().filter(|kind| !in_tables.contains(&as_told(kind))).collect();
    assert!(missing.is_empty(), "no damage in the tables is found as {missing:?}");
    assert_eq!(name_of(&Finding::NoRoot), "NoRoot");
}
