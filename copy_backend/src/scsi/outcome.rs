//! What a SCSI failure means for the engine. One table for both roads.

use crate::backend::FailureKind;
use crate::scsi::error::ScsiError;
use crate::scsi::sense::{Additional, Sense, SenseKey};
use crate::scsi::transport::TransportError;

/// The class of an error.
pub fn classify(error: &ScsiError) -> FailureKind {
    match error {
        ScsiError::Check { sense: Some(sense), .. } => of_sense(sense),
        ScsiError::Transport { error: TransportError::NotScsi | TransportError::NotPermitted, .. } => FailureKind::Unsupported,
        // An answer that makes no sense will not make more sense next time.
        ScsiError::Short { .. } | ScsiError::Malformed { .. } => FailureKind::Unsupported,
        ScsiError::Check { sense: None, .. }
        | ScsiError::Transport { .. }
        // A reservation binds the copy manager and not always the host: the host may try.
        | ScsiError::Status { .. }
        | ScsiError::TimedOut { .. } => FailureKind::Transient,
    }
}

/// The class of sense data. The code decides; the key only where the code says too little.
pub fn of_sense(sense: &Sense) -> FailureKind {
    match (sense.key, sense.code) {
        (_, Additional(0x0d, 0x02 | 0x03)) => FailureKind::Unsupported,
        (_, Additional(0x11, _)) => FailureKind::SourceMedia,
        (_, Additional(0x03 | 0x0c | 0x27, _)) if !is_zone(sense.code) => FailureKind::DestinationMedia,
        // ZBC-2 4.4.3: unaligned write, write boundary, zone read-only or offline, too few zone resources.
        (_, code) if is_zone(code) => FailureKind::DestinationZone,
        (_, Additional(0x1a, 0x00) | Additional(0x26, 0x06 | 0x08)) => FailureKind::TooLarge,
        (_, Additional(0x23, 0x01..=0x03)) => FailureKind::Unsupported,
        // A token that is gone: the data is not.
        (_, Additional(0x23, _)) => FailureKind::Transient,
        (SenseKey::ILLEGAL_REQUEST | SenseKey::COPY_ABORTED, Additional(0x24, 0x00) | Additional(0x26, 0x00)) => FailureKind::Refused,
        (SenseKey::ILLEGAL_REQUEST | SenseKey::COPY_ABORTED, Additional(0x20 | 0x24 | 0x25 | 0x26, _)) => FailureKind::Unsupported,
        _ => FailureKind::Transient,
    }
}

fn is_zone(code: Additional) -> bool {
    matches!(code, Additional(0x21, 0x04..=0x07) | Additional(0x27, 0x08) | Additional(0x2c, 0x0e) | Additional(0x55, 0x0e))
}

/// A token that a device does not (any more) know: another one may be asked for.
pub fn token_is_gone(error: &ScsiError) -> bool {
    error.sense().is_some_and(|sense| matches!(sense.code, Additional(0x23, 0x00 | 0x04..=0x0a)))
}
