//! Modes, owners, times and extended attributes.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use tests::{Mounted, errno};

fn set_times(path: &Path, access: (i64, i64), modification: (i64, i64)) {
    let spec = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: spec(access), last_modification: spec(modification) };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mtime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}

fn ctime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ctime(), metadata.ctime_nsec())
}

#[test]
fn modes_and_owners_are_kept() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    fs::write(&path, b"x").unwrap();
    fs::create_dir(mounted.path("d")).unwrap();
    symlink("f", mounted.path("l")).unwrap();
    fs::set_permissions(mounted.path("d"), fs::Permissions::from_mode(0o1733)).unwrap();
    chown(&path, Some(4242), Some(u32::MAX - 1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6751)).unwrap();
    lchown(mounted.path("l"), Some(7), Some(8)).unwrap();
    mounted.remount();
    let f = fs::metadata(&path).unwrap();
    assert_eq!((f.mode() & 0o7777, f.uid(), f.gid()), (0o6751, 4242, u32::MAX - 1));
    assert_eq!(fs::metadata(mounted.path("d")).unwrap().mode() & 0o7777, 0o1733);
    let l = fs::symlink_metadata(mounted.path("l")).unwrap();
    assert_eq!((l.uid(), l.gid()), (7, 8));
    mounted.finish();
}

#[test]
fn others_are_kept_out() {
    let Some(mounted) = tests::Builder::default().option("allow_other").mount() else {
        return;
    };
    fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("secret", 0o600), ("public", 0o644)] {
        fs::write(mounted.path(name), name).unwrap();
        fs::set_permissions(mounted.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let as_nobody = |script: &str| {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sh");
        // From inside: the directories above may be closed to others.
        command.args(["-c", script]).current_dir(mounted.root()).uid(65534).gid(65534);
        harness::run(&mut command, std::time::Duration::from_secs(30)).unwrap()
    };
    assert_eq!(as_nobody("cat public").stdout, "public");
    assert!(as_nobody("cat secret").stderr.contains("ermission denied"));
    assert!(!as_nobody("echo x > new").success());
    assert!(!as_nobody("rm -f public").success());
    mounted.finish();
}

#[test]
fn times_have_nanoseconds_and_may_lie_before_1970() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let cases = [
        ("now", (1_700_000_000, 123_456_789), (1_700_000_001, 987_654_321)),
        ("future", (4_102_444_800, 1), (7_258_118_400, 999_999_999)),
        ("whole", (-86_400, 0), (-1_000_000_000, 0)),
    ];
    for (name, access, modification) in cases {
        fs::write(mounted.path(name), b"").unwrap();
        set_times(&mounted.path(name), access, modification);
    }
    symlink("now", mounted.path("link")).unwrap();
    set_times(&mounted.path("link"), (5, 6), (7, 8));
    mounted.remount();
    for (name, access, modification) in cases {
        let metadata = fs::metadata(mounted.path(name)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), modification, "{name}");
        assert_eq!((metadata.atime(), metadata.atime_nsec()), access, "{name}");
    }
    assert_eq!(mtime(&mounted.path("link")), (7, 8));
    assert_eq!(mtime(&mounted.path("now")), (1_700_000_001, 987_654_321));
    mounted.finish();
}

#[test]
fn operations_move_the_right_times() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let (directory, file) = (mounted.path("d"), mounted.path("d/f"));
    fs::create_dir(&directory).unwrap();
    fs::write(&file, b"x").unwrap();
    let old = (1_000_000_000, 0);
    let age = || {
        set_times(&directory, old, old);
        set_times(&file, old, old);
    };
    age();
    File::options().append(true).open(&file).unwrap().set_len(0).unwrap();
    assert!(mtime(&file) > old && mtime(&directory) == old, "truncating");
    age();
    fs::write(&file, b"y").unwrap();
    assert!(mtime(&file) > old && mtime(&directory) == old, "writing");
    age();
    fs::hard_link(&file, mounted.path("d/g")).unwrap();
    assert!(mtime(&file) == old && mtime(&directory) > old, "linking");
    let before = ctime(&file);
    age();
    fs::remove_file(mounted.path("d/g")).unwrap();
    assert!(mtime(&directory) > old && ctime(&file) > before, "unlinking");
    age();
    let before = ctime(&file);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(mtime(&file) == old && ctime(&file) > before, "changing the mode");
    age();
    fs::create_dir(mounted.path("d/sub")).unwrap();
    assert!(mtime(&directory) > old, "mkdir");
    age();
    fs::rename(mounted.path("d/sub"), mounted.path("sub")).unwrap();
    assert!(mtime(&directory) > old, "renaming away");
    mounted.finish();
}

#[test]
fn extended_attributes_of_every_size() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    fs::write(&path, b"").unwrap();
    let on_peer = std::env::var_os("FERRYFS_TEST_PEER").is_some();
    let sizes: &[usize] = if on_peer { &[0, 1, 255] } else { &[0, 1, 255, 4000, 4096, 5000, 65_536] };
    for size in sizes {
        let value = harness::Pattern(*size as u64).bytes(0, *size);
        xattr::set(&path, format!("user.size-{size}"), &value).unwrap();
    }
    xattr::set(&path, "trusted.ours", b"t").unwrap();
    xattr::set(mounted.root(), "user.root", b"of the volume").unwrap();
    mounted.remount();
    for size in sizes {
        let value = xattr::get(&path, format!("user.size-{size}")).unwrap();
        assert_eq!(value, Some(harness::Pattern(*size as u64).bytes(0, *size)), "{size}");
    }
    let mut listed: Vec<String> = xattr::list(&path).unwrap().map(|n| n.into_string().unwrap()).collect();
    listed.retain(|name| name.starts_with("user.") || name.starts_with("trusted."));
    assert_eq!(listed.len(), sizes.len() + 1);
    assert_eq!(xattr::get(mounted.root(), "user.root").unwrap().as_deref(), Some(&b"of the volume"[..]));
    assert_eq!(xattr::get(&path, "user.none").unwrap(), None);
    assert_eq!(errno(xattr::remove(&path, "user.none")), libc::ENODATA);
    xattr::set(&path, "user.size-1", b"replaced by a longer value").unwrap();
    assert_eq!(xattr::get(&path, "user.size-1").unwrap().unwrap(), b"replaced by a longer value");
    for size in sizes {
        xattr::remove(&path, format!("user.size-{size}")).unwrap();
    }
    assert_eq!(xattr::list(&path).unwrap().filter(|n| n.to_string_lossy().starts_with("user.")).count(), 0);
    mounted.finish();
}

#[test]
fn extended_attributes_obey_create_and_replace() {
    use rustix::fs::{XattrFlags, setxattr};
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    fs::write(&path, b"").unwrap();
    let set = |flags| setxattr(&path, "user.a", b"v", flags).map_err(std::io::Error::from);
    assert_eq!(errno(set(XattrFlags::REPLACE)), libc::ENODATA);
    set(XattrFlags::CREATE).unwrap();
    assert_eq!(errno(set(XattrFlags::CREATE)), libc::EEXIST);
    set(XattrFlags::REPLACE).unwrap();
    let long = format!("user.{}", "n".repeat(255));
    assert_eq!(errno(xattr::set(&path, long, b"")), libc::ERANGE);
    mounted.finish();
}

#[test]
fn a_write_hint_is_an_attribute_and_the_kernel_keeps_its_own_to_itself() {
    if std::env::var_os("FERRYFS_TEST_PEER").is_some() {
        return;
    }
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    const HINT: &str = "user.ferryfs.write_hint";
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    assert_eq!(xattr::get(&dir, HINT).unwrap(), None);
    assert_eq!(errno(xattr::set(&dir, HINT, b"brief")), libc::EINVAL);
    xattr::set(&dir, HINT, b"short").unwrap();
    fs::write(dir.join("f"), b"x").unwrap();
    mounted.remount();
    assert_eq!(xattr::get(dir.join("f"), HINT).unwrap().as_deref(), Some(&b"short"[..]));
    assert!(xattr::list(dir.join("f")).unwrap().any(|name| name == HINT));
    xattr::remove(dir.join("f"), HINT).unwrap();
    assert_eq!(errno(xattr::remove(dir.join("f"), HINT)), libc::ENODATA);
    // F_SET_RW_HINT succeeds, for Linux keeps it in its own inode, and asks no daemon.
    let file = File::open(dir.join("f")).unwrap();
    let hint: u64 = 2;
    // SAFETY: F_SET_RW_HINT (1036) reads a u64, which outlives the call.
    let done = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), 1036, &raw const hint) };
    assert_eq!(done, 0);
    drop(file);
    assert_eq!(xattr::get(dir.join("f"), HINT).unwrap(), None);
    mounted.finish();
}

#[test]
fn writing_clears_set_id_bits() {
    let Some(mounted) = tests::Builder::default().option("allow_other").mount() else {
        return;
    };
    fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = mounted.path("f");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    let mut command = std::process::Command::new("sh");
    {
        use std::os::unix::process::CommandExt;
        command.args(["-c", "echo more >> f"]).current_dir(mounted.root()).uid(65534).gid(65534);
    }
    harness::run(&mut command, std::time::Duration::from_secs(30)).unwrap().ok().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    mounted.finish();
}

#[test]
fn trusted_names_are_roots() {
    if !rustix::process::geteuid().is_root() {
        tests::skip::skip("only root may set trusted attributes");
        return;
    }
    let Some(mounted) = tests::Builder::default().option("allow_other").mount() else {
        return;
    };
    fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = mounted.path("f");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    for name in ["trusted.a", "user.b", "trusted.c"] {
        xattr::set(&file, name, b"v").unwrap();
    }
    let mut names: Vec<_> = xattr::list(&file).unwrap().map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["trusted.a", "trusted.c", "user.b"]);
    let seen = std::thread::scope(|scope| {
        let other = || {
            // SAFETY: both calls change this thread's identity alone, and it ends here.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
            }
            xattr::list(&file).unwrap().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        scope.spawn(other).join().unwrap()
    });
    assert_eq!(seen, ["user.b"]);
    mounted.finish();
}

/// Who may keep set-id bits is a matter of CAP_FSETID, not of the number of the user.
#[test]
fn set_id_bits_stay_for_those_who_may_keep_them() {
    let Some(mounted) = tests::Builder::default().option("allow_other").mount() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return tests::skip::skip("only root can give capabilities and take them");
    }
    fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(mounted.path("source"), [7; 8192]).unwrap();
    let path = mounted.path("f");
    let after = |who: &[&str], script: &str| {
        fs::write(&path, [1; 8192]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        let mut command = std::process::Command::new("setpriv");
        command.args(who).args(["sh", "-ec", script]).current_dir(mounted.root());
        harness::run(&mut command, std::time::Duration::from_secs(30)).unwrap().ok().unwrap();
        fs::metadata(&path).unwrap().mode() & 0o7777
    };
    let someone = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let entitled = [&someone[..], &["--inh-caps", "+fsetid", "--ambient-caps", "+fsetid"]].concat();
    let bare_root = ["--inh-caps", "-fsetid", "--bounding-set", "-fsetid"];
    for script in ["printf x >> f", "truncate -s 10 f", "truncate -s 100000 f", ": > f", "fallocate -l 100000 f", "cp source f"] {
        assert_eq!(after(&someone, script), 0o777, "{script} by somebody");
        assert_eq!(after(&bare_root, script), 0o777, "{script} by root without the capability");
        assert_eq!(after(&entitled, script), 0o6777, "{script} by somebody with the capability");
        assert_eq!(after(&["--nnp"], script), 0o6777, "{script} by root");
    }

    // A copy into a file that is not cut first.
    let copy = || {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        let (from, to) = (File::open(mounted.path("source")).unwrap(), fs::OpenOptions::new().write(true).open(&path).unwrap());
        assert_eq!(rustix::fs::copy_file_range(&from, None, &to, None, 4097).unwrap(), 4097);
        fs::metadata(&path).unwrap().mode() & 0o7777
    };
    assert_eq!(copy(), 0o6777, "root");
    let bare = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Capabilities are a thread's own.
            let mut mine = rustix::thread::capabilities(None).unwrap();
            mine.effective.remove(rustix::thread::CapabilitySet::FSETID);
            rustix::thread::set_capabilities(None, mine).unwrap();
            copy()
        });
        thread.join().unwrap()
    });
    assert_eq!(bare, 0o777, "root without the capability");
    mounted.finish();
}

/// Set-group-id of a file that its group cannot execute goes with the changes of those outside of the group, and stays for its members.
#[test]
fn set_gid_without_execution_goes_with_changes_from_outside_the_group() {
    let Some(mounted) = tests::Builder::default().option("allow_other").mount() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return tests::skip::skip("only root can become somebody else");
    }
    const GROUP: u32 = 60_123;
    fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(mounted.path("source"), [7; 8192]).unwrap();
    let path = mounted.path("f");
    let after = |mode: u32, owner: u32, groups: &[&str], script: &str| {
        let _ = fs::remove_file(&path);
        fs::write(&path, [1; 65536]).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(GROUP)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534"]).args(groups).args(["sh", "-ec", script]).current_dir(mounted.root());
        harness::run(&mut command, std::time::Duration::from_secs(30)).unwrap().ok().unwrap();
        let seen = fs::metadata(&path).unwrap().mode() & 0o7777;
        // What the volume has, and not the kernel's memory alone.
        let listed = std::process::Command::new("stat").args(["--cached=never", "-c", "%a"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), format!("{seen:o}"), "{script}");
        seen
    };
    let outside = ["--regid", "65534", "--clear-groups"];
    let member = ["--regid", "65534", "--groups", "60122,60123,60124"];
    let primary = ["--regid", "60123", "--clear-groups"];
    for script in [
        "printf x >> f",
        "printf x | dd of=f conv=notrunc status=none",
        "dd if=source of=f bs=4096 count=1 oflag=direct conv=notrunc status=none",
        "truncate -s 10 f",
        "truncate -s 100000 f",
        ": > f",
        "fallocate -l 200000 f",
        "fallocate -n -l 200000 f",
        "fallocate -p -o 4096 -l 8192 f",
        "fallocate -z -o 100 -l 8192 f",
        "cp source f",
    ] {
        assert_eq!(after(0o2666, 0, &outside, script), 0o666, "{script} from outside");
        assert_eq!(after(0o6666, 0, &outside, script), 0o666, "{script} from outside, with set-user-id");
        for group in [&member[..], &primary] {
            assert_eq!(after(0o2666, 0, group, script), 0o2666, "{script} by a member: {group:?}");
            assert_eq!(after(0o6666, 0, group, script), 0o2666, "{script} by a member, with set-user-id: {group:?}");
            assert_eq!(after(0o2676, 0, group, script), 0o676, "{script} by a member, of a program: {group:?}");
        }
    }
    // A copy into what is open, by a thread that is somebody else than its process.
    let copied = |groups: &'static [u32]| {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2666)).unwrap();
        let copy = || {
            let (from, to) = (File::open(mounted.path("source")).unwrap(), fs::OpenOptions::new().write(true).open(&path).unwrap());
            // SAFETY: these calls change this thread's identity alone, and it ends here; the list of groups outlives the call.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
            }
            assert_eq!(rustix::fs::copy_file_range(&from, None, &to, None, 8192).unwrap(), 8192);
        };
        std::thread::scope(|scope| scope.spawn(copy).join().unwrap());
        fs::metadata(&path).unwrap().mode() & 0o7777
    };
    assert_eq!((copied(&[]), copied(&[GROUP]), copied(&[GROUP - 1])), (0o666, 0o2666, 0o666));
    // An owner outside of the group gives it to his own.
    let other_group = ["--regid", "65534", "--groups", "60122"];
    assert_eq!(after(0o2666, 65534, &other_group, "chgrp 60122 f"), 0o666);
    assert_eq!(after(0o2666, 65534, &member, "chgrp 60122 f"), 0o2666);
    mounted.finish();
}
