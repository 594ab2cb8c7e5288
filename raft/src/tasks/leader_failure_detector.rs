//! Failure detector: notices within milliseconds that the leader's process is gone.
//!
//! Each follower holds one idle connection to the leader. When a process dies, its kernel resets or closes the
//! connection, and refuses the next. Then the followers, in turns, ask openraft to campaign with a pre-vote. The
//! pre-vote is refused at no cost while the leader's lease runs, and granted at the first turn after it. A crash
//! therefore costs the rest of the lease, but not the random wait that a silent leader costs.
//!
//! A wrong guess is harmless: a pre-vote changes no term, and a leader that a quorum still hears is protected by its
//! lease.
//!
//! The campaign ends in any of these cases, after which ordinary elections take over:
//!
//! - A leader is known again.
//! - The old leader answers.
//! - Another node campaigns in earnest.
//! - A few election timeouts have passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use triarch_storage::SpaceLevel;

use crate::apply::applier::Raft;
use crate::leadership::role::{LeaderContact, Suspicion};
use crate::network::transport::{CallError, Target, Transport};
use crate::state_machine::StateMachine;
use crate::storage::disk_space::ClusterDiskSpace;

/// Leader that this node follows, as openraft names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MonitoredLeader {
    term: u64,
    leader: u64,
    addr: String,
    incarnation: uuid::Uuid,
    /// Voters other than the leader, in the order in which they campaign.
    campaign_order: Vec<u64>,
}

pub(crate) struct FailureDetector<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub leader_contact: Arc<LeaderContact>,
    /// Earliest time of campaigns. See [`Node::start`](crate::Node::start).
    pub elections_from: Instant,
    pub disk_space: Arc<ClusterDiskSpace>,
    pub stopping: watch::Receiver<bool>,
}

impl<S: StateMachine> FailureDetector<S> {
    pub(crate) async fn run(mut self) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = self.monitor() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn monitor(&mut self) {
        let mut server = self.raft.server_metrics();
        let retry_delay = Duration::from_millis(self.transport.timing.election_max_ms);
        let mut consecutive_failures = 0;
        loop {
            let Some(monitored) = self.monitored_leader() else {
                if server.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self
                .transport
                .open_liveness_connection(&target(&monitored))
                .await
            {
                Ok(response) => {
                    consecutive_failures = 0;
                    self.leader_contact.clear_suspicion();
                    tokio::select! {
                        () = wait_for_close(response) => {}
                        () = self.changed(&monitored) => {}
                    }
                }
                Err(CallError::Unreachable { why, .. }) => {
                    self.campaign(&monitored, &why).await;
                    tokio::select! {
                        () = tokio::time::sleep(retry_delay) => {}
                        () = self.changed(&monitored) => {}
                    }
                }
                Err(
                    CallError::Broken { .. }
                    | CallError::Timeout { .. }
                    | CallError::NoRoute { .. }
                    | CallError::Refused { .. },
                ) => {
                    // The leader's process may be ending right now. The next attempt will then be refused.
                    consecutive_failures += 1;
                    let pause = if consecutive_failures <= 5 {
                        Duration::from_millis(2)
                    } else {
                        retry_delay
                    };
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.changed(&monitored) => {}
                    }
                }
            }
        }
    }

    fn monitored_leader(&self) -> Option<MonitoredLeader> {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let leader = seen
            .current_leader
            .filter(|leader| *leader != self.transport.identity.node_id)?;
        if seen.state == ServerState::Leader || !seen.vote.committed {
            return None;
        }
        let membership = seen.membership_config.membership();
        let member = membership.get_node(&leader)?;
        let mut campaign_order: Vec<u64> =
            membership.voter_ids().filter(|id| *id != leader).collect();
        campaign_order.sort_unstable();
        campaign_order.dedup();
        Some(MonitoredLeader {
            term: seen.vote.leader_id.term,
            leader,
            addr: member.addr.clone(),
            incarnation: member.incarnation,
            campaign_order,
        })
    }

    /// Completes when another leader (or none, or another address) is to be watched.
    async fn changed(&self, monitored: &MonitoredLeader) {
        let mut server = self.raft.server_metrics();
        while self.monitored_leader().as_ref() == Some(monitored) {
            if server.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn campaign(&self, monitored: &MonitoredLeader, why: &str) {
        let timing = &self.transport.timing;
        let me = self.transport.identity.node_id;
        self.leader_contact.suspect(Suspicion {
            term: monitored.term,
            why: format!("its connections are refused ({why})"),
        });
        let Some(my_position) = monitored.campaign_order.iter().position(|id| *id == me) else {
            return;
        };
        let end = Instant::now() + Duration::from_millis(timing.election_max_ms * 4);
        let mut ticks = tokio::time::interval(Duration::from_millis(timing.campaign_interval_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        for round in 0_usize.. {
            ticks.tick().await;
            if Instant::now() >= end || self.monitored_leader().as_ref() != Some(monitored) {
                return;
            }
            // Another node has left the pre-vote behind and campaigns, so this one does not interfere.
            if self.raft.metrics().borrow_watched().current_term != monitored.term {
                continue;
            }
            if Instant::now() < self.elections_from {
                continue;
            }
            // A node that could take no writes leaves the campaign to the others.
            if self.disk_space.own().level != SpaceLevel::Ample {
                continue;
            }
            if round % monitored.campaign_order.len() == my_position {
                if self.raft.trigger().elect(true).await.is_err() {
                    return;
                }
            } else if round % 8 == 7
                && self
                    .transport
                    .open_liveness_connection(&target(monitored))
                    .await
                    .is_ok()
            {
                return;
            }
        }
    }
}

fn target(monitored: &MonitoredLeader) -> Target {
    Target {
        id: monitored.leader,
        addr: monitored.addr.clone(),
        incarnation: monitored.incarnation,
    }
}

/// Reads until the other end is gone.
async fn wait_for_close(mut response: reqwest::Response) {
    while let Ok(Some(_)) = response.chunk().await {}
}
