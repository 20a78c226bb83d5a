//! What happens between the steps of a copy when there is nothing left to clean into.

use super::*;
use crate::volume::rig::{formatted, make, open};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use zns::sim::{SimConfig, SimDrive};

fn fill(volume: &Volume, ino: Ino, blocks: u64, step: u64) {
    for block in (0..blocks).step_by(step as usize) {
        volume.write(ino, block * B, &[7; 4096], &WriteOptions::default()).expect("written");
    }
}

/// Cleaning would wait for the head that the copy holds, and the copy for the cleaning.
#[test]
fn a_copy_that_holds_its_head_does_not_clean() {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let volume = formatted(&drive);
    let (from, to) = (make(&volume, "a"), make(&volume, "b"));
    fill(&volume, from, 5000, 1);
    fill(&volume, from, 5000, 3);
    volume.sync().expect("synced");
    // A head into which data could be relocated is open.
    let mut head = volume.hold_space(Role::RelocatedByDevice, DeviceId(0), 8).expect("there is room");
    head.set_used(8, false);
    drop(head);
    let mut held = volume.hold_space(Role::CopiedByDevice, DeviceId(0), 16).expect("there is room");
    let (addr, blocks) = (held.addr, held.blocks);
    {
        let mut state = volume.state.lock();
        while !state.zones.cleaning_reserve_is_gone() {
            state.zones.allocate(Role::Metadata, u32::MAX).expect("above its floor");
        }
        assert!(state.zones.can_relocate() && state.zones.victims().next().is_some());
    }
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let volume = &volume;
        scope.spawn(move || {
            let checksums = vec![0; blocks as usize];
            let end = u64::from(blocks) * B;
            let publication = Publication { dst: to, first: FileBlock(0), blocks: blocks.into(), copied: Some((addr, &checksums)), end };
            tell.send(volume.publish_copy(&publication)).expect("somebody listens");
        });
        let published = told.recv_timeout(Duration::from_secs(120));
        // Whatever it waits for ends now, so that the test ends.
        held.set_used(blocks, false);
        drop(held);
        assert_eq!(published.expect("it waits for itself").expect("published"), u64::from(blocks));
    });
}

#[test]
fn a_checkpoint_goes_on_without_a_zone_that_cannot_be_forgotten() {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let first = formatted(&drive);
    let file = make(&first, "a");
    // In single blocks, so that what is written down of them takes many leaves.
    (0..2500).for_each(|block| {
        first.write(file, (block * 7 % 2500) * B, &[7; 4096], &WriteOptions::default()).expect("written");
        if block % 50 == 49 {
            first.sync().expect("synced");
        }
    });
    first.shutdown().expect("an orderly end");
    drop(first);
    let volume = open(&drive);
    fill(&volume, file, 2500, 1);
    volume.commit_now(true).expect("committed");
    let metadata: Vec<Addr> = {
        let state = volume.state.lock();
        assert!(!state.zones.to_forget().is_empty(), "nothing is dead");
        state.zones.iter().filter(|(_, entry)| entry.role == Role::Metadata).map(|(addr, _)| addr).collect()
    };
    for block in metadata.iter().flat_map(|zone| (0..256).map(|block| zone.plus(block))) {
        drive.add_bad_block(volume.members.lba(block));
    }
    let checkpoint = volume.checkpoint();
    assert!(checkpoint.is_ok() && volume.is_writable(), "{checkpoint:?}");
    let left = volume.state.lock().zones.iter().filter(|(_, entry)| entry.role.is_data() && entry.live == 0).count();
    assert!(left > 0, "all could be forgotten: this tests nothing");
    volume.write(file, 0, &[8; 4096], &WriteOptions::default()).expect("written");
    volume.sync().expect("synced");
}

/// Copies keep short while users wait for metadata; the metadata of a copy itself is no reason to.
#[test]
fn who_waits_for_metadata_is_told_of_and_a_copy_is_not() {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let first = formatted(&drive);
    // More than a leaf that the mount has looked at.
    let files: Vec<Ino> = (0..400).map(|n| make(&first, &format!("file {n}"))).collect();
    let (from, to) = (files[200], files[399]);
    fill(&first, from, 200, 1);
    first.sync().expect("synced");
    first.shutdown().expect("shut down");
    drop(first);
    let told = |volume: &Volume| (volume.counters.node_reads.load(Ordering::Relaxed), volume.engine.foreground().begun());
    let cold = open(&drive);
    let before = told(&cold);
    assert_eq!(cold.copy_file_range(from, 0, to, 0, 100 * B).expect("copied"), 100 * B);
    let after = told(&cold);
    assert!(after.0 > before.0, "its metadata had to be read");
    assert_eq!(after.1, before.1);
    drop(cold);
    let cold = open(&drive);
    let before = told(&cold);
    cold.ask(|state| regular_file(&state.tree, from)).expect("it is there");
    let after = told(&cold);
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
}
