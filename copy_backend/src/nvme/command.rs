//! The Copy command to the byte. Pure. NVM Command Set Specification 1.1, section 3.3.2, figures 37 to 42.

/// Opcode of Copy.
pub const COPY: u8 = 0x19;
/// Most logical blocks in a source range: NLB has 16 bits and counts from 0.
pub const MOST_BLOCKS: u64 = 1 << 16;
/// Most source ranges: NR has 8 bits and counts from 0.
pub const MOST_RANGES: u32 = 1 << 8;

/// How many bits the guard of the protection information has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// With a reference tag of 32 bits: 8 bytes of protection information.
    Bits16,
    /// 16 bytes.
    Bits32,
    /// 16 bytes.
    Bits64,
}

impl Guard {
    /// Bytes of protection information with each block.
    pub fn bytes(self) -> u16 {
        if self == Self::Bits16 { 8 } else { 16 }
    }
}

/// End-to-end protection of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// 1, 2 or 3.
    pub kind: u8,
    /// Of the tuples.
    pub guard: Guard,
}

/// Source Range entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The entry is one of 40 bytes, for wide guards (formats 1 and 3); else of 32.
    pub wide: bool,
    /// The entry names a namespace (formats 2 and 3).
    pub across: bool,
}

impl Format {
    /// The number in CDW12 and the bit in OCFS and CDFE.
    pub fn number(self) -> u8 {
        u8::from(self.wide) | u8::from(self.across) << 1
    }
    fn entry_bytes(self) -> usize {
        if self.wide { 40 } else { 32 }
    }
}

/// One source range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its namespace; only formats across namespaces say it.
    pub nsid: u32,
    /// First logical block.
    pub lba: u64,
    /// How many, 1 to [`MOST_BLOCKS`].
    pub blocks: u64,
}

/// An I/O command as it is handed to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoCommand {
    /// Opcode.
    pub opcode: u8,
    /// Namespace.
    pub nsid: u32,
    /// CDW2 and CDW3.
    pub cdw2: [u32; 2],
    /// CDW10 to CDW15.
    pub cdw10: [u32; 6],
    /// What goes to the device.
    pub data: Vec<u8>,
}

/// Builds a Copy to `target` of namespace `nsid`.
///
/// With protection information the device checks the guards of what it reads and makes new tuples for what it writes (PRACT on
/// both sides): the reference tag of a block is its address, so tuples must not travel as they are.
pub fn copy(nsid: u32, target: u64, ranges: &[Range], format: Format, protection: Option<Protection>) -> IoCommand {
    let mut data = Vec::with_capacity(ranges.len() * format.entry_bytes());
    for range in ranges {
        let at = data.len();
        data.resize(at + format.entry_bytes(), 0);
        let entry = &mut data[at..];
        if format.across {
            entry[0..4].copy_from_slice(&range.nsid.to_le_bytes());
        }
        entry[8..16].copy_from_slice(&range.lba.to_le_bytes());
        entry[16..18].copy_from_slice(&((range.blocks.saturating_sub(1)) as u16).to_le_bytes());
    }
    let mut cdw12 = (ranges.len().saturating_sub(1) as u32 & 0xff) | u32::from(format.number()) << 8;
    let (mut cdw3, mut cdw14) = (0, 0);
    if let Some(Protection { kind, guard }) = protection {
        const PRACT_READ: u32 = 1 << 15;
        const CHECK_GUARD_READ: u32 = 1 << 14;
        const PRACT_WRITE: u32 = 1 << 29;
        cdw12 |= PRACT_READ | CHECK_GUARD_READ | PRACT_WRITE;
        if kind != 3 {
            cdw14 = target as u32;
            if guard == Guard::Bits64 {
                cdw3 = (target >> 32) as u32 & 0xffff;
            }
        }
    }
    let cdw10 = [target as u32, (target >> 32) as u32, cdw12, 0, cdw14, 0];
    IoCommand { opcode: COPY, nsid, cdw2: [0, cdw3], cdw10, data }
}
