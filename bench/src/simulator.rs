//! `ferryfs-bench wa`: policies and placements over addresses alone, all combinations in parallel.

use crate::report::write;
use anyhow::{Result, bail, ensure};
use gc::placement::PlacementKind;
use gc::policy::Policy;
use gc::sim::{SimConfig, Simulator, analytic_greedy};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;
use std::str::FromStr;

/// Every option may repeat; the product of all is run.
#[derive(clap::Args)]
pub struct Grid {
    /// uniform, zipf:ALPHA, drift:ALPHA, hotcold:TRAFFIC/SPACE
    #[arg(long = "load", default_value = "uniform")]
    loads: Vec<Load>,
    /// Live share of the space
    #[arg(long = "utilization", default_value = "0.85")]
    utilizations: Vec<f64>,
    /// Victim policy; `default` is what a plain mount uses
    #[arg(long = "policy", default_value = "default")]
    policies: Vec<String>,
    /// Placement of blocks into segments; `default` is what a plain mount uses
    #[arg(long = "placement", default_value = "default")]
    placements: Vec<String>,
    /// Blocks of the whole space
    #[arg(long, default_value_t = 1 << 20)]
    blocks: u32,
    /// Blocks in a segment
    #[arg(long, default_value_t = 1024)]
    segment_blocks: u32,
    /// Times that the live blocks are written anew in the part that counts; as many more come before it
    #[arg(long, default_value_t = 5)]
    passes: u32,
    /// Seed of the load
    #[arg(long = "seed", default_value = "1")]
    seeds: Vec<u64>,
}

/// How blocks are chosen.
#[derive(Clone, Debug, PartialEq)]
enum Load {
    Uniform,
    Zipf(f64),
    Drift(f64),
    HotCold { traffic: f64, space: f64 },
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Load, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str| -> Result<f64, String> {
            let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
            if number.is_finite() && number >= 0.0 { Ok(number) } else { Err(format!("{number} is out of range")) }
        };
        match kind {
            "uniform" if rest.is_empty() => Ok(Load::Uniform),
            "zipf" => Ok(Load::Zipf(number(rest)?)),
            "drift" => Ok(Load::Drift(number(rest)?)),
            "hotcold" => {
                let (traffic, space) = rest.split_once('/').ok_or("hotcold takes TRAFFIC/SPACE, as in hotcold:90/10")?;
                let share = |text| {
                    let percent = number(text)?;
                    if percent > 0.0 && percent < 100.0 { Ok(percent / 100.0) } else { Err(format!("{percent} is not a share of 100")) }
                };
                Ok(Load::HotCold { traffic: share(traffic)?, space: share(space)? })
            }
            "trace" => Err("traces cannot be replayed yet".into()),
            _ => Err(format!("no load `{text}`: uniform, zipf:ALPHA, drift:ALPHA or hotcold:TRAFFIC/SPACE")),
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Load::Uniform => write!(f, "uniform"),
            Load::Zipf(alpha) => write!(f, "zipf:{alpha}"),
            Load::Drift(alpha) => write!(f, "drift:{alpha}"),
            Load::HotCold { traffic, space } => {
                write!(f, "hotcold:{}/{}", traffic * 100.0, space * 100.0)
            }
        }
    }
}

/// Draws blocks.
struct Source {
    rng: ChaCha8Rng,
    load: Load,
    blocks: u32,
    /// Cumulated weights by rank; empty unless Zipf.
    cumulated: Vec<f64>,
    /// Which block has which rank.
    ranked: Vec<u32>,
    drawn: u64,
}

impl Source {
    fn new(load: &Load, blocks: u32, seed: u64) -> Source {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ranked: Vec<u32> = (0..blocks).collect();
        shuffle(&mut ranked, &mut rng);
        let cumulated = match load {
            Load::Zipf(alpha) | Load::Drift(alpha) => {
                let mut sum = 0.0;
                let weight = |rank: u32| f64::from(rank + 1).powf(-alpha);
                (0..blocks)
                    .map(|rank| {
                        sum += weight(rank);
                        sum
                    })
                    .collect()
            }
            _ => Vec::new(),
        };
        Source { rng, load: load.clone(), blocks, cumulated, ranked, drawn: 0 }
    }

    fn next(&mut self) -> u32 {
        self.drawn += 1;
        match self.load {
            Load::Uniform => self.rng.random_range(0..self.blocks),
            Load::Zipf(_) => {
                let rank = self.rank();
                self.ranked[rank]
            }
            Load::Drift(_) => {
                // The hottest fifth is permuted whenever one in a hundred of the working set has been written.
                if self.drawn.is_multiple_of(u64::from(self.blocks / 100).max(1)) {
                    let hot = self.ranked.len() / 5;
                    shuffle(&mut self.ranked[..hot], &mut self.rng);
                }
                let rank = self.rank();
                self.ranked[rank]
            }
            Load::HotCold { traffic, space } => {
                let hot = ((f64::from(self.blocks) * space) as u32).clamp(1, self.blocks - 1);
                let rank = match self.rng.random_bool(traffic) {
                    true => self.rng.random_range(0..hot),
                    false => self.rng.random_range(hot..self.blocks),
                };
                self.ranked[rank as usize]
            }
        }
    }

    fn rank(&mut self) -> usize {
        let total = self.cumulated.last().copied().unwrap_or(0.0);
        let at = self.rng.random::<f64>() * total;
        self.cumulated.partition_point(|sum| *sum < at).min(self.cumulated.len() - 1)
    }
}

fn shuffle(list: &mut [u32], rng: &mut ChaCha8Rng) {
    for at in (1..list.len()).rev() {
        list.swap(at, rng.random_range(0..=at));
    }
}

#[derive(Serialize)]
struct Results {
    rows: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    load: String,
    utilization: f64,
    policy: String,
    placement: String,
    seed: u64,
    wa: f64,
    /// Where a formula is known: uniform overwrites.
    analytic_wa: Option<f64>,
    /// With the future known; not simulated yet.
    oracle_wa: Option<f64>,
}

/// Runs every combination.
pub fn run(grid: &Grid, quick: bool, json: Option<&Path>) -> Result<()> {
    let blocks = if quick { grid.blocks.min(1 << 18) } else { grid.blocks };
    ensure!(grid.segment_blocks > 0 && blocks / grid.segment_blocks >= 24, "a space of at least 24 segments is needed");
    for utilization in &grid.utilizations {
        ensure!((0.05..=0.97).contains(utilization), "a utilization of {utilization}: between 0.05 and 0.97");
    }
    let mut cases = Vec::new();
    for load in &grid.loads {
        for utilization in &grid.utilizations {
            for policy in &grid.policies {
                for placement in &grid.placements {
                    for seed in &grid.seeds {
                        cases.push((load, *utilization, parse_policy(policy)?, parse_placement(placement)?, *seed));
                    }
                }
            }
        }
    }
    let rows = cases
        .into_par_iter()
        .map(|(load, utilization, policy, placement, seed)| {
            let config = SimConfig { segments: blocks / grid.segment_blocks, segment_blocks: grid.segment_blocks, utilization, spare: 3 };
            Ok(Outcome {
                load: load.to_string(),
                utilization,
                policy: policy.to_string(),
                placement: placement.to_string(),
                seed,
                wa: simulate(config, policy, placement, load, seed, grid.passes)?,
                analytic_wa: (*load == Load::Uniform).then(|| analytic_greedy(utilization)),
                oracle_wa: None,
            })
        })
        .collect::<Result<Vec<Outcome>>>()?;
    println!("{:<16} {:>6} {:<14} {:<12} {:>5} {:>7} {:>9}", "load", "u", "policy", "placement", "seed", "WA", "analytic");
    for row in &rows {
        let analytic = row.analytic_wa.map_or("-".into(), |wa| format!("{wa:.2}"));
        println!(
            "{:<16} {:>6} {:<14} {:<12} {:>5} {:>7.3} {:>9}",
            row.load, row.utilization, row.policy, row.placement, row.seed, row.wa, analytic
        );
    }
    write(json, &Results { rows })
}

fn simulate(config: SimConfig, policy: Policy, placement: PlacementKind, load: &Load, seed: u64, passes: u32) -> Result<f64> {
    let (policy, mut placement) = (policy.build(), placement.build());
    let mut sim = Simulator::new(config, policy.as_ref(), placement.as_mut());
    let mut source = Source::new(load, sim.blocks(), seed);
    for block in 0..sim.blocks() {
        sim.write(block)?;
    }
    let writes = u64::from(sim.blocks()) * u64::from(passes);
    for counted in [false, true] {
        if counted {
            sim.reset_counters();
        }
        for _ in 0..writes {
            sim.write(source.next())?;
        }
    }
    Ok(sim.write_amplification())
}

fn parse_policy(name: &str) -> Result<Policy> {
    match (name, name.parse()) {
        ("default", _) => Ok(Policy::default()),
        (_, Ok(policy)) => Ok(policy),
        (_, Err(error)) => bail!("{error}"),
    }
}

fn parse_placement(name: &str) -> Result<PlacementKind> {
    match (name, name.parse()) {
        ("default", _) => Ok(PlacementKind::default()),
        (_, Ok(placement)) => Ok(placement),
        (_, Err(error)) => bail!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_parsed_and_named() {
        for text in ["uniform", "zipf:0.8", "drift:1", "hotcold:90/10"] {
            assert_eq!(text.parse::<Load>().unwrap().to_string(), text);
        }
        for text in ["", "zipf:", "zipf:x", "hotcold:90", "hotcold:0/10", "uniform:1", "trace:x", "other"] {
            assert!(text.parse::<Load>().is_err(), "{text}");
        }
    }

    #[test]
    fn sources_draw_every_block_with_its_weight() {
        for (load, hottest) in [(Load::Uniform, 0.01), (Load::Zipf(1.0), 0.19), (Load::HotCold { traffic: 0.9, space: 0.1 }, 0.09)] {
            let mut source = Source::new(&load, 100, 1);
            let mut counts = [0u32; 100];
            for _ in 0..100_000 {
                counts[source.next() as usize] += 1;
            }
            let most = f64::from(*counts.iter().max().unwrap()) / 100_000.0;
            assert!(counts.iter().all(|count| *count > 0) && (most - hottest).abs() < 0.01, "{load}: {most}");
        }
    }

    #[test]
    fn greedy_is_near_the_formula() {
        let config = SimConfig { segments: 256, segment_blocks: 256, utilization: 0.8, spare: 3 };
        let wa = simulate(config, Policy::Greedy, PlacementKind::default(), &Load::Uniform, 1, 4).unwrap();
        assert!((wa / analytic_greedy(0.8) - 1.0).abs() < 0.05, "{wa}");
    }
}
