//! Damage and what administrators do about it: `ferryfs scrub` on a mounted volume, `fsck.ferryfs -y` on one that is not.

use harness::{Outcome, Pattern, Volume, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tests::Builder;
use tests::mounted::programs;

const LIMIT: Duration = Duration::from_secs(120);
/// Bytes of a file in these tests.
const SIZE: usize = 50_000;
/// Files.
const FILES: u64 = 40;

/// A mounted volume with forty files in a directory.
fn volume_with_files() -> Option<(TempDir, Volume)> {
    let (directory, mut volume) = Builder::default().format("--size 96M --zone-size 1M").create()?;
    volume.mount().unwrap();
    fs::create_dir(volume.path("d")).unwrap();
    for n in 0..FILES {
        fs::write(volume.path(format!("d/file {n}")), Pattern(n).bytes(0, SIZE)).unwrap();
    }
    Some((directory, volume))
}

fn scrub(volume: &Volume, options: &[&str]) -> Outcome {
    run(programs().command("ferryfs").unwrap().arg("scrub").args(options).arg(volume.root()), LIMIT).unwrap()
}

fn fsck(volume: &Volume, option: &str) -> Outcome {
    run(programs().command("fsck.ferryfs").unwrap().arg(option).arg(volume.device()), LIMIT).unwrap()
}

/// Flips a bit in every block of the image for which `is` holds, and tells how many.
fn damage(image: &Path, is: impl Fn(&[u8]) -> bool) -> usize {
    let mut bytes = fs::read(image).unwrap();
    let mut count = 0;
    for block in bytes.chunks_exact_mut(4096) {
        if is(block) {
            block[1000] ^= 0x10;
            count += 1;
        }
    }
    fs::write(image, bytes).unwrap();
    count
}

fn contains(block: &[u8], needle: &[u8]) -> bool {
    block.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_scrub_of_a_sound_volume_verifies_all_and_says_so() {
    let Some((_directory, mut volume)) = volume_with_files() else {
        return;
    };
    fs::File::open(volume.path("d")).unwrap().sync_all().unwrap();
    let done = scrub(&volume, &["--json", "--rate", "1G/s"]);
    assert_eq!(done.code, Some(0), "{done}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let blocks = (SIZE as u64).div_ceil(4096) * 4096 * FILES;
    assert_eq!((&report["complete"], report["data"].as_u64()), (&Value::Bool(true), Some(blocks)), "{done}");
    assert!(report["metadata"].as_u64().unwrap() > 0 && report["damage"].as_array().unwrap().is_empty(), "{done}");
    let done = scrub(&volume, &[]);
    assert!(done.success() && done.stdout.contains("verified"), "{done}");
    let nowhere = run(programs().command("ferryfs").unwrap().args(["scrub", "/"]), LIMIT).unwrap();
    assert_eq!(nowhere.code, Some(1), "no FerryFS is mounted there: {nowhere}");
    volume.umount().unwrap();
}

#[test]
fn a_scrub_names_the_file_with_a_flipped_bit() {
    let Some((_directory, mut volume)) = volume_with_files() else {
        return;
    };
    volume.umount().unwrap();
    let needle = Pattern(7).bytes(4096, 64);
    assert!(damage(volume.device(), |block| block.starts_with(&needle)) > 0, "data lies on the device as it was written");
    volume.mount().unwrap();
    let done = scrub(&volume, &["--json", "--rate", "1G"]);
    assert_eq!(done.code, Some(4), "{done}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{done}");
    assert_eq!((damage[0]["path"].as_str(), damage[0]["offset"].as_u64()), (Some("/d/file 7"), Some(4096)), "{done}");
    let done = scrub(&volume, &["--rate", "1G"]);
    assert!(done.code == Some(4) && done.stdout.contains("/d/file 7: byte 4096: "), "{done}");
    assert!(volume.status().unwrap().number("checks/checksum_errors").unwrap() > 0);
    // A file that is gone is damaged no more.
    fs::remove_file(volume.path("d/file 7")).unwrap();
    assert_eq!(scrub(&volume, &["--rate", "1G"]).code, Some(0));
    volume.umount().unwrap();
}

#[test]
fn a_scrub_can_be_interrupted() {
    let Some((_directory, mut volume)) = volume_with_files() else {
        return;
    };
    fs::File::open(volume.path("d")).unwrap().sync_all().unwrap();
    let read = |volume: &Volume| volume.status().unwrap().number("io/device_read").unwrap();
    let before = read(&volume);
    let mut command = programs().command("ferryfs").unwrap();
    // At this rate it would go on for an hour.
    command.args(["scrub", "--json", "--rate", "1K"]).arg(volume.root()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    while read(&volume) == before {
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{done:?}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["complete"], Value::Bool(false));
    assert!(String::from_utf8_lossy(&done.stderr).contains("interrupted"), "{done:?}");
    assert_eq!(Pattern(3).mismatch(0, &fs::read(volume.path("d/file 3")).unwrap()), None);
    volume.umount().unwrap();
}

#[test]
fn fsck_of_a_mounted_volume_refuses_and_says_what_to_do() {
    let Some((_directory, mut volume)) = volume_with_files() else {
        return;
    };
    for option in ["-n", "-y"] {
        let done = fsck(&volume, option);
        assert_eq!(done.code, Some(8), "{done}");
        assert!(done.stderr.contains("mounted on") && done.stderr.contains("unmount it first"), "{done}");
        assert!(done.stdout.is_empty(), "{done}");
    }
    fs::write(volume.path("still"), "here").unwrap();
    volume.umount().unwrap();
    assert_eq!(fsck(&volume, "-n").code, Some(0));
}

/// The first two names of files in each leaf that has two or more: names that begin so, and end in so many digits.
fn pairs_of_names(image: &[u8], begin: &[u8], digits: usize) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let len = begin.len() + digits;
    let names = |block: &[u8]| -> Vec<Vec<u8>> {
        let is_name = |at: &usize| block[*at..].starts_with(begin) && block[at + begin.len()..][..digits].iter().all(u8::is_ascii_digit);
        (0..block.len() - len).filter(is_name).map(|at| block[at..at + len].to_vec()).collect()
    };
    let leaves = image.chunks_exact(4096).filter(|block| block.starts_with(b"FeND"));
    leaves.filter_map(|block| names(block).first_chunk::<2>().map(|[one, other]| (one.clone(), other.clone()))).collect()
}

#[test]
fn a_lost_leaf_of_names_is_repaired_and_its_files_are_in_lost_and_found() {
    let Some((_directory, mut volume)) = volume_with_files() else {
        return;
    };
    volume.umount().unwrap();
    // Every copy of a leaf with entries of the directory, the ones that older checkpoints have included. Which names are in one is a matter of hashing,
    // and some leaves are of older checkpoints alone.
    let sound = fs::read(volume.device()).unwrap();
    let is_damaged = pairs_of_names(&sound, b"file ", 2).into_iter().any(|(one, other)| {
        fs::write(volume.device(), &sound).unwrap();
        let is_leaf = |block: &[u8]| block.starts_with(b"FeND") && contains(block, &one) && contains(block, &other);
        assert!(damage(volume.device(), is_leaf) > 0, "such a leaf");
        fsck(&volume, "-n").code == Some(4)
    });
    assert!(is_damaged, "a leaf of names that is in use");
    let done = run(programs().command("fsck.ferryfs").unwrap().args(["-y", "--json"]).arg(volume.device()), LIMIT).unwrap();
    assert_eq!(done.code, Some(1), "{done}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let repairs: Vec<&str> = report["repairs"].as_array().unwrap().iter().filter_map(|done| done["repair"].as_str()).collect();
    assert!(repairs.contains(&"node") && repairs.iter().filter(|kind| **kind == "reattached").count() >= 2, "{done}");
    assert!(!report["before"]["clean"].as_bool().unwrap() && report["clean"].as_bool().unwrap(), "{done}");
    assert_eq!(fsck(&volume, "-n").code, Some(0));
    assert_eq!(fsck(&volume, "-y").code, Some(0), "nothing is left to be done");
    // The leaf may have held extents, too, by the chance of where it was split: the files that these belonged to say so.
    let told = repairs.iter().filter(|kind| **kind == "content-lost").count();
    let unreadable = std::cell::Cell::new(0);
    let assert_is_one = |path: &Path| match fs::read(path) {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => unreadable.set(unreadable.get() + 1),
        content => assert_is_one(path, &content.unwrap()),
    };
    volume.mount().unwrap();
    let mut found = 0;
    for directory in ["d", "lost+found"] {
        for entry in fs::read_dir(volume.path(directory)).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found += fs::read_dir(&path).unwrap().inspect(|file| assert_is_one(&file.as_ref().unwrap().path())).count() as u64;
            } else {
                assert_is_one(&path);
                found += 1;
            }
        }
    }
    assert_eq!(found, FILES, "none is lost");
    assert!(unreadable.get() <= told, "{} files cannot be read: {done}", unreadable.get());
    volume.umount().unwrap();
}

/// One of the files, whole.
fn assert_is_one(path: &Path, content: &[u8]) {
    // Of one of which the inode was lost too, the length is known to a block.
    let (whole, rest) = content.split_at(SIZE.min(content.len()));
    let is_one = whole.len() == SIZE && (0..FILES).any(|n| Pattern(n).mismatch(0, whole).is_none());
    assert!(is_one && rest.len() < 4096 && rest.iter().all(|byte| *byte == 0), "{}", path.display());
}

#[test]
fn a_listing_with_a_lost_leaf_gives_all_other_names_and_then_an_error() {
    let Some((_directory, mut volume)) = Builder::default().format("--size 96M --zone-size 1M").create() else {
        return;
    };
    volume.mount().unwrap();
    fs::create_dir(volume.path("d")).unwrap();
    let all: BTreeSet<String> = (0..600).map(|n| format!("a name of some length {n:04}")).collect();
    for name in &all {
        fs::File::create(volume.path("d").join(name)).unwrap();
    }
    volume.umount().unwrap();
    // A leaf that is in use, and does not hold the name of the directory as well.
    let sound = fs::read(volume.device()).unwrap();
    let is_damaged = pairs_of_names(&sound, b"length ", 4).into_iter().any(|(one, other)| {
        fs::write(volume.device(), &sound).unwrap();
        let is_leaf = |block: &[u8]| block.starts_with(b"FeND") && contains(block, &one) && contains(block, &other);
        assert!(damage(volume.device(), is_leaf) > 0, "such a leaf");
        volume.mount().unwrap();
        let is_found = fs::read_dir(volume.path("d")).is_ok_and(|mut listing| listing.any(|entry| entry.is_err()));
        if !is_found {
            volume.umount().unwrap();
        }
        is_found
    });
    assert!(is_damaged, "a leaf of names that is in use");
    for _ in 0..2 {
        let (mut listed, mut errors) = (BTreeSet::new(), Vec::new());
        for entry in fs::read_dir(volume.path("d")).unwrap() {
            match entry {
                Ok(entry) => assert!(listed.insert(entry.file_name().into_string().unwrap()), "{entry:?} twice"),
                Err(error) => errors.push(error.raw_os_error()),
            }
        }
        assert_eq!(errors, [Some(libc::EIO)]);
        let is_lost = |name: &&String| match fs::symlink_metadata(volume.path("d").join(name)) {
            Ok(_) => false,
            Err(error) => error.raw_os_error() == Some(libc::EIO),
        };
        let lost: BTreeSet<String> = all.iter().filter(is_lost).cloned().collect();
        assert!((2..200).contains(&lost.len()), "{} names are lost", lost.len());
        assert_eq!(listed, all.difference(&lost).cloned().collect(), "all that can be had is listed");
    }
    volume.umount().unwrap();
}
