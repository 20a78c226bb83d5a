//! The bytes of one zone: sparse, and shared between snapshots until they are written.
//!
//! A digest of the content is kept with each chunk and with the whole until something changes, so that telling apart a great many snapshots that
//! differ in little costs little.

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 4 << 10;

/// Some content, never resized.
#[derive(Clone, Debug)]
struct Chunk {
    bytes: [u8; CHUNK],
    digest: OnceLock<u64>,
}

impl Chunk {
    const ZEROS: [u8; CHUNK] = [0; CHUNK];

    /// 0 for zeros: what was never written and what was written as zeros is the same content.
    fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| if self.bytes == Self::ZEROS { 0 } else { digest_of(&self.bytes) })
    }
}

/// A digest of bytes.
fn digest_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Two numbers as one that depends on both.
pub(super) fn mixed(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(29);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Sparse content; what was never written reads as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct ZoneBytes {
    chunks: Vec<Option<Arc<Chunk>>>,
    digest: OnceLock<u64>,
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
                Some(chunk) => part.copy_from_slice(&chunk.bytes[start..start + len]),
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
            match <&[u8; CHUNK]>::try_from(part) {
                // Nothing of what was there stays.
                Ok(whole) => self.replace(chunk, Some(Arc::new(Chunk { bytes: *whole, digest: OnceLock::new() }))),
                Err(_) => self.chunk(chunk)[start..start + len].copy_from_slice(part),
            }
            rest = tail;
        }
    }

    fn replace(&mut self, index: usize, chunk: Option<Arc<Chunk>>) {
        self.digest.take();
        if self.chunks.len() <= index {
            self.chunks.resize(index + 1, None);
        }
        self.chunks[index] = chunk;
    }

    fn chunk(&mut self, index: usize) -> &mut [u8; CHUNK] {
        self.digest.take();
        if self.chunks.len() <= index {
            self.chunks.resize(index + 1, None);
        }
        let empty = || Arc::new(Chunk { bytes: Chunk::ZEROS, digest: OnceLock::new() });
        let chunk = Arc::make_mut(self.chunks[index].get_or_insert_with(empty));
        chunk.digest.take();
        &mut chunk.bytes
    }

    /// Makes everything from byte `len` on read as zeros.
    pub fn truncate(&mut self, len: usize) {
        self.digest.take();
        self.chunks.truncate(len.div_ceil(CHUNK));
        if !len.is_multiple_of(CHUNK) && self.is_allocated(len / CHUNK) {
            self.chunk(len / CHUNK)[len % CHUNK..].fill(0);
        }
    }

    /// Makes a range read as zeros; chunks that lie within it whole take no space any more.
    pub fn punch(&mut self, offset: usize, len: usize) {
        for (chunk, start, len) in pieces(offset, len) {
            if !self.is_allocated(chunk) {
                continue;
            }
            if len == CHUNK {
                self.replace(chunk, None);
            } else {
                self.chunk(chunk)[start..start + len].fill(0);
            }
        }
    }

    /// Does chunk `index` take space?
    pub fn is_allocated(&self, index: usize) -> bool {
        self.chunks.get(index).is_some_and(Option::is_some)
    }

    /// Stands for what can be read here.
    pub fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| {
            let chunks = self.chunks.iter().enumerate().filter_map(|(index, chunk)| Some((index, chunk.as_ref()?.digest())));
            chunks.filter(|(_, digest)| *digest != 0).fold(0, |sum, (index, digest)| sum.wrapping_add(mixed(index as u64, digest)))
        })
    }

    /// Stands for which chunks take space.
    pub fn allocation(&self) -> u64 {
        let chunks = self.chunks.iter().enumerate().filter(|(_, chunk)| chunk.is_some());
        chunks.fold(0, |sum, (index, _)| sum.wrapping_add(mixed(index as u64, 1)))
    }
}
