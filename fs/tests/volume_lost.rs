//! Metadata is lost while the volume runs: the request that meets it fails, everything else goes on; only a commit that needs it ends writing.

use fs::dump::{DumpOptions, dump};
use fs::format::item::{CHECKSUM_GROUP, Timestamp};
use fs::volume::{Caller, Clock, FormatOptions, GcMode, MountOptions, RenameFlags, SetAttr, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};
use zns::{Lba, ZonedDevice};

const BLOCK: usize = 4096;
const SUMMED_BLOCKS: u64 = 6000;

fn mount(drive: &SimDrive, secret: u8) -> Arc<Volume> {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    let options = MountOptions { clock, secret: Some([secret; 32]), gc: GcMode::Manual, ..MountOptions::default() };
    Volume::open(vec![drive.open() as Arc<dyn ZonedDevice>], options).expect("mounts")
}

fn write(volume: &Volume, ino: Ino, block: u64, data: &[u8]) -> Result<usize, FsError> {
    volume.write(ino, block * BLOCK as u64, data, &WriteOptions::default())
}

fn make(volume: &Volume, dir: Ino, name: &str) -> Result<Ino, FsError> {
    volume.mknod(dir, name.as_bytes(), libc::S_IFREG | 0o644, 0, &Caller::default()).map(|attr| attr.ino)
}

fn name(n: u32) -> String {
    format!("a name of some length {n:04}")
}

struct Scene {
    drive: SimDrive,
    /// Directories of many and of few names.
    many: Ino,
    few: Ino,
    /// A file with several leaves of checksums.
    summed: Ino,
    files: BTreeMap<String, Ino>,
}

/// A volume that was unmounted, so that nothing of it is in memory.
fn scene() -> Scene {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let format = FormatOptions { label: "lost".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(vec![drive.open()], &format).expect("a fresh drive takes a volume");
    let volume = mount(&drive, 2);
    let dir = |name: &[u8]| volume.mkdir(Ino::ROOT, name, 0o755, &Caller::default()).expect("made").ino;
    let (many, few) = (dir(b"many"), dir(b"few"));
    let files = (0..600).map(|n| (name(n), make(&volume, many, &name(n)).expect("made"))).collect();
    let summed = make(&volume, few, "summed").expect("made");
    for block in (0..SUMMED_BLOCKS).step_by(50) {
        write(&volume, summed, block, &[5; 50 * BLOCK]).expect("written");
    }
    volume.shutdown().expect("unmounted");
    Scene { drive, many, few, summed, files }
}

/// Leaves of which every item begins so: where they lie, and the second numbers of their keys.
fn leaves(drive: &SimDrive, class: &str, a: Ino) -> Vec<(Lba, Vec<u64>)> {
    let mut found = Vec::new();
    let zone_size = drive.geometry().zone_size.0;
    let prefix = format!("{class} {a}/");
    let mut emit = |value: serde_json::Value| {
        if value["kind"] == "node" && value["level"] == 0 {
            let items = value["items"].as_array().expect("items").iter();
            let numbers: Option<Vec<u64>> = items.map(|item| item["key"].as_str()?.strip_prefix(&prefix)?.parse().ok()).collect();
            let addr: Vec<u64> =
                value["addr"].as_str().expect("an address").split(':').map(|part| part.parse().expect("a number")).collect();
            if let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) {
                found.push((Lba(addr[1] * zone_size + addr[2]), numbers));
            }
        }
        Ok(())
    };
    dump(vec![drive.fork().open()], &DumpOptions { nodes: true, ..DumpOptions::default() }, &mut emit).expect("dumped");
    found
}

fn is_damage<T>(outcome: &Result<T, FsError>) -> bool {
    matches!(outcome, Err(FsError::Corrupt { .. }))
}

/// The names that cannot be looked up; all others lead to their files.
fn lost_names(volume: &Volume, scene: &Scene) -> BTreeSet<String> {
    let mut lost = BTreeSet::new();
    for (name, ino) in &scene.files {
        match volume.lookup(scene.many, name.as_bytes()) {
            Ok(attr) => assert_eq!(attr.ino, *ino, "{name}"),
            found => assert!(is_damage(&found) && lost.insert(name.clone()), "{name}: {found:?}"),
        }
    }
    lost
}

#[test]
fn a_request_that_meets_lost_metadata_fails_and_all_others_go_on() {
    let scene = scene();
    let (drive, many, few) = (&scene.drive, scene.many, scene.few);
    let places = leaves(drive, "entry", many);
    assert!(places.len() > 5, "{} leaves of names", places.len());
    let (leaf, _) = places[places.len() / 2];
    let volume = mount(drive, 3);
    drive.flip_bit(leaf, 333, 4);
    let goes_on = |volume: &Volume, round: u32| {
        assert_eq!((volume.is_writable(), volume.read_only_reason()), (true, None));
        let (file, data) = (make(volume, few, &format!("after {round}")).expect("made"), vec![round as u8; 30 * BLOCK]);
        write(volume, file, 0, &data).expect("written");
        volume.sync().expect("synced");
        volume.checkpoint().expect("a checkpoint");
        assert!(*volume.read(file, 0, data.len() as u32).expect("read") == *data);
    };
    let lost = lost_names(&volume, &scene);
    assert!((10..200).contains(&lost.len()), "{} names", lost.len());
    goes_on(&volume, 1);
    let one = lost.first().expect("not empty").as_bytes();
    let plain = RenameFlags::default();
    let other = scene.files.keys().find(|name| !lost.contains(*name)).expect("most are there").as_bytes();
    make(&volume, few, "comes").expect("made");
    for (what, is_damage) in [
        ("looked up", is_damage(&volume.lookup(many, one))),
        ("removed", is_damage(&volume.unlink(many, one))),
        ("moved away", is_damage(&volume.rename(many, one, few, b"moved", plain))),
        ("replaced", is_damage(&volume.rename(few, b"comes", many, one, plain))),
        ("made again", is_damage(&make(&volume, many, std::str::from_utf8(one).expect("ours")))),
        ("linked", is_damage(&volume.link(scene.files[std::str::from_utf8(other).expect("ours")], many, one))),
        ("made a directory", is_damage(&volume.mkdir(many, one, 0o755, &Caller::default()))),
    ] {
        assert!(is_damage, "{what}");
    }
    // Beside what is lost the directory changes as it would.
    volume.rename(many, other, few, b"moved", plain).expect("moved");
    volume.rename(few, b"moved", many, other, plain).expect("moved back");
    goes_on(&volume, 2);

    // A power cut: nothing in the log is about what is lost.
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    let volume = mount(drive, 4);
    assert_eq!(lost_names(&volume, &scene), lost);
    goes_on(&volume, 3);
    let comes = volume.lookup(few, b"comes").expect("it did not go").ino;

    // What could not be had for a while is there again, and nothing of what failed was done.
    drive.flip_bit(leaf, 333, 4);
    assert!(lost_names(&volume, &scene).is_empty());
    assert_eq!(volume.getattr(scene.files[std::str::from_utf8(other).expect("ours")]).expect("there").nlink, 1);
    assert_eq!(volume.getattr(many).expect("there").entries, 600);
    volume.rename(few, b"comes", many, one, plain).expect("replaced");
    assert_eq!(volume.lookup(many, one).expect("there").ino, comes);
    goes_on(&volume, 4);
    volume.shutdown().expect("unmounted");
    assert!(drive.violations().is_empty(), "{:?}", drive.violations());
}

#[test]
fn a_commit_that_meets_lost_metadata_ends_writing_and_costs_nothing_that_was_acknowledged() {
    let scene = scene();
    let (drive, summed) = (&scene.drive, scene.summed);
    let places = leaves(drive, "checksums", summed);
    assert!(places.len() > 2, "{} leaves of checksums", places.len());
    let (leaf, groups) = &places[places.len() / 2];
    let block = groups[groups.len() / 2] * CHECKSUM_GROUP;
    let volume = mount(drive, 3);
    drive.flip_bit(*leaf, 333, 4);
    // Whoever reads is told, as often as he asks, and that is all.
    for _ in 0..2 {
        assert!(is_damage(&volume.read(summed, block * BLOCK as u64, BLOCK as u32)));
        assert_eq!(*volume.read(summed, 0, BLOCK as u32).expect("read"), [5; BLOCK]);
        assert_eq!((volume.is_writable(), volume.read_only_reason()), (true, None));
    }
    write(&volume, summed, 0, &[6; BLOCK]).expect("written");
    volume.setattr(scene.few, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).expect("changed");
    volume.sync().expect("synced");
    // A write is taken in, for its block is written whole; its checksum belongs where nothing can be put.
    write(&volume, summed, block, &[7; BLOCK]).expect("written");
    assert!(is_damage(&volume.sync()));
    let reason = volume.read_only_reason().expect("it is read-only");
    assert!(reason.contains("the metadata is damaged") && reason.contains("checksums"), "{reason}");
    for outcome in [volume.sync(), write(&volume, summed, 0, &[8; BLOCK]).map(drop), make(&volume, scene.few, "new").map(drop)] {
        assert!(matches!(outcome, Err(FsError::ReadOnly(_))), "{outcome:?}");
    }
    let acknowledged = |volume: &Volume| {
        assert_eq!(*volume.read(summed, 0, BLOCK as u32).expect("read"), [6; BLOCK]);
        assert_eq!(volume.getattr(scene.few).expect("there").mode & 0o777, 0o700);
        assert!(lost_names(volume, &scene).is_empty());
    };
    acknowledged(&volume);
    assert!(volume.shutdown().is_err(), "what was written last is not durable");
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    acknowledged(&mount(drive, 4));
    assert!(drive.violations().is_empty(), "{:?}", drive.violations());
}
