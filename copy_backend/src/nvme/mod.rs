//! The road of NVMe Copy: real devices move blocks within a namespace, or between namespaces of a subsystem.
//!
//! A command of the engine's is translated by the topology to whole namespaces, cut into NVMe commands ([`carve`]) and sent past
//! the block layer ([`wire`]). Into a zone with a write pointer one command goes after the other (I1); without one all go side by side. What
//! identify data promise is believed when the engine has seen the first block of a pair copied and compared
//! ([`CopyBackend::needs_proof`]): there is no scratch space on a device in use that could be copied to without asking, and a zone
//! that was reserved for copies is the right place for the first one; if it fails, the host carries on in another.
//!
//! Durability: a Copy is a write like any other to the device, and fdatasync of the block device, which is how a volume
//! flushes, sends a Flush to the namespace whether or not the page cache holds anything. So publication waits for the
//! same flush as after writes, and no command carries FUA.
//!
//! After a failure (I9) dword 0 of the completion names the first source range that was not copied. It is believed as far as the
//! zone's write pointer reaches.

mod carve;
mod command;
mod facts;
pub(crate) mod fuzzing;
mod identify;
mod linux;
mod ring;
#[cfg(test)]
mod tests;
mod wire;

use crate::admission::Admission;
use crate::backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use crate::error::Result;
use crate::topology::{DevNumber, Piece, RealDevice, Stand, Topology};
use crate::workers::survive;
use carve::{Part, carve};
use facts::{Ability, Open, ability, say};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wire::{Answer, Port, Tag};
use zns::{Blocks, DeviceId, NvmeStatus, Ticket, ZonedDevice};

/// Commands of one job in flight where their order does not matter.
const SIDE_BY_SIDE: usize = 32;

/// What is known of a pair of devices.
struct Pair {
    from: Arc<Stand>,
    to: Arc<Stand>,
    open: HashMap<DevNumber, Arc<Open>>,
    ability: Ability,
}

/// A command of the engine's under way.
struct Job {
    command: CopyCommand,
    pair: Arc<Pair>,
    waiting: VecDeque<(Arc<Open>, Part)>,
    flying: VecDeque<(Arc<Open>, Part, Tag)>,
    /// Parts in flight at once.
    width: usize,
    /// Until its end is told.
    admission: Option<Admission>,
}

/// The road.
pub struct NvmeRoad {
    devices: Arc<[Arc<dyn ZonedDevice>]>,
    topology: Arc<Topology>,
    port: Arc<dyn Port>,
    open: Mutex<HashMap<DevNumber, std::result::Result<Arc<Open>, NoRoad>>>,
    pairs: Mutex<HashMap<(DeviceId, DeviceId), Arc<Pair>>>,
    jobs: Mutex<HashMap<u64, std::result::Result<Job, CopyOutcome>>>,
    next: AtomicU64,
}

impl NvmeRoad {
    /// A road over `devices`, which [`DeviceId`] counts from 0.
    pub fn new(devices: Arc<[Arc<dyn ZonedDevice>]>, topology: Arc<Topology>) -> Self {
        Self::with_port(devices, topology, Arc::new(linux::LinuxPort))
    }

    fn with_port(devices: Arc<[Arc<dyn ZonedDevice>]>, topology: Arc<Topology>, port: Arc<dyn Port>) -> Self {
        let (open, pairs, jobs) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { devices, topology, port, open, pairs, jobs, next: AtomicU64::new(0) }
    }

    fn open(&self, device: &RealDevice) -> std::result::Result<Arc<Open>, NoRoad> {
        let mut open = self.open.lock();
        let known = open.entry(device.number).or_insert_with(|| {
            let wire = self.port.open(device)?;
            Ok(Arc::new(Open::ask(&device.name, wire)?))
        });
        known.clone()
    }

    fn open_all(&self, stand: &Stand) -> std::result::Result<Vec<(DevNumber, Arc<Open>)>, NoRoad> {
        let devices = stand.devices().map_err(|reason| NoRoad { reason, foreign: stand.is_elsewhere() })?;
        devices.iter().map(|device| Ok((device.number, self.open(device)?))).collect()
    }

    /// What is known of a pair, found out anew if a table has changed.
    fn pair(&self, from: DeviceId, to: DeviceId) -> std::result::Result<Arc<Pair>, NoRoad> {
        let look = |device| {
            let stand = self.topology.stand(device);
            if self.topology.unchanged(&stand) { stand } else { self.topology.look_again(device) }
        };
        let (from_stand, to_stand) = (look(from), look(to));
        let mut pairs = self.pairs.lock();
        if let Some(pair) = pairs.get(&(from, to))
            && Arc::ptr_eq(&pair.from, &from_stand)
            && Arc::ptr_eq(&pair.to, &to_stand)
        {
            return Ok(pair.clone());
        }
        let (sources, targets) = (self.open_all(&from_stand)?, self.open_all(&to_stand)?);
        let bare = |list: &[(DevNumber, Arc<Open>)]| list.iter().map(|(_, open)| open.clone()).collect::<Vec<_>>();
        let ability = ability(&bare(&sources), &bare(&targets))?;
        let open = sources.into_iter().chain(targets).collect();
        let pair = Arc::new(Pair { from: from_stand, to: to_stand, open, ability });
        pairs.insert((from, to), pair.clone());
        Ok(pair)
    }

    fn device(&self, id: DeviceId) -> std::result::Result<&Arc<dyn ZonedDevice>, String> {
        self.devices.get(usize::from(id.0)).ok_or_else(|| format!("there is no device {id}"))
    }

    /// Translates and cuts a command, and has the target admit it.
    fn prepare(&self, command: CopyCommand) -> std::result::Result<Job, CopyOutcome> {
        let unsupported = |reason: String| CopyOutcome::failed(0, FailureKind::Unsupported, reason);
        let first = command.sources.first().ok_or_else(|| unsupported("there is nothing to copy".into()))?;
        if command.sources.iter().any(|source| source.device != first.device) {
            return Err(unsupported("the sources are on several devices".into()));
        }
        let pair = self.pair(first.device, command.target.device).map_err(|why| unsupported(why.reason))?;
        let source_block = u64::from(self.device(first.device).map_err(unsupported)?.geometry().block_size);
        let to = self.device(command.target.device).map_err(unsupported)?;
        let target_block = u64::from(to.geometry().block_size);
        let mut sources: Vec<Piece> = Vec::new();
        let mut bytes = 0;
        for source in &command.sources {
            let start = source.lba.0 * source_block;
            let len = source.blocks.0 * source_block;
            sources.extend(pair.from.pieces(start..start + len).map_err(unsupported)?);
            bytes += len;
        }
        let start = command.target.lba.0 * target_block;
        let target = pair.to.pieces(start..start + bytes).map_err(unsupported)?;
        let nsid = |device| pair.open.get(&device).map(|open| open.nsid);
        let parts = carve(sources, target, &pair.ability.limits, &nsid).map_err(unsupported)?;
        let opened = |part: Part| pair.open.get(&part.device).map(|open| (open.clone(), part)).ok_or_else(|| "a device is not open".into());
        let waiting = parts.into_iter().map(opened).collect::<std::result::Result<_, String>>().map_err(unsupported)?;
        let blocks = Blocks(bytes / target_block);
        let admission = Admission::ask(to, &command, blocks)?;
        let sequential = to.has_write_pointer(to.geometry().zone_of(command.target.lba)) && !to.geometry().software_zones;
        let width = if sequential { 1 } else { SIDE_BY_SIDE };
        Ok(Job { command, pair, waiting, flying: VecDeque::new(), width, admission: Some(admission) })
    }

    fn conclude(&self, mut job: Job) -> CopyOutcome {
        let target = job.command.target;
        // Bytes copied, counted from the first, and what went wrong first.
        let mut done = 0;
        let mut failure: Option<(FailureKind, String)> = None;
        while let Some((open, part, tag)) = job.flying.pop_front() {
            let answer = open.wire.finish(tag);
            if failure.is_some() {
                continue;
            }
            let copied = match answer {
                Answer::Device { status: 0, .. } => part.blocks(),
                answer => {
                    failure = Some((kind_of(answer), format!("{} answered Copy with: {}", open.name, say(answer))));
                    copied_before_failure(answer, &part)
                }
            };
            done += copied * job.pair.ability.limits.block_size;
            if failure.is_none() {
                job.fly();
            }
        }
        let unchanged = self.topology.unchanged(&job.pair.from) && self.topology.unchanged(&job.pair.to);
        if !unchanged {
            let layers: Vec<&str> = job.pair.from.layers().chain(job.pair.to.layers()).collect();
            let reason = format!("the table of {} changed while a copy was running below it", layers.join(" or "));
            tracing::warn!("{reason}");
            (done, failure) = (0, Some((FailureKind::Transient, reason)));
        }
        if failure.is_some() {
            done = done.min(self.bytes_behind(target).unwrap_or(0));
        }
        if let (Ok(to), Some(admission)) = (self.device(target.device), job.admission.take()) {
            admission.end(Blocks(done / u64::from(to.geometry().block_size)));
        }
        match failure {
            None => CopyOutcome::offloaded(job.command.sources.len()),
            Some((kind, reason)) => {
                tracing::debug!(reason, "copy failed");
                CopyOutcome::failed(self.whole_sources(&job.command, done), kind, reason)
            }
        }
    }

    /// Bytes from a target to the write pointer of its zone, as the device says: nothing that lies beyond was copied.
    fn bytes_behind(&self, target: crate::backend::Target) -> Option<u64> {
        let to = self.device(target.device).ok()?;
        let zone = to.geometry().zone_of(target.lba);
        let info = to.report(zone.0..zone.0 + 1).ok()?.pop()?;
        let written = (info.start + info.written).0.saturating_sub(target.lba.0);
        Some(written * u64::from(to.geometry().block_size))
    }

    fn whole_sources(&self, command: &CopyCommand, bytes: u64) -> usize {
        let mut left = bytes;
        let fits = |source: &&crate::backend::SourceRange| {
            let block = self.device(source.device).map_or(u64::MAX, |device| u64::from(device.geometry().block_size));
            let len = source.blocks.0.saturating_mul(block);
            let fits = len <= left;
            left = left.saturating_sub(len);
            fits
        };
        command.sources.iter().take_while(fits).count()
    }
}

/// After a panic what flies is waited for: nothing is written to the zone any more.
impl Drop for Job {
    fn drop(&mut self) {
        for (open, _, tag) in self.flying.drain(..) {
            survive(|| open.wire.finish(tag));
        }
    }
}

impl Job {
    /// Starts parts until as many fly as may.
    fn fly(&mut self) {
        while self.flying.len() < self.width
            && let Some((open, part)) = self.waiting.pop_front()
        {
            let Ability { format, protection, .. } = self.pair.ability;
            let tag = open.wire.start(command::copy(open.nsid, part.target, &part.ranges, format, protection));
            self.flying.push_back((open, part, tag));
        }
    }
}

/// Blocks of the ranges before the one that a failure names. A number beyond the list is nonsense and says nothing.
fn copied_before_failure(answer: Answer, part: &Part) -> u64 {
    match answer {
        Answer::Device { dw0, .. } if (dw0 as usize) < part.ranges.len() => {
            part.ranges[..dw0 as usize].iter().map(|range| range.blocks).sum()
        }
        _ => 0,
    }
}

fn kind_of(answer: Answer) -> FailureKind {
    match answer {
        Answer::Device { status, .. } => FailureKind::of_nvme(NvmeStatus(status & 0x7ff)),
        Answer::Kernel { errno } => match errno {
            libc::EACCES | libc::EPERM | libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS => FailureKind::Unsupported,
            libc::EINVAL => FailureKind::Refused,
            _ => FailureKind::Transient,
        },
    }
}

impl CopyBackend for NvmeRoad {
    fn road(&self) -> Road {
        Road::Nvme
    }

    fn needs_proof(&self) -> bool {
        true
    }

    fn admits_in_order(&self) -> bool {
        true
    }

    fn caps(&self, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        let limits = self.pair(from, to)?.ability.limits;
        Ok(CopyCaps {
            road: Road::Nvme,
            max_range_bytes: limits.range_blocks * limits.block_size,
            max_command_bytes: limits.command_blocks * limits.block_size,
            max_ranges: limits.ranges,
            simulated: false,
        })
    }

    fn submit(&self, command: CopyCommand) -> Result<Ticket> {
        let job = self.prepare(command).map(|mut job| {
            job.fly();
            job
        });
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        self.jobs.lock().insert(ticket, job);
        Ok(Ticket(ticket))
    }

    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        let job = self.jobs.lock().remove(&ticket.0);
        match job {
            Some(Ok(job)) => self.conclude(job),
            Some(Err(outcome)) => outcome,
            None => CopyOutcome::failed(0, FailureKind::Transient, "the copy was lost"),
        }
    }
}
