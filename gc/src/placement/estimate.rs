//! How often a block is written: one byte estimates it and says how sure that is, and classes are cut where what was really written to blocks of each byte
//! says that they save most.
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
//! Everything here is a pure function of what it is told; chance comes in as a [`Lot`].

use super::{Class, Shape};
use crate::segment::Seq;
use crate::theory::{RateClass, partition};
use serde::Serialize;

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
/// What survived in a segment so many times as long as another interval has shown that much more.
const SURVIVAL: f64 = 4.0;

/// What is expected of a block, as a byte; on disk in extents and in records of the log. What it says depends on the size of the volume
/// ([`BlockEstimates`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Estimate(pub u8);

impl Estimate {
    /// Nobody estimated.
    pub const UNKNOWN: Self = Self(0);

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Live blocks of each estimate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Population([u64; 256]);

impl Default for Population {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Population {
    /// Of all estimates in their order.
    pub fn of(counts: [u64; 256]) -> Self {
        Self(counts)
    }

    /// In the order of the estimates.
    pub fn counts(&self) -> &[u64; 256] {
        &self.0
    }

    /// So many more live blocks have this estimate.
    pub fn add(&mut self, estimate: Estimate, blocks: u64) {
        let count = &mut self.0[estimate.index()];
        *count = count.saturating_add(blocks);
    }

    /// So many fewer.
    pub fn sub(&mut self, estimate: Estimate, blocks: u64) {
        let count = &mut self.0[estimate.index()];
        *count = count.saturating_sub(blocks);
    }
}

/// Chance, repeatable: a generator of numbers from 0 to 1.
#[derive(Clone, Debug)]
pub struct Lot(u64);

impl Lot {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        // The seed is spread over all bits (the finalizer of splitmix64), for zero would stay zero and neighbours would begin alike.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    fn draw(&mut self) -> f64 {
        // xorshift64: quality matters little here, speed does.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What a byte says.
#[derive(Clone, Copy, Debug)]
struct Meaning {
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

/// Estimates and classes; see the module.
#[derive(Clone, Debug)]
pub struct BlockEstimates {
    shape: Shape,
    shortest: f64,
    /// What each byte says. Byte 0: nothing.
    meanings: Vec<Meaning>,
    /// The first byte of each level, and the end.
    first: [usize; LEVELS.len() + 1],
    /// How many times as long as expected a block of each level lives but seldom.
    later: [f64; LEVELS.len()],
    /// After how long a block of each byte is really written.
    intervals: Vec<f64>,
    seen: Vec<Seen>,
    /// The class of each byte.
    classes: Vec<u8>,
    /// How often the blocks between two classes are written: falling.
    cuts: Vec<f64>,
    /// Nobody counted before the first plan: a mount begins late in the life of a volume.
    last_plan: Option<Seq>,
    next_plan: Seq,
}

impl BlockEstimates {
    /// One class, until it is planned. `shape.heads`: classes there may be.
    pub fn new(shape: Shape) -> Self {
        let shape = Shape { heads: shape.heads.max(1), segment: shape.segment.max(1), ..shape };
        let shortest = (shape.space as f64 * SHORTEST).max(1.0);
        let mut meanings = vec![Meaning { level: 0, interval: shape.space.max(1) as f64, bin: 0 }];
        let mut first = [1; LEVELS.len() + 1];
        for (level, Level { steps, doublings, .. }) in LEVELS.iter().enumerate() {
            let from = meanings.last().map_or(0, |last| last.bin + 1);
            meanings.extend((0..=steps * doublings).map(|step| Meaning {
                level,
                interval: shortest * (step as f64 / *steps as f64).exp2(),
                bin: from + step * BINS / steps,
            }));
            first[level + 1] = meanings.len();
        }
        Self {
            shape,
            shortest,
            first,
            // An interval that rests on k writes is known up to a gamma distribution: of all lives the share (1 + x / k)^-k is longer than x times of it.
            later: std::array::from_fn(|level| LEVELS[level].memory * (LATER.powf(-1.0 / LEVELS[level].memory) - 1.0)),
            intervals: meanings.iter().map(|meaning| meaning.interval).collect(),
            seen: vec![Seen::default(); meanings.len()],
            classes: vec![0; meanings.len()],
            cuts: Vec::new(),
            meanings,
            last_plan: None,
            next_plan: 0,
        }
    }

    /// Most classes there may be.
    pub fn most_classes(&self) -> u8 {
        self.shape.heads
    }

    /// Classes in use.
    pub fn active(&self) -> u8 {
        self.cuts.len() as u8 + 1
    }

    /// A byte that says something; any other, which only damage can make, says nothing.
    fn known(&self, estimate: Estimate) -> usize {
        if estimate.index() < self.meanings.len() { estimate.index() } else { 0 }
    }

    /// After how many blocks of users such a block is written again, as far as it was counted.
    pub fn interval(&self, estimate: Estimate) -> f64 {
        self.intervals[self.known(estimate)]
    }

    /// The class of such a block: 0 is the hottest.
    pub fn class(&self, estimate: Estimate) -> Class {
        Class(self.classes[self.known(estimate)])
    }

    /// The class of blocks that are really written again after an interval.
    pub fn class_of(&self, interval: f64) -> Class {
        Class(self.class_of_rate(1.0 / interval.max(1.0)))
    }

    fn class_of_rate(&self, rate: f64) -> u8 {
        self.cuts.iter().filter(|cut| rate < **cut).count() as u8
    }

    /// A block is new: it is expected to be written again after so many times what is expected of all.
    pub fn fresh(&self, factor: f64) -> Estimate {
        self.encode(0, self.shape.space as f64 * factor, 0.5)
    }

    /// A user wrote blocks of which this had been expected; of unknown ones nothing is learned.
    pub fn note_write(&mut self, old: Estimate, blocks: u64) {
        let known = self.known(old);
        self.seen[known].writes += blocks as f64;
    }

    /// What is expected of a block that a user writes, by what was expected of it and how long it had been where it was.
    pub fn rewritten(&self, old: Estimate, lived: Option<Seq>, lot: &mut Lot) -> Estimate {
        let (Some(lived), 1..) = (lived, self.known(old)) else {
            return self.encode(0, self.shape.space as f64, lot.draw());
        };
        let Meaning { level, interval, .. } = self.meanings[self.known(old)];
        let lived = lived as f64;
        let level = self.doubted(level, lived / interval);
        let memory = LEVELS[level].memory;
        let level = Self::surer(level, lot);
        self.encode(level, (memory * interval + lived) / (memory + 1.0), lot.draw())
    }

    /// What is expected of a block that the cleaner found alive after so long.
    pub fn survived(&self, old: Estimate, lived: Seq, lot: &mut Lot) -> Estimate {
        let Meaning { level, interval, .. } = self.meanings[self.known(old)];
        let lived = lived as f64;
        let level = if lived > self.later[level] * interval { 0 } else { level };
        self.encode(level, interval + lived / LEVELS[level].memory, lot.draw())
    }

    /// What is expected of a run of blocks of which different things are: as often a write to one of them, and as sure as the least sure is.
    pub fn together(&self, parts: &[(Estimate, u32)], lot: &mut Lot) -> Estimate {
        if let [(one, _)] = parts {
            return *one;
        }
        let (mut blocks, mut rate, mut level) = (0.0, 0.0, LEVELS.len() - 1);
        for (estimate, count) in parts {
            let meaning = self.meanings[self.known(*estimate)];
            blocks += f64::from(*count);
            rate += f64::from(*count) / meaning.interval;
            level = level.min(meaning.level);
        }
        if blocks == 0.0 { Estimate::UNKNOWN } else { self.encode(level, blocks / rate, lot.draw()) }
    }

    /// What is expected of blocks that the cleaner found alive in a segment after so long, where it moves them all to one class: `expected` of them, by
    /// what was counted.
    pub fn survivors(&self, expected: Option<f64>, lived: Seq) -> f64 {
        expected.unwrap_or(self.shape.space as f64) + lived as f64 / SURVIVAL
    }

    /// The byte of an interval, rounded by lot; of a lower level where this one does not reach so far.
    fn encode(&self, mut level: usize, interval: f64, drawn: f64) -> Estimate {
        let doublings = (interval / self.shortest).max(1.0).log2();
        while level > 0 && doublings > LEVELS[level].doublings as f64 {
            level -= 1;
        }
        let step = (doublings * LEVELS[level].steps as f64 + drawn) as usize;
        Estimate((self.first[level] + step.min(LEVELS[level].steps * LEVELS[level].doublings)) as u8)
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
    fn surer(level: usize, lot: &mut Lot) -> usize {
        let Some(next) = LEVELS.get(level + 1) else { return level };
        level + usize::from((next.memory - LEVELS[level].memory) * lot.draw() < 1.0)
    }

    /// Should classes be cut anew?
    pub fn is_plan_due(&self, now: Seq) -> bool {
        now >= self.next_plan
    }

    /// Cuts the bytes into classes anew, by how many live blocks there are of each. `open`: open segments that a class takes.
    pub fn plan(&mut self, now: Seq, population: &Population, open: f64) {
        let bins = self.count(now, population);
        // By how often they are really written: of two bins of different levels the one with the longer interval may be the hotter.
        let mut weights: Vec<RateClass> = bins.iter().map(Bin::weight).filter(|weight| weight.size > 0.0).collect();
        weights.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        let live: f64 = weights.iter().map(|weight| weight.size).sum();
        let spare = (self.shape.space as f64 - live).max(0.0) / f64::from(self.shape.segment);
        let open = open * if self.shape.charged { CHARGED } else { UNCHARGED };
        let mut best = (f64::INFINITY, Vec::new());
        for (extra, (bounds, sum)) in partition(&weights, usize::from(self.shape.heads)).into_iter().enumerate() {
            let left = (spare - open * (extra + 1) as f64).max(0.5);
            let cost = sum * sum / left;
            if cost < best.0 {
                best = (cost, bounds);
            }
        }
        self.cuts = best.1.iter().map(|at| (rate(&weights[at.saturating_sub(1)]) * rate(&weights[*at])).sqrt()).collect();
        for byte in 0..self.meanings.len() {
            let bin = bins[self.meanings[byte].bin];
            let rate = if bin.size > 0.0 { rate(&bin.weight()) } else { 1.0 / self.intervals[byte] };
            self.classes[byte] = self.class_of_rate(rate);
        }
    }

    /// What was counted of each bin. The intervals of bytes follow it.
    fn count(&mut self, now: Seq, population: &Population) -> Vec<Bin> {
        let period = self.last_plan.map_or(0, |last| now.saturating_sub(last)) as f64;
        (self.last_plan, self.next_plan) = (Some(now), now + (self.shape.space / PLANS).max(1));
        let mut bins = vec![Bin::default(); self.meanings.last().map_or(0, |last| last.bin + 1)];
        for ((seen, count), meaning) in self.seen.iter_mut().zip(population.counts()).zip(&self.meanings) {
            seen.time += (*count + seen.before) as f64 / 2.0 * period;
            seen.before = *count;
            let bin = &mut bins[meaning.bin];
            bin.size += *count as f64;
            bin.nominal += *count as f64 / meaning.interval;
            bin.writes += seen.writes;
            bin.expected += seen.time / meaning.interval;
            (seen.writes, seen.time) = (seen.writes * KEPT, seen.time * KEPT);
        }
        for (interval, meaning) in self.intervals.iter_mut().zip(&self.meanings) {
            *interval = meaning.interval / bins[meaning.bin].oftener();
        }
        bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: u64 = 12_000;
    const SHAPE: Shape = Shape { space: SPACE, segment: 100, heads: 6, charged: true };
    /// Two of the highest level, two and a half doublings apart.
    const BYTES: [u8; 2] = [190, 215];

    /// Blocks 0 .. 10,000 with one byte by turns of two, and so many writes to blocks of each while the space is written twice.
    fn planned(bytes: [u8; 2], writes: [u64; 2]) -> BlockEstimates {
        let mut estimates = BlockEstimates::new(SHAPE);
        let mut population = Population::default();
        bytes.iter().for_each(|byte| population.add(Estimate(*byte), 5000));
        estimates.plan(0, &population, 1.0);
        for (byte, writes) in bytes.into_iter().zip(writes) {
            estimates.note_write(Estimate(byte), writes);
        }
        estimates.plan(2 * SPACE, &population, 1.0);
        estimates
    }

    #[test]
    fn estimates_that_differ_by_chance_make_no_classes_and_true_differences_do() {
        assert_eq!(planned(BYTES, [12_000, 12_000]).active(), 1);
        assert_eq!(planned(BYTES, [21_000, 3_000]).active(), 2);
    }

    #[test]
    fn victims_are_judged_by_what_was_counted() {
        let estimates = planned(BYTES, [12_000, 12_000]);
        let [hot, cold] = BYTES.map(|byte| estimates.interval(Estimate(byte)));
        assert!((hot / cold - 1.0).abs() < 0.05, "{hot} and {cold}");
    }

    #[test]
    fn of_two_estimates_the_one_that_is_really_written_oftener_is_the_hotter() {
        // Of the lowest level, and expected twice as often as the other.
        let estimates = planned([8, BYTES[0]], [3_000, 21_000]);
        let interval = |byte: u8| estimates.meanings[usize::from(byte)].interval;
        assert_eq!((estimates.active(), interval(8) / interval(BYTES[0]) < 0.5), (2, true));
        assert_eq!((estimates.class(Estimate(8)), estimates.class(Estimate(BYTES[0]))), (Class(1), Class(0)));
        // A zone is judged by what was counted, too.
        let of_zone = |byte: u8| estimates.class_of(estimates.interval(Estimate(byte)));
        assert_eq!((of_zone(8), of_zone(BYTES[0])), (Class(1), Class(0)));
    }

    #[test]
    fn the_first_plan_of_a_mount_takes_estimates_as_they_stand() {
        let mut estimates = BlockEstimates::new(SHAPE);
        let mut population = Population::default();
        BYTES.iter().for_each(|byte| population.add(Estimate(*byte), 5000));
        estimates.plan(1000 * SPACE, &population, 1.0);
        let nominal = |byte: u8| estimates.meanings[usize::from(byte)].interval;
        assert_eq!(BYTES.map(|byte| estimates.interval(Estimate(byte))), BYTES.map(nominal));
    }

    #[test]
    fn what_nobody_estimated_is_a_class_like_any_other() {
        // It lay there before the placement did: no write to it is known, and what is known is written all the time.
        let estimates = planned([0, BYTES[0]], [0, 24_000]);
        assert_eq!((estimates.active(), estimates.class(Estimate::UNKNOWN), estimates.class(Estimate(BYTES[0]))), (2, Class(1), Class(0)));
    }

    #[test]
    fn every_byte_says_something_else_and_an_interval_comes_back_within_a_step() {
        let estimates = BlockEstimates::new(Shape { space: 1 << 20, ..SHAPE });
        assert_eq!(estimates.meanings.len(), 245);
        for byte in 1..estimates.meanings.len() {
            let Meaning { level, interval, .. } = estimates.meanings[byte];
            for drawn in [0.0, 0.5, 0.999] {
                let back = estimates.encode(level, interval, drawn).index();
                assert!(back.abs_diff(byte) <= 1 && estimates.meanings[back].level == level, "{byte}: {back}");
            }
        }
        for odd in [0.0, 1e300, f64::INFINITY, f64::NAN] {
            assert!((1..245).contains(&estimates.encode(3, odd, 0.5).index()), "{odd}");
        }
        // Damage can make any byte.
        for byte in 0..=u8::MAX {
            let (estimate, lot) = (Estimate(byte), &mut Lot::new(byte.into()));
            assert!(estimates.interval(estimate).is_finite());
            for new in [estimates.rewritten(estimate, Some(u64::MAX), lot), estimates.survived(estimate, u64::MAX, lot)] {
                assert!((1..245).contains(&new.index()), "{byte}: {new:?}");
            }
        }
    }

    #[test]
    fn what_is_less_than_a_step_is_kept_in_the_mean() {
        let estimates = BlockEstimates::new(Shape { space: 1 << 20, ..SHAPE });
        let Meaning { level, interval, .. } = estimates.meanings[usize::from(BYTES[0])];
        let quarter = interval * (0.25 / LEVELS[level].steps as f64).exp2();
        let mut lot = Lot::new(0);
        let up = (0..10_000).filter(|_| estimates.encode(level, quarter, lot.draw()).0 > BYTES[0]).count();
        assert!((2300..2700).contains(&up), "{up}");
        // So it is where each block has a lot of its own.
        let up = (0..10_000).filter(|seed| estimates.encode(level, quarter, Lot::new(*seed).draw()).0 > BYTES[0]).count();
        assert!((2300..2700).contains(&up), "{up}");
    }

    /// A block that is written after each of these times, and moved nowhere.
    fn written(intervals: &[u64]) -> (BlockEstimates, Estimate) {
        let estimates = BlockEstimates::new(SHAPE);
        let mut lot = Lot::new(1);
        let first = estimates.rewritten(Estimate::UNKNOWN, None, &mut lot);
        let last = intervals.iter().fold(first, |estimate, interval| estimates.rewritten(estimate, Some(*interval), &mut lot));
        (estimates, last)
    }

    fn level(intervals: &[u64]) -> usize {
        let (estimates, last) = written(intervals);
        estimates.meanings[last.index()].level
    }

    #[test]
    fn an_estimate_gets_sure_while_nothing_contradicts_it_and_only_then() {
        let regular = [SPACE; 60];
        let (estimates, sure) = written(&regular);
        let Meaning { level: reached, interval, .. } = estimates.meanings[sure.index()];
        assert!(reached == 3 && (interval / SPACE as f64 - 1.0).abs() < 0.1, "{reached} and {interval}");
        for (odd, expected) in [(SPACE, 3), (SPACE / 30, 3), (SPACE / 100, 3), (SPACE / 1000, 1), (6 * SPACE, 1)] {
            let reached = level(&[&regular[..], &[odd]].concat());
            // After a write that is only somewhat early the lot says whether the level below grows at once.
            assert!(reached == expected || odd == SPACE / 100 && reached == 2, "{odd}: {reached}");
        }
        assert_eq!(level(&[]), 0);
    }

    #[test]
    fn what_survives_far_longer_than_expected_is_known_for_nothing_more() {
        let (estimates, hot) = written(&[SPACE / 10; 60]);
        let moved = |lived: u64| {
            let Meaning { level, interval, .. } = estimates.meanings[estimates.survived(hot, lived, &mut Lot::new(3)).index()];
            (level, interval / SPACE as f64)
        };
        let (soon, late) = (moved(SPACE / 5), moved(SPACE));
        assert!(soon.0 == 3 && soon.1 < 0.15, "{soon:?}");
        assert!(late.0 == 0 && late.1 > 0.7, "{late:?}");
    }

    #[test]
    fn a_run_is_written_as_often_as_its_parts_and_known_no_better_than_the_least_known() {
        let estimates = BlockEstimates::new(SHAPE);
        let meaning = |estimate: Estimate| estimates.meanings[estimate.index()];
        let (hot, cold, new) = (Estimate(190), Estimate(215), estimates.fresh(1.0));
        assert_eq!(estimates.together(&[(hot, 3)], &mut Lot::new(1)), hot);
        let both = meaning(estimates.together(&[(hot, 1), (cold, 3)], &mut Lot::new(1)));
        let rate = (1.0 / meaning(hot).interval + 3.0 / meaning(cold).interval) / 4.0;
        assert!(both.level == 3 && (both.interval * rate).log2().abs() < 0.11, "{both:?}");
        assert_eq!(meaning(estimates.together(&[(hot, 100), (new, 1)], &mut Lot::new(1))).level, 0);
        assert_eq!(estimates.together(&[], &mut Lot::new(1)), Estimate::UNKNOWN);
        assert!((meaning(estimates.fresh(16.0)).interval / SPACE as f64 / 16.0).log2().abs() < 0.51);
    }
}
