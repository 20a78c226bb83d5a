//! Block devices that a guest makes for itself: zoned memory (null_blk), an SMR disk (scsi_debug), device-mapper tables, md arrays. A guest
//! ends with its test, so nothing is taken down.

use harness::run;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// No program of an administrator takes longer, not even in translated code on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Nor does a device that is going to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program that has to succeed; gives what it printed.
///
/// # Panics
/// It failed.
pub fn call<S: AsRef<std::ffi::OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let outcome = run(Command::new(program).args(arguments), LIMIT).and_then(harness::Outcome::ok);
    outcome.unwrap_or_else(|error| panic!("{error:#}")).stdout
}

/// Loads a kernel module.
pub fn load(module: &str, options: &[String]) {
    call("modprobe", std::iter::once(module).chain(options.iter().map(String::as_str)));
}

/// Waits until `path` is there and can be opened: devices appear some time after what made them returned.
///
/// # Panics
/// It does not appear.
pub fn appears(path: &Path) {
    found(&path.display().to_string(), || is_ready(path).then_some(()));
}

/// What `look` finds, sooner or later.
pub(super) fn found<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Some(found) => return found,
            None if Instant::now() > end => panic!("{what} does not appear"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The kernel makes the node of a disk a moment before the disk itself can be found: it is ENXIO until then.
fn is_ready(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => {
            !File::open(path).is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()))
        }
        found => found.is_ok(),
    }
}

/// A zoned device in memory. Sizes in MiB.
#[derive(Clone, Copy, Debug)]
pub struct NullBlock {
    /// Of all zones together.
    pub size: u32,
    /// From zone to zone.
    pub zone_size: u32,
    /// What can be written of each.
    pub zone_capacity: u32,
    /// Zones at the beginning that have no write pointer.
    pub conventional: u32,
    /// Zones open at once; 0 for any number.
    pub max_open: u32,
    /// Zones open or closed at once; 0 for any number.
    pub max_active: u32,
    /// Bytes in a block.
    pub block: u32,
}

impl Default for NullBlock {
    fn default() -> Self {
        NullBlock { size: 512, zone_size: 8, zone_capacity: 8, conventional: 0, max_open: 0, max_active: 0, block: 4096 }
    }
}

impl NullBlock {
    /// Makes it.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn create(self) -> PathBuf {
        load("null_blk", &["nr_devices=0".to_owned()]);
        let directory = Path::new("/sys/kernel/config/nullb/nullb0");
        fs::create_dir(directory).unwrap_or_else(|error| panic!("making {}: {error}", directory.display()));
        let attributes = [
            ("size", self.size),
            ("blocksize", self.block),
            ("memory_backed", 1),
            ("zoned", 1),
            ("zone_size", self.zone_size),
            ("zone_capacity", self.zone_capacity),
            ("zone_nr_conv", self.conventional),
            ("zone_max_open", self.max_open),
            ("zone_max_active", self.max_active),
            ("power", 1),
        ];
        for (name, value) in attributes {
            let written = fs::write(directory.join(name), value.to_string());
            written.unwrap_or_else(|error| panic!("null_blk: {name}={value}: {error}"));
        }
        let device = PathBuf::from("/dev/nullb0");
        appears(&device);
        device
    }
}

/// Bytes of a block device.
pub fn size_of(device: &Path) -> u64 {
    call("blockdev", ["--getsize64".as_ref(), device.as_os_str()]).trim().parse().expect("a size in bytes")
}

/// A device-mapper device. Its table can be replaced while it is in use.
#[derive(Debug)]
pub struct Mapped {
    name: String,
}

impl Mapped {
    /// Makes it; `modules` are the targets that the kernel has to load first.
    pub fn new(name: &str, modules: &[&str], table: &str) -> Mapped {
        load("dm_mod", &[]);
        modules.iter().for_each(|module| load(module, &[]));
        // From a file: on the command line a table is one line.
        let file = std::env::temp_dir().join(format!("{name}.table"));
        fs::write(&file, table).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        call("dmsetup", ["create".as_ref(), name.as_ref(), file.as_os_str()]);
        let mapped = Mapped { name: name.to_owned() };
        appears(&mapped.path());
        mapped
    }

    /// The whole of `device`, as it is.
    pub fn linear(name: &str, device: &Path) -> Mapped {
        Mapped::new(name, &[], &linear(device))
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }

    /// Puts another table in the place of its table, at once.
    pub fn replace(&self, table: &str) {
        call("dmsetup", ["load", &self.name, "--table", table]);
        call("dmsetup", ["suspend", "--noflush", "--nolockfs", &self.name]);
        call("dmsetup", ["resume", &self.name]);
    }
}

/// Takes the device of this name away, as soon as nobody has it open: what looks at new devices may, for a moment.
pub fn unmapped(name: &str) {
    call("dmsetup", ["remove", "--retry", name]);
}

/// The table of the whole of `device`, as it is.
pub fn linear(device: &Path) -> String {
    format!("0 {} linear {} 0", size_of(device) / 512, device.display())
}

/// The table of the whole of `device`, which from now on fails in the way of `feature`, as dm-flakey calls it.
pub fn flaky(device: &Path, feature: &str) -> String {
    format!("0 {} flakey {} 0 0 1 1 {feature}", size_of(device) / 512, device.display())
}

/// The whole of `device`, encrypted.
pub fn encrypted(device: &Path) -> PathBuf {
    let key = "5c".repeat(64);
    let table = format!("0 {} crypt aes-xts-plain64 {key} 0 {} 0", size_of(device) / 512, device.display());
    Mapped::new("secret", &["dm_crypt", "xts", "aes_generic"], &table).path()
}

/// A device of at least `size` bytes that keeps a checksum of each block of `device`, all zeros.
///
/// # Panics
/// The kernel refuses, or there is no room for `size` bytes beside the checksums.
pub fn integrity(device: &Path, size: u64) -> PathBuf {
    // The kernel formats what begins with zeros when it is asked for a single block, and says in its superblock how many there are (Linux,
    // Documentation/admin-guide/device-mapper/dm-integrity.rst).
    let zeros = vec![0; 1 << 20];
    let wipe = |path: &Path, bytes: u64| {
        let mut file = File::options().write(true).open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (0..bytes / zeros.len() as u64).try_for_each(|_| file.write_all(&zeros)).and_then(|()| file.sync_all()).expect("zeros")
    };
    wipe(device, zeros.len() as u64);
    let table = |sectors: u64| {
        format!("0 {sectors} integrity {} 0 4 D 3 internal_hash:crc32c block_size:4096 journal_sectors:256", device.display())
    };
    drop(Mapped::new("checked", &["dm_integrity", "crc32c"], &table(8)));
    unmapped("checked");
    let mut superblock = [0; 24];
    File::open(device).and_then(|mut file| file.read_exact(&mut superblock)).expect("its superblock");
    let sectors = u64::from_le_bytes(superblock[16..24].try_into().expect("eight bytes"));
    assert!(sectors >= size / 512, "only {sectors} sectors are left of {}", device.display());
    let path = Mapped::new("checked", &[], &table(size / 512)).path();
    wipe(&path, size);
    path
}

/// `bytes` of `device`, said to be sealed by checksums behind them. Nothing of it can be read: they are not there.
pub fn verity(device: &Path, bytes: u64) -> PathBuf {
    load("dm_verity", &[]);
    let (sectors, blocks, digest) = (bytes / 512, bytes / 4096, "00".repeat(32));
    let device = device.display();
    let table = format!("0 {sectors} verity 1 {device} {device} 4096 4096 {blocks} {} sha256 {digest} -", blocks + 1);
    call("dmsetup", ["create", "sealed", "--readonly", "--table", &table]);
    let path = PathBuf::from("/dev/mapper/sealed");
    appears(&path);
    path
}

/// Both devices as one, in stripes.
pub fn striped(first: &Path, second: &Path) -> PathBuf {
    array("0", first, second, &[])
}

/// Both devices as one, each a copy of the other.
pub fn mirrored(first: &Path, second: &Path) -> PathBuf {
    array("1", first, second, &["--assume-clean"])
}

fn array(level: &str, first: &Path, second: &Path, more: &[&str]) -> PathBuf {
    load(&format!("raid{level}"), &[]);
    let level = format!("--level={level}");
    let options = ["--create", "/dev/md0", &level, "--raid-devices=2", "--metadata=1.2", "--run", "--force"];
    call("mdadm", options.iter().chain(more).map(std::ffi::OsStr::new).chain([first.as_os_str(), second.as_os_str()]));
    let device = PathBuf::from("/dev/md0");
    appears(&device);
    device
}

/// A file as a block device.
pub fn looped(file: &Path, size: u64, read_only: bool) -> PathBuf {
    load("loop", &[]);
    let options = File::options().create(true).write(true).truncate(false).open(file);
    options.and_then(|file| file.set_len(size)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let access: &[&str] = if read_only { &["--read-only"] } else { &[] };
    let arguments = ["--find", "--show"].iter().chain(access).map(std::ffi::OsStr::new).chain([file.as_os_str()]);
    call("losetup", arguments).trim().into()
}

/// A part of `device` as a partition of it, number 1. Start and length in bytes.
pub fn partition(device: &Path, start: u64, length: u64) -> PathBuf {
    let device = device.canonicalize().expect("the device");
    call("addpart", [device.as_os_str(), "1".as_ref(), (start / 512).to_string().as_ref(), (length / 512).to_string().as_ref()]);
    let part = PathBuf::from(format!("{}p1", device.display()));
    appears(&part);
    part
}

/// A host-managed SMR disk in memory: `options` are those of scsi_debug, besides `zbc=managed`.
///
/// # Panics
/// No disk appears.
pub fn smr_disk(options: &[&str]) -> PathBuf {
    load("sd_mod", &[]);
    let options = ["zbc=managed", "delay=0"].iter().chain(options).map(|option| (*option).to_owned());
    load("scsi_debug", &options.collect::<Vec<_>>());
    let is_ours = |name: &str| {
        let model = fs::read_to_string(format!("/sys/block/{name}/device/model")).unwrap_or_default();
        model.trim() == "scsi_debug"
            && fs::read_to_string(format!("/sys/block/{name}/queue/zoned")).is_ok_and(|zoned| zoned.trim() == "host-managed")
    };
    let device = found("an SMR disk", || {
        let names = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.into_iter().find(|name| name.starts_with("sd") && is_ours(name)).map(|name| Path::new("/dev").join(name))
    });
    appears(&device);
    device
}
