//! What is seen to die in a segment corrects what was expected of it when it was filled.

use crate::segment::Seq;

/// What was seen to die in a closed segment, fading: whenever 64 have died, half is forgotten. Hints: kept in memory only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deaths {
    /// Blocks that died.
    count: f32,
    /// Live blocks times how long, until the last of them did.
    time: f32,
    last: Seq,
}

impl Deaths {
    /// What was expected when a segment was filled counts as much as so many deaths.
    const TRUST: f64 = 32.0;
    const MOST: f64 = 64.0;

    /// None yet: the segment is watched from now on.
    pub fn since(now: Seq) -> Self {
        Self { last: now, ..Self::default() }
    }

    /// So many of so many live blocks die.
    pub fn count(&mut self, blocks: u32, live: u32, now: Seq) {
        let time = self.until(live, now);
        let count = f64::from(self.count) + f64::from(blocks);
        let keep = if count < Self::MOST { 1.0 } else { Self::MOST / 2.0 / count };
        *self = Self { count: (count * keep) as f32, time: (time * keep) as f32, last: now };
    }

    fn until(&self, live: u32, now: Seq) -> f64 {
        f64::from(self.time) + f64::from(live) * now.saturating_sub(self.last) as f64
    }

    /// After how long a block is expected to die now, where that was said when the segment was filled.
    pub fn expected(&self, filled: f64, live: u32, now: Seq) -> f64 {
        (Self::TRUST * filled + self.until(live, now)) / (Self::TRUST + f64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_of_a_segment_follows_what_dies_in_it() {
        let dying = |every: Seq, times: u32| {
            let mut deaths = Deaths::since(1000);
            (1..=times).for_each(|n| deaths.count(1, 1000 - n + 1, 1000 + u64::from(n) * every));
            (deaths, 1000 - times, 1000 + u64::from(times) * every)
        };
        // Of 1000 blocks that die after 20,000 each, one dies after 20; half of them take somewhat longer, one by one.
        let (deaths, live, now) = dying(20, 200);
        assert!((deaths.expected(20_000.0, live, now) / 18_000.0 - 1.0).abs() < 0.1, "as was expected");
        let (deaths, live, now) = dying(200, 200);
        assert!(deaths.expected(20_000.0, live, now) > 100_000.0, "ten times as seldom");
        let (deaths, live, now) = dying(20, 200);
        assert!(deaths.expected(20_000.0, live, now + 20_000) > 150_000.0, "not at all any more");
    }

    #[test]
    fn many_deaths_at_once_say_as_much_as_one_after_the_other_at_the_same_time() {
        let (mut one_by_one, mut at_once) = (Deaths::since(0), Deaths::since(0));
        (0..40).for_each(|n| one_by_one.count(1, 1000 - n, 500));
        at_once.count(40, 1000, 500);
        let expected = [one_by_one, at_once].map(|deaths| deaths.expected(7000.0, 960, 600));
        assert!((expected[0] / expected[1] - 1.0).abs() < 0.01, "{expected:?}");
        at_once.count(u32::MAX, u32::MAX, 700);
        let last = at_once.expected(7000.0, 0, 700);
        assert!(last.is_finite() && last > 0.0, "{last}");
    }
}
