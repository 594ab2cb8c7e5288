//! `/healthz` and `/readyz`, answered by each node for itself.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use triarch_raft::Leadership;

use super::App;
use super::answer::Answer;
use super::problem::Problem;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

/// The process is up.
async fn healthz(State(app): State<App>) -> Response {
    Answer::ok(
        app.node.applied_index(),
        &json!({"status": "ok", "node": app.id}),
    )
    .into_response()
}

/// A leader is known and this node has applied what it knows to be committed.
async fn readyz(State(app): State<App>) -> Response {
    let status = app.node.status();
    let leader = match &*app.node.leadership().borrow() {
        Leadership::Leading { .. } => Some(app.id),
        Leadership::Following { leader, .. } => Some(*leader),
        Leadership::Unknown { .. } => None,
    };
    if app.stopping.is_cancelled() {
        return Problem::no_leader("this node is stopping").into_response();
    }
    let Some(leader) = leader else {
        return Problem::no_leader("no leader is known to this node").into_response();
    };
    if status.applied_index < status.commit_index {
        let behind = status.commit_index - status.applied_index;
        return Problem::no_leader(format!(
            "this node has {behind} committed entries still to apply"
        ))
        .with("behind", behind)
        .into_response();
    }
    Answer::ok(
        status.applied_index,
        &json!({"status": "ready", "node": app.id, "leader": leader, "term": status.term}),
    )
    .into_response()
}
