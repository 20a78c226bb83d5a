//! A piece of storage has one user at a time, by whichever name it is reached: a file, loop devices over it, loops over loops, partitions.

use crate::devices::Loop;
use harness::{Outcome, Pattern, Volume, VolumeSpec, run};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::mounted::{assert_clean, programs};
use tests::skip::{has_program, no_mounts, skip};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn command(program: &str, arguments: &[&str], paths: &[&Path]) -> Outcome {
    run(programs().command(program).unwrap().args(arguments).args(paths), LIMIT).unwrap()
}

/// Tries everything that must not be done with storage in use; `by`: the name under which it is used.
fn all_refuse(name: &Path, by: &Path, spare: &Path) {
    let refused = |outcome: &Outcome, code: i32| {
        let said = &outcome.stderr;
        assert_eq!(outcome.code, Some(code), "{} in use as {}: {outcome}", name.display(), by.display());
        assert!(said.contains("in use") && said.contains(by.to_str().unwrap()), "by {}: {outcome}", by.display());
    };
    refused(&command("ferryfs", &["mount"], &[name, spare]), 32);
    refused(&command("ferryfs", &["mount", "-o", "ro"], &[name, spare]), 32);
    refused(&command("fsck.ferryfs", &["-y"], &[name]), 8);
    refused(&command("fsck.ferryfs", &["-n"], &[name]), 8);
    refused(&command("mkfs.ferryfs", &["--force"], &[name]), 1);
}

/// A volume on something that exists; each has a directory of its own in `directory`.
fn volume_on(directory: &Path, device: &Path) -> Volume {
    let own = directory.join(device.file_name().unwrap()).with_extension("volume");
    fs::create_dir_all(&own).unwrap();
    Volume::existing(programs(), &own, VolumeSpec { devices: vec![device.to_owned()], ..VolumeSpec::default() }).unwrap()
}

struct Names {
    file: PathBuf,
    hard_link: PathBuf,
    loops: [Loop; 2],
    loop_over_loop: Loop,
    spare: PathBuf,
    // Last: it goes when nothing is in use any more.
    directory: TempDir,
}

impl Names {
    /// A file with a volume on it, as on a plain disk, and its other names.
    fn new() -> Option<Names> {
        if let Some(reason) = no_mounts() {
            skip(reason);
            return None;
        }
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (file, hard_link, spare) = (at("disk.img"), at("link.img"), at("spare"));
        fs::create_dir(&spare).unwrap();
        command("mkfs.ferryfs", &["--profile", "conventional", "--size", "96M", "--zone-size", "1M"], &[&file]).ok().unwrap();
        fs::hard_link(&file, &hard_link).unwrap();
        let loops = [Loop::over(&file, &[])?, Loop::over(&hard_link, &[])?];
        let loop_over_loop = Loop::over(loops[0].path(), &[])?;
        Some(Names { file, hard_link, loops, loop_over_loop, spare, directory })
    }

    fn all(&self) -> [&Path; 5] {
        [&self.file, &self.hard_link, self.loops[0].path(), self.loops[1].path(), self.loop_over_loop.path()]
    }

    fn volume(&self, name: &Path) -> Volume {
        volume_on(self.directory.path(), name)
    }
}

fn write_and_sync(volume: &Volume, name: &str, seed: u64) {
    fs::write(volume.path(name), Pattern(seed).bytes(0, MIB as usize)).unwrap();
    File::open(volume.path(name)).unwrap().sync_all().unwrap();
}

fn is_whole(volume: &Volume, name: &str, seed: u64) {
    assert_eq!(Pattern(seed).mismatch(0, &fs::read(volume.path(name)).unwrap()), None, "{name}");
}

#[test]
fn every_name_of_a_mounted_volume_is_in_use() {
    let Some(names) = Names::new() else { return };
    for (round, mounted) in [names.all()[0], names.all()[2], names.all()[4]].into_iter().enumerate() {
        // The other names stand idle: they are in nobody's way.
        let mut volume = names.volume(mounted);
        volume.mount().unwrap();
        write_and_sync(&volume, &format!("f{round}"), round as u64);
        for name in names.all() {
            all_refuse(name, mounted, &names.spare);
        }
        for earlier in 0..=round {
            is_whole(&volume, &format!("f{earlier}"), earlier as u64);
        }
        volume.umount().unwrap();
        assert_clean(&volume);
    }
    let twice = command("mkfs.ferryfs", &["--force"], &[&names.file, names.loop_over_loop.path()]);
    assert!(!twice.success() && twice.stderr.contains("the same storage"), "{twice}");
}

#[test]
fn what_is_only_read_is_not_written_by_another_name() {
    let Some(names) = Names::new() else { return };
    for mounted in [names.all()[0], names.all()[2]] {
        let mut volume = names.volume(mounted);
        volume.set_options(["ro"]);
        volume.mount().unwrap();
        for name in names.all() {
            let outcome = command("mkfs.ferryfs", &["--force"], &[name]);
            assert!(!outcome.success() && outcome.stderr.contains("in use"), "{outcome}");
        }
        let second = command("ferryfs", &["mount", "-o", "ro"], &[names.loops[1].path(), &names.spare]);
        harness::mounts::detach_below(&names.spare);
        second.ok().unwrap();
        volume.umount().unwrap();
    }
}

/// A mount waits for the daemon of the one before, as it does when both use the same name.
#[test]
fn the_next_mount_may_use_another_name_at_once() {
    let Some(names) = Names::new() else { return };
    let mut order = vec![names.all()[0], names.all()[2], names.all()[4], names.all()[0]];
    order.push(names.all()[3]);
    let mut daemons = Vec::new();
    for (round, name) in order.into_iter().enumerate() {
        let mut volume = names.volume(name);
        volume.mount().unwrap();
        for earlier in 0..round {
            is_whole(&volume, &format!("f{earlier}"), earlier as u64);
        }
        write_and_sync(&volume, &format!("f{round}"), round as u64);
        // Every other one is killed; the rest write their last checkpoint while the next one waits.
        if round % 2 == 1 {
            volume.kill();
        } else {
            rustix::mount::unmount(volume.root(), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        daemons.push(volume);
    }
    drop(daemons);
}

#[test]
fn a_file_whose_loop_device_another_filesystem_uses_is_left_alone() {
    if !has_program("mkfs.ext4") {
        return;
    }
    let Some(names) = Names::new() else { return };
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let device = names.loops[0].path();
    run(Command::new("mkfs.ext4").env("PATH", path).arg("-qF").arg(device), LIMIT).unwrap().ok().unwrap();
    run(Command::new("mount").arg(device).arg(&names.spare), LIMIT).unwrap().ok().unwrap();
    let outcomes = names.all().map(|name| command("mkfs.ferryfs", &["--force"], &[name]));
    harness::mounts::detach_below(&names.spare);
    for outcome in outcomes {
        assert!(!outcome.success() && outcome.stderr.contains("in use"), "{outcome}");
    }
}
