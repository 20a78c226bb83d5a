//! Suites that others wrote, from the registry of packages. They are installed beside what is built, and `tests/tests/mount/foreign.rs` runs them.

use crate::{build, interrupt};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Packages and the versions that the tests know.
const SUITES: [(&str, &str); 2] = [("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// Has the suites in a directory below `target`, which it returns. What cannot be had is said, and its tests are skipped.
pub fn provide(target: &Path) -> anyhow::Result<PathBuf> {
    let root = target.join("foreign");
    for (package, version) in SUITES {
        // Nothing to do, and no question to the registry, where that version is installed already.
        let mut command = build::cargo();
        command.args(["install", "--locked", "--quiet", package, "--version", &format!("={version}"), "--root"]).arg(&root);
        let installed = command.stdin(Stdio::null()).status().is_ok_and(|status| status.success());
        interrupt::check()?;
        if !installed {
            println!("note: the suite {package} {version} could not be installed; its tests are skipped, unless it is on the path");
        }
    }
    Ok(root.join("bin"))
}

/// The path of programs with `directory` ahead of it.
pub fn path_with(directory: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory.to_path_buf()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_installed_is_found_first() {
        let path = path_with(Path::new("/a/b"));
        let all: Vec<PathBuf> = std::env::split_paths(&path).collect();
        assert_eq!(all[0], Path::new("/a/b"));
        assert!(all.len() > 1, "the rest of the path is gone");
    }
}
