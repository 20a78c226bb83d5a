//! Cuts a command of the engine's into NVMe commands. Pure.
//!
//! The engine knows limits, not layouts: a range of its device may be several pieces on real ones. An NVMe command has one
//! contiguous destination on one namespace. Its sources are on one namespace, too: each entry of formats 2 and 3 names its own, but drives are
//! about (QEMU 10 plays one) that read every range from the namespace of the first.

use super::command::Range;
use crate::topology::{DevNumber, Piece};
use std::collections::VecDeque;

/// What one NVMe command may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a logical block.
    pub block_size: u64,
    /// Most logical blocks in a range.
    pub range_blocks: u64,
    /// Most logical blocks in a command.
    pub command_blocks: u64,
    /// Most ranges in a command.
    pub ranges: u32,
    /// Sources may be on other namespaces than the destination.
    pub across: bool,
}

/// An NVMe command to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The namespace that is written.
    pub device: DevNumber,
    /// First logical block written.
    pub target: u64,
    /// What to copy there.
    pub ranges: Vec<Range>,
}

impl Part {
    /// Logical blocks in all ranges.
    pub fn blocks(&self) -> u64 {
        self.ranges.iter().map(|range| range.blocks).sum()
    }
}

/// Cuts. `nsid` names the namespace of a real device.
///
/// # Errors
/// In words: pieces that are no whole blocks, or on namespaces that one command cannot join.
pub fn carve(
    sources: Vec<Piece>,
    target: Vec<Piece>,
    limits: &Limits,
    nsid: &dyn Fn(DevNumber) -> Option<u32>,
) -> Result<Vec<Part>, String> {
    let mut sources: VecDeque<Piece> = sources.into();
    let mut parts = Vec::new();
    for mut to in target {
        let mut open: Option<Part> = None;
        // Blocks of what is open.
        let mut used = 0;
        while to.len > 0 {
            let from = sources.front_mut().ok_or("the sources end before the target does")?;
            if from.device.number != to.device.number && !limits.across {
                return Err(format!(
                    "{} and {} are different namespaces, and one command cannot join them",
                    from.device.name, to.device.name
                ));
            }
            let source = nsid(from.device.number).ok_or_else(|| format!("{} is not open", from.device.name))?;
            let full = |part: &Part| part.ranges.len() >= limits.ranges as usize || used >= limits.command_blocks;
            // All its ranges are on the namespace of the first.
            let elsewhere = |part: &Part| part.ranges.first().is_some_and(|range| range.nsid != source);
            if open.as_ref().is_some_and(|part| full(part) || elsewhere(part)) {
                parts.extend(open.take());
                used = 0;
            }
            let room = limits.range_blocks.min(limits.command_blocks - used);
            let bytes = from.len.min(to.len).min(room.saturating_mul(limits.block_size));
            let aligned = [bytes, from.offset, to.offset].iter().all(|number| number.is_multiple_of(limits.block_size));
            if !aligned || bytes == 0 {
                return Err(format!("a piece of {bytes} bytes at {} is not made of whole blocks of {}", from.offset, from.device.name));
            }
            let range = Range { nsid: source, lba: from.offset / limits.block_size, blocks: bytes / limits.block_size };
            let at = to.offset / limits.block_size;
            let part = open.get_or_insert_with(|| Part { device: to.device.number, target: at, ranges: Vec::new() });
            used += range.blocks;
            part.ranges.push(range);
            (from.offset, from.len) = (from.offset + bytes, from.len - bytes);
            (to.offset, to.len) = (to.offset + bytes, to.len - bytes);
            if from.len == 0 {
                sources.pop_front();
            }
        }
        parts.extend(open);
    }
    if sources.is_empty() { Ok(parts) } else { Err("the target ends before the sources do".into()) }
}
