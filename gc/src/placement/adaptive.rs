//! The adaptive placement: one byte for each block estimates how often it is written, and the classes are cut where what was really written
//! to blocks of each byte says that they save most.
//!
//! **Estimate.** A byte holds the expected interval between writes of a block on a logarithmic scale, twelve steps to the doubling. It is the mean of a
//! filter with a memory of [`MEMORY`] writes: a write after the time v makes the interval I to (k I + v) / (k + 1). A block that the cleaner finds alive after v has
//! shown v more of not being written and no write, which makes I to I + v / k. So v is always the time since the block came to where it is,
//! and that the segment knows; no time is kept for a block. A write much sooner than expected shortens the memory, so that a block that becomes hot is
//! believed within a few writes. Rounding to a step is by lot, in proportion to the distance, so that many small steps add up.
//!
//! **What estimates are worth.** Any estimate is wrong by chance, and would show differences where there are none. So the writes to blocks of each byte are counted, with a memory of
//! two spaces, and by how often they really come classes are cut and victims are judged. Under a uniform load blocks of all bytes are written equally often, and no class
//! saves anything; where blocks differ little, what they differ by is not hidden by a margin for chance.
//!
//! **Classes.** With the spare space divided best, write amplification is in proportion to the square of the sum of sqrt(size * traffic) over the classes. The
//! live blocks of each byte and the writes to them give both for any range of bytes, so [`crate::theory::partition`] finds the best cuts. Where open segments are charged each class more
//! costs half of one of the spare space: with few segments, or under a load that is uniform, few classes remain, down to a single one.
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
/// What one plan keeps for the next of what was counted: a memory of two spaces.
const KEPT: f64 = 1.0 - 1.0 / (2.0 * PLANS as f64);
/// So many writes are added to what was counted of a bin as if they had come as expected: where little was seen, the estimate stands.
const TRUST: f64 = 8.0;
/// What a class more costs in segments of the spare space: half a segment that is open; where these are not charged, what is dead in it.
const CHARGED: f64 = 0.5;
const UNCHARGED: f64 = 0.1;

/// What was counted of the blocks of a byte, fading from plan to plan.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Writes to them.
    writes: f64,
    /// How many there were times how long, in blocks of users.
    time: f64,
    /// How many there were at the last plan.
    before: u64,
}

/// State of the placement; see the module.
#[derive(Clone, Debug)]
pub struct Adaptive {
    shape: Shape,
    /// The interval of each byte. Byte 0: not live, or never written.
    intervals: Vec<f64>,
    /// How often a block of each byte is really written.
    rates: Vec<f64>,
    seen: Vec<Seen>,
    /// A byte for each block, up to the highest that was written.
    bytes: Vec<u8>,
    /// Live blocks by byte.
    counts: Vec<u64>,
    /// The first byte of each class but the hottest, ascending.
    bounds: Vec<u8>,
    last_plan: Seq,
    next_plan: Seq,
    lot: u64,
}

impl Adaptive {
    /// Nothing is known yet.
    pub fn new(shape: Shape) -> Self {
        let shape = Shape { heads: shape.heads.max(1), segment: shape.segment.max(1), ..shape };
        let shortest = (shape.space as f64 / f64::from(1 << 14)).max(1.0);
        let intervals: Vec<f64> = (0..256).map(|byte| shortest * ((f64::from(byte) - 1.0).max(0.0) / STEPS).exp2()).collect();
        Self {
            shape,
            rates: intervals.iter().map(|interval| 1.0 / interval).collect(),
            seen: vec![Seen::default(); 256],
            intervals,
            bytes: Vec::new(),
            counts: vec![0; 256],
            bounds: Vec::new(),
            last_plan: 0,
            next_plan: 0,
            lot: 0x9e37_79b9_7f4a_7c15,
        }
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

    /// Cuts the bytes into classes anew.
    fn plan(&mut self, now: Seq) {
        let period = now.saturating_sub(self.last_plan) as f64;
        (self.last_plan, self.next_plan) = (now, now + (self.shape.space / PLANS).max(1));
        for (seen, count) in self.seen.iter_mut().zip(&self.counts) {
            seen.time += (*count + seen.before) as f64 / 2.0 * period;
            seen.before = *count;
        }
        let bins: Vec<RateClass> =
            (0..256usize.div_ceil(BIN)).map(|bin| self.weigh((bin * BIN).max(1)..((bin + 1) * BIN).min(256))).collect();
        for seen in &mut self.seen {
            (seen.writes, seen.time) = (seen.writes * KEPT, seen.time * KEPT);
        }
        let live: u64 = self.counts.iter().sum();
        let spare = self.shape.space.saturating_sub(live) as f64 / f64::from(self.shape.segment);
        let open = if self.shape.charged { CHARGED } else { UNCHARGED };
        let mut best = (f64::INFINITY, Vec::new());
        for (extra, (bounds, sum)) in partition(&bins, usize::from(self.shape.heads)).into_iter().enumerate() {
            let left = (spare - open * (extra + 1) as f64).max(0.5);
            let cost = sum * sum / left;
            if cost < best.0 {
                best = (cost, bounds);
            }
        }
        self.bounds = best.1.into_iter().map(|bin| (bin * BIN).min(255) as u8).collect();
    }

    /// The live blocks in a range of bytes and how often they are written, as far as enough was counted to tell.
    fn weigh(&mut self, bytes: std::ops::Range<usize>) -> RateClass {
        let (mut size, mut nominal, mut writes, mut expected) = (0.0, 0.0, 0.0, 0.0);
        for byte in bytes.clone() {
            let (count, rate) = (self.counts[byte] as f64, 1.0 / self.intervals[byte]);
            (size, nominal) = (size + count, nominal + count * rate);
            (writes, expected) = (writes + self.seen[byte].writes, expected + self.seen[byte].time * rate);
        }
        let oftener = (writes + TRUST) / (expected + TRUST);
        for byte in bytes {
            self.rates[byte] = oftener / self.intervals[byte];
        }
        RateClass { size, traffic: nominal * oftener }
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
        1.0 / self.rates[usize::from(self.byte(block))]
    }

    fn user(&mut self, write: &UserWrite) -> Class {
        if write.now >= self.next_plan {
            self.plan(write.now);
        }
        let old = self.byte(write.block);
        self.seen[usize::from(old)].writes += 1.0;
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

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: u64 = 12_000;

    /// Blocks 0 .. 10,000 with one byte by turns of two, and so many writes to blocks of each while the space is written twice.
    fn planned(bytes: [u8; 2], writes: [f64; 2]) -> Adaptive {
        let mut adaptive = Adaptive::new(Shape { space: SPACE, segment: 100, heads: 6, charged: true });
        for block in 0..10_000 {
            adaptive.set(block, bytes[block as usize % 2]);
        }
        adaptive.plan(0);
        for (byte, writes) in bytes.into_iter().zip(writes) {
            adaptive.seen[usize::from(byte)].writes += writes;
        }
        adaptive.plan(2 * SPACE);
        adaptive
    }

    #[test]
    fn estimates_that_differ_by_chance_make_no_classes_and_true_differences_do() {
        assert_eq!(planned([150, 180], [12_000.0, 12_000.0]).active(), 1);
        assert_eq!(planned([150, 180], [21_000.0, 3_000.0]).active(), 2);
    }

    #[test]
    fn victims_are_judged_by_what_was_counted() {
        let adaptive = planned([150, 180], [12_000.0, 12_000.0]);
        let (hot, cold) = (adaptive.interval(0), adaptive.interval(1));
        assert!((hot / cold - 1.0).abs() < 0.05, "{hot} and {cold}");
    }
}
