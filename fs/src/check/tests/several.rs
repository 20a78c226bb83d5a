//! Volumes on two devices: what a power cut leaves of one checkpoint on both, and an older checkpoint in place of one that is damaged.

use super::super::repair::{RepairReport, repair};
use super::forged::{fork, newest, place, records};
use super::*;
use crate::check::repair::Repair;
use crate::error::FsError;
use zns::sim::Survival;

const BODY: usize = 200_000;

/// Two devices, of which the second one lost its power between its superblock and that of the first; and the generation that the second one has.
pub(super) fn cut_between(config: fn(u32, u64) -> SimConfig) -> (Rig, u64) {
    let mut rig = Rig::new(vec![config(64, 1), config(64, 2)]);
    let volume = rig.mount();
    make(&volume, Ino::ROOT, "file");
    let before = fork(&rig);
    drop(volume);
    // It loses its power ever later in a checkpoint.
    for op in 0..200 {
        let mut cut = fork(&before);
        let volume = cut.mount();
        make(&volume, Ino::ROOT, "another");
        volume.sync().expect("synced");
        let last = newest(&cut.drives[0])[0].1.generation;
        cut.drives[1].cut_power_at(cut.drives[1].ops() + op);
        let failed = volume.checkpoint().is_err();
        drop(volume);
        settle(&cut, [Survival::KeepAll, Survival::LoseAll]);
        let ahead = records(&cut.drives[0]).iter().any(|(_, record)| record.generation == last + 1);
        if failed && ahead && records(&cut.drives[1]).iter().all(|(_, record)| record.generation <= last) {
            return (cut, last);
        }
    }
    panic!("no power cut between the two")
}

/// A power cut, with a say in what each drive has left.
fn settle(rig: &Rig, survival: [Survival; 2]) {
    for (drive, survival) in rig.drives.iter().zip(survival) {
        drive.cut_power();
        drive.power_cycle_with(survival);
    }
}

/// The node map of the newest checkpoint that the first device has has no root any more.
fn without_a_map(rig: &Rig) {
    let all = records(&rig.drives[0]);
    let addr = all.iter().max_by_key(|(_, record)| record.generation).expect("records").1.roots.map_addr;
    let drive = &rig.drives[usize::from(addr.device().0)];
    drive.flip_bit(place(drive, addr).0, 70, 3);
}

fn mend(rig: &Rig) -> Result<RepairReport, FsError> {
    repair(&rig.devices(), CheckOptions::default)
}

/// A volume with a file that two checkpoints have, the newer of which is damaged.
fn damaged() -> Rig {
    let mut rig = Rig::new(vec![SimConfig::zoned(64, 1), SimConfig::zoned(64, 2)]);
    let volume = rig.mount();
    let ino = make(&volume, Ino::ROOT, "old");
    write(&volume, ino, 0, &content(1, BODY));
    volume.checkpoint().expect("a checkpoint");
    make(&volume, Ino::ROOT, "new");
    volume.shutdown().expect("unmounted");
    without_a_map(&rig);
    rig
}

fn assert_whole(rig: &mut Rig, what: &str) {
    let volume = rig.mount();
    assert!(volume.is_writable(), "{what}: {:?}", volume.read_only_reason());
    let ino = volume.lookup(Ino::ROOT, b"old").unwrap_or_else(|error| panic!("{what}: {error}")).ino;
    assert!(*volume.read(ino, 0, BODY as u32).unwrap_or_else(|error| panic!("{what}: {error}")) == content(1, BODY), "{what}");
    volume.shutdown().expect("unmounted");
    rig.assert_clean();
}

#[test]
fn an_older_checkpoint_of_two_devices_is_taken_where_both_are_up_to_date() {
    let rig = damaged();
    let mut mended = fork(&rig);
    let report = mend(&mended).expect("repaired");
    assert!(report.repairs.iter().any(|done| matches!(done.repair, Repair::OlderCheckpoint { .. })), "{report}");
    assert!(report.after.clean, "{report}");
    assert_whole(&mut mended, "repaired");
    // The power of either goes at any moment of it.
    let mut cuts = 0;
    for device in 0..2 {
        for op in 0..400 {
            let mut cut = fork(&rig);
            let drive = &cut.drives[device];
            drive.cut_power_at(drive.ops() + op);
            if mend(&cut).is_ok() {
                break;
            }
            let survivals = [Survival::KeepAll, Survival::LoseAll];
            settle(&cut, [survivals[usize::from(op % 2 == 0)], survivals[usize::from(op % 3 == 0)]]);
            let what = format!("the power of device {device} was cut at operation {op}");
            mend(&cut).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_whole(&mut cut, &what);
            cuts += 1;
        }
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn no_older_checkpoint_is_taken_where_a_device_may_be_an_old_copy() {
    let (rig, _) = cut_between(SimConfig::zoned);
    without_a_map(&rig);
    let before: Vec<_> = rig.drives.iter().map(records).map(|records| records.len()).collect();
    let error = mend(&rig).map(|report| report.to_string()).expect_err("refused");
    assert!(error.to_string().contains("old copy"), "{error}");
    let after: Vec<_> = rig.drives.iter().map(records).map(|records| records.len()).collect();
    assert_eq!(before, after, "nothing was written");
}
