//! Fuzz target: bodies of requests, through the strict JSON reader of the HTTP interface.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_node::fuzzing::api_body(data));
