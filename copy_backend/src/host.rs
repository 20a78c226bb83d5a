//! The host road: read into memory, write at the write pointer.
//!
//! A command is cut into groups of at most 256 KiB. Several groups are being read while one is being written, so that
//! both devices stay busy; a zone never sees more than one write in flight (invariant I1). Many short sources become
//! one write.

use crate::backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use crate::error::Result;
use crate::workers::{Workers, survive};
use std::collections::VecDeque;
use std::sync::Arc;
use zns::{AlignedBuf, Blocks, BufSlice, DeviceId, Io, IoClass, Lba, Ticket, ZonedDevice};

/// Commands that run side by side.
const THREADS: usize = 4;
/// Bytes of one write, and of the reads that fill it.
const GROUP_BYTES: u64 = 256 << 10;
/// Reads of one group.
const GROUP_PIECES: usize = 64;
/// Groups in memory at once, of one command.
const WINDOW: usize = 8;
/// Bytes of one command: what a caller may have to wait for.
const COMMAND_BYTES: u64 = 16 << 20;

/// Copies between any two devices by reading and writing.
pub struct HostRoad {
    devices: Arc<[Arc<dyn ZonedDevice>]>,
    workers: Workers,
}

impl HostRoad {
    /// A road over `devices`, which [`DeviceId`] counts from 0.
    pub fn new(devices: Arc<[Arc<dyn ZonedDevice>]>) -> Self {
        Self { devices, workers: Workers::new("copy-host", THREADS) }
    }
}

impl CopyBackend for HostRoad {
    fn road(&self) -> Road {
        Road::Host
    }

    fn caps(&self, _from: DeviceId, _to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        Ok(CopyCaps {
            road: Road::Host,
            max_range_bytes: COMMAND_BYTES,
            max_command_bytes: COMMAND_BYTES,
            max_ranges: 4096,
            simulated: false,
        })
    }

    fn submit(&self, command: CopyCommand) -> Result<Ticket> {
        let devices = self.devices.clone();
        Ok(self.workers.submit(move || carry_out(&devices, &command)))
    }

    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        self.workers.complete(ticket)
    }
}

/// A piece of a source: read by one operation.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: usize,
    lba: Lba,
    bytes: u64,
    /// It is the last of its range.
    last: bool,
}

/// What is left of the command's ranges, cut into groups.
struct Groups<'a> {
    command: &'a CopyCommand,
    from_block: u64,
    /// Bytes of one read.
    piece_bytes: u64,
    /// Bytes of one write.
    group_bytes: u64,
    range: usize,
    done: u64,
}

impl Groups<'_> {
    fn piece(&mut self, room: u64) -> Option<Piece> {
        let source = self.command.sources.get(self.range)?;
        let left = source.blocks.0 * self.from_block - self.done;
        let bytes = left.min(self.piece_bytes).min(room / self.from_block * self.from_block);
        if bytes == 0 {
            return None;
        }
        let lba = source.lba + Blocks(self.done / self.from_block);
        let piece = Piece { range: self.range, lba, bytes, last: bytes == left };
        self.done += bytes;
        if piece.last {
            self.range += 1;
            self.done = 0;
        }
        Some(piece)
    }
}

impl Iterator for Groups<'_> {
    type Item = Vec<Piece>;
    fn next(&mut self) -> Option<Vec<Piece>> {
        let mut group = Vec::new();
        let mut room = self.group_bytes;
        while group.len() < GROUP_PIECES
            && let Some(piece) = self.piece(room)
        {
            room -= piece.bytes;
            group.push(piece);
        }
        (!group.is_empty()).then_some(group)
    }
}

/// A group whose reads are in flight.
struct Reading {
    pieces: Vec<Piece>,
    ticket: Ticket,
}

/// A group whose write is in flight.
struct Writing {
    pieces: Vec<Piece>,
    ticket: Ticket,
    bytes: u64,
}

/// A command being carried out. Dropped, it waits for what is in flight: after a panic of a device nothing is written to the zone any more, either.
struct Run<'a> {
    from: &'a dyn ZonedDevice,
    to: &'a dyn ZonedDevice,
    class: IoClass,
    to_block: u64,
    at: Lba,
    reading: VecDeque<Reading>,
    writing: Option<Writing>,
    outcome: CopyOutcome,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            survive(|| self.to.complete(writing.ticket));
        }
        for group in self.reading.drain(..) {
            survive(|| self.from.complete(group.ticket));
        }
    }
}

fn carry_out(devices: &[Arc<dyn ZonedDevice>], command: &CopyCommand) -> CopyOutcome {
    let outcome = CopyOutcome::offloaded(0);
    let device = |id: DeviceId| devices.get(usize::from(id.0));
    let source = command.sources.first().map(|source| source.device);
    let one_source = command.sources.iter().all(|range| Some(range.device) == source);
    let (Some(from), Some(to), true) = (source.and_then(device), device(command.target.device), one_source) else {
        return CopyOutcome { failure: Some(FailureKind::Unsupported), ..outcome };
    };
    let to_block = u64::from(to.geometry().block_size);
    let step = to_block.max(u64::from(from.geometry().block_size));
    let whole = |limit: u64| (limit / step * step).max(step);
    let groups = Groups {
        command,
        from_block: u64::from(from.geometry().block_size),
        piece_bytes: whole(GROUP_BYTES.min(u64::from(from.geometry().max_io_bytes))),
        group_bytes: whole(GROUP_BYTES.min(u64::from(to.geometry().max_io_bytes))),
        range: 0,
        done: 0,
    };
    let class = command.class;
    let run = Run { from: &**from, to: &**to, class, to_block, at: command.target.lba, reading: VecDeque::new(), writing: None, outcome };
    run.all(groups)
}

impl Run<'_> {
    fn all(mut self, mut groups: Groups) -> CopyOutcome {
        loop {
            while self.outcome.failure.is_none() && self.reading.len() < WINDOW {
                let Some(pieces) = groups.next() else { break };
                match self.start_reads(pieces) {
                    Some(group) => self.reading.push_back(group),
                    None => break,
                }
            }
            let Some(group) = self.reading.pop_front() else { break };
            let (pieces, data, failure) = self.finish_reads(group);
            // The write before this one must be over; what was read before a failure is still written.
            self.finish_write();
            self.start_write(pieces, data);
            if let Some(kind) = failure {
                self.fail(kind);
            }
            if self.outcome.failure.is_some() {
                while let Some(group) = self.reading.pop_front() {
                    self.discard(group);
                }
            }
        }
        self.finish_write();
        std::mem::replace(&mut self.outcome, CopyOutcome::offloaded(0))
    }

    fn fail(&mut self, kind: FailureKind) {
        self.outcome.failure.get_or_insert(kind);
    }

    fn start_reads(&mut self, pieces: Vec<Piece>) -> Option<Reading> {
        let batch = pieces.iter().map(|piece| Io::Read { lba: piece.lba, buf: AlignedBuf::recycled(piece.bytes as usize) }).collect();
        match self.from.submit(batch, self.class) {
            Ok(ticket) => Some(Reading { pieces, ticket }),
            Err(error) => {
                tracing::debug!(%error, "copy: cannot start reading");
                self.fail(FailureKind::of_read(&error));
                None
            }
        }
    }

    /// Waits for the reads of a group; what was read before the first failure is kept.
    fn finish_reads(&mut self, group: Reading) -> (Vec<Piece>, Vec<BufSlice>, Option<FailureKind>) {
        let mut completions = self.from.complete(group.ticket).into_iter();
        let (mut pieces, mut data) = (Vec::new(), Vec::new());
        let mut failure = None;
        for piece in group.pieces {
            match completions.next() {
                Some(Ok(Some(buf))) if buf.len() as u64 == piece.bytes => {
                    self.outcome.host_read += piece.bytes;
                    if failure.is_none() {
                        pieces.push(piece);
                        data.push(BufSlice::whole(buf));
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "copy: cannot read");
                    failure.get_or_insert(FailureKind::of_read(&error));
                }
                _ => {
                    failure.get_or_insert(FailureKind::Transient);
                }
            }
        }
        (pieces, data, failure)
    }

    fn start_write(&mut self, pieces: Vec<Piece>, data: Vec<BufSlice>) {
        if self.outcome.failure.is_some() || pieces.is_empty() {
            return;
        }
        let bytes = pieces.iter().map(|piece| piece.bytes).sum::<u64>();
        match self.to.submit(vec![Io::Write { lba: self.at, data }], self.class) {
            Ok(ticket) => self.writing = Some(Writing { pieces, ticket, bytes }),
            Err(error) => {
                tracing::debug!(%error, "copy: cannot start writing");
                self.fail(FailureKind::of_write(&error));
            }
        }
    }

    fn finish_write(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        match self.to.complete(writing.ticket).pop() {
            Some(Ok(_)) => {
                self.outcome.host_written += writing.bytes;
                self.outcome.ranges_done =
                    writing.pieces.iter().rev().find(|piece| piece.last).map_or(self.outcome.ranges_done, |p| p.range + 1);
                self.at = self.at + Blocks(writing.bytes / self.to_block);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "copy: cannot write");
                // A failure of the destination explains what the caller finds there: it outweighs one of a later read.
                self.outcome.failure = Some(FailureKind::of_write(&error));
            }
            None => self.fail(FailureKind::Transient),
        }
    }

    fn discard(&mut self, group: Reading) {
        for buf in self.from.complete(group.ticket).into_iter().flatten().flatten() {
            self.outcome.host_read += buf.len() as u64;
        }
    }
}
