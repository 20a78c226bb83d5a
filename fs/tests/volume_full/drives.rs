//! The drives that are filled: small, of every kind.

use fs::FsError;
use fs::format::item::Timestamp;
use fs::volume::{Clock, FormatOptions, MountOptions, Volume};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive, Survival};
use zns::{Blocks, ZonedDevice};

/// A volume's drives.
pub struct Drives(Vec<SimDrive>, u64);

fn narrow(active: u32, zones: u32, seed: u64) -> SimConfig {
    SimConfig { max_open: active, max_active: active, ..SimConfig::zoned(zones, seed) }
}

fn kinds(seed: u64) -> Vec<SimConfig> {
    let short = |zones| SimConfig { zone_size: Blocks(1024), zone_capacity: Blocks(700), ..SimConfig::zoned(zones, seed) };
    match seed % 10 {
        0 => vec![narrow(6, 64, seed)],
        1 => vec![narrow(8, 64, seed)],
        2 => vec![narrow(14, 64, seed)],
        3 => vec![SimConfig::conventional(64, seed)],
        4 => vec![short(24)],
        5 => vec![narrow(14, 64, seed), narrow(14, 64, seed + 1)],
        6 => vec![SimConfig { copy: None, ..narrow(6, 70, seed) }],
        7 => vec![SimConfig::conventional(64, seed), narrow(8, 64, seed + 1)],
        8 => vec![SimConfig { zone_size: Blocks(4096), zone_capacity: Blocks(4096), ..SimConfig::zoned(24, seed) }],
        _ => vec![narrow(14, 200, seed)],
    }
}

impl Drives {
    /// Fresh drives with a volume on them; `seed` decides which.
    pub fn format(seed: u64) -> Self {
        let drives: Vec<SimDrive> = kinds(seed).into_iter().map(SimDrive::new).collect();
        let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
        let options = FormatOptions { label: "full".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
        let drives = Self(drives, seed);
        Volume::format(drives.devices(), &options).expect("fresh drives take a volume");
        drives
    }

    fn devices(&self) -> Vec<Arc<dyn ZonedDevice>> {
        self.0.iter().map(|drive| drive.open() as Arc<dyn ZonedDevice>).collect()
    }

    /// Mounts.
    pub fn mount(&self, secret: u8) -> Result<Arc<Volume>, FsError> {
        let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
        // Half of the volumes begin with classes, and each mount does otherwise than the one before.
        let adaptive = (self.1 / 10 + u64::from(secret)).is_multiple_of(2);
        let placement = if adaptive { "adaptive" } else { "separate" };
        let cache_size = 8 << 20;
        let options =
            MountOptions { clock, secret: Some([secret; 32]), cache_size, placement: placement.into(), ..MountOptions::default() };
        Volume::open(self.devices(), options)
    }

    /// Whatever works without end finds the power gone after so many operations.
    pub fn limit_ops(&self, ops: u64) {
        self.0.iter().for_each(|drive| drive.cut_power_at(drive.ops() + ops));
    }

    /// A crash.
    pub fn crash(&self, survival: Survival) {
        self.0.iter().for_each(|drive| {
            drive.cut_power();
            drive.power_cycle_with(survival);
        });
    }

    /// Nothing was done that no drive may be asked.
    pub fn check(&self) {
        for drive in &self.0 {
            assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
        }
    }
}
