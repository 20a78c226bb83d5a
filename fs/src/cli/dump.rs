//! `ferryfs dump`: what lies on the devices of a volume, as text or as JSON (one value per line).

use super::devices::{Access, open_devices};
use super::failure::{CommandResult, FAILED, Failure, OrFail};
use crate::dump::{DumpOptions, dump, text};
use clap::Args;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

/// What to dump; without any choice: superblocks in use, checkpoint, zones and log.
#[derive(Debug, Args)]
pub struct DumpArguments {
    /// All records of the superblock rings.
    #[arg(long)]
    superblocks: bool,
    /// Every zone as the segment table has it.
    #[arg(long)]
    zones: bool,
    /// The pages of the node map.
    #[arg(long)]
    map: bool,
    /// All nodes of the metadata tree with their items.
    #[arg(long)]
    nodes: bool,
    /// One node.
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    /// The log behind the checkpoint.
    #[arg(long)]
    log: bool,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// For programs: a JSON value per line.
    #[arg(long)]
    json: bool,
    /// Every device of the volume.
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<PathBuf>,
}

impl DumpArguments {
    fn options(&self) -> DumpOptions {
        if self.all {
            return DumpOptions { node: self.node, ..DumpOptions::all() };
        }
        let chosen = self.superblocks || self.zones || self.map || self.nodes || self.log || self.node.is_some();
        DumpOptions {
            superblocks: self.superblocks,
            zones: self.zones || !chosen,
            map: self.map,
            nodes: self.nodes,
            node: self.node,
            log: self.log || !chosen,
        }
    }
}

/// The command.
///
/// # Errors
/// A device that cannot be opened or holds no volume, an output that cannot be written.
pub fn run(arguments: &DumpArguments) -> CommandResult {
    let devices = open_devices(&arguments.devices, Access::read_only()).or_fail(FAILED)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut no_volume = None;
    let written = dump(devices, &arguments.options(), &mut |value| {
        if value["kind"] == "volume" {
            no_volume = value["error"].as_str().map(str::to_owned);
        }
        match arguments.json {
            true => writeln!(out, "{value}"),
            false => write!(out, "{}", text(&value)),
        }
    });
    match (written.and_then(|()| out.flush()), no_volume) {
        // Whoever reads has seen enough.
        (Err(error), _) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        (Err(error), _) => Err(Failure::new(FAILED, error)),
        // What there is has been shown, and it is not what was asked for.
        (Ok(()), Some(error)) => Err(Failure::new(FAILED, error)),
        (Ok(()), None) => Ok(()),
    }
}
