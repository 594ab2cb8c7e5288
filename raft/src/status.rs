//! Status of a node and its peers, for operators and for routing.

use std::time::Instant;

/// Who leads, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Leadership {
    /// This node does, since `since`, and its leadership has been confirmed by a quorum and all earlier entries are
    /// applied here.
    Leading {
        /// The term it was elected in.
        term: u64,
        /// When that was known here.
        since: Instant,
    },
    /// Another does.
    Following {
        /// The term it was elected in.
        term: u64,
        /// Who.
        leader: u64,
        /// Its `host:port`.
        addr: String,
    },
    /// Nobody is known to.
    Unknown {
        /// The latest term known here.
        term: u64,
    },
}

/// A voter counts for quorums; a learner only follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// Counts for quorums.
    Voter,
    /// Follows.
    Learner,
}

/// How a node appears.
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
    /// Whether it counts for quorums.
    pub role: PeerRole,
    /// What it is doing.
    pub state: PeerState,
    /// Last log index known to be on that node; only the leader knows it.
    pub matched: Option<u64>,
    /// Last index applied there, as far as known (always for the node itself).
    pub applied: Option<u64>,
    /// The snapshot that the answering node is sending it, if it is.
    pub snapshot: Option<SnapshotTransfer>,
    /// Its disk, as far as known: always for the node itself, and on the leader for all that answer.
    pub disk: Option<DiskStatus>,
}

/// How far a snapshot has come on its way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTransfer {
    /// All of it.
    pub bytes: u64,
    /// What the other has of it.
    pub sent_bytes: u64,
}

/// Free disk space of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskStatus {
    /// Free on the file system of its data directory.
    pub free_bytes: u64,
    /// Too little for writes to be taken.
    pub low: bool,
}

/// A node's whole view.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// `None` until the cluster is formed.
    pub cluster_id: Option<String>,
    /// This node.
    pub node_id: u64,
    /// Who leads, as far as is known here.
    pub leader: Option<u64>,
    /// The latest term known here.
    pub term: u64,
    /// The last entry of this node's log, on disk or not.
    pub last_log_index: u64,
    /// How far the log is known here to be committed.
    pub commit_index: u64,
    /// How far it is applied to this node's state machine.
    pub applied_index: u64,
    /// The last entry in this node's last snapshot.
    pub snapshot_index: u64,
    /// The last entry this node has given up, being in a snapshot.
    pub purged_index: u64,
    /// Milliseconds since a quorum last confirmed this node's leadership; only on a leader.
    pub quorum_ack_age_ms: Option<u64>,
    /// Everyone in the cluster, by id.
    pub nodes: Vec<NodeStatus>,
    /// Set when consensus stopped for good (storage failed, a bug); the process must exit.
    pub failed: Option<String>,
}
