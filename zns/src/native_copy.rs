//! A device's own Copy command, with NVMe's limits, partial-failure rule and status codes.
//!
//! NVM Command Set 1.1, section 3.3.2 (Copy command); ZNS Command Set 1.1, figure 14 (status codes).

use crate::units::{Blocks, Lba};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Limits of one Copy command. Zero in `mssrl` or `mcl` means that the device takes no Copy at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyLimits {
    /// Most device blocks in one source range (MSSRL).
    pub mssrl: u32,
    /// Most device blocks in one command (MCL).
    pub mcl: u32,
    /// Most source ranges in one command (MSRC as a count: one more than the field of the specification).
    pub ranges: u32,
}

/// One source range of a Copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// First block.
    pub lba: Lba,
    /// Number of blocks, within one zone.
    pub blocks: Blocks,
}

/// An NVMe status: status code type in bits 8..11, code in bits 0..8, as in the completion queue entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NvmeStatus(pub u16);

impl NvmeStatus {
    /// Generic: LBA Out of Range.
    pub const LBA_OUT_OF_RANGE: Self = Self(0x080);
    /// Generic: Invalid Command Opcode.
    pub const INVALID_OPCODE: Self = Self(0x001);
    /// Generic: Invalid Field in Command.
    pub const INVALID_FIELD: Self = Self(0x002);
    /// Command specific: Command Size Limit Exceeded.
    pub const SIZE_LIMIT: Self = Self(0x183);
    /// Command specific: Zone Boundary Error.
    pub const ZONE_BOUNDARY: Self = Self(0x1b8);
    /// Command specific: Zone Is Full.
    pub const ZONE_FULL: Self = Self(0x1b9);
    /// Command specific: Zone Is Read Only.
    pub const ZONE_READ_ONLY: Self = Self(0x1ba);
    /// Command specific: Zone Is Offline.
    pub const ZONE_OFFLINE: Self = Self(0x1bb);
    /// Command specific: Zone Invalid Write (not at the write pointer).
    pub const ZONE_INVALID_WRITE: Self = Self(0x1bc);
    /// Command specific: Too Many Active Zones.
    pub const TOO_MANY_ACTIVE: Self = Self(0x1bd);
    /// Command specific: Too Many Open Zones.
    pub const TOO_MANY_OPEN: Self = Self(0x1be);
    /// Command specific: Invalid Zone State Transition.
    pub const INVALID_TRANSITION: Self = Self(0x1bf);
    /// Media: Write Fault.
    pub const WRITE_FAULT: Self = Self(0x280);
    /// Media: Unrecovered Read Error.
    pub const READ_ERROR: Self = Self(0x281);
    /// Generic: Invalid Namespace or Format.
    pub const INVALID_NAMESPACE: Self = Self(0x00b);
    /// Command specific: Attempted Write to Read Only Range.
    pub const READ_ONLY_RANGE: Self = Self(0x182);
    /// Command specific: Invalid Protection Information.
    pub const INVALID_PROTECTION: Self = Self(0x181);
    /// Command specific: Incompatible Namespace or Format.
    pub const INCOMPATIBLE: Self = Self(0x185);
    /// Command specific: Fast Copy Not Possible.
    pub const NOT_FAST: Self = Self(0x186);
    /// Command specific: Overlapping I/O Range.
    pub const OVERLAPPING: Self = Self(0x187);
    /// Command specific: Namespace Not Reachable.
    pub const NOT_REACHABLE: Self = Self(0x188);
    /// Command specific: Insufficient Resources.
    pub const INSUFFICIENT_RESOURCES: Self = Self(0x189);
    /// Media: End-to-end Guard Check Error.
    pub const GUARD_CHECK: Self = Self(0x282);
    /// Media: End-to-end Application Tag Check Error.
    pub const APPLICATION_TAG_CHECK: Self = Self(0x283);
    /// Media: End-to-end Reference Tag Check Error.
    pub const REFERENCE_TAG_CHECK: Self = Self(0x284);
    /// Media: Access Denied.
    pub const ACCESS_DENIED: Self = Self(0x286);
    /// Media: Deallocated or Unwritten Logical Block.
    pub const DEALLOCATED: Self = Self(0x287);

    /// The name the specification gives this status.
    pub fn name(self) -> &'static str {
        match self {
            Self::LBA_OUT_OF_RANGE => "LBA Out of Range",
            Self::INVALID_OPCODE => "Invalid Command Opcode",
            Self::INVALID_FIELD => "Invalid Field in Command",
            Self::SIZE_LIMIT => "Command Size Limit Exceeded",
            Self::ZONE_BOUNDARY => "Zone Boundary Error",
            Self::ZONE_FULL => "Zone Is Full",
            Self::ZONE_READ_ONLY => "Zone Is Read Only",
            Self::ZONE_OFFLINE => "Zone Is Offline",
            Self::ZONE_INVALID_WRITE => "Zone Invalid Write",
            Self::TOO_MANY_ACTIVE => "Too Many Active Zones",
            Self::TOO_MANY_OPEN => "Too Many Open Zones",
            Self::INVALID_TRANSITION => "Invalid Zone State Transition",
            Self::WRITE_FAULT => "Write Fault",
            Self::READ_ERROR => "Unrecovered Read Error",
            Self::INVALID_NAMESPACE => "Invalid Namespace or Format",
            Self::READ_ONLY_RANGE => "Attempted Write to Read Only Range",
            Self::INVALID_PROTECTION => "Invalid Protection Information",
            Self::INCOMPATIBLE => "Incompatible Namespace or Format",
            Self::NOT_FAST => "Fast Copy Not Possible",
            Self::OVERLAPPING => "Overlapping I/O Range",
            Self::NOT_REACHABLE => "Namespace Not Reachable",
            Self::INSUFFICIENT_RESOURCES => "Insufficient Resources",
            Self::GUARD_CHECK => "End-to-end Guard Check Error",
            Self::APPLICATION_TAG_CHECK => "End-to-end Application Tag Check Error",
            Self::REFERENCE_TAG_CHECK => "End-to-end Reference Tag Check Error",
            Self::ACCESS_DENIED => "Access Denied",
            Self::DEALLOCATED => "Deallocated or Unwritten Logical Block",
            _ => "status without a name here",
        }
    }
}
impl fmt::Display for NvmeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (NVMe status {:#05x})", self.name(), self.0)
    }
}
impl fmt::Debug for NvmeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a Copy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFailure {
    /// Why.
    pub status: NvmeStatus,
    /// Dword 0 of the completion: the lowest-numbered source range that was not copied. Ranges below it were copied;
    /// ranges from it on may nevertheless have been copied in part, and the write pointer may stand anywhere.
    pub first_failed: u32,
    /// Do not retry the same command.
    pub do_not_retry: bool,
}

/// A Copy command that our own process can issue through the device object.
pub trait NativeCopy: Send + Sync {
    /// Limits of a command.
    fn limits(&self) -> CopyLimits;
    /// The Copy is carried out by our own process, not by a device that somebody else wrote.
    fn simulated(&self) -> bool;
    /// Copies `sources` one behind the other to `target` (the write pointer of its zone) and waits.
    ///
    /// # Errors
    /// The status, with NVMe's partial-failure rule: earlier ranges stay copied.
    fn copy(&self, sources: &[CopySource], target: Lba) -> std::result::Result<(), CopyFailure>;
}
