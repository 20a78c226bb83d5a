//! Flags of inodes: immutable, append-only, nodump and noatime.

use rustix::fs::{CWD, IFlags, RenameFlags, ioctl_getflags, ioctl_setflags, renameat_with};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use tests::{Mounted, errno};

/// The flags that can be set, among those that a filesystem may show of itself.
const OURS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND).union(IFlags::NODUMP).union(IFlags::NOATIME);

/// A volume; without root nothing can be made immutable.
fn mount() -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        tests::skip::skip("only root may set these flags");
        return None;
    }
    Mounted::new()
}

fn set(path: &Path, flags: IFlags) {
    try_set(path, flags).unwrap();
}

fn try_set(path: &Path, flags: IFlags) -> std::io::Result<()> {
    ioctl_setflags(File::open(path)?, flags).map_err(std::io::Error::from)
}

fn get(path: &Path) -> IFlags {
    ioctl_getflags(File::open(path).unwrap()).unwrap() & OURS
}

fn append(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(b"more")
}

#[test]
fn flags_are_kept_and_unknown_ones_refused() {
    let Some(mut mounted) = mount() else {
        return;
    };
    let (file, dir) = (mounted.path("f"), mounted.path("d"));
    fs::write(&file, b"x").unwrap();
    fs::create_dir(&dir).unwrap();
    assert!(get(&file).is_empty() && get(&dir).is_empty());
    set(&file, IFlags::NODUMP | IFlags::NOATIME);
    set(&dir, IFlags::APPEND);
    mounted.remount();
    assert_eq!(get(&file), IFlags::NODUMP | IFlags::NOATIME);
    assert_eq!(get(&dir), IFlags::APPEND);
    if std::env::var_os("FERRYFS_TEST_PEER").is_none() {
        assert_eq!(errno(try_set(&file, IFlags::COMPRESSED)), libc::EOPNOTSUPP);
    }
    fs::write(&file, b"nodump and noatime hinder nobody").unwrap();
    set(&file, IFlags::empty());
    set(&dir, IFlags::empty());
    assert!(get(&file).is_empty() && get(&dir).is_empty());
    mounted.finish();
}

#[test]
fn what_is_immutable_does_not_change() {
    let Some(mut mounted) = mount() else {
        return;
    };
    let (file, dir) = (mounted.path("f"), mounted.path("d"));
    fs::write(&file, b"as it is").unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("in"), b"").unwrap();
    let open = OpenOptions::new().write(true).open(&file).unwrap();
    set(&file, IFlags::IMMUTABLE);
    set(&dir, IFlags::IMMUTABLE);
    assert_eq!(errno(open.write_at(b"x", 0)), libc::EPERM, "opened before");
    assert_eq!(errno(open.set_len(0)), libc::EPERM);
    drop(open);
    mounted.remount();
    let refused = [
        ("open", File::options().write(true).open(&file).map(drop)),
        ("append", append(&file)),
        ("truncate", File::create(&file).map(drop)),
        ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o777))),
        ("chown", chown(&file, Some(1), None)),
        ("unlink", fs::remove_file(&file)),
        ("link", fs::hard_link(&file, mounted.path("g"))),
        ("rename", fs::rename(&file, mounted.path("g"))),
        ("replace", fs::write(mounted.path("other"), b"").and_then(|()| fs::rename(mounted.path("other"), &file))),
        ("xattr", xattr::set(&file, "user.a", b"v")),
        ("create in", File::create(dir.join("new")).map(drop)),
        ("mkdir in", fs::create_dir(dir.join("new"))),
        ("unlink in", fs::remove_file(dir.join("in"))),
        ("rename in", fs::rename(dir.join("in"), dir.join("out"))),
        ("move into", fs::rename(mounted.path("other"), dir.join("other"))),
        ("move out", fs::rename(dir.join("in"), mounted.path("out"))),
        ("rmdir", fs::remove_dir(&dir)),
        ("rename dir", fs::rename(&dir, mounted.path("e"))),
        ("exchange", renameat_with(CWD, mounted.path("other"), CWD, &file, RenameFlags::EXCHANGE).map_err(std::io::Error::from)),
    ];
    for (what, result) in refused {
        assert_eq!(errno(result), libc::EPERM, "{what}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"as it is");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    fs::write(dir.join("in"), b"what lies in it may change").unwrap();
    set(&file, IFlags::empty());
    set(&dir, IFlags::empty());
    append(&file).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    mounted.finish();
}

#[test]
fn what_is_append_only_grows() {
    let Some(mounted) = mount() else {
        return;
    };
    let (file, dir) = (mounted.path("f"), mounted.path("d"));
    fs::write(&file, b"one").unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("in"), b"").unwrap();
    set(&file, IFlags::APPEND);
    set(&dir, IFlags::APPEND);
    append(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"onemore");
    fs::write(dir.join("new"), b"").unwrap();
    let refused = [
        ("open", File::options().write(true).open(&file).map(drop)),
        ("truncate", File::create(&file).map(drop)),
        ("shrink", rustix::fs::ftruncate(OpenOptions::new().append(true).open(&file).unwrap(), 1).map_err(std::io::Error::from)),
        ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o777))),
        ("unlink", fs::remove_file(&file)),
        ("rename", fs::rename(&file, mounted.path("g"))),
        ("unlink in", fs::remove_file(dir.join("in"))),
        ("rename in", fs::rename(dir.join("in"), dir.join("out"))),
        ("replace in", fs::write(mounted.path("other"), b"").and_then(|()| fs::rename(mounted.path("other"), dir.join("in")))),
    ];
    for (what, result) in refused {
        assert_eq!(errno(result), libc::EPERM, "{what}");
    }
    set(&file, IFlags::empty());
    set(&dir, IFlags::empty());
    mounted.finish();
}

/// What a write takes away goes before it, by an order of its own.
#[test]
fn what_is_append_only_grows_though_privileges_go() {
    if !rustix::process::geteuid().is_root() {
        return tests::skip::skip("only root may set these flags");
    }
    let Some(mounted) = tests::Builder::default().option("allow_other").mount() else {
        return;
    };
    fs::set_permissions(mounted.root(), Permissions::from_mode(0o777)).unwrap();
    let file = mounted.path("f");
    fs::write(&file, b"one").unwrap();
    // cap_net_raw, permitted and effective (VFS_CAP_REVISION_2).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(&file, "security.capability", &capability, rustix::fs::XattrFlags::empty()).unwrap();
    set(&file, IFlags::APPEND);
    append(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"onemore");
    let left = rustix::fs::getxattr(&file, "security.capability", &mut [0u8; 64][..]);
    assert_eq!(left, Err(rustix::io::Errno::NODATA));
    set(&file, IFlags::empty());
    fs::set_permissions(&file, Permissions::from_mode(0o6777)).unwrap();
    set(&file, IFlags::APPEND);
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-ec", "printf x >> f"]).current_dir(mounted.root());
    harness::run(&mut command, std::time::Duration::from_secs(30)).unwrap().ok().unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"onemorex");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o777);
    assert_eq!(errno(fs::set_permissions(&file, Permissions::from_mode(0o700))), libc::EPERM);
    set(&file, IFlags::empty());
    mounted.finish();
}

/// The kernel cuts a large call into pieces, which come in any order unless it is told otherwise.
#[test]
fn what_is_append_only_grows_by_large_direct_calls() {
    use std::os::unix::fs::OpenOptionsExt;
    const BYTES: usize = 8 << 20;
    let Some(mounted) = mount() else {
        return;
    };
    let file = mounted.path("f");
    fs::write(&file, b"").unwrap();
    set(&file, IFlags::APPEND);
    // A mapping that begins a page.
    let pattern = harness::Pattern(3).bytes(0, BYTES + 4096);
    let aligned = pattern.as_ptr().align_offset(4096);
    let bytes = &pattern[aligned..][..BYTES];
    for round in 1..=10 {
        let mut appended = OpenOptions::new().append(true).custom_flags(libc::O_DIRECT).open(&file).unwrap();
        appended.write_all(bytes).unwrap_or_else(|error| panic!("round {round}: {error}"));
        drop(appended);
        assert_eq!(fs::metadata(&file).unwrap().len(), (round * BYTES) as u64);
    }
    // Other ways to it, and its pages, agree.
    append(&file).unwrap();
    let whole = fs::read(&file).unwrap();
    assert!(whole.len() == 10 * BYTES + 4 && whole[..10 * BYTES].chunks(BYTES).all(|part| part == bytes) && whole.ends_with(b"more"));
    set(&file, IFlags::empty());
    mounted.finish();
}

#[test]
fn setting_flags_moves_the_time_of_change_at_once() {
    use std::os::unix::fs::MetadataExt;
    let Some(mounted) = mount() else {
        return;
    };
    let changed = |path: &Path| fs::metadata(path).map(|found| (found.ctime(), found.ctime_nsec())).unwrap();
    fs::write(mounted.path("f"), b"x").unwrap();
    fs::create_dir(mounted.path("d")).unwrap();
    for path in [mounted.path("f"), mounted.path("d")] {
        for flags in [IFlags::NODUMP, IFlags::NOATIME | IFlags::APPEND, IFlags::empty()] {
            let before = changed(&path);
            set(&path, flags);
            assert!(changed(&path) > before, "{flags:?}");
        }
    }
    mounted.finish();
}

#[test]
fn of_an_append_only_file_both_times_can_be_now_and_nothing_else() {
    use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
    let Some(mounted) = mount() else {
        return;
    };
    let file = mounted.path("f");
    fs::write(&file, b"x").unwrap();
    set(&file, IFlags::APPEND);
    let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    for (access, change, allowed) in [
        (UTIME_NOW, UTIME_NOW, true),
        (UTIME_NOW, UTIME_OMIT, false),
        (UTIME_OMIT, UTIME_NOW, false),
        (UTIME_OMIT, UTIME_OMIT, true),
        (7, 7, false),
        (7, UTIME_OMIT, false),
    ] {
        let times = Timestamps { last_access: time(access), last_modification: time(change) };
        let done = utimensat(CWD, &file, &times, AtFlags::empty()).map_err(std::io::Error::from);
        match allowed {
            true => done.unwrap(),
            false => assert_eq!(errno(done), libc::EPERM, "{access} {change}"),
        }
    }
    set(&file, IFlags::empty());
    mounted.finish();
}
