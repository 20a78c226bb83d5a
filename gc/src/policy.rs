//! Victim policies.
use crate::segment::{SegmentId, SegmentInfo, Seq};
/// Chooses a victim.
pub trait VictimPolicy: Send + Sync {
    /// The name used in options and reports.
    fn name(&self) -> &'static str;
    /// The segment to clean next, if any is worth it (one without dead blocks never is).
    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId>;
}
/// Placeholder.
pub enum Policy {}
