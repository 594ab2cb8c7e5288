//! Bodies of requests, through the strict reader of the interface.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch::fuzzing::api_body(data));
