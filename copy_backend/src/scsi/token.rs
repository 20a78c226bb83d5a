//! POPULATE TOKEN, WRITE USING TOKEN, RECEIVE ROD TOKEN INFORMATION (SBC-3 5.7, 5.51; SPC-4 6.22): the commands, their
//! parameters, the answer.

use crate::scsi::error::ScsiError;
use crate::scsi::fields::Fields;
use crate::scsi::sense::Sense;

/// Operation code of all that start a third-party copy.
pub const THIRD_PARTY_OUT: u8 = 0x83;
/// Operation code of all that ask about one.
pub const THIRD_PARTY_IN: u8 = 0x84;
/// Service action of [`THIRD_PARTY_OUT`].
pub const POPULATE_TOKEN: u8 = 0x10;
/// Service action of [`THIRD_PARTY_OUT`].
pub const WRITE_USING_TOKEN: u8 = 0x11;
/// Service action of [`THIRD_PARTY_OUT`].
pub const COPY_OPERATION_ABORT: u8 = 0x1c;
/// Service action of [`THIRD_PARTY_IN`].
pub const RECEIVE_ROD_TOKEN_INFORMATION: u8 = 0x07;

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 512;
/// Room for every answer to RECEIVE ROD TOKEN INFORMATION: header, the longest sense data, one token with its list.
pub const ANSWER_BYTES: usize = 32 + 255 + 4 + 2 + TOKEN_BYTES;
/// Bytes of a range descriptor.
const RANGE_BYTES: usize = 16;
/// Where the ranges of POPULATE TOKEN begin.
const POPULATE_HEADER: usize = 16;
/// Where the ranges of WRITE USING TOKEN begin.
const WRITE_HEADER: usize = 536;
/// Most ranges that the length fields of both commands hold.
pub const MAX_RANGES: u32 = ((u16::MAX as usize - WRITE_HEADER) / RANGE_BYTES) as u32;

/// A representation of data.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8; TOKEN_BYTES]>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token of type {:#010x}", u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]]))
    }
}

/// Blocks of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
}

/// A command that starts an operation called `list_id`, with `len` bytes of parameters.
pub fn command(action: u8, list_id: u32, len: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = THIRD_PARTY_OUT;
    cdb[1] = action;
    cdb[6..10].copy_from_slice(&list_id.to_be_bytes());
    cdb[10..14].copy_from_slice(&len.to_be_bytes());
    cdb
}

/// RECEIVE ROD TOKEN INFORMATION about the operation `list_id`.
pub fn receive_command(list_id: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = THIRD_PARTY_IN;
    cdb[1] = RECEIVE_ROD_TOKEN_INFORMATION;
    cdb[2..6].copy_from_slice(&list_id.to_be_bytes());
    cdb[10..14].copy_from_slice(&(ANSWER_BYTES as u32).to_be_bytes());
    cdb
}

/// COPY OPERATION ABORT (SPC-4 6.3) of the operation `list_id`.
pub fn abort_command(list_id: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = THIRD_PARTY_OUT;
    cdb[1] = COPY_OPERATION_ABORT;
    cdb[2..6].copy_from_slice(&list_id.to_be_bytes());
    cdb
}

/// The parameters of POPULATE TOKEN. `immediate`: the command ends before the operation does. `inactivity`: how long the token
/// lives unused, in seconds; 0 leaves it to the device, and so is the type of the token.
pub fn populate(immediate: bool, inactivity: u32, ranges: &[Range]) -> Vec<u8> {
    let mut list = vec![0; POPULATE_HEADER];
    list[2] = u8::from(immediate);
    list[4..8].copy_from_slice(&inactivity.to_be_bytes());
    with_ranges(list, ranges)
}

/// The parameters of WRITE USING TOKEN: `offset` blocks into what the token stands for.
pub fn write(immediate: bool, offset: u64, token: &Token, ranges: &[Range]) -> Vec<u8> {
    let mut list = vec![0; WRITE_HEADER];
    list[2] = u8::from(immediate);
    list[8..16].copy_from_slice(&offset.to_be_bytes());
    list[16..16 + TOKEN_BYTES].copy_from_slice(&token.0[..]);
    with_ranges(list, ranges)
}

/// Adds the ranges behind a header and fills in both lengths: of all that follows the first field, and of the ranges.
fn with_ranges(mut list: Vec<u8>, ranges: &[Range]) -> Vec<u8> {
    let header = list.len();
    for range in ranges {
        list.extend(range.lba.to_be_bytes());
        list.extend(range.blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    // No more than MAX_RANGES: both lengths have 16 bits.
    list[header - 2..header].copy_from_slice(&((ranges.len() * RANGE_BYTES) as u16).to_be_bytes());
    let behind = (list.len() - 2) as u16;
    list[..2].copy_from_slice(&behind.to_be_bytes());
    list
}

/// What became of an operation so far (SPC-4 table 195).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Ended without errors; what was moved is the transfer count, which may be less than was asked for.
    Done,
    /// Ended with errors.
    Failed,
    /// Not ended.
    InProgress,
    /// Ended by an abort.
    Terminated,
}

/// The answer to RECEIVE ROD TOKEN INFORMATION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Information {
    /// The service action that it is about.
    pub action: u8,
    /// State of the operation.
    pub status: Status,
    /// In how many milliseconds to ask again; `None`: not said.
    pub delay_ms: Option<u32>,
    /// The SCSI status that the operation ended with.
    pub completion_status: u8,
    /// What the device says about its failure.
    pub sense: Option<Sense>,
    /// Blocks moved, or for a new token: the blocks that it stands for. `None`: counted in a unit that is not a whole number of blocks.
    pub blocks: Option<u64>,
    /// The token, when one was made.
    pub token: Option<Token>,
}

impl Information {
    /// Reads the answer of a unit with blocks of `block_size` bytes.
    ///
    /// # Errors
    /// Too short, or a status that the standard does not know.
    pub fn parse(bytes: &[u8], block_size: u32) -> Result<Self, ScsiError> {
        let fields = Fields::new("ROD token information", bytes);
        let available = usize::try_from(fields.u32(0)?).unwrap_or(usize::MAX).saturating_add(4);
        let fields = fields.at_most(0, available);
        let status = match fields.u8(5)? & 0x7f {
            0x01 | 0x03 | 0x04 => Status::Done,
            0x02 => Status::Failed,
            0x10..=0x12 => Status::InProgress,
            0x60 => Status::Terminated,
            _ => return Err(fields.malformed("the copy operation status is unknown")),
        };
        let (sense_field, sense_len) = (usize::from(fields.u8(13)?), usize::from(fields.u8(14)?));
        let sense = fields.at_most(32, sense_field.min(sense_len));
        Ok(Self {
            action: fields.u8(4)? & 0x1f,
            status,
            delay_ms: Some(fields.u32(8)?).filter(|delay| *delay < u32::MAX - 1),
            completion_status: fields.u8(12)?,
            sense: Sense::parse(sense.slice(0, sense.len())?),
            blocks: blocks(fields.u8(15)?, fields.u64(16)?, block_size),
            token: token(&fields, 32 + sense_field)?,
        })
    }
}

/// A transfer count in blocks (SPC-4 table 117).
fn blocks(unit: u8, count: u64, block_size: u32) -> Option<u64> {
    let bytes = match unit {
        0xf1 => return Some(count),
        0x00..=0x06 => count.checked_mul(1 << (10 * u32::from(unit)))?,
        _ => return None,
    };
    bytes.is_multiple_of(u64::from(block_size)).then(|| bytes / u64::from(block_size))
}

/// The first token of the list at `at`: four bytes of length, two reserved, the token. An answer may end before the list.
fn token(fields: &Fields, at: usize) -> Result<Option<Token>, ScsiError> {
    match fields.u32(at) {
        Err(_) | Ok(0) => Ok(None),
        Ok(len) if (len as usize) < 2 + TOKEN_BYTES => Err(fields.malformed("a token has less than 512 bytes")),
        Ok(_) => {
            let mut token = Box::new([0; TOKEN_BYTES]);
            token.copy_from_slice(fields.slice(at + 6, TOKEN_BYTES)?);
            Ok(Some(Token(token)))
        }
    }
}
