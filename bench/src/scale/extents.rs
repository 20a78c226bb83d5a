//! One file in as many pieces as it has blocks: every second block is written, in order or by chance.

use super::bed::{Bed, Site};
use super::growth::{self, Load, Words};
use crate::report::Row;
use anyhow::{Context, Result, ensure};
use harness::bytes::{GIB, KIB};
use harness::content::Pattern;
use harness::interrupt;
use rustix::fs::Advice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK: u64 = 4 * KIB;
const NAME: &str = "pieces";
/// How long freeing the file may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures.
pub fn run(bed: &mut Bed, count: u64) -> Result<()> {
    let orders = [
        (
            false,
            Words { part: "extents", pieces: "extents of a file", put: "write of every second block", look: "read of 4 KiB", keeps: None },
        ),
        (
            true,
            Words { part: "extents-random", pieces: "extents put by chance", put: "write at random", look: "read of 4 KiB", keeps: None },
        ),
    ];
    for (by_chance, words) in orders {
        eprintln!("a file of {count} extents, {}", if by_chance { "written at random" } else { "every second block" });
        let size = GIB + count * (BLOCK + KIB) * 5 / 4;
        let mut site = bed.site(&format!("--size {}", size.next_multiple_of(GIB / 4)), size)?;
        let mut load = Pieces { file: None, count, by_chance };
        growth::run(bed, &mut site, &mut load, count, &words)?;
        let found = extents(&site)?;
        ensure!(found >= count, "the file has {found} extents, not {count}");
        site.mount()?;
        let (unlinked, freed) = unlink(&site, count)?;
        bed.report.add(Row::new(format!("{count} {}: unlink", words.pieces), unlinked, "s"));
        bed.report.add(Row::new(format!("{count} {}: until its space is free", words.pieces), freed, "s"));
        site.umount()?;
    }
    Ok(())
}

/// Extents of the whole volume, as fsck counts them.
fn extents(site: &Site) -> Result<u64> {
    let said = site.volume.fsck()?.ok()?.stdout;
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "extents").with_context(|| format!("fsck counts no extents: {said}"))?;
    Ok(words[at.saturating_sub(1)].parse()?)
}

/// Seconds of unlink(2), and until as much is free as the file had.
fn unlink(site: &Site, count: u64) -> Result<(f64, f64)> {
    let free = || -> Result<u64> {
        let stat = rustix::fs::statvfs(site.volume.root())?;
        Ok(stat.f_bfree * stat.f_frsize)
    };
    let before = free()?;
    let started = Instant::now();
    std::fs::remove_file(site.volume.path(NAME))?;
    let unlinked = started.elapsed().as_secs_f64();
    while free()? < before + count * BLOCK {
        interrupt::check()?;
        ensure!(started.elapsed() < PATIENCE, "{} of {} bytes are free again", free()? - before, count * BLOCK);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((unlinked, started.elapsed().as_secs_f64()))
}

struct Pieces {
    file: Option<File>,
    count: u64,
    by_chance: bool,
}

impl Pieces {
    fn file(&self) -> Result<&File> {
        self.file.as_ref().context("the file is open")
    }

    /// Where a piece begins: between two there is a block that is never written.
    fn offset(&self, number: u64) -> u64 {
        2 * BLOCK * if self.by_chance { scattered(number, self.count) } else { number }
    }
}

/// A place among `count` for each number, no two the same: steps of a length that has no divisor in common with `count`, about 0.618 of it.
fn scattered(number: u64, count: u64) -> u64 {
    let divides = |step: u64| {
        let (mut a, mut b) = (count, step);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let step = (count * 618 / 1000..=count).find(|step| divides(*step)).unwrap_or(1);
    (u128::from(number) * u128::from(step) % u128::from(count)) as u64
}

impl Load for Pieces {
    fn open(&mut self, root: &Path) -> Result<()> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(root.join(NAME))?;
        // Looks are at single blocks.
        rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
        self.file = Some(file);
        Ok(())
    }

    fn close(&mut self) {
        self.file = None;
    }

    fn put(&mut self, number: u64) -> Result<()> {
        Ok(self.file()?.write_all_at(&Pattern(number).bytes(0, BLOCK as usize), self.offset(number))?)
    }

    fn has(&mut self, number: u64) -> Result<bool> {
        let mut bytes = vec![0; BLOCK as usize];
        let read = self.file()?.read_at(&mut bytes, self.offset(number))?;
        if read == 0 || bytes.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        ensure!(Pattern(number).mismatch(0, &bytes).is_none(), "block {number} is not what was written");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_by_chance_are_all_different() {
        for count in [1, 2, 10, 1000, 4096] {
            let mut places: Vec<u64> = (0..count).map(|number| scattered(number, count)).collect();
            places.sort_unstable();
            assert!(places.iter().copied().eq(0..count), "{count}");
        }
    }

    #[test]
    fn pieces_are_found_with_holes_between() {
        let place = tempfile::tempdir().unwrap();
        let mut pieces = Pieces { file: None, count: 10, by_chance: true };
        pieces.open(place.path()).unwrap();
        for number in 0..5 {
            pieces.put(number).unwrap();
        }
        assert!((0..5).all(|number| pieces.has(number).unwrap()) && (5..10).all(|number| !pieces.has(number).unwrap()));
        assert!((0..10).all(|number| pieces.offset(number).is_multiple_of(2 * BLOCK)));
        pieces.close();
        assert!(pieces.has(0).is_err());
    }
}
