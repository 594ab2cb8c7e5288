//! Bulk operations on all tasks that match a filter: cancel, retry, forget.
//!
//! The leader finds the tasks in bounded batches and names each batch in one command. Every task is checked again when
//! that command applies. Tasks submitted while a bulk operation runs are not affected. An operation cut short by the
//! end of a leadership keeps the changes it has made; a retry makes the rest.

use axum::extract::State;
use bytes::Bytes;
use triarch_sdk::wire;
use triarch_table::types::state::TaskState;
use triarch_table::{Command, JobId, Reply, Table, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::problem::Problem;
use crate::server::protocol::response::ApiResponse;
use crate::server::routes::extractors::NoQuery;
use crate::server::routes::list_filters::TaskFilters;

/// Maximum number of tasks in one command.
const BATCH_TASKS_MAX: usize = 2_000;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(cancel_many))
        .routes(routes!(forget_many))
}

/// Routes that a repeat does twice: a task that has failed again in between would be retried again.
pub fn once_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(retry_many))
}

/// Whether a bulk operation changes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Change,
    /// It only counts what it would change.
    Count,
}

impl Mode {
    /// Returns the mode of a request with this `dry_run`.
    pub fn of(dry_run: bool) -> Self {
        match dry_run {
            true => Mode::Count,
            false => Mode::Change,
        }
    }
}

/// Result of a bulk operation.
pub struct BulkResult {
    /// Number of tasks or jobs changed.
    pub count: u64,
    /// Log index at which the result holds.
    pub index: u64,
}

/// Cancels every selected task that is unfinished.
#[utoipa::path(
    post,
    path = "/v1/tasks/cancel",
    tag = "tasks",
    request_body = wire::TaskSelection,
    responses((status = 200, description = "Number of tasks changed.", body = wire::Swept))
)]
async fn cancel_many(
    State(app): State<App>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let (filters, mode) = selection(&body)?;
    bulk_response(cancel(&app, &filters, true, mode).await?)
}

/// Retries every selected task that is finished and can be retried. Default state: `failed` (dead letters). No node repeats
/// the request after an unknown outcome.
#[utoipa::path(
    post,
    path = "/v1/tasks/retry",
    tag = "tasks",
    request_body = wire::TaskSelection,
    responses((status = 200, description = "Number of tasks changed.", body = wire::Swept))
)]
async fn retry_many(
    State(app): State<App>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let (filters, mode) = selection(&body)?;
    let state = finished_state(&filters)?;
    let filters = filters.with_state(state);
    let found = |table: &Table, after, last| find_batch(table, &filters, after, last);
    let retry = |tasks: &[TaskId]| Command::RetryTasks {
        tasks: tasks.to_vec(),
    };
    bulk_response(apply_in_batches(&app, mode, found, retry).await?)
}

/// Deletes every finished job that contains a selected task. Default state: `failed` (dead letters).
#[utoipa::path(
    post,
    path = "/v1/tasks/forget",
    tag = "tasks",
    request_body = wire::TaskSelection,
    responses((status = 200, description = "Number of jobs deleted.", body = wire::Swept))
)]
async fn forget_many(
    State(app): State<App>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let (filters, mode) = selection(&body)?;
    let state = finished_state(&filters)?;
    bulk_response(forget(&app, filters, state, mode).await?)
}

fn bulk_response(result: BulkResult) -> Result<ApiResponse, HandlerError> {
    ApiResponse::ok(
        result.index,
        &wire::Swept {
            count: result.count,
        },
    )
}

/// Cancels the unfinished tasks that match; running ones only if `running_too`.
pub async fn cancel(
    app: &App,
    filters: &TaskFilters,
    running_too: bool,
    mode: Mode,
) -> Result<BulkResult, HandlerError> {
    let found = |table: &Table, after, last| {
        let (mut tasks, next) = find_batch(table, filters, after, last);
        let open = |task: &TaskId| {
            table.task(*task).is_some_and(|task| {
                let state = task.state();
                !state.is_terminal() && (running_too || state != TaskState::Running)
            })
        };
        tasks.retain(open);
        (tasks, next)
    };
    let cancel = |tasks: &[TaskId]| Command::CancelTasks {
        tasks: tasks.to_vec(),
        include_running: running_too,
    };
    apply_in_batches(app, mode, found, cancel).await
}

/// Forgets the finished jobs of the tasks that match in this state.
pub async fn forget(
    app: &App,
    filters: TaskFilters,
    state: TaskState,
    mode: Mode,
) -> Result<BulkResult, HandlerError> {
    let filters = filters.with_state(state);
    let found = |table: &Table, after, last| {
        let (tasks, next) = find_batch(table, &filters, after, last);
        let jobs = tasks
            .into_iter()
            .filter_map(|task| Some(table.task(task)?.job));
        let mut jobs: Vec<JobId> = jobs
            .filter(|job| table.job(*job).is_some_and(|job| job.state().is_terminal()))
            .collect();
        jobs.dedup();
        (jobs, next)
    };
    let forget = |jobs: &[JobId]| Command::ForgetJobs {
        jobs: jobs.to_vec(),
    };
    apply_in_batches(app, mode, found, forget).await
}

/// Returns one batch of the tasks that match between two positions, and the position to continue at.
fn find_batch(
    table: &Table,
    filters: &TaskFilters,
    after: Option<TaskId>,
    last: TaskId,
) -> (Vec<TaskId>, Option<TaskId>) {
    let found = filters.tasks(table, after, BATCH_TASKS_MAX);
    let tasks = found.items.into_iter().map(|task| task.id);
    (
        tasks.filter(|task| *task <= last).collect(),
        found.next.filter(|next| *next < last),
    )
}

/// Finds and proposes batch after batch, up to the last task that existed at the beginning.
async fn apply_in_batches<T: PartialEq>(
    app: &App,
    mode: Mode,
    find: impl Fn(&Table, Option<TaskId>, TaskId) -> (Vec<T>, Option<TaskId>),
    command: impl Fn(&[T]) -> Command,
) -> Result<BulkResult, HandlerError> {
    let mut result = BulkResult {
        count: 0,
        index: app.node.read_barrier().await?,
    };
    let Some(last) = app.table.read().last_task() else {
        return Ok(result);
    };
    let mut after = None;
    let mut counted: Option<T> = None;
    loop {
        let (found, next) = find(&app.table.read(), after, last);
        if mode == Mode::Count {
            // The tasks of one job may be in several batches. They follow each other.
            let again = counted.is_some() && counted.as_ref() == found.first();
            result.count += (found.len() - usize::from(again)) as u64;
            counted = found.into_iter().last().or(counted);
        } else if !found.is_empty() {
            let proposed = app.propose(&command(&found)).await;
            let (index, reply) = proposed.map_err(|error| match error {
                HandlerError::NotLeader if result.count > 0 => HandlerError::OutcomeUnknown(
                    format!("leadership changed after {} were done", result.count),
                ),
                other @ (HandlerError::Problem(_)
                | HandlerError::NotLeader
                | HandlerError::OutcomeUnknown(_)) => other,
            })?;
            let Reply::Done { tasks } = reply else {
                return Err(app.unexpected_reply(&reply));
            };
            result.index = index;
            result.count += tasks;
        }
        if next.is_none() {
            return Ok(result);
        }
        after = next;
    }
}

fn selection(body: &Bytes) -> Result<(TaskFilters, Mode), Problem> {
    let selection: wire::TaskSelection = json::parse(body)?;
    let mode = Mode::of(selection.dry_run);
    let filters = TaskFilters::of_selection(selection)?;
    if filters == TaskFilters::default() {
        return Err(Problem::invalid(
            "",
            "at least one filter, such as queue, state or tag, is required, so that no request affects all tasks by mistake",
        ));
    }
    Ok((filters, mode))
}

/// Returns the state that finished tasks are selected by. Default: failed (dead letters).
fn finished_state(filters: &TaskFilters) -> Result<TaskState, Problem> {
    let state = filters.state().unwrap_or(TaskState::Failed);
    if !state.is_terminal() {
        return Err(Problem::invalid(
            "state",
            "must be one of succeeded, failed, cancelled, expired: only finished tasks can be selected",
        ));
    }
    Ok(state)
}
