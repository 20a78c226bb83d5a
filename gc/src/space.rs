//! All that cleaning may ask of a filesystem.

use crate::error::Result;
use crate::placement::Estimate;
use crate::segment::{SegmentId, SegmentInfo, Seq, Stream};
use zns::{DeviceId, Lba};

/// Who owns a run of blocks: opaque here, given back at commit. The second number counts blocks: when the relocator splits an
/// extent after `n` blocks, the rest belongs to `Owner(a, b + n)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u64, pub u64);

impl Owner {
    /// The owner of what follows the first `blocks` blocks.
    pub fn after(self, blocks: u32) -> Self {
        Self(self.0, self.1 + u64::from(blocks))
    }
}

/// Live blocks that lie one behind the other in a victim and belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveExtent {
    /// Which device.
    pub device: DeviceId,
    /// First device block.
    pub lba: Lba,
    /// Length in filesystem blocks (4096 bytes).
    pub blocks: u32,
    /// Whose (for a file: inode and first file block).
    pub owner: Owner,
    /// How often the blocks are expected to be written.
    pub estimate: Estimate,
    /// CRC32C of each block where the filesystem has them at hand; else empty.
    pub checksums: Vec<u32>,
}

impl LiveExtent {
    /// Cuts after `blocks` blocks, each of `per_block` device blocks; `self` keeps the front, the rest is returned. `blocks` lies
    /// inside the extent.
    pub fn split_off(&mut self, blocks: u32, per_block: u64) -> LiveExtent {
        let rest = LiveExtent {
            device: self.device,
            lba: self.lba + zns::Blocks(u64::from(blocks) * per_block),
            blocks: self.blocks - blocks,
            owner: self.owner.after(blocks),
            estimate: self.estimate,
            checksums: if self.checksums.is_empty() { Vec::new() } else { self.checksums.split_off(blocks as usize) },
        };
        self.blocks = blocks;
        rest
    }
}

/// One answer of [`LogSpace::live`].
#[derive(Clone, Debug, Default)]
pub struct LiveRun {
    /// Live extents in the order of their addresses.
    pub extents: Vec<LiveExtent>,
    /// Where to go on: pass it to the next call; `None`: the end of the victim was reached.
    pub next: Option<u32>,
}

/// Space in one relocation zone, at its write pointer, held by the caller alone until commit.
#[derive(Debug)]
pub struct Reservation {
    /// For the filesystem to recognise it.
    pub id: u64,
    /// The device of the zone.
    pub device: DeviceId,
    /// Where the first block will land.
    pub lba: Lba,
    /// How many filesystem blocks are granted: at least one, perhaps fewer than asked for.
    pub blocks: u32,
}

/// A run that was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it was; `blocks` as copied.
    pub from: LiveExtent,
    /// First device block where it is now (in the reservation's zone).
    pub to: Lba,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Blocks whose mapping now points to the new place.
    pub moved: u32,
    /// Blocks that lost the race with an overwrite and are dead space at the new place (I5).
    pub lost: u32,
}

/// A filesystem as the cleaner sees it. All counts in filesystem blocks of 4096 bytes.
pub trait LogSpace: Send + Sync {
    /// The closed segments that may be cleaned: nothing open, pinned, retired, or already empty of live blocks.
    fn segments(&self) -> Vec<SegmentInfo>;

    /// Those of the candidates of which the placement would have the next victim, if it has a say in that. The victim policy chooses among them; where there is
    /// no hurry.
    fn preferred(&self, _candidates: &[SegmentInfo]) -> Option<Vec<SegmentInfo>> {
        None
    }

    /// Logical time.
    fn now(&self) -> Seq;

    /// Device blocks in a filesystem block: 8 on a device with blocks of 512 bytes, 1 on one with 4096.
    fn device_blocks_per_block(&self, device: DeviceId) -> u32;

    /// Pins a victim: it is not reset and not chosen again until [`LogSpace::release`].
    ///
    /// # Errors
    /// It is no longer a closed segment.
    fn pin(&self, victim: SegmentId) -> Result<()>;

    /// Gives a victim back after cleaning; when nothing is live in it, it is reclaimed with the next checkpoint.
    fn release(&self, victim: SegmentId);

    /// Was this segment, which was emptied and released, given back since? Until then it awaits a checkpoint.
    fn is_given_back(&self, emptied: SegmentId) -> bool;

    /// Does no user wait for the devices? Then a chunk may be a large one.
    fn is_calm(&self) -> bool {
        false
    }

    /// Does somebody wait for what the cleaner holds during a step, or for what has to come between two? Then a step of several chunks begins no more.
    fn is_awaited(&self) -> bool {
        false
    }

    /// Live blocks of a pinned data victim, from block `from` of the zone on, about `max` blocks of them.
    ///
    /// # Errors
    /// Metadata that cannot be read.
    fn live(&self, victim: SegmentId, from: u32, max: u32) -> Result<LiveRun>;

    /// Moves live metadata out of a pinned metadata victim, about `max` blocks from block `from` on: they become dirty and are written
    /// elsewhere by the next checkpoint. Returns where to go on.
    ///
    /// # Errors
    /// Metadata that cannot be read.
    fn evacuate_metadata(&self, victim: SegmentId, from: u32, max: u32) -> Result<Option<u32>>;

    /// Space for up to `blocks` blocks in a relocation zone of `stream` for what lives in `victim`, preferably on its device. `None`: reservations that were
    /// not [copied](LogSpace::copied) into yet hold all zones that there may be for it. A reservation has its zone to itself (I1).
    ///
    /// # Errors
    /// No zone is left for cleaning.
    fn reserve(&self, stream: Stream, victim: SegmentId, blocks: u32) -> Result<Option<Reservation>>;

    /// The copy into a reservation is over. `used` blocks of it hold copies; with `end_zone` the zone is ended (invariant I9), otherwise the unused
    /// rest is available to the next reservation. Until [`LogSpace::publish`] the zone is not dead, whatever lives in it: it is neither reset
    /// nor cleaned.
    fn copied(&self, reservation: &Reservation, used: u32, end_zone: bool);

    /// Publishes moves by compare-and-swap on the old address, per run of blocks, and consumes the reservation, which was
    /// [copied](LogSpace::copied) into: whatever comes of it, a panic too. Without moves it is given up.
    ///
    /// # Errors
    /// Metadata that cannot be read; nothing is lost then, the victim stays as it was.
    fn publish(&self, moves: &[Move], reservation: Reservation) -> Result<Committed>;

    /// Both at once.
    ///
    /// # Errors
    /// As [`LogSpace::publish`].
    fn commit(&self, moves: &[Move], reservation: Reservation, used: u32, end_zone: bool) -> Result<Committed> {
        self.copied(&reservation, used, end_zone);
        self.publish(moves, reservation)
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => { $(
        impl<S: LogSpace + ?Sized> LogSpace for $pointer {
            fn segments(&self) -> Vec<SegmentInfo> {
                (**self).segments()
            }
            fn preferred(&self, candidates: &[SegmentInfo]) -> Option<Vec<SegmentInfo>> {
                (**self).preferred(candidates)
            }
            fn now(&self) -> Seq {
                (**self).now()
            }
            fn device_blocks_per_block(&self, device: DeviceId) -> u32 {
                (**self).device_blocks_per_block(device)
            }
            fn pin(&self, victim: SegmentId) -> Result<()> {
                (**self).pin(victim)
            }
            fn release(&self, victim: SegmentId) {
                (**self).release(victim)
            }
            fn is_given_back(&self, emptied: SegmentId) -> bool {
                (**self).is_given_back(emptied)
            }
            fn is_calm(&self) -> bool {
                (**self).is_calm()
            }
            fn is_awaited(&self) -> bool {
                (**self).is_awaited()
            }
            fn live(&self, victim: SegmentId, from: u32, max: u32) -> Result<LiveRun> {
                (**self).live(victim, from, max)
            }
            fn evacuate_metadata(&self, victim: SegmentId, from: u32, max: u32) -> Result<Option<u32>> {
                (**self).evacuate_metadata(victim, from, max)
            }
            fn reserve(&self, stream: Stream, victim: SegmentId, blocks: u32) -> Result<Option<Reservation>> {
                (**self).reserve(stream, victim, blocks)
            }
            fn copied(&self, reservation: &Reservation, used: u32, end_zone: bool) {
                (**self).copied(reservation, used, end_zone)
            }
            fn publish(&self, moves: &[Move], reservation: Reservation) -> Result<Committed> {
                (**self).publish(moves, reservation)
            }
        }
    )* };
}
forward!(&S, std::sync::Arc<S>);
