//! What tasks left behind, shown as if they had run here: their stdout on stdout, their stderr on stderr.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use triarch_sdk::wire::exec::KIND as EXEC;
use triarch_sdk::wire::{Job, JobState, PageQuery, Task, TaskState};

use super::output::{self, Format};
use super::{EXIT_FAILED, Failure};
use crate::cli::context::Session;

/// What `exec` results and errors have in common.
#[derive(Debug, Default, Deserialize)]
pub struct Streams {
    /// Absent when nothing ran, or when it did not end by itself.
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

/// What the latest finished attempt of an `exec` task left behind, if there was one.
pub fn streams(task: &Task) -> Option<Streams> {
    let outcome = task
        .result
        .as_deref()
        .or(task.error.as_deref())
        .filter(|_| task.kind == EXEC && task.attempt > 0)?;
    serde_json::from_str(outcome.get()).ok()
}

/// The part of an error that is for people.
#[derive(Debug, Deserialize)]
struct Message {
    message: String,
}

/// A job with its tasks, for programs.
#[derive(Debug, Serialize)]
struct WithTasks<'a> {
    job: &'a Job,
    tasks: &'a [Task],
}

/// Shows what the tasks of a job left behind, in the order they were submitted.
pub async fn show_job(session: &Session, job: &Job) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    let mut after = None;
    loop {
        let page = session
            .client
            .job_tasks(&job.id, &page_after(after))
            .await?;
        match session.format {
            // As it comes: there may be more than fits into memory, and the first line is wanted first.
            Format::Table => page.tasks.iter().try_for_each(show)?,
            Format::Json => tasks.extend(page.tasks),
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match session.format {
        Format::Table => Ok(()),
        Format::Json => {
            let answer = WithTasks { job, tasks: &tasks };
            Ok(output::answer(Format::Json, &answer, |_| String::new())?)
        }
    }
}

/// The page of a job's tasks that comes next.
fn page_after(after: Option<String>) -> PageQuery {
    PageQuery {
        after,
        ..PageQuery::default()
    }
}

/// 0 only if the job succeeded.
pub fn exit_code(job: &Job) -> ExitCode {
    match job.state {
        JobState::Succeeded => ExitCode::SUCCESS,
        JobState::Running | JobState::Failed | JobState::Cancelled => ExitCode::from(EXIT_FAILED),
    }
}

/// Writes what a finished task wrote, and says so if it did not succeed.
pub fn show(task: &Task) -> io::Result<()> {
    match streams(task) {
        Some(streams) => {
            io::stderr().lock().write_all(streams.stderr.as_bytes())?;
            let mut out = io::stdout().lock();
            out.write_all(streams.stdout.as_bytes())?;
            out.flush()?;
            if streams.truncated {
                output::note(&format!(
                    "(the output of task {} was longer than what is kept)",
                    task.id
                ));
            }
        }
        None => {
            if let Some(result) = &task.result {
                output::line(result.get())?;
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
        | TaskState::Running => output::note(&epitaph(task)),
    }
    Ok(())
}

/// `task t7-0 (key 3) failed after 3 attempts: exited with code 1`.
pub fn epitaph(task: &Task) -> String {
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
        .and_then(message)
        .map(|message| format!(": {message}"))
        .unwrap_or_default();
    format!("task {}{key} {}{tries}{why}", task.id, task.state)
}

/// What an error says to people, if it says so in the usual place.
pub fn message(error: &RawValue) -> Option<String> {
    serde_json::from_str::<Message>(error.get())
        .ok()
        .map(|error| error.message)
}
