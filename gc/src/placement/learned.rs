//! Placements that look at each block's past: how often it was written, and when. They remember a byte or nothing for each logical block, and are for the
//! simulator ([`crate::sim`]): a volume has them by what it knows of zones ([`super::ByZone`]).

use super::{Class, Placement, ReclaimedSegment, RelocatedBlock, UserWrite};
use crate::segment::Seq;
use std::collections::VecDeque;

/// A small number for each logical block; zero for those never seen. Grows to the highest block, or has a fixed size in which blocks may meet.
#[derive(Clone, Debug, Default)]
pub(super) struct PerBlock {
    numbers: Vec<u8>,
    is_fixed: bool,
}

impl PerBlock {
    /// So many numbers, whatever blocks are called.
    pub(super) fn fixed(numbers: usize) -> Self {
        Self { numbers: vec![0; numbers.max(1)], is_fixed: true }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    fn place(&self, block: u64) -> usize {
        match self.is_fixed {
            true => ((u128::from(block) * self.numbers.len() as u128) >> 64) as usize,
            false => usize::try_from(block).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn get(&self, block: u64) -> u8 {
        self.numbers.get(self.place(block)).copied().unwrap_or(0)
    }

    pub(super) fn of(&mut self, block: u64) -> &mut u8 {
        let at = self.place(block);
        if at >= self.numbers.len() {
            self.numbers.resize(at + 1, 0);
        }
        &mut self.numbers[at]
    }
}

/// Hot, warm and cold by how often users wrote a block since it was last moved: twice and more is hot, once is warm, and what survived
/// until it was moved is cold.
#[derive(Clone, Debug, Default)]
pub struct HotWarmCold {
    writes: PerBlock,
}

impl Placement for HotWarmCold {
    fn name(&self) -> &'static str {
        "hot-warm-cold"
    }
    fn classes(&self) -> u8 {
        3
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let writes = self.writes.of(write.block);
        *writes = writes.saturating_add(1);
        Class(if *writes > 1 { 0 } else { 1 })
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        *self.writes.of(block.block) = 0;
        Class(2)
    }
}

/// Dynamic data clustering (Chiang, Lee and Chang, "Using data clustering to improve cleaning performance for flash memory", 1999): a block climbs one level
/// with each write of a user and sinks one with each time it is moved. Class 0 is the coldest.
#[derive(Clone, Debug, Default)]
pub struct Dac {
    level: PerBlock,
}

/// Levels, as SepBIT's authors set it up.
const LEVELS: u8 = 6;

impl Placement for Dac {
    fn name(&self) -> &'static str {
        "dac"
    }
    fn classes(&self) -> u8 {
        LEVELS
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let level = self.level.of(write.block);
        *level = (*level + 1).min(LEVELS - 1);
        Class(*level)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let level = self.level.of(block.block);
        *level = level.saturating_sub(1);
        Class(*level)
    }
}

/// SepBIT (Wang et al., FAST '22, algorithm 1): what users write goes by how long the block it replaces lived, what is moved by its age, both against the
/// mean life of segments of class 0.
#[derive(Clone, Debug, Default)]
pub struct SepBit {
    /// Lives of the segments of class 0 reclaimed last.
    lives: VecDeque<Seq>,
    /// Their mean; `None` at the start, when everything counts as short-lived.
    mean: Option<f64>,
}

/// Segments that the mean is taken of.
const LIVES: usize = 16;

impl SepBit {
    pub(super) fn is_below(&self, age: Seq, times: f64) -> bool {
        self.mean.is_none_or(|mean| (age as f64) < times * mean)
    }

    /// The class of what is moved out of a segment of class 0, or another one, and was written so long ago.
    pub(super) fn moved(&self, from_first: bool, age: Seq) -> Class {
        Class(match () {
            _ if from_first => 2,
            _ if self.is_below(age, 4.0) => 3,
            _ if self.is_below(age, 16.0) => 4,
            _ => 5,
        })
    }

    /// A segment of class 0 was reclaimed so long after it was opened.
    pub(super) fn learn(&mut self, life: Seq) {
        self.lives.push_back(life);
        if self.lives.len() > LIVES {
            self.lives.pop_front();
        }
        if self.lives.len() == LIVES {
            self.mean = Some(self.lives.iter().map(|life| *life as f64).sum::<f64>() / LIVES as f64);
        }
    }
}

impl Placement for SepBit {
    fn name(&self) -> &'static str {
        "sepbit"
    }
    fn classes(&self) -> u8 {
        6
    }
    fn needs_ages(&self) -> bool {
        true
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let short = write.previous.is_some_and(|previous| self.is_below(write.now - previous, 1.0));
        Class(if short { 0 } else { 1 })
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        self.moved(block.from == Class(0), block.written.map_or(Seq::MAX, |written| block.now - written))
    }
    fn reclaimed(&mut self, segment: &ReclaimedSegment) {
        if segment.class == Class(0) {
            self.learn(segment.now - segment.opened_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(placement: &mut dyn Placement, previous: Option<Seq>, now: Seq) -> u8 {
        placement.user(&UserWrite { block: 7, previous, placed: None, expected: None, next: None, now }).0
    }

    fn moved(placement: &mut dyn Placement, from: u8, written: Seq, now: Seq) -> u8 {
        placement
            .relocated(&RelocatedBlock {
                block: 7,
                from: Class(from),
                written: Some(written),
                placed: None,
                expected: None,
                next: None,
                now,
            })
            .0
    }

    #[test]
    fn what_is_written_again_is_hot_and_what_is_moved_is_cold() {
        let mut placement = HotWarmCold::default();
        assert_eq!([write(&mut placement, None, 1), write(&mut placement, None, 2), write(&mut placement, None, 3)], [1, 0, 0]);
        assert_eq!(moved(&mut placement, 0, 3, 9), 2);
        assert_eq!(write(&mut placement, None, 10), 1);
    }

    #[test]
    fn blocks_climb_and_sink_one_level_at_a_time() {
        let mut dac = Dac::default();
        assert_eq!((0..8).map(|now| write(&mut dac, None, now)).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 5, 5, 5]);
        assert_eq!((0..7).map(|now| moved(&mut dac, 0, 0, now)).collect::<Vec<_>>(), [4, 3, 2, 1, 0, 0, 0]);
    }

    #[test]
    fn sepbit_goes_by_the_mean_life_of_short_lived_segments() {
        let mut sepbit = SepBit::default();
        assert_eq!(write(&mut sepbit, Some(0), 1_000_000), 0, "at the start every life is short");
        assert_eq!(write(&mut sepbit, None, 1), 1, "but that of a new block");
        for n in 0..16 {
            sepbit.reclaimed(&ReclaimedSegment { class: Class(3), opened_at: 0, live: 1, capacity: 2, now: 7 });
            sepbit.reclaimed(&ReclaimedSegment { class: Class(0), opened_at: n, live: 1, capacity: 2, now: n + 100 });
        }
        assert_eq!([write(&mut sepbit, Some(0), 99), write(&mut sepbit, Some(0), 100)], [0, 1]);
        let ages = [0, 399, 400, 1599, 1600].map(|age| moved(&mut sepbit, 1, 0, age));
        assert_eq!(ages, [3, 3, 4, 4, 5]);
        assert_eq!(moved(&mut sepbit, 0, 0, 1600), 2);
    }
}
