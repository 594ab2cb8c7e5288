//! Results of a drill: its history, the latencies that clients saw, and the report.

pub mod elections;
pub mod history_log;
pub mod latency;
pub mod outage;
pub mod report;
