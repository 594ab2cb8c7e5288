//! `triarch job`: shows, waits for and cancels submitted jobs.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use triarch_sdk::wire::{Job, JobList, JobState, JobsQuery, TaskState};

use crate::args::{PageArgs, one_of};
use crate::context::CommandContext;
use crate::error::{CommandError, EXIT_FAILED};
use crate::ids;
use crate::output::{self, Cell, Column, Format};
use crate::task_output;
use crate::time_format;
use crate::wait::{self, WaitOutcome};
use crate::watch::watch;

#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Lists jobs, the newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only jobs in this state
        #[arg(long, value_parser = one_of::<JobState>(JobState::ALL.map(JobState::as_str)))]
        state: Option<JobState>,
        /// Only jobs with this name
        #[arg(long)]
        name: Option<String>,
        /// Only jobs whose first task is in this queue
        #[arg(long)]
        queue: Option<String>,
        /// Only jobs whose first task is of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only jobs whose first task has this tag
        #[arg(long)]
        tag: Option<String>,
        /// Only jobs that ticks of this schedule submitted
        #[arg(long)]
        schedule: Option<String>,
        /// Prints the number of jobs that match, and no list
        #[arg(long, conflicts_with_all = ["limit", "after", "watch"])]
        count: bool,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows one job in detail
    Show {
        /// Id of the job
        #[arg(value_name = "JOB")]
        id: String,
    },
    /// Waits until all given jobs have finished; exits with 1 if one of them did not succeed
    Wait {
        /// Ids of the jobs
        #[arg(value_name = "JOB", required = true)]
        ids: Vec<String>,
    },
    /// Prints the output of a job's tasks, in the order of their submission
    Output {
        /// Id of the job
        #[arg(value_name = "JOB")]
        id: String,
    },
    /// Cancels the unfinished tasks of a job
    Cancel {
        /// Id of the job
        #[arg(value_name = "JOB")]
        id: String,
    },
}

impl JobArgs {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        match self.command {
            JobCommand::List {
                state,
                name,
                queue,
                kind,
                tag,
                schedule,
                count,
                page,
            } => {
                let mut query = JobsQuery {
                    state,
                    name,
                    queue,
                    kind,
                    tag,
                    schedule,
                    limit: Some(page.limit),
                    after: page.after,
                    ..JobsQuery::default()
                };
                if count {
                    (query.count, query.limit) = (Some(true), Some(1));
                    let list = context.client.jobs(&query).await?;
                    output::print_count(context.format, list.count)?;
                    return Ok(ExitCode::SUCCESS);
                }
                if page.watch {
                    let ask = async || Ok(context.client.jobs(&query).await?);
                    return watch(context, ask, render_list).await;
                }
                let list = context.client.jobs(&query).await?;
                output::print(context.format, &list, render_list)?;
                context.print_next_page_hint(list.next.as_deref());
                Ok(ExitCode::SUCCESS)
            }
            JobCommand::Show { id } => {
                ids::expect(context, ids::JOB, &id)?;
                let job = context.client.job(&id).await?;
                output::print(context.format, &job, render)?;
                if context.format == Format::Table && output::is_interactive() {
                    output::print_note(&format!(
                        "\nList its tasks with: {}",
                        context.command(&format!("task list --job {id}"))
                    ));
                }
                Ok(ExitCode::SUCCESS)
            }
            JobCommand::Wait { ids } => {
                let mut all_succeeded = true;
                for id in &ids {
                    ids::expect(context, ids::JOB, id)?;
                }
                for id in &ids {
                    match wait::wait_for_job(context, id).await? {
                        WaitOutcome::Finished(job) => {
                            output::print(context.format, &job, |job| job.state.to_string())?;
                            all_succeeded &= job.state == JobState::Succeeded;
                        }
                        WaitOutcome::Interrupted => return Ok(wait::interrupted_exit_code()),
                    }
                }
                Ok(ExitCode::from(if all_succeeded { 0 } else { EXIT_FAILED }))
            }
            JobCommand::Output { id } => {
                ids::expect(context, ids::JOB, &id)?;
                let job = context.client.job(&id).await?;
                task_output::print_job(context, &job).await?;
                Ok(ExitCode::SUCCESS)
            }
            JobCommand::Cancel { id } => {
                ids::expect(context, ids::JOB, &id)?;
                let job = context.client.cancel_job(&id).await?;
                output::print(context.format, &job, render)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn render_list(list: &JobList) -> String {
    let columns = [
        Column::Text("JOB"),
        Column::Text("STATE"),
        Column::Number("TASKS"),
        Column::Number("DONE"),
        Column::Number("FAILED"),
        Column::Text("CREATED"),
        Column::Text("NAME"),
    ];
    let now = Utc::now();
    let rows = list.jobs.iter().map(|job| {
        let failed = job.counts.get(&TaskState::Failed).copied().unwrap_or(0);
        vec![
            Cell::new(&job.id),
            output::state_cell(job.state.as_str()),
            Cell::new(job.task_count()),
            Cell::new(job.finished_count()),
            Cell::new(failed),
            Cell::new(time_format::relative(job.created_at.0, now)),
            Cell::new(&job.name),
        ]
    });
    output::table(&columns, rows)
}

fn render(job: &Job) -> String {
    let now = Utc::now();
    let counts = TaskState::ALL.iter().filter_map(|state| {
        let count = job.counts.get(state).copied().filter(|count| *count > 0)?;
        Some(format!("{count} {state}"))
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    output::details([
        ("job", Some(job.id.clone())),
        (
            "name",
            Some(job.name.clone()).filter(|name| !name.is_empty()),
        ),
        ("state", Some(job.state.to_string())),
        ("tasks", Some(format!("{}: {counts}", job.task_count()))),
        ("key", job.idempotency_key.clone()),
        (
            "comes after",
            (!job.after_jobs.is_empty()).then(|| {
                let before = job.after_jobs.iter().map(|before| {
                    let end = match before.met {
                        None => "awaited",
                        Some(true) => "met",
                        Some(false) => "not met",
                    };
                    format!("{} ({}: {end})", before.job, before.when.as_str())
                });
                before.collect::<Vec<_>>().join(", ")
            }),
        ),
        (
            "created",
            Some(time_format::relative(job.created_at.0, now)),
        ),
        (
            "finished",
            job.finished_at.map(|at| time_format::relative(at.0, now)),
        ),
        (
            "took",
            job.finished_at
                .map(|at| time_format::span(at.0 - job.created_at.0)),
        ),
    ])
}
