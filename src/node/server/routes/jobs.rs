//! `/v1/jobs`: submit, show, list, wait and cancel.

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use triarch_raft::ProposeOptions;
use triarch_sdk::wire;
use triarch_table::command::OnFailure;
use triarch_table::command::reply::{Refusal, Reply};
use triarch_table::records::job::Job;
use triarch_table::{Command, JobId, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::page::{self, Page};
use crate::server::protocol::problem::Problem;
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{Client, NoQuery, PathOnly, ReadIndex, RequestId};
use crate::server::routes::job_submission::{self, Submission};
use crate::server::routes::list_filters::{self, JobFilters};
use crate::server::routes::present;
use crate::server::routes::task_rows;
use crate::server::routes::wait::{take_places, too_many_waiters, wait_time};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit, list))
        .routes(routes!(show))
        .routes(routes!(list_tasks))
        .routes(routes!(cancel))
}

/// Submits a job. Either all of its tasks are accepted or none.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    tag = "jobs",
    request_body = wire::SubmitJob,
    responses((status = 201, description = "Job created, and durable on a majority of the voters.", body = wire::Submitted), (status = 200, description = "Duplicate: an earlier submission with the same key created the job.", body = wire::Submitted), (status = 202, description = "Part of a job received; other parts are missing.", body = wire::PartReceived))
)]
async fn submit(
    State(app): State<App>,
    _: NoQuery,
    RequestId(request_id): RequestId,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    app.check_table_memory(body.len())?;
    let job: wire::SubmitJob = json::parse(&body)?;
    let command = match job_submission::parse_job(&app, job, request_id)? {
        Submission::Whole(job) => Command::SubmitJob(job),
        Submission::Part(part) => Command::StagePart(part),
    };
    let options = ProposeOptions {
        allow_piggyback: true,
        ..ProposeOptions::default()
    };
    let (index, reply) = app.propose_with(&command, options).await?;
    let (job, tasks, duplicate) = match reply {
        Reply::Submitted {
            job,
            tasks,
            duplicate,
        } => (job, tasks, duplicate),
        Reply::Staged { received, parts } => {
            return ApiResponse::accepted(index, &wire::PartReceived { received, parts });
        }
        reply => return Err(app.unexpected_reply(&reply)),
    };
    let submitted = wire::Submitted {
        id: job.to_string(),
        tasks: tasks.iter().map(TaskId::to_string).collect(),
        duplicate,
    };
    if duplicate {
        ApiResponse::ok(index, &submitted)
    } else {
        ApiResponse::created(index, &submitted)
    }
}

/// Returns a job. With `wait_ms`, responds as soon as the job is terminal.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."), wire::WaitQuery),
    responses((status = 200, description = "The job.", body = wire::Job))
)]
async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    Client(client): Client,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["wait_ms"])?;
    let id: JobId = validate::parse_id("job", &id)?;
    let wait = wait_time(&query)?.unwrap_or_default();
    let terminal = |app: &App| {
        let table = app.table.read();
        table.job(id).map(|job| job.state().is_terminal())
    };
    if !wait.is_zero() && terminal(&app) == Some(false) {
        let _places = take_places(&app, client, 1)?;
        let mut woken = app.table.waiters.job(id).map_err(|_| too_many_waiters())?;
        // The table is read again after registering, so that the job's end cannot be missed in between.
        if terminal(&app) == Some(false) {
            app.wait_at_most(wait, woken.woken()).await;
        }
    }
    let table = app.table.read();
    let job = table
        .job(id)
        .ok_or_else(|| Problem::from(Refusal::JobNotFound(id)))?;
    ApiResponse::from_table(&table, index, &job_to_wire(job))
}

/// Returns one page of jobs, the newest first unless `order` is `asc`. All filters must match.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "jobs",
    params(wire::JobsQuery),
    responses((status = 200, description = "One page of jobs.", body = wire::JobList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &list_filters::JOB_PARAMETERS)?;
    let filters = JobFilters::parse(&query)?;
    let count = list_filters::count_jobs(&app, &query, &filters).await?;
    let after: Option<JobId> = query.parsed("after", "a job's id, as given in \"next\"")?;
    let limit = query.limit()?;
    let table = app.table.read();
    let found = filters.jobs(&table, after, limit);
    let next = found.next.map(|next| next.to_string());
    let page = page::write_on(
        Page::new("jobs").with_count(count),
        found.items,
        next,
        |job| job.id.to_string(),
        |job| job_to_wire(job),
    )?;
    Ok(ApiResponse::page(&table, index, page))
}

/// Returns one page of the tasks of a job, in the order of submission. Tasks have the same fields as in `/v1/tasks`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/tasks",
    tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."), wire::JobTasksQuery),
    responses((status = 200, description = "One page of tasks.", body = wire::TaskList))
)]
async fn list_tasks(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["limit", "after", "fields"])?;
    let fields = task_rows::fields(&query)?;
    let id: JobId = validate::parse_id("job", &id)?;
    let after: Option<TaskId> = query.parsed("after", "a task's id, as given in \"next\"")?;
    let limit = query.limit()?;
    let table = app.table.read();
    table
        .job(id)
        .ok_or_else(|| Problem::from(Refusal::JobNotFound(id)))?;
    let found = table.tasks_of(id, after, limit);
    let page = task_rows::page(&app, &table, found, fields, None)?;
    Ok(ApiResponse::page(&table, index, page))
}

/// Cancels every unfinished task of a job.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    tag = "jobs",
    params(("id" = String, Path, description = "Id of the job.")),
    responses((status = 200, description = "The job after the cancellation.", body = wire::Job))
)]
async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let id: JobId = validate::parse_id("job", &id)?;
    let (index, _) = app.propose(&Command::CancelJob { job: id }).await?;
    let table = app.table.read();
    let job = table
        .job(id)
        .ok_or_else(|| Problem::from(Refusal::JobNotFound(id)))?;
    ApiResponse::from_table(&table, index, &job_to_wire(job))
}

fn job_to_wire(job: &Job) -> wire::Job {
    wire::Job {
        id: job.id.to_string(),
        name: job.name.to_string(),
        state: present::job_state(job.state()),
        counts: job
            .counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| (present::task_state(state), count))
            .collect(),
        idempotency_key: job
            .idempotency
            .as_ref()
            .map(|idempotency| idempotency.key.to_string()),
        on_failure: match job.on_failure {
            OnFailure::Continue => wire::OnFailure::Continue,
            OnFailure::FailFast => wire::OnFailure::FailFast,
        },
        after_jobs: job
            .after_jobs
            .iter()
            .map(|after| wire::JobBefore {
                job: after.job.to_string(),
                when: present::condition_to_wire(after.when),
                met: after.met,
            })
            .collect(),
        created_at: wire::Timestamp::from_unix_ms(job.created_ms),
        finished_at: job.finished_ms.map(wire::Timestamp::from_unix_ms),
    }
}
