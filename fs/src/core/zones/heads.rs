//! Heads and reserves: who may open a zone, and where the next block of each head goes (I1, I8).

use super::classes::{MAX_CLASSES, choose, slot_of};
use super::space::is_held_by_log;
use super::{Device, HEADS, ZoneTable, head_for, is_on_each_device};
use crate::addr::Addr;
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::superblock::Reserves;
use std::collections::BTreeSet;
use zns::{DeviceId, ZoneId};

/// Where some blocks would be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first.
    pub addr: Addr,
    /// How many.
    pub blocks: u32,
    /// The class that was asked for.
    pub class: u8,
    /// The class of the head that takes them.
    pub head: u8,
}

impl ZoneTable {
    /// Empty zones.
    pub fn empty_zones(&self) -> u32 {
        self.devices.iter().map(|d| d.empty_count).sum()
    }

    /// Zones that the log may still open.
    pub(super) fn log_claim(&self) -> u32 {
        self.reserves.log_zones.saturating_sub(self.log_held)
    }

    /// Zones that writes of users still need beyond the open user zone: those that are promised, and those that are granted and to come.
    fn promised_zones(&self) -> u32 {
        let beyond = (self.promised + self.granted).saturating_sub(self.head_room(Role::User));
        beyond.div_ceil(u64::from(self.smallest_capacity())) as u32
    }

    pub(super) fn smallest_capacity(&self) -> u32 {
        self.devices.iter().map(|d| d.capacity).min().expect("at least one device")
    }

    /// A role may open a zone while more zones than this are empty.
    pub(super) fn floor(&self, role: Role) -> u32 {
        match role {
            Role::Log if self.log_held < self.reserves.log_zones => 0,
            // Beyond its own reserve the log takes only what nobody else counts on; else a checkpoint comes first (I8).
            Role::Log => self.reserves.checkpoint_zones + self.reserves.gc_zones,
            Role::Metadata => self.log_claim(),
            Role::RelocatedByDevice | Role::RelocatedByHost => {
                let lent = u32::from(self.last_resort && self.promised_zones() == 0);
                self.log_claim() + self.reserves.checkpoint_zones.saturating_sub(lent) + self.promised_zones()
            }
            // What users write was promised against the floor that `writable` keeps.
            _ => self.log_claim() + self.reserves.checkpoint_zones,
        }
    }

    /// Lends cleaning the zone of the checkpoint reserve that exceeds two checkpoints. A crash costs cleaning what was left in its open zones:
    /// with this zone it can move all that lives in some other one, which is free after the next checkpoint.
    pub fn set_last_resort(&mut self, lent: bool) {
        self.last_resort = lent;
    }

    /// Is there anywhere to relocate to?
    pub fn can_relocate(&self) -> bool {
        let roles = [Role::RelocatedByDevice, Role::RelocatedByHost];
        roles.iter().any(|role| self.head_room(*role) > 0) || self.empty_zones() > self.floor(Role::RelocatedByDevice)
    }

    /// What must stay empty when users are promised something.
    pub(super) fn users_floor(&self) -> u32 {
        self.log_claim() + self.reserves.checkpoint_zones + self.reserves.gc_zones
    }

    /// The places of the heads of all classes that serve a role in the heads of a device.
    fn slots(&self, role: Role) -> impl Iterator<Item = usize> + Clone + use<> {
        let role = head_for(role, self.active_limit);
        (0..MAX_CLASSES as u8).filter_map(move |class| slot_of(role, class))
    }

    /// Blocks left in the open zones of the heads of a role.
    pub fn head_room(&self, role: Role) -> u64 {
        let slots = self.slots(role);
        let left =
            |d: &Device| -> u64 { slots.clone().map(|slot| d.heads[slot].map_or(0, |next| u64::from(d.capacity - next.block()))).sum() };
        self.devices.iter().map(left).sum()
    }

    /// Blocks that users may still be promised without cleaning first.
    pub fn writable(&self) -> u64 {
        self.writable_or_less().max(0).unsigned_abs()
    }

    /// [`ZoneTable::writable`], below zero while more is in use than users may have.
    pub(super) fn writable_or_less(&self) -> i64 {
        let spare = i64::from(self.empty_zones()) - i64::from(self.users_floor());
        let room = self.head_room(Role::User) as i64 + spare * i64::from(self.smallest_capacity());
        room - (self.promised + self.granted) as i64
    }

    /// The room ahead of the users, for the cleaner. `dirty`: blocks that the next checkpoint will write. It takes them out of what users have;
    /// counted as they become dirty, and with what heads of metadata and relocation have taken and not filled, nothing jumps when a zone is
    /// opened. Half of what heads of more classes than one hold is never for users: so much less is ahead of them, by and by.
    pub fn room(&self, dirty: u64) -> gc::Room {
        let writable = self.writable_or_less();
        let taken: u64 = [Role::Metadata, Role::RelocatedByDevice, Role::RelocatedByHost].iter().map(|role| self.head_room(*role)).sum();
        let held = self.most_held().min(self.held_quarters / 4) as i64;
        gc::Room { writable: writable - dirty as i64, ahead: writable + taken as i64 - dirty as i64 - held }
    }

    /// Half of what heads of relocation hold beyond one of each device: those of classes in use, or those that are open, whoever began them (cleaning by hand
    /// does, where no class is in use).
    fn most_held(&self) -> u64 {
        let open = |d: &Device, class: u8| {
            [Role::RelocatedByDevice, Role::RelocatedByHost]
                .iter()
                .any(|role| slot_of(*role, class).is_some_and(|slot| d.heads[slot].is_some()))
        };
        let further = |d: &Device| (1..MAX_CLASSES as u8).filter(|class| open(d, *class)).count() as u32;
        let open: u32 = self.devices.iter().map(further).sum();
        u64::from(open.max(self.zones_of_classes(self.classes_in_use()))) * u64::from(self.smallest_capacity()) / 2
    }

    /// What is counted out grows with what users write, a block for four, however large zones are: so cleaning need not do more than a quarter more
    /// meanwhile, and nobody finds it urgent from one moment to the next because a class came into use.
    pub(super) fn hold_more(&mut self, user_blocks: u64) {
        self.held_quarters = (self.held_quarters + user_blocks).min(4 * self.most_held());
    }

    /// Can `blocks` more blocks of users be placed, besides those that are promised? Who holds a grant asks again: a checkpoint may have
    /// taken zones since.
    pub fn has_place_for(&self, blocks: u64) -> bool {
        let zones = self.empty_zones().saturating_sub(self.floor(Role::User));
        self.promised + blocks <= self.head_room(Role::User) + u64::from(zones) * u64::from(self.smallest_capacity())
    }

    /// Blocks that were granted.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Blocks of dirty file data that are still to be written: room for them is kept.
    pub fn set_promised(&mut self, blocks: u64) {
        self.promised = blocks;
    }

    /// Somebody may dirty so many blocks: room for them is kept until [`ZoneTable::end_grant`].
    pub fn grant(&mut self, blocks: u64) {
        self.granted += blocks;
    }

    /// Undoes one [`ZoneTable::grant`].
    pub fn end_grant(&mut self, blocks: u64) {
        debug_assert!(self.granted >= blocks);
        self.granted = self.granted.saturating_sub(blocks);
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

    /// Are no more zones empty than the log and checkpoints need?
    pub fn cleaning_reserve_is_gone(&self) -> bool {
        self.empty_zones() <= self.log_claim() + self.reserves.checkpoint_zones
    }

    /// Where `role` goes on: the device of an open head, else the one on which it would open a zone. A head that every device has goes on on
    /// `near` if it can. `None`: the role's floor is reached.
    pub fn device_for(&self, role: Role, near: Option<DeviceId>) -> Option<DeviceId> {
        let slots = self.slots(role);
        let has_open = |d: &Device| slots.clone().any(|slot| d.heads[slot].is_some());
        let may_open = self.empty_zones() > self.floor(role);
        if let Some(near) = near.filter(|_| is_on_each_device(role)) {
            let device = self.devices.get(usize::from(near.0))?;
            if has_open(device) || (may_open && device.empty_count > 0) {
                return Some(near);
            }
        }
        let open = self.devices.iter().position(has_open);
        let index = open.or_else(|| self.fullest_of_empty().filter(|_| may_open))?;
        Some(DeviceId(index as u8))
    }

    /// Up to `max` blocks in a row at the head of `role`, opening a zone if need be. `None`: the role's floor is reached.
    pub fn allocate(&mut self, role: Role, max: u32) -> Option<(Addr, u32)> {
        if role == Role::User { self.allocate_for_users(0, max) } else { self.allocate_on(self.device_for(role, None)?, role, 0, max) }
    }

    /// The same for what users write, of a class.
    pub fn allocate_for_users(&mut self, class: u8, max: u32) -> Option<(Addr, u32)> {
        let open = self.open_user_heads();
        let class = choose(open.map(|head| head.is_some()), class, self.classes_in_use(), self.empty_zones() > self.users_floor());
        let device = match open[usize::from(class)] {
            Some(head) => head.device(),
            None => DeviceId(self.fullest_of_empty().filter(|_| self.empty_zones() > self.floor(Role::User))? as u8),
        };
        self.allocate_at(device, Role::User, class, max)
    }

    /// The same for another role on the device that [`ZoneTable::device_for`] said.
    pub fn allocate_on(&mut self, device: DeviceId, role: Role, class: u8, max: u32) -> Option<(Addr, u32)> {
        let role = head_for(role, self.active_limit);
        let class = self.class_of_copies(device, role, class);
        self.allocate_at(device, role, class, max)
    }

    /// The same for relocation into the head that [`ZoneTable::class_beside`] said.
    pub fn allocate_in(&mut self, device: DeviceId, role: Role, class: u8, max: u32) -> Option<(Addr, u32)> {
        self.allocate_at(device, role, class, max)
    }

    fn allocate_at(&mut self, device: DeviceId, role: Role, class: u8, max: u32) -> Option<(Addr, u32)> {
        let slot = slot_of(role, class)?;
        let next = match self.devices[usize::from(device.0)].heads[slot] {
            Some(next) => next,
            None => {
                self.make_room_for(role, device);
                let opened = self.open_on(usize::from(device.0), role)?;
                self.zone_mut(opened).entry.class = class;
                opened
            }
        };
        let capacity = self.capacity(device);
        let blocks = max.min(capacity - next.block());
        let clock = self.clock;
        let zone = self.zone_mut(next);
        zone.entry.written += blocks;
        zone.entry.written_at = clock;
        let full = zone.entry.written == capacity;
        if full {
            zone.entry.phase = Phase::Closed;
        }
        self.devices[usize::from(device.0)].heads[slot] = (!full).then(|| next.plus(blocks));
        Some((next, blocks))
    }

    /// Where few zones may be active, the two kinds of relocation take turns: one ends before the other begins.
    fn make_room_for(&mut self, role: Role, device: DeviceId) {
        let Some(other) = super::classes::other_kind(role) else { return };
        let slot = HEADS.iter().position(|&r| r == other).expect("a head");
        if self.active_limit < 8
            && let Some(next) = self.devices[usize::from(device.0)].heads[slot]
        {
            self.end_zone(next);
        }
    }

    /// Where blocks that users write would be allocated now by [`ZoneTable::allocate_for_users`], in order; fewer if the floor is reached. `wanted`: how
    /// many of which class.
    pub fn preview(&self, wanted: &[(u8, u64)]) -> Vec<Place> {
        let mut places = Vec::new();
        let mut heads = self.open_user_heads();
        let mut counts: Vec<(u32, usize)> = self.devices.iter().map(|d| (d.empty_count, d.next)).collect();
        let mut free = self.empty_zones();
        let floor = self.floor(Role::User);
        let mut taken = BTreeSet::new();
        for &(class, blocks) in wanted {
            let mut left = blocks;
            while left > 0 {
                let head = choose(heads.map(|head| head.is_some()), class, self.classes_in_use(), free > self.users_floor());
                let next = match heads[usize::from(head)] {
                    Some(next) => next,
                    None if free <= floor => return places,
                    None => {
                        let share = |i: usize| u64::from(counts[i].0) * 1_000_000 / self.devices[i].zones.len() as u64;
                        let Some(device) = (0..counts.len()).max_by_key(|&i| (share(i), usize::MAX - i)) else { return places };
                        let d = &self.devices[device];
                        let empty = |from: usize, to: usize| {
                            d.empty[from..to].iter_ones().map(|i| i + from).find(|&z| !taken.contains(&(device, z)))
                        };
                        let Some(zone) = empty(counts[device].1, d.zones.len()).or_else(|| empty(0, d.zones.len())) else { return places };
                        taken.insert((device, zone));
                        counts[device] = (counts[device].0 - 1, zone + 1);
                        free -= 1;
                        Addr::new(DeviceId(device as u8), ZoneId(zone as u32), 0)
                    }
                };
                let room = self.capacity(next.device()) - next.block();
                let n = left.min(u64::from(room)) as u32;
                places.push(Place { addr: next, blocks: n, class, head });
                heads[usize::from(head)] = (n < room).then(|| next.plus(n));
                left -= u64::from(n);
            }
        }
        places
    }

    /// Opens an empty zone for `role` without making it a head (the log prepares its next zone so).
    pub fn open(&mut self, role: Role) -> Option<Addr> {
        self.open_on(self.fullest_of_empty()?, role)
    }

    fn open_on(&mut self, device: usize, role: Role) -> Option<Addr> {
        if self.empty_zones() <= self.floor(role) {
            return None;
        }
        let d = &mut self.devices[device];
        let at = d.empty[d.next..].first_one().map(|i| i + d.next).or_else(|| d.empty.first_one())?;
        d.next = at + 1;
        d.empty.set(at, false);
        d.empty_count -= 1;
        let addr = Addr::new(DeviceId(device as u8), ZoneId(at as u32), 0);
        let clock = self.clock;
        let zone = self.zone_mut(addr);
        let resets = zone.entry.resets;
        zone.entry = SegmentEntry { role, phase: Phase::Open, written_at: clock, resets, ..SegmentEntry::EMPTY };
        (zone.put, zone.rate) = (0, 0.0);
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
        let Some(slot) = self.entry(addr).and_then(|e| slot_of(e.role, e.class)) else { return };
        let device = usize::from(addr.device().0);
        let at_end = match self.devices[device].heads[slot] {
            Some(next) => next == end,
            None => end.block() == capacity && self.entry(addr).is_some_and(|e| e.phase == Phase::Closed),
        };
        if used < granted && at_end {
            let zone = self.zone_mut(addr);
            zone.entry.written = addr.block() + used;
            zone.entry.phase = Phase::Open;
            self.devices[device].heads[slot] = Some(addr.plus(used));
        }
    }

    /// Ends a zone early (I9): what was not written is given up until its reset.
    pub fn end_zone(&mut self, addr: Addr) {
        for head in &mut self.devices[usize::from(addr.device().0)].heads {
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
        let was_held = is_held_by_log(&zone.entry);
        zone.entry.phase = Phase::Retired;
        self.log_held -= u32::from(was_held);
        if was_empty {
            let device = &mut self.devices[usize::from(addr.device().0)];
            device.empty.set(addr.zone().0 as usize, false);
            device.empty_count -= 1;
        }
        // Until it is finished it counts as active on its device, if it still can be finished.
        if !was_empty && !self.to_finish.contains(&addr.zone_base()) {
            self.to_finish.push(addr.zone_base());
        }
        self.total = self.compute_total();
    }

    /// Ends every head (after a crash none is resumed).
    pub fn end_all_heads(&mut self) {
        let open: Vec<Addr> = self.iter().filter(|(_, e)| e.phase == Phase::Open && e.role != Role::Ring).map(|(a, _)| a).collect();
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
        if !self.to_finish.contains(&addr.zone_base()) {
            self.to_finish.push(addr.zone_base());
        }
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

    /// Next address of an open head of a role; of the first one where there are several.
    pub fn head(&self, role: Role) -> Option<Addr> {
        let slots = self.slots(role);
        self.devices.iter().find_map(|d| slots.clone().find_map(|slot| d.heads[slot]))
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
        self.log_held = self.log_held + u32::from(is_held_by_log(&entry)) - u32::from(is_held_by_log(&old));
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
}

/// Reserves for a volume of this shape. `capacity`: blocks of a zone.
///
/// The checkpoint reserve holds two checkpoints of the most dirty metadata there may be: one to write, one while what the first
/// replaced is being cleaned. As long as all leaves may be dirty at once, scattered writes cost hardly any metadata; beyond that nearly a block for each of
/// theirs. So that may be a part in 48 of the volume, as much as half of the default cache holds, or more where a part in 512 is more: a larger cache can use it.
pub fn reserves_for(zones: u32, capacity: u32) -> Reserves {
    let blocks = u64::from(zones) * u64::from(capacity);
    let dirty_blocks = (blocks / 48).clamp(256, (blocks / 512).clamp(16_384, 65_536)) as u32;
    let one_checkpoint = (dirty_blocks + dirty_blocks / 8).div_ceil(capacity);
    Reserves {
        log_zones: (1024u32.div_ceil(capacity)).clamp(3, 8),
        gc_zones: (zones / 50).clamp(2, 16),
        checkpoint_zones: 2 * one_checkpoint + 1,
        dirty_blocks,
    }
}
