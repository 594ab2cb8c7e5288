//! Modes of the benchmark.

use clap::ValueEnum;
use serde::Serialize;

/// Workload of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Whole lifecycles: submit, lease and report, at maximum speed.
    #[value(alias = "whole")]
    #[serde(rename = "whole")]
    Lifecycle,
    /// Submissions only; no worker runs the tasks.
    Submit,
    /// Processes: the command `true`, run by the worker of `triarch worker`.
    Exec,
    /// Round trips: each client submits a task, waits until it sees its end, and begins again.
    RoundTrip,
    /// Cost of many idle workers with held polls and heartbeats; with --rate, some tasks for them.
    Idle,
    /// Concurrent submissions, single reads and lists, with workers.
    Mixed,
}
