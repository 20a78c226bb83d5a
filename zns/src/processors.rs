//! On which processors threads may run.
//!
//! A thread begins with the processors of the one that makes it. One that is bound makes others now and then (a pool starts its threads when there is work), and
//! those are not to be bound with it.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that a thread may have.
#[derive(Clone, Copy, Debug)]
pub struct Processors(Option<CpuSet>);

impl Processors {
    /// Those of the calling thread.
    pub fn of_caller() -> Self {
        // A machine has more of them than the set can tell, or the sandbox refuses to say: then threads stay as they are.
        Self(sched_getaffinity(None).ok())
    }

    /// Their numbers, in order; none if that is not known.
    pub fn numbers(&self) -> Vec<usize> {
        self.0.map_or_else(Vec::new, |set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
    }

    /// The calling thread may have all of these and no others, as far as the system lets it.
    pub fn take(&self) {
        if let Some(set) = &self.0
            && let Err(errno) = sched_setaffinity(None, set)
        {
            tracing::debug!("a thread keeps the processors that it has: {errno}");
        }
    }

    /// The calling thread may have this one alone, as far as the system lets it.
    pub fn bind_to(cpu: usize) {
        let mut one = CpuSet::new();
        if cpu < CpuSet::MAX_CPU {
            one.set(cpu);
            Self(Some(one)).take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bound_thread_makes_can_have_all_processors_again() {
        let all = Processors::of_caller();
        let numbers = all.numbers();
        let last = *numbers.last().expect("one on which this runs");
        let bound = move || {
            Processors::bind_to(last);
            let made = move || {
                let inherited = Processors::of_caller().numbers();
                all.take();
                (inherited, Processors::of_caller().numbers())
            };
            std::thread::spawn(made).join().expect("no panic")
        };
        assert_eq!(std::thread::spawn(bound).join().expect("no panic"), (vec![last], numbers));
    }

    #[test]
    fn a_processor_that_is_not_there_binds_nobody() {
        let alone = || {
            let before = Processors::of_caller().numbers();
            Processors::bind_to(CpuSet::MAX_CPU - 1);
            Processors::bind_to(CpuSet::MAX_CPU);
            (before, Processors::of_caller().numbers())
        };
        let (before, after) = std::thread::spawn(alone).join().expect("no panic");
        assert_eq!(before, after);
    }
}
