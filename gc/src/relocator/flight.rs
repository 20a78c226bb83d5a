//! Chunks on their way: what flies, what of it has landed and is not published, and what a step came to.

use super::Progress;
use super::job::Chunk;
use crate::error::Result;
use crate::mover::{Carrier, Carrying};
use crate::space::{Committed, LiveExtent, LogSpace, Move, Reservation};
use copy_backend::{CopyResult, Target};
use std::time::Instant;
use zns::{Blocks, Lba};

/// Space for a chunk. Whatever ends the chunk early, an error or a panic, nobody waits for its head for ever: dropped, it is given back.
pub(super) struct Held<'a, S: LogSpace> {
    pub target: Target,
    pub blocks: u32,
    space: &'a S,
    reservation: Option<Reservation>,
    /// It may have been written to, so nobody knows what lies in it (I9).
    written: bool,
    copied: bool,
}

impl<'a, S: LogSpace> Held<'a, S> {
    pub fn new(space: &'a S, reservation: Reservation) -> Self {
        let target = Target { device: reservation.device, lba: reservation.lba };
        Self { target, blocks: reservation.blocks, space, reservation: Some(reservation), written: false, copied: false }
    }

    /// From here on it may have been written to, or it is known that it was not.
    pub fn set_written(&mut self, written: bool) {
        self.written = written;
    }

    /// The copy into it is over ([`LogSpace::copied`]).
    pub fn copied(&mut self, used: u32, end_zone: bool) {
        if let Some(reservation) = &self.reservation {
            self.copied = true;
            self.space.copied(reservation, used, end_zone);
        }
    }

    /// Publishes what was copied into it.
    ///
    /// # Errors
    /// As [`LogSpace::publish`].
    pub fn publish(mut self, moves: &[Move]) -> Result<Committed> {
        self.reservation.take().map_or(Ok(Committed::default()), |reservation| self.space.publish(moves, reservation))
    }
}

impl<S: LogSpace> Drop for Held<'_, S> {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        if !self.copied {
            self.space.copied(&reservation, 0, self.written);
        }
        // Of nothing nothing can fail that anyone needs.
        let _ = self.space.publish(&[], reservation);
    }
}

/// A chunk on its way. What flies is waited for before its space is given back: so it comes first.
pub(super) struct Flight<'a, S: LogSpace> {
    pub copy: Carrying<'a>,
    pub held: Held<'a, S>,
    /// Whose: its place among the victims.
    pub job: usize,
    pub chunk: Chunk,
    pub carrier: Carrier,
    pub begun: Instant,
}

/// A chunk that was copied, whole or in part, and is not published.
pub(super) struct Landed<'a, S: LogSpace> {
    pub job: usize,
    pub moves: Vec<Move>,
    pub held: Held<'a, S>,
    pub progress: Progress,
    /// With a media error, the extent that nobody can read.
    pub unread: Option<LiveExtent>,
}

/// What came of an attempt to begin a chunk.
pub(super) enum TakeOff<'a, S: LogSpace> {
    Flying(Flight<'a, S>),
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
