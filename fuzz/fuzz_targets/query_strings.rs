//! Fuzz target: query strings of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_node::fuzzing::query_string(data));
