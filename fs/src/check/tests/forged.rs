//! The media of a rig, read and changed past all rules: blocks, superblocks and pages of the node map with valid checksums.

use super::kinds::{Base, Editor};
use super::*;
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::nodes::map::{Entry, entry};
use crate::core::page::Page;
use crate::format::superblock::{RING_SLOTS, RING_ZONES, Superblock, is_second_copy, second_copy};
use zns::sim::Fault;
use zns::{Blocks, DeviceId, Lba, ZoneId};

pub(super) fn fork(rig: &Rig) -> Rig {
    Rig { drives: rig.drives.iter().map(SimDrive::fork).collect(), mounts: rig.mounts }
}

/// Where a block of the filesystem begins, and how many blocks of the device it has.
pub(super) fn place(drive: &SimDrive, addr: Addr) -> (Lba, Blocks) {
    let g = drive.geometry();
    let per_block = BLOCK as u64 / u64::from(g.block_size);
    (Lba(g.zone_start(addr.zone()).0 + u64::from(addr.block()) * per_block), Blocks(per_block))
}

pub(super) fn peek(drive: &SimDrive, addr: Addr) -> [u8; BLOCK] {
    let (lba, blocks) = place(drive, addr);
    drive.peek(lba, blocks).try_into().expect("a block")
}

pub(super) fn poke(drive: &SimDrive, addr: Addr, bytes: &[u8]) {
    drive.poke(place(drive, addr).0, bytes);
}

pub(super) fn at(zone: u32, block: u32) -> Addr {
    Addr::new(DeviceId(0), ZoneId(zone), block)
}

/// The records in the ring of a drive: where they are, and what they say.
pub(super) fn records(drive: &SimDrive) -> Vec<(Addr, Superblock)> {
    let places = (0..RING_ZONES).flat_map(|zone| (0..RING_SLOTS.min(256)).map(move |slot| at(zone, slot)));
    places.filter_map(|addr| Some((addr, Superblock::decode(&peek(drive, addr)).ok()?))).collect()
}

/// The copies of the newest record.
pub(super) fn newest(drive: &SimDrive) -> Vec<(Addr, Superblock)> {
    let mut all = records(drive);
    let generation = all.iter().map(|(_, record)| record.generation).max().expect("records");
    all.retain(|(_, record)| record.generation == generation);
    assert_eq!(all.len(), 2, "both copies");
    all
}

/// A copy of the base with another node map and superblock, all of it with valid checksums.
pub(super) fn forged(base: &Base, change: impl FnOnce(&mut Superblock, &mut Page)) -> Rig {
    let rig = fork(&base.rig);
    let drive = &rig.drives[0];
    let copies = newest(drive);
    let mut record = copies[0].1.clone();
    assert_eq!(record.roots.map_levels, 1, "the map is one page");
    let mut page = Page::from_bytes(peek(drive, record.roots.map_addr));
    change(&mut record, &mut page);
    poke(drive, record.roots.map_addr, page.bytes());
    record.roots.map_crc = page.crc();
    for (addr, _) in copies {
        let block = record.encode();
        let block = if is_second_copy(&peek(drive, addr)) { second_copy(&block) } else { block };
        poke(drive, addr, &block[..]);
    }
    rig
}

/// What the map of the base says of the node that it has last.
pub(super) fn last_node(page: &Page) -> (u64, Addr, u32) {
    let found = (1..255).rev().find_map(|id| if let Entry::At(addr, crc) = entry(page, id) { Some((id as u64, addr, crc)) } else { None });
    found.expect("nodes")
}

/// The extent that `/dir/big` begins with.
pub(super) fn data_of_big(base: &Base) -> Addr {
    let mut rig = fork(&base.rig);
    let editor = Editor { volume: rig.mount(), big: base.big };
    editor.extent(base.big).1.addr
}

/// A copy of the base that was mounted, changed by `life`, and lost its power.
pub(super) fn cut_off(base: &Base, life: impl FnOnce(&Arc<Volume>)) -> Rig {
    let mut rig = fork(&base.rig);
    let volume = rig.mount();
    life(&volume);
    drop(volume);
    rig.power_cycle();
    rig
}

/// A copy of the rig in which the first operation from the `from`th of a check on that it fits fails.
pub(super) fn failing(rig: &Rig, from: u64, fault: Fault) -> Rig {
    let rig = fork(rig);
    rig.drives[0].fail_at(rig.drives[0].ops() + from, fault);
    rig
}

/// How many operations a check takes.
pub(super) fn ops_of_a_check(rig: &Rig) -> u64 {
    let rig = fork(rig);
    let before = rig.drives[0].ops();
    check(rig.devices(), CheckOptions::default()).expect("there is a volume");
    rig.drives[0].ops() - before
}
