//! The adaptive placement: [`BlockEstimates`] say for each block how often it is written, and blocks of one class share segments.
//!
//! **Victims.** [`crate::policy::DecliningCost`] takes the expected intervals, and so divides the space as the classes were meant. What was expected of a segment
//! is corrected by what is seen to die in it ([`Placement::watches_deaths`]): after the load has moved, what was hot is no longer left alone.
//!
//! There are two forms. In [`Adaptive`] users' writes and relocated blocks of one class share segments, and each block that is moved goes to its own class. In a
//! volume they cannot share (a zone that receives device copies receives nothing else), and a victim goes to one class whole, for a copy that is cut into pieces for
//! several zones is several copies; [`AdaptiveZones`] is what volumes do.

use super::{BlockEstimates, Class, Estimate, Lot, Placement, Population, RelocatedBlock, Shape, UserWrite};
use crate::segment::Seq;

/// Most classes of a volume, and of the simulator beside it: each takes two open zones.
pub const ZONE_CLASSES: u8 = 4;

/// What the simulator keeps for each block.
#[derive(Clone, Debug)]
struct Blocks {
    estimates: BlockEstimates,
    /// For each block, up to the highest that was written; unknown: not live.
    bytes: Vec<Estimate>,
    population: Population,
    /// Open segments that a class takes.
    open: f64,
    lot: Lot,
}

impl Blocks {
    fn new(shape: Shape, open: f64) -> Self {
        Self { estimates: BlockEstimates::new(shape), bytes: Vec::new(), population: Population::default(), open, lot: Lot::new(1) }
    }

    fn get(&self, block: u64) -> Estimate {
        usize::try_from(block).ok().and_then(|at| self.bytes.get(at)).copied().unwrap_or_default()
    }

    fn set(&mut self, block: u64, estimate: Estimate) {
        let Ok(at) = usize::try_from(block) else { return };
        if at >= self.bytes.len() {
            self.bytes.resize(at + 1, Estimate::UNKNOWN);
        }
        let old = std::mem::replace(&mut self.bytes[at], estimate);
        if old != Estimate::UNKNOWN {
            self.population.sub(old, 1);
        }
        if estimate != Estimate::UNKNOWN {
            self.population.add(estimate, 1);
        }
    }

    fn forget(&mut self, block: u64) {
        if self.get(block) != Estimate::UNKNOWN {
            self.set(block, Estimate::UNKNOWN);
        }
    }

    fn interval(&self, block: u64) -> f64 {
        self.estimates.interval(self.get(block))
    }

    fn written(&mut self, write: &UserWrite) -> Estimate {
        if self.estimates.is_plan_due(write.now) {
            self.estimates.plan(write.now, &self.population, self.open);
        }
        let old = self.get(write.block);
        let lived = write.placed.filter(|_| old != Estimate::UNKNOWN).map(|placed| write.now.saturating_sub(placed));
        if lived.is_some() {
            self.estimates.note_write(old, 1);
        }
        let new = self.estimates.rewritten(old, lived, &mut self.lot);
        self.set(write.block, new);
        new
    }

    fn relocated(&mut self, block: &RelocatedBlock) -> Estimate {
        let new = self.estimates.survived(self.get(block.block), lived(block), &mut self.lot);
        self.set(block.block, new);
        new
    }
}

fn lived(block: &RelocatedBlock) -> Seq {
    block.placed.map_or(0, |placed| block.now.saturating_sub(placed))
}

/// An estimate for each block, and segments that users' writes and relocated blocks share.
#[derive(Clone, Debug)]
pub struct Adaptive(Blocks);

impl Adaptive {
    /// Nothing is known yet.
    pub fn new(shape: Shape) -> Self {
        Self(Blocks::new(shape, 1.0))
    }
}

impl Placement for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }
    fn classes(&self) -> u8 {
        self.0.estimates.most_classes()
    }
    fn active(&self) -> u8 {
        self.0.estimates.active()
    }
    fn estimates(&self) -> bool {
        true
    }
    fn watches_deaths(&self) -> bool {
        true
    }
    fn interval(&self, block: u64) -> f64 {
        self.0.interval(block)
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let estimate = self.0.written(write);
        self.0.estimates.class(estimate)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let estimate = self.0.relocated(block);
        self.0.estimates.class(estimate)
    }
    fn trimmed(&mut self, block: u64) {
        self.0.forget(block);
    }
}

/// The same as volumes have it: users' writes of class c in its class 2 c, relocated blocks in 2 c + 1, where their victim goes as a whole.
#[derive(Clone, Debug)]
pub struct AdaptiveZones(Blocks);

impl AdaptiveZones {
    /// Nothing is known yet.
    pub fn new(shape: Shape) -> Self {
        Self(Blocks::new(Shape { heads: ZONE_CLASSES, ..shape }, 2.0))
    }
}

impl Placement for AdaptiveZones {
    fn name(&self) -> &'static str {
        "adaptive-zones"
    }
    fn classes(&self) -> u8 {
        2 * self.0.estimates.most_classes()
    }
    fn active(&self) -> u8 {
        2 * self.0.estimates.active()
    }
    fn estimates(&self) -> bool {
        true
    }
    fn watches_deaths(&self) -> bool {
        true
    }
    fn interval(&self, block: u64) -> f64 {
        self.0.interval(block)
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let estimate = self.0.written(write);
        Class(2 * self.0.estimates.class(estimate).0)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        self.0.relocated(block);
        let estimates = &self.0.estimates;
        Class(2 * estimates.class_of(estimates.survivors(block.expected, lived(block))).0 + 1)
    }
    fn trimmed(&mut self, block: u64) {
        self.0.forget(block);
    }
}
