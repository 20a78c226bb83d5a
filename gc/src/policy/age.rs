//! Policies that look at the age of segments first: the oldest, the emptiest of the older ones, the emptiest of a window.

use super::VictimPolicy;
use super::greedy::{by_age_and_place, by_live_share};
use crate::segment::{SegmentId, SegmentInfo, Seq};

/// The segment that was written first: cleaning goes round the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fifo;

impl VictimPolicy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn choose(&self, segments: &[SegmentInfo], _now: Seq) -> Option<SegmentId> {
        segments.iter().filter(|s| s.live < s.capacity).min_by(|a, b| by_age_and_place(a, b)).map(|s| s.id)
    }
}

/// Greedy among the segments that have had time to lose what they will lose soon (Menon and Stockmeyer, "An age-threshold algorithm for garbage collection
/// in log-structured arrays and file systems", 1998). The threshold is half of the greatest age there is, so that nobody has to know the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgeThreshold;

impl VictimPolicy for AgeThreshold {
    fn name(&self) -> &'static str {
        "age-threshold"
    }

    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId> {
        let worth = || segments.iter().filter(|s| s.live < s.capacity);
        let age = |s: &SegmentInfo| now.saturating_sub(s.written_at);
        let threshold = worth().map(age).max()?.div_ceil(2);
        let old_enough = worth().filter(|s| age(s) >= threshold);
        old_enough.min_by(|a, b| by_live_share(a, b).then_with(|| by_age_and_place(a, b))).map(|s| s.id)
    }
}

/// Greedy in a window of the segments written first (Hu et al., "Write amplification analysis in flash-based solid state drives", 2009). The window is a
/// quarter of all segments.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowedGreedy;

impl WindowedGreedy {
    /// Segments in a window over so many.
    pub(super) fn window(segments: usize) -> usize {
        segments.div_ceil(4)
    }
}

impl VictimPolicy for WindowedGreedy {
    fn name(&self) -> &'static str {
        "windowed-greedy"
    }

    fn choose(&self, segments: &[SegmentInfo], _now: Seq) -> Option<SegmentId> {
        let mut worth: Vec<&SegmentInfo> = segments.iter().filter(|s| s.live < s.capacity).collect();
        let window = Self::window(worth.len());
        if window < worth.len() {
            worth.select_nth_unstable_by(window, |a, b| by_age_and_place(a, b));
        }
        let window = &worth[..window];
        window.iter().min_by(|a, b| by_live_share(a, b).then_with(|| by_age_and_place(a, b))).map(|s| s.id)
    }
}

/// Greedy among a few segments drawn at random, ten of them (Van Houdt, "A mean field model for a class of garbage collection algorithms in flash-based solid
/// state drives", 2013: with ten choices there is hardly a difference to greedy).
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices;

/// How many segments are drawn.
pub(super) const CHOICES: usize = 10;

/// The draw: the segments with the smallest numbers. It depends on the time alone, so that a run can be repeated.
pub(super) fn lot(segment: SegmentId, now: Seq) -> u64 {
    // SplitMix64 (Steele et al., 2014) over place and time.
    let place = u64::from(segment.device.0) << 32 | u64::from(segment.zone.0);
    let mut x = (now ^ place.rotate_left(17)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl VictimPolicy for Choices {
    fn name(&self) -> &'static str {
        "d-choices"
    }

    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId> {
        let mut worth: Vec<&SegmentInfo> = segments.iter().filter(|s| s.live < s.capacity).collect();
        if CHOICES < worth.len() {
            worth.select_nth_unstable_by_key(CHOICES, |s| (lot(s.id, now), s.id));
            worth.truncate(CHOICES);
        }
        worth.into_iter().min_by(|a, b| by_live_share(a, b).then_with(|| by_age_and_place(a, b))).map(|s| s.id)
    }
}
