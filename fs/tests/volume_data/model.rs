//! Files against a model of bytes, with the blocks they take and where their data is.

use super::{B, fresh_on, make, mount_with, options};
use fs::volume::{Cost, MountOptions, SetAttr, Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive};

const SPAN: u64 = 40 * B;

/// A file as bytes, with the blocks that it takes and those of them that hold data.
#[derive(Clone, Default)]
struct Model {
    bytes: Vec<u8>,
    taken: BTreeSet<u64>,
    data: BTreeSet<u64>,
}

impl Model {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[at as usize..end].copy_from_slice(bytes);
        for block in at / B..(end as u64).div_ceil(B) {
            self.taken.insert(block);
            self.data.insert(block);
        }
    }
    fn truncate(&mut self, size: u64) {
        let shrinks = size <= self.bytes.len() as u64;
        self.bytes.resize(size as usize, 0);
        if shrinks {
            self.taken.retain(|block| *block < size.div_ceil(B));
            self.data.retain(|block| *block < size.div_ceil(B));
        }
    }
    fn fallocate(&mut self, mode: i32, at: u64, len: u64) {
        let end = at + len;
        let size = self.bytes.len() as u64;
        let inner = at.div_ceil(B)..if end >= size { end.div_ceil(B) } else { end / B };
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            for i in at..end.min(size) {
                self.bytes[i as usize] = 0;
            }
            self.data.retain(|block| !inner.contains(block));
            self.taken.retain(|block| !inner.contains(block));
        }
        if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 {
            self.taken.extend(at / B..end.div_ceil(B));
        }
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && end > size {
            self.bytes.resize(end as usize, 0);
        }
    }
    /// What copying from `source` does, block by block where both positions are at the start of blocks.
    fn copy(&mut self, source: &Model, from: u64, to: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let (s, d, left) = (from + done, to + done, len - done);
            let ends_file = s + left == source.bytes.len() as u64 && d + left >= self.bytes.len() as u64;
            let whole = s % B == 0 && d % B == 0 && (left >= B || ends_file);
            let n = if from % B == to % B { (B - d % B).min(left) } else { left };
            let bytes = source.bytes[s as usize..(s + n) as usize].to_vec();
            self.write(d, &bytes);
            if whole && !source.data.contains(&(s / B)) {
                self.taken.remove(&(d / B));
                self.data.remove(&(d / B));
            }
            done += n;
        }
    }
    fn seek(&self, at: u64, data: bool) -> Option<u64> {
        let size = self.bytes.len() as u64;
        if at >= size {
            return None;
        }
        let found = (at / B..size.div_ceil(B)).find(|block| self.data.contains(block) == data).map(|block| (block * B).max(at));
        if data { found } else { Some(found.unwrap_or(size)) }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { file: usize, at: u64, len: u64, append: bool },
    Truncate { file: usize, size: u64 },
    Fallocate { file: usize, mode: i32, at: u64, len: u64 },
    Copy { from: usize, from_at: u64, to: usize, to_at: u64, len: u64 },
    Sync,
    Checkpoint,
    Clean,
    Crash,
}

fn place() -> impl Strategy<Value = u64> {
    prop_oneof![(0..SPAN / B).prop_map(|block| block * B), 0..SPAN]
}

fn op() -> impl Strategy<Value = Op> {
    let modes = [0, 1, 3, 16, 17];
    prop_oneof![
        8 => (0..2usize, place(), place(), any::<bool>()).prop_map(|(file, at, len, a)| Op::Write { file, at, len: len % (9 * B) + 1, append: a && at % 3 == 0 }),
        2 => (0..2usize, place()).prop_map(|(file, size)| Op::Truncate { file, size }),
        3 => (0..2usize, 0..modes.len(), place(), place()).prop_map(move |(file, mode, at, len)| Op::Fallocate { file, mode: modes[mode], at, len: len + 1 }),
        3 => (0..2usize, place(), 0..2usize, place(), place()).prop_map(|(from, from_at, to, to_at, len)| Op::Copy { from, from_at, to, to_at, len }),
        2 => Just(Op::Sync),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Clean),
        1 => Just(Op::Crash),
    ]
}

struct World {
    drive: SimDrive,
    options: MountOptions,
    volume: Option<Arc<Volume>>,
    files: [Ino; 2],
    models: [Model; 2],
    synced: [Model; 2],
    stamp: u8,
}

impl World {
    fn new(conventional: bool, small_cache: bool) -> Self {
        let drive = fresh_on(if conventional { SimConfig::conventional(64, 1) } else { SimConfig::zoned(64, 1) });
        let mut options = options(2);
        if small_cache {
            options.cache_size = 64 << 10;
        }
        let volume = mount_with(&drive, options.clone());
        let files = [make(&volume, "a"), make(&volume, "b")];
        volume.sync().expect("synced");
        Self { drive, options, volume: Some(volume), files, models: Default::default(), synced: Default::default(), stamp: 2 }
    }
    fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("mounted")
    }
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { file, at, len, append } => {
                self.stamp = self.stamp.wrapping_add(1);
                let bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8 ^ self.stamp | 1).collect();
                let at = if append { self.models[file].bytes.len() as u64 } else { at };
                let options = WriteOptions { append, ..WriteOptions::default() };
                let offset = if append { 0 } else { at };
                assert_eq!(self.volume().write(self.files[file], offset, &bytes, &options).expect("written"), len as usize);
                self.models[file].write(at, &bytes);
            }
            Op::Truncate { file, size } => {
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                let attr = self.volume().setattr(self.files[file], &set).expect("truncated");
                self.models[file].truncate(size);
                assert_eq!((attr.size, attr.blocks), (size, self.models[file].taken.len() as u64));
            }
            Op::Fallocate { file, mode, at, len } => {
                self.volume().fallocate(self.files[file], mode, at, len).expect("allocated");
                self.models[file].fallocate(mode, at, len);
            }
            Op::Copy { from, from_at, to, to_at, len } => {
                let copied = self.volume().copy_file_range(self.files[from], from_at, self.files[to], to_at, len);
                let source = self.models[from].clone();
                let len = len.min((source.bytes.len() as u64).saturating_sub(from_at));
                if from == to && from_at < to_at + len && to_at < from_at + len {
                    assert!(matches!(copied, Err(FsError::Invalid(_))), "{copied:?}");
                    return;
                }
                assert_eq!(copied.expect("copied"), len);
                self.models[to].copy(&source, from_at, to_at, len);
            }
            Op::Sync => {
                self.volume().sync().expect("synced");
                self.synced = self.models.clone();
            }
            Op::Checkpoint => {
                self.volume().checkpoint().expect("checkpoint");
                self.synced = self.models.clone();
            }
            Op::Clean => {
                self.volume().gc(false).expect("cleaned");
            }
            Op::Crash => {
                self.volume().sync().expect("synced");
                self.volume = None;
                self.drive.cut_power();
                self.drive.power_cycle();
                self.stamp = self.stamp.wrapping_add(1);
                self.options.secret = Some([self.stamp; 32]);
                self.volume = Some(mount_with(&self.drive, self.options.clone()));
            }
        }
    }
    fn check(&self) {
        for (ino, model) in self.files.iter().zip(&self.models) {
            let read = self.volume().read(*ino, 0, 1 << 20).expect("read");
            assert_eq!(read.len(), model.bytes.len());
            let wrong = read.iter().zip(&model.bytes).position(|(a, b)| a != b);
            assert_eq!(wrong.map(|at| (at as u64 / B, at as u64 % B)), None, "first wrong byte");
            let inode = self.volume().run(Cost::NOTHING, |txn| txn.inode(*ino)).expect("there");
            assert_eq!(inode.size, model.bytes.len() as u64);
            assert_eq!(inode.blocks, model.taken.len() as u64, "blocks");
            for at in (0..SPAN + B).step_by(BLOCK * 3 + 77) {
                for (whence, data) in [(libc::SEEK_DATA, true), (libc::SEEK_HOLE, false)] {
                    let found = match self.volume().seek(*ino, at, whence) {
                        Err(FsError::NoSuchOffset) => None,
                        other => Some(other.expect("seek")),
                    };
                    assert_eq!(found, model.seek(at, data), "seek from {at}, data {data}");
                }
                let part = self.volume().read(*ino, at, 5000).expect("read");
                let end = (at as usize + 5000).min(model.bytes.len());
                assert!(part[..] == model.bytes[(at as usize).min(end)..end]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_model_of_bytes(ops in prop::collection::vec(op(), 1..40), conventional: bool, small_cache: bool) {
        let mut world = World::new(conventional, small_cache);
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }
}
