//! When and how much to clean.
/// Placeholder.
pub struct Pacer;
/// Placeholder.
pub struct PacerConfig;
/// Placeholder.
pub struct Pace;
