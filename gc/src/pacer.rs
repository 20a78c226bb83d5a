//! When and how much to clean: pure control, without a clock or a thread.
//!
//! In the steady state a victim with `v` live of `S` blocks buys `S - v` free blocks for `v` copies, so for each block that users
//! write `v / (S - v)` blocks must be copied to stand still. The pacer allows `c` times that, where `c` follows the room ahead of the users:
//! zero at the high-water mark, one half-way down (where the system settles), more below. So cleaning is smooth, not in bursts.
//!
//! Room is counted in blocks, with what a half-cleaned victim will give back in proportion, so that one zone of a few large ones moves the
//! control as smoothly as one of many small ones.
//!
//! It is lazy: above the high-water mark nothing is cleaned, because every block that dies before its segment is cleaned is a block that
//! needs no copy; the marks lie just above the reserve, so that write amplification meets the analytic curve. At the low-water
//! mark writers pay ([`crate::toll`]), and there is still room for them to go on during the checkpoint that gives zones back.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Blocks that users may write while a checkpoint gives zones back, on a volume that is large enough: 16 MiB.
const RUNWAY_BLOCKS: u64 = 4096;
/// Emptied zones of so many blocks together are worth a checkpoint, on a volume that is large enough: 8 MiB.
const BATCH_BLOCKS: u32 = 2048;

/// The marks, in blocks that users may write. `low < high` always holds after [`Pacer::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacerConfig {
    /// With so much room or less, writers pay for what they write.
    pub low: i64,
    /// With so much room or more, nothing is cleaned.
    pub high: i64,
    /// With so little left to write, a single zone of data that is empty is to be given back, without waiting for others.
    pub runway: i64,
    /// Emptied zones that are worth a checkpoint: victims share the metadata that it writes.
    pub batch: u32,
    /// Most blocks of unused allowance that may pile up: the longest burst of the background cleaner.
    pub burst_blocks: u32,
    /// After this long without a user's write, the background cleans on to the high-water mark.
    pub idle_after: Duration,
}

impl PacerConfig {
    /// Marks just above a reserve of `reserve` zones (which belong to cleaning and checkpoints and are lent to nobody), on a volume
    /// of `zones` zones of `capacity` blocks. At the low mark there is room for the zones that await a checkpoint and for what users write
    /// while it is made. Large volumes afford more of both, at a small share of their space.
    pub fn above_reserve(reserve: u32, zones: u32, capacity: u32) -> Self {
        let blocks = u64::from(zones) * u64::from(capacity);
        let batch = (BATCH_BLOCKS / capacity.max(1)).clamp(1, (zones / 256).max(1));
        let floor = i64::from(reserve) * i64::from(capacity);
        let runway = floor + (blocks / 256).min(RUNWAY_BLOCKS) as i64;
        let low = runway + i64::from(batch) * i64::from(capacity);
        let high = low + (blocks / 128).clamp(u64::from(capacity.min(256)), 2048) as i64;
        Self { low, high, runway, batch, burst_blocks: 8192, idle_after: Duration::from_millis(200) }
    }

    /// The same with all marks higher by so many blocks.
    pub fn raised(self, blocks: i64) -> Self {
        Self { low: self.low + blocks, high: self.high + blocks, runway: self.runway + blocks, ..self }
    }

    /// Where the system settles: the room that is kept on average.
    pub fn middle(&self) -> i64 {
        self.low + (self.high - self.low) / 2
    }
}

/// The room ahead of the users, in filesystem blocks; below zero when they live on what was promised to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// What they may write before a zone must be given back.
    pub writable: i64,
    /// What they may write in the long run with what is free now: less what heads of relocation and dirty metadata have taken or will
    /// take out of it.
    pub ahead: i64,
}

impl Room {
    /// So many blocks, all of them at once.
    pub fn of(blocks: i64) -> Self {
        Self { writable: blocks, ahead: blocks }
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
    /// Blocks that users may write, those included that a checkpoint would give back.
    pub room: i64,
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
    /// There is enough room: an idle system is quiet.
    #[default]
    Quiet,
    /// The background cleans at its pace.
    Background,
    /// Writers pay.
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

    /// How urgent cleaning is with so much room.
    pub fn pressure(&self, room: i64) -> Pressure {
        if room >= self.config.high {
            Pressure::Quiet
        } else if room > self.config.low {
            Pressure::Background
        } else {
            Pressure::Forced
        }
    }

    /// The same for room whose parts differ: with `coming` blocks that will be given back, some of them by the next checkpoint if `emptied`.
    pub fn pressure_of(&self, room: Room, coming: i64, emptied: bool) -> Pressure {
        if self.is_short(room, emptied) { Pressure::Forced } else { self.pressure(room.ahead.saturating_add(coming)) }
    }

    /// Is little left to write, and is there nothing that a checkpoint would give back?
    pub fn is_short(&self, room: Room, emptied: bool) -> bool {
        !emptied && room.writable <= self.config.runway
    }

    /// The factor `c` in thousandths: 0 at the high-water mark, 1000 half-way to the low one, 2000 there, and steeper below it.
    pub fn factor_permille(&self, room: i64) -> u64 {
        let PacerConfig { low, high, .. } = self.config;
        let band = high.saturating_sub(low);
        let below_high = high.saturating_sub(room).max(0);
        let below_low = low.saturating_sub(room).max(0);
        let factor = below_high.saturating_add(below_low.saturating_mul(2)).saturating_mul(2000) / band;
        factor.unsigned_abs().min(MAX_FACTOR_PERMILLE)
    }

    /// Takes note of what happened and says what may be copied.
    pub fn pace(&mut self, input: &PacerInput) -> Pace {
        let pressure = self.pressure(input.room);
        let Some(victim) = input.victim.filter(|v| v.live < v.capacity && pressure != Pressure::Quiet) else {
            self.credit_millis = 0;
            return Pace { pressure, ..Pace::default() };
        };
        let factor = self.factor_permille(input.room);
        let allowed =
            i128::from(input.user_blocks) * i128::from(factor) * i128::from(victim.live) / i128::from(victim.capacity - victim.live);
        let most = i128::from(self.config.burst_blocks) * 1000;
        self.credit_millis = (self.credit_millis + allowed).min(most);
        let mut background = u32::try_from(self.credit_millis.max(0) / 1000).unwrap_or(u32::MAX);
        if pressure == Pressure::Forced || input.idle >= self.config.idle_after || victim.live == 0 {
            background = background.max(1);
        }
        Pace { pressure, factor_permille: u32::try_from(factor).unwrap_or(u32::MAX), background }
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

    fn marks(low: i64, high: i64, burst_blocks: u32, idle_after: Duration) -> PacerConfig {
        PacerConfig { low, high, runway: low, batch: 1, burst_blocks, idle_after }
    }

    fn input(room: i64, live: u32, user_blocks: u64) -> PacerInput {
        PacerInput { room, victim: Some(VictimShare { live, capacity: 100 }), user_blocks, idle: Duration::ZERO }
    }

    #[test]
    fn above_the_high_mark_everything_is_quiet_even_when_idle() {
        let mut pacer = Pacer::new(PacerConfig::above_reserve(2, 64, 256));
        let high = pacer.config().high;
        let pace = pacer.pace(&PacerInput { idle: Duration::from_secs(9), ..input(high, 50, 1000) });
        assert_eq!(pace, Pace::default());
    }

    #[test]
    fn marks_leave_room_for_a_checkpoint_and_take_a_small_share() {
        for (zones, capacity) in [(24, 256), (64, 256), (512, 256), (64, 4096), (24, 524_288), (100_000, 256), (100_000, 524_288)] {
            let c = PacerConfig::above_reserve(0, zones, capacity);
            assert!(0 < c.runway && c.runway < c.low && c.low < c.high && c.batch >= 1, "{c:?}");
            // Zones that await their checkpoint, and what users write meanwhile.
            assert!(c.low >= c.runway + i64::from(c.batch) * i64::from(capacity), "{c:?}");
            let share = c.middle() as f64 / (f64::from(zones) * f64::from(capacity));
            let zone = 1.0 / f64::from(zones);
            assert!(share < 0.02 + 2.0 * zone, "{share} of {zones} zones of {capacity}: {c:?}");
        }
    }

    #[test]
    fn at_the_middle_of_the_band_the_law_holds_exactly() {
        let mut pacer = Pacer::new(marks(10, 20, 1 << 20, Duration::MAX));
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
    fn at_the_low_mark_the_background_may_always_work() {
        let mut pacer = Pacer::new(marks(4, 6, 8192, Duration::MAX));
        let pace = pacer.pace(&input(4, 50, 10));
        assert_eq!((pace.pressure, pace.factor_permille, pace.background), (Pressure::Forced, 2000, 20));
        pacer.copied(8000);
        assert_eq!(pacer.pace(&input(4, 50, 0)).background, 1);
        assert_eq!(pacer.pace(&input(-1 << 40, 50, 0)).factor_permille, 8000);
    }

    #[test]
    fn idle_time_is_used_between_the_marks() {
        let mut pacer = Pacer::new(marks(4, 6, 8192, Duration::from_millis(5)));
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

    /// A volume as seen by the control loop alone: users write as fast as they may, the background copies what it may. The lowest and the
    /// highest room in the second half, a victim in the making counted in proportion.
    fn settle(share: VictimShare, config: PacerConfig, steps: u32) -> (i64, i64) {
        let mut pacer = Pacer::new(config);
        let gain = f64::from(share.capacity - share.live) / f64::from(share.live);
        let mut room = config.high as f64;
        let (mut lowest, mut highest) = (f64::MAX, 0.0f64);
        for step in 0..steps {
            room -= 16.0;
            let input = PacerInput { room: room as i64, victim: Some(share), user_blocks: 16, idle: Duration::ZERO };
            let work = pacer.pace(&input).background;
            pacer.copied(work);
            room += f64::from(work) * gain;
            if step > steps / 2 {
                lowest = lowest.min(room);
                highest = highest.max(room);
            }
        }
        (lowest as i64, highest as i64)
    }

    #[test]
    fn the_loop_settles_in_the_middle_of_the_marks() {
        let config = PacerConfig::above_reserve(2, 64, 1000);
        for live in [100, 500, 700, 900] {
            let (lowest, highest) = settle(VictimShare { live, capacity: 1000 }, config, 100_000);
            let middle = config.middle();
            assert!(lowest > middle - 40 && highest < middle + 40, "live {live}: room between {lowest} and {highest}, middle {middle}");
        }
    }

    proptest! {
        #[test]
        fn more_need_never_means_less_cleaning(
            low in -20i64..20, width in 1i64..20, room in -60i64..60, live in 0u32..100, user in 0u64..1_000_000,
        ) {
            let config = marks(low, low + width, u32::MAX, Duration::MAX);
            let at = |room| Pacer::new(config).pace(&input(room, live, user));
            prop_assert!(at(room).background >= at(room + 1).background);
            prop_assert!(at(room).pressure >= at(room + 1).pressure);
        }
    }
}
