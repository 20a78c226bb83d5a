//! What can go wrong in a volume. The errno of each lives in the FUSE adaptor, nowhere else.

use crate::addr::Addr;
use crate::ids::Ino;
use thiserror::Error;
use zns::DeviceError;

/// Result of a filesystem operation.
pub type Result<T> = std::result::Result<T, FsError>;

/// Errors of this crate.
#[derive(Clone, Debug, Error)]
pub enum FsError {
    /// No such entry, inode or attribute target.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsADirectory,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name is longer than 255 bytes, or a symbolic link longer than 4095.
    #[error("name too long")]
    NameTooLong,
    /// An argument makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The caller may not do this.
    #[error("operation not permitted")]
    NotPermitted,
    /// File permissions forbid it.
    #[error("permission denied")]
    Access,
    /// No space within `available`.
    #[error("no space left on the volume")]
    NoSpace,
    /// A file would grow beyond 16 TiB.
    #[error("file too large")]
    FileTooLarge,
    /// Too many links to a file.
    #[error("too many links")]
    TooManyLinks,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small.
    #[error("result does not fit into the buffer")]
    Range,
    /// An attribute value that is too large.
    #[error("attribute value too large")]
    TooBig,
    /// SEEK_DATA or SEEK_HOLE beyond the end.
    #[error("no such offset")]
    NoSuchOffset,
    /// Not supported.
    #[error("operation not supported: {0}")]
    Unsupported(&'static str),
    /// The volume is read-only, and why.
    #[error("the volume is read-only: {0}")]
    ReadOnly(String),
    /// A block on the media is not what it must be: bad media returns this, never a panic (I10).
    #[error("corrupt {what} at {addr}: {detail}")]
    Corrupt {
        /// What kind of block.
        what: &'static str,
        /// Where.
        addr: Addr,
        /// What is wrong with it.
        detail: String,
    },
    /// Data of a file fails its checksum.
    #[error("data of inode {ino} at file block {block} fails its checksum (media address {addr})")]
    DataChecksum {
        /// Whose data.
        ino: Ino,
        /// Which block of the file.
        block: u64,
        /// Where it lies.
        addr: Addr,
    },
    /// A volume that cannot be opened as asked, and why, and what to do.
    #[error("{0}")]
    Volume(String),
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A copy failed.
    #[error(transparent)]
    Copy(#[from] copy_backend::CopyError),
    /// An invariant inside the program does not hold; the operation was given up before it changed anything.
    #[error("internal error: {0}")]
    Internal(&'static str),
}
