//! `ferryfs-bench fs`: FerryFS beside the ceiling of FUSE, filesystems of the kernel and fuse2fs, under the same loads.
//!
//! A round runs each load on each system in turn, on a filesystem that was made for it, alone on the machine: no daemon of another works in the background,
//! and none profits from what a load before it left. The first round warms memory and programs and is not counted. Ratios are taken within a round, where
//! both sides met the same machine, and their median and spread over the rounds are what counts.

mod loads;
mod systems;
mod table;
mod trees;

use crate::report::write;
use crate::rig::Rig;
use anyhow::{Context, Result, ensure};
use harness::bytes::{GIB, MIB};
use harness::interrupt;
pub use loads::Load;
use loads::Scale;
use std::path::{Path, PathBuf};
use systems::Stand;
pub use systems::System;
use table::{Measured, Series, Table};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these loads
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,
    /// Only these systems
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// What images lie on: memory, or a directory on a disk; both when both are named
    #[arg(long = "on", value_name = "memory|DIRECTORY", value_delimiter = ',', default_value = "memory")]
    backings: Vec<String>,
    /// Counted rounds
    #[arg(long)]
    rounds: Option<usize>,
    /// Writes a picture of ratios for each backing into this directory
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
    /// Writes the tables as Markdown into this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Arguments {
    /// Runs all of it.
    ///
    /// # Errors
    /// A backing that cannot be used, an interruption. What a system or a load cannot do is a gap in the table with the reason.
    pub fn run(&self, quick: bool, json: Option<&Path>) -> Result<()> {
        // What is mounted goes in order.
        interrupt::install();
        let systems = if self.systems.is_empty() { &System::ALL[..] } else { &self.systems };
        let loads = if self.loads.is_empty() { &Load::ALL[..] } else { &self.loads };
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 5 });
        ensure!(rounds > 0, "no round would be counted: --rounds takes 1 or more");
        let mut tables = Vec::new();
        for backing in &self.backings {
            let table = on(backing, systems, loads, rounds, quick)?;
            print!("\n{}", table.text());
            if let Some(directory) = &self.svg {
                std::fs::create_dir_all(directory)?;
                let name = if backing == "memory" { "fs-memory.svg" } else { "fs-disk.svg" };
                let path = directory.join(name);
                std::fs::write(&path, table.picture()).with_context(|| path.display().to_string())?;
            }
            tables.push(table);
        }
        if let Some(path) = &self.markdown {
            let text: String = tables.iter().map(Table::markdown).collect();
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        write(json, &tables)
    }
}

/// All rounds on one backing.
fn on(backing: &str, systems: &[System], loads: &[Load], rounds: usize, quick: bool) -> Result<Table> {
    let size = if quick { GIB } else { 3 * GIB };
    let in_memory = backing == "memory";
    let rig = if in_memory { Rig::new(size + GIB)? } else { Rig::within(Path::new(backing))? };
    // What loads unpack does not come from the disk that is measured.
    let scratch = Rig::new(GIB)?;
    let scale = Scale::new(quick, scratch.path())?;
    let mut measured: Vec<(Load, System, Measured)> =
        loads.iter().flat_map(|load| systems.iter().map(|system| (*load, *system, Measured::default()))).collect();
    for round in 0..=rounds {
        for (load, system, so_far) in &mut measured {
            interrupt::check()?;
            if so_far.refusal.is_some() || (!in_memory && system.is_in_memory()) {
                continue;
            }
            eprintln!("round {round} of {rounds}: {load:?} on {}", system.name());
            match once(*load, *system, rig.path(), size, &scale) {
                Ok(rates) if round > 0 => so_far.rounds.push(rates),
                Ok(_) => {}
                Err(error) => {
                    interrupt::check()?;
                    eprintln!("  {error:#}");
                    so_far.refusal = Some(crate::cleaning::others::reason(&error));
                }
            }
        }
    }
    let series = measured.into_iter().map(|(load, system, measured)| Series { load, system, measured }).collect();
    Ok(Table::new(if in_memory { "memory" } else { "a disk" }, size / MIB, quick, series))
}

/// One load on one system that is made for it.
fn once(load: Load, system: System, directory: &Path, size: u64, scale: &Scale) -> Result<Vec<f64>> {
    let place = tempfile::TempDir::with_prefix_in("stand-", directory)?;
    let stand = Stand::new(system, place.path(), size)?;
    load.run(stand.root(), scale)
}
