//! See `tests::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (tests::fuzzing::target("scsi").run)(data));
