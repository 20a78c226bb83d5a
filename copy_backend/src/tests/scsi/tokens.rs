//! Tokens: limits, partial ones, ones that expire, operations that take their time, refusals.

use super::*;
use crate::FailureKind;
use scsi_target::{Code, Fault, Key, Refusal, TokenConfig, TokenKind};

fn disks(tokens: TokenConfig) -> Vec<DiskConfig> {
    (1..3).map(|number| DiskConfig { xcopy: None, tokens: Some(tokens.clone()), ..DiskConfig::new(number, 40 * ZONE, 4096) }).collect()
}

fn lab(tokens: TokenConfig) -> Lab {
    Lab::new(Road::ScsiToken, disks(tokens), EngineConfig::default())
}

fn scattered(lab: &Lab, device: u8) -> Vec<SourceRange> {
    (0..9).map(|i| lab.source(device, i * 97 + i, 1 + i % 8)).collect()
}

fn prove(lab: &Lab, from: u8, to: u8) {
    let result = lab.copy(vec![lab.source(from, 1, 1)], lab.target(to, 39));
    assert_eq!((result.failure, result.road), (None, Road::ScsiToken));
}

/// Copies the scattered sources to zone 20 and expects them there.
fn expect_all(lab: &Lab, from: u8, to: u8) {
    let (sources, target) = (scattered(lab, from), lab.target(to, 20));
    let (expected, behind) = (lab.contents(&sources), lab.bytes(to, target.lba.0 + 37, 30));
    let result = lab.copy(sources, target);
    assert_eq!((result.sources_done, result.failure, result.end_zone), (9, None, false));
    assert!(lab.bytes(to, target.lba.0, 37) == expected);
    assert!(lab.bytes(to, target.lba.0 + 37, 30) == behind);
    let counters = lab.engine.counters(IoClass::Cleaning);
    assert_eq!((counters.host_read, counters.host_written), (0, 0));
}

#[test]
fn many_ranges_become_one_token_and_one_range() {
    for kind in [TokenKind::PointInTime, TokenKind::ChangeVulnerable, TokenKind::AccessUponReference] {
        let lab = lab(TokenConfig { kind, max_ranges: 9, ..TokenConfig::default() });
        for (from, to) in [(0, 0), (0, 1), (1, 0)] {
            prove(&lab, from, to);
            let before = (lab.count(0x83, 0x10), lab.count(0x83, 0x11), lab.count(0x84, 0x07));
            expect_all(&lab, from, to);
            let after = (lab.count(0x83, 0x10), lab.count(0x83, 0x11), lab.count(0x84, 0x07));
            assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (1, 1, 2));
        }
    }
}

#[test]
fn limits_of_ranges_and_blocks_cut_the_commands() {
    let lab = lab(TokenConfig { max_ranges: 3, max_blocks: 11, ..TokenConfig::default() });
    prove(&lab, 0, 1);
    let status = lab.engine.route(DeviceId(0), DeviceId(1));
    assert_eq!((status.road, status.limits.max_ranges, status.limits.max_command_bytes), (Road::ScsiToken, 3, 11 * 4096));
    expect_all(&lab, 0, 1);
}

#[test]
fn tokens_that_stand_for_less_are_followed_by_others() {
    let lab = lab(TokenConfig { truncate_at: 5, max_ranges: 9, ..TokenConfig::default() });
    prove(&lab, 0, 1);
    let before = lab.count(0x83, 0x10);
    expect_all(&lab, 0, 1);
    // 37 blocks, five in a token.
    assert_eq!(lab.count(0x83, 0x10) - before, 8);
}

#[test]
fn a_source_that_is_named_twice_needs_two_tokens() {
    let lab = lab(TokenConfig::default());
    prove(&lab, 0, 1);
    let sources = vec![lab.source(0, 10, 6), lab.source(0, 12, 2), lab.source(0, 40, 1)];
    let (expected, target) = (lab.contents(&sources), lab.target(1, 20));
    let result = lab.copy(sources, target);
    assert_eq!((result.sources_done, result.failure), (3, None));
    assert!(lab.bytes(1, target.lba.0, 9) == expected);
}

#[test]
fn operations_that_take_their_time_are_asked_about() {
    for immediate in [true, false] {
        let lab = lab(TokenConfig { operation_ms: 95, immediate, ..TokenConfig::default() });
        prove(&lab, 0, 1);
        let before = lab.count(0x84, 0x07);
        expect_all(&lab, 0, 1);
        let asked = lab.count(0x84, 0x07) - before;
        // Two tokens (eight ranges in one), ten milliseconds between questions or more: fewer are asked where the machine is busy.
        if immediate { assert!((4..=48).contains(&asked), "{asked}") } else { assert_eq!(asked, 4) }
    }
}

#[test]
fn an_operation_that_never_ends_is_given_up_and_aborted() {
    let lab = lab(TokenConfig { operation_ms: 10_000_000, ..TokenConfig::default() });
    let result = lab.copy(scattered(&lab, 0), lab.target(1, 20));
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::Transient), true));
    assert_eq!(lab.count(0x83, 0x1c), 1);
    assert_eq!(lab.wire.target().counters().copied_bytes, 0);
}

/// Lets WRITE USING TOKEN be refused `times` times with a code.
fn refuse(lab: &Lab, times: u32, code: Code) {
    for _ in 0..times {
        let with = Refusal::check(Key::IllegalRequest, code);
        lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x83, 0x11), skip: 0, with });
    }
}

#[test]
fn a_token_that_is_gone_is_made_again_once_and_then_it_is_a_fallback() {
    for code in [Code::TOKEN_EXPIRED, Code::TOKEN_UNKNOWN, Code::TOKEN_REVOKED, Code::TOKEN_CORRUPT, Code(0x23, 0x00)] {
        let lab = lab(TokenConfig { max_ranges: 9, ..TokenConfig::default() });
        prove(&lab, 0, 1);
        refuse(&lab, 1, code);
        expect_all(&lab, 0, 1);
        refuse(&lab, 2, code);
        let target = lab.target(1, 21);
        let result = lab.copy(scattered(&lab, 0), target);
        assert_eq!((result.sources_done, result.failure), (0, Some(FailureKind::Transient)));
        // All that it was asked for is the host's; the road stays open.
        assert_eq!(result.for_host, 9);
        assert_eq!(lab.engine.road_for(DeviceId(0), DeviceId(1)).unwrap(), RoadPreference::Offload);
        assert_eq!(lab.engine.route(DeviceId(0), DeviceId(1)).road, Road::ScsiToken);
        assert_eq!(lab.engine.counters(IoClass::Cleaning).fallbacks["transient"], 1);
    }
}

#[test]
fn tokens_expire_by_the_clock_of_the_target() {
    // A token of one second, an operation of three: it has expired when it is used.
    let mut configs = disks(TokenConfig { default_inactivity: 1, ..TokenConfig::default() });
    configs[0].tokens.as_mut().unwrap().operation_ms = 0;
    let lab = Lab::new(Road::ScsiToken, configs, EngineConfig::default());
    prove(&lab, 0, 1);
    // A unit that is busy for so long that the token does not live to see it: 10 + 20 + ... + 640 ms, twice.
    for _ in 0..7 {
        lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x83, 0x11), skip: 0, with: Refusal::Status(0x08) });
    }
    expect_all(&lab, 0, 1);
}

#[test]
fn a_copy_manager_that_takes_no_tokens_of_others_closes_the_road_between_them() {
    let lab = lab(TokenConfig { remote: false, ..TokenConfig::default() });
    let result = lab.copy(scattered(&lab, 0), lab.target(1, 20));
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::Unsupported), false));
    let reason = lab.engine.route(DeviceId(0), DeviceId(1)).reason;
    assert!(reason.contains("REMOTE TOKEN USAGE NOT SUPPORTED"), "{reason}");
    prove(&lab, 0, 0);
    expect_all(&lab, 0, 0);
}

#[test]
fn media_that_fail_are_told_apart_and_counted() {
    let lab = lab(TokenConfig { max_ranges: 9, ..TokenConfig::default() });
    prove(&lab, 0, 1);
    let sources = scattered(&lab, 0);
    let target = lab.target(1, 20);
    lab.wire.target().inject(Fault::Unwritable { disk: 1, lbas: target.lba.0 + 7..target.lba.0 + 8 });
    let result = lab.copy(sources.clone(), target);
    // 1 + 2 + 3 blocks are there, and one more that is of no use.
    assert_eq!((result.sources_done, result.failure, result.end_zone), (3, Some(FailureKind::DestinationMedia), true));
    assert!(lab.bytes(1, target.lba.0, 6) == lab.contents(&sources[..3]));
    lab.wire.target().mend();
    let bad = sources[4].lba.0;
    lab.wire.target().inject(Fault::Unreadable { disk: 0, lbas: bad..bad + 1 });
    let result = lab.copy(sources, lab.target(1, 21));
    assert_eq!((result.sources_done, result.failure, result.unreadable), (0, Some(FailureKind::SourceMedia), Some(4)));
}

#[test]
fn no_road_and_the_reason_why() {
    let why = |configs: Vec<DiskConfig>| {
        let lab = Lab::new(Road::ScsiToken, configs, EngineConfig::default());
        let last = lab.devices.len() as u8 - 1;
        lab.engine.route(DeviceId(0), DeviceId(last)).reason
    };
    assert!(why(vec![DiskConfig { tokens: None, ..DiskConfig::new(1, 40 * ZONE, 4096) }]).contains("knows no tokens"));
    assert!(why(vec![DiskConfig::new(1, 40 * ZONE, 4096), DiskConfig::new(2, 40 * ZONE, 512)]).contains("blocks of 4096"));
}

#[test]
fn a_copy_that_cannot_be_asked_about_is_aborted_before_it_is_given_up() {
    let lab = lab(TokenConfig { operation_ms: 60_000, ..TokenConfig::default() });
    let target = lab.target(1, 20);
    let before = lab.bytes(1, target.lba.0, ZONE);
    // The token is made; then nobody answers for the unit that is written to.
    for _ in 0..3 {
        let with = Refusal::check(Key::HardwareError, Code(0x44, 0));
        lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x84, 0x07), skip: 0, with });
    }
    let result = lab.copy(scattered(&lab, 0), target);
    assert_eq!((result.sources_done, result.failure, result.end_zone), (0, Some(FailureKind::Transient), true));
    lab.wire.target().advance(1_000_000);
    let _ = lab.wire.target().execute(1, &[0; 6], &[]);
    assert!(lab.bytes(1, target.lba.0, ZONE) == before, "it wrote after it was given up");
    // A question that fails once is asked again.
    let with = Refusal::check(Key::HardwareError, Code(0x44, 0));
    lab.wire.target().inject(Fault::Refuse { disk: 1, command: (0x84, 0x07), skip: 0, with });
    expect_all(&lab, 0, 1);
}
