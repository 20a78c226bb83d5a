//! The file under an image: positioned reads and writes that never stop half-way, holes, and copies within the file.

use crate::positioned::{Stopped, read_at, write_at, write_parts_at};
use crate::sim::{By, SimFile};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Memory of a copy that the file system cannot make by itself.
const BOUNCE_BYTES: u64 = 256 << 10;

/// A file of the system's, or one in memory whose failures and losses a test decides ([`crate::sim`]).
#[derive(Debug)]
enum Medium {
    Real(File),
    Simulated(SimFile),
}

/// The file, and what its file system turned out to be able to do.
#[derive(Debug)]
pub(super) struct Backing {
    medium: Medium,
    can_punch: AtomicBool,
    can_copy: AtomicBool,
    /// Writes beyond fail as on a full file system.
    #[cfg(test)]
    full_beyond: u64,
}

impl Backing {
    pub(super) fn new(file: File) -> Self {
        Self::on(Medium::Real(file))
    }

    pub(super) fn simulated(file: &SimFile) -> Self {
        Self::on(Medium::Simulated(file.clone()))
    }

    fn on(medium: Medium) -> Self {
        Self {
            medium,
            can_punch: AtomicBool::new(true),
            can_copy: AtomicBool::new(true),
            #[cfg(test)]
            full_beyond: u64::MAX,
        }
    }

    /// Fills `buf`; what lies beyond the end of the file reads as zeros.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let file = match &self.medium {
            Medium::Real(file) => file,
            Medium::Simulated(file) => return file.read(offset, buf),
        };
        let done = read_at(file, offset, buf)?;
        buf[done..].fill(0);
        Ok(())
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Stopped> {
        match &self.medium {
            Medium::Real(file) => write_at(file, offset, bytes),
            Medium::Simulated(file) => file.write(offset, bytes, By::Host),
        }
    }

    /// Writes all of `parts`, one behind the other.
    pub(super) fn write_parts<'a>(&self, offset: u64, parts: impl Iterator<Item = &'a [u8]>) -> Result<(), Stopped> {
        #[cfg(test)]
        if self.full_beyond != u64::MAX {
            let whole: Vec<u8> = parts.flatten().copied().collect();
            let fits = (self.full_beyond.saturating_sub(offset) as usize).min(whole.len());
            self.write(offset, &whole[..fits])?;
            return if fits < whole.len() { Err(Stopped { done: fits as u64, errno: Errno::NOSPC }) } else { Ok(()) };
        }
        match &self.medium {
            Medium::Real(file) => write_parts_at(file, offset, parts),
            Medium::Simulated(file) => file.write(offset, &parts.flatten().copied().collect::<Vec<u8>>(), By::Host),
        }
    }

    /// Gives the space of a range back; it reads as zeros then. False if the file system cannot.
    pub(super) fn punch(&self, offset: u64, len: u64) -> Result<bool, Errno> {
        if !self.can_punch.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let file = match &self.medium {
            Medium::Real(file) => file,
            Medium::Simulated(file) => return file.punch(offset, len).map(|()| true),
        };
        loop {
            match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.can_punch.store(false, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Makes a range read as zeros, by a hole if possible.
    pub(super) fn zero(&self, offset: u64, len: u64) -> Result<(), Stopped> {
        if self.punch(offset, len).map_err(|errno| Stopped { done: 0, errno })? {
            return Ok(());
        }
        let zeros = vec![0; BOUNCE_BYTES.min(len) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(BOUNCE_BYTES);
            let written = self.write(offset + done, &zeros[..count as usize]);
            written.map_err(|stop| Stopped { done: done + stop.done, ..stop })?;
            done += count;
        }
        Ok(())
    }

    /// Copies a range within the file, inside the kernel where the file system can do that. Source and target do not overlap.
    pub(super) fn copy(&self, from: u64, to: u64, len: u64) -> Result<(), Stopped> {
        let file = match &self.medium {
            Medium::Real(file) => file,
            Medium::Simulated(file) => {
                let mut bytes = vec![0; len as usize];
                file.read(from, &mut bytes).map_err(|errno| Stopped { done: 0, errno })?;
                return file.write(to, &bytes, By::Copy);
            }
        };
        let mut done = 0;
        while done < len && self.can_copy.load(Ordering::Relaxed) {
            let (mut source, mut target) = (from + done, to + done);
            let count = (len - done) as usize;
            match rustix::fs::copy_file_range(file, Some(&mut source), file, Some(&mut target), count) {
                // The source ends early (a file cut short): let the reads below see zeros there.
                Ok(0) => break,
                Ok(count) => done += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.can_copy.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(Stopped { done, errno }),
            }
        }
        self.copy_by_bounce(from + done, to + done, len - done).map_err(|stop| Stopped { done: done + stop.done, ..stop })
    }

    fn copy_by_bounce(&self, from: u64, to: u64, len: u64) -> Result<(), Stopped> {
        let mut bounce = vec![0; BOUNCE_BYTES.min(len) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(BOUNCE_BYTES) as usize;
            self.read(from + done, &mut bounce[..count]).map_err(|errno| Stopped { done, errno })?;
            let written = self.write(to + done, &bounce[..count]);
            written.map_err(|stop| Stopped { done: done + stop.done, ..stop })?;
            done += count as u64;
        }
        Ok(())
    }

    /// End of the last piece of data that the file system knows of in `range`, as a distance from its start; 0 if there is none.
    /// A file system that knows no holes says that all is data.
    pub(super) fn data_end(&self, range: Range<u64>) -> u64 {
        let file = match &self.medium {
            Medium::Real(file) => file,
            Medium::Simulated(file) => return file.data_end(range),
        };
        let mut end = range.start;
        let mut at = range.start;
        while at < range.end {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) if data < range.end => data,
                // ENXIO: no data from here on.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(_) => return range.end - range.start,
            };
            let hole = seek(file, SeekFrom::Hole(data)).unwrap_or(range.end);
            end = hole.min(range.end);
            at = hole.max(data + 1);
        }
        end - range.start
    }

    /// Where the next data lies that the file system knows of, from the start of `range` on: only whether that is within the range is asked, but an answer
    /// behind it spares further questions. A file system that knows no holes says that all is data.
    pub(super) fn next_data(&self, range: Range<u64>) -> u64 {
        let file = match &self.medium {
            Medium::Real(file) => file,
            Medium::Simulated(file) => return if file.data_end(range.clone()) > 0 { range.start } else { range.end },
        };
        match seek(file, SeekFrom::Data(range.start)) {
            Ok(data) => data,
            Err(Errno::NXIO) => u64::MAX,
            Err(_) => range.start,
        }
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        match &self.medium {
            Medium::Real(file) => fdatasync(file),
            Medium::Simulated(file) => file.sync(),
        }
    }
}

/// File systems that are hard to come by.
#[cfg(test)]
impl Backing {
    pub(super) fn pretend_no_holes(&self) {
        self.can_punch.store(false, Ordering::Relaxed);
    }
    pub(super) fn pretend_no_copies(&self) {
        self.can_copy.store(false, Ordering::Relaxed);
    }
    pub(super) fn pretend_full_beyond(&mut self, offset: u64) {
        self.full_beyond = offset;
    }
}
