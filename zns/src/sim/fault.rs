//! What goes wrong, by chance or at a given operation.

use crate::native_copy::NvmeStatus;
use crate::units::ZoneId;

/// One fault, for [`super::SimDrive::fail_at`]. It strikes the first operation from the given one on that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read (or the source of a copy range) fails.
    ReadError,
    /// A write (or the destination of a copy range) fails, with some of its blocks written.
    WriteError,
    /// A write fails for want of space underneath (ENOSPC); nothing of it is written.
    NoSpace,
    /// A report of zones fails.
    ReportError,
    /// A write lands elsewhere: its own place keeps what it had, another written block is lost.
    MisdirectedWrite,
    /// A flush fails; nothing becomes durable by it.
    FlushFailure,
    /// A reset fails; the zone stays as it was.
    ResetFailure,
    /// A Copy is refused as a whole.
    CopyRefused(NvmeStatus),
    /// A Copy stops in one of its ranges: the write pointer stands anywhere from there on.
    CopyPartial,
    /// A Copy reports success and one block is wrong.
    CopyWrong,
    /// The zone can no longer be written.
    ZoneReadOnly(ZoneId),
    /// The zone can neither be written nor read.
    ZoneOffline(ZoneId),
    /// The code that drives the device panics, before anything is done.
    Panic,
}

/// Probabilities per operation, from 0 to 1. All are 0 by default.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// A read fails.
    pub read_error: f64,
    /// A write fails with a part of it done.
    pub write_error: f64,
    /// A write fails for want of space underneath, as on a device that is thinly provisioned.
    pub no_space: f64,
    /// A report of zones fails.
    pub report_error: f64,
    /// A write lands elsewhere.
    pub misdirected_write: f64,
    /// A flush fails.
    pub flush_failure: f64,
    /// After a failed flush nothing becomes durable any more until the power is cycled, although later flushes report success:
    /// what the host must expect of a device that failed one.
    pub flush_failure_lasts: bool,
    /// A reset fails.
    pub reset_failure: f64,
    /// A Copy is refused, with a status drawn at random.
    pub copy_refused: f64,
    /// A copy range stops half-way.
    pub copy_partial: f64,
    /// A copy range succeeds with wrong data.
    pub copy_wrong: f64,
    /// After a power cut the write pointer of a zone in use stands behind garbage (per zone).
    pub write_pointer_surprise: f64,
    /// Faults at given operations, in order.
    pub at: Vec<(u64, Fault)>,
}

/// What kind of operation asks whether it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    Read,
    Write,
    Flush,
    Reset,
    CopyStart,
    CopyRange,
    Other,
    Report,
}

/// Statuses with which a Copy is refused by chance: one of each class that the host tells apart.
pub(super) const REFUSALS: [NvmeStatus; 5] =
    [NvmeStatus::INVALID_OPCODE, NvmeStatus::SIZE_LIMIT, NvmeStatus::WRITE_FAULT, NvmeStatus::READ_ERROR, NvmeStatus(0x006)];

impl Fault {
    pub(super) fn fits(self, asking: Asking) -> bool {
        use Asking as A;
        match self {
            Self::ReadError => matches!(asking, A::Read | A::CopyRange),
            Self::WriteError => matches!(asking, A::Write | A::CopyRange),
            Self::MisdirectedWrite | Self::NoSpace => asking == A::Write,
            Self::ReportError => asking == A::Report,
            Self::FlushFailure => asking == A::Flush,
            Self::ResetFailure => asking == A::Reset,
            Self::CopyRefused(_) => asking == A::CopyStart,
            Self::CopyPartial | Self::CopyWrong => asking == A::CopyRange,
            Self::ZoneReadOnly(_) | Self::ZoneOffline(_) | Self::Panic => true,
        }
    }
}

impl FaultPlan {
    /// Takes the explicit fault that strikes operation `op`, if there is one.
    pub(super) fn take_explicit(&mut self, op: u64, asking: Asking) -> Option<Fault> {
        let index = self.at.iter().position(|(from, fault)| *from <= op && fault.fits(asking))?;
        Some(self.at.remove(index).1)
    }

    /// The fault that chance gives: `draw` is asked once per kind with its probability.
    pub(super) fn by_chance(&self, asking: Asking, mut draw: impl FnMut(f64) -> bool) -> Option<Fault> {
        let table: &[(f64, Fault)] = match asking {
            Asking::Read => &[(self.read_error, Fault::ReadError)],
            Asking::Write => {
                &[(self.write_error, Fault::WriteError), (self.no_space, Fault::NoSpace), (self.misdirected_write, Fault::MisdirectedWrite)]
            }
            Asking::Report => &[(self.report_error, Fault::ReportError)],
            Asking::Flush => &[(self.flush_failure, Fault::FlushFailure)],
            Asking::Reset => &[(self.reset_failure, Fault::ResetFailure)],
            Asking::CopyStart => &[(self.copy_refused, Fault::CopyRefused(REFUSALS[0]))],
            Asking::CopyRange => &[(self.copy_partial, Fault::CopyPartial), (self.copy_wrong, Fault::CopyWrong)],
            Asking::Other => &[],
        };
        table.iter().find(|(p, _)| *p > 0.0 && draw(*p)).map(|(_, fault)| *fault)
    }
}
