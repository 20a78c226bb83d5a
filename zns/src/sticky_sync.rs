//! A sync that failed once has failed for good.
//!
//! The kernel tells of a failed write-back once and may drop the pages: a second sync that succeeds says nothing about what
//! the first one lost. Until the device is opened anew, every flush gives the first error.

use parking_lot::Mutex;
use rustix::io::Errno;

/// Remembers the first failure. Syncs wait for one another: of two at once the kernel tells only one about an error that
/// concerns both.
#[derive(Debug, Default)]
pub(crate) struct StickySync {
    failed: Mutex<Option<Errno>>,
}

impl StickySync {
    /// Runs `sync` (again after EINTR), unless an earlier one has failed.
    pub(crate) fn attempt(&self, sync: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut failed = self.failed.lock();
        if let Some(errno) = *failed {
            return Err(errno);
        }
        loop {
            match sync() {
                Err(Errno::INTR) => {}
                other => {
                    *failed = other.err();
                    return other;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_failure_stays_and_an_interruption_does_not() {
        let sync = StickySync::default();
        let calls = Cell::new(0);
        let answer = |answers: &'static [Result<(), Errno>]| {
            calls.set(0);
            sync.attempt(|| {
                calls.set(calls.get() + 1);
                answers[calls.get() - 1]
            })
        };
        assert_eq!(answer(&[Err(Errno::INTR), Err(Errno::INTR), Ok(())]), Ok(()));
        assert_eq!(calls.get(), 3);
        assert_eq!(answer(&[Err(Errno::IO)]), Err(Errno::IO));
        assert_eq!(answer(&[Ok(())]), Err(Errno::IO));
        assert_eq!(calls.get(), 0);
    }
}
