//! Regular files on filesystems of a guest's own that let files share blocks: `ferrycopy` and a volume copy by FICLONERANGE; and on one that does not.

use crate::brief;
use crate::copied::road;
use crate::raw::{copies, fill, source};
use crate::tool::{by_device, ferrycopy};
use guest::machine::SCRATCH;
use guest::{Device, Kernel, Machine};
use std::fs::File;
use std::path::{Path, PathBuf};
use tests::guest::in_guest;
use tests::guest::stacks::{call, load};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// XFS takes no less.
const SIZE: u64 = 320 * MIB;
/// A volume on a file.
const VOLUME: &[&str] = &["--force", "--profile", "conventional", "--zone-size", "1M"];

/// A filesystem on `disk`, mounted.
fn mounted(kind: &str, disk: &str, options: &[&str]) -> PathBuf {
    load(kind, &[]);
    call(&format!("mkfs.{kind}"), options.iter().chain([&disk]));
    let point = Path::new(SCRATCH).join(kind);
    std::fs::create_dir(&point).unwrap();
    call("mount", ["-t".as_ref(), kind.as_ref(), disk.as_ref(), point.as_os_str()]);
    point
}

fn file(below: &Path, name: &str, size: u64) -> PathBuf {
    let path = below.join(name);
    File::create_new(&path).unwrap().set_len(size).unwrap();
    path
}

/// Two files of known bytes; of the second, the last four MiB are a hole.
fn two_files(below: &Path) -> (PathBuf, PathBuf) {
    let (from, to) = (file(below, "from", 6 * MIB), file(below, "to", 16 * MIB));
    fill(&from, 1, 0, 6 * MIB);
    fill(&to, 2, 0, 12 * MIB);
    (from, to)
}

fn free(below: &Path) -> u64 {
    let statistics = rustix::fs::statvfs(below).unwrap();
    statistics.f_bfree * statistics.f_frsize
}

/// Ranges of whole blocks, to another file and within one, in any order and into a hole: nothing is moved, and no room is used.
fn whole_blocks(below: &Path) {
    let (from, to) = two_files(below);
    let before = free(below);
    let ranges = [(MIB + 4 * KIB, 3 * MIB + 12 * KIB), (0, 4 * KIB), (5 * MIB, MIB)];
    let total = ranges.iter().map(|(_, length)| length).sum();
    by_device(&copies(&from, &ranges, &to, 9 * MIB, &["--route", "offload"]), total, "reflink");
    by_device(&copies(&to, &[(9 * MIB, MIB), (MIB, 2 * MIB)], &to, 5 * MIB, &["--verify", "full"]), 3 * MIB, "reflink");
    let used = before.saturating_sub(free(below));
    assert!(used < total / 2, "{used} bytes of room for {total} that are shared");
}

/// A disk of small blocks: ends of ranges that fill no block are copied, and what lies otherwise in its blocks goes by the host.
fn parts_of_blocks(below: &Path) {
    let (from, to) = (below.join("from"), below.join("to"));
    let said = copies(&from, &[(MIB + 512, 2 * MIB + 1024)], &to, 512, &[]);
    let number = |name: &str| said[name].as_u64().unwrap();
    assert_eq!((said["route"].as_str(), number("bytes")), (Some("reflink"), 2 * MIB + 1024), "{said}");
    assert_eq!((number("host_read"), number("host_written")), (3584 + 1536, 3584 + 1536), "{said}");
    assert_eq!(number("offloaded"), 2 * MIB + 1024 - 3584 - 1536, "{said}");
    let said = copies(&from, &[(0, MIB), (3 * MIB + 512, MIB), (5 * MIB, MIB)], &to, 4 * MIB, &[]);
    let number = |name: &str| said[name].as_u64().unwrap();
    assert_eq!((number("offloaded"), number("host_written")), (2 * MIB, MIB), "{said}");
    assert_eq!(said["fallbacks"]["not-aligned"], 1, "{said}");
}

/// A filesystem that cannot says so.
fn through_the_host(from: &Path, to: &Path, words: &str) {
    let said = copies(from, &[(4 * KIB, 3 * MIB)], to, 8 * KIB, &[]);
    assert_eq!((said["route"].as_str(), said["host_written"].as_u64()), (Some("host"), Some(3 * MIB)), "{said}");
    let (_, closed) = road(to, "none");
    let (_, reason) = closed.into_iter().find(|(road, _)| road == "reflink").unwrap();
    assert!(reason.contains(words), "{reason}");
}

#[test]
fn files_on_xfs_and_btrfs_share_their_blocks_and_those_on_ext4_are_copied() {
    let disk = |size, block| Device::VirtioBlock { size, block };
    let machine = Machine::new(Kernel::Long6_12).device(disk(SIZE, 512)).device(disk(SIZE, 4096)).device(disk(64 * MIB, 512));
    in_guest(machine, &["mkfs.xfs", "mkfs.btrfs", "mkfs.ext4"], || {
        let xfs = mounted("xfs", "/dev/vda", &["-q", "-m", "reflink=1"]);
        let btrfs = mounted("btrfs", "/dev/vdb", &["-q"]);
        let ext4 = mounted("ext4", "/dev/vdc", &["-q"]);
        [&xfs, &btrfs].into_iter().for_each(|below| whole_blocks(below));
        parts_of_blocks(&xfs);
        for below in [&xfs, &btrfs] {
            let volume = file(below, "volume", 64 * MIB);
            brief::by_device(&brief::live(&[volume], VOLUME, &[]), "reflink");
        }
        let (from, to) = two_files(&ext4);
        through_the_host(&from, &to, "does not let files share blocks");
        let refused = ferrycopy([
            "copy",
            "--route",
            "offload",
            &source(&xfs.join("from"), &[(0, MIB)]),
            &format!("{}:0", btrfs.join("to").display()),
        ]);
        assert!(refused.code == Some(1) && refused.stderr.contains("different filesystems"), "{refused}");
    });
}
