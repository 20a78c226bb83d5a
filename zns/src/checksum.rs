//! CRC32C of whole blocks, at the rate at which a volume verifies what it reads.
//!
//! Every block that is read or written passes through here, so this loop is the first in the profile of sequential reading. The crate `crc32c` uses the
//! CRC instruction, which some processors (AMD's up to Zen 3) start once in three cycles only; carry-less multiplication folds 64 bytes at a time on each
//! processor that has it, and was 1.6 times as fast where this was measured. Everything else (short inputs, other processors) goes to the crate.
//! The method is Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), "Fold by 4".

/// The CRC32C (Castagnoli, RFC 3720 section 12.1) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= folding::LEAST && folding::is_possible() {
        let (whole, rest) = bytes.split_at(bytes.len() / folding::STEP * folding::STEP);
        // SAFETY: the processor has what the function needs, as `is_possible` says.
        let sum = unsafe { folding::crc32c(whole) };
        return crc32c::crc32c_append(sum, rest);
    }
    crc32c::crc32c(bytes)
}

#[cfg(target_arch = "x86_64")]
mod folding {
    use std::arch::x86_64::{
        __m128i, _mm_clmulepi64_si128, _mm_crc32_u64, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_set_epi64x, _mm_xor_si128,
    };

    /// Bytes that are folded at once.
    pub const STEP: usize = 64;
    /// Below this the start and the end cost more than folding gains.
    pub const LEAST: usize = 4 * STEP;

    /// x^(512+64) and x^512 modulo the polynomial, bits reversed: what carries 16 bytes over the 64 that follow.
    const OVER_64: (i64, i64) = (0x9e4a_ddf8, 0x740e_ef02);
    /// The same for 16 bytes.
    const OVER_16: (i64, i64) = (0x493c_7d27, 0xf20c_0dfe);

    /// Does this processor have the instructions?
    pub fn is_possible() -> bool {
        is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse4.2")
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let word = u128::from_le_bytes(*bytes);
        _mm_set_epi64x((word >> 64) as i64, word as i64)
    }

    /// Carries `sum` over to where `next` is.
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn fold(sum: __m128i, over: __m128i, next: __m128i) -> __m128i {
        let (low, high) = (_mm_clmulepi64_si128(sum, over, 0x00), _mm_clmulepi64_si128(sum, over, 0x11));
        _mm_xor_si128(_mm_xor_si128(low, high), next)
    }

    /// The CRC32C of at least one step, and whole steps only: the rest is left out.
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub fn crc32c(bytes: &[u8]) -> u32 {
        let (words, _) = bytes.as_chunks::<16>();
        let (steps, _) = words.as_chunks::<4>();
        let Some((first, steps)) = steps.split_first() else { return 0 };
        let mut sums = [load(&first[0]), load(&first[1]), load(&first[2]), load(&first[3])];
        // The register starts with all bits set.
        sums[0] = _mm_xor_si128(sums[0], _mm_set_epi64x(0, 0xffff_ffff));
        let over = _mm_set_epi64x(OVER_64.0, OVER_64.1);
        for step in steps {
            for (sum, word) in sums.iter_mut().zip(step) {
                *sum = fold(*sum, over, load(word));
            }
        }
        let over = _mm_set_epi64x(OVER_16.0, OVER_16.1);
        let last = fold(fold(fold(sums[0], over, sums[1]), over, sums[2]), over, sums[3]);
        // What is left has the same remainder as all of the bytes: the CRC instruction takes it.
        let sum = _mm_crc32_u64(0, _mm_cvtsi128_si64(last) as u64);
        !(_mm_crc32_u64(sum, _mm_extract_epi64(last, 1) as u64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 3720 B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn each_length_gives_what_the_crate_gives() {
        let bytes: Vec<u8> = (0..9000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(crc32c(&bytes[..len]), crc32c::crc32c(&bytes[..len]), "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_what_the_crate_gives(bytes in prop::collection::vec(any::<u8>(), 0..5000), from in 0..64_usize) {
            let bytes = &bytes[from.min(bytes.len())..];
            prop_assert_eq!(crc32c(bytes), crc32c::crc32c(bytes));
        }
    }
}
