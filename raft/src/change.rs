//! Changes to the cluster: nodes in and out, leadership from one to another. One change at a time, each by the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::sync::watch;
use uuid::Uuid;

use crate::StateMachine;
use crate::apply::Raft;
use crate::cause::{Causes, HandOverReason};
use crate::error::ChangeError;
use crate::formation::{self, Adopt};
use crate::standing::{HandOver, Standing};
use crate::transport::{Target, Transport};
use crate::types::{Config, Member, Membership};

/// How many entries a learner may lack and still be promoted.
const PROMOTE_LAG_ENTRIES_MAX: u64 = 1_000;

type Done = Result<(), ChangeError>;

pub(crate) struct Changer<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub standing: watch::Receiver<Standing>,
    pub hand_over: Arc<HandOver>,
    pub causes: Arc<Causes>,
    /// How long a change may take before its outcome is told as unknown.
    pub timeout: Duration,
}

impl<S: StateMachine> Clone for Changer<S> {
    fn clone(&self) -> Self {
        Changer {
            raft: self.raft.clone(),
            transport: Arc::clone(&self.transport),
            standing: self.standing.clone(),
            hand_over: Arc::clone(&self.hand_over),
            causes: Arc::clone(&self.causes),
            timeout: self.timeout,
        }
    }
}

fn refused(text: impl Into<String>) -> ChangeError {
    ChangeError::Refused(text.into())
}

impl<S: StateMachine> Changer<S> {
    fn me(&self) -> u64 {
        self.transport.identity.node_id
    }

    fn leading_term(&self) -> Result<u64, ChangeError> {
        match &*self.standing.borrow() {
            Standing::Leading { term, .. } => Ok(*term),
            other => Err(ChangeError::NotLeader {
                leader: other.leader(),
            }),
        }
    }

    fn membership(&self) -> Membership {
        self.raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .membership()
            .clone()
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.membership().voter_ids().collect()
    }

    pub(crate) async fn add_learner(&self, id: u64, addr: String) -> Done {
        self.leading_term()?;
        let cluster = self.transport.identity.cluster().unwrap_or(Uuid::nil());
        let reply = formation::hello(&self.transport, id, &addr)
            .await
            .map_err(|e| refused(format!("{e}")))?;
        let known = self.membership().get_node(&id).cloned();
        match known {
            Some(member) if member.incarnation == reply.incarnation && member.addr == addr => {
                return Ok(());
            }
            Some(member) if member.incarnation == reply.incarnation => {
                return Err(refused(format!(
                    "node {id} is already in the cluster as {}; to move it, remove it and add it under a new id",
                    member.addr
                )));
            }
            Some(_) => {
                return Err(refused(format!(
                    "the cluster knows node {id} by another data directory; remove node {id} and use an id that was never \
                     used"
                )));
            }
            None => {}
        }
        if let Some((taken, _)) = self
            .membership()
            .nodes()
            .find(|(_, member)| member.addr == addr)
        {
            return Err(refused(format!(
                "node {taken} already has the address {addr}"
            )));
        }
        if reply.cluster.is_some_and(|theirs| theirs != cluster) {
            return Err(refused(format!(
                "node {id} at {addr} belongs to another cluster"
            )));
        }
        let target = Target {
            id,
            addr: addr.clone(),
            incarnation: reply.incarnation,
        };
        formation::tell(&self.transport, &target, "/raft/adopt", &Adopt { cluster })
            .await
            .map_err(|e| refused(e.to_string()))?;
        let member = Member {
            addr,
            incarnation: reply.incarnation,
        };
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, member)])))
            .await
    }

    pub(crate) async fn promote(&self, id: u64) -> Done {
        self.leading_term()?;
        if self.membership().get_node(&id).is_none() {
            return Err(ChangeError::UnknownNode(id));
        }
        if self.voters().contains(&id) {
            return Ok(());
        }
        {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|r| r.get(&id).copied().flatten());
            let last = metrics.last_log_index.unwrap_or(0);
            let lag = last.saturating_sub(matched.map_or(0, |matched| matched.index));
            if matched.is_none() || lag > PROMOTE_LAG_ENTRIES_MAX {
                return Err(refused(format!(
                    "node {id} lacks {lag} entries; it can be promoted once it has caught up"
                )));
            }
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])))
            .await
    }

    pub(crate) async fn remove(&self, id: u64) -> Done {
        self.leading_term()?;
        if self.membership().get_node(&id).is_none() {
            return Err(ChangeError::UnknownNode(id));
        }
        let voters = self.voters();
        if voters.contains(&id) && voters.len() == 1 {
            return Err(refused(format!(
                "node {id} is the last voter; a cluster needs one"
            )));
        }
        if id == self.me() {
            // Leadership first: a leader that removes itself would lead a cluster it is not part of.
            self.transfer_leader(None, HandOverReason::Removal).await?;
            return Err(ChangeError::NotLeader {
                leader: self.standing.borrow().leader(),
            });
        }
        if voters.contains(&id) {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
                .await
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                .await
        }
    }

    async fn change(&self, members: ChangeMembers<u64, Member>) -> Done {
        let changing = self.raft.change_membership(members, false);
        match tokio::time::timeout(self.timeout, changing).await {
            Err(_) => Err(ChangeError::Unknown(format!(
                "no outcome within {} ms",
                self.timeout.as_millis()
            ))),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(e))) => Err(ChangeError::Unknown(e.to_string())),
            Ok(Err(RaftError::APIError(e))) => Err(self.explain(e)),
        }
    }

    fn explain(&self, e: ClientWriteError<Config>) -> ChangeError {
        match e {
            ClientWriteError::ForwardToLeader(f) => ChangeError::NotLeader {
                leader: f.leader_id.zip(f.leader_node.map(|member| member.addr)),
            },
            e @ ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown(e.to_string()),
            ClientWriteError::PreconditionFailed(e) => refused(e.to_string()),
            ClientWriteError::ChangeMembershipError(e) => match e {
                ChangeMembershipError::InProgress(_) => {
                    refused("another change of the cluster is under way; wait until it is done")
                }
                ChangeMembershipError::UncommittedLeaderLog(_) => {
                    refused("the leader was elected a moment ago; try again")
                }
                ChangeMembershipError::LearnerNotFound(e) => ChangeError::UnknownNode(e.node_id),
                e @ (ChangeMembershipError::EmptyMembership(_)
                | ChangeMembershipError::UnsupportedMembershipTransition(_)
                | ChangeMembershipError::NodeMetadataChanged(_)) => refused(e.to_string()),
            },
        }
    }

    /// Hands leadership to `to`, or to the voter that has the most of the log, and waits until it leads.
    pub(crate) async fn transfer_leader(&self, to: Option<u64>, why: HandOverReason) -> Done {
        let term = self.leading_term()?;
        let to = match to {
            Some(to) if to == self.me() => return Ok(()),
            Some(to) => to,
            None => self.best_successor()?,
        };
        if self.membership().get_node(&to).is_none() {
            return Err(ChangeError::UnknownNode(to));
        }
        if !self.voters().contains(&to) {
            return Err(refused(format!("node {to} is a learner; promote it first")));
        }
        let unheard = self.unheard_for(to);
        if unheard.is_none_or(|unheard| unheard > self.transport.timing.lease()) {
            return Err(refused(format!(
                "node {to} does not answer; leadership stays here"
            )));
        }
        self.causes.hand_over(term, to, why);
        self.hand_over.begin(term);
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|e| ChangeError::Unknown(e.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        let mut standing = self.standing.clone();
        let moved = standing.wait_for(|s| match s {
            Standing::Leading { term: t, .. } | Standing::Elected { term: t } => *t != term,
            Standing::Following { term: t, .. } => *t > term,
            Standing::Unknown { .. } => false,
        });
        match tokio::time::timeout_at(deadline.into(), moved).await {
            Ok(Ok(standing)) => match &*standing {
                Standing::Following { leader, .. } if *leader == to => Ok(()),
                Standing::Following { leader, .. } => Err(ChangeError::Unknown(format!(
                    "node {leader} was elected instead of node {to}"
                ))),
                Standing::Leading { .. } | Standing::Elected { .. } | Standing::Unknown { .. } => {
                    Err(ChangeError::Unknown(format!(
                        "node {to} did not take over; this node was elected again"
                    )))
                }
            },
            Ok(Err(_)) => Err(ChangeError::Unknown("the node is shutting down".into())),
            Err(_) => Err(ChangeError::Unknown(format!(
                "no leader within {} ms",
                self.timeout.as_millis()
            ))),
        }
    }

    fn unheard_for(&self, id: u64) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref()?.get(&id).copied().flatten()?;
        Some(heard.into_inner().elapsed())
    }

    fn best_successor(&self) -> Result<u64, ChangeError> {
        let lease = self.transport.timing.lease();
        let metrics = self.raft.metrics().borrow_watched().clone();
        let matched = |id: &u64| {
            metrics
                .replication
                .as_ref()
                .and_then(|r| r.get(id).copied().flatten())
        };
        self.voters()
            .into_iter()
            .filter(|id| {
                *id != self.me()
                    && self
                        .unheard_for(*id)
                        .is_some_and(|unheard| unheard <= lease)
            })
            .max_by_key(matched)
            .ok_or_else(|| refused("no other voter answers; leadership stays here"))
    }
}
