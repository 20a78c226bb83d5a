//! What an fsync of a 4 KiB overwrite costs: blocks written and flushes, by the counters.

use crate::report::{Report, Row};
use crate::rig::{Rig, sync};
use anyhow::Result;
use harness::Pattern;
use harness::bytes::{GIB, MIB};
use harness::content::Dice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Measures.
pub fn run(report: &mut Report) -> Result<()> {
    let rig = Rig::new(GIB)?;
    // Neither the cleaner nor a checkpoint by time disturbs the count.
    let volume = rig.ferryfs("--size 512M", &["gc=manual", "commit=3600"])?;
    let size = 32 * MIB;
    let file = File::create_new(volume.path("f"))?;
    file.write_all_at(&Pattern(1).bytes(0, size as usize), 0)?;
    file.sync_all()?;
    sync(volume.root())?;
    let mut dice = Dice::new(1);
    let count = 500;
    let before = volume.status()?;
    let started = Instant::now();
    for n in 0..count {
        let at = dice.below(size / 4096) * 4096;
        file.write_all_at(&Pattern(n).bytes(0, 4096), at)?;
        file.sync_data()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = volume.status()?;
    let blocks = after.since(&before, "io/device_written")? as f64 / 4096.0 / count as f64;
    let flushes = after.since(&before, "io/flushes")? as f64 / count as f64;
    let checkpoints = after.since(&before, "log/checkpoints")?;
    report.add(Row::new("fsync of a 4 KiB overwrite: blocks written", blocks, "blocks").goal("at most 2", blocks <= 2.05));
    report.add(Row::new("fsync of a 4 KiB overwrite: flushes", flushes, "flushes").goal("at most 1", flushes <= 1.01));
    report.add(Row::new("fsync of a 4 KiB overwrite: time", seconds / count as f64 * 1e6, "us"));
    report.add(Row::new("  checkpoints meanwhile", checkpoints as f64, ""));
    Ok(())
}
