//! Application state shared by all handlers: the node, its table, its term of leadership, and the bounds on concurrency.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use triarch_raft::{Committed, Level, ProposeOptions};
use triarch_table::{Command, Reply};

use super::http::admission::AdmissionControl;
use super::http::answer_budget::AnswerBudget;
use super::http::browser_guard::HostNames;
use super::http::connection_registry::ConnectionRegistry;
use super::http::forward_client::ForwardClient;
use super::http::request_metrics::RequestMetrics;
use super::http::shared_pool::SharedPool;
use super::memory_limit;
use super::protocol::handler_error::HandlerError;
use super::protocol::problem::{Code, Problem};
use crate::leader::clock::ClusterClock;
use crate::leader::lease_tracker::LeaseTiming;
use crate::leader::{LeaderTerm, TableNode};
use crate::state_machine::SharedTable;
use crate::waiters::WAITERS_MAX;

/// Maximum number of event streams open at once on one node.
pub const EVENT_STREAMS_MAX: usize = 1_000;
/// Maximum number of those of one client.
pub const CLIENT_EVENT_STREAMS_MAX: usize = 250;
/// Maximum number of tasks and jobs that the requests of one client wait for on one node.
pub const CLIENT_WAITERS_MAX: usize = WAITERS_MAX / 4;

/// Maximum time of an ordinary election, in leases. A node without a leader for longer has lost the majority.
const ELECTION_LEASES: u32 = 6;

/// Bounds on one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Maximum size of a body in bytes.
    pub body_bytes_max: usize,
    /// Maximum time for a body to arrive.
    pub body_timeout: Duration,
    /// Maximum size of one task's payload, and of one result or error, in bytes.
    pub payload_bytes_max: usize,
    /// Maximum number of tasks in one request.
    pub tasks_max: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            body_timeout: Duration::from_secs(60),
            payload_bytes_max: 1 << 20,
            tasks_max: 10_000,
        }
    }
}

/// Handle to the application state. Each layer of each request holds one; a clone costs one reference count.
#[derive(Clone)]
pub struct App(Arc<AppState>);

/// State behind [`App`].
pub struct AppState {
    /// Id of this node.
    pub node_id: u64,
    /// Consensus over the table.
    pub node: TableNode,
    /// Table as applied on this node.
    pub table: Arc<SharedTable>,
    /// Current term of leadership of this node, if it leads.
    pub lead: watch::Receiver<Option<Arc<LeaderTerm>>>,
    /// Cluster clock as this node knows it.
    pub clock: Arc<ClusterClock>,
    /// HTTP client for requests that are forwarded to the leader.
    pub forward_client: ForwardClient,
    /// One permit for each request that is forwarded, because each takes a descriptor.
    pub forward_permits: Arc<Semaphore>,
    /// Lease and heartbeat intervals of workers.
    pub lease_timing: LeaseTiming,
    /// Bounds on each request.
    pub limits: RequestLimits,
    /// Places for event streams.
    pub event_places: SharedPool,
    /// Places for requests that wait for an end or an update. One request may take many.
    pub wait_places: SharedPool,
    /// Maximum memory of the table, in bytes.
    pub table_memory_bytes_max: u64,
    /// Memory budget for answers that are being written.
    pub answer_budget: AnswerBudget,
    /// Open connections of clients and workers.
    pub connections: ConnectionRegistry,
    /// Single permit for computing a digest of the whole table.
    pub digest_permit: Arc<Semaphore>,
    /// Single permit for counting the items of a list.
    pub count_permit: Arc<Semaphore>,
    /// Single permit for writing a backup.
    pub backup_permit: Arc<Semaphore>,
    /// Single permit for measuring the disk.
    pub disk_usage_permit: Arc<Semaphore>,
    /// Host names under which clients and workers may address this node.
    pub host_names: HostNames,
    /// Admission control for client requests.
    pub admission: Arc<AdmissionControl>,
    /// Request and connection metrics.
    pub request_metrics: Arc<RequestMetrics>,
    /// Directory of the log and the snapshots.
    pub data_dir: Arc<Path>,
    /// Cancelled when this node begins to shut down.
    pub shutdown: CancellationToken,
}

impl Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl App {
    /// Creates a handle to this state.
    pub fn new(state: AppState) -> Self {
        Self(Arc::new(state))
    }

    /// Proposes a command. Returns the table's reply and the log index it was applied at.
    pub async fn propose(&self, command: &Command) -> Result<(u64, Reply), HandlerError> {
        self.propose_with(command, ProposeOptions::default()).await
    }

    /// Proposes a command like [`App::propose`], with options. High priority is for worker reports on leases and on
    /// themselves; piggybacking is for commands to whose entry the leader may add grants.
    pub async fn propose_with(
        &self,
        command: &Command,
        options: ProposeOptions,
    ) -> Result<(u64, Reply), HandlerError> {
        self.check_level(command)?;
        accepted(
            self.node
                .propose(self.table.encode(command), options)
                .await?,
        )
    }

    /// Checks that every member of the cluster understands a command. The level only rises, so this holds for good.
    fn check_level(&self, command: &Command) -> Result<(), Problem> {
        if self.table.level() > Level::ONE {
            return Ok(());
        }
        let Some(field) = command.part_of_level_2() else {
            return Ok(());
        };
        let detail = format!(
            "{field} needs level 2 of the cluster's formats, and the cluster has level 1: nothing was done. Upgrade the \
             program of every master, then run triarch cluster upgrade"
        );
        Err(Problem::new(Code::NodeTooOld, detail)
            .with("field", field)
            .with("level", Level::ONE.number())
            .with("needed", Level::TWO.number()))
    }

    /// Checks that the table has memory for a body that adds tasks. Only the leader checks, before it proposes. Apply
    /// must not, because its decisions must not depend on the memory of a machine.
    pub fn check_table_memory(&self, body_bytes: usize) -> Result<(), Problem> {
        let bound = self.table_memory_bytes_max;
        let used = self.table_memory_bytes();
        if used.saturating_add(body_bytes as u64) <= bound {
            return Ok(());
        }
        Err(Problem::new(
            Code::QueueFull,
            format!(
                "the table takes {used} of the {bound} bytes of memory that this master has for it; nothing was done. Wait until \
                 tasks are finished and forgotten, purge queues, or give the masters more memory (--max-memory-mib)"
            ),
        )
        .with("bound", "memory")
        .with("bytes_max", bound))
    }

    /// Returns an estimate of the memory of the table, in bytes.
    pub fn table_memory_bytes(&self) -> u64 {
        let table = self.table.read();
        memory_limit::table_bytes(table.bytes(), table.counts().total())
    }

    /// Logs a reply that belongs to another command (a bug) and returns an error of unknown outcome.
    pub fn unexpected_reply(&self, reply: &Reply) -> HandlerError {
        tracing::error!(
            ?reply,
            "a command got the reply of another command: this is a bug, please report it"
        );
        HandlerError::OutcomeUnknown("the reply could not be interpreted".into())
    }

    /// Returns this node's term of leadership.
    ///
    /// # Errors
    ///
    /// [`HandlerError::NotLeader`] if this node does not lead.
    pub fn leader_term(&self) -> Result<Arc<LeaderTerm>, HandlerError> {
        self.lead.borrow().clone().ok_or(HandlerError::NotLeader)
    }

    /// Waits for `event`, at most for `timeout`, and not beyond the beginning of shutdown or the loss of the majority.
    pub async fn wait_at_most(&self, timeout: Duration, event: impl Future<Output = ()>) {
        tokio::select! {
            () = event => {}
            () = tokio::time::sleep(timeout) => {}
            () = self.shutdown.cancelled() => {}
            () = self.majority_lost() => {}
        }
    }

    /// Returns for how long this node has been out of touch with a majority, if that is longer than an election takes.
    pub fn out_of_touch(&self) -> Option<Duration> {
        let since = *self.node.out_of_touch().borrow();
        since
            .map(|since| since.elapsed())
            .filter(|elapsed| *elapsed >= self.election_patience())
    }

    /// Completes once this node is out of touch with a majority for longer than an election takes. Such a node receives
    /// no new entries, so its clients must continue at another node.
    pub async fn majority_lost(&self) {
        let mut out_of_touch = self.node.out_of_touch();
        loop {
            let lost = out_of_touch.wait_for(Option::is_some).await;
            let Ok(since) = lost.map(|since| *since) else {
                return;
            };
            let patience = self.election_patience();
            let left = since.map_or(patience, |since| patience.saturating_sub(since.elapsed()));
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                regained = out_of_touch.wait_for(Option::is_none) => if regained.is_err() {
                    return;
                },
            }
        }
    }

    fn election_patience(&self) -> Duration {
        self.node.timing().lease() * ELECTION_LEASES
    }
}

/// Converts a refusal of the table into an error.
fn accepted(committed: Committed<Reply>) -> Result<(u64, Reply), HandlerError> {
    match committed.reply {
        Reply::Refused(refusal) => Err(refusal.into()),
        reply @ (Reply::Submitted { .. }
        | Reply::Staged { .. }
        | Reply::Registered { .. }
        | Reply::Granted { .. }
        | Reply::Reported { .. }
        | Reply::Done { .. }
        | Reply::SchedulePut { .. }
        | Reply::Restoring { .. }
        | Reply::Restored { .. }) => Ok((committed.index, reply)),
    }
}
