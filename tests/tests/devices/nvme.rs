//! What NVMe drives can be like, row by row: a volume is cleaned and copied within, and ranges are copied by `ferrycopy`; every byte is compared, and the road that
//! they took is known.

use crate::brief::{self, PLAIN, ZONED};
use crate::raw::{content, copies, fill, source};
use crate::tool::{by_device, ferrycopy, report};
use guest::{BadSector, Kernel, Machine, Namespace};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::guest::fabrics::plain_drive;
use tests::guest::in_guest;
use tests::guest::stacks::NullBlock;
use tests::mounted::programs;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn machine() -> Machine {
    Machine::new(Kernel::Long6_12)
}

fn zoned(name: &str) -> Namespace {
    Namespace::zoned(name).size(72 * MIB).zones(MIB, MIB)
}

fn conventional(name: &str) -> Namespace {
    Namespace::conventional(name).size(64 * MIB)
}

/// What `ferrycopy caps` says of the way from the first of `devices` to the last: the road, and why others are closed.
fn ways(devices: &[&Path]) -> (String, Vec<(String, String)>) {
    let words = ["caps", "--json"].map(str::to_owned).into_iter().chain(devices.iter().map(|device| device.display().to_string()));
    let words: Vec<String> = words.collect();
    let said = report(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ends =
        |pair: &&Value| [&pair["from"], &pair["to"]].into_iter().eq([devices[0], devices[devices.len() - 1]].map(|d| d.to_str().unwrap()));
    let pair = said["pairs"].as_array().unwrap().iter().find(ends).unwrap_or_else(|| panic!("{said}"));
    let closed = pair["roads"].as_array().unwrap().iter().filter(|road| road["open"] == false);
    (text(&pair["road"]), closed.map(|road| (text(&road["road"]), text(&road["reason"]))).collect())
}

/// Why the road of NVMe Copy is closed.
fn why_not_nvme(devices: &[&Path]) -> String {
    let (road, closed) = ways(devices);
    assert_eq!(road, "host", "{closed:?}");
    closed.into_iter().find(|(road, _)| road == "nvme").expect("the road is told of").1
}

/// Copies within a zoned drive of zones of 1 MiB that is empty.
fn copied_within_zones(device: &Path) -> Value {
    fill(device, 1, 0, 5 * MIB);
    let ranges = [(4 * KIB, 300 * KIB), (MIB + 64 * KIB, 4 * KIB), (3 * MIB - 256 * KIB, 768 * KIB)];
    let said = copies(device, &ranges, device, 9 * MIB, &["--route", "offload"]);
    by_device(&said, 1072 * KIB, "nvme");
    said
}

/// Copies within a drive without zones.
fn copied_anywhere(device: &Path) -> Value {
    fill(device, 2, 0, 9 * MIB);
    let ranges = [(4 * KIB, 300 * KIB), (8 * MIB, 4 * KIB), (3 * MIB - 256 * KIB, 5 * MIB)];
    copies(device, &ranges, device, 12 * MIB + 20 * KIB, &[])
}

const COPIED_ANYWHERE: u64 = 5 * MIB + 304 * KIB;

/// A zoned drive, by `ferrycopy` and below a volume, whose commands take so many bytes in a range, and so many ranges.
fn within_limits(range_bytes: u64, ranges: u64) {
    let device = PathBuf::from("/dev/vm/zn1");
    copied_within_zones(&device);
    let status = brief::live(&[device], ZONED, &[]);
    brief::by_device(&status, "nvme");
    let limit = |name: &str| status.number(&format!("volume/devices/0/copy_limits/{name}")).unwrap();
    assert_eq!((limit("max_range_bytes"), limit("max_ranges")), (range_bytes, ranges));
}

#[test]
fn tiny_limits_of_copy() {
    in_guest(machine().device(zoned("z").copy(64, 128, 3)), &[], || within_limits(256 * KIB, 4));
}

#[test]
fn large_limits_of_copy() {
    // No command is made to hold a zone for longer than 16 MiB take.
    in_guest(Machine::new(Kernel::New7_3).device(zoned("z").copy(65535, 1 << 20, 255)), &[], || within_limits(16 * MIB, 256));
}

/// Too few zones for a volume, which is said and nothing touched; the tool does not mind.
#[test]
fn a_drive_of_ten_zones() {
    in_guest(machine().device(zoned("z").size(10 * MIB).copy(64, 256, 31)), &[], || {
        let device = Path::new("/dev/vm/zn1");
        fill(device, 1, 0, 3 * MIB);
        let said = copies(device, &[(4 * KIB, 300 * KIB), (MIB + 64 * KIB, 512 * KIB)], device, 9 * MIB, &["--route", "offload"]);
        by_device(&said, 812 * KIB, "nvme");
        let before = content(device, 0, 10 * MIB);
        let mut command = programs().command("mkfs.ferryfs").unwrap();
        let refused = harness::run(command.arg("--force").arg(device), Duration::from_secs(120)).unwrap();
        assert!(refused.code.is_some_and(|code| code != 0), "{refused}");
        assert!(refused.stderr.contains("it has 10 zones, and at least 24 are needed"), "{refused}");
        assert!(content(device, 0, 10 * MIB) == before, "a refusal changes nothing");
    });
}

fn two_namespaces(kernel: Kernel) -> Machine {
    Machine::new(kernel).device(zoned("d").copy(64, 256, 31)).device(conventional("d").copy(64, 256, 31))
}

const BOTH: [&str; 2] = ["/dev/vm/dn1", "/dev/vm/dn2"];

#[test]
fn two_namespaces_of_a_drive_reach_each_other() {
    in_guest(two_namespaces(Kernel::Long6_12), &[], || {
        let [zoned, plain] = BOTH.map(Path::new);
        fill(zoned, 3, 0, 3 * MIB);
        fill(plain, 4, 0, 4 * MIB);
        by_device(&copies(zoned, &[(4 * KIB, MIB), (2 * MIB, 512 * KIB)], plain, 9 * MIB + 4 * KIB, &[]), 1536 * KIB, "nvme");
        by_device(&copies(plain, &[(20 * KIB, 3 * MIB), (0, 4 * KIB)], zoned, 8 * MIB, &[]), 3 * MIB + 4 * KIB, "nvme");
        assert_eq!(ways(&[zoned, plain]).0, "nvme");
        let status = brief::live(&BOTH.map(PathBuf::from), PLAIN, &[]);
        brief::by_device(&status, "nvme");
        assert_eq!(status.text("volume/devices/1/route").unwrap(), "nvme");
    });
}

#[test]
fn two_namespaces_where_the_kernel_keeps_host_behaviour_to_itself() {
    in_guest(two_namespaces(Kernel::New7_3), &[], || {
        let [zoned, plain] = BOTH.map(Path::new);
        fill(plain, 4, 0, 4 * MIB);
        let reason = why_not_nvme(&[plain, zoned]);
        assert!(reason.contains("Host Behavior Support") && reason.contains("does not let programs set it"), "{reason}");
        assert_eq!((ways(&[plain]).0, ways(&[zoned]).0), ("nvme".into(), "nvme".into()));
        let demanded = ferrycopy(["copy", "--route", "offload", &source(plain, &[(0, MIB)]), &format!("{}:0", BOTH[0])]);
        assert!(demanded.code == Some(1) && demanded.stderr.contains("Host Behavior Support"), "{demanded}");
        let said = copies(plain, &[(20 * KIB, 3 * MIB), (0, 4 * KIB)], zoned, 8 * MIB, &[]);
        assert_eq!((said["route"].as_str(), said["host_written"].as_u64()), (Some("host"), Some(3 * MIB + 4 * KIB)), "{said}");
        // A volume of both: what stays on its device goes by the device, what does not goes through the host.
        let status = brief::live(&BOTH.map(PathBuf::from), PLAIN, &[]);
        let number = |path: &str| status.number(path).unwrap();
        assert_eq!((0..2).map(|d| status.text(&format!("volume/devices/{d}/route")).unwrap()).collect::<Vec<_>>(), ["nvme", "nvme"]);
        assert!(number("gc/offloaded") > 0, "{}", status.0["gc"]);
        assert_eq!(number("gc/offloaded") + number("gc/host_written"), number("gc/relocated"), "{}", status.0["gc"]);
    });
}

#[test]
fn a_drive_without_copy() {
    in_guest(machine(), &[], || {
        let backing = NullBlock { size: 72, zone_size: 1, zone_capacity: 1, ..NullBlock::default() }.create();
        let device = plain_drive(&backing);
        let words = "does not have the Copy command";
        let reason = why_not_nvme(&[&device]);
        assert!(reason.contains(words), "{reason}");
        fill(&device, 1, 0, 2 * MIB);
        let said = copies(&device, &[(4 * KIB, MIB)], &device, 5 * MIB, &[]);
        assert_eq!((said["route"].as_str(), said["offloaded"].as_u64()), (Some("host"), Some(0)), "{said}");
        brief::by_host(&brief::live(&[device], ZONED, &[]), &[words]);
    });
}

/// It promises Copy and takes none: no harm done, and the reason is on record wherever one may look.
#[test]
fn a_drive_that_refuses_every_copy() {
    in_guest(machine().device(zoned("z").copy(0, 0, 0)).device(conventional("c").copy(0, 0, 0)), &[], || {
        let [zoned, plain] = ["/dev/vm/zn1", "/dev/vm/cn1"].map(PathBuf::from);
        let words = "limits of zero";
        for device in [&zoned, &plain] {
            let reason = why_not_nvme(&[device]);
            assert!(reason.contains(words), "{reason}");
        }
        let said = copied_anywhere(&plain);
        assert_eq!((said["route"].as_str(), said["host_written"].as_u64()), (Some("host"), Some(COPIED_ANYWHERE)), "{said}");
        let demanded = ferrycopy(["copy", "--route", "offload", &source(&plain, &[(0, MIB)]), &format!("{}:40M", plain.display())]);
        assert!(demanded.code == Some(1) && demanded.stderr.contains(words), "{demanded}");
        brief::by_host(&brief::live(std::slice::from_ref(&zoned), ZONED, &[]), &[words]);
        let (_directory, mut volume) = brief::volume(&[plain], PLAIN, &[]);
        volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(volume.status().unwrap().text("volume/devices/0/route").unwrap(), "host");
        assert!(volume.log().contains(words), "the daemon's log: {}", volume.log());
        volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    });
}

/// Copies meet blocks that cannot be read the first time, over and over: what lies before them is kept, the rest goes to another zone, through the host where need
/// be, and nothing is lost.
#[test]
fn copies_that_fail_half_way_below_a_volume() {
    // Two in each zone, further apart than what is overwritten at once.
    let at = |zone: u64| [5 * 64 * KIB + 4 * KIB, 7 * 64 * KIB + 8 * KIB].map(|offset| zone * MIB + offset);
    let bad = (4..64).flat_map(at).map(|offset| BadSector { offset, written: false, once: true });
    in_guest(machine().device(zoned("z").copy(64, 256, 31).bad(bad)), &[], || {
        // No commit but those that are asked for: what lies where, and which copies fail, does not depend on how long anything takes.
        let status = brief::live(&["/dev/vm/zn1".into()], ZONED, &["commit=60"]);
        let number = |path: &str| status.number(path).unwrap();
        assert_eq!(status.text("volume/devices/0/route").unwrap(), "nvme", "{}", status.0["volume"]["devices"]);
        let fallbacks = status.value("gc/fallbacks").unwrap().as_object().unwrap();
        assert!(!fallbacks.is_empty(), "no copy failed: {}", status.0["gc"]);
        assert!(number("gc/offloaded") > 0 && number("gc/host_written") > 0, "{}", status.0["gc"]);
        assert_eq!(number("gc/offloaded") + number("gc/host_written"), number("gc/relocated"), "{}", status.0["gc"]);
        eprintln!("{} {}", status.0["gc"], status.0["copy_file_range"]);
    });
}

/// The drive checks the guards of what it reads and makes new ones for what it writes, whatever the type and the width.
#[test]
fn protection_information_is_made_anew() {
    let small = |metadata, kind| conventional("p").size(24 * MIB).protection(metadata, kind);
    let kinds = [(8, 1), (8, 2), (8, 3), (16, 1), (16, 3)];
    let drive = machine().device(zoned("p").protection(8, 1)).device(small(8, 0));
    let drive = kinds.iter().fold(drive, |machine, &(metadata, kind)| machine.device(small(metadata, kind)));
    in_guest(drive, &[], || {
        for number in 3..3 + kinds.len() {
            let device = PathBuf::from(format!("/dev/vm/pn{number}"));
            by_device(&copied_anywhere(&device), COPIED_ANYWHERE, "nvme");
        }
        // Metadata that are anybody's are not moved along, so nothing is.
        let reason = why_not_nvme(&[Path::new("/dev/vm/pn2")]);
        assert!(reason.contains("8 bytes of metadata that are no protection information"), "{reason}");
        // What protects its blocks otherwise cannot be copied from.
        let reason = why_not_nvme(&[Path::new("/dev/vm/pn3"), Path::new("/dev/vm/pn6")]);
        assert!(reason.contains("differ in block size or protection information"), "{reason}");
        let device = PathBuf::from("/dev/vm/pn1");
        copied_within_zones(&device);
        brief::by_device(&brief::live(&[device], ZONED, &[]), "nvme");
    });
}
