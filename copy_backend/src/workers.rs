//! A few threads that carry out commands, so that a road whose device call blocks is nevertheless asynchronous.

use crate::backend::{CopyOutcome, FailureKind};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use zns::{Processors, Ticket};

/// What a job gives; and what whoever waits for one that vanished is told.
pub(crate) trait Lost: Send + 'static {
    /// The job is gone: nothing is known to be done.
    fn lost() -> Self;
}

impl Lost for CopyOutcome {
    fn lost() -> Self {
        Self::failed(0, FailureKind::Transient, "the copy was lost")
    }
}

type Job<T> = Box<dyn FnOnce() -> T + Send>;

struct State<T> {
    waiting: VecDeque<(u64, Job<T>)>,
    running: std::collections::HashSet<u64>,
    done: HashMap<u64, T>,
    next: u64,
    idle: usize,
    stop: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    finished: Condvar,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            running: std::collections::HashSet::new(),
            done: HashMap::new(),
            next: 0,
            idle: 0,
            stop: false,
        };
        Self { state: Mutex::new(state), work: Condvar::new(), finished: Condvar::new() }
    }
}

/// Threads start when there is work for them, so that an engine may be built before a daemon forks.
pub(crate) struct Workers<T: Lost = CopyOutcome> {
    shared: Arc<Shared<T>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    most: usize,
    name: &'static str,
    /// Those of whoever made it, for a thread that asks for a copy may be bound to one.
    processors: Processors,
}

impl<T: Lost> Workers<T> {
    /// At most `most` threads.
    pub fn new(name: &'static str, most: usize) -> Self {
        Self { shared: Arc::default(), threads: Mutex::default(), most: most.max(1), name, processors: Processors::of_caller() }
    }

    /// Queues a job.
    pub fn submit(&self, job: impl FnOnce() -> T + Send + 'static) -> Ticket {
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
        let (shared, processors) = (self.shared.clone(), self.processors);
        let work = move || {
            processors.take();
            run(&shared);
        };
        match std::thread::Builder::new().name(self.name.into()).spawn(work) {
            Ok(thread) => threads.push(thread),
            // With no thread at all, whoever waits for the job carries it out: see `complete`.
            Err(error) => tracing::warn!(%error, "cannot start a copy thread"),
        }
    }

    /// Waits for a job. A ticket that is unknown (or was completed before) did nothing.
    pub fn complete(&self, ticket: Ticket) -> T {
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
                return T::lost();
            }
            self.shared.finished.wait(&mut state);
        }
    }
}

impl<T: Lost> Drop for Workers<T> {
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

/// A panic in a device must not leave the one who waits waiting for ever.
fn guarded<T: Lost>(job: Job<T>) -> T {
    survive(job).unwrap_or_else(T::lost)
}

/// For what must be tidied up: `None` if it panics. A panic out of a destructor while another one unwinds would end the process.
pub(crate) fn survive<T>(tidy_up: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(tidy_up)).ok()
}

fn run<T: Lost>(shared: &Shared<T>) {
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
        let workers: Workers = Workers::new("test", 2);
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
    fn a_thread_has_the_processors_of_whoever_made_the_pool() {
        let workers: Workers = Workers::new("test", 1);
        let all = Processors::of_caller().numbers();
        let (told, numbers) = mpsc::channel();
        let cpu = all[0];
        let bound = move || {
            Processors::bind_to(cpu);
            workers.submit(move || {
                told.send(Processors::of_caller().numbers()).unwrap();
                did(0)
            });
        };
        std::thread::spawn(bound).join().unwrap();
        assert_eq!(numbers.recv().unwrap(), all);
    }

    #[test]
    fn a_panic_is_a_failure_and_dropping_waits_for_what_runs() {
        let workers: Workers = Workers::new("test", 1);
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
