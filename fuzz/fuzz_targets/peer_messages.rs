//! Fuzz target: messages between masters.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_raft::testing::fuzzing::peer_message(data));
