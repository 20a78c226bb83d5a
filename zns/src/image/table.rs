//! The zone table of an open image: reading it with whatever damage it has, and writing what changed.

use super::backing::Backing;
use super::format::{META_BLOCK, TableRead, decode_table, encode_table, slot_of};
use super::layout::Layout;
use crate::machine::{Snapshot, ZoneMachine};
use crate::sticky_sync::StickySync;
use crate::units::ZoneId;
use crate::zone::ZoneState;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What reading the table gave.
pub(super) struct Loaded {
    /// One entry per zone.
    pub zones: Vec<Snapshot>,
    /// Sequence number of each table block.
    pub sequences: Vec<u64>,
    /// Zones whose entry was torn or damaged: their write pointer is a bound found by looking for data.
    pub probed: Vec<Range<u32>>,
}

/// Reads the table.
pub(super) fn load(backing: &Backing, layout: &Layout) -> Result<Loaded, Errno> {
    let blocks = layout.table_blocks() as usize;
    let mut slots = [vec![0; blocks * META_BLOCK], vec![0; blocks * META_BLOCK]];
    for (slot, bytes) in slots.iter_mut().enumerate() {
        backing.read(layout.table_offset(0, slot), bytes)?;
    }
    let mut loaded = Loaded { zones: Vec::with_capacity(layout.zones as usize), sequences: Vec::new(), probed: Vec::new() };
    for index in 0..layout.table_blocks() {
        let zones = layout.table_zones(index);
        let reads = [0, 1].map(|slot: usize| {
            let block = &slots[slot][index as usize * META_BLOCK..][..META_BLOCK];
            decode_table(block, index, slot, zones.len(), layout.zone_capacity)
        });
        let (sequence, mut entries, whole) = newest(reads, zones.len());
        if !whole {
            for (zone, entry) in zones.clone().zip(&mut entries) {
                *entry = bounded(backing, layout, zone, *entry);
            }
            loaded.probed.push(zones);
        }
        loaded.sequences.push(sequence);
        loaded.zones.append(&mut entries);
    }
    Ok(loaded)
}

/// The newest sound copy of a block; `false` if a newer one may have been lost.
fn newest(reads: [TableRead; 2], zones: usize) -> (u64, Vec<Snapshot>, bool) {
    match reads {
        [TableRead::Sound(first, a), TableRead::Sound(second, b)] => {
            let (sequence, entries) = if first > second { (first, a) } else { (second, b) };
            // By turns: two sound copies that are not neighbours in time mean that something else wrote here.
            (sequence, entries, first.abs_diff(second) == 1)
        }
        // A young image: slot 1 has never been written.
        [TableRead::Sound(0, entries), TableRead::Blank] => (0, entries, true),
        [TableRead::Sound(sequence, entries), _] | [_, TableRead::Sound(sequence, entries)] => (sequence, entries, false),
        _ => (0, vec![Snapshot { state: ZoneState::Empty, written: 0 }; zones], false),
    }
}

/// What can safely be said of a zone whose table entry may be stale: data found beyond it counts as written, and the zone takes
/// no more writes until a reset.
fn bounded(backing: &Backing, layout: &Layout, zone: u32, entry: Snapshot) -> Snapshot {
    if matches!(entry.state, ZoneState::Offline | ZoneState::ReadOnly) {
        return entry;
    }
    let block = u64::from(layout.block_size);
    let start = layout.offset_of(u64::from(zone) * layout.zone_size);
    let found = backing.data_end(start..start + layout.zone_capacity * block).div_ceil(block);
    match found.max(entry.written) {
        0 if entry.state == ZoneState::Empty => entry,
        written => Snapshot { state: ZoneState::Full, written },
    }
}

/// What lies behind a write pointer is not there, and must never come to be: a table block that is torn later would have it bounded by that
/// data ([`bounded`]), and a record that an opening of the image passed over, and built on that, would be found by the next one. So it goes, durably, before
/// anything is written. Says whether there was any. Where the file system knows no holes, nothing can be told from nothing, and it stays.
pub(super) fn discard_unnamed(backing: &Backing, layout: &Layout, zones: &[Snapshot]) -> Result<bool, Errno> {
    let block = u64::from(layout.block_size);
    let mut any = false;
    // Nothing lies between where was asked last and here: in a file whose space was taken in advance a question walks a long way to the next data.
    let mut next = 0;
    for (zone, entry) in (0u64..).zip(zones) {
        if entry.written >= layout.zone_capacity || matches!(entry.state, ZoneState::Offline | ZoneState::ReadOnly) {
            continue;
        }
        let start = layout.offset_of(zone * layout.zone_size);
        let behind = start + entry.written * block..start + layout.zone_capacity * block;
        if next < behind.start {
            next = backing.next_data(behind.clone());
        }
        if next < behind.end {
            any |= backing.punch(behind.start, behind.end - behind.start)?;
        }
    }
    if any {
        StickySync::default().attempt(|| backing.sync())?;
    }
    Ok(any)
}

/// Which table blocks differ from the file, and how to bring them there.
#[derive(Debug)]
pub(super) struct TableWriter {
    dirty: Box<[AtomicBool]>,
    sequences: Mutex<Vec<u64>>,
    flushes_started: AtomicU64,
    flushes_done: AtomicU64,
    sync: StickySync,
}

impl TableWriter {
    pub(super) fn new(sequences: Vec<u64>) -> Self {
        Self {
            dirty: sequences.iter().map(|_| AtomicBool::new(false)).collect(),
            sequences: Mutex::new(sequences),
            flushes_started: AtomicU64::new(0),
            flushes_done: AtomicU64::new(0),
            sync: StickySync::default(),
        }
    }

    /// Notes that the entry of `zone` changed.
    pub(super) fn touch(&self, zone: ZoneId) {
        let flag = &self.dirty[zone.0 as usize / super::format::ZONES_PER_BLOCK];
        if !flag.load(Ordering::SeqCst) {
            flag.store(true, Ordering::SeqCst);
        }
    }

    /// Writes the dirty blocks and then makes the file durable. Callers that wait for one another share one sync: what a caller
    /// saw complete before it called is covered by any flush that started after.
    pub(super) fn flush(&self, backing: &Backing, layout: &Layout, machine: &ZoneMachine) -> Result<(), Errno> {
        let wanted = self.flushes_started.load(Ordering::SeqCst) + 1;
        let mut sequences = self.sequences.lock();
        if self.flushes_done.load(Ordering::SeqCst) >= wanted {
            return Ok(());
        }
        let number = self.flushes_started.fetch_add(1, Ordering::SeqCst) + 1;
        self.write_dirty(&mut sequences, backing, layout, machine)?;
        self.sync.attempt(|| backing.sync())?;
        self.flushes_done.store(number, Ordering::SeqCst);
        Ok(())
    }

    /// Does any block differ from the file?
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.iter().any(|flag| flag.load(Ordering::SeqCst))
    }

    fn write_dirty(&self, sequences: &mut [u64], backing: &Backing, layout: &Layout, machine: &ZoneMachine) -> Result<(), Errno> {
        for index in 0..layout.table_blocks() {
            // Cleared before the zones are read: a change after that sets it again.
            if !self.dirty[index as usize].swap(false, Ordering::SeqCst) {
                continue;
            }
            let sequence = sequences[index as usize] + 1;
            let zones: Vec<Snapshot> = layout.table_zones(index).map(|zone| machine.snapshot(ZoneId(zone))).collect();
            let block = encode_table(index, sequence, &zones);
            if let Err(stop) = backing.write(layout.table_offset(index, slot_of(sequence)), &block) {
                self.dirty[index as usize].store(true, Ordering::SeqCst);
                return Err(stop.errno);
            }
            sequences[index as usize] = sequence;
        }
        Ok(())
    }
}
