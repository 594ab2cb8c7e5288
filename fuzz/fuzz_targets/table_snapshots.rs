//! Fuzz target: the table inside a snapshot.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_table::testing::fuzzing::snapshot(data));
