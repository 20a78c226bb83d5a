//! Zoned block devices that the kernel drives (ZNS, SMR, null_blk).

use crate::error::Result;
use crate::file_lock::system_io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zoned::{DeviceModel, sysfs};

/// The kernel's own name of a block device ("nvme0n1", "dm-3"), whatever the path that names it is called.
pub(crate) fn kernel_name(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(|error| system_io("examine", path, &error))?;
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let link = link.map_err(|error| system_io("find in sysfs", path, &error))?;
    Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Is this block device host-managed or host-aware? A device of which sysfs says nothing (a partition) is not.
pub(crate) fn is_zoned(path: &Path) -> Result<bool> {
    let name = kernel_name(path)?;
    let model = sysfs::device_model(Path::new(&name));
    Ok(matches!(model, Ok(DeviceModel::HostManaged | DeviceModel::HostAware)))
}
