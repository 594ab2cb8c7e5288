//! Workers: the calls that a worker makes, and the description of workers for clients.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Consistency;
use super::time::Timestamp;

/// Body of `POST /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Name of the worker, unique among live workers.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub name: String,
    /// Queues from which it takes tasks. Default: `default`.
    #[serde(default = "default_queues")]
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub queues: Vec<String>,
    /// Maximum concurrent attempts. Default: 1.
    #[serde(default = "default_slots")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10000))]
    pub slots: u32,
    /// Labels, which tasks may require by value.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Amounts of resources, which tasks may require.
    #[serde(default)]
    pub resources: BTreeMap<String, u64>,
    /// Kinds of tasks that it runs. Default: `exec`.
    #[serde(default = "default_kinds")]
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub kinds: Vec<String>,
}

fn default_queues() -> Vec<String> {
    vec!["default".to_owned()]
}

fn default_slots() -> u32 {
    1
}

fn default_kinds() -> Vec<String> {
    vec![super::exec::KIND.to_owned()]
}

impl Default for Register {
    fn default() -> Self {
        Self {
            name: String::new(),
            queues: default_queues(),
            slots: default_slots(),
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
            kinds: default_kinds(),
        }
    }
}

/// Response of `POST /v1/workers`. Its debug text does not show the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registered {
    /// Id of this registration; a later registration with the same name has another.
    pub id: String,
    /// Interval in ms at which to send heartbeats.
    pub heartbeat_ms: u64,
    /// Time in ms without contact after which the worker is lost, with all its leases.
    pub lease_ms: u64,
    /// Secret of the worker. Once the worker has sent it in the header `triarch-worker-secret`, the cluster refuses calls in
    /// its name without it. Absent from clusters of level 1, and from those of before there were secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            heartbeat_ms,
            lease_ms,
            secret,
        } = self;
        f.debug_struct("Registered")
            .field("id", id)
            .field("heartbeat_ms", heartbeat_ms)
            .field("lease_ms", lease_ms)
            .field("secret", &secret.as_ref().map(|_| "…"))
            .finish()
    }
}

/// Body of `POST /v1/workers/{id}/poll`: a request for tasks, which may include the content of a report and of a
/// heartbeat.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// Maximum number of tasks to lease.
    #[serde(default)]
    pub max: u32,
    /// Maximum time in ms to hold an empty response.
    #[serde(default)]
    pub wait_ms: u64,
    /// Results of attempts, as in a report. They are processed before new tasks are leased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<TaskResult>,
    /// Running attempts, as in a heartbeat, without those whose results are included. If the list is present, leases
    /// that the worker holds but does not list are delivered again. If the list is absent, none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Vec<RunningTask>>,
}

/// Response of `POST /v1/workers/{id}/poll`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PollAnswer {
    /// Leased tasks; empty if the wait ended without one.
    pub tasks: Vec<LeasedTask>,
    /// Leased tasks of which not even all fields could be read. Not part of the response.
    #[serde(skip)]
    pub unreadable: Vec<UnreadableTask>,
    /// One verdict for each result sent, in the same order.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub results: Vec<ResultAcknowledgement>,
    /// Ids of tasks to stop because they were cancelled.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub cancel: Vec<String>,
    /// Ids of tasks to stop because their leases are no longer held by this worker.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub lost: Vec<String>,
    /// Whether the worker must take no more tasks, finish its running attempts, and leave.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub drain: bool,
    /// Parts of the request that were wrong. They were dropped or repaired, and everything else was processed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PartProblem>,
}

/// A leased task that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableTask {
    /// Its lease, task and token, if at least these can be read.
    pub lease: Option<(String, u64)>,
    /// Reason why the task cannot be read.
    pub message: String,
}

impl UnreadableTask {
    fn new(task: &RawValue, error: &serde_json::Error) -> Self {
        /// Fields that identify a lease.
        #[derive(Deserialize)]
        struct Lease {
            id: String,
            token: u64,
        }
        let lease = serde_json::from_str::<Lease>(task.get()).ok();
        Self {
            lease: lease.map(|lease| (lease.id, lease.token)),
            message: error.to_string(),
        }
    }
}

impl PollAnswer {
    /// Reads an answer. Each task is read alone, so that one which cannot be read does not cost the others.
    ///
    /// # Errors
    ///
    /// The text is not an answer to a poll.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        /// Answer whose tasks are raw texts.
        #[derive(Deserialize)]
        struct RawAnswer {
            tasks: Vec<Box<RawValue>>,
            #[serde(default)]
            results: Vec<ResultAcknowledgement>,
            #[serde(default)]
            cancel: Vec<String>,
            #[serde(default)]
            lost: Vec<String>,
            #[serde(default)]
            drain: bool,
        }
        if let Ok(answer) = serde_json::from_slice(body) {
            return Ok(answer);
        }
        let raw: RawAnswer = serde_json::from_slice(body)?;
        let mut answer = Self {
            results: raw.results,
            cancel: raw.cancel,
            lost: raw.lost,
            drain: raw.drain,
            ..Self::default()
        };
        for task in raw.tasks {
            match serde_json::from_str(task.get()) {
                Ok(task) => answer.tasks.push(task),
                Err(error) => answer.unreadable.push(UnreadableTask::new(&task, &error)),
            }
        }
        Ok(answer)
    }
}

/// A part of a worker's request that was wrong. The other parts were processed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartProblem {
    /// The part, such as `running[0].note`.
    pub field: String,
    /// What is wrong with it, and what was done.
    pub detail: String,
}

/// One attempt, leased to the worker that receives it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasedTask {
    /// Id of the task.
    pub id: String,
    /// Id of its job.
    pub job: String,
    /// Kind of the task.
    pub kind: String,
    /// Payload as submitted; `null` if it has none.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Option<Box<RawValue>>,
    /// Results of the tasks it depends on, by their keys.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required, value_type = std::collections::BTreeMap<String, serde_json::Value>))]
    pub inputs: BTreeMap<String, Box<RawValue>>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Fencing token, which identifies this lease. It is greater than every earlier token of the task.
    pub token: u64,
    /// Time in ms after which the lease expires unless a heartbeat confirms it.
    pub lease_ms: u64,
    /// Time limit of the attempt in ms.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Body of `POST /v1/workers/{id}/heartbeat`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Every attempt that the worker holds, including finished ones whose report has no verdict yet.
    #[serde(default)]
    pub running: Vec<RunningTask>,
    /// Load of the worker's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

/// Maximum length of a note, in bytes.
pub const NOTE_BYTES_MAX: usize = 1_000;

/// One attempt that the worker confirms to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunningTask {
    /// Id of the task.
    pub task: String,
    /// Fencing token of its lease.
    pub token: u64,
    /// Progress from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    pub progress: Option<f64>,
    /// Note for readers. A longer one is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 1000))]
    pub note: Option<String>,
}

/// Load of a worker's machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Used share of all its processors, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Used memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_mb: Option<u64>,
}

/// Response of `POST /v1/workers/{id}/heartbeat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeartbeatAnswer {
    /// Ids of tasks to stop because they were cancelled.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub cancel: Vec<String>,
    /// Ids of tasks to stop because their leases are no longer held by this worker.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub lost: Vec<String>,
    /// Whether the worker must take no more tasks, finish its running attempts, and leave.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub drain: bool,
    /// Time in ms until the next heartbeat. With many workers it is longer than the one in the response to the
    /// registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// Parts of the request that were wrong. They were dropped or repaired, and everything else was processed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PartProblem>,
}

/// Body of `POST /v1/workers/{id}/report`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Results of attempts; each gets a verdict of its own.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10000))]
    pub results: Vec<TaskResult>,
}

/// Result of one attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// Id of the task.
    pub task: String,
    /// Fencing token of the attempt's lease.
    pub token: u64,
    /// Whether the attempt succeeded or failed, or is returned.
    pub status: ReportStatus,
    /// Result of a successful attempt. Default: `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub result: Option<Box<RawValue>>,
    /// Error of a failed attempt: an object, by convention with `type`, `message` and `traceback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
    /// Whether a failed attempt may be retried. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// Delay in ms before the attempt that follows a failed one. It replaces the back-off of the task, and gives the task no
    /// attempt more. At most ten years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Status of a reported attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReportStatus {
    /// The attempt succeeded, with a `result`.
    Succeeded,
    /// The attempt failed, with an `error`.
    Failed,
    /// The worker could not begin the attempt, and returns the lease. It counts as neither a failure nor a loss.
    Returned,
}

/// Response of `POST /v1/workers/{id}/report`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportAnswer {
    /// One verdict for each result sent, in the same order.
    pub results: Vec<ResultAcknowledgement>,
    /// Parts of the request that were wrong. They were dropped or repaired, and everything else was processed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PartProblem>,
}

/// Verdict on one reported result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Verdict))]
pub struct ResultAcknowledgement {
    /// Id of the task.
    pub task: String,
    /// Whether the result is the task's result. A repeated report under the same lease is accepted again.
    pub accepted: bool,
    /// Reason why the result was not accepted: `stale_token`, `already_finished`, `not_found`, `payload_too_large` or
    /// `invalid_request`. With the last two the lease is still held: report another result, such as a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// With `payload_too_large` and `invalid_request`: the part that is wrong, such as `results[0].result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// With `payload_too_large` and `invalid_request`: what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Response of `DELETE /v1/workers/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaveAnswer {
    /// Id of the worker that left.
    pub id: String,
    /// Number of leases that were returned to their queues.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub returned: u64,
}

/// State of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It may lease tasks.
    Live,
    /// It finishes its running attempts and takes no new ones.
    Draining,
    /// It sent no heartbeat in time.
    Lost,
    /// It left the cluster.
    Left,
    /// It was paused: it keeps its running attempts and gets no new ones until it is resumed.
    Paused,
    /// Many tasks failed on it that succeeded on others: it gets no tasks for a time.
    Quarantined,
    /// After a quarantine: it gets one task at a time, until one succeeds.
    Probation,
}

impl WorkerState {
    /// All values.
    pub const ALL: [WorkerState; 7] = [
        WorkerState::Live,
        WorkerState::Draining,
        WorkerState::Lost,
        WorkerState::Left,
        WorkerState::Paused,
        WorkerState::Quarantined,
        WorkerState::Probation,
    ];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Live => "live",
            WorkerState::Draining => "draining",
            WorkerState::Lost => "lost",
            WorkerState::Left => "left",
            WorkerState::Paused => "paused",
            WorkerState::Quarantined => "quarantined",
            WorkerState::Probation => "probation",
        }
    }
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Worker {
    /// Id of its registration.
    pub id: String,
    /// Name of the worker.
    pub name: String,
    /// State of the worker.
    pub state: WorkerState,
    /// Time at which the quarantine ends and probation begins; present only while `quarantined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_until: Option<Timestamp>,
    /// Number of different tasks that failed on it since its last success; at most 5.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub failing: u64,
    /// Queues from which it takes tasks.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub queues: Vec<String>,
    /// Kinds of tasks that it runs.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub kinds: Vec<String>,
    /// Maximum concurrent attempts.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub slots: u32,
    /// Number of running attempts.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub running: u32,
    /// Labels of the worker.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub labels: BTreeMap<String, String>,
    /// Total amounts of its resources.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub resources: BTreeMap<String, u64>,
    /// Load of its machine, as last reported to the leader.
    #[serde(default)]
    pub load: Option<Load>,
    /// Time of its registration.
    #[serde(default)]
    pub registered_at: Option<Timestamp>,
    /// Time in ms since the leader last heard from it; `null` if unknown.
    #[serde(default)]
    pub silent_ms: Option<u64>,
}

/// Response of `GET /v1/workers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerList {
    /// Workers of the page.
    pub workers: Vec<Worker>,
    /// Cursor of the next page; `null` on the last one.
    #[serde(default)]
    pub next: Option<String>,
}

/// Query of `GET /v1/workers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct WorkersQuery {
    /// Only workers in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkerState>,
    /// Maximum number of workers in the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// Cursor: `next` of the previous page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Freshness of the read. Default: `linearizable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}
