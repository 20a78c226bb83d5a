//! Volumes on plain files of filesystems that let files share blocks: relocation and copies by FICLONERANGE.

use crate::devices::Loop;
use harness::content::Dice;
use harness::{Pattern, Volume, VolumeSpec, run};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::mounted::{assert_clean, programs};
use tests::skip::{has_program, skip};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

/// A filesystem of another kind on a loop device, mounted; gone with this.
struct Below {
    point: PathBuf,
    _device: Loop,
}

impl Below {
    /// `None` after noting a skip where it cannot be made here.
    fn new(directory: &Path, kind: &str, format: &[&str]) -> Option<Below> {
        if !has_program(format[0]) {
            return None;
        }
        let device = Loop::new(&directory.join("disk"), 768 << 20)?;
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        run(Command::new(format[0]).env("PATH", path).args(&format[1..]).arg(device.path()), LIMIT).unwrap().ok().unwrap();
        let point = directory.join("below");
        fs::create_dir(&point).unwrap();
        let outcome = run(Command::new("mount").args(["-t", kind]).arg(device.path()).arg(&point), LIMIT).unwrap();
        if outcome.success() {
            return Some(Below { point, _device: device });
        }
        skip(&format!("{kind} cannot be mounted here: {}", outcome.stderr.trim()));
        None
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        harness::mounts::detach_below(&self.point);
    }
}

fn volume_in(below: &Below) -> Volume {
    let format = "--profile conventional --size 192M --zone-size 1M".split(' ').map(String::from).collect();
    let spec = VolumeSpec { format, options: vec!["gc=manual".into()], ..VolumeSpec::default() };
    Volume::create(programs(), &below.point, spec).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Two of three MiB are overwritten, so that every zone has something to move.
fn moves_by_sharing(kind: &str, format: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let Some(below) = Below::new(directory.path(), kind, format) else { return };
    let mut volume = volume_in(&below);
    volume.mount().unwrap();
    let status = volume.status().unwrap();
    assert_eq!(status.text("volume/devices/0/route").unwrap(), "reflink");
    assert!(status.text("volume/devices/0/route_reason").unwrap().contains("share blocks"));
    assert!(!status.simulated());
    let files = 60;
    let mut dice = Dice::new(3);
    let mut contents: Vec<Vec<u8>> = (0..files).map(|n| Pattern(n).bytes(0, MIB)).collect();
    for (n, content) in contents.iter_mut().enumerate() {
        let file = File::create_new(volume.path(format!("f{n}"))).unwrap();
        file.write_all_at(content, 0).unwrap();
        file.sync_all().unwrap();
    }
    for (n, content) in contents.iter_mut().enumerate() {
        let file = File::options().write(true).open(volume.path(format!("f{n}"))).unwrap();
        for _ in 0..20 {
            let at = dice.below(MIB as u64 / 4096) as usize * 4096;
            content[at..at + 4096].copy_from_slice(&Pattern(1000 + n as u64).bytes(at as u64, 4096));
            file.write_all_at(&content[at..at + 4096], at as u64).unwrap();
        }
        file.sync_all().unwrap();
    }
    let gc = volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()]).unwrap();
    assert!(gc.success(), "{gc}");
    let status = volume.status().unwrap();
    assert!(status.number("gc/offloaded").unwrap() >= 8 << 20, "{gc}");
    assert_eq!((status.number("gc/host_read").unwrap(), status.number("gc/host_written").unwrap()), (0, 0));
    let (from, to) = (File::open(volume.path("f5")).unwrap(), File::create_new(volume.path("copy")).unwrap());
    let (mut at, mut target) = (0, 0);
    while at < MIB as u64 {
        let left = MIB - at as usize;
        assert!(rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut target), left).unwrap() > 0);
    }
    to.sync_all().unwrap();
    drop((from, to));
    let status = volume.status().unwrap();
    assert_eq!((status.number("copy_file_range/offloaded").unwrap(), status.number("copy_file_range/host_read").unwrap()), (MIB as u64, 0));
    // Zones that were cleaned are written again, over blocks that others share.
    for n in 0..60 {
        fs::write(volume.path("again"), Pattern(n).bytes(0, MIB)).unwrap();
        File::open(volume.path("again")).unwrap().sync_all().unwrap();
    }
    let gc = volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()]).unwrap();
    assert!(gc.success(), "{gc}");
    volume.kill();
    assert_clean(&volume);
    volume.mount().unwrap();
    for (n, content) in contents.iter().enumerate() {
        assert!(fs::read(volume.path(format!("f{n}"))).unwrap() == *content, "f{n}");
    }
    assert!(fs::read(volume.path("copy")).unwrap() == contents[5]);
    volume.umount().unwrap();
    assert_clean(&volume);
}

#[test]
fn a_volume_on_xfs_relocates_by_sharing_blocks() {
    moves_by_sharing("xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"]);
}

#[test]
fn a_volume_on_btrfs_relocates_by_sharing_blocks() {
    moves_by_sharing("btrfs", &["mkfs.btrfs", "-q"]);
}

#[test]
fn where_files_cannot_share_blocks_the_host_copies_and_says_why() {
    for (kind, format, reason) in [
        ("ext4", &["mkfs.ext4", "-q"][..], "does not let files share blocks"),
        ("xfs", &["mkfs.xfs", "-q", "-m", "reflink=0"], "does not let files share blocks"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let Some(below) = Below::new(directory.path(), kind, format) else { return };
        let mut volume = volume_in(&below);
        volume.mount().unwrap();
        let status = volume.status().unwrap();
        assert_eq!(status.text("volume/devices/0/route").unwrap(), "host");
        let said = status.text("volume/devices/0/route_reason").unwrap();
        assert!(said.contains(reason), "{said}");
        volume.umount().unwrap();
    }
}
