//! The adaptive placement: one byte for each block estimates how often it is written and says how sure that is, and the classes are cut where what was really
//! written to blocks of each byte says that they save most.
//!
//! **Estimate.** A byte holds the expected interval I between writes of a block on a logarithmic scale, and how many writes k it rests on: 1, 2, 4 or 8
//! ([`LEVELS`]). It is a plain mean while k grows and then a filter with a memory of 8 writes: a write after the time v makes I to (k I + v) / (k + 1). A block
//! that the cleaner finds alive after v has shown v more of not being written and no write, which makes I to I + v / k. So v is always the time since the
//! block came to where it is, and that the segment knows; no time is kept for a block. The surer an estimate the finer are its steps, for small
//! corrections must not drown in rounding; those that rest on one write are wrong by a factor of two anyway and need no more than half doublings. Rounding to a step
//! is by lot, in proportion to the distance, so that many small steps add up; so is the growth of k from level to level.
//!
//! **Doubt.** What an estimate makes unlikely, v far below I or so far above it that it would be seen once in twenty times, takes away its memory, so that a block
//! that becomes hot or cold is believed at once. Where nothing changes that happens by chance now and then, and costs a few writes until k has grown again.
//!
//! **What estimates are worth.** Any estimate is wrong by chance, and would show differences where there are none. So the writes to blocks of each byte are counted, with a memory of
//! two spaces, and by how often they really come classes are cut and victims are judged. Under a uniform load blocks of all bytes are written equally often, and no class
//! saves anything; where blocks differ little, what they differ by is not hidden by a margin for chance. Blocks of the same I and different k are counted
//! apart: what rests on a single write is farther from the truth than what rests on eight.
//!
//! **Classes.** With the spare space divided best, write amplification is in proportion to the square of the sum of sqrt(size * traffic) over the classes. The
//! live blocks of each byte and the writes to them give both for any set of bytes, so with the bytes in the order of how often they are really written [`crate::theory::partition`] finds the best
//! cuts. Where open segments are charged each class more costs half of one of the spare space: with few segments, or under a load that is uniform, few classes remain, down to a single one.
//!
//! **Victims.** [`crate::policy::DecliningCost`] takes the expected intervals, and so divides the space as the classes were meant. What was expected of a segment
//! is corrected by what is seen to die in it ([`Placement::watches_deaths`]): after the load has moved, what was hot is no longer left alone.
//!
//! Users' writes and relocated blocks of one class share segments.

use super::{Class, Placement, RelocatedBlock, Shape, UserWrite};
use crate::segment::Seq;
use crate::theory::{RateClass, partition};

/// Estimates that rest on the same number of writes.
struct Level {
    /// That number.
    memory: f64,
    /// Steps to the doubling of an interval.
    steps: usize,
    /// Doublings from the shortest interval to the longest. What is written seldom is never known so well, for loads do not last so long.
    doublings: usize,
}

/// From the least sure to the surest: 244 bytes in all, and byte 0 stands for nothing.
const LEVELS: [Level; 4] = [
    Level { memory: 1.0, steps: 2, doublings: 13 },
    Level { memory: 2.0, steps: 4, doublings: 12 },
    Level { memory: 4.0, steps: 6, doublings: 11 },
    Level { memory: 8.0, steps: 10, doublings: 10 },
];
/// The shortest interval is this part of the space: what is written oftener is all alike.
const SHORTEST: f64 = 1.0 / 256.0;
/// A write after less than this part of the expected interval leaves nothing of the memory, and one after less than the second a level less.
const MUCH_SOONER: f64 = 1.0 / 256.0;
const SOONER: f64 = 1.0 / 64.0;
/// So does a life that is longer than what an estimate says of all but this share.
const LATER: f64 = 0.05;
/// Bins to the doubling, of the histograms by level that are cut into classes.
const BINS: usize = 2;
/// Classes are planned anew so many times while the space is written once.
const PLANS: u64 = 4;
/// What one plan keeps for the next of what was counted: a memory of two spaces.
const KEPT: f64 = 1.0 - 1.0 / (2.0 * PLANS as f64);
/// So many writes are added to what was counted of a bin as if they had come as expected: where little was seen, the estimate stands.
const TRUST: f64 = 8.0;
/// What a class more costs in segments of the spare space: half a segment that is open; where these are not charged, what is dead in it.
const CHARGED: f64 = 0.5;
const UNCHARGED: f64 = 0.05;

/// What a byte says.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    level: usize,
    interval: f64,
    /// Where it is counted.
    bin: usize,
}

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

/// The live blocks of a bin.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    size: f64,
    /// Writes in each unit of time by their estimates.
    nominal: f64,
    /// Writes that were seen, and those that the estimates said.
    writes: f64,
    expected: f64,
}

impl Bin {
    /// How much oftener its blocks are written than was estimated, as far as enough was counted to tell.
    fn oftener(&self) -> f64 {
        (self.writes + TRUST) / (self.expected + TRUST)
    }

    fn weight(&self) -> RateClass {
        RateClass { size: self.size, traffic: self.nominal * self.oftener() }
    }
}

/// How often a block of these is written.
fn rate(class: &RateClass) -> f64 {
    class.traffic / class.size
}

/// State of the placement; see the module.
#[derive(Clone, Debug)]
pub struct Adaptive {
    shape: Shape,
    shortest: f64,
    /// What each byte says. Byte 0: not live, or never written.
    estimates: Vec<Estimate>,
    /// The first byte of each level, and the end.
    first: [usize; LEVELS.len() + 1],
    /// How many times as long as expected a block of each level lives but seldom.
    later: [f64; LEVELS.len()],
    /// After how long a block of each byte is really written.
    intervals: Vec<f64>,
    seen: Vec<Seen>,
    /// A byte for each block, up to the highest that was written.
    bytes: Vec<u8>,
    /// Live blocks by byte.
    counts: Vec<u64>,
    /// The class of each byte.
    classes: Vec<u8>,
    active: u8,
    last_plan: Seq,
    next_plan: Seq,
    lot: u64,
}

impl Adaptive {
    /// Nothing is known yet.
    pub fn new(shape: Shape) -> Self {
        let shape = Shape { heads: shape.heads.max(1), segment: shape.segment.max(1), ..shape };
        let shortest = (shape.space as f64 * SHORTEST).max(1.0);
        let mut estimates = vec![Estimate { level: 0, interval: shortest, bin: 0 }];
        let mut first = [1; LEVELS.len() + 1];
        for (level, Level { steps, doublings, .. }) in LEVELS.iter().enumerate() {
            let from = estimates.last().map_or(0, |last| last.bin + 1);
            estimates.extend((0..=steps * doublings).map(|step| Estimate {
                level,
                interval: shortest * (step as f64 / *steps as f64).exp2(),
                bin: from + step * BINS / steps,
            }));
            first[level + 1] = estimates.len();
        }
        Self {
            shape,
            shortest,
            first,
            // An interval that rests on k writes is known up to a gamma distribution: of all lives the share (1 + x / k)^-k is longer than x times of it.
            later: std::array::from_fn(|level| LEVELS[level].memory * (LATER.powf(-1.0 / LEVELS[level].memory) - 1.0)),
            intervals: estimates.iter().map(|estimate| estimate.interval).collect(),
            seen: vec![Seen::default(); estimates.len()],
            bytes: Vec::new(),
            counts: vec![0; estimates.len()],
            classes: vec![0; estimates.len()],
            active: 1,
            estimates,
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

    /// A number from 0 to 1, by lot.
    fn draw(&mut self) -> f64 {
        // xorshift64: quality matters little here, speed does.
        self.lot ^= self.lot << 13;
        self.lot ^= self.lot >> 7;
        self.lot ^= self.lot << 17;
        (self.lot >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The byte of an interval, rounded by lot; of a lower level where this one does not reach so far.
    fn encode(&mut self, mut level: usize, interval: f64) -> u8 {
        let doublings = (interval / self.shortest).max(1.0).log2();
        while level > 0 && doublings > LEVELS[level].doublings as f64 {
            level -= 1;
        }
        let step = (doublings * LEVELS[level].steps as f64 + self.draw()) as usize;
        (self.first[level] + step.min(LEVELS[level].steps * LEVELS[level].doublings)) as u8
    }

    /// The level from which a block goes on that was written after so many times what was expected.
    fn doubted(&self, level: usize, ratio: f64) -> usize {
        if ratio < MUCH_SOONER || ratio > self.later[level] {
            0
        } else if ratio < SOONER {
            level.saturating_sub(1)
        } else {
            level
        }
    }

    /// A write more is known: in the mean as many as it takes lead to the next level.
    fn surer(&mut self, level: usize) -> usize {
        let Some(next) = LEVELS.get(level + 1) else { return level };
        level + usize::from((next.memory - LEVELS[level].memory) * self.draw() < 1.0)
    }

    /// Cuts the bytes into classes anew.
    fn plan(&mut self, now: Seq) {
        let bins = self.count(now);
        // By how often they are really written: of two bins of different levels the one with the longer interval may be the hotter.
        let mut weights: Vec<RateClass> = bins.iter().map(Bin::weight).filter(|weight| weight.size > 0.0).collect();
        weights.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        let live: f64 = weights.iter().map(|weight| weight.size).sum();
        let spare = (self.shape.space as f64 - live).max(0.0) / f64::from(self.shape.segment);
        let open = if self.shape.charged { CHARGED } else { UNCHARGED };
        let mut best = (f64::INFINITY, Vec::new());
        for (extra, (bounds, sum)) in partition(&weights, usize::from(self.shape.heads)).into_iter().enumerate() {
            let left = (spare - open * (extra + 1) as f64).max(0.5);
            let cost = sum * sum / left;
            if cost < best.0 {
                best = (cost, bounds);
            }
        }
        self.active = best.1.len() as u8 + 1;
        let cuts: Vec<f64> = best.1.iter().map(|at| (rate(&weights[at.saturating_sub(1)]) * rate(&weights[*at])).sqrt()).collect();
        for byte in 1..self.estimates.len() {
            let bin = bins[self.estimates[byte].bin];
            let rate = if bin.size > 0.0 { rate(&bin.weight()) } else { 1.0 / self.intervals[byte] };
            self.classes[byte] = cuts.iter().filter(|cut| rate < **cut).count() as u8;
        }
    }

    /// What was counted of each bin. The intervals of bytes follow it.
    fn count(&mut self, now: Seq) -> Vec<Bin> {
        let period = now.saturating_sub(self.last_plan) as f64;
        (self.last_plan, self.next_plan) = (now, now + (self.shape.space / PLANS).max(1));
        let mut bins = vec![Bin::default(); self.estimates.last().map_or(0, |last| last.bin + 1)];
        for ((seen, count), estimate) in self.seen.iter_mut().zip(&self.counts).zip(&self.estimates).skip(1) {
            seen.time += (*count + seen.before) as f64 / 2.0 * period;
            seen.before = *count;
            let bin = &mut bins[estimate.bin];
            bin.size += *count as f64;
            bin.nominal += *count as f64 / estimate.interval;
            bin.writes += seen.writes;
            bin.expected += seen.time / estimate.interval;
            (seen.writes, seen.time) = (seen.writes * KEPT, seen.time * KEPT);
        }
        for (interval, estimate) in self.intervals.iter_mut().zip(&self.estimates) {
            *interval = estimate.interval / bins[estimate.bin].oftener();
        }
        bins
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
        self.active
    }
    fn estimates(&self) -> bool {
        true
    }
    fn watches_deaths(&self) -> bool {
        true
    }
    fn interval(&self, block: u64) -> f64 {
        self.intervals[usize::from(self.byte(block))]
    }

    fn user(&mut self, write: &UserWrite) -> Class {
        if write.now >= self.next_plan {
            self.plan(write.now);
        }
        let old = self.byte(write.block);
        self.seen[usize::from(old)].writes += 1.0;
        let byte = match (old, write.placed) {
            // As if everything were written equally often.
            (0, _) | (_, None) => self.encode(0, self.shape.space as f64),
            (old, Some(placed)) => {
                let Estimate { level, interval, .. } = self.estimates[usize::from(old)];
                let found = write.now.saturating_sub(placed) as f64;
                let level = self.doubted(level, found / interval);
                let memory = LEVELS[level].memory;
                let level = self.surer(level);
                self.encode(level, (memory * interval + found) / (memory + 1.0))
            }
        };
        self.set(write.block, byte);
        Class(self.classes[usize::from(byte)])
    }

    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let (level, interval) = match self.byte(block.block) {
            0 => (0, self.shape.space as f64),
            byte => (self.estimates[usize::from(byte)].level, self.estimates[usize::from(byte)].interval),
        };
        let lived = block.placed.map_or(0, |placed| block.now.saturating_sub(placed)) as f64;
        let level = if lived > self.later[level] * interval { 0 } else { level };
        let byte = self.encode(level, interval + lived / LEVELS[level].memory);
        self.set(block.block, byte);
        Class(self.classes[usize::from(byte)])
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
    /// Two of the highest level, two and a half doublings apart.
    const BYTES: [u8; 2] = [190, 215];

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
        assert_eq!(planned(BYTES, [12_000.0, 12_000.0]).active(), 1);
        assert_eq!(planned(BYTES, [21_000.0, 3_000.0]).active(), 2);
    }

    #[test]
    fn victims_are_judged_by_what_was_counted() {
        let adaptive = planned(BYTES, [12_000.0, 12_000.0]);
        let (hot, cold) = (adaptive.interval(0), adaptive.interval(1));
        assert!((hot / cold - 1.0).abs() < 0.05, "{hot} and {cold}");
    }

    #[test]
    fn of_two_estimates_the_one_that_is_really_written_oftener_is_the_hotter() {
        // Of the lowest level, and expected twice as often as the other.
        let adaptive = planned([8, BYTES[0]], [3_000.0, 21_000.0]);
        let interval = |byte: u8| adaptive.estimates[usize::from(byte)].interval;
        assert_eq!((adaptive.active(), interval(8) / interval(BYTES[0]) < 0.5), (2, true));
        assert_eq!((adaptive.classes[8], adaptive.classes[usize::from(BYTES[0])]), (1, 0));
    }

    #[test]
    fn every_byte_says_something_else_and_an_interval_comes_back_within_a_step() {
        let mut adaptive = Adaptive::new(Shape { space: 1 << 20, segment: 100, heads: 6, charged: true });
        assert_eq!(adaptive.estimates.len(), 245);
        for byte in 1..adaptive.estimates.len() {
            let Estimate { level, interval, .. } = adaptive.estimates[byte];
            let back = usize::from(adaptive.encode(level, interval));
            assert!(back.abs_diff(byte) <= 1 && adaptive.estimates[back].level == level, "{byte}: {back}");
        }
        for odd in [0.0, 1e300, f64::INFINITY, f64::NAN] {
            assert!((1..245).contains(&adaptive.encode(3, odd)), "{odd}");
        }
    }

    #[test]
    fn what_is_less_than_a_step_is_kept_in_the_mean() {
        let mut adaptive = Adaptive::new(Shape { space: 1 << 20, segment: 100, heads: 6, charged: true });
        let Estimate { level, interval, .. } = adaptive.estimates[usize::from(BYTES[0])];
        let quarter = interval * (0.25 / LEVELS[level].steps as f64).exp2();
        let up = (0..10_000).filter(|_| adaptive.encode(level, quarter) > BYTES[0]).count();
        assert!((2300..2700).contains(&up), "{up}");
    }

    /// Writes a block after each of these times, and moves it nowhere. Returns the level that it has reached.
    fn written(adaptive: &mut Adaptive, intervals: &[u64]) -> usize {
        let mut now = 0;
        for interval in intervals {
            let placed = Some(now);
            now += interval;
            adaptive.user(&UserWrite { block: 0, previous: None, placed, expected: None, next: None, now });
        }
        adaptive.estimates[usize::from(adaptive.byte(0))].level
    }

    #[test]
    fn an_estimate_gets_sure_while_nothing_contradicts_it_and_only_then() {
        let shape = Shape { space: SPACE, segment: 100, heads: 6, charged: true };
        let regular = [SPACE; 60];
        let mut adaptive = Adaptive::new(shape);
        assert_eq!(written(&mut adaptive, &regular), 3);
        let sure = adaptive.estimates[usize::from(adaptive.byte(0))].interval;
        assert!((sure / SPACE as f64 - 1.0).abs() < 0.1, "{sure}");
        for (odd, level) in [(SPACE, 3), (SPACE / 30, 3), (SPACE / 100, 3), (SPACE / 1000, 1), (6 * SPACE, 1)] {
            let reached = written(&mut Adaptive::new(shape), &[&regular[..], &[odd]].concat());
            // After a write that is only somewhat early the lot says whether the level below grows at once.
            assert!(reached == level || odd == SPACE / 100 && reached == 2, "{odd}: {reached}");
        }
        assert_eq!(written(&mut Adaptive::new(shape), &[SPACE]), 0);
    }

    #[test]
    fn what_survives_far_longer_than_expected_is_known_for_nothing_more() {
        let mut adaptive = Adaptive::new(Shape { space: SPACE, segment: 100, heads: 6, charged: true });
        written(&mut adaptive, &[SPACE / 10; 60]);
        let moved = |lived: u64| {
            let mut adaptive = adaptive.clone();
            adaptive.relocated(&RelocatedBlock {
                block: 0,
                from: Class(0),
                written: None,
                placed: Some(0),
                expected: None,
                next: None,
                now: lived,
            });
            let Estimate { level, interval, .. } = adaptive.estimates[usize::from(adaptive.byte(0))];
            (level, interval / SPACE as f64)
        };
        let (soon, late) = (moved(SPACE / 5), moved(SPACE));
        assert!(soon.0 == 3 && soon.1 < 0.15, "{soon:?}");
        assert!(late.0 == 0 && late.1 > 0.7, "{late:?}");
    }
}
