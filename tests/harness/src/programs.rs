//! Where the built programs are.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that holds `ferryfs`, `mkfs.ferryfs` and `fsck.ferryfs`.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// The programs in `directory`.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Programs {
        Programs { directory: directory.into() }
    }

    /// The directory named by `FERRYFS_BIN_DIR`, else the target directory that the running program lies in.
    pub fn find() -> Result<Programs> {
        if let Some(directory) = std::env::var_os("FERRYFS_BIN_DIR") {
            return Ok(Programs::in_directory(directory));
        }
        let own = std::env::current_exe().context("where this program is")?;
        let mut directory = own.parent().context("a program lies in a directory")?;
        if directory.file_name().is_some_and(|name| name == "deps") {
            directory = directory.parent().context("deps lies in a directory")?;
        }
        Ok(Programs::in_directory(directory))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the program is there.
    pub fn has(&self, name: &str) -> bool {
        self.directory.join(name).is_file()
    }

    /// The path of a program, or an error that says how to build it.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        anyhow::ensure!(path.is_file(), "{} is not built: run `cargo build --workspace` (with --release for {})", name, "target/release");
        Ok(path)
    }

    /// A command that runs a program.
    pub fn command(&self, name: &str) -> Result<Command> {
        Ok(Command::new(self.path(name)?))
    }
}
