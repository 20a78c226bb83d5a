//! Write-lifetime hints on a volume: blocks of which nothing else is known go where those are that were said to stay as long.

use super::{B, Dice, fresh_on, make, mount_with, options};
use fs::core::ops;
use fs::volume::{Caller, Cost, Volume, WriteOptions};
use fs::{BLOCK, Ino};
use zns::sim::SimConfig;

/// Blocks of a file.
const FILE_BLOCKS: u64 = 64;

fn directory(volume: &Volume, name: &str, hint: Option<&str>) -> Ino {
    let made = volume.run(Cost::METADATA, |txn| ops::mkdir(txn, Ino::ROOT, name.as_bytes(), 0o755, &Caller::default()));
    let dir = made.expect("made").ino;
    if let Some(hint) = hint {
        volume.setxattr(dir, ops::hint::NAME, hint.as_bytes(), 0).expect("set");
    }
    dir
}

/// Files that stay and files that are soon removed are written side by side, none twice: seven of eight files belong to the fifth that goes, and any of these may go next.
/// What is written and relocated for each block of users.
fn amplification(hints: bool) -> f64 {
    let drive = fresh_on(SimConfig::zoned(112, 1));
    let volume = mount_with(&drive, options(2));
    let dirs = [("stays", "extreme"), ("goes", "short")].map(|(name, hint)| directory(&volume, name, hints.then_some(hint)));
    let space = volume.status().space;
    let most = (space.total * 85 / 100 - space.used) / B / FILE_BLOCKS;
    let mut dice = Dice(1);
    let mut files = [Vec::new(), Vec::new()];
    let kept = [most * 4 / 5, most / 5];
    let (warming, counted) = (6 * most, 6 * most);
    let mut before = volume.status();
    for round in 0..warming + counted {
        if round == warming {
            before = volume.status();
        }
        let kind = usize::from(files[0].len() as u64 >= kept[0] && dice.below(8) > 0);
        if files[kind].len() as u64 >= kept[kind] {
            let at = dice.below(files[kind].len() as u64) as usize;
            let (gone, name): (Ino, String) = files[kind].swap_remove(at);
            volume.unlink(dirs[kind], name.as_bytes()).expect("removed");
            volume.forget(gone);
        }
        let name = format!("{round}");
        let mode = libc::S_IFREG | 0o644;
        let made = volume.run(Cost::METADATA, |txn| ops::mknod(txn, dirs[kind], name.as_bytes(), mode, 0, &Caller::default()));
        let file = made.expect("made").ino;
        let bytes = vec![round as u8; FILE_BLOCKS as usize * BLOCK];
        assert_eq!(volume.write(file, 0, &bytes, &WriteOptions::default()).expect("written"), bytes.len());
        files[kind].push((file, name));
    }
    let after = volume.status();
    let (user, moved) = (after.io.user_written - before.io.user_written, after.gc.relocated - before.gc.relocated);
    assert!(drive.violations().is_empty(), "{:?}", drive.violations());
    (user + moved) as f64 / user as f64
}

#[test]
fn files_that_are_said_to_go_soon_are_kept_apart_from_those_that_stay() {
    let (without, with) = (amplification(false), amplification(true));
    println!("{with:.2} with hints, {without:.2} without");
    assert!(with - 1.0 < 0.75 * (without - 1.0), "{with} against {without}");
}

#[test]
fn a_hint_is_there_after_a_remount_and_with_few_active_zones() {
    let drive = fresh_on(SimConfig { max_open: 6, max_active: 6, ..SimConfig::zoned(64, 1) });
    let volume = mount_with(&drive, options(2));
    let file = make(&volume, "file");
    volume.setxattr(file, ops::hint::NAME, b"long", 0).expect("set");
    volume.write(file, 0, &[1; BLOCK], &WriteOptions::default()).expect("written");
    volume.shutdown().expect("unmounted");
    drop(volume);
    let again = mount_with(&drive, options(3));
    assert_eq!(again.getxattr(file, ops::hint::NAME).expect("there"), b"long");
    assert_eq!(again.listxattr(file).expect("a list"), b"user.ferryfs.write_hint\0");
}
