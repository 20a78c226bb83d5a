//! Moves one victim, chunk by chunk.
/// Placeholder.
pub struct Relocator;
/// Placeholder.
pub struct Step;
