//! A cluster of real processes, and what users rely on whatever happens to it.
//!
//! One folder per area, one file per concern. Each test has a cluster of its own; nothing is timed, everything is waited for with a deadline.

mod api;
mod failover;
mod job_helpers;
mod membership;
mod operations;
mod scheduling;
mod storage;
