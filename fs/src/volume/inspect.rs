//! A volume opened to be looked at: for `fsck` and `dump`.
//!
//! The steps are those of a mount (decision 6: recovery is not a second implementation), but a step that fails is remembered instead of
//! ending everything, the zone table stays as it was found, and nothing is ever written.

use crate::core::zones::ZoneTable;
use crate::error::{FsError, Result};
use crate::volume::Volume;
use crate::volume::assemble::{Assembled, assemble};
use crate::volume::options::MountOptions;
use crate::volume::recovery::{Replay, Unappliable};
use std::sync::Arc;
use zns::ZonedDevice;

/// A volume that was opened as far as it goes.
pub(crate) struct Inspected {
    /// Never writable.
    pub volume: Volume,
    /// Why the newest superblock that can be read is not the newest there was.
    pub newer_lost: Option<String>,
    /// Pages of the segment table that could not be had, and why.
    pub bad_zone_pages: Vec<(u32, FsError)>,
    /// What roll-forward found. It is not tried over a damaged segment table.
    pub replay: Option<Result<Replay>>,
}

impl Volume {
    /// Opens a volume to be looked at. With `replay` the log is rolled forward in memory.
    ///
    /// # Errors
    /// When there is no volume, or nothing of it can be found from its superblock.
    pub(crate) fn inspect(devices: Vec<Arc<dyn ZonedDevice>>, cache_size: u64, replay: bool) -> Result<Inspected> {
        let Assembled { devices, rings, superblock, newer_lost, .. } = assemble(devices)?;
        let options = MountOptions { read_only: true, cache_size, secret: Some([0; 32]), ..MountOptions::default() };
        let volume = Self::build(devices, rings, superblock, options)?;
        let pages = 0..ZoneTable::page_count(&volume.identity.members);
        let bad_zone_pages: Vec<_> = pages.filter_map(|page| volume.load_zone_page(page).err().map(|error| (page, error))).collect();
        volume.zone_table_loaded();
        let replay = (replay && bad_zone_pages.is_empty()).then(|| volume.replay(&volume.read_reports()?, Unappliable::Note));
        Ok(Inspected { volume, newer_lost, bad_zone_pages, replay })
    }
}
