//! A rate limit as a token bucket. Pure: the caller says what time it is.
//!
//! A command begins when the bucket is not in debt, and then takes all it needs at once, perhaps going into debt. So in any
//! span of time no more begins than `rate` times the span, plus the burst, plus one command.

use std::time::Duration;

const NANOS: i128 = 1_000_000_000;

/// Tokens are bytes; they flow in at `rate` per second and at most `burst` of them are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    rate: i128,
    burst: i128,
    /// In bytes times nanoseconds; negative: in debt.
    level: i128,
    /// When `level` was true, from any fixed moment on.
    at: Duration,
}

impl TokenBucket {
    /// A full bucket. A rate of zero is taken as one byte per second: a limit is never a standstill.
    pub fn new(bytes_per_second: u64, burst: u64) -> Self {
        let burst = i128::from(burst) * NANOS;
        Self { rate: i128::from(bytes_per_second.max(1)), burst, level: burst, at: Duration::ZERO }
    }

    /// How long from `now` on until the next command may begin; zero: at once. Time that runs backwards counts as none.
    pub fn ready_in(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_nanos().min(i64::MAX as u128) as i128;
        self.level = (self.level + passed * self.rate).min(self.burst);
        self.at = self.at.max(now);
        if self.level >= 0 {
            return Duration::ZERO;
        }
        let wait = (-self.level + self.rate - 1) / self.rate;
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Takes the tokens of a command that begins.
    pub fn spend(&mut self, bytes: u64) {
        self.level -= i128::from(bytes) * NANOS;
    }
}

/// Commands of a rate-limited copy are this long at most: about eight of them in a second, so that the flow is even.
pub fn command_bytes(bytes_per_second: u64) -> u64 {
    const LEAST: u64 = 64 << 10;
    const MOST: u64 = 16 << 20;
    (bytes_per_second / 8 / LEAST * LEAST).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_waits_for_the_debt_of_the_one_before() {
        let mut bucket = TokenBucket::new(1000, 0);
        assert_eq!(bucket.ready_in(Duration::ZERO), Duration::ZERO);
        bucket.spend(500);
        assert_eq!(bucket.ready_in(Duration::ZERO), Duration::from_millis(500));
        assert_eq!(bucket.ready_in(Duration::from_millis(200)), Duration::from_millis(300));
        assert_eq!(bucket.ready_in(Duration::from_millis(100)), Duration::from_millis(300));
        assert_eq!(bucket.ready_in(Duration::from_millis(500)), Duration::ZERO);
        assert_eq!(TokenBucket::new(0, 0).ready_in(Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn commands_shrink_with_the_rate() {
        assert_eq!(command_bytes(1), 64 << 10);
        assert_eq!(command_bytes(8 << 20), 1 << 20);
        assert_eq!(command_bytes(u64::MAX), 16 << 20);
    }

    proptest! {
        /// Whoever waits as told never has more begun than the limit allows, and is never held up longer than the debt.
        #[test]
        fn the_limit_is_kept(
            rate in 1..2_000_000_u64,
            burst in 0..500_000_u64,
            commands in prop::collection::vec((1..300_000_u64, 0..2_000_u64), 1..60),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now, mut begun) = (Duration::ZERO, 0);
            for (bytes, idle) in commands {
                now += Duration::from_millis(idle);
                let wait = bucket.ready_in(now);
                if wait > Duration::ZERO {
                    // A nanosecond earlier is too early: nobody waits longer than the debt lasts.
                    prop_assert!(bucket.clone().ready_in(now + wait - Duration::from_nanos(1)) > Duration::ZERO);
                }
                now += wait;
                prop_assert_eq!(bucket.ready_in(now), Duration::ZERO);
                let allowed = u128::from(burst) + u128::from(rate) * now.as_nanos() / 1_000_000_000;
                prop_assert!(u128::from(begun) <= allowed, "{} begun before, {} allowed", begun, allowed);
                bucket.spend(bytes);
                begun += bytes;
            }
        }
    }
}
