//! Device-mapper tables: the text of a table as a layout (pure), and the ioctl that reads it.

use super::layout::{Layout, Mapping, Segment};
use super::resolve::DevNumber;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Bytes in a sector of a table.
const SECTOR: u64 = 512;

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLine {
    /// First sector of the device that it maps.
    pub start: u64,
    /// Sectors.
    pub len: u64,
    /// Name of the target ("linear").
    pub target: String,
    /// Its parameters, as the kernel prints them: devices as MAJOR:MINOR.
    pub params: String,
}

/// Why data cannot be moved below a target; `None` for those that are looked through.
fn opaque_target(target: &str) -> String {
    let why = match target {
        "crypt" => "encrypts what is below, each block with its address: moved blocks could not be read",
        "integrity" | "verity" => "keeps checksums of what is below: moved blocks would not match them",
        "mirror" | "raid" | "raid1" => "keeps several copies or parity below: a copy would have to be made in each of them",
        "snapshot" | "snapshot-origin" | "snapshot-merge" => "is a snapshot: its blocks are shared with another device",
        "thin" | "thin-pool" | "vdo" => "gives blocks a place only when they are written",
        "cache" | "writecache" | "ebs" | "bcache" => "keeps newer data in a cache than what is below",
        "zoned" => "keeps blocks where it likes",
        "zero" | "error" => "has nothing below it",
        "flakey" | "delay" | "dust" | "log-writes" => "is there to see or to spoil every write",
        "clone" | "era" => "keeps account of what was written",
        _ => "is of a kind that FerryFS cannot look through",
    };
    format!("dm-{target} {why}")
}

/// The layout that a table describes. `below` says how the device with a number lies on real ones.
///
/// # Errors
/// In words: lines that do not follow one another, or parameters that make no sense.
pub(super) fn layout_of(table: &[TableLine], below: &mut dyn FnMut(DevNumber) -> Arc<Layout>) -> Result<Layout, String> {
    let mut segments = Vec::with_capacity(table.len());
    let mut next = 0u64;
    for line in table {
        if line.start != next {
            return Err(format!("its table has a hole before sector {}", line.start));
        }
        next = line.start.checked_add(line.len).ok_or("its table is longer than any device")?;
        let len = line.len.checked_mul(SECTOR).ok_or("its table is longer than any device")?;
        let on =
            mapping_of(line, below).map_err(|reason| format!("its table has a line that cannot be read ({reason}): {}", line.params))?;
        segments.push(Segment { len, on });
    }
    if segments.is_empty() { Err("it has no table".into()) } else { Ok(Layout::Segments(segments)) }
}

fn mapping_of(line: &TableLine, below: &mut dyn FnMut(DevNumber) -> Arc<Layout>) -> Result<Mapping, String> {
    let mut words = line.params.split_whitespace();
    match line.target.as_str() {
        "linear" => {
            let device = device_number(words.next())?;
            let offset = sectors(words.next())?;
            Ok(Mapping::Linear { below: below(device), offset })
        }
        "striped" => {
            let count = number(words.next())?;
            let chunk = sectors(words.next())?;
            if count == 0 || count > 1024 || chunk == 0 {
                return Err(format!("{count} stripes of {chunk} bytes"));
            }
            let mut legs = Vec::new();
            for _ in 0..count {
                let device = device_number(words.next())?;
                legs.push((below(device), sectors(words.next())?));
            }
            Ok(Mapping::Striped { chunk, legs })
        }
        "multipath" => multipath(&line.params, below),
        target => Ok(Mapping::Opaque(opaque_target(target))),
    }
}

/// All paths lead to the same blocks: the first one that leads to a real device is taken.
/// `FEATURES.. HANDLER.. GROUPS FIRST { SELECTOR n ARGS.. PATHS ARGS_EACH { DEVICE ARGS.. } }`, with counts before each list.
fn multipath(params: &str, below: &mut dyn FnMut(DevNumber) -> Arc<Layout>) -> Result<Mapping, String> {
    let words: Vec<&str> = params.split_whitespace().collect();
    let mut words = words.into_iter();
    for _ in 0..2 {
        for _ in 0..number(words.next())? {
            words.next().ok_or("a list ends early")?;
        }
    }
    let groups = number(words.next())?;
    number(words.next())?;
    let mut paths = Vec::new();
    for _ in 0..groups {
        words.next().ok_or("a path selector is missing")?;
        for _ in 0..number(words.next())? {
            words.next().ok_or("a list ends early")?;
        }
        let (count, args) = (number(words.next())?, number(words.next())?);
        for _ in 0..count {
            paths.push(device_number(words.next())?);
            for _ in 0..args {
                words.next().ok_or("a list ends early")?;
            }
        }
    }
    let below = paths.into_iter().map(below).find(|path| matches!(**path, Layout::Real(_)));
    below.map(|below| Mapping::Linear { below, offset: 0 }).ok_or_else(|| "no path leads to a real device".into())
}

fn number(word: Option<&str>) -> Result<u64, String> {
    word.and_then(|word| word.parse().ok()).ok_or_else(|| "a number is missing".into())
}

fn sectors(word: Option<&str>) -> Result<u64, String> {
    number(word)?.checked_mul(SECTOR).ok_or_else(|| "a number is too large".into())
}

fn device_number(word: Option<&str>) -> Result<DevNumber, String> {
    word.and_then(DevNumber::parse).ok_or_else(|| "a device is missing".into())
}

/// Device-mapper's `struct dm_ioctl` (linux/dm-ioctl.h), version 4.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}
const HEADER: usize = std::mem::size_of::<Header>();
const _: () = assert!(HEADER == 312);

/// `_IOWR(0xfd, 12, struct dm_ioctl)`.
const DM_TABLE_STATUS: u64 = 0xc138_fd0c;
const SUSPENDED: u32 = 1 << 1;
const STATUS_TABLE: u32 = 1 << 4;
const BUFFER_FULL: u32 = 1 << 8;
const NO_FLUSH: u32 = 1 << 11;
const MOST_BYTES: usize = 16 << 20;

/// The table of a dm device and the number of events that it has had.
///
/// # Errors
/// In words: no right to ask, or no such device.
pub(super) fn read_table(device: DevNumber) -> Result<(u32, Vec<TableLine>), String> {
    let control = std::fs::OpenOptions::new().read(true).write(true).open("/dev/mapper/control");
    let control = control.map_err(|error| format!("its table cannot be read: open /dev/mapper/control: {error} (root may do it)"))?;
    let mut size = 16 << 10;
    loop {
        let answer = table_status(&control, device, size)?;
        let flags = word(&answer, 28)?;
        if flags & BUFFER_FULL != 0 && size < MOST_BYTES {
            size *= 4;
            continue;
        }
        if flags & SUSPENDED != 0 {
            return Err("it is suspended: its table is being changed".into());
        }
        return parse_answer(&answer);
    }
}

fn table_status(control: &File, device: DevNumber, size: usize) -> Result<Vec<u8>, String> {
    // As u64 so that the buffer is aligned for the kernel's structs.
    let mut buffer = vec![0u64; size / 8];
    let (major, minor) = (u64::from(device.major), u64::from(device.minor));
    let header = Header {
        version: [4, 0, 0],
        data_size: size as u32,
        data_start: HEADER as u32,
        target_count: 0,
        open_count: 0,
        flags: STATUS_TABLE | NO_FLUSH,
        event_nr: 0,
        padding: 0,
        dev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    // SAFETY: the buffer is larger than the header and aligned for it.
    unsafe { buffer.as_mut_ptr().cast::<Header>().write(header) };
    // SAFETY: the kernel reads and writes at most `data_size` bytes, the size of the buffer, which outlives the call.
    let outcome = unsafe { libc::ioctl(control.as_raw_fd(), DM_TABLE_STATUS as _, buffer.as_mut_ptr()) };
    if outcome != 0 {
        return Err(format!("its table cannot be read: {}", std::io::Error::last_os_error()));
    }
    Ok(buffer.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

fn bytes<const N: usize>(answer: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = answer.get(at..).and_then(|rest| rest.get(..N)).and_then(|found| found.try_into().ok());
    found.ok_or_else(|| "device-mapper gave an answer that is too short".into())
}

fn word(answer: &[u8], at: usize) -> Result<u32, String> {
    Ok(u32::from_ne_bytes(bytes(answer, at)?))
}

fn long(answer: &[u8], at: usize) -> Result<u64, String> {
    Ok(u64::from_ne_bytes(bytes(answer, at)?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// Header and `struct dm_target_spec`s as the kernel gives them.
fn parse_answer(answer: &[u8]) -> Result<(u32, Vec<TableLine>), String> {
    let (start, count, event) = (word(answer, 16)? as usize, word(answer, 20)?, word(answer, 32)?);
    let data = answer.get(start..).unwrap_or_default();
    let mut lines = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (sector, len, next) = (long(data, at)?, long(data, at + 8)?, word(data, at + 20)? as usize);
        let target = text(&bytes::<16>(data, at + 24)?);
        let params = text(data.get(at + 40..).unwrap_or_default()).trim().to_owned();
        lines.push(TableLine { start: sector, len, target, params });
        if next <= at {
            break;
        }
        at = next;
    }
    if lines.len() == count as usize { Ok((event, lines)) } else { Err("device-mapper gave an answer that makes no sense".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_read_to_the_byte() {
        let mut answer = vec![0u8; HEADER + 200];
        answer[16..20].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        answer[20..24].copy_from_slice(&2u32.to_ne_bytes());
        answer[32..36].copy_from_slice(&7u32.to_ne_bytes());
        let line = |answer: &mut [u8], at: usize, start: u64, len: u64, next: u32, target: &str, params: &str| {
            let at = HEADER + at;
            answer[at..at + 8].copy_from_slice(&start.to_ne_bytes());
            answer[at + 8..at + 16].copy_from_slice(&len.to_ne_bytes());
            answer[at + 20..at + 24].copy_from_slice(&next.to_ne_bytes());
            answer[at + 24..at + 24 + target.len()].copy_from_slice(target.as_bytes());
            answer[at + 40..at + 40 + params.len()].copy_from_slice(params.as_bytes());
        };
        line(&mut answer, 0, 0, 100, 56, "linear", "259:1 2048");
        line(&mut answer, 56, 100, 50, 112, "crypt", "aes 0 259:1 0");
        let (event, lines) = parse_answer(&answer).unwrap();
        assert_eq!(event, 7);
        let expected = |start, len, target: &str, params: &str| TableLine { start, len, target: target.into(), params: params.into() };
        assert_eq!(lines, [expected(0, 100, "linear", "259:1 2048"), expected(100, 50, "crypt", "aes 0 259:1 0")]);
        for len in 0..answer.len() {
            // Cut anywhere: an error or an answer, no panic.
            let _ = parse_answer(&answer[..len]);
        }
        answer[HEADER + 20..HEADER + 24].copy_from_slice(&0u32.to_ne_bytes());
        assert!(parse_answer(&answer).is_err(), "an entry that points to itself");
    }
}
