//! What a check can find: typed, so that a test (or a repair) can tell one kind of damage from another.

use crate::addr::Addr;
use crate::ids::Ino;
use serde::Serialize;
use thiserror::Error;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing, as it should be.
    Info,
    /// Nothing is lost, but something is not as it should be (space that cannot be used, a name without use).
    Warning,
    /// Something is lost, or would be by going on.
    Error,
}

/// One thing found. Blocks of files are counted from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Finding {
    // --- devices, superblocks, log ------------------------------------------------------------------------------------------
    #[error("device {device}: the superblock in slot {slot} of ring zone {zone} is damaged ({reason}); newer ones are whole")]
    OldSuperblock { device: u8, zone: u32, slot: u32, reason: String },
    #[error("device {device}: the last superblock of ring zone {zone}, in slot {slot}, was not written to its end: a power cut")]
    TornSuperblock { device: u8, zone: u32, slot: u32 },
    #[error("device {device}: the last superblock of ring zone {zone}, in slot {slot}, is damaged ({reason}); an older one is in use")]
    NewestSuperblock { device: u8, zone: u32, slot: u32, reason: String },
    #[error("device {device}: zone {zone} of the superblock ring cannot be read: {reason}")]
    RingUnreadable { device: u8, zone: u32, reason: String },
    #[error("device {device} is at checkpoint {generation}, the volume at {newest}: power was cut between the two")]
    BehindByOne { device: u8, generation: u64, newest: u64 },
    #[error("device {device}: the zones cannot be listed: {reason}")]
    NoZoneReport { device: u8, reason: String },
    #[error("the log begins at {addr}, which {reason}")]
    LogStart { addr: Addr, reason: &'static str },
    #[error("{reason}")]
    CheckpointLost { reason: String },
    #[error("nothing can be found: {reason}")]
    NothingFound { reason: String },
    #[error("{reason}")]
    LogDamaged { reason: String },
    #[error("the log cannot be rolled forward: {reason}")]
    NotReplayed { reason: String },

    // --- node map and tree --------------------------------------------------------------------------------------------------
    #[error("page {index} of level {level} of the node map, at {addr}: {reason}")]
    MapPage { level: u8, index: u64, addr: Addr, reason: String },
    #[error("the node map has {id} at {addr}, which {reason}")]
    MapEntry { id: String, addr: Addr, reason: String },
    #[error("the node map has both {first} and {second} at {addr}")]
    MapTwice { first: String, second: String, addr: Addr },
    #[error("the node map has node {id}, which was never given out")]
    MapBeyondEnd { id: u64 },
    #[error("node {id} lies at {addr} and nothing leads to it")]
    UnreachableNode { id: u64, addr: Addr },
    #[error("the chain of free node ids breaks at {id}: {reason}")]
    FreeChain { id: u64, reason: &'static str },
    #[error("{count} free node ids are not in the chain of free ids")]
    FreeIdsLost { count: u64 },
    #[error("page {page} of the segment table: {reason}")]
    SegmentPage { page: u32, reason: String },
    #[error("metadata block {addr} is not named by a header of its zone: cleaning would not find it")]
    NotInHeader { addr: Addr },
    #[error("node {id}, which holds {first} to {last}: {reason}")]
    Node { id: u64, first: String, last: String, reason: String },
    #[error("item {key} cannot be decoded")]
    Item { key: String },

    // --- inodes and names ---------------------------------------------------------------------------------------------------
    #[error("there is no root directory")]
    NoRoot,
    #[error("inode {ino} has number {ino}, but the first unused number is {next_ino}")]
    InoNeverGiven { ino: Ino, next_ino: u64 },
    #[error("inode {ino}: {reason}")]
    Inode { ino: Ino, reason: &'static str },
    #[error("inode {ino} has {counted} links, it says {recorded}")]
    LinkCount { ino: Ino, recorded: u32, counted: u64 },
    #[error("inode {ino} has no name, it says {links} links")]
    Unnamed { ino: Ino, links: u32 },
    #[error("directory {ino} has {counted} entries, it says {recorded}")]
    EntryCount { ino: Ino, recorded: u64, counted: u64 },
    #[error("directory {ino} has {names} names")]
    ManyNames { ino: Ino, names: u64 },
    #[error("directory {ino} lies in directory {found}, it says {recorded}")]
    Parent { ino: Ino, recorded: Ino, found: Ino },
    #[error("directory {ino} lies within itself")]
    Loop { ino: Ino },
    #[error("inode {ino} has no link and waits to be freed")]
    Orphan { ino: Ino },
    #[error("inode {ino} has no link, and no intent to free it")]
    LostOrphan { ino: Ino },
    #[error("inode {ino} has an intent that {reason}")]
    Intent { ino: Ino, reason: &'static str },
    #[error("entry {name:?} of directory {dir} leads to inode {ino}, which does not exist")]
    DanglingEntry { dir: Ino, name: String, ino: Ino },
    #[error("entry {name:?} of inode {dir}, which is no directory")]
    EntryOfNothing { dir: Ino, name: String },
    #[error("entry {name:?} of directory {dir} says type {recorded}, inode {ino} has type {found}")]
    EntryKind { dir: Ino, name: String, ino: Ino, recorded: u8, found: u8 },
    #[error("entry {name:?} of directory {dir} lies at cookie {cookie:#x}, where a search for it does not look")]
    EntryPlace { dir: Ino, name: String, cookie: u64 },
    #[error("directory {dir} has two entries {name:?}")]
    EntryTwice { dir: Ino, name: String },
    #[error("directory {dir} has an entry {name:?}: {reason}")]
    EntryName { dir: Ino, name: String, reason: &'static str },
    #[error("symbolic link {ino} has a target of {found} bytes, it says {recorded}")]
    Target { ino: Ino, recorded: u64, found: u64 },
    #[error("inode {ino} has {count} attributes of {names} bytes of names, it says {recorded_count} of {recorded_names}")]
    AttributeTotals { ino: Ino, count: u32, names: u32, recorded_count: u32, recorded_names: u32 },
    #[error("attribute {name:?} of inode {ino}: {reason}")]
    Attribute { ino: Ino, name: String, reason: &'static str },
    #[error("the {list} access control list of inode {ino} {reason}")]
    AccessList { ino: Ino, list: &'static str, reason: &'static str },
    #[error(
        "inode {ino} has lost some of its content in an earlier repair: reading where it has a hole gives an error until it is emptied"
    )]
    ContentLost { ino: Ino },
    #[error("{what} of inode {ino}, which {reason}")]
    Belongings { ino: Ino, what: &'static str, reason: &'static str },

    // --- data ---------------------------------------------------------------------------------------------------------------
    #[error("inode {ino} takes {counted} blocks, it says {recorded}")]
    BlockCount { ino: Ino, recorded: u64, counted: u64 },
    #[error("inode {ino} has data up to block {end}, its size is {size} bytes")]
    BeyondEnd { ino: Ino, size: u64, end: u64 },
    #[error("extents of inode {ino} overlap at block {block}")]
    ExtentOverlap { ino: Ino, block: u64 },
    #[error("the extent of inode {ino} at block {block}, {blocks} blocks at {addr}, {reason}")]
    Extent { ino: Ino, block: u64, blocks: u32, addr: Addr, reason: &'static str },
    #[error("{addr} belongs to inode {ino} at block {block} and to inode {other} at block {other_block}")]
    OwnedTwice { addr: Addr, ino: Ino, block: u64, other: Ino, other_block: u64 },
    #[error("data of inode {ino} at block {block} and metadata both lie at {addr}")]
    DataOverMetadata { addr: Addr, ino: Ino, block: u64 },
    #[error("no summary says that {addr} and {blocks} blocks from there on are those of inode {ino} from block {block} on")]
    NoSummary { addr: Addr, blocks: u32, ino: Ino, block: u64 },
    #[error("the summary gives {addr} to inode {summary_ino} at block {summary_block}, it is inode {ino}'s at block {block}")]
    WrongSummary { addr: Addr, ino: Ino, block: u64, summary_ino: Ino, summary_block: u64 },
    #[error("the summary at {addr} {reason}")]
    Summary { addr: Addr, reason: &'static str },
    #[error("no checksum for {blocks} blocks of inode {ino} from block {block} on")]
    NoChecksum { ino: Ino, block: u64, blocks: u32 },
    #[error("checksums of inode {ino} from block {block} on, where it has no data")]
    StrayChecksums { ino: Ino, block: u64 },
    #[error("data of inode {ino} at block {block} is not what its checksum says; it lies at {addr}")]
    Data { ino: Ino, block: u64, addr: Addr },
    #[error("data of inode {ino} at block {block} cannot be read from {addr}: {reason}")]
    Unreadable { ino: Ino, block: u64, addr: Addr, reason: String },

    // --- zones and totals ---------------------------------------------------------------------------------------------------
    #[error("zone {zone} has {counted} live blocks, the segment table says {recorded}")]
    LiveCount { zone: Addr, counted: u32, recorded: u32 },
    #[error("zone {zone} has a live block at {block}, the segment table says that {written} blocks were written")]
    BeyondWritten { zone: Addr, block: u32, written: u32 },
    #[error("zone {zone}: {reason}")]
    Zone { zone: Addr, reason: &'static str },
    #[error("zone {zone} has a live block at {block}, the write pointer of the device is at {pointer}")]
    WritePointer { zone: Addr, block: u32, pointer: u32 },
    #[error("zone {zone} is {state} and holds {live} live blocks")]
    ZoneFailed { zone: Addr, state: &'static str, live: u32 },
    #[error("the volume has {counted} {what}, the superblock says {recorded}")]
    Total { what: &'static str, recorded: u64, counted: u64 },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::TornSuperblock { .. }
            | Self::OldSuperblock { .. }
            | Self::BehindByOne { .. }
            | Self::Orphan { .. }
            | Self::ContentLost { .. }
            | Self::FreeIdsLost { .. } => Severity::Info,
            Self::UnreachableNode { .. }
            | Self::FreeChain { .. }
            | Self::AccessList { .. }
            | Self::NotInHeader { .. }
            | Self::Intent { .. }
            | Self::BeyondEnd { .. }
            | Self::StrayChecksums { .. }
            | Self::Summary { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// The inode that it is about, for its path.
    pub fn ino(&self) -> Option<Ino> {
        match *self {
            Self::InoNeverGiven { ino, .. }
            | Self::Inode { ino, .. }
            | Self::LinkCount { ino, .. }
            | Self::Unnamed { ino, .. }
            | Self::EntryCount { ino, .. }
            | Self::ManyNames { ino, .. }
            | Self::Parent { ino, .. }
            | Self::Target { ino, .. }
            | Self::AttributeTotals { ino, .. }
            | Self::Attribute { ino, .. }
            | Self::Belongings { ino, .. }
            | Self::AccessList { ino, .. }
            | Self::ContentLost { ino }
            | Self::BlockCount { ino, .. }
            | Self::BeyondEnd { ino, .. }
            | Self::ExtentOverlap { ino, .. }
            | Self::Extent { ino, .. }
            | Self::OwnedTwice { ino, .. }
            | Self::DataOverMetadata { ino, .. }
            | Self::NoSummary { ino, .. }
            | Self::WrongSummary { ino, .. }
            | Self::NoChecksum { ino, .. }
            | Self::StrayChecksums { ino, .. }
            | Self::Data { ino, .. }
            | Self::Unreadable { ino, .. } => Some(ino),
            Self::DanglingEntry { dir, .. }
            | Self::EntryOfNothing { dir, .. }
            | Self::EntryKind { dir, .. }
            | Self::EntryPlace { dir, .. }
            | Self::EntryTwice { dir, .. }
            | Self::EntryName { dir, .. } => Some(dir),
            _ => None,
        }
    }
}
