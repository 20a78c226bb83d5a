//! Volumes on several devices: filled evenly, and cleaned and copied within a device; one that is full, that fails, that is missing.

use super::{B, make, options};
use fs::format::item::Timestamp;
use fs::volume::{FormatOptions, Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino};
use std::sync::Arc;
use zns::sim::{FaultPlan, SimConfig, SimDrive};
use zns::{Blocks, ZonedDevice};

/// A volume on drives of unlike size.
fn on_drives(configs: Vec<SimConfig>) -> (Vec<SimDrive>, Arc<Volume>) {
    let drives: Vec<SimDrive> = configs.into_iter().map(SimDrive::new).collect();
    format(&drives, 7);
    let volume = open(&drives).expect("mounts");
    (drives, volume)
}

fn format(drives: &[SimDrive], uuid: u8) {
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let format = FormatOptions { label: "several".into(), uuid: [uuid; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(handles(drives), &format).expect("formatted");
}

fn handles(drives: &[SimDrive]) -> Vec<Arc<dyn ZonedDevice>> {
    drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
}

fn open(drives: &[SimDrive]) -> Result<Arc<Volume>, FsError> {
    Volume::open(handles(drives), options(2))
}

fn write(volume: &Volume, file: Ino, block: u64, blocks: u64, stamp: u8) {
    volume.write(file, block * B, &vec![stamp; blocks as usize * BLOCK], &WriteOptions::default()).expect("written");
}

/// Live share of each device, in thousandths.
fn shares(volume: &Volume, devices: usize) -> Vec<u64> {
    let zones = volume.zones();
    let sum = |device: usize, of: &dyn Fn(&fs::volume::ZoneView) -> u64| -> u64 {
        zones.iter().filter(|zone| usize::from(zone.device) == device).map(of).sum()
    };
    (0..devices).map(|device| sum(device, &|zone| zone.live) * 1000 / sum(device, &|zone| zone.capacity)).collect()
}

#[test]
fn devices_fill_evenly_and_are_cleaned_each_within_itself() {
    let large = SimConfig { zone_size: Blocks(1024), zone_capacity: Blocks(1000), ..SimConfig::zoned(30, 1) };
    let (drives, volume) = on_drives(vec![SimConfig::zoned(64, 2), large, SimConfig::zoned(100, 3)]);
    let file = make(&volume, "a");
    let blocks = volume.statfs().expect("statfs").available * 85 / 100;
    (0..blocks / 64).for_each(|at| write(&volume, file, at * 64, 64, 1));
    let mut dice = 12345u64;
    for _ in 0..3 * blocks {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        write(&volume, file, (dice >> 33) % (blocks / 64 * 64), 1, 2);
    }
    let gc = volume.status().gc;
    assert!(gc.relocated > blocks * B / 2, "this measures nothing: {gc:?}");
    let by_host = gc.relocated - gc.offloaded;
    assert!(by_host * 50 < gc.relocated, "{by_host} of {} bytes left their device", gc.relocated);
    let shares = shares(&volume, 3);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least < 150, "live thousandths of the devices: {shares:?}");
    for drive in &drives {
        assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
    }
}

#[test]
fn a_copy_stays_on_the_device_of_its_source() {
    let (_drives, volume) = on_drives(vec![SimConfig::zoned(64, 1), SimConfig::zoned(64, 2)]);
    let (source, copy) = (make(&volume, "a"), make(&volume, "b"));
    let blocks = 40 * 256;
    (0..blocks / 64).for_each(|at| write(&volume, source, at * 64, 64, at as u8));
    volume.sync().expect("synced");
    let mut done = 0;
    while done < blocks * B {
        done += volume.copy_file_range(source, done, copy, done, blocks * B - done).expect("copied");
    }
    let status = volume.status().copy_file_range;
    assert_eq!((status.offloaded, status.host_read, status.host_written), (blocks * B, 0, 0));
    assert!((0..blocks).step_by(64).all(|at| volume.read(copy, at * B, 1).expect("read")[0] == (at / 64) as u8));
}

/// Blocks of a file that lie on a device.
fn blocks_on(volume: &Volume, file: Ino, device: u8) -> u64 {
    volume.map(file).expect("a map").iter().filter(|entry| entry.device == Some(device)).map(|entry| entry.length / B).sum()
}

fn empty_zones(volume: &Volume, device: u8) -> usize {
    volume.zones().iter().filter(|zone| zone.device == device && zone.state == "empty").count()
}

/// A file of whole MiB, each of one byte.
fn check(volume: &Volume, file: Ino, mib: &[u8]) {
    for (n, stamp) in mib.iter().enumerate() {
        let found = volume.read(file, (n as u64) << 20, 1 << 20).expect("read");
        assert!(found.len() == 1 << 20 && found.iter().all(|byte| byte == stamp), "MiB {n} of {file}");
    }
}

#[test]
fn beside_a_device_that_is_full_the_others_go_on() {
    let (drives, volume) = on_drives(vec![SimConfig::zoned(64, 1), SimConfig::zoned(100, 2)]);
    let source = make(&volume, "source");
    (0..8).for_each(|n| write(&volume, source, n * 256, 256, n as u8));
    volume.sync().expect("synced");
    assert!(blocks_on(&volume, source, 0) > 0);
    // Copies stay on the device of their source until that is full.
    let copy = make(&volume, "copy");
    let on_first = volume.map(source).expect("a map").into_iter().find(|entry| entry.device == Some(0)).expect("it lies there");
    let mut copied = 0;
    while empty_zones(&volume, 0) > 0 {
        let done = volume.copy_file_range(source, on_first.file_offset, copy, copied, on_first.length).expect("copied");
        assert!(done > 0 && copied < 80 << 20, "{done} {copied}");
        copied += done;
    }
    // Its last zone too, and what comes then.
    for _ in 0..(3 << 20) / on_first.length {
        copied += volume.copy_file_range(source, on_first.file_offset, copy, copied, on_first.length).expect("copied");
    }
    assert!(blocks_on(&volume, copy, 1) > 0, "the copies go on on the other device");
    // What is promised can be written, all of it on the other one.
    let file = make(&volume, "file");
    let mut written = 0;
    while volume.statfs().expect("statfs").available >= 64 {
        write(&volume, file, written, 64, 77);
        written += 64;
    }
    assert!(written > 10_000, "{written}");
    assert!(matches!(volume.write(file, written * B, &vec![1; 4 << 20], &WriteOptions::default()), Err(FsError::NoSpace)));
    volume.sync().expect("synced");
    drop(volume);
    drives.iter().for_each(SimDrive::cut_power);
    drives.iter().for_each(SimDrive::power_cycle);
    let volume = open(&drives).expect("mounts again");
    check(&volume, source, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let stamp = (on_first.file_offset >> 20) as u8;
    assert!(volume.read(copy, 0, 1 << 20).expect("read")[..on_first.length.min(4096) as usize].iter().all(|byte| *byte == stamp));
    assert!((0..written).step_by(64).all(|at| volume.read(file, at * B, 4096).expect("read")[..] == [77; BLOCK]));
    for drive in &drives {
        assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
    }
}

#[test]
fn a_device_that_fails_costs_nothing_that_was_acknowledged() {
    let writes = FaultPlan { write_error: 1.0, ..FaultPlan::default() };
    let flushes = FaultPlan { flush_failure: 1.0, ..FaultPlan::default() };
    let resets = FaultPlan { reset_failure: 1.0, ..FaultPlan::default() };
    let now_and_then = FaultPlan { write_error: 0.05, reset_failure: 0.3, ..FaultPlan::default() };
    for (failing, plan) in [0, 1].into_iter().flat_map(|device| [&writes, &flushes, &resets, &now_and_then].map(|plan| (device, plan))) {
        let (drives, volume) = on_drives(vec![SimConfig::zoned(64, 3), SimConfig::zoned(64, 4)]);
        let file = make(&volume, "a");
        let mut content = Vec::new();
        let mut put = |stamp: u8| {
            let written = volume.write(file, (content.len() as u64) << 20, &vec![stamp; 1 << 20], &WriteOptions::default());
            let kept = written.and_then(|_| volume.sync());
            kept.map(|()| content.push(stamp))
        };
        (0..10).for_each(|stamp| put(stamp).expect("all is well"));
        drives[failing].set_faults(plan.clone());
        let outcomes: Vec<Result<(), FsError>> = (10..26).map(&mut put).collect();
        let status = volume.status().volume;
        let context = format!("device {failing}, {plan:?}: {outcomes:?} {:?}", status.read_only_reason);
        match outcomes.iter().position(Result::is_err) {
            None => assert!(!status.mounted_read_only, "{context}"),
            // From then on nothing is taken, and what is said names the device's failure.
            Some(first) => {
                assert!(status.mounted_read_only && outcomes[first..].iter().all(Result::is_err), "{context}");
                let path = &status.devices[failing].path;
                assert!(status.read_only_reason.is_some_and(|reason| reason.contains(path)), "{path}: {context}");
            }
        }
        // Also while it fails, and after it was mended.
        check(&volume, file, &content);
        drop(volume);
        drives.iter().for_each(SimDrive::cut_power);
        drives[failing].set_faults(FaultPlan::default());
        drives.iter().for_each(SimDrive::power_cycle);
        let volume = open(&drives).unwrap_or_else(|error| panic!("{error}: {context}"));
        check(&volume, file, &content);
    }
}

#[test]
fn without_one_of_its_devices_nothing_is_mounted_or_written_and_the_missing_one_is_named() {
    let (drives, volume) = on_drives(vec![SimConfig::zoned(64, 5), SimConfig::conventional(70, 6), SimConfig::zoned(66, 7)]);
    let file = make(&volume, "a");
    (0..6).for_each(|n| write(&volume, file, n * 256, 256, n as u8));
    volume.sync().expect("synced");
    volume.shutdown().expect("shut down");
    drop(volume);
    let stranger = SimDrive::new(SimConfig::zoned(66, 8));
    format(std::slice::from_ref(&stranger), 9);
    let said = |given: Vec<SimDrive>| {
        let before: Vec<u64> = given.iter().map(|drive| drive.stats().writes).collect();
        let error = open(&given).err().expect("not all of it is there").to_string();
        assert_eq!(given.iter().map(|drive| drive.stats().writes).collect::<Vec<_>>(), before, "{error}");
        error
    };
    for (missing, size) in [(0, "64 zones, 64 MiB"), (1, "70 zones, 70 MiB"), (2, "66 zones, 66 MiB")] {
        let mut rest = drives.clone();
        rest.remove(missing);
        let error = said(rest.clone());
        assert!(error.contains(&format!("device {missing} of the volume's 3 is missing (it has {size}")), "{error}");
        rest.push(stranger.clone());
        assert!(said(rest).contains("belongs to another volume"));
    }
    assert!(said(vec![drives[0].clone(), drives[1].clone(), drives[1].clone()]).contains("twice"));
    // In any order.
    let again = [2, 0, 1].map(|at| drives[at].clone());
    let volume = open(&again).expect("all of it is there");
    check(&volume, file, &[0, 1, 2, 3, 4, 5]);
}
