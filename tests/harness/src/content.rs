//! Bytes that can be made again from a seed, so that a test needs to remember what it wrote only by number.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher as _;
use std::io::Read;

/// A pseudo-random byte stream addressed by offset: the same seed gives the same byte at the same offset, whatever the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    /// Mixes a further number into the seed, for a stream of its own.
    pub fn with(self, salt: u64) -> Pattern {
        Pattern(mix(self.0 ^ mix(salt.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// Fills `buffer` with the bytes of the stream at `offset`.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let lead = (8 - offset % 8) as usize % 8;
        let (head, rest) = buffer.split_at_mut(lead.min(buffer.len()));
        if !head.is_empty() {
            let word = self.word(offset / 8);
            let from = (offset % 8) as usize;
            head.copy_from_slice(&word[from..from + head.len()]);
        }
        let mut index = (offset + head.len() as u64) / 8;
        let mut words = rest.chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.word(index));
            index += 1;
        }
        let tail = words.into_remainder();
        let word = self.word(index);
        tail.copy_from_slice(&word[..tail.len()]);
    }

    /// The bytes of the stream at `offset`.
    pub fn bytes(self, offset: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        self.fill(offset, &mut buffer);
        buffer
    }

    /// Where `data`, read at `offset`, first differs from the stream.
    pub fn mismatch(self, offset: u64, data: &[u8]) -> Option<u64> {
        let expected = self.bytes(offset, data.len());
        if expected == data {
            return None;
        }
        expected.iter().zip(data).position(|(a, b)| a != b).map(|at| offset + at as u64)
    }

    fn word(self, index: u64) -> [u8; 8] {
        mix(self.0.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
    }
}

/// The finaliser of splitmix64: every bit of the input reaches every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A small seeded source of choices for loads that must be repeatable.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A source that repeats itself for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }
}

/// A 128-bit digest of all that a reader gives.
pub fn digest(mut reader: impl Read) -> std::io::Result<u128> {
    let mut hasher = SipHasher24::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(hasher.finish128().as_u128());
        }
        hasher.write(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_same_bytes_as_the_whole() {
        let pattern = Pattern(7).with(3);
        let whole = pattern.bytes(0, 1000);
        for (from, length) in [(0, 1), (1, 7), (3, 2), (5, 900), (8, 8), (13, 64), (999, 1), (40, 0)] {
            assert_eq!(pattern.bytes(from as u64, length), whole[from..from + length], "{from}+{length}");
        }
        let mut broken = whole.clone();
        broken[500] ^= 1;
        assert_eq!(pattern.mismatch(0, &broken), Some(500));
        assert_eq!(pattern.mismatch(0, &whole), None);
    }

    #[test]
    fn dice_stay_below_their_bound_and_repeat() {
        let (mut a, mut b) = (Dice::new(1), Dice::new(1));
        for _ in 0..1000 {
            let n = a.below(10);
            assert!(n < 10);
            assert_eq!(n, b.below(10));
        }
    }
}
