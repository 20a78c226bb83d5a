//! Lengths, holes and preallocation against a naive file: a list of sectors and a list of blocks.

use super::memory::Shell;
use super::name_of;
use crate::addr::Addr;
use crate::core::key::{Class, Key};
use crate::core::ops::*;
use crate::ids::Ino;
use crate::volume::{Caller, SetAttr};
use proptest::prelude::*;
use std::collections::BTreeMap;
use zns::{DeviceId, ZoneId};

/// Bytes in a sector, and sectors in a block.
const SECTOR: u64 = 512;
const PER: u64 = 8;
const BLOCKS: u64 = 200;
const SECTORS: u64 = BLOCKS * PER;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hole,
    Unwritten,
    Written,
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Comb(u64),
    Resize(u64),
    Fallocate(i32, u64, u64),
    CutStep,
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    (0..SECTORS, 1..200u64).prop_map(|(from, len)| (from, len.min(SECTORS - from)))
}

fn op() -> impl Strategy<Value = Op> {
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let modes = vec![0, keep, keep | libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE, keep | libc::FALLOC_FL_ZERO_RANGE];
    prop_oneof![
        2 => range().prop_map(|(from, len)| Op::Write(from, len)),
        1 => (0..BLOCKS / 2).prop_map(Op::Comb),
        2 => (0..=SECTORS).prop_map(Op::Resize),
        4 => (prop::sample::select(modes), range()).prop_map(|(mode, (from, len))| Op::Fallocate(mode, from, len)),
        1 => Just(Op::CutStep),
    ]
}

/// The naive file.
struct Naive {
    sectors: Vec<bool>,
    blocks: Vec<State>,
    size: u64,
}

impl Naive {
    fn write(&mut self, from: u64, len: u64) {
        for sector in from..from + len {
            self.sectors[sector as usize] = true;
            self.blocks[(sector / PER) as usize] = State::Written;
        }
        self.size = self.size.max(from + len);
    }
    fn resize(&mut self, size: u64) {
        if size <= self.size {
            for block in size.div_ceil(PER)..BLOCKS {
                self.blocks[block as usize] = State::Hole;
            }
            self.sectors[size as usize..].fill(false);
        }
        self.size = size;
    }
    fn fallocate(&mut self, mode: i32, from: u64, len: u64) {
        let end = from + len;
        let (punch, zero) = (mode & libc::FALLOC_FL_PUNCH_HOLE != 0, mode & libc::FALLOC_FL_ZERO_RANGE != 0);
        if punch || zero {
            self.sectors[from as usize..end as usize].fill(false);
        }
        for block in from / PER..end.div_ceil(PER) {
            let state = &mut self.blocks[block as usize];
            let whole = block * PER >= from && ((block + 1) * PER <= end || end >= self.size);
            *state = match *state {
                _ if punch && whole => State::Hole,
                _ if zero && whole => State::Unwritten,
                State::Hole if !punch => State::Unwritten,
                state => state,
            };
        }
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
            self.size = self.size.max(end);
        }
    }
}

/// The file under test: its content lies here, as on a device.
struct Real {
    shell: Shell,
    ino: Ino,
    media: BTreeMap<u64, [bool; PER as usize]>,
    next: u32,
}

impl Real {
    fn new() -> Self {
        let mut shell = Shell::default();
        let ino = shell.run(|txn| mknod(txn, Ino::ROOT, b"f", 0o644, 0, &Caller::default())).expect("a file").ino;
        Self { shell, ino, media: BTreeMap::new(), next: 1 }
    }
    fn content(&self, block: u64) -> (State, [bool; PER as usize]) {
        let extents = self.shell.memory.extents(self.ino);
        match extents.iter().find(|extent| extent.block.0 <= block && block < extent.end().0) {
            None => (State::Hole, Default::default()),
            Some(extent) if extent.is_unwritten() => (State::Unwritten, Default::default()),
            Some(extent) => (State::Written, self.media[&extent.addr.plus((block - extent.block.0) as u32).0]),
        }
    }
    /// Writes sectors as the shell does: whole blocks, out of place.
    fn fill(&mut self, from: u64, len: u64, value: bool) {
        for block in from / PER..(from + len).div_ceil(PER) {
            let mut content = self.content(block).1;
            for sector in (block * PER).max(from)..((block + 1) * PER).min(from + len) {
                content[(sector % PER) as usize] = value;
            }
            self.next += 2;
            let addr = Addr::new(DeviceId(0), ZoneId(3), self.next);
            self.media.insert(addr.0, content);
            self.shell.memory.write(self.ino, block, 1, addr);
        }
    }
    fn finish_cut(&mut self) {
        while self.shell.run(|txn| cut_step(txn, self.ino, 5)).expect("a step") == Step::More {}
    }
    fn write(&mut self, from: u64, len: u64) {
        let cut = self.shell.run(|txn| pending_cut(txn, self.ino)).expect("an intent");
        if cut.is_some_and(|cut| (from + len).div_ceil(PER) > cut.0) {
            self.finish_cut();
        }
        self.fill(from, len, true);
        let mut inode = self.shell.memory.inode(self.ino).expect("there");
        inode.size = inode.size.max((from + len) * SECTOR);
        self.shell.memory.set(Key::inode(self.ino), inode.encode());
    }
    fn resize(&mut self, size: u64) {
        let set = SetAttr { size: Some(size * SECTOR), ..SetAttr::default() };
        loop {
            let done = self.shell.run(|txn| setattr(txn, self.ino, &set)).expect("a length");
            let Setattr::Done { resize: Some(resize), .. } = done else {
                self.finish_cut();
                continue;
            };
            if let Some((from, len)) = resize.tail().filter(|(from, _)| self.content(from / 4096).0 == State::Written) {
                self.fill(from / SECTOR, len / SECTOR, false);
            }
            return;
        }
    }
    fn fallocate(&mut self, mode: i32, from: u64, len: u64) {
        let (mut offset, end) = (from * SECTOR, (from + len) * SECTOR);
        loop {
            let before = self.shell.memory.extents(self.ino);
            let size = self.shell.memory.inode(self.ino).expect("there").size;
            let done = match self.shell.run(|txn| fallocate(txn, self.ino, mode, offset, end - offset)).expect("planned") {
                Fallocate::Done(done) => done,
                Fallocate::CutFirst => {
                    self.finish_cut();
                    continue;
                }
            };
            let count = |unwritten: bool, extents: &[crate::format::item::Extent]| -> u64 {
                extents.iter().filter(|extent| extent.is_unwritten() == unwritten).map(|extent| u64::from(extent.blocks)).sum()
            };
            let after = self.shell.memory.extents(self.ino);
            assert_eq!(done.freed, count(false, &before) - count(false, &after));
            if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 {
                assert_eq!(done.preallocated, count(true, &after) - count(true, &before));
            }
            for (from, len) in done.edges {
                assert!(ragged_parts(offset..end, size).any(|part| part == (from..from + len)), "{offset}..{end} of {size}: {from} {len}");
                assert!(from / 4096 == (from + len - 1) / 4096 && self.content(from / 4096).0 == State::Written);
                self.fill(from / SECTOR, len / SECTOR, false);
            }
            match done.next {
                Some(next) => offset = next,
                None => return,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_as_its_naive_twin(ops in prop::collection::vec(op(), 1..25)) {
        let mut real = Real::new();
        let mut naive = Naive { sectors: vec![false; SECTORS as usize], blocks: vec![State::Hole; BLOCKS as usize], size: 0 };
        for op in ops {
            match op {
                Op::Write(from, len) => {
                    naive.write(from, len);
                    real.write(from, len);
                }
                Op::Comb(start) => {
                    for block in (start..BLOCKS).step_by(2) {
                        naive.write(block * PER, PER);
                        real.write(block * PER, PER);
                    }
                }
                Op::Resize(size) => {
                    naive.resize(size);
                    real.resize(size);
                }
                Op::Fallocate(mode, from, len) => {
                    naive.fallocate(mode, from, len);
                    real.fallocate(mode, from, len);
                }
                Op::CutStep => drop(real.shell.run(|txn| cut_step(txn, real.ino, 3)).expect("a step")),
            }
            real.shell.self_check();
            let inode = real.shell.memory.inode(real.ino).expect("there");
            prop_assert_eq!(inode.size, naive.size * SECTOR);
            let pending = real.shell.run(|txn| pending_cut(txn, real.ino)).expect("an intent");
            for block in 0..BLOCKS {
                let (state, content) = real.content(block);
                if pending.is_none_or(|cut| block < cut.0) {
                    prop_assert_eq!(state, naive.blocks[block as usize], "block {}", block);
                    prop_assert_eq!(&content[..], &naive.sectors[(block * PER) as usize..][..PER as usize], "block {}", block);
                }
            }
        }
        real.finish_cut();
        let blocks = naive.blocks.iter().filter(|state| **state != State::Hole).count();
        prop_assert_eq!(real.shell.memory.inode(real.ino).expect("there").blocks, blocks as u64);
        real.shell.run(|txn| unlink(txn, Ino::ROOT, b"f")).expect("there");
        while real.shell.run(|txn| free_step(txn, real.ino, 7)).expect("a step") == Step::More {}
        prop_assert_eq!([Class::Extent, Class::Checksum, Class::Intent].map(|class| real.shell.memory.keys(class).len()), [0; 3]);
    }
}

#[test]
fn refused_ranges_and_modes() {
    let mut real = Real::new();
    let table = [
        (0, 0, 0, "Invalid"),
        (0, u64::MAX, 1, "FileTooLarge"),
        (0, 16 << 40, 1, "FileTooLarge"),
        (libc::FALLOC_FL_PUNCH_HOLE, 0, 1, "Unsupported"),
        (libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096, "Unsupported"),
        (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 1, "Unsupported"),
    ];
    for (mode, offset, len, expected) in table {
        let found = real.shell.run(|txn| fallocate(txn, real.ino, mode, offset, len));
        assert_eq!(name_of(&found.expect_err("refused")), expected);
    }
    assert_eq!(name_of(&real.shell.run(|txn| fallocate(txn, Ino::ROOT, 0, 0, 1)).expect_err("refused")), "IsADirectory");
    // The largest range takes several plans, since an extent counts its blocks in 32 bits.
    let mut offset = 0;
    let mut plans = 0;
    loop {
        let Fallocate::Done(done) = real.shell.run(|txn| fallocate(txn, real.ino, 0, offset, (16 << 40) - offset)).expect("planned") else {
            panic!("no cut")
        };
        plans += 1;
        let Some(next) = done.next else { break };
        assert_eq!(done.inode.size, 0, "the length comes last");
        offset = next;
    }
    assert_eq!((plans, real.shell.memory.inode(real.ino).expect("there").blocks), (4, 1 << 32));
}
