//! Which bytes of a device lie where on the real devices below it. Pure.
//!
//! A layout is a tree: a device is a row of segments, each of which is a part of another device, stripes over several, or opaque.
//! Translation goes down the tree and gives the pieces of a range in order, neighbours joined. Beside it stands
//! a naive model that asks for one byte at a time (`tests.rs`).

use super::resolve::RealDevice;
use std::ops::Range;
use std::sync::Arc;

/// How a device lies on others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A whole real device.
    Real(Arc<RealDevice>),
    /// Segments, one behind the other from byte 0 on.
    Segments(Vec<Segment>),
    /// Nobody may look below, for this reason.
    Opaque(String),
}

/// A part of a device that is mapped in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Bytes.
    pub len: u64,
    /// Where they are.
    pub on: Mapping,
}

/// Where the bytes of a segment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// One behind the other, from byte `offset` of `below` on.
    Linear {
        /// The device below.
        below: Arc<Layout>,
        /// Bytes from its start.
        offset: u64,
    },
    /// In chunks, one from each leg in turn.
    Striped {
        /// Bytes of a chunk.
        chunk: u64,
        /// The devices below, each with the byte at which its first chunk begins.
        legs: Vec<(Arc<Layout>, u64)>,
    },
    /// Nobody may look below, for this reason.
    Opaque(String),
}

/// A run of bytes on one real device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where.
    pub device: Arc<RealDevice>,
    /// Bytes from the start of that device.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Piece {
    fn continues(&self, next: &Piece) -> bool {
        self.device == next.device && self.offset.checked_add(self.len) == Some(next.offset)
    }
}

impl Layout {
    /// The pieces of `range` (bytes of this device), in order; a run of bytes on one real device is one piece.
    ///
    /// # Errors
    /// In words: an opaque layer, or a range beyond what is mapped.
    pub fn translate(&self, range: Range<u64>) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        self.collect(range, &mut pieces)?;
        Ok(pieces)
    }

    fn collect(&self, range: Range<u64>, pieces: &mut Vec<Piece>) -> Result<(), String> {
        if range.is_empty() {
            return Ok(());
        }
        match self {
            Self::Opaque(reason) => Err(reason.clone()),
            Self::Real(device) => {
                if range.end > device.size {
                    return Err(format!("byte {} lies beyond the end of {}", range.end - 1, device.name));
                }
                let piece = Piece { device: device.clone(), offset: range.start, len: range.end - range.start };
                match pieces.last_mut() {
                    Some(last) if last.continues(&piece) => last.len += piece.len,
                    _ => pieces.push(piece),
                }
                Ok(())
            }
            Self::Segments(segments) => {
                let mut start = 0u64;
                for segment in segments {
                    let end = start.saturating_add(segment.len);
                    let part = range.start.max(start)..range.end.min(end);
                    if !part.is_empty() {
                        segment.on.collect(part.start - start..part.end - start, pieces)?;
                    }
                    start = end;
                }
                if range.end > start { Err(format!("byte {} is mapped nowhere", range.end - 1)) } else { Ok(()) }
            }
        }
    }

    /// All real devices below, each once; or why that cannot be said.
    ///
    /// # Errors
    /// The first opaque layer, in words.
    pub fn devices(&self) -> Result<Vec<Arc<RealDevice>>, String> {
        let mut found = Vec::new();
        self.gather(&mut found)?;
        Ok(found)
    }

    fn gather(&self, found: &mut Vec<Arc<RealDevice>>) -> Result<(), String> {
        match self {
            Self::Opaque(reason) => Err(reason.clone()),
            Self::Real(device) => {
                if !found.contains(device) {
                    found.push(device.clone());
                }
                Ok(())
            }
            Self::Segments(segments) => segments.iter().try_for_each(|segment| match &segment.on {
                Mapping::Linear { below, .. } => below.gather(found),
                Mapping::Striped { legs, .. } => legs.iter().try_for_each(|(leg, _)| leg.gather(found)),
                Mapping::Opaque(reason) => Err(reason.clone()),
            }),
        }
    }
}

impl Mapping {
    fn collect(&self, range: Range<u64>, pieces: &mut Vec<Piece>) -> Result<(), String> {
        let overflow = || "an address overflows".to_owned();
        match self {
            Self::Opaque(reason) => Err(reason.clone()),
            Self::Linear { below, offset } => {
                let start = offset.checked_add(range.start).ok_or_else(overflow)?;
                below.collect(start..offset.checked_add(range.end).ok_or_else(overflow)?, pieces)
            }
            Self::Striped { chunk, legs } => {
                if *chunk == 0 || legs.is_empty() {
                    return Err("stripes without a size or without devices".into());
                }
                let mut at = range.start;
                while at < range.end {
                    let (number, within) = (at / chunk, at % chunk);
                    let len = (chunk - within).min(range.end - at);
                    let (leg, first) = &legs[(number % legs.len() as u64) as usize];
                    let row = (number / legs.len() as u64).checked_mul(*chunk).ok_or_else(overflow)?;
                    let start = first.checked_add(row).and_then(|start| start.checked_add(within)).ok_or_else(overflow)?;
                    leg.collect(start..start.checked_add(len).ok_or_else(overflow)?, pieces)?;
                    at += len;
                }
                Ok(())
            }
        }
    }
}
