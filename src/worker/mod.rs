//! `triarch worker`: a worker that runs commands.
//!
//! The runtime is the SDK's; what is here is what it runs ([`exec`]), how it is set up, and how it is told to go: the
//! first SIGTERM or SIGINT has it finish and hand back the rest, the second has it go at once.

mod captured_output;
mod exec;
mod options;
mod orphan_reaper;
mod process;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use triarch_sdk::wire::Register;
use triarch_sdk::{Client, ClientOptions, Shutdown, WorkerConfig, parse_masters};

pub use exec::ExecExecutor;
use exec::ExecLimits;

pub use options::WorkerOptions;

/// A command that was killed is gone by then; an attempt that is not is given up.
const AFTER_KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Runs one worker until it is told to stop.
pub async fn run(options: WorkerOptions) -> anyhow::Result<ExitCode> {
    let masters = parse_masters(&options.masters.join(","))?;
    // A master that is silent must not keep a worker from finding the others: its leases are running.
    let client_options = ClientOptions {
        answer_timeout: Duration::from_secs(2),
        ..ClientOptions::default()
    };
    let client = Client::with_options(&masters, client_options)?;
    let config = WorkerConfig {
        grace: options.drain,
        abandon_after: ExecLimits::default().kill_grace + AFTER_KILL_PATIENCE,
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
    let signals = tokio::spawn(obey_signals(
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        shutdown.clone(),
    ));
    let worked = triarch_sdk::worker::run(client, config, executor, shutdown).await;
    signals.abort();
    worked?;
    Ok(ExitCode::SUCCESS)
}

/// What runs `exec` tasks.
pub fn exec_executor() -> std::io::Result<ExecExecutor> {
    ExecExecutor::new(ExecLimits::default())
}

async fn obey_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: Shutdown) {
    let mut asked = false;
    loop {
        tokio::select! {
            Some(()) = terminate.recv() => {}
            Some(()) = interrupt.recv() => {}
            else => return,
        }
        if asked {
            tracing::warn!("told to go at once");
            shutdown.now();
        } else {
            tracing::info!("told to go: finishing what runs");
            shutdown.finish();
        }
        asked = true;
    }
}

/// The host's name and the process id: unique, and telling where to look.
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
