//! Reads and writes at a position that go on until everything has moved or an error says why not.

use rustix::io::{Errno, pread, pwrite, pwritev};
use std::fs::File;
use std::io::IoSlice;

/// Most slices in one call (IOV_MAX of Linux).
const MAX_SLICES: usize = 1024;

/// How an I/O that moves many bytes ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Bytes that made it.
    pub done: u64,
    /// Why no more did.
    pub errno: Errno,
}

/// Fills `buf` as far as the file reaches; gives the number of bytes.
pub(crate) fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        match pread(file, &mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`.
pub(crate) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> Result<(), Stopped> {
    let mut done = 0;
    while done < bytes.len() {
        match pwrite(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(Stopped { done: done as u64, errno: Errno::IO }),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Stopped { done: done as u64, errno }),
        }
    }
    Ok(())
}

/// Writes all of `parts`, one behind the other.
pub(crate) fn write_parts_at<'a>(file: &File, offset: u64, parts: impl Iterator<Item = &'a [u8]>) -> Result<(), Stopped> {
    let mut slices: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
    let mut rest = &mut slices[..];
    let mut done = 0;
    // Drops empty slices at the front, so that a call with nothing left to write is never made.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let batch = rest.len().min(MAX_SLICES);
        match pwritev(file, &rest[..batch], offset + done) {
            Ok(0) => return Err(Stopped { done, errno: Errno::IO }),
            Ok(count) => {
                done += count as u64;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Stopped { done, errno }),
        }
    }
    Ok(())
}
