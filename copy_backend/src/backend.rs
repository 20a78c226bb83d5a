//! The seam of one road. Sources and target each carry a device, so copies between devices need no second interface.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use zns::{Blocks, DeviceError, DeviceId, IoClass, Lba, NvmeStatus, Ticket};

/// The roads there are or will be. The names are those of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Road {
    /// NVMe Copy.
    Nvme,
    /// SCSI EXTENDED COPY.
    ScsiXcopy,
    /// SCSI POPULATE TOKEN and WRITE USING TOKEN.
    ScsiToken,
    /// FICLONERANGE between regular files.
    Reflink,
    /// The Copy of an image file, carried out by our own process: simulated.
    Image,
    /// Read into the host and write back.
    Host,
}

impl Road {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::ScsiXcopy => "scsi-xcopy",
            Self::ScsiToken => "scsi-token",
            Self::Reflink => "reflink",
            Self::Image => "image",
            Self::Host => "host",
        }
    }
    /// Does the payload stay out of the host's memory on this road (in the image's case: as a real device would do it)?
    pub fn is_offload(self) -> bool {
        self != Self::Host
    }
}

impl std::fmt::Display for Road {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A source range, in device blocks, within one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRange {
    /// Which device.
    pub device: DeviceId,
    /// First block.
    pub lba: Lba,
    /// How many blocks.
    pub blocks: Blocks,
}

/// Where the sources land, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which device.
    pub device: DeviceId,
    /// First block: the write pointer of its zone.
    pub lba: Lba,
}

/// What a road can do between two devices. A value of 0 in a limit never occurs: a road without capability gives no caps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCaps {
    /// The road.
    pub road: Road,
    /// Most bytes in one source range.
    pub max_range_bytes: u64,
    /// Most bytes in one command.
    pub max_command_bytes: u64,
    /// Most source ranges in one command.
    pub max_ranges: u32,
    /// Carried out by our own process.
    pub simulated: bool,
}

/// One command: within the caps, one destination zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyCommand {
    /// What to copy, in order.
    pub sources: Vec<SourceRange>,
    /// Where to.
    pub target: Target,
    /// For pacing.
    pub class: IoClass,
}

/// Why a command failed, as far as the engine cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The road cannot do this at all: close it for the pair.
    Unsupported,
    /// The command was too large for the device: smaller ones may pass.
    TooLarge,
    /// The device does not like something about the command and does not say what: its size perhaps, so smaller ones are tried.
    Refused,
    /// These ranges do not lie as the road needs them; others may. The host carries them.
    NotAligned,
    /// The destination zone takes no more (not at its write pointer, full, read-only, offline).
    DestinationZone,
    /// The media failed to read a source.
    SourceMedia,
    /// The media failed to write the destination.
    DestinationMedia,
    /// The road reported success, and the destination holds something else. Only verification finds this.
    WrongData,
    /// Anything else that may go away.
    Transient,
}

impl FailureKind {
    /// The class of an NVMe status.
    pub fn of_nvme(status: NvmeStatus) -> Self {
        match status {
            NvmeStatus::INVALID_OPCODE
            | NvmeStatus::INVALID_NAMESPACE
            | NvmeStatus::LBA_OUT_OF_RANGE
            | NvmeStatus::INVALID_PROTECTION
            | NvmeStatus::INCOMPATIBLE
            | NvmeStatus::NOT_FAST
            | NvmeStatus::NOT_REACHABLE
            | NvmeStatus::ACCESS_DENIED => Self::Unsupported,
            NvmeStatus::SIZE_LIMIT | NvmeStatus::INSUFFICIENT_RESOURCES => Self::TooLarge,
            NvmeStatus::INVALID_FIELD => Self::Refused,
            NvmeStatus::READ_ERROR
            | NvmeStatus::GUARD_CHECK
            | NvmeStatus::APPLICATION_TAG_CHECK
            | NvmeStatus::REFERENCE_TAG_CHECK
            | NvmeStatus::DEALLOCATED => Self::SourceMedia,
            NvmeStatus::WRITE_FAULT | NvmeStatus::READ_ONLY_RANGE => Self::DestinationMedia,
            NvmeStatus(0x1b8..=0x1bf) => Self::DestinationZone,
            _ => Self::Transient,
        }
    }
    /// The name used as REASON in reports of fallbacks.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::TooLarge => "command-too-large",
            Self::Refused => "refused",
            Self::NotAligned => "not-aligned",
            Self::DestinationZone => "destination-zone",
            Self::SourceMedia => "source-media",
            Self::DestinationMedia => "destination-media",
            Self::WrongData => "copied-wrongly",
            Self::Transient => "transient",
        }
    }
    /// The class of an error that a device gave while a source was read.
    pub fn of_read(error: &DeviceError) -> Self {
        match error {
            DeviceError::Io { .. } | DeviceError::Zone { .. } => Self::SourceMedia,
            DeviceError::BadRange { .. } => Self::Unsupported,
            _ => Self::Transient,
        }
    }
    /// The class of an error that a device gave while the destination was written.
    pub fn of_write(error: &DeviceError) -> Self {
        match error {
            DeviceError::Io { .. } => Self::DestinationMedia,
            DeviceError::NotAtWritePointer { .. } | DeviceError::Zone { .. } => Self::DestinationZone,
            DeviceError::BadRange { .. } => Self::Unsupported,
            _ => Self::Transient,
        }
    }
}

/// Why a road does not lead from one device to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoad {
    /// In words for people.
    pub reason: String,
    /// The road is for another kind of device altogether: reports name such a reason only where there is no better one.
    pub foreign: bool,
}

impl NoRoad {
    /// The devices are of a kind that this road has nothing to do with.
    pub fn foreign(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), foreign: true }
    }
}

impl<T: Into<String>> From<T> for NoRoad {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), foreign: false }
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOutcome {
    /// Sources, counted from the first, that are known to be copied whole.
    pub ranges_done: usize,
    /// Bytes read into and written from host memory on the way (zero by offload).
    pub host_read: u64,
    /// See `host_read`.
    pub host_written: u64,
    /// `None`: everything was copied (then `ranges_done` counts all sources). Otherwise invariant I9 holds for the destination: what lies between the end of the
    /// ranges done and the write pointer is dead space, and the write pointer must be read back.
    pub failure: Option<FailureKind>,
    /// What the device said, in words for people: the reason that is reported if the road is closed for it.
    pub detail: Option<String>,
}

impl CopyOutcome {
    /// Everything was copied, and nothing of it passed through host memory.
    pub fn offloaded(ranges: usize) -> Self {
        Self { ranges_done: ranges, host_read: 0, host_written: 0, failure: None, detail: None }
    }
    /// It failed after `ranges_done` ranges.
    pub fn failed(ranges_done: usize, kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { failure: Some(kind), detail: Some(detail.into()), ..Self::offloaded(ranges_done) }
    }
}

/// One road.
pub trait CopyBackend: Send + Sync {
    /// Which road this is.
    fn road(&self) -> Road;
    /// What it can do from one device to another. `Err(reason)`: no road between these two, in words for people.
    ///
    /// # Errors
    /// The reason, for reports.
    fn caps(&self, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad>;
    /// Is what the road promises to be doubted until it was seen? Then the first command of a pair is one block, and what it did
    /// is read back and compared, whatever the settings.
    fn needs_proof(&self) -> bool {
        false
    }
    /// Has `submit` itself the target admit a command? Then several may be in flight into a zone that is kept in software: they are
    /// admitted in the order in which they are submitted.
    fn admits_in_order(&self) -> bool {
        false
    }
    /// Starts a command.
    ///
    /// # Errors
    /// Only when it could not be started at all.
    fn submit(&self, command: CopyCommand) -> Result<Ticket>;
    /// Waits for a command.
    fn complete(&self, ticket: Ticket) -> CopyOutcome;
}
