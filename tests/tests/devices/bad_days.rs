//! Devices that begin to fail under a mounted volume, that are busy, or that cannot be written: a clear word, nothing destroyed, nothing acknowledged lost.

use crate::life::{FORMAT_PLAIN, FORMAT_ZONED, volume};
use guest::machine::SCRATCH;
use guest::{Device, Kernel, Machine, Namespace};
use harness::{Outcome, Pattern, Volume};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::guest::in_guest;
use tests::guest::stacks::{Mapped, call, flaky, linear, looped};
use tests::mounted::{assert_clean, programs};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const LENGTH: usize = 3 << 20;

fn plain() -> Machine {
    Machine::new(Kernel::Long6_12).device(Device::VirtioBlock { size: 128 * MIB, block: 4096 })
}

fn zoned() -> Machine {
    Machine::new(Kernel::Long6_12).device(Namespace::zoned("z").size(128 * MIB).zones(4 * MIB, 4 * MIB))
}

fn write(path: &Path, seed: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&Pattern(seed).bytes(0, LENGTH))?;
    file.sync_all()
}

fn check(path: &Path, seed: u64) {
    let found = fs::read(path).unwrap_or_else(|error| panic!("{} was acknowledged: {error}", path.display()));
    assert_eq!((found.len(), Pattern(seed).mismatch(0, &found)), (LENGTH, None), "{}", path.display());
}

fn forget_pages() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn run(program: &str, arguments: &[&Path]) -> Outcome {
    harness::run(programs().command(program).unwrap().args(arguments), LIMIT).unwrap()
}

/// Refused, in words that have one of `words` among them.
fn refused(outcome: &Outcome, words: &[&str]) {
    let said = outcome.stderr.to_lowercase();
    assert!(!outcome.success() && outcome.code.is_some() && !outcome.timed_out && !said.contains("panicked"), "{outcome}");
    assert!(words.iter().any(|word| said.contains(word)), "none of {words:?}: {outcome}");
}

/// A mounted volume on `device` through a table that can be replaced, with the file `kept` in it, durable.
fn over(device: &Path, format: &[&str]) -> (tempfile::TempDir, Mapped, Volume) {
    let mapped = Mapped::new("under", &["dm_flakey"], &linear(device));
    let (directory, mut volume) = volume(&[mapped.path()], format);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    write(&volume.path("kept"), 1).unwrap();
    (directory, mapped, volume)
}

/// The device works again; what was durable is there, and the volume takes writes.
fn recovered(device: &Path, mapped: &Mapped, volume: &mut Volume) {
    volume.kill();
    mapped.replace(&linear(device));
    assert_clean(volume);
    volume.mount().unwrap_or_else(|error| panic!("after the bad day: {error:#}"));
    check(&volume.path("kept"), 1);
    write(&volume.path("after"), 3).unwrap();
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(volume);
}

fn failing_writes(device: &Path, format: &[&str]) {
    let (_directory, mapped, mut volume) = over(device, format);
    mapped.replace(&flaky(device, "error_writes"));
    let failed = write(&volume.path("lost"), 2).expect_err("nothing can be durable on a device that fails every write");
    assert!(matches!(failed.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::ENOSPC)), "{failed}");
    // No zone takes a write, so there is nowhere to go on: the volume becomes read-only, and says so.
    let again = write(&volume.path("again"), 2).expect_err("it is read-only by now");
    assert!(matches!(again.raw_os_error(), Some(libc::EROFS | libc::EIO)), "{again}");
    assert_eq!(volume.status().unwrap().value("volume/mounted_read_only").unwrap(), true);
    let said = volume.log().to_lowercase();
    assert!(said.contains("read-only") && !said.contains("panicked"), "{said}");
    let reason = volume.status().unwrap().text("volume/read_only_reason").unwrap().to_owned();
    let names = [mapped.path().canonicalize().unwrap(), mapped.path()];
    assert!(names.iter().any(|name| reason.contains(name.to_str().unwrap())), "whoever looks is told which device fails: {reason}");
    forget_pages();
    check(&volume.path("kept"), 1);
    recovered(device, &mapped, &mut volume);
}

#[test]
fn a_disk_that_fails_every_write() {
    in_guest(plain(), &["dmsetup"], || failing_writes(Path::new("/dev/vda"), FORMAT_PLAIN));
}

#[test]
fn a_zoned_drive_that_fails_every_write() {
    in_guest(zoned(), &["dmsetup"], || failing_writes(Path::new("/dev/vm/zn1"), FORMAT_ZONED));
}

#[test]
fn a_disk_that_fails_every_read() {
    in_guest(plain(), &["dmsetup"], || {
        let device = Path::new("/dev/vda");
        let (_directory, mapped, mut volume) = over(device, FORMAT_PLAIN);
        mapped.replace(&flaky(device, "error_reads"));
        forget_pages();
        let error = fs::read(volume.path("kept")).expect_err("it cannot be read");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(!volume.log().contains("panicked"), "{}", volume.log());
        // Reading again when the device can is all it takes.
        mapped.replace(&linear(device));
        check(&volume.path("kept"), 1);
        volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
        recovered(device, &mapped, &mut volume);
    });
}

#[test]
fn a_disk_that_goes_away() {
    in_guest(plain(), &["dmsetup"], || {
        let device = Path::new("/dev/vda");
        let (_directory, mapped, mut volume) = over(device, FORMAT_PLAIN);
        mapped.replace(&format!("0 {} error", 128 * MIB / 512));
        write(&volume.path("lost"), 2).expect_err("there is no device");
        let outcome = volume.ferryfs(["umount".as_ref(), volume.root().as_os_str()]).unwrap();
        refused(&outcome, &["i/o error", "input/output", "failed", "read-only", "lost", "device"]);
        recovered(device, &mapped, &mut volume);
    });
}

#[test]
fn a_device_is_busy_until_the_daemon_is_gone() {
    in_guest(zoned().device(Device::VirtioBlock { size: 128 * MIB, block: 512 }), &[], || {
        for (device, format) in [("/dev/vm/zn1", FORMAT_ZONED), ("/dev/vda", FORMAT_PLAIN)] {
            let device = PathBuf::from(device);
            let (directory, mut volume) = volume(std::slice::from_ref(&device), format);
            volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
            write(&volume.path("kept"), 1).unwrap();
            let second = directory.path().join("second");
            fs::create_dir(&second).unwrap();
            let busy = ["busy", "in use", "mounted"];
            refused(&run("ferryfs", &[Path::new("mount"), &device, &second]), &busy);
            refused(&run("mkfs.ferryfs", &[Path::new("--force"), &device]), &busy);
            // Gone is gone, however it went: nothing has to be cleared away first.
            volume.kill();
            volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
            check(&volume.path("kept"), 1);
            volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
            assert_clean(&volume);
        }
    });
}

#[test]
fn a_device_that_cannot_be_written() {
    in_guest(Machine::new(Kernel::Long6_12), &[], || {
        let file = Path::new(SCRATCH).join("disk");
        let writable = looped(&file, 128 * MIB, false);
        let (_directory, mut first) = volume(std::slice::from_ref(&writable), FORMAT_PLAIN);
        first.mount().unwrap_or_else(|error| panic!("{error:#}"));
        write(&first.path("kept"), 1).unwrap();
        first.umount().unwrap_or_else(|error| panic!("{error:#}"));
        call("losetup", ["-d".as_ref(), writable.as_os_str()]);
        let device = looped(&file, 128 * MIB, true);
        let before = fs::read(&file).unwrap();
        let point = first.root().to_path_buf();
        let words = ["read-only", "permission", "permitted"];
        refused(&run("mkfs.ferryfs", &[Path::new("--force"), &device]), &words);
        refused(&run("ferryfs", &[Path::new("mount"), &device, &point]), &words);
        let outcome = run("ferryfs", &[Path::new("mount"), Path::new("-o"), Path::new("ro"), &device, &point]);
        assert!(outcome.success(), "{outcome}");
        check(&point.join("kept"), 1);
        let denied = fs::write(point.join("new"), b"x").expect_err("it is read-only");
        assert_eq!(denied.raw_os_error(), Some(libc::EROFS));
        let outcome = run("ferryfs", &[Path::new("umount"), &point]);
        assert!(outcome.success(), "{outcome}");
        assert!(before == fs::read(&file).unwrap(), "not a byte changed");
    });
}
