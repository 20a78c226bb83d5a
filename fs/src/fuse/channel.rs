//! The connection to the kernel: requests come by read(2), one at a time, and answers go by writev(2).
//!
//! Each thread reads from a descriptor of its own, so that the kernel keeps a queue of answers awaited for each; an answer goes back by the descriptor that
//! its request came from. Nothing that was asked stays unanswered: an answer that is dropped says EIO.

use super::ring::Awaiting;
use super::wire::{InvalInodeOut, NOTIFY_INVAL_INODE, OutHeader};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Bytes before the payload of a write: the head of the request and that of the write.
const BEFORE_PAYLOAD: usize = 80;
/// What the kernel wants a buffer to have at least (FUSE_MIN_READ_BUFFER).
const LEAST: usize = 8192;
const PAGE: usize = 4096;

/// A descriptor of the connection.
#[derive(Clone, Debug)]
pub struct Channel(Arc<OwnedFd>);

impl Channel {
    /// The first descriptor, which mounting gave.
    pub fn new(connection: OwnedFd) -> Self {
        Self(Arc::new(connection))
    }

    /// This connection by another descriptor, an open /dev/fuse.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn cloned_to(&self, device: OwnedFd) -> std::io::Result<Self> {
        /// FUSE_DEV_IOC_CLONE
        const CLONE: libc::c_ulong = 0x8004_e500;
        let source = self.0.as_raw_fd().unsigned_abs();
        // SAFETY: the command reads four bytes, a descriptor number, and both descriptors are open.
        if unsafe { libc::ioctl(device.as_raw_fd(), CLONE, &raw const source) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self::new(device))
    }

    /// The next request in full, `None` when the kernel has let go. Waits.
    ///
    /// # Errors
    /// A connection that was aborted while it was read, and what should not happen.
    pub fn receive<'a>(&self, buffer: &'a mut Buffer) -> Result<Option<&'a [u8]>, Errno> {
        loop {
            match rustix::io::read(&*self.0, buffer.space()) {
                Ok(len) => return Ok(Some(&buffer.space()[..len])),
                // A request that was taken back before it was read.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let _ = rustix::event::poll(&mut [PollFd::new(&*self.0, PollFlags::IN)], None);
                }
                Err(Errno::NODEV) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The answer that request `unique` awaits.
    pub fn reply(&self, unique: u64) -> Reply {
        Reply { channel: self.clone(), ring: None, unique: Some(unique) }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for a request; the payload of a write lies at the start of a page in it.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// For writes of up to `max_write` bytes.
    pub fn new(max_write: u32) -> Self {
        let len = (BEFORE_PAYLOAD + max_write as usize).max(LEAST);
        let bytes = vec![0; len + PAGE];
        let start = bytes.as_ptr().wrapping_add(BEFORE_PAYLOAD).align_offset(PAGE).min(PAGE);
        Self { bytes, start }
    }

    fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

/// Answers one request, once.
#[derive(Debug)]
pub struct Reply {
    channel: Channel,
    /// The entry of a ring in which it goes back; `None`: by the channel.
    ring: Option<Awaiting>,
    /// `None`: it is answered.
    unique: Option<u64>,
}

impl Reply {
    /// The answer to a request that has come over a ring.
    pub(super) fn over_ring(channel: Channel, entry: Awaiting, unique: u64) -> Self {
        Self { channel, ring: Some(entry), unique: Some(unique) }
    }

    /// Has the request come over a ring?
    pub(super) fn is_over_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Answers with `parts`, one behind the other.
    pub fn send(mut self, parts: &[&[u8]]) {
        self.write(0, parts);
    }

    /// Answers with a structure.
    pub fn value(self, value: &(impl IntoBytes + zerocopy::Immutable)) {
        self.send(&[value.as_bytes()]);
    }

    /// Answers that it is done.
    pub fn done(self) {
        self.send(&[]);
    }

    /// Answers with an error.
    pub fn error(mut self, errno: Errno) {
        self.write(errno.raw_os_error(), &[]);
    }

    /// The attributes of an inode have changed, and the kernel does not know: it is to ask for them again.
    ///
    /// Told before the answer, so that whoever asked sees them afterwards. The kernel takes no lock for attributes alone that the one who asked could hold,
    /// and his open file keeps the inode and the mount from going meanwhile.
    pub fn attributes_changed(&self, ino: u64) {
        let told = InvalInodeOut { ino, off: -1, len: 0 };
        let len = (size_of::<OutHeader>() + size_of::<InvalInodeOut>()) as u32;
        let header = OutHeader { len, error: NOTIFY_INVAL_INODE, unique: 0 };
        // NOENT: it knows nothing of the inode.
        if let Err(refused) = rustix::io::writev(self.channel.0.as_fd(), &[IoSlice::new(header.as_bytes()), IoSlice::new(told.as_bytes())])
            && refused != Errno::NOENT
        {
            tracing::debug!("the kernel does not want to know that attributes of inode {ino} have changed: {refused}");
        }
    }

    /// This request wants no answer.
    pub fn none(mut self) {
        // The entry of a ring has to go back in any case.
        if self.ring.is_none() {
            self.unique = None;
        } else {
            self.write(0, &[]);
        }
    }

    fn write(&mut self, errno: i32, parts: &[&[u8]]) {
        let Some(unique) = self.unique.take() else { return };
        if let Some(entry) = &mut self.ring {
            entry.answer(unique, errno, parts);
            return;
        }
        let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: len as u32, error: -errno, unique };
        let mut slices = [IoSlice::new(&[]); 4];
        slices[0] = IoSlice::new(header.as_bytes());
        debug_assert!(parts.len() < slices.len());
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        match rustix::io::writev(self.channel.0.as_fd(), &slices[..=parts.len()]) {
            // Whoever asked has been killed, or the mount is gone: nobody waits for it.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::PERM) => {}
            Err(refused) => {
                tracing::error!("the kernel does not take an answer of {len} bytes: {refused}");
                // Otherwise whoever asked would wait for ever.
                let header = OutHeader { len: size_of::<OutHeader>() as u32, error: -libc::EIO, unique };
                let _ = rustix::io::write(self.channel.0.as_fd(), header.as_bytes());
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.write(libc::EIO, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A connection whose other end is ours: each write is one message.
    fn pair() -> (Channel, OwnedFd) {
        let (ours, kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
        (Channel::new(ours), kernel)
    }

    fn answer(kernel: &OwnedFd) -> (OutHeader, Vec<u8>) {
        let mut bytes = [0; 256];
        let len = rustix::io::read(kernel, &mut bytes).unwrap();
        let (header, body) = <OutHeader as zerocopy::FromBytes>::read_from_prefix(&bytes[..len]).unwrap();
        assert_eq!(header.len as usize, len);
        (header, body.to_vec())
    }

    #[test]
    fn answers_carry_their_request_and_a_dropped_one_says_eio() {
        let (channel, kernel) = pair();
        channel.reply(1).send(&[b"ab", b"c"]);
        assert_eq!(answer(&kernel), (OutHeader { len: 19, error: 0, unique: 1 }, b"abc".to_vec()));
        channel.reply(2).error(Errno::NOENT);
        assert_eq!(answer(&kernel), (OutHeader { len: 16, error: -libc::ENOENT, unique: 2 }, vec![]));
        drop(channel.reply(3));
        assert_eq!(answer(&kernel), (OutHeader { len: 16, error: -libc::EIO, unique: 3 }, vec![]));
        let reply = channel.reply(6);
        reply.attributes_changed(9);
        let (header, body) = answer(&kernel);
        assert_eq!((header.error, header.unique, body.len()), (NOTIFY_INVAL_INODE, 0, 24));
        assert_eq!((&body[..8], &body[8..16]), (&9u64.to_ne_bytes()[..], &(-1i64).to_ne_bytes()[..]));
        reply.done();
        assert_eq!(answer(&kernel).0.unique, 6);
        channel.reply(4).none();
        channel.reply(5).done();
        assert_eq!(answer(&kernel).0.unique, 5);
    }

    #[test]
    fn the_payload_of_a_write_begins_a_page() {
        let (channel, kernel) = pair();
        let mut buffer = Buffer::new(1 << 20);
        rustix::io::write(&kernel, &[7; BEFORE_PAYLOAD + 512]).unwrap();
        let request = channel.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(request, [7; BEFORE_PAYLOAD + 512]);
        assert_eq!(request[BEFORE_PAYLOAD..].as_ptr().align_offset(PAGE), 0);
        assert!(Buffer::new(1 << 20).space().len() >= BEFORE_PAYLOAD + (1 << 20));
        assert!(Buffer::new(0).space().len() >= LEAST);
    }
}
