//! What a repair can do: typed, like what a check can find.

use crate::addr::Addr;
use crate::ids::Ino;
use serde::Serialize;
use thiserror::Error;

/// One thing done.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
#[serde(tag = "repair", rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Repair {
    // --- structure ----------------------------------------------------------------------------------------------------------
    #[error(
        "checkpoint {generation} is taken, because no newer one can be used: what was done after it is lost but for what its log still holds"
    )]
    OlderCheckpoint { generation: u64 },
    #[error("the log ends earlier: {reason}; what was done after that is lost")]
    LogEnded { reason: String },
    #[error("what the log says is left out where it cannot be applied: {reason}")]
    LeftOut { reason: String },
    #[error("page {page} of the segment table is made anew from what lies in its zones")]
    SegmentPage { page: u32 },
    #[error("page {index} of level {level} of the node map is empty now: what its nodes held is lost ({reason})")]
    MapPage { level: u8, index: u64, reason: String },
    #[error("the node map no longer has node {id}, which cannot be where it said")]
    MapEntry { id: u64 },
    #[error("what node {id} held, {first} to {last}, is lost ({reason})")]
    Node { id: u64, first: String, last: String, reason: String },
    #[error("node {id}, to which nothing leads, is dropped")]
    UnreachableNode { id: u64 },
    #[error("{count} free node ids are in the chain of free ids again")]
    FreeIds { count: u64 },
    #[error("metadata block {id} moves to a place where cleaning finds it")]
    Moved { id: String },
    #[error("item {key} is removed: it cannot be decoded")]
    Item { key: String },

    // --- inodes and names ---------------------------------------------------------------------------------------------------
    #[error("a root directory is made")]
    Root,
    #[error("inode {ino}, of which only {left} are left, is made anew as a {kind} that only the owner of the root directory can use")]
    MadeAnew { ino: Ino, kind: &'static str, left: &'static str },
    #[error("{what} of inode {ino} is {to} now, it was {from}")]
    Inode { ino: Ino, what: &'static str, from: u64, to: u64 },
    #[error("inode {ino} is removed: it {reason}")]
    InodeRemoved { ino: Ino, reason: &'static str },
    #[error("{what} of inode {ino} are removed, because it {reason}")]
    Belongings { ino: Ino, what: &'static str, reason: &'static str },
    #[error("inode {ino} has the name /{directory}/{name} now")]
    Reattached { ino: Ino, directory: String, name: String },
    #[error("entry {name:?} of directory {dir} is removed: {reason}")]
    EntryRemoved { dir: Ino, name: String, reason: &'static str },
    #[error("entry {name:?} of directory {dir} says type {to} now, it said {from}")]
    EntryKind { dir: Ino, name: String, from: u8, to: u8 },
    #[error("entry {name:?} of directory {dir} lies where a search for it looks")]
    EntryPlace { dir: Ino, name: String },
    #[error("inode {ino}, which has no name, is freed")]
    Orphan { ino: Ino },
    #[error("an intent of inode {ino} is dropped: it {reason}")]
    Intent { ino: Ino, reason: &'static str },
    #[error("attribute {name:?} of inode {ino} is removed: it {reason}")]
    AttributeRemoved { ino: Ino, name: String, reason: &'static str },
    #[error("the {list} access control list of inode {ino} {done}")]
    AccessList { ino: Ino, list: &'static str, done: &'static str },

    // --- content ------------------------------------------------------------------------------------------------------------
    #[error("some of the content of inode {ino} is lost: reading where it has a hole gives an error until it is emptied")]
    ContentLost { ino: Ino },
    #[error("what inode {ino} has beyond block {from} is cut off")]
    CutOff { ino: Ino, from: u64 },
    #[error("{blocks} blocks of inode {ino} from block {block} on are cut out: {reason}")]
    ExtentCut { ino: Ino, block: u64, blocks: u64, reason: &'static str },
    #[error("a summary says that {addr} and {blocks} blocks from there on are those of inode {ino}")]
    Summary { addr: Addr, blocks: u32, ino: Ino },
    #[error("the summary at {addr} is removed: it {reason}")]
    SummaryRemoved { addr: Addr, reason: &'static str },
    #[error("checksums of inode {ino} from block {block} on are removed")]
    Checksums { ino: Ino, block: u64 },

    // --- zones and totals ---------------------------------------------------------------------------------------------------
    #[error("the segment table says that zone {zone} has {to} live blocks, it said {from}")]
    LiveCount { zone: Addr, from: u32, to: u32 },
    #[error("the segment table says of zone {zone} what is in it")]
    Zone { zone: Addr },
    #[error("the superblock says {to} {what}, it said {from}")]
    Total { what: &'static str, from: u64, to: u64 },
}
