//! Names and attributes through a volume on a simulated drive, remounts included.

use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, FormatOptions, MountOptions, RenameFlags, Volume};
use fs::{FsError, Ino};
use std::collections::BTreeSet;
use std::sync::Arc;
use zns::ZonedDevice;
use zns::sim::{SimConfig, SimDrive};

const WHO: Caller = Caller { uid: 5, gid: 6, pid: 0, umask: 0 };
const TIME: Timestamp = Timestamp { sec: 1_700_000_000, nsec: 5 };

fn drive() -> SimDrive {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let options = FormatOptions { label: "test".into(), uuid: [7; 16], created: TIME, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(vec![drive.open()], &options).expect("a fresh drive takes a volume");
    drive
}

fn mount(drive: &SimDrive, secret: u8, read_only: bool) -> Arc<Volume> {
    let device: Arc<dyn ZonedDevice> = drive.open();
    let clock = Clock(Arc::new(|| TIME));
    let options = MountOptions { clock, secret: Some([secret; 32]), read_only, ..MountOptions::default() };
    Volume::open(vec![device], options).expect("mounts")
}

fn used(volume: &Volume) -> u64 {
    let all = volume.statfs().expect("numbers");
    all.files - all.files_free
}

fn names(volume: &Volume, dir: Ino) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    let mut cookie = 0;
    loop {
        let entries = volume.readdir(dir, cookie, 37).expect("a listing");
        let Some(last) = entries.last() else { return names };
        cookie = last.cookie;
        for entry in entries {
            assert!(names.insert(entry.name), "listed once");
        }
    }
}

#[test]
fn a_tree_of_names_is_the_same_after_a_power_cut() {
    let drive = drive();
    let volume = mount(&drive, 2, false);
    let dir = volume.mkdir(Ino::ROOT, b"dir", 0o2755, &WHO).expect("made").ino;
    let file = volume.mknod(dir, b"file", 0o644, 0, &WHO).expect("made").ino;
    let node = volume.mknod(dir, b"node", libc::S_IFBLK | 0o600, 0x801, &WHO).expect("made").ino;
    let long = vec![b'x'; 4095];
    let link = volume.symlink(dir, b"link", &long, &WHO).expect("made").ino;
    volume.link(file, Ino::ROOT, b"second name").expect("linked");
    volume.setxattr(file, b"user.big", &[9; 65_536], libc::XATTR_CREATE).expect("set");
    volume.setxattr(file, b"user.gone", b"x", 0).expect("set");
    volume.removexattr(file, b"user.gone").expect("removed");
    volume.mkdir(dir, b"deep", 0o755, &WHO).expect("made");
    let exchange = RenameFlags { exchange: true, ..RenameFlags::default() };
    volume.rename(dir, b"deep", Ino::ROOT, b"second name", exchange).expect("exchanged");
    volume.rename(dir, b"node", dir, b"device", RenameFlags::default()).expect("renamed");
    for n in 0..500 {
        volume.mknod(dir, format!("many {n}").as_bytes(), 0o600, 0, &WHO).expect("made");
    }
    for n in 0..250 {
        volume.unlink(dir, format!("many {}", 2 * n).as_bytes()).expect("removed");
    }
    volume.sync().expect("synced");
    let before = (names(&volume, Ino::ROOT), names(&volume, dir));
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    // A volume mounted read-only shows everything and changes nothing.
    for (secret, read_only) in [(3, true), (4, false)] {
        let volume = mount(&drive, secret, read_only);
        assert_eq!((names(&volume, Ino::ROOT), names(&volume, dir)), before);
        assert_eq!(before.1.len(), 2 + 4 + 250);
        let deep = volume.lookup(Ino::ROOT, b"second name").expect("there");
        assert!(deep.is_dir() && deep.gid == 6 && deep.parent == Ino::ROOT);
        assert_eq!(volume.lookup(dir, b"deep").expect("there").ino, file);
        let device = volume.lookup(dir, b"device").expect("there");
        assert_eq!((device.ino, device.mode, device.rdev), (node, libc::S_IFBLK | 0o600, 0x801));
        assert_eq!(volume.readlink(link).expect("a target"), long);
        assert_eq!(volume.getxattr(file, b"user.big").expect("a value"), [9; 65_536]);
        assert_eq!(volume.listxattr(file).expect("names"), b"user.big\0");
        assert!(matches!(volume.getxattr(file, b"user.gone"), Err(FsError::NoAttribute)));
        assert_eq!(volume.getattr(dir).expect("there").size, (before.1.len() as u64 - 2) * 32);
        let refused = volume.mknod(dir, b"new", 0o644, 0, &WHO);
        assert_eq!(matches!(refused, Err(FsError::ReadOnly(_))), read_only);
    }
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}

#[test]
fn an_inode_without_names_is_freed_when_the_kernel_drops_it() {
    let drive = drive();
    let volume = mount(&drive, 2, false);
    let empty = used(&volume);
    let file = volume.mknod(Ino::ROOT, b"file", 0o644, 0, &WHO).expect("made").ino;
    let other = volume.mknod(Ino::ROOT, b"other", 0o644, 0, &WHO).expect("made").ino;
    let dir = volume.mkdir(Ino::ROOT, b"dir", 0o755, &WHO).expect("made").ino;
    volume.setxattr(file, b"user.big", &[9; 60_000], 0).expect("set");
    assert_eq!(used(&volume), empty + 3);
    volume.unlink(Ino::ROOT, b"file").expect("removed");
    volume.rmdir(Ino::ROOT, b"dir").expect("removed");
    assert_eq!(volume.getattr(file).expect("still there").nlink, 0);
    volume.forget(file);
    volume.forget(dir);
    assert!(matches!(volume.getattr(file), Err(FsError::NotFound)));
    assert!(matches!(volume.getattr(dir), Err(FsError::NotFound)));
    assert_eq!(used(&volume), empty + 1);
    volume.mknod(Ino::ROOT, b"new", 0o644, 0, &WHO).expect("made");
    volume.rename(Ino::ROOT, b"new", Ino::ROOT, b"other", RenameFlags::default()).expect("replaced");
    assert_eq!(used(&volume), empty + 2);
    volume.sync().expect("synced");
    // A crash takes the last user: the mount frees what has no name.
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    let volume = mount(&drive, 3, false);
    assert!(matches!(volume.getattr(other), Err(FsError::NotFound)));
    assert_eq!(used(&volume), empty + 1);
}

#[test]
fn many_new_files_stay_within_the_cache() {
    let drive = drive();
    let device: Arc<dyn ZonedDevice> = drive.open();
    let options = MountOptions { secret: Some([2; 32]), cache_size: 4 << 20, ..MountOptions::default() };
    let volume = Volume::open(vec![device], options).expect("mounts");
    let mut largest = 0;
    for n in 0..40_000 {
        let name = format!("a file of many, number {n}");
        volume.mknod(Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, &WHO).expect("made");
        if n % 100 == 0 {
            largest = largest.max(volume.status().cache.resident);
        }
    }
    let cache = volume.status().cache;
    assert!(volume.status().space.used > 2 * cache.limit, "there is more metadata than fits");
    // What arrived last stays a moment in any case.
    assert!(largest <= cache.limit + (1 << 19), "{largest} bytes are resident, {} may be", cache.limit);
    assert_eq!(names(&volume, Ino::ROOT).len(), 40_002);
}
