//! Load on a cluster while a test runs.

pub mod mixed_workload;
pub mod submissions;
