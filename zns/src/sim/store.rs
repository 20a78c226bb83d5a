//! The bytes of one zone: sparse, and shared between snapshots until they are written.

use std::sync::Arc;

const CHUNK: usize = 16 << 10;

/// Sparse content; what was never written reads as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct ZoneBytes {
    chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
}

/// The chunks that a byte range touches: (chunk, first byte in it, number of bytes).
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let piece = (at / CHUNK, at % CHUNK, (CHUNK - at % CHUNK).min(end - at));
            at += piece.2;
            piece
        })
    })
}

impl ZoneBytes {
    /// Fills `out` from byte `offset` on.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let mut rest = out;
        for (chunk, start, len) in pieces(offset, rest.len()) {
            let (part, tail) = rest.split_at_mut(len);
            match self.chunks.get(chunk).and_then(Option::as_ref) {
                Some(bytes) => part.copy_from_slice(&bytes[start..start + len]),
                None => part.fill(0),
            }
            rest = tail;
        }
    }

    /// Puts `bytes` at byte `offset`.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for (chunk, start, len) in pieces(offset, bytes.len()) {
            let (part, tail) = rest.split_at(len);
            self.chunk(chunk)[start..start + len].copy_from_slice(part);
            rest = tail;
        }
    }

    fn chunk(&mut self, index: usize) -> &mut [u8; CHUNK] {
        if self.chunks.len() <= index {
            self.chunks.resize(index + 1, None);
        }
        Arc::make_mut(self.chunks[index].get_or_insert_with(|| Arc::new([0; CHUNK])))
    }

    /// Makes everything from byte `len` on read as zeros.
    pub fn truncate(&mut self, len: usize) {
        self.chunks.truncate(len.div_ceil(CHUNK));
        if !len.is_multiple_of(CHUNK) && self.chunks.get(len / CHUNK).is_some_and(Option::is_some) {
            self.chunk(len / CHUNK)[len % CHUNK..].fill(0);
        }
    }
}
