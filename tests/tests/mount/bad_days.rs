//! Bad input and bad days: a clear sentence and exit status for each, and nothing destroyed.

use ::fs::Ino;
use ::fs::core::ops;
use ::fs::format::item::Timestamp;
use ::fs::format::superblock as fs_format;
use ::fs::volume::{self as ferryfs, Caller, Clock, Cost, FormatOptions, MountOptions, WriteOptions};
use harness::{Outcome, Pattern, Volume};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tests::mounted::{assert_clean, programs};
use tests::skip::{has_program, no_mounts, skip};
use tests::{Builder, errno};
use zns::ZonedDevice;
use zns::image::{ImageDevice, ImageOptions};

const LIMIT: Duration = Duration::from_secs(120);

fn run(program: &str, arguments: &[&Path]) -> Outcome {
    harness::run(programs().command(program).unwrap().args(arguments), LIMIT).unwrap()
}

fn mount(device: &Path, point: &Path) -> Outcome {
    let outcome = harness::run(programs().command("ferryfs").unwrap().arg("mount").arg(device).arg(point), LIMIT).unwrap();
    if outcome.success() {
        // What must not have happened is undone, so that nothing is left behind.
        let _ = run("ferryfs", &[Path::new("umount"), point]);
        harness::mounts::detach_below(point);
    }
    outcome
}

/// Refused, with a sentence that has one of `words` in it, no panic, and a plain exit status.
fn refused(outcome: &Outcome, words: &[&str]) {
    assert!(!outcome.success(), "this had to be refused: {outcome}");
    assert!(outcome.code.is_some() && !outcome.timed_out, "{outcome}");
    let said = outcome.stderr.to_lowercase();
    assert!(!said.contains("panicked"), "{outcome}");
    assert!(words.iter().any(|word| said.contains(word)), "the message says none of {words:?}: {outcome}");
}

/// A directory with an empty `mnt`.
fn place() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("mnt")).unwrap();
    directory
}

/// A formatted volume with something in it, not mounted.
fn volume_with_contents() -> Option<(TempDir, Volume)> {
    let (directory, mut volume) = Builder::default().format("--size 96M --zone-size 1M").create()?;
    volume.mount().unwrap();
    fs::create_dir(volume.path("d")).unwrap();
    for n in 0..40u64 {
        fs::write(volume.path(format!("d/f{n}")), Pattern(n).bytes(0, 50_000)).unwrap();
    }
    volume.umount().unwrap();
    Some((directory, volume))
}

#[test]
fn devices_that_are_missing_empty_or_no_volume() {
    if let Some(reason) = no_mounts() {
        return skip(reason);
    }
    let directory = place();
    let at = |name: &str| directory.path().join(name);
    let point = at("mnt");
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("text"), "not a filesystem\n".repeat(1000)).unwrap();
    File::create(at("zeros")).unwrap().set_len(64 << 20).unwrap();
    for (device, words) in [
        ("missing", &["no such file", "not found", "does not exist"][..]),
        ("empty", &["not a ferryfs", "no ferryfs", "too small", "empty"]),
        ("text", &["not a ferryfs", "no ferryfs", "too small"]),
        ("zeros", &["not a ferryfs", "no ferryfs"]),
        ("mnt", &["directory", "not a"]),
    ] {
        refused(&mount(&at(device), &point), words);
        let fsck = run("fsck.ferryfs", &[Path::new("-n"), &at(device)]);
        assert_eq!(fsck.code, Some(8), "could not run: {fsck}");
        refused(&fsck, words);
        refused(
            &run("ferryfs", &[Path::new("status"), &at(device)]),
            &["not a", "no ", "too small", "not mounted", "directory", "empty", "does not exist"],
        );
        refused(&run("ferryfs", &[Path::new("dump"), &at(device)]), words);
    }
    refused(&run("mkfs.ferryfs", &[Path::new("--force"), &at("missing-directory/x")]), &["no such file", "--size", "size"]);
    refused(&run("mkfs.ferryfs", &[Path::new("--force"), &at("text")]), &["small", "size", "least"]);
    refused(&run("mkfs.ferryfs", &[&point]), &["directory", "not a", "neither"]);
    assert_eq!(fs::read(at("text")).unwrap().len(), 17_000, "what was refused is untouched");
}

#[test]
fn a_foreign_filesystem_is_not_overwritten_without_force() {
    if !has_program("mkfs.ext4") {
        return;
    }
    let directory = place();
    let image = directory.path().join("ext4.img");
    File::create(&image).unwrap().set_len(96 << 20).unwrap();
    harness::run(Command::new("mkfs.ext4").arg("-q").arg(&image).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin"), LIMIT)
        .unwrap()
        .ok()
        .unwrap();
    let before = fs::read(&image).unwrap();
    refused(&run("mkfs.ferryfs", &[&image]), &["ext"]);
    refused(&mount(&image, &directory.path().join("mnt")), &["not a ferryfs", "no ferryfs"]);
    assert!(before == fs::read(&image).unwrap(), "not a byte changed");
    run("mkfs.ferryfs", &[Path::new("--force"), &image]).ok().unwrap();
    // Our own is not overwritten either, and neither is a partition table.
    refused(&run("mkfs.ferryfs", &[&image]), &["ferryfs", "force"]);
    let table = directory.path().join("table.img");
    let file = File::create(&table).unwrap();
    file.set_len(96 << 20).unwrap();
    file.write_all_at(&[0x55, 0xaa], 510).unwrap();
    file.write_all_at(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0], 446).unwrap();
    refused(&run("mkfs.ferryfs", &[&table]), &["partition", "force"]);
}

#[test]
fn a_full_filesystem_below_is_told_by_the_name_of_the_file() {
    if let Some(reason) = tests::skip::no_mounts() {
        return tests::skip::skip(reason);
    }
    let directory = place();
    let point = directory.path().join("mnt");
    let tmpfs = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&point).status();
    assert!(tmpfs.is_ok_and(|status| status.success()));
    let file = point.join("disk.img");
    let outcome =
        run("mkfs.ferryfs", &["--profile", "conventional", "--size", "96M"].map(Path::new).into_iter().chain([&*file]).collect::<Vec<_>>());
    let left = file.exists();
    harness::mounts::detach_below(&point);
    refused(&outcome, &["no space left"]);
    assert!(outcome.stderr.contains(file.to_str().unwrap()), "{outcome}");
    assert!(!left, "what was begun is removed");
}

#[test]
fn two_mounts_of_one_volume_are_refused() {
    let Some((directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    fs::write(volume.path("f"), b"the first").unwrap();
    let second = directory.path().join("second");
    fs::create_dir(&second).unwrap();
    refused(&mount(volume.device(), &second), &["in use", "busy", "mounted", "lock"]);
    let mkfs = run("mkfs.ferryfs", &[Path::new("--force"), volume.device()]);
    refused(&mkfs, &["in use", "busy", "mounted", "lock"]);
    // The same by another name.
    let link = directory.path().join("link.img");
    std::os::unix::fs::symlink(volume.device(), &link).unwrap();
    refused(&mount(&link, &second), &["in use", "busy", "mounted", "lock"]);
    assert_eq!(fs::read(volume.path("f")).unwrap(), b"the first");
    volume.umount().unwrap();
    assert_clean(&volume);
}

#[test]
fn mount_points_that_are_missing_or_not_empty() {
    let Some((directory, volume)) = volume_with_contents() else {
        return;
    };
    let at = |name: &str| directory.path().join(name);
    refused(&mount(volume.device(), &at("missing")), &["no such file", "does not exist", "not found"]);
    fs::write(at("file"), b"").unwrap();
    refused(&mount(volume.device(), &at("file")), &["not a directory", "directory"]);
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/x"), b"x").unwrap();
    refused(&mount(volume.device(), &at("full")), &["not empty", "empty"]);
    refused(&run("ferryfs", &[Path::new("umount"), &at("full")]), &["not mounted", "not a mount", "no ferryfs"]);
    refused(
        &run("ferryfs", &[Path::new("umount"), &at("missing")]),
        &["no such file", "not mounted", "does not exist", "not found", "not a mount"],
    );
    assert_clean(&volume);
}

/// A root directory of its own with `ferryfs` and what it loads, and with no more in `/dev` than it takes to start a program; gone when dropped. No mount
/// namespace: in a chroot, whose `/` is no mount point, none can be made private.
struct Bare(TempDir);

impl Bare {
    /// With `image` in it, itself and no copy, as `/image`, and an empty `/mnt`.
    fn with(image: &Path) -> Bare {
        let bare = Bare(TempDir::new().unwrap());
        // A filesystem that takes devices and programs, whatever the directory's own takes.
        let script = "mount -t tmpfs none \"$1\" && cd \"$1\" && mkdir dev proc mnt && mknod dev/null c 1 3 && mknod dev/urandom c 1 9 && \
                      { mount -t proc none proc || mount --bind /proc proc; } && : >image && mount --bind \"$2\" image && cp \"$3\" ferryfs && \
                      for library in $(ldd \"$3\" | tr -s '[:space:]' '\\n' | grep ^/); do mkdir -p \".${library%/*}\" && cp \"$library\" \".$library\" || exit; done";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(bare.0.path()).arg(image).arg(programs().path("ferryfs").unwrap());
        harness::run(&mut command, LIMIT).unwrap().ok().unwrap();
        bare
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("chroot");
        command.arg(self.0.path()).arg("/ferryfs").args(arguments).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        harness::run(&mut command, LIMIT).unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        harness::mounts::detach_below(self.0.path());
    }
}

#[test]
fn without_dev_fuse_the_reason_is_said() {
    let Some((_directory, volume)) = volume_with_contents() else {
        return;
    };
    let bare = Bare::with(volume.device());
    bare.run(&["status", "/image"]).ok().expect("all else works there");
    refused(&bare.run(&["mount", "/image", "/mnt"]), &["/dev/fuse"]);
    drop(bare);
    assert_clean(&volume);
}

#[test]
fn an_image_that_was_cut_short_is_refused() {
    let Some((directory, volume)) = volume_with_contents() else {
        return;
    };
    let whole = fs::read(volume.device()).unwrap();
    let cut = directory.path().join("cut.img");
    let point = directory.path().join("cut");
    fs::create_dir(&point).unwrap();
    for length in [whole.len() - 1, whole.len() - 4096, whole.len() / 2, 1 << 20, 4096, 100, 0] {
        fs::write(&cut, &whole[..length]).unwrap();
        let outcome = mount(&cut, &point);
        refused(&outcome, &["short", "smaller", "small", "truncated", "cut", "not a ferryfs", "no ferryfs", "corrupt", "size"]);
        let fsck = run("fsck.ferryfs", &[Path::new("-n"), &cut]);
        assert!(matches!(fsck.code, Some(4 | 8)), "{fsck}");
    }
}

/// Names and contents of [`volume_with_contents`] on an image that is the same, byte for byte, each time it is made: nothing in it is drawn at random, and
/// nothing depends on the time or on threads.
fn reproducible_image(path: &Path) -> Vec<u8> {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    let device = ImageDevice::create(path, &ImageOptions { size: 96 << 20, zone_size: 1 << 20, ..ImageOptions::default() }).unwrap();
    let device: Arc<dyn ZonedDevice> = Arc::new(device);
    let format = FormatOptions { label: "flips".into(), uuid: [7; 16], created: clock.now(), secret: [1; 32], uid: 0, gid: 0 };
    ferryfs::Volume::format(vec![device.clone()], &format).unwrap();
    let options = MountOptions { clock, secret: Some([2; 32]), ..MountOptions::default() };
    let volume = ferryfs::Volume::open(vec![device], options).unwrap();
    let caller = Caller::default();
    let directory = volume.run(Cost::METADATA, |txn| ops::mkdir(txn, Ino::ROOT, b"d", 0o755, &caller)).unwrap().ino;
    for n in 0..40u64 {
        let (name, mode) = (format!("f{n}"), libc::S_IFREG | 0o644);
        let made = volume.run(Cost::METADATA, |txn| ops::mknod(txn, directory, name.as_bytes(), mode, 0, &caller));
        volume.write(made.unwrap().ino, 0, &Pattern(n).bytes(0, 50_000), &WriteOptions::default()).unwrap();
    }
    volume.shutdown().unwrap();
    drop(volume);
    fs::read(path).unwrap()
}

/// Flips bits all over an image: every outcome is fine but a panic, a hang, or wrong data given as right.
#[test]
fn bit_flips_anywhere_are_noticed_or_harmless() {
    if let Some(reason) = no_mounts() {
        return skip(reason);
    }
    let directory = place();
    let whole = reproducible_image(&directory.path().join("whole"));
    assert!(whole == reproducible_image(&directory.path().join("again")), "other bits would be flipped next time");
    // Where something is written at all.
    let written: Vec<usize> = (0..whole.len() / 4096).filter(|n| whole[n * 4096..(n + 1) * 4096].iter().any(|b| *b != 0)).collect();
    let flipped = directory.path().join("flipped");
    fs::create_dir(&flipped).unwrap();
    let spec = harness::VolumeSpec { devices: vec!["image".into()], ..Default::default() };
    let mut dice = harness::content::Dice::new(11);
    let rounds = if tests::skip::quick() { 12 } else { 60 };
    let mut noticed = 0;
    for round in 0..rounds {
        let mut image = whole.clone();
        let block = written[dice.below(written.len() as u64) as usize];
        let at = block * 4096 + dice.below(if round % 2 == 0 { 4096 } else { 64 }) as usize;
        image[at] ^= 1 << dice.below(8);
        fs::write(flipped.join("image"), &image).unwrap();
        let mut damaged = Volume::existing(programs(), &flipped, spec.clone()).unwrap();
        let fsck = damaged.fsck().unwrap();
        assert!(matches!(fsck.code, Some(0 | 4 | 8)) && !fsck.said().contains("panicked"), "byte {at}: {fsck}");
        match damaged.mount() {
            Err(error) => {
                let said = format!("{error:#}");
                assert!(!said.contains("panicked") && !said.contains("signal"), "byte {at}: {said}");
                assert_ne!(fsck.code, Some(0), "byte {at}: it does not mount, but fsck finds nothing: {said}");
                noticed += 1;
            }
            Ok(_) => {
                for n in 0..40u64 {
                    match fs::read(damaged.path(format!("d/f{n}"))) {
                        Ok(read) => {
                            assert_eq!(read.len(), 50_000, "byte {at}: file {n}");
                            assert_eq!(Pattern(n).mismatch(0, &read), None, "byte {at}: wrong data of file {n} was given as right");
                        }
                        Err(error) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EIO), "byte {at}: file {n}: {error}");
                            assert_ne!(fsck.code, Some(0), "byte {at}: file {n} cannot be read, but fsck finds nothing");
                            noticed += 1;
                        }
                    }
                }
                assert!(!damaged.log().contains("panicked"), "byte {at}: {}", damaged.log());
            }
        }
        damaged.kill();
    }
    eprintln!("{rounds} flips, {noticed} failures noticed");
}

#[test]
fn a_flipped_bit_of_data_is_an_error_with_the_files_name_known_to_fsck() {
    let Some((directory, volume)) = volume_with_contents() else {
        return;
    };
    let mut image = fs::read(volume.device()).unwrap();
    let needle = Pattern(7).bytes(4096, 64);
    let places: Vec<usize> = (0..image.len() / 512).map(|n| n * 512).filter(|at| image[*at..].starts_with(&needle)).collect();
    assert!(!places.is_empty(), "data lies on the device as it was written");
    for at in places {
        image[at + 10] ^= 0x10;
    }
    fs::write(volume.device(), &image).unwrap();
    let fsck = volume.fsck().unwrap();
    assert_eq!(fsck.code, Some(4), "errors are left: {fsck}");
    let names = |text: &str| text.lines().any(|line| line.contains("checksum") && line.contains("/d/f7"));
    assert!(names(&fsck.said()), "{fsck}");
    let mut volume = volume;
    volume.mount().unwrap();
    assert_eq!(errno(fs::read(volume.path("d/f7"))), libc::EIO);
    assert!(names(&volume.log()), "the daemon says which file it is: {}", volume.log());
    assert_eq!(Pattern(8).mismatch(0, &fs::read(volume.path("d/f8")).unwrap()), None, "the others are unharmed");
    assert!(volume.status().unwrap().number("checks/checksum_errors").unwrap() > 0);
    volume.kill();
    drop(directory);
}

#[test]
fn a_dead_mount_can_be_cleared_away() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    let pid = volume.pid().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    let gone = |path: &Path| {
        let error = errno(fs::read_dir(path));
        error == libc::ENOTCONN || error == libc::ECONNABORTED
    };
    while !gone(volume.root()) {
        std::thread::yield_now();
    }
    let root = volume.root().to_path_buf();
    refused(&volume.ferryfs(["status".as_ref(), root.as_os_str()]).unwrap(), &["not mounted", "no ferryfs", "daemon", "connect", "gone"]);
    let outcome = volume.ferryfs(["umount".as_ref(), root.as_os_str()]).unwrap();
    assert!(outcome.code.is_some() && !outcome.timed_out && !outcome.said().contains("panicked"), "{outcome}");
    volume.kill();
    volume.mount().unwrap();
    volume.umount().unwrap();
    assert_clean(&volume);
}

/// A filesystem in memory that holds an image, gone when dropped.
struct Below(TempDir);

impl Below {
    fn new(size: &str) -> Below {
        let below = Below(TempDir::new().unwrap());
        below.sized(size, "");
        below
    }

    fn sized(&self, size: &str, remount: &str) {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("{remount}size={size}"), "tmpfs"]).arg(self.0.path());
        harness::run(&mut command, LIMIT).unwrap().ok().unwrap();
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        harness::mounts::detach_below(self.0.path());
    }
}

/// A sparse image promises more than the filesystem that holds it may have.
#[test]
fn a_full_filesystem_below_an_image_costs_nothing_that_was_acknowledged() {
    if let Some(reason) = no_mounts() {
        return skip(reason);
    }
    let below = Below::new("48M");
    let directory = TempDir::new().unwrap();
    let spec = harness::VolumeSpec { devices: vec![below.0.path().join("volume.img")], ..Default::default() };
    let mut volume = Volume::create(programs(), directory.path(), spec).unwrap();
    volume.mount().unwrap();
    let write = |n: u64| -> std::io::Result<()> {
        let file = File::create(volume.path(format!("f{n}")))?;
        file.write_all_at(&Pattern(n).bytes(0, 300_000), 0)?;
        file.sync_all()
    };
    let acknowledged = (0..400).take_while(|n| write(*n).is_ok()).count() as u64;
    assert!((50..400).contains(&acknowledged), "{acknowledged} files");
    let all_there = |volume: &Volume| {
        for n in 0..acknowledged {
            assert_eq!(Pattern(n).mismatch(0, &fs::read(volume.path(format!("f{n}"))).unwrap()), None, "file {n}");
        }
    };
    all_there(&volume);
    let reason = volume.status().unwrap();
    let reason = reason.text("volume/read_only_reason").unwrap().to_owned();
    assert!(reason.contains("volume.img has no room left"), "{reason}");
    assert_eq!(volume.status().unwrap().number("zones/read_only").unwrap(), 0, "no zone is at fault");
    // That is said once, however many come after.
    for n in 0..50 {
        assert_eq!(errno(fs::write(volume.path(format!("late {n}")), b"x")), libc::EROFS);
    }
    let said = volume.log();
    assert_eq!(said.lines().filter(|line| line.contains("the volume is read-only from now on")).count(), 1, "{said}");
    assert!(said.lines().filter(|line| line.contains("read-only")).count() < 10, "{said}");
    // It is read-only already: whoever says so once more is not refused, and is told what is lost.
    let mut command = programs().command("ferryfs").unwrap();
    let remounted =
        harness::run(command.args(["mount", "-o", "remount,ro"]).arg(volume.device()).arg(volume.root()), LIMIT).unwrap().ok().unwrap();
    assert!(remounted.said().contains("takes no changes any more"), "{remounted}");
    let line = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = line.lines().find(|line| line.split(' ').nth(1) == volume.root().to_str()).unwrap().to_owned();
    assert!(line.split(' ').nth(3).unwrap().split(',').any(|word| word == "ro"), "{line}");
    all_there(&volume);
    assert!(volume.umount().is_err(), "what was not synced may be missing, and that is said");
    volume.kill();
    assert_clean(&volume);
    let said = format!("{:#}", volume.mount().expect_err("there is no room for a checkpoint"));
    assert!(said.contains("no room left") && said.contains("-o ro"), "{said}");
    volume.set_options(["ro"]);
    volume.mount().unwrap();
    all_there(&volume);
    volume.umount().unwrap();
    // With room below it goes on as if nothing had been.
    below.sized("200M", "remount,");
    volume.set_options([""; 0]);
    volume.mount().unwrap();
    all_there(&volume);
    fs::write(volume.path("more"), Pattern(1).bytes(0, 5 << 20)).unwrap();
    volume.umount().unwrap();
    assert_clean(&volume);
}

/// Sets feature bits in every superblock of an image.
fn set_features(image: &Path, features: fs_format::Features) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut found = 0;
    let mut block = [0; 4096];
    for at in (0..file.metadata().unwrap().len()).step_by(4096) {
        file.read_exact_at(&mut block, at).unwrap();
        if let Ok(superblock) = fs_format::Superblock::decode(&block) {
            let changed = fs_format::Superblock { features, ..superblock };
            file.write_all_at(&changed.encode()[..], at).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "an image has superblocks");
}

#[test]
fn features_of_the_future_are_refused_or_read_only() {
    let Some((directory, mut volume)) = volume_with_contents() else {
        return;
    };
    let point = directory.path().join("elsewhere");
    fs::create_dir(&point).unwrap();
    let none = fs_format::Features::default();
    set_features(volume.device(), fs_format::Features { incompatible: 1 << 40, ..none });
    let before = fs::read(volume.device()).unwrap();
    refused(&mount(volume.device(), &point), &["feature"]);
    refused(&run("fsck.ferryfs", &[Path::new("-n"), volume.device()]), &["feature"]);
    set_features(volume.device(), fs_format::Features { read_only: 1 << 40, ..none });
    refused(&mount(volume.device(), &point), &["-o ro"]);
    volume.set_options(["ro"]);
    volume.mount().unwrap();
    assert_eq!(Pattern(3).mismatch(0, &fs::read(volume.path("d/f3")).unwrap()), None);
    assert_eq!(errno(fs::write(volume.path("d/new"), b"x")), libc::EROFS);
    volume.umount().unwrap();
    set_features(volume.device(), fs_format::Features { incompatible: 1 << 40, ..none });
    assert!(before == fs::read(volume.device()).unwrap(), "not a byte was written by any of it");
    set_features(volume.device(), fs_format::Features { compatible: 1 << 40, ..none });
    volume.set_options([""; 0]);
    volume.mount().unwrap();
    volume.umount().unwrap();
    assert_clean(&volume);
}
