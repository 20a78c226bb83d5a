//! FORMAT.md says what the code does: each table of fields is held against an encoded block.

use fs::core::nodes::map::{self, Entry};
use fs::core::page::{Page, SortKey};
use fs::core::{BlockId, Class, Key};
use fs::format::item::{Extent, Inode, Summary, Timestamp};
use fs::format::log::Fragment;
use fs::format::segment::{Phase, Role, SegmentEntry};
use fs::format::superblock::{Features, LogStart, Member, Reserves, RootPointers, Superblock, SuperblockError};
use fs::format::{batch, log, segment};
use fs::{Addr, FileBlock, Ino, NodeId};
use gc::placement::{Estimate, Population};
use std::collections::BTreeMap;

struct Field {
    offset: usize,
    bytes: usize,
    name: String,
}

/// The table below a heading of FORMAT.md; its fields lie one behind the other.
fn table(heading: &str) -> Vec<Field> {
    let text = include_str!("../FORMAT.md");
    let (_, below) = text.split_once(&format!("### {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let rows = below.lines().skip_while(|line| !line.starts_with("| 0 |")).take_while(|line| line.starts_with('|'));
    let fields: Vec<Field> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            Field { offset: cells[1].parse().unwrap(), bytes: cells[2].parse().unwrap(), name: cells[3].to_string() }
        })
        .collect();
    for pair in fields.windows(2) {
        assert_eq!(pair[0].offset + pair[0].bytes, pair[1].offset, "{heading}: {} is followed by {}", pair[0].name, pair[1].name);
    }
    fields
}

/// What stands at each field of the block must be the value expected of it; reserved bytes are zero; nothing is left out. Returns the length.
fn compare(heading: &str, block: &[u8], expected: &[(&str, &[u8])]) -> usize {
    let mut expected: BTreeMap<&str, &[u8]> = expected.iter().copied().collect();
    let fields = table(heading);
    for field in &fields {
        let found = &block[field.offset..field.offset + field.bytes];
        if field.name == "reserved" {
            assert!(found.iter().all(|&byte| byte == 0), "{heading}: {} at {}", field.name, field.offset);
        } else if field.name == "checksum" {
            assert!(field.bytes == 4 && found != [0; 4], "{heading}: checksum");
        } else {
            let wanted = expected.remove(field.name.as_str()).unwrap_or_else(|| panic!("{heading}: unknown field {}", field.name));
            assert_eq!(found, wanted, "{heading}: {}", field.name);
        }
    }
    assert!(expected.is_empty(), "{heading} lacks {:?}", expected.keys());
    fields.last().map_or(0, |last| last.offset + last.bytes)
}

#[test]
fn the_page_is_about_the_version_that_the_code_writes() {
    let version = format!("Version {}. ", fs::format::superblock::VERSION);
    assert!(include_str!("../FORMAT.md").lines().any(|line| line.starts_with(&version)));
}

#[test]
fn a_superblock_with_numbers_that_cannot_be_is_refused() {
    let sound = record();
    assert_eq!(Superblock::decode(&sound.encode()[..]).as_ref(), Ok(&sound));
    let refused = |change: &dyn Fn(&mut Superblock)| {
        let mut record = sound.clone();
        change(&mut record);
        let decoded = Superblock::decode(&record.encode()[..]);
        assert!(matches!(decoded, Err(SuperblockError::Invalid(_))), "{decoded:?}");
    };
    refused(&|record| record.generation = u64::MAX);
    refused(&|record| record.epoch = 1 << 62);
    refused(&|record| record.next_ino = u64::MAX);
    refused(&|record| record.clock = 1 << 51);
    refused(&|record| record.unwritten = 1 << 51);
    refused(&|record| record.log.batch = u64::MAX);
    refused(&|record| record.log.sequence = u64::MAX);
    refused(&|record| record.roots.next_id = u64::MAX);
    refused(&|record| record.reserves.gc_zones = u32::MAX);
    refused(&|record| record.reserves.dirty_blocks = u32::MAX);
    refused(&|record| record.population = Population::of([1 << 62; 256]));
    refused(&|record| record.members[1].zones = u32::MAX);
    refused(&|record| record.members[0].zone_blocks = u64::MAX);
}

fn record() -> Superblock {
    let member = Member { uuid: [0xa1; 16], block_size: 512, zones: 0x0102, zone_blocks: 0x0a0b_0c0d, zone_capacity: 0x0906 };
    Superblock {
        features: Features { compatible: 0x11, read_only: 0x12, incompatible: 0x13 },
        uuid: [0x21; 16],
        label: "a label".into(),
        generation: 0x31,
        device: 1,
        clean: true,
        epoch: 0x32,
        secret: [0x33; 32],
        hash_key: [0x34; 16],
        created: Timestamp { sec: 0x35, nsec: 0x36 },
        next_ino: 0x41,
        clock: 0x42,
        unwritten: 0x43,
        population: Population::of(std::array::from_fn(|estimate| estimate as u64 * 3)),
        inodes: 0x44,
        reserves: Reserves { log_zones: 0x51, gc_zones: 0x52, checkpoint_zones: 0x53, dirty_blocks: 0x54 },
        roots: RootPointers { tree_root: NodeId(0x61), map_addr: Addr(0x62), map_crc: 0x63, map_levels: 4, next_id: 0x65, free_head: 0x66 },
        log: LogStart { addr: Addr(0x71), next_zone: Addr(0x72), sequence: 0x73, previous: 0x74, batch: 0x75 },
        members: vec![member, member],
    }
}

#[test]
fn superblock() {
    let record = record();
    let block = fs::format::superblock::second_copy(&record.encode());
    let word = |n: u64| n.to_le_bytes();
    let half = |n: u32| n.to_le_bytes();
    let mut label = [0; 64];
    label[..7].copy_from_slice(b"a label");
    compare(
        "Superblock record",
        &block[..],
        &[
            ("magic", b"FerryFS\0"),
            ("version", &half(3)),
            ("compatible", &word(0x11)),
            ("read_only", &word(0x12)),
            ("incompatible", &word(0x13)),
            ("uuid", &[0x21; 16]),
            ("label", &label),
            ("generation", &word(0x31)),
            ("device", &[1]),
            ("clean", &[1]),
            ("label_len", &[7]),
            ("map_levels", &[4]),
            ("members", &[2, 0]),
            ("copy", &[1]),
            ("epoch", &word(0x32)),
            ("secret", &[0x33; 32]),
            ("hash_key", &[0x34; 16]),
            ("created_sec", &word(0x35)),
            ("created_nsec", &half(0x36)),
            ("map_crc", &half(0x63)),
            ("next_ino", &word(0x41)),
            ("clock", &word(0x42)),
            ("unwritten", &word(0x43)),
            ("inodes", &word(0x44)),
            ("log_zones", &half(0x51)),
            ("gc_zones", &half(0x52)),
            ("checkpoint_zones", &half(0x53)),
            ("dirty_blocks", &half(0x54)),
            ("tree_root", &word(0x61)),
            ("map_addr", &word(0x62)),
            ("next_id", &word(0x65)),
            ("free_head", &word(0x66)),
            ("log_addr", &word(0x71)),
            ("log_next_zone", &word(0x72)),
            ("log_sequence", &word(0x73)),
            ("log_batch", &word(0x75)),
            ("log_previous", &half(0x74)),
        ],
    );
    let line = [
        ("uuid", &[0xa1; 16][..]),
        ("block_size", &half(512)),
        ("zones", &half(0x0102)),
        ("zone_blocks", &word(0x0a0b_0c0d)),
        ("zone_capacity", &half(0x0906)),
    ];
    for at in [1024, 1088] {
        assert_eq!(compare("Member table", &block[at..], &line), 64);
    }
    let estimates = &block[3072..];
    assert_eq!(
        (estimates[..4].to_vec(), &estimates[44..47]),
        (vec![0, 0, 3, 6], &[0x81, 1, 0x84][..]),
        "43 numbers below 128, then two bytes each"
    );
}

#[test]
fn estimates_have_room_in_a_volume_of_any_size() {
    let with = |counts: [u64; 256]| {
        let mut record = record();
        record.population = Population::of(counts);
        Superblock::decode(&record.encode()[..]).expect("sound").population
    };
    // Four bytes for each that is ever used: as much as there is room for.
    let exact = std::array::from_fn(|estimate| if estimate < 245 { (1 << 28) - 1 } else { 0 });
    assert_eq!(with(exact), Population::of(exact));
    let huge = [(1 << 43) - 1; 256];
    let kept = with(huge);
    assert!(kept.counts().iter().all(|count| huge[0] - count < huge[0] >> 20), "{:?}", kept.counts()[0]);
    let mut record = record();
    record.population = Population::of([1 << 43; 256]);
    assert!(matches!(Superblock::decode(&record.encode()[..]), Err(SuperblockError::Invalid(_))));
}

#[test]
fn metadata_blocks() {
    let page = batch::encode(0x77, &[BlockId::Map { level: 2, index: 5 }, BlockId::Node(NodeId(9))]);
    let first = 3u64 << 56 | 5;
    let header: [(&str, &[u8]); 4] =
        [("magic", b"FyBatch1"), ("generation", &0x77u64.to_le_bytes()), ("count", &2u32.to_le_bytes()), ("id", &first.to_le_bytes())];
    assert_eq!(compare("Header of metadata blocks", &page, &header), 40);
    assert_eq!(batch::MAX_BLOCKS, 508);

    let mut page = map::blank(1, 0x0102);
    map::set_entry(&mut page, 0, Entry::At(Addr(0x0a0b), 0x0c0d));
    let (index, word, crc) = (0x0102u64.to_le_bytes(), 0x0a0bu64.to_le_bytes(), 0x0c0du32.to_le_bytes());
    let fields: [(&str, &[u8]); 8] = [
        ("magic", b"FeND"),
        ("version", &[2]),
        ("level", &[1]),
        ("kind", &[2]),
        ("index", &index),
        ("word", &word),
        ("crc", &crc),
        ("flags", &[0; 4]),
    ];
    assert_eq!(compare("Node map page", page.bytes(), &fields), 32);

    let (temperature, class, opened_at) = (gc::placement::Temperature(0x15), 2, 0x16);
    let (role, phase) = (Role::User, Phase::Closed);
    let entry = SegmentEntry { role, phase, live: 0x11, written: 0x12, written_at: 0x13, resets: 0x14, temperature, class, opened_at };
    let page = segment::encode_page(7, &[entry]);
    let (live, written, resets, at) = (0x11u32.to_le_bytes(), 0x12u32.to_le_bytes(), 0x14u32.to_le_bytes(), 0x13u64.to_le_bytes());
    let opened = 0x16u64.to_le_bytes();
    let fields: [(&str, &[u8]); 13] = [
        ("magic", b"FySg"),
        ("version", &[1, 0]),
        ("index", &[7, 0, 0, 0]),
        ("count", &[1, 0, 0, 0]),
        ("role", &[4]),
        ("phase", &[2]),
        ("temperature", &[0x15]),
        ("class", &[2]),
        ("live", &live),
        ("written", &written),
        ("resets", &resets),
        ("written_at", &at),
        ("opened_at", &opened),
    ];
    assert_eq!(compare("Segment table page", &page[..], &fields), 64);

    let mut page = Page::node(NodeId(0x0807), 0);
    let key = Key::new(Class::Intent, 2, 3);
    assert!(page.insert(0, SortKey::from(&key), b"value"));
    let heap = (4096u16 - 4 - 5).to_le_bytes();
    let fields: [(&str, &[u8]); 9] = [
        ("magic", b"FeND"),
        ("version", &[2]),
        ("level", &[0]),
        ("kind", &[1]),
        ("id", &0x0807u64.to_le_bytes()),
        ("count", &[1, 0]),
        ("heap", &heap),
        ("garbage", &[0, 0]),
        ("latest", &[1, 0]),
    ];
    assert_eq!(compare("Tree node", page.bytes(), &fields), 32);
    assert_eq!(page.bytes()[32..36], [heap[0], heap[1], 5, 0]);
    assert_eq!(page.bytes()[4096 - 9..4096 - 5], [0x91, 1, 2, 3]);
}

#[test]
fn items() {
    let at = |n: i64| Timestamp { sec: n, nsec: n as u32 + 1 };
    let inode = Inode {
        ino: Ino(1),
        size: 1,
        blocks: 2,
        generation: 3,
        parent: Ino(4),
        entries: 5,
        mode: 6,
        uid: 7,
        gid: 8,
        nlink: 9,
        rdev: 10,
        flags: 11,
        atime: at(12),
        mtime: at(14),
        ctime: at(16),
        btime: at(18),
    };
    let words: Vec<[u8; 8]> = (0..20u64).map(u64::to_le_bytes).collect();
    let mut fields: Vec<(&str, &[u8])> = Vec::new();
    for (name, n) in [("size", 1), ("blocks", 2), ("generation", 3), ("parent", 4), ("entries", 5)] {
        fields.push((name, &words[n]));
    }
    for (name, n) in [("mode", 6), ("uid", 7), ("gid", 8), ("nlink", 9), ("rdev", 10), ("flags", 11)] {
        fields.push((name, &words[n][..4]));
    }
    for (name, n) in [("atime_sec", 12), ("mtime_sec", 14), ("ctime_sec", 16), ("btime_sec", 18)] {
        fields.push((name, &words[n]));
    }
    for (name, n) in [("atime_nsec", 13), ("mtime_nsec", 15), ("ctime_nsec", 17), ("btime_nsec", 19)] {
        fields.push((name, &words[n][..4]));
    }
    let value = inode.encode();
    assert_eq!(compare("Inode", &value, &fields), value.len());

    let extent = Extent { block: FileBlock(9), blocks: 7, addr: Addr(5), estimate: Estimate(8) }.encode();
    assert_eq!(extent, [0xff, 7, 8, 5]);
    assert_eq!(Extent { block: FileBlock(9), blocks: 1, addr: Addr(5), estimate: Estimate(8) }.encode(), [8, 5]);
    assert_eq!(
        Extent { block: FileBlock(9), blocks: 300, addr: Addr(0x0102_0300), estimate: Estimate(0) }.encode(),
        [0xff, 0xac, 2, 0, 0, 3, 2, 1]
    );
    let summary = Summary { addr: Addr(1), blocks: 7, ino: Ino(5), block: FileBlock(6) }.encode();
    assert_eq!(summary, [7, 5, 6]);
}

#[test]
fn log_fragment() {
    let fragment = Fragment {
        sequence: 1,
        epoch: 2,
        batch: 3,
        first: true,
        last: true,
        blocks: 1,
        body: 4,
        flushed: 5,
        next_zone: Addr(6),
        previous: 7,
    };
    let mut out = vec![0; 4096];
    log::encode(&fragment, &[9; 32], b"body", &mut out);
    let words: Vec<[u8; 8]> = (0..8u64).map(u64::to_le_bytes).collect();
    let length = compare(
        "Log fragment",
        &out,
        &[
            ("magic", b"FyLg"),
            ("version", &[1, 0]),
            ("flags", &[3, 0]),
            ("previous", &words[7][..4]),
            ("sequence", &words[1]),
            ("epoch", &words[2]),
            ("batch", &words[3]),
            ("flushed", &words[5]),
            ("next_zone", &words[6]),
            ("blocks", &words[1][..4]),
            ("body", &words[4][..4]),
        ],
    );
    assert_eq!((length, &out[length..length + 4]), (log::HEADER, &b"body"[..]));
}
