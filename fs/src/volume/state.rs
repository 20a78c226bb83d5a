//! Everything that changes while a volume is mounted, behind one lock that is never held across I/O (I6).

use crate::addr::Addr;
use crate::core::extents::{self, Change, LiveCounts};
use crate::core::halt::{BlockId, Planned};
use crate::core::key::{Class, Key};
use crate::core::tree::Tree;
use crate::core::zones::ZoneTable;
use crate::format::record::Delta;
use crate::format::segment::Role;
use crate::ids::Ino;
use crate::volume::damage::Lost;
use crate::volume::lifetime::Orphan;
use crate::volume::log::LogWriter;
use crate::volume::moved::Moved;
use crate::volume::pages::DirtyPages;
use crate::volume::room::Line;
use gc::placement::Estimate;
use std::collections::{BTreeMap, HashMap};

/// Deltas that were applied and are not in the log yet. Items are coalesced: a batch is all or nothing, so only their last values
/// matter; changes of extents keep their order.
#[derive(Debug, Default)]
pub struct Pending {
    /// Last values.
    pub items: BTreeMap<Key, Option<Vec<u8>>>,
    /// Changes of extents.
    pub extents: Vec<Delta>,
    /// Bytes they will take in the log, about.
    pub bytes: usize,
}

impl Pending {
    /// Notes an applied delta.
    pub fn add(&mut self, delta: Delta) {
        self.bytes += delta.encoded_len();
        match delta {
            Delta::Put { key, value } => {
                if let Some(Some(old)) = self.items.insert(key, Some(value)) {
                    self.bytes = self.bytes.saturating_sub(old.len() + Key::LEN + 3);
                }
            }
            Delta::Remove { key } => {
                self.items.insert(key, None);
            }
            extents => self.extents.push(extents),
        }
    }
    /// Nothing to log?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.extents.is_empty()
    }
    /// Takes all as deltas.
    pub fn take(&mut self) -> impl Iterator<Item = Delta> + use<> {
        let taken = std::mem::take(self);
        let items = taken.items.into_iter().map(|(key, value)| match value {
            Some(value) => Delta::Put { key, value },
            None => Delta::Remove { key },
        });
        items.chain(taken.extents)
    }
}

impl LiveCounts for ZoneTable {
    fn add(&mut self, addr: Addr, blocks: u32) {
        self.add_live(addr, blocks);
    }
    fn sub(&mut self, addr: Addr, blocks: u32) {
        self.sub_live(addr, blocks);
    }
    fn expect(&mut self, estimate: Estimate, blocks: i64) {
        ZoneTable::expect(self, estimate, blocks);
    }
    fn add_unwritten(&mut self, blocks: u64) {
        self.change_unwritten(blocks as i64);
    }
    fn sub_unwritten(&mut self, blocks: u64) {
        self.change_unwritten(-(blocks as i64));
    }
}

/// See the module.
pub struct State {
    /// All metadata.
    pub tree: Tree,
    /// All zones.
    pub zones: ZoneTable,
    /// File data not yet on a device.
    pub pages: DirtyPages,
    /// Deltas not yet in the log.
    pub pending: Pending,
    /// Relocations not yet in the log.
    pub moved: Moved,
    /// First inode number never used.
    pub next_ino: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Open files and how often.
    pub opens: HashMap<Ino, u32>,
    /// Inodes without a link that wait for their last user.
    pub orphans: HashMap<Ino, Orphan>,
    /// Steps of freeing such inodes, counted: space has come back since somebody looked.
    pub freed: u64,
    /// Inodes to be freed in the background.
    pub to_free: Vec<Ino>,
    /// When the oldest change that is not durable was made.
    pub oldest_change: Option<std::time::Instant>,
    /// The log.
    pub log: LogWriter,
    /// Generation of the last superblock written.
    pub generation: u64,
    /// The batch that is being gathered.
    pub batch: u64,
    /// Batches up to this one are on the devices, perhaps not flushed.
    pub appended: u64,
    /// Batches up to this one are durable.
    pub flushed: u64,
    /// The log no longer tells the truth (a data or log write failed): only a checkpoint makes anything durable.
    pub force_checkpoint: bool,
    /// Space in head zones that a copy is filling; the head belongs to the copy until it gives the space back.
    pub held: BTreeMap<u64, Held>,
    /// Names the next one.
    pub next_held: u64,
    /// Bytes logged since the last checkpoint.
    pub logged: u64,
    /// Those who wait for room.
    pub line: Line,
    /// What of the log could not be rolled forward.
    pub lost: Lost,
    /// Where blocks go by what they are expected to do, if the placement of this mount says that.
    pub estimates: Option<gc::placement::BlockEstimates>,
    /// Or by what is known of the zones they lie in: one of the published placements.
    pub by_zone: Option<gc::placement::ByZone>,
    /// Or as MiDAS has it.
    pub midas: Option<gc::placement::MidasZones>,
}

/// Space at the end of a head zone, held by one copy (I1: one copy in flight per destination zone).
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// First block.
    pub addr: Addr,
    /// Blocks granted.
    pub blocks: u32,
    /// The head of relocation that it is of; none: a copy that users asked for.
    pub relocation: Option<(Role, u8)>,
}

impl State {
    /// What the batch in preparation must be to cover everything acknowledged so far.
    pub fn newest_batch(&self) -> u64 {
        if self.pending.is_empty() && self.pages.dirty_blocks() == 0 { self.batch - 1 } else { self.batch }
    }

    /// Everything that applying `delta` needs is resident.
    ///
    /// # Errors
    /// What is not.
    pub fn prepare(&self, delta: &Delta) -> Planned<()> {
        extents::prepare(&self.tree, delta)
    }

    /// Applies a delta, running and in roll-forward alike (decision 6).
    ///
    /// # Errors
    /// Only what [`State::prepare`] would have said before.
    pub fn apply(&mut self, delta: &Delta) -> Planned<Change> {
        if let Delta::Put { key, .. } | Delta::Remove { key } = delta
            && key.class == Class::Inode
        {
            let existed = self.tree.get(key)?.is_some();
            let exists = matches!(delta, Delta::Put { .. });
            self.inodes = (self.inodes + u64::from(exists && !existed)).saturating_sub(u64::from(existed && !exists));
            self.next_ino = self.next_ino.max(key.a.saturating_add(1));
        }
        let change = extents::apply(&mut self.tree, &mut self.zones, delta)?;
        self.settle_released();
        Ok(change)
    }

    /// [`State::prepare`] and [`State::apply`] in one for a delta that maps blocks, but for the summaries, which cannot be had.
    ///
    /// # Errors
    /// As [`State::prepare`].
    pub fn apply_content(&mut self, delta: &Delta) -> Planned<()> {
        extents::prepare_content(&self.tree, delta)?;
        extents::apply_content(&mut self.tree, &mut self.zones, delta)?;
        self.settle_released();
        Ok(())
    }

    /// Blocks of freed nodes die.
    pub fn settle_released(&mut self) {
        for addr in self.tree.store_mut().take_released() {
            self.zones.sub_live(addr, 1);
        }
    }

    /// Keeps room for the dirty pages there are.
    pub fn sync_promised(&mut self) {
        self.zones.set_promised(self.pages.dirty_blocks());
    }

    /// Blocks of metadata that have no place on a device yet.
    pub fn unplaced(&self) -> u64 {
        self.tree.store().unplaced_blocks()
    }

    /// Blocks that users may still take.
    ///
    /// One part in 32 of what is free stays for the metadata of the rest, so that a request within it does not fail (I8).
    pub fn available(&self) -> u64 {
        let free = self.free();
        (free - free / 32).saturating_sub(64)
    }

    /// Blocks that may still be taken: more than is called available, so that a request for all of that is not refused because the
    /// metadata of others has grown meanwhile.
    pub fn admissible(&self) -> u64 {
        let free = self.free();
        (free - free / 64).saturating_sub(32)
    }

    /// Blocks that nobody has taken.
    pub fn free(&self) -> u64 {
        self.zones.total().saturating_sub(self.zones.used(self.unplaced()))
    }
}

/// What must be resident before something can go on: several blocks at once.
#[derive(Debug, Default)]
pub struct Missing(pub Vec<BlockId>);
