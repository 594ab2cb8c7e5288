//! The masters.

use serde::{Deserialize, Serialize};

use super::Consistency;

/// Answer to `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterStatus {
    /// `null` until the cluster has formed.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// `null` while there is none.
    #[serde(default)]
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Last log index known to be on a quorum.
    pub commit_index: u64,
    /// The node that answered.
    #[serde(default)]
    pub answered_by: Option<u64>,
    /// All of them, by id.
    pub nodes: Vec<ClusterNode>,
    /// What came of comparing the masters' tables, as the node that answered knows it.
    #[serde(default)]
    pub agreement: Option<Agreement>,
    /// By how much the wall clock of the node that answered is ahead of the middle one of all masters, in ms; `null` while
    /// fewer than two others are known to it.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// Of the table of the node that answered; only when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<TableDigest>,
}

/// The masters compare digests of their tables every so many entries. One that differs from a majority stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Agreement {
    /// The last entry at which a majority, the node that answered among them, had the same; 0 before the first.
    pub index: u64,
    /// How often somebody had something else, since that node's start.
    pub mismatches: u64,
}

/// A digest over everything in the table but its clock: nodes that hold the same have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TableDigest {
    /// The log index up to which it was applied then.
    pub index: u64,
    /// 16 hexadecimal digits.
    pub value: String,
}

/// Query of `GET /v1/cluster`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ClusterQuery {
    /// Whether to read the whole table for a digest of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<bool>,
    /// See [`Consistency`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Query of `POST /v1/cluster/restore`; the body is one part of the table's bytes in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct RestoreQuery {
    /// The backup's own id, from its header.
    #[cfg_attr(feature = "openapi", param(min_length = 1, max_length = 200))]
    pub backup: String,
    /// Which part this is, from 1.
    #[cfg_attr(feature = "openapi", param(minimum = 1))]
    pub part: u32,
    /// How many there are.
    #[cfg_attr(feature = "openapi", param(minimum = 1))]
    pub parts: u32,
}

/// Answer to `POST /v1/cluster/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RestoreProgress {
    /// How many parts have come.
    pub received: u32,
    /// How many there are.
    pub parts: u32,
    /// Once all have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
}

/// What a cluster holds after a backup was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restored {
    /// Jobs.
    pub jobs: u64,
    /// Tasks.
    pub tasks: u64,
}

/// A master to be brought into the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddNode {
    /// A number that no member, present or past, has had.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub id: u64,
    /// `host:port` where the others reach it.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub addr: String,
}

/// Body of `POST /v1/cluster/transfer-leader`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// The voter to lead; the one whose log is furthest, unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// One master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterNode {
    /// Its id.
    pub id: u64,
    /// Where it listens, `host:port`.
    pub addr: String,
    /// What it counts for.
    pub role: NodeRole,
    /// How it appears to the node that answered.
    pub state: NodeState,
    /// Last log index known to be on its disk; only the leader knows.
    #[serde(default)]
    pub matched: Option<u64>,
    /// Last log index it has applied, as far as known.
    #[serde(default)]
    pub applied: Option<u64>,
    /// The snapshot that the leader is sending it at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotTransfer>,
    /// Its disk: known of the node that answered, and to a leader of all that answer it.
    #[serde(default)]
    pub disk: Option<NodeDisk>,
}

/// How far a snapshot has come on its way to a node that lacks too much for the log to help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotTransfer {
    /// All of it.
    pub bytes: u64,
    /// What the node has of it.
    pub sent_bytes: u64,
}

/// Query of requests that are held until something is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct HoldQuery {
    /// How long to wait for it at most.
    #[cfg_attr(feature = "openapi", param(maximum = 120_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Answer to `POST /v1/cluster/snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotWritten {
    /// The node that writes it: the leader.
    pub node: u64,
    /// The last log index in it; `null` while it is being written.
    #[serde(default)]
    pub index: Option<u64>,
    /// Of its file; `null` while it is being written.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// How much room a master's disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeDisk {
    /// Free on the file system of its data directory.
    pub free_bytes: u64,
    /// Too little: it takes no writes until there is more.
    pub low: bool,
}

/// What a node counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Counts for quorums.
    Voter,
    /// Only follows.
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

/// How a node appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It leads.
    Leader,
    /// It follows.
    Follower,
    /// It does not answer the leader.
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
