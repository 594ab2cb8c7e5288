//! Output of attempts: sent by workers while they run, read and followed (long poll) by clients.
//!
//! Two sources make one text. Live output of running and recent attempts is in the leader's memory. Recorded output of
//! an ended command is in its result or error, from the beginning up to a bound. Offsets are the same in both, so a
//! reader goes from the first to the second without gap or repetition.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;
use triarch_areas::task_output::{KeptOutput, KeptStream};
use triarch_sdk::json_text::{beginning, without_lone_surrogates};
use triarch_sdk::output_tail::{StreamOffsets, TailPart};
use triarch_sdk::wire::{self, LogChunk, OutputStream, exec};
use triarch_table::command::reply::Refusal;
use triarch_table::records::task::{AttemptEnd, Task};
use triarch_table::{TaskId, Token};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::leader::live_output::OutputChunk;
use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::Problem;
use crate::server::protocol::query::{Query, WAIT_MS_MAX};
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{Client, ReadIndex};
use crate::server::routes::present;
use crate::server::routes::wait::{take_places, too_many_waiters};
use crate::server::routes::workers::{WorkerSecret, parse_output, worker_call_error, worker_id};

/// Maximum number of chunks in one request of a worker.
const CHUNKS_MAX: usize = 20_000;
/// Maximum offset in an output stream, in bytes.
const OFFSET_MAX: u64 = 1 << 60;

pub fn worker_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(send))
}

pub fn client_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

/// Receives output of a worker's running attempts. Worker protocol: a follower redirects to the leader.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/output",
    tag = "logs",
    params(
        ("id" = String, Path, description = "Id of the worker."),
        ("triarch-worker-secret" = Option<String>, Header, description = "Secret from the registration. A worker that has once sent it must send it with each of its calls.")
    ),
    request_body = wire::SendOutput,
    responses((status = 200, description = "Progress of the leader for each attempt.", body = wire::SendOutputAnswer))
)]
async fn send(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    secret: WorkerSecret,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    Query::parse(query.as_deref(), &[])?;
    let id = worker_id(&id)?;
    secret.check(&app, id).await?;
    let (mut output, problems) = parse_output(&body)?;
    if output.chunks.len() > CHUNKS_MAX {
        let detail = format!(
            "has {} chunks; the limit is {CHUNKS_MAX}",
            output.chunks.len()
        );
        return Err(Problem::invalid("chunks", detail).into());
    }
    let mut position = 0;
    output.chunks.retain(|chunk| {
        let in_range = chunk.offset <= OFFSET_MAX;
        if !in_range {
            let detail = format!("must be at most {OFFSET_MAX}; it was dropped");
            problems.add(format!("chunks[{position}].offset"), detail);
        }
        position += 1;
        in_range
    });
    let chunks: Vec<OutputChunk<'_>> = output.chunks.iter().map(output_chunk).collect();
    let accepted = app
        .leader_term()?
        .take_output(id, &chunks)
        .map_err(|error| worker_call_error(error, id))?;
    let attempts = accepted.into_iter().map(|accepted| wire::OutputEnds {
        task: accepted.task,
        token: accepted.token.0,
        stdout: accepted.ends.stdout,
        stderr: accepted.ends.stderr,
    });
    let answer = wire::SendOutputAnswer {
        attempts: attempts.collect(),
        problems: problems.into_list(),
    };
    ApiResponse::ok(app.node.applied_index(), &answer)
}

fn output_chunk(sent: &wire::SentChunk) -> OutputChunk<'_> {
    OutputChunk {
        task: &sent.task,
        token: Token(sent.token),
        stream: sent.stream,
        offset: sent.offset,
        gap: sent.gap,
        text: &sent.text,
    }
}

/// Returns the output of one attempt of a task. With `follow_ms`, responds as soon as there is output.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/logs",
    tag = "logs",
    params(("id" = String, Path, description = "Id of the task."), wire::LogsQuery),
    responses((status = 200, description = "Output of the attempt.", body = wire::Logs))
)]
async fn read(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    Client(client): Client,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(
        query.as_deref(),
        &["attempt", "follow_ms", "stdout_from", "stderr_from"],
    )?;
    let id: TaskId = validate::parse_id("task", &id)?;
    let attempt: Option<u32> = query.parsed("attempt", "the number of an attempt")?;
    let from = StreamOffsets {
        stdout: offset(&query, "stdout_from")?,
        stderr: offset(&query, "stderr_from")?,
    };
    let follow_ms: u64 = query
        .parsed("follow_ms", "a number of milliseconds")?
        .unwrap_or(0);
    let until = Instant::now() + Duration::from_millis(follow_ms.min(WAIT_MS_MAX));
    let term = app.lead.borrow().clone();
    let mut index = index;
    let _places = take_places(&app, client, 1)?;
    loop {
        // The waiter is registered before the table is read, so no change is missed in between.
        let mut changed = app
            .table
            .waiters
            .task_update(id)
            .map_err(|_| too_many_waiters())?;
        let logs = logs(&app, id, attempt, from)?;
        let asked = attempt.unwrap_or(logs.attempt);
        let has_changes = !logs.chunks.is_empty() || logs.done || logs.next.attempt != asked;
        let left = until.saturating_duration_since(Instant::now());
        if has_changes || left.is_zero() || app.shutdown.is_cancelled() {
            return ApiResponse::ok(index, &logs);
        }
        tokio::select! {
            biased;
            // A new leader gets the output, and this node would not learn of it.
            () = app.majority_lost() => return Err(HandlerError::NotLeader),
            () = app.wait_at_most(left, changed.woken()) => {}
            // Workers send output from now on to another leader.
            () = async { match &term { Some(lead) => lead.ended().await, None => std::future::pending().await } } => {
                return Err(HandlerError::NotLeader);
            }
        }
        index = app.node.applied_index();
    }
}

fn offset(query: &Query, name: &str) -> Result<u64, Problem> {
    let offset: u64 = query.parsed(name, "a number of bytes")?.unwrap_or(0);
    if offset > OFFSET_MAX {
        return Err(Problem::invalid(
            name,
            format!("must be at most {OFFSET_MAX}"),
        ));
    }
    Ok(offset)
}

/// One attempt of a task: the fields that its output needs.
struct Attempt {
    number: u32,
    token: Token,
    /// Output recorded in its outcome. None while it runs.
    recorded: Option<RecordedOutput>,
}

/// Output of a command as recorded in its outcome.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct RecordedOutput {
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
    #[serde(default)]
    stdout_omitted: Option<wire::Omitted>,
    #[serde(default)]
    stderr_omitted: Option<wire::Omitted>,
}

/// Contiguous part of a stream: its position in the stream, and its text.
type Piece<'a> = (u64, &'a str);

impl RecordedOutput {
    fn of(kept: KeptOutput) -> Self {
        let text = |stream: KeptStream| {
            if stream.tail.is_empty() {
                return (stream.head, None);
            }
            let at = stream.head.len() as u64;
            let omitted = wire::Omitted {
                at,
                bytes: stream.tail_at.saturating_sub(at),
                resumes_at: stream.tail_at,
            };
            let marker = omitted.marker();
            (stream.head + &marker + &stream.tail, Some(omitted))
        };
        let (stdout, stdout_omitted) = text(kept.stdout);
        let (stderr, stderr_omitted) = text(kept.stderr);
        Self {
            stdout,
            stderr,
            stdout_omitted,
            stderr_omitted,
        }
    }

    /// Returns the parts of a stream that are kept: all of it, or its beginning and its end.
    fn pieces(&self, stream: OutputStream) -> Vec<Piece<'_>> {
        let (text, omitted) = match stream {
            OutputStream::Stdout => (&self.stdout, &self.stdout_omitted),
            OutputStream::Stderr => (&self.stderr, &self.stderr_omitted),
        };
        let parts = omitted.as_ref().and_then(|omitted| {
            let at = usize::try_from(omitted.at).ok()?;
            let (head, rest) = text.split_at_checked(at)?;
            Some([
                (0, head),
                (omitted.resumes_at, rest.strip_prefix(&omitted.marker())?),
            ])
        });
        match parts {
            Some(parts) => parts.to_vec(),
            None => vec![(0, text)],
        }
    }
}

/// Returns the output of an attempt from these offsets on.
fn logs(
    app: &App,
    id: TaskId,
    number: Option<u32>,
    from: StreamOffsets,
) -> Result<wire::Logs, HandlerError> {
    let (state, attempt, later) = {
        let table = app.table.read();
        let task = table
            .task(id)
            .ok_or_else(|| Problem::from(Refusal::TaskNotFound(id)))?;
        let ended = task.state().is_terminal();
        // A task that has not ended may still have it, and a client may follow that from now on.
        if let Some(number) = number.filter(|number| ended && *number > task.attempt) {
            let detail = format!(
                "task {id} has ended without an attempt {number}; it had {}",
                task.attempt
            );
            return Err(Problem::invalid("attempt", detail).into());
        }
        let number = number.unwrap_or(task.attempt);
        (
            task.state(),
            attempt(task, number),
            next_attempt(task, number),
        )
    };
    let asked = attempt
        .as_ref()
        .map_or(number, |attempt| Some(attempt.number));
    let live = attempt.as_ref().and_then(|attempt| {
        let lead = app.lead.borrow().clone()?;
        lead.output_since(attempt.token, from)
    });
    let runs = attempt
        .as_ref()
        .is_some_and(|attempt| attempt.recorded.is_none());
    // Results of other kinds than `exec` do not contain their output, and the area of task output may.
    let kept = attempt
        .as_ref()
        .filter(|_| !runs)
        .and_then(|attempt| app.table.kept_output(attempt.token));
    let recorded = match kept {
        Some(kept) => RecordedOutput::of(kept),
        None => attempt
            .and_then(|attempt| attempt.recorded)
            .unwrap_or_default(),
    };
    let part = match live {
        Some(part) => merge(&recorded, part, from),
        None => merge(
            &recorded,
            TailPart {
                ends: from,
                ..TailPart::default()
            },
            from,
        ),
    };
    let number = asked.unwrap_or(0);
    let next = match later.filter(|_| !runs) {
        Some(attempt) => wire::LogsNext {
            attempt,
            stdout_from: 0,
            stderr_from: 0,
        },
        None => wire::LogsNext {
            attempt: number,
            stdout_from: part.ends.stdout,
            stderr_from: part.ends.stderr,
        },
    };
    Ok(wire::Logs {
        task: id.to_string(),
        attempt: number,
        state: present::task_state(state),
        done: state.is_terminal() && later.is_none(),
        chunks: part.chunks,
        next,
        truncated: part.truncated,
    })
}

fn attempt(task: &Task, number: u32) -> Option<Attempt> {
    if let Some(lease) = task.lease().filter(|lease| lease.attempt == number) {
        return Some(Attempt {
            number,
            token: lease.token,
            recorded: None,
        });
    }
    let ended = task
        .history
        .iter()
        .find(|attempt| attempt.attempt == number)?;
    let outcome = match &ended.end {
        AttemptEnd::Succeeded => task.result(),
        AttemptEnd::Failed { .. }
        | AttemptEnd::TimedOut
        | AttemptEnd::Lost
        | AttemptEnd::LeaseExpired
        | AttemptEnd::Returned
        | AttemptEnd::Cancelled => ended.end.error(),
    };
    // Other kinds may use these field names for something else.
    let recorded = outcome
        .filter(|_| task.kind() == exec::KIND)
        .and_then(|text| {
            let text = std::str::from_utf8(text).ok()?;
            serde_json::from_str(&without_lone_surrogates(text)).ok()
        });
    Some(Attempt {
        number,
        token: ended.token,
        recorded: Some(recorded.unwrap_or_default()),
    })
}

/// Returns the next known attempt after this one.
fn next_attempt(task: &Task, number: u32) -> Option<u32> {
    let ended = task.history.iter().map(|attempt| attempt.attempt);
    let running = task.lease().map(|lease| lease.attempt);
    ended.chain(running).filter(|other| *other > number).min()
}

/// Merges recorded output with the live output that goes beyond it, or that fills the gap in it.
fn merge(recorded: &RecordedOutput, live: TailPart, from: StreamOffsets) -> TailPart {
    let mut part = TailPart {
        chunks: Vec::new(),
        ends: from,
        truncated: false,
    };
    let stdout = recorded.pieces(OutputStream::Stdout);
    let stderr = recorded.pieces(OutputStream::Stderr);
    let pieces = |stream: OutputStream| match stream {
        OutputStream::Stdout => &stdout,
        OutputStream::Stderr => &stderr,
    };
    for stream in OutputStream::ALL {
        for piece in pieces(stream).iter().take(1) {
            add(&mut part, stream, *piece, u64::MAX);
        }
    }
    for chunk in &live.chunks {
        for piece in pieces(chunk.stream).iter().skip(1) {
            add(&mut part, chunk.stream, *piece, chunk.offset);
        }
        add(
            &mut part,
            chunk.stream,
            (chunk.offset, &chunk.text),
            u64::MAX,
        );
    }
    for stream in OutputStream::ALL {
        for piece in pieces(stream).iter().skip(1) {
            add(&mut part, stream, *piece, u64::MAX);
        }
        if live.ends.of(stream) > part.ends.of(stream) {
            *part.ends.of_mut(stream) = live.ends.of(stream);
            part.truncated = true;
        }
    }
    part
}

/// Adds what goes beyond the end of the stream so far, up to the position `until`.
fn add(part: &mut TailPart, stream: OutputStream, (offset, text): Piece<'_>, until: u64) {
    let end = part.ends.of(stream);
    let known = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    let wanted = usize::try_from(until.saturating_sub(offset)).unwrap_or(usize::MAX);
    let wanted = beginning(text, wanted).len();
    let known = (known..wanted).find(|at| text.is_char_boundary(*at));
    let Some(known) = known else { return };
    part.truncated |= offset > end;
    *part.ends.of_mut(stream) = offset + wanted as u64;
    part.chunks.push(LogChunk {
        stream,
        offset: offset + known as u64,
        text: text[known..wanted].to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use OutputStream::{Stderr, Stdout};
    use triarch_sdk::output_tail::Tail;

    use super::*;

    fn recorded(stdout: &str, stderr: &str) -> RecordedOutput {
        RecordedOutput {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            ..RecordedOutput::default()
        }
    }

    /// Records `head` and `tail` of stdout, with this many bytes left out between them.
    fn recorded_with_gap(head: &str, bytes: u64, tail: &str) -> RecordedOutput {
        let at = head.len() as u64;
        let omitted = wire::Omitted {
            at,
            bytes,
            resumes_at: at + bytes,
        };
        RecordedOutput {
            stdout_omitted: Some(omitted),
            ..recorded(&format!("{head}{}{tail}", omitted.marker()), "")
        }
    }

    fn read(
        recorded: &RecordedOutput,
        tail: &Tail,
        from: StreamOffsets,
    ) -> (Vec<(OutputStream, u64, String)>, bool) {
        let part = merge(recorded, tail.since(from, usize::MAX), from);
        let again = merge(recorded, tail.since(part.ends, usize::MAX), part.ends);
        assert!(again.chunks.is_empty() && !again.truncated && again.ends == part.ends);
        let chunks = part.chunks.into_iter();
        let chunks = chunks.map(|chunk| (chunk.stream, chunk.offset, chunk.text));
        (chunks.collect(), part.truncated)
    }

    fn at(stdout: u64, stderr: u64) -> StreamOffsets {
        StreamOffsets { stdout, stderr }
    }

    #[test]
    fn recorded_output_continues_where_live_output_ended() {
        let mut tail = Tail::new(1 << 20);
        tail.push(Stdout, "one\ntwo\n");
        let recorded = recorded("one\ntwo\nthree\n", "oops\n");
        let rest = [
            (Stdout, 8, "three\n".to_owned()),
            (Stderr, 0, "oops\n".to_owned()),
        ];
        assert_eq!(read(&recorded, &tail, at(8, 0)), (rest.to_vec(), false));
        let (all, truncated) = read(&recorded, &tail, at(0, 5));
        assert_eq!(
            (all, truncated),
            (vec![(Stdout, 0, "one\ntwo\nthree\n".to_owned())], false)
        );
    }

    #[test]
    fn live_output_continues_where_recorded_output_was_cut() {
        let mut tail = Tail::new(1 << 20);
        tail.push(Stdout, "0123456789");
        let (all, truncated) = read(&recorded("01234", ""), &tail, at(0, 0));
        let both = [
            (Stdout, 0, "01234".to_owned()),
            (Stdout, 5, "56789".to_owned()),
        ];
        assert_eq!((all, truncated), (both.to_vec(), false));
    }

    #[test]
    fn output_in_neither_source_is_marked_as_truncated() {
        let mut tail = Tail::new(1 << 20);
        assert!(tail.insert_at(Stdout, 8, "89", true));
        let (all, truncated) = read(&recorded("01234", ""), &tail, at(0, 0));
        assert!(truncated);
        assert_eq!(all.last(), Some(&(Stdout, 8, "89".to_owned())));
    }

    #[test]
    fn the_gap_in_recorded_output_is_marked_unless_live_output_fills_it() {
        let recorded = recorded_with_gap("head\n", 10, "tail\n");
        let (all, truncated) = read(&recorded, &Tail::new(1 << 20), at(0, 0));
        let parts = [
            (Stdout, 0, "head\n".to_owned()),
            (Stdout, 15, "tail\n".to_owned()),
        ];
        assert_eq!((all, truncated), (parts.to_vec(), true));
        let (all, truncated) = read(&recorded, &Tail::new(1 << 20), at(15, 0));
        assert_eq!((all, truncated), (parts[1..].to_vec(), false));

        let mut tail = Tail::new(1 << 20);
        tail.push(Stdout, "head\n0123456789tail\n");
        let (all, truncated) = read(&recorded, &tail, at(0, 0));
        let text: String = all.iter().map(|(_, _, text)| text.as_str()).collect();
        assert_eq!(
            (text.as_str(), truncated),
            ("head\n0123456789tail\n", false)
        );

        // The live output begins in the middle of the recorded end.
        let mut tail = Tail::new(1 << 20);
        assert!(tail.insert_at(Stdout, 17, "il\n", true));
        let (all, truncated) = read(&recorded, &tail, at(12, 0));
        let text: String = all.iter().map(|(_, _, text)| text.as_str()).collect();
        assert_eq!((text.as_str(), truncated), ("tail\n", true));
    }

    #[test]
    fn offsets_inside_characters_or_past_the_end_are_rounded_up() {
        let tail = Tail::new(1 << 20);
        let (all, _) = read(&recorded("€€", ""), &tail, at(1, 99));
        assert_eq!(all, [(Stdout, 3, "€".to_owned())]);
    }
}
