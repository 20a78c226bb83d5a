//! `ferrycopy` on NVMe drives: by the device, with no payload byte through the host, every byte compared, the neighbours untouched; and drives that fail or
//! go away on the way.

use crate::raw::{Holdings, content, copies, fails, fill, open, source};
use crate::tool::{by_device, ferrycopy, report};
use guest::{BadSector, Kernel, Machine, Namespace};
use harness::Pattern;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tests::guest::in_guest;
use tests::guest::stacks::appears;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn machine(namespace: Namespace) -> Machine {
    Machine::new(Kernel::Long6_12).device(namespace)
}

/// What was copied of a range: offsets into it, with lengths.
fn done(report: &Value, range: usize) -> Vec<(u64, u64)> {
    let parts = report["ranges"][range]["done"].as_array().unwrap();
    parts.iter().map(|part| (part[0].as_u64().unwrap(), part[1].as_u64().unwrap())).collect()
}

#[test]
fn ranges_of_a_conventional_namespace_land_at_any_block() {
    let drive = |name| Namespace::conventional(name).size(64 * MIB).copy(64, 256, 15);
    in_guest(machine(drive("c")).device(drive("s").block(512)), &[], || {
        for (device, unit) in [("/dev/vm/cn1", 4 * KIB), ("/dev/vm/sn1", 512)] {
            let device = Path::new(device);
            fill(device, 1, 0, 40 * MIB);
            let ranges = [(3 * MIB + unit, 5 * MIB + 3 * unit), (37 * MIB, unit), (15 * MIB + unit, 9 * MIB)];
            let total = ranges.iter().map(|(_, length)| length).sum();
            by_device(&copies(device, &ranges, device, 42 * MIB + 5 * unit, &["--route", "offload"]), total, "nvme");
        }
        // Between drives of their own, and of blocks of their own, there is only the host.
        let (from, to) = (Path::new("/dev/vm/cn1"), Path::new("/dev/vm/sn1"));
        let refused = ferrycopy(["copy", &source(from, &[(0, 4 * KIB)]), &format!("{}:512", to.display())]);
        assert!(refused.code == Some(2) && refused.stderr.contains("is not a multiple of 4096 bytes, the block of"), "{refused}");
        let said = copies(from, &[(4 * KIB, 3 * MIB)], to, 8 * KIB, &[]);
        assert_eq!((said["route"].as_str(), said["host_written"].as_u64()), (Some("host"), Some(3 * MIB)), "{said}");
    });
}

#[test]
fn zones_of_a_zns_drive_are_filled_at_their_write_pointers() {
    let drive = Namespace::zoned("z").size(96 * MIB).zones(4 * MIB, 3 * MIB).active(6, 8).copy(64, 128, 3);
    in_guest(machine(drive), &[], || {
        let device = Path::new("/dev/vm/zn1");
        fill(device, 2, 0, 3 * MIB);
        fill(device, 2, 4 * MIB, 2 * MIB);
        let ranges = [(8 * KIB, MIB + 4 * KIB), (5 * MIB, 512 * KIB)];
        let total = ranges.iter().map(|(_, length)| length).sum();
        by_device(&copies(device, &ranges, device, 16 * MIB, &["--route", "offload", "--verify", "full"]), total, "nvme");
        // The same zone goes on by the device, and then by the host: the kernel's idea of the write pointer is put right.
        let (at, more) = (16 * MIB + total, 256 * KIB);
        by_device(&copies(device, &[(0, more)], device, at, &[]), more, "nvme");
        let said = copies(device, &[(0, more)], device, at + more, &["--route", "host"]);
        assert_eq!((said["bytes"].as_u64(), said["host_written"].as_u64()), (Some(more), Some(more)), "{said}");
        let written: Vec<u64> = open(device).report(0..8).unwrap().iter().map(|zone| zone.written.0 * 4096).collect();
        assert_eq!(written, [3 * MIB, 2 * MIB, 0, 0, total + 2 * more, 0, 0, 0]);
        let twice = || ferrycopy(["copy", &source(device, &[(0, 4 * KIB)]), &format!("{}:20M", device.display())]);
        assert!(twice().success(), "an empty zone takes a copy");
        let refused = twice();
        assert!(refused.code == Some(2) && refused.stderr.contains("is written at its write pointer"), "{refused}");
    });
}

/// More zones are filled than the drive lets be active at once: as one is full, the next begins.
#[test]
fn more_zones_than_may_be_active() {
    let drive = Namespace::zoned("s").size(64 * MIB).zones(2 * MIB, 2 * MIB).active(6, 6).copy(64, 128, 3);
    in_guest(machine(drive), &[], || {
        let device = Path::new("/dev/vm/sn1");
        fill(device, 3, 0, 22 * MIB);
        let ranges: Vec<(u64, u64)> = (0..41).map(|n| (n * 17 % 41 * 512 * KIB, 508 * KIB)).collect();
        let total = ranges.iter().map(|(_, length)| length).sum();
        by_device(&copies(device, &ranges, device, 24 * MIB, &["--route", "offload"]), total, "nvme");
        // The last of eleven is not full: what was asked for ends there.
        let active = open(device).report(0..32).unwrap().into_iter().filter(|zone| zone.state.is_active()).count();
        assert_eq!(active, 1);
    });
}

/// What `caps --calibrate` measured of a drive is what copies are cut by; it leaves the scratch ranges empty and touches nothing else.
#[test]
fn a_drive_is_calibrated_and_copies_go_by_the_profile() {
    let plain = Namespace::conventional("c").size(96 * MIB).copy(64, 1024, 63);
    let zoned = Namespace::zoned("z").size(64 * MIB).zones(2 * MIB, 2 * MIB).active(8, 8).copy(64, 512, 31);
    in_guest(machine(plain).device(zoned), &[], || {
        let profile = std::env::temp_dir().join("profile");
        let file = profile.to_str().unwrap();
        for (name, seed, scratch, to) in [("/dev/vm/cn1", 8, 64 * MIB, 48 * MIB), ("/dev/vm/zn1", 9, 40 * MIB, 20 * MIB)] {
            let device = Path::new(name);
            fill(device, seed, 0, 16 * MIB);
            let before = Holdings::of(device);
            let said = report(&["caps", "--json", "--calibrate", "--scratch", &format!("{name}:{scratch}:16M"), "--profile", file, name]);
            assert!(Holdings::of(device) == before, "calibrating changed what is there: {said}");
            let roads = said["roads"].as_array().unwrap();
            let measured =
                |road: &str| roads.iter().find(|found| found["road"] == road).unwrap_or_else(|| panic!("{road}: {said}")).clone();
            for road in ["nvme", "host"] {
                let samples = measured(road)["measured"]["by_bytes"].as_array().unwrap().clone();
                assert!(samples.len() > 2, "{said}");
                assert!(samples.iter().all(|sample| sample["latency_us"].as_f64().unwrap() > 0.0), "{said}");
            }
            assert_eq!(measured("nvme")["simulated"], false);
            // A command is as long as the profile says, and no longer: so many at least.
            let sizes = measured("nvme")["sizes"].clone();
            let (bytes, most) = (8 * MIB, sizes["command_bytes"].as_u64().unwrap());
            let said = copies(device, &[(4 * KIB, bytes)], device, to, &["--route", "offload", "--profile", file]);
            by_device(&said, bytes, "nvme");
            assert!(said["commands"].as_u64().unwrap() >= bytes / most, "commands of at most {most} bytes: {said}");
        }
        // Both drives are in one profile, and one that has neither is said to be of no use.
        let text = fs::read_to_string(&profile).unwrap();
        let other = std::env::temp_dir().join("other");
        fs::write(&other, text.replace("QEMU NVMe Ctrl", "Another drive")).unwrap();
        let (from, to) = (source(Path::new("/dev/vm/cn1"), &[(0, 4 * KIB)]), "/dev/vm/cn1:32M");
        let outcome = ferrycopy(["copy", "--profile", other.to_str().unwrap(), &from, to]);
        assert!(outcome.success() && outcome.stderr.contains("sizes are not chosen by the profile"), "{outcome}");
        let outcome = ferrycopy(["copy", "--profile", file, &from, to]);
        assert!(outcome.success() && outcome.stderr.is_empty(), "{outcome}");
    });
}

/// Across namespaces of one drive the device copies, where the kernel lets us ask it to (6.12); the clone is byte for byte the same.
#[test]
fn a_namespace_is_cloned_to_its_neighbour() {
    let namespace = || Namespace::conventional("c").size(48 * MIB).copy(64, 256, 15);
    in_guest(machine(namespace()).device(namespace()), &[], || {
        let (from, to) = (Path::new("/dev/vm/cn1"), Path::new("/dev/vm/cn2"));
        fill(from, 3, 0, 48 * MIB);
        let state = std::env::temp_dir().join("clone-state");
        let (from_name, to_name) = (from.to_str().unwrap(), to.to_str().unwrap());
        let said = report(&["clone", "--json", "--state", state.to_str().unwrap(), from_name, to_name]);
        by_device(&said, 48 * MIB, "nvme");
        assert!(Holdings::of(to) == Holdings::of(from), "the clone differs");
        assert_eq!(Pattern(3).mismatch(0, &Holdings::of(from).gathered(&[(0, 48 * MIB)])), None);
        assert!(!state.exists());
        let said = report(&["caps", "--json", from_name, to_name]);
        assert_eq!(said["domains"].as_array().unwrap().len(), 1, "{said}");
    });
}

/// 64 KiB extents, every second one, in an order that never goes on where it was: few commands, each of much.
#[test]
fn scattered_extents_are_gathered_by_few_commands() {
    in_guest(machine(Namespace::conventional("c").size(96 * MIB).copy(256, 1024, 127)), &[], || {
        let device = Path::new("/dev/vm/cn1");
        let (count, extent) = (509, 64 * KIB);
        fill(device, 4, 0, 2 * count * extent);
        let ranges: Vec<(u64, u64)> = (0..count).map(|n| (n * 101 % count * 2 * extent, extent)).collect();
        let said = copies(device, &ranges, device, 64 * MIB, &["--route", "offload"]);
        by_device(&said, count * extent, "nvme");
        let average = count * extent / said["commands"].as_u64().unwrap();
        assert!(average >= 128 * KIB, "{average} bytes in a command: {said}");
    });
}

/// What lies before a bad block is copied by the device and counted, to the byte; what the host can read it carries over.
#[test]
fn a_copy_that_fails_half_way_is_counted_to_the_byte() {
    let bad = |offset, once| BadSector { offset, written: false, once };
    // Good when it is read again; never good; a destination that is good when it is written again.
    let sectors = [bad(9 * MIB, true), bad(21 * MIB, false), BadSector { offset: 41 * MIB, written: true, once: true }];
    let conventional = Namespace::conventional("c").size(64 * MIB).copy(64, 1024, 127).bad(sectors);
    let zoned = Namespace::zoned("z").size(64 * MIB).zones(2 * MIB, 2 * MIB).copy(64, 1024, 127).bad([bad(MIB, true)]);
    in_guest(machine(conventional).device(zoned), &[], || {
        let (device, zoned) = (Path::new("/dev/vm/cn1"), Path::new("/dev/vm/zn1"));
        fill(device, 5, 0, 28 * MIB);
        fill(zoned, 6, 0, 2 * MIB);
        // Once bad, in the source: a part by the device, a part by the host, all of it right.
        let mixed = |said: &Value, bytes: u64| {
            let number = |name: &str| said[name].as_u64().unwrap();
            assert_eq!((number("bytes"), said["status"].as_str()), (bytes, Some("done")), "{said}");
            assert!(number("offloaded") > 0 && number("host_written") > 0, "{said}");
            assert_eq!(number("offloaded") + number("host_written"), bytes, "{said}");
            assert_eq!(said["route"], "nvme+host");
            assert!(!said["fallbacks"].as_object().unwrap().is_empty(), "{said}");
        };
        let ranges: Vec<(u64, u64)> = (0..64).map(|n| (8 * MIB + n * 64 * KIB, 64 * KIB)).collect();
        // What is bad once must not be read before.
        let copy = |from: &Path, ranges: &[(u64, u64)], to: u64| {
            report(&["copy", "--json", &source(from, ranges), &format!("{}:{to}", from.display())])
        };
        mixed(&copy(device, &ranges, 32 * MIB), 4 * MIB);
        let length = 2 * MIB - 64 * KIB;
        mixed(&copy(zoned, &[(0, length)], 16 * MIB), length);
        let written: Vec<u64> = open(zoned).report(0..10).unwrap().iter().map(|zone| zone.written.0 * 4096).collect();
        assert_eq!(written, [2 * MIB, 0, 0, 0, 0, 0, 0, 0, length, 0]);
        for (at, length) in [(0, 2 * MIB), (16 * MIB, length)] {
            assert_eq!(Pattern(6).mismatch(0, &content(zoned, at, length)), None);
        }
        // A destination that fails once.
        let said = copy(device, &[(0, 4 * MIB)], 40 * MIB);
        assert_eq!((said["bytes"].as_u64(), said["status"].as_str()), (Some(4 * MIB), Some("done")), "{said}");
        // Never good: it ends there, and says how far it came.
        let ranges = [(26 * MIB, MIB), (20 * MIB, 2 * MIB), (24 * MIB, MIB)];
        let (outcome, said) = fails(device, &ranges, device, 48 * MIB, &[]);
        assert!(outcome.stderr.contains("the source cannot be read"), "{outcome}");
        let done = |range: usize| done(&said, range);
        assert_eq!(done(0), [(0, MIB)], "{said}");
        assert!(done(1).len() == 1 && done(1)[0].0 == 0 && done(1)[0].1 <= MIB, "{said}");
        let bytes = said["bytes"].as_u64().unwrap();
        assert_eq!(bytes, (0..3).flat_map(done).map(|(_, length)| length).sum::<u64>());
        let held = content(device, 40 * MIB, 16 * MIB);
        let expect = [(0, 0, 4 * MIB), (8 * MIB, 26 * MIB, MIB), (9 * MIB, 20 * MIB, bytes - MIB)];
        for (at, from, length) in expect {
            assert_eq!(Pattern(5).mismatch(from, &held[at as usize..(at + length) as usize]), None, "at {at}");
        }
        assert!(held[(12 * MIB) as usize..].iter().all(|&byte| byte == 0), "something was written behind the copy");
        let held = content(device, 32 * MIB, 8 * MIB);
        assert_eq!(Pattern(5).mismatch(8 * MIB, &held[..4 << 20]), None);
        assert!(held[4 << 20..].iter().all(|&byte| byte == 0));
    });
}

/// A drive is pulled in the middle of a copy: it ends with an error, and the bytes that it counts are there when the drive is back.
#[test]
fn a_drive_that_disappears_in_the_middle_of_a_copy() {
    in_guest(machine(Namespace::conventional("c").size(64 * MIB).copy(16, 64, 15)), &[], || {
        let device = Path::new("/dev/vm/cn1").canonicalize().unwrap();
        fill(&device, 7, 0, 24 * MIB);
        let ranges = [(0, 10 * MIB), (12 * MIB, 10 * MIB)];
        let pci = fs::canonicalize("/sys/class/nvme/nvme0/device").unwrap();
        let copy = std::thread::spawn({
            let device = device.clone();
            move || fails(&device, &ranges, &device, 32 * MIB, &["--rate", "1M"])
        });
        // Past the first megabyte, and at this rate long before the last.
        let arrived = || content(&device, 33 * MIB, MIB).iter().any(|&byte| byte != 0);
        while !arrived() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        fs::write(pci.join("remove"), "1").unwrap();
        let (outcome, said) = copy.join().unwrap();
        assert!(outcome.stderr.contains("failed after"), "{outcome}");
        let bytes = said["bytes"].as_u64().unwrap();
        assert!((MIB..20 * MIB).contains(&bytes) && said["status"] == "failed", "{said}");
        fs::write("/sys/bus/pci/rescan", "1").unwrap();
        appears(&device);
        let held = content(&device, 32 * MIB, 20 * MIB);
        for (range, at) in [(0, 0), (1, 10 * MIB)] {
            for (into, length) in done(&said, range) {
                let found = &held[(at + into) as usize..(at + into + length) as usize];
                assert_eq!(Pattern(7).mismatch(ranges[range].0 + into, found), None, "{said}");
            }
        }
    });
}
