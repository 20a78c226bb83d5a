//! Volumes that are as they should be are found to be so, mounted cleanly or not.

use super::*;
use crate::check::Severity;

fn kinds() -> Vec<Vec<SimConfig>> {
    vec![
        vec![SimConfig::zoned(64, 1)],
        vec![SimConfig::conventional(64, 1)],
        vec![SimConfig { max_open: 6, max_active: 6, ..SimConfig::zoned(64, 1) }],
        vec![SimConfig { zone_capacity: zns::Blocks(200), ..SimConfig::zoned(64, 1) }, SimConfig::conventional(80, 2)],
    ]
}

#[test]
fn a_new_volume_is_clean() {
    for kind in kinds() {
        let rig = Rig::new(kind);
        let report = rig.check();
        assert!(report.clean && report.findings.is_empty(), "{report}");
        assert_eq!((report.counts.inodes, report.counts.directories, report.replayed), (1, 1, 0));
    }
}

#[test]
fn a_volume_in_use_is_clean_after_checkpoints_and_after_crashes() {
    for kind in kinds() {
        let mut rig = Rig::new(kind);
        let volume = rig.mount();
        populate(&volume);
        volume.checkpoint().expect("checkpoint");
        let report = rig.check();
        assert!(report.clean, "{report}");
        assert_eq!(report.counts.verified, report.counts.blocks);
        assert!(report.counts.blocks > 1000 && report.counts.unwritten > 0, "{report}");
        // Something for the log.
        let ino = make(&volume, Ino::ROOT, "logged");
        write(&volume, ino, 0, &content(5, 50_000));
        volume.sync().expect("synced");
        volume.unlink(Ino::ROOT, b"link").expect("gone");
        drop(volume);
        rig.power_cycle();
        let report = rig.check();
        assert!(report.clean, "{report}");
        assert!(report.replayed > 0);
        drop(rig.mount());
        rig.assert_clean();
    }
}

#[test]
fn a_check_in_small_passes_finds_the_same() {
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    populate(&volume);
    volume.checkpoint().expect("checkpoint");
    let whole = rig.check();
    let options = CheckOptions { window: 50, cache_size: 0, ..CheckOptions::default() };
    let pieces = check(rig.copies(), options).expect("there is a volume");
    assert!(pieces.clean, "{pieces}");
    let uncounted = |report: &CheckReport| crate::check::Counts { bytes_read: 0, ..report.counts };
    assert_eq!(uncounted(&whole), uncounted(&pieces));
    let quick = check(rig.copies(), CheckOptions { read_data: false, ..CheckOptions::default() }).expect("there is a volume");
    assert!(quick.clean && quick.counts.verified == 0 && quick.counts.bytes_read < whole.counts.bytes_read / 2, "{quick}");
}

#[test]
fn an_orphan_is_told_and_no_damage() {
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    let ino = make(&volume, Ino::ROOT, "open");
    write(&volume, ino, 0, &content(1, 20_000));
    volume.count_open(ino);
    volume.unlink(Ino::ROOT, b"open").expect("gone");
    volume.checkpoint().expect("checkpoint");
    let report = rig.check();
    assert!(report.clean, "{report}");
    assert_eq!(report.of(Severity::Info).collect::<Vec<_>>(), [&Finding::Orphan { ino }]);
}

#[test]
fn the_check_writes_nothing() {
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    populate(&volume);
    volume.sync().expect("synced");
    drop(volume);
    rig.power_cycle();
    let image = |rig: &Rig| {
        let drive = &rig.drives[0];
        (0..64).map(|zone| drive.peek(zns::Lba(zone * 256), zns::Blocks(256))).collect::<Vec<_>>()
    };
    let before = image(&rig);
    let count = |rig: &Rig| {
        let stats = rig.drives[0].stats();
        (stats.writes, stats.resets, stats.finishes, stats.flushes)
    };
    let stats = count(&rig);
    assert!(check(rig.devices(), CheckOptions::default()).expect("there is a volume").clean);
    assert!(before == image(&rig));
    assert_eq!(stats, count(&rig));
}
