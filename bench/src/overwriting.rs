//! A file that takes a given share of the space and was overwritten at random until it is in fragments: where the cleaner works hardest.

use crate::rig::Rig;
use anyhow::{Result, ensure};
use harness::bytes::MIB;
use harness::content::Dice;
use harness::{Pattern, Volume};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// See the module.
pub struct Overwriting {
    /// The volume, mounted.
    pub volume: Volume,
    /// Bytes of its space in all.
    pub total: u64,
    file: File,
    blocks: u64,
    dice: Dice,
    memory: Vec<u8>,
    bar: ProgressBar,
}

impl Overwriting {
    /// Formats, fills to `utilization` of the space, and overwrites as many blocks as there are, twice. `passes`: how many the caller will add.
    pub fn new(rig: &Rig, format: &str, policy: &str, utilization: f64, passes: u64) -> Result<Overwriting> {
        ensure!((0.1..0.98).contains(&utilization), "a utilization of {utilization}: between 0.1 and 0.98");
        let volume = rig.ferryfs(format, &[&format!("policy={policy}"), "placement=separate"])?;
        let total = volume.status()?.number("space/total")?;
        let wanted = (total as f64 * utilization) as u64;
        let path = volume.path("f");
        let file = File::create_new(&path)?;
        let end = wanted / 4096 * 4096;
        for at in (0..end).step_by(MIB as usize) {
            file.write_all_at(&Pattern(1).bytes(at, MIB.min(end - at) as usize), at)?;
        }
        file.sync_all()?;
        drop(file);
        // Direct, so that no cache merges two overwrites of one block into one.
        let file = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&path)?;
        let blocks = wanted / 4096;
        let bar = ProgressBar::new(blocks * (2 + passes));
        bar.set_style(ProgressStyle::with_template("  overwriting {wide_bar} {pos}/{len} {eta}")?);
        let mut load = Overwriting { volume, total, file, blocks, dice: Dice::new(85), memory: vec![0u8; 2 * 4096], bar };
        load.pass(2, |_| {})?;
        // The map of a file in fragments takes space, too: once it is in fragments, the file is cut so that all that is used is the share
        // asked for.
        let used = load.volume.status()?.number("space/used")?;
        load.blocks -= (used.saturating_sub(wanted) / 4096).min(load.blocks / 2);
        load.file.set_len(load.blocks * 4096)?;
        load.file.sync_all()?;
        Ok(load)
    }

    /// Overwrites as many blocks as there are, `passes` times, and tells how long each took.
    pub fn pass(&mut self, passes: u64, mut took: impl FnMut(Duration)) -> Result<()> {
        let from = self.memory.as_ptr().align_offset(4096);
        let buffer = &mut self.memory[from..from + 4096];
        for n in 0..self.blocks * passes {
            buffer[..8].copy_from_slice(&n.to_le_bytes());
            let started = Instant::now();
            self.file.write_all_at(buffer, self.dice.below(self.blocks) * 4096)?;
            took(started.elapsed());
            if n % 1024 == 0 {
                self.bar.inc(1024);
            }
        }
        Ok(())
    }
}

impl Drop for Overwriting {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
