//! The superblock ring: zones 0 and 1 of every device.
//!
//! A record is appended behind the last one. Where enough zones may be active both zones hold every record (a mirror), else they take turns.
//! A zone is reset only when the newest record is durable in the other one.

use crate::BLOCK;
use crate::addr::Addr;
use crate::error::{FsError, Result};
use crate::format::superblock::{RING_SLOTS, RING_ZONES, Superblock, SuperblockError};
use crate::volume::Volume;
use crate::volume::members::Members;
use std::sync::Arc;
use zns::{AlignedBuf, BufSlice, DeviceId, IoClass, Lba, ZoneAction, ZoneId, ZoneInfo, ZoneState, ZonedDevice};

/// Where the records of one device go.
#[derive(Clone, Copy, Debug)]
pub struct RingCursor {
    /// Next slot in each zone.
    next: [u32; RING_ZONES as usize],
    /// Slots in a zone.
    slots: u32,
    /// The zone with the newest record.
    current: usize,
    /// Generation of the newest record.
    generation: u64,
}

/// What a probe of a device found.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The newest valid record.
    pub superblock: Superblock,
    /// Where the next one goes.
    pub cursor: RingCursor,
}

impl RingCursor {
    /// A ring without records.
    pub fn new(zone_capacity: u32) -> Self {
        Self { next: [0; 2], slots: RING_SLOTS.min(zone_capacity), current: 0, generation: 0 }
    }
    /// Next slot of each ring zone.
    pub fn next(&self) -> [u32; RING_ZONES as usize] {
        self.next
    }
}

/// Reads the whole ring of a device.
///
/// # Errors
/// [`FsError::Volume`] that says what the device holds instead, or a device error.
pub fn probe(device: &Arc<dyn ZonedDevice>) -> Result<Probe> {
    let g = device.geometry();
    let capacity = (g.zone_capacity_bytes() / BLOCK as u64).min(u64::from(RING_SLOTS)) as u32;
    let reports = device.report(0..RING_ZONES)?;
    let mut cursor = RingCursor::new(capacity);
    let mut newest: Option<Superblock> = None;
    let mut worst = SuperblockError::NotOne;
    let mut failure = None;
    for zone in 0..RING_ZONES {
        let content = match read_ring_zone(device, &reports[zone as usize], cursor.slots) {
            Ok(content) => content,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        let mut last_valid = None;
        for (slot, block) in content.chunks_exact(BLOCK).enumerate() {
            match Superblock::decode(block) {
                Ok(found) => {
                    if last_valid.is_none_or(|(generation, _)| found.generation >= generation) {
                        last_valid = Some((found.generation, slot as u32 + 1));
                    }
                    if newest.as_ref().is_none_or(|n| found.generation > n.generation) {
                        newest = Some(found);
                        cursor.current = zone as usize;
                    }
                }
                Err(SuperblockError::NotOne) => {}
                Err(other) => worst = other,
            }
        }
        let by_content = last_valid.map_or(0, |(_, next)| next);
        let written = reports[zone as usize].written.0 * u64::from(g.block_size);
        // Behind a record that was written in part no other one fits: such a zone is full.
        let by_pointer = if written.is_multiple_of(BLOCK as u64) { (written / BLOCK as u64) as u32 } else { cursor.slots };
        cursor.next[zone as usize] = if g.software_zones { by_content } else { by_pointer.min(cursor.slots) };
    }
    match (newest, failure) {
        (Some(superblock), _) => {
            cursor.generation = superblock.generation;
            Ok(Probe { superblock, cursor })
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(FsError::Volume(format!("{}: {worst}", device.label()))),
    }
}

/// Reads all slots of zone `zone` of a device's ring; those that were never written are zeros.
///
/// # Errors
/// The device's.
pub(crate) fn read_zone(device: &Arc<dyn ZonedDevice>, zone: u32) -> Result<Vec<u8>> {
    let g = device.geometry();
    let slots = (g.zone_capacity_bytes() / BLOCK as u64).min(u64::from(RING_SLOTS)) as u32;
    let reports = device.report(zone..zone + 1)?;
    let report = reports.first().ok_or_else(|| FsError::Volume(format!("{}: zone {zone} is not reported", device.label())))?;
    read_ring_zone(device, report, slots)
}

/// What lies behind the write pointer is no record, whatever the drive gives for it: zeros, ones, or what was there before the zone was reset, such as a record of
/// another volume that is newer than ours (NVM Command Set Specification, "Deallocated or Unwritten Logical Blocks").
fn read_ring_zone(device: &Arc<dyn ZonedDevice>, zone: &ZoneInfo, slots: u32) -> Result<Vec<u8>> {
    let g = device.geometry();
    let (start, room) = (zone.start, slots as usize * BLOCK);
    let known = !g.software_zones && !matches!(zone.state, ZoneState::ReadOnly | ZoneState::Offline);
    let written = if known { (zone.written.0 * u64::from(g.block_size)).min(room as u64) as usize } else { room };
    let mut content = read_slots(device, start, written.next_multiple_of(BLOCK))?;
    content.truncate(written);
    content.resize(room, 0);
    Ok(content)
}

fn read_slots(device: &Arc<dyn ZonedDevice>, start: Lba, total: usize) -> Result<Vec<u8>> {
    let g = device.geometry();
    let step = (g.max_io_bytes as usize / BLOCK * BLOCK).clamp(BLOCK, 256 << 10);
    let mut content = Vec::with_capacity(total);
    while content.len() < total {
        let n = step.min(total - content.len());
        let lba = Lba(start.0 + content.len() as u64 / u64::from(g.block_size));
        match device.read(lba, AlignedBuf::zeroed(n), IoClass::Foreground) {
            Ok(buf) => content.extend_from_slice(&buf),
            // A bad block must not hide the records around it.
            Err(zns::DeviceError::PowerLost) => return Err(zns::DeviceError::PowerLost.into()),
            Err(_) => {
                for at in (0..n).step_by(BLOCK) {
                    let lba = Lba(lba.0 + at as u64 / u64::from(g.block_size));
                    let buf = device.read(lba, AlignedBuf::zeroed(BLOCK), IoClass::Foreground);
                    content.extend_from_slice(&buf.unwrap_or_else(|_| AlignedBuf::zeroed(BLOCK)));
                }
            }
        }
    }
    Ok(content)
}

/// Appends a record to the ring of one device; it is durable when this returns.
///
/// # Errors
/// The device's, when no zone of the ring took it.
pub fn append(members: &Members, device: DeviceId, cursor: &mut RingCursor, record: &[u8; BLOCK], mirrored: bool) -> Result<()> {
    let current = cursor.current;
    let order = [current, 1 - current];
    let mut stored = Vec::new();
    let mut failure = None;
    for &zone in &order {
        // In turns, the other zone is only for when the current one is full or fails.
        if !mirrored && !stored.is_empty() {
            break;
        }
        match append_to(members, device, cursor, zone, record) {
            Ok(()) => stored.push(zone),
            Err(error) => failure = Some(error),
        }
    }
    let Some(&first) = stored.first() else {
        return Err(failure.unwrap_or(FsError::Internal("no zone of the ring took the superblock")));
    };
    members.mark_dirty(device);
    members.flush()?;
    if first != current && !mirrored {
        let full = Addr::new(device, ZoneId(current as u32), 0);
        if let Err(error) = members.manage(full, ZoneAction::Finish) {
            tracing::debug!("finishing ring zone {full}: {error}");
        }
        cursor.next[current] = cursor.slots;
    }
    cursor.current = first;
    Ok(())
}

fn append_to(members: &Members, device: DeviceId, cursor: &mut RingCursor, zone: usize, record: &[u8; BLOCK]) -> Result<()> {
    let base = Addr::new(device, ZoneId(zone as u32), 0);
    let turn = cursor.current != zone;
    if turn && (cursor.next[zone] >= cursor.slots || cursor.next[1 - zone] >= cursor.slots) {
        // The newest record is in the other zone, durable: this one begins anew.
        members.manage(base, ZoneAction::Reset)?;
        cursor.next[zone] = 0;
    }
    if cursor.next[zone] >= cursor.slots {
        return Err(FsError::Internal("this zone of the superblock ring is full"));
    }
    let data = vec![BufSlice::whole(AlignedBuf::from_slice(record))];
    let at = base.plus(cursor.next[zone]);
    members.written.fetch_add(BLOCK as u64, std::sync::atomic::Ordering::Relaxed);
    let written = members.device(device).write(members.lba(at), data, IoClass::Log);
    // After a failed write nobody knows where the write pointer stands: no other record follows before the zone is reset.
    cursor.next[zone] = if written.is_ok() { cursor.next[zone] + 1 } else { cursor.slots };
    Ok(written?)
}

impl Volume {
    /// Gives the newest superblock to devices that a power cut left one generation behind. Without that, a power cut during the next
    /// checkpoint could leave them two behind, as old copies are.
    ///
    /// # Errors
    /// The first device whose ring did not take it.
    pub(super) fn bring_rings_up_to_date(&self) -> Result<()> {
        let mut rings = self.rings.lock();
        for (d, cursor) in rings.iter_mut().enumerate().filter(|(_, cursor)| cursor.generation < self.identity.generation) {
            let record = Superblock { device: d as u8, ..self.identity.clone() }.encode();
            append(&self.members, DeviceId(d as u8), cursor, &record, self.ring_mirrored)?;
        }
        Ok(())
    }

    /// Writes a superblock to every device.
    ///
    /// # Errors
    /// The first device whose ring did not take it.
    pub(super) fn write_superblock(&self, superblock: &Superblock) -> Result<()> {
        let mut rings = self.rings.lock();
        for (d, cursor) in rings.iter_mut().enumerate() {
            let record = Superblock { device: d as u8, ..superblock.clone() }.encode();
            append(&self.members, DeviceId(d as u8), cursor, &record, self.ring_mirrored)?;
        }
        Ok(())
    }
}
