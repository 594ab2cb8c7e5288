//! Fuzz target: commands in their log format.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_table::testing::fuzzing::command(data));
