//! An in-memory drive for crash and fault simulation, deterministic from a seed.
//!
//! A [`SimDrive`] is the hardware: media, volatile cache, zone states, and a plan of what goes wrong. A [`SimDevice`]
//! is a handle on it that behaves as any other [`crate::ZonedDevice`]. Every operation has a number, so that a harness
//! can cut the power at any of them, and every decision of chance derives from the seed and that number alone: a run
//! of one thread can be repeated exactly.
//!
//! What is promised to the host, and so what a filesystem may rely on:
//! - what was completed before a successful flush survives every power cut;
//! - what was completed since then survives in part: per zone a prefix of what was done to it (zoned), or any subset of
//!   the writes, each perhaps torn (conventional);
//! - a write pointer may stand behind garbage after a power cut, if the plan says so.

//!
//! [`SimFile`] is the file of a drive image, simulated likewise. Where chance is not enough, a [`Tape`] records what all devices of a volume did, and
//! [`CrashStates`] enumerates what a loss of power could have left of it.

mod crash;
mod crash_states;
mod drive;
mod fault;
mod file;
mod media;
mod still;
mod store;
mod tape;
#[cfg(test)]
mod tests;

pub use crash_states::{Bounds, CrashState, CrashStates, Tear};
pub use drive::{SimDevice, SimDrive};
pub use fault::{Fault, FaultPlan};
pub use file::{FileOp, SimFile};
pub use still::{SimMedium, Still};
pub use tape::{By, Deed, Lie, Step, Tape};

use crate::error::DeviceError;
use crate::geometry::{DeviceKind, Geometry};
use crate::native_copy::{CopyLimits, NvmeStatus};
use crate::units::Blocks;

/// What a Copy answers that was cut off by a loss of power (generic status: Commands Aborted due to Power Loss Notification).
pub const POWER_LOSS_STATUS: NvmeStatus = NvmeStatus(0x005);

/// What a simulated drive is.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Bytes in a device block: 512 or 4096.
    pub block_size: u32,
    /// Number of zones.
    pub zones: u32,
    /// Distance between the starts of two zones, in device blocks.
    pub zone_size: Blocks,
    /// Writable device blocks of a zone.
    pub zone_capacity: Blocks,
    /// Open zones at once; 0 means no limit.
    pub max_open: u32,
    /// Active zones at once; 0 means no limit.
    pub max_active: u32,
    /// Largest single read or write, in bytes.
    pub max_io_bytes: u32,
    /// A plain disk presented as zones: every zone is reported full until the host adopts write pointers, a reset leaves the
    /// content where it is, and a power cut may take or tear any write since the last flush.
    pub conventional: bool,
    /// On a plain disk, writes may go anywhere. Off: the adopted write pointers are enforced, as
    /// [`crate::conventional::ConventionalDevice`] does it.
    pub overwrites: bool,
    /// Limits of the drive's Copy command; `None`: it has none.
    pub copy: Option<CopyLimits>,
    /// A power cut tears a 4096-byte device block between its 512-byte sectors. (Device blocks are never torn otherwise.)
    pub tear_blocks: bool,
    /// Source of all chance.
    pub seed: u64,
    /// What goes wrong.
    pub faults: FaultPlan,
}

impl SimConfig {
    /// A faultless ZNS drive of `zones` zones of 1 MiB, 4096-byte blocks, 14 active zones and a Copy command.
    pub fn zoned(zones: u32, seed: u64) -> Self {
        Self {
            block_size: 4096,
            zones,
            zone_size: Blocks(256),
            zone_capacity: Blocks(256),
            max_open: 14,
            max_active: 14,
            max_io_bytes: 1 << 20,
            conventional: false,
            overwrites: false,
            copy: Some(CopyLimits { mssrl: 128, mcl: 256, ranges: 128 }),
            tear_blocks: false,
            seed,
            faults: FaultPlan::default(),
        }
    }

    /// A faultless plain disk of `zones` zones of 1 MiB and 512-byte blocks, with write pointers enforced once they are adopted.
    pub fn conventional(zones: u32, seed: u64) -> Self {
        Self {
            block_size: 512,
            zone_size: Blocks(2048),
            zone_capacity: Blocks(2048),
            max_open: 0,
            max_active: 0,
            conventional: true,
            copy: None,
            ..Self::zoned(zones, seed)
        }
    }

    /// The geometry that handles report.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            kind: if self.conventional { DeviceKind::Conventional } else { DeviceKind::Zns },
            block_size: self.block_size,
            zones: self.zones,
            zone_size: self.zone_size,
            zone_capacity: self.zone_capacity,
            max_open: self.max_open,
            max_active: self.max_active,
            max_io_bytes: self.max_io_bytes,
            software_zones: self.conventional,
        }
    }
}

/// What becomes of the volatile cache when power is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Survival {
    /// All that was completed is on the media.
    KeepAll,
    /// Nothing since the last flush is.
    LoseAll,
    /// The seed decides, zone by zone or write by write.
    #[default]
    Random,
}

/// Kinds of operations of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimOp {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// A range of a Copy.
    Copy,
    /// Flushing.
    Flush,
    /// Resetting a zone.
    Reset,
    /// Finishing a zone.
    Finish,
    /// Opening or closing a zone, reporting zones.
    Other,
}

/// The operation that a planned loss of power struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutPoint {
    /// What it was.
    pub what: SimOp,
    /// Where, if it was about one zone.
    pub zone: Option<crate::units::ZoneId>,
    /// It was done in part. Otherwise nothing of it happened.
    pub torn: bool,
}

/// Counters of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Read operations.
    pub reads: u64,
    /// Bytes read by them.
    pub bytes_read: u64,
    /// Write operations.
    pub writes: u64,
    /// Bytes written by them.
    pub bytes_written: u64,
    /// Copy commands.
    pub copies: u64,
    /// Source ranges of Copy commands that were carried out.
    pub copy_ranges: u64,
    /// Bytes moved by Copy commands.
    pub bytes_copied: u64,
    /// Flushes.
    pub flushes: u64,
    /// Zone resets.
    pub resets: u64,
    /// Zone finishes.
    pub finishes: u64,
    /// Zone reports.
    pub reports: u64,
    /// Writes to a conventional drive that were not at the software write pointer.
    pub overwrites: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Power cycles.
    pub power_cycles: u64,
}

/// A rule that the host broke.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The number of the operation.
    pub op: u64,
    /// Which rule.
    pub breach: Breach,
}

/// The rules a host can break.
#[derive(Clone, Debug)]
pub enum Breach {
    /// A read, write or zone command that the drive refused.
    Refused(DeviceError),
    /// A Copy that the drive refused.
    CopyRefused(NvmeStatus),
    /// A write or Copy into a zone while another write to it was in flight (invariant I1).
    TwoWritersInFlight(crate::units::ZoneId),
}
