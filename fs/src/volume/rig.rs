//! Volumes on simulated drives, for tests of what cannot be seen from outside.

use crate::format::item::Timestamp;
use crate::ids::Ino;
use crate::volume::{Caller, Clock, FormatOptions, MountOptions, Volume};
use std::sync::Arc;
use zns::ZonedDevice;
use zns::sim::SimDrive;

/// How it is mounted.
pub(crate) fn options() -> MountOptions {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    MountOptions { clock, secret: Some([2; 32]), ..MountOptions::default() }
}

/// Mounts what is on the drive.
pub(crate) fn open(drive: &SimDrive) -> Arc<Volume> {
    Volume::open(vec![drive.open() as Arc<dyn ZonedDevice>], options()).expect("mounts")
}

/// Makes a volume and mounts it.
pub(crate) fn formatted(drive: &SimDrive) -> Arc<Volume> {
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let format = FormatOptions { label: "held".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(vec![drive.open() as Arc<dyn ZonedDevice>], &format).expect("formatted");
    open(drive)
}

/// Makes an empty file in the root directory.
pub(crate) fn make(volume: &Volume, name: &str) -> Ino {
    volume.mknod(Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, &Caller::default()).expect("made").ino
}
