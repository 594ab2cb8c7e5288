//! `/healthz` and `/readyz`: liveness and readiness of each node.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use triarch_raft::Readiness;
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

/// Checks that a leader is known that reaches a majority, and that this node has applied what that leader had committed
/// after this node's last start, pause or network cut. Otherwise `reason` names what is missing: `stopping`,
/// `excluded`, `no_leader`, `no_majority`, `proposals_waiting` or `catching_up`. A node with low disk space is ready too, because it
/// serves reads and forwards requests; `disk` reports it.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses((status = 200, description = "A leader is known and this node is caught up.", body = wire::Ready))
)]
async fn readyz(State(app): State<App>) -> Response {
    if app.shutdown.is_cancelled() {
        return Problem::no_leader("this node is stopping")
            .with("reason", "stopping")
            .into_response();
    }
    if let Some(why) = app.node.exclusion() {
        return Problem::no_leader(why)
            .with("reason", "excluded")
            .into_response();
    }
    let status = app.node.status();
    let leader = match app.node.readiness() {
        Readiness::Ready { leader } => leader,
        other => return not_ready(other).into_response(),
    };
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

/// Describes why a node is not ready.
fn not_ready(readiness: Readiness) -> Problem {
    match readiness {
        Readiness::Ready { .. } | Readiness::NoLeader => {
            Problem::no_leader("this node knows no leader").with("reason", "no_leader")
        }
        Readiness::NoMajority { silent_ms } => Problem::no_leader(format!(
            "this node leads, but no majority of the masters has answered it for {silent_ms} ms: start the others, or \
             mend the network between them"
        ))
        .with("reason", "no_majority")
        .with("silent_ms", silent_ms),
        Readiness::ProposalsWaiting { oldest_ms } => Problem::no_leader(format!(
            "this node leads, but proposals wait and the commit index has not advanced for {oldest_ms} ms: see its log for \
             the masters that take no appends or have a slow disk"
        ))
        .with("reason", "proposals_waiting")
        .with("oldest_ms", oldest_ms),
        Readiness::CatchingUp { behind: Some(behind) } => Problem::no_leader(format!(
            "this node still has to apply {behind} committed entries"
        ))
        .with("reason", "catching_up")
        .with("behind", behind),
        Readiness::CatchingUp { behind: None } => Problem::no_leader(
            "this node has not received the commit index from its leader yet",
        )
        .with("reason", "catching_up"),
    }
}
