//! Zoned block devices that the kernel drives: ZNS namespaces, SMR disks, null_blk.
//!
//! Reports and zone management go through the `zoned` crate; data goes by io_uring with O_DIRECT over a descriptor of our
//! own, which also holds the lock (O_EXCL against mounts, flock against others of our kind). The device enforces its
//! zones: an operation that it fails is explained afterwards from a fresh report, which also brings the kernel's cached
//! write pointer back in step with the device.
//!
//! Conventional zones of such a device (SMR disks have some) have no write pointer: their zones are kept in software, full
//! until [`ZonedDevice::adopt`] or a reset says otherwise.

mod report;
#[cfg(test)]
mod tests;

use crate::backing::Backing;
use crate::buffer::{AlignedBuf, BufSlice};
use crate::device::{Completions, Io, IoClass, Ticket, ZonedDevice};
use crate::disk::{Disk, Operation, Pending};
use crate::error::{DeviceError, Result};
use crate::file_lock::{system, system_io};
use crate::geometry::Geometry;
use crate::machine::{Snapshot, ZoneMachine};
use crate::media::Media;
use crate::permission::not_opened;
use crate::tickets::Tickets;
use crate::units::{Blocks, Lba, ZoneId};
use crate::uring::Outcome;
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use report::{MIN_ZONES, Sectors, explain, geometry_from, zone_info};
use rustix::io::Errno;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zoned::{DeviceModel, Sector, ZonedError, sysfs};

/// Zones asked for in one report: 64 bytes each in the kernel.
const REPORT_BATCH: u32 = 4096;
/// Zones that the kernel is asked to reset in one call: others wait for the end of it.
const RESETS_AT_ONCE: usize = 64;

/// The kernel's own name of a block device ("nvme0n1", "dm-3"), whatever the path that names it is called.
pub(crate) fn kernel_name(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(|error| system_io("examine", path, &error))?;
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let link = link.map_err(|error| system_io("find in sysfs", path, &error))?;
    Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Is this block device host-managed or host-aware? A device of which sysfs says nothing (a partition) is not.
pub(crate) fn is_zoned(path: &Path) -> Result<bool> {
    let name = kernel_name(path)?;
    let model = sysfs::device_model(Path::new(&name));
    Ok(matches!(model, Ok(DeviceModel::HostManaged | DeviceModel::HostAware)))
}

/// Cuts zones into runs that follow one another, of `most` at most.
fn neighbours(zones: &[ZoneId], most: usize) -> impl Iterator<Item = &[ZoneId]> {
    zones.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0)).flat_map(move |run| run.chunks(most))
}

/// An error of the `zoned` crate as one of ours.
fn from_zoned(action: &'static str, path: &Path, error: &ZonedError) -> DeviceError {
    let errno = match error {
        ZonedError::Ioctl { source, .. } => *source as i32,
        ZonedError::Io { source, .. } | ZonedError::Sysfs { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        ZonedError::DeviceNotFound { .. } => libc::ENOENT,
        ZonedError::ReadOnly { .. } => libc::EROFS,
        ZonedError::InvalidRange { .. } => libc::EINVAL,
        _ => libc::EIO,
    };
    DeviceError::System { action, path: path.to_owned(), errno }
}

/// An open zoned block device.
#[derive(Debug)]
pub struct KernelDevice {
    /// First, so that it is dropped first: what is in flight ends before the lock does.
    disk: Disk,
    zones: zoned::ZonedDevice,
    path: PathBuf,
    name: String,
    geometry: Geometry,
    sectors: Sectors,
    /// Conventional zones in software, where the device has any.
    software: Option<SoftwareZones>,
    /// Opened raw: zones that may be written anywhere.
    anywhere: Vec<bool>,
    tickets: Tickets<Pending<Slot>>,
}

/// The zones without a write pointer of their own.
#[derive(Debug)]
struct SoftwareZones {
    conventional: Vec<bool>,
    machine: ZoneMachine,
}

/// An operation of a batch.
#[derive(Debug)]
enum Slot {
    Read {
        lba: Lba,
    },
    /// With the payload: a write that failed only because the kernel had a stale write pointer is carried out once more.
    Write {
        lba: Lba,
        data: Vec<BufSlice>,
    },
}

impl KernelDevice {
    /// Opens and locks a zoned block device.
    ///
    /// # Errors
    /// Missing, not permitted, busy, or of a shape that cannot carry a volume.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> Result<Self> {
        let path = path.as_ref();
        Self::over(path, Media::open(path, read_only)?, false)
    }

    /// Opens a zoned block device whose conventional zones may be written anywhere; `shared`: also if others use it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_raw(path: &Path, read_only: bool, shared: bool) -> Result<Self> {
        Self::over(path, Media::open_shared(path, read_only, shared)?, true)
    }

    fn over(path: &Path, media: Media, raw: bool) -> Result<Self> {
        let read_only = media.read_only;
        let unusable = |reason| DeviceError::Unusable { path: path.to_owned(), reason };
        let name = kernel_name(path)?;
        let properties = sysfs::device_properties(Path::new(&name));
        let properties = properties.map_err(|error| from_zoned("read the properties of", path, &error))?;
        // O_DIRECT here too: the kernel may refuse to open a zoned device for buffered writing.
        let zones = if read_only { zoned::ZonedDevice::open(path) } else { zoned::ZonedDevice::open_direct(path) };
        let zones = zones.map_err(|error| match from_zoned("open", path, &error) {
            DeviceError::System { errno, .. } => not_opened(path, !read_only, Errno::from_raw_os_error(errno)),
            other => other,
        })?;
        let report = report_all(&zones, properties.geometry.nr_zones).map_err(|error| from_zoned("report the zones of", path, &error))?;
        let granularity = write_granularity(&name).unwrap_or(media.block_size).max(media.block_size);
        // A volume needs so many; who only copies bytes does not.
        let least = if raw { 1 } else { MIN_ZONES };
        let (geometry, sectors) = geometry_from(&name, &properties, granularity, &report, least).map_err(unusable)?;
        let conventional: Vec<bool> = report.iter().take(geometry.zones as usize).map(|zone| zone.write_pointer.is_none()).collect();
        let anywhere = if raw { conventional.clone() } else { Vec::new() };
        let software = (conventional.contains(&true) && !raw).then(|| SoftwareZones::new(conventional, &geometry));
        let disk = Disk::new(media, geometry.block_size);
        let (path, tickets) = (path.to_owned(), Tickets::default());
        Ok(Self { disk, zones, path, name, geometry, sectors, software, anywhere, tickets })
    }

    /// How data moves, in words.
    pub fn transport(&self) -> String {
        self.disk.transport.describe()
    }

    /// The kernel's name of the device, as in `/sys/block`.
    pub fn kernel_name(&self) -> &str {
        &self.name
    }

    fn report_one(&self, zone: ZoneId) -> Result<ZoneInfo> {
        self.report(zone.0..zone.0 + 1)?.pop().ok_or_else(|| system("report the zones of", &self.path, Errno::IO))
    }

    /// Checks that a range is whole blocks within one zone; gives the zone.
    fn check_range(&self, lba: Lba, bytes: u64) -> Result<ZoneId> {
        let blocks = self.disk.whole_blocks(lba, bytes)?;
        let bad = |reason| DeviceError::BadRange { lba, blocks, reason };
        let zone = lba.0 / self.geometry.zone_size.0;
        if zone >= u64::from(self.geometry.zones) {
            return Err(bad("it lies outside the device"));
        }
        if blocks > self.geometry.zone_size.0 - lba.0 % self.geometry.zone_size.0 {
            return Err(bad("it crosses the end of a zone"));
        }
        Ok(ZoneId(zone as u32))
    }

    /// Checks a write; a software zone counts it already.
    fn admit_write(&self, lba: Lba, data: &[BufSlice]) -> Result<ZoneId> {
        self.admit_bytes(lba, data.iter().map(|part| part.len() as u64).sum())
    }

    fn admit_bytes(&self, lba: Lba, bytes: u64) -> Result<ZoneId> {
        let zone = self.check_range(lba, bytes)?;
        self.disk.check_writable("write to")?;
        if let Some(machine) = self.software_zone(zone) {
            let blocks = bytes / u64::from(self.geometry.block_size);
            let writer = machine.writer(zone);
            machine.begin_write(&writer, lba, blocks)?;
            machine.advance(&writer, blocks);
        }
        Ok(zone)
    }

    fn software_zone(&self, zone: ZoneId) -> Option<&ZoneMachine> {
        let software = self.software.as_ref()?;
        software.conventional.get(zone.0 as usize)?.then_some(&software.machine)
    }

    /// Why a write failed, by a fresh report of its zone.
    fn explain_write(&self, lba: Lba, bytes: u64, transferred: u64, errno: i32) -> DeviceError {
        let block = u64::from(self.geometry.block_size);
        let zone = self.geometry.zone_of(lba);
        if let Some(machine) = self.software_zone(zone) {
            let into_zone = lba.0 - self.geometry.zone_start(zone).0;
            machine.retreat(&machine.writer(zone), into_zone + transferred / block);
            return DeviceError::Io { lba, errno };
        }
        let info = self.report_one(zone).ok();
        tracing::warn!(device = %self.name, %lba, bytes, transferred, errno, ?info, "write failed");
        explain(errno, lba, bytes / block, transferred / block, info.as_ref())
    }

    /// A read that failed because part of it lies above the write pointer (some disks refuse that) reads zeros there.
    fn rescue_read(&self, lba: Lba, mut buf: AlignedBuf, errno: i32) -> Result<AlignedBuf> {
        let failed = DeviceError::Io { lba, errno };
        let block = u64::from(self.geometry.block_size);
        let zone = self.geometry.zone_of(lba);
        let info = self.report_one(zone).map_err(|_| failed.clone())?;
        if info.state == ZoneState::Offline {
            return Err(DeviceError::Zone { zone, status: crate::native_copy::NvmeStatus::ZONE_OFFLINE });
        }
        let readable = info.written.0.saturating_sub(lba.0 - info.start.0) * block;
        if readable >= buf.len() as u64 || info.state == ZoneState::ReadOnly {
            return Err(failed);
        }
        let mut below = AlignedBuf::zeroed(readable as usize);
        if readable > 0 {
            self.disk.transport.read(self.disk.offset(lba), &mut below).map_err(|_| failed)?;
        }
        buf.fill(0);
        buf[..below.len()].copy_from_slice(&below);
        Ok(buf)
    }

    fn conclude(&self, slot: Slot, outcome: Outcome) -> Result<Option<AlignedBuf>> {
        match (slot, outcome) {
            (Slot::Read { .. }, Outcome { errno: None, buf, .. }) => Ok(buf),
            (Slot::Read { lba }, Outcome { errno: Some(errno), buf: Some(buf), .. }) => self.rescue_read(lba, buf, errno).map(Some),
            (Slot::Read { lba }, Outcome { errno: Some(errno), .. }) => Err(DeviceError::Io { lba, errno }),
            (Slot::Write { .. }, Outcome { errno: None, .. }) => Ok(None),
            (Slot::Write { lba, data }, Outcome { transferred, errno: Some(errno), .. }) => {
                self.write_failed(lba, &data, transferred, errno).map(|()| None)
            }
        }
    }

    /// The kernel keeps a write pointer of its own, which a device's Copy moves unseen: it then fails writes at the true one, with
    /// EIO, until a report has corrected it. So what failed at the true write pointer, before anything was written, is tried
    /// again after that report; writes behind it in its chain were cancelled and come here in their order.
    ///
    /// Twice, for a report corrects only what a write was seen to fail on, and a write by io_uring that may not wait fails unseen (Linux 6.12,
    /// block/blk-zoned.c: such a write is plugged, and `blk_zone_wplug_bio_io_error` does not ask for the update): then the first call
    /// fails, too, and is seen.
    fn write_failed(&self, lba: Lba, data: &[BufSlice], transferred: u64, errno: i32) -> Result<()> {
        let bytes = data.iter().map(|part| part.len() as u64).sum();
        let zone = self.geometry.zone_of(lba);
        let (mut transferred, mut errno) = (transferred, errno);
        for _ in 0..2 {
            let may_be_stale = transferred == 0 && matches!(errno, libc::EIO | libc::ECANCELED) && self.software_zone(zone).is_none();
            if !may_be_stale || !self.report_one(zone).is_ok_and(|info| report::takes_write_at(&info, lba)) {
                break;
            }
            tracing::info!(device = %self.name, %lba, "a write failed at the write pointer: trying again after a report");
            match self.disk.transport.write(self.disk.offset(lba), data) {
                Ok(()) => return Ok(()),
                Err(stop) => (transferred, errno) = (stop.done, stop.errno.raw_os_error()),
            }
        }
        Err(self.explain_write(lba, bytes, transferred, errno))
    }
}

/// Queue limit of writes that is not in the `zoned` crate: 512-byte blocks may have to be written in units of 4096.
fn write_granularity(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/sys/block/{name}/queue/zone_write_granularity")).ok()?;
    text.trim().parse().ok().filter(|&bytes| bytes > 0)
}

/// All zones, with the check that the crate's own loop lacks: a device that stops answering ends the loop.
fn report_all(zones: &zoned::ZonedDevice, count: u32) -> std::result::Result<Vec<zoned::Zone>, ZonedError> {
    let mut all: Vec<zoned::Zone> = Vec::with_capacity(count as usize);
    while (all.len() as u32) < count {
        let next = all.last().map_or(Sector::ZERO, |last| last.start + last.len);
        let more = zones.report_zones(next, REPORT_BATCH.min(count - all.len() as u32))?;
        if more.is_empty() || more[0].start < next {
            break;
        }
        all.extend(more);
    }
    Ok(all)
}

impl SoftwareZones {
    fn new(conventional: Vec<bool>, geometry: &Geometry) -> Self {
        let unlimited = Geometry { max_open: 0, max_active: 0, ..geometry.clone() };
        let unknown = Snapshot { state: ZoneState::Full, written: geometry.zone_capacity.0 };
        let machine = ZoneMachine::new(&unlimited, conventional.iter().map(|_| unknown));
        Self { conventional, machine }
    }
}

impl ZonedDevice for KernelDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        if zones.start > zones.end || zones.end > self.geometry.zones {
            let lba = self.geometry.zone_start(ZoneId(zones.start));
            return Err(DeviceError::BadRange { lba, blocks: 0, reason: "the zones reported on must exist" });
        }
        let failed = |error| from_zoned("report the zones of", &self.path, &error);
        let mut infos = Vec::with_capacity(zones.len());
        while infos.len() < zones.len() {
            let next = ZoneId(zones.start + infos.len() as u32);
            let count = (zones.end - next.0).min(REPORT_BATCH);
            let reported = self.zones.report_zones(self.sectors.of_zone(next), count).map_err(failed)?;
            if reported.is_empty() {
                return Err(system("report the zones of", &self.path, Errno::IO));
            }
            for (id, zone) in (next.0..zones.end).map(ZoneId).zip(&reported) {
                let info = match self.software_zone(id) {
                    Some(machine) => machine.info(id),
                    None => zone_info(id, zone, &self.geometry),
                };
                infos.push(info);
            }
        }
        Ok(infos)
    }

    fn submit(&self, batch: Vec<Io>, class: IoClass) -> Result<Ticket> {
        // Writes of one zone go one after the other, everything else side by side.
        let operation = |io| match io {
            Io::Read { lba, buf } => {
                let checked = self.check_range(lba, buf.len() as u64).map(|_| Slot::Read { lba });
                Operation { checked, in_order: None, transfer: self.disk.reading(lba, buf) }
            }
            Io::Write { lba, data } => {
                let (zone, transfer) = (self.admit_write(lba, &data), self.disk.writing(lba, &data));
                let in_order = zone.as_ref().ok().copied();
                Operation { checked: zone.map(|_| Slot::Write { lba, data }), in_order, transfer }
            }
        };
        Ok(self.tickets.issue(self.disk.start(batch.into_iter().map(operation), class)))
    }

    fn complete(&self, ticket: Ticket) -> Completions {
        let Some(pending) = self.tickets.redeem(&ticket) else { return Vec::new() };
        self.disk.finish(pending, |slot, outcome| self.conclude(slot, outcome))
    }

    fn manage(&self, zone: ZoneId, action: ZoneAction) -> Result<()> {
        if zone.0 >= self.geometry.zones {
            let lba = self.geometry.zone_start(zone);
            return Err(DeviceError::BadRange { lba, blocks: 0, reason: "the zone must exist" });
        }
        self.disk.check_writable("manage zones of")?;
        if let Some(machine) = self.software_zone(zone) {
            return machine.act(&machine.writer(zone), action).map(drop);
        }
        let (start, len) = (self.sectors.of_zone(zone), Sector::new(self.sectors.zone_size));
        let (word, outcome) = match action {
            ZoneAction::Open => ("open a zone of", self.zones.open_zones(start, len)),
            ZoneAction::Close => ("close a zone of", self.zones.close_zones(start, len)),
            ZoneAction::Finish => ("finish a zone of", self.zones.finish_zones(start, len)),
            ZoneAction::Reset => ("reset a zone of", self.zones.reset_zones(start, len)),
        };
        let Err(error) = outcome else { return Ok(()) };
        let error = from_zoned(word, &self.path, &error);
        let info = self.report_one(zone).ok();
        Err(report::refusal_of_action(zone, action, error.errno(), info.as_ref()).unwrap_or(error))
    }

    fn reset(&self, zones: &[ZoneId]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(zones.len());
        for run in neighbours(zones, RESETS_AT_ONCE) {
            // The kernel lets one call at a time reset zones of a device, but has all the resets of a call in flight together.
            let together = run.len() > 1 && run.iter().all(|zone| zone.0 < self.geometry.zones && self.software_zone(*zone).is_none());
            let len = Sector::new(self.sectors.zone_size * run.len() as u64);
            if together
                && self.disk.check_writable("manage zones of").is_ok()
                && self.zones.reset_zones(self.sectors.of_zone(run[0]), len).is_ok()
            {
                answers.extend(run.iter().map(|_| Ok(())));
            } else {
                // Which of them, and why; those that are empty by now stay so.
                answers.extend(run.iter().map(|zone| self.manage(*zone, ZoneAction::Reset)));
            }
        }
        answers
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn adopt(&self, zones: &[ZoneInfo]) -> Result<()> {
        for zone in zones {
            if zone.id.0 >= self.geometry.zones {
                return Err(DeviceError::BadRange { lba: zone.start, blocks: 0, reason: "the zone must exist" });
            }
            if let Some(machine) = self.software_zone(zone.id) {
                machine.force(&machine.writer(zone.id), Snapshot { state: zone.state, written: zone.written.0 });
            }
        }
        Ok(())
    }

    fn has_write_pointer(&self, zone: ZoneId) -> bool {
        !self.anywhere.get(zone.0 as usize).copied().unwrap_or(false)
    }

    fn settle(&self) -> Result<()> {
        self.disk.settle()
    }

    fn backing(&self) -> Option<Backing> {
        Some(self.disk.backing(self.geometry.size_bytes()))
    }

    /// Of a sequential zone only the range is checked: the device itself knows the write pointer.
    fn admit_copy(&self, target: Lba, blocks: Blocks) -> Result<()> {
        self.admit_bytes(target, blocks.0 * u64::from(self.geometry.block_size)).map(drop)
    }

    fn copy_ended(&self, target: Lba, admitted: Blocks, done: Blocks) {
        if done >= admitted {
            return;
        }
        let zone = self.geometry.zone_of(target);
        if let Some(machine) = self.software_zone(zone) {
            machine.retreat(&machine.writer(zone), target.0 - self.geometry.zone_start(zone).0 + done.0);
        }
    }

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self, lba: Lba, mut buf: AlignedBuf, _class: IoClass) -> Result<AlignedBuf> {
        self.check_range(lba, buf.len() as u64)?;
        match self.disk.transport.read(self.disk.offset(lba), &mut buf) {
            Ok(()) => Ok(buf),
            Err(errno) => self.rescue_read(lba, buf, errno.raw_os_error()),
        }
    }

    fn write(&self, lba: Lba, data: Vec<BufSlice>, _class: IoClass) -> Result<()> {
        self.admit_write(lba, &data)?;
        let written = self.disk.transport.write(self.disk.offset(lba), &data);
        written.or_else(|stop| self.write_failed(lba, &data, stop.done, stop.errno.raw_os_error()))
    }
}
