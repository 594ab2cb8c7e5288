//! Output of finished tasks, printed as if they had run here: their stdout to stdout, their stderr to stderr. On a
//! terminal, control sequences other than styles are escaped.

use std::io;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use triarch_sdk::wire::exec::KIND as EXEC;
use triarch_sdk::wire::{Job, JobState, JobTasksQuery, Task, TaskState};

use super::context::CommandContext;
use super::error::{CommandError, EXIT_FAILED};
use super::output::{self, Format};

/// Fields that `exec` results and errors have in common.
#[derive(Debug, Default, Deserialize)]
pub struct Streams {
    /// Absent if nothing ran, or if the command did not end by itself.
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
    #[serde(default)]
    pub truncated: bool,
    #[serde(default)]
    pub duration_ms: u64,
}

/// Returns the output of the latest finished attempt of an `exec` task, if there was one.
pub fn streams(task: &Task) -> Option<Streams> {
    let outcome = task
        .result
        .as_deref()
        .or(task.error.as_deref())
        .filter(|_| task.kind == EXEC && task.attempt > 0)?;
    serde_json::from_str(outcome.get()).ok()
}

/// Message of an error.
#[derive(Debug, Deserialize)]
struct Message {
    message: String,
}

/// Job with its tasks, as JSON.
#[derive(Debug, Serialize)]
struct JobWithTasks<'a> {
    job: &'a Job,
    tasks: &'a [Task],
}

/// Prints the output of a job's tasks, in the order of their submission.
pub async fn print_job(context: &CommandContext, job: &Job) -> Result<(), CommandError> {
    let mut tasks = Vec::new();
    let mut after = None;
    loop {
        let page = context
            .client
            .job_tasks_with(&job.id, &page_after(after))
            .await?;
        match context.format {
            // The output is printed page by page, because there may be more than fits into memory.
            Format::Table => page.tasks.iter().try_for_each(print_task)?,
            Format::Json => tasks.extend(page.tasks),
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match context.format {
        Format::Table => Ok(()),
        Format::Json => {
            let value = JobWithTasks { job, tasks: &tasks };
            Ok(output::print(Format::Json, &value, |_| String::new())?)
        }
    }
}

/// Returns the query for the next page of a job's tasks.
fn page_after(after: Option<String>) -> JobTasksQuery {
    JobTasksQuery {
        after,
        fields: Some("result,error".to_owned()),
        ..JobTasksQuery::default()
    }
}

/// Returns the exit code of a job: 0 only if it succeeded.
pub fn exit_code(job: &Job) -> ExitCode {
    match job.state {
        JobState::Succeeded => ExitCode::SUCCESS,
        JobState::Running | JobState::Failed | JobState::Cancelled => ExitCode::from(EXIT_FAILED),
    }
}

/// Prints the output of a finished task, and a note if it did not succeed.
pub fn print_task(task: &Task) -> io::Result<()> {
    match streams(task) {
        Some(streams) => {
            output::write_task_stderr(&streams.stderr)?;
            output::write_task_stdout(&streams.stdout)?;
            if streams.truncated {
                output::print_note(&format!(
                    "(a part of the output of task {} is missing: it exceeded the limit)",
                    task.id
                ));
            }
        }
        None => {
            if let Some(result) = &task.result {
                output::write_task_stdout(&format!("{}\n", result.get()))?;
            }
        }
    }
    match task.state {
        TaskState::Succeeded => {}
        TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Waiting
        | TaskState::Delayed
        | TaskState::Queued
        | TaskState::Running => output::print_note(&summary_line(task)),
    }
    Ok(())
}

/// Formats a task in one line: `task t7-0 (key 3) failed after 3 attempts: exited with code 1`.
pub fn summary_line(task: &Task) -> String {
    let key = task
        .key
        .as_ref()
        .map(|key| format!(" (key {key})"))
        .unwrap_or_default();
    let tries = match (task.state, task.attempt) {
        (TaskState::Failed, 1) => " after 1 attempt".to_owned(),
        (TaskState::Failed, n) => format!(" after {n} attempts"),
        (_, _) => String::new(),
    };
    let why = task
        .error
        .as_deref()
        .and_then(error_message)
        .map(|message| format!(": {message}"))
        .unwrap_or_default();
    let line = format!("task {}{key} {}{tries}{why}", task.id, task.state);
    output::lines(&line).into_owned()
}

/// Returns the message of an error, if it has one in the usual field.
pub fn error_message(error: &RawValue) -> Option<String> {
    serde_json::from_str::<Message>(error.get())
        .ok()
        .map(|error| error.message)
}
