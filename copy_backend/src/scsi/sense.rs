//! Sense data: fixed (SPC-4 4.5.3) and descriptor format (4.5.2).

use crate::scsi::fields::Fields;
use std::fmt;

/// A sense key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenseKey(pub u8);

impl SenseKey {
    /// Nothing to say.
    pub const NO_SENSE: Self = Self(0x0);
    /// The command succeeded, with some effort.
    pub const RECOVERED_ERROR: Self = Self(0x1);
    /// The unit cannot be used now.
    pub const NOT_READY: Self = Self(0x2);
    /// A flaw of the medium.
    pub const MEDIUM_ERROR: Self = Self(0x3);
    /// A failure of the device.
    pub const HARDWARE_ERROR: Self = Self(0x4);
    /// The command makes no sense to the device.
    pub const ILLEGAL_REQUEST: Self = Self(0x5);
    /// Something happened that the initiator must learn first; the command was not begun.
    pub const UNIT_ATTENTION: Self = Self(0x6);
    /// Protected against this access.
    pub const DATA_PROTECT: Self = Self(0x7);
    /// EXTENDED COPY and its relatives ended on the way.
    pub const COPY_ABORTED: Self = Self(0xa);
    /// The device gave the command up; it may be repeated.
    pub const ABORTED_COMMAND: Self = Self(0xb);

    fn name(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "NO SENSE",
            "RECOVERED ERROR",
            "NOT READY",
            "MEDIUM ERROR",
            "HARDWARE ERROR",
            "ILLEGAL REQUEST",
            "UNIT ATTENTION",
            "DATA PROTECT",
            "BLANK CHECK",
            "VENDOR SPECIFIC",
            "COPY ABORTED",
            "ABORTED COMMAND",
            "reserved key Ch",
            "VOLUME OVERFLOW",
            "MISCOMPARE",
            "COMPLETED",
        ];
        NAMES[usize::from(self.0 & 0xf)]
    }
}

/// Additional sense code and qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Additional(pub u8, pub u8);

impl fmt::Debug for Additional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}h/{:02X}h", self.0, self.1)
    }
}

/// What a device says about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The key.
    pub key: SenseKey,
    /// Code and qualifier.
    pub code: Additional,
    /// It concerns an earlier command.
    pub deferred: bool,
    /// The INFORMATION field, where it is valid.
    pub information: Option<u64>,
    /// The COMMAND-SPECIFIC INFORMATION field.
    pub command_specific: Option<u64>,
}

impl Sense {
    /// Reads sense data. `None`: there is none, or of no known format.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::new("sense data", bytes);
        let code = fields.u8(0).ok()? & 0x7f;
        match code {
            0x70 | 0x71 => Self::fixed(&fields, code == 0x71),
            0x72 | 0x73 => Self::descriptors(&fields, code == 0x73),
            _ => None,
        }
    }

    fn fixed(fields: &Fields, deferred: bool) -> Option<Self> {
        let valid = fields.u8(0).ok()? & 0x80 != 0;
        let key = SenseKey(fields.u8(2).ok()? & 0xf);
        // What lies beyond the additional length is not there.
        let fields = &fields.at_most(0, 8 + usize::from(fields.u8(7).unwrap_or(0)));
        Some(Self {
            key,
            code: Additional(fields.u8(12).unwrap_or(0), fields.u8(13).unwrap_or(0)),
            deferred,
            information: fields.u32(3).ok().filter(|_| valid).map(u64::from),
            command_specific: fields.u32(8).ok().map(u64::from),
        })
    }

    fn descriptors(fields: &Fields, deferred: bool) -> Option<Self> {
        let mut sense = Self {
            key: SenseKey(fields.u8(1).ok()? & 0xf),
            code: Additional(fields.u8(2).unwrap_or(0), fields.u8(3).unwrap_or(0)),
            deferred,
            information: None,
            command_specific: None,
        };
        let list = fields.at_most(8, usize::from(fields.u8(7).unwrap_or(0)));
        let mut at = 0;
        while let (Ok(kind), Ok(len)) = (list.u8(at), list.u8(at + 1)) {
            let descriptor = list.at_most(at, 2 + usize::from(len));
            match kind {
                0x00 if descriptor.u8(2).is_ok_and(|flags| flags & 0x80 != 0) => sense.information = descriptor.u64(4).ok(),
                0x01 => sense.command_specific = descriptor.u64(4).ok(),
                _ => {}
            }
            at += 2 + usize::from(len);
        }
        Some(sense)
    }

    /// COPY ABORTED by EXTENDED COPY: how many segments came before the one that failed (SPC-4 6.4.4: the third and fourth byte of
    /// COMMAND-SPECIFIC INFORMATION). In descriptor format the field is longer; targets put the four bytes at its end, and one
    /// that puts them at its beginning reads as 0, which claims nothing.
    pub fn segments_done(&self) -> Option<usize> {
        let field = self.command_specific.filter(|_| self.key == SenseKey::COPY_ABORTED)?;
        Some((field & 0xffff) as usize)
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.key.name(), self.code)?;
        match meaning(self.code) {
            "" => Ok(()),
            meaning => write!(f, " ({meaning})"),
        }
    }
}

/// The words of SPC-4 annex F, for the codes that copies meet.
fn meaning(code: Additional) -> &'static str {
    match code {
        Additional(0x00, 0x16) => "OPERATION IN PROGRESS",
        Additional(0x0d, 0x00) => "ERROR DETECTED BY THIRD PARTY TEMPORARY INITIATOR",
        Additional(0x0d, 0x01) => "THIRD PARTY DEVICE FAILURE",
        Additional(0x0d, 0x02) => "COPY TARGET DEVICE NOT REACHABLE",
        Additional(0x0d, 0x03) => "INCORRECT COPY TARGET DEVICE TYPE",
        Additional(0x0c, _) => "WRITE ERROR",
        Additional(0x11, _) => "UNRECOVERED READ ERROR",
        Additional(0x1a, 0x00) => "PARAMETER LIST LENGTH ERROR",
        Additional(0x20, 0x00) => "INVALID COMMAND OPERATION CODE",
        Additional(0x21, 0x00) => "LOGICAL BLOCK ADDRESS OUT OF RANGE",
        Additional(0x23, 0x00) => "INVALID TOKEN OPERATION, CAUSE NOT REPORTABLE",
        Additional(0x23, 0x01) => "INVALID TOKEN OPERATION, UNSUPPORTED TOKEN TYPE",
        Additional(0x23, 0x02) => "INVALID TOKEN OPERATION, REMOTE TOKEN USAGE NOT SUPPORTED",
        Additional(0x23, 0x03) => "INVALID TOKEN OPERATION, REMOTE ROD TOKEN CREATION NOT SUPPORTED",
        Additional(0x23, 0x04) => "INVALID TOKEN OPERATION, TOKEN UNKNOWN",
        Additional(0x23, 0x05) => "INVALID TOKEN OPERATION, TOKEN CORRUPT",
        Additional(0x23, 0x06) => "INVALID TOKEN OPERATION, TOKEN REVOKED",
        Additional(0x23, 0x07) => "INVALID TOKEN OPERATION, TOKEN EXPIRED",
        Additional(0x23, 0x08) => "INVALID TOKEN OPERATION, TOKEN CANCELLED",
        Additional(0x23, 0x09) => "INVALID TOKEN OPERATION, TOKEN DELETED",
        Additional(0x23, 0x0a) => "INVALID TOKEN OPERATION, INVALID TOKEN LENGTH",
        Additional(0x24, 0x00) => "INVALID FIELD IN CDB",
        Additional(0x25, 0x00) => "LOGICAL UNIT NOT SUPPORTED",
        Additional(0x26, 0x00) => "INVALID FIELD IN PARAMETER LIST",
        Additional(0x26, 0x06) => "TOO MANY TARGET DESCRIPTORS",
        Additional(0x26, 0x07) => "UNSUPPORTED TARGET DESCRIPTOR TYPE CODE",
        Additional(0x26, 0x08) => "TOO MANY SEGMENT DESCRIPTORS",
        Additional(0x26, 0x09) => "UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE",
        Additional(0x27, _) => "WRITE PROTECTED",
        Additional(0x29, _) => "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
        Additional(0x55, 0x03) => "INSUFFICIENT RESOURCES",
        Additional(0x55, 0x0c) => "INSUFFICIENT RESOURCES TO CREATE ROD",
        Additional(0x55, 0x0d) => "INSUFFICIENT RESOURCES TO CREATE ROD TOKEN",
        _ => "",
    }
}
