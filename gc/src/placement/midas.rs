//! MiDAS (Oh et al., "MIDAS: Minimizing Write Amplification in Log-Structured Systems through Adaptive Group Number and Size Configuration", FAST '24).
//!
//! **Groups.** A chain HOT, G1 .. GN, each group a queue of segments with a target size. Users write to G1, or to HOT what the hot filter knows: a counter of two
//! bits for each block, one up with each write of a user and one down when its block is moved out of HOT or G1; hot at three. The group that gives the victim is the first
//! that is larger than its target, and gives its oldest segment; if none is, the last group gives one, chosen by the victim policy. What lives in a victim goes one
//! group further.
//!
//! **Model.** One block in a hundred is watched: a histogram of the times between its writes, for an epoch of four times the space, tells with which probability a block is
//! alive after any time. A block that lives moves on and one that is written again begins anew, so the flow into each group is the probability to be alive
//! after all groups before it; the size of a group by its flow is how long a block stays there. The last group has what space and live blocks the others leave, and costs
//! what greedy cleaning costs at that share ([`analytic_greedy`]). The sum of the flows is the write amplification.
//!
//! **Layouts.** At the end of an epoch the layout of least predicted write amplification is looked for, group by group; it is applied only when that beats what was
//! measured in the epoch. A layout under which more was written than before it is given up again: then the model does not fit the load.
//!
//! **In a volume** ([`MidasZones`]; in the simulator `midas-zones`) what is moved has zones of its own, so G1 has two open ones: that of users, and that of what is moved out of HOT.
//! A victim goes to one group whole. Counters are found by a hash of file and block in a table of bounded size: two for each block up to 16 GiB, in larger volumes blocks share them, at
//! 1 TiB 32 of them one, so that HOT tells less and less. Fewer blocks are watched there, and what was deleted is not told. Who waits for room, or cleans by hand, takes the victim
//! that the policy chooses of all.

use super::adaptive::ZONE_CLASSES;
use super::learned::PerBlock;
use super::{Class, Placement, RelocatedBlock, Shape, UserWrite, Victims};
use crate::segment::Seq;
use crate::theory::analytic_greedy;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

/// One block in so many is watched, or fewer where that would be more than [`MOST_WATCHED`].
const SAMPLE: u64 = 100;
/// Blocks that are watched in a volume.
const MOST_WATCHED: u64 = 50_000;
/// Counters of a volume: of bytes.
const MOST_COUNTERS: u64 = 8 << 20;
/// An epoch in spaces.
const EPOCH: u64 = 4;
/// Counter at which a block is hot.
const HOT: u8 = 3;
/// By how much a prediction must be better than what was measured: as much as a single run is wrong by.
const NOISE: f64 = 0.02;
/// Bins of a histogram to the doubling, and in all.
const FINE: f64 = 8.0;
const BINS: usize = 320;
/// Sizes that are tried for a group.
const SIZES: usize = 28;
/// Watched intervals below which nothing is concluded.
const ENOUGH: f64 = 200.0;

/// Times between writes, on a logarithmic scale.
#[derive(Clone, Debug)]
struct Intervals {
    counts: Vec<f64>,
    total: f64,
}

impl Intervals {
    fn new() -> Self {
        Self { counts: vec![0.0; BINS], total: 0.0 }
    }

    fn add(&mut self, interval: Seq) {
        let bin = ((interval.max(1) as f64).log2() * FINE) as usize;
        self.counts[bin.min(BINS - 1)] += 1.0;
        self.total += 1.0;
    }

    /// The middle of a bin: of a table, for layouts by the hundred are tried.
    fn value(bin: usize) -> f64 {
        static MIDDLES: LazyLock<Vec<f64>> = LazyLock::new(|| (0..BINS).map(|bin| ((bin as f64 + 0.5) / FINE).exp2()).collect());
        MIDDLES[bin]
    }

    /// The share of blocks that live longer than `time`.
    fn alive(&self, time: f64) -> f64 {
        if self.total == 0.0 {
            return 0.0;
        }
        self.counts.iter().enumerate().filter(|(bin, _)| Self::value(*bin) > time).map(|(_, count)| count).sum::<f64>() / self.total
    }

    /// For how long a block lives on average within its first `time`: the integral of [`Self::alive`].
    fn lived(&self, time: f64) -> f64 {
        if self.total == 0.0 {
            return 0.0;
        }
        self.counts.iter().enumerate().map(|(bin, count)| Self::value(bin).min(time) * count).sum::<f64>() / self.total
    }
}

/// Sizes in segments: of HOT (zero: there is none), and of each group but the last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Layout {
    hot: u32,
    groups: Vec<u32>,
}

/// State of the placement; see the module.
#[derive(Clone, Debug)]
pub struct Midas {
    shape: Shape,
    sample: u64,
    counters: PerBlock,
    /// Of the blocks that are watched: when each was written last, and whether it was hot then.
    watched: HashMap<u64, (Seq, bool)>,
    /// Of blocks that were not hot, and of those that were.
    cold: Intervals,
    hot: Intervals,
    layout: Layout,
    /// Write amplification before the layout was applied.
    before: f64,
    live: u64,
    user: u64,
    moved: u64,
    epoch_ends: Seq,
}

impl Midas {
    /// One group, until the first epoch has ended.
    pub fn new(shape: Shape) -> Self {
        let shape = Shape { heads: shape.heads.max(3), segment: shape.segment.max(1), ..shape };
        Self {
            shape,
            sample: SAMPLE,
            counters: PerBlock::default(),
            watched: HashMap::new(),
            cold: Intervals::new(),
            hot: Intervals::new(),
            layout: Layout::default(),
            before: f64::INFINITY,
            live: 0,
            user: 0,
            moved: 0,
            epoch_ends: shape.space * EPOCH,
        }
    }

    /// The class of the last group.
    fn last(&self) -> u8 {
        self.layout.groups.len() as u8 + 1
    }

    fn is_watched(&self, block: u64) -> bool {
        // Fibonacci hashing: neighbours are not watched together.
        (block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(self.sample)
    }

    /// Does it go to HOT when it is written now?
    fn would_be_hot(&self, block: u64) -> bool {
        self.layout.hot > 0 && (self.counters.get(block) & 0x7f) + 1 >= HOT
    }

    fn watch(&mut self, block: u64, hot: bool, now: Seq) {
        if !self.is_watched(block) {
            return;
        }
        if let Some((written, was_hot)) = self.watched.insert(block, (now, hot)) {
            let intervals = if was_hot { &mut self.hot } else { &mut self.cold };
            intervals.add(now - written);
        }
    }

    /// The write amplification that a layout is expected to have.
    fn predicted(&self, layout: &Layout) -> f64 {
        let segment = f64::from(self.shape.segment);
        let share = self.hot.total / (self.hot.total + self.cold.total);
        let share = if layout.hot > 0 { share } else { 0.0 };
        let stay = if share > 0.0 { f64::from(layout.hot) * segment / share } else { 0.0 };
        // Blocks that are alive so long after they came to G1, by blocks that users write; and the same for how long they lived there.
        let total = self.hot.total + self.cold.total;
        let all = |of: &dyn Fn(&Intervals, f64) -> f64, time: f64| match share > 0.0 {
            true => (1.0 - share) * of(&self.cold, time) + share * of(&self.hot, stay + time),
            false => (self.cold.total * of(&self.cold, time) + self.hot.total * of(&self.hot, time)) / total,
        };
        let mut sum = share;
        let mut live = self.live as f64 - share * self.hot.lived(stay);
        let mut space = self.shape.space as f64 - f64::from(layout.hot) * segment;
        let mut flow = all(&Intervals::alive, 0.0).max(1e-9);
        let mut time = 0.0;
        for size in &layout.groups {
            sum += flow;
            let here = f64::from(*size) * segment / flow;
            live -= all(&Intervals::lived, time + here) - all(&Intervals::lived, time);
            space -= f64::from(*size) * segment;
            time += here;
            flow = all(&Intervals::alive, time);
            if flow <= 1e-9 {
                break;
            }
        }
        // Open segments, half full, and the one in reserve.
        space -= (0.5 * (layout.groups.len() as f64 + 1.0 + f64::from(u8::from(layout.hot > 0))) + 1.0) * segment;
        let live = live.max(1.0);
        if space <= live * 1.001 {
            return f64::INFINITY;
        }
        sum + flow * analytic_greedy(live / space)
    }

    /// The layout of least predicted write amplification, found one group after the other; each size again once all are there.
    fn best(&self) -> (Layout, f64) {
        let segments = (self.shape.space / u64::from(self.shape.segment)) as f64;
        let sizes: Vec<u32> = (0..SIZES).map(|n| (segments.powf(n as f64 / SIZES as f64)).round() as u32).collect();
        let mut best = (Layout::default(), self.predicted(&Layout::default()));
        for groups in 0..usize::from(self.shape.heads) - 2 {
            for with_hot in [false, true] {
                let mut layout = Layout { hot: u32::from(with_hot), groups: best.0.groups.clone() };
                layout.groups.resize(groups, 1);
                let mut cost = self.predicted(&layout);
                for _ in 0..2 {
                    for place in 0..=groups {
                        if place == 0 && !with_hot {
                            continue;
                        }
                        for size in &sizes {
                            let mut other = layout.clone();
                            match place {
                                0 => other.hot = *size,
                                place => other.groups[place - 1] = *size,
                            }
                            let found = self.predicted(&other);
                            if found < cost {
                                (layout, cost) = (other, found);
                            }
                        }
                    }
                }
                if cost < best.1 {
                    best = (layout, cost);
                }
            }
        }
        best
    }

    fn end_epoch(&mut self, now: Seq) {
        let measured = (self.user + self.moved) as f64 / self.user.max(1) as f64;
        if measured > self.before {
            self.layout = Layout::default();
            self.before = f64::INFINITY;
        } else if self.hot.total + self.cold.total >= ENOUGH {
            let (layout, predicted) = self.best();
            if predicted < measured * (1.0 - NOISE) && layout != self.layout {
                self.layout = layout;
                self.before = measured;
            }
        }
        (self.user, self.moved) = (0, 0);
        (self.cold, self.hot) = (Intervals::new(), Intervals::new());
        self.epoch_ends = now + self.shape.space * EPOCH;
    }
}

impl Placement for Midas {
    fn name(&self) -> &'static str {
        "midas"
    }
    fn classes(&self) -> u8 {
        self.shape.heads
    }
    fn active(&self) -> u8 {
        self.last() + 1
    }

    fn user(&mut self, write: &UserWrite) -> Class {
        if write.now >= self.epoch_ends {
            self.end_epoch(write.now);
        }
        let counter = self.counters.of(write.block);
        if *counter == 0 {
            // The highest bit says that it is live.
            *counter = 0x80;
            self.live += 1;
        }
        let level = (*counter & 0x7f).saturating_add(1).min(HOT);
        *counter = 0x80 | level;
        let hot = level == HOT;
        self.user += 1;
        self.watch(write.block, hot, write.now);
        Class(u8::from(!(hot && self.layout.hot > 0)))
    }

    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        self.moved += 1;
        if block.from <= Class(1) {
            let counter = self.counters.of(block.block);
            *counter = 0x80 | (*counter & 0x7f).saturating_sub(1);
        }
        Class((block.from.0 + 1).min(self.last()))
    }

    fn trimmed(&mut self, block: u64) {
        let counter = self.counters.of(block);
        if std::mem::take(counter) != 0 {
            self.live -= 1;
        }
        self.watched.remove(&block);
    }

    fn victims(&self, closed: &[u32]) -> Option<Victims> {
        let last = self.last();
        let targets = std::iter::once(self.layout.hot).chain(self.layout.groups.iter().copied());
        let over = (0u8..).zip(targets).find(|(class, target)| closed.get(usize::from(*class)).is_some_and(|found| found > target));
        Some(match over {
            Some((class, _)) => Victims { first: Class(class), last: Class(class), oldest: true },
            // What an earlier layout had further down the chain is part of its end.
            None => Victims { first: Class(last), last: Class(u8::MAX), oldest: false },
        })
    }
}

/// Groups of a volume: HOT, and one for each class of heads of what is moved, the first of which it shares with users. One more that best() does not use.
const GROUPS: u8 = ZONE_CLASSES + 2;

/// Who filled a zone, and of which class its head was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Users.
    Users(u8),
    /// The cleaner.
    Moved(u8),
}

/// The same as volumes have it; see the module. Users' writes of HOT and G1 go to class 0 and 1 of their heads, what is moved to group g to class g - 1.
#[derive(Clone, Debug)]
pub struct MidasZones {
    midas: Midas,
    is_in_volume: bool,
    has_begun: bool,
}

impl MidasZones {
    /// For the simulator.
    pub fn new(shape: Shape) -> Self {
        Self { midas: Midas::new(Shape { heads: GROUPS, ..shape }), is_in_volume: false, has_begun: true }
    }

    /// For a volume, whose blocks are called by numbers that are spread over all there are; `heads`: classes of heads that it has.
    pub fn in_volume(shape: Shape) -> Self {
        let mut midas = Midas::new(Shape { heads: (shape.heads + 2).min(GROUPS), ..shape });
        midas.sample = SAMPLE.max(shape.space / MOST_WATCHED);
        midas.counters = PerBlock::fixed((shape.space * 2).min(MOST_COUNTERS) as usize);
        Self { midas, is_in_volume: true, has_begun: false }
    }

    /// The group of a zone. While there is no HOT what an earlier layout had there is of G1.
    fn group(&self, filled: Filled) -> u8 {
        match filled {
            Filled::Users(class) => u8::from(class > 0 || self.midas.layout.hot == 0),
            Filled::Moved(class) => class.saturating_add(1).min(GROUPS - 1),
        }
    }

    /// The class of users' heads that takes a run of these blocks: most of them decide.
    pub fn class_of_run(&self, blocks: impl Iterator<Item = u64>) -> u8 {
        let (hot, all) = blocks.fold((0u64, 0u64), |(hot, all), block| (hot + u64::from(self.midas.would_be_hot(block)), all + 1));
        u8::from(2 * hot <= all)
    }

    /// Users have written a block; so many are live.
    pub fn wrote(&mut self, block: u64, now: Seq, live: u64) {
        if !std::mem::replace(&mut self.has_begun, true) {
            // The clock is that of the volume, and goes on over mounts.
            self.midas.epoch_ends = now + self.midas.shape.space * EPOCH;
        }
        self.midas.user(&UserWrite { block, previous: None, placed: None, expected: None, next: None, now });
        if self.is_in_volume {
            self.midas.live = live;
            if self.midas.watched.len() as u64 > 4 * MOST_WATCHED {
                self.midas.watched.clear();
            }
        }
    }

    /// A block was moved out of a zone that was filled so.
    pub fn moved(&mut self, block: u64, filled: Filled, now: Seq) {
        let from = Class(self.group(filled));
        self.midas.relocated(&RelocatedBlock { block, from, written: None, placed: None, expected: None, next: None, now });
    }

    /// The class of the heads of what is moved to which everything goes that lives in a zone that was filled so.
    pub fn class_of_survivors(&self, filled: Filled) -> u8 {
        (self.group(filled) + 1).min(self.midas.last()) - 1
    }

    /// Of all closed zones, by what filled them: from which may the next victim be ([`MayGive::zone`])?
    pub fn may_give(&self, closed: impl Iterator<Item = Filled>) -> MayGive<'_> {
        let mut count = [0; GROUPS as usize];
        closed.for_each(|filled| count[usize::from(self.group(filled))] += 1);
        match self.midas.victims(&count) {
            Some(Victims { first, last, oldest }) => MayGive { of: self, groups: first.0..=last.0, oldest },
            None => MayGive { of: self, groups: 0..=u8::MAX, oldest: false },
        }
    }
}

/// Groups of which the next victim is to be.
#[derive(Clone, Debug)]
pub struct MayGive<'a> {
    of: &'a MidasZones,
    groups: RangeInclusive<u8>,
    /// The oldest zone of them, whatever lives in it; else the victim policy chooses.
    pub oldest: bool,
}

impl MayGive<'_> {
    /// Is a zone of them that was filled so?
    pub fn zone(&self, filled: Filled) -> bool {
        self.groups.contains(&self.of.group(filled))
    }
}

/// The class of a group in the simulator, where classes of users and of what is moved take turns.
fn simulated(group: u8, moved: bool) -> Class {
    Class(if moved { 2 * group - 1 } else { 2 * group })
}

impl Placement for MidasZones {
    fn name(&self) -> &'static str {
        "midas-zones"
    }
    fn classes(&self) -> u8 {
        2 * GROUPS - 1
    }
    fn active(&self) -> u8 {
        2 * self.midas.last() + 1
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let Class(group) = self.midas.user(write);
        simulated(group, false)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let from = Class(block.from.0.div_ceil(2));
        let Class(group) = self.midas.relocated(&RelocatedBlock { from, ..*block });
        simulated(group, true)
    }
    fn trimmed(&mut self, block: u64) {
        self.midas.trimmed(block);
    }
    fn victims(&self, closed: &[u32]) -> Option<Victims> {
        let mut count = [0; GROUPS as usize];
        (0u8..).zip(closed).for_each(|(class, zones)| count[usize::from(class.div_ceil(2).min(GROUPS - 1))] += zones);
        let Victims { first, last, oldest } = self.midas.victims(&count)?;
        let first = Class((2 * first.0).saturating_sub(1));
        Some(Victims { first, last: Class(last.0.saturating_mul(2)), oldest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn midas() -> Midas {
        Midas::new(Shape { space: 100_000, segment: 100, heads: 6, charged: true })
    }

    fn write(midas: &mut Midas, block: u64, now: Seq) -> u8 {
        midas.user(&UserWrite { block, previous: None, placed: None, expected: None, next: None, now }).0
    }

    fn moved(midas: &mut Midas, block: u64, from: u8, now: Seq) -> u8 {
        midas.relocated(&RelocatedBlock { block, from: Class(from), written: None, placed: None, expected: None, next: None, now }).0
    }

    /// Fills the histograms as a load would: `live` blocks, each written again after `interval`.
    fn known(intervals: &[(f64, Seq)], live: u64) -> Midas {
        let mut midas = midas();
        for (count, interval) in intervals {
            (0..*count as u64).for_each(|_| midas.cold.add(*interval));
        }
        midas.live = live;
        midas
    }

    #[test]
    fn survivors_go_down_the_chain_and_only_what_is_hot_to_hot() {
        let mut midas = midas();
        midas.layout = Layout { hot: 5, groups: vec![10, 20] };
        assert_eq!([1, 2, 3, 4].map(|now| write(&mut midas, 7, now)), [1, 1, 0, 0]);
        assert_eq!(moved(&mut midas, 7, 0, 5), 1);
        assert_eq!([moved(&mut midas, 7, 1, 6), moved(&mut midas, 7, 2, 7), moved(&mut midas, 7, 3, 8)], [2, 3, 3]);
        assert_eq!(write(&mut midas, 7, 9), 1, "it was moved out of HOT and G1, and is cold");
        midas.layout.hot = 0;
        assert_eq!([10, 11, 12].map(|now| write(&mut midas, 7, now)), [1, 1, 1], "without HOT everything goes to G1");
    }

    #[test]
    fn the_first_group_over_its_target_gives_its_oldest_segment() {
        let mut midas = midas();
        midas.layout = Layout { hot: 5, groups: vec![10, 20] };
        let find = |closed: [u32; 6]| midas.victims(&closed).map(|found| (found.first.0, found.oldest));
        assert_eq!(find([5, 10, 20, 900, 0, 0]), Some((3, false)));
        assert_eq!(find([6, 11, 20, 900, 0, 0]), Some((0, true)));
        assert_eq!(find([5, 10, 21, 900, 0, 0]), Some((2, true)));
    }

    #[test]
    fn one_group_is_predicted_as_by_formula_and_a_chain_gains_nothing_where_all_are_alike() {
        // Exponential lives: what a uniform load has.
        let live = 85_000.0;
        let lives: Vec<(f64, Seq)> = (1..2000).map(|n| (1.0, (-live * (1.0 - f64::from(n) / 2000.0).ln()) as Seq)).collect();
        let midas = known(&lives, live as u64);
        let one = midas.predicted(&Layout::default());
        assert!((one / analytic_greedy(0.85) - 1.0).abs() < 0.02, "{one}");
        let (_, best) = midas.best();
        assert!(best > one * 0.98, "{best} instead of {one}");
    }

    #[test]
    fn a_group_for_what_dies_soon_is_found() {
        // Nine of ten writes are to a tenth of the blocks.
        let midas = known(&[(9000.0, 8_500), (1000.0, 760_000)], 85_000);
        let (one, (layout, best)) = (midas.predicted(&Layout::default()), midas.best());
        assert!(best < 0.6 * one && !layout.groups.is_empty(), "{layout:?}: {best} instead of {one}");
        assert!(midas.predicted(&Layout { hot: 0, groups: vec![2000] }).is_infinite(), "larger than the space");
    }

    #[test]
    fn a_layout_is_applied_only_when_it_is_better_than_what_was_measured_and_given_up_when_it_is_not() {
        let soon = [(9000.0, 8_500), (1000.0, 760_000)];
        let mut good = known(&soon, 85_000);
        (good.user, good.moved) = (1000, 10);
        good.end_epoch(400_000);
        assert_eq!(good.layout, Layout::default(), "nothing is better than 1.01");
        let mut bad = known(&soon, 85_000);
        (bad.user, bad.moved) = (1000, 3000);
        bad.end_epoch(400_000);
        assert!(!bad.layout.groups.is_empty() && bad.before == 4.0);
        (bad.user, bad.moved) = (1000, 3100);
        bad.end_epoch(800_000);
        assert_eq!(bad.layout, Layout::default());
    }

    #[test]
    fn one_block_in_a_hundred_is_watched_and_deleted_ones_are_forgotten() {
        let mut midas = midas();
        (0..100_000).for_each(|block| assert!(write(&mut midas, block, block) <= 1));
        assert!((800..1200).contains(&midas.watched.len()), "{}", midas.watched.len());
        (0..100_000).for_each(|block| midas.trimmed(block));
        midas.trimmed(5);
        assert_eq!((midas.live, midas.watched.len()), (0, 0));
    }

    #[test]
    fn groups_of_a_volume_are_found_by_who_filled_a_zone() {
        use Filled::{Moved, Users};
        let mut zones = MidasZones::in_volume(Shape { space: 100_000, segment: 100, heads: 4, charged: true });
        zones.midas.layout = Layout { hot: 1, groups: vec![1, 2] };
        let group = |zones: &MidasZones| {
            [Users(0), Users(1), Users(9), Moved(0), Moved(1), Moved(2), Moved(3), Moved(255)].map(|filled| zones.group(filled))
        };
        assert_eq!(group(&zones), [0, 1, 1, 1, 2, 3, 4, GROUPS - 1]);
        let block = 77 << 40;
        assert_eq!(zones.class_of_run([block].into_iter()), 1);
        (0..2).for_each(|now| zones.wrote(block, now, 1));
        assert_eq!(zones.class_of_run([block].into_iter()), 0, "the third write is one of a hot block");
        assert_eq!(zones.class_of_run([block, 5 << 50].into_iter()), 1, "half of it is not");
        zones.wrote(block, 3, 1);
        zones.moved(block, Users(0), 4);
        assert_eq!(zones.class_of_run([block].into_iter()), 0);
        zones.moved(block, Moved(0), 4);
        assert_eq!(zones.class_of_run([block].into_iter()), 1, "it was moved out of HOT and G1");
        let survivors = [Users(0), Users(1), Moved(0), Moved(1), Moved(2)];
        assert_eq!(survivors.map(|filled| zones.class_of_survivors(filled)), [0, 1, 1, 2, 2]);
        // G1 is larger than its one zone: one that users filled, and one with what came out of HOT.
        let closed = [Users(0), Users(1), Moved(0), Moved(2)];
        let may = zones.may_give(closed.into_iter());
        assert_eq!(closed.map(|filled| may.zone(filled)), [false, true, true, false]);
        assert!(may.oldest);
        let may = zones.may_give([Users(0), Users(1), Moved(2)].into_iter());
        assert!(may.zone(Moved(2)) && may.zone(Moved(3)) && !may.zone(Users(1)) && !may.oldest);
        // Without HOT what lies in zones of the first class is of G1, whoever put it there.
        zones.midas.layout = Layout { hot: 0, groups: vec![2] };
        let may = zones.may_give([Users(0), Users(0), Moved(1)].into_iter());
        assert!(!may.oldest && !may.zone(Users(0)) && may.zone(Moved(1)));
    }

    #[test]
    fn groups_are_as_many_as_there_are_heads_for_and_an_epoch_begins_with_the_mount() {
        for classes in 1..=ZONE_CLASSES {
            let mut zones = MidasZones::in_volume(Shape { space: 100_000, segment: 100, heads: classes, charged: true });
            assert_eq!(zones.midas.epoch_ends, 400_000);
            zones.wrote(1, 7_000_000, 85_000);
            assert_eq!(zones.midas.epoch_ends, 7_400_000);
            // So skewed that every group more gains.
            zones.midas.cold = Intervals::new();
            for (count, interval) in [(900, 300), (300, 3_000), (100, 30_000), (50, 300_000), (10, 3_000_000)] {
                (0..count).for_each(|_| zones.midas.cold.add(interval));
            }
            zones.midas.live = 85_000;
            zones.midas.layout = zones.midas.best().0;
            assert!(zones.class_of_survivors(Filled::Moved(255)) < classes, "{classes}: {:?}", zones.midas.layout);
        }
    }

    #[test]
    fn memory_for_blocks_of_a_volume_is_bounded() {
        let mut zones = MidasZones::in_volume(Shape { space: 1 << 30, segment: 1 << 16, heads: 4, charged: true });
        for block in 0..100_000u64 {
            zones.wrote(block.wrapping_mul(0x9e37_79b9_7f4a_7c15), block, 7);
        }
        assert!(zones.midas.watched.len() < 50 && zones.midas.live == 7);
        assert_eq!(zones.midas.counters.len() as u64, MOST_COUNTERS);
        zones.midas.watched = (0..4 * MOST_WATCHED + 1).map(|block| (block, (0, false))).collect();
        zones.wrote(1, 100_001, 7);
        assert!(zones.midas.watched.len() <= 1);
    }
}
