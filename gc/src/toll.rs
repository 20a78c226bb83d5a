//! What writers pay: copies in proportion to what they write, at or below the low-water mark, a chunk at a time.
//!
//! Why a toll and not a wall: a writer that goes on until nothing is left waits for a whole zone to be cleaned. A writer that pays the steady-state
//! law as it goes ([`crate::pacer`]) never finds nothing, and no single request waits for more than its share.
//!
//! Room that users cannot write into yet, in heads that are partly filled and in a victim that is partly emptied, may be most of what there is:
//! when little is left to write, every request pays its most until a zone is empty, so that a checkpoint can give it back in time.
//!
//! The cleaner publishes what the price depends on after every chunk; a writer asks without the cleaner's lock. The debt is one
//! for all writers: whoever brings it to a chunk does that chunk, so that small writes pay one now and then, and each in the end in
//! proportion. It is forgiven as soon as there is room again.

use crate::pacer::{Pacer, PacerConfig, Pressure, Room, VictimShare, copies_owed};
use parking_lot::Mutex;
use std::sync::Arc;

/// Blocks of one request for which it does one chunk of cleaning at most (128 KiB): a request of 1 MiB does eight at most.
pub const BLOCKS_PER_CHUNK: u64 = 32;

#[derive(Debug)]
struct Shared {
    /// Blocks that zones being emptied, and zones that were, will give back.
    coming: i64,
    /// Is a zone empty, so that a checkpoint gives it back?
    emptied: bool,
    /// The victim that was worked on last.
    victim: Option<VictimShare>,
    /// Copies that writers owe and have not been asked for.
    debt: u64,
}

/// Shared by the cleaner, which sets the price, and the writers.
#[derive(Clone, Debug)]
pub struct Toll {
    pacer: Pacer,
    chunk_blocks: u32,
    shared: Arc<Mutex<Shared>>,
}

impl Toll {
    /// For a cleaner with these marks and chunks of so many blocks.
    pub fn new(config: PacerConfig, chunk_blocks: u32) -> Self {
        let shared = Shared { coming: 0, emptied: false, victim: None, debt: 0 };
        Self { pacer: Pacer::new(config), chunk_blocks: chunk_blocks.max(1), shared: Arc::new(Mutex::new(shared)) }
    }

    /// The cleaner tells what will come back, and what it is working on.
    pub(crate) fn publish(&self, coming: i64, emptied: bool, victim: Option<VictimShare>) {
        let mut shared = self.shared.lock();
        (shared.coming, shared.emptied) = (coming, emptied);
        shared.victim = victim.or(shared.victim);
    }

    /// How urgent cleaning is when the filesystem counts so much room.
    pub fn pressure(&self, room: Room) -> Pressure {
        let shared = self.shared.lock();
        self.pacer.pressure_of(room, shared.coming, shared.emptied)
    }

    /// Is nothing asked of those who write while the filesystem counts so much room? Then debts are forgiven.
    pub fn is_free(&self, room: Room) -> bool {
        let mut shared = self.shared.lock();
        let is_free = self.pacer.pressure_of(room, shared.coming, shared.emptied) != Pressure::Forced;
        if is_free {
            shared.debt = 0;
        }
        is_free
    }

    /// A user is about to write `blocks` blocks: how many chunks of cleaning to do before that.
    pub fn owe(&self, room: Room, blocks: u64) -> u32 {
        let mut shared = self.shared.lock();
        let most = blocks.div_ceil(BLOCKS_PER_CHUNK);
        if self.pacer.is_short(room, shared.emptied) {
            shared.debt = 0;
            return most as u32;
        }
        let room = room.ahead.saturating_add(shared.coming);
        if self.pacer.pressure(room) != Pressure::Forced {
            shared.debt = 0;
            return 0;
        }
        // Until a victim is known: one copy for each block.
        let share = shared.victim.unwrap_or(VictimShare { live: 1, capacity: 2 });
        // Cleaning what is all but full of live blocks buys nothing: no more is asked for than the longest burst.
        let share = VictimShare { live: share.live.min(share.capacity - share.capacity.div_ceil(64)), ..share };
        let owed = u64::from(copies_owed(self.pacer.factor_permille(room), share, blocks));
        let chunk = u64::from(self.chunk_blocks);
        shared.debt = (shared.debt + owed).min(u64::from(self.pacer.config().burst_blocks));
        let chunks = (shared.debt / chunk).min(most);
        shared.debt -= chunks * chunk;
        chunks as u32
    }

    /// So many chunks that were asked for could not be done now: they are still owed.
    pub fn put_off(&self, chunks: u32) {
        self.shared.lock().debt += u64::from(chunks) * u64::from(self.chunk_blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn toll(live: u32) -> Toll {
        let config = PacerConfig { low: 1000, high: 1400, runway: 500, batch: 1, burst_blocks: 8192, idle_after: Duration::MAX };
        let toll = Toll::new(config, 256);
        toll.publish(100, true, Some(VictimShare { live, capacity: 1000 }));
        toll
    }

    #[test]
    fn with_room_nobody_pays_and_debts_are_forgiven() {
        let toll = toll(750);
        assert_eq!(toll.owe(Room::of(901), 1 << 20), 0);
        // 2 * 3 copies for each block: 255 are not a chunk.
        assert_eq!((0..42).map(|_| toll.owe(Room::of(900), 1)).sum::<u32>(), 0);
        assert_eq!(toll.owe(Room::of(901), 1), 0);
        assert_eq!(toll.owe(Room::of(900), 1), 0);
    }

    #[test]
    fn at_the_low_mark_small_writes_pay_twice_the_law_in_chunks() {
        let toll = toll(750);
        let chunks: Vec<u32> = (0..4096).map(|_| toll.owe(Room::of(900), 1)).collect();
        assert_eq!(chunks.iter().sum::<u32>(), 4096 * 6 / 256);
        assert!(chunks.iter().all(|chunks| *chunks <= 1));
    }

    #[test]
    fn a_large_write_pays_for_itself_and_no_more_than_its_share() {
        assert_eq!(toll(500).owe(Room::of(900), 256), 2);
        assert_eq!(toll(990).owe(Room::of(0), 256), 8);
        assert_eq!(toll(990).owe(Room::of(0), 1), 1);
        // A victim without anything dead: it ends.
        assert_eq!(toll(1000).owe(Room::of(0), 1), 1);
    }

    #[test]
    fn with_little_to_write_and_nothing_empty_every_request_pays_its_most() {
        let toll = toll(750);
        let short = Room { writable: 500, ahead: 5000 };
        assert_eq!((toll.owe(short, 1), toll.pressure(short)), (0, Pressure::Quiet));
        toll.publish(100, false, None);
        assert_eq!((toll.owe(short, 1), toll.owe(short, 256), toll.pressure(short)), (1, 8, Pressure::Forced));
        let enough = Room { writable: 501, ..short };
        assert_eq!((toll.owe(enough, 1), toll.pressure(enough)), (0, Pressure::Quiet));
    }

    #[test]
    fn it_is_free_exactly_where_nothing_is_owed() {
        let toll = toll(500);
        for (ahead, is_free) in [(901, true), (900, false), (2000, true)] {
            toll.put_off(1);
            assert_eq!(toll.is_free(Room::of(ahead)), is_free);
            assert_eq!(toll.owe(Room::of(900), 1), u32::from(!is_free), "debts are forgiven where it is free");
        }
        toll.publish(100, false, None);
        assert!(!toll.is_free(Room { writable: 500, ahead: 5000 }), "little is left to write, and nothing is empty");
    }

    #[test]
    fn what_could_not_be_paid_is_still_owed() {
        let toll = toll(500);
        assert_eq!(toll.owe(Room::of(900), 128), 1);
        toll.put_off(1);
        assert_eq!((toll.owe(Room::of(900), 1), toll.owe(Room::of(900), 1)), (1, 0));
    }

    proptest! {
        #[test]
        fn the_less_room_the_higher_the_toll(ahead in -5000i64..3000, live in 0u32..=1000, blocks in 1u64..600) {
            prop_assert!(toll(live).owe(Room::of(ahead), blocks) >= toll(live).owe(Room::of(ahead + 1), blocks));
            prop_assert!(u64::from(toll(live).owe(Room::of(ahead), blocks)) <= blocks.div_ceil(BLOCKS_PER_CHUNK));
        }
    }
}
