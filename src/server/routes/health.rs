//! `/healthz` and `/readyz`: liveness and readiness of each node.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use triarch_raft::Leadership;
use triarch_sdk::wire;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::problem::Problem;
use crate::server::protocol::response::ApiResponse;
use crate::server::routes::present;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
}

/// Checks that the process is up.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 200, description = "The process is up.", body = wire::Health))
)]
async fn healthz(State(app): State<App>) -> Response {
    ApiResponse::ok(
        app.node.applied_index(),
        &wire::Health {
            status: "ok".into(),
            node: app.node_id,
        },
    )
    .into_response()
}

/// Checks that a leader is known and that this node has applied every entry it knows to be committed. A node with low
/// disk space is ready too, because it serves reads and forwards requests; `disk` reports it.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses((status = 200, description = "A leader is known and this node is caught up.", body = wire::Ready))
)]
async fn readyz(State(app): State<App>) -> Response {
    let status = app.node.status();
    let leader = match &*app.node.leadership().borrow() {
        Leadership::Leading { .. } => Some(app.node_id),
        Leadership::Following { leader, .. } => Some(*leader),
        Leadership::Unknown { .. } => None,
    };
    if app.shutdown.is_cancelled() {
        return Problem::no_leader("this node is stopping").into_response();
    }
    let Some(leader) = leader else {
        return Problem::no_leader("this node knows no leader").into_response();
    };
    if status.applied_index < status.commit_index {
        let behind = status.commit_index - status.applied_index;
        return Problem::no_leader(format!(
            "this node still has to apply {behind} committed entries"
        ))
        .with("behind", behind)
        .into_response();
    }
    ApiResponse::ok(
        status.applied_index,
        &wire::Ready {
            status: "ready".into(),
            node: app.node_id,
            leader,
            term: status.term,
            disk: app.node.disk().map(present::node_disk),
        },
    )
    .into_response()
}
