//! Options of a server, as the command line gives them.

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use super::http::admission::ServerLimits;

/// Everything a master needs to know; made by the command line, which has checked it already.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// This node; never 0.
    pub id: u64,
    /// `host:port` to accept connections on.
    pub listen: String,
    /// `host:port` the other nodes, clients and workers reach this node at, if it is not the one in `cluster`.
    pub advertise: Option<String>,
    /// Log, snapshots and identity live here; nothing else may.
    pub data_dir: PathBuf,
    /// The first members, this node among them. Empty when `join` is not.
    pub cluster: BTreeMap<u64, String>,
    /// Masters of a cluster to be brought into. Empty when `cluster` is not.
    pub join: Vec<String>,
    /// Host names, besides those of the members, that clients may address this node by.
    pub allowed_hosts: Vec<String>,
    /// Consensus timings.
    pub timing: Timing,
    /// A worker silent for this long loses its leases.
    pub lease_ms: u64,
    /// Entries between two digests of the table that the masters compare; the same on all.
    pub digest_interval: u64,
    /// Log entries between two snapshots.
    pub snapshot_entries: u64,
    /// Events of the past that can be asked for.
    pub event_history: usize,
    /// How much is worked on at once.
    pub limits: ServerLimits,
    /// Below this, the disk is low; worked out from its size if `None`.
    pub min_free_disk_bytes: Option<u64>,
}

/// How patient the masters are with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows its followers that it lives; also the time a peer has to answer an append.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a follower campaigns.
    pub election_min_ms: u64,
    /// Longest such silence; also the length of the leader's own lease.
    pub election_max_ms: u64,
}

impl Timing {
    /// Masters in one machine room.
    pub const LAN: Timing = Timing {
        heartbeat_ms: 80,
        election_min_ms: 200,
        election_max_ms: 350,
    };
    /// Masters in different regions, or on slow disks.
    pub const WAN: Timing = Timing {
        heartbeat_ms: 400,
        election_min_ms: 1_200,
        election_max_ms: 2_000,
    };
}
