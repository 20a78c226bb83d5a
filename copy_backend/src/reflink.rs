//! The road of FICLONERANGE: the filesystem lets two ranges of regular files share their blocks.
//!
//! Nothing is moved at all: the destination refers to the blocks of the source, and a later write to either gets blocks of its own. So
//! this is what it says, sharing, for volumes on plain files of XFS, btrfs and others that can, and not a copy by a
//! device. What it costs is paid later: the filesystem below keeps a block until nobody refers to it, and a write into a shared range
//! needs a free block there.
//!
//! Only whole blocks of that filesystem are shared, and both files lie on the same one. A file that may be written anywhere is addressed in
//! smaller units: what of a range lies outside of whole blocks (less than one at each end) is read and written, and counted so; a range that
//! lies in the blocks of the destination otherwise than in those of the source is nothing for this road. Whether the filesystem can is asked by a
//! clone of a range onto itself, which changes nothing: one that cannot says EOPNOTSUPP, one that can has nothing to do.

use crate::admission::Admission;
use crate::backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use crate::error::Result;
use crate::plan;
use crate::workers::Workers;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use zns::{AlignedBuf, Blocks, BufSlice, DeviceError, DeviceId, IoClass, Lba, Ticket, ZoneId, ZonedDevice};

/// Commands that run side by side.
const THREADS: usize = 4;
/// Bytes of one command: what a caller may have to wait for.
const COMMAND_BYTES: u64 = 64 << 20;
/// Calls of one command.
const COMMAND_RANGES: u32 = 256;
/// `FICLONERANGE` of `linux/fs.h`: `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: libc::c_ulong = 0x4020_940d;

/// `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

const _: () = assert!(size_of::<CloneRange>() == 32);

/// A regular file below a device.
struct Below {
    file: File,
    /// The filesystem it lies on.
    filesystem: u64,
    /// Bytes in a block of that filesystem.
    block: u64,
}

/// FICLONERANGE between plain files.
pub struct ReflinkRoad {
    shared: Arc<Shared>,
    workers: Workers,
}

struct Shared {
    devices: Arc<[Arc<dyn ZonedDevice>]>,
    known: Mutex<HashMap<DeviceId, Arc<Below>>>,
}

impl ReflinkRoad {
    /// A road over `devices`, which [`DeviceId`] counts from 0. Nothing is opened yet.
    pub fn new(devices: Arc<[Arc<dyn ZonedDevice>]>) -> Self {
        let shared = Arc::new(Shared { devices, known: Mutex::default() });
        Self { shared, workers: Workers::new("copy-reflink", THREADS) }
    }
}

impl Shared {
    fn device(&self, id: DeviceId) -> std::result::Result<&Arc<dyn ZonedDevice>, NoRoad> {
        self.devices.get(usize::from(id.0)).ok_or_else(|| format!("there is no device {id}").into())
    }

    /// The file below a device, opened when it is first asked for, if its filesystem lets ranges share blocks.
    fn below(&self, id: DeviceId) -> std::result::Result<Arc<Below>, NoRoad> {
        if let Some(below) = self.known.lock().get(&id) {
            return Ok(below.clone());
        }
        let device = self.device(id)?;
        let Some(backing) = device.backing().filter(|backing| !backing.block_device) else {
            return Err(NoRoad::foreign(format!("{} is not a volume on a plain file", device.label())));
        };
        let path = backing.path.display();
        let file = File::options().read(true).write(!backing.read_only).open(&backing.path).map_err(|error| format!("{path}: {error}"))?;
        let metadata = file.metadata().map_err(|error| format!("{path}: {error}"))?;
        let statistics = rustix::fs::fstatfs(&file).map_err(|error| format!("{path}: {error}"))?;
        let block = u64::try_from(statistics.f_bsize).unwrap_or(0);
        let device_block = u64::from(device.geometry().block_size);
        // Ragged ends are written in place: where that may not be, no range has any.
        let anywhere = !device.geometry().software_zones && !device.has_write_pointer(ZoneId(0));
        let fits = block > 0 && (device_block.is_multiple_of(block) || (anywhere && block.is_multiple_of(device_block)));
        if !fits || !backing.offset.is_multiple_of(block) {
            return Err(
                format!("the filesystem of {path} has blocks of {block} bytes, which those of {device_block} are no multiple of").into()
            );
        }
        if !backing.read_only {
            // The range overlaps itself: EINVAL where the filesystem knows the call, and no harm where it carries it out.
            match clone_range(&file, 0, block, &file, 0) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
                    return Err(format!("the filesystem of {path} does not let files share blocks").into());
                }
                Err(errno) => return Err(format!("{path} cannot share blocks: {errno}").into()),
            }
        }
        let below = Arc::new(Below { file, filesystem: metadata.dev(), block });
        self.known.lock().insert(id, below.clone());
        Ok(below)
    }

    fn pair(&self, from: DeviceId, to: DeviceId) -> std::result::Result<(Arc<Below>, Arc<Below>), NoRoad> {
        let (source, target) = (self.below(from)?, self.below(to)?);
        if source.filesystem != target.filesystem {
            return Err("the two files lie on different filesystems (or subvolumes)".into());
        }
        if source.block != target.block {
            return Err("the two files have blocks of different size".into());
        }
        Ok((source, target))
    }

    fn carry_out(&self, command: &CopyCommand) -> CopyOutcome {
        let unsupported = |why: String| CopyOutcome::failed(0, FailureKind::Unsupported, why);
        let to = command.target.device;
        let Some(from) = command.sources.first().map(|source| source.device) else { return unsupported("there is nothing to copy".into()) };
        if command.sources.iter().any(|source| source.device != from) {
            return unsupported("the sources of a command lie on different devices".into());
        }
        let files = match self.pair(from, to) {
            Ok(files) => files,
            Err(why) => return unsupported(why.reason),
        };
        let (Ok(source), Ok(target)) = (self.device(from), self.device(to)) else { return unsupported("a device is gone".into()) };
        let to_block = u64::from(target.geometry().block_size);
        let bytes: Vec<u64> = command.sources.iter().map(|range| plan::bytes_of(range, source.geometry())).collect();
        let all = Blocks(bytes.iter().sum::<u64>() / to_block);
        let admission = match Admission::ask(target, command, all) {
            Ok(admission) => admission,
            Err(refusal) => return refusal,
        };
        let mut at = command.target.lba.0 * to_block;
        let mut outcome = CopyOutcome::offloaded(command.sources.len());
        let sharing = Sharing { source: &**source, target: &**target, files: &files, class: command.class };
        for (index, (range, len)) in command.sources.iter().zip(&bytes).enumerate() {
            let start = range.lba.0 * u64::from(source.geometry().block_size);
            let shared = sharing.range(start, *len, at, &mut outcome);
            if let Err((kind, detail)) = shared {
                (outcome.ranges_done, outcome.failure, outcome.detail) = (index, Some(kind), Some(detail));
                break;
            }
            at += len;
        }
        let done = bytes.iter().take(outcome.ranges_done).sum::<u64>() / to_block;
        admission.end(Blocks(done));
        outcome
    }
}

/// From one file to another.
struct Sharing<'a> {
    source: &'a dyn ZonedDevice,
    target: &'a dyn ZonedDevice,
    files: &'a (Arc<Below>, Arc<Below>),
    class: IoClass,
}

impl Sharing<'_> {
    /// Shares what of a range is whole blocks, and copies the ends.
    fn range(&self, from: u64, len: u64, to: u64, outcome: &mut CopyOutcome) -> std::result::Result<(), (FailureKind, String)> {
        let block = self.files.1.block;
        let Some(Cut { head, whole, tail }) = cut(from, len, to, block) else {
            let reason = format!("byte {from} and byte {to} lie at different places of the blocks of {block} bytes of the filesystem");
            return Err((FailureKind::NotAligned, reason));
        };
        if whole > 0 {
            clone_range(&self.files.0.file, from + head, whole, &self.files.1.file, to + head)
                .map_err(|errno| (class(errno), format!("FICLONERANGE to {}: {errno}", self.target.label())))?;
        }
        for (into, len) in [(0, head), (head + whole, tail)] {
            if len > 0 {
                self.copy(from + into, len, to + into).map_err(|(kind, error)| (kind, error.to_string()))?;
                outcome.host_read += len;
                outcome.host_written += len;
            }
        }
        Ok(())
    }

    /// Copies less than a block.
    fn copy(&self, from: u64, len: u64, to: u64) -> std::result::Result<(), (FailureKind, DeviceError)> {
        let lba = |device: &dyn ZonedDevice, at: u64| Lba(at / u64::from(device.geometry().block_size));
        let read = self.source.read(lba(self.source, from), AlignedBuf::zeroed(len as usize), self.class);
        let buf = read.map_err(|error| (FailureKind::of_read(&error), error))?;
        let written = self.target.write(lba(self.target, to), vec![BufSlice::whole(buf)], self.class);
        written.map_err(|error| (FailureKind::of_write(&error), error))
    }
}

/// A range of `len` bytes in the blocks of a filesystem: what lies before the first whole block, the whole blocks, and what lies behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    head: u64,
    whole: u64,
    tail: u64,
}

/// `None`: source and destination lie at different places of their blocks.
fn cut(from: u64, len: u64, to: u64, block: u64) -> Option<Cut> {
    if from % block != to % block {
        return None;
    }
    let head = (from.next_multiple_of(block) - from).min(len);
    let whole = (len - head) / block * block;
    Some(Cut { head, whole, tail: len - head - whole })
}

/// What an error means for the engine. Of a range that failed nothing is known.
fn class(errno: Errno) -> FailureKind {
    match errno {
        // A full filesystem may have room for the host's copy no more than for this one; the host will say so itself.
        Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::INTR | Errno::NOMEM | Errno::AGAIN => FailureKind::Transient,
        _ => FailureKind::Unsupported,
    }
}

fn clone_range(source: &File, from: u64, len: u64, target: &File, to: u64) -> std::result::Result<(), Errno> {
    let range = CloneRange { src_fd: source.as_raw_fd().into(), src_offset: from, src_length: len, dest_offset: to };
    // SAFETY: FICLONERANGE reads one `file_clone_range`, whose layout `CloneRange` has, and keeps no pointer to it. Both descriptors
    // are open for as long as the files are borrowed.
    let outcome = unsafe { libc::ioctl(target.as_raw_fd(), FICLONERANGE as _, &raw const range) };
    if outcome == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}

impl CopyBackend for ReflinkRoad {
    fn road(&self) -> Road {
        Road::Reflink
    }

    fn caps(&self, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        self.shared.pair(from, to)?;
        Ok(CopyCaps {
            road: Road::Reflink,
            max_range_bytes: COMMAND_BYTES,
            max_command_bytes: COMMAND_BYTES,
            max_ranges: COMMAND_RANGES,
            simulated: false,
        })
    }

    fn submit(&self, command: CopyCommand) -> Result<Ticket> {
        let shared = self.shared.clone();
        Ok(self.workers.submit(move || shared.carry_out(&command)))
    }

    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        self.workers.complete(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_are_shared() {
        let parts = |from, len, to| cut(from, len, to, 4096).map(|cut| (cut.head, cut.whole, cut.tail));
        assert_eq!(parts(4096, 8192, 0), Some((0, 8192, 0)));
        assert_eq!(parts(512, 12288, 8704), Some((3584, 8192, 512)));
        assert_eq!(parts(512, 1024, 512), Some((1024, 0, 0)));
        assert_eq!(parts(0, 512, 4096), Some((0, 0, 512)));
        assert_eq!(parts(0, 8192, 512), None);
    }
}
