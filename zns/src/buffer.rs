//! Memory that direct I/O accepts: page-aligned, shared without copying.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every buffer, in bytes: enough for O_DIRECT on any device.
pub const ALIGN: usize = 4096;

/// A zeroed, page-aligned buffer of fixed length.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory alone; access follows the usual borrow rules of `&self`/`&mut self`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes (at least one).
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf[..bytes.len()].copy_from_slice(bytes);
        buf
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), ALIGN).expect("buffer length fits in isize")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}
impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}
impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

/// A shared piece of a buffer: what a write is made of.
#[derive(Clone, Debug)]
pub struct BufSlice {
    buf: Arc<AlignedBuf>,
    range: Range<usize>,
}

impl BufSlice {
    /// The bytes `range` of `buf`.
    ///
    /// # Panics
    /// If the range is outside the buffer (a bug of the caller, not a matter of input).
    pub fn new(buf: Arc<AlignedBuf>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= buf.len());
        Self { buf, range }
    }
    /// All of `buf`.
    pub fn whole(buf: AlignedBuf) -> Self {
        let len = buf.len();
        Self { buf: Arc::new(buf), range: 0..len }
    }
    /// If `next` follows `self` in the same buffer, the two as one.
    pub fn joined(&self, next: &BufSlice) -> Option<BufSlice> {
        let adjacent = Arc::ptr_eq(&self.buf, &next.buf) && self.range.end == next.range.start;
        adjacent.then(|| Self { buf: self.buf.clone(), range: self.range.start..next.range.end })
    }
    /// A part of this slice.
    pub fn sub(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len());
        let start = self.range.start + range.start;
        Self { buf: self.buf.clone(), range: start..start + range.len() }
    }
}
impl Deref for BufSlice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf[self.range.clone()]
    }
}
