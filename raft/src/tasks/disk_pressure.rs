//! Disk pressure: actions on low and hanging disks, checked every 50 ms. See [`crate::storage::disk_space`] for what is refused.
//!
//! - A leader whose disk is low transfers leadership to a voter whose disk is not and who has all of the log. It never
//!   transfers to a voter with a low disk, and at most once per [`TRANSFER_INTERVAL`]. Leadership therefore does not go
//!   back and forth.
//! - A leader whose disk does not finish a sync transfers leadership in the same way, because its own log falls behind
//!   what it acknowledges with the others' help. A sync that takes long is logged by every node.
//! - A node whose disk is low leaves campaigning to others. If there is no leader for long, it campaigns all the same.
//!   Reads, heartbeats and leases need a leader even when nothing can be written.
//! - When too many voters are low for a quorum to take an entry, the leader refuses proposals. Otherwise they would run
//!   into their deadlines.
//! - A disk that becomes low gets one snapshot, if there is space for it and the log is worth it. The log that the
//!   snapshot frees may be all that is needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, LogIdOptionExt};
use triarch_storage::SpaceLevel;

use crate::leadership::append_reach::AppendReach;
use crate::leadership::change_reason::TransferReason;
use crate::leadership::role::RaftRole;
use crate::membership::changes::MembershipChanger;
use crate::metrics::ConsensusMetrics;
use crate::state_machine::StateMachine;
use crate::status::ms;
use crate::storage::disk_space::ClusterDiskSpace;
use crate::types::Config;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Minimum time between two leadership transfers.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(3);
/// Time without a leader after which a node with a low disk campaigns too, in leases.
const CAMPAIGN_DELAY_ELECTIONS: u32 = 4;
/// Minimum entries since the last snapshot. A log with fewer does not shrink by another snapshot.
const SNAPSHOT_ENTRIES_MIN: u64 = 1_000;

/// Age of an unfinished sync that is logged.
const SYNC_LOG_AGE: Duration = Duration::from_secs(1);
/// Age of an unfinished sync at which a leader transfers leadership.
const SYNC_TRANSFER_AGE: Duration = Duration::from_secs(2);

/// Task that acts on low and hanging disks. See the [module](self).
pub(crate) struct DiskPressureController<S: StateMachine> {
    pub disk_space: Arc<ClusterDiskSpace>,
    pub append_reach: Arc<AppendReach>,
    pub metrics: Arc<ConsensusMetrics>,
    pub changer: MembershipChanger<S>,
    pub lease: Duration,
    /// Earliest time of campaigns. See [`Node::start`](crate::Node::start).
    pub elections_from: Instant,
}

/// State of the controller between two ticks.
struct ControllerState {
    was_low: bool,
    /// Value that was last set in openraft. Unknown at first, because a slow start may have used up the time in which
    /// it may not campaign.
    may_campaign: Option<bool>,
    leader_seen: Instant,
    last_transfer: Option<Instant>,
    /// Peers whose disks are known to be low.
    low_peers: BTreeSet<u64>,
    /// Longest age so far of an unfinished sync that was logged. `None` if no logged sync is unfinished.
    hanging: Option<Duration>,
}

impl<S: StateMachine> DiskPressureController<S> {
    pub(crate) async fn run(self) {
        let mut state = ControllerState {
            was_low: false,
            may_campaign: None,
            leader_seen: Instant::now(),
            last_transfer: None,
            low_peers: BTreeSet::new(),
            hanging: None,
        };
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tick(&mut state).await;
        }
    }

    async fn tick(&self, state: &mut ControllerState) {
        let level = self.disk_space.own().level;
        let metrics = self.changer.raft.metrics().borrow_watched().clone();
        if metrics.current_leader.is_some() {
            state.leader_seen = Instant::now();
        }
        self.allow_campaigns(level, state);
        let is_low = level != SpaceLevel::Ample;
        let became_low = is_low && !std::mem::replace(&mut state.was_low, is_low);
        if became_low {
            self.snapshot(&metrics).await;
        }
        let unfinished = self.disk_space.own_sync().unfinished;
        self.log_hanging_sync(unfinished, state);
        let leading = matches!(&*self.changer.role.borrow(), RaftRole::Leading { .. });
        if !leading {
            state.low_peers.clear();
            self.disk_space.set_quorum_shortage(None);
            return;
        }
        self.log_peer_disks(&metrics, state);
        self.disk_space.set_quorum_shortage(self.shortage(&metrics));
        if is_low {
            self.transfer_leadership(&metrics, TransferReason::DiskLow, state)
                .await;
        } else if unfinished >= SYNC_TRANSFER_AGE {
            self.transfer_leadership(&metrics, TransferReason::DiskHangs, state)
                .await;
        }
    }

    fn log_hanging_sync(&self, unfinished: Duration, state: &mut ControllerState) {
        match state.hanging {
            None if unfinished >= SYNC_LOG_AGE => {
                state.hanging = Some(unfinished);
                tracing::warn!(
                    unfinished_ms = ms(unfinished),
                    "a sync of this node's log does not end: its disk hangs or is very slow, and nothing is on it for \
                     certain until the sync ends; look at the disk and the kernel's log"
                );
            }
            Some(longest) if unfinished >= SYNC_LOG_AGE => {
                state.hanging = Some(longest.max(unfinished));
            }
            Some(longest) => {
                state.hanging = None;
                tracing::info!(
                    took_ms = ms(longest),
                    "the sync of this node's log that did not end has ended"
                );
            }
            None => {}
        }
    }

    fn allow_campaigns(&self, level: SpaceLevel, state: &mut ControllerState) {
        let leaderless = state.leader_seen.elapsed() > self.lease * CAMPAIGN_DELAY_ELECTIONS;
        let may = match level {
            SpaceLevel::Ample => true,
            SpaceLevel::Low => leaderless,
            SpaceLevel::Full => false,
        } && Instant::now() >= self.elections_from;
        if state.may_campaign != Some(may) {
            state.may_campaign = Some(may);
            self.changer.raft.runtime_config().elect(may);
        }
    }

    async fn snapshot(&self, metrics: &RaftMetrics<Config>) {
        let applied = metrics.last_applied.index().unwrap_or(0);
        let kept = metrics.snapshot.index().unwrap_or(0);
        if applied.saturating_sub(kept) >= SNAPSHOT_ENTRIES_MIN {
            // The snapshot is refused where there is no space for it. An error means that the node is stopping.
            let _ = self.changer.raft.trigger().snapshot().await;
        }
    }

    fn log_peer_disks(&self, metrics: &RaftMetrics<Config>, state: &mut ControllerState) {
        for (&peer, _) in metrics.membership_config.membership().nodes() {
            let Some(disk) = self.disk_space.status(peer) else {
                continue;
            };
            if peer == self.changer.transport.identity.node_id {
                continue;
            }
            let free_mib = disk.free_bytes >> 20;
            if disk.low && state.low_peers.insert(peer) {
                tracing::warn!(
                    peer,
                    free_mib,
                    "the disk of node {peer} is nearly full: it takes no writes and falls behind until there is room again"
                );
            }
            if !disk.low && state.low_peers.remove(&peer) {
                tracing::info!(peer, free_mib, "the disk of node {peer} has room again");
            }
        }
    }

    /// Returns why no quorum can take an entry, if disks are the reason.
    fn shortage(&self, metrics: &RaftMetrics<Config>) -> Option<String> {
        let me = self.changer.transport.identity.node_id;
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let low: Vec<String> = voters
            .iter()
            .filter(|id| **id != me && self.disk_space.peer_is_low(**id))
            .map(|id| {
                let free = self
                    .disk_space
                    .peer_health(*id)
                    .map_or(0, |health| health.free_bytes >> 20);
                format!("node {id} ({free} MiB free)")
            })
            .collect();
        if low.is_empty() {
            return None;
        }
        let able = voters
            .iter()
            .filter(|id| {
                **id == me
                    || (self.is_reachable(metrics, **id) && !self.disk_space.peer_is_low(**id))
            })
            .count();
        (able <= voters.len() / 2).then(|| {
            format!(
                "too few masters have room on their disks for it: the disks of {} are nearly full; free some space \
                 there",
                low.join(", ")
            )
        })
    }

    fn is_reachable(&self, metrics: &RaftMetrics<Config>, peer: u64) -> bool {
        metrics
            .heartbeat
            .as_ref()
            .and_then(|acks| acks.get(&peer).copied().flatten())
            .is_some_and(|at| at.into_inner().elapsed() <= self.lease)
    }

    async fn transfer_leadership(
        &self,
        metrics: &RaftMetrics<Config>,
        why: TransferReason,
        state: &mut ControllerState,
    ) {
        let too_soon = state
            .last_transfer
            .is_some_and(|at| at.elapsed() < TRANSFER_INTERVAL);
        let Some(to) = self.successor(metrics).filter(|_| !too_soon) else {
            return;
        };
        state.last_transfer = Some(Instant::now());
        let description = if why == TransferReason::DiskHangs {
            self.metrics.abdicated();
            "does not finish a sync"
        } else {
            "is nearly full"
        };
        tracing::warn!(
            to,
            "this node's disk {description}: handing leadership to node {to}"
        );
        if let Err(error) = self.changer.transfer_leader(Some(to), why).await {
            tracing::warn!(to, %error, "leadership could not be handed over; retrying later");
        }
    }

    /// Returns a voter that has disk space, a disk that is not slow, and everything that is in the log here.
    fn successor(&self, metrics: &RaftMetrics<Config>) -> Option<u64> {
        let me = self.changer.transport.identity.node_id;
        let matched = |id: u64| {
            metrics
                .replication
                .as_ref()
                .and_then(|to| to.get(&id).copied().flatten())
                .map(|id| id.index)
        };
        metrics.membership_config.voter_ids().find(|&id| {
            id != me
                && self.is_reachable(metrics, id)
                && self.disk_space.status(id).is_some_and(|disk| !disk.low)
                && !self.append_reach.has_slow_disk(id)
                && matched(id) == metrics.last_log_index
        })
    }
}
