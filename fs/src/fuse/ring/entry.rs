//! An entry of a ring: memory that a request lies in while it is answered, and then its answer.
//!
//! Who may touch that memory changes by turns: the kernel, from the submission of the entry to its completion; the thread of the ring, which takes the
//! request out; [`Awaiting`], which puts the answer in, on whatever thread; the thread of the ring again, which gives the entry back to the kernel.

use super::super::wire::{self, EntryInOut, OutHeader};
use parking_lot::Mutex;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::thread::ThreadId;
use zerocopy::{FromBytes, IntoBytes};

/// Where the payload begins: behind the heads, at a page.
const PAYLOAD: usize = 4096;

/// The heads and the payload of one request.
#[derive(Debug)]
pub(super) struct Memory {
    at: NonNull<u8>,
    room: usize,
}

// SAFETY: plain memory of the process; whose turn it is the head of this file says.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// For payloads of up to `room` bytes. Only what is used of it costs memory.
    ///
    /// # Errors
    /// No address space left.
    pub(super) fn new(room: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: new memory, wherever the kernel likes.
        let at = unsafe { mmap_anonymous(ptr::null_mut(), PAYLOAD + room, access, flags) }?;
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("memory at address 0"))?;
        Ok(Self { at, room })
    }

    /// The two parts, as the kernel is told of them.
    pub(super) fn parts(&self) -> [libc::iovec; 2] {
        let heads = libc::iovec { iov_base: self.at.as_ptr().cast(), iov_len: wire::RING_HEADS };
        [heads, libc::iovec { iov_base: self.payload_at().cast(), iov_len: self.room }]
    }

    fn payload_at(&self) -> *mut u8 {
        self.at.as_ptr().wrapping_add(PAYLOAD)
    }

    /// A copy of the heads.
    ///
    /// # Safety
    /// It is the caller's turn.
    pub(super) unsafe fn heads(&self) -> [u8; wire::RING_HEADS] {
        // SAFETY: so long is the memory at least, and nobody writes to it now.
        unsafe { ptr::read(self.at.as_ptr().cast()) }
    }

    /// The first `len` bytes of the payload, `None` if there are not so many.
    ///
    /// # Safety
    /// It is the caller's turn for as long as he has the bytes.
    pub(super) unsafe fn payload(&self, len: usize) -> Option<&[u8]> {
        // SAFETY: so long is the memory, it was zero or the kernel's from the beginning, and nobody writes to it now.
        (len <= self.room).then(|| unsafe { std::slice::from_raw_parts(self.payload_at(), len) })
    }

    /// Puts bytes at an offset of the payload; what does not fit is left out.
    ///
    /// # Safety
    /// It is the caller's turn, and nobody has bytes of [`Self::payload`].
    unsafe fn put(&self, offset: usize, bytes: &[u8]) {
        let len = bytes.len().min(self.room.saturating_sub(offset));
        // SAFETY: it fits, and memory of others is not memory of the ring's entries.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.payload_at().wrapping_add(offset), len) };
    }

    /// Puts the heads of an answer in. The kernel reads no others.
    ///
    /// # Safety
    /// It is the caller's turn.
    unsafe fn put_heads(&self, answer: &OutHeader, entry: &EntryInOut) {
        // SAFETY: passed on.
        unsafe { self.place_heads(&[(0, answer.as_bytes()), (wire::RING_ENTRY_AT, entry.as_bytes())]) };
    }

    /// Puts heads at their offsets.
    ///
    /// # Safety
    /// It is the caller's turn.
    pub(super) unsafe fn place_heads(&self, heads: &[(usize, &[u8])]) {
        for (offset, bytes) in heads {
            assert!(offset + bytes.len() <= wire::RING_HEADS);
            // SAFETY: it lies within the heads.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.as_ptr().wrapping_add(*offset), bytes.len()) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and whoever could use it had it by an Arc.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), PAYLOAD + self.room) };
    }
}

/// What the kernel says of the payload of a request.
pub(super) fn in_out(heads: &[u8; wire::RING_HEADS]) -> EntryInOut {
    EntryInOut::read_from_prefix(&heads[wire::RING_ENTRY_AT..]).map_or_else(|_| EntryInOut::default(), |(found, _)| found)
}

/// An entry whose answer is there.
#[derive(Debug)]
pub(super) struct Answered {
    /// Its number in its ring.
    pub(super) entry: usize,
    /// What is still to be put into its payload.
    kept: Vec<u8>,
}

impl Answered {
    /// Completes the answer in the memory of the entry.
    ///
    /// # Safety
    /// It is the caller's turn, and the request is not looked at any more.
    pub(super) unsafe fn complete(&self, memory: &Memory) {
        // SAFETY: passed on.
        unsafe { memory.put(0, &self.kept) };
    }
}

/// Where the thread of a ring finds what others have answered.
#[derive(Debug)]
pub(super) struct Desk {
    answered: Mutex<Vec<Answered>>,
    /// An eventfd that the ring reads from.
    pub(super) bell: OwnedFd,
    owner: ThreadId,
}

impl Desk {
    /// That of the calling thread.
    pub(super) fn new(bell: OwnedFd) -> Self {
        Self { answered: Mutex::default(), bell, owner: std::thread::current().id() }
    }

    fn put(&self, answered: Answered) {
        self.answered.lock().push(answered);
        // The owner looks before he sleeps.
        if std::thread::current().id() != self.owner
            && let Err(refused) = rustix::io::write(&self.bell, &1u64.to_ne_bytes())
        {
            tracing::error!("a thread of the ring cannot be woken: {refused}");
        }
    }

    /// What has been answered since.
    pub(super) fn take(&self, into: &mut Vec<Answered>) {
        into.append(&mut self.answered.lock());
    }
}

/// An entry whose request awaits its answer.
#[derive(Debug)]
pub(in super::super) struct Awaiting {
    desk: Arc<Desk>,
    memory: Arc<Memory>,
    entry: usize,
    /// The payload holds a part of the request, which may still be looked at while it is answered.
    brought: bool,
}

impl Awaiting {
    pub(super) fn new(desk: Arc<Desk>, memory: Arc<Memory>, entry: usize, brought: bool) -> Self {
        Self { desk, memory, entry, brought }
    }

    /// Answers; to be called once.
    pub(in super::super) fn answer(&mut self, unique: u64, errno: i32, parts: &[&[u8]]) {
        let mut len = parts.iter().map(|part| part.len()).sum::<usize>();
        let (mut errno, mut parts) = (errno, parts);
        if len > self.memory.room {
            tracing::error!("an answer of {len} bytes is longer than the kernel has asked for");
            (errno, parts, len) = (libc::EIO, &[], 0);
        }
        let kept = if self.brought { parts.concat() } else { Vec::new() };
        let header = OutHeader { len: (size_of::<OutHeader>() + len) as u32, error: -errno, unique };
        let entry = EntryInOut { payload_sz: len as u32, ..EntryInOut::default() };
        // SAFETY: it is the turn of this entry's answer, which only this value can put in. Of the heads the ring has taken a copy, and bytes of the payload
        // were given out only if something was brought.
        unsafe {
            self.memory.put_heads(&header, &entry);
            if !self.brought {
                let mut offset = 0;
                for part in parts {
                    self.memory.put(offset, part);
                    offset += part.len();
                }
            }
        }
        self.desk.put(Answered { entry: self.entry, kept });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn awaiting(brought: bool) -> (Awaiting, Arc<Desk>, Arc<Memory>) {
        let desk = Arc::new(Desk::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()));
        let memory = Arc::new(Memory::new(8192).unwrap());
        (Awaiting::new(desk.clone(), memory.clone(), 3, brought), desk, memory)
    }

    fn answered(desk: &Desk, memory: &Memory) -> (OutHeader, Vec<u8>) {
        let mut taken = Vec::new();
        desk.take(&mut taken);
        assert_eq!((taken.len(), taken[0].entry), (1, 3));
        // SAFETY: nobody else has this memory.
        let (heads, payload) = unsafe {
            taken[0].complete(memory);
            (memory.heads(), memory.payload(in_out(&memory.heads()).payload_sz as usize).unwrap())
        };
        (OutHeader::read_from_prefix(&heads).unwrap().0, payload.to_vec())
    }

    #[test]
    fn an_answer_lies_where_the_kernel_looks_for_it() {
        for brought in [false, true] {
            let (mut awaiting, desk, memory) = awaiting(brought);
            awaiting.answer(7, 0, &[b"ab", b"", b"cde"]);
            assert_eq!(answered(&desk, &memory), (OutHeader { len: 21, error: 0, unique: 7 }, b"abcde".to_vec()));
            awaiting.answer(8, libc::ENOENT, &[]);
            assert_eq!(answered(&desk, &memory), (OutHeader { len: 16, error: -libc::ENOENT, unique: 8 }, vec![]));
            awaiting.answer(9, 0, &[&[1; 8192], b"x"]);
            assert_eq!(answered(&desk, &memory), (OutHeader { len: 16, error: -libc::EIO, unique: 9 }, vec![]));
        }
    }

    #[test]
    fn what_was_brought_is_untouched_until_the_answer_is_completed() {
        let (mut awaiting, desk, memory) = awaiting(true);
        // SAFETY: nobody else has this memory.
        unsafe { memory.put(0, b"request") };
        awaiting.answer(1, 0, &[b"ANSWER!"]);
        // SAFETY: as above.
        assert_eq!(unsafe { memory.payload(7) }, Some(&b"request"[..]));
        assert_eq!(answered(&desk, &memory).1, b"ANSWER!");
        // SAFETY: as above.
        assert_eq!(unsafe { memory.payload(8193) }, None);
    }

    #[test]
    fn only_an_answer_of_another_thread_rings_the_bell() {
        let (mut awaiting, desk, _memory) = awaiting(false);
        let mut count = [0; 8];
        awaiting.answer(1, 0, &[]);
        assert_eq!(rustix::io::read(&desk.bell, &mut count), Err(rustix::io::Errno::AGAIN));
        std::thread::spawn(move || awaiting.answer(2, 0, &[])).join().unwrap();
        assert_eq!(rustix::io::read(&desk.bell, &mut count), Ok(8));
    }
}
