//! A block device or file without zones, presented as zones.
//!
//! The device knows nothing of zones, so their states are unknown when it is opened: every zone is reported full until
//! the owner of the volume tells what its log says ([`ZonedDevice::adopt`]). From then on write pointers are enforced
//! in memory. Reads pass to the device wherever the write pointer is, because recovery reads before it can adopt.
//!
//! Data moves by io_uring with O_DIRECT. Where the file system refuses O_DIRECT or the kernel has no io_uring for us,
//! `submit` carries the operations out itself: [`ConventionalDevice::transport`] says which it is and why.

#[cfg(test)]
mod tests;

use crate::backing::Backing;
use crate::buffer::{AlignedBuf, BufSlice};
use crate::device::{Completions, Io, IoClass, Ticket, ZonedDevice};
use crate::disk::{Disk, Operation, Pending};
use crate::error::{DeviceError, Result};
use crate::file_lock::{system, system_io};
use crate::geometry::{DeviceKind, Geometry};
use crate::machine::{Snapshot, ZoneMachine};
use crate::media::Media;
use crate::tickets::Tickets;
use crate::units::{Blocks, Lba, ZoneId};
use crate::uring::Outcome;
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use rustix::io::Errno;
use std::ops::Range;
use std::path::Path;

/// How to present a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConventionalOptions {
    /// Bytes from zone to zone; `None` for [`default_zone_size`].
    pub zone_size: Option<u64>,
    /// Tell the device which blocks are unused when a zone is reset.
    pub discard: bool,
    /// Never write.
    pub read_only: bool,
}

/// Fewest zones of a device.
pub const MIN_ZONES: u64 = 24;
/// Most zones of a device.
pub const MAX_ZONES: u64 = 100_000;
const DEFAULT_ZONE_BYTES: u64 = 16 << 20;
const MIN_ZONE_BYTES: u64 = 1 << 20;
const MAX_ZONE_BYTES: u64 = 2 << 30;
const MAX_IO_BYTES: u32 = 1 << 20;

/// The zone size that a device of `size` bytes gets where nobody chooses: 16 MiB, less on small devices, more on very large ones.
pub fn default_zone_size(size: u64) -> u64 {
    let mut zone = DEFAULT_ZONE_BYTES;
    while zone > MIN_ZONE_BYTES && size / zone < 64 {
        zone /= 2;
    }
    while zone < MAX_ZONE_BYTES && size / zone > MAX_ZONES {
        zone *= 2;
    }
    zone
}

/// An open conventional device.
#[derive(Debug)]
pub struct ConventionalDevice {
    disk: Disk,
    geometry: Geometry,
    machine: ZoneMachine,
    discard: bool,
    tickets: Tickets<Pending<Slot>>,
}

/// An operation of a batch.
#[derive(Debug)]
enum Slot {
    Read {
        lba: Lba,
    },
    /// The write pointer of its zone counts it already.
    Write {
        lba: Lba,
        zone: ZoneId,
    },
}

impl ConventionalDevice {
    /// Makes a sparse file of `size` bytes to be used as a disk. A file that exists and is not empty is left alone.
    ///
    /// # Errors
    /// EEXIST for such a file, or a failed system call; what this call made is removed again.
    pub fn create_file(path: impl AsRef<Path>, size: u64) -> Result<()> {
        let path = path.as_ref();
        let fresh = !path.exists();
        let open = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|error| system_io("create", path, &error))?;
        let length = file.metadata().map_err(|error| system_io("examine", path, &error))?.len();
        if length > 0 {
            return Err(system("create", path, Errno::EXIST));
        }
        file.set_len(size).map_err(|error| {
            if fresh {
                // Best effort: the error that is reported matters more than this one.
                let _ = std::fs::remove_file(path);
            }
            system_io("set the length of", path, &error)
        })
    }

    /// Opens and locks a block device or file.
    ///
    /// # Errors
    /// Missing, busy, not permitted, not a device or file, too small, or a zone size that is not possible.
    pub fn open(path: impl AsRef<Path>, options: &ConventionalOptions) -> Result<Self> {
        let media = Media::open(path.as_ref(), options.read_only)?;
        let geometry = shape(&media, options.zone_size).map_err(|reason| DeviceError::Unusable { path: media.path.clone(), reason })?;
        let unknown = Snapshot { state: ZoneState::Full, written: geometry.zone_capacity.0 };
        let machine = ZoneMachine::new(&geometry, (0..geometry.zones).map(|_| unknown));
        let disk = Disk::new(media, geometry.block_size);
        Ok(Self { disk, geometry, machine, discard: options.discard, tickets: Tickets::default() })
    }

    /// How data moves, in words; where it is not the best way, with the reason.
    pub fn transport(&self) -> String {
        self.disk.transport.describe()
    }
}

/// The zones of a device, or why it cannot have any.
fn shape(media: &Media, zone_size: Option<u64>) -> std::result::Result<Geometry, String> {
    let zone_size = zone_size.unwrap_or_else(|| default_zone_size(media.size));
    if !(MIN_ZONE_BYTES..=MAX_ZONE_BYTES).contains(&zone_size) || !zone_size.is_multiple_of(4096) {
        return Err(format!("a zone of {zone_size} bytes is not possible: choose a multiple of 4096 from 1 MiB to 2 GiB"));
    }
    let zones = media.size / zone_size;
    if zones < MIN_ZONES {
        return Err(format!(
            "it is too small: {} bytes give {zones} zones of {zone_size}, and a device has at least {MIN_ZONES}",
            media.size
        ));
    }
    if zones > MAX_ZONES {
        return Err(format!("{zones} zones of {zone_size} bytes are too many: choose larger zones, at most {MAX_ZONES} are possible"));
    }
    let blocks = Blocks(zone_size / u64::from(media.block_size));
    Ok(Geometry {
        kind: DeviceKind::Conventional,
        block_size: media.block_size,
        zones: zones as u32,
        zone_size: blocks,
        zone_capacity: blocks,
        max_open: 0,
        max_active: 0,
        max_io_bytes: MAX_IO_BYTES,
        software_zones: true,
    })
}

impl ConventionalDevice {
    /// Checks a write and counts it: the write pointer stands behind it from now on. Gives the zone.
    fn reserve(&self, lba: Lba, data: &[BufSlice]) -> Result<ZoneId> {
        let blocks = self.disk.whole_blocks(lba, data.iter().map(|part| part.len() as u64).sum())?;
        self.reserve_blocks(lba, blocks)
    }

    fn reserve_blocks(&self, lba: Lba, blocks: u64) -> Result<ZoneId> {
        let outside = DeviceError::BadRange { lba, blocks, reason: "it lies outside the device" };
        let zone = self.machine.zone_at(lba).ok_or(outside)?;
        self.disk.check_writable("write to")?;
        let writer = self.machine.writer(zone);
        self.machine.begin_write(&writer, lba, blocks)?;
        self.machine.advance(&writer, blocks);
        Ok(zone)
    }

    /// Takes the write pointer back to what a failed write got done.
    fn retreat(&self, lba: Lba, zone: ZoneId, transferred: u64) {
        let done = transferred / u64::from(self.geometry.block_size);
        let into_zone = lba.0 - self.geometry.zone_start(zone).0;
        self.machine.retreat(&self.machine.writer(zone), into_zone + done);
    }

    /// Checks an operation.
    fn admit(&self, io: Io) -> Operation<Slot> {
        let (checked, transfer) = match io {
            Io::Read { lba, buf } => {
                let checked = self.disk.whole_blocks(lba, buf.len() as u64).and_then(|blocks| self.machine.check_read(lba, blocks));
                (checked.map(|_| Slot::Read { lba }), self.disk.reading(lba, buf))
            }
            Io::Write { lba, data } => (self.reserve(lba, &data).map(|zone| Slot::Write { lba, zone }), self.disk.writing(lba, &data)),
        };
        Operation { checked, in_order: None, transfer }
    }

    /// What a caller learns about an operation.
    fn conclude(&self, slot: Slot, outcome: Outcome) -> Result<Option<AlignedBuf>> {
        let Outcome { transferred, errno, buf } = outcome;
        let Some(errno) = errno else { return Ok(buf) };
        let lba = match slot {
            Slot::Read { lba } => lba,
            Slot::Write { lba, zone } => {
                self.retreat(lba, zone, transferred);
                lba
            }
        };
        Err(DeviceError::Io { lba, errno })
    }

    fn check_zone(&self, zone: ZoneId) -> Result<()> {
        self.machine.report(zone.0..zone.0.saturating_add(1)).map(drop)
    }
}

impl ZonedDevice for ConventionalDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        self.machine.report(zones)
    }

    fn submit(&self, batch: Vec<Io>, class: IoClass) -> Result<Ticket> {
        Ok(self.tickets.issue(self.disk.start(batch.into_iter().map(|io| self.admit(io)), class)))
    }

    fn complete(&self, ticket: Ticket) -> Completions {
        let Some(pending) = self.tickets.redeem(&ticket) else { return Vec::new() };
        self.disk.finish(pending, |slot, outcome| self.conclude(slot, outcome))
    }

    fn manage(&self, zone: ZoneId, action: ZoneAction) -> Result<()> {
        self.check_zone(zone)?;
        self.disk.check_writable("manage zones of")?;
        let writer = self.machine.writer(zone);
        if action == ZoneAction::Reset && self.discard && self.machine.check_action(zone, action)? {
            let start = self.disk.offset(self.geometry.zone_start(zone));
            self.disk.transport.media.discard(start, self.geometry.zone_size_bytes())?;
        }
        self.machine.act(&writer, action).map(drop)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn adopt(&self, zones: &[ZoneInfo]) -> Result<()> {
        zones.iter().try_for_each(|zone| self.check_zone(zone.id))?;
        for zone in zones {
            let writer = self.machine.writer(zone.id);
            self.machine.force(&writer, Snapshot { state: zone.state, written: zone.written.0 });
        }
        Ok(())
    }

    fn backing(&self) -> Option<Backing> {
        Some(self.disk.backing(self.geometry.size_bytes()))
    }

    fn admit_copy(&self, target: Lba, blocks: Blocks) -> Result<()> {
        self.reserve_blocks(target, blocks.0).map(drop)
    }

    fn copy_ended(&self, target: Lba, admitted: Blocks, done: Blocks) {
        if done < admitted
            && let Some(zone) = self.machine.zone_at(target)
        {
            self.retreat(target, zone, done.0 * u64::from(self.geometry.block_size));
        }
    }

    fn label(&self) -> String {
        self.disk.label()
    }

    fn read(&self, lba: Lba, mut buf: AlignedBuf, _class: IoClass) -> Result<AlignedBuf> {
        self.machine.check_read(lba, self.disk.whole_blocks(lba, buf.len() as u64)?)?;
        let read = self.disk.transport.read(self.disk.offset(lba), &mut buf);
        read.map_err(|errno| DeviceError::Io { lba, errno: errno.raw_os_error() })?;
        Ok(buf)
    }

    fn write(&self, lba: Lba, data: Vec<BufSlice>, _class: IoClass) -> Result<()> {
        let zone = self.reserve(lba, &data)?;
        self.disk.transport.write(self.disk.offset(lba), &data).map_err(|stop| {
            self.retreat(lba, zone, stop.done);
            DeviceError::Io { lba, errno: stop.errno.raw_os_error() }
        })
    }
}
