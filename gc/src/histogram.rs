//! A compact histogram of times: 16 buckets per power of two, so that a percentile is at most 6.25 % too high.
//!
//! Recording is one atomic addition: writers that waited for the cleaner record their pause without taking a lock.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per power of two, as a power of two.
const FINE_BITS: u32 = 4;
const FINE: usize = 1 << FINE_BITS;
/// Values below [`FINE`] have a bucket each; every further power of two has [`FINE`] of them.
const BUCKETS: usize = FINE * (64 - FINE_BITS as usize + 1);

fn bucket(value: u64) -> usize {
    if value < FINE as u64 {
        return value as usize;
    }
    let power = 63 - value.leading_zeros();
    let fine = (value >> (power - FINE_BITS)) as usize & (FINE - 1);
    FINE * (power - FINE_BITS + 1) as usize + fine
}

/// The largest value that falls into a bucket.
fn upper(index: usize) -> u64 {
    if index < FINE {
        return index as u64;
    }
    let shift = (index / FINE - 1) as u32;
    let first = ((FINE + index % FINE) as u64) << shift;
    first + ((1u64 << shift) - 1)
}

/// Counts of times in microseconds.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    max: AtomicU64,
}

/// What a report says of a histogram, in microseconds. All zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of the values are at most this.
    pub p50: u64,
    /// 99 % are at most this.
    pub p99: u64,
    /// 99.9 % are at most this.
    pub p999: u64,
    /// The largest.
    pub max: u64,
    /// How many there were.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.percentiles().fmt(f)
    }
}

impl Histogram {
    /// Adds a value.
    pub fn record(&self, us: u64) {
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(us, Ordering::Relaxed);
    }

    /// The value that `permille` thousandths of all values do not exceed.
    pub fn at(&self, permille: u64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        self.find(&counts, total, permille)
    }

    fn find(&self, counts: &[u64], total: u64, permille: u64) -> u64 {
        let rank = (u128::from(total) * u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (index, count) in counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return upper(index).min(self.max.load(Ordering::Relaxed));
            }
        }
        0
    }

    /// What a report says.
    pub fn percentiles(&self) -> Percentiles {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let at = |permille| self.find(&counts, count, permille);
        Percentiles { p50: at(500), p99: at(990), p999: at(999), max: self.max.load(Ordering::Relaxed), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_and_is_narrow(value in prop_oneof![any::<u64>(), 0u64..100_000]) {
            let index = bucket(value);
            prop_assert!(index < BUCKETS);
            prop_assert!(upper(index) >= value);
            prop_assert!(upper(index) - value <= value / FINE as u64);
            if index > 0 {
                prop_assert!(upper(index - 1) < value);
            }
        }

        #[test]
        fn percentiles_are_those_of_the_sorted_values(values in proptest::collection::vec(0u64..1_000_000, 1..300)) {
            let histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            for permille in [1u64, 500, 990, 999, 1000] {
                let exact = sorted[((sorted.len() as u64 * permille).div_ceil(1000).max(1) - 1) as usize];
                let found = histogram.at(permille);
                prop_assert!(found >= exact && found - exact <= exact / FINE as u64, "{found} for {exact}");
            }
            prop_assert_eq!(histogram.percentiles().max, sorted[sorted.len() - 1]);
            prop_assert_eq!(histogram.percentiles().count, sorted.len() as u64);
        }
    }

    #[test]
    fn an_empty_histogram_is_all_zero() {
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}
