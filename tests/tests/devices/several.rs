//! A volume on devices of different kinds: zones of two sizes, with write pointers and without. It is filled, cleaned and copied within across both; one
//! that is missing, stale, or fails is named.

use crate::brief;
use guest::{Kernel, Machine, Namespace};
use harness::{Outcome, Pattern, Status, Volume, run};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::guest::in_guest;
use tests::guest::stacks::{Mapped, flaky, linear};
use tests::mounted::{assert_clean, programs};

const MIB: u64 = 1 << 20;
const FORMAT: &[&str] = &["--force", "--zone-size", "1M"];

fn mount(devices: &[&Path], point: &Path) -> Outcome {
    let mut command = programs().command("ferryfs").unwrap();
    run(command.arg("mount").args(devices).arg(point), Duration::from_secs(120)).unwrap()
}

fn write(volume: &Volume, n: u64) -> std::io::Result<()> {
    let path = volume.path(format!("f{n}"));
    fs::write(&path, Pattern(n).bytes(0, MIB as usize))?;
    File::open(path)?.sync_all()
}

#[track_caller]
fn check(volume: &Volume, files: impl IntoIterator<Item = u64>) {
    for n in files {
        let found = fs::read(volume.path(format!("f{n}"))).unwrap_or_else(|error| panic!("f{n}: {error}"));
        assert_eq!((found.len() as u64, Pattern(n).mismatch(0, &found)), (MIB, None), "f{n}");
    }
}

/// The devices that a file's data lie on.
fn devices_of(volume: &Volume, name: &str) -> BTreeSet<u64> {
    let said = volume.ferryfs(["map".as_ref(), "--json".as_ref(), volume.path(name).as_os_str()]).unwrap().ok().unwrap();
    let map: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let extents = map.as_array().or_else(|| map["extents"].as_array()).unwrap_or_else(|| panic!("{}", said.stdout));
    extents.iter().filter_map(|extent| extent["device"].as_u64()).collect()
}

#[test]
fn a_volume_on_a_zns_drive_and_a_conventional_one() {
    let zones = Namespace::zoned("z").size(30 * 4 * MIB).zones(4 * MIB, 3 * MIB);
    let devices = Machine::new(Kernel::Long6_12).device(zones).device(Namespace::conventional("c").size(72 * MIB));
    in_guest(devices, &["dmsetup"], || {
        let (zoned, plain) = (Path::new("/dev/vm/zn1"), Path::new("/dev/vm/cn1"));
        let mapped = Mapped::new("plain", &["dm_flakey"], &linear(plain));
        let (directory, mut volume) = brief::volume(&[zoned.to_owned(), mapped.path()], FORMAT, &["gc=manual", "offload_below=dm"]);
        volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
        let files = filled(&volume);
        cleaned_and_copied(&volume, &files);
        volume.remount().unwrap_or_else(|error| panic!("{error:#}"));
        check(&volume, files.iter().copied());
        volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
        assert_clean(&volume);
        missing(&volume, &[zoned.to_owned(), mapped.path()], directory.path());
        failing(&mut volume, &mapped, plain, &files);
    });
}

/// Files until the volume is nearly full; they lie on both devices.
fn filled(volume: &Volume) -> Vec<u64> {
    let status = volume.status().unwrap();
    let kinds: Vec<&str> =
        status.0["volume"]["devices"].as_array().unwrap().iter().map(|device| device["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["zns", "conventional"]);
    let count = status.number("space/total").unwrap() * 7 / 10 / MIB;
    (0..count).for_each(|n| write(volume, n).unwrap_or_else(|error| panic!("f{n} of {count}: {error}")));
    let used: BTreeSet<u64> = (0..count).flat_map(|n| devices_of(volume, &format!("f{n}"))).collect();
    assert_eq!(used, BTreeSet::from([0, 1]), "both devices hold data");
    (0..count).collect()
}

/// Every second file goes, what is left is cleaned together, and one file of each device is copied.
fn cleaned_and_copied(volume: &Volume, files: &[u64]) {
    for n in files.iter().filter(|n| *n % 2 == 1) {
        fs::remove_file(volume.path(format!("f{n}"))).unwrap();
    }
    File::open(volume.root()).unwrap().sync_all().unwrap();
    brief::clean(volume);
    let status = volume.status().unwrap();
    let gc = |name: &str| status.number(&format!("gc/{name}")).unwrap();
    assert!(gc("relocated") >= 8 * MIB, "{}", status.0["gc"]);
    // Each within itself, by its own Copy.
    assert_eq!((gc("offloaded"), gc("host_read"), gc("host_written")), (gc("relocated"), 0, 0), "{}", status.0["gc"]);
    for device in [0, 1] {
        let n = files.iter().step_by(2).find(|n| devices_of(volume, &format!("f{n}")).contains(&device)).unwrap();
        brief::copy(volume, &format!("f{n}"), &format!("copy{device}"));
        let found = fs::read(volume.path(format!("copy{device}"))).unwrap();
        assert_eq!((found.len() as u64, Pattern(*n).mismatch(0, &found)), (MIB, None));
    }
    files.iter().filter(|n| *n % 2 == 1).for_each(|n| write(volume, *n).unwrap());
    check(volume, files.iter().copied());
    eprintln!("relocated across two devices: {}; copied: {}", status.0["gc"], volume.status().unwrap().0["copy_file_range"]);
}

/// With one of the two alone nothing is mounted, and what is missing is said.
fn missing(volume: &Volume, devices: &[PathBuf], directory: &Path) {
    let point = directory.join("elsewhere");
    fs::create_dir_all(&point).unwrap();
    for (alone, absent) in [(0, 1), (1, 0)] {
        let outcome = mount(&[&devices[alone]], &point);
        let said = outcome.stderr.to_lowercase();
        assert!(!outcome.success() && !said.contains("panicked"), "{outcome}");
        assert!(said.contains("device") && said.contains("2"), "that device {absent} of 2 is missing should be said: {outcome}");
    }
    assert_clean(volume);
}

/// One device takes no writes any more: the other one does, and nothing that was acknowledged is lost.
fn failing(volume: &mut Volume, mapped: &Mapped, plain: &Path, files: &[u64]) {
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    mapped.replace(&flaky(plain, "error_writes"));
    let acknowledged: Vec<u64> = (1000..1006).filter(|n| write(volume, *n).is_ok()).collect();
    let status = volume.status().unwrap();
    let read_only = status.value("volume/mounted_read_only").unwrap() == true;
    eprintln!("with a device that takes no writes: {acknowledged:?} were acknowledged, read-only: {read_only}");
    assert!(read_only || acknowledged.len() == 6, "either it goes on, or it says that it cannot: {acknowledged:?}");
    let said = volume.log().to_lowercase();
    assert!(!said.contains("panicked"), "{said}");
    if read_only {
        let reason = status.text("volume/read_only_reason").unwrap_or_default().to_owned();
        assert!(said.contains("read-only") && !reason.is_empty(), "{reason} {said}");
    }
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    check(volume, files.iter().copied());
    volume.kill();
    mapped.replace(&linear(plain));
    assert_clean(volume);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    check(volume, files.iter().copied().chain(acknowledged));
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(volume);
}

/// Two namespaces of one drive, the first of which fills up long before the other.
fn unequal(kernel: Kernel) -> Machine {
    let zones = |count| Namespace::zoned("d").size(count * MIB).zones(MIB, MIB).copy(64, 256, 31);
    Machine::new(kernel).device(zones(64)).device(zones(100))
}

/// What became of a volume whose first device was filled by copies of a file on it.
struct Across {
    /// Before anything was cleaned.
    copied: Status,
    cleaned: Status,
}

/// Copies of a file on the first device until that is full, more of them on the second, and cleaning of the first with no empty zone on it. Nothing of this
/// fails, and every byte is what it was.
fn across() -> Across {
    let devices = ["/dev/vm/dn1", "/dev/vm/dn2"].map(PathBuf::from);
    let (_directory, mut volume) = brief::volume(&devices, brief::ZONED, &["gc=manual"]);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    (0..8).for_each(|n| write(&volume, n).unwrap());
    let source = (0..8).find(|n| devices_of(&volume, &format!("f{n}")) == BTreeSet::from([0])).expect("a file on the first device");
    let copy = |n: u64| {
        brief::copy(&volume, &format!("f{source}"), &format!("c{n}"));
        devices_of(&volume, &format!("c{n}"))
    };
    let before = (0..90).take_while(|n| !copy(*n).contains(&1)).count() as u64;
    assert!((5..90).contains(&before), "the first device took {before} copies");
    assert_eq!(empty_zones(&volume, 0), 0);
    // Users go on on the other one.
    (100..110).for_each(|n| write(&volume, n).unwrap_or_else(|error| panic!("f{n}, beside a device that is full: {error}")));
    let copied = volume.status().unwrap();
    let cut = (0..before).map(|n| format!("c{n}"));
    for name in cut.clone() {
        let file = File::options().write(true).open(volume.path(name)).unwrap();
        file.set_len(MIB / 2).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(empty_zones(&volume, 0), 0);
    brief::clean(&volume);
    let cleaned = volume.status().unwrap();
    assert!(cut.clone().any(|name| devices_of(&volume, &name).contains(&1)), "nothing was moved to the other device: {}", cleaned.0["gc"]);
    assert!(empty_zones(&volume, 0) > 0, "{}", cleaned.0["gc"]);
    for mounted_again in [false, true] {
        check(&volume, (0..8).chain(100..110));
        for name in cut.clone() {
            let found = fs::read(volume.path(&name)).unwrap();
            assert_eq!((found.len() as u64, Pattern(source).mismatch(0, &found)), (MIB / 2, None), "{name}");
        }
        if !mounted_again {
            volume.remount().unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(&volume);
    Across { copied, cleaned }
}

/// Empty zones of a device of the volume.
fn empty_zones(volume: &Volume, device: u64) -> usize {
    let said = volume.ferryfs(["zones".as_ref(), "--json".as_ref(), volume.root().as_os_str()]).unwrap().ok().unwrap();
    let zones: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let zones = zones.as_array().or_else(|| zones["zones"].as_array()).unwrap_or_else(|| panic!("{}", said.stdout));
    zones.iter().filter(|zone| zone["device"] == device && zone["state"] == "empty").count()
}

/// From a full device to the other one, by formats 2 and 3 of Copy.
#[test]
fn a_full_device_is_cleaned_and_copied_to_its_neighbour_by_the_drive() {
    in_guest(unequal(Kernel::Long6_12), &[], || {
        let Across { copied, cleaned } = across();
        let copies = |name: &str| copied.number(&format!("copy_file_range/{name}")).unwrap();
        assert_eq!((copies("offloaded"), copies("host_read"), copies("host_written")), (copies("bytes"), 0, 0));
        let gc = |name: &str| cleaned.number(&format!("gc/{name}")).unwrap();
        assert_eq!((gc("offloaded"), gc("host_read"), gc("host_written")), (gc("relocated"), 0, 0), "{}", cleaned.0["gc"]);
        assert_eq!(to_the_other(&cleaned).0, "nvme");
    });
}

/// Where the kernel keeps that from programs, what leaves its device goes through the host, and the status says why.
#[test]
fn a_full_device_is_cleaned_and_copied_to_its_neighbour_by_the_host() {
    in_guest(unequal(Kernel::New7_3), &[], || {
        let Across { copied, cleaned } = across();
        let copies = |name: &str| copied.number(&format!("copy_file_range/{name}")).unwrap();
        assert!(copies("offloaded") >= 5 * MIB && copies("host_written") > 0, "{}", copied.0["copy_file_range"]);
        let gc = |name: &str| cleaned.number(&format!("gc/{name}")).unwrap();
        assert!(gc("host_written") > 0, "{}", cleaned.0["gc"]);
        assert_eq!(gc("offloaded") + gc("host_written"), gc("relocated"), "{}", cleaned.0["gc"]);
        let (route, reason) = to_the_other(&cleaned);
        assert!(route == "host" && reason.contains("Host Behavior Support") && reason.contains("does not let programs set it"), "{reason}");
    });
}

/// The road from the first device to the second, and why it is that one.
fn to_the_other(status: &Status) -> (String, String) {
    let way = |name: &str| status.text(&format!("volume/devices/0/others/0/{name}")).unwrap().to_owned();
    assert_eq!(status.number("volume/devices/0/others/0/device").unwrap(), 1);
    (way("route"), way("route_reason"))
}
