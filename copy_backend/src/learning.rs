//! Which of its limits a road cannot keep, learnt from the commands that it refuses for their size. Pure.
//!
//! A command has three sizes: its ranges, its longest range, its bytes. A refusal blames the sizes that no command had before
//! that passed. If that is one, its limit is halved. If it is several, the next commands are trials that keep the suspects apart: first one
//! range alone, as long as before (is it the length?), then many short ranges in no more bytes than have passed (is it the number?). So a device that
//! takes one range only ends with long commands of one range, and one that takes short ranges only with commands of many.
//!
//! Without a command that passes, every refusal either begins a trial (two kinds) or makes a limit smaller, so there is an end.

use crate::backend::CopyCaps;
use crate::plan::UNIT;

/// Single ranges that may pass before one of the length that is in doubt.
const ATTEMPTS: u32 = 8;
/// Refusals of what has passed before, among [`FORGIVEN`] commands: after more than these the road is given up.
const CONTRADICTIONS: u32 = 4;
/// Commands that pass without a refusal after which contradictions are forgotten.
const FORGIVEN: u32 = 64;

/// The sizes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Source ranges.
    pub ranges: u32,
    /// Bytes of the longest range.
    pub longest: u64,
    /// Bytes of all.
    pub bytes: u64,
}

impl Shape {
    /// Of a command whose ranges have so many bytes each.
    pub fn of(ranges: impl IntoIterator<Item = u64>) -> Self {
        let none = Self { ranges: 0, longest: 0, bytes: 0 };
        ranges.into_iter().fold(none, |shape, bytes| Self {
            ranges: shape.ranges.saturating_add(1),
            longest: shape.longest.max(bytes),
            bytes: shape.bytes.saturating_add(bytes),
        })
    }
}

/// Commands that find out which size is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// One range, up to these bytes, until one of this length passes, or so many others have: perhaps none so long comes.
    OneRange { longest: u64, left: u32 },
    /// So many ranges at once in no more bytes than these.
    ManyShort { ranges: u32, bytes: u64 },
}

/// What is known of the limits of one road between two devices.
#[derive(Clone, Debug)]
pub(crate) struct Learning {
    /// What it promises.
    promised: Shape,
    /// The limits as far as known.
    most: Shape,
    /// The largest sizes of commands that passed, each by itself. One range is beyond suspicion.
    passed: Shape,
    trial: Option<Trial>,
    contradictions: u32,
    since_contradiction: u32,
}

const NOTHING_PASSED: Shape = Shape { ranges: 1, longest: 0, bytes: 0 };

/// The promise, halved until it is less than what was refused: limits are powers of two more often than not.
fn halved(promised: u64, refused: u64) -> u64 {
    let mut less = promised;
    while less >= refused && less > 0 {
        less /= 2;
    }
    less
}

fn whole(bytes: u64) -> u64 {
    (bytes / UNIT * UNIT).max(UNIT)
}

impl Learning {
    /// What a road promises, taken for true.
    pub fn new(caps: &CopyCaps) -> Self {
        let most = Shape { ranges: caps.max_ranges, longest: caps.max_range_bytes, bytes: caps.max_command_bytes };
        Self { promised: most, most, passed: NOTHING_PASSED, trial: None, contradictions: 0, since_contradiction: 0 }
    }

    /// Puts what has been learnt in place of the promises, for reports.
    pub fn limit(&self, caps: &CopyCaps) -> CopyCaps {
        within(caps, self.most)
    }

    /// The limits of the very next commands.
    pub fn next(&self, caps: &CopyCaps) -> CopyCaps {
        let most = self.most;
        let next = match self.trial {
            None => most,
            // Never less than a unit: whoever copies by smaller blocks has ranges that are shorter than that.
            Some(Trial::OneRange { longest, .. }) => Shape { ranges: 1, longest: most.longest.min(longest.max(UNIT)), ..most },
            Some(Trial::ManyShort { ranges, bytes }) => {
                let ranges = ranges.min(most.ranges).max(1);
                let bytes = bytes.min(most.bytes);
                Shape { ranges, bytes, longest: most.longest.min(whole(bytes / u64::from(ranges))) }
            }
        };
        within(caps, next)
    }

    /// Is a trial under way? Then one command goes after the other.
    pub fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// Did a command of this shape ask for more, in any of its sizes, than one that passed?
    pub fn is_news(&self, shape: Shape) -> bool {
        shape.ranges > self.passed.ranges || shape.longest > self.passed.longest || shape.bytes > self.passed.bytes
    }

    /// A command was carried out. Says whether the limits of the next ones are others than before.
    pub fn passed(&mut self, shape: Shape) -> bool {
        let passed = &mut self.passed;
        *passed = Shape {
            ranges: passed.ranges.max(shape.ranges),
            longest: passed.longest.max(shape.longest),
            bytes: passed.bytes.max(shape.bytes),
        };
        self.since_contradiction = self.since_contradiction.saturating_add(1);
        if self.since_contradiction >= FORGIVEN {
            self.contradictions = 0;
        }
        if let Some(Trial::OneRange { longest, left }) = &mut self.trial
            && shape.longest < *longest
            && *left > 1
        {
            *left -= 1;
            return false;
        }
        self.trial.take().is_some()
    }

    /// A command was refused for its size. `false`: nothing smaller is left to be tried.
    pub fn refused(&mut self, shape: Shape) -> bool {
        if shape.ranges <= 1 && shape.bytes <= UNIT {
            return false;
        }
        if !self.is_news(shape) {
            self.contradictions += 1;
            self.since_contradiction = 0;
            self.passed = NOTHING_PASSED;
            if self.contradictions > CONTRADICTIONS {
                return false;
            }
        }
        let (ranges, longest) = (shape.ranges > self.passed.ranges, shape.longest > self.passed.longest);
        let bytes = shape.bytes > self.passed.bytes;
        // Whether the ranges or the bytes were too many shows if more ranges than passed fit into the bytes that passed.
        let short = u32::try_from(self.passed.bytes / UNIT).unwrap_or(u32::MAX).min(shape.ranges);
        match (ranges, longest, bytes) {
            (_, true, _) if shape.ranges > 1 => self.trial = Some(Trial::OneRange { longest: shape.longest, left: ATTEMPTS }),
            (_, true, _) => {
                let less = whole(halved(self.promised.longest, shape.longest));
                self.most.longest = self.most.longest.min(less.max(self.passed.longest));
                self.trial = Some(Trial::OneRange { longest: self.most.longest, left: ATTEMPTS });
            }
            (true, false, true) if short > self.passed.ranges => {
                self.trial = Some(Trial::ManyShort { ranges: short, bytes: self.passed.bytes });
            }
            // Fewer ranges are fewer bytes, too: if the bytes were to blame, longer ranges will show it.
            (true, false, _) => {
                let less = halved(u64::from(self.promised.ranges), u64::from(shape.ranges)) as u32;
                self.most.ranges = self.most.ranges.min(less.max(self.passed.ranges));
            }
            (false, false, _) => {
                let less = whole(halved(self.promised.bytes, shape.bytes));
                self.most.bytes = self.most.bytes.min(less.max(self.passed.bytes));
            }
        }
        true
    }
}

fn within(caps: &CopyCaps, most: Shape) -> CopyCaps {
    CopyCaps {
        max_range_bytes: caps.max_range_bytes.min(most.longest),
        max_command_bytes: caps.max_command_bytes.min(most.bytes),
        max_ranges: caps.max_ranges.min(most.ranges),
        ..caps.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Road;
    use proptest::prelude::*;

    const K: u64 = 1024;

    fn caps(ranges: u32, longest: u64, bytes: u64) -> CopyCaps {
        CopyCaps { road: Road::Nvme, max_range_bytes: longest, max_command_bytes: bytes, max_ranges: ranges, simulated: false }
    }

    /// A device with limits of its own, whatever it promises, which is asked to copy runs of these lengths again and again.
    struct Liar {
        truth: CopyCaps,
        refusals: u32,
        commands: u32,
    }

    impl Liar {
        fn takes(&self, shape: Shape) -> bool {
            let CopyCaps { max_ranges, max_range_bytes, max_command_bytes, .. } = self.truth;
            shape.ranges <= max_ranges && shape.longest <= max_range_bytes && shape.bytes <= max_command_bytes
        }

        /// Copies the runs; `false`: given up.
        fn copy(&mut self, learning: &mut Learning, promise: &CopyCaps, runs: &[u64]) -> bool {
            let mut left: std::collections::VecDeque<u64> = runs.iter().copied().collect();
            while !left.is_empty() {
                let limits = learning.next(promise);
                let mut command = Vec::new();
                let mut room = limits.max_command_bytes;
                let mut rest = left.clone();
                while (command.len() as u32) < limits.max_ranges && room >= UNIT && !rest.is_empty() {
                    let take = rest[0].min(limits.max_range_bytes).min(room / UNIT * UNIT);
                    assert!(take > 0, "{limits:?}");
                    command.push(take);
                    room -= take;
                    rest[0] -= take;
                    if rest[0] == 0 {
                        rest.pop_front();
                    }
                }
                let shape = Shape::of(command);
                self.commands += 1;
                if self.takes(shape) {
                    learning.passed(shape);
                    left = rest;
                } else {
                    self.refusals += 1;
                    assert!(self.refusals < 200, "no end: {learning:?}");
                    if !learning.refused(shape) {
                        return false;
                    }
                }
            }
            true
        }
    }

    fn learn(promise: &CopyCaps, truth: CopyCaps, runs: &[u64]) -> (CopyCaps, Liar, bool) {
        let mut learning = Learning::new(promise);
        let mut liar = Liar { truth, refusals: 0, commands: 0 };
        let all = (0..4).all(|_| liar.copy(&mut learning, promise, runs));
        (learning.limit(promise), liar, all)
    }

    #[test]
    fn one_range_only_but_long_ones() {
        let (limits, liar, all) = learn(&caps(128, 64 * K, 1024 * K), caps(1, 64 * K, 1024 * K), &[1024 * K; 4]);
        assert!(all);
        assert_eq!((limits.max_ranges, limits.max_range_bytes), (1, 64 * K));
        assert!(liar.refusals < 10, "{}", liar.refusals);
        // Also when the first commands had scattered blocks, where more ranges always are more bytes.
        let promise = caps(128, 64 * K, 1024 * K);
        let mut learning = Learning::new(&promise);
        let mut liar = Liar { truth: caps(1, 64 * K, 1024 * K), refusals: 0, commands: 0 };
        assert!(liar.copy(&mut learning, &promise, &[4 * K; 256]));
        assert!(liar.copy(&mut learning, &promise, &[256 * K; 4]));
        assert_eq!(learning.limit(&promise), caps(1, 64 * K, 1024 * K));
    }

    #[test]
    fn short_ranges_only_but_many() {
        let (limits, liar, all) = learn(&caps(128, 256 * K, 1024 * K), caps(128, 16 * K, 1024 * K), &[1024 * K; 4]);
        assert!(all);
        assert_eq!(limits, caps(128, 16 * K, 1024 * K));
        assert!(liar.refusals < 10, "{}", liar.refusals);
    }

    #[test]
    fn few_bytes_only() {
        let (limits, liar, all) = learn(&caps(128, 64 * K, 1024 * K), caps(128, 64 * K, 128 * K), &[1024 * K; 4]);
        assert!(all);
        assert_eq!(limits, caps(128, 64 * K, 128 * K));
        assert!(liar.refusals < 10, "{}", liar.refusals);
    }

    #[test]
    fn nothing_at_all_comes_to_an_end() {
        let (_, liar, all) = learn(&caps(128, 64 * K, 1024 * K), caps(0, 0, 0), &[1024 * K; 4]);
        assert!(!all);
        assert!(liar.refusals < 10, "{}", liar.refusals);
    }

    #[test]
    fn a_device_that_contradicts_itself_is_given_up() {
        let promise = caps(8, 64 * K, 512 * K);
        let mut learning = Learning::new(&promise);
        let shape = Shape { ranges: 1, longest: 8 * K, bytes: 8 * K };
        let mut goes_on = 0;
        while goes_on < 100 {
            learning.passed(shape);
            if !learning.refused(shape) {
                break;
            }
            goes_on += 1;
        }
        assert_eq!(goes_on, CONTRADICTIONS);
    }

    proptest! {
        /// Whatever lies: what the device can do is done, with few refusals. If only one limit lies, the others keep what was
        /// promised, and the one that lies ends at more than half of the truth.
        #[test]
        fn a_lying_limit_is_found(
            promise in (1..=128_u32, 1..=64_u64, 1..=8_u64),
            lies in 0..4_u8,
            shrink in 1..=6_u32,
            runs in prop::collection::vec(1..=96_u64, 1..40),
        ) {
            let longest = promise.1 * UNIT;
            let promise = caps(promise.0, longest, longest * promise.2);
            let mut truth = promise.clone();
            match lies {
                0 => truth.max_ranges = (truth.max_ranges >> shrink).max(1),
                1 => truth.max_range_bytes = whole(truth.max_range_bytes >> shrink),
                2 => truth.max_command_bytes = whole(truth.max_command_bytes >> shrink),
                _ => {
                    truth.max_ranges = (truth.max_ranges >> shrink).max(1);
                    truth.max_range_bytes = whole(truth.max_range_bytes >> shrink);
                    truth.max_command_bytes = whole(truth.max_command_bytes >> shrink);
                }
            }
            let runs: Vec<u64> = runs.into_iter().map(|units| units * UNIT).collect();
            let (limits, liar, all) = learn(&promise, truth.clone(), &runs);
            prop_assert!(all, "given up");
            prop_assert!(liar.refusals <= 40, "{} refusals", liar.refusals);
            if lies == 1 {
                prop_assert_eq!(limits.max_ranges, promise.max_ranges);
                prop_assert!(limits.max_range_bytes == promise.max_range_bytes || limits.max_range_bytes * 2 + UNIT > truth.max_range_bytes);
            }
            if lies == 0 {
                prop_assert_eq!(limits.max_range_bytes, promise.max_range_bytes);
                prop_assert!(limits.max_ranges == promise.max_ranges || limits.max_ranges * 2 + 1 >= truth.max_ranges);
            }
        }
    }
}
