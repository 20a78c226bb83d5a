//! Write amplification of a volume beside the simulator's: the same blocks are written in the same order, and data has as much space.
//!
//! The simulator knows no metadata, no log and no reserves, and cleans a victim in no time. So it gets as many segments as the data of the volume had on average, counted
//! while the volume writes: all zones in which data is alive, less half a zone, since one is always being cleaned and half of what lived there has left, and one more, which
//! the simulator keeps empty for its cleaner. It knows no memory either, in which blocks are overwritten before they are placed: the volume is synced every few blocks, of
//! which no two are the same. What is compared are payload blocks, written by users and relocated.

use super::{B, Dice, fresh_on, make, mount_with, options};
use fs::BLOCK;
use fs::volume::{MountOptions, Volume, WriteOptions};
use gc::sim::{Capacity, SimConfig as Segments, Simulator};
use gc::{PlacementKind, Policy};
use std::collections::HashSet;
use zns::sim::SimConfig;

const ZONES: u32 = 112;
const ZONE_BLOCKS: u32 = 256;
/// Blocks between two syncs.
const BATCH: usize = 64;
/// How often the blocks are written in all before it is counted, and while it is. MiDAS learns for four times the space before it does anything.
const PASSES: usize = 2;

fn warming(placement: PlacementKind) -> usize {
    if matches!(placement, PlacementKind::Midas | PlacementKind::MidasZones) { 3 * PASSES } else { PASSES }
}

/// How often a block is drawn: all equally often, or the nth in proportion to 1 / n.
#[derive(Clone, Copy, Debug)]
enum Load {
    Uniform,
    Zipf,
}

impl Load {
    /// `passes` times as many overwrites as there are blocks. The ranks of the Zipf load are spread over the file.
    fn draw(self, blocks: u32, passes: usize) -> Vec<u32> {
        let mut dice = Dice(1);
        let mut places: Vec<u32> = (0..blocks).collect();
        (1..blocks as usize).for_each(|at| places.swap(at, dice.below(at as u64 + 1) as usize));
        let weight = |rank: u32| match self {
            Self::Uniform => 1.0,
            Self::Zipf => 1.0 / f64::from(rank + 1),
        };
        let sums: Vec<f64> = (0..blocks).scan(0.0, |sum, rank| Some(*sum + weight(rank)).inspect(|next| *sum = *next)).collect();
        let all = *sums.last().expect("blocks");
        let mut drawn = Vec::with_capacity(passes * blocks as usize);
        let mut batch = HashSet::new();
        while drawn.len() < passes * blocks as usize {
            let at = dice.below(1 << 30) as f64 / f64::from(1 << 30) * all;
            let block = places[sums.partition_point(|sum| *sum <= at).min(places.len() - 1)];
            if batch.insert(block) {
                drawn.push(block);
            }
            if batch.len() == BATCH {
                batch.clear();
            }
        }
        drawn
    }
}

/// Zones in which data is alive.
fn zones_of_data(volume: &Volume) -> u64 {
    let is_data = |role: &str| role == "user" || role.starts_with("relocated");
    volume.zones().iter().filter(|zone| is_data(&zone.role) && zone.live > 0).count() as u64
}

/// What a volume of so many blocks did: its write amplification and the zones that its data had on average.
struct Real {
    blocks: u32,
    amplification: f64,
    zones: f64,
}

fn on_volume(load: Load, placement: PlacementKind, policy: Policy, active: u32) -> Real {
    let drive = fresh_on(SimConfig { max_open: active, max_active: active, ..SimConfig::zoned(ZONES, 1) });
    let volume = mount_with(&drive, MountOptions { placement: placement.name().into(), policy, ..options(2) });
    let file = make(&volume, "file");
    let space = volume.status().space;
    let blocks = ((space.total * 85 / 100 - space.used) / B) as u32;
    let write = |written: &[u32]| {
        for block in written {
            volume.write(file, u64::from(*block) * B, &[*block as u8; BLOCK], &WriteOptions::default()).expect("written");
        }
        volume.sync().expect("synced");
    };
    (0..blocks).collect::<Vec<u32>>().chunks(BATCH).for_each(write);
    let drawn = load.draw(blocks, warming(placement) + PASSES);
    let (warming, counted) = drawn.split_at(drawn.len() - PASSES * blocks as usize);
    warming.chunks(BATCH).for_each(write);
    let before = volume.status().gc.relocated;
    let (mut seen, mut samples) = (0, 0);
    for written in counted.chunks(BATCH) {
        write(written);
        seen += zones_of_data(&volume);
        samples += 1;
    }
    let relocated = volume.status().gc.relocated - before;
    let user = counted.len() as f64 * B as f64;
    Real { blocks, amplification: (user + relocated as f64) / user, zones: seen as f64 / f64::from(samples) }
}

fn in_simulator(load: Load, placement: PlacementKind, policy: Policy, blocks: u32, segments: u32) -> f64 {
    let utilization = (f64::from(blocks) + 0.5) / (f64::from(segments) * f64::from(ZONE_BLOCKS));
    let config = Segments { segments, segment_blocks: ZONE_BLOCKS, utilization, capacity: Capacity::Fixed };
    let (policy, mut built) = (policy.build(), placement.build(&config.shape()));
    let mut sim = Simulator::new(config, policy.as_ref(), built.as_mut());
    assert_eq!(sim.blocks(), blocks);
    let drawn = load.draw(blocks, warming(placement) + PASSES);
    let (warming, counted) = drawn.split_at(drawn.len() - PASSES * blocks as usize);
    (0..blocks).chain(warming.iter().copied()).for_each(|block| sim.write(block).expect("room"));
    sim.reset_counters();
    counted.iter().for_each(|block| sim.write(*block).expect("room"));
    sim.write_amplification()
}

/// The volume's write amplification over the simulator's with as much space for data.
fn ratio(load: Load, placement: PlacementKind, policy: Policy) -> f64 {
    let real = on_volume(load, placement, policy, 14);
    let segments = real.zones - 0.5 + 1.0;
    let simulated = |segments: f64| in_simulator(load, placement.simulated(), policy, real.blocks, segments as u32);
    let (less, more) = (simulated(segments.floor()), simulated(segments.ceil()));
    let expected = less + (more - less) * segments.fract();
    println!(
        "{load:?}, {placement}, {policy}: {:.3} by the volume, {expected:.3} by the simulator with {segments:.1} segments",
        real.amplification
    );
    real.amplification / expected
}

#[test]
fn a_volume_amplifies_writes_as_the_simulator_does() {
    let rows = [
        (Load::Uniform, PlacementKind::Separate, Policy::Greedy),
        (Load::Zipf, PlacementKind::Separate, Policy::CostBenefit),
        (Load::Zipf, PlacementKind::HotWarmCold, Policy::CostBenefit),
        (Load::Zipf, PlacementKind::Dac, Policy::CostBenefit),
        (Load::Zipf, PlacementKind::SepBit, Policy::CostBenefit),
        (Load::Zipf, PlacementKind::Midas, Policy::Greedy),
        (Load::Zipf, PlacementKind::Adaptive, Policy::DecliningCost),
    ];
    for (load, placement, policy) in rows {
        let ratio = ratio(load, placement, policy);
        assert!((ratio - 1.0).abs() <= 0.05, "{load:?}, {placement}, {policy}: {ratio:.3} times as much");
    }
}

/// With few active zones there are few classes, down to one: then no placement may do harm.
#[test]
fn published_placements_do_no_harm_where_few_zones_may_be_active() {
    for active in [6, 11] {
        let without = on_volume(Load::Zipf, PlacementKind::Separate, Policy::Greedy, active).amplification;
        for placement in [PlacementKind::HotWarmCold, PlacementKind::Dac, PlacementKind::SepBit, PlacementKind::Midas] {
            let with = on_volume(Load::Zipf, placement, Policy::Greedy, active).amplification;
            println!("{active} active zones, {placement}: {with:.3}, apart only: {without:.3}");
            assert!(
                with < without * 1.1,
                "{active} active zones, {placement}: {with:.3}, and {without:.3} where only users and cleaning are apart"
            );
        }
    }
}
