//! Writing, reading and creating, beside ext4 on a loop device over the same memory, in turns.

use crate::report::{Report, Row, median};
use crate::rig::{Rig, forget};
use anyhow::Result;
use harness::Pattern;
use harness::bytes::{GIB, MIB};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// 1 GiB in pieces of 1 MiB, written and synced, then read cold.
pub fn streams(quick: bool, report: &mut Report) -> Result<()> {
    let (size, rounds) = if quick { (GIB, 3) } else { (GIB, 7) };
    let rig = Rig::new(6 * GIB)?;
    let volume = rig.ferryfs("--size 3G", &[])?;
    let ext4 = rig.ext4(2 * GIB)?;
    let block = Pattern(1).bytes(0, MIB as usize);
    let mut figures = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    // The first round warms the memory behind both and does not count.
    for round in 0..=rounds {
        for (which, root) in [(0, volume.root()), (1, ext4.as_path())] {
            let path = root.join("stream");
            let written = write(&path, size, &block)?;
            forget(&path)?;
            let read = read(&path, size)?;
            std::fs::remove_file(&path)?;
            if round > 0 {
                figures[which][0].push(written);
                figures[which][1].push(read);
            }
        }
    }
    for (kind, what) in ["sequential write 1 MiB + fsync", "sequential read 1 MiB, cold"].into_iter().enumerate() {
        let peer = median(&figures[1][kind]);
        let row = Row::rounds(what, &figures[0][kind], "MiB/s").beside("ext4 on loop", peer);
        let reached = row.value >= peer / 2.0;
        report.add(row.goal("at least 0.5", reached));
    }
    Ok(())
}

/// Empty files made in one directory, by one thread.
pub fn creates(quick: bool, report: &mut Report) -> Result<()> {
    let (count, rounds) = if quick { (20_000, 3) } else { (50_000, 5) };
    let rig = Rig::new(3 * GIB)?;
    let volume = rig.ferryfs("--size 1G", &[])?;
    let ext4 = rig.ext4(GIB)?;
    let mut figures = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (which, root) in [(0, volume.root()), (1, ext4.as_path())] {
            let directory = root.join("created");
            std::fs::create_dir(&directory)?;
            let started = Instant::now();
            for n in 0..count {
                File::create_new(directory.join(format!("file-{n}")))?;
            }
            let rate = f64::from(count) / started.elapsed().as_secs_f64();
            std::fs::remove_dir_all(&directory)?;
            if round > 0 {
                figures[which].push(rate);
            }
        }
    }
    let row = Row::rounds("creates per second, one thread", &figures[0], "1/s").beside("ext4 on loop", median(&figures[1]));
    let reached = row.value >= 10_000.0;
    report.add(row.goal("10,000", reached));
    Ok(())
}

/// MiB per second of writing, the fsync at the end included.
pub fn write(path: &Path, size: u64, block: &[u8]) -> Result<f64> {
    let started = Instant::now();
    let file = File::create_new(path)?;
    for at in (0..size).step_by(block.len()) {
        file.write_all_at(block, at)?;
    }
    file.sync_all()?;
    Ok((size / MIB) as f64 / started.elapsed().as_secs_f64())
}

fn read(path: &Path, size: u64) -> Result<f64> {
    let mut buffer = vec![0; MIB as usize];
    let started = Instant::now();
    let file = File::open(path)?;
    for at in (0..size).step_by(buffer.len()) {
        file.read_exact_at(&mut buffer, at)?;
    }
    Ok((size / MIB) as f64 / started.elapsed().as_secs_f64())
}
