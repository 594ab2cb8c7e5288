//! `/v1/cluster`: who is in the cluster, who leads, how far everyone is.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::routing::{get, post};
use bytes::Bytes;
use triarch_raft::{NodeStatus, PeerRole, PeerState};
use triarch_sdk::wire;

use super::App;
use super::answer::{Answer, ReadIndex};
use super::extract::{self, Query};
use super::problem::Failure;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/cluster", get(show))
        .route("/v1/cluster/transfer-leader", post(transfer_leader))
}

async fn show(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    Query::read(query.as_deref(), &[])?;
    Answer::ok(index, &present(&app))
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferLeader {
    /// The node to lead; the one that is furthest, if not given.
    to: Option<u64>,
}

async fn transfer_leader(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Answer, Failure> {
    Query::read(query.as_deref(), &[])?;
    let TransferLeader { to } = extract::json_or_default(&body)?;
    app.node.transfer_leader(to).await?;
    Answer::ok(app.node.applied_index(), &present(&app))
}

fn present(app: &App) -> wire::ClusterStatus {
    let status = app.node.status();
    wire::ClusterStatus {
        cluster_id: status.cluster_id,
        leader: status.leader,
        term: status.term,
        commit_index: status.commit_index,
        answered_by: Some(app.id),
        nodes: status.nodes.into_iter().map(present_node).collect(),
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
