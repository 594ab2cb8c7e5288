//! Membership changes and leadership transfers: one change at a time, each by the leader.

mod level_raise;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, Instant as _};
use tokio::sync::watch;
use triarch_storage::SpaceLevel;
use uuid::Uuid;

use crate::apply::applier::Raft;
use crate::apply::used_node_ids::UsedNodeIds;
use crate::error::ChangeError;
use crate::leadership::change_reason::{LeaderChangeReasons, TransferReason};
use crate::leadership::role::{LeadershipTransfer, RaftRole};
use crate::level::{Level, NodeVersion};
use crate::membership::bootstrap::Adopt;
use crate::membership::hello;
use crate::network::transport::{CallError, Target, Transport};
use crate::node_address::NodeAddress;
use crate::protocol::messages::{Refusal, TransferRequestV1};
use crate::state_machine::StateMachine;
use crate::storage::disk_space::ClusterDiskSpace;
use crate::types::{Config, Member, Membership, Vote};

pub(crate) use level_raise::RaiseTo;

/// Maximum number of entries a learner may lack and still be promoted.
const PROMOTE_LAG_ENTRIES_MAX: u64 = 1_000;
/// Maximum time for a voter to answer before a change that counts on it is refused, in leases.
const ANSWER_TIMEOUT_LEASES: u32 = 4;
/// Interval between two checks while a change waits for nodes to answer.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const CHANGE_IN_PROGRESS: &str =
    "another change of the members is in progress; retry when it is done";

type ChangeResult = Result<(), ChangeError>;

pub(crate) struct MembershipChanger<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub used_ids: UsedNodeIds,
    pub role: watch::Receiver<RaftRole>,
    pub leadership_transfer: Arc<LeadershipTransfer>,
    pub change_reasons: Arc<LeaderChangeReasons>,
    pub disk_space: Arc<ClusterDiskSpace>,
    /// Maximum duration of a change before its outcome is reported as unknown.
    pub timeout: Duration,
    /// Held from the checks of a change to its end, so that the checks still hold then.
    pub change_lock: Arc<tokio::sync::Mutex<()>>,
}

impl<S: StateMachine> Clone for MembershipChanger<S> {
    fn clone(&self) -> Self {
        MembershipChanger {
            raft: self.raft.clone(),
            transport: Arc::clone(&self.transport),
            used_ids: self.used_ids.clone(),
            role: self.role.clone(),
            leadership_transfer: Arc::clone(&self.leadership_transfer),
            change_reasons: Arc::clone(&self.change_reasons),
            disk_space: Arc::clone(&self.disk_space),
            timeout: self.timeout,
            change_lock: Arc::clone(&self.change_lock),
        }
    }
}

fn refused(text: impl Into<String>) -> ChangeError {
    ChangeError::Refused(text.into())
}

fn too_old(id: u64, addr: &str, version: &NodeVersion, needed: Level) -> ChangeError {
    ChangeError::TooOld {
        id,
        addr: addr.to_owned(),
        program: version.to_string(),
        level: version.level.number(),
        needed: needed.number(),
    }
}

/// Logs the failure of a change that a background task tries again. A node that no longer leads has nothing to finish.
pub(crate) fn log_unfinished(error: &ChangeError, change: &str) {
    match error {
        ChangeError::NotLeader { .. } => {}
        ChangeError::Refused(_)
        | ChangeError::TooOld { .. }
        | ChangeError::LevelUnknown { .. }
        | ChangeError::Unconfirmed { .. }
        | ChangeError::UnknownNode(_)
        | ChangeError::Unknown(_) => tracing::debug!(%error, "{change} is not finished yet"),
    }
}

impl<S: StateMachine> MembershipChanger<S> {
    fn me(&self) -> u64 {
        self.transport.identity.node_id
    }

    fn leading_term(&self) -> Result<u64, ChangeError> {
        match &*self.role.borrow() {
            RaftRole::Leading { term, .. } => Ok(*term),
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

    /// Returns the learners, which are on their way in.
    fn learners(&self, membership: &Membership) -> Vec<u64> {
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let ids = membership.nodes().map(|(id, _)| *id);
        ids.filter(|id| !voters.contains(id)).collect()
    }

    /// Refuses a change while a node other than `id` is still joining, because members change one at a time.
    fn check_no_other_learner(&self, id: u64) -> ChangeResult {
        let membership = self.membership();
        let Some(other) = self
            .learners(&membership)
            .into_iter()
            .find(|one| *one != id)
        else {
            return Ok(());
        };
        let addr = membership
            .get_node(&other)
            .map_or("", |member| &member.addr);
        Err(refused(format!(
            "node {other} at {addr} is still joining, and members change one at a time: wait until it is a voter, or remove \
             it"
        )))
    }

    pub(crate) async fn add(&self, id: u64, addr: NodeAddress) -> ChangeResult {
        self.leading_term()?;
        let addr = addr.to_string();
        let _guard = self.change_lock.lock().await;
        let cluster = self.transport.identity.cluster().unwrap_or(Uuid::nil());
        let membership = self.membership();
        let known = membership.get_node(&id).cloned();
        if known.is_none() && self.used_ids.contains(id) {
            return Err(refused(format!(
                "a node {id} was in this cluster before, and no id is used twice: start the new node with --id {}",
                self.used_ids.next_free()
            )));
        }
        let (reply, version) = match hello::hello(&self.transport, id, &addr).await {
            Ok(answered) => answered,
            // A node that is a member already may be away for a moment.
            Err(_) if known.as_ref().is_some_and(|known| known.addr == addr) => return Ok(()),
            Err(CallError::Refused {
                refusal: refusal @ (Refusal::OtherNode { .. } | Refusal::Stopping(_)),
                ..
            }) => {
                return Err(refused(format!(
                    "node {id} does not wait at {addr}: {refusal}; start it there first, with --id {id} and --join"
                )));
            }
            // A client learns neither what listens at an address nor what it answers. The operator finds it in the log.
            Err(e) => {
                tracing::warn!(id, addr, "node {id} is not added: {e}");
                return Err(refused(format!(
                    "nothing at {addr} answers as node {id} of Triarch; start it there first, with --id {id} and --join. The \
                     log of this node has the cause"
                )));
            }
        };
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
                     used, such as {}",
                    self.used_ids.next_free()
                )));
            }
            None => {}
        }
        if let Some((taken, _)) = membership.nodes().find(|(_, member)| member.addr == addr) {
            return Err(refused(format!(
                "node {taken} already has the address {addr}"
            )));
        }
        if reply.cluster.is_some_and(|theirs| theirs != cluster) {
            return Err(refused(format!(
                "node {id} at {addr} belongs to another cluster; start it with an empty data directory"
            )));
        }
        self.check_no_other_learner(id)?;
        let needed = self.transport.levels.required();
        if version.level < needed && !mutated!(OlderNodeAdded) {
            return Err(too_old(id, &addr, &version, needed));
        }
        let target = Target {
            id,
            addr: addr.clone(),
            incarnation: reply.incarnation,
        };
        hello::post(&self.transport, &target, "/raft/adopt", &Adopt { cluster })
            .await
            .map_err(|e| match e {
                CallError::Refused { refusal, .. } => {
                    refused(format!("node {id} at {} refuses: {refusal}", target.addr))
                }
                e => {
                    tracing::warn!(id, addr = %target.addr, "node {id} is not added: {e}");
                    refused(format!(
                        "node {id} at {} did not answer in time; ask again",
                        target.addr
                    ))
                }
            })?;
        let member = Member {
            addr,
            incarnation: reply.incarnation,
        };
        self.change_membership(ChangeMembers::AddNodes(BTreeMap::from([(id, member)])))
            .await?;
        tracing::info!(id, addr = %target.addr, "node {id} joins as a learner");
        Ok(())
    }

    /// Finishes a change that was left half done, and promotes the learners that have caught up.
    pub(crate) async fn reconcile(&self) -> ChangeResult {
        self.leading_term()?;
        let _guard = self.change_lock.lock().await;
        let membership = self.membership();
        if membership.get_joint_config().len() > 1 {
            // The empty set adds nothing: only the second step remains.
            self.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()))
                .await?;
            tracing::info!("an unfinished change of the members was completed");
            return Ok(());
        }
        for id in self.learners(&membership) {
            if self.has_caught_up(id) || mutated!(LearnerPromotedAtOnce) {
                self.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id])))
                    .await?;
                tracing::info!(id, "node {id} has caught up and is a voter now");
            }
        }
        Ok(())
    }

    fn has_caught_up(&self, id: u64) -> bool {
        let lease = self.transport.timing.lease();
        if self.silence_of(id).is_none_or(|silence| silence > lease) {
            return false;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref();
        let matched = replication.and_then(|r| r.get(&id).copied().flatten());
        let last = metrics.last_log_index.unwrap_or(0);
        matched.is_some_and(|matched| last.saturating_sub(matched.index) <= PROMOTE_LAG_ENTRIES_MAX)
    }

    pub(crate) async fn remove(&self, id: u64) -> ChangeResult {
        self.leading_term()?;
        let _guard = self.change_lock.lock().await;
        if self.membership().get_node(&id).is_none() {
            return if self.used_ids.contains(id) {
                Ok(())
            } else {
                Err(ChangeError::UnknownNode(id))
            };
        }
        let voters = self.voters();
        if !voters.contains(&id) {
            return self
                .change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                .await;
        }
        if voters.len() == 1 {
            return Err(refused(format!(
                "node {id} is the last voter, and a cluster needs one: add another before you remove it"
            )));
        }
        self.check_no_other_learner(id)?;
        self.check_majority_without(id, &voters).await?;
        if id == self.me() {
            // Leadership moves first, because a leader that removes itself would lead a cluster it is not part of.
            self.transfer_leader(None, TransferReason::Removal).await?;
            return Err(ChangeError::NotLeader {
                leader: self.role.borrow().leader(),
            });
        }
        self.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
            .await
    }

    /// Checks that the remaining voters can commit: more than half of them must answer. A voter that died a moment ago
    /// has been heard within the lease, so only answers from now on count.
    async fn check_majority_without(&self, id: u64, voters: &BTreeSet<u64>) -> ChangeResult {
        let begun = Instant::now();
        let deadline = begun + self.transport.timing.lease() * ANSWER_TIMEOUT_LEASES;
        let left: Vec<u64> = voters.iter().copied().filter(|one| *one != id).collect();
        loop {
            let answers = |one: u64| {
                let silence = self.silence_of(one);
                one == self.me() || silence.is_some_and(|silence| silence < begun.elapsed())
            };
            let silent: Vec<u64> = left.iter().copied().filter(|one| !answers(*one)).collect();
            let answering = left.len() - silent.len();
            if answering * 2 > left.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let names: Vec<String> = silent.iter().map(|one| format!("node {one}")).collect();
                return Err(refused(format!(
                    "without node {id}, only {answering} of the {} voters left would answer, and that is no majority: nothing \
                     could be written any more. {} must come back, or be replaced, before",
                    left.len(),
                    names.join(" and ")
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns whether the latest change is not committed yet. The next change has to wait for it.
    fn change_in_progress(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        *metrics.membership_config.log_id() > metrics.local_committed
    }

    async fn change_membership(&self, members: ChangeMembers<u64, Member>) -> ChangeResult {
        if self.change_in_progress() {
            return Err(refused(CHANGE_IN_PROGRESS));
        }
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
                ChangeMembershipError::InProgress(_) => refused(CHANGE_IN_PROGRESS),
                ChangeMembershipError::UncommittedLeaderLog(_) => {
                    refused("the leader was elected a moment ago; retry")
                }
                ChangeMembershipError::LearnerNotFound(e) => ChangeError::UnknownNode(e.node_id),
                e @ (ChangeMembershipError::EmptyMembership(_)
                | ChangeMembershipError::UnsupportedMembershipTransition(_)
                | ChangeMembershipError::NodeMetadataChanged(_)) => refused(e.to_string()),
            },
        }
    }

    /// Transfers leadership to `to`, and waits until it leads. Default: the voter with disk space that has the most of
    /// the log.
    pub(crate) async fn transfer_leader(
        &self,
        to: Option<u64>,
        why: TransferReason,
    ) -> ChangeResult {
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
            return Err(refused(format!(
                "node {to} is still joining: it can lead once it is a voter"
            )));
        }
        let silence = self.silence_of(to);
        if silence.is_none_or(|silence| silence > self.transport.timing.lease()) {
            return Err(refused(format!(
                "node {to} does not answer; leadership stays here"
            )));
        }
        if self.disk_space.peer_is_low(to) && self.disk_space.own().level == SpaceLevel::Ample {
            return Err(refused(format!(
                "the disk of node {to} is nearly full, so it would take no writes; leadership stays here"
            )));
        }
        self.change_reasons.record_transfer(term, to, why);
        self.leadership_transfer.begin(term);
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|e| ChangeError::Unknown(e.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        let mut role = self.role.clone();
        let moved = role.wait_for(|s| match s {
            RaftRole::Leading { term: t, .. } | RaftRole::Elected { term: t } => *t != term,
            RaftRole::Following { term: t, .. } => *t > term,
            RaftRole::Unknown { .. } => false,
        });
        match tokio::time::timeout_at(deadline.into(), moved).await {
            Ok(Ok(role)) => match &*role {
                RaftRole::Following { leader, .. } if *leader == to => Ok(()),
                RaftRole::Following { leader, .. } => Err(ChangeError::Unknown(format!(
                    "node {leader} was elected instead of node {to}"
                ))),
                RaftRole::Leading { .. } | RaftRole::Elected { .. } | RaftRole::Unknown { .. } => {
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

    /// Hands leadership in `term` to `to` without waiting for the outcome. Used by a leader that cannot commit, so its last
    /// entries may be on no other node. The successor does not wait for them, and other nodes may lead without them,
    /// because nothing beyond the commit index was acknowledged.
    pub(crate) async fn abdicate(&self, term: u64, to: u64, why: TransferReason) -> ChangeResult {
        let unknown = |e: &dyn std::fmt::Display| ChangeError::Unknown(e.to_string());
        let membership = self.membership();
        let Some(member) = membership.get_node(&to) else {
            return Err(ChangeError::UnknownNode(to));
        };
        let matched = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let replication = metrics.replication.as_ref();
            replication.and_then(|to_whom| to_whom.get(&to).copied().flatten())
        };
        self.change_reasons.record_transfer(term, to, why);
        self.leadership_transfer.begin(term);
        // From here on this node proposes nothing, sends no heartbeat, and asks all others to elect.
        let begun = self.raft.trigger().transfer_leader(to).await;
        begun.map_err(|e| unknown(&e))?;
        let request = TransferLeaderRequest::new(Vote::new_committed(term, self.me()), to, matched);
        let (target, body) = (
            Target::member(to, member),
            TransferRequestV1::new(&request, Some(why)),
        );
        let deadline = self.transport.timing.lease();
        self.transport
            .call_with_reason(&target, "/raft/transfer", &body, why.in_header(), deadline)
            .await
            .map(|_| ())
            .map_err(|e| unknown(&e))
    }

    fn silence_of(&self, id: u64) -> Option<Duration> {
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
                *id != self.me() && self.silence_of(*id).is_some_and(|silence| silence <= lease)
            })
            .max_by_key(|id| (!self.disk_space.peer_is_low(*id), matched(id)))
            .ok_or_else(|| refused("no other voter answers; leadership stays here"))
    }
}
