//! Names: making, listing, linking, renaming and removing.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use tests::{Mounted, errno};

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[test]
fn files_are_made_read_listed_and_removed() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let at = |name: &str| mounted.path(name);
    fs::write(at("a"), b"contents of a").unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/b"), b"").unwrap();
    assert_eq!(fs::read(at("a")).unwrap(), b"contents of a");
    assert_eq!(names(mounted.root()), BTreeSet::from(["a".into(), "d".into()]));
    assert_eq!(names(&at("d")), BTreeSet::from(["b".into()]));
    assert_eq!(errno(fs::create_dir(at("d"))), libc::EEXIST);
    assert_eq!(errno(fs::File::create_new(at("a"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(at("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(at("a"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(at("d"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_file(at("x"))), libc::ENOENT);
    assert_eq!(errno(fs::read(at("a/x"))), libc::ENOTDIR);
    fs::remove_file(at("d/b")).unwrap();
    fs::remove_dir(at("d")).unwrap();
    fs::remove_file(at("a")).unwrap();
    assert!(names(mounted.root()).is_empty());
    mounted.finish();
}

#[test]
fn everything_is_there_after_a_clean_remount() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    for directory in 0..20 {
        fs::create_dir(mounted.path(format!("d{directory}"))).unwrap();
        for file in 0..20 {
            fs::write(mounted.path(format!("d{directory}/f{file}")), vec![file; directory * 1000]).unwrap();
        }
    }
    mounted.remount();
    for directory in 0..20 {
        assert_eq!(names(&mounted.path(format!("d{directory}"))).len(), 20);
        for file in 0..20 {
            let read = fs::read(mounted.path(format!("d{directory}/f{file}"))).unwrap();
            assert_eq!(read, vec![file; directory * 1000]);
        }
    }
    mounted.finish();
}

#[test]
fn names_may_hold_any_byte_and_255_of_them() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let strange: Vec<Vec<u8>> = vec![
        b"with blank and \n newline".to_vec(),
        (1..=255u8).filter(|b| *b != b'/').take(200).collect(),
        (128..=255u8).collect(),
        vec![b'x'; 255],
        "ÄÖÜ漢字🦀".as_bytes().to_vec(),
        b"...".to_vec(),
    ];
    for name in &strange {
        fs::write(mounted.path(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let long = vec![b'y'; 256];
    let long = mounted.path(std::ffi::OsStr::from_bytes(&long));
    assert_eq!(errno(fs::write(&long, b"")), libc::ENAMETOOLONG);
    mounted.remount();
    for name in &strange {
        assert_eq!(&fs::read(mounted.path(std::ffi::OsStr::from_bytes(name))).unwrap(), name);
    }
    assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), strange.len());
    mounted.finish();
}

#[test]
fn link_counts_follow_links_and_subdirectories() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let at = |name: &str| mounted.path(name);
    fs::write(at("a"), b"one").unwrap();
    fs::hard_link(at("a"), at("b")).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::hard_link(at("a"), at("d/c")).unwrap();
    let a = fs::metadata(at("a")).unwrap();
    assert_eq!((a.nlink(), a.ino()), (3, fs::metadata(at("d/c")).unwrap().ino()));
    fs::OpenOptions::new().append(true).open(at("b")).unwrap().write_all(b" two").unwrap();
    assert_eq!(fs::read(at("d/c")).unwrap(), b"one two");
    assert_eq!(fs::metadata(at("d")).unwrap().nlink(), 2);
    fs::create_dir(at("d/e")).unwrap();
    assert_eq!(fs::metadata(at("d")).unwrap().nlink(), 3);
    fs::remove_dir(at("d/e")).unwrap();
    assert_eq!(fs::metadata(at("d")).unwrap().nlink(), 2);
    fs::remove_file(at("a")).unwrap();
    assert_eq!(fs::metadata(at("b")).unwrap().nlink(), 2);
    assert_eq!(errno(fs::hard_link(at("d"), at("dd"))), libc::EPERM);
    assert_eq!(errno(fs::hard_link(at("b"), at("d/c"))), libc::EEXIST);
    mounted.finish();
}

#[test]
fn symbolic_links_hold_any_target() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let at = |mounted: &Mounted, name: &str| mounted.path(name);
    fs::write(at(&mounted, "a"), b"through the link").unwrap();
    symlink("a", at(&mounted, "short")).unwrap();
    symlink("nowhere/at/all", at(&mounted, "dangling")).unwrap();
    let long = "l".repeat(4095);
    symlink(&long, at(&mounted, "long")).unwrap();
    symlink("loop", at(&mounted, "loop")).unwrap();
    mounted.remount();
    assert_eq!(fs::read(at(&mounted, "short")).unwrap(), b"through the link");
    assert_eq!(fs::read_link(at(&mounted, "long")).unwrap().as_os_str().len(), 4095);
    assert_eq!(fs::symlink_metadata(at(&mounted, "long")).unwrap().len(), 4095);
    assert_eq!(errno(fs::read(at(&mounted, "dangling"))), libc::ENOENT);
    assert_eq!(errno(fs::read(at(&mounted, "loop"))), libc::ELOOP);
    assert_eq!(errno(symlink("x".repeat(4096), at(&mounted, "longer"))), libc::ENAMETOOLONG);
    fs::remove_file(at(&mounted, "short")).unwrap();
    assert!(at(&mounted, "a").exists());
    mounted.finish();
}

#[test]
fn rename_moves_replaces_and_refuses() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let at = |name: &str| mounted.path(name);
    for name in ["a", "b"] {
        fs::write(at(name), name).unwrap();
    }
    for name in ["d", "d/sub", "e", "full"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("full/x"), b"x").unwrap();
    fs::rename(at("a"), at("b")).unwrap();
    assert_eq!(fs::read(at("b")).unwrap(), b"a");
    assert!(!at("a").exists());
    fs::rename(at("b"), at("d/c")).unwrap();
    assert_eq!(fs::read(at("d/c")).unwrap(), b"a");
    // A directory over an empty directory, never over a full one, a file, or its own child.
    fs::rename(at("d"), at("e")).unwrap();
    assert_eq!(names(&at("e")), BTreeSet::from(["c".into(), "sub".into()]));
    let refused = errno(fs::rename(at("e"), at("full")));
    assert!(refused == libc::ENOTEMPTY || refused == libc::EEXIST, "{refused}");
    assert_eq!(errno(fs::rename(at("e"), at("e/sub/in"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(at("e"), at("full/x"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(at("full/x"), at("e"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(at("nothing"), at("e/x"))), libc::ENOENT);
    // Two names of one file: nothing happens.
    fs::hard_link(at("e/c"), at("e/same")).unwrap();
    fs::rename(at("e/c"), at("e/same")).unwrap();
    assert_eq!(names(&at("e")).len(), 3);
    // A directory that moves takes its link to the parent along.
    let before = (fs::metadata(at("full")).unwrap().nlink(), fs::metadata(at("e")).unwrap().nlink());
    fs::rename(at("e/sub"), at("full/sub")).unwrap();
    let after = (fs::metadata(at("full")).unwrap().nlink(), fs::metadata(at("e")).unwrap().nlink());
    assert_eq!((before.0 + 1, before.1 - 1), after);
    assert_eq!(
        fs::metadata(at("full/sub/..")).unwrap().ino(),
        fs::metadata(at("full")).unwrap().ino(),
        "the parent of a directory that was moved"
    );
    mounted.finish();
}

#[test]
fn rename_noreplace_and_exchange() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let at = |mounted: &Mounted, name: &str| mounted.path(name);
    for name in ["a", "b"] {
        fs::write(at(&mounted, name), name).unwrap();
    }
    for name in ["d", "d/inner", "other"] {
        fs::create_dir(at(&mounted, name)).unwrap();
    }
    let noreplace = |from: &Path, to: &Path| -> std::io::Result<()> { Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?) };
    assert_eq!(errno(noreplace(&at(&mounted, "a"), &at(&mounted, "b"))), libc::EEXIST);
    assert_eq!(fs::read(at(&mounted, "b")).unwrap(), b"b");
    noreplace(&at(&mounted, "a"), &at(&mounted, "a2")).unwrap();
    exchange(&at(&mounted, "a2"), &at(&mounted, "b")).unwrap();
    assert_eq!((fs::read(at(&mounted, "a2")).unwrap(), fs::read(at(&mounted, "b")).unwrap()), (b"b".into(), b"a".into()));
    // A file for a directory, across directories.
    exchange(&at(&mounted, "b"), &at(&mounted, "d/inner")).unwrap();
    assert!(at(&mounted, "b").is_dir() && at(&mounted, "d/inner").is_file());
    assert_eq!(fs::metadata(at(&mounted, "d")).unwrap().nlink(), 2);
    exchange(&at(&mounted, "d"), &at(&mounted, "other")).unwrap();
    assert_eq!(errno(exchange(&at(&mounted, "a2"), &at(&mounted, "missing"))), libc::ENOENT);
    assert_eq!(errno(exchange(&at(&mounted, "other"), &at(&mounted, "other/inner"))), libc::EINVAL);
    mounted.remount();
    assert_eq!(fs::read(at(&mounted, "other/inner")).unwrap(), b"a");
    assert!(at(&mounted, "b").is_dir());
    mounted.finish();
}

#[test]
fn a_file_that_is_open_lives_on_without_a_name() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let before = rustix::fs::statvfs(mounted.root()).unwrap().f_bavail;
    let path = mounted.path("a");
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(&vec![7; 4 << 20]).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    file.write_all(b"more").unwrap();
    file.seek(SeekFrom::Start((4 << 20) - 1)).unwrap();
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, b"\x07more");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    // Replaced by rename, too.
    fs::write(mounted.path("b"), b"old").unwrap();
    let mut old = fs::File::open(mounted.path("b")).unwrap();
    fs::write(mounted.path("c"), b"new").unwrap();
    fs::rename(mounted.path("c"), mounted.path("b")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    drop((file, old));
    fs::remove_file(mounted.path("b")).unwrap();
    mounted.remount();
    let after = rustix::fs::statvfs(mounted.root()).unwrap().f_bavail;
    assert!(after + 256 >= before, "the space of an unlinked file comes back: {before} before, {after} after");
    mounted.finish();
}

#[test]
fn a_file_that_was_open_without_a_name_is_freed_after_a_crash() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let used = |mounted: &Mounted| mounted.status().unwrap().number("space/used").unwrap();
    fs::write(mounted.path("kept"), b"kept").unwrap();
    let before = used(&mounted);
    let file = fs::File::create_new(mounted.path("a")).unwrap();
    (&file).write_all(&vec![7; 8 << 20]).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(mounted.path("a")).unwrap();
    file.sync_all().unwrap();
    mounted.crash();
    drop(file);
    assert!(!mounted.path("a").exists());
    // Freeing is done in steps; a clean remount waits for them.
    mounted.remount();
    let after = used(&mounted);
    assert!(after < before + (1 << 20), "used {before} before and {after} after");
    assert_eq!(fs::read(mounted.path("kept")).unwrap(), b"kept");
    mounted.finish();
}

#[test]
fn a_large_directory_lists_each_name_once() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let directory = mounted.path("many");
    fs::create_dir(&directory).unwrap();
    let count = if tests::skip::quick() { 2_000 } else { 12_000 };
    for n in 0..count {
        fs::File::create_new(directory.join(format!("entry-{n}"))).unwrap();
    }
    let expected: BTreeSet<String> = (0..count).map(|n| format!("entry-{n}")).collect();
    let listed: Vec<String> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed.len(), count, "none twice");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
    mounted.remount();
    assert_eq!(names(&directory), expected);
    for n in (0..count).step_by(2) {
        fs::remove_file(directory.join(format!("entry-{n}"))).unwrap();
    }
    assert_eq!(names(&directory).len(), count / 2);
    fs::remove_dir_all(&directory).unwrap();
    mounted.finish();
}

#[test]
fn a_listing_with_changes_beside_it_misses_nothing_that_stayed() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let directory = mounted.path("d");
    fs::create_dir(&directory).unwrap();
    for n in 0..3000 {
        fs::File::create_new(directory.join(format!("stays-{n}"))).unwrap();
        fs::File::create_new(directory.join(format!("goes-{n}"))).unwrap();
    }
    let mut seen = Vec::new();
    for (n, entry) in fs::read_dir(&directory).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        // While it is read, some go and others come.
        if n < 3000 {
            fs::remove_file(directory.join(format!("goes-{n}"))).unwrap();
            fs::File::create_new(directory.join(format!("comes-{n}"))).unwrap();
        }
    }
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "none twice");
    assert_eq!(seen.iter().filter(|name| name.starts_with("stays-")).count(), 3000, "none missed");
    mounted.finish();
}

#[test]
fn a_deep_path_works() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    // Made step by step by relative names: a path itself may have 4,095 bytes only.
    let mut path = mounted.root().to_path_buf();
    for level in 0..120 {
        path.push(format!("level-{level}-{}", "x".repeat(15)));
        fs::create_dir(&path).unwrap();
    }
    fs::write(path.join("leaf"), b"deep").unwrap();
    mounted.remount();
    assert_eq!(fs::read(path.join("leaf")).unwrap(), b"deep");
    fs::remove_dir_all(mounted.path(format!("level-0-{}", "x".repeat(15)))).unwrap();
    mounted.finish();
}

#[test]
fn many_threads_make_and_remove_names_in_one_directory() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let directory = mounted.path("shared");
    fs::create_dir(&directory).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let directory = &directory;
            scope.spawn(move || {
                for n in 0..200 {
                    let (a, b) = (directory.join(format!("{thread}-{n}")), directory.join(format!("{thread}-{n}-moved")));
                    fs::write(&a, format!("{thread} {n}")).unwrap();
                    fs::rename(&a, &b).unwrap();
                    if n % 2 == 0 {
                        fs::remove_file(&b).unwrap();
                    }
                }
            });
        }
    });
    let left = names(&directory);
    assert_eq!(left.len(), 8 * 100);
    for name in left {
        let text = fs::read_to_string(directory.join(&name)).unwrap();
        assert_eq!(format!("{}-moved", text.replace(' ', "-")), name);
    }
    mounted.finish();
}

/// `struct file_handle` with room for what FUSE puts into it.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

impl Handle {
    fn of(path: &Path) -> Handle {
        let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut mount_id = 0i32;
        // SAFETY: a path with its end, and room for as many bytes as the handle says.
        let made =
            unsafe { libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, name.as_ptr(), &raw mut handle, &raw mut mount_id, 0) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        handle
    }

    fn open(&mut self, root: &fs::File) -> std::io::Result<fs::File> {
        // SAFETY: the handle is one that the kernel filled in.
        let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, root.as_raw_fd(), &raw mut *self, libc::O_RDONLY | libc::O_CLOEXEC) };
        // SAFETY: a new descriptor, which nobody else knows.
        if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(unsafe { fs::File::from_raw_fd(fd as i32) }) }
    }
}

fn may_open_handles() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        tests::skip::skip("only root may open handles");
    }
    may
}

#[test]
fn a_handle_of_a_file_that_was_removed_is_stale() {
    let Some(mounted) = may_open_handles().then(Mounted::new).flatten() else {
        return;
    };
    let root = fs::File::open(mounted.root()).unwrap();
    for n in 0..200 {
        let path = mounted.path(format!("f{n}"));
        fs::write(&path, b"x").unwrap();
        let mut handle = Handle::of(&path);
        handle.open(&root).unwrap();
        fs::remove_file(&path).unwrap();
        // The kernel has the inode, and asks nobody, until what was closed above is released: it says so in the background.
        let begun = std::time::Instant::now();
        let mut said = errno(handle.open(&root));
        while said == 0 && begun.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(1));
            said = errno(handle.open(&root));
        }
        assert_eq!(said, libc::ESTALE, "{n}");
    }
    drop(root);
    mounted.finish();
}

/// A new volume counts its inodes from the same number on: the old handles must lead to none of them.
#[test]
fn a_handle_is_good_over_remounts_and_leads_to_nothing_in_another_volume() {
    let Some(mut mounted) = may_open_handles().then(Mounted::new).flatten() else {
        return;
    };
    let make = |mounted: &Mounted, content: &str| {
        fs::create_dir_all(mounted.path("d/e")).unwrap();
        fs::write(mounted.path("d/e/f"), content).unwrap();
        ["d/e/f", "d/e"].map(|name| (Handle::of(&mounted.path(name)), fs::metadata(mounted.path(name)).unwrap().ino()))
    };
    let mut handles = make(&mounted, "of the first");
    mounted.remount();
    let root = fs::File::open(mounted.root()).unwrap();
    for (handle, ino) in &mut handles {
        assert_eq!(handle.open(&root).unwrap().metadata().unwrap().ino(), *ino);
    }
    assert_eq!(std::io::read_to_string(handles[0].0.open(&root).unwrap()).unwrap(), "of the first");
    drop(root);
    let Some(volume) = mounted.volume() else {
        return;
    };
    volume.umount().unwrap();
    std::fs::remove_file(volume.device()).unwrap();
    volume.format().and_then(harness::Outcome::ok).unwrap();
    volume.mount().unwrap();
    let new = make(&mounted, "of the second");
    assert_eq!(new.each_ref().map(|(_, ino)| *ino), handles.each_ref().map(|(_, ino)| *ino), "the same numbers");
    let root = fs::File::open(mounted.root()).unwrap();
    for (handle, ino) in &mut handles {
        assert_eq!(errno(handle.open(&root)), libc::ESTALE, "inode {ino}");
    }
    drop(root);
    mounted.finish();
}
