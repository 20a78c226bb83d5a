//! The zone table: what each zone is used for, how much of it is live, which head writes where, and who may open another.
//!
//! Live counts are exact and change with every mapping (I4). Reserves (I8): a head opens a zone only while more zones are empty than
//! its floor. Users stop above the cleaning reserve, cleaning above the checkpoint reserve, checkpoints above what the log may still
//! need; nobody borrows from below.

mod classes;
mod heads;
mod reclaim;
mod space;

pub use classes::MAX_CLASSES;
pub use heads::{Place, reserves_for};
pub use reclaim::Dead;
pub use space::SpaceCounts;

use crate::addr::Addr;
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::superblock::{Member, RING_ZONES, Reserves};
use bitvec::vec::BitVec;
use classes::{SLOTS, slot_of};
use gc::deaths::Deaths;
use gc::placement::{Estimate, Population};
use space::{PARTLY_FILLED, is_held_by_log};
use std::collections::{BTreeSet, VecDeque};
use zns::{DeviceId, ZoneId};

/// One zone in memory.
#[derive(Clone, Copy, Debug)]
struct Zone {
    entry: SegmentEntry,
    /// Readers, copies and cleaning plans that need its content to stay (I2).
    pins: u32,
    /// Writes and copies into it that are not complete: what is mapped there is not on the media yet.
    writing: u32,
    /// A victim of the cleaner.
    victim: bool,
    /// Its summaries are gone from the tree, so that it may be reset.
    forgotten: bool,
    /// Cleaning it failed on media: not chosen again in this mount.
    unmovable: bool,
    /// Blocks put into it, and the sum of 1 / interval over them, of which its temperature is made.
    put: u32,
    rate: f64,
    /// What died in it in this mount, while temperatures are kept.
    deaths: Deaths,
}

impl Zone {
    fn new(entry: SegmentEntry) -> Self {
        let (put, rate) = match entry.temperature.interval() {
            Some(interval) => (entry.written, f64::from(entry.written) / interval),
            None => (0, 0.0),
        };
        Self { entry, pins: 0, writing: 0, victim: false, forgotten: false, unmovable: false, put, rate, deaths: Deaths::default() }
    }
}

#[derive(Debug)]
struct Device {
    zones: Vec<Zone>,
    empty: BitVec,
    empty_count: u32,
    capacity: u32,
    next: usize,
    /// Next address of each open head on this device.
    heads: [Option<Addr>; SLOTS],
}

/// Heads of the log: one open zone each at most (user and relocated data: for each class); those that copies fill, one on each device ([`is_on_each_device`]).
pub const HEADS: [Role; 6] = [Role::Log, Role::Metadata, Role::User, Role::RelocatedByDevice, Role::RelocatedByHost, Role::CopiedByDevice];

/// Which head serves a role, by how many zones may be active at once. One slot always stays free.
///
/// | active zones | ring | log | metadata | user | relocated by device | by host | copied by device |
/// |---|---|---|---|---|---|---|---|
/// | 6, 7   | 1 | 1 | 1 | 1 | 1 | instead of relocated by device | with relocated by device |
/// | 8      | 1 | 1 | 1 | 1 | 1 | 1                              | with relocated by device |
/// | 9..    | 2 | 1 | 1 | 1 | 1 | 1                              | 1 |
///
/// The ring takes its second slot (a mirror of each superblock) where nine or more are to be had. Fewer than six: refused by mkfs.
/// With 11 there can be two classes of user and relocated data, with 13 three, with 15 four: [`ZoneTable::most_classes`].
pub fn head_for(role: Role, active_limit: u32) -> Role {
    match role {
        Role::CopiedByDevice if active_limit < 9 => Role::RelocatedByDevice,
        role => role,
    }
}

/// Has every device a head of its own for this role? What is copied stays on its device where it can: there the device itself can copy it,
/// and devices stay as full as they are.
pub fn is_on_each_device(role: Role) -> bool {
    matches!(role, Role::RelocatedByDevice | Role::RelocatedByHost | Role::CopiedByDevice)
}

/// Fewest active zones that a volume can work with.
pub const MIN_ACTIVE: u32 = 6;

/// Is each superblock written to both zones of the ring?
pub fn ring_is_mirrored(active_limit: u32) -> bool {
    active_limit >= 9
}

/// The zone table.
#[derive(Debug)]
pub struct ZoneTable {
    devices: Vec<Device>,
    reserves: Reserves,
    active_limit: u32,
    dirty_pages: BTreeSet<u32>,
    page_base: Vec<u32>,
    live_data: u64,
    live_metadata: u64,
    unwritten: u64,
    population: Population,
    promised: u64,
    /// Cleaning may take one zone of the checkpoint reserve.
    last_resort: bool,
    granted: u64,
    /// Quarters of blocks that are counted out of the room of users: see [`ZoneTable::room`].
    held_quarters: u64,
    clock: u64,
    log_held: u32,
    to_finish: Vec<Addr>,
    total: u64,
    /// Part of what it is made from was lost: the counts are not those of what is there, and nothing may be written by them.
    incomplete: bool,
    /// See [`ZoneTable::miscounted`].
    miscounted: Option<Addr>,
    /// Classes there are, classes in use, whether temperatures are kept, and whether they are corrected by what is seen to die: see `classes`.
    classes: u8,
    active_classes: u8,
    estimating: bool,
    watching: bool,
    /// How long zones lived that users filled as the first class, from their opening until they were given back; see [`ZoneTable::take_lives`].
    lives: VecDeque<u64>,
}

impl ZoneTable {
    /// A table of empty zones behind the ring.
    pub fn new(members: &[Member], reserves: Reserves, active_limit: u32) -> Self {
        let mut page_base = Vec::new();
        let mut pages = 0;
        let devices = members
            .iter()
            .map(|m| {
                page_base.push(pages);
                pages += m.zones.div_ceil(crate::format::segment::ENTRIES as u32);
                let count = m.zones as usize;
                let blank = Zone::new(SegmentEntry::EMPTY);
                let mut device = Device {
                    zones: vec![blank; count],
                    empty: BitVec::repeat(true, count),
                    empty_count: m.zones,
                    capacity: m.zone_capacity,
                    next: 0,
                    heads: [None; SLOTS],
                };
                for ring in 0..RING_ZONES as usize {
                    device.zones[ring].entry = SegmentEntry { role: Role::Ring, phase: Phase::Open, ..SegmentEntry::EMPTY };
                    device.empty.set(ring, false);
                    device.empty_count -= 1;
                }
                device
            })
            .collect();
        page_base.push(pages);
        let mut table = Self {
            devices,
            reserves,
            active_limit,
            dirty_pages: (0..pages).collect(),
            page_base,
            live_data: 0,
            live_metadata: 0,
            unwritten: 0,
            population: Population::default(),
            promised: 0,
            last_resort: false,
            granted: 0,
            held_quarters: 0,
            clock: 0,
            log_held: 0,
            to_finish: Vec::new(),
            total: 0,
            incomplete: false,
            miscounted: None,
            classes: 1,
            active_classes: 1,
            estimating: false,
            watching: false,
            lives: VecDeque::new(),
        };
        table.total = table.compute_total();
        table
    }

    /// Number of segment table pages of a volume with these devices.
    pub fn page_count(members: &[Member]) -> u32 {
        members.iter().map(|m| m.zones.div_ceil(crate::format::segment::ENTRIES as u32)).sum()
    }

    fn zone(&self, addr: Addr) -> Option<&Zone> {
        self.devices.get(usize::from(addr.device().0))?.zones.get(addr.zone().0 as usize)
    }

    fn zone_mut(&mut self, addr: Addr) -> &mut Zone {
        let page = self.page_of(addr);
        self.dirty_pages.insert(page);
        &mut self.devices[usize::from(addr.device().0)].zones[addr.zone().0 as usize]
    }

    fn page_of(&self, addr: Addr) -> u32 {
        self.page_base[usize::from(addr.device().0)] + addr.zone().0 / crate::format::segment::ENTRIES as u32
    }

    /// Does `addr` name a block inside the volume (outside the ring)?
    pub fn contains(&self, addr: Addr, blocks: u32) -> bool {
        let Some(device) = self.devices.get(usize::from(addr.device().0)) else { return false };
        addr.zone().0 >= RING_ZONES
            && (addr.zone().0 as usize) < device.zones.len()
            && u64::from(addr.block()) + u64::from(blocks) <= u64::from(device.capacity)
    }

    /// Entry of the zone of `addr`.
    pub fn entry(&self, addr: Addr) -> Option<&SegmentEntry> {
        self.zone(addr).map(|z| &z.entry)
    }

    /// Blocks of a zone of the device of `addr`.
    pub fn capacity(&self, device: DeviceId) -> u32 {
        self.devices[usize::from(device.0)].capacity
    }

    /// All zones.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, &SegmentEntry)> {
        self.devices.iter().enumerate().flat_map(|(d, device)| {
            device.zones.iter().enumerate().map(move |(z, zone)| (Addr::new(DeviceId(d as u8), ZoneId(z as u32), 0), &zone.entry))
        })
    }

    /// Logical time.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Users wrote `blocks` more.
    pub fn advance_clock(&mut self, blocks: u64) {
        self.clock += blocks;
        self.hold_more(blocks);
    }

    /// Restores the entries of page `page` (a mount).
    ///
    /// # Errors
    /// What is wrong with the page.
    pub fn load_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), String> {
        let (device, first, count) = self.page_span(page);
        let entries = crate::format::segment::decode_page(bytes, page, count)?;
        let capacity = self.devices[device].capacity;
        let is_sound = |i: usize, entry: &SegmentEntry| {
            let ring = first + i < RING_ZONES as usize;
            entry.live <= capacity && entry.written <= capacity && (entry.role == Role::Ring) == ring
        };
        if let Some((i, _)) = entries.iter().enumerate().find(|(i, entry)| !is_sound(*i, entry)) {
            return Err(format!("zone {} contradicts itself", first + i));
        }
        let mut superfluous = Vec::new();
        for (i, entry) in entries.into_iter().enumerate() {
            let zone = &mut self.devices[device].zones[first + i];
            *zone = Zone::new(entry);
            let addr = Addr::new(DeviceId(device as u8), ZoneId((first + i) as u32), 0);
            let is_empty = entry.phase == Phase::Empty;
            let was_empty = self.devices[device].empty.replace(first + i, is_empty);
            match (was_empty, is_empty) {
                (true, false) => self.devices[device].empty_count -= 1,
                (false, true) => self.devices[device].empty_count += 1,
                _ => {}
            }
            if entry.role == Role::Metadata {
                self.live_metadata += u64::from(entry.live);
            } else {
                self.live_data += u64::from(entry.live);
            }
            self.log_held += u32::from(is_held_by_log(&entry));
            if entry.phase == Phase::Open && entry.role != Role::Log && HEADS.contains(&entry.role) {
                // A class that there is not is none of ours: that zone is ended, too.
                let slot = slot_of(entry.role, entry.class);
                let taken = self.devices.iter().enumerate().any(|(d, other)| {
                    let heads_here = !is_on_each_device(entry.role) || d == device;
                    heads_here && slot.is_none_or(|slot| other.heads[slot].is_some())
                });
                // Of log zones two may be open: the one in use and the next one, which is empty; the shell tells which is which. Of any other
                // role and class one can only be open where two checkpoints met a failure between them: it is ended, lest it stays active for good.
                match slot.filter(|_| !taken) {
                    Some(slot) => self.devices[device].heads[slot] = Some(addr.plus(entry.written)),
                    None => superfluous.push(addr),
                }
            }
        }
        self.dirty_pages.remove(&page);
        superfluous.into_iter().for_each(|addr| self.end_zone(addr));
        Ok(())
    }

    /// A page cannot be had: what its zones hold stays where it is. Nothing may be written after this.
    pub fn lose_page(&mut self, page: u32) {
        self.set_incomplete();
        for addr in self.zones_of_page(page) {
            let index = addr.zone().0;
            if index >= RING_ZONES {
                let written = self.capacity(addr.device());
                self.set_entry(addr, SegmentEntry { phase: Phase::Retired, written, ..SegmentEntry::EMPTY });
            }
        }
    }

    /// The zones that a page tells of.
    pub fn zones_of_page(&self, page: u32) -> Vec<Addr> {
        let (device, first, count) = self.page_span(page);
        (first..first + count).map(|zone| Addr::new(DeviceId(device as u8), ZoneId(zone as u32), 0)).collect()
    }

    /// Changes of which the counts should tell were lost: they are no longer exact, and nothing may be written by them.
    pub fn set_incomplete(&mut self) {
        self.incomplete = true;
    }

    /// Was part of what it is made from lost?
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Everything was counted anew and set: the counts are those of what is there.
    pub fn counted_anew(&mut self) {
        self.incomplete = false;
        self.total = self.compute_total();
    }

    /// Ends loading: sets what the superblock knows, logical time, preallocated blocks, and how many live blocks have each estimate.
    pub fn loaded(&mut self, clock: u64, unwritten: u64, population: Population) {
        self.total = self.compute_total();
        self.clock = clock;
        self.unwritten = unwritten;
        self.population = population;
        // What died before the mount nobody knows.
        let zones = self.devices.iter_mut().flat_map(|device| device.zones.iter_mut());
        zones.for_each(|zone| zone.deaths = Deaths::since(clock));
    }

    /// How many live blocks have each estimate.
    pub fn population(&self) -> &Population {
        &self.population
    }

    /// So many more live blocks have an estimate (or fewer, when negative).
    pub fn expect(&mut self, estimate: Estimate, blocks: i64) {
        match blocks >= 0 {
            true => self.population.add(estimate, blocks.unsigned_abs()),
            false => self.population.sub(estimate, blocks.unsigned_abs()),
        }
    }

    /// They were counted anew.
    pub fn set_population(&mut self, population: Population) {
        self.population = population;
    }

    fn page_span(&self, page: u32) -> (usize, usize, usize) {
        let device = self.page_base.partition_point(|&base| base <= page) - 1;
        let first = (page - self.page_base[device]) as usize * crate::format::segment::ENTRIES;
        let count = (self.devices[device].zones.len() - first).min(crate::format::segment::ENTRIES);
        (device, first, count)
    }

    /// Serialises a page.
    pub fn store_page(&self, page: u32) -> Box<[u8; crate::BLOCK]> {
        let (device, first, count) = self.page_span(page);
        let entries: Vec<_> = self.devices[device].zones[first..first + count].iter().map(|z| z.entry).collect();
        crate::format::segment::encode_page(page, &entries)
    }

    /// Pages changed since the last call.
    pub fn take_dirty_pages(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.dirty_pages)
    }

    /// This page is written by the next checkpoint.
    pub fn dirty_page(&mut self, page: u32) {
        self.dirty_pages.insert(page);
    }

    /// Number of pages that have changed.
    pub fn dirty_page_count(&self) -> usize {
        self.dirty_pages.len()
    }

    /// All pages are written by the next checkpoint (a failed one).
    pub fn dirty_all_pages(&mut self) {
        self.dirty_pages = (0..*self.page_base.last().expect("at least one device")).collect();
    }

    /// `blocks` blocks of one zone became live.
    pub fn add_live(&mut self, addr: Addr, blocks: u32) {
        // An extent that a damaged volume has outside of itself counts nowhere (I10).
        if self.zone(addr).is_none() {
            return;
        }
        let zone = self.zone_mut(addr);
        // On a damaged volume extents may be as long as items can say, many of them in one place.
        zone.entry.live = zone.entry.live.saturating_add(blocks);
        let is_retired = zone.entry.phase == Phase::Retired;
        match zone.entry.role {
            Role::Metadata => self.live_metadata += u64::from(blocks),
            _ => self.live_data += u64::from(blocks),
        }
        if is_retired {
            self.total = self.total.saturating_add(blocks.into());
        }
    }

    /// `blocks` blocks of one zone died.
    pub fn sub_live(&mut self, addr: Addr, blocks: u32) {
        if self.zone(addr).is_none() {
            return;
        }
        let (clock, watching) = (self.clock, self.watching);
        let zone = self.zone_mut(addr);
        if watching {
            // What the cleaner takes out of it does not die, but has lived there until now.
            let died = if zone.victim { 0 } else { blocks };
            zone.deaths.count(died, zone.entry.live, clock);
        }
        let below_nothing = zone.entry.live < blocks;
        let gone = blocks.min(zone.entry.live);
        zone.entry.live -= gone;
        let is_retired = zone.entry.phase == Phase::Retired;
        match zone.entry.role {
            Role::Metadata => self.live_metadata -= u64::from(gone),
            _ => self.live_data -= u64::from(gone),
        }
        // Nobody can use them again.
        if is_retired {
            self.total = self.total.saturating_sub(gone.into());
        }
        if below_nothing && !self.incomplete {
            self.miscounted = Some(addr.zone_base());
            self.set_incomplete();
        }
    }

    /// A zone in which more died than lived: what the segment table said was wrong, or two extents said that they own a block. A zone that counts as
    /// dead may not be, so nothing may be written any more.
    pub fn miscounted(&self) -> Option<Addr> {
        self.miscounted
    }

    /// Preallocated blocks appeared (or went, when negative).
    pub fn change_unwritten(&mut self, by: i64) {
        self.unwritten = self.unwritten.saturating_add_signed(by);
    }

    /// Preallocated blocks.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }
}

#[cfg(test)]
mod tests;
