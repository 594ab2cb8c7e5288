//! `triarch job`: what was submitted, and what became of it.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use comfy_table::Cell;
use triarch_sdk::wire::{Job, JobList, JobState, JobsQuery, TaskState};

use crate::cli::context::Session;
use crate::cli::output;
use crate::cli::output::{Column, Format};
use crate::cli::wait;
use crate::cli::wait::Waited;
use crate::cli::watch::watch;
use crate::cli::{EXIT_FAILED, Failure, PageArgs, parse_word, task_output, time_format};

/// Look after jobs
#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Jobs, the newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only running, succeeded, failed or cancelled ones
        #[arg(long, value_parser = parse_word::<JobState>)]
        state: Option<JobState>,
        /// Only those of this name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// One job in detail
    Show {
        #[arg(value_name = "JOB")]
        id: String,
    },
    /// Wait until jobs have finished; fails if one of them did not succeed
    Wait {
        #[arg(value_name = "JOB", required = true)]
        ids: Vec<String>,
    },
    /// Show what the tasks of a job wrote, in the order they were submitted
    Output {
        #[arg(value_name = "JOB")]
        id: String,
    },
    /// Cancel what has not finished of a job
    Cancel {
        #[arg(value_name = "JOB")]
        id: String,
    },
}

impl JobArgs {
    /// Does what was asked.
    pub async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        match self.command {
            JobCommand::List { state, name, page } => {
                let query = JobsQuery {
                    state,
                    name,
                    limit: Some(page.limit),
                    after: page.after,
                    consistency: None,
                };
                if page.watch {
                    let ask = async || Ok(session.client.jobs(&query).await?);
                    return watch(session, ask, list_for_people).await;
                }
                let list = session.client.jobs(&query).await?;
                output::answer(session.format, &list, list_for_people)?;
                session.tell_of_more(list.next.as_deref());
                Ok(ExitCode::SUCCESS)
            }
            JobCommand::Show { id } => {
                let job = session.client.job(&id).await?;
                output::answer(session.format, &job, for_people)?;
                if session.format == Format::Table && output::person_watches() {
                    output::note(&format!(
                        "\nIts tasks: {}",
                        session.command(&format!("task list --job {id}"))
                    ));
                }
                Ok(ExitCode::SUCCESS)
            }
            JobCommand::Wait { ids } => {
                let mut all_succeeded = true;
                for id in &ids {
                    match wait::job(session, id).await? {
                        Waited::Finished(job) => {
                            output::answer(session.format, &job, |job| job.state.to_string())?;
                            all_succeeded &= job.state == JobState::Succeeded;
                        }
                        Waited::Interrupted => return Ok(wait::interrupted()),
                    }
                }
                Ok(ExitCode::from(if all_succeeded { 0 } else { EXIT_FAILED }))
            }
            JobCommand::Output { id } => {
                let job = session.client.job(&id).await?;
                task_output::show_job(session, &job).await?;
                Ok(ExitCode::SUCCESS)
            }
            JobCommand::Cancel { id } => {
                let job = session.client.cancel_job(&id).await?;
                output::answer(session.format, &job, for_people)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn list_for_people(list: &JobList) -> String {
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
            output::state(job.state.as_str()),
            Cell::new(job.task_count()),
            Cell::new(job.finished_count()),
            Cell::new(failed),
            Cell::new(time_format::relative(job.created_at.0, now)),
            Cell::new(&job.name),
        ]
    });
    output::table(&columns, rows)
}

fn for_people(job: &Job) -> String {
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
