//! What a controller and a namespace say of themselves. Pure; nothing in an answer is trusted further than its bytes reach.
//!
//! NVM Express Base Specification 2.1, figures 312 and 313 (Identify Controller); NVM Command Set Specification 1.1,
//! figures 114 (Identify Namespace) and 118 (the I/O Command Set specific one).

use super::command::Guard;

/// Bytes of every Identify data structure.
pub const IDENTIFY_BYTES: usize = 4096;

/// Of the controller: what matters for Copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// CNTLID, unique within the subsystem.
    pub id: u16,
    /// NQN of the subsystem: namespaces of one subsystem may reach each other.
    pub subsystem: String,
    /// ONCS bit 8: the Copy command is supported.
    pub copy: bool,
    /// OCFS: bit n for descriptor format n.
    pub formats: u16,
}

/// Of the namespace: what matters for Copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// NSZE, in logical blocks.
    pub blocks: u64,
    /// Bytes in a logical block, without metadata.
    pub block_size: u32,
    /// Bytes of metadata with each block.
    pub metadata: u16,
    /// Protection information type, 0 for none.
    pub protection: u8,
    /// MSSRL: most logical blocks in a source range; 0: no Copy.
    pub max_range: u16,
    /// MCL: most logical blocks in a command; 0: no Copy.
    pub max_command: u32,
    /// Most source ranges in a command (MSRC is 0's based).
    pub max_ranges: u32,
}

fn field<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = data.get(at..).and_then(|rest| rest.get(..N)).and_then(|found| found.try_into().ok());
    found.ok_or_else(|| format!("the Identify data end before byte {}", at + N))
}

fn u16_at(data: &[u8], at: usize) -> Result<u16, String> {
    field(data, at).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, String> {
    field(data, at).map(u32::from_le_bytes)
}

impl Controller {
    /// From the data of Identify CNS 01h.
    ///
    /// # Errors
    /// Data that are too short.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let name = field::<256>(data, 768)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Self {
            id: u16_at(data, 78)?,
            subsystem: String::from_utf8_lossy(name).trim_end().to_owned(),
            copy: u16_at(data, 520)? & (1 << 8) != 0,
            formats: u16_at(data, 534)?,
        })
    }

    /// Is a descriptor format among those offered?
    pub fn offers(&self, format: u8) -> bool {
        self.formats.checked_shr(format.into()).unwrap_or(0) & 1 != 0
    }
}

/// The index of the LBA format in use: FLBAS bits 3:0, and bits 6:5 above them.
fn format_index(flbas: u8) -> usize {
    usize::from(flbas & 0xf) | usize::from(flbas & 0x60) >> 1
}

impl Namespace {
    /// From the data of Identify CNS 00h.
    ///
    /// # Errors
    /// Data that are too short, of a namespace that is not active, or with blocks that cannot be.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let blocks = u64::from_le_bytes(field(data, 0)?);
        if blocks == 0 {
            return Err("the namespace is not active".into());
        }
        let format = format_index(field::<1>(data, 26)?[0]);
        let lbaf = u32_at(data, 128 + 4 * format)?;
        let shift = (lbaf >> 16) & 0xff;
        if !(9..=16).contains(&shift) {
            return Err(format!("the namespace has blocks of 2^{shift} bytes"));
        }
        Ok(Self {
            blocks,
            block_size: 1 << shift,
            metadata: lbaf as u16,
            protection: field::<1>(data, 29)?[0] & 7,
            max_range: u16_at(data, 74)?,
            max_command: u32_at(data, 76)?,
            max_ranges: u32::from(field::<1>(data, 80)?[0]) + 1,
        })
    }
}

/// The guard of the LBA format in use, from the data of Identify CNS 05h for the NVM command set, and FLBAS.
///
/// # Errors
/// Data that are too short, or a format that has no name yet.
pub fn guard(extended: &[u8], flbas: u8) -> Result<Guard, String> {
    match (u32_at(extended, 12 + 4 * format_index(flbas))? >> 7) & 3 {
        0 => Ok(Guard::Bits16),
        1 => Ok(Guard::Bits32),
        2 => Ok(Guard::Bits64),
        other => Err(format!("protection information of format {other} is not known")),
    }
}

/// FLBAS of Identify CNS 00h.
///
/// # Errors
/// Data that are too short.
pub fn flbas(data: &[u8]) -> Result<u8, String> {
    Ok(field::<1>(data, 26)?[0])
}
