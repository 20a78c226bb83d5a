//! Kinds of files other than files, directories and links.

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use tests::{Mounted, errno};

#[test]
fn fifos_carry_bytes_between_threads() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    mounted.remount();
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"through").unwrap())
    };
    let mut text = String::new();
    fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    assert_eq!(text, "through");
    mounted.finish();
}

/// With a change of owner, as those of a program; a directory keeps its own.
#[test]
fn set_id_bits_of_every_kind_but_directories_go_with_the_owner() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return tests::skip::skip("only root may give files away");
    }
    let bits = |name: &str| {
        let path = mounted.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6555)).unwrap();
        std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
        fs::metadata(&path).unwrap().mode() & 0o7777
    };
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket), ("device", FileType::CharacterDevice)] {
        mknodat(CWD, mounted.path(name), kind, Mode::from_raw_mode(0o600), makedev(1, 3)).unwrap();
        assert_eq!(bits(name), 0o555, "{name}");
    }
    fs::create_dir(mounted.path("directory")).unwrap();
    assert_eq!(bits("directory"), 0o6555);
    mounted.finish();
}

#[test]
fn sockets_can_be_bound_and_reached() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    // By way of the open directory: a socket's address holds 107 bytes, and the path of the mount may be longer.
    let root = fs::File::open(mounted.root()).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}/s", root.as_raw_fd()));
    let listener = UnixListener::bind(&path).unwrap();
    assert!(fs::metadata(mounted.path("s")).unwrap().file_type().is_socket());
    let mut near = UnixStream::connect(&path).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    near.write_all(b"hello").unwrap();
    drop(near);
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(errno(UnixListener::bind(&path)), libc::EADDRINUSE);
    fs::remove_file(&path).unwrap();
    assert!(!mounted.path("s").exists());
    drop((listener, far, root));
    mounted.finish();
}

#[test]
fn device_nodes_keep_their_numbers() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let nodes = [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("disk", FileType::BlockDevice, makedev(259, 70_000)),
        ("large", FileType::CharacterDevice, makedev(4095, 0xf_ffff)),
    ];
    for (name, kind, device) in nodes {
        mknodat(CWD, mounted.path(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    mounted.remount();
    for (name, kind, device) in nodes {
        let metadata = fs::metadata(mounted.path(name)).unwrap();
        assert_eq!(metadata.rdev(), device, "{name}");
        assert_eq!(FileType::from_raw_mode(metadata.mode()), kind, "{name}");
        assert_eq!(metadata.mode() & 0o777, 0o640, "{name}");
    }
    mounted.finish();
}

#[test]
fn mknod_makes_regular_files_too() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    mknodat(CWD, &path, FileType::RegularFile, Mode::from_raw_mode(0o644), 0).unwrap();
    fs::write(&path, b"ordinary").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ordinary");
    mounted.finish();
}
