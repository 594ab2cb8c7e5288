//! `/v1/tasks/wait`: the ends of many tasks with one request, for clients that have thousands of them under way.
//!
//! A request names the tasks that its client still waits for, and is answered with those that have ended as soon as there
//! are any. The node remembers nothing from one request to the next, so the next may go to another node.

use axum::extract::{RawQuery, State};
use bytes::Bytes;
use triarch_sdk::wire;
use triarch_table::records::task::Task;
use triarch_table::{Table, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::jobs::{too_many_waiters, wait};
use super::tasks::{cancelled_because, present_state, raw};
use crate::server::App;
use crate::server::protocol::json;
use crate::server::protocol::json::Query;
use crate::server::protocol::problem::{Failure, Problem};
use crate::server::protocol::response::{Answer, ReadIndex};

/// Tasks named in one request.
const TASKS_MAX: usize = 10_000;
/// Results and errors in one answer, unless a single one is larger.
const ANSWER_BYTES_MAX: usize = 8 << 20;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(wait_many))
}

/// Those of the tasks that are terminal, with result or error; with `wait_ms`, as soon as one is.
#[utoipa::path(
    post,
    path = "/v1/tasks/wait",
    tag = "tasks",
    params(wire::WaitQuery),
    request_body = wire::AwaitedTasks,
    responses((status = 200, description = "Those that have ended", body = wire::EndedTasks))
)]
async fn wait_many(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
    body: Bytes,
) -> Result<Answer, Failure> {
    let query = Query::read(query.as_deref(), &["wait_ms"])?;
    let wait = wait(&query)?;
    let asked: wire::AwaitedTasks = json::json(&body)?;
    if asked.tasks.is_empty() || asked.tasks.len() > TASKS_MAX {
        return Err(Problem::invalid("tasks", format!("must name 1 to {TASKS_MAX} tasks")).into());
    }
    let mut missing = Vec::new();
    let mut tasks = Vec::with_capacity(asked.tasks.len());
    for text in asked.tasks {
        match text.parse::<TaskId>() {
            Ok(task) => tasks.push(task),
            Err(_) => missing.push(text),
        }
    }
    if !wait.is_zero() && missing.is_empty() && !any_news(&app.table.read(), &tasks) {
        let woken = app
            .table
            .waiters
            .any_task(tasks.clone())
            .map_err(|_| too_many_waiters())?;
        // Looked at again after registering: no end can slip between.
        if !any_news(&app.table.read(), &tasks) {
            app.until(wait, woken.woken()).await;
        }
    }
    let table = app.table.read();
    Answer::shown(&table, index, &ended(&table, &tasks, missing))
}

/// Whether there is something to tell of any of them.
fn any_news(table: &Table, tasks: &[TaskId]) -> bool {
    tasks.iter().any(|&task| {
        table
            .task(task)
            .is_none_or(|task| task.state().is_terminal())
    })
}

/// What there is to tell, as far as it fits into one answer.
fn ended(table: &Table, tasks: &[TaskId], missing: Vec<String>) -> wire::EndedTasks {
    let mut told = wire::EndedTasks {
        missing,
        ..wire::EndedTasks::default()
    };
    let mut room = ANSWER_BYTES_MAX;
    for &id in tasks {
        let Some(task) = table.task(id) else {
            told.missing.push(id.to_string());
            continue;
        };
        if !task.state().is_terminal() {
            continue;
        }
        let size = size_bytes(task);
        if size > room && !told.ended.is_empty() {
            told.more = true;
            break;
        }
        room = room.saturating_sub(size);
        told.ended.push(present(task));
    }
    told
}

fn size_bytes(task: &Task) -> usize {
    task.result().map_or(0, Bytes::len) + task.error().map_or(0, Bytes::len)
}

fn present(task: &Task) -> wire::EndedTask {
    wire::EndedTask {
        id: task.id.to_string(),
        state: present_state(task.state()),
        result: task.result().and_then(raw),
        error: task
            .error()
            .and_then(raw)
            .or_else(|| cancelled_because(task.cancel_cause()?)),
    }
}
