//! `triarch task logs`: what a task writes, as it was written: stdout to stdout, stderr to stderr.
//!
//! Following is a chain of questions, each of which says how far the last answer came. So it outlives the master that
//! answers them, and everything is shown once.

use std::io::{self, Write};
use std::time::Duration;

use triarch_sdk::wire::{LogChunk, Logs, LogsQuery, OutputStream, TaskState};

use crate::cli::Failure;
use crate::cli::context::Session;
use crate::cli::output;
use crate::cli::output::Format;
use crate::cli::wait::Waited;

/// How long a master may hold an answer while there is nothing new.
const HOLD: Duration = Duration::from_secs(20);

/// Shows what there is of one attempt.
pub async fn show(session: &Session, id: &str, attempt: Option<u32>) -> Result<(), Failure> {
    let query = LogsQuery {
        attempt,
        ..LogsQuery::default()
    };
    let logs = session.client.task_logs(id, &query).await?;
    match session.format {
        Format::Table => write(&query, &logs)?,
        Format::Json => output::answer(Format::Json, &logs, |_| String::new())?,
    }
    Ok(())
}

/// Shows what comes, until the task has finished and everything is shown.
pub async fn follow(
    session: &Session,
    id: &str,
    attempt: Option<u32>,
) -> Result<Waited<TaskState>, Failure> {
    let followed = async {
        let hold_ms = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
        let mut query = LogsQuery {
            attempt,
            follow_ms: Some(hold_ms),
            ..LogsQuery::default()
        };
        loop {
            let logs = session.client.task_logs(id, &query).await?;
            match session.format {
                Format::Table => write(&query, &logs)?,
                // One object per line, for whoever reads along.
                Format::Json if !logs.chunks.is_empty() || logs.done => {
                    output::line(&serde_json::to_string(&logs).map_err(io::Error::other)?)?;
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
        followed = followed => followed.map(Waited::Finished),
        _ = tokio::signal::ctrl_c() => Ok(Waited::Interrupted),
    }
}

/// Writes the answer to this question, and says where something is missing.
fn write(asked: &LogsQuery, logs: &Logs) -> io::Result<()> {
    let mut at = [asked.stdout_from, asked.stderr_from].map(Option::unwrap_or_default);
    for chunk in &logs.chunks {
        let at = match chunk.stream {
            OutputStream::Stdout => &mut at[0],
            OutputStream::Stderr => &mut at[1],
        };
        if chunk.offset > *at {
            let (missing, stream) = (chunk.offset - *at, chunk.stream.as_str());
            output::note(&format!(
                "triarch: {missing} bytes of {stream} are not kept any more"
            ));
        }
        *at = chunk.offset + chunk.text.len() as u64;
        write_chunk(chunk)?;
    }
    Ok(())
}

fn write_chunk(chunk: &LogChunk) -> io::Result<()> {
    match chunk.stream {
        OutputStream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(chunk.text.as_bytes())?;
            out.flush()
        }
        OutputStream::Stderr => io::stderr().lock().write_all(chunk.text.as_bytes()),
    }
}
