//! Every kind of damage is found, and found as what it is.

mod crashes;
mod cut_off;
mod damage;
mod forged;
mod kinds;
mod media;
mod media_kinds;
mod repairs;
mod several;
mod sound;

use super::{CheckOptions, CheckReport, Finding, check};
use crate::format::item::Timestamp;
use crate::ids::Ino;
use crate::volume::{Caller, Clock, FormatOptions, GcMode, MountOptions, Volume, WriteOptions};
use std::sync::Arc;
use zns::ZonedDevice;
use zns::sim::{SimConfig, SimDrive};

fn clock() -> Clock {
    Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }))
}

/// A volume on simulated drives.
struct Rig {
    drives: Vec<SimDrive>,
    mounts: u8,
}

impl Rig {
    fn new(configs: Vec<SimConfig>) -> Self {
        let rig = Self { drives: configs.into_iter().map(SimDrive::new).collect(), mounts: 1 };
        let options = FormatOptions {
            label: "check".into(),
            uuid: [7; 16],
            created: Timestamp { sec: 1_700_000_000, nsec: 0 },
            secret: [1; 32],
            uid: 0,
            gid: 0,
        };
        Volume::format(rig.devices(), &options).expect("fresh drives take a volume");
        rig
    }

    fn zoned() -> Self {
        Self::new(vec![SimConfig::zoned(64, 1)])
    }

    fn devices(&self) -> Vec<Arc<dyn ZonedDevice>> {
        self.drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
    }

    fn mount(&mut self) -> Arc<Volume> {
        self.mounts += 1;
        let options = MountOptions { clock: clock(), secret: Some([self.mounts; 32]), gc: GcMode::Manual, ..MountOptions::default() };
        Volume::open(self.devices(), options).expect("mounts")
    }

    fn power_cycle(&self) {
        for drive in &self.drives {
            drive.cut_power();
            drive.power_cycle();
        }
    }

    /// The same drives as they are now, so that the volume may stay mounted.
    fn copies(&self) -> Vec<Arc<dyn ZonedDevice>> {
        self.drives.iter().map(|drive| drive.fork().open() as Arc<dyn ZonedDevice>).collect()
    }

    fn check(&self) -> CheckReport {
        check(self.copies(), CheckOptions::default()).expect("there is a volume")
    }

    /// What is wrong.
    fn problems(&self) -> Vec<Finding> {
        let report = self.check();
        let problems: Vec<Finding> = report.problems().into_iter().cloned().collect();
        assert_eq!(report.clean, problems.is_empty());
        problems
    }

    fn assert_clean(&self) {
        let report = self.check();
        assert!(report.clean, "{report}");
    }
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i as u64).wrapping_mul(31).wrapping_add(seed.wrapping_mul(0x9e37_79b9)) >> 3) as u8).collect()
}

fn make(volume: &Volume, dir: Ino, name: &str) -> Ino {
    volume.mknod(dir, name.as_bytes(), libc::S_IFREG | 0o644, 0, &Caller::default()).expect("made").ino
}

fn write(volume: &Volume, ino: Ino, offset: u64, data: &[u8]) {
    let options = WriteOptions { sync: false, kill_suid: false, append: false };
    assert_eq!(volume.write(ino, offset, data, &options).expect("written"), data.len());
}

/// One of everything that a volume can hold. Returns the inode of `/dir/big`.
fn populate(volume: &Volume) -> Ino {
    let caller = Caller::default();
    let dir = volume.mkdir(Ino::ROOT, b"dir", 0o755, &caller).expect("made").ino;
    let deep = volume.mkdir(dir, b"deep", 0o755, &caller).expect("made").ino;
    for n in 0..300u64 {
        let ino = make(volume, deep, &format!("file {n}"));
        write(volume, ino, n * 1000, &content(n, 5000));
    }
    let big = make(volume, dir, "big");
    write(volume, big, 0, &content(1, 3 << 20));
    write(volume, big, 40 << 20, &content(2, 100_000));
    volume.fallocate(big, 0, 60 << 20, 1 << 20).expect("room");
    volume.fallocate(big, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 300_000).expect("a hole");
    for n in (0..256u64).step_by(5) {
        write(volume, big, n * 4096, &content(n + 7, 4096));
        if n % 3 == 0 {
            volume.sync().expect("synced");
        }
    }
    volume.link(big, Ino::ROOT, b"link").expect("linked");
    volume.symlink(Ino::ROOT, b"symlink", &[b'x'; 3000], &caller).expect("made");
    volume.setxattr(big, b"user.short", b"value", 0).expect("set");
    volume.setxattr(big, b"user.long", &content(9, 30_000), 0).expect("set");
    volume.setxattr(dir, b"user.empty", b"", 0).expect("set");
    volume.mknod(Ino::ROOT, b"fifo", libc::S_IFIFO | 0o600, 0, &caller).expect("made");
    for n in 0..300 {
        if n % 4 == 0 {
            let ino = volume.lookup(deep, format!("file {n}").as_bytes()).expect("there").ino;
            volume.unlink(deep, format!("file {n}").as_bytes()).expect("gone");
            volume.forget(ino);
        }
    }
    big
}
