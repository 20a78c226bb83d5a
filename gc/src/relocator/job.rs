//! One victim: how far its cleaning has come, what of it waits for its turn, and how it ended.

use super::{Progress, VictimEnd, VictimReport};
use crate::error::{CleanError, Result};
use crate::segment::{SegmentInfo, Stream};
use crate::space::LiveExtent;
use std::collections::VecDeque;

/// A victim being cleaned.
pub(super) struct Job {
    pub info: SegmentInfo,
    /// Where to go on looking for live blocks; none: the end was reached.
    pub cursor: Option<u32>,
    /// Extents that wait for their turn.
    pub pending: VecDeque<LiveExtent>,
    pub report: VictimReport,
    pub failures_in_a_row: u32,
    /// The first so many of those that wait go by the host: a device failed on them. Not those behind them.
    pub for_host: usize,
    /// A chunk of it flies.
    pub flies: bool,
    /// It ended before nothing was left of it.
    pub end: Option<Result<VictimEnd>>,
}

impl Job {
    pub fn new(info: SegmentInfo) -> Self {
        let report = VictimReport {
            id: info.id,
            stream: info.stream,
            end: VictimEnd::Emptied,
            live: info.live,
            capacity: info.capacity,
            moved: 0,
            lost: 0,
            offloaded: 0,
            by_host: 0,
            evacuated: 0,
            unmovable: Vec::new(),
            last: Progress::default(),
        };
        Self { info, cursor: Some(0), pending: VecDeque::new(), report, failures_in_a_row: 0, for_host: 0, flies: false, end: None }
    }

    pub fn is_exhausted(&self) -> bool {
        self.cursor.is_none() && self.pending.is_empty()
    }

    /// Has it come to its end? Only to be asked when nothing of it flies or waits to be published.
    pub fn has_ended(&self) -> bool {
        self.end.is_some() || self.is_exhausted()
    }

    /// Is there more of it, of data, to be moved?
    pub fn may_go_on(&self) -> bool {
        self.info.stream != Stream::Metadata && !self.has_ended()
    }

    /// May a chunk of it take off? One at a time: what a copy leaves over comes before what lies behind it.
    pub fn is_ready(&self) -> bool {
        self.may_go_on() && !self.flies
    }

    /// Was nothing of it moved yet?
    pub fn is_untouched(&self) -> bool {
        self.report.moved + self.report.lost + self.report.evacuated == 0
    }

    /// It ends so, unless it has ended before.
    pub fn end_as(&mut self, end: Result<VictimEnd>) {
        self.end.get_or_insert(end);
    }

    pub fn live_left(&self) -> u32 {
        let gone = self.report.moved + self.report.lost + self.report.evacuated;
        self.info.live.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX))
    }

    /// Moves the cursor; an answer that does not advance would be an endless loop.
    pub fn advance_to(&mut self, from: u32, next: Option<u32>) -> Result<()> {
        if next.is_some_and(|next| next <= from) {
            return Err(CleanError::Internal(format!("the list of live blocks does not advance beyond block {from}")));
        }
        self.cursor = next.filter(|next| *next < self.info.capacity);
        Ok(())
    }

    /// Counts a finished chunk.
    pub fn count(&mut self, progress: &Progress) {
        self.report.moved += u64::from(progress.moved);
        self.report.lost += u64::from(progress.lost);
        self.report.offloaded += u64::from(progress.offloaded);
        self.report.by_host += u64::from(progress.by_host);
        self.report.evacuated += u64::from(progress.evacuated);
    }

    /// Takes at most `room` blocks from the front of what is pending. Extents with checksums and extents without do not share a request,
    /// because it could not be verified by them.
    pub fn take_chunk(&mut self, room: u32, max_extents: usize, per_block: u64) -> Chunk {
        let mut chunk = Chunk { extents: Vec::new(), blocks: 0 };
        while chunk.blocks < room && chunk.extents.len() < max_extents {
            let Some(mut next) = self.pending.pop_front() else { break };
            if chunk.extents.first().is_some_and(|first: &LiveExtent| first.checksums.is_empty() != next.checksums.is_empty()) {
                self.pending.push_front(next);
                break;
            }
            let left = room - chunk.blocks;
            if next.blocks > left {
                let rest = next.split_off(left, per_block);
                self.pending.push_front(rest);
            }
            chunk.blocks += next.blocks;
            chunk.extents.push(next);
        }
        chunk
    }
}

/// What a chunk is made of.
pub(super) struct Chunk {
    pub extents: Vec<LiveExtent>,
    pub blocks: u32,
}

/// Checksums that are not one per block cannot verify anything.
pub(super) fn trusted(mut extent: LiveExtent) -> LiveExtent {
    if extent.checksums.len() != extent.blocks as usize {
        extent.checksums.clear();
    }
    extent
}
