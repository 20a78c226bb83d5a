//! What the simulator has found once, each in the shortest form that shows it.

use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, FormatOptions, MountOptions, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::sync::Arc;
use zns::sim::{Fault, FaultPlan, SimConfig, SimDrive};
use zns::{Blocks, ZonedDevice};

const NOW: Timestamp = Timestamp { sec: 1_700_000_000, nsec: 0 };

fn devices(drives: &[SimDrive]) -> Vec<Arc<dyn ZonedDevice>> {
    drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
}

fn made(configs: Vec<SimConfig>) -> Vec<SimDrive> {
    let drives: Vec<SimDrive> = configs.into_iter().map(SimDrive::new).collect();
    let options = FormatOptions { label: String::new(), uuid: [7; 16], created: NOW, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(devices(&drives), &options).expect("made");
    drives
}

fn mount(drives: &[SimDrive], secret: u8) -> Result<Arc<Volume>, FsError> {
    let clock = Clock(Arc::new(|| NOW));
    Volume::open(devices(drives), MountOptions { clock, secret: Some([secret; 32]), ..MountOptions::default() })
}

fn file(volume: &Volume, name: &str) -> Ino {
    volume.mknod(Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, &Caller::default()).expect("made").ino
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 11) as u8 | 1).collect()
}

fn write(volume: &Volume, ino: Ino, data: &[u8]) {
    assert_eq!(volume.write(ino, 0, data, &WriteOptions::default()).expect("written"), data.len());
}

fn fork(drives: &[SimDrive]) -> Vec<SimDrive> {
    drives.iter().map(SimDrive::fork).collect()
}

fn lose_power(drives: &[SimDrive]) {
    drives.iter().for_each(SimDrive::cut_power);
    drives.iter().for_each(SimDrive::power_cycle);
}

fn no_rule_is_broken(drives: &[SimDrive]) {
    for drive in drives {
        assert!(drive.violations().is_empty(), "{:?}", drive.violations());
    }
}

/// Six active zones, small zones and small writes: a batch over many zones.
fn narrow(zones: u32, seed: u64) -> SimConfig {
    SimConfig {
        max_open: 6,
        max_active: 6,
        max_io_bytes: 64 << 10,
        zone_size: Blocks(512),
        zone_capacity: Blocks(96),
        ..SimConfig::zoned(zones, seed)
    }
}

#[test]
fn a_batch_over_many_zones_keeps_the_limit_of_active_zones() {
    let drives = made(vec![narrow(48, 1)]);
    let volume = mount(&drives, 2).expect("mounts");
    let ino = file(&volume, "large");
    write(&volume, ino, &bytes(2 << 20));
    volume.sync().expect("synced");
    no_rule_is_broken(&drives);
    assert!(volume.zones().iter().all(|zone| zone.state != "retired"));
}

#[test]
fn zones_that_fail_do_not_use_up_the_active_zones() {
    let drives = made(vec![narrow(48, 1)]);
    let volume = mount(&drives, 2).expect("mounts");
    for round in 0..6 {
        drives[0].fail_at(drives[0].ops(), Fault::WriteError);
        let ino = file(&volume, &format!("file {round}"));
        write(&volume, ino, &bytes(100_000));
        volume.sync().expect("synced");
        no_rule_is_broken(&drives);
    }
}

/// A copy that was given all of a zone is in a zone that counts as full; when it fails on the way, the device still has that zone active.
#[test]
fn copies_that_fail_in_a_zone_of_their_own_do_not_use_up_the_active_zones() {
    let drives = made(vec![narrow(48, 1)]);
    let volume = mount(&drives, 2).expect("mounts");
    let (from, to) = (file(&volume, "from"), file(&volume, "to"));
    let len = 120 * 4096;
    write(&volume, from, &bytes(len));
    volume.sync().expect("synced");
    drives[0].set_faults(FaultPlan { copy_partial: 1.0, ..FaultPlan::default() });
    for round in 0..6 {
        let mut done = 0;
        while done < len as u64 {
            let at = (round * len) as u64 + done;
            done += volume.copy_file_range(from, done, to, at, len as u64 - done).expect("copied, by the host where the device fails");
        }
        no_rule_is_broken(&drives);
    }
}

#[test]
fn a_checkpoint_whose_data_went_elsewhere_names_the_new_place() {
    for at in 0..12 {
        let drives = made(vec![SimConfig::zoned(64, 1)]);
        let volume = mount(&drives, 2).expect("mounts");
        let ino = file(&volume, "file");
        write(&volume, ino, &bytes(50_000));
        drives[0].fail_at(drives[0].ops() + at, Fault::WriteError);
        volume.checkpoint().expect("checkpoint");
        no_rule_is_broken(&drives);
        drop(volume);
        lose_power(&drives);
        let volume = mount(&drives, 3).expect("mounts");
        assert!(volume.read(ino, 0, 50_000).expect("read")[..] == bytes(50_000), "write error at {at}");
    }
}

#[test]
fn after_a_failed_flush_nothing_is_built_on_what_was_not_flushed() {
    for at in 0..24 {
        for chance in 0..6 {
            let drives = made(vec![SimConfig::zoned(64, chance)]);
            let volume = mount(&drives, 2).expect("mounts");
            let ino = file(&volume, "file");
            write(&volume, ino, &bytes(50_000));
            volume.sync().expect("synced");
            file(&volume, "another");
            drives[0].set_faults(FaultPlan { flush_failure_lasts: true, ..FaultPlan::default() });
            drives[0].fail_at(drives[0].ops() + at, Fault::FlushFailure);
            // Fails, or had all its flushes before the one that fails.
            let _ = volume.checkpoint();
            drop(volume);
            drives[0].set_faults(FaultPlan::default());
            lose_power(&drives);
            let volume = mount(&drives, 3).expect("mounts");
            assert!(volume.read(ino, 0, 50_000).expect("read")[..] == bytes(50_000));
        }
    }
}

#[test]
fn power_cuts_in_two_checkpoints_running_leave_no_device_two_generations_behind() {
    let drives = made(vec![SimConfig::zoned(64, 1), SimConfig::zoned(64, 2)]);
    let volume = mount(&drives, 2).expect("mounts");
    file(&volume, "file");
    volume.sync().expect("synced");
    drop(volume);
    for first in 0..30 {
        let drives = fork(&drives);
        drives[1].cut_power_at(drives[1].ops() + first);
        let mounted = mount(&drives, 3);
        drop(mounted);
        lose_power(&drives);
        for second in (0..30).step_by(3) {
            let drives = fork(&drives);
            drives[1].cut_power_at(drives[1].ops() + second);
            let mounted = mount(&drives, 4);
            drop(mounted);
            lose_power(&drives);
            let volume = mount(&drives, 5).unwrap_or_else(|error| panic!("cuts at {first} and {second}: {error}"));
            volume.lookup(Ino::ROOT, b"file").expect("there");
        }
    }
}

#[test]
fn a_torn_record_of_the_ring_is_followed_by_none_in_its_zone() {
    let times = 8;
    let base = SimConfig::zoned(64, 3);
    let config = SimConfig { block_size: 512, zone_size: Blocks(256 * times), zone_capacity: Blocks(256 * times), ..base };
    let drives = made(vec![config]);
    for at in 0..40 {
        let drives = fork(&drives);
        drives[0].reseed(at);
        drives[0].cut_power_at(drives[0].ops() + at);
        drop(mount(&drives, 2));
        lose_power(&drives);
        let volume = mount(&drives, 3).expect("mounts");
        for _ in 0..3 {
            volume.checkpoint().expect("checkpoint");
        }
        no_rule_is_broken(&drives);
    }
}
