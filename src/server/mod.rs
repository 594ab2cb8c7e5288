//! One master: the replicated log, the table it drives, and the HTTP interface over them.

mod options;

use std::process::ExitCode;

pub use options::{ServerOptions, Timing};

/// Runs one master until it is told to stop or cannot go on. Builds its own runtimes.
pub fn run(options: ServerOptions) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no server in it, so it cannot start {options:?}")
}
