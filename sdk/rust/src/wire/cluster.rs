//! The masters of a cluster: their status, membership, leadership, snapshots and backups.

use serde::{Deserialize, Serialize};

use super::{Consistency, Timestamp};

/// Response of `GET /v1/cluster`: status of the cluster, as the responding node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterStatus {
    /// Id of the cluster; `null` until the cluster has formed.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Id of the leader; `null` if there is none.
    #[serde(default)]
    pub leader: Option<u64>,
    /// Current term.
    pub term: u64,
    /// Last log index known to be durable on a quorum.
    pub commit_index: u64,
    /// Id of the responding node.
    #[serde(default)]
    pub answered_by: Option<u64>,
    /// All nodes, ordered by id. Empty while the cluster forms.
    pub nodes: Vec<ClusterNode>,
    /// Progress of the formation, as the responding node knows it. Absent once the cluster has formed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forming: Option<Forming>,
    /// Result of the comparisons of the masters' tables, as the responding node knows it.
    #[serde(default)]
    pub agreement: Option<DivergenceCheck>,
    /// Offset of the responding node's wall clock from the median clock of all masters, in ms; positive if it is ahead.
    /// `null` while the node knows the clocks of fewer than two others.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// Lead of the table's time over the median clock of all masters, in ms; 0 if it is not ahead. The time of the
    /// table does not go back by itself. After most clocks were ahead, it stays ahead until `POST
    /// /v1/cluster/set-time-back`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub table_ahead_ms: u64,
    /// Reason for which the other nodes refuse every message of the responding node: it was removed from the cluster,
    /// or another process runs on a copy of its data directory. Absent while they accept its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<String>,
    /// Digest of the responding node's table; present only if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<TableDigest>,
    /// Level of the formats of the log, snapshots and backups, as applied by the node that answered. It rises with
    /// `POST /v1/cluster/upgrade`. A node from before levels omits it.
    #[serde(default)]
    pub level: Option<u32>,
}

/// A cluster that is being formed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Forming {
    /// Condition that the responding node waits for, as the end of a sentence that begins with "waiting for".
    pub waiting_for: String,
    /// Masters that it was started with, ordered by id; only itself if it waits to be added to a cluster.
    pub members: Vec<FormingMember>,
}

/// A master of a cluster that is being formed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FormingMember {
    /// Id of the master.
    pub id: u64,
    /// Address of the master, `host:port`.
    pub addr: String,
    /// Whether the responding node reaches it.
    pub answers: bool,
}

/// Result of comparing table digests. Masters compare them at regular log indexes; a master that differs from a
/// majority stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Agreement))]
pub struct DivergenceCheck {
    /// Last log index at which a majority, including the responding node, had the same digest; 0 before the first.
    pub index: u64,
    /// Number of differing digests seen since the responding node started.
    pub mismatches: u64,
}

/// Digest of the whole table except its clock. Nodes with equal tables have equal digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TableDigest {
    /// Last log index applied to the table when the digest was computed.
    pub index: u64,
    /// Digest as 16 hexadecimal digits.
    pub value: String,
    /// The digest of each area of the state, from level 2 of the cluster on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<AreaDigest>,
}

/// A digest over one area of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AreaDigest {
    /// Name of the area; `table` holds jobs, tasks, workers, queues and schedules.
    pub area: String,
    /// 16 hexadecimal digits.
    pub value: String,
}

/// Query of `GET /v1/cluster`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ClusterQuery {
    /// Whether to compute a digest of the table, which reads all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<bool>,
    /// Freshness of the read. Default: `linearizable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Query of `POST /v1/cluster/restore`. The body is one part of the table's bytes in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct RestoreQuery {
    /// Id of the backup, from its header.
    #[cfg_attr(feature = "openapi", param(min_length = 1, max_length = 200))]
    pub backup: String,
    /// Number of this part, from 1.
    #[cfg_attr(feature = "openapi", param(minimum = 1))]
    pub part: u32,
    /// Total number of parts.
    #[cfg_attr(feature = "openapi", param(minimum = 1))]
    pub parts: u32,
}

/// Response of `POST /v1/cluster/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RestoreProgress {
    /// Number of parts received.
    pub received: u32,
    /// Total number of parts.
    pub parts: u32,
    /// Content of the restored table, once all parts were received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
}

/// Content of a cluster after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restored {
    /// Number of jobs.
    pub jobs: u64,
    /// Number of tasks.
    pub tasks: u64,
    /// Whether the backup had been restored before. Nothing was changed then, and the jobs and tasks that came since are
    /// counted too.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub repeated: bool,
}

/// Body of `POST /v1/cluster/nodes`: a master to add to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddNode {
    /// Id of the new node. No present or past member may have used it.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub id: u64,
    /// Address at which the other nodes reach it, as `host:port`.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub addr: String,
}

/// Body of `POST /v1/cluster/transfer-leader`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// Id of the voter that becomes leader. Default: the voter with the most up-to-date log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// Body of `POST /v1/cluster/upgrade`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpgradeCluster {
    /// The level to raise the cluster to. Default: the highest that the leader understands.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
}

/// One master of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterNode {
    /// Id of the node.
    pub id: u64,
    /// Address of the node, as `host:port`.
    pub addr: String,
    /// Whether the node has a vote.
    pub role: NodeRole,
    /// State of the node, as the responding node sees it.
    pub state: NodeState,
    /// Last log index known to be on the node's disk; known to the leader only.
    #[serde(default)]
    pub matched: Option<u64>,
    /// Last log index that the node has applied, if known.
    #[serde(default)]
    pub applied: Option<u64>,
    /// Progress of the snapshot that the leader is sending to the node; `null` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotTransfer>,
    /// Disk of the node. A node knows its own; the leader knows those of all nodes that respond to it.
    #[serde(default)]
    pub disk: Option<NodeDisk>,
    /// Version of its program, as it announced it last; `null` for a node that has not answered yet, or from before levels.
    #[serde(default)]
    pub version: Option<String>,
    /// Highest level that its program understands, as it announced it last; `null` until it has answered.
    #[serde(default)]
    pub level: Option<u32>,
}

/// Progress of a snapshot sent to a node that is too far behind for the log to suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotTransfer {
    /// Size of the snapshot in bytes.
    pub bytes: u64,
    /// Number of bytes that the node has received.
    pub sent_bytes: u64,
}

/// Query of a request that waits for an operation to finish.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct HoldQuery {
    /// Maximum wait in ms.
    #[cfg_attr(feature = "openapi", param(maximum = 120_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Response of `POST /v1/cluster/snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotWritten {
    /// Id of the node that writes the snapshot, which is the leader.
    pub node: u64,
    /// Last log index in the snapshot; `null` while it is being written.
    #[serde(default)]
    pub index: Option<u64>,
    /// Size of the snapshot file in bytes; `null` while it is being written.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// Free space on a master's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeDisk {
    /// Free bytes on the file system of the data directory.
    pub free_bytes: u64,
    /// Whether free space is too low, so that the node accepts no writes until there is more.
    pub low: bool,
    /// Age of the oldest unfinished sync of its log, in ms; 0 while there is none, absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished_sync_ms: Option<u64>,
}

/// Role of a node in quorums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Counts for quorums.
    Voter,
    /// Receives the log and has no vote.
    Learner,
}

impl NodeRole {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeRole::Voter => "voter",
            NodeRole::Learner => "learner",
        }
    }
}

/// State of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// The node is the leader.
    Leader,
    /// The node follows the leader.
    Follower,
    /// The node does not respond to the leader.
    Unreachable,
}

impl NodeState {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Leader => "leader",
            NodeState::Follower => "follower",
            NodeState::Unreachable => "unreachable",
        }
    }
}

/// Response of `POST /v1/cluster/set-time-back`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimeSetBack {
    /// Time of the table before.
    pub from: Timestamp,
    /// Time of the table since: that of the masters' clocks.
    pub to: Timestamp,
    /// Difference between the two, in ms.
    pub back_ms: u64,
}
