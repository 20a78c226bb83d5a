//! Sequences of operations, drawn like those of ACE: all of one and two operations over a small set of arguments, with something that makes durable (or
//! cleans, or unmounts) between and behind them, and of three as many as wanted.

use super::kind::ids;
use crate::sim::model::{Id, ROOT};
use crate::sim::operation::Operation;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Operations, one after the other.
pub type Sequence = Vec<Operation>;

/// What may stand between operations, and at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seam {
    /// Nothing.
    Nothing,
    /// fsync of a file.
    Fsync,
    /// sync of the volume.
    Sync,
    /// A checkpoint.
    Checkpoint,
    /// Cleaning of a zone, and the checkpoint that makes it count.
    Clean,
    /// A clean unmount and a mount.
    Remount,
}

impl Seam {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Nothing, Self::Fsync, Self::Sync, Self::Checkpoint, Self::Clean, Self::Remount];

    fn operations(self) -> Vec<Operation> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Fsync => vec![Operation::Fsync { id: ids::FOO }],
            Self::Sync => vec![Operation::Sync],
            Self::Checkpoint => vec![Operation::Checkpoint],
            Self::Clean => vec![Operation::Gc { until_clean: false }, Operation::Checkpoint],
            Self::Remount => vec![Operation::Remount],
        }
    }
}

/// Operations that change something, with all arguments that are tried. `place`: where in its sequence one stands, so that what it makes is its own.
pub fn alphabet(place: usize) -> Vec<Operation> {
    let id = 100 + place as Id;
    let stamp = 1000 + place as u64;
    let name = |text: &str| text.as_bytes().to_vec();
    let write = |id, offset, len, append, sync| Operation::Write { id, offset, len, stamp, append, sync };
    let rename = |from: (Id, &str), to: (Id, &str), exchange| Operation::Rename {
        from: (from.0, name(from.1)),
        to: (to.0, name(to.1)),
        exchange,
        no_replace: false,
    };
    let fallocate = |mode, offset, len| Operation::Fallocate { id: ids::FOO, mode, offset, len };
    let (keep, punch, zero) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
    vec![
        Operation::Create { parent: ROOT, name: name("new"), id },
        Operation::Create { parent: ids::A, name: name("foo"), id },
        Operation::Mkdir { parent: ROOT, name: name("dir"), id },
        Operation::Symlink { parent: ROOT, name: name("sym"), id, target: vec![b't'; 60] },
        Operation::Link { id: ids::FOO, parent: ids::A, name: name("foo") },
        Operation::Link { id: ids::BAR, parent: ROOT, name: name("bar") },
        Operation::Unlink { parent: ROOT, name: name("foo"), hold: false },
        Operation::Unlink { parent: ids::A, name: name("bar"), hold: true },
        Operation::Rmdir { parent: ROOT, name: name("E") },
        rename((ROOT, "foo"), (ids::A, "bar"), false),
        rename((ROOT, "foo"), (ids::A, "foo"), false),
        rename((ROOT, "A"), (ROOT, "B"), false),
        rename((ROOT, "foo"), (ids::A, "bar"), true),
        write(ids::FOO, 10_000, 5_000, true, false),
        write(ids::FOO, 0, 4096, false, false),
        write(ids::FOO, 3_000, 3_000, false, false),
        write(ids::FOO, 40_960, 100, false, false),
        write(ids::FOO, 4096, 4096, false, true),
        write(ids::BAR, 0, 60_000, false, false),
        Operation::Truncate { id: ids::FOO, size: 5_000 },
        Operation::Truncate { id: ids::FOO, size: 30_000 },
        fallocate(0, 8192, 16_384),
        fallocate(keep, 20_480, 8192),
        fallocate(punch | keep, 4096, 4096),
        fallocate(zero, 100, 5_000),
        Operation::SetXattr { id: ids::FOO, name: name("user.a"), len: 20, stamp },
        Operation::SetXattr { id: ids::FOO, name: name("user.long"), len: 3_000, stamp },
        Operation::RemoveXattr { id: ids::FOO, name: name("user.base") },
        Operation::CopyRange { from: (ids::FOO, 0), to: (ids::BAR, 0), len: 8192 },
        Operation::CopyRange { from: (ids::BIG, 3 * 4096), to: (ids::FOO, 12_288), len: 20 * 4096 },
        Operation::CopyRange { from: (ids::BIG, 100), to: (ids::BAR, 50), len: 9_000 },
        Operation::Chmod { id: ids::FOO, mode: 0o600 },
    ]
}

fn joined(parts: &[(&Operation, Seam)]) -> Sequence {
    parts.iter().flat_map(|(op, seam)| std::iter::once((*op).clone()).chain(seam.operations())).collect()
}

/// All sequences of one operation, with each seam behind it.
pub fn singles() -> Vec<Sequence> {
    alphabet(0).iter().flat_map(|op| Seam::ALL.map(|seam| joined(&[(op, seam)]))).collect()
}

/// All sequences of two operations; `between` and `behind`: the seams that are tried, of which an empty set means one drawn for each pair.
pub fn pairs(between: &[Seam], behind: &[Seam], seed: u64) -> Vec<Sequence> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = |seams: &[Seam]| if seams.is_empty() { vec![Seam::ALL[rng.random_range(0..Seam::ALL.len())]] } else { seams.to_vec() };
    let (firsts, seconds) = (alphabet(0), alphabet(1));
    let mut found = Vec::new();
    for first in &firsts {
        for second in &seconds {
            let behind = drawn(behind);
            for middle in drawn(between) {
                found.extend(behind.iter().map(|end| joined(&[(first, middle), (second, *end)])));
            }
        }
    }
    found
}

/// So many sequences of three operations.
pub fn triples(count: usize, seed: u64) -> Vec<Sequence> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let alphabets = [alphabet(0), alphabet(1), alphabet(2)];
    let mut one = |place: usize| {
        let op = alphabets[place].choose(&mut rng).expect("there are operations");
        (op, Seam::ALL[rng.random_range(0..Seam::ALL.len())])
    };
    (0..count).map(|_| joined(&[one(0), one(1), one(2)])).collect()
}
