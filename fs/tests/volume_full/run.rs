//! One run: fill, then operations at random near and at the brim, with crashes in between, against a model of what must be there.

use crate::drives::Drives;
use fs::volume::{Caller, RenameFlags, SetAttr, SetTime, Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use zns::sim::Survival;

const B: u64 = BLOCK as u64;
/// Device operations that one operation may take at most: far more than cleaning everything once.
const MOST_OPS: u64 = 200_000;
/// With this much available, an operation on names or attributes is within it.
const NAMES: u64 = 4;

/// A block of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Block {
    /// Preallocated.
    Zeros,
    /// Filled with this byte.
    Data(u8),
}

struct File {
    ino: Ino,
    name: String,
    blocks: BTreeMap<u64, Block>,
    xattr: bool,
}

struct Run {
    drives: Drives,
    volume: Arc<Volume>,
    files: Vec<File>,
    dice: ChaCha8Rng,
    named: u32,
    mounts: u8,
    log: Vec<String>,
}

/// For a failure: what fills the zones.
fn state_of(volume: &Volume) -> String {
    let status = volume.status();
    let zones: Vec<String> =
        volume.zones().iter().map(|zone| format!("{}:{}:{}:{}", zone.role, zone.state, zone.write_pointer / B, zone.live / B)).collect();
    format!("{:?} {:?} dirty {} {zones:?}", status.space, status.zones, status.cache.dirty_blocks)
}

/// Runs one seed.
pub fn run(seed: u64, steps: u64) -> Result<(), String> {
    let drives = Drives::format(seed);
    let volume = drives.mount(2).map_err(|e| e.to_string())?;
    let dice = ChaCha8Rng::seed_from_u64(seed);
    let mut run = Run { drives, volume, files: Vec::new(), dice, named: 0, mounts: 2, log: Vec::new() };
    let outcome = run.all(steps);
    outcome.map_err(|what| {
        let tail: Vec<String> = run.log.iter().rev().take(12).cloned().collect();
        format!("{what}\n  last operations, newest first: {tail:?}\n  {}", state_of(&run.volume))
    })
}

impl Run {
    fn all(&mut self, steps: u64) -> Result<(), String> {
        self.fill()?;
        for step in 0..steps {
            self.step(step)?;
        }
        self.verify()?;
        self.empty()
    }

    fn below(&mut self, n: u64) -> u64 {
        self.dice.random_range(0..n.max(1))
    }

    fn available(&self) -> u64 {
        self.volume.statfs().map(|s| s.available).unwrap_or(0)
    }

    /// Judges an operation: `must`: it may not fail, otherwise ENOSPC is an answer. `true`: it was done.
    fn judge<T>(&mut self, what: String, must: bool, result: Result<T, FsError>) -> Result<bool, String> {
        self.log.push(what.clone());
        match result {
            Ok(_) => Ok(true),
            Err(FsError::NoSpace) if !must => Ok(false),
            Err(error) => Err(format!("{what}: {error}")),
        }
    }

    fn create(&mut self) -> Result<Option<usize>, String> {
        let name = format!("f{:05}{}", self.named, "x".repeat(self.named as usize * 7 % 200));
        self.named += 1;
        let available = self.available();
        let mode = libc::S_IFREG | 0o644;
        let volume = self.volume.clone();
        let made = volume.mknod(Ino::ROOT, name.as_bytes(), mode, 0, &Caller::default());
        let ino = made.as_ref().map(|attr| attr.ino).unwrap_or(Ino::ROOT);
        if !self.judge(format!("create with {available} available"), available >= NAMES, made)? {
            return Ok(None);
        }
        self.files.push(File { ino, name, blocks: BTreeMap::new(), xattr: false });
        Ok(Some(self.files.len() - 1))
    }

    /// Files of sizes of all kinds until nothing is available.
    fn fill(&mut self) -> Result<(), String> {
        let small = self.below(3) == 0;
        loop {
            let available = self.available();
            if available == 0 {
                return Ok(());
            }
            let Some(file) = self.create()? else { return Ok(()) };
            let size = match (small, self.below(4)) {
                (true, 0..=2) => 1 + self.below(3),
                (_, 0) => 1 + self.below(8),
                _ => 1 + self.below(900),
            };
            let mut at = 0;
            while at < size {
                let n = (1 + self.below(64)).min(size - at).min(self.available());
                if n == 0 {
                    return Ok(());
                }
                self.write(file, at, n)?;
                at += n;
            }
        }
    }

    fn write(&mut self, file: usize, at: u64, blocks: u64) -> Result<(), String> {
        let stamp = self.below(255) as u8 + 1;
        let bytes = vec![stamp; (blocks * B) as usize];
        let available = self.available();
        let new = (at..at + blocks).filter(|b| !self.files[file].blocks.contains_key(b)).count() as u64;
        let options = WriteOptions { sync: self.below(8) == 0, ..WriteOptions::default() };
        let result = self.volume.clone().write(self.files[file].ino, at * B, &bytes, &options);
        let written = result.as_ref().map_or(0, |n| *n as u64) / B;
        if written > 0 && written < blocks && new <= available {
            return Err(format!("only {written} of {blocks} blocks were written, {new} of them new, {available} available"));
        }
        let what = format!("write {blocks} blocks ({new} new) at {at} of file {file}, {available} available");
        if self.judge(what, new <= available, result)? {
            self.files[file].blocks.extend((at..at + written).map(|b| (b, Block::Data(stamp))));
        }
        Ok(())
    }

    fn some_file(&mut self) -> Option<usize> {
        (!self.files.is_empty()).then(|| self.below(self.files.len() as u64) as usize)
    }

    fn some_block(&mut self, file: usize) -> Option<u64> {
        let last = *self.files[file].blocks.keys().next_back()?;
        let from = self.below(last + 1);
        self.files[file].blocks.range(from..).next().map(|(b, _)| *b)
    }

    fn step(&mut self, step: u64) -> Result<(), String> {
        self.drives.limit_ops(MOST_OPS);
        let Some(file) = self.some_file() else {
            self.fill()?;
            return Ok(());
        };
        let ino = self.files[file].ino;
        let volume = self.volume.clone();
        let available = self.available();
        match self.below(100) {
            // Overwriting what is there, whole or in part.
            0..=24 => {
                let Some(block) = self.some_block(file) else { return Ok(()) };
                let run = self.files[file].blocks.range(block..).zip(block..).take_while(|((b, _), n)| *b == n).count() as u64;
                let n = (1 + self.below(16)).min(run);
                self.write(file, block, n)?;
            }
            25..=32 => {
                let Some(block) = self.some_block(file) else { return Ok(()) };
                let Some(Block::Data(stamp)) = self.files[file].blocks.get(&block).copied() else { return Ok(()) };
                let at = self.below(B - 100);
                let result = volume.write(ino, block * B + at, &[stamp; 100], &WriteOptions::default());
                self.judge(format!("write 100 bytes within block {block} of file {file}"), true, result)?;
            }
            // New blocks, just what is available.
            33..=40 => {
                let n = (1 + self.below(40)).min(available);
                let end = self.files[file].blocks.keys().next_back().map_or(0, |b| b + 1);
                let at = end + self.below(3);
                if n > 0 {
                    self.write(file, at, n)?;
                }
            }
            // All of it at once.
            42 => {
                let end = self.files[file].blocks.keys().next_back().map_or(0, |b| b + 1);
                self.write(file, end, available.clamp(1, 2500))?;
            }
            // More than there is.
            41 => {
                let end = self.files[file].blocks.keys().next_back().map_or(0, |b| b + 1);
                self.write(file, end, (available + 1000).min(3000))?;
            }
            43..=49 => {
                self.judge("sync".into(), true, volume.sync())?;
            }
            50..=59 => {
                let set = SetAttr { mtime: Some(SetTime::Now), atime: Some(SetTime::Now), ..SetAttr::default() };
                self.judge(format!("utimes of file {file}"), true, volume.setattr(ino, &set))?;
            }
            60..=62 => {
                let set = SetAttr { mode: Some(0o600 + (step % 8) as u32), ..SetAttr::default() };
                self.judge(format!("chmod of file {file}"), true, volume.setattr(ino, &set))?;
            }
            63..=67 => {
                let name = format!("r{step}{}", "y".repeat(step as usize * 3 % 180));
                let result = volume.rename(Ino::ROOT, self.files[file].name.as_bytes(), Ino::ROOT, name.as_bytes(), RenameFlags::default());
                // What takes no more space goes always.
                let must = available >= NAMES || name.len() <= self.files[file].name.len();
                if self.judge(format!("rename of file {file}, {available} available"), must, result)? {
                    self.files[file].name = name;
                }
            }
            68..=71 => {
                let len = self.below(9000) as usize;
                let result = volume.setxattr(ino, b"user.x", &vec![7; len], 0);
                let must = available >= NAMES + len as u64 / 2048;
                if self.judge(format!("setxattr of {len} bytes on file {file}, {available} available"), must, result)? {
                    self.files[file].xattr = true;
                }
            }
            72 | 73 => {
                if std::mem::take(&mut self.files[file].xattr) {
                    self.judge(format!("removexattr on file {file}"), true, volume.removexattr(ino, b"user.x"))?;
                }
            }
            74..=76 => self.unlink(file)?,
            77..=79 => self.truncate(file)?,
            80..=82 => self.punch(file)?,
            83..=85 => self.preallocate(file)?,
            86..=88 => {
                self.create()?;
            }
            89..=92 => self.copy(file)?,
            93 => {
                self.judge("gc".into(), true, volume.gc(false))?;
            }
            94 => {
                self.judge("checkpoint".into(), true, volume.checkpoint())?;
            }
            95 | 96 => self.crash()?,
            97 => {
                drop(volume);
                self.remount()?;
            }
            _ => self.verify_one(file)?,
        }
        Ok(())
    }

    fn unlink(&mut self, file: usize) -> Result<(), String> {
        let gone = self.files.swap_remove(file);
        let result = self.volume.clone().unlink(Ino::ROOT, gone.name.as_bytes());
        self.judge(format!("unlink of a file of {} blocks", gone.blocks.len()), true, result)?;
        self.volume.forget(gone.ino);
        Ok(())
    }

    fn truncate(&mut self, file: usize) -> Result<(), String> {
        let Some(block) = self.some_block(file) else { return Ok(()) };
        let ragged = self.below(2) * self.below(B);
        let set = SetAttr { size: Some(block * B + ragged), ..SetAttr::default() };
        let result = self.volume.clone().setattr(self.files[file].ino, &set);
        self.judge(format!("truncate of file {file} to {block} blocks and {ragged} bytes"), true, result)?;
        self.files[file].blocks.split_off(&(block + u64::from(ragged > 0)));
        if ragged > 0 {
            // What is left of the block is partly zeros: the model forgets what it holds by filling it.
            self.write(file, block, 1)?;
        }
        Ok(())
    }

    fn punch(&mut self, file: usize) -> Result<(), String> {
        let Some(block) = self.some_block(file) else { return Ok(()) };
        let n = 1 + self.below(20);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let result = self.volume.clone().fallocate(self.files[file].ino, mode, block * B, n * B);
        self.judge(format!("punch {n} blocks at {block} of file {file}"), true, result)?;
        self.files[file].blocks.retain(|b, _| *b < block || *b >= block + n);
        Ok(())
    }

    fn preallocate(&mut self, file: usize) -> Result<(), String> {
        let end = self.files[file].blocks.keys().next_back().map_or(0, |b| b + 1);
        let available = self.available();
        let n = (1 + self.below(60)).min(available);
        if n == 0 {
            return Ok(());
        }
        let result = self.volume.clone().fallocate(self.files[file].ino, 0, end * B, n * B);
        if self.judge(format!("fallocate {n} blocks of file {file}, {available} available"), true, result)? {
            self.files[file].blocks.extend((end..end + n).map(|b| (b, Block::Zeros)));
        }
        Ok(())
    }

    fn copy(&mut self, from: usize) -> Result<(), String> {
        let to = self.some_file().expect("there is one");
        let Some(block) = self.some_block(from) else { return Ok(()) };
        if to == from {
            return Ok(());
        }
        let run = self.files[from].blocks.range(block..).zip(block..).take_while(|((b, _), n)| *b == n).count() as u64;
        let n = (1 + self.below(30)).min(run);
        let at = self.files[to].blocks.keys().next_back().map_or(0, |b| self.dice.random_range(0..=b + 1));
        let new = (at..at + n).filter(|b| !self.files[to].blocks.contains_key(b)).count() as u64;
        let available = self.available();
        let (source, target) = (self.files[from].ino, self.files[to].ino);
        let mut done = 0;
        while done < n {
            let result = self.volume.copy_file_range(source, (block + done) * B, target, (at + done) * B, (n - done) * B);
            let copied = result.as_ref().map_or(0, |bytes| bytes / B);
            let what = format!("copy {n} blocks ({new} new, {done} done) from file {from} to file {to}, {available} available");
            if !self.judge(what.clone(), new <= available, result)? {
                break;
            }
            if copied == 0 {
                return Err(format!("{what}: nothing was copied"));
            }
            for b in done..done + copied {
                match self.files[from].blocks.get(&(block + b)).copied() {
                    // A preallocated block reads as zeros: in the copy it is a hole.
                    Some(Block::Zeros) | None => {
                        self.files[to].blocks.remove(&(at + b));
                    }
                    Some(data) => {
                        self.files[to].blocks.insert(at + b, data);
                    }
                }
            }
            done += copied;
        }
        Ok(())
    }

    /// Everything durable, then a crash: no less is available than before, and all is there.
    fn crash(&mut self) -> Result<(), String> {
        let synced = self.volume.sync();
        self.judge("sync before a crash".into(), true, synced)?;
        let before = self.available();
        let survival = [Survival::KeepAll, Survival::LoseAll, Survival::Random][self.below(3) as usize];
        self.drives.crash(survival);
        self.mount_again(before, "a crash")
    }

    fn remount(&mut self) -> Result<(), String> {
        let before = self.available();
        let ended = self.volume.shutdown();
        self.judge("shutdown".into(), true, ended)?;
        self.mount_again(before, "an unmount")
    }

    fn mount_again(&mut self, before: u64, why: &str) -> Result<(), String> {
        self.mounts = self.mounts.wrapping_add(1);
        self.drives.limit_ops(MOST_OPS);
        self.volume = self.drives.mount(self.mounts).map_err(|e| format!("mounting after {why}: {e}"))?;
        let after = self.available();
        self.log.push(format!("{why}: {before} available before, {after} after"));
        if after + SLACK < before {
            return Err(format!("{before} blocks were available before {why}, {after} are after it"));
        }
        Ok(())
    }

    fn verify_one(&mut self, file: usize) -> Result<(), String> {
        let file = &self.files[file];
        for (block, expected) in &file.blocks {
            let read = self.volume.read(file.ino, block * B, BLOCK as u32).map_err(|e| format!("reading: {e}"))?;
            let byte = match expected {
                Block::Zeros => 0,
                Block::Data(stamp) => *stamp,
            };
            if read[..] != [byte; BLOCK] {
                return Err(format!("block {block} of {} is {} and should be {byte}", file.name, read[0]));
            }
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), String> {
        (0..self.files.len()).try_for_each(|file| self.verify_one(file))
    }

    /// Deletes everything: space comes back.
    fn empty(&mut self) -> Result<(), String> {
        while !self.files.is_empty() {
            self.drives.limit_ops(MOST_OPS);
            self.unlink(0)?;
        }
        self.drives.limit_ops(MOST_OPS);
        let ended = self.volume.checkpoint();
        self.judge("a last checkpoint".into(), true, ended)?;
        self.drives.check();
        let space = self.volume.statfs().map_err(|e| e.to_string())?;
        match space.available * 10 >= space.blocks * 9 {
            true => Ok(()),
            false => Err(format!("everything is deleted, {space:?}")),
        }
    }
}

/// Blocks of metadata that a mount may find in need of a place.
const SLACK: u64 = 8;
