//! `triarch worker`: runs a worker. `triarch worker list|show|drain` and others administer the workers of a cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;
use clap::{Args, Subcommand};
use triarch_sdk::wire::{Worker, WorkerList, WorkerState, WorkersQuery};

use crate::cli::args::{PageArgs, label, one_of, resource};
use crate::cli::context::CommandContext;
use crate::cli::duration;
use crate::cli::error::{CommandError, usage_error};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Cell, Column};
use crate::cli::time_format;
use crate::cli::watch::watch;
use crate::worker::{PassedEnvironment, TaskLimits, WorkerOptions};

/// Runs a worker, or administers the workers of a cluster
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WorkerArgs {
    #[command(subcommand)]
    pub command: Option<WorkerCommand>,
    #[command(flatten)]
    pub run: RunArgs,
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

/// Options of a worker to be run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Queues from which the worker takes tasks
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "default"
    )]
    queues: Vec<String>,
    /// Maximum concurrent attempts [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,
    /// Label that tasks may require; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Resource and its amount, of which each task may require a part; may be repeated
    #[arg(long = "resource", value_name = "KEY=N", value_parser = resource)]
    resources: Vec<(String, u64)>,
    /// Display name of the worker [default: host name and process id]
    #[arg(long)]
    name: Option<String>,
    /// Time after SIGTERM in which running attempts may finish before they are handed back
    #[arg(long, value_name = "DURATION", alias = "drain", default_value = "30s", value_parser = duration::parse)]
    pub shutdown_timeout: Duration,
    /// Environment variables of the worker that tasks get too, or '*' for all; may be repeated
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        num_args = 1..,
        value_parser = PassedEnvironment::parse_name,
        help_heading = "Tasks",
        long_help = "Environment variables of the worker that tasks get too, or '*' for all; may be repeated. Tasks always \
                     get PATH, HOME, USER, SHELL, LANG, LC_*, TZ, TMPDIR, LD_LIBRARY_PATH, VIRTUAL_ENV and what they set \
                     themselves; they never get TRIARCH_AUTH_*"
    )]
    pass_env: Vec<String>,
    /// User that tasks run as; the worker must run as root
    #[arg(long, value_name = "USER", help_heading = "Tasks")]
    run_as: Option<String>,
    /// Maximum memory of each task, such as 512M or 2G; needs a writable control group
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = "Tasks")]
    memory_max: Option<u64>,
    /// Maximum processes and threads of each task; needs a writable control group
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Tasks")]
    pids_max: Option<u64>,
    #[command(flatten)]
    log: LogArgs,
}

impl RunArgs {
    /// Runs the worker until it is stopped.
    pub fn run(self, masters: Vec<String>) -> anyhow::Result<ExitCode> {
        if let Err(message) = self.log.install() {
            return Ok(usage_error(&message));
        }
        let slots = self.slots.unwrap_or_else(processors);
        let options = WorkerOptions {
            masters,
            name: self.name,
            queues: self.queues,
            slots,
            labels: BTreeMap::from_iter(self.labels),
            resources: BTreeMap::from_iter(self.resources),
            shutdown_timeout: self.shutdown_timeout,
            pass_env: self.pass_env,
            run_as: self.run_as,
            task_limits: TaskLimits {
                memory_bytes: self.memory_max,
                pids: self.pids_max,
            },
        };
        crate::worker::run(options)
    }
}

impl WorkerCommand {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
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

fn processors() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Minimum of `--memory-max`: with less, no program starts.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// Parses a number of bytes, with a unit of 1,024 if one is given.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no number of bytes, such as 512M or 2G");
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.trim_end_matches('B').trim_end_matches('I');
    let (digits, shift) = match number.char_indices().last() {
        Some((at, 'K')) => (&number[..at], 10),
        Some((at, 'M')) => (&number[..at], 20),
        Some((at, 'G')) => (&number[..at], 30),
        Some((at, 'T')) => (&number[..at], 40),
        _ => (number, 0),
    };
    let count: u64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = count.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes < MEMORY_BYTES_MIN {
        return Err(format!(
            "'{text}' is less than 1M, with which no program starts"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn numbers_of_bytes_have_units_of_1024() {
        for (text, expected) in [
            ("1048576", 1 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("2GiB", 2 << 30),
            ("2048K", 2 << 20),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "M", "-1M", "1.5G", "64X", "99999999999T", "1000", "IB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
