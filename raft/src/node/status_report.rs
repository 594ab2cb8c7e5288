//! Status report of a node and its cluster, from openraft's metrics.

use std::collections::BTreeMap;

use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, LogIdOptionExt, ServerState};

use crate::apply::applier::Applied;
use crate::leadership::role::RaftRole;
use crate::protocol::identity::Identity;
use crate::protocol::levels::Levels;
use crate::protocol::printable::printable;
use crate::status::{NodeStatus, PeerRole, PeerState, SnapshotTransfer, Status};
use crate::storage::disk_space::ClusterDiskSpace;
use crate::types::Config;

/// Input of [`status`].
pub(crate) struct Sources<'a> {
    pub metrics: RaftMetrics<Config>,
    pub identity: &'a Identity,
    pub levels: &'a Levels,
    pub disk_space: &'a ClusterDiskSpace,
    pub role: RaftRole,
    /// Whether a leader is known that a majority has answered lately.
    pub in_touch: bool,
    pub applied: Applied,
    /// Time without an acknowledged heartbeat after which a peer counts as unreachable.
    pub lease: std::time::Duration,
    /// Fatal error of this node, if any.
    pub failed: Option<String>,
    pub transfers: BTreeMap<u64, SnapshotTransfer>,
}

pub(crate) fn status(sources: Sources<'_>) -> Status {
    let Sources {
        metrics,
        identity,
        levels,
        disk_space,
        role,
        in_touch,
        applied,
        lease,
        failed,
        transfers,
    } = sources;
    let leading = metrics.state == ServerState::Leader;
    let leader = match &role {
        RaftRole::Leading { .. } => in_touch.then_some(identity.node_id),
        RaftRole::Following { leader, .. } => Some(*leader),
        RaftRole::Elected { .. } | RaftRole::Unknown { .. } => None,
    };
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let nodes = membership
        .nodes()
        .map(|(&id, member)| {
            let mine = id == identity.node_id;
            let last_ack = || {
                metrics
                    .heartbeat
                    .as_ref()
                    .and_then(|h| h.get(&id).copied().flatten())
            };
            let silent =
                leading && !mine && last_ack().is_none_or(|at| at.into_inner().elapsed() > lease);
            NodeStatus {
                id,
                addr: printable(&member.addr),
                role: if voters.contains(&id) {
                    PeerRole::Voter
                } else {
                    PeerRole::Learner
                },
                state: if leader == Some(id) {
                    PeerState::Leader
                } else if silent {
                    PeerState::Unreachable
                } else {
                    PeerState::Follower
                },
                // A leader's own row is what is on its disk, as for the others.
                matched: metrics
                    .replication
                    .as_ref()
                    .and_then(|r| r.get(&id).copied().flatten())
                    .map(|id| id.index),
                applied: mine.then_some(applied.index),
                snapshot: transfers.get(&id).copied(),
                disk: disk_space.status(id),
                version: levels.version_of(id, identity.node_id),
            }
        })
        .collect();
    let alone = voters.as_slice() == [identity.node_id];
    let quorum_ack_age_ms = match metrics.last_quorum_acked {
        _ if !leading => None,
        _ if alone => Some(0),
        acked => {
            acked.map(|at| u64::try_from(at.into_inner().elapsed().as_millis()).unwrap_or(u64::MAX))
        }
    };
    let failed = failed.or_else(|| {
        metrics
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string)
    });
    Status {
        forming: identity.forming(),
        cluster_id: identity.cluster().map(|id| id.to_string()),
        node_id: identity.node_id,
        leader,
        term: metrics.current_term,
        last_log_index: metrics.last_log_index.unwrap_or(0),
        commit_index: metrics.local_committed.index().unwrap_or(0),
        applied_index: applied.index,
        snapshot_index: metrics.snapshot.index().unwrap_or(0),
        purged_index: metrics.purged.index().unwrap_or(0),
        quorum_ack_age_ms,
        level: levels.in_effect(),
        nodes,
        failed,
    }
}
