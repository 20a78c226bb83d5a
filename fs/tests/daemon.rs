//! The daemon's life by the real program: going into the background, signals, helpers of mount(8), rights, last checkpoints.
//!
//! Skipped, with a word, where this user cannot mount.

use fs::fuse::mountpoint;
use fs::volume::{Clock, FormatOptions, Volume};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use zns::image::{ImageDevice, ImageOptions};

const FERRYFS: &str = env!("CARGO_BIN_EXE_ferryfs");

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// A formatted image and a mount point; `None` where nothing can be mounted.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || mountpoint::check_fuse().is_err() {
            eprintln!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let place = Self { directory };
        let options = ImageOptions { size: 96 << 20, zone_size: 1 << 20, ..ImageOptions::default() };
        let device = ImageDevice::create(place.image(), &options).unwrap();
        let format = FormatOptions { label: "test".into(), uuid: [7; 16], created: Clock::system().now(), secret: [1; 32], uid: 0, gid: 0 };
        Volume::format(vec![Arc::new(device)], &format).unwrap();
        nobody_has(&place.image());
        std::fs::create_dir(place.mount()).unwrap();
        Some(place)
    }
    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }
    fn mount(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }
    fn path(&self, name: &str) -> PathBuf {
        self.mount().join(name)
    }
    fn ferryfs(&self, arguments: &[&str]) -> Output {
        Command::new(FERRYFS).current_dir(self.directory.path()).args(arguments).output().unwrap()
    }
    fn mounted(&self) -> bool {
        mountpoint::mounts().unwrap().iter().any(|line| line.path == self.mount())
    }
    /// Starts a daemon in the foreground and waits until its mount is there.
    fn foreground(&self) -> Child {
        let child = Command::new(FERRYFS)
            .args(["mount", "--foreground"])
            .args([self.image(), self.mount()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(|| self.mounted());
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.mounted() {
            mountpoint::unmount(&self.mount(), true).unwrap();
        }
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, says(output));
}

/// Waits until nobody has a lock on a file that is closed here: a program that another test starts has copies of our descriptors between fork and exec.
fn nobody_has(path: &Path) {
    use rustix::fs::{FlockOperation, flock};
    let file = File::open(path).unwrap();
    patiently(|| flock(&file, FlockOperation::NonBlockingLockExclusive)).unwrap();
    // Unlocked, not only closed: this descriptor may have been copied, too.
    flock(&file, FlockOperation::Unlock).unwrap();
}

/// Tries until it succeeds, for a minute at most: a program that another test starts has copies of our files between fork and exec, and a mount is in
/// use so long.
fn patiently<T, E>(mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match attempt() {
            Err(_) if std::time::Instant::now() < end => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other,
        }
    }
}

#[track_caller]
fn unmounts(place: &Place, name: &str) {
    let ends = || Some(place.ferryfs(&["umount", name])).filter(|output| output.status.success()).ok_or(());
    if patiently(ends).is_err() {
        succeeds(&place.ferryfs(&["umount", name]));
    }
}

#[track_caller]
fn fails(output: &Output, status: i32, word: &str) {
    assert_eq!(output.status.code(), Some(status), "{}", says(output));
    assert!(says(output).contains(word), "{}", says(output));
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn in_the_background_with_relative_paths_and_a_log() {
    let Some(place) = Place::new() else { return };
    succeeds(&place.ferryfs(&["mount", "--log", "log", "--trace", "trace", "image", "mnt"]));
    std::fs::write(place.path("f"), b"written").unwrap();
    assert!(place.directory.path().join("log").exists());
    assert!(place.directory.path().join("trace").exists());
    fails(&place.ferryfs(&["mount", "image", "mnt"]), 32, "carries a FerryFS already");
    std::fs::create_dir(place.directory.path().join("second")).unwrap();
    fails(&place.ferryfs(&["mount", "image", "second"]), 32, "it is mounted on");
    let open = File::open(place.path("f")).unwrap();
    fails(&place.ferryfs(&["umount", "mnt"]), 32, "in use");
    assert!(place.mounted());
    drop(open);
    // The device is as good a name as the mount point.
    unmounts(&place, "image");
    assert!(!place.mounted());
    // Nobody holds it any more, and the end was clean.
    let device = ImageDevice::open(place.image(), false).unwrap();
    let volume = Volume::open(vec![Arc::new(device)], fs::volume::MountOptions { read_only: true, ..Default::default() }).unwrap();
    assert!(volume.identity().clean);
    assert_eq!(&volume.read(volume.lookup(fs::Ino::ROOT, b"f").unwrap().ino, 0, 100).unwrap()[..], b"written");
}

#[test]
fn a_failure_is_told_by_the_command_itself() {
    let Some(place) = Place::new() else { return };
    std::fs::write(place.directory.path().join("zeros"), vec![0; 64 << 20]).unwrap();
    fails(&place.ferryfs(&["mount", "zeros", "mnt"]), 32, "no FerryFS superblock");
    fails(&place.ferryfs(&["mount", "-o", "bogus", "image", "mnt"]), 1, "unknown mount option \"bogus\"");
    fails(&place.ferryfs(&["mount", "-o", "device=nowhere", "image", "mnt"]), 32, "nowhere does not exist");
    fails(&place.ferryfs(&["mount", "--log", "no/such/log", "image", "mnt"]), 2, "no/such/log");
    fails(&place.ferryfs(&["mount", "--trace", "no/such/trace", "image", "mnt"]), 32, "no/such/trace");
    fails(&place.ferryfs(&["mount", "image"]), 1, "MOUNTPOINT");
    assert!(!place.mounted());
    succeeds(&place.ferryfs(&["mount", "image", "mnt"]));
    unmounts(&place, "mnt");
}

#[test]
fn a_signal_unmounts_and_waits_for_open_files() {
    let Some(place) = Place::new() else { return };
    let mut daemon = place.foreground();
    let mut file = File::create(place.path("f")).unwrap();
    file.write_all(b"before").unwrap();
    signal(&daemon, rustix::process::Signal::TERM);
    wait_until(|| !place.mounted());
    file.write_all(b" and after").unwrap();
    assert!(daemon.try_wait().unwrap().is_none(), "a program still has a file open");
    drop(file);
    let ended = daemon.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}: {}", ended.status, says(&ended));
    succeeds(&place.ferryfs(&["mount", "image", "mnt"]));
    assert_eq!(std::fs::read(place.path("f")).unwrap(), b"before and after");
}

#[test]
fn a_second_signal_waits_for_nobody() {
    let Some(place) = Place::new() else { return };
    let mut daemon = place.foreground();
    let mut file = File::create(place.path("f")).unwrap();
    file.write_all(b"before").unwrap();
    signal(&daemon, rustix::process::Signal::INT);
    wait_until(|| !place.mounted());
    signal(&daemon, rustix::process::Signal::INT);
    assert_eq!(daemon.wait().unwrap().code(), Some(32));
    assert!(file.write_all(b"lost").is_err());
    drop(file);
    succeeds(&place.ferryfs(&["mount", "image", "mnt"]));
    assert_eq!(std::fs::read(place.path("f")).unwrap(), b"before");
}

#[test]
fn a_plain_umount_ends_the_daemon_after_its_last_checkpoint() {
    let Some(place) = Place::new() else { return };
    let mut daemon = place.foreground();
    std::fs::write(place.path("f"), b"kept").unwrap();
    patiently(|| mountpoint::unmount(&place.mount(), false)).unwrap();
    // A mount that comes too early waits.
    succeeds(&place.ferryfs(&["mount", "image", "mnt"]));
    assert!(daemon.wait().unwrap().success());
    let mut said = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    assert_eq!(std::fs::read(place.path("f")).unwrap(), b"kept");
}

#[test]
fn what_a_dead_daemon_left_is_cleared_away() {
    let Some(place) = Place::new() else { return };
    let mut daemon = place.foreground();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    fails(&place.ferryfs(&["status", "mnt"]), 1, "daemon of this mount is gone");
    fails(&place.ferryfs(&["mount", "image", "mnt"]), 32, "remove it with ferryfs umount");
    unmounts(&place, "mnt");
    assert!(!place.mounted());
    fails(&place.ferryfs(&["umount", "mnt"]), 32, "is not a mounted FerryFS");
    succeeds(&place.ferryfs(&["mount", "image", "mnt"]));
}

#[test]
fn by_the_names_of_helpers_it_takes_their_arguments() {
    let Some(place) = Place::new() else { return };
    let sbin = place.directory.path().join("sbin");
    std::fs::create_dir(&sbin).unwrap();
    succeeds(&place.ferryfs(&["install-helpers", "sbin"]));
    let helper = |name: &str, arguments: &[&str]| {
        Command::new(sbin.join(name)).current_dir(place.directory.path()).args(arguments).output().unwrap()
    };
    succeeds(&helper("mount.fuse.ferryfs", &["image", "mnt", "-f", "-o", "rw"]));
    assert!(!place.mounted());
    succeeds(&helper("mount.fuse.ferryfs", &["image", "mnt", "-o", "ro,noatime,x-systemd.automount"]));
    let line = mountpoint::mounts().unwrap().into_iter().find(|line| line.path == place.mount()).unwrap();
    assert_eq!((line.kind.as_str(), line.source), ("fuse.ferryfs", place.image().display().to_string()));
    assert!(std::fs::write(place.path("f"), b"").is_err());
    succeeds(&helper("umount.fuse.ferryfs", &["mnt", "-v"]));
    assert!(!place.mounted());
    fails(&helper("mount.ferryfs", &["image"]), 1, "a device and a mount point are needed");
    fails(&helper("mount.ferryfs", &["image", "mnt", "-o", "bogus"]), 1, "bogus");
}

#[test]
fn others_may_ask_and_not_order() {
    let Some(place) = Place::new() else { return };
    succeeds(&place.ferryfs(&["mount", "-o", "allow_other", "image", "mnt"]));
    std::fs::write(place.path("f"), vec![1; 100_000]).unwrap();
    std::fs::write(place.path("secret"), b"x").unwrap();
    std::fs::set_permissions(place.path("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    let program = place.directory.path().join("program");
    // By a process of its own: a child that another test starts meanwhile would hold the file open for writing, and it could not be run.
    assert!(Command::new("cp").arg(FERRYFS).arg(&program).status().unwrap().success());
    let nobody = |arguments: &[&str]| {
        Command::new(&program).current_dir(place.directory.path()).args(arguments).uid(65534).gid(65534).output().unwrap()
    };
    succeeds(&nobody(&["status", "mnt"]));
    succeeds(&nobody(&["map", "--json", "mnt/f"]));
    fails(&nobody(&["map", "mnt/secret"]), 1, "ermission denied");
    fails(&nobody(&["gc", "mnt"]), 1, "only root");
    assert!(!nobody(&["umount", "mnt"]).status.success());
    assert!(place.mounted());
    succeeds(&place.ferryfs(&["gc", "--until-clean", "mnt"]));
    unmounts(&place, "mnt");
}

#[test]
fn reports_come_from_mounts_and_from_devices() {
    let Some(place) = Place::new() else { return };
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = place.ferryfs(arguments);
        succeeds(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let before = json(&["status", "--json", "image"]);
    assert_eq!(before["volume"]["label"], "test");
    assert_eq!(json(&["zones", "--json", "image"]).as_array().unwrap().len(), 96);
    succeeds(&place.ferryfs(&["mount", "image", "mnt"]));
    std::fs::write(place.path("f"), vec![1; 1 << 20]).unwrap();
    File::open(place.path("f")).unwrap().sync_all().unwrap();
    // By either name it is the mount that answers.
    for target in ["mnt", "image"] {
        let status = json(&["status", "--json", target]);
        assert_eq!(status["volume"]["uuid"], before["volume"]["uuid"]);
        assert_eq!(status["volume"]["mounted_read_only"], false);
        assert!(status["io"]["user_written"].as_u64().unwrap() >= 1 << 20, "{status}");
    }
    let map = json(&["map", "--json", "mnt/f"]);
    let mapped: u64 = map.as_array().unwrap().iter().map(|piece| piece["length"].as_u64().unwrap()).sum();
    assert_eq!(mapped, 1 << 20);
    for arguments in [&["status", "mnt"][..], &["zones", "mnt"], &["map", "mnt/f"], &["gc", "mnt"]] {
        let output = place.ferryfs(arguments);
        succeeds(&output);
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    fails(&place.ferryfs(&["map", "mnt"]), 1, "not a regular file");
    fails(&place.ferryfs(&["gc", "image"]), 1, "no FerryFS is mounted here");
    fails(&place.ferryfs(&["map", "image"]), 1, "no FerryFS is mounted here");
    unmounts(&place, "mnt");
    assert!(Path::new(&place.image()).exists());
}
