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
    running: AtomicU64,
}

/// Shared by the filesystem and its cleaner. Several may be under way at once: each gives back what was emptied before it began and is not given back yet, so
/// that it does not matter whether those that began earlier are over.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints(Arc<Counts>);

impl Checkpoints {
    /// One begins, before it looks at which zones are dead; gives its number.
    pub fn begin(&self) -> u64 {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        self.0.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The one with this number is over.
    pub fn end(&self, number: u64) {
        self.0.over.fetch_max(number, Ordering::SeqCst);
        self.give_up();
    }

    /// One is over and gave nothing back: it is as if it had never begun.
    pub fn give_up(&self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// Is one being made?
    pub fn is_under_way(&self) -> bool {
        self.0.running.load(Ordering::SeqCst) > 0
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
        let number = checkpoints.begin();
        let during = checkpoints.begun();
        assert!(checkpoints.is_under_way() && checkpoints.will_give_back(before) && !checkpoints.will_give_back(during));
        checkpoints.end(number);
        assert!(!checkpoints.is_under_way() && checkpoints.is_past(before) && !checkpoints.is_past(during));
    }

    #[test]
    fn what_begins_later_and_ends_first_is_past_and_ends_nothing_else() {
        let checkpoints = Checkpoints::default();
        let long = checkpoints.begin();
        let between = checkpoints.begun();
        let short = checkpoints.begin();
        assert!(checkpoints.will_give_back(between));
        checkpoints.end(short);
        assert!(checkpoints.is_past(between) && checkpoints.is_under_way());
        let late = checkpoints.begun();
        let next = checkpoints.begin();
        checkpoints.end(long);
        assert!(checkpoints.is_under_way() && checkpoints.will_give_back(late) && !checkpoints.is_past(late));
        checkpoints.give_up();
        assert!(!checkpoints.is_under_way() && !checkpoints.will_give_back(late) && !checkpoints.is_past(late));
        assert!(next > short);
    }
}
