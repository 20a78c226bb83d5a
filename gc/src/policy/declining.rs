//! Least declining cost: the segment whose cleaning would get cheaper by waiting the slowest.
//!
//! To free one block of a segment that is live to the share u, u / (1 - u) blocks are moved. While its blocks die at the rate r that falls by
//! r u / (1 - u)^2 in each unit of time, so of all segments the one where this is least loses least by being cleaned now (Lomet and Luo, "Efficiently
//! reclaiming space in a log structured store", 2021). In equilibrium it divides the spare space between classes of different rates nearly as the optimum
//! does, which greedy cleaning does not.

use super::VictimPolicy;
use super::cost_benefit::{empty_first, first, larger_first};
use crate::segment::{SegmentId, SegmentInfo, Seq};

/// Least r u / (1 - u)^2 first, a segment without live blocks before all others.
///
/// 1/r is the interval that the placement expected when it filled the segment plus half of the segment's age: what is still alive after a long time is
/// colder than was thought. Where nobody expected anything, age alone decides, and the order is that of [`super::CostBenefitRoot`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DecliningCost;

/// The worth as a fraction in the widest numbers there are: blocks of a segment fit into 20 bits, and intervals are cut to what is left.
pub(super) fn worth(s: &SegmentInfo, now: Seq) -> (u128, u128) {
    let age = now.saturating_sub(s.written_at);
    let interval = u128::from(s.expected.saturating_mul(2).saturating_add(age).clamp(1, 1 << 47));
    let cut = |blocks: u32| u128::from(blocks.min(1 << 20));
    let dead = cut(s.capacity - s.live);
    (dead * dead * interval, cut(s.live) * cut(s.capacity))
}

impl VictimPolicy for DecliningCost {
    fn name(&self) -> &'static str {
        "declining-cost"
    }

    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId> {
        first(segments, |a, b| empty_first(a, b).then_with(|| larger_first(worth(a, now), worth(b, now))))
    }
}
