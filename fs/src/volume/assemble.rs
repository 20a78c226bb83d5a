//! Putting the devices of a volume together: which belong to it, in which order, and whether all of them are up to date.

use crate::core::zones::ring_is_mirrored;
use crate::error::{FsError, Result};
use crate::format::superblock::Superblock;
use crate::volume::ring::{self, Probe, RingCursor};
use std::sync::Arc;
use zns::ZonedDevice;

/// The devices of a volume, complete and in order.
pub struct Assembled {
    /// In the order of the device table.
    pub devices: Vec<Arc<dyn ZonedDevice>>,
    /// Their rings.
    pub rings: Vec<RingCursor>,
    /// The newest superblock.
    pub superblock: Superblock,
    /// Features that this program does not know forbid writing.
    pub must_be_read_only: bool,
    /// Why the newest superblock that can be read is not the newest there was: nothing may be written.
    pub newer_lost: Option<String>,
}

/// Feature bits that this program knows.
const KNOWN: u64 = 0;

fn refuse<T>(reason: String) -> Result<T> {
    Err(FsError::Volume(reason))
}

/// Reads the rings of all devices given and puts the volume together.
///
/// # Errors
/// [`FsError::Volume`]: not a volume, devices of several volumes, a device missing, given twice, or out of date, features from the future.
pub fn assemble(devices: Vec<Arc<dyn ZonedDevice>>) -> Result<Assembled> {
    assemble_below(devices, u64::MAX)
}

/// The same with the newest superblock whose generation is below `limit`: what an older checkpoint had, of which newer ones may have used parts
/// for something else.
///
/// # Errors
/// As [`assemble`].
pub fn assemble_below(devices: Vec<Arc<dyn ZonedDevice>>, limit: u64) -> Result<Assembled> {
    if devices.is_empty() {
        return refuse("no device was given".into());
    }
    let active_limit = devices.iter().map(|device| device.geometry().active_limit()).min().unwrap_or(u32::MAX);
    let mut found = Vec::new();
    for device in devices {
        let probe = ring::probe(&device, ring_is_mirrored(active_limit), limit)?;
        found.push((device, probe));
    }
    let newest = found.iter().map(|(_, p)| &p.superblock).max_by_key(|s| s.generation).expect("at least one").clone();
    check_features(&newest, &found[0].0.label())?;
    let of_newest = |probe: &Probe| probe.superblock.uuid == newest.uuid && probe.superblock.generation == newest.generation;
    let complete = found.iter().any(|(_, probe)| probe.complete && of_newest(probe));
    let newer_lost = found.iter().find(|(_, probe)| probe.newer_lost && of_newest(probe)).map(|(device, _)| {
        format!(
            "{}: the last superblock is damaged in both copies, and the checkpoint {} before it is in use: what came after that is not shown; \
             what is readable can be copied away",
            device.label(),
            newest.generation
        )
    });
    let count = newest.members.len();
    let mut slots: Vec<Option<(Arc<dyn ZonedDevice>, RingCursor)>> = (0..count).map(|_| None).collect();
    for (device, probe) in found {
        let label = device.label();
        let mine = &probe.superblock;
        if mine.uuid != newest.uuid {
            return refuse(format!("{label} belongs to another volume than the other devices given"));
        }
        let index = usize::from(mine.device);
        let known = newest.members.get(index).filter(|m| mine.members.get(index).is_some_and(|n| n.uuid == m.uuid));
        let Some(member) = known else { return refuse(format!("{label} is no longer a member of its volume")) };
        // A power cut between the superblocks of one checkpoint leaves a device one generation behind, never two, and not when second copies were written.
        if mine.generation + 1 < newest.generation || (mine.generation < newest.generation && complete) {
            return refuse(format!(
                "{label} is out of date: its last checkpoint is {}, the volume's is {}; is it an old copy of the device?",
                mine.generation, newest.generation
            ));
        }
        let g = device.geometry();
        let zone_blocks = g.zone_size_bytes() / crate::BLOCK as u64;
        let capacity = g.zone_capacity_bytes() / crate::BLOCK as u64;
        if g.zones < member.zones || zone_blocks != member.zone_blocks || capacity != u64::from(member.zone_capacity) {
            return refuse(format!(
                "{label} has {} zones of {zone_blocks} blocks, the volume was made on {} zones of {}: the device was cut short or changed",
                g.zones, member.zones, member.zone_blocks
            ));
        }
        if slots[index].replace((device, probe.cursor)).is_some() {
            return refuse(format!("{label} was given twice, or it and its copy were both given"));
        }
    }
    if let Some(missing) = slots.iter().position(Option::is_none) {
        let member = &newest.members[missing];
        let mib = (u64::from(member.zones) * member.zone_blocks * crate::BLOCK as u64) >> 20;
        return refuse(format!(
            "device {missing} of the volume's {count} is missing (it has {} zones, {mib} MiB in all): name all of them",
            member.zones
        ));
    }
    let (devices, rings) = slots.into_iter().flatten().unzip();
    let must_be_read_only = newest.features.read_only & !KNOWN != 0;
    Ok(Assembled { devices, rings, superblock: newest, must_be_read_only, newer_lost })
}

fn check_features(superblock: &Superblock, label: &str) -> Result<()> {
    let unknown = superblock.features.incompatible & !KNOWN;
    if unknown != 0 {
        return refuse(format!("{label} uses features {unknown:#x} that this FerryFS does not know: use a newer one"));
    }
    Ok(())
}
