//! Layouts against a naive model that asks for one byte at a time, and every kind of layer from a made-up system.

use super::layout::{Layout, Mapping, Segment};
use super::mapper::TableLine;
use super::raid::{Array, Member};
use super::resolve::{MadeOf, stand_of};
use super::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use zns::Backing;

fn real(minor: u32, size: u64) -> Arc<RealDevice> {
    let name = format!("real{minor}");
    Arc::new(RealDevice { number: DevNumber { major: 1, minor }, path: Path::new("/dev").join(&name), name, size, block_size: 512 })
}

/// Where one byte lies: by the definition of each mapping, without ranges and without joining.
fn naive(layout: &Layout, byte: u64) -> Option<(u32, u64)> {
    match layout {
        Layout::Opaque(_) => None,
        Layout::Real(device) => (byte < device.size).then_some((device.number.minor, byte)),
        Layout::Segments(segments) => {
            let mut start = 0;
            for segment in segments {
                if byte < start + segment.len {
                    let within = byte - start;
                    return match &segment.on {
                        Mapping::Opaque(_) => None,
                        Mapping::Linear { below, offset } => naive(below, offset + within),
                        Mapping::Striped { chunk, legs } => {
                            let count = legs.len() as u64;
                            let (leg, first) = &legs[(within / chunk % count) as usize];
                            naive(leg, first + within / chunk / count * chunk + within % chunk)
                        }
                    };
                }
                start += segment.len;
            }
            None
        }
    }
}

fn layouts() -> impl Strategy<Value = Arc<Layout>> {
    let leaf = prop_oneof![
        8 => (0..5u32, 20..200u64).prop_map(|(minor, size)| Arc::new(Layout::Real(real(minor, size)))),
        1 => Just(Arc::new(Layout::Opaque("opaque".into()))),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let linear = (inner.clone(), 0..40u64).prop_map(|(below, offset)| Mapping::Linear { below, offset });
        let striped =
            (1..9u64, proptest::collection::vec((inner, 0..20u64), 1..4)).prop_map(|(chunk, legs)| Mapping::Striped { chunk, legs });
        let mapping = prop_oneof![4 => linear, 4 => striped, 1 => Just(Mapping::Opaque("opaque".into()))];
        proptest::collection::vec((1..60u64, mapping), 1..4)
            .prop_map(|segments| Arc::new(Layout::Segments(segments.into_iter().map(|(len, on)| Segment { len, on }).collect())))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn translation_equals_asking_byte_by_byte(layout in layouts(), start in 0..150u64, len in 0..80u64) {
        let expected: Option<Vec<(u32, u64)>> = (start..start + len).map(|byte| naive(&layout, byte)).collect();
        let pieces = layout.translate(start..start + len);
        let found = pieces.clone().ok().map(|pieces| {
            let bytes = |piece: &Piece| {
                let (minor, offset) = (piece.device.number.minor, piece.offset);
                (0..piece.len).map(move |i| (minor, offset + i)).collect::<Vec<_>>()
            };
            pieces.iter().flat_map(bytes).collect::<Vec<_>>()
        });
        prop_assert_eq!(found, expected);
        // Neighbours are joined and nothing is empty.
        let pieces = pieces.unwrap_or_default();
        prop_assert!(pieces.iter().all(|piece| piece.len > 0));
        prop_assert!(pieces.windows(2).all(|two| two[0].device != two[1].device || two[0].offset + two[0].len != two[1].offset));
    }

    /// raid0 over unequal members, against the kernel's own way of finding a sector (drivers/md/raid0.c).
    #[test]
    fn raid0_lies_where_the_kernel_puts_it(sizes in proptest::collection::vec(1..12u64, 1..5), alternate in any::<bool>()) {
        const CHUNK: u64 = 4;
        let members: Vec<Member> = (0..).zip(&sizes).map(|(minor, chunks)| {
            Member { device: DevNumber { major: 1, minor }, offset: 10 * u64::from(minor), size: chunks * CHUNK + u64::from(minor) % CHUNK }
        }).collect();
        let disks = members.len() as u64;
        let array = Array { level: "raid0".into(), layout: if alternate { 2 } else { 1 }, chunk: CHUNK, reshaping: false, disks, members };
        let layout = raid::layout_of(&array, &mut |device| Arc::new(Layout::Real(real(device.minor, 1 << 20)))).unwrap();
        let total: u64 = sizes.iter().sum::<u64>() * CHUNK;
        for byte in 0..total {
            prop_assert_eq!(naive(&layout, byte), Some(kernel_raid0(&sizes, CHUNK, alternate, byte)));
        }
        prop_assert!(layout.translate(0..total).is_ok() && layout.translate(0..total + 1).is_err());
    }
}

/// `create_strip_zones`, `find_zone` and `map_sector`, in bytes.
fn kernel_raid0(sizes: &[u64], chunk: u64, alternate: bool, byte: u64) -> (u32, u64) {
    let (mut zone_start, mut dev_start) = (0, 0);
    loop {
        let larger: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] * chunk > dev_start).collect();
        let smallest = larger.iter().map(|&i| sizes[i] * chunk).min().unwrap();
        let zone_len = (smallest - dev_start) * larger.len() as u64;
        if byte < zone_start + zone_len {
            let offset = byte - zone_start;
            let sector = if alternate { offset } else { byte };
            let dev = larger[(sector / chunk % larger.len() as u64) as usize];
            let row = offset / (chunk * larger.len() as u64);
            return (dev as u32, 10 * dev as u64 + dev_start + row * chunk + sector % chunk);
        }
        (zone_start, dev_start) = (zone_start + zone_len, smallest);
    }
}

/// A system made up for a test. Names are "n" and the minor number.
#[derive(Default)]
struct MadeUp(Mutex<HashMap<u32, Seen>>);

const MIB: u64 = 1 << 20;

impl MadeUp {
    fn put(&self, minor: u32, size: u64, made_of: MadeOf) {
        let name = format!("n{minor}");
        let seen = Seen { path: Path::new("/dev").join(&name), name, size, block_size: 512, made_of };
        self.0.lock().insert(minor, seen);
    }
    fn table(&self, minor: u32, event: u32, lines: &[(u64, u64, &str, &str)]) {
        let line =
            |&(start, len, target, params): &(u64, u64, &str, &str)| TableLine { start, len, target: target.into(), params: params.into() };
        let size = lines.iter().fold(0u64, |sum, line| sum.saturating_add(line.1.saturating_mul(512)));
        self.put(minor, size, MadeOf::Mapper(Ok((event, lines.iter().map(line).collect()))));
    }
    fn stand(&self, minor: u32, below: &str) -> Stand {
        let backing = Backing { path: PathBuf::from(format!("/dev/n{minor}")), block_device: true, offset: 0, len: MIB, read_only: false };
        stand_of(self, &backing, below.parse().unwrap())
    }
    fn reason(&self, minor: u32) -> String {
        self.stand(minor, "dm,md").devices().unwrap_err()
    }
}

impl System for MadeUp {
    fn number_of(&self, path: &Path) -> Result<DevNumber, String> {
        let minor = path.file_name().and_then(|name| name.to_str()?.strip_prefix('n')?.parse().ok());
        minor.map(|minor| DevNumber { major: 8, minor }).ok_or_else(|| "no such device".into())
    }
    fn see(&self, device: DevNumber) -> Result<Seen, String> {
        self.0.lock().get(&device.minor).cloned().ok_or_else(|| format!("device {device} is not in sysfs"))
    }
}

fn brief(pieces: Result<Vec<Piece>, String>) -> Vec<(String, u64, u64)> {
    pieces.unwrap().into_iter().map(|piece| (piece.device.name.clone(), piece.offset, piece.len)).collect()
}

#[test]
fn partitions_and_tables_are_looked_through_down_to_real_devices() {
    let system = MadeUp::default();
    system.put(0, 100 * MIB, MadeOf::Itself);
    system.put(1, 100 * MIB, MadeOf::Itself);
    system.put(2, 10 * MIB, MadeOf::Partition { disk: DevNumber { major: 8, minor: 0 }, start: 5 * MIB });
    assert_eq!(brief(system.stand(2, "none").pieces(MIB..3 * MIB)), [("n0".into(), 6 * MIB, 2 * MIB)]);
    assert_eq!(system.stand(2, "none").layers().count(), 0);
    // Two segments: one on the partition, one on the other disk.
    system.table(3, 0, &[(0, 2048, "linear", "8:2 2048"), (2048, 4096, "linear", "8:1 8192")]);
    let stand = system.stand(3, "dm");
    assert_eq!(brief(stand.pieces(MIB / 2..2 * MIB)), [("n0".into(), 6 * MIB + MIB / 2, MIB / 2), ("n1".into(), 4 * MIB, MIB)]);
    assert_eq!(stand.layers().collect::<Vec<_>>(), ["n3"]);
    assert!(stand.pieces(0..4 * MIB).unwrap_err().contains("mapped nowhere"));
    // Stripes, and a table on a table.
    system.table(4, 0, &[(0, 4096, "striped", "2 128 8:0 0 8:1 2048")]);
    system.table(5, 0, &[(0, 2048, "linear", "8:4 128")]);
    let chunk = 64 << 10;
    let expected = [("n1".into(), MIB, chunk), ("n0".into(), chunk, chunk), ("n1".into(), MIB + chunk, 512)];
    assert_eq!(brief(system.stand(5, "dm").pieces(0..2 * chunk + 512)), expected);
    // Multipath as the kernel prints it: features, handler, two groups with one path each.
    system.table(6, 0, &[(0, 204_800, "multipath", "1 queue_if_no_path 0 2 1 service-time 0 1 2 8:0 1 1 service-time 0 1 2 8:1 1 1")]);
    assert_eq!(brief(system.stand(6, "dm").pieces(MIB..2 * MIB)), [("n0".into(), MIB, MIB)]);
}

#[test]
fn a_changed_table_is_noticed() {
    let system = MadeUp::default();
    system.put(0, 100 * MIB, MadeOf::Itself);
    system.table(1, 3, &[(0, 2048, "linear", "8:0 0")]);
    let stand = system.stand(1, "dm");
    assert!(stand.unchanged(&system));
    system.table(1, 4, &[(0, 2048, "linear", "8:0 0")]);
    assert!(!stand.unchanged(&system), "another event");
    system.table(1, 3, &[(0, 2048, "linear", "8:0 2048")]);
    assert!(!stand.unchanged(&system), "another place");
    system.0.lock().remove(&1);
    assert!(!stand.unchanged(&system), "no longer there");
}

#[test]
fn layers_below_which_nobody_may_look_say_why() {
    let system = MadeUp::default();
    system.put(0, 100 * MIB, MadeOf::Itself);
    for (target, word) in [
        ("crypt", "encrypts"),
        ("integrity", "checksums"),
        ("verity", "checksums"),
        ("snapshot", "shared"),
        ("thin", "place"),
        ("raid", "parity"),
        ("cache", "cache"),
        ("flakey", "spoil"),
        ("strange", "cannot look through"),
    ] {
        system.table(1, 0, &[(0, 1024, "linear", "8:0 0"), (1024, 1024, target, "8:0 0")]);
        let reason = system.reason(1);
        assert!(reason.contains(word) && reason.contains(target), "{reason}");
        assert!(system.stand(1, "dm").pieces(0..MIB).is_err() && system.stand(1, "dm").pieces(0..512 * 1024).is_ok());
    }
    assert!(system.stand(1, "md").devices().unwrap_err().contains("offload_below=dm"));
    for (table, word) in [
        (vec![], "no table"),
        (vec![(8, 1, "linear", "8:0 0")], "hole"),
        (vec![(0, 1, "linear", "8:0")], "number"),
        (vec![(0, 1, "linear", "x 0")], "device"),
        (vec![(0, 1, "striped", "0 8")], "0 stripes"),
        (vec![(0, u64::MAX, "linear", "8:0 0")], "longer"),
        (vec![(0, 1, "linear", "8:0 18446744073709551615")], "too large"),
        (vec![(0, 1, "multipath", "0 0 1 1 round-robin 0 1 1 8:7 1")], "no path"),
    ] {
        system.table(1, 0, &table);
        let reason = system.reason(1);
        assert!(reason.contains(word), "{reason}");
    }
    system.put(1, MIB, MadeOf::Mapper(Err("root may do it".into())));
    assert!(system.reason(1).contains("root"));
    // A table on itself ends.
    system.table(1, 0, &[(0, 1, "linear", "8:1 0")]);
    assert!(system.reason(1).contains("too many layers"));
    let array = |level: &str, disks, reshaping| {
        let members = (0..2).map(|_| Member { device: DevNumber { major: 8, minor: 0 }, offset: 0, size: MIB }).collect();
        MadeOf::Array(Array { level: level.into(), layout: 0, chunk: 4096, reshaping, disks, members })
    };
    for (level, disks, reshaping, word) in [
        ("raid1", 2, false, "copies"),
        ("raid10", 2, false, "copies"),
        ("raid6", 2, false, "parity"),
        ("faulty", 2, false, "cannot look"),
        ("raid0", 3, false, "2 of its 3"),
        ("raid0", 2, true, "reshaped"),
    ] {
        system.put(1, MIB, array(level, disks, reshaping));
        let reason = system.reason(1);
        assert!(reason.contains(word), "{reason}");
    }
    system.put(1, 2 * MIB, array("linear", 2, false));
    assert_eq!(brief(system.stand(1, "md").pieces(MIB - 512..MIB + 512)), [("n0".into(), MIB - 512, 512), ("n0".into(), 0, 512)]);
    assert!(system.stand(1, "dm").devices().unwrap_err().contains("offload_below=md"));
    let file = Backing { path: "/x".into(), block_device: false, offset: 0, len: MIB, read_only: false };
    assert!(stand_of(&system, &file, OffloadBelow::default()).devices().unwrap_err().contains("regular file"));
}

#[test]
fn words_of_the_option_are_understood() {
    assert_eq!("dm,md".parse(), Ok(OffloadBelow { dm: true, md: true }));
    assert_eq!("md".parse(), Ok(OffloadBelow { dm: false, md: true }));
    assert_eq!("none".parse(), Ok(OffloadBelow::default()));
    assert!("lvm".parse::<OffloadBelow>().unwrap_err().contains("lvm"));
}
