//! The first request of a connection: which version and which capabilities both sides have.

use super::adaptor::AdaptorOptions;
use super::channel::{Buffer, Channel};
use super::wire::{InitIn, InitMore, InitOut, MAJOR, MINOR, OLDEST_MINOR, Request, capability, op};
use rustix::io::Errno;

/// Version (Linux 6.18) from which no answer waits for the closing of a file.
const CLOSES_ASIDE: u32 = 45;

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Capabilities.
    pub capabilities: u64,
    /// The kernel's minor version.
    pub minor: u32,
}

impl Agreed {
    /// Is it among them?
    pub fn has(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }
}

/// Waits for the kernel's INIT and answers it. `ring` is told whether the kernel takes requests over io_uring and says whether they shall come so.
///
/// # Errors
/// A kernel that is too old or speaks another protocol; a connection that ended; what `ring` says.
pub fn handshake(
    channel: &Channel,
    options: &AdaptorOptions,
    has_acls: bool,
    is_block_mount: bool,
    ring: &mut dyn FnMut(bool) -> std::io::Result<bool>,
) -> std::io::Result<Agreed> {
    let mut buffer = Buffer::new(options.max_write);
    loop {
        let bytes = channel.receive(&mut buffer)?.ok_or_else(|| std::io::Error::other("the mount was removed before it began"))?;
        let mut request = Request::parse(bytes).map_err(std::io::Error::other)?;
        let reply = channel.reply(request.header.unique);
        if request.header.opcode != op::INIT {
            return Err(std::io::Error::other("the kernel's first request is none of version and capabilities"));
        }
        let init: InitIn = request.take().map_err(std::io::Error::other)?;
        if init.major > MAJOR {
            // It asks again, in our version.
            reply.value(&InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() });
            continue;
        }
        if init.major < MAJOR || init.minor < OLDEST_MINOR {
            reply.error(Errno::PROTO);
            return Err(std::io::Error::other(format!(
                "this kernel speaks FUSE {}.{}; {MAJOR}.{OLDEST_MINOR} (Linux 4.20) is needed",
                init.major, init.minor
            )));
        }
        let more = request.take::<InitMore>().ok().filter(|_| u64::from(init.flags) & capability::INIT_EXT != 0);
        let offered = u64::from(init.flags) | more.map_or(0, |more| u64::from(more.flags2) << 32);
        let mut capabilities = offered & wanted(offered, has_acls);
        // The last answer to asynchronous direct I/O may close its file, which waits for another answer of ours in such mounts.
        if is_block_mount && init.minor < CLOSES_ASIDE {
            capabilities &= !capability::ASYNC_DIO;
        }
        if ring(offered & capability::OVER_IO_URING != 0)? {
            capabilities |= capability::OVER_IO_URING;
        }
        let agreed = Agreed { capabilities, minor: init.minor };
        reply.value(&answer(options, &init, agreed));
        return Ok(agreed);
    }
}

/// What we ask for, of what is offered. An old kernel lacks some; none is needed for correctness. Not asked for, with the reason:
///
/// * POSIX_LOCKS, FLOCK_LOCKS: all lockers of a file share this kernel, which then keeps the locks itself, rightly
///   and without asking us.
/// * ATOMIC_O_TRUNC: the reply to an open carries no attributes, so the kernel would go on believing in the set-id bits
///   that a truncation takes away. Without it the kernel truncates by a setattr of its own.
/// * HANDLE_KILLPRIV: the kernel asks for `security.capability` before every single write, with or without it.
/// * AUTO_INVAL_DATA: it throws cached pages away when the mtime is not what the kernel expects, which is after each
///   of our own writes; EXPLICIT_INVAL_DATA is its opposite.
/// * WRITEBACK_CACHE: makes stat after create five times slower.
fn wanted(offered: u64, has_acls: bool) -> u64 {
    let mut wanted = capability::ASYNC_READ
        | capability::ASYNC_DIO
        | capability::BIG_WRITES
        | capability::MAX_PAGES
        | capability::DO_READDIRPLUS
        | capability::READDIRPLUS_AUTO
        | capability::PARALLEL_DIROPS
        | capability::EXPORT_SUPPORT
        | capability::CACHE_SYMLINKS
        | capability::EXPLICIT_INVAL_DATA
        // With it the kernel remembers that a file has nothing to lose, and a write is one request instead of two.
        // Without it the kernel clears set-id bits itself. See `lost_privileges`.
        | capability::HANDLE_KILLPRIV_V2
        | capability::INIT_EXT;
    // The kernel enforces access control lists and we keep and inherit them: so the umask is ours to apply, too. It says when a list takes the setgid bit away.
    let lists = capability::DONT_MASK | capability::POSIX_ACL | capability::SETXATTR_EXT;
    if has_acls && offered & lists == lists {
        wanted |= lists;
    }
    wanted
}

fn answer(options: &AdaptorOptions, init: &InitIn, agreed: Agreed) -> InitOut {
    const PAGE: u32 = 4096;
    InitOut {
        major: MAJOR,
        minor: MINOR,
        // As much as the kernel offers (128 KiB); whoever mounts as root raises it afterwards through sysfs.
        max_readahead: options.max_write.min(init.max_readahead),
        flags: agreed.capabilities as u32,
        flags2: (agreed.capabilities >> 32) as u32,
        max_background: 64,
        congestion_threshold: 48,
        max_write: options.max_write,
        time_gran: 1,
        max_pages: u16::try_from(options.max_write.div_ceil(PAGE)).unwrap_or(u16::MAX),
        ..InitOut::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::OwnedFd;
    use zerocopy::{FromBytes, IntoBytes};

    use super::super::wire::{InHeader, OutHeader};

    fn init(major: u32, minor: u32, flags: u64) -> Vec<u8> {
        let body = InitIn { major, minor, max_readahead: 1 << 17, flags: flags as u32 };
        let more = InitMore { flags2: (flags >> 32) as u32, unused: [0; 11] };
        let len = (size_of::<InHeader>() + size_of::<InitIn>() + size_of::<InitMore>()) as u32;
        let header = InHeader { len, opcode: op::INIT, unique: 2, nodeid: 0, uid: 0, gid: 0, pid: 0, extension: 0, padding: 0 };
        [header.as_bytes(), body.as_bytes(), more.as_bytes()].concat()
    }

    fn shake(requests: &[Vec<u8>], has_acls: bool) -> (std::io::Result<Agreed>, OwnedFd) {
        let (ours, kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
        for request in requests {
            rustix::io::write(&kernel, request).unwrap();
        }
        (handshake(&Channel::new(ours), &AdaptorOptions::default(), has_acls, false, &mut Ok), kernel)
    }

    fn answered(kernel: &OwnedFd) -> (OutHeader, Option<InitOut>) {
        let mut bytes = [0; 128];
        let len = rustix::io::read(kernel, &mut bytes).unwrap();
        let (header, rest) = OutHeader::read_from_prefix(&bytes[..len]).unwrap();
        (header, InitOut::read_from_bytes(rest).ok())
    }

    #[test]
    fn only_what_is_offered_and_wanted_is_agreed_on() {
        let offered = capability::ASYNC_READ | capability::MAX_PAGES | capability::INIT_EXT | capability::POSIX_ACL | 1 << 12 | 1 << 40;
        let (agreed, kernel) = shake(&[init(7, 41, offered)], true);
        let expected = capability::ASYNC_READ | capability::MAX_PAGES | capability::INIT_EXT;
        assert_eq!(agreed.unwrap().capabilities, expected, "lists need all three of their capabilities");
        let out = answered(&kernel).1.unwrap();
        assert_eq!((u64::from(out.flags), out.flags2, out.major, out.time_gran), (expected, 0, 7, 1));
        assert_eq!((out.max_write, out.max_pages, out.max_readahead), (1 << 20, 256, 1 << 17));
        assert!(shake(&[init(7, 41, u64::MAX)], true).0.unwrap().has(capability::POSIX_ACL));
        assert!(shake(&[init(7, 41, u64::MAX)], true).0.unwrap().has(capability::OVER_IO_URING));
        assert!(!shake(&[init(7, 41, u64::MAX)], false).0.unwrap().has(capability::POSIX_ACL));
    }

    #[test]
    fn versions_that_do_not_fit_are_told() {
        let (refused, kernel) = shake(&[init(7, 20, 0)], false);
        assert!(refused.unwrap_err().to_string().contains("speaks FUSE 7.20"));
        assert_eq!(answered(&kernel).0.error, -libc::EPROTO);
        let (agreed, kernel) = shake(&[init(8, 1, 0), init(7, 45, 0)], false);
        assert_eq!(agreed.unwrap(), Agreed { capabilities: 0, minor: 45 });
        assert_eq!(answered(&kernel).1.unwrap().minor, MINOR);
        let (refused, _kernel) = shake(&[init(7, 45, 0)[..20].to_vec()], false);
        assert!(refused.is_err());
    }
}
