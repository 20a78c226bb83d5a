//! What a clone copies: pure arithmetic over two devices and their zones.

use thiserror::Error;
use zns::{Geometry, ZoneInfo};

/// Bytes of a chunk where no zone says otherwise.
pub(super) const CHUNK: u64 = 16 << 20;

/// One side of a clone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'a> {
    pub geometry: &'a Geometry,
    pub size: u64,
    /// Zones that are written at write pointers; `None`: the device has none.
    pub zones: Option<&'a [ZoneInfo]>,
}

/// A stretch that is copied, from and to the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub offset: u64,
    pub length: u64,
}

/// Why a device cannot be cloned to another.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Misfit {
    #[error("the destination is too small: it has {0} bytes, and the source {1}")]
    TooSmall(u64, u64),
    #[error("the zones do not match: {0} bytes of which {1} can be written in the source, {2} of which {3} in the destination")]
    Zones(u64, u64, u64, u64),
    #[error("the destination's zones can be written in {1} of {0} bytes only, and the source has no such gaps")]
    Gaps(u64, u64),
    #[error("there is nothing to clone: no zone of the source is written")]
    Nothing,
}

/// The chunks in order. Of a zoned source what lies below the write pointers; each chunk lies in one zone of the destination.
pub(super) fn plan(from: Side, to: Side) -> Result<Vec<Chunk>, Misfit> {
    if to.size < from.size {
        return Err(Misfit::TooSmall(to.size, from.size));
    }
    let shape = |side: Side| (side.geometry.zone_size_bytes(), side.geometry.zone_capacity_bytes());
    if to.zones.is_some() {
        let ((from_size, from_capacity), (to_size, to_capacity)) = (shape(from), shape(to));
        if from.zones.is_some() && (from_size, from_capacity) != (to_size, to_capacity) {
            return Err(Misfit::Zones(from_size, from_capacity, to_size, to_capacity));
        }
        if from.zones.is_none() && to_size != to_capacity {
            return Err(Misfit::Gaps(to_size, to_capacity));
        }
    }
    let block = u64::from(from.geometry.block_size);
    let written = |zone: &ZoneInfo| Chunk { offset: zone.start.0 * block, length: zone.written.0 * block };
    let stretches: Vec<Chunk> = match from.zones {
        Some(zones) => zones.iter().map(written).filter(|chunk| chunk.length > 0).collect(),
        None => vec![Chunk { offset: 0, length: from.size }],
    };
    let unit = if to.zones.is_some() { to.geometry.zone_size_bytes() } else { CHUNK };
    let chunks: Vec<Chunk> = stretches.into_iter().flat_map(|stretch| cut(stretch, unit)).collect();
    if chunks.is_empty() { Err(Misfit::Nothing) } else { Ok(chunks) }
}

/// Cuts at multiples of `unit`.
fn cut(stretch: Chunk, unit: u64) -> impl Iterator<Item = Chunk> {
    let mut at = stretch.offset;
    let end = stretch.offset + stretch.length;
    std::iter::from_fn(move || {
        let length = (unit - at % unit).min(end - at);
        let chunk = Chunk { offset: at, length };
        at += length;
        (length > 0).then_some(chunk)
    })
}

/// Neighbours as one.
pub(super) fn joined(chunks: &[Chunk]) -> Vec<Chunk> {
    let mut runs: Vec<Chunk> = Vec::new();
    for chunk in chunks {
        match runs.last_mut() {
            Some(last) if last.offset + last.length == chunk.offset => last.length += chunk.length,
            _ => runs.push(*chunk),
        }
    }
    runs
}

/// What two plans are compared by.
pub(super) fn digest(chunks: &[Chunk]) -> u32 {
    chunks.iter().fold(0, |crc, chunk| {
        let crc = crc32c::crc32c_append(crc, &chunk.offset.to_le_bytes());
        crc32c::crc32c_append(crc, &chunk.length.to_le_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zns::{Blocks, DeviceKind, Lba, ZoneId, ZoneState};

    const MIB: u64 = 1 << 20;

    fn geometry(capacity: u64) -> Geometry {
        Geometry {
            kind: DeviceKind::Zns,
            block_size: 4096,
            zones: 4,
            zone_size: Blocks(MIB / 4096),
            zone_capacity: Blocks(capacity / 4096),
            max_open: 0,
            max_active: 0,
            max_io_bytes: 1 << 20,
            software_zones: false,
        }
    }

    fn zones(written: [u64; 4]) -> Vec<ZoneInfo> {
        let info = |(index, written): (usize, u64)| ZoneInfo {
            id: ZoneId(index as u32),
            state: ZoneState::Closed,
            start: Lba(index as u64 * MIB / 4096),
            capacity: Blocks(MIB / 4096),
            written: Blocks(written / 4096),
        };
        written.into_iter().enumerate().map(info).collect()
    }

    #[test]
    fn plain_devices_are_copied_whole_and_zones_up_to_their_write_pointers() {
        let shape = geometry(MIB);
        let plain = |size| Side { geometry: &shape, size, zones: None };
        let chunks = plan(plain(40 * MIB + 4096), plain(64 * MIB)).unwrap();
        assert_eq!(chunks.last(), Some(&Chunk { offset: 32 * MIB, length: 8 * MIB + 4096 }));
        assert_eq!(joined(&chunks), [Chunk { offset: 0, length: 40 * MIB + 4096 }]);
        let written = zones([MIB, 0, 8192, MIB]);
        let zoned = Side { geometry: &shape, size: 4 * MIB, zones: Some(&written) };
        let expected = [(0, MIB), (2 * MIB, 8192), (3 * MIB, MIB)].map(|(offset, length)| Chunk { offset, length });
        assert_eq!(plan(zoned, zoned).unwrap(), expected);
        assert_eq!(plan(zoned, plain(4 * MIB)).unwrap(), expected);
        assert_eq!(plan(plain(4 * MIB), zoned).unwrap().len(), 4);
        assert_ne!(digest(&expected), digest(&expected[1..]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (shape, short) = (geometry(MIB), geometry(MIB / 2));
        let empty = zones([0; 4]);
        let plain = |size| Side { geometry: &shape, size, zones: None };
        let zoned = |geometry| Side { geometry, size: 4 * MIB, zones: Some(&empty[..]) };
        assert_eq!(plan(plain(8 * MIB), plain(4 * MIB)), Err(Misfit::TooSmall(4 * MIB, 8 * MIB)));
        assert_eq!(plan(zoned(&shape), zoned(&short)), Err(Misfit::Zones(MIB, MIB, MIB, MIB / 2)));
        assert_eq!(plan(plain(4 * MIB), zoned(&short)), Err(Misfit::Gaps(MIB, MIB / 2)));
        assert_eq!(plan(zoned(&shape), zoned(&shape)), Err(Misfit::Nothing));
    }
}
