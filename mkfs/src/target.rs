//! One device or file to be formatted: what it is, what must not be lost, and how it becomes zones.

use crate::arguments::{Arguments, Profile};
use crate::signature;
use anyhow::{Context, Result, bail, ensure};
use fs::cli::devices::{SHORT_PATIENCE, SOFTWARE_ZONE_SHIFTS, mount_of, patiently};
use fs::cli::size::show_size;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zns::claim::{Claim, check_unused};
use zns::conventional::default_zone_size;
use zns::image::{ImageDevice, ImageOptions, Layout};
use zns::open::{Detected, OpenOptions, detect, open_device};
use zns::permission::not_opened_io;
use zns::{DeviceError, ZonedDevice};

/// Bytes at the start of a file and at its end that are made zero on a device that had something else on it.
const ERASED: u64 = 1 << 20;

/// What a target becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A drive in a file, made anew.
    Drive(ImageOptions),
    /// A plain file of this size, made anew.
    Plain {
        /// Bytes.
        size: u64,
    },
    /// A block device, as it is.
    Block,
}

/// A checked target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    kind: Kind,
    zone_size: Option<u64>,
    /// Is there a file already?
    exists: bool,
}

impl Target {
    /// Looks at `path` and decides what it becomes. Writes nothing.
    ///
    /// # Errors
    /// Everything that speaks against it, in a sentence.
    pub fn examine(path: &Path, arguments: &Arguments) -> Result<Self> {
        let found = detect(path)?;
        match found {
            Detected::Directory => bail!("{} is a directory: name a block device or a regular file", path.display()),
            Detected::Other => bail!("{} is neither a block device nor a regular file", path.display()),
            Detected::Missing => {
                let size =
                    arguments.size.with_context(|| format!("{} does not exist: --size says how large a file to make", path.display()))?;
                Self::file(path, size, false, arguments)
            }
            Detected::Image | Detected::PlainFile => {
                let file = File::open(path).map_err(|error| not_opened_io(path, false, &error))?;
                let len = file.metadata()?.len();
                refuse_used(path)?;
                if !arguments.force {
                    refuse_contents(path, &file, len, true)?;
                }
                let size = match arguments.size {
                    Some(size) => size,
                    None if len > 0 => room_in(len, arguments),
                    None => bail!("{} is empty: --size says how large to make it", path.display()),
                };
                Self::file(path, size, true, arguments)
            }
            Detected::ZonedBlock | Detected::ConventionalBlock => {
                let refused = [(arguments.size.is_some(), "--size"), (arguments.profile.is_some(), "--profile")]
                    .into_iter()
                    .find_map(|(given, name)| given.then_some(name));
                if let Some(name) = refused.or(arguments.drive_option()) {
                    bail!("{name} is for regular files, and {} is a block device", path.display());
                }
                let zoned = found == Detected::ZonedBlock;
                let zone_size = arguments.zone_size.map(check_zone_size).transpose()?;
                // Beside a device that has none, it is meant for that one.
                if zoned && zone_size.is_some() && arguments.devices.iter().all(|other| matches!(detect(other), Ok(Detected::ZonedBlock))) {
                    bail!("{} has zones of its own: --zone-size cannot change them", path.display());
                }
                let zone_size = zone_size.filter(|_| !zoned);
                refuse_used(path)?;
                if !arguments.force {
                    let mut file = File::open(path).map_err(|error| not_opened_io(path, false, &error))?;
                    let size = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
                    refuse_contents(path, &file, size, false)?;
                }
                Ok(Self { path: path.to_owned(), kind: Kind::Block, zone_size, exists: true })
            }
        }
    }

    fn file(path: &Path, size: u64, exists: bool, arguments: &Arguments) -> Result<Self> {
        let zone_size = check_zone_size(arguments.zone_size.unwrap_or_else(|| default_zone_size(size)))?;
        let kind = if arguments.profile == Some(Profile::Conventional) {
            if let Some(name) = arguments.drive_option() {
                bail!("{name} is for --profile zns");
            }
            check_shape(path, size, zone_size)?;
            Kind::Plain { size }
        } else {
            let (max_open, max_active) = arguments.zone_limits();
            let block_size = u32::try_from(arguments.block_size.unwrap_or(4096)).unwrap_or(u32::MAX);
            let options = ImageOptions {
                size,
                zone_size,
                zone_capacity: arguments.zone_capacity,
                block_size,
                max_open,
                max_active,
                copy: arguments.copy_limits,
                overwrite: exists,
            };
            check_shape(path, size, zone_size)?;
            Layout::from_options(&options).map_err(|reason| anyhow::anyhow!("{}: {reason}", path.display()))?;
            Kind::Drive(options)
        };
        Ok(Self { path: path.to_owned(), kind, zone_size: Some(zone_size), exists })
    }

    /// Makes the device that is to be formatted. From here on its old contents are lost.
    ///
    /// # Errors
    /// A device in use, or one that fails.
    pub fn open(&self, made: &mut MadeFiles) -> Result<Arc<dyn ZonedDevice>> {
        match &self.kind {
            Kind::Drive(options) => {
                let device = patiently(&self.path, SHORT_PATIENCE, || ImageDevice::create(&self.path, options))?;
                made.note(self);
                Ok(Arc::new(device))
            }
            Kind::Plain { size } => {
                self.make_plain(*size, made)?;
                self.open_in_software()
            }
            Kind::Block => {
                let device = self.open_in_software()?;
                if device.geometry().software_zones {
                    // The device above holds the lock; what it does not cover (marks at the end, rings of older volumes
                    // with other zone sizes) is erased beside it.
                    let mut file = File::options().write(true).open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
                    let size = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
                    erase_marks(&file, size).with_context(|| format!("erase what was on {}", self.path.display()))?;
                }
                Ok(device)
            }
        }
    }

    fn make_plain(&self, size: u64, made: &mut MadeFiles) -> Result<()> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&self.path);
        let file = file.with_context(|| format!("create {}", self.path.display()))?;
        made.note(self);
        let _claim = patiently(&self.path, SHORT_PATIENCE, || Claim::take(&file, &self.path, false))?;
        file.set_len(0).and_then(|()| file.set_len(size)).with_context(|| format!("set the length of {}", self.path.display()))
    }

    fn open_in_software(&self) -> Result<Arc<dyn ZonedDevice>> {
        let options = OpenOptions { read_only: false, zone_size: self.zone_size, discard: false };
        Ok(patiently(&self.path, SHORT_PATIENCE, || open_device(&self.path, &options))?)
    }
}

/// Files that this run has made: gone again unless it succeeds.
#[derive(Debug, Default)]
pub struct MadeFiles(Vec<PathBuf>);

impl MadeFiles {
    fn note(&mut self, target: &Target) {
        if !target.exists {
            self.0.push(target.path.clone());
        }
    }
    /// All went well: they stay.
    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            // The error that is being reported matters more than this one.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Bytes of a drive that fits into a file of `len` bytes with the drive's own tables.
fn room_in(len: u64, arguments: &Arguments) -> u64 {
    if arguments.profile == Some(Profile::Conventional) {
        return len;
    }
    let zone_size = arguments.zone_size.unwrap_or_else(|| default_zone_size(len));
    let smallest_table = Layout::from_options(&ImageOptions { size: len, zone_size, ..ImageOptions::default() })
        .map_or(1 << 20, |layout| layout.data_offset());
    len.saturating_sub(smallest_table)
}

fn check_zone_size(bytes: u64) -> Result<u64> {
    let fits = bytes.is_power_of_two() && SOFTWARE_ZONE_SHIFTS.contains(&bytes.trailing_zeros());
    ensure!(fits, "a zone of {} is not possible: choose a power of two from 1 MiB to 2 GiB", show_size(bytes));
    Ok(bytes)
}

fn check_shape(path: &Path, size: u64, zone_size: u64) -> Result<()> {
    use fs::volume::layout::{MIN_BYTES, MIN_ZONES};
    let path = path.display();
    let zones = size / zone_size;
    ensure!(size >= MIN_BYTES, "{path}: {} is too small: a volume needs at least {}", show_size(size), show_size(MIN_BYTES));
    ensure!(
        zones >= u64::from(MIN_ZONES),
        "{path}: too small: {} make {zones} zones of {}, and a volume needs at least {MIN_ZONES}: choose smaller zones (--zone-size) or a larger size",
        show_size(size),
        show_size(zone_size)
    );
    ensure!(
        zones <= zns::conventional::MAX_ZONES,
        "{path}: {zones} zones of {} are too many: choose larger zones (--zone-size), at most {} are possible",
        show_size(zone_size),
        zns::conventional::MAX_ZONES
    );
    Ok(())
}

/// Storage that somebody uses, by whichever name.
fn refuse_used(path: &Path) -> Result<()> {
    patiently(path, SHORT_PATIENCE, || check_unused(path)).map_err(|error| match (&error, mount_of(path)) {
        (DeviceError::Busy { .. }, Some(mounted)) => anyhow::anyhow!("{} is in use: it is {mounted}", path.display()),
        _ => error.into(),
    })
}

/// A filesystem, a partition table, or, in a file, anything at all.
fn refuse_contents(path: &Path, file: &File, size: u64, is_file: bool) -> Result<()> {
    let unreadable = || format!("read {}", path.display());
    let found = signature::probe(file, size).with_context(unreadable)?;
    ensure!(found.is_empty(), "{} holds {}: --force overwrites it", path.display(), found.join(" and "));
    if is_file && signature::holds_data(file, size).with_context(unreadable)? {
        bail!("{} is a file with something in it: --force overwrites it", path.display());
    }
    Ok(())
}

/// Makes the places zero where marks of other filesystems, and superblocks of older volumes with other zone sizes, lie.
fn erase_marks(file: &File, size: u64) -> std::io::Result<()> {
    let zeros = vec![0; ERASED as usize];
    let erase = |offset: u64, len: u64| file.write_all_at(&zeros[..len.min(size.saturating_sub(offset)).min(ERASED) as usize], offset);
    erase(0, ERASED)?;
    erase(size.saturating_sub(ERASED), ERASED)?;
    for shift in SOFTWARE_ZONE_SHIFTS {
        if 1 << shift < size {
            erase(1 << shift, 4096)?;
        }
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn arguments(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split_whitespace()).unwrap()
    }

    fn examine(path: &Path, line: &str) -> Result<Target, String> {
        Target::examine(path, &arguments(&format!("mkfs.ferryfs {line} x"))).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn shapes_that_are_not_possible_are_refused_before_anything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        for (line, part) in [
            ("", "--size"),
            ("--size 0", "too small"),
            ("--size 1M", "too small"),
            ("--size 63M", "too small"),
            ("--size 64M --zone-size 64M", "too small"),
            ("--size 64M --zone-size 3000", "power of two"),
            ("--size 128M --zone-size 0", "power of two"),
            ("--size 1G --zone-size 3M", "power of two"),
            ("--size 1T --zone-size 4G", "power of two"),
            ("--size 1P --zone-size 1M", "too many"),
            ("--size 1G --block-size 1024", "512 or 4096"),
            ("--size 1G --zone-capacity 1G", "capacity"),
            ("--size 1G --max-open 8 --max-active 6", "open"),
            ("--size 1G --profile conventional --max-open 8", "--profile zns"),
        ] {
            let error = examine(&path, line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(examine(directory.path(), "--size 1G").unwrap_err().contains("directory"));
        assert!(examine(Path::new("/dev/null"), "").unwrap_err().contains("neither"));
        assert!(!path.exists());
    }

    #[test]
    fn small_files_get_small_zones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        for (size, zone) in [("64M", 1 << 20), ("512M", 8 << 20), ("4G", 16 << 20), ("25T", 512 << 20)] {
            assert_eq!(examine(&path, &format!("--size {size}")).unwrap().zone_size, Some(zone), "{size}");
        }
    }

    #[test]
    fn contents_are_kept_without_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old");
        let file = File::create(&path).unwrap();
        file.set_len(100 << 20).unwrap();
        assert!(examine(&path, "").is_ok(), "zeros are nothing to lose");
        file.write_all_at(b"a letter", 50 << 20).unwrap();
        assert!(examine(&path, "").unwrap_err().contains("--force"));
        file.write_all_at(b"XFSB", 0).unwrap();
        assert!(examine(&path, "").unwrap_err().contains("an XFS filesystem: --force overwrites it"));
        let forced = examine(&path, "--force").unwrap();
        let Kind::Drive(options) = &forced.kind else { panic!("{forced:?}") };
        assert!(Layout::from_options(options).unwrap().file_bytes() <= 100 << 20, "it does not grow");
    }
}
