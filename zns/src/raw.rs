//! Devices as they are, for tools that copy byte ranges: nothing of ours need be on them.
//!
//! A zoned device (a drive image, too) keeps its zones and must be written at their write pointers. Everything else has no
//! write pointers: it is cut into zones of [`RAW_ZONE_BYTES`] only so that several copies can be in flight side by side
//! (one per zone), may be read and written anywhere and again, and its last zone ends where the device does
//! ([`ZonedDevice::size_bytes`]).

use crate::backing::Backing;
use crate::device::{Completions, Io, IoClass, Ticket, ZonedDevice};
use crate::disk::{Disk, Operation, Pending};
use crate::error::{DeviceError, Result};
use crate::file_lock::system;
use crate::geometry::{DeviceKind, Geometry};
use crate::image::ImageDevice;
use crate::kernel::KernelDevice;
use crate::media::Media;
use crate::native_copy::NvmeStatus;
use crate::open::{Detected, detect_for};
use crate::tickets::Tickets;
use crate::units::{Blocks, Lba, ZoneId};
use crate::uring::Outcome;
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use rustix::io::Errno;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a zone where the device has none of its own.
pub const RAW_ZONE_BYTES: u64 = 16 << 20;
const MAX_IO_BYTES: u32 = 1 << 20;

/// How to open a device raw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// Never write; does not exclude other readers.
    pub read_only: bool,
    /// Open it although others use it (mounted, locked). A drive image that is in use is refused all the same.
    pub shared: bool,
}

/// Opens whatever stands at `path`.
///
/// # Errors
/// A sentence for each way in which it cannot be done: missing, not permitted, busy, of the wrong kind, empty.
pub fn open_raw(path: impl AsRef<Path>, options: &RawOptions) -> Result<Arc<dyn ZonedDevice>> {
    let path = path.as_ref();
    let unusable = |reason: &str| DeviceError::Unusable { path: path.to_owned(), reason: reason.to_owned() };
    let RawOptions { read_only, shared } = *options;
    match detect_for(path, !read_only)? {
        Detected::Image => Ok(Arc::new(ImageDevice::open(path, read_only)?)),
        Detected::ZonedBlock => Ok(Arc::new(KernelDevice::open_raw(path, read_only, shared)?)),
        Detected::ConventionalBlock | Detected::PlainFile => Ok(Arc::new(RawDevice::open(path, options)?)),
        Detected::Missing => Err(system("open", path, Errno::NOENT)),
        Detected::Directory => Err(unusable("it is a directory: name a block device or a regular file")),
        Detected::Other => Err(unusable("it is neither a block device nor a regular file")),
    }
}

/// A block device or file without write pointers.
#[derive(Debug)]
pub struct RawDevice {
    disk: Disk,
    geometry: Geometry,
    /// Whole blocks of the device.
    blocks: u64,
    /// Each operation under way with its first block.
    tickets: Tickets<Pending<Lba>>,
}

impl RawDevice {
    /// Opens a block device or file.
    ///
    /// # Errors
    /// Missing, busy, not permitted, not a device or file, or without a single block.
    pub fn open(path: impl AsRef<Path>, options: &RawOptions) -> Result<Self> {
        let mut media = Media::open_shared(path.as_ref(), options.read_only, options.shared)?;
        media.block_size = media.direct_unit();
        let block_size = media.block_size;
        let blocks = media.size / u64::from(block_size);
        if blocks == 0 {
            let reason = match media.size {
                0 => "it is empty".to_string(),
                size => format!("its {size} bytes hold no block of {block_size} bytes"),
            };
            return Err(DeviceError::Unusable { path: media.path, reason });
        }
        let zone_size = RAW_ZONE_BYTES / u64::from(block_size);
        let zones = u32::try_from(blocks.div_ceil(zone_size)).map_err(|_| DeviceError::Unusable {
            path: media.path.clone(),
            reason: format!("{} bytes are more than can be addressed here", media.size),
        })?;
        let geometry = Geometry {
            kind: DeviceKind::Conventional,
            block_size,
            zones,
            zone_size: Blocks(zone_size),
            zone_capacity: Blocks(zone_size),
            max_open: 0,
            max_active: 0,
            max_io_bytes: MAX_IO_BYTES,
            software_zones: false,
        };
        Ok(Self { disk: Disk::new(media, block_size), geometry, blocks, tickets: Tickets::default() })
    }

    /// How data moves, in words.
    pub fn transport(&self) -> String {
        self.disk.transport.describe()
    }

    fn check(&self, lba: Lba, bytes: usize) -> Result<Lba> {
        let blocks = self.disk.whole_blocks(lba, bytes as u64)?;
        self.check_blocks(lba, blocks).map(|()| lba)
    }

    fn check_blocks(&self, lba: Lba, blocks: u64) -> Result<()> {
        if lba.0.checked_add(blocks).is_none_or(|end| end > self.blocks) {
            return Err(DeviceError::BadRange { lba, blocks, reason: "it lies outside the device" });
        }
        Ok(())
    }
}

impl ZonedDevice for RawDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// All zones are full, as the kernel reports zones without a write pointer: everything may be read.
    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        if zones.start > zones.end || zones.end > self.geometry.zones {
            let lba = self.geometry.zone_start(ZoneId(zones.start));
            return Err(DeviceError::BadRange { lba, blocks: 0, reason: "the zones reported on must exist" });
        }
        let capacity = self.geometry.zone_capacity;
        let info = |id| ZoneInfo { id, state: ZoneState::Full, start: self.geometry.zone_start(id), capacity, written: capacity };
        Ok(zones.map(|zone| info(ZoneId(zone))).collect())
    }

    fn submit(&self, batch: Vec<Io>, class: IoClass) -> Result<Ticket> {
        let operation = |io| {
            let (checked, transfer) = match io {
                Io::Read { lba, buf } => (self.check(lba, buf.len()), self.disk.reading(lba, buf)),
                Io::Write { lba, data } => {
                    let checked = self.check(lba, data.iter().map(|part| part.len()).sum());
                    (checked.and_then(|lba| self.disk.check_writable("write to").map(|()| lba)), self.disk.writing(lba, &data))
                }
            };
            Operation { checked, in_order: None, transfer }
        };
        Ok(self.tickets.issue(self.disk.start(batch.into_iter().map(operation), class)))
    }

    fn complete(&self, ticket: Ticket) -> Completions {
        let Some(pending) = self.tickets.redeem(&ticket) else { return Vec::new() };
        self.disk.finish(pending, |lba, Outcome { errno, buf, .. }| errno.map_or(Ok(buf), |errno| Err(DeviceError::Io { lba, errno })))
    }

    fn manage(&self, zone: ZoneId, _action: ZoneAction) -> Result<()> {
        Err(DeviceError::Zone { zone, status: NvmeStatus::INVALID_TRANSITION })
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn has_write_pointer(&self, _zone: ZoneId) -> bool {
        false
    }

    fn size_bytes(&self) -> u64 {
        self.blocks * u64::from(self.geometry.block_size)
    }

    fn settle(&self) -> Result<()> {
        self.disk.settle()
    }

    fn backing(&self) -> Option<Backing> {
        Some(self.disk.backing(self.size_bytes()))
    }

    fn admit_copy(&self, target: Lba, blocks: Blocks) -> Result<()> {
        self.check_blocks(target, blocks.0)?;
        self.disk.check_writable("write to")
    }

    fn label(&self) -> String {
        self.disk.label()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageOptions;
    use crate::{AlignedBuf, BufSlice};

    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        (0..len).map(|index| seed.wrapping_add((index / 512) as u8)).collect()
    }

    #[test]
    fn a_file_is_written_anywhere_and_again_to_its_very_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let length = RAW_ZONE_BYTES + 3 * 4096 + 100;
        std::fs::File::create(&path).unwrap().set_len(length).unwrap();
        let device = open_raw(&path, &RawOptions::default()).unwrap();
        let block = u64::from(device.geometry().block_size);
        assert_eq!(device.size_bytes(), length / block * block);
        assert_eq!(device.geometry().zones, 2);
        assert!(!device.has_write_pointer(ZoneId(0)));
        let last = Lba((device.size_bytes() - 4096) / block);
        for (lba, seed) in [(Lba(8), 1), (last, 2), (Lba(8), 3)] {
            let data = bytes(seed, 4096);
            device.write(lba, vec![BufSlice::whole(AlignedBuf::from_slice(&data))], IoClass::Copy).unwrap();
            assert_eq!(device.read(lba, AlignedBuf::zeroed(4096), IoClass::Copy).unwrap()[..], data[..]);
        }
        let beyond = device.write(Lba(last.0 + 1), vec![BufSlice::whole(AlignedBuf::zeroed(4096))], IoClass::Copy);
        assert!(beyond.unwrap_err().to_string().contains("outside the device"));
        assert!(device.read(last, AlignedBuf::zeroed(8192), IoClass::Copy).is_err());
        device.settle().unwrap();
        device.flush().unwrap();
        drop(device);
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len() as u64, length);
        let at = (last.0 * block) as usize;
        assert_eq!(content[at..at + 4096], bytes(2, 4096)[..]);
        assert!(content[at + 4096..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn who_uses_it_is_respected_unless_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(open_raw(&path, &RawOptions::default()).map(drop).unwrap_err().errno(), libc::ENOENT);
        for (content, words) in [(&b""[..], "it is empty"), (b"hello", "its 5 bytes hold no block")] {
            std::fs::write(&path, content).unwrap();
            let refused = open_raw(&path, &RawOptions::default()).map(drop).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        std::fs::write(&path, bytes(0, 8192)).unwrap();
        let reader = RawOptions { read_only: true, ..RawOptions::default() };
        let first = open_raw(&path, &reader).unwrap();
        assert!(first.write(Lba(0), vec![BufSlice::whole(AlignedBuf::zeroed(4096))], IoClass::Copy).is_err());
        open_raw(&path, &reader).unwrap();
        assert!(matches!(open_raw(&path, &RawOptions::default()).map(drop), Err(DeviceError::Busy { .. })));
        open_raw(&path, &RawOptions { shared: true, ..RawOptions::default() }).unwrap();
        assert!(open_raw(directory.path(), &reader).map(drop).unwrap_err().to_string().contains("directory"));
    }

    #[test]
    fn an_image_keeps_its_zones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let options = ImageOptions { size: 64 << 20, zone_size: 1 << 20, ..ImageOptions::default() };
        drop(ImageDevice::create(&path, &options).unwrap());
        let device = open_raw(&path, &RawOptions::default()).unwrap();
        assert!(device.has_write_pointer(ZoneId(0)));
        assert_eq!(device.geometry().zone_size_bytes(), 1 << 20);
    }
}
