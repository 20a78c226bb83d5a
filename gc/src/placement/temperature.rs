//! What is expected of the blocks of a zone, as volumes keep it.

use serde::Serialize;

/// Steps to the doubling of an interval in a [`Temperature`].
const STEPS: f64 = 6.0;

/// After how many blocks of users the blocks of a zone are expected to be written again, as a byte on a logarithmic scale. On disk in segment tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Temperature(pub u8);

impl Temperature {
    /// Nobody estimated.
    pub const UNKNOWN: Self = Self(0);

    /// The nearest to an interval.
    pub fn of(interval: f64) -> Self {
        let steps = (interval.max(1.0).log2() * STEPS).round();
        Self((steps + 1.0).min(255.0) as u8)
    }

    /// The interval, if it is known.
    pub fn interval(self) -> Option<f64> {
        (self != Self::UNKNOWN).then(|| (f64::from(self.0 - 1) / STEPS).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_is_within_a_step_of_its_interval_and_nothing_is_out_of_its_scale() {
        assert_eq!(Temperature::UNKNOWN.interval(), None);
        for interval in [1.0, 3.0, 1e3, 7e5, 1e9, 5e12] {
            let back = Temperature::of(interval).interval().expect("known");
            assert!((back / interval).log2().abs() <= 0.5 / STEPS + 1e-9, "{interval}: {back}");
        }
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            let temperature = Temperature::of(odd);
            assert!(temperature > Temperature::UNKNOWN && temperature.interval().is_some_and(f64::is_finite), "{odd}");
        }
    }
}
