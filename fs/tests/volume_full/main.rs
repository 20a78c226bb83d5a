//! Volumes that are full or nearly so, under thousands of small operations (I8): what `statfs` called available can be taken, what exists can
//! be overwritten, what gives space back never fails, nothing works without end, and a crash takes nothing of what was available.
//!
//! One seed again: `FERRYFS_SEED=123 cargo test -p fs --test volume_full replay -- --nocapture`. Number of seeds: `FERRYFS_SEEDS`, from
//! `FERRYFS_FIRST_SEED` on; operations of a run: `FERRYFS_STEPS`.

mod drives;
mod run;

use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn one(seed: u64) -> Result<(), String> {
    let steps = number("FERRYFS_STEPS").unwrap_or(1000);
    match catch_unwind(AssertUnwindSafe(|| run::run(seed, steps))) {
        Ok(outcome) => outcome,
        Err(panic) => Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into())),
    }
}

#[test]
fn full_volumes_keep_their_promises() {
    let first = number("FERRYFS_FIRST_SEED").unwrap_or(1);
    let seeds = first..first + number("FERRYFS_SEEDS").unwrap_or(20);
    let failures: Vec<(u64, String)> = seeds.into_par_iter().filter_map(|seed| one(seed).err().map(|what| (seed, what))).collect();
    for (seed, what) in &failures {
        println!("seed {seed}: {what}");
    }
    assert!(failures.is_empty(), "{} of the seeds failed", failures.len());
}

#[test]
fn replay() {
    if let Some(seed) = number("FERRYFS_SEED") {
        one(seed).expect("the seed holds");
    }
}
