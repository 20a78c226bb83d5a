//! A tree of items in memory, and one that has to be asked several times: every plan is made against both.

use crate::addr::Addr;
use crate::core::extents::{self, Uncounted};
use crate::core::halt::{BlockId, Halt, Planned};
use crate::core::key::{Class, Key};
use crate::core::ops::Cost;
use crate::core::txn::{ItemTree, ItemView, Txn};
use crate::error::FsError;
use crate::format::item::{Extent, Inode, Timestamp};
use crate::format::record::Delta;
use crate::ids::{FileBlock, Ino};
use gc::placement::Estimate;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Key of the name hashes in tests.
pub const SECRET: [u8; 16] = *b"secret of a test";

/// Items in a map.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Memory {
    items: BTreeMap<Key, Vec<u8>>,
}

impl ItemView for Memory {
    fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId> {
        Ok(self.items.get(key).map(Vec::as_slice))
    }
    fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        Ok(self.items.range(key..).next().map(|(key, value)| (*key, value.as_slice())))
    }
    fn last_before(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        Ok(self.items.range(..key).next_back().map(|(key, value)| (*key, value.as_slice())))
    }
}

impl Memory {
    /// An empty volume: a root directory.
    pub fn volume() -> Self {
        let mut memory = Self::default();
        let root = Inode { generation: 42, ..Inode::empty(Ino::ROOT, libc::S_IFDIR | 0o755, Timestamp { sec: 1, nsec: 0 }) };
        memory.set(Key::inode(Ino::ROOT), root.encode());
        memory
    }
    pub fn set(&mut self, key: Key, value: Vec<u8>) {
        self.items.insert(key, value);
    }
    pub fn unset(&mut self, key: &Key) {
        self.items.remove(key);
    }
    pub fn keys(&self, class: Class) -> Vec<Key> {
        self.items.keys().filter(|key| key.class == class).copied().collect()
    }
    pub fn inode(&self, ino: Ino) -> Option<Inode> {
        self.items.get(&Key::inode(ino)).map(|value| Inode::decode(ino, value).expect("an inode"))
    }
    /// The extents of a file.
    pub fn extents(&self, ino: Ino) -> Vec<Extent> {
        let all = self.items.range(Key::extent(ino, FileBlock(0))..=Key::extent(ino, FileBlock(u64::MAX)));
        all.map(|(key, value)| Extent::decode(FileBlock(key.b), value).expect("an extent")).collect()
    }
    /// Maps blocks as writing does, `blocks` of the inode included.
    pub fn write(&mut self, ino: Ino, block: u64, blocks: u32, addr: Addr) {
        self.apply(Delta::Map { ino, block: FileBlock(block), addr, checksums: vec![0; blocks as usize], estimate: Estimate::UNKNOWN });
        let mut inode = self.inode(ino).expect("a file");
        inode.blocks = self.extents(ino).iter().map(|extent| u64::from(extent.blocks)).sum();
        self.set(Key::inode(ino), inode.encode());
    }

    /// Applies a delta as the volume does.
    pub fn apply(&mut self, delta: Delta) {
        if let Delta::Put { value, .. } = &delta {
            assert!(value.len() <= crate::format::item::MAX_ITEM, "an item of {} bytes", value.len());
        }
        extents::apply(self, &mut Uncounted, &delta).expect("everything is resident");
    }
}

impl ItemTree for Memory {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), BlockId> {
        self.items.insert(*key, value.to_vec());
        Ok(())
    }
    fn remove(&mut self, key: &Key) -> Result<bool, BlockId> {
        Ok(self.items.remove(key).is_some())
    }
    fn touch(&self, _: &Key) -> Result<(), BlockId> {
        Ok(())
    }
}

/// A view in which every item lies in one of a few blocks that must be loaded first.
struct Needy<'a> {
    memory: &'a Memory,
    loaded: RefCell<BTreeSet<u64>>,
    salt: u64,
}

impl Needy<'_> {
    fn touch(&self, key: &Key) -> Result<(), BlockId> {
        let mixed = (key.a ^ key.b.rotate_left(17) ^ (key.class as u64) << 40 ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let block = mixed >> 60;
        if self.loaded.borrow().contains(&block) { Ok(()) } else { Err(BlockId::Node(crate::ids::NodeId(block))) }
    }
}

impl ItemView for Needy<'_> {
    fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId> {
        self.touch(key)?;
        self.memory.get(key)
    }
    fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        self.touch(key)?;
        self.memory.first_at_or_after(key)
    }
    fn last_before(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        self.touch(key)?;
        self.memory.last_before(key)
    }
}

/// A shell: clock, inode numbers, and plans that are applied.
pub struct Shell {
    pub memory: Memory,
    pub next_ino: u64,
    pub clock: i64,
    /// Items and bytes of the last plan.
    pub spent: Cost,
    salt: u64,
}

impl Default for Shell {
    fn default() -> Self {
        Self { memory: Memory::volume(), next_ino: 2, clock: 1000, spent: Cost { leaves: 0, log_bytes: 0 }, salt: 0 }
    }
}

impl Shell {
    pub fn now(&self) -> Timestamp {
        Timestamp { sec: self.clock, nsec: 7 }
    }

    /// Plans until no block is missing, checks that the plan is the same as with everything resident, and applies it.
    pub fn run<R: std::fmt::Debug>(&mut self, op: impl Fn(&mut Txn) -> Planned<R>) -> Result<R, FsError> {
        self.clock += 1;
        let (result, deltas) = self.plan(&op);
        let items = deltas.iter().filter(|delta| extents::file_of(delta).is_none()).count() as u32;
        self.spent = Cost { leaves: items, log_bytes: deltas.iter().map(|delta| delta.encoded_len() as u32).sum() };
        for delta in deltas {
            if let Delta::Put { key: Key { class: Class::Inode, a, .. }, .. } = &delta {
                self.next_ino = self.next_ino.max(a + 1);
            }
            self.memory.apply(delta);
        }
        result
    }

    /// Fails if the last plan took more than `bound`, were each of its items in a leaf of its own.
    pub fn check_cost(&self, bound: Cost) {
        assert!(self.spent.leaves <= bound.leaves && self.spent.log_bytes <= bound.log_bytes, "{:?} exceeds {bound:?}", self.spent);
    }

    fn plan<R: std::fmt::Debug>(&mut self, op: &impl Fn(&mut Txn) -> Planned<R>) -> (Result<R, FsError>, Vec<Delta>) {
        self.salt = self.salt.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut resident = Txn::new(&self.memory, self.now(), self.next_ino, SECRET);
        let expected = op(&mut resident);
        let view = Needy { memory: &self.memory, loaded: RefCell::default(), salt: self.salt };
        loop {
            let mut txn = Txn::new(&view, self.now(), self.next_ino, SECRET);
            let result = match op(&mut txn) {
                Err(Halt::Need(BlockId::Node(block))) => {
                    assert!(view.loaded.borrow_mut().insert(block.0), "asked twice for one block");
                    continue;
                }
                Err(Halt::Need(other)) => panic!("unknown block {other:?}"),
                Err(Halt::Fail(error)) => Err(error),
                Ok(result) => Ok(result),
            };
            assert_eq!(format!("{:?}", expected.as_ref().ok()), format!("{:?}", result.as_ref().ok()));
            if result.is_err() {
                return (result, Vec::new());
            }
            let deltas = txn.into_deltas();
            assert_eq!(resident.into_deltas(), deltas, "a plan depends on what was resident");
            return (result, deltas);
        }
    }

    /// Fails if the counts in the inodes are not what the items say.
    pub fn self_check(&self) {
        use crate::format::item::Dirent;
        let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut children: BTreeMap<Ino, (u64, u32)> = BTreeMap::new();
        for key in self.memory.keys(Class::Dirent) {
            let entry = Dirent::decode(&self.memory.items[&key]).expect("an entry");
            let inode = self.memory.inode(entry.ino).expect("an entry leads to an inode");
            assert_eq!(u32::from(entry.kind) << 12, inode.kind());
            *names.entry(entry.ino).or_default() += 1;
            let parent = children.entry(Ino(key.a)).or_default();
            parent.0 += 1;
            if inode.is_dir() {
                parent.1 += 1;
                assert_eq!(inode.parent, Ino(key.a), "parent of {}", inode.ino);
            }
        }
        for key in self.memory.keys(Class::Inode) {
            let inode = self.memory.inode(Ino(key.a)).expect("an inode");
            let (entries, subdirs) = children.get(&inode.ino).copied().unwrap_or_default();
            let names = names.get(&inode.ino).copied().unwrap_or_default();
            let orphan = names == 0 && inode.ino != Ino::ROOT;
            match inode.is_dir() {
                true if orphan => assert_eq!(inode.nlink, 0),
                true => assert_eq!(inode.nlink, 2 + subdirs),
                false => assert_eq!(inode.nlink, names),
            }
            assert_eq!(orphan, self.memory.items.contains_key(&Key::intent(inode.ino)));
            if inode.is_dir() {
                assert_eq!((inode.entries, inode.size), (entries, entries * 32));
            }
            let blocks: u64 = self.memory.extents(inode.ino).iter().map(|extent| u64::from(extent.blocks)).sum();
            assert_eq!(inode.blocks, blocks, "blocks of {}", inode.ino);
        }
    }
}
