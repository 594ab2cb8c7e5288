//! Tasks: the unit a worker runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::after::After;
use super::backoff::Backoff;
use super::exec::ExecPayload;
use super::time::Timestamp;

/// One task of a submission. Only `kind` is required; every other field has a default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// `exec`, or the name of a function. The task waits until a worker accepts its kind.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub kind: String,
    /// Input for the worker. Default: `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Option<Box<RawValue>>,
    /// Name of the queue. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub queue: Option<String>,
    /// Priority from 0 to 9; higher runs first. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 9))]
    pub priority: Option<u8>,
    /// Minimum time in ms from submission to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Earliest start time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// Time in ms after submission at which the task ends as `expired` if it has not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub expires_ms: Option<u64>,
    /// Time limit of each attempt in ms. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub timeout_ms: Option<u64>,
    /// Maximum attempts that fail or time out. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_attempts: Option<u32>,
    /// Maximum attempts lost with their worker. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_losses: Option<u32>,
    /// Delay between a failed attempt and the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Requirements for the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Name of the task within the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub key: Option<String>,
    /// Tasks of the same job that must end first: a key, or an object that says how the task must end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<After>>,
    /// Key that at most one unfinished task of the cluster has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub unique_key: Option<String>,
    /// Behaviour if another unfinished task has the `unique_key`. Default: `refuse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_duplicate: Option<OnDuplicate>,
    /// Key of a group of tasks that share `concurrency_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub concurrency_key: Option<String>,
    /// Maximum concurrent tasks with the same `concurrency_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub concurrency_limit: Option<u32>,
    /// Arbitrary words to filter by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub tags: Option<Vec<String>>,
}

impl TaskSpec {
    /// Returns a task of this kind. All other fields have their defaults.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            ..Self::default()
        }
    }

    /// Returns a task that runs this command line.
    pub fn exec<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Self {
        let payload = ExecPayload {
            argv: argv.into_iter().map(Into::into).collect(),
            ..ExecPayload::default()
        };
        Self {
            payload: Some(payload.to_raw()),
            ..Self::new(super::exec::KIND)
        }
    }

    /// Returns the task with this payload.
    pub fn with_payload<T: Serialize + ?Sized>(
        mut self,
        payload: &T,
    ) -> Result<Self, serde_json::Error> {
        self.payload = Some(serde_json::value::to_raw_value(payload)?);
        Ok(self)
    }

    /// Returns the task in this queue.
    pub fn in_queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }
}

/// Requirements of a task for its worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Requires {
    /// Labels that the worker must have with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Amounts of resources that the task occupies during an attempt.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, u64>,
}

impl Requires {
    /// Returns whether there are no requirements, so that any worker may run the task.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.resources.is_empty()
    }
}

/// Behaviour for a task whose `unique_key` is taken: `refuse` refuses the submission, `return` returns the id of the
/// task that has the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// The submission is refused; the error names the task that has the key.
    #[default]
    Refuse,
    /// The id of the task that has the key is returned instead of a new one.
    Return,
}

/// State of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for other tasks of its job.
    Waiting,
    /// Waits for a time: a delay, or the back-off of a retry.
    Delayed,
    /// Waits for a worker.
    Queued,
    /// Leased to a worker.
    Running,
    /// Terminal: its one result is accepted.
    Succeeded,
    /// Terminal: its attempts are used up.
    Failed,
    /// Terminal: cancelled by a request, or by its job's policy.
    Cancelled,
    /// Terminal: not started in time.
    Expired,
}

impl TaskState {
    /// All states, in the order in which a task passes through them.
    pub const ALL: [TaskState; 8] = [
        TaskState::Waiting,
        TaskState::Delayed,
        TaskState::Queued,
        TaskState::Running,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Expired,
    ];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Waiting => "waiting",
            TaskState::Delayed => "delayed",
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
            TaskState::Expired => "expired",
        }
    }

    /// Returns whether the state is terminal: only a requested retry changes it.
    pub fn is_terminal(self) -> bool {
        match self {
            TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running => {
                false
            }
            TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired => true,
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One task. Unless `fields` names them, lists omit `payload`, `result`, `attempts` and `after`, and shorten `error` to
/// `{"type", "message"}` with at most 200 bytes of message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Task {
    /// Id of the task.
    pub id: String,
    /// Id of its job.
    pub job: String,
    /// Name of the task within the job.
    #[serde(default)]
    pub key: Option<String>,
    /// `exec`, or the name of a function.
    pub kind: String,
    /// Name of its queue.
    pub queue: String,
    /// State of the task.
    pub state: TaskState,
    /// Priority from 0 to 9; higher runs first.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub priority: u8,
    /// Number of the latest attempt; 0 before the first.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub attempt: u32,
    /// Maximum attempts that fail or time out.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub max_attempts: u32,
    /// Number of attempts that failed or timed out since submission or the last requested retry.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub failures: u32,
    /// Maximum attempts lost with their worker.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub max_losses: u32,
    /// Number of attempts lost since submission or the last requested retry.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub losses: u32,
    /// Id of the worker of the latest attempt.
    #[serde(default)]
    pub worker: Option<String>,
    /// Result of the accepted report; present only if the task succeeded.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub result: Option<Box<RawValue>>,
    /// Error of the failed task, or the reason for its cancellation if the end of another task caused it.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
    /// Time limit of each attempt in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Time at which a `delayed` task is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// Time at which the task expires if it has not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Requirements for the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Arbitrary words to filter by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Tasks of its job that must end first, each with its key and how it must end; present only in responses about a single task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// Key that no other unfinished task has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// Key of the group of tasks that share `concurrency_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Maximum concurrent tasks with its `concurrency_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// Progress of the running attempt, last reported by its worker, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// Note on the running attempt, last reported by its worker, for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Payload as submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Option<Box<RawValue>>,
    /// Time at which the submission was applied.
    pub created_at: Timestamp,
    /// Time at which the latest attempt was leased.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Time at which the task became terminal.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Errors of earlier attempts are shortened to `{"type", "message"}`, because all of them do not fit into one answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Attempts of the task, the oldest first; bounded to the latest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<Attempt>>,
}

/// One run of a task by one worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Id of the worker that ran it.
    pub worker: String,
    /// Fencing token of its lease.
    pub token: u64,
    /// Time at which it was leased.
    pub started_at: Timestamp,
    /// Time at which its lease ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Outcome of the attempt; `null` while it runs.
    #[serde(default)]
    pub outcome: Option<AttemptOutcome>,
    /// Error of the attempt, if it failed.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
}

/// Outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Its report was accepted as the task's result.
    Succeeded,
    /// Its worker reported a failure.
    Failed,
    /// It exceeded its time limit without a report from its worker.
    TimedOut,
    /// Its worker was lost, or did not confirm the lease in time.
    Lost,
    /// Its worker handed it back, or never received it.
    Returned,
    /// Its task was cancelled during the attempt.
    Cancelled,
}

impl AttemptOutcome {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::TimedOut => "timed_out",
            AttemptOutcome::Lost => "lost",
            AttemptOutcome::Returned => "returned",
            AttemptOutcome::Cancelled => "cancelled",
        }
    }
}

/// One page of tasks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskList {
    /// Tasks of the page, in the order of submission.
    pub tasks: Vec<Task>,
    /// Cursor of the next page; `null` on the last one.
    #[serde(default)]
    pub next: Option<String>,
    /// Number of all tasks that match, on all pages. Present if the query asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Filters that select tasks; at least one is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskSelection {
    /// Only tasks of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Only tasks in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Only tasks of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only tasks whose latest attempt is by this worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Only tasks of this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Only tasks with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only tasks of jobs with exactly this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only tasks of jobs that ticks of this schedule submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Only tasks whose error has this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// Only tasks submitted at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_after: Option<Timestamp>,
    /// Only tasks submitted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_before: Option<Timestamp>,
    /// Only tasks finished at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_after: Option<Timestamp>,
    /// Only tasks finished before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_before: Option<Timestamp>,
    /// Whether to change nothing, and only count what would be changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Body of `POST /v1/tasks/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AwaitedTasks {
    /// Ids of the tasks, without duplicates.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10000))]
    pub tasks: Vec<String>,
}

/// Response of `POST /v1/tasks/wait`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndedTasks {
    /// Those of the tasks that are terminal, in the order of the request.
    pub ended: Vec<EndedTask>,
    /// Ids of tasks that do not exist, or no longer.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub missing: Vec<String>,
    /// Whether more of the tasks are terminal than fit into one response; request the others again.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub more: bool,
}

/// End of one task.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndedTask {
    /// Id of the task.
    pub id: String,
    /// Terminal state of the task.
    pub state: TaskState,
    /// Result of the accepted report; present only if the task succeeded.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub result: Option<Box<RawValue>>,
    /// Error of the failed task, or the reason for its cancellation if the end of another task caused it.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
}

/// Response to a bulk operation on tasks or jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Swept {
    /// Number of tasks or jobs that were changed.
    pub count: u64,
}

/// Response of `GET /v1/tasks/{id}/explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// Id of the task.
    pub task: String,
    /// State of the task.
    pub state: TaskState,
    /// All reasons in one sentence.
    pub summary: String,
    /// All reasons why the task does not run. Each must be resolved before it can start.
    pub reasons: Vec<Reason>,
}

/// One reason why a task does not run. The code determines which fields are present.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reason {
    /// Stable code: `finished`, `running`, `dependencies`, `jobs`, `delayed`, `backoff`, `queue_paused`, `queue_max_running`,
    /// `queue_rate`, `concurrency_key`, `no_worker`, `no_worker_for_queue`, `no_worker_for_kind`,
    /// `no_worker_with_labels`, `no_worker_with_resources`, `workers_busy` or `ready`.
    pub code: String,
    /// Description of the reason for readers.
    pub message: String,
    /// Time at which the reason ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Ids of the first tasks that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<String>>,
    /// Ids of the jobs that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Vec<String>>,
    /// The concurrency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The limit that is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Number of tasks, or of workers, that the reason concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Id of the worker that runs the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{TaskSpec, TaskState};

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<TaskSpec>(r#"{"kind":"exec","retries":3}"#)
            .expect_err("unknown field");
        assert!(
            error.to_string().contains("unknown field `retries`"),
            "{error}"
        );
    }

    #[test]
    fn a_payload_is_kept_to_the_byte() {
        let text = r#"{"kind":"f","payload":{ "b" : 1.0,  "a":12345678901234567890123 }}"#;
        let spec: TaskSpec = serde_json::from_str(text).expect("valid");
        let payload = spec.payload.expect("given");
        assert_eq!(
            payload.get(),
            r#"{ "b" : 1.0,  "a":12345678901234567890123 }"#
        );
    }

    #[test]
    fn words_on_the_wire_match_their_names() {
        for state in TaskState::ALL {
            assert_eq!(
                serde_json::to_string(&state).expect("plain"),
                format!("\"{}\"", state.as_str())
            );
        }
    }
}
