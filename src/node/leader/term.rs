//! Leader term: one term of leadership of this node, with its soft state and its fence.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;
use triarch_areas::envelope;
use triarch_areas::worker_silence::SilenceCommand;
use triarch_raft::{Node, Priority, ProposeError, ProposeOptions};
use triarch_table::{Command, Reply};

use super::clock::ClusterClock;
use super::leader_state::LeaderState;
use super::lease_tracker::LeaseTiming;
use super::live_output::LiveOutput;
use crate::state_machine::{SharedTable, TableStateMachine};

/// Consensus over the table.
pub type TableNode = Node<TableStateMachine>;

/// One term of leadership of this node.
pub struct LeaderTerm {
    /// Raft term, which fences the commands of the loops.
    pub term: u64,
    /// Lease tracker and long-poll registry of this term.
    pub state: Mutex<LeaderState>,
    /// Output of running attempts, for clients that follow it.
    pub(super) output: Mutex<LiveOutput>,
    /// Heartbeat interval, and the duration of silence that ends leases.
    pub timing: LeaseTiming,
    pub(super) node: TableNode,
    pub(super) table: Arc<SharedTable>,
    pub(super) clock: Arc<ClusterClock>,
    /// Locked for writing by a correction of the table's time, and for reading by proposals that must not cross one.
    pub(super) time_correction: RwLock<()>,
    pub(super) runtime: tokio::runtime::Handle,
    end: CancellationToken,
}

impl LeaderTerm {
    /// Creates a term that began at `since`. Must be called on a Tokio runtime.
    pub(super) fn new(
        term: u64,
        since: Instant,
        node: &TableNode,
        table: &Arc<SharedTable>,
        clock: &Arc<ClusterClock>,
        timing: LeaseTiming,
    ) -> Self {
        Self {
            term,
            state: Mutex::new(LeaderState::new(since)),
            output: Mutex::default(),
            timing,
            node: node.clone(),
            table: Arc::clone(table),
            clock: Arc::clone(clock),
            time_correction: RwLock::default(),
            runtime: tokio::runtime::Handle::current(),
            end: CancellationToken::new(),
        }
    }

    /// Ends the term, which stops its loops.
    pub(super) fn finish(&self) {
        self.end.cancel();
    }

    /// Waits until the term has ended.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Returns the cluster's time in Unix ms: this node's clock, or the table's where that is ahead.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms().max(self.table.read().now_ms())
    }

    /// Keeps the time of the table from being set back until the guard is dropped: for a command with a time that was
    /// computed from [`LeaderTerm::now_ms`], until it is applied.
    pub async fn hold_time(&self) -> RwLockReadGuard<'_, ()> {
        self.time_correction.read().await
    }

    /// Proposes one of the leader's own decisions, for this term only.
    pub(super) async fn propose(&self, command: &Command) -> Result<Reply, ProposeError> {
        self.propose_bytes(self.table.encode(command)).await
    }

    /// Proposes a change of the recorded silence of workers, for this term only. Clusters of level 1 have none.
    pub(super) async fn propose_silence(
        &self,
        command: &SilenceCommand,
    ) -> Result<Reply, ProposeError> {
        self.propose_bytes(envelope::encode_silence(command)).await
    }

    async fn propose_bytes(&self, command: Bytes) -> Result<Reply, ProposeError> {
        let options = ProposeOptions {
            priority: Priority::High,
            term: Some(self.term),
            ..ProposeOptions::default()
        };
        self.node
            .propose(command, options)
            .await
            .map(|committed| committed.reply)
    }
}
