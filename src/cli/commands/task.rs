//! `triarch task`: shows, waits for, cancels and retries the tasks of jobs.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use triarch_sdk::wire::{
    After, Attempt, Explanation, ListOrder, RawValue, Task, TaskList, TaskSelection, TaskState,
    TasksQuery,
};

use super::bulk_tasks::{Bulk, Selected, Which, selection};
use super::task_logs;
use crate::args::{PageArgs, one_of};
use crate::confirmation::Confirmation;
use crate::context::CommandContext;
use crate::error::{CommandError, EXIT_FAILED};
use crate::ids;
use crate::output::{self, Cell, Column, Format};
use crate::task_output;
use crate::time_format;
use crate::wait::{self, WaitOutcome};
use crate::watch::watch;

#[derive(Debug, Args)]
pub struct TaskArgs {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// Lists tasks, the newest first; those of one job in the order of their submission
    #[command(visible_alias = "ls")]
    List {
        /// Only tasks of this job; not together with the other filters
        #[arg(long, conflicts_with_all = ["queue", "state", "kind", "worker", "tag", "name", "schedule", "error_type", "order", "count"])]
        job: Option<String>,
        /// Only tasks of this queue
        #[arg(long)]
        queue: Option<String>,
        /// Only tasks in this state, such as queued, running or failed
        #[arg(long, value_parser = one_of::<TaskState>(TaskState::ALL.map(TaskState::as_str)))]
        state: Option<TaskState>,
        /// Only tasks of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only tasks that run on this worker, or ran there last
        #[arg(long)]
        worker: Option<String>,
        /// Only tasks with this tag
        #[arg(long)]
        tag: Option<String>,
        /// Only tasks of jobs with this name
        #[arg(long)]
        name: Option<String>,
        /// Only tasks of jobs that ticks of this schedule submitted
        #[arg(long)]
        schedule: Option<String>,
        /// Only tasks whose error has this type, such as exit or timeout
        #[arg(long, value_name = "TYPE")]
        error_type: Option<String>,
        /// Order of the list: desc is the newest first, asc the oldest first [default: desc]
        #[arg(long, value_parser = one_of::<ListOrder>(["asc", "desc"]))]
        order: Option<ListOrder>,
        /// Prints the number of tasks that match, and no list
        #[arg(long, conflicts_with_all = ["limit", "after", "watch"])]
        count: bool,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows tasks in detail, with their attempts
    Show {
        /// Ids of the tasks
        #[arg(value_name = "TASK", required = true)]
        ids: Vec<String>,
    },
    /// Waits until a task has finished and prints its output; exits with 1 if it did not succeed
    Wait {
        /// Id of the task
        #[arg(value_name = "TASK")]
        id: String,
    },
    /// Explains why a task does not run yet
    Explain {
        /// Id of the task
        #[arg(value_name = "TASK")]
        id: String,
    },
    /// Prints the output of a task, also while it runs
    Logs {
        /// Id of the task
        #[arg(value_name = "TASK")]
        id: String,
        /// Follows the output until the task has finished, over all of its attempts; exits with 1 if it did not succeed
        #[arg(long, short)]
        follow: bool,
        /// Number of the attempt [default: the latest]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        attempt: Option<u32>,
        /// Writes the bytes of an ended attempt as they were written, also those that are not UTF-8
        #[arg(long, conflicts_with = "follow")]
        raw: bool,
    },
    /// Cancels one unfinished task, or all unfinished tasks that match the options
    Cancel {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Retries one finished task, or all that match the options. Options without --state select failed tasks only. All
    /// attempts of a retried task are available again
    Retry {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Deletes finished jobs with a task that matches the options. Options without --state select failed tasks only
    Forget {
        #[command(flatten)]
        selected: Option<Selected>,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

impl TaskArgs {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        match self.command {
            TaskCommand::List {
                job: Some(job),
                page,
                ..
            } => {
                let watched = page.watch;
                let query = page.query();
                if watched {
                    let ask = async || Ok(context.client.job_tasks(&job, &query).await?);
                    return watch(context, ask, render_list).await;
                }
                let list = context.client.job_tasks(&job, &query).await?;
                show_list(context, &list)
            }
            TaskCommand::List {
                job: None,
                queue,
                state,
                kind,
                worker,
                tag,
                name,
                schedule,
                error_type,
                order,
                count,
                page,
            } => {
                let mut query = TasksQuery {
                    queue,
                    state,
                    kind,
                    worker,
                    tag,
                    name,
                    schedule,
                    error_type,
                    order: Some(order.unwrap_or(ListOrder::Desc)),
                    limit: Some(page.limit),
                    after: page.after,
                    ..TasksQuery::default()
                };
                if count {
                    (query.count, query.limit) = (Some(true), Some(1));
                    let list = context.client.tasks(&query).await?;
                    output::print_count(context.format, list.count)?;
                    return Ok(ExitCode::SUCCESS);
                }
                if page.watch {
                    let ask = async || Ok(context.client.tasks(&query).await?);
                    return watch(context, ask, render_list).await;
                }
                let list = context.client.tasks(&query).await?;
                show_list(context, &list)
            }
            TaskCommand::Show { ids } => {
                for id in &ids {
                    ids::expect(context, ids::TASK, id)?;
                }
                for (nth, id) in ids.iter().enumerate() {
                    let task = context.client.task(id).await?;
                    if nth > 0 && context.format == Format::Table {
                        output::print_text("\n")?;
                    }
                    output::print(context.format, &task, render)?;
                }
                Ok(ExitCode::SUCCESS)
            }
            TaskCommand::Wait { id } => {
                ids::expect(context, ids::TASK, &id)?;
                match wait::wait_for_task(context, &id).await? {
                    WaitOutcome::Finished(task) => {
                        match context.format {
                            Format::Table => task_output::print_task(&task)?,
                            Format::Json => output::print(Format::Json, &task, render)?,
                        }
                        Ok(exit_code(&task))
                    }
                    WaitOutcome::Interrupted => Ok(wait::interrupted_exit_code()),
                }
            }
            TaskCommand::Logs {
                id,
                follow: true,
                attempt,
                raw: _,
            } => match task_logs::follow(context, &id, attempt).await? {
                WaitOutcome::Finished(TaskState::Succeeded) => Ok(ExitCode::SUCCESS),
                WaitOutcome::Finished(_) => {
                    let task = context.client.task(&id).await?;
                    output::print_note(&task_output::summary_line(&task));
                    Ok(exit_code(&task))
                }
                WaitOutcome::Interrupted => Ok(wait::interrupted_exit_code()),
            },
            TaskCommand::Logs {
                id,
                follow: false,
                attempt,
                raw,
            } => {
                ids::expect(context, ids::TASK, &id)?;
                match raw {
                    true => task_logs::show_raw(context, &id, attempt).await?,
                    false => task_logs::show(context, &id, attempt).await?,
                }
                Ok(ExitCode::SUCCESS)
            }
            TaskCommand::Explain { id } => {
                ids::expect(context, ids::TASK, &id)?;
                let explanation = context.client.explain_task(&id).await?;
                output::print(context.format, &explanation, render_explanation)?;
                Ok(ExitCode::SUCCESS)
            }
            TaskCommand::Cancel {
                which,
                confirmation,
            } => {
                let Some(id) = which.id else {
                    let bulk = Bulk {
                        verb: "cancels",
                        done: "cancelled",
                        would: "would have cancelled",
                        thing: "task",
                    };
                    let change = async |selected: &TaskSelection| {
                        context.client.cancel_tasks(selected).await
                    };
                    let selection = selection(which.selected)?;
                    return bulk.run(context, selection, &confirmation, change).await;
                };
                confirmation.refuse_for_one()?;
                ids::expect(context, ids::TASK, &id)?;
                let task = context.client.cancel_task(&id).await?;
                output::print(context.format, &task, render)?;
                Ok(ExitCode::SUCCESS)
            }
            TaskCommand::Retry {
                which,
                confirmation,
            } => {
                let Some(id) = which.id else {
                    let bulk = Bulk {
                        verb: "retries",
                        done: "retried",
                        would: "would have retried",
                        thing: "task",
                    };
                    let change =
                        async |selected: &TaskSelection| context.client.retry_tasks(selected).await;
                    let selection = selection(which.selected)?;
                    return bulk.run(context, selection, &confirmation, change).await;
                };
                confirmation.refuse_for_one()?;
                ids::expect(context, ids::TASK, &id)?;
                let task = context.client.retry_task(&id).await?;
                output::print(context.format, &task, render)?;
                Ok(ExitCode::SUCCESS)
            }
            TaskCommand::Forget {
                selected,
                confirmation,
            } => {
                let bulk = Bulk {
                    verb: "deletes",
                    done: "forgot",
                    would: "would have forgotten",
                    thing: "job",
                };
                let change =
                    async |selected: &TaskSelection| context.client.forget_tasks(selected).await;
                bulk.run(context, selection(selected)?, &confirmation, change)
                    .await
            }
        }
    }
}

fn render_explanation(explanation: &Explanation) -> String {
    let reasons = explanation.reasons.iter();
    let lines = reasons.map(|reason| {
        let message = output::one_line(&reason.message);
        format!("{}: {message}", output::one_line(&reason.code))
    });
    let task = output::one_line(&explanation.task);
    let head = format!("task {task} is {}", explanation.state);
    std::iter::once(head)
        .chain(lines.map(|line| format!("  {line}")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns the exit code of a task: 0 only if it succeeded.
fn exit_code(task: &Task) -> ExitCode {
    if task.state == TaskState::Succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    }
}

fn show_list(context: &CommandContext, list: &TaskList) -> Result<ExitCode, CommandError> {
    output::print(context.format, list, render_list)?;
    context.print_next_page_hint(list.next.as_deref());
    Ok(ExitCode::SUCCESS)
}

fn render_list(list: &TaskList) -> String {
    let columns = [
        Column::Text("TASK"),
        Column::Text("JOB"),
        Column::Text("KEY"),
        Column::Text("KIND"),
        Column::Text("QUEUE"),
        Column::Text("STATE"),
        Column::Number("ATTEMPT"),
        Column::Text("WORKER"),
        Column::Text("CREATED"),
    ];
    let now = Utc::now();
    let rows = list.tasks.iter().map(|task| {
        vec![
            Cell::new(&task.id),
            Cell::new(&task.job),
            Cell::new(task.key.as_deref().unwrap_or("-")),
            Cell::new(&task.kind),
            Cell::new(&task.queue),
            output::state_cell(task.state.as_str()),
            Cell::new(task.attempt),
            Cell::new(task.worker.as_deref().unwrap_or("-")),
            Cell::new(time_format::relative(task.created_at.0, now)),
        ]
    });
    output::table(&columns, rows)
}

fn render(task: &Task) -> String {
    let now = Utc::now();
    let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map(|raw| raw.get().to_owned());
    let streams = task_output::streams(task);
    // The output of a command has its own section below; its JSON is for programs.
    let (result, error) = match streams {
        Some(_) => (
            None,
            task.error.as_deref().and_then(task_output::error_message),
        ),
        None => (text(&task.result), text(&task.error)),
    };
    let mut text = output::details([
        ("task", Some(task.id.clone())),
        ("job", Some(task.job.clone())),
        ("key", task.key.clone()),
        ("kind", Some(task.kind.clone())),
        ("queue", Some(task.queue.clone())),
        ("state", Some(task.state.to_string())),
        ("priority", Some(task.priority.to_string())),
        (
            "failures",
            Some(format!(
                "{} of at most {}",
                task.failures, task.max_attempts
            )),
        ),
        (
            "losses",
            Some(format!("{} of at most {}", task.losses, task.max_losses))
                .filter(|_| task.losses > 0),
        ),
        (
            "runs",
            task.run_at.map(|at| time_format::relative(at.0, now)),
        ),
        (
            "created",
            Some(time_format::relative(task.created_at.0, now)),
        ),
        (
            "finished",
            task.finished_at.map(|at| time_format::relative(at.0, now)),
        ),
        (
            "progress",
            task.progress.map(|share| format!("{:.0}%", share * 100.0)),
        ),
        ("note", task.note.clone()),
        (
            "comes after",
            (!task.after.is_empty()).then(|| {
                let after: Vec<String> = task.after.iter().map(After::to_string).collect();
                after.join(", ")
            }),
        ),
        ("unique key", task.unique_key.clone()),
        (
            "concurrency",
            task.concurrency_key.as_ref().map(|key| {
                let limit = task.concurrency_limit.unwrap_or(1);
                format!("at most {limit} with key {key}")
            }),
        ),
        ("payload", text(&task.payload)),
        ("result", result),
        ("error", error),
        (
            "exit code",
            streams
                .as_ref()
                .and_then(|streams| streams.exit_code)
                .map(|code| code.to_string()),
        ),
        (
            "ran for",
            streams
                .as_ref()
                .map(|streams| time_format::span_ms(streams.duration_ms)),
        ),
    ]);
    if let Some(attempts) = task
        .attempts
        .as_ref()
        .filter(|attempts| !attempts.is_empty())
    {
        text.push_str("\n\n");
        text.push_str(&render_attempts(attempts));
    }
    for (name, written) in streams
        .iter()
        .flat_map(|streams| [("stdout", &streams.stdout), ("stderr", &streams.stderr)])
    {
        if !written.is_empty() {
            let written = output::lines(written.trim_end_matches('\n'));
            text.push_str(&format!("\n\n{name}:\n{written}"));
        }
    }
    text
}

fn render_attempts(attempts: &[Attempt]) -> String {
    let columns = [
        Column::Number("ATTEMPT"),
        Column::Text("OUTCOME"),
        Column::Text("WORKER"),
        Column::Text("STARTED"),
        Column::Number("TOOK"),
        Column::Number("TOKEN"),
        Column::Text("ERROR"),
    ];
    let now = Utc::now();
    let rows = attempts.iter().map(|attempt| {
        let end = attempt.ended_at.map_or(now, |at| at.0);
        vec![
            Cell::new(attempt.attempt),
            output::state_cell(
                attempt
                    .outcome
                    .map_or("running", |outcome| outcome.as_str()),
            ),
            Cell::new(&attempt.worker),
            Cell::new(time_format::relative(attempt.started_at.0, now)),
            Cell::new(time_format::span(end - attempt.started_at.0)),
            Cell::new(attempt.token),
            Cell::new(
                attempt
                    .error
                    .as_deref()
                    .and_then(task_output::error_message)
                    .unwrap_or_default(),
            ),
        ]
    });
    output::table(&columns, rows)
}
