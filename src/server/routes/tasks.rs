//! `/v1/tasks`: show, list, wait, cancel and retry.

use axum::extract::{Path, RawQuery, State};
use triarch_raft::ProposeOptions;
use triarch_sdk::wire;
use triarch_table::command::reply::Refusal;
use triarch_table::records::task::{Attempt, AttemptEnd, Life, Task};
use triarch_table::{Command, ListPage, Table, TaskFilter, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{PathOnly, ReadIndex, RequestId};
use crate::server::routes::present;
use crate::server::routes::wait::{too_many_waiters, wait_time};

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
        let mut woken = app.table.waiters.task(id).map_err(|_| too_many_waiters())?;
        // The table is read again after registering, so that the task's end cannot be missed in between.
        if terminal(&app) == Some(false) {
            app.wait_at_most(wait, woken.woken()).await;
        }
    }
    task_response(&app, index, id)
}

/// Returns one page of tasks, in the order of submission, without payloads and attempts.
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
    let query = Query::parse(
        query.as_deref(),
        &["queue", "state", "kind", "worker", "limit", "after"],
    )?;
    let filter = TaskFilter {
        queue: query.text("queue").map(str::to_string),
        state: query
            .text("state")
            .map(present::parse_task_state)
            .transpose()?,
        kind: query.text("kind").map(str::to_string),
        worker: query.parsed("worker", "a worker's id")?,
        job: None,
    };
    let after: Option<TaskId> = query.parsed("after", "a task's id, as given in \"next\"")?;
    let limit = query.limit()?;
    let table = app.table.read();
    ApiResponse::from_table(
        &table,
        index,
        &task_page(&app, table.tasks(&filter, after, limit)),
    )
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
    let mut response = task_to_wire(app, task, Detail::Whole);
    response.after = keys_of(&table, task.after());
    ApiResponse::from_table(&table, index, &response)
}

/// Level of detail with which a task is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// Row of a list.
    Row,
    /// Single task, with its payload and all attempts that are kept.
    Whole,
}

/// Converts a page of tasks to rows.
pub fn task_page(app: &App, found: ListPage<'_, Task, TaskId>) -> wire::TaskList {
    wire::TaskList {
        tasks: found
            .items
            .into_iter()
            .map(|task| task_to_wire(app, task, Detail::Row))
            .collect(),
        next: found.next.map(|next| next.to_string()),
    }
}

fn task_to_wire(app: &App, task: &Task, detail: Detail) -> wire::Task {
    let (policy, class) = (&task.spec.policy, &task.spec.class);
    let lease = task.lease();
    let progress = lease.and_then(|lease| {
        let lead = app.lead.borrow().clone()?;
        let state = lead.state.lock();
        state.leases.progress(lease.token).cloned()
    });
    let run_at = match task.life {
        Life::Delayed { until_ms } => Some(wire::Timestamp::from_unix_ms(until_ms)),
        Life::Waiting { .. }
        | Life::Queued { .. }
        | Life::Running { .. }
        | Life::Succeeded { .. }
        | Life::Failed { .. }
        | Life::Cancelled { .. }
        | Life::Expired { .. } => None,
    };
    wire::Task {
        id: task.id.to_string(),
        job: task.job.to_string(),
        key: task.key().map(str::to_string),
        kind: task.kind().to_string(),
        queue: task.queue().to_string(),
        state: present::task_state(task.state()),
        priority: policy.priority,
        attempt: task.attempt,
        max_attempts: policy.max_attempts,
        failures: task.failures,
        max_losses: policy.max_losses,
        losses: task.losses,
        worker: task.worker().map(|worker| worker.to_string()),
        result: task.result().and_then(present::raw_json),
        error: task
            .error()
            .and_then(present::raw_json)
            .or_else(|| present::cancellation_error(task.cancel_cause()?)),
        timeout_ms: policy.timeout_ms,
        run_at,
        expires_at: task.expires_at_ms.map(wire::Timestamp::from_unix_ms),
        requires: Some(wire::Requires {
            labels: class.requires.labels.clone(),
            resources: class.requires.resources.clone(),
        })
        .filter(|requires| !requires.is_empty()),
        tags: policy.tags.clone(),
        after: Vec::new(),
        unique_key: task.unique_key().map(|key| key.to_string()),
        concurrency_key: task
            .concurrency()
            .map(|concurrency| concurrency.key.to_string()),
        concurrency_limit: task.concurrency().map(|concurrency| concurrency.limit),
        progress: progress.as_ref().and_then(|progress| progress.progress),
        note: progress.and_then(|progress| progress.note),
        payload: Some(task.payload())
            .filter(|_| detail == Detail::Whole)
            .and_then(present::raw_json),
        created_at: wire::Timestamp::from_unix_ms(task.created_ms),
        started_at: task.started_ms().map(wire::Timestamp::from_unix_ms),
        finished_at: task.finished_ms().map(wire::Timestamp::from_unix_ms),
        attempts: match detail {
            Detail::Row => None,
            Detail::Whole => Some(attempts(task)),
        },
    }
}

/// Returns the keys of these tasks.
pub fn keys_of(table: &Table, tasks: &[TaskId]) -> Vec<String> {
    let tasks = tasks.iter().filter_map(|&task| table.task(task));
    tasks
        .filter_map(|task| task.key().map(str::to_string))
        .collect()
}

fn attempts(task: &Task) -> Vec<wire::Attempt> {
    let present = |attempt: &Attempt| wire::Attempt {
        attempt: attempt.attempt,
        worker: attempt.worker.to_string(),
        token: attempt.token.0,
        started_at: wire::Timestamp::from_unix_ms(attempt.started_ms),
        ended_at: Some(wire::Timestamp::from_unix_ms(attempt.ended_ms)),
        outcome: Some(match &attempt.end {
            AttemptEnd::Succeeded => wire::AttemptOutcome::Succeeded,
            AttemptEnd::Failed { .. } => wire::AttemptOutcome::Failed,
            AttemptEnd::TimedOut => wire::AttemptOutcome::TimedOut,
            AttemptEnd::Lost | AttemptEnd::LeaseExpired => wire::AttemptOutcome::Lost,
            AttemptEnd::Returned => wire::AttemptOutcome::Returned,
            AttemptEnd::Cancelled => wire::AttemptOutcome::Cancelled,
        }),
        error: attempt.end.error().and_then(present::raw_json),
    };
    let running = task
        .lease()
        .zip(task.started_ms())
        .map(|(lease, started_ms)| wire::Attempt {
            attempt: lease.attempt,
            worker: lease.worker.to_string(),
            token: lease.token.0,
            started_at: wire::Timestamp::from_unix_ms(started_ms),
            ended_at: None,
            outcome: None,
            error: None,
        });
    task.history.iter().map(present).chain(running).collect()
}
