//! The options of mkfs.ferryfs and of mounting, each with what it does.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::mounted::{assert_clean, programs};
use tests::{Builder, errno};

const LIMIT: Duration = Duration::from_secs(120);

fn mkfs(arguments: &[&str], device: &std::path::Path) -> harness::Outcome {
    let mut command = programs().command("mkfs.ferryfs").unwrap();
    harness::run(command.args(arguments).arg(device), LIMIT).unwrap()
}

#[test]
fn every_size_of_volume_and_zone_can_be_used() {
    // Size, zone size, and what to do with it: the smallest, odd proportions, large sparse ones.
    let table = [
        ("64M", "1M"),
        ("64M", "2M"),
        ("100M", "1M"),
        ("128M", "4M"),
        ("512M", "16M"),
        ("4G", "16M"),
        ("4G", "128M"),
        ("64G", "1G"),
        ("64G", "2G"),
        ("8G", "1M"),
    ];
    for (size, zone) in table {
        for profile in ["zns", "conventional"] {
            let format = format!("--size {size} --zone-size {zone} --profile {profile}");
            let Some((directory, mut volume)) = Builder::default().format(&format).create() else {
                return;
            };
            volume.mount().unwrap_or_else(|error| panic!("{format}: {error:#}"));
            fs::write(volume.path("f"), vec![1; 3 << 20]).unwrap_or_else(|error| panic!("{format}: {error}"));
            volume.remount().unwrap_or_else(|error| panic!("{format}: {error:#}"));
            assert_eq!(fs::read(volume.path("f")).unwrap(), vec![1; 3 << 20], "{format}");
            let allocated = fs::metadata(volume.device()).unwrap().blocks() * 512;
            assert!(allocated < 200 << 20, "{format}: the image stays sparse, but takes {allocated} bytes");
            volume.umount().unwrap();
            assert_clean(&volume);
            drop((volume, directory));
        }
    }
}

#[test]
fn the_label_and_the_uuid_stay() {
    let Some((_directory, mut volume)) = Builder::default().format("--size 128M --zone-size 1M -L harbour").create() else {
        return;
    };
    volume.mount().unwrap();
    let uuid = volume.status().unwrap().text("volume/uuid").unwrap().to_owned();
    assert_eq!(volume.status().unwrap().text("volume/label").unwrap(), "harbour");
    volume.remount().unwrap();
    assert_eq!(volume.status().unwrap().text("volume/uuid").unwrap(), uuid);
}

#[test]
fn mkfs_refuses_what_makes_no_sense() {
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("new.img");
    let table: &[&[&str]] = &[
        &["--size", "1M"],
        &["--size", "0"],
        &["--size", "nonsense"],
        &["--size", "64M", "--zone-size", "64M"],
        &["--size", "64M", "--zone-size", "3000"],
        &["--size", "128M", "--zone-size", "0"],
        &["--size", "128M", "--profile", "floppy"],
        &["--size", "99999999999999T"],
        &["--no-such-option"],
        &[],
    ];
    for arguments in table {
        let outcome = mkfs(arguments, &image);
        assert!(!outcome.success() && outcome.code.is_some(), "{outcome}");
        assert!(!outcome.stderr.trim().is_empty(), "it says why: {outcome}");
        assert!(!outcome.said().contains("panicked"), "{outcome}");
        assert!(!image.exists(), "a refused mkfs leaves no file behind: {outcome}");
    }
}

#[test]
fn read_only_writes_nothing() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    fs::write(volume.path("f"), b"here").unwrap();
    volume.umount().unwrap();
    let before = fs::read(volume.device()).unwrap();
    volume.set_options(["ro"]);
    volume.mount().unwrap();
    assert!(volume.status().unwrap().value("volume/mounted_read_only").unwrap().as_bool().unwrap());
    assert_eq!(fs::read(volume.path("f")).unwrap(), b"here");
    assert_eq!(errno(fs::write(volume.path("g"), b"x")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(volume.path("f"))), libc::EROFS);
    assert_eq!(errno(File::options().write(true).open(volume.path("f"))), libc::EROFS);
    volume.umount().unwrap();
    assert!(before == fs::read(volume.device()).unwrap(), "not a byte of the image changed");
}

#[test]
fn read_only_replays_a_crash_in_memory_only() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    fs::write(volume.path("f"), b"synced before the crash").unwrap();
    File::open(volume.path("f")).unwrap().sync_all().unwrap();
    volume.kill();
    let before = fs::read(volume.device()).unwrap();
    volume.set_options(["ro"]);
    volume.mount().unwrap();
    assert_eq!(fs::read(volume.path("f")).unwrap(), b"synced before the crash");
    volume.umount().unwrap();
    assert!(before == fs::read(volume.device()).unwrap(), "not a byte of the image changed");
    assert_clean(&volume);
    assert!(before == fs::read(volume.device()).unwrap(), "fsck -n writes nothing");
}

#[test]
fn every_mount_option_is_taken() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    let table = [
        "copy_route=auto",
        "copy_route=offload",
        "copy_route=host",
        "gc=background",
        "gc=manual",
        "policy=greedy",
        "policy=cost-benefit",
        "placement=default",
        "placement=adaptive",
        "placement=none",
        "placement=separate",
        "placement=hot-warm-cold",
        "placement=dac",
        "placement=sepbit",
        "placement=midas",
        "cache_size=33554432",
        "cache_size=64M",
        "verify_copies=off",
        "verify_copies=sampled",
        "verify_copies=full",
        "commit=1",
        "commit=60",
        "discard",
        "noatime",
        "relatime",
        "allow_other",
        "rw",
        "nosuid",
        "nodev",
        "noexec",
    ];
    for (n, option) in table.iter().enumerate() {
        volume.set_options([*option]);
        volume.mount().unwrap_or_else(|error| panic!("{option}: {error:#}"));
        fs::write(volume.path(format!("f{n}")), *option).unwrap_or_else(|error| panic!("{option}: {error}"));
        volume.umount().unwrap_or_else(|error| panic!("{option}: {error:#}"));
    }
    volume.set_options(table);
    // Of options that exclude each other the last one counts.
    volume.mount().unwrap();
    for (n, option) in table.iter().enumerate() {
        assert_eq!(fs::read_to_string(volume.path(format!("f{n}"))).unwrap(), *option);
    }
    volume.umount().unwrap();
    assert_clean(&volume);
}

#[test]
fn mount_options_that_make_no_sense_are_refused() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    let table = [
        "copy_route=teleport",
        "gc=sometimes",
        "policy=no-such",
        "placement=no-such",
        "cache_size=",
        "cache_size=lots",
        "cache_size=-1",
        "verify_copies=maybe",
        "commit=soon",
        "commit=-1",
        "no_such_option",
        "no_such=option",
    ];
    for option in table {
        volume.set_options([option]);
        let error = match volume.mount() {
            Ok(_) => panic!("{option} was taken"),
            Err(error) => format!("{error:#}"),
        };
        let name = option.split('=').next().unwrap();
        assert!(error.contains(name), "the message names the option {option}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn atime_follows_the_option() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    fs::write(volume.path("f"), b"read me").unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(volume.path("f")).unwrap().set_times(fs::FileTimes::new().set_accessed(old)).unwrap();
    for (option, moves) in [("noatime", false), ("relatime", true)] {
        volume.umount().unwrap();
        volume.set_options([option]);
        volume.mount().unwrap();
        fs::read(volume.path("f")).unwrap();
        volume.remount().unwrap();
        let seen = fs::metadata(volume.path("f")).unwrap().accessed().unwrap();
        assert_eq!(seen > old, moves, "{option}");
    }
}

#[test]
fn programs_explain_themselves() {
    if tests::skip::no_mounts().is_some() {
        return tests::skip::skip("mounting needs root");
    }
    for (program, arguments) in [
        ("ferryfs", &["--help"][..]),
        ("ferryfs", &["--version"]),
        ("ferryfs", &["mount", "--help"]),
        ("mkfs.ferryfs", &["--help"]),
        ("fsck.ferryfs", &["--help"]),
    ] {
        let outcome = harness::run(programs().command(program).unwrap().args(arguments), LIMIT).unwrap();
        assert!(outcome.success() && !outcome.stdout.is_empty(), "{outcome}");
    }
    let outcome = harness::run(&mut Command::new(programs().path("ferryfs").unwrap()), LIMIT).unwrap();
    assert!(!outcome.success() && outcome.said().contains("mount"), "without arguments it says what it can do: {outcome}");
}

#[test]
fn a_copy_profile_is_used_and_status_says_why_one_is_not() {
    let Some((directory, mut volume)) = Builder::default().format("--size 128M --zone-size 1M").create() else {
        return;
    };
    let profile = directory.path().join("profile");
    let option = format!("copy_profile={}", profile.display());
    volume.set_options([option]);
    let use_of_it = |volume: &harness::Volume| {
        let status = volume.status().unwrap();
        let file = status.text("volume/devices/0/copy_profile/file").unwrap().to_owned();
        assert_eq!(std::path::Path::new(&file), profile);
        (
            status.value("volume/devices/0/copy_profile/in_use").unwrap().clone(),
            status.value("volume/devices/0/copy_profile/reason").unwrap().clone(),
        )
    };
    // A profile that cannot be used stops nothing.
    for (text, part) in [
        (None, "cannot be read"),
        (Some("{"), "no profile, or a damaged one"),
        (Some("{\"format\":\"ferrycopy profile\",\"version\":2}"), "has version 2"),
        (Some("{\"format\":\"ferrycopy profile\",\"version\":1,\"roads\":[]}"), "the profile is empty"),
    ] {
        if let Some(text) = text {
            fs::write(&profile, text).unwrap();
        }
        volume.mount().unwrap();
        let (in_use, reason) = use_of_it(&volume);
        assert_eq!(in_use, false);
        assert!(reason.as_str().unwrap().contains(part), "{reason}");
        let said = volume.ferryfs(["status".as_ref(), volume.root().as_os_str()]).unwrap().ok().unwrap().stdout;
        assert!(said.contains("not in use: "), "{said}");
        assert!(volume.log().contains(part), "{}", volume.log());
        volume.umount().unwrap();
    }
    fs::remove_file(&profile).unwrap();
    let mut calibrate = programs().command("ferrycopy").unwrap();
    // The last zones of a fresh volume are empty.
    let scratch = format!("{}:124M:4M", volume.device().display());
    calibrate.args(["caps", "--calibrate", "--scratch", &scratch, "--profile"]).arg(&profile).arg(volume.device());
    harness::run(&mut calibrate, LIMIT).unwrap().ok().unwrap();
    assert_clean(&volume);
    volume.mount().unwrap();
    assert_eq!(use_of_it(&volume), (true.into(), serde_json::Value::Null));
    fs::write(volume.path("f"), vec![5; 3 << 20]).unwrap();
    let (from, to) = (File::open(volume.path("f")).unwrap(), File::create_new(volume.path("g")).unwrap());
    from.sync_all().unwrap();
    let mut copied = 0;
    while copied < 3 << 20 {
        let n = rustix::fs::copy_file_range(&from, None, &to, None, (3 << 20) - copied).unwrap();
        assert!(n > 0);
        copied += n;
    }
    drop((from, to));
    assert!(fs::read(volume.path("g")).unwrap() == vec![5; 3 << 20]);
    volume.umount().unwrap();
    assert_clean(&volume);
}

/// mount(8) without its helpers' help: the programs under test are called as it calls them.
fn helper(volume: &harness::Volume, options: &str) -> harness::Outcome {
    let directory = TempDir::new().unwrap();
    let helper = directory.path().join("mount.fuse.ferryfs");
    std::os::unix::fs::symlink(programs().path("ferryfs").unwrap(), &helper).unwrap();
    harness::run(Command::new(helper).arg(volume.device()).arg(volume.root()).args(["-o", options]), LIMIT).unwrap()
}

/// Flags of the mount, as /proc/self/mountinfo has them.
fn flags(volume: &harness::Volume) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = volume.root().to_str().unwrap();
    let line = text.lines().rev().find(|line| line.split(' ').nth(4) == Some(root)).unwrap();
    line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect()
}

fn root_only() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        tests::skip::skip("only root may remount");
    }
    is_root
}

#[test]
fn a_remount_changes_flags_and_refuses_what_needs_a_new_mount() {
    if !root_only() {
        return;
    }
    for kind in ["fuse_type=fuse", "fuse_type=auto"] {
        let Some((_directory, mut volume)) = Builder::default().option(kind).option("nosuid").option("commit=3600").create() else {
            return;
        };
        volume.mount().unwrap();
        fs::write(volume.path("f"), b"written before").unwrap();
        let open = File::options().write(true).open(volume.path("f")).unwrap();
        let busy = helper(&volume, "remount,ro");
        assert!(!busy.success() && busy.said().contains("open for writing"), "{busy}");
        fs::write(volume.path("g"), b"it went on").unwrap();
        drop(open);
        // The list is what mount(8) makes of it.
        helper(&volume, "ro,remount,noexec,user_id=0,group_id=0,default_permissions,max_read=262144").ok().unwrap();
        for flag in ["ro", "nosuid", "noexec", "relatime"] {
            assert!(flags(&volume).contains(&flag.to_owned()), "{flag}: {:?}", flags(&volume));
        }
        let old = fs::metadata(volume.path("f")).unwrap();
        assert_eq!(fs::read(volume.path("f")).unwrap(), b"written before");
        assert_eq!(fs::metadata(volume.path("f")).unwrap().accessed().unwrap(), old.accessed().unwrap());
        assert_eq!(errno(fs::write(volume.path("h"), b"x")), libc::EROFS);
        // What was acknowledged is durable by then.
        volume.kill();
        assert_clean(&volume);
        volume.mount().unwrap();
        assert_eq!(fs::read(volume.path("g")).unwrap(), b"it went on");
        for refused in ["commit=5", "policy=greedy", "gc=manual"] {
            let outcome = helper(&volume, &format!("remount,{refused}"));
            assert!(!outcome.success() && outcome.said().contains("needs a new mount"), "{outcome}");
        }
        helper(&volume, "remount,ro,commit=3600").ok().unwrap();
        helper(&volume, "remount,rw,suid,strictatime").ok().unwrap();
        let now = flags(&volume);
        assert!(now.contains(&"rw".to_owned()) && !now.contains(&"nosuid".to_owned()) && !now.contains(&"relatime".to_owned()), "{now:?}");
        fs::write(volume.path("h"), b"written after").unwrap();
        volume.umount().unwrap();
        assert_clean(&volume);
        volume.set_options(["ro", kind]);
        volume.mount().unwrap();
        let outcome = helper(&volume, "remount,rw");
        assert!(!outcome.success() && outcome.said().contains("mount it again"), "{outcome}");
        assert!(flags(&volume).contains(&"ro".to_owned()));
        assert_eq!(fs::read(volume.path("h")).unwrap(), b"written after");
    }
}

fn accessed(path: &std::path::Path) -> (i64, i64) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.atime(), found.atime_nsec())
}

#[test]
fn strictatime_counts_every_read_and_o_noatime_none() {
    use std::os::unix::fs::OpenOptionsExt;
    let Some((_directory, mut volume)) = Builder::default().option("strictatime").create() else {
        return;
    };
    volume.mount().unwrap();
    let file = volume.path("f");
    fs::write(&file, b"read me").unwrap();
    let read = |flags| {
        let before = accessed(&file);
        std::io::read_to_string(File::options().read(true).custom_flags(flags).open(&file).unwrap()).unwrap();
        accessed(&file) > before
    };
    assert!(read(0) && read(0) && read(0), "each time it is opened");
    assert!(!read(libc::O_NOATIME) && !read(libc::O_NOATIME));
    volume.set_options(["relatime"]);
    volume.remount().unwrap();
    File::options().write(true).open(&file).unwrap().set_times(fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH)).unwrap();
    assert!(!read(libc::O_NOATIME), "by relatime it would count");
    volume.remount().unwrap();
    assert!(read(0));
    if root_only() {
        helper(&volume, "remount,strictatime").ok().unwrap();
        assert!(read(0) && read(0));
        helper(&volume, "remount,noatime").ok().unwrap();
        assert!(!read(0) && !read(0));
    }
}

#[test]
fn directories_and_links_have_access_times_too() {
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    for (option, moves) in [("noatime", [false, false]), ("nodiratime", [false, true]), ("relatime", [true, true])] {
        let (dir, link) = (volume.path("d"), volume.path("l"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("f"), b"x").unwrap();
        std::os::unix::fs::symlink("d", &link).unwrap();
        volume.set_options([option]);
        volume.remount().unwrap();
        let before = [accessed(&dir), accessed(&link)];
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::read_link(&link).unwrap();
        assert_eq!([accessed(&dir) > before[0], accessed(&link) > before[1]], moves, "{option}");
        let counted = [accessed(&dir), accessed(&link)];
        volume.remount().unwrap();
        assert_eq!([accessed(&dir), accessed(&link)], counted, "{option}: it stays");
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_file(&link).unwrap();
    }
}

#[test]
fn nosymfollow_follows_no_link() {
    if !root_only() {
        return;
    }
    let Some((_directory, mut volume)) = Builder::default().create() else {
        return;
    };
    volume.mount().unwrap();
    fs::write(volume.path("f"), b"x").unwrap();
    std::os::unix::fs::symlink("f", volume.path("l")).unwrap();
    fs::read(volume.path("l")).unwrap();
    for kind in ["fuse", "auto"] {
        volume.set_options(["nosymfollow".to_owned(), format!("fuse_type={kind}")]);
        volume.remount().unwrap();
        assert_eq!(errno(fs::read(volume.path("l"))), libc::ELOOP, "{kind}");
        assert_eq!(fs::read_link(volume.path("l")).unwrap(), std::path::Path::new("f"));
    }
}

#[test]
fn the_transport_is_told_and_may_be_chosen() {
    let Some((_directory, mut volume)) = Builder::default().option("transport=dev_fuse").create() else {
        return;
    };
    volume.mount().unwrap();
    assert_eq!(volume.status().unwrap().text("mount/transport").unwrap(), "dev_fuse");
    let shown = volume.ferryfs(["status".as_ref(), volume.root().as_os_str()]).unwrap();
    assert!(shown.stdout.lines().any(|line| line.split_whitespace().eq(["transport", "dev_fuse"])), "{shown}");
    volume.umount().unwrap();
    let is_offered = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|word| word.trim() == "Y");
    let mounted = harness::run(volume.mount_command().unwrap().args(["-o", "transport=io_uring"]), LIMIT).unwrap();
    if mounted.success() {
        let status =
            harness::Status::parse(&volume.ferryfs(["status".as_ref(), "--json".as_ref(), volume.root().as_os_str()]).unwrap().stdout)
                .unwrap();
        assert!(is_offered && status.text("mount/transport").unwrap() == "io_uring");
        volume.ferryfs(["umount".as_ref(), volume.root().as_os_str()]).unwrap().ok().unwrap();
    } else {
        // Offered by the kernel, it may still be that there is no io_uring for us.
        let forbidden = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|word| word.trim() != "0");
        assert!(!is_offered || forbidden, "{mounted}");
        assert!(mounted.stderr.contains("transport=io_uring is not possible here"), "{mounted}");
    }
}
