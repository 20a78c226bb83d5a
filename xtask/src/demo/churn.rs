//! Files that are overwritten and deleted at random; what they must hold is known by seed and generation, chunk by chunk.

use crate::interrupt;
use anyhow::{Context, Result, ensure};
use harness::Pattern;
use harness::bytes::MIB;
use harness::content::Dice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const FILE: u64 = 8 * MIB;
/// What one overwrite replaces: small against a zone, so that no zone dies by itself and the cleaner has to move.
const CHUNK: u64 = 64 << 10;
const CHUNKS: u64 = FILE / CHUNK;
/// Overwrites between two looks at the status.
const ROUND: u64 = 512;

/// The files and what is known of them.
pub struct Churn {
    directory: PathBuf,
    files: Vec<Entry>,
    names: u64,
    dice: Dice,
    overwritten: u64,
}

struct Entry {
    name: u64,
    generations: Vec<u32>,
}

impl Churn {
    /// As many files as fit into `room`.
    pub fn new(directory: PathBuf, room: u64) -> Result<Churn> {
        std::fs::create_dir(&directory)?;
        let count = room / FILE;
        ensure!(count > 8, "there is too little room left to overwrite anything in");
        let files = (0..count).map(Entry::new).collect();
        Ok(Churn { directory, files, names: count, dice: Dice::new(85), overwritten: 0 })
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.len() as u64 * FILE
    }

    /// How much was overwritten so far.
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Writes every file for the first time.
    pub fn fill(&self, progress: impl Fn(u64)) -> Result<()> {
        for entry in &self.files {
            interrupt::check()?;
            self.write(entry)?;
            progress(FILE);
        }
        Ok(())
    }

    /// Overwrites chunks at random, and replaces one file by a new one.
    pub fn round(&mut self) -> Result<()> {
        let mut buffer = vec![0; CHUNK as usize];
        for _ in 0..ROUND {
            let which = self.dice.below(self.files.len() as u64) as usize;
            let chunk = self.dice.below(CHUNKS);
            let entry = &mut self.files[which];
            entry.generations[chunk as usize] += 1;
            entry.fill(chunk, &mut buffer);
            let path = self.directory.join(entry.name.to_string());
            let file = File::options().write(true).open(&path).with_context(|| path.display().to_string())?;
            file.write_all_at(&buffer, chunk * CHUNK).context("overwriting")?;
            self.overwritten += CHUNK;
        }
        let which = self.dice.below(self.files.len() as u64) as usize;
        std::fs::remove_file(self.directory.join(self.files[which].name.to_string()))?;
        self.files[which] = Entry::new(self.names);
        self.names += 1;
        self.write(&self.files[which])?;
        self.overwritten += FILE;
        Ok(())
    }

    /// Deletes files of at least so many bytes.
    pub fn delete(&mut self, bytes: u64) -> Result<()> {
        let count = (bytes.div_ceil(FILE) as usize).min(self.files.len());
        for entry in self.files.drain(..count) {
            std::fs::remove_file(self.directory.join(entry.name.to_string()))?;
        }
        Ok(())
    }

    /// Compares every chunk with what was written last.
    pub fn compare(&self, progress: impl Fn(u64)) -> Result<()> {
        let mut names = std::fs::read_dir(&self.directory)?.count();
        let mut buffer = vec![0; CHUNK as usize];
        let mut expected = buffer.clone();
        for entry in &self.files {
            interrupt::check()?;
            let path = self.directory.join(entry.name.to_string());
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            ensure!(file.metadata()?.len() == FILE, "{} has the wrong length", path.display());
            for chunk in 0..CHUNKS {
                file.read_exact_at(&mut buffer, chunk * CHUNK).with_context(|| path.display().to_string())?;
                entry.fill(chunk, &mut expected);
                ensure!(buffer == expected, "{} differs at {}", path.display(), chunk * CHUNK);
            }
            progress(FILE);
            names -= 1;
        }
        ensure!(names == 0, "{names} files are there that were deleted");
        Ok(())
    }

    fn write(&self, entry: &Entry) -> Result<()> {
        let path = self.directory.join(entry.name.to_string());
        let file = File::create_new(&path).with_context(|| path.display().to_string())?;
        let mut buffer = vec![0; MIB as usize];
        for (at, piece) in (0..FILE).step_by(buffer.len()).enumerate() {
            for (n, chunk) in buffer.chunks_mut(CHUNK as usize).enumerate() {
                entry.fill(at as u64 * (MIB / CHUNK) + n as u64, chunk);
            }
            file.write_all_at(&buffer, piece).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

impl Entry {
    fn new(name: u64) -> Entry {
        Entry { name, generations: vec![0; CHUNKS as usize] }
    }

    fn fill(&self, chunk: u64, buffer: &mut [u8]) {
        let generation = u64::from(self.generations[chunk as usize]);
        Pattern(self.name).with(chunk).with(generation).fill(0, buffer);
    }
}
