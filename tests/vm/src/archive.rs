//! Debian's archive, by the mirror that this machine's own package sources name: QEMU and kernels of other releases come from there, through apt with
//! lists of its own, so that the machine's package sources stay as they are.

use crate::program::{self, Need};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Downloads of a hundred MiB through a slow line take a while.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// A mirror and how its signatures are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    signed_by: Option<String>,
}

/// apt with our own sources and lists.
#[derive(Debug)]
pub struct Archive {
    directory: PathBuf,
    release: String,
}

impl Archive {
    /// Reads the lists of this machine's release and of the releases that kernels come from. Everything is kept in `directory`.
    ///
    /// # Errors
    /// As [`Archive::of_suites`].
    pub fn open(directory: &Path) -> Result<Archive> {
        let mut suites = vec!["bookworm-backports".to_owned(), "trixie-backports".to_owned()];
        if let Some(release) = release() {
            for suite in [release.clone(), format!("{release}-backports")] {
                if !suites.contains(&suite) {
                    suites.push(suite);
                }
            }
        }
        Archive::of_suites(directory, &suites)
    }

    /// Reads the lists of these suites. Everything is kept in `directory`.
    ///
    /// # Errors
    /// No Debian, no apt, no mirror of its main archive in the machine's sources, or the lists cannot be read from there.
    pub fn of_suites(directory: &Path, suites: &[String]) -> Result<Archive> {
        ensure!(program::find("apt-get").is_some() && program::find("dpkg-deb").is_some(), "apt is missing: guests need Debian's packages");
        let release = release().context("this system's release has no name: guests need Debian bookworm or later")?;
        let mirror = sources().iter().find_map(|text| mirror_of(text, &release));
        let mirror = mirror.with_context(|| format!("the package sources of this machine name no mirror of Debian {release}"))?;
        std::fs::create_dir_all(directory.join("lists/partial"))?;
        std::fs::create_dir_all(directory.join("cache/archives/partial"))?;
        let signed = mirror.signed_by.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        let lines: String = suites.iter().map(|suite| format!("deb {signed}{} {suite} main\n", mirror.uri)).collect();
        std::fs::write(directory.join("sources.list"), lines)?;
        let archive = Archive { directory: directory.to_path_buf(), release };
        archive.run("apt-get", &["-qq", "update"])?;
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, value: &Path| format!("-o{name}={}", value.display());
        command
            .arg(option("Dir::Etc::SourceList", &self.directory.join("sources.list")))
            .arg("-oDir::Etc::SourceParts=/dev/null")
            .arg(option("Dir::State::Lists", &self.directory.join("lists")))
            .arg(option("Dir::Cache", &self.directory.join("cache")))
            .args(["-oDpkg::Use-Pty=0", "-oAPT::Architecture=amd64", "-oAcquire::Retries=3"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        if rustix::process::geteuid().is_root() {
            // apt's own user may not reach a cache in somebody's home.
            command.arg("-oAPT::Sandbox::User=root");
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        Ok(harness::run(self.apt(program).args(arguments), LIMIT)?.ok()?.stdout)
    }

    /// Installs packages, QEMU from the backports of this release.
    ///
    /// # Errors
    /// Not root, or apt failed.
    pub fn install(&self, needs: &[Need]) -> Result<()> {
        let mut packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
        packages.sort_unstable();
        packages.dedup();
        let list: String = needs.iter().map(|need| format!("\n  {} ({}; package {})", need.program, need.purpose, need.package)).collect();
        if !rustix::process::geteuid().is_root() {
            bail!(
                "these programs are missing:{list}\nRun as root to have them installed, or install them: sudo apt-get install {}",
                packages.join(" ")
            );
        }
        let backports = format!("{}-backports", self.release);
        // From the release itself where that is new enough: backports come second for all but QEMU.
        let (qemu, rest): (Vec<&str>, Vec<&str>) = packages.iter().partition(|package| package.starts_with("qemu"));
        let install = ["-qq", "install", "-y", "--no-install-recommends"];
        if !rest.is_empty() {
            self.run("apt-get", &[&install[..], &rest].concat())?;
        }
        if !qemu.is_empty() {
            let target: &[&str] = if self.release == "bookworm" { &["-t", &backports] } else { &[] };
            self.run("apt-get", &[&install[..], target, &qemu].concat())?;
        }
        let left = program::missing(needs);
        ensure!(left.is_empty(), "installed {}, and still there is no {}", packages.join(", "), left[0].program);
        Ok(())
    }

    /// The package of the kernel that is current in `suite`, such as `linux-image-6.12.95+deb12-amd64`.
    ///
    /// # Errors
    /// The suite has none.
    pub fn kernel_package(&self, suite: &str) -> Result<String> {
        let shown = self.run("apt-cache", &["show", &format!("linux-image-amd64/{suite}")]);
        let shown = shown.with_context(|| format!("{suite} has no linux-image-amd64"))?;
        kernel_package(&shown).with_context(|| format!("linux-image-amd64 of {suite} depends on no kernel"))
    }

    /// Downloads and unpacks those of `packages` that exist into `target`; says how many there were.
    ///
    /// # Errors
    /// A download failed, or a package cannot be unpacked.
    pub fn unpack(&self, packages: &[String], target: &Path) -> Result<usize> {
        let downloads = target.join("packages");
        std::fs::create_dir_all(&downloads)?;
        for package in packages {
            let mut exists = self.apt("apt-cache");
            exists.args(["show", package]).stdin(Stdio::null());
            if harness::run(&mut exists, LIMIT)?.success() {
                let mut command = self.apt("apt-get");
                harness::run(command.args(["-qq", "download", package]).current_dir(&downloads), LIMIT)?.ok()?;
            }
        }
        let mut count = 0;
        for entry in std::fs::read_dir(&downloads)? {
            harness::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(target), LIMIT)?.ok()?;
            count += 1;
        }
        std::fs::remove_dir_all(&downloads)?;
        Ok(count)
    }
}

/// The release that this machine runs.
fn release() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned())
}

fn sources() -> Vec<String> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.insert(0, "/etc/apt/sources.list".into());
    let is_sources = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "list" || extension == "sources");
    paths.into_iter().filter(is_sources).filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

/// The mirror of `release` in a file of package sources, in either of apt's two forms.
fn mirror_of(text: &str, release: &str) -> Option<Mirror> {
    let lines = text.lines().find_map(|line| one_line(line, release));
    lines.or_else(|| text.split("\n\n").find_map(|stanza| of_stanza(stanza, release)))
}

/// `deb [options] URI suite component...`
fn one_line(line: &str, release: &str) -> Option<Mirror> {
    let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
    let mut signed_by = None;
    if let Some((options, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
        rest = after.trim_start();
    }
    let mut words = rest.split_whitespace();
    let uri = words.next()?;
    (words.next()? == release && words.any(|component| component == "main")).then(|| Mirror { uri: uri.to_owned(), signed_by })
}

/// A paragraph of `Name: value` lines.
fn of_stanza(stanza: &str, release: &str) -> Option<Mirror> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let has = |name: &str, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word));
    if !has("Types", "deb") || !has("Suites", release) || !has("Components", "main") || has("Enabled", "no") {
        return None;
    }
    let uri = field("URIs")?.split_whitespace().next()?.to_owned();
    // A key may stand in the stanza itself, on lines of its own; ours is a file.
    let signed_by = field("Signed-By").filter(|key| key.starts_with('/')).map(str::to_owned);
    Some(Mirror { uri, signed_by })
}

/// The kernel that `linux-image-amd64` depends on.
fn kernel_package(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let names = depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    let numbered = |name: &str| name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    names.into_iter().find(|name| numbered(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_forms() {
        let stanzas = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n\
                       Types: deb\nURIs: http://security.example/\nSuites: bookworm-security\nComponents: main\n";
        let mirror = |uri: &str, key: Option<&str>| Mirror { uri: uri.into(), signed_by: key.map(str::to_owned) };
        assert_eq!(mirror_of(stanzas, "bookworm"), Some(mirror("http://mirror.example/debian", Some("/k.gpg"))));
        assert_eq!(mirror_of(stanzas, "trixie"), None);
        let lines = "# deb http://no.example trixie main\ndeb-src http://no.example trixie main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie main contrib\n";
        assert_eq!(mirror_of(lines, "trixie"), Some(mirror("http://m.example/debian", Some("/k.gpg"))));
        assert_eq!(mirror_of("deb http://m.example/d trixie main", "trixie"), Some(mirror("http://m.example/d", None)));
        assert_eq!(mirror_of("deb http://m.example/d trixie contrib", "trixie"), None);
    }

    #[test]
    fn the_kernel_behind_the_package_without_a_number_is_found() {
        let shown = "Package: linux-image-amd64\nVersion: 7.3.4-1\nDepends: linux-base-amd64 (= 7.3.4-1), linux-image-7.3.4+deb13-amd64 (= 7.3.4-1)\n";
        assert_eq!(kernel_package(shown).as_deref(), Some("linux-image-7.3.4+deb13-amd64"));
        assert_eq!(kernel_package("Depends: linux-base-amd64\n"), None);
    }
}
