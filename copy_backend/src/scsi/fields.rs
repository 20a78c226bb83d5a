//! Big-endian fields of an answer, each read checked against its end.

use crate::scsi::error::ScsiError;

/// An answer of a device. `what` names it in errors.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    /// The fields of `bytes`, called `what` in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { bytes, what }
    }

    /// Bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `len` bytes from `at` on.
    ///
    /// # Errors
    /// The answer ends before.
    pub fn slice(&self, at: usize, len: usize) -> Result<&'a [u8], ScsiError> {
        let end = at.checked_add(len);
        end.and_then(|end| self.bytes.get(at..end)).ok_or(ScsiError::Short { what: self.what, len: self.bytes.len(), needed: end })
    }

    /// At most `len` bytes from `at` on: a device may announce more than it sent.
    pub fn at_most(&self, at: usize, len: usize) -> Self {
        let rest = self.bytes.get(at..).unwrap_or_default();
        Self { bytes: &rest[..rest.len().min(len)], what: self.what }
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], ScsiError> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(at, N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// The answer ends before.
    pub fn u8(&self, at: usize) -> Result<u8, ScsiError> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// The answer ends before.
    pub fn u16(&self, at: usize) -> Result<u16, ScsiError> {
        self.array(at).map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// The answer ends before.
    pub fn u32(&self, at: usize) -> Result<u32, ScsiError> {
        self.array(at).map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// The answer ends before.
    pub fn u64(&self, at: usize) -> Result<u64, ScsiError> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// An error about what the answer says.
    pub fn malformed(&self, why: &'static str) -> ScsiError {
        ScsiError::Malformed { what: self.what, why }
    }
}
