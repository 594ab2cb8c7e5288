//! `triarch task logs`: prints the output of a task as it was written, stdout to stdout and stderr to stderr. On a
//! terminal, control sequences other than styles are escaped.
//!
//! Following is a chain of long polls, each of which names the position where the last answer ended. It therefore
//! outlives the master that answers them, and prints everything once.

use std::time::Duration;

use triarch_sdk::wire::exec::KIND as EXEC;
use triarch_sdk::wire::{AttemptOutcome, LogsQuery, TaskState};

use crate::context::CommandContext;
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::task_output;
use crate::wait::WaitOutcome;

/// Maximum wait of one long poll.
const POLL_WAIT: Duration = Duration::from_secs(20);

/// Shows the output of one attempt so far.
pub async fn show(
    context: &CommandContext,
    id: &str,
    attempt: Option<u32>,
) -> Result<(), CommandError> {
    let query = LogsQuery {
        attempt,
        ..LogsQuery::default()
    };
    let logs = context.client.task_logs(id, &query).await?;
    match context.format {
        Format::Table => task_output::write_logs(&query, &logs)?,
        Format::Json => output::print(Format::Json, &logs, |_| String::new())?,
    }
    Ok(())
}

/// Shows output as it arrives, until the task has finished and everything is shown.
pub async fn follow(
    context: &CommandContext,
    id: &str,
    attempt: Option<u32>,
) -> Result<WaitOutcome<TaskState>, CommandError> {
    let followed = async {
        let wait_ms = u64::try_from(POLL_WAIT.as_millis()).unwrap_or(u64::MAX);
        let mut query = LogsQuery {
            attempt,
            follow_ms: Some(wait_ms),
            ..LogsQuery::default()
        };
        loop {
            let logs = context.client.task_logs(id, &query).await?;
            match context.format {
                Format::Table => task_output::write_logs(&query, &logs)?,
                // One object per line, for a reader that parses the stream.
                Format::Json if !logs.chunks.is_empty() || logs.done => {
                    output::print_json_line(&logs)?;
                }
                Format::Json => {}
            }
            if logs.done {
                return Ok(logs.state);
            }
            query.attempt = Some(logs.next.attempt);
            query.stdout_from = Some(logs.next.stdout_from);
            query.stderr_from = Some(logs.next.stderr_from);
        }
    };
    tokio::select! {
        followed = followed => followed.map(WaitOutcome::Finished),
        _ = tokio::signal::ctrl_c() => Ok(WaitOutcome::Interrupted),
    }
}

/// Writes the bytes of one ended attempt: those of its stdout to stdout and those of its stderr to stderr.
pub async fn show_raw(
    context: &CommandContext,
    id: &str,
    attempt: Option<u32>,
) -> Result<(), CommandError> {
    let task = context.client.task(id).await?;
    let number = attempt.unwrap_or(task.attempt);
    let ended = task
        .attempts
        .iter()
        .flatten()
        .find(|ended| ended.attempt == number);
    let outcome = match ended {
        Some(ended) if ended.outcome == Some(AttemptOutcome::Succeeded) => task.result.as_deref(),
        Some(ended) => ended.error.as_deref(),
        None => None,
    };
    let is_running = ended.is_some_and(|ended| ended.outcome.is_none());
    let streams = outcome.and_then(task_output::streams_of);
    let Some(streams) = streams.filter(|_| task.kind == EXEC) else {
        let why = match is_running {
            true => {
                "still runs: its bytes are there when it has ended. Without --raw, its output is there now"
            }
            false => {
                "has no recorded output. Without --raw, there may be output of it while its leader remembers it"
            }
        };
        return Err(CommandError::Failed(format!(
            "attempt {number} of task {id} {why}"
        )));
    };
    for (stream, (bytes, omitted)) in [
        ("stdout", streams.stdout_bytes()),
        ("stderr", streams.stderr_bytes()),
    ] {
        match stream {
            "stdout" => output::write_raw_stdout(&bytes)?,
            _ => output::write_raw_stderr(&bytes)?,
        }
        if let Some(omitted) = omitted {
            output::print_note(&format!(
                "triarch: {} bytes of {stream} are left out after byte {}",
                omitted.bytes, omitted.at
            ));
        }
    }
    Ok(())
}
