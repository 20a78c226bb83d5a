//! The road by which `ferryfs status|gc|scrub|map|zones|umount` reach the daemon: two ioctls on any file or directory of the mount.
//!
//! Why ioctls and not a socket: whoever talks to the daemon must first open a file of the mount, so the kernel's own
//! checks (file permissions, `allow_other`, mount namespaces) decide who gets that far; there is no name to guess, to
//! squat on or to leave behind, no second permission model, and the request cannot reach the wrong daemon. FUSE passes
//! "restricted" ioctls, whose direction and size are in the command number: at most 16 KiB each way, so an answer
//! is left with the open file and fetched piece by piece.
//!
//! * [`CALL`] carries a [`Request`] as JSON, ended by zero bytes; it returns a [`Header`] and keeps the answer.
//!   An answer that takes longer than [`PATIENCE`] is EINPROGRESS, and [`Request::Wait`] asks for it again: nobody can
//!   interrupt a process that waits in an ioctl, so none waits for long.
//! * [`FETCH`] carries an offset (u64, little-endian) and returns the answer from there on.
//!
//! Orders (`gc`, `scrub`, `sync`, `atimes`) are obeyed only when root or the owner of the daemon gives them; questions are answered to
//! everyone who can open the file.

use crate::volume::Atimes;
use crate::volume::scrub::ScrubAt;
use serde::{Deserialize, Serialize};

/// How long a CALL waits for its answer.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_millis(200);
/// Bytes that CALL carries each way.
pub const CALL_BYTES: usize = 1024;
/// Bytes that FETCH carries each way.
pub const FETCH_BYTES: usize = 8192;

const fn read_write(number: u32, size: usize) -> u32 {
    const READ_WRITE: u32 = 3;
    READ_WRITE << 30 | (size as u32) << 16 | (b'F' as u32) << 8 | number
}

/// Command number of a request.
pub const CALL: u32 = read_write(0x70, CALL_BYTES);
/// Command number that fetches a piece of the answer.
pub const FETCH: u32 = read_write(0x71, FETCH_BYTES);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Who are you? Answered by the adaptor with a [`Hello`].
    Hello,
    /// State and counters.
    Status,
    /// Every zone.
    Zones,
    /// Where the extents of the opened file lie.
    Map,
    /// Clean.
    Gc {
        /// Until nothing worth cleaning is left, rather than one victim.
        until_clean: bool,
    },
    /// Verify some of what is there.
    Scrub {
        /// From where on.
        at: ScrubAt,
        /// About how much.
        bytes: u64,
    },
    /// Make everything durable.
    Sync,
    /// Count these accesses from now on: the volume was remounted.
    Atimes(Atimes),
    /// The answer to what was asked before, which was not there yet.
    Wait,
}

impl Request {
    /// Does it change anything, or keep devices busy? Then only root and the owner of the daemon may ask.
    pub fn is_order(self) -> bool {
        matches!(self, Self::Gc { .. } | Self::Scrub { .. } | Self::Sync | Self::Atimes(_))
    }

    /// As CALL carries it.
    pub fn encode(self) -> [u8; CALL_BYTES] {
        let mut out = [0; CALL_BYTES];
        let text = serde_json::to_vec(&self).unwrap_or_default();
        let len = text.len().min(CALL_BYTES);
        out[..len].copy_from_slice(&text[..len]);
        out
    }

    /// The inverse of [`Request::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        serde_json::from_slice(&bytes[..len]).ok()
    }
}

/// Answer to [`Request::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the program that serves the mount.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// In which pid namespace that number holds, if /proc says so.
    pub pid_namespace: Option<String>,
    /// Whoever started it.
    pub uid: u32,
    /// Does the kernel tell it of sync(1)?
    #[serde(default)]
    pub synced: bool,
    /// How requests reach it: [`OVER_DEVICE`] or [`OVER_RING`].
    #[serde(default = "over_device")]
    pub transport: String,
}

/// Requests are read from /dev/fuse.
pub const OVER_DEVICE: &str = "dev_fuse";
/// Requests come over io_uring.
pub const OVER_RING: &str = "io_uring";

fn over_device() -> String {
    OVER_DEVICE.into()
}

/// The pid namespace of this process.
pub fn pid_namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

/// What CALL returns at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 0, or the errno of the error whose text is the answer; EINPROGRESS: ask again with [`Request::Wait`].
    pub errno: u32,
    /// Bytes of the answer.
    pub len: u64,
}

impl Header {
    const MAGIC: [u8; 4] = *b"FRY1";
    /// Its length.
    pub const BYTES: usize = 16;

    /// As CALL returns it.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&Self::MAGIC);
        out[4..8].copy_from_slice(&self.errno.to_le_bytes());
        out[8..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    /// The inverse of [`Header::encode`]; `None` if it was not a FerryFS that answered.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let errno = u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?);
        let len = u64::from_le_bytes(*bytes.get(8..16)?.first_chunk()?);
        (bytes[..4] == Self::MAGIC).then_some(Self { errno, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::AtimeMode;

    #[test]
    fn requests_survive_the_road() {
        for request in [
            Request::Hello,
            Request::Status,
            Request::Zones,
            Request::Map,
            Request::Gc { until_clean: true },
            Request::Scrub { at: ScrubAt::Data { ino: u64::MAX, block: u64::MAX }, bytes: u64::MAX },
            Request::Sync,
            Request::Atimes(Atimes { mode: AtimeMode::Strict, directories: false }),
            Request::Wait,
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Request::decode(b"nonsense"), None);
        assert_eq!(Request::decode(&[]), None);
        assert_eq!(Request::decode(&[0xff; CALL_BYTES]), None);
    }

    #[test]
    fn headers_survive_the_road() {
        let header = Header { errno: 30, len: 1 << 40 };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Header::decode(&[0; 16]), None);
        assert_eq!(Header::decode(b"FRY1"), None);
    }

    #[test]
    fn command_numbers_carry_direction_and_size() {
        assert_eq!(CALL >> 30, 3);
        assert_eq!((CALL >> 16) as usize & 0x3fff, CALL_BYTES);
        assert_eq!((FETCH >> 16) as usize & 0x3fff, FETCH_BYTES);
    }
}
