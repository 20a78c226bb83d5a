//! The scratch range: the only bytes of a device that a calibration writes. It must hold nothing, and holds nothing afterwards.
//!
//! Of a zoned device it is one or more empty zones, which are reset in the end. Elsewhere it is a range of zeros, to which zeros are written in
//! the end. Everything is checked before anything is written.

use super::CalibrateError;
use crate::plan::UNIT;
use crate::size::show_size;
use std::sync::Arc;
use zns::{AlignedBuf, BufSlice, IoClass, Lba, ZoneAction, ZoneId, ZoneState, ZonedDevice};

/// Least bytes of a scratch range.
pub const LEAST_BYTES: u64 = 1 << 20;
const STRIDE: u64 = 1 << 20;

type Result<T> = std::result::Result<T, CalibrateError>;

/// What kind of range it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// Zones with write pointers.
    Zones(Vec<ZoneId>),
    /// May be written anywhere.
    Anywhere,
}

/// A scratch range that was checked.
pub(super) struct Scratch {
    pub device: Arc<dyn ZonedDevice>,
    pub offset: u64,
    pub length: u64,
    pub ground: Ground,
}

impl Scratch {
    /// Checks a range. Nothing is written.
    pub fn examine(device: &Arc<dyn ZonedDevice>, offset: u64, length: u64) -> Result<Self> {
        let label = device.label();
        let geometry = device.geometry();
        let refuse = |reason: String| Err(CalibrateError::Scratch { device: label.clone(), offset, length, reason });
        if !UNIT.is_multiple_of(u64::from(geometry.block_size)) {
            return refuse(format!("blocks of {} bytes are not supported", geometry.block_size));
        }
        let size = device.size_bytes();
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return refuse(format!("it reaches past the end of the device, which has {size} bytes"));
        }
        if !offset.is_multiple_of(UNIT) || !length.is_multiple_of(UNIT) {
            return refuse(format!("offset and length must be multiples of {UNIT}"));
        }
        if length < LEAST_BYTES {
            return refuse(format!("it is too short: at least {} are needed", show_size(LEAST_BYTES)));
        }
        let zone = geometry.zone_size_bytes();
        let zones: Vec<ZoneId> = ((offset / zone) as u32..(offset + length).div_ceil(zone) as u32).map(ZoneId).collect();
        let sequential = zones.iter().filter(|zone| device.has_write_pointer(**zone)).count();
        let ground = match sequential {
            0 => Ground::Anywhere,
            count if count < zones.len() => return refuse("it holds zones with a write pointer and zones without: name one kind".into()),
            _ if offset.is_multiple_of(zone) && length.is_multiple_of(zone) => Ground::Zones(zones),
            _ => return refuse(format!("it must be whole zones, of {zone} bytes each")),
        };
        let scratch = Self { device: device.clone(), offset, length, ground };
        match scratch.content()? {
            None => Ok(scratch),
            Some(what) => refuse(format!("{what}. A calibration overwrites its scratch range: name one that holds nothing")),
        }
    }

    /// What it holds, if anything.
    fn content(&self) -> Result<Option<String>> {
        if let Ground::Zones(zones) = &self.ground {
            for zone in self.device.report(zones[0].0..zones[0].0 + zones.len() as u32)? {
                if zone.state != ZoneState::Empty || zone.written.0 > 0 {
                    return Ok(Some(format!("zone {} is not empty (reset it, if nothing in it is needed)", zone.id)));
                }
            }
            return Ok(None);
        }
        let mut at = self.offset;
        while at < self.end() {
            let bytes = STRIDE.min(self.end() - at);
            let buf = self.device.read(self.lba(at), AlignedBuf::zeroed(bytes as usize), IoClass::Copy)?;
            if let Some(found) = buf.iter().position(|byte| *byte != 0) {
                let advice = "(clear it with blkdiscard -z or dd, if it is not needed)";
                return Ok(Some(format!("it holds data at byte {} {advice}", at + found as u64)));
            }
            at += bytes;
        }
        Ok(None)
    }

    /// Behind the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// The block at a byte of the device.
    pub fn lba(&self, at: u64) -> Lba {
        Lba(at / u64::from(self.device.geometry().block_size))
    }

    /// Writes `content` at a byte of the device.
    pub fn write(&self, at: u64, content: &[u8]) -> Result<()> {
        let most = (u64::from(self.device.geometry().max_io_bytes) / UNIT * UNIT).max(UNIT) as usize;
        for (index, piece) in content.chunks(most).enumerate() {
            let lba = self.lba(at + (index * most) as u64);
            self.device.write(lba, vec![BufSlice::whole(AlignedBuf::from_slice(piece))], IoClass::Copy)?;
        }
        Ok(())
    }

    /// Reads from a byte of the device on.
    pub fn read(&self, at: u64, bytes: u64) -> Result<Vec<u8>> {
        let most = (u64::from(self.device.geometry().max_io_bytes) / UNIT * UNIT).max(UNIT);
        let mut content = Vec::with_capacity(bytes as usize);
        while (content.len() as u64) < bytes {
            let (done, take) = (content.len() as u64, most.min(bytes - content.len() as u64));
            content.extend_from_slice(&self.device.read(self.lba(at + done), AlignedBuf::zeroed(take as usize), IoClass::Copy)?);
        }
        Ok(content)
    }

    /// Resets one of its zones.
    pub fn reset(&self, zone: ZoneId) -> Result<()> {
        Ok(self.device.manage(zone, ZoneAction::Reset)?)
    }

    /// Leaves it as it was found.
    pub fn clear(&self) -> Result<()> {
        match &self.ground {
            Ground::Zones(zones) => zones.iter().try_for_each(|zone| self.reset(*zone))?,
            Ground::Anywhere => {
                let zeros = vec![0; STRIDE as usize];
                let mut at = self.offset;
                while at < self.end() {
                    let bytes = STRIDE.min(self.end() - at);
                    self.write(at, &zeros[..bytes as usize])?;
                    at += bytes;
                }
            }
        }
        self.device.flush()?;
        Ok(self.device.settle()?)
    }
}
