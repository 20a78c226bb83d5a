//! Work without a bound, in bounded steps that may be repeated: freeing an inode that has no name left, and cutting off what lies beyond
//! a file's new end.
//!
//! A step that finds nothing to do is done, so a crash between steps, or between the last step and its acknowledgement, costs nothing but
//! doing the step again. An inode can carry both intents (a file that is truncated after its last name went), under keys of their own.

use super::mapped::{Limit, measure};
use super::{STEP_BLOCKS, STEP_ITEMS};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{Txn, damaged, successor};
use crate::format::item::{Inode, Intent};
use crate::ids::{FileBlock, Ino};

/// What is left after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the intent is gone.
    Done,
    /// Take another step once this one is applied.
    More,
}

/// Behind the last block that a file can have.
const END: FileBlock = FileBlock(u64::MAX);

/// One step of freeing an inode without names: its extents from the front, then extended attributes and link target, and with the last
/// of them the inode itself and its intents. The shell takes it when nobody has the inode open. An inode that has a name is left alone; what
/// belongs to an inode that is gone already goes too.
///
/// # Errors
/// `Need`; `Corrupt`.
pub fn free_step(txn: &mut Txn, ino: Ino, max_extents: u32) -> Planned<Step> {
    let mut inode = stored(txn, ino)?;
    if inode.as_ref().is_some_and(|inode| inode.nlink > 0) {
        return Ok(Step::Done);
    }
    let mut complete = unmap_from(txn, ino, FileBlock(0), max_extents, &mut inode)?;
    let mut left = STEP_ITEMS;
    for class in [Class::Xattr, Class::XattrValue, Class::Symlink] {
        complete = complete && remove_all(txn, class, ino, &mut left)?;
    }
    if complete {
        for key in [Key::inode(ino), Key::intent(ino), Key::cut(ino)] {
            if txn.get(&key)?.is_some() {
                txn.remove(key);
            }
        }
        return Ok(Step::Done);
    }
    inode.iter().for_each(|inode| txn.put_inode(inode));
    Ok(Step::More)
}

/// One step of cutting off what lies at or beyond the block that the inode's cut intent names.
///
/// # Errors
/// `Need`; `Corrupt`.
pub fn cut_step(txn: &mut Txn, ino: Ino, max_extents: u32) -> Planned<Step> {
    let Some(from) = pending_cut(txn, ino)? else { return Ok(Step::Done) };
    let mut inode = stored(txn, ino)?;
    let complete = unmap_from(txn, ino, from, max_extents, &mut inode)?;
    inode.iter().for_each(|inode| txn.put_inode(inode));
    if !complete {
        return Ok(Step::More);
    }
    txn.remove(Key::cut(ino));
    Ok(Step::Done)
}

fn stored(txn: &Txn, ino: Ino) -> Planned<Option<Inode>> {
    let decode = |value: Vec<u8>| Inode::decode(ino, &value).ok_or_else(|| damaged("inode"));
    txn.get(&Key::inode(ino))?.map(decode).transpose()
}

/// The first block of what is still to be cut off. Whatever maps or preallocates blocks at or beyond it, or makes the file reach beyond
/// it, must take [`cut_step`] until it is done, first.
///
/// # Errors
/// `Need`; `Corrupt`.
pub fn pending_cut(txn: &Txn, ino: Ino) -> Planned<Option<FileBlock>> {
    match txn.get(&Key::cut(ino))?.map(|value| Intent::decode(&value)) {
        None => Ok(None),
        Some(Some(Intent::Cut { from })) => Ok(Some(from)),
        Some(_) => Err(damaged("intent")),
    }
}

/// The first intent whose key is at or after `from`, with its key: what a mount finds to be finished. Start with `Key::intent(Ino(0))`
/// and go on behind each key that came back.
///
/// # Errors
/// `Need`; `Corrupt`.
pub fn next_intent(txn: &Txn, from: Key) -> Planned<Option<(Key, Intent)>> {
    match txn.first_at_or_after(&from)? {
        Some((key, value)) if key.class == Class::Intent => {
            let intent = Intent::decode(&value).ok_or_else(|| damaged("intent"))?;
            Ok(Some((key, intent)))
        }
        _ => Ok(None),
    }
}

/// Unmaps what a step may of all that lies at or beyond `from`; `blocks` of the inode (which the caller stores) follows. Was that all?
pub(super) fn unmap_from<'i>(
    txn: &mut Txn,
    ino: Ino,
    from: FileBlock,
    max_extents: u32,
    inode: impl IntoIterator<Item = &'i mut Inode>,
) -> Planned<bool> {
    let limit = Limit { extents: max_extents.max(1), written: STEP_BLOCKS };
    let seen = measure(txn, ino, from, END, limit)?;
    if seen.blocks > 0 {
        txn.unmap(ino, seen.start, seen.end.0 - seen.start.0);
    }
    for inode in inode {
        inode.blocks = inode.blocks.saturating_sub(seen.blocks);
    }
    Ok(seen.complete)
}

/// Removes all items of a class that an inode has, within `left`. Was that all?
fn remove_all(txn: &mut Txn, class: Class, ino: Ino, left: &mut u32) -> Planned<bool> {
    let mut from = Key::new(class, ino.0, 0);
    while let Some((key, _)) = txn.first_at_or_after(&from)?.filter(|(key, _)| key.class == class && key.a == ino.0) {
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        txn.remove(key);
        let Some(next) = successor(key) else { break };
        from = next;
    }
    Ok(true)
}
