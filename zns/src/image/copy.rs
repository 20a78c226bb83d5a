//! The Copy command of an image: limits, order of checks, partial failure and status codes of a drive.
//!
//! NVM Command Set 1.1 section 3.3.2 and ZNS Command Set 1.1 section 3.3.1. Ranges are carried out one after the
//! other: a failure leaves the earlier ones copied, the write pointer behind them and the zone open, and names the
//! range that failed. The payload moves inside this process or the kernel: it never enters the caller's memory.

use super::ImageDevice;
use super::model::{Work, wait_until};
use crate::error::DeviceError;
use crate::machine::{Writer, refusal_of_writes};
use crate::native_copy::{CopyFailure, CopyLimits, CopySource, NativeCopy, NvmeStatus};
use crate::positioned::Stopped;
use crate::units::{Blocks, Lba, ZoneId};
use std::sync::atomic::Ordering;

/// Refusals that would come again for the same command, as drives mark them.
fn do_not_retry(status: NvmeStatus) -> bool {
    matches!(status, NvmeStatus::SIZE_LIMIT | NvmeStatus::LBA_OUT_OF_RANGE | NvmeStatus::INVALID_FIELD | NvmeStatus::TOO_MANY_ACTIVE)
}

fn status_of(error: &DeviceError) -> NvmeStatus {
    match error {
        DeviceError::Zone { status, .. } => *status,
        DeviceError::NotAtWritePointer { .. } => NvmeStatus::ZONE_INVALID_WRITE,
        DeviceError::BadRange { .. } => NvmeStatus::LBA_OUT_OF_RANGE,
        _ => NvmeStatus::WRITE_FAULT,
    }
}

/// Checks that concern the command as a whole.
fn check_command(limits: CopyLimits, sources: &[CopySource]) -> Result<(), NvmeStatus> {
    if sources.is_empty() {
        return Err(NvmeStatus::INVALID_FIELD);
    }
    let none = limits.mssrl == 0 || limits.mcl == 0;
    if none || sources.len() > limits.ranges as usize {
        return Err(NvmeStatus::SIZE_LIMIT);
    }
    let total = sources.iter().fold(0_u64, |sum, range| sum.saturating_add(range.blocks.0));
    if total > u64::from(limits.mcl) { Err(NvmeStatus::SIZE_LIMIT) } else { Ok(()) }
}

impl ImageDevice {
    /// Checks one source range; gives its zone.
    fn check_source(&self, range: CopySource) -> Result<ZoneId, NvmeStatus> {
        if range.blocks.0 > u64::from(self.layout.copy.mssrl) {
            return Err(NvmeStatus::SIZE_LIMIT);
        }
        if range.blocks.0 == 0 {
            return Err(NvmeStatus::INVALID_FIELD);
        }
        let device_end = u64::from(self.layout.zones) * self.layout.zone_size;
        let inside = range.lba.0.checked_add(range.blocks.0).is_some_and(|end| end <= device_end);
        if !inside {
            return Err(NvmeStatus::LBA_OUT_OF_RANGE);
        }
        let crosses = self.geometry.zone_of(range.lba) != self.geometry.zone_of(Lba(range.lba.0 + range.blocks.0 - 1));
        if crosses {
            return Err(NvmeStatus::ZONE_BOUNDARY);
        }
        self.machine.check_read(range.lba, range.blocks.0).map_err(|error| status_of(&error))
    }

    /// Copies one range to the write pointer of the zone that `writer` holds.
    fn copy_range(&self, writer: &Writer<'_>, range: CopySource, target: Lba) -> Result<(), NvmeStatus> {
        let source_zone = self.check_source(range)?;
        let started = self.machine.begin_write(writer, target, range.blocks.0);
        started.map_err(|error| status_of(&error))?;
        // What lies above the source's write pointer reads as zeros.
        let block = u64::from(self.layout.block_size);
        let readable = self.readable(source_zone, range.lba, range.blocks.0) * block;
        let (from, to) = (self.layout.offset_of(range.lba.0), self.layout.offset_of(target.0));
        let mut moved = self.backing.copy(from, to, readable);
        if moved.is_ok() && readable < range.blocks.0 * block {
            moved = self.backing.zero(to + readable, range.blocks.0 * block - readable);
            moved = moved.map_err(|stop| Stopped { done: readable + stop.done, ..stop });
        }
        let done = moved.map_or_else(|stop| stop.done / block, |()| range.blocks.0);
        self.machine.advance(writer, done);
        self.table.touch(writer.zone());
        self.copied.fetch_add(done * block, Ordering::Relaxed);
        moved.map_err(|stop| {
            tracing::warn!(errno = stop.errno.raw_os_error(), "copy within the image failed");
            NvmeStatus::WRITE_FAULT
        })
    }
}

impl NativeCopy for ImageDevice {
    fn limits(&self) -> CopyLimits {
        self.layout.copy
    }

    fn simulated(&self) -> bool {
        true
    }

    fn copy(&self, sources: &[CopySource], target: Lba) -> Result<(), CopyFailure> {
        self.carry_out(sources, target)?;
        let block = u64::from(self.layout.block_size);
        let spans = || sources.iter().map(|range| self.span(range.lba, range.blocks.0 * block)).collect();
        let work = self.timing.get().map(|_| Work::Copy { from: spans(), to: target.0 * block });
        wait_until(self.due(work));
        Ok(())
    }
}

impl ImageDevice {
    fn carry_out(&self, sources: &[CopySource], target: Lba) -> Result<(), CopyFailure> {
        let fail = |status, first_failed| Err(CopyFailure { status, first_failed, do_not_retry: do_not_retry(status) });
        if let Err(status) = check_command(self.layout.copy, sources) {
            return fail(status, 0);
        }
        let Some(zone) = self.machine.zone_at(target) else { return fail(NvmeStatus::LBA_OUT_OF_RANGE, 0) };
        if self.read_only {
            return fail(NvmeStatus::WRITE_FAULT, 0);
        }
        let writer = self.machine.writer(zone);
        // A drive opens the zone before it looks at the first range: a command refused for its ranges may leave it open.
        if let Some(status) = refusal_of_writes(self.machine.snapshot(zone).state) {
            return fail(status, 0);
        }
        if let Err(error) = self.machine.open_implicitly(&writer) {
            return fail(status_of(&error), 0);
        }
        self.table.touch(zone);
        let mut at = target;
        for (index, &range) in sources.iter().enumerate() {
            if let Err(status) = self.copy_range(&writer, range, at) {
                return fail(status, index as u32);
            }
            at = at + Blocks(range.blocks.0);
        }
        Ok(())
    }
}
