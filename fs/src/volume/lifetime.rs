//! Inodes in use: open files, inodes that lost their last name, and work that a crash or a long truncation left behind.
//!
//! The kernel sends FORGET for an inode only when it drops it whole, so an inode without a name is freed when it is neither open nor known to
//! the kernel; no count of lookups has to be kept. Freeing goes in bounded steps.

use crate::core::key::Key;
use crate::core::ops::{self, Step};
use crate::core::txn::successor;
use crate::error::{FsError, Result};
use crate::format::item::Intent;
use crate::ids::Ino;
use crate::volume::Volume;
use crate::volume::damage::Unmet;
use crate::volume::load::Cost;
use crate::volume::state::State;
use std::time::{Duration, Instant};

/// What is known of an inode without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphan {
    /// The kernel has dropped it.
    pub forgotten: bool,
    /// An attempt to free it ended in a panic. After another one it is left to the next mount.
    pub has_failed: bool,
}

/// How long whoever finds no space waits for the kernel to let go of a removed file; again while space comes back, twenty times as long at most.
const LET_GO: Duration = Duration::from_millis(50);
/// Steps taken at once when an inode is dropped; what is left goes on in the background.
const STEPS_AT_ONCE: u32 = 4;

/// Somebody frees an inode. If a panic ends that, it waits again, behind all others, but only once: nobody else shall meet the same panic for ever.
struct Freeing<'a> {
    volume: &'a Volume,
    ino: Ino,
}

impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.volume.state.lock();
            let State { orphans, to_free, .. } = &mut *state;
            if orphans.get_mut(&self.ino).is_some_and(|orphan| !std::mem::replace(&mut orphan.has_failed, true)) {
                to_free.insert(0, self.ino);
            }
        }
    }
}

impl Volume {
    /// Somebody opened the inode.
    pub(crate) fn count_open(&self, ino: Ino) {
        *self.state.lock().opens.entry(ino).or_insert(0) += 1;
    }

    /// An open file is closed.
    pub fn release(&self, ino: Ino) {
        let free = {
            let mut state = self.state.lock();
            if let Some(count) = state.opens.get_mut(&ino) {
                *count -= 1;
                if *count == 0 {
                    state.opens.remove(&ino);
                }
            }
            let unused = !state.opens.contains_key(&ino);
            unused && state.orphans.get(&ino).is_some_and(|orphan| orphan.forgotten)
        };
        if free {
            self.free_soon(ino);
        }
    }

    /// The kernel has dropped the inode.
    pub fn forget(&self, ino: Ino) {
        let free = {
            let mut state = self.state.lock();
            let open = state.opens.contains_key(&ino);
            match state.orphans.get_mut(&ino) {
                Some(orphan) => {
                    orphan.forgotten = true;
                    !open
                }
                None => false,
            }
        };
        if free {
            self.free_soon(ino);
        }
    }

    /// Frees a small inode at once, a large one in the background or when its space is needed.
    fn free_soon(&self, ino: Ino) {
        match self.free_steps(ino, STEPS_AT_ONCE) {
            Ok(true) => {}
            Ok(false) => {
                self.state.lock().to_free.push(ino);
                self.nudge();
            }
            // It is freed at the next mount.
            Err(error) => tracing::warn!("inode {ino} cannot be freed now: {error}"),
        }
    }

    /// Takes up to `steps` steps of freeing an inode; `true`: it is gone.
    fn free_steps(&self, ino: Ino, steps: u32) -> Result<bool> {
        {
            let mut state = self.state.lock();
            state.pages.drop_inode(ino);
            state.sync_promised();
        }
        for _ in 0..steps {
            let step = self.run(Cost::DELETION, |txn| ops::free_step(txn, ino, ops::STEP_EXTENTS))?;
            let mut state = self.state.lock();
            state.freed += 1;
            if step == Step::Done {
                state.orphans.remove(&ino);
            }
            drop(state);
            self.progress.notify_all();
            if step == Step::Done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// [`Volume::free_steps`], but an inode whose metadata cannot be had is left to the next mount: others, and what was acknowledged, must not wait
    /// for it.
    fn free_or_leave(&self, ino: Ino, steps: u32) -> Result<bool> {
        self.free_steps(ino, steps).or_else(|error| match &error {
            FsError::Corrupt { .. } | FsError::Device(_) if self.is_writable() && !self.lost_power(&error) => {
                tracing::error!("inode {ino}, which has no name any more, keeps its space until the next mount: {error}");
                Ok(true)
            }
            _ => Err(error),
        })
    }

    /// Some steps of freeing what waits to be freed. Returns whether there was anything.
    ///
    /// # Errors
    /// The volume is read-only or has lost its power; what cannot be freed for another reason is left to the next mount.
    pub(crate) fn free_some(&self) -> Result<bool> {
        let Some(ino) = self.state.lock().to_free.pop() else { return Ok(false) };
        let _freeing = Freeing { volume: self, ino };
        if !self.free_or_leave(ino, STEPS_AT_ONCE)? {
            self.state.lock().to_free.push(ino);
        }
        Ok(true)
    }

    /// Frees everything that waits to be freed. Returns whether there was anything.
    ///
    /// # Errors
    /// The volume is read-only or has lost its power; what cannot be freed for another reason is left to the next mount.
    pub(crate) fn free_waiting(&self) -> Result<bool> {
        let mut any = false;
        loop {
            let Some(ino) = self.state.lock().to_free.pop() else { return Ok(any) };
            any = true;
            let _freeing = Freeing { volume: self, ino };
            while !self.free_or_leave(ino, 64)? {}
        }
    }

    /// Runs an attempt that may find no space, and again while some comes back from what has lost its last name.
    ///
    /// # Errors
    /// Those of the attempt.
    pub(super) fn with_space_of_orphans<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut last = None;
        loop {
            let seen = self.state.lock().freed;
            let outcome = attempt();
            let last = *last.get_or_insert_with(|| Instant::now() + 20 * LET_GO);
            let is_full = matches!(outcome, Err(FsError::NoSpace));
            if !is_full || Instant::now() >= last || !self.regain_space(seen)? {
                return outcome;
            }
        }
    }

    /// Whoever has removed a file counts on its space, but the kernel tells later, and asynchronously, that it has let go of it: frees what waits, and
    /// waits a moment for what is let go of just now. Was anything freed since the count of such steps was `seen`?
    fn regain_space(&self, seen: u64) -> Result<bool> {
        let any = self.free_waiting()?;
        // What is waited for comes by the threads that wait here: all but one of them go on.
        let Some(_one) = self.regaining.try_lock() else { return Ok(any) };
        let end = Instant::now() + LET_GO;
        let mut state = self.state.lock();
        loop {
            if state.freed != seen {
                return Ok(true);
            }
            // Without threads nobody lets go meanwhile.
            if state.orphans.is_empty() || !self.has_threads() || self.progress.wait_until(&mut state, end).timed_out() {
                return Ok(any || state.freed != seen);
            }
        }
    }

    /// Removes what a truncation left beyond the end of the file, step by step.
    ///
    /// # Errors
    /// Those of loading; the volume is read-only.
    pub(crate) fn finish_cut(&self, ino: Ino) -> Result<()> {
        while self.run(Cost::DELETION, |txn| ops::cut_step(txn, ino, ops::STEP_EXTENTS))? == Step::More {}
        Ok(())
    }

    /// The same for those who hold space for a copy.
    ///
    /// # Errors
    /// As [`Volume::finish_cut`].
    pub(super) fn finish_cut_holding(&self, ino: Ino) -> Result<()> {
        loop {
            self.bound_metadata()?;
            let plan = |txn: &mut crate::core::Txn<'_>| ops::cut_step(txn, ino, ops::STEP_EXTENTS);
            if self.change(|state| self.try_run(state, Cost::DELETION, plan))? != Step::More {
                return Ok(());
            }
        }
    }

    /// Finishes what a crash interrupted: frees inodes without names, cuts what lies beyond the size of a file.
    ///
    /// # Errors
    /// Those of loading, after which the volume is read-only; those of a checkpoint that was due.
    pub(super) fn resume_intents(&self) -> Result<()> {
        self.try_intents().inspect_err(|error| {
            if let FsError::Corrupt { .. } = error {
                self.lose(&Unmet { block: None, error: error.clone() });
            }
        })
    }

    fn try_intents(&self) -> Result<()> {
        let mut from = Key::intent(Ino(0));
        loop {
            let next = self.ask(|state| {
                let txn = crate::core::Txn::new(&state.tree, self.options.clock.now(), state.next_ino, self.identity.hash_key);
                ops::next_intent(&txn, from)
            })?;
            let Some((key, intent)) = next else { return Ok(()) };
            let ino = Ino(key.a);
            match intent {
                Intent::Free => while !self.free_steps(ino, 64)? {},
                Intent::Cut { .. } => self.finish_cut(ino)?,
            }
            let Some(behind) = successor(key) else { return Ok(()) };
            from = behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make, open};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use zns::sim::{Fault, SimConfig, SimDrive};

    const EXTENTS: u64 = 8 * ops::STEP_EXTENTS as u64;

    /// A mounted volume in which a file of many extents has lost its last name and is freed from now on, and one extent of it is to be read for each step.
    fn with_much_to_free(drive: &SimDrive) -> (std::sync::Arc<Volume>, Ino) {
        let volume = formatted(drive);
        let ino = make(&volume, "large");
        for extent in 0..EXTENTS {
            volume.write(ino, extent * 2 * crate::BLOCK as u64, &[1; crate::BLOCK], &WriteOptions::default()).expect("written");
        }
        volume.shutdown().expect("an orderly end");
        let volume = open(drive);
        volume.unlink(Ino::ROOT, b"large").expect("unlinked");
        volume.forget(ino);
        (volume, ino)
    }

    #[test]
    fn whoever_asks_for_the_space_of_what_was_removed_sees_it() {
        let (volume, ino) = with_much_to_free(&SimDrive::new(SimConfig::zoned(64, 1)));
        assert_eq!(volume.state.lock().to_free, [ino], "it waits for somebody to free it");
        let waiting = volume.state.lock().free();
        let told = volume.statfs().expect("told").free;
        assert!(volume.state.lock().to_free.is_empty() && told > waiting + EXTENTS / 4, "{told} of {waiting}");
    }

    #[test]
    fn an_inode_that_cannot_be_freed_for_a_panic_is_tried_once_more_and_then_left_to_the_next_mount() {
        for times in 0..3 {
            let drive = SimDrive::new(SimConfig::zoned(64, 1));
            let (volume, ino) = with_much_to_free(&drive);
            assert_eq!(volume.state.lock().to_free, [ino]);
            for time in 0..times {
                drive.fail_at(drive.ops(), Fault::Panic);
                assert!(catch_unwind(AssertUnwindSafe(|| volume.free_some())).is_err(), "it reads");
                assert_eq!(volume.state.lock().to_free.len(), usize::from(time == 0));
            }
            // One that panics again and again keeps nothing from becoming durable.
            let other = make(&volume, "other");
            volume.write(other, 0, &[2; 100], &WriteOptions::default()).expect("written");
            if times == 1 {
                drive.fail_at(drive.ops(), Fault::Panic);
            }
            volume.shutdown().expect("an orderly end");
            drop(volume);
            let volume = open(&drive);
            assert_eq!(volume.read(volume.lookup(Ino::ROOT, b"other").expect("there").ino, 0, 100).expect("read")[..], [2; 100]);
            assert_eq!(volume.state.lock().inodes, 2, "the root and the other file: what was left was freed by this mount");
        }
    }
}
