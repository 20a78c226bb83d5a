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
use tests::sim::faults::{STRUCK, themes};
use tests::sim::{Coverage, Failure, crash_run, fault_run, guarded, long_run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

type Simulation = fn(u64, Log) -> Result<Coverage, String>;

/// Runs seeds, and prints and gives what they came across; fails with the first failures in full.
fn run(seeds: std::ops::Range<u64>, simulation: Simulation) -> Coverage {
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
    coverage
}

/// What the runs were for has happened in them. Not asked of a few seeds.
fn assert_covered(coverage: &Coverage, wanted: &[(&'static str, &str)]) {
    if coverage.runs < 300 {
        return;
    }
    let missing: Vec<_> = wanted.iter().filter(|(table, kind)| coverage.count(table, kind) == 0).collect();
    assert!(missing.is_empty(), "{} runs never came across {missing:?}", coverage.runs);
}

/// Power was cut in every kind of operation of a drive, done in part or not at all, and a log was there to be replayed.
fn assert_power_was_cut(coverage: &Coverage) {
    let wanted = [
        ("cuts at", "rest"),
        ("checks", "with a log to replay"),
        ("checks", "with zones that the log gave back"),
        ("checks", "without"),
        ("drives did", "copies"),
        ("drives did", "resets"),
    ];
    assert_covered(coverage, &wanted);
    let cut = |what: &str| coverage.kinds("cuts at").any(|kind| kind.to_lowercase().contains(what));
    let missing: Vec<_> = ["write", "copy", "flush", "reset"].into_iter().filter(|what| coverage.runs >= 300 && !cut(what)).collect();
    assert!(missing.is_empty(), "power was never cut in {missing:?}: {coverage}");
}

/// Every theme was drawn, and its faults struck.
fn assert_faults_struck(coverage: &Coverage) {
    let themes: Vec<String> = themes().collect();
    let wanted: Vec<_> = themes.iter().map(|theme| (STRUCK, theme.as_str())).collect();
    assert_covered(coverage, &wanted);
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
    assert_power_was_cut(&run(first..first + number("FERRYFS_SEEDS").unwrap_or(300).min(300), crash_run));
}

#[test]
#[ignore = "takes minutes: run by the full suite"]
fn power_cuts() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1000);
    assert_power_was_cut(&run(first..first + number("FERRYFS_SEEDS").unwrap_or(10_000), crash_run));
}

#[test]
fn faults_quick() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1);
    assert_faults_struck(&run(first..first + number("FERRYFS_SEEDS").unwrap_or(300).min(300), fault_run));
}

#[test]
#[ignore = "takes minutes: run by the full suite"]
fn faults() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1000);
    assert_faults_struck(&run(first..first + number("FERRYFS_SEEDS").unwrap_or(10_000), fault_run));
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
