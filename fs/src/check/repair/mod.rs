//! `fsck -y`: mends what can be mended without inventing data, and says what it did and what is lost.
//!
//! Order: a superblock from which everything can be found; the node map and the tree, where what cannot be had gives way to nothing; the log, over a
//! tree that is whole; then pass after pass over what the checker finds in memory, each kind of damage after those that it may follow from,
//! until nothing is left that can be mended; zones counted anew; one checkpoint ([`crate::volume::mend`]). A last look at the media says what is
//! left.
//!
//! Rules. What contradicts itself is counted anew. What leads nowhere goes; what nothing leads to is given a name in `/lost+found`, or is dropped if it is
//! metadata. An inode that is lost is made anew with the least rights if data or entries of it are there, so that these are not lost with it. A file
//! that has lost some of its content says so ([`crate::format::item::LOST_CONTENT`]): reading where it has a hole is an error, never zeros.
//! Data that cannot be read, or is not what its checksum says, stays as it is.

mod content;
mod done;
mod inodes;
mod names;
mod structure;

pub use done::Repair;

use super::{CheckOptions, CheckReport, Checker, ESTIMATES, Finding, Progress, Recount, Turn, check};
use crate::addr::Addr;
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::page::SortKey;
use crate::core::txn::{ItemTree, Txn};
use crate::error::{FsError, Result};
use crate::format::item::{Extent, Inode, LOST_CONTENT};
use crate::format::record::Delta;
use crate::ids::{FileBlock, Ino};
use crate::volume::Volume;
use crate::volume::mend::Mending;
use crate::volume::state::State;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use zns::ZonedDevice;

/// Repairs beyond this many are only counted.
const MAX_LISTED: usize = 10_000;
/// Superblocks older than the newest one that are tried.
const OLDER: usize = 16;
/// Passes after which a repair gives up: each one mends a kind of damage, and none comes back.
const PASSES: usize = 2000;

/// A repair in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// What was done.
    #[serde(flatten)]
    pub repair: Repair,
    /// In words.
    pub message: String,
}

/// What was found, what was done, and what is left.
#[derive(Clone, Debug, Serialize)]
pub struct RepairReport {
    /// What was done, the first of it.
    pub repairs: Vec<Done>,
    /// Repairs that are not listed.
    pub more_repairs: u64,
    /// Something was written: repairs, or what the last mount had left to be done.
    pub finished: bool,
    /// The volume as it was found.
    pub before: CheckReport,
    /// The volume as it is now.
    #[serde(flatten)]
    pub after: CheckReport,
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.before.clean {
            write!(f, "found:\n{}\n", self.before)?;
        }
        for done in &self.repairs {
            writeln!(f, "repaired: {}", done.message)?;
        }
        if self.more_repairs > 0 {
            writeln!(f, "and {} more", self.more_repairs)?;
        }
        if !self.before.clean {
            writeln!(f, "\nnow:")?;
        }
        write!(f, "{}", self.after)
    }
}

/// Checks the volume on `devices` and mends what it can. `options` are those of both checks.
///
/// # Errors
/// There is no volume, nothing of it can be found, or what was mended cannot be written: then the volume is as it was.
pub fn repair(devices: &[Arc<dyn ZonedDevice>], options: impl Fn() -> CheckOptions) -> Result<RepairReport> {
    let before = check(devices.to_vec(), options());
    let (repairs, more_repairs) = match before {
        Ok(before) if before.clean && before.unmounted_cleanly => {
            let after = before.clone();
            return Ok(RepairReport { repairs: Vec::new(), more_repairs: 0, finished: false, before, after });
        }
        Ok(ref report) if report.clean => (Vec::new(), 0),
        _ => mend(devices, &options)?,
    };
    let after = finish_by_mounting(devices).and_then(|()| check(devices.to_vec(), options())).inspect_err(|_| {
        // It is done; whoever asked must learn of it all the same.
        repairs.iter().for_each(|done| tracing::error!("repaired: {}", done.message));
    })?;
    // What was not even checked has nothing to be compared with.
    let before = before.unwrap_or_else(|error| CheckReport::refused(&error));
    Ok(RepairReport { repairs, more_repairs, finished: true, before, after })
}

/// A mount and an unmount finish what waits to be finished: the log is rolled forward, what has no name is freed, what is beyond an end is cut off.
fn finish_by_mounting(devices: &[Arc<dyn ZonedDevice>]) -> Result<()> {
    let options = crate::volume::MountOptions { gc: crate::volume::GcMode::Manual, ..Default::default() };
    let volume = Volume::open(devices.to_vec(), options)?;
    match volume.read_only_reason() {
        // Some damage is left after all, which the last check tells of.
        Some(_) => Ok(()),
        None => volume.shutdown(),
    }
}

fn mend(devices: &[Arc<dyn ZonedDevice>], options: &impl Fn() -> CheckOptions) -> Result<(Vec<Done>, u64)> {
    let CheckOptions { cache_size, window, at_once, progress, .. } = options();
    let (mending, pages, older) = find_way_in(devices, cache_size)?;
    let mut mender = Mender { mending: &mending, cache_size, window, at_once, progress, lost: Vec::new(), done: Vec::new(), more: 0 };
    let identity = mending.volume.identity();
    let several = identity.members.len() > 1;
    if older || mending.newer_lost.is_some() {
        // The next record of a checkpoint must be exactly one ahead of what each device has, or a power cut between two devices would make one of them an old
        // copy for good. And a device that is behind may be an old copy, of which an older checkpoint would make a part of the volume.
        if several && (mending.newer_lost.is_some() || !mending.all_current) {
            return Err(FsError::Volume(
                "the newest checkpoint of a volume on several devices is damaged, and not all of them have its superblock: one of them may be an old copy, \
                 so nothing was repaired; what is readable can be copied away from a mount, which is read-only"
                    .into(),
            ));
        }
        mender.note(Repair::OlderCheckpoint { generation: identity.generation });
    }
    for page in &mending.bad_zone_pages {
        mender.note(Repair::SegmentPage { page: *page });
    }
    // Before the log frees anything of it: until the repair is durable, the next one starts from this checkpoint too.
    let mut in_use = pages.zones();
    mender.structure(pages)?;
    in_use.extend(mender.zones_of_data()?);
    let replay = mending.replay()?;
    // Mended with an old copy, the volume would no longer take the right device.
    if let Some(reason) = replay.damage.as_ref().filter(|_| replay.wrong_device) {
        return Err(FsError::Volume(reason.clone()));
    }
    // A device that holds less of the log than it should may be an old copy.
    if several && let Some(reason) = &replay.damage {
        return Err(FsError::Volume(format!("the log of a volume on several devices is damaged, or one of them is an old copy: {reason}")));
    }
    if let Some(reason) = &replay.damage {
        mender.note(Repair::LogEnded { reason: reason.clone() });
    }
    let left_out = mending.volume.state.lock().lost.unapplied();
    if let Some(reason) = left_out {
        mender.note(Repair::LeftOut { reason });
    }
    mender.contents()?;
    let whole = !older && mending.newer_lost.is_none() && replay.damage.is_none();
    mending.finish(&replay, &in_use, whole)?;
    Ok((mender.done, mender.more))
}

/// The newest superblock whose node map and tree have a root that can be had.
fn find_way_in(devices: &[Arc<dyn ZonedDevice>], cache_size: u64) -> Result<(Mending, structure::Pages, bool)> {
    let mut limit = u64::MAX;
    let mut first = None;
    for attempt in 0..OLDER {
        let mending = match Mending::open(devices.to_vec(), cache_size, limit) {
            Ok(mending) => mending,
            Err(error) => return Err(first.unwrap_or(error)),
        };
        limit = mending.volume.identity().generation;
        match structure::mend_map(&mending) {
            Ok(pages) => return Ok((mending, pages, attempt > 0)),
            // An older checkpoint is for what is wrong, not for what a device does not give now.
            Err(error @ FsError::Device(_)) => return Err(structure::too_often(&error)),
            Err(error) => {
                let generation = limit;
                let told = FsError::Volume(format!(
                    "nothing can be found from checkpoint {generation}, nor from an older one that is still there: {error}"
                ));
                first.get_or_insert(told);
            }
        }
    }
    Err(first.unwrap_or(FsError::Internal("no superblock was tried")))
}

/// A repair under way.
struct Mender<'a> {
    mending: &'a Mending,
    cache_size: u64,
    window: usize,
    at_once: u64,
    progress: Option<Box<dyn FnMut(Progress)>>,
    /// Ranges of keys whose items are lost.
    lost: Vec<(SortKey, Option<SortKey>)>,
    done: Vec<Done>,
    more: u64,
}

/// A finding, and the item that it is about.
type Found = (Finding, Option<Key>);

/// What a pass has to do.
struct Look {
    found: Vec<Found>,
    recount: Recount,
    /// There is more of some kind.
    more: bool,
}

impl Mender<'_> {
    fn volume(&self) -> &Volume {
        &self.mending.volume
    }

    fn note(&mut self, repair: Repair) {
        if self.done.len() >= MAX_LISTED {
            self.more += 1;
            return;
        }
        let message = repair.to_string();
        self.done.push(Done { repair, message });
    }

    /// Zones with data of files as the checkpoint has them, where no segment table tells: whatever part of the log a next repair finds, files that it removed
    /// are whole.
    fn zones_of_data(&self) -> Result<BTreeSet<Addr>> {
        let mut zones = BTreeSet::new();
        if self.mending.bad_zone_pages.is_empty() {
            return Ok(zones);
        }
        let scanner = super::scan::Scanner::new(self.volume());
        scanner.class(Class::Extent, 0..=u64::MAX, |key, value| {
            if let Some(extent) = Extent::decode(FileBlock(key.b), value).filter(|extent| !extent.is_unwritten()) {
                zones.insert(extent.addr.zone_base());
            }
            true
        });
        scanner.missed().map_or(Ok(zones), |error| Err(structure::too_often(&error)))
    }

    /// Passes over everything, until a pass finds nothing that can be mended.
    fn contents(&mut self) -> Result<()> {
        self.lose_preallocated()?;
        // What the log did to these is not known; what was there before is not what is there now.
        let mut unknown = self.volume().state.lock().lost.take_content();
        // What of each kind was looked at, and cannot be mended.
        let mut skip = 0;
        for pass in 0..PASSES {
            if let Some(progress) = &mut self.progress {
                progress(Progress { what: "repair, pass", done: pass as u64 + 1, total: None });
            }
            let Look { found, recount, more } = self.look(skip)?;
            if self.mend_first_kind(&found)? || self.recount(&recount, &found)? {
                skip = 0;
                continue;
            }
            if more {
                skip += self.at_once;
                continue;
            }
            skip = 0;
            if unknown.is_empty() {
                return Ok(());
            }
            for (ino, ranges) in std::mem::take(&mut unknown) {
                self.lose_content(ino)?;
                for range in ranges {
                    self.apply(&Delta::Unmap { ino, block: FileBlock(range.start), blocks: range.end - range.start })?;
                }
            }
        }
        Err(FsError::Internal("the repair went in circles; nothing was written"))
    }

    /// Files of which extents were lost, and whose preallocation the log may have laid over them.
    fn lose_preallocated(&mut self) -> Result<()> {
        if self.lost.is_empty() {
            return Ok(());
        }
        let mut files = BTreeSet::new();
        let scanner = super::scan::Scanner::new(self.volume());
        scanner.class(Class::Extent, 0..=u64::MAX, |key, value| {
            if Extent::decode(FileBlock(key.b), value).is_some_and(|extent| extent.is_unwritten()) {
                files.insert(Ino(key.a));
            }
            true
        });
        if let Some(error) = scanner.missed() {
            return Err(structure::too_often(&error));
        }
        for ino in files {
            if self.has_lost(ino) {
                self.lose_content(ino)?;
            }
        }
        Ok(())
    }

    /// What is found in memory; of each kind behind the first `skip`.
    fn look(&self, skip: u64) -> Result<Look> {
        let options =
            CheckOptions { read_data: false, cache_size: self.cache_size, window: self.window, at_once: self.at_once, progress: None };
        let mut checker = Checker::new(self.volume(), CheckReport::default(), options);
        checker.turn = Some(Turn::new(skip, self.at_once));
        let recount = checker.all_in_memory();
        if let Some(error) = checker.scan.missed() {
            return Err(structure::too_often(&error));
        }
        let Checker { report, mut keys, .. } = checker;
        let more = report.suppressed > 0;
        let found = report.findings.into_iter().enumerate().map(|(n, found)| (found.finding, keys.remove(&n))).collect();
        Ok(Look { found, recount, more })
    }

    /// Mends all damage of the first kind of which there is any; others may follow from it. `false`: there is none that can be mended.
    fn mend_first_kind(&mut self, found: &[Found]) -> Result<bool> {
        type Kind<'m> = fn(&mut Mender<'m>, &Finding, Option<Key>) -> Result<bool>;
        let kinds: [Kind<'_>; 8] = [
            Mender::mend_item,
            Mender::make_what_is_missing,
            Mender::mend_inode,
            Mender::mend_entry,
            Mender::mend_count,
            Mender::mend_attribute,
            Mender::mend_extent,
            Mender::mend_rest,
        ];
        for kind in kinds {
            let mut any = false;
            for (finding, key) in found {
                any |= kind(self, finding, *key)?;
            }
            if any {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Zones and totals, as they were counted. `false`: they agree.
    fn recount(&mut self, recount: &Recount, found: &[Found]) -> Result<bool> {
        let mut any = false;
        let zones: Vec<Addr> = self.volume().state.lock().zones.iter().map(|(zone, _)| zone).collect();
        for zone in zones {
            let live = recount.live.get(&zone).copied().unwrap_or_default();
            if let Some(old) = self.volume().recount_zone(zone, live.blocks, live.end, recount.metadata.contains(&zone)) {
                any = true;
                if old.live != live.blocks {
                    self.note(Repair::LiveCount { zone, from: old.live, to: live.blocks });
                } else {
                    self.note(Repair::Zone { zone });
                }
            }
        }
        for (finding, _) in found {
            let Finding::Total { what, recorded, counted } = finding else { continue };
            any = true;
            {
                let mut state = self.volume().state.lock();
                match *what {
                    "inodes" => state.inodes = *counted,
                    ESTIMATES => state.zones.set_population(recount.population.clone()),
                    _ => {
                        let by = *counted as i64 - state.zones.unwritten() as i64;
                        state.zones.change_unwritten(by);
                    }
                }
            }
            self.note(Repair::Total { what, from: *recorded, to: *counted });
        }
        Ok(any)
    }

    // --- what the kinds use -------------------------------------------------------------------------------------------------

    /// Plans and applies, past the log: the checkpoint makes it durable.
    fn plan<T>(&self, plan: impl Fn(&mut Txn<'_>) -> Planned<T>) -> Result<T> {
        let volume = self.volume();
        let now = volume.options.clock.now();
        volume.change(|state| {
            let mut txn = Txn::new(&state.tree, now, state.next_ino, volume.identity().hash_key);
            let value = plan(&mut txn)?;
            let deltas = txn.into_deltas();
            deltas.iter().try_for_each(|delta| state.prepare(delta))?;
            for delta in deltas {
                state.apply(&delta)?;
            }
            Ok(value)
        })
    }

    fn apply(&self, delta: &Delta) -> Result<()> {
        self.volume().change(|state| {
            state.prepare(delta)?;
            state.apply(delta).map(drop)
        })
    }

    /// Sets or removes an item of any class, as it is.
    fn set_raw(&self, key: Key, value: Option<&[u8]>) -> Result<()> {
        self.volume().change(|state: &mut State| {
            match value {
                Some(value) => state.tree.put(&key, value)?,
                None => {
                    ItemTree::remove(&mut state.tree, &key)?;
                }
            }
            state.settle_released();
            Ok(())
        })
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        self.volume().ask(|state| Ok(state.tree.get(key)?.map(<[u8]>::to_vec)))
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        Ok(self.get(&Key::inode(ino))?.and_then(|value| Inode::decode(ino, &value)))
    }

    fn put_inode(&self, inode: &Inode) -> Result<()> {
        self.apply(&Delta::Put { key: Key::inode(inode.ino), value: inode.encode() })
    }

    /// Keys of the items in a range, both ends included.
    fn keys_of(&self, from: Key, to: Key) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        let scanner = super::scan::Scanner::new(self.volume());
        scanner.range(&from, &to, &mut |key, _| {
            keys.push(key);
            true
        });
        scanner.missed().map_or(Ok(keys), |error| Err(structure::too_often(&error)))
    }

    fn keys_of_class(&self, class: Class, ino: Ino) -> Result<Vec<Key>> {
        self.keys_of(Key::new(class, ino.0, 0), Key::new(class, ino.0, u64::MAX))
    }

    /// A file has lost some of its content: what reads as a hole may be that.
    fn lose_content(&mut self, ino: Ino) -> Result<()> {
        if let Some(inode) = self.inode(ino)?.filter(|inode| inode.is_file() && inode.flags & LOST_CONTENT == 0) {
            self.put_inode(&Inode { flags: inode.flags | LOST_CONTENT, ..inode })?;
            self.note(Repair::ContentLost { ino });
        }
        Ok(())
    }
}
