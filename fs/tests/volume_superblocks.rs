//! What a mount makes of superblocks that are damaged, lost, or older than those of another device: nothing acknowledged is missing, or nothing is written.

use fs::check::repair::repair;
use fs::check::{CheckOptions, check};
use fs::core::ops;
use fs::format::item::Timestamp;
use fs::format::log;
use fs::format::superblock::Superblock;
use fs::volume::{Caller, Clock, Cost, FormatOptions, MountOptions, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};
use zns::{Blocks, Lba, ZonedDevice};

const BLOCK: usize = 4096;

fn devices(drives: &[&SimDrive]) -> Vec<Arc<dyn ZonedDevice>> {
    drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
}

fn options(secret: u8) -> MountOptions {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    MountOptions { clock, secret: Some([secret; 32]), ..MountOptions::default() }
}

fn format(drives: &[&SimDrive]) {
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let options = FormatOptions { label: "rings".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(devices(drives), &options).expect("fresh drives take a volume");
}

fn mount(drives: &[&SimDrive], secret: u8) -> Result<Arc<Volume>, FsError> {
    Volume::open(devices(drives), options(secret))
}

/// Makes a file of one block with content of its own, and syncs it.
fn keep(volume: &Volume, number: u32) {
    let name = format!("file {number}");
    let caller = Caller::default();
    let ino =
        volume.run(Cost::METADATA, |txn| ops::mknod(txn, Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, &caller)).expect("made").ino;
    let data = vec![number as u8; BLOCK];
    assert_eq!(volume.write(ino, 0, &data, &WriteOptions::default()).expect("written"), BLOCK);
    volume.sync().expect("synced");
}

/// Is the file there, and right?
fn is_kept(volume: &Volume, number: u32) -> bool {
    let name = format!("file {number}");
    let Ok(attr) = volume.run(Cost::NOTHING, |txn| ops::lookup(txn, Ino::ROOT, name.as_bytes())) else { return false };
    volume.read(attr.ino, 0, BLOCK as u32).is_ok_and(|data| data.iter().all(|byte| *byte == number as u8))
}

fn lba(drive: &SimDrive, zone: u32, slot: u32) -> (Lba, Blocks) {
    let g = drive.geometry();
    let per_block = BLOCK as u64 / u64::from(g.block_size);
    (Lba(u64::from(zone) * g.zone_size.0 + u64::from(slot) * per_block), Blocks(per_block))
}

fn block(drive: &SimDrive, zone: u32, slot: u32) -> Vec<u8> {
    let (lba, blocks) = lba(drive, zone, slot);
    drive.peek(lba, blocks)
}

/// The places of the copies of the newest record.
fn newest(drive: &SimDrive) -> Vec<(u32, u32)> {
    let all: Vec<(u64, u32, u32)> = (0..2)
        .flat_map(|zone| (0..256).map(move |slot| (zone, slot)))
        .filter_map(|(zone, slot)| Superblock::decode(&block(drive, zone, slot)).ok().map(|found| (found.generation, zone, slot)))
        .collect();
    let last = all.iter().map(|(generation, ..)| *generation).max().expect("a record");
    all.into_iter().filter(|(generation, ..)| *generation == last).map(|(_, zone, slot)| (zone, slot)).collect()
}

fn flip(drive: &SimDrive, zone: u32, slot: u32, byte: usize) {
    let (lba, _) = lba(drive, zone, slot);
    let per = drive.geometry().block_size as usize;
    drive.flip_bit(Lba(lba.0 + (byte / per) as u64), byte % per, 3);
}

fn kinds() -> Vec<SimConfig> {
    let few = SimConfig { max_open: 6, max_active: 6, ..SimConfig::zoned(64, 1) };
    vec![SimConfig::zoned(64, 1), few, SimConfig::conventional(64, 1)]
}

#[test]
fn a_damaged_superblock_costs_nothing_or_forbids_writing() {
    for config in kinds() {
        let original = SimDrive::new(config);
        format(&[&original]);
        let volume = mount(&[&original], 2).expect("mounts");
        (0..40).for_each(|number| keep(&volume, number));
        drop(volume);
        let copies = newest(&original);
        assert_eq!(copies.len(), 2, "every record is written twice");
        for (zone, slot) in &copies {
            let drive = original.fork();
            flip(&drive, *zone, *slot, 300);
            let volume = mount(&[&drive], 3).expect("mounts");
            assert!(volume.is_writable() && (0..40).all(|number| is_kept(&volume, number)), "one copy is enough");
        }
        let drive = original.fork();
        copies.iter().for_each(|(zone, slot)| flip(&drive, *zone, *slot, 300));
        assert!(!check(devices(&[&drive]), CheckOptions::default()).expect("checked").clean);
        let before = drive.stats();
        let volume = mount(&[&drive], 3).expect("what is older can be read");
        assert!(!volume.is_writable());
        assert!(volume.read_only_reason().is_some_and(|reason| reason.contains("superblock")), "{:?}", volume.read_only_reason());
        drop(volume);
        assert_eq!(drive.stats().bytes_written, before.bytes_written);
    }
}

#[test]
fn a_newer_version_is_refused_whatever_lies_beside_it() {
    for config in kinds() {
        let drive = SimDrive::new(config);
        format(&[&drive]);
        mount(&[&drive], 2).expect("mounts").shutdown().expect("an end");
        let (zone, slot) = newest(&drive)[1];
        let mut record = block(&drive, zone, slot);
        record[8] += 1;
        record[12..16].fill(0);
        let sum = zns::checksum::crc32c(&record);
        record[12..16].copy_from_slice(&sum.to_le_bytes());
        drive.poke(lba(&drive, zone, slot).0, &record);
        let refusal = mount(&[&drive], 3).map(drop).expect_err("refused").to_string();
        assert!(refusal.contains("version"), "{refusal}");
    }
}

/// The log fills a zone and goes on in another one: damage in its last block there is not its end.
#[test]
fn damage_at_the_end_of_a_log_zone_is_not_the_end_of_the_log() {
    for config in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)] {
        let original = SimDrive::new(config);
        format(&[&original]);
        let volume = mount(&[&original], 2).expect("mounts");
        let files = 330;
        (0..files).for_each(|number| keep(&volume, number));
        drop(volume);
        let is_log = |zone: u32, slot: u32| log::peek_blocks(&block(&original, zone, slot)).is_some();
        let full: Vec<u32> = (2..64).filter(|zone| is_log(*zone, 254) && is_log(*zone, 255)).collect();
        assert!(!full.is_empty(), "a zone of the log was filled");
        for zone in full {
            for slot in [253, 254, 255] {
                let drive = original.fork();
                flip(&drive, zone, slot, 100);
                let volume = mount(&[&drive], 3).expect("mounts");
                let kept = (0..files).filter(|number| is_kept(&volume, *number)).count();
                assert!(!volume.is_writable() || kept == files as usize, "{kept} of {files} files, writable: zone {zone}, slot {slot}");
            }
        }
    }
}

/// A batch that goes on in another zone is there or not, as a whole: damage in its second part is no end, when its flush is known of.
#[test]
fn damage_in_a_part_of_a_large_batch_is_not_the_end_of_the_log() {
    for config in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)] {
        let original = SimDrive::new(config);
        format(&[&original]);
        let volume = mount(&[&original], 2).expect("mounts");
        (0..240).for_each(|number| keep(&volume, number));
        let caller = Caller::default();
        let name = |number: u32| format!("one of many {number}");
        let many = 0..1000;
        for number in many.clone() {
            let make = |number: u32| {
                let name = name(number);
                volume.run(Cost::METADATA, |txn| ops::mknod(txn, Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, &caller))
            };
            make(number).expect("made");
        }
        volume.sync().expect("synced");
        (240..243).for_each(|number| keep(&volume, number));
        drop(volume);
        let is_log = |zone: u32| log::peek_blocks(&block(&original, zone, 0)).is_some();
        let zones: Vec<u32> = (2..64).filter(|zone| is_log(*zone)).collect();
        assert!(zones.len() > 1, "the batch goes on in another zone");
        for zone in zones {
            let written: Vec<u32> = (0..256).filter(|slot| block(&original, zone, *slot).iter().any(|byte| *byte != 0)).collect();
            // What nothing behind it knows to be flushed cannot be told from what was torn: the last batch, that is.
            let known = if written.len() == 256 { &written[236..] } else { &written[..written.len() - 1] };
            for slot in known {
                let drive = original.fork();
                flip(&drive, zone, *slot, 100);
                let volume = mount(&[&drive], 3).expect("mounts");
                let found = |number: u32| volume.run(Cost::NOTHING, |txn| ops::lookup(txn, Ino::ROOT, name(number).as_bytes())).is_ok();
                let all = || many.clone().all(found) && (0..242).all(|number| is_kept(&volume, number));
                assert!(!volume.is_writable() || all(), "writable, and not all there: zone {zone}, slot {slot}");
            }
        }
    }
}

#[test]
fn an_old_copy_of_a_device_is_found_out() {
    for config in kinds() {
        let second = SimConfig { seed: 2, ..config.clone() };
        let (first, second) = (SimDrive::new(config), SimDrive::new(second));
        format(&[&first, &second]);
        let volume = mount(&[&first, &second], 2).expect("mounts");
        (0..20).for_each(|number| keep(&volume, number));
        volume.shutdown().expect("an end");
        let unmounted = second.fork();
        let volume = mount(&[&first, &second], 3).expect("mounts");
        let mounted = second.fork();
        (20..60).for_each(|number| keep(&volume, number));
        let killed = first.fork();
        volume.shutdown().expect("an end");
        // One checkpoint behind, with a crash after it and with an orderly end; as old as the superblocks, with a crash.
        for (what, first, old) in [("crash", &killed, &unmounted), ("end", &first, &mounted), ("same", &killed, &mounted)] {
            // Nor is it mended, which would make the true device a stranger.
            let devices = [first, old].map(|drive| drive.fork().open() as Arc<dyn ZonedDevice>);
            let refusal = repair(&devices, CheckOptions::default).map(|report| report.to_string()).expect_err("refused").to_string();
            assert!(refusal.contains("old copy"), "{what}: {refusal}");
            match mount(&[&first.fork(), &old.fork()], 4) {
                Err(refusal) => assert!(refusal.to_string().contains("old copy"), "{what}: {refusal}"),
                Ok(volume) => {
                    assert!(!volume.is_writable(), "{what}: an old copy is written to");
                    assert!(volume.read_only_reason().is_some_and(|reason| reason.contains("old copy")), "{what}");
                }
            }
        }
        let volume = mount(&[&first, &second], 5).expect("the true devices are taken");
        assert!(volume.is_writable() && (0..60).all(|number| is_kept(&volume, number)));
    }
}
