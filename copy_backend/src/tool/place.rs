//! Places as they are written on the command line. Paths may hold colons and commas: numbers are taken from the right.

use crate::size::parse_size;
use std::path::PathBuf;
use std::str::FromStr;

/// `SRC:OFFSET:LENGTH[,OFFSET:LENGTH...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The device or file.
    pub path: PathBuf,
    /// Offsets and lengths in bytes.
    pub ranges: Vec<(u64, u64)>,
}

/// `DST:OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The device or file.
    pub path: PathBuf,
    /// In bytes.
    pub offset: u64,
}

/// `OFFSET:LENGTH`.
pub fn parse_range(word: &str) -> Result<(u64, u64), String> {
    let (offset, length) = word.split_once(':').ok_or_else(|| format!("{word:?} is not OFFSET:LENGTH"))?;
    let size = |word| parse_size(word).map_err(|error| error.to_string());
    Ok((size(offset)?, size(length)?))
}

impl FromStr for Source {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        let mut rest = word;
        while let Some((before, last)) = rest.rsplit_once(',')
            && let Ok(range) = parse_range(last)
        {
            ranges.push(range);
            rest = before;
        }
        let mut parts = rest.rsplitn(3, ':');
        let (length, offset, path) = (parts.next(), parts.next(), parts.next());
        let (Some(length), Some(offset), Some(path)) = (length, offset, path) else {
            return Err(format!("{word:?} is not SRC:OFFSET:LENGTH[,OFFSET:LENGTH...]"));
        };
        if path.is_empty() {
            return Err(format!("{word:?} names no device"));
        }
        ranges.push(parse_range(&format!("{offset}:{length}"))?);
        ranges.reverse();
        Ok(Self { path: path.into(), ranges })
    }
}

impl FromStr for Destination {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word.rsplit_once(':') {
            Some((path, offset)) if !path.is_empty() => {
                Ok(Self { path: path.into(), offset: parse_size(offset).map_err(|error| error.to_string())? })
            }
            _ => Err(format!("{word:?} is not DST:OFFSET")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_the_right() {
        let source = |word: &str| word.parse::<Source>();
        let expect = |path: &str, ranges: &[(u64, u64)]| Ok(Source { path: path.into(), ranges: ranges.to_vec() });
        assert_eq!(source("/dev/a:0:4K"), expect("/dev/a", &[(0, 4096)]));
        assert_eq!(source("a:1M:4K,0:8192,2G:512"), expect("a", &[(1 << 20, 4096), (0, 8192), (2 << 30, 512)]));
        assert_eq!(source("pci-0000:00:1f.2,x:8:16,1:2"), expect("pci-0000:00:1f.2,x", &[(8, 16), (1, 2)]));
        for wrong in ["a", "a:0", ":0:1", "a:0:1,", "a:x:1", "a:0:1,b:2", "a:0:1,2", "a:-1:5"] {
            assert!(source(wrong).is_err(), "{wrong}");
        }
        assert_eq!("a:b:64K".parse(), Ok(Destination { path: "a:b".into(), offset: 65536 }));
        for wrong in ["a", ":5", "a:", "a:b"] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
