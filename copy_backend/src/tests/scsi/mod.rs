//! The SCSI roads against the target in memory.

mod disk;
mod model;
mod tokens;
pub(crate) mod wire;
mod xcopy;

use crate::scsi::ScsiTransport;
use crate::scsi::place::Places;
use crate::scsi_token::TokenRoad;
use crate::scsi_xcopy::XcopyRoad;
use crate::topology::resolve::MadeOf;
use crate::topology::{DevNumber, OffloadBelow, RealDevice, Seen, System, Topology};
use crate::{CopyBackend, CopyEngine, CopyRequest, EngineConfig, Road, RoadPreference, SourceRange, Target as CopyTarget};
use disk::TargetDisk;
use parking_lot::Mutex;
use scsi_target::{DiskConfig, Target};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wire::Wire;
use zns::{Blocks, DeviceId, IoClass, Lba, ZonedDevice};

/// Blocks of a zone of every device here.
pub const ZONE: u64 = 64;

/// The disks `disk0`, `disk1`, ... of one target are `sda`, `sdb`, ...; what stands above them a test may say.
pub struct Shelf {
    disks: Vec<Seen>,
    /// What a path leads to instead of the disk of that number.
    above: Mutex<Vec<(PathBuf, Seen)>>,
}

const MAJOR: u32 = 8;
const ABOVE: u32 = 253;

impl System for Shelf {
    fn number_of(&self, path: &Path) -> Result<DevNumber, String> {
        let above = self.above.lock();
        if let Some(minor) = above.iter().position(|(known, _)| known == path) {
            return Ok(DevNumber { major: ABOVE, minor: minor as u32 });
        }
        let minor = self.disks.iter().position(|seen| seen.path == path).ok_or("there is no such disk")?;
        Ok(DevNumber { major: MAJOR, minor: minor as u32 })
    }

    fn see(&self, device: DevNumber) -> Result<Seen, String> {
        let above = self.above.lock();
        let seen = match device {
            DevNumber { major: MAJOR, minor } => self.disks.get(minor as usize),
            DevNumber { minor, .. } => above.get(minor as usize).map(|(_, seen)| seen),
        };
        seen.cloned().ok_or_else(|| format!("there is no device {device}"))
    }
}

/// Disks full of data that differs in every block, devices on them, an engine with one SCSI road.
pub struct Lab {
    pub wire: Wire,
    pub devices: Vec<Arc<TargetDisk>>,
    pub engine: CopyEngine,
    pub shelf: Arc<Shelf>,
}

impl Lab {
    pub fn new(road: Road, configs: Vec<DiskConfig>, engine: EngineConfig) -> Self {
        Self::below(road, configs, engine, OffloadBelow::default())
    }

    pub fn below(road: Road, configs: Vec<DiskConfig>, engine: EngineConfig, below: OffloadBelow) -> Self {
        let mut target = Target::new(configs.clone());
        for disk in 0..configs.len() {
            for (index, word) in target.bytes_mut(disk).chunks_mut(8).enumerate() {
                let value = ((disk as u64) << 56 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        let wire = Wire::new(target);
        let disk = |(index, config): (usize, &DiskConfig)| Seen {
            name: format!("sd{}", char::from(b'a' + index as u8)),
            path: PathBuf::from(format!("disk{index}")),
            size: config.blocks * u64::from(config.block_size),
            block_size: config.block_size,
            made_of: MadeOf::Itself,
        };
        let shelf = Arc::new(Shelf { disks: configs.iter().enumerate().map(disk).collect(), above: Mutex::default() });
        let devices: Vec<Arc<TargetDisk>> =
            configs.iter().enumerate().map(|(index, config)| Arc::new(TargetDisk::new(wire.to(index), index, config, ZONE))).collect();
        let shared: Arc<[Arc<dyn ZonedDevice>]> = devices.iter().map(|device| device.clone() as Arc<dyn ZonedDevice>).collect();
        let topology = Arc::new(Topology::with_system(shared.clone(), below, shelf.clone()));
        let open = {
            let wire = wire.clone();
            move |device: &RealDevice| Ok(Arc::new(wire.to(device.number.minor as usize)) as Arc<dyn ScsiTransport>)
        };
        let places = Arc::new(Places::with_opener(shared.clone(), topology, Box::new(open)));
        let backend: Arc<dyn CopyBackend> = match road {
            Road::ScsiToken => Arc::new(TokenRoad::new(places)),
            _ => Arc::new(XcopyRoad::new(places)),
        };
        Self { wire, devices, engine: CopyEngine::new(shared.to_vec(), vec![backend], engine), shelf }
    }

    /// Puts something between a device and its disk.
    pub fn stand_on(&self, device: usize, name: &str, made_of: MadeOf) {
        let path = self.shelf.disks[device].path.clone();
        let seen = Seen { name: name.into(), made_of, ..self.shelf.disks[device].clone() };
        let mut above = self.shelf.above.lock();
        above.retain(|(known, _)| *known != path);
        above.push((path, seen));
    }

    pub fn source(&self, device: u8, lba: u64, blocks: u64) -> SourceRange {
        SourceRange { device: DeviceId(device), lba: Lba(lba), blocks: Blocks(blocks) }
    }

    /// The beginning of a zone that is ready to be written.
    pub fn target(&self, device: u8, zone: u32) -> CopyTarget {
        self.devices[usize::from(device)].empty(zone);
        CopyTarget { device: DeviceId(device), lba: Lba(u64::from(zone) * ZONE) }
    }

    pub fn copy(&self, sources: Vec<SourceRange>, target: CopyTarget) -> crate::CopyResult {
        let class = IoClass::Cleaning;
        let request = CopyRequest { sources, target, class, checksums: Vec::new(), road: RoadPreference::Offload };
        self.engine.copy(request).unwrap()
    }

    /// The bytes of blocks of a disk.
    pub fn bytes(&self, disk: u8, lba: u64, blocks: u64) -> Vec<u8> {
        let block = u64::from(self.devices[usize::from(disk)].geometry().block_size);
        self.wire.target().bytes(usize::from(disk))[(lba * block) as usize..((lba + blocks) * block) as usize].to_vec()
    }

    pub fn contents(&self, sources: &[SourceRange]) -> Vec<u8> {
        sources.iter().flat_map(|source| self.bytes(source.device.0, source.lba.0, source.blocks.0)).collect()
    }

    /// How often a command was given.
    pub fn count(&self, operation: u8, action: u8) -> u64 {
        self.wire.target().counters().commands.get(&(operation, action)).copied().unwrap_or(0)
    }
}
