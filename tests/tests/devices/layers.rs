//! What Linux builds on drives: partitions, device-mapper and md are looked through where that is sound and asked for; else the host copies and
//! says why. Every byte of the drives below is held against what has to be there.

use crate::brief::{self, PLAIN, ZONED, by_device, by_host};
use crate::copied::{copy_within, road};
use crate::raw::{Holdings, content, fill, source};
use crate::tool::report;
use guest::{Kernel, Machine, Namespace};
use std::path::{Path, PathBuf};
use tests::guest::in_guest;
use tests::guest::stacks::{Mapped, call, encrypted, integrity, mirrored, partition, striped, unmapped, verity};
use zns::raw::{RawOptions, open_raw};

const MIB: u64 = 1 << 20;
/// Of a device that a volume is put on.
const SIZE: u64 = 64 * MIB;

fn machine() -> Machine {
    Machine::new(Kernel::Long6_12)
}

fn drive(name: &str, size: u64) -> Namespace {
    Namespace::conventional(name).size(size)
}

/// The tool on `top`, by the drives below.
fn looked_through_by_the_tool(top: &Path, below: &str) {
    fill(top, 5, 0, SIZE);
    copy_within(top, SIZE, below, "nvme");
    assert_eq!(road(top, below).0, "nvme");
}

/// A volume and the tool on `top`, by the drives below.
fn looked_through(top: &Path, below: &str) {
    looked_through_by_the_tool(top, below);
    by_device(&brief::live(&[top.to_owned()], PLAIN, &[&format!("offload_below={below}")]), "nvme");
}

/// The same through the host, since nobody asked to look below.
fn not_asked_for(top: &Path, below: &str) {
    let asked = format!("offload_below={below}");
    by_host(&brief::live(&[top.to_owned()], PLAIN, &[]), &[&asked]);
    copy_within(top, SIZE, "none", "host");
    let (taken, closed) = road(top, "none");
    let reason = closed.into_iter().find(|(road, _)| road == "nvme").unwrap().1;
    assert!(taken == "host" && reason.contains(&asked), "{taken}: {reason}");
}

/// Does `act` and sees to it that nothing of `drive` has changed outside of `used`.
fn untouched(drive: &Path, size: u64, used: &[(u64, u64)], act: impl FnOnce()) {
    fill(drive, 9, 0, size);
    act();
    let found = content(drive, 0, size);
    for at in (0..size).step_by(MIB as usize).filter(|at| !used.iter().any(|(from, to)| (from..to).contains(&at))) {
        let wrong = harness::Pattern(9).mismatch(at, &found[at as usize..(at + MIB) as usize]);
        assert_eq!(wrong, None, "a neighbour changed");
    }
}

#[test]
fn below_dm_linear_the_drive_copies_at_translated_addresses() {
    let size = 112 * MIB;
    in_guest(machine().device(drive("c", size)), &["dmsetup"], || {
        let drive = Path::new("/dev/vm/cn1");
        let sectors = |bytes: u64| bytes / 512;
        let linear = |length: u64, at: u64, from: u64| format!("{at} {} linear {} {}", sectors(length), drive.display(), sectors(from));
        // A part, from an odd block on.
        let offset = 20 * MIB + 4096;
        untouched(drive, size, &[(20 * MIB, 20 * MIB + SIZE + MIB)], || {
            let part = Mapped::new("part", &[], &linear(SIZE, 0, offset)).path();
            looked_through(&part, "dm");
            not_asked_for(&part, "dm");
        });
        unmapped("part");
        // Two segments, the first one behind the second: what spans them is copied in pieces.
        let half = SIZE / 2 + 12288;
        let table = format!("{}\n{}", linear(half, 0, 60 * MIB), linear(SIZE - half, sectors(half), 8 * MIB));
        let used = [(60 * MIB, 61 * MIB + half), (8 * MIB, 9 * MIB + SIZE - half)];
        untouched(drive, size, &used, || looked_through(&Mapped::new("segments", &[], &table).path(), "dm"));
        unmapped("segments");
        // Whole, by the only path of several that there might be.
        let table = format!("0 {} multipath 0 0 1 1 round-robin 0 1 1 {} 100", sectors(size), drive.display());
        looked_through_by_the_tool(&Mapped::new("paths", &["dm_multipath", "dm_round_robin"], &table).path(), "dm");
    });
}

#[test]
fn below_dm_linear_on_a_zns_drive_the_drive_copies() {
    let zones = Namespace::zoned("z").size(60 * 4 * MIB).zones(4 * MIB, 3 * MIB);
    in_guest(machine().device(zones), &["dmsetup"], || {
        let drive = Path::new("/dev/vm/zn1");
        let whole = Mapped::linear("whole", drive).path();
        by_device(&brief::live(std::slice::from_ref(&whole), ZONED, &["offload_below=dm"]), "nvme");
        gathered_from_zones(&whole, 60, drive, 0);
        unmapped("whole");
        // From the tenth zone on; the zones before and behind are seen to by the neighbours' own test.
        let zone = 4 * MIB / 512;
        let part = Mapped::new("part", &[], &format!("0 {} linear {} {}", 40 * zone, drive.display(), 10 * zone)).path();
        by_device(&brief::live(std::slice::from_ref(&part), ZONED, &["offload_below=dm"]), "nvme");
        gathered_from_zones(&part, 40, drive, 10 * 4 * MIB);
    });
}

/// The tool on `top`, whose `zones` of 4 MiB lie from byte `at` of `drive` on: from one zone into the next but one.
fn gathered_from_zones(top: &Path, zones: u64, drive: &Path, at: u64) {
    let length = (zones * 4 * MIB / 512).to_string();
    call("blkzone", ["reset".as_ref(), "-o".as_ref(), "0".as_ref(), "-l".as_ref(), length.as_ref(), top.as_os_str()]);
    // By the host.
    fill(top, 6, 0, 3 * MIB);
    let (name, to) = (top.to_str().unwrap(), 8 * MIB);
    let said = report(&["copy", "--json", "--offload-below", "dm", &format!("{name}:4K:1M,2M:512K"), &format!("{name}:{to}")]);
    crate::tool::by_device(&said, MIB + MIB / 2, "nvme");
    let (from, found) = (content(top, 0, 3 * MIB), content(top, to, 2 * MIB));
    let half = 512 << 10;
    assert!(found[..1 << 20] == from[4096..4096 + (1 << 20)] && found[1 << 20..][..half] == from[2 << 20..][..half]);
    assert!(content(drive, at + to, 2 * MIB) == found, "it lies where the table says");
}

#[test]
fn below_dm_linear_the_table_changes_in_the_middle_of_a_copy() {
    let (size, at, later) = (150 * MIB, 4 * MIB, 76 * MIB + 4096);
    in_guest(machine().device(drive("c", size).copy(16, 64, 15)), &["dmsetup"], || {
        let drive = Path::new("/dev/vm/cn1");
        let table = |from: u64| format!("0 {} linear {} {}", SIZE / 512, drive.display(), from / 512);
        let moved = Mapped::new("moved", &[], &table(at));
        let top = moved.path();
        fill(&top, 6, 0, SIZE);
        let (ranges, to) = ([(MIB + 4096, 10 * MIB), (20 * MIB, 8 * MIB)], 40 * MIB);
        let expected = Holdings::of(&top);
        let expected = expected.clone().with(to, &expected.gathered(&ranges));
        let copy = std::thread::spawn({
            let top = top.clone();
            move || {
                let destination = format!("{}:{to}", top.display());
                report(&["copy", "--json", "--offload-below", "dm", "--rate", "2M", &source(&top, &ranges), &destination])
            }
        });
        // In the old place there is something of it, and at this rate long not all.
        let place = |at: u64| content(drive, at + to + MIB, 4096);
        let untouched = place(at);
        while place(at) == untouched {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(!copy.is_finished());
        call("dmsetup", ["suspend", "moved"]);
        let data = content(drive, at, SIZE);
        let shared = open_raw(drive, &RawOptions { read_only: false, shared: true }).unwrap();
        // A command that was under way when the table stood still has ended when this has been read and written.
        for (n, part) in data.chunks(MIB as usize).enumerate() {
            let buf = zns::AlignedBuf::from_slice(part);
            shared.write(zns::Lba((later + n as u64 * MIB) / 4096), vec![zns::BufSlice::whole(buf)], zns::IoClass::Copy).unwrap();
        }
        shared.flush().unwrap();
        call("dmsetup", ["load", "moved", "--table", &table(later)]);
        call("dmsetup", ["resume", "moved"]);
        let said = copy.join().unwrap();
        assert_eq!((said["bytes"].as_u64(), said["status"].as_str()), (Some(18 * MIB), Some("done")), "{said}");
        assert!(said["offloaded"].as_u64().unwrap() > 0, "{said}");
        assert!(Holdings::of(&top) == expected, "{said}");
        assert!(content(drive, later, SIZE) == content(&top, 0, SIZE));
    });
}

#[test]
fn below_a_partition_the_drive_copies_at_translated_addresses() {
    let size = 88 * MIB;
    in_guest(machine().device(drive("c", size)), &["addpart"], || {
        let drive = Path::new("/dev/vm/cn1");
        let from = 16 * MIB;
        untouched(drive, size, &[(from, from + SIZE)], || {
            // Nothing below a partition changes under us: nobody has to ask.
            let part = partition(drive, from, SIZE);
            by_device(&brief::live(std::slice::from_ref(&part), PLAIN, &[]), "nvme");
            fill(&part, 5, 0, SIZE);
            copy_within(&part, SIZE, "none", "nvme");
        });
    });
}

#[test]
fn below_a_striped_array_the_drives_copy_from_each_to_each() {
    let half = || drive("c", SIZE / 2 + 8 * MIB);
    in_guest(machine().device(half()).device(half()), &["dmsetup", "mdadm"], || {
        // Two namespaces of one drive.
        let array = striped(Path::new("/dev/vm/cn1"), Path::new("/dev/vm/cn2"));
        looked_through(&array, "md");
        not_asked_for(&array, "md");
        call("mdadm", ["--stop", "/dev/md0"]);
        // The same by device-mapper, in stripes of 64 KiB.
        let table = format!("0 {} striped 2 128 /dev/vm/cn1 0 /dev/vm/cn2 2048", SIZE / 512);
        let stripes = Mapped::new("stripes", &[], &table).path();
        looked_through_by_the_tool(&stripes, "dm");
    });
}

/// What the host has to say about a device below which nobody may look.
fn opaque(top: &Path, words: &[&str]) {
    let (taken, closed) = road(top, "dm,md");
    let reason = closed.into_iter().find(|(road, _)| road == "nvme").unwrap().1;
    assert_eq!(taken, "host");
    assert!(words.iter().all(|word| reason.contains(word)), "{words:?}: {reason}");
}

#[test]
fn below_mirrors_ciphers_checksums_and_snapshots_the_host_copies_and_says_why() {
    let half = || drive("c", SIZE + 8 * MIB);
    let devices = machine().device(half()).device(half()).device(half());
    in_guest(devices, &["dmsetup", "mdadm", "blockdev"], || {
        let paths: Vec<PathBuf> = (1..4).map(|n| PathBuf::from(format!("/dev/vm/cn{n}"))).collect();
        let whole_life = |top: &Path, words: &[&str]| {
            by_host(&brief::live(&[top.to_owned()], PLAIN, &["offload_below=dm,md"]), words);
            opaque(top, words);
            copy_within(top, SIZE, "dm,md", "host");
        };
        whole_life(&mirrored(&paths[0], &paths[1]), &["raid1", "copies"]);
        call("mdadm", ["--stop", "/dev/md0"]);
        whole_life(&encrypted(&paths[0]), &["dm-crypt", "encrypts"]);
        whole_life(&integrity(&paths[1], SIZE), &["dm-integrity", "checksums"]);
        let sectors = SIZE / 512;
        opaque(&verity(&paths[2], SIZE / 2), &["dm-verity", "checksums"]);
        unmapped("sealed");
        unmapped("secret");
        let (origin, changes) = (&paths[0], &paths[2]);
        fill(changes, 0, 0, MIB);
        call("blockdev", ["--flushbufs".as_ref(), changes.as_os_str()]);
        let table = format!("0 {sectors} snapshot {} {} N 8", origin.display(), changes.display());
        opaque(&Mapped::new("then", &["dm_snapshot"], &table).path(), &["dm-snapshot", "shared"]);
    });
}
