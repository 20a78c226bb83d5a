//! Thousands of seeded simulations of power cuts and faults.
//!
//! One seed again: `FERRYFS_SEED=123 cargo test -p tests --test crash_sim replay -- --nocapture`. Number of seeds of the large tests:
//! `FERRYFS_SEEDS`, from `FERRYFS_FIRST_SEED` on.

use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::sim::crash::Log;
use tests::sim::{Coverage, Failure, crash_run, fault_run, guarded, long_run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

type Simulation = fn(u64, Log) -> Result<Coverage, String>;

/// Runs seeds, and prints what they came across; fails with the first failures in full.
fn run(seeds: std::ops::Range<u64>, simulation: Simulation) {
    let running = Mutex::new(BTreeMap::new());
    let done = AtomicBool::new(false);
    let one = |seed| {
        running.lock().unwrap().insert(seed, Instant::now());
        let outcome = guarded(seed, simulation);
        running.lock().unwrap().remove(&seed);
        outcome
    };
    let outcomes: Vec<Result<Coverage, Failure>> = std::thread::scope(|scope| {
        let watch = scope.spawn(|| name_the_slow(&running, &done));
        let outcomes = seeds.into_par_iter().map(one).collect();
        done.store(true, Ordering::SeqCst);
        watch.thread().unpark();
        outcomes
    });
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    let coverage = good.into_iter().flatten().fold(Coverage::default(), Coverage::merged);
    println!("{coverage}");
    let failures: Vec<Failure> = bad.into_iter().filter_map(Result::err).collect();
    for failure in &failures {
        println!("seed {}: {}", failure.seed, failure.what);
    }
    if let Some(shortest) = failures.iter().min_by_key(|failure| failure.log.len()) {
        panic!("{} failures, the shortest:\n{shortest}", failures.len());
    }
}

/// A run that does not end says nothing by itself: its seed is printed.
fn name_the_slow(running: &Mutex<BTreeMap<u64, Instant>>, done: &AtomicBool) {
    while !done.load(Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_secs(20));
        for (seed, since) in running.lock().unwrap().iter().filter(|(_, since)| since.elapsed() > Duration::from_secs(20)) {
            println!("seed {seed} has been running for {} s", since.elapsed().as_secs());
        }
    }
}

#[test]
fn power_cuts_quick() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1);
    run(first..first + number("FERRYFS_SEEDS").unwrap_or(300).min(300), crash_run);
}

#[test]
#[ignore = "takes minutes: run by the full suite"]
fn power_cuts() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1000);
    run(first..first + number("FERRYFS_SEEDS").unwrap_or(10_000), crash_run);
}

#[test]
fn faults_quick() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1);
    run(first..first + number("FERRYFS_SEEDS").unwrap_or(300).min(300), fault_run);
}

#[test]
#[ignore = "takes minutes: run by the full suite"]
fn faults() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1000);
    run(first..first + number("FERRYFS_SEEDS").unwrap_or(10_000), fault_run);
}

fn again(simulation: Simulation) {
    let Some(seed) = number("FERRYFS_SEED") else { return };
    match guarded(seed, simulation) {
        Ok(coverage) => println!("{coverage}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn replay() {
    again(crash_run);
}

#[test]
fn long_runs_without_power_cuts() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1);
    run(first..first + number("FERRYFS_SEEDS").unwrap_or(60), long_run);
}

#[test]
fn replay_long() {
    again(long_run);
}

#[test]
fn replay_faults() {
    again(fault_run);
}
