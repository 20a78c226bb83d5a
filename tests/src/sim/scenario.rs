//! Drives and habits, drawn from a seed.

use super::operation::Habits;
use copy_backend::VerifyMode;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use zns::Blocks;
use zns::native_copy::CopyLimits;
use zns::sim::SimConfig;

/// What a run takes place on, and what happens in it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For people.
    pub name: &'static str,
    /// One or two drives.
    pub drives: Vec<SimConfig>,
    /// What programs do.
    pub habits: Habits,
    /// Operations before the power is cut for the first time, and then between cuts.
    pub operations: usize,
    /// Times that the power is cut.
    pub cuts: usize,
    /// Verification of copies.
    pub verify: VerifyMode,
    /// Most of the space is taken before the first operation.
    pub nearly_full: bool,
    /// Bytes of metadata kept in memory.
    pub cache_size: u64,
}

/// Drives of about 64 MiB by name whose zones hold little, so that cleaning has to do.
fn small(zones: u32, capacity: u64, seed: u64) -> SimConfig {
    let zone_size = (16384u64.div_ceil(u64::from(zones))).next_power_of_two().max(capacity);
    SimConfig { zone_size: Blocks(zone_size), zone_capacity: Blocks(capacity), ..SimConfig::zoned(zones, seed) }
}

/// The same in device blocks of 512 bytes.
fn in_sectors(config: SimConfig) -> SimConfig {
    let times = u64::from(config.block_size / 512);
    SimConfig {
        block_size: 512,
        zone_size: Blocks(config.zone_size.0 * times),
        zone_capacity: Blocks(config.zone_capacity.0 * times),
        ..config
    }
}

fn drives(rng: &mut ChaCha8Rng, seed: u64) -> (&'static str, Vec<SimConfig>) {
    let capacity = [96u64, 128, 160, 256][rng.random_range(0..4)];
    let base = small(rng.random_range(32..48), capacity, seed);
    let conventional = |config: SimConfig| {
        let size = config.zone_capacity;
        SimConfig { zone_size: size, max_open: 0, max_active: 0, conventional: true, copy: None, ..config }
    };
    match rng.random_range(0..13) {
        12 => {
            let zone = Blocks(64);
            let config = SimConfig { zone_size: zone, zone_capacity: zone, ..SimConfig::zoned(300, seed) };
            ("conventional, tiny zones", vec![conventional(config)])
        }
        0..3 => ("zoned", vec![base]),
        3 => {
            let limits = CopyLimits { mssrl: 16, mcl: 24, ranges: 3 };
            ("zoned, 512-byte blocks, tiny copies", vec![SimConfig { copy: Some(limits), ..in_sectors(base) }])
        }
        4 => ("zoned without copies", vec![SimConfig { copy: None, ..base }]),
        5 => ("conventional", vec![conventional(in_sectors(SimConfig::zoned(rng.random_range(64..80), seed)))]),
        6 => {
            let config = conventional(SimConfig::zoned(rng.random_range(64..80), seed));
            ("conventional, torn blocks", vec![SimConfig { tear_blocks: true, ..config }])
        }
        7 => ("tiny zones", vec![small(96, 48, seed)]),
        8 => ("6 active zones", vec![SimConfig { max_open: 6, max_active: 6, ..base }]),
        9 => ("8 active zones", vec![SimConfig { max_open: 8, max_active: 8, ..base }]),
        10 => {
            let other = small(40, 112, seed ^ 0x5a5a);
            let other = if rng.random() { in_sectors(other) } else { other };
            ("two devices", vec![small(32, 128, seed), other])
        }
        _ => {
            let config = SimConfig { tear_blocks: true, ..base };
            ("zoned, torn blocks, surprised write pointers", vec![with_surprise(config)])
        }
    }
}

fn with_surprise(mut config: SimConfig) -> SimConfig {
    config.faults.write_pointer_surprise = 0.3;
    config
}

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(rng: &mut ChaCha8Rng, seed: u64) -> Self {
        let (name, mut drives) = drives(rng, seed);
        let max_io_bytes = [1 << 20, 1 << 20, 256 << 10, 64 << 10][rng.random_range(0..4)];
        drives.iter_mut().for_each(|drive| drive.max_io_bytes = max_io_bytes);
        let large = rng.random_range(0..10) == 0;
        let habits = Habits {
            write: if large { 600 << 10 } else { [8 << 10, 30 << 10, 120 << 10][rng.random_range(0..3)] },
            reach: if large { 2 << 20 } else { [40 << 10, 200 << 10, 600 << 10][rng.random_range(0..3)] },
            files: rng.random_range(2..14),
            cleaning: [0, 60, 150, 300][rng.random_range(0..4)],
            barriers: [20, 80, 250][rng.random_range(0..3)],
            copies: rng.random(),
        };
        Self {
            name,
            drives,
            habits,
            operations: rng.random_range(10..40),
            cuts: rng.random_range(1..=3),
            verify: [VerifyMode::Off, VerifyMode::Sampled, VerifyMode::Full][rng.random_range(0..3)],
            nearly_full: rng.random_range(0..8) == 0,
            cache_size: if rng.random_range(0..3) == 0 { 4 << 20 } else { 64 << 20 },
        }
    }
}
