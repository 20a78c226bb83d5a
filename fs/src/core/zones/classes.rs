//! Classes of heads: blocks that are expected to die at about the same time share zones (`placement=adaptive`, the default).
//!
//! What users write and what is relocated has a head for each class, as far as zones may be active and are there. A head more is opened only from what is
//! to spare: where little is empty a class goes where another one has room, so that any block that users write fits into any of their heads, and any that is
//! relocated into any of those of its road, and space is promised and reserved as if each had one head (I8). With a single class nothing differs from
//! a volume without classes.

use super::{HEADS, PARTLY_FILLED, ZoneTable};
use crate::addr::Addr;
use crate::format::segment::Role;
use gc::deaths::Deaths;
use gc::placement::{Temperature, ZONE_CLASSES};
use zns::DeviceId;

/// Most classes there are.
pub const MAX_CLASSES: usize = ZONE_CLASSES as usize;

/// Lives of zones that are remembered until somebody takes them.
const MOST_LIVES: usize = 64;

/// Roles that have a head for each class.
const CLASSED: [Role; 3] = [Role::User, Role::RelocatedByDevice, Role::RelocatedByHost];

/// Heads of a device.
pub(super) const SLOTS: usize = HEADS.len() + CLASSED.len() * (MAX_CLASSES - 1);

/// The place of the head of a role and a class in the heads of a device.
pub(super) fn slot_of(role: Role, class: u8) -> Option<usize> {
    let first = HEADS.iter().position(|&r| r == role)?;
    let class = usize::from(class);
    if class == 0 {
        return Some(first);
    }
    let kind = CLASSED.iter().position(|&r| r == role)?;
    (class < MAX_CLASSES).then(|| HEADS.len() + kind * (MAX_CLASSES - 1) + class - 1)
}

/// The other kind of relocation.
pub(super) fn other_kind(role: Role) -> Option<Role> {
    match role {
        Role::RelocatedByHost => Some(Role::RelocatedByDevice),
        Role::RelocatedByDevice => Some(Role::RelocatedByHost),
        _ => None,
    }
}

/// Which head takes a block of class `wanted`, of those that are `open`; `active`: classes in use; `more`: one more may be opened. One that is open and whose
/// class is not in use any more is filled first: until it is full it holds room for nothing.
pub(super) fn choose(open: [bool; MAX_CLASSES], wanted: u8, active: u8, more: bool) -> u8 {
    let is_open = |class: &u8| open[usize::from(*class)];
    if let Some(stale) = (active..MAX_CLASSES as u8).find(is_open) {
        return stale;
    }
    let wanted = wanted.min(active - 1);
    if is_open(&wanted) || more {
        return wanted;
    }
    (0..MAX_CLASSES as u8).filter(is_open).min_by_key(|class| class.abs_diff(wanted)).unwrap_or(wanted)
}

impl ZoneTable {
    /// How many classes there can be. Each takes two active zones, one for users and one for what is relocated by either road, beyond the nine that
    /// [`super::head_for`] counts; and what its head of relocation has begun and not filled must be within what is kept out of the space of users (I8).
    pub fn most_classes(&self) -> u8 {
        let by_limit = self.active_limit.saturating_sub(9) / 2;
        let devices = self.devices.len() as u32;
        let partly = PARTLY_FILLED + devices - 1;
        let zones: usize = self.devices.iter().map(|d| d.zones.len()).sum();
        let kept = self.kept_ahead().max(partly) + zones as u32 / 64;
        let by_space = (kept - partly) / devices;
        1 + by_limit.min(by_space).min(MAX_CLASSES as u32 - 1) as u8
    }

    /// Sets how many classes there are ([`Self::most_classes`] at most): heads of higher ones are opened no more. None: there is no placement, and no temperatures are kept.
    /// `watching`: they are intervals, and corrected by what is seen to die.
    pub fn set_classes(&mut self, classes: Option<u8>, watching: bool) {
        self.estimating = classes.is_some();
        self.watching = self.estimating && watching;
        self.classes = classes.unwrap_or(1).clamp(1, self.most_classes());
        self.active_classes = 1;
    }

    /// Sets how many of them are in use. A volume that is nearly full has one.
    pub fn set_active_classes(&mut self, active: u8, unplaced: u64) {
        let spare = self.total().saturating_sub(self.used(unplaced));
        let wanted = 4 * u64::from(self.zones_of_classes(self.classes)) * u64::from(self.smallest_capacity());
        self.active_classes = if spare < wanted { 1 } else { active.clamp(1, self.classes) };
    }

    /// Heads of relocation that so many classes have beyond those of a single one.
    pub(super) fn zones_of_classes(&self, classes: u8) -> u32 {
        u32::from(classes.max(1) - 1) * self.devices.len() as u32
    }

    /// How many classes there are.
    pub fn classes(&self) -> u8 {
        self.classes
    }

    /// How many are in use.
    pub fn classes_in_use(&self) -> u8 {
        self.active_classes
    }

    /// Next addresses of the open heads of users, by class.
    pub(super) fn open_user_heads(&self) -> [Option<Addr>; MAX_CLASSES] {
        let head = |class: usize| slot_of(Role::User, class as u8).and_then(|slot| self.devices.iter().find_map(|d| d.heads[slot]));
        std::array::from_fn(head)
    }

    /// The class of the head that takes what is copied to a device. A class has a head for one road at most, but for the first, which has both.
    pub(super) fn class_of_copies(&self, device: DeviceId, role: Role, wanted: u8) -> u8 {
        let Some(other) = other_kind(role) else { return 0 };
        let heads = &self.devices[usize::from(device.0)].heads;
        let is_open = |role, class| slot_of(role, class).is_some_and(|slot| heads[slot].is_some());
        let open = std::array::from_fn(|class| is_open(role, class as u8));
        let wanted = if wanted > 0 && is_open(other, wanted) { 0 } else { wanted };
        choose(open, wanted, self.active_classes, self.has_zone_to_spare(device, role))
    }

    /// The class of the head that takes what is relocated to a device beside copies into heads of `taken` classes; none: one of those has to end first. What is
    /// copied side by side takes the places of classes that are not in use: there are as many heads as there may be classes, and what they have begun and
    /// not filled is foreseen and filled first, whoever began it.
    pub fn class_beside(&self, device: DeviceId, role: Role, wanted: u8, taken: impl Fn(u8) -> bool) -> Option<u8> {
        let first = self.class_of_copies(device, role, wanted);
        if !taken(first) {
            return Some(first);
        }
        let heads = &self.devices.get(usize::from(device.0))?.heads;
        let is_open = |role, class| slot_of(role, class).is_some_and(|slot| heads[slot].is_some());
        let own = wanted.min(self.active_classes - 1);
        let stale = self.active_classes..MAX_CLASSES as u8;
        if let Some(open) = stale.chain([own]).find(|class| is_open(role, *class) && !taken(*class)) {
            return Some(open);
        }
        let other = other_kind(role).filter(|_| self.has_zone_to_spare(device, role))?;
        let may_open = |class: &u8| !taken(*class) && !is_open(role, *class) && (*class == 0 || !is_open(other, *class));
        [own].into_iter().chain(self.active_classes..self.classes).find(may_open)
    }

    /// Is there a zone for a head more of relocation, besides what users may count on?
    fn has_zone_to_spare(&self, device: DeviceId, role: Role) -> bool {
        // Users keep a zone's worth of room.
        let to_spare = self.writable_or_less() >= 2 * i64::from(self.smallest_capacity());
        let floor = self.floor(role).max(self.users_floor());
        to_spare && self.empty_zones() > floor && self.devices[usize::from(device.0)].empty_count > 0
    }

    /// So many blocks that are expected to be written again after `interval` were put into the zone.
    pub fn note_put(&mut self, addr: Addr, blocks: u32, interval: f64) {
        if blocks == 0 || !self.estimating || self.zone(addr).is_none() {
            return;
        }
        let clock = self.clock;
        let zone = self.zone_mut(addr);
        if zone.put == 0 {
            zone.entry.opened_at = clock;
            zone.deaths = Deaths::since(clock);
        }
        zone.put = zone.put.saturating_add(blocks);
        zone.rate += f64::from(blocks) / interval.max(1.0);
        zone.entry.temperature = Temperature::of(f64::from(zone.put) / zone.rate);
    }

    /// After how many blocks of users what lives in the zone of `addr` is expected to be written again: what was expected when it was filled, corrected by
    /// what was seen to die there.
    pub fn expected(&self, addr: Addr) -> Option<f64> {
        let zone = self.zone(addr)?;
        let filled = zone.entry.temperature.interval()?;
        Some(if self.watching { zone.deaths.expected(filled, zone.entry.live, self.clock) } else { filled })
    }

    /// A zone is given back: what its life was is remembered for a placement that wants to know, of the last few.
    pub(super) fn note_life(&mut self, addr: Addr) {
        let Some(e) = self.entry(addr).filter(|e| self.estimating && e.role == Role::User && e.class == 0) else { return };
        if e.temperature != Temperature::UNKNOWN {
            let life = self.clock.saturating_sub(e.opened_at);
            self.lives.truncate(MOST_LIVES - 1);
            self.lives.push_front(life);
        }
    }

    /// In blocks of users: how long zones lived that users filled as the first class, of those that were given back since the last call; the last of many.
    pub fn take_lives(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.lives.drain(..).rev()
    }

    /// About when the block at `addr` came there: its zone was filled from one time to another, and the block lies so far behind its begin.
    pub fn placed_at(&self, addr: Addr) -> Option<u64> {
        let e = self.entry(addr)?;
        let span = e.written_at.saturating_sub(e.opened_at);
        let unknown = e.temperature == Temperature::UNKNOWN || e.opened_at > e.written_at;
        let into = u128::from(span) * u128::from(addr.block().min(e.written)) / u128::from(e.written.max(1));
        Some(if unknown { e.written_at } else { e.opened_at + into as u64 })
    }
}
