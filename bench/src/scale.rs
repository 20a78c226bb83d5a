//! A million files: what mounting, memory and a lookup cost then.

use crate::report::{Report, Row};
use crate::rig::{Rig, sync};
use anyhow::{Context, Result};
use harness::bytes::{GIB, MIB};
use harness::content::Dice;
use harness::cpu;
use std::fs::File;
use std::time::Instant;

const CACHE: u64 = 64 * MIB;

/// Measures.
pub fn run(quick: bool, report: &mut Report) -> Result<()> {
    let count: u64 = if quick { 100_000 } else { 1_000_000 };
    let rig = Rig::new(5 * GIB)?;
    let options = [format!("cache_size={CACHE}")];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut volume = rig.ferryfs("--size 4G", &options)?;
    let directory = volume.path("many");
    std::fs::create_dir(&directory)?;
    let started = Instant::now();
    for n in 0..count {
        File::create_new(directory.join(format!("a file of the million, number {n}")))?;
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    report.add(Row::new(format!("creates per second, {count} in one directory"), rate, "1/s"));
    sync(volume.root())?;
    let pid = |volume: &harness::Volume| volume.pid().context("it is mounted");
    let zones: u64 = volume.status()?.devices().filter_map(|device| device["zones"].as_u64()).sum();
    let allowed = CACHE + 64 * MIB + 64 * zones;
    let resident = cpu::resident(pid(&volume)?)?;
    let row = Row::new("resident memory after creating", resident as f64 / MIB as f64, "MiB");
    report.add(row.goal(format!("below {}", allowed / MIB), resident < allowed));

    let mounted = volume.remount()?.as_secs_f64();
    report.add(Row::new(format!("clean mount with {count} files"), mounted, "s").goal("below 0.5", mounted < 0.5));
    let status = volume.status()?;
    let resident = cpu::resident(pid(&volume)?)?;
    let row = Row::new("resident memory after mounting", resident as f64 / MIB as f64, "MiB");
    report.add(row.goal(format!("below {}", allowed / MIB), resident < allowed));

    let lookups = 2000;
    let mut dice = Dice::new(3);
    let started = Instant::now();
    for _ in 0..lookups {
        let n = dice.below(count);
        std::fs::symlink_metadata(directory.join(format!("a file of the million, number {n}")))?;
    }
    let each = started.elapsed().as_secs_f64() / f64::from(lookups) * 1e6;
    let reads = volume.status()?.since(&status, "cache/node_reads")? as f64 / f64::from(lookups);
    let row = Row::new(format!("node reads of a lookup among {count} entries, cold"), reads, "reads");
    report.add(row.goal("a few", reads <= 4.0));
    report.add(Row::new("  time of such a lookup", each, "us"));
    let resident = cpu::resident(pid(&volume)?)?;
    report.add(Row::new("  resident afterwards", resident as f64 / MIB as f64, "MiB"));

    let started = Instant::now();
    let listed = std::fs::read_dir(&directory)?.count();
    anyhow::ensure!(listed as u64 == count, "{listed} of {count} entries are listed");
    report.add(Row::new("listing all of them", started.elapsed().as_secs_f64(), "s"));

    volume.kill();
    let crashed = volume.mount()?.as_secs_f64();
    report.add(Row::new("mount after kill -9", crashed, "s"));
    volume.umount()?;
    let fsck = volume.fsck()?.ok()?;
    report.add(Row::new("fsck.ferryfs -n", fsck.seconds, "s"));
    Ok(())
}
