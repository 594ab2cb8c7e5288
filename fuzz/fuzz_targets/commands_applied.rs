//! Fuzz target: commands, applied to a table.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_table::testing::fuzzing::commands_applied(data));
