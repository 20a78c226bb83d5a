//! The kernel's FUSE protocol to the byte: include/uapi/linux/fuse.h, version 7.45, as far as it concerns a filesystem like this one.
//!
//! Numbers have the byte order and the structures the layout of the machine: both ends run on it. Names are those of the header without their prefix.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the protocol that is spoken here.
pub const MAJOR: u32 = 7;
/// Its minor version.
pub const MINOR: u32 = 45;
/// The oldest minor version that is understood (Linux 4.20): large requests, copy_file_range.
pub const OLDEST_MINOR: u32 = 28;
/// Inode number of the root.
pub const ROOT: u64 = 1;

/// What a request asks for (`enum fuse_opcode`).
#[allow(missing_docs)]
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Capabilities of INIT; those above bit 31 travel in `flags2`.
#[allow(missing_docs)]
pub mod capability {
    pub const ASYNC_READ: u64 = 1;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// Which fields of SETATTR are meant (FATTR_*).
#[allow(missing_docs)]
pub mod set {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const CTIME: u32 = 1 << 10;
    /// The caller has no right to keep set-id bits (FATTR_KILL_SUIDGID): said with a length by kernels that agreed on HANDLE_KILLPRIV_V2, and with
    /// every new owner.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// What is read and written passes the kernel's pages, a call's pieces one after the other (FOPEN_DIRECT_IO).
pub const OPEN_DIRECT_IO: u32 = 1;
/// The kernel keeps what it has of the file (FOPEN_KEEP_CACHE).
pub const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// Set-id bits go with what is truncated (FUSE_OPEN_KILL_SUIDGID).
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// Closing the file is nothing to tell of (FOPEN_NOFLUSH).
pub const OPEN_NO_FLUSH: u32 = 1 << 5;
/// Pages that somebody has mapped: nobody waits for an answer who would write the rest (FUSE_WRITE_CACHE).
pub const WRITE_CACHE: u32 = 1;
/// Set-id bits go with this write (FUSE_WRITE_KILL_SUIDGID).
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// Setgid goes with this list (FUSE_SETXATTR_ACL_KILL_SGID).
pub const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// What is told without having been asked, where an answer has its error: the kernel is to ask for attributes again (FUSE_NOTIFY_INVAL_INODE).
pub const NOTIFY_INVAL_INODE: i32 = 2;

/// The command of io_uring that offers an entry (FUSE_IO_URING_CMD_REGISTER).
pub const RING_REGISTER: u32 = 1;
/// That which gives an answer and takes the next request (FUSE_IO_URING_CMD_COMMIT_AND_FETCH).
pub const RING_COMMIT_AND_FETCH: u32 = 2;
/// Size of the heads of a request over io_uring (struct fuse_uring_req_header): that of every request, that of its kind, and what is said of the payload.
pub const RING_HEADS: usize = RING_ENTRY_AT + size_of::<EntryInOut>();
/// Where the second head begins.
pub const RING_OPERATION_AT: usize = 128;
/// Where the third one begins, an [`EntryInOut`].
pub const RING_ENTRY_AT: usize = 256;

/// A structure that the kernel sends.
pub trait Received: FromBytes + KnownLayout + Immutable {}

macro_rules! received {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $kind),* }
        impl Received for $name {}
    )*};
}

received! {
    /// The head of every request.
    InHeader { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, extension: u16, padding: u16 }
    /// INIT up to 7.35.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    /// What INIT has since 7.36, if the flag INIT_EXT says so.
    InitMore { flags2: u32, unused: [u32; 11] }
    /// A single inode of BATCH_FORGET.
    ForgetOne { nodeid: u64, lookups: u64 }
    /// BATCH_FORGET
    BatchForgetIn { count: u32, dummy: u32 }
    /// SETATTR
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    /// MKNOD
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// MKDIR
    MkdirIn { mode: u32, umask: u32 }
    /// RENAME
    RenameIn { newdir: u64 }
    /// RENAME2
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    /// LINK
    LinkIn { oldnodeid: u64 }
    /// OPEN
    OpenIn { flags: i32, open_flags: u32 }
    /// CREATE and TMPFILE
    CreateIn { flags: i32, mode: u32, umask: u32, open_flags: u32 }
    /// READ, READDIR, READDIRPLUS
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: i32, padding: u32 }
    /// WRITE
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: i32, padding: u32 }
    /// RELEASE, RELEASEDIR
    ReleaseIn { fh: u64, flags: i32, release_flags: u32, lock_owner: u64 }
    /// SETXATTR
    SetxattrIn { size: u32, flags: i32 }
    /// What SETXATTR has besides with SETXATTR_EXT.
    SetxattrMore { setxattr_flags: u32, padding: u32 }
    /// GETXATTR, LISTXATTR
    GetxattrIn { size: u32, padding: u32 }
    /// IOCTL
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    /// FALLOCATE
    FallocateIn { fh: u64, offset: u64, length: u64, mode: i32, padding: u32 }
    /// LSEEK
    LseekIn { fh: u64, offset: i64, whence: i32, padding: u32 }
    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64
    CopyFileRangeIn { fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64 }
    /// STATX
    StatxIn { getattr_flags: u32, reserved: u32, fh: u64, flags: u32, mask: u32 }
}

macro_rules! sent {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? } = $size:literal)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $kind),* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

sent! {
    /// The head of every answer; `error` is 0 or a negative errno.
    OutHeader { len: u32, error: i32, unique: u64 } = 16
    /// What is said of the payload of a request or an answer over io_uring (struct fuse_uring_ent_in_out).
    EntryInOut { flags: u64, commit_id: u64, payload_sz: u32, padding: u32, reserved: u64 } = 32
    /// What a command of io_uring has besides (struct fuse_uring_cmd_req).
    RingCommand { flags: u64, commit_id: u64, qid: u16, padding: [u8; 6] } = 24
    /// NOTIFY_INVAL_INODE; a negative offset: attributes alone.
    InvalInodeOut { ino: u64, off: i64, len: i64 } = 24
    /// INIT
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16, max_write: u32,
        time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32, request_timeout: u16, unused_half: u16,
        unused: [u32; 5],
    } = 64
    /// Attributes
    Attributes {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64, atimensec: u32, mtimensec: u32, ctimensec: u32,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    } = 88
    /// LOOKUP, MKNOD, MKDIR, SYMLINK, LINK
    EntryOut { nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32, attr: Attributes } = 128
    /// GETATTR, SETATTR
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attributes } = 104
    /// OPEN, OPENDIR, and the second half of CREATE
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 } = 16
    /// WRITE, COPY_FILE_RANGE
    WriteOut { size: u32, padding: u32 } = 8
    /// COPY_FILE_RANGE_64
    CopyFileRangeOut { bytes_copied: u64 } = 8
    /// STATFS
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6],
    } = 80
    /// GETXATTR, LISTXATTR when asked for the size only
    GetxattrOut { size: u32, padding: u32 } = 8
    /// IOCTL
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 } = 16
    /// LSEEK
    LseekOut { offset: u64 } = 8
    /// An entry of READDIR; its name follows, filled up to eight bytes.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 } = 24
    /// A time of STATX.
    SxTime { sec: i64, nsec: u32, reserved: i32 } = 16
    /// Attributes as STATX has them.
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64, size: u64, blocks: u64,
        attributes_mask: u64, atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime, rdev_major: u32, rdev_minor: u32,
        dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    } = 256
    /// STATX
    StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx } = 288
}

/// A request that is not as the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request of the kernel is shorter than it should be, or a name in it has no end")]
pub struct Malformed;

/// A request: its head, and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The head.
    pub header: InHeader,
    /// What is still to be taken from the body.
    pub body: &'a [u8],
    /// The rest of the body, which lies elsewhere.
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request in `bytes`, which one read from the kernel gave.
    ///
    /// # Errors
    /// Shorter than its head says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| Malformed)?;
        let len = (header.len as usize).checked_sub(size_of::<InHeader>()).ok_or(Malformed)?;
        let mut body = rest.get(..len).ok_or(Malformed)?;
        // Extensions (in units of 8 bytes) follow the body. None is asked for.
        if header.extension != 0 {
            body = body.get(..len.saturating_sub(usize::from(header.extension) * 8)).ok_or(Malformed)?;
        }
        Ok(Self { header, body, rest: &[] })
    }

    /// The request whose heads are these and whose body is in part a payload, as io_uring has it.
    ///
    /// # Errors
    /// The lengths do not agree.
    pub fn in_parts(heads: &'a [u8; RING_HEADS], payload: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = InHeader::read_from_prefix(heads).map_err(|_| Malformed)?;
        // The first structure of the body has a head of its own.
        let len = (header.len as usize).checked_sub(size_of::<InHeader>() + payload.len()).ok_or(Malformed)?;
        let body = heads[RING_OPERATION_AT..RING_ENTRY_AT].get(..len).ok_or(Malformed)?;
        let extended = usize::from(header.extension) * 8;
        let rest = payload.get(..payload.len().saturating_sub(extended)).ok_or(Malformed)?;
        Ok(Self { header, body, rest })
    }

    /// Goes on with the rest of the body.
    fn go_on(&mut self) {
        if self.body.is_empty() {
            self.body = std::mem::take(&mut self.rest);
        }
    }

    /// Takes a structure from the body.
    ///
    /// # Errors
    /// The body is too short.
    pub fn take<T: Received>(&mut self) -> Result<T, Malformed> {
        self.go_on();
        let (value, rest) = T::read_from_prefix(self.body).map_err(|_| Malformed)?;
        self.body = rest;
        Ok(value)
    }

    /// Takes bytes up to a zero, and the zero.
    ///
    /// # Errors
    /// There is no zero.
    pub fn name(&mut self) -> Result<&'a [u8], Malformed> {
        self.go_on();
        let end = self.body.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
        let (name, rest) = self.body.split_at(end);
        self.body = &rest[1..];
        Ok(name)
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn bytes(&mut self, len: u32) -> Result<&'a [u8], Malformed> {
        self.go_on();
        let (bytes, rest) = self.body.split_at_checked(len as usize).ok_or(Malformed)?;
        self.body = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &[u8]) -> Vec<u8> {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode: op::RENAME2, unique: 7, nodeid: 1, uid: 0, gid: 0, pid: 1, extension: 0, padding: 0 };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn requests_are_taken_apart() {
        let bytes = request(&[Rename2In { newdir: 5, flags: 2, padding: 0 }.as_bytes(), b"old\0new\0"].concat());
        let mut parsed = Request::parse(&bytes).unwrap();
        assert_eq!((parsed.header.unique, parsed.header.opcode), (7, op::RENAME2));
        assert_eq!(parsed.take::<Rename2In>().unwrap().newdir, 5);
        assert_eq!((parsed.name().unwrap(), parsed.name().unwrap()), (&b"old"[..], &b"new"[..]));
        assert_eq!(parsed.name(), Err(Malformed));
        assert_eq!(parsed.bytes(1), Err(Malformed));
        assert_eq!(parsed.bytes(0), Ok(&[][..]));
    }

    /// The first structure lies in a head of its own, names and data in the payload; what has no such structure has all of it there.
    #[test]
    fn requests_of_a_ring_come_in_parts() {
        assert_eq!((RING_HEADS, align_of::<EntryInOut>(), std::mem::offset_of!(RingCommand, qid)), (288, 8, 16));
        let heads = |opcode, len: usize, operation: &[u8]| {
            let len = (size_of::<InHeader>() + len) as u32;
            let header = InHeader { len, opcode, unique: 7, nodeid: 1, uid: 0, gid: 0, pid: 1, extension: 0, padding: 0 };
            let mut heads = [0xee; RING_HEADS];
            heads[..size_of::<InHeader>()].copy_from_slice(header.as_bytes());
            heads[RING_OPERATION_AT..][..operation.len()].copy_from_slice(operation);
            heads
        };
        let rename = Rename2In { newdir: 5, flags: 2, padding: 0 };
        let parts = heads(op::RENAME2, 16 + 8, rename.as_bytes());
        let mut parsed = Request::in_parts(&parts, b"old\0new\0").unwrap();
        assert_eq!((parsed.header.unique, parsed.take::<Rename2In>().unwrap().newdir), (7, 5));
        assert_eq!((parsed.name().unwrap(), parsed.name().unwrap()), (&b"old"[..], &b"new"[..]));
        assert_eq!(parsed.name(), Err(Malformed));
        let parts = heads(op::LOOKUP, 2, &[]);
        assert_eq!(Request::in_parts(&parts, b"a\0").unwrap().name(), Ok(&b"a"[..]));
        assert!(Request::in_parts(&parts, b"abc").is_err());
        let parts = heads(op::FORGET, 129, &[]);
        assert!(Request::in_parts(&parts, &[]).is_err());
        assert!(Request::in_parts(&heads(op::WRITE, 128, &[]), &[]).is_ok());
    }

    #[test]
    fn what_is_too_short_is_malformed() {
        let bytes = request(b"name without an end");
        assert_eq!(Request::parse(&bytes[..39]).err(), Some(Malformed));
        assert_eq!(Request::parse(&bytes[..bytes.len() - 1]).err(), Some(Malformed));
        assert_eq!(Request::parse(&bytes).unwrap().name(), Err(Malformed));
        assert!(Request::parse(&request(b"")).unwrap().take::<LinkIn>().is_err());
        let mut lies = request(b"");
        lies[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(Request::parse(&lies).err(), Some(Malformed));
        let mut extended = request(&[0; 16]);
        extended[36] = 1;
        assert_eq!(Request::parse(&extended).unwrap().body.len(), 8);
        extended[36] = 3;
        assert_eq!(Request::parse(&extended).unwrap().body.len(), 0);
    }
}
