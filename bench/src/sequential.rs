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

/// Bytes of a stream.
const STREAM: u64 = GIB;

/// 1 GiB in pieces of 1 MiB, written and synced, then read cold: on fresh images, and again and again in the room of what was removed before.
pub fn streams(quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 3 } else { 7 };
    let block = Pattern(1).bytes(0, MIB as usize);
    let mut fresh = Streams::default();
    for round in 0..=rounds {
        let rig = Rig::new(6 * GIB)?;
        let volume = rig.ferryfs("--size 3G", &[])?;
        let ext4 = rig.ext4(2 * GIB)?;
        fresh.round([volume.root(), &ext4], &block, round > 0)?;
    }
    fresh.report("", report);
    // ext4 keeps the memory behind what is removed; the zones of FerryFS are reset, and their memory is given back and asked for again.
    let rig = Rig::new(6 * GIB)?;
    let volume = rig.ferryfs("--size 3G", &[])?;
    let ext4 = rig.ext4(2 * GIB)?;
    let mut again = Streams::default();
    for round in 0..=rounds {
        again.round([volume.root(), &ext4], &block, round > 0)?;
    }
    again.report(", where another was removed", report);
    Ok(())
}

/// MiB per second of writing and of reading, by filesystem.
#[derive(Default)]
struct Streams([[Vec<f64>; 2]; 2]);

impl Streams {
    /// One stream on each, FerryFS first. A round that does not count warms memory and programs.
    fn round(&mut self, roots: [&Path; 2], block: &[u8], counts: bool) -> Result<()> {
        for (figures, root) in self.0.iter_mut().zip(roots) {
            let path = root.join("stream");
            let written = write(&path, STREAM, block)?;
            forget(&path)?;
            let read = read(&path, STREAM)?;
            std::fs::remove_file(&path)?;
            if counts {
                figures[0].push(written);
                figures[1].push(read);
            }
        }
        Ok(())
    }

    fn report(&self, place: &str, report: &mut Report) {
        let [ours, peer] = &self.0;
        for (kind, what) in ["sequential write 1 MiB + fsync", "sequential read 1 MiB, cold"].into_iter().enumerate() {
            let peer = median(&peer[kind]);
            let row = Row::rounds(format!("{what}{place}"), &ours[kind], "MiB/s").beside("ext4 on loop", peer);
            let reached = row.value >= peer / 2.0;
            report.add(row.goal("at least 0.5", reached));
        }
    }
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
