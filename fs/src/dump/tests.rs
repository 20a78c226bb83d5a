//! A dump shows everything, and of damaged devices what can be shown.

use super::*;
use crate::format::item::Timestamp;
use crate::ids::Ino;
use crate::volume::{Caller, FormatOptions, MountOptions};
use zns::Lba;
use zns::sim::{SimConfig, SimDrive};

fn drive() -> SimDrive {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let options =
        FormatOptions { label: "dumped".into(), uuid: [7; 16], created: Timestamp { sec: 1, nsec: 2 }, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(vec![drive.open()], &options).expect("formatted");
    let volume = Volume::open(vec![drive.open()], MountOptions { secret: Some([2; 32]), ..MountOptions::default() }).expect("mounts");
    for n in 0..200 {
        volume.mknod(Ino::ROOT, format!("entry {n}").as_bytes(), libc::S_IFREG | 0o600, 0, &Caller::default()).expect("made");
    }
    volume.symlink(Ino::ROOT, b"pointer", b"target of it", &Caller::default()).expect("made");
    volume.checkpoint().expect("checkpoint");
    volume.mkdir(Ino::ROOT, b"logged", 0o700, &Caller::default()).expect("made");
    volume.sync().expect("synced");
    drive
}

fn all(drive: &SimDrive) -> Vec<Value> {
    let mut values = Vec::new();
    let mut emit = |value: Value| {
        values.push(value);
        Ok(())
    };
    dump(vec![drive.fork().open()], &DumpOptions::all(), &mut emit).expect("nothing fails");
    values
}

fn of<'a>(values: &'a [Value], kind: &str) -> Vec<&'a Value> {
    values.iter().filter(|value| value["kind"] == kind).collect()
}

#[test]
fn everything_is_shown() {
    let values = all(&drive());
    assert!(of(&values, "superblock").len() >= 3);
    assert_eq!(of(&values, "checkpoint").len(), 1);
    assert_eq!(of(&values, "zone").len(), 64);
    assert!(!of(&values, "map-page").is_empty());
    let items: Vec<&Value> = of(&values, "node").iter().filter_map(|node| node["items"].as_array()).flatten().collect();
    for n in 0..200 {
        assert!(items.iter().any(|item| item["name"] == format!("entry {n}")));
    }
    assert!(items.iter().any(|item| item["target"] == "target of it"));
    let log: Vec<&Value> = of(&values, "log").iter().filter_map(|batch| batch["changes"].as_array()).flatten().collect();
    assert!(log.iter().any(|change| change["put"]["name"] == "logged"), "{log:?}");
    assert_eq!(of(&values, "log-end").len(), 1);
    assert!(values.iter().all(|value| value.get("error").is_none()), "{values:?}");
    let shown: String = values.iter().map(text).collect();
    assert!(shown.contains("name=\"entry 7\"") && shown.contains("superblock"), "{shown}");
    // The secrets stay secret.
    assert!(!values.iter().any(|value| value.to_string().contains(&hex(&[2; 16]))));
}

#[test]
fn damage_is_shown_where_it_is() {
    let drive = drive();
    let nodes = of(&all(&drive), "node").into_iter().cloned().collect::<Vec<_>>();
    let leaf = nodes.iter().find(|node| node["level"] == 0).expect("a leaf");
    let addr: Vec<u64> = leaf["addr"].as_str().expect("an address").split(':').map(|part| part.parse().expect("a number")).collect();
    drive.flip_bit(Lba(addr[1] * 256 + addr[2]), 99, 1);
    let values = all(&drive);
    let wrong: Vec<&Value> = values.iter().filter(|value| value.get("error").is_some()).collect();
    assert!(matches!(wrong[..], [node] if node["id"] == leaf["id"]), "{wrong:?}");
    assert_eq!(of(&values, "node").len(), nodes.len());
    // Without a superblock there is nothing to go by, but what is there is told.
    for zone in 0..2 {
        drive.poke(Lba(zone * 256), &vec![0x55; 40 * 4096]);
    }
    let values = all(&drive);
    assert!(of(&values, "superblock").is_empty());
    let rings = of(&values, "superblock-ring");
    assert_eq!(rings.len(), 2, "one line a zone: {rings:?}");
    let whole = |ring: &Value| ring["first_slot"] == 0 && ring["slots"].as_u64() == ring["last_slot"].as_u64().map(|last| last + 1);
    assert!(rings.iter().all(|ring| ring["slots"].as_u64() > Some(1) && whole(ring) && ring.get("error").is_some()), "{rings:?}");
    assert!(of(&values, "volume").iter().all(|value| value.get("error").is_some()));
}
