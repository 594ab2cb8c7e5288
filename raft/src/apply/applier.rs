//! State machine adapter for openraft: applies committed entries, builds snapshots and installs received ones.
//!
//! The state machine is in memory. After a restart, openraft restores it from the last snapshot. It then applies the
//! log after the snapshot again, up to the recorded commit index.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::apply::snapshot_policy::SnapshotTrigger;
use crate::apply::used_node_ids::UsedNodeIds;
use crate::fatal::FatalErrorSignal;
use crate::level::Level;
use crate::low_priority;
use crate::metrics::ConsensusMetrics;
use crate::protocol::acknowledged::Acknowledged;
use crate::protocol::entry_format;
use crate::protocol::history::History;
use crate::protocol::levels::Levels;
use crate::removal::RemovalSignal;
use crate::state_machine::{EntryView, Frozen, StateMachine};
use crate::storage::snapshot_store::{SnapshotHead, Snapshots, StoredSnapshot};
use crate::types::{
    Config, LogId, Membership, Payload, Replies, Snapshot, SnapshotMeta, StoredMembership,
};

/// openraft with this crate's types.
pub(crate) type Raft<S> = openraft::Raft<Config, Applier<S>>;

/// Returns the current membership, committed or not.
pub(crate) fn membership<S: StateMachine>(raft: &Raft<S>) -> Membership {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().clone()
}

/// Last entry applied to this node's state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    pub index: u64,
    pub term: u64,
}

/// State of the node that the applier changes or signals.
pub(crate) struct Context {
    pub fatal_error: FatalErrorSignal,
    pub removal: RemovalSignal,
    /// Notified when a snapshot is due.
    pub snapshot_due: Arc<Notify>,
    pub metrics: Arc<ConsensusMetrics>,
    pub levels: Arc<Levels>,
    pub history: Arc<History>,
    pub acknowledged: Arc<Acknowledged>,
}

/// Owner of the state machine.
pub(crate) struct Applier<S: StateMachine> {
    machine: Arc<Mutex<S>>,
    last: Option<LogId>,
    membership: StoredMembership,
    used_ids: UsedNodeIds,
    snapshots: Snapshots,
    applied: watch::Sender<Applied>,
    fatal_error: FatalErrorSignal,
    removal: RemovalSignal,
    snapshot_trigger: SnapshotTrigger,
    /// Notified when a snapshot is due.
    snapshot_due: Arc<Notify>,
    metrics: Arc<ConsensusMetrics>,
    levels: Arc<Levels>,
    history: Arc<History>,
    acknowledged: Arc<Acknowledged>,
}

impl<S: StateMachine> Applier<S> {
    pub(crate) fn new(
        machine: S,
        snapshots: Snapshots,
        snapshot_trigger: SnapshotTrigger,
        context: Context,
    ) -> Self {
        let Context {
            fatal_error,
            removal,
            snapshot_due,
            metrics,
            levels,
            history,
            acknowledged,
        } = context;
        Applier {
            machine: Arc::new(Mutex::new(machine)),
            last: None,
            membership: StoredMembership::default(),
            used_ids: UsedNodeIds::default(),
            snapshots,
            applied: watch::Sender::new(Applied::default()),
            fatal_error,
            removal,
            snapshot_trigger,
            snapshot_due,
            metrics,
            levels,
            history,
            acknowledged,
        }
    }

    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Returns the set of every node id used so far, up to the applied index.
    pub(crate) fn used_ids(&self) -> UsedNodeIds {
        self.used_ids.clone()
    }

    fn fail(&self, what: &str, e: io::Error) -> io::Error {
        let text = format!("{what}: {e}");
        self.fatal_error.set(text.clone());
        io::Error::new(e.kind(), text)
    }

    /// Sets the removal signal if an applied membership has left this node out.
    fn signal_own_removal(&self) {
        if let Some(index) = self.used_ids.removed_at(self.removal.node_id()) {
            self.removal.set(index);
        }
    }

    fn apply_one(&mut self, id: LogId, payload: Payload) -> io::Result<Replies> {
        let replies = match payload {
            Payload::Blank => Replies::default(),
            Payload::Membership(membership) => {
                let members = membership.nodes().map(|(id, _)| *id);
                self.used_ids.apply(id.index, members, []);
                self.signal_own_removal();
                self.membership = StoredMembership::new(Some(id), membership);
                Replies::default()
            }
            Payload::Normal(batch) => {
                if let Some(level) = entry_format::decode_level(&batch)? {
                    self.raise(id.index, level)?;
                    return Ok(self.applied_one(id, Replies::default()));
                }
                let begun = std::time::Instant::now();
                self.snapshot_trigger.record(batch.encoded.len() as u64);
                let decoded = entry_format::decode_commands(&batch)?;
                let view = EntryView {
                    index: id.index,
                    term: id.leader_id.term,
                    now_ms: decoded.now_ms,
                    commands: &decoded.commands,
                };
                if mutated!(EntryAppliedTwice) {
                    self.machine.lock().apply(view)?;
                }
                let replies = self.machine.lock().apply(view)?;
                self.metrics.apply.observe_time(begun.elapsed());
                Replies::new(replies)
            }
        };
        Ok(self.applied_one(id, replies))
    }

    fn applied_one(&mut self, id: LogId, replies: Replies) -> Replies {
        self.last = Some(id);
        self.acknowledged.record_applied(id);
        // Published before the proposer gets its reply: with the index of the reply a caller may wait for this node to
        // have applied it.
        self.applied.send_replace(Applied {
            index: id.index,
            term: id.leader_id.term,
        });
        replies
    }

    /// Raises the cluster to `level`, unless it is there already.
    fn raise(&mut self, index: u64, level: Level) -> io::Result<()> {
        self.levels
            .check_understood("the level of the cluster", level)?;
        if level > self.levels.in_effect() {
            self.machine.lock().set_level(level);
            self.levels.apply(level);
            tracing::info!(index, %level, "the cluster is at level {level} now");
        }
        Ok(())
    }
}

impl<S: StateMachine> RaftStateMachine<Config> for Applier<S> {
    type SnapshotData = StoredSnapshot;
    type SnapshotBuilder = Builder<S::Frozen>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let replies = self.apply_one(entry.log_id, entry.payload).map_err(|e| {
                self.fail(&format!("cannot apply log entry {}", entry.log_id.index), e)
            })?;
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        if self.snapshot_trigger.is_due() {
            self.snapshot_trigger.reset();
            self.snapshot_due.notify_one();
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<S::Frozen>> {
        if !force && !self.snapshots.has_space_for_next() {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S::Frozen> {
        self.snapshot_trigger.reset();
        Builder {
            frozen: Mutex::new(Some(self.machine.lock().freeze())),
            head: SnapshotHead {
                meta: SnapshotMeta {
                    last_log_id: self.last,
                    last_membership: self.membership.clone(),
                },
                used_ids: self.used_ids.get(),
                level: self.levels.in_effect(),
                history: self.last.and_then(|last| self.history.anchor_at(last)),
            },
            snapshots: self.snapshots.clone(),
            fatal_error: self.fatal_error.clone(),
            last_snapshot_bytes: self.snapshot_trigger.last_snapshot_bytes(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: StoredSnapshot,
    ) -> io::Result<()> {
        let last_index = meta.last_log_id.map_or(0, |id| id.index);
        let started = std::time::Instant::now();
        let used_ids = snapshot.used_ids().clone();
        let level = snapshot.level();
        let history = snapshot.history().cloned();
        self.levels
            .check_understood("a snapshot", level)
            .map_err(|e| self.fail("cannot restore a snapshot", e.into()))?;
        let machine = Arc::clone(&self.machine);
        let snapshots = self.snapshots.clone();
        let last_snapshot_bytes = self.snapshot_trigger.last_snapshot_bytes();
        let restored = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let adopted = snapshots.adopt::<S::Loaded>(snapshot)?;
            last_snapshot_bytes.store(adopted.file.payload_bytes(), Ordering::Relaxed);
            let loaded = match adopted.loaded {
                Some(loaded) => loaded,
                None => S::load(&mut adopted.file.reader())?,
            };
            machine.lock().restore(loaded, last_index, level);
            Ok(())
        })
        .await
        .unwrap_or_else(|panic| Err(io::Error::other(panic)));
        restored.map_err(|e| {
            self.fail(
                &format!("cannot restore the snapshot up to entry {last_index}"),
                e,
            )
        })?;
        self.metrics
            .snapshot_install
            .observe_time(started.elapsed());
        self.levels.apply(level);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot_trigger.reset();
        let members = meta.last_membership.nodes().map(|(id, _)| *id);
        let membership_index = meta.last_membership.log_id().map_or(0, |id| id.index);
        self.used_ids.apply(membership_index, members, used_ids);
        self.signal_own_removal();
        if let Some(id) = meta.last_log_id {
            if let Some(history) = history {
                self.history.set_anchor(id, history);
            }
            self.acknowledged.record_applied(id);
            self.applied.send_replace(Applied {
                index: id.index,
                term: id.leader_id.term,
            });
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<StoredSnapshot>>> {
        let current = self
            .snapshots
            .current()
            .map_err(|e| self.fail("cannot read the current snapshot", e))?;
        Ok(current.map(|stored| Snapshot {
            meta: stored.meta().clone(),
            snapshot: stored,
        }))
    }
}

/// Writes one frozen view to a snapshot file.
pub(crate) struct Builder<F> {
    /// The lock is there only because openraft requires a shareable type.
    frozen: Mutex<Option<F>>,
    head: SnapshotHead,
    snapshots: Snapshots,
    fatal_error: FatalErrorSignal,
    /// Receives the size of the written snapshot.
    last_snapshot_bytes: Arc<AtomicU64>,
    metrics: Arc<ConsensusMetrics>,
}

impl<F: Frozen> RaftSnapshotBuilder<Config> for Builder<F> {
    type SnapshotData = StoredSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<StoredSnapshot>> {
        let Some(frozen) = self.frozen.lock().take() else {
            return Err(io::Error::other(
                "a snapshot is built only once from a view",
            ));
        };
        let (snapshots, head) = (self.snapshots.clone(), self.head.clone());
        let started = std::time::Instant::now();
        let work = move || snapshots.write(head, |out| frozen.write(out));
        let written = low_priority::run("snapshot", work).await.flatten();
        let stored = match written {
            Ok(stored) => stored,
            Err(e) => {
                if let Some(kept) = self.snapshots.fallback_for(&e) {
                    self.metrics.record_postponed_snapshot();
                    tracing::warn!(error = %e, "disk space, descriptors, memory or threads are lacking for a snapshot: it is discarded, \
                         and retried later; the log grows until then");
                    return Ok(Snapshot {
                        meta: kept.meta().clone(),
                        snapshot: kept,
                    });
                }
                self.fatal_error
                    .set(format!("cannot write a snapshot: {e}"));
                return Err(e);
            }
        };
        let index = self.head.meta.last_log_id.map_or(0, |id| id.index);
        self.metrics.snapshot_write.observe_time(started.elapsed());
        let took_ms = started.elapsed().as_millis() as u64;
        let bytes = stored.file().map_or(0, |file| file.payload_bytes());
        self.last_snapshot_bytes.store(bytes, Ordering::Relaxed);
        tracing::info!(index, bytes, took_ms, "snapshot written");
        Ok(Snapshot {
            meta: stored.meta().clone(),
            snapshot: stored,
        })
    }
}
