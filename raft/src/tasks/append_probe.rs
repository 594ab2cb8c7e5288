//! Append probe: every node sends each other node a message of append size, on the lane of appends, all the time.
//!
//! It has two purposes. The lane keeps a warm connection to each peer, so the first entry after a rest needs no new one,
//! and neither does a leader that was just elected. And each node knows, before it matters, whether its appends would
//! reach a majority. A leader that cannot commit hands over only to a node that reports so of itself.
//!
//! The answer reports the reach and the disk of the peer. The same question without padding, on the control lane, still
//! gets that report where large messages or new connections fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use crate::apply::applier::{Raft, membership};
use crate::leadership::append_reach::AppendReach;
use crate::network::transport::{Lane, Target, Transport};
use crate::protocol::messages;
use crate::state_machine::StateMachine;
use crate::status::ms;
use crate::storage::disk_space::{ClusterDiskSpace, SyncState};

/// Path of the probe. Its connections are the append lane's.
pub(crate) const PROBE_PATH: &str = "/raft/append-probe";
/// Padding of a probe, in bytes: more than any packet of a local network.
const PROBE_BYTES: usize = 16 << 10;
/// Time of a sync above which a disk counts as slow, in leases.
const SLOW_SYNC_LEASES: u32 = 2;

/// Answer to a probe: how the peer is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ProbeReply {
    /// Time since the peer's own probes had reached a majority, in ms.
    majority_age_ms: Option<u64>,
    /// Age of the oldest unfinished sync of its log, in ms.
    unfinished_sync_ms: u64,
    /// Time of a sync of its log at present, in ms.
    present_sync_ms: u64,
}

/// Task that probes the other nodes, and the answers to their probes.
pub(crate) struct AppendProber<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub append_reach: Arc<AppendReach>,
    pub disk_space: Arc<ClusterDiskSpace>,
}

impl<S: StateMachine> Clone for AppendProber<S> {
    fn clone(&self) -> Self {
        AppendProber {
            raft: self.raft.clone(),
            transport: Arc::clone(&self.transport),
            append_reach: Arc::clone(&self.append_reach),
            disk_space: Arc::clone(&self.disk_space),
        }
    }
}

impl<S: StateMachine> AppendProber<S> {
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(self.interval());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let probes = self
                .peers()
                .into_iter()
                .map(|target| self.probe(target, Lane::Append, PROBE_BYTES));
            futures_util::future::join_all(probes).await;
        }
    }

    /// Interval between two probes of a peer. Less than the time after which an idle connection is closed.
    pub(crate) fn interval(&self) -> Duration {
        self.transport.timing.lease() * 3 / 2
    }

    /// Asks all peers for their reports by small messages.
    pub(crate) async fn ask_for_reports(&self) {
        let asked = self
            .peers()
            .into_iter()
            .map(|target| self.probe(target, Lane::Control, 0));
        futures_util::future::join_all(asked).await;
    }

    /// Returns the report of this node.
    pub(crate) fn report(&self) -> ProbeReply {
        let sync = self.disk_space.own_sync();
        let voters = self.voters();
        let me = self.transport.identity.node_id;
        let age =
            self.append_reach
                .majority_age(&voters, me, self.is_slow(sync.present), Instant::now());
        ProbeReply {
            majority_age_ms: age.map(ms),
            unfinished_sync_ms: ms(sync.unfinished),
            present_sync_ms: ms(sync.present),
        }
    }

    /// Returns whether a disk whose syncs take this long is slow.
    pub(crate) fn is_slow(&self, sync: Duration) -> bool {
        sync > self.transport.timing.lease() * SLOW_SYNC_LEASES
    }

    fn voters(&self) -> Vec<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().collect()
    }

    fn peers(&self) -> Vec<Target> {
        let me = self.transport.identity.node_id;
        membership(&self.raft)
            .nodes()
            .filter(|(id, _)| **id != me)
            .map(|(id, member)| Target::member(*id, member))
            .collect()
    }

    async fn probe(&self, target: Target, lane: Lane, padding: usize) {
        let sent = Instant::now();
        let deadline = self.transport.timing.lease() * 2;
        let pad = |out: &mut bytes::BytesMut| out.resize(out.len() + padding, 0);
        let answer = self
            .transport
            .call(lane, &target, PROBE_PATH, pad, padding, deadline)
            .await;
        let Ok(answer) = answer else {
            return;
        };
        let Ok(reply) = messages::decode::<ProbeReply>("the answer to a probe", &answer) else {
            return;
        };
        let of_ms = Duration::from_millis;
        let sync = SyncState {
            unfinished: of_ms(reply.unfinished_sync_ms),
            present: of_ms(reply.present_sync_ms),
        };
        self.disk_space.record_peer_sync(target.id, sync);
        if lane == Lane::Append {
            self.append_reach.record_reached(target.id, sent);
        }
        self.append_reach.record_report(
            target.id,
            self.is_slow(sync.present),
            reply.majority_age_ms.map(of_ms),
            Instant::now(),
        );
    }
}
