//! Administration of workers by clients: show, list, drain, pause and resume.

use std::time::Instant;

use axum::extract::{Path, RawQuery, State};
use triarch_sdk::wire;
use triarch_table::records::worker::{Worker, WorkerLife};
use triarch_table::{Command, WorkerId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::protocol::worker_id;
use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::page;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::routes::extractors::{NoQuery, PathOnly, ReadIndex};
use crate::server::routes::present;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(drain))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Drains a worker: it takes no new tasks, finishes its running attempts, and then leaves the cluster.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/drain",
    tag = "workers",
    params(("id" = String, Path, description = "Id of the worker.")),
    responses((status = 200, description = "The worker after the change.", body = wire::Worker))
)]
async fn drain(
    State(app): State<App>,
    Path(id): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    let (index, _) = app.propose(&Command::DrainWorker { worker: id }).await?;
    worker_response(&app, index, id)
}

/// Pauses a worker: it keeps its running attempts and gets no new ones until it is resumed.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/pause",
    tag = "workers",
    params(("id" = String, Path, description = "Id of the worker.")),
    responses((status = 200, description = "The worker after the change.", body = wire::Worker))
)]
async fn pause(
    State(app): State<App>,
    Path(id): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    let (index, _) = app.propose(&Command::PauseWorker { worker: id }).await?;
    worker_response(&app, index, id)
}

/// Resumes a paused or quarantined worker: it gets new tasks again.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/resume",
    tag = "workers",
    params(("id" = String, Path, description = "Id of the worker.")),
    responses((status = 200, description = "The worker after the change.", body = wire::Worker))
)]
async fn resume(
    State(app): State<App>,
    Path(id): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    let (index, _) = app.propose(&Command::ResumeWorker { worker: id }).await?;
    worker_response(&app, index, id)
}

/// Returns a worker.
#[utoipa::path(
    get,
    path = "/v1/workers/{id}",
    tag = "workers",
    params(("id" = String, Path, description = "Id of the worker."), wire::ReadQuery),
    responses((status = 200, description = "The worker.", body = wire::Worker))
)]
async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    worker_response(&app, index, worker_id(&id)?)
}

/// Returns one page of workers.
#[utoipa::path(
    get,
    path = "/v1/workers",
    tag = "workers",
    params(wire::WorkersQuery),
    responses((status = 200, description = "One page of workers.", body = wire::WorkerList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["state", "limit", "after"])?;
    let state = query
        .text("state")
        .map(present::parse_worker_state)
        .transpose()?;
    let after: Option<WorkerId> = query.parsed("after", "a worker's id, as given in \"next\"")?;
    let limit = query.limit()?;
    let table = app.table.read();
    let mut found: Vec<&Worker> = table
        .workers()
        .filter(|worker| after.is_none_or(|after| worker.id > after))
        .filter(|worker| state.is_none_or(|state| worker.state() == state))
        .take(limit + 1)
        .collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| more)
        .map(|worker| worker.id.to_string());
    let page = page::write(
        "workers",
        found,
        next,
        |worker| worker.id.to_string(),
        |worker| worker_to_wire(&app, worker, table.running_on(worker.id)),
    )?;
    Ok(ApiResponse::page(&table, index, page))
}

fn worker_response(app: &App, index: u64, id: WorkerId) -> Result<ApiResponse, HandlerError> {
    let table = app.table.read();
    let worker = table.worker(id).ok_or_else(|| {
        Problem::new(
            Code::UnknownWorker,
            format!("there is no worker {id}; workers that are lost or have left are kept for a limited time"),
        )
    })?;
    ApiResponse::from_table(
        &table,
        index,
        &worker_to_wire(app, worker, table.running_on(id)),
    )
}

fn worker_to_wire(app: &App, worker: &Worker, running: u32) -> wire::Worker {
    let state = present::worker_state(worker.state());
    let present = worker.state().is_present();
    let contact = app.lead.borrow().as_ref().filter(|_| present).map(|lead| {
        let leases = &lead.state.lock().leases;
        let load = leases.load(worker.id);
        (leases.silence(worker.id, Instant::now()), load)
    });
    wire::Worker {
        id: worker.id.to_string(),
        name: worker.name.to_string(),
        state,
        quarantined_until: match worker.life {
            WorkerLife::Quarantined { until_ms, .. } => {
                Some(wire::Timestamp::from_unix_ms(until_ms))
            }
            WorkerLife::Live
            | WorkerLife::Paused
            | WorkerLife::Probation { .. }
            | WorkerLife::Draining
            | WorkerLife::Lost { .. }
            | WorkerLife::Left { .. } => None,
        },
        failing: worker.streak.len() as u64,
        queues: worker.profile.queues.iter().cloned().collect(),
        kinds: worker.profile.kinds.iter().cloned().collect(),
        slots: worker.slots,
        running,
        labels: worker.profile.labels.clone(),
        resources: worker.profile.resources.clone(),
        load: contact.and_then(|(_, load)| load).map(|load| wire::Load {
            cpu: load.cpu,
            mem_mb: load.mem_mb,
        }),
        registered_at: Some(wire::Timestamp::from_unix_ms(worker.registered_ms)),
        silent_ms: contact
            .map(|(silence, _)| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
    }
}
