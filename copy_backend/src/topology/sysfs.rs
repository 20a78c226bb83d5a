//! What Linux says of its block devices: sysfs, and device-mapper's ioctl.

use super::mapper;
use super::raid::{Array, Member};
use super::resolve::{DevNumber, MadeOf, Seen, System};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;

/// This computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxSystem;

impl System for LinuxSystem {
    fn number_of(&self, path: &Path) -> Result<DevNumber, String> {
        let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !metadata.file_type().is_block_device() {
            return Err(format!("{} is not a block device", path.display()));
        }
        let number = metadata.rdev();
        Ok(DevNumber { major: libc::major(number), minor: libc::minor(number) })
    }

    fn see(&self, device: DevNumber) -> Result<Seen, String> {
        let link = PathBuf::from(format!("/sys/dev/block/{device}"));
        let dir = std::fs::canonicalize(&link).map_err(|error| format!("device {device} is not in sysfs: {error}"))?;
        let kernel_name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let uevent = text(&dir.join("uevent")).unwrap_or_default();
        let node = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or(&kernel_name);
        let sectors = number(&dir.join("size")).ok_or_else(|| format!("sysfs does not say how large {kernel_name} is"))?;
        let partition = dir.join("partition").exists();
        // A partition has the queue of its disk.
        let disk_dir = if partition { dir.parent().unwrap_or(&dir).to_owned() } else { dir.clone() };
        let block_size = number(&disk_dir.join("queue/logical_block_size")).unwrap_or(SECTOR) as u32;
        let made_of = if partition {
            let disk = text(&disk_dir.join("dev")).and_then(|text| DevNumber::parse(&text));
            let start = number(&dir.join("start"));
            match (disk, start) {
                (Some(disk), Some(start)) => MadeOf::Partition { disk, start: start.saturating_mul(SECTOR) },
                _ => return Err(format!("sysfs does not say where partition {kernel_name} lies")),
            }
        } else if dir.join("dm").is_dir() {
            MadeOf::Mapper(mapper::read_table(device))
        } else if dir.join("md").is_dir() {
            MadeOf::Array(array(&dir.join("md")).map_err(|reason| format!("{kernel_name}: {reason}"))?)
        } else {
            MadeOf::Itself
        };
        let path = Path::new("/dev").join(node);
        Ok(Seen { name: kernel_name, path, size: sectors.saturating_mul(SECTOR), block_size, made_of })
    }
}

fn text(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// An array from its `md` directory. Members that are missing are simply not in the list.
fn array(md: &Path) -> Result<Array, String> {
    let level = text(&md.join("level")).ok_or("sysfs does not say its level")?;
    let disks = text(&md.join("raid_disks")).and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    // While one is under way, "NEW (OLD)" stands where one number stands else.
    let chunk = text(&md.join("chunk_size")).unwrap_or_default();
    let reshaping = chunk.contains('(') || text(&md.join("reshape_position")).is_some_and(|position| position != "none");
    let mut members = Vec::new();
    for index in 0..disks.min(1024) {
        let member = md.join(format!("rd{index}"));
        let device = text(&member.join("block/dev")).and_then(|text| DevNumber::parse(&text));
        let (offset, kib) = (number(&member.join("offset")), number(&member.join("size")));
        let (Some(device), Some(offset), Some(kib)) = (device, offset, kib) else { continue };
        members.push(Member { device, offset: offset.saturating_mul(SECTOR), size: kib.saturating_mul(1024) });
    }
    let first = |text: String| text.split_whitespace().next().and_then(|word| word.parse().ok());
    let layout = text(&md.join("layout")).and_then(first).unwrap_or(0);
    Ok(Array { level, layout, chunk: first(chunk).unwrap_or(0), reshaping, disks, members })
}
