//! `/v1/queues`: what waits where.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::routing::get;
use triarch_sdk::wire;
use triarch_table::model::TaskState;

use super::App;
use super::answer::{Answer, ReadIndex};
use super::extract::Query;
use super::problem::Failure;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/queues", get(list))
}

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
        .into_iter()
        .map(|queue| wire::Queue {
            name: queue.name.to_string(),
            depth: queue.counts.of(TaskState::Queued),
            delayed: queue.counts.of(TaskState::Delayed),
            running: queue.counts.of(TaskState::Running),
            oldest_ms: queue
                .oldest_queued_ms
                .map(|since_ms| now_ms.saturating_sub(since_ms)),
        })
        .collect();
    Answer::ok(index, &wire::QueueList { queues })
}
