//! Volumes on several devices: filled evenly, and cleaned and copied within a device.

use super::{B, make, options};
use fs::format::item::Timestamp;
use fs::volume::{FormatOptions, Volume, WriteOptions};
use fs::{BLOCK, Ino};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};
use zns::{Blocks, ZonedDevice};

/// A volume on drives of unlike size.
fn on_drives(configs: Vec<SimConfig>) -> (Vec<SimDrive>, Arc<Volume>) {
    let drives: Vec<SimDrive> = configs.into_iter().map(SimDrive::new).collect();
    let devices = || drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect();
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let format = FormatOptions { label: "several".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(devices(), &format).expect("formatted");
    let volume = Volume::open(devices(), options(2)).expect("mounts");
    (drives, volume)
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
