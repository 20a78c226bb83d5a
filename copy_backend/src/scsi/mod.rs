//! SCSI as far as third-party copy needs it: commands, answers, sense data, and one logical unit.
//!
//! The codecs are pure and bounds-checked: an answer is bytes from a device, and no bytes make them panic (invariant
//! I10). Only [`sg_io`] talks to the kernel; everything else sees the trait [`ScsiTransport`], at which a target of the
//! tests can stand. The two roads ([`crate::scsi_xcopy`], [`crate::scsi_token`]) are built from these parts.

pub mod block_limits;
pub mod capacity;
pub mod carrier;
pub mod designator;
pub mod error;
pub mod extended_copy;
pub mod fields;
pub mod inquiry;
pub mod operating_parameters;
pub mod outcome;
pub mod place;
pub mod sense;
pub mod sg_io;
pub mod third_party;
pub mod token;
pub mod transport;
pub mod unit;

#[cfg(test)]
mod tests;

pub use error::ScsiError;
pub use sense::{Additional, Sense, SenseKey};
pub use transport::{Data, Reply, ScsiTransport, TransportError};
pub use unit::Unit;
