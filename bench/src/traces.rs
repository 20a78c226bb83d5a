//! Block traces in the CSV formats that are common: what each line says, and all lines as operations on a volume of 4 KiB blocks.
//!
//! Nothing in a trace is trusted: a line that cannot be understood is an error that names it, never a panic, and no line makes more work than a request of
//! one GiB.

use crate::loads::Operation;
use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;
use std::str::FromStr;

/// How lines are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// By the shape of the first line that is a request.
    Guess,
    /// device, R or W, offset, length (bytes), time.
    Alibaba,
    /// time, offset, size (sectors of 512 bytes), 0 or 1 for reads and writes, volume.
    Tencent,
    /// time, host, disk, Read or Write, offset, size (bytes), response time.
    Msr,
    /// version, time, SCSI operation code in hexadecimal, size (bytes), first sector of 512 bytes; with a line of names or without.
    Vscsi,
}

const FORMATS: [(Format, &str); 4] =
    [(Format::Alibaba, "alibaba"), (Format::Tencent, "tencent"), (Format::Msr, "msr"), (Format::Vscsi, "vscsi")];

impl FromStr for Format {
    type Err = ();
    fn from_str(name: &str) -> Result<Format, ()> {
        FORMATS.iter().find(|(_, known)| *known == name).map(|(format, _)| *format).ok_or(())
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(FORMATS.iter().find(|(format, _)| format == self).map_or("guess", |(_, name)| name))
    }
}

/// A trace that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{path}, line {line}: {what}: `{text}`")]
    Line { path: String, line: u64, what: String, text: String },
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: no line of it writes anything")]
    Empty { path: String },
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Trim,
}

/// One line. Offset and length are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    volume: String,
    kind: Kind,
    offset: u64,
    length: u64,
}

/// Bytes in a block, in a sector, and in the longest request.
const BLOCK: u64 = 4096;
const SECTOR: u64 = 512;
const LONGEST: u64 = 1 << 30;

fn number(fields: &[&str], at: usize, name: &str) -> Result<u64, String> {
    let text = fields[at];
    text.parse().map_err(|_| format!("the {name} `{text}` in column {} is not a number", at + 1))
}

fn sectors(fields: &[&str], at: usize, name: &str) -> Result<u64, String> {
    number(fields, at, name)?.checked_mul(SECTOR).ok_or_else(|| format!("the {name} `{}` in column {} is too large", fields[at], at + 1))
}

fn kind(text: &str, at: usize, words: &[(&str, Kind)]) -> Result<Kind, String> {
    let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, kind)| *kind).ok_or_else(|| format!("`{text}` in column {} is no operation: one of {}", at + 1, known()))
}

impl Format {
    fn columns(self) -> usize {
        if self == Format::Msr { 7 } else { 5 }
    }

    /// Reads a line.
    fn parse(self, line: &str) -> Result<Request, String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if self != Format::Guess && fields.len() != self.columns() {
            return Err(format!("{} columns, where the format {self} has {}", fields.len(), self.columns()));
        }
        let request = match self {
            Format::Guess => return Err("a format has to be named: alibaba, tencent, msr or vscsi".into()),
            Format::Alibaba => Request {
                volume: fields[0].to_owned(),
                kind: kind(fields[1], 1, &[("R", Kind::Read), ("W", Kind::Write)])?,
                offset: number(&fields, 2, "offset")?,
                length: number(&fields, 3, "length")?,
            },
            Format::Tencent => Request {
                volume: fields[4].to_owned(),
                kind: kind(fields[3], 3, &[("0", Kind::Read), ("1", Kind::Write)])?,
                offset: sectors(&fields, 1, "offset")?,
                length: sectors(&fields, 2, "size")?,
            },
            Format::Msr => Request {
                volume: format!("{}.{}", fields[1], fields[2]),
                kind: kind(fields[3], 3, &[("Read", Kind::Read), ("Write", Kind::Write)])?,
                offset: number(&fields, 4, "offset")?,
                length: number(&fields, 5, "size")?,
            },
            Format::Vscsi => Request {
                volume: String::new(),
                kind: kind(
                    fields[2],
                    2,
                    &[
                        ("2a", Kind::Write),
                        ("8a", Kind::Write),
                        ("0a", Kind::Write),
                        ("a", Kind::Write),
                        ("aa", Kind::Write),
                        ("28", Kind::Read),
                        ("88", Kind::Read),
                        ("08", Kind::Read),
                        ("8", Kind::Read),
                        ("a8", Kind::Read),
                        ("42", Kind::Trim),
                    ],
                )?,
                offset: sectors(&fields, 4, "sector")?,
                length: number(&fields, 3, "size")?,
            },
        };
        if request.length > LONGEST || request.offset.checked_add(request.length).is_none() {
            return Err(format!("{} bytes at {} are more than a request can have", request.length, request.offset));
        }
        Ok(request)
    }

    /// The formats that understand a line.
    fn guess(line: &str) -> Result<Format, String> {
        let fitting: Vec<Format> = FORMATS.iter().map(|(format, _)| *format).filter(|format| format.parse(line).is_ok()).collect();
        match fitting[..] {
            [format] => Ok(format),
            [] => Err("no format understands this line: alibaba, tencent, msr, vscsi".into()),
            _ => Err(format!(
                "{} understand this line; name one, as in trace:{}:FILE",
                fitting.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
                fitting[0]
            )),
        }
    }
}

/// A trace as operations on blocks that are numbered from zero in the order in which they are first written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub operations: Vec<Operation>,
    /// Different blocks that are written.
    pub blocks: u32,
}

/// Reads a trace file. All volumes in it become one.
///
/// # Errors
/// It cannot be read, a line cannot be understood, or nothing is written.
pub fn read(path: &Path, format: Format) -> Result<Trace, TraceError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|source| TraceError::Read { path: name.clone(), source })?;
    parse(&name, std::io::BufReader::new(file), format)
}

fn parse(path: &str, mut input: impl BufRead, mut format: Format) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    let mut volumes: HashMap<String, u32> = HashMap::new();
    let mut numbers: HashMap<(u32, u64), u32> = HashMap::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = input.read_until(b'\n', &mut bytes).map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
        if read == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        let names = line == 1 && !text.contains(|c: char| c.is_ascii_digit());
        if text.is_empty() || text.starts_with('#') || names {
            continue;
        }
        let wrong = |what: String| TraceError::Line { path: path.to_owned(), line, what, text: text.chars().take(200).collect() };
        if format == Format::Guess {
            format = Format::guess(text).map_err(wrong)?;
        }
        let request = format.parse(text).map_err(wrong)?;
        if request.kind == Kind::Read || request.length == 0 {
            continue;
        }
        let many = volumes.len() as u32;
        let volume = *volumes.entry(request.volume).or_insert(many);
        for block in request.offset / BLOCK..(request.offset + request.length).div_ceil(BLOCK) {
            if request.kind == Kind::Trim {
                // What was never written needs no deletion.
                trace.operations.extend(numbers.get(&(volume, block)).map(|number| Operation::Trim(*number)));
            } else {
                if trace.blocks == u32::MAX / 4 {
                    return Err(wrong("the trace writes more than 4 TiB of different blocks".into()));
                }
                let number = *numbers.entry((volume, block)).or_insert(trace.blocks);
                trace.blocks = trace.blocks.max(number + 1);
                trace.operations.push(Operation::Write(number));
            }
        }
    }
    if trace.blocks == 0 {
        return Err(TraceError::Empty { path: path.to_owned() });
    }
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str, format: Format) -> Result<Trace, TraceError> {
        parse("t.csv", text.as_bytes(), format)
    }

    #[test]
    fn every_format_says_the_same() {
        let expected = [0, 1, 0].map(Operation::Write).to_vec();
        for (format, lines) in [
            (Format::Alibaba, "3,W,8192,8192,100\n3,R,0,4096,101\n3,W,8192,512,102\n"),
            (Format::Tencent, "100,16,16,1,3\n101,0,8,0,3\r\n102,16,1,1,3\n"),
            (Format::Msr, "128166372003061629,web,0,Write,8192,8192,5\n1,web,0,Read,0,4096,5\n2,web,0,Write,8192,512,9\n"),
            (Format::Vscsi, "version,time,op,size,lbn\n1,100,2a,8192,16\n1,100,28,4096,0\n1,101,2A,512,16\n"),
        ] {
            for format in [format, Format::Guess] {
                let trace = text(lines, format).unwrap();
                assert_eq!((trace.operations, trace.blocks), (expected.clone(), 2), "{format}");
            }
        }
    }

    #[test]
    fn volumes_are_apart_and_deletions_are_taken() {
        let trace = text("1,W,0,4096,1\n2,W,0,4096,2\n1,W,0,4096,3\n", Format::Alibaba).unwrap();
        assert_eq!(trace.operations, [0, 1, 0].map(Operation::Write));
        let trace = text("1,1,2a,4096,0\n1,2,42,8192,0\n", Format::Vscsi).unwrap();
        assert_eq!(trace.operations, [Operation::Write(0), Operation::Trim(0)]);
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong_with_it() {
        for (format, lines, error) in [
            (Format::Alibaba, "1,W,0,4096,1\n1,W,x,4096,1\n", "t.csv, line 2: the offset `x` in column 3 is not a number: `1,W,x,4096,1`"),
            (Format::Alibaba, "1,E,0,4096,1", "t.csv, line 1: `E` in column 2 is no operation: one of R, W: `1,E,0,4096,1`"),
            (Format::Msr, "1,2,3", "t.csv, line 1: 3 columns, where the format msr has 7: `1,2,3`"),
            (Format::Guess, "1,2,3", "t.csv, line 1: no format understands this line: alibaba, tencent, msr, vscsi: `1,2,3`"),
            (
                Format::Tencent,
                "1,36028797018963968,1,1,1",
                "t.csv, line 1: the offset `36028797018963968` in column 2 is too large: `1,36028797018963968,1,1,1`",
            ),
            (
                Format::Alibaba,
                "1,W,0,1073741825,1",
                "t.csv, line 1: 1073741825 bytes at 0 are more than a request can have: `1,W,0,1073741825,1`",
            ),
            (Format::Alibaba, "1,R,0,4096,1\n", "t.csv: no line of it writes anything"),
        ] {
            assert_eq!(text(lines, format).unwrap_err().to_string(), error);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), format in 0usize..5) {
            let format = FORMATS.get(format).map_or(Format::Guess, |(format, _)| *format);
            let _ = parse("t.csv", bytes.as_slice(), format);
        }

        #[test]
        fn no_line_of_fields_panics(fields in proptest::collection::vec("[0-9]{1,20}|[RWa-f0-9]{1,2}|Read|Write|-1|", 3..8), format in 0usize..5) {
            let format = FORMATS.get(format).map_or(Format::Guess, |(format, _)| *format);
            // Long requests are cut short here only to keep the test fast.
            if format.parse(&fields.join(",")).is_ok_and(|request| request.length > 1 << 20) {
                return Ok(());
            }
            let _ = parse("t.csv", fields.join(",").as_bytes(), format);
        }
    }
}
