//! Free disk space of this node, and of its peers as they report it with their answers.
//!
//! A node whose disk is low goes on voting, answering heartbeats and serving reads, but takes nothing large: a leader
//! refuses proposals before they are in its log, a follower refuses entries with commands and so falls behind, alive. What
//! has no commands in it (the first entry of a term, a change of the membership) is let through, so that a cluster
//! whose disks are all low can still elect a leader, and be repaired by adding or removing nodes.
//!
//! This module only records; the disk pressure task acts on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use triarch_storage::{FreeSpace, FreeSpaceStatus, SpaceLevel};

use crate::protocol::messages::{DiskLevel, NodeHealth};
use crate::status::DiskStatus;

/// See the [module](self).
pub(crate) struct ClusterDiskSpace {
    space: FreeSpace,
    node_id: u64,
    /// Greatest age of a report that is used.
    max_age: Duration,
    peers: Mutex<BTreeMap<u64, PeerHealth>>,
    /// Why no quorum can take an entry, although this node's own disk could.
    quorum_shortage: Mutex<Option<String>>,
}

struct PeerHealth {
    health: NodeHealth,
    at: Instant,
}

impl ClusterDiskSpace {
    pub(crate) fn new(space: FreeSpace, node_id: u64, max_age: Duration) -> Self {
        ClusterDiskSpace {
            space,
            node_id,
            max_age,
            peers: Mutex::default(),
            quorum_shortage: Mutex::default(),
        }
    }

    /// This node's own disk.
    pub(crate) fn own(&self) -> FreeSpaceStatus {
        self.space.status()
    }

    /// Whether this node's own log takes so many bytes of commands.
    pub(crate) fn accepts(&self, bytes: usize) -> bool {
        self.space
            .has_room_for(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Why a proposal of so many bytes cannot be taken now, if so.
    pub(crate) fn write_refusal(&self, bytes: usize) -> Option<String> {
        if !self.accepts(bytes) {
            let seen = self.own();
            return Some(format!(
                "the disk of node {} has no room for it: {} MiB are free at {}, and below {} MiB nothing is written; \
                 free some space there",
                self.node_id,
                seen.free_bytes >> 20,
                self.space.directory().display(),
                seen.low_bytes >> 20
            ));
        }
        self.quorum_shortage.lock().clone()
    }

    /// Notes why no quorum can take an entry, or that one can.
    pub(crate) fn set_quorum_shortage(&self, why: Option<String>) {
        *self.quorum_shortage.lock() = why;
    }

    /// The health of this node, as it is reported to peers.
    pub(crate) fn health(&self) -> NodeHealth {
        let seen = self.own();
        NodeHealth {
            free_bytes: seen.free_bytes,
            disk: match seen.level {
                SpaceLevel::Ample => DiskLevel::Ample,
                SpaceLevel::Low => DiskLevel::Low,
                SpaceLevel::Full => DiskLevel::Full,
            },
        }
    }

    /// Records the health that a peer reported.
    pub(crate) fn record_peer(&self, peer: u64, health: NodeHealth) {
        let at = Instant::now();
        self.peers.lock().insert(peer, PeerHealth { health, at });
    }

    /// The health that a peer reported a moment ago.
    pub(crate) fn peer_health(&self, peer: u64) -> Option<NodeHealth> {
        self.peers
            .lock()
            .get(&peer)
            .filter(|peer| peer.at.elapsed() <= self.max_age)
            .map(|peer| peer.health)
    }

    /// Whether a peer reported a moment ago that its disk is low.
    pub(crate) fn peer_is_low(&self, peer: u64) -> bool {
        self.peer_health(peer)
            .is_some_and(|health| health.disk != DiskLevel::Ample)
    }

    /// A node's disk, for operators: its own at any time, another's as far as it is known here.
    pub(crate) fn status(&self, node: u64) -> Option<DiskStatus> {
        if node == self.node_id {
            let seen = self.own();
            return Some(DiskStatus {
                free_bytes: seen.free_bytes,
                low: seen.level != SpaceLevel::Ample,
            });
        }
        self.peer_health(node).map(|health| DiskStatus {
            free_bytes: health.free_bytes,
            low: health.disk != DiskLevel::Ample,
        })
    }
}
