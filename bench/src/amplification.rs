//! Write amplification of the real filesystem under uniform random overwrites, beside what theory says.

use crate::report::{Report, Row};
use crate::rig::Rig;
use anyhow::{Result, ensure};
use harness::Pattern;
use harness::bytes::{GIB, MIB};
use harness::content::Dice;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Fills to `utilization` of the space and overwrites blocks at random: some passes to settle, then those that count.
pub fn run(quick: bool, utilization: f64, policy: &str, report: &mut Report) -> Result<()> {
    ensure!((0.1..0.98).contains(&utilization), "a utilization of {utilization}: between 0.1 and 0.98");
    let (format, settle, measure) = if quick { ("--size 512M --zone-size 1M", 3, 1) } else { ("--size 1G --zone-size 1M", 5, 3) };
    let rig = Rig::new(2 * GIB)?;
    let volume = rig.ferryfs(format, &[&format!("policy={policy}")])?;
    let total = volume.status()?.number("space/total")?;
    let mut blocks = (total as f64 * utilization) as u64 / 4096;
    let path = volume.path("f");
    let file = File::create_new(&path)?;
    let end = blocks * 4096;
    for at in (0..end).step_by(MIB as usize) {
        file.write_all_at(&Pattern(1).bytes(at, MIB.min(end - at) as usize), at)?;
    }
    file.sync_all()?;
    drop(file);
    // Direct, so that no cache merges two overwrites of one block into one.
    let file = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&path)?;
    let bar = ProgressBar::new(blocks * (2 + settle + measure));
    bar.set_style(ProgressStyle::with_template("  overwriting {wide_bar} {pos}/{len} {eta}")?);
    let mut memory = vec![0u8; 2 * 4096];
    let from = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[from..from + 4096];
    let mut dice = Dice::new(85);
    let mut overwrite = |blocks: u64, passes: u64| -> Result<()> {
        for n in 0..blocks * passes {
            buffer[..8].copy_from_slice(&n.to_le_bytes());
            file.write_all_at(buffer, dice.below(blocks) * 4096)?;
            if n % 1024 == 0 {
                bar.inc(1024);
            }
        }
        Ok(())
    };
    // The map of a file in fragments takes space, too: once it is in fragments, the file is cut so that all that is used is the share asked for.
    overwrite(blocks, 2)?;
    let used = volume.status()?.number("space/used")?;
    blocks -= (used.saturating_sub((total as f64 * utilization) as u64) / 4096).min(blocks / 2);
    file.set_len(blocks * 4096)?;
    file.sync_all()?;
    overwrite(blocks, settle)?;
    let before = volume.status()?;
    overwrite(blocks, measure)?;
    let after = volume.status()?;
    bar.finish_and_clear();
    let user = after.since(&before, "io/user_written")? as f64;
    let relocated = after.since(&before, "gc/relocated")? as f64;
    let used = before.number("space/used")? as f64 / total as f64;
    let found = 1.0 + relocated / user;
    let analytic = gc::sim::analytic_greedy(utilization);
    let simulated = after.simulated();
    let what = format!("write amplification, uniform 4 KiB at {:.0} %, {policy}", utilization * 100.0);
    let row = Row::new(what, found, "").simulated(simulated);
    report.add(row.beside("analytic greedy", analytic).goal("within 10 %", (found / analytic - 1.0).abs() <= 0.1));
    report.add(Row::new("  space used of the total meanwhile", used * 100.0, "%"));
    let host = after.since(&before, "gc/host_read")? + after.since(&before, "gc/host_written")?;
    report.add(Row::new("  payload bytes of relocation through the host", host as f64, "bytes").simulated(simulated));
    let metadata = after.since(&before, "gc/meta_written")? as f64;
    report.add(Row::new("  metadata of cleaning per user byte", metadata / user * 100.0, "%"));
    let sent = after.since(&before, "io/device_written")? as f64;
    report.add(Row::new("  sent to the device by the host per user byte", sent / user, ""));
    Ok(())
}
