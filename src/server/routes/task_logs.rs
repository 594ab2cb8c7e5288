//! What attempts write: sent by workers while they run, read and followed by clients.
//!
//! Two sources make one text. What runs, and what has just run, is in the memory of the leader; what a command that has
//! ended wrote is in its result or its error, from the beginning as far as it is kept. Places in one are places in the
//! other, so a reader goes from the first to the second without missing or repeating anything.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;
use triarch_sdk::output::{Part, Places};
use triarch_sdk::wire::{self, LogChunk, OutputStream, exec};
use triarch_table::command::reply::Refusal;
use triarch_table::records::task::{AttemptEnd, Task};
use triarch_table::{TaskId, Token};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::jobs::too_many_waiters;
use super::tasks::present_state;
use super::workers::{lead, turn, worker_id};
use crate::server::protocol::json;
use crate::server::protocol::json::Query;
use crate::server::protocol::problem::{Failure, Problem};
use crate::server::protocol::response::{Answer, ReadIndex};
use crate::server::{App, WAIT_MS_MAX};

/// Pieces in one request of a worker.
const CHUNKS_MAX: usize = 20_000;
/// No attempt writes this much.
const OFFSET_MAX: u64 = 1 << 60;

pub fn worker_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(send))
}

pub fn client_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

/// A worker sends what its attempts write. For workers: a follower redirects.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/output",
    tag = "logs",
    params(("id" = String, Path, description = "The worker's id")),
    request_body = wire::SendOutput,
    responses((status = 200, description = "How far the leader is", body = wire::SendOutputAnswer))
)]
async fn send(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Answer, Failure> {
    Query::read(query.as_deref(), &[])?;
    let id = worker_id(&id)?;
    let output: wire::SendOutput = json::json(&body)?;
    if output.chunks.len() > CHUNKS_MAX {
        let detail = format!(
            "holds {} pieces; the bound is {CHUNKS_MAX}",
            output.chunks.len()
        );
        return Err(Problem::invalid("chunks", detail).into());
    }
    let wild = |chunk: &wire::SentChunk| chunk.offset > OFFSET_MAX;
    if let Some(position) = output.chunks.iter().position(wild) {
        let field = format!("chunks[{position}].offset");
        return Err(Problem::invalid(&field, format!("must be at most {OFFSET_MAX}")).into());
    }
    let taken = lead(&app)?
        .take_output(id, &output.chunks)
        .map_err(|turned| turn(turned, id))?;
    let attempts = taken.into_iter().map(|taken| wire::OutputEnds {
        task: taken.task,
        token: taken.token.0,
        stdout: taken.ends.stdout,
        stderr: taken.ends.stderr,
    });
    let answer = wire::SendOutputAnswer {
        attempts: attempts.collect(),
    };
    Answer::ok(app.node.applied_index(), &answer)
}

/// What one attempt of a task wrote; with `follow_ms`, as soon as there is something.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/logs",
    tag = "logs",
    params(("id" = String, Path, description = "The task's id"), wire::LogsQuery),
    responses((status = 200, description = "What it wrote", body = wire::Logs))
)]
async fn read(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    let query = Query::read(
        query.as_deref(),
        &["attempt", "follow_ms", "stdout_from", "stderr_from"],
    )?;
    let id: TaskId = json::id("task", &id)?;
    let attempt: Option<u32> = query.parsed("attempt", "the number of an attempt")?;
    let from = Places {
        stdout: place(&query, "stdout_from")?,
        stderr: place(&query, "stderr_from")?,
    };
    let follow_ms: u64 = query
        .parsed("follow_ms", "a number of milliseconds")?
        .unwrap_or(0);
    let until = Instant::now() + Duration::from_millis(follow_ms.min(WAIT_MS_MAX));
    let led = app.lead.borrow().clone();
    let mut index = index;
    loop {
        // Registered before it looks: no news can slip between.
        let mut news = app.table.waiters.news(id).map_err(|_| too_many_waiters())?;
        let logs = logs(&app, id, attempt, from)?;
        let asked = attempt.unwrap_or(logs.attempt);
        let is_news = !logs.chunks.is_empty() || logs.done || logs.next.attempt != asked;
        let left = until.saturating_duration_since(Instant::now());
        if is_news || left.is_zero() || app.stopping.is_cancelled() {
            return Answer::ok(index, &logs);
        }
        tokio::select! {
            () = app.until(left, news.woken()) => {}
            // What is written from now on is told to another leader.
            () = async { match &led { Some(lead) => lead.over().await, None => std::future::pending().await } } => {
                return Err(Failure::NotLeader);
            }
        }
        index = app.node.applied_index();
    }
}

fn place(query: &Query, name: &str) -> Result<u64, Problem> {
    let place: u64 = query.parsed(name, "a number of bytes")?.unwrap_or(0);
    if place > OFFSET_MAX {
        return Err(Problem::invalid(
            name,
            format!("must be at most {OFFSET_MAX}"),
        ));
    }
    Ok(place)
}

/// One attempt of a task, as far as its output is concerned.
struct Attempt {
    number: u32,
    token: Token,
    /// What its outcome tells of its output; none, as long as it runs.
    told: Option<Told>,
}

/// The output of a command as its outcome tells it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Told {
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
}

/// What there is of the attempt's output from these places on.
fn logs(app: &App, id: TaskId, number: Option<u32>, from: Places) -> Result<wire::Logs, Failure> {
    let (state, attempt, later) = {
        let table = app.table.read();
        let task = table
            .task(id)
            .ok_or_else(|| Problem::from(Refusal::TaskNotFound(id)))?;
        let number = number.unwrap_or(task.attempt);
        (task.state(), attempt(task, number), later(task, number))
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
        .is_some_and(|attempt| attempt.told.is_none());
    let told = attempt.and_then(|attempt| attempt.told).unwrap_or_default();
    let part = match live {
        Some(part) => joined(&told, part, from),
        None => joined(
            &told,
            Part {
                ends: from,
                ..Part::default()
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
        state: present_state(state),
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
            told: None,
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
    // Other kinds may use these words for something else.
    let told = outcome
        .filter(|_| task.kind() == exec::KIND)
        .and_then(|text| serde_json::from_slice(text).ok());
    Some(Attempt {
        number,
        token: ended.token,
        told: Some(told.unwrap_or_default()),
    })
}

/// The next attempt after this one that is known.
fn later(task: &Task, number: u32) -> Option<u32> {
    let ended = task.history.iter().map(|attempt| attempt.attempt);
    let running = task.lease().map(|lease| lease.attempt);
    ended.chain(running).filter(|other| *other > number).min()
}

/// What the outcome tells, and behind it what only the live output knows.
fn joined(told: &Told, live: Part, from: Places) -> Part {
    let mut part = Part {
        chunks: Vec::new(),
        ends: from,
        truncated: false,
    };
    for (stream, text) in [
        (OutputStream::Stdout, &told.stdout),
        (OutputStream::Stderr, &told.stderr),
    ] {
        let at = usize::try_from(from.of(stream)).unwrap_or(usize::MAX);
        let at = (at..text.len()).find(|at| text.is_char_boundary(*at));
        if let Some(at) = at {
            part.chunks.push(LogChunk {
                stream,
                offset: at as u64,
                text: text[at..].to_owned(),
            });
            *part.ends.of_mut(stream) = text.len() as u64;
        }
    }
    for chunk in live.chunks {
        let at = part.ends.of(chunk.stream);
        let known = usize::try_from(at.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        let known = (known..chunk.text.len()).find(|at| chunk.text.is_char_boundary(*at));
        let Some(known) = known else { continue };
        let offset = chunk.offset + known as u64;
        part.truncated |= offset > at;
        *part.ends.of_mut(chunk.stream) = chunk.offset + chunk.text.len() as u64;
        part.chunks.push(LogChunk {
            offset,
            text: chunk.text[known..].to_owned(),
            ..chunk
        });
    }
    for stream in OutputStream::ALL {
        if live.ends.of(stream) > part.ends.of(stream) {
            *part.ends.of_mut(stream) = live.ends.of(stream);
            part.truncated = true;
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use OutputStream::{Stderr, Stdout};
    use triarch_sdk::output::Tail;

    use super::*;

    fn told(stdout: &str, stderr: &str) -> Told {
        Told {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    fn read(told: &Told, tail: &Tail, from: Places) -> (Vec<(OutputStream, u64, String)>, bool) {
        let part = joined(told, tail.since(from, usize::MAX), from);
        let again = joined(told, tail.since(part.ends, usize::MAX), part.ends);
        assert!(again.chunks.is_empty() && !again.truncated && again.ends == part.ends);
        let chunks = part.chunks.into_iter();
        let chunks = chunks.map(|chunk| (chunk.stream, chunk.offset, chunk.text));
        (chunks.collect(), part.truncated)
    }

    fn at(stdout: u64, stderr: u64) -> Places {
        Places { stdout, stderr }
    }

    #[test]
    fn the_outcome_goes_on_where_live_output_ended() {
        let mut tail = Tail::new(1 << 20);
        tail.push(Stdout, "one\ntwo\n");
        let told = told("one\ntwo\nthree\n", "oops\n");
        let rest = [
            (Stdout, 8, "three\n".to_owned()),
            (Stderr, 0, "oops\n".to_owned()),
        ];
        assert_eq!(read(&told, &tail, at(8, 0)), (rest.to_vec(), false));
        let (all, truncated) = read(&told, &tail, at(0, 5));
        assert_eq!(
            (all, truncated),
            (vec![(Stdout, 0, "one\ntwo\nthree\n".to_owned())], false)
        );
    }

    #[test]
    fn live_output_goes_on_where_the_outcome_was_cut() {
        let mut tail = Tail::new(1 << 20);
        tail.push(Stdout, "0123456789");
        let (all, truncated) = read(&told("01234", ""), &tail, at(0, 0));
        let both = [
            (Stdout, 0, "01234".to_owned()),
            (Stdout, 5, "56789".to_owned()),
        ];
        assert_eq!((all, truncated), (both.to_vec(), false));
    }

    #[test]
    fn what_neither_has_is_missed() {
        let mut tail = Tail::new(1 << 20);
        assert!(tail.place(Stdout, 8, "89", true));
        let (all, truncated) = read(&told("01234", ""), &tail, at(0, 0));
        assert!(truncated);
        assert_eq!(all.last(), Some(&(Stdout, 8, "89".to_owned())));
    }

    #[test]
    fn places_inside_of_characters_and_behind_the_end_are_harmless() {
        let tail = Tail::new(1 << 20);
        let (all, _) = read(&told("€€", ""), &tail, at(1, 99));
        assert_eq!(all, [(Stdout, 3, "€".to_owned())]);
    }
}
