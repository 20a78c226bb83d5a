//! The superblock ring: zones 0 and 1 of every device.
//!
//! Each record is written twice: the first copy of every device, a flush, then the second copies. Where enough zones may be active the copies lie in the two
//! zones (a mirror), else one behind the other in the same zone, and the zones take turns. A zone is reset only when the newest record is durable in the other
//! one.
//!
//! The order is what tells damage from a power cut. A second copy, whatever became of it, shows that the first ones of all devices were durable: if no copy
//! of a record can be read and its second one was begun, a newer checkpoint than the newest that can be read was relied on, and the volume must not be written
//! to. And a device that lacks a record of which another device has both copies is an old copy of the device.

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
    /// The zone with the first copy of the newest record.
    current: usize,
    /// The zones with a copy of the newest record.
    holds: [bool; RING_ZONES as usize],
    /// The zones where something that is no record follows the newest one.
    torn: [bool; RING_ZONES as usize],
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
    /// Both copies of it are there: the first ones were durable on all devices.
    pub complete: bool,
    /// A newer record was durable once, and no copy of it can be read.
    pub newer_lost: bool,
}

impl RingCursor {
    /// A ring without records.
    pub fn new(zone_capacity: u32) -> Self {
        Self { next: [0; 2], slots: RING_SLOTS.min(zone_capacity), current: 0, holds: [false; 2], torn: [false; 2], generation: 0 }
    }
    /// Next slot of each ring zone.
    pub fn next(&self) -> [u32; RING_ZONES as usize] {
        self.next
    }

    /// The zone that the first copy of the next record goes to. What follows a torn record is written where that is, so that torn records
    /// of several power cuts never look like the two copies of one.
    fn first(&self, mirrored: bool) -> usize {
        if mirrored && self.torn != [false; 2] { usize::from(!self.torn[0]) } else { self.current }
    }
}

/// What stands for each byte that cannot be read.
const UNREADABLE: u8 = 0xff;

/// What a slot of the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing was written there.
    Blank,
    /// A record of this generation.
    Whole(u64),
    /// A record that is damaged, or was not written to its end, or cannot be read.
    Bad,
    /// Something else: what a write pointer that jumped in a power cut leaves behind it.
    Foreign,
}

impl Slot {
    /// What a block is.
    pub(crate) fn of(block: &[u8]) -> (Self, std::result::Result<Superblock, SuperblockError>) {
        let decoded = Superblock::decode(block);
        let slot = match &decoded {
            Ok(found) => Self::Whole(found.generation),
            Err(SuperblockError::NotOne) if block.iter().all(|&byte| byte == 0) => Self::Blank,
            Err(SuperblockError::NotOne) if block.iter().any(|&byte| byte != UNREADABLE) => Self::Foreign,
            Err(_) => Self::Bad,
        };
        (slot, decoded)
    }
}

/// The slot behind the newest record of a zone; behind the last one follows the first.
fn next_of(zone: &[Slot]) -> usize {
    let generation = |slot: usize| if let Slot::Whole(generation) = zone[slot] { Some(generation) } else { None };
    let newest = (0..zone.len()).filter(|slot| generation(*slot).is_some()).max_by_key(|slot| (generation(*slot), *slot));
    newest.map_or(0, |slot| if slot + 1 < zone.len() { slot + 1 } else { 0 })
}

/// Was the second copy of a record begun that is newer than all that can be read?
pub(crate) fn is_newer_lost(zones: [&[Slot]; RING_ZONES as usize], mirrored: bool) -> bool {
    let bad = |zone: usize, behind: usize| zones[zone].get(next_of(zones[zone]) + behind) == Some(&Slot::Bad);
    if mirrored { bad(0, 0) && bad(1, 0) } else { (bad(0, 0) && bad(0, 1)) || (bad(1, 0) && bad(1, 1)) }
}

/// Reads the whole ring of a device. `mirrored`: the copies of a record are in the two zones.
///
/// # Errors
/// [`FsError::Volume`] that says what the device holds instead, or a device error.
pub fn probe(device: &Arc<dyn ZonedDevice>, mirrored: bool) -> Result<Probe> {
    let g = device.geometry();
    let capacity = (g.zone_capacity_bytes() / BLOCK as u64).min(u64::from(RING_SLOTS)) as u32;
    let reports = device.report(0..RING_ZONES)?;
    let mut cursor = RingCursor::new(capacity);
    let mut newest: Option<Superblock> = None;
    let mut worst = SuperblockError::NotOne;
    let mut failure = None;
    let mut all: [Vec<Slot>; RING_ZONES as usize] = Default::default();
    for zone in 0..RING_ZONES as usize {
        let content = match read_ring_zone(device, &reports[zone], cursor.slots) {
            Ok(content) => content,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        for block in content.chunks_exact(BLOCK) {
            let (slot, decoded) = Slot::of(block);
            all[zone].push(slot);
            match decoded {
                Ok(found) if newest.as_ref().is_none_or(|n| found.generation > n.generation) => {
                    newest = Some(found);
                    cursor.current = zone;
                }
                Ok(_) | Err(SuperblockError::NotOne) => {}
                // Sound, and of a version that this program does not know: whatever else lies there, that one counts.
                Err(SuperblockError::Version(version)) => {
                    return Err(FsError::Volume(format!("{}: {}", device.label(), SuperblockError::Version(version))));
                }
                Err(other) => worst = other,
            }
        }
        let next = next_of(&all[zone]);
        cursor.torn[zone] = matches!(all[zone].get(next), Some(Slot::Bad | Slot::Foreign));
        let any = all[zone].iter().any(|slot| matches!(slot, Slot::Whole(_)));
        // Behind the last slot there is no other one before the zone is reset.
        let by_content = if any && next == 0 { cursor.slots } else { next as u32 };
        let written = reports[zone].written.0 * u64::from(g.block_size);
        // Behind a record that was written in part no other one fits: such a zone is full.
        let by_pointer = if written.is_multiple_of(BLOCK as u64) { (written / BLOCK as u64) as u32 } else { cursor.slots };
        cursor.next[zone] = if g.software_zones { by_content } else { by_pointer.min(cursor.slots) };
    }
    match (newest, failure) {
        (Some(superblock), _) => {
            let copies = |zone: &Vec<Slot>| zone.iter().filter(|slot| **slot == Slot::Whole(superblock.generation)).count();
            cursor.generation = superblock.generation;
            cursor.holds = [copies(&all[0]) > 0, copies(&all[1]) > 0];
            let complete = all.iter().map(copies).sum::<usize>() > 1;
            Ok(Probe { superblock, cursor, complete, newer_lost: is_newer_lost([&all[0], &all[1]], mirrored) })
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(FsError::Volume(format!("{}: {worst}", device.label()))),
    }
}

/// Reads all slots of zone `zone` of a device's ring; those that were never written are zeros, those that cannot be read are all ones.
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
                    match buf {
                        Ok(buf) => content.extend_from_slice(&buf),
                        // Nobody knows what it is: not nothing.
                        Err(_) => content.resize(content.len() + BLOCK, UNREADABLE),
                    }
                }
            }
        }
    }
    Ok(content)
}

/// Slots that the copies of a record take in one zone.
fn slots_of_a_record(cursor: &RingCursor, mirrored: bool) -> u32 {
    if mirrored { 1 } else { cursor.slots.min(2) }
}

/// Writes the first copy of a record into the ring of one device; it is durable with the next flush. Gives the zone.
///
/// # Errors
/// The device's, when no zone of the ring took it.
fn write_first(members: &Members, device: DeviceId, cursor: &mut RingCursor, record: &[u8; BLOCK], mirrored: bool) -> Result<usize> {
    let first = cursor.first(mirrored);
    let mut failure = None;
    for zone in [first, 1 - first] {
        // A torn record, and the other zone, are left behind when the zones take turns.
        let anew = !mirrored && (zone != cursor.current || cursor.torn[zone]) && cursor.holds[1 - zone];
        let stays = mirrored || zone != cursor.current || !cursor.torn[zone];
        let room = if stays { make_room(members, device, cursor, zone, slots_of_a_record(cursor, mirrored), anew) } else { Err(FULL) };
        match room.and_then(|()| write_slot(members, device, cursor, zone, record)) {
            Ok(()) => return Ok(zone),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or(FULL))
}

/// The first copies of all devices are durable: from here on the record is the newest.
fn settle_first(members: &Members, device: DeviceId, cursor: &mut RingCursor, zone: usize, mirrored: bool) {
    if zone != cursor.current && !mirrored {
        let left = Addr::new(device, ZoneId(cursor.current as u32), 0);
        if let Err(error) = members.manage(left, ZoneAction::Finish) {
            tracing::debug!("finishing ring zone {left}: {error}");
        }
        cursor.next[cursor.current] = cursor.slots;
    }
    cursor.current = zone;
    cursor.holds = [zone == 0, zone == 1];
    cursor.torn = [false; 2];
}

/// Writes the second copy. The record is durable already: without a second copy it is worth less, and no less true.
fn write_second(members: &Members, device: DeviceId, cursor: &mut RingCursor, record: &[u8; BLOCK], mirrored: bool) {
    let zone = if mirrored { 1 - cursor.current } else { cursor.current };
    let room = make_room(members, device, cursor, zone, 1, false);
    match room.and_then(|()| write_slot(members, device, cursor, zone, record)) {
        Ok(()) => cursor.holds[zone] = true,
        Err(error) => tracing::debug!("the second copy of the superblock on device {}: {error}", device.0),
    }
}

const FULL: FsError = FsError::Internal("this zone of the superblock ring is full");

/// Sees to it that so many slots are free in a zone; it is reset where the newest record is durable in the other one, if it must be, or `anew`.
fn make_room(members: &Members, device: DeviceId, cursor: &mut RingCursor, zone: usize, slots: u32, anew: bool) -> Result<()> {
    if !anew && cursor.next[zone] + slots <= cursor.slots {
        return Ok(());
    }
    if !cursor.holds[1 - zone] {
        return Err(FULL);
    }
    // The copy in the other zone may be a second one, which nobody flushed yet.
    members.flush()?;
    members.manage(Addr::new(device, ZoneId(zone as u32), 0), ZoneAction::Reset)?;
    cursor.next[zone] = 0;
    cursor.holds[zone] = false;
    Ok(())
}

fn write_slot(members: &Members, device: DeviceId, cursor: &mut RingCursor, zone: usize, record: &[u8; BLOCK]) -> Result<()> {
    let at = Addr::new(device, ZoneId(zone as u32), cursor.next[zone]);
    let data = vec![BufSlice::whole(AlignedBuf::from_slice(record))];
    members.written.fetch_add(BLOCK as u64, std::sync::atomic::Ordering::Relaxed);
    let written = members.device(device).write(members.lba(at), data, IoClass::Log);
    // After a failed write nobody knows where the write pointer stands: no other record follows before the zone is reset.
    cursor.next[zone] = if written.is_ok() { cursor.next[zone] + 1 } else { cursor.slots };
    members.mark_dirty(device);
    Ok(written?)
}

impl Volume {
    /// Gives the newest superblock to devices that a power cut left one generation behind. Without that, a power cut during the next
    /// checkpoint could leave them two behind, as old copies are.
    ///
    /// # Errors
    /// The first device whose ring did not take it.
    pub(super) fn bring_rings_up_to_date(&self) -> Result<()> {
        self.write_records(&self.identity, |cursor| cursor.generation < self.identity.generation)
    }

    /// Writes a superblock to every device; it is durable on all of them when this returns.
    ///
    /// # Errors
    /// The first device whose ring did not take it.
    pub(super) fn write_superblock(&self, superblock: &Superblock) -> Result<()> {
        self.write_records(superblock, |_| true)
    }

    fn write_records(&self, superblock: &Superblock, wanted: impl Fn(&RingCursor) -> bool) -> Result<()> {
        let (members, mirrored) = (&self.members, self.ring_mirrored);
        let mut rings = self.rings.lock();
        let mut firsts = Vec::new();
        for (d, cursor) in rings.iter_mut().enumerate().filter(|(_, cursor)| wanted(cursor)) {
            let record = Superblock { device: d as u8, ..superblock.clone() }.encode();
            let zone = write_first(members, DeviceId(d as u8), cursor, &record, mirrored)?;
            firsts.push((d, zone, record));
        }
        members.flush()?;
        for (d, zone, _) in &firsts {
            settle_first(members, DeviceId(*d as u8), &mut rings[*d], *zone, mirrored);
        }
        for (d, _, record) in &firsts {
            write_second(members, DeviceId(*d as u8), &mut rings[*d], record, mirrored);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.`: blank, `x`: damaged, `?`: foreign, digits: generations.
    fn slots(text: &str) -> Vec<Slot> {
        let slot = |letter: char| match letter {
            '.' => Slot::Blank,
            'x' => Slot::Bad,
            '?' => Slot::Foreign,
            digit => Slot::Whole(u64::from(digit.to_digit(10).expect("a digit"))),
        };
        text.chars().map(slot).collect()
    }

    fn lost(mirrored: bool, zones: [&str; 2]) -> bool {
        is_newer_lost([&slots(zones[0]), &slots(zones[1])], mirrored)
    }

    #[test]
    fn a_mirror_has_lost_a_record_when_both_copies_were_begun() {
        for zones in
            [["123.", "123."], ["123x", "123."], ["123.", "123x"], ["1234", "123x"], ["12x3", "1x3."], ["123?", "123?"], ["....", "...."]]
        {
            assert!(!lost(true, zones), "{zones:?}");
        }
        for zones in [["123x", "123x"], ["x567", "x567"], ["123x", "x..."]] {
            assert!(lost(true, zones), "{zones:?}");
        }
    }

    #[test]
    fn zones_in_turns_have_lost_a_record_when_both_slots_of_it_were_begun() {
        for zones in [
            ["1122..", "......"],
            ["1122x.", "......"],
            ["112x..", "......"],
            ["112233", "x....."],
            ["1xx22.", "......"],
            ["1122xx", "33...."],
        ] {
            let expected = zones[0] == "1122xx";
            assert_eq!(lost(false, zones), expected, "{zones:?}");
        }
        for zones in [["1122xx", "......"], ["112233", "xx...."], ["xx1122", "334455"]] {
            assert!(lost(false, zones), "{zones:?}");
        }
    }
}
