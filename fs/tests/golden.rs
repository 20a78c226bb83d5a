//! Golden images: volumes that an earlier version of this code wrote, which every later one must read to the last byte.
//!
//! They were left by a crash, so that the log is replayed too. To make them anew after a deliberate change of the format:
//! `FERRYFS_GOLDEN=write cargo test -p fs --test golden`. An image is kept as its non-zero blocks, each with its number, deflated.

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use fs::check::{CheckOptions, CheckReport, Finding, check};
use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, FormatOptions, GcMode, MountOptions, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zns::ZonedDevice;
use zns::image::{ImageDevice, ImageOptions};
use zns::open::{OpenOptions, open_device};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
const KINDS: [&str; 2] = ["zns", "conventional"];

fn stored(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("v3-{kind}.golden"))
}

fn pack(image: &Path, into: &Path) {
    let bytes = std::fs::read(image).expect("readable");
    let mut out = DeflateEncoder::new(File::create(into).expect("writable"), Compression::best());
    out.write_all(&(bytes.len() as u64).to_le_bytes()).expect("written");
    for (number, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
        if block.iter().any(|&byte| byte != 0) {
            out.write_all(&number.to_le_bytes()).expect("written");
            out.write_all(block).expect("written");
        }
    }
    out.finish().expect("written");
}

fn unpack(packed: &Path, image: &Path) {
    let mut packed = DeflateDecoder::new(File::open(packed).expect("the golden image is there"));
    let file = File::create(image).expect("writable");
    let mut number = [0; 8];
    packed.read_exact(&mut number).expect("a length");
    file.set_len(u64::from_le_bytes(number)).expect("sized");
    let mut block = [0; BLOCK];
    while packed.read_exact(&mut number).is_ok() {
        packed.read_exact(&mut block).expect("a whole block");
        file.write_all_at(&block, u64::from_le_bytes(number) * BLOCK as u64).expect("written");
    }
}

fn device(path: &Path, read_only: bool) -> Vec<Arc<dyn ZonedDevice>> {
    let options = OpenOptions { read_only, zone_size: Some(MIB), discard: false };
    vec![open_device(path, &options).expect("opens")]
}

fn mount(path: &Path, read_only: bool) -> Arc<Volume> {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_234_567_890, nsec: 123_456_789 }));
    let options = MountOptions { read_only, clock, secret: Some([3; 32]), gc: GcMode::Manual, ..MountOptions::default() };
    Volume::open(device(path, read_only), options).expect("mounts")
}

fn checked(path: &Path) -> CheckReport {
    let report = check(device(path, true), CheckOptions::default()).expect("there is a volume");
    assert!(report.clean, "{report}");
    report
}

/// Compressible, different for each seed, never zero.
fn content(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((i / 64).wrapping_mul(seed + 7) % 251 + 1) as u8).collect()
}

fn file(volume: &Volume, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let ino = volume.mknod(dir, name.as_bytes(), libc::S_IFREG | 0o640, 0, &Caller { uid: 5, gid: 6, pid: 0, umask: 0 }).expect("made").ino;
    if !data.is_empty() {
        write(volume, ino, 0, data);
    }
    ino
}

fn write(volume: &Volume, ino: Ino, offset: u64, data: &[u8]) {
    let options = WriteOptions { sync: false, kill_suid: false, append: false };
    assert_eq!(volume.write(ino, offset, data, &options).expect("written"), data.len());
}

const SIZES: [usize; 7] = [0, 1, 4095, 4096, 4097, 70_000, 300_000];

/// One of everything in a checkpoint, then some of it in the log behind, and a file without a name.
fn make(kind: &str, path: &Path) {
    match kind {
        "zns" => {
            let options = ImageOptions { size: 64 * MIB, zone_size: MIB, zone_capacity: Some(MIB * 3 / 4), ..ImageOptions::default() };
            drop(ImageDevice::create(path, &options).expect("made"));
        }
        _ => File::create(path).expect("made").set_len(64 * MIB).expect("sized"),
    }
    let options = FormatOptions {
        label: "golden".into(),
        uuid: [0x60; 16],
        created: Timestamp { sec: 1_200_000_000, nsec: 1 },
        secret: [2; 32],
        uid: 5,
        gid: 6,
    };
    Volume::format(device(path, false), &options).expect("formatted");
    let volume = mount(path, false);
    let caller = Caller { uid: 5, gid: 6, pid: 0, umask: 0 };
    for (seed, len) in (0..).zip(SIZES) {
        file(&volume, Ino::ROOT, &format!("file {len}"), &content(seed, len));
    }
    let dir = volume.mkdir(Ino::ROOT, b"directory", 0o755, &caller).expect("made").ino;
    let many = volume.mkdir(dir, b"many", 0o700, &caller).expect("made").ino;
    for n in 0..300 {
        file(&volume, many, &format!("entry {n}"), b"");
    }
    let sparse = file(&volume, dir, "sparse", b"");
    for n in 0..20u64 {
        write(&volume, sparse, n * n * 1_000_000, &content(n, 5000));
    }
    let reserved = file(&volume, dir, "reserved", b"");
    volume.fallocate(reserved, 0, 0, 400_000).expect("room");
    write(&volume, reserved, 200_000, b"in the middle");
    let four = volume.lookup(Ino::ROOT, b"file 4096").expect("there").ino;
    volume.link(four, dir, b"link").expect("linked");
    volume.symlink(Ino::ROOT, b"symlink", &[b'y'; 2500], &caller).expect("made");
    volume.mknod(Ino::ROOT, b"null", libc::S_IFCHR | 0o666, 0x103, &caller).expect("made");
    volume.setxattr(four, b"user.short", b"value", 0).expect("set");
    volume.setxattr(four, b"user.long", &content(77, 20_000), 0).expect("set");
    volume.checkpoint().expect("checkpoint");
    // From here on in the log.
    file(&volume, dir, "logged", &content(50, 30_000));
    let gone = volume.lookup(many, b"entry 7").expect("there").ino;
    volume.unlink(many, b"entry 7").expect("gone");
    volume.forget(gone);
    write(&volume, sparse, 1_000_000, b"written again");
    let orphan = file(&volume, Ino::ROOT, "orphan", &content(60, 50_000));
    volume.unlink(Ino::ROOT, b"orphan").expect("gone");
    assert!(volume.getattr(orphan).is_ok());
    volume.sync().expect("synced");
}

fn read(volume: &Volume, dir: Ino, name: &str) -> Vec<u8> {
    let attr = volume.lookup(dir, name.as_bytes()).expect("there");
    let mut all = Vec::new();
    while (all.len() as u64) < attr.size {
        let piece = volume.read(attr.ino, all.len() as u64, 1 << 20).expect("read");
        assert!(!piece.is_empty());
        all.extend_from_slice(&piece);
    }
    all
}

/// The volume holds what [`make`] put there.
fn verify(volume: &Volume) {
    for (seed, len) in (0..).zip(SIZES) {
        assert!(read(volume, Ino::ROOT, &format!("file {len}")) == content(seed, len), "file {len}");
    }
    let dir = volume.lookup(Ino::ROOT, b"directory").expect("there").ino;
    let many = volume.lookup(dir, b"many").expect("there");
    assert_eq!((many.entries, many.nlink, many.mode), (299, 2, libc::S_IFDIR | 0o700));
    for n in (0..300).filter(|n| *n != 7) {
        volume.lookup(many.ino, format!("entry {n}").as_bytes()).expect("there");
    }
    assert!(matches!(volume.lookup(many.ino, b"entry 7"), Err(FsError::NotFound)));
    let mut sparse = vec![0; 19 * 19 * 1_000_000 + 5000];
    for n in 0..20u64 {
        sparse[(n * n * 1_000_000) as usize..][..5000].copy_from_slice(&content(n, 5000));
    }
    sparse[1_000_000..][..13].copy_from_slice(b"written again");
    assert!(read(volume, dir, "sparse") == sparse);
    let mut reserved = vec![0; 400_000];
    reserved[200_000..200_013].copy_from_slice(b"in the middle");
    assert!(read(volume, dir, "reserved") == reserved);
    assert_eq!(volume.lookup(dir, b"reserved").expect("there").blocks, 98);
    assert!(read(volume, dir, "logged") == content(50, 30_000));
    let four = volume.lookup(dir, b"link").expect("there");
    assert_eq!((four.ino, four.nlink, four.uid, four.gid), (volume.lookup(Ino::ROOT, b"file 4096").expect("there").ino, 2, 5, 6));
    assert_eq!(four.mtime, Timestamp { sec: 1_234_567_890, nsec: 123_456_789 });
    assert_eq!(volume.getxattr(four.ino, b"user.short").expect("there"), b"value");
    assert!(volume.getxattr(four.ino, b"user.long").expect("there") == content(77, 20_000));
    let link = volume.lookup(Ino::ROOT, b"symlink").expect("there").ino;
    assert!(volume.readlink(link).expect("a link") == [b'y'; 2500]);
    assert_eq!(volume.lookup(Ino::ROOT, b"null").expect("there").rdev, 0x103);
    assert!(matches!(volume.lookup(Ino::ROOT, b"orphan"), Err(FsError::NotFound)));
}

#[test]
fn golden_images_are_whole_and_hold_what_they_are_to_hold() {
    let directory = tempfile::tempdir().expect("a directory");
    for kind in KINDS {
        let path = directory.path().join(kind);
        if std::env::var_os("FERRYFS_GOLDEN").is_some_and(|value| value == "write") {
            make(kind, &path);
            std::fs::create_dir_all(stored(kind).parent().expect("a parent")).expect("a directory");
            pack(&path, &stored(kind));
            std::fs::remove_file(&path).expect("removed");
        }
        unpack(&stored(kind), &path);
        let report = checked(&path);
        assert!(report.replayed > 0 && report.findings.iter().any(|found| matches!(found.finding, Finding::Orphan { .. })), "{report}");
        verify(&mount(&path, true));
        let volume = mount(&path, false);
        verify(&volume);
        volume.shutdown().expect("unmounted");
        drop(volume);
        let report = checked(&path);
        assert!(report.unmounted_cleanly && report.replayed == 0 && report.findings.is_empty(), "{report}");
        verify(&mount(&path, true));
    }
}
