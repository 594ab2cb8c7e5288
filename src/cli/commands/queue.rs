//! `triarch queue`: shows queues and changes their settings.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use triarch_sdk::wire::{Placement, Purge, Purged, Queue, QueueList, QueueSettings, ReadQuery};

use crate::args::one_of;
use crate::confirmation::Confirmation;
use crate::context::CommandContext;
use crate::duration;
use crate::error::{CommandError, EXIT_FAILED};
use crate::output::{self, Cell, Column};
use crate::time_format;
use crate::watch::watch;

#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Lists all queues, with the number of tasks in each state
    #[command(visible_alias = "ls")]
    List {
        /// Repeats the output every second until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Shows one queue with its settings
    Show {
        /// Name of the queue
        #[arg(value_name = "QUEUE")]
        name: String,
    },
    /// Changes settings of a queue; settings that are not given stay as they are
    Set(SetArgs),
    /// Pauses a queue: no further task of it starts; running attempts continue
    Pause {
        /// Name of the queue
        #[arg(value_name = "QUEUE")]
        name: String,
    },
    /// Resumes a paused queue
    Resume {
        /// Name of the queue
        #[arg(value_name = "QUEUE")]
        name: String,
    },
    /// Cancels all tasks of a queue that are unfinished and not running
    Purge {
        /// Name of the queue
        #[arg(value_name = "QUEUE")]
        name: String,
        /// Deletes the queue's failed tasks with their jobs, and cancels nothing
        #[arg(long)]
        dead_letters: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

/// Settings of a queue. `none` removes a bound.
#[derive(Debug, Args)]
struct SetArgs {
    /// Name of the queue
    #[arg(value_name = "QUEUE")]
    name: String,
    /// Maximum concurrent tasks
    #[arg(long, value_name = "N|none", value_parser = bound::<u32>)]
    max_running: Option<Bound<u32>>,
    /// Maximum tasks started per second, over all workers
    #[arg(long, value_name = "N|none", value_parser = bound_rate)]
    rate: Option<Bound<f64>>,
    /// Maximum tasks started at once after an idle time; requires a rate [default: a tenth of the rate, at least 1]
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Maximum unfinished tasks that are not running; submissions beyond it are refused
    #[arg(long, value_name = "N|none", value_parser = bound::<u64>)]
    max_depth: Option<Bound<u64>>,
    /// Weight of the queue where several queues compete for workers, 1 to 1000
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Preferred worker: the one with the smallest (spread) or the largest (pack) part of its slots in use
    #[arg(long, value_parser = one_of::<Placement>(Placement::ALL.map(Placement::as_str)))]
    placement: Option<Placement>,
    /// Time for which finished jobs are kept, such as 12h
    #[arg(long, value_name = "DURATION|none", value_parser = bound_ms)]
    retain: Option<Bound<u64>>,
    /// Maximum number of finished jobs that are kept
    #[arg(long, value_name = "N|none", value_parser = bound::<u64>)]
    retain_jobs: Option<Bound<u64>>,
}

/// Bound, or none.
#[derive(Debug, Clone, Copy)]
struct Bound<T>(Option<T>);

fn bound<T: std::str::FromStr>(text: &str) -> Result<Bound<T>, String> {
    match text {
        "none" => Ok(Bound(None)),
        text => match text.parse() {
            Ok(number) => Ok(Bound(Some(number))),
            Err(_) => Err(format!("'{text}' is neither a number nor none")),
        },
    }
}

/// Parses a rate. JSON has no infinite number: it would be sent as one that lifts the bound.
fn bound_rate(text: &str) -> Result<Bound<f64>, String> {
    match bound(text)? {
        Bound(Some(rate)) if !f64::is_finite(rate) => {
            Err(format!("'{text}' is neither a number nor none"))
        }
        rate => Ok(rate),
    }
}

fn bound_ms(text: &str) -> Result<Bound<u64>, String> {
    match text {
        "none" => Ok(Bound(None)),
        text => Ok(Bound(Some(duration::as_ms(duration::parse(text)?)))),
    }
}

impl SetArgs {
    fn settings(&self) -> QueueSettings {
        QueueSettings {
            paused: None,
            max_running: self.max_running.map(|bound| bound.0),
            rate_per_s: self.rate.map(|bound| bound.0),
            burst: self.burst,
            max_depth: self.max_depth.map(|bound| bound.0),
            weight: self.weight,
            placement: self.placement,
            retain_ms: self.retain.map(|bound| bound.0),
            retain_jobs: self.retain_jobs.map(|bound| bound.0),
        }
    }
}

impl QueueArgs {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        let client = &context.client;
        let paused = |paused| QueueSettings {
            paused: Some(paused),
            ..QueueSettings::default()
        };
        let queue = match self.command {
            QueueCommand::List { watch: true } => {
                let ask = async || Ok(client.queues(&ReadQuery::default()).await?);
                return watch(context, ask, render_list).await;
            }
            QueueCommand::List { watch: false } => {
                let list = client.queues(&ReadQuery::default()).await?;
                output::print(context.format, &list, render_list)?;
                return Ok(ExitCode::SUCCESS);
            }
            QueueCommand::Purge {
                name,
                dead_letters,
                confirmation,
            } => return purge(context, &name, dead_letters, confirmation).await,
            QueueCommand::Show { name } => client.queue(&name).await?,
            QueueCommand::Set(set) => client.set_queue(&set.name, &set.settings()).await?,
            QueueCommand::Pause { name } => client.set_queue(&name, &paused(true)).await?,
            QueueCommand::Resume { name } => client.set_queue(&name, &paused(false)).await?,
        };
        output::print(context.format, &queue, render)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Purges a queue, after the question that this may need.
async fn purge(
    context: &CommandContext,
    name: &str,
    dead_letters: bool,
    confirmation: Confirmation,
) -> Result<ExitCode, CommandError> {
    let purge = async |dry_run| {
        let purge = Purge {
            dead_letters,
            dry_run,
        };
        context.client.purge_queue(name, purge).await
    };
    let text = |purged: &Purged, cancel: &str, delete: &str| match dead_letters {
        false => format!("{cancel} {} tasks of queue {name}", purged.cancelled),
        true => format!(
            "{delete} {} jobs with dead letters of queue {name}",
            purged.forgotten_jobs
        ),
    };
    if confirmation.needs_count() {
        let counted = purge(true).await?;
        if confirmation.dry_run {
            output::print(context.format, &counted, |counted| {
                text(counted, "would have cancelled", "would have deleted")
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let question = text(&counted, "This cancels", "This deletes");
        if !confirmation.asks(&format!("{question}."))? {
            return Ok(ExitCode::from(EXIT_FAILED));
        }
    }
    let purged = purge(false).await?;
    output::print(context.format, &purged, |purged| {
        text(purged, "cancelled", "deleted")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn render(queue: &Queue) -> String {
    let number = |number: u64| Some(number.to_string());
    output::details([
        ("queue", Some(queue.name.clone())),
        (
            "state",
            Some(if queue.paused { "paused" } else { "open" }.to_owned()),
        ),
        ("queued", number(queue.depth)),
        ("running", number(queue.running)),
        ("delayed", number(queue.delayed)),
        ("waiting", number(queue.waiting)),
        ("dead letters", number(queue.failed)),
        ("oldest", queue.oldest_ms.map(time_format::span_ms)),
        ("weight", number(u64::from(queue.weight))),
        ("placement", Some(queue.placement.as_str().to_owned())),
        ("max running", queue.max_running.map(|max| max.to_string())),
        (
            "rate",
            queue.rate_per_s.map(|rate| {
                let burst = queue.burst.unwrap_or(1);
                format!("{rate} per second, {burst} at once")
            }),
        ),
        ("max depth", queue.max_depth.map(|max| max.to_string())),
        ("keeps jobs for", queue.retain_ms.map(time_format::span_ms)),
        ("keeps jobs", queue.retain_jobs.map(|max| max.to_string())),
    ])
}

fn render_list(list: &QueueList) -> String {
    let columns = [
        Column::Text("QUEUE"),
        Column::Text("STATE"),
        Column::Number("QUEUED"),
        Column::Number("RUNNING"),
        Column::Number("DELAYED"),
        Column::Number("WAITING"),
        Column::Number("FAILED"),
        Column::Number("WEIGHT"),
        Column::Number("OLDEST"),
    ];
    let rows = list.queues.iter().map(|queue| {
        vec![
            Cell::new(&queue.name),
            output::state_cell(if queue.paused { "paused" } else { "open" }),
            Cell::new(queue.depth),
            Cell::new(queue.running),
            Cell::new(queue.delayed),
            Cell::new(queue.waiting),
            Cell::new(queue.failed),
            Cell::new(queue.weight),
            Cell::new(
                queue
                    .oldest_ms
                    .map_or_else(|| "-".to_owned(), time_format::span_ms),
            ),
        ]
    });
    output::table(&columns, rows)
}
