//! The superblock rings of all devices: which of the records in them are whole.

use super::{CheckReport, Finding};
use crate::BLOCK;
use crate::core::zones::ring_is_mirrored;
use crate::format::superblock::RING_ZONES;
use crate::volume::ring;
use std::sync::Arc;
use zns::ZonedDevice;

/// A slot with something in it.
struct Slot {
    slot: u32,
    content: Result<u64, String>,
}

/// One zone of the ring of one device.
pub(super) struct RingZone {
    zone: u32,
    content: Result<Vec<Slot>, String>,
    slots: u32,
}

/// The ring of one device, and which device of the volume it is.
pub(super) struct Ring {
    device: u8,
    zones: Vec<RingZone>,
    /// A newer record than those that can be read was relied on.
    newer_lost: bool,
}

/// Reads the rings of all devices.
pub(super) fn read(devices: &[Arc<dyn ZonedDevice>]) -> Vec<Ring> {
    let active_limit = devices.iter().map(|device| device.geometry().active_limit()).min().unwrap_or(u32::MAX);
    let mirrored = ring_is_mirrored(active_limit);
    devices.iter().enumerate().map(|(index, device)| read_one(index as u8, device, mirrored)).collect()
}

fn read_one(index: u8, device: &Arc<dyn ZonedDevice>, mirrored: bool) -> Ring {
    let mut number = index;
    let mut all: [Vec<ring::Slot>; RING_ZONES as usize] = Default::default();
    let mut zones = Vec::new();
    for zone in 0..RING_ZONES {
        let mut total = 0;
        let content = ring::read_zone(device, zone).map_err(|error| error.to_string()).map(|bytes| {
            total = (bytes.len() / BLOCK) as u32;
            let slots = bytes.chunks_exact(BLOCK).enumerate().filter_map(|(slot, block)| {
                let (kind, decoded) = ring::Slot::of(block);
                all[zone as usize].push(kind);
                let content = match decoded {
                    Ok(found) => {
                        number = found.device;
                        Ok(found.generation)
                    }
                    Err(_) if kind == ring::Slot::Blank => return None,
                    Err(error) => Err(error.to_string()),
                };
                Some(Slot { slot: slot as u32, content })
            });
            slots.collect()
        });
        zones.push(RingZone { zone, content, slots: total });
    }
    Ring { device: number, zones, newer_lost: ring::is_newer_lost([&all[0], &all[1]], mirrored, device.geometry().software_zones) }
}

/// Judges what was read. `newest`: the generation in use.
pub(super) fn judge(rings: &[Ring], newest: u64, report: &mut CheckReport) {
    for ring in rings {
        let device = ring.device;
        let generations = ring.zones.iter().filter_map(|zone| zone.content.as_ref().ok()).flatten();
        let own = generations.filter_map(|slot| slot.content.as_ref().ok()).max().copied().unwrap_or(0);
        if own < newest {
            report.add(Finding::BehindByOne { device, generation: own, newest });
        }
        let at_end = |zone: &RingZone| {
            let slots = zone.content.as_ref().map(Vec::as_slice).unwrap_or_default();
            slots.iter().any(|slot| slot.content == Ok(own) && slot.slot + 1 == zone.slots)
        };
        let full = ring.zones.iter().any(at_end);
        for RingZone { zone, content, .. } in &ring.zones {
            let zone = *zone;
            let slots = match content {
                Ok(slots) => slots,
                Err(reason) => {
                    report.add(Finding::RingUnreadable { device, zone, reason: reason.clone() });
                    continue;
                }
            };
            let newest_here = (0..slots.len()).filter(|&i| slots[i].content.is_ok()).max_by_key(|&i| slots[i].content.clone().ok());
            // What is damaged behind the newest record, or at the begin of the other zone when that one is the last of its zone, was newer still.
            let goes_on_here = newest_here.map_or(full, |i| slots[i].content == Ok(own));
            for (i, slot) in slots.iter().enumerate() {
                let Err(reason) = &slot.content else { continue };
                let (slot_number, reason) = (slot.slot, reason.clone());
                report.add(match newest_here.is_none_or(|last| i > last) && (goes_on_here || !ring.newer_lost) {
                    true if ring.newer_lost => Finding::NewestSuperblock { device, zone, slot: slot_number, reason },
                    true => Finding::TornSuperblock { device, zone, slot: slot_number },
                    false => Finding::OldSuperblock { device, zone, slot: slot_number, reason },
                });
            }
        }
    }
}
