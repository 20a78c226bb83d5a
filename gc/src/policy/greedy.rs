//! Greedy: the segment with the smallest live share; among equals the one that was written first.

use super::VictimPolicy;
use crate::segment::{SegmentId, SegmentInfo, Seq};
use std::cmp::Ordering;

/// Least live share first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

/// Orders by live share, as exact fractions: zones of two devices may differ in capacity.
pub(super) fn by_live_share(a: &SegmentInfo, b: &SegmentInfo) -> Ordering {
    (u64::from(a.live) * u64::from(b.capacity)).cmp(&(u64::from(b.live) * u64::from(a.capacity)))
}

/// Breaks ties: the oldest, then the lowest address, so that a choice never depends on the order of the list.
pub(super) fn by_age_and_place(a: &SegmentInfo, b: &SegmentInfo) -> Ordering {
    a.written_at.cmp(&b.written_at).then_with(|| a.id.cmp(&b.id))
}

impl VictimPolicy for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn choose(&self, segments: &[SegmentInfo], _now: Seq) -> Option<SegmentId> {
        segments
            .iter()
            .filter(|s| s.live < s.capacity)
            .min_by(|a, b| by_live_share(a, b).then_with(|| by_age_and_place(a, b)))
            .map(|s| s.id)
    }
}
