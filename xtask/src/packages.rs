//! What other programs a task needs, and how to get them on this system.

use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A program and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Name of the program.
    pub program: &'static str,
    /// Package for apt-get.
    pub package: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// Makes a [`Need`].
pub const fn need(program: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need { program, package, purpose }
}

/// Installs what is missing when we may, else says what is missing and how to get it.
pub fn provide(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|n| !installed(n.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let list: String = missing.iter().map(|n| format!("\n  {} ({}; package {})", n.program, n.purpose, n.package)).collect();
    let by_hand = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !installed("apt-get") {
        bail!("these programs are missing:{list}\nInstall them with this system's package manager; on Debian: {by_hand}");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("these programs are missing:{list}\nRun as root to have them installed, or install them: sudo {by_hand}");
    }
    eprintln!("installing {}", packages.join(", "));
    let apt = |arguments: &[&str]| -> Result<bool> {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]);
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        Ok(command.status()?.success())
    };
    if !apt(&["update"])? {
        eprintln!("note: apt-get update failed; trying with the package lists that are there");
    }
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&packages);
    let done = apt(&install)?;
    let left: Vec<&str> = missing.iter().map(|n| n.program).filter(|p| !installed(p)).collect();
    if !done || !left.is_empty() {
        bail!("could not install {}: `{by_hand}` says why", left.join(", "));
    }
    Ok(())
}

/// Whether a program is on the path, or where administrators' programs are.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into))
        .any(|directory| is_executable(&directory.join(program)))
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// Why nothing can be mounted here, if so.
pub fn no_fuse() -> Option<String> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        return Some(match error.kind() {
            std::io::ErrorKind::NotFound => {
                "/dev/fuse is missing: load the kernel's fuse module (`modprobe fuse`), or give the container the device \
                 (`--device /dev/fuse --cap-add SYS_ADMIN`)"
                    .into()
            }
            _ => format!("/dev/fuse cannot be opened: {error}"),
        });
    }
    if !rustix::process::geteuid().is_root() && !installed("fusermount3") {
        return Some("mounting needs root, or fusermount3 (package fuse3)".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        assert!(installed("sh"));
        assert!(!installed("no-such-program-anywhere"));
        assert!(provide(&[need("sh", "dash", "scripts")]).is_ok());
    }
}
