//! Cost-benefit after Rosenblum and Ousterhout: reclaimed space times age over the cost of reading all and writing what lives.

use super::VictimPolicy;
use super::greedy::{by_age_and_place, by_live_share};
use crate::segment::{SegmentId, SegmentInfo, Seq};
use std::cmp::Ordering;

/// Largest (1 - u) age / (1 + u) first.
#[derive(Clone, Copy, Debug, Default)]
pub struct CostBenefit;

/// The benefit as an exact fraction, so that the choice is the same everywhere and ages of any size compare right.
fn benefit(s: &SegmentInfo, now: Seq) -> (u128, u128) {
    let age = u128::from(now.saturating_sub(s.written_at));
    (u128::from(s.capacity - s.live) * age, u128::from(s.capacity) + u128::from(s.live))
}

/// The first segment in this order, of those with something to gain; among equals the emptier, then the older.
pub(super) fn first(segments: &[SegmentInfo], order: impl Fn(&SegmentInfo, &SegmentInfo) -> Ordering) -> Option<SegmentId> {
    let gainful = segments.iter().filter(|s| s.live < s.capacity);
    gainful.min_by(|a, b| order(a, b).then_with(|| by_live_share(a, b)).then_with(|| by_age_and_place(a, b))).map(|s| s.id)
}

/// A segment without live blocks before all others: its fraction has a bottom of zero.
pub(super) fn empty_first(a: &SegmentInfo, b: &SegmentInfo) -> Ordering {
    (b.live == 0).cmp(&(a.live == 0))
}

/// The larger fraction first.
pub(super) fn larger_first((a_top, a_bottom): (u128, u128), (b_top, b_bottom): (u128, u128)) -> Ordering {
    (b_top * a_bottom).cmp(&(a_top * b_bottom))
}

impl VictimPolicy for CostBenefit {
    fn name(&self) -> &'static str {
        "cost-benefit"
    }

    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId> {
        first(segments, |a, b| larger_first(benefit(a, now), benefit(b, now)))
    }
}

/// Largest (1 - u) / u * sqrt(age) first: the form in the code of SepBIT (Wang et al., FAST '22). It prefers emptier segments, and minds age less. A segment
/// without live blocks comes before all others.
#[derive(Clone, Copy, Debug, Default)]
pub struct CostBenefitRoot;

/// The square of the benefit, as a fraction in the widest numbers there are: blocks of a segment fit into 24 bits, and ages are cut to what is left.
fn squared_benefit(s: &SegmentInfo, now: Seq) -> (u128, u128) {
    let age = u128::from(now.saturating_sub(s.written_at).min(1 << 31));
    let (dead, live) = (u128::from((s.capacity - s.live).min(1 << 24)), u128::from(s.live.min(1 << 24)));
    (dead * dead * age, live * live)
}

impl VictimPolicy for CostBenefitRoot {
    fn name(&self) -> &'static str {
        "cost-benefit-root"
    }

    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId> {
        first(segments, |a, b| empty_first(a, b).then_with(|| larger_first(squared_benefit(a, now), squared_benefit(b, now))))
    }
}
