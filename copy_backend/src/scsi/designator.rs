//! Designators of the device identification page 83h (SPC-4 7.8.6): how copy managers name logical units.

use crate::scsi::error::ScsiError;
use crate::scsi::fields::Fields;

/// Room for a designator in an identification CSCD descriptor (SPC-4 6.4.5.6).
pub const MAX_LEN: usize = 20;

/// A name of a logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Designator {
    /// 1 binary, 2 ASCII, 3 UTF-8.
    pub code_set: u8,
    /// 1 T10 vendor, 2 EUI-64, 3 NAA, 0 vendor specific.
    pub kind: u8,
    /// The name itself.
    pub bytes: Vec<u8>,
}

/// T10 vendor ID based.
const T10: u8 = 1;
/// EUI-64 based.
const EUI64: u8 = 2;
/// NAA.
const NAA: u8 = 3;
/// Vendor specific.
const VENDOR: u8 = 0;

impl Designator {
    /// The names that a page's body gives to the logical unit itself, in its order. A descriptor that does not fit into the page ends it.
    pub fn all(body: &[u8]) -> Vec<Self> {
        let fields = Fields::new("device identification page", body);
        let mut found = Vec::new();
        let mut at = 0;
        while let Ok(designator) = Self::one(&fields, at) {
            at += 4 + designator.1;
            found.extend(designator.0);
        }
        found
    }

    /// The descriptor at `at`, where it names the logical unit; and its length.
    fn one(fields: &Fields, at: usize) -> Result<(Option<Self>, usize), ScsiError> {
        let (code_set, kind, len) = (fields.u8(at)? & 0xf, fields.u8(at + 1)?, usize::from(fields.u8(at + 3)?));
        let bytes = fields.slice(at + 4, len)?;
        let names_unit = kind >> 4 & 3 == 0 && !bytes.is_empty();
        Ok((names_unit.then(|| Self { code_set, kind: kind & 0xf, bytes: bytes.to_vec() }), len))
    }

    /// The best name that a CSCD descriptor can carry: NAA, then EUI-64, T10, vendor specific; of equals the longest (NAA 6h before the shorter forms).
    pub fn best(all: &[Self]) -> Option<&Self> {
        let rank = |designator: &Self| [VENDOR, T10, EUI64, NAA].iter().position(|kind| *kind == designator.kind);
        let fits = all.iter().filter(|designator| designator.bytes.len() <= MAX_LEN);
        fits.filter_map(|d| rank(d).map(|rank| (rank, d))).max_by_key(|(rank, d)| (*rank, d.bytes.len())).map(|(_, designator)| designator)
    }
}
