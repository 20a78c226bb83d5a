//! Byte images: what goes over the wire, and what is read from it.

use crate::FailureKind;
use crate::scsi::block_limits::BlockLimits;
use crate::scsi::capacity::Capacity;
use crate::scsi::designator::Designator;
use crate::scsi::extended_copy::{self, Cscd, ListId, Segment};
use crate::scsi::inquiry::{self, Inquiry};
use crate::scsi::operating_parameters::{self, OperatingParameters};
use crate::scsi::outcome;
use crate::scsi::sense::{Additional, Sense, SenseKey};
use crate::scsi::third_party::ThirdPartyCopy;
use crate::scsi::token::{self, Information, Range, Status};
use crate::scsi::{ScsiError, TransportError};

/// `offset: bytes` in a zeroed array of `len` bytes.
fn image(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn sense_data_in_both_formats() {
    let fixed = image(18, &[(0, &[0xf0, 0, 0x0a, 0, 0, 1, 2, 10, 0, 0, 0, 5, 0x0d, 0x01])]);
    let sense = Sense::parse(&fixed).unwrap();
    assert_eq!((sense.key, sense.code), (SenseKey::COPY_ABORTED, Additional(0x0d, 0x01)));
    assert_eq!((sense.information, sense.segments_done(), sense.deferred), (Some(0x102), Some(5), false));
    assert_eq!(sense.to_string(), "COPY ABORTED 0Dh/01h (THIRD PARTY DEVICE FAILURE)");
    let descriptor = [
        &[0x73, 0x0a, 0x11, 0x00, 0, 0, 0, 24, 0x00, 0x0a, 0x80, 0][..],
        &[0, 0, 0, 0, 0, 0, 0, 9],
        &[0x01, 0x0a, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 3],
    ]
    .concat();
    let sense = Sense::parse(&descriptor).unwrap();
    assert_eq!((sense.key, sense.code, sense.deferred), (SenseKey::COPY_ABORTED, Additional(0x11, 0), true));
    assert_eq!((sense.information, sense.segments_done()), (Some(9), Some(3)));
    // A key and nothing else; no sense at all; a format that nobody knows.
    assert_eq!(Sense::parse(&[0x72, 0x05]).unwrap().code, Additional(0, 0));
    assert_eq!(Sense::parse(&[0x70, 0, 6, 0, 0, 0, 0, 0]).unwrap().key, SenseKey::UNIT_ATTENTION);
    assert_eq!((Sense::parse(&[]), Sense::parse(&[0x7f; 18]), Sense::parse(&[0; 18])), (None, None, None));
    // Segments are counted for COPY ABORTED only.
    assert_eq!(Sense::parse(&image(18, &[(0, &[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 5])])).unwrap().segments_done(), None);
}

#[test]
fn standard_inquiry_data() {
    let mut bytes = image(36, &[(0, &[0x14, 0, 6, 2, 31, 0x08])]);
    bytes[8..32].copy_from_slice(b"LIO-ORG disk-a          ");
    let inquiry = Inquiry::parse(&bytes).unwrap();
    assert_eq!(inquiry, Inquiry { device_type: 0x14, third_party_copy: true, name: "LIO-ORG disk-a".into() });
    assert!(!Inquiry::parse(&[0; 36]).unwrap().third_party_copy);
    assert!(Inquiry::parse(&[0; 5]).is_err());
    assert_eq!(inquiry::command(Some(0x83)), [0x12, 1, 0x83, 0x10, 0, 0]);
}

#[test]
fn the_best_designator_is_chosen() {
    let naa6 = [&[0x01, 0x03, 0, 16, 0x60][..], &[7; 15]].concat();
    let naa3 = [&[0x01, 0x03, 0, 8, 0x30][..], &[8; 7]].concat();
    let eui = [&[0x01, 0x02, 0, 8][..], &[9; 8]].concat();
    let t10_long = [&[0x02, 0x01, 0, 30][..], &[b'x'; 30]].concat();
    let port = [&[0x01, 0x13, 0, 8][..], &[1; 8]].concat();
    let all = Designator::all(&[&port[..], &t10_long, &eui, &naa3, &naa6].concat());
    assert_eq!(all.iter().map(|d| d.kind).collect::<Vec<_>>(), [1, 2, 3, 3]);
    assert_eq!(Designator::best(&all).unwrap().bytes, naa6[4..]);
    assert_eq!(Designator::best(&all[..3]).unwrap().bytes, naa3[4..]);
    assert_eq!(Designator::best(&all[..2]).unwrap().kind, 2);
    // A name that does not fit into a descriptor is no name.
    assert_eq!(Designator::best(&all[..1]), None);
    // One that is cut off ends the page.
    assert_eq!(Designator::all(&[&eui[..], &naa6[..10]].concat()).len(), 1);
}

#[test]
fn sizes_and_limits() {
    let bytes = image(32, &[(4, &[0, 0, 0x0f, 0xff]), (8, &[0, 0, 0x10, 0])]);
    assert_eq!(Capacity::parse_16(&bytes).unwrap(), Capacity { blocks: 4096, block_size: 4096 });
    assert_eq!(Capacity::parse_10(&[0, 0, 0, 1, 0, 0, 2, 0]).unwrap(), Capacity { blocks: 2, block_size: 512 });
    assert!(Capacity::parse_16(&[0xff; 32]).is_err() && Capacity::parse_10(&[0xff; 8]).is_err() && Capacity::parse_16(&[0; 12]).is_err());
    let body = image(60, &[(4, &[0, 1, 0, 0]), (8, &[0, 0, 2, 0])]);
    assert_eq!(BlockLimits::parse(&body).unwrap(), BlockLimits { max_transfer: Some(0x10000), optimal_transfer: Some(0x200) });
    assert!(BlockLimits::parse(&body[..8]).is_err());
}

#[test]
fn copy_operating_parameters() {
    // As LIO of Linux 6.12 answers: two CSCDs, one segment of at most 256 MiB, 1024 bytes of lists.
    let bytes = image(
        46,
        &[(0, &[0, 0, 0, 42, 1]), (8, &[0, 2, 0, 1, 0, 0, 4, 0, 0x10, 0, 0, 0]), (34, &[0, 1, 1, 9, 9, 9]), (43, &[2, 0x02, 0xe4])],
    );
    let parameters = OperatingParameters::parse(&bytes).unwrap();
    assert!(parameters.no_list_id && parameters.block_to_block);
    assert_eq!((parameters.max_cscds, parameters.max_segments, parameters.max_list_bytes), (2, 1, Some(1024)));
    assert_eq!((parameters.max_segment_bytes, parameters.concurrent), (Some(256 << 20), Some(1)));
    let other = image(46, &[(0, &bytes[..44]), (44, &[0x0a, 0xe4])]);
    assert!(!OperatingParameters::parse(&other).unwrap().block_to_block);
    // What lies beyond the available data was never said.
    let cut = image(46, &[(0, &bytes), (3, &[20])]);
    assert!(OperatingParameters::parse(&cut).is_err());
    assert_eq!(operating_parameters::command(), [0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 8, 0, 0]);
}

#[test]
fn extended_copy_to_the_byte() {
    let name = Designator { code_set: 1, kind: 3, bytes: (0x60..0x70).collect() };
    let cscd = Cscd { device_type: 0x14, designator: name, block_size: 4096 };
    let segment = Segment { source: 0, destination: 1, blocks: 0x1234, from: 0x0102_0304_0506, to: 0x11_1213_1415 };
    let list = extended_copy::parameters(ListId::Discard(7), &[cscd.clone(), cscd.clone()], &[segment, segment]);
    assert_eq!(list.len(), 16 + 64 + 56);
    assert_eq!(list[..16], [7, 0x10, 0, 64, 0, 0, 0, 0, 0, 0, 0, 56, 0, 0, 0, 0]);
    let mut expected = image(32, &[(0, &[0xe4, 0x14]), (4, &[1, 3, 0, 16]), (29, &[0, 0x10, 0])]);
    expected[8..24].copy_from_slice(&(0x60..0x70).collect::<Vec<u8>>());
    assert_eq!((&list[16..48], &list[48..80]), (&expected[..], &expected[..]));
    let expected = [0x02, 0, 0, 0x18, 0, 0, 0, 1, 0, 0, 0x12, 0x34, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0x11, 0x12, 0x13, 0x14, 0x15];
    assert_eq!(list[80..108], expected);
    assert_eq!(list[108..], expected);
    assert_eq!(extended_copy::parameters(ListId::None, &[cscd], &[])[..2], [0, 0x18]);
    assert_eq!(extended_copy::command(0x10203), [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0]);
}

#[test]
fn the_third_party_copy_page() {
    let limits =
        image(36, &[(2, &[0, 32]), (10, &[0, 8, 0, 0, 2, 0x58, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x10, 0])]);
    let commands = image(16, &[(0, &[0, 1, 0, 12, 9, 0x83, 3, 0x00, 0x10, 0x11, 0x84, 2, 0x03, 0x07])]);
    let features = image(48, &[(0, &[1, 6, 0, 44, 0x46])]);
    let unknown = [0x0c, 0x00, 0, 4, 1, 2, 3, 4];
    let body = [&unknown[..], &limits, &commands, &features].concat();
    let page = ThirdPartyCopy::parse(&body).unwrap();
    let limits = page.limits.unwrap();
    assert_eq!((limits.max_ranges, limits.max_inactivity, limits.default_inactivity), (Some(8), 600, 60));
    assert_eq!((limits.max_blocks, limits.optimal_blocks), (Some(0x8000), Some(0x1000)));
    assert!(page.knows(0x83, 0x10) && page.knows(0x83, 0x11) && page.knows(0x84, 0x07) && !page.knows(0x83, 0x07));
    assert_eq!(page.remote_tokens, Some(6));
    assert!(ThirdPartyCopy::parse(&body[..20]).is_err());
}

/// Where a token lies in the answer: 0 to 3 available, 4 action, 5 status, ..., 32 sense, list length, two bytes, the token.
fn information(sense: &[u8], token: Option<u8>) -> Vec<u8> {
    let mut bytes =
        image(32, &[(4, &[0x10, 0x04, 0, 0, 0, 0, 0, 25]), (12, &[0, sense.len() as u8, sense.len() as u8, 0xf1]), (22, &[1, 2])]);
    bytes.extend(sense);
    match token {
        Some(fill) => {
            bytes.extend([0, 0, 2, 2, 0, 0]);
            bytes.extend([fill; 512]);
        }
        None => bytes.extend([0; 4]),
    }
    let available = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&available.to_be_bytes());
    bytes
}

#[test]
fn token_commands_to_the_byte() {
    let ranges = [Range { lba: 0x0102, blocks: 3 }, Range { lba: 0x0405_0607_0809, blocks: 0x0a0b_0c0d }];
    let list = token::populate(true, 0x11, &ranges);
    assert_eq!(list.len(), 48);
    assert_eq!(list[..16], [0, 46, 1, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 32]);
    assert_eq!(list[16..32], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(list[32..48], [0, 0, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0]);
    let token = Information::parse(&information(&[], Some(0xab)), 512).unwrap().token.unwrap();
    let list = token::write(false, 0x55, &token, &ranges[..1]);
    assert_eq!(list.len(), 536 + 16);
    assert_eq!(list[..16], [2, 0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x55]);
    assert!(list[16..528].iter().all(|byte| *byte == 0xab));
    assert_eq!(list[528..536], [0, 0, 0, 0, 0, 0, 0, 16]);
    assert_eq!(list[536..], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(token::command(0x10, 0x0102_0304, 48), [0x83, 0x10, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 48, 0, 0]);
    assert_eq!(token::receive_command(0x0102_0304)[..10], [0x84, 7, 1, 2, 3, 4, 0, 0, 0, 0]);
    assert_eq!(token::abort_command(5)[..6], [0x83, 0x1c, 0, 0, 0, 5]);
}

#[test]
fn token_information_in_all_states() {
    let done = Information::parse(&information(&[], Some(1)), 512).unwrap();
    assert_eq!((done.action, done.status, done.delay_ms, done.blocks), (0x10, Status::Done, Some(25), Some(0x102)));
    assert!(done.token.is_some() && done.sense.is_none());
    let sense = image(18, &[(0, &[0x70, 0, 0x0a, 0, 0, 0, 0, 10]), (12, &[0x11])]);
    let mut failed = information(&sense, None);
    (failed[5], failed[12]) = (0x02, 2);
    let failed = Information::parse(&failed, 512).unwrap();
    assert_eq!((failed.status, failed.completion_status, failed.sense.unwrap().code), (Status::Failed, 2, Additional(0x11, 0)));
    for (code, status) in
        [(0x01, Status::Done), (0x03, Status::Done), (0x10, Status::InProgress), (0x12, Status::InProgress), (0x60, Status::Terminated)]
    {
        let mut bytes = information(&[], None);
        bytes[5] = code;
        assert_eq!(Information::parse(&bytes, 512).unwrap().status, status);
    }
    let mut unknown = information(&[], None);
    unknown[5] = 0x05;
    assert!(Information::parse(&unknown, 512).is_err());
    // Transfer counts in KiB, and in something that is no whole number of blocks.
    let mut kibibytes = information(&[], None);
    kibibytes[15] = 0x01;
    assert_eq!(Information::parse(&kibibytes, 512).unwrap().blocks, Some(0x204));
    assert_eq!(Information::parse(&kibibytes, 4096).unwrap().blocks, None);
    // "Unknown" as a delay; a token that is cut off; one of a length that no token has.
    let mut never = information(&[], None);
    never[8..12].copy_from_slice(&[0xff; 4]);
    assert_eq!(Information::parse(&never, 512).unwrap().delay_ms, None);
    let whole = information(&[], Some(1));
    assert!(Information::parse(&whole[..200], 512).is_err());
    let mut short = whole;
    short[32..36].copy_from_slice(&[0, 0, 1, 0]);
    assert!(Information::parse(&short, 512).is_err());
}

#[test]
fn failures_have_their_classes() {
    let class = |key: u8, asc: u8, ascq: u8| {
        outcome::of_sense(&Sense {
            key: SenseKey(key),
            code: Additional(asc, ascq),
            deferred: false,
            information: None,
            command_specific: None,
        })
    };
    for (key, asc, ascq, kind) in [
        (0x5, 0x20, 0x00, FailureKind::Unsupported),
        (0x5, 0x24, 0x00, FailureKind::Refused),
        (0x5, 0x26, 0x00, FailureKind::Refused),
        (0xa, 0x26, 0x00, FailureKind::Refused),
        (0x5, 0x26, 0x09, FailureKind::Unsupported),
        (0x5, 0x26, 0x08, FailureKind::TooLarge),
        (0x5, 0x1a, 0x00, FailureKind::TooLarge),
        (0x5, 0x21, 0x04, FailureKind::DestinationZone),
        (0x7, 0x27, 0x08, FailureKind::DestinationZone),
        (0x7, 0x27, 0x00, FailureKind::DestinationMedia),
        (0xa, 0x0d, 0x02, FailureKind::Unsupported),
        (0xa, 0x0d, 0x01, FailureKind::Transient),
        (0xa, 0x11, 0x00, FailureKind::SourceMedia),
        (0x3, 0x0c, 0x00, FailureKind::DestinationMedia),
        (0x5, 0x23, 0x02, FailureKind::Unsupported),
        (0x5, 0x23, 0x07, FailureKind::Transient),
        (0x5, 0x55, 0x0d, FailureKind::Transient),
        (0x4, 0x44, 0x00, FailureKind::Transient),
        (0x6, 0x29, 0x00, FailureKind::Transient),
        (0xb, 0x00, 0x00, FailureKind::Transient),
    ] {
        assert_eq!(class(key, asc, ascq), kind, "{key:x} {asc:02x}/{ascq:02x}");
    }
    let transport = |error| outcome::classify(&ScsiError::Transport { command: "X", error });
    assert_eq!(transport(TransportError::NotPermitted), FailureKind::Unsupported);
    assert_eq!(transport(TransportError::Host { host: 3, driver: 0 }), FailureKind::Transient);
    assert_eq!(outcome::classify(&ScsiError::Status { command: "X", status: 0x18 }), FailureKind::Transient);
    let conflict = ScsiError::Status { command: "EXTENDED COPY", status: 0x18 };
    assert_eq!(conflict.to_string(), "EXTENDED COPY ended with status 0x18 (RESERVATION CONFLICT)");
}
