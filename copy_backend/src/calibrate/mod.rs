//! Measuring roads: how long commands take by their length, by their ranges, and by how many are in flight. What comes out is for [`crate::profile`].
//!
//! Commands go straight to a road, past the engine, which would cut and pace them. Nothing is written but the scratch ranges, which are left as they
//! were found, also after a failure. What a road's first command of each shape did is read back and compared: a road that
//! copies wrongly is not measured.

mod course;
mod scratch;

use crate::backend::{CopyBackend, CopyCaps, FailureKind, Road};
use crate::engine::CopyEngine;
use crate::plan::UNIT;
use crate::sizes::{Measured, Sample};
use course::Course;
use scratch::Scratch;
use std::time::{Duration, Instant};
use thiserror::Error;
use zns::{DeviceError, DeviceId};

/// Lengths of commands.
const LENGTHS: [u64; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
/// Numbers of ranges, of [`UNIT`] bytes each.
const RANGES: [u32; 6] = [1, 4, 16, 64, 128, 256];
/// Commands in flight.
const IN_FLIGHT: [u32; 5] = [1, 2, 4, 8, 16];
/// Bytes of a command of which several are in flight.
const IN_FLIGHT_BYTES: u64 = 256 << 10;
/// Rounds of a measurement: no fewer, no more, and none begins after so long.
const ROUNDS: (usize, usize) = (3, 50);
const TIME: Duration = Duration::from_millis(150);

/// The range of a device that may be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScratchRange {
    /// Which device.
    pub device: DeviceId,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Why nothing could be measured.
#[derive(Debug, Error)]
pub enum CalibrateError {
    /// A device without a range that may be overwritten.
    #[error(
        "no scratch range was named for {device}: a calibration writes, and only where it is told to: --scratch {device}:OFFSET:LENGTH"
    )]
    NoScratch {
        /// The device.
        device: String,
    },
    /// A range that must not be overwritten, or cannot be used.
    #[error("{device}: the scratch range {offset}+{length} cannot be used: {reason}; nothing was written")]
    Scratch {
        /// The device.
        device: String,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Why.
        reason: String,
    },
    /// A device failed.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// The one who watches wanted no more.
    #[error("interrupted; the scratch ranges are as they were found")]
    Interrupted,
}

/// What is being measured, for who watches.
#[derive(Clone, Debug)]
pub struct Doing {
    /// From this device.
    pub from: DeviceId,
    /// To this one.
    pub to: DeviceId,
    /// By this road.
    pub road: Road,
    /// In words.
    pub what: String,
    /// Roads that were measured, of all.
    pub roads: (usize, usize),
}

/// What came of one road.
#[derive(Clone, Debug)]
pub struct RoadMeasurement {
    /// From this device.
    pub from: DeviceId,
    /// To this one.
    pub to: DeviceId,
    /// By this road.
    pub road: Road,
    /// What it promises. `Err`: why the road is closed, or why it was not measured.
    pub outcome: Result<(CopyCaps, Measured), String>,
}

/// Measures every road between all devices of the engine, in both directions. `watch` is told what is being done, and says whether to go on.
///
/// # Errors
/// A scratch range that cannot be used (nothing was written then), a device that fails outside a copy, an interruption.
pub fn calibrate(
    engine: &CopyEngine,
    ranges: &[ScratchRange],
    watch: &mut dyn FnMut(&Doing) -> bool,
) -> Result<Vec<RoadMeasurement>, CalibrateError> {
    let mut scratches = Vec::new();
    for (index, device) in engine.devices.iter().enumerate() {
        let range = ranges.iter().find(|range| usize::from(range.device.0) == index);
        let range = range.ok_or_else(|| CalibrateError::NoScratch { device: device.label() })?;
        scratches.push(Scratch::examine(device, range.offset, range.length)?);
    }
    let measured = measure_all(engine, &scratches, watch);
    let cleared: Result<Vec<()>, CalibrateError> = scratches.iter().map(Scratch::clear).collect();
    let measured = measured?;
    cleared?;
    Ok(measured)
}

fn measure_all(
    engine: &CopyEngine,
    scratches: &[Scratch],
    watch: &mut dyn FnMut(&Doing) -> bool,
) -> Result<Vec<RoadMeasurement>, CalibrateError> {
    let ids: Vec<DeviceId> = (0..=u8::MAX).map(DeviceId).take(scratches.len()).collect();
    let pairs: Vec<(DeviceId, DeviceId)> = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to))).collect();
    let roads: Vec<_> =
        pairs.iter().flat_map(|&(from, to)| engine.survey(from, to).into_iter().map(move |(road, caps)| (from, to, road, caps))).collect();
    let open = roads.iter().filter(|(.., caps)| caps.is_ok()).count();
    let mut measured = Vec::new();
    let mut nth = 0;
    for (from, to, road, caps) in roads {
        let outcome = match caps {
            Err(no) => Err(no.reason),
            Ok(_) => {
                let scratch = |id: DeviceId| (id, &scratches[usize::from(id.0)]);
                let mut course = Course::lay_out(scratch(from), scratch(to))?;
                let mut doing = Doing { from, to, road, what: String::new(), roads: (nth, open) };
                nth += 1;
                let mut watch = |what: String| {
                    doing.what = what;
                    watch(&doing)
                };
                measure(engine, (from, to, road), &mut course, &mut watch)?
            }
        };
        measured.push(RoadMeasurement { from, to, road, outcome });
    }
    Ok(measured)
}

/// Commands of one shape.
#[derive(Clone, Copy)]
struct Kind {
    bytes: u64,
    ranges: u32,
    in_flight: u32,
    gaps: bool,
}

/// Why a series ends.
enum Stop {
    /// The road takes no commands of this size: shorter ones have been measured.
    TooLarge,
    /// It does not copy.
    Failed(String),
    Error(CalibrateError),
}

impl From<CalibrateError> for Stop {
    fn from(error: CalibrateError) -> Self {
        Self::Error(error)
    }
}

fn measure(
    engine: &CopyEngine,
    (from, to, road): (DeviceId, DeviceId, Road),
    course: &mut Course<'_>,
    watch: &mut dyn FnMut(String) -> bool,
) -> Result<Result<(CopyCaps, Measured), String>, CalibrateError> {
    let (backend, caps) = match engine.road(road, from, to) {
        Ok(found) => found,
        Err(no) => return Ok(Err(no.reason)),
    };
    let mut measured = Measured::default();
    let (by_bytes, by_ranges) = (lengths(&caps, course.most_bytes()), ranges(&caps, course.most_bytes()));
    let short = by_bytes.iter().map(|kind| kind.bytes).filter(|bytes| *bytes <= IN_FLIGHT_BYTES).max().unwrap_or(UNIT);
    let flights = IN_FLIGHT.iter().filter(|flying| **flying <= course.most_in_flight(short).max(1));
    let by_in_flight: Vec<Kind> = flights.map(|&in_flight| Kind { in_flight, ..of_length(&caps, short) }).collect();
    let series = [(&mut measured.by_bytes, by_bytes), (&mut measured.by_ranges, by_ranges), (&mut measured.by_in_flight, by_in_flight)];
    for (samples, kinds) in series {
        course.begin()?;
        for kind in kinds {
            if !watch(kind.to_string()) {
                return Err(CalibrateError::Interrupted);
            }
            match sample(&*backend, course, kind) {
                Ok(sample) => samples.push(sample),
                Err(Stop::TooLarge) => break,
                Err(Stop::Failed(reason)) => return Ok(Err(reason)),
                Err(Stop::Error(error)) => return Err(error),
            }
        }
    }
    if measured.by_bytes.is_empty() {
        return Ok(Err("it refuses the smallest command".into()));
    }
    Ok(Ok((caps, measured)))
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {} ranges, {} in flight", crate::size::show_size(self.bytes), self.ranges, self.in_flight)
    }
}

/// A command of so many bytes in as few ranges as may be.
fn of_length(caps: &CopyCaps, bytes: u64) -> Kind {
    let range = (caps.max_range_bytes / UNIT * UNIT).max(UNIT);
    Kind { bytes, ranges: u32::try_from(bytes.div_ceil(range)).unwrap_or(u32::MAX), in_flight: 1, gaps: false }
}

/// Lengths within the limits and `most`, the longest that there is among them.
fn lengths(caps: &CopyCaps, most: u64) -> Vec<Kind> {
    let range = (caps.max_range_bytes / UNIT * UNIT).max(UNIT);
    let longest = caps.max_command_bytes.min(range.saturating_mul(u64::from(caps.max_ranges))).min(most).min(LENGTHS[LENGTHS.len() - 1]);
    let mut lengths: Vec<u64> = LENGTHS.into_iter().filter(|bytes| *bytes <= longest).collect();
    let longest = (longest / UNIT * UNIT).max(UNIT);
    if lengths.last() != Some(&longest) {
        lengths.push(longest);
    }
    lengths.into_iter().map(|bytes| of_length(caps, bytes)).collect()
}

/// Numbers of ranges within the limits and `most` bytes, the largest that there is among them.
fn ranges(caps: &CopyCaps, most: u64) -> Vec<Kind> {
    let fits = u32::try_from(caps.max_command_bytes.min(most) / UNIT).unwrap_or(u32::MAX);
    let widest = caps.max_ranges.min(fits).clamp(1, RANGES[RANGES.len() - 1]);
    let mut numbers: Vec<u32> = RANGES.into_iter().filter(|ranges| *ranges <= widest).collect();
    if numbers.last() != Some(&widest) {
        numbers.push(widest);
    }
    numbers.into_iter().map(|ranges| Kind { bytes: u64::from(ranges) * UNIT, ranges, in_flight: 1, gaps: true }).collect()
}

/// Measures commands of one kind. The first round is looked at and not counted.
fn sample(backend: &dyn CopyBackend, course: &mut Course<'_>, kind: Kind) -> Result<Sample, Stop> {
    round(backend, course, kind, true)?;
    let begin = Instant::now();
    let mut latencies: Vec<Duration> = Vec::new();
    let mut busy = Duration::ZERO;
    let mut rounds = 0;
    while rounds < ROUNDS.0 || (rounds < ROUNDS.1 && begin.elapsed() < TIME) {
        let (each, whole) = round(backend, course, kind, false)?;
        latencies.extend(each);
        busy += whole;
        rounds += 1;
    }
    latencies.sort_unstable();
    let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
    let bytes = kind.bytes as f64 * f64::from(kind.in_flight) * rounds as f64;
    // A clock that stands still would make nonsense of both.
    let seconds = |time: Duration| time.as_secs_f64().max(1e-9);
    Ok(Sample {
        bytes: kind.bytes,
        ranges: kind.ranges,
        in_flight: kind.in_flight,
        latency_us: seconds(median) * 1e6,
        bytes_per_second: bytes / seconds(busy),
    })
}

/// Sends as many commands as are to be in flight, and waits for all: how long each took, and all together.
fn round(backend: &dyn CopyBackend, course: &mut Course<'_>, kind: Kind, look: bool) -> Result<(Vec<Duration>, Duration), Stop> {
    let commands: Result<Vec<_>, _> =
        (0..kind.in_flight as usize).map(|lane| course.command(lane, kind.ranges, kind.bytes, kind.gaps)).collect();
    let (commands, expected): (Vec<_>, Vec<_>) = commands?.into_iter().unzip();
    let begin = Instant::now();
    let tickets: Vec<_> = commands.into_iter().map(|command| (Instant::now(), backend.submit(command))).collect();
    let mut times = Vec::with_capacity(tickets.len());
    let mut stop = None;
    // All are waited for, whatever becomes of the first.
    for (submitted, ticket) in tickets {
        let outcome = match ticket {
            Ok(ticket) => backend.complete(ticket),
            Err(error) => crate::backend::CopyOutcome::failed(0, FailureKind::Transient, error.to_string()),
        };
        times.push(submitted.elapsed());
        let failure = outcome.failure.map(|kind| match kind {
            FailureKind::TooLarge => Stop::TooLarge,
            kind => Stop::Failed(format!("it failed while it was measured: {}", outcome.detail.as_deref().unwrap_or(kind.reason()))),
        });
        stop = stop.or(failure);
    }
    let whole = begin.elapsed();
    if let Some(stop) = stop {
        return Err(stop);
    }
    if look {
        for expected in &expected {
            if !course.is_right(expected)? {
                return Err(Stop::Failed("it copied wrongly while it was measured".into()));
            }
        }
    }
    Ok((times, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(ranges: u32, longest: u64, bytes: u64) -> CopyCaps {
        CopyCaps { road: Road::Nvme, max_range_bytes: longest, max_command_bytes: bytes, max_ranges: ranges, simulated: false }
    }

    #[test]
    fn shapes_keep_to_the_limits() {
        for caps in [
            caps(3, 64 * 4096, 128 * 4096),
            caps(1, 4096, 4096),
            caps(128, 1 << 20, 64 << 20),
            caps(u32::MAX, 12288, u64::MAX),
            caps(2, 4096, 1 << 20),
        ] {
            for most in [UNIT, 512 << 10, 64 << 20] {
                for kind in lengths(&caps, most).into_iter().chain(ranges(&caps, most)) {
                    assert!(kind.bytes <= caps.max_command_bytes.min(most) && kind.ranges <= caps.max_ranges && kind.ranges > 0, "{kind}");
                    let each = kind.bytes.div_ceil(u64::from(kind.ranges)).next_multiple_of(UNIT);
                    assert!(each <= caps.max_range_bytes, "{kind}");
                }
                let bytes: Vec<u64> = lengths(&caps, most).iter().map(|kind| kind.bytes).collect();
                assert!(bytes.is_sorted_by(|a, b| a < b) && !bytes.is_empty(), "{bytes:?}");
                assert!(ranges(&caps, most).is_sorted_by(|a, b| a.ranges < b.ranges));
            }
        }
        // The longest that is possible is measured, also where it is none of the usual lengths.
        assert_eq!(lengths(&caps(3, 64 * 4096, 128 * 4096), 64 << 20).last().map(|kind| (kind.bytes, kind.ranges)), Some((512 << 10, 2)));
    }
}
