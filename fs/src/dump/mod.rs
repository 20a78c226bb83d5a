//! Everything on the devices of a volume as it lies there, for people (text) and programs (JSON): `ferryfs dump`.
//!
//! One value per thing (a superblock record, a zone, a map page, a node, a batch of the log), handed out as it is read, so that memory stays
//! bounded. Damaged devices are dumped as far as they go: what cannot be read or decoded becomes a value that says why.

mod items;
mod log;
mod metadata;
mod superblocks;
#[cfg(test)]
mod tests;
mod text;

pub use items::{delta, item, key};
pub use superblocks::superblock;
pub use text::text;

use crate::error::Result;
use crate::volume::Volume;
use crate::volume::inspect::Inspected;
use serde_json::{Value, json};
use std::sync::Arc;
use zns::ZonedDevice;

/// What to dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// All records of the superblock rings; else only the one in use.
    pub superblocks: bool,
    /// The segment table.
    pub zones: bool,
    /// Pages of the node map.
    pub map: bool,
    /// All nodes with their items.
    pub nodes: bool,
    /// This node.
    pub node: Option<u64>,
    /// The log behind the checkpoint.
    pub log: bool,
}

impl DumpOptions {
    /// All there is.
    pub fn all() -> Self {
        Self { superblocks: true, zones: true, map: true, nodes: true, node: None, log: true }
    }
}

/// Takes the values one by one; an error ends the dump.
pub type Emit<'a> = &'a mut dyn FnMut(Value) -> std::io::Result<()>;

/// Dumps the volume on `devices` as its last checkpoint has it; the log is shown and not rolled forward.
///
/// # Errors
/// Only those of `emit`; everything else becomes a value with an `error`.
pub fn dump(devices: Vec<Arc<dyn ZonedDevice>>, options: &DumpOptions, emit: Emit<'_>) -> std::io::Result<()> {
    superblocks::dump(&devices, options.superblocks, emit)?;
    let opened: Result<Inspected> = Volume::inspect(devices, CACHE, false);
    let Inspected { volume, bad_zone_pages, .. } = match opened {
        Ok(opened) => opened,
        Err(error) => return emit(json!({ "kind": "volume", "error": error.to_string() })),
    };
    emit(superblocks::checkpoint(volume.identity()))?;
    if options.zones {
        for (page, error) in &bad_zone_pages {
            emit(json!({ "kind": "segment-table-page", "page": page, "error": error.to_string() }))?;
        }
        metadata::zones(&volume, emit)?;
    }
    if options.map {
        metadata::map_pages(&volume, emit)?;
    }
    if let Some(id) = options.node {
        emit(metadata::node(&volume, crate::NodeId(id)).0)?;
    }
    if options.nodes {
        metadata::nodes(&volume, emit)?;
    }
    if options.log {
        log::dump(&volume, emit)?;
    }
    Ok(())
}

const CACHE: u64 = 64 << 20;

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time in words: seconds and nanoseconds.
fn time(t: crate::format::item::Timestamp) -> String {
    format!("{}.{:09}", t.sec, t.nsec)
}
