//! The planner: cuts a request into commands that respect every limit of a road. Pure.
//!
//! Neighbouring sources become one range; a range ends at the end of its zone and at `max_range_bytes`; a command ends at
//! `max_command_bytes`, at `max_ranges`, and where the sources change device. Each command takes as much as fits, which
//! gives the fewest commands, since any prefix of the request can be carried by them. Cuts fall on 4096 bytes wherever
//! the limits allow it, so that verification can work block by block.

use crate::backend::{CopyCaps, CopyCommand, SourceRange, Target};
use crate::error::{CopyError, Result};
use std::sync::Arc;
use zns::{Blocks, DeviceId, Geometry, IoClass, Lba, ZonedDevice};

/// Bytes that one checksum covers, and where cuts fall if they can.
pub const UNIT: u64 = 4096;

/// What the planner must know of a device.
pub trait Geometries {
    /// The geometry of a device; `None`: there is no such device.
    fn geometry(&self, device: DeviceId) -> Option<&Geometry>;
}

impl Geometries for [Geometry] {
    fn geometry(&self, device: DeviceId) -> Option<&Geometry> {
        self.get(usize::from(device.0))
    }
}

impl Geometries for [Arc<dyn ZonedDevice>] {
    fn geometry(&self, device: DeviceId) -> Option<&Geometry> {
        self.get(usize::from(device.0)).map(|device| device.geometry())
    }
}

fn invalid<T>(reason: impl Into<String>) -> Result<T> {
    Err(CopyError::Invalid(reason.into()))
}

fn known(devices: &(impl Geometries + ?Sized), device: DeviceId) -> Result<&Geometry> {
    devices.geometry(device).ok_or_else(|| CopyError::Invalid(format!("there is no device {device}")))
}

/// Bytes of a source range on a device.
pub fn bytes_of(range: &SourceRange, geometry: &Geometry) -> u64 {
    range.blocks.0.saturating_mul(u64::from(geometry.block_size))
}

/// Checks a request as a whole and returns its bytes.
///
/// # Errors
/// [`CopyError::Invalid`]: nothing to copy, a range of no blocks, outside its device or across the unwritable end of a
/// zone, lengths that the target's blocks cannot hold, a target that does not fit into its zone, sources that overlap
/// the destination.
pub fn check(devices: &(impl Geometries + ?Sized), sources: &[SourceRange], target: Target) -> Result<u64> {
    let to = known(devices, target.device)?;
    let mut total = 0u64;
    for range in sources {
        let from = known(devices, range.device)?;
        let device_blocks = u64::from(from.zones) * from.zone_size.0;
        if range.blocks.0 == 0 {
            return invalid("a source range has no blocks");
        }
        if range.lba.0.checked_add(range.blocks.0).is_none_or(|end| end > device_blocks) {
            return invalid(format!("source {}+{} lies outside device {}", range.lba, range.blocks, range.device));
        }
        let offset = range.lba.0 % from.zone_size.0;
        let seamless = from.zone_capacity == from.zone_size;
        if !seamless && offset + range.blocks.0 > from.zone_capacity.0 {
            return invalid(format!("source {}+{} crosses the end of a zone's capacity", range.lba, range.blocks));
        }
        let bytes = bytes_of(range, from);
        if !bytes.is_multiple_of(u64::from(to.block_size)) {
            return invalid(format!("source {}+{} is not a whole number of blocks of the target", range.lba, range.blocks));
        }
        total = total.saturating_add(bytes);
    }
    if total == 0 {
        return invalid("there is nothing to copy");
    }
    let blocks = total / u64::from(to.block_size);
    let target_blocks = u64::from(to.zones) * to.zone_size.0;
    if target.lba.0 >= target_blocks || (target.lba.0 % to.zone_size.0).saturating_add(blocks) > to.zone_capacity.0 {
        return invalid(format!("target {}+{blocks} does not fit into one zone of device {}", target.lba, target.device));
    }
    let destination = target.lba.0..target.lba.0 + blocks;
    let overlaps = |range: &SourceRange| {
        range.device == target.device && range.lba.0 < destination.end && destination.start < range.lba.0 + range.blocks.0
    };
    match sources.iter().find(|range| overlaps(range)) {
        Some(range) => invalid(format!("source {}+{} overlaps the destination", range.lba, range.blocks)),
        None => Ok(total),
    }
}

/// What is left of a request after its first `done` bytes.
pub fn rest(devices: &(impl Geometries + ?Sized), sources: &[SourceRange], done: u64) -> Result<Vec<SourceRange>> {
    let mut skip = done;
    let mut left = Vec::new();
    for range in sources {
        let geometry = known(devices, range.device)?;
        let bytes = bytes_of(range, geometry);
        if skip >= bytes {
            skip -= bytes;
            continue;
        }
        let blocks = skip / u64::from(geometry.block_size);
        skip = 0;
        left.push(SourceRange { lba: range.lba + Blocks(blocks), blocks: range.blocks - Blocks(blocks), ..*range });
    }
    Ok(left)
}

/// As much of a request's beginning as decides what its first command is, when that has `bytes` bytes at most.
///
/// # Errors
/// [`CopyError::Invalid`]: a device that does not exist.
pub fn beginning(devices: &(impl Geometries + ?Sized), sources: &[SourceRange], target: DeviceId, bytes: u64) -> Result<Vec<SourceRange>> {
    let to_block = u64::from(known(devices, target)?.block_size);
    let mut wanted = bytes.next_multiple_of(UNIT);
    let mut first = Vec::new();
    for range in sources {
        let geometry = known(devices, range.device)?;
        let from_block = u64::from(geometry.block_size);
        let most = wanted.next_multiple_of(from_block.max(to_block)) / from_block;
        if most == 0 {
            break;
        }
        let blocks = range.blocks.min(Blocks(most));
        wanted = wanted.saturating_sub(blocks.0 * from_block);
        first.push(SourceRange { blocks, ..*range });
    }
    Ok(first)
}

/// Joins neighbours and splits at the ends of source zones: the longest ranges there are, in order.
fn runs(devices: &(impl Geometries + ?Sized), sources: &[SourceRange]) -> Result<Vec<SourceRange>> {
    let mut runs: Vec<SourceRange> = Vec::new();
    for range in sources {
        let zone_size = known(devices, range.device)?.zone_size.0;
        let mut left = *range;
        while left.blocks.0 > 0 {
            let room = zone_size - left.lba.0 % zone_size;
            let piece = SourceRange { blocks: Blocks(left.blocks.0.min(room)), ..left };
            match runs.last_mut() {
                Some(last) if continues(last, &piece, zone_size) => last.blocks += piece.blocks,
                _ => runs.push(piece),
            }
            left = SourceRange { lba: left.lba + piece.blocks, blocks: left.blocks - piece.blocks, ..left };
        }
    }
    Ok(runs)
}

fn continues(last: &SourceRange, next: &SourceRange, zone_size: u64) -> bool {
    last.device == next.device && last.lba + last.blocks == next.lba && !next.lba.0.is_multiple_of(zone_size)
}

/// Cuts `sources` (in order) into commands that land at `target` one behind the other.
///
/// # Errors
/// As [`check`]; also limits smaller than a device block.
pub fn plan(
    devices: &(impl Geometries + ?Sized),
    sources: &[SourceRange],
    target: Target,
    caps: &CopyCaps,
    class: IoClass,
) -> Result<Vec<CopyCommand>> {
    check(devices, sources, target)?;
    let to_block = u64::from(known(devices, target.device)?.block_size);
    let mut builder = Builder { caps, to_block, class, commands: Vec::new(), open: None, at: target, offset: 0 };
    for run in runs(devices, sources)? {
        builder.add(run, u64::from(known(devices, run.device)?.block_size))?;
    }
    builder.close();
    Ok(builder.commands)
}

struct Builder<'a> {
    caps: &'a CopyCaps,
    to_block: u64,
    class: IoClass,
    commands: Vec<CopyCommand>,
    /// The command being filled and its bytes.
    open: Option<(CopyCommand, u64)>,
    /// Where the next command lands.
    at: Target,
    /// Bytes of the request that are in commands.
    offset: u64,
}

impl Builder<'_> {
    fn close(&mut self) {
        if let Some((command, bytes)) = self.open.take() {
            self.at.lba = self.at.lba + Blocks(bytes / self.to_block);
            self.commands.push(command);
        }
    }

    /// The largest cut within `limit` bytes that ends a unit of the request, if there is one.
    fn whole_units(&self, limit: u64, step: u64) -> Option<u64> {
        let end = (self.offset + limit) / UNIT * UNIT;
        let take = end.checked_sub(self.offset)? / step * step;
        (take > 0).then_some(take)
    }

    fn add(&mut self, run: SourceRange, from_block: u64) -> Result<()> {
        let step = from_block.max(self.to_block);
        let most = self.caps.max_range_bytes.min(self.caps.max_command_bytes);
        if most < step || self.caps.max_ranges == 0 {
            return invalid("the limits of the road are smaller than a block");
        }
        let mut left = run;
        while left.blocks.0 > 0 {
            let bytes = left.blocks.0 * from_block;
            let full = |(command, used): &(CopyCommand, u64)| {
                command.sources[0].device != run.device
                    || command.sources.len() >= self.caps.max_ranges as usize
                    || self.caps.max_command_bytes - used < step
            };
            if self.open.as_ref().is_some_and(full) {
                self.close();
            }
            let used = self.open.as_ref().map_or(0, |(_, used)| *used);
            let limit = most.min(self.caps.max_command_bytes - used);
            let take = if bytes <= limit {
                bytes
            } else if let Some(take) = self.whole_units(limit, step) {
                take
            } else if used > 0 && most >= UNIT {
                // What is left of this command would cut a unit; a fresh command need not.
                self.close();
                continue;
            } else {
                limit / step * step
            };
            let piece = SourceRange { blocks: Blocks(take / from_block), ..left };
            let (command, used) =
                self.open.get_or_insert_with(|| (CopyCommand { sources: Vec::new(), target: self.at, class: self.class }, 0));
            command.sources.push(piece);
            *used += take;
            self.offset += take;
            left = SourceRange { lba: left.lba + piece.blocks, blocks: left.blocks - piece.blocks, ..left };
        }
        Ok(())
    }
}

/// The end of a target after `bytes` bytes, in blocks of its device.
pub fn after(target: Target, bytes: u64, geometry: &Geometry) -> Lba {
    target.lba + Blocks(bytes / u64::from(geometry.block_size))
}
