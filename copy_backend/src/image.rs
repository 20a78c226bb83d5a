//! The road of a device whose Copy our own process can call: the image and the simulator.

use crate::backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use crate::error::Result;
use crate::workers::Workers;
use std::sync::Arc;
use zns::{CopySource, DeviceId, Ticket, ZonedDevice};

/// Commands that run side by side.
const THREADS: usize = 4;

/// Copies within one device by its own Copy command.
pub struct ImageRoad {
    devices: Arc<[Arc<dyn ZonedDevice>]>,
    workers: Workers,
}

impl ImageRoad {
    /// A road over `devices`, which [`DeviceId`] counts from 0.
    pub fn new(devices: Arc<[Arc<dyn ZonedDevice>]>) -> Self {
        Self { devices, workers: Workers::new("copy-image", THREADS) }
    }
}

impl CopyBackend for ImageRoad {
    fn road(&self) -> Road {
        Road::Image
    }

    fn caps(&self, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        if from != to {
            return Err(NoRoad::foreign("a Copy command stays within one device"));
        }
        let device = self.devices.get(usize::from(from.0)).ok_or_else(|| format!("there is no device {from}"))?;
        let copy = device.native_copy().ok_or_else(|| NoRoad::foreign(format!("{} has no Copy command of its own", device.label())))?;
        let limits = copy.limits();
        if limits.mssrl == 0 || limits.mcl == 0 || limits.ranges == 0 {
            return Err(format!("{} reports Copy limits of zero: it takes no Copy", device.label()).into());
        }
        let block = u64::from(device.geometry().block_size);
        Ok(CopyCaps {
            road: Road::Image,
            max_range_bytes: u64::from(limits.mssrl.min(limits.mcl)) * block,
            max_command_bytes: u64::from(limits.mcl) * block,
            max_ranges: limits.ranges,
            simulated: copy.simulated(),
        })
    }

    fn submit(&self, command: CopyCommand) -> Result<Ticket> {
        let device = self.devices.get(usize::from(command.target.device.0)).cloned();
        Ok(self.workers.submit(move || carry_out(device.as_deref(), &command)))
    }

    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        self.workers.complete(ticket)
    }
}

fn carry_out(device: Option<&dyn ZonedDevice>, command: &CopyCommand) -> CopyOutcome {
    let within = command.sources.iter().all(|source| source.device == command.target.device);
    let Some(copy) = device.and_then(ZonedDevice::native_copy).filter(|_| within) else {
        return CopyOutcome::failed(0, FailureKind::Unsupported, "a Copy command stays within one device that has it");
    };
    let sources: Vec<CopySource> = command.sources.iter().map(|source| CopySource { lba: source.lba, blocks: source.blocks }).collect();
    match copy.copy(&sources, command.target.lba) {
        Ok(()) => CopyOutcome::offloaded(sources.len()),
        Err(failure) => {
            tracing::debug!(status = %failure.status, first_failed = failure.first_failed, "copy command failed");
            // A drive may report a range beyond the list: the failure itself is all that is believed then.
            let done = (failure.first_failed as usize).min(sources.len().saturating_sub(1));
            CopyOutcome::failed(done, FailureKind::of_nvme(failure.status), format!("the device refused a Copy: {}", failure.status))
        }
    }
}
