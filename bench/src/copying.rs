//! copy_file_range(2) beside reading and writing, in one volume.

use crate::report::{Report, Row};
use crate::rig::{Rig, forget};
use crate::sequential::write;
use anyhow::{Result, ensure};
use harness::Pattern;
use harness::bytes::{GIB, MIB};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Measures.
pub fn run(quick: bool, report: &mut Report) -> Result<()> {
    let (size, rounds) = if quick { (256 * MIB, 3) } else { (GIB, 5) };
    let rig = Rig::new(5 * GIB)?;
    let volume = rig.ferryfs("--size 4G", &[])?;
    let (source, target) = (volume.path("source"), volume.path("target"));
    write(&source, size, &Pattern(1).bytes(0, MIB as usize))?;
    let before = volume.status()?;
    let (mut by_call, mut by_hand) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let started = Instant::now();
        let (from, to) = (File::open(&source)?, File::create_new(&target)?);
        copy_durably(&from, &to, size)?;
        let called = (size / MIB) as f64 / started.elapsed().as_secs_f64();
        std::fs::remove_file(&target)?;
        forget(&source)?;

        let started = Instant::now();
        let to = File::create_new(&target)?;
        let mut buffer = vec![0; MIB as usize];
        for at in (0..size).step_by(buffer.len()) {
            from.read_exact_at(&mut buffer, at)?;
            to.write_all_at(&buffer, at)?;
        }
        to.sync_all()?;
        let copied = (size / MIB) as f64 / started.elapsed().as_secs_f64();
        std::fs::remove_file(&target)?;
        if round > 0 {
            by_call.push(called);
            by_hand.push(copied);
        }
    }
    let after = volume.status()?;
    let simulated = after.simulated();
    let hand = crate::report::median(&by_hand);
    let row = Row::rounds(format!("copy_file_range of {} MiB + fsync", size / MIB), &by_call, "MiB/s");
    report.add(row.beside("read and write, cold", hand).simulated(simulated));
    let since = |name: &str| after.since(&before, &format!("copy_file_range/{name}"));
    let host = since("host_read")? + since("host_written")?;
    report.add(Row::new("  bytes by the device", since("offloaded")? as f64 / MIB as f64, "MiB").simulated(simulated));
    report.add(Row::new("  payload bytes through the host", host as f64, "bytes").goal("0", host == 0).simulated(simulated));
    Ok(())
}

/// Copies the first `size` bytes by copy_file_range(2), in as many calls as it takes, and waits until they are durable.
pub fn copy_durably(from: &File, to: &File, size: u64) -> Result<()> {
    let (mut read, mut written) = (0, 0);
    while read < size {
        let left = (size - read) as usize;
        let n = rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), left)?;
        ensure!(n > 0, "copy_file_range stopped at {read}");
    }
    Ok(to.sync_all()?)
}
