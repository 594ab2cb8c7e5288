//! Leadership observer: keeps the role of this node up to date, and logs every leader change.
//!
//! Each node that sees a leader change logs one message about it, however long the change took. The message names the
//! reason as far as the node can know it (see [`crate::leadership::change_reason`]). The absence of a leader is logged
//! only after [`LEADERLESS_LOG_DELAY_LEASES`] leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;

use crate::apply::applier::{Applied, Raft};
use crate::leadership::change_reason::{LeaderChangeReason, LeaderChangeReasons};
use crate::leadership::role::{LeaderContact, LeadershipTransfer, RaftRole, Suspicion};
use crate::metrics::ConsensusMetrics;
use crate::protocol::identity::Identity;
use crate::state_machine::StateMachine;
use crate::status;
use crate::status::Leadership;
use crate::types::{Config, Member};

/// Time without a leader, or without the answer of a majority to this leader, after which this is logged. In leases.
const LEADERLESS_LOG_DELAY_LEASES: u32 = 3;

/// Keeps `role`, `leadership` and the identity's member list up to date until the node stops.
pub(crate) struct LeadershipObserver<S: StateMachine> {
    pub raft: Raft<S>,
    pub identity: Arc<Identity>,
    pub applied: watch::Receiver<Applied>,
    pub leader_contact: Arc<LeaderContact>,
    pub leadership_transfer: Arc<LeadershipTransfer>,
    pub change_reasons: Arc<LeaderChangeReasons>,
    pub metrics: Arc<ConsensusMetrics>,
    pub lease: Duration,
    pub tick: Duration,
    pub role: watch::Sender<RaftRole>,
    pub leadership: watch::Sender<Leadership>,
    pub transitions: TransitionLog,
}

/// State needed to log the next leader change.
#[derive(Debug)]
pub(crate) struct TransitionLog {
    /// Last term and leader that were logged.
    last: Option<(u64, u64)>,
    /// Reason for which this node no longer relies on the last leader.
    loss_reason: Option<LeaderChangeReason>,
    leaderless_since: Instant,
    /// Whether the present absence of a leader has been logged.
    leaderless_logged: bool,
    /// Time of the last answer of a majority, while this node leads.
    quorum_acked_at: Option<Instant>,
    /// Whether the present lack of an answering majority has been logged, while this node leads.
    silence_logged: bool,
}

impl TransitionLog {
    pub(crate) fn new() -> Self {
        TransitionLog {
            last: None,
            loss_reason: None,
            leaderless_since: Instant::now(),
            leaderless_logged: false,
            quorum_acked_at: None,
            silence_logged: false,
        }
    }
}

/// Role derived from openraft's state, with a reason and its description where no leader can be relied on.
type ObservedRole = (RaftRole, Option<(LeaderChangeReason, String)>);

impl<S: StateMachine> LeadershipObserver<S> {
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        let mut suspicion = self.leader_contact.subscribe_suspicion();
        let mut tick = tokio::time::interval(self.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let electing = matches!(*self.role.borrow(), RaftRole::Elected { .. });
            tokio::select! {
                changed = server.changed() => if changed.is_err() { return },
                // Only the entry that confirms this node's leadership matters here.
                changed = self.applied.changed(), if electing => if changed.is_err() { return },
                changed = suspicion.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
            let seen = server.borrow_watched().clone();
            let members: BTreeMap<u64, Member> = seen
                .membership_config
                .membership()
                .nodes()
                .map(|(id, m)| (*id, m.clone()))
                .collect();
            if *self.identity.members() != members {
                self.identity.set_members(members);
            }
            let suspected = suspicion.borrow_and_update().clone();
            let (now, why) = self.observe(&seen, suspected);
            let before = self.role.borrow().clone();
            if now == before {
                self.log_if_leaderless(&now);
                self.record_quorum_ack(&now);
                self.log_quorum_silence(&now);
                continue;
            }
            self.log_transition(&before, &now, why);
            self.record_quorum_ack(&now);
            self.log_quorum_silence(&now);
            let leadership = now.leadership();
            self.role.send_replace(now);
            self.leadership.send_if_modified(|current| {
                let changed = *current != leadership;
                *current = leadership;
                changed
            });
        }
    }

    fn observe(
        &self,
        seen: &RaftServerMetrics<Config>,
        suspected: Option<Suspicion>,
    ) -> ObservedRole {
        let term = seen.vote.leader_id.term;
        if seen.state == ServerState::Leader {
            // The vote in the metrics is the one on disk, which may lag behind the state for a moment.
            if !seen.vote.committed || seen.vote.leader_id.voted_for != self.identity.node_id {
                return (self.role.borrow().clone(), None);
            }
            if self.leadership_transfer.has_begun(term) {
                let why = self
                    .change_reasons
                    .transfer_reason(term)
                    .map(LeaderChangeReason::Transferred);
                let description = "it is handing leadership over".to_owned();
                return (
                    RaftRole::Unknown { term },
                    Some((why.unwrap_or(LeaderChangeReason::Unknown), description)),
                );
            }
            return match &*self.role.borrow() {
                leading @ RaftRole::Leading { term: t, .. } if *t == term => {
                    (leading.clone(), None)
                }
                _ if self.applied.borrow().term == term => (
                    RaftRole::Leading {
                        term,
                        since: Instant::now(),
                    },
                    None,
                ),
                _ => (RaftRole::Elected { term }, None),
            };
        }
        let unknown =
            |cause, description: String| (RaftRole::Unknown { term }, Some((cause, description)));
        let leader = match seen.current_leader {
            None => {
                return unknown(
                    LeaderChangeReason::Unknown,
                    "an election is going on".into(),
                );
            }
            Some(leader) if leader == self.identity.node_id => {
                return unknown(
                    LeaderChangeReason::NoLeader,
                    "this node has just restarted".into(),
                );
            }
            Some(leader) => leader,
        };
        if let Some(suspicion) = suspected.filter(|s| s.term == term) {
            return unknown(LeaderChangeReason::Refused, suspicion.why);
        }
        match self.leader_contact.elapsed() {
            None => {
                return unknown(
                    LeaderChangeReason::NoLeader,
                    format!("node {leader} has not been heard since this node started"),
                );
            }
            Some(age) if age > self.lease => {
                let ms = status::ms(age);
                return unknown(
                    LeaderChangeReason::Silent { ms },
                    format!("node {leader} has not been heard for {ms} ms"),
                );
            }
            Some(_) => {}
        }
        match seen.membership_config.membership().get_node(&leader) {
            Some(member) => (
                RaftRole::Following {
                    term,
                    leader,
                    addr: member.addr.clone(),
                },
                None,
            ),
            None => unknown(
                LeaderChangeReason::Found,
                format!("node {leader} leads, but its address is not known here yet"),
            ),
        }
    }

    /// Records when a majority last answered, while this node leads.
    fn record_quorum_ack(&mut self, now: &RaftRole) {
        if now.own_term().is_none() {
            return;
        }
        let metrics = self.raft.metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        if let Some(acked) = acked {
            let at = Instant::now().checked_sub(acked.into_inner().elapsed());
            if let Some(at) = at {
                self.change_reasons.record_quorum_ack(at);
            }
            self.transitions.quorum_acked_at = at;
        }
    }

    /// Returns the time since a majority last answered this leader, if that is longer than its lease.
    fn quorum_silence(&self) -> Option<Duration> {
        self.transitions
            .quorum_acked_at
            .map(|at| at.elapsed())
            .filter(|silence| *silence > self.lease)
    }

    /// Logs that no majority has answered this leader for [`LEADERLESS_LOG_DELAY_LEASES`]. Logs too when one answers
    /// again.
    fn log_quorum_silence(&mut self, now: &RaftRole) {
        let alone = || self.raft.voter_ids().eq([self.identity.node_id]);
        let leading = matches!(now, RaftRole::Leading { .. }) && !alone();
        let silence = self.quorum_silence().filter(|_| leading);
        let lasting = silence.filter(|it| *it > self.lease * LEADERLESS_LOG_DELAY_LEASES);
        match (lasting, silence, self.transitions.silence_logged) {
            (Some(silence), _, false) => {
                self.transitions.silence_logged = true;
                tracing::warn!(
                    term = now.term(),
                    silent_ms = status::ms(silence),
                    "no majority of the masters answers this leader: it serves no reads and no writes until a majority \
                     is up and reaches it, or another node is elected"
                );
            }
            (None, None, true) => {
                self.transitions.silence_logged = false;
                if leading {
                    tracing::info!(
                        term = now.term(),
                        "a majority of the masters answers this leader again"
                    );
                }
            }
            (Some(_), _, true) | (None, Some(_), _) | (None, None, false) => {}
        }
    }

    fn log_transition(
        &mut self,
        before: &RaftRole,
        now: &RaftRole,
        why: Option<(LeaderChangeReason, String)>,
    ) {
        let me = self.identity.node_id;
        let was_known = matches!(
            before,
            RaftRole::Leading { .. } | RaftRole::Following { .. }
        );
        let known = match now {
            RaftRole::Leading { term, .. } => Some((*term, me)),
            RaftRole::Following { term, leader, .. } => Some((*term, *leader)),
            RaftRole::Elected { .. } | RaftRole::Unknown { .. } => None,
        };
        if was_known {
            self.transitions.leaderless_since = Instant::now();
            let loss_reason = why.as_ref().map(|(cause, _)| *cause);
            self.transitions.loss_reason = match before {
                RaftRole::Leading { .. } => self
                    .quorum_silence()
                    .map(|silence| LeaderChangeReason::LostQuorum {
                        ms: status::ms(silence),
                    })
                    .or(loss_reason),
                RaftRole::Following { .. }
                | RaftRole::Elected { .. }
                | RaftRole::Unknown { .. } => loss_reason,
            }
            // `Unknown` is not kept: this node saw that the leader was lost, but not why.
            .filter(|cause| *cause != LeaderChangeReason::Unknown);
        }
        self.metrics.leader_known(known.is_some());
        let Some((term, leader)) = known else {
            if let (true, Some((_, description))) = (was_known, why) {
                tracing::debug!(term = now.term(), "no leader: {description}");
            }
            return;
        };
        let leaderless_ms = status::ms(self.transitions.leaderless_since.elapsed());
        if self.transitions.last == Some((term, leader)) {
            tracing::info!(
                term,
                leader,
                leaderless_ms,
                "node {leader} still leads: its contact with this node was interrupted"
            );
        } else {
            self.log_leader_change(term, leader, leaderless_ms);
        }
        self.transitions.last = Some((term, leader));
        self.transitions.loss_reason = None;
        self.transitions.leaderless_logged = false;
        self.transitions.quorum_acked_at = None;
    }

    /// Logs the one message of a leader change.
    fn log_leader_change(&self, term: u64, new_leader: u64, leaderless_ms: u64) {
        let last = self.transitions.last;
        let me = self.identity.node_id;
        let cause = self.change_reasons.reason_of_change(
            term,
            new_leader,
            me,
            last,
            self.transitions.loss_reason,
        );
        let kind = cause.kind();
        self.metrics.leader_changed(kind);
        let old_leader = last.map(|(_, leader)| leader);
        let description = cause.describe(old_leader);
        let who = if new_leader == me {
            "this node".to_owned()
        } else {
            format!("node {new_leader}")
        };
        let cause = kind.as_str();
        if kind.is_planned() {
            tracing::info!(
                term,
                new_leader,
                old_leader,
                leaderless_ms,
                cause,
                "leadership changed: {who} leads; {description}"
            );
        } else {
            tracing::warn!(
                term,
                new_leader,
                old_leader,
                leaderless_ms,
                cause,
                "leadership changed: {who} leads; {description}"
            );
        }
    }

    /// Logs that no leader has been known for [`LEADERLESS_LOG_DELAY_LEASES`].
    fn log_if_leaderless(&mut self, now: &RaftRole) {
        let leaderless = self.transitions.leaderless_since.elapsed();
        match now {
            RaftRole::Leading { .. } | RaftRole::Following { .. } => return,
            RaftRole::Elected { .. } | RaftRole::Unknown { .. } => {}
        }
        // A node that waits to be formed or added logs that itself.
        if self.transitions.leaderless_logged
            || self.transitions.last.is_none()
            || leaderless < self.lease * LEADERLESS_LOG_DELAY_LEASES
        {
            return;
        }
        self.transitions.leaderless_logged = true;
        let old_leader = self.transitions.last.map(|(_, leader)| leader);
        let description = self
            .transitions
            .loss_reason
            .map_or_else(String::new, |loss_reason| {
                format!(": {}", loss_reason.describe(old_leader))
            });
        tracing::warn!(
            term = now.term(),
            old_leader,
            leaderless_ms = status::ms(leaderless),
            "no leader is known, and none is elected yet{description}"
        );
    }
}
