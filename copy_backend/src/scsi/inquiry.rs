//! INQUIRY (SPC-4 6.6): standard data and vital product data pages.

use crate::scsi::error::ScsiError;
use crate::scsi::fields::Fields;

/// Most bytes of a page that are asked for.
pub const ALLOCATION: u16 = 4096;
/// Device identification.
pub const PAGE_IDENTIFICATION: u8 = 0x83;
/// Third-party copy.
pub const PAGE_THIRD_PARTY: u8 = 0x8f;
/// Block limits (SBC-3).
pub const PAGE_BLOCK_LIMITS: u8 = 0xb0;

/// The command for standard data, or for a page.
pub fn command(page: Option<u8>) -> [u8; 6] {
    let [high, low] = ALLOCATION.to_be_bytes();
    [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0]
}

/// Standard INQUIRY data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// Peripheral device type: 0 for a disk, 14h for a host-managed zoned one.
    pub device_type: u8,
    /// The 3PC bit: it takes part in third-party copies.
    pub third_party_copy: bool,
    /// Vendor and product, for people.
    pub name: String,
}

impl Inquiry {
    /// Reads standard data.
    ///
    /// # Errors
    /// Too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ScsiError> {
        let fields = Fields::new("INQUIRY data", bytes);
        let text = |at, len| {
            String::from_utf8_lossy(fields.at_most(at, len).slice(0, fields.at_most(at, len).len()).unwrap_or_default()).trim().to_owned()
        };
        Ok(Self {
            device_type: fields.u8(0)? & 0x1f,
            third_party_copy: fields.u8(5)? & 0x08 != 0,
            name: format!("{} {}", text(8, 8), text(16, 16)).trim().to_owned(),
        })
    }
}

/// The body of page `page`, as long as it says and as far as it was sent.
///
/// # Errors
/// Too short, or another page: old devices answer standard data to pages they do not know.
pub fn page(bytes: &[u8], page: u8, what: &'static str) -> Result<Vec<u8>, ScsiError> {
    let fields = Fields::new(what, bytes);
    if fields.u8(1)? != page {
        return Err(fields.malformed("it is another page"));
    }
    let body = fields.at_most(4, usize::from(fields.u16(2)?));
    Ok(body.slice(0, body.len())?.to_vec())
}
