//! A worker: takes leases from the masters and runs what they name.

mod options;

use std::process::ExitCode;

pub use options::WorkerOptions;

/// Runs one worker until it is told to stop.
pub async fn run(options: WorkerOptions) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no worker in it, so it cannot start {options:?}")
}
