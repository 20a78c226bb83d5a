//! A brief life of a volume, for rows where it matters which road blocks take: overwritten, cleaned by order, copied within, mounted again, compared.

use harness::{Pattern, Status, Volume, VolumeSpec};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use tempfile::TempDir;
use tests::mounted::{assert_clean, programs};

const MIB: u64 = 1 << 20;
const UNIT: usize = 64 << 10;
const LENGTH: usize = 12 << 20;
/// Bytes that cleaning moves at least: of twelve zones' worth a third is dead.
const RELOCATED: u64 = 4 * MIB;

/// Devices without zones of their own get small ones.
pub const PLAIN: &[&str] = &["--force", "--zone-size", "1M"];
/// Those that have zones.
pub const ZONED: &[&str] = &["--force"];

/// A formatted volume, not mounted. Its directory goes with the first of the two.
pub fn volume(devices: &[PathBuf], format: &[&str], options: &[&str]) -> (TempDir, Volume) {
    let directory = TempDir::new().expect("a directory");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let spec = VolumeSpec { format: words(format), options: words(options), devices: devices.to_vec(), ..VolumeSpec::default() };
    let volume = Volume::create(programs(), directory.path(), spec).unwrap_or_else(|error| panic!("{error:#}"));
    (directory, volume)
}

/// Cleans until nothing is worth it.
pub fn clean(volume: &Volume) {
    let gc = volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()]).unwrap();
    assert!(gc.success(), "{gc}");
}

/// A file whose content is known; every third unit of it was overwritten.
pub fn overwritten(volume: &Volume, name: &str, seed: u64) -> Vec<u8> {
    let file = File::create_new(volume.path(name)).unwrap();
    let mut content = Pattern(seed).bytes(0, LENGTH);
    file.write_all_at(&content, 0).unwrap();
    file.sync_all().unwrap();
    for at in (0..LENGTH).step_by(3 * UNIT) {
        let new = Pattern(seed).with(1).bytes(at as u64, UNIT);
        content[at..at + UNIT].copy_from_slice(&new);
        file.write_all_at(&new, at as u64).unwrap();
    }
    file.sync_all().unwrap();
    content
}

/// Copies a whole file by copy_file_range.
pub fn copy(volume: &Volume, from: &str, to: &str) {
    let (from, to) = (File::open(volume.path(from)).unwrap(), File::create_new(volume.path(to)).unwrap());
    let length = from.metadata().unwrap().len();
    let (mut at, mut target) = (0, 0);
    while at < length {
        let left = (length - at) as usize;
        assert!(rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut target), left).unwrap() > 0);
    }
    to.sync_all().unwrap();
}

/// The whole of it; gives the counters before the unmount. `options` come besides `gc=manual`.
pub fn live(devices: &[PathBuf], format: &[&str], options: &[&str]) -> Status {
    let options: Vec<&str> = ["gc=manual"].iter().chain(options).copied().collect();
    let (_directory, mut volume) = volume(devices, format, &options);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    let content = overwritten(&volume, "f", 1);
    clean(&volume);
    copy(&volume, "f", "copy");
    let status = volume.status().unwrap();
    volume.remount().unwrap_or_else(|error| panic!("{error:#}"));
    for name in ["f", "copy"] {
        assert!(fs::read(volume.path(name)).unwrap() == content, "{name} is wrong");
    }
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(&volume);
    status
}

fn number(status: &Status, path: &str) -> u64 {
    status.number(path).unwrap()
}

/// Everything went by this road of the first device's, and no payload byte through the host.
#[track_caller]
pub fn by_device(status: &Status, road: &str) {
    assert_eq!(status.text("volume/devices/0/route").unwrap(), road, "{}", status.0["volume"]["devices"]);
    let relocated = number(status, "gc/relocated");
    assert!(relocated >= RELOCATED, "{}", status.0["gc"]);
    assert_eq!(number(status, "gc/offloaded"), relocated, "{}", status.0["gc"]);
    let host = ["gc/host_read", "gc/host_written", "copy_file_range/host_read", "copy_file_range/host_written"];
    assert_eq!(host.map(|name| number(status, name)), [0; 4], "{} {}", status.0["gc"], status.0["copy_file_range"]);
    assert_eq!(number(status, "copy_file_range/offloaded"), LENGTH as u64);
    assert!(!status.simulated(), "nothing of a real device is simulated");
}

/// Everything went through the host, and every one of `words` is in the reason.
#[track_caller]
pub fn by_host(status: &Status, words: &[&str]) {
    let reason = status.text("volume/devices/0/route_reason").unwrap();
    assert_eq!(status.text("volume/devices/0/route").unwrap(), "host", "{reason}");
    assert!(words.iter().all(|word| reason.contains(word)), "none of {words:?}: {reason}");
    let relocated = number(status, "gc/relocated");
    assert!(relocated >= RELOCATED && number(status, "gc/offloaded") == 0, "{}", status.0["gc"]);
    assert!(number(status, "gc/host_read") >= relocated && number(status, "gc/host_written") >= relocated, "{}", status.0["gc"]);
    assert_eq!(number(status, "copy_file_range/offloaded"), 0);
}
