//! What a node knows of itself and its peers, for operators and for routing.

use std::time::Instant;

/// Who leads, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Leadership {
    /// This node does, since `since`, and its leadership has been confirmed by a quorum and all earlier entries are
    /// applied here.
    Leading { term: u64, since: Instant },
    /// Another does.
    Following { term: u64, leader: u64, addr: String },
    /// Nobody is known to.
    Unknown { term: u64 },
}

/// A voter counts for quorums; a learner only follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    Voter,
    Learner,
}

/// How a node appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    Leader,
    Follower,
    /// No answer for longer than an election timeout (seen from the leader).
    Unreachable,
}

/// One node of the cluster, as the answering node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    pub id: u64,
    pub addr: String,
    pub role: PeerRole,
    pub state: PeerState,
    /// Last log index known to be on that node; only the leader knows it.
    pub matched: Option<u64>,
    /// Last index applied there, as far as known (always for the node itself).
    pub applied: Option<u64>,
}

/// A node's whole view.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// `None` until the cluster is formed.
    pub cluster_id: Option<String>,
    pub node_id: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub last_log_index: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    /// Milliseconds since a quorum last confirmed this node's leadership; only on a leader.
    pub quorum_ack_age_ms: Option<u64>,
    pub nodes: Vec<NodeStatus>,
    /// Set when consensus stopped for good (storage failed, a bug); the process must exit.
    pub failed: Option<String>,
}
