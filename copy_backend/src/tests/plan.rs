//! The planner against a naive one that works unit by unit.

use crate::plan::{UNIT, beginning, check, plan, rest};
use crate::{CopyCaps, CopyError, Road, SourceRange, Target};
use proptest::prelude::*;
use zns::{Blocks, DeviceId, DeviceKind, Geometry, IoClass, Lba};

fn geometry(block_size: u32, zone_bytes: u64, capacity_bytes: u64) -> Geometry {
    let blocks = |bytes: u64| Blocks(bytes / u64::from(block_size));
    Geometry {
        kind: DeviceKind::Zns,
        block_size,
        zones: 24,
        zone_size: blocks(zone_bytes),
        zone_capacity: blocks(capacity_bytes),
        max_open: 0,
        max_active: 0,
        max_io_bytes: 1 << 20,
        software_zones: false,
    }
}

fn caps(range: u64, command: u64, ranges: u32) -> CopyCaps {
    CopyCaps { road: Road::Image, max_range_bytes: range, max_command_bytes: command, max_ranges: ranges, simulated: true }
}

fn range(device: u8, lba: u64, blocks: u64) -> SourceRange {
    SourceRange { device: DeviceId(device), lba: Lba(lba), blocks: Blocks(blocks) }
}

fn target(lba: u64) -> Target {
    Target { device: DeviceId(0), lba: Lba(lba) }
}

#[test]
fn neighbours_are_joined_and_limits_split() {
    let devices = [geometry(4096, 1 << 20, 1 << 20)];
    let list = [range(0, 0, 2), range(0, 2, 3), range(0, 9, 1), range(0, 250, 12)];
    let commands = plan(&devices[..], &list, target(1024), &caps(4 * 4096, 8 * 4096, 3), IoClass::Copy).unwrap();
    let lists: Vec<_> = commands.iter().map(|c| (c.target.lba.0, c.sources.clone())).collect();
    assert_eq!(
        lists,
        vec![
            (1024, vec![range(0, 0, 4), range(0, 4, 1), range(0, 9, 1)]),
            (1030, vec![range(0, 250, 4), range(0, 254, 2), range(0, 256, 2)]),
            (1038, vec![range(0, 258, 4)]),
        ],
        "split at the zone's end (block 256), at four blocks a range, eight a command, three ranges"
    );
}

#[test]
fn senseless_requests_are_refused() {
    let devices = [geometry(512, 1 << 20, 1 << 20), geometry(4096, 1 << 20, 768 << 10)];
    let refused = |sources: &[SourceRange], target| {
        assert!(matches!(check(&devices[..], sources, target), Err(CopyError::Invalid(_))), "{sources:?} {target:?}");
    };
    let on_second = |lba| Target { device: DeviceId(1), lba: Lba(lba) };
    refused(&[], target(0));
    refused(&[range(0, 0, 0)], target(2048));
    refused(&[range(0, 0, 8), range(0, 8, 0)], target(2048));
    refused(&[range(2, 0, 8)], target(2048));
    refused(&[range(0, 24 * 2048 - 4, 8)], target(2048));
    refused(&[range(0, u64::MAX, 8)], target(2048));
    refused(&[range(0, 0, 7)], on_second(256));
    refused(&[range(1, 188, 8)], target(2048));
    refused(&[range(0, 0, 8)], target(24 * 2048));
    refused(&[range(0, 0, 8)], target(u64::MAX));
    refused(&[range(0, 0, 16)], target(2 * 2048 - 8));
    refused(&[range(0, 0, 16)], on_second(191));
    refused(&[range(0, 0, 16)], target(15));
    refused(&[range(0, 20, 16)], target(15));
    assert_eq!(check(&devices[..], &[range(0, 0, 16)], target(16)).unwrap(), 8192);
    assert_eq!(check(&devices[..], &[range(0, 0, 16)], on_second(190)).unwrap(), 8192);
    let tiny = plan(&devices[..], &[range(0, 0, 8)], on_second(0), &caps(512, 4096, 1), IoClass::Copy);
    assert!(matches!(tiny, Err(CopyError::Invalid(_))));
}

/// The fewest commands at the granularity of units: fill each as far as it goes.
fn naive(units: &[(u8, u64)], per_unit: u64, zone_blocks: u64, caps: &CopyCaps) -> usize {
    let (mut commands, mut ranges, mut command_bytes, mut range_bytes) = (0, 0, 0, 0);
    let mut last: Option<(u8, u64)> = None;
    for (device, lba) in units {
        let joins = last.is_some_and(|(d, l)| d == *device && l + per_unit == *lba && lba % zone_blocks != 0)
            && range_bytes + UNIT <= caps.max_range_bytes;
        let fits = commands > 0
            && last.is_some_and(|(d, _)| d == *device)
            && command_bytes + UNIT <= caps.max_command_bytes
            && (joins || ranges < caps.max_ranges);
        if !fits {
            commands += 1;
            (ranges, command_bytes, range_bytes) = (1, 0, 0);
        } else if !joins {
            ranges += 1;
            range_bytes = 0;
        }
        command_bytes += UNIT;
        range_bytes += UNIT;
        last = Some((*device, *lba));
    }
    commands
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn commands_cover_exactly_the_request_within_every_limit(
        small in any::<bool>(),
        units in any::<bool>(),
        steps in proptest::collection::vec((0..3u64, 0..200u64, 1..40u64, 0..2u8), 1..30),
        limits in (1..40u64, 1..80u64, 1..6u32),
    ) {
        let block = if small { 512 } else { 4096 };
        let per = if units { UNIT / block } else { 1 };
        let geometries = [geometry(block as u32, 1 << 18, 1 << 18), geometry(block as u32, 1 << 18, 1 << 18), geometry(block as u32, 1 << 24, 1 << 24)];
        // Many sources follow the one before.
        let mut sources: Vec<SourceRange> = Vec::new();
        for (jump, at, len, device) in steps {
            let next = match sources.last() {
                Some(last) if jump > 0 => SourceRange { lba: last.lba + last.blocks, blocks: Blocks(len * per), ..*last },
                _ => range(device, at * per, len * per),
            };
            sources.push(next);
        }
        let unit = if units { UNIT } else { block };
        let caps = caps(limits.0 * unit, limits.1 * unit, limits.2);
        let target = Target { device: DeviceId(2), lba: Lba(0) };
        let commands = plan(&geometries[..], &sources, target, &caps, IoClass::Cleaning).unwrap();

        let expand = |ranges: &[SourceRange]| -> Vec<(u8, u64)> {
            ranges.iter().flat_map(|r| (r.lba.0..r.lba.0 + r.blocks.0).map(|lba| (r.device.0, lba))).collect()
        };
        let all: Vec<SourceRange> = commands.iter().flat_map(|command| command.sources.clone()).collect();
        prop_assert_eq!(expand(&all), expand(&sources));
        let mut at = target.lba;
        for command in &commands {
            prop_assert_eq!(command.target.lba, at);
            let blocks: u64 = command.sources.iter().map(|source| source.blocks.0).sum();
            at = at + Blocks(blocks);
            prop_assert!(command.sources.len() <= caps.max_ranges as usize);
            prop_assert!(blocks * block <= caps.max_command_bytes);
            for source in &command.sources {
                let zone = 1 << 18 >> block.trailing_zeros();
                prop_assert!(source.blocks.0 * block <= caps.max_range_bytes);
                prop_assert_eq!(source.device, command.sources[0].device);
                prop_assert_eq!(source.lba.0 / zone, (source.lba.0 + source.blocks.0 - 1) / zone);
            }
            if units {
                prop_assert!((at.0 * block).is_multiple_of(UNIT), "cuts fall between units");
            }
        }
        if units {
            let per_unit: Vec<(u8, u64)> = expand(&sources).into_iter().step_by(per as usize).collect();
            prop_assert_eq!(commands.len(), naive(&per_unit, per, (1 << 18) / block, &caps));
        }

        // The first command is known by the beginning of the request.
        let start = beginning(&geometries[..], &sources, target.device, caps.max_command_bytes).unwrap();
        let alone = plan(&geometries[..], &start, target, &caps, IoClass::Cleaning).unwrap();
        prop_assert_eq!(&alone[0], &commands[0]);
        let held: u64 = start.iter().map(|source| source.blocks.0 * block).sum();
        prop_assert!(held < caps.max_command_bytes + UNIT, "and that is short");

        // The rest after each command is what the later commands carry.
        let first: u64 = commands[0].sources.iter().map(|source| source.blocks.0 * block).sum();
        let rest = rest(&geometries[..], &sources, first).unwrap();
        prop_assert_eq!(expand(&rest), expand(&all[commands[0].sources.len()..]));
    }
}
