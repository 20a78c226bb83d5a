//! Blocks that stand by themselves: superblocks, pages of a checkpoint, nodes, fragments of the log.

use super::Script;
use crate::BLOCK;
use crate::core::Key;
use crate::core::halt::BlockId;
use crate::core::nodes::{MapRoot, NodeStore, Roots, map};
use crate::core::page::{self, Page, SortKey};
use crate::core::zones::ZoneTable;
use crate::format::record::Delta;
use crate::format::segment::Role;
use crate::format::superblock::{MAX_DEVICES, Superblock};
use crate::format::{batch, log, segment, superblock};
use crate::ids::NodeId;
use crate::volume::ring::{Slot, is_newer_lost};

/// The bytes as a block: cut, or filled up with zeros.
fn block_of(data: &[u8]) -> Box<[u8; BLOCK]> {
    let mut block = Box::new([0; BLOCK]);
    let len = data.len().min(BLOCK);
    block[..len].copy_from_slice(&data[..len]);
    block
}

/// A superblock, and what a mount makes of it before it reads another block.
pub fn superblock(data: &[u8]) {
    let mut block = block_of(data);
    let _ = Superblock::decode(data);
    judge_ring(&block[..]);
    superblock::reseal(&mut block);
    judge_ring(&block[..]);
    let Ok(found) = Superblock::decode(&block[..]) else { return };
    let again = Superblock::decode(&found.encode()[..]).expect("what was encoded can be decoded");
    assert!(again == found, "a superblock changes when it is written again");
    assert!(found.members.len() <= MAX_DEVICES);
    // A mount compares the device table with the devices before it makes a table of so many zones.
    if found.members.iter().map(|member| u64::from(member.zones)).sum::<u64>() <= 100_000 {
        let table = ZoneTable::new(&found.members, found.reserves, u32::MAX);
        let raw_pages = u64::from(ZoneTable::page_count(&found.members));
        drop(table);
        let p = &found.roots;
        let map_root = MapRoot { addr: p.map_addr, crc: p.map_crc, levels: p.map_levels };
        let roots = Roots { tree_root: p.tree_root, map_root, next_id: p.next_id, free_head: NodeId(p.free_head) };
        let _ = NodeStore::open(roots, raw_pages);
    }
}

fn judge_ring(block: &[u8]) {
    let (slot, _) = Slot::of(block);
    for mirrored in [false, true] {
        let _ = is_newer_lost([&[slot, slot], &[slot]], mirrored, !mirrored);
    }
}

/// Pages that a checkpoint writes beside nodes: segment table, node map, headers of batches.
pub fn checkpoint(data: &[u8]) {
    let mut block = block_of(data);
    let index = u32::from_le_bytes([block[8], block[9], block[10], block[11]]);
    let count = u32::from_le_bytes([block[12], block[13], block[14], block[15]]) as usize;
    let _ = segment::decode_page(data, index, count);
    if let Ok(entries) = segment::decode_page(&block[..], index, count) {
        let written = segment::encode_page(index, &entries);
        assert!(segment::decode_page(&written[..], index, count).is_ok_and(|again| again == entries));
        assert!(entries.iter().all(|entry| entry.role != Role::Ring || !entry.role.is_data()));
    }
    let page = Page::from_bytes(*block);
    let id = u64::from_le_bytes(block[8..16].try_into().expect("eight bytes"));
    for level in 0..map::MAX_LEVELS {
        if map::validate(&page, level, id).is_ok() {
            for i in 0..map::FANOUT as usize {
                let mut other = page.clone();
                map::set_entry(&mut other, i, map::entry(&page, i));
                assert!(map::validate(&other, level, id).is_ok() && map::entry(&other, i) == map::entry(&page, i));
            }
        }
    }
    let _ = batch::decode(data);
    batch::reseal(&mut block);
    if let Some(ids) = batch::decode(&block[..]) {
        assert!(ids.len() <= batch::MAX_BLOCKS);
        assert!(ids.iter().all(|id| BlockId::unpack(id.pack()) == *id));
    }
}

/// A node of the tree: whatever passes the validation can be read and changed.
pub fn node(data: &[u8]) {
    let block = block_of(data);
    let id = NodeId(u64::from_le_bytes(block[8..16].try_into().expect("eight bytes")));
    if page::validate(&block, id).is_err() {
        return;
    }
    let page = Page::from_bytes(*block);
    let sound = |page: &Page, what: &str| {
        let verdict = page::validate(page.bytes(), id);
        assert!(verdict.is_ok() || (page.level() > 0 && page.is_empty()), "{what}: {verdict:?}");
    };
    for i in 0..page.count() {
        let key = page.key(i);
        assert!(page.search(key) == Ok(i) && page.route(key) == i);
        if page.level() == 0 {
            super::items::decode(key.key().expect("validated"), page.value(i));
        } else {
            page.child(i);
        }
    }
    let mut script = Script::new(&data[data.len().min(BLOCK)..]);
    for at in [0, page.count() / 2, page.count()] {
        let mut left = page.clone();
        let mut right = Page::node(id, page.level());
        left.split_off(at, &mut right);
        sound(&left, "left half");
        sound(&right, "right half");
        assert!(left.absorb(&right) && left.count() == page.count());
        sound(&left, "joined again");
    }
    let mut changed = page.clone();
    for _ in 0..8 {
        let key = Key { class: script.of(&super::items::CLASSES), a: script.number(), b: script.number() };
        let value = vec![script.byte(); if page.level() > 0 { 8 } else { usize::from(script.u16()) % (page::MAX_ITEM + 1) }];
        let key = SortKey::from(&key);
        match changed.search(key) {
            Ok(i) if page.level() == 0 => drop(changed.replace(i, &value)),
            Ok(i) => changed.remove(i),
            Err(i) => {
                let value = if page.level() > 0 { 1u64.to_le_bytes().to_vec() } else { value };
                if !changed.insert(i, key, &value) {
                    let plan = changed.plan_split(i, key, value.len(), script.byte() & 1 == 1);
                    assert!(plan.at <= changed.count());
                }
            }
        }
        sound(&changed, "changed");
    }
    while !changed.is_empty() {
        changed.remove(usize::from(script.u16()) % changed.count());
    }
}

/// A fragment of the log and the changes in it.
pub fn record(data: &[u8]) {
    const SECRET: [u8; 32] = [7; 32];
    deltas(data);
    let _ = log::decode(data, &SECRET);
    let Some(blocks) = log::peek_blocks(data) else { return };
    assert!(blocks <= log::MAX_BLOCKS);
    let mut whole = vec![0; blocks as usize * BLOCK];
    let len = data.len().min(whole.len());
    whole[..len].copy_from_slice(&data[..len]);
    log::reseal(&mut whole, &SECRET, 0);
    if let Some((fragment, _, body)) = log::decode(&whole, &SECRET) {
        assert!(body.len() == fragment.body as usize);
        deltas(body);
    }
}

fn deltas(mut bytes: &[u8]) {
    loop {
        let before = bytes;
        let Some(delta) = Delta::decode(&mut bytes) else { return };
        let mut written = Vec::new();
        delta.encode(&mut written);
        assert!(written.len() == delta.encoded_len() && before.starts_with(&written));
        assert!(bytes.len() + written.len() == before.len(), "a delta takes what it says");
    }
}
