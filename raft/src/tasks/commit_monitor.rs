//! Commit monitor: a leader that cannot commit says so, and hands over to a node that could.
//!
//! Heartbeats alone keep a leader that commits nothing for as long as the cause lasts. This monitor watches for entries
//! that wait while the commit index does not advance. After [`STALL_LEASES`] leases it asks all nodes how far their
//! appends reach (see [`crate::tasks::append_probe`]). It hands over to a voter whose own probes have just reached a
//! majority with working disks. If there is none, another leader would commit no more than this one does, and
//! leadership stays.
//!
//! # Invariants
//!
//! - Leadership does not change all the time: a node abdicates at most once per back-off, which begins with
//!   [`BACKOFF_MIN`] and doubles. A node that took over from a stalled leader begins with that back-off.
//! - An abdicating leader never remains silent for good: if nobody takes over, it steps down and may be elected again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::raft::VoteRequest;
use openraft::{LogIdOptionExt, ServerState};

use crate::leadership::append_reach::{AppendReach, REACH_PROBES};
use crate::leadership::change_reason::TransferReason;
use crate::membership::changes::MembershipChanger;
use crate::metrics::ConsensusMetrics;
use crate::state_machine::StateMachine;
use crate::status::ms;
use crate::tasks::append_probe::AppendProber;
use crate::types::{Config, Vote, log_id};

/// Maximum time without an advance of the commit index while entries wait, in leases.
pub(crate) const STALL_LEASES: u32 = 5;
/// Time for a successor to take over before the abdicating leader steps down, in leases.
const TAKE_OVER_LEASES: u32 = 8;
/// First and longest time between two abdications of one node.
const BACKOFF_MIN: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(640);
/// Time without an abdication after which the back-off starts at its minimum again.
const BACKOFF_RESET: Duration = Duration::from_secs(1_800);
/// Minimum time between two questions for reports while nobody can take over, in leases.
const QUESTION_LEASES: u32 = 2;

/// Task that watches the commit index. See the [module](self).
pub(crate) struct CommitMonitor<S: StateMachine> {
    pub changer: MembershipChanger<S>,
    pub prober: AppendProber<S>,
    pub append_reach: Arc<AppendReach>,
    pub metrics: Arc<ConsensusMetrics>,
    pub lease: Duration,
    pub tick: Duration,
}

/// State of the monitor between two ticks.
#[derive(Debug)]
struct MonitorState {
    /// Term that this node leads in.
    term: Option<u64>,
    /// Commit index that does not advance although entries wait, and since when.
    stall: Option<(u64, Instant)>,
    stall_logged: bool,
    asked_at: Option<Instant>,
    /// Time at which this node was first seen to transfer leadership in its term.
    transferring_since: Option<Instant>,
    backoff: Backoff,
}

/// Time between abdications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backoff {
    next: Duration,
    /// Last abdication, this node's own or the one it took over by.
    last: Option<Instant>,
}

impl Backoff {
    fn new() -> Self {
        Backoff {
            next: BACKOFF_MIN,
            last: None,
        }
    }

    fn may_abdicate(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.next)
    }

    fn record(&mut self, now: Instant) {
        let idle = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) > BACKOFF_RESET);
        self.next = if idle {
            BACKOFF_MIN
        } else {
            (self.next * 2).min(BACKOFF_MAX)
        };
        self.last = Some(now);
    }
}

impl<S: StateMachine> CommitMonitor<S> {
    pub(crate) async fn run(self) {
        let mut state = MonitorState {
            term: None,
            stall: None,
            stall_logged: false,
            asked_at: None,
            transferring_since: None,
            backoff: Backoff::new(),
        };
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let metrics = self.changer.raft.metrics().borrow_watched().clone();
            self.observe(&metrics, &mut state);
            self.leave_failed_transfer(&metrics, &mut state).await;
            self.abdicate_if_stalled(&metrics, &mut state).await;
        }
    }

    /// Records whether entries wait while the commit index does not advance, and logs a stall and its end.
    fn observe(&self, metrics: &RaftMetrics<Config>, state: &mut MonitorState) {
        let me = self.changer.transport.identity.node_id;
        let term = (metrics.state == ServerState::Leader
            && metrics.vote.committed
            && metrics.vote.leader_id.voted_for == me)
            .then_some(metrics.vote.leader_id.term);
        let now = Instant::now();
        if state.term != term {
            state.term = term;
            state.stall = None;
            state.transferring_since = None;
            if let Some(term) = term
                && self.changer.change_reasons.took_over_from_stall(term, me)
            {
                state.backoff.record(now);
            }
        }
        let committed = metrics.local_committed.index().unwrap_or(0);
        let waits = term.is_some() && metrics.last_log_index.unwrap_or(0) > committed;
        state.stall = match state.stall {
            _ if !waits => None,
            Some((index, since)) if index == committed => Some((index, since)),
            Some(_) | None => Some((committed, now)),
        };
        self.metrics
            .commits_stand(state.stall.map(|(_, since)| since));
        let lasting = self.lasting_stall(state, now);
        if let (Some(oldest), false) = (lasting, state.stall_logged) {
            state.stall_logged = true;
            tracing::warn!(
                commit_index = committed,
                last_log_index = metrics.last_log_index,
                oldest_ms = ms(oldest),
                "proposals wait, and the commit index stands: {}",
                self.describe_voters(metrics)
            );
        }
        if state.stall.is_none() && std::mem::take(&mut state.stall_logged) && term.is_some() {
            tracing::info!(commit_index = committed, "proposals are committed again");
        }
    }

    /// Returns the duration of the stall, if it has lasted at least [`STALL_LEASES`].
    fn lasting_stall(&self, state: &MonitorState, now: Instant) -> Option<Duration> {
        let (_, since) = state.stall?;
        let age = now.saturating_duration_since(since);
        (age >= self.lease * STALL_LEASES).then_some(age)
    }

    fn describe_voters(&self, metrics: &RaftMetrics<Config>) -> String {
        let me = self.changer.transport.identity.node_id;
        let now = Instant::now();
        let window = self.window();
        let words: Vec<String> = metrics
            .membership_config
            .voter_ids()
            .filter_map(|id| match id {
                id if self
                    .changer
                    .disk_space
                    .status(id)
                    .is_some_and(|disk| disk.low) =>
                {
                    Some(match id == me {
                        true => "the disk is nearly full here".to_owned(),
                        false => format!("the disk of node {id} is nearly full"),
                    })
                }
                id if id == me => {
                    let sync = self.changer.disk_space.own_sync().present;
                    let slow = self.prober.is_slow(sync);
                    slow.then(|| format!("a sync takes {} ms here", ms(sync)))
                }
                id if !self.append_reach.reaches(id, window, now) => Some(format!(
                    "node {id} takes no message of the size of an append"
                )),
                id => {
                    let slow = self.append_reach.has_slow_disk(id);
                    slow.then(|| format!("the disk of node {id} is slow"))
                }
            })
            .collect();
        match words.as_slice() {
            [] => "all nodes take appends and their disks work".to_owned(),
            words => words.join("; "),
        }
    }

    fn window(&self) -> Duration {
        self.prober.interval() * REACH_PROBES
    }

    async fn abdicate_if_stalled(&self, metrics: &RaftMetrics<Config>, state: &mut MonitorState) {
        let now = Instant::now();
        let Some(term) = state.term else { return };
        if mutated!(StalledLeaderStays)
            || self.lasting_stall(state, now).is_none()
            || state.transferring_since.is_some()
            || !state.backoff.may_abdicate(now)
            || self.changer.leadership_transfer.has_begun(term)
        {
            return;
        }
        let pause = self.lease * QUESTION_LEASES;
        if state.asked_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        state.asked_at = Some(now);
        self.prober.ask_for_reports().await;
        let Some(to) = self.successor(metrics) else {
            return;
        };
        // The stall may have ended while the others were asked.
        let present = self.changer.raft.metrics().borrow_watched().clone();
        self.observe(&present, state);
        if state.term != Some(term) || self.lasting_stall(state, Instant::now()).is_none() {
            return;
        }
        state.backoff.record(Instant::now());
        self.metrics.abdicated();
        tracing::warn!(
            term,
            to,
            "this leader cannot commit, and the appends of node {to} reach a majority: handing leadership to it"
        );
        let why = TransferReason::CommitsStalled;
        if let Err(error) = self.changer.abdicate(term, to, why).await {
            tracing::warn!(to, %error, "leadership could not be handed over");
        }
    }

    /// Returns the voter with the most of the log among those whose appends reach a majority with working disks.
    fn successor(&self, metrics: &RaftMetrics<Config>) -> Option<u64> {
        let me = self.changer.transport.identity.node_id;
        let now = Instant::now();
        let matched = |id: &u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(id).copied().flatten()
        };
        metrics
            .membership_config
            .voter_ids()
            .filter(|id| {
                *id != me
                    && !self.changer.disk_space.peer_is_low(*id)
                    && (mutated!(AbdicatesToAnyNode)
                        || self
                            .append_reach
                            .peer_reaches_majority(*id, self.window(), now))
            })
            .max_by_key(matched)
    }

    /// Steps down if a transfer of leadership has begun and nobody has taken over. Until then this leader proposes
    /// nothing and sends no heartbeat, and its log may be one that no other node can be elected against.
    async fn leave_failed_transfer(&self, metrics: &RaftMetrics<Config>, state: &mut MonitorState) {
        let Some(term) = state.term else { return };
        if !self.changer.leadership_transfer.has_begun(term) {
            return;
        }
        let since = *state.transferring_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.lease * TAKE_OVER_LEASES || mutated!(FailedTransferKept) {
            return;
        }
        state.transferring_since = Some(Instant::now());
        let me = self.changer.transport.identity.node_id;
        let Some(other) = metrics.membership_config.voter_ids().find(|id| *id != me) else {
            return;
        };
        tracing::warn!(
            term,
            "no node took leadership over: this node steps down and may be elected again"
        );
        // A vote for another node in the next term, as if that node had asked for it with a log that is long enough. A
        // vote may be granted at any time, and no node counts this one unless it campaigns in that term itself.
        let last = log_id(term, u64::MAX);
        let mut vote = VoteRequest::new(Vote::new(term + 1, other), Some(last));
        vote.leadership_transfer = true;
        if let Err(error) = self.changer.raft.vote(vote).await {
            tracing::debug!(%error, "this node could not step down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_abdications_doubles_and_is_reset_after_a_calm_time() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new();
        assert!(backoff.may_abdicate(now));
        for seconds in [5, 10, 20, 40, 80, 160, 320, 640, 640] {
            backoff.record(now);
            let wait = Duration::from_secs(seconds);
            assert!(!backoff.may_abdicate(now + wait - Duration::from_millis(1)));
            now += wait;
            assert!(backoff.may_abdicate(now));
        }
        now += BACKOFF_RESET;
        backoff.record(now);
        assert!(backoff.may_abdicate(now + BACKOFF_MIN));
    }
}
