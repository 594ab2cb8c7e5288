//! Errors of proposals, reads, membership changes and starts. Each variant states whether asking again is safe.

/// Outcome of a proposal other than success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not done here, because another node leads (or none is known). Ask there.
    #[error("this node does not lead")]
    NotLeader {
        /// Id and `host:port` of the leader.
        leader: Option<(u64, String)>,
    },
    /// Certainly not done: a disk is nearly full, this node's or those of too many other nodes. Ask again later.
    #[error("{0}")]
    DiskLow(String),
    /// Certainly not done: too many proposals wait. Ask again later.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// Certainly not done: the command exceeds the maximum size.
    #[error("a command of {bytes} bytes is too large; at most {bytes_max} are taken")]
    TooLarge {
        /// Size of the command, in bytes.
        bytes: usize,
        /// Maximum size of a command, in bytes.
        bytes_max: usize,
    },
    /// Certainly not done: the state machine cannot decode the command. A bug of the caller.
    #[error("the command cannot be decoded: {0}")]
    Malformed(String),
    /// Perhaps done, perhaps not: leadership changed or the deadline passed while it was in flight.
    /// Ask again with the same request id.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// This node's disk failed; it is stopping. Outcome unknown.
    #[error("storage failed: {0}")]
    StorageFailed(String),
    /// Certainly not done: the node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Reason why a linearizable read cannot be answered here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another node leads (or none is known). Ask there.
    #[error("this node does not lead")]
    NotLeader {
        /// Id and `host:port` of the leader.
        leader: Option<(u64, String)>,
    },
    /// A quorum did not confirm this node's leadership in time.
    #[error("no quorum confirmed this node's leadership in time")]
    NoQuorum,
    /// This node's disk failed; it is stopping.
    #[error("storage failed: {0}")]
    StorageFailed(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Reason why a membership change or leadership transfer was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another node leads (or none is known). Ask there.
    #[error("this node does not lead")]
    NotLeader {
        /// Id and `host:port` of the leader.
        leader: Option<(u64, String)>,
    },
    /// The change would break a rule. The text names the rule and the next action.
    #[error("{0}")]
    Refused(String),
    /// A node does not understand the level that it must understand.
    #[error(
        "node {id} at {addr} runs {program}, which understands level {level}, and level {needed} is needed: upgrade the \
         program of node {id}, then ask again"
    )]
    TooOld {
        /// Id of the node.
        id: u64,
        /// Its `host:port`.
        addr: String,
        /// Version of its program, in words.
        program: String,
        /// Highest level that it understands.
        level: u32,
        /// Level that it would have to understand.
        needed: u32,
    },
    /// This node itself does not understand the level that it was asked to raise the cluster to.
    #[error(
        "this version understands at most level {understood}, not level {wanted}: upgrade all nodes first"
    )]
    LevelUnknown {
        /// Level that was asked for.
        wanted: u32,
        /// Highest level that this node understands.
        understood: u32,
    },
    /// A node did not confirm what the change depends on.
    #[error("{why}")]
    Unconfirmed {
        /// Id of the node.
        id: u64,
        /// Why not, and the next action.
        why: String,
    },
    /// The node is unknown to the cluster.
    #[error("node {0} is not in the cluster")]
    UnknownNode(u64),
    /// The change may or may not come into effect.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Reason why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be opened.
    #[error(transparent)]
    Storage(#[from] triarch_storage::StorageError),
    /// The configuration contradicts itself or the directory.
    #[error("{0}")]
    Config(String),
    /// The snapshot and the log do not yield a state machine.
    #[error("cannot recover from the data directory: {0}")]
    Recovery(String),
    /// The other nodes know this id by another data directory, or belong to another cluster.
    #[error("{0}")]
    Foreign(String),
}
