//! Where in the bytes of a device the metadata of a volume lie, and which block holds the checksum of which: so that a volume that was
//! changed on purpose can be given the checksums that it would have, and what is behind them is reached.

use crate::BLOCK;
use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::nodes::map::{self, Entry};
use crate::core::page::Page;
use crate::format::superblock::{self, MAGIC, Superblock};
use crate::format::{batch, log};
use crate::ids::NodeId;
use std::collections::BTreeMap;

/// Blocks of a device by number; those that are not there are zero.
pub type Blocks = BTreeMap<u64, Box<[u8; BLOCK]>>;

/// What a block of metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A record of the superblock ring.
    Superblock,
    /// A page of the segment table.
    Segments,
    /// A node of the tree; its id.
    Node(NodeId),
    /// A page of the node map.
    Map,
    /// A header of a batch of metadata.
    Batch,
    /// A fragment of the log, or what follows its first block.
    Log,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Anatomy {
    /// Blocks of metadata, by number.
    pub parts: BTreeMap<u64, Part>,
    /// Who holds the checksum of a block, those below first: block, and the block and entry above; `None`: the superblocks.
    sealed_by: Vec<(u64, Option<(u64, usize)>)>,
    /// Fragments of the log in order: first block, number of blocks.
    log: Vec<(u64, u32)>,
    /// The records of the newest checkpoint.
    newest: Vec<u64>,
    secret: [u8; 32],
    log_previous: u32,
}

/// Bytes of the checksum in an entry of a map page.
const ENTRY: usize = 16;
const ENTRY_CRC: std::ops::Range<usize> = 8..12;

impl Anatomy {
    /// The anatomy of a sound volume on one device. `first`: the block with block 0 of zone 0; `zone_blocks`: blocks from zone to zone.
    ///
    /// # Errors
    /// What is missing.
    pub fn of(blocks: &Blocks, first: u64, zone_blocks: u64) -> Result<Self, String> {
        let place = |addr: Addr| first + u64::from(addr.zone().0) * zone_blocks + u64::from(addr.block());
        let mut parts = BTreeMap::new();
        let mut newest: Option<Superblock> = None;
        let mut records = Vec::new();
        for (number, block) in blocks.iter().filter(|(_, block)| block.starts_with(MAGIC)) {
            parts.insert(*number, Part::Superblock);
            let found = Superblock::decode(&block[..]).map_err(|error| error.to_string())?;
            records.push((found.generation, *number));
            if newest.as_ref().is_none_or(|newest| newest.generation < found.generation) {
                newest = Some(found);
            }
        }
        let newest = newest.ok_or("no superblock")?;
        let mut sealed_by = Vec::new();
        let root = BlockId::Map { level: newest.roots.map_levels - 1, index: 0 };
        let raw_pages = u64::from(crate::core::zones::ZoneTable::page_count(&newest.members));
        let mut open = vec![(root, place(newest.roots.map_addr), None)];
        while let Some((id, at, above)) = open.pop() {
            sealed_by.push((at, above));
            let BlockId::Map { level, index } = id else {
                let BlockId::Node(node) = id else { continue };
                parts.insert(at, if node.0 <= raw_pages { Part::Segments } else { Part::Node(node) });
                continue;
            };
            parts.insert(at, Part::Map);
            let page = Page::from_bytes(**blocks.get(&at).ok_or("a page of the map is missing")?);
            map::validate(&page, level, index)?;
            for i in 0..map::FANOUT as usize {
                let below = index * map::FANOUT + i as u64;
                let id = if level == 0 { BlockId::Node(NodeId(below)) } else { BlockId::Map { level: level - 1, index: below } };
                if let Entry::At(addr, _) = map::entry(&page, i) {
                    open.push((id, place(addr), Some((at, i))));
                }
            }
        }
        // What is below was found after what is above.
        sealed_by.reverse();
        let mut fragments = BTreeMap::new();
        for (number, block) in blocks {
            if batch::decode(&block[..]).is_some() {
                parts.insert(*number, Part::Batch);
            }
            let Some(count) = log::peek_blocks(&block[..]) else { continue };
            if let Some((fragment, ..)) = log::decode(&gathered(blocks, *number, count), &newest.secret)
                && fragment.sequence >= newest.log.sequence
            {
                fragments.insert(fragment.sequence, (*number, count));
                parts.extend((*number..*number + u64::from(count)).map(|number| (number, Part::Log)));
            }
        }
        let log = fragments.into_values().collect();
        let newest_records =
            records.into_iter().filter(|(generation, _)| *generation == newest.generation).map(|(_, number)| number).collect();
        Ok(Self { parts, sealed_by, log, newest: newest_records, secret: newest.secret, log_previous: newest.log.previous })
    }

    /// Gives everything the checksum of what it says now, from below to above.
    pub fn reseal(&self, blocks: &mut Blocks) {
        let mut previous = self.log_previous;
        for &(first, count) in &self.log {
            let mut whole = gathered(blocks, first, count);
            previous = log::reseal(&mut whole, &self.secret, previous);
            for (number, block) in (first..).zip(whole.chunks_exact(BLOCK)) {
                blocks.insert(number, Box::new(block.try_into().expect("a block")));
            }
        }
        for (number, _) in self.parts.iter().filter(|(_, part)| **part == Part::Batch) {
            blocks.entry(*number).and_modify(|block| batch::reseal(block));
        }
        let mut root_crc = 0;
        for (number, above) in &self.sealed_by {
            let crc = blocks.get(number).map_or(0, |block| zns::checksum::crc32c(&block[..]));
            match above {
                None => root_crc = crc,
                Some((page, entry)) => {
                    let at = ENTRY + entry * ENTRY;
                    blocks.entry(*page).and_modify(|page| page[at..at + ENTRY][ENTRY_CRC].copy_from_slice(&crc.to_le_bytes()));
                }
            }
        }
        for (number, _) in self.parts.iter().filter(|(_, part)| **part == Part::Superblock) {
            blocks.entry(*number).and_modify(|block| {
                if self.newest.contains(number) {
                    block[superblock::MAP_CRC].copy_from_slice(&root_crc.to_le_bytes());
                }
                superblock::reseal(block);
            });
        }
    }
}

fn gathered(blocks: &Blocks, first: u64, count: u32) -> Vec<u8> {
    let zero = [0; BLOCK];
    (first..first + u64::from(count)).flat_map(|number| *blocks.get(&number).map_or(&zero, |block| &**block)).collect()
}
