//! Volumes on block devices, and on several devices at once.

use harness::{Pattern, VolumeSpec, run};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::Builder;
use tests::mounted::{assert_clean, programs};
use tests::skip::{no_mounts, skip};

const LIMIT: Duration = Duration::from_secs(120);

/// A loop device over a file; gone with this.
pub struct Loop(PathBuf);

impl Loop {
    /// `None` after noting a skip where there are none.
    pub fn new(file: &Path, bytes: u64) -> Option<Loop> {
        File::create(file).unwrap().set_len(bytes).unwrap();
        Loop::over(file, &[])
    }

    /// A loop device over what is there, with further arguments of losetup(8). `None` as above.
    pub fn over(backing: &Path, arguments: &[&str]) -> Option<Loop> {
        if let Some(reason) = no_mounts() {
            skip(reason);
            return None;
        }
        match run(Command::new("losetup").args(["--find", "--show"]).args(arguments).arg(backing), LIMIT) {
            Ok(outcome) if outcome.success() => Some(Loop(outcome.stdout.trim().into())),
            other => {
                skip(&format!("no loop device: {other:?}"));
                None
            }
        }
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").arg("-d").arg(&self.0), LIMIT);
    }
}

fn in_use(outcome: &harness::Outcome) {
    let said = outcome.stderr.to_lowercase();
    assert!(!outcome.success() && ["in use", "busy", "mounted"].iter().any(|word| said.contains(word)), "{outcome}");
}

#[test]
fn a_block_device_holds_a_volume() {
    let directory = tempfile::tempdir().unwrap();
    let Some(device) = Loop::new(&directory.path().join("disk"), 256 << 20) else { return };
    let spec = VolumeSpec { format: vec!["--zone-size".into(), "1M".into()], devices: vec![device.0.clone()], ..VolumeSpec::default() };
    let mut volume = harness::Volume::create(programs(), directory.path(), spec).unwrap();
    volume.mount().unwrap();
    let status = volume.status().unwrap();
    assert_eq!(status.text("volume/devices/0/kind").unwrap(), "conventional");
    assert_eq!(status.text("volume/devices/0/route").unwrap(), "host");
    assert!(!status.simulated());
    for n in 0..40 {
        fs::write(volume.path(format!("f{n}")), Pattern(n).bytes(0, 1 << 20)).unwrap();
    }
    File::open(volume.path("f0")).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(File::open(volume.root()).unwrap()).unwrap();
    File::open(volume.root()).unwrap().sync_all().unwrap();
    // While it is mounted nobody else gets the device.
    let mut mkfs = programs().command("mkfs.ferryfs").unwrap();
    in_use(&run(mkfs.arg("--force").arg(&device.0), LIMIT).unwrap());
    volume.kill();
    assert_clean(&volume);
    volume.mount().unwrap();
    for n in 0..40 {
        assert_eq!(Pattern(n).mismatch(0, &fs::read(volume.path(format!("f{n}"))).unwrap()), None, "f{n}");
    }
    volume.umount().unwrap();
    assert_clean(&volume);
    drop(volume);
    drop(device);
}

#[test]
fn a_device_that_another_filesystem_uses_is_left_alone() {
    if !tests::skip::has_program("mkfs.ext4") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(device) = Loop::new(&directory.path().join("disk"), 128 << 20) else { return };
    let point = directory.path().join("ext4");
    fs::create_dir(&point).unwrap();
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    run(Command::new("mkfs.ext4").env("PATH", path).arg("-q").arg(&device.0), LIMIT).unwrap().ok().unwrap();
    run(Command::new("mount").arg(&device.0).arg(&point), LIMIT).unwrap().ok().unwrap();
    fs::write(point.join("f"), b"theirs").unwrap();
    let mut mkfs = programs().command("mkfs.ferryfs").unwrap();
    let outcome = run(mkfs.arg("--force").arg(&device.0), LIMIT).unwrap();
    harness::mounts::detach_below(&point);
    in_use(&outcome);
}

#[test]
fn a_write_protected_device_is_mounted_with_ro_only() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, point) = (directory.path().join("disk"), directory.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    let ferryfs = |arguments: &[&str], device: &Path| {
        let mut command = programs().command("ferryfs").unwrap();
        run(command.args(arguments).arg(device).arg(&point), LIMIT).unwrap()
    };
    let mut mkfs = programs().command("mkfs.ferryfs").unwrap();
    run(mkfs.args(["--profile", "conventional", "--size", "96M"]).arg(&disk), LIMIT).unwrap().ok().unwrap();
    let Some(device) = Loop::over(&disk, &["--read-only"]) else { return };
    let refused = ferryfs(&["mount"], device.path());
    assert_eq!(refused.code, Some(32), "{refused}");
    assert!(refused.stderr.contains("write-protected") && refused.stderr.contains("-o ro"), "{refused}");
    let mut mkfs = programs().command("mkfs.ferryfs").unwrap();
    let refused = run(mkfs.arg("--force").arg(device.path()), LIMIT).unwrap();
    assert!(!refused.success() && refused.stderr.contains("write-protected"), "{refused}");
    ferryfs(&["mount", "-o", "ro"], device.path()).ok().unwrap();
    let mut command = programs().command("ferryfs").unwrap();
    run(command.arg("umount").arg(&point), LIMIT).unwrap().ok().unwrap();
}

#[test]
fn a_drive_image_behind_a_loop_device_is_refused_by_the_name_of_its_file() {
    let Some((directory, volume)) = Builder::default().create() else { return };
    let Some(device) = Loop::over(volume.device(), &[]) else { return };
    for (program, arguments) in [("ferryfs", &["mount"][..]), ("ferryfs", &["mount", "-o", "ro"]), ("fsck.ferryfs", &["-n"])] {
        let mut command = programs().command(program).unwrap();
        command.args(arguments).arg(device.path());
        if program == "ferryfs" {
            command.arg(volume.root());
        }
        let outcome = run(&mut command, LIMIT).unwrap();
        let said = &outcome.stderr;
        assert!(!outcome.success() && said.contains("drive image"), "{outcome}");
        assert!(said.contains(volume.device().to_str().unwrap()), "{outcome}");
    }
    drop((device, directory));
}

#[test]
fn a_volume_may_lie_on_several_devices() {
    let Some((directory, mut volume)) = several() else { return };
    volume.mount().unwrap();
    assert_eq!(volume.status().unwrap().devices().count(), 2);
    for n in 0..150 {
        fs::write(volume.path(format!("f{n}")), Pattern(n).bytes(0, 1 << 20)).unwrap();
    }
    rustix::fs::syncfs(File::open(volume.root()).unwrap()).unwrap();
    File::open(volume.root()).unwrap().sync_all().unwrap();
    volume.kill();
    assert_clean(&volume);
    volume.mount().unwrap();
    for n in 0..150 {
        assert_eq!(Pattern(n).mismatch(0, &fs::read(volume.path(format!("f{n}"))).unwrap()), None, "f{n}");
    }
    volume.umount().unwrap();
    assert_clean(&volume);
    // One alone is no volume, and the message says what is missing.
    let mut command = programs().command("ferryfs").unwrap();
    let alone = run(command.arg("mount").arg(volume.device()).arg(volume.root()), LIMIT).unwrap();
    assert!(!alone.success() && alone.stderr.contains("device"), "{alone}");
    drop((volume, directory));
}

#[test]
fn a_stale_clone_of_one_device_is_refused() {
    let Some((directory, mut volume)) = several() else { return };
    volume.mount().unwrap();
    fs::write(volume.path("before"), b"before").unwrap();
    volume.umount().unwrap();
    let clone = directory.path().join("clone.img");
    fs::copy(&volume.devices()[1], &clone).unwrap();
    volume.mount().unwrap();
    fs::write(volume.path("after"), vec![1; 20 << 20]).unwrap();
    volume.umount().unwrap();
    let mut command = programs().command("ferryfs").unwrap();
    let outcome = run(command.arg("mount").arg(volume.device()).arg(&clone).arg(volume.root()), LIMIT).unwrap();
    let said = outcome.stderr.to_lowercase();
    assert!(!outcome.success() && !said.contains("panicked"), "{outcome}");
    assert!(["stale", "older", "old", "generation", "clone"].iter().any(|word| said.contains(word)), "{outcome}");
    volume.mount().unwrap();
    assert_eq!(fs::read(volume.path("after")).unwrap().len(), 20 << 20);
    volume.umount().unwrap();
    assert_clean(&volume);
}

/// Two images of unequal size.
fn several() -> Option<(tempfile::TempDir, harness::Volume)> {
    let (directory, first) = Builder::default().format("--size 128M --zone-size 1M").create()?;
    drop(first);
    // Each image is made by itself, for mkfs makes them all of one size; then they become one volume.
    let mut mkfs = programs().command("mkfs.ferryfs").unwrap();
    run(mkfs.args(["--size", "192M", "--zone-size", "2M"]).arg(directory.path().join("second.img")), LIMIT).unwrap().ok().unwrap();
    let spec =
        VolumeSpec { format: vec!["--force".into()], devices: vec!["volume.img".into(), "second.img".into()], ..VolumeSpec::default() };
    let volume = harness::Volume::create(programs(), directory.path(), spec).unwrap_or_else(|error| panic!("{error:#}"));
    Some((directory, volume))
}
