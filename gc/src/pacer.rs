//! When and how much to clean: pure control, without a clock or a thread.
//!
//! In the steady state a victim with `v` live of `S` blocks buys `S - v` free blocks for `v` copies, so for each block that users
//! write `v / (S - v)` blocks must be copied to stand still. The pacer allows `c` times that, where `c` follows the free zones: zero at
//! the high-water mark, one half-way down (where the system settles), more below. So cleaning is smooth, not in bursts.
//!
//! It is lazy: above the high-water mark nothing is cleaned, because every block that dies before its segment is cleaned is a block that
//! needs no copy; the default mark lies just above the reserve, so that write amplification meets the analytic curve. At the low-water
//! mark writers help, a chunk at a time.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The marks, in free zones. `low < high` always holds after [`Pacer::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacerConfig {
    /// At this many free zones or fewer, writers must help.
    pub low: u32,
    /// At this many free zones or more, nothing is cleaned.
    pub high: u32,
    /// Most blocks of unused allowance that may pile up: the longest burst of the background cleaner.
    pub burst_blocks: u32,
    /// After this long without a user's write, the background cleans on to the high-water mark.
    pub idle_after: Duration,
}

impl PacerConfig {
    /// Marks just above a reserve of `reserve` zones (which belong to cleaning and checkpoints and are lent to nobody), on a volume
    /// of `zones` zones. At the low mark users have opened the last zone they may have. Large volumes get a wider band, which costs
    /// them a small share of their space and lets more victims share a checkpoint.
    pub fn above_reserve(reserve: u32, zones: u32) -> Self {
        let low = reserve;
        let high = low.saturating_add(2).saturating_add((zones / 256).min(14));
        Self { low, high, burst_blocks: 8192, idle_after: Duration::from_millis(200) }
    }
}

/// The victim's share: what the pace is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VictimShare {
    /// Its live blocks when it was chosen.
    pub live: u32,
    /// Its capacity.
    pub capacity: u32,
}

/// What the pacer is told.
#[derive(Clone, Copy, Debug)]
pub struct PacerInput {
    /// Free zones, those included that a checkpoint would free at once.
    pub free_zones: u32,
    /// The victim being cleaned or to be cleaned next; none: nothing is worth cleaning.
    pub victim: Option<VictimShare>,
    /// Blocks that users have written since the last call.
    pub user_blocks: u64,
    /// How long no user has written.
    pub idle: Duration,
}

/// How urgent cleaning is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pressure {
    /// Enough zones are free: an idle system is quiet.
    #[default]
    Quiet,
    /// The background cleans at its pace.
    Background,
    /// Writers must help.
    Forced,
}

/// What may be copied, and what must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pace {
    /// How urgent it is.
    pub pressure: Pressure,
    /// The control loop's factor on the steady-state law, in thousandths.
    pub factor_permille: u32,
    /// Blocks that the background may copy now.
    pub background: u32,
    /// Blocks that must be copied before users go on, for the blocks they have written since the last call; zero unless forced.
    pub foreground: u32,
}

/// Largest factor: beyond it, more haste would only starve the users.
const MAX_FACTOR_PERMILLE: u64 = 8000;

/// The control loop.
#[derive(Clone, Debug)]
pub struct Pacer {
    config: PacerConfig,
    /// Allowance of the background in thousandths of a block; below zero after a chunk that was larger than what was left.
    credit_millis: i128,
}

impl Pacer {
    /// A pacer with its marks in order.
    pub fn new(config: PacerConfig) -> Self {
        let config = PacerConfig { high: config.high.max(config.low.saturating_add(1)), ..config };
        Self { config, credit_millis: 0 }
    }

    /// Its marks.
    pub fn config(&self) -> &PacerConfig {
        &self.config
    }

    /// How urgent cleaning is at so many free zones.
    pub fn pressure(&self, free_zones: u32) -> Pressure {
        if free_zones >= self.config.high {
            Pressure::Quiet
        } else if free_zones > self.config.low {
            Pressure::Background
        } else {
            Pressure::Forced
        }
    }

    /// The factor `c` in thousandths: 0 at the high-water mark, 1000 half-way to the low one, 2000 there, and steeper below it.
    pub fn factor_permille(&self, free_zones: u32) -> u64 {
        let PacerConfig { low, high, .. } = self.config;
        let band = u64::from(high - low);
        let below_high = u64::from(high.saturating_sub(free_zones));
        let below_low = u64::from(low.saturating_sub(free_zones));
        (below_high * 2000 / band + below_low * 1000).min(MAX_FACTOR_PERMILLE)
    }

    /// Takes note of what happened and says what may be copied.
    pub fn pace(&mut self, input: &PacerInput) -> Pace {
        let pressure = self.pressure(input.free_zones);
        let Some(victim) = input.victim.filter(|v| v.live < v.capacity && pressure != Pressure::Quiet) else {
            self.credit_millis = 0;
            return Pace { pressure, ..Pace::default() };
        };
        let factor = self.factor_permille(input.free_zones);
        let allowed =
            i128::from(input.user_blocks) * i128::from(factor) * i128::from(victim.live) / i128::from(victim.capacity - victim.live);
        let most = i128::from(self.config.burst_blocks) * 1000;
        self.credit_millis = (self.credit_millis + allowed).min(most);
        let mut background = u32::try_from(self.credit_millis.max(0) / 1000).unwrap_or(u32::MAX);
        if pressure == Pressure::Forced || input.idle >= self.config.idle_after || victim.live == 0 {
            background = background.max(1);
        }
        let foreground = match pressure {
            Pressure::Forced => copies_owed(factor, victim, input.user_blocks),
            Pressure::Background | Pressure::Quiet => 0,
        };
        Pace { pressure, factor_permille: u32::try_from(factor).unwrap_or(u32::MAX), background, foreground }
    }

    /// Takes note of blocks that were copied. A debt is remembered only up to the burst, so that one huge chunk does not silence the
    /// cleaner for long.
    pub fn copied(&mut self, blocks: u32) {
        let least = -i128::from(self.config.burst_blocks) * 1000;
        self.credit_millis = (self.credit_millis - i128::from(blocks) * 1000).max(least);
    }
}

/// The law: `ceil(c v / (S - v))` copied blocks for each of `user_blocks` blocks, with `c` in thousandths.
pub fn copies_owed(factor_permille: u64, victim: VictimShare, user_blocks: u64) -> u32 {
    if user_blocks == 0 || victim.live >= victim.capacity {
        return 0;
    }
    let top = u128::from(user_blocks) * u128::from(factor_permille) * u128::from(victim.live);
    u32::try_from(top.div_ceil(u128::from(victim.capacity - victim.live) * 1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn input(free_zones: u32, live: u32, user_blocks: u64) -> PacerInput {
        PacerInput { free_zones, victim: Some(VictimShare { live, capacity: 100 }), user_blocks, idle: Duration::ZERO }
    }

    #[test]
    fn above_the_high_mark_everything_is_quiet_even_when_idle() {
        let mut pacer = Pacer::new(PacerConfig::above_reserve(2, 64));
        let high = pacer.config().high;
        let pace = pacer.pace(&PacerInput { idle: Duration::from_secs(9), ..input(high, 50, 1000) });
        assert_eq!(pace, Pace::default());
    }

    #[test]
    fn at_the_middle_of_the_band_the_law_holds_exactly() {
        let mut pacer = Pacer::new(PacerConfig { low: 10, high: 20, burst_blocks: 1 << 20, idle_after: Duration::MAX });
        // 75 live of 100: three copies for each user block.
        assert_eq!(pacer.pace(&input(15, 75, 1000)).background, 3000);
        pacer.copied(3000);
        assert_eq!(pacer.pace(&input(15, 75, 0)).background, 0);
        // Fractions are not lost and not rounded up again and again.
        let total: u32 = (0..300)
            .map(|_| {
                let now = pacer.pace(&input(15, 25, 1)).background;
                pacer.copied(now);
                now
            })
            .sum();
        assert_eq!(total, 99);
    }

    #[test]
    fn at_the_low_mark_writers_owe_copies_and_the_background_may_always_work() {
        let mut pacer = Pacer::new(PacerConfig { low: 4, high: 6, burst_blocks: 8192, idle_after: Duration::MAX });
        let pace = pacer.pace(&input(4, 50, 10));
        assert_eq!((pace.pressure, pace.factor_permille, pace.foreground), (Pressure::Forced, 2000, 20));
        assert_eq!(pacer.pace(&input(4, 50, 0)).foreground, 0);
        pacer.copied(8000);
        assert_eq!(pacer.pace(&input(4, 50, 0)).background, 1);
    }

    #[test]
    fn idle_time_is_used_between_the_marks() {
        let mut pacer = Pacer::new(PacerConfig { low: 4, high: 6, burst_blocks: 8192, idle_after: Duration::from_millis(5) });
        assert_eq!(pacer.pace(&input(5, 50, 0)).background, 0);
        assert_eq!(pacer.pace(&PacerInput { idle: Duration::from_millis(5), ..input(5, 50, 0) }).background, 1);
    }

    #[test]
    fn owed_copies_are_rounded_up() {
        let third = VictimShare { live: 1, capacity: 4 };
        assert_eq!(copies_owed(1000, third, 1), 1);
        assert_eq!(copies_owed(1000, third, 4), 2);
        assert_eq!(copies_owed(1000, VictimShare { live: 4, capacity: 4 }, 4), 0);
    }

    /// A volume as seen by the control loop alone: users write as fast as they may, the background copies what it may.
    fn settle(share: VictimShare, config: PacerConfig, steps: u32) -> (u64, u64) {
        let mut pacer = Pacer::new(config);
        let zone = u64::from(share.capacity);
        let mut free_blocks = u64::from(config.high) * zone;
        let mut copied_of_victim = 0;
        let (mut lowest, mut highest) = (u64::MAX, 0);
        for step in 0..steps {
            free_blocks -= 16;
            let free_zones = u32::try_from(free_blocks / zone).expect("small");
            let input = PacerInput { free_zones, victim: Some(share), user_blocks: 16, idle: Duration::ZERO };
            let pace = pacer.pace(&input);
            let work = pace.background.max(pace.foreground);
            pacer.copied(work);
            copied_of_victim += work;
            free_blocks -= u64::from(work);
            while copied_of_victim >= share.live {
                copied_of_victim -= share.live;
                free_blocks += zone;
            }
            if step > steps / 2 {
                lowest = lowest.min(free_blocks / zone);
                highest = highest.max(free_blocks / zone);
            }
        }
        (lowest, highest)
    }

    #[test]
    fn the_loop_settles_within_the_marks() {
        let config = PacerConfig { low: 8, high: 16, burst_blocks: 8192, idle_after: Duration::MAX };
        for live in [100, 500, 700, 900] {
            let (lowest, highest) = settle(VictimShare { live, capacity: 1000 }, config, 100_000);
            assert!(lowest >= 7 && highest <= 17, "live {live}: between {lowest} and {highest} free zones");
        }
    }

    proptest! {
        #[test]
        fn more_need_never_means_less_cleaning(low in 1u32..20, width in 1u32..20, free in 0u32..60, live in 0u32..100, user in 0u64..1_000_000) {
            let config = PacerConfig { low, high: low + width, burst_blocks: u32::MAX, idle_after: Duration::MAX };
            let at = |free| Pacer::new(config).pace(&input(free, live, user));
            prop_assert!(at(free).background >= at(free + 1).background);
            prop_assert!(at(free).foreground >= at(free + 1).foreground);
            prop_assert!(at(free).pressure >= at(free + 1).pressure);
        }
    }
}
