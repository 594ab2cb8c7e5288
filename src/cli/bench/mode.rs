//! Modes of the benchmark.

use clap::ValueEnum;
use serde::Serialize;

/// Workload of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Whole lifecycles: submitted, leased, reported. As fast as it goes.
    #[value(alias = "whole")]
    #[serde(rename = "whole")]
    Lifecycle,
    /// Submissions alone; nobody runs them.
    Submit,
    /// Processes: `true`, by the worker that `triarch worker` runs.
    Exec,
    /// One after the other: submitted, run, and seen by the client that waits for it.
    RoundTrip,
    /// Many workers that wait, with their heartbeats, and little to do for them.
    Idle,
    /// Submissions, reads and lists beside each other.
    Mixed,
}
