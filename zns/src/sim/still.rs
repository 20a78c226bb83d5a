//! Media at rest: what a loss of power left, or a volume that is not in use. Cheap to clone, to change in a few places and to tell apart.

use super::drive::SimDrive;
use super::file::SimFile;
use super::media::Zone;
use super::store::mixed;
use super::{SimConfig, Tape};
use crate::device::ZonedDevice;
use crate::error::Result;
use crate::image::ImageDevice;
use crate::zone::ZoneState;
use std::sync::Arc;

/// Simulated hardware under one device of a volume: a drive, or the file of a drive image.
#[derive(Clone, Debug)]
pub enum SimMedium {
    /// A drive.
    Drive(SimDrive),
    /// The file of a drive image.
    File(SimFile),
}

impl SimMedium {
    /// A handle on it. An image that is opened read-only is not repaired.
    ///
    /// # Errors
    /// A file that holds no image.
    pub fn open(&self, read_only: bool) -> Result<Arc<dyn ZonedDevice>> {
        Ok(match self {
            Self::Drive(drive) => drive.open(),
            Self::File(file) => Arc::new(ImageDevice::open_simulated(file, read_only)?),
        })
    }

    /// What it does from here on is recorded, as device `device`.
    pub fn record(&self, tape: &Arc<Tape>, device: u8) {
        match self {
            Self::Drive(drive) => drive.record(tape, device),
            Self::File(file) => file.record(tape, device),
        }
    }

    /// All that it holds, caches included.
    pub fn still(&self) -> Still {
        match self {
            Self::Drive(drive) => drive.still(),
            Self::File(file) => file.still(),
        }
    }
}

/// What the zones of a [`Still`] are.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Drive(Arc<SimConfig>),
    /// A file of so many bytes; its "zones" are its pieces of [`super::file::PIECE`] bytes.
    File(u64),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Still {
    pub(super) shape: Shape,
    pub(super) zones: Vec<Zone>,
}

impl Still {
    /// Must its zones be written in order?
    pub(super) fn is_sequential(&self) -> bool {
        matches!(&self.shape, Shape::Drive(config) if !config.conventional)
    }

    /// Bytes that are written whole or not at all, before tearing: a device block, or a page of the cache.
    pub(super) fn unit(&self) -> usize {
        match &self.shape {
            Shape::Drive(config) => config.block_size as usize,
            Shape::File(_) => 4096,
        }
    }

    /// Stands for all that can be learnt from these media: bytes, write pointers, holes.
    pub fn digest(&self) -> u64 {
        let of = |zone: &Zone| match &self.shape {
            Shape::Drive(config) if config.conventional => zone.bytes.digest(),
            Shape::Drive(_) => mixed(zone.bytes.digest(), zone.written * 2 + u64::from(zone.state == ZoneState::Full)),
            Shape::File(_) => mixed(zone.bytes.digest(), zone.bytes.allocation()),
        };
        self.zones.iter().enumerate().fold(0, |sum, (index, zone)| sum.wrapping_add(mixed(index as u64, of(zone))))
    }

    /// Hardware that holds this, with power on and nothing in its cache.
    pub fn medium(&self) -> SimMedium {
        match &self.shape {
            Shape::Drive(config) => SimMedium::Drive(SimDrive::holding((**config).clone(), self.zones.clone())),
            Shape::File(len) => SimMedium::File(SimFile::holding(*len, self.zones.iter().map(|zone| zone.bytes.clone()).collect())),
        }
    }

    /// Zones that are active after a power cycle, less than the drive can have?
    pub(super) fn is_possible(&self) -> bool {
        match &self.shape {
            Shape::Drive(config) if !config.conventional && config.max_active > 0 => {
                let active = |zone: &&Zone| zone.written > 0 && zone.state != ZoneState::Full;
                self.zones.iter().filter(active).count() <= config.max_active as usize
            }
            _ => true,
        }
    }
}
