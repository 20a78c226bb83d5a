//! What a daemon may do, and what a mount of an ordinary user lets others do: an image is not trusted.

use crate::devices::Loop;
use harness::{Outcome, run};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::Mounted;
use tests::mounted::programs;
use tests::skip::{has_program, no_mounts, skip};

const LIMIT: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const IPC_LOCK: u64 = 1 << 14;
const SYS_RAWIO: u64 = 1 << 17;
const SYS_ADMIN: u64 = 1 << 21;
const OF_IMAGES: u64 = DAC_OVERRIDE | DAC_READ_SEARCH | IPC_LOCK | SYS_ADMIN;

/// What one thread may do.
#[derive(Debug, PartialEq, Eq)]
struct Rights {
    permitted: u64,
    effective: u64,
    bounding: u64,
    inheritable: u64,
    ambient: u64,
    no_new: bool,
}

fn rights(text: &str) -> Rights {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is missing in {text}"));
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    Rights {
        permitted: field("CapPrm:"),
        effective: field("CapEff:"),
        bounding: field("CapBnd:"),
        inheritable: field("CapInh:"),
        ambient: field("CapAmb:"),
        no_new: field("NoNewPrivs:") == 1,
    }
}

/// The rights of every thread of a process.
fn of_threads(pid: u32) -> Vec<Rights> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One may end before it is looked at.
    let texts = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let all: Vec<Rights> = texts.map(|text| rights(&text)).collect();
    assert!(all.len() > 3, "a daemon has threads: {all:?}");
    all
}

/// What this process could have given on: in a container that is less than everything.
fn ours() -> Rights {
    rights(&fs::read_to_string("/proc/self/status").unwrap())
}

fn keeps_only(pid: u32, wanted: u64) {
    let had = ours();
    for rights in of_threads(pid) {
        let kept = had.permitted & wanted;
        let expected =
            Rights { permitted: kept, effective: kept, bounding: had.bounding & wanted, inheritable: 0, ambient: 0, no_new: true };
        assert_eq!(rights, expected);
    }
}

#[test]
fn a_daemon_of_root_keeps_what_it_needs() {
    let Some(mut mounted) = Mounted::new() else { return };
    let pid = mounted.volume().unwrap().pid().unwrap();
    keeps_only(pid, OF_IMAGES);
    // It works, and ends, without the rest.
    fs::write(mounted.path("file"), b"content").unwrap();
    mounted.remount();
    assert_eq!(fs::read(mounted.path("file")).unwrap(), b"content");
    mounted.finish();
}

#[test]
fn a_daemon_over_a_block_device_may_send_it_commands() {
    if let Some(reason) = no_mounts() {
        return skip(reason);
    }
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("disk.img");
    fs::File::create(&file).unwrap().set_len(96 << 20).unwrap();
    let Some(device) = Loop::over(&file, &[]) else { return };
    run(programs().command("mkfs.ferryfs").unwrap().args(["--zone-size", "1M"]).arg(device.path()), LIMIT).unwrap().ok().unwrap();
    let spec = harness::VolumeSpec { devices: vec![device.path().to_owned()], ..harness::VolumeSpec::default() };
    let own = directory.path().join("volume");
    fs::create_dir(&own).unwrap();
    let mut volume = harness::Volume::existing(programs(), &own, spec).unwrap();
    volume.mount().unwrap();
    keeps_only(volume.pid().unwrap(), OF_IMAGES | SYS_RAWIO);
    fs::write(volume.path("file"), b"content").unwrap();
    volume.umount().unwrap();
}

#[test]
fn a_mount_in_a_directory_that_only_its_owner_may_enter_ends_by_a_signal() {
    let Some((directory, mut volume)) = tests::Builder::default().create() else { return };
    // The image is somebody else's, too.
    chown(volume.device(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(volume.device(), fs::Permissions::from_mode(0o600)).unwrap();
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    volume.mount().unwrap();
    let pid = volume.pid().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::TERM).unwrap();
    let asked = std::time::Instant::now();
    let has_ended = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ");
    while !has_ended() {
        assert!(asked.elapsed() < LIMIT, "it is still there: {}", volume.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(harness::mounts::at(volume.root()).is_none(), "the daemon has ended and left its mount behind");
    volume.kill();
    volume.mount().unwrap();
    volume.umount().unwrap();
}

#[test]
fn a_daemon_has_no_socket_and_no_file_that_others_may_write() {
    let Some(mut mounted) = Mounted::new() else { return };
    let pid = mounted.volume().unwrap().pid().unwrap();
    let mut files = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
        let name = target.to_string_lossy().into_owned();
        assert!(!name.starts_with("socket:"), "the daemon has a socket open: {name}");
        // Not devices that every program may use; and what others may only read is no way to give it orders.
        let is_own = name.starts_with('/') && !name.starts_with("/proc/");
        if let Some(file) = fs::metadata(&target).ok().filter(|file| is_own && (file.is_file() || file.file_type().is_fifo())) {
            assert_eq!(file.mode() & 0o002, 0, "others may write to a file that the daemon has open: {name}");
            files += 1;
        }
    }
    assert!(files > 0, "at least the image is open");
    // What it is told reaches it by an ioctl on a file of the mount, so by those who may open that. An order is for its owner.
    fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o755)).unwrap();
    mounted.finish();
}

/// The programs, and a directory with a volume in it, of an ordinary user.
struct Ordinary {
    directory: TempDir,
}

impl Ordinary {
    fn new() -> Option<Self> {
        if let Some(reason) = no_mounts() {
            skip(reason);
            return None;
        }
        if !has_program("fusermount3") {
            return None;
        }
        if fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0o006 {
            skip("/dev/fuse is for root only");
            return None;
        }
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["ferryfs", "mkfs.ferryfs"] {
            fs::copy(programs().directory().join(name), directory.path().join(name)).unwrap();
        }
        let own = directory.path().join("own");
        fs::create_dir_all(own.join("mnt")).unwrap();
        for path in [own.clone(), own.join("mnt")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let ordinary = Self { directory };
        ordinary.run("mkfs.ferryfs", &["--size", "96M", "image"]).ok().unwrap();
        Some(ordinary)
    }

    fn own(&self) -> PathBuf {
        self.directory.path().join("own")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(self.directory.path().join(program));
        run(command.args(arguments).current_dir(self.own()).uid(NOBODY).gid(NOBODY), LIMIT).unwrap()
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        harness::mounts::detach_below(self.directory.path());
    }
}

/// Options of the mount at a path, as the kernel has them.
fn flags(path: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.canonicalize().unwrap();
    let line = text.lines().find(|line| line.split(' ').nth(4) == path.to_str()).unwrap_or_else(|| panic!("{path:?} is not in {text}"));
    line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect()
}

#[test]
fn a_mount_of_an_ordinary_user_has_neither_set_id_bits_nor_devices() {
    let Some(ordinary) = Ordinary::new() else { return };
    // Not even where they are asked for.
    for options in ["rw", "suid,dev"] {
        ordinary.run("ferryfs", &["mount", "-o", options, "image", "mnt"]).ok().unwrap();
        let flags = flags(&ordinary.own().join("mnt"));
        assert!(flags.iter().any(|flag| flag == "nosuid") && flags.iter().any(|flag| flag == "nodev"), "{options}: {flags:?}");
        let status = ordinary.run("ferryfs", &["status", "--json", "mnt"]);
        let told: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_else(|error| panic!("{error}: {status}"));
        assert!(told.is_object());
        let daemon = daemon_of(&ordinary.directory.path().join("ferryfs"));
        for rights in of_threads(daemon) {
            assert_eq!((rights.permitted, rights.effective, rights.ambient, rights.no_new), (0, 0, 0, false));
        }
        ordinary.run("ferryfs", &["umount", "mnt"]).ok().unwrap();
    }
}

/// The process that runs a program.
fn daemon_of(program: &Path) -> u32 {
    let program = program.canonicalize().unwrap();
    let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let runs = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program);
    processes.find(runs).expect("the daemon is there")
}
