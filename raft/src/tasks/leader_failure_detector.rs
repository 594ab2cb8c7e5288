//! Noticing within milliseconds that the leader's process is gone.
//!
//! Each follower holds one idle connection to the leader. When a process dies, its kernel resets or closes the
//! connection, and refuses the next. Then the followers, in turns, ask openraft to campaign with a pre-vote: refused at no
//! cost while the leader's lease runs, granted at the first turn after it. So a crash costs the rest of the lease, and not
//! the random wait that a silent leader costs.
//!
//! A wrong guess is harmless: a pre-vote changes no term, and a leader that a quorum still hears is protected by its
//! lease. The campaign ends when a leader is known again, when the old one answers, when somebody campaigns in earnest, or
//! after a few election timeouts; then ordinary elections are on their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use triarch_storage::SpaceLevel;

use crate::apply::applier::Raft;
use crate::leadership::role::{Heard, Suspicion};
use crate::network::transport::{CallError, Target, Transport};
use crate::state_machine::StateMachine;
use crate::storage::disk_space::Rooms;

/// The leader this node follows, as openraft names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watched {
    term: u64,
    leader: u64,
    addr: String,
    incarnation: uuid::Uuid,
    /// The voters other than the leader, in the order of their turns.
    turns: Vec<u64>,
}

pub(crate) struct Watcher<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub heard: Arc<Heard>,
    /// No campaigns before: see [`crate::node::handle`].
    pub elections_from: Instant,
    pub rooms: Arc<Rooms>,
    pub stopping: watch::Receiver<bool>,
}

impl<S: StateMachine> Watcher<S> {
    pub(crate) async fn run(mut self) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = self.watch() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn watch(&mut self) {
        let mut server = self.raft.server_metrics();
        let patience = Duration::from_millis(self.transport.timing.election_max_ms);
        let mut broken_in_a_row = 0;
        loop {
            let Some(watched) = self.watched() else {
                if server.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.transport.open_watch(&target(&watched)).await {
                Ok(response) => {
                    broken_in_a_row = 0;
                    self.heard.clear_suspicion();
                    tokio::select! {
                        () = drain(response) => {}
                        () = self.changed(&watched) => {}
                    }
                }
                Err(CallError::Unreachable { why, .. }) => {
                    self.campaign(&watched, &why).await;
                    tokio::select! {
                        () = tokio::time::sleep(patience) => {}
                        () = self.changed(&watched) => {}
                    }
                }
                Err(
                    CallError::Broken { .. }
                    | CallError::Timeout { .. }
                    | CallError::Refused { .. },
                ) => {
                    // Perhaps its process is just ending: the next attempt will be refused.
                    broken_in_a_row += 1;
                    let pause = if broken_in_a_row <= 5 {
                        Duration::from_millis(2)
                    } else {
                        patience
                    };
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.changed(&watched) => {}
                    }
                }
            }
        }
    }

    fn watched(&self) -> Option<Watched> {
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
        let mut turns: Vec<u64> = membership.voter_ids().filter(|id| *id != leader).collect();
        turns.sort_unstable();
        turns.dedup();
        Some(Watched {
            term: seen.vote.leader_id.term,
            leader,
            addr: member.addr.clone(),
            incarnation: member.incarnation,
            turns,
        })
    }

    /// Ends when another leader (or none, or another address) is to be watched.
    async fn changed(&self, watched: &Watched) {
        let mut server = self.raft.server_metrics();
        while self.watched().as_ref() == Some(watched) {
            if server.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn campaign(&self, watched: &Watched, why: &str) {
        let timing = &self.transport.timing;
        let me = self.transport.identity.node_id;
        self.heard.suspect(Suspicion {
            term: watched.term,
            why: format!("its connections are refused ({why})"),
        });
        let Some(my_turn) = watched.turns.iter().position(|id| *id == me) else {
            return;
        };
        let end = Instant::now() + Duration::from_millis(timing.election_max_ms * 4);
        let mut turn = tokio::time::interval(Duration::from_millis(timing.watch_turn_ms));
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        for round in 0_usize.. {
            turn.tick().await;
            if Instant::now() >= end || self.watched().as_ref() != Some(watched) {
                return;
            }
            // Somebody has left the pre-vote behind and campaigns: do not get in between.
            if self.raft.metrics().borrow_watched().current_term != watched.term {
                continue;
            }
            if Instant::now() < self.elections_from {
                continue;
            }
            // One that could take no writes leaves it to the others.
            if self.rooms.own().level != SpaceLevel::Ample {
                continue;
            }
            if round % watched.turns.len() == my_turn {
                if self.raft.trigger().elect(true).await.is_err() {
                    return;
                }
            } else if round % 8 == 7 && self.transport.open_watch(&target(watched)).await.is_ok() {
                return;
            }
        }
    }
}

fn target(watched: &Watched) -> Target {
    Target {
        id: watched.leader,
        addr: watched.addr.clone(),
        incarnation: watched.incarnation,
    }
}

/// Reads until the other end is gone.
async fn drain(mut response: reqwest::Response) {
    while let Ok(Some(_)) = response.chunk().await {}
}
