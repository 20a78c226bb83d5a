//! A volume opened to be repaired: the steps of a mount around what a repair does in between.
//!
//! Nothing is written before everything is mended in memory and counted. Then one checkpoint of a new epoch makes it durable, by the same road as
//! any other: a power cut leaves the volume as it was found or as it was mended. It must not reset a zone on the word of a segment table that
//! may be wrong: only what was dead in the checkpoint *and* by count is emptied to make room. Where the table is lost, what the checkpoint's node map and
//! extents lead to is not dead in it, whatever the log freed since: a repair that is cut off starts from that checkpoint once more.

use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::zones::ZoneTable;
use crate::error::{FsError, Result};
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::volume::Volume;
use crate::volume::assemble::{Assembled, assemble_below};
use crate::volume::options::{GcMode, MountOptions};
use crate::volume::recovery::{Replay, Unappliable};
use std::collections::BTreeSet;
use std::sync::Arc;
use zns::{ZoneInfo, ZoneState, ZonedDevice};

/// A volume as it was found.
pub(crate) struct Mending {
    pub volume: Volume,
    /// Why the superblock is not the newest there was, if it is not.
    pub newer_lost: Option<String>,
    /// All devices have the superblock of the newest checkpoint, be it in use or not.
    pub all_current: bool,
    /// Pages of the segment table that could not be had.
    pub bad_zone_pages: Vec<u32>,
    reports: Vec<Vec<ZoneInfo>>,
    /// Dead in the checkpoint, and not where its log goes on; or in a page of the segment table that is lost, so that only what leads there tells: else a
    /// repair would find no room where every zone has been written to, or a disk does not say which have.
    unused: Vec<Addr>,
}

impl Mending {
    /// Opens the volume by its newest superblock of a generation below `limit`.
    ///
    /// # Errors
    /// There is no such volume, or it must not be written to.
    pub fn open(devices: Vec<Arc<dyn ZonedDevice>>, cache_size: u64, limit: u64) -> Result<Self> {
        let Assembled { devices, rings, superblock, newer_lost, must_be_read_only } = assemble_below(devices, limit)?;
        if must_be_read_only {
            return Err(FsError::Volume(
                "the volume uses features that this FerryFS can read but not write, so it cannot repair it".into(),
            ));
        }
        let newest = rings.iter().map(|ring| ring.generation()).max().unwrap_or(0);
        let all_current = rings.iter().all(|ring| ring.generation() == newest);
        let options = MountOptions { cache_size, gc: GcMode::Manual, ..MountOptions::default() };
        let volume = Volume::build(devices, rings, superblock, options)?;
        // The next record must be the newest, whichever this one is, and whatever the ones say that cannot be had.
        let hidden = if newer_lost.is_some() { crate::format::superblock::RING_SLOTS } else { 0 };
        volume.state.lock().generation = newest + u64::from(hidden);
        let pages = 0..ZoneTable::page_count(&volume.identity.members);
        let bad_zone_pages: Vec<u32> = pages.filter(|page| volume.read_again(|| volume.load_zone_page(*page)).is_err()).collect();
        volume.zone_table_loaded();
        let reports = volume.read_reports()?;
        let unused = {
            let mut state = volume.state.lock();
            // From here on counts are wrong until they are counted anew.
            state.zones.set_incomplete();
            let log = &volume.identity.log;
            let keep = [log.addr.zone_base(), log.next_zone];
            let mut unused = state.zones.unused_since_checkpoint(&keep);
            // What lies in zones that nothing is known of is told by what leads there.
            for addr in bad_zone_pages.iter().flat_map(|page| state.zones.zones_of_page(*page)).collect::<Vec<_>>() {
                if state.zones.contains(addr, 1) {
                    let written = state.zones.capacity(addr.device());
                    state.zones.set_entry(addr, SegmentEntry { phase: Phase::Closed, written, ..SegmentEntry::EMPTY });
                    if !keep.contains(&addr) && !unused.contains(&addr) {
                        unused.push(addr);
                    }
                }
            }
            unused
        };
        Ok(Self { volume, newer_lost, all_current, bad_zone_pages, reports, unused })
    }

    /// Rolls the log forward, over a tree that is whole.
    ///
    /// # Errors
    /// A device that fails.
    pub fn replay(&self) -> Result<Replay> {
        self.volume.replay(&self.reports, Unappliable::Note)
    }

    /// What the device says of a zone: is there nothing in it? `None` where zones are software.
    pub fn is_empty_on_device(&self, zone: Addr) -> Option<bool> {
        let info = self.reports.get(usize::from(zone.device().0))?.get(zone.zone().0 as usize)?;
        Some(info.state == ZoneState::Empty)
    }

    /// Everything is mended and counted: makes it durable.
    ///
    /// # Errors
    /// What the checkpoint failed with. Then the volume is as it was.
    ///
    /// `in_use`: zones to which the checkpoint leads, whatever the log did since.
    /// `whole`: nothing of the log or of a newer checkpoint is given up. Otherwise what only they know to be in use is emptied by the next mount, not before the
    /// repair is durable.
    pub fn finish(&self, replay: &Replay, in_use: &BTreeSet<Addr>, whole: bool) -> Result<()> {
        let volume = &self.volume;
        let unused: Vec<Addr> = {
            let mut state = volume.state.lock();
            state.zones.counted_anew();
            state.lost = crate::volume::damage::Lost::default();
            let needed = |addr: &Addr| in_use.contains(addr) || replay.touched.contains(addr);
            let dead = |addr: &Addr| state.zones.entry(*addr).is_some_and(|e| e.live == 0) && !needed(addr);
            self.unused.iter().copied().filter(|addr| whole && dead(addr)).collect()
        };
        volume.forget_dead_zones()?;
        volume.flush_devices()?;
        volume.settle_zones(&self.reports, false, &unused, whole)?;
        volume.bring_rings_up_to_date()?;
        volume.checkpoint()
    }
}

impl Volume {
    /// Sets what the segment table says of a zone to what was counted in it. `metadata`: it holds nodes. Gives what it said before if that was
    /// something else.
    pub(crate) fn recount_zone(&self, zone: Addr, live: u32, end: u32, metadata: bool) -> Option<SegmentEntry> {
        let mut state = self.state.lock();
        let clock = state.zones.clock();
        let capacity = state.zones.capacity(zone.device());
        let old = *state.zones.entry(zone)?;
        if old.role == Role::Ring {
            return None;
        }
        let mut entry = SegmentEntry { live, written_at: old.written_at.min(clock), ..old };
        if live > 0 {
            entry.role = match (metadata, old.role.is_data()) {
                (_, true) => old.role,
                (true, false) => Role::Metadata,
                (false, false) => Role::User,
            };
            if old.phase == Phase::Empty {
                (entry.phase, entry.written) = (Phase::Closed, capacity);
            }
            entry.written = entry.written.max(end).max(live);
        } else if old.phase == Phase::Empty {
            entry = SegmentEntry { resets: old.resets, ..SegmentEntry::EMPTY };
        } else if old.role == Role::None && old.phase == Phase::Open {
            entry.phase = Phase::Closed;
        }
        (entry != old).then(|| {
            state.zones.set_entry(zone, entry);
            old
        })
    }

    /// What the segment table says of a zone.
    pub(crate) fn zone_entry(&self, zone: Addr) -> Option<SegmentEntry> {
        self.state.lock().zones.entry(zone).copied()
    }

    /// The next checkpoint writes this block of metadata elsewhere.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) fn rewrite(&self, id: BlockId) -> Result<()> {
        self.change(|state| Ok(state.tree.store_mut().rewrite(id)?))
    }
}
