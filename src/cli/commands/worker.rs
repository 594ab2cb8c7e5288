//! `triarch worker list|show|drain` and others: administer the workers of a cluster.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use triarch_sdk::wire::{Worker, WorkerList, WorkerState, WorkersQuery};

use crate::args::{PageArgs, one_of};
use crate::context::CommandContext;
use crate::error::CommandError;
use crate::output::{self, Cell, Column};
use crate::time_format;
use crate::watch::watch;

/// Commands that administer the workers of a cluster.
#[derive(Debug, Args)]
pub struct WorkerAdministration {
    /// The command, if the arguments name one. Without one, they are for a worker to be run.
    #[command(subcommand)]
    pub command: Option<WorkerCommand>,
}

#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Lists all workers, including those that were lost or left a short time ago
    #[command(visible_alias = "ls")]
    List {
        /// Only workers in this state
        #[arg(long, value_parser = one_of::<WorkerState>(WorkerState::ALL.map(WorkerState::as_str)))]
        state: Option<WorkerState>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows one worker in detail
    Show {
        /// Id or name of the worker
        #[arg(value_name = "WORKER")]
        id: String,
    },
    /// Drains a worker: it takes no new tasks, finishes its running attempts, and then leaves the cluster
    Drain {
        /// Id or name of the worker
        #[arg(value_name = "WORKER")]
        id: String,
    },
    /// Pauses a worker, for maintenance: it stays registered and takes no new tasks until it is resumed
    Pause {
        /// Id or name of the worker
        #[arg(value_name = "WORKER")]
        id: String,
    },
    /// Resumes a paused or quarantined worker: it takes new tasks again
    Resume {
        /// Id or name of the worker
        #[arg(value_name = "WORKER")]
        id: String,
    },
}

impl WorkerCommand {
    /// Runs the command.
    pub async fn administer(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        match self {
            WorkerCommand::List { state, page } => {
                let query = WorkersQuery {
                    state,
                    limit: Some(page.limit),
                    after: page.after,
                    consistency: None,
                };
                if page.watch {
                    let ask = async || Ok(context.client.workers(&query).await?);
                    return watch(context, ask, render_list).await;
                }
                let list = context.client.workers(&query).await?;
                output::print(context.format, &list, render_list)?;
                context.print_next_page_hint(list.next.as_deref());
            }
            WorkerCommand::Show { id } => {
                let worker = context
                    .client
                    .worker(&resolve_worker_id(context, id).await?)
                    .await?;
                output::print(context.format, &worker, render)?;
            }
            WorkerCommand::Drain { id } => {
                let worker = context
                    .client
                    .drain_worker(&resolve_worker_id(context, id).await?)
                    .await?;
                output::print(context.format, &worker, render)?;
            }
            WorkerCommand::Pause { id } => {
                let worker = context
                    .client
                    .pause_worker(&resolve_worker_id(context, id).await?)
                    .await?;
                output::print(context.format, &worker, render)?;
            }
            WorkerCommand::Resume { id } => {
                let worker = context
                    .client
                    .resume_worker(&resolve_worker_id(context, id).await?)
                    .await?;
                output::print(context.format, &worker, render)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Resolves a worker's id or name to its id. Among several workers of one name, a present one comes first.
async fn resolve_worker_id(
    context: &CommandContext,
    given: String,
) -> Result<String, CommandError> {
    let is_id = given.strip_prefix('w').is_some_and(|rest| {
        rest.split_once('-').is_some_and(|(index, position)| {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits(index) && digits(position)
        })
    });
    if is_id {
        return Ok(given);
    }
    let mut query = WorkersQuery {
        limit: Some(1_000),
        ..WorkersQuery::default()
    };
    let mut gone = None;
    loop {
        let list = context.client.workers(&query).await?;
        for worker in list.workers {
            match worker.state {
                WorkerState::Lost | WorkerState::Left if worker.name == given => {
                    gone = Some(worker.id);
                }
                WorkerState::Live
                | WorkerState::Draining
                | WorkerState::Paused
                | WorkerState::Quarantined
                | WorkerState::Probation
                    if worker.name == given =>
                {
                    return Ok(worker.id);
                }
                WorkerState::Live
                | WorkerState::Draining
                | WorkerState::Paused
                | WorkerState::Quarantined
                | WorkerState::Probation
                | WorkerState::Lost
                | WorkerState::Left => {}
            }
        }
        query.after = list.next;
        if query.after.is_none() {
            return gone.ok_or_else(|| {
                CommandError::Failed(format!(
                    "no worker is called '{given}'; list the workers with: {}",
                    context.command("worker list")
                ))
            });
        }
    }
}

fn render_list(list: &WorkerList) -> String {
    let columns = [
        Column::Text("WORKER"),
        Column::Text("NAME"),
        Column::Text("STATE"),
        Column::Number("RUNNING"),
        Column::Number("SLOTS"),
        Column::Text("QUEUES"),
        Column::Text("KINDS"),
        Column::Text("HEARD"),
    ];
    let rows = list.workers.iter().map(|worker| {
        vec![
            Cell::new(&worker.id),
            Cell::new(&worker.name),
            output::state_cell(worker.state.as_str()),
            Cell::new(worker.running),
            Cell::new(worker.slots),
            Cell::new(worker.queues.join(",")),
            Cell::new(worker.kinds.join(",")),
            Cell::new(last_contact(worker).unwrap_or_else(|| "-".to_owned())),
        ]
    });
    output::table(&columns, rows)
}

/// Returns the time since the leader last heard from the worker.
fn last_contact(worker: &Worker) -> Option<String> {
    worker.silent_ms.map(time_format::ago_ms)
}

fn render(worker: &Worker) -> String {
    let now = Utc::now();
    let pairs = |pairs: Vec<String>| Some(pairs.join(" ")).filter(|text| !text.is_empty());
    output::details([
        ("worker", Some(worker.id.clone())),
        ("name", Some(worker.name.clone())),
        ("state", Some(worker.state.to_string())),
        (
            "quarantined",
            worker
                .quarantined_until
                .map(|until| format!("ends {}", time_format::relative(until.0, now))),
        ),
        (
            "failing",
            Some(worker.failing)
                .filter(|failing| *failing > 0)
                .map(|failing| format!("{failing} different tasks since its last success")),
        ),
        (
            "running",
            Some(format!("{} of {} slots", worker.running, worker.slots)),
        ),
        ("queues", Some(worker.queues.join(", "))),
        ("kinds", Some(worker.kinds.join(", "))),
        (
            "labels",
            pairs(
                worker
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect(),
            ),
        ),
        (
            "resources",
            pairs(
                worker
                    .resources
                    .iter()
                    .map(|(key, amount)| format!("{key}={amount}"))
                    .collect(),
            ),
        ),
        (
            "registered",
            worker
                .registered_at
                .map(|at| time_format::relative(at.0, now)),
        ),
        (
            "load",
            worker.load.as_ref().map(|load| {
                let cpu = load
                    .cpu
                    .map(|cpu| format!("{:.0}% of its processors", cpu * 100.0));
                let mem = load.mem_mb.map(|mem| format!("{mem} MiB of memory"));
                cpu.into_iter().chain(mem).collect::<Vec<_>>().join(", ")
            }),
        ),
        ("heard", last_contact(worker)),
    ])
}
