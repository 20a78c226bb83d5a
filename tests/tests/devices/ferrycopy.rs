//! `ferrycopy` on real drivers: by the device, with no payload byte through the host, every byte compared, the neighbours untouched.

use guest::{Kernel, Machine, Namespace};
use harness::{Pattern, run};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tests::guest::in_guest;
use tests::mounted::programs;
use zns::raw::{RawOptions, open_raw};
use zns::{AlignedBuf, BufSlice, IoClass, Lba, ZonedDevice};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(300);

fn open(path: &Path) -> Arc<dyn ZonedDevice> {
    open_raw(path, &RawOptions::default()).unwrap()
}

/// The pattern of a place: what lies at byte `n` says where it belongs.
fn fill(path: &Path, seed: u64, offset: u64, length: u64) {
    let device = open(path);
    let block = u64::from(device.geometry().block_size);
    for at in (offset..offset + length).step_by(MIB as usize) {
        let bytes = Pattern(seed).bytes(at, (offset + length - at).min(MIB) as usize);
        device.write(Lba(at / block), vec![BufSlice::whole(AlignedBuf::from_slice(&bytes))], IoClass::Copy).unwrap();
    }
    device.flush().unwrap();
}

fn content(path: &Path, offset: u64, length: u64) -> Vec<u8> {
    let device = open(path);
    let block = u64::from(device.geometry().block_size);
    let piece = |at: u64| {
        let buf = AlignedBuf::zeroed((offset + length - at).min(MIB) as usize);
        device.read(Lba(at / block), buf, IoClass::Copy).unwrap().to_vec()
    };
    (offset..offset + length).step_by(MIB as usize).flat_map(piece).collect()
}

/// Runs the tool and gives what it said.
#[track_caller]
fn ferrycopy(arguments: &[&str]) -> Value {
    let outcome = run(programs().command("ferrycopy").unwrap().args(arguments), LIMIT).unwrap();
    assert!(outcome.success(), "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// All by the device, nothing through the host.
#[track_caller]
fn offloaded(report: &Value, bytes: u64, route: &str) {
    assert_eq!((report["bytes"].as_u64(), report["offloaded"].as_u64()), (Some(bytes), Some(bytes)), "{report}");
    assert_eq!((report["host_read"].as_u64(), report["host_written"].as_u64()), (Some(0), Some(0)), "{report}");
    assert_eq!((report["route"].as_str(), report["simulated"].as_bool()), (Some(route), Some(false)), "{report}");
}

#[test]
fn ranges_of_a_conventional_namespace_land_at_any_block() {
    in_guest(Machine::new(Kernel::Long6_12).device(Namespace::conventional("c").copy(64, 256, 15)), &[], || {
        let device = Path::new("/dev/vm/cn1");
        fill(device, 1, 0, 96 * MIB);
        let ranges = [(3 * MIB + 4 * KIB, 5 * MIB + 12 * KIB), (90 * MIB, 4 * KIB), (15 * MIB + 4 * KIB, 20 * MIB)];
        let target = 45 * MIB + 20 * KIB;
        let total: u64 = ranges.iter().map(|(_, length)| length).sum();
        let words: Vec<String> = ranges.iter().map(|(offset, length)| format!("{offset}:{length}")).collect();
        let source = format!("{}:{}", device.display(), words.join(","));
        let before = content(device, 0, 96 * MIB);
        let report = ferrycopy(&["copy", "--route", "offload", "--json", &source, &format!("{}:{target}", device.display())]);
        offloaded(&report, total, "nvme");
        let mut expected = before.clone();
        let mut at = target as usize;
        for (offset, length) in ranges {
            expected[at..at + length as usize].copy_from_slice(&before[offset as usize..(offset + length) as usize]);
            at += length as usize;
        }
        assert!(content(device, 0, 96 * MIB) == expected, "the device is not what it should be");
    });
}

#[test]
fn zones_of_a_zns_drive_are_filled_at_their_write_pointers() {
    let drive = Namespace::zoned("z").zones(16 * MIB, 12 * MIB).active(6, 8).copy(64, 128, 3);
    in_guest(Machine::new(Kernel::Long6_12).device(drive), &[], || {
        let device = Path::new("/dev/vm/zn1");
        fill(device, 2, 0, 12 * MIB);
        fill(device, 2, 16 * MIB, 6 * MIB);
        let name = device.display();
        let (first, second) = (3 * MIB + 4 * KIB, 2 * MIB);
        let source = format!("{name}:{}:{first},{}:{second}", 8 * KIB, 18 * MIB);
        let report = ferrycopy(&["copy", "--route", "offload", "--verify", "full", "--json", &source, &format!("{name}:{}", 64 * MIB)]);
        offloaded(&report, first + second, "nvme");
        // The same zone goes on by the device, and then by the host: the kernel's idea of the write pointer is put right.
        let at = 64 * MIB + first + second;
        offloaded(&ferrycopy(&["copy", "--json", &format!("{name}:0:1M"), &format!("{name}:{at}")]), MIB, "nvme");
        let at = at + MIB;
        let report = ferrycopy(&["copy", "--route", "host", "--json", &format!("{name}:0:1M"), &format!("{name}:{at}")]);
        assert_eq!((report["bytes"].as_u64(), report["host_written"].as_u64()), (Some(MIB), Some(MIB)), "{report}");
        let expect = [(8 * KIB, first), (18 * MIB, second), (0, MIB), (0, MIB)];
        let expected: Vec<u8> = expect.into_iter().flat_map(|(offset, length)| Pattern(2).bytes(offset, length as usize)).collect();
        assert!(content(device, 64 * MIB, expected.len() as u64) == expected);
        let zones = open(device).report(0..8).unwrap();
        let written: Vec<u64> = zones.iter().map(|zone| zone.written.0 * 4096).collect();
        assert_eq!(written, [12 * MIB, 6 * MIB, 0, 0, expected.len() as u64, 0, 0, 0]);
        let twice = || {
            let mut command = programs().command("ferrycopy").unwrap();
            run(command.arg("copy").args([format!("{name}:0:4K"), format!("{name}:80M")]), LIMIT).unwrap()
        };
        assert!(twice().success(), "an empty zone takes a copy");
        let refused = twice();
        assert!(!refused.success() && refused.stderr.contains("is written at its write pointer"), "{refused}");
    });
}

/// Across namespaces of one drive the device copies, where the kernel lets us ask it to (6.12); the clone is byte for byte the same.
#[test]
fn a_namespace_is_cloned_to_its_neighbour() {
    let namespace = || Namespace::conventional("c").size(128 * MIB).copy(64, 256, 15);
    in_guest(Machine::new(Kernel::Long6_12).device(namespace()).device(namespace()), &[], || {
        let (from, to) = (Path::new("/dev/vm/cn1"), Path::new("/dev/vm/cn2"));
        fill(from, 3, 0, 128 * MIB);
        let state = std::env::temp_dir().join("clone-state");
        let state = state.to_str().unwrap();
        let report = ferrycopy(&["clone", "--json", "--state", state, from.to_str().unwrap(), to.to_str().unwrap()]);
        offloaded(&report, 128 * MIB, "nvme");
        let copy = content(to, 0, 128 * MIB);
        assert_eq!(Pattern(3).mismatch(0, &copy), None);
        assert!(!Path::new(state).exists());
        let report = ferrycopy(&["caps", "--json", from.to_str().unwrap(), to.to_str().unwrap()]);
        assert_eq!(report["domains"].as_array().unwrap().len(), 1, "{report}");
    });
}

/// 256 MiB in scattered extents of 64 KiB, by the device and through the host, in one guest: the times are printed, and not judged here.
#[test]
fn scattered_extents_are_gathered() {
    let drive = Namespace::conventional("c").size(1 << 30).copy(256, 1024, 127);
    in_guest(Machine::new(Kernel::Long6_12).device(drive).memory(1536), &[], || {
        let device = Path::new("/dev/vm/cn1");
        let (count, extent) = (if tests::skip::quick() { 512 } else { 4096 }, 64 * KIB);
        fill(device, 4, 0, 2 * count * extent);
        // Every second extent, in an order that never goes on where it was.
        let offsets: Vec<u64> = (0..count).map(|n| (n * 1021 % count) * 2 * extent).collect();
        let words: Vec<String> = offsets.iter().map(|offset| format!("{offset}:{extent}")).collect();
        let source = format!("{}:{}", device.display(), words.join(","));
        let mut seconds = Vec::new();
        for (route, target) in [("offload", 512 * MIB), ("host", 768 * MIB)] {
            let report = ferrycopy(&["copy", "--route", route, "--json", &source, &format!("{}:{target}", device.display())]);
            if route == "offload" {
                offloaded(&report, count * extent, "nvme");
                let commands = report["commands"].as_u64().unwrap();
                let average = count * extent / commands;
                eprintln!("{commands} commands by the device, {} KiB each on average", average / KIB);
                assert!(average >= 128 * KIB, "{report}");
            }
            let found = content(device, target, count * extent);
            for (index, offset) in offsets.iter().enumerate() {
                let found = &found[index * extent as usize..(index + 1) * extent as usize];
                assert_eq!(Pattern(4).mismatch(*offset, found), None, "{route}: extent {index}");
            }
            seconds.push(report["seconds"].as_f64().unwrap());
        }
        eprintln!(
            "gathering {} MiB in extents of 64 KiB: {:.3} s by the device, {:.3} s through the host: {:.1} times as fast",
            count * extent / MIB,
            seconds[0],
            seconds[1],
            seconds[1] / seconds[0]
        );
    });
}
