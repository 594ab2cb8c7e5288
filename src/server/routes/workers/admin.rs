//! What clients ask about workers, and say of them.

use axum::extract::{Path, RawQuery, State};
use triarch_sdk::wire;
use triarch_table::records::worker::{Worker, WorkerLife};
use triarch_table::types::state::WorkerState;
use triarch_table::{Command, WorkerId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::App;
use crate::server::protocol::json::{Bare, NoQuery, Query};
use crate::server::protocol::problem::{Code, Failure, Problem};
use crate::server::protocol::response::{Answer, ReadIndex};
use crate::server::routes::workers::protocol::worker_id;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(drain))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Has a worker finish what it runs, take nothing more, and leave.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/drain",
    tag = "workers",
    params(("id" = String, Path, description = "The worker's id")),
    responses((status = 200, description = "The worker as it is now", body = wire::Worker))
)]
async fn drain(State(app): State<App>, Path(id): Path<String>, _: Bare) -> Result<Answer, Failure> {
    let id = worker_id(&id)?;
    let (index, _) = app.change(&Command::DrainWorker { worker: id }).await?;
    answer(&app, index, id)
}

/// Has a worker get nothing more and keep what it runs, until it is resumed.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/pause",
    tag = "workers",
    params(("id" = String, Path, description = "The worker's id")),
    responses((status = 200, description = "The worker as it is now", body = wire::Worker))
)]
async fn pause(State(app): State<App>, Path(id): Path<String>, _: Bare) -> Result<Answer, Failure> {
    let id = worker_id(&id)?;
    let (index, _) = app.change(&Command::PauseWorker { worker: id }).await?;
    answer(&app, index, id)
}

/// Ends a worker's pause or quarantine: it gets work again.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/resume",
    tag = "workers",
    params(("id" = String, Path, description = "The worker's id")),
    responses((status = 200, description = "The worker as it is now", body = wire::Worker))
)]
async fn resume(
    State(app): State<App>,
    Path(id): Path<String>,
    _: Bare,
) -> Result<Answer, Failure> {
    let id = worker_id(&id)?;
    let (index, _) = app.change(&Command::ResumeWorker { worker: id }).await?;
    answer(&app, index, id)
}

/// A worker.
#[utoipa::path(
    get,
    path = "/v1/workers/{id}",
    tag = "workers",
    params(("id" = String, Path, description = "The worker's id"), wire::ReadQuery),
    responses((status = 200, description = "The worker", body = wire::Worker))
)]
async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    answer(&app, index, worker_id(&id)?)
}

/// One page of workers.
#[utoipa::path(
    get,
    path = "/v1/workers",
    tag = "workers",
    params(wire::WorkersQuery),
    responses((status = 200, description = "The page", body = wire::WorkerList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    let query = Query::read(query.as_deref(), &["state", "limit", "after"])?;
    let state = query.text("state").map(worker_state).transpose()?;
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
    let workers = found
        .into_iter()
        .map(|worker| present(&app, worker, table.running_on(worker.id)))
        .collect();
    Answer::shown(&table, index, &wire::WorkerList { workers, next })
}

fn answer(app: &App, index: u64, id: WorkerId) -> Result<Answer, Failure> {
    let table = app.table.read();
    let worker = table.worker(id).ok_or_else(|| {
        Problem::new(
            Code::UnknownWorker,
            format!("there is no worker {id}; gone workers are kept for a bounded time"),
        )
    })?;
    Answer::shown(&table, index, &present(app, worker, table.running_on(id)))
}

fn worker_state(text: &str) -> Result<WorkerState, Problem> {
    WorkerState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| {
            let known: Vec<&str> = WorkerState::ALL
                .iter()
                .map(|state| state.as_str())
                .collect();
            Problem::invalid("state", format!("must be one of {}", known.join(", ")))
        })
}

pub fn present_state(state: WorkerState) -> wire::WorkerState {
    match state {
        WorkerState::Live => wire::WorkerState::Live,
        WorkerState::Paused => wire::WorkerState::Paused,
        WorkerState::Quarantined => wire::WorkerState::Quarantined,
        WorkerState::Probation => wire::WorkerState::Probation,
        WorkerState::Draining => wire::WorkerState::Draining,
        WorkerState::Lost => wire::WorkerState::Lost,
        WorkerState::Left => wire::WorkerState::Left,
    }
}

fn present(app: &App, worker: &Worker, running: u32) -> wire::Worker {
    let state = present_state(worker.state());
    let present = worker.state().is_present();
    let seen = app
        .lead
        .borrow()
        .as_ref()
        .filter(|_| present)
        .map(|lead| lead.desk.lock().worker(worker.id));
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
        load: seen.and_then(|(_, load)| load).map(|load| wire::Load {
            cpu: load.cpu,
            mem_mb: load.mem_mb,
        }),
        registered_at: Some(wire::Timestamp::from_unix_ms(worker.registered_ms)),
        silent_ms: seen
            .map(|(heard, _)| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX)),
    }
}
