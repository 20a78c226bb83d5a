//! What the fuzzers call: each function takes any bytes, and must come back without a panic, in bounded time and memory (I10).
//!
//! A decoder of a block with a checksum is given the bytes as they are and then once more with the checksum that they should have:
//! else everything would end there. What was decoded is used as a volume would use it, and what is written again must be the same.

pub mod anatomy;
mod blocks;
mod items;
mod script;

pub use blocks::{checkpoint, node, record, superblock};
pub use items::{directory, extent_map};
pub use script::Script;
