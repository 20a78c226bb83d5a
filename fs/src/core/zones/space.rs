//! Counts: how much there is, how much is used, and whether the counts that are kept agree with a recount (I4).

use super::ZoneTable;
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::superblock::RING_ZONES;

/// Counts for reports, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceCounts {
    /// What users and metadata may take, reserves excluded.
    pub total: u64,
    /// What they take.
    pub used: u64,
    /// Dead blocks in closed zones.
    pub reclaimable: u64,
    /// Reserves and ring.
    pub reserved: u64,
}

/// Is it one of the zones that the log has? One that failed gives room to nobody, and the log gets another one.
pub(super) fn is_held_by_log(entry: &SegmentEntry) -> bool {
    entry.role == Role::Log && entry.phase != Phase::Retired
}

/// Zones that heads have begun and nobody else can fill: what users write needs a zone of its own while those of relocated blocks and of
/// metadata have room.
pub(super) const PARTLY_FILLED: u32 = 3;

impl ZoneTable {
    /// Live blocks of metadata.
    pub fn live_metadata(&self) -> u64 {
        self.live_metadata
    }

    /// Live blocks of data.
    pub fn live_data(&self) -> u64 {
        self.live_data
    }

    /// Blocks that users and metadata may take, reserves excluded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Blocks in use. `unplaced`: metadata blocks that exist in memory only so far.
    pub fn used(&self, unplaced: u64) -> u64 {
        self.live_data + self.live_metadata + self.unwritten + self.promised + unplaced
    }

    /// May more be in use than users and metadata may have, for what takes hardly anything and is not to be refused on a full volume? As much as is kept
    /// so that cleaning stays possible: what checkpoints and cleaning have of their own is behind that.
    pub fn may_be_exceeded(&self, unplaced: u64) -> bool {
        self.used(unplaced) <= self.total + self.total / 63
    }

    pub(super) fn compute_total(&self) -> u64 {
        let capacity: u64 = self.devices.iter().map(|d| d.zones.len() as u64 * u64::from(d.capacity)).sum();
        let retired: u64 =
            self.iter().filter(|(_, e)| e.phase == Phase::Retired).map(|(a, e)| u64::from(self.capacity(a.device()) - e.live)).sum();
        let kept = self.reserves.zones() + u64::from(self.kept_ahead().max(PARTLY_FILLED + self.devices.len() as u32 - 1));
        let ring: u64 = self.devices.iter().map(|d| u64::from(RING_ZONES) * u64::from(d.capacity)).sum();
        let largest = u64::from(self.devices.iter().map(|d| d.capacity).max().unwrap_or(0));
        let usable = capacity.saturating_sub(ring + kept * largest);
        // One part in 64 keeps cleaning possible when everything else is full.
        (usable - usable / 64).saturating_sub(retired)
    }

    /// Zones that are empty on average because the cleaner works ahead of writers: where its pacer settles, and what checkpoints take in between.
    pub(super) fn kept_ahead(&self) -> u32 {
        let capacity = self.devices.iter().map(|d| d.capacity).max().unwrap_or(1);
        let room = self.pace().middle().unsigned_abs() + u64::from(self.reserves.dirty_blocks / 3);
        room.div_ceil(u64::from(capacity)) as u32
    }

    /// The marks of the cleaner. They count above the floor of users: reserves are not among them. They are higher by half of what a checkpoint may
    /// write, because scattered writes cost several blocks of metadata each, which the law of cleaning does not know of; and by a zone
    /// of each device, because the room that heads of relocation and metadata have left counts and is not for users.
    pub fn pace(&self) -> gc::PacerConfig {
        let zones = self.devices.iter().map(|d| d.zones.len() as u32).sum();
        let capacity = self.devices.iter().map(|d| d.capacity).min().unwrap_or(1);
        gc::PacerConfig::above_reserve(0, zones, capacity)
            .raised(i64::from(self.reserves.dirty_blocks / 2) + self.devices.len() as i64 * i64::from(capacity))
    }

    /// Counts for reports. `unplaced`: metadata blocks that exist in memory only so far.
    pub fn space(&self, unplaced: u64) -> SpaceCounts {
        let capacity: u64 = self.devices.iter().map(|d| d.zones.len() as u64 * u64::from(d.capacity)).sum();
        let total = self.total;
        let used = self.used(unplaced);
        let reclaimable: u64 = self
            .iter()
            .filter(|(_, e)| e.phase == Phase::Closed && e.role != Role::Log)
            .map(|(a, e)| u64::from(self.capacity(a.device()) - e.live))
            .sum();
        SpaceCounts { total, used, reclaimable, reserved: capacity - total }
    }

    /// Recounts everything that is kept incrementally and compares (I4).
    ///
    /// # Errors
    /// The first difference.
    pub fn self_check(&self) -> Result<(), String> {
        let (mut data, mut metadata, mut empty, mut log) = (0, 0, 0, 0);
        for (addr, e) in self.iter() {
            if e.role == Role::Metadata {
                metadata += u64::from(e.live);
            } else {
                data += u64::from(e.live);
            }
            empty += u32::from(e.phase == Phase::Empty);
            log += u32::from(is_held_by_log(e));
            if e.live > self.capacity(addr.device()) || (e.phase == Phase::Empty && e.live > 0) {
                return Err(format!("zone {addr} has {} live blocks in phase {:?}", e.live, e.phase));
            }
        }
        let pairs = [
            ("live data", data, self.live_data),
            ("live metadata", metadata, self.live_metadata),
            ("empty zones", empty.into(), self.empty_zones().into()),
            ("log zones", log.into(), self.log_held.into()),
            ("space in all", self.compute_total(), self.total),
        ];
        match pairs.into_iter().find(|(_, counted, kept)| counted != kept) {
            Some((what, counted, kept)) => Err(format!("{what}: {counted} by count, {kept} kept")),
            None => Ok(()),
        }
    }
}
