//! Output of finished tasks, printed as if they had run here: their stdout to stdout, their stderr to stderr. On a
//! terminal, control sequences other than styles are escaped.

use std::io;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use triarch_sdk::json_text::{beginning, without_lone_surrogates};
use triarch_sdk::wire::exec::KIND as EXEC;
use triarch_sdk::wire::{
    Job, JobState, JobTasksQuery, LogChunk, Logs, LogsQuery, Omitted, OutputStream, RawOutput,
    Task, TaskState,
};

use super::context::CommandContext;
use super::error::{CommandError, EXIT_FAILED};
use super::output::{self, Format};
use super::shell;

/// Exit code of a command that reached its time limit, as of `timeout`.
const EXIT_TIMED_OUT: u8 = 124;
/// Exit code of a command that signal 0 would kill, as in shells.
const EXIT_SIGNAL_BASE: u8 = 128;
/// Maximum length in bytes of an error without a message in a line.
const MESSAGE_BYTES_MAX: usize = 300;

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
    /// Name of the signal that killed the command.
    #[serde(default)]
    pub signal: Option<String>,
    /// Type of the error, if it failed.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Bytes of a stream that is not UTF-8.
    #[serde(default)]
    pub stdout_raw: Option<RawOutput>,
    #[serde(default)]
    pub stderr_raw: Option<RawOutput>,
    /// Parts that are left out of the texts.
    #[serde(default)]
    pub stdout_omitted: Option<Omitted>,
    #[serde(default)]
    pub stderr_omitted: Option<Omitted>,
}

impl Streams {
    /// Returns the kept bytes of stdout, and the part that is left out of them.
    pub fn stdout_bytes(&self) -> (Vec<u8>, Option<Omitted>) {
        bytes(&self.stdout, self.stdout_omitted, self.stdout_raw.as_ref())
    }

    /// Returns the kept bytes of stderr, and the part that is left out of them.
    pub fn stderr_bytes(&self) -> (Vec<u8>, Option<Omitted>) {
        bytes(&self.stderr, self.stderr_omitted, self.stderr_raw.as_ref())
    }
}

fn bytes(
    text: &str,
    omitted: Option<Omitted>,
    raw: Option<&RawOutput>,
) -> (Vec<u8>, Option<Omitted>) {
    if let Some(raw) = raw
        && let Ok(bytes) = STANDARD.decode(&raw.base64)
    {
        return (bytes, raw.omitted);
    }
    let parts = omitted.and_then(|omitted| {
        let (head, rest) = text.split_at_checked(usize::try_from(omitted.at).ok()?)?;
        Some([head, rest.strip_prefix(&omitted.marker())?].concat())
    });
    match parts {
        Some(joined) => (joined.into_bytes(), omitted),
        None => (text.as_bytes().to_vec(), omitted),
    }
}

/// Returns the output of the latest finished attempt of an `exec` task, if there was one.
pub fn streams(task: &Task) -> Option<Streams> {
    let outcome = task
        .result
        .as_deref()
        .or(task.error.as_deref())
        .filter(|_| task.kind == EXEC && task.attempt > 0)?;
    streams_of(outcome)
}

/// Returns the output in the outcome of a command.
pub fn streams_of(outcome: &RawValue) -> Option<Streams> {
    serde_json::from_str(&without_lone_surrogates(outcome.get())).ok()
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
    print_job_after(context, job, None).await
}

/// Prints the output of a job's tasks that come after this one.
pub async fn print_job_after(
    context: &CommandContext,
    job: &Job,
    mut after: Option<String>,
) -> Result<(), CommandError> {
    let mut tasks = Vec::new();
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

/// Returns the query for the next page of a job's tasks, with their output.
pub fn page_after(after: Option<String>) -> JobTasksQuery {
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
                let why = match (&streams.stdout_omitted, &streams.stderr_omitted) {
                    (None, None) => "a process that it left behind was still writing",
                    _ => "it exceeded the limit",
                };
                output::print_note(&format!(
                    "(a part of the output of task {} is missing: {why})",
                    task.id
                ));
            }
        }
        None => print_result(task)?,
    }
    print_end(task);
    Ok(())
}

/// Prints the result of a task that is no command.
pub fn print_result(task: &Task) -> io::Result<()> {
    match &task.result {
        Some(result) => output::write_task_stdout(&format!("{}\n", result.get())),
        None => Ok(()),
    }
}

/// Notes what the output of a finished task does not show: that it did not succeed, or that bytes were replaced.
pub fn print_end(task: &Task) {
    let is_replaced = streams(task)
        .is_some_and(|streams| streams.stdout_raw.is_some() || streams.stderr_raw.is_some());
    if is_replaced {
        output::print_note(&format!(
            "(the output of task {id} is not UTF-8, so bytes of it were replaced; `{program} task logs --raw {id}` writes them \
             as they are)",
            id = task.id,
            program = shell::program_name()
        ));
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
}

/// Returns the exit code that a finished task propagates: that of its command, 128 plus the number of the signal that
/// killed it, 124 after its time limit as `timeout` has it, and 1 for any other failure.
pub fn propagated_exit_code(task: &Task) -> u8 {
    if task.state == TaskState::Succeeded {
        return 0;
    }
    let Some(streams) = streams(task) else {
        return EXIT_FAILED;
    };
    if streams.kind.as_deref() == Some("timeout") {
        return EXIT_TIMED_OUT;
    }
    let of_signal = || signal_number(streams.signal.as_deref()?)?.checked_add(EXIT_SIGNAL_BASE);
    let code = streams.exit_code.and_then(|code| u8::try_from(code).ok());
    code.filter(|code| *code != 0)
        .or_else(of_signal)
        .unwrap_or(EXIT_FAILED)
}

fn signal_number(name: &str) -> Option<u8> {
    let number = match name.strip_prefix("SIGRTM") {
        Some(rest) => {
            let offset = |text: &str| match text {
                "" => Some(0),
                text => text.parse::<i32>().ok(),
            };
            match rest.split_at_checked(2)? {
                ("IN", offset_text) => libc::SIGRTMIN() + offset(offset_text)?,
                ("AX", offset_text) => libc::SIGRTMAX() + offset(offset_text)?,
                _ => return None,
            }
        }
        None => name.parse::<nix::sys::signal::Signal>().ok()? as i32,
    };
    u8::try_from(number).ok()
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

/// Returns the message of an error: its usual field, or else the error itself.
pub fn error_message(error: &RawValue) -> Option<String> {
    let error = without_lone_surrogates(error.get());
    match serde_json::from_str::<Message>(&error) {
        Ok(error) => Some(error.message),
        Err(_) if error == "null" => None,
        Err(_) => Some(beginning(&error, MESSAGE_BYTES_MAX).to_owned()),
    }
}

/// Prints the answer to this query, and notes where output is missing.
pub fn write_logs(asked: &LogsQuery, logs: &Logs) -> io::Result<()> {
    let mut at = [asked.stdout_from, asked.stderr_from].map(Option::unwrap_or_default);
    for chunk in &logs.chunks {
        let at = match chunk.stream {
            OutputStream::Stdout => &mut at[0],
            OutputStream::Stderr => &mut at[1],
        };
        if chunk.offset > *at {
            let (missing, stream) = (chunk.offset - *at, chunk.stream.as_str());
            output::print_note(&format!(
                "triarch: {missing} bytes of {stream} are missing here"
            ));
        }
        *at = chunk.offset + chunk.text.len() as u64;
        write_chunk(chunk)?;
    }
    Ok(())
}

fn write_chunk(chunk: &LogChunk) -> io::Result<()> {
    match chunk.stream {
        OutputStream::Stdout => output::write_task_stdout(&chunk.text),
        OutputStream::Stderr => output::write_task_stderr(&chunk.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_propagated_code_is_that_of_the_command() {
        let task = |state: &str, error: &str| -> Task {
            let text = format!(
                r#"{{"id":"t1-0","job":"j1-0","key":null,"kind":"exec","queue":"default","state":"{state}","priority":0,
                    "attempt":1,"max_attempts":1,"failures":1,"max_losses":5,"losses":0,"worker":null,"result":null,"error":{error},
                    "created_at":"2026-11-23T10:00:00.000Z","started_at":null,"finished_at":null}}"#
            );
            serde_json::from_str(&text).expect("a task")
        };
        for (state, error, code) in [
            ("succeeded", "null", 0),
            ("failed", r#"{"type":"exit","exit_code":3}"#, 3),
            ("failed", r#"{"type":"exit","exit_code":255}"#, 255),
            ("failed", r#"{"type":"signal","signal":"SIGKILL"}"#, 137),
            ("failed", r#"{"type":"signal","signal":"SIGRTMIN+3"}"#, 165),
            ("failed", r#"{"type":"signal","signal":"SIGRTMAX-1"}"#, 191),
            ("failed", r#"{"type":"timeout","signal":"SIGTERM"}"#, 124),
            ("failed", r#"{"type":"spawn","message":"x"}"#, 1),
            ("cancelled", "null", 1),
            (
                "failed",
                r#"{"type":"exit","exit_code":3,"message":"\ud800"}"#,
                3,
            ),
        ] {
            assert_eq!(
                propagated_exit_code(&task(state, error)),
                code,
                "{state} {error}"
            );
        }
    }
}
