//! Statements of SEMANTICS.md that no other test of the suite shows: limits, clean refusals, and what an fsync covers.

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, openat, renameat_with};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use tests::{Mounted, errno, sys};

fn is_peer() -> bool {
    std::env::var_os("FERRYFS_TEST_PEER").is_some()
}

#[test]
fn a_file_has_at_most_65000_names() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    fs::create_dir(mounted.path("d")).unwrap();
    let first = mounted.path("d/first");
    fs::write(&first, b"x").unwrap();
    let (mut names, refusal) = (1u64, 65_000u64);
    let error = loop {
        match fs::hard_link(&first, mounted.path(format!("d/{names}"))) {
            Ok(()) if names < refusal => names += 1,
            other => break errno(other),
        }
    };
    assert_eq!((error, names), (libc::EMLINK, refusal));
    mounted.remount();
    assert_eq!(fs::metadata(&first).unwrap().nlink(), refusal);
    fs::remove_file(&first).unwrap();
    fs::hard_link(mounted.path("d/1"), &first).unwrap();
    mounted.finish();
}

#[test]
fn what_linux_does_not_pass_on_is_refused_cleanly() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    if is_peer() {
        tests::skip::skip("other filesystems can do these things");
        return;
    }
    let file = File::options().read(true).write(true).create_new(true).open(mounted.path("f")).unwrap();
    for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
        // SAFETY: the descriptor is open.
        let refused = sys(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, 4096) });
        assert_eq!(errno(refused), libc::EOPNOTSUPP, "mode {mode}");
    }
    let clone = rustix::fs::ioctl_ficlone(&file, File::open(mounted.path("f")).unwrap()).map_err(std::io::Error::from);
    assert_eq!(errno(clone), libc::EOPNOTSUPP, "FICLONE");
    drop(file);
    mounted.finish();
}

fn nameless(mounted: &Mounted, flags: OFlags) -> File {
    File::from(openat(CWD, mounted.root(), OFlags::TMPFILE | OFlags::RDWR | flags, Mode::RUSR | Mode::WUSR).unwrap())
}

fn give_name(file: &File, path: &std::path::Path) -> std::io::Result<()> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, open, CWD, path, rustix::fs::AtFlags::SYMLINK_FOLLOW).map_err(std::io::Error::from)
}

#[test]
fn a_file_may_be_made_without_a_name_and_get_one() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let mut kept = nameless(&mounted, OFlags::empty());
    assert_eq!(kept.metadata().unwrap().nlink(), 0);
    kept.write_all(b"from nowhere").unwrap();
    assert_eq!(fs::read_dir(mounted.root()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "lost+found").count(), 0);
    give_name(&kept, &mounted.path("name")).unwrap();
    give_name(&kept, &mounted.path("second")).unwrap();
    assert_eq!(kept.metadata().unwrap().nlink(), 2);
    drop(kept);
    let private = nameless(&mounted, OFlags::EXCL);
    assert_eq!(errno(give_name(&private, &mounted.path("private"))), libc::ENOENT);
    drop(private);
    let gone = nameless(&mounted, OFlags::empty());
    give_name(&gone, &mounted.path("gone")).unwrap();
    fs::remove_file(mounted.path("gone")).unwrap();
    assert_eq!(errno(give_name(&gone, &mounted.path("again"))), libc::ENOENT, "a file that has lost its last name gets none");
    drop(gone);
    mounted.remount();
    assert_eq!(fs::read(mounted.path("second")).unwrap(), b"from nowhere");
    assert_eq!(fs::metadata(mounted.path("name")).unwrap().nlink(), 2);
    mounted.finish();
}

#[test]
fn a_file_without_a_name_takes_no_space_after_it_was_closed_or_after_a_crash() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let free = |mounted: &Mounted| rustix::fs::statvfs(mounted.root()).unwrap().f_bfree;
    fs::write(mounted.path("anything"), b"x").unwrap();
    let before = free(&mounted);
    let mut file = nameless(&mounted, OFlags::empty());
    file.write_all(&vec![7; 8 << 20]).unwrap();
    file.sync_all().unwrap();
    assert!(free(&mounted) + 2000 < before);
    mounted.crash();
    drop(file);
    assert!(free(&mounted) + 200 > before, "{} of {before} blocks are free", free(&mounted));
    let mut file = nameless(&mounted, OFlags::empty());
    file.write_all(&vec![7; 8 << 20]).unwrap();
    drop(file);
    // The kernel tells of a closed file in its own time.
    while free(&mounted) + 200 < before {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    mounted.finish();
}

#[test]
fn statx_shows_when_a_file_was_born() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    fs::write(&path, b"x").unwrap();
    let born = fs::metadata(&path).unwrap().created();
    let Ok(born) = born else {
        tests::skip::skip("this kernel asks no filesystem in user space for the time of birth (it does since 6.6)");
        return;
    };
    assert!(born.elapsed().unwrap() < std::time::Duration::from_secs(600));
    let earlier = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(&path).unwrap().set_modified(earlier).unwrap();
    mounted.remount();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.created().unwrap(), metadata.modified().unwrap()), (born, earlier));
    mounted.finish();
}

#[test]
fn loops_of_links_and_overlong_names_have_their_errors() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    symlink("b", mounted.path("a")).unwrap();
    symlink("a", mounted.path("b")).unwrap();
    assert_eq!(errno(File::open(mounted.path("a"))), libc::ELOOP);
    assert_eq!(errno(fs::create_dir(mounted.path("a/x"))), libc::ELOOP);
    let long = "n".repeat(256);
    assert_eq!(errno(File::create(mounted.path(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(mounted.path(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(mounted.path("a"), mounted.path(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(mounted.path(&long))), libc::ENAMETOOLONG);
    if !is_peer() {
        let file = File::create(mounted.path("f")).unwrap();
        assert_eq!(errno(file.set_len((1 << 44) + 1)), libc::EFBIG);
    }
    mounted.finish();
}

#[test]
fn a_rename_may_leave_a_whiteout_behind() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        tests::skip::skip("only root may make whiteouts");
        return;
    }
    fs::write(mounted.path("old"), b"x").unwrap();
    renameat_with(CWD, mounted.path("old"), CWD, mounted.path("new"), RenameFlags::WHITEOUT).unwrap();
    mounted.remount();
    let left = fs::symlink_metadata(mounted.path("old")).unwrap();
    assert!(left.file_type().is_char_device() && left.rdev() == 0);
    assert_eq!(FileType::from_raw_mode(left.mode()), FileType::CharacterDevice);
    assert_eq!(fs::read(mounted.path("new")).unwrap(), b"x");
    mounted.finish();
}

/// Names of a directory as readdir(3) gives them, each with the place (telldir) behind it, from `from` on (the start without it).
fn names_from(path: &Path, from: Option<libc::c_long>) -> Vec<(String, libc::c_long)> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut names = Vec::new();
    // SAFETY: the path is a C string; the stream is used by this thread alone, and closed at the end; an entry is read before the next call.
    unsafe {
        let dir = libc::opendir(path.as_ptr());
        assert!(!dir.is_null());
        if let Some(place) = from {
            libc::seekdir(dir, place);
        }
        loop {
            let entry = libc::readdir(dir);
            if entry.is_null() {
                break;
            }
            names.push((CStr::from_ptr((*entry).d_name.as_ptr()).to_str().unwrap().to_owned(), libc::telldir(dir)));
        }
        libc::closedir(dir);
    }
    names
}

#[test]
fn a_listing_goes_on_where_telldir_said_even_after_a_remount() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    for n in 0..700 {
        fs::write(dir.join(format!("entry {n}")), b"").unwrap();
    }
    let all = names_from(&dir, None);
    assert_eq!(all.len(), 702);
    if !is_peer() {
        mounted.remount();
    }
    for at in [0, 1, 2, 127, 128, 350, 700, 701] {
        let rest: Vec<_> = names_from(&dir, Some(all[at].1)).into_iter().map(|(name, _)| name).collect();
        let expected: Vec<_> = all[at + 1..].iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(rest, expected, "behind entry {at}");
    }
    mounted.finish();
}

#[test]
fn one_fsync_makes_everything_before_it_durable() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    fs::create_dir(mounted.path("d")).unwrap();
    fs::write(mounted.path("d/first"), b"not synced itself").unwrap();
    fs::rename(mounted.path("d/first"), mounted.path("d/renamed")).unwrap();
    let mut last = File::create(mounted.path("last")).unwrap();
    last.write_all(b"synced").unwrap();
    last.sync_data().unwrap();
    drop(last);
    mounted.crash();
    assert_eq!(fs::read(mounted.path("d/renamed")).unwrap(), b"not synced itself");
    assert!(!mounted.path("d/first").exists());
    assert_eq!(fs::read(mounted.path("last")).unwrap(), b"synced");
    mounted.finish();
}

#[test]
fn changes_become_durable_by_themselves() {
    let Some(mut mounted) = tests::Builder::default().option("commit=1").mount() else {
        return;
    };
    let flushes = |mounted: &Mounted| mounted.status().map(|status| status.number("io/flushes").unwrap());
    let mut file = fs::File::create(mounted.path("f")).unwrap();
    file.sync_all().unwrap();
    let Some(before) = flushes(&mounted) else {
        tests::skip::skip("needs FerryFS itself, and runs on a peer");
        return;
    };
    file.write_all(b"nobody synced this").unwrap();
    drop(file);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while flushes(&mounted) == Some(before) {
        assert!(std::time::Instant::now() < deadline, "nothing is flushed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    mounted.crash();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"nobody synced this");
    mounted.finish();
}
