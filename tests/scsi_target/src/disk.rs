//! One disk: its configuration and its medium.

use crate::refusal::{Code, Key, Refusal};
use crate::{u16_at, u32_at, u64_at};
use std::collections::VecDeque;
use std::ops::Range;

/// What EXTENDED COPY takes.
#[derive(Clone, Debug)]
pub struct XcopyConfig {
    /// List identifiers may be left out.
    pub no_list_id: bool,
    /// Most CSCD descriptors.
    pub max_cscds: u16,
    /// Most segments.
    pub max_segments: u16,
    /// Most bytes of both lists.
    pub max_list_bytes: u32,
    /// Most bytes of a segment; 0: no limit.
    pub max_segment_bytes: u32,
    /// Say so in RECEIVE COPY OPERATING PARAMETERS; else only the limits are enforced, and 0 is said.
    pub advertised: bool,
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The data as it was when the token was made.
    PointInTime,
    /// The same, but a write to the data revokes the token.
    ChangeVulnerable,
    /// Whatever is there when the token is used.
    AccessUponReference,
}

/// How tokens behave.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// What they stand for.
    pub kind: TokenKind,
    /// Most ranges in one command; 0: not said and not enforced.
    pub max_ranges: u16,
    /// Most blocks of a token; 0: not said and not enforced.
    pub max_blocks: u64,
    /// A token stands for no more blocks than this, whatever was asked for (0: for all).
    pub truncate_at: u64,
    /// Seconds after which an unused token expires, where nobody asks for another time.
    pub default_inactivity: u32,
    /// Most seconds that may be asked for.
    pub max_inactivity: u32,
    /// Milliseconds that an operation takes.
    pub operation_ms: u64,
    /// IMMED is understood.
    pub immediate: bool,
    /// Tokens of other disks are taken.
    pub remote: bool,
    /// Most operations whose result is kept.
    pub held_operations: usize,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Blocks.
    pub blocks: u64,
    /// Bytes in a block.
    pub block_size: u32,
    /// Peripheral device type.
    pub device_type: u8,
    /// Descriptors of page 83h, as they are.
    pub designators: Vec<u8>,
    /// EXTENDED COPY.
    pub xcopy: Option<XcopyConfig>,
    /// Tokens.
    pub tokens: Option<TokenConfig>,
    /// Sense data in descriptor format.
    pub descriptor_sense: bool,
}

impl Default for XcopyConfig {
    fn default() -> Self {
        Self { no_list_id: true, max_cscds: 2, max_segments: 8, max_list_bytes: 4096, max_segment_bytes: 0, advertised: true }
    }
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            kind: TokenKind::PointInTime,
            max_ranges: 8,
            max_blocks: 4096,
            truncate_at: 0,
            default_inactivity: 30,
            max_inactivity: 600,
            operation_ms: 0,
            immediate: true,
            remote: true,
            held_operations: 16,
        }
    }
}

impl DiskConfig {
    /// A disk of `blocks` blocks with the NAA name `6...number`, that does EXTENDED COPY and tokens.
    pub fn new(number: u8, blocks: u64, block_size: u32) -> Self {
        let mut name = [0x11; 16];
        (name[0], name[15]) = (0x60, number);
        let mut designators = vec![0x01, 0x03, 0, 16];
        designators.extend(name);
        Self {
            blocks,
            block_size,
            device_type: 0,
            designators,
            xcopy: Some(XcopyConfig::default()),
            tokens: Some(TokenConfig::default()),
            descriptor_sense: false,
        }
    }

    /// Does the page of names hold this one (of the unit itself)?
    pub(crate) fn is_named(&self, kind: u8, name: &[u8]) -> bool {
        let mut rest = &self.designators[..];
        while let [_, flags, _, len, tail @ ..] = rest {
            let len = usize::from(*len).min(tail.len());
            if flags & 0x3f == kind && &tail[..len] == name {
                return true;
            }
            rest = &tail[len..];
        }
        false
    }
}

/// A disk and its medium.
#[derive(Debug)]
pub(crate) struct Disk {
    pub config: DiskConfig,
    pub bytes: Vec<u8>,
    pub attentions: VecDeque<Code>,
}

impl Disk {
    pub fn new(config: DiskConfig) -> Self {
        let len = config.blocks * u64::from(config.block_size);
        Self { bytes: vec![0; len as usize], config, attentions: VecDeque::new() }
    }

    /// Where blocks lie in `bytes`.
    pub fn range(&self, lba: u64, blocks: u64) -> Result<Range<usize>, Refusal> {
        let end = lba.checked_add(blocks).filter(|end| *end <= self.config.blocks);
        let end = end.ok_or(Refusal::check(Key::IllegalRequest, Code::OUT_OF_RANGE))?;
        let block = u64::from(self.config.block_size);
        Ok((lba * block) as usize..(end * block) as usize)
    }
}

/// First block and number of blocks of READ and WRITE.
pub(crate) fn transfer(cdb: &[u8]) -> Result<(u64, u64), Refusal> {
    let fields = match cdb.first() {
        Some(0x08 | 0x0a) => u32_at(cdb, 0).zip(cdb.get(4)).map(|(lba, blocks)| {
            let blocks = if *blocks == 0 { 256 } else { u64::from(*blocks) };
            (u64::from(lba & 0x1f_ffff), blocks)
        }),
        Some(0x28 | 0x2a) => u32_at(cdb, 2).zip(u16_at(cdb, 7)).map(|(lba, blocks)| (u64::from(lba), u64::from(blocks))),
        Some(0xa8 | 0xaa) => u32_at(cdb, 2).zip(u32_at(cdb, 6)).map(|(lba, blocks)| (u64::from(lba), u64::from(blocks))),
        _ => u64_at(cdb, 2).zip(u32_at(cdb, 10)).map(|(lba, blocks)| (lba, u64::from(blocks))),
    };
    fields.ok_or(Refusal::check(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB))
}
