//! io_uring, as little of it as the connection needs: large submissions, one thread, completions only when it asks for them.
//!
//! The rings lie in memory of ours (IORING_SETUP_NO_MMAP) and not in memory that is mapped from io_uring. Such a mapping holds the ring, and the ring the
//! connection, as long as any thread is left, also one that was killed while it waits for an answer of its own process: then nobody would ever let go.

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

const SETUP_CQSIZE: u32 = 1 << 3;
const SETUP_SQE128: u32 = 1 << 10;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const SETUP_NO_MMAP: u32 = 1 << 14;
const SETUP_NO_SQARRAY: u32 = 1 << 16;
const ENTER_GETEVENTS: u32 = 1;
const REGISTER_FILES: u32 = 2;
const OP_READ: u8 = 22;
const OP_URING_CMD: u8 = 46;
/// The descriptor is the number of a registered one.
const FIXED_FILE: u8 = 1;

/// struct io_uring_sqe with room for a command.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Submission {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    /// Where commands have their number and others an offset.
    cmd_op: u32,
    offset_high: u32,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    splice_fd: i32,
    cmd: [u8; 80],
}

impl Submission {
    fn new(opcode: u8, flags: u8, fd: i32, user_data: u64) -> Self {
        let (ioprio, cmd_op, offset_high, addr, len, op_flags) = (0, 0, 0, 0, 0, 0);
        let (buf_index, personality, splice_fd, cmd) = (0, 0, 0, [0; 80]);
        Self { opcode, flags, ioprio, fd, cmd_op, offset_high, addr, len, op_flags, user_data, buf_index, personality, splice_fd, cmd }
    }

    /// Reads `len` bytes to `at`.
    pub(super) fn read(fd: BorrowedFd<'_>, at: *mut u8, len: u32, user_data: u64) -> Self {
        Self { addr: at as u64, len, ..Self::new(OP_READ, 0, fd.as_raw_fd(), user_data) }
    }

    /// A command to the registered file, with parts in memory and what it has besides.
    pub(super) fn command(cmd_op: u32, parts: &[libc::iovec], command: &[u8], user_data: u64) -> Self {
        let mut made =
            Self { cmd_op, addr: parts.as_ptr() as u64, len: parts.len() as u32, ..Self::new(OP_URING_CMD, FIXED_FILE, 0, user_data) };
        made.cmd[..command.len()].copy_from_slice(command);
        made
    }
}

/// struct io_uring_cqe
#[derive(Clone, Copy)]
#[repr(C)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// struct io_sqring_offsets and io_cqring_offsets: the places that both have, and their memory.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    /// Flags of submissions, overflows of completions.
    fourth: u32,
    /// Dropped submissions; where completions begin.
    fifth: u32,
    sixth: u32,
    reserved: u32,
    user_addr: u64,
}

/// struct io_uring_params
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq_off: Offsets,
    cq_off: Offsets,
}

const _: () = assert!(size_of::<Submission>() == 128 && size_of::<Completion>() == 16 && size_of::<Params>() == 120);

/// Memory that the kernel shares.
struct Shared {
    at: NonNull<u8>,
    len: usize,
}

impl Shared {
    fn new(len: usize) -> io::Result<Self> {
        let len = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: new memory, wherever the kernel likes.
        let at = unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        Ok(Self { at: NonNull::new(at.cast()).ok_or_else(|| io::Error::other("memory at address 0"))?, len })
    }

    /// What lies at an offset, if it lies within.
    fn place<T>(&self, offset: u32, count: u32) -> io::Result<NonNull<T>> {
        let end = offset as usize + count as usize * size_of::<T>();
        let at = self.at.as_ptr().wrapping_add(offset as usize).cast::<T>();
        let place = NonNull::new(at).filter(|place| end <= self.len && place.is_aligned());
        place.ok_or_else(|| io::Error::other("the kernel has put a ring beside its memory"))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it was mapped so; the kernel has its own hold of the pages.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// A ring, to be used by the thread that made it.
pub(super) struct Uring {
    fd: OwnedFd,
    entries: u32,
    sq_head: NonNull<AtomicU32>,
    sq_tail: NonNull<AtomicU32>,
    submissions: NonNull<Submission>,
    cq_entries: u32,
    cq_head: NonNull<AtomicU32>,
    cq_tail: NonNull<AtomicU32>,
    completions: NonNull<Completion>,
    _memory: [Shared; 2],
}

impl Uring {
    /// With room for so many submissions, a power of two.
    ///
    /// # Errors
    /// No io_uring, none for us, or one that is older than FUSE over it.
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        /// What precedes the completions in their memory is less.
        const HEADS: usize = 4096;
        let cq_entries = 2 * entries;
        let rings = Shared::new(HEADS + cq_entries as usize * size_of::<Completion>())?;
        let submissions = Shared::new(entries as usize * size_of::<Submission>())?;
        let flags = SETUP_CQSIZE | SETUP_SQE128 | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_NO_MMAP | SETUP_NO_SQARRAY;
        let mut params = Params { cq_entries, flags, ..Params::default() };
        params.cq_off.user_addr = rings.at.as_ptr() as u64;
        params.sq_off.user_addr = submissions.at.as_ptr() as u64;
        // SAFETY: the structure is as the kernel wants it, and both memories are larger than what it puts there for so many entries.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, &raw mut params) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        if (params.sq_entries, params.cq_entries) != (entries, cq_entries) {
            return Err(io::Error::other("the kernel has made a ring of another size"));
        }
        Ok(Self {
            fd,
            entries,
            sq_head: rings.place(params.sq_off.head, 1)?,
            sq_tail: rings.place(params.sq_off.tail, 1)?,
            submissions: submissions.place(0, entries)?,
            cq_entries,
            cq_head: rings.place(params.cq_off.head, 1)?,
            cq_tail: rings.place(params.cq_off.tail, 1)?,
            completions: rings.place(params.cq_off.fifth, cq_entries)?,
            _memory: [rings, submissions],
        })
    }

    /// Has commands go to this file.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn register_file(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let files = [file.as_raw_fd()];
        // SAFETY: the command reads an array of one descriptor.
        let done = unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd.as_raw_fd(), REGISTER_FILES, files.as_ptr(), 1) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Submissions that the kernel has not taken.
    fn waiting(&self) -> u32 {
        // SAFETY: both lie in memory that lives as long as this.
        let (head, tail) = unsafe { (self.sq_head.as_ref(), self.sq_tail.as_ref()) };
        tail.load(Ordering::Relaxed).wrapping_sub(head.load(Ordering::Acquire))
    }

    /// Puts a submission in the queue; `false`: it is full.
    ///
    /// # Safety
    /// What it points to must live until it is completed, and nobody else may use what the kernel writes to.
    pub(super) unsafe fn push(&mut self, submission: &Submission) -> bool {
        if self.waiting() >= self.entries {
            return false;
        }
        // SAFETY: the tail lies in memory that lives as long as this; the place behind it is within the ring, and not the kernel's before the tail has passed it.
        unsafe {
            let tail = self.sq_tail.as_ref();
            let at = tail.load(Ordering::Relaxed);
            self.submissions.add((at & (self.entries - 1)) as usize).write(*submission);
            tail.store(at.wrapping_add(1), Ordering::Release);
        }
        true
    }

    /// Has the kernel take what is in the queue, and waits until so many completions are there.
    ///
    /// # Errors
    /// The kernel's: EINTR, or no memory for now (what it has not taken stays in the queue).
    pub(super) fn submit(&mut self, wait: u32) -> io::Result<()> {
        let flags = if wait > 0 { ENTER_GETEVENTS } else { 0 };
        let nothing = ptr::null::<u8>();
        // SAFETY: who pushed the submissions has seen to what they point to; no mask of signals is passed.
        let done = unsafe { libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), self.waiting(), wait, flags, nothing, 0) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes all completions that are there: for whom, and the result.
    pub(super) fn reap(&mut self, into: &mut Vec<(u64, i32)>) {
        // SAFETY: both lie in memory that lives as long as this.
        let (head, tail) = unsafe { (self.cq_head.as_ref(), self.cq_tail.as_ref()) };
        let (mut at, end) = (head.load(Ordering::Relaxed), tail.load(Ordering::Acquire));
        while at != end {
            // SAFETY: within the ring, and completed before the tail passed it.
            let done = unsafe { self.completions.add((at & (self.cq_entries - 1)) as usize).read() };
            into.push((done.user_data, done.result));
            at = at.wrapping_add(1);
        }
        head.store(at, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd;

    /// Where there is no io_uring for us (or one without what FUSE over it needs) there is nothing to test, and the connection does without.
    fn ring(entries: u32) -> Option<Uring> {
        match Uring::new(entries) {
            Ok(ring) => Some(ring),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)), "{error}");
                None
            }
        }
    }

    #[test]
    fn reads_are_completed_around_the_ring() {
        let Some(mut ring) = ring(4) else { return };
        let bell = eventfd(0, EventfdFlags::empty()).unwrap();
        let mut rung = Box::new(0u64);
        let mut done = Vec::new();
        for round in 0..20u64 {
            let read = Submission::read(bell.as_fd(), (&raw mut *rung).cast(), 8, round);
            // SAFETY: the number lives until the read is completed.
            assert!(unsafe { ring.push(&read) });
            ring.submit(0).unwrap();
            ring.reap(&mut done);
            assert!(done.is_empty());
            rustix::io::write(&bell, &(round + 7).to_ne_bytes()).unwrap();
            ring.submit(1).unwrap();
            ring.reap(&mut done);
            assert_eq!((std::mem::take(&mut done), *rung), (vec![(round, 8)], round + 7));
        }
    }

    #[test]
    fn a_full_queue_and_a_command_that_nobody_knows_are_told() {
        let Some(mut ring) = ring(4) else { return };
        let file = eventfd(0, EventfdFlags::empty()).unwrap();
        ring.register_file(file.as_fd()).unwrap();
        for number in 0..4 {
            // SAFETY: an eventfd knows no commands.
            assert!(unsafe { ring.push(&Submission::command(1, &[], &[1; 24], number)) });
        }
        // SAFETY: as above.
        assert!(!unsafe { ring.push(&Submission::command(1, &[], &[], 4)) });
        ring.submit(4).unwrap();
        let mut done = Vec::new();
        ring.reap(&mut done);
        assert_eq!(done, (0..4).map(|number| (number, -libc::EOPNOTSUPP)).collect::<Vec<_>>());
    }
}
