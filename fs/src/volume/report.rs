//! What a volume tells about itself: status, space, zones, the map of a file.

use crate::BLOCK;
use crate::core::extents;
use crate::error::Result;
use crate::format::segment::{Phase, Role};
use crate::ids::{FileBlock, Ino};
use crate::volume::Volume;
use crate::volume::attr::StatFs;
use crate::volume::status::*;
use copy_backend::{RouteStatus, VerifyMode};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zns::{DeviceId, DeviceKind, IoClass};

/// One zone, for `ferryfs zones`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ZoneView {
    pub device: u8,
    pub zone: u32,
    /// empty, open, full, retired.
    pub state: String,
    /// What it is used for.
    pub role: String,
    /// Bytes written from its start.
    pub write_pointer: u64,
    pub capacity: u64,
    pub live: u64,
    /// Live bytes by capacity.
    pub live_share: f64,
    /// Bytes that users wrote since its last block was written.
    pub age: u64,
    /// Bytes that users were expected to write, when its blocks were put there, until they are written again; where the placement estimates.
    #[serde(default)]
    pub expected: Option<u64>,
    pub resets: u32,
}

/// One piece of a file, for `ferryfs map`. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MapEntry {
    /// Offset in the file.
    pub file_offset: u64,
    pub length: u64,
    /// data, unwritten.
    pub kind: String,
    pub device: Option<u8>,
    pub zone: Option<u32>,
    /// Offset within the zone.
    pub zone_offset: Option<u64>,
    /// What the zone is used for.
    pub role: Option<String>,
    /// Is there a checksum for every block?
    pub checksummed: bool,
}

/// How long a look at the space frees what was removed, at most, beside one last step of it.
const FREEING: Duration = Duration::from_millis(50);

fn name_of(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Volume {
    /// Space and inodes, for statfs(2).
    pub fn statfs(&self) -> Result<StatFs> {
        // Whoever has just removed something large looks for its space. For what is huge nobody shall wait.
        let end = Instant::now() + FREEING;
        while self.is_writable() && self.free_some().unwrap_or(false) && Instant::now() < end {}
        let state = self.state.lock();
        let total = state.zones.total();
        let free = total.saturating_sub(state.zones.used(state.unplaced()));
        let available = state.available();
        // An inode takes about 256 bytes with its name.
        let files_free = available * (BLOCK as u64 / 256);
        Ok(StatFs { blocks: total, free, available, files: state.inodes + files_free, files_free })
    }

    /// Everything that `ferryfs status` shows.
    pub fn status(&self) -> Status {
        let c = &self.counters;
        let cleaning = self.engine.counters(IoClass::Cleaning);
        let copying = self.engine.counters(IoClass::Copy);
        let user_written = get(&c.user_written);
        let relocated = get(&c.relocated);
        let amplification = if user_written == 0 { 1.0 } else { (user_written + relocated) as f64 / user_written as f64 };
        let pauses = self.pauses.percentiles();
        Status {
            volume: self.volume_status(),
            space: self.space_status(),
            zones: self.zone_counts(),
            io: IoStatus {
                user_written,
                user_read: get(&c.user_read),
                device_written: get(&self.members.written) + cleaning.host_written + copying.host_written,
                device_read: get(&self.members.read) + cleaning.host_read + copying.host_read + cleaning.verify_read + copying.verify_read,
                flushes: get(&self.members.flushes),
            },
            gc: GcStatus {
                meta_read: get(&c.gc_meta_read),
                meta_written: get(&c.gc_meta_written),
                policy: self.with_cleaner(|cleaner| cleaner.policy_name().to_owned()).unwrap_or_default(),
                placement: self.options.placement.parse::<gc::PlacementKind>().unwrap_or_default().to_string(),
                zones_reclaimed: get(&c.zones_reclaimed),
                relocated,
                offloaded: cleaning.offloaded,
                host_read: cleaning.host_read,
                host_written: cleaning.host_written,
                commands: cleaning.commands,
                slowest_command_us: cleaning.slowest_us,
                fallbacks: cleaning.fallbacks,
                write_amplification: amplification,
                pause_us: PauseStatus { p50: pauses.p50, p99: pauses.p99, p999: pauses.p999, max: pauses.max },
            },
            copy_file_range: CopyStatus {
                calls: get(&c.copy_calls),
                bytes: get(&c.copy_bytes),
                offloaded: copying.offloaded,
                host_read: copying.host_read + get(&c.copy_host_read),
                host_written: copying.host_written + get(&c.copy_host_written),
            },
            checks: CheckStatus {
                checksum_errors: get(&c.checksum_errors),
                copies_verified: cleaning.copies_verified + copying.copies_verified,
                copies_rejected: cleaning.copies_rejected + copying.copies_rejected,
                verify_read: cleaning.verify_read + copying.verify_read,
            },
            log: LogStatus {
                appends: get(&c.log_appends),
                bytes: get(&c.log_bytes),
                checkpoints: get(&c.checkpoints),
                checkpoint_bytes: get(&c.checkpoint_bytes),
                releases: get(&c.releases),
                replayed: get(&c.replayed),
            },
            cache: {
                let state = self.state.lock();
                CacheStatus {
                    limit: self.cache_budget as u64,
                    resident: state.tree.store().resident_bytes() as u64,
                    dirty_blocks: state.tree.store().dirty_blocks(),
                    node_reads: get(&c.node_reads),
                }
            },
        }
    }

    fn volume_status(&self) -> VolumeStatus {
        let roads = self.engine.routes();
        let others = |from: usize| {
            let away = roads.iter().filter(|road| usize::from(road.from.0) == from && road.to != road.from);
            let way =
                |road: &RouteStatus| WayStatus { device: road.to.0.into(), route: name_of(road.road), route_reason: road.reason.clone() };
            away.map(way).collect()
        };
        let devices = self.members.devices().enumerate().map(|(d, device)| {
            let g = device.geometry();
            let route = self.engine.route(DeviceId(d as u8), DeviceId(d as u8));
            DeviceStatus {
                path: device.label(),
                kind: match g.kind {
                    DeviceKind::Zns => "zns",
                    DeviceKind::Zoned => "zoned",
                    DeviceKind::Conventional => "conventional",
                    DeviceKind::Image => "image",
                }
                .into(),
                zones: g.zones,
                zone_size: g.zone_size_bytes(),
                zone_capacity: g.zone_capacity_bytes(),
                max_open_zones: g.max_open,
                max_active_zones: g.max_active,
                route: name_of(route.road),
                route_reason: route.reason,
                simulated: route.simulated,
                device_model: device.model().name().into(),
                copy_profile: route.profile,
                others: others(d),
                copy_limits: CopyLimitStatus {
                    max_range_bytes: route.limits.max_range_bytes,
                    max_command_bytes: route.limits.max_command_bytes,
                    max_ranges: route.limits.max_ranges,
                },
            }
        });
        VolumeStatus {
            uuid: uuid::Uuid::from_bytes(self.identity.uuid).to_string(),
            label: self.identity.label.clone(),
            block_size: BLOCK as u32,
            mounted_read_only: !self.is_writable(),
            read_only_reason: self.read_only_reason(),
            options: self.options.words(),
            devices: devices.collect(),
        }
    }

    fn space_status(&self) -> SpaceStatus {
        let state = self.state.lock();
        let counts = state.zones.space(state.unplaced());
        let bytes = |blocks: u64| blocks * BLOCK as u64;
        SpaceStatus {
            total: bytes(counts.total),
            used: bytes(counts.used),
            free: bytes(counts.total.saturating_sub(counts.used)),
            available: bytes(state.available()),
            reclaimable: bytes(counts.reclaimable),
            reserved: bytes(counts.reserved),
        }
    }

    fn zone_counts(&self) -> ZoneCounts {
        let state = self.state.lock();
        let mut counts = ZoneCounts::default();
        for (_, entry) in state.zones.iter() {
            match entry.phase {
                Phase::Empty => counts.empty += 1,
                Phase::Open => counts.open += 1,
                Phase::Closed => counts.full += 1,
                Phase::Retired => counts.read_only += 1,
            }
        }
        counts
    }

    /// Every zone.
    pub fn zones(&self) -> Vec<ZoneView> {
        let rings = self.rings.lock().clone();
        let state = self.state.lock();
        let clock = state.zones.clock();
        let bytes = |blocks: u32| u64::from(blocks) * BLOCK as u64;
        let view = |(addr, e): (crate::Addr, &crate::format::segment::SegmentEntry)| {
            let capacity = state.zones.capacity(addr.device());
            let written = match e.role {
                Role::Ring => rings[usize::from(addr.device().0)].next()[addr.zone().0 as usize],
                _ => e.written,
            };
            ZoneView {
                device: addr.device().0,
                zone: addr.zone().0,
                state: if e.phase == Phase::Closed { "full".into() } else { name_of(e.phase) },
                role: name_of(e.role),
                write_pointer: bytes(written),
                capacity: bytes(capacity),
                live: bytes(e.live),
                live_share: f64::from(e.live) / f64::from(capacity),
                age: clock.saturating_sub(e.written_at) * BLOCK as u64,
                expected: e.temperature.interval().filter(|_| state.estimates.is_some()).map(|blocks| (blocks * BLOCK as f64) as u64),
                resets: e.resets,
            }
        };
        state.zones.iter().map(view).collect()
    }

    /// Where the content of a file lies. What is not on a device yet is written first.
    ///
    /// # Errors
    /// Those of writing and loading.
    pub fn map(&self, ino: Ino) -> Result<Vec<MapEntry>> {
        if self.is_writable() {
            self.commit_now(false)?;
        }
        let mut entries = Vec::new();
        let mut from = FileBlock(0);
        loop {
            let (parts, next) = self.ask(|state| {
                state.lost.check(ino, &(from.0..u64::MAX))?;
                extents::extent_parts(&state.tree, ino, from, FileBlock(u64::MAX), 1000)
            })?;
            let state = self.state.lock();
            for part in parts {
                let here = (!part.is_unwritten()).then_some(part.addr);
                entries.push(MapEntry {
                    file_offset: part.block.0 * BLOCK as u64,
                    length: u64::from(part.blocks) * BLOCK as u64,
                    kind: if here.is_some() { "data" } else { "unwritten" }.into(),
                    device: here.map(|a| a.device().0),
                    zone: here.map(|a| a.zone().0),
                    zone_offset: here.map(|a| u64::from(a.block()) * BLOCK as u64),
                    role: here.and_then(|a| state.zones.entry(a)).map(|e| name_of(e.role)),
                    checksummed: here.is_some(),
                });
            }
            drop(state);
            let Some(next) = next else { return Ok(entries) };
            from = next;
        }
    }

    /// Verification mode of copies, for reports.
    pub fn verify_mode(&self) -> VerifyMode {
        self.options.verify
    }
}
