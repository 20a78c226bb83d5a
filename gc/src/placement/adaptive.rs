//! The adaptive placement: one byte for each block estimates how often it is written, and the classes are cut where the histogram of these bytes says that
//! they save most.
//!
//! **Estimate.** A byte holds the expected interval between writes of a block on a logarithmic scale, twelve steps to the doubling. It is the mean of a
//! filter with a memory of [`MEMORY`] writes: a write after the time v makes the interval I to (k I + v) / (k + 1). A block that the cleaner finds alive after v has
//! shown v more of not being written and no write, which makes I to I + v / k. So v is always the time since the block came to where it is,
//! and that the segment knows; no time is kept for a block. A write much sooner than expected shortens the memory, so that a block that becomes hot is
//! believed within a few writes. Rounding to a step is by lot, in proportion to the distance, so that many small steps add up.
//!
//! **Classes.** With the spare space divided best, write amplification is in proportion to the square of the sum of sqrt(size * traffic) over the classes. The
//! histogram of the bytes of all live blocks gives both for any range of bytes, so [`crate::theory::partition`] finds the best cuts. Each class more
//! costs half an open segment of the spare space: with few segments, or under a load that is uniform, few classes remain, down to a single one.
//!
//! **Victims.** [`crate::policy::DecliningCost`] takes the expected intervals, and so divides the space as the classes were meant.
//!
//! Users' writes and relocated blocks of one class share segments.

use super::{Class, Placement, RelocatedBlock, Shape, UserWrite};
use crate::segment::Seq;
use crate::theory::{RateClass, partition};

/// Steps to the doubling of an interval.
const STEPS: f64 = 12.0;
/// Writes that an estimate remembers.
const MEMORY: f64 = 5.0;
/// Bytes in a bin of the histogram that is cut into classes: half a doubling.
const BIN: usize = 6;
/// Classes are planned anew so many times while the space is written once.
const PLANS: u64 = 8;
/// What several classes must save beside a single one: as much as the noise of the estimates pretends under a load that is uniform.
const NOISE: f64 = 0.035;

/// State of the placement; see the module.
#[derive(Clone, Debug)]
pub struct Adaptive {
    shape: Shape,
    /// The interval of each byte. Byte 0: not live, or never written.
    intervals: Vec<f64>,
    /// A byte for each block, up to the highest that was written.
    bytes: Vec<u8>,
    /// Live blocks by byte.
    counts: Vec<u64>,
    /// The first byte of each class but the hottest, ascending.
    bounds: Vec<u8>,
    next_plan: Seq,
    lot: u64,
}

impl Adaptive {
    /// Nothing is known yet.
    pub fn new(shape: Shape) -> Self {
        let shape = Shape { heads: shape.heads.max(1), segment: shape.segment.max(1), ..shape };
        let shortest = (shape.space as f64 / f64::from(1 << 14)).max(1.0);
        let intervals = (0..256).map(|byte| shortest * ((f64::from(byte) - 1.0).max(0.0) / STEPS).exp2()).collect();
        Self { shape, intervals, bytes: Vec::new(), counts: vec![0; 256], bounds: Vec::new(), next_plan: 0, lot: 0x9e37_79b9_7f4a_7c15 }
    }

    fn byte(&self, block: u64) -> u8 {
        usize::try_from(block).ok().and_then(|at| self.bytes.get(at)).copied().unwrap_or(0)
    }

    fn set(&mut self, block: u64, byte: u8) {
        let Ok(at) = usize::try_from(block) else { return };
        if at >= self.bytes.len() {
            self.bytes.resize(at + 1, 0);
        }
        let old = std::mem::replace(&mut self.bytes[at], byte);
        if old != 0 {
            self.counts[usize::from(old)] -= 1;
        }
        if byte != 0 {
            self.counts[usize::from(byte)] += 1;
        }
    }

    /// The byte of an interval, rounded by lot.
    fn encode(&mut self, interval: f64) -> u8 {
        let steps = (interval / self.intervals[1]).max(1.0).log2() * STEPS;
        // xorshift64: quality matters little here, speed does.
        self.lot ^= self.lot << 13;
        self.lot ^= self.lot >> 7;
        self.lot ^= self.lot << 17;
        let up = (self.lot >> 11) as f64 / (1u64 << 53) as f64;
        ((steps + up).floor() + 1.0).min(255.0) as u8
    }

    fn class(&self, byte: u8) -> Class {
        Class(self.bounds.iter().filter(|bound| **bound <= byte).count() as u8)
    }

    /// Cuts the histogram into classes anew.
    fn plan(&mut self) {
        let live: u64 = self.counts.iter().sum();
        let bins: Vec<RateClass> = (0..256usize.div_ceil(BIN))
            .map(|bin| {
                let bytes = (bin * BIN).max(1)..((bin + 1) * BIN).min(256);
                let size = bytes.clone().map(|byte| self.counts[byte] as f64).sum();
                RateClass { size, traffic: bytes.map(|byte| self.counts[byte] as f64 / self.intervals[byte]).sum() }
            })
            .collect();
        let spare = self.shape.space.saturating_sub(live) as f64 / f64::from(self.shape.segment);
        let mut best = (f64::INFINITY, Vec::new());
        for (extra, (bounds, sum)) in partition(&bins, usize::from(self.shape.heads)).into_iter().enumerate() {
            let left = (spare - 0.5 * (extra + 1) as f64).max(0.5);
            let cost = sum * sum / left * if extra == 0 { 1.0 - NOISE } else { 1.0 };
            if cost < best.0 {
                best = (cost, bounds);
            }
        }
        self.bounds = best.1.into_iter().map(|bin| (bin * BIN).min(255) as u8).collect();
    }
}

impl Placement for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }
    fn classes(&self) -> u8 {
        self.shape.heads
    }
    fn active(&self) -> u8 {
        self.bounds.len() as u8 + 1
    }
    fn estimates(&self) -> bool {
        true
    }
    fn interval(&self, block: u64) -> f64 {
        self.intervals[usize::from(self.byte(block))]
    }

    fn user(&mut self, write: &UserWrite) -> Class {
        if write.now >= self.next_plan {
            self.plan();
            self.next_plan = write.now + (self.shape.space / PLANS).max(1);
        }
        let old = self.byte(write.block);
        let byte = match (old, write.placed) {
            // As if everything were written equally often.
            (0, _) | (_, None) => self.encode(self.shape.space as f64),
            (old, Some(placed)) => {
                let expected = self.intervals[usize::from(old)];
                let found = write.now.saturating_sub(placed) as f64;
                let memory = match found / expected {
                    ratio if ratio < 1.0 / 64.0 => 1.0,
                    ratio if ratio < 1.0 / 16.0 => 2.0,
                    _ => MEMORY,
                };
                self.encode((memory * expected + found) / (memory + 1.0))
            }
        };
        self.set(write.block, byte);
        self.class(byte)
    }

    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let expected = match self.byte(block.block) {
            0 => self.shape.space as f64,
            byte => self.intervals[usize::from(byte)],
        };
        let lived = block.placed.map_or(0, |placed| block.now.saturating_sub(placed)) as f64;
        let byte = self.encode(expected + lived / MEMORY);
        self.set(block.block, byte);
        self.class(byte)
    }

    fn trimmed(&mut self, block: u64) {
        if self.byte(block) != 0 {
            self.set(block, 0);
        }
    }
}
