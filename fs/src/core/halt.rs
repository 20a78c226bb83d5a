//! Why a plan stopped: a block that is not resident, or an error for the caller.

use crate::error::FsError;
use crate::ids::NodeId;

/// Identity of a metadata block, independent of where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockId {
    /// A node of the tree, or a raw page (segment table) that is stored like one.
    Node(NodeId),
    /// A page of the node map: level 0 maps nodes, level n maps pages of level n - 1.
    Map {
        /// Height.
        level: u8,
        /// Index within the level.
        index: u64,
    },
}

impl BlockId {
    /// Packed form for batch headers: level + 1 in the top byte for map pages, 0 for nodes.
    pub fn pack(self) -> u64 {
        match self {
            Self::Node(id) => id.0,
            Self::Map { level, index } => (u64::from(level) + 1) << 56 | index,
        }
    }
    /// The inverse of [`BlockId::pack`].
    pub fn unpack(word: u64) -> Self {
        let index = word & ((1 << 56) - 1);
        match (word >> 56) as u8 {
            0 => Self::Node(NodeId(index)),
            level => Self::Map { level: level - 1, index },
        }
    }
}

/// Why a plan stopped.
#[derive(Clone, Debug)]
pub enum Halt {
    /// This block must be resident: load it and plan again.
    Need(BlockId),
    /// The operation is refused.
    Fail(FsError),
}

impl From<BlockId> for Halt {
    fn from(id: BlockId) -> Self {
        Self::Need(id)
    }
}
impl From<FsError> for Halt {
    fn from(error: FsError) -> Self {
        Self::Fail(error)
    }
}

/// Result of planning.
pub type Planned<T> = std::result::Result<T, Halt>;
