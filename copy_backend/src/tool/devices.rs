//! Opening what the command line names: one device once, however often it is named, and a clear word when it cannot be.

use anyhow::{Result, anyhow};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use zns::raw::{RawOptions, open_raw};
use zns::{DeviceError, DeviceId, ZonedDevice};

/// Source and destination, perhaps the same.
pub(super) struct Pair {
    pub devices: Vec<Arc<dyn ZonedDevice>>,
    pub source: DeviceId,
    pub destination: DeviceId,
}

/// Opens the source for reading and the destination for writing.
pub(super) fn open_pair(source: &Path, destination: &Path, force: bool) -> Result<Pair> {
    let writable = || open(destination, false, force);
    if are_same(source, destination) {
        return Ok(Pair { devices: vec![writable()?], source: DeviceId(0), destination: DeviceId(0) });
    }
    let devices = vec![open(source, true, force)?, writable()?];
    Ok(Pair { devices, source: DeviceId(0), destination: DeviceId(1) })
}

/// Do two paths name one device or file?
pub(super) fn are_same(a: &Path, b: &Path) -> bool {
    let key = |metadata: Metadata| {
        if metadata.file_type().is_block_device() { (true, metadata.rdev(), 0) } else { (false, metadata.dev(), metadata.ino()) }
    };
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => key(a) == key(b),
        _ => false,
    }
}

/// Opens a device.
pub(super) fn open(path: &Path, read_only: bool, shared: bool) -> Result<Arc<dyn ZonedDevice>> {
    open_raw(path, &RawOptions { read_only, shared }).map_err(|error| match error {
        DeviceError::Busy { .. } => anyhow!(
            "{} is in use (mounted, part of another device, or locked by another program): end that use first, or use --force for \
             a device or file that is no drive image",
            path.display()
        ),
        _ => anyhow!("{error}"),
    })
}
