//! Volumes that are full: what is available can be written, what is there can be overwritten, and what is deleted comes back.

use super::{B, fresh, fresh_on, make, mount};
use fs::volume::{SetAttr, Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino};
use zns::Blocks;
use zns::sim::SimConfig;

/// For a failure: what fills the zones.
fn state_of(volume: &Volume) -> String {
    let status = volume.status();
    let zones: Vec<String> =
        volume.zones().iter().map(|zone| format!("{}:{}:{}:{}", zone.role, zone.state, zone.write_pointer / B, zone.live / B)).collect();
    format!("{:?} {:?} {zones:?}", status.space, status.zones)
}

/// Writes until nothing is available; returns the blocks that were.
fn fill(volume: &Volume, file: Ino, mut at: u64, stamp: u8) -> u64 {
    let first = at;
    loop {
        let available = volume.statfs().expect("statfs").available;
        let blocks = available.min(64);
        if blocks == 0 {
            return at - first;
        }
        let bytes = vec![stamp; blocks as usize * BLOCK];
        let written = volume.write(file, at * B, &bytes, &WriteOptions::default());
        assert_eq!(written.ok(), Some(bytes.len()), "what is available can be written (I8): {}", state_of(volume));
        at += blocks;
    }
}

#[test]
fn what_is_available_can_be_written_and_a_full_volume_lives() {
    let few = SimConfig { zone_size: Blocks(1024), zone_capacity: Blocks(700), ..SimConfig::zoned(24, 1) };
    let narrow = SimConfig { max_open: 6, max_active: 6, ..SimConfig::zoned(64, 1) };
    for config in [SimConfig::zoned(64, 1), few, narrow, SimConfig::conventional(80, 1)] {
        live_full(fresh_on(config));
    }
}

fn live_full(drive: zns::sim::SimDrive) {
    let volume = mount(&drive, 2);
    let file = make(&volume, "a");
    let blocks = fill(&volume, file, 0, 1);
    assert!(blocks > 500, "{blocks}");
    let error = volume.write(file, (blocks + 5000) * B, &vec![9; 1 << 20], &WriteOptions::default()).expect_err("full");
    assert!(matches!(error, FsError::NoSpace), "{error}");
    assert!(matches!(volume.fallocate(file, 0, 0, (blocks + 9000) * B), Err(FsError::NoSpace)));
    // Overwriting needs nothing but cleaning.
    let mut model = vec![1u8; blocks as usize];
    for i in 0..3000u64 {
        let block = i * 7919 % blocks;
        let stamp = (i % 250) as u8;
        if let Err(error) = volume.write(file, block * B, &[stamp; BLOCK], &WriteOptions::default()) {
            panic!("overwriting, {i}: {error}; {}", state_of(&volume));
        }
        model[block as usize] = stamp;
        if i % 100 == 0 {
            volume.sync().expect("synced");
        }
    }
    for (block, stamp) in model.iter().enumerate() {
        assert_eq!(volume.read(file, block as u64 * B, BLOCK as u32).expect("read")[..], [*stamp; BLOCK]);
    }
    // What goes comes back.
    for round in 0..5u8 {
        let half = blocks / 2;
        let set = SetAttr { size: Some(half * B), ..SetAttr::default() };
        volume.setattr(file, &set).expect("cut");
        let again = fill(&volume, file, half, round);
        assert!(again * 10 >= (blocks - half) * 9, "{again} of {} blocks came back", blocks - half);
    }
    volume.sync().expect("synced");
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}

#[test]
fn preallocated_blocks_can_be_written_on_a_full_volume() {
    let drive = fresh();
    let volume = mount(&drive, 2);
    let (file, other) = (make(&volume, "a"), make(&volume, "b"));
    volume.fallocate(file, 0, 0, 2000 * B).expect("allocated");
    fill(&volume, other, 0, 1);
    for block in (0..2000).step_by(50) {
        volume.write(file, block * B, &vec![3; 50 * BLOCK], &WriteOptions::default()).expect("it was promised");
    }
    volume.sync().expect("synced");
    assert_eq!(volume.read(file, 1999 * B, BLOCK as u32).expect("read")[..], [3; BLOCK]);
}
