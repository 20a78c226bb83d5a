//! What the kernel says about zones, in our terms. Pure.
//!
//! Works around `zoned` 0.5: the write pointer of a full zone stands at its end, beyond the capacity, so that the crate's
//! `remaining_capacity` underflows; nothing here subtracts before it has compared.

use crate::error::DeviceError;
use crate::geometry::{DeviceKind, Geometry};
use crate::native_copy::NvmeStatus;
use crate::units::{Blocks, Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use zoned::{DeviceProperties, SECTOR_SIZE, Sector, Zone, ZoneCondition};

pub(super) const MIN_ZONES: usize = 24;
const MAX_IO_BYTES: u64 = 1 << 20;

/// The kernel's unit of 512 bytes, for addresses of zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sectors {
    /// Sectors from zone to zone.
    pub zone_size: u64,
}

impl Sectors {
    /// First sector of a zone.
    pub(super) fn of_zone(self, zone: ZoneId) -> Sector {
        Sector::new(u64::from(zone.0) * self.zone_size)
    }
}

/// Geometry of a device called `name` whose writes are made of blocks of `granularity` bytes, or why it is unusable.
/// A last zone that is smaller than the others is left out.
pub(super) fn geometry_from(
    name: &str,
    properties: &DeviceProperties,
    granularity: u32,
    report: &[Zone],
    least_zones: usize,
) -> Result<(Geometry, Sectors), String> {
    if !matches!(granularity, 512 | 4096) {
        return Err(format!("its blocks of {granularity} bytes are neither 512 nor 4096"));
    }
    let zone_size = properties.geometry.chunk_sectors.raw();
    let per_block = u64::from(granularity) / SECTOR_SIZE;
    let whole = report.iter().take_while(|zone| zone.len.raw() == zone_size).count();
    if zone_size == 0 || !zone_size.is_multiple_of(per_block) || whole + 1 < report.len() {
        return Err("its zones are not all of one size".to_owned());
    }
    if whole < least_zones {
        return Err(format!("it is too small: it has {whole} zones, and at least {least_zones} are needed"));
    }
    let zones = &report[..whole];
    let mut capacities = zones.iter().filter(|zone| zone.write_pointer.is_some()).map(|zone| zone.capacity.raw());
    let capacity = capacities.next().unwrap_or(zone_size);
    if capacities.any(|other| other != capacity) || capacity == 0 || capacity > zone_size || !capacity.is_multiple_of(per_block) {
        return Err("its zones are not all of one capacity".to_owned());
    }
    let limits = &properties.limits;
    let max_io = (u64::from(limits.max_sectors_kb) * 1024 / 4096 * 4096).clamp(4096, MAX_IO_BYTES);
    let geometry = Geometry {
        kind: if name.starts_with("nvme") { DeviceKind::Zns } else { DeviceKind::Zoned },
        block_size: granularity,
        zones: whole as u32,
        zone_size: Blocks(zone_size / per_block),
        zone_capacity: Blocks(capacity / per_block),
        max_open: limits.max_open_zones.unwrap_or(0),
        max_active: limits.max_active_zones.unwrap_or(0),
        max_io_bytes: max_io as u32,
        software_zones: false,
    };
    Ok((geometry, Sectors { zone_size }))
}

/// One line of a report. The write pointer of a read-only zone is not valid by the specification: without a sensible one
/// all of the zone may hold data.
pub(super) fn zone_info(id: ZoneId, zone: &Zone, geometry: &Geometry) -> ZoneInfo {
    let capacity = geometry.zone_capacity.0;
    let sectors_per_block = u64::from(geometry.block_size) / SECTOR_SIZE;
    let behind = zone.write_pointer.and_then(|pointer| pointer.raw().checked_sub(zone.start.raw()));
    let written = behind.map(|sectors| sectors / sectors_per_block);
    let (state, written) = match zone.condition {
        ZoneCondition::Empty => (ZoneState::Empty, 0),
        ZoneCondition::ImplicitlyOpen => (ZoneState::ImplicitOpen, written.unwrap_or(0)),
        ZoneCondition::ExplicitlyOpen => (ZoneState::ExplicitOpen, written.unwrap_or(0)),
        ZoneCondition::Closed => (ZoneState::Closed, written.unwrap_or(0)),
        ZoneCondition::Full | ZoneCondition::NotWritePointer => (ZoneState::Full, capacity),
        ZoneCondition::ReadOnly => (ZoneState::ReadOnly, written.filter(|&blocks| blocks <= capacity).unwrap_or(capacity)),
        ZoneCondition::Offline => (ZoneState::Offline, 0),
    };
    let start = geometry.zone_start(id);
    ZoneInfo { id, state, start, capacity: Blocks(capacity), written: Blocks(written.min(capacity)) }
}

/// The zone status that an errno of the block layer stands for.
fn resource_status(errno: i32) -> Option<NvmeStatus> {
    match errno {
        libc::EOVERFLOW => Some(NvmeStatus::TOO_MANY_ACTIVE),
        libc::ETOOMANYREFS => Some(NvmeStatus::TOO_MANY_OPEN),
        _ => None,
    }
}

/// Why a write of `blocks` at `lba`, of which `transferred` were reported done, failed with `errno`. `info` is how its zone stands now.
pub(super) fn explain(errno: i32, lba: Lba, blocks: u64, transferred: u64, info: Option<&ZoneInfo>) -> DeviceError {
    let Some(info) = info else { return DeviceError::Io { lba, errno } };
    let refused = |status| DeviceError::Zone { zone: info.id, status };
    if let Some(status) = resource_status(errno) {
        return refused(status);
    }
    match info.state {
        ZoneState::ReadOnly => return refused(NvmeStatus::ZONE_READ_ONLY),
        ZoneState::Offline => return refused(NvmeStatus::ZONE_OFFLINE),
        ZoneState::Full if transferred == 0 => return refused(NvmeStatus::ZONE_FULL),
        _ => {}
    }
    let into_zone = lba.0 - info.start.0;
    if into_zone + blocks > info.capacity.0 {
        return refused(NvmeStatus::ZONE_BOUNDARY);
    }
    let write_pointer = info.start + info.written;
    // A write that failed half-way moved the pointer itself: only one that stands outside the write was wrong before.
    let outside = write_pointer < lba || write_pointer > lba + Blocks(blocks);
    if transferred == 0 && info.state != ZoneState::Full && outside {
        return DeviceError::NotAtWritePointer { zone: info.id, lba, write_pointer };
    }
    DeviceError::Io { lba, errno }
}

/// Is `lba` the place where a zone takes its next write?
pub(super) fn takes_write_at(info: &ZoneInfo, lba: Lba) -> bool {
    let writable = matches!(info.state, ZoneState::Empty | ZoneState::ImplicitOpen | ZoneState::ExplicitOpen | ZoneState::Closed);
    writable && info.written < info.capacity && info.start + info.written == lba
}

/// The refusal behind a zone action that failed with `errno`, if the state of the zone explains it.
pub(super) fn refusal_of_action(zone: ZoneId, action: ZoneAction, errno: i32, info: Option<&ZoneInfo>) -> Option<DeviceError> {
    let refused = |status| Some(DeviceError::Zone { zone, status });
    if let Some(status) = resource_status(errno) {
        return refused(status);
    }
    let impossible = matches!(
        (action, info?.state),
        (_, ZoneState::ReadOnly | ZoneState::Offline)
            | (ZoneAction::Open | ZoneAction::Close, ZoneState::Full)
            | (ZoneAction::Close, ZoneState::Empty)
    );
    if impossible { refused(NvmeStatus::INVALID_TRANSITION) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoned::{BlockSizes, DeviceGeometry, DeviceIdentity, DeviceLimits, DeviceModel, ZoneType};

    fn properties(zones: u32) -> DeviceProperties {
        DeviceProperties {
            model: DeviceModel::HostManaged,
            identity: DeviceIdentity { vendor: None, model_name: None },
            geometry: DeviceGeometry {
                chunk_sectors: Sector::new(2048),
                nr_zones: zones,
                capacity_sectors: Sector::new(2048 * u64::from(zones)),
            },
            limits: DeviceLimits {
                zone_append_max_bytes: 0,
                max_open_zones: Some(6),
                max_active_zones: None,
                max_hw_sectors_kb: 512,
                max_sectors_kb: 127,
            },
            block_sizes: BlockSizes { logical_block_size: 512, physical_block_size: 4096 },
            scheduler: None,
        }
    }

    fn zone(index: u64, condition: ZoneCondition, behind: Option<u64>) -> Zone {
        Zone {
            start: Sector::new(index * 2048),
            len: Sector::new(2048),
            capacity: Sector::new(1536),
            write_pointer: behind.map(|sectors| Sector::new((index * 2048).wrapping_add(sectors))),
            zone_type: ZoneType::SequentialWriteRequired,
            condition,
            non_seq: false,
            reset_recommended: false,
        }
    }

    fn zones(count: u64) -> Vec<Zone> {
        (0..count).map(|index| zone(index, ZoneCondition::Empty, Some(0))).collect()
    }

    #[test]
    fn the_geometry_counts_in_blocks_of_the_write_granularity() {
        for (granularity, per_block) in [(512, 1), (4096, 8)] {
            let (geometry, sectors) = geometry_from("nvme0n1", &properties(30), granularity, &zones(30), MIN_ZONES).unwrap();
            assert_eq!((geometry.kind, geometry.zones, geometry.block_size), (DeviceKind::Zns, 30, granularity));
            assert_eq!((geometry.zone_size, geometry.zone_capacity), (Blocks(2048 / per_block), Blocks(1536 / per_block)));
            assert_eq!((geometry.max_open, geometry.max_active), (6, 0));
            assert_eq!(geometry.max_io_bytes, 124 << 10);
            assert_eq!(sectors.of_zone(ZoneId(3)), Sector::new(6144));
        }
        assert_eq!(geometry_from("sda", &properties(30), 4096, &zones(30), MIN_ZONES).unwrap().0.kind, DeviceKind::Zoned);
    }

    #[test]
    fn a_small_last_zone_is_left_out_and_odd_shapes_are_refused() {
        let mut report = zones(31);
        report[30].len = Sector::new(100);
        assert_eq!(geometry_from("sda", &properties(31), 512, &report, MIN_ZONES).unwrap().0.zones, 30);
        report[7].len = Sector::new(100);
        assert!(geometry_from("sda", &properties(31), 512, &report, MIN_ZONES).unwrap_err().contains("one size"));
        let mut report = zones(31);
        report[7].capacity = Sector::new(1000);
        assert!(geometry_from("sda", &properties(31), 512, &report, MIN_ZONES).unwrap_err().contains("one capacity"));
        assert!(geometry_from("sda", &properties(23), 512, &zones(23), MIN_ZONES).unwrap_err().contains("too small"));
        assert!(geometry_from("sda", &properties(0), 512, &[], MIN_ZONES).unwrap_err().contains("too small"));
        // Who copies bytes needs no more than one.
        assert_eq!(geometry_from("sda", &properties(23), 512, &zones(23), 1).unwrap().0.zones, 23);
        assert!(geometry_from("sda", &properties(30), 8192, &zones(30), MIN_ZONES).unwrap_err().contains("8192"));
    }

    #[test]
    fn every_condition_is_understood_and_no_pointer_underflows() {
        let geometry = geometry_from("nvme0n1", &properties(30), 4096, &zones(30), MIN_ZONES).unwrap().0;
        let cases = [
            (ZoneCondition::Empty, Some(0), ZoneState::Empty, 0),
            (ZoneCondition::ImplicitlyOpen, Some(80), ZoneState::ImplicitOpen, 10),
            (ZoneCondition::ExplicitlyOpen, Some(0), ZoneState::ExplicitOpen, 0),
            (ZoneCondition::Closed, Some(1528), ZoneState::Closed, 191),
            (ZoneCondition::Full, Some(2048), ZoneState::Full, 192),
            (ZoneCondition::Full, Some(u64::MAX), ZoneState::Full, 192),
            (ZoneCondition::ReadOnly, Some(80), ZoneState::ReadOnly, 10),
            (ZoneCondition::ReadOnly, Some(u64::MAX / 2), ZoneState::ReadOnly, 192),
            (ZoneCondition::Offline, Some(u64::MAX / 2), ZoneState::Offline, 0),
            (ZoneCondition::NotWritePointer, None, ZoneState::Full, 192),
            (ZoneCondition::Closed, Some(u64::MAX), ZoneState::Closed, 0),
        ];
        for (condition, behind, state, written) in cases {
            let info = zone_info(ZoneId(5), &zone(5, condition, behind), &geometry);
            assert_eq!((info.state, info.written, info.start), (state, Blocks(written), Lba(5 * 256)), "{condition} {behind:?}");
        }
    }

    #[test]
    fn failed_writes_and_actions_are_explained_by_the_zone() {
        let info = |state, written| ZoneInfo { id: ZoneId(1), state, start: Lba(256), capacity: Blocks(192), written: Blocks(written) };
        let status = |error| match error {
            DeviceError::Zone { status, .. } => Some(status),
            _ => None,
        };
        let open = info(ZoneState::ImplicitOpen, 10);
        assert!(matches!(explain(5, Lba(266), 4, 0, Some(&open)), DeviceError::Io { errno: 5, .. }));
        let stale = explain(5, Lba(264), 1, 0, Some(&open));
        assert!(matches!(stale, DeviceError::NotAtWritePointer { write_pointer: Lba(266), .. }));
        assert!(matches!(explain(5, Lba(270), 1, 0, Some(&open)), DeviceError::NotAtWritePointer { .. }));
        assert!(matches!(explain(5, Lba(256), 16, 10, Some(&open)), DeviceError::Io { .. }));
        assert!(matches!(explain(5, Lba(266), 4, 0, None), DeviceError::Io { .. }));
        assert_eq!(status(explain(5, Lba(266), 183, 0, Some(&open))), Some(NvmeStatus::ZONE_BOUNDARY));
        assert_eq!(status(explain(5, Lba(266), 1, 0, Some(&info(ZoneState::Full, 192)))), Some(NvmeStatus::ZONE_FULL));
        assert_eq!(status(explain(5, Lba(266), 1, 0, Some(&info(ZoneState::Offline, 0)))), Some(NvmeStatus::ZONE_OFFLINE));
        assert_eq!(status(explain(libc::EOVERFLOW, Lba(266), 1, 0, Some(&open))), Some(NvmeStatus::TOO_MANY_ACTIVE));
        assert!(takes_write_at(&open, Lba(266)) && !takes_write_at(&open, Lba(265)) && !takes_write_at(&open, Lba(267)));
        assert!(!takes_write_at(&info(ZoneState::Full, 192), Lba(448)) && !takes_write_at(&info(ZoneState::ReadOnly, 10), Lba(266)));
        let action = |action, errno, state| refusal_of_action(ZoneId(1), action, errno, Some(&info(state, 0))).and_then(status);
        assert_eq!(action(ZoneAction::Open, libc::ETOOMANYREFS, ZoneState::Empty), Some(NvmeStatus::TOO_MANY_OPEN));
        assert_eq!(action(ZoneAction::Open, libc::EIO, ZoneState::Full), Some(NvmeStatus::INVALID_TRANSITION));
        assert_eq!(action(ZoneAction::Reset, libc::EIO, ZoneState::Full), None);
    }
}
