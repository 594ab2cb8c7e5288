//! Status of a node and its peers, for operators and for routing.

use std::time::{Duration, Instant};

use crate::level::{Level, NodeVersion};

/// Leader of the cluster, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Leadership {
    /// This node leads. A quorum has confirmed its leadership, and all earlier entries are applied here.
    Leading {
        /// The term it was elected in.
        term: u64,
        /// Time since which this node knows that it leads.
        since: Instant,
    },
    /// Another node leads.
    Following {
        /// The term it was elected in.
        term: u64,
        /// Id of the leader.
        leader: u64,
        /// Its `host:port`.
        addr: String,
    },
    /// No leader is known.
    Unknown {
        /// The latest term known here.
        term: u64,
    },
}

/// Whether a node can serve its clients now, or why not. It asks what a linearizable read asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A leader is known that reaches a majority, and this node has applied what that leader had committed.
    Ready {
        /// Id of the leader.
        leader: u64,
    },
    /// No leader is known.
    NoLeader,
    /// This node leads, but no majority has answered it for longer than its lease.
    NoMajority {
        /// Time since the last answer of a majority, in ms.
        silent_ms: u64,
    },
    /// This node leads, and the commit index does not advance although entries wait to be committed.
    ProposalsWaiting {
        /// Time since the commit index last advanced, in ms.
        oldest_ms: u64,
    },
    /// This node has not applied what its leader had committed: after a start, a pause or a cut, or because it lags.
    CatchingUp {
        /// Committed entries still to apply. `None` while the leader has not answered with its commit index.
        behind: Option<u64>,
    },
}

/// Role of a member: voter or learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// Counts for quorums.
    Voter,
    /// Only follows.
    Learner,
}

/// State of a node, as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Leads.
    Leader,
    /// Follows, as far as is known.
    Follower,
    /// No answer for longer than an election timeout (seen from the leader).
    Unreachable,
}

/// One node of the cluster, as the answering node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    /// Its id.
    pub id: u64,
    /// Its `host:port`.
    pub addr: String,
    /// Whether the node is a voter or a learner.
    pub role: PeerRole,
    /// Its observed state.
    pub state: PeerState,
    /// Last log index known to be on that node. Only the leader knows it.
    pub matched: Option<u64>,
    /// Last index applied there, as far as known. Always known for the node itself.
    pub applied: Option<u64>,
    /// Snapshot transfer from the answering node to it, if one is in progress.
    pub snapshot: Option<SnapshotTransfer>,
    /// Its disk, as far as known. Always known for the node itself; on the leader, known for all nodes that answer.
    pub disk: Option<DiskStatus>,
    /// Its version, as it announced it last. `None` until it has answered the answering node.
    pub version: Option<NodeVersion>,
}

/// Progress of a snapshot transfer to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTransfer {
    /// Size of the snapshot, in bytes.
    pub bytes: u64,
    /// Bytes that the receiver has.
    pub sent_bytes: u64,
}

/// Free disk space of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskStatus {
    /// Free space on the file system of its data directory, in bytes.
    pub free_bytes: u64,
    /// Whether the free space is too low to accept writes.
    pub low: bool,
    /// Age of the oldest unfinished sync of its log, in ms. 0 while there is none. `None` while it is not known.
    pub unfinished_sync_ms: Option<u64>,
}

/// Progress of a cluster that is being formed, as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormingStatus {
    /// Condition that this node waits for, as the end of a sentence that begins with "waiting for".
    pub waiting_for: String,
    /// Nodes of the list that this node was started with, by id. Only itself if it waits to be added.
    pub members: Vec<FormingMember>,
}

/// A node of a cluster that is being formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormingMember {
    /// Its id.
    pub id: u64,
    /// Its `host:port`.
    pub addr: String,
    /// Whether it answers. Always true for the node itself.
    pub answers: bool,
}

/// Status of a node and its view of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Id of the cluster. `None` until the cluster is formed.
    pub cluster_id: Option<String>,
    /// Progress of the formation. `None` once this node has the first entry of its cluster's log.
    pub forming: Option<FormingStatus>,
    /// Id of this node.
    pub node_id: u64,
    /// Id of the leader, as far as is known here. A leader names itself only while a majority answers it.
    pub leader: Option<u64>,
    /// The latest term known here.
    pub term: u64,
    /// Index of the last entry of this node's log, on disk or not.
    pub last_log_index: u64,
    /// Commit index known here.
    pub commit_index: u64,
    /// Last index applied to this node's state machine.
    pub applied_index: u64,
    /// Index of the last entry in this node's last snapshot.
    pub snapshot_index: u64,
    /// Index of the last entry that this node has purged, because a snapshot contains it.
    pub purged_index: u64,
    /// Milliseconds since a quorum last confirmed this node's leadership. Only on a leader.
    pub quorum_ack_age_ms: Option<u64>,
    /// Level of the cluster's formats, as applied here.
    pub level: Level,
    /// All nodes of the cluster, by id.
    pub nodes: Vec<NodeStatus>,
    /// Reason why consensus stopped for good (storage failed, a bug). The process must exit.
    pub failed: Option<String>,
}

/// Returns a time in whole milliseconds, as statuses, log lines and messages have it.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
