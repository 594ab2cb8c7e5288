//! Disks of this node and its peers: free space, and how long a sync takes. Peers report both with their answers.
//!
//! A node whose disk is low goes on voting, answering heartbeats and serving reads, but takes nothing large. A leader
//! refuses proposals before they are in its log. A follower refuses entries with commands and so falls behind, alive.
//! Entries without commands (the first entry of a term, a change of the membership) are let through. A cluster whose
//! disks are all low can therefore still elect a leader, and be repaired by adding or removing nodes.
//!
//! This module only records. The disk pressure task acts on the records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use triarch_storage::{FreeSpace, FreeSpaceStatus, LogMetrics, SpaceLevel};

use crate::protocol::messages::{DiskLevel, NodeHealth};
use crate::status::{DiskStatus, ms};

/// Time for which the duration of a finished sync is evidence of the disk's state.
const SYNC_WINDOW: Duration = Duration::from_secs(30);

/// Record of free disk space. See the [module](self).
pub(crate) struct ClusterDiskSpace {
    space: FreeSpace,
    log_metrics: Arc<LogMetrics>,
    node_id: u64,
    /// Maximum age of a report that is used.
    max_age: Duration,
    peers: Mutex<BTreeMap<u64, PeerHealth>>,
    /// Syncs of peers: unfinished and present, as they reported them, and when.
    peer_syncs: Mutex<BTreeMap<u64, (SyncState, Instant)>>,
    /// Reason why no quorum can take an entry, although this node's own disk could.
    quorum_shortage: Mutex<Option<String>>,
}

/// Syncs of one node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SyncState {
    /// Age of the oldest unfinished sync.
    pub unfinished: Duration,
    /// Time that a sync takes at present: the unfinished one, or else the last one.
    pub present: Duration,
}

struct PeerHealth {
    health: NodeHealth,
    at: Instant,
}

impl ClusterDiskSpace {
    pub(crate) fn new(
        space: FreeSpace,
        log_metrics: Arc<LogMetrics>,
        node_id: u64,
        max_age: Duration,
    ) -> Self {
        ClusterDiskSpace {
            space,
            log_metrics,
            node_id,
            max_age,
            peers: Mutex::default(),
            peer_syncs: Mutex::default(),
            quorum_shortage: Mutex::default(),
        }
    }

    /// Returns the status of this node's own disk.
    pub(crate) fn own(&self) -> FreeSpaceStatus {
        self.space.status()
    }

    /// Returns whether this node's own log takes `bytes` bytes of commands.
    pub(crate) fn accepts(&self, bytes: usize) -> bool {
        self.space
            .has_room_for(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Returns why a proposal of `bytes` bytes cannot be taken now, if so.
    pub(crate) fn write_refusal(&self, bytes: usize) -> Option<String> {
        if !self.accepts(bytes) {
            let seen = self.own();
            return Some(format!(
                "the disk of node {} has no room for it: {} MiB are free at {}, and below {} MiB no writes are accepted; \
                 free some space there",
                self.node_id,
                seen.free_bytes >> 20,
                self.space.directory().display(),
                seen.low_bytes >> 20
            ));
        }
        self.quorum_shortage.lock().clone()
    }

    /// Sets the reason why no quorum can take an entry, or clears it.
    pub(crate) fn set_quorum_shortage(&self, why: Option<String>) {
        *self.quorum_shortage.lock() = why;
    }

    /// Returns the health of this node, as it is reported to peers.
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

    /// Returns the health that a peer reported recently.
    pub(crate) fn peer_health(&self, peer: u64) -> Option<NodeHealth> {
        self.peers
            .lock()
            .get(&peer)
            .filter(|peer| peer.at.elapsed() <= self.max_age)
            .map(|peer| peer.health)
    }

    /// Returns whether a peer reported recently that its disk is low.
    pub(crate) fn peer_is_low(&self, peer: u64) -> bool {
        self.peer_health(peer)
            .is_some_and(|health| health.disk != DiskLevel::Ample)
    }

    /// Returns the syncs of this node's own disk.
    pub(crate) fn own_sync(&self) -> SyncState {
        SyncState {
            unfinished: self.log_metrics.unfinished_sync().unwrap_or_default(),
            present: self.log_metrics.present_sync(SYNC_WINDOW),
        }
    }

    /// Records the syncs that a peer reported.
    pub(crate) fn record_peer_sync(&self, peer: u64, sync: SyncState) {
        self.peer_syncs.lock().insert(peer, (sync, Instant::now()));
    }

    /// Returns the syncs that a peer reported recently.
    pub(crate) fn peer_sync(&self, peer: u64) -> Option<SyncState> {
        let syncs = self.peer_syncs.lock();
        let (sync, at) = syncs.get(&peer)?;
        (at.elapsed() <= self.max_age).then_some(*sync)
    }

    /// Returns the status of a node's disk, for operators. Its own is always known, another's as far as it was reported
    /// here.
    pub(crate) fn status(&self, node: u64) -> Option<DiskStatus> {
        if node == self.node_id {
            let seen = self.own();
            return Some(DiskStatus {
                free_bytes: seen.free_bytes,
                low: seen.level != SpaceLevel::Ample,
                unfinished_sync_ms: Some(ms(self.own_sync().unfinished)),
            });
        }
        self.peer_health(node).map(|health| DiskStatus {
            free_bytes: health.free_bytes,
            low: health.disk != DiskLevel::Ample,
            unfinished_sync_ms: self.peer_sync(node).map(|sync| ms(sync.unfinished)),
        })
    }
}
