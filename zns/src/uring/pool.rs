//! Registered memory for small transfers: pinned once instead of with every operation.

use io_uring::IoUring;
use parking_lot::Mutex;
use std::io;

use crate::buffer::AlignedBuf;

/// Bytes of one slot, and so of the largest transfer that goes through the pool.
pub(super) const SLOT_BYTES: usize = 64 << 10;
const SLOTS: usize = 64;

/// The slots. The kernel knows all of them as registered buffer 0.
pub(super) struct Pool {
    /// Owned here, accessed only through `base` and only slot by slot.
    _memory: AlignedBuf,
    base: *mut u8,
    free: Mutex<Vec<usize>>,
}

// SAFETY: each slot is accessed only by the holder of its number, which `take` hands out once until `give_back`.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// Allocates the slots and registers them with `ring`.
    pub(super) fn register(ring: &IoUring) -> io::Result<Self> {
        let mut memory = AlignedBuf::zeroed(SLOT_BYTES * SLOTS);
        let base = memory.as_mut_ptr();
        let vector = libc::iovec { iov_base: base.cast(), iov_len: memory.len() };
        // SAFETY: the memory lives as long as the pool, which lives beside the ring in `Shared`; the kernel holds its own
        // reference to the pages until the ring is gone, and only transfers of our table make it access them.
        unsafe { ring.submitter().register_buffers(&[vector]) }?;
        Ok(Self { _memory: memory, base, free: Mutex::new((0..SLOTS).collect()) })
    }

    /// A free slot.
    pub(super) fn take(&self) -> Option<usize> {
        self.free.lock().pop()
    }

    /// Makes a slot free again, after the kernel is done with it.
    pub(super) fn give_back(&self, slot: usize) {
        self.free.lock().push(slot);
    }

    /// Where a slot begins.
    pub(super) fn address(&self, slot: usize) -> *mut u8 {
        assert!(slot < SLOTS);
        // SAFETY: the slot lies within the memory.
        unsafe { self.base.add(slot * SLOT_BYTES) }
    }

    /// Copies `parts` into a slot that the caller took.
    pub(super) fn fill<'a>(&self, slot: usize, parts: impl Iterator<Item = &'a [u8]>) {
        let mut at = 0;
        for part in parts {
            assert!(at + part.len() <= SLOT_BYTES);
            // SAFETY: the target lies within the slot, which the caller owns and the kernel does not use yet; callers'
            // slices never lie in the pool.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.address(slot).add(at), part.len()) };
            at += part.len();
        }
    }

    /// Copies the start of a slot that the caller took into `buf`.
    pub(super) fn drain(&self, slot: usize, buf: &mut [u8]) {
        assert!(buf.len() <= SLOT_BYTES);
        // SAFETY: the source lies within the slot, which the caller owns and the kernel is done with; `buf` is the caller's.
        unsafe { std::ptr::copy_nonoverlapping(self.address(slot), buf.as_mut_ptr(), buf.len()) };
    }
}
