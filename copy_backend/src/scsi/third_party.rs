//! The third-party copy page 8Fh (SPC-4 7.8.17, SBC-3 6.5.7): which token commands a unit knows, and within which limits.

use crate::scsi::error::ScsiError;
use crate::scsi::fields::Fields;

const BLOCK_ROD_LIMITS: u16 = 0x0000;
const SUPPORTED_COMMANDS: u16 = 0x0001;
const ROD_TOKEN_FEATURES: u16 = 0x0106;

/// Limits of tokens over blocks (descriptor 0000h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// Most ranges in one command; `None`: not said.
    pub max_ranges: Option<u16>,
    /// Longest inactivity timeout that may be asked for, in seconds.
    pub max_inactivity: u32,
    /// The one that a token gets where none is asked for, in seconds.
    pub default_inactivity: u32,
    /// Most blocks of one token; `None`: not said.
    pub max_blocks: Option<u64>,
    /// What the device likes best; `None`: not said.
    pub optimal_blocks: Option<u64>,
}

/// What the page says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThirdPartyCopy {
    /// Limits, where tokens over blocks are known at all.
    pub limits: Option<TokenLimits>,
    /// Operation codes with their service actions.
    pub commands: Vec<(u8, Vec<u8>)>,
    /// The REMOTE TOKENS field: 0 where tokens of other copy managers are not taken. `None`: not said.
    pub remote_tokens: Option<u8>,
}

impl ThirdPartyCopy {
    /// Reads the body of the page (behind its four bytes of header). Descriptors of other types are passed over.
    ///
    /// # Errors
    /// A descriptor of a known type that is too short.
    pub fn parse(body: &[u8]) -> Result<Self, ScsiError> {
        let fields = Fields::new("third-party copy page", body);
        let mut page = Self::default();
        let mut at = 0;
        while let (Ok(kind), Ok(len)) = (fields.u16(at), fields.u16(at + 2)) {
            let descriptor = fields.at_most(at, 4 + usize::from(len));
            match kind {
                BLOCK_ROD_LIMITS => page.limits = Some(TokenLimits::parse(&descriptor)?),
                SUPPORTED_COMMANDS => page.commands = commands(&descriptor)?,
                ROD_TOKEN_FEATURES => page.remote_tokens = Some(descriptor.u8(4)? & 0xf),
                _ => {}
            }
            at += 4 + usize::from(len);
        }
        Ok(page)
    }

    /// Does the unit say that it knows this service action of this operation code?
    pub fn knows(&self, operation: u8, action: u8) -> bool {
        self.commands.iter().any(|(code, actions)| *code == operation && actions.contains(&action))
    }
}

impl TokenLimits {
    fn parse(descriptor: &Fields) -> Result<Self, ScsiError> {
        let said = |value: u64| (value != 0).then_some(value);
        Ok(Self {
            max_ranges: Some(descriptor.u16(10)?).filter(|count| *count != 0),
            max_inactivity: descriptor.u32(12)?,
            default_inactivity: descriptor.u32(16)?,
            max_blocks: said(descriptor.u64(20)?),
            optimal_blocks: said(descriptor.u64(28)?),
        })
    }
}

fn commands(descriptor: &Fields) -> Result<Vec<(u8, Vec<u8>)>, ScsiError> {
    let list = descriptor.at_most(5, usize::from(descriptor.u8(4)?));
    let mut found = Vec::new();
    let mut at = 0;
    while let (Ok(operation), Ok(count)) = (list.u8(at), list.u8(at + 1)) {
        let actions = list.at_most(at + 2, usize::from(count));
        found.push((operation, actions.slice(0, actions.len())?.to_vec()));
        at += 2 + usize::from(count);
    }
    Ok(found)
}
