//! Configuration of a node, with defaults that were measured on small machines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::StartError;
use crate::level::Level;
use crate::node_address::NodeAddress;
use crate::peer_clocks::PeerClocks;

/// Configuration of a node, passed to [`Node::start`](crate::Node::start). Made by [`NodeConfig::new`], then adjusted.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Node id, unique in the cluster's whole life. The id of a removed node is never used again.
    pub node_id: u64,
    /// Address `host:port` at which the other nodes reach this one.
    pub addr: String,
    /// Directory of the log, the vote and the snapshots.
    pub data_dir: PathBuf,
    /// Way in which this node becomes part of a cluster, while it is not.
    pub bootstrap: BootstrapMode,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Policy of snapshots, after which the log is cut.
    pub snapshot: SnapshotPolicy,
    /// Bounds on the memory and time of proposals and reads.
    pub limits: Limits,
    /// Free disk space, in bytes, below which nothing large is written. Default: derived from the disk's size.
    pub disk_low_bytes: Option<u64>,
    /// Version of the program, announced to the other nodes.
    pub program_version: String,
    /// Highest level that this node understands. Default: [`Level::HIGHEST`]. With a lower one it behaves as an older
    /// program.
    pub level_max: Level,
    /// Samples of the other nodes' wall clocks.
    pub peer_clocks: Arc<PeerClocks>,
}

impl NodeConfig {
    /// Returns a configuration with default timing, snapshots and limits.
    pub fn new(
        node_id: u64,
        addr: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        bootstrap: BootstrapMode,
    ) -> Self {
        NodeConfig {
            node_id,
            addr: addr.into(),
            data_dir: data_dir.into(),
            bootstrap,
            timing: Timing::default(),
            snapshot: SnapshotPolicy::default(),
            limits: Limits::default(),
            disk_low_bytes: None,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            level_max: Level::HIGHEST,
            peer_clocks: Arc::default(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let bad = |text: String| Err(StartError::Config(text));
        if self.node_id == 0 {
            return bad("a node's id must be at least 1".into());
        }
        if !is_host_port(&self.addr) {
            return bad(format!(
                "the advertised address {:?} is not host:port",
                self.addr
            ));
        }
        if let BootstrapMode::Static(members) = &self.bootstrap {
            match members.get(&self.node_id) {
                None => {
                    let ids: Vec<String> = members.keys().map(u64::to_string).collect();
                    return bad(format!(
                        "this node has id {}, but the list of members has {}",
                        self.node_id,
                        ids.join(", ")
                    ));
                }
                Some(addr) if *addr != self.addr => {
                    return bad(format!(
                        "the list of members has node {} at {addr}, but its own address is {}",
                        self.node_id, self.addr
                    ));
                }
                Some(_) => {}
            }
            if let Some((id, addr)) = members
                .iter()
                .find(|(id, addr)| **id == 0 || !is_host_port(addr))
            {
                return bad(format!(
                    "{id}={addr} in the list of members is not an id of at least 1 and host:port"
                ));
            }
            let mut addrs: Vec<&String> = members.values().collect();
            addrs.sort();
            if let Some(pair) = addrs.windows(2).find(|pair| pair[0] == pair[1]) {
                return bad(format!(
                    "two nodes in the list of members have the address {}",
                    pair[0]
                ));
            }
        }
        if let BootstrapMode::Join(addresses) = &self.bootstrap
            && let Some(addr) = addresses.iter().find(|addr| !is_host_port(addr))
        {
            return bad(format!(
                "{addr:?} in the addresses to join is not host:port"
            ));
        }
        self.timing.validate().map_err(StartError::Config)?;
        self.snapshot.validate().map_err(StartError::Config)?;
        self.limits.validate().map_err(StartError::Config)
    }
}

fn is_host_port(addr: &str) -> bool {
    addr.parse::<NodeAddress>().is_ok()
}

/// Way in which a node on an empty directory becomes a member. On a directory with a log, the list only serves to
/// detect another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapMode {
    /// Founding members, id to `host:port`, the same list on each. They form the cluster once all of them are up.
    Static(BTreeMap<u64, String>),
    /// Waits until the leader of an existing cluster adds this node. The addresses (`host:port`) are of nodes of that
    /// cluster; this node asks them whether it is the right one. Without addresses, it joins the first that adds it.
    Join(Vec<String>),
}

/// Heartbeats, elections and the deadlines of messages between nodes.
///
/// A follower counts its leader as alive for `election_max_ms` after each message (the lease). It then waits a random
/// time between `election_min_ms` and `election_max_ms` before it campaigns. A leader that dies with its connections
/// reset is noticed at once and replaced when the lease is over. A leader that only goes silent costs the random time
/// too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Interval between heartbeats of a leader, in ms. Also the deadline of a heartbeat, so it must exceed a round trip
    /// and an fsync. Default: 80.
    pub heartbeat_ms: u64,
    /// Minimum random wait before a campaign, in ms. Default: 200.
    pub election_min_ms: u64,
    /// Maximum random wait before a campaign, and the length of the leader's lease, in ms. Default: 350.
    pub election_max_ms: u64,
    /// Deadline for connecting to a peer, in ms. Default: 200.
    pub connect_ms: u64,
    /// Deadline for one append message, in ms. A follower answers it after its fsync. Default: 2,000.
    pub append_ms: u64,
    /// Deadline for one chunk of a snapshot, in ms. Default: 5,000.
    pub snapshot_chunk_ms: u64,
    /// Deadline for a follower to install a snapshot once it has all of it, in ms. Default: 300,000.
    pub snapshot_install_ms: u64,
    /// Time between two campaigns of followers, one after the other, once the leader's connections broke, in ms.
    /// Default: 20.
    pub campaign_interval_ms: u64,
}

impl Default for Timing {
    /// Returns the timing for nodes on one local network with local disks.
    fn default() -> Self {
        Timing {
            heartbeat_ms: 80,
            election_min_ms: 200,
            election_max_ms: 350,
            connect_ms: 200,
            append_ms: 2_000,
            snapshot_chunk_ms: 5_000,
            snapshot_install_ms: 300_000,
            campaign_interval_ms: 20,
        }
    }
}

impl Timing {
    /// Returns the timing for nodes in different places, or for disks whose fsync takes 100 ms and more.
    pub fn wide_area() -> Self {
        Timing {
            heartbeat_ms: 400,
            election_min_ms: 1_200,
            election_max_ms: 2_000,
            connect_ms: 1_000,
            append_ms: 10_000,
            snapshot_chunk_ms: 30_000,
            snapshot_install_ms: 600_000,
            campaign_interval_ms: 100,
        }
    }

    /// Returns the time for which an acknowledged leader may count on leading.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }

    fn validate(&self) -> Result<(), String> {
        let all = [
            ("heartbeat_ms", self.heartbeat_ms),
            ("election_min_ms", self.election_min_ms),
            ("election_max_ms", self.election_max_ms),
            ("connect_ms", self.connect_ms),
            ("append_ms", self.append_ms),
            ("snapshot_chunk_ms", self.snapshot_chunk_ms),
            ("snapshot_install_ms", self.snapshot_install_ms),
            ("campaign_interval_ms", self.campaign_interval_ms),
        ];
        if let Some((name, _)) = all
            .iter()
            .find(|(_, value)| !(1..=3_600_000).contains(value))
        {
            return Err(format!("{name} must be between 1 ms and one hour"));
        }
        if self.heartbeat_ms * 2 > self.election_min_ms {
            return Err(format!(
                "election_min_ms ({}) must be at least twice heartbeat_ms ({}), or one late heartbeat costs an election",
                self.election_min_ms, self.heartbeat_ms
            ));
        }
        if self.election_min_ms >= self.election_max_ms {
            return Err("election_min_ms must be less than election_max_ms".into());
        }
        Ok(())
    }
}

/// Policy of snapshots: when the state is written to a snapshot and the log before it is purged.
///
/// A snapshot is due after `entries` entries or `bytes` bytes, whichever comes first. It is not due before the log has
/// grown by about the size of the last snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// Entries since the last snapshot. Default: 20,000.
    pub entries: u64,
    /// Payload bytes applied since the last snapshot. Default: 128 MiB.
    pub bytes: u64,
    /// Entries kept behind a snapshot, so that a follower that was away for a moment needs no snapshot. Default: 5,000.
    pub keep_entries: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        SnapshotPolicy {
            entries: 20_000,
            bytes: 128 << 20,
            keep_entries: 5_000,
        }
    }
}

impl SnapshotPolicy {
    fn validate(&self) -> Result<(), String> {
        if self.entries == 0 || self.bytes == 0 {
            return Err("a snapshot needs at least one entry and one byte between two".into());
        }
        Ok(())
    }
}

/// Bounds for proposals and reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum payload bytes of one entry. Further proposals go into the next entry; a single larger one travels alone.
    /// Default: 1 MiB.
    pub batch_bytes_max: usize,
    /// Maximum commands of one entry. Default: 1,024.
    pub batch_commands_max: usize,
    /// Maximum entries in flight at once. With two, the proposer's own work overlaps with the disk's. Default: 2.
    pub entries_in_flight_max: usize,
    /// Maximum bytes of one command. A larger command is refused. Default: 32 MiB.
    pub command_bytes_max: usize,
    /// Maximum proposals that may wait. More are refused as overloaded. Default: 16,384.
    pub queue_commands_max: usize,
    /// Maximum bytes of proposals that may wait. More are refused as overloaded. Default: 128 MiB.
    pub queue_bytes_max: usize,
    /// Maximum linearizable reads that may wait for one round of confirmation. Default: 65,536.
    pub queue_reads_max: usize,
    /// Maximum wait of a proposal before its outcome is reported as unknown, in ms. Default: 10,000.
    pub propose_timeout_ms: u64,
    /// Maximum wait of a linearizable read for a quorum and for apply, in ms. Default: 5,000.
    pub read_timeout_ms: u64,
    /// Maximum payload bytes of one append message to a follower. One entry always goes. Default: 4 MiB.
    pub append_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_bytes_max: 1 << 20,
            batch_commands_max: 1_024,
            entries_in_flight_max: 2,
            command_bytes_max: 32 << 20,
            queue_commands_max: 16_384,
            queue_bytes_max: 128 << 20,
            queue_reads_max: 65_536,
            propose_timeout_ms: 10_000,
            read_timeout_ms: 5_000,
            append_bytes_max: 4 << 20,
        }
    }
}

impl Limits {
    /// Returns the maximum size of an HTTP body between nodes: an append message, the largest entry, and 1 MiB.
    pub(crate) fn peer_body_bytes_max(&self) -> usize {
        self.append_bytes_max + self.batch_bytes_max.max(self.command_bytes_max) + (1 << 20)
    }

    fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("batch_bytes_max", self.batch_bytes_max),
            ("batch_commands_max", self.batch_commands_max),
            ("entries_in_flight_max", self.entries_in_flight_max),
            ("command_bytes_max", self.command_bytes_max),
            ("queue_commands_max", self.queue_commands_max),
            ("queue_bytes_max", self.queue_bytes_max),
            ("queue_reads_max", self.queue_reads_max),
            ("append_bytes_max", self.append_bytes_max),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        const GIB: usize = 1 << 30;
        if self.command_bytes_max > GIB || self.batch_bytes_max > GIB || self.append_bytes_max > GIB
        {
            return Err("one entry or message may not exceed 1 GiB".into());
        }
        if self.propose_timeout_ms == 0 || self.read_timeout_ms == 0 {
            return Err("propose_timeout_ms and read_timeout_ms must be at least 1".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> NodeConfig {
        let members = (1..=3)
            .map(|id| (id, format!("127.0.0.1:{}", 7100 + id)))
            .collect();
        NodeConfig::new(
            1,
            "127.0.0.1:7101",
            "unused",
            BootstrapMode::Static(members),
        )
    }

    #[test]
    fn a_contradictory_configuration_is_refused_with_its_reason() {
        assert!(three().validate().is_ok());
        type Break = fn(&mut NodeConfig);
        let breaks: [(&str, Break); 7] = [
            ("at least 1", |c| c.node_id = 0),
            ("list of members has 1, 2, 3", |c| c.node_id = 4),
            ("not host:port", |c| c.addr = "7101".into()),
            ("its own address", |c| c.addr = "127.0.0.1:9".into()),
            ("two nodes", |c| {
                if let BootstrapMode::Static(m) = &mut c.bootstrap {
                    m.insert(2, "127.0.0.1:7101".into());
                }
            }),
            ("at least twice heartbeat_ms", |c| {
                c.timing.heartbeat_ms = 150
            }),
            ("batch_bytes_max", |c| c.limits.batch_bytes_max = 0),
        ];
        for (text, break_it) in breaks {
            let mut config = three();
            break_it(&mut config);
            let e = config.validate().expect_err(text).to_string();
            assert!(e.contains(text), "{e:?} does not say {text:?}");
        }
        let mut wide = three();
        wide.timing = Timing::wide_area();
        assert!(wide.validate().is_ok());
    }
}
