//! Carrying out a copy of byte ranges: pieces side by side, each by the road that is open, again after a failure where that
//! can help, and an exact account of what was done.
//!
//! A destination without write pointers may be written again: what failed is tried by the next road in the same place. A
//! sequential zone goes on only where its write pointer, read back, stands right behind what was done (invariant I9).

use crate::backend::{FailureKind, Road};
use crate::copier::Pace;
use crate::engine::{CopyEngine, CopyRequest, RoadPreference};
use crate::error::Result;
use crate::governor::Governor;
use crate::ranges::{BytePosition, ByteRange, Piece, pieces};
use crate::request::Carried;
use crate::stats::CopyCounters;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zns::{DeviceId, IoClass, ZonedDevice};

/// Pieces under way at once.
const WINDOW: usize = 8;
/// Failures of a piece in a row that are tried again: enough for the engine to give up each road.
const ATTEMPTS: u32 = 12;
/// Failures of the host road in a row: nothing comes after it.
const HOST_ATTEMPTS: u32 = 2;

/// A copy of byte ranges to one place, one behind the other.
#[derive(Clone, Debug)]
pub struct RangeCopy {
    /// What to copy.
    pub sources: Vec<ByteRange>,
    /// Where to.
    pub target: BytePosition,
    /// How fast at most; copies that share one share its rate.
    pub pace: Option<Arc<Pace>>,
}

/// How a copy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything is copied, and durable.
    Done,
    /// It was asked to stop and did so between two commands.
    Stopped,
    /// It failed, for this reason.
    Failed(String),
}

/// What became of one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeReport {
    /// The range.
    pub range: ByteRange,
    /// Bytes of it that are known to be copied.
    pub bytes: u64,
    /// Which: offsets into the range with lengths, ascending.
    pub done: Vec<(u64, u64)>,
}

/// What became of a copy.
#[derive(Clone, Debug)]
pub struct CopyReport {
    /// How it ended.
    pub ending: Ending,
    /// Bytes known to be copied.
    pub bytes: u64,
    /// Of these, all from the first byte on without a gap.
    pub bytes_in_order: u64,
    /// Range by range.
    pub ranges: Vec<RangeReport>,
    /// By road and reason.
    pub counters: CopyCounters,
    /// A part was carried out by our own process in the name of a device.
    pub simulated: bool,
    /// How long it took, the flush included.
    pub elapsed: Duration,
}

impl CopyReport {
    /// Was everything copied and made durable?
    pub fn is_done(&self) -> bool {
        self.ending == Ending::Done
    }

    /// The roads that carried bytes, as one word: `nvme`, `host`, `nvme+host`; `none`: nothing was copied.
    pub fn route(&self) -> String {
        let names = self.counters.roads.iter().filter(|(_, counters)| counters.bytes > 0).map(|(road, _)| road.name());
        let names: Vec<&str> = names.collect();
        if names.is_empty() { "none".to_owned() } else { names.join("+") }
    }
}

/// A piece and how far it is.
struct Work {
    /// Where it lies in the copy.
    offset: u64,
    piece: Piece,
    failures: u32,
    host_failures: u32,
    /// Bytes at its beginning that a device failed on: they go by the host, what comes behind does not.
    for_host: u64,
}

struct Job<'a> {
    engine: &'a CopyEngine,
    governor: &'a dyn Governor,
    to: &'a dyn ZonedDevice,
    window: usize,
    waiting: VecDeque<Work>,
    /// Offsets into the copy and lengths of what is done.
    done: Vec<(u64, u64)>,
    ranges: Vec<Vec<(u64, u64)>>,
    counters: CopyCounters,
    simulated: bool,
    ending: Option<Ending>,
}

/// Checks a copy without touching anything.
///
/// # Errors
/// As the copy itself.
pub(crate) fn check(engine: &CopyEngine, copy: &RangeCopy) -> Result<Vec<Piece>> {
    pieces(&engine.devices, &copy.sources, copy.target)
}

/// Carries out a copy. `checked`: the pieces that [`check`] gave, if no copy has ended since that it may depend on.
///
/// # Errors
/// A copy that makes no sense, a cache that cannot be written back: nothing has been touched. Everything else is in the report.
pub(crate) fn run(engine: &CopyEngine, copy: &RangeCopy, checked: Option<Vec<Piece>>, governor: &dyn Governor) -> Result<CopyReport> {
    let begin = Instant::now();
    let pieces = checked.map_or_else(|| check(engine, copy), Ok)?;
    let to = &**engine.device(copy.target.device)?;
    for device in involved(copy) {
        engine.device(device)?.settle()?;
    }
    let mut offset = 0;
    let waiting = pieces.into_iter().map(|piece| {
        let work = Work { offset, piece, failures: 0, host_failures: 0, for_host: 0 };
        offset += work.piece.bytes;
        work
    });
    let mut job = Job {
        engine,
        governor,
        to,
        window: WINDOW.min(to.geometry().active_limit().max(1) as usize),
        waiting: waiting.collect(),
        done: Vec::new(),
        ranges: copy.sources.iter().map(|_| Vec::new()).collect(),
        counters: CopyCounters::default(),
        simulated: false,
        ending: None,
    };
    while job.ending.is_none() && !job.waiting.is_empty() {
        job.round();
    }
    Ok(job.report(copy, begin))
}

fn involved(copy: &RangeCopy) -> Vec<DeviceId> {
    let mut devices: Vec<DeviceId> = copy.sources.iter().map(|range| range.device).chain([copy.target.device]).collect();
    devices.sort_unstable();
    devices.dedup();
    devices
}

impl Job<'_> {
    /// Carries out the next few pieces side by side.
    fn round(&mut self) {
        let mut batch = Vec::new();
        let mut requests = Vec::new();
        while batch.len() < self.window
            && let Some(work) = self.waiting.pop_front()
        {
            let from = work.piece.parts[0].source.device;
            let to = work.piece.target.device;
            match self.engine.road_for(from, to) {
                Ok(road) => {
                    let pays = self.engine.offload_pays(from, to, work.piece.bytes);
                    let road = if pays && work.for_host == 0 { road } else { RoadPreference::Host };
                    requests.push(CopyRequest {
                        sources: work.piece.sources(if work.for_host == 0 { u64::MAX } else { work.for_host }),
                        target: work.piece.target,
                        class: IoClass::Copy,
                        checksums: Vec::new(),
                        road,
                    });
                    batch.push((work, road));
                }
                Err(error) => {
                    self.end(Ending::Failed(error.to_string()));
                    break;
                }
            }
        }
        let carried = self.engine.copy_governed(requests, self.governor);
        let mut again = Vec::new();
        for ((work, road), carried) in batch.into_iter().zip(carried) {
            again.extend(self.conclude(work, road, carried));
        }
        // In their old order, before what has not begun.
        again.into_iter().rev().for_each(|work| self.waiting.push_front(work));
    }

    fn end(&mut self, ending: Ending) {
        // The first failure explains the others.
        if self.ending.is_none() || matches!(self.ending, Some(Ending::Stopped)) {
            self.ending = Some(ending);
        }
    }

    /// Books what became of a piece; gives back what is left of it, if that is worth another attempt.
    fn conclude(&mut self, mut work: Work, road: RoadPreference, carried: Carried) -> Option<Work> {
        let Carried { result, bytes, counters, stopped, for_host } = carried;
        self.counters.add(&counters);
        let bytes = bytes.min(work.piece.bytes);
        self.book(&work, bytes);
        if bytes > 0 {
            self.simulated |= counters.roads.get(&Road::Image).is_some_and(|counters| counters.bytes > 0);
            work.piece = work.piece.rest(bytes, u64::from(self.to.geometry().block_size));
            work.offset += bytes;
            (work.failures, work.host_failures) = (0, 0);
        }
        let all_that_was_asked = work.for_host > 0 && bytes >= work.for_host;
        work.for_host = if road == RoadPreference::Host { work.for_host.saturating_sub(bytes) } else { for_host };
        if work.piece.bytes == 0 {
            return None;
        }
        if all_that_was_asked && !stopped {
            return Some(work);
        }
        if stopped {
            self.end(Ending::Stopped);
            return None;
        }
        let kind = match result {
            Ok(result) => result.failure.unwrap_or(FailureKind::Transient),
            Err(error) => {
                self.end(Ending::Failed(error.to_string()));
                return None;
            }
        };
        if self.worth_another(&mut work, road, kind) { Some(work) } else { None }
    }

    fn book(&mut self, work: &Work, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.done.push((work.offset, bytes));
        for (range, into, bytes) in work.piece.first(bytes) {
            self.ranges[range].push((into, bytes));
        }
    }

    fn worth_another(&mut self, work: &mut Work, road: RoadPreference, kind: FailureKind) -> bool {
        work.failures += 1;
        work.host_failures += u32::from(road == RoadPreference::Host);
        let final_kind = kind == FailureKind::SourceMedia;
        if final_kind || work.failures > ATTEMPTS || work.host_failures >= HOST_ATTEMPTS {
            self.end(Ending::Failed(self.sentence(work, kind)));
            return false;
        }
        if kind == FailureKind::DestinationZone {
            // Perhaps too many zones were open at once.
            self.window = 1;
        }
        if let Err(reason) = self.stands_where_it_should(work) {
            self.end(Ending::Failed(format!("{}; {reason}", self.sentence(work, kind))));
            return false;
        }
        true
    }

    /// A sequential zone goes on only right behind what was done. Reading the write pointer back also tells the kernel where it is.
    fn stands_where_it_should(&self, work: &Work) -> std::result::Result<(), String> {
        let geometry = self.to.geometry();
        let zone = geometry.zone_of(work.piece.target.lba);
        if !self.to.has_write_pointer(zone) {
            return Ok(());
        }
        let block = u64::from(geometry.block_size);
        match self.to.report(zone.0..zone.0 + 1).map(|zones| zones.first().map(|zone| zone.start + zone.written)) {
            Ok(Some(at)) if at == work.piece.target.lba => Ok(()),
            Ok(Some(at)) => Err(format!(
                "zone {zone} cannot go on: its write pointer stands at byte {}, and what is certain ends at {}: reset it and copy again",
                at.0 * block,
                work.piece.target.lba.0 * block
            )),
            Ok(None) => Err(format!("zone {zone} is not reported any more")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn sentence(&self, work: &Work, kind: FailureKind) -> String {
        let part = &work.piece.parts[0];
        let from = self.engine.device(part.source.device);
        let (from, block) = from.map_or((String::new(), 1), |device| (device.label(), u64::from(device.geometry().block_size)));
        let to_byte = work.piece.target.lba.0 * u64::from(self.to.geometry().block_size);
        let place = format!("(at byte {} of {from}, byte {to_byte} of {})", part.source.lba.0 * block, self.to.label());
        let what = match kind {
            FailureKind::SourceMedia => "the source cannot be read",
            FailureKind::DestinationMedia => "the destination cannot be written",
            FailureKind::DestinationZone => "the zone of the destination takes no more",
            FailureKind::WrongData => "the destination holds something else than what was copied",
            FailureKind::Unsupported | FailureKind::TooLarge | FailureKind::Refused | FailureKind::NotAligned => "no road carries this",
            FailureKind::Transient => "the copy failed again and again",
        };
        format!("{what} {place}")
    }

    fn report(mut self, copy: &RangeCopy, begin: Instant) -> CopyReport {
        let mut ending = self.ending.take().unwrap_or(Ending::Done);
        let flushed = self.to.flush().and_then(|()| self.to.settle());
        if let Err(error) = flushed {
            let because = if let Ending::Failed(reason) = &ending { format!("{reason}; ") } else { String::new() };
            ending = Ending::Failed(format!("{because}what was copied may not be durable: {error}"));
        }
        joined(&mut self.done);
        let bytes_in_order = self.done.first().filter(|(offset, _)| *offset == 0).map_or(0, |(_, bytes)| *bytes);
        let ranges = copy.sources.iter().zip(self.ranges).map(|(&range, mut done)| {
            joined(&mut done);
            RangeReport { range, bytes: done.iter().map(|(_, bytes)| bytes).sum(), done }
        });
        CopyReport {
            ending,
            bytes: self.done.iter().map(|(_, bytes)| bytes).sum(),
            bytes_in_order,
            ranges: ranges.collect(),
            counters: self.counters,
            simulated: self.simulated,
            elapsed: begin.elapsed(),
        }
    }
}

/// Sorts stretches and joins neighbours.
fn joined(stretches: &mut Vec<(u64, u64)>) {
    stretches.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(stretches.len());
    for &(offset, bytes) in stretches.iter() {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 == offset => last.1 += bytes,
            _ => joined.push((offset, bytes)),
        }
    }
    *stretches = joined;
}
