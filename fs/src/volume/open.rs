//! Mounting: a table of steps, the same after a clean unmount and after a crash (the log is then merely longer).

use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::nodes::{MapRoot, Roots};
use crate::core::tree::Tree;
use crate::core::zones::{ZoneTable, ring_is_mirrored};
use crate::error::{FsError, Result};
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::format::superblock::Superblock;
use crate::ids::NodeId;
use crate::volume::access::Counted;
use crate::volume::assemble::{Assembled, assemble};
use crate::volume::background::Wake;
use crate::volume::counters::Counters;
use crate::volume::damage::Lost;
use crate::volume::log::LogWriter;
use crate::volume::members::Members;
use crate::volume::moved::Moved;
use crate::volume::options::MountOptions;
use crate::volume::pages::DirtyPages;
use crate::volume::placing::Placing;
use crate::volume::recovery::Unappliable;
use crate::volume::release::log_limit;
use crate::volume::ring::RingCursor;
use crate::volume::state::{Pending, State};
use crate::volume::{MAX_UNLOGGED_BYTES, Volume};
use copy_backend::{CopyEngine, EngineConfig};
use gc::trace::Tracer;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use zns::{DeviceId, IoClass, Lba, ZoneInfo, ZoneState, ZonedDevice};

impl Volume {
    /// Mounts a volume.
    ///
    /// # Errors
    /// [`FsError::Volume`] with a sentence for people; device errors; [`FsError::Corrupt`].
    pub fn open(devices: Vec<Arc<dyn ZonedDevice>>, options: MountOptions) -> Result<Arc<Volume>> {
        let Assembled { devices, rings, superblock, must_be_read_only, newer_lost } = assemble(devices)?;
        if must_be_read_only && !options.read_only {
            let reason = "the volume uses features that this FerryFS can read but not write: mount it with -o ro";
            return Err(FsError::Volume(reason.into()));
        }
        let volume = Self::build(devices, rings, superblock, options)?;
        if let Some(reason) = newer_lost {
            volume.fail(reason);
        }
        volume.find_root()?;
        volume.load_zone_table()?;
        let reports = volume.read_reports()?;
        let log = &volume.identity.log;
        let mut unused = volume.state.lock().zones.unused_since_checkpoint(&[log.addr.zone_base(), log.next_zone]);
        let replay = volume.replay(&reports, Unappliable::Skip)?;
        unused.retain(|zone| !replay.touched.contains(zone));
        if let Some(damage) = replay.damage {
            volume.fail(damage);
        }
        volume.look_ahead()?;
        // What the log showed to be counted wrongly keeps every zone as it is.
        volume.unless_read_only(volume.check_counts())?;
        if volume.is_writable() {
            // Their summaries leave the tree before they become something else.
            volume.unless_read_only(volume.forget_dead_zones())?;
        }
        // The superblock that was found may lie in a cache only: before a zone is reset that is dead in it and live in the one before, it is
        // durable. Where it cannot be, nothing is written.
        if volume.is_writable()
            && let Err(error) = volume.flush_devices()
            && volume.lost_power(&error)
        {
            return Err(error);
        }
        volume.settle_zones(&reports, replay.clean, &unused, true)?;
        if volume.is_writable() {
            volume.bring_rings_up_to_date()?;
            // No append before the new epoch is durable.
            volume.unless_read_only(volume.checkpoint())?;
        }
        let volume = Arc::new(volume);
        let cleaner = volume.new_cleaner(volume.tracer.clone());
        *volume.cleaner.lock() = Some(cleaner);
        if volume.is_writable() {
            volume.unless_read_only(volume.resume_intents())?;
        }
        Ok(volume)
    }

    /// A step of a mount that found damage has made the volume read-only: then the mount goes on, as one that shows what there is. Whatever
    /// else forbids writing is worth a refusal: it can be mended.
    fn unless_read_only(&self, step: Result<()>) -> Result<()> {
        let damaged = || !self.is_writable() && self.state.lock().zones.is_incomplete();
        match step {
            Err(FsError::Corrupt { .. } | FsError::ReadOnly(_)) if damaged() => Ok(()),
            step => step,
        }
    }

    /// A volume around its superblock, nothing else loaded.
    pub(super) fn build(
        devices: Vec<Arc<dyn ZonedDevice>>,
        rings: Vec<RingCursor>,
        superblock: Superblock,
        options: MountOptions,
    ) -> Result<Volume> {
        let active_limit = devices.iter().map(|d| d.geometry().active_limit()).min().unwrap_or(u32::MAX);
        let mut zones = ZoneTable::new(&superblock.members, superblock.reserves, active_limit);
        let Placing { estimates, by_zone, midas } = Placing::of(&options, &mut zones);
        let raw_pages = u64::from(ZoneTable::page_count(&superblock.members));
        let p = &superblock.roots;
        let tree = if p.map_addr.is_none() {
            Tree::create(raw_pages)
        } else {
            let map_root = MapRoot { addr: p.map_addr, crc: p.map_crc, levels: p.map_levels };
            let roots = Roots { tree_root: p.tree_root, map_root, next_id: p.next_id, free_head: NodeId(p.free_head) };
            Tree::open(roots, raw_pages)?
        };
        let tracer = match &options.trace {
            None => Tracer::off(),
            Some(path) => {
                Tracer::to_file(path).map_err(|e| FsError::Volume(format!("cannot write the trace to {}: {e}", path.display())))?
            }
        };
        let secret = match options.secret {
            Some(secret) => secret,
            None => random_secret()?,
        };
        let config = EngineConfig {
            route: options.copy_route,
            verify: options.verify,
            offload_below: options.offload_below,
            profile: options.copy_profile.clone(),
        };
        let engine = Arc::new(CopyEngine::for_devices(devices.clone(), config));
        for id in (0..=u8::MAX).map(DeviceId).take(devices.len()) {
            if let Some(reason) = engine.profile_use(id, id).reason {
                tracing::warn!("sizes of copies on {} are not chosen by the profile: {reason}", devices[usize::from(id.0)].label());
            }
        }
        let state = State {
            tree,
            zones,
            pages: DirtyPages::default(),
            pending: Pending::default(),
            moved: Moved::default(),
            next_ino: superblock.next_ino,
            inodes: superblock.inodes,
            opens: HashMap::new(),
            orphans: HashMap::new(),
            freed: 0,
            to_free: Vec::new(),
            oldest_change: None,
            log: LogWriter::new(superblock.epoch + 1, secret),
            generation: superblock.generation,
            batch: superblock.log.batch + 1,
            appended: superblock.log.batch,
            flushed: superblock.log.batch,
            force_checkpoint: false,
            held: BTreeMap::new(),
            next_held: 1,
            logged: 0,
            line: crate::volume::room::Line::default(),
            lost: Lost::default(),
            estimates,
            by_zone,
            midas,
        };
        let cache_budget = options.cache_size.max(MIN_CACHE) as usize;
        // Half of the cache may be dirty; the checkpoint reserve bounds it too (I8).
        let dirty_limit = u64::from(superblock.reserves.dirty_blocks).min(cache_budget as u64 / crate::BLOCK as u64 / 2) * 3 / 4;
        let unlogged_limit = MAX_UNLOGGED_BYTES.min(u64::from(superblock.reserves.dirty_blocks) / 2 * crate::BLOCK as u64);
        let log_limit = log_limit(&superblock);
        let toll = gc::Toll::new(state.zones.pace(), gc::RelocatorConfig::default().chunk_blocks);
        let writable = AtomicBool::new(!options.read_only);
        Ok(Volume {
            state: Mutex::new(state),
            commit_lock: Mutex::new(()),
            checkpoint_lock: Mutex::new(()),
            release_lock: Mutex::new(()),
            progress: Condvar::new(),
            regaining: Mutex::default(),
            members: Members::new(devices),
            engine,
            counted: Counted::new(options.atime),
            options,
            identity: superblock,
            rings: Mutex::new(rings),
            ring_mirrored: ring_is_mirrored(active_limit),
            dirty_limit,
            made: gc::Checkpoints::default(),
            released: gc::Checkpoints::default(),
            log_limit,
            cleaning_dirty_limit: dirty_limit * 3 / 4,
            unlogged_limit,
            cache_budget,
            counters: Counters::default(),
            cleaner: Mutex::new(None),
            calm: super::calm::Calm::default(),
            turns: parking_lot::Mutex::new(()),
            tracer,
            pauses: gc::stats::Pauses::default(),
            toll,
            untold: AtomicU64::new(0),
            background: Mutex::new(None),
            wake: Arc::new(Wake::default()),
            writable,
            read_only_reason: Mutex::new(None),
            failed_write: Mutex::new(None),
            blamed: Default::default(),
            #[cfg(test)]
            seams: Default::default(),
        })
    }

    /// Loads the segment table. What of it cannot be had makes the volume read-only: reading needs none of it.
    fn load_zone_table(&self) -> Result<()> {
        for page in 0..ZoneTable::page_count(&self.identity.members) {
            match self.read_again(|| self.load_zone_page(page)) {
                Err(error) if self.lost_power(&error) => return Err(error),
                Err(error) => self.lose_zone_page(page, &error),
                Ok(()) => {}
            }
        }
        self.zone_table_loaded();
        Ok(())
    }

    /// All pages of the segment table that can be had are loaded.
    pub(super) fn zone_table_loaded(&self) {
        self.state.lock().zones.loaded(self.identity.clock, self.identity.unwritten, self.identity.population.clone());
    }

    /// Loads one page of the segment table.
    pub(super) fn load_zone_page(&self, page: u32) -> Result<()> {
        let id = BlockId::Node(NodeId(u64::from(page) + 1));
        loop {
            let fetch = self.state.lock().tree.store().fetch_for(id)?;
            let Some(fetch) = fetch.filter(|f| f.id == id) else {
                match fetch {
                    Some(above) => self.load(above.id)?,
                    None => return Err(FsError::Internal("a segment table page is resident as a node")),
                }
                continue;
            };
            let corrupt = |detail: String| FsError::Corrupt { what: "segment table", addr: fetch.addr, detail };
            if !self.state.lock().zones.contains(fetch.addr, 1) {
                return Err(corrupt(format!("page {page} lies outside the volume")));
            }
            let buf = self.members.read_block(fetch.addr, IoClass::Foreground)?;
            if zns::checksum::crc32c(&buf) != fetch.crc {
                return Err(corrupt(format!("page {page} fails its checksum")));
            }
            return self.state.lock().zones.load_page(page, &buf).map_err(corrupt);
        }
    }

    /// What the devices say of their zones; nothing for those whose zones are software.
    pub(crate) fn read_reports(&self) -> Result<Vec<Vec<ZoneInfo>>> {
        let mut reports = Vec::new();
        for (device, member) in self.members.devices().zip(&self.identity.members) {
            let software = device.geometry().software_zones;
            reports.push(if software { Vec::new() } else { device.report(0..member.zones)? });
        }
        Ok(reports)
    }

    /// Reconciles the zone table with what the devices say, after replay.
    ///
    /// Heads are resumed only after a clean unmount and only where the device's write pointer agrees. Zones that were written after
    /// the checkpoint and that the log does not map hold nothing, like those that were dead in it.
    ///
    /// `unused` and those written in vain are empty before the checkpoint that ends the mount needs room: the volume counted on them when it
    /// went down, and many crashes in a row must not use up what there is. Whatever part of the log a next mount finds, nothing of it lies
    /// there (I2).
    pub(super) fn settle_zones(&self, reports: &[Vec<ZoneInfo>], clean: bool, unused: &[Addr], empty_in_vain: bool) -> Result<()> {
        let mut state = self.state.lock();
        let zones = &mut state.zones;
        let unwritten: Vec<Addr> = zones.iter().filter(|(_, e)| e.phase == Phase::Empty).map(|(addr, _)| addr).collect();
        if !clean {
            zones.end_all_heads();
        }
        for log_zone in zones.open_log_zones() {
            zones.end_zone(log_zone);
        }
        for info in reports.iter().enumerate().flat_map(|(d, zones)| zones.iter().map(move |z| (d, z))) {
            self.settle_zone(zones, info.0, info.1);
        }
        let in_vain = unwritten.iter().filter(|addr| empty_in_vain && zones.entry(**addr).is_some_and(|e| e.phase == Phase::Closed));
        let to_empty: Vec<Addr> = unused.iter().chain(in_vain).copied().filter(|addr| zones.is_resettable(*addr)).collect();
        let is_software = |addr: &Addr| self.members.device(addr.device()).geometry().software_zones;
        let (by_software, by_device): (Vec<Addr>, Vec<Addr>) = to_empty.into_iter().partition(is_software);
        if self.is_writable() {
            by_software.iter().for_each(|addr| zones.note_reset(*addr));
        }
        // Only what is active on its device has to be finished there.
        let is_active = |addr: &Addr| {
            let report = &reports[usize::from(addr.device().0)];
            report.get(addr.zone().0 as usize).is_some_and(|info| info.state.is_active())
        };
        zones.retain_to_finish(is_active);
        let adopted: Vec<Vec<ZoneInfo>> = self.software_zones(zones);
        drop(state);
        for (device, zones) in self.members.devices().zip(adopted) {
            if device.geometry().software_zones {
                device.adopt(&zones)?;
            }
        }
        if self.is_writable() {
            self.reset_zones(&by_device);
            self.finish_ended_zones();
        }
        Ok(())
    }

    fn settle_zone(&self, zones: &mut ZoneTable, device: usize, info: &ZoneInfo) {
        let device = zns::DeviceId(device as u8);
        let addr = Addr::new(device, info.id, 0);
        let Some(&entry) = zones.entry(addr) else { return };
        if entry.role == Role::Ring {
            return;
        }
        let written = self.members.fs_blocks(device, info.written);
        match (info.state, entry.phase) {
            (ZoneState::ReadOnly | ZoneState::Offline, _) => zones.retire(addr),
            (_, Phase::Retired) => {}
            (ZoneState::Empty, Phase::Empty) => {}
            (ZoneState::Empty, _) if entry.live == 0 && entry.phase == Phase::Closed => {
                zones.set_entry(addr, SegmentEntry { resets: entry.resets, ..SegmentEntry::EMPTY });
            }
            (_, Phase::Empty) => {
                let stale = SegmentEntry { phase: Phase::Open, written, ..entry };
                zones.set_entry(addr, stale);
                zones.end_zone(addr);
            }
            // A block that was written in part moved the pointer too: no other one fits behind it.
            (_, Phase::Open) if info.written != self.members.device_blocks(device, entry.written) || info.state == ZoneState::Full => {
                zones.end_zone(addr);
            }
            // Closed in the table, still open on the device: finishing did not get through before the crash.
            (state, Phase::Closed) if state.is_active() => zones.finish_again(addr),
            _ => {}
        }
    }

    /// What devices with software zones are told.
    fn software_zones(&self, zones: &ZoneTable) -> Vec<Vec<ZoneInfo>> {
        let rings = self.rings.lock();
        let mut all: Vec<Vec<ZoneInfo>> = (0..self.members.count()).map(|_| Vec::new()).collect();
        for (addr, entry) in zones.iter() {
            let d = usize::from(addr.device().0);
            let g = self.members.device(addr.device()).geometry();
            let written = match (entry.role, entry.phase) {
                (Role::Ring, _) => rings[d].next()[addr.zone().0 as usize],
                (_, Phase::Empty) => 0,
                (_, Phase::Open) => entry.written,
                _ => zones.capacity(addr.device()),
            };
            let blocks = self.members.device_blocks(addr.device(), written);
            let state = match written {
                0 => ZoneState::Empty,
                n if n == zones.capacity(addr.device()) => ZoneState::Full,
                _ => ZoneState::Closed,
            };
            let start: Lba = g.zone_start(addr.zone());
            all[d].push(ZoneInfo { id: addr.zone(), state, start, capacity: g.zone_capacity, written: blocks });
        }
        all
    }
}

/// The smallest cache that a mount works with.
const MIN_CACHE: u64 = 4 << 20;

fn random_secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| FsError::Volume(format!("no randomness from the system: {e}")))?;
    Ok(secret)
}
