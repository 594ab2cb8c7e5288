//! Commands that call a cluster, each on a runtime that suits it.

use std::process::ExitCode;

use clap::Subcommand;

use crate::args::GlobalArgs;
use crate::bench;
use crate::commands::worker::WorkerCommand;
use crate::commands::{cluster, events, job, queue, schedule, submit, task};
use crate::context::CommandContext;
use crate::error::CommandError;

/// Command that calls a cluster.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Submits a job
    Submit(Box<submit::SubmitArgs>),
    /// Lists, shows, waits for and cancels jobs
    Job(job::JobArgs),
    /// Lists, shows, waits for, cancels and retries tasks
    Task(task::TaskArgs),
    /// Lists, shows and configures queues
    Queue(queue::QueueArgs),
    /// Creates and administers schedules, which submit jobs by cron expressions or at intervals
    Schedule(schedule::ScheduleArgs),
    /// Follows the events of a cluster, in the order of the log
    Events(events::EventsArgs),
    /// Shows and administers the masters: membership, leadership, backups
    Cluster(cluster::ClusterArgs),
    /// Measures rates and latency percentiles of a running cluster, with built-in workers
    Bench(bench::BenchArgs),
}

impl ClientCommand {
    /// Runs the command, and prints its error.
    pub fn run(self, global: &GlobalArgs) -> ExitCode {
        match self {
            Self::Submit(args) => client(global, async |context| args.run(context).await),
            Self::Job(args) => client(global, async |context| args.run(context).await),
            Self::Task(args) => client(global, async |context| args.run(context).await),
            Self::Queue(args) => client(global, async |context| args.run(context).await),
            Self::Schedule(args) => client(global, async |context| args.run(context).await),
            Self::Events(args) => client(global, async |context| args.run(context).await),
            Self::Cluster(args) => client(global, async |context| args.run(context).await),
            Self::Bench(args) => on(
                tokio::runtime::Builder::new_multi_thread(),
                global,
                async |context| args.run(context).await,
            ),
        }
    }
}

impl WorkerCommand {
    /// Runs the command, and prints its error.
    pub fn run(self, global: &GlobalArgs) -> ExitCode {
        client(global, async |context| self.administer(context).await)
    }
}

/// Runs a command that calls a cluster.
fn client(
    global: &GlobalArgs,
    command: impl AsyncFnOnce(&CommandContext) -> Result<ExitCode, CommandError>,
) -> ExitCode {
    on(
        tokio::runtime::Builder::new_current_thread(),
        global,
        command,
    )
}

/// Runs a command that calls a cluster, on a runtime of this kind.
fn on(
    mut runtime: tokio::runtime::Builder,
    global: &GlobalArgs,
    command: impl AsyncFnOnce(&CommandContext) -> Result<ExitCode, CommandError>,
) -> ExitCode {
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CommandError::Io(error).report(),
    };
    let done = runtime.block_on(async {
        let context = CommandContext::new(global)?;
        command(&context).await
    });
    done.unwrap_or_else(CommandError::report)
}
