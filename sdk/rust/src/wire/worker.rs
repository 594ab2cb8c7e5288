//! Workers: the calls a worker makes, and how others see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Consistency;
use super::time::Timestamp;

/// Body of `POST /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Unique among live workers.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub name: String,
    /// Queues it takes from; `default` unless told.
    #[serde(default = "default_queues")]
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub queues: Vec<String>,
    /// Attempts at once; 1 unless told.
    #[serde(default = "default_slots")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10000))]
    pub slots: u32,
    /// What tasks may require by value.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What tasks may require by amount.
    #[serde(default)]
    pub resources: BTreeMap<String, u64>,
    /// What it can run; `exec` unless told.
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

/// Answer to [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registered {
    /// Names this registration; a later one of the same name has another.
    pub id: String,
    /// How often to send a [`Heartbeat`].
    pub heartbeat_ms: u64,
    /// A worker not heard of for this long is lost, and its leases with it.
    pub lease_ms: u64,
}

/// Body of `POST /v1/workers/{id}/poll`: asks for work, and may carry what a report and a heartbeat carry.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// At most so many tasks.
    #[serde(default)]
    pub max: u32,
    /// How long to hold an answer that would be empty.
    #[serde(default)]
    pub wait_ms: u64,
    /// As in [`Report`]; they are settled before new tasks are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<TaskResult>,
    /// As in [`Heartbeat`], without the attempts whose results come along; absent is not the same as empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Vec<RunningTask>>,
}

/// Answer to [`Poll`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PollAnswer {
    /// Leases granted; empty when the wait ended without one.
    #[serde(default)]
    pub tasks: Vec<LeasedTask>,
    /// One verdict per result sent, in order.
    #[serde(default)]
    pub results: Vec<Verdict>,
    /// As in [`HeartbeatAnswer`].
    #[serde(default)]
    pub cancel: Vec<String>,
    /// As in [`HeartbeatAnswer`].
    #[serde(default)]
    pub lost: Vec<String>,
    /// As in [`HeartbeatAnswer`].
    #[serde(default)]
    pub drain: bool,
}

/// One attempt, leased to the worker that reads this.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasedTask {
    /// The task.
    pub id: String,
    /// Its job.
    pub job: String,
    /// What to run.
    pub kind: String,
    /// As submitted; `null` when it has none.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Option<Box<RawValue>>,
    /// Results of the tasks it came after, by their keys.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, serde_json::Value>))]
    pub inputs: BTreeMap<String, Box<RawValue>>,
    /// Counted from 1.
    pub attempt: u32,
    /// The fencing token: identifies this lease, greater than every earlier one of the task.
    pub token: u64,
    /// How long the lease holds without being confirmed.
    pub lease_ms: u64,
    /// The attempt's time limit.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Body of `POST /v1/workers/{id}/heartbeat`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Every attempt the worker holds, finished ones whose report is not settled included.
    #[serde(default)]
    pub running: Vec<RunningTask>,
    /// How busy its machine is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

/// One attempt the worker confirms to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunningTask {
    /// The task.
    pub task: String,
    /// The lease.
    pub token: u64,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    pub progress: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 1000))]
    pub note: Option<String>,
}

/// How busy a worker's machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Share of all its processors in use, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_mb: Option<u64>,
}

/// Answer to [`Heartbeat`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeartbeatAnswer {
    /// Stop these: their tasks were cancelled.
    #[serde(default)]
    pub cancel: Vec<String>,
    /// Stop these: their leases are no longer this worker's.
    #[serde(default)]
    pub lost: Vec<String>,
    /// Take no more, finish what runs, leave.
    #[serde(default)]
    pub drain: bool,
    /// When the next one should follow: with many workers later than what they were told when they registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
}

/// Body of `POST /v1/workers/{id}/report`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Each is judged on its own.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10000))]
    pub results: Vec<TaskResult>,
}

/// How one attempt ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// The task.
    pub task: String,
    /// The lease it ran under.
    pub token: u64,
    /// Whether it did what it should.
    pub status: ReportStatus,
    /// When it succeeded; `null` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub result: Option<Box<RawValue>>,
    /// When it failed: an object, by custom with `type`, `message` and `traceback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
    /// When it failed: whether another attempt may fare better; true unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

/// See [`TaskResult::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReportStatus {
    /// With a `result`.
    Succeeded,
    /// With an `error`.
    Failed,
}

/// Answer to [`Report`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportAnswer {
    /// One per result sent, in order.
    pub results: Vec<Verdict>,
}

/// What became of one reported result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdict {
    /// The task.
    pub task: String,
    /// It is the task's result, or was already by this same lease.
    pub accepted: bool,
    /// Why it was not accepted: `stale_token`, `already_finished`, `not_found`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Answer to `DELETE /v1/workers/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaveAnswer {
    /// The worker that left.
    pub id: String,
    /// How many leases went back to their queues.
    #[serde(default)]
    pub returned: u64,
}

/// Whether a worker is to be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes leases.
    Live,
    /// It finishes what it has.
    Draining,
    /// It was silent for too long.
    Lost,
    /// It said goodbye.
    Left,
    /// It was set aside: it keeps what it runs and gets nothing more until it is resumed.
    Paused,
    /// Many tasks failed on it that others succeeded with: it gets nothing for a while.
    Quarantined,
    /// After a quarantine: it gets one task at a time, until one succeeds.
    Probation,
}

impl WorkerState {
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

/// A worker as shown and listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Worker {
    /// Its registration.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is to be counted on.
    pub state: WorkerState,
    /// While `quarantined`: when its probation begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_until: Option<Timestamp>,
    /// How many different tasks have failed on it since its last success; it counts to 5.
    #[serde(default)]
    pub failing: u64,
    /// Queues it takes from.
    #[serde(default)]
    pub queues: Vec<String>,
    /// What it can run.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Attempts at once.
    #[serde(default)]
    pub slots: u32,
    /// Attempts now.
    #[serde(default)]
    pub running: u32,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it has in all.
    #[serde(default)]
    pub resources: BTreeMap<String, u64>,
    /// How busy its machine is, by its last word to the leader.
    #[serde(default)]
    pub load: Option<Load>,
    /// When it registered.
    #[serde(default)]
    pub registered_at: Option<Timestamp>,
    /// How long ago the leader last heard of it; `null` where that is not known.
    #[serde(default)]
    pub silent_ms: Option<u64>,
}

/// Answer to `GET /v1/workers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerList {
    /// The page.
    pub workers: Vec<Worker>,
    /// Where the next page starts; `null` on the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// Query of `GET /v1/workers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct WorkersQuery {
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkerState>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// See [`Consistency`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}
