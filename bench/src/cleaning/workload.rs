//! The load of `ferryfs-bench gc`: files that take a share of a filesystem, aged, then overwritten by several jobs, each write timed.
//!
//! It knows a mounted directory and nothing of what is mounted there, so that all filesystems get the same: the same files, the same blocks in the same order for
//! the same seed. Each job has a file and a source of blocks of its own. Writes are direct, so that no cache of the kernel merges two of one block into one. FerryFS
//! takes direct writes into its daemon's memory, too, and writes them at the next fsync or when there are some MiB: what is overwritten before never crosses the
//! link. An fsync every so many writes, as by default, keeps that small.

use crate::loads::{Load, Operation, Source};
use crate::traces::Trace;
use anyhow::{Context, Result, ensure};
use harness::Pattern;
use harness::bytes::MIB;
use harness::interrupt;
use rustix::fs::{FallocateFlags, OFlags};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zns::AlignedBuf;

/// What is written.
#[derive(Clone, Debug)]
pub struct Workload {
    pub load: Load,
    /// Operations, if the load is a trace.
    pub trace: Option<Arc<Trace>>,
    /// Bytes of a write.
    pub block: u64,
    /// Writes of a job between two fsyncs; none if zero.
    pub fsync_every: u64,
    pub jobs: u32,
    pub seed: u64,
    /// Blocks in the file of each job.
    pub blocks: u32,
}

/// When to stop: whichever comes first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limit {
    /// Bytes of all jobs together.
    pub bytes: Option<u64>,
    pub time: Option<Duration>,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// When it began, since the load began.
    pub at: Duration,
    pub took: Duration,
}

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub bytes: u64,
    /// From the first write until all was durable.
    pub seconds: f64,
    /// In the order in which they began.
    pub writes: Vec<Point>,
    /// How long each fsync that the load asked for took, ascending.
    pub fsyncs: Vec<Duration>,
}

impl Measured {
    /// How long writes took, ascending.
    pub fn sorted(&self) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.writes.iter().map(|point| point.took).collect();
        times.sort_unstable();
        times
    }
}

/// How a file of a job is overwritten: the load itself, or evenly to age it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Load,
    Ageing,
}

impl Workload {
    /// With files that take so many bytes together.
    pub fn sized(mut self, bytes: u64) -> Result<Workload> {
        let blocks = bytes / u64::from(self.jobs.max(1)) / self.block;
        ensure!(
            blocks >= 1024,
            "{bytes} bytes in {} files are too few for writes of {} bytes: 1024 blocks a file are needed",
            self.jobs,
            self.block
        );
        self.blocks = u32::try_from(blocks).context("a file has at most 2^32 blocks")?;
        Ok(self)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * self.block * u64::from(self.jobs)
    }

    fn path(root: &Path, job: u32) -> PathBuf {
        root.join(format!("job-{job}"))
    }

    /// Makes the files and fills them from front to back.
    pub fn fill(&self, root: &Path) -> Result<()> {
        let size = u64::from(self.blocks) * self.block;
        for job in 0..self.jobs {
            let file = File::create_new(Self::path(root, job))?;
            for at in (0..size).step_by(MIB as usize) {
                interrupt::check()?;
                let piece = Pattern(self.seed).with(u64::from(job)).bytes(at, MIB.min(size - at) as usize);
                file.write_all_at(&piece, at).with_context(|| format!("filling, {} of {} MiB of file {job}", at / MIB, size / MIB))?;
            }
            file.sync_all().context("syncing what was filled")?;
        }
        Ok(())
    }

    /// Overwrites so many bytes at random, evenly.
    pub fn age(&self, root: &Path, bytes: u64) -> Result<()> {
        self.all_jobs(root, Pace::Ageing, Limit { bytes: Some(bytes), time: None }).map(drop).context("ageing")
    }

    /// Cuts every file by so much that together they lose `bytes`.
    pub fn shrunk(&self, root: &Path, bytes: u64) -> Result<Workload> {
        let smaller = self.clone().sized(self.bytes().saturating_sub(bytes))?;
        for job in 0..self.jobs {
            let file = OpenOptions::new().write(true).open(Self::path(root, job))?;
            file.set_len(u64::from(smaller.blocks) * self.block)?;
            file.sync_all()?;
        }
        Ok(smaller)
    }

    /// Runs the load.
    pub fn run(&self, root: &Path, limit: Limit) -> Result<Measured> {
        self.all_jobs(root, Pace::Load, limit)
    }

    fn all_jobs(&self, root: &Path, pace: Pace, limit: Limit) -> Result<Measured> {
        let share = Limit { bytes: limit.bytes.map(|bytes| bytes / u64::from(self.jobs)), ..limit };
        // What draws blocks is made before the clock runs: for large files that takes a while.
        let direct = |job| OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(Self::path(root, job));
        let prepared = (0..self.jobs).map(|job| Ok((direct(job)?, self.operations(job, pace)))).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        let jobs: Vec<Result<Measured>> = std::thread::scope(|scope| {
            let start = |(job, (file, operations))| scope.spawn(move || self.job(job, &file, operations, pace, share, began));
            let started: Vec<_> = (0u32..).zip(prepared).map(start).collect();
            started.into_iter().map(|job| job.join().map_err(|_| anyhow::anyhow!("a job panicked")).and_then(|measured| measured)).collect()
        });
        let mut all = Measured::default();
        for job in jobs {
            let job = job?;
            all.bytes += job.bytes;
            all.writes.extend(job.writes);
            all.fsyncs.extend(job.fsyncs);
        }
        all.seconds = began.elapsed().as_secs_f64();
        all.writes.sort_unstable_by_key(|point| point.at);
        all.fsyncs.sort_unstable();
        Ok(all)
    }

    fn job(
        &self,
        job: u32,
        file: &File,
        mut operations: Box<dyn Iterator<Item = Operation> + Send + '_>,
        pace: Pace,
        limit: Limit,
        began: Instant,
    ) -> Result<Measured> {
        let mut buffer = AlignedBuf::zeroed(self.block as usize);
        Pattern(self.seed).with(u64::from(job)).fill(0, &mut buffer);
        let mut out = Measured::default();
        let mut since_sync = 0;
        for n in 0u64.. {
            interrupt::check()?;
            let over = limit.bytes.is_some_and(|most| out.bytes >= most) || limit.time.is_some_and(|most| began.elapsed() >= most);
            let Some(operation) = (if over { None } else { operations.next() }) else { break };
            let block = match operation {
                Operation::Trim(block) => {
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(file, hole, u64::from(block) * self.block, self.block).context("deleting a block")?;
                    continue;
                }
                Operation::Write(block) => block,
            };
            buffer[..8].copy_from_slice(&n.to_le_bytes());
            let (at, started) = (began.elapsed(), Instant::now());
            let wrote = file.write_all_at(&buffer, u64::from(block) * self.block);
            wrote.with_context(|| format!("after {} MiB of overwrites", out.bytes / MIB))?;
            if pace == Pace::Load {
                out.writes.push(Point { at, took: started.elapsed() });
            }
            out.bytes += self.block;
            since_sync += 1;
            if pace == Pace::Load && self.fsync_every > 0 && since_sync == self.fsync_every {
                since_sync = 0;
                let started = Instant::now();
                file.sync_data().context("fsync")?;
                out.fsyncs.push(started.elapsed());
            }
        }
        file.sync_all().context("syncing at the end")?;
        Ok(out)
    }

    fn operations(&self, job: u32, pace: Pace) -> Box<dyn Iterator<Item = Operation> + Send + '_> {
        let blocks = self.blocks;
        match &self.trace {
            // Again from its beginning when it ends before the time does.
            Some(trace) if pace == Pace::Load => Box::new(trace.operations.iter().cycle().map(move |operation| match operation {
                Operation::Write(block) => Operation::Write(block % blocks),
                Operation::Trim(block) => Operation::Trim(block % blocks),
            })),
            _ => {
                let (load, salt) = if pace == Pace::Ageing { (&Load::Uniform, 1 << 32) } else { (&self.load, 0) };
                let mut source = Source::new(load, blocks, self.seed.wrapping_add(salt + u64::from(job)));
                Box::new(std::iter::from_fn(move || Some(source.next())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(load: &str, jobs: u32) -> Workload {
        let load = load.parse().unwrap();
        let all = Workload { load, trace: None, block: 4096, fsync_every: 100, jobs, seed: 3, blocks: 0 };
        all.sized(u64::from(jobs) * 1024 * 4096).unwrap()
    }

    #[test]
    fn every_write_is_timed_and_limits_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let load = workload("zipf:1", 2);
        load.fill(directory.path()).unwrap();
        load.age(directory.path(), 4 << 20).unwrap();
        let measured = load.run(directory.path(), Limit { bytes: Some(2 << 20), time: None }).unwrap();
        assert_eq!((measured.bytes, measured.writes.len(), measured.fsyncs.len()), (2 << 20, 512, 4));
        assert!(measured.writes.is_sorted_by_key(|point| point.at) && measured.sorted().is_sorted());
        let smaller = load.shrunk(directory.path(), 4096 * 2).err().map(|error| error.to_string());
        assert!(smaller.unwrap().contains("1024 blocks"), "files that are too small are refused");
        let none = load.run(directory.path(), Limit { bytes: None, time: Some(Duration::ZERO) }).unwrap();
        assert_eq!(none.bytes, 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_blocks_and_jobs_differ() {
        let load = workload("uniform", 2);
        let take = |job, pace| load.operations(job, pace).take(50).collect::<Vec<_>>();
        assert_eq!(take(0, Pace::Load), take(0, Pace::Load));
        assert_ne!(take(0, Pace::Load), take(1, Pace::Load));
        assert_ne!(take(0, Pace::Load), take(0, Pace::Ageing));
    }

    #[test]
    fn a_trace_is_replayed_from_its_beginning_when_it_ends() {
        let operations = vec![Operation::Write(5), Operation::Write(1025), Operation::Trim(3)];
        let mut load = workload("uniform", 1);
        load.trace = Some(Arc::new(Trace { operations, blocks: 1026 }));
        let taken: Vec<Operation> = load.operations(0, Pace::Load).take(4).collect();
        assert_eq!(taken, [Operation::Write(5), Operation::Write(1), Operation::Trim(3), Operation::Write(5)]);
    }
}
