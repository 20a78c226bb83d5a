//! A file of numbered, checksummed lines: after a crash it tells how many of them are there, and whether they are whole.

use harness::Pattern;

/// Length of every record.
pub const LENGTH: usize = 256;

/// Record number `n` of the file with this seed.
pub fn record(seed: u64, n: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    Pattern(seed).with(n).fill(0, &mut bytes[8..]);
    bytes
}

/// How many records are there, from the first on. A short record at the end does not count; a wrong one is an error.
pub fn count(seed: u64, contents: &[u8]) -> Result<u64, String> {
    let mut n = 0;
    for found in contents.chunks(LENGTH) {
        let expected = record(seed, n);
        if found.len() < LENGTH {
            return if expected.starts_with(found) { Ok(n) } else { Err(format!("the torn record {n} is wrong")) };
        }
        if found != expected {
            return Err(format!("record {n} is wrong"));
        }
        n += 1;
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_and_wrong_ones_noticed() {
        let mut contents: Vec<u8> = (0..5).flat_map(|n| record(9, n)).collect();
        assert_eq!(count(9, &contents), Ok(5));
        assert_eq!(count(9, &contents[..LENGTH * 4 + 3]), Ok(4));
        contents[LENGTH * 2 + 100] ^= 1;
        assert!(count(9, &contents).is_err());
    }
}
