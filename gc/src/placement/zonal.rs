//! The adaptive placement with one estimate for each zone instead of each block: what volumes use, and the simulator as `adaptive-zones`.
//!
//! Blocks are put together because they are expected to be written again after about the same time, so what their zone is expected to do says nearly as much
//! of each as a byte of its own would, costs a byte for each zone, moves with no block, and is in the segment table anyway. A block that is written
//! after the time v makes the interval I of the zone it lay in to (I + v) / 2; of the blocks that the cleaner finds alive after v it is I + v / 4, so a victim
//! goes to one class whole. The interval of a zone is the harmonic mean of those of the blocks that were put into it. Classes are cut as [`super::Adaptive`]
//! cuts them, over the live blocks of zones instead of a histogram of blocks.
//!
//! Users' writes and relocated blocks of one class do not share zones (a zone that receives device copies receives nothing else), so a class costs two
//! open zones.

use super::{Class, Placement, RelocatedBlock, Shape, UserWrite};
use crate::segment::Seq;
use crate::theory::{RateClass, partition};
use serde::Serialize;

/// Steps to the doubling of an interval in a [`Temperature`].
const STEPS: f64 = 6.0;
/// Writes that an estimate remembers.
const MEMORY: f64 = 1.0;
/// What survived so many times as long as another interval has shown that much more.
const SURVIVAL: f64 = 4.0;
/// Bins to the doubling of an interval, of the histogram that is cut into classes.
const BINS: f64 = 2.0;
/// Classes are planned anew so many times while the space is written once.
const PLANS: u64 = 8;
/// What several classes must save beside a single one: as much as the noise of the estimates pretends under a load that is uniform.
const NOISE: f64 = 0.035;
/// Zones that a class keeps out of the spare space: two open ones, filled by half.
const OPEN: f64 = 1.0;

/// Classes of a volume, and of the simulator beside it: with more each has too few zones.
pub const ZONE_CLASSES: u8 = 3;

/// After how many blocks of users the blocks of a zone are expected to be written again, as a byte on a logarithmic scale. On disk in segment tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Temperature(pub u8);

impl Temperature {
    /// Nobody estimated.
    pub const UNKNOWN: Self = Self(0);

    /// The nearest to an interval.
    pub fn of(interval: f64) -> Self {
        let steps = (interval.max(1.0).log2() * STEPS).round();
        Self((steps + 1.0).min(255.0) as u8)
    }

    /// The interval, if it is known.
    pub fn interval(self) -> Option<f64> {
        (self != Self::UNKNOWN).then(|| (f64::from(self.0 - 1) / STEPS).exp2())
    }
}

/// What is in a zone, for planning.
#[derive(Clone, Copy, Debug)]
pub struct ZoneContent {
    /// Live blocks.
    pub live: u32,
    /// What they were expected to do when they were put there; none: nobody estimated.
    pub interval: Option<f64>,
    /// How long ago the zone was filled.
    pub age: Seq,
}

/// Estimates and classes; see the module.
#[derive(Clone, Debug)]
pub struct ZoneEstimates {
    shape: Shape,
    /// The first interval of each class but the hottest, ascending.
    bounds: Vec<f64>,
    next_plan: Seq,
}

impl ZoneEstimates {
    /// One class, until it is planned. `shape.heads`: classes there may be.
    pub fn new(shape: Shape) -> Self {
        Self { shape: Shape { heads: shape.heads.max(1), segment: shape.segment.max(1), ..shape }, bounds: Vec::new(), next_plan: 0 }
    }

    /// Should classes be cut anew?
    pub fn is_plan_due(&self, now: Seq) -> bool {
        self.shape.heads > 1 && now >= self.next_plan
    }

    /// Cuts classes by what is in the zones.
    pub fn plan(&mut self, now: Seq, zones: impl Iterator<Item = ZoneContent>) {
        self.next_plan = now + (self.shape.space / PLANS).max(1);
        let mut bins = vec![RateClass { size: 0.0, traffic: 0.0 }; (f64::from(u8::MAX) / STEPS * BINS) as usize + 1];
        let mut live = 0;
        for zone in zones.filter(|zone| zone.live > 0) {
            let interval = zone.interval.unwrap_or_else(|| self.unknown()) + zone.age as f64 / SURVIVAL;
            let bin = ((interval.max(1.0).log2() * BINS) as usize).min(bins.len() - 1);
            bins[bin].size += f64::from(zone.live);
            bins[bin].traffic += f64::from(zone.live) / interval.max(1.0);
            live += u64::from(zone.live);
        }
        let spare = self.shape.space.saturating_sub(live) as f64 / f64::from(self.shape.segment);
        let mut best = (f64::INFINITY, Vec::new());
        for (extra, (bounds, sum)) in partition(&bins, usize::from(self.shape.heads)).into_iter().enumerate() {
            let left = (spare - OPEN * (extra + 1) as f64).max(0.5);
            let cost = sum * sum / left * if extra == 0 { 1.0 - NOISE } else { 1.0 };
            if cost < best.0 {
                best = (cost, bounds);
            }
        }
        self.bounds = best.1.into_iter().map(|bin| (bin as f64 / BINS).exp2()).collect();
    }

    /// As if everything were written equally often.
    fn unknown(&self) -> f64 {
        self.shape.space.max(1) as f64
    }

    /// The interval of a block that a user writes, by that of the zone it lay in and the time it was there; neither for a block that is new.
    pub fn rewritten(&self, zone: Option<f64>, lived: Option<Seq>) -> f64 {
        let Some(lived) = lived else { return self.unknown() };
        let expected = zone.unwrap_or_else(|| self.unknown());
        ((MEMORY * expected + lived as f64) / (MEMORY + 1.0)).max(1.0)
    }

    /// The interval of what the cleaner finds alive.
    pub fn survived(&self, zone: Option<f64>, lived: Seq) -> f64 {
        zone.unwrap_or_else(|| self.unknown()) + lived as f64 / SURVIVAL
    }

    /// The class of an interval: 0 is the hottest.
    pub fn class(&self, interval: f64) -> Class {
        Class(self.bounds.iter().filter(|bound| **bound <= interval).count() as u8)
    }

    /// Classes in use.
    pub fn active(&self) -> u8 {
        self.bounds.len() as u8 + 1
    }
}

/// The same as a placement of the simulator: users' writes of class c in its class 2 c, relocated blocks in 2 c + 1.
#[derive(Clone, Debug)]
pub struct AdaptiveZones {
    estimates: ZoneEstimates,
    /// The interval of the block that was asked for last.
    last: f64,
}

impl AdaptiveZones {
    /// Nothing is known yet.
    pub fn new(shape: Shape) -> Self {
        let estimates = ZoneEstimates::new(Shape { heads: ZONE_CLASSES.min(shape.heads), ..shape });
        Self { estimates, last: 1.0 }
    }
}

impl Placement for AdaptiveZones {
    fn name(&self) -> &'static str {
        "adaptive-zones"
    }
    fn classes(&self) -> u8 {
        2 * self.estimates.shape.heads
    }
    fn active(&self) -> u8 {
        2 * self.estimates.active()
    }
    fn estimates(&self) -> bool {
        true
    }
    fn interval(&self, _block: u64) -> f64 {
        self.last
    }
    fn wants_survey(&self, now: Seq) -> bool {
        self.estimates.is_plan_due(now)
    }
    fn survey(&mut self, now: Seq, zones: &mut dyn Iterator<Item = ZoneContent>) {
        self.estimates.plan(now, zones);
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        self.last = self.estimates.rewritten(write.expected, write.placed.map(|placed| write.now.saturating_sub(placed)));
        Class(2 * self.estimates.class(self.last).0)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let lived = block.placed.map_or(0, |placed| block.now.saturating_sub(placed));
        self.last = self.estimates.survived(block.expected, lived);
        Class(2 * self.estimates.class(self.last).0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_is_within_a_step_of_its_interval_and_nothing_is_out_of_its_scale() {
        assert_eq!(Temperature::UNKNOWN.interval(), None);
        for interval in [1.0, 3.0, 1e3, 7e5, 1e9, 5e12] {
            let back = Temperature::of(interval).interval().expect("known");
            assert!((back / interval).log2().abs() <= 0.5 / STEPS + 1e-9, "{interval}: {back}");
        }
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            let temperature = Temperature::of(odd);
            assert!(temperature > Temperature::UNKNOWN && temperature.interval().is_some_and(f64::is_finite), "{odd}");
        }
    }

    #[test]
    fn zones_of_two_temperatures_are_two_classes_and_those_of_one_are_not() {
        let shape = Shape { space: 100_000, segment: 100, heads: ZONE_CLASSES, charged: true };
        let mut estimates = ZoneEstimates::new(shape);
        let zone = |interval: f64| ZoneContent { live: 85, interval: Some(interval), age: 0 };
        estimates.plan(0, (0..1000).map(|_| zone(85_000.0)));
        assert_eq!(estimates.active(), 1);
        estimates.plan(0, (0..1000).map(|n| zone(if n < 100 { 9_000.0 } else { 800_000.0 })));
        assert_eq!(estimates.active(), 2);
        assert!(estimates.class(9_000.0) < estimates.class(800_000.0));
    }

    #[test]
    fn what_is_written_soon_gets_hotter_and_what_survives_colder() {
        let estimates = ZoneEstimates::new(Shape { space: 1000, segment: 10, heads: 3, charged: true });
        assert!(estimates.rewritten(Some(500.0), Some(10)) < 500.0);
        assert!(estimates.survived(Some(500.0), 10) > 500.0);
        assert_eq!(estimates.rewritten(None, None), 1000.0);
    }
}
