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
use crate::format::superblock::{self, MAGIC, RING_SLOTS, RING_ZONES, Superblock, SuperblockError};
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
    /// Generation of the newest record.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The zone that the first copy of the next record goes to. What follows a torn record is written where that is, so that torn records
    /// of several power cuts never look like the two copies of one.
    fn first(&self, mirrored: bool) -> usize {
        if mirrored && self.torn != [false; 2] { usize::from(!self.torn[0]) } else { self.current }
    }
}

/// What a slot of the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing was written there.
    Blank,
    /// A record.
    Whole(Copy),
    /// A record that is damaged or was not written to its end, as far as can be seen.
    Bad(Copy),
    /// It cannot be read.
    Unreadable,
    /// Something else: what a write pointer that jumped in a power cut leaves behind it.
    Foreign,
}

/// Which copy of which record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Copy {
    pub generation: u64,
    pub second: bool,
}

impl Slot {
    /// What a block is. A drive may give zeros or ones for what was never written.
    pub(crate) fn of(block: &[u8]) -> (Self, std::result::Result<Superblock, SuperblockError>) {
        let decoded = Superblock::decode(block);
        let all = |value: u8| *block == [value; BLOCK];
        let copy = Copy { generation: superblock::generation_of(block), second: superblock::is_second_copy(block) };
        let slot = match &decoded {
            Ok(_) => Self::Whole(copy),
            Err(SuperblockError::NotOne) if all(0) || all(0xff) => Self::Blank,
            Err(SuperblockError::NotOne) => Self::Foreign,
            Err(_) if *block == unreadable() => Self::Unreadable,
            Err(_) => Self::Bad(copy),
        };
        (slot, decoded)
    }

    /// May this be a copy of a record that is newer than `known`, and cannot be had?
    fn is_lost(self, known: Option<u64>) -> bool {
        match self {
            Self::Unreadable => true,
            Self::Bad(copy) => known.is_none_or(|known| copy.generation > known),
            Self::Blank | Self::Whole(_) | Self::Foreign => false,
        }
    }
}

/// What stands for a block that cannot be read: no record, and not nothing.
fn unreadable() -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..MAGIC.len()].copy_from_slice(MAGIC);
    block
}

/// The newest generation of a zone, and the last slot that has it.
fn newest_in(zone: &[Slot]) -> Option<(u64, usize)> {
    let generation = |(at, slot): (usize, &Slot)| if let Slot::Whole(copy) = slot { Some((copy.generation, at)) } else { None };
    zone.iter().enumerate().filter_map(generation).max()
}

/// The slot behind the newest record of a zone. `wraps`: behind the last one follows the first, where older records are written over.
fn next_of(zone: &[Slot], wraps: bool) -> usize {
    newest_in(zone).map_or(0, |(_, slot)| if wraps && slot + 1 == zone.len() { 0 } else { slot + 1 })
}

/// Was the second copy of a record begun that is newer than all that can be read? Looks where the next copies go: behind the newest record of each zone,
/// and, in turns, at the begin of the zone that does not hold the newest one. `wraps`: see [`next_of`].
pub(crate) fn is_newer_lost(zones: [&[Slot]; RING_ZONES as usize], mirrored: bool, wraps: bool) -> bool {
    let newest = zones.map(newest_in);
    let known = newest.iter().flatten().map(|(generation, _)| *generation).max();
    let places: [(usize, usize); 2] = if mirrored {
        [(0, next_of(zones[0], wraps)), (1, next_of(zones[1], wraps))]
    } else {
        let holder = usize::from(newest[1] > newest[0]);
        let at = next_of(zones[holder], wraps);
        let begun = |zone: usize, at: usize| [(zone, at), (zone, at + 1)];
        let is_used =
            |places: [(usize, usize); 2]| places.iter().all(|(zone, at)| zones[*zone].get(*at).is_some_and(|slot| slot.is_lost(known)));
        if is_used(begun(holder, at)) { begun(holder, at) } else { begun(1 - holder, 0) }
    };
    let slots = places.map(|(zone, at)| zones[zone].get(at).copied().filter(|slot| slot.is_lost(known)));
    match slots {
        [Some(Slot::Unreadable), Some(_)] | [Some(_), Some(Slot::Unreadable)] => true,
        // Two first copies are what a write that failed and one that was torn leave.
        [Some(Slot::Bad(a)), Some(Slot::Bad(b))] => a.generation == b.generation && (a.second || b.second),
        _ => false,
    }
}

/// Reads the whole ring of a device. `mirrored`: the copies of a record are in the two zones. `limit`: records of this generation or newer ones are not taken,
/// though the next one goes behind them.
///
/// # Errors
/// [`FsError::Volume`] that says what the device holds instead, or a device error.
pub fn probe(device: &Arc<dyn ZonedDevice>, mirrored: bool, limit: u64) -> Result<Probe> {
    let g = device.geometry();
    let capacity = (g.zone_capacity_bytes() / BLOCK as u64).min(u64::from(RING_SLOTS)) as u32;
    let reports = device.report(0..RING_ZONES)?;
    let mut cursor = RingCursor::new(capacity);
    let mut newest: Option<Superblock> = None;
    let mut last = 0;
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
                Ok(found) => {
                    if found.generation > last {
                        (last, cursor.current) = (found.generation, zone);
                    }
                    if found.generation < limit && newest.as_ref().is_none_or(|n| found.generation > n.generation) {
                        newest = Some(found);
                    }
                }
                Err(SuperblockError::NotOne) => {}
                // Sound, and of a version that this program does not know: whatever else lies there, that one counts.
                Err(SuperblockError::Version(version)) => {
                    return Err(FsError::Volume(format!("{}: {}", device.label(), SuperblockError::Version(version))));
                }
                Err(other) => worst = other,
            }
        }
        let next = next_of(&all[zone], g.software_zones);
        cursor.torn[zone] = matches!(all[zone].get(next), Some(Slot::Bad(_) | Slot::Unreadable | Slot::Foreign));
        // Behind the last slot there is no other one before the zone is reset.
        let by_content = next_of(&all[zone], false) as u32;
        let written = reports[zone].written.0 * u64::from(g.block_size);
        // Behind a record that was written in part no other one fits: such a zone is full.
        let by_pointer = if written.is_multiple_of(BLOCK as u64) { (written / BLOCK as u64) as u32 } else { cursor.slots };
        cursor.next[zone] = if g.software_zones { by_content } else { by_pointer.min(cursor.slots) };
    }
    match (newest, failure) {
        (Some(superblock), _) => {
            let is = |slot: &Slot, generation: u64| matches!(slot, Slot::Whole(copy) if copy.generation == generation);
            let second = |slot: &Slot| matches!(slot, Slot::Whole(copy) if copy.second);
            cursor.generation = last;
            cursor.holds = [all[0].iter().any(|slot| is(slot, last)), all[1].iter().any(|slot| is(slot, last))];
            let complete = all.iter().flatten().filter(|slot| is(slot, superblock.generation)).any(second);
            Ok(Probe { superblock, cursor, complete, newer_lost: is_newer_lost([&all[0], &all[1]], mirrored, g.software_zones) })
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(FsError::Volume(format!("{}: {worst}", device.label()))),
    }
}

/// Reads all slots of zone `zone` of a device's ring; those that were never written are zeros, those that cannot be read are damaged records.
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
                        Err(_) => content.extend_from_slice(&unreadable()),
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
        self.write_records(&self.identity, |cursor| cursor.generation < self.identity.generation).map_err(|(_, error)| error)
    }

    /// Writes a superblock to every device; it is durable on all of them when this returns.
    ///
    /// # Errors
    /// The first device whose ring did not take it; then the volume is read-only.
    pub(super) fn write_superblock(&self, superblock: &Superblock) -> Result<()> {
        let written = self.write_records(superblock, |_| true);
        written.map_err(|(device, error)| {
            self.fail(format!("a superblock could not be written to {device}: {error}"));
            error
        })
    }

    /// A failure comes with the device that it is one of.
    fn write_records(&self, superblock: &Superblock, wanted: impl Fn(&RingCursor) -> bool) -> std::result::Result<(), (String, FsError)> {
        let (members, mirrored) = (&self.members, self.ring_mirrored);
        let mut rings = self.rings.lock();
        let mut firsts = Vec::new();
        for (d, cursor) in rings.iter_mut().enumerate().filter(|(_, cursor)| wanted(cursor)) {
            let record = Superblock { device: d as u8, ..superblock.clone() }.encode();
            let device = DeviceId(d as u8);
            readable(&record).map_err(|error| (members.device(device).label(), error))?;
            let zone = write_first(members, device, cursor, &record, mirrored).map_err(|error| (members.device(device).label(), error))?;
            firsts.push((d, zone, record));
        }
        members.flush().map_err(|error| (members.unflushed(), error))?;
        for (d, zone, _) in &firsts {
            settle_first(members, DeviceId(*d as u8), &mut rings[*d], *zone, mirrored);
        }
        for (d, _, record) in &firsts {
            write_second(members, DeviceId(*d as u8), &mut rings[*d], &superblock::second_copy(record), mirrored);
        }
        Ok(())
    }
}

/// A record that could not be read again takes the place of none that can.
fn readable(record: &[u8; BLOCK]) -> Result<()> {
    match Superblock::decode(record) {
        Ok(_) => Ok(()),
        Err(error) => Err(FsError::ReadOnly(format!("its next superblock could not be read again: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.`: blank, `?`: foreign, `x`: unreadable; first and second copies of generation 1 to 9: `a` to `i` and `A` to `I` whole, damaged with `!`
    /// behind them.
    fn slots(text: &str) -> Vec<Slot> {
        let mut slots = Vec::new();
        for letter in text.chars() {
            let copy = Copy { generation: u64::from(letter.to_ascii_lowercase()).wrapping_sub(96), second: letter.is_ascii_uppercase() };
            let slot = match (letter, slots.last().copied()) {
                ('.', _) => Slot::Blank,
                ('?', _) => Slot::Foreign,
                ('x', _) => Slot::Unreadable,
                ('!', Some(Slot::Whole(copy))) => {
                    slots.pop();
                    Slot::Bad(copy)
                }
                _ => Slot::Whole(copy),
            };
            slots.push(slot);
        }
        slots
    }

    fn lost(mirrored: bool, wraps: bool, zones: [&str; 2]) -> bool {
        is_newer_lost([&slots(zones[0]), &slots(zones[1])], mirrored, wraps)
    }

    #[test]
    fn a_mirror_has_lost_a_record_when_the_second_copy_was_begun() {
        for wraps in [false, true] {
            let sound = [
                ["abc.", "ABC."],
                ["abcd!", "ABC."],
                ["abc.", "ABCd!"],
                ["abcd", "ABCD!"],
                ["ab!c", "AC!"],
                ["abc?", "ABC?"],
                ["....", "...."],
            ];
            // Behind a second copy that failed, a first copy that was torn; two first copies, of which one failed.
            for zones in sound.into_iter().chain([["abcd!", "ABC!."], ["abcd!", "ABCd!"], ["abcx", "ABC."], ["abcd!", "ABCE!"]]) {
                assert!(!lost(true, wraps, zones), "{zones:?}");
            }
            for zones in [["abcd!", "ABCD!"], ["abcD!", "ABCd!"], ["abcx", "ABCD!"], ["abcx", "ABCx"], ["abcd!", "D!..."]] {
                assert!(lost(true, wraps, zones), "{zones:?}");
            }
        }
        // Where a zone begins anew over what it had, the first slot follows the last; else it is a torn record of long ago.
        assert!(lost(true, true, ["h!efg", "EFGH!"]));
        assert!(!lost(true, false, ["h!efg", "EFGH!"]) && !lost(true, true, ["d!efg", "EFGH!"]));
    }

    #[test]
    fn zones_in_turns_have_lost_a_record_when_its_second_copy_was_begun() {
        for wraps in [false, true] {
            let sound = [["aAbB..", "......"], ["aAbBc!.", "......"], ["aAbB!..", "......"], ["aAbBcC", "d!....."], ["aa!A!bB.", "......"]];
            for zones in
                sound.into_iter().chain([["aAbBc!C!", "dD...."], ["aAbB??", "......"], ["aAbBc!?", "dD...."], ["aAbBc!D!", "......"]])
            {
                assert!(!lost(false, wraps, zones), "{zones:?}");
            }
            for zones in
                [["aAbBc!C!", "......"], ["aAbBcC", "d!D!...."], ["aAbBxx", "......"], ["aAbBcC", "d!D!aAbB"], ["aAbBc!x", "......"]]
            {
                assert!(lost(false, wraps, zones), "{zones:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        assert_eq!(Slot::of(&unreadable()).0, Slot::Unreadable);
        assert_eq!(
            (Slot::of(&[0; BLOCK]).0, Slot::of(&[0xff; BLOCK]).0, Slot::of(&[7; BLOCK]).0),
            (Slot::Blank, Slot::Blank, Slot::Foreign)
        );
    }
}
