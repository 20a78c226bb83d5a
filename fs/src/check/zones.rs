//! Zones and totals: live counts, write pointers, what the devices say, what the superblock says.

use super::ESTIMATES;
use super::blocks::Live;
use super::{Checker, Finding};
use crate::addr::Addr;
use crate::core::key::Class;
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::superblock::is_recorded_exactly;
use gc::placement::Population;
use std::collections::BTreeMap;
use zns::{ZoneInfo, ZoneState};

impl Checker<'_> {
    /// Compares the segment table with what was counted (I4) and with what the devices say. `live`: what is live in each zone; without a
    /// whole node map it is less than that.
    pub(super) fn check_zones(&mut self, live: &BTreeMap<Addr, Live>, map_complete: bool) {
        let reports = self.zone_reports();
        if self.zones_unknown {
            return;
        }
        self.check_log_start(&reports);
        let counted_all = !self.scan.is_class_lost(Class::Extent) && map_complete;
        let entries: Vec<(Addr, SegmentEntry)> = self.volume.state.lock().zones.iter().map(|(addr, entry)| (addr, *entry)).collect();
        for (zone, entry) in entries {
            let counted = live.get(&zone).copied().unwrap_or_default();
            self.check_count(zone, &entry, counted, counted_all);
            let report = reports.get(usize::from(zone.device().0)).and_then(|zones| zones.get(zone.zone().0 as usize));
            if let Some(info) = report {
                self.check_report(zone, &entry, counted, info);
            }
        }
    }

    /// Compares the segment table in memory with what was counted, all of it.
    pub(super) fn check_counts(&mut self, live: &BTreeMap<Addr, Live>) {
        let entries: Vec<(Addr, SegmentEntry)> = self.volume.state.lock().zones.iter().map(|(addr, entry)| (addr, *entry)).collect();
        for (zone, entry) in entries {
            self.check_count(zone, &entry, live.get(&zone).copied().unwrap_or_default(), true);
        }
    }

    fn check_count(&mut self, zone: Addr, entry: &SegmentEntry, counted: Live, counted_all: bool) {
        self.check_entry(zone, entry);
        let short = counted.blocks < entry.live && !counted_all;
        if counted.blocks != entry.live && !short {
            self.add(Finding::LiveCount { zone, counted: counted.blocks, recorded: entry.live });
        }
        if counted.end > entry.written {
            self.add(Finding::BeyondWritten { zone, block: counted.end - 1, written: entry.written });
        }
    }

    /// What each device says of its zones; nothing for those whose zones are software.
    fn zone_reports(&mut self) -> Vec<Vec<ZoneInfo>> {
        let members = self.volume.identity().members.clone();
        let devices: Vec<_> = self.volume.members().devices().cloned().collect();
        let mut reports = Vec::new();
        for (n, (device, member)) in devices.iter().zip(&members).enumerate() {
            let software = device.geometry().software_zones;
            let report = if software { Ok(Vec::new()) } else { device.report(0..member.zones) };
            reports.push(report.unwrap_or_else(|error| {
                self.add(Finding::NoZoneReport { device: n as u8, reason: error.to_string() });
                Vec::new()
            }));
        }
        reports
    }

    fn check_entry(&mut self, zone: Addr, e: &SegmentEntry) {
        let clock = self.volume.state.lock().zones.clock();
        let reason = match (e.role, e.phase) {
            (Role::Ring, Phase::Open) => None,
            (Role::Ring, _) => Some("belongs to the superblock ring and is not open"),
            (_, Phase::Empty) if e.live > 0 || e.written > 0 || e.role != Role::None => Some("is empty and has a use"),
            (Role::None | Role::Log, _) if e.live > 0 => Some("holds no data and has live blocks"),
            (Role::None, Phase::Open) => Some("is open without a use"),
            _ if e.live > e.written => Some("has more live blocks than were written"),
            _ if e.written_at > clock => Some("was last written in the future"),
            _ => None,
        };
        if let Some(reason) = reason {
            self.add(Finding::Zone { zone, reason });
        }
    }

    fn check_report(&mut self, zone: Addr, entry: &SegmentEntry, counted: Live, info: &ZoneInfo) {
        let pointer = self.volume.members().fs_blocks(zone.device(), info.written);
        let live = counted.blocks;
        match info.state {
            ZoneState::Offline if live > 0 => self.add(Finding::ZoneFailed { zone, state: "offline", live }),
            ZoneState::Offline | ZoneState::ReadOnly => {}
            _ if entry.phase == Phase::Retired => {}
            _ if counted.end > pointer => self.add(Finding::WritePointer { zone, block: counted.end - 1, pointer }),
            _ => {}
        }
    }

    /// The log must go on in a zone of the log, and no more of it can be gone than was ever there.
    fn check_log_start(&mut self, reports: &[Vec<ZoneInfo>]) {
        let addr = self.volume.identity().log.addr;
        if addr.is_none() {
            return;
        }
        let report = reports.get(usize::from(addr.device().0)).and_then(|zones| zones.get(addr.zone().0 as usize));
        let pointer = report.map_or(u32::MAX, |info| self.volume.members().fs_blocks(addr.device(), info.written));
        let (inside, entry) = {
            let state = self.volume.state.lock();
            (state.zones.contains(addr.zone_base(), 1), state.zones.entry(addr).copied())
        };
        let reason = match entry {
            Some(_) if !inside => Some("lies outside the volume"),
            None => Some("lies outside the volume"),
            Some(e) if e.role != Role::Log || e.phase == Phase::Empty => Some("is no zone of the log"),
            Some(e) if e.written < addr.block() => Some("was never written"),
            Some(_) if pointer < addr.block() => Some("lies beyond the write pointer of the device: what was there is gone"),
            Some(_) => None,
        };
        if let Some(reason) = reason {
            self.add(Finding::LogStart { addr, reason });
        }
    }

    /// Totals that the superblock keeps.
    pub(super) fn check_totals(&mut self) {
        let (inodes, unwritten, population) = {
            let state = self.volume.state.lock();
            (state.inodes, state.zones.unwritten(), state.zones.population().clone())
        };
        let counts = self.report.counts;
        if inodes != counts.inodes && !self.scan.is_class_lost(Class::Inode) {
            self.add(Finding::Total { what: "inodes", recorded: inodes, counted: counts.inodes });
        }
        if unwritten != counts.unwritten && !self.scan.is_class_lost(Class::Extent) {
            self.add(Finding::Total { what: "preallocated blocks", recorded: unwritten, counted: counts.unwritten });
        }
        let wrong = wrong_estimate(&population, &self.population);
        if let Some((recorded, counted)) = wrong.filter(|_| !self.scan.is_class_lost(Class::Extent)) {
            self.add(Finding::Total { what: ESTIMATES, recorded, counted });
        }
    }
}

/// How many blocks of the first estimate that is wrong are recorded, and how many there are: the first will do, for all are set together. A volume so large that
/// a record rounds them is not damaged by that.
fn wrong_estimate(recorded: &Population, counted: &Population) -> Option<(u64, u64)> {
    let mut pairs = recorded.counts().iter().copied().zip(counted.counts().iter().copied());
    pairs.find(|(recorded, counted)| recorded != counted).filter(|_| is_recorded_exactly(counted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_in_the_record_of_a_large_volume_is_no_damage_and_anything_else_is() {
        let of = |most: u64| {
            Population::of(std::array::from_fn(|n| [most, 1 << 21, 0][usize::from(n > 32) + usize::from(n > 244)] + u64::from(n == 7)))
        };
        let (large, small) = (of(1 << 28), of((1 << 28) - 2));
        // As a mount has it that read such a record.
        let recorded = Population::of(large.counts().map(|count| count & !1));
        assert!(recorded != large && wrong_estimate(&recorded, &large).is_none());
        let recorded = Population::of(small.counts().map(|count| count & !1));
        assert_eq!(wrong_estimate(&recorded, &small), Some(((1 << 28) - 2, (1 << 28) - 1)));
    }
}
