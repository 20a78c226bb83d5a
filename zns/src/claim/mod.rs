//! One user of a piece of storage at a time, by whichever name it is reached: a file, loop devices over it, loops over loops, partitions
//! of any of them.
//!
//! Everybody locks (flock) what was named and, down to the lowest, whatever is behind its loop devices: so a file and the loop devices over it meet
//! at the lock of the file. Who uses a file from its beginning takes that lock as it would take the file's own; what begins further on (a partition, a
//! loop device with an offset) takes it shared, for others may use other parts of the file.
//!
//! Then every other loop device with bytes in common is asked for exclusively, for a moment. That finds users who know nothing of our locks
//! (a mounted ext4, a dm table), neighbours in a part of a file, and daemons that were killed: their locks on files go with the process, their loop
//! device only when the kernel has ended the I/O in flight. Two that ask at once have both opened their own device exclusively
//! before, so at least one of them is refused. A loop device that nobody uses is in nobody's way.
//!
//! Partitions of one disk and the disk itself exclude one another by the kernel's own rules (O_EXCL).

mod layers;

use crate::error::{DeviceError, Result};
use crate::file_lock::{lock, system_io};
use crate::permission::not_opened;
use layers::{Layer, Reached, Sysfs, meet};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What else may lock a block device for a moment is udev, which looks at a device whenever somebody has closed it: worth a second of patience.
const ATTEMPTS_TO_LOCK: u32 = 50;
/// Others of us, who ask whether a device is used, hold it for less than that.
pub(crate) const ATTEMPTS_TO_OWN: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// The right to use a piece of storage: for writing alone, for reading together with other readers. It ends when this is dropped and the
/// file that it was taken for is closed.
#[derive(Debug)]
pub struct Claim {
    /// What lies behind loop devices, locked.
    _below: Vec<File>,
}

impl Claim {
    /// Claims what `file`, opened at `path`, stands on. A block device to be written must have been opened with O_EXCL.
    ///
    /// # Errors
    /// [`DeviceError::Busy`] if it is used already, under whatever name, else a failed system call.
    pub fn take(file: &File, path: &Path, read_only: bool) -> Result<Claim> {
        let metadata = file.metadata().map_err(|error| system_io("examine", path, &error))?;
        let sysfs = Sysfs::default();
        let layers = sysfs.layers(path, &metadata);
        let others = sysfs.loops().into_iter().filter(|other| is_another(&layers, other));
        let others: Vec<PathBuf> = others.map(|mut other| other.swap_remove(0).path).collect();
        let attempts = if metadata.file_type().is_block_device() && !read_only { ATTEMPTS_TO_LOCK } else { 0 };
        let locked = patiently(attempts, || lock(file, path, read_only)).and_then(|()| lock_below(&layers, path, read_only));
        let below = locked.map_err(|error| match error {
            DeviceError::Busy { path, through } => {
                let user = others.iter().find(|other| is_used(other, read_only)).cloned();
                DeviceError::Busy { path, through: user.or(through) }
            }
            error => error,
        })?;
        for other in &others {
            let free = || if is_used(other, read_only) { Err(busy(path, other)) } else { Ok(()) };
            patiently(if read_only { 0 } else { ATTEMPTS_TO_OWN }, free)?;
        }
        Ok(Claim { _below: below })
    }
}

/// Refuses storage that is used, under whatever name. Nothing is kept: who goes on to write claims it.
///
/// # Errors
/// As [`Claim::take`].
pub fn check_unused(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| system_io("examine", path, &error))?;
    let (flags, attempts) = if metadata.file_type().is_block_device() { (OFlags::EXCL, ATTEMPTS_TO_OWN) } else { (OFlags::empty(), 0) };
    let file = patiently(attempts, || open(path, flags))?;
    Claim::take(&file, path, false).map(drop)
}

/// The file behind a loop device, as the kernel names it.
pub fn file_behind(device: &Path) -> Option<PathBuf> {
    let layers = Sysfs::default().layers(device, &std::fs::metadata(device).ok()?);
    layers.into_iter().nth(1).filter(|layer| layer.reached == Reached::Loop).map(|layer| layer.path)
}

/// Do two paths lead to the same bytes, as far as this can be known?
pub fn is_same_storage(a: &Path, b: &Path) -> bool {
    let sysfs = Sysfs::default();
    let layers = |path: &Path| Some(sysfs.layers(path, &std::fs::metadata(path).ok()?));
    matches!((layers(a), layers(b)), (Some(a), Some(b)) if meet(&a, &b))
}

/// Tries again, so many times, what is busy.
pub(crate) fn patiently<T>(attempts: u32, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..attempts {
        match attempt() {
            Err(DeviceError::Busy { .. }) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    attempt()
}

fn busy(path: &Path, through: &Path) -> DeviceError {
    DeviceError::Busy { path: path.to_owned(), through: Some(through.to_owned()) }
}

/// Has a loop device bytes in common with `layers`, of which it is none?
fn is_another(layers: &[Layer], other: &[Layer]) -> bool {
    layers.iter().all(|layer| layer.identity != other[0].identity) && meet(layers, other)
}

/// Locks what is behind loop devices; a block device there must not belong to somebody exclusively either.
fn lock_below(layers: &[Layer], path: &Path, read_only: bool) -> Result<Vec<File>> {
    let mut locked = Vec::new();
    for (index, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.reached == Reached::Loop) {
        let is_same = |other: &Layer| other.identity == layer.identity;
        if layers[..index].iter().any(is_same) {
            continue;
        }
        let shared = read_only || !layers.iter().any(|other| is_same(other) && other.span.begins_the_layer());
        let file = match open(&layer.path, OFlags::empty()) {
            Ok(file) => file,
            // No path leads there: it can be used through loop devices only, and those are asked.
            Err(DeviceError::System { errno: libc::ENOENT, .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_block = file.metadata().is_ok_and(|found| found.file_type().is_block_device());
        patiently(if is_block && !read_only { ATTEMPTS_TO_OWN } else { 0 }, || {
            if is_block && !read_only && is_owned(&layer.path) {
                return Err(busy(path, &layer.path));
            }
            lock(&file, &layer.path, shared)
        })
        .map_err(|error| if matches!(error, DeviceError::Busy { .. }) { busy(path, &layer.path) } else { error })?;
        locked.push(file);
    }
    Ok(locked)
}

/// Does somebody use this loop device? One that cannot be looked at counts as used.
fn is_used(device: &Path, read_only: bool) -> bool {
    let file = match open(device, OFlags::EXCL) {
        Ok(file) => file,
        // Detached meanwhile.
        Err(DeviceError::System { errno: libc::ENXIO | libc::ENODEV, .. }) => return false,
        Err(_) => return true,
    };
    // Readers of ours hold no more than the lock, and other readers do not mind them.
    !read_only && flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// Has somebody opened this block device exclusively: a mount, a swap area, dm, md, one of us?
fn is_owned(device: &Path) -> bool {
    matches!(open(device, OFlags::EXCL), Err(DeviceError::Busy { .. }))
}

fn open(path: &Path, flags: OFlags) -> Result<File> {
    match rustix::fs::open(path, flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(Errno::BUSY) => Err(DeviceError::Busy { path: path.to_owned(), through: None }),
        Err(errno) => Err(not_opened(path, false, errno)),
    }
}
