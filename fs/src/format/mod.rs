//! On-disk types: little-endian, versioned, checksummed. FORMAT.md beside this file describes them for people.

pub mod acl;
pub mod batch;
pub mod item;
pub mod log;
pub mod record;
pub mod segment;
pub mod superblock;
pub mod xattr;
