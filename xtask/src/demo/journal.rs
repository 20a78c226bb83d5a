//! A program that appends numbered lines and calls fsync after each, so that after a crash one knows what must be there.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that writes a journal until it fails or is stopped.
pub struct Journal {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl Journal {
    /// Starts writing.
    pub fn start(path: &Path) -> Result<Journal> {
        let path = PathBuf::from(path);
        let mut file = File::create_new(&path).context("making the journal")?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped) = (acknowledged.clone(), stop.clone());
        let writer = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let next = count.load(Ordering::SeqCst) + 1;
                if file.write_all(line(next).as_bytes()).is_err() || file.sync_data().is_err() {
                    return;
                }
                count.store(next, Ordering::SeqCst);
            }
        });
        Ok(Journal { acknowledged, stop, writer })
    }

    /// Waits until so many lines are acknowledged.
    pub fn wait_for(&self, lines: u64) -> Result<()> {
        let started = Instant::now();
        while self.acknowledged.load(Ordering::SeqCst) < lines {
            crate::interrupt::check()?;
            ensure!(!self.writer.is_finished(), "the journal could not be written");
            if started.elapsed() > Duration::from_secs(60) {
                bail!("{lines} fsyncs took more than a minute");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it and says how many lines were acknowledged.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.writer.join();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Reads a journal and counts its lines; a torn last line does not count, anything else that is wrong is an error.
pub fn read(path: &Path) -> Result<u64> {
    let text = std::fs::read(path).context("reading the journal")?;
    let mut count = 0;
    for found in text.split_inclusive(|byte| *byte == b'\n') {
        let expected = line(count + 1);
        if found != expected.as_bytes() {
            ensure!(expected.as_bytes().starts_with(found), "line {} of the journal is wrong", count + 1);
            break;
        }
        count += 1;
    }
    Ok(count)
}

fn line(number: u64) -> String {
    format!("line {number}: what was acknowledged must be here\n")
}
