//! Identify data, commands and cutting, to the byte.

use super::super::carve::{Limits, Part, carve};
use super::super::command::{Format, Guard, Protection, Range, copy};
use super::super::identify::{Controller, Namespace, guard};
use crate::topology::{DevNumber, Piece, RealDevice};
use proptest::prelude::*;
use std::sync::Arc;

fn namespace_data() -> Vec<u8> {
    let mut data = vec![0u8; 4096];
    data[0..8].copy_from_slice(&0x4_0000u64.to_le_bytes());
    data[26] = 0x01; // FLBAS: format 1
    data[29] = 0x01; // DPS: type 1
    data[74..76].copy_from_slice(&64u16.to_le_bytes());
    data[76..80].copy_from_slice(&128u32.to_le_bytes());
    data[80] = 3;
    data[132..136].copy_from_slice(&0x000c_0008u32.to_le_bytes()); // LBAF1: 4096 bytes, 8 of metadata
    data
}

#[test]
fn a_namespace_is_read_to_the_byte() {
    let mut data = namespace_data();
    let expected =
        Namespace { blocks: 0x4_0000, block_size: 4096, metadata: 8, protection: 1, max_range: 64, max_command: 128, max_ranges: 4 };
    assert_eq!(Namespace::parse(&data), Ok(expected.clone()));
    // MSRC of 255 is 256 ranges; a format beyond 15 has its upper bits in FLBAS 6:5.
    data[80] = 255;
    data[26] = 0x21;
    data[128 + 4 * 17..][..4].copy_from_slice(&0x0009_0000u32.to_le_bytes());
    assert_eq!(Namespace::parse(&data), Ok(Namespace { block_size: 512, metadata: 0, max_ranges: 256, ..expected }));
    for (at, value, word) in [(26, 0x02, "2^0"), (0, 0, "not active")] {
        let mut data = namespace_data();
        data[at] = value;
        if at == 0 {
            data[0..8].fill(0);
        }
        assert!(Namespace::parse(&data).unwrap_err().contains(word));
    }
    for len in 0..136 {
        assert!(Namespace::parse(&namespace_data()[..len]).is_err());
    }
}

#[test]
fn a_controller_is_read_to_the_byte() {
    let mut data = vec![0u8; 4096];
    data[78..80].copy_from_slice(&7u16.to_le_bytes());
    data[520..522].copy_from_slice(&0x0100u16.to_le_bytes());
    data[534..536].copy_from_slice(&0x0005u16.to_le_bytes());
    data[768..777].copy_from_slice(b"nqn.x:one");
    let controller = Controller::parse(&data).unwrap();
    assert_eq!((controller.id, controller.subsystem.as_str(), controller.copy), (7, "nqn.x:one", true));
    assert_eq!((0..20).filter(|&format| controller.offers(format)).collect::<Vec<_>>(), [0, 2]);
    data[521] = 0;
    assert!(!Controller::parse(&data).unwrap().copy);
    assert!(Controller::parse(&data[..1000]).is_err());
    let mut extended = vec![0u8; 4096];
    extended[16..20].copy_from_slice(&(2u32 << 7).to_le_bytes());
    assert_eq!(guard(&extended, 0), Ok(Guard::Bits16));
    assert_eq!(guard(&extended, 1), Ok(Guard::Bits64));
    extended[16..20].copy_from_slice(&(3u32 << 7).to_le_bytes());
    assert!(guard(&extended, 1).is_err() && guard(&extended[..12], 0).is_err());
}

#[test]
fn a_copy_is_laid_out_to_the_byte() {
    let ranges = [Range { nsid: 2, lba: 0x1_0203_0405, blocks: 1 }, Range { nsid: 3, lba: 9, blocks: 65536 }];
    let plain = copy(1, 0x7_0000_0008, &ranges, Format { wide: false, across: false }, None);
    assert_eq!((plain.opcode, plain.nsid, plain.cdw2), (0x19, 1, [0, 0]));
    assert_eq!(plain.cdw10, [8, 7, 1, 0, 0, 0], "NR counts from 0, format 0");
    let mut expected = vec![0u8; 64];
    expected[8..16].copy_from_slice(&0x1_0203_0405u64.to_le_bytes());
    expected[32 + 8] = 9;
    expected[32 + 16..32 + 18].fill(0xff);
    assert_eq!(plain.data, expected);
    let across = copy(1, 8, &ranges, Format { wide: false, across: true }, None);
    assert_eq!(across.cdw10[2], 1 | 2 << 8);
    (expected[0], expected[32]) = (2, 3);
    assert_eq!(across.data, expected);
    let protected = copy(1, 8, &ranges, Format { wide: false, across: false }, Some(Protection { kind: 1, guard: Guard::Bits16 }));
    assert_eq!(protected.cdw10[2], 1 | 1 << 14 | 1 << 15 | 1 << 29, "PRACT on both sides, the guard checked");
    assert_eq!((protected.cdw10[4], protected.cdw2[1]), (8, 0), "the first reference tag is the address");
    let wide = copy(1, 0x7_0000_0008, &ranges, Format { wide: true, across: true }, Some(Protection { kind: 1, guard: Guard::Bits64 }));
    assert_eq!((wide.data.len(), wide.cdw10[2] >> 8 & 0xf, wide.cdw10[4], wide.cdw2[1]), (80, 3, 8, 7));
    let third = copy(1, 8, &ranges, Format { wide: false, across: false }, Some(Protection { kind: 3, guard: Guard::Bits16 }));
    assert_eq!(third.cdw10[4], 0);
}

fn piece(minor: u32, offset: u64, len: u64) -> Piece {
    let device = RealDevice {
        number: DevNumber { major: 259, minor },
        name: format!("nvme0n{minor}"),
        path: "/dev/null".into(),
        size: 1 << 30,
        block_size: 512,
    };
    Piece { device: Arc::new(device), offset, len }
}

fn blocks(parts: &[Part]) -> Vec<(u32, u64, u32, u64)> {
    let of_part = |part: &Part| {
        let starts = part.ranges.iter().scan(part.target, |at, range| Some(std::mem::replace(at, *at + range.blocks)));
        let minor = part.device.minor;
        let each = |(target, range): (u64, &Range)| {
            (0..range.blocks).map(move |i| (minor, target + i, range.nsid, range.lba + i)).collect::<Vec<_>>()
        };
        starts.zip(&part.ranges).flat_map(|(target, range)| each((target, range))).collect::<Vec<_>>()
    };
    parts.iter().flat_map(of_part).collect()
}

proptest! {
    #[test]
    fn cutting_keeps_order_and_limits(
        lengths in proptest::collection::vec(1..40u64, 1..8),
        splits in proptest::collection::vec(1..30u64, 0..6),
        limits in (1..20u64, 1..40u64, 1..5u32),
        across in any::<bool>(),
    ) {
        let limits = Limits { block_size: 512, range_blocks: limits.0, command_blocks: limits.1, ranges: limits.2, across };
        let sources: Vec<Piece> = (0..).zip(&lengths).map(|(i, len)| piece(if across { i % 3 } else { 0 }, u64::from(i) * 100 * 512, len * 512)).collect();
        let total: u64 = lengths.iter().sum();
        let mut target = Vec::new();
        let mut left = total;
        for split in splits {
            let len = split.min(left);
            if len > 0 {
                target.push(piece(0, (1000 + target.len() as u64 * 50) * 512, len * 512));
            }
            left -= len;
        }
        if left > 0 {
            target.push(piece(0, 5000 * 512, left * 512));
        }
        let expected: Vec<(u32, u64, u32, u64)> = {
            let spread = |pieces: &[Piece]| pieces.iter().flat_map(|p| (0..p.len / 512).map(|i| (p.device.number.minor, p.offset / 512 + i)).collect::<Vec<_>>()).collect::<Vec<_>>();
            spread(&target).into_iter().zip(spread(&sources)).map(|(to, from)| (to.0, to.1, from.0 + 1, from.1)).collect()
        };
        let parts = carve(sources, target, &limits, &|device| Some(device.minor + 1)).unwrap();
        prop_assert_eq!(blocks(&parts), expected);
        for part in &parts {
            prop_assert!(part.ranges.len() <= limits.ranges as usize && part.blocks() <= limits.command_blocks);
            prop_assert!(part.ranges.iter().all(|range| range.blocks > 0 && range.blocks <= limits.range_blocks));
            prop_assert!(part.ranges.iter().all(|range| range.nsid == part.ranges[0].nsid), "drives read them all from the first one's namespace");
        }
    }
}

#[test]
fn what_cannot_be_cut_says_why() {
    let limits = Limits { block_size: 4096, range_blocks: 8, command_blocks: 8, ranges: 2, across: false };
    let nsid = |device: DevNumber| (device.minor < 5).then_some(1);
    let why = |from, to| carve(vec![from], vec![to], &limits, &nsid).unwrap_err();
    assert!(why(piece(0, 0, 4096), piece(1, 0, 4096)).contains("different namespaces"));
    assert!(why(piece(0, 512, 4096), piece(0, 8192, 4096)).contains("whole blocks"));
    assert!(why(piece(0, 0, 4096), piece(0, 8192, 8192)).contains("sources end"));
    assert!(why(piece(0, 0, 8192), piece(0, 8192, 4096)).contains("target ends"));
    assert!(why(piece(7, 0, 4096), piece(7, 8192, 4096)).contains("not open"));
}
