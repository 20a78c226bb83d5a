//! Sparse drives with as many zones as real ones have: what is done for each zone, and what is kept of it.

use super::bed::{Bed, Site, memory_row};
use super::plot::{Curve, Plot};
use crate::report::{Row, median};
use anyhow::Result;
use harness::bytes::{GIB, MIB};
use harness::content::Pattern;
use harness::interrupt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// A drive.
struct Drive {
    /// As rows call it; those without a name are points of the curves alone.
    name: Option<&'static str>,
    zones: u64,
    zone_bytes: u64,
    profile: &'static str,
    /// Seconds within which it is to be formatted.
    format_within: Option<f64>,
}

const ZONES: [u64; 4] = [100, 1000, 10_000, 100_000];

fn drives() -> Vec<Drive> {
    let zone_bytes = 256 * MIB;
    let mut drives: Vec<Drive> =
        ZONES.iter().map(|&zones| Drive { name: None, zones, zone_bytes, profile: "zns", format_within: None }).collect();
    if let Some(largest) = drives.last_mut() {
        (largest.name, largest.format_within) = (Some("25 TB, 100,000 zones of 256 MiB"), Some(2.0));
    }
    drives.push(Drive { name: Some("4 TB, 2048 zones of 2 GiB"), zones: 2048, zone_bytes: 2 * GIB, profile: "zns", format_within: None });
    drives.push(Drive { name: Some("25 TB, a plain disk"), zones: 100_000, zone_bytes, profile: "conventional", format_within: Some(2.0) });
    drives
}

/// What one round finds. Seconds and bytes.
#[derive(Default)]
struct Round {
    format: f64,
    formatted_bytes: u64,
    mount: f64,
    crash_mount: f64,
    resident: u64,
    allowed: u64,
    status: f64,
    fsync: f64,
    fsync_bytes: f64,
    checkpoint_bytes: u64,
    umount: f64,
    fsck: f64,
    taken: u64,
}

/// Measures.
pub fn run(bed: &mut Bed) -> Result<()> {
    let rounds = if bed.quick { 1 } else { 5 };
    let mut swept: Vec<(u64, Vec<Round>)> = Vec::new();
    for drive in drives() {
        eprintln!("a sparse drive of {} zones of {} MiB, {}", drive.zones, drive.zone_bytes / MIB, drive.profile);
        let measured: Result<Vec<Round>> = (0..rounds).map(|_| once(bed, &drive)).collect();
        interrupt::check()?;
        match (measured, drive.name) {
            (Ok(rounds), name) => {
                if let Some(name) = name {
                    rows(bed, name, &drive, &rounds);
                }
                if drive.profile == "zns" && drive.zone_bytes == 256 * MIB {
                    swept.push((drive.zones, rounds));
                }
            }
            // Not every backing holds a file of 25 TB.
            (Err(error), name) => {
                let what = name.map_or(format!("{} zones", drive.zones), String::from);
                bed.report.add(Row::missing(what, crate::cleaning::others::reason(&error)));
            }
        }
    }
    let curve = |name: &str, of: fn(&Round) -> f64| Curve {
        name: name.to_owned(),
        points: swept.iter().map(|(zones, rounds)| (*zones as f64, middle(rounds, of))).collect(),
    };
    let curves = vec![
        curve("mkfs", |round| round.format),
        curve("mount", |round| round.mount),
        curve("mount after kill -9", |round| round.crash_mount),
        curve("status", |round| round.status),
        curve("4 KiB write and fsync", |round| round.fsync),
        curve("umount", |round| round.umount),
        curve("fsck -n", |round| round.fsck),
    ];
    bed.plots.push(Plot { name: "devices", axis: "zones of 256 MiB", curves });
    Ok(())
}

fn middle(rounds: &[Round], of: fn(&Round) -> f64) -> f64 {
    median(&rounds.iter().map(of).collect::<Vec<f64>>())
}

/// One drive from mkfs to fsck.
fn once(bed: &Bed, drive: &Drive) -> Result<Round> {
    interrupt::check()?;
    let format = format!("--size {} --zone-size {} --profile {}", drive.zones * drive.zone_bytes, drive.zone_bytes, drive.profile);
    let mut site = bed.site(&format, GIB)?;
    let mut round = Round { format: site.formatted, formatted_bytes: site.taken()?, ..Round::default() };
    round.mount = site.mount()?;
    round.allowed = site.allowed()?;
    round.resident = site.resident()?;
    round.status = site.status_time()?;
    let writes = if bed.quick { 64 } else { 512 };
    (round.fsync, round.fsync_bytes) = fsyncs(&site, writes)?;
    site.volume.kill();
    round.crash_mount = site.mount()?;
    let status = site.volume.status()?;
    // Nothing was written but what recovery makes durable.
    round.checkpoint_bytes = status.number("log/checkpoint_bytes")? / status.number("log/checkpoints")?.max(1);
    round.resident = round.resident.max(site.resident()?);
    round.umount = site.umount()?;
    round.fsck = site.volume.fsck()?.ok()?.seconds;
    round.taken = site.taken()?;
    Ok(round)
}

/// The time of a write of 4 KiB with its fsync, and what the device is sent for it.
fn fsyncs(site: &Site, writes: u64) -> Result<(f64, f64)> {
    let before = site.volume.status()?;
    let file = File::create_new(site.volume.path("small"))?;
    let mut times = Vec::new();
    for n in 0..writes {
        let bytes = Pattern(n).bytes(0, 4096);
        let started = Instant::now();
        file.write_all_at(&bytes, n * 4096)?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64());
    }
    let written = site.volume.status()?.since(&before, "io/device_written")?;
    Ok((median(&times), written as f64 / writes as f64))
}

fn rows(bed: &mut Bed, name: &str, drive: &Drive, rounds: &[Round]) {
    let of = |what: &str, unit, figure: &dyn Fn(&Round) -> f64| {
        let figures: Vec<f64> = rounds.iter().map(figure).collect();
        Row::rounds(format!("{name}: {what}"), &figures, unit)
    };
    let within = |row: Row, most: f64| {
        let reached = row.value < most;
        row.goal(format!("below {most}"), reached)
    };
    let mkfs = of("mkfs", "s", &|round| round.format);
    bed.report.add(match drive.format_within {
        Some(most) => within(mkfs, most),
        None => mkfs,
    });
    bed.report.add(of("bytes of the image after it", "MiB", &|round| round.formatted_bytes as f64 / MIB as f64));
    bed.report.add(within(of("mount", "s", &|round| round.mount), 1.0));
    bed.report.add(within(of("mount after kill -9", "s", &|round| round.crash_mount), 1.0));
    bed.report.add(of("bytes of the checkpoint of that mount", "KiB", &|round| round.checkpoint_bytes as f64 / 1024.0));
    if let Some(most) = rounds.iter().max_by_key(|round| round.resident) {
        bed.report.add(memory_row(format!("{name}: resident memory, the highest seen"), most.resident, most.allowed));
    }
    bed.report.add(of("status", "s", &|round| round.status));
    bed.report.add(of("4 KiB write and fsync", "us", &|round| round.fsync * 1e6));
    bed.report.add(of("bytes to the device for that", "KiB", &|round| round.fsync_bytes / 1024.0));
    bed.report.add(of("umount", "s", &|round| round.umount));
    bed.report.add(of("fsck.ferryfs -n", "s", &|round| round.fsck));
    bed.report.add(of("bytes of the image in the end", "MiB", &|round| round.taken as f64 / MIB as f64));
}
