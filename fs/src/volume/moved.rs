//! Relocations that are published and not in the log yet, and the zones that the next record gives back.
//!
//! A record that says where a block lies is worth nothing without the block: a relocation waits here until a flush is over that began after it was published, and
//! so after its copy was complete. Until then changes that users make overtake it, which does no harm: a record moves what still lies at the old place when it is
//! applied (I5), and that place is used for nothing else before the record is durable or a checkpoint makes it needless.

use crate::addr::Addr;
use crate::core::extents::Relocation;
use crate::format::record::Delta;
use std::collections::{BTreeSet, VecDeque};

/// Most bytes that a relocation takes in the log.
const LONGEST: usize = 1 + 10 + 10 + 5 + 16 + 1;
/// Bytes that a zone that is given back takes in the log.
const RELEASE: usize = 9;

/// See the module.
#[derive(Debug, Default)]
pub struct Moved {
    /// In the order in which they were published, with how many flushes had begun.
    waiting: VecDeque<(u64, Relocation)>,
    /// Flushes that have begun.
    begun: u64,
    /// The last of them that is over, and was begun last.
    flushed: u64,
    /// Zones that the batch that is cut next gives back.
    releasing: Vec<Addr>,
    /// The batch that is cut next is logged though it holds nothing.
    sealing: bool,
}

impl Moved {
    /// This was published.
    pub fn add(&mut self, moved: Relocation) {
        self.waiting.push_back((self.begun, moved));
    }

    /// A flush of all devices begins; gives its number.
    pub fn begin_flush(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// It is over, and did not fail.
    pub fn end_flush(&mut self, number: u64) {
        self.flushed = self.flushed.max(number);
    }

    /// How many may be logged: the copies of the first ones are durable.
    fn durable(&self) -> usize {
        self.waiting.partition_point(|(begun, _)| *begun < self.flushed)
    }

    /// Zones out of which something was moved that cannot be logged yet.
    pub fn not_to_release(&self) -> BTreeSet<Addr> {
        self.waiting.range(self.durable()..).map(|(_, moved)| moved.from.zone_base()).collect()
    }

    /// The batch that is cut next gives these zones back, and no others. They are dead, and none of them is in [`Moved::not_to_release`].
    pub fn release(&mut self, zones: Vec<Addr>) {
        self.releasing = zones;
    }

    /// The batch that is cut next is logged even if it holds nothing, for what its head says of flushes.
    pub fn seal(&mut self) {
        self.sealing = true;
    }

    /// Is it?
    pub fn is_sealing(&self) -> bool {
        self.sealing
    }

    /// The batch was cut, or cannot be: the next one is one like others.
    pub fn unmark(&mut self) {
        self.releasing.clear();
        self.sealing = false;
    }

    /// Bytes that [`Moved::take`] adds to a batch, at most.
    pub fn bytes(&self) -> usize {
        self.durable() * LONGEST + self.releasing.len() * RELEASE
    }

    /// What goes into a batch, behind all changes of users that are in it and before the mappings of data that is cut with it.
    pub fn take(&mut self) -> Vec<Delta> {
        let durable = self.durable();
        let mut deltas: Vec<Delta> = self.waiting.drain(..durable).map(|(_, moved)| Delta::Move(moved)).collect();
        let zones = std::mem::take(&mut self.releasing);
        self.forget(&zones);
        deltas.extend(zones.into_iter().map(|zone| Delta::Release { zone }));
        deltas
    }

    /// These zones are given back: no later record may speak of them as they are now. What was moved out of them is logged, or in a durable checkpoint; what
    /// was moved into them is dead.
    pub fn forget(&mut self, zones: &[Addr]) {
        if !zones.is_empty() && !self.waiting.is_empty() {
            let zones: BTreeSet<Addr> = zones.iter().copied().collect();
            self.waiting.retain(|(_, moved)| !zones.contains(&moved.from.zone_base()) && !zones.contains(&moved.to.zone_base()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FileBlock, Ino};
    use zns::{DeviceId, ZoneId};

    fn at(zone: u32, block: u32) -> Addr {
        Addr::new(DeviceId(0), ZoneId(zone), block)
    }

    fn relocation(from: u32, to: u32) -> Relocation {
        Relocation {
            ino: Ino(7),
            block: FileBlock(3),
            blocks: 2,
            from: at(from, 5),
            to: at(to, 9),
            estimate: gc::placement::Estimate::UNKNOWN,
        }
    }

    #[test]
    fn only_a_flush_that_began_later_makes_a_relocation_fit_for_the_log() {
        let mut moved = Moved::default();
        let early = moved.begin_flush();
        moved.add(relocation(4, 6));
        moved.end_flush(early);
        assert!(!moved.not_to_release().is_empty() && moved.take().is_empty());
        assert!(moved.not_to_release().contains(&at(4, 0)));
        let late = moved.begin_flush();
        moved.add(relocation(5, 6));
        moved.end_flush(late);
        assert_eq!(moved.not_to_release(), BTreeSet::from([at(5, 0)]));
        moved.release(vec![at(4, 0)]);
        assert!(moved.bytes() >= moved.take().iter().map(Delta::encoded_len).sum());
        assert!(!moved.not_to_release().is_empty(), "the second one still waits");
    }

    #[test]
    fn no_relocation_takes_more_than_was_counted_for_it() {
        let longest = Relocation { ino: Ino(u64::MAX), block: FileBlock(u64::MAX), blocks: u32::MAX, ..relocation(4, 6) };
        assert_eq!(Delta::Move(longest).encoded_len(), LONGEST);
    }

    #[test]
    fn records_come_before_the_release_of_their_zone_and_none_behind_it() {
        let mut moved = Moved::default();
        moved.add(relocation(4, 6));
        let flush = moved.begin_flush();
        moved.end_flush(flush);
        // Into a zone that is given back while this one waits.
        moved.add(relocation(5, 4));
        moved.release(vec![at(4, 0)]);
        assert_eq!(moved.take(), [Delta::Move(relocation(4, 6)), Delta::Release { zone: at(4, 0) }]);
        assert!(moved.not_to_release().is_empty(), "what lay in the zone is dead");
        moved.add(relocation(4, 6));
        moved.forget(&[at(4, 0)]);
        assert!(moved.not_to_release().is_empty());
    }
}
