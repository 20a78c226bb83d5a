//! A mkfs.xfs that knows zoned devices (6.15 or later), where this machine's own does not. It comes from Debian's testing suite, unpacked beside everything
//! else with the libraries and the loader that it was built for; nothing is installed.

use crate::archive::Archive;
use crate::kernel::cache_directory;
use crate::program;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// The first that makes zoned filesystems.
const ZONED: (u32, u32) = (6, 15);
const SUITE: &str = "testing";
/// mkfs.xfs and what it is linked with.
const PACKAGES: &[&str] = &["xfsprogs", "libc6", "libblkid1", "libuuid1", "libinih1", "liburcu8t64"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The directory with a mkfs.xfs for zoned devices, to be put before others of the search path; `None`: the machine's own is one.
///
/// # Errors
/// It cannot be fetched, or what was fetched does not run here.
pub fn provide(progress: &dyn Fn(&str)) -> Result<Option<PathBuf>> {
    if program::find("mkfs.xfs").is_some_and(|own| makes_zoned(&own)) {
        return Ok(None);
    }
    let cache = cache_directory()?;
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let place = cache.join("xfs-tools");
    let programs = place.join("bin");
    if !makes_zoned(&programs.join("mkfs.xfs")) {
        progress("fetching a mkfs.xfs that knows zoned devices");
        fetch(&cache, &place).with_context(|| format!("a newer mkfs.xfs (xfsprogs of Debian {SUITE}) cannot be made ready"))?;
        ensure!(makes_zoned(&programs.join("mkfs.xfs")), "the mkfs.xfs of Debian {SUITE} does not run here, or is older than 6.15");
    }
    Ok(Some(programs))
}

fn fetch(cache: &Path, place: &Path) -> Result<()> {
    let archive = Archive::of_suites(&cache.join("apt-testing"), &[SUITE.to_owned()])?;
    let work = tempfile::Builder::new().prefix("unpacking-").tempdir_in(cache)?;
    let ready = work.path().join("ready");
    let packages: Vec<String> = PACKAGES.iter().map(|package| (*package).to_owned()).collect();
    let count = archive.unpack(&packages, &ready)?;
    ensure!(count == PACKAGES.len(), "{count} of the packages {} could be downloaded", PACKAGES.join(", "));
    // The loader named in the program is this machine's, which may be too old for the libraries.
    let libraries = place.join(LIBRARIES);
    let [loader, libraries, program] =
        [libraries.join("ld-linux-x86-64.so.2"), libraries, place.join("usr/sbin/mkfs.xfs")].map(|p| p.display().to_string());
    fs::create_dir_all(ready.join("bin"))?;
    let script = ready.join("bin/mkfs.xfs");
    fs::write(&script, format!("#!/bin/sh\nexec '{loader}' --library-path '{libraries}' '{program}' \"$@\"\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::rename(&ready, place)?;
    Ok(())
}

/// Is this a mkfs.xfs that runs, and new enough?
fn makes_zoned(program: &Path) -> bool {
    let said = harness::run(Command::new(program).arg("-V"), LIMIT);
    said.is_ok_and(|said| said.success() && version(&said.stdout).is_some_and(|found| found >= ZONED))
}

/// From `mkfs.xfs version 6.15.0`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().rsplit(' ').next()?.split('.').map(|number| number.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(version("mkfs.xfs version 6.15.0\n"), Some((6, 15)));
        assert!(version("mkfs.xfs version 7.2.0").is_some_and(|found| found >= ZONED));
        assert!(version("mkfs.xfs version 6.1.0").is_some_and(|found| found < ZONED));
        assert_eq!((version("usage: mkfs.xfs"), version("")), (None, None));
        assert!(!makes_zoned(Path::new("/no/such/mkfs.xfs")));
    }
}
