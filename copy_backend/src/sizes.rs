//! How long and wide a command should be, how many should be in flight, and from how many bytes on a copy by the device is faster than one through the
//! host: chosen from what was measured ([`crate::profile`]), else by default. Pure.
//!
//! Larger commands than needed gain nothing and make others wait. So of the sizes measured the smallest is taken that brings nearly the best
//! throughput. While users read, a command is as long as what a read may be delayed by ([`BUSY_DELAY_US`]).

use crate::backend::CopyCaps;
use crate::plan::UNIT;
use serde::{Deserialize, Serialize};

/// Commands in flight of a road that was not measured.
const DEFAULT_IN_FLIGHT: u32 = 8;
/// Most commands in flight, whatever was measured.
pub const MOST_IN_FLIGHT: u32 = 32;
/// While users read: bytes of a command of a road that was not measured.
const BUSY_BYTES: u64 = 256 << 10;
/// While users read: no command is shorter for their sake, or copies would come to a standstill.
const LEAST_BUSY_BYTES: u64 = 64 << 10;
/// While users read: how long a command may take, in microseconds.
pub const BUSY_DELAY_US: f64 = 2000.0;
/// Nearly the best throughput.
const NEARLY: f64 = 0.9;
/// From here on a copy is never small: the device carries it out even if the host were faster, since it leaves the host free.
pub const SMALL: u64 = 64 << 10;

/// What commands of one shape did on a road.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Bytes of a command.
    pub bytes: u64,
    /// Source ranges of a command.
    pub ranges: u32,
    /// Commands in flight at once.
    pub in_flight: u32,
    /// Median time from submission to completion, in microseconds.
    pub latency_us: f64,
    /// Bytes copied in a second.
    pub bytes_per_second: f64,
}

/// What the samples of a road were taken for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// As few ranges as the limits allow, one command in flight, ascending in bytes.
    pub by_bytes: Vec<Sample>,
    /// Ranges of one length, one command in flight, ascending in ranges.
    pub by_ranges: Vec<Sample>,
    /// Commands of one shape, ascending in those in flight.
    pub by_in_flight: Vec<Sample>,
}

/// How to cut and pace commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Most bytes in a command.
    pub command_bytes: u64,
    /// Most source ranges in a command.
    pub ranges: u32,
    /// Most commands in flight, where the destination lets several be.
    pub in_flight: u32,
    /// Most bytes in a command while users read; there is one in flight then.
    pub busy_command_bytes: u64,
    /// Copies of fewer bytes than these go through the host.
    pub offload_from: u64,
}

/// What holds for the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub command_bytes: u64,
    pub ranges: u32,
    pub in_flight: u32,
}

impl Sizes {
    /// The bounds now: `busy`, while users read.
    pub(crate) fn bounds(&self, busy: bool) -> Bounds {
        match busy {
            true => Bounds { command_bytes: self.busy_command_bytes, ranges: self.ranges, in_flight: 1 },
            false => Bounds { command_bytes: self.command_bytes, ranges: self.ranges, in_flight: self.in_flight },
        }
    }
}

/// Chooses for a road with these limits; `measured` on it, and `host` for the host's road between the same devices.
pub fn choose(caps: &CopyCaps, measured: Option<&Measured>, host: Option<&Measured>) -> Sizes {
    let (command_bytes, ranges, in_flight, busy) = match measured {
        None => (caps.max_command_bytes, caps.max_ranges, DEFAULT_IN_FLIGHT, BUSY_BYTES),
        Some(measured) => (
            command_bytes(caps, &measured.by_bytes),
            ranges(caps, &measured.by_ranges),
            in_flight(&measured.by_in_flight),
            busy_bytes(&measured.by_bytes, BUSY_DELAY_US),
        ),
    };
    let command_bytes = command_bytes.min(caps.max_command_bytes);
    let offload_from = match (measured, host) {
        (Some(device), Some(host)) => crossover(&device.by_bytes, &host.by_bytes),
        _ => 0,
    };
    Sizes { command_bytes, ranges: ranges.min(caps.max_ranges), in_flight, busy_command_bytes: busy.min(command_bytes), offload_from }
}

fn best(samples: &[&Sample]) -> f64 {
    samples.iter().map(|sample| sample.bytes_per_second).fold(0.0, f64::max)
}

/// The shortest command that brings nearly the best throughput. Samples beyond the limits (learnt since) say nothing.
fn command_bytes(caps: &CopyCaps, samples: &[Sample]) -> u64 {
    let possible: Vec<&Sample> = samples.iter().filter(|sample| sample.bytes <= caps.max_command_bytes).collect();
    let enough = best(&possible) * NEARLY;
    let found = possible.iter().filter(|sample| sample.bytes_per_second >= enough).map(|sample| sample.bytes).min();
    found.map_or(caps.max_command_bytes, |bytes| (bytes / UNIT * UNIT).max(UNIT))
}

/// The most ranges that still bring nearly the best throughput: fewer commands for the same blocks. When the most that were measured do, the limits alone count.
fn ranges(caps: &CopyCaps, samples: &[Sample]) -> u32 {
    let possible: Vec<&Sample> = samples.iter().filter(|sample| sample.ranges <= caps.max_ranges).collect();
    let enough = best(&possible) * NEARLY;
    let good = possible.iter().filter(|sample| sample.bytes_per_second >= enough).map(|sample| sample.ranges).max();
    let most = possible.iter().map(|sample| sample.ranges).max();
    good.filter(|_| good < most).map_or(caps.max_ranges, |ranges| ranges.max(1))
}

/// The fewest commands in flight that bring nearly the best throughput. Where that is as many as were measured (a scratch range of one zone lets one be), nobody
/// knows what more would bring.
fn in_flight(samples: &[Sample]) -> u32 {
    let all: Vec<&Sample> = samples.iter().collect();
    let enough = best(&all) * NEARLY;
    let found = all.iter().filter(|sample| sample.bytes_per_second >= enough).map(|sample| sample.in_flight).min();
    let most = all.iter().map(|sample| sample.in_flight).max();
    match found {
        Some(found) if Some(found) < most => found.clamp(1, MOST_IN_FLIGHT),
        found => found.unwrap_or(0).clamp(DEFAULT_IN_FLIGHT, MOST_IN_FLIGHT),
    }
}

/// The samples without outliers: a command takes no longer than a longer one does.
fn smooth(samples: &[Sample]) -> Vec<Sample> {
    let mut smooth = samples.to_vec();
    for index in (1..smooth.len()).rev() {
        smooth[index - 1].latency_us = smooth[index - 1].latency_us.min(smooth[index].latency_us);
    }
    smooth
}

/// The longest command that takes no longer than `delay_us`, between the sizes measured as on a straight line.
fn busy_bytes(samples: &[Sample], delay_us: f64) -> u64 {
    let samples = smooth(samples);
    let Some(first) = samples.first() else { return BUSY_BYTES };
    let mut most = first.bytes;
    let mut before = first;
    for sample in &samples {
        if sample.latency_us <= delay_us {
            most = sample.bytes;
            before = sample;
            continue;
        }
        let (rise, run) = (sample.latency_us - before.latency_us, sample.bytes.saturating_sub(before.bytes));
        if rise > 0.0 && before.latency_us <= delay_us {
            most = before.bytes + ((delay_us - before.latency_us) / rise * run as f64) as u64;
        }
        break;
    }
    (most / UNIT * UNIT).max(LEAST_BUSY_BYTES)
}

/// The fewest bytes from which on, at every size measured up to [`SMALL`], the device is no slower than the host; at most [`SMALL`].
fn crossover(device: &[Sample], host: &[Sample]) -> u64 {
    let (device, host) = (smooth(device), smooth(host));
    let mut from = 0;
    for sample in device.iter().filter(|sample| sample.bytes < SMALL) {
        let Some(other) = host.iter().find(|other| other.bytes == sample.bytes) else { continue };
        if sample.latency_us > other.latency_us {
            // Up to the next size at which both are known.
            let next = device.iter().filter(|next| next.bytes > sample.bytes && host.iter().any(|other| other.bytes == next.bytes));
            from = next.map(|next| next.bytes).min().unwrap_or(SMALL).min(SMALL);
        }
    }
    from
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

    /// A road that takes so long for a command, so long for a range, and so many bytes in a microsecond.
    fn road(command_us: f64, range_us: f64, rate: f64, lanes: u32) -> Measured {
        let sample = |bytes: u64, ranges: u32, in_flight: u32| {
            let latency_us = command_us + range_us * f64::from(ranges) + bytes as f64 / rate;
            let bytes_per_second = bytes as f64 / latency_us * 1e6 * f64::from(in_flight.min(lanes));
            Sample { bytes, ranges, in_flight, latency_us, bytes_per_second }
        };
        Measured {
            by_bytes: [4, 16, 64, 256, 1024, 4096].map(|kib| sample(kib * K, 1, 1)).into(),
            by_ranges: [1, 4, 16, 64].map(|ranges| sample(u64::from(ranges) * 4 * K, ranges, 1)).into(),
            by_in_flight: [1, 2, 4, 8].map(|flying| sample(256 * K, 1, flying)).into(),
        }
    }

    #[test]
    fn without_measurements_the_limits_and_a_short_command_while_users_read() {
        let sizes = choose(&caps(128, 64 * K, 1024 * K), None, None);
        assert_eq!((sizes.command_bytes, sizes.ranges, sizes.busy_command_bytes), (1024 * K, 128, 256 * K));
        assert_eq!((sizes.in_flight, sizes.offload_from), (DEFAULT_IN_FLIGHT, 0));
        assert_eq!(sizes.bounds(true).in_flight, 1);
        assert!(choose(&caps(1, 8 * K, 8 * K), None, None).busy_command_bytes == 8 * K);
    }

    #[test]
    fn the_smallest_that_is_nearly_as_fast_as_the_best() {
        // 100 microseconds for a command, 1000 bytes in one: 1 MiB takes 1149 us, 91 % of the best there can be.
        let sizes = choose(&caps(128, 4096 * K, 8192 * K), Some(&road(100.0, 0.0, 1000.0, 4)), None);
        assert_eq!((sizes.command_bytes, sizes.in_flight, sizes.ranges), (1024 * K, 4, 128));
        // What takes 2 ms is longer than any command need be.
        assert_eq!(sizes.busy_command_bytes, 1024 * K);
        // 100 us for the command, and 1900 for 190,000 bytes.
        let slow = choose(&caps(128, 4096 * K, 8192 * K), Some(&road(100.0, 0.0, 100.0, 1)), None);
        assert!((180_000..=190_000).contains(&slow.busy_command_bytes), "{slow:?}");
        assert_eq!(slow.in_flight, 1);
        // One zone to measure in says nothing about two.
        let mut one = road(100.0, 0.0, 100.0, 1);
        one.by_in_flight.truncate(1);
        assert_eq!(choose(&caps(128, 4096 * K, 8192 * K), Some(&one), None).in_flight, DEFAULT_IN_FLIGHT);
        // A device on which nothing is quick still gets commands of some length.
        assert_eq!(choose(&caps(128, 4096 * K, 8192 * K), Some(&road(9000.0, 0.0, 1.0, 1)), None).busy_command_bytes, 64 * K);
    }

    #[test]
    fn an_outlier_decides_nothing() {
        let caps = caps(128, 4096 * K, 8192 * K);
        let quiet = road(100.0, 0.0, 1000.0, 4);
        let mut disturbed = quiet.clone();
        disturbed.by_bytes[1].latency_us = 50_000.0;
        let host = road(150.0, 0.0, 500.0, 1);
        let choice = |measured| choose(&caps, Some(measured), Some(&host));
        assert_eq!(choice(&disturbed).busy_command_bytes, choice(&quiet).busy_command_bytes);
        assert_eq!((choice(&disturbed).offload_from, choice(&quiet).offload_from), (0, 0));
    }

    #[test]
    fn ranges_are_limited_only_where_more_of_them_are_slower() {
        let mut measured = road(10.0, 0.0, 1000.0, 1);
        for (sample, speed) in measured.by_ranges.iter_mut().zip([1e8, 9.9e7, 5e7, 2e7]) {
            sample.bytes_per_second = speed;
        }
        assert_eq!(choose(&caps(128, 64 * K, 1024 * K), Some(&measured), None).ranges, 4);
        assert_eq!(choose(&caps(2, 64 * K, 1024 * K), Some(&measured), None).ranges, 2);
    }

    #[test]
    fn tiny_copies_go_where_they_are_quicker() {
        let (device, host) = (road(100.0, 0.0, 1000.0, 1), road(50.0, 0.0, 500.0, 1));
        // 4 KiB: 104 against 58; 16 KiB: 116 against 82; 64 KiB: 165 against 181.
        assert_eq!(choose(&caps(128, 64 * K, 1024 * K), Some(&device), Some(&host)).offload_from, 64 * K);
        assert_eq!(choose(&caps(128, 64 * K, 1024 * K), Some(&host), Some(&device)).offload_from, 0);
        assert_eq!(choose(&caps(128, 64 * K, 1024 * K), Some(&device), None).offload_from, 0);
        // Always slower: what is not small is the device's all the same.
        let slower = road(1000.0, 0.0, 10.0, 1);
        assert_eq!(choose(&caps(128, 64 * K, 1024 * K), Some(&slower), Some(&host)).offload_from, SMALL);
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let sample = (1..=16_384_u64, 1..=300_u32, 1..=64_u32, 0.1..1e6_f64, 1.0..1e11_f64);
        prop::collection::vec(sample, 0..12).prop_map(|list| {
            let mut samples: Vec<Sample> = list
                .into_iter()
                .map(|(units, ranges, in_flight, latency_us, bytes_per_second)| Sample {
                    bytes: units * UNIT,
                    ranges,
                    in_flight,
                    latency_us,
                    bytes_per_second,
                })
                .collect();
            samples.sort_by_key(|sample| sample.bytes);
            samples
        })
    }

    fn measured() -> impl Strategy<Value = Measured> {
        (samples(), samples(), samples()).prop_map(|(by_bytes, by_ranges, by_in_flight)| Measured { by_bytes, by_ranges, by_in_flight })
    }

    proptest! {
        /// Whatever was measured: within the limits of the device, never a standstill, and shorter commands while users read.
        #[test]
        fn choices_keep_to_the_limits(
            limits in (1..=300_u32, 1..=1024_u64, 1..=64_u64),
            device in prop::option::of(measured()),
            host in prop::option::of(measured()),
        ) {
            let caps = caps(limits.0, limits.1 * UNIT, limits.1 * limits.2 * UNIT);
            let sizes = choose(&caps, device.as_ref(), host.as_ref());
            prop_assert!((UNIT..=caps.max_command_bytes).contains(&sizes.command_bytes));
            prop_assert!((1..=caps.max_ranges).contains(&sizes.ranges));
            prop_assert!((1..=MOST_IN_FLIGHT).contains(&sizes.in_flight));
            prop_assert!((UNIT.min(sizes.command_bytes)..=sizes.command_bytes).contains(&sizes.busy_command_bytes));
            prop_assert!(sizes.offload_from <= SMALL);
            prop_assert!(sizes.command_bytes.is_multiple_of(UNIT) && sizes.busy_command_bytes.is_multiple_of(UNIT));
            let (busy, quiet) = (sizes.bounds(true), sizes.bounds(false));
            prop_assert!(busy.command_bytes <= quiet.command_bytes && busy.in_flight <= quiet.in_flight);
        }

        /// A device that takes longer commands is never given shorter ones for it; more patience never means shorter commands.
        #[test]
        fn choices_are_monotone(measured in measured(), units in 1..=2048_u64, more in 0..=2048_u64, delay in 1.0..1e5_f64, longer in 1.0..1e5_f64) {
            let short = choose(&caps(64, units * UNIT, units * UNIT), Some(&measured), None);
            let long = choose(&caps(64, (units + more) * UNIT, (units + more) * UNIT), Some(&measured), None);
            // A limit below all that was measured is taken as it is.
            let known = measured.by_bytes.iter().any(|sample| sample.bytes <= units * UNIT);
            prop_assert!(!known || short.command_bytes <= long.command_bytes);
            let mut rising = measured.by_bytes.clone();
            rising.sort_by_key(|sample| sample.bytes);
            let mut latencies: Vec<f64> = rising.iter().map(|sample| sample.latency_us).collect();
            latencies.sort_by(f64::total_cmp);
            rising.iter_mut().zip(latencies).for_each(|(sample, latency)| sample.latency_us = latency);
            prop_assert!(busy_bytes(&rising, delay) <= busy_bytes(&rising, delay + longer));
        }
    }
}
