//! Opening what holds the data: a block device or a plain file, locked for us alone, with O_DIRECT where that works.

use crate::backing::Backing;
use crate::buffer::{AlignedBuf, BufSlice};
use crate::claim::{ATTEMPTS_TO_OWN, Claim, patiently};
use crate::error::{DeviceError, Result};
use crate::file_lock::{system, system_io};
use crate::permission::{not_opened, not_opened_io};
use crate::sticky_sync::StickySync;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An open device or file.
#[derive(Debug)]
pub(crate) struct Media {
    /// How it was named.
    pub path: PathBuf,
    /// Its descriptor, with O_DIRECT if `direct`.
    pub file: File,
    /// Reads and writes bypass the page cache.
    pub direct: bool,
    /// It is a block device, not a file.
    pub block_device: bool,
    /// It is a file that lives in memory: asynchronous I/O on it only costs threads.
    pub in_memory: bool,
    /// Opened for reading only.
    pub read_only: bool,
    /// Bytes.
    pub size: u64,
    /// Bytes in a logical block: 512 or 4096.
    pub block_size: u32,
    sync: StickySync,
    /// Last: it ends when the descriptor is closed.
    _claim: Option<Claim>,
}

impl Media {
    /// Opens and claims `path`: for writing alone, for reading together with other readers.
    pub(crate) fn open(path: &Path, read_only: bool) -> Result<Self> {
        Self::open_shared(path, read_only, false)
    }

    /// Opens `path`; `shared`: also if others use it (mounted, locked).
    pub(crate) fn open_shared(path: &Path, read_only: bool, shared: bool) -> Result<Self> {
        let unusable = |reason: String| Err(DeviceError::Unusable { path: path.to_owned(), reason });
        let metadata = std::fs::metadata(path).map_err(|error| not_opened_io(path, !read_only, &error))?;
        let file_type = metadata.file_type();
        let block_device = file_type.is_block_device();
        if !block_device && !file_type.is_file() {
            return unusable("it is neither a block device nor a regular file".to_owned());
        }
        let exclusive = block_device && !read_only && !shared;
        let (mut file, direct) = patiently(if exclusive { ATTEMPTS_TO_OWN } else { 0 }, || open_direct(path, read_only, exclusive))?;
        let claim = if shared { None } else { Some(Claim::take(&file, path, read_only)?) };
        if exclusive && is_write_protected(&metadata) {
            return unusable("the device is read-only (write-protected): it can be mounted with -o ro".to_owned());
        }
        let in_memory = !block_device && lives_in_memory(&file);
        let block_size = if block_device {
            rustix::fs::ioctl_blksszget(&file).map_err(|errno| system("read the block size of", path, errno))?
        } else {
            4096
        };
        if !matches!(block_size, 512 | 4096) {
            return unusable(format!("its logical block of {block_size} bytes is neither 512 nor 4096"));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(|error| system_io("read the size of", path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            direct,
            block_device,
            in_memory,
            read_only,
            size,
            block_size,
            sync: StickySync::default(),
            _claim: claim,
        })
    }

    /// The same bytes in as few slices as possible, each of which the device can take as it is: with O_DIRECT every slice
    /// must begin and end on a block, else all are gathered in one buffer.
    pub(crate) fn transferable(&self, data: &[BufSlice]) -> Vec<BufSlice> {
        let mut joined: Vec<BufSlice> = Vec::with_capacity(data.len());
        for part in data.iter().filter(|part| !part.is_empty()) {
            match joined.last().and_then(|last| last.joined(part)) {
                Some(longer) => *joined.last_mut().expect("it was just seen") = longer,
                None => joined.push(part.clone()),
            }
        }
        let block = self.block_size as usize;
        let aligned = |part: &BufSlice| part.as_ptr().addr().is_multiple_of(block) && part.len().is_multiple_of(block);
        if !self.direct || joined.iter().all(aligned) {
            return joined;
        }
        let mut whole = AlignedBuf::recycled(joined.iter().map(|part| part.len()).sum());
        let mut at = 0;
        for part in &joined {
            whole[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        vec![BufSlice::whole(whole)]
    }

    /// Where the first `len` bytes lie, which carry a device.
    pub(crate) fn backing(&self, len: u64) -> Backing {
        Backing { path: self.path.clone(), block_device: self.block_device, offset: 0, len, read_only: self.read_only }
    }

    /// Makes everything written so far durable.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let synced = self.sync.attempt(|| rustix::fs::fdatasync(&self.file));
        synced.map_err(|errno| system("flush", &self.path, errno))
    }

    /// Writes back what others left in the page cache, and empties the cache. Only a hint where the cache is in use.
    pub(crate) fn settle(&self) -> Result<()> {
        let failed = |errno| system("write back the page cache of", &self.path, errno);
        // Not remembered as a flush of ours: what fails here is what others wrote.
        rustix::fs::fdatasync(&self.file).map_err(failed)?;
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed).map_err(failed)
    }

    /// The smallest unit of direct I/O on a plain file, where the kernel says it: 512 or 4096.
    pub(crate) fn direct_unit(&self) -> u32 {
        /// STATX_DIOALIGN of Linux 6.1.
        const DIOALIGN: u32 = 0x2000;
        if self.block_device {
            return self.block_size;
        }
        if !self.direct || self.in_memory {
            return 512;
        }
        let flags = rustix::fs::StatxFlags::from_bits_retain(DIOALIGN);
        match rustix::fs::statx(&self.file, "", rustix::fs::AtFlags::EMPTY_PATH, flags) {
            Ok(found) if found.stx_mask & DIOALIGN != 0 && (1..=512).contains(&found.stx_dio_offset_align) => 512,
            _ => 4096,
        }
    }

    /// Tells the device that a range is unused. One that cannot take the hint is no error.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let told = if self.block_device {
            block_discard(&self.file, offset, len)
        } else {
            rustix::fs::fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
        };
        match told {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY | Errno::INVAL) => Ok(()),
            Err(errno) => Err(system("discard blocks of", &self.path, errno)),
        }
    }
}

/// Does the kernel refuse writes to this block device? It lets one open it for writing all the same.
fn is_write_protected(metadata: &Metadata) -> bool {
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).is_ok_and(|text| text.trim() == "1")
}

/// Is this a file of tmpfs or ramfs?
fn lives_in_memory(file: &File) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    let kind = rustix::fs::fstatfs(file).map(|statistics| statistics.f_type as u64 & 0xffff_ffff);
    matches!(kind, Ok(TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Opens with O_DIRECT, or without where the file system refuses it; a block device that others must not use exclusively:
/// a mounted one is busy.
fn open_direct(path: &Path, read_only: bool, exclusive: bool) -> Result<(File, bool)> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let exclusive = if exclusive { OFlags::EXCL } else { OFlags::empty() };
    let flags = access | exclusive | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::open(path, flags, Mode::empty());
    let opened = match open(flags | OFlags::DIRECT) {
        Err(Errno::INVAL) => open(flags).map(|fd| (fd, false)),
        other => other.map(|fd| (fd, true)),
    };
    match opened {
        Ok((fd, direct)) => Ok((File::from(fd), direct)),
        Err(Errno::BUSY) => Err(DeviceError::Busy { path: path.to_owned(), through: None }),
        Err(errno) => Err(not_opened(path, !read_only, errno)),
    }
}

/// BLKDISCARD of Linux's `fs.h`: `_IO(0x12, 119)`, with start and length in bytes.
fn block_discard(file: &File, offset: u64, len: u64) -> std::result::Result<(), Errno> {
    const BLKDISCARD: libc::c_ulong = 0x1277;
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 through the pointer, which points to two and outlives the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if outcome == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
