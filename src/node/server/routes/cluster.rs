//! `/v1/cluster`: status, membership, leadership transfer and snapshots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use triarch_areas::area::Area;
use triarch_raft::{
    FormingStatus, Level, NodeAddress, NodeAddressError, NodeStatus, PeerRole, PeerState,
    TransferReason,
};
use triarch_sdk::wire;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{NoQuery, PathOnly, ReadIndex};
use crate::server::routes::present;
use crate::server::routes::wait::wait_time;

/// Default of `wait_ms`.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// Interval at which the role of a joining node is checked.
const JOIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(add_node))
        .routes(routes!(remove_node))
        .routes(routes!(upgrade))
        .routes(routes!(set_time_back))
        .routes(routes!(write_snapshot))
}

/// Routes that a repeated request executes twice: the next leader would hand leadership on.
pub fn once_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(transfer_leader))
}

/// Returns the nodes, the leader, and the progress of each node.
#[utoipa::path(
    get,
    path = "/v1/cluster",
    tag = "cluster",
    params(wire::ClusterQuery),
    responses((status = 200, description = "Status of the cluster, as the responding node sees it.", body = wire::ClusterStatus))
)]
async fn show(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["digest"])?;
    let asked = query.parsed::<bool>("digest", "true or false")?;
    let mut status = cluster_status(&app);
    if asked == Some(true) {
        status.digest = Some(digest(&app).await?);
    }
    ApiResponse::ok(index, &status)
}

/// Computes a digest of the whole table concurrently with later applies. Only one runs at a time, because the cost
/// grows with the table.
async fn digest(app: &App) -> Result<wire::TableDigest, HandlerError> {
    let permit = Arc::clone(&app.digest_permit).try_acquire_owned();
    let permit = permit.map_err(|_| {
        Problem::new(
            Code::RateLimited,
            "this node is already computing a digest of its table; retry later",
        )
    })?;
    let (frozen, ()) = app.table.freeze(|_| ());
    let computed = tokio::task::spawn_blocking(move || {
        let (index, digest) = (frozen.last_index(), frozen.digest());
        drop(permit);
        let area = |(area, value): &(Area, u64)| wire::AreaDigest {
            area: area.name().to_owned(),
            value: format!("{value:016x}"),
        };
        wire::TableDigest {
            index,
            value: format!("{:016x}", digest.value),
            areas: digest.areas.iter().map(area).collect(),
        }
    });
    computed.await.map_err(|error| {
        HandlerError::OutcomeUnknown(format!("the digest could not be computed: {error}"))
    })
}

/// Raises the level of the cluster's formats. Every node must be up and understand the level; afterwards no older version
/// can take part any more. Asked again, it changes nothing.
#[utoipa::path(
    post,
    path = "/v1/cluster/upgrade",
    tag = "cluster",
    request_body = Option<wire::UpgradeCluster>,
    responses((status = 200, description = "As it is now", body = wire::ClusterStatus))
)]
async fn upgrade(
    State(app): State<App>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let wire::UpgradeCluster { level } = json::parse_or_default(&body)?;
    let level = match level {
        None => None,
        Some(number) => match Level::new(number) {
            Some(level) => Some(level),
            None => return Err(Problem::invalid("level", "must be at least 1").into()),
        },
    };
    app.node.raise_level(level).await?;
    ApiResponse::ok(app.node.applied_index(), &cluster_status(&app))
}

/// Sets the time of the table back, after most of the masters' clocks were ahead once. Delays, schedules, retention and all
/// other times follow. Refused unless the clocks of all masters are known and agree, and the table is ahead of them. Asked
/// again, it is refused, because the table is ahead no more.
#[utoipa::path(
    post,
    path = "/v1/cluster/set-time-back",
    tag = "cluster",
    responses((status = 200, description = "The time was set back.", body = wire::TimeSetBack))
)]
async fn set_time_back(State(app): State<App>, _: PathOnly) -> Result<ApiResponse, HandlerError> {
    let lead = app.leader_term()?;
    let voters = app.node.status().nodes.into_iter();
    let voters = voters.filter(|node| node.role == PeerRole::Voter);
    let others: Vec<u64> = voters
        .map(|node| node.id)
        .filter(|id| *id != app.node_id)
        .collect();
    let corrected = lead.correct_time(app.node_id, others).await?;
    let answer = wire::TimeSetBack {
        from: wire::Timestamp::from_unix_ms(corrected.from_ms),
        to: wire::Timestamp::from_unix_ms(corrected.to_ms),
        back_ms: corrected.from_ms.saturating_sub(corrected.to_ms),
    };
    ApiResponse::ok(corrected.index, &answer)
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferLeader {
    /// Node that shall lead. Default: the node whose log is furthest.
    to: Option<u64>,
}

/// Transfers leadership to another voter. No node repeats the request after an unknown outcome.
#[utoipa::path(
    post,
    path = "/v1/cluster/transfer-leader",
    tag = "cluster",
    request_body = Option<wire::TransferLeader>,
    responses((status = 200, description = "Leadership transferred; current status of the cluster.", body = wire::ClusterStatus))
)]
async fn transfer_leader(
    State(app): State<App>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let TransferLeader { to } = json::parse_or_default(&body)?;
    app.node
        .transfer_leader(to, TransferReason::Operator)
        .await?;
    ApiResponse::ok(app.node.applied_index(), &cluster_status(&app))
}

/// Adds a node as a learner. The cluster promotes it to a voter once it has caught up, even if the leader changes or no
/// client waits. A repeated request waits for the same promotion.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes",
    tag = "cluster",
    params(wire::HoldQuery),
    request_body = wire::AddNode,
    responses(
        (status = 201, description = "The node is a voter.", body = wire::ClusterStatus),
        (status = 202, description = "The node is a learner and will be promoted once it has caught up.", body = wire::ClusterStatus)
    )
)]
async fn add_node(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["wait_ms"])?;
    let deadline = Instant::now() + wait_time(&query)?.unwrap_or(DEFAULT_WAIT);
    let wire::AddNode { id, addr } = json::parse(&body)?;
    if id == 0 {
        return Err(Problem::invalid("id", "must be at least 1").into());
    }
    let addr: NodeAddress = addr
        .parse()
        .map_err(|error: NodeAddressError| Problem::invalid("addr", error.to_string()))?;
    app.node.add(id, addr).await?;
    loop {
        let status = cluster_status(&app);
        let role = status.nodes.iter().find(|node| node.id == id);
        if role.is_some_and(|node| node.role == wire::NodeRole::Voter) {
            return ApiResponse::created(app.node.applied_index(), &status);
        }
        if Instant::now() >= deadline || app.shutdown.is_cancelled() || !app.node.leads_now() {
            return ApiResponse::accepted(app.node.applied_index(), &status);
        }
        app.wait_at_most(JOIN_POLL_INTERVAL, std::future::pending())
            .await;
    }
}

/// Makes the leader write a snapshot of everything it has applied, and responds once it is durable. The leader purges
/// its log before the snapshot. The other nodes write their snapshots on their own schedule.
#[utoipa::path(
    post,
    path = "/v1/cluster/snapshot",
    tag = "cluster",
    params(wire::HoldQuery),
    responses(
        (status = 200, description = "The snapshot is on the leader's disk.", body = wire::SnapshotWritten),
        (status = 202, description = "The snapshot is still being written.", body = wire::SnapshotWritten)
    )
)]
async fn write_snapshot(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["wait_ms"])?;
    let wait = wait_time(&query)?.unwrap_or(DEFAULT_WAIT);
    let written = app.node.snapshot(wait).await?;
    let answer = wire::SnapshotWritten {
        node: app.node_id,
        index: written.map(|written| written.index),
        bytes: written.map(|written| written.bytes),
    };
    match written {
        Some(_) => ApiResponse::ok(app.node.applied_index(), &answer),
        None => ApiResponse::accepted(app.node.applied_index(), &answer),
    }
}

/// Removes a node permanently. A leader first transfers its leadership, and the next leader removes it. A removal that
/// leaves no responding majority is refused.
#[utoipa::path(
    delete,
    path = "/v1/cluster/nodes/{id}",
    tag = "cluster",
    params(("id" = u64, Path, description = "Id of the node.")),
    responses((status = 200, description = "Node removed; current status of the cluster.", body = wire::ClusterStatus))
)]
async fn remove_node(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<ApiResponse, HandlerError> {
    let id: u64 = validate::parse_id("node", &id)?;
    app.node.remove(id).await?;
    ApiResponse::ok(app.node.applied_index(), &cluster_status(&app))
}

fn cluster_status(app: &App) -> wire::ClusterStatus {
    let status = app.node.status();
    let consistency = app.node.consistency();
    wire::ClusterStatus {
        cluster_id: status.cluster_id,
        leader: status.leader,
        term: status.term,
        commit_index: status.commit_index,
        answered_by: Some(app.node_id),
        nodes: status.nodes.into_iter().map(cluster_node).collect(),
        forming: status.forming.map(forming),
        agreement: Some(wire::DivergenceCheck {
            index: consistency.verified_index,
            mismatches: consistency.mismatches,
        }),
        clock_ahead_ms: app.clock.skew_ms(),
        table_ahead_ms: app.clock.table_ahead_ms(app.table.read().now_ms()),
        excluded: app.node.exclusion(),
        digest: None,
        level: Some(status.level.number()),
    }
}

fn forming(forming: FormingStatus) -> wire::Forming {
    let members = forming
        .members
        .into_iter()
        .map(|member| wire::FormingMember {
            id: member.id,
            addr: member.addr,
            answers: member.answers,
        });
    wire::Forming {
        waiting_for: forming.waiting_for,
        members: members.collect(),
    }
}

fn cluster_node(node: NodeStatus) -> wire::ClusterNode {
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
        snapshot: node.snapshot.map(|transfer| wire::SnapshotTransfer {
            bytes: transfer.bytes,
            sent_bytes: transfer.sent_bytes,
        }),
        disk: node.disk.map(present::node_disk),
        level: node.version.as_ref().map(|version| version.level.number()),
        version: node.version.and_then(|version| version.program),
    }
}
