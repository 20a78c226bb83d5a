//! Byte ranges of devices as they are: what a copy may ask for, and its pieces, one per destination zone. Reads zone reports,
//! changes nothing: a request that is refused here has touched nothing.

use crate::backend::{SourceRange, Target};
use crate::error::{CopyError, Result};
use std::sync::Arc;
use thiserror::Error;
use zns::{Blocks, DeviceId, Lba, ZoneId, ZoneInfo, ZoneState, ZonedDevice};

/// Bytes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Which device.
    pub device: DeviceId,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// Where the ranges land, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytePosition {
    /// Which device.
    pub device: DeviceId,
    /// First byte.
    pub offset: u64,
}

/// Why a copy of byte ranges cannot be. Nothing has been touched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// No ranges.
    #[error("there is nothing to copy: no range was given")]
    Nothing,
    /// A device that was not opened.
    #[error("there is no device {0}")]
    NoDevice(DeviceId),
    /// A range of no bytes.
    #[error("{device}: the range at {offset} has a length of 0")]
    Empty {
        /// The device.
        device: String,
        /// Where.
        offset: u64,
    },
    /// Not a whole number of blocks.
    #[error("{device}: the {what} {value} is not a multiple of {unit} bytes{why}")]
    Misaligned {
        /// The device.
        device: String,
        /// "offset" or "length".
        what: &'static str,
        /// The number.
        value: u64,
        /// What it must be a multiple of.
        unit: u64,
        /// Where the unit comes from.
        why: String,
    },
    /// Past the end.
    #[error("{device}: the range {offset}+{length} reaches past the end of the device, which has {size} bytes")]
    PastEnd {
        /// The device.
        device: String,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Bytes of the device.
        size: u64,
    },
    /// Two sources share bytes.
    #[error("{device}: the source ranges {}+{} and {}+{} overlap", first.0, first.1, second.0, second.1)]
    SourcesOverlap {
        /// The device.
        device: String,
        /// Offset and length.
        first: (u64, u64),
        /// Offset and length.
        second: (u64, u64),
    },
    /// A source shares bytes with the destination.
    #[error("{device}: the source range {}+{} overlaps the destination {}+{}", source_range.0, source_range.1, target.0, target.1)]
    OverlapsDestination {
        /// The device.
        device: String,
        /// Offset and length.
        source_range: (u64, u64),
        /// Offset and length.
        target: (u64, u64),
    },
    /// Bytes behind the capacity of a zone.
    #[error(
        "{device}: the range {offset}+{length} crosses bytes {hole} to {zone_end} of zone {zone}, which lie behind its capacity and hold nothing"
    )]
    CapacityHole {
        /// The device.
        device: String,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The zone.
        zone: ZoneId,
        /// First byte behind the capacity.
        hole: u64,
        /// End of the zone.
        zone_end: u64,
    },
    /// A sequential zone takes writes at its write pointer only.
    #[error("{device}: zone {zone} is written at its write pointer, which stands at byte {write_pointer}, not at {offset}{advice}")]
    NotAtWritePointer {
        /// The device.
        device: String,
        /// The zone.
        zone: ZoneId,
        /// Where the copy would write.
        offset: u64,
        /// Where it must.
        write_pointer: u64,
        /// What can be done.
        advice: &'static str,
    },
    /// A zone that takes nothing.
    #[error("{device}: zone {zone} takes no writes: it is {state}")]
    ZoneTakesNothing {
        /// The device.
        device: String,
        /// The zone.
        zone: ZoneId,
        /// Full, read-only or offline.
        state: &'static str,
    },
}

/// What the destination zone of a piece receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where.
    pub target: Target,
    /// What.
    pub parts: Vec<Part>,
    /// Bytes of all parts.
    pub bytes: u64,
}

/// A part of a range that the caller named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which of the caller's ranges.
    pub range: usize,
    /// Bytes of that range before this part.
    pub into_range: u64,
    /// The part.
    pub source: SourceRange,
    /// Its bytes.
    pub bytes: u64,
}

type Devices = [Arc<dyn ZonedDevice>];

fn device_of(devices: &Devices, id: DeviceId) -> Result<&dyn ZonedDevice> {
    devices.get(usize::from(id.0)).map(|device| &**device).ok_or(CopyError::Range(RangeError::NoDevice(id)))
}

fn block_of(device: &dyn ZonedDevice) -> u64 {
    u64::from(device.geometry().block_size)
}

/// Checks all ranges and cuts them into pieces in the order of the destination.
///
/// # Errors
/// [`CopyError::Range`]; a zone report that fails.
pub(crate) fn pieces(devices: &Devices, sources: &[ByteRange], target: BytePosition) -> Result<Vec<Piece>> {
    let to = device_of(devices, target.device)?;
    if sources.is_empty() {
        return Err(RangeError::Nothing.into());
    }
    let mut total = 0u64;
    for range in sources {
        let from = device_of(devices, range.device)?;
        if range.length == 0 {
            return Err(RangeError::Empty { device: from.label(), offset: range.offset }.into());
        }
        aligned(from, to, "offset", range.offset)?;
        aligned(from, to, "length", range.length)?;
        within(from, range.offset, range.length)?;
        without_hole(from, range.offset, range.length)?;
        aligned(to, from, "offset", target.offset)?;
        total = total.saturating_add(range.length);
    }
    within(to, target.offset, total)?;
    without_hole(to, target.offset, total)?;
    overlaps(devices, sources, target, total)?;
    writable(to, target.offset, total)?;
    Ok(cut(devices, sources, target, to))
}

/// Every number must be whole blocks of both devices.
fn aligned(device: &dyn ZonedDevice, other: &dyn ZonedDevice, what: &'static str, value: u64) -> Result<()> {
    let (own, others) = (block_of(device), block_of(other));
    let unit = own.max(others);
    if value.is_multiple_of(unit) {
        return Ok(());
    }
    let why = if own >= others { String::new() } else { format!(", the block of {}", other.label()) };
    Err(RangeError::Misaligned { device: device.label(), what, value, unit, why }.into())
}

fn within(device: &dyn ZonedDevice, offset: u64, length: u64) -> Result<()> {
    let size = device.size_bytes();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(RangeError::PastEnd { device: device.label(), offset, length, size }.into()),
    }
}

/// A range on a device whose zones have less capacity than size stays within the capacity of one zone.
fn without_hole(device: &dyn ZonedDevice, offset: u64, length: u64) -> Result<()> {
    let geometry = device.geometry();
    let (size, capacity) = (geometry.zone_size_bytes(), geometry.zone_capacity_bytes());
    if size == capacity || offset % size + length <= capacity {
        return Ok(());
    }
    let zone = ZoneId((offset / size) as u32);
    let (hole, zone_end) = (offset / size * size + capacity, (offset / size + 1) * size);
    Err(RangeError::CapacityHole { device: device.label(), offset, length, zone, hole, zone_end }.into())
}

fn overlaps(devices: &Devices, sources: &[ByteRange], target: BytePosition, total: u64) -> Result<()> {
    let label = |id| device_of(devices, id).map(ZonedDevice::label).unwrap_or_default();
    let end = target.offset + total;
    let hit = |range: &&ByteRange| range.device == target.device && range.offset < end && target.offset < range.offset + range.length;
    if let Some(range) = sources.iter().find(hit) {
        let source_range = (range.offset, range.length);
        return Err(RangeError::OverlapsDestination { device: label(range.device), source_range, target: (target.offset, total) }.into());
    }
    let mut sorted = sources.to_vec();
    sorted.sort_unstable_by_key(|range| (range.device, range.offset));
    for pair in sorted.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if first.device == second.device && first.offset + first.length > second.offset {
            let (first, second) = ((first.offset, first.length), (second.offset, second.length));
            return Err(RangeError::SourcesOverlap { device: label(pair[0].device), first, second }.into());
        }
    }
    Ok(())
}

/// Sequential zones must stand where the copy will write.
fn writable(device: &dyn ZonedDevice, offset: u64, total: u64) -> Result<()> {
    let geometry = device.geometry();
    let size = geometry.zone_size_bytes();
    let zones = (offset / size) as u32..(offset + total).div_ceil(size) as u32;
    let sequential = |zone: &ZoneInfo| device.has_write_pointer(zone.id);
    if !zones.clone().any(|zone| device.has_write_pointer(ZoneId(zone))) {
        return Ok(());
    }
    for zone in device.report(zones)?.iter().filter(|zone| sequential(zone)) {
        let state = match zone.state {
            ZoneState::Full => Some("full; reset it first"),
            ZoneState::ReadOnly => Some("read-only"),
            ZoneState::Offline => Some("offline"),
            _ => None,
        };
        if let Some(state) = state {
            return Err(RangeError::ZoneTakesNothing { device: device.label(), zone: zone.id, state }.into());
        }
        let begin = (u64::from(zone.id.0) * size).max(offset);
        let write_pointer = (zone.start + zone.written).0 * block_of(device);
        if begin != write_pointer {
            let advice = if write_pointer > begin { "; reset it, or copy to there" } else { "" };
            return Err(
                RangeError::NotAtWritePointer { device: device.label(), zone: zone.id, offset: begin, write_pointer, advice }.into()
            );
        }
    }
    Ok(())
}

fn cut(devices: &Devices, sources: &[ByteRange], target: BytePosition, to: &dyn ZonedDevice) -> Vec<Piece> {
    let (zone, to_block) = (to.geometry().zone_size_bytes(), block_of(to));
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = target.offset;
    for (index, range) in sources.iter().enumerate() {
        let Some(from) = devices.get(usize::from(range.device.0)) else { continue };
        let block = block_of(&**from);
        let mut into_range = 0;
        while into_range < range.length {
            let bytes = (range.length - into_range).min(zone - at % zone);
            let source = SourceRange { device: range.device, lba: Lba((range.offset + into_range) / block), blocks: Blocks(bytes / block) };
            let part = Part { range: index, into_range, source, bytes };
            // All parts of a piece are of one device.
            let fits = |piece: &Piece| !at.is_multiple_of(zone) && piece.parts.last().is_none_or(|part| part.source.device == range.device);
            match pieces.last_mut() {
                Some(piece) if fits(piece) => {
                    piece.parts.push(part);
                    piece.bytes += bytes;
                }
                _ => pieces.push(Piece { target: Target { device: target.device, lba: Lba(at / to_block) }, parts: vec![part], bytes }),
            }
            into_range += bytes;
            at += bytes;
        }
    }
    pieces
}

impl Piece {
    /// What is left after the first `done` bytes, which end on a block of both devices.
    pub fn rest(&self, done: u64, to_block: u64) -> Self {
        let mut skip = done;
        let mut parts = Vec::new();
        for part in &self.parts {
            if skip >= part.bytes {
                skip -= part.bytes;
                continue;
            }
            let block = part.bytes / part.source.blocks.0;
            let source = SourceRange {
                lba: part.source.lba + Blocks(skip / block),
                blocks: part.source.blocks - Blocks(skip / block),
                ..part.source
            };
            parts.push(Part { range: part.range, into_range: part.into_range + skip, source, bytes: part.bytes - skip });
            skip = 0;
        }
        let target = Target { device: self.target.device, lba: self.target.lba + Blocks(done / to_block) };
        Self { target, parts, bytes: self.bytes - done }
    }

    /// The sources of its first bytes, all of them at most.
    pub fn sources(&self, bytes: u64) -> Vec<SourceRange> {
        let mut room = bytes;
        let mut sources = Vec::new();
        for part in &self.parts {
            let taken = part.bytes.min(room);
            if taken == 0 {
                break;
            }
            let block = part.bytes / part.source.blocks.0;
            sources.push(SourceRange { blocks: Blocks(taken / block), ..part.source });
            room -= taken;
        }
        sources
    }

    /// The first `done` bytes as parts.
    pub fn first(&self, done: u64) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let mut left = done;
        self.parts.iter().map_while(move |part| {
            let bytes = part.bytes.min(left);
            left -= bytes;
            (bytes > 0).then_some((part.range, part.into_range, bytes))
        })
    }
}
