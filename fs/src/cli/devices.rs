//! From the paths on a command line to the devices of a volume.
//!
//! A device without zones of its own (a plain disk, a plain file) is cut into zones by software, and only the volume on
//! it knows how large they are. So its superblock is looked for first, at the two places where the ring can begin.

use crate::BLOCK;
use crate::error::{FsError, Result};
use crate::format::superblock::{RING_SLOTS, Superblock};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zns::open::{Detected, OpenOptions, detect, open_device};
use zns::permission::not_opened_io;
use zns::{DeviceError, ZonedDevice};

/// How long to wait where nobody is expected to hold a device: the kernel lets go of the files of a process that was
/// killed a moment after the process is gone.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(3);

/// Zone sizes that software zones can have: powers of two from 1 MiB to 2 GiB.
pub const SOFTWARE_ZONE_SHIFTS: std::ops::RangeInclusive<u32> = 20..=31;

/// How devices are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Never write.
    pub read_only: bool,
    /// Tell devices what was freed.
    pub discard: bool,
    /// How long to wait for a daemon that has been unmounted and still writes its last checkpoint.
    pub patience: Duration,
}

impl Access {
    /// Only to look. The lock of a daemon that was killed goes only when the kernel has taken its io_uring down, a moment after its end.
    pub fn read_only() -> Self {
        Self { read_only: true, discard: false, patience: SHORT_PATIENCE }
    }
}

/// Opens and locks every device of a volume.
///
/// # Errors
/// The first device that cannot be opened, in a sentence that names it.
pub fn open_devices(paths: &[PathBuf], access: Access) -> Result<Vec<Arc<dyn ZonedDevice>>> {
    paths.iter().map(|path| open_one(path, access)).collect()
}

fn open_one(path: &Path, access: Access) -> Result<Arc<dyn ZonedDevice>> {
    let zone_size = match detect(path).map_err(plain)? {
        Detected::ConventionalBlock | Detected::PlainFile => software_zone_size(path)?,
        _ => None,
    };
    let options = OpenOptions { read_only: access.read_only, zone_size, discard: access.discard };
    patiently(path, access.patience, || open_device(path, &options)).map_err(plain)
}

/// Opens a device; waits for one that is busy and yet not mounted.
///
/// # Errors
/// Those of opening, "busy" when the time is over.
pub fn patiently<T>(path: &Path, patience: Duration, open: impl Fn() -> zns::error::Result<T>) -> zns::error::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match open() {
            Err(DeviceError::Busy { .. }) if Instant::now() < deadline && !is_mounted(path) => {
                std::thread::sleep(Duration::from_millis(20))
            }
            other => return other,
        }
    }
}

/// A device that cannot be opened is a matter between people and their command line, not an I/O error.
fn plain(error: DeviceError) -> FsError {
    match error {
        // Exit statuses tell it apart.
        DeviceError::Denied { .. } => FsError::Device(error),
        _ => FsError::Volume(error.to_string()),
    }
}

/// Where `device` is mounted as a FerryFS, if it is.
pub fn mountpoint_of(device: &Path) -> Option<PathBuf> {
    use crate::fuse::mountpoint::{FILESYSTEM_TYPE, mounts};
    let device = device.canonicalize().ok()?;
    let line = mounts().ok()?.into_iter().rfind(|line| line.kind == FILESYSTEM_TYPE && Path::new(&line.source) == device)?;
    Some(line.path)
}

fn is_mounted(device: &Path) -> bool {
    mountpoint_of(device).is_some()
}

/// The zone size that the volume on a device without zones has; an error if there is no volume.
fn software_zone_size(path: &Path) -> Result<Option<u64>> {
    let unreadable = |error: std::io::Error| FsError::Volume(format!("read {}: {error}", path.display()));
    let file = File::open(path).map_err(|error| plain(not_opened_io(path, false, &error)))?;
    let mut ring = vec![0; RING_SLOTS as usize * BLOCK];
    let len = read_some(&file, 0, &mut ring).map_err(unreadable)?;
    let newest = ring[..len].chunks_exact(BLOCK).filter_map(|block| Superblock::decode(block).ok()).max_by_key(|found| found.generation);
    if let Some(size) = newest.as_ref().and_then(zone_size_of) {
        return Ok(Some(size));
    }
    for shift in SOFTWARE_ZONE_SHIFTS {
        let mut block = vec![0; BLOCK];
        let len = read_some(&file, 1 << shift, &mut block).map_err(unreadable)?;
        let found = Superblock::decode(&block[..len]).ok().and_then(|found| zone_size_of(&found));
        if found == Some(1 << shift) {
            return Ok(found);
        }
    }
    // Whatever it is, opening it says so in its own words: with a superblock that is damaged or from the future, too.
    Ok(None)
}

fn zone_size_of(superblock: &Superblock) -> Option<u64> {
    let member = superblock.members.get(usize::from(superblock.device))?;
    member.zone_blocks.checked_mul(BLOCK as u64)
}

fn read_some(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
