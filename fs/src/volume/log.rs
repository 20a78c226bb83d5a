//! Writing the log: batches become fragments, fragments fill log zones to the last block.

use crate::BLOCK;
use crate::addr::Addr;
use crate::core::zones::ZoneTable;
use crate::format::log::{self, Fragment};
use crate::format::segment::{Phase, Role};
use crate::format::superblock::LogStart;
use crate::volume::members::RunWrite;
use zns::{AlignedBuf, BufSlice};

/// Where the log goes on.
#[derive(Clone, Debug)]
pub struct LogWriter {
    /// Where the next fragment goes; `NONE`: no zone is open.
    pub addr: Addr,
    /// The zone after that; `NONE`: none could be had.
    pub next_zone: Addr,
    /// Sequence number of the next fragment.
    pub sequence: u64,
    /// Checksum of the last fragment.
    pub previous: u32,
    /// Mount epoch.
    pub epoch: u64,
    /// Secret of the epoch.
    pub secret: [u8; 32],
}

impl LogWriter {
    /// A log that has not begun.
    pub fn new(epoch: u64, secret: [u8; 32]) -> Self {
        Self { addr: Addr::NONE, next_zone: Addr::NONE, sequence: 1, previous: 0, epoch, secret }
    }

    /// Opens the zones that the log writes next, where they are missing.
    pub fn ensure_zones(&mut self, zones: &mut ZoneTable) {
        if self.addr.is_none() {
            self.addr = std::mem::take(&mut self.next_zone);
        }
        if self.addr.is_none() {
            self.addr = zones.open(Role::Log).unwrap_or_default();
        }
        if self.next_zone.is_none() {
            self.next_zone = zones.open(Role::Log).unwrap_or_default();
        }
    }

    /// Gives up the current zone after a failure; the chain goes on elsewhere, behind the next checkpoint.
    pub fn abandon_zone(&mut self, zones: &mut ZoneTable) {
        if !self.addr.is_none() {
            zones.retire(self.addr);
            self.addr = Addr::NONE;
        }
        self.ensure_zones(zones);
    }

    /// Blocks that can be appended without another zone than the two at hand.
    pub fn room(&self, zones: &ZoneTable) -> u64 {
        let current = if self.addr.is_none() { 0 } else { u64::from(zones.capacity(self.addr.device()) - self.addr.block()) };
        let next = if self.next_zone.is_none() { 0 } else { u64::from(zones.capacity(self.next_zone.device())) };
        current + next
    }

    /// For the superblock: what comes behind everything appended so far.
    pub fn start(&self, batch: u64) -> LogStart {
        LogStart { addr: self.addr, next_zone: self.next_zone, sequence: self.sequence, previous: self.previous, batch }
    }

    /// The zones that a mount needs to follow the log from here.
    pub fn zones_in_use(&self) -> [Addr; 2] {
        [self.addr.zone_base(), self.next_zone]
    }

    /// Blocks that a body of `len` bytes takes at most.
    pub fn blocks_for(len: usize) -> u64 {
        let per_fragment = log::body_capacity(log::MAX_BLOCKS);
        let whole = (len / per_fragment) as u64 * u64::from(log::MAX_BLOCKS);
        whole + u64::from(log::blocks_for(len % per_fragment)) + 2
    }

    /// Turns a batch into writes. The caller made sure of [`LogWriter::room`]. `None`: the zones ran out after all.
    pub fn append(&mut self, zones: &mut ZoneTable, batch: u64, flushed: u64, body: &[u8]) -> Option<Vec<RunWrite>> {
        let mut writes = Vec::new();
        let mut rest = body;
        let mut first = true;
        loop {
            if self.addr.is_none() {
                return None;
            }
            let capacity = zones.capacity(self.addr.device());
            let room = capacity - self.addr.block();
            let blocks = log::blocks_for(rest.len()).min(log::MAX_BLOCKS).min(room);
            let (piece, more) = rest.split_at(rest.len().min(log::body_capacity(blocks)));
            // The fragment that fills its zone names the one that follows: it must be known now.
            if blocks == room && self.next_zone.is_none() {
                self.next_zone = zones.open(Role::Log).unwrap_or_default();
            }
            let fragment = Fragment {
                sequence: self.sequence,
                epoch: self.epoch,
                batch,
                first,
                last: more.is_empty(),
                blocks,
                body: piece.len() as u32,
                flushed,
                next_zone: self.next_zone,
                previous: self.previous,
            };
            let mut buf = AlignedBuf::recycled(blocks as usize * BLOCK);
            self.previous = log::encode(&fragment, &self.secret, piece, &mut buf);
            self.sequence += 1;
            writes.push(RunWrite { addr: self.addr, data: vec![BufSlice::whole(buf)] });
            zones.note_log_written(self.addr, blocks);
            self.addr = if blocks == room { std::mem::take(&mut self.next_zone) } else { self.addr.plus(blocks) };
            if blocks == room {
                debug_assert!(self.addr.is_none() || zones.entry(self.addr).is_some_and(|e| e.phase == Phase::Open));
                self.ensure_next(zones);
            }
            if more.is_empty() {
                return Some(writes);
            }
            rest = more;
            first = false;
        }
    }

    fn ensure_next(&mut self, zones: &mut ZoneTable) {
        if self.next_zone.is_none() {
            self.next_zone = zones.open(Role::Log).unwrap_or_default();
        }
    }
}
