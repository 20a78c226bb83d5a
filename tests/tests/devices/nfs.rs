//! A volume that Linux's file server exports, mounted over TCP again: everything works through it, and a handle is good for as long as its file is there,
//! whatever was forgotten or mounted anew, and no longer.

use crate::brief::volume;
use guest::machine::SCRATCH;
use guest::{Kernel, Machine};
use harness::{Pattern, Volume};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Error;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::errno::errno;
use tests::guest::in_guest;
use tests::guest::nfs::{Client, Server, Version, forget_all};
use tests::mounted::assert_clean;

const MIB: usize = 1 << 20;
const ENTRIES: usize = 3000;
/// The server lets go of files that were open a moment ago in the background.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_volume_is_exported_over_nfs() {
    in_guest(Machine::new(Kernel::Long6_12), &["modprobe"], || exported("256M"));
}

#[test]
fn a_volume_is_exported_over_nfs_under_the_new_kernel() {
    in_guest(Machine::new(Kernel::New7_3), &["modprobe"], || exported("256M"));
}

fn exported(size: &str) {
    let image = PathBuf::from(SCRATCH).join("volume.img");
    let (_directory, mut volume) = volume(&[image], &["--size", size, "--zone-size", "4M", "--force"], &[]);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    let server = Server::start(volume.root());
    let [v3, v4] = [(Version::V3, "v3"), (Version::V4_2, "v4")].map(|(version, name)| {
        let client = server.mount(version, &Path::new(SCRATCH).join(name), "");
        everything(&volume, &client, name);
        client
    });
    listed(&volume, &[&v3, &v4]);
    holes_and_attributes(&volume, &v4);
    locked(&volume, &v4);
    copied_by_the_server(&volume, &v4);
    rights(&volume, &[&v3, &v4]);
    removed(&volume, &v3);
    outlives(&mut volume, &server, [&v3, &v4]);
    after_a_crash(&mut volume, &server, [&v3, &v4]);
    formatted_anew(&mut volume, &server, &v3);
    v4.umount();
    v3.umount();
    server.stop();
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(&volume);
}

/// What anybody does with files, through the client, and seen in the volume itself.
fn everything(volume: &Volume, client: &Client, name: &str) {
    let (far, near) = (|file: &str| client.path(name).join(file), |file: &str| volume.path(name).join(file));
    fs::create_dir(client.path(name)).unwrap();
    let content = Pattern(1).bytes(0, 3 * MIB + 77);
    fs::write(far("a"), &content).unwrap();
    assert!(fs::read(near("a")).unwrap() == content, "close tells the server what was written");
    let ino = fs::metadata(near("a")).unwrap().ino();
    forget_all();
    assert!(fs::read(far("a")).unwrap() == content && fs::metadata(far("a")).unwrap().ino() == ino);
    fs::rename(far("a"), far("b")).unwrap();
    fs::hard_link(far("b"), far("c")).unwrap();
    let of_c = fs::metadata(far("c")).unwrap();
    assert_eq!((of_c.ino(), of_c.nlink(), fs::metadata(near("b")).unwrap().nlink()), (ino, 2, 2));
    fs::remove_file(far("b")).unwrap();
    assert_eq!((fs::metadata(far("c")).unwrap().nlink(), errno(fs::metadata(near("b")))), (1, libc::ENOENT));
    let file = File::options().read(true).write(true).open(far("c")).unwrap();
    file.set_len(MIB as u64 + 5).unwrap();
    file.write_all_at(b"behind", 2 * MIB as u64).unwrap();
    file.sync_all().unwrap();
    let expected = [&content[..MIB + 5], &vec![0; MIB - 5], b"behind"].concat();
    assert!(fs::read(near("c")).unwrap() == expected);
    drop(file);
    symlink("c", far("link")).unwrap();
    assert_eq!(fs::read_link(near("link")).unwrap(), Path::new("c"));
    fs::set_permissions(far("c"), Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(near("c")).unwrap().mode() & 0o7777, 0o640);
    fs::create_dir_all(far("d/e/f")).unwrap();
    fs::write(far("d/e/f/g"), b"deep").unwrap();
    // A directory that was moved is found by its handle, though the server has forgotten the way to it.
    fs::rename(near("d/e"), near("e")).unwrap();
    forget_all();
    assert_eq!(fs::read(far("e/f/g")).unwrap(), b"deep");
    assert_eq!(errno(fs::remove_dir(far("e"))), libc::ENOTEMPTY);
    fs::remove_dir_all(far("e")).unwrap();
    assert!(!near("e").exists());
    // One process at either end.
    let file = File::options().append(true).create_new(true).open(far("log")).unwrap();
    for n in 0..20u8 {
        std::io::Write::write_all(&mut &file, &[n; 100]).unwrap();
    }
    drop(file);
    let log = fs::read(near("log")).unwrap();
    assert!(log.len() == 2000 && log.chunks(100).enumerate().all(|(n, bytes)| bytes.iter().all(|&byte| usize::from(byte) == n)));
}

/// A directory of several answers, with names of every length.
fn listed(volume: &Volume, clients: &[&Client]) {
    let directory = volume.path("many");
    fs::create_dir(&directory).unwrap();
    let names: BTreeSet<String> = (0..ENTRIES).map(|n| format!("{n:04}{}", "x".repeat(n % 200))).collect();
    names.iter().for_each(|name| drop(File::create_new(directory.join(name)).unwrap()));
    for client in clients {
        let found: Vec<String> =
            fs::read_dir(client.path("many")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found.len(), ENTRIES, "names are missing or come twice");
        assert!(found.into_iter().collect::<BTreeSet<_>>() == names);
    }
}

/// NFSv4.2 has holes and allocation. It has extended attributes of users, too, but Linux passes on only those of filesystems with a handler for `user.`, and
/// FUSE has one for all names.
fn holes_and_attributes(volume: &Volume, client: &Client) {
    let (far, near) = (client.path("holes"), volume.path("holes"));
    let file = File::options().read(true).write(true).create_new(true).open(&far).unwrap();
    let content = Pattern(2).bytes(0, MIB);
    file.write_all_at(&content, 0).unwrap();
    file.sync_all().unwrap();
    let allocate = |mode: libc::c_int, offset: i64, length: i64| {
        // SAFETY: a call with a descriptor that is open, and numbers.
        let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) };
        assert_eq!(done, 0, "{}", Error::last_os_error());
    };
    allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 256 << 10, 128 << 10);
    allocate(0, MIB as i64, 64 << 10);
    let mut expected = content;
    expected[256 << 10..384 << 10].fill(0);
    expected.resize(MIB + (64 << 10), 0);
    assert!(fs::read(&near).unwrap() == expected && fs::read(&far).unwrap() == expected);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 256 << 10);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(256 << 10)).unwrap(), 384 << 10);
    match errno(xattr::set(&far, "user.colour", b"green")) {
        0 => assert_eq!(xattr::get(&near, "user.colour").unwrap().as_deref(), Some(&b"green"[..])),
        refused => assert_eq!(refused, libc::EOPNOTSUPP),
    }
}

/// Locks of a client exclude whoever works in the volume itself.
fn locked(volume: &Volume, client: &Client) {
    fs::write(volume.path("locked"), b"x").unwrap();
    let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
    let (far, near) = (open(&client.path("locked")), open(&volume.path("locked")));
    let lock = |file: &File, kind: libc::c_int| {
        // SAFETY: all of it is numbers.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        (lock.l_type, lock.l_len) = (kind as _, 1);
        // SAFETY: a descriptor that is open, and a lock that outlives the call.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    };
    lock(&far, libc::F_WRLCK).unwrap();
    assert_eq!(errno(lock(&near, libc::F_RDLCK)), libc::EAGAIN);
    lock(&far, libc::F_UNLCK).unwrap();
    lock(&near, libc::F_WRLCK).unwrap();
    assert_eq!(errno(lock(&far, libc::F_RDLCK)), libc::EAGAIN);
    drop(near);
    lock(&far, libc::F_RDLCK).unwrap();
}

/// copy_file_range at the client is a COPY of the server's, which is one of ours.
fn copied_by_the_server(volume: &Volume, client: &Client) {
    let content = Pattern(3).bytes(0, 8 * MIB);
    fs::write(client.path("source"), &content).unwrap();
    let (from, to) = (File::open(client.path("source")).unwrap(), File::create_new(client.path("copy")).unwrap());
    let count = |name: &str| volume.status().unwrap().number(&format!("copy_file_range/{name}")).unwrap();
    let before = [count("offloaded"), count("host_read")];
    let (mut at, mut target) = (0, 0);
    while at < content.len() as u64 {
        let left = content.len() - at as usize;
        assert!(rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut target), left).unwrap() > 0);
    }
    to.sync_all().unwrap();
    let counted = [count("offloaded") - before[0], count("host_read") - before[1]];
    assert_eq!(counted, [content.len() as u64, 0], "the device copied all of it");
    assert!(fs::read(client.path("copy")).unwrap() == content && fs::read(volume.path("copy")).unwrap() == content);
}

/// The server acts for whoever calls.
fn rights(volume: &Volume, clients: &[&Client]) {
    fs::write(volume.path("private"), b"x").unwrap();
    fs::set_permissions(volume.path("private"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(volume.root(), Permissions::from_mode(0o777)).unwrap();
    for (n, client) in clients.iter().enumerate() {
        let as_nobody = |command: &str| {
            let mut setpriv = std::process::Command::new("setpriv");
            setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", command]);
            harness::run(&mut setpriv, PATIENCE).unwrap()
        };
        let refused = as_nobody(&format!("cat {}", client.path("private").display()));
        assert!(!refused.success() && refused.stderr.contains("Permission denied"), "{refused}");
        let theirs = as_nobody(&format!("echo hello >{}", client.path(format!("theirs{n}")).display()));
        assert!(theirs.success(), "{theirs}");
        let made = fs::metadata(volume.path(format!("theirs{n}"))).unwrap();
        assert_eq!((made.uid(), made.gid(), made.len()), (65534, 65534, 6));
    }
}

/// The handle of a file that somebody else removed.
fn removed(volume: &Volume, client: &Client) {
    fs::write(volume.path("short-lived"), b"x").unwrap();
    let file = File::open(client.path("short-lived")).unwrap();
    fs::remove_file(volume.path("short-lived")).unwrap();
    becomes_stale(&file);
}

fn becomes_stale(file: &File) {
    let end = Instant::now() + PATIENCE;
    loop {
        forget_all();
        let mut byte = [0];
        match file.read_at(&mut byte, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return,
            other => assert!(Instant::now() < end, "a file that is gone is {other:?}"),
        }
        sleep(Duration::from_millis(200));
    }
}

/// What clients hold stays good when the server forgets everything, and when the volume is unmounted and mounted again.
fn outlives(volume: &mut Volume, server: &Server, [v3, v4]: [&Client; 2]) {
    let content = Pattern(4).bytes(0, MIB);
    fs::create_dir(volume.path("kept")).unwrap();
    fs::write(volume.path("kept/f"), &content).unwrap();
    let open = File::options().read(true).write(true).open(v3.path("kept/f")).unwrap();
    let directories = [v3, v4].map(|client| File::open(client.path("kept")).unwrap());
    let numbers = directories.each_ref().map(|directory| directory.metadata().unwrap().ino());
    for again in [false, true] {
        if again {
            server.stop();
            volume.remount().unwrap_or_else(|error| panic!("{error:#}"));
            server.start_again();
        }
        forget_all();
        let mut found = vec![0; MIB];
        open.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content, "mounted again: {again}");
        open.write_all_at(&content[..1], 0).unwrap();
        open.sync_all().unwrap();
        for (directory, ino) in directories.iter().zip(numbers) {
            assert_eq!(directory.metadata().unwrap().ino(), ino);
            let options = rustix::fs::OFlags::RDONLY;
            let file = File::from(rustix::fs::openat(directory, "f", options, rustix::fs::Mode::empty()).unwrap());
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found == content);
        }
    }
}

/// What a client's fsync promised is there after the daemon was killed.
fn after_a_crash(volume: &mut Volume, server: &Server, clients: [&Client; 2]) {
    let content = Pattern(5).bytes(0, MIB);
    for (n, client) in clients.iter().enumerate() {
        let file = File::create_new(client.path(format!("synced{n}"))).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
    }
    server.stop();
    volume.kill();
    assert_clean(volume);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    server.start_again();
    forget_all();
    for (n, client) in clients.iter().enumerate() {
        assert!(fs::read(client.path(format!("synced{n}"))).unwrap() == content);
    }
}

/// Another volume under the same `fsid`, with another file of the same number: the old handle does not lead to it.
fn formatted_anew(volume: &mut Volume, server: &Server, client: &Client) {
    let old = File::open(client.path("v3/c")).unwrap();
    let number = old.metadata().unwrap().ino();
    server.stop();
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    volume.format().and_then(harness::Outcome::ok).unwrap_or_else(|error| panic!("{error:#}"));
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    let made = (0..100).any(|n| {
        let path = volume.path(format!("n{n}"));
        fs::write(&path, b"of somebody else").unwrap();
        fs::metadata(&path).unwrap().ino() == number
    });
    assert!(made, "no new file has the number {number}");
    server.start_again();
    becomes_stale(&old);
}
