//! What a repair leaves behind: nothing that was not there before, and nothing that can still be found lost.

use super::super::repair::{Repair, RepairReport, repair};
use super::forged::{forged, fork, newest, peek};
use super::kinds::{base, base_on, damaged, mend};
use super::media::{flipped, live_metadata};
use super::*;
use crate::addr::Addr;
use crate::check::Checker;
use crate::core::halt::BlockId;
use crate::core::key::Key;
use crate::core::nodes::map::{Entry, entry};
use crate::core::page::Page;
use crate::format::item::Extent;
use crate::format::superblock::{LAST_NUMBER, MOST_BLOCKS, Superblock};
use crate::ids::FileBlock;
use gc::placement::Population;
use std::collections::BTreeMap;

/// What every file of a volume holds, by inode: of regular files their bytes.
pub(super) fn contents(volume: &Volume) -> BTreeMap<Ino, Vec<u8>> {
    let mut files = BTreeMap::new();
    let inos = volume.ask(|state| {
        let mut inos = Vec::new();
        let (from, to) = (Key::inode(Ino(0)), Key::inode(Ino(u64::MAX)));
        let done = state.tree.scan(&from, &to, |key, _| {
            inos.push(Ino(key.a));
            std::ops::ControlFlow::Continue(())
        });
        done.map(|_| inos).map_err(Into::into)
    });
    for ino in inos.expect("asked") {
        let inode = volume.getattr(ino).expect("there");
        if inode.is_file() {
            files.insert(ino, volume.read(ino, 0, inode.size as u32).expect("read").to_vec());
        }
    }
    files
}

/// A block of a file is what it was, or cannot be read; what lies beyond the old end is zeros.
fn assert_nothing_invented(volume: &Volume, was: &BTreeMap<Ino, Vec<u8>>, why: &str) -> (usize, usize) {
    let (mut kept, mut lost) = (0, 0);
    for (ino, old) in was {
        let Ok(inode) = volume.getattr(*ino) else {
            lost += 1;
            continue;
        };
        assert!(inode.is_file(), "{why}: inode {ino} is something else");
        let mut whole = inode.size >= old.len() as u64;
        for start in (0..inode.size).step_by(4096) {
            let Ok(now) = volume.read(*ino, start, 4096) else {
                whole = false;
                continue;
            };
            let old = old.get(start as usize..).unwrap_or_default();
            let (same, rest) = now.split_at(old.len().min(now.len()));
            assert!(same == &old[..same.len()], "{why}: block {} of inode {ino} is something else", start / 4096);
            assert!(rest.iter().all(|byte| *byte == 0), "{why}: inode {ino} has something beyond its end");
        }
        if whole { kept += 1 } else { lost += 1 }
    }
    (kept, lost)
}

/// Nothing is left but data without checksums, which nobody can make.
fn is_mended(report: &RepairReport) -> bool {
    report.after.problems().iter().all(|finding| matches!(finding, Finding::NoChecksum { .. }))
}

/// The name of each inode, with those of the directories above it.
pub(super) fn paths(volume: &Volume) -> BTreeMap<Ino, String> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![(Ino::ROOT, String::new())]);
    while let Some((dir, path)) = todo.pop() {
        let mut cookie = 0;
        loop {
            let entries = volume.readdir(dir, cookie, 100).expect("listed");
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            for entry in entries.iter().filter(|entry| !matches!(&entry.name[..], b"." | b"..")) {
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                let inode = volume.getattr(entry.ino).expect("an entry leads somewhere");
                if inode.is_dir() {
                    todo.push((entry.ino, path.clone()));
                }
                found.insert(entry.ino, path);
            }
        }
    }
    found
}

#[test]
fn every_block_of_metadata_may_be_lost_and_nothing_is_invented() {
    let base = base();
    let was = {
        let mut rig = Rig { drives: base.rig.drives.iter().map(zns::sim::SimDrive::fork).collect(), mounts: base.rig.mounts };
        contents(&rig.mount())
    };
    let (mut in_place, mut elsewhere, mut older) = (0, 0, 0);
    let mut sum = (0, 0);
    for addr in live_metadata(&base.rig) {
        let mut rig = flipped(&base.rig, addr, 700, 3);
        let report = mend(&rig);
        assert!(is_mended(&report) && !report.repairs.is_empty(), "{addr}: {report}");
        older += usize::from(report.repairs.iter().any(|done| matches!(done.repair, Repair::OlderCheckpoint { .. })));
        let volume = rig.mount();
        let (kept, lost) = assert_nothing_invented(&volume, &was, &format!("{addr}, {report}"));
        // Every inode that is still there has a name.
        let paths = paths(&volume);
        for ino in was.keys().filter(|ino| volume.getattr(**ino).is_ok()) {
            let path = paths.get(ino).unwrap_or_else(|| panic!("{addr}: inode {ino} has no name\n{report}"));
            if path.starts_with("/lost+found/#") { elsewhere += 1 } else { in_place += 1 }
        }
        sum = (sum.0 + kept, sum.1 + lost);
    }
    assert!(sum.0 > sum.1, "{} files are whole, {} are not", sum.0, sum.1);
    assert!(in_place > 0 && elsewhere > 0 && older > 0, "{in_place} in place, {elsewhere} in lost+found, {older} by an older checkpoint");
}

#[test]
fn a_directory_that_is_lost_leaves_its_files_in_lost_and_found() {
    let base = base();
    // The leaf with the entries of /dir/deep, or most of them.
    let entries = live_metadata(&base.rig).into_iter().find_map(|addr| {
        let rig = flipped(&base.rig, addr, 700, 3);
        let report = mend(&rig);
        let names = report.repairs.iter().filter(
            |done| matches!(&done.repair, Repair::Reattached { directory, name, .. } if directory == "lost+found" && name.starts_with('#')),
        );
        (names.count() > 20).then_some(rig)
    });
    let mut rig = entries.expect("such a leaf");
    let volume = rig.mount();
    let directory = volume.lookup(Ino::ROOT, b"lost+found").expect("there");
    assert_eq!(directory.mode & 0o777, 0o700);
    let found: Vec<Ino> =
        volume.readdir(directory.ino, 0, 1000).expect("listed").iter().filter(|e| e.name[0] == b'#').map(|e| e.ino).collect();
    // The entry of a directory may be lost with those in it: then the directory itself is there, with what it still holds.
    let (directories, files): (Vec<Ino>, Vec<Ino>) =
        found.into_iter().partition(|ino| volume.getattr(*ino).expect("there").mode & libc::S_IFMT == libc::S_IFDIR);
    for ino in directories.iter().chain(&files) {
        let inode = volume.getattr(*ino).expect("there");
        let names = if directories.contains(ino) { 2 + subdirectories(&volume, *ino) } else { 1 };
        assert_eq!((inode.uid, inode.nlink), (0, names));
        assert!(volume.lookup(directory.ino, format!("#{ino}").as_bytes()).is_ok_and(|found| found.ino == *ino));
    }
    for ino in &files {
        let inode = volume.getattr(*ino).expect("there");
        assert!(volume.read(*ino, 0, inode.size as u32).is_ok(), "{ino}");
    }
    assert!(files.len() > 20, "{}", files.len());
}

fn subdirectories(volume: &Volume, ino: Ino) -> u32 {
    let entries = volume.readdir(ino, 0, 1000).expect("listed");
    entries.iter().filter(|e| u32::from(e.kind) == libc::S_IFDIR >> 12 && !matches!(&e.name[..], b"." | b"..")).count() as u32
}

#[test]
fn what_the_log_holds_is_not_lost_with_the_leaf_that_it_changes() {
    let mut base = base();
    let volume = base.rig.mount();
    let ino = make(&volume, Ino::ROOT, "late");
    write(&volume, ino, 0, &content(77, 20_000));
    volume.sync().expect("synced");
    drop(volume);
    base.rig.power_cycle();
    let mut found = 0;
    for addr in live_metadata(&base.rig).into_iter().step_by(3) {
        let mut rig = flipped(&base.rig, addr, 700, 3);
        let report = mend(&rig);
        assert!(is_mended(&report), "{addr}: {report}");
        let volume = rig.mount();
        // Whatever leaf is lost: what the log says of it is applied to nothing rather than to it.
        if report.repairs.iter().all(|done| !matches!(done.repair, Repair::OlderCheckpoint { .. } | Repair::MapPage { .. })) {
            let inode = volume.getattr(ino).unwrap_or_else(|error| panic!("{addr}: {error}\n{report}"));
            assert_eq!(inode.size, 20_000, "{addr}");
            assert!(*volume.read(ino, 0, 20_000).expect("read") == content(77, 20_000)[..], "{addr}");
            found += 1;
        }
    }
    assert!(found > 5, "{found}");
}

#[test]
fn a_log_that_makes_no_sense_ends_there() {
    let mut base = base();
    let volume = base.rig.mount();
    make(&volume, Ino::ROOT, "before");
    volume.sync().expect("synced");
    // A record that no program of this version writes: whole by its checksum.
    volume.state.lock().pending.items.insert(Key::extent(base.big, FileBlock(0)), Some(vec![1]));
    make(&volume, Ino::ROOT, "with it");
    volume.sync().expect("synced");
    make(&volume, Ino::ROOT, "after");
    volume.sync().expect("synced");
    drop(volume);
    base.rig.power_cycle();
    let found = base.rig.problems();
    assert!(matches!(&found[..], [Finding::NotReplayed { .. } | Finding::LogDamaged { .. }]), "{found:?}");
    let report = mend(&base.rig);
    assert!(report.after.clean, "{report}");
    let volume = base.rig.mount();
    assert!(volume.lookup(Ino::ROOT, b"before").is_ok());
}

#[test]
fn holes_of_a_file_that_lost_content_are_errors_until_it_is_emptied() {
    let base = base();
    let mut rig = damaged(&base, |e| {
        let (key, extent) = e.extent(e.big);
        e.put(key, &Extent { addr: Addr::new(zns::DeviceId(0), zns::ZoneId(9999), 0), ..extent }.encode());
    });
    assert!(mend(&rig).after.clean);
    let volume = rig.mount();
    let size = volume.getattr(base.big).expect("there").size;
    let corrupt = |outcome: crate::Result<()>| matches!(outcome, Err(crate::FsError::Corrupt { .. }));
    assert!(corrupt(volume.read(base.big, 0, 4096).map(drop)), "a lost block");
    // A program that copies what is no hole must meet the error.
    assert_eq!(volume.seek(base.big, 0, libc::SEEK_DATA).expect("told"), 0);
    assert_eq!(volume.seek(base.big, 0, libc::SEEK_HOLE).expect("told"), size);
    assert!(corrupt(volume.copy_file_range(base.big, 0, make(&volume, Ino::ROOT, "copy"), 0, 4096).map(drop)), "a copy");
    let options = WriteOptions { sync: false, kill_suid: false, append: false };
    assert!(corrupt(volume.write(base.big, 5, b"some", &options).map(drop)), "half a block");
    assert!(corrupt(volume.fallocate(base.big, 0, 0, 4096)), "room for what may be there");
    write(&volume, base.big, 0, &[9; 4096]);
    assert_eq!(volume.read(base.big, 0, 4096).expect("written anew")[..], [9; 4096]);
    let empty = crate::volume::SetAttr { size: Some(0), ..Default::default() };
    volume.setattr(base.big, &empty).expect("emptied");
    let longer = crate::volume::SetAttr { size: Some(9000), ..Default::default() };
    volume.setattr(base.big, &longer).expect("longer");
    assert_eq!(volume.read(base.big, 0, 9000).expect("a hole")[..], [0; 9000]);
}

#[test]
fn a_power_cut_in_a_repair_leaves_the_volume_as_it_was_or_as_it_was_mended() {
    let base = base();
    let rig = damaged(&base, |e| {
        e.remove(e.entry(e.ino("dir"), "deep").0);
        e.change(e.big, |i| i.nlink = 7);
        e.zone(e.extent(e.big).1.addr.zone_base(), |z| z.live -= 1);
    });
    let before = rig.problems();
    // Is it mended when power goes at this operation of the repair?
    let mended_at = |n: u64| {
        let drive = rig.drives[0].fork();
        drive.cut_power_at(drive.ops() + n);
        let cut = Rig { drives: vec![drive], mounts: rig.mounts };
        let finished = repair(&cut.devices(), CheckOptions::default).is_ok();
        cut.power_cycle();
        let problems = cut.problems();
        assert!(problems.is_empty() || problems == before, "cut at {n}: {problems:?}");
        assert!(!finished || problems.is_empty(), "cut at {n}: it said that it was done");
        assert!(mend(&cut).after.clean, "cut at {n}: it can be mended then");
        problems.is_empty()
    };
    let whole = {
        let drive = rig.drives[0].fork();
        let start = drive.ops();
        mend(&Rig { drives: vec![drive.clone()], mounts: rig.mounts });
        drive.ops() - start
    };
    // The operation that makes it so, and each one around it.
    let (mut low, mut high) = (0, whole);
    while low + 1 < high {
        let middle = (low + high) / 2;
        if mended_at(middle) { high = middle } else { low = middle }
    }
    let around: Vec<bool> = (high.saturating_sub(12)..high + 4).map(mended_at).collect();
    let as_mended = around.iter().filter(|mended| **mended).count();
    let as_it_was = around.len() - as_mended;
    assert!(as_it_was > 3 && as_mended > 1, "{as_it_was} as it was, {as_mended} as mended");
}

/// The page of the segment table that knows all zones is lost, and what is in them has to be counted: no file is the poorer for it, whenever power goes while that is mended.
#[test]
fn a_lost_page_of_the_segment_table_costs_no_file_anything() {
    for config in [SimConfig::zoned(64, 1), SimConfig::conventional(64, 1)] {
        let base = base_on(config);
        let was = contents(&fork(&base.rig).mount());
        assert!(was.len() > 200 && was[&base.big].len() > 3 << 20);
        let drive = &base.rig.drives[0];
        let Entry::At(page, _) = entry(&Page::from_bytes(peek(drive, newest(drive)[0].1.roots.map_addr)), 1) else {
            panic!("the first page")
        };
        let rig = flipped(&base.rig, page, 700, 3);
        let ops = {
            let rig = fork(&rig);
            let start = rig.drives[0].ops();
            assert!(mend(&rig).after.clean);
            rig.drives[0].ops() - start
        };
        let (mut cuts, step) = (0, (ops / 30).max(1));
        for op in (0..ops).step_by(step as usize).chain([ops]) {
            let mut cut = fork(&rig);
            cut.drives[0].cut_power_at(cut.drives[0].ops() + op);
            cuts += u32::from(repair(&cut.devices(), CheckOptions::default).is_err());
            cut.power_cycle();
            let report = mend(&cut);
            assert!(report.after.clean, "cut at {op} of {ops}: {report}");
            assert!(contents(&cut.mount()) == was, "cut at {op} of {ops}: a file has changed: {report}");
        }
        assert!(cuts > 15, "{cuts} of the cuts came before it was done");
    }
}

#[test]
fn a_read_that_fails_once_costs_nothing() {
    let base = base();
    let rig = damaged(&base, |e| e.change(e.ino("dir/big"), |inode| inode.nlink += 1));
    let fork = || Rig { drives: rig.drives.iter().map(zns::sim::SimDrive::fork).collect(), mounts: rig.mounts };
    let was = contents(&fork().mount());
    let try_repair = |rig: &Rig| {
        let devices: Vec<_> = rig.drives.iter().map(|drive| drive.open() as std::sync::Arc<dyn zns::ZonedDevice>).collect();
        // So little memory that nodes are read again and again.
        repair(&devices, || CheckOptions { cache_size: 64 << 10, ..CheckOptions::default() })
    };
    let reads = {
        let rig = fork();
        let before = rig.drives[0].ops();
        try_repair(&rig).expect("repaired");
        rig.drives[0].ops() - before
    };
    for n in (0..reads).step_by((reads as usize / 100).max(1)) {
        let mut rig = fork();
        rig.drives[0].fail_at(rig.drives[0].ops() + n, zns::sim::Fault::ReadError);
        let report = match try_repair(&rig) {
            Ok(report) => report,
            // Refused, with nothing written: the next attempt finds everything.
            Err(_) => try_repair(&rig).unwrap_or_else(|error| panic!("read {n}: {error}")),
        };
        let now = contents(&rig.mount());
        assert!(
            now == was,
            "read {n}: {} of {} files are as they were\n{report}",
            now.iter().filter(|(ino, bytes)| was.get(ino) == Some(bytes)).count(),
            was.len()
        );
    }
    assert!(reads > 20, "{reads}");
}

/// A page of the node map that is read once more, or is known to be missing: else live pages would lie in zones that count as dead.
#[test]
fn what_a_page_of_the_node_map_knows_is_not_missed_in_silence_where_it_cannot_be_read() {
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    for n in 0..60 {
        volume.setxattr(make(&volume, Ino::ROOT, &format!("file {n}")), b"user.long", &content(n, 30_000), 0).expect("set");
    }
    volume.shutdown().expect("unmounted");
    drop(volume);
    // Of a volume of which nothing is resident; `times` reads from this one on fail.
    let look = |reached: Option<&_>, read: u64, times: u64| {
        let drive = rig.drives[0].fork();
        let devices = vec![drive.open() as Arc<dyn ZonedDevice>];
        let volume = Volume::inspect(devices, 1 << 26, true).expect("there is a volume").volume;
        let mut checker = Checker::new(&volume, CheckReport::default(), CheckOptions::default());
        let Some(reached) = reached else { return (checker.check_tree(), Vec::new(), 0, false) };
        let start = drive.ops();
        (read..read + times).for_each(|read| drive.fail_at(start + read, zns::sim::Fault::ReadError));
        let places = checker.places_of(reached);
        (Default::default(), places, drive.ops() - start, checker.scan.missed().is_some())
    };
    let (reached, ..) = look(None, 0, 0);
    let (_, whole, reads, missed) = look(Some(&reached), 0, 0);
    let maps = whole.iter().filter(|(_, id)| matches!(id, BlockId::Map { .. })).count();
    assert!(maps >= 3 && reads >= 1 && !missed, "{maps} pages of the map, {reads} reads");
    for read in 0..reads {
        let (_, places, _, missed) = look(Some(&reached), read, 1);
        assert!(places == whole && !missed, "read {read} fails once: {} places of {}", places.len(), whole.len());
        let (_, places, _, missed) = look(Some(&reached), read, 3);
        assert!(missed, "read {read} fails: {} places of {}, and nobody knows", places.len(), whole.len());
    }
}

/// Two files, each of which was overwritten in one half: where both claim the place of what is left of both, each keeps what is its own.
#[test]
fn of_blocks_that_two_files_claim_each_keeps_its_own() {
    const HALF: u64 = 5;
    let half = (HALF * 4096) as usize;
    let mut rig = Rig::zoned();
    let volume = rig.mount();
    let (one, other) = (make(&volume, Ino::ROOT, "one"), make(&volume, Ino::ROOT, "other"));
    write(&volume, one, 0, &content(1, half));
    volume.sync().expect("synced");
    write(&volume, other, half as u64, &content(2, half));
    volume.sync().expect("synced");
    write(&volume, one, half as u64, &content(3, half));
    write(&volume, other, 0, &content(4, half));
    volume.sync().expect("synced");
    let extent = |ino: Ino, block: u64| {
        let found = volume.ask(|state| {
            let value = state.tree.get(&Key::extent(ino, FileBlock(block)))?;
            Ok(value.and_then(|value| Extent::decode(FileBlock(block), value)))
        });
        found.expect("asked").expect("there")
    };
    let (first, second) = (extent(one, 0), extent(other, HALF));
    assert_eq!(first.addr.plus(HALF as u32), second.addr, "they lie one behind the other");
    let both = Extent { block: FileBlock(0), blocks: 2 * HALF as u32, ..first }.encode();
    volume
        .change(|state| {
            for ino in [one, other] {
                state.tree.remove(&Key::extent(ino, FileBlock(HALF)))?;
                state.tree.put(&Key::extent(ino, FileBlock(0)), &both)?;
            }
            Ok(())
        })
        .expect("changed");
    volume.checkpoint().expect("a checkpoint");
    drop(volume);
    let report = mend(&rig);
    assert!(report.after.clean, "{report}");
    let volume = rig.mount();
    let half_of = |ino: Ino, at: usize| volume.read(ino, at as u64, half as u32);
    assert!(half_of(one, 0).expect("its own").to_vec() == content(1, half), "{report}");
    assert!(half_of(other, half).expect("its own").to_vec() == content(2, half), "{report}");
    assert!(half_of(one, half).is_err() && half_of(other, 0).is_err(), "what is lost is an error");
}

/// Counts that only a forged superblock can have begun with. One that is written after it can be read, whatever was counted since.
#[test]
fn counts_that_a_forged_superblock_has_at_their_end_are_no_end_of_the_volume() {
    let most = MOST_BLOCKS - 1;
    let counts = || Population::of(std::array::from_fn(|estimate| if estimate == 255 { most } else { 0 }));
    let forgeries: [&dyn Fn(&mut Superblock); 4] = [
        &|record| record.clock = most,
        &|record| record.population = counts(),
        &|record| record.inodes = LAST_NUMBER - 1,
        // So much is promised that nothing has room: only the repair writes.
        &|record| record.unwritten = most,
    ];
    for forge in forgeries {
        let base = base();
        let mut rig = forged(&base, |record, _| forge(record));
        let generation = newest(&rig.drives[0])[0].1.generation;
        let was = contents(&rig.mount());
        let volume = rig.mount();
        let options = WriteOptions { sync: false, kill_suid: false, append: false };
        let _ = volume.write(base.big, 0, &content(1, 100_000), &options);
        let _ = volume.mknod(Ino::ROOT, b"one more", libc::S_IFREG | 0o644, 0, &Caller::default());
        volume.shutdown().expect("unmounted");
        let report = mend(&rig);
        assert!(report.after.clean, "{report}");
        assert!(mend(&rig).repairs.is_empty());
        rig.assert_clean();
        assert!(newest(&rig.drives[0])[0].1.generation > generation, "nothing was written");
        assert!(contents(&rig.mount()).len() >= was.len());
    }
}

/// A number that cannot count on is the end of writing, and costs nothing that is there: a superblock that nobody can read replaces none.
#[test]
fn a_superblock_that_could_not_be_read_again_is_not_written() {
    let rig = forged(&base(), |record, _| record.generation = (1 << 62) - 1);
    let options = MountOptions { clock: clock(), gc: GcMode::Manual, ..MountOptions::default() };
    let was = contents(&Volume::open(rig.copies(), MountOptions { read_only: true, ..options.clone() }).expect("can be read"));
    let refused = Volume::open(rig.devices(), options.clone()).map(|volume| volume.shutdown());
    let refused = refused.and_then(|ended| ended).expect_err("there is no next generation").to_string();
    assert!(refused.contains("could not be read again"), "{refused}");
    let volume = Volume::open(rig.copies(), MountOptions { read_only: true, ..options }).expect("can be read as before");
    assert_eq!(contents(&volume), was);
    assert_eq!(newest(&rig.drives[0])[0].1.generation, (1 << 62) - 1);
}
