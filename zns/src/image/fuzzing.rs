//! What the fuzzers call: any bytes as the header of an image, or as a block of its zone table, as they are and with the checksum that they
//! should have. No panic, and nothing is allocated by what a header says before it was checked (I10).

use super::format::{
    HeaderRead, META_BLOCK, TableRead, ZONES_PER_BLOCK, decode_header, decode_table, encode_header, encode_table, reseal_header,
    reseal_table, slot_of,
};
use super::{MAX_ZONE_BYTES, MAX_ZONES};

fn block_of(data: &[u8]) -> [u8; META_BLOCK] {
    let mut block = [0; META_BLOCK];
    let len = data.len().min(META_BLOCK);
    block[..len].copy_from_slice(&data[..len]);
    block
}

/// Gives a header or a block of the table the checksum of what it says; anything else stays as it is.
pub fn reseal(block: &mut [u8; META_BLOCK]) {
    if !reseal_header(block) {
        reseal_table(block);
    }
}

/// A header.
pub fn header(data: &[u8]) {
    let mut block = block_of(data);
    judge_header(data);
    reseal_header(&mut block);
    judge_header(&block);
}

fn judge_header(block: &[u8]) {
    for read_only in [false, true] {
        let HeaderRead::Sound(layout) = decode_header(block, read_only) else { continue };
        assert!(layout.zones <= MAX_ZONES && layout.zone_size * u64::from(layout.block_size) <= MAX_ZONE_BYTES);
        assert!(layout.zone_capacity <= layout.zone_size && layout.zone_capacity > 0);
        assert!(layout.file_bytes() < 1 << 60 && layout.table_blocks() as usize <= MAX_ZONES as usize / ZONES_PER_BLOCK + 1);
        let geometry = layout.geometry();
        assert!(geometry.zones == layout.zones && geometry.size_bytes() < 1 << 60);
        assert!(decode_header(&encode_header(&layout), false) == HeaderRead::Sound(layout));
    }
}

/// A block of the zone table.
pub fn table(data: &[u8]) {
    let mut block = block_of(data);
    judge_table(data);
    reseal_table(&mut block);
    judge_table(&block);
}

fn judge_table(block: &[u8]) {
    let word = |at: usize| block.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    for slot in [0, 1] {
        let (index, zones) = (word(16), (word(20) as usize).min(ZONES_PER_BLOCK + 1));
        let TableRead::Sound(sequence, snapshots) = decode_table(block, index, slot, zones, 4096) else { continue };
        assert!(snapshots.len() == zones && slot_of(sequence) == slot && snapshots.iter().all(|zone| zone.written <= 4096));
        // The next one has a number of its own, for longer than anybody writes.
        if sequence >= 1 << 61 {
            continue;
        }
        let next = encode_table(index, sequence + 1, &snapshots);
        assert!(decode_table(&next, index, 1 - slot, zones, 4096) == TableRead::Sound(sequence + 1, snapshots));
    }
}
