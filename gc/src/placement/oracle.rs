//! A placement that is told the future, for comparison: what no real placement can reach.

use super::{Class, Placement, RelocatedBlock, Shape, UserWrite};
use crate::segment::Seq;

/// Six ranges of the time until a block is written again, each four times as long as the one before.
#[derive(Clone, Copy, Debug)]
pub struct Oracle {
    /// Length of the shortest range.
    shortest: Seq,
}

const RANGES: u8 = 6;

impl Oracle {
    /// Ranges from a 64th of the space up.
    pub fn new(shape: &Shape) -> Self {
        Self { shortest: (shape.space / 64).max(1) }
    }

    fn class(&self, next: Option<Seq>, now: Seq) -> Class {
        let left = next.map_or(Seq::MAX, |next| next.saturating_sub(now));
        let mut range = 0;
        while range + 1 < RANGES && left >= self.shortest << (2 * range) {
            range += 1;
        }
        Class(range)
    }
}

impl Placement for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }
    fn classes(&self) -> u8 {
        RANGES
    }
    fn needs_future(&self) -> bool {
        true
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        self.class(write.next, write.now)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        self.class(block.next, block.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_time_that_is_left() {
        let oracle = Oracle::new(&Shape { space: 640, segment: 10, heads: 6, charged: true });
        let classes = [0, 9, 10, 39, 40, 159, 160, 639, 640, 2559, 2560, Seq::MAX].map(|left| oracle.class(Some(left), 0).0);
        assert_eq!(classes, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        assert_eq!((oracle.class(None, 5), oracle.class(Some(3), 5)), (Class(5), Class(0)));
    }
}
