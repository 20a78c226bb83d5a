//! A simulated regular file under a drive image: a page cache that a loss of power takes in any part, holes, and operations that fail when told to.

use super::media::Zone;
use super::still::{Shape, Still};
use super::store::{CHUNK, ZoneBytes};
use super::tape::{By, Deed, Reel, Tape};
use crate::positioned::Stopped;
use crate::zone::ZoneState;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

/// The file is kept in pieces of so many bytes, so that snapshots share what does not change.
pub(super) const PIECE: usize = 1 << 20;

/// Operations of a file that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Reading.
    Read,
    /// Writing, copies within the file included.
    Write,
    /// Giving a range back.
    Punch,
    /// fdatasync(2).
    Sync,
}

/// Operations of this kind fail.
#[derive(Clone, Debug)]
struct FileFault {
    what: FileOp,
    errno: i32,
    /// So many more succeed first.
    after: u64,
    /// So many fail.
    times: u64,
    range: Range<u64>,
}

#[derive(Debug)]
struct State {
    len: u64,
    pieces: Vec<Arc<ZoneBytes>>,
    reel: Option<Reel>,
    faults: Vec<FileFault>,
}

/// See the module. Clones share one file.
#[derive(Clone, Debug)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
}

/// The pieces that a byte range touches: (piece, first byte in it, number of bytes).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (offset as usize, offset as usize + len);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let piece = (at / PIECE, at % PIECE, (PIECE - at % PIECE).min(end - at));
            at += piece.2;
            piece
        })
    })
}

impl SimFile {
    /// A sparse file.
    pub fn new(len: u64) -> Self {
        Self::holding(len, vec![Arc::default(); (len as usize).div_ceil(PIECE)])
    }

    pub(super) fn holding(len: u64, pieces: Vec<Arc<ZoneBytes>>) -> Self {
        Self { state: Arc::new(Mutex::new(State { len, pieces, reel: None, faults: Vec::new() })) }
    }

    pub(super) fn record(&self, tape: &Arc<Tape>, device: u8) {
        self.state.lock().reel = Some(Reel { tape: tape.clone(), device });
    }

    pub(super) fn still(&self) -> Still {
        let state = self.state.lock();
        let zone = |bytes: &Arc<ZoneBytes>| Zone { state: ZoneState::Empty, written: 0, bytes: bytes.clone() };
        Still { shape: Shape::File(state.len), zones: state.pieces.iter().map(zone).collect() }
    }

    /// Operations that touch `range` fail with `errno`, `times` of them, after `after` more that succeed. A sync touches everything.
    pub fn fail(&self, what: FileOp, errno: i32, range: Range<u64>, after: u64, times: u64) {
        self.state.lock().faults.push(FileFault { what, errno, after, times, range });
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Replaces bytes, past everything.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.state.lock().put(offset, bytes, None);
    }

    /// Bytes of the file, past everything.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.state.lock().get(offset, &mut out);
        out
    }

    /// Its length.
    pub(crate) fn len(&self) -> u64 {
        self.state.lock().len
    }

    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.strike(FileOp::Read, offset..offset + out.len() as u64)?;
        state.get(offset, out);
        Ok(())
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8], by: By) -> Result<(), Stopped> {
        let mut state = self.state.lock();
        let struck = state.strike(FileOp::Write, offset..offset + bytes.len() as u64);
        struck.map_err(|errno| Stopped { done: 0, errno })?;
        state.put(offset, bytes, Some(by));
        Ok(())
    }

    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.strike(FileOp::Punch, offset..offset + len)?;
        for (piece, start, len) in pieces(offset, len as usize) {
            let Some(bytes) = state.pieces.get_mut(piece) else { continue };
            Arc::make_mut(bytes).punch(start, len);
            if let Some(reel) = &state.reel {
                reel.record(Deed::Hole { zone: piece as u32, offset: start, len });
            }
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let whole = 0..state.len;
        state.strike(FileOp::Sync, whole)?;
        if let Some(reel) = &state.reel {
            reel.record(Deed::Flush);
        }
        Ok(())
    }

    /// End of the last data in `range`, as a distance from its start.
    pub(crate) fn data_end(&self, range: Range<u64>) -> u64 {
        let state = self.state.lock();
        let allocated = |at: &u64| state.pieces.get(*at as usize / PIECE).is_some_and(|p| p.is_allocated(*at as usize % PIECE / CHUNK));
        let last = range.clone().step_by(CHUNK).filter(allocated).last();
        last.map_or(0, |at| (at + CHUNK as u64).min(range.end) - range.start)
    }
}

impl State {
    fn strike(&mut self, what: FileOp, range: Range<u64>) -> Result<(), Errno> {
        let touches = |fault: &FileFault| fault.what == what && fault.range.start < range.end && range.start < fault.range.end;
        for fault in self.faults.iter_mut().filter(|fault| touches(fault)) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Err(Errno::from_raw_os_error(fault.errno));
            }
        }
        Ok(())
    }

    fn get(&self, offset: u64, out: &mut [u8]) {
        let mut rest = out;
        for (piece, start, len) in pieces(offset, rest.len()) {
            let (part, tail) = rest.split_at_mut(len);
            match self.pieces.get(piece) {
                Some(bytes) => bytes.read(start, part),
                None => part.fill(0),
            }
            rest = tail;
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8], by: Option<By>) {
        self.len = self.len.max(offset + bytes.len() as u64);
        let mut rest = bytes;
        for (piece, start, len) in pieces(offset, bytes.len()) {
            let (part, tail) = rest.split_at(len);
            if self.pieces.len() <= piece {
                self.pieces.resize(piece + 1, Arc::default());
            }
            Arc::make_mut(&mut self.pieces[piece]).write(start, part);
            if let (Some(by), Some(reel)) = (by, &self.reel) {
                reel.record(Deed::Write { zone: piece as u32, offset: start, data: part.into(), by });
            }
            rest = tail;
        }
    }
}
