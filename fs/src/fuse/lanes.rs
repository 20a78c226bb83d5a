//! Keeps one FUSE thread free for short requests.
//!
//! A session reads requests with a fixed number of threads and answers each on the thread that read it. An fsync or a large
//! copy waits for the device; if every thread did that at once, a `stat` would wait behind them, and group commit would
//! never see more fsyncs than there are threads. So a request that is known to wait runs on its thread only as long as
//! another thread stays free; otherwise it is handed to a spare thread, made on demand and kept for the next.
//!
//! Free is a thread that can take the next request: another one of the same crew, which are the threads that take requests from one queue. That is the
//! connection's, or, where each processor has a queue of its own, the processor's.

use parking_lot::{Condvar, Mutex};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zns::Processors;

type Job = Box<dyn FnOnce() + Send>;

/// Most spare threads: as many fsyncs can be gathered into one group commit.
const MAX_SPARE: usize = 64;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    running: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    quiet: Condvar,
}

/// Threads that take requests from one queue.
#[derive(Debug)]
pub(super) struct Crew {
    threads: usize,
    waiting_inline: AtomicUsize,
}

impl Crew {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads, waiting_inline: AtomicUsize::new(0) }
    }

    /// The calling thread is one of them. Who is of none leaves whatever waits to others.
    pub(super) fn join(self: &Arc<Self>) {
        OWN.set(Some(self.clone()));
    }

    /// A place among those that wait, if another thread stays free.
    fn wait(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(self);
        (self.waiting_inline.fetch_add(1, Ordering::Relaxed) + 1 < self.threads).then_some(waiting)
    }
}

/// Counted while it lives, also when what is waited for panics.
struct Waiting<'a>(&'a Crew);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting_inline.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    static OWN: RefCell<Option<Arc<Crew>>> = const { RefCell::new(None) };
    static OWES: Cell<bool> = const { Cell::new(false) };
}

/// Says whether answers that other threads give go through the calling thread: then it must not wait for anything long.
pub(super) fn owes_answers(owes: bool) {
    OWES.set(owes);
}

/// The lanes of one mount.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    /// For spare threads: those who make them may be bound.
    processors: Processors,
}

impl Default for Lanes {
    /// Spare threads will have the processors of the calling thread.
    fn default() -> Self {
        Self { shared: Arc::default(), processors: Processors::of_caller() }
    }
}

impl Lanes {
    /// Runs `job`, which may wait long: here if another thread of the crew stays free, else on a spare thread.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let crew = OWN.with_borrow(Clone::clone).filter(|_| !OWES.get());
        match crew.as_ref().and_then(|crew| crew.wait()) {
            Some(_waiting) => job(),
            None => self.hand_over(job),
        }
    }

    /// Runs `job`, which nobody awaits, here and now if another thread of the crew stays free, else not at all.
    pub(super) fn run_if_free(&self, job: impl FnOnce()) {
        let crew = OWN.with_borrow(Clone::clone).filter(|_| !OWES.get());
        if let Some(_waiting) = crew.as_ref().and_then(|crew| crew.wait()) {
            job();
        }
    }

    /// Runs `job` on a spare thread.
    pub(super) fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.idle < queue.jobs.len() && queue.threads < MAX_SPARE {
            let (shared, processors) = (self.shared.clone(), self.processors);
            let work = move || {
                processors.take();
                spare(&shared);
            };
            // Without another thread the job waits for those that are there; with none at all it runs here.
            match std::thread::Builder::new().name("fuse-spare".into()).spawn(work) {
                Ok(_) => queue.threads += 1,
                Err(_) if queue.threads == 0 => {
                    let job = queue.jobs.pop_back();
                    drop(queue);
                    if let Some(job) = job {
                        job();
                    }
                    return;
                }
                Err(_) => {}
            }
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    /// Waits until nothing that was handed over is running any more.
    pub(super) fn drain(&self) {
        let mut queue = self.shared.queue.lock();
        while queue.running > 0 || !queue.jobs.is_empty() {
            self.shared.quiet.wait(&mut queue);
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

fn spare(shared: &Shared) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            queue.running += 1;
            drop(queue);
            // The adaptor has caught the panics of the filesystem already; whatever is left must not end the lane.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            queue = shared.queue.lock();
            queue.running -= 1;
            if queue.running == 0 && queue.jobs.is_empty() {
                shared.quiet.notify_all();
            }
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            shared.work.wait(&mut queue);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn many_waiting_jobs_run_at_once_on_few_threads() {
        let lanes = Lanes::default();
        let barrier = Arc::new(Barrier::new(17));
        for _ in 0..16 {
            let barrier = barrier.clone();
            lanes.run(move || {
                barrier.wait();
            });
        }
        barrier.wait();
        lanes.drain();
        assert!(lanes.shared.queue.lock().threads <= 16);
    }

    /// Does a job run on the calling thread?
    fn runs_here(lanes: &Lanes) -> bool {
        let seen = Arc::new(Mutex::new(None));
        let slot = seen.clone();
        lanes.run(move || *slot.lock() = Some(std::thread::current().id()));
        lanes.drain();
        let id = *seen.lock();
        id == Some(std::thread::current().id())
    }

    #[test]
    fn a_job_runs_where_it_is_while_another_of_the_crew_is_free_and_nobody_waits_for_it() {
        let lanes = Lanes::default();
        assert!(!runs_here(&lanes), "a thread of no crew does not wait");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let crew = Arc::new(Crew::new(2));
                crew.join();
                assert!(runs_here(&lanes));
                owes_answers(true);
                assert!(!runs_here(&lanes));
                owes_answers(false);
                let other = crew.wait();
                assert!(other.is_some() && !runs_here(&lanes), "the other one waits already");
                lanes.run_if_free(|| panic!("the other one waits already"));
                drop(other);
                assert!(runs_here(&lanes));
                let mut ran = false;
                lanes.run_if_free(|| ran = true);
                assert!(ran);
            });
            scope.spawn(|| {
                Arc::new(Crew::new(1)).join();
                assert!(!runs_here(&lanes), "there is no other one");
            });
        });
    }

    #[test]
    fn a_spare_thread_has_the_processors_of_whoever_made_the_lanes() {
        let lanes = Lanes::default();
        let all = Processors::of_caller().numbers();
        let seen = Arc::new(Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                Processors::bind_to(all[0]);
                let seen = seen.clone();
                lanes.hand_over(move || *seen.lock() = Processors::of_caller().numbers());
            });
        });
        lanes.drain();
        assert_eq!(*seen.lock(), all);
    }

    #[test]
    fn a_job_that_panics_waits_no_longer() {
        let lanes = Lanes::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                Arc::new(Crew::new(2)).join();
                let panicked =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lanes.run(|| panic!("a panic that the test wants"))));
                assert!(panicked.is_err() && runs_here(&lanes));
            });
        });
    }
}
