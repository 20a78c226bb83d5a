//! One damaged block of metadata costs what it holds: the volume mounts, read-only where the mount met the damage, and every file that was
//! acknowledged reads as what it was or not at all.

use fs::dump::{DumpOptions, dump};
use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, FormatOptions, GcMode, MountOptions, RenameFlags, SetAttr, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};
use zns::{Lba, ZonedDevice};

const BLOCK: usize = 4096;

fn options(read_only: bool, secret: u8) -> MountOptions {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    MountOptions { read_only, clock, secret: Some([secret; 32]), gc: GcMode::Manual, ..MountOptions::default() }
}

fn open(drive: &SimDrive, read_only: bool, secret: u8) -> Result<Arc<Volume>, FsError> {
    let device: Arc<dyn ZonedDevice> = drive.open();
    Volume::open(vec![device], options(read_only, secret))
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i as u64).wrapping_mul(31).wrapping_add(seed.wrapping_mul(0x9e37_79b9)) >> 3) as u8).collect()
}

fn write(volume: &Volume, ino: Ino, offset: u64, data: &[u8]) -> Result<usize, FsError> {
    volume.write(ino, offset, data, &WriteOptions { sync: false, kill_suid: false, append: false })
}

/// What was acknowledged: files by directory and name, and names that are gone.
#[derive(Clone, Default)]
struct Known {
    dirs: BTreeMap<String, Ino>,
    files: BTreeMap<(String, String), Vec<u8>>,
    gone: BTreeSet<(String, String)>,
    /// Long attributes, which make the tree higher and the node map larger.
    attributes: Vec<(Ino, Vec<u8>)>,
    /// Files that the log behind the checkpoint is about.
    logged: BTreeSet<(String, String)>,
}

/// Makes a volume with all that a log can hold behind its checkpoint.
struct Scene {
    volume: Arc<Volume>,
    known: Known,
}

impl Scene {
    fn ino(&self, dir: &str, name: &str) -> Ino {
        self.volume.lookup(self.known.dirs[dir], name.as_bytes()).expect("there").ino
    }

    fn put(&mut self, dir: &str, name: &str, offset: usize, data: &[u8]) {
        let at = (dir.to_owned(), name.to_owned());
        let parent = self.known.dirs[dir];
        let ino = match self.volume.lookup(parent, name.as_bytes()) {
            Ok(attr) => attr.ino,
            Err(_) => self.volume.mknod(parent, name.as_bytes(), libc::S_IFREG | 0o644, 0, &Caller::default()).expect("made").ino,
        };
        assert_eq!(write(&self.volume, ino, offset as u64, data).expect("written"), data.len());
        let file = self.known.files.entry(at.clone()).or_default();
        file.resize(file.len().max(offset + data.len()), 0);
        file[offset..][..data.len()].copy_from_slice(data);
        self.known.gone.remove(&at);
        self.known.logged.insert(at);
    }

    fn remove(&mut self, dir: &str, name: &str, free: bool) {
        let at = (dir.to_owned(), name.to_owned());
        let ino = self.ino(dir, name);
        self.volume.unlink(self.known.dirs[dir], name.as_bytes()).expect("gone");
        if free {
            self.volume.forget(ino);
        }
        self.known.files.remove(&at);
        self.known.gone.insert(at);
    }

    fn truncate(&mut self, dir: &str, name: &str, size: usize) {
        let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        self.volume.setattr(self.ino(dir, name), &set).expect("cut");
        let at = (dir.to_owned(), name.to_owned());
        self.known.files.get_mut(&at).expect("there").resize(size, 0);
        self.known.logged.insert(at);
    }
}

/// A volume that lost power: three directories of files, changes of all kinds in the log, zones that died in it, inodes to be freed.
fn crashed(config: SimConfig) -> (SimDrive, Known) {
    let drive = SimDrive::new(config);
    let format = FormatOptions {
        label: "damage".into(),
        uuid: [7; 16],
        created: Timestamp { sec: 1_700_000_000, nsec: 0 },
        secret: [1; 32],
        uid: 0,
        gid: 0,
    };
    Volume::format(vec![drive.open()], &format).expect("a fresh drive takes a volume");
    let volume = open(&drive, false, 2).expect("mounts");
    let mut known = Known::default();
    known.dirs.insert(String::new(), Ino::ROOT);
    for dir in ["a", "b", "c"] {
        known.dirs.insert(dir.into(), volume.mkdir(Ino::ROOT, dir.as_bytes(), 0o755, &Caller::default()).expect("made").ino);
    }
    let mut scene = Scene { volume, known };
    for n in 0..720u64 {
        let dir = ["a", "b", "c"][n as usize % 3];
        scene.put(dir, &format!("file {n}"), 0, &content(n, 1000 + n as usize % 240 * 37));
    }
    for n in 0..120u64 {
        // Extents that do not join.
        scene.put("a", "scattered", n as usize * 3 * BLOCK, &content(n, BLOCK));
    }
    scene.put("b", "large", 0, &content(7, 3 << 20));
    scene.put("c", "orphan", 0, &content(8, 50_000));
    scene.put("", "top", 0, &content(9, 50_000));
    scene.remove("c", "orphan", false);
    for n in 0..30u64 {
        let (ino, value) = (scene.ino("b", &format!("file {}", 601 + n * 3)), content(n, 60_000));
        scene.volume.setxattr(ino, b"user.long", &value, 0).expect("set");
        scene.known.attributes.push((ino, value));
    }
    scene.volume.checkpoint().expect("checkpoint");
    scene.known.logged.clear();

    for n in (0..240u64).step_by(6) {
        let dir = ["a", "b", "c"][n as usize % 3];
        scene.put(dir, &format!("file {n}"), (n as usize % 5) * 300, &content(n + 1000, 3000));
        if n % 4 == 0 {
            scene.volume.sync().expect("synced");
        }
    }
    for n in (0..120u64).step_by(7) {
        scene.put("a", "scattered", n as usize * 3 * BLOCK, &content(n + 2000, BLOCK));
        scene.put("a", "scattered", (n as usize * 3 + 1) * BLOCK, &content(n + 3000, BLOCK));
    }
    for n in 0..30u64 {
        scene.put("c", &format!("new {n}"), 0, &content(n + 4000, 6000));
    }
    for n in (1..240u64).step_by(24) {
        let dir = ["a", "b", "c"][n as usize % 3];
        scene.remove(dir, &format!("file {n}"), n % 2 == 1);
        scene.truncate(["a", "b", "c"][(n as usize + 1) % 3], &format!("file {}", n + 1), 700);
        let (from, name) = (["a", "b", "c"][(n as usize + 2) % 3], format!("file {}", n + 2));
        let moved = format!("moved {n}");
        let (old, new) = (scene.known.dirs[from], scene.known.dirs["b"]);
        scene.volume.rename(old, name.as_bytes(), new, moved.as_bytes(), RenameFlags::default()).expect("moved");
        let file = scene.known.files.remove(&(from.into(), name.clone())).expect("there");
        scene.known.gone.insert((from.into(), name));
        scene.known.files.insert(("b".into(), moved.clone()), file);
        scene.known.logged.insert(("b".into(), moved));
    }
    // Its zones are dead from here on.
    scene.remove("b", "large", true);
    scene.volume.sync().expect("synced");
    let Scene { volume, known } = scene;
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    (drive, known)
}

/// What a metadata block is to the tests.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The root of the node map, or of the tree, or the page of the map that leads from one to the other.
    Root,
    MapPage,
    SegmentPage,
    Inner,
    /// A leaf, and the classes of its items; `root` is the inode of the root directory, with those of all directories behind it.
    Leaf(BTreeSet<String>),
}

struct Target {
    lba: Lba,
    kind: Kind,
    name: String,
}

/// Every metadata block that the checkpoint refers to.
fn targets(drive: &SimDrive) -> Vec<Target> {
    let geometry = drive.geometry();
    let lba = |addr: &str| {
        let parts: Vec<u64> = addr.split(':').map(|part| part.parse().expect("an address")).collect();
        Lba(parts[1] * geometry.zone_size.0 + parts[2] * (BLOCK as u64 / u64::from(geometry.block_size)))
    };
    let mut values = Vec::new();
    let mut emit = |value: serde_json::Value| {
        values.push(value);
        Ok(())
    };
    let options = DumpOptions { map: true, nodes: true, ..DumpOptions::default() };
    dump(vec![drive.fork().open()], &options, &mut emit).expect("dumped");
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut root_is_next = true;
    let root = values.iter().find(|value| value["kind"] == "node").expect("a root")["id"].to_string();
    for value in &values {
        assert!(value.get("error").is_none(), "{value}");
        let addr = value["addr"].as_str().unwrap_or_default();
        let kind = match value["kind"].as_str().expect("a kind") {
            "node" if std::mem::take(&mut root_is_next) => Kind::Root,
            "node" if value["level"] != 0 => Kind::Inner,
            "node" => {
                let class = |item: &serde_json::Value| match item["key"].as_str().expect("a key") {
                    "inode 1/0" => "root".to_owned(),
                    key => key.split(' ').next().expect("a word").to_owned(),
                };
                Kind::Leaf(value["items"].as_array().expect("items").iter().map(class).collect())
            }
            "map-page" if found.is_empty() || value["level"] == 0 && value["entries"].get(&root).is_some() => Kind::Root,
            "map-page" => Kind::MapPage,
            _ => continue,
        };
        seen.insert(addr.to_owned());
        found.push(Target { lba: lba(addr), kind, name: format!("{} {addr}", value["kind"]) });
    }
    // What is in the map and is no node of the tree: the segment table.
    for value in values.iter().filter(|value| value["kind"] == "map-page" && value["level"] == 0) {
        for (id, entry) in value["entries"].as_object().expect("entries") {
            let addr = entry.as_str().expect("words").split(' ').next().expect("an address");
            if !addr.starts_with("free") && !seen.contains(addr) {
                assert_eq!(id, "1", "64 zones have one page");
                found.push(Target { lba: lba(addr), kind: Kind::SegmentPage, name: format!("segment page {addr}") });
            }
        }
    }
    found
}

/// Reads everything, and says which files could not be read.
fn read_all(volume: &Volume, known: &Known, what: &str) -> BTreeSet<(String, String)> {
    let mut lost = BTreeSet::new();
    let is_damage = |error: &FsError| matches!(error, FsError::Corrupt { .. });
    for (at, expected) in &known.files {
        let read = volume.lookup(known.dirs[&at.0], at.1.as_bytes()).and_then(|attr| {
            let mut whole = Vec::new();
            while (whole.len() as u64) < attr.size {
                whole.extend_from_slice(&volume.read(attr.ino, whole.len() as u64, 1 << 20)?);
            }
            let hole = volume.seek(attr.ino, 0, libc::SEEK_HOLE)?;
            Ok((attr.size, whole, hole))
        });
        match read {
            Ok((size, whole, hole)) => {
                assert_eq!(size, expected.len() as u64, "{what}: the size of {at:?}");
                assert!(whole == *expected, "{what}: {at:?} reads as something else");
                assert!(at.1 == "scattered" || hole == size, "{what}: {at:?} has no hole");
            }
            Err(error) => {
                assert!(is_damage(&error), "{what}: {at:?}: {error}");
                lost.insert(at.clone());
            }
        }
    }
    for (ino, value) in &known.attributes {
        match volume.getxattr(*ino, b"user.long") {
            Ok(found) => assert!(found == *value, "{what}: an attribute of {ino} reads as something else"),
            Err(error) => assert!(is_damage(&error), "{what}: an attribute of {ino}: {error}"),
        }
    }
    for at in &known.gone {
        match volume.lookup(known.dirs[&at.0], at.1.as_bytes()) {
            Err(FsError::NotFound) => {}
            Err(error) => assert!(is_damage(&error), "{what}: {at:?}: {error}"),
            Ok(_) => panic!("{what}: {at:?} is back"),
        }
    }
    for (dir, ino) in &known.dirs {
        let mut cookie = 0;
        let mut listed = BTreeSet::new();
        let is_whole = loop {
            match volume.readdir(*ino, cookie, 100) {
                Ok(entries) if entries.is_empty() => break true,
                Ok(entries) => {
                    cookie = entries.last().expect("not empty").cookie;
                    for entry in entries {
                        let at = (dir.clone(), String::from_utf8(entry.name).expect("ours"));
                        assert!(!known.gone.contains(&at), "{what}: {at:?} is listed");
                        assert!(listed.insert(at), "{what}: a name is listed twice");
                    }
                }
                Err(error) => {
                    assert!(is_damage(&error), "{what}: {error}");
                    break false;
                }
            }
        };
        // A listing leaves nothing out that can be had, and says so if it leaves out anything.
        for at in known.files.keys().filter(|at| at.0 == *dir && !listed.contains(*at)) {
            let found = volume.lookup(*ino, at.1.as_bytes());
            assert!(!is_whole, "{what}: {at:?} is left out without a word");
            assert!(found.is_err_and(|error| is_damage(&error)), "{what}: {at:?} is there and left out");
        }
    }
    lost
}

fn changes(drive: &SimDrive) -> (u64, u64, u64, u64) {
    let stats = drive.stats();
    (stats.writes, stats.resets, stats.finishes, stats.copies)
}

/// One block after the other is damaged, and the volume mounted.
fn damage_each(config: SimConfig) {
    let (drive, known) = crashed(config);
    {
        let volume = open(&drive.fork(), false, 3).expect("mounts");
        assert!(volume.is_writable() && read_all(&volume, &known, "undamaged").is_empty());
    }
    let mut targets = targets(&drive);
    assert!(targets.len() > 300, "{} blocks", targets.len());
    // The leaves of long attributes are all alike.
    let long = |target: &Target| matches!(&target.kind, Kind::Leaf(classes) if classes.iter().eq(["attribute"]));
    let mut count = 0;
    targets.retain(|target| {
        count += u32::from(long(target));
        !long(target) || count.is_multiple_of(40)
    });
    let mut met = BTreeMap::new();
    let mut commits_failed = 0;
    for Target { lba, kind, name } in &targets {
        for read_only in [true, false] {
            let what = format!("{name} ({kind:?}) is damaged, read_only: {read_only}");
            let drive = drive.fork();
            drive.flip_bit(*lba, 333, 4);
            let before = changes(&drive);
            let volume = match open(&drive, read_only, 3) {
                Ok(volume) => volume,
                Err(error) => {
                    assert_eq!(*kind, Kind::Root, "{what}: {error}");
                    assert!(error.to_string().contains("the root of the metadata"), "{what}: {error}");
                    assert_eq!(changes(&drive), before, "{what}: something was written");
                    continue;
                }
            };
            assert_ne!(*kind, Kind::Root, "{what}");
            let met_by_mount = !volume.is_writable();
            let lost = read_all(&volume, &known, &what);
            assert_eq!(!volume.is_writable(), met_by_mount, "{what}: who reads makes nothing read-only");
            if matches!(kind, Kind::SegmentPage) {
                assert!(lost.is_empty() && volume.read_only_reason().is_some(), "{what}: {lost:?}");
            }
            if let Kind::Leaf(classes) = kind
                && classes.contains("root")
            {
                assert!(!lost.contains(&(String::new(), "top".into())), "{what}: the root directory's files can be reached");
            } else if let Kind::Leaf(classes) = kind {
                assert!(lost.len() < known.files.len() / 2, "{what}: {} files are lost", lost.len());
                assert!(lost.is_empty() || classes.iter().any(|class| class != "summary"), "{what}: {lost:?}");
            }
            if !volume.is_writable() {
                assert_eq!(changes(&drive), before, "{what}: something was written");
            }
            let reason = volume.read_only_reason();
            if let Some(reason) = &reason {
                assert!(reason.contains("damaged") && reason.contains("fails its checksum"), "{what}: {reason}");
            }
            if lost.intersection(&known.logged).next().is_some() {
                assert!(reason.is_some(), "{what}: {lost:?} are not what the log made of them, and the volume does not know");
            }
            let kind = match kind {
                Kind::Leaf(classes) => classes.iter().cloned().collect::<Vec<_>>().join(" "),
                kind => format!("{kind:?}"),
            };
            let count: &mut (u32, u32) = met.entry(kind).or_default();
            *count = (count.0 + 1, count.1 + u32::from(reason.is_some()));
            if volume.is_writable() {
                commits_failed += u32::from(goes_on(&drive, volume, &known, &what));
            }
            assert!(drive.violations().is_empty(), "{what}: {:?}", drive.violations());
        }
    }
    println!("mounts, and those that met the damage: {met:?}; commits that met it: {commits_failed}");
    assert!(commits_failed > 0);
    for kind in ["inode", "checksums", "extent", "entry", "Inner", "MapPage", "SegmentPage"] {
        assert!(met.iter().any(|(name, (_, reasons))| name.split(' ').any(|word| word == kind) && *reasons > 0), "{kind}: {met:?}");
    }
}

/// The mount did not meet the damage. Whoever writes may, and then the volume is read-only; nothing that was acknowledged is lost by it.
/// Did a commit meet it?
fn goes_on(drive: &SimDrive, volume: Arc<Volume>, known: &Known, what: &str) -> bool {
    let mut known = known.clone();
    let mut failed = false;
    for (n, (at, file)) in known.files.iter_mut().enumerate().step_by(9) {
        let Ok(attr) = volume.lookup(known.dirs[&at.0], at.1.as_bytes()) else { continue };
        let (ino, data) = (attr.ino, content(n as u64 + 5000, BLOCK.min(file.len())));
        match write(&volume, ino, 0, &data) {
            Err(FsError::ReadOnly(_)) if failed => continue,
            Err(FsError::Corrupt { .. }) if !failed => continue,
            written => assert_eq!(written.expect("written"), data.len(), "{what}"),
        }
        match volume.sync() {
            Ok(()) => file[..data.len()].copy_from_slice(&data),
            Err(error) => {
                assert!(matches!(error, FsError::Corrupt { .. }), "{what}: {error}");
                assert!(!volume.is_writable() && volume.read_only_reason().is_some_and(|r| r.contains("damaged")), "{what}");
                assert!(volume.read(ino, 0, data.len() as u32).is_ok_and(|read| *read == *data), "{what}: it stays readable");
                assert!(matches!(volume.sync(), Err(FsError::ReadOnly(_))), "{what}: it is not durable");
                failed = true;
            }
        }
    }
    assert_eq!(failed, !volume.is_writable(), "{what}");
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    let volume = open(drive, false, 4).unwrap_or_else(|error| panic!("{what}, and it was written on: {error}"));
    read_all(&volume, &known, &format!("{what}, and it was written on"));
    failed
}

#[test]
fn one_damaged_block_costs_what_it_holds_and_no_more_on_zones() {
    damage_each(SimConfig::zoned(64, 1));
}

#[test]
fn one_damaged_block_costs_what_it_holds_and_no_more_on_a_plain_disk() {
    damage_each(SimConfig::conventional(64, 1));
}
