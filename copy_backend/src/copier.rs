//! Copies of byte ranges for other programs: submit and poll, with a descriptor to wait on; a blocking call on top.
//!
//! ```no_run
//! use copy_backend::{BytePosition, ByteRange, Copier, EngineConfig, RangeCopy};
//! use zns::DeviceId;
//! use zns::raw::{RawOptions, open_raw};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = open_raw("disk.img", &RawOptions::default())?;
//! let copier = Copier::new(vec![device], EngineConfig::default())?;
//! let copy = RangeCopy {
//!     sources: vec![ByteRange { device: DeviceId(0), offset: 0, length: 1 << 20 }],
//!     target: BytePosition { device: DeviceId(0), offset: 64 << 20 },
//!     pace: None,
//! };
//! let report = copier.copy(copy)?;
//! println!("{} bytes by {}", report.bytes, report.route());
//! # Ok(())
//! # }
//! ```
//!
//! Copies that do not touch each other's bytes (nor each other's destination zones) run side by side; one that does begins
//! when those before it have ended, so their order is that of submission.

use crate::engine::{CopyEngine, EngineConfig};
use crate::error::{CopyError, Result};
use crate::governor::Governor;
use crate::job::{self, CopyReport, RangeCopy};
use crate::ranges::Piece;
use crate::rate::{TokenBucket, command_bytes};
use parking_lot::{Condvar, Mutex};
use rustix::event::EventfdFlags;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zns::{DeviceId, Processors, ZonedDevice};

/// Copies that run side by side.
const THREADS: usize = 4;
/// How often one who waits for its turn looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// Names a copy that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyId(pub u64);

/// A copy that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Which.
    pub id: CopyId,
    /// What became of it. An error: nothing was touched.
    pub report: Result<CopyReport>,
}

/// A rate limit for one copy, or for many that share it.
#[derive(Debug)]
pub struct Pace {
    bucket: Mutex<TokenBucket>,
    begin: Instant,
    most: u64,
}

impl Pace {
    /// At most `bytes_per_second`.
    pub fn new(bytes_per_second: u64) -> Self {
        let bucket = Mutex::new(TokenBucket::new(bytes_per_second, 0));
        Self { bucket, begin: Instant::now(), most: command_bytes(bytes_per_second) }
    }

    /// Takes the turn of a command, if it has come; else says when to ask again.
    fn turn(&self, bytes: u64) -> Option<Duration> {
        let mut bucket = self.bucket.lock();
        let wait = bucket.ready_in(self.begin.elapsed());
        if !wait.is_zero() {
            return Some(wait);
        }
        bucket.spend(bytes);
        None
    }
}

/// The word of the user in a copy: rate and cancellation, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Reins {
    cancelled: AtomicBool,
    copied: AtomicU64,
    pace: Option<Arc<Pace>>,
}

impl Governor for Reins {
    fn admit(&self, bytes: u64) -> bool {
        while !self.cancelled.load(Ordering::Relaxed) {
            match self.pace.as_ref().and_then(|pace| pace.turn(bytes)) {
                None => return true,
                Some(wait) => std::thread::sleep(wait.min(LOOK)),
            }
        }
        false
    }
    fn command_bytes(&self) -> u64 {
        self.pace.as_ref().map_or(u64::MAX, |pace| pace.most)
    }
    fn copied(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a copy reads and writes.
#[derive(Clone, Debug)]
struct Footprint {
    read: Vec<(DeviceId, Range<u64>)>,
    /// Whole zones.
    written: (DeviceId, Range<u64>),
}

impl Footprint {
    fn of(engine: &CopyEngine, copy: &RangeCopy) -> Result<Self> {
        let zone = engine.device(copy.target.device)?.geometry().zone_size_bytes();
        let total: u64 = copy.sources.iter().map(|range| range.length).sum();
        let written = copy.target.offset / zone * zone..(copy.target.offset + total).next_multiple_of(zone);
        let read = copy.sources.iter().map(|range| (range.device, range.offset..range.offset + range.length)).collect();
        Ok(Self { read, written: (copy.target.device, written) })
    }

    fn disturbs(&self, other: &Self) -> bool {
        let meet = |a: &(DeviceId, Range<u64>), b: &(DeviceId, Range<u64>)| a.0 == b.0 && a.1.start < b.1.end && b.1.start < a.1.end;
        meet(&self.written, &other.written)
            || self.read.iter().any(|read| meet(read, &other.written))
            || other.read.iter().any(|read| meet(read, &self.written))
    }
}

#[derive(Debug)]
struct Entry {
    id: CopyId,
    copy: RangeCopy,
    footprint: Footprint,
    reins: Arc<Reins>,
    /// What the check at its submission found, unless others were under way: they may change what it depends on.
    checked: Option<Vec<Piece>>,
    running: bool,
}

/// A copy whose turn has come.
struct Turn {
    id: CopyId,
    copy: RangeCopy,
    checked: Option<Vec<Piece>>,
    reins: Arc<Reins>,
}

#[derive(Debug, Default)]
struct State {
    /// Copies that have not ended, in the order of submission.
    entries: VecDeque<Entry>,
    finished: VecDeque<Finished>,
    next: u64,
    stop: bool,
}

impl State {
    /// The first copy that waits for nobody.
    fn begin(&mut self) -> Option<Turn> {
        let free = (0..self.entries.len()).find(|&index| {
            let entry = &self.entries[index];
            !entry.running && !self.entries.range(..index).any(|earlier| earlier.footprint.disturbs(&entry.footprint))
        })?;
        let entry = self.entries.get_mut(free)?;
        entry.running = true;
        Some(Turn { id: entry.id, copy: entry.copy.clone(), checked: entry.checked.take(), reins: entry.reins.clone() })
    }
}

struct Shared {
    engine: CopyEngine,
    state: Mutex<State>,
    /// Something may begin.
    work: Condvar,
    /// Something has ended.
    ended: Condvar,
    event: OwnedFd,
}

/// Copies byte ranges between the devices it was given. Shared by all who copy; every call may come from any thread.
///
/// Dropping it cancels what is under way and waits for the commands in flight.
pub struct Copier {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Those of whoever made it, for a thread that asks for a copy may be bound to one.
    processors: Processors,
}

impl Copier {
    /// A copier over `devices`, which [`DeviceId`] counts from 0, with all roads that this crate has.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(devices: Vec<Arc<dyn ZonedDevice>>, config: EngineConfig) -> Result<Self> {
        Self::over(CopyEngine::for_devices(devices, config))
    }

    /// A copier over an engine.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn over(engine: CopyEngine) -> Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| CopyError::Invalid(format!("no event descriptor: {errno}")))?;
        let shared = Shared { engine, state: Mutex::default(), work: Condvar::new(), ended: Condvar::new(), event };
        Ok(Self { shared: Arc::new(shared), threads: Mutex::default(), processors: Processors::of_caller() })
    }

    /// The engine: routes, counters.
    pub fn engine(&self) -> &CopyEngine {
        &self.shared.engine
    }

    /// Checks a copy as [`Self::submit`] does, and does nothing.
    ///
    /// # Errors
    /// As `submit`.
    pub fn check(&self, copy: &RangeCopy) -> Result<()> {
        job::check(&self.shared.engine, copy).map(drop)
    }

    /// Starts a copy.
    ///
    /// # Errors
    /// [`CopyError::Range`] for one that makes no sense (misaligned, past the end, overlapping, not at the write pointer): nothing
    /// has been touched. A copy that depends on one before it is checked again when its turn comes.
    pub fn submit(&self, copy: RangeCopy) -> Result<CopyId> {
        let idle_since = {
            let state = self.shared.state.lock();
            state.entries.is_empty().then_some(state.next)
        };
        let pieces = job::check(&self.shared.engine, &copy)?;
        let footprint = Footprint::of(&self.shared.engine, &copy)?;
        let reins = Arc::new(Reins { pace: copy.pace.clone(), ..Reins::default() });
        let mut state = self.shared.state.lock();
        let checked = (idle_since == Some(state.next)).then_some(pieces);
        state.next += 1;
        let id = CopyId(state.next);
        state.entries.push_back(Entry { id, copy, footprint, reins, checked, running: false });
        let busy = state.entries.len();
        drop(state);
        self.threads_for(busy)?;
        self.shared.work.notify_one();
        Ok(id)
    }

    fn threads_for(&self, busy: usize) -> Result<()> {
        let mut threads = self.threads.lock();
        if threads.len() >= busy.min(THREADS) {
            return Ok(());
        }
        let (shared, processors) = (self.shared.clone(), self.processors);
        let work = move || {
            processors.take();
            shared.serve();
        };
        match std::thread::Builder::new().name("copier".into()).spawn(work) {
            Ok(thread) => threads.push(thread),
            Err(_) if !threads.is_empty() => {}
            Err(error) => return Err(CopyError::Invalid(format!("cannot start a thread: {error}"))),
        }
        Ok(())
    }

    /// A copy that has ended and was not asked for before, without waiting.
    pub fn poll(&self) -> Option<Finished> {
        let mut state = self.shared.state.lock();
        let finished = state.finished.pop_front();
        if state.finished.is_empty() {
            self.shared.lower();
        }
        finished
    }

    /// Becomes readable when [`Self::poll`] has something to tell.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// Waits for one copy; `None` for one that was never submitted, or was told before.
    pub fn wait(&self, id: CopyId) -> Option<Result<CopyReport>> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(index) = state.finished.iter().position(|finished| finished.id == id) {
                let finished = state.finished.remove(index);
                if state.finished.is_empty() {
                    self.shared.lower();
                }
                return finished.map(|finished| finished.report);
            }
            if !state.entries.iter().any(|entry| entry.id == id) {
                return None;
            }
            self.shared.ended.wait(&mut state);
        }
    }

    /// Copies, and waits for it.
    ///
    /// # Errors
    /// As [`Self::submit`]: nothing was touched. What fails later is in the report.
    pub fn copy(&self, copy: RangeCopy) -> Result<CopyReport> {
        let id = self.submit(copy)?;
        self.wait(id).unwrap_or_else(|| Err(CopyError::Invalid("somebody else asked for the end of this copy".into())))
    }

    /// Asks a copy to end at the next command boundary. It still has a report. `false`: it has ended already.
    pub fn cancel(&self, id: CopyId) -> bool {
        let state = self.shared.state.lock();
        let found = state.entries.iter().find(|entry| entry.id == id);
        found.inspect(|entry| entry.reins.cancelled.store(true, Ordering::Relaxed)).is_some()
    }

    /// Bytes that a copy under way has copied; `None`: it has ended.
    pub fn progress(&self, id: CopyId) -> Option<u64> {
        let state = self.shared.state.lock();
        state.entries.iter().find(|entry| entry.id == id).map(|entry| entry.reins.copied.load(Ordering::Relaxed))
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.stop = true;
        state.entries.iter().for_each(|entry| entry.reins.cancelled.store(true, Ordering::Relaxed));
        drop(state);
        self.shared.work.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a copier thread ended abnormally");
            }
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(Turn { id, copy, checked, reins }) = state.begin() {
                drop(state);
                let report = catch_unwind(AssertUnwindSafe(|| job::run(&self.engine, &copy, checked, &*reins)));
                let report =
                    report.unwrap_or_else(|_| Err(CopyError::Invalid("the copy ended by a panic: what it did is not known".into())));
                state = self.state.lock();
                state.entries.retain(|entry| entry.id != id);
                state.finished.push_back(Finished { id, report });
                self.raise();
                self.ended.notify_all();
                self.work.notify_all();
            } else if state.stop {
                return;
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// Called with the state locked, as `lower`: the descriptor is readable exactly while something waits to be told.
    fn raise(&self) {
        // EAGAIN would mean that it stands at its highest value: it is readable then.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn lower(&self) {
        // EAGAIN: it was not raised.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}
