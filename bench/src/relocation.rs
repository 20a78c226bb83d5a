//! What relocation costs the host: payload bytes, and metadata written per relocated byte.

use crate::report::{Report, Row};
use crate::rig::{Rig, sync};
use anyhow::{Result, ensure};
use harness::bytes::{GIB, KIB, MIB};
use harness::content::Dice;
use harness::{Pattern, Volume};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Measures both kinds of extents.
pub fn run(quick: bool, report: &mut Report) -> Result<()> {
    let size = if quick { 256 * MIB } else { GIB };
    let rig = Rig::new(3 * GIB)?;
    let volume = rig.ferryfs("--size 2G", &["gc=manual"])?;
    half_of_many_files(&volume, size)?;
    measure(&volume, "1 MiB extents", Some(0.02), report)?;
    drop(volume);
    drop(rig);

    let rig = Rig::new(3 * GIB)?;
    let volume = rig.ferryfs("--size 2G", &["gc=manual"])?;
    let blocks = size / 2 / (4 * KIB);
    let file = File::create_new(volume.path("f"))?;
    for at in (0..size / 2).step_by(MIB as usize) {
        file.write_all_at(&Pattern(1).bytes(at, MIB as usize), at)?;
    }
    file.sync_all()?;
    // A random half is overwritten block by block: what stays are fragments of 4 KiB among dead blocks.
    let mut dice = Dice::new(2);
    for n in 0..blocks / 2 {
        file.write_all_at(&Pattern(n).bytes(0, 4096), dice.below(blocks) * 4096)?;
        if n % 4096 == 0 {
            file.sync_data()?;
        }
    }
    file.sync_all()?;
    sync(volume.root())?;
    measure(&volume, "4 KiB fragments", None, report)
}

/// Writes files of 1 MiB, `size` bytes in all, and removes half of them here and there: zones that are half dead.
pub fn half_of_many_files(volume: &Volume, size: u64) -> Result<()> {
    for n in 0..size / MIB {
        std::fs::write(volume.path(format!("f{n}")), Pattern(n).bytes(0, MIB as usize))?;
    }
    sync(volume.root())?;
    let mut dice = Dice::new(1);
    for n in 0..size / MIB {
        if dice.below(2) == 0 {
            std::fs::remove_file(volume.path(format!("f{n}")))?;
        }
    }
    sync(volume.root())
}

fn measure(volume: &Volume, what: &str, goal: Option<f64>, report: &mut Report) -> Result<()> {
    let before = volume.status()?;
    volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()])?.ok()?;
    let after = volume.status()?;
    let simulated = after.simulated();
    let since = |name: &str| after.since(&before, name);
    let relocated = since("gc/relocated")?;
    ensure!(relocated > 0, "{what}: the cleaner found nothing to move");
    let host = since("gc/host_read")? + since("gc/host_written")?;
    let row = |name: &str, value: f64, unit| Row::new(format!("{what}: {name}"), value, unit).simulated(simulated);
    report.add(row("relocated", relocated as f64 / MIB as f64, "MiB"));
    report.add(row("payload bytes through the host", host as f64, "bytes").goal("0", host == 0));
    let metadata = since("gc/meta_written")? as f64 / relocated as f64;
    let metadata = row("metadata written per relocated byte", metadata * 100.0, "%");
    report.add(match goal {
        Some(goal) => {
            let reached = metadata.value < goal * 100.0;
            metadata.goal(format!("below {} %", goal * 100.0), reached)
        }
        None => metadata,
    });
    // The same from outside: everything that the host sent to the device meanwhile.
    let sent = since("io/device_written")? as f64 / relocated as f64 * 100.0;
    report.add(row("all that the host wrote meanwhile, per relocated byte", sent, "%"));
    let commands = since("gc/commands")?.max(1);
    report.add(row("bytes per copy command", relocated as f64 / commands as f64 / KIB as f64, "KiB"));
    Ok(())
}
