//! How a command is refused: a status, and for CHECK CONDITION sense data in either format.

use crate::Response;

/// A sense key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// The unit cannot be used now.
    NotReady = 2,
    /// A flaw of the medium.
    MediumError = 3,
    /// A failure of the device.
    HardwareError = 4,
    /// The command makes no sense.
    IllegalRequest = 5,
    /// Something to tell.
    UnitAttention = 6,
    /// Write protected.
    DataProtect = 7,
    /// A third-party copy ended on the way.
    CopyAborted = 0xa,
    /// Given up.
    AbortedCommand = 0xb,
}

/// Additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u8, pub u8);

#[allow(missing_docs)] // The names are those of SPC-4 annex F.
impl Code {
    pub const WRITE_ERROR: Self = Self(0x0c, 0x00);
    pub const THIRD_PARTY_DEVICE_FAILURE: Self = Self(0x0d, 0x01);
    pub const COPY_TARGET_NOT_REACHABLE: Self = Self(0x0d, 0x02);
    pub const UNRECOVERED_READ: Self = Self(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH: Self = Self(0x1a, 0x00);
    pub const INVALID_OPCODE: Self = Self(0x20, 0x00);
    pub const OUT_OF_RANGE: Self = Self(0x21, 0x00);
    pub const UNSUPPORTED_TOKEN_TYPE: Self = Self(0x23, 0x01);
    pub const REMOTE_TOKEN_USAGE: Self = Self(0x23, 0x02);
    pub const TOKEN_UNKNOWN: Self = Self(0x23, 0x04);
    pub const TOKEN_CORRUPT: Self = Self(0x23, 0x05);
    pub const TOKEN_REVOKED: Self = Self(0x23, 0x06);
    pub const TOKEN_EXPIRED: Self = Self(0x23, 0x07);
    pub const TOKEN_DELETED: Self = Self(0x23, 0x09);
    pub const INVALID_FIELD_IN_CDB: Self = Self(0x24, 0x00);
    pub const UNIT_NOT_SUPPORTED: Self = Self(0x25, 0x00);
    pub const INVALID_FIELD_IN_LIST: Self = Self(0x26, 0x00);
    pub const TOO_MANY_TARGETS: Self = Self(0x26, 0x06);
    pub const UNSUPPORTED_TARGET: Self = Self(0x26, 0x07);
    pub const TOO_MANY_SEGMENTS: Self = Self(0x26, 0x08);
    pub const UNSUPPORTED_SEGMENT: Self = Self(0x26, 0x09);
    pub const INEXACT_SEGMENT: Self = Self(0x26, 0x0a);
    pub const POWER_ON: Self = Self(0x29, 0x00);
    pub const PARAMETERS_CHANGED: Self = Self(0x2a, 0x00);
    pub const NO_ROD_TOKEN: Self = Self(0x55, 0x0d);
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another status than CHECK CONDITION.
    Status(u8),
    /// CHECK CONDITION.
    Check {
        /// Sense key.
        key: Key,
        /// Additional sense.
        code: Code,
        /// COMMAND-SPECIFIC INFORMATION: for COPY ABORTED the segment that failed.
        specific: u32,
    },
}

impl Refusal {
    /// CHECK CONDITION without command-specific information.
    pub fn check(key: Key, code: Code) -> Self {
        Self::Check { key, code, specific: 0 }
    }

    /// The response to the initiator.
    pub fn response(self, descriptor_format: bool) -> Response {
        match self {
            Self::Status(status) => Response { status, ..Response::default() },
            Self::Check { .. } => Response { status: 2, sense: self.sense(descriptor_format), data: Vec::new() },
        }
    }

    /// Sense data.
    pub fn sense(self, descriptor_format: bool) -> Vec<u8> {
        let Self::Check { key, code, specific } = self else { return Vec::new() };
        if descriptor_format {
            let mut sense = vec![0x72, key as u8, code.0, code.1, 0, 0, 0, 12, 0x01, 0x0a, 0, 0];
            sense.extend(u64::from(specific).to_be_bytes());
            return sense;
        }
        let mut sense = vec![0; 18];
        (sense[0], sense[2], sense[7]) = (0x70, key as u8, 10);
        sense[8..12].copy_from_slice(&specific.to_be_bytes());
        (sense[12], sense[13]) = (code.0, code.1);
        sense
    }
}
