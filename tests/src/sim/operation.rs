//! What programs do to a volume, drawn at random from what is there.

use super::model::{Id, Kind, Model, ROOT, Refusal};
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Create {
        parent: Id,
        name: Vec<u8>,
        id: Id,
    },
    Mkdir {
        parent: Id,
        name: Vec<u8>,
        id: Id,
    },
    Symlink {
        parent: Id,
        name: Vec<u8>,
        id: Id,
        target: Vec<u8>,
    },
    Link {
        id: Id,
        parent: Id,
        name: Vec<u8>,
    },
    /// With `hold` the file stays open until the next mount.
    Unlink {
        parent: Id,
        name: Vec<u8>,
        hold: bool,
    },
    Rmdir {
        parent: Id,
        name: Vec<u8>,
    },
    Rename {
        from: (Id, Vec<u8>),
        to: (Id, Vec<u8>),
        exchange: bool,
        no_replace: bool,
    },
    Write {
        id: Id,
        offset: u64,
        len: usize,
        stamp: u64,
        append: bool,
        sync: bool,
    },
    Truncate {
        id: Id,
        size: u64,
    },
    Fallocate {
        id: Id,
        mode: i32,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: (Id, u64),
        to: (Id, u64),
        len: u64,
    },
    Chmod {
        id: Id,
        mode: u32,
    },
    SetXattr {
        id: Id,
        name: Vec<u8>,
        len: usize,
        stamp: u64,
    },
    RemoveXattr {
        id: Id,
        name: Vec<u8>,
    },
    Read {
        id: Id,
        offset: u64,
        len: u32,
    },
    Fsync {
        id: Id,
    },
    Sync,
    Checkpoint,
    /// Cleans one zone, or until nothing is left to clean.
    Gc {
        until_clean: bool,
    },
    /// Unmounts cleanly and mounts again.
    Remount,
}

impl Operation {
    /// Its name, for counting.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Mkdir { .. } => "mkdir",
            Self::Symlink { .. } => "symlink",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Write { .. } => "write",
            Self::Truncate { .. } => "truncate",
            Self::Fallocate { .. } => "fallocate",
            Self::CopyRange { .. } => "copy_file_range",
            Self::Chmod { .. } => "chmod",
            Self::SetXattr { .. } => "setxattr",
            Self::RemoveXattr { .. } => "removexattr",
            Self::Read { .. } => "read",
            Self::Fsync { .. } => "fsync",
            Self::Sync => "sync",
            Self::Checkpoint => "checkpoint",
            Self::Gc { .. } => "gc",
            Self::Remount => "remount",
        }
    }

    /// Does everything before it survive a power cut, once it has succeeded?
    pub fn is_barrier(&self) -> bool {
        matches!(self, Self::Fsync { .. } | Self::Sync | Self::Checkpoint | Self::Remount | Self::Write { sync: true, .. })
    }

    /// The file whose content or attributes it changes by a descriptor, which needs no name.
    pub fn writes_to(&self) -> Option<Id> {
        match self {
            Self::Write { id, .. } | Self::Truncate { id, .. } | Self::Fallocate { id, .. } | Self::Chmod { id, .. } => Some(*id),
            Self::SetXattr { id, .. } | Self::RemoveXattr { id, .. } => Some(*id),
            Self::CopyRange { to, .. } => Some(to.0),
            _ => None,
        }
    }

    /// Does it change what programs see?
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Fsync { .. } | Self::Sync | Self::Checkpoint | Self::Gc { .. } | Self::Remount)
    }

    /// The same on the model, at `now`.
    pub fn apply(&self, model: &mut Model, now: i64) -> Result<(), Refusal> {
        match self {
            Self::Create { parent, name, id } => {
                model.make(*parent, name, *id, 0o644, Kind::File { size: 0, blocks: Default::default() }, now)
            }
            Self::Mkdir { parent, name, id } => model.make(*parent, name, *id, 0o755, Kind::Directory(Default::default()), now),
            Self::Symlink { parent, name, id, target } => model.make(*parent, name, *id, 0o777, Kind::Symlink(target.clone()), now),
            Self::Link { id, parent, name } => model.link(*id, *parent, name, now),
            Self::Unlink { parent, name, .. } => model.unlink(*parent, name, now),
            Self::Rmdir { parent, name } => model.rmdir(*parent, name, now),
            Self::Rename { from, to, exchange, no_replace } => model.rename((from.0, &from.1), (to.0, &to.1), *exchange, *no_replace, now),
            Self::Write { id, offset, len, stamp, .. } => model.write(*id, *offset, &content(*stamp, *len), now),
            Self::Truncate { id, size } => model.truncate(*id, *size, now),
            Self::Fallocate { id, mode, offset, len } => {
                let zeroes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
                model.fallocate(*id, zeroes, mode & libc::FALLOC_FL_KEEP_SIZE != 0, (*offset, *len), now)
            }
            Self::CopyRange { from, to, len } => model.copy_range(*from, *to, *len, now).map(drop),
            Self::Chmod { id, mode } => model.chmod(*id, *mode, now),
            Self::SetXattr { id, name, len, stamp } => model.set_xattr(*id, name, &content(*stamp, *len), now),
            Self::RemoveXattr { id, name } => model.remove_xattr(*id, name, now),
            Self::Read { .. } | Self::Fsync { .. } | Self::Sync | Self::Checkpoint | Self::Gc { .. } | Self::Remount => Ok(()),
        }
    }
}

/// What a write with this stamp writes: every word tells where it belongs.
pub fn content(stamp: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let seed = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (n, word) in out.chunks_mut(8).enumerate() {
        let value = seed.wrapping_add((n as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)).to_le_bytes();
        word.copy_from_slice(&value[..word.len()]);
    }
    out
}

/// How operations are drawn.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Most bytes of one write.
    pub write: usize,
    /// Length that files reach.
    pub reach: u64,
    /// Files that are kept, about.
    pub files: usize,
    /// Of a thousand operations, how many clean.
    pub cleaning: u32,
    /// Of a thousand operations, how many make durable.
    pub barriers: u32,
    /// Copies of ranges are made.
    pub copies: bool,
}

/// Draws operations.
pub struct Chooser {
    habits: Habits,
    next_id: Id,
    stamp: u64,
}

const NAMES: [&[u8]; 12] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j", b"k", b"l"];
const XATTRS: [&[u8]; 4] = [b"user.a", b"user.b", b"user.longer name", b"trusted.c"];
const ALLOCATE: i32 = 0;
const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

impl Chooser {
    /// A chooser that has drawn nothing yet.
    pub fn new(habits: Habits) -> Self {
        Self { habits, next_id: 1, stamp: 1 }
    }

    /// An operation on what `model` holds.
    pub fn draw(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        let roll = rng.random_range(0..1000u32);
        let (gc, barrier) = (self.habits.cleaning, self.habits.barriers);
        if roll < gc {
            return Operation::Gc { until_clean: rng.random_range(0..8) == 0 };
        }
        if roll < gc + barrier {
            return self.barrier(model, rng);
        }
        self.change(model, rng)
    }

    fn barrier(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        match rng.random_range(0..10) {
            0..5 => Operation::Fsync { id: files(model).choose(rng).copied().unwrap_or(ROOT) },
            5..7 => Operation::Sync,
            7..9 => Operation::Checkpoint,
            _ => Operation::Remount,
        }
    }

    fn change(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        let files = files(model);
        let few = files.len() < self.habits.files;
        let Some(&id) = files.choose(rng) else { return self.create(model, rng) };
        match rng.random_range(0..100) {
            0..10 if few => self.create(model, rng),
            0..16 => self.unlink(model, rng),
            16..55 => self.write(model, id, rng),
            55..62 => Operation::Truncate { id, size: self.place(model, id, rng) },
            62..67 => {
                let mode = [ALLOCATE, KEEP, PUNCH, ZERO, ZERO_KEEP][rng.random_range(0..5)];
                Operation::Fallocate { id, mode, offset: self.place(model, id, rng), len: rng.random_range(1..=self.habits.reach / 2) }
            }
            67..74 if self.habits.copies => self.copy(model, &files, rng),
            67..76 => Operation::Read { id, offset: self.place(model, id, rng), len: rng.random_range(1..100_000) },
            76..80 => self.mkdir(model, rng),
            80..82 => self.symlink(model, rng),
            82..85 => Operation::Link { id, parent: directory(model, rng), name: name(rng) },
            85..91 => {
                let flag = rng.random_range(0..12);
                let from = some_entry(model, rng).unwrap_or((ROOT, name(rng)));
                Operation::Rename { from, to: (directory(model, rng), name(rng)), exchange: flag < 2, no_replace: flag == 2 }
            }
            91..93 => Operation::Rmdir { parent: directory(model, rng), name: name(rng) },
            93..95 => Operation::Chmod { id: anything(model, rng), mode: rng.random_range(0..0o1000) },
            95..98 => {
                let len = if rng.random_range(0..4) == 0 { rng.random_range(1000..9000) } else { rng.random_range(0..200) };
                Operation::SetXattr { id: anything(model, rng), name: xattr(rng), len, stamp: self.stamp() }
            }
            _ => Operation::RemoveXattr { id: anything(model, rng), name: xattr(rng) },
        }
    }

    fn stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn id(&mut self) -> Id {
        self.next_id += 1;
        self.next_id - 1
    }

    fn create(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        Operation::Create { parent: directory(model, rng), name: name(rng), id: self.id() }
    }

    fn mkdir(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        Operation::Mkdir { parent: directory(model, rng), name: name(rng), id: self.id() }
    }

    fn symlink(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        let len = if rng.random_range(0..3) == 0 { rng.random_range(1000..4000) } else { rng.random_range(1..60) };
        Operation::Symlink { parent: directory(model, rng), name: name(rng), id: self.id(), target: vec![b't'; len] }
    }

    fn unlink(&mut self, model: &Model, rng: &mut dyn RngCore) -> Operation {
        let (parent, name) = some_entry(model, rng).unwrap_or((ROOT, name(rng)));
        Operation::Unlink { parent, name, hold: rng.random_range(0..6) == 0 }
    }

    /// An offset: often at a block's border, often at the file's end.
    fn place(&self, model: &Model, id: Id, rng: &mut dyn RngCore) -> u64 {
        let size = size(model, id);
        match rng.random_range(0..10) {
            0..2 => size,
            2..4 => rng.random_range(0..=size),
            4..7 => rng.random_range(0..=self.habits.reach / 4096) * 4096,
            7 => 0,
            _ => rng.random_range(0..=self.habits.reach),
        }
    }

    fn write(&mut self, model: &Model, id: Id, rng: &mut dyn RngCore) -> Operation {
        let most = self.habits.write;
        let len = match rng.random_range(0..4) {
            0 => rng.random_range(1..200),
            1 => rng.random_range(1..=most.div_ceil(4096)) * 4096,
            _ => rng.random_range(1..=most),
        };
        let append = rng.random_range(0..6) == 0;
        let offset = if append { size(model, id) } else { self.place(model, id, rng) };
        Operation::Write { id, offset, len, stamp: self.stamp(), append, sync: rng.random_range(0..20) == 0 }
    }

    fn copy(&mut self, model: &Model, files: &[Id], rng: &mut dyn RngCore) -> Operation {
        let from = *files.choose(rng).expect("there are files");
        let to = *files.choose(rng).expect("there are files");
        let len = rng.random_range(1..=self.habits.reach);
        let aligned = rng.random();
        let mut place = |id| {
            let at = self.place(model, id, rng);
            if aligned { at / 4096 * 4096 } else { at }
        };
        let (mut from_at, mut to_at) = (place(from), place(to));
        if from == to && from_at.abs_diff(to_at) < len {
            (from_at, to_at) = (from_at, from_at + len.next_multiple_of(4096));
        }
        if rng.random_range(0..4) == 0 {
            from_at = 0;
        }
        if from == to && from_at.abs_diff(to_at) < len {
            to_at = from_at + len;
        }
        Operation::CopyRange { from: (from, from_at), to: (to, to_at), len }
    }
}

fn size(model: &Model, id: Id) -> u64 {
    match model.node(id).map(|node| &node.kind) {
        Some(Kind::File { size, .. }) => *size,
        _ => 0,
    }
}

fn name(rng: &mut dyn RngCore) -> Vec<u8> {
    match rng.random_range(0..30) {
        0 => vec![b'n'; rng.random_range(200..=255)],
        _ => NAMES[rng.random_range(0..NAMES.len())].to_vec(),
    }
}

fn xattr(rng: &mut dyn RngCore) -> Vec<u8> {
    XATTRS[rng.random_range(0..XATTRS.len())].to_vec()
}

fn files(model: &Model) -> Vec<Id> {
    model.nodes().filter(|(_, node)| matches!(node.kind, Kind::File { .. })).map(|(id, _)| id).collect()
}

fn directory(model: &Model, rng: &mut dyn RngCore) -> Id {
    let all: Vec<Id> = model.nodes().filter(|(_, node)| matches!(node.kind, Kind::Directory(_))).map(|(id, _)| id).collect();
    if rng.random() { ROOT } else { all.choose(rng).copied().unwrap_or(ROOT) }
}

fn anything(model: &Model, rng: &mut dyn RngCore) -> Id {
    let all: Vec<Id> = model.nodes().filter(|(_, node)| !matches!(node.kind, Kind::Symlink(_))).map(|(id, _)| id).collect();
    all.choose(rng).copied().unwrap_or(ROOT)
}

fn some_entry(model: &Model, rng: &mut dyn RngCore) -> Option<(Id, Vec<u8>)> {
    let dir = directory(model, rng);
    let names: Vec<&Vec<u8>> = model.entries(dir)?.keys().collect();
    names.choose(rng).map(|name| (dir, name.to_vec()))
}
