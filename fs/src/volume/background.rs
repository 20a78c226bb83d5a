//! The threads of a mounted volume: one that commits, one that makes checkpoints, one that has the log give zones back, one that cleans. Simulations run without
//! them.
//!
//! Checkpoints have a thread of their own so that meanwhile commits and cleaning go on, and nobody who writes has to make one. Zones that the log can give back
//! have another, for they must not wait for a checkpoint that is being written.
//! They sleep until there is something to do; an idle volume is quiet.

use crate::error::Result;
use crate::volume::checkpoint::CheckpointKind;
use crate::volume::patience::be_patient;
use crate::volume::{GcMode, Volume};
use gc::cleaner::Caller;
use gc::{Pressure, Room};
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What one of the threads is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Something may have to be committed or freed.
    Commit,
    /// A checkpoint is due.
    Checkpoint,
    /// Zones are to be given back, by the log if that will do.
    Release,
    /// Something may have to be cleaned.
    Clean,
}

/// How the threads are woken: each by a bell of its own, for writers ring often, and what concerns one thread is to wake no other.
#[derive(Debug, Default)]
pub(super) struct Wake {
    flags: Mutex<Flags>,
    bells: [Condvar; 4],
}

#[derive(Debug, Default)]
struct Flags {
    /// The threads run.
    threads: bool,
    stop: bool,
    /// For each [`Task`] whether there is something to do.
    wanted: [bool; 4],
}

impl Wake {
    /// There is something to do. A thread that was told so and has not come to it yet is not told again.
    fn want(&self, task: Task) {
        if !std::mem::replace(&mut self.flags.lock().wanted[task as usize], true) {
            self.bells[task as usize].notify_one();
        }
    }

    /// Waits until there is something to do, or the time is over; `false`: stop.
    fn wait(&self, task: Task, at_most: Option<Duration>) -> bool {
        let deadline = at_most.map(|at_most| Instant::now() + at_most);
        let bell = &self.bells[task as usize];
        let mut flags = self.flags.lock();
        while !flags.stop && !std::mem::take(&mut flags.wanted[task as usize]) {
            match deadline {
                Some(deadline) if bell.wait_until(&mut flags, deadline).timed_out() => break,
                Some(_) => {}
                None => bell.wait(&mut flags),
            }
        }
        !flags.stop
    }

    fn stop(&self) {
        self.flags.lock().stop = true;
        for bell in &self.bells {
            bell.notify_all();
        }
    }
}

/// When a thread that gives zones back is gone, whatever the reason, whoever wants some does that himself.
struct ThreadsEnd(Arc<Wake>);

impl Drop for ThreadsEnd {
    fn drop(&mut self) {
        self.0.flags.lock().threads = false;
    }
}

/// The running threads.
pub(super) struct Background(Vec<JoinHandle<()>>);

/// Dirty file data of this part of its bound starts a commit in the background, so that writers seldom wait.
const COMMIT_SHARE: u64 = 4;
/// Blocks that users write before the cleaner looks again: a quarter of its chunk.
const BLOCKS_TO_TELL: u64 = 64;
/// A checkpoint is made after this long if anything changed, so that a crash mount has little to do.
const CHECKPOINT_SECONDS: u64 = 30;
/// Log after which a checkpoint is made.
const CHECKPOINT_LOG_BYTES: u64 = 48 << 20;

/// How long the thread that cleans stays away when somebody else does.
const A_CHUNK: Duration = Duration::from_micros(300);

impl Volume {
    /// Starts the threads. Simulations do not.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start_background(self: &Arc<Self>) -> std::io::Result<()> {
        if !self.is_writable() {
            return Ok(());
        }
        let mut threads = Vec::new();
        let volume = Arc::downgrade(self);
        let wake = self.wake.clone();
        let tend = move || {
            be_patient();
            let mut last_checkpoint = Instant::now();
            while wake.wait(Task::Commit, Some(Duration::from_millis(500))) {
                let Some(volume) = volume.upgrade() else { return };
                volume.tend(&mut last_checkpoint);
            }
        };
        threads.push(std::thread::Builder::new().name("ferryfs-commit".into()).spawn(tend)?);
        threads.push(self.start_giving_back(Task::Checkpoint, "ferryfs-point", |volume| volume.checkpoint_for_cleaning().map(|_| true))?);
        threads.push(self.start_giving_back(Task::Release, "ferryfs-zones", Self::release_in_background)?);
        if self.options.gc == GcMode::Background {
            let volume = Arc::downgrade(self);
            let wake = self.wake.clone();
            let clean = move || {
                be_patient();
                let mut more = false;
                let mut seen = (0, Instant::now());
                loop {
                    let pause = if more { Duration::ZERO } else { Duration::from_millis(200) };
                    if !wake.wait(Task::Clean, Some(pause)) {
                        return;
                    }
                    let Some(volume) = volume.upgrade() else { return };
                    more = volume.clean_whatever_happens(&mut seen);
                }
            };
            threads.push(std::thread::Builder::new().name("ferryfs-clean".into()).spawn(clean)?);
        }
        *self.background.lock() = Some(Background(threads));
        self.wake.flags.lock().threads = true;
        Ok(())
    }

    /// A thread that does this whenever it is wanted, which says whether it could. If it could not, the cleaner is not told: it would ask again at once.
    fn start_giving_back(
        self: &Arc<Self>,
        task: Task,
        name: &str,
        give_back: fn(&Self) -> Result<bool>,
    ) -> std::io::Result<JoinHandle<()>> {
        let volume = Arc::downgrade(self);
        let wake = self.wake.clone();
        let work = move || {
            be_patient();
            let _ends = ThreadsEnd(wake.clone());
            while wake.wait(task, None) {
                let Some(volume) = volume.upgrade() else { return };
                match give_back(&volume) {
                    Ok(true) => volume.nudge_cleaner(),
                    Ok(false) => {}
                    Err(error) => tracing::warn!("giving zones back in the background ({task:?}): {error}"),
                }
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(work)
    }

    /// Wakes the thread that commits and frees.
    pub(crate) fn nudge(&self) {
        self.wake.want(Task::Commit);
    }

    /// Are there threads to leave work to?
    pub(crate) fn has_threads(&self) -> bool {
        let flags = self.wake.flags.lock();
        flags.threads && !flags.stop
    }

    /// Has the thread make a checkpoint. If it is making one, it makes another.
    pub(crate) fn ask_for_checkpoint(&self) {
        self.wake.want(Task::Checkpoint);
    }

    /// Has another thread give emptied zones back, by the log if that will do, whether or not a checkpoint is being made.
    pub(crate) fn ask_for_zones(&self) {
        self.wake.want(Task::Release);
    }

    /// Wakes the cleaner.
    pub(crate) fn nudge_cleaner(&self) {
        self.wake.want(Task::Clean);
    }

    /// A commit has written so many blocks and left so much room: wakes the cleaner when there may be something for it to do. While it has not fallen behind it is not
    /// woken for each small commit: it copies by chunks, and to look whether one is due takes as long as such a commit.
    pub(super) fn tell_cleaner(&self, room: Room, blocks: u64) {
        let is_due = match self.toll.pressure(room) {
            Pressure::Quiet => return,
            Pressure::Background => self.untold.fetch_add(blocks, Ordering::Relaxed) + blocks >= BLOCKS_TO_TELL,
            Pressure::Forced => true,
        };
        if is_due {
            self.untold.store(0, Ordering::Relaxed);
            self.nudge_cleaner();
        }
    }

    /// Dirty data has grown: begin to write it when there is enough. To be called without the lock.
    pub(crate) fn note_dirty(&self, dirty_bytes: u64) {
        if dirty_bytes >= self.unlogged_limit / COMMIT_SHARE {
            self.nudge();
        }
    }

    /// One round of the thread that commits.
    fn tend(&self, last_checkpoint: &mut Instant) {
        // Without this thread nothing would become durable by itself any more.
        match catch_unwind(AssertUnwindSafe(|| self.try_tend(last_checkpoint))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("in the background: {error}"),
            Err(_) => tracing::error!("the thread that commits panicked: this is a bug; it goes on"),
        }
    }

    fn try_tend(&self, last_checkpoint: &mut Instant) -> Result<()> {
        if !self.is_writable() {
            return Ok(());
        }
        self.free_waiting()?;
        let (dirty_bytes, changed, dirty_nodes, logged, age) = {
            let mut state = self.state.lock();
            let changed = state.newest_batch() > state.flushed;
            if !changed {
                state.oldest_change = None;
            } else if state.oldest_change.is_none() {
                state.oldest_change = Some(Instant::now());
            }
            let age = state.oldest_change.map_or(Duration::ZERO, |since| since.elapsed());
            (state.pages.dirty_bytes(), changed, state.tree.store().dirty_blocks(), state.logged, age)
        };
        if changed && age >= Duration::from_secs(u64::from(self.options.commit_seconds)) {
            self.commit_now(true)?;
            self.state.lock().oldest_change = None;
        } else if dirty_bytes >= self.unlogged_limit / COMMIT_SHARE {
            self.commit_now(false)?;
        }
        let old = last_checkpoint.elapsed() >= Duration::from_secs(CHECKPOINT_SECONDS) && logged > 0;
        if dirty_nodes * 4 >= self.dirty_limit * 3 || logged >= CHECKPOINT_LOG_BYTES || old {
            *last_checkpoint = Instant::now();
            self.ask_for_checkpoint();
        }
        Ok(())
    }

    /// A panic ends a step of cleaning, which leaves nothing behind, but not the thread: without it everybody would clean for himself when he is short of room.
    pub(super) fn clean_whatever_happens(&self, seen: &mut (u64, Instant)) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.clean_in_background(seen))).unwrap_or_else(|_| {
            tracing::error!("a step of cleaning panicked: this is a bug; cleaning goes on");
            false
        })
    }

    /// One chunk of cleaning; whether to go on at once.
    fn clean_in_background(&self, seen: &mut (u64, Instant)) -> bool {
        if !self.is_writable() {
            return false;
        }
        let written = self.counters.user_written.load(Ordering::Relaxed);
        if written != seen.0 {
            *seen = (written, Instant::now());
        }
        match self.clean_chunk(Caller::Background, seen.1.elapsed()) {
            // A writer cleans a chunk.
            Ok(cleaned) if cleaned.by_others => {
                std::thread::sleep(A_CHUNK);
                self.pressure() != Pressure::Quiet
            }
            // It is woken when the checkpoint is over.
            Ok(cleaned) => cleaned.more && !self.is_dirty_metadata_high(),
            Err(error) => {
                tracing::warn!("cleaning: {error}");
                false
            }
        }
    }

    /// Tells the threads, and whoever cleans by hand, to end.
    pub(crate) fn stop_threads(&self) {
        self.wake.stop();
    }

    /// Have they been told?
    pub(super) fn is_ending(&self) -> bool {
        self.wake.flags.lock().stop
    }

    /// Ends the mount: threads stop, everything is made durable by a last checkpoint. Nothing can be changed afterwards.
    ///
    /// # Errors
    /// A device that fails; then what was acknowledged and synced is still in the log. [`FsError::ReadOnly`] if the volume had become read-only before
    /// all that was acknowledged was durable.
    pub fn shutdown(&self) -> Result<()> {
        self.stop_threads();
        if let Some(Background(threads)) = self.background.lock().take() {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a background thread ended by a panic");
                }
            }
        }
        if !self.is_writable() {
            let kept = {
                let state = self.state.lock();
                state.newest_batch() <= state.flushed
            };
            // Whoever unmounts is the last one who can be told.
            return if kept { Ok(()) } else { self.check_writable() };
        }
        self.with_cleaner(|cleaner| cleaner.abandon());
        // What cannot be freed now is freed by a mount: it must not keep what was acknowledged from becoming durable.
        match catch_unwind(AssertUnwindSafe(|| self.free_waiting())) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("inodes without a name are left to the next mount: {error}"),
            Err(_) => tracing::error!("freeing inodes without a name panicked: this is a bug; they are left to the next mount"),
        }
        self.checkpoint_as(CheckpointKind { clean: true })?;
        self.fail_quietly("it was unmounted");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FsError;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make};
    use zns::sim::{SimConfig, SimDrive};

    #[test]
    fn each_thread_is_woken_for_its_own_task_and_once() {
        let wake = Wake::default();
        let soon = Some(std::time::Duration::from_millis(1));
        wake.want(Task::Commit);
        wake.want(Task::Commit);
        wake.want(Task::Clean);
        let wanted = |task: Task| wake.flags.lock().wanted[task as usize];
        assert!(wake.wait(Task::Checkpoint, soon), "the time is over");
        assert!(wanted(Task::Commit) && wanted(Task::Clean), "others leave alone what is not theirs");
        assert!(wake.wait(Task::Commit, None) && !wanted(Task::Commit));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wake.wait(Task::Commit, None));
            wake.want(Task::Commit);
            assert!(waiting.join().unwrap());
            let wake = &wake;
            let waiting = [Task::Commit, Task::Checkpoint].map(|task| scope.spawn(move || wake.wait(task, None)));
            wake.stop();
            assert!(waiting.into_iter().all(|thread| !thread.join().unwrap()));
        });
        assert!(!wake.wait(Task::Clean, None), "though something is to be done");
    }

    #[test]
    fn the_cleaner_is_woken_when_there_may_be_something_for_it_to_do() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let pace = volume.state.lock().zones.pace();
        let told = |ahead, blocks| {
            volume.tell_cleaner(Room { writable: i64::MAX, ahead }, blocks);
            std::mem::take(&mut volume.wake.flags.lock().wanted[Task::Clean as usize])
        };
        assert!(!told(pace.high, 1 << 20), "there is room");
        let below = pace.high - 1;
        assert!((1..BLOCKS_TO_TELL).all(|_| !told(below, 1)));
        assert!(told(below, 1) && !told(below, 1) && told(below, BLOCKS_TO_TELL));
        assert!(told(pace.low, 1) && told(pace.low, 1), "writers pay: it is to keep up");
    }

    /// Whoever waits looks again when the checkpoint is over. Another one would give back what this one does, and whoever asked without end would take a
    /// processor from it.
    #[test]
    fn what_the_log_cannot_give_back_beside_a_checkpoint_waits_for_that_one() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let fill_log = |volume: &Volume| volume.state.lock().logged = volume.log_limit;
        let asked = |volume: &Volume| {
            let flags = &mut volume.wake.flags.lock().wanted;
            [Task::Checkpoint, Task::Clean].map(|task| std::mem::take(&mut flags[task as usize]))
        };
        volume.at_seams(move |volume, _| {
            fill_log(volume);
            asked(volume);
            assert!(!volume.release_in_background().expect("no failure"));
            assert_eq!(asked(volume), [false, false]);
        });
        volume.checkpoint().expect("a checkpoint");
        fill_log(&volume);
        assert!(!volume.release_in_background().expect("no failure"));
        assert_eq!(asked(&volume), [true, false]);
    }

    #[test]
    fn the_end_of_a_volume_that_failed_tells_whether_anything_is_lost() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let file = make(&volume, "a");
        volume.sync().expect("synced");
        volume.fail("for this test".into());
        volume.shutdown().expect("all of it is there");

        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        assert_eq!(make(&volume, "a"), file);
        volume.write(file, 0, &[1; 4096], &WriteOptions::default()).expect("written");
        volume.fail("for this test".into());
        let ended = volume.shutdown();
        assert!(matches!(ended, Err(FsError::ReadOnly(_))), "{ended:?}");
    }
}
