//! Logical deltas: what the log is made of and what [`crate::core`] applies, running and in roll-forward alike (decision 6).

use crate::addr::Addr;
use crate::core::Key;
use crate::core::extents::Relocation;
use crate::format::item::{push_varint, take_varint};
use crate::ids::{FileBlock, Ino};
use gc::placement::Estimate;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// An item of any class but extents, checksums and summaries gets this value.
    Put {
        /// Which item.
        key: Key,
        /// Its value.
        value: Vec<u8>,
    },
    /// An item of any class but extents, checksums and summaries goes.
    Remove {
        /// Which item.
        key: Key,
    },
    /// File blocks lie here now; what was mapped there before is dead.
    Map {
        /// Whose.
        ino: Ino,
        /// First file block.
        block: FileBlock,
        /// First address; the run stays in one zone.
        addr: Addr,
        /// CRC32C of each block; as many as the run is long.
        checksums: Vec<u32>,
        /// What is expected of the blocks.
        estimate: Estimate,
    },
    /// The holes in this range are preallocated; what is mapped stays.
    Preallocate {
        /// Whose.
        ino: Ino,
        /// First file block.
        block: FileBlock,
        /// Length.
        blocks: u64,
    },
    /// The range becomes a hole.
    Unmap {
        /// Whose.
        ino: Ino,
        /// First file block.
        block: FileBlock,
        /// Length.
        blocks: u64,
    },
    /// What of a run of file blocks still lies where it was lies elsewhere now, with the same content, which was durable there before this was written.
    Move(Relocation),
    /// A zone holds nothing from here on. Once this is durable the zone may be reset and written to again.
    Release {
        /// Its first block.
        zone: Addr,
    },
}

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const MAP: u8 = 3;
const PREALLOCATE: u8 = 4;
const UNMAP: u8 = 5;
const MOVE: u8 = 6;
const RELEASE: u8 = 7;

impl Delta {
    /// Bytes it takes in the log.
    pub fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Put { value, .. } => Key::LEN + 2 + value.len(),
            Self::Remove { .. } => Key::LEN,
            Self::Map { checksums, .. } => 29 + 4 * checksums.len(),
            Self::Preallocate { .. } | Self::Unmap { .. } => 24,
            Self::Move(moved) => varint_len(moved.ino.0) + varint_len(moved.block.0) + varint_len(moved.blocks.into()) + 17,
            Self::Release { .. } => 8,
        }
    }

    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { key, value } => {
                out.push(PUT);
                out.extend_from_slice(&key.encode());
                out.extend_from_slice(&(value.len() as u16).to_le_bytes());
                out.extend_from_slice(value);
            }
            Self::Remove { key } => {
                out.push(REMOVE);
                out.extend_from_slice(&key.encode());
            }
            Self::Map { ino, block, addr, checksums, estimate } => {
                out.push(MAP);
                push_words(out, &[ino.0, block.0, addr.0]);
                out.push(estimate.0);
                out.extend_from_slice(&(checksums.len() as u32).to_le_bytes());
                for sum in checksums {
                    out.extend_from_slice(&sum.to_le_bytes());
                }
            }
            Self::Preallocate { ino, block, blocks } => {
                out.push(PREALLOCATE);
                push_words(out, &[ino.0, block.0, *blocks]);
            }
            Self::Unmap { ino, block, blocks } => {
                out.push(UNMAP);
                push_words(out, &[ino.0, block.0, *blocks]);
            }
            Self::Move(moved) => {
                out.push(MOVE);
                [moved.ino.0, moved.block.0, moved.blocks.into()].into_iter().for_each(|n| push_varint(out, n));
                push_words(out, &[moved.from.0, moved.to.0]);
                out.push(moved.estimate.0);
            }
            Self::Release { zone } => {
                out.push(RELEASE);
                push_words(out, &[zone.0]);
            }
        }
    }

    /// Takes one delta off the front of `bytes`; `None` if what is there is not one (I10: lengths are checked before anything is allocated).
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let kind = take(bytes, 1)?[0];
        Some(match kind {
            PUT => {
                let key = Key::decode(take(bytes, Key::LEN)?)?;
                let len = u16::from_le_bytes(take(bytes, 2)?.try_into().ok()?);
                Self::Put { key, value: take(bytes, len.into())?.to_vec() }
            }
            REMOVE => Self::Remove { key: Key::decode(take(bytes, Key::LEN)?)? },
            MAP => {
                let (ino, block, addr) = (Ino(word(bytes)?), FileBlock(word(bytes)?), Addr(word(bytes)?));
                let estimate = Estimate(take(bytes, 1)?[0]);
                let count = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?) as usize;
                let sums = take(bytes, count.checked_mul(4)?)?;
                let checksums = sums.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("four bytes"))).collect();
                Self::Map { ino, block, addr, checksums, estimate }
            }
            PREALLOCATE => Self::Preallocate { ino: Ino(word(bytes)?), block: FileBlock(word(bytes)?), blocks: word(bytes)? },
            UNMAP => Self::Unmap { ino: Ino(word(bytes)?), block: FileBlock(word(bytes)?), blocks: word(bytes)? },
            MOVE => {
                let (ino, block, blocks) = (Ino(varint(bytes)?), FileBlock(varint(bytes)?), u32::try_from(varint(bytes)?).ok()?);
                let (from, to) = (Addr(word(bytes)?), Addr(word(bytes)?));
                Self::Move(Relocation { ino, block, blocks, from, to, estimate: Estimate(take(bytes, 1)?[0]) })
            }
            RELEASE => Self::Release { zone: Addr(word(bytes)?) },
            _ => return None,
        })
    }
}

fn push_words(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (n, rest) = take_varint(bytes)?;
    *bytes = rest;
    Some(n)
}

fn varint_len(n: u64) -> usize {
    (u64::BITS - n.leading_zeros()).div_ceil(7).max(1) as usize
}

fn word(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_mapped_and_moved_is_read_as_it_was_written(ino: u64, block: u64, blocks: u32, from: u64, to: u64, estimate: u8) {
            let estimate = Estimate(estimate);
            let deltas = [
                Delta::Map { ino: Ino(ino), block: FileBlock(block), addr: Addr(to), checksums: vec![blocks; 3], estimate },
                Delta::Move(Relocation { ino: Ino(ino), block: FileBlock(block), blocks, from: Addr(from), to: Addr(to), estimate }),
                Delta::Release { zone: Addr(from) },
            ];
            for delta in deltas {
                let mut bytes = Vec::new();
                delta.encode(&mut bytes);
                prop_assert_eq!(bytes.len(), delta.encoded_len());
                for short in 0..bytes.len() {
                    prop_assert_eq!(Delta::decode(&mut &bytes[..short]), None);
                }
                let mut rest = &bytes[..];
                prop_assert_eq!(Delta::decode(&mut rest), Some(delta));
                prop_assert!(rest.is_empty());
            }
        }
    }
}
