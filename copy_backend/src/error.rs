//! What can go wrong with a copy as a whole.

use thiserror::Error;
use zns::DeviceError;

/// Result of a copy operation.
pub type Result<T> = std::result::Result<T, CopyError>;

/// Errors of this crate.
#[derive(Clone, Debug, Error)]
pub enum CopyError {
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// `copy_route=offload` was asked for and no offload road could carry the copy.
    #[error("no device can carry this copy: {reason}")]
    NoOffload {
        /// Why.
        reason: String,
    },
    /// A copy of byte ranges that cannot be; nothing has been touched.
    #[error(transparent)]
    Range(#[from] crate::ranges::RangeError),
    /// A request that makes no sense: misaligned, overlapping, outside the device, target across zones.
    #[error("copy request is not valid: {0}")]
    Invalid(String),
}
