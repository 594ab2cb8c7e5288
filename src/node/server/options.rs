//! Options of a server, as the command line passes them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use triarch_raft::Level;

pub use super::http::admission::ServerLimits;

/// Configuration of a node. The command line builds it and has validated it.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Id of this node; never 0.
    pub id: u64,
    /// Address `host:port` to accept connections on.
    pub listen: String,
    /// Address `host:port` at which the other nodes, clients and workers reach this node, if it is not the one in
    /// `cluster`.
    pub advertise: Option<String>,
    /// Directory of the log, the snapshots and the identity. It must contain nothing else.
    pub data_dir: PathBuf,
    /// Initial members, including this node. Empty if `join` is set.
    pub cluster: BTreeMap<u64, String>,
    /// Nodes of an existing cluster to join. Empty if `cluster` is set.
    pub join: Vec<String>,
    /// Host names, in addition to those of the members, by which clients may address this node.
    pub allowed_hosts: Vec<String>,
    /// Consensus timings.
    pub timing: Timing,
    /// Silence in ms after which a worker loses its leases.
    pub lease_ms: u64,
    /// Entries between two digests of the table, which the nodes compare. The same on all nodes.
    pub digest_interval: u64,
    /// Log entries between two snapshots.
    pub snapshot_entries: u64,
    /// Number of past events that the feed keeps.
    pub event_history: usize,
    /// Bounds on connections, requests and body memory.
    pub limits: ServerLimits,
    /// Highest level of formats that this node understands. A lower one than this program's makes it behave as an older
    /// program.
    pub level_max: Level,
    /// Free space in bytes below which the disk is low. `None` derives it from the size of the disk.
    pub min_free_disk_bytes: Option<u64>,
}

/// Timing of heartbeats and elections between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Interval of a leader's heartbeats in ms. It is also the time a peer has to answer an append.
    pub heartbeat_ms: u64,
    /// Minimum silence in ms after which a follower campaigns.
    pub election_min_ms: u64,
    /// Maximum such silence in ms. It is also the length of the leader's own lease.
    pub election_max_ms: u64,
}

impl Timing {
    /// Timing for nodes in one machine room.
    pub const LAN: Timing = Timing {
        heartbeat_ms: 80,
        election_min_ms: 200,
        election_max_ms: 350,
    };
    /// Timing for nodes in different regions, or on slow disks.
    pub const WAN: Timing = Timing {
        heartbeat_ms: 400,
        election_min_ms: 1_200,
        election_max_ms: 2_000,
    };
}
