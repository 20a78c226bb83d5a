//! Calls cargo: where the project is, building it, and what a build produced.

use anyhow::{Context, Result, ensure};
use harness::Programs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The project's root directory.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// The cargo that runs us, in the project's root.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// What is to be known of the project from `cargo metadata`, for the platform that we run on: what others need was not downloaded.
pub fn metadata() -> Result<serde_json::Value> {
    let compiler = harness::run(Command::new("rustc").arg("-vV"), Duration::from_secs(60))?.ok()?;
    let host = compiler.stdout.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo metadata failed");
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// Builds the programs of `packages` and says where they are.
pub fn programs(release: bool, packages: &[&str]) -> Result<Programs> {
    let mut command = cargo();
    command.args(["build", "--bins", "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    if release {
        command.arg("--release");
    }
    let status = command.stdin(Stdio::null()).status().context("starting cargo")?;
    crate::interrupt::check()?;
    ensure!(status.success(), "the build failed");
    let metadata = metadata()?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    let programs = Programs::in_directory(Path::new(target).join(if release { "release" } else { "debug" }));
    for name in ["ferryfs", "mkfs.ferryfs", "fsck.ferryfs"] {
        ensure!(programs.has(name), "the build made no {name} in {}", programs.directory().display());
    }
    Ok(programs)
}

/// A test program that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestProgram {
    /// Package and target, for people.
    pub name: String,
    /// The program.
    pub executable: PathBuf,
    /// The directory its tests expect to run in.
    pub directory: PathBuf,
}

/// Builds every test program of the workspace.
pub fn test_programs() -> Result<Vec<TestProgram>> {
    let output = cargo()
        .args(["test", "--workspace", "--no-run", "--locked", "--message-format=json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    crate::interrupt::check()?;
    ensure!(output.status.success(), "the tests do not build");
    Ok(parse_artifacts(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_artifacts(lines: &str) -> Vec<TestProgram> {
    let mut found: Vec<TestProgram> = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
                return None;
            }
            let executable = PathBuf::from(message["executable"].as_str()?);
            let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
            let package = directory.file_name()?.to_string_lossy().into_owned();
            let target = message["target"]["name"].as_str()?;
            let name = if package == target { package } else { format!("{package}/{target}") };
            Some(TestProgram { name, executable, directory })
        })
        .collect();
    // The quick and telling ones first: the crates from the bottom up, then what goes through a mount.
    let rank = |program: &TestProgram| {
        let order = ["harness", "vm", "zns", "copy_backend", "gc", "fs", "mkfs", "xtask", "bench", "tests"];
        let package = program.name.split('/').next().unwrap_or_default();
        (order.iter().position(|p| *p == package).unwrap_or(order.len()), program.name.clone())
    };
    found.sort_by_key(rank);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_taken_from_the_messages_of_cargo() {
        let lines = r#"{"reason":"compiler-artifact","manifest_path":"/p/tests/Cargo.toml","target":{"name":"mount"},"profile":{"test":true},"executable":"/t/mount-1"}
{"reason":"compiler-artifact","manifest_path":"/p/zns/Cargo.toml","target":{"name":"zns"},"profile":{"test":true},"executable":"/t/zns-1"}
{"reason":"compiler-artifact","manifest_path":"/p/zns/Cargo.toml","target":{"name":"zns"},"profile":{"test":false},"executable":null}
not json"#;
        let names: Vec<String> = parse_artifacts(lines).into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["zns", "tests/mount"]);
    }
}
