//! What can go wrong while cleaning.

use copy_backend::CopyError;
use thiserror::Error;

/// Result of a cleaning operation.
pub type Result<T> = std::result::Result<T, CleanError>;

/// Errors of this crate.
#[derive(Clone, Debug, Error)]
pub enum CleanError {
    /// The victim is not a closed segment any more.
    #[error("segment is not clean-able any more")]
    NotAVictim,
    /// No zone is left to relocate into.
    #[error("no zone is left for cleaning")]
    NoSpace,
    /// The filesystem failed.
    #[error("{0}")]
    Filesystem(String),
    /// The copy failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A victim is being cleaned already.
    #[error("a victim is being cleaned already")]
    Busy,
    /// A part of the machinery breaks its contract; cleaning of the victim stops before anything is published.
    #[error("cleaning stopped: {0}")]
    Internal(String),
}
