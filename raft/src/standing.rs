//! Who leads, worked out from openraft's state, from what was applied, and from what was heard.
//!
//! openraft calls a node leader from the moment it wins the vote, and goes on naming a dead leader until another is
//! elected. Both are too early or too late for those who route requests, so: a node *leads* once an entry of its own term
//! is applied here (then a quorum has confirmed it, and every earlier entry is applied too); and a leader that has not
//! been heard for the length of its lease, or whose connections are refused, is no longer named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::StateMachine;
use crate::apply::{Applied, Raft};
use crate::identity::Identity;
use crate::status::Leadership;
use crate::types::Member;

/// [`Leadership`], and the moment between being elected and leading.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Standing {
    Leading {
        term: u64,
        since: Instant,
    },
    Elected {
        term: u64,
    },
    Following {
        term: u64,
        leader: u64,
        addr: String,
    },
    Unknown {
        term: u64,
    },
}

impl Standing {
    pub(crate) fn leadership(&self) -> Leadership {
        match self {
            Standing::Leading { term, since } => Leadership::Leading {
                term: *term,
                since: *since,
            },
            Standing::Elected { term } | Standing::Unknown { term } => {
                Leadership::Unknown { term: *term }
            }
            Standing::Following { term, leader, addr } => Leadership::Following {
                term: *term,
                leader: *leader,
                addr: addr.clone(),
            },
        }
    }

    /// Where to ask instead.
    pub(crate) fn leader(&self) -> Option<(u64, String)> {
        match self {
            Standing::Following { leader, addr, .. } => Some((*leader, addr.clone())),
            Standing::Leading { .. } | Standing::Elected { .. } | Standing::Unknown { .. } => None,
        }
    }

    /// The term this node was elected in, confirmed or not.
    pub(crate) fn own_term(&self) -> Option<u64> {
        match self {
            Standing::Leading { term, .. } | Standing::Elected { term } => Some(*term),
            Standing::Following { .. } | Standing::Unknown { .. } => None,
        }
    }
}

/// When the leader was last heard, and whether its connections are known to be broken.
#[derive(Debug)]
pub(crate) struct Heard {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 for never.
    at: AtomicU64,
    suspicion: watch::Sender<Option<Suspicion>>,
}

/// The term in which this node has begun to hand leadership over. From then on its followers may elect another at any
/// moment, whatever its lease says, so it must not pass for leader any more.
#[derive(Debug, Default)]
pub(crate) struct HandOver {
    term: AtomicU64,
}

impl HandOver {
    pub(crate) fn begin(&self, term: u64) {
        self.term.fetch_max(term, Ordering::SeqCst);
    }

    pub(crate) fn has_begun(&self, term: u64) -> bool {
        self.term.load(Ordering::SeqCst) >= term
    }
}

/// Why the leader of `term` is taken for gone before its lease is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspicion {
    pub term: u64,
    pub why: String,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Heard {
            start: Instant::now(),
            at: AtomicU64::new(0),
            suspicion: watch::Sender::new(None),
        }
    }

    pub(crate) fn now(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.at.store(ms + 1, Ordering::Relaxed);
    }

    fn age(&self) -> Option<Duration> {
        match self.at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(
                self.start
                    .elapsed()
                    .saturating_sub(Duration::from_millis(at - 1)),
            ),
        }
    }

    pub(crate) fn suspect(&self, suspicion: Suspicion) {
        self.suspicion.send_if_modified(|current| {
            let news = current.as_ref() != Some(&suspicion);
            *current = Some(suspicion);
            news
        });
    }

    pub(crate) fn clear_suspicion(&self) {
        self.suspicion
            .send_if_modified(|current| current.take().is_some());
    }
}

/// Keeps `standing`, `leadership` and the identity's member list up to date until the node stops.
pub(crate) struct Observer<S: StateMachine> {
    pub raft: Raft<S>,
    pub identity: Arc<Identity>,
    pub applied: watch::Receiver<Applied>,
    pub heard: Arc<Heard>,
    pub hand_over: Arc<HandOver>,
    pub lease: Duration,
    pub tick: Duration,
    pub standing: watch::Sender<Standing>,
    pub leadership: watch::Sender<Leadership>,
}

impl<S: StateMachine> Observer<S> {
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        let mut suspicion = self.heard.suspicion.subscribe();
        let mut tick = tokio::time::interval(self.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leaderless_since = Instant::now();
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
                continue;
            }
            self.log(&before, &now, &why, leaderless_since);
            if matches!(
                before,
                Standing::Leading { .. } | Standing::Following { .. }
            ) {
                leaderless_since = Instant::now();
            }
            let leadership = now.leadership();
            self.standing.send_replace(now);
            self.leadership.send_if_modified(|current| {
                let news = *current != leadership;
                *current = leadership;
                news
            });
        }
    }

    fn judge(
        &self,
        seen: &openraft::metrics::RaftServerMetrics<crate::types::Config>,
        suspected: Option<Suspicion>,
    ) -> (Standing, String) {
        let term = seen.vote.leader_id.term;
        if seen.state == ServerState::Leader {
            // The vote in the metrics is the one on disk, which may lag behind the state for a moment.
            if !seen.vote.committed || seen.vote.leader_id.voted_for != self.identity.node_id {
                return (self.standing.borrow().clone(), String::new());
            }
            if self.hand_over.has_begun(term) {
                return (
                    Standing::Unknown { term },
                    "leadership is being handed over".into(),
                );
            }
            return match &*self.standing.borrow() {
                leading @ Standing::Leading { term: t, .. } if *t == term => {
                    (leading.clone(), String::new())
                }
                _ if self.applied.borrow().term == term => (
                    Standing::Leading {
                        term,
                        since: Instant::now(),
                    },
                    "elected, and confirmed by a quorum".into(),
                ),
                _ => (Standing::Elected { term }, "won the vote".into()),
            };
        }
        let unknown = |why: String| (Standing::Unknown { term }, why);
        let leader = match seen.current_leader {
            None => return unknown("an election is going on".into()),
            Some(leader) if leader == self.identity.node_id => {
                return unknown("this node has just restarted".into());
            }
            Some(leader) => leader,
        };
        if let Some(suspicion) = suspected.filter(|s| s.term == term) {
            return unknown(suspicion.why);
        }
        match self.heard.age() {
            None => {
                return unknown(format!(
                    "node {leader} has not been heard since this node started"
                ));
            }
            Some(age) if age > self.lease => {
                return unknown(format!(
                    "node {leader} has not been heard for {} ms",
                    age.as_millis()
                ));
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
                "it was elected".into(),
            ),
            None => unknown(format!(
                "node {leader} leads, but its address is not known here yet"
            )),
        }
    }

    fn log(&self, before: &Standing, now: &Standing, why: &str, leaderless_since: Instant) {
        let leaderless_ms = leaderless_since.elapsed().as_millis() as u64;
        match now {
            Standing::Leading { term, .. } => {
                tracing::info!(term, leaderless_ms, "this node leads: {why}")
            }
            Standing::Following { term, leader, addr } => match before {
                Standing::Leading { .. } | Standing::Elected { .. } => {
                    tracing::warn!(term, leader, %addr, "this node no longer leads: node {leader} was elected");
                }
                Standing::Following { .. } | Standing::Unknown { .. } => {
                    tracing::info!(term, leader, %addr, "node {leader} leads: {why}");
                }
            },
            Standing::Unknown { term } => match before {
                Standing::Leading { .. } => {
                    tracing::warn!(term, "this node no longer leads: {why}")
                }
                Standing::Following { leader, .. } => {
                    tracing::warn!(term, "node {leader} no longer leads: {why}")
                }
                Standing::Elected { .. } | Standing::Unknown { .. } => {
                    tracing::debug!(term, "no leader: {why}")
                }
            },
            Standing::Elected { term } => tracing::debug!(term, "this node is elected: {why}"),
        }
    }
}
