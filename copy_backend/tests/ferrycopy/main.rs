//! The built `ferrycopy` on plain files and drive images: what it copies, what it leaves alone, what it says, and its exit status.

mod calibrating;
mod cloning;
mod copying;
mod refusing;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use zns::image::{ImageDevice, ImageOptions};
use zns::{AlignedBuf, Blocks, BufSlice, IoClass, Lba, ZoneId, ZonedDevice};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Bytes that differ in every block.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let word = |word: u64| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xff51_afd7_ed55_8ccd)).to_le_bytes();
    (0..len / 8).flat_map(word).collect()
}

/// A directory to work in.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file with a pattern in it.
    fn file(&self, name: &str, seed: u64, len: u64) -> Vec<u8> {
        let bytes = pattern(seed, len);
        std::fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    /// A drive image of 64 zones of 1 MiB; the first `full` of them are full.
    fn image(&self, name: &str, full: u32, options: ImageOptions) -> Vec<u8> {
        let options = ImageOptions { size: 64 * MIB, zone_size: MIB, ..options };
        let device = ImageDevice::create(self.path(name), &options).unwrap();
        let geometry = device.geometry().clone();
        let mut all = Vec::new();
        for zone in 0..full {
            let bytes = pattern(100 + u64::from(zone), geometry.zone_capacity_bytes());
            let data = vec![BufSlice::whole(AlignedBuf::from_slice(&bytes))];
            device.write(geometry.zone_start(ZoneId(zone)), data, IoClass::Log).unwrap();
            all.extend(bytes);
        }
        device.flush().unwrap();
        drop(device);
        nobody_has(&self.path(name));
        all
    }

    fn read_image(&self, name: &str, offset: u64, len: u64) -> Vec<u8> {
        let device = ImageDevice::open(self.path(name), true).unwrap();
        let geometry = device.geometry().clone();
        let block = u64::from(geometry.block_size);
        let zone = geometry.zone_size_bytes();
        let (mut bytes, mut at) = (Vec::new(), offset);
        while at < offset + len {
            let take = (zone - at % zone).min(offset + len - at);
            bytes.extend_from_slice(&device.read(Lba(at / block), AlignedBuf::zeroed(take as usize), IoClass::Log).unwrap());
            at += take;
        }
        drop(device);
        nobody_has(&self.path(name));
        bytes
    }

    fn written(&self, name: &str, zone: u32) -> Blocks {
        let zones = ImageDevice::open(self.path(name), true).unwrap().report(zone..zone + 1).unwrap();
        nobody_has(&self.path(name));
        zones[0].written
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrycopy"));
        command.current_dir(self.directory.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said(self.command(arguments).output().unwrap())
    }
}

/// What the tool said.
struct Said(Output);

impl Said {
    fn status(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }
    fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
    #[track_caller]
    fn expect(self, status: i32) -> Self {
        assert_eq!(self.status(), status, "{}\n{}", self.out(), self.err());
        self
    }
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out()).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out(), self.err()))
    }
    /// It was refused with these words, and said nothing else.
    #[track_caller]
    fn refused(self, words: &str) {
        let said = self.expect(2);
        assert!(said.err().contains(words) && said.out().is_empty(), "{words:?} is not in {}{}", said.err(), said.out());
    }
}

/// Waits until nobody has a lock on a file that is closed here: a program that another test starts has copies of our descriptors between fork and exec.
fn nobody_has(path: &Path) {
    use rustix::fs::{FlockOperation, flock};
    let file = std::fs::File::open(path).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        assert!(Instant::now() < end, "{} is locked: {error}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Unlocked, not only closed: this descriptor may have been copied, too.
    flock(&file, FlockOperation::Unlock).unwrap();
}

fn exists(path: &Path) -> bool {
    path.exists()
}
