//! Fuzz target: the file of a snapshot.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_storage::fuzzing::snapshot_file(data));
