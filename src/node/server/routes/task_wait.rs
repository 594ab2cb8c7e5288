//! `/v1/tasks/wait`: long poll for the end of any of many tasks, for clients with thousands of them in progress.
//!
//! A request names the tasks its client still waits for. The answer contains those that have ended, as soon as there
//! are any. The node keeps no state from one request to the next, so the next may go to another node.

use axum::extract::{RawQuery, State};
use bytes::Bytes;
use triarch_sdk::wire;
use triarch_table::records::task::Task;
use triarch_table::{Table, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::problem::Problem;
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate::NAME_BYTES_MAX;
use crate::server::routes::extractors::{Client, ReadIndex};
use crate::server::routes::present;
use crate::server::routes::wait::{take_places, too_many_waiters, wait_time};

/// Maximum number of tasks in one request.
const TASKS_MAX: usize = 10_000;
/// Maximum size in bytes of results and errors in one response, unless a single one is larger.
const RESPONSE_BYTES_MAX: usize = 8 << 20;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(wait_many))
}

/// Returns the given tasks that are terminal, with result or error. With `wait_ms`, responds as soon as one is.
#[utoipa::path(
    post,
    path = "/v1/tasks/wait",
    tag = "tasks",
    params(wire::WaitQuery),
    request_body = wire::AwaitedTasks,
    responses((status = 200, description = "Tasks that have ended.", body = wire::EndedTasks))
)]
async fn wait_many(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    Client(client): Client,
    ReadIndex(index): ReadIndex,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["wait_ms"])?;
    let wait = wait_time(&query)?.unwrap_or_default();
    let asked: wire::AwaitedTasks = json::parse(&body)?;
    if asked.tasks.is_empty() || asked.tasks.len() > TASKS_MAX {
        return Err(Problem::invalid("tasks", format!("must name 1 to {TASKS_MAX} tasks")).into());
    }
    let mut missing = Vec::new();
    let mut tasks = Vec::with_capacity(asked.tasks.len());
    for text in asked.tasks {
        match text.parse::<TaskId>() {
            Ok(task) => tasks.push(task),
            Err(_) if text.len() > NAME_BYTES_MAX => {
                let field = format!("tasks[{}]", tasks.len() + missing.len());
                let detail = format!(
                    "is {} bytes long, the bound is {NAME_BYTES_MAX}",
                    text.len()
                );
                return Err(Problem::invalid(&field, detail).into());
            }
            Err(_) => missing.push(text),
        }
    }
    if !wait.is_zero() && missing.is_empty() && !any_ended(&app.table.read(), &tasks) {
        let _places = take_places(&app, client, tasks.len())?;
        let woken = app
            .table
            .waiters
            .any_task(tasks.clone())
            .map_err(|_| too_many_waiters())?;
        // The table is read again after registering, so that no end is missed in between.
        if !any_ended(&app.table.read(), &tasks) {
            app.wait_at_most(wait, woken.woken()).await;
        }
    }
    let table = app.table.read();
    ApiResponse::from_table(&table, index, &ended(&table, &tasks, missing))
}

/// Returns whether any of the tasks has ended or is missing.
fn any_ended(table: &Table, tasks: &[TaskId]) -> bool {
    tasks.iter().any(|&task| {
        table
            .task(task)
            .is_none_or(|task| task.state().is_terminal())
    })
}

/// Returns the tasks that have ended, as many as fit into one response.
fn ended(table: &Table, tasks: &[TaskId], missing: Vec<String>) -> wire::EndedTasks {
    let mut response = wire::EndedTasks {
        missing,
        ..wire::EndedTasks::default()
    };
    let mut remaining_bytes = RESPONSE_BYTES_MAX;
    for &id in tasks {
        let Some(task) = table.task(id) else {
            response.missing.push(id.to_string());
            continue;
        };
        if !task.state().is_terminal() {
            continue;
        }
        let size = size_bytes(task);
        if size > remaining_bytes && !response.ended.is_empty() {
            response.more = true;
            break;
        }
        remaining_bytes = remaining_bytes.saturating_sub(size);
        response.ended.push(ended_task(task));
    }
    response
}

fn size_bytes(task: &Task) -> usize {
    task.result().map_or(0, Bytes::len) + task.error().map_or(0, Bytes::len)
}

fn ended_task(task: &Task) -> wire::EndedTask {
    wire::EndedTask {
        id: task.id.to_string(),
        state: present::task_state(task.state()),
        result: task.result().and_then(present::raw_json),
        error: task
            .error()
            .and_then(present::raw_json)
            .or_else(|| present::cancellation_error(task.cancel_cause()?)),
    }
}
