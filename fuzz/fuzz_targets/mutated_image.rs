//! See `tests::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (tests::fuzzing::target("mutated_image").run)(data));
