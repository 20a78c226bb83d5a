//! Which device is it? Names move between boots: what the hardware or the filesystem says counts.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use zns::ZonedDevice;

/// A device as a state file remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// As it was named; for people.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// What tells it from others of its size; `None`: it has nothing of that kind.
    pub id: Option<String>,
}

impl Identity {
    pub fn of(path: &Path, device: &dyn ZonedDevice) -> Result<Self> {
        let found = std::fs::metadata(path)?;
        let id = if found.file_type().is_block_device() {
            block_id(rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()))
        } else {
            Some(format!("file {}:{}", found.dev(), found.ino()))
        };
        Ok(Self { path: path.display().to_string(), size: device.size_bytes(), block_size: device.geometry().block_size, id })
    }

    /// The path may have changed, nothing else.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.size, self.block_size, &self.id) == (other.size, other.block_size, &other.id)
    }
}

/// World-wide name, serial number or table name, with the start of a partition.
fn block_id(major: u32, minor: u32) -> Option<String> {
    let directory = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_owned());
    let first = |names: &[&str]| names.iter().find_map(|name| read(name).filter(|text| !text.is_empty()));
    match read("start") {
        Some(start) => first(&["../wwid", "../device/wwid", "../device/serial"]).map(|disk| format!("{disk} from {start}")),
        None => first(&["wwid", "device/wwid", "dm/uuid", "md/uuid", "device/serial", "loop/backing_file"]),
    }
}
