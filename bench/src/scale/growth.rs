//! Something that grows one piece after the other: what a piece costs on the way, and at some sizes what mounting, looking and checking cost.

use super::bed::{Bed, Site, memory_row};
use super::plot::{Curve, Plot};
use crate::report::Row;
use anyhow::{Result, ensure};
use harness::content::Dice;
use harness::interrupt;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

/// What grows. Pieces are numbered from 0 and put in order.
pub trait Load {
    /// The volume is mounted here.
    fn open(&mut self, root: &Path) -> Result<()>;
    /// It is about to be unmounted.
    fn close(&mut self);
    /// Puts a piece.
    fn put(&mut self, number: u64) -> Result<()>;
    /// Is a piece there, and as it was put?
    fn has(&mut self, number: u64) -> Result<bool>;
}

/// Names for rows and curves.
pub struct Words {
    /// Of the part.
    pub part: &'static str,
    /// Pieces.
    pub pieces: &'static str,
    /// Putting one.
    pub put: &'static str,
    /// Looking at one, chosen at random.
    pub look: &'static str,
    /// How much of the early rate the last tenth is to have, where that is promised.
    pub keeps: Option<f64>,
}

/// What a volume of one size costs. Seconds, bytes.
#[derive(Clone, Debug)]
struct Stop {
    size: u64,
    crash_mount: f64,
    umount: f64,
    mount: f64,
    look: f64,
    look_reads: f64,
    status: f64,
    fsck: f64,
    /// After growing, after mounting, after looking.
    resident: [u64; 3],
    taken: u64,
}

/// Sizes and the seconds that the pieces up to there took, each since the one before.
type Pace = Vec<(u64, f64)>;

/// Looks of each size.
const LOOKS: u64 = 2000;
/// The size that the rate at the end is compared with.
const EARLY: u64 = 100_000;

/// Is there something of this name?
pub fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sizes to stop at: powers of ten, and the last one.
fn stops(count: u64) -> Vec<u64> {
    let mut stops: Vec<u64> = (4..19).map(|power| 10u64.pow(power)).take_while(|size| *size < count).collect();
    stops.push(count);
    stops
}

/// The early size for a load of `count`, which a short one has not.
fn early(count: u64) -> u64 {
    EARLY.min(count / 10).max(1)
}

/// Pieces per second between two sizes.
fn rate(pace: &[(u64, f64)], from: u64, to: u64) -> f64 {
    let mut before = 0;
    let mut sum = (0, 0.0);
    for (size, seconds) in pace {
        if before >= from && *size <= to {
            sum = (sum.0 + size - before, sum.1 + seconds);
        }
        before = *size;
    }
    sum.0 as f64 / sum.1
}

/// Grows `load` to `count` pieces on a volume that is formatted, adds what was measured, and leaves the volume unmounted.
///
/// # Errors
/// What goes wrong with the volume; a piece that is not there, or not as it was put.
pub fn run(bed: &mut Bed, site: &mut Site, load: &mut impl Load, count: u64, words: &Words) -> Result<()> {
    let mut pace = Pace::new();
    let mut seen: Vec<Stop> = Vec::new();
    let mut size = 0;
    site.mount()?;
    let allowed = site.allowed()?;
    for stop in stops(count) {
        load.open(site.volume.root())?;
        grow(load, &mut size, stop, count, &mut pace)?;
        let costs = look_around(site, load, stop)?;
        eprintln!(
            "  {stop} {}: {:.0}/s; mount {:.3} s, after kill -9 {:.3} s; fsck {:.2} s; resident {:?} MiB",
            words.pieces,
            rate(&pace, seen.last().map_or(0, |last| last.size), stop),
            costs.mount,
            costs.crash_mount,
            costs.fsck,
            costs.resident.map(|bytes| bytes >> 20)
        );
        seen.push(costs);
        if stop < count {
            site.mount()?;
        }
    }
    add(bed, words, count, allowed, &pace, &seen);
    Ok(())
}

/// Puts pieces up to `to`.
fn grow(load: &mut impl Load, size: &mut u64, to: u64, count: u64, pace: &mut Pace) -> Result<()> {
    // The early size ends a step, and so does each tenth.
    let next = |size: u64, parts: u64| (1..=parts).map(|part| part * count / parts).find(|end| *end > size);
    let step_from = |size: u64| {
        let ends = [next(size, 10), next(size, 100), Some(early(count)).filter(|end| *end > size)];
        ends.into_iter().flatten().fold(to, u64::min)
    };
    while *size < to {
        interrupt::check()?;
        let step = step_from(*size);
        let started = Instant::now();
        for number in *size..step {
            load.put(number)?;
        }
        pace.push((step, started.elapsed().as_secs_f64()));
        *size = step;
    }
    Ok(())
}

/// Kills the daemon, mounts, unmounts, mounts, looks at pieces by chance, asks for the status and checks. The volume is unmounted in the end.
fn look_around(site: &mut Site, load: &mut impl Load, size: u64) -> Result<Stop> {
    let after_growing = site.resident()?;
    load.close();
    site.volume.kill();
    let crash_mount = site.mount()?;
    load.open(site.volume.root())?;
    restore(load, size)?;
    load.close();
    let umount = site.umount()?;
    let mount = site.mount()?;
    let after_mounting = site.resident()?;
    let before = site.volume.status()?;
    load.open(site.volume.root())?;
    let mut dice = Dice::new(size);
    let started = Instant::now();
    for _ in 0..LOOKS {
        let number = dice.below(size);
        ensure!(load.has(number)?, "{number} of {size} is not there any more");
    }
    let look = started.elapsed().as_secs_f64() / LOOKS as f64;
    load.close();
    let look_reads = site.volume.status()?.since(&before, "cache/node_reads")? as f64 / LOOKS as f64;
    let resident = [after_growing, after_mounting, site.resident()?];
    let status = site.status_time()?;
    site.umount()?;
    let fsck = site.volume.fsck()?.ok()?.seconds;
    Ok(Stop { size, crash_mount, umount, mount, look, look_reads, status, fsck, resident, taken: site.taken()? })
}

/// Puts again what a crash took: nothing of it was waited for, but what is left are the first pieces.
fn restore(load: &mut impl Load, size: u64) -> Result<()> {
    let (mut there, mut gone) = (0, size);
    while there < gone {
        let middle = there + (gone - there) / 2;
        if load.has(middle)? {
            there = middle + 1;
        } else {
            gone = middle;
        }
    }
    for number in there..size {
        ensure!(!load.has(number)?, "{number} survived a crash, and {there} before it did not");
        load.put(number)?;
    }
    Ok(())
}

fn add(bed: &mut Bed, words: &Words, count: u64, allowed: u64, pace: &[(u64, f64)], seen: &[Stop]) {
    let Some(last) = seen.last() else { return };
    let Words { part, pieces, put, look, keeps } = *words;
    let named = |what: &str| format!("{count} {pieces}: {what}");
    let rates: Vec<f64> = (0..10).map(|tenth| rate(pace, count * tenth / 10, count * (tenth + 1) / 10)).collect();
    for (tenth, rate) in rates.iter().enumerate() {
        bed.report.add(Row::new(named(&format!("{put} a second, tenth {} of 10", tenth + 1)), *rate, "1/s"));
    }
    let early = early(count);
    let row = Row::new(named(&format!("rate of the last tenth over that of the first {early}")), rates[9] / rate(pace, 0, early), "times");
    bed.report.add(match keeps {
        Some(least) => {
            let reached = row.value >= least;
            row.goal(format!("at least {least}"), reached)
        }
        None => row,
    });
    for (when, resident) in ["growing", "mounting", "looking"].iter().zip(last.resident) {
        bed.report.add(memory_row(named(&format!("resident memory after {when}")), resident, allowed));
    }
    bed.report.add(Row::new(named("clean mount"), last.mount, "s").goal("below 0.5", last.mount < 0.5));
    bed.report.add(Row::new(named("mount after kill -9"), last.crash_mount, "s").goal("below 5", last.crash_mount < 5.0));
    bed.report.add(Row::new(named(&format!("{look}, cold")), last.look * 1e6, "us"));
    bed.report.add(Row::new(named("nodes read for that"), last.look_reads, "nodes").goal("a few", last.look_reads <= 4.0));
    bed.report.add(Row::new(named("status"), last.status, "s"));
    bed.report.add(Row::new(named("umount"), last.umount, "s"));
    bed.report.add(Row::new(named("fsck.ferryfs -n"), last.fsck, "s"));
    bed.report.add(Row::new(named("bytes of the image"), last.taken as f64 / (1u64 << 20) as f64, "MiB"));
    let curve = |name: String, of: fn(&Stop) -> f64| Curve { name, points: seen.iter().map(|stop| (stop.size as f64, of(stop))).collect() };
    let mut before = 0;
    let mut each = Vec::new();
    for (size, seconds) in pace {
        each.push((*size as f64, seconds / (size - before) as f64));
        before = *size;
    }
    let curves = vec![
        Curve { name: put.to_owned(), points: each },
        curve(format!("{look}, cold"), |stop| stop.look),
        curve("clean mount".into(), |stop| stop.mount),
        curve("mount after kill -9".into(), |stop| stop.crash_mount),
        curve("status".into(), |stop| stop.status),
        curve("umount".into(), |stop| stop.umount),
        curve(format!("fsck -n, for each of the {pieces}"), |stop| stop.fsck / stop.size as f64),
    ];
    bed.plots.push(Plot { name: part, axis: pieces, curves });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what was put, and loses it from some number on.
    #[derive(Default)]
    struct Memory(Vec<u64>);

    impl Load for Memory {
        fn open(&mut self, _: &Path) -> Result<()> {
            Ok(())
        }
        fn close(&mut self) {}
        fn put(&mut self, number: u64) -> Result<()> {
            self.0.push(number);
            Ok(())
        }
        fn has(&mut self, number: u64) -> Result<bool> {
            Ok(self.0.contains(&number))
        }
    }

    #[test]
    fn steps_end_at_tenths_at_the_early_size_and_at_stops() {
        assert_eq!(stops(1_000_000), [10_000, 100_000, 1_000_000]);
        assert_eq!(stops(5000), [5000]);
        for count in [1700, 12_347] {
            let (mut load, mut size, mut pace) = (Memory::default(), 0, Pace::new());
            for stop in [123, count] {
                grow(&mut load, &mut size, stop, count, &mut pace).unwrap();
            }
            assert!(load.0.iter().copied().eq(0..count));
            let ends: Vec<u64> = pace.iter().map(|(size, _)| *size).collect();
            for end in (1..=10).map(|tenth| tenth * count / 10).chain([123, count / 10]) {
                assert!(ends.contains(&end), "{end}: {ends:?}");
            }
            assert!(ends.is_sorted_by(|a, b| a < b) && ends.len() >= 100);
            let tenths = (0..10).map(|tenth| rate(&pace, count * tenth / 10, count * (tenth + 1) / 10));
            assert!(tenths.into_iter().all(|rate| rate.is_finite() && rate > 0.0));
        }
    }

    #[test]
    fn rates_are_those_of_the_steps_between() {
        let pace = vec![(10, 1.0), (20, 2.0), (40, 1.0)];
        assert_eq!((rate(&pace, 0, 10), rate(&pace, 10, 40), rate(&pace, 0, 40)), (10.0, 10.0, 10.0));
        assert_eq!(rate(&pace, 20, 40), 20.0);
    }

    #[test]
    fn what_a_crash_took_is_put_again_and_a_gap_is_an_error() {
        for left in [0, 1, 7, 10] {
            let mut load = Memory((0..left).collect());
            restore(&mut load, 10).unwrap();
            assert!(load.0.iter().copied().eq(0..10), "{left}");
        }
        let mut gap = Memory(vec![0, 1, 2, 9]);
        assert!(restore(&mut gap, 10).is_err());
    }
}
