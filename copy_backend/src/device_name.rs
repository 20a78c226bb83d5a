//! Which device is it, whatever it is called today: model, serial number and firmware, so that what was measured on it is used for it alone.
//!
//! A device of the kernel's is asked in sysfs; a partition bears the name of its disk. A file is its filesystem and inode; what our own process
//! carries out for it depends on our version, which stands for the firmware.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use zns::ZonedDevice;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceName {
    /// What the maker calls it.
    pub model: String,
    /// What tells it from others of its model.
    pub serial: String,
    /// What runs in it.
    pub firmware: String,
}

impl DeviceName {
    /// The name of a device that is open.
    pub fn of(device: &dyn ZonedDevice) -> Self {
        let path = device.backing().map_or_else(|| device.label().into(), |backing| backing.path);
        let firmware = format!("ferryfs {}", env!("CARGO_PKG_VERSION"));
        match std::fs::metadata(&path) {
            Ok(found) if found.file_type().is_block_device() => {
                let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
                Self::in_sysfs(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")))
            }
            Ok(found) => {
                let model = if device.native_copy().is_some() { "drive image" } else { "file" };
                Self { model: model.into(), serial: format!("{}:{}", found.dev(), found.ino()), firmware }
            }
            Err(_) => Self { model: "memory".into(), serial: device.label(), firmware },
        }
    }

    /// The name of the device with this directory in sysfs.
    fn in_sysfs(directory: &Path) -> Self {
        let disk = if directory.join("partition").exists() { directory.join("..") } else { directory.to_owned() };
        let read =
            |name: &&str| std::fs::read_to_string(disk.join(name)).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let first = |names: &[&str]| names.iter().find_map(read).unwrap_or_default();
        Self {
            model: first(&["device/model", "dm/name", "md/level"]),
            serial: first(&["wwid", "device/wwid", "device/serial", "dm/uuid", "md/uuid", "loop/backing_file"]),
            firmware: first(&["device/firmware_rev", "device/rev"]),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |word: &str| if word.is_empty() { "unknown".to_owned() } else { word.to_owned() };
        write!(f, "{} (serial {}, firmware {})", word(&self.model), word(&self.serial), word(&self.firmware))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_bears_the_name_of_its_disk() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("nvme0n1");
        std::fs::create_dir_all(disk.join("device")).unwrap();
        for (file, text) in
            [("device/model", "Fast One  \n"), ("device/firmware_rev", "1.2\n"), ("device/serial", "abc\n"), ("wwid", "eui.1\n")]
        {
            std::fs::write(disk.join(file), text).unwrap();
        }
        let expected = DeviceName { model: "Fast One".into(), serial: "eui.1".into(), firmware: "1.2".into() };
        assert_eq!(DeviceName::in_sysfs(&disk), expected);
        let partition = disk.join("nvme0n1p2");
        std::fs::create_dir(&partition).unwrap();
        std::fs::write(partition.join("partition"), "2\n").unwrap();
        assert_eq!(DeviceName::in_sysfs(&partition), expected);
        let unknown = DeviceName::in_sysfs(&root.path().join("gone"));
        assert_eq!(unknown.to_string(), "unknown (serial unknown, firmware unknown)");
    }
}
