//! Memory that direct I/O accepts: page-aligned, shared without copying.
//!
//! Buffers are kept for the next ones when they are given back, up to a bound for the whole process: fresh memory costs a fault for each page and is cleared,
//! which took a tenth of the time of sequential reading; and an allocator that cuts aligned blocks out of its heap, and clears them, as much of writing 4 KiB.

use parking_lot::Mutex;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every buffer, in bytes: enough for O_DIRECT on any device.
pub const ALIGN: usize = 4096;

/// Buffers from this length on are mapped and kept, in bytes.
const LARGE: usize = 64 << 10;
/// Their memory is a multiple of this many bytes: few sizes, so that one that fits is found.
const ROUNDED: usize = 16 << 10;
/// All kept memory of mappings together, in bytes.
const KEPT: usize = 16 << 20;
/// Smaller buffers, of whole multiples of [`ALIGN`], are kept by their size: of the smallest so many bytes at most, of others half as many for each doubling,
/// which is as much as of mappings together.
const KEPT_SMALL: usize = 4 << 20;
/// Sizes of small buffers that are kept: 4, 8, ... KiB.
const SMALL_SIZES: usize = LARGE / ALIGN - 1;

/// Small buffers that were given back, by size.
static DRAWERS: [Mutex<Vec<Heap>>; SMALL_SIZES] = [const { Mutex::new(Vec::new()) }; SMALL_SIZES];

/// Memory from the allocator, of one of [`SMALL_SIZES`], all of it initialised. It is owned by nobody else.
struct Heap(NonNull<u8>);

// SAFETY: nobody else knows of the memory.
unsafe impl Send for Heap {}

/// Buffers of this size that are kept at most.
fn most_kept(room: usize) -> usize {
    (KEPT_SMALL >> (room / ALIGN).ilog2()) / room
}

/// Where buffers of this size are kept, if they are small and of one of the sizes.
fn drawer(room: usize) -> Option<&'static Mutex<Vec<Heap>>> {
    if !room.is_multiple_of(ALIGN) { None } else { DRAWERS.get((room / ALIGN).checked_sub(1)?) }
}

/// Memory that was given back, the newest last.
static SHELF: Mutex<Shelf> = Mutex::new(Shelf { mappings: VecDeque::new(), bytes: 0 });

/// Memory of its own, from the kernel.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: nobody else knows of the memory.
unsafe impl Send for Mapping {}

impl Mapping {
    /// So many bytes, all zero. Pages that are not touched cost no memory.
    fn fresh(bytes: usize) -> Self {
        // SAFETY: a new mapping touches nobody's memory.
        let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        match mapped.ok().and_then(|start| NonNull::new(start.cast())) {
            Some(start) => Self { start, bytes },
            None => handle_alloc_error(AlignedBuf::layout(bytes)),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `fresh` with this length, and nobody refers to it any more. A failure leaves it mapped, which harms nobody.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

struct Shelf {
    mappings: VecDeque<Mapping>,
    bytes: usize,
}

impl Shelf {
    /// The memory of this size that was used last: it may still be in the processor's cache.
    fn take(&mut self, bytes: usize) -> Option<Mapping> {
        let at = self.mappings.iter().rposition(|mapping| mapping.bytes == bytes)?;
        self.bytes -= bytes;
        self.mappings.remove(at)
    }

    /// Keeps memory. What nobody wanted for longest is let go when there is too much: the caller drops it without the lock.
    fn put(&mut self, mapping: Mapping) -> Vec<Mapping> {
        self.bytes += mapping.bytes;
        self.mappings.push_back(mapping);
        let mut over = Vec::new();
        while self.bytes > KEPT
            && let Some(oldest) = self.mappings.pop_front()
        {
            self.bytes -= oldest.bytes;
            over.push(oldest);
        }
        over
    }
}

/// A page-aligned buffer of fixed length.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    /// Bytes that were allocated, all of them initialised: mapped, if they are [`LARGE`].
    room: usize,
}

// SAFETY: the buffer owns its memory alone; access follows the usual borrow rules of `&self`/`&mut self`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes (at least one).
    pub fn zeroed(len: usize) -> Self {
        if len >= LARGE {
            return Self::mapped(Mapping::fresh(len.next_multiple_of(ROUNDED)), len);
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, len, room: len }
    }

    /// A buffer of `len` bytes for somebody who fills all of it: it may hold what a former one held.
    pub fn recycled(len: usize) -> Self {
        if len < LARGE {
            let kept = drawer(len).and_then(|drawer| drawer.lock().pop());
            return kept.map_or_else(|| Self::zeroed(len), |Heap(start)| Self { start, len, room: len });
        }
        let room = len.next_multiple_of(ROUNDED);
        let kept = SHELF.lock().take(room);
        Self::mapped(kept.unwrap_or_else(|| Mapping::fresh(room)), len)
    }

    fn mapped(mapping: Mapping, len: usize) -> Self {
        let mapping = std::mem::ManuallyDrop::new(mapping);
        Self { start: mapping.start, len, room: mapping.bytes }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::recycled(bytes.len());
        buf[..bytes.len()].copy_from_slice(bytes);
        buf
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), ALIGN).expect("buffer length fits in isize")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.room >= LARGE {
            let over = SHELF.lock().put(Mapping { start: self.start, bytes: self.room });
            return drop(over);
        }
        if let Some(drawer) = drawer(self.room) {
            let mut kept = drawer.lock();
            if kept.len() < most_kept(self.room) {
                return kept.push(Heap(self.start));
            }
        }
        // SAFETY: allocated in `zeroed` with the same layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.room)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zeroed_is_zero_whatever_was_given_back() {
        for len in [1, 4096, 8192, LARGE - ALIGN, LARGE - 1, LARGE, LARGE + 1, 1 << 20] {
            let mut buf = AlignedBuf::recycled(len);
            buf.fill(0xa5);
            drop(buf);
            assert!(AlignedBuf::zeroed(len).iter().all(|byte| *byte == 0), "{len}");
            assert_eq!(AlignedBuf::recycled(len).len(), len);
            assert!(AlignedBuf::recycled(len).as_ptr().addr().is_multiple_of(ALIGN));
        }
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let mut shelf = Shelf { mappings: VecDeque::new(), bytes: 0 };
        let size = 1 << 20;
        let over: usize = (0..40).map(|_| shelf.put(Mapping::fresh(size)).len()).sum();
        assert_eq!((shelf.mappings.len(), shelf.bytes, over), (KEPT / size, KEPT, 40 - KEPT / size));
        assert!(shelf.take(size / 2).is_none());
        assert!(shelf.take(size).is_some());
        assert_eq!(shelf.bytes, KEPT - size);
        // One that is larger than all that may be kept is not kept.
        assert_eq!(shelf.put(Mapping::fresh(KEPT + LARGE)).len(), KEPT / size);
        assert_eq!((shelf.mappings.len(), shelf.bytes), (0, 0));
    }

    #[test]
    fn small_buffers_are_kept_by_their_size_up_to_a_bound() {
        assert!(drawer(0).is_none() && drawer(ALIGN + 1).is_none() && drawer(LARGE).is_none());
        // A size that no other test uses.
        let size = 11 * ALIGN;
        let most = most_kept(size);
        let buffers: Vec<AlignedBuf> = (0..most + 5).map(|_| AlignedBuf::recycled(size)).collect();
        let addresses: Vec<*const u8> = buffers.iter().map(|buf| buf.as_ptr()).collect();
        drop(buffers);
        let kept = || drawer(size).expect("one of the sizes").lock().len();
        assert_eq!(kept(), most);
        let again = AlignedBuf::recycled(size);
        assert!(addresses.contains(&again.as_ptr()), "memory that was given back");
        assert_eq!(kept(), most - 1);
    }
}
