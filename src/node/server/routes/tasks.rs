//! `/v1/tasks`: show, list, wait, cancel and retry.

use axum::extract::{Path, RawQuery, State};
use triarch_raft::ProposeOptions;
use triarch_sdk::wire;
use triarch_table::command::reply::Refusal;
use triarch_table::{Command, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{Client, PathOnly, ReadIndex, RequestId};
use crate::server::routes::list_filters::{self, TaskFilters};
use crate::server::routes::task_rows;
use crate::server::routes::task_view::{Fields, task_to_wire};
use crate::server::routes::wait::{take_places, too_many_waiters, wait_time};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(retry))
}

/// Returns a task with its attempts. With `wait_ms`, responds as soon as the task is terminal.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}",
    tag = "tasks",
    params(("id" = String, Path, description = "Id of the task."), wire::WaitQuery),
    responses((status = 200, description = "The task.", body = wire::Task))
)]
async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    Client(client): Client,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["wait_ms"])?;
    let id: TaskId = validate::parse_id("task", &id)?;
    let wait = wait_time(&query)?.unwrap_or_default();
    let terminal = |app: &App| {
        app.table
            .read()
            .task(id)
            .map(|task| task.state().is_terminal())
    };
    if !wait.is_zero() && terminal(&app) == Some(false) {
        let _places = take_places(&app, client, 1)?;
        let mut woken = app.table.waiters.task(id).map_err(|_| too_many_waiters())?;
        // The table is read again after registering, so that the task's end cannot be missed in between.
        if terminal(&app) == Some(false) {
            app.wait_at_most(wait, woken.woken()).await;
        }
    }
    task_response(&app, index, id)
}

/// Returns one page of tasks, in the order of submission unless `order` is `desc`. All filters must match. Payloads, results
/// and attempts are omitted and errors are shortened, unless `fields` names them.
#[utoipa::path(
    get,
    path = "/v1/tasks",
    tag = "tasks",
    params(wire::TasksQuery),
    responses((status = 200, description = "One page of tasks.", body = wire::TaskList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &list_filters::TASK_PARAMETERS)?;
    let fields = task_rows::fields(&query)?;
    let filters = TaskFilters::parse(&query)?;
    let count = list_filters::count_tasks(&app, &query, &filters).await?;
    let after: Option<TaskId> = query.parsed("after", "a task's id, as given in \"next\"")?;
    let limit = query.limit()?;
    let table = app.table.read();
    let found = filters.tasks(&table, after, limit);
    let page = task_rows::page(&app, &table, found, fields, count)?;
    Ok(ApiResponse::page(&table, index, page))
}

/// Cancels an unfinished task.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/cancel",
    tag = "tasks",
    params(("id" = String, Path, description = "Id of the task.")),
    responses((status = 200, description = "The task after the change.", body = wire::Task))
)]
async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let id: TaskId = validate::parse_id("task", &id)?;
    let (index, _) = app.propose(&Command::CancelTask { task: id }).await?;
    task_response(&app, index, id)
}

/// Retries a terminal task: returns it to its queue with all attempts and losses available again.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/retry",
    tag = "tasks",
    params(("id" = String, Path, description = "Id of the task.")),
    responses((status = 200, description = "The task after the change.", body = wire::Task))
)]
async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    RequestId(request_id): RequestId,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let id: TaskId = validate::parse_id("task", &id)?;
    let options = ProposeOptions {
        allow_piggyback: true,
        ..ProposeOptions::default()
    };
    let command = Command::RetryTask {
        task: id,
        request_id,
    };
    let retried = app.propose_with(&command, options).await;
    let (index, _) = retried.map_err(|failure| match failure {
        HandlerError::Problem(problem) if problem.code() == Code::AlreadyFinished => HandlerError::Problem(Problem::new(
            Code::Conflict,
            format!("task {id} is not finished, so it cannot be retried; cancel it first to run it again"),
        )),
        other @ (HandlerError::Problem(_) | HandlerError::NotLeader | HandlerError::OutcomeUnknown(_)) => other,
    })?;
    task_response(&app, index, id)
}

fn task_response(app: &App, index: u64, id: TaskId) -> Result<ApiResponse, HandlerError> {
    let table = app.table.read();
    let task = table
        .task(id)
        .ok_or_else(|| Problem::from(Refusal::TaskNotFound(id)))?;
    let response = task_to_wire(app, &table, task, Fields::ALL);
    ApiResponse::from_table(&table, index, &response)
}
