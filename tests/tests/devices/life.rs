//! The life of a volume on a device: written, overwritten until the cleaner has moved blocks, copied within, unmounted, checked, mounted, compared.

use harness::content::Dice;
use harness::{Pattern, Status, Volume, VolumeSpec};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::mounted::{assert_clean, programs};

/// Bytes that are overwritten at once.
pub const CHUNK: u64 = 64 << 10;
/// Bytes that the cleaner has to move before the load ends.
const RELOCATED: u64 = 4 << 20;

/// Devices of which the kernel knows no zones are given zones of this size.
pub const FORMAT_PLAIN: &[&str] = &["--force", "--zone-size", "4M"];
/// Zoned devices have theirs.
pub const FORMAT_ZONED: &[&str] = &["--force"];

/// A formatted volume on `devices`, not mounted. Its directory goes with the first of the two.
pub fn volume(devices: &[PathBuf], format: &[&str]) -> (TempDir, Volume) {
    let directory = TempDir::new().expect("a directory");
    let format = format.iter().map(|argument| (*argument).to_owned()).collect();
    let spec = VolumeSpec { format, devices: devices.to_vec(), ..VolumeSpec::default() };
    let volume = Volume::create(programs(), directory.path(), spec).unwrap_or_else(|error| panic!("{error:#}"));
    (directory, volume)
}

/// A file of chunks, each of which knows how often it was written.
pub struct Overwritten {
    path: PathBuf,
    file: File,
    generations: Vec<u64>,
    dice: Dice,
}

impl Overwritten {
    /// Fills `share` hundredths of the volume's space with a new file.
    pub fn fill(volume: &Volume, name: &str, share: u64, seed: u64) -> Overwritten {
        let total = volume.status().unwrap().number("space/total").unwrap();
        let chunks = total * share / 100 / CHUNK;
        let path = volume.path(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut made = Overwritten { path, file, generations: vec![0; chunks as usize], dice: Dice::new(seed) };
        for chunk in 0..chunks {
            made.write(chunk).unwrap();
        }
        made.file.sync_all().unwrap();
        made
    }

    /// What chunk `number` holds in its `generation`: that number, then bytes of their own.
    pub fn bytes(number: u64, generation: u64) -> Vec<u8> {
        let mut bytes = Pattern(number).with(generation).bytes(0, CHUNK as usize);
        bytes[..8].copy_from_slice(&generation.to_le_bytes());
        bytes
    }

    fn write(&mut self, number: u64) -> std::io::Result<u64> {
        let generation = self.generations[number as usize] + 1;
        self.file.write_all_at(&Self::bytes(number, generation), number * CHUNK)?;
        self.generations[number as usize] = generation;
        Ok(generation)
    }

    /// Writes some chunk anew: its number and generation.
    pub fn write_one(&mut self) -> std::io::Result<(u64, u64)> {
        let number = self.dice.below(self.generations.len() as u64);
        Ok((number, self.write(number)?))
    }

    /// What every chunk holds at least, once the file was synced.
    pub fn generations(&self) -> &[u64] {
        &self.generations
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Overwrites until the cleaner has moved enough.
    ///
    /// # Panics
    /// It moved too little although the volume was written over many times.
    pub fn until_cleaned(&mut self, volume: &Volume) {
        let before = volume.status().unwrap();
        let most = 12 * self.generations.len();
        for written in 1..=most {
            self.write_one().unwrap();
            if written % 128 == 0 && volume.status().unwrap().since(&before, "gc/relocated").unwrap() >= RELOCATED {
                return;
            }
        }
        panic!("the cleaner moved less than {RELOCATED} bytes: {}", volume.status().unwrap().0["gc"]);
    }

    /// Compares all of it, with `generations` as what it holds exactly, or at least.
    pub fn check(path: &Path, generations: &[u64], exactly: bool) {
        let file = File::open(path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), generations.len() as u64 * CHUNK);
        let mut found = vec![0; CHUNK as usize];
        for (number, &expected) in generations.iter().enumerate() {
            file.read_exact_at(&mut found, number as u64 * CHUNK).unwrap_or_else(|error| panic!("chunk {number}: {error}"));
            let generation = u64::from_le_bytes(found[..8].try_into().unwrap());
            let fits = if exactly { generation == expected } else { generation >= expected };
            assert!(fits, "chunk {number}: generation {generation} where {expected} was acknowledged");
            assert!(found == Self::bytes(number as u64, generation), "chunk {number} of generation {generation} is wrong");
        }
    }
}

/// Small trees of files, by number: lengths around every border.
fn tree_file(number: u64) -> (String, Vec<u8>) {
    let lengths = [0, 1, 4095, 4096, 4097, 70_000, 300_000];
    let length = lengths[(number % lengths.len() as u64) as usize];
    (format!("tree/d{}/f{number}", number % 5), Pattern(7000 + number).bytes(0, length))
}

const TREE_FILES: u64 = 70;

fn write_tree(volume: &Volume) {
    for number in 0..TREE_FILES {
        let (name, contents) = tree_file(number);
        let path = volume.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}

fn check_tree(volume: &Volume) {
    for number in 0..TREE_FILES {
        let (name, contents) = tree_file(number);
        let found = fs::read(volume.path(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == contents, "{name} is wrong");
    }
}

const COPIED: usize = 6 << 20;

/// Copies by copy_file_range, block by block and with ragged ends.
fn copy(volume: &Volume) {
    let source = volume.path("source");
    fs::write(&source, Pattern(42).bytes(0, COPIED)).unwrap();
    for (name, from) in [("copy", 0u64), ("ragged", 1234)] {
        let (file, target) = (File::open(&source).unwrap(), File::create(volume.path(name)).unwrap());
        let (mut offset, mut to) = (from, 0);
        while offset < COPIED as u64 {
            let left = COPIED - offset as usize;
            let done = rustix::fs::copy_file_range(&file, Some(&mut offset), &target, Some(&mut to), left).unwrap();
            assert!(done > 0, "copy_file_range stopped at {offset}");
        }
        target.sync_all().unwrap();
    }
}

fn check_copies(volume: &Volume) {
    for (name, from) in [("source", 0), ("copy", 0), ("ragged", 1234)] {
        let found = fs::read(volume.path(name)).unwrap();
        assert_eq!((found.len(), Pattern(42).mismatch(from, &found)), (COPIED - from as usize, None), "{name}");
    }
}

/// What a life came to.
pub struct Lived {
    /// The counters just before the unmount.
    pub status: Status,
}

impl Lived {
    /// The road that the first device takes within itself, and why.
    pub fn road(&self) -> (String, String) {
        let text = |name: &str| self.status.text(&format!("volume/devices/0/{name}")).unwrap_or_default().to_owned();
        (text("route"), text("route_reason"))
    }

    /// Why the accounts of relocation and copies do not fit the road that was taken, if so.
    fn misfits(&self) -> Option<String> {
        let number = |path: &str| self.status.number(path).unwrap();
        let (relocated, offloaded) = (number("gc/relocated"), number("gc/offloaded"));
        let by_host = [number("gc/host_read"), number("gc/host_written")];
        let (copied, copies_offloaded) = (number("copy_file_range/bytes"), number("copy_file_range/offloaded"));
        let road = self.road().0;
        let fits = match road.as_str() {
            "host" => offloaded == 0 && by_host.iter().all(|&bytes| bytes >= relocated),
            _ => offloaded == relocated && by_host == [0, 0] && copies_offloaded >= COPIED as u64,
        };
        let fits = fits && relocated >= RELOCATED && copied >= COPIED as u64;
        (!fits).then(|| format!("all goes by {road}: {} {}", self.status.0["gc"], self.status.0["copy_file_range"]))
    }

    fn check_accounts(&self) {
        assert!(!self.status.simulated(), "nothing of a real device is simulated");
        assert_eq!(self.misfits(), None);
    }
}

/// The counters, when they agree: a chunk that was copied and is not published yet counts on one side only. After a minute, as they are.
fn settled(volume: &Volume) -> Lived {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let lived = Lived { status: volume.status().unwrap() };
        if lived.misfits().is_none() || Instant::now() > end {
            return lived;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// All of it on `devices`.
pub fn live(devices: &[PathBuf], format: &[&str]) -> Lived {
    let (directory, mut volume) = volume(devices, format);
    let lived = live_on(&mut volume);
    drop((volume, directory));
    lived
}

/// All of it on a formatted volume, which is unmounted and clean afterwards.
pub fn live_on(volume: &mut Volume) -> Lived {
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    write_tree(volume);
    copy(volume);
    let mut load = Overwritten::fill(volume, "load", 60, 1);
    load.until_cleaned(volume);
    // Once more while the cleaner has work.
    copy(volume);
    load.file().sync_all().unwrap();
    let (path, generations) = (load.path.clone(), load.generations.clone());
    drop(load);
    let lived = settled(volume);
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(volume);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    Overwritten::check(&path, &generations, true);
    check_tree(volume);
    check_copies(volume);
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(volume);
    lived.check_accounts();
    lived
}
