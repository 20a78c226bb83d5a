//! The table of transfers in flight: the owner of all memory that the kernel may still use.

use super::pool::{Pool, SLOT_BYTES};
use super::{Batch, Outcome, Transfer};
use crate::buffer::AlignedBuf;
use crate::device::IoClass;
use io_uring::{opcode, squeue, types};
use std::collections::VecDeque;
use std::sync::Arc;

/// Reads up to this size, and single-slice writes, go through the pool: below it a copy costs less than pinning pages.
const SMALL_BYTES: u64 = 16 << 10;
/// Most bytes in one operation; the rest follows as after a short transfer.
const MAX_OPERATION_BYTES: u64 = 1 << 30;
/// Most slices in one operation (IOV_MAX of Linux).
const MAX_SLICES: usize = 1024;
/// How often a transfer that the kernel turned away (EAGAIN, EINTR, ECANCELED at the end of the submitting thread) is tried again
/// without any progress.
const MAX_ATTEMPTS: u32 = 1000;

/// How operations name the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Registered file 0.
    Registered,
    /// A plain descriptor, where registration was refused.
    Descriptor(i32),
}

/// Transfers that run one after the other, and where their outcomes go.
#[derive(Debug)]
pub(super) struct Chain {
    transfers: VecDeque<Transfer>,
    /// Index of the front transfer in the batch.
    index: usize,
    batch: Arc<Batch>,
    priority: u16,
    urgent: bool,
}

/// I/O priority for the block layer: best effort, background work at its lower levels. (`ioprio.h`: class 2 in the top 3 bits.)
fn priority(class: IoClass) -> u16 {
    const BEST_EFFORT: u16 = 2 << 13;
    match class {
        IoClass::Foreground | IoClass::Log => 0,
        IoClass::Copy => BEST_EFFORT | 6,
        IoClass::Cleaning => BEST_EFFORT | 7,
    }
}

impl Chain {
    pub(super) fn new(transfers: Vec<Transfer>, index: usize, batch: Arc<Batch>, class: IoClass) -> Self {
        let urgent = matches!(class, IoClass::Foreground | IoClass::Log);
        Self { transfers: transfers.into(), index, batch, priority: priority(class), urgent }
    }

    /// Would one of its transfers go through registered memory?
    pub(super) fn suits_pool(&self) -> bool {
        self.transfers.iter().any(|transfer| suits_pool(transfer, transfer.bytes()))
    }

    /// Ends the chain: what has not run gets `errno`.
    pub(super) fn cancel(self, errno: i32) {
        for offset in 0..self.transfers.len() {
            self.batch.record(self.index + offset, Outcome::failed(errno));
        }
    }
}

/// A transfer that the kernel knows, or is about to.
struct Flight {
    transfer: Transfer,
    /// The rest of its chain.
    chain: Chain,
    index: usize,
    len: u64,
    done: u64,
    attempts: u32,
    pool_slot: Option<usize>,
    /// Stays where it is while the kernel reads it: a box of its own, replaced only between operations.
    vectors: Box<[libc::iovec]>,
}

// SAFETY: the raw pointers in `vectors` point into buffers that the flight itself owns.
unsafe impl Send for Flight {}

/// What is to be done with a flight after a completion.
enum Verdict {
    Again,
    Over(Option<i32>),
}

impl Flight {
    fn new(mut chain: Chain, transfer: Transfer, pool: Option<&Pool>) -> Self {
        let index = chain.index;
        chain.index += 1;
        let len = transfer.bytes();
        let pool_slot = pool.filter(|_| suits_pool(&transfer, len)).and_then(Pool::take);
        if let (Some(slot), Some(pool), Transfer::Write { data, .. }) = (pool_slot, pool, &transfer) {
            pool.fill(slot, data.iter().map(|part| &part[..]));
        }
        Self { transfer, chain, index, len, done: 0, attempts: 0, pool_slot, vectors: Box::default() }
    }

    /// The operation that moves what is left.
    fn entry(&mut self, target: Target, pool: Option<&Pool>, user_data: u64) -> squeue::Entry {
        let left = (self.len - self.done).min(MAX_OPERATION_BYTES) as u32;
        let (done, priority) = (self.done, self.chain.priority);
        macro_rules! operation {
            ($op:ident, $($argument:expr),+; $offset:expr) => {
                match target {
                    Target::Registered => opcode::$op::new(types::Fixed(0), $($argument),+).offset($offset).ioprio(priority).build(),
                    Target::Descriptor(fd) => opcode::$op::new(types::Fd(fd), $($argument),+).offset($offset).ioprio(priority).build(),
                }
            };
        }
        let at = |base: *mut u8| base.wrapping_add(done as usize);
        let entry = match (&mut self.transfer, self.pool_slot.zip(pool)) {
            (Transfer::Read { offset, .. }, Some((slot, pool))) => {
                operation!(ReadFixed, at(pool.address(slot)), left, 0; *offset + done)
            }
            (Transfer::Write { offset, .. }, Some((slot, pool))) => {
                operation!(WriteFixed, at(pool.address(slot)), left, 0; *offset + done)
            }
            (Transfer::Read { offset, buf }, None) => operation!(Read, at(buf.as_mut_ptr()), left; *offset + done),
            (Transfer::Write { offset, data }, None) => {
                self.vectors = vectors_from(data, done);
                match &self.vectors[..] {
                    [only] => {
                        let len = (only.iov_len as u64).min(MAX_OPERATION_BYTES) as u32;
                        operation!(Write, only.iov_base.cast::<u8>().cast_const(), len; *offset + done)
                    }
                    many => operation!(Writev, many.as_ptr(), many.len() as u32; *offset + done),
                }
            }
        };
        // The kernel tries without waiting first. What it turned away (a large transfer through device-mapper with few requests left, say) it would turn away
        // again, a thousand times while the device is busy: a worker of its own may wait.
        let entry = if self.attempts > 0 { entry.flags(squeue::Flags::ASYNC) } else { entry };
        entry.user_data(user_data)
    }

    /// Takes note of a completion.
    fn advance(&mut self, result: i32) -> Verdict {
        match result {
            moved if moved > 0 => {
                self.done += moved as u64;
                self.attempts = 0;
                match self.done.cmp(&self.len) {
                    std::cmp::Ordering::Less => Verdict::Again,
                    _ => Verdict::Over(None),
                }
            }
            // The end of the file, or a device that takes nothing.
            0 => Verdict::Over(Some(libc::EIO)),
            error => {
                let errno = error.wrapping_neg();
                self.attempts += 1;
                let passing = matches!(errno, libc::EAGAIN | libc::EINTR | libc::ECANCELED);
                if passing && self.attempts < MAX_ATTEMPTS { Verdict::Again } else { Verdict::Over(Some(errno)) }
            }
        }
    }

    /// Hands the outcome over; gives the rest of the chain if it goes on.
    fn finish(mut self, errno: Option<i32>, pool: Option<&Pool>) -> Option<Chain> {
        let mut buf: Option<AlignedBuf> = match self.transfer {
            Transfer::Read { buf, .. } => Some(buf),
            Transfer::Write { .. } => None,
        };
        if let (Some(slot), Some(pool)) = (self.pool_slot.take(), pool) {
            if let (Some(buf), None) = (&mut buf, errno) {
                pool.drain(slot, buf);
            }
            pool.give_back(slot);
        }
        self.chain.batch.record(self.index, Outcome { transferred: self.done.min(self.len), errno, buf });
        if errno.is_some() {
            self.chain.cancel(libc::ECANCELED);
            return None;
        }
        (!self.chain.transfers.is_empty()).then_some(self.chain)
    }
}

fn suits_pool(transfer: &Transfer, len: u64) -> bool {
    match transfer {
        Transfer::Read { .. } => len <= SMALL_BYTES,
        Transfer::Write { data, .. } if data.len() == 1 => len <= SMALL_BYTES,
        Transfer::Write { .. } => len <= SLOT_BYTES as u64,
    }
}

/// What is left of `data` after `done` bytes, as vectors for the kernel.
fn vectors_from(data: &[crate::buffer::BufSlice], done: u64) -> Box<[libc::iovec]> {
    let mut skip = done as usize;
    let mut vectors = Vec::with_capacity(data.len().min(MAX_SLICES));
    for part in data {
        let skipped = skip.min(part.len());
        skip -= skipped;
        let rest = &part[skipped..];
        if !rest.is_empty() && vectors.len() < MAX_SLICES {
            vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
    }
    vectors.into()
}

/// All transfers in flight, and the chains that wait for room.
pub(super) struct Table {
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Foreground and log before copies and cleaning.
    urgent: VecDeque<Chain>,
    background: VecDeque<Chain>,
    target: Target,
    /// No more chains are taken: the executor is being dropped.
    pub(super) closing: bool,
    /// The ring failed: nothing can be started any more.
    pub(super) broken: bool,
}

impl Table {
    pub(super) fn new(depth: u32, target: Target) -> Self {
        let depth = depth as usize;
        Self {
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            urgent: VecDeque::new(),
            background: VecDeque::new(),
            target,
            closing: false,
            broken: false,
        }
    }

    /// Nothing in flight and nothing waiting?
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.flights.len() && self.urgent.is_empty() && self.background.is_empty()
    }

    /// Queues a chain.
    pub(super) fn enqueue(&mut self, chain: Chain) {
        if self.broken {
            return chain.cancel(libc::EIO);
        }
        if chain.urgent { self.urgent.push_back(chain) } else { self.background.push_back(chain) }
    }

    /// The next operation for the kernel, if there is room and work. It is in the table from now on.
    pub(super) fn next_entry(&mut self, pool: Option<&Pool>) -> Option<squeue::Entry> {
        loop {
            if self.free.is_empty() {
                return None;
            }
            let mut chain = self.urgent.pop_front().or_else(|| self.background.pop_front())?;
            let Some(transfer) = chain.transfers.pop_front() else { continue };
            let mut flight = Flight::new(chain, transfer, pool);
            if flight.len == 0 {
                // Nothing to move: an operation of zero bytes would look like the end of the file.
                if let Some(rest) = flight.finish(None, pool) {
                    self.enqueue(rest);
                }
                continue;
            }
            let slot = self.free.pop()?;
            let entry = flight.entry(self.target, pool, slot as u64);
            self.flights[slot] = Some(flight);
            return Some(entry);
        }
    }

    /// Deals with one completion; gives the operation that continues the transfer, if it is not over.
    pub(super) fn completed(&mut self, user_data: u64, result: i32, pool: Option<&Pool>) -> Option<squeue::Entry> {
        let slot = usize::try_from(user_data).ok().filter(|&slot| slot < self.flights.len())?;
        let flight = self.flights[slot].as_mut()?;
        match flight.advance(result) {
            Verdict::Again => Some(flight.entry(self.target, pool, user_data)),
            Verdict::Over(errno) => {
                let flight = self.flights[slot].take()?;
                self.free.push(slot);
                if let Some(rest) = flight.finish(errno, pool) {
                    // Before others of its class: its zone waits for it.
                    if rest.urgent { self.urgent.push_front(rest) } else { self.background.push_front(rest) }
                }
                None
            }
        }
    }

    /// Gives up: everyone who waits gets EIO. Flights stay in the table, because the kernel may still use their memory.
    pub(super) fn abandon(&mut self) {
        self.broken = true;
        for chain in self.urgent.drain(..).chain(self.background.drain(..)) {
            chain.cancel(libc::EIO);
        }
        for flight in self.flights.iter_mut().flatten() {
            flight.chain.batch.record(flight.index, Outcome::failed(libc::EIO));
            let rest = std::mem::take(&mut flight.chain.transfers);
            for offset in 0..rest.len() {
                flight.chain.batch.record(flight.chain.index + offset, Outcome::failed(libc::EIO));
            }
        }
    }
}
