//! Chunks on their way: what flies, what of it has landed and is not published, and what a step came to.

use super::Progress;
use super::job::Chunk;
use crate::mover::{Carrier, Carrying};
use crate::space::{LiveExtent, Move, Reservation};
use copy_backend::CopyResult;
use std::time::Instant;
use zns::{Blocks, Lba};

/// A chunk on its way.
pub(super) struct Flight<'a> {
    /// Whose: its place among the victims.
    pub job: usize,
    pub chunk: Chunk,
    pub carrier: Carrier,
    pub reservation: Reservation,
    pub begun: Instant,
    pub copy: Carrying<'a>,
}

/// A chunk that was copied, whole or in part, and is not published.
pub(super) struct Landed {
    pub job: usize,
    pub moves: Vec<Move>,
    pub reservation: Reservation,
    pub progress: Progress,
    /// With a media error, the extent that nobody can read.
    pub unread: Option<LiveExtent>,
}

/// What came of an attempt to begin a chunk.
pub(super) enum TakeOff<'a> {
    Flying(Flight<'a>),
    /// The next stretch of a victim has nothing that lives.
    Nothing,
    /// No victim has anything that could take off now.
    NobodyReady,
    /// A chunk that flies holds the head.
    Later,
    /// No zone is left.
    NoSpace,
}

/// The moves of the extents that were copied, and the extents that were not.
pub(super) fn split_done(mut extents: Vec<LiveExtent>, done: usize, target: Lba, per_block: u64) -> (Vec<Move>, Vec<LiveExtent>) {
    let rest = extents.split_off(done.min(extents.len()));
    let mut to = target;
    let moves = extents
        .into_iter()
        .map(|from| {
            let at = to;
            to = to + Blocks(u64::from(from.blocks) * per_block);
            Move { from, to: at }
        })
        .collect();
    (moves, rest)
}

/// Of so many copied blocks, those that a device copied by itself.
pub(super) fn offloaded_blocks(result: &CopyResult, copied: u32) -> u32 {
    u32::try_from(result.offloaded / crate::BLOCK_BYTES).unwrap_or(u32::MAX).min(copied)
}
