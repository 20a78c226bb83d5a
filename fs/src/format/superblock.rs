//! The superblock: one 4096-byte record of everything a mount starts from, written anew by every checkpoint into the ring.

use crate::BLOCK;
use crate::addr::Addr;
use crate::format::item::{Timestamp, push_varint, take_varint};
use crate::ids::NodeId;
use gc::placement::Population;
use thiserror::Error;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every record.
pub const MAGIC: &[u8; 8] = b"FerryFS\0";
/// Version of the format.
pub const VERSION: u32 = 3;
/// Most devices in a volume.
pub const MAX_DEVICES: usize = 32;
/// Zones 0 and 1 of each device form the ring.
pub const RING_ZONES: u32 = 2;
/// Records in a zone of the ring: a probe reads them all.
pub const RING_SLOTS: u32 = 256;

/// Features a reader may ignore, a writer must know, everybody must know. None is defined yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// May be ignored.
    pub compatible: u64,
    /// Unknown ones allow read-only mounts.
    pub read_only: u64,
    /// Unknown ones forbid any use.
    pub incompatible: u64,
}

/// A line of the device table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Identity of the device within the volume.
    pub uuid: [u8; 16],
    /// Bytes in a device block.
    pub block_size: u32,
    /// Zones.
    pub zones: u32,
    /// Zone size, in filesystem blocks.
    pub zone_blocks: u64,
    /// Zone capacity, in filesystem blocks.
    pub zone_capacity: u32,
}

/// Space set aside when the volume was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserves {
    /// Zones that the log may hold.
    pub log_zones: u32,
    /// Zones kept for cleaning.
    pub gc_zones: u32,
    /// Zones kept for checkpoints.
    pub checkpoint_zones: u32,
    /// Dirty metadata never exceeds this many blocks.
    pub dirty_blocks: u32,
}

impl Reserves {
    /// Zones of all reserves.
    pub fn zones(&self) -> u64 {
        u64::from(self.log_zones) + u64::from(self.gc_zones) + u64::from(self.checkpoint_zones)
    }
}

/// Where the metadata tree begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootPointers {
    /// Root node of the tree.
    pub tree_root: NodeId,
    /// Address of the root page of the node map.
    pub map_addr: Addr,
    /// Its CRC32C.
    pub map_crc: u32,
    /// Levels of the node map.
    pub map_levels: u8,
    /// First node id never used.
    pub next_id: u64,
    /// Head of the chain of free ids; 0: none.
    pub free_head: u64,
}

/// Where the log goes on behind this checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStart {
    /// Where the next fragment will be; `NONE` if the log has not begun.
    pub addr: Addr,
    /// The zone after that one.
    pub next_zone: Addr,
    /// Its sequence number.
    pub sequence: u64,
    /// Checksum of its predecessor.
    pub previous: u32,
    /// The last batch that this checkpoint contains.
    pub batch: u64,
}

/// A superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Features.
    pub features: Features,
    /// Volume identity.
    pub uuid: [u8; 16],
    /// Label, up to 64 bytes of UTF-8.
    pub label: String,
    /// Counts checkpoints; the highest valid one wins.
    pub generation: u64,
    /// Which line of the device table this device is.
    pub device: u8,
    /// Written by a clean unmount.
    pub clean: bool,
    /// Mount epoch.
    pub epoch: u64,
    /// Secret of the epoch.
    pub secret: [u8; 32],
    /// Key of name hashes, for the life of the volume.
    pub hash_key: [u8; 16],
    /// When the volume was made.
    pub created: Timestamp,
    /// First inode number never used.
    pub next_ino: u64,
    /// Logical time: blocks written by users.
    pub clock: u64,
    /// Blocks that are preallocated and not written.
    pub unwritten: u64,
    /// Live blocks by what is expected of them.
    pub population: Population,
    /// Inodes in use.
    pub inodes: u64,
    /// Reserves.
    pub reserves: Reserves,
    /// Metadata.
    pub roots: RootPointers,
    /// Log.
    pub log: LogStart,
    /// Devices.
    pub members: Vec<Member>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Disk {
    magic: [u8; 8],
    version: U32,
    checksum: U32,
    compatible: U64,
    read_only: U64,
    incompatible: U64,
    uuid: [u8; 16],
    label: [u8; 64],
    generation: U64,
    device: u8,
    clean: u8,
    label_len: u8,
    map_levels: u8,
    members: U16,
    copy: u8,
    reserved: u8,
    epoch: U64,
    secret: [u8; 32],
    hash_key: [u8; 16],
    created_sec: I64,
    created_nsec: U32,
    map_crc: U32,
    next_ino: U64,
    clock: U64,
    unwritten: U64,
    inodes: U64,
    log_zones: U32,
    gc_zones: U32,
    checkpoint_zones: U32,
    dirty_blocks: U32,
    tree_root: U64,
    map_addr: U64,
    next_id: U64,
    free_head: U64,
    log_addr: U64,
    log_next_zone: U64,
    log_sequence: U64,
    log_batch: U64,
    log_previous: U32,
    reserved2: U32,
}
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskMember {
    uuid: [u8; 16],
    block_size: U32,
    zones: U32,
    zone_blocks: U64,
    zone_capacity: U32,
    reserved: [u8; 28],
}
const TABLE: usize = 1024;
const _: () = assert!(size_of::<Disk>() <= TABLE);
const _: () = assert!(size_of::<DiskMember>() == 64);
/// Where the live blocks of each estimate are.
const POPULATION: std::ops::Range<usize> = TABLE + MAX_DEVICES * size_of::<DiskMember>()..BLOCK;
const _: () = assert!(POPULATION.end - POPULATION.start == 1024);

/// Live blocks of each estimate, as variable-length numbers of the units that the first byte says (2 to its power): single blocks as long as that has room, which in
/// volumes below 32 TiB it has (the least that has not: 33 estimates of 1 TiB, which take five bytes, and 212 of 8 GiB, which take four).
fn population_to(population: &Population, out: &mut [u8]) {
    for unit in 0..u64::BITS as u8 {
        let mut bytes = vec![unit];
        population.counts().iter().for_each(|count| push_varint(&mut bytes, count >> unit));
        if bytes.len() <= out.len() {
            out[..bytes.len()].copy_from_slice(&bytes);
            return;
        }
    }
}

fn population_from(bytes: &[u8]) -> Option<Population> {
    let (&unit, mut rest) = bytes.split_first()?;
    let mut counts = [0; 256];
    for count in &mut counts {
        let (number, behind) = take_varint(rest)?;
        *count = number.checked_mul(1u64.checked_shl(unit.into())?)?;
        rest = behind;
    }
    counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count)).filter(|sum| *sum < MOST_BLOCKS)?;
    Some(Population::of(counts))
}

/// Counts that a record can hold, whatever a forged one said once: what is counted of so many blocks means nothing any more, and what nobody could read
/// must not be written.
pub fn recordable(population: &Population) -> Population {
    let counts = population.counts();
    let sum = |halved: u32| counts.iter().fold(0u64, |sum, count| sum.saturating_add(count >> halved));
    let halved = (0..u64::BITS).find(|halved| sum(*halved) < MOST_BLOCKS).unwrap_or(u64::BITS - 1);
    Population::of(counts.map(|count| count >> halved))
}

/// Does a record say how many blocks there are to the block? What was read from one that does not was rounded down.
pub fn is_recorded_exactly(population: &Population) -> bool {
    let mut bytes = [0; POPULATION.end - POPULATION.start];
    population_to(population, &mut bytes);
    population_from(&bytes).as_ref() == Some(population)
}

/// Why a block is no superblock that can be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SuperblockError {
    /// Not a superblock at all.
    #[error("no FerryFS superblock")]
    NotOne,
    /// A superblock whose checksum fails.
    #[error("FerryFS superblock with a bad checksum")]
    Checksum,
    /// A version of the format from the future, or one that is no longer read.
    #[error("FerryFS format version {0}, this program knows version {VERSION}: use {age} FerryFS", age = age(*.0))]
    Version(u32),
    /// A checksum that holds over content that cannot be.
    #[error("FerryFS superblock that contradicts itself: {0}")]
    Invalid(&'static str),
}

/// Which program reads a version that this one does not.
fn age(version: u32) -> &'static str {
    if version > VERSION { "a newer" } else { "an older" }
}

/// The second copy of a record.
pub fn second_copy(first: &[u8; BLOCK]) -> Box<[u8; BLOCK]> {
    let mut block = Box::new(*first);
    block[COPY] = 1;
    reseal(&mut block);
    block
}

/// Gives a record the checksum of what it says.
pub(crate) fn reseal(block: &mut [u8; BLOCK]) {
    block[CHECKSUM].fill(0);
    let checksum = crc32c::crc32c(&block[..]);
    block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

/// Where a record keeps the checksum of the root of the node map.
pub(crate) const MAP_CRC: std::ops::Range<usize> = std::mem::offset_of!(Disk, map_crc)..std::mem::offset_of!(Disk, map_crc) + 4;

/// Is this the second copy of a record, as far as can be seen? The block need not be whole.
pub fn is_second_copy(block: &[u8]) -> bool {
    block.get(COPY) == Some(&1)
}

/// The generation of a record, as far as can be seen. The block need not be whole.
pub fn generation_of(block: &[u8]) -> u64 {
    block.get(GENERATION).map_or(0, |bytes| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// What counts up has not come so far in any volume: there is always a next number.
pub const LAST_NUMBER: u64 = 1 << 62;
/// Blocks whose bytes can be counted: what a record says of blocks is less.
pub const MOST_BLOCKS: u64 = 1 << 51;
/// Zones of a device, and blocks of a zone, that an address can tell.
const MOST_IN_ADDRESS: u64 = 1 << 28;

impl Disk {
    /// Are all numbers such that they can be worked with? What they are used for is checked where they are used.
    fn check_numbers(&self) -> Result<(), SuperblockError> {
        let numbers = [self.generation, self.epoch, self.next_ino, self.inodes, self.next_id, self.log_sequence, self.log_batch];
        if numbers.iter().any(|number| number.get() >= LAST_NUMBER) || [self.clock, self.unwritten].iter().any(|n| n.get() >= MOST_BLOCKS) {
            return Err(SuperblockError::Invalid("a number that no volume reaches"));
        }
        Ok(())
    }
}

fn check_reserves(reserves: &Reserves, members: &[Member]) -> Result<(), SuperblockError> {
    let zones: u64 = members.iter().map(|member| u64::from(member.zones)).sum();
    let blocks: u64 = members.iter().map(|member| u64::from(member.zones) * u64::from(member.zone_capacity)).sum();
    if reserves.zones() > zones || u64::from(reserves.dirty_blocks) > blocks {
        return Err(SuperblockError::Invalid("reserves"));
    }
    Ok(())
}

const CHECKSUM: std::ops::Range<usize> = 12..16;
const GENERATION: std::ops::Range<usize> = 120..128;
const COPY: usize = std::mem::offset_of!(Disk, copy);
const _: () = assert!(std::mem::offset_of!(Disk, generation) == GENERATION.start && std::mem::offset_of!(Disk, checksum) == CHECKSUM.start);

impl Superblock {
    /// The record, as its first copy.
    pub fn encode(&self) -> Box<[u8; BLOCK]> {
        let mut label = [0; 64];
        label[..self.label.len()].copy_from_slice(self.label.as_bytes());
        let disk = Disk {
            magic: *MAGIC,
            version: VERSION.into(),
            checksum: 0.into(),
            compatible: self.features.compatible.into(),
            read_only: self.features.read_only.into(),
            incompatible: self.features.incompatible.into(),
            uuid: self.uuid,
            label,
            generation: self.generation.into(),
            device: self.device,
            clean: self.clean.into(),
            label_len: self.label.len() as u8,
            map_levels: self.roots.map_levels,
            members: (self.members.len() as u16).into(),
            copy: 0,
            reserved: 0,
            epoch: self.epoch.into(),
            secret: self.secret,
            hash_key: self.hash_key,
            created_sec: self.created.sec.into(),
            created_nsec: self.created.nsec.into(),
            map_crc: self.roots.map_crc.into(),
            next_ino: self.next_ino.into(),
            clock: self.clock.into(),
            unwritten: self.unwritten.into(),
            inodes: self.inodes.into(),
            log_zones: self.reserves.log_zones.into(),
            gc_zones: self.reserves.gc_zones.into(),
            checkpoint_zones: self.reserves.checkpoint_zones.into(),
            dirty_blocks: self.reserves.dirty_blocks.into(),
            tree_root: self.roots.tree_root.0.into(),
            map_addr: self.roots.map_addr.0.into(),
            next_id: self.roots.next_id.into(),
            free_head: self.roots.free_head.into(),
            log_addr: self.log.addr.0.into(),
            log_next_zone: self.log.next_zone.0.into(),
            log_sequence: self.log.sequence.into(),
            log_batch: self.log.batch.into(),
            log_previous: self.log.previous.into(),
            reserved2: 0.into(),
        };
        let mut block = Box::new([0; BLOCK]);
        block[..size_of::<Disk>()].copy_from_slice(disk.as_bytes());
        for (slot, m) in block[TABLE..].chunks_exact_mut(64).zip(&self.members) {
            let disk = DiskMember {
                uuid: m.uuid,
                block_size: m.block_size.into(),
                zones: m.zones.into(),
                zone_blocks: m.zone_blocks.into(),
                zone_capacity: m.zone_capacity.into(),
                reserved: [0; 28],
            };
            slot.copy_from_slice(disk.as_bytes());
        }
        population_to(&self.population, &mut block[POPULATION]);
        reseal(&mut block);
        block
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(block: &[u8]) -> Result<Self, SuperblockError> {
        let (disk, _) = Disk::read_from_prefix(block).map_err(|_| SuperblockError::NotOne)?;
        if &disk.magic != MAGIC || block.len() != BLOCK {
            return Err(SuperblockError::NotOne);
        }
        let mut zeroed = block.to_vec();
        zeroed[12..16].fill(0);
        if crc32c::crc32c(&zeroed) != disk.checksum.get() {
            return Err(SuperblockError::Checksum);
        }
        if disk.version.get() != VERSION {
            return Err(SuperblockError::Version(disk.version.get()));
        }
        let count = usize::from(disk.members.get());
        if count == 0 || count > MAX_DEVICES || usize::from(disk.device) >= count {
            return Err(SuperblockError::Invalid("device table"));
        }
        let label = disk.label.get(..usize::from(disk.label_len)).and_then(|l| std::str::from_utf8(l).ok());
        let mut members = Vec::with_capacity(count);
        for slot in block[TABLE..].chunks_exact(64).take(count) {
            let m = DiskMember::read_from_bytes(slot).map_err(|_| SuperblockError::Invalid("device table"))?;
            let in_address = u64::from(m.zones.get()) <= MOST_IN_ADDRESS && m.zone_blocks.get() <= MOST_IN_ADDRESS;
            if m.zone_capacity.get() == 0
                || u64::from(m.zone_capacity.get()) > m.zone_blocks.get()
                || m.zones.get() <= RING_ZONES
                || !in_address
            {
                return Err(SuperblockError::Invalid("zone shape"));
            }
            members.push(Member {
                uuid: m.uuid,
                block_size: m.block_size.get(),
                zones: m.zones.get(),
                zone_blocks: m.zone_blocks.get(),
                zone_capacity: m.zone_capacity.get(),
            });
        }
        disk.check_numbers()?;
        let reserves = Reserves {
            log_zones: disk.log_zones.get(),
            gc_zones: disk.gc_zones.get(),
            checkpoint_zones: disk.checkpoint_zones.get(),
            dirty_blocks: disk.dirty_blocks.get(),
        };
        check_reserves(&reserves, &members)?;
        Ok(Self {
            features: Features {
                compatible: disk.compatible.get(),
                read_only: disk.read_only.get(),
                incompatible: disk.incompatible.get(),
            },
            uuid: disk.uuid,
            label: label.ok_or(SuperblockError::Invalid("label"))?.to_string(),
            generation: disk.generation.get(),
            device: disk.device,
            clean: disk.clean != 0,
            epoch: disk.epoch.get(),
            secret: disk.secret,
            hash_key: disk.hash_key,
            created: Timestamp { sec: disk.created_sec.get(), nsec: disk.created_nsec.get() },
            next_ino: disk.next_ino.get(),
            clock: disk.clock.get(),
            unwritten: disk.unwritten.get(),
            population: population_from(&block[POPULATION]).ok_or(SuperblockError::Invalid("estimates"))?,
            inodes: disk.inodes.get(),
            reserves,
            roots: RootPointers {
                tree_root: NodeId(disk.tree_root.get()),
                map_addr: Addr(disk.map_addr.get()),
                map_crc: disk.map_crc.get(),
                map_levels: disk.map_levels,
                next_id: disk.next_id.get(),
                free_head: disk.free_head.get(),
            },
            log: LogStart {
                addr: Addr(disk.log_addr.get()),
                next_zone: Addr(disk.log_next_zone.get()),
                sequence: disk.log_sequence.get(),
                previous: disk.log_previous.get(),
                batch: disk.log_batch.get(),
            },
            members,
        })
    }
}
