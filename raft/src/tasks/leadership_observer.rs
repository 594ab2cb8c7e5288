//! Keeps what the node knows of its leader up to date, and tells of every change of it.
//!
//! A change of leadership is one line in the log of each node that sees it, however long it took and whatever was seen on
//! the way, with the cause as far as the node can know it (see [`crate::leadership::change_reason`]). That there is no leader is told besides
//! only when it lasts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;

use crate::apply::applier::{Applied, Raft};
use crate::leadership::change_reason;
use crate::leadership::change_reason::{Cause, Causes};
use crate::leadership::role::{HandOver, Heard, Standing, Suspicion};
use crate::metrics::Measures;
use crate::protocol::identity::Identity;
use crate::state_machine::StateMachine;
use crate::status::Leadership;
use crate::types::{Config, Member};

/// How long there may be no leader, in leases, until that is told.
const UNTOLD_LEASES: u32 = 3;

/// Keeps `standing`, `leadership` and the identity's member list up to date until the node stops.
pub(crate) struct Observer<S: StateMachine> {
    pub raft: Raft<S>,
    pub identity: Arc<Identity>,
    pub applied: watch::Receiver<Applied>,
    pub heard: Arc<Heard>,
    pub hand_over: Arc<HandOver>,
    pub causes: Arc<Causes>,
    pub measures: Arc<Measures>,
    pub lease: Duration,
    pub tick: Duration,
    pub standing: watch::Sender<Standing>,
    pub leadership: watch::Sender<Leadership>,
    pub story: Story,
}

/// What is needed to tell of the next change.
#[derive(Debug)]
pub(crate) struct Story {
    /// The last term and leader that were told.
    last: Option<(u64, u64)>,
    /// Why the last leader is not counted on any more.
    lost: Option<Cause>,
    leaderless_since: Instant,
    /// No leader is known, and that has been told.
    told_leaderless: bool,
    /// When a majority last answered this node as leader.
    acked: Option<Instant>,
}

impl Story {
    pub(crate) fn new() -> Self {
        Story {
            last: None,
            lost: None,
            leaderless_since: Instant::now(),
            told_leaderless: false,
            acked: None,
        }
    }
}

/// What an observer makes of openraft's state: the standing, and why, if it is none to rely on.
type Judged = (Standing, Option<(Cause, String)>);

impl<S: StateMachine> Observer<S> {
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        let mut suspicion = self.heard.suspicion();
        let mut tick = tokio::time::interval(self.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let electing = matches!(*self.standing.borrow(), Standing::Elected { .. });
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
            let (now, why) = self.judge(&seen, suspected);
            let before = self.standing.borrow().clone();
            if now == before {
                self.tell_if_leaderless(&now);
                self.note_acked(&now);
                continue;
            }
            self.tell(&before, &now, why);
            self.note_acked(&now);
            let leadership = now.leadership();
            self.standing.send_replace(now);
            self.leadership.send_if_modified(|current| {
                let news = *current != leadership;
                *current = leadership;
                news
            });
        }
    }

    fn judge(&self, seen: &RaftServerMetrics<Config>, suspected: Option<Suspicion>) -> Judged {
        let term = seen.vote.leader_id.term;
        if seen.state == ServerState::Leader {
            // The vote in the metrics is the one on disk, which may lag behind the state for a moment.
            if !seen.vote.committed || seen.vote.leader_id.voted_for != self.identity.node_id {
                return (self.standing.borrow().clone(), None);
            }
            if self.hand_over.has_begun(term) {
                let why = self.causes.hand_over_of(term).map(Cause::HandedOver);
                let words = "it is handing leadership over".to_owned();
                return (
                    Standing::Unknown { term },
                    Some((why.unwrap_or(Cause::Unknown), words)),
                );
            }
            return match &*self.standing.borrow() {
                leading @ Standing::Leading { term: t, .. } if *t == term => {
                    (leading.clone(), None)
                }
                _ if self.applied.borrow().term == term => (
                    Standing::Leading {
                        term,
                        since: Instant::now(),
                    },
                    None,
                ),
                _ => (Standing::Elected { term }, None),
            };
        }
        let unknown = |cause, words: String| (Standing::Unknown { term }, Some((cause, words)));
        let leader = match seen.current_leader {
            None => return unknown(Cause::Unknown, "an election is going on".into()),
            Some(leader) if leader == self.identity.node_id => {
                return unknown(Cause::NoLeader, "this node has just restarted".into());
            }
            Some(leader) => leader,
        };
        if let Some(suspicion) = suspected.filter(|s| s.term == term) {
            return unknown(Cause::Refused, suspicion.why);
        }
        match self.heard.age() {
            None => {
                return unknown(
                    Cause::NoLeader,
                    format!("node {leader} has not been heard since this node started"),
                );
            }
            Some(age) if age > self.lease => {
                let ms = change_reason::ms(age);
                return unknown(
                    Cause::Silent { ms },
                    format!("node {leader} has not been heard for {ms} ms"),
                );
            }
            Some(_) => {}
        }
        match seen.membership_config.membership().get_node(&leader) {
            Some(member) => (
                Standing::Following {
                    term,
                    leader,
                    addr: member.addr.clone(),
                },
                None,
            ),
            None => unknown(
                Cause::Found,
                format!("node {leader} leads, but its address is not known here yet"),
            ),
        }
    }

    /// Remembers when a majority last answered, while this node leads.
    fn note_acked(&mut self, now: &Standing) {
        if now.own_term().is_none() {
            return;
        }
        let metrics = self.raft.metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        if let Some(acked) = acked {
            let at = Instant::now().checked_sub(acked.into_inner().elapsed());
            if let Some(at) = at {
                self.causes.acked(at);
            }
            self.story.acked = at;
        }
    }

    /// How long a majority had not answered this node, where that is longer than a leader may count on.
    fn unacked(&self) -> Option<Duration> {
        self.story
            .acked
            .map(|at| at.elapsed())
            .filter(|silence| *silence > self.lease)
    }

    fn tell(&mut self, before: &Standing, now: &Standing, why: Option<(Cause, String)>) {
        let me = self.identity.node_id;
        let was_known = matches!(
            before,
            Standing::Leading { .. } | Standing::Following { .. }
        );
        let known = match now {
            Standing::Leading { term, .. } => Some((*term, me)),
            Standing::Following { term, leader, .. } => Some((*term, *leader)),
            Standing::Elected { .. } | Standing::Unknown { .. } => None,
        };
        if was_known {
            self.story.leaderless_since = Instant::now();
            let lost = why.as_ref().map(|(cause, _)| *cause);
            self.story.lost = match before {
                Standing::Leading { .. } => self
                    .unacked()
                    .map(|silence| Cause::LostQuorum {
                        ms: change_reason::ms(silence),
                    })
                    .or(lost),
                Standing::Following { .. }
                | Standing::Elected { .. }
                | Standing::Unknown { .. } => lost,
            }
            // No cause, only what was seen of its consequences.
            .filter(|cause| *cause != Cause::Unknown);
        }
        self.measures.leader_known(known.is_some());
        let Some((term, leader)) = known else {
            if let (true, Some((_, words))) = (was_known, why) {
                tracing::debug!(term = now.term(), "no leader: {words}");
            }
            return;
        };
        let leaderless_ms = change_reason::ms(self.story.leaderless_since.elapsed());
        if self.story.last == Some((term, leader)) {
            tracing::info!(
                term,
                leader,
                leaderless_ms,
                "node {leader} leads on: it was out of touch with this node"
            );
        } else {
            self.tell_change(term, leader, leaderless_ms);
        }
        self.story.last = Some((term, leader));
        self.story.lost = None;
        self.story.told_leaderless = false;
        self.story.acked = None;
    }

    /// The one line of a change.
    fn tell_change(&self, term: u64, new_leader: u64, leaderless_ms: u64) {
        let last = self.story.last;
        let me = self.identity.node_id;
        let cause = self.causes.of(term, new_leader, me, last, self.story.lost);
        let kind = cause.kind();
        self.measures.leader_changed(kind);
        let old_leader = last.map(|(_, leader)| leader);
        let words = cause.words(old_leader);
        let who = if new_leader == me {
            "this node".to_owned()
        } else {
            format!("node {new_leader}")
        };
        let cause = kind.as_str();
        if kind.is_wanted() {
            tracing::info!(
                term,
                new_leader,
                old_leader,
                leaderless_ms,
                cause,
                "leadership changed: {who} leads; {words}"
            );
        } else {
            tracing::warn!(
                term,
                new_leader,
                old_leader,
                leaderless_ms,
                cause,
                "leadership changed: {who} leads; {words}"
            );
        }
    }

    /// That nobody leads is told once it has lasted.
    fn tell_if_leaderless(&mut self, now: &Standing) {
        let leaderless = self.story.leaderless_since.elapsed();
        match now {
            Standing::Leading { .. } | Standing::Following { .. } => return,
            Standing::Elected { .. } | Standing::Unknown { .. } => {}
        }
        // One that waits to be formed or added says so by itself.
        if self.story.told_leaderless
            || self.story.last.is_none()
            || leaderless < self.lease * UNTOLD_LEASES
        {
            return;
        }
        self.story.told_leaderless = true;
        let old_leader = self.story.last.map(|(_, leader)| leader);
        let words = self
            .story
            .lost
            .map_or_else(String::new, |lost| format!(": {}", lost.words(old_leader)));
        tracing::warn!(
            term = now.term(),
            old_leader,
            leaderless_ms = change_reason::ms(leaderless),
            "no leader is known, and none is elected yet{words}"
        );
    }
}
