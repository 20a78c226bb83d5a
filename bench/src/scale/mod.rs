//! `ferryfs-bench scale`: what operations, memory and mounting cost when files, entries, extents and zones are many.
//!
//! Images are sparse: one of 25 TB takes of its backing what was written. Each part runs at several sizes, and a picture shows its costs against size:
//! what must not grow is a line that is level.

mod bed;
mod devices;
mod directory;
mod extents;
mod files;
mod growth;
mod plot;

use crate::report::Report;
use anyhow::{Context, Result};
use bed::Bed;
use fs::cli::size::parse_size;
use harness::bytes::MIB;
use harness::interrupt;
pub use plot::Plot;
use std::path::{Path, PathBuf};

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Sparse drives of up to 25 TB.
    Devices,
    /// A tree of files.
    Files,
    /// One directory.
    Directory,
    /// One file in many pieces.
    Extents,
}

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Files of the tree [default: 10,000,000, or 100,000 with --quick]
    #[arg(long, value_name = "N")]
    files: Option<u64>,
    /// Entries of the directory [default: 1,000,000, or 50,000 with --quick]
    #[arg(long, value_name = "N")]
    entries: Option<u64>,
    /// Extents of the file, which has a block of 4 KiB in each [default: 1,000,000, or 50,000 with --quick]
    #[arg(long, value_name = "N")]
    extents: Option<u64>,
    /// The cache of each mount
    #[arg(long, value_parser = parse_size, value_name = "SIZE", default_value = "64M")]
    cache_size: u64,
    /// What images lie on: memory, or a directory
    #[arg(long, value_name = "memory|DIRECTORY", default_value = "memory")]
    on: String,
    /// Writes a picture of each part into this directory
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
    /// Writes the table as Markdown into this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Arguments {
    /// Runs all of it.
    ///
    /// # Errors
    /// A backing that cannot be used or is too small, an interruption, and whatever goes wrong with a volume; of devices, which a backing may not hold, that
    /// is a row with the reason.
    pub fn run(&self, quick: bool, json: Option<&Path>) -> Result<()> {
        // What is mounted goes in order.
        interrupt::install();
        let wanted = |part| self.only.is_empty() || self.only.contains(&part);
        let count = |chosen: Option<u64>, few, many| chosen.unwrap_or(if quick { few } else { many }).max(1000);
        let mut bed = Bed { backing: self.on.clone(), cache: self.cache_size, quick, report: Report::new("scale"), plots: Vec::new() };
        if wanted(Part::Devices) {
            devices::run(&mut bed)?;
        }
        if wanted(Part::Files) {
            files::run(&mut bed, count(self.files, 100_000, 10_000_000))?;
        }
        if wanted(Part::Directory) {
            directory::run(&mut bed, count(self.entries, 50_000, 1_000_000))?;
        }
        if wanted(Part::Extents) {
            extents::run(&mut bed, count(self.extents, 50_000, 1_000_000))?;
        }
        let Bed { mut report, plots, .. } = bed;
        if let Some(directory) = &self.svg {
            std::fs::create_dir_all(directory)?;
            for plot in &plots {
                let path = directory.join(format!("scale-{}.svg", plot.name));
                std::fs::write(&path, plot.picture()).with_context(|| path.display().to_string())?;
            }
        }
        if let Some(path) = &self.markdown {
            let on = if self.on == "memory" { "memory" } else { "a disk" };
            let head = format!("images on {on}, cache_size {} MiB", self.cache_size / MIB);
            let small = if quick { "; quick: too small and short to be quoted" } else { "" };
            std::fs::write(path, report.markdown(&(head + small))).with_context(|| path.display().to_string())?;
        }
        report.plots = plots;
        report.finish(json)
    }
}
