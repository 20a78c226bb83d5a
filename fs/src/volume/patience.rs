//! Threads that work in the background let the users' threads have the processors first.
//!
//! A writer sleeps and wakes for each of its requests, and so do the threads that answer them; one that cleans uses its processor for milliseconds on end. As
//! the scheduler has it, it keeps that for a slice of some 3 ms whoever wakes up meanwhile, and takes it from others when it wakes itself.

/// `struct sched_attr` of Linux in its first form, as sched_setattr(2) has it.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// SCHED_BATCH of sched(7): who wakes up under it takes the processor from nobody.
const BATCH: u32 = 3;
/// Nanoseconds of processor time that the thread wants in one piece: who wakes up and wants less, as all do by default, goes first (Linux since 6.12; before, it makes no
/// difference). With 20 ms fsync was quicker and the longest writes were longer (BENCHMARKS).
const SLICE: u64 = 6_000_000;

/// From now on the calling thread has its share of the processors in long pieces, which end when somebody else wakes up. Where that cannot be had, or somebody
/// has chosen another policy for the whole daemon, nothing changes.
pub(super) fn be_patient() {
    // SAFETY: asks for a number.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return;
    }
    // Not to be changed by the way.
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    let attributes = Attributes { size, policy: BATCH, flags: 0, nice, priority: 0, runtime: SLICE, deadline: 0, period: 0 };
    // SAFETY: the structure is as long as it says and outlives the call, which only reads it.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done != 0 {
        tracing::debug!("a thread in the background is scheduled like others: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_thread_is_one_of_the_batch_with_the_niceness_that_it_had() {
        // A thread of its own, which nobody else's test runs on.
        let seen = std::thread::spawn(|| {
            let nice = (rustix::process::getpriority_process(None).expect("has one") + 1).min(19);
            rustix::process::setpriority_process(None, nice).expect("anybody may be nicer");
            // SAFETY: asks for a number.
            let policy = || unsafe { libc::sched_getscheduler(0) };
            let before = policy();
            be_patient();
            (before, policy(), rustix::process::getpriority_process(None) == Ok(nice))
        });
        let (before, after, kept) = seen.join().expect("no panic");
        let expected = if before == libc::SCHED_OTHER { libc::SCHED_BATCH } else { before };
        assert_eq!((after, kept), (expected, true));
    }
}
