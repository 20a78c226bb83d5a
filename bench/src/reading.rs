//! How long a read takes while the cleaner copies: reads of 4 KiB at random, one after another, with nothing else going on and beside cleaning.

use crate::pauses::at;
use crate::relocation::half_of_many_files;
use crate::report::{Report, Row};
use crate::rig::Rig;
use anyhow::{Context, Result, ensure};
use harness::bytes::{GIB, MIB};
use harness::content::Dice;
use harness::{Pattern, Volume};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the file that is read.
const READ_BYTES: u64 = 64 * MIB;

/// Measures both.
pub fn run(quick: bool, report: &mut Report) -> Result<()> {
    let size = if quick { 512 * MIB } else { GIB };
    let rig = Rig::new(4 * GIB)?;
    let volume = rig.ferryfs("--size 3G --zone-size 16M", &["gc=manual"])?;
    fill(&volume, size)?;
    let file = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(volume.path("read"))?;
    let over = AtomicBool::new(false);
    // As long as nothing else goes on, for a few seconds.
    let alone = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let reader = scope.spawn(|| read(&file, &over));
        std::thread::sleep(Duration::from_secs(3));
        over.store(true, Ordering::Relaxed);
        reader.join().ok().context("the reader panicked")?
    })?;
    over.store(false, Ordering::Relaxed);
    let before = volume.status()?;
    let begun = Instant::now();
    let beside = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let reader = scope.spawn(|| read(&file, &over));
        let cleaned = volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()]);
        over.store(true, Ordering::Relaxed);
        let times = reader.join().ok().context("the reader panicked")?;
        cleaned?.ok()?;
        times
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = volume.status()?;
    let relocated = after.since(&before, "gc/relocated")?;
    ensure!(relocated > 0, "the cleaner found nothing to move");
    let simulated = after.simulated();
    for (what, mut times) in [("alone", alone), ("beside cleaning", beside)] {
        times.sort_unstable();
        let taken = times.iter().sum::<Duration>().as_secs_f64();
        report.add(Row::new(format!("4 KiB reads {what}"), times.len() as f64 / taken, "reads/s").simulated(simulated));
        for (part, permille) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
            report.add(Row::new(format!("  one read, {part}"), at(&times, permille), "us").simulated(simulated));
        }
    }
    report.add(Row::new("  cleaning meanwhile", relocated as f64 / seconds / MIB as f64, "MiB/s").simulated(simulated));
    let commands = after.since(&before, "gc/commands")?.max(1);
    report.add(Row::new("  bytes per copy command", relocated as f64 / commands as f64 / 1024.0, "KiB").simulated(simulated));
    Ok(())
}

/// Files of 1 MiB, of which half are removed, and one to be read.
fn fill(volume: &Volume, size: u64) -> Result<()> {
    let mut file = File::create_new(volume.path("read"))?;
    for at in (0..READ_BYTES).step_by(MIB as usize) {
        std::io::Write::write_all(&mut file, &Pattern(7).bytes(at, MIB as usize))?;
    }
    file.sync_all()?;
    half_of_many_files(volume, size)
}

/// Reads until it is over; how long each read took.
fn read(file: &File, over: &AtomicBool) -> Result<Vec<Duration>> {
    let memory = vec![0u8; 2 * 4096];
    let from = memory.as_ptr().align_offset(4096);
    let mut memory = memory;
    let buffer = &mut memory[from..from + 4096];
    let (mut dice, mut times) = (Dice::new(3), Vec::new());
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        file.read_exact_at(buffer, dice.below(READ_BYTES / 4096) * 4096)?;
        times.push(begun.elapsed());
    }
    Ok(times)
}
