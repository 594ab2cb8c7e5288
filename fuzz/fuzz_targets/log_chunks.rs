//! Fuzz target: chunks and markers of the log on disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_storage::fuzzing::log_chunks(data));
