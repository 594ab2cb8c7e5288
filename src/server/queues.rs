//! `/v1/queues`: what waits where.

use axum::extract::{RawQuery, State};
use triarch_sdk::wire;
use triarch_table::model::TaskState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::answer::{Answer, ReadIndex};
use super::extract::Query;
use super::problem::Failure;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// All queues, with what waits and runs in them.
#[utoipa::path(
    get,
    path = "/v1/queues",
    tag = "queues",
    params(wire::ReadQuery),
    responses((status = 200, description = "The queues", body = wire::QueueList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    Query::read(query.as_deref(), &[])?;
    let table = app.table.read();
    let now_ms = table.now_ms();
    let queues = table
        .queues()
        .map(|queue| wire::Queue {
            name: queue.name.to_string(),
            depth: queue.counts.of(TaskState::Queued),
            delayed: queue.counts.of(TaskState::Delayed),
            running: queue.counts.of(TaskState::Running),
            oldest_ms: queue
                .oldest_ready_ms
                .map(|since_ms| now_ms.saturating_sub(since_ms)),
        })
        .collect();
    Answer::ok(index, &wire::QueueList { queues })
}
