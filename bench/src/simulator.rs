//! `ferryfs-bench wa`: policies and placements over addresses alone, all combinations in parallel.
//!
//! Every row stands beside what is possible: greedy cleaning under a uniform load by formula, the optimum with known rates where rates are known and constant,
//! and an oracle that is told when each block will be written next. Figures are the simulator's: there is no filesystem and no metadata in them.

use crate::loads::{Load, Operation, Source};
use crate::picture;
use crate::report::write;
use crate::traces::{self, Trace};
use anyhow::{Context, Result, bail, ensure};
use gc::placement::PlacementKind;
use gc::policy::Policy;
use gc::sim::{Capacity, SimConfig, Simulator, analytic_greedy};
use gc::theory::{known_rates, partition};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Every option may repeat; the product of all is run.
#[derive(clap::Args)]
pub struct Grid {
    /// uniform, zipf:ALPHA, drift:ALPHA, hotcold:TRAFFIC/SPACE, mixed:RANDOM, trim:SHARE, trace:[FORMAT:]FILE (alibaba, tencent, msr, vscsi);
    /// a trace is run once on a volume that its blocks fill to the utilization, and all of it counts
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
    /// Seed of the load; with several, means and their 95 % confidence intervals are shown
    #[arg(long = "seed", default_value = "1")]
    seeds: Vec<u64>,
    /// fixed: every segment is charged, open ones too. garbage: cleaning by the share of garbage, as in the papers
    #[arg(long, value_enum, default_value_t = Mode::Fixed)]
    capacity: Mode,
    /// Writes the rows as CSV, too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draws the means as SVG, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Fixed,
    Garbage,
}

impl From<Mode> for Capacity {
    fn from(mode: Mode) -> Capacity {
        match mode {
            Mode::Fixed => Capacity::Fixed,
            Mode::Garbage => Capacity::Garbage,
        }
    }
}

#[derive(Serialize)]
struct Results {
    rows: Vec<Outcome>,
    means: Vec<Mean>,
}

#[derive(Serialize)]
struct Outcome {
    load: String,
    utilization: f64,
    policy: String,
    placement: String,
    seed: u64,
    capacity: Mode,
    segments: u32,
    segment_blocks: u32,
    wa: f64,
    /// Greedy cleaning of a uniform load, by formula; where the load is uniform.
    analytic_wa: Option<f64>,
    /// The optimum with known rates, without bound on the number of classes and with six; where rates are known.
    optimum_wa: Option<f64>,
    optimum_6_wa: Option<f64>,
    /// With the future known.
    oracle_wa: Option<f64>,
    /// How many of the writes lived for 2^i to 2^(i+1) blocks of users; the last number: until the end.
    lifetimes: Vec<u64>,
    classes: Vec<ClassRow>,
    /// Closed segments at the end by their live share, in tenths.
    live_shares: [u32; 10],
    /// Speed of the simulation: users' writes for each second of processor time, on one core.
    writes_per_second: f64,
}

#[derive(Serialize)]
struct ClassRow {
    /// Segments at the end, and those reclaimed and the blocks moved out of them in the part that counts.
    segments: u32,
    reclaimed: u64,
    moved: u64,
}

/// Rows that differ in their seed only.
#[derive(Serialize)]
struct Mean {
    load: String,
    utilization: f64,
    policy: String,
    placement: String,
    seeds: usize,
    wa: f64,
    /// Half of the 95 % confidence interval; none with one seed.
    confidence: Option<f64>,
    analytic_wa: Option<f64>,
    optimum_wa: Option<f64>,
    oracle_wa: Option<f64>,
}

/// What is written, where and how often: a load with its size.
struct Job<'a> {
    load: &'a Load,
    utilization: f64,
    seed: u64,
    config: SimConfig,
    passes: u32,
    trace: Option<Arc<Trace>>,
}

/// What a simulation found.
struct Found {
    wa: f64,
    classes: Vec<ClassRow>,
    live_shares: [u32; 10],
    /// Users' writes for each second of processor time, those that do not count included.
    speed: f64,
}

/// Operations that are drawn together, so that the processor can fetch for all of them at once.
const CHUNK: usize = 32;

/// Seconds for which this thread has had a processor.
fn processor_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

impl Job<'_> {
    fn operations(&self) -> Box<dyn Iterator<Item = Operation> + '_> {
        let blocks = self.config.blocks();
        match &self.trace {
            Some(trace) => Box::new(trace.operations.iter().copied()),
            None => {
                let mut source = Source::new(self.load, blocks, self.seed);
                let drawn = (0..self.warming() + self.counted()).map(move |_| source.next());
                Box::new((0..blocks).map(Operation::Write).chain(drawn))
            }
        }
    }

    fn counted(&self) -> u64 {
        u64::from(self.config.blocks()) * u64::from(self.passes)
    }

    fn warming(&self) -> u64 {
        if self.trace.is_some() { 0 } else { self.counted() }
    }

    /// Operations before those that count.
    fn before(&self) -> u64 {
        if self.trace.is_some() { 0 } else { u64::from(self.config.blocks()) + self.warming() }
    }

    fn run(&self, policy: Policy, placement: PlacementKind, future: &[u32]) -> Result<Found> {
        let (policy, mut placement) = (policy.build(), placement.build(&self.config.shape()));
        let mut sim = Simulator::new(self.config, policy.as_ref(), placement.as_mut());
        let before = self.before();
        let mut operations = self.operations();
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut at = 0;
        let spent = processor_time();
        loop {
            chunk.clear();
            chunk.extend(operations.by_ref().take(CHUNK));
            if chunk.is_empty() {
                break;
            }
            sim.fetch(chunk.iter().map(|operation| match operation {
                Operation::Write(block) | Operation::Trim(block) => *block,
            }));
            for operation in &chunk {
                if at == before {
                    sim.reset_counters();
                }
                at += 1;
                match *operation {
                    Operation::Write(block) if sim.needs_future() => {
                        let next = future.get(sim.now() as usize).copied().unwrap_or(u32::MAX);
                        sim.write_until(block, if next == u32::MAX { u64::MAX } else { u64::from(next) })?;
                    }
                    Operation::Write(block) => sim.write(block)?,
                    Operation::Trim(block) => sim.trim(block),
                }
            }
        }
        let speed = sim.now() as f64 / (processor_time() - spent).max(1e-9);
        let row = |(segments, reclaimed, moved)| ClassRow { segments, reclaimed, moved };
        let (wa, classes, live_shares) = (sim.write_amplification(), sim.occupancy().into_iter().map(row).collect(), sim.live_shares());
        Ok(Found { wa, classes, live_shares, speed })
    }

    /// For each write, the number of the write that ends the block's life: the next of the same block, or the one after its deletion.
    fn future(&self) -> Vec<u32> {
        let mut future = Vec::new();
        let mut last = vec![u32::MAX; self.config.blocks() as usize];
        for operation in self.operations() {
            let now = future.len() as u32;
            match operation {
                Operation::Write(block) => {
                    let before = std::mem::replace(&mut last[block as usize], now);
                    if before != u32::MAX {
                        future[before as usize] = now;
                    }
                    future.push(u32::MAX);
                }
                Operation::Trim(block) => {
                    let before = std::mem::replace(&mut last[block as usize], u32::MAX);
                    if before != u32::MAX {
                        future[before as usize] = now;
                    }
                }
            }
        }
        future
    }
}

fn lifetimes(future: &[u32]) -> Vec<u64> {
    let mut counts = vec![0; 33];
    for (at, end) in (0u32..).zip(future) {
        let bucket = if *end == u32::MAX { 32 } else { (end - at).max(1).ilog2() };
        counts[bucket as usize] += 1;
    }
    counts
}

/// Runs every combination.
pub fn run(grid: &Grid, quick: bool, json: Option<&Path>) -> Result<()> {
    let jobs = jobs(grid, if quick { grid.blocks.min(1 << 18) } else { grid.blocks })?;
    let mut variants = Vec::new();
    for policy in &grid.policies {
        for placement in &grid.placements {
            let kind: PlacementKind = placement.parse()?;
            let kind = if placement == "default" { kind.simulated() } else { kind };
            variants.push((policy.parse::<Policy>()?, kind));
        }
    }
    let rows = jobs.par_iter().map(|job| outcomes(job, &variants, grid.capacity)).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Outcome> = rows.into_iter().flatten().collect();
    let means = means(&rows);
    print(&means);
    if let Some(path) = &grid.csv {
        std::fs::write(path, csv(&rows)).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &grid.svg {
        std::fs::write(path, draw(&means)).with_context(|| format!("writing {}", path.display()))?;
    }
    write(json, &Results { rows, means })
}

fn jobs(grid: &Grid, blocks: u32) -> Result<Vec<Job<'_>>> {
    ensure!(grid.segment_blocks > 0 && blocks / grid.segment_blocks >= 24, "a space of at least 24 segments is needed");
    let mut jobs = Vec::new();
    for load in &grid.loads {
        let trace = match load {
            Load::Trace { format, path } => Some(Arc::new(traces::read(path, *format)?)),
            _ => None,
        };
        for utilization in &grid.utilizations {
            ensure!((0.05..=0.97).contains(utilization), "a utilization of {utilization}: between 0.05 and 0.97");
            let segments = match &trace {
                Some(trace) => (f64::from(trace.blocks) / utilization / f64::from(grid.segment_blocks)).ceil() as u32 + 1,
                None => blocks / grid.segment_blocks,
            };
            if segments < 24 {
                bail!("{load} fills {segments} segments of {} blocks only: choose smaller ones (--segment-blocks)", grid.segment_blocks);
            }
            let config =
                SimConfig { segments, segment_blocks: grid.segment_blocks, utilization: *utilization, capacity: grid.capacity.into() };
            for seed in &grid.seeds {
                let trace = trace.clone();
                jobs.push(Job { load, utilization: *utilization, seed: *seed, config, passes: grid.passes, trace });
            }
        }
    }
    Ok(jobs)
}

/// Every variant under one load with one seed.
fn outcomes(job: &Job<'_>, variants: &[(Policy, PlacementKind)], capacity: Mode) -> Result<Vec<Outcome>> {
    let future = job.future();
    let lifetimes = lifetimes(&future);
    let oracle = job.run(Policy::CostBenefit, PlacementKind::Oracle, &future)?.wa;
    let rates = job.load.rates(job.config.blocks());
    let optimum = rates.as_ref().map(|rates| known_rates(rates, job.utilization));
    let six = rates.as_ref().map(|rates| {
        let bounds = partition(rates, 6).pop().unwrap_or_default().0;
        let mut classes: Vec<gc::theory::RateClass> = Vec::new();
        for (at, rate) in rates.iter().enumerate() {
            match classes.last_mut() {
                Some(class) if !bounds.contains(&at) => {
                    class.size += rate.size;
                    class.traffic += rate.traffic;
                }
                _ => classes.push(*rate),
            }
        }
        known_rates(&classes, job.utilization)
    });
    let one = |(policy, placement): &(Policy, PlacementKind)| -> Result<Outcome> {
        let found = job.run(*policy, *placement, &future)?;
        Ok(Outcome {
            load: job.load.to_string(),
            utilization: job.utilization,
            policy: policy.to_string(),
            placement: placement.to_string(),
            seed: job.seed,
            capacity,
            segments: job.config.segments,
            segment_blocks: job.config.segment_blocks,
            wa: found.wa,
            analytic_wa: matches!(job.load, Load::Uniform).then(|| analytic_greedy(job.utilization)),
            optimum_wa: optimum,
            optimum_6_wa: six,
            oracle_wa: Some(oracle),
            lifetimes: lifetimes.clone(),
            classes: found.classes,
            live_shares: found.live_shares,
            writes_per_second: found.speed,
        })
    };
    variants.par_iter().map(one).collect()
}

/// Half of the 95 % confidence interval of a mean (Student's t).
fn confidence(values: &[f64]) -> Option<f64> {
    const T: [f64; 15] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13];
    let n = values.len();
    let t = T.get(n.checked_sub(2)?).copied().unwrap_or(2.1);
    let mean = values.iter().sum::<f64>() / n as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    Some(t * (variance / n as f64).sqrt())
}

fn means(rows: &[Outcome]) -> Vec<Mean> {
    let mut groups: Vec<Vec<&Outcome>> = Vec::new();
    for row in rows {
        let same = |other: &Outcome| {
            (&row.load, &row.policy, &row.placement) == (&other.load, &other.policy, &other.placement)
                && row.utilization == other.utilization
        };
        match groups.iter_mut().find(|group| same(group[0])) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    let mean = |group: &[&Outcome], of: fn(&Outcome) -> Option<f64>| {
        let values: Vec<f64> = group.iter().filter_map(|row| of(row)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let one = |group: Vec<&Outcome>| Mean {
        load: group[0].load.clone(),
        utilization: group[0].utilization,
        policy: group[0].policy.clone(),
        placement: group[0].placement.clone(),
        seeds: group.len(),
        wa: mean(&group, |row| Some(row.wa)).unwrap_or(f64::NAN),
        confidence: confidence(&group.iter().map(|row| row.wa).collect::<Vec<f64>>()),
        analytic_wa: group[0].analytic_wa,
        optimum_wa: group[0].optimum_wa,
        oracle_wa: mean(&group, |row| row.oracle_wa),
    };
    groups.into_iter().map(one).collect()
}

fn print(means: &[Mean]) {
    let width = means.iter().map(|row| row.load.len()).max().unwrap_or(0).max(14);
    println!(
        "{:<width$} {:>5} {:<17} {:<13} {:>5} {:>7} {:>7} {:>8} {:>8} {:>7}",
        "load", "u", "policy", "placement", "seeds", "WA", "+-", "analytic", "optimum", "oracle"
    );
    let show = |value: Option<f64>, digits: usize| value.map_or("-".into(), |wa| format!("{wa:.digits$}"));
    for row in means {
        println!(
            "{:<width$} {:>5} {:<17} {:<13} {:>5} {:>7.3} {:>7} {:>8} {:>8} {:>7}",
            row.load,
            row.utilization,
            row.policy,
            row.placement,
            row.seeds,
            row.wa,
            show(row.confidence, 3),
            show(row.analytic_wa, 2),
            show(row.optimum_wa, 2),
            show(row.oracle_wa, 2)
        );
    }
}

fn csv(rows: &[Outcome]) -> String {
    let mut text =
        "load,utilization,policy,placement,seed,capacity,segments,segment_blocks,wa,analytic_wa,optimum_wa,optimum_6_wa,oracle_wa\n"
            .to_owned();
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    for row in rows {
        let mode = if row.capacity == Mode::Fixed { "fixed" } else { "garbage" };
        // A trace's name may hold anything.
        let load = format!("\"{}\"", row.load.replace('"', "\"\""));
        let _ = writeln!(
            text,
            "{load},{},{},{},{},{mode},{},{},{:.4},{},{},{},{}",
            row.utilization,
            row.policy,
            row.placement,
            row.seed,
            row.segments,
            row.segment_blocks,
            row.wa,
            number(row.analytic_wa),
            number(row.optimum_wa),
            number(row.optimum_6_wa),
            number(row.oracle_wa)
        );
    }
    text
}

fn draw(means: &[Mean]) -> String {
    let mut groups: Vec<picture::Group> = Vec::new();
    for row in means {
        let name = format!("{} at {}", row.load, row.utilization);
        if groups.last().is_none_or(|group| group.name != name) {
            let mark = |label: &str, value: Option<f64>| value.map(|value| (label.to_owned(), value));
            let marks = [mark("optimum with known rates", row.optimum_wa), mark("oracle", row.oracle_wa)];
            groups.push(picture::Group { name, bars: Vec::new(), marks: marks.into_iter().flatten().collect() });
        }
        if let Some(group) = groups.last_mut() {
            group.bars.push((format!("{}, {}", row.placement, row.policy), row.wa, row.confidence.unwrap_or(0.0)));
        }
    }
    picture::bars("write amplification (simulated over addresses)", &groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(loads: &[&str], seeds: &[u64]) -> Grid {
        Grid {
            loads: loads.iter().map(|load| load.parse().unwrap()).collect(),
            utilizations: vec![0.8],
            policies: vec!["greedy".into()],
            placements: vec!["none".into()],
            blocks: 256 * 256,
            segment_blocks: 256,
            passes: 4,
            seeds: seeds.to_vec(),
            capacity: Mode::Fixed,
            csv: None,
            svg: None,
        }
    }

    #[test]
    fn every_load_is_between_its_oracle_and_twice_the_formula() {
        let grid = grid(&["uniform", "zipf:0.9", "drift:1", "hotcold:90/10", "mixed:30", "trim:10"], &[1, 2]);
        let variants = [(Policy::Greedy, PlacementKind::None)];
        let rows: Vec<Outcome> =
            jobs(&grid, grid.blocks).unwrap().iter().flat_map(|job| outcomes(job, &variants, Mode::Fixed).unwrap()).collect();
        for row in &rows {
            let (oracle, formula) = (row.oracle_wa.unwrap(), analytic_greedy(0.8));
            assert!(oracle < row.wa && row.wa < 2.0 * formula, "{}: {oracle} {}", row.load, row.wa);
            assert!(row.optimum_wa.is_none_or(|optimum| optimum < 1.03 * row.wa), "{}", row.load);
            assert!(row.lifetimes.iter().sum::<u64>() > 0 && row.writes_per_second > 0.0);
        }
        assert!((rows[0].wa / analytic_greedy(0.8) - 1.0).abs() < 0.05, "{}", rows[0].wa);
        let means = means(&rows);
        assert_eq!(means.len(), 6);
        assert!(means.iter().all(|mean| mean.seeds == 2 && mean.confidence.is_some()));
        assert_eq!(csv(&rows).lines().count(), 13);
        let svg = draw(&means);
        assert!(svg.starts_with("<svg") && svg.contains("hotcold:90/10 at 0.8") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_trace_is_run_once_and_counts_whole() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let line = |n: u64| format!("1,W,{},4096,{n}\n", n * 7919 % 1000 * 4096);
        std::fs::write(path.path(), (0..4000).map(line).collect::<String>()).unwrap();
        let mut grid = grid(&[&format!("trace:alibaba:{}", path.path().display())], &[1]);
        grid.segment_blocks = 16;
        let job = &jobs(&grid, grid.blocks).unwrap()[0];
        assert_eq!(job.config.segments, 80);
        let row = &outcomes(job, &[(Policy::Greedy, PlacementKind::None)], Mode::Fixed).unwrap()[0];
        // Every block is written again after exactly a thousand writes, so nothing is ever moved.
        assert_eq!((row.wa, row.lifetimes[9], row.lifetimes[32]), (1.0, 3000, 1000));
        grid.segment_blocks = 1024;
        assert!(jobs(&grid, grid.blocks).err().unwrap().to_string().contains("choose smaller ones"));
    }

    #[test]
    fn confidence_is_students() {
        assert_eq!(confidence(&[1.0]), None);
        assert!((confidence(&[1.0, 2.0, 3.0]).unwrap() - 4.30 / 3f64.sqrt()).abs() < 1e-9);
    }
}
