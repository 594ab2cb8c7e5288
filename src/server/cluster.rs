//! `/v1/cluster`: who is in the cluster, who leads, how far everyone is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use triarch_raft::{ChangeError, HandOverReason, NodeStatus, PeerRole, PeerState};
use triarch_sdk::wire;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::answer::{Answer, ReadIndex};
use super::extract::{self, NoQuery, Query};
use super::problem::{Code, Failure, Problem};

/// How long one request waits for a new node to catch up; a longer way is gone by asking again.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
const CATCH_UP_LOOK: Duration = Duration::from_millis(100);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(add_node))
        .routes(routes!(remove_node))
        .routes(routes!(transfer_leader))
}

/// The masters, who leads, and how far each has come.
#[utoipa::path(
    get,
    path = "/v1/cluster",
    tag = "cluster",
    params(wire::ClusterQuery),
    responses((status = 200, description = "As the node that answers sees it", body = wire::ClusterStatus))
)]
async fn show(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    let query = Query::read(query.as_deref(), &["digest"])?;
    let asked = query.parsed::<bool>("digest", "true or false")?;
    let mut status = present(&app);
    if asked == Some(true) {
        status.digest = Some(digest(&app).await?);
    }
    Answer::ok(index, &status)
}

/// Reads the whole table beside later applies; one request at a time may, because it costs the more the more is there.
async fn digest(app: &App) -> Result<wire::TableDigest, Failure> {
    let turn = Arc::clone(&app.digesting).try_acquire_owned();
    let turn = turn.map_err(|_| {
        Problem::new(
            Code::RateLimited,
            "this node is taking a digest of its table already; retry after a moment",
        )
    })?;
    let frozen = app.table.read().freeze();
    let taken = tokio::task::spawn_blocking(move || {
        let (index, value) = (frozen.last_index(), frozen.digest());
        drop(turn);
        wire::TableDigest {
            index,
            value: format!("{value:016x}"),
        }
    });
    taken
        .await
        .map_err(|error| Failure::Unknown(format!("the digest could not be taken: {error}")))
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferLeader {
    /// The node to lead; the one that is furthest, if not given.
    to: Option<u64>,
}

/// Makes another voter the leader.
#[utoipa::path(
    post,
    path = "/v1/cluster/transfer-leader",
    tag = "cluster",
    request_body = Option<wire::TransferLeader>,
    responses((status = 200, description = "As it is now", body = wire::ClusterStatus))
)]
async fn transfer_leader(
    State(app): State<App>,
    _: NoQuery,
    body: Bytes,
) -> Result<Answer, Failure> {
    let TransferLeader { to } = extract::json_or_default(&body)?;
    app.node
        .transfer_leader(to, HandOverReason::Operator)
        .await?;
    Answer::ok(app.node.applied_index(), &present(&app))
}

/// Brings a node in as a learner and promotes it once it has caught up. Asked again, it goes on where it was.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes",
    tag = "cluster",
    request_body = wire::AddNode,
    responses((status = 201, description = "It is a voter now", body = wire::ClusterStatus))
)]
async fn add_node(State(app): State<App>, _: NoQuery, body: Bytes) -> Result<Answer, Failure> {
    let wire::AddNode { id, addr } = extract::json(&body)?;
    if id == 0 {
        return Err(Problem::invalid("id", "must be at least 1").into());
    }
    extract::name("addr", &addr)?;
    app.node.add_learner(id, addr).await?;
    let deadline = Instant::now() + CATCH_UP_MAX;
    loop {
        match app.node.promote(id).await {
            Ok(()) => return Answer::created(app.node.applied_index(), &present(&app)),
            Err(ChangeError::Refused(_)) if Instant::now() < deadline => {
                tokio::time::sleep(CATCH_UP_LOOK).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes a node out. A leader hands its leadership over first, and the next one takes it out.
#[utoipa::path(
    delete,
    path = "/v1/cluster/nodes/{id}",
    tag = "cluster",
    params(("id" = u64, Path, description = "The node's id")),
    responses((status = 200, description = "As it is now", body = wire::ClusterStatus))
)]
async fn remove_node(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Answer, Failure> {
    let id: u64 = extract::id("node", &id)?;
    app.node.remove(id).await?;
    Answer::ok(app.node.applied_index(), &present(&app))
}

fn present(app: &App) -> wire::ClusterStatus {
    let status = app.node.status();
    let agreement = app.node.agreement();
    wire::ClusterStatus {
        cluster_id: status.cluster_id,
        leader: status.leader,
        term: status.term,
        commit_index: status.commit_index,
        answered_by: Some(app.id),
        nodes: status.nodes.into_iter().map(present_node).collect(),
        agreement: Some(wire::Agreement {
            index: agreement.agreed_index,
            mismatches: agreement.mismatches,
        }),
        digest: None,
    }
}

fn present_node(node: NodeStatus) -> wire::ClusterNode {
    wire::ClusterNode {
        id: node.id,
        addr: node.addr,
        role: match node.role {
            PeerRole::Voter => wire::NodeRole::Voter,
            PeerRole::Learner => wire::NodeRole::Learner,
        },
        state: match node.state {
            PeerState::Leader => wire::NodeState::Leader,
            PeerState::Follower => wire::NodeState::Follower,
            PeerState::Unreachable => wire::NodeState::Unreachable,
        },
        matched: node.matched,
        applied: node.applied,
    }
}
