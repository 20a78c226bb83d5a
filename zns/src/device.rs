//! The seam: batches go in, completions come out.

use crate::backing::Backing;
use crate::buffer::{AlignedBuf, BufSlice};
use crate::error::Result;
use crate::geometry::Geometry;
use crate::image::DeviceModel;
use crate::native_copy::NativeCopy;
use crate::units::{Blocks, Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneInfo};
use std::ops::Range;

/// What an operation is for, so that foreground work, copies and cleaning can be paced apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoClass {
    /// A user waits for it.
    Foreground,
    /// The log and checkpoints.
    Log,
    /// A copy that a user asked for.
    Copy,
    /// Cleaning.
    Cleaning,
}

/// One operation of a batch.
#[derive(Debug)]
pub enum Io {
    /// Read `buf.len()` bytes (a multiple of the device block) from `lba` on, within one zone.
    Read {
        /// First block.
        lba: Lba,
        /// Filled on success and handed back in the completion.
        buf: AlignedBuf,
    },
    /// Write the slices one behind the other, from `lba` on, within one zone and at its write pointer.
    Write {
        /// First block; for a sequential zone its write pointer.
        lba: Lba,
        /// The payload; its total length is a multiple of the device block.
        data: Vec<BufSlice>,
    },
}

/// Names a batch that was submitted and not yet completed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What became of a batch: one entry per operation in the order of submission. A read hands its buffer back; a write `None`.
pub type Completions = Vec<Result<Option<AlignedBuf>>>;

/// A device as zones.
///
/// Writers keep invariant I1 themselves: one writer per zone, one write in flight per zone, at the write pointer.
pub trait ZonedDevice: Send + Sync {
    /// Size, shape and limits.
    fn geometry(&self) -> &Geometry;

    /// State of the zones in `zones`.
    ///
    /// # Errors
    /// A range outside the device, or a report that fails.
    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>>;

    /// Starts a batch of operations. An operation that is malformed or fails gets its own error in the completions;
    /// the others go on.
    ///
    /// # Errors
    /// Only when nothing at all could be started.
    fn submit(&self, batch: Vec<Io>, class: IoClass) -> Result<Ticket>;

    /// Waits for a batch. Each ticket is completed once.
    fn complete(&self, ticket: Ticket) -> Completions;

    /// Opens, closes, finishes or resets a zone.
    ///
    /// # Errors
    /// A refusal by the zone state machine, or a device error.
    fn manage(&self, zone: ZoneId, action: ZoneAction) -> Result<()>;

    /// Resets zones, in ascending order; gives one answer for each. A device that takes many resets at once gets them at once.
    fn reset(&self, zones: &[ZoneId]) -> Vec<Result<()>> {
        zones.iter().map(|zone| self.manage(*zone, ZoneAction::Reset)).collect()
    }

    /// Makes every completed write and copy durable.
    ///
    /// # Errors
    /// A device error, after which nothing is known to be durable.
    fn flush(&self) -> Result<()>;

    /// Tells a device with software zones (see [`Geometry::software_zones`]) where the write pointers are. Others ignore it.
    ///
    /// # Errors
    /// A zone outside the device.
    fn adopt(&self, _zones: &[ZoneInfo]) -> Result<()> {
        Ok(())
    }

    /// Must `zone` be written at its write pointer? Zones without one (of raw devices, see [`crate::raw`]) may be written
    /// anywhere and again; what their reports say of a write pointer means nothing.
    fn has_write_pointer(&self, _zone: ZoneId) -> bool {
        true
    }

    /// Bytes from the start of the device to its end: less than the geometry says where the last zone is cut short.
    fn size_bytes(&self) -> u64 {
        self.geometry().size_bytes()
    }

    /// Puts what others wrote through the kernel's page cache on the device and empties that cache, so that a copy that the device
    /// carries out by itself sees what programs see, and the other way round.
    ///
    /// # Errors
    /// A device error.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// The device's own Copy command, when our process can reach it through the device object itself (image, simulator).
    fn native_copy(&self) -> Option<&dyn NativeCopy> {
        None
    }

    /// The block device or file underneath, for a Copy command that is sent to the real device past this object. `None`: there
    /// is none, or it is nobody else's business (an image's blocks are not where its file has them).
    fn backing(&self) -> Option<Backing> {
        None
    }

    /// A Copy that the real device carries out, past this object, is about to write `blocks` at `target`: checks that it may, and
    /// counts it where this object keeps the write pointer itself. [`ZonedDevice::copy_ended`] follows in any case.
    ///
    /// # Errors
    /// A refusal as for a write there. Nothing is to be sent then, and nothing follows.
    fn admit_copy(&self, target: Lba, blocks: Blocks) -> Result<()> {
        let reason = "this device takes no copies past its own object";
        Err(crate::error::DeviceError::BadRange { lba: target, blocks: blocks.0, reason })
    }

    /// The Copy that [`ZonedDevice::admit_copy`] let pass has ended. `done`: how many of the blocks admitted are known to be written,
    /// counted from the first; fewer than all when it failed.
    fn copy_ended(&self, _target: Lba, _admitted: Blocks, _done: Blocks) {}

    /// Plays the times of a drive of some model from now on. Only an image can; asking anything else for none changes nothing.
    ///
    /// # Errors
    /// A device with times of its own, or an image that plays those of another model.
    fn play(&self, model: DeviceModel) -> Result<()> {
        if model == DeviceModel::None {
            return Ok(());
        }
        let reason = format!("it has times of its own: only an image plays those of {model}");
        Err(crate::error::DeviceError::Unusable { path: self.label().into(), reason })
    }

    /// Whose times it plays.
    fn model(&self) -> DeviceModel {
        DeviceModel::None
    }

    /// A path or name for people.
    fn label(&self) -> String;

    /// Reads one range and waits: `submit` and `complete` in one.
    ///
    /// # Errors
    /// As the completion says.
    fn read(&self, lba: Lba, buf: AlignedBuf, class: IoClass) -> Result<AlignedBuf> {
        let ticket = self.submit(vec![Io::Read { lba, buf }], class)?;
        match self.complete(ticket).pop() {
            Some(Ok(Some(buf))) => Ok(buf),
            Some(Err(error)) => Err(error),
            _ => Err(crate::error::DeviceError::Io { lba, errno: libc::EIO }),
        }
    }

    /// Writes one range and waits.
    ///
    /// # Errors
    /// As the completion says.
    fn write(&self, lba: Lba, data: Vec<BufSlice>, class: IoClass) -> Result<()> {
        let ticket = self.submit(vec![Io::Write { lba, data }], class)?;
        match self.complete(ticket).pop() {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(crate::error::DeviceError::Io { lba, errno: libc::EIO }),
        }
    }
}
