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
use zns::claim::{file_behind, is_same_storage};
use zns::image::DeviceModel;
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
    /// Whose times images play.
    pub model: DeviceModel,
    /// How long to wait for a daemon that has been unmounted and still writes its last checkpoint.
    pub patience: Duration,
}

impl Access {
    /// Only to look. The lock of a daemon that was killed goes only when the kernel has taken its io_uring down, a moment after its end.
    pub fn read_only() -> Self {
        Self { read_only: true, patience: SHORT_PATIENCE, ..Self::default() }
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
    let found = detect(path).map_err(plain)?;
    let zone_size = match found {
        Detected::ConventionalBlock | Detected::PlainFile => {
            refuse_drive_image(path, found)?;
            software_zone_size(path)?
        }
        _ => None,
    };
    let options = OpenOptions { read_only: access.read_only, zone_size, discard: access.discard };
    let device = patiently(path, access.patience, || open_device(path, &options)).map_err(plain)?;
    device.play(access.model).map_err(plain)?;
    Ok(device)
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

/// Where a device is mounted. Shown as "mounted on MOUNTPOINT".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount point.
    pub at: PathBuf,
    /// The name that was given to the mount, if it is another one.
    pub under: Option<PathBuf>,
}

impl std::fmt::Display for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mounted on {}", self.at.display())?;
        self.under.as_ref().map_or(Ok(()), |name| write!(f, " as {}", name.display()))
    }
}

/// Where `device`, or what is the same storage under another name, is mounted as a FerryFS, if it is.
pub fn mount_of(device: &Path) -> Option<Mounted> {
    use crate::fuse::mountpoint::mounts;
    let is_ours = |source: &Path| is_same_storage(source, device);
    let line = mounts().ok()?.into_iter().rfind(|line| line.is_ours() && is_ours(Path::new(&line.source)))?;
    let source = PathBuf::from(line.source);
    let is_another_name = device.canonicalize().is_ok_and(|device| device != source);
    Some(Mounted { at: line.path, under: is_another_name.then_some(source) })
}

/// A drive image where no drive is seen must not be taken for a plain disk, whose blocks lie elsewhere.
fn refuse_drive_image(path: &Path, found: Detected) -> Result<()> {
    if !zns::image::is_at(path).map_err(plain)? {
        return Ok(());
    }
    let advice = match (found, file_behind(path)) {
        (Detected::PlainFile, _) => "both copies of the header of the drive image are damaged: restore the file from a backup".to_owned(),
        (_, Some(file)) => format!("it holds a drive image, which works as a file only: name {} itself", file.display()),
        (_, None) => "it holds a drive image, which works as a file only: copy it to a file".to_owned(),
    };
    Err(FsError::Volume(format!("{}: {advice}", path.display())))
}

fn is_mounted(device: &Path) -> bool {
    mount_of(device).is_some()
}

/// The zone size that the volume on a device without zones has; an error if there is no volume.
fn software_zone_size(path: &Path) -> Result<Option<u64>> {
    let file = File::open(path).map_err(|error| plain(not_opened_io(path, false, &error)))?;
    let mut ring = vec![0; RING_SLOTS as usize * BLOCK];
    // A bad block must not hide the records around it; what cannot be read at all is refused when it is opened.
    let len = read_some(&file, 0, &mut ring).unwrap_or_else(|_| {
        (0_u64..).zip(ring.chunks_exact_mut(BLOCK)).for_each(|(n, block)| {
            if file.read_exact_at(block, n * BLOCK as u64).is_err() {
                block.fill(0);
            }
        });
        ring.len()
    });
    let newest = ring[..len].chunks_exact(BLOCK).filter_map(|block| Superblock::decode(block).ok()).max_by_key(|found| found.generation);
    if let Some(size) = newest.as_ref().and_then(zone_size_of) {
        return Ok(Some(size));
    }
    for shift in SOFTWARE_ZONE_SHIFTS {
        let mut block = vec![0; BLOCK];
        let len = read_some(&file, 1 << shift, &mut block).unwrap_or(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use zns::image::{ImageDevice, ImageOptions};

    #[test]
    fn an_image_plays_a_drive_if_asked_and_without_its_header_is_not_taken_for_a_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        drop(ImageDevice::create(&path, &ImageOptions { size: 64 << 20, zone_size: 1 << 20, ..ImageOptions::default() }).unwrap());
        let file = File::options().write(true).open(&path).unwrap();
        let open = || open_devices(std::slice::from_ref(&path), Access::read_only()).map(drop);
        file.write_all_at(b"?", 0).unwrap();
        assert!(open().is_ok(), "the other copy is sound");
        let played = |path: &Path| open_devices(&[path.to_owned()], Access { model: DeviceModel::ZnsTlc, ..Access::read_only() });
        assert_eq!(played(&path).unwrap()[0].model(), DeviceModel::ZnsTlc);
        let plain = directory.path().join("plain");
        File::create(&plain).unwrap().set_len(128 << 20).unwrap();
        let said = played(&plain).map(drop).unwrap_err().to_string();
        assert!(said.contains("only an image plays those of zns-tlc"), "{said}");
        file.write_all_at(b"?", 64 << 10).unwrap();
        let said = open().unwrap_err().to_string();
        assert!(said.contains("header of the drive image") && said.contains(path.to_str().unwrap()), "{said}");
    }
}
