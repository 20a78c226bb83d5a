//! Pins, victims and resets: which zones may be cleaned, and which may be reset (I2).

use super::space::is_held_by_log;
use super::{Zone, ZoneTable};
use crate::addr::Addr;
use crate::format::segment::{Phase, Role, SegmentEntry};
use zns::{DeviceId, ZoneId};

/// A zone that was found to hold nothing. Once somebody has reset it, it is another one: a checkpoint and the log may both be about to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Which.
    pub addr: Addr,
    resets: u32,
}

impl ZoneTable {
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

    /// Zones that are pinned, or written to.
    #[cfg(test)]
    pub fn in_use(&self) -> Vec<Addr> {
        let in_use = |(addr, _): &(Addr, &SegmentEntry)| self.zone(*addr).is_some_and(|zone| zone.pins > 0 || zone.writing > 0);
        self.iter().filter(in_use).map(|(addr, _)| addr).collect()
    }

    /// The next zone to be opened on its device, if it is empty.
    #[cfg(test)]
    pub fn open_next(&mut self, addr: Addr) {
        self.devices[usize::from(addr.device().0)].next = addr.zone().0 as usize;
    }

    /// Marks a zone as victim (or not any more).
    pub fn set_victim(&mut self, addr: Addr, victim: bool) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].victim = victim;
    }

    /// Cleaning this zone, or forgetting it, failed on the media: it is left as it is in this mount.
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

    /// Is the zone no longer one that waits to be reset?
    pub fn is_given_back(&self, addr: Addr) -> bool {
        self.zone(addr).is_none_or(|z| z.entry.phase != Phase::Closed)
    }

    /// Dead data zones whose summaries are still in the tree.
    pub fn to_forget(&self) -> Vec<Addr> {
        self.dead().filter(|(_, zone)| zone.entry.role.is_data() && !zone.forgotten && !zone.unmovable).map(|(addr, _)| addr).collect()
    }

    /// The summaries of a dead zone are gone.
    pub fn set_forgotten(&mut self, addr: Addr) {
        let at = addr.zone().0 as usize;
        self.devices[usize::from(addr.device().0)].zones[at].forgotten = true;
    }

    /// Where a count was found to be wrong, no zone is dead by its count: nothing is reset any more.
    fn dead(&self) -> impl Iterator<Item = (Addr, &Zone)> {
        let counts_hold = self.miscounted.is_none();
        let devices = self.devices.iter().enumerate().take_while(move |_| counts_hold);
        devices.flat_map(|(d, device)| {
            device.zones.iter().enumerate().filter_map(move |(z, zone)| {
                // What a copy is filling is not dead, though nothing of it is mapped yet.
                let dead = zone.entry.phase == Phase::Closed && zone.entry.live == 0 && zone.writing == 0;
                dead.then(|| (Addr::new(DeviceId(d as u8), ZoneId(z as u32), 0), zone))
            })
        })
    }

    /// Zones that hold nothing live and may be reset once the checkpoint that is being cut is durable (I2). `log_keep` are the log
    /// zones that the checkpoint still starts from.
    pub fn reset_candidates(&self, log_keep: &[Addr]) -> Vec<Dead> {
        self.dead()
            .filter(|(addr, zone)| match zone.entry.role {
                Role::Log => !log_keep.contains(addr),
                Role::Metadata | Role::None => true,
                role if role.is_data() => zone.forgotten,
                _ => false,
            })
            .map(|(addr, zone)| Dead { addr, resets: zone.entry.resets })
            .collect()
    }

    /// Right after the table was loaded: the closed zones in which the checkpoint has nothing live, but those where its log begins. The volume
    /// was free to reset them as soon as that checkpoint was durable.
    pub fn unused_since_checkpoint(&self, log_keep: &[Addr]) -> Vec<Addr> {
        self.dead().map(|(addr, _)| addr).filter(|addr| !log_keep.contains(addr)).collect()
    }

    /// Zones that will become empty with the next checkpoint.
    pub fn dead_zones(&self) -> u32 {
        self.dead().filter(|(_, zone)| zone.entry.role != Role::Log).count() as u32
    }

    /// May this candidate be reset now? Nothing live, nothing pinned.
    pub fn is_resettable(&self, addr: Addr) -> bool {
        self.miscounted.is_none()
            && self.zone(addr).is_some_and(|z| {
                z.entry.role != Role::Ring
                    && z.entry.phase == Phase::Closed
                    && z.entry.live == 0
                    && z.pins == 0
                    && z.writing == 0
                    && !z.victim
            })
    }

    /// May it be reset, and is it the zone that it was when it was found dead? What it holds since somebody else has reset it may be dead, too, but what killed
    /// that need not be durable.
    pub fn is_still_dead(&self, dead: Dead) -> bool {
        self.is_resettable(dead.addr) && self.entry(dead.addr).is_some_and(|entry| entry.resets == dead.resets)
    }

    /// The log says that the zone holds nothing from here on (a mount). It may have been reset since then, or not.
    pub fn note_released(&mut self, addr: Addr) {
        let Some(zone) = self.zone(addr) else { return };
        let SegmentEntry { role, phase, live, .. } = zone.entry;
        if role == Role::Ring || matches!(phase, Phase::Empty | Phase::Retired) {
            return;
        }
        if live == 0 {
            self.end_zone(addr);
            self.note_reset(addr);
        } else if !self.incomplete {
            self.miscounted = Some(addr.zone_base());
            self.set_incomplete();
        }
    }

    /// The device has reset the zone.
    pub fn note_reset(&mut self, addr: Addr) {
        if self.zone(addr).is_some_and(|z| is_held_by_log(&z.entry)) {
            self.log_held = self.log_held.saturating_sub(1);
        }
        self.note_life(addr);
        let zone = self.zone_mut(addr);
        zone.entry = SegmentEntry { resets: zone.entry.resets + 1, ..SegmentEntry::EMPTY };
        zone.forgotten = false;
        // In roll-forward nobody opens the zone before something is put into it.
        (zone.put, zone.rate) = (0, 0.0);
        // It is not active any more, and must not become full.
        self.to_finish.retain(|ended| *ended != addr.zone_base());
        let device = &mut self.devices[usize::from(addr.device().0)];
        device.empty.set(addr.zone().0 as usize, true);
        device.empty_count += 1;
    }
}
