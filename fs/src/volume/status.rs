//! `ferryfs status --json`: the names are relied on by scripts.

use copy_backend::ProfileUse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything status reports. Sizes in bytes; counters since the mount.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Status {
    pub volume: VolumeStatus,
    pub space: SpaceStatus,
    pub zones: ZoneCounts,
    pub io: IoStatus,
    pub gc: GcStatus,
    pub copy_file_range: CopyStatus,
    pub checks: CheckStatus,
    /// What the log and checkpoints have done.
    pub log: LogStatus,
    /// What metadata takes in memory.
    pub cache: CacheStatus,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct VolumeStatus {
    pub uuid: String,
    pub label: String,
    pub block_size: u32,
    pub mounted_read_only: bool,
    /// Why it is read-only, when a failure made it so.
    pub read_only_reason: Option<String>,
    /// The options that it was mounted with and keeps until it is unmounted, as mount(8) writes them.
    #[serde(default)]
    pub options: Vec<String>,
    pub devices: Vec<DeviceStatus>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DeviceStatus {
    pub path: String,
    pub kind: String,
    pub zones: u32,
    pub zone_size: u64,
    pub zone_capacity: u64,
    pub max_open_zones: u32,
    pub max_active_zones: u32,
    pub route: String,
    pub route_reason: String,
    pub simulated: bool,
    /// Whose times an image plays; `none` for one that takes what it takes, and for real devices.
    #[serde(default)]
    pub device_model: String,
    pub copy_limits: CopyLimitStatus,
    /// Whether sizes of copies within it are chosen by the profile that the mount was given, and if not, why.
    #[serde(default)]
    pub copy_profile: ProfileUse,
    /// The roads from it to other devices of the volume, as far as something had to go there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<WayStatus>,
}

/// A road from one device of a volume to another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct WayStatus {
    /// The other one: its place in the list of devices.
    pub device: u32,
    pub route: String,
    pub route_reason: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CopyLimitStatus {
    pub max_range_bytes: u64,
    pub max_command_bytes: u64,
    pub max_ranges: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SpaceStatus {
    pub total: u64,
    pub used: u64,
    pub free: u64,
    pub available: u64,
    pub reclaimable: u64,
    pub reserved: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ZoneCounts {
    pub empty: u32,
    pub open: u32,
    pub closed: u32,
    pub full: u32,
    pub read_only: u32,
    pub offline: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct IoStatus {
    pub user_written: u64,
    pub user_read: u64,
    pub device_written: u64,
    pub device_read: u64,
    pub flushes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct GcStatus {
    pub meta_read: u64,
    pub meta_written: u64,
    pub policy: String,
    pub placement: String,
    pub zones_reclaimed: u64,
    pub relocated: u64,
    pub offloaded: u64,
    pub host_read: u64,
    pub host_written: u64,
    pub commands: u64,
    #[serde(default)]
    pub slowest_command_us: u64,
    pub fallbacks: BTreeMap<String, u64>,
    pub write_amplification: f64,
    pub pause_us: PauseStatus,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PauseStatus {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CopyStatus {
    pub calls: u64,
    pub bytes: u64,
    pub offloaded: u64,
    pub host_read: u64,
    pub host_written: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CheckStatus {
    pub checksum_errors: u64,
    pub copies_verified: u64,
    pub copies_rejected: u64,
    pub verify_read: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LogStatus {
    pub appends: u64,
    pub bytes: u64,
    pub checkpoints: u64,
    pub checkpoint_bytes: u64,
    /// Times that zones were given back by the log, without a checkpoint.
    #[serde(default)]
    pub releases: u64,
    /// Log appends replayed by the mount.
    pub replayed: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CacheStatus {
    pub limit: u64,
    pub resident: u64,
    pub dirty_blocks: u64,
    pub node_reads: u64,
}
