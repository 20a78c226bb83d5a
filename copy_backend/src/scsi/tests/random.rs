//! Any bytes at all: every parser answers or refuses, and none panics (invariant I10).

use crate::scsi::block_limits::BlockLimits;
use crate::scsi::capacity::Capacity;
use crate::scsi::designator::Designator;
use crate::scsi::inquiry::{self, Inquiry};
use crate::scsi::operating_parameters::OperatingParameters;
use crate::scsi::outcome;
use crate::scsi::sense::Sense;
use crate::scsi::third_party::ThirdPartyCopy;
use crate::scsi::token::Information;
use proptest::prelude::*;

/// Bytes that look like something: the first ones are often those of a real answer.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        vec![],
        vec![0x70],
        vec![0x72],
        vec![0, 0x83],
        vec![0, 0, 2, 0x2a, 0x10, 0x01],
        vec![0, 0, 0, 32],
        vec![0, 1, 0, 12],
    ]);
    (start, prop::collection::vec(any::<u8>(), 0..900)).prop_map(|(start, rest)| [start, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in bytes(), block in prop::sample::select(vec![512u32, 4096])) {
        if let Some(sense) = Sense::parse(&bytes) {
            let _ = (sense.to_string(), sense.segments_done(), outcome::of_sense(&sense));
        }
        let _ = (Inquiry::parse(&bytes), inquiry::page(&bytes, 0x83, "page"), BlockLimits::parse(&bytes), ThirdPartyCopy::parse(&bytes));
        let _ = (Capacity::parse_10(&bytes), Capacity::parse_16(&bytes), OperatingParameters::parse(&bytes));
        let all = Designator::all(&bytes);
        prop_assert!(all.iter().map(|designator| designator.bytes.len()).sum::<usize>() <= bytes.len());
        prop_assert!(Designator::best(&all).is_none_or(|best| best.bytes.len() <= 20));
        if let Ok(information) = Information::parse(&bytes, block) {
            prop_assert!(information.token.is_none() || bytes.len() >= 512);
        }
    }
}
