//! The operations against naive models.

mod acls;
mod data;
mod listing;
pub(in crate::core::ops) mod memory;
mod model;
mod namespace;
mod rules;
mod steps;
mod xattrs;

use crate::error::FsError;

/// The name of an error, without what it carries.
fn name_of(error: &FsError) -> String {
    format!("{error:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}
