//! Zone states and actions. NVMe Zoned Namespace Command Set 1.1, section 2.1.1 (zone state machine).

use crate::units::{Blocks, Lba, ZoneId};
use serde::{Deserialize, Serialize};

/// State of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneState {
    /// Write pointer at the start.
    Empty,
    /// Opened by a write.
    ImplicitOpen,
    /// Opened by command.
    ExplicitOpen,
    /// Partly written, not open, still active.
    Closed,
    /// No more writes until a reset.
    Full,
    /// Readable, never writable again.
    ReadOnly,
    /// Neither readable nor writable.
    Offline,
}

impl ZoneState {
    /// Does the zone count against `max_active`?
    pub fn is_active(self) -> bool {
        matches!(self, Self::ImplicitOpen | Self::ExplicitOpen | Self::Closed)
    }
    /// Does the zone count against `max_open`?
    pub fn is_open(self) -> bool {
        matches!(self, Self::ImplicitOpen | Self::ExplicitOpen)
    }
}

/// One line of a zone report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneInfo {
    /// Which zone.
    pub id: ZoneId,
    /// Its state.
    pub state: ZoneState,
    /// First block.
    pub start: Lba,
    /// Writable blocks.
    pub capacity: Blocks,
    /// Blocks written since the last reset: write pointer minus start. For a full zone: its capacity.
    pub written: Blocks,
}

/// What may be asked of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneAction {
    /// Open explicitly.
    Open,
    /// Close; the zone stays active.
    Close,
    /// Make full: no more writes, frees the active resource.
    Finish,
    /// Back to empty; the content is gone.
    Reset,
}
