//! `cargo xtask bench`: builds in release mode and runs `ferryfs-bench` with the options that give the published figures.

use crate::{build, interrupt, packages};
use anyhow::{Result, ensure};
use std::process::Command;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct BenchArguments {
    /// Which benchmark; all of them when left out
    #[arg(value_parser = ["fs", "copy", "gc", "wa"])]
    name: Option<String>,
    /// Smaller and fewer rounds
    #[arg(long)]
    quick: bool,
    /// More options for the benchmark, after `--`
    #[arg(last = true)]
    more: Vec<String>,
}

/// Runs one benchmark or all.
pub fn run(arguments: &BenchArguments) -> Result<()> {
    packages::provide(&[packages::need("mkfs.ext4", "e2fsprogs", "the peer that speed is compared with")])?;
    if let Some(reason) = packages::no_fuse() {
        anyhow::bail!("{reason}");
    }
    let programs = build::programs(true, &["fs", "mkfs", "bench"])?;
    let out = build::root().join("bench/out");
    std::fs::create_dir_all(&out)?;
    let names = match &arguments.name {
        Some(name) => vec![name.as_str()],
        None => vec!["copy", "gc", "fs", "wa"],
    };
    for name in names {
        interrupt::check()?;
        let mut command: Command = programs.command("ferryfs-bench")?;
        command.arg(name).arg("--json").arg(out.join(format!("{name}.json")));
        if arguments.quick {
            command.arg("--quick");
        }
        let status = command.args(&arguments.more).status()?;
        ensure!(status.success(), "ferryfs-bench {name} ended with {status}");
    }
    println!("results: {}", out.display());
    Ok(())
}
