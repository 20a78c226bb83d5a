//! All that cleaning may ask of a filesystem.

use crate::error::Result;
use crate::segment::{SegmentId, SegmentInfo, Seq, Stream};
use zns::{DeviceId, Lba};

/// Who owns a run of blocks: opaque here, given back at commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u64, pub u64);

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
    /// CRC32C of each block where the filesystem has them at hand; else empty.
    pub checksums: Vec<u32>,
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

    /// Logical time.
    fn now(&self) -> Seq;

    /// Pins a victim: it is not reset and not chosen again until [`LogSpace::release`].
    ///
    /// # Errors
    /// It is no longer a closed segment.
    fn pin(&self, victim: SegmentId) -> Result<()>;

    /// Gives a victim back after cleaning; when nothing is live in it, it is reclaimed with the next checkpoint.
    fn release(&self, victim: SegmentId);

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

    /// Space for up to `blocks` blocks in a relocation zone of `stream`, preferably on `near`.
    ///
    /// # Errors
    /// No zone is left for cleaning.
    fn reserve(&self, stream: Stream, near: DeviceId, blocks: u32) -> Result<Reservation>;

    /// Publishes moves by compare-and-swap on the old address, per run of blocks, and consumes the reservation. `used` blocks of it hold
    /// copies; with `end_zone` the zone is ended (invariant I9), otherwise the unused rest stays available.
    ///
    /// # Errors
    /// Metadata that cannot be read; nothing is lost then, the victim stays as it was.
    fn commit(&self, moves: &[Move], reservation: Reservation, used: u32, end_zone: bool) -> Result<Committed>;
}
