//! A cluster of real processes, and its guarantees to users under faults and invalid requests.
//!
//! There is one folder per area and one file per concern. Each test has a cluster of its own. Tests do not measure
//! durations; they wait for conditions, with deadlines.

mod api;
mod failover;
mod job_helpers;
mod membership;
mod operations;
mod scheduling;
mod storage;
