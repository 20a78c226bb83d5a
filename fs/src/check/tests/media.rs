//! Damage to the media: bits, blocks, zones, superblocks, the log.

use super::super::repair::{Done, Repair};
use super::kinds::mend;
use super::*;
use crate::addr::Addr;
use crate::check::Checker;
use crate::check::{Severity, contents::Contents, nodemap::Metadata};
use crate::volume::inspect::Inspected;
use rand::{Rng, SeedableRng};
use zns::{Blocks, Lba, ZoneAction, ZoneId, ZoneState};

/// What is live on the media of a rig.
struct Live {
    metadata: Vec<Addr>,
    data: Vec<Addr>,
}

fn live(rig: &Rig) -> Live {
    let Inspected { volume, .. } = Volume::inspect(rig.copies(), 1 << 26, true).expect("there is a volume");
    let (report, options) = (CheckReport::default(), CheckOptions::default());
    let mut checker = Checker::new(&volume, report, options);
    let reached = checker.check_tree();
    let Metadata { live: metadata, .. } = checker.check_map(&reached);
    let Contents { extents, .. } = checker.check_inodes();
    let data = extents.expect("few").into_iter().flat_map(|e| (0..e.blocks).map(move |n| e.addr.plus(n))).collect();
    Live { metadata, data }
}

/// Where live blocks of metadata lie.
pub(super) fn live_metadata(rig: &Rig) -> Vec<Addr> {
    live(rig).metadata
}

/// A rig with a volume that was unmounted cleanly, and the inode of `/dir/big`.
fn unmounted(config: SimConfig) -> (Rig, Ino) {
    let mut rig = Rig::new(vec![config]);
    let volume = rig.mount();
    let big = populate(&volume);
    volume.shutdown().expect("unmounted");
    rig.assert_clean();
    (rig, big)
}

/// A copy of the rig with one bit flipped.
pub(super) fn flipped(rig: &Rig, addr: Addr, byte: usize, bit: u8) -> Rig {
    let drive = rig.drives[0].fork();
    let g = drive.open().geometry().clone();
    let lba = g.zone_start(addr.zone()).0 + (u64::from(addr.block()) * 4096 + byte as u64) / u64::from(g.block_size);
    drive.flip_bit(Lba(lba), byte % g.block_size as usize, bit);
    Rig { drives: vec![drive], mounts: rig.mounts }
}

#[test]
fn a_flipped_bit_in_data_is_found_with_the_name_of_the_file() {
    for config in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)] {
        let (rig, big) = unmounted(config);
        for addr in live(&rig).data.into_iter().step_by(301) {
            let report = flipped(&rig, addr, 1234, 5).check();
            let [found] = &report.findings[..] else { panic!("{report}") };
            let Finding::Data { ino, addr: place, .. } = found.finding else { panic!("{report}") };
            assert_eq!(place, addr);
            let path = found.path.as_deref().expect("a path");
            assert!(if ino == big { ["/dir/big", "/link"].contains(&path) } else { path.starts_with("/dir/deep/file ") }, "{path}");
        }
    }
}

#[test]
fn a_flipped_bit_in_metadata_is_one_finding_and_costs_nothing_else() {
    let (rig, _) = unmounted(SimConfig::zoned(64, 1));
    let all = live(&rig).metadata;
    let mut kinds = std::collections::BTreeSet::new();
    for addr in &all {
        let report = flipped(&rig, *addr, 700, 3).check();
        assert!(!report.clean);
        // Without a page of the node map all that it leads to is gone.
        let without_map = report.of(Severity::Error).any(|found| matches!(found, Finding::MapPage { .. }));
        for found in &report.findings {
            kinds.insert(match &found.finding {
                Finding::Node { reason, .. } => {
                    assert!(without_map || reason.contains(&addr.to_string()) && report.findings.len() == 1, "{report}");
                    "node"
                }
                Finding::MapPage { .. } => "map page",
                Finding::SegmentPage { .. } => "segment page",
                Finding::NotReplayed { .. } => "log",
                other => panic!("{addr}: {other}\n{report}"),
            });
        }
    }
    for kind in ["node", "map page", "segment page"] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
}

/// Long targets lie in pieces, and those of one link in two leaves: what is in the other one is not damaged because of that.
#[test]
fn a_link_target_of_which_a_piece_is_lost_is_no_finding_of_its_own() {
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    let file = make(&volume, Ino::ROOT, "file");
    write(&volume, file, 0, &content(1, 5000));
    for n in 0..40 {
        volume.symlink(Ino::ROOT, format!("link {n}").as_bytes(), &[b'x'; 3000], &Caller::default()).expect("made");
    }
    volume.shutdown().expect("unmounted");
    let mut nodes = 0;
    for addr in live(&rig).metadata {
        let report = flipped(&rig, addr, 700, 3).check();
        if report.of(Severity::Error).any(|found| matches!(found, Finding::Node { .. })) && !report.to_string().contains("node map") {
            assert_eq!(report.findings.len(), 1, "{report}");
            nodes += 1;
        }
    }
    assert!(nodes > 20, "{nodes}");
}

#[test]
fn random_flips_never_go_unnoticed_where_it_counts_and_never_do_worse() {
    for config in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)] {
        let (rig, _) = unmounted(config);
        let Live { metadata, data } = live(&rig);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        for n in 0..120 {
            let (addr, counts) = match n % 3 {
                0 => (metadata[rng.random_range(0..metadata.len())], true),
                1 => (data[rng.random_range(0..data.len())], true),
                _ => (Addr::new(zns::DeviceId(0), ZoneId(rng.random_range(0..64)), rng.random_range(0..256)), false),
            };
            let rig = flipped(&rig, addr, rng.random_range(0..4096), rng.random_range(0..8));
            match check(rig.copies(), CheckOptions::default()) {
                Ok(report) => assert!(!counts || !report.clean, "{addr}: {report}"),
                Err(error) => println!("{addr}: {error}"),
            }
        }
    }
}

#[test]
fn superblocks() {
    let (rig, _) = unmounted(SimConfig::zoned(64, 1));
    let slots = |zone: u64| rig.drives[0].zone(ZoneId(zone as u32)).written.0;
    let place = |zone: u32, slot: u64| Addr::new(zns::DeviceId(0), ZoneId(zone), slot as u32);
    // An old record.
    let report = flipped(&rig, place(0, 0), 100, 0).check();
    assert!(
        report.clean && matches!(report.findings[..], [ref f] if matches!(f.finding, Finding::OldSuperblock { slot: 0, .. })),
        "{report}"
    );
    // One of two copies of the newest.
    let report = flipped(&rig, place(1, slots(1) - 1), 100, 0).check();
    assert!(report.clean && report.of(Severity::Info).count() == 1, "{report}");
    // Both.
    let mut both = flipped(&flipped(&rig, place(1, slots(1) - 1), 100, 0), place(0, slots(0) - 1), 100, 0);
    let found = both.problems();
    assert!(found.iter().filter(|f| matches!(f, Finding::NewestSuperblock { .. })).count() == 2, "{found:?}");
    // The checkpoint before it is taken, and still holds all that its log held.
    let report = mend(&both);
    assert!(report.after.clean && matches!(report.repairs[0].repair, Repair::OlderCheckpoint { .. }), "{report}");
    both.assert_clean();
    assert!(both.mount().lookup(Ino::ROOT, b"dir").is_ok());
    // The first copy torn and no second one is what a power cut leaves.
    let torn_in = |zones: &[u64]| {
        let torn = rig.drives[0].fork();
        for zone in 0..2 {
            let lba = Lba(zone * 256 + slots(zone) - 1);
            let mut block = torn.peek(lba, Blocks(1));
            let from = if zones.contains(&zone) { 512 } else { 0 };
            block[from..].fill(0);
            torn.poke(lba, &block);
        }
        Rig { drives: vec![torn], mounts: 9 }.check()
    };
    let report = torn_in(&[0]);
    assert!(report.clean, "{report}");
    assert_eq!(report.of(Severity::Info).filter(|f| matches!(f, Finding::TornSuperblock { .. })).count(), 1, "{report}");
    // The second one is begun when the first is durable.
    assert!(!torn_in(&[0, 1]).clean);
}

/// A drive may give anything for blocks that were not written since their zone was reset: a record of the volume before, newer than ours, or ones.
#[test]
fn what_lies_behind_the_write_pointer_of_a_ring_is_no_record() {
    let (before, _) = unmounted(SimConfig::zoned(64, 1));
    let last = before.drives[0].zone(ZoneId(0)).written.0 - 1;
    let stale = before.drives[0].peek(Lba(last), Blocks(1));
    let mut rig = Rig::new(vec![SimConfig::zoned(64, 2)]);
    let drive = &rig.drives[0];
    let written = [0, 1].map(|zone| drive.zone(ZoneId(zone)).written.0);
    assert!(written[0] < last, "the volume before was newer");
    for (zone, written) in (0..).zip(written) {
        drive.poke(Lba(zone * 256 + written), &stale);
        drive.poke(Lba(zone * 256 + written + 1), &[0xff; 4096]);
    }
    rig.assert_clean();
    let volume = rig.mount();
    populate(&volume);
    volume.shutdown().expect("unmounted");
    rig.assert_clean();
}

#[test]
fn a_lost_header_hides_metadata_from_cleaning_and_nothing_else() {
    let (rig, _) = unmounted(SimConfig::zoned(64, 1));
    let metadata = live(&rig).metadata;
    let zone = metadata[metadata.len() - 1].zone();
    let named = |block: u32| crate::format::batch::decode(&rig.drives[0].peek(Lba(u64::from(zone.0) * 256 + u64::from(block)), Blocks(1)));
    let (header, ids) = (0..256).filter_map(|block| named(block).map(|ids| (block, ids))).next_back().expect("a header");
    let behind = |addr: &&Addr| addr.zone() == zone && (header + 1..=header + ids.len() as u32).contains(&addr.block());
    let expected: Vec<Finding> = metadata.iter().filter(behind).map(|&addr| Finding::NotInHeader { addr }).collect();
    assert!(!expected.is_empty());
    let hidden = flipped(&rig, Addr::new(zns::DeviceId(0), zone, header), 50, 2);
    assert_eq!(hidden.problems(), expected);
    let report = mend(&hidden);
    assert!(report.after.clean && report.repairs.iter().all(|done| matches!(done.repair, Repair::Moved { .. })), "{report}");
    assert_eq!(report.repairs.len(), expected.len());
}

#[test]
fn no_volume_at_all_is_an_error_with_a_reason() {
    let drive = SimDrive::new(SimConfig::zoned(64, 1));
    let error = check(vec![drive.open()], CheckOptions::default()).expect_err("nothing there");
    assert!(error.to_string().contains("no FerryFS superblock"), "{error}");
    assert!(check(Vec::new(), CheckOptions::default()).is_err());
}

#[test]
fn blocks_and_zones_that_fail() {
    let (rig, _) = unmounted(SimConfig::zoned(64, 1));
    let data = live(&rig).data;
    let copy = || Rig { drives: vec![rig.drives[0].fork()], mounts: 9 };
    let bad = copy();
    bad.drives[0].add_bad_block(Lba(u64::from(data[50].zone().0) * 256 + u64::from(data[50].block())));
    let found = check(bad.devices(), CheckOptions::default()).expect("there is a volume");
    assert!(matches!(found.problems()[..], [Finding::Unreadable { addr, .. }] if *addr == data[50]), "{found}");

    let zone = data[50].zone();
    let offline = copy();
    offline.drives[0].wear_out(zone, ZoneState::Offline);
    let found = check(offline.devices(), CheckOptions::default()).expect("there is a volume");
    let lost = data.iter().filter(|addr| addr.zone() == zone).count();
    assert_eq!(found.problems().iter().filter(|f| matches!(f, Finding::Unreadable { .. })).count(), lost, "{found}");
    assert!(found.problems().iter().any(|f| matches!(f, Finding::ZoneFailed { state: "offline", .. })), "{found}");

    let reset = copy();
    reset.drives[0].open().manage(zone, ZoneAction::Reset).expect("reset");
    let found = check(reset.devices(), CheckOptions::default()).expect("there is a volume");
    assert!(found.problems().iter().any(|f| matches!(f, Finding::WritePointer { pointer: 0, .. })), "{found}");
}

#[test]
fn a_hole_in_the_log_before_what_was_flushed_is_damage() {
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    for n in 0..10 {
        make(&volume, Ino::ROOT, &format!("file {n}"));
        volume.sync().expect("synced");
    }
    drop(volume);
    rig.power_cycle();
    rig.assert_clean();
    let log = crate::volume::assemble::assemble(rig.copies()).expect("there is a volume").superblock.log.addr;
    let mut hole = flipped(&rig, log.plus(3), 90, 1);
    let report = hole.check();
    assert!(matches!(report.problems()[..], [Finding::LogDamaged { .. }]), "{report}");
    let report = mend(&hole);
    assert!(report.after.clean && matches!(report.repairs[..], [Done { repair: Repair::LogEnded { .. }, .. }]), "{report}");
    let volume = hole.mount();
    assert!(volume.is_writable() && volume.lookup(Ino::ROOT, b"file 2").is_ok() && volume.lookup(Ino::ROOT, b"file 3").is_err());
    // Behind the last flush that a record tells of, an end is an end.
    let report = flipped(&rig, log.plus(9), 90, 1).check();
    assert!(report.clean && report.replayed == 9, "{report}");
}

#[test]
fn what_is_read_is_read_in_large_pieces() {
    let (rig, _) = unmounted(SimConfig::zoned(64, 1));
    let drive = rig.drives[0].fork();
    let before = drive.stats();
    let report = check(vec![drive.open()], CheckOptions::default()).expect("there is a volume");
    let reads = drive.stats().reads - before.reads;
    assert!(reads < report.counts.nodes + 2 * report.counts.map_pages + report.counts.blocks / 4 + 300, "{reads}: {report}");
}
