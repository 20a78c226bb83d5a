//! One io_uring for many threads: a deep queue in front of one file, one thread that reaps.
//!
//! A batch is a list of chains; the transfers of a chain run one after the other (writes of one sequential zone must),
//! chains run side by side. Everything that the kernel may still read or write (buffers, slices, vectors) is owned by
//! the table of transfers in flight ([`inflight`]) until its completion has arrived: no completion is lost and no memory
//! is given back early, also when callers give up or the executor is dropped.
//!
//! Short transfers go on where they stopped. The file is registered; small or fragmented transfers go through
//! registered memory ([`pool`]), where a copy of a few pages is cheaper than pinning them. That memory is taken with the first of them:
//! to clear and pin it takes longer than many a program needs the device for.
//!
//! The executor owns a thread: make it after a daemon has forked, not before.

mod inflight;
mod pool;
mod reaper;
#[cfg(test)]
mod tests;

use crate::buffer::{AlignedBuf, BufSlice};
use crate::device::IoClass;
use crate::tickets::Tickets;
use inflight::{Chain, Table};
use io_uring::IoUring;
use parking_lot::{Condvar, Mutex};
use pool::Pool;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Transfers that may be in the kernel at once.
pub const DEFAULT_DEPTH: u32 = 256;

/// One read or write.
#[derive(Debug)]
pub enum Transfer {
    /// Fill `buf` from `offset` on.
    Read {
        /// Byte offset in the file.
        offset: u64,
        /// Handed back in the outcome.
        buf: AlignedBuf,
    },
    /// Write the slices one behind the other from `offset` on.
    Write {
        /// Byte offset in the file.
        offset: u64,
        /// The payload.
        data: Vec<BufSlice>,
    },
}

impl Transfer {
    /// Bytes to move.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { buf, .. } => buf.len() as u64,
            Self::Write { data, .. } => data.iter().map(|part| part.len() as u64).sum(),
        }
    }
}

/// What became of a transfer.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes that are known to have moved.
    pub transferred: u64,
    /// Why it ended before all had moved: ECANCELED after a failure earlier in its chain, EIO at an unexpected end of the file.
    pub errno: Option<i32>,
    /// The buffer of a read that was carried out.
    pub buf: Option<AlignedBuf>,
}

impl Outcome {
    fn failed(errno: i32) -> Self {
        Self { transferred: 0, errno: Some(errno), buf: None }
    }
}

/// A batch under way.
#[derive(Debug)]
struct Batch {
    state: Mutex<BatchState>,
    done: Condvar,
}

#[derive(Debug)]
struct BatchState {
    remaining: usize,
    outcomes: Vec<Option<Outcome>>,
}

impl Batch {
    fn new(transfers: usize) -> Self {
        let outcomes = (0..transfers).map(|_| None).collect();
        Self { state: Mutex::new(BatchState { remaining: transfers, outcomes }), done: Condvar::new() }
    }

    /// Records an outcome; wakes the waiter with the last one. Of two outcomes of one transfer (the ring was given up, and
    /// then it completed after all) the first counts.
    fn record(&self, index: usize, outcome: Outcome) {
        let mut state = self.state.lock();
        match state.outcomes.get_mut(index) {
            Some(place @ None) => *place = Some(outcome),
            _ => return,
        }
        state.remaining -= 1;
        if state.remaining == 0 {
            self.done.notify_all();
        }
    }

    fn wait(&self) -> Vec<Outcome> {
        let mut state = self.state.lock();
        while state.remaining > 0 {
            self.done.wait(&mut state);
        }
        std::mem::take(&mut state.outcomes).into_iter().flatten().collect()
    }
}

/// What the callers and the reaper share.
struct Shared {
    ring: IoUring,
    /// The descriptor that the ring works on stays open as long as the ring.
    _file: File,
    table: Mutex<Table>,
    /// Empty until the first transfer that suits it; `None`: we may not pin memory.
    pool: OnceLock<Option<Pool>>,
}

impl Shared {
    /// The registered memory, if some was wanted and there is any.
    fn pool(&self) -> Option<&Pool> {
        self.pool.get().and_then(Option::as_ref)
    }

    /// Registers memory, unless that was done before. Without the right to pin this much everything works, a little slower.
    fn provide_pool(&self) {
        self.pool.get_or_init(|| Pool::register(&self.ring).ok());
    }
}

/// The executor. Dropping it waits for what is in flight.
pub struct Executor {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
    tickets: Tickets<Arc<Batch>>,
}

/// Names a batch of one executor.
#[derive(Debug, PartialEq, Eq)]
pub struct BatchTicket(crate::device::Ticket);

impl Executor {
    /// A ring over `file` with room for `depth` transfers in the kernel.
    ///
    /// # Errors
    /// ENOSYS or EPERM where the kernel has no io_uring for us, or a lack of memory or descriptors.
    pub fn new(file: &File, depth: u32) -> io::Result<Self> {
        let file = file.try_clone()?;
        let ring = IoUring::builder().dontfork().setup_clamp().build(depth.max(8))?;
        let registered = ring.submitter().register_files(&[file.as_raw_fd()]).is_ok();
        let target = if registered { inflight::Target::Registered } else { inflight::Target::Descriptor(file.as_raw_fd()) };
        // One entry stays free for the operation that wakes the reaper at the end.
        let depth = ring.params().sq_entries() - 1;
        let table = Mutex::new(Table::new(depth, target));
        let shared = Arc::new(Shared { ring, _file: file, table, pool: OnceLock::new() });
        // Before Linux 5.13, which has this feature, memory is registered only while nobody waits for completions, as the reaper does.
        if !shared.ring.params().is_feature_resource_tagging() {
            shared.provide_pool();
        }
        let for_reaper = shared.clone();
        let reaper = std::thread::Builder::new().name("zns-reaper".to_owned()).spawn(move || for_reaper.reap())?;
        Ok(Self { shared, reaper: Some(reaper), tickets: Tickets::default() })
    }

    /// Are small transfers going through registered memory? Not before the first one.
    pub fn has_registered_memory(&self) -> bool {
        self.shared.pool().is_some()
    }

    /// Starts a batch. With a full queue the rest waits its turn in memory: this call does not block for I/O to complete.
    pub fn submit(&self, chains: Vec<Vec<Transfer>>, class: IoClass) -> BatchTicket {
        let batch = Arc::new(Batch::new(chains.iter().map(Vec::len).sum()));
        let mut first = 0;
        let mut prepared = Vec::with_capacity(chains.len());
        for transfers in chains.into_iter().filter(|chain| !chain.is_empty()) {
            let count = transfers.len();
            prepared.push(Chain::new(transfers, first, batch.clone(), class));
            first += count;
        }
        let ticket = BatchTicket(self.tickets.issue(batch));
        self.shared.start(prepared);
        ticket
    }

    /// Waits for a batch; its outcomes in the order of its transfers, chain after chain. Empty for a ticket that was used before.
    pub fn wait(&self, ticket: &BatchTicket) -> Vec<Outcome> {
        self.tickets.redeem(&ticket.0).map(|batch| batch.wait()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("registered_memory", &self.has_registered_memory()).finish_non_exhaustive()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.close();
        // With a broken ring the reaper may never wake again.
        let broken = self.shared.table.lock().broken;
        let reaped = self.reaper.take().filter(|_| !broken).map(JoinHandle::join);
        if !matches!(reaped, Some(Ok(()))) || !self.shared.table.lock().is_idle() {
            // The kernel may still use what the table owns: better leaked than given back.
            std::mem::forget(self.shared.clone());
            return;
        }
        // The kernel takes a ring down some time after its descriptor is closed, and until then a registered file stays open,
        // with its lock: the next user of the device would find it busy. Errors mean that nothing was registered.
        let submitter = self.shared.ring.submitter();
        let _ = submitter.unregister_files();
        let _ = submitter.unregister_buffers();
    }
}
