//! Setup of a command worker, and its shutdown by signals.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use triarch_process::signals::{self, Signals};
use triarch_sdk::wire::Register;
use triarch_sdk::{Client, ClientOptions, Shutdown, WorkerConfig, parse_masters};

use super::cgroup::{TaskGroups, TaskLimits};
use super::child_reaper::{self, Children};
use super::environment::{PassedEnvironment, forbid_tracing, hide_from_process_list};
use super::exec::{ExecExecutor, ExecLimits, Surroundings};
use super::file_limit::FileLimit;
use super::options::WorkerOptions;
use super::run_as::RunAs;

/// Time after SIGKILL within which a command must have ended. After it, the attempt is abandoned.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs one worker until it shuts down. To be called before there are other threads.
pub fn run(options: WorkerOptions) -> anyhow::Result<ExitCode> {
    let surroundings = prepare(&options)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work(options, surroundings))
}

/// Makes this process fit to start commands, and refuses what cannot be had for them.
fn prepare(options: &WorkerOptions) -> anyhow::Result<Surroundings> {
    let environment = PassedEnvironment::new(options.pass_env.iter().cloned());
    hide_from_process_list(&environment.withheld());
    if let Err(error) = forbid_tracing() {
        tracing::warn!(%error, "tasks of the same user may read the memory of this worker");
    }
    signals::neutralize_inherited().context("cannot set up signals")?;
    let run_as = options.run_as.as_deref().map(RunAs::find).transpose();
    let run_as = run_as.map_err(|why| anyhow::anyhow!("--run-as: {why}"))?;
    let groups = match options.task_limits == TaskLimits::default() {
        true => None,
        false => Some(TaskGroups::open(options.task_limits).map_err(anyhow::Error::msg)?),
    };
    let files =
        FileLimit::raise_for(options.slots).context("cannot read the limit on open files")?;
    Ok(Surroundings {
        environment,
        run_as: run_as.map(Arc::new),
        groups,
        files: Some(files),
    })
}

async fn work(options: WorkerOptions, surroundings: Surroundings) -> anyhow::Result<ExitCode> {
    let masters = parse_masters(&options.masters.join(","))?;
    // A silent master must not keep a worker from finding the others, because its leases are running out.
    let client_options = ClientOptions {
        answer_timeout: Duration::from_secs(2),
        ..ClientOptions::default()
    };
    let client = Client::with_options(&masters, client_options)?;
    let slots = surroundings
        .files
        .map_or(options.slots, |files| files.slots(options.slots));
    let config = WorkerConfig {
        grace: options.shutdown_timeout,
        abandon_after: ExecLimits::default().kill_grace + KILL_TIMEOUT,
        ..WorkerConfig::new(Register {
            name: options.name.unwrap_or_else(default_name),
            queues: options.queues,
            slots,
            labels: options.labels,
            resources: options.resources,
            ..Register::default()
        })
    };
    let executor = ExecExecutor::new(ExecLimits::default(), surroundings)
        .context("cannot start the thread that starts commands")?;
    let reaping = reap_children(executor.children()).context("cannot set up signals")?;
    let shutdown = Shutdown::new();
    let signals = Signals::listen_beside_commands().context("cannot set up signals")?;
    let signals = tokio::spawn(handle_signals(signals, shutdown.clone()));
    let worked = triarch_sdk::worker::run(client, config, executor, shutdown).await;
    signals.abort();
    reaping.abort();
    worked?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the reaper of what commands leave behind. It looks whenever a child has ended.
fn reap_children(children: &Arc<Children>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    child_reaper::start(children.clone())?;
    let mut ended = signal(SignalKind::child())?;
    let children = children.clone();
    Ok(tokio::spawn(async move {
        while ended.recv().await.is_some() {
            children.search();
        }
    }))
}

/// Creates an executor of `exec` tasks with the default limits.
pub fn exec_executor() -> std::io::Result<ExecExecutor> {
    ExecExecutor::new(ExecLimits::default(), Surroundings::default())
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
