//! Sizes as people write them: `4G`, `16M`, `512K`, `4096`.

use thiserror::Error;

/// Why a word is not a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// No number with a suffix that we know.
    #[error("{0:?} is not a size: write a whole number of bytes, or one with K, M, G or T behind it, such as 16M")]
    NotASize(String),
    /// More than 2^64.
    #[error("{0} is larger than any device")]
    TooLarge(String),
}

/// Reads a size in bytes. K, M, G, T and P are powers of 1024, in either case, with or without `B` or `iB` behind them.
///
/// # Errors
/// A word that is not a size.
pub fn parse_size(word: &str) -> Result<u64, SizeError> {
    let not = || SizeError::NotASize(word.to_owned());
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = word.split_at(digits);
    if number.is_empty() {
        return Err(not());
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(not()),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge(word.to_owned()))?;
    number.checked_mul(1 << shift).ok_or_else(|| SizeError::TooLarge(word.to_owned()))
}

/// A size for people: the largest unit in which it has at least one digit before the point.
pub fn show_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let index = (63 - bytes.max(1).leading_zeros()) as usize / 10;
    let unit = 1u64 << (10 * index);
    if bytes.is_multiple_of(unit) {
        format!("{} {}", bytes / unit, units[index])
    } else {
        format!("{:.1} {}", bytes as f64 / unit as f64, units[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (word, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512b", 512),
            ("1k", 1024),
            ("16M", 16 << 20),
            ("16MiB", 16 << 20),
            ("16mb", 16 << 20),
            ("4G", 4 << 30),
            ("25T", 25 << 40),
            ("1P", 1 << 50),
        ] {
            assert_eq!(parse_size(word), Ok(bytes), "{word}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for word in ["", "G", "-1", "1.5G", "1 G", "4X", "0x10", "G4", "4GG", "四"] {
            assert_eq!(parse_size(word), Err(SizeError::NotASize(word.into())), "{word}");
        }
        for word in ["99999999999999999999", "17179869184P"] {
            assert_eq!(parse_size(word), Err(SizeError::TooLarge(word.into())), "{word}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (4 << 30, "4 GiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(show_size(bytes), text);
        }
    }
}
