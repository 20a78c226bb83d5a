//! Write amplification of a volume on a simulated drive, 85 % full, by placement and victim policy, with the simulator's for as many zones beside it:
//! `cargo run -p fs --release --example volume_wa [ZONES [PASSES [SEED [PLACEMENT]]]]`. No threads and no mount point: cleaning is what writers pay for.

use fs::BLOCK;
use fs::core::ops;
use fs::format::item::Timestamp;
use fs::volume::{Caller, Clock, Cost, FormatOptions, MountOptions, Volume, WriteOptions};
use gc::PlacementKind;
use gc::sim::{Capacity, SimConfig as Segments, Simulator};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};

/// Draws blocks.
struct Load {
    sums: Vec<f64>,
    place: Vec<u64>,
    dice: ChaCha8Rng,
}

impl Load {
    fn new(name: &str, blocks: u64, seed: u64) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let weight = |rank: u64| match name.split_once(':') {
            Some(("zipf", alpha)) => (rank as f64 + 1.0).powf(-alpha.parse::<f64>().expect("a number")),
            _ if name == "90/10" => {
                if rank < blocks / 10 {
                    9.0 / (blocks as f64 / 10.0)
                } else {
                    1.0 / (blocks as f64 * 0.9)
                }
            }
            _ => 1.0,
        };
        let sums = (0..blocks)
            .scan(0.0, |sum, rank| {
                *sum += weight(rank);
                Some(*sum)
            })
            .collect();
        let mut place: Vec<u64> = (0..blocks).collect();
        for at in (1..place.len()).rev() {
            place.swap(at, dice.random_range(0..=at));
        }
        Self { sums, place, dice }
    }

    fn draw(&mut self) -> u64 {
        let at = self.dice.random_range(0.0..*self.sums.last().expect("blocks"));
        self.place[self.sums.partition_point(|sum| *sum <= at).min(self.place.len() - 1)]
    }
}

fn volume(zones: u32, placement: &str, policy: gc::Policy) -> Arc<Volume> {
    let drive = SimDrive::new(SimConfig { max_open: 14, max_active: 14, ..SimConfig::zoned(zones, 1) });
    let created = Timestamp { sec: 1_700_000_000, nsec: 0 };
    let format = FormatOptions { label: "wa".into(), uuid: [7; 16], created, secret: [1; 32], uid: 0, gid: 0 };
    Volume::format(vec![drive.open()], &format).expect("a fresh drive takes a volume");
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_700_000_000, nsec: 5 }));
    let options = MountOptions { clock, secret: Some([2; 32]), placement: placement.into(), policy, ..MountOptions::default() };
    Volume::open(vec![drive.open()], options).expect("mounts")
}

fn on_volume(zones: u32, passes: u64, (load, seed): (&str, u64), placement: &str, policy: gc::Policy) -> f64 {
    let volume = volume(zones, placement, policy);
    let made = volume.run(Cost::METADATA, |txn| ops::mknod(txn, fs::Ino::ROOT, b"file", libc::S_IFREG | 0o644, 0, &Caller::default()));
    let file = made.expect("made").ino;
    let blocks = volume.status().space.total / BLOCK as u64 * 85 / 100 - volume.status().space.used / BLOCK as u64;
    let write = |block: u64| {
        let written = volume.write(file, block * BLOCK as u64, &[block as u8; BLOCK], &WriteOptions::default());
        assert_eq!(written.expect("written"), BLOCK);
    };
    (0..blocks).for_each(write);
    let mut load = Load::new(load, blocks, seed);
    (0..passes * blocks).for_each(|_| write(load.draw()));
    let before = volume.status();
    (0..passes * blocks).for_each(|_| write(load.draw()));
    let after = volume.status();
    let user = after.io.user_written - before.io.user_written;
    (user + after.gc.relocated - before.gc.relocated) as f64 / user as f64
}

fn simulated(zones: u32, passes: u64, (load, seed): (&str, u64), placement: PlacementKind, policy: gc::Policy) -> f64 {
    let config = Segments { segments: zones, segment_blocks: 256, utilization: 0.85, capacity: Capacity::Fixed };
    let (policy, mut placement) = (policy.build(), placement.build(&config.shape()));
    let mut sim = Simulator::new(config, policy.as_ref(), placement.as_mut());
    let blocks = sim.blocks();
    let mut load = Load::new(load, blocks.into(), seed);
    (0..blocks).for_each(|block| sim.write(block).expect("room"));
    (0..passes * u64::from(blocks)).for_each(|_| sim.write(load.draw() as u32).expect("room"));
    sim.reset_counters();
    (0..passes * u64::from(blocks)).for_each(|_| sim.write(load.draw() as u32).expect("room"));
    sim.write_amplification()
}

fn main() {
    let argument = |n: usize| std::env::args().nth(n).map(|word| word.parse().expect("a number"));
    let (zones, passes, seed) = (argument(1).unwrap_or(256), u64::from(argument(2).unwrap_or(4)), u64::from(argument(3).unwrap_or(1)));
    let rows = [
        ("separate", PlacementKind::Separate, gc::Policy::Greedy),
        ("separate", PlacementKind::Separate, gc::Policy::CostBenefit),
        ("hot-warm-cold", PlacementKind::HotWarmColdZones, gc::Policy::CostBenefit),
        ("dac", PlacementKind::DacZones, gc::Policy::CostBenefit),
        ("sepbit", PlacementKind::SepBitZones, gc::Policy::CostBenefit),
        ("midas", PlacementKind::MidasZones, gc::Policy::Greedy),
        ("adaptive", PlacementKind::AdaptiveZones, gc::Policy::CostBenefit),
        ("adaptive", PlacementKind::AdaptiveZones, gc::Policy::DecliningCost),
    ];
    println!("| placement | policy | load | volume | simulator |");
    println!("|---|---|---|---|---|");
    let only = std::env::args().nth(4);
    for load in ["uniform", "zipf:0.8", "zipf:1.0", "90/10"] {
        for (placement, kind, policy) in rows.into_iter().filter(|row| only.as_deref().is_none_or(|name| name == row.0)) {
            let (real, simulated) =
                (on_volume(zones, passes, (load, seed), placement, policy), simulated(zones, passes, (load, seed), kind, policy));
            println!("| {placement} | {policy} | {load} | {real:.2} | {simulated:.2} |");
        }
    }
}
