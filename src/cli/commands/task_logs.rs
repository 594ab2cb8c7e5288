//! `triarch task logs`: prints the output of a task as it was written, stdout to stdout and stderr to stderr. On a
//! terminal, control sequences other than styles are escaped.
//!
//! Following is a chain of long polls, each of which names the position where the last answer ended. It therefore
//! outlives the master that answers them, and prints everything once.

use std::io;
use std::time::Duration;

use triarch_sdk::wire::{LogChunk, Logs, LogsQuery, OutputStream, TaskState};

use crate::cli::context::CommandContext;
use crate::cli::error::CommandError;
use crate::cli::output::{self, Format};
use crate::cli::wait::WaitOutcome;

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
        Format::Table => write(&query, &logs)?,
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
                Format::Table => write(&query, &logs)?,
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

/// Prints the answer to this query, and notes where output is missing.
fn write(asked: &LogsQuery, logs: &Logs) -> io::Result<()> {
    let mut at = [asked.stdout_from, asked.stderr_from].map(Option::unwrap_or_default);
    for chunk in &logs.chunks {
        let at = match chunk.stream {
            OutputStream::Stdout => &mut at[0],
            OutputStream::Stderr => &mut at[1],
        };
        if chunk.offset > *at {
            let (missing, stream) = (chunk.offset - *at, chunk.stream.as_str());
            output::print_note(&format!(
                "triarch: {missing} bytes of {stream} are no longer available"
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
