//! Checks of a cluster after or during a test: acknowledged jobs, replicated digests, metrics, schedules.

pub mod acknowledged_jobs;
pub mod digests;
pub mod exposition;
pub mod founding_level;
pub mod schedule_ticks;
