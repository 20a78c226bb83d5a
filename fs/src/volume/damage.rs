//! Metadata that cannot be had: what that costs, and who is told.
//!
//! A block that fails its checksum, or cannot be read, costs what it holds and no more. While the log is rolled forward the changes that
//! concern it are skipped, and what they were about gives an error for as long as the volume is mounted: never what was there before them
//! (I7). From the moment when such a block is met by a mount, a commit or a checkpoint, nothing is written: the log and every copy of
//! what is there stay as they are, for whoever can repair them.
//!
//! Two things are needed for anything to be found at all: the root of the node map with what leads from it to the root of the tree, and
//! that root. Without them a mount is refused. The root directory's inode is not among them: where it is lost, another stands in for it.

use crate::core::halt::{BlockId, Halt, Planned};
use crate::core::key::{Class, Key};
use crate::core::nodes::map::FANOUT;
use crate::core::ops;
use crate::core::page::SortKey;
use crate::core::txn::{Txn, successor};
use crate::error::{FsError, Result};
use crate::format::item::{Inode, Intent};
use crate::format::record::Delta;
use crate::ids::Ino;
use crate::volume::Volume;
use crate::volume::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use zns::IoClass;

/// Why something could not be done, and the block that it would have needed, if that was the reason.
#[derive(Debug)]
pub(super) struct Unmet {
    pub block: Option<BlockId>,
    pub error: FsError,
}

impl Unmet {
    /// Is it about what is on the media, and not about the volume as a whole or this program?
    pub fn is_damage(&self) -> bool {
        match &self.error {
            FsError::Corrupt { .. } => true,
            FsError::Device(error) => self.block.is_some() && !matches!(error, zns::DeviceError::PowerLost),
            _ => false,
        }
    }
}

/// What of the log could not be rolled forward, and what was missed since. All but the gaps in listings is empty in a volume that is written to.
#[derive(Debug, Default)]
pub struct Lost {
    /// Blocks of files of which nobody knows what the log has made of them.
    content: BTreeMap<Ino, Vec<Range<u64>>>,
    /// Blocks of metadata that were missed.
    blocks: BTreeSet<BlockId>,
    /// In place of the root directory's inode.
    root: Option<Box<Inode>>,
    /// Directories of which a listing has left out what cannot be had, with the places behind which it is missing.
    pub gaps: BTreeMap<Ino, BTreeSet<u64>>,
    /// Changes in the log that could not be made, and why the first one could not.
    unapplied: Option<(u64, String)>,
}

impl Lost {
    /// What these blocks of a file hold is not known.
    pub fn lose(&mut self, ino: Ino, blocks: Range<u64>) {
        self.content.entry(ino).or_default().push(blocks);
    }

    /// These blocks were given a content that does not depend on what was there before.
    pub fn find(&mut self, ino: Ino, blocks: &Range<u64>) {
        let Some(lost) = self.content.get_mut(&ino) else { return };
        let around = |r: &Range<u64>| [r.start..r.end.min(blocks.start), r.start.max(blocks.end)..r.end];
        *lost = lost.iter().flat_map(around).filter(|r| r.start < r.end).collect();
    }

    /// Is the content of these blocks known?
    ///
    /// # Errors
    /// [`FsError::Corrupt`] if not.
    pub fn check(&self, ino: Ino, blocks: &Range<u64>) -> Planned<()> {
        let overlaps = |r: &&Range<u64>| r.start < blocks.end && blocks.start < r.end;
        match self.content.get(&ino).and_then(|lost| lost.iter().find(overlaps)) {
            None => Ok(()),
            Some(lost) => {
                let detail = format!(
                    "what was done to blocks {} to {} of inode {ino} is in the log, but not the metadata to apply it to",
                    lost.start,
                    lost.end - 1
                );
                Err(Halt::Fail(FsError::Corrupt { what: "content of a file", addr: crate::Addr::NONE, detail }))
            }
        }
    }

    /// A change in the log could not be made.
    pub fn note_unapplied(&mut self, error: &FsError) {
        self.unapplied.get_or_insert_with(|| (0, error.to_string())).0 += 1;
    }

    /// How much of the log could not be applied, in words.
    pub fn unapplied(&self) -> Option<String> {
        let (count, first) = self.unapplied.as_ref()?;
        Some(format!("{count} changes in it concern metadata that cannot be had, the first because of this: {first}"))
    }

    /// Files of which blocks have a content that nobody knows.
    pub fn files(&self) -> Vec<Ino> {
        self.content.iter().filter(|(_, lost)| !lost.is_empty()).map(|(ino, _)| *ino).collect()
    }

    /// Blocks of which nobody knows what the log has made of them, to be given up.
    pub fn take_content(&mut self) -> Vec<(Ino, Vec<Range<u64>>)> {
        std::mem::take(&mut self.content).into_iter().filter(|(_, lost)| !lost.is_empty()).collect()
    }

    /// What stands in for the root directory's inode.
    pub fn stand_in(&self) -> Option<&Inode> {
        self.root.as_deref()
    }
}

/// The blocks of a file that a delta is about, and whether it says all about them.
pub(super) fn content_of(delta: &Delta) -> Option<(Ino, Range<u64>, bool)> {
    let range = |first: u64, blocks: u64| first..first.saturating_add(blocks);
    match delta {
        Delta::Map { ino, block, checksums, .. } => Some((*ino, range(block.0, checksums.len() as u64), true)),
        Delta::Unmap { ino, block, blocks } => Some((*ino, range(block.0, *blocks), true)),
        Delta::Preallocate { ino, block, blocks } => Some((*ino, range(block.0, *blocks), false)),
        // Where the content lies, and nothing of what it is.
        Delta::Move(moved) => Some((moved.ino, range(moved.block.0, moved.blocks.into()), false)),
        Delta::Put { .. } | Delta::Remove { .. } | Delta::Release { .. } => None,
    }
}

impl Volume {
    /// Metadata that is needed cannot be had, even after it was read again: nothing is written from here on. Says so once for each block,
    /// with what it held.
    pub(super) fn lose(&self, unmet: &Unmet) {
        let what = {
            let mut state = self.state.lock();
            state.zones.set_incomplete();
            if let Some(id) = unmet.block {
                if !state.lost.blocks.insert(id) {
                    return;
                }
                format!("{} cannot be had: ", describe(&state, id))
            } else {
                String::new()
            }
        };
        let sentence = format!("the metadata is damaged: {what}{}", unmet.error);
        if self.read_only_reason().is_some() {
            tracing::error!("{sentence}");
        }
        self.fail(format!("{sentence}; copy away what can be read, fsck.ferryfs -n tells what is lost"));
    }

    /// [`Volume::lose`], and the error for whoever needed it.
    pub(super) fn lost(&self, unmet: Unmet) -> FsError {
        self.lose(&unmet);
        unmet.error
    }

    /// Makes blocks resident that a commit or a checkpoint cannot do without.
    ///
    /// # Errors
    /// What cannot be had, after it was tried again; then the volume is read-only.
    pub(super) fn load_or_fail(&self, ids: &[BlockId]) -> Result<()> {
        let Err(error) = self.read_again(|| self.load_for(ids, IoClass::Log)) else { return Ok(()) };
        if !self.lost_power(&error) {
            let missing = ids.iter().copied().find(|id| self.load_for(&[*id], IoClass::Log).is_err());
            self.lose(&Unmet { block: missing.or(ids.first().copied()), error: error.clone() });
        }
        Err(error)
    }

    /// Does the block hold nothing but summaries? Those can be made again from the extents, and only cleaning needs them.
    pub(super) fn holds_only_summaries(&self, id: BlockId) -> bool {
        let BlockId::Node(id) = id else { return false };
        let class = |key: SortKey| key.key().map(|key| key.class);
        let bounds = self.state.lock().tree.bounds_of(id);
        bounds.is_some_and(|(low, high)| class(low) == Some(Class::Summary) && high.and_then(class) == Some(Class::Summary))
    }

    /// The root of the tree, without which there is no volume.
    ///
    /// # Errors
    /// [`FsError::Volume`] if it cannot be had.
    pub(super) fn find_root(&self) -> Result<()> {
        let found = self.read_again(|| self.ask(|state| Ok(state.tree.store().get(state.tree.store().tree_root()).map(drop)?)));
        found.map_err(|error| match error {
            FsError::Corrupt { .. } | FsError::Device(_) if !self.lost_power(&error) => FsError::Volume(format!(
                "the root of the metadata cannot be had, and nothing can be found without it: {error}; fsck.ferryfs -n tells what is damaged"
            )),
            error => error,
        })
    }

    /// Looks at what a mount is about to need, before it writes anything: the root directory, what was left to be finished, and the pages of
    /// the node map that its checkpoint writes. What cannot be had makes the volume read-only.
    ///
    /// # Errors
    /// Any that is not damage.
    pub(super) fn look_ahead(&self) -> Result<()> {
        match self.try_again(|state| Ok(state.tree.get(&Key::inode(Ino::ROOT)).map(drop)?)) {
            Ok(()) => {}
            Err(unmet) if unmet.is_damage() => {
                self.lose(&unmet);
                self.state.lock().lost.root = Some(Box::new(self.made_up_root()));
            }
            Err(unmet) => return Err(unmet.error),
        }
        if !self.is_writable() {
            return Ok(());
        }
        let ready = self.look_at_intents().and_then(|()| self.try_again(|state| Ok(state.tree.store().cut_ready()?)));
        match ready {
            Err(unmet) if unmet.is_damage() => self.lose(&unmet),
            Err(unmet) => return Err(unmet.error),
            Ok(()) => {}
        }
        Ok(())
    }

    /// The first step of everything that [`Volume::resume_intents`] will do.
    fn look_at_intents(&self) -> std::result::Result<(), Unmet> {
        let mut from = Key::intent(Ino(0));
        loop {
            let found = self.try_again(|state| {
                let txn = || Txn::new(&state.tree, self.options.clock.now(), state.next_ino, self.identity.hash_key);
                let Some((key, intent)) = ops::next_intent(&txn(), from)? else { return Ok(None) };
                let mut txn = txn();
                match intent {
                    Intent::Free => ops::free_step(&mut txn, Ino(key.a), ops::STEP_EXTENTS)?,
                    Intent::Cut { .. } => ops::cut_step(&mut txn, Ino(key.a), ops::STEP_EXTENTS)?,
                };
                txn.into_deltas().iter().try_for_each(|delta| state.prepare(delta))?;
                Ok(Some(key))
            })?;
            let Some(behind) = found.and_then(successor) else { return Ok(()) };
            from = behind;
        }
    }

    /// [`Volume::try_change`], tried again where a device failed.
    pub(super) fn try_again<T>(&self, mut change: impl FnMut(&mut State) -> Planned<T>) -> std::result::Result<T, Unmet> {
        let mut outcome = self.try_change(IoClass::Foreground, &mut change);
        for _ in 0..super::recovery::READ_AGAIN {
            match &outcome {
                Err(unmet) if unmet.is_damage() && matches!(unmet.error, FsError::Device(_)) => {
                    outcome = self.try_change(IoClass::Foreground, &mut change);
                }
                _ => break,
            }
        }
        outcome
    }

    /// A page of the segment table cannot be had.
    pub(super) fn lose_zone_page(&self, page: u32, error: &FsError) {
        let zones = {
            let mut state = self.state.lock();
            state.zones.lose_page(page);
            state.zones.zones_of_page(page)
        };
        let first = zones.first().copied().unwrap_or_default();
        let sentence = format!(
            "the metadata is damaged: page {page} of the segment table (zones {} to {} of device {}) cannot be had: {error}",
            first.zone(),
            zones.last().copied().unwrap_or_default().zone(),
            first.device()
        );
        if self.read_only_reason().is_some() {
            tracing::error!("{sentence}");
        }
        self.fail(format!("{sentence}; files can be read without it, nothing can be written"));
    }

    fn made_up_root(&self) -> Inode {
        Inode { generation: 0, ..Inode::empty(Ino::ROOT, libc::S_IFDIR | 0o555, self.identity.created) }
    }
}

/// A block in words, with what it holds.
pub(super) fn describe(state: &State, id: BlockId) -> String {
    match id {
        BlockId::Map { level: 0, index } => {
            format!("page {index} of the node map (where nodes {} to {} lie)", index * FANOUT, (index + 1) * FANOUT - 1)
        }
        BlockId::Map { level, index } => format!("page {index} of level {level} of the node map"),
        BlockId::Node(node) => match state.tree.bounds_of(node) {
            None => format!("node {node}"),
            Some((low, high)) => {
                let from = low.key().map_or("the first item".into(), |key| key.to_string());
                let to = high.and_then(SortKey::key).map_or("the end".into(), |key| key.to_string());
                format!("node {node} (items from {from} up to {to})")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_lost_until_something_else_is_there() {
        let mut lost = Lost::default();
        let known = |lost: &Lost, blocks: Range<u64>| lost.check(Ino(7), &blocks).is_ok();
        assert!(known(&lost, 0..u64::MAX));
        lost.lose(Ino(7), 10..20);
        lost.lose(Ino(7), 15..30);
        assert!(known(&lost, 0..10) && known(&lost, 30..40) && !known(&lost, 9..11) && !known(&lost, 29..30));
        assert!(lost.check(Ino(8), &(0..100)).is_ok());
        lost.find(Ino(7), &(12..18));
        assert!(known(&lost, 12..18) && !known(&lost, 11..12) && !known(&lost, 18..19));
        lost.find(Ino(7), &(0..100));
        assert!(known(&lost, 0..u64::MAX));
    }
}
