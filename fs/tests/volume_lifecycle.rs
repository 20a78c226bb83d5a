//! A volume on simulated drives from its making to its remount, without a mount point.

use fs::core::ops;
use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, Cost, FormatOptions, MountOptions, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::sync::Arc;
use zns::ZonedDevice;
use zns::sim::{Fault, FaultPlan, SimConfig, SimDrive};

fn clock() -> Clock {
    Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }))
}

fn options(secret: u8) -> MountOptions {
    MountOptions { clock: clock(), secret: Some([secret; 32]), ..MountOptions::default() }
}

fn format(drive: &SimDrive) {
    let options = FormatOptions {
        label: "test".into(),
        uuid: [7; 16],
        created: Timestamp { sec: 1_700_000_000, nsec: 0 },
        secret: [1; 32],
        uid: 0,
        gid: 0,
    };
    Volume::format(vec![drive.open()], &options).expect("a fresh drive takes a volume");
}

fn mount(drive: &SimDrive, secret: u8) -> Arc<Volume> {
    let device: Arc<dyn ZonedDevice> = drive.open();
    Volume::open(vec![device], options(secret)).expect("mounts")
}

fn make(volume: &Volume, name: &str) -> Ino {
    volume
        .run(Cost::METADATA, |txn| ops::mknod(txn, Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, &Caller::default()))
        .expect("made")
        .ino
}

fn look(volume: &Volume, name: &str) -> Result<Ino, FsError> {
    volume.run(Cost::NOTHING, |txn| ops::lookup(txn, Ino::ROOT, name.as_bytes())).map(|attr| attr.ino)
}

#[test]
fn what_was_synced_is_there_after_a_power_cut() {
    for conventional in [false, true] {
        let config = if conventional { SimConfig::conventional(64, 1) } else { SimConfig::zoned(64, 1) };
        let drive = SimDrive::new(config);
        format(&drive);
        let volume = mount(&drive, 2);
        let first = make(&volume, "first");
        volume.sync().expect("synced");
        make(&volume, "second");
        drop(volume);
        drive.cut_power();
        drive.power_cycle();
        let volume = mount(&drive, 3);
        assert_eq!(look(&volume, "first").expect("synced"), first);
        assert!(matches!(look(&volume, "second"), Err(FsError::NotFound)));
        volume.checkpoint().expect("checkpoint");
        make(&volume, "third");
        volume.checkpoint().expect("checkpoint");
        drop(volume);
        drive.cut_power();
        drive.power_cycle();
        let volume = mount(&drive, 4);
        look(&volume, "third").expect("in the checkpoint");
        assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
    }
}

#[test]
fn many_files_survive_many_checkpoints() {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    format(&drive);
    let mut volume = mount(&drive, 2);
    for round in 0..20u8 {
        for i in 0..200 {
            make(&volume, &format!("file {round} {i}"));
        }
        if round % 3 == 0 {
            volume.checkpoint().expect("checkpoint");
        } else {
            volume.sync().expect("synced");
        }
        if round % 5 == 4 {
            drop(volume);
            drive.cut_power();
            drive.power_cycle();
            volume = mount(&drive, round + 10);
        }
    }
    for round in 0..20 {
        for i in 0..200 {
            look(&volume, &format!("file {round} {i}")).expect("there");
        }
    }
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}

/// Wherever a read fails while a volume is mounted after a crash, once or for longer: what was acknowledged is not lost by that mount.
#[test]
fn a_read_that_fails_at_mount_costs_nothing_that_was_synced() {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    format(&drive);
    let volume = mount(&drive, 2);
    for n in 0..20 {
        let ino = make(&volume, &format!("file {n}"));
        let write = WriteOptions { sync: false, kill_suid: false, append: false };
        volume.write(ino, 0, &[n; 9000], &write).expect("written");
        volume.sync().expect("synced");
    }
    drop(volume);
    drive.cut_power();
    drive.power_cycle();
    let begun = drive.fork();
    let before = begun.ops();
    drop(mount(&begun, 3));
    let operations = begun.ops() - before;
    assert!(operations > 20, "{operations} operations");
    for in_a_row in [1, 6] {
        for at in 0..operations {
            let drive = drive.fork();
            (0..in_a_row).for_each(|n| drive.fail_at(drive.ops() + at + n, Fault::ReadError));
            let device: Arc<dyn ZonedDevice> = drive.open();
            // It may be refused, read-only, or as if nothing had been.
            drop(Volume::open(vec![device], options(3)));
            drive.cut_power();
            drive.power_cycle();
            drive.set_faults(FaultPlan::default());
            let volume = mount(&drive, 4);
            for n in 0..20 {
                look(&volume, &format!("file {n}")).unwrap_or_else(|error| panic!("{in_a_row} from {at} on: file {n}: {error}"));
            }
        }
    }
}
