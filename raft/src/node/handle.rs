//! Handle of a node: proposals, reads, membership changes and status for the rest of the program.
//!
//! `start` assembles a node, and decides when it may vote and campaign again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::apply::applier::{Applied, Raft};
use crate::config::{NodeConfig, Timing};
use crate::error::{ChangeError, ProposeError, ReadError};
use crate::fatal::FatalErrorSignal;
use crate::leadership::catch_up::CatchUp;
use crate::leadership::change_reason::TransferReason;
use crate::leadership::role::{LeaderContact, LeadershipTransfer, RaftRole};
use crate::level::Level;
use crate::membership::changes::{MembershipChanger, RaiseTo};
use crate::metrics::ConsensusMetrics;
use crate::node::peer_questions;
use crate::node::peer_server;
use crate::node::peer_server::PeerService;
use crate::node::snapshot_receiver;
use crate::node::status_report;
use crate::node_address::NodeAddress;
use crate::proposals::batcher::Proposer;
use crate::proposals::committed::Committed;
use crate::proposals::options::ProposeOptions;
use crate::proposals::piggyback::{PiggybackDispatcher, PiggybackSource};
use crate::proposals::read_index;
use crate::proposals::read_index::ReadBarrier;
use crate::protocol::identity::Identity;
use crate::protocol::levels::Levels;
use crate::removal::{Removal, RemovalSignal};
use crate::state_machine::StateMachine;
use crate::status;
use crate::status::{DiskStatus, Leadership, Readiness, Status};
use crate::storage::disk_space::ClusterDiskSpace;
use crate::storage::open;
use crate::storage::snapshot_store::{Snapshots, WrittenSnapshot};
use crate::tasks::commit_monitor::STALL_LEASES;
use crate::tasks::divergence_check::{Checkpoint, ConsistencyStatus, DigestHistory};
use crate::tasks::readiness_monitor::{SILENCE_LEASES, quorum_silence, reaches_majority};

/// Interval between two checks whether a requested snapshot is written.
const SNAPSHOT_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// One member of a cluster. Cheap to clone; every method may be called from any runtime.
pub struct Node<S: StateMachine> {
    pub(super) inner: Arc<Inner<S>>,
}

impl<S: StateMachine> Clone for Node<S> {
    fn clone(&self) -> Self {
        Node {
            inner: Arc::clone(&self.inner),
        }
    }
}

pub(super) struct Inner<S: StateMachine> {
    pub(super) config: NodeConfig,
    /// Runtime of consensus, whichever runtime the caller is on.
    pub(super) runtime: Handle,
    pub(super) identity: Arc<Identity>,
    pub(super) levels: Arc<Levels>,
    pub(super) raft: Raft<S>,
    pub(super) log: Arc<dyn triarch_storage::LogStore>,
    pub(super) directory: Arc<open::Directory>,
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) role: watch::Receiver<RaftRole>,
    pub(super) leadership_transfer: Arc<LeadershipTransfer>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) fatal_error: FatalErrorSignal,
    pub(super) removal: RemovalSignal,
    pub(super) metrics: Arc<ConsensusMetrics>,
    pub(super) proposer: Proposer<S::Reply>,
    pub(super) piggyback: Arc<PiggybackSource<S::Reply>>,
    pub(super) read_barrier: Arc<ReadBarrier>,
    pub(super) leader_contact: Arc<LeaderContact>,
    pub(super) catch_up: Arc<CatchUp>,
    pub(super) out_of_touch: watch::Receiver<Option<Instant>>,
    pub(super) changer: MembershipChanger<S>,
    pub(super) digest_history: Arc<DigestHistory>,
    pub(super) snapshots: Snapshots,
    pub(super) disk_space: Arc<ClusterDiskSpace>,
    pub(super) peer_service: Arc<PeerService<S>>,
    pub(super) stopping: watch::Sender<bool>,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: StateMachine> Node<S> {
    /// Proposes `command` and waits until it is committed and applied. On an error, the variant states whether it was
    /// done.
    pub async fn propose(
        &self,
        command: Bytes,
        options: ProposeOptions,
    ) -> Result<Committed<S::Reply>, ProposeError> {
        self.inner.proposer.propose(command, options).await
    }

    /// Waits until no entry that was stamped before this call is in flight on this leader. An entry that is proposed after
    /// it, in the same term, comes after all of those in the log.
    pub async fn settle(&self) -> Result<(), ProposeError> {
        self.inner.proposer.settle().await
    }

    /// Registers `dispatcher`. This node, as leader, calls it for a command to piggyback whenever it writes an entry
    /// with a proposal that allows one. Only the first call in a node's life has an effect.
    pub fn set_piggyback_dispatcher(&self, dispatcher: PiggybackDispatcher<S::Reply>) {
        self.inner.piggyback.set(dispatcher);
    }

    /// Makes a read of the local state linearizable, and returns the applied index. Concurrent callers share the work.
    ///
    /// When it returns, a quorum has confirmed, after the call, that this node leads. Everything committed before the
    /// call is applied here.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        self.inner.read_barrier.wait().await
    }

    /// Waits until `index` is applied here, and returns the index applied then.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoQuorum`] once `timeout` has passed.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<u64, ReadError> {
        let mut applied = self.inner.applied.clone();
        read_index::wait_applied(&mut applied, index, Instant::now() + timeout).await
    }

    /// Returns the last log index applied here.
    pub fn applied_index(&self) -> u64 {
        self.inner.applied.borrow().index
    }

    /// Returns the counters and histograms of this node.
    pub fn metrics(&self) -> &ConsensusMetrics {
        &self.inner.metrics
    }

    /// Returns this node's view of itself and the cluster.
    pub fn status(&self) -> Status {
        // Takes one lock at a time.
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let role = self.inner.role.borrow().clone();
        let applied = *self.inner.applied.borrow();
        // The published state is a tick old. Readiness asks at this moment, and both must agree.
        let in_touch = self.inner.out_of_touch.borrow().is_none()
            && match role {
                RaftRole::Leading { term, .. } => {
                    let lease = self.inner.config.timing.lease();
                    reaches_majority(&self.inner.raft, self.inner.config.node_id, term, lease)
                }
                RaftRole::Following { .. }
                | RaftRole::Elected { .. }
                | RaftRole::Unknown { .. } => true,
            };
        status_report::status(status_report::Sources {
            metrics,
            role,
            in_touch,
            applied,
            identity: &self.inner.identity,
            levels: &self.inner.levels,
            disk_space: &self.inner.disk_space,
            lease: self.inner.config.timing.lease(),
            failed: self.inner.fatal_error.get(),
            transfers: self.inner.changer.transport.transfers(),
        })
    }

    /// Returns a receiver of the leadership, and of every change of it.
    ///
    /// [`Leadership::Leading`] is published once an entry of the new term is applied here. The state machine then has
    /// everything that earlier leaders have acknowledged. The value stays until this node knows of another term. An
    /// action that is forbidden to a leader that is cut off or was stopped must check [`Node::leads_now`] too.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Returns whether this node leads and a quorum has confirmed it within the lease, by the monotonic clock at this
    /// moment. While this is true no other node can have been elected.
    pub fn leads_now(&self) -> bool {
        let RaftRole::Leading { term, .. } = *self.inner.role.borrow() else {
            return false;
        };
        if self.inner.leadership_transfer.has_begun(term) {
            return false;
        }
        quorum_silence(&self.inner.raft, self.inner.config.node_id, term)
            .is_some_and(|silence| silence < self.inner.config.timing.lease())
    }

    /// Returns whether this node can serve its clients now. A leader must have the recent answer of a majority, and
    /// its commit index must advance while entries wait. A follower must have applied everything that its leader had
    /// committed after the last start, pause or cut.
    pub fn readiness(&self) -> Readiness {
        let lease = self.inner.config.timing.lease();
        let role = self.inner.role.borrow().clone();
        let leader = match role {
            RaftRole::Leading { term, .. } => {
                if self.inner.leadership_transfer.has_begun(term) {
                    return Readiness::NoLeader;
                }
                let silence = quorum_silence(&self.inner.raft, self.inner.config.node_id, term);
                let oldest = self.inner.metrics.oldest_proposal_age();
                return match silence {
                    Some(silence)
                        if silence <= lease * SILENCE_LEASES || mutated!(ReadyWithoutMajority) =>
                    {
                        if oldest >= lease * STALL_LEASES {
                            Readiness::ProposalsWaiting {
                                oldest_ms: status::ms(oldest),
                            }
                        } else {
                            Readiness::Ready {
                                leader: self.inner.config.node_id,
                            }
                        }
                    }
                    Some(silence) => Readiness::NoMajority {
                        silent_ms: status::ms(silence),
                    },
                    None => Readiness::NoLeader,
                };
            }
            RaftRole::Following { leader, .. } => leader,
            RaftRole::Elected { .. } | RaftRole::Unknown { .. } => return Readiness::NoLeader,
        };
        // The published role is a moment old. After a pause of the process, the last contact with the leader is older.
        let contact = self.inner.leader_contact.elapsed();
        if contact.is_none_or(|elapsed| elapsed > lease) {
            return Readiness::NoLeader;
        }
        let known = self.inner.raft.metrics().borrow_watched().local_committed;
        let committed = self.inner.leader_contact.commit_index();
        let committed = committed.max(known.index().unwrap_or(0));
        let applied = self.applied_index();
        match self
            .inner
            .catch_up
            .behind(applied, committed, Instant::now())
        {
            Some(behind) => Readiness::CatchingUp { behind },
            None => Readiness::Ready { leader },
        }
    }

    /// Returns since when this node is out of touch with a majority: no leader is known here, or it leads and no
    /// majority answers. `None` while it is in touch.
    pub fn out_of_touch(&self) -> watch::Receiver<Option<Instant>> {
        self.inner.out_of_touch.clone()
    }

    /// Records a digest of the state machine's state, to be compared with the other nodes' digests at the same entry.
    /// Every node should record digests at the same entries. A node whose digest differs from a majority stops; see
    /// [`Node::fatal_error`].
    pub fn record_digest(&self, checkpoint: Checkpoint) {
        self.inner.digest_history.record(checkpoint);
    }

    /// Returns the results of the digest comparisons so far.
    pub fn consistency(&self) -> ConsistencyStatus {
        self.inner.digest_history.status()
    }

    /// Returns why proposals are refused at present, if they are: a disk is nearly full.
    pub fn write_refusal(&self) -> Option<String> {
        self.inner.disk_space.write_refusal(0)
    }

    /// Returns the status of this node's own disk.
    pub fn disk(&self) -> Option<DiskStatus> {
        self.inner.disk_space.status(self.inner.config.node_id)
    }

    /// Returns a receiver of the fatal error, set once and for good when this node cannot go on. Its disk failed, it
    /// cannot apply an entry, or its directory is not the one the cluster knows. The process must report the error and
    /// exit.
    pub fn fatal_error(&self) -> watch::Receiver<Option<String>> {
        self.inner.fatal_error.subscribe()
    }

    /// Returns the routes for peers, under `/raft/`. They must be served at the node's address, with TCP_NODELAY. The
    /// runtime that the node was started on is best, so that no other load delays them.
    pub fn routes(&self) -> axum::Router {
        peer_server::routes(
            Arc::clone(&self.inner.peer_service),
            peer_questions::routes().merge(snapshot_receiver::routes()),
        )
    }

    /// Returns the configured timing.
    pub fn timing(&self) -> &Timing {
        &self.inner.config.timing
    }

    /// Returns a receiver of the removal of this node from its cluster, once it is known here. The process must exit.
    pub fn removal(&self) -> watch::Receiver<Option<Removal>> {
        self.inner.removal.subscribe()
    }

    /// Returns why other nodes refuse all messages of this one: it was removed, or another process runs under its
    /// identity. `None` while they accept its messages.
    pub fn exclusion(&self) -> Option<String> {
        if let Some(removal) = self.inner.removal.get() {
            return Some(removal.to_string());
        }
        let by = self.inner.changer.transport.sessions.refused_by()?;
        let me = self.inner.config.node_id;
        Some(format!(
            "another process runs as node {me}, on a copy of this data directory, and answers at the address that the cluster \
             knows; node {by} refuses this one. Stop one of the two, and delete its directory"
        ))
    }

    /// Returns the number of messages refused because another process answers at their sender's address.
    pub fn duplicate_messages(&self) -> u64 {
        self.inner.changer.transport.sessions.duplicate_messages()
    }

    /// Adds the empty node that waits at `addr`. It gets the log as a learner. The leader of the moment
    /// makes it a voter once it has caught up, whatever becomes of this node. Repeated calls have no further effect.
    pub async fn add(&self, id: u64, addr: NodeAddress) -> Result<(), ChangeError> {
        self.run_change(move |changer| async move { changer.add(id, addr).await })
            .await
    }

    /// Removes a node. Succeeds if the node was removed before. A leader that is to remove itself transfers leadership
    /// and returns `NotLeader`.
    pub async fn remove(&self, id: u64) -> Result<(), ChangeError> {
        self.run_change(move |changer| async move { changer.remove(id).await })
            .await
    }

    /// Transfers leadership to `to`, or to the best placed voter, and waits until it leads. `why` is sent to all nodes,
    /// for their operators.
    pub async fn transfer_leader(
        &self,
        to: Option<u64>,
        why: TransferReason,
    ) -> Result<(), ChangeError> {
        self.run_change(move |changer| async move { changer.transfer_leader(to, why).await })
            .await
    }

    /// Raises the level of the cluster, by default to the highest that this node understands, and returns it. Every
    /// member must be up and understand it. Repeated calls have no further effect.
    ///
    /// Afterwards no node of an older version can take part any more.
    pub async fn raise_level(&self, level: Option<Level>) -> Result<Level, ChangeError> {
        let to = RaiseTo::Level(level.unwrap_or(self.inner.levels.understood()));
        self.run_change(move |changer| async move { changer.raise_level(to).await })
            .await
    }

    async fn run_change<T, F, Fut>(&self, work: F) -> Result<T, ChangeError>
    where
        T: Send + 'static,
        F: FnOnce(MembershipChanger<S>) -> Fut,
        Fut: Future<Output = Result<T, ChangeError>> + Send + 'static,
    {
        // The change runs on the node's own runtime, and to its end even if the caller goes away.
        let done = self
            .inner
            .runtime
            .spawn(work(self.inner.changer.clone()))
            .await;
        done.unwrap_or_else(|e| Err(ChangeError::Unknown(e.to_string())))
    }

    /// Writes a snapshot of everything that is applied here now, waits until it is durable, and purges the log before
    /// it.
    ///
    /// Returns the existing snapshot if it covers the applied index. Returns `None` once `timeout` has passed, while
    /// the snapshot is still being written.
    pub async fn snapshot(
        &self,
        timeout: Duration,
    ) -> Result<Option<WrittenSnapshot>, ChangeError> {
        let unknown = |e: &dyn std::fmt::Display| ChangeError::Unknown(e.to_string());
        let wanted = self.applied_index();
        let deadline = Instant::now() + timeout;
        loop {
            let written = self.inner.snapshots.covering(wanted);
            if let Some(written) = written.map_err(|e| unknown(&e))? {
                return Ok(Some(written));
            }
            // The trigger does nothing while a snapshot is being written, and that one may not reach `wanted`. It is
            // therefore repeated.
            let begun = self.inner.raft.trigger().snapshot().await;
            begun.map_err(|e| unknown(&e))?;
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(SNAPSHOT_POLL_INTERVAL).await;
        }
    }

    /// Stops taking part and closes the log. Idempotent. A caller that wants no gap in leadership transfers it first.
    pub async fn shutdown(&self) {
        self.inner.stopping.send_replace(true);
        let inner = Arc::clone(&self.inner);
        let closing = self.inner.runtime.spawn(async move {
            if let Err(e) = inner.raft.shutdown().await {
                tracing::warn!("consensus did not stop cleanly: {e}");
            }
            let tasks = std::mem::take(&mut *inner.tasks.lock());
            for task in tasks {
                // A task that panicked has been reported by the panic.
                let _ = task.await;
            }
            let (log, directory) = (Arc::clone(&inner.log), Arc::clone(&inner.directory));
            let closed = tokio::task::spawn_blocking(move || {
                let closed = log.close();
                directory.release();
                closed
            });
            match closed.await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::warn!("the log did not close cleanly: {e}"),
                Err(e) => tracing::warn!("the log did not close cleanly: {e}"),
            }
        });
        let _ = closing.await;
    }
}
