//! The crate against simulated devices.

mod calibrating;
mod engine;
mod faults;
mod files;
mod flights;
mod liars;
mod panics;
mod plan;
mod ranges;
pub(crate) mod scsi;

use crate::{CopyEngine, CopyRequest, EngineConfig, RoadPreference, SourceRange, Target};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};
use zns::{AlignedBuf, Blocks, BufSlice, CopyLimits, DeviceId, IoClass, Lba, ZoneId, ZonedDevice};

/// Zones of 256 KiB; the first [`SOURCE_ZONES`] of each drive are full of data that differs in every block.
const ZONES: u32 = 40;
const SOURCE_ZONES: u32 = 6;
const ZONE_BYTES: u64 = 256 << 10;

fn config(block_size: u32, seed: u64) -> SimConfig {
    let blocks = Blocks(ZONE_BYTES / u64::from(block_size));
    SimConfig {
        block_size,
        zone_size: blocks,
        zone_capacity: blocks,
        copy: Some(CopyLimits { mssrl: 64, mcl: 128, ranges: 3 }),
        ..SimConfig::zoned(ZONES, seed)
    }
}

/// Drives with data in them, and an engine over handles on them.
struct Lab {
    drives: Vec<SimDrive>,
    engine: CopyEngine,
}

impl Lab {
    fn new(configs: Vec<SimConfig>, engine: EngineConfig) -> Self {
        let drives: Vec<SimDrive> = configs.into_iter().map(SimDrive::new).collect();
        let devices: Vec<Arc<dyn ZonedDevice>> = drives.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect();
        for (index, device) in devices.iter().enumerate() {
            fill(&**device, index as u64);
        }
        Self { drives, engine: CopyEngine::for_devices(devices, engine) }
    }

    fn one(block_size: u32, engine: EngineConfig) -> Self {
        Self::new(vec![config(block_size, 7)], engine)
    }

    fn block(&self, device: u8) -> u64 {
        u64::from(self.engine.devices[usize::from(device)].geometry().block_size)
    }

    /// A source of `len` filesystem blocks, from block `from` of zone `zone` on.
    fn source(&self, device: u8, zone: u32, from: u64, len: u64) -> SourceRange {
        let per = 4096 / self.block(device);
        let lba = Lba(u64::from(zone) * ZONE_BYTES / self.block(device) + from * per);
        SourceRange { device: DeviceId(device), lba, blocks: Blocks(len * per) }
    }

    /// The write pointer of a zone.
    fn target(&self, device: u8, zone: u32) -> Target {
        let info = self.drives[usize::from(device)].zone(ZoneId(zone));
        Target { device: DeviceId(device), lba: info.start + info.written }
    }

    fn content(&self, source: &SourceRange) -> Vec<u8> {
        // Sources may cross zones.
        let drive = &self.drives[usize::from(source.device.0)];
        (0..source.blocks.0).flat_map(|i| drive.peek(source.lba + Blocks(i), Blocks(1))).collect()
    }

    fn contents(&self, sources: &[SourceRange]) -> Vec<u8> {
        sources.iter().flat_map(|source| self.content(source)).collect()
    }

    fn at(&self, target: Target, bytes: u64) -> Vec<u8> {
        self.content(&SourceRange { device: target.device, lba: target.lba, blocks: Blocks(bytes / self.block(target.device.0)) })
    }

    fn copy_many(&self, requests: Vec<CopyRequest>) -> Vec<crate::Result<crate::CopyResult>> {
        self.engine.copy_governed(requests, &crate::governor::Free).into_iter().map(|carried| carried.result).collect()
    }

    fn request(&self, sources: Vec<SourceRange>, target: Target, road: RoadPreference) -> CopyRequest {
        let checksums = self.contents(&sources).chunks(4096).map(crc32c::crc32c).collect();
        CopyRequest { sources, target, class: IoClass::Cleaning, checksums, road }
    }
}

fn fill(device: &dyn ZonedDevice, salt: u64) {
    let geometry = device.geometry();
    for zone in 0..SOURCE_ZONES {
        let mut bytes = vec![0; ZONE_BYTES as usize];
        for (index, word) in bytes.chunks_mut(8).enumerate() {
            let value = (u64::from(zone) << 40 | index as u64).wrapping_add(salt << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            word.copy_from_slice(&value.to_le_bytes());
        }
        let data = vec![BufSlice::whole(AlignedBuf::from_slice(&bytes))];
        device.write(geometry.zone_start(ZoneId(zone)), data, IoClass::Foreground).unwrap();
    }
    device.flush().unwrap();
}
