//! Requests that come over io_uring, under a kernel that has it: everything as over /dev/fuse, and that one where it cannot be had.

use crate::life::{FORMAT_ZONED, live_on, volume};
use guest::machine::SCRATCH;
use guest::{Kernel, Machine, Namespace};
use harness::{Pattern, Volume, run};
use rustix::fs::{SeekFrom, XattrFlags, seek};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::guest::{in_guest, restrict};
use tests::mounted::assert_clean;

const MIB: u64 = 1 << 20;
/// More than a thread of a ring can have with other threads at once, on the processors of a guest.
const WRITERS: u64 = 100;
const LIMIT: Duration = Duration::from_secs(120);
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Has the kernel offer FUSE over io_uring to mounts that are made from now on, or not.
fn offered(is_offered: bool) {
    fs::write("/sys/module/fuse/parameters/enable_uring", if is_offered { "Y" } else { "N" }).expect("the kernel has FUSE over io_uring");
}

fn transport(volume: &Volume) -> String {
    volume.status().unwrap().text("mount/transport").unwrap().to_owned()
}

fn mount(volume: &mut Volume, options: &[&str], expected: &str) {
    volume.set_options(options.iter().copied());
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(transport(volume), expected, "{}", volume.log());
}

fn image() -> (TempDir, Volume) {
    volume(&[PathBuf::from(SCRATCH).join("volume.img")], &["--size", "256M", "--zone-size", "4M", "--force"])
}

#[test]
fn a_volume_lives_over_io_uring() {
    let machine = Machine::new(Kernel::New7_3).device(Namespace::zoned("z").size(192 * MIB).zones(4 * MIB, 4 * MIB));
    in_guest(machine, &[], || {
        offered(true);
        let (_directory, mut volume) = volume(&["/dev/vm/zn1".into()], FORMAT_ZONED);
        volume.set_options(["transport=io_uring"]);
        let lived = live_on(&mut volume);
        assert_eq!(lived.status.text("mount/transport").unwrap(), "io_uring");
    });
}

#[test]
fn requests_over_io_uring_and_every_end_of_a_mount() {
    in_guest(Machine::new(Kernel::New7_3), &["mount"], || {
        without_it();
        offered(true);
        let (_directory, mut volume) = image();
        for kind in ["fuse_type=fuse", "fuse_type=auto"] {
            let options = ["transport=io_uring", kind];
            mount(&mut volume, &options, "io_uring");
            let _ = fs::remove_dir_all(volume.path("names"));
            names(&volume);
            contents(&volume, 1);
            volume.umount().unwrap_or_else(|error| panic!("{kind}: {error:#}"));
            assert_clean(&volume);
            mount(&mut volume, &options, "io_uring");
            compare(&volume, 1);
            for (round, end) in [(2, kill as fn(&mut Volume)), (3, abort), (4, killed_at_its_end)] {
                crash(&mut volume, round, end);
                assert_clean(&volume);
                mount(&mut volume, &options, "io_uring");
                compare(&volume, round);
            }
            volume.umount().unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        }
    });
}

/// Where the kernel does not offer it, or io_uring is not for us, requests are read from the device, unless somebody insists.
fn without_it() {
    let (_directory, mut volume) = image();
    let refused = |volume: &Volume, reason: &str| {
        let mounted = run(volume.mount_command().unwrap().args(["-o", "transport=io_uring"]), LIMIT).unwrap();
        let is_told = mounted.stderr.contains("transport=io_uring is not possible here") && mounted.stderr.contains(reason);
        assert!(!mounted.success() && is_told, "{mounted}");
    };
    offered(false);
    refused(&volume, "enable_uring is off");
    mount(&mut volume, &[], "dev_fuse");
    volume.umount().unwrap();
    offered(true);
    restrict::io_uring(false);
    refused(&volume, "not permitted");
    mount(&mut volume, &[], "dev_fuse");
    contents(&volume, 0);
    volume.umount().unwrap();
    restrict::io_uring(true);
    mount(&mut volume, &["transport=dev_fuse"], "dev_fuse");
    compare(&volume, 0);
    volume.umount().unwrap();
    assert_clean(&volume);
}

/// Requests with every shape of a body: names alone, a structure and names, a structure and data.
fn names(volume: &Volume) {
    let directory = volume.path("names");
    fs::create_dir(&directory).unwrap();
    let long = "n".repeat(255);
    let file = File::create_new(directory.join(&long)).unwrap();
    assert_eq!(fs::metadata(directory.join("n".repeat(256))).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    symlink("t".repeat(4000), directory.join("link")).unwrap();
    assert_eq!(fs::read_link(directory.join("link")).unwrap(), Path::new(&"t".repeat(4000)));
    let value = Pattern(9).bytes(0, 3000);
    rustix::fs::fsetxattr(&file, "user.long", &value, XattrFlags::empty()).unwrap();
    let mut found = vec![0; 4000];
    let len = rustix::fs::fgetxattr(&file, "user.long", &mut found).unwrap();
    assert!(found[..len] == value);
    rustix::fs::fremovexattr(&file, "user.long").unwrap();
    assert!(rustix::fs::fgetxattr(&file, "user.long", &mut found).is_err());
    file.set_len(4 * MIB).unwrap();
    file.write_all_at(b"data", 2 * MIB).unwrap();
    assert_eq!((seek(&file, SeekFrom::Data(0)), seek(&file, SeekFrom::Hole(2 * MIB))), (Ok(2 * MIB), Ok(2 * MIB + 4096)));
    fs::rename(directory.join(&long), directory.join("short")).unwrap();
    fs::hard_link(directory.join("short"), directory.join("again")).unwrap();
    let many: BTreeSet<String> = (0..500).map(|number| format!("{number:0>40}")).collect();
    many.iter().for_each(|name| drop(File::create_new(directory.join(name)).unwrap()));
    let listed = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let fixed = ["link", "short", "again"].map(String::from);
    assert_eq!(listed.collect::<BTreeSet<_>>(), many.iter().cloned().chain(fixed).collect());
    many.iter().for_each(|name| fs::remove_file(directory.join(name)).unwrap());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
}

fn place(volume: &Volume, writer: u64) -> PathBuf {
    volume.path(format!("w{writer}"))
}

/// Lengths around every border, up to more than one request takes.
fn bytes(writer: u64, round: u64) -> Vec<u8> {
    let lengths = [0, 1, 4095, 4096, 4097, 70_000];
    let length = if writer == 0 { 3 << 20 } else { lengths[(writer % lengths.len() as u64) as usize] };
    Pattern(writer).with(round).bytes(0, length)
}

/// Everybody writes his file and makes it durable, all at once.
fn contents(volume: &Volume, round: u64) {
    let start = Barrier::new(WRITERS as usize);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (place, start) = (place(volume, writer), &start);
            scope.spawn(move || {
                start.wait();
                let file = File::create(place).unwrap();
                file.write_all_at(&bytes(writer, round), 0).unwrap();
                file.sync_all().unwrap();
            });
        }
    });
}

fn compare(volume: &Volume, round: u64) {
    for writer in 0..WRITERS {
        let found = fs::read(place(volume, writer)).unwrap_or_else(|error| panic!("writer {writer}: {error}"));
        assert!(found == bytes(writer, round), "what writer {writer} made durable in round {round}");
    }
}

/// What was made durable is there after `end`, which comes while others write and wait. Whoever waits gets an answer.
fn crash(volume: &mut Volume, round: u64, end: fn(&mut Volume)) {
    contents(volume, round);
    let busy: Vec<PathBuf> = (0..8).map(|number| volume.path(format!("busy{number}"))).collect();
    std::thread::scope(|scope| {
        for path in &busy {
            scope.spawn(move || {
                let file = File::create(path).unwrap();
                let at_work = || file.write_all_at(&[7; 70_000], 0).and_then(|()| file.sync_all()).and_then(|()| fs::metadata(path));
                while at_work().is_ok() {}
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        end(volume);
    });
}

fn kill(volume: &mut Volume) {
    volume.kill();
}

/// The daemon unmounts for a signal, and is killed while it waits for its own last answer.
fn killed_at_its_end(volume: &mut Volume) {
    let pid = volume.pid().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    volume.kill();
}

/// The connection is cut off from outside; the daemon ends by itself.
fn abort(volume: &mut Volume) {
    if fs::read_dir(CONNECTIONS).unwrap().next().is_none() {
        let mounted = std::process::Command::new("mount").args(["-t", "fusectl", "none", CONNECTIONS]).status().unwrap();
        assert!(mounted.success());
    }
    let daemon = PathBuf::from(format!("/proc/{}/task", volume.pid().unwrap()));
    for connection in fs::read_dir(CONNECTIONS).unwrap() {
        fs::write(connection.unwrap().path().join("abort"), "1").unwrap();
    }
    // What is left of it waits for us to take its status.
    let patience = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(&daemon).is_ok_and(|threads| threads.count() > 1) {
        assert!(Instant::now() < patience, "the daemon goes on without a connection: {}", volume.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    volume.kill();
}
