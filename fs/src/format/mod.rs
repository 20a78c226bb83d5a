//! On-disk types: little-endian, versioned, checksummed. FORMAT.md beside this file describes them for people.

pub mod item;
pub mod record;
