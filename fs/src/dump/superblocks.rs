//! Superblock records, and the checkpoint that one describes.

use super::{Emit, hex, time};
use crate::BLOCK;
use crate::format::superblock::{RING_ZONES, Superblock, SuperblockError};
use crate::volume::ring;
use serde_json::{Value, json};
use std::sync::Arc;
use zns::ZonedDevice;

/// The records in the rings of all devices; without `all` only the newest of each.
pub(super) fn dump(devices: &[Arc<dyn ZonedDevice>], all: bool, emit: Emit<'_>) -> std::io::Result<()> {
    for device in devices {
        let label = device.label();
        let mut newest: Option<(u32, u32, Superblock)> = None;
        for zone in 0..RING_ZONES {
            let bytes = match ring::read_zone(device, zone) {
                Ok(bytes) => bytes,
                Err(error) => {
                    emit(json!({ "kind": "superblock-ring", "device": label, "zone": zone, "error": error.to_string() }))?;
                    continue;
                }
            };
            let mut foreign = Vec::new();
            for (slot, block) in (0u32..).zip(bytes.chunks_exact(BLOCK)) {
                match Superblock::decode(block) {
                    Ok(found) if all => emit(record(&label, zone, slot, &found))?,
                    Ok(found) if newest.as_ref().is_none_or(|(.., n)| found.generation > n.generation) => {
                        newest = Some((zone, slot, found))
                    }
                    Ok(_) => {}
                    Err(SuperblockError::NotOne) if block.iter().all(|&byte| byte == 0) => {}
                    Err(SuperblockError::NotOne) => foreign.push(slot),
                    Err(error) => {
                        emit(json!({ "kind": "superblock", "device": label, "zone": zone, "slot": slot, "error": error.to_string() }))?;
                    }
                }
            }
            // A line for all of them: in a zone of somebody else's data it is every slot.
            if let (Some(first), Some(last)) = (foreign.first(), foreign.last()) {
                let error = SuperblockError::NotOne.to_string();
                emit(json!({
                    "kind": "superblock-ring", "device": label, "zone": zone, "first_slot": first, "last_slot": last,
                    "slots": foreign.len(), "error": error,
                }))?;
            }
        }
        if let Some((zone, slot, found)) = newest {
            emit(record(&label, zone, slot, &found))?;
        }
    }
    Ok(())
}

fn record(device: &str, zone: u32, slot: u32, found: &Superblock) -> Value {
    let mut value = superblock(found);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("kind".into(), json!("superblock"));
        fields.insert("device_path".into(), json!(device));
        fields.insert("zone".into(), json!(zone));
        fields.insert("slot".into(), json!(slot));
    }
    value
}

/// A superblock. The secrets are left out: they would let anybody forge log records and collide names.
pub fn superblock(s: &Superblock) -> Value {
    let members: Vec<Value> = s
        .members
        .iter()
        .map(|m| {
            json!({
                "uuid": hex(&m.uuid), "block_size": m.block_size, "zones": m.zones,
                "zone_blocks": m.zone_blocks, "zone_capacity": m.zone_capacity,
            })
        })
        .collect();
    json!({
        "uuid": uuid::Uuid::from_bytes(s.uuid).to_string(), "label": s.label, "generation": s.generation, "device": s.device,
        "clean": s.clean, "epoch": s.epoch, "created": time(s.created),
        "features": { "compatible": s.features.compatible, "read_only": s.features.read_only, "incompatible": s.features.incompatible },
        "next_ino": s.next_ino, "inodes": s.inodes, "clock": s.clock, "unwritten": s.unwritten, "estimates": estimates(&s.population),
        "reserves": {
            "log_zones": s.reserves.log_zones, "gc_zones": s.reserves.gc_zones,
            "checkpoint_zones": s.reserves.checkpoint_zones, "dirty_blocks": s.reserves.dirty_blocks,
        },
        "roots": {
            "tree_root": s.roots.tree_root, "map_addr": s.roots.map_addr, "map_crc": format!("{:08x}", s.roots.map_crc),
            "map_levels": s.roots.map_levels, "next_id": s.roots.next_id, "free_head": s.roots.free_head,
        },
        "log": {
            "addr": s.log.addr, "next_zone": s.log.next_zone, "sequence": s.log.sequence,
            "previous": format!("{:08x}", s.log.previous), "batch": s.log.batch,
        },
        "members": members,
    })
}

/// Live blocks of each estimate that has any.
fn estimates(population: &gc::placement::Population) -> Value {
    let some = population.counts().iter().enumerate().filter(|(_, blocks)| **blocks > 0);
    some.map(|(estimate, blocks)| json!({ "estimate": estimate, "blocks": blocks })).collect()
}

/// The checkpoint in use.
pub(super) fn checkpoint(s: &Superblock) -> Value {
    json!({
        "kind": "checkpoint", "generation": s.generation, "clean": s.clean, "tree_root": s.roots.tree_root,
        "map_addr": s.roots.map_addr, "map_levels": s.roots.map_levels, "log_addr": s.log.addr, "log_batch": s.log.batch,
    })
}
