//! I/O commands through NVME_URING_CMD_IO on a namespace's character device: many in flight, no thread of our own.
//!
//! Whoever waits for a command reaps for everybody: one of the waiters is in the kernel, the others sleep until it has come
//! back. What the kernel may still read (the command's data) is owned by the table of commands in flight until the completion
//! is there. Linux, include/uapi/linux/nvme_ioctl.h.

use super::command::IoCommand;
use super::wire::Answer;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use zns::AlignedBuf;

/// Commands in the kernel at once.
const DEPTH: u32 = 128;
/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const NVME_URING_CMD_IO: u32 = 0xc048_4e80;
/// `IORING_ENTER_GETEVENTS`.
const GET_EVENTS: u32 = 1;
/// Milliseconds until the kernel gives a command up: a Copy may take longer than the block layer's 30 seconds.
pub(super) const TIMEOUT_MS: u32 = 120_000;

type Io = IoUring<squeue::Entry128, cqueue::Entry32>;

#[derive(Default)]
struct State {
    /// Data of the commands in the kernel.
    flying: HashMap<u64, AlignedBuf>,
    landed: HashMap<u64, Answer>,
    /// Somebody waits in the kernel.
    reaping: bool,
    /// The ring itself failed: nothing more is known of what flies.
    broken: bool,
}

/// A ring over one character device.
pub(super) struct Ring {
    ring: std::mem::ManuallyDrop<Io>,
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

/// `struct nvme_uring_cmd`, 72 bytes, in the 80 bytes of the entry.
fn encode(command: &IoCommand, data: &AlignedBuf) -> [u8; 80] {
    let mut bytes = [0u8; 80];
    bytes[0] = command.opcode;
    bytes[4..8].copy_from_slice(&command.nsid.to_ne_bytes());
    bytes[8..12].copy_from_slice(&command.cdw2[0].to_ne_bytes());
    bytes[12..16].copy_from_slice(&command.cdw2[1].to_ne_bytes());
    bytes[24..32].copy_from_slice(&(data.as_ptr().addr() as u64).to_ne_bytes());
    bytes[36..40].copy_from_slice(&(command.data.len() as u32).to_ne_bytes());
    for (index, word) in command.cdw10.iter().enumerate() {
        bytes[40 + 4 * index..][..4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes[64..68].copy_from_slice(&TIMEOUT_MS.to_ne_bytes());
    bytes
}

impl Ring {
    /// # Errors
    /// No io_uring for us, or none with large entries.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let ring = IoUring::<squeue::Entry128, cqueue::Entry32>::builder().dontfork().build(DEPTH)?;
        Ok(Self { ring: std::mem::ManuallyDrop::new(ring), file, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Starts a command; with all entries in use, waits for one of them.
    pub(super) fn start(&self, tag: u64, command: &IoCommand) {
        let data = AlignedBuf::from_slice(&command.data);
        let entry =
            opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), NVME_URING_CMD_IO).cmd(encode(command, &data)).build().user_data(tag);
        let mut state = self.state.lock();
        while state.flying.len() >= DEPTH as usize && !state.broken {
            self.reap(&mut state);
        }
        state.flying.insert(tag, data);
        // SAFETY: the lock is held, so nobody else uses the submission queue; the data that the entry points to are in the table
        // until its completion has arrived.
        let pushed = unsafe { self.ring.submission_shared().push(&entry) };
        let submitted = if pushed.is_err() { Err(io::Error::from_raw_os_error(libc::EBUSY)) } else { self.submit() };
        if let Err(error) = submitted {
            if pushed.is_ok() {
                // The entry stays in the queue: nobody can say when the kernel takes it.
                state.broken = true;
                std::mem::forget(state.flying.remove(&tag));
            } else {
                state.flying.remove(&tag);
            }
            state.landed.insert(tag, Answer::Kernel { errno: error.raw_os_error().unwrap_or(libc::EIO) });
        }
    }

    fn submit(&self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EBUSY)),
                Ok(_) => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a command.
    pub(super) fn finish(&self, tag: u64) -> Answer {
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = state.landed.remove(&tag) {
                return answer;
            }
            if state.broken || !state.flying.contains_key(&tag) {
                return Answer::Kernel { errno: libc::EIO };
            }
            self.reap(&mut state);
        }
    }

    /// Waits until something has landed: in the kernel, or until somebody else comes back from there.
    fn reap(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        if state.reaping {
            return self.changed.wait(state);
        }
        state.reaping = true;
        let waited = parking_lot::MutexGuard::unlocked(state, || {
            // SAFETY: no signal mask and no argument is passed; waiting takes no entries from the submission queue.
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, GET_EVENTS, None) }
        });
        state.reaping = false;
        let failed = waited.is_err_and(|error| !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)));
        // SAFETY: the lock is held, so nobody else uses the completion queue.
        let landed: Vec<cqueue::Entry32> = unsafe { self.ring.completion_shared() }.collect();
        for entry in landed {
            state.flying.remove(&entry.user_data());
            let answer = match entry.result() {
                errno @ ..0 => Answer::Kernel { errno: -errno },
                status => Answer::Device { status: (status & 0x7fff) as u16, dw0: entry.big_cqe()[0] as u32 },
            };
            state.landed.insert(entry.user_data(), answer);
        }
        state.broken |= failed;
        self.changed.notify_all();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        while !state.flying.is_empty() && !state.broken {
            self.reap(&mut state);
        }
        if state.broken {
            // The kernel may still read what is in the table, and take entries from the ring: better leaked than given back.
            std::mem::forget(std::mem::take(&mut state.flying));
            return;
        }
        drop(state);
        // SAFETY: it is not used after this, and nothing of it is in the kernel.
        unsafe { std::mem::ManuallyDrop::drop(&mut self.ring) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_command_is_laid_out_to_the_byte() {
        let command = IoCommand { opcode: 0x19, nsid: 0x0102_0304, cdw2: [5, 6], cdw10: [10, 11, 12, 13, 14, 15], data: vec![1; 64] };
        let data = AlignedBuf::from_slice(&command.data);
        let bytes = encode(&command, &data);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((bytes[0], bytes[1], word(4), word(8), word(12)), (0x19, 0, 0x0102_0304, 5, 6));
        assert_eq!(bytes[16..24], [0; 8], "no metadata");
        assert_eq!(u64::from_ne_bytes(bytes[24..32].try_into().unwrap()), data.as_ptr().addr() as u64);
        assert_eq!((word(32), word(36)), (0, 64));
        assert_eq!((0..6).map(|i| word(40 + 4 * i)).collect::<Vec<_>>(), [10, 11, 12, 13, 14, 15]);
        assert_eq!((word(64), word(68)), (TIMEOUT_MS, 0));
    }
}
