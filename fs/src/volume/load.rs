//! Bringing metadata in, and the loop around every operation: plan, load what is missing, plan again, apply.

use crate::BLOCK;
use crate::core::halt::{BlockId, Halt, Planned};
use crate::core::txn::Txn;
use crate::error::{FsError, Result};
use crate::volume::Volume;
use crate::volume::damage::Unmet;
use crate::volume::state::State;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use zns::IoClass;

/// What an operation may take, at worst; checked before it does anything (I8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// New blocks of data or preallocation, and of metadata that stays.
    pub blocks: u64,
    /// It only gives space back, or takes none: it may use the checkpoint reserve.
    pub deletion: bool,
    /// It hardly takes any: it may also have what is kept back from others ([`State::admissible`]).
    pub small: bool,
    /// A deletion that may take a little, again and again: only so long as what there is may be exceeded
    /// ([`may_be_exceeded`](crate::core::zones::ZoneTable::may_be_exceeded)).
    pub bounded: bool,
}

impl Cost {
    /// An operation on names and attributes: a few items.
    pub const METADATA: Cost = Cost { blocks: 4, deletion: false, small: false, bounded: false };
    /// A name that becomes longer.
    pub const LONGER_NAME: Cost = Cost { small: true, ..Self::METADATA };
    /// A name that moves and becomes no longer. It takes nothing of items, but leaves that have become thin are not always merged.
    pub const MOVED_NAME: Cost = Cost { bounded: true, ..Self::DELETION };
    /// An operation that gives space back.
    pub const DELETION: Cost = Cost { blocks: 0, deletion: true, small: false, bounded: false };
    /// An operation that changes nothing anyone counts (times).
    pub const NOTHING: Cost = Self::DELETION;
}

impl Volume {
    /// Makes `id` resident: reads it, and the map pages on the way to it. A node that was freed since it was found to be needed is nothing to read:
    /// whoever needed it plans again. So whether the tree names a node that does not exist, which is damage, is asked under the lock under which it was
    /// found to be needed ([`NodeStore::fetch_for`](crate::core::nodes::NodeStore::fetch_for)).
    ///
    /// # Errors
    /// A device that fails, or a block that is not what it must be.
    pub(super) fn load(&self, id: BlockId) -> Result<()> {
        self.load_for(&[id], IoClass::Foreground)
    }

    /// Makes all of `ids` resident on account of `class`, with as few waits as the map has levels.
    ///
    /// # Errors
    /// A device that fails, or a block that is not what it must be.
    pub(super) fn load_for(&self, ids: &[BlockId], class: IoClass) -> Result<()> {
        let mut brought: BTreeSet<BlockId> = BTreeSet::new();
        loop {
            let mut fetches = Vec::new();
            {
                let state = self.state.lock();
                let mut seen = BTreeSet::new();
                for id in ids {
                    let fetch = match state.tree.store().fetch_for(*id) {
                        Err(_) if state.tree.store().is_gone(*id) => continue,
                        found => found?,
                    };
                    if let Some(fetch) = fetch
                        && seen.insert(fetch.id)
                    {
                        if !state.zones.contains(fetch.addr, 1) {
                            let detail = format!("{:?} lies outside the volume", fetch.id);
                            return Err(FsError::Corrupt { what: "metadata block", addr: fetch.addr, detail });
                        }
                        fetches.push(fetch);
                    }
                }
                // With a small cache some of many may be gone again by now: that is for the caller to find out.
                fetches.retain(|fetch| ids.len() == 1 || !brought.contains(&fetch.id));
                if fetches.is_empty() {
                    return Ok(());
                }
            }
            let runs: Vec<_> = fetches.iter().map(|f| (f.addr, 1)).collect();
            let read = {
                // Copies keep short while somebody waits for names, attributes and extents, too.
                let _reading = (class == IoClass::Foreground).then(|| self.engine.foreground().read());
                self.members.read_runs(&runs, class)
            };
            self.counters.node_reads.fetch_add(runs.len() as u64, Ordering::Relaxed);
            if class == IoClass::Cleaning {
                self.counters.gc_meta_read.fetch_add((runs.len() * BLOCK) as u64, Ordering::Relaxed);
            }
            let mut state = self.state.lock();
            for (fetch, buf) in fetches.iter().zip(read) {
                // The block may have moved, or come in by another thread, while it was read.
                if state.tree.store().fetch_for(fetch.id).ok().flatten() != Some(*fetch) {
                    continue;
                }
                let buf = buf?;
                let bytes: &[u8; BLOCK] = buf[..].try_into().map_err(|_| FsError::Internal("short metadata read"))?;
                if zns::checksum::crc32c(bytes) != fetch.crc {
                    self.counters.checksum_errors.fetch_add(1, Ordering::Relaxed);
                    let detail = format!("{:?} fails its checksum", fetch.id);
                    return Err(FsError::Corrupt { what: "metadata block", addr: fetch.addr, detail });
                }
                state.tree.store_mut().install(fetch, bytes)?;
                brought.insert(fetch.id);
            }
            let budget = self.cache_budget;
            state.tree.store_mut().shrink(budget);
        }
    }

    /// Runs a question until everything it needs is resident.
    ///
    /// # Errors
    /// Its own, and those of loading.
    pub(crate) fn ask<T>(&self, question: impl Fn(&State) -> Planned<T>) -> Result<T> {
        self.ask_for(IoClass::Foreground, question)
    }

    /// [`Volume::ask`] on account of `class`.
    pub(super) fn ask_for<T>(&self, class: IoClass, question: impl Fn(&State) -> Planned<T>) -> Result<T> {
        loop {
            let missing = {
                let state = self.state.lock();
                match question(&state) {
                    Ok(answer) => return Ok(answer),
                    Err(Halt::Fail(error)) => return Err(error),
                    Err(Halt::Need(id)) => state.tree.store().fetch_for(id).map(|_| id)?,
                }
            };
            self.load_for(&[missing], class)?;
        }
    }

    /// Runs a change on the state until everything it needs is resident. It must change nothing before it is sure to succeed.
    ///
    /// # Errors
    /// Its own, and those of loading.
    pub(crate) fn change<T>(&self, change: impl FnMut(&mut State) -> Planned<T>) -> Result<T> {
        self.change_for(IoClass::Foreground, change)
    }

    /// [`Volume::change`] on account of `class`.
    pub(super) fn change_for<T>(&self, class: IoClass, change: impl FnMut(&mut State) -> Planned<T>) -> Result<T> {
        self.try_change(class, change).map_err(|unmet| unmet.error)
    }

    /// [`Volume::change_for`] that tells which block could not be had.
    ///
    /// # Errors
    /// As [`Volume::change`].
    pub(super) fn try_change<T>(&self, class: IoClass, mut change: impl FnMut(&mut State) -> Planned<T>) -> std::result::Result<T, Unmet> {
        loop {
            let (missing, known) = {
                let _unbroken = self.unbroken("a change of the metadata");
                let mut state = self.state.lock();
                match change(&mut state) {
                    Ok(answer) => return Ok(answer),
                    Err(Halt::Fail(error)) => return Err(Unmet { block: None, error }),
                    Err(Halt::Need(id)) => (id, state.tree.store().fetch_for(id)),
                }
            };
            known.and_then(|_| self.load_for(&[missing], class)).map_err(|error| Unmet { block: Some(missing), error })?;
        }
    }

    /// Runs an operation: plans it, loads what is missing and plans again, checks that it fits, applies it as one.
    ///
    /// # Errors
    /// The operation's own; [`FsError::NoSpace`]; [`FsError::ReadOnly`]; those of loading.
    pub fn run<T>(&self, cost: Cost, plan: impl Fn(&mut Txn<'_>) -> Planned<T>) -> Result<T> {
        let attempt = || {
            self.admit(cost)?;
            self.change(|state| self.try_run(state, cost, &plan))
        };
        if cost.deletion && !cost.bounded { attempt() } else { self.with_space_of_orphans(attempt) }
    }

    /// One attempt of [`Volume::run`] under the lock.
    pub(super) fn try_run<T>(&self, state: &mut State, cost: Cost, plan: impl Fn(&mut Txn<'_>) -> Planned<T>) -> Planned<T> {
        let room = if cost.small { state.free() } else { state.admissible() };
        let exceeds = cost.bounded && !state.zones.may_be_exceeded(state.unplaced());
        if exceeds || (!cost.deletion && room < cost.blocks) {
            return Err(FsError::NoSpace.into());
        }
        let mut txn = Txn::new(&state.tree, self.options.clock.now(), state.next_ino, self.identity.hash_key);
        let value = plan(&mut txn)?;
        let deltas = txn.into_deltas();
        for delta in &deltas {
            state.prepare(delta)?;
        }
        for delta in deltas {
            state.apply(&delta)?;
            state.pending.add(delta);
        }
        Ok(value)
    }

    /// Before an operation takes any lock: the volume is writable, neither dirty metadata nor unlogged changes exceed their bounds, and the
    /// next checkpoint has its reserve (I8).
    ///
    /// # Errors
    /// [`FsError::ReadOnly`], or what a checkpoint failed with.
    pub(super) fn admit(&self, _cost: Cost) -> Result<()> {
        self.bound_metadata()?;
        self.keep_checkpoints_possible()
    }

    /// What [`Volume::admit`] does short of cleaning: for those who hold space for a copy, because cleaning would wait for that.
    ///
    /// # Errors
    /// As [`Volume::admit`].
    pub(super) fn bound_metadata(&self) -> Result<()> {
        self.check_writable()?;
        for _ in 0..64 {
            let bound = self.metadata_bound(&mut self.state.lock());
            match bound {
                Some(Bound::Dirty) => self.settle_dirty_metadata()?,
                Some(Bound::Unlogged) => self.commit_now(false)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Which bound on metadata in memory is reached.
    pub(super) fn metadata_bound(&self, state: &mut State) -> Option<Bound> {
        // What is made anew was never loaded: the cache grows by that, too.
        state.tree.store_mut().shrink(self.cache_budget);
        if state.tree.store().dirty_blocks() >= self.dirty_limit {
            return Some(Bound::Dirty);
        }
        (state.pending.bytes >= super::MAX_PENDING_BYTES).then_some(Bound::Unlogged)
    }
}

/// A bound on metadata in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Of what the next checkpoint writes: one must be made.
    Dirty,
    /// Of what is in no batch yet.
    Unlogged,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::format::record::Delta;
    use crate::ids::{FileBlock, Ino};
    use crate::volume::WriteOptions;
    use crate::volume::commit::NoCut;
    use crate::volume::rig::{formatted, make, open};
    use zns::sim::{SimConfig, SimDrive};

    /// Somebody needs a node, lets go of the lock to load it, and another frees it: that is no damage.
    #[test]
    fn what_was_freed_before_it_could_be_loaded_is_no_damage() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let first = formatted(&drive);
        let old = make(&first, "old");
        // Content that makes several leaves of checksums.
        for block in 0..6000 {
            first.write(old, block * BLOCK as u64, &[7; BLOCK], &WriteOptions::default()).expect("written");
        }
        first.shutdown().expect("an orderly end");
        drop(first);

        let volume = open(&drive);
        // What a commit needs to map the first block of a new file: its place is behind the last leaf of the old one.
        let next = volume.state.lock().next_ino;
        let map = Delta::Map {
            ino: Ino(next),
            block: FileBlock(0),
            addr: Addr::new(zns::DeviceId(0), zns::ZoneId(40), 0),
            checksums: vec![0],
            estimate: gc::placement::Estimate::UNKNOWN,
        };
        let mut needed = Vec::new();
        loop {
            let prepared = volume.state.lock().prepare(&map);
            match prepared {
                Ok(()) => break,
                Err(Halt::Need(id)) => {
                    volume.load(id).expect("read");
                    needed.push(id);
                }
                Err(Halt::Fail(error)) => panic!("{error}"),
            }
        }
        volume.unlink(Ino::ROOT, b"old").expect("removed");
        volume.forget(old);
        volume.free_waiting().expect("freed");
        let gone: Vec<BlockId> = needed.into_iter().filter(|id| volume.state.lock().tree.store().is_gone(*id)).collect();
        assert!(!gone.is_empty(), "none of what was needed was freed: this tests nothing");

        volume.load_for(&gone, IoClass::Foreground).expect("nothing to load");
        volume.load_or_fail(&gone).expect("nothing to load");
        assert!(volume.is_writable(), "{:?}", volume.read_only_reason());
        // Who needs it now, and not some time ago, has met damage.
        let needed = volume.ask(|_| Err::<(), _>(Halt::Need(gone[0])));
        assert!(matches!(needed, Err(FsError::Corrupt { .. })), "{needed:?}");
        let unmet = NoCut::Need(gone.clone()).known_to(&volume.state.lock());
        assert!(matches!(&unmet, NoCut::Damaged(unmet) if unmet.block == Some(gone[0])), "not told from what can be loaded");
    }
}
