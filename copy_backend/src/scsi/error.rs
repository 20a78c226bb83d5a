//! What can go wrong between us and a logical unit.

use crate::scsi::sense::Sense;
use crate::scsi::transport::TransportError;
use thiserror::Error;

/// Errors of this module.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ScsiError {
    /// An answer ends before a field that it must have.
    #[error("the {what} has {len} bytes and should have {needed:?} at least")]
    Short {
        /// Which answer.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// Where the field ends.
        needed: Option<usize>,
    },
    /// An answer contradicts itself or the standard.
    #[error("the {what} makes no sense: {why}")]
    Malformed {
        /// Which answer.
        what: &'static str,
        /// What about it.
        why: &'static str,
    },
    /// The command did not reach the device, or its answer did not come back.
    #[error("{command} failed: {error}")]
    Transport {
        /// The command's name.
        command: &'static str,
        /// Why.
        error: TransportError,
    },
    /// The device ended the command with CHECK CONDITION. `None`: without sense data.
    #[error("{command} ended with {}", .sense.as_ref().map_or_else(|| "CHECK CONDITION without sense data".to_owned(), ToString::to_string))]
    Check {
        /// The command's name.
        command: &'static str,
        /// What the device says about it.
        sense: Option<Sense>,
    },
    /// Another status than GOOD and CHECK CONDITION.
    #[error("{command} ended with status {status:#04x} ({})", status_name(*.status))]
    Status {
        /// The command's name.
        command: &'static str,
        /// The SCSI status.
        status: u8,
    },
    /// An operation went on in the device for longer than we are willing to wait.
    #[error("{command} was still in progress after {seconds} seconds")]
    TimedOut {
        /// The command's name.
        command: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl ScsiError {
    /// The sense data, if the device gave any.
    pub fn sense(&self) -> Option<&Sense> {
        match self {
            Self::Check { sense, .. } => sense.as_ref(),
            _ => None,
        }
    }
}

/// SAM-5 table 44.
fn status_name(status: u8) -> &'static str {
    match status {
        0x08 => "BUSY",
        0x18 => "RESERVATION CONFLICT",
        0x28 => "TASK SET FULL",
        0x30 => "ACA ACTIVE",
        0x40 => "TASK ABORTED",
        _ => "unknown",
    }
}
