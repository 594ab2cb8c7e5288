//! Fuzz target: cron expressions and names of time zones.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| triarch_node::fuzzing::cron(data));
