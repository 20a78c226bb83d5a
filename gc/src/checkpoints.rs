//! Where the checkpoints of the filesystem stand, for a cleaner that must not wait for them.
//!
//! A zone that was emptied before a checkpoint began is given back by it; one emptied later is not. The filesystem counts, the cleaner
//! compares: neither needs the other's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    over: AtomicU64,
}

/// Shared by the filesystem, which makes checkpoints one at a time, and its cleaner.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints(Arc<Counts>);

impl Checkpoints {
    /// One begins, before it looks at which zones are dead.
    pub fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// It is over, whatever came of it.
    pub fn end(&self) {
        self.0.over.store(self.0.begun.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Is one being made?
    pub fn is_under_way(&self) -> bool {
        self.0.over.load(Ordering::SeqCst) < self.0.begun.load(Ordering::SeqCst)
    }

    /// How many have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// Does the one that is being made give back what was emptied when so many had begun?
    pub(crate) fn will_give_back(&self, emptied: u64) -> bool {
        self.is_under_way() && emptied < self.begun()
    }

    /// Is a checkpoint over that began later than that?
    pub(crate) fn is_past(&self, emptied: u64) -> bool {
        emptied < self.0.over.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_gives_back_what_was_emptied_before_it_began() {
        let checkpoints = Checkpoints::default();
        let before = checkpoints.begun();
        assert!(!checkpoints.is_under_way() && !checkpoints.will_give_back(before) && !checkpoints.is_past(before));
        checkpoints.begin();
        let during = checkpoints.begun();
        assert!(checkpoints.is_under_way() && checkpoints.will_give_back(before) && !checkpoints.will_give_back(during));
        checkpoints.end();
        assert!(!checkpoints.is_under_way() && checkpoints.is_past(before) && !checkpoints.is_past(during));
    }
}
