//! Keeps one FUSE thread free for short requests.
//!
//! A session reads requests with a fixed number of threads and answers each on the thread that read it. An fsync or a large
//! copy waits for the device; if every thread did that at once, a `stat` would wait behind them, and group commit would
//! never see more fsyncs than there are threads. So a request that is known to wait runs on its thread only as long as
//! another thread stays free; otherwise it is handed to a spare thread, made on demand and kept for the next.
//!
//! Free is a thread that can take the next request: any other one of the session, or, where each processor has a queue of its own, one of the same processor.

use parking_lot::{Condvar, Mutex};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// The calling thread is one of them, and not one of those that the lanes were made for.
    pub(super) fn join(self: &Arc<Self>) {
        OWN.set(Some(self.clone()));
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
    crew: Arc<Crew>,
    shared: Arc<Shared>,
}

impl Lanes {
    /// For a session of `fuse_threads` threads.
    pub(super) fn new(fuse_threads: usize) -> Self {
        Self { crew: Arc::new(Crew::new(fuse_threads)), shared: Arc::default() }
    }

    /// Runs `job`, which may wait long: here if another FUSE thread stays free, else on a spare thread.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let own = OWN.with_borrow(Clone::clone);
        let crew = own.as_ref().unwrap_or(&self.crew);
        let others = crew.waiting_inline.fetch_add(1, Ordering::Relaxed);
        if others + 1 < crew.threads && !OWES.get() {
            job();
            crew.waiting_inline.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        crew.waiting_inline.fetch_sub(1, Ordering::Relaxed);
        self.hand_over(job);
    }

    /// Runs `job` on a spare thread.
    pub(super) fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.idle < queue.jobs.len() && queue.threads < MAX_SPARE {
            let shared = self.shared.clone();
            // Without another thread the job waits for those that are there; with none at all it runs here.
            match std::thread::Builder::new().name("fuse-spare".into()).spawn(move || spare(&shared)) {
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
        let lanes = Lanes::new(1);
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

    #[test]
    fn a_job_runs_where_it_is_while_another_thread_is_free() {
        let lanes = Lanes::new(2);
        let here = std::thread::current().id();
        let seen = Arc::new(Mutex::new(None));
        let slot = seen.clone();
        lanes.run(move || *slot.lock() = Some(std::thread::current().id()));
        assert_eq!(*seen.lock(), Some(here));
    }

    #[test]
    fn a_thread_of_another_crew_waits_if_one_of_its_own_is_free_and_nobody_waits_for_it() {
        let lanes = Lanes::new(1);
        let runs_here = || {
            let seen = Arc::new(Mutex::new(None));
            let slot = seen.clone();
            lanes.run(move || *slot.lock() = Some(std::thread::current().id()));
            lanes.drain();
            let id = *seen.lock();
            id == Some(std::thread::current().id())
        };
        assert!(!runs_here());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let crew = Arc::new(Crew::new(2));
                crew.join();
                assert!(runs_here());
                owes_answers(true);
                assert!(!runs_here());
                owes_answers(false);
                crew.waiting_inline.fetch_add(1, Ordering::Relaxed);
                assert!(!runs_here(), "the other one waits already");
            });
        });
    }
}
