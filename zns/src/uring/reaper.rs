//! Getting operations into the ring, and the thread that takes completions out of it.

use super::Shared;
use super::inflight::Chain;
use io_uring::{cqueue, opcode, squeue};
use std::io;

/// User data of the operation that only wakes the reaper.
const WAKE: u64 = u64::MAX;

impl Shared {
    /// Queues chains and brings as many of them as there is room for to the kernel.
    pub(super) fn start(&self, chains: Vec<Chain>) {
        if chains.iter().any(Chain::suits_pool) {
            self.provide_pool();
        }
        let mut table = self.table.lock();
        chains.into_iter().for_each(|chain| table.enqueue(chain));
        let mut entries = Vec::new();
        while let Some(entry) = table.next_entry(self.pool()) {
            entries.push(entry);
        }
        self.push(&entries);
        drop(table);
        if !entries.is_empty() {
            self.enter();
        }
    }

    /// Puts entries into the submission ring. The caller holds the lock of the table.
    fn push(&self, entries: &[squeue::Entry]) {
        // SAFETY: all access to the submission ring happens under the lock of the table.
        let mut ring = unsafe { self.ring.submission_shared() };
        for entry in entries {
            // SAFETY: what the entry points to is owned by the table (or the pool) until its completion.
            let pushed = unsafe { ring.push(entry) };
            // Not more operations than the ring has entries are in the table, plus the one that wakes: see `close`.
            pushed.expect("the submission ring has room for every operation of the table");
        }
    }

    /// Makes the kernel take what is in the ring. What it does not take now it takes with a later call, at the latest the reaper's.
    fn enter(&self) {
        loop {
            match self.ring.submit() {
                Ok(_) => return,
                Err(error) if is_passing(&error) => std::thread::yield_now(),
                Err(error) => {
                    tracing::error!(%error, "io_uring refuses operations");
                    self.table.lock().abandon();
                    return;
                }
            }
        }
    }

    /// Tells the reaper to end once nothing is in flight.
    pub(super) fn close(&self) {
        {
            let mut table = self.table.lock();
            table.closing = true;
            // SAFETY: under the lock of the table.
            let mut ring = unsafe { self.ring.submission_shared() };
            let wake = opcode::Nop::new().build().user_data(WAKE);
            // SAFETY: the operation names no memory. A full ring needs no waking: its completions come.
            let _ = unsafe { ring.push(&wake) };
        }
        self.enter();
    }

    /// The reaper's life.
    pub(super) fn reap(&self) {
        let mut completions: Vec<(u64, i32)> = Vec::new();
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => std::thread::yield_now(),
                Err(error) => {
                    tracing::error!(%error, "io_uring gives no completions");
                    return self.table.lock().abandon();
                }
            }
            // SAFETY: only this thread touches the completion ring.
            let ring = unsafe { self.ring.completion_shared() };
            completions.extend(ring.map(|entry: cqueue::Entry| (entry.user_data(), entry.result())));
            if self.settle(&mut completions) {
                return;
            }
        }
    }

    /// Deals with completions and fills the room they leave. True at the end.
    fn settle(&self, completions: &mut Vec<(u64, i32)>) -> bool {
        let pool = self.pool();
        let mut table = self.table.lock();
        let mut entries = Vec::new();
        for (user_data, result) in completions.drain(..) {
            entries.extend(table.completed(user_data, result, pool));
        }
        while let Some(entry) = table.next_entry(pool) {
            entries.push(entry);
        }
        // Brought to the kernel by the next `submit_and_wait`.
        self.push(&entries);
        table.closing && table.is_idle()
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
