//! Users who may not do everything: what is missing is named, nothing is touched, and what they may do they can.

use crate::raw::{content, fill};
use crate::tool::by_device;
use guest::machine::SCRATCH;
use guest::{Kernel, Machine, Namespace};
use harness::{Outcome, Pattern, run};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::guest::in_guest;
use tests::guest::targets::LioDisk;
use tests::mounted::programs;

const MIB: u64 = 1 << 20;
const NOBODY: &str = "65534";

/// The programs where anybody can reach them.
struct Programs(PathBuf);

impl Programs {
    fn new() -> Programs {
        let directory = Path::new(SCRATCH).join("programs");
        fs::create_dir(&directory).unwrap();
        for name in ["ferrycopy", "ferryfs", "mkfs.ferryfs"] {
            let program = directory.join(name);
            fs::copy(programs().directory().join(name), &program).unwrap();
            mode(&program, 0o755);
        }
        mode(&directory, 0o755);
        Programs(directory)
    }

    /// Runs one as a user without any rights of their own.
    fn as_nobody<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all"]);
        run(command.arg(self.0.join(program)).args(arguments), Duration::from_secs(120)).unwrap()
    }

    fn report(&self, arguments: &[&str]) -> Value {
        let outcome = self.as_nobody("ferrycopy", arguments);
        assert!(outcome.success(), "{outcome}");
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// The road of copies within a device, and why another one is closed.
    fn road(&self, device: &str, closed: &str) -> (String, String) {
        let said = self.report(&["caps", "--json", device]);
        let pair = &said["pairs"][0];
        let roads = pair["roads"].as_array().unwrap();
        let reason = &roads.iter().find(|road| road["road"] == closed).unwrap()["reason"];
        (pair["road"].as_str().unwrap().to_owned(), reason.as_str().unwrap_or_default().to_owned())
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Ended with this status and without a panic; every one of `words` was said.
#[track_caller]
fn refused(outcome: &Outcome, status: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(status), "{outcome}");
    assert!(words.iter().all(|word| outcome.stderr.contains(word)) && outcome.stderr.trim().lines().count() == 1, "{words:?}: {outcome}");
}

#[test]
fn who_may_not_is_told_which_permission_is_missing_on_which_node() {
    in_guest(Machine::new(Kernel::Long6_12).device(Namespace::conventional("c").size(64 * MIB).copy(64, 256, 15)), &["setpriv"], || {
        let (device, name) = (Path::new("/dev/vm/cn1"), "/dev/vm/cn1");
        let (block, character) = (device.canonicalize().unwrap(), Path::new("/dev/vm/cg1").canonicalize().unwrap());
        fill(device, 1, 0, 4 * MIB);
        let programs = Programs::new();
        let (point, copy) = (Path::new(SCRATCH).join("point"), ["copy", "--json", "/dev/vm/cn1:0:2M", "/dev/vm/cn1:32M"]);
        fs::create_dir(&point).unwrap();
        mode(&point, 0o777);
        let mount = [OsStr::new("mount"), device.as_os_str(), point.as_os_str()];
        // Nothing at all, then reading only.
        for bits in [0o600, 0o644] {
            mode(&block, bits);
            mode(&character, bits);
            let whose = format!("it belongs to user 0 and group 0 with mode {bits:04o}, and you are user {NOBODY}");
            let missing = ["no permission to write to", &whose, "run as root"];
            refused(&programs.as_nobody("ferrycopy", copy), 2, &missing);
            refused(&programs.as_nobody("mkfs.ferryfs", ["--force", name]), 1, &["no permission to", &whose, "run as root"]);
            refused(&programs.as_nobody("ferryfs", mount), 1, &["no permission to", &whose, "run as root"]);
        }
        let found = content(device, 32 * MIB, 2 * MIB);
        assert!(found.iter().all(|&byte| byte == 0), "something was written");
        // Who may read may ask, and is told what both nodes lack.
        let (road, reason) = programs.road(name, "nvme");
        let named = [&block, &character].map(|node| format!("no permission to write to {}: it belongs to user 0", node.display()));
        assert!(road == "host" && named.iter().all(|words| reason.contains(words)), "{road}: {reason}");
        // The block device is enough: the kernel takes Copy by ioctl there, from anybody who may write. With the character device by io_uring.
        mode(&block, 0o666);
        for bits in [0o600, 0o666] {
            mode(&character, bits);
            assert_eq!(programs.road(name, "nvme").0, "nvme");
            by_device(&programs.report(&copy), 2 * MIB, "nvme");
        }
        assert_eq!(Pattern(1).mismatch(0, &content(device, 32 * MIB, 2 * MIB)), None);
        // A SCSI disk takes third-party copies from root only.
        let disk = LioDisk { number: 1, size: 64, block: 512, copies: true }.create();
        mode(&disk, 0o666);
        let (road, reason) = programs.road(disk.to_str().unwrap(), "scsi-xcopy");
        assert!(road == "host" && reason.contains("CAP_SYS_RAWIO"), "{road}: {reason}");
    });
}
