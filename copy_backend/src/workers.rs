//! A few threads that carry out commands, so that a road whose device call blocks is nevertheless asynchronous.

use crate::backend::{CopyOutcome, FailureKind};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use zns::Ticket;

type Job = Box<dyn FnOnce() -> CopyOutcome + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Job)>,
    running: std::collections::HashSet<u64>,
    done: HashMap<u64, CopyOutcome>,
    next: u64,
    idle: usize,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    finished: Condvar,
}

/// Threads start when there is work for them, so that an engine may be built before a daemon forks.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    most: usize,
    name: &'static str,
}

impl Workers {
    /// At most `most` threads.
    pub fn new(name: &'static str, most: usize) -> Self {
        Self { shared: Arc::default(), threads: Mutex::default(), most: most.max(1), name }
    }

    /// Queues a job.
    pub fn submit(&self, job: impl FnOnce() -> CopyOutcome + Send + 'static) -> Ticket {
        let mut state = self.shared.state.lock();
        let id = state.next;
        state.next += 1;
        state.waiting.push_back((id, Box::new(job)));
        let short_of_threads = state.waiting.len() > state.idle;
        drop(state);
        if short_of_threads {
            self.spawn();
        }
        self.shared.work.notify_one();
        Ticket(id)
    }

    fn spawn(&self) {
        let mut threads = self.threads.lock();
        if threads.len() >= self.most {
            return;
        }
        let shared = self.shared.clone();
        match std::thread::Builder::new().name(self.name.into()).spawn(move || run(&shared)) {
            Ok(thread) => threads.push(thread),
            // With no thread at all, whoever waits for the job carries it out: see `complete`.
            Err(error) => tracing::warn!(%error, "cannot start a copy thread"),
        }
    }

    /// Waits for a job. A ticket that is unknown (or was completed before) did nothing.
    pub fn complete(&self, ticket: Ticket) -> CopyOutcome {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(outcome) = state.done.remove(&ticket.0) {
                return outcome;
            }
            let waiting = state.waiting.iter().position(|(id, _)| *id == ticket.0);
            // A job that no thread has begun is carried out by the one who waits for it: no thread need be woken for it.
            if let Some((_, job)) = waiting.and_then(|index| state.waiting.remove(index)) {
                drop(state);
                return guarded(job);
            }
            if !state.running.contains(&ticket.0) {
                return lost();
            }
            self.shared.finished.wait(&mut state);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a copy thread ended abnormally");
            }
        }
    }
}

fn lost() -> CopyOutcome {
    CopyOutcome::failed(0, FailureKind::Transient, "the copy was lost")
}

/// A panic in a device must not leave the one who waits waiting for ever.
fn guarded(job: Job) -> CopyOutcome {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| lost())
}

fn run(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        if let Some((id, job)) = state.waiting.pop_front() {
            state.running.insert(id);
            drop(state);
            let outcome = guarded(job);
            state = shared.state.lock();
            state.running.remove(&id);
            state.done.insert(id, outcome);
            shared.finished.notify_all();
        } else if state.stop {
            return;
        } else {
            state.idle += 1;
            shared.work.wait(&mut state);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn did(ranges_done: usize) -> CopyOutcome {
        CopyOutcome::offloaded(ranges_done)
    }

    #[test]
    fn jobs_run_side_by_side_and_each_is_told_once() {
        let workers = Workers::new("test", 2);
        // Each of the two waits for the other: they finish only if both run.
        let (to_first, from_second) = mpsc::channel();
        let (to_second, from_first) = mpsc::channel();
        let first = workers.submit(move || {
            to_second.send(()).unwrap();
            from_second.recv().unwrap();
            did(1)
        });
        let second = workers.submit(move || {
            from_first.recv().unwrap();
            to_first.send(()).unwrap();
            did(2)
        });
        let copy_of_second = Ticket(second.0);
        assert_eq!(workers.complete(second), did(2));
        assert_eq!(workers.complete(first), did(1));
        assert_eq!(workers.complete(copy_of_second).failure, Some(FailureKind::Transient));
    }

    #[test]
    fn a_panic_is_a_failure_and_dropping_waits_for_what_runs() {
        let workers = Workers::new("test", 1);
        let ticket = workers.submit(|| panic!("a device with a bug"));
        assert_eq!(workers.complete(ticket).failure, Some(FailureKind::Transient));
        let (done, all) = mpsc::channel();
        for index in 0..8 {
            let done = done.clone();
            workers.submit(move || {
                done.send(index).unwrap();
                did(0)
            });
        }
        drop((workers, done));
        assert_eq!(all.iter().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    }
}
