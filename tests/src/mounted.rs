//! A volume of its own for each test, formatted and mounted by the built programs, gone with the test.
//!
//! With `FERRYFS_TEST_PEER=DIR` the same tests run in a directory of another filesystem instead: whatever fails there is wrong
//! in the test, or a place where systems may differ. Tests that need the programs then skip. With `FERRYFS_KEEP=1` images stay for a look.

use harness::{Programs, Status, Volume, VolumeSpec};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// Says what volume a test wants.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    spec: VolumeSpec,
}

impl Builder {
    /// Arguments of `mkfs.ferryfs` instead of the usual `--size 512M --zone-size 4M`.
    pub fn format(mut self, arguments: &str) -> Builder {
        self.spec.format = arguments.split_whitespace().map(String::from).collect();
        self
    }

    /// Adds a mount option.
    pub fn option(mut self, option: &str) -> Builder {
        self.spec.options.push(option.to_owned());
        self
    }

    /// More time than the usual until the daemon is killed.
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.spec.deadline = deadline;
        self
    }

    /// Formats and mounts. `None` after noting a skip when nothing can be mounted here.
    pub fn mount(self) -> Option<Mounted> {
        if let Some(peer) = std::env::var_os("FERRYFS_TEST_PEER") {
            let directory = TempDir::new_in(peer).expect("a directory in the peer");
            let root = directory.path().to_path_buf();
            return Some(Mounted { volume: None, root, _directory: directory });
        }
        let (directory, mut volume) = self.create()?;
        if let Err(error) = volume.mount() {
            panic!("{error:#}");
        }
        let root = volume.root().to_path_buf();
        Some(Mounted { volume: Some(volume), root, _directory: directory })
    }

    /// Formats, does not mount.
    pub fn create(self) -> Option<(TempDir, Volume)> {
        if std::env::var_os("FERRYFS_TEST_PEER").is_some() {
            crate::skip::skip("needs FerryFS itself, and runs on a peer");
            return None;
        }
        if let Some(reason) = crate::skip::no_mounts() {
            crate::skip::skip(reason);
            return None;
        }
        let mut directory = TempDir::new().expect("a temporary directory");
        if std::env::var_os("FERRYFS_KEEP").is_some() {
            eprintln!("kept: {}", directory.path().display());
            directory.disable_cleanup(true);
        }
        match Volume::create(programs(), directory.path(), self.spec) {
            Ok(volume) => Some((directory, volume)),
            Err(error) => panic!("{error:#}"),
        }
    }
}

/// A mounted volume.
#[derive(Debug)]
pub struct Mounted {
    volume: Option<Volume>,
    root: PathBuf,
    // Last, so that it is unmounted before its directory goes.
    _directory: TempDir,
}

impl Mounted {
    /// A volume of the usual size, mounted; `None` after noting a skip when nothing can be mounted here.
    pub fn new() -> Option<Mounted> {
        Builder::default().mount()
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the mount.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The volume behind it; `None` after noting a skip when the tests run on a peer.
    pub fn volume(&mut self) -> Option<&mut Volume> {
        if self.volume.is_none() {
            crate::skip::skip("needs FerryFS itself, and runs on a peer");
        }
        self.volume.as_mut()
    }

    /// The counters, unless the tests run on a peer.
    pub fn status(&self) -> Option<Status> {
        self.volume.as_ref().map(|volume| volume.status().unwrap_or_else(|error| panic!("{error:#}")))
    }

    /// Unmounts cleanly and mounts again; nothing on a peer.
    pub fn remount(&mut self) {
        if let Some(volume) = &mut self.volume {
            volume.remount().unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    /// Kills the daemon, checks the volume as the crash left it, mounts again; nothing on a peer.
    pub fn crash(&mut self) {
        if let Some(volume) = &mut self.volume {
            volume.kill();
            assert_clean(volume);
            volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    /// Unmounts cleanly and has fsck find nothing.
    pub fn finish(mut self) {
        if let Some(volume) = &mut self.volume {
            volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
            assert_clean(volume);
        }
    }
}

/// Has fsck find nothing wrong.
pub fn assert_clean(volume: &Volume) {
    let outcome = volume.fsck().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(outcome.success(), "fsck finds errors: {outcome}");
}

/// The programs under test. Unless the runner says where they are they are built first, so that no test meets those of yesterday.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let programs = Programs::find().expect("where the programs are");
        if std::env::var_os("FERRYFS_BIN_DIR").is_none() {
            let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.args(["build", "--quiet", "--bins", "-p", "fs", "-p", "mkfs", "-p", "copy_backend"]);
            if programs.directory().ends_with("release") {
                command.arg("--release");
            }
            let status = command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status().expect("cargo");
            assert!(status.success(), "the programs do not build");
        }
        programs
    })
}
