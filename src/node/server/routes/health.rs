//! `/healthz` and `/readyz`: liveness and readiness of each node.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use triarch_raft::{DiskStatus, Readiness};
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
/// serves reads and forwards requests; `disk` reports it, also while the node is not ready.
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
    let disk = app.node.disk();
    let leader = match app.node.readiness() {
        Readiness::Ready { leader } => leader,
        other => return not_ready(other, disk).into_response(),
    };
    ApiResponse::ok(
        status.applied_index,
        &wire::Ready {
            status: "ready".into(),
            node: app.node_id,
            leader,
            term: status.term,
            disk: disk.map(present::node_disk),
        },
    )
    .into_response()
}

/// Describes why a node is not ready. A node whose disk is low stays behind until there is room again, so the disk is
/// named as well.
fn not_ready(readiness: Readiness, disk: Option<DiskStatus>) -> Problem {
    let disk = disk.map(present::node_disk);
    let shortage = match disk {
        Some(wire::NodeDisk {
            low: true,
            free_bytes,
            ..
        }) => format!(
            ", and takes no entries while only {} MiB are free on its disk: free some space there",
            free_bytes >> 20
        ),
        Some(_) | None => String::new(),
    };
    let problem = match readiness {
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
            "this node still has to apply {behind} committed entries{shortage}"
        ))
        .with("reason", "catching_up")
        .with("behind", behind),
        Readiness::CatchingUp { behind: None } => Problem::no_leader(format!(
            "this node has not received the commit index from its leader yet{shortage}"
        ))
        .with("reason", "catching_up"),
    };
    match disk.map(serde_json::to_value) {
        Some(Ok(disk)) => problem.with("disk", disk),
        Some(Err(_)) | None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_behind_for_want_of_space_says_so() {
        let disk = DiskStatus {
            free_bytes: 3 << 20,
            low: true,
            unfinished_sync_ms: None,
        };
        let behind = Readiness::CatchingUp { behind: Some(7) };
        let problem = not_ready(behind, Some(disk)).to_json();
        assert_eq!(problem["reason"], "catching_up");
        assert_eq!(problem["disk"]["low"], true);
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("7 committed entries, and takes no entries while only 3 MiB are free"),
            "{detail}"
        );
    }
}
