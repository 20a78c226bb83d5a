//! A repair that loses its power and is done again: until the first one is durable, the second one starts from the same checkpoint, and needs what that
//! leads to, whatever the log has freed since.

use super::super::repair::{Repair, repair};
use super::forged::{fork, newest, peek, records};
use super::kinds::mend;
use super::media::flipped;
use super::repairs::{contents, paths};
use super::*;
use crate::addr::Addr;
use crate::check::Checker;
use crate::core::halt::BlockId;
use crate::core::nodes::map::{Entry, entry};
use crate::core::page::Page;
use crate::ids::NodeId;
use crate::volume::mend::Mending;
use std::collections::{BTreeSet, HashSet};

const CROWD: u64 = 200;

fn stays(n: u64) -> bool {
    n % 10 == 9
}

fn name(n: u64) -> String {
    format!("{} {n}", if stays(n) { "stays" } else { "goes" })
}

/// A checker of what is on the drives, the log rolled forward.
fn look<T>(rig: &Rig, look: impl FnOnce(&mut Checker<'_>) -> T) -> T {
    let inspected = Volume::inspect(rig.copies(), 1 << 26, true).expect("there is a volume");
    look(&mut Checker::new(&inspected.volume, CheckReport::default(), CheckOptions::default()))
}

fn nodes(rig: &Rig) -> HashSet<u64> {
    look(rig, |checker| checker.check_tree())
}

/// The nodes as a repair has them after the log, all of them having been in memory before: then the most of them merge.
fn nodes_of_a_repair(rig: &Rig) -> HashSet<u64> {
    let mending = Mending::open(rig.copies(), 1 << 26, u64::MAX).expect("there is a volume");
    let nodes = || Checker::new(&mending.volume, CheckReport::default(), CheckOptions::default()).check_tree();
    nodes();
    mending.replay().expect("replayed");
    nodes()
}

/// Most files of the crowd are removed, of which only the log tells.
fn thinned(rig: &Rig) -> Rig {
    let mut rig = fork(rig);
    let volume = rig.mount();
    let dir = volume.lookup(Ino::ROOT, b"crowd").expect("there").ino;
    for n in (0..CROWD).filter(|n| !stays(*n)) {
        let ino = volume.lookup(dir, name(n).as_bytes()).expect("there").ino;
        volume.unlink(dir, name(n).as_bytes()).expect("gone");
        volume.forget(ino);
    }
    volume.sync().expect("synced");
    drop(volume);
    rig.power_cycle();
    rig
}

/// A volume with a crowd of files, the nodes that go when it is [`thinned`], and zones in which nothing else lives.
fn crowded(config: SimConfig) -> (Rig, BTreeSet<Addr>) {
    let mut rig = Rig::new(vec![config]);
    let volume = rig.mount();
    let dir = volume.mkdir(Ino::ROOT, b"crowd", 0o755, &Caller::default()).expect("made").ino;
    let files: Vec<Ino> = (0..CROWD).map(|n| make(&volume, dir, &name(n))).collect();
    let all = || (0..CROWD).zip(&files);
    // Data of those that go lies in zones of its own.
    for (n, ino) in all().filter(|(n, _)| !stays(*n)).chain(all().filter(|(n, _)| stays(*n))) {
        write(&volume, *ino, 0, &content(n, 20_000));
        volume.setxattr(*ino, b"user.fill", &content(n, 700), 0).expect("set");
    }
    volume.shutdown().expect("unmounted");
    drop(volume);
    let before = nodes(&rig);
    let freed: HashSet<u64> = before.difference(&nodes_of_a_repair(&thinned(&rig))).copied().collect();
    let volume = rig.mount();
    // Until the zone where all were written first has nothing else any more.
    for _ in 0..40 {
        before.difference(&freed).for_each(|id| volume.rewrite(BlockId::Node(NodeId(*id))).expect("rewritten"));
        volume.checkpoint().expect("a checkpoint");
    }
    volume.shutdown().expect("unmounted");
    drop(volume);
    rig.assert_clean();
    assert_eq!(before.difference(&nodes_of_a_repair(&thinned(&rig))).copied().collect::<HashSet<_>>(), freed, "the same nodes go");
    let goes = |id: &BlockId| matches!(id, BlockId::Node(NodeId(id)) if freed.contains(id));
    let places = look(&rig, |checker| checker.places_of(&before));
    let (going, staying): (Vec<_>, Vec<_>) = places.into_iter().partition(|(_, id)| goes(id));
    let staying: BTreeSet<Addr> = staying.iter().map(|(addr, _)| addr.zone_base()).collect();
    let alone = going.iter().map(|(addr, _)| addr.zone_base()).filter(|zone| !staying.contains(zone)).collect();
    (rig, alone)
}

#[test]
fn a_repair_that_is_cut_off_keeps_what_only_the_log_has_freed() {
    for config in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)] {
        let (rig, alone) = crowded(config);
        assert!(!alone.is_empty(), "zones of nothing but nodes that go");
        let thinned = thinned(&rig);
        let before = contents(&fork(&rig).mount());
        let volume = fork(&thinned).mount();
        let (was, names) = (contents(&volume), paths(&volume));
        drop(volume);
        assert_eq!((before.len(), was.len()), (200, 20));
        let drive = &thinned.drives[0];
        let record = newest(drive)[0].1.clone();
        let Entry::At(page, _) = entry(&Page::from_bytes(peek(drive, record.roots.map_addr)), 1) else { panic!("the first page") };
        let lost = flipped(&thinned, page, 700, 3);
        let ops = {
            let rig = fork(&lost);
            let start = rig.drives[0].ops();
            assert!(mend(&rig).after.clean);
            rig.drives[0].ops() - start
        };
        // What is there after a power cut at this operation, and whether it is what was there before the repair.
        let cut_at = |op: u64| {
            let cut = fork(&lost);
            cut.drives[0].cut_power_at(cut.drives[0].ops() + op);
            let finished = repair(&cut.devices(), CheckOptions::default).is_ok();
            cut.power_cycle();
            let generation = records(&cut.drives[0]).iter().map(|(_, record)| record.generation).max();
            assert!(!finished || generation > Some(record.generation));
            (cut, generation == Some(record.generation))
        };
        let (mut low, mut high) = (0, ops);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if cut_at(middle).1 { low = middle } else { high = middle }
        }
        let (mut as_it_was, mut as_mended) = (0, 0);
        // Each operation around the one that makes it durable, and some from everywhere.
        for op in (high.saturating_sub(40)..high + 8).chain((0..ops).step_by((ops as usize / 20).max(1))) {
            let (mut cut, still) = cut_at(op);
            if still {
                as_it_was += 1;
                // Whatever the second repair finds of the log: nothing here.
                let mut short = flipped(&cut, record.log.addr, 700, 3);
                let report = mend(&short);
                assert!(report.after.clean, "cut at {op} of {ops}, no log: {report}");
                assert!(contents(&short.mount()) == before, "cut at {op} of {ops}, no log: a file has changed: {report}");
            } else {
                as_mended += 1;
            }
            let report = mend(&cut);
            assert!(report.after.clean, "cut at {op} of {ops}: {report}");
            let lost_nodes = report.repairs.iter().any(|done| matches!(done.repair, Repair::Node { .. }));
            assert!(!lost_nodes, "cut at {op} of {ops}: a node is lost: {report}");
            let volume = cut.mount();
            assert!(contents(&volume) == was && paths(&volume) == names, "cut at {op} of {ops}: a file has changed: {report}");
            for (ino, _) in names.iter().filter(|(_, path)| path.contains("stays")) {
                assert_eq!(volume.getxattr(*ino, b"user.fill").map(|value| value.len()).ok(), Some(700), "cut at {op} of {ops}: {report}");
            }
        }
        assert!(as_it_was > 40 && as_mended > 5, "{as_it_was} as it was, {as_mended} as mended");
    }
}
