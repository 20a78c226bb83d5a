//! One directory of many entries.

use super::bed::Bed;
use super::growth::{self, Load, Words};
use crate::report::Row;
use anyhow::{Result, ensure};
use harness::bytes::{GIB, KIB};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measures.
pub fn run(bed: &mut Bed, count: u64) -> Result<()> {
    eprintln!("a directory of {count} entries");
    let size = GIB + count * KIB;
    let mut site = bed.site(&format!("--size {}", size.next_multiple_of(GIB / 4)), size)?;
    let words = Words { part: "directory", pieces: "entries of a directory", put: "create", look: "stat of an entry", keeps: None };
    growth::run(bed, &mut site, &mut Entries::default(), count, &words)?;
    site.mount()?;
    let started = Instant::now();
    let listed = std::fs::read_dir(site.volume.path("many"))?.count() as u64;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(listed == count, "{listed} of {count} entries are listed");
    bed.report.add(Row::new(format!("{count} {}: listing all of them, cold", words.pieces), seconds, "s"));
    site.umount()?;
    Ok(())
}

#[derive(Default)]
struct Entries {
    directory: PathBuf,
}

impl Entries {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("a file of the million, number {number}"))
    }
}

impl Load for Entries {
    fn open(&mut self, root: &Path) -> Result<()> {
        self.directory = root.join("many");
        match std::fs::create_dir(&self.directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn close(&mut self) {}

    fn put(&mut self, number: u64) -> Result<()> {
        File::create_new(self.path(number))?;
        Ok(())
    }

    fn has(&mut self, number: u64) -> Result<bool> {
        growth::is_there(&self.path(number))
    }
}
