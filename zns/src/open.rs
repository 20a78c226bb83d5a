//! From a path to a device: what stands there, and the right kind of [`ZonedDevice`] over it.

use crate::conventional::{ConventionalDevice, ConventionalOptions};
use crate::device::ZonedDevice;
use crate::error::{DeviceError, Result};
use crate::image::ImageDevice;
use crate::kernel::{self, KernelDevice};
use crate::permission::not_opened_io;
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A regular file with the header of a drive image (perhaps a damaged one).
    Image,
    /// A host-managed or host-aware zoned block device.
    ZonedBlock,
    /// A block device without zones.
    ConventionalBlock,
    /// A regular file without the header of an image.
    PlainFile,
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// Something else that cannot carry a volume: a character device, a pipe, a socket.
    Other,
}

/// How to open a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Never write; does not exclude other readers.
    pub read_only: bool,
    /// Zone size in bytes for devices without zones of their own; `None` for
    /// [`crate::conventional::default_zone_size`]. Others ignore it.
    pub zone_size: Option<u64>,
    /// Pass resets on to devices without zones as discards.
    pub discard: bool,
}

/// What stands at `path`. Follows symbolic links.
///
/// # Errors
/// A path that cannot be examined or a file that cannot be read (no permission).
pub fn detect(path: impl AsRef<Path>) -> Result<Detected> {
    detect_for(path.as_ref(), false)
}

/// [`detect`] on the way to an open, for writing or not: so much permission is named if some is missing.
pub(crate) fn detect_for(path: &Path, write: bool) -> Result<Detected> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Detected::Missing),
        Err(error) => return Err(not_opened_io(path, write, &error)),
    };
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        return Ok(Detected::Directory);
    }
    if file_type.is_block_device() {
        return Ok(if kernel::is_zoned(path)? { Detected::ZonedBlock } else { Detected::ConventionalBlock });
    }
    if !file_type.is_file() {
        return Ok(Detected::Other);
    }
    let file = File::open(path).map_err(|error| not_opened_io(path, write, &error))?;
    Ok(if crate::image::has_header(&file) { Detected::Image } else { Detected::PlainFile })
}

/// Opens whatever stands at `path` as zones, and locks it.
///
/// Block devices and files without an image header come with a thread and an io_uring of their own: a daemon forks first
/// and opens then.
///
/// # Errors
/// A sentence for each way in which it cannot be done: missing, not permitted, busy, of the wrong kind, too small, damaged.
pub fn open_device(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Arc<dyn ZonedDevice>> {
    let path = path.as_ref();
    let unusable = |reason: &str| DeviceError::Unusable { path: path.to_owned(), reason: reason.to_owned() };
    match detect_for(path, !options.read_only)? {
        Detected::Image => Ok(Arc::new(ImageDevice::open(path, options.read_only)?)),
        Detected::ZonedBlock => Ok(Arc::new(KernelDevice::open(path, options.read_only)?)),
        Detected::ConventionalBlock | Detected::PlainFile => {
            let OpenOptions { read_only, zone_size, discard } = *options;
            let conventional = ConventionalOptions { zone_size, discard, read_only };
            Ok(Arc::new(ConventionalDevice::open(path, &conventional)?))
        }
        Detected::Missing => Err(crate::file_lock::system("open", path, Errno::NOENT)),
        Detected::Directory => Err(unusable("it is a directory: name a block device or a regular file")),
        Detected::Other => Err(unusable("it is neither a block device nor a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageOptions;
    use crate::{AlignedBuf, BufSlice, IoClass, Lba, ZoneAction, ZoneId, ZoneState};

    const MIB: u64 = 1 << 20;

    fn refusal(path: &Path) -> DeviceError {
        open_device(path, &OpenOptions::default()).map(drop).unwrap_err()
    }

    fn plain_file(path: &Path, len: u64) {
        File::create(path).unwrap().set_len(len).unwrap();
    }

    #[test]
    fn wrong_paths_are_refused_with_a_clear_word() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        assert_eq!(detect(&file).unwrap(), Detected::Missing);
        assert_eq!(refusal(&file).errno(), libc::ENOENT);
        assert!(refusal(directory.path()).to_string().contains("directory"));
        assert!(refusal(Path::new("/dev/null")).to_string().contains("neither a block device"));
        plain_file(&file, 20 * MIB);
        assert_eq!(detect(&file).unwrap(), Detected::PlainFile);
        assert!(refusal(&file).to_string().contains("too small"));
    }

    #[test]
    fn an_image_opens_as_an_image_and_is_busy_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let options = ImageOptions { size: 64 * MIB, zone_size: MIB, ..ImageOptions::default() };
        drop(ImageDevice::create(&path, &options).unwrap());
        assert_eq!(detect(&path).unwrap(), Detected::Image);
        let reader = OpenOptions { read_only: true, ..OpenOptions::default() };
        let first = open_device(&path, &reader).unwrap();
        let second = open_device(&path, &reader).unwrap();
        assert!(matches!(refusal(&path), DeviceError::Busy { .. }));
        drop((first, second));
        let writer = open_device(&path, &OpenOptions::default()).unwrap();
        assert!(writer.native_copy().is_some());
        assert!(matches!(open_device(&path, &reader).map(drop), Err(DeviceError::Busy { .. })));
        assert!(matches!(refusal(&path), DeviceError::Busy { .. }));
    }

    #[test]
    fn a_plain_file_opens_as_zones_that_are_full_until_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        plain_file(&path, 100 * MIB + 12345);
        let options = OpenOptions { zone_size: Some(4 * MIB), ..OpenOptions::default() };
        let device = open_device(&path, &options).unwrap();
        assert_eq!(device.geometry().zones, 25);
        let mut zones = device.report(0..25).unwrap();
        assert!(zones.iter().all(|zone| zone.state == ZoneState::Full));
        zones[3].state = ZoneState::Closed;
        zones[3].written = crate::Blocks(2);
        device.adopt(&zones).unwrap();
        let lba = device.geometry().zone_start(ZoneId(3));
        let data = BufSlice::whole(AlignedBuf::from_slice(&[5; 8192]));
        assert!(device.write(lba, vec![data.clone()], IoClass::Log).is_err());
        let at = Lba(lba.0 + 2);
        device.write(at, vec![data.clone()], IoClass::Log).unwrap();
        device.flush().unwrap();
        assert_eq!(&device.read(at, AlignedBuf::zeroed(8192), IoClass::Log).unwrap()[..], &data[..]);
        assert_eq!(device.report(3..4).unwrap()[0].written, crate::Blocks(4));
        device.manage(ZoneId(3), ZoneAction::Reset).unwrap();
        assert_eq!(device.report(3..4).unwrap()[0].state, ZoneState::Empty);
    }
}
