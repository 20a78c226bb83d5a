//! The zone table: what each zone is used for, how much of it is live, which head writes where, and who may open another.
//!
//! Live counts are exact and change with every mapping (I4). Reserves (I8): a head opens a zone only while more zones are empty than
//! its floor. Users stop above the cleaning reserve, cleaning above the checkpoint reserve, checkpoints above what the log may still
//! need; nobody borrows from below.

use crate::addr::Addr;
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::superblock::{Member, RING_ZONES, Reserves};
use bitvec::vec::BitVec;
use std::collections::BTreeSet;
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
}

#[derive(Debug)]
struct Device {
    zones: Vec<Zone>,
    empty: BitVec,
    empty_count: u32,
    capacity: u32,
    next: usize,
}

/// Heads of the log: one open zone each at most.
pub const HEADS: [Role; 6] =
    [Role::Log, Role::Metadata, Role::User, Role::RelocatedByDevice, Role::RelocatedByHost, Role::CopiedByDevice];

/// Which head serves a role, by how many zones may be active at once. One slot always stays free.
///
/// | active zones | ring | log | metadata | user | relocated by device | by host | copied by device |
/// |---|---|---|---|---|---|---|---|
/// | 6, 7   | 1 | 1 | 1 | 1 | 1 | instead of relocated by device | with relocated by device |
/// | 8      | 1 | 1 | 1 | 1 | 1 | 1                              | with relocated by device |
/// | 9..    | 2 | 1 | 1 | 1 | 1 | 1                              | 1 |
///
/// The ring takes its second slot (a mirror of each superblock) where nine or more are to be had. Fewer than six: refused by mkfs.
pub fn head_for(role: Role, active_limit: u32) -> Role {
    match role {
        Role::CopiedByDevice if active_limit < 9 => Role::RelocatedByDevice,
        role => role,
    }
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
    heads: [Option<Addr>; HEADS.len()],
    dirty_pages: BTreeSet<u32>,
    page_base: Vec<u32>,
    live_data: u64,
    live_metadata: u64,
    unwritten: u64,
    promised: u64,
    clock: u64,
    log_held: u32,
    to_finish: Vec<Addr>,
    total: u64,
}

/// Counts for reports, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceCounts {
    /// What users and metadata may take, reserves excluded.
    pub total: u64,
    /// What they take.
    pub used: u64,
    /// Dead blocks in closed zones.
    pub reclaimable: u64,
    /// Reserves and ring.
    pub reserved: u64,
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
                let blank = Zone { entry: SegmentEntry::EMPTY, pins: 0, writing: 0, victim: false, forgotten: false, unmovable: false };
                let mut device = Device {
                    zones: vec![blank; count],
                    empty: BitVec::repeat(true, count),
                    empty_count: m.zones,
                    capacity: m.zone_capacity,
                    next: 0,
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
            heads: [None; HEADS.len()],
            dirty_pages: (0..pages).collect(),
            page_base,
            live_data: 0,
            live_metadata: 0,
            unwritten: 0,
            promised: 0,
            clock: 0,
            log_held: 0,
            to_finish: Vec::new(),
            total: 0,
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
    }

    // --- loading and storing -------------------------------------------------------------------------------------------------

    /// Restores the entries of page `page` (a mount).
    ///
    /// # Errors
    /// What is wrong with the page.
    pub fn load_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), String> {
        let (device, first, count) = self.page_span(page);
        let entries = crate::format::segment::decode_page(bytes, page, count)?;
        let capacity = self.devices[device].capacity;
        for (i, entry) in entries.into_iter().enumerate() {
            let ring = first + i < RING_ZONES as usize;
            if entry.live > capacity || entry.written > capacity || (entry.role == Role::Ring) != ring {
                return Err(format!("zone {} contradicts itself", first + i));
            }
            let zone = &mut self.devices[device].zones[first + i];
            *zone = Zone { entry, pins: 0, writing: 0, victim: false, forgotten: false, unmovable: false };
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
            if entry.role == Role::Log {
                self.log_held += 1;
            }
            if entry.phase == Phase::Open && let Some(slot) = HEADS.iter().position(|&r| r == entry.role) {
                let next = addr.plus(entry.written);
                // Two log zones may be open: the one in use and the next one, which is empty; the shell tells which is which.
                if self.heads[slot].is_none() && entry.role != Role::Log {
                    self.heads[slot] = Some(next);
                }
            }
        }
        self.dirty_pages.remove(&page);
        Ok(())
    }

    /// Ends loading: sets what the superblock knows, logical time and preallocated blocks.
    pub fn loaded(&mut self, clock: u64, unwritten: u64) {
        self.total = self.compute_total();
        self.clock = clock;
        self.unwritten = unwritten;
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

    // --- live counts ----------------------------------------------------------------------------------------------------------

    /// `blocks` blocks of one zone became live.
    pub fn add_live(&mut self, addr: Addr, blocks: u32) {
        let zone = self.zone_mut(addr);
        zone.entry.live += blocks;
        match zone.entry.role {
            Role::Metadata => self.live_metadata += u64::from(blocks),
            _ => self.live_data += u64::from(blocks),
        }
    }

    /// `blocks` blocks of one zone died.
    pub fn sub_live(&mut self, addr: Addr, blocks: u32) {
        let zone = self.zone_mut(addr);
        debug_assert!(zone.entry.live >= blocks, "live count of {addr} below zero");
        let gone = blocks.min(zone.entry.live);
        zone.entry.live -= gone;
        match zone.entry.role {
            Role::Metadata => self.live_metadata -= u64::from(gone),
            _ => self.live_data -= u64::from(gone),
        }
    }

    /// Preallocated blocks appeared (or went, when negative).
    pub fn change_unwritten(&mut self, by: i64) {
        self.unwritten = self.unwritten.saturating_add_signed(by);
    }

    /// Preallocated blocks.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    // --- heads and reserves -----------------------------------------------------------------------------------------------------

    /// Empty zones.
    pub fn empty_zones(&self) -> u32 {
        self.devices.iter().map(|d| d.empty_count).sum()
    }

    /// Zones that the log may still open.
    fn log_claim(&self) -> u32 {
        self.reserves.log_zones.saturating_sub(self.log_held)
    }

    /// Zones that promised writes of users still need beyond the open user zone.
    fn promised_zones(&self) -> u32 {
        let beyond = self.promised.saturating_sub(self.head_room(Role::User));
        beyond.div_ceil(u64::from(self.smallest_capacity())) as u32
    }

    fn smallest_capacity(&self) -> u32 {
        self.devices.iter().map(|d| d.capacity).min().expect("at least one device")
    }

    /// A role may open a zone while more zones than this are empty.
    fn floor(&self, role: Role) -> u32 {
        match role {
            Role::Log => 0,
            Role::Metadata => self.log_claim(),
            Role::RelocatedByDevice | Role::RelocatedByHost => {
                self.log_claim() + self.reserves.checkpoint_zones + self.promised_zones()
            }
            // What users write was promised against the floor that `writable` keeps.
            _ => self.log_claim() + self.reserves.checkpoint_zones,
        }
    }

    /// Blocks left in the open zone of a head.
    pub fn head_room(&self, role: Role) -> u64 {
        let slot = HEADS.iter().position(|&r| r == head_for(role, self.active_limit));
        match slot.and_then(|s| self.heads[s]) {
            Some(next) => u64::from(self.capacity(next.device()) - next.block()),
            None => 0,
        }
    }

    /// Blocks that users may still be promised without cleaning first.
    pub fn writable(&self) -> u64 {
        let floor = self.log_claim() + self.reserves.checkpoint_zones + self.reserves.gc_zones;
        let zones = self.empty_zones().saturating_sub(floor);
        let room = self.head_room(Role::User) + u64::from(zones) * u64::from(self.smallest_capacity());
        room.saturating_sub(self.promised)
    }

    /// Blocks of dirty file data that are still to be written: room for them is kept.
    pub fn set_promised(&mut self, blocks: u64) {
        self.promised = blocks;
    }

    /// Promised blocks.
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Blocks that a checkpoint may write.
    pub fn checkpoint_room(&self) -> u64 {
        let zones = self.empty_zones().saturating_sub(self.log_claim());
        self.head_room(Role::Metadata) + u64::from(zones) * u64::from(self.smallest_capacity())
    }

    /// Empty zones above the floor of users: what cleaning aims to keep positive.
    pub fn spare_zones(&self) -> i64 {
        let floor = self.log_claim() + self.reserves.checkpoint_zones + self.reserves.gc_zones;
        i64::from(self.empty_zones()) - i64::from(floor)
    }

    /// Up to `max` blocks in a row at the head of `role`, opening a zone if need be. `None`: the role's floor is reached.
    pub fn allocate(&mut self, role: Role, max: u32) -> Option<(Addr, u32)> {
        let role = head_for(role, self.active_limit);
        let slot = HEADS.iter().position(|&r| r == role)?;
        let next = match self.heads[slot] {
            Some(next) => next,
            None => {
                self.make_room_for(role);
                self.open(role)?
            }
        };
        let capacity = self.capacity(next.device());
        let blocks = max.min(capacity - next.block());
        let clock = self.clock;
        let zone = self.zone_mut(next);
        zone.entry.written += blocks;
        zone.entry.written_at = clock;
        let full = zone.entry.written == capacity;
        if full {
            zone.entry.phase = Phase::Closed;
        }
        self.heads[slot] = (!full).then(|| next.plus(blocks));
        Some((next, blocks))
    }

    /// Where few zones may be active, the two kinds of relocation take turns: one ends before the other begins.
    fn make_room_for(&mut self, role: Role) {
        let other = match role {
            Role::RelocatedByHost => Role::RelocatedByDevice,
            Role::RelocatedByDevice => Role::RelocatedByHost,
            _ => return,
        };
        if self.active_limit < 8 && let Some(next) = self.head(other) {
            self.end_zone(next);
        }
    }

    /// The zones in which `blocks` blocks for `role` would be allocated now, in order; fewer if the floor is reached.
    pub fn preview(&self, role: Role, blocks: u64) -> Vec<(Addr, u32)> {
        let mut pieces = Vec::new();
        let mut left = blocks;
        let role = head_for(role, self.active_limit);
        let slot = HEADS.iter().position(|&r| r == role).expect("a head");
        if let Some(next) = self.heads[slot] {
            let n = left.min(u64::from(self.capacity(next.device()) - next.block())) as u32;
            pieces.push((next, n));
            left -= u64::from(n);
        }
        let mut counts: Vec<(u32, usize)> = self.devices.iter().map(|d| (d.empty_count, d.next)).collect();
        let mut free = self.empty_zones();
        let floor = self.floor(role);
        let mut taken = BTreeSet::new();
        while left > 0 && free > floor {
            let share = |i: usize| u64::from(counts[i].0) * 1_000_000 / self.devices[i].zones.len() as u64;
            let Some(device) = (0..counts.len()).max_by_key(|&i| (share(i), usize::MAX - i)) else { break };
            let d = &self.devices[device];
            let empty = |from: usize, to: usize| d.empty[from..to].iter_ones().map(|i| i + from).find(|&z| !taken.contains(&(device, z)));
            let Some(zone) = empty(counts[device].1, d.zones.len()).or_else(|| empty(0, d.zones.len())) else { break };
            taken.insert((device, zone));
            counts[device] = (counts[device].0 - 1, zone + 1);
            free -= 1;
            let n = left.min(u64::from(d.capacity)) as u32;
            pieces.push((Addr::new(DeviceId(device as u8), ZoneId(zone as u32), 0), n));
            left -= u64::from(n);
        }
        pieces
    }

    /// Opens an empty zone for `role` without making it a head (the log prepares its next zone so).
    pub fn open(&mut self, role: Role) -> Option<Addr> {
        if self.empty_zones() <= self.floor(role) {
            return None;
        }
        let device = self.fullest_of_empty()?;
        let d = &mut self.devices[device];
        let at = d.empty[d.next..].first_one().map(|i| i + d.next).or_else(|| d.empty.first_one())?;
        d.next = at + 1;
        d.empty.set(at, false);
        d.empty_count -= 1;
        let addr = Addr::new(DeviceId(device as u8), ZoneId(at as u32), 0);
        let clock = self.clock;
        let zone = self.zone_mut(addr);
        let resets = zone.entry.resets;
        zone.entry = SegmentEntry { role, phase: Phase::Open, live: 0, written: 0, written_at: clock, resets };
        zone.forgotten = false;
        zone.unmovable = false;
        if role == Role::Log {
            self.log_held += 1;
        }
        Some(addr)
    }

    /// The device with the largest share of empty zones.
    fn fullest_of_empty(&self) -> Option<usize> {
        let share = |d: &Device| u64::from(d.empty_count) * 1_000_000 / d.zones.len() as u64;
        let (index, device) = self.devices.iter().enumerate().max_by_key(|(i, d)| (share(d), usize::MAX - i))?;
        (device.empty_count > 0).then_some(index)
    }

    /// Puts a log fragment of `blocks` blocks at `addr` on record.
    pub fn note_log_written(&mut self, addr: Addr, blocks: u32) {
        let capacity = self.capacity(addr.device());
        let zone = self.zone_mut(addr);
        zone.entry.written = addr.block() + blocks;
        if zone.entry.written >= capacity {
            zone.entry.phase = Phase::Closed;
        }
    }

    /// Gives back the unused end of an allocation, if nothing was allocated behind it since.
    pub fn give_back(&mut self, addr: Addr, used: u32, granted: u32) {
        let end = addr.plus(granted);
        let capacity = self.capacity(addr.device());
        let Some(slot) = HEADS.iter().position(|&r| Some(r) == self.entry(addr).map(|e| e.role)) else { return };
        let at_end = match self.heads[slot] {
            Some(next) => next == end,
            None => end.block() == capacity && self.entry(addr).is_some_and(|e| e.phase == Phase::Closed),
        };
        if used < granted && at_end {
            let zone = self.zone_mut(addr);
            zone.entry.written = addr.block() + used;
            zone.entry.phase = Phase::Open;
            self.heads[slot] = Some(addr.plus(used));
        }
    }

    /// Ends a zone early (I9): what was not written is given up until its reset.
    pub fn end_zone(&mut self, addr: Addr) {
        for head in &mut self.heads {
            if head.is_some_and(|next| next.zone_base() == addr.zone_base()) {
                *head = None;
            }
        }
        let zone = self.zone_mut(addr);
        if zone.entry.phase == Phase::Open {
            zone.entry.phase = Phase::Closed;
            self.to_finish.push(addr.zone_base());
        }
    }

    /// Retires a zone that failed (I11).
    pub fn retire(&mut self, addr: Addr) {
        self.end_zone(addr);
        let zone = self.zone_mut(addr);
        let was_empty = zone.entry.phase == Phase::Empty;
        zone.entry.phase = Phase::Retired;
        if was_empty {
            let device = &mut self.devices[usize::from(addr.device().0)];
            device.empty.set(addr.zone().0 as usize, false);
            device.empty_count -= 1;
        }
        self.to_finish.retain(|a| *a != addr.zone_base());
        self.total = self.compute_total();
    }

    /// Ends every head (after a crash none is resumed).
    pub fn end_all_heads(&mut self) {
        let open: Vec<Addr> =
            self.iter().filter(|(_, e)| e.phase == Phase::Open && e.role != Role::Ring).map(|(a, _)| a).collect();
        for addr in open {
            self.end_zone(addr);
        }
    }

    /// Log zones that are not full.
    pub fn open_log_zones(&self) -> Vec<Addr> {
        self.iter().filter(|(_, e)| e.role == Role::Log && e.phase == Phase::Open).map(|(addr, _)| addr).collect()
    }

    /// A closed zone that the device still counts as active.
    pub fn finish_again(&mut self, addr: Addr) {
        self.to_finish.push(addr.zone_base());
    }

    /// Forgets those of the zones to be finished that need not be.
    pub fn retain_to_finish(&mut self, keep: impl Fn(&Addr) -> bool) {
        self.to_finish.sort_unstable();
        self.to_finish.dedup();
        self.to_finish.retain(keep);
    }

    /// Zones that the device should finish, since the last call.
    pub fn take_to_finish(&mut self) -> Vec<Addr> {
        std::mem::take(&mut self.to_finish)
    }

    /// Next address of each open head.
    pub fn head(&self, role: Role) -> Option<Addr> {
        HEADS.iter().position(|&r| r == role).and_then(|s| self.heads[s])
    }

    /// Replaces the entry of a zone as recovery found it.
    pub fn set_entry(&mut self, addr: Addr, entry: SegmentEntry) {
        let index = addr.zone().0 as usize;
        let old = self.zone_mut(addr).entry;
        self.zone_mut(addr).entry = entry;
        let device = &mut self.devices[usize::from(addr.device().0)];
        let (was, is) = (device.empty[index], entry.phase == Phase::Empty);
        device.empty.set(index, is);
        match (was, is) {
            (true, false) => device.empty_count -= 1,
            (false, true) => device.empty_count += 1,
            _ => {}
        }
        self.log_held = self.log_held + u32::from(entry.role == Role::Log) - u32::from(old.role == Role::Log);
        if old.role == Role::Metadata {
            self.live_metadata -= u64::from(old.live);
        } else {
            self.live_data -= u64::from(old.live);
        }
        if entry.role == Role::Metadata {
            self.live_metadata += u64::from(entry.live);
        } else {
            self.live_data += u64::from(entry.live);
        }
    }

    // --- pins, victims, resets ------------------------------------------------------------------------------------------------

    /// The content of the zone stays until unpinned.
    pub fn pin(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].pins += 1;
    }

    /// Undoes one [`ZoneTable::pin`].
    pub fn unpin(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        let zone = &mut self.devices[usize::from(addr.device().0)].zones[at];
        debug_assert!(zone.pins > 0);
        zone.pins = zone.pins.saturating_sub(1);
    }

    /// A write or copy into the zone begins.
    pub fn begin_write(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].writing += 1;
    }

    /// Undoes one [`ZoneTable::begin_write`]: it is complete, or has failed.
    pub fn end_write(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        let zone = &mut self.devices[usize::from(addr.device().0)].zones[at];
        debug_assert!(zone.writing > 0);
        zone.writing = zone.writing.saturating_sub(1);
    }

    /// Marks a zone as victim (or not any more).
    pub fn set_victim(&mut self, addr: Addr, victim: bool) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].victim = victim;
    }

    /// Cleaning this zone failed on its media.
    pub fn set_unmovable(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].unmovable = true;
    }

    /// Closed zones with live blocks that may be cleaned.
    pub fn victims(&self) -> impl Iterator<Item = (Addr, &SegmentEntry)> {
        self.devices.iter().enumerate().flat_map(|(d, device)| {
            device.zones.iter().enumerate().filter_map(move |(z, zone)| {
                let usable = zone.entry.phase == Phase::Closed
                    && zone.entry.live > 0
                    && !zone.victim
                    && zone.writing == 0
                    && !zone.unmovable
                    && (zone.entry.role.is_data() || zone.entry.role == Role::Metadata);
                usable.then(|| (Addr::new(DeviceId(d as u8), ZoneId(z as u32), 0), &zone.entry))
            })
        })
    }

    /// Is this a closed zone that may be cleaned?
    pub fn is_victim(&self, addr: Addr) -> bool {
        self.zone(addr).is_some_and(|z| z.entry.phase == Phase::Closed && !z.victim && z.writing == 0 && z.entry.role != Role::Ring)
    }

    /// Dead data zones whose summaries are still in the tree.
    pub fn to_forget(&self) -> Vec<Addr> {
        self.dead().filter(|(_, zone)| zone.entry.role.is_data() && !zone.forgotten).map(|(addr, _)| addr).collect()
    }

    /// The summaries of a dead zone are gone.
    pub fn set_forgotten(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].forgotten = true;
    }

    fn dead(&self) -> impl Iterator<Item = (Addr, &Zone)> {
        self.devices.iter().enumerate().flat_map(|(d, device)| {
            device.zones.iter().enumerate().filter_map(move |(z, zone)| {
                let dead = zone.entry.phase == Phase::Closed && zone.entry.live == 0;
                dead.then(|| (Addr::new(DeviceId(d as u8), ZoneId(z as u32), 0), zone))
            })
        })
    }

    /// Zones that hold nothing live and may be reset once the checkpoint that is being cut is durable (I2). `log_keep` are the log
    /// zones that the checkpoint still starts from.
    pub fn reset_candidates(&self, log_keep: &[Addr]) -> Vec<Addr> {
        self.dead()
            .filter(|(addr, zone)| match zone.entry.role {
                Role::Log => !log_keep.contains(addr),
                Role::Metadata | Role::None => true,
                role if role.is_data() => zone.forgotten,
                _ => false,
            })
            .map(|(addr, _)| addr)
            .collect()
    }

    /// Zones that will become empty with the next checkpoint.
    pub fn dead_zones(&self) -> u32 {
        self.dead().filter(|(_, zone)| zone.entry.role != Role::Log).count() as u32
    }

    /// May this candidate be reset now? Nothing live, nothing pinned.
    pub fn is_resettable(&self, addr: Addr) -> bool {
        self.zone(addr).is_some_and(|z| z.entry.phase == Phase::Closed && z.entry.live == 0 && z.pins == 0 && z.writing == 0 && !z.victim)
    }

    /// The device has reset the zone.
    pub fn note_reset(&mut self, addr: Addr) {
        if self.zone(addr).is_some_and(|z| z.entry.role == Role::Log) {
            self.log_held = self.log_held.saturating_sub(1);
        }
        let zone = self.zone_mut(addr);
        zone.entry = SegmentEntry { resets: zone.entry.resets + 1, ..SegmentEntry::EMPTY };
        zone.forgotten = false;
        let device = &mut self.devices[usize::from(addr.device().0)];
        device.empty.set(addr.zone().0 as usize, true);
        device.empty_count += 1;
    }

    // --- counts ---------------------------------------------------------------------------------------------------------------

    /// Live blocks of metadata.
    pub fn live_metadata(&self) -> u64 {
        self.live_metadata
    }

    /// Live blocks of data.
    pub fn live_data(&self) -> u64 {
        self.live_data
    }

    /// Blocks that users and metadata may take, reserves excluded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Blocks in use. `unplaced`: metadata blocks that exist in memory only so far.
    pub fn used(&self, unplaced: u64) -> u64 {
        self.live_data + self.live_metadata + self.unwritten + self.promised + unplaced
    }

    fn compute_total(&self) -> u64 {
        let capacity: u64 = self.devices.iter().map(|d| d.zones.len() as u64 * u64::from(d.capacity)).sum();
        let retired: u64 = self
            .iter()
            .filter(|(_, e)| e.phase == Phase::Retired)
            .map(|(a, e)| u64::from(self.capacity(a.device()) - e.live))
            .sum();
        let kept = self.reserves.log_zones + self.reserves.gc_zones + self.reserves.checkpoint_zones;
        let ring: u64 = self.devices.iter().map(|d| u64::from(RING_ZONES) * u64::from(d.capacity)).sum();
        let largest = u64::from(self.devices.iter().map(|d| d.capacity).max().unwrap_or(0));
        let usable = capacity.saturating_sub(ring + u64::from(kept) * largest);
        // One part in 64 keeps cleaning possible when everything else is full.
        (usable - usable / 64).saturating_sub(retired)
    }

    /// Counts for reports. `unplaced`: metadata blocks that exist in memory only so far.
    pub fn space(&self, unplaced: u64) -> SpaceCounts {
        let capacity: u64 = self.devices.iter().map(|d| d.zones.len() as u64 * u64::from(d.capacity)).sum();
        let total = self.total;
        let used = self.used(unplaced);
        let reclaimable: u64 = self
            .iter()
            .filter(|(_, e)| e.phase == Phase::Closed && e.role != Role::Log)
            .map(|(a, e)| u64::from(self.capacity(a.device()) - e.live))
            .sum();
        SpaceCounts { total, used, reclaimable, reserved: capacity - total }
    }

    /// Recounts everything that is kept incrementally and compares (I4).
    ///
    /// # Errors
    /// The first difference.
    pub fn self_check(&self) -> Result<(), String> {
        let (mut data, mut metadata, mut empty, mut log) = (0, 0, 0, 0);
        for (addr, e) in self.iter() {
            if e.role == Role::Metadata {
                metadata += u64::from(e.live);
            } else {
                data += u64::from(e.live);
            }
            empty += u32::from(e.phase == Phase::Empty);
            log += u32::from(e.role == Role::Log);
            if e.live > self.capacity(addr.device()) || (e.phase == Phase::Empty && e.live > 0) {
                return Err(format!("zone {addr} has {} live blocks in phase {:?}", e.live, e.phase));
            }
        }
        let pairs = [
            ("live data", data, self.live_data),
            ("live metadata", metadata, self.live_metadata),
            ("empty zones", empty.into(), self.empty_zones().into()),
            ("log zones", log.into(), self.log_held.into()),
        ];
        match pairs.into_iter().find(|(_, counted, kept)| counted != kept) {
            Some((what, counted, kept)) => Err(format!("{what}: {counted} by count, {kept} kept")),
            None => Ok(()),
        }
    }
}

/// Reserves for a volume of this shape. `capacity`: blocks of a zone.
///
/// The checkpoint reserve holds two checkpoints of the most dirty metadata there may be: one to write, one while what the first
/// replaced is being cleaned.
pub fn reserves_for(zones: u32, capacity: u32) -> Reserves {
    let blocks = u64::from(zones) * u64::from(capacity);
    let dirty_blocks = (blocks / 128).clamp(256, 8192) as u32;
    let one_checkpoint = (dirty_blocks + dirty_blocks / 8).div_ceil(capacity);
    Reserves {
        log_zones: (1024u32.div_ceil(capacity)).clamp(3, 8),
        gc_zones: (zones / 50).clamp(2, 16),
        checkpoint_zones: 2 * one_checkpoint + 1,
        dirty_blocks,
    }
}
