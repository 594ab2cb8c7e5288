//! What is done to all tasks that a filter finds: cancelling, retrying, forgetting.
//!
//! The leader finds them, a bounded number at a time, and names them in a command; each is judged again when that applies.
//! Tasks that come while a sweep is on its way are left alone. One that is cut short by the end of a leadership has done
//! what it has done: asked again, it does the rest.

use axum::extract::State;
use bytes::Bytes;
use triarch_sdk::wire;
use triarch_table::types::state::TaskState;
use triarch_table::{Command, JobId, Reply, Table, TaskFilter, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::App;
use crate::server::protocol::json;
use crate::server::protocol::json::NoQuery;
use crate::server::protocol::problem::{Failure, Problem};
use crate::server::protocol::response::Answer;
use crate::server::routes::tasks;

/// Tasks named in one command.
const AT_ONCE: usize = 2_000;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(cancel_many))
        .routes(routes!(retry_many))
        .routes(routes!(forget_many))
}

/// What a sweep came to.
pub struct Swept {
    /// How many it changed.
    pub count: u64,
    /// What its answer stands for.
    pub index: u64,
}

/// Cancels every unfinished task that is selected.
#[utoipa::path(
    post,
    path = "/v1/tasks/cancel",
    tag = "tasks",
    request_body = wire::TaskSelection,
    responses((status = 200, description = "How many there were", body = wire::Swept))
)]
async fn cancel_many(State(app): State<App>, _: NoQuery, body: Bytes) -> Result<Answer, Failure> {
    let filter = selection(&body)?;
    answer(cancel(&app, &filter, true).await?)
}

/// Retries every finished task that is selected, and that can be; dead letters, unless a state is told.
#[utoipa::path(
    post,
    path = "/v1/tasks/retry",
    tag = "tasks",
    request_body = wire::TaskSelection,
    responses((status = 200, description = "How many there were", body = wire::Swept))
)]
async fn retry_many(State(app): State<App>, _: NoQuery, body: Bytes) -> Result<Answer, Failure> {
    let filter = finished(selection(&body)?)?;
    let found = |table: &Table, after, last| find(table, &filter, after, last);
    let retry = |tasks: &[TaskId]| Command::RetryTasks {
        tasks: tasks.to_vec(),
    };
    answer(sweep(&app, found, retry).await?)
}

/// Forgets every finished job that has a selected task; those with dead letters, unless a state is told.
#[utoipa::path(
    post,
    path = "/v1/tasks/forget",
    tag = "tasks",
    request_body = wire::TaskSelection,
    responses((status = 200, description = "How many jobs there were", body = wire::Swept))
)]
async fn forget_many(State(app): State<App>, _: NoQuery, body: Bytes) -> Result<Answer, Failure> {
    let filter = finished(selection(&body)?)?;
    let state = filter.state.unwrap_or(TaskState::Failed);
    answer(forget(&app, &filter, state).await?)
}

fn answer(swept: Swept) -> Result<Answer, Failure> {
    Answer::ok(swept.index, &wire::Swept { count: swept.count })
}

/// Cancels what a filter finds and has not finished, what runs too if asked.
pub async fn cancel(app: &App, filter: &TaskFilter, running_too: bool) -> Result<Swept, Failure> {
    let found = |table: &Table, after, last| {
        let (mut tasks, next) = find(table, filter, after, last);
        let open = |task: &TaskId| {
            table
                .task(*task)
                .is_some_and(|task| !task.state().is_terminal())
        };
        tasks.retain(open);
        (tasks, next)
    };
    let cancel = |tasks: &[TaskId]| Command::CancelTasks {
        tasks: tasks.to_vec(),
        include_running: running_too,
    };
    sweep(app, found, cancel).await
}

/// Forgets the finished jobs of tasks that a filter finds in this state.
pub async fn forget(app: &App, filter: &TaskFilter, state: TaskState) -> Result<Swept, Failure> {
    let filter = TaskFilter {
        state: Some(state),
        ..filter.clone()
    };
    let found = |table: &Table, after, last| {
        let (tasks, next) = find(table, &filter, after, last);
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
    sweep(app, found, forget).await
}

/// Some of the tasks that a filter finds from one to another, and where to go on.
fn find(
    table: &Table,
    filter: &TaskFilter,
    after: Option<TaskId>,
    last: TaskId,
) -> (Vec<TaskId>, Option<TaskId>) {
    let found = table.tasks(filter, after, AT_ONCE);
    let tasks = found.items.into_iter().map(|task| task.id);
    (
        tasks.filter(|task| *task <= last).collect(),
        found.next.filter(|next| *next < last),
    )
}

/// Finds and proposes until the end of the table as it was at the beginning.
async fn sweep<T>(
    app: &App,
    find: impl Fn(&Table, Option<TaskId>, TaskId) -> (Vec<T>, Option<TaskId>),
    command: impl Fn(&[T]) -> Command,
) -> Result<Swept, Failure> {
    let mut swept = Swept {
        count: 0,
        index: app.node.read_barrier().await?,
    };
    let Some(last) = app.table.read().last_task() else {
        return Ok(swept);
    };
    let mut after = None;
    loop {
        let (found, next) = find(&app.table.read(), after, last);
        if !found.is_empty() {
            let (index, reply) = app.change(&command(&found)).await?;
            let Reply::Done { tasks } = reply else {
                return Err(app.unexpected(&reply));
            };
            swept.index = index;
            swept.count += tasks;
        }
        if next.is_none() {
            return Ok(swept);
        }
        after = next;
    }
}

fn selection(body: &Bytes) -> Result<TaskFilter, Problem> {
    let selection: wire::TaskSelection = json::json(body)?;
    let id = |field: &str| Problem::invalid(field, "is not an id of this kind");
    let filter = TaskFilter {
        queue: selection.queue,
        state: selection.state.map(tasks::read_state),
        kind: selection.kind,
        worker: selection
            .worker
            .map(|worker| worker.parse().map_err(|_| id("worker")))
            .transpose()?,
        job: selection
            .job
            .map(|job| job.parse().map_err(|_| id("job")))
            .transpose()?,
    };
    if filter == TaskFilter::default() {
        return Err(Problem::invalid(
            "",
            "select by at least one of queue, state, kind, worker and job: everything at once is hardly meant",
        ));
    }
    Ok(filter)
}

/// Only what has finished; dead letters, unless a state is told.
fn finished(filter: TaskFilter) -> Result<TaskFilter, Problem> {
    let state = filter.state.unwrap_or(TaskState::Failed);
    if !state.is_terminal() {
        return Err(Problem::invalid(
            "state",
            "must be one of succeeded, failed, cancelled, expired: only what has finished can be meant",
        ));
    }
    Ok(TaskFilter {
        state: Some(state),
        ..filter
    })
}
