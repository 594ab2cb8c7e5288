//! Bootstrap: how a node on an empty directory becomes a member, and how one on the wrong directory is refused.
//!
//! *Founding.* Nodes started with the same list send hello messages to each other until each is up. The node with the
//! lowest id waits until it has seen **all** of them, empty and with the same list. It then draws the cluster's id and
//! sends it, with the members and their incarnations, to the others. Each node writes the id to its directory before it
//! takes part, so a crash in between resumes. A node that has the id but no log yet is brought up by the rest. A
//! majority is not enough, because the first disk of a cluster may have been wiped. While the others are down, the
//! wiped node cannot know that there was a cluster. No node is founded by another one than the first of its list.
//!
//! *Joining.* A node waits, empty, until the leader of a cluster adopts it. It accepts only the cluster of the nodes
//! that it was started to join.
//!
//! *Foreign.* A cluster knows its members by id and incarnation. An empty directory under a known id has forgotten its
//! votes, so it must not take part. The node fails with a message that describes how to replace it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::error::{InitializeError, RaftError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::apply::applier::Raft;
use crate::config::BootstrapMode;
use crate::error::StartError;
use crate::fatal::FatalErrorSignal;
use crate::membership::hello::{HelloReply, hello, hello_at, post};
use crate::network::transport::{CallError, Target, Transport};
use crate::protocol::identity::Identity;
use crate::protocol::messages::{Envelope, Refusal};
use crate::state_machine::StateMachine;
use crate::status::{FormingMember, FormingStatus};
use crate::storage::open::Directory;
use crate::types::Member;

/// Interval between two log messages of a waiting node.
const LOG_INTERVAL: Duration = Duration::from_secs(3);
const HELLO_DELAY_MIN: Duration = Duration::from_millis(25);
const HELLO_DELAY_MAX: Duration = Duration::from_millis(500);

fn forming(waiting_for: String, members: BTreeMap<u64, (String, bool)>) -> FormingStatus {
    let members = members
        .into_iter()
        .map(|(id, (addr, answers))| FormingMember { id, addr, answers });
    FormingStatus {
        waiting_for,
        members: members.collect(),
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Form {
    pub cluster: Uuid,
    pub members: BTreeMap<u64, Member>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Adopt {
    pub cluster: Uuid,
}

/// Both sides of bootstrap: the requests of this node, and its answers.
pub(crate) struct Bootstrapper<S: StateMachine> {
    pub identity: Arc<Identity>,
    pub transport: Arc<Transport>,
    pub directory: Arc<Directory>,
    pub raft: Raft<S>,
    pub mode: BootstrapMode,
    pub fatal_error: FatalErrorSignal,
    /// Serializes changes of the cluster id.
    pub cluster_id_lock: tokio::sync::Mutex<()>,
}

enum BootstrapDecision {
    Wait { missing: String },
    Bootstrap,
    Member { cluster: Uuid },
    Foreign(String),
}

impl<S: StateMachine> Bootstrapper<S> {
    pub(crate) fn hello(&self) -> HelloReply {
        HelloReply {
            id: self.identity.node_id,
            incarnation: self.identity.incarnation,
            cluster: self.identity.cluster(),
            members: (*self.identity.members()).clone(),
            founding: self.founding().cloned(),
        }
    }

    fn founding(&self) -> Option<&BTreeMap<u64, String>> {
        match &self.mode {
            BootstrapMode::Static(members) => Some(members),
            BootstrapMode::Join(_) => None,
        }
    }

    /// Handles the founding of the cluster by the node with the lowest id.
    ///
    /// Only that node founds, and it is the one that answers at its address in the list.
    pub(crate) async fn form(&self, form: Form, sender: &Envelope) -> Result<(), Refusal> {
        let Some(founding) = self.founding() else {
            return Err(Refusal::Rule(
                "it was started with --join and waits to be added to a cluster".into(),
            ));
        };
        let named: BTreeMap<u64, String> = form
            .members
            .iter()
            .map(|(id, m)| (*id, m.addr.clone()))
            .collect();
        if named != *founding {
            return Err(Refusal::Rule(
                "it was started with another list of members".into(),
            ));
        }
        let me = &self.identity;
        if form
            .members
            .get(&me.node_id)
            .is_none_or(|m| m.incarnation != me.incarnation)
        {
            return Err(Refusal::OtherIncarnation {
                id: me.node_id,
                incarnation: me.incarnation,
            });
        }
        self.check_founder(&form, founding, sender).await?;
        self.join_cluster(form.cluster).await?;
        self.initialize(form.members).await
    }

    async fn check_founder(
        &self,
        form: &Form,
        founding: &BTreeMap<u64, String>,
        sender: &Envelope,
    ) -> Result<(), Refusal> {
        if mutated!(StrangerFoundsCluster) {
            return Ok(());
        }
        let not_founder = |why: String| Err(Refusal::Rule(why));
        let Some((lowest, addr)) = founding.first_key_value() else {
            return not_founder("it was started without a list of members".into());
        };
        let founder = form.members.get(lowest).map(|member| member.incarnation);
        if sender.from != *lowest || founder != Some(sender.from_incarnation) {
            return not_founder(format!(
                "only node {lowest} of its list may found the cluster"
            ));
        }
        match hello(&self.transport, *lowest, addr).await {
            Ok((reply, _))
                if reply.incarnation == sender.from_incarnation
                    && reply.cluster == Some(form.cluster) =>
            {
                Ok(())
            }
            Ok(_) | Err(_) => not_founder(format!(
                "node {lowest} at {addr} does not confirm that it founds this cluster"
            )),
        }
    }

    /// Handles the announcement that the leader of a cluster is about to add this node.
    pub(crate) async fn adopt(&self, adopt: Adopt) -> Result<(), Refusal> {
        if self.founding().is_some() && self.identity.cluster() != Some(adopt.cluster) {
            return Err(Refusal::Rule(
                "it was started to found a cluster; start it with --join instead".into(),
            ));
        }
        self.check_adopter(adopt.cluster).await?;
        self.join_cluster(adopt.cluster).await
    }

    /// Checks that a cluster that adopts this node is the one that it was started to join.
    async fn check_adopter(&self, cluster: Uuid) -> Result<(), Refusal> {
        let BootstrapMode::Join(addresses) = &self.mode else {
            return Ok(());
        };
        if self.identity.cluster() == Some(cluster) || addresses.is_empty() {
            return Ok(());
        }
        let asked = addresses.iter().map(|addr| hello_at(&self.transport, addr));
        let replies = futures_util::future::join_all(asked).await;
        let clusters: BTreeSet<Uuid> = replies
            .into_iter()
            .filter_map(|reply| reply.ok()?.1.cluster)
            .collect();
        if clusters.contains(&cluster) || mutated!(StrangerFoundsCluster) {
            return Ok(());
        }
        let addresses = addresses.join(", ");
        Err(Refusal::Rule(match clusters.first() {
            Some(other) => format!(
                "it was started to join the cluster of {addresses}, which is {other}; start it with --join and addresses of \
                 cluster {cluster}"
            ),
            None => format!(
                "it was started with --join {addresses}, and no node of a cluster answers there, so it cannot tell whether \
                 this is the cluster to join; start it with --join and addresses of nodes that run"
            ),
        }))
    }

    async fn join_cluster(&self, cluster: Uuid) -> Result<(), Refusal> {
        let _guard = self.cluster_id_lock.lock().await;
        match self.identity.cluster() {
            Some(mine) if mine == cluster => return Ok(()),
            Some(mine) => {
                return Err(Refusal::OtherCluster {
                    mine,
                    yours: cluster,
                });
            }
            None => {}
        }
        let directory = Arc::clone(&self.directory);
        let written = tokio::task::spawn_blocking(move || directory.set_cluster(cluster)).await;
        let error = match written {
            Ok(Ok(())) => {
                self.identity.set_cluster(cluster);
                tracing::info!(%cluster, "this node is part of the cluster now");
                return Ok(());
            }
            Ok(Err(e)) => e.to_string(),
            Err(panic) => panic.to_string(),
        };
        self.fatal_error.set(error.clone());
        Err(Refusal::Stopping(error))
    }

    async fn initialize(&self, members: BTreeMap<u64, Member>) -> Result<(), Refusal> {
        if !self.has_log().await {
            self.transport.levels.record_founding();
        }
        match self.raft.initialize(members).await {
            // The cluster was initialized before, or the leader's entries arrived first.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(e @ InitializeError::NotInMembers(_))) => {
                Err(Refusal::Rule(e.to_string()))
            }
            Err(RaftError::Fatal(e)) => Err(Refusal::Stopping(e.to_string())),
        }
    }

    async fn has_log(&self) -> bool {
        self.raft.is_initialized().await.unwrap_or(true)
    }

    /// Performs one round of hello messages before anything else, so that a node on the wrong directory does not even
    /// start.
    pub(crate) async fn check_not_foreign(&self) -> Result<(), StartError> {
        let Some(founding) = self.founding() else {
            return Ok(());
        };
        let replies = self.hello_all(founding).await;
        if self.has_log().await {
            return match self.foreign_majority(founding, &replies) {
                Some(text) => Err(StartError::Foreign(text)),
                None => Ok(()),
            };
        }
        match self.decide(founding, &replies) {
            BootstrapDecision::Foreign(text) => Err(StartError::Foreign(text)),
            BootstrapDecision::Wait { .. }
            | BootstrapDecision::Bootstrap
            | BootstrapDecision::Member { .. } => Ok(()),
        }
    }

    /// Runs until this node is part of a cluster and has its first log entry.
    pub(crate) async fn run(&self) {
        let mut delay = HELLO_DELAY_MIN;
        let mut last_log = Instant::now() - LOG_INTERVAL + Duration::from_secs(1);
        while !self.has_log().await {
            let mut members =
                BTreeMap::from([(self.identity.node_id, (self.identity.addr.clone(), true))]);
            let missing = match &self.mode {
                BootstrapMode::Join(masters) => {
                    if self.identity.cluster().is_some() {
                        "the leader's first message".to_owned()
                    } else {
                        let hint = match masters.join(", ") {
                            known if known.is_empty() => String::new(),
                            known => {
                                format!(" (send the request to one of the masters at {known})")
                            }
                        };
                        let (id, addr) = (self.identity.node_id, &self.identity.addr);
                        format!("a leader to add node {id} at {addr} to its cluster{hint}")
                    }
                }
                BootstrapMode::Static(founding) => {
                    let replies = self.hello_all(founding).await;
                    members.extend(
                        replies
                            .iter()
                            .map(|(id, reply)| (*id, (founding[id].clone(), reply.is_ok()))),
                    );
                    match self.decide(founding, &replies) {
                        BootstrapDecision::Foreign(text) => return self.fatal_error.set(text),
                        BootstrapDecision::Wait { missing } => missing,
                        BootstrapDecision::Member { cluster } => {
                            match self.join_cluster(cluster).await {
                                Ok(()) => "the leader's first message".to_owned(),
                                Err(refusal) => refusal.to_string(),
                            }
                        }
                        BootstrapDecision::Bootstrap => {
                            match self.bootstrap_cluster(founding, &replies).await {
                                Ok(()) => continue,
                                Err(missing) => missing,
                            }
                        }
                    }
                }
            };
            if last_log.elapsed() >= LOG_INTERVAL {
                tracing::info!("waiting for {missing}");
                last_log = Instant::now();
            }
            self.identity.set_forming(Some(forming(missing, members)));
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(HELLO_DELAY_MAX);
        }
        self.identity.set_forming(None);
        self.check_own_address();
    }

    fn check_own_address(&self) {
        let me = &self.identity;
        if let Some(known) = me.members().get(&me.node_id)
            && known.addr != me.addr
        {
            tracing::warn!(
                "the cluster knows this node at {}, not at {}: the other nodes still connect to the former. To move the node, \
                 remove it and add it again under a new id",
                known.addr,
                me.addr
            );
        }
    }

    async fn hello_all(
        &self,
        founding: &BTreeMap<u64, String>,
    ) -> BTreeMap<u64, Result<HelloReply, CallError>> {
        let others = founding
            .iter()
            .filter(|(id, _)| **id != self.identity.node_id);
        let requests = others.map(|(id, addr)| async {
            let answered = hello(&self.transport, *id, addr).await;
            (*id, answered.map(|(reply, _)| reply))
        });
        futures_util::future::join_all(requests)
            .await
            .into_iter()
            .collect()
    }

    fn decide(
        &self,
        founding: &BTreeMap<u64, String>,
        replies: &BTreeMap<u64, Result<HelloReply, CallError>>,
    ) -> BootstrapDecision {
        let me = &self.identity;
        let mut missing = BTreeSet::new();
        let mut member_of = None;
        for (id, reply) in replies {
            let addr = &founding[id];
            let reply = match reply {
                Ok(reply) => reply,
                Err(CallError::Refused {
                    refusal: Refusal::OtherNode { id: other, .. },
                    ..
                }) => {
                    return BootstrapDecision::Foreign(format!(
                        "the list of members names node {id} at {addr}, but node {other} answers there; correct the list"
                    ));
                }
                Err(CallError::Refused { refusal, .. }) => {
                    missing.insert(format!("node {id} at {addr}, of which {refusal}"));
                    continue;
                }
                Err(
                    CallError::Unreachable { .. }
                    | CallError::Broken { .. }
                    | CallError::NoRoute { .. }
                    | CallError::Timeout { .. },
                ) => {
                    missing.insert(format!("node {id} at {addr}"));
                    continue;
                }
            };
            if let Some(text) = self.cluster_mismatch(*id, addr, reply.cluster) {
                return BootstrapDecision::Foreign(text);
            }
            if let Some(theirs) = reply.cluster.filter(|_| !reply.members.is_empty()) {
                match reply.members.get(&me.node_id) {
                    Some(known) if known.incarnation == me.incarnation => member_of = Some(theirs),
                    Some(_) => {
                        return BootstrapDecision::Foreign(format!(
                            "the cluster knows node {} by another data directory: this one is empty and must not vote in \
                             its place. Start with the old directory; or, if it is lost, remove node {} from the cluster \
                             and start this one with --join and an id that was never used",
                            me.node_id, me.node_id
                        ));
                    }
                    None => {
                        return BootstrapDecision::Foreign(format!(
                            "node {id} at {addr} belongs to a cluster that does not have node {}; start this one with \
                             --join and an id that was never used",
                            me.node_id
                        ));
                    }
                }
            }
            match &reply.founding {
                Some(theirs) if theirs == founding => {}
                Some(_) => {
                    missing.insert(format!(
                        "node {id} at {addr}, which was started with another list of members"
                    ));
                }
                None => {
                    missing.insert(format!(
                        "node {id} at {addr}, which was started with --join instead of --cluster"
                    ));
                }
            }
        }
        if let Some(cluster) = member_of {
            return BootstrapDecision::Member { cluster };
        }
        if !missing.is_empty() {
            let missing: Vec<String> = missing.into_iter().collect();
            return BootstrapDecision::Wait {
                missing: missing.join(", "),
            };
        }
        match founding.keys().next() {
            Some(lowest) if *lowest == me.node_id => BootstrapDecision::Bootstrap,
            Some(lowest) => BootstrapDecision::Wait {
                missing: format!("node {lowest} to found the cluster"),
            },
            None => BootstrapDecision::Wait {
                missing: "a list of members".into(),
            },
        }
    }

    /// Returns the error text if this directory has a log, but most of the list belongs to one other cluster.
    ///
    /// The list may be older than the membership, and one node on a wrong directory must not keep the right ones from
    /// starting. The error therefore takes a majority, and no listed node that knows this directory's cluster.
    fn foreign_majority(
        &self,
        founding: &BTreeMap<u64, String>,
        replies: &BTreeMap<u64, Result<HelloReply, CallError>>,
    ) -> Option<String> {
        let answered = replies
            .iter()
            .filter_map(|(id, reply)| Some((*id, reply.as_ref().ok()?.cluster?)));
        let others: Vec<(u64, Uuid)> = answered
            .filter(|(_, theirs)| Some(*theirs) != self.identity.cluster())
            .collect();
        let known = replies
            .values()
            .flatten()
            .filter_map(|reply| reply.cluster)
            .count();
        let (id, theirs) = *others.first()?;
        let all_same = others.iter().all(|(_, cluster)| *cluster == theirs);
        if known > others.len() || !all_same || others.len() * 2 <= founding.len() {
            return None;
        }
        self.cluster_mismatch(id, &founding[&id], Some(theirs))
    }

    /// Returns the error text if a node of the list belongs to another cluster than this directory.
    fn cluster_mismatch(&self, id: u64, addr: &str, theirs: Option<Uuid>) -> Option<String> {
        let (theirs, mine) = theirs.zip(self.identity.cluster())?;
        (theirs != mine).then(|| {
            format!(
                "this directory belongs to cluster {mine}, but node {id} at {addr} belongs to cluster {theirs}; start \
                 this node with the right directory or the right list"
            )
        })
    }

    /// Founds the cluster once all founding members answer and agree. `Err` names the node that it still waits for.
    async fn bootstrap_cluster(
        &self,
        founding: &BTreeMap<u64, String>,
        replies: &BTreeMap<u64, Result<HelloReply, CallError>>,
    ) -> Result<(), String> {
        let me = &self.identity;
        let mut members = BTreeMap::from([(
            me.node_id,
            Member {
                addr: me.addr.clone(),
                incarnation: me.incarnation,
            },
        )]);
        for (id, reply) in replies {
            let Ok(reply) = reply else {
                return Err(format!("node {id}"));
            };
            members.insert(
                *id,
                Member {
                    addr: founding[id].clone(),
                    incarnation: reply.incarnation,
                },
            );
        }
        let cluster = me.cluster().unwrap_or_else(Uuid::new_v4);
        self.join_cluster(cluster)
            .await
            .map_err(|refusal| refusal.to_string())?;
        let form = Form {
            cluster,
            members: members.clone(),
        };
        let posts = members
            .iter()
            .filter(|(id, _)| **id != me.node_id)
            .map(|(id, member)| {
                let target = Target::member(*id, member);
                let form = &form;
                async move { post(&self.transport, &target, "/raft/form", form).await }
            });
        for outcome in futures_util::future::join_all(posts).await {
            outcome.map_err(|e| e.to_string())?;
        }
        self.initialize(members)
            .await
            .map_err(|refusal| refusal.to_string())?;
        tracing::info!(%cluster, "founded the cluster");
        Ok(())
    }
}
