//! Readiness monitor: proves that this node is caught up, and publishes since when it is out of touch with a majority.
//!
//! A follower asks its leader for one ReadIndex after each interruption (see [`crate::leadership::catch_up`]). The
//! leader confirms with a majority that it leads, as for any linearizable read, and answers with what it has applied.
//! Nothing is asked while nothing is interrupted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::apply::applier::{Applied, Raft};
use crate::leadership::catch_up::CatchUp;
use crate::leadership::role::{LeaderContact, RaftRole};
use crate::network::transport::{CallError, Lane, Target, Transport};
use crate::protocol::messages;
use crate::state_machine::StateMachine;
use crate::types::Member;

/// Path of the question for a ReadIndex.
pub(crate) const READ_INDEX_PATH: &str = "/raft/read-index";
/// Time for which a leader may go without the answer of a majority before it calls itself out of touch, in leases.
pub(crate) const SILENCE_LEASES: u32 = 2;

/// Answer of a leader that a majority has just confirmed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadIndexReply {
    /// Everything up to here was committed when the leader answered.
    pub commit_index: u64,
}

/// Task that keeps [`CatchUp`] up to date.
pub(crate) struct ReadinessMonitor<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub leader_contact: Arc<LeaderContact>,
    pub catch_up: Arc<CatchUp>,
    pub applied: watch::Receiver<Applied>,
    pub role: watch::Receiver<RaftRole>,
    /// Since when no leader is known here, or this node leads without a majority.
    pub out_of_touch: watch::Sender<Option<Instant>>,
    pub tick: Duration,
}

impl<S: StateMachine> ReadinessMonitor<S> {
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut followed = None;
        loop {
            ticks.tick().await;
            let role = self.role.borrow().clone();
            self.publish_contact(&role);
            let following = match &role {
                RaftRole::Following { term, leader, .. } => Some((*term, *leader)),
                RaftRole::Leading { .. } | RaftRole::Elected { .. } | RaftRole::Unknown { .. } => {
                    None
                }
            };
            if following != followed {
                followed = following;
                self.catch_up.interrupt();
            }
            let applied = self.applied.borrow().index;
            let session = self
                .catch_up
                .tick(applied, self.committed(), Instant::now());
            if let (Some(session), Some((_, leader))) = (session, following)
                && let Some(commit_index) = self.ask(leader).await
            {
                self.catch_up.answer(session, commit_index);
            }
        }
    }

    /// Returns the highest commit index known here, whether or not the entries up to it have arrived.
    fn committed(&self) -> u64 {
        let metrics = self.raft.metrics();
        let own = metrics.borrow_watched().local_committed.index();
        own.unwrap_or(0).max(self.leader_contact.commit_index())
    }

    /// Asks the leader for its commit index. Bounded by a tick or two, so that the monitor sees a pause of its process.
    async fn ask(&self, leader: u64) -> Option<u64> {
        let member: Member = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            membership.get_node(&leader)?.clone()
        };
        let target = Target::member(leader, &member);
        let deadline = Duration::from_millis(self.transport.timing.election_min_ms);
        let asked =
            self.transport
                .call(Lane::Control, &target, READ_INDEX_PATH, |_| {}, 0, deadline);
        match asked.await {
            Ok(answer) => messages::decode::<ReadIndexReply>("a ReadIndex", &answer)
                .ok()
                .map(|reply| reply.commit_index),
            // An older leader has no such route. Only the commit index that it has sent is known then.
            Err(CallError::NoRoute { .. }) => Some(self.committed()),
            Err(
                CallError::Unreachable { .. }
                | CallError::Broken { .. }
                | CallError::Timeout { .. }
                | CallError::Refused { .. },
            ) => None,
        }
    }

    fn publish_contact(&self, role: &RaftRole) {
        let in_touch = match role {
            RaftRole::Leading { term, .. } => {
                let lease = self.transport.timing.lease();
                reaches_majority(&self.raft, self.transport.identity.node_id, *term, lease)
            }
            RaftRole::Following { .. } => true,
            RaftRole::Elected { .. } | RaftRole::Unknown { .. } => false,
        };
        self.out_of_touch.send_if_modified(|since| {
            let changed = in_touch == since.is_some();
            if changed {
                *since = (!in_touch).then(Instant::now);
            }
            changed
        });
    }
}

/// Returns whether a majority has confirmed within [`SILENCE_LEASES`] that `node` leads in `term`.
pub(crate) fn reaches_majority<S: StateMachine>(
    raft: &Raft<S>,
    node: u64,
    term: u64,
    lease: Duration,
) -> bool {
    quorum_silence(raft, node, term).is_some_and(|silence| silence <= lease * SILENCE_LEASES)
}

/// Returns the time since a majority last confirmed that `node` leads in `term`. `None` if it does not lead in it, or was
/// never confirmed.
pub(crate) fn quorum_silence<S: StateMachine>(
    raft: &Raft<S>,
    node: u64,
    term: u64,
) -> Option<Duration> {
    use openraft::{Instant as _, ServerState};
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.state != ServerState::Leader
        || metrics.current_term != term
        || metrics.running_state.is_err()
    {
        return None;
    }
    if metrics.membership_config.voter_ids().eq([node]) {
        return Some(Duration::ZERO);
    }
    metrics
        .last_quorum_acked
        .map(|at| at.into_inner().elapsed())
}
