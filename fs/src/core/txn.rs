//! A plan in the making: reads go through what the operation has changed so far to the resident tree; the result is a list of
//! deltas that [`crate::core`] applies as one. Nothing is changed until then, so a plan that lacks a block is simply made again.

use crate::addr::Addr;
use crate::core::halt::{BlockId, Halt, Planned};
use crate::core::key::{Class, Key};
use crate::error::FsError;
use crate::format::item::{Extent, Inode, Timestamp};
use crate::format::record::Delta;
use crate::ids::{FileBlock, Ino};
use gc::placement::Estimate;
use std::collections::BTreeMap;

/// Resident items. `Err` names a block that must be loaded first.
pub trait ItemView {
    /// The value of an item.
    ///
    /// # Errors
    /// The missing block.
    fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId>;
    /// The first item whose key is at or after `key`.
    ///
    /// # Errors
    /// The missing block.
    fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId>;
    /// The last item whose key is before `key`.
    ///
    /// # Errors
    /// The missing block.
    fn last_before(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId>;
}

/// A key and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside<'a> {
    /// The item before.
    pub before: (Key, &'a [u8]),
    /// The value of the key.
    pub at: Option<&'a [u8]>,
    /// What comes behind.
    pub behind: Behind<'a>,
}

/// What comes behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind<'a> {
    /// This item.
    Item(Key, &'a [u8]),
    /// Nothing before this key.
    NothingBefore(Key),
    /// Nothing at all.
    Nothing,
}

/// Items that can be changed: the resident tree. A change fails only for a block that is not resident, and then nothing has changed.
pub trait ItemTree: ItemView {
    /// Sets an item.
    ///
    /// # Errors
    /// The missing block.
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), BlockId>;
    /// Removes an item; was it there?
    ///
    /// # Errors
    /// The missing block.
    fn remove(&mut self, key: &Key) -> Result<bool, BlockId>;
    /// What stands at `key` and on either side of it, if that is quickly told: by one leaf. Setting the item needs nothing else then, as after
    /// [`ItemTree::touch`].
    ///
    /// # Errors
    /// The missing block.
    fn beside(&self, _key: &Key) -> Result<Option<Beside<'_>>, BlockId> {
        Ok(None)
    }
    /// Succeeds if everything is resident that setting or removing the item needs.
    ///
    /// # Errors
    /// The missing block.
    fn touch(&self, key: &Key) -> Result<(), BlockId>;
}

/// A plan.
pub struct Txn<'a> {
    view: &'a dyn ItemView,
    now: Timestamp,
    next_ino: u64,
    hash_key: [u8; 16],
    items: BTreeMap<Key, Option<Vec<u8>>>,
    extents: Vec<Delta>,
}

impl<'a> Txn<'a> {
    /// An empty plan. `next_ino`: the first inode number that was never used; `hash_key`: the volume's secret for name hashes.
    pub fn new(view: &'a dyn ItemView, now: Timestamp, next_ino: u64, hash_key: [u8; 16]) -> Self {
        Self { view, now, next_ino, hash_key, items: BTreeMap::new(), extents: Vec::new() }
    }

    /// The time of the operation.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The volume's secret for name hashes (SipHash key).
    pub fn hash_key(&self) -> &[u8; 16] {
        &self.hash_key
    }

    /// A number for a new inode.
    pub fn allocate_ino(&mut self) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        ino
    }

    /// The value of an item as this plan sees it.
    ///
    /// # Errors
    /// [`Halt::Need`] for a block that is not resident.
    pub fn get(&self, key: &Key) -> Planned<Option<Vec<u8>>> {
        match self.items.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.view.get(key)?.map(<[u8]>::to_vec)),
        }
    }

    /// Sets an item (not of the classes extent, checksum and summary).
    pub fn put(&mut self, key: Key, value: Vec<u8>) {
        debug_assert!(!matches!(key.class, Class::Extent | Class::Checksum | Class::Summary));
        self.items.insert(key, Some(value));
    }

    /// Removes an item (not of the classes extent, checksum and summary).
    pub fn remove(&mut self, key: Key) {
        debug_assert!(!matches!(key.class, Class::Extent | Class::Checksum | Class::Summary));
        self.items.insert(key, None);
    }

    /// The first item at or after `key` as this plan sees it.
    ///
    /// # Errors
    /// [`Halt::Need`] for a block that is not resident.
    pub fn first_at_or_after(&self, key: &Key) -> Planned<Option<(Key, Vec<u8>)>> {
        let mut from = *key;
        loop {
            let below = self.view.first_at_or_after(&from)?;
            let mine = self.items.range(from..).next();
            let mine_first = match (&below, mine) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some((key, _)), Some((mine, _))) => mine <= key,
            };
            let found = match (mine_first, mine, below) {
                (true, Some((key, value)), _) => (*key, value.clone()),
                (false, _, Some((key, value))) => (key, Some(value.to_vec())),
                _ => return Ok(None),
            };
            if let (key, Some(value)) = found {
                return Ok(Some((key, value)));
            }
            let Some(next) = successor(found.0) else { return Ok(None) };
            from = next;
        }
    }

    /// An inode.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if there is none, [`FsError::Corrupt`] if its item is damaged.
    pub fn inode(&self, ino: Ino) -> Planned<Inode> {
        let value = self.get(&Key::inode(ino))?.ok_or(FsError::NotFound)?;
        Inode::decode(ino, &value).ok_or_else(|| damaged("inode"))
    }

    /// Stores an inode.
    pub fn put_inode(&mut self, inode: &Inode) {
        self.put(Key::inode(inode.ino), inode.encode());
    }

    /// The first extent of `ino` that ends behind `block`, as the tree has it (this plan's own changes to extents are not seen:
    /// plan such steps one after the other).
    ///
    /// # Errors
    /// [`Halt::Need`] for a block that is not resident; [`FsError::Corrupt`].
    pub fn extent_at_or_after(&self, ino: Ino, block: FileBlock) -> Planned<Option<Extent>> {
        extent_at_or_after(self.view, ino, block)
    }

    /// The range becomes a hole.
    pub fn unmap(&mut self, ino: Ino, block: FileBlock, blocks: u64) {
        self.extents.push(Delta::Unmap { ino, block, blocks });
    }

    /// The holes of the range become preallocated.
    pub fn preallocate(&mut self, ino: Ino, block: FileBlock, blocks: u64) {
        self.extents.push(Delta::Preallocate { ino, block, blocks });
    }

    /// Blocks were copied to `addr`. Nobody estimates how often they will be written.
    pub fn map(&mut self, ino: Ino, block: FileBlock, addr: Addr, checksums: Vec<u32>) {
        self.extents.push(Delta::Map { ino, block, addr, checksums, estimate: Estimate::UNKNOWN });
    }

    /// The plan as deltas: items by key, then extents in the order planned.
    pub fn into_deltas(self) -> Vec<Delta> {
        let items = self.items.into_iter().map(|(key, value)| match value {
            Some(value) => Delta::Put { key, value },
            None => Delta::Remove { key },
        });
        items.chain(self.extents).collect()
    }
}

/// The first extent of `ino` that ends behind `block`.
///
/// # Errors
/// [`Halt::Need`] for a block that is not resident; [`FsError::Corrupt`].
pub fn extent_at_or_after(view: &dyn ItemView, ino: Ino, block: FileBlock) -> Planned<Option<Extent>> {
    let decode = |key: Key, value: &[u8]| crate::core::extents::sound_extent(FileBlock(key.b), value);
    let of_file = |key: &Key| key.class == Class::Extent && key.a == ino.0;
    if let Some((key, value)) = view.last_before(&Key::extent(ino, FileBlock(block.0.saturating_add(1))))?
        && of_file(&key)
    {
        let extent = decode(key, value)?;
        if extent.end() > block {
            return Ok(Some(extent));
        }
    }
    match view.first_at_or_after(&Key::extent(ino, block))? {
        Some((key, value)) if of_file(&key) => Ok(Some(decode(key, value)?)),
        _ => Ok(None),
    }
}

/// The key right behind `key`.
pub fn successor(key: Key) -> Option<Key> {
    if key.b < u64::MAX {
        return Some(Key { b: key.b + 1, ..key });
    }
    if key.a < u64::MAX {
        return Some(Key { a: key.a + 1, b: 0, ..key });
    }
    Class::from_u8(key.class as u8 + 1).map(|class| Key { class, a: 0, b: 0 })
}

/// An item whose value cannot be what its key says.
pub fn damaged(what: &'static str) -> Halt {
    Halt::Fail(FsError::Corrupt { what, addr: Addr::NONE, detail: "the item cannot be decoded".into() })
}
