//! File data on simulated drives, without a mount point.

mod amplification;
mod crash;
mod devices;
mod faults;
mod fragments;
mod full;
mod hints;
mod model;
mod placement;
mod room;
mod threads;

use fs::core::ops;
use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, Cost, FormatOptions, MountOptions, Volume, WriteOptions};
use fs::{BLOCK, Ino};
use std::sync::Arc;
use zns::sim::{Fault, SimConfig, SimDrive};
use zns::{CopyLimits, NvmeStatus, ZonedDevice};

const B: u64 = BLOCK as u64;

/// A linear congruential generator (Knuth's MMIX), of which the upper bits are used.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn options(secret: u8) -> MountOptions {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    MountOptions { clock, secret: Some([secret; 32]), ..MountOptions::default() }
}

fn fresh() -> SimDrive {
    fresh_on(SimConfig::zoned(64, 1))
}

fn fresh_on(config: SimConfig) -> SimDrive {
    let drive = SimDrive::new(config);
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let options = FormatOptions { label: "data".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(vec![drive.open()], &options).expect("a fresh drive takes a volume");
    drive
}

fn mount(drive: &SimDrive, secret: u8) -> Arc<Volume> {
    mount_with(drive, options(secret))
}

fn mount_with(drive: &SimDrive, options: MountOptions) -> Arc<Volume> {
    let device: Arc<dyn ZonedDevice> = drive.open();
    Volume::open(vec![device], options).expect("mounts")
}

fn make(volume: &Volume, name: &str) -> Ino {
    let mode = libc::S_IFREG | 0o644;
    let made = volume.run(Cost::METADATA, |txn| ops::mknod(txn, Ino::ROOT, name.as_bytes(), mode, 0, &Caller::default()));
    made.expect("made").ino
}

#[test]
fn a_copy_of_whole_blocks_never_passes_through_the_host() {
    let drive = fresh();
    let volume = mount(&drive, 2);
    let (a, b) = (make(&volume, "a"), make(&volume, "b"));
    let bytes: Vec<u8> = (0..5 << 20).map(|i: u32| (i / 5) as u8).collect();
    volume.write(a, 0, &bytes, &WriteOptions::default()).expect("written");
    let mut done = 0;
    while done < bytes.len() as u64 {
        done += volume.copy_file_range(a, done, b, done, bytes.len() as u64 - done).expect("copied");
    }
    for (i, chunk) in bytes.chunks(1 << 20).enumerate() {
        assert!(volume.read(b, (i as u64) << 20, 1 << 20).expect("read")[..] == *chunk);
    }
    let status = volume.status().copy_file_range;
    assert_eq!((status.bytes, status.offloaded, status.host_read, status.host_written), (done, done, 0, 0));
}

/// Of a call, the command that failed goes through the host, and nothing else does.
#[test]
fn what_the_device_fails_on_once_passes_through_the_host_and_no_more() {
    let limits = CopyLimits { mssrl: 16, mcl: 16, ranges: 1 };
    let drive = fresh_on(SimConfig { copy: Some(limits), ..SimConfig::zoned(64, 1) });
    let volume = mount(&drive, 2);
    let (a, b) = (make(&volume, "a"), make(&volume, "b"));
    let bytes: Vec<u8> = (0..4 << 20).map(|i: u32| (i / 5) as u8).collect();
    volume.write(a, 0, &bytes, &WriteOptions::default()).expect("written");
    volume.sync().expect("synced");
    drive.fail_at(drive.ops() + 5, Fault::CopyRefused(NvmeStatus(0x006)));
    let mut done = 0;
    while done < bytes.len() as u64 {
        done += volume.copy_file_range(a, done, b, done, bytes.len() as u64 - done).expect("copied");
    }
    for (i, chunk) in bytes.chunks(1 << 20).enumerate() {
        assert!(volume.read(b, (i as u64) << 20, 1 << 20).expect("read")[..] == *chunk);
    }
    let status = volume.status().copy_file_range;
    assert_eq!(status.bytes, done);
    assert!(status.host_written > 0 && status.host_written <= 64 * B, "{} bytes by the host", status.host_written);
}
