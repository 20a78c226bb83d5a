//! What administrators call: status, map, zones, gc, dump, mount in the background, umount.

use harness::Volume;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;
use tests::{Builder, Mounted};

#[test]
fn status_has_every_name_of_the_contract() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let status = mounted.status().unwrap();
    let names = "volume: uuid label block_size mounted_read_only devices
        space: total used free available reclaimable reserved
        zones: empty open closed full read_only offline
        io: user_written user_read device_written device_read
        gc: meta_read meta_written policy placement zones_reclaimed relocated offloaded host_read host_written commands fallbacks write_amplification pause_us
        gc/pause_us: p50 p99 p999 max
        copy_file_range: calls bytes offloaded host_read host_written
        checks: checksum_errors copies_verified copies_rejected verify_read
        volume/devices/0: path kind zones zone_size zone_capacity max_open_zones max_active_zones route route_reason simulated copy_limits copy_profile
        volume/devices/0/copy_limits: max_range_bytes max_command_bytes max_ranges";
    for line in names.lines() {
        let (group, names) = line.trim().split_once(": ").unwrap();
        for name in names.split(' ') {
            status.value(&format!("{group}/{name}")).unwrap();
        }
    }
    assert_eq!(status.text("volume/devices/0/kind").unwrap(), "image");
    assert_eq!(status.text("volume/devices/0/route").unwrap(), "image");
    assert!(status.simulated());
    let (total, used) = (status.number("space/total").unwrap(), status.number("space/used").unwrap());
    assert!(used < total && status.number("space/available").unwrap() <= total - used);
    let text = mounted.volume().unwrap();
    let root = text.root().to_path_buf();
    assert!(!text.ferryfs(["status".as_ref(), root.as_os_str()]).unwrap().ok().unwrap().stdout.is_empty());
    text.umount().unwrap();
    let offline = text.status().unwrap();
    assert_eq!(offline.text("volume/uuid").unwrap(), status.text("volume/uuid").unwrap());
    mounted.finish();
}

#[test]
fn counters_count_what_was_written_and_read() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let before = mounted.status().unwrap();
    let size = 32 << 20;
    let mut file = File::create_new(mounted.path("f")).unwrap();
    file.write_all(&vec![3; size]).unwrap();
    file.sync_all().unwrap();
    let after = mounted.status().unwrap();
    let since = |name: &str| after.since(&before, name).unwrap();
    assert_eq!(since("io/user_written"), size as u64);
    let device = since("io/device_written");
    drop(file);
    assert!(device >= size as u64 && device < size as u64 * 11 / 10, "{device} bytes for {size}");
    assert!(since("space/used") >= size as u64);
    mounted.remount();
    assert_eq!(fs::read(mounted.path("f")).unwrap().len(), size);
    let read = mounted.status().unwrap();
    assert!(read.number("io/user_read").unwrap() >= size as u64);
    assert!(read.number("io/device_read").unwrap() >= size as u64);
    mounted.finish();
}

#[test]
fn map_and_zones_say_where_things_are() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let path = mounted.path("f");
    let file = File::create_new(&path).unwrap();
    (&file).write_all(&vec![3; 6 << 20]).unwrap();
    file.set_len(8 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let volume = mounted.volume().unwrap();
    let root = volume.root().to_path_buf();
    let json = |arguments: &[&std::ffi::OsStr]| -> Value {
        let outcome = volume.ferryfs(arguments).unwrap().ok().unwrap();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
    };
    let map = json(&["map".as_ref(), "--json".as_ref(), path.as_os_str()]);
    let map = map.as_array().or_else(|| map["extents"].as_array()).cloned().expect("a list of extents");
    assert!(!map.is_empty());
    let length = |entry: &Value| entry["length"].as_u64().or_else(|| entry["len"].as_u64()).unwrap_or(0);
    let mapped: u64 = map.iter().map(length).sum();
    assert!(mapped == 6 << 20 || mapped == 8 << 20, "{mapped} bytes are mapped: {map:?}");
    let zones = json(&["zones".as_ref(), "--json".as_ref(), root.as_os_str()]);
    let zones = zones.as_array().or_else(|| zones["zones"].as_array()).cloned().expect("a list of zones");
    let count = mounted.status().unwrap().value("volume/devices/0/zones").unwrap().as_u64().unwrap();
    assert_eq!(zones.len() as u64, count);
    // The same from the device itself, when it is not mounted.
    let volume = mounted.volume().unwrap();
    volume.umount().unwrap();
    let device = volume.device().to_path_buf();
    for command in ["zones", "dump"] {
        let outcome = volume.ferryfs([command.as_ref(), device.as_os_str()]).unwrap().ok().unwrap();
        assert!(outcome.stdout.lines().count() > 3, "{outcome}");
    }
    mounted.finish();
}

#[test]
fn gc_moves_what_lives_by_the_devices_road() {
    let Some(mut mounted) = Builder::default().option("gc=manual").mount() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    for n in 0..128 {
        fs::write(mounted.path(format!("f{n}")), harness::Pattern(n).bytes(0, 1 << 20)).unwrap();
    }
    File::open(mounted.root()).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(File::open(mounted.root()).unwrap()).unwrap();
    for n in (0..128).filter(|n| n % 4 != 0) {
        fs::remove_file(mounted.path(format!("f{n}"))).unwrap();
    }
    let before = mounted.status().unwrap();
    let volume = mounted.volume().unwrap();
    let root = volume.root().to_path_buf();
    let said = volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), root.as_os_str()]).unwrap().ok().unwrap();
    assert!(!said.stdout.is_empty(), "gc says what it moved");
    let after = mounted.status().unwrap();
    let since = |name: &str| after.since(&before, name).unwrap();
    let relocated = since("gc/relocated");
    assert!(relocated >= 16 << 20, "32 MiB live among 128, and {relocated} bytes were moved");
    assert_eq!(since("gc/offloaded"), relocated);
    assert_eq!((since("gc/host_read"), since("gc/host_written")), (0, 0));
    assert!(since("gc/zones_reclaimed") >= 10, "{} zones", since("gc/zones_reclaimed"));
    mounted.crash();
    for n in (0..128).filter(|n| n % 4 == 0) {
        let read = fs::read(mounted.path(format!("f{n}"))).unwrap();
        assert_eq!(harness::Pattern(n).mismatch(0, &read), None, "f{n} after it was moved");
        assert_eq!(read.len(), 1 << 20);
    }
    mounted.finish();
}

#[test]
fn mounting_in_the_background_and_unmounting_wait_for_the_end() {
    let Some((directory, mut volume)) = Builder::default().create() else {
        return;
    };
    let limit = Duration::from_secs(60);
    for round in 0..3 {
        harness::run(&mut volume.mount_command().unwrap(), limit).unwrap().ok().unwrap();
        let mount = harness::mounts::at(volume.root()).expect("it is mounted when mount returns");
        assert!(mount.kind.starts_with("fuse"), "{}", mount.kind);
        fs::write(volume.path(format!("f{round}")), b"written").unwrap();
        let root = volume.root().to_path_buf();
        let outcome = volume.ferryfs(["umount".as_ref(), root.as_os_str()]).unwrap().ok().unwrap();
        assert!(!outcome.timed_out);
        assert!(harness::mounts::at(volume.root()).is_none());
        // The daemon is gone: its lock on the device is free, so fsck may look and a mount may follow at once.
        tests::mounted::assert_clean(&volume);
    }
    volume.mount().unwrap();
    for round in 0..3 {
        assert_eq!(fs::read(volume.path(format!("f{round}"))).unwrap(), b"written");
    }
    volume.umount().unwrap();
    drop((volume, directory));
}

/// A copy in another namespace may stay for as long as a container runs.
#[test]
fn unmounting_waits_for_no_other_place_of_the_mount_and_names_it() {
    if !rustix::process::geteuid().is_root() {
        return tests::skip::skip("only root can mount elsewhere");
    }
    let Some((directory, mut volume)) = Builder::default().create() else { return };
    let limit = Duration::from_secs(60);
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new(program);
        harness::run(command.args(arguments), limit).unwrap().ok().unwrap()
    };
    let umount = |volume: &Volume, at: &Path| volume.ferryfs(["umount".as_ref(), at.as_os_str()]).unwrap().ok().unwrap();
    volume.mount().unwrap();
    fs::write(volume.path("f"), b"written").unwrap();
    run("mount", &["--bind".as_ref(), volume.root().as_ref(), other.as_ref()]);
    let root = volume.root().to_path_buf();
    let said = umount(&volume, &root).said();
    assert!(said.contains("is still mounted at") && said.contains("other") && !said.contains("namespace"), "{said}");
    assert_eq!(fs::read(other.join("f")).unwrap(), b"written");

    // The namespace of a program that waits for its input to end.
    let mut program = std::process::Command::new("unshare");
    let program = program.args(["--mount", "--propagation", "private", "cat"]).stdin(std::process::Stdio::piped());
    let mut program = program.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = program.stdin.take().unwrap();
    input.write_all(b"x").unwrap();
    program.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let said = umount(&volume, &other).said();
    assert!(said.contains("in the mount namespace of process") && said.contains("(cat)"), "{said}");
    drop(input);
    program.wait().unwrap();
    // Nobody has it any more: the daemon ends, and lets the device go.
    volume.kill();
    tests::mounted::assert_clean(&volume);
}

#[test]
fn a_plain_umount_ends_with_a_checkpoint_too() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    fs::write(mounted.path("f"), vec![1; 5 << 20]).unwrap();
    let volume = mounted.volume().unwrap();
    let pid = volume.pid().unwrap();
    // In use, for a moment, are also the copies of our files that a program has which another test is starting.
    let end = std::time::Instant::now() + Duration::from_secs(5);
    let umount = || harness::run(std::process::Command::new("umount").arg(volume.root()), Duration::from_secs(60)).unwrap();
    let mut outcome = umount();
    while !outcome.success() && std::time::Instant::now() < end {
        outcome = umount();
    }
    outcome.ok().unwrap();
    // umount(8) returns while the daemon still finishes; mounting again waits for it.
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    if let Ok(pidfd) = pidfd {
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "the daemon ends");
    }
    volume.kill();
    tests::mounted::assert_clean(volume);
    volume.mount().unwrap();
    assert_eq!(volume.status().unwrap().number("log/replayed").unwrap_or(0), 0, "nothing was left to replay");
    assert_eq!(fs::read(mounted.path("f")).unwrap().len(), 5 << 20);
    mounted.finish();
}

#[test]
fn the_trace_of_the_cleaner_is_one_json_object_per_line() {
    let Some((directory, mut volume)) = Builder::default().option("gc=manual").create() else {
        return;
    };
    let trace = directory.path().join("trace");
    let mut command = volume.mount_command().unwrap();
    // The option stands before the devices, as every option does.
    let arguments: Vec<_> = command.get_args().skip(1).map(|a| a.to_os_string()).collect();
    command = volume.programs().command("ferryfs").unwrap();
    command.arg("mount").args(["-o", "gc=manual"]).arg("--trace").arg(&trace).args(arguments);
    harness::run(&mut command, Duration::from_secs(60)).unwrap().ok().unwrap();
    for n in 0..64 {
        fs::write(volume.path(format!("f{n}")), vec![n; 1 << 20]).unwrap();
    }
    rustix::fs::syncfs(File::open(volume.root()).unwrap()).unwrap();
    for n in (0..64).filter(|n| n % 4 != 0) {
        fs::remove_file(volume.path(format!("f{n}"))).unwrap();
    }
    let root = volume.root().to_path_buf();
    volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), root.as_os_str()]).unwrap().ok().unwrap();
    volume.ferryfs(["umount".as_ref(), root.as_os_str()]).unwrap().ok().unwrap();
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.lines().count() >= 3, "{text}");
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event.is_object());
    }
    volume.kill();
}
