//! Both roads against a naive model: whatever the sources, targets, limits and faults, what is counted is right, and nothing
//! else changed.

use super::*;
use crate::EngineConfig;
use proptest::prelude::*;
use scsi_target::{Code, Fault, Key, Refusal, TokenConfig, TokenKind, XcopyConfig};

const ZONES: u64 = 12;

/// From a device, ranges of first block and blocks, to a device.
type Copied = (u8, Vec<(u64, u64)>, u8);

#[derive(Clone, Debug)]
struct Case {
    road: Road,
    block: u32,
    xcopy: XcopyConfig,
    tokens: TokenConfig,
    descriptor_sense: bool,
    copies: Vec<Copied>,
    fault: Option<Fault>,
}

fn xcopy() -> impl Strategy<Value = XcopyConfig> {
    (
        any::<bool>(),
        1u16..9,
        prop::sample::select(vec![120u32, 500, 4096]),
        prop::sample::select(vec![0u32, 4096, 9000, 40_000]),
        any::<bool>(),
    )
        .prop_map(|(no_list_id, max_segments, max_list_bytes, max_segment_bytes, advertised)| XcopyConfig {
            no_list_id,
            max_cscds: 2,
            max_segments,
            max_list_bytes,
            max_segment_bytes,
            advertised: advertised || max_segment_bytes != 0,
        })
}

fn tokens() -> impl Strategy<Value = TokenConfig> {
    let kinds = prop::sample::select(vec![TokenKind::PointInTime, TokenKind::ChangeVulnerable, TokenKind::AccessUponReference]);
    (kinds, 0u16..7, prop::sample::select(vec![0u64, 8, 13, 50]), prop::sample::select(vec![0u64, 1, 5]), 0u64..40, any::<bool>()).prop_map(
        |(kind, max_ranges, max_blocks, truncate_at, operation_ms, immediate)| TokenConfig {
            kind,
            max_ranges,
            max_blocks,
            truncate_at,
            operation_ms,
            immediate,
            ..TokenConfig::default()
        },
    )
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    let lbas = || (0u64..ZONES * ZONE).prop_map(|lba| lba..lba + 2);
    let refusals = prop::sample::select(vec![
        Refusal::Status(0x18),
        Refusal::Status(0x08),
        Refusal::check(Key::UnitAttention, Code::POWER_ON),
        Refusal::check(Key::IllegalRequest, Code::TOKEN_EXPIRED),
        Refusal::check(Key::IllegalRequest, Code::TOO_MANY_SEGMENTS),
        Refusal::check(Key::IllegalRequest, Code::INVALID_FIELD_IN_LIST),
        Refusal::check(Key::CopyAborted, Code::THIRD_PARTY_DEVICE_FAILURE),
        Refusal::check(Key::HardwareError, Code(0x44, 0)),
    ]);
    let commands = prop::sample::select(vec![(0x83, 0x00), (0x83, 0x10), (0x83, 0x11), (0x84, 0x07), (0x84, 0x03), (0x12, 0)]);
    prop_oneof![
        3 => Just(None),
        1 => (0usize..2, lbas()).prop_map(|(disk, lbas)| Some(Fault::Unreadable { disk, lbas })),
        1 => (0usize..2, lbas()).prop_map(|(disk, lbas)| Some(Fault::Unwritable { disk, lbas })),
        2 => (0usize..2, commands, 0u32..4, refusals).prop_map(|(disk, command, skip, with)| Some(Fault::Refuse { disk, command, skip, with })),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    // Sources lie in the first half, targets in the second.
    let range = (0u64..ZONES / 2 * ZONE - 16, 1u64..9).prop_map(|(lba, blocks)| (lba, blocks));
    let copy = (0u8..2, prop::collection::vec(range, 1..8), 0u8..2);
    let road = prop::sample::select(vec![Road::ScsiXcopy, Road::ScsiToken]);
    let block = prop::sample::select(vec![512u32, 4096]);
    (road, block, xcopy(), tokens(), any::<bool>(), prop::collection::vec(copy, 1..5), fault()).prop_map(
        |(road, block, xcopy, tokens, descriptor_sense, copies, fault)| Case {
            road,
            block,
            xcopy,
            tokens,
            descriptor_sense,
            copies,
            fault,
        },
    )
}

fn run(case: &Case) -> Result<(), TestCaseError> {
    let config = |number| DiskConfig {
        xcopy: Some(case.xcopy.clone()),
        tokens: Some(case.tokens.clone()),
        descriptor_sense: case.descriptor_sense,
        ..DiskConfig::new(number, ZONES * ZONE, case.block)
    };
    let lab = Lab::new(case.road, vec![config(1), config(2)], EngineConfig::default());
    let mut model: Vec<Vec<u8>> = (0..2).map(|disk| lab.wire.target().bytes(disk).to_vec()).collect();
    lab.wire.target().inject(case.fault.clone().unwrap_or(Fault::Unreadable { disk: 9, lbas: 0..0 }));
    let block = case.block as usize;
    for (index, (from, ranges, to)) in case.copies.iter().enumerate() {
        let sources: Vec<SourceRange> = ranges.iter().map(|(lba, blocks)| lab.source(*from, *lba, *blocks)).collect();
        let target = lab.target(*to, (ZONES / 2) as u32 + index as u32);
        let total: usize = ranges.iter().map(|(_, blocks)| *blocks as usize * block).sum();
        let expected: Vec<u8> = ranges
            .iter()
            .flat_map(|(lba, blocks)| model[usize::from(*from)][*lba as usize * block..(lba + blocks) as usize * block].to_vec())
            .collect();
        let result = lab.copy(sources.clone(), target);
        let done: usize = ranges.iter().take(result.sources_done).map(|(_, blocks)| *blocks as usize * block).sum();
        prop_assert_eq!(result.bytes_done as usize, done);
        prop_assert_eq!(result.failure.is_none(), result.sources_done == ranges.len());
        if case.fault.is_none() {
            let closed = lab.engine.route(DeviceId(*from), DeviceId(*to));
            // A limit that is too small for one filesystem block leaves no road.
            prop_assert!(result.failure.is_none() || closed.road == Road::Host, "{:?} {}", result, closed.reason);
        }
        let at = target.lba.0 as usize * block;
        for disk in 0..2u8 {
            let now = lab.wire.target().bytes(usize::from(disk)).to_vec();
            let before = &mut model[usize::from(disk)];
            if disk == *to {
                prop_assert!(now[at..at + done] == expected[..done], "what counts as done differs");
                // Behind it lies what a failure left: dead space, within what was asked for.
                before[at..at + total].copy_from_slice(&now[at..at + total]);
            }
            prop_assert!(now == *before, "a neighbour changed on disk {}", disk);
        }
    }
    let counters = lab.engine.counters(IoClass::Cleaning);
    prop_assert_eq!((counters.host_read, counters.host_written), (0, 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn both_roads_do_what_a_naive_copy_does(case in case()) {
        run(&case)?;
    }
}

/// Found by the test above: one segment per command, said by nobody.
#[test]
fn a_limit_of_one_segment_is_learned() {
    let copies = [
        vec![(0, vec![(0, 6), (0, 1), (9, 1), (58, 7)], 0)],
        vec![(0, vec![(260, 8), (336, 2), (222, 5)], 0), (1, vec![(41, 4), (84, 2), (16, 4), (314, 3), (238, 2), (346, 4), (14, 3)], 1)],
    ];
    for copies in copies {
        let xcopy =
            XcopyConfig { no_list_id: false, max_cscds: 2, max_segments: 1, max_list_bytes: 120, max_segment_bytes: 0, advertised: false };
        let case =
            Case { road: Road::ScsiXcopy, block: 512, xcopy, tokens: TokenConfig::default(), descriptor_sense: false, copies, fault: None };
        run(&case).unwrap();
    }
}
