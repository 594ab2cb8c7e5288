//! Setup of a command worker, and its shutdown by signals.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use triarch_sdk::wire::Register;
use triarch_sdk::{Client, ClientOptions, Shutdown, WorkerConfig, parse_masters};

use super::exec::{ExecExecutor, ExecLimits};
use super::options::WorkerOptions;
use crate::signals::Signals;

/// Time after SIGKILL within which a command must have ended. After it, the attempt is abandoned.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs one worker until it shuts down.
pub async fn run(options: WorkerOptions) -> anyhow::Result<ExitCode> {
    let masters = parse_masters(&options.masters.join(","))?;
    // A silent master must not keep a worker from finding the others, because its leases are running out.
    let client_options = ClientOptions {
        answer_timeout: Duration::from_secs(2),
        ..ClientOptions::default()
    };
    let client = Client::with_options(&masters, client_options)?;
    let config = WorkerConfig {
        grace: options.shutdown_timeout,
        abandon_after: ExecLimits::default().kill_grace + KILL_TIMEOUT,
        ..WorkerConfig::new(Register {
            name: options.name.unwrap_or_else(default_name),
            queues: options.queues,
            slots: options.slots,
            labels: options.labels,
            resources: options.resources,
            ..Register::default()
        })
    };
    let executor = exec_executor().context("cannot start the thread that starts commands")?;
    let shutdown = Shutdown::new();
    let signals = Signals::listen().context("cannot set up signals")?;
    let signals = tokio::spawn(handle_signals(signals, shutdown.clone()));
    let worked = triarch_sdk::worker::run(client, config, executor, shutdown).await;
    signals.abort();
    worked?;
    Ok(ExitCode::SUCCESS)
}

/// Creates an executor of `exec` tasks with the default limits.
pub fn exec_executor() -> std::io::Result<ExecExecutor> {
    ExecExecutor::new(ExecLimits::default())
}

async fn handle_signals(mut signals: Signals, shutdown: Shutdown) {
    let name = signals.stop().await;
    tracing::info!(signal = name, "shutting down: waiting for running attempts");
    shutdown.finish();
    loop {
        let name = signals.stop().await;
        tracing::warn!(signal = name, "second signal: stopping at once");
        shutdown.now();
    }
}

/// Returns the host's name and the process id. The name is unique, and shows where the worker runs.
fn default_name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    format!(
        "{}-{}",
        host.unwrap_or_else(|| "worker".to_owned()),
        std::process::id()
    )
}
