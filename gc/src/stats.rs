//! What cleaning has done so far, for `ferryfs status` and the reports of `ferryfs gc`.

use crate::BLOCK_BYTES;
use crate::histogram::{Histogram, Percentiles};
use crate::relocator::{Progress, Unmovable, VictimEnd, VictimReport};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest list of unreadable extents kept for reports; beyond it they are only counted.
const MAX_UNMOVABLE: usize = 64;

/// Counters since the volume was mounted. Sizes in bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GcStats {
    /// Zones that checkpoints have freed, those that died without help included.
    pub zones_reclaimed: u64,
    /// Payload that was copied, in vain or not.
    pub relocated: u64,
    /// Of this, by the device itself.
    pub offloaded: u64,
    /// Of this, through the host.
    pub by_host: u64,
    /// Of this, in vain: it was overwritten while it was being copied.
    pub lost: u64,
    /// Metadata that was left to the next checkpoint to write elsewhere (estimated from live shares).
    pub metadata_evacuated: u64,
    /// Chunks of work.
    pub chunks: u64,
    /// Of these, in the foreground.
    pub foreground_chunks: u64,
    /// Destination zones that ended early because something failed in them.
    pub zones_ended: u64,
    /// Victims chosen, by policy.
    pub victims: BTreeMap<&'static str, u64>,
    /// Victims by how they ended.
    pub victims_ended: BTreeMap<&'static str, u64>,
    /// Failures by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Live blocks of all victims when they were chosen, and their capacity: the mean live share.
    pub victim_live_blocks: u64,
    /// See `victim_live_blocks`.
    pub victim_capacity_blocks: u64,
    /// Live extents that the media cannot read, the first of them.
    pub unmovable: Vec<Unmovable>,
    /// How many there are.
    pub unmovable_count: u64,
    /// Events of the trace that could not be written.
    pub trace_dropped: u64,
    /// How long users waited for cleaning.
    pub pause_us: Percentiles,
}

impl GcStats {
    /// (user + relocated) / user bytes; one when users wrote nothing.
    pub fn write_amplification(&self, user_written: u64) -> f64 {
        if user_written == 0 { 1.0 } else { (user_written + self.relocated) as f64 / user_written as f64 }
    }

    /// Takes note of a chunk.
    pub(crate) fn add_chunk(&mut self, progress: &Progress, foreground: bool) {
        self.chunks += 1;
        self.foreground_chunks += u64::from(foreground);
        self.zones_ended += u64::from(progress.zone_ended);
        self.relocated += u64::from(progress.offloaded + progress.by_host) * BLOCK_BYTES;
        self.offloaded += u64::from(progress.offloaded) * BLOCK_BYTES;
        self.by_host += u64::from(progress.by_host) * BLOCK_BYTES;
        self.lost += u64::from(progress.lost) * BLOCK_BYTES;
        self.metadata_evacuated += u64::from(progress.evacuated) * BLOCK_BYTES;
        if let Some(kind) = progress.failure {
            *self.failures.entry(kind.reason()).or_default() += 1;
        }
    }

    /// Takes note of a victim that was begun.
    pub(crate) fn add_victim(&mut self, policy: &'static str, live: u32, capacity: u32) {
        *self.victims.entry(policy).or_default() += 1;
        self.victim_live_blocks += u64::from(live);
        self.victim_capacity_blocks += u64::from(capacity);
    }

    /// Takes note of how a victim ended.
    pub(crate) fn add_end(&mut self, report: &VictimReport) {
        *self.victims_ended.entry(report.end.name()).or_default() += 1;
        self.unmovable_count += report.unmovable.len() as u64;
        let room = MAX_UNMOVABLE.saturating_sub(self.unmovable.len());
        self.unmovable.extend(report.unmovable.iter().copied().take(room));
    }

    /// Takes note of a victim that ended with an error.
    pub(crate) fn add_error(&mut self, error: &crate::CleanError) {
        *self.victims_ended.entry(VictimEnd::GaveUp.name()).or_default() += 1;
        let reason = match error {
            crate::CleanError::NotAVictim => "not-a-victim",
            crate::CleanError::NoSpace => "no-space",
            crate::CleanError::Filesystem(_) => "filesystem",
            crate::CleanError::Copy(_) => "copy",
            crate::CleanError::Busy | crate::CleanError::Internal(_) => "internal",
        };
        *self.failures.entry(reason).or_default() += 1;
    }
}

/// How long users waited for cleaning: shared with the writers, who record without a lock.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    histogram: Arc<Histogram>,
}

impl Pauses {
    /// A user has waited.
    pub fn record(&self, waited: std::time::Duration) {
        self.histogram.record(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
    }

    /// What a report says.
    pub fn percentiles(&self) -> Percentiles {
        self.histogram.percentiles()
    }
}
